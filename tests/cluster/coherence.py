#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Coherence between mounts: coherence.py ROUNDS DIR DIR [DIR...]

The DIRs are one directory seen through several mounts. Each round one of them makes a change and all
the others look at once, by stat, readdir, open, read and through a descriptor opened before, so that
whatever they have cached from the step before must be gone. Every step first warms the caches of the
readers. Prints the checks done and the stale answers per kind; exit status 1 if there was any.
What must never happen: a stale answer that is retried until it is right.
"""
import errno
import os
import sys
import time

STEPS = ("create", "append", "truncate", "chmod", "rename", "unlink")


class Seen:
    def __init__(self):
        self.checks = {s: 0 for s in STEPS}
        self.stale = {s: 0 for s in STEPS}
        self.shown = 0

    def check(self, step, what, expected, got):
        self.checks[step] += 1
        if expected != got:
            self.stale[step] += 1
            if self.shown < 20:
                self.shown += 1
                print("STALE after %s: %s: expected %.80r, got %.80r" % (step, what, expected, got))


def attempt(call, *args):
    try:
        return call(*args)
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e.errno))
    except TypeError:  # a descriptor that could not be opened
        return "not open"


def size_of(path):
    return attempt(lambda: os.stat(path).st_size)


def content(path):
    def read():
        with open(path, "rb", buffering=0) as f:
            return f.read(1 << 20)
    return attempt(read)


def main():
    rounds, dirs = int(sys.argv[1]), sys.argv[2:]
    seen, took = Seen(), {s: 0.0 for s in STEPS}
    for i in range(10):
        with open(os.path.join(dirs[0], "resident%d" % i), "wb") as f:
            f.write(b"here")

    for r in range(rounds):
        w = r % len(dirs)
        readers = [d for i, d in enumerate(dirs) if i != w]
        name, other = "f%d" % r, "g%d" % r
        path = [os.path.join(d, name) for d in dirs]
        mine, theirs = path[w], [os.path.join(d, name) for d in readers]
        text = b"round %d\n" % r

        for d, p in zip(readers, theirs):  # a cached "there is no such name"
            seen.check("create", p + " before", "ENOENT", size_of(p))
            os.listdir(d)
        t = time.monotonic()
        with open(mine, "xb", buffering=0) as f:
            f.write(text)
        took["create"] += time.monotonic() - t
        for d, p in zip(readers, theirs):
            seen.check("create", "stat size " + p, len(text), size_of(p))
            seen.check("create", "readdir " + d, True, name in os.listdir(d))
            seen.check("create", "read " + p, text, content(p))
        held = [attempt(os.open, p, os.O_RDONLY) for p in theirs]

        t = time.monotonic()
        with open(mine, "ab", buffering=0) as f:
            f.write(text)
        took["append"] += time.monotonic() - t
        for p, fd in zip(theirs, held):
            seen.check("append", "stat size " + p, 2 * len(text), size_of(p))
            seen.check("append", "read by old descriptor " + p, text * 2, attempt(os.pread, fd, 1 << 16, 0))
            seen.check("append", "read " + p, text * 2, content(p))

        t = time.monotonic()
        os.truncate(mine, 3)
        took["truncate"] += time.monotonic() - t
        for p, fd in zip(theirs, held):
            seen.check("truncate", "read by old descriptor " + p, text[:3], attempt(os.pread, fd, 1 << 16, 0))
            seen.check("truncate", "stat size " + p, 3, size_of(p))
            seen.check("truncate", "read " + p, text[:3], content(p))

        mode = 0o600 if r % 2 else 0o751
        t = time.monotonic()
        os.chmod(mine, mode)
        took["chmod"] += time.monotonic() - t
        for p in theirs:
            seen.check("chmod", "stat mode " + p, mode, attempt(lambda q=p: os.stat(q).st_mode & 0o7777))

        ino = os.stat(mine).st_ino
        for d in readers:
            size_of(os.path.join(d, other))
        t = time.monotonic()
        os.rename(mine, os.path.join(dirs[w], other))
        took["rename"] += time.monotonic() - t
        for d, p in zip(readers, theirs):
            q = os.path.join(d, other)
            seen.check("rename", "stat old name " + p, "ENOENT", size_of(p))
            seen.check("rename", "open old name " + p, "ENOENT", content(p))
            seen.check("rename", "stat inode " + q, ino, attempt(lambda s=q: os.stat(s).st_ino))
            names = os.listdir(d)
            seen.check("rename", "readdir " + d, (False, True), (name in names, other in names))
            seen.check("rename", "read " + q, text[:3], content(q))

        t = time.monotonic()
        os.unlink(os.path.join(dirs[w], other))
        took["unlink"] += time.monotonic() - t
        for d, fd in zip(readers, held):
            q = os.path.join(d, other)
            seen.check("unlink", "stat " + q, "ENOENT", size_of(q))
            seen.check("unlink", "open " + q, "ENOENT", content(q))
            names = os.listdir(d)
            seen.check("unlink", "readdir " + d, (False, 10), (other in names, len(names)))
            seen.check("unlink", "open descriptor " + q, text[:3], attempt(os.pread, fd, 64, 0))
            if isinstance(fd, int):
                os.close(fd)

    for s in STEPS:
        print("%-9s %6d rounds %7d checks %5d stale %8.0f us each" %
              (s, rounds, seen.checks[s], seen.stale[s], took[s] / max(rounds, 1) * 1e6))
    return 1 if any(seen.stale.values()) else 0


sys.exit(main())
