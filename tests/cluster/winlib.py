# SPDX-License-Identifier: Apache-2.0
"""What windows.py stands on: processes that do system calls on the mounts, the admin socket, held fault points.

A node is where its admin socket is: a path on this machine, or agent:HOST:PORT, the agent (tests/vm/agent.py) of a node that is a machine
of its own. The same calls are made in either case.
What must never happen: a call on a mount by this process itself (it would hang with it), or a wait without a limit.
"""
import ast
import errno
import json
import mmap
import os
import select
import signal
import socket
import struct
import threading
import time

PAGE = 4096
LIMIT = 8.0  # for whatever is not expected to wait; a hold ends by itself after 5 s


class Stale(Exception):
    """An answer that another node's change has made wrong."""


class Hang(Exception):
    """A call that should be over and is not."""


class Missed(Exception):
    """The window was not open: the test has shown nothing."""


# --- calls, made by a process of their own -----------------------------------------------------------

STATE = {}


def acl(*users):
    """The bytes of system.posix_acl_access: rw for the owner, r for each user, nothing for others."""
    entries = [(1, 6, -1)] + [(2, 4, u) for u in users] + [(4, 0, -1)] + ([(16, 4, -1)] if users else []) + [(32, 0, -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *e) for e in entries)


def c_open(key, path, flags, mode=0o644):
    STATE[key] = os.open(path, flags, mode)
    if not flags & os.O_PATH:
        os.posix_fadvise(STATE[key], 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead: each window says what it reads


def c_make(path, data, mode=0o644):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    os.write(fd, data)
    os.close(fd)


def c_append_to(path, data):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)


def c_slurp(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 1 << 20)
    finally:
        os.close(fd)


def c_drop_caches():
    """The kernel forgets what is not in use, the daemon keeps its tokens."""
    for _ in range(2):  # what was used a moment ago survives the first
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
            f.write("2\n")


def c_preads(key, count, stagger):
    """All at once, from as many threads, page by page."""
    out = [None] * count

    def one(i):
        out[i] = os.pread(STATE[key], PAGE, i * PAGE)[:1]
    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
        time.sleep(stagger)
    for t in threads:
        t.join()
    return b"".join(out)


def c_pokes(key, at, seconds):
    """Stores numbers into a page for a while; what was stored last."""
    end, i = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        i += 1
        STATE[key][at:at + 8] = b"%08d" % i
    return b"%08d" % i


def c_map(key, fd, size):
    STATE[key] = mmap.mmap(STATE[fd], size)


def c_poke(key, at, data):
    STATE[key][at:at + len(data)] = data


def c_falloc(key, mode, off, size):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    args = [ctypes.c_int(STATE[key]), ctypes.c_int(mode), ctypes.c_long(off), ctypes.c_long(size)]
    if libc.fallocate(*args):
        raise OSError(ctypes.get_errno(), "fallocate")


def c_scan_at(key):
    with os.scandir(STATE[key]) as it:
        return sorted((e.name, e.stat(follow_symlinks=False).st_mode & 0o777) for e in it)


def c_append_flag(key):
    import fcntl
    fcntl.fcntl(STATE[key], fcntl.F_SETFL, fcntl.fcntl(STATE[key], fcntl.F_GETFL) | os.O_APPEND)


CALLS = {
    "open": c_open, "make": c_make, "slurp": c_slurp, "preads": c_preads, "map": c_map, "poke": c_poke, "falloc": c_falloc, "pokes": c_pokes,
    "append_flag": c_append_flag, "scan_at": c_scan_at, "append_to": c_append_to, "drop_caches": c_drop_caches,
    "keep": lambda k, p: STATE.__setitem__(k, os.open(p, os.O_RDONLY)),
    "at": lambda k: os.fchdir(STATE[k]),
    "mode_at": lambda k, n: os.stat(n, dir_fd=STATE[k]).st_mode & 0o7777,
    "size_at": lambda k, n: os.stat(n, dir_fd=STATE[k]).st_size,
    "close": lambda k: os.close(STATE.pop(k)),
    "read": lambda k, n, at: os.pread(STATE[k], n, at),
    "write": lambda k, data, at: os.pwrite(STATE[k], data, at),
    "append": lambda k, data: os.write(STATE[k], data),
    "peek": lambda k, at, n: STATE[k][at:at + n],
    "sync": lambda k: os.fsync(STATE[k]),
    "ftruncate": lambda k, n: os.ftruncate(STATE[k], n),
    "fsize": lambda k: os.fstat(STATE[k]).st_size,
    "copy": lambda a, b, n: os.copy_file_range(STATE[a], STATE[b], n, 0, 0),
    "size": lambda p: os.stat(p).st_size,
    "fmode": lambda k: os.fstat(STATE[k]).st_mode & 0o7777,
    "mode": lambda p: os.stat(p).st_mode & 0o7777,
    "nlink": lambda p: os.stat(p).st_nlink,
    "ino": lambda p: os.stat(p).st_ino,
    "exists": lambda p: bool(os.stat(p)),
    "list": lambda p: sorted(os.listdir(p)),
    "scan": lambda p: sorted((e.name, e.stat().st_mode & 0o777) for e in os.scandir(p)),
    "create": lambda p: os.close(os.open(p, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)),
    "mkdir": os.mkdir, "rmdir": os.rmdir, "unlink": os.unlink, "rename": os.rename, "link": os.link,
    "symlink": lambda p: os.symlink("target", p),
    "mknod": lambda p: os.mkfifo(p),
    "chmod": os.chmod, "truncate": os.truncate,
    "utime": lambda p: os.utime(p, (1, 1)),
    "setacl": lambda p, *users: os.setxattr(p, "system.posix_acl_access", acl(*users)),
    "may_read": lambda p: c_slurp(p) is not None,
    "may_read_at": lambda k: c_slurp("/proc/self/fd/%d" % STATE[k]) is not None,
}


