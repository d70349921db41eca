#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# One large directory of empty files: made by one node and then by another, listed, looked at, removed.
# 20,000 names, or as many as TESSERA_BENCH_ENTRIES says (docs/posix.md has the figures of a million).
# What must never happen: a figure of a step that failed or left names out.
cd "$(dirname "$(readlink -f "$0")")" || exit 1
exec python3 - <<'END'
import os, random, subprocess, sys, time
from bench import *

MAKE = """
import os, sys
d, first, end, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
for i in range(first, end, step):
    os.close(os.open("%s/entry-%07d" % (d, i), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
"""
N = int(os.environ.get("TESSERA_BENCH_ENTRIES", "20000"))
WORKERS, TURN, TENTH = 3, 50, N // 10
name = "bigdir.%d" % os.getpid()

def big(node):
    return "%s/%s" % (mnt(node), name)

def show(what, count, seconds, note=""):
    line("%d names: %s" % (N, what), count / seconds, "/s", ("%.1f s" % seconds) + note)

def timed(what, count, fn):
    start = time.monotonic()
    fn()
    show(what, count, time.monotonic() - start)

def make(node, first, end):
    start = time.monotonic()
    jobs = [subprocess.Popen([sys.executable, "-c", MAKE, big(node), str(first + i), str(end), str(WORKERS)]) for i in range(WORKERS)]
    if any([j.wait() for j in jobs]):
        sys.exit("bigdir: a create failed")
    return time.monotonic() - start

def listing(node):
    got = sum(1 for _ in os.scandir(big(node)))
    if got != N:
        sys.exit("bigdir: node %d lists %d of %d names" % (node, got, N))

def stats(node, count):
    for i in random.sample(range(N), count):
        os.lstat("%s/entry-%07d" % (big(node), i))

def find(node):
    got = subprocess.run(["find", big(node), "-mindepth", "1", "-printf", "%s\\n"], stdout=subprocess.PIPE, check=True).stdout.count(b"\n")
    if got != N:
        sys.exit("bigdir: find on node %d shows %d of %d names" % (node, got, N))

def turns(count):
    for i in range(count):
        os.close(os.open("%s/turn-%07d" % (big(1 + i // TURN % 2), i), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    for i in range(count):
        os.unlink("%s/turn-%07d" % (big(1), i))

os.mkdir(big(1))
for k in range(9):
    seconds = make(1, k * TENTH, (k + 1) * TENTH)
    if k in (0, 4, 8):
        show("create, node 1, %d processes, %d. tenth" % (WORKERS, k + 1), TENTH, seconds)
show("create, node 2, the last tenth", N - 9 * TENTH, make(2, 9 * TENTH, N))
timed("list names, node 3", N, lambda: listing(3))
timed("list names, node 3 again", N, lambda: listing(3))
some = min(N // 4, 20000)
timed("stat of random names, node 3", some, lambda: stats(3, some))
timed("stat of random names, node 1", some, lambda: stats(1, some))
timed("find -printf (stat of all), node 3", N, lambda: find(3))
timed("create and remove, nodes 1 and 2 by turns of %d" % TURN, min(TENTH, 2000) * 2, lambda: turns(min(TENTH, 2000)))
timed("rm -rf, node 1, all known to node 3", N, lambda: subprocess.run(["rm", "-rf", big(1)], check=True))
END
