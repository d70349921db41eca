#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Commands in the guides: docs/admin-guide.md, docs/troubleshooting.md, docs/from-gpfs.md.

  docs_commands.py TESSERA BUILD   every `tessera ...` there, in text, tables and blocks, is a verb of the table with options that it has and
                                   as many arguments as it takes; every block of shell is run by a test or said to be none
  docs_commands.py --blocks TOP    the lines of all runnable blocks, one a line: FILE:LINE<tab>COMMAND
"""
import json
import os
import re
import shlex
import subprocess
import sys

PAGES = ("admin-guide.md", "troubleshooting.md", "from-gpfs.md")
COMMON = {"--json": 0, "--socket": 1, "--node": 1, "--watch": 0, "--help": 0}


def blocks(text):
    """(line number, info string, line) of everything in fenced blocks."""
    info = None
    for i, line in enumerate(text.split("\n"), 1):
        if line.startswith("```"):
            info = line[3:].strip() if info is None else None
        elif info is not None and line.strip():
            yield i, info, line


def outside(text):
    """(line number, command) of what stands in backquotes outside of blocks."""
    inside = False
    for i, line in enumerate(text.split("\n"), 1):
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            for m in re.finditer(r"`(tessera [^`]*)`", line):
                yield i, m.group(1)


def fault(cmd, table):
    """What is wrong with one command, or None."""
    words = shlex.split(cmd.split("||")[0].split(" | ")[0])
    if not words or words[0] != "tessera":
        return None
    words, i = words[1:], 0
    while i < len(words) and words[i].startswith("-"):
        if words[i].split("=")[0] not in COMMON:
            return "unknown option %s" % words[i]
        i += 1 + (COMMON[words[i].split("=")[0]] if "=" not in words[i] else 0)
    words = words[i:]
    found = [v for v in table if words[:len(v["verb"].split())] == v["verb"].split()]
    if not words and not found:
        return None  # `tessera` with options only
    if not found:
        return "unknown verb '%s'" % " ".join(words[:2])
    v, rest, args = found[0], words[len(found[0]["verb"].split()):], 0
    opts = {"--" + o["name"]: "value" in o for o in v["options"]}
    i = 0
    while i < len(rest):
        if rest[i].startswith("--"):
            name = rest[i].split("=")[0]
            if name not in opts and name not in COMMON:
                return "%s has no option %s" % (v["verb"], name)
            takes = opts.get(name, COMMON.get(name))
            i += 1 if takes and "=" not in rest[i] else 0
        else:
            args += 1
        i += 1
    if args > v["max_args"]:
        return "%s takes no %d arguments" % (v["verb"], args)
    return None


def main():
    if sys.argv[1] == "--blocks":
        for p in PAGES:
            with open(os.path.join(sys.argv[2], "docs", p), encoding="utf-8") as f:
                for i, info, line in blocks(f.read()):
                    if info == "sh run":
                        print("%s:%d\t%s" % (p, i, line))
        return 0
    top = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
    table = json.loads(subprocess.run([sys.argv[1], "--json", "help"], capture_output=True, text=True, check=True).stdout)["verbs"]
    faults, count = [], 0
    for p in PAGES:
        with open(os.path.join(top, "docs", p), encoding="utf-8") as f:
            text = f.read()
        for i, cmd in list(outside(text)) + [(i, line) for i, info, line in blocks(text) if info == "sh run"]:
            count += 1
            bad = fault(cmd, table)
            if bad:
                faults.append("%s:%d: %s: %s" % (p, i, cmd, bad))
        faults += ["%s:%d: a block of shell that no test runs" % (p, i) for i, info, line in blocks(text) if info in ("sh", "bash", "")]
    for cmd in ("tessera frobnicate", "tessera status --no-such", "tessera --no-such status", "tessera fs df a b", "tessera fs frob"):
        if not fault(cmd, table):
            faults.append("planted and not seen: %s" % cmd)
    for x in faults:
        print(x)
    print("%d commands in %d guides, %d faults" % (count, len(PAGES), len(faults)))
    return 1 if faults or not count else 0


if __name__ == "__main__":
    sys.exit(main())
