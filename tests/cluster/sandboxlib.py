# SPDX-License-Identifier: Apache-2.0
"""The sandbox, for tests in Python: its commands, what a node says of itself, processes on nodes.

What must never happen: a look that hangs (each has a limit), a process on a node that outlives the one that began it.
"""
import ctypes
import json
import os
import signal
import subprocess
import time

HERE = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.realpath(os.path.join(HERE, "../.."))
NAME = os.environ.setdefault("TESSERA_SANDBOX_NAME", "tscheck")
os.environ.setdefault("TESSERA_BINDIR", os.path.join(TOP, "build/release/admin"))
SANDBOX = os.path.join(TOP, "admin/sandbox/tessera-sandbox")
STATE = os.environ.get("TESSERA_SANDBOX_DIR", "/var/lib/%s-sandbox" % NAME)
FS = os.environ.get("TESSERA_TEST_FS", "t")
LIBC = ctypes.CDLL(None)


class Failed(Exception):
    pass


def end_with_us():
    LIBC.prctl(1, signal.SIGKILL) # PR_SET_PDEATHSIG


def sb(*args, limit=90, check=True):
    """A command of the sandbox: its output, or None if it failed and need not succeed."""
    try:
        r = subprocess.run([SANDBOX, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit, text=True,
                           stdin=subprocess.DEVNULL, check=False)
        out, rc = r.stdout.strip(), r.returncode
    except subprocess.TimeoutExpired:
        out, rc = "not finished after %d s" % limit, 124
    if rc and check:
        raise Failed("sandbox %s: %s" % (" ".join(map(str, args)), out.split("\n")[-1]))
    return None if rc else out


def mnt(node):
    return "/mnt/%s/n%d" % (NAME, node)


def node_log(node, which="tesserad"):
    return "%s/n%d/%s.log" % (STATE, node, which)


def daemon_pid(node):
    """0: none lives."""
    try:
        with open("%s/n%d/tesserad.pid" % (STATE, node), encoding="ascii") as f:
            pid = int(f.read())
        with open("/proc/%d/stat" % pid, encoding="ascii") as f:
            return 0 if f.read().rsplit(")", 1)[1].split()[0] == "Z" else pid
    except (OSError, ValueError):
        return 0


def status(node):
    """What the daemon says, or None."""
    out = sb("exec", node, "--", "timeout", "5", "tessera", "--json", "status", check=False, limit=20)
    try:
        return json.loads(out) if out else None
    except ValueError:
        return None


def run_on(node, *command, limit=120):
    """(exit status, output) of a command on a node."""
    r = subprocess.run([SANDBOX, "exec", str(node), "--", "timeout", "-k", "5", str(limit), *map(str, command)], stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, preexec_fn=end_with_us)
    return r.returncode, r.stdout.strip()


class Process:
    """One that belongs to a node: it loses power with it, and ends with us."""

    def __init__(self, node, log, *command):
        self.node, self.log = node, log
        with open(log, "a", encoding="ascii") as f:
            self.p = subprocess.Popen([SANDBOX, "exec", str(node), "--", *map(str, command)], stdin=subprocess.DEVNULL, stdout=f, stderr=f,
                                      preexec_fn=end_with_us)

    def ended(self):
        return self.p.poll()

    def kill(self):
        if self.p.poll() is None:
            self.p.kill()
        try:
            self.p.wait(20)
        except subprocess.TimeoutExpired:
            raise Failed("node %d: process %d survives SIGKILL for 20 s: %s" % (self.node, self.p.pid, self.p.args[4:])) from None

    def last_words(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            lines = f.read().strip().split("\n")
        return lines[-1]


def wait_for(seconds, what, test, every=0.1):
    end = time.monotonic() + seconds
    while True:
        r = test()
        if r:
            return r
        if time.monotonic() > end:
            raise Failed("%s: not within %d s" % (what, seconds))
        time.sleep(every)
