#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One file, written by several nodes at once.

shared.py write DIR SHAPE NODE NODES CALLS PASSES LOG    writes the calls of NODE (1..NODES) into DIR/SHAPE, PASSES times over
                                (0: until SIGTERM), every pass with other bytes. LOG, which lies outside of the file system under
                                test, has a line when a call begins (-), when it has returned (+), when an fsync has (=).
shared.py sum SHAPE NODES CALLS PASSES                   the checksum that the file has when all have written
shared.py verify DIR SHAPE NODES CALLS DEAD LOG...       by the logs of nodes 1..NODES: what a living node was told is written is
                                there; of node DEAD (0: none) what was fsynced; elsewhere is what was begun, or zeros where nothing was.
What must never happen: a line + or = before the call has returned, or a call before its line -.
"""
import hashlib
import os
import signal
import sys

MIB = 1 << 20
# Bytes of a call; place of a node's i-th call.
SHAPES = {"segmented": (MIB, lambda node, nodes, i, calls: (node - 1) * calls + i),
          "strided": (MIB, lambda node, nodes, i, calls: i * nodes + node - 1),
          "hard": (47008, lambda node, nodes, i, calls: i * nodes + node - 1)}
SYNC_EVERY = 16
PAGE = 4096


def body(shape, node, i, g):
    size = SHAPES[shape][0]
    block = hashlib.sha512(b"%s %d %d %d" % (shape.encode(), node, i, g)).digest().replace(b"\0", b"\1")
    return (block * (size // len(block) + 1))[:size]


def write(folder, shape, node, nodes, calls, passes, log_path):
    node, nodes, calls, passes = int(node), int(nodes), int(calls), int(passes)
    size, place = SHAPES[shape]
    ended = []
    signal.signal(signal.SIGTERM, lambda *args: ended.append(1))
    fd = os.open(os.path.join(folder, shape), os.O_CREAT | os.O_WRONLY, 0o644)  # for reading too, the token would move as a whole
    with open(log_path, "w", buffering=1, encoding="ascii") as log:
        n = 0
        while not ended and (not passes or n < passes * calls):
            g, i = divmod(n, calls)
            log.write("- %d %d\n" % (i, g))
            if os.pwrite(fd, body(shape, node, i, g), place(node, nodes, i, calls) * size) != size:
                raise OSError("short write")
            log.write("+ %d %d\n" % (i, g))
            n += 1
            # A run without end leaves its last calls without an fsync.
            if n % SYNC_EVERY == 0 or (passes and n == passes * calls):
                os.fsync(fd)
                log.write("= %d %d\n" % (i, g))
    os.close(fd)
    return 0


def checksum(shape, nodes, calls, passes):
    nodes, calls, passes = int(nodes), int(calls), int(passes)
    place, digest, at = SHAPES[shape][1], hashlib.sha256(), {}
    for node in range(1, nodes + 1):
        for i in range(calls):
            at[place(node, nodes, i, calls)] = (node, i)
    for p in sorted(at):
        digest.update(body(shape, at[p][0], at[p][1], passes - 1))
    print(digest.hexdigest())
    return 0


class Log:
    """Last generation of each call that was begun, that had returned, that was stable."""
    def __init__(self, path):
        self.begun, self.done, self.stable = {}, {}, {}
        with open(path, encoding="ascii") as f:
            for line in f.read().split("\n")[:-1]:
                verb, i, g = line.split()
                if verb == "=":
                    self.stable = dict(self.done)
                else:
                    (self.begun if verb == "-" else self.done)[int(i)] = int(g)


def possible(got, could):
    """Every page is that of one of them; a page at the edge may be one that others share."""
    if got in could:
        return True
    return all(any(got[k:k + PAGE] == c[k:k + PAGE] for c in could) or
               all(any(got[j] == c[j] for c in could) for j in range(k, min(k + PAGE, len(got)))) for k in range(0, len(got), PAGE))


def verify(folder, shape, nodes, calls, dead, *paths):
    nodes, calls, dead = int(nodes), int(calls), int(dead)
    size, place = SHAPES[shape]
    path, bad, must, least, most = os.path.join(folder, shape), 0, [0] * nodes, 0, 0
    fd = os.open(path, os.O_RDONLY)
    for node, log in enumerate(map(Log, paths), 1):
        certain = log.stable if node == dead else log.done
        for i in range(calls):
            at, first, last = place(node, nodes, i, calls) * size, certain.get(i, -1), log.begun.get(i, -1)
            got = os.pread(fd, size, at)
            must[node - 1] += first >= 0
            least = max(least, at + size if first >= 0 else 0)
            most = max(most, at + size if last >= 0 else 0)
            # Newest first: nearly always it is the last.
            could = [body(shape, node, i, g) for g in range(last, max(first, 0) - 1, -1)] + [b"\0" * size] * (first < 0)
            whole = got if first >= 0 else got + b"\0" * (size - len(got))
            if len(whole) != size or not possible(whole, could):
                bad += 1
                if bad <= 10:
                    print("%s: call %d of node %d at %d: generation %d was %s, %d begun; others are there (%d bytes)" %
                          (path, i, node, at, first, "stable" if node == dead else "written", last, len(got)))
    have = os.fstat(fd).st_size
    if not least <= have <= most:
        bad += 1
        print("%s: %d bytes long, between %d and %d are possible" % (path, have, least, most))
    print("%s: %s calls of the nodes must be there, %d bad" % (shape, ", ".join(map(str, must)), bad))
    return 0 if not bad and all(must) else 1


sys.exit({"write": write, "sum": checksum, "verify": verify}[sys.argv[1]](*sys.argv[2:]))
