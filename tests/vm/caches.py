#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the kernel of each node keeps: caches.py FS AGENTS DIR; AGENTS has %d for the node

Where the kernel cannot drop names without a lock (before 6.18), names must not be cached: every look at a path asks the daemon. Attributes and pages
are cached all the same: repeated fstat and read ask nothing, and a repeated stat asks for names only. And they go: the other
node's change is seen at once, also by a handle that is open.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))
from winlib import PAGE, Admin, Client  # noqa: E402

TIMES = 200
WRONG = []


def expect(what, ok, got):
    if not ok:
        WRONG.append(what)
        print("WRONG %s: got %s" % (what, got))


def asked(admin, node, work):
    """Requests to the daemon meanwhile, by kind."""
    before = admin.fuse(node)["ops"]
    work()
    after = admin.fuse(node)["ops"]
    kinds = {k: n - before.get(k, 0) for k, n in after.items() if n != before.get(k, 0)}
    return {k: n for k, n in kinds.items() if k != "forget"}


def told(kinds):
    return ", ".join("%d %s" % (n, k) for k, n in sorted(kinds.items())) or "none"


def repeat(client, *call):
    def work():
        for _ in range(TIMES):
            client.ok(*call)
    return work


def main():
    fs, agents, top = sys.argv[1:4]
    admin = Admin(lambda n: agents % n, fs)
    clients = {n: Client(n, where=agents % n) for n in (1, 2)}
    for node, other in ((1, 2), (2, 1)):
        a, b, f = clients[node], clients[other], "%s/caches%d" % (top, node)
        state = admin.fuse(node)
        names = state["names_cached"]
        print("   node %d: kernel %s, protocol 7.%d, names %s" %
              (node, a.ok("kernel"), state["protocol_minor"], "cached" if names else "not cached"))
        expect("node %d: names are cached exactly where the kernel can drop them" % node, names == (state["protocol_minor"] >= 45), names)
        b.ok("make", f, b"a" * PAGE * 4)
        a.ok("keep", "f", f)
        for what, call, only in (("fstat", ("fsize", "f"), ()), ("read of a page", ("read", "f", PAGE, PAGE), ()),
                                 ("stat", ("size", f), () if names else ("lookup",))):
            a.ok(*call)
            a.ok(*call)
            kinds = asked(admin, node, repeat(a, *call))
            print("   node %d: %d repeated %s ask the daemon for: %s" % (node, TIMES, what, told(kinds)))
            expect("node %d: %s asks for nothing but %s" % (node, what, only or "nothing"), set(kinds) <= set(only), told(kinds))
            if only and what == "stat":
                expect("node %d: every stat asks for the name" % node, kinds.get("lookup", 0) >= TIMES, told(kinds))
        before = admin.fuse(node)
        b.ok("chmod", f, 0o751)
        expect("node %d: mode" % node, a.ok("fmode", "f") == 0o751, oct(a.ok("fmode", "f")))
        b.ok("open", "w", f, os.O_WRONLY)
        b.ok("write", "w", b"b" * PAGE, PAGE)
        expect("node %d: page" % node, a.ok("read", "f", 1, PAGE) == b"b", a.ok("read", "f", 1, PAGE))
        after = admin.fuse(node)
        for what in ("inval_attr", "inval_data"):
            expect("node %d: the kernel was told to drop (%s)" % (node, what), after[what] > before[what], after[what])
        expect("node %d: no names are taken back where there are none" % node, names or after["inval_names"] == 0, after["inval_names"])
        b.ok("close", "w")
        a.ok("close", "f")
    for c in clients.values():
        c.end()
    print("caches of two nodes: %d wrong" % len(WRONG))
    return 1 if WRONG else 0


sys.exit(main())
