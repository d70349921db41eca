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

bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
[ -x "$bin/postgres" ] || skip "no PostgreSQL server below /usr/lib/postgresql"
# As that user, and never without the process that started it.
as=(setpriv --reuid=postgres --regid=postgres --init-groups --pdeathsig KILL --)
dir=pg.$$ scale=3 seconds=4 clients=4
[ "$MODE" = long ] && scale=20 && seconds=60 && clients=16
chmod 0711 "$TMP"
cd / || exit 1
for n in 0 1 2 3; do # 0: the local disk
	install -d -o postgres -g postgres "$TMP/sock$n" || fail "cannot make $TMP/sock$n"
done
install -d -o postgres -g postgres -m 0700 "$(mnt 1)/$dir" "$TMP/local" || fail "node 1: cannot make $dir"
conf="listen_addresses = ''
shared_buffers = 64MB
max_wal_size = 256MB
checkpoint_timeout = 30s
autovacuum_naptime = 5s
log_checkpoints = on"

data() { echo "$(mnt "$1")/$dir/data"; }
init() { # DATA COMMAND...
	assert_ok "initdb" "${@:2}" "${as[@]}" "$bin/initdb" -k -A trust -E UTF8 --locale=C -D "$1"
	echo "$conf" >>"$1/postgresql.conf" || fail "$1: cannot configure"
}
sql() { # N DATABASE TEXT
	"$bin/psql" -h "$TMP/sock$1" -U postgres -d "$2" -XqAt -v ON_ERROR_STOP=1 -c "$3"
}
answers() { sql "$1" postgres 'SELECT 1' >/dev/null 2>&1; }

# A server is a namespace of processes and of shared memory, as on a machine of its own: that another one runs is
# neither seen in its process number nor in its memory. It inherits the lock, and so do all its children.
declare -A server
start() { # N [DATA]
	local n=$1 where=${2:-$(data "$1")}
	if [ "$n" = 0 ]; then
		"${as[@]}" "$bin/postgres" -D "$where" -k "$TMP/sock0" >>"$TMP/log0" 2>&1 &
	else
		"$SANDBOX" exec "$n" -- setpriv --pdeathsig KILL -- flock -F -w 30 -E 75 "$(dirname "$where")/lock" \
			unshare --ipc --pid --fork --kill-child --mount-proc --propagation slave -- \
			"${as[@]}" "$bin/postgres" -D "$where" -k "$TMP/sock$n" >>"$TMP/log$n" 2>&1 &
	fi
	server[$n]=$!
	BACKGROUND+=("$!")
	wait_until 60 "node $n: PostgreSQL answers" answers "$n"
}
stop() { # N SIGNAL: QUIT as pg_ctl stop -m immediate, INT as -m fast
	local p=${server[$1]}
	[ "$1" = 0 ] || p=$(pgrep -P "$p")
	kill -s "$2" "$p" || fail "node $1: no PostgreSQL to stop"
	wait "${server[$1]}"
}

load() { # N SECONDS OUT: pgbench, its report to OUT, a line for each transaction to OUT.log.*
	(cd "$TMP" && exec "$bin/pgbench" -h "$TMP/sock$1" -U postgres -n -c $clients -j 2 -T "$2" -l --log-prefix "$3.log" bench) >"$TMP/$3" 2>&1
}
told() { cat "$TMP/$1".log.* 2>/dev/null | wc -l; }
total=0 doubt=0

