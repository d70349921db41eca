#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# PostgreSQL with its data directory on the mount, one node at a time: its processes killed, stopped at once, and
# its node without power, each in the middle of pgbench; each time another node starts it, recovers, and checks:
# pg_amcheck of every table and index, the balances of pgbench, every transaction that was told. A server on a
# second node is kept out by a lock (docs/applications.md). At last page checksums, and the same load beside it
# on a local disk.
# timeout: 300
. "$(dirname "$0")/lib.sh"

dir=pg.$$ scale=3 seconds=4 clients=4
[ "$MODE" = long ] && scale=20 && seconds=60 && clients=16
. "$(dirname "$0")/postgres.sh"
pg_prepare

interrupted() { # OBJECT N TO COMMAND...: pgbench runs on node N, the command ends the server, it goes on on node TO
	local what=$1 n=$2 to=$3 t p
	shift 3
	pg_load "$n" 600 "$what" &
	p=$!
	BACKGROUND+=("$p")
	sleep "$seconds"
	"$@"
	wait "$p" # its clients have lost their server
	[ "$(pg_told "$what")" -gt 0 ] || fail "$what: expected transactions, pgbench told none: $(tail -n 3 "$TMP/$what")"
	total=$((total + $(pg_told "$what"))) doubt=$((doubt + clients))
	t=$(date +%s%N)
	pg_start "$to"
	note "$what: $(pg_told "$what") transactions on node $n; node $to answers after $((($(date +%s%N) - t) / 1000000)) ms"
	grep -q 'redo starts at' "$TMP/log$to" || fail "$what: expected node $to to replay the write-ahead log, it did not"
	pg_checked "$what" "$to"
}

pg_init "$(pg_data 1)" on 1
pg_start 1
pg_bench 1
# Node 3 reads all files meanwhile, as a backup does: what is written there moves to and fro.
read_all() {
	while [ ! -e "$TMP/first.done" ]; do
		# What PostgreSQL removes meanwhile is no fault.
		on 3 find "$(pg_data 3)" -type f -exec cat {} + 2>&1 >"$TMP/backup" | grep -v 'No such file' && return 1
		wc -c <"$TMP/backup" >>"$TMP/backups"
	done
}
read_all >"$TMP/read_all" &
reader=$!
pg_load 1 "$seconds" first || fail "pgbench: $(tail -n 3 "$TMP/first")"
touch "$TMP/first.done"
wait $reader || fail "node 3: cannot read what node 1 writes: $(tail -n 1 "$TMP/read_all")"
rm -f "$TMP/backup"
total=$(pg_told first)
note "$total transactions while node 3 read all files $(wc -l <"$TMP/backups") times"
pg_checked "as it was made" 1

# Who would start it a second time is kept out.
on 2 flock -F -n -E 75 "$(mnt 2)/$dir/lock" true
assert_eq "node 2: the lock while node 1 serves" 75 $?

killed() {
	kill -KILL "${server[$1]}" || fail "node $1: no PostgreSQL to kill"
	wait "${server[$1]}"
}
interrupted killed 1 2 killed 1
interrupted stopped 2 3 pg_stop 2 QUIT
interrupted no-power 3 1 assert_ok "power failure of node 3" sb kill 3
assert_ok "node 3 starts again" sb start 3
assert_ok "node 3 mounts again" sb mount "$FS" 3

# The checker of balances: a row that is gone.
pg_sql 1 bench "CREATE TABLE kept AS SELECT * FROM pgbench_history WHERE delta <> 0 LIMIT 1;
	DELETE FROM pgbench_history WHERE ctid = (SELECT ctid FROM pgbench_history WHERE delta <> 0 LIMIT 1)" || fail "self-test: cannot plant"
pg_right 1 >/dev/null && fail "self-test: expected a missing row of history to be seen"
pg_sql 1 bench "INSERT INTO pgbench_history SELECT * FROM kept; DROP TABLE kept" || fail "self-test: cannot undo"

# Page checksums of all files, read by another node; and of a page that is not as it was.
pg_stop 1 INT
assert_ok "page checksums, read on node 3" on 3 "${as[@]}" "$bin/pg_checksums" --check -D "$(pg_data 3)"
cp -a "$(pg_data 3)" "$TMP/local/copy" || fail "node 3: cannot copy the data directory"
file=$(find "$TMP/local/copy/base" -type f -size +1M | sort | head -n 1)
printf '\xa5\x5a' | dd of="$file" bs=1 seek=$((8192 * 7 + 5000)) conv=notrunc status=none
"${as[@]}" "$bin/pg_checksums" --check -D "$TMP/local/copy" >/dev/null 2>&1 && fail "self-test: expected a bad page to be seen"

# The same load here and on the disk of this machine.
pg_start 2
pg_load 2 "$seconds" here || fail "pgbench on the mount: $(tail -n 3 "$TMP/here")"
total=$((total + $(pg_told here)))
pg_checked "at the end" 2
pg_stop 2 INT
pg_init "$TMP/local/data"
pg_start 0 "$TMP/local/data"
pg_sql 0 postgres 'CREATE DATABASE bench' && "$bin/pgbench" -h "$TMP/sock0" -U postgres -i -q -s $scale bench >/dev/null 2>&1 ||
	fail "local disk: pgbench -i failed"
pg_load 0 "$seconds" there || fail "local disk: pgbench: $(tail -n 3 "$TMP/there")"
pg_stop 0 INT
tps() { sed -n 's/^tps = \([0-9]*\).*/\1/p' "$TMP/$1"; }
note "pgbench, $clients clients: $(tps here)/s on the mount, $(tps there)/s on $(stat -fc %T "$TMP")"
exit 0
