#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What is made from the table: manual pages render without a warning (groff's man, and mandoc -Tlint where it is installed), every verb,
option and configuration key is in them; both completions are valid shell and offer every verb; every schema is well formed.

usage: docs_made.py TESSERA BUILD
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile


def sh(*argv, **kw):
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, **kw)


def lint(path):
    """Complaints of groff and mandoc about one page."""
    out = []
    env = dict(os.environ, LC_ALL="C.UTF-8", MANWIDTH="100")
    p = sh("groff", "-man", "-Tutf8", "-ww", "-z", path, env=env)
    out += ["groff: " + line for line in p.stderr.splitlines()]
    if shutil.which("mandoc"):
        p = sh("mandoc", "-Tlint", "-Wwarning", path)
        out += ["mandoc: " + line for line in (p.stdout + p.stderr).splitlines()]
    return out


def text_of(path):
    p = sh("groff", "-man", "-Tascii", "-P-c", "-rLL=300n", path)
    return re.sub(r".\x08", "", p.stdout)


def complete_bash(script, line):
    words = line.split(" ")
    code = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _tessera; printf "%s\\n" "${COMPREPLY[@]}"'
    p = sh("bash", "-c", code, "bash", script, *words)
    return p.stdout.split(), p.stderr


def main():
    tessera, build = sys.argv[1:3]
    faults = []
    table = json.loads(sh(tessera, "--json", "help").stdout)
    verbs = [v["verb"] for v in table["verbs"]]
    if not shutil.which("groff"):
        print("skipped: groff is not installed (package groff-base)")
        return 77

    pages = {}
    for d in ("man5", "man8"):
        for f in sorted(os.listdir(os.path.join(build, "man", d))):
            path = os.path.join(build, "man", d, f)
            pages[f] = text_of(path)
            faults += ["%s: %s" % (f, c) for c in lint(path)]
    for v in table["verbs"]:
        first = v["verb"].split()[0]
        page = pages.get("tessera-%s.8" % first if " " in v["verb"] else "tessera.8", "")
        if "tessera " + v["verb"] not in page:
            faults.append("%s: not in its page" % v["verb"])
        for o in v["options"]:
            if "--" + o["name"] not in page:
                faults.append("%s: option --%s not in its page" % (v["verb"], o["name"]))
    for need in ("tesserad.8", "mount.tessera.8", "tesserad.conf.5"):
        if need not in pages:
            faults.append("%s: there is no such page" % need)
    for key in ("cluster_name", "page_pool", "lease_ms", "metrics", "hooks_dir"):
        if key not in pages["tesserad.conf.5"]:
            faults.append("tesserad.conf.5: key %s is missing" % key)

    bash = os.path.join(build, "completion/bash/tessera")
    zsh = os.path.join(build, "completion/zsh/_tessera")
    faults += ["bash: " + x for x in sh("bash", "-n", bash).stderr.splitlines()]
    if shutil.which("zsh"):
        faults += ["zsh: " + x for x in sh("zsh", "-n", zsh).stderr.splitlines()]
        code = 'w= o=; compdef() { :; }; source "$1"; _tessera_words diag; print -- $w'
        p = sh("zsh", "-f", "-c", code, "zsh", zsh)
        if "waiters" not in p.stdout.split() or p.stderr:
            faults.append("zsh: after 'diag': %s %s" % (p.stdout.strip(), p.stderr.strip()))
    for v in verbs:
        w = v.split()
        got, err = complete_bash(bash, "tessera " + " ".join(w[:-1] + [w[-1][:1]]))
        if w[-1] not in got or err:
            faults.append("bash: '%s' is not offered: %s %s" % (v, got, err.strip()))
    for v in table["verbs"]:
        got, _ = complete_bash(bash, "tessera " + v["verb"] + " --")
        for o in v["options"]:
            if "--" + o["name"] not in got:
                faults.append("bash: %s: --%s is not offered: %s" % (v["verb"], o["name"], got))
    got, _ = complete_bash(bash, "tessera --json --node 2 diag wait")
    if got != ["waiters"]:
        faults.append("bash: options in front of the verb: %s" % got)

    schemas = json.loads(sh(tessera, "schema").stdout)
    for v in table["verbs"]:
        if v["where"] == "daemon" and v["looks"] and v["verb"] not in schemas:
            faults.append("%s: no schema of its answer" % v["verb"])
    faults += ["%s: malformed description of its answer" % v for v, s in schemas.items() if s is None]

    # Planted: a page with an unknown request and text that begins with a dot must be seen.
    with tempfile.NamedTemporaryFile("w", suffix=".8") as f:
        f.write('.TH X 8 "2026-11-26"\n.SH NAME\nx \\- y\n.nosuchrequest z\n.SS\n')
        f.flush()
        if not lint(f.name):
            faults.append("planted: a bad page was not seen")
    for x in faults:
        print(x)
    print("%d pages, %d verbs, %d schemas, %d faults" % (len(pages), len(verbs), len(schemas), len(faults)))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
