#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Sequential write in 1 MiB pieces including fsync on one node, then a cold read on another.
# What must never happen: a warm read that passes for a cold one, or a figure for wrong data.
cd "$(dirname "$(readlink -f "$0")")" || exit 1
exec python3 - <<'END'
import hashlib, os, sys, time
from bench import *

MIB = 512
blocks = [os.urandom(1 << 20) for _ in range(8)]
name = "stream.%d" % os.getpid()
t = time.monotonic()
with open(mnt(1) + "/" + name, "wb", buffering=0) as f:
    for i in range(MIB):
        if f.write(blocks[i % 8]) != 1 << 20:
            sys.exit("stream: short write")
    os.fsync(f.fileno())
line("write 1 MiB sequential with fsync, node 1", MIB / (time.monotonic() - t), "MiB/s")
drop_caches()
def read(node, what):
    t = time.monotonic()
    with open(mnt(node) + "/" + name, "rb", buffering=0) as f:
        for i in range(MIB):
            if f.read(1 << 20) != blocks[i % 8]:
                sys.exit("stream: node %d reads other data in MiB %d" % (node, i))
    line(what, MIB / (time.monotonic() - t), "MiB/s")
read(2, "read 1 MiB sequential, cold, node 2")
read(2, "read 1 MiB sequential, again, node 2")
os.unlink(mnt(1) + "/" + name)
END
