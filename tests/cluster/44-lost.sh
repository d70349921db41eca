#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Databases and a power failure of all nodes and disks at one moment, on disks that throw away what was not flushed
# (lossydisk.c): PostgreSQL on one node, SQLite written by two others, in mid-load. What COMMIT told is there,
# the databases are whole, fsck is clean. At last a planted fault: a disk that lies about its flushes.
# timeout: 300
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/failure.sh"

dir=pg scale=1 clients=4
. "$(dirname "$0")/postgres.sh"

lossy_sandbox
pg_prepare

ledger() { # N WHAT ARGUMENT...
	local n=$1 what=$2
	shift 2
	on "$n" timeout 100 python3 "$HERE/ledger.py" "$what" "$(mnt "$n")/$db" "$@"
}

kills=0 thrown=0 db=ledger.db
blackout() { # OBJECT SEED N: PostgreSQL on node N, SQLite on the others
	local what=$1 seed=$2 n=$3 m p=() lost
	pg_load "$n" 600 "$what" &
	p+=($!)
	# And what leaves un-flushed writes behind.
	on "$n" python3 "$HERE/promises.py" write "$(mnt "$n")/$what" "$n" "$TMP/$what.log$n" 2>/dev/null &
	p+=($!)
	for m in 1 2 3; do
		[ "$m" != "$n" ] || continue
		ledger "$m" write delete "n$m" 1000000 "$TMP/told$m" >"$TMP/write$m" 2>&1 &
		p+=($!)
	done
	wait_until 30 "$what: node $n: a first fsync" grep -qs '^+' "$TMP/$what.log$n"
	sleep "$((2 + RANDOM % 3)).$((RANDOM % 10))"
	[ "$what" != liar ] || {
		control lying-flush
		sleep 3
	}
	assert_ok "$what: power off" sb power-off
	wait "${p[@]}" "${server[$n]}"
	control "power-cut $seed"
	lost=$(($(counted dropped) + $(counted torn)))
	thrown=$((thrown + lost)) kills=$((kills + 2))
	[ "$(pg_told "$what")" -gt 0 ] || fail "$what: expected transactions, pgbench told none: $(tail -n 3 "$TMP/$what")"
	total=$((total + $(pg_told "$what"))) doubt=$((doubt + clients))
	assert_ok "$what: up" sb up
	assert_ok "$what: mount" sb mount "$FS"
	note "$what: PostgreSQL on node $n $(pg_told "$what") transactions; $lost un-flushed writes lost or torn"
}
sqlite_right() { # N
	ledger "$1" verify "$kills" "$TMP"/told?
}

pg_init "$(pg_data 1)" on 1
pg_start 1
pg_bench 1
assert_ok "SQLite: make" ledger 1 make delete
rounds=2
[ "$MODE" = long ] && rounds=15
n=1
for r in $(seq $rounds); do
	blackout "round$r" $((r % 2 ? 0 : RANDOM + 1)) $n # all is lost, or any part of it
	n=$((n % 3 + 1))
	pg_start $n
	pg_checked "round$r" $n
	assert_ok "round$r: files" python3 "$HERE/promises.py" verify "$(mnt $n)/round$r" "$TMP/round$r".log?
	assert_ok "round$r: SQLite" sqlite_right $((n % 3 + 1))
	if [ "$r" = "$rounds" ]; then
		pg_stop $n INT
		assert_ok "page checksums" on 1 "${as[@]}" "$bin/pg_checksums" --check -D "$(pg_data 1)"
		assert_ok "unmount" sb umount
		fsck_clean "at the end" "$FS"
		assert_ok "mount after fsck" sb mount "$FS"
		pg_start $n
	fi
done
# Databases leave few un-flushed writes at any moment, often none: the planted fault tells whether losing them matters.
note "$(cat "$TMP"/told? | wc -l) commits of SQLite and $total of PostgreSQL told, all there; $thrown un-flushed writes were lost or torn"

# Planted fault. The disks fall back to the moment when their lies began.
blackout liar 0 $n
control honest-flush
sqlite_right 1 >"$TMP/verify" 2>&1 && fail "lying flush: expected commits that are gone, got: $(cat "$TMP/verify")"
note "lying flush (planted): seen: $(tail -n 1 "$TMP/verify")"
exit 0
