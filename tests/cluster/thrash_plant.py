# SPDX-License-Identifier: Apache-2.0
"""A fault for each checker of thrash, planted when all is well: a checker that does not see it is worth nothing.

What must never happen: a fault that is left behind.
"""
import os
import re

from sandboxlib import FS, Failed, Process, mnt, sb


def must_see(what, seen, pattern):
    """seen: (exit status, what the checker said)"""
    if not seen[0] or not re.search(pattern, seen[1]):
        raise Failed("planted: %s: expected /%s/, got status %d: %s" % (what, pattern, *seen))
    print("   planted, and seen: %s: %s" % (what, re.search("[^\n]*(%s)[^\n]*" % pattern, seen[1]).group(0)[:160]))


def lost_promise(t):
    with open(t.promised(2), encoding="ascii") as f:
        lines = [line.split() for line in f]
    gone = {line[2] for line in lines if line[:2] in (["-", "move"], ["-", "drop"])}
    n = next(line[2] for line in lines if line[:2] == ["+", "file"] and line[2] not in gone)
    path = t.path("era%d" % t.era, "by2", "f" + n)
    os.rename(path, path + ".away")
    must_see("an fsynced file that is gone", t.verify(3), r"f%s: was stable; it is gone" % n)
    os.rename(path + ".away", path)


def stale_answer(t):
    """A node answers with what was the truth one write ago: the board is one ahead."""
    fsynced, written = t.board.told(0)
    t.board.wrote(0, 2, max(fsynced, written >> 16) + 1)
    must_see("a value that was only written, read too old", ran(t, "looks"), "which node 2 had written")
    t.board.disturb(2)
    t.board.undisturb(2, True)
    t.final(3, "planted: the life of its writer is over")
    t.board.synced(0, max(fsynced, written >> 16) + 1)
    must_see("a value that was fsynced, read too old", ran(t, "looks"), "which was fsynced")
    t.board.forget(0, fsynced)


def ran(t, kind):
    """That part of the load on node 3, until it ends."""
    out = os.path.join(t.where, "planted")
    p = Process(3, out, "timeout", "20", "python3", *t.command(kind, 3))
    p.p.wait()
    return p.ended() != 124 and p.ended(), p.last_words()


def two_under_a_lock(t):
    for key in range(8):
        t.board.enter(key, 2)
    must_see("two nodes under one lock", ran(t, "locks"), "node 3 and node 2 have its lock")
    for key in range(8):
        t.board.leave(key, 2)


def undone_rename(t):
    word, _ = t.board.named(2)
    t.board.renames(2, (word >> 16) + 1)
    t.board.renamed(2, (word >> 16) + 1)
    must_see("a rename that is not seen", ran(t, "looks"), "node 2 had renamed it")
    t.board.renames(2, word >> 16)
    t.board.renamed(2, word >> 16)


def find_all(path, pattern):
    """Where it is in a sparse file."""
    fd, at, found = os.open(path, os.O_RDONLY), 0, []
    end = os.fstat(fd).st_size
    while at < end:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            break
        hole, tail = os.lseek(fd, at, os.SEEK_HOLE), b""
        while at < hole:
            data = os.pread(fd, min(1 << 24, hole - at), at)
            both = tail + data
            found += [at - len(tail) + m.start() for m in re.finditer(re.escape(pattern), both)]
            at, tail = at + len(data), both[-len(pattern) + 1:]
    os.close(fd)
    return sorted(set(found))


def damaged_image(t):
    """One byte of an inode: the target of a symbolic link lies in it."""
    target = b"planted %d in an inode" % os.getpid()
    os.symlink(target, os.path.join(os.fsencode(mnt(1)), b"planted"))
    sb("umount")
    places = [(f, at) for f in sb("disks", "--files").split() for at in find_all(f, target)]
    if not places:
        raise Failed("planted: the target of a symbolic link is on no disk")
    write_all(places, b"P")
    rc, out = t.fsck()
    write_all(places, b"p")
    must_see("one byte of an inode", (rc, out), r"inode .* checksum is wrong")
    rc, out = t.fsck()
    if rc:
        raise Failed("planted: the byte is as it was, yet fsck says: %s" % out)
    sb("mount", FS)
    os.unlink(os.path.join(mnt(1), "planted"))


def write_all(places, data):
    for path, at in places:
        fd = os.open(path, os.O_WRONLY)
        os.pwrite(fd, data, at)
        os.fsync(fd)
        os.close(fd)


def plant_all(t):
    for fault in (lost_promise, stale_answer, two_under_a_lock, undone_rename, damaged_image):
        fault(t)
