# SPDX-License-Identifier: Apache-2.0
"""What is compared: file systems, each mounted at one or more places that the generators are pointed at.

All keep their bytes in files of one directory (STATE) of one local file system; Tessera's and the loop device's are sparse files there. A subject that cannot be had
says why (NotHere) and is left out by name.
What must never happen: a process, mount, loop device or namespace that stays behind; an answer from a cache that the row meant to be cold.
"""
import json
import os
import shutil
import signal
import subprocess
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.path.join(os.environ.get("TESSERA_BENCH_BUILD", os.path.join(TOP, "build", "release")), "tests", "bench")
NAME = os.environ.setdefault("TESSERA_SANDBOX_NAME", "tscheck") # never the user's own
os.environ.setdefault("TESSERA_BINDIR", os.path.join(os.path.dirname(os.path.dirname(BIN)), "admin"))
STATE = os.environ.get("TESSERA_BENCH_STATE", "/var/lib/%s-bench" % NAME)
SANDBOX = os.path.join(TOP, "admin", "sandbox", "tessera-sandbox")
PEER_NS, PEER_ADDR = NAME + "-peer", "10.78.0.1"
LIMIT_S = 300


class NotHere(Exception):
    pass


def run(*cmd, check=True, timeout=LIMIT_S, **kw):
    done = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False, **kw)
    if check and done.returncode:
        raise RuntimeError("%s: %s" % (" ".join(cmd), done.stdout.strip()[-400:]))
    return done.stdout


