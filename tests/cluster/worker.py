#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Work during failures.

worker.py write DIR LOG    files and appends with fsync for ever; what was acknowledged goes to LOG, which
                           lies outside of the file system under test
worker.py verify DIR LOG   everything that LOG says is stable must be there, byte for byte
worker.py pause DIR OUT S  small operations for S seconds; the longest one, in milliseconds, to OUT
What must never happen: a line in LOG before its fsync has returned.
"""
import hashlib
import os
import sys
import time


def body(n):
    size = (0, 10, 3901, 4096, 5000, 70000, 1 << 20)[n % 7]
    block = hashlib.sha256(b"%d" % n).digest()
    return (block * (size // len(block) + 1))[:size]


def record(n):
    return b"%09d %s\n" % (n, hashlib.md5(b"%d" % n).hexdigest().encode())


def write(folder, log_path):
    parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    journal = os.open(os.path.join(folder, "journal"), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    n = 0
    with open(log_path, "w", buffering=1, encoding="ascii") as log:
        while True:
            fd = os.open(os.path.join(folder, "w%06d" % n), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            data = body(n)
            while data:
                data = data[os.write(fd, data):]
            os.fsync(fd)
            os.close(fd)
            os.fsync(parent)
            log.write("file %d\n" % n)
            os.write(journal, record(n))
            os.fsync(journal)
            log.write("journal %d\n" % n)
            # Changes nobody asked to be stable: they may be lost, but must not harm the others.
            with open(os.path.join(folder, "loose%d" % (n % 50)), "wb") as f:
                f.write(body(n + 3))
            n += 1


def verify(folder, log_path):
    files, last, bad = 0, -1, 0
    with open(log_path, encoding="ascii") as log:
        for entry in log.read().split("\n")[:-1]:
            kind, n = entry.split()
            if kind == "journal":
                last = int(n)
                continue
            path = os.path.join(folder, "w%06d" % int(n))
            files += 1
            try:
                with open(path, "rb") as f:
                    data = f.read()
                if data != body(int(n)):
                    bad += 1
                    print("%s: %d bytes were fsynced, %d others are there" % (path, len(body(int(n))), len(data)))
            except OSError as e:
                bad += 1
                print("%s: was fsynced: %s" % (path, e.strerror))
    path = os.path.join(folder, "journal")
    with open(path, "rb") as f:
        data = f.read()
    expected = b"".join(record(i) for i in range(last + 1))
    if data[:len(expected)] != expected:
        bad += 1
        print("%s: the first %d bytes were fsynced, %d are there and differ" % (path, len(expected), len(data)))
    print("%d files and %d records were acknowledged, %d are bad" % (files, last + 1, bad))
    return 1 if bad or not files else 0


def pause(folder, out, seconds):
    end, worst, done, errors = time.monotonic() + float(seconds), 0.0, 0, 0
    while time.monotonic() < end:
        t = time.monotonic()
        try:
            path = os.path.join(folder, "p%d" % (done % 20))
            with open(path, "wb") as f:
                f.write(b"%d" % done)
            os.stat(path)
            os.unlink(path)
        except OSError as e:
            errors += 1
            print("%s: %s" % (folder, e), file=sys.stderr)
            time.sleep(0.1)
        done += 1
        worst = max(worst, time.monotonic() - t)
        time.sleep(0.005)
    with open(out, "w", encoding="ascii") as f:
        f.write("%d %d %d\n" % (worst * 1000, done, errors))
    return 1 if errors else 0


sys.exit({"write": write, "verify": verify, "pause": pause}[sys.argv[1]](*sys.argv[2:]))
