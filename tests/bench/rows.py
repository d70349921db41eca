# SPDX-License-Identifier: Apache-2.0
"""What is measured (chains: one go of one subject, several figures) and what is asked of it (rows: a figure over another).

Rates throughout: larger is better, also where the question is a time. Shapes are IO500's: mdtest-easy (empty files, directories of one's own), mdtest-hard (3,901 bytes,
one directory), IOR-easy (1 MiB, files of one's own), IOR-hard (47,008 bytes interleaved in one file).
What must never happen: a figure of a step that failed (generators and run() raise), or a chain that leaves files for the next one to find.
"""
import os
import shutil
import statistics
import subprocess
import tarfile
import time

import subjects as s

HARD, RECORD, MIB = 3901, 47008, 1 << 20


class Size:
    """How much of everything."""

    def __init__(self, scale):
        self.files, self.tree, self.mib = max(int(3000 * scale), 50), max(int(10000 * scale), 100), max(int(256 * scale), 16)
        self.records, self.syncs, self.randoms = max(int(800 * scale), 40), max(int(300 * scale), 20), max(int(4096 * scale), 256)


def places(subject, ranks, base):
    """The base directory as each rank's mount shows it."""
    return [os.path.join(subject.mounts[k % len(subject.mounts)], base) for k in range(ranks)]


def rate(result):
    return result["ops"] / result["seconds"]


def mibs(result):
    return result["bytes"] / MIB / result["seconds"]


class Base:
    """A directory for one go, removed behind it."""

    def __init__(self, subject):
        self.name, self.path = "bench.%d.%d" % (os.getpid(), time.monotonic_ns()), subject.mounts[0]

    def __enter__(self):
        os.mkdir(os.path.join(self.path, self.name))
        return self.name

    def __exit__(self, *args):
        path = os.path.join(self.path, self.name)
        try:
            os.rmdir(path) # what lists no names (passthru --memory) can do that, too
        except OSError:
            shutil.rmtree(path, ignore_errors=args[0] is not None)


def private(subject, size, ranks=1, nbytes=0):
    """Create and unlink, each rank in a directory of its own."""
    with Base(subject) as base:
        dirs = places(subject, ranks, base)
        s.generate("meta", "setup", *dirs)
        made = s.generate("meta", "create", "--files", size.files, "--size", nbytes, *dirs)
        gone = s.generate("meta", "unlink", "--files", size.files, *dirs)
        s.generate("meta", "clean", *dirs)
        return rate(made), rate(gone)


def chain_private(subject, size):
    made, gone = private(subject, size)
    return {"create, 1 node": made, "unlink, 1 node": gone}


def chain_many(subject, size):
    got = {"create, 2 nodes": private(subject, size, 2)[0]}
    if len(subject.mounts) != 2:
        got["create, 3 nodes"] = private(subject, size, 3)[0]
    return got


def chain_hard(subject, size):
    got = {"create 3901, private": private(subject, size, 2, HARD)[0]}
    with Base(subject) as base:
        dirs, opts = places(subject, 2, base), ["--files", size.files, "--size", HARD, "--shared"]
        s.generate("meta", "setup", "--shared", dirs[0])
        got["create 3901, shared"] = rate(s.generate("meta", "create", *opts, *dirs))
        for phase in ("stat", "read"): # the second node, cold, looks at what the first has made
            subject.remount(1 % len(subject.mounts))
            got[phase + " of another's, cold"] = rate(s.generate("meta", phase, *opts, dirs[1]))
        got["unlink of another's, shared"] = rate(s.generate("meta", "unlink", "--shift", 1, *opts, *dirs))
    return got


def chain_again(subject, size):
    """Kernel requests of a second look at 10,000 files: a number, not a rate."""
    with Base(subject) as base:
        d = places(subject, 1, base)
        s.generate("meta", "setup", *d)
        s.generate("meta", "create", "--files", size.tree, *d)
        s.generate("meta", "stat", "--files", size.tree, *d)
        before = subject.counters()["fuse"]
        again = s.generate("meta", "stat", "--files", size.tree, *d)
        return {"second stat": rate(again), "second stat, requests": subject.counters()["fuse"] - before}


