#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A ledger in SQLite that several nodes write, and what must be true of it.

ledger.py make DB MODE                 a new ledger; MODE is a journal_mode (delete, truncate, persist, wal)
ledger.py write DB MODE WHO COUNT LOG  COUNT transactions as WHO; each that COMMIT told is a line of LOG; who does it is in LOG.pid
ledger.py read DB MODE SECONDS         look at it again and again: each look sees whole transactions, never fewer
ledger.py vacuum DB MODE TIMES         the file is written anew, smaller, between other transactions
ledger.py torn DB MODE WHO READY       a transaction that has reached the file, not committed; then its process id to READY
ledger.py verify DB KILLS LOG...       integrity, every line of every LOG, and nothing beside it but a COMMIT for each of
                                       KILLS writers that had no time to tell it
ledger.py lose DB                      a planted fault for the self-test of verify: one row goes

A transaction adds one to a counter, one row, and moves an amount between two accounts: so
counter = rows = sum over writers, and the accounts add up to 0. Half of the transactions read before they ask
for the write lock, so that a stale page would become a lost update.
What must never happen: a line in LOG before COMMIT has returned.
"""
import ctypes
import os
import random
import signal
import sqlite3
import sys
import time

ACCOUNTS = 200
BUSY_S = 60


def connect(path, mode=None):
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    if mode:
        got = db.execute("PRAGMA journal_mode=%s" % mode).fetchone()[0]
        if got != mode:
            sys.exit("%s: expected journal_mode %s, got %s" % (path, mode, got))
    # FULL does not make the removal of a journal stable, which is what commits in mode delete.
    db.execute("PRAGMA synchronous=EXTRA")
    # Reads through a map of the file, which others write and truncate.
    if os.environ.get("LEDGER_MAP"):
        db.execute("PRAGMA mmap_size=%d" % (64 << 20))
    return db


def make(path, mode):
    db = connect(path, mode)
    db.executescript("""
        BEGIN;
        CREATE TABLE counter (n INTEGER NOT NULL);
        INSERT INTO counter VALUES (0);
        CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL, note TEXT NOT NULL);
        CREATE TABLE entry (who TEXT NOT NULL, seq INTEGER NOT NULL, nth INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (who, seq));
        CREATE INDEX entry_nth ON entry (nth);
        COMMIT;""")
    db.execute("BEGIN")
    db.executemany("INSERT INTO account VALUES (?, 0, ?)", [(i, "x" * 300) for i in range(ACCOUNTS)])
    db.execute("COMMIT")


def body(who, seq):
    return ("%s %d " % (who, seq) * 40).encode()


def transact(db, who, seq, early, amount, here, there):
    """False: somebody else was in between, nothing is done."""
    try:
        db.execute("BEGIN IMMEDIATE" if early else "BEGIN")
        nth = db.execute("SELECT n FROM counter").fetchone()[0] + 1
        db.execute("UPDATE counter SET n = ?", (nth,))
        db.execute("INSERT INTO entry VALUES (?, ?, ?, ?)", (who, seq, nth, body(who, seq)))
        for account, change in ((here, -amount), (there, amount)):
            old = db.execute("SELECT amount FROM account WHERE id = ?", (account,)).fetchone()[0]
            db.execute("UPDATE account SET amount = ? WHERE id = ?", (old + change, account))
        db.execute("COMMIT")
        return True
    except sqlite3.OperationalError as e:
        if "locked" not in str(e):
            raise
        if db.in_transaction:
            db.execute("ROLLBACK")
        return False


def write(path, mode, who, count, log_path):
    db = connect(path, mode)
    rng = random.Random(who)
    retries = 0
    with open(log_path + ".pid", "w", encoding="ascii") as f:
        f.write("%d\n" % os.getpid())
    start = time.monotonic()
    with open(log_path, "a", buffering=1, encoding="ascii") as log:
        first = db.execute("SELECT coalesce(max(seq), -1) FROM entry WHERE who = ?", (who,)).fetchone()[0] + 1
        for seq in range(first, first + count):
            here, there = rng.sample(range(ACCOUNTS), 2)
            amount = rng.randrange(1, 100)
            while not transact(db, who, seq, seq % 2 == 0, amount, here, there):
                retries += 1
                time.sleep(rng.random() * 0.01)
            log.write("%s %d\n" % (who, seq))
    took = time.monotonic() - start
    print("%s: %d transactions, %.0f/s, %d begun again" % (who, count, count / took, retries))


def look(db):
    db.execute("BEGIN")
    n = db.execute("SELECT n FROM counter").fetchone()[0]
    rows, highest, kinds = db.execute("SELECT count(*), coalesce(max(nth), 0), count(DISTINCT nth) FROM entry").fetchone()
    balance = db.execute("SELECT sum(amount) FROM account").fetchone()[0]
    db.execute("COMMIT")
    if not n == rows == highest == kinds or balance != 0:
        sys.exit("counter %d, rows %d, highest %d, different %d, balance %d" % (n, rows, highest, kinds, balance))
    return n


def read(path, mode, seconds):
    db = connect(path, mode)
    end = time.monotonic() + seconds
    before = looks = steps = 0
    while time.monotonic() < end:
        try:
            n = look(db)
        except sqlite3.OperationalError as e:
            if "locked" not in str(e):
                raise
            if db.in_transaction:
                db.execute("ROLLBACK")
            continue
        if n < before:
            sys.exit("went back: counter %d after %d" % (n, before))
        steps += n > before
        before = n
        looks += 1
    if steps == 0:
        sys.exit("saw no change in %d looks" % looks)
    print("%d looks, %d changes seen" % (looks, steps))


def vacuum(path, mode, times):
    db = connect(path, mode)
    for _ in range(times):
        before = os.stat(path).st_size
        while True:
            try:
                db.execute("CREATE TABLE IF NOT EXISTS waste AS SELECT * FROM entry, (SELECT 1 UNION SELECT 2 UNION SELECT 3)")
                db.execute("DROP TABLE waste")
                db.execute("VACUUM")
                break
            except sqlite3.OperationalError as e:
                if "locked" not in str(e):
                    raise
        print("%d bytes, then %d" % (before, os.stat(path).st_size))
        time.sleep(0.3)


def torn(path, mode, who, ready):
    db = connect(path, mode)
    db.execute("PRAGMA cache_size=5")
    db.execute("PRAGMA cache_spill=1")
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE counter SET n = n + 1000")
    db.execute("UPDATE account SET amount = amount + 7, note = ?", ("torn " * 60,))
    db.executemany("INSERT INTO entry VALUES (?, ?, ?, ?)", [(who, 1000000 + i, -i, b"torn" * 100) for i in range(500)])
    with open(ready, "w", encoding="ascii") as f:
        f.write("%d\n" % os.getpid())
    while True:
        signal.pause()


def verify(path, kills, logs):
    db = connect(path)
    bad = [r[0] for r in db.execute("PRAGMA integrity_check")]
    if bad != ["ok"]:
        sys.exit("integrity_check: %s" % "; ".join(bad[:5]))
    look(db)
    rows = {}
    for who, seq, data in db.execute("SELECT who, seq, body FROM entry"):
        if data != body(who, seq):
            sys.exit("entry %s %d: expected the body it was given, got another" % (who, seq))
        rows.setdefault(who, set()).add(seq)
    told = {}
    for log in logs:
        with open(log, encoding="ascii") as f:
            for line in f.read().split("\n")[:-1]:
                who, seq = line.split()
                told.setdefault(who, set()).add(int(seq))
    total = 0
    for who, seqs in sorted(told.items()):
        lost = seqs - rows.get(who, set())
        if lost:
            sys.exit("%s: of %d commits told %d are not there, the first is %d" % (who, len(seqs), len(lost), min(lost)))
        total += len(seqs)
    extra = sum(len(r - told.get(who, set())) for who, r in rows.items())
    if extra > kills:
        sys.exit("expected at most %d entries that nobody told, got %d" % (kills, extra))
    print("%d commits told, all there" % total)


def lose(path):
    db = connect(path)
    db.execute("DELETE FROM entry WHERE rowid = (SELECT max(rowid) FROM entry)")
    db.execute("UPDATE counter SET n = n - 1")


def main():
    what, args = sys.argv[1], sys.argv[2:]
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nobody is left behind on the mount
    if what == "make":
        make(*args)
    elif what == "write":
        write(args[0], args[1], args[2], int(args[3]), args[4])
    elif what == "read":
        read(args[0], args[1], float(args[2]))
    elif what == "vacuum":
        vacuum(args[0], args[1], int(args[2]))
    elif what == "torn":
        torn(*args)
    elif what == "verify":
        verify(args[0], int(args[1]), args[2:])
    elif what == "lose":
        lose(*args)
    else:
        sys.exit(__doc__)


main()
