#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""padtree.py DIR COUNT SEED: a tree of about COUNT entries: files of many sizes, symlinks, hard links."""
import os
import random
import sys

root, count, rnd = sys.argv[1], int(sys.argv[2]), random.Random(sys.argv[3])
os.makedirs(root)
made, folder, last = 0, root, None
while made < count:
    kind = rnd.random()
    if made % 60 == 0:
        folder = os.path.join(root, "d%d" % rnd.randrange(40), "e%d" % made)
        os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "f%d" % made)
    if last and kind < 0.03:
        os.symlink(last, path)
    elif last and kind < 0.05:
        os.link(last, path)
    else:
        with open(path, "wb") as f:
            f.write(rnd.randbytes(rnd.choice([0, 1, 100, 3901, 3902, 4096, 9000, 40000])))
        os.chmod(path, rnd.choice([0o644, 0o600, 0o755, 0o4755, 0o444]))
        last = path
    made += 1
