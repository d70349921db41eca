#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Windows of races between nodes, opened on purpose: windows.py [--tries N] [--readers N] FS SOCKETS DIR1 DIR2 [DIR3] [NAME...]

SOCKETS has %d for the node (winlib.py), DIRn is one directory seen through node n's mount. In each window a fault point (fuse/fault.h) keeps a
request or an invalidation of node 1 while node 2 makes a conflicting change; then the answers of node 1 must be the new ones and
nothing may hang. Then the same windows are run with a planted omission, and must notice it.
A window that did not open (nobody came to the point, or it closed before the other node was through) is a failure; on slow machines
it may be tried more than once (--tries), and with fewer READs at once (--readers).
What must never happen: a stale answer that is asked for again until it is right.
"""
import argparse
import os
import sys
import time
import traceback
from winlib import LIMIT, PAGE, Admin, Client, Hang, Hold, Missed, Stale

WINDOWS = []  # (name, function, omissions it must notice, what it or they need)
OTHER_UID = 65534
READERS = 192


def window(*plants, name=None, args=(), **needs):
    """needs: what must be there for an omission to be seen, or (window=) for the window to exist: one of what_is_there()."""
    def add(fn):
        WINDOWS.append((name or fn.__name__, lambda w: fn(w, *args), plants, needs))
        return fn
    return add


def what_is_there(admin, dirs):
    fuse = admin.fuse(1)
    return {
        "three nodes": len(dirs) > 2,
        "cached names": fuse["names_cached"],
        "unversioned SETATTR": fuse["protocol_minor"] < 44,
        "maps of files with direct I/O": fuse["protocol_minor"] >= 39,
    }


class Run:
    """One window: processes on the nodes, a directory of its own, what was armed."""

    def __init__(self, admin, dirs, sub):
        self.admin, self.dirs, self.sub, self.clients, self.stale, self.omission = admin, dirs, sub, [], [], None
        self.names_kept = admin.fuse(1)["names_cached"]
        self.a, self.b = self.client(1), self.client(2)
        self.a.ok("mkdir", self.p(1))
        self.dir_ino = self.b.ok("ino", self.p(2))

    def client(self, node, uid=0):
        c = Client(node, uid, self.admin.socket_of(node))
        self.clients.append(c)
        return c

    def p(self, node, *name):
        return os.path.join(self.dirs[node - 1], self.sub, *name)

    def file(self, data=b"a" * PAGE, name="f", by=2):
        """Made by node 2, so that node 1's kernel does not know it. Its inode number."""
        self.clients[by - 1].ok("make", self.p(by, name), data)
        return self.clients[by - 1].ok("ino", self.p(by, name))

    def hold(self, point, ino=0, node=1, **opt):
        return Hold(self.admin, node, point, ino, **opt)

    def expect(self, what, expected, got):
        if got != expected:
            self.stale.append("%s: expected %.60r, got %.60r" % (what, expected, got))

    def meanwhile(self, hold, call):
        """The other node is through while the window is open."""
        r = call.result(4.0)
        hold.open_still()
        return r

    def blocked(self, hold, call):
        """The other node has to wait for what is kept there, and does."""
        if call.over(0.15):
            raise Missed("node %d: %s did not wait for %s" % (call.node, call.call, hold.point))
        hold.open_still()

    def came(self, hold):
        """The step that a delay stretched was really made."""
        if not self.omission and not hold.row()["caught"]:
            raise Missed("nobody came to %s" % hold.point)

    def enoent(self, before):
        """The kernel was told to drop an inode that it did not have."""
        if self.admin.fuse(1)["inval_enoent"] <= before:
            raise Missed("the kernel had the inode already")

    def kept(self, name):
        """Node 1's kernel has the name and asks for it no more."""
        if not self.names_kept:
            return
        self.a.ok("open", "kept", self.p(1), os.O_RDONLY)  # the names above are another matter
        for _ in range(50):
            before = self.admin.fuse(1)["ops"].get("lookup", 0)
            self.a.ok("size_at", "kept", name)
            if self.admin.fuse(1)["ops"].get("lookup", 0) == before:
                return
            time.sleep(0.05)
        raise Missed("node 1 asks for %s again and again" % name)

    def evict(self):
        """The kernel forgets what is not in use, the daemons keep their tokens."""
        self.a.ok("drop_caches")

    def end(self):
        for n in range(1, len(self.dirs) + 1):
            self.admin.fault(n, "clear")
        for c in self.clients:
            c.end()


# --- names: 3a, R-A, R-B, R-D, and 3f's rows about entries ---------------------------------------------

def in_directory(w, point, before, call, after):
    """A call that has its directory locked in the kernel waits; the directory is revoked. 3a, R-A, R-B; 3f row 1."""
    for step in before:
        w.a.ok(step[0], *[w.p(1, x) if isinstance(x, str) else x for x in step[1:]])
    w.expect("name not there yet", "ENOENT", w.a("size", w.p(1, "other")))
    h = w.hold(point, w.dir_ino)
    w.a.start(call[0], *[w.p(1, x) if isinstance(x, str) else x for x in call[1:]])
    h.hit()
    w.expect("create elsewhere", None, w.meanwhile(h, w.b.start("create", w.p(2, "other"))))
    h.release()
    r = w.a.result()
    if isinstance(r, str):
        w.expect("the call that was kept", None, r)
    w.expect("stat of what was made elsewhere", True, w.a("exists", w.p(1, "other")))
    if after:
        for n, c in ((1, w.a), (2, w.b)):
            w.expect("node %d, names" % n, sorted(after + ["other"]), c("list", w.p(n)))


for what, before, call, after in (
        ("create", (), ("create", "x"), ["x"]),
        ("mkdir", (), ("mkdir", "x"), ["x"]),
        ("mknod", (), ("mknod", "x"), ["x"]),
        ("symlink", (), ("symlink", "x"), ["x"]),
        ("link", (("create", "y"),), ("link", "y", "x"), ["x", "y"]),
        ("unlink", (("create", "x"), ("create", "y")), ("unlink", "x"), ["y"]),
        ("rmdir", (("mkdir", "x"), ("create", "y")), ("rmdir", "x"), ["y"]),
        ("rename", (("create", "y"),), ("rename", "y", "x"), ["x"]),
        ("setattr", (("create", "y"),), ("chmod", "", 0o700), ["y"]),
        ("readdirplus", (("create", "y"),), ("scan", ""), ["y"]),
):
    window(name="held_" + what, args=(what + ".before_pin", before, call, after))(in_directory)


