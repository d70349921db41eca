#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What was promised stable, and whether it is.

promises.py write DIR NODE LOG    changes of every kind below DIR for ever, some of them made stable. LOG lies outside
                                  of the file system under test: a line before a change begins, another
                                  when the call that makes it stable has returned. If there is a LOG it goes on from there.
promises.py verify DIR LOG...     what the logs of all nodes say is stable is there, nothing else is where something
                                  stable was, and nothing anywhere is garbage.
What must never happen: a "+" line before its fsync has returned, or a change before its "-" line.

A line is "- KIND A B" (begun) or "+ KIND A B" (stable). The kinds:
  file N 0       a new file, fsynced            append N 0    record N at the end (O_APPEND), fdatasynced
  slot S G       generation G over slot S of a file of this node, fsynced        swap G 0   a new file renamed over the old
  shared S G     the same in a file that all nodes write                         move N 0   from one directory to another
  common N 0     record N at the end of a file that all nodes append to          drop N 0   file N removed
"""
import hashlib
import os
import random
import sys
import time

SLOT, SLOTS, RECORD = 3000, 12, 64
SIZES = (0, 10, 3901, 4096, 5000, 70000, 300000)


def stream(key, size):
    block = hashlib.sha256(key.encode()).digest().replace(b"\0", b"\1")
    return (block * (size // len(block) + 1))[:size]


def body(node, n):
    return stream("file %d %d" % (node, n), SIZES[n % len(SIZES)])


def slot(node, s, g):
    return stream("slot %d %d %d" % (node, s, g), SLOT) if g else b"\0" * SLOT


def swap(node, g):
    return stream("swap %d %d" % (node, g), 2000 + g % 7000)


def record(node, n):
    return b"%d %08d %s\n" % (node, n, hashlib.sha256(b"%d %d" % (node, n)).hexdigest()[:RECORD - 12].encode())


def broad(node):
    return stream("broad %d" % node, 16 << 20)


def loose(node, n):
    return stream("loose %d %d" % (node, n), 1 + n * 7919 % 200000)


# --- writing ----------------------------------------------------------------------------------------


class Writer:
    def __init__(self, folder, node, log):
        self.node, self.random = node, random.Random()
        past = Log(log) if os.path.exists(log) else None
        self.log = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self.own = os.path.join(folder, "by%d" % node)
        self.dirs = []
        for d in (folder, self.own, os.path.join(self.own, "to"), os.path.join(folder, "all")):
            os.makedirs(d, exist_ok=True)
            self.dirs.append(os.open(d, os.O_RDONLY | os.O_DIRECTORY))
        for d in self.dirs:
            os.fsync(d)
        self.files = {f: os.open(os.path.join(folder, f), os.O_CREAT | os.O_RDWR | extra, 0o600)
                      for f, extra in (("by%d/append" % node, os.O_APPEND), ("by%d/slots" % node, 0),
                                       ("all/append", os.O_APPEND), ("all/slots", 0))}
        self.next = dict.fromkeys(("file", "append", "swap", "common", "loose"), 1)
        self.generation = {}
        self.here = []
        self.bytes = broad(node)
        self.broad = os.open(os.path.join(self.own, "broad"), os.O_CREAT | os.O_WRONLY, 0o600)
        if past:
            self.resume(past)

    def resume(self, past):
        """After a failure: what was begun is not begun again; nothing is put behind a record that may be lost."""
        for kind in ("file", "swap", "common"):
            self.next[kind] = past.last("-", kind) + 1
        for kind in ("slot", "shared"):
            self.generation.update(((kind, s), g) for s, g in past.get("-", kind).items())
        gone = past.get("-", "move").keys() | past.get("-", "drop").keys()
        self.here = [n for n in past.get("+", "file") if n not in gone]
        fd = self.files["by%d/append" % self.node]
        kept = past.last("+", "append")
        while os.pread(fd, RECORD, kept * RECORD) == record(self.node, kept + 1):
            kept += 1
        os.ftruncate(fd, kept * RECORD)
        self.next["append"] = kept + 1
        for name in os.listdir(self.own):
            if name.startswith("swap."):
                os.unlink(os.path.join(self.own, name))

    def say(self, sign, kind, a, b=0):
        os.write(self.log, b"%s %s %d %d\n" % (sign.encode(), kind.encode(), a, b))

    def number(self, kind):
        self.next[kind] += 1
        return self.next[kind] - 1

    def fill(self, name, data, stable):
        fd = os.open(os.path.join(self.own, name), os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        while data:
            data = data[os.write(fd, data):]
        if stable:
            os.fsync(fd)
        os.close(fd)

    def do_file(self):
        n = self.number("file")
        self.say("-", "file", n)
        self.fill("f%d" % n, body(self.node, n), True)
        self.say("+", "file", n)
        self.here.append(n)

    def do_append(self, kind="append", name=None):
        n = self.number(kind)
        fd = self.files[name or "by%d/append" % self.node]
        self.say("-", kind, n)
        os.write(fd, record(self.node, n))
        if n % 3:
            os.fdatasync(fd)
            self.say("+", kind, n)

    def do_common(self):
        self.do_append("common", "all/append")

    def do_slot(self, kind="slot", name=None, at=lambda s: s):
        s = self.random.randrange(SLOTS)
        g = self.generation[kind, s] = self.generation.get((kind, s), 0) + 1
        fd = self.files[name or "by%d/slots" % self.node]
        self.say("-", kind, s, g)
        os.pwrite(fd, slot(self.node, s, g), at(s) * SLOT)
        if self.random.randrange(3):
            os.fsync(fd)
            self.say("+", kind, s, g)

    def do_shared(self):
        self.do_slot("shared", "all/slots", lambda s: s * 4 + self.node)

    def do_swap(self):
        g = self.number("swap")
        self.say("-", "swap", g)
        self.fill("swap.%d" % g, swap(self.node, g), True)
        os.rename(os.path.join(self.own, "swap.%d" % g), os.path.join(self.own, "swap"))
        os.fsync(self.dirs[1])
        self.say("+", "swap", g)

    def do_move(self):
        if not self.here:
            return
        n = self.here.pop(self.random.randrange(len(self.here)))
        self.say("-", "move", n)
        os.rename(os.path.join(self.own, "f%d" % n), os.path.join(self.own, "to", "f%d" % n))
        os.fsync(self.dirs[2])
        os.fsync(self.dirs[1])
        self.say("+", "move", n)

    def do_drop(self):
        if len(self.here) < 3:
            return
        n = self.here.pop(self.random.randrange(len(self.here)))
        self.say("-", "drop", n)
        os.unlink(os.path.join(self.own, "f%d" % n))
        os.fsync(self.dirs[1])
        self.say("+", "drop", n)

    def do_loose(self):
        """Nobody asked for these to be stable: they may be lost, but must not harm the others."""
        n = self.number("loose")
        self.fill("loose%d" % n, loose(self.node, n), False)
        if n > 30:
            os.unlink(os.path.join(self.own, "loose%d" % (n - 30)))


    def do_broad(self, at):
        size = 1 << 20
        os.pwrite(self.broad, self.bytes[at % 16 * size:(at % 16 + 1) * size], at % 16 * size)


def write(folder, node, log):
    """Promises in bursts, and between them what nobody flushes: one flush covers a whole disk, so where they never
    cease there is nothing to throw away."""
    w = Writer(folder, int(node), log)
    work = (w.do_file, w.do_file, w.do_file, w.do_append, w.do_append, w.do_slot, w.do_slot, w.do_swap, w.do_move, w.do_drop,
            w.do_common, w.do_shared, w.do_loose)
    at, deck = 0, []
    while True:
        for _ in range(w.random.randrange(1, 24)):
            deck = deck or w.random.sample(work, len(work))
            deck.pop()()
        end = time.monotonic() + w.random.random() * 0.6
        while time.monotonic() < end:
            w.do_loose()
            w.do_broad(at)
            at += 1
            time.sleep(0.02)


# --- verifying --------------------------------------------------------------------------------------


def in_part(got, want):
    return got == want[:len(got)] or all(not a or a == b for a, b in zip(got, want))


class Verdict:
    def __init__(self, folder):
        self.folder, self.bad, self.promises = folder, 0, 0

    def wrong(self, path, why):
        self.bad += 1
        print("%s: %s" % (path, why))

    def read(self, path, why=None):
        """None if it is not there; that is wrong if there is a reason for it to be."""
        try:
            with open(os.path.join(self.folder, path), "rb") as f:
                return f.read()
        except OSError as e:
            if why or not isinstance(e, FileNotFoundError):
                self.wrong(path, "%s: %s" % (why, e.strerror))
            return None

    def equal(self, path, got, want, stable):
        """Stable: exactly this. Else it may be short, and zero where nothing has arrived."""
        if got is None or got == want:
            return
        if stable:
            self.wrong(path, "was stable with %d bytes; %d others are there" % (len(want), len(got)))
        elif len(got) > len(want) or not all(in_part(got[i:i + 4096], want[i:i + 4096]) for i in range(0, len(got), 4096)):
            self.wrong(path, "holds what nobody wrote there")


class Log:
    def __init__(self, path):
        self.begun, self.stable = {}, {}
        with open(path, encoding="ascii") as f:
            for line in f.read().split("\n")[:-1]:
                sign, kind, a, b = line.split()
                (self.begun if sign == "-" else self.stable).setdefault(kind, {})[int(a)] = int(b)

    def get(self, sign, kind):
        return (self.begun if sign == "-" else self.stable).get(kind, {})

    def last(self, sign, kind):
        return max(self.get(sign, kind), default=0)


def verify_files(v, node, log):
    moved, dropped, made = log.get("-", "move"), log.get("-", "drop"), log.get("+", "file")
    for n in log.get("-", "file"):
        name, to = "by%d/f%d" % (node, n), "by%d/to/f%d" % (node, n)
        here, there = v.read(name), v.read(to) if n in moved else None
        for path, got in ((name, here), (to, there)):
            v.equal(path, got, body(node, n), n in made)
        if n in log.get("+", "move") and (here is not None or there is None):
            v.wrong(to, "the rename to it was stable; %s is there" % (name if here is not None else "nothing"))
        elif n in log.get("+", "drop") and here is not None:
            v.wrong(name, "its removal was stable; it is there")
        elif here is not None and there is not None:
            v.wrong(name, "has two names after a rename")
        elif n in made and n not in dropped and here is None and there is None:
            v.wrong(name, "was stable; it is gone")


def verify_swap(v, node, log):
    stable, begun = log.last("+", "swap"), log.last("-", "swap")
    path = "by%d/swap" % node
    got = v.read(path, "was stable" if stable else None)
    if got is not None and got not in [swap(node, g) for g in range(max(stable, 1), begun + 1)]:
        v.wrong(path, "generation %d was stable, %d begun; another content is there" % (stable, begun))
    for g in range(1, stable + 1):
        if os.path.lexists(os.path.join(v.folder, "by%d/swap.%d" % (node, g))):
            v.wrong("by%d/swap.%d" % (node, g), "its renaming was stable; it is there")


def verify_append(v, node, log):
    path, stable = "by%d/append" % node, log.last("+", "append")
    want = b"".join(record(node, n) for n in range(1, log.last("-", "append") + 1))
    got = v.read(path, "was stable" if stable else None)
    if got is not None:
        v.equal("%s, first %d records" % (path, stable), got[:stable * RECORD], want[:stable * RECORD], True)
        v.equal(path, got, want, False)


def verify_slots(v, path, node, stable, begun, at):
    got = v.read(path, "was stable" if stable else None)
    for s in range(SLOTS) if got is not None else ():
        first, last = stable.get(s, 0), begun.get(s, 0)
        part = got[at(s) * SLOT:(at(s) + 1) * SLOT]
        could = [slot(node, s, g) for g in range(first, last + 1)]
        if first and len(part) < SLOT:
            v.wrong(path, "slot %d of node %d was stable; the file ends within it" % (s, node))
        elif any(all(c[i] != x for c in could) for i, x in enumerate(part)):
            v.wrong(path, "slot %d of node %d: generation %d was stable, %d begun; others are there" % (s, node, first, last))


def verify_common(v, logs):
    path = "all/append"
    stable = {record(node, n): 0 for node, log in logs.items() for n in log.get("+", "common")}
    begun = {record(node, n) for node, log in logs.items() for n in log.get("-", "common")}
    got = v.read(path, "was stable" if stable else None) or b""
    for i in range(0, len(got), RECORD):
        r = got[i:i + RECORD]
        if r in stable:
            stable[r] += 1
        elif r not in begun and not any(in_part(r, b) for b in begun):
            v.wrong(path, "record %d is none that a node wrote: %r" % (i // RECORD, r))
    for r, times in stable.items():
        if times != 1:
            v.wrong(path, "a stable record is there %d times: %r" % (times, r))


def verify_loose(v, node):
    v.equal("by%d/broad" % node, v.read("by%d/broad" % node), broad(node), False)
    for name in os.listdir(os.path.join(v.folder, "by%d" % node)):
        if name.startswith("loose"):
            v.equal("by%d/%s" % (node, name), v.read("by%d/%s" % (node, name)), loose(node, int(name[5:])), False)


def verify(folder, *paths):
    v, logs = Verdict(folder), {int(p[-1]): Log(p) for p in paths} # a log's name ends with its node
    for node, log in logs.items():
        v.promises += sum(len(k) for k in log.stable.values())
        if not os.path.isdir(os.path.join(folder, "by%d" % node)):
            if log.begun:
                v.wrong("by%d" % node, "was stable; it is gone")
            continue
        verify_files(v, node, log)
        verify_swap(v, node, log)
        verify_append(v, node, log)
        verify_slots(v, "by%d/slots" % node, node, log.get("+", "slot"), log.get("-", "slot"), lambda s: s)
        verify_slots(v, "all/slots", node, log.get("+", "shared"), log.get("-", "shared"), lambda s, n=node: s * 4 + n)
        verify_loose(v, node)
    verify_common(v, logs)
    print("%d promises, %d broken" % (v.promises, v.bad))
    return 1 if v.bad or not v.promises else 0


sys.exit({"write": write, "verify": verify}[sys.argv[1]](*sys.argv[2:]))
