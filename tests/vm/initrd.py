#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The first root of an emulated machine: initrd.py KERNELDIR OUT INIT MODULE...

KERNELDIR is an unpacked kernel package. Into the archive go busybox, the modules with those they depend on, in the order of loading,
some of the host's /etc, and INIT. A module that the kernel has built in is left out silently.
"""
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile

ETC = ("passwd", "group", "nsswitch.conf", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives")


def modules_of(kernel):
    found = {}
    for folder, _, names in os.walk(os.path.join(kernel, "lib", "modules")):
        for name in names:
            m = re.match(r"(.*)\.ko(\.xz)?$", name)
            if m:
                found[m[1].replace("-", "_")] = os.path.join(folder, name)
    return found


def content(path):
    with open(path, "rb") as f:
        data = f.read()
    return lzma.decompress(data) if path.endswith(".xz") else data


def collect(found, name, order):
    """Appends (name, bytes), those it depends on first."""
    name = name.replace("-", "_")
    if name not in found or name in (n for n, _ in order):
        return
    data = content(found[name])
    depends = re.search(rb"\0depends=([^\0]+)\0", data)
    for d in depends[1].decode().split(",") if depends else []:
        collect(found, d, order)
    order.append((name, data))


def main():
    kernel, out, init, wanted = sys.argv[1], os.path.abspath(sys.argv[2]), sys.argv[3], sys.argv[4:]
    found, order = modules_of(kernel), []
    for m in wanted:
        collect(found, m, order)
    with tempfile.TemporaryDirectory() as top:
        for d in ("bin", "dev", "proc", "sys", "etc", "root", "modules"):
            os.mkdir(os.path.join(top, d))
        for name, data in order:
            with open(os.path.join(top, "modules", name + ".ko"), "wb") as f:
                f.write(data)
        with open(os.path.join(top, "modules", "order"), "w", encoding="ascii") as f:
            f.writelines(n + "\n" for n, _ in order)
        for name in ETC:
            path = os.path.join("/etc", name)
            if os.path.isdir(path):
                shutil.copytree(path, os.path.join(top, "etc", name), symlinks=True)
            elif os.path.exists(path):
                shutil.copy2(path, os.path.join(top, "etc", name))
        shutil.copy2("/bin/busybox", os.path.join(top, "bin", "busybox"))
        os.symlink("busybox", os.path.join(top, "bin", "sh"))
        shutil.copy2(init, os.path.join(top, "init"))
        with open(out, "wb") as f:
            subprocess.run("find . | busybox cpio -o -H newc", shell=True, cwd=top, stdout=f, stderr=subprocess.DEVNULL, check=True)
    return 0


sys.exit(main())
