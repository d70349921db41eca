#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# stat of 10,000 files: first and second pass, with the number of requests that reached the daemon. With
# tokens held the second pass needs none.
# What must never happen: a pass that stops at an error and looks fast.
cd "$(dirname "$(readlink -f "$0")")" || exit 1
exec python3 - <<'END'
import os
from bench import *

N = 10000
d = "stat.%d" % os.getpid()
os.mkdir(mnt(1) + "/" + d)
for i in range(N):
    os.close(os.open("%s/%s/f%d" % (mnt(1), d, i), os.O_CREAT | os.O_WRONLY, 0o644))
def walk(node):
    base = "%s/%s/f" % (mnt(node), d)
    for i in range(N):
        os.stat(base + str(i))
for node, what in ((2, "another node"), (1, "the creating node")):
    for nth in ("first", "second"):
        with Counted() as c:
            walk(node)
        asked = "requests to daemons: -" if c.fuse is None else "requests to daemons: %d" % c.fuse
        frames = "" if c.frames is None else ", frames: %d" % c.frames
        line("stat of 10,000 files, %s, %s pass" % (what, nth), N / c.seconds, "/s", asked + frames)
END
