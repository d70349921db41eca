#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The hands of the tests on a node that is a machine of its own: agent.py PORT SOCKET

Whoever connects says in the first line what for:
  calls UID   a process makes system calls, one at a time (cluster/winlib.py); its number is answered first
  admin       the connection goes on to tesserad's SOCKET
  kill PID    of those processes
Root on this machine for everybody who can reach the port: only for the private network of emulated machines.
What must never happen: a process that hangs in a call keeps the others, or this one, from answering.
"""
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))
import winlib  # noqa: E402


def run(argv, seconds):
    """A program with its time limit, in a session of its own: (status, the end of its output)."""
    p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        text, status = p.communicate(timeout=seconds)[0], p.returncode
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        status = 124
        try:
            text = p.communicate(timeout=3)[0]
        except subprocess.TimeoutExpired:
            text = b"it hangs in a call, and cannot be ended\n"
        text += b"not finished after %d s\n" % seconds
    return status, text[-100000:].decode("utf-8", "replace")


LOCKS = {"EX": fcntl.F_WRLCK, "SH": fcntl.F_RDLCK, "UN": fcntl.F_UNLCK}
FLOCKS = {"EX": fcntl.LOCK_EX, "SH": fcntl.LOCK_SH, "UN": fcntl.LOCK_UN}
F_OFD_SETLK, F_OFD_SETLKW = 37, 38


def lock(wait):
    def call(key, kind, how, start, size):
        fd = winlib.STATE[key]
        if kind == "flock":
            fcntl.flock(fd, FLOCKS[how] | (0 if wait else fcntl.LOCK_NB))
            return
        cmd = (F_OFD_SETLKW if wait else F_OFD_SETLK) if kind == "ofd" else (fcntl.F_SETLKW if wait else fcntl.F_SETLK)
        fcntl.fcntl(fd, cmd, struct.pack("hhqqi", LOCKS[how], os.SEEK_SET, start, size, 0))
    return call


winlib.CALLS.update(run=run, lock=lock(False), lockw=lock(True), kernel=lambda: os.uname().release)


def first_line(conn):
    line = b""
    while not line.endswith(b"\n") and len(line) < 100:
        got = conn.recv(1)
        if not got:
            break
        line += got
    return line.decode("ascii", "replace").split()


def relay(a, b):
    ends = {a: b, b: a}
    while True:
        for s in select.select(list(ends), [], [])[0]:
            data = s.recv(65536)
            if not data:
                return
            ends[s].sendall(data)


def child(conn, what, path):
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if what[0] == "admin":
        s = socket.socket(socket.AF_UNIX)
        s.connect(path)
        conn.sendall(b"ok\n")
        relay(conn, s)
    else:
        conn.sendall(b"%d\n" % os.getpid())
        winlib.serve(conn, int(what[1]))


def main():
    port, path = int(sys.argv[1]), sys.argv[2]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    listener = socket.create_server(("", port), backlog=64)
    ours = set()
    while True:
        conn = listener.accept()[0]
        conn.settimeout(5)
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            what = first_line(conn)
            if what[:1] == ["kill"]:
                if int(what[1]) in ours:
                    ours.remove(int(what[1]))
                    os.kill(int(what[1]), signal.SIGKILL)
                conn.sendall(b"ok\n")
            elif what:
                conn.settimeout(None)
                pid = os.fork()
                if pid == 0:
                    listener.close()
                    try:
                        child(conn, what, path)
                    finally:
                        os._exit(0)
                ours.add(pid)
        except (OSError, ValueError, IndexError) as e:
            print("agent: %s" % e, file=sys.stderr)
        conn.close()


main()