def serve(conn, uid):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    f = conn.makefile("rwb")
    for line in f:
        f.write(repr(answer(*ast.literal_eval(line.decode()))).encode() + b"\n")
        f.flush()


def answer(name, args):
    try:
        return CALLS[name](*args)
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e.errno))
    except KeyError:  # could not be opened
        return "not open"


def agent_of(where):
    """(host, port), or None: this machine."""
    if not where.startswith("agent:"):
        return None
    host, port = where[6:].rsplit(":", 1)
    return host, int(port)


def agent_ask(agent, line):
    """A connection that the agent was told the purpose of, and its first line."""
    conn = socket.create_connection(agent, LIMIT)
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    conn.sendall(line.encode() + b"\n")
    first = b""
    while not first.endswith(b"\n"):
        got = conn.recv(1)
        if not got:
            raise Hang("agent %s:%d: no answer to %s" % (*agent, line))
        first += got
    return conn, first.decode().strip()


class Client:
    """A process of node N that makes one call at a time."""

    def __init__(self, node, uid=0, where=""):
        self.node, self.buf, self.call, self.agent = node, b"", None, agent_of(where)
        if self.agent:
            self.conn, pid = agent_ask(self.agent, "calls %d" % uid)
            self.conn.settimeout(None)
            self.pid = int(pid)
            return
        self.conn, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self.conn.close()
            try:
                serve(theirs, uid)
            finally:
                os._exit(0)
        theirs.close()

    def start(self, name, *args):
        assert self.call is None, "%s while %s is not over" % (name, self.call)
        self.call = (name, args)
        self.conn.sendall(repr((name, args)).encode() + b"\n")
        return self

    def over(self, limit):
        """Is the call over, or does it get so within that many seconds?"""
        end = time.monotonic() + limit
        while b"\n" not in self.buf:
            left = end - time.monotonic()
            if not select.select([self.conn], [], [], max(left, 0))[0]:
                if left <= 0:
                    return False
                continue
            got = self.conn.recv(1 << 20)
            if not got:
                raise Hang("node %d: the process of %s ended" % (self.node, self.call))
            self.buf += got
        return True

    def result(self, limit=LIMIT):
        if not self.over(limit):
            raise Hang("node %d: %s not over after %.0f s" % (self.node, self.call, limit))
        line, _, self.buf = self.buf.partition(b"\n")
        self.call = None
        return ast.literal_eval(line.decode())

    def __call__(self, name, *args):
        return self.start(name, *args).result()

    def ok(self, name, *args):
        r = self(name, *args)
        if isinstance(r, str) and r in errno.errorcode.values():
            raise Stale("node %d: %s%r: expected success, got %s" % (self.node, name, args, r))
        return r

    def kill(self):
        if self.agent:
            agent_ask(self.agent, "kill %d" % self.pid)[0].close()
            return
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def end(self):
        self.kill()
        self.conn.close()
        if self.agent:
            return
        for _ in range(200):
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return
            time.sleep(0.01)  # it may be in a call that a hold keeps; bounded


# --- the daemon ---------------------------------------------------------------------------------------


class Admin:
    def __init__(self, socket_of, fs):
        self.socket_of, self.fs = socket_of, fs

    @staticmethod
    def connect(where):
        if agent_of(where):
            return agent_ask(agent_of(where), "admin")[0]
        s = socket.socket(socket.AF_UNIX)
        s.connect(where)
        return s

    def ask(self, node, verb, pos, opt):
        with self.connect(self.socket_of(node)) as s:
            s.settimeout(LIMIT)
            s.sendall(json.dumps({"verb": verb, "pos": pos, "opt": opt}).encode() + b"\n")
            for line in s.makefile():
                answer = json.loads(line)
                if "progress" not in answer:
                    break
        if not answer["ok"]:
            raise RuntimeError("node %d: %s %s: %s" % (node, verb, pos, answer["error"]))
        return answer["data"]

    def fault(self, node, what, *point, **opt):
        return self.ask(node, "diag fault", [self.fs, what, *point], opt)

    def fuse(self, node):
        return next(m["fuse"] for m in self.ask(node, "status", [], {})["mounts"] if m["name"] == self.fs)

    def waiters(self, node):
        return self.ask(node, "diag waiters", [], {})


class Hold:
    """A fault point that keeps whoever comes, until release."""

    def __init__(self, admin, node, point, ino=0, **opt):
        self.admin, self.node, self.point, self.ino = admin, node, point, ino
        opt = {k: v is True or str(v) for k, v in opt.items()}
        if ino:
            opt["ino"] = str(ino)
        if "delay" not in opt and "skip" not in opt:
            opt.setdefault("hold", "5000")
            opt.setdefault("times", "1")
        admin.fault(node, "arm", point, **opt)

    def row(self):
        return next(r for r in self.admin.fault(self.node, "list") if r["point"] == self.point and r["ino"] == self.ino)

    def hit(self, count=1, limit=LIMIT):
        """Waits until somebody is kept there: the window is open."""
        end = time.monotonic() + limit
        while self.row()["waiting"] < count:
            if time.monotonic() > end:
                raise Missed("node %d: nobody came to %s" % (self.node, self.point))
            time.sleep(0.002)
        return self

    def open_still(self):
        if not self.row()["waiting"]:
            raise Missed("node %d: the window at %s closed too early" % (self.node, self.point))

    def open_from_the_start(self):
        if self.row()["timed_out"]:
            raise Missed("node %d: at %s somebody went on by himself" % (self.node, self.point))

    def release(self):
        self.admin.fault(self.node, "release", self.point)
