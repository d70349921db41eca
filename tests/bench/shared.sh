#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# One file written by one, two and three nodes at once: each its own contiguous part; strided by 1 MiB; interleaved records of
# 47,008 bytes. Each with fsync at the end, then read back by the neighbour and compared. Beside it, by turns, the same volume
# written by the same nodes to files of their own: the ratio is what sharing costs.
# One node alone shares nothing: its ratio is the noise of the measurement.
# TESSERA_BENCH_SCALE=N: N times the volume, TESSERA_BENCH_REPEATS=N (2): the better of so many.
# What must never happen: a figure for a file that does not hold what was written.
cd "$(dirname "$(readlink -f "$0")")" || exit 1
exec python3 - <<'END'
import os, subprocess, sys, time
from bench import *

SCALE, REPEATS = int(os.environ.get("TESSERA_BENCH_SCALE", "1")), int(os.environ.get("TESSERA_BENCH_REPEATS", "2"))
MIB, HARD = 1 << 20, 47008
# Name, bytes of a call, calls of a node, place of a node's i-th call.
SHAPES = (("segmented, 1 MiB", MIB, 12 * SCALE, lambda node, n, i, calls: node * calls + i),
          ("strided, 1 MiB", MIB, 12 * SCALE, lambda node, n, i, calls: i * n + node),
          ("interleaved, 47,008 bytes", HARD, 160 * SCALE, lambda node, n, i, calls: i * n + node))

# Waits for a line, so that all begin together. Each call says in its first bytes which one it is.
WORK = """
import os, sys, time
verb, path, size, who, places = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), [int(p) for p in sys.argv[5].split(",")]
base = bytes((k * 7 + k // 251 + who * 31) & 255 for k in range(4096)) * (size // 4096 + 1)
fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
print("ready", flush=True)
sys.stdin.readline()
t = time.monotonic()
for p in places:
    data = b"%15d." % p + base[16:size]
    if verb == "write":
        if os.pwrite(fd, data, p * size) != size:
            sys.exit("short write at call %d" % p)
    else:
        got = os.pread(fd, size, p * size)
        if got != data:
            sys.exit("other bytes than node %d wrote in call %d (%d bytes)" % (who, p, len(got)))
if verb == "write":
    os.fsync(fd)
print(time.monotonic() - t)
"""

def crowd(verb, jobs):
    """All at once; seconds until the last has ended."""
    procs = [subprocess.Popen([sys.executable, "-c", WORK, verb, path, str(size), str(who), ",".join(map(str, places))],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for path, size, who, places in jobs]
    for p in procs:
        p.stdout.readline()
    for p in procs:
        p.stdin.write("\n")
        p.stdin.flush()
    times = [float(p.communicate()[0] or "nan") for p in procs]
    if any(p.returncode for p in procs):
        sys.exit("shared: %s failed" % verb)
    return max(times)

def once(shape, n, shared, nth):
    """(MiB/s written, MiB/s read by the neighbours, frames a call)"""
    name, size, calls, place = shape
    base = "shared.%d.%d" % (os.getpid(), nth)
    def job(who, through):
        path = "%s/%s%s" % (mnt(NODES[through]), base, "" if shared else ".own%d" % who)
        return path, size, who, [place(who, n, i, calls) for i in range(calls)] if shared else list(range(calls))
    total = n * calls * size / MIB
    frames = None
    if shared:
        with Counted() as c:
            wrote = crowd("write", [job(k, k) for k in range(n)])
        frames = None if c.frames is None else c.frames / (n * calls)
    else:
        wrote = crowd("write", [job(k, k) for k in range(n)])
    read = crowd("read", [job(k, (k + 1) % len(NODES)) for k in range(n)])
    for k in range(1 if shared else n):
        os.unlink(job(k, k)[0])
    return total / wrote, total / read, frames

nth = 0
for shape in SHAPES:
    for n in (1, 2, 3):
        best = {True: (0, 0, None), False: (0, 0, None)}
        for _ in range(REPEATS):
            for shared in (True, False):
                nth += 1
                got = once(shape, n, shared, nth)
                best[shared] = tuple(max(a, b) for a, b in zip(best[shared][:2], got[:2])) + (got[2],)
        s, o = best[True], best[False]
        what = "one file, %s, %d node%s" % (shape[0], n, "s"[:n > 1])
        frames = "" if s[2] is None else ", %.1f frames a call" % s[2]
        line(what + ", write", s[0], "MiB/s", "%.2f of own files (%.0f)%s" % (s[0] / o[0], o[0], frames))
        line("  read by the neighbour", s[1], "MiB/s", "%.2f of own files (%.0f)" % (s[1] / o[1], o[1]))
END
