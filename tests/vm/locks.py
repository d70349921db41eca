#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Locks of applications between two machines: locks.py AGENTS DIR; AGENTS has %d for the node

Record locks of processes, of open files (OFD) and flock: what one machine has the other does not get; who waits gets it when it is
let go, by unlock, close or the end of the process; two that wait for each other are told so.
"""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))
from winlib import LIMIT, Client  # noqa: E402

WRONG, DONE = [], [0]
BUSY = ("EAGAIN", "EACCES")


def expect(what, ok, got):
    DONE[0] += 1
    if not ok:
        WRONG.append(what)
        print("WRONG %s: got %r" % (what, got))


def one_kind(kind, node, a, b, path):
    """Machine a has it, b wants it."""
    who = "%s, node %d first" % (kind, node)
    a.ok("open", "f", path, os.O_RDWR)
    b.ok("open", "f", path, os.O_RDWR)
    expect(who + ": free", a("lock", "f", kind, "EX", 0, 10) is None, "refused")
    r = b("lock", "f", kind, "EX", 0, 10)
    expect(who + ": refused elsewhere", r in BUSY, r)
    if kind != "flock":
        expect(who + ": other bytes are free", b("lock", "f", kind, "EX", 10, 10) is None, "refused")
        expect(who + ": a waits for them", not a.start("lockw", "f", kind, "EX", 10, 10).over(0.3), "had it")
        expect(who + ": unlock", b("lock", "f", kind, "UN", 10, 10) is None, "refused")
        expect(who + ": then a has them", a.result() is None, "refused")
    expect(who + ": waits", not b.start("lockw", "f", kind, "SH", 0, 10).over(0.3), "had it")
    expect(who + ": shared is not exclusive", a("lock", "f", kind, "SH", 0, 10) is None, "refused")
    expect(who + ": both share", b.result() is None, "refused")
    r = a("lock", "f", kind, "EX", 0, 10)
    expect(who + ": not alone", r in BUSY, r)
    b.ok("close", "f")
    expect(who + ": alone after the close", a("lockw", "f", kind, "EX", 0, 10) is None, "refused")
    a.ok("close", "f")


def end_of_process(agents, node, b, path):
    """What a process that ends had is free."""
    a = Client(node, where=agents % node)
    a.ok("open", "f", path, os.O_RDWR)
    b.ok("open", "f", path, os.O_RDWR)
    expect("end: free", a("lock", "f", "posix", "EX", 0, 10) is None, "refused")
    expect("end: waits", not b.start("lockw", "f", "posix", "EX", 0, 10).over(0.3), "had it")
    a.end()
    expect("end: gets it", b.result() is None, "refused")
    b.ok("close", "f")


def cycle(a, b, path):
    """Each has what the other waits for: one is told (which, depends on the machines' clocks), then the other gets it."""
    for c, first in ((a, 0), (b, 10)):
        c.ok("open", "f", path, os.O_RDWR)
        expect("cycle: free", c("lock", "f", "posix", "EX", first, 10) is None, "refused")
    expect("cycle: the first waits", not a.start("lockw", "f", "posix", "EX", 10, 10).over(0.3), "had it")
    b.start("lockw", "f", "posix", "EX", 0, 10)
    victim, other = (a, b) if first_over(a, b) is a else (b, a)
    r = victim.result()
    expect("cycle: one is told", r in ("EDEADLK", "EDEADLOCK"), r)
    expect("cycle: the other waits", not other.over(0.3), "had it")
    victim.ok("close", "f")
    expect("cycle: the other gets it", other.result() is None, "refused")
    other.ok("close", "f")


def first_over(*clients):
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        for c in clients:
            if c.over(0.05):
                return c
    return None


def main():
    agents, top = sys.argv[1:3]
    path = "%s/locks.%d" % (top, os.getpid())
    one, two = (Client(n, where=agents % n) for n in (1, 2))
    one.ok("make", path, b"x" * 100)
    for kind in ("posix", "ofd", "flock"):
        one_kind(kind, 1, one, two, path)
        one_kind(kind, 2, two, one, path)
    end_of_process(agents, 1, two, path)
    end_of_process(agents, 2, one, path)
    cycle(one, two, path)
    cycle(two, one, path)
    one.end()
    two.end()
    print("locks between two machines: %d checks, %d wrong" % (DONE[0], len(WRONG)))
    return 1 if WRONG else 0


sys.exit(main())
