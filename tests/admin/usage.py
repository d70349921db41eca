#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Wrong use of every verb, taken from the table (`tessera --json help`): missing, extra, empty and malformed arguments, unknown
options, options without value, with a value too much, malformed or out of range; and no daemon, or one that may not be asked.

Each must end with the documented status and exactly one line on stderr that names the verb and says what to do, nothing on stdout.
Whether a daemon stayed as it was is looked at by tests/cluster/60-usage.sh, which gives the socket of a real one.

usage: usage.py TESSERA BUILD [--socket PATH] [--self-test]
"""
import json
import os
import socket
import subprocess
import sys
import tempfile

REMEDY = ("see ", "usage:", "use ", "write ", "needs ", "takes no", "must be", "start it", "lists them", "type ", "yes-i-know", "run as root")
GOOD = {"NAME": "nosuchfs", "URL": "file:///nonexistent/disk", "DIRECTORY": "/nonexistent/dir", "NODE": "77", "N": "1", "KEY": "port",
        "VALUE": "1", "VERB": "status", "PAGE": "tessera", "POINT": "read.before_pin", "...": "", "FILE": "/nonexistent/file"}
BAD = {"NAME": ["../x", "a b", "x" * 64, "ä"], "URL": ["nonsense", "://x"], "DIRECTORY": [], "NODE": ["0", "256", "-1", "x", "1x", "99999999999999999999"],
       "N": ["x", "-1"], "ADDRESS": ["x", "10.0.0", "10.0.0.256", "host.example", "::1"]}


def words(args):
    """Usage words of a verb: [(alternatives, optional)], and whether the last repeats."""
    out, repeat = [], False
    for w in args.split():
        if w.strip("[]") == "...":
            repeat = True
            continue
        bare = w.strip("[]")
        if bare.endswith("..."):
            bare, repeat = bare[:-3], True
        out.append((bare.strip("[]").split("|"), w.startswith("[")))
    return out, repeat


def good_args(v):
    ws, _ = words(v["args"])
    out = []
    for alts, _ in ws:
        if len(out) < v["min_args"]:
            out.append(GOOD.get(alts[0], alts[0]))
    while len(out) < v["min_args"]:
        out.append(out[-1] if out else "x")
    return out


def bad_value(o):
    """Values that are out of range or malformed for an option with a range."""
    out = ["x", "", "-1", "1.5", "99999999999999999999"]
    if o["min"] > 0:
        out.append(str(o["min"] - 1))
    if o["max"] < (1 << 62):
        out.append(str(o["max"] + 1))
    if o["pow2"]:
        out.append(str(o["min"] + 1))
    return out


def cases(table):
    """(what, argv, expected status) for every verb."""
    for v in table["verbs"]:
        name = v["verb"].split()
        if v["where"] == "exec":
            continue
        good = good_args(v)
        ws, repeat = words(v["args"])
        if v["min_args"]:
            yield "missing", name + good[:v["min_args"] - 1], 2
        if v["max_args"] < 100:
            yield "extra", name + good + ["x"] * (v["max_args"] - len(good) + 1), 2
        yield "unknown option", name + good + ["--no-such-option"], 2
        yield "unknown letter", name + good + ["-Q"], 2
        for i, (alts, _) in enumerate(ws):
            if i >= v["max_args"]:
                continue
            base = good + [GOOD.get(a[0], a[0]) for a, _ in ws[len(good):i]]
            filled = base + [""] * (i + 1 - len(base))
            tries = [""]
            if all(a.islower() for a in alts):
                tries.append("frobnicate")
            elif len(alts) == 1:
                tries += BAD.get(alts[0], [])
            for t in tries:
                argv = list(filled)
                argv[i] = t
                yield "argument %d '%s'" % (i + 1, t[:20]), name + ["--"] + argv, 2
        for o in v["options"]:
            if "value" in o:
                yield "--%s without value" % o["name"], name + good + ["--" + o["name"]], 2
            else:
                yield "--%s with a value" % o["name"], name + good + ["--%s=1" % o["name"]], 2
            if "min" in o:
                for b in bad_value(o):
                    yield "--%s %s" % (o["name"], b), name + good + ["--%s=%s" % (o["name"], b)], 2
        if not v["looks"] or v["where"] != "daemon":
            yield "--watch of what changes something", ["--watch", "1"] + name + good, 2
        if not v["routed"]:
            yield "--node of what is for this node", ["--node", "all"] + name + good, 2
        else:
            for n in ("0", "256", "x", "1,,2", ""):
                yield "--node '%s'" % n, ["--node", n] + name + good, 2
    yield "no verb", ["--json"], 2
    yield "unknown verb", ["frobnicate"], 2
    yield "unknown option", ["--frobnicate", "status"], 2
    yield "--socket without value", ["--socket"], 2


def run(tessera, argv, sock):
    env = dict(os.environ, TESSERA_SOCKET=sock, LC_ALL="C.UTF-8")
    p = subprocess.run([tessera] + argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return p.returncode, p.stdout, p.stderr


def judge(what, argv, want, rc, out, err):
    said = "tessera %s [%s]" % (" ".join(a if len(a) < 40 else a[:37] + "..." for a in argv), what)
    faults = []
    if rc != want:
        faults.append("%s: status %d, expected %d: %s" % (said, rc, want, err.strip()[:200]))
    if err.count("\n") != 1 and what != "no verb":
        faults.append("%s: %d lines on stderr, expected one: %s" % (said, err.count("\n"), err[:200]))
    if out and what != "no verb":
        faults.append("%s: said something on stdout: %s" % (said, out[:80]))
    if what != "no verb" and not any(r in err for r in REMEDY):
        faults.append("%s: no remedy in: %s" % (said, err.strip()))
    return faults


def raw(table, sock):
    """The same and worse, past the command: straight to a real daemon, which must find it out itself. Yields faults."""
    def ask(req):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(30)
        s.connect(sock)
        s.sendall(json.dumps(req).encode() + b"\n")
        line = b""
        while not line.endswith(b"\n"):
            got = s.recv(65536)
            if not got:
                break
            line += got
        s.close()
        return json.loads(line)
    n = 0
    for v in table["verbs"]:
        if v["where"] != "daemon":
            continue
        good, tries = good_args(v), []
        ws, _ = words(v["args"])
        if v["min_args"]:
            tries.append((good[:-1], {}))
        if v["max_args"] < 100:
            tries.append((good + ["x"] * (v["max_args"] - len(good) + 1), {}))
        tries += [(good, {"no-such-option": True}), (good, {"no-such-option": "x"})]
        for i, (alts, _) in enumerate(ws):
            if i < len(good):
                bad = ["", 7, None, ["x"]] + (["frobnicate"] if all(a.islower() for a in alts) else BAD.get(alts[0], []) if len(alts) == 1 else [])
                tries += [(good[:i] + [b] + good[i + 1:], {}) for b in bad]
        for o in v["options"]:
            tries.append((good, {o["name"]: 7}))
            tries.append((good, {o["name"]: True if "value" in o else "x"}))
            if "min" in o:
                tries += [(good, {o["name"]: b}) for b in bad_value(o)]
        for pos, opt in tries:
            n += 1
            a = ask({"verb": v["verb"], "pos": pos, "opt": opt})
            if a.get("ok") is not False or a.get("errno") != 22 or not a.get("error") or "\n" in a["error"]:
                yield "raw %s %r %r: expected errno 22 and one line, got %r" % (v["verb"], pos, opt, a)
        if not v["routed"]:
            n += 1
            a = ask({"verb": v["verb"], "pos": good, "opt": {}, "nodes": "all"})
            if a.get("ok") is not False or a.get("errno") != 22:
                yield "raw %s on all nodes: expected errno 22, got %r" % (v["verb"], a)
    for req in ({"verb": "sandbox", "pos": [], "opt": {}}, {"verb": "top", "pos": [], "opt": {}}, {"verb": "status", "pos": {}, "opt": {}}, {"verb": "status"},
                {"verb": "status", "pos": [], "opt": {}, "nodes": 7}, {"verb": "status", "pos": [], "opt": {}, "nodes": "0"}, 7, [], "x"):
        n += 1
        if ask(req).get("ok") is not False:
            yield "raw %r: not refused" % (req,)
    print("%d requests past the command" % n)


def main():
    args = [a for a in sys.argv[1:] if a != "--self-test"]
    sock = args[args.index("--socket") + 1] if "--socket" in args else None
    tessera = args[0]
    table = json.loads(subprocess.run([tessera, "--json", "help"], capture_output=True, text=True, check=True).stdout)
    faults, count = [], 0
    with tempfile.TemporaryDirectory() as tmp:
        gone = os.path.join(tmp, "gone.sock")
        for what, argv, want in cases(table):
            count += 1
            faults += judge(what, argv, want, *run(tessera, argv, sock or gone))
        for v in table["verbs"]:  # no daemon, and a socket that is not for us
            if v["where"] != "daemon":
                continue
            argv = v["verb"].split() + good_args(v)
            count += 1
            faults += judge("no daemon", argv, 3, *run(tessera, argv, gone))
            if os.getuid() != 0:
                shut = os.path.join(tmp, "shut.sock")
                if not os.path.exists(shut):
                    s = socket.socket(socket.AF_UNIX)
                    s.bind(shut)
                    s.listen(1)
                    os.chmod(shut, 0)
                count += 1
                faults += judge("not permitted", argv, 5, *run(tessera, argv, shut))
    if sock:
        faults += raw(table, sock)
    # A checker that cannot fail: each of these must be seen.
    for rc, out, err in ((0, "", "tessera: x; see y\n"), (2, "", "tessera: x\n"), (2, "", "a; see b\nc\n"), (2, "z", "x; see y\n"), (2, "", "")):
        count += 1
        if not judge("planted", ["x"], 2, rc, out, err):
            faults.append("planted fault not seen: %r" % ((rc, out, err),))
    for f in faults:
        print(f)
    print("%d cases of %d verbs, %d faults" % (count, len(table["verbs"]), len(faults)))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
