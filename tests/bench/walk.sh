#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Files that node 1 has just made, looked at or removed by node 2 in several orders, with the frames between nodes and the requests of
# the kernel for each file. Tokens asked for ahead (fs/ahead.c) are what makes the first number small.
# What must never happen: a walk that stops at an error and looks fast.
cd "$(dirname "$(readlink -f "$0")")" || exit 1
exec python3 - <<'END'
import os
import random
import subprocess
from bench import *

N = 4000
def make(what, size=0):
    name = "walk.%d.%s" % (os.getpid(), what)
    os.mkdir("%s/%s" % (mnt(1), name))
    for i in range(N):
        f = os.open("%s/%s/f%05d" % (mnt(1), name, i), os.O_CREAT | os.O_WRONLY, 0o644)
        if os.write(f, b"x" * size) != size:
            raise OSError("short write")
        os.close(f)
    return "%s/%s" % (mnt(2), name)
def read(path):
    f = os.open(path, os.O_RDONLY)
    while os.read(f, 1 << 16):
        pass
    os.close(f)
def each(fn, d, order=range(N)):
    for i in order:
        fn("%s/f%05d" % (d, i))
def run(*argv):
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
def timed(what, fn, *args):
    with Counted() as c:
        fn(*args)
    note = "" if c.frames is None or c.fuse is None else "%.3f frames, %.2f requests a file" % (c.frames / N, c.fuse / N)
    line("another node's files: " + what, N / c.seconds, "/s", note)

shuffled = list(range(N))
random.Random(1).shuffle(shuffled)
timed("stat in order", each, os.stat, make("a"))
timed("find -printf", run, "find", make("b"), "-type", "f", "-printf", "%s")
timed("stat shuffled", each, os.stat, make("c"), shuffled)
d = make("d")
os.listdir(d)
timed("stat shuffled, listed before", each, os.stat, d, shuffled)
d = make("e", 3901)
timed("open, read 3,901 bytes", each, read, d)
timed("unlink after that", each, os.unlink, d)
timed("unlink", each, os.unlink, make("f", 3901))
d = make("g", 20000)
timed("tar, 20,000 bytes each", run, "sh", "-c", "tar cf - '%s' | cat" % d)
timed("rm -rf after that", run, "rm", "-rf", d)
END
