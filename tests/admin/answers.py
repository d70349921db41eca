#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every verb that only looks, asked of a real daemon: its --json answer must fit its schema, and how long it took is printed, with and
without --node all. The text for people is asked for, too: no control character in a pipe.

usage: answers.py TESSERA SOCKET FS NODE [--alone]   (FS is mounted there; NODE is one that is known; --alone: no other node is asked)
"""
import json
import subprocess
import sys
import time


def fits(x, s, path=""):
    """Faults of x against a schema (the part of JSON Schema that the table makes)."""
    t = s.get("type")
    ok = {None: True, "string": isinstance(x, str), "integer": isinstance(x, int) and not isinstance(x, bool), "number": isinstance(x, (int, float)),
          "boolean": isinstance(x, bool), "array": isinstance(x, list), "object": isinstance(x, dict)}[t]
    if not ok:
        return ["%s: %r is no %s" % (path or "answer", x, t)]
    out = []
    if t == "array":
        for i, e in enumerate(x):
            out += fits(e, s["items"], "%s[%d]" % (path, i))
    if t == "object":
        out += ["%s.%s: missing" % (path, k) for k in s.get("required", []) if k not in x]
        for k, v in s.get("properties", {}).items():
            if k in x:
                out += fits(x[k], v, path + "." + k)
    return out


def run(argv):
    begun = time.monotonic()
    p = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    return p, (time.monotonic() - begun) * 1000


def main():
    tessera, sock, fs, node = sys.argv[1:5]
    words = {"NAME": fs, "NODE": node, "KEY": "port", "POOL": "system", "PATH": fs + ":1", "fs|mount|node|disk": "fs"}
    table = json.loads(run([tessera, "--json", "help"])[0].stdout)
    schemas = json.loads(run([tessera, "schema"])[0].stdout)
    faults, worst = [], 0
    for v in table["verbs"]:
        if v["where"] != "daemon" or not v["looks"]:
            continue
        args = [words[w] for w in v["args"].split() if not w.startswith("[")]
        times = {}
        for extra in ([], ["--node", "all"] if v["routed"] and "--alone" not in sys.argv else None):
            if extra is None:
                continue
            p, ms = run([tessera, "--socket", sock, "--json"] + extra + v["verb"].split() + args)
            if p.returncode not in (0, 20, 21, 22):
                faults.append("%s %s: status %d: %s" % (v["verb"], extra, p.returncode, p.stderr.strip()))
                continue
            answer = json.loads(p.stdout)
            for a in ([x["data"] for x in answer] if extra else [answer]):
                faults += ["%s: %s" % (v["verb"], f) for f in fits(a, schemas[v["verb"]])[:3]]
            times["all" if extra else "one"] = ms
            worst = max(worst, ms)
        p, _ = run([tessera, "--socket", sock] + v["verb"].split() + args)
        if any(ord(c) < 32 and c != "\n" for c in p.stdout):
            faults.append("%s: control characters in a pipe: %r" % (v["verb"], p.stdout[:200]))
        print("   %-18s %6.1f ms   all nodes %s" % (v["verb"], times.get("one", 0), "%6.1f ms" % times["all"] if "all" in times else "-"))
    print("   slowest %.0f ms" % worst)
    for bad, s in ((7, "string"), ("x", "integer"), (True, "integer"), ([], "object")):  # planted: must be seen
        if not fits(bad, {"type": s}):
            faults.append("planted: %r passes for %s" % (bad, s))
    if not fits({"a": 1}, {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]}):
        faults.append("planted: a missing key is not seen")
    for f in faults:
        print(f)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