@window()
def held_lookup(w):
    """First LOOKUP waits, the name goes: the answer is the new one. 3a; 3f row 1."""
    w.file()
    h = w.hold("lookup.before_pin", w.dir_ino)
    w.a.start("size", w.p(1, "f"))
    h.hit()
    w.expect("rename elsewhere", None, w.meanwhile(h, w.b.start("rename", w.p(2, "f"), w.p(2, "g"))))
    h.release()
    w.expect("stat of the old name", "ENOENT", w.a.result())
    w.expect("stat of the new name", PAGE, w.a("size", w.p(1, "g")))


NAMES_STAY = "inval.names+inval.names_last"


@window(NAMES_STAY, window="cached names")
def cached_name(w):
    """A name cached with a timeout goes elsewhere. 3f row 4."""
    w.file()
    w.kept("f")
    h = w.hold("inval.names", w.dir_ino, delay=50)
    w.expect("rename elsewhere", None, w.b("rename", w.p(2, "f"), w.p(2, "g")))
    w.expect("stat of the old name", "ENOENT", w.a("size", w.p(1, "f")))
    w.expect("stat of the new name", PAGE, w.a("size", w.p(1, "g")))
    w.came(h)


@window()
def lookup_again_late(w):
    """A LOOKUP that looks a cached name up again is answered but not applied. 3f rows 2 to 4."""
    w.file()
    w.a.ok("open", "f", w.p(1, "f"), os.O_PATH)  # so that its name is only made old
    w.kept("f")
    w.b.ok("create", w.p(2, "g"))
    time.sleep(0.5)  # names are handed out again
    h = w.hold("lookup.before_reply", w.dir_ino)
    w.a.start("size", w.p(1, "f"))
    h.hit()
    w.b.start("rename", w.p(2, "f"), w.p(2, "h"))
    if w.names_kept:
        w.blocked(h, w.b)
    h.release()
    w.a.result()
    w.expect("rename elsewhere", None, w.b.result())
    w.expect("stat of the old name", "ENOENT", w.a("size", w.p(1, "f")))
    w.expect("stat of the new name", PAGE, w.a("size", w.p(1, "h")))


@window("omit.again_on_enoent")
def first_lookup_late(w):
    """First LOOKUP answered but not applied: the kernel has no inode to invalidate (ENOENT). 3f row 7."""
    w.file()
    h = w.hold("lookup.before_reply", w.dir_ino)
    w.a.start("open", "f", w.p(1, "f"), os.O_PATH)
    h.hit()
    before = w.admin.fuse(1)["inval_enoent"]
    w.b.start("chmod", w.p(2, "f"), 0o751)
    if not w.omission:
        w.blocked(h, w.b)
        w.enoent(before)
    else:
        w.b.over(1.0)
    h.release()
    w.a.result()
    w.expect("chmod elsewhere", None, w.b.result())
    w.expect("mode", 0o751, w.a("fmode", "f"))  # not by name, which may be looked up anew


@window("omit.again_on_enoent", omission="cached names")
def listing_late(w):
    """READDIRPLUS that brings an inode the kernel lacks is answered but not applied. 3f row 7."""
    w.file(b"", by=1)  # nothing is written behind: its attributes may be cached
    w.a.ok("open", "d", w.p(1), os.O_RDONLY)  # the directory itself is not looked up again
    w.a.ok("at", "d")
    w.evict()
    h = w.hold("readdirplus.before_reply", w.dir_ino)
    w.a.start("scan_at", "d")
    h.hit()
    before = w.admin.fuse(1)["inval_enoent"]
    w.b.start("chmod", w.p(2, "f"), 0o751)
    if not w.omission:
        w.blocked(h, w.b)
        w.enoent(before)
    else:
        w.b.over(1.0)
    h.release()
    w.a.result()
    w.expect("chmod elsewhere", None, w.b.result())
    w.expect("mode", 0o751, w.a("mode_at", "d", "f"))


@window(NAMES_STAY, omission="cached names")
def listing_names_late(w):
    """READDIRPLUS is answered but not applied; a name of it goes elsewhere. 3f row 5."""
    w.file(by=1)
    w.a.ok("size", w.p(1, "f"))
    fd = w.client(1)
    fd.ok("open", "d", w.p(1), os.O_RDONLY)
    fd.ok("at", "d")
    h = w.hold("readdirplus.before_reply", w.dir_ino)
    fd.start("scan_at", "d")
    h.hit()
    w.b.start("rename", w.p(2, "f"), w.p(2, "g"))
    if w.names_kept and not w.omission:
        w.blocked(h, w.b)
    else:
        w.b.over(1.0)
    h.release()
    fd.result()
    w.expect("rename elsewhere", None, w.b.result())
    w.expect("stat of the old name", "ENOENT", fd("size_at", "d", "f"))
    w.expect("names", ["g"], w.a("list", w.p(1)))


@window()
def create_late(w):
    """CREATE is answered but not applied; its name and its mode change elsewhere. 3f rows 4 and 8."""
    w.b.ok("list", w.p(2))
    h = w.hold("create.before_reply", w.dir_ino)
    w.a.start("create", w.p(1, "f"))
    h.hit()
    w.expect("chmod elsewhere", None, w.meanwhile(h, w.b.start("chmod", w.p(2, "f"), 0o751)))
    w.expect("rename elsewhere", None, w.meanwhile(h, w.b.start("rename", w.p(2, "f"), w.p(2, "g"))))
    h.release()
    w.expect("create", None, w.a.result())
    w.expect("stat of the old name", "ENOENT", w.a("mode", w.p(1, "f")))
    w.expect("mode", 0o751, w.a("mode", w.p(1, "g")))


@window("omit.no_timeout_for_new")
def link_late(w):
    """LINK to an inode the kernel has is answered but not applied; its mode changes elsewhere. 3f row 8."""
    w.file()
    w.a.ok("open", "f", w.p(1, "f"), os.O_RDONLY)
    w.a.ok("fmode", "f")
    h = w.hold("link.before_reply", w.dir_ino)
    w.a.start("link", w.p(1, "f"), w.p(1, "g"))
    h.hit()
    w.expect("chmod elsewhere", None, w.meanwhile(h, w.b.start("chmod", w.p(2, "f"), 0o751)))
    h.release()
    w.expect("link", None, w.a.result())
    w.expect("mode", 0o751, w.a("fmode", "f"))
    w.expect("links", 2, w.a("nlink", w.p(1, "f")))


