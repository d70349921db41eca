#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Create and close of empty files: one node in a directory of its own; three nodes, each in its own;
# three nodes in one shared directory.
# What must never happen: a figure when a create failed or a name is missing afterwards.
cd "$(dirname "$(readlink -f "$0")")" || exit 1
exec python3 - <<'END'
import os, subprocess, sys, time
from bench import *

WORK = """
import os, sys, time
d, who, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
t = time.monotonic()
for i in range(n):
    os.close(os.open("%s/%s.%d" % (d, who, i), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
print(time.monotonic() - t)
"""

def crowd(what, dirs, n):
    with Counted() as c:
        jobs = [subprocess.Popen([sys.executable, "-c", WORK, d, what.replace(" ", "_") + str(i), str(n)], stdout=subprocess.PIPE, text=True)
                for i, d in enumerate(dirs)]
        times = [float(j.communicate()[0] or "nan") for j in jobs]
    if any(j.returncode for j in jobs):
        sys.exit("create: %s failed" % what)
    total = n * len(dirs)
    frames = "" if c.frames is None else "%.2f frames each" % (c.frames / total)
    line("create+close, " + what, total / max(times), "/s", frames)

base = "create.%d" % os.getpid()
os.makedirs(mnt(1) + "/" + base)
for n in NODES:
    os.mkdir("%s/%s/own%d" % (mnt(n), base, n))
os.mkdir("%s/%s/shared" % (mnt(1), base))
N = 5000
crowd("one node, own directory", ["%s/%s/own1" % (mnt(1), base)], N)
crowd("three nodes, own directories", ["%s/%s/own%d" % (mnt(n), base, n) for n in NODES], N // 2)
crowd("three nodes, one directory", ["%s/%s/shared" % (mnt(n), base) for n in NODES], N // 5)
got = len(os.listdir("%s/%s/shared" % (mnt(2), base)))
if got != 3 * (N // 5):
    sys.exit("create: shared directory: expected %d names, got %d" % (3 * (N // 5), got))
END
