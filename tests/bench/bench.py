# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: timing, the daemons' counters, dropping the kernel's caches.

Counters come from `tessera --json status` of every node; one that the daemon does not show prints as "-".
"""
import json
import os
import subprocess
import time

NAME = os.environ["TESSERA_SANDBOX_NAME"]
TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SANDBOX = os.path.join(TOP, "admin", "sandbox", "tessera-sandbox")
NODES = (1, 2, 3)


def mnt(node):
    return "/mnt/%s/n%d" % (NAME, node)


def status(node):
    out = subprocess.run([SANDBOX, "exec", str(node), "--", "tessera", "--json", "status"],
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20, check=False).stdout
    try:
        return json.loads(out)
    except ValueError:
        return {}


def counter(states, *path):
    """The sum over the states of all nodes of the counter at this path, or None if a node does not show it."""
    total = 0
    for value in states:
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, (int, float)):
            return None
        total += value
    return total


class Counted:
    """Counters before and after: frames and bytes between nodes, requests of the kernel."""
    PATHS = {"frames": ("net", "frames_sent"), "bytes": ("net", "bytes_sent"), "fuse": ("fuse", "requests")}

    def counters(self):
        states = [status(node) for node in NODES]
        return {k: counter(states, *p) for k, p in self.PATHS.items()}

    def __enter__(self):
        self.before = self.counters()
        self.start = time.monotonic()
        return self

    def __exit__(self, *args):
        self.seconds = time.monotonic() - self.start
        for k, after in self.counters().items():
            known = after is not None and self.before[k] is not None
            setattr(self, k, after - self.before[k] if known else None)


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("3\n")


def line(what, value, unit, note=""):
    shown = "-" if value is None else "%.0f" % value
    print("%-56s %10s %-6s %s" % (what, shown, unit, note), flush=True)