@window()
def negative_late(w):
    """LOOKUP has found nothing and is not applied; the name is made elsewhere. 3f row 11."""
    w.expect("not there", "ENOENT", w.a("size", w.p(1, "f")))
    h = w.hold("lookup.before_reply", w.dir_ino)
    w.a.start("size", w.p(1, "f"))
    h.hit()
    w.b.start("create", w.p(2, "f"))
    if w.names_kept:
        w.blocked(h, w.b)
    h.release()
    w.a.result()
    w.expect("create elsewhere", None, w.b.result())
    w.expect("stat", 0, w.a("size", w.p(1, "f")))


@window()
def readdir_late(w):
    """A listing is answered but not applied; there is a name more elsewhere. 3f row 12."""
    w.file()
    w.a.ok("list", w.p(1))
    h = w.hold("readdirplus.before_reply", w.dir_ino)
    w.a.start("list", w.p(1))
    h.hit()
    w.expect("create elsewhere", None, w.meanwhile(h, w.b.start("create", w.p(2, "g"))))
    h.release()
    w.a.result()
    w.expect("names", ["f", "g"], w.a("list", w.p(1)))


@window(window="cached names")
def revoke_of_names_held(w):
    """While a directory is being given back its names still serve. R-C."""
    w.file(by=1)
    w.kept("f")
    h = w.hold("inval.names", w.dir_ino)
    w.b.start("create", w.p(2, "g"))
    h.hit()
    w.expect("stat", PAGE, w.meanwhile(h, w.a.start("size", w.p(1, "f"))))
    w.a.start("create", w.p(1, "x"))  # shared since the other node looked: this one needs more
    w.blocked(h, w.b)
    w.blocked(h, w.a)
    h.release()
    w.expect("create", None, w.a.result())
    w.expect("create elsewhere", None, w.b.result())
    w.expect("names", ["f", "g", "x"], w.a("list", w.p(1)))


@window("omit.names_before_wait", window="cached names")
def change_with_names_kept(w):
    """A CREATE waits for the token with its directory locked, and a name in use is kept there: it is taken back before. R-B."""
    w.file()
    w.a.ok("open", "f", w.p(1, "f"), os.O_RDONLY)
    w.kept("f")
    dropped = w.admin.fuse(1)["epoch_bumps"]
    h = w.hold("inval.names", w.dir_ino)
    w.b.start("create", w.p(2, "y"))
    h.hit()
    w.a.start("create", w.p(1, "x"))
    w.blocked(h, w.a)
    h.release()
    w.expect("create", None, w.a.result())
    w.expect("create elsewhere", None, w.b.result())
    w.expect("times all names of the mount were dropped", dropped, w.admin.fuse(1)["epoch_bumps"])


@window(window="three nodes")
def three_creates_held(w):
    """One CREATE a node is kept in the same directory: no node's answer waits for another's. R-D."""
    clients = [w.a, w.b, w.client(3)]
    holds = [w.hold("create.before_pin", w.dir_ino, node=n) for n in (1, 2, 3)]
    for i, c in enumerate(clients):
        c.start("create", w.p(i + 1, "x%d" % i))
    for h in holds:
        h.hit()
    for h in holds:
        h.release()
    for c in clients:
        w.expect("node %d: create" % c.node, None, c.result())
    for i, c in enumerate(clients):
        w.expect("node %d: names" % c.node, ["x0", "x1", "x2"], c("list", w.p(i + 1)))


@window()
def killed_in_create(w):
    """The process of a kept CREATE is killed: its directory stays locked until the answer, the other node does not care. 3a."""
    victim = w.client(1)
    w.a.ok("list", w.p(1))
    h = w.hold("create.before_pin", w.dir_ino)
    victim.start("create", w.p(1, "x"))
    h.hit()
    victim.kill()
    w.expect("create elsewhere", None, w.meanwhile(h, w.b.start("create", w.p(2, "y"))))
    h.release()
    w.expect("stat", 0, w.a("size", w.p(1, "y")))


# --- attributes: 3f row 6 --------------------------------------------------------------------------------

@window("inval.attr")
def cached_mode(w):
    """Attributes cached with a timeout change elsewhere."""
    ino = w.file()
    w.a.ok("open", "f", w.p(1, "f"), os.O_PATH)
    w.a.ok("fmode", "f")
    h = w.hold("inval.attr", ino, delay=50)
    w.expect("chmod elsewhere", None, w.b("chmod", w.p(2, "f"), 0o751))
    w.expect("mode", 0o751, w.a("fmode", "f"))  # not by name, which may be looked up anew
    w.expect("mode by name", 0o751, w.a("mode", w.p(1, "f")))
    w.came(h)


def attr_late(w, point, on_dir, before, call):
    """An answer with attributes of an inode that the kernel has is not applied; they change elsewhere. 3f row 6."""
    ino = w.file()
    w.a.ok("mode", w.p(1, "f"))
    w.a.ok("open", "f", w.p(1, "f"), os.O_RDWR)
    for step in before:
        w.a.ok(step[0], *[w.p(1, x[1:]) if isinstance(x, str) and x[:1] == "/" else x for x in step[1:]])
    if point.startswith(("getattr", "lookup")):
        w.b.ok("chmod", w.p(2, "f"), 0o640)  # node 1's is gone
        w.b.ok("create", w.p(2, "g"))
    h = w.hold(point, w.dir_ino if on_dir else ino)
    w.a.start(call[0], *[w.p(1, x[1:]) if isinstance(x, str) and x[:1] == "/" else x for x in call[1:]])
    h.hit()
    w.expect("chmod elsewhere", None, w.meanwhile(h, w.b.start("chmod", w.p(2, "f"), 0o751)))
    h.release()
    w.a.result()
    w.expect("mode", 0o751, w.a("fmode", "f"))
    w.expect("mode", 0o751, w.a("mode", w.p(1, "f")))


