#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mail as programs of old keep it, written and read on several nodes at once.

mailer.py deliver DIR WHO COUNT      COUNT messages into the maildir DIR: tmp/NAME, fsync, rename to new/NAME
mailer.py take DIR WHO OUT STOP      what is in new/ moves to cur/, each message by one taker; what this one took goes to
                                     OUT; ends when STOP is there and new/ is empty
mailer.py maildir DIR COUNT OUT...   every message of every sender is there once, whole, and was taken once
mailer.py append FILE WHO COUNT KIND COUNT messages to the mbox FILE, under a lock: dotlock (O_EXCL), link, fcntl, flock.
                                     Its first line counts them and is rewritten in place
mailer.py mbox FILE COUNT            the count, and every message of every sender once, whole, in its sender's order
"""
import ctypes
import fcntl
import hashlib
import os
import random
import signal
import sys
import time


def text(who, i):
    block = hashlib.sha256(("%s.%d" % (who, i)).encode()).hexdigest()
    lines = 1 + i * 7 % 90
    return "From %s %d %d\n%s\n" % (who, i, lines, "\n".join([block] * lines))


def deliver(folder, who, count):
    for i in range(count):
        name = "%s.%d" % (who, i)
        fd = os.open("%s/tmp/%s" % (folder, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, text(who, i).encode())
        os.fsync(fd)
        os.close(fd)
        os.rename("%s/tmp/%s" % (folder, name), "%s/new/%s" % (folder, name))


def take(folder, who, out, stop):
    with open(out, "w", buffering=1, encoding="ascii") as log:
        while True:
            last = os.path.exists(stop)
            names = os.listdir(folder + "/new")
            random.shuffle(names)
            for name in names:
                try:
                    os.rename("%s/new/%s" % (folder, name), "%s/cur/%s:%s" % (folder, name, who))
                except FileNotFoundError:
                    continue  # another node was first
                sender, i = name.split(".")
                with open("%s/cur/%s:%s" % (folder, name, who), encoding="ascii") as f:
                    if f.read() != text(sender, int(i)):
                        sys.exit("%s: expected the message as it was sent, got another" % name)
                log.write(name + "\n")
            if last and not names:
                return
            time.sleep(0.01)


def maildir(folder, count, outs):
    taken = []
    for out in outs:
        with open(out, encoding="ascii") as f:
            taken += f.read().split()
    there = [name.split(":")[0] for name in os.listdir(folder + "/cur")]
    for what, names in (("taken", taken), ("in cur/", there)):
        if len(names) != len(set(names)):
            sys.exit("%s: expected every message once, got %d of %d" % (what, len(set(names)), len(names)))
        if len(names) != count:
            sys.exit("%s: expected %d messages, got %d" % (what, count, len(names)))
    for sub in ("tmp", "new"):
        if os.listdir("%s/%s" % (folder, sub)):
            sys.exit("%s/: expected nothing, got %s" % (sub, os.listdir("%s/%s" % (folder, sub))[:3]))
    print("%d messages, by takers: %s" % (count, sorted(sum(1 for _ in open(o, encoding="ascii")) for o in outs)))


class Lock:
    """Mutual exclusion on FILE, as mail programs do it."""

    def __init__(self, kind, path, who):
        self.kind, self.path, self.own = kind, path + ".lock", "%s.%s.%d" % (path, who, os.getpid())
        self.fd = os.open(path, os.O_RDWR)

    def __enter__(self):
        if self.kind == "fcntl":
            fcntl.lockf(self.fd, fcntl.LOCK_EX)
        elif self.kind == "flock":
            fcntl.flock(self.fd, fcntl.LOCK_EX)
        elif self.kind == "dotlock":
            while True:
                try:
                    os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
                    return self.fd
                except FileExistsError:
                    time.sleep(random.random() * 0.01)
        else:
            # As over old NFS: whether link() worked is asked of the number of links.
            os.close(os.open(self.own, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            while True:
                try:
                    os.link(self.own, self.path)
                except FileExistsError:
                    pass
                if os.stat(self.own).st_nlink == 2:
                    return self.fd
                time.sleep(random.random() * 0.01)
        return self.fd

    def __exit__(self, *_):
        if self.kind == "fcntl":
            fcntl.lockf(self.fd, fcntl.LOCK_UN)
        elif self.kind == "flock":
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        else:
            os.unlink(self.path)
            if self.kind == "link":
                os.unlink(self.own)


def append(path, who, count, kind):
    lock = Lock(kind, path, who)
    for i in range(count):
        with lock as fd:
            n = int(os.pread(fd, 10, 0))
            os.pwrite(fd, text(who, i).encode(), os.fstat(fd).st_size)
            os.pwrite(fd, b"%010d" % (n + 1), 0)


def mbox(path, count):
    with open(path, encoding="ascii") as f:
        lines = f.read().split("\n")
    if int(lines[0]) != count:
        sys.exit("expected a count of %d, got %s" % (count, lines[0]))
    seen, at = {}, 1
    while lines[at]:
        word, who, i, more = lines[at].split()
        i, end = int(i), at + 1 + int(more)
        if word != "From" or "\n".join(lines[at:end]) + "\n" != text(who, i):
            sys.exit("line %d: expected a message as it was sent, got another" % (at + 1))
        if seen.get(who, -1) != i - 1:
            sys.exit("line %d: message %d of %s after %d" % (at + 1, i, who, seen.get(who, -1)))
        seen[who], at = i, end
    total = sum(n + 1 for n in seen.values())
    if total != count or lines[at:] != [""]:
        sys.exit("expected %d messages and the end, got %d and %d lines more" % (count, total, len(lines) - at - 1))


def main():
    what, args = sys.argv[1], sys.argv[2:]
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nobody is left behind on the mount
    if what == "deliver":
        deliver(args[0], args[1], int(args[2]))
    elif what == "take":
        take(*args)
    elif what == "maildir":
        maildir(args[0], int(args[1]), args[2:])
    elif what == "append":
        append(args[0], args[1], int(args[2]), args[3])
    elif what == "mbox":
        mbox(args[0], int(args[1]))
    else:
        sys.exit(__doc__)


main()
