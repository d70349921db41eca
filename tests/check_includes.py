#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The law of the house: lib < {nsd, net} < quorum < dlm < tokens < fs < fuse < admin.

Draws the graph of includes of all C sources and fails on an arrow that points upwards or between
nsd and net, on a cycle among folders, on a quoted include that is not written from the root of the
repository or names no file, and on one that names the `_int.h` of another folder. tests/ may include
anything. `--self-test` plants each of these faults in a temporary tree and must see every one; a
checker that cannot fail must never be trusted.

usage: check_includes.py [--self-test] [ROOT]
"""
import os
import re
import sys
import tempfile

LEVEL = {"lib": 0, "nsd": 1, "net": 1, "quorum": 2, "dlm": 3, "tokens": 4, "fs": 5, "fuse": 6, "admin": 7}
QUOTED = re.compile(r'^\s*#\s*include\s*"([^"]*)"')


def sources(root):
    for folder in LEVEL:
        for base, _, names in os.walk(os.path.join(root, folder)):
            for name in sorted(names):
                if name.endswith((".c", ".h", ".inc", ".S")):
                    yield folder, os.path.join(base, name)


def cycle(arrows):
    """A cycle among folders as a list of names, or None. `arrows` maps a folder to the ones it includes."""
    state, path = {}, []

    def walk(folder):
        state[folder] = 1
        path.append(folder)
        for to in sorted(arrows.get(folder, ())):
            if state.get(to) == 1:
                return path[path.index(to):] + [to]
            if to not in state:
                found = walk(to)
                if found:
                    return found
        path.pop()
        state[folder] = 2
        return None

    for folder in sorted(arrows):
        if folder not in state:
            found = walk(folder)
            if found:
                return found
    return None


def check(root):
    faults, arrows, count = [], {}, 0
    for folder, path in sources(root):
        count += 1
        with open(path, encoding="utf-8", errors="replace") as f:
            lines = f.readlines()
        for number, line in enumerate(lines, 1):
            m = QUOTED.match(line)
            if not m:
                continue
            target, where = m.group(1), "%s:%d" % (os.path.relpath(path, root), number)
            to = target.split("/")[0]
            if to == "tests":
                faults.append("%s: includes \"%s\": the product must not need tests/" % (where, target))
                continue
            if to not in LEVEL or "/" not in target or ".." in target.split("/"):
                faults.append("%s: includes \"%s\": write it from the root, as \"folder/file.h\"" % (where, target))
                continue
            if not os.path.exists(os.path.join(root, target)):
                faults.append("%s: includes \"%s\": there is no such file" % (where, target))
            if to == folder:
                continue
            arrows.setdefault(folder, set()).add(to)
            if LEVEL[to] > LEVEL[folder]:
                faults.append("%s: includes \"%s\": %s/ is above %s/" % (where, target, to, folder))
            elif LEVEL[to] == LEVEL[folder]:
                faults.append("%s: includes \"%s\": %s/ and %s/ are beside each other" % (where, target, to, folder))
            if target.endswith("_int.h"):
                faults.append("%s: includes \"%s\": that header is internal to %s/" % (where, target, to))
    found = cycle(arrows)
    if found:
        faults.append("folders include each other in a circle: %s" % " -> ".join(found))
    return faults, count


def self_test():
    good = {"lib/lib.h": "", "lib/lib_int.h": "", "nsd/nsd.h": '#include "lib/lib.h"\n', "net/net.h": "",
            "lib/a.c": '#include <stdio.h>\n#include "lib/lib_int.h"\n', "fs/fs.h": '#include "nsd/nsd.h"\n'}
    planted = [
        ("an arrow upwards", {"lib/bad.c": '#include "nsd/nsd.h"\n'}, "is above"),
        ("an arrow sideways", {"nsd/bad.c": '# include "net/net.h"\n'}, "beside each other"),
        ("a cycle", {"nsd/bad.c": '#include "fs/fs.h"\n'}, "in a circle"),
        ("a foreign internal header", {"fs/bad.c": '#include "lib/lib_int.h"\n'}, "internal to"),
        ("a relative include", {"fs/sub/bad.c": '#include "../fs.h"\n'}, "from the root"),
        ("a bare name", {"fs/bad.c": '#include "fs.h"\n'}, "from the root"),
        ("a missing file", {"fs/bad.c": '#include "lib/gone.h"\n'}, "no such file"),
        ("the tests", {"fs/bad.c": '#include "tests/unit/t.h"\n'}, "must not need tests"),
        ("nothing", {}, None),
    ]
    failed = 0
    for what, extra, expected in planted:
        with tempfile.TemporaryDirectory() as root:
            for name, text in {**good, **extra}.items():
                os.makedirs(os.path.dirname(os.path.join(root, name)), exist_ok=True)
                with open(os.path.join(root, name), "w", encoding="utf-8") as f:
                    f.write(text)
            faults, _ = check(root)
        ok = any(expected in f for f in faults) if expected else not faults
        if not ok:
            failed += 1
            print("self-test: planted %s: expected %r, got %r" % (what, expected or "no fault", faults))
    if not failed:
        print("include law: self-test ok, %d plants" % len(planted))
    return failed


def main():
    args = sys.argv[1:]
    if args and args[0] == "--self-test":
        return 1 if self_test() else 0
    root = args[0] if args else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    faults, count = check(os.path.abspath(root))
    for fault in faults:
        print(fault)
    if not faults:
        print("include law: ok, %d files" % count)
    return 1 if faults else 0


sys.exit(main())