for what, point, on_dir, before, call in (
        ("getattr", "getattr.before_reply", False, (), ("fsize", "f")),
        ("setattr", "setattr.before_reply", False, (), ("utime", "/f")),
        ("lookup", "lookup.before_reply", True, (), ("mode", "/f")),
        ("listing", "readdirplus.before_reply", True, (), ("scan", "/")),
        ("write", "write.before_reply", False, (), ("write", "f", b"b" * 10, 0)),
        ("rename", "rename.before_reply", True, (("create", "/x"),), ("rename", "/x", "/y")),
        ("unlink", "unlink.before_reply", True, (("create", "/x"),), ("unlink", "/x")),
        ("unlink_of_a_link", "unlink.before_reply", True, (("link", "/f", "/x"),), ("unlink", "/x")),
):
    if what == "setattr":
        window("omit.no_timeout_for_new", name="mode_under_" + what, args=(point, on_dir, before, call), omission="unversioned SETATTR")(attr_late)
    else:
        window(name="mode_under_" + what, args=(point, on_dir, before, call))(attr_late)


@window("inval.attr")
def cached_acl(w):
    """An ACL, cached by the kernel of the first node, changes elsewhere. 3e."""
    ino = w.file(name="f")
    w.a.ok("chmod", w.p(1, "f"), 0o600)
    user = w.client(1, OTHER_UID)
    user.ok("open", "f", w.p(1, "f"), os.O_PATH)  # what is asked for through it is not looked up anew
    w.expect("no right yet", "EACCES", user("may_read_at", "f"))
    h = w.hold("inval.attr", ino, delay=20)
    w.b.ok("setacl", w.p(2, "f"), OTHER_UID)
    w.expect("right given elsewhere", True, user("may_read_at", "f"))
    w.b.ok("setacl", w.p(2, "f"))
    w.expect("right taken elsewhere", "EACCES", user("may_read_at", "f"))
    w.expect("right taken elsewhere, by name", "EACCES", user("may_read", w.p(1, "f")))
    w.came(h)


@window()
def acl_late(w):
    """GETXATTR of an ACL is answered but not applied; the ACL changes elsewhere. 3e, 3f row 6."""
    ino = w.file(name="f")
    w.b.ok("setacl", w.p(2, "f"), OTHER_UID + 1)
    user = w.client(1, OTHER_UID)
    h = w.hold("getxattr.before_reply", ino)
    user.start("may_read", w.p(1, "f"))
    h.hit()
    w.expect("acl set elsewhere", None, w.meanwhile(h, w.b.start("setacl", w.p(2, "f"), OTHER_UID)))
    h.release()
    user.result()
    w.expect("right given elsewhere", True, user("may_read", w.p(1, "f")))


# --- pages: 3f rows 9 and 10, R-B, R-C ----------------------------------------------------------------------

@window("inval.data+inval.data_last")
def cached_page(w):
    """A cached page changes elsewhere; while the token is being given back it still serves. R-C."""
    ino = w.file(b"a" * PAGE * 4)
    w.a.ok("open", "f", w.p(1, "f"), os.O_RDONLY)
    w.a.ok("read", "f", PAGE, 0)
    h = w.hold("inval.data", ino) if not w.omission else None
    w.b.ok("open", "f", w.p(2, "f"), os.O_RDWR)
    w.b.start("write", "f", b"b" * PAGE, 0)
    if h:
        h.hit()
        w.expect("old bytes, before the write is over", b"a", w.meanwhile(h, w.a.start("read", "f", 1, 0)))
        w.expect("another page of it", b"a", w.meanwhile(h, w.a.start("read", "f", 1, 2 * PAGE)))
        w.blocked(h, w.b)
        h.release()
    w.expect("write elsewhere", PAGE, w.b.result())
    w.expect("page", b"b", w.a("read", "f", 1, 0))


@window("read.before_reply")
def read_held(w):
    """A READ waits with its pages locked; they are written elsewhere. 3a, R-B; 3f row 9."""
    ino = w.file(b"a" * PAGE * 16)
    w.a.ok("open", "f", w.p(1, "f"), os.O_RDONLY)
    w.b.ok("open", "f", w.p(2, "f"), os.O_RDWR)
    w.a.ok("read", "f", PAGE, 0)
    # The planted fault is a READ answered with what was read under a token that has gone since.
    h = w.hold(w.omission or "read.before_pin", ino)
    w.a.start("read", "f", PAGE, 5 * PAGE)
    h.hit()
    w.expect("write elsewhere", 16 * PAGE, w.meanwhile(h, w.b.start("write", "f", b"b" * PAGE * 16, 0)))
    h.release()
    w.expect("the read that was kept", b"b" * PAGE, w.a.result())
    w.expect("its page", b"b", w.a("read", "f", 1, 5 * PAGE))
    w.expect("the page before", b"b", w.a("read", "f", 1, 0))


@window()
def reads_held_on_both(w):
    """Both nodes have a READ that waits, and each is revoked by the other: no circle. R-A, R-B."""
    ino = [w.file(b"a" * PAGE * 16, "f%d" % n, by=3 - n) for n in (1, 2)]
    other = [w.client(1), w.client(2)]
    for n, c in ((1, w.a), (2, w.b)):
        c.ok("open", "mine", w.p(n, "f%d" % n), os.O_RDONLY)
        c.ok("read", "mine", 1, 0)
        other[n - 1].ok("open", "theirs", w.p(n, "f%d" % (3 - n)), os.O_RDWR)
    holds = [w.hold("read.before_pin", ino[n - 1], node=n) for n in (1, 2)]
    for c in (w.a, w.b):
        c.start("read", "mine", PAGE, 5 * PAGE)
    for h in holds:
        h.hit()
    for c in other:
        c.start("write", "theirs", b"b" * PAGE * 16, 0)
    for c, h in zip(other, holds):
        w.expect("node %d: write" % c.node, 16 * PAGE, w.meanwhile(h, c))
    for h in holds:
        h.release()
    for c in (w.a, w.b):
        w.expect("node %d: read" % c.node, b"b" * PAGE, c.result())