def archive(size):
    """size.tree files of 0 to 8 KiB in directories of 100."""
    path = os.path.join(s.place(), "tree-%d.tar" % size.tree)
    if not os.path.exists(path):
        src = s.place("tree")
        for i in range(size.tree):
            d = os.path.join(src, "d%03d" % (i // 100))
            os.makedirs(d, exist_ok=True)
            with open(os.path.join(d, "f%05d" % i), "wb") as f:
                f.write(bytes((i * 131 + k) % 251 for k in range(64)) * (i * 37 % 128))
        with tarfile.open(path + ".new", "w") as t:
            t.add(src, "tree")
        os.rename(path + ".new", path)
        shutil.rmtree(src)
    return path


def chain_tree(subject, size):
    tar, got = archive(size), {}
    counts = hasattr(subject, "counters")
    with Base(subject) as base:
        d = places(subject, 1, base)[0]
        before = subject.counters() if counts else {}
        start = time.monotonic()
        s.run("tar", "-xf", tar, "-C", d)
        got["untar"] = size.tree / (time.monotonic() - start)
        if counts:
            after = subject.counters()
            got["untar, frames"] = (after["frames"] - before["frames"]) * 10000 / size.tree
            got["untar, requests a file"] = (after["fuse"] - before["fuse"]) / size.tree
        if s.run("find", d, "-type", "f", "-printf", "x").count("x") != size.tree:
            raise RuntimeError("untar: files are missing")
        start = time.monotonic()
        s.run("rm", "-rf", os.path.join(d, "tree"))
        got["rm -rf"] = size.tree / (time.monotonic() - start)
    return got


def chain_stream(subject, size):
    """Written by the first node, read cold by the second."""
    with Base(subject) as base:
        files = [d + "/stream" for d in places(subject, 2, base)]
        wrote = s.generate("io", "write", "--count", size.mib, "--fsync", files[0])
        subject.remount(1 % len(subject.mounts))
        read = s.generate("io", "read", "--count", size.mib, files[1])
        return {"write 1 MiB, fsync": mibs(wrote), "read 1 MiB, cold": mibs(read)}


def chain_sync(subject, size):
    with Base(subject) as base:
        f = places(subject, 1, base)[0] + "/sync"
        s.generate("io", "write", "--block", 4096, "--count", size.randoms * 4, "--fsync", f)
        rand = s.generate("io", "write", "--block", 4096, "--count", size.randoms * 4, "--random", "--fsync", "--keep", f)
        each = s.generate("io", "write", "--block", 4096, "--count", size.syncs, "--sync-each", "--keep", f)
        return {"random 4 KiB, one fsync": rate(rand), "4 KiB and fdatasync": rate(each)}


def shape(subject, layout, block, count, read_back):
    with Base(subject) as base:
        dirs = places(subject, 2, base)
        files = [d + "/" + ("own%d" % k if layout == "own" else "one") for k, d in enumerate(dirs)]
        args = ["--layout", layout, "--block", block, "--count", count]
        wrote = mibs(s.generate("io", "write", *args, "--fsync", *files))
        if read_back: # by the neighbour, through its own mount
            s.generate("io", "read", *args, "--shift", 1, *([files[0].replace(dirs[0], d) for d in dirs] if layout != "own" else
                                                            [dirs[0] + "/own1", dirs[1] + "/own0"]))
        return wrote


def chain_shared(subject, size):
    def two(layout, block, count):
        if layout == "own":
            return shape(subject, layout, block, count, False)
        return shape(subject, layout, block, count, True)
    return {"two files, 47,008 bytes": two("own", RECORD, size.records), "one file, 47,008 bytes interleaved": two("strided", RECORD, size.records),
            "two files, 1 MiB": two("own", MIB, size.mib // 4), "one file, halves, 1 MiB": two("halves", MIB, size.mib // 4)}


class RawLuns:
    """The two disks beside those of the file system, through the same transport, without one."""
    name = "disks alone"

    def __init__(self, tessera):
        self.tessera, self.transport = tessera, tessera.transport

    def measure(self, size):
        luns, got = self.tessera.urls[2:4], {}
        for verb, metric in (("write", "write 1 MiB, fsync"), ("read", "read 1 MiB, cold")):
            if verb == "read":
                s.drop_caches()
            got[metric] = mibs(s.generate("raw", verb, "--mib", size.mib, *luns, net=s.NAME + "-n1")) if luns[0].startswith("iscsi:") else self.fio(verb, size, luns)
        return got

    @staticmethod
    def fio(verb, size, luns):
        """MiB/s of fio, O_DIRECT, over the files that are the disks."""
        files = ":".join(u[len("file://"):] for u in luns)
        out = s.run("fio", "--name=raw", "--filename=" + files, "--rw=" + verb, "--bs=1M", "--direct=1", "--ioengine=libaio", "--iodepth=8",
                    "--size=%dM" % size.mib, "--io_size=%dM" % size.mib, "--end_fsync=1", "--output-format=terse", "--terse-version=3")
        fields = [line for line in out.splitlines() if line.startswith("3;")][0].split(";")
        return float(fields[6 if verb == "read" else 47]) / 1024


def chain_raw(subject, size):
    return subject.measure(size)


def chain_tokens(subject, size):
    got = s.generate("tokens", "--rounds", 20)
    return {"grants and releases": got["grants_per_s"], "held token, bytes": got["held_bytes"],
            "TCP round trip, us": got["round_trip_us"], "token moved, us": got["moved_us"],
            "round trips a move": got["moved_us"] / got["round_trip_us"]}


# Name, chain, which subjects, repeats (9 where a ratio within 20 % is asked).
CHAINS = (
    ("private", chain_private, ("memory", "P", "P bare", "local", "Tessera", "GlusterFS", "MooseFS"), 9),
    ("many", chain_many, ("P", "Tessera", "GlusterFS", "MooseFS"), 9),
    ("hard", chain_hard, ("P", "Tessera", "GlusterFS", "MooseFS"), 3),
    ("again", chain_again, ("Tessera",), 3),
    ("tree", chain_tree, ("local", "P", "Tessera", "GlusterFS", "MooseFS"), 9),
    ("stream", chain_stream, ("local", "P", "Tessera", "GlusterFS", "MooseFS"), 9),
    ("raw", chain_raw, ("disks alone",), 9), # with "stream": see TOGETHER
    ("sync", chain_sync, ("local", "P", "Tessera", "GlusterFS", "MooseFS"), 9),
    ("shared", chain_shared, ("Tessera",), 9),
    ("tokens", chain_tokens, ("in process",), 3),
)
TOGETHER = {"raw": "stream"} # measured within the repeats of the other

# Figure of Tessera, over which figure of whom ("min": the smaller of two), at least.
ROWS = (
    ("P is near the most that FUSE gives: create", ("P", "create, 1 node"), ("memory", "create, 1 node"), 0.8),
    ("P is near the most that FUSE gives: unlink", ("P", "unlink, 1 node"), ("memory", "unlink, 1 node"), 0.8),
    ("create and close, directory of one's own, 1 node", ("Tessera", "create, 1 node"), ("P", "create, 1 node"), 0.9),
    ("  the same, over P without permissions and flush", ("Tessera", "create, 1 node"), ("P bare", "create, 1 node"), None),
    ("create and close, directories of their own, 2 nodes", ("Tessera", "create, 2 nodes"), ("P", "create, 2 nodes"), 0.9),
    ("create and close, directories of their own, 3 nodes", ("Tessera", "create, 3 nodes"), ("P", "create, 3 nodes"), None),
    ("create of 3,901 bytes in one directory, 2 nodes, over own directories", ("Tessera", "create 3901, shared"), ("Tessera", "create 3901, private"), 0.7),
    ("stat of another node's files, cold", ("Tessera", "stat of another's, cold"), ("P", "stat of another's, cold"), 0.5),
    ("open and read of another node's files, cold", ("Tessera", "read of another's, cold"), ("P", "read of another's, cold"), 0.5),
    ("unlink of another node's files, one directory, 2 nodes", ("Tessera", "unlink of another's, shared"), ("P", "unlink of another's, shared"), 0.5),
    ("untar of 10,000 files (rate; 1.2 times P's time is 0.83)", ("Tessera", "untar"), ("P", "untar"), 1 / 1.2),
    ("rm -rf of them", ("Tessera", "rm -rf"), ("P", "rm -rf"), 1 / 1.2),
    ("write 1 MiB and fsync, over the smaller of disks and P", ("Tessera", "write 1 MiB, fsync"), ("min", "write 1 MiB, fsync"), 0.85),
    ("read 1 MiB cold, over the smaller of disks and P", ("Tessera", "read 1 MiB, cold"), ("min", "read 1 MiB, cold"), 0.85),
    ("4 KiB at random, one fsync", ("Tessera", "random 4 KiB, one fsync"), ("P", "random 4 KiB, one fsync"), 0.7),
    ("4 KiB and fdatasync each", ("Tessera", "4 KiB and fdatasync"), ("P", "4 KiB and fdatasync"), 0.9),
    ("one file, 2 nodes, 47,008 bytes interleaved, over two files", ("Tessera", "one file, 47,008 bytes interleaved"), ("Tessera", "two files, 47,008 bytes"), None),
    ("one file, 2 nodes, halves, over two files", ("Tessera", "one file, halves, 1 MiB"), ("Tessera", "two files, 1 MiB"), 0.9),
)
# Figures that are themselves asked for: subject, figure, the most or the least.
FIGURES = (
    ("kernel requests of a second stat of 10,000 files", ("Tessera", "second stat, requests"), "at most", 0),
    ("frames between nodes, untar of 10,000 files", ("Tessera", "untar, frames"), "less than", 20),
    ("kernel requests a file, untar", ("Tessera", "untar, requests a file"), None, None),
    ("lock engine, grants and releases a second", ("in process", "grants and releases"), "at least", 3e6),
    ("bytes of a held token (dlm_res)", ("in process", "held token, bytes"), "less than", 128),
    ("TCP round trips that moving a token takes", ("in process", "round trips a move"), "at most", 3),
)


def middle(values):
    return statistics.median(values)


def interval(values):
    """Where the median lies: without the outermost from 6 values on (96 % for 9), else all that was seen."""
    v = sorted(values)
    return (v[1], v[-2]) if len(v) >= 6 else (v[0], v[-1])


def pairs(data, over, under):
    """Ratios repeat by repeat: both were measured within the same one."""
    top = data.get(over, [])
    if under[0] == "min":
        low = [min(x) for x in zip(data.get(("P", under[1]), []), data.get(("disks alone", under[1]), []))]
    else:
        low = data.get(under, [])
    return [a / b for a, b in zip(top, low)]


def self_test():
    assert interval([5, 1, 9]) == (1, 9) and interval(list(range(9))) == (1, 7) and middle([3, 1, 2]) == 2
    data = {("T", "x"): [1, 4], ("P", "x"): [2, 2], ("disks alone", "x"): [4, 1]}
    assert pairs(data, ("T", "x"), ("P", "x")) == [0.5, 2] and pairs(data, ("T", "x"), ("min", "x")) == [0.5, 4]
    assert pairs(data, ("T", "y"), ("P", "x")) == []
    known = {name for _, _, who, _ in CHAINS for name in who}
    for row in ROWS:
        assert row[1][0] in known and (row[2][0] in known or row[2][0] == "min"), row
    return subprocess.CompletedProcess([], 0).returncode
