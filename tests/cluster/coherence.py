#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Coherence between mounts: coherence.py [--seconds N] ROUNDS DIR DIR [DIR...]

The DIRs are one directory seen through several mounts; agent:HOST:PORT:DIR is the mount of another machine (winlib.py). Each round one
of them makes a change and all the others look at once, by stat, readdir, open, read and through a descriptor opened before, so that
whatever they have cached from the step before must be gone; the descriptor first, for a name may be looked up anew. Every step first warms the caches of the
readers. --seconds: no round begins later; a tenth of them must have been made. Prints the checks done and the stale answers per kind; exit status 1 if there was any.
What must never happen: a stale answer that is retried until it is right.
"""
import argparse
import sys
import time
from winlib import Client, answer

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


class Mount:
    """A directory, and whoever makes the calls there: this process, or one on another machine."""

    def __init__(self, where):
        agent, _, path = where.rpartition(":")
        self.client = Client(0, where=agent) if agent else None
        self.dir, self.id = path, where

    def path(self, name):
        return self.dir + "/" + name

    def __call__(self, name, *args):
        """The answer; an error is its name."""
        return self.client(name, *args) if self.client else answer(name, args)

    def do(self, name, *args):
        r = self(name, *args)
        if isinstance(r, str):
            sys.exit("%s: %s%r: %s" % (self.id, name, args, r))
        return r

    def names(self):
        return self.do("list", self.dir)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("rounds", type=int)
    parser.add_argument("dirs", nargs="+")
    opt = parser.parse_args()
    mounts, made, begin = [Mount(d) for d in opt.dirs], 0, time.monotonic()
    seen, took = Seen(), {s: 0.0 for s in STEPS}

    def change(step, mount, name, *args):
        t = time.monotonic()
        mount.do(name, *args)
        took[step] += time.monotonic() - t

    for i in range(10):
        mounts[0].do("make", mounts[0].path("resident%d" % i), b"here")

    for r in range(opt.rounds):
        if opt.seconds and time.monotonic() - begin > opt.seconds:
            break
        made += 1
        writer = mounts[r % len(mounts)]
        readers = [m for m in mounts if m is not writer]
        name, other, held = "f%d" % r, "g%d" % r, "held %d" % r
        mine, text = writer.path(name), b"round %d\n" % r

        for m in readers:  # a cached "there is no such name"
            seen.check("create", m.path(name) + " before", "ENOENT", m("size", m.path(name)))
            m.names()
        change("create", writer, "make", mine, text)
        for m in readers:
            p = m.path(name)
            seen.check("create", "stat size " + p, len(text), m("size", p))
            seen.check("create", "readdir " + m.dir, True, name in m.names())
            seen.check("create", "read " + p, text, m("slurp", p))
            m("keep", held + m.id, p)

        change("append", writer, "append_to", mine, text)
        for m in readers:
            p = m.path(name)
            seen.check("append", "size by old descriptor " + p, 2 * len(text), m("fsize", held + m.id))
            seen.check("append", "stat size " + p, 2 * len(text), m("size", p))
            seen.check("append", "read by old descriptor " + p, text * 2, m("read", held + m.id, 1 << 16, 0))
            seen.check("append", "read " + p, text * 2, m("slurp", p))

        change("truncate", writer, "truncate", mine, 3)
        for m in readers:
            p = m.path(name)
            seen.check("truncate", "size by old descriptor " + p, 3, m("fsize", held + m.id))
            seen.check("truncate", "read by old descriptor " + p, text[:3], m("read", held + m.id, 1 << 16, 0))
            seen.check("truncate", "stat size " + p, 3, m("size", p))
            seen.check("truncate", "read " + p, text[:3], m("slurp", p))

        mode = 0o600 if r % 2 else 0o751
        change("chmod", writer, "chmod", mine, mode)
        for m in readers:
            seen.check("chmod", "mode by old descriptor " + m.path(name), mode, m("fmode", held + m.id))
            seen.check("chmod", "stat mode " + m.path(name), mode, m("mode", m.path(name)))

        ino = writer.do("ino", mine)
        for m in readers:
            m("size", m.path(other))
        change("rename", writer, "rename", mine, writer.path(other))
        for m in readers:
            p, q = m.path(name), m.path(other)
            seen.check("rename", "stat old name " + p, "ENOENT", m("size", p))
            seen.check("rename", "open old name " + p, "ENOENT", m("slurp", p))
            seen.check("rename", "stat inode " + q, ino, m("ino", q))
            names = m.names()
            seen.check("rename", "readdir " + m.dir, (False, True), (name in names, other in names))
            seen.check("rename", "read " + q, text[:3], m("slurp", q))

        change("unlink", writer, "unlink", writer.path(other))
        for m in readers:
            q = m.path(other)
            seen.check("unlink", "stat " + q, "ENOENT", m("size", q))
            seen.check("unlink", "open " + q, "ENOENT", m("slurp", q))
            names = m.names()
            seen.check("unlink", "readdir " + m.dir, (False, 10), (other in names, len(names)))
            seen.check("unlink", "open descriptor " + q, text[:3], m("read", held + m.id, 64, 0))
            m("close", held + m.id)

    for s in STEPS:
        print("%-9s %6d rounds %7d checks %5d stale %8.0f us each" %
              (s, made, seen.checks[s], seen.stale[s], took[s] / max(made, 1) * 1e6))
    if made < opt.rounds / 10:
        print("too slow: %d rounds of %d in %g s" % (made, opt.rounds, opt.seconds))
        return 1
    return 1 if any(seen.stale.values()) else 0


sys.exit(main())