@window()
def reads_arrive(w):
    """READs of many threads come while the pages are being dropped: the revoke goes around them all. R-A, R-B."""
    ino = w.file(b"a" * PAGE * READERS)
    w.a.ok("open", "f", w.p(1, "f"), os.O_RDONLY)
    w.b.ok("open", "f", w.p(2, "f"), os.O_RDWR)
    w.a.ok("read", "f", PAGE, 0)
    h = w.hold("read.before_pin", ino, times=10000)
    w.a.start("preads", "f", READERS, 0.001)
    h.hit(10)
    w.expect("write elsewhere", READERS * PAGE, w.meanwhile(h, w.b.start("write", "f", b"b" * PAGE * READERS, 0)))
    h.hit(READERS * 3 // 4)
    w.expect("written again", PAGE * READERS, w.meanwhile(h, w.b.start("write", "f", b"c" * PAGE * READERS, 0)))
    h.open_from_the_start()
    h.release()
    time.sleep(0.05)
    w.admin.fault(1, "clear")
    got = w.a.result()
    w.expect("pages, but for the one cached before", (READERS - 1, {ord("c")}), (len(got[1:]), set(got[1:])))


@window("omit.size_first")
def read_behind_the_end(w):
    """READs below and above an end that moves down elsewhere are kept and let go the wrong way round: no zeros."""
    ino = w.file(b"a" * PAGE * 8)
    late = w.client(1)
    for c in (w.a, late):
        c.ok("open", "f", w.p(1, "f"), os.O_RDONLY)
    w.a.ok("fsize", "f")
    first = w.hold("read.before_pin", ino, nth=1, times=1)
    late.start("read", "f", PAGE, 0)
    first.hit()
    w.a.start("read", "f", PAGE, 6 * PAGE)
    time.sleep(0.05)
    w.expect("truncate elsewhere", None, w.meanwhile(first, w.b.start("truncate", w.p(2, "f"), 10)))
    first.release()
    got = late.result()
    w.a.result()
    w.expect("read again", b"a" * 10, late("read", "f", PAGE, 0))
    w.expect("behind it", b"", late("read", "f", PAGE, 6 * PAGE))
    w.expect("the read that was kept", b"a" * 10, got)
    w.expect("size", 10, w.a("fsize", "f"))
    w.expect("all of it", b"a" * 10, w.a("read", "f", 8 * PAGE, 0))


@window("omit.size_first")
def read_parked_and_cut(w):
    """A READ comes when the pages have gone and before the attributes do; then the file is cut elsewhere: no zeros. Law 10."""
    ino = w.file(b"a" * PAGE * 8)
    w.a.ok("open", "f", w.p(1, "f"), os.O_RDONLY)
    other = w.client(1)
    w.b.ok("open", "f", w.p(2, "f"), os.O_RDWR)
    w.b.ok("write", "f", b"a", 0)  # node 2 has the token of the bytes
    w.a.ok("fsize", "f")
    w.a.ok("fsize", "f")
    h = w.hold("inval.attr", ino)
    w.b.start("ftruncate", "f", 10)
    h.hit()
    w.a.start("read", "f", PAGE, 0)
    other.start("mode", w.p(1, "f"))
    w.a.over(0.1)
    h.open_still()
    h.release()
    w.expect("truncate elsewhere", None, w.b.result())
    w.expect("the read that came in between", b"a" * 10, w.a.result())
    other.result()
    w.expect("read again", b"a" * 10, w.a("read", "f", 2 * PAGE, 0))
    w.expect("size", 10, w.a("fsize", "f"))


@window()
def part_of_a_page_held(w):
    """A WRITE of a part of a page that is not there waits with the page locked; another part is written elsewhere. R-B; 3f row 10."""
    ino = w.file(b"a" * PAGE * 2)
    w.a.ok("open", "f", w.p(1, "f"), os.O_RDWR)
    w.b.ok("open", "f", w.p(2, "f"), os.O_RDWR)
    w.a.ok("read", "f", 1, PAGE)
    h = w.hold("write.before_pin", ino)
    w.a.start("write", "f", b"x" * 10, 100)
    h.hit()
    w.expect("write elsewhere", 10, w.meanwhile(h, w.b.start("write", "f", b"y" * 10, 200)))
    h.release()
    w.expect("write", 10, w.a.result())
    for n, c in ((1, w.a), (2, w.b)):
        w.expect("node %d: both" % n, b"a" * 100 + b"x" * 10 + b"a" * 90 + b"y" * 10 + b"a" * 100, c("read", "f", 310, 0))


@window()
def write_late(w):
    """A WRITE is answered but not applied; its page is written and the file cut elsewhere. 3f row 10."""
    ino = w.file(b"a" * PAGE * 2)
    w.a.ok("open", "f", w.p(1, "f"), os.O_RDWR)
    w.b.ok("open", "f", w.p(2, "f"), os.O_RDWR)
    w.a.ok("read", "f", PAGE * 2, 0)
    h = w.hold("write.before_reply", ino)
    w.a.start("write", "f", b"x" * PAGE * 3, 0)
    h.hit()
    w.expect("write elsewhere", PAGE, w.meanwhile(h, w.b.start("write", "f", b"y" * PAGE, 0)))
    w.expect("cut elsewhere", None, w.meanwhile(h, w.b.start("ftruncate", "f", PAGE + 10)))
    h.release()
    w.expect("write", 3 * PAGE, w.a.result())
    w.expect("all of it", b"y" * PAGE + b"x" * 10, w.a("read", "f", 8 * PAGE, 0))
    w.expect("size", PAGE + 10, w.a("fsize", "f"))


@window("omit.no_timeout_for_new", omission="unversioned SETATTR")
def truncate_late(w):
    """A change of size is answered but not applied; the file is written elsewhere and read anew: that is not cut again."""
    ino = w.file(b"a" * PAGE * 2)
    reader = w.client(1)
    reader.ok("open", "f", w.p(1, "f"), os.O_RDONLY)
    w.a.ok("open", "f", w.p(1, "f"), os.O_RDWR)
    w.b.ok("open", "f", w.p(2, "f"), os.O_RDWR)
    reader.ok("read", "f", PAGE * 2, 0)
    h = w.hold("setattr.before_reply", ino)
    w.a.start("ftruncate", "f", 100)
    h.hit()
    w.expect("write elsewhere", PAGE, w.meanwhile(h, w.b.start("write", "f", b"y" * PAGE, 0)))
    w.meanwhile(h, reader.start("read", "f", PAGE * 2, 0))
    h.release()
    w.a.result()
    w.expect("pages", b"y" * PAGE, reader("read", "f", PAGE * 2, 0))
    w.expect("size", PAGE, reader("fsize", "f"))


@window("omit.wait_for_hole")
def punch_late(w):
    """A hole is answered but not applied: the kernel clears parts of pages then, so the token stays until then."""
    ino = w.file(b"a" * PAGE * 2)
    reader = w.client(1)
    reader.ok("open", "f", w.p(1, "f"), os.O_RDONLY)
    w.a.ok("open", "f", w.p(1, "f"), os.O_RDWR)
    w.b.ok("open", "f", w.p(2, "f"), os.O_RDWR)
    reader.ok("read", "f", PAGE * 2, 0)
    h = w.hold("fallocate.before_reply", ino)
    w.a.start("falloc", "f", 3, 100, 200)
    h.hit()
    w.b.start("write", "f", b"y" * PAGE, 0)
    if w.omission:
        w.b.over(1.0)
        reader.ok("read", "f", PAGE * 2, 0)
    else:
        w.blocked(h, w.b)
    h.release()
    w.expect("fallocate", None, w.a.result())
    w.expect("write elsewhere", PAGE, w.b.result())
    w.expect("pages", b"y" * PAGE + b"a" * PAGE, reader("read", "f", PAGE * 2, 0))


@window()
def open_truncating_late(w):
    """OPEN with O_TRUNC is answered but not applied; the file is written elsewhere. 3e."""
    ino = w.file(b"a" * PAGE * 2)
    reader = w.client(1)
    reader.ok("open", "f", w.p(1, "f"), os.O_RDONLY)
    reader.ok("read", "f", PAGE * 2, 0)
    w.b.ok("open", "f", w.p(2, "f"), os.O_RDWR)
    h = w.hold("open.before_reply", ino)
    w.a.start("open", "f", w.p(1, "f"), os.O_RDWR | os.O_TRUNC)
    h.hit()
    w.expect("write elsewhere", 100, w.meanwhile(h, w.b.start("write", "f", b"y" * 100, 0)))
    w.expect("seen meanwhile", b"y" * 100, w.meanwhile(h, reader.start("read", "f", PAGE, 0)))
    h.release()
    w.a.result()
    w.expect("size", 100, reader("fsize", "f"))
    w.expect("pages", b"y" * 100, reader("read", "f", PAGE, 0))
    w.expect("pages", b"y" * 100, w.a("read", "f", PAGE, 0))


def open_late(w, flags):
    """OPEN is told to keep the pages, and is not applied; they are written elsewhere. 3d, 3e."""
    ino = w.file(b"a" * PAGE * 2)
    w.a.ok("open", "f", w.p(1, "f"), os.O_RDONLY)
    w.a.ok("read", "f", PAGE * 2, 0)
    w.b.ok("open", "f", w.p(2, "f"), os.O_RDWR)
    late = w.client(1)
    h = w.hold("open.before_reply", ino)
    late.start("open", "f", w.p(1, "f"), flags)
    h.hit()
    w.expect("write elsewhere", PAGE, w.meanwhile(h, w.b.start("write", "f", b"y" * PAGE, 0)))
    w.expect("seen by another handle meanwhile", b"y", w.meanwhile(h, w.a.start("read", "f", 1, 0)))
    w.expect("written again", PAGE, w.meanwhile(h, w.b.start("write", "f", b"z" * PAGE, 0)))
    h.release()
    late.result()
    w.expect("page", b"z", late("read", "f", 1, 0))
    w.expect("page", b"z", w.a("read", "f", 1, 0))


for what, flags in (("reading", os.O_RDONLY), ("writing", os.O_RDWR)):
    window(name="late_open_for_" + what, args=(flags,))(open_late)


def inode_locked(w, point, call):
    """A call that has its file locked in the kernel waits; the file is written elsewhere. 3a."""
    ino = w.file(b"a" * PAGE * 2)
    w.a.ok("open", "f", w.p(1, "f"), os.O_RDWR)
    w.a.ok("read", "f", PAGE, 0)
    w.file(b"c" * PAGE, "src")
    w.a.ok("open", "src", w.p(1, "src"), os.O_RDONLY)
    w.b.ok("open", "f", w.p(2, "f"), os.O_RDWR)
    h = w.hold(point, ino if "copy" not in point else 0)
    w.a.start(*call)
    h.hit()
    w.expect("write elsewhere", PAGE, w.meanwhile(h, w.b.start("write", "f", b"y" * PAGE, PAGE)))
    h.release()
    r = w.a.result()
    if isinstance(r, str):
        w.expect("the call that was kept", None, r)
    w.expect("page", b"y", w.a("read", "f", 1, PAGE))


for what, point, call in (
        ("fsync", "fsync.before_pin", ("sync", "f")),
        ("fallocate", "fallocate.before_pin", ("falloc", "f", 1, 0, 4 * PAGE)),
        ("copy", "copy_file_range.before_pin", ("copy", "src", "f", 10)),
        ("truncate", "setattr.before_pin", ("ftruncate", "f", 2 * PAGE)),
):
    window(name="held_" + what, args=(point, call))(inode_locked)


@window("omit.drop_read_meanwhile")
def write_held_and_read(w):
    """A WRITE waits; its pages are dropped, and read anew as they were: they go once more before it is answered. R-C."""
    ino = w.file(b"a" * PAGE * 2)
    w.a.ok("open", "f", w.p(1, "f"), os.O_WRONLY)
    reader = w.client(1)
    reader.ok("open", "f", w.p(1, "f"), os.O_RDONLY)
    reader.ok("read", "f", PAGE * 2, 0)
    w.b.ok("open", "f", w.p(2, "f"), os.O_WRONLY)
    h = w.hold("write.before_pin", ino)
    w.a.start("write", "f", b"w" * PAGE, 0)
    h.hit()
    w.expect("write elsewhere", PAGE, w.meanwhile(h, w.b.start("write", "f", b"y" * PAGE, PAGE)))
    w.expect("read meanwhile", b"y", w.meanwhile(h, reader.start("read", "f", 1, PAGE)))
    reader.ok("read", "f", PAGE, 0)
    h.release()
    w.expect("write", PAGE, w.a.result())
    w.expect("page", b"w" * PAGE, reader("read", "f", PAGE, 0))


# --- maps: 3d -------------------------------------------------------------------------------------------------

def mapped(w, flags=os.O_RDWR):
    ino = w.file(b"a" * PAGE * 16)
    w.a.ok("open", "f", w.p(1, "f"), flags)
    w.a.ok("map", "m", "f", PAGE * 16)
    w.b.ok("open", "f", w.p(2, "f"), os.O_RDWR)
    w.a.ok("poke", "m", 2 * PAGE, b"M" * 10)
    return ino


def dirty_map(w, flags):
    """A dirty mapped page comes back while the token is given back; other pages still serve. 3d, R-C."""
    ino = mapped(w, flags)
    other = w.client(1)
    other.ok("open", "f", w.p(1, "f"), os.O_RDONLY)
    h = w.hold("write.before_pin", ino)
    w.b.start("read", "f", 20, 2 * PAGE)
    if not w.omission: # else it never comes back
        h.hit()
        w.expect("another page meanwhile", b"a", w.meanwhile(h, other.start("read", "f", 1, 7 * PAGE)))
        w.blocked(h, w.b)
        h.release()
    w.expect("what was stored into the map", b"M" * 10 + b"a" * 10, w.b.result())
    w.expect("write elsewhere", 5, w.b("write", "f", b"B" * 5, 2 * PAGE))
    w.expect("seen in the map", b"B" * 5 + b"M" * 5, w.a("peek", "m", 2 * PAGE, 10))


window("inval.data+inval.data_last", name="dirty_map", args=(os.O_RDWR,))(dirty_map)
window(name="dirty_map_of_an_append_handle", args=(os.O_RDWR | os.O_APPEND,), window="maps of files with direct I/O")(dirty_map)


@window()
def dirty_map_and_truncate(w):
    """A change of size is kept; dirty mapped pages wait for it in the kernel, and the revoke for them. 3d, R-B."""
    ino = mapped(w)
    cut = w.client(1)
    cut.ok("open", "f", w.p(1, "f"), os.O_RDWR)
    h = w.hold("setattr.before_pin", ino)
    cut.start("ftruncate", "f", 8 * PAGE)
    h.hit()
    w.b.start("read", "f", 20, 2 * PAGE)
    w.blocked(h, w.b)
    h.release()
    w.expect("truncate", None, cut.result())
    w.expect("what was stored into the map", b"M" * 10 + b"a" * 10, w.b.result())
    w.expect("size elsewhere", 8 * PAGE, w.b("fsize", "f"))


@window()
def dirtied_again(w):
    """A page is stored to again behind the first round of the revoke: it goes with the next owner's answer or after it, never lost. 3d."""
    ino = mapped(w)
    poker = w.client(1)
    poker.ok("open", "f", w.p(1, "f"), os.O_RDWR)
    poker.ok("map", "m", "f", PAGE * 16)
    w.hold("inval.round", ino, delay=100, times=100)  # behind each round of the first step the page is read and dirty again
    h = w.hold("inval.data_last", ino)
    poker.start("pokes", "m", 2 * PAGE, 2.0)
    w.b.start("read", "f", 20, 2 * PAGE)
    h.hit()
    w.a.start("poke", "m", 2 * PAGE + 100, b"Z")  # waits, or gets into the page that goes
    w.a.over(0.1)
    w.blocked(h, w.b)
    h.release()
    w.b.result()
    w.a.result()
    stored = poker.result()
    w.expect("stored last", stored, w.b("read", "f", 8, 2 * PAGE))
    w.expect("stored while it was given back", b"Z", w.b("read", "f", 1, 2 * PAGE + 100))


@window()
def fsync_held_and_dirty(w):
    """FSYNC waits with a page stored to again: the revoke does not wait for it. 3a, 3d."""
    ino = mapped(w)
    syncer = w.client(1)
    syncer.ok("open", "f", w.p(1, "f"), os.O_RDWR)
    h = w.hold("fsync.before_pin", ino)
    syncer.start("sync", "f")
    h.hit()
    w.a.ok("poke", "m", 2 * PAGE, b"N" * 10)
    w.expect("what was stored into the map", b"N" * 10, w.meanwhile(h, w.b.start("read", "f", 10, 2 * PAGE)))
    h.release()
    w.expect("fsync", None, syncer.result())


# --- O_APPEND: 3e ---------------------------------------------------------------------------------------------

@window("omit.append_at_end")
def append_held(w):
    """An append waits with the end its kernel knew; the file grows elsewhere. 3e."""
    ino = w.file(b"a" * 100)
    w.a.ok("open", "f", w.p(1, "f"), os.O_WRONLY | os.O_APPEND)
    w.b.ok("open", "f", w.p(2, "f"), os.O_WRONLY | os.O_APPEND)
    w.a.ok("fsize", "f")
    h = w.hold("write.before_pin", ino)
    w.a.start("append", "f", b"A" * 10)
    h.hit()
    w.expect("append elsewhere", 5000, w.meanwhile(h, w.b.start("append", "f", b"B" * 5000)))
    h.release()
    w.expect("append", 10, w.a.result())
    for n, c in ((1, w.a), (2, w.b)):
        w.expect("node %d: all of it" % n, b"a" * 100 + b"B" * 5000 + b"A" * 10, c("slurp", w.p(n, "f")))


@window("omit.drop_misplaced")
def append_in_pages(w):
    """O_APPEND set later on a handle with pages: the kernel puts the bytes where it believes the end to be. 3e."""
    ino = w.file(b"a" * 100)
    w.a.ok("open", "f", w.p(1, "f"), os.O_RDWR)
    w.b.ok("open", "f", w.p(2, "f"), os.O_WRONLY | os.O_APPEND)
    w.a.ok("append_flag", "f")
    w.expect("append elsewhere", 5000, w.b("append", "f", b"B" * 5000))
    w.expect("read below the end that the kernel knows", b"a" * 10, w.a("read", "f", 10, 0))
    h = w.hold("write.after_reply", ino)
    w.expect("append", 10, w.a("append", "f", b"A" * 10))
    h.hit()
    w.expect("where the kernel had put it", b"B" * 10, w.a("read", "f", 10, 100))
    w.expect("where it belongs", b"A" * 10, w.a("read", "f", 20, 5100))
    h.open_still()
    h.release()


@window("omit.size_settled")
def read_behind_appends(w):
    """What the kernel is told of the size is overtaken by another append: a read sees the one before, which was over. Law 10."""
    ino = w.file(b"a" * 100)
    w.a.ok("open", "f", w.p(1, "f"), os.O_RDONLY)
    w.b.ok("open", "f", w.p(2, "f"), os.O_WRONLY | os.O_APPEND)
    w.expect("all of it", b"a" * 100, w.a("read", "f", PAGE, 0))
    w.expect("append elsewhere", 100, w.b("append", "f", b"B" * 100))
    h = w.hold("getattr.before_reply", ino, nth=1 if w.omission else 2, times=1)  # the first is a thread of the daemon
    w.a.start("read", "f", PAGE, 0)
    h.hit()
    w.expect("another one", 100, w.meanwhile(h, w.b.start("append", "f", b"C" * 100)))
    h.release()
    got = w.a.result()
    w.expect("what was appended before the read", b"a" * 100 + b"B" * 100, got[:200])
    w.expect("all of it", b"a" * 100 + b"B" * 100 + b"C" * 100, w.a("read", "f", PAGE, 0))


@window("omit.drop_torn")
def size_told_beside_a_read(w):
    """The kernel is about to cut a page at the size it was told, and waits for the READ that fills it, farther. Law 10."""
    ino = w.file(b"a" * 100)
    late = w.client(1)
    for c in (w.a, late):
        c.ok("open", "f", w.p(1, "f"), os.O_RDONLY)
    w.b.ok("open", "f", w.p(2, "f"), os.O_WRONLY | os.O_APPEND)
    w.expect("append elsewhere", 100, w.b("append", "f", b"B" * 100))
    h = w.hold("read.before_pin", ino, times=1)
    late.start("read", "f", 50, 0)
    h.hit()
    w.expect("size", 200, w.a("fsize", "f"))
    w.expect("append elsewhere", 100, w.meanwhile(h, w.b.start("append", "f", b"C" * 100)))
    h.release()
    w.expect("the read that was kept", b"a" * 50, late.result())
    w.expect("all of it", b"a" * 100 + b"B" * 100 + b"C" * 100, w.a("read", "f", PAGE, 0))
    w.expect("all of it, again", b"a" * 100 + b"B" * 100 + b"C" * 100, late("read", "f", PAGE, 0))


# --- running them ---------------------------------------------------------------------------------------------

def run_one(admin, dirs, sub, fn, omission):
    """None, or what is wrong: (kind, text)."""
    w = Run(admin, dirs, sub)
    w.omission = omission
    try:
        for point in (omission or "").split("+"):
            if point and not point.startswith("read."):
                w.hold(point, skip=True)
        fn(w)
    except Stale as e:
        w.stale.append(str(e))
    except (Hang, Missed) as e:
        return type(e).__name__, str(e) + "".join("; " + s for s in w.stale)
    except Exception:  # pylint: disable=broad-except: told, with its place
        return "Error", traceback.format_exc()
    finally:
        w.end()
    return ("Stale", "; ".join(w.stale)) if w.stale else None


def planted(w):
    """What is wrong with windows themselves is seen: (what, exception, call)."""
    w.file()
    h = w.hold("mknod.before_pin", w.dir_ino)
    yield "nobody comes", Missed, lambda: h.hit(limit=0.2)
    yield "closed already", Missed, h.open_still
    yield "does not wait", Missed, lambda: w.blocked(h, w.b.start("size", w.p(2, "f")))
    w.b.result()
    w.a.start("mknod", w.p(1, "x"))
    h.hit()
    yield "does not end", Hang, lambda: w.a.result(0.2)
    h.release()
    w.a.result()
    yield "an error instead of an answer", Stale, lambda: w.a.ok("size", w.p(1, "nothing"))


def self_check(admin, dirs):
    w = Run(admin, dirs, "self")
    bad = 0
    try:
        for what, kind, call in planted(w):
            try:
                call()
            except kind:
                continue
            bad += 1
            print("PLANTED %s: expected %s, got nothing" % (what, kind.__name__))
    finally:
        w.end()
    return bad


def tried(tries, *args):
    """What is wrong after so many tries for the window to open; an answer counts at once."""
    for i in range(tries):
        sub = args[2] + (".%d" % i if i else "")
        wrong = run_one(args[0], args[1], sub, *args[3:])
        if not wrong or wrong[0] != "Missed":
            return wrong
        if i + 1 < tries:
            print("again: %s: %s" % (args[2], wrong[1]))
    return wrong


def main():
    global READERS  # pylint: disable=global-statement
    parser = argparse.ArgumentParser()
    parser.add_argument("--tries", type=int, default=1)
    parser.add_argument("--readers", type=int, default=READERS)
    for what in ("fs", "sockets"):
        parser.add_argument(what)
    parser.add_argument("args", nargs="+")
    opt = parser.parse_args()
    READERS = opt.readers
    dirs = [a for a in opt.args if a.startswith("/")]
    only = opt.args[len(dirs):]
    admin = Admin(lambda n: opt.sockets % n, opt.fs)
    there = what_is_there(admin, dirs)
    bad, opened, noticed = self_check(admin, dirs), 0, 0
    for name, fn, plants, needs in WINDOWS:
        if only and name not in only:
            continue
        missing = {k: v for k, v in needs.items() if not there[v]}
        if "window" in missing:
            print("left out: %s: no %s" % (name, missing["window"]))
            continue
        if missing:
            plants = ()
            print("left out: the omission in %s: no %s" % (name, missing["omission"]))
        t = time.monotonic()
        wrong = tried(opt.tries, admin, dirs, name, fn, None)
        if wrong:
            bad += 1
            print("%s %s: %s" % (wrong[0].upper(), name, wrong[1]))
        else:
            opened += 1
        for plant in plants:
            wrong = tried(opt.tries, admin, dirs, name + "." + plant, fn, plant)
            if wrong and wrong[0] == "Stale":
                noticed += 1
            else:
                bad += 1
                print("PLANTED %s with %s: expected a stale answer, got %s" % (name, plant, wrong or "none"))
        if time.monotonic() - t > LIMIT:
            print("slow: %s: %.1f s" % (name, time.monotonic() - t))
        sys.stdout.flush()
    print("%d windows open and shut without a stale answer, %d planted faults noticed, %d wrong" % (opened, noticed, bad))
    return 1 if bad or not opened else 0


if __name__ == "__main__":
    sys.exit(main())