right() { # N: pgbench's law, in the database of node N
	local row
	row=$(sql "$1" bench "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = d AND (SELECT sum(bbalance) FROM pgbench_branches) = d
		AND (SELECT sum(tbalance) FROM pgbench_tellers) = d, n BETWEEN $total AND $((total + doubt)), n
		FROM (SELECT coalesce(sum(delta), 0) AS d, count(*) AS n FROM pgbench_history) h") || return 1
	[[ $row == 't|t|'* ]] || {
		echo "balances right, rows $total to $((total + doubt)), rows: $row"
		return 1
	}
}
checked() { # OBJECT N
	assert_ok "$1: balances and transactions" right "$2"
	assert_ok "$1: tables and indexes" "$bin/pg_amcheck" -h "$TMP/sock$2" -U postgres --all --heapallindexed --rootdescend
}
interrupted() { # OBJECT N TO COMMAND...: pgbench runs on node N, the command ends the server, it goes on on node TO
	local what=$1 n=$2 to=$3 t p
	shift 3
	load "$n" 600 "$what" &
	p=$!
	BACKGROUND+=("$p")
	sleep "$seconds"
	"$@"
	wait "$p" # its clients have lost their server
	[ "$(told "$what")" -gt 0 ] || fail "$what: expected transactions, pgbench told none: $(tail -n 3 "$TMP/$what")"
	total=$((total + $(told "$what"))) doubt=$((doubt + clients))
	t=$(date +%s%N)
	start "$to"
	note "$what: $(told "$what") transactions on node $n; node $to answers after $((($(date +%s%N) - t) / 1000000)) ms"
	grep -q 'redo starts at' "$TMP/log$to" || fail "$what: expected node $to to replay the write-ahead log, it did not"
	checked "$what" "$to"
}

init "$(data 1)" on 1
start 1
for d in postgres template1; do assert_ok "extension in $d" sql 1 $d 'CREATE EXTENSION amcheck'; done
assert_ok "create database" sql 1 postgres 'CREATE DATABASE bench'
assert_ok "pgbench -i" "$bin/pgbench" -h "$TMP/sock1" -U postgres -i -q -s $scale bench
# Node 3 reads all files meanwhile, as a backup does: what is written there moves to and fro.
read_all() {
	while [ ! -e "$TMP/first.done" ]; do
		# What PostgreSQL removes meanwhile is no fault.
		on 3 find "$(data 3)" -type f -exec cat {} + 2>&1 >"$TMP/backup" | grep -v 'No such file' && return 1
		wc -c <"$TMP/backup" >>"$TMP/backups"
	done
}
read_all >"$TMP/read_all" &
reader=$!
load 1 "$seconds" first || fail "pgbench: $(tail -n 3 "$TMP/first")"
touch "$TMP/first.done"
wait $reader || fail "node 3: cannot read what node 1 writes: $(tail -n 1 "$TMP/read_all")"
rm -f "$TMP/backup"
total=$(told first)
note "$total transactions while node 3 read all files $(wc -l <"$TMP/backups") times"
checked "as it was made" 1

# Who would start it a second time is kept out.
on 2 flock -F -n -E 75 "$(mnt 2)/$dir/lock" true
assert_eq "node 2: the lock while node 1 serves" 75 $?

killed() {
	kill -KILL "${server[$1]}" || fail "node $1: no PostgreSQL to kill"
	wait "${server[$1]}"
}
interrupted killed 1 2 killed 1
interrupted stopped 2 3 stop 2 QUIT
interrupted no-power 3 1 assert_ok "power failure of node 3" sb kill 3
assert_ok "node 3 starts again" sb start 3
assert_ok "node 3 mounts again" sb mount "$FS" 3

# The checker of balances: a row that is gone.
sql 1 bench "CREATE TABLE kept AS SELECT * FROM pgbench_history WHERE delta <> 0 LIMIT 1;
	DELETE FROM pgbench_history WHERE ctid = (SELECT ctid FROM pgbench_history WHERE delta <> 0 LIMIT 1)" || fail "self-test: cannot plant"
right 1 >/dev/null && fail "self-test: expected a missing row of history to be seen"
sql 1 bench "INSERT INTO pgbench_history SELECT * FROM kept; DROP TABLE kept" || fail "self-test: cannot undo"

# Page checksums of all files, read by another node; and of a page that is not as it was.
stop 1 INT
assert_ok "page checksums, read on node 3" on 3 "${as[@]}" "$bin/pg_checksums" --check -D "$(data 3)"
cp -a "$(data 3)" "$TMP/local/copy" || fail "node 3: cannot copy the data directory"
file=$(find "$TMP/local/copy/base" -type f -size +1M | sort | head -n 1)
printf '\xa5\x5a' | dd of="$file" bs=1 seek=$((8192 * 7 + 5000)) conv=notrunc status=none
"${as[@]}" "$bin/pg_checksums" --check -D "$TMP/local/copy" >/dev/null 2>&1 && fail "self-test: expected a bad page to be seen"

# The same load here and on the disk of this machine.
start 2
load 2 "$seconds" here || fail "pgbench on the mount: $(tail -n 3 "$TMP/here")"
total=$((total + $(told here)))
checked "at the end" 2
stop 2 INT
init "$TMP/local/data"
start 0 "$TMP/local/data"
sql 0 postgres 'CREATE DATABASE bench' && "$bin/pgbench" -h "$TMP/sock0" -U postgres -i -q -s $scale bench >/dev/null 2>&1 ||
	fail "local disk: pgbench -i failed"
load 0 "$seconds" there || fail "local disk: pgbench: $(tail -n 3 "$TMP/there")"
stop 0 INT
tps() { sed -n 's/^tps = \([0-9]*\).*/\1/p' "$TMP/$1"; }
note "pgbench, $clients clients: $(tps here)/s on the mount, $(tps there)/s on $(stat -fc %T "$TMP")"
exit 0
