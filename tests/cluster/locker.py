#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Locks byte 0 of NAME.0 ... NAME.(COUNT-1) for writing and keeps them until it is killed.

hold NAME COUNT READY   all of them; then its process id is written to READY
wait NAME COUNT WOKEN   a process for each, which waits; a line is appended to WOKEN when it has the lock
"""
import ctypes
import fcntl
import os
import signal
import sys
import time


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nobody is left behind on the mount


def lock(name):
    fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.lockf(fd, fcntl.LOCK_EX, 1)
    return fd


def main():
    die_with_parent()
    what, name, count, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    if what == "hold":
        keep = [lock("%s.%d" % (name, i)) for i in range(count)]
        with open(out, "w") as f:
            f.write("%d\n" % os.getpid())
        signal.pause()
        return len(keep)
    fd = os.open(out, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for i in range(count):
        if os.fork() == 0:
            die_with_parent()
            lock("%s.%d" % (name, i))
            os.write(fd, b"%d %f\n" % (i, time.time()))
            signal.pause()
            os._exit(0)
    signal.pause()
    return 0


sys.exit(main())
