#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""docs/hazards.md names rules, places and tests: do they exist?

Each number from H01 to H60 has exactly one row. In backquotes, `folder/file` is a file of this tree and
`folder/file:word` a word in it. A row without a test ("–" in its last column) is told under "Gaps", and so is
every number there a row. `--self-test` plants each of these faults in the page and must see every one.

usage: check_docs.py [--self-test] [ROOT]
"""
import os
import re
import sys

PAGE = "docs/hazards.md"
ROW = re.compile(r"^\| (H\d\d) \|(.*)\|$")
NAMED = re.compile(r"`([a-z_]+/[A-Za-z0-9_./-]*|[a-zA-Z0-9_]+\.(?:c|h|py|sh|md))(?::([A-Za-z0-9_.-]+))?`")
ALL = [f"H{i:02}" for i in range(1, 61)]


def check_names(root, text):
    faults = []
    for path, word in sorted(set(NAMED.findall(text))):
        full = os.path.join(root, path)
        if not os.path.exists(full):
            faults.append(f"{path}: named, and not there")
            continue
        if not word:
            continue
        with open(full, encoding="utf-8", errors="replace") as f:
            if not re.search(r"(?<![A-Za-z0-9_])" + re.escape(word) + r"(?![A-Za-z0-9_])", f.read()):
                faults.append(f"{path}: has no '{word}'")
    return faults


def check(root, text):
    table, _, gaps = text.partition("\n## Gaps\n")
    faults, untested, seen = check_names(root, text), [], []
    if not gaps:
        faults.append("no section 'Gaps'")
    for line in table.splitlines():
        m = ROW.match(line)
        if not m:
            continue
        seen.append(m.group(1))
        cells = [c.strip() for c in m.group(2).split("|")]
        if len(cells) != 4 or not all(cells):
            faults.append(f"{m.group(1)}: {len(cells)} columns beside the number, or an empty one")
        elif cells[3] == "–":
            untested.append(m.group(1))
        elif not NAMED.search(cells[3]):
            faults.append(f"{m.group(1)}: the last column names no test")
    for h in ALL:
        if seen.count(h) != 1:
            faults.append(f"{h}: {seen.count(h)} rows")
    told = set(re.findall(r"H\d\d", gaps))
    faults += [f"{h}: no test, and not among the gaps" for h in untested if h not in told]
    faults += [f"{h}: a gap of no row" for h in sorted(told - set(seen))]
    return faults


def self_test(root, text):
    plants = {
        "a file that is not there": ("`fs/take.c`", "`fs/tale.c`"),
        "a test that is not there": ("`tests/unit/fs_alloc_test.c:double_free`", "`tests/unit/fs_alloc_test.c:double_fre`"),
        "a row lost": ("| H33 |", "| no |"),
        "a row twice": ("| H33 |", "| H34 |"),
        "a row without a column": ("| H49 | ", "| H49 | | "),
        "an untested row that is no gap": ("- **H05**", "- **H06**"),
        "a gap of no row": ("- **H05**", "- **H05, H61**"),
        "no gaps told": ("## Gaps", "## Holes"),
        "words for a test": ("`tests/posix/t_perm.c`, `tests/posix/t_acl.c`", "by hand"),
    }
    missed = []
    for what, (old, new) in plants.items():
        if old not in text:
            missed.append(f"{what}: nothing to plant it in")
        elif len(check(root, text.replace(old, new))) <= len(check(root, text)):
            missed.append(f"{what}: planted, not seen")
    return missed


def main():
    args = [a for a in sys.argv[1:] if a != "--self-test"]
    root = args[0] if args else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    with open(os.path.join(root, PAGE), encoding="utf-8") as f:
        text = f.read()
    faults = self_test(root, text) if "--self-test" in sys.argv else check(root, text)
    for fault in faults:
        print(f"{PAGE}: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
