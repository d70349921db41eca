#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The load of thrash on one node, and what each look of it must show.

thrash_load.py make DIR                   what the others need
thrash_load.py locks DIR NODE BOARD       counters under fcntl locks: nobody else is under the lock, the value is the last one told
thrash_load.py looks DIR NODE BOARD OUT   the counters without locks, and the names: what was acknowledged before a look is seen by it
thrash_load.py names DIR NODE BOARD       a file of this node gets one new name after the other; files come and go beside it
thrash_load.py pauses DIR NODE BOARD OUT  a small operation on a file of this node every 10 ms; those of more than 100 ms to OUT
thrash_load.py final DIR NODE BOARD       once: the counters are what was told, and their contents are whole
Each runs until it is killed. Exit status 3: something was wrong; 4: the file system failed.
What must never happen: a look that is repeated until it is right.
"""
import fcntl
import hashlib
import os
import random
import struct
import sys
import time

from thrash_board import Board, KEYS, NODES, now_ms

SIZE = 512
OURS = "count%d"


class Wrong(Exception):
    pass


def record(value):
    head = struct.pack("<Q", value)
    return head + (hashlib.sha256(head).digest() * (SIZE // 32))[:SIZE - 8]


def whole(what, data):
    value = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
    if data != record(value):
        raise Wrong("%s: %d bytes that belong to no value (%d?)" % (what, len(data), value))
    return value


def make(folder):
    for d in ("counts", "names", *("pauses%d" % n for n in range(1, NODES + 1))):
        os.makedirs(os.path.join(folder, d), exist_ok=True)
    for key in range(KEYS):
        with open(os.path.join(folder, "counts", OURS % key), "wb") as f:
            f.write(record(0))
            os.fsync(f.fileno())
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def locks(folder, node, board):
    rng, made = random.Random(), 0
    while True:
        key = rng.randrange(KEYS)
        path = os.path.join(folder, "counts", OURS % key)
        fd = os.open(path, os.O_RDWR)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX)
            other = board.enter(key, node)
            if other:
                raise Wrong("%s: node %d and node %d have its lock" % (path, node, other))
            told = board.told(key)
            got = whole(path, os.pread(fd, SIZE, 0))
            why = board.judge(told, got)
            if why:
                raise Wrong("%s under its lock: %s" % (path, why))
            os.pwrite(fd, record(got + 1), 0)
            board.wrote(key, node, got + 1)
            if rng.randrange(3):
                os.fsync(fd)
                board.synced(key, got + 1)
        finally:
            board.leave(key, node)
            os.close(fd)
        made += 1
        time.sleep(rng.random() * 0.03)


def look_at_count(folder, board, key):
    path = os.path.join(folder, "counts", OURS % key)
    told = board.told(key)
    fd = os.open(path, os.O_RDONLY)
    data = os.pread(fd, 8, 0)
    os.close(fd)
    why = board.judge(told, struct.unpack("<Q", data)[0] if len(data) == 8 else 0)
    if why:
        raise Wrong("%s: %s" % (path, why))


def name_of(node, count):
    return "of%d.%d" % (node, count)


def there(path):
    try:
        os.lstat(path)
        return True
    except FileNotFoundError:
        return False


def look_at_names(folder, board, owner):
    folder = os.path.join(folder, "names")
    before = board.named(owner)
    word, count = before[0], before[0] >> 16
    if not count:
        return
    old, now = there(os.path.join(folder, name_of(owner, count - 1))), there(os.path.join(folder, name_of(owner, count)))
    seen = [n for n in os.listdir(folder) if n.startswith("of%d." % owner)]
    still = board.named(owner) == before and not before[1]
    if not board.lives(word):
        return # renames that nobody fsynced may be lost
    if old:
        raise Wrong("%s: node %d had renamed it; it is there" % (name_of(owner, count - 1), owner))
    if still and not (now and seen == [name_of(owner, count)]):
        raise Wrong("%s: expected %s, which node %d had made; %s, the directory lists %s" %
                    (folder, name_of(owner, count), owner, "it is there" if now else "it is not there", seen))


def note_long(f, begin, end):
    if end - begin > 100:
        f.write("%d %d\n" % (begin, end))


def looks(folder, node, board, out):
    rng = random.Random()
    with open(out, "a", buffering=1, encoding="ascii") as f:
        while True:
            begin = now_ms()
            look_at_count(folder, board, rng.randrange(KEYS))
            if rng.randrange(4) == 0:
                look_at_names(folder, board, rng.choice([n for n in range(1, NODES + 1) if n != node]))
            note_long(f, begin, now_ms())
            time.sleep(rng.random() * 0.02)


def names(folder, node, board):
    folder = os.path.join(folder, "names")
    mine = [n for n in os.listdir(folder) if n.startswith("of%d." % node)]
    if len(mine) > 1:
        raise Wrong("%s: one file has the names %s" % (folder, mine))
    count = int(mine[0].split(".")[1]) if mine else 1
    if not mine:
        os.close(os.open(os.path.join(folder, name_of(node, count)), os.O_CREAT | os.O_WRONLY, 0o600))
    parent = os.open(folder, os.O_RDONLY)
    board.renames(node, count)
    board.renamed(node, count)
    rng = random.Random()
    while True:
        board.renames(node, count + 1)
        os.rename(os.path.join(folder, name_of(node, count)), os.path.join(folder, name_of(node, count + 1)))
        count += 1
        board.renamed(node, count)
        path = os.path.join(folder, "some%d.%d" % (node, count % 20))
        if os.path.lexists(path):
            os.unlink(path)
        elif count % 3:
            os.link(os.path.join(folder, name_of(node, count)), path)
        else:
            os.symlink(name_of(node, count), path)
        if rng.randrange(8) == 0:
            os.fsync(parent)
        time.sleep(rng.random() * 0.1)


def pauses(folder, node, board, out):
    del board
    path, due = os.path.join(folder, "pauses%d" % node, "file"), now_ms()
    fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    with open(out, "a", buffering=1, encoding="ascii") as f:
        while True:
            begin = now_ms()
            os.pwrite(fd, b"%d" % begin, 0)
            os.stat(path)
            end = now_ms()
            note_long(f, begin, end)
            due = max(due + 10, end)
            time.sleep(max(0, due - now_ms()) / 1000)


def final(folder, node, board):
    del node
    for key in range(KEYS):
        path = os.path.join(folder, "counts", OURS % key)
        with open(path, "rb") as f:
            got = whole(path, f.read())
        why = board.judge(board.told(key), got)
        if why:
            raise Wrong("%s: %s" % (path, why))
    print("%d counters, %d fsynced in all" % (KEYS, sum(board.told(k)[0] for k in range(KEYS))))


def main():
    what, folder = sys.argv[1:3]
    if what == "make":
        return make(folder)
    kinds = {"locks": locks, "looks": looks, "names": names, "pauses": pauses, "final": final}
    try:
        kinds[what](folder, int(sys.argv[3]), Board(sys.argv[4]), *sys.argv[5:])
    except Wrong as e:
        print("WRONG %d: %s" % (now_ms(), e), flush=True)
        return 3
    except OSError as e:
        print("failed at %d: %s" % (now_ms(), e), flush=True)
        return 4
    return 0


sys.exit(main())
