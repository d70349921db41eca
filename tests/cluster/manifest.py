#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints one line for everything in a tree: kind, mode, owner, size, mtime, link target, checksum.

Hard links are shown as groups (the first name of the file), so two trees with the same content give the
same lines wherever they lie. What must never happen: two different trees with equal manifests, or an
error while reading that passes for a shorter tree.
"""
import hashlib
import os
import stat
import sys


def line(root, rel, groups):
    path = os.path.join(root, rel)
    st = os.lstat(path)
    mode = st.st_mode
    common = "%s %s %04o %d:%d" % (rel, stat.filemode(mode)[0], stat.S_IMODE(mode), st.st_uid, st.st_gid)
    mtime = "%d.%09d" % (st.st_mtime_ns // 10**9, st.st_mtime_ns % 10**9)
    if stat.S_ISDIR(mode):
        return "%s %s" % (common, mtime)
    if stat.S_ISLNK(mode):
        return "%s %d %s -> %s" % (common, st.st_size, mtime, os.readlink(path))
    if not stat.S_ISREG(mode):
        return "%s %x" % (common, st.st_rdev)
    first = groups.setdefault((st.st_dev, st.st_ino), rel)
    if first != rel:
        return "%s hard link to %s" % (common, first)
    digest, size = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as f:
        while True:
            part = f.read(1 << 20)
            if not part:
                break
            size += len(part)
            digest.update(part)
    if size != st.st_size:
        raise RuntimeError("%s: stat says %d bytes, read gave %d" % (path, st.st_size, size))
    return "%s %d %s %s" % (common, size, mtime, digest.hexdigest())


def refuse(error):
    raise error


def main():
    root, names = sys.argv[1], []
    for base, dirs, files in os.walk(root, onerror=refuse):
        rel = os.path.relpath(base, root)
        for name in dirs + files:
            names.append(os.path.normpath(os.path.join(rel, name)))
    if len(set(names)) != len(names):
        raise RuntimeError("%s: a directory listed a name twice" % root)
    groups = {}
    for rel in sorted(names):
        print(line(root, rel, groups).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


main()
