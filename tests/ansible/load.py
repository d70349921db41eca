#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""load.py DIRECTORY STOP: writes, renames, reads back and removes files in a directory of its own until the file STOP is there.
Prints one line of JSON: operations, errors (each with the call), the longest call in ms. Data is checked byte by byte."""
import json
import os
import sys
import time

directory, stop = sys.argv[1:3]
operations, errors, longest = 0, [], 0.0


def call(what, fn, *args):
    global operations, longest
    t = time.monotonic()
    try:
        return fn(*args)
    except OSError as e:
        errors.append('%s: %s' % (what, e))
        return None
    finally:
        operations += 1
        longest = max(longest, time.monotonic() - t)


def write(path, data):
    fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def read(path):
    with open(path, 'rb') as f:
        return f.read()


call('mkdir', lambda: os.makedirs(directory, exist_ok=True))
n = 0
while not os.path.exists(stop) and len(errors) < 20:
    n += 1
    a, b = os.path.join(directory, 'a%d' % (n % 50)), os.path.join(directory, 'b%d' % (n % 50))
    data = (b'%016d' % n) * 4096
    call('write', write, a, data)
    call('rename', os.rename, a, b)
    got = call('read', read, b)
    if got is not None and got != data:
        errors.append('read: %s is not what was written' % b)
    call('listdir', os.listdir, directory)
    if n % 3 == 0:
        call('unlink', os.unlink, b)
print(json.dumps({'operations': operations, 'errors': errors, 'longest_ms': int(longest * 1000)}))
