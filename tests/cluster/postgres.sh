# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
#
# A PostgreSQL server whose data directory lies on the mount, on one node at a time, and pgbench whose balances
# and transactions can be checked; used by 41-postgres.sh and 44-lost.sh. Needs `dir`, the name of a directory
# in the root of the file system, and `scale`, `clients` of pgbench; pg_prepare makes the directory.
#
# What must never happen here: a server outlives the test, or one sees that of another node in anything but the mount.

bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
[ -x "$bin/postgres" ] || skip "no PostgreSQL server below /usr/lib/postgresql"
# As that user, and never without the process that started it.
as=(setpriv --reuid=postgres --regid=postgres --init-groups --pdeathsig KILL --)
conf="listen_addresses = ''
shared_buffers = 64MB
max_wal_size = 256MB
checkpoint_timeout = 30s
autovacuum_naptime = 5s
log_checkpoints = on"

pg_prepare() {
	chmod 0711 "$TMP" # the sockets are below it
	cd / || exit 1
	for n in 0 1 2 3; do # 0: the local disk
		install -d -o postgres -g postgres "$TMP/sock$n" || fail "cannot make $TMP/sock$n"
	done
	install -d -o postgres -g postgres -m 0700 "$(mnt 1)/$dir" "$TMP/local" || fail "node 1: cannot make $dir"
}
pg_data() { echo "$(mnt "$1")/$dir/data"; }
pg_init() { # DATA COMMAND...
	assert_ok "initdb" "${@:2}" "${as[@]}" "$bin/initdb" -k -A trust -E UTF8 --locale=C -D "$1"
	echo "$conf" >>"$1/postgresql.conf" || fail "$1: cannot configure"
}
pg_sql() { # N DATABASE TEXT
	"$bin/psql" -h "$TMP/sock$1" -U postgres -d "$2" -XqAt -v ON_ERROR_STOP=1 -c "$3"
}
pg_answers() { pg_sql "$1" postgres 'SELECT 1' >/dev/null 2>&1; }

# A server is a namespace of processes and of shared memory, as on a machine of its own: that another one runs is
# neither seen in its process number nor in its memory. It inherits the lock, and so do all its children.
declare -A server
pg_start() { # N [DATA]
	local n=$1 where=${2:-$(pg_data "$1")}
	if [ "$n" = 0 ]; then
		"${as[@]}" "$bin/postgres" -D "$where" -k "$TMP/sock0" >>"$TMP/log0" 2>&1 &
	else
		"$SANDBOX" exec "$n" -- setpriv --pdeathsig KILL -- flock -F -w 30 -E 75 "$(dirname "$where")/lock" \
			unshare --ipc --pid --fork --kill-child --mount-proc --propagation slave -- \
			"${as[@]}" "$bin/postgres" -D "$where" -k "$TMP/sock$n" >>"$TMP/log$n" 2>&1 &
	fi
	server[$n]=$!
	BACKGROUND+=("$!")
	wait_until 60 "node $n: PostgreSQL answers" pg_answers "$n"
}
pg_stop() { # N SIGNAL: QUIT as pg_ctl stop -m immediate, INT as -m fast
	local p=${server[$1]}
	[ "$1" = 0 ] || p=$(pgrep -P "$p")
	kill -s "$2" "$p" || fail "node $1: no PostgreSQL to stop"
	wait "${server[$1]}"
}

pg_load() { # N SECONDS OUT: pgbench, its report to OUT, a line for each transaction to OUT.log.*
	(cd "$TMP" && exec "$bin/pgbench" -h "$TMP/sock$1" -U postgres -n -c "$clients" -j 2 -T "$2" -l --log-prefix "$3.log" bench) >"$TMP/$3" 2>&1
}
pg_told() { cat "$TMP/$1".log.* 2>/dev/null | wc -l; }
total=0 doubt=0

pg_right() { # N: pgbench's law, in the database of node N
	local row
	row=$(pg_sql "$1" bench "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = d AND (SELECT sum(bbalance) FROM pgbench_branches) = d
		AND (SELECT sum(tbalance) FROM pgbench_tellers) = d, n BETWEEN $total AND $((total + doubt)), n
		FROM (SELECT coalesce(sum(delta), 0) AS d, count(*) AS n FROM pgbench_history) h") || return 1
	[[ $row == 't|t|'* ]] || {
		echo "balances right, rows $total to $((total + doubt)), rows: $row"
		return 1
	}
}
pg_checked() { # OBJECT N
	assert_ok "$1: balances and transactions" pg_right "$2"
	assert_ok "$1: tables and indexes" "$bin/pg_amcheck" -h "$TMP/sock$2" -U postgres --all --heapallindexed --rootdescend
}

# A database for pgbench on node N, made with the server running there.
pg_bench() { # N
	local d
	for d in postgres template1; do assert_ok "extension in $d" pg_sql "$1" $d 'CREATE EXTENSION amcheck'; done
	assert_ok "create database" pg_sql "$1" postgres 'CREATE DATABASE bench'
	assert_ok "pgbench -i" "$bin/pgbench" -h "$TMP/sock$1" -U postgres -i -q -s "$scale" bench
}
