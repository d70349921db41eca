#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# tar of 10,000 small files unpacked on one node of three, with the frames and bytes that went between
# nodes: a node that works alone should send next to nothing.
# What must never happen: a figure for an incomplete tree.
cd "$(dirname "$(readlink -f "$0")")" || exit 1
exec python3 - <<'END'
import io, os, random, subprocess, sys, tarfile
from bench import *

N, rnd, buf = 10000, random.Random(1), io.BytesIO()
with tarfile.open(fileobj=buf, mode="w") as tar:
    for i in range(N):
        info = tarfile.TarInfo("d%d/f%d" % (i // 100, i))
        info.size = rnd.choice((0, 200, 1500, 3901, 8000))
        tar.addfile(info, io.BytesIO(rnd.randbytes(info.size)))
d = "%s/untar.%d" % (mnt(1), os.getpid())
os.mkdir(d)
with Counted() as c:
    subprocess.run(["tar", "-C", d, "-xf", "-"], input=buf.getvalue(), check=True)
got = sum(len(f) for _, _, f in os.walk(d))
if got != N:
    sys.exit("untar: expected %d files, got %d" % (N, got))
line("untar of 10,000 small files, node 1", N / c.seconds, "/s", "%.1f s" % c.seconds)
line("  frames between nodes meanwhile", c.frames, "")
line("  bytes between nodes meanwhile", c.bytes, "")
END
