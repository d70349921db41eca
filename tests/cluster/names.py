#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""names.py again DIR COUNT PASSES | storm SECONDS DIR... | stays DIR OTHER ROUNDS: names that the kernel keeps.

again: looks at COUNT files of DIR PASSES times; prints "looks" behind each pass and waits for a line on stdin.
storm: three processes in each DIR (one directory, seen by several nodes) make, remove, rename, link and look at the same few names,
relative to where they are, in bursts with pauses in which names are kept. No call may give what no such call gives, and at the end all see the same.
stays: a process in DIR/sub, with a mount upon DIR/on, while OTHER (the same directory by another node) changes what is beside them.
What must never happen: an error is passed over because it is rare."""
import collections
import errno
import os
import random
import sys
import time

NAMES = 40
PROCESSES = 3
BURST = 200
EXPECTED = {errno.ENOENT, errno.EEXIST}


def again(path, count, passes):
    for _ in range(passes):
        for i in range(count):
            os.stat("%s/f%d" % (path, i))
        print("looked", flush=True)
        sys.stdin.readline()


def step(rnd, keep):
    a, b = "k%d" % rnd.randrange(NAMES), "k%d" % rnd.randrange(NAMES)
    what = rnd.randrange(8)
    if what == 0:
        os.close(os.open(a, os.O_CREAT | os.O_RDWR))
    elif what == 1:
        os.unlink(a)
    elif what == 2:
        os.rename(a, b)
    elif what == 3:
        os.link(a, b)
    elif what == 4:
        os.listdir(".")
    elif what == 5:
        keep.append(os.open(a, os.O_RDONLY))
    else:
        os.stat(a)


def storm_process(path, seed, seconds):
    os.chdir(path)
    rnd, keep, wrong = random.Random(seed), collections.deque(), collections.Counter()
    until, worst, n = time.monotonic() + seconds, 0.0, 0
    while time.monotonic() < until:
        t = time.monotonic()
        try:
            step(rnd, keep)
        except OSError as e:
            if e.errno not in EXPECTED:
                wrong[errno.errorcode.get(e.errno, e.errno)] += 1
        worst = max(worst, time.monotonic() - t)
        if len(keep) > 8:
            os.close(keep.popleft())
        n += 1
        if n % BURST == 0:
            time.sleep(rnd.random() * 0.6)
    return n, worst, wrong


def storm(seconds, dirs):
    pipes = []
    for i, path in enumerate(dirs * PROCESSES):
        r, w = os.pipe()
        if os.fork() == 0:
            n, worst, wrong = storm_process(path, i, seconds)
            os.write(w, ("%d %.3f %s\n" % (n, worst, " ".join("%s:%d" % x for x in wrong.items()))).encode())
            os._exit(0)
        os.close(w)
        pipes.append(r)
    rows = [os.read(r, 4096).decode().split() for r in pipes]
    for _ in pipes:
        os.wait()
    bad = [x for row in rows for x in row[2:]] + ["a process ended early" for row in rows if not row]
    lists = [sorted((e.name, e.inode()) for e in os.scandir(d)) for d in dirs]
    if any(x != lists[0] for x in lists):
        bad.append("lists differ: %s" % [x for x in lists])
    print("%d calls, the longest %s ms%s" % (sum(int(r[0]) for r in rows if r), max((round(float(r[1]) * 1000) for r in rows if r), default="?"),
                                             "; wrong: " + ", ".join(bad) if bad else ""))
    return 1 if bad else 0


def stays(path, other, rounds):
    os.chdir(path + "/sub")
    for i in range(rounds):
        os.mkdir("%s/%d" % (other, i))
        os.rename("%s/%d" % (other, i), "%s/sub/%d" % (other, i))
        os.rmdir("%s/sub/%d" % (other, i))
        os.stat(path + "/sub")
        if os.getcwd() != path + "/sub":
            sys.exit("round %d: expected to be in %s/sub, got %s" % (i, path, os.getcwd()))
        if not os.path.ismount(path + "/on"):
            sys.exit("round %d: the mount upon %s/on is gone" % (i, path))


if sys.argv[1] == "again":
    again(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
elif sys.argv[1] == "storm":
    sys.exit(storm(float(sys.argv[2]), sys.argv[3:]))
else:
    stays(sys.argv[2], sys.argv[3], int(sys.argv[4]))