def generate(tool, *args, net=None):
    """One line of a generator, as a dict. net: the network namespace to run it in."""
    where = ["nsenter", "--net=/run/netns/" + net, "--"] if net else []
    done = subprocess.run([*where, os.path.join(BIN, "bench_" + tool), *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=LIMIT_S, check=False)
    if done.returncode:
        raise RuntimeError("%s %s: %s" % (tool, " ".join(map(str, args)), done.stderr.strip()[-400:]))
    return json.loads(done.stdout) if done.stdout else {}


def wait_for(what, fn, seconds=20):
    until = time.monotonic() + seconds
    while not fn():
        if time.monotonic() > until:
            raise RuntimeError("%s: not within %d s" % (what, seconds))
        time.sleep(0.05)


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("3\n")


def place(*names):
    path = os.path.join(STATE, *names)
    os.makedirs(path, exist_ok=True)
    return path


class Subject:
    """mounts: the places; one for each node where there are several."""
    name, transport = "?", "?"
    mounts = ()

    def up(self):
        pass

    def down(self):
        pass

    def remount(self, nth):
        """Makes everything cold that the nth place has cached."""

    def version(self):
        return ""


class Local(Subject):
    """xfs, or ext4 where mkfs.xfs or the kernel's xfs is missing, on a loop device over a sparse file."""

    def __init__(self, size="12G"):
        self.size, self.mounts, self.transport = size, [os.path.join(STATE, "local")], "loop device over a file"
        with open("/proc/filesystems", encoding="ascii") as f:
            xfs = "\txfs\n" in f.read() and shutil.which("mkfs.xfs")
        self.kind = "xfs" if xfs else "ext4"
        self.name = "local " + self.kind

    def up(self):
        image = os.path.join(place(), "local.img")
        run("truncate", "-s", self.size, image)
        run("mkfs." + self.kind, *(["-q", "-f"] if self.kind == "xfs" else ["-q", "-F"]), image)
        place("local")
        run("mount", "-o", "loop", image, self.mounts[0])

    def down(self):
        """Servers above it may take a moment to end; whoever does not is named."""
        if not os.path.ismount(self.mounts[0]):
            return
        try:
            wait_for("umount of " + self.mounts[0], lambda: run("umount", self.mounts[0], check=False) == "" or not os.path.ismount(self.mounts[0]))
        except RuntimeError as e:
            busy = run("fuser", "-vm", self.mounts[0], check=False) if shutil.which("fuser") else ""
            run("umount", "-l", self.mounts[0], check=False)
            raise RuntimeError("%s; it goes when its last user does: %s" % (e, busy)) from e

    def remount(self, nth):
        drop_caches()

    def version(self):
        return self.kind + " of kernel " + os.uname().release


class PassThrough(Subject):
    """P and its kin (passthru.c), over a directory of the local file system."""

    def __init__(self, name, local, *options):
        self.name, self.local, self.options, self.proc = name, local, options, None
        self.transport = "memory" if "--memory" in options else local.transport
        self.mounts = [os.path.join(STATE, name.replace(" ", "-"))]

    def up(self):
        tool = os.path.join(BIN, "bench_passthru")
        if not os.path.exists(tool):
            raise NotHere("built without libfuse3-dev")
        place(os.path.basename(self.mounts[0]))
        under = os.path.join(self.local.mounts[0], self.name.replace(" ", "-"))
        os.makedirs(under, exist_ok=True)
        with open(os.path.join(STATE, "passthru.log"), "a", encoding="ascii") as log:
            self.proc = subprocess.Popen([tool, *self.options, under, self.mounts[0]], stdout=log, stderr=log)
        wait_for(self.name, lambda: os.path.ismount(self.mounts[0]))

    def down(self):
        if not self.proc:
            return
        run("umount", self.mounts[0], check=False)
        try:
            self.proc.wait(10)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            run("umount", "-l", self.mounts[0], check=False)
        self.proc = None

    def remount(self, nth):
        self.down()
        drop_caches()
        self.up()


class Tessera(Subject):
    """Three nodes of a sandbox; disks beyond the two of the file system are for the raw rows."""
    name = "Tessera"

    def __init__(self, disks):
        self.disks, self.transport = disks, {"iscsi": "iSCSI, tgt over files, loopback", "file": "files, O_DIRECT"}[disks]
        self.mounts = ["/mnt/%s/n%d" % (NAME, n) for n in (1, 2, 3)]
        self.urls = []

    def sandbox(self, *args, **kw):
        return run(SANDBOX, *args, **kw)

    def up(self):
        self.sandbox("up", "--fresh", "--nodes", "3", "--disks", self.disks, "--disk-count", "4", "--disk-size", "8G")
        self.urls = self.sandbox("disks").split()
        self.sandbox("exec", "1", "--", "tessera", "fs", "create", "bench", *self.urls[:2])
        self.sandbox("mount", "bench")

    def down(self):
        self.sandbox("down", "--wipe", "--quiet", check=False)

    def remount(self, nth):
        try:
            self.sandbox("exec", str(nth + 1), "--", "tessera", "umount", self.mounts[nth], timeout=60)
            self.sandbox("exec", str(nth + 1), "--", "tessera", "mount", "bench", self.mounts[nth], timeout=60)
        except subprocess.TimeoutExpired as e:
            waits = "".join(self.sandbox("exec", str(n), "--", "tessera", "diag", "waiters", check=False, timeout=20) for n in (1, 2, 3))
            raise RuntimeError("%s: not within a minute; waiters: %s" % (" ".join(e.cmd[4:]), waits)) from e
        drop_caches()

    def status(self, node):
        return json.loads(self.sandbox("exec", str(node), "--", "tessera", "--json", "status"))

    def counters(self):
        """Frames between nodes, requests of kernels, of all nodes together."""
        all_of = [self.status(n) for n in (1, 2, 3)]
        return {"frames": sum(s["net"]["frames_sent"] for s in all_of), "fuse": sum(s["fuse"]["requests"] for s in all_of)}

    def version(self):
        return run("git", "-C", TOP, "describe", "--always", "--dirty", check=False).strip()


def in_peer_net(*cmd):
    return run("nsenter", "--net=/run/netns/" + PEER_NS, "--", *cmd, timeout=60)


def peer_net_up():
    if os.path.exists("/run/netns/" + PEER_NS):
        return
    run("ip", "netns", "add", PEER_NS)
    in_peer_net("ip", "link", "set", "lo", "up")
    in_peer_net("ip", "addr", "add", PEER_ADDR + "/32", "dev", "lo") # both refuse 127.0.0.1


def peer_net_down():
    if os.path.exists("/run/netns/" + PEER_NS):
        run("ip", "netns", "del", PEER_NS, check=False)


def package_version(package):
    return package + " " + run("dpkg-query", "-W", "-f", "${Version}", package, check=False).strip()


class Gluster(Subject):
    """One volume of one brick on the local file system, one server, two mounts; options as they come."""
    name, transport = "GlusterFS", "TCP, loopback; brick on the local file system"

    def __init__(self, local):
        self.local, self.dir, self.started = local, os.path.join(STATE, "gluster"), False
        self.mounts = [os.path.join(self.dir, "m%d" % k) for k in (1, 2)]

    def up(self):
        if not shutil.which("glusterd"):
            raise NotHere("glusterfs-server is not installed and could not be (tests/packages.list)")
        peer_net_up()
        for d in ("work", "run", "m1", "m2"):
            place("gluster", d)
        brick = os.path.join(self.local.mounts[0], "brick")
        os.makedirs(brick, exist_ok=True)
        with open(os.path.join(self.dir, "glusterd.vol"), "w", encoding="ascii") as f:
            f.write("volume management\n type mgmt/glusterd\n option working-directory %s/work\n option run-directory %s/run\n"
                    " option transport-type socket\n option transport.socket.listen-port 24007\nend-volume\n" % (self.dir, self.dir))
        self.started = True
        in_peer_net("glusterd", "--volfile=%s/glusterd.vol" % self.dir, "--pid-file=%s/pid" % self.dir, "--log-file=%s/log" % self.dir)
        wait_for("glusterd", lambda: "Number of Peers" in self.gluster("peer", "status"))
        self.gluster("volume", "create", "bench", "%s:%s" % (PEER_ADDR, brick), "force")
        self.gluster("volume", "start", "bench")
        for m in self.mounts:
            self.mount(m)

    def gluster(self, *args):
        try:
            return in_peer_net("gluster", "--mode=script", *args)
        except RuntimeError as e:
            if args[0] == "peer":
                return ""
            raise e

    def mount(self, m):
        in_peer_net("glusterfs", "--volfile-server=" + PEER_ADDR, "--volfile-id=/bench", "--log-file=%s/mount.log" % self.dir, m)
        wait_for("GlusterFS", lambda: os.path.ismount(m))
        os.listdir(m)

    def remount(self, nth):
        run("umount", self.mounts[nth])
        drop_caches()
        self.mount(self.mounts[nth])

    def down(self):
        if not self.started:
            return
        self.started = False
        for m in self.mounts:
            run("umount", m, check=False)
        try:
            self.gluster("volume", "stop", "bench", "force")
        except (RuntimeError, subprocess.TimeoutExpired) as e:
            print("GlusterFS: %s" % " ".join(str(e).split()))
        for pid in run("pgrep", "-f", "^glusterd --volfile=%s/" % self.dir, check=False).split(): # its pid file is empty while it starts
            os.kill(int(pid), signal.SIGTERM)

    def version(self):
        return package_version("glusterfs-server")


class Moose(Subject):
    """One master, one chunk server on the local file system, two mounts; options as they come."""
    name, transport = "MooseFS", "TCP, loopback; chunks on the local file system"

    def __init__(self, local):
        self.local, self.dir, self.running = local, os.path.join(STATE, "moose"), False
        self.mounts = [os.path.join(self.dir, "m%d" % k) for k in (1, 2)]

    def config(self, name, text):
        path = os.path.join(self.dir, name)
        with open(path, "w", encoding="ascii") as f:
            f.write(text)
        return path

    def up(self):
        for tool, package in (("mfsmaster", "moosefs-master"), ("mfschunkserver", "moosefs-chunkserver"), ("mfsmount", "moosefs-client")):
            if not shutil.which(tool):
                raise NotHere(package + " is not installed and could not be (tests/packages.list)")
        peer_net_up()
        master, chunks = place("moose", "master"), place("moose", "chunkserver")
        shutil.copy("/var/lib/mfs/metadata.mfs.empty", os.path.join(master, "metadata.mfs"))
        hdd = os.path.join(self.local.mounts[0], "chunks")
        os.makedirs(hdd, exist_ok=True)
        self.config("master.cfg", "WORKING_USER = root\nWORKING_GROUP = root\nDATA_PATH = %s\nEXPORTS_FILENAME = %s\nTOPOLOGY_FILENAME = %s\n" %
                    (master, self.config("exports.cfg", "* / rw,alldirs,admin,maproot=0:0\n"), self.config("topology.cfg", "")))
        self.config("chunk.cfg", "WORKING_USER = root\nWORKING_GROUP = root\nDATA_PATH = %s\nHDD_CONF_FILENAME = %s\nMASTER_HOST = %s\n" %
                    (chunks, self.config("hdd.cfg", hdd + "\n"), PEER_ADDR))
        self.running = True
        in_peer_net("mfsmaster", "-c", self.dir + "/master.cfg", "start")
        in_peer_net("mfschunkserver", "-c", self.dir + "/chunk.cfg", "start")
        for m in self.mounts:
            place("moose", os.path.basename(m))
            self.mount(m)
        probe = self.mounts[0] + "/probe"

        def writes():
            try:
                with open(probe, "wb") as f:
                    f.write(b"x")
                return True
            except OSError:
                return False
        wait_for("MooseFS: the chunk server", writes, 60)
        os.unlink(probe)

    def mount(self, m):
        in_peer_net("mfsmount", m, "-H", PEER_ADDR)
        wait_for("MooseFS", lambda: os.path.ismount(m))

    def remount(self, nth):
        run("umount", self.mounts[nth])
        drop_caches()
        self.mount(self.mounts[nth])

    def down(self):
        if not self.running:
            return
        for m in self.mounts:
            run("umount", m, check=False)
        for tool, conf in (("mfschunkserver", "chunk.cfg"), ("mfsmaster", "master.cfg")):
            run(tool, "-c", os.path.join(self.dir, conf), "stop", check=False)
        self.running = False

    def version(self):
        return package_version("moosefs-master")
