# SPDX-License-Identifier: Apache-2.0
"""The board of thrash: what has been acknowledged, beside the file system under test, seen by all processes of this machine.

A mapped file of 64-bit words, each written whole. What must never happen: a word written before the call that it tells
of has returned; a node counted as undisturbed once something has begun to be done to it.

A node's *life* is even while nothing is done to it, odd from before a failure begins until it is over; a daemon that starts anew has another.
What was fsynced must be seen for ever; what was only written, as long as the life of its writer lasts.
"""
import mmap
import os
import time

NODES, KEYS = 3, 8
LIFE, FSYNCED, WRITTEN, HOLDING, NAMED, WORDS = 0, 8, 16, 24, 64, 80


class Board:
    def __init__(self, path):
        fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        os.ftruncate(fd, WORDS * 8)
        self.words = memoryview(mmap.mmap(fd, WORDS * 8)).cast("Q")
        os.close(fd)

    # --- lives; the driver alone changes them
    def life(self, node):
        return self.words[LIFE + node]

    def disturb(self, node):
        self.words[LIFE + node] |= 1

    def undisturb(self, node, new_life):
        """The same life goes on, or another has begun."""
        self.words[LIFE + node] = (self.life(node) & ~1) + (2 if new_life else 0)

    def lives(self, word):
        return self.life(word >> 12 & 15) == word & 0xfff

    def pack(self, node, value):
        return value << 16 | node << 12 | (self.life(node) & 0xffe)

    # --- values of the keys
    def told(self, key):
        """Before a look: what it must show (fsynced, a word of what was written)."""
        return self.words[FSYNCED + key], self.words[WRITTEN + key]

    def judge(self, told, got):
        """After the look: what is wrong with it, or None."""
        fsynced, written = told
        if got < fsynced:
            return "expected %d, which was fsynced, or more; got %d" % (fsynced, got)
        if got < written >> 16 and self.lives(written):
            return "expected %d, which node %d had written, or more; got %d" % (written >> 16, written >> 12 & 15, got)
        return None

    def wrote(self, key, node, value):
        self.words[WRITTEN + key] = self.pack(node, value)

    def synced(self, key, value):
        self.words[FSYNCED + key] = max(value, self.words[FSYNCED + key])

    def forget(self, key, value):
        """Of a planted word."""
        self.words[FSYNCED + key] = value

    # --- who is under the lock of a key
    def enter(self, key, node):
        """Who else is there, or None."""
        self.words[HOLDING + key * 4 + node] = self.life(node) | 1 << 32
        for other in range(1, NODES + 1):
            held = self.words[HOLDING + key * 4 + other]
            if other != node and held and held & 0xffffffff == self.life(other) and not self.life(other) & 1:
                return other
        return None

    def leave(self, key, node):
        self.words[HOLDING + key * 4 + node] = 0

    # --- how often each node has renamed its file
    def named(self, node):
        """(a word of the last that returned, whether one is under way)"""
        word = self.words[NAMED + node]
        return word, self.words[NAMED + 8 + node] != word >> 16

    def renames(self, node, count):
        self.words[NAMED + 8 + node] = count

    def renamed(self, node, count):
        self.words[NAMED + node] = self.pack(node, count)


def now_ms():
    return time.monotonic_ns() // 1000000
