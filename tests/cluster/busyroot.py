#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""busyroot.py SECONDS MOUNT...: three processes a mount make, write, append to, read, cut and remove the same few files, directly in
the root directory. Every process must get on, all the time: one that does not for 15 s is stuck.
What must never happen: this waits for one that is stuck."""
import multiprocessing
import os
import random
import sys
import time

FILES = 4
STUCK_S = 15


def once(rnd, mount):
    path = os.path.join(mount, "busyroot%d" % rnd.randrange(FILES))
    what = rnd.randrange(7)
    if what == 0:
        os.unlink(path)
        return
    flags = (0, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT, os.O_RDONLY, os.O_RDONLY, os.O_WRONLY | os.O_APPEND | os.O_CREAT, os.O_RDWR)[what]
    fd = os.open(path, flags)
    try:
        if what in (1, 2):
            os.pwrite(fd, os.urandom(rnd.randrange(1, 9000)), rnd.randrange(5000))
        elif what in (3, 4):
            os.pread(fd, 20000, 0)
            os.pread(fd, 20000, rnd.randrange(9000))
        elif what == 5:
            os.write(fd, b"x" * rnd.randrange(1, 3000))
        else:
            os.ftruncate(fd, rnd.randrange(8000))
    finally:
        os.close(fd)


def work(mount, seed, until, done):
    rnd = random.Random(seed)
    while time.monotonic() < until:
        try:
            once(rnd, mount)
        except FileNotFoundError:
            pass
        with done.get_lock():
            done.value += 1


def main(seconds, mounts):
    until = time.monotonic() + seconds
    jobs = []
    for i in range(3 * len(mounts)):
        done = multiprocessing.Value("Q", 0)
        p = multiprocessing.Process(target=work, args=(mounts[i % len(mounts)], i, until, done), daemon=True)
        p.start()
        jobs.append([p, done, 0, time.monotonic()])
    while any(j[0].is_alive() for j in jobs):
        time.sleep(0.5)
        now = time.monotonic()
        for j in jobs:
            if j[1].value != j[2]:
                j[2:] = [j[1].value, now]
            elif j[0].is_alive() and now - j[3] > STUCK_S:
                print("stuck: %s operations of the processes" % [k[1].value for k in jobs], flush=True)
                os._exit(1)
    if any(j[0].exitcode for j in jobs):
        print("a process failed")
        return 1
    print("%d operations by %d processes" % (sum(j[2] for j in jobs), len(jobs)))
    for i in range(FILES):
        try:
            os.unlink(os.path.join(mounts[0], "busyroot%d" % i))
        except FileNotFoundError:
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
