#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# SQLite as a user of the mount (ledger.py): one database written from three nodes in turns and at once, in each
# journal mode, read through maps on one of them, vacuumed by another; writers killed at any time; a writer that dies in the middle of a transaction, by kill -9 and
# with its node, whose journal another node rolls back. No commit that was told is lost, nothing is half done.
# timeout: 300
. "$(dirname "$0")/lib.sh"
command -v sqlite3 >/dev/null || skip "no sqlite3"

dir=sqlite.$$
mkdir "$(mnt 1)/$dir" || fail "node 1: cannot make $dir"
many=40
[ "$MODE" = long ] && many=1000

db() { echo "$(mnt "$1")/$dir/$2.db"; } # N MODE
ledger() { # N WHAT MODE ARGUMENT...
	local n=$1 what=$2 mode=$3
	shift 3
	on "$n" timeout $((60 + many)) python3 "$HERE/ledger.py" "$what" "$(db "$n" "$mode")" "$@"
}
write() { ledger "$1" write "$2" "$2" "n$1" "$3" "$TMP/$2.told$1"; } # N MODE COUNT
told() { cat "$TMP/$1".told? | wc -l; }
verified() { # OBJECT MODE KILLS NODE...
	local what=$1 mode=$2 kills=$3 n
	shift 3
	for n in "$@"; do
		assert_ok "$what: node $n" ledger "$n" verify "$mode" "$kills" "$TMP/$mode".told?
		# The shell is another build of SQLite's users: it reads the file anew.
		assert_eq "$what: node $n: integrity_check" ok "$(on "$n" sqlite3 -cmd '.timeout 60000' "$(db "$n" "$mode")" 'PRAGMA integrity_check')"
	done
}
at_once() { # MODE COUNT: writers on all nodes, a reader on node 2, VACUUM on node 1
	local n p pids=()
	ledger 1 vacuum "$1" "$1" 2 >"$TMP/$1.vacuum" 2>&1 &
	pids+=($!)
	LEDGER_MAP=1 ledger 2 read "$1" "$1" 2 >"$TMP/$1.looks" 2>&1 &
	pids+=($!)
	for n in 1 2 3; do
		LEDGER_MAP=${n/[12]/} write $n "$1" "$2" >"$TMP/$1.out$n" 2>&1 &
		pids+=($!)
	done
	for p in "${pids[@]}"; do
		wait "$p" || fail "$1, at once: a writer, the reader or VACUUM failed: $(tail -qn 1 "$TMP/$1".out? "$TMP/$1.looks" "$TMP/$1.vacuum")"
	done
}

for mode in delete truncate persist wal; do
	assert_ok "$mode: make" ledger 1 make $mode $mode
	for n in 1 2 3 2 1; do
		write $n $mode 10 >"$TMP/turn" 2>&1 || fail "$mode, in turns: node $n: $(tail -n 1 "$TMP/turn")"
	done
	verified "$mode, in turns" $mode 0 1 2 3
	at_once $mode $many
	verified "$mode, at once" $mode 0 1 2 3
	assert_eq "$mode: commits told" $((50 + 3 * many)) "$(told $mode)"
	note "$mode: 3 nodes at once: $(cat "$TMP/$mode".out? | sed 's/.*, \([0-9]*\/s\).*/\1/' | paste -sd ' ') transactions; reader: $(cat "$TMP/$mode.looks")"
done

# Writers that are killed at any time, while the others go on. They tell what they committed.
kills=5
[ "$MODE" = long ] && kills=100
for n in 1 3; do
	write $n delete $((2 * many)) >"$TMP/delete.out$n" 2>&1 &
	others[n]=$!
done
before=$(wc -l <"$TMP/delete.told2")
for i in $(seq $kills); do
	rm -f "$TMP/delete.told2.pid"
	write 2 delete 100000 >/dev/null 2>&1 &
	victim=$!
	wait_until 20 "kill $i: a writer on node 2" test -s "$TMP/delete.told2.pid"
	sleep "0.$((RANDOM % 6 + 2))"
	# The writer, not its timeout(1) or the shell: it gets no chance to end its transaction.
	kill -KILL "$(cat "$TMP/delete.told2.pid")" || fail "kill $i: no writer on node 2"
	wait $victim 2>/dev/null
done
[ "$(wc -l <"$TMP/delete.told2")" -gt "$before" ] || fail "killed writers of node 2: expected commits between the kills, got none"
for n in 1 3; do
	wait "${others[n]}" || fail "killed writers: node $n: $(tail -n 1 "$TMP/delete.out$n")"
done
verified "killed writers" delete $kills 1 3 2
note "$kills writers killed while two nodes wrote: all $(told delete) commits told are there"

# In the middle of a transaction that is in the file already: the journal is hot, another node rolls back.
journal_hot() { [ "$(head -c 8 "$1-journal" 2>/dev/null | od -An -tx1 | tr -d ' ')" = d9d505f920a163d7 ]; }
torn() { # MODE
	rm -f "$TMP/$1.torn"
	background ledger 2 torn "$1" "$1" torn "$TMP/$1.torn"
	wait_until 20 "$1: node 2: a torn transaction" test -s "$TMP/$1.torn"
	journal_hot "$(db 1 "$1")" || fail "$1: expected a hot journal seen from node 1, got none"
	grep -aq 'torn torn torn' "$(db 1 "$1")" || fail "$1: expected the torn transaction in the file, got nothing of it"
}
rolled_back() { # OBJECT MODE KILLS: by node 3
	verified "$1" "$2" "$3" 3 1
	journal_hot "$(db 1 "$2")" && fail "$1: expected no hot journal behind the roll-back, got one"
	return 0
}
for mode in delete truncate persist; do
	torn $mode
	journal_hot "$(db 3 $mode)" || fail "$mode: the journal went without a reason"
	kill -KILL "$(cat "$TMP/$mode.torn")" || fail "$mode: no writer on node 2"
	rolled_back "$mode, kill -9 in mid-transaction" $mode $kills
	write 2 $mode 5 >/dev/null || fail "$mode: node 2 cannot write behind the roll-back"
done
note "kill -9 in mid-transaction: rolled back by another node in 3 journal modes"

# The same with its node. WAL is promised only where one node at a time has the database open (docs/applications.md).
torn delete
write 2 wal 100000 >/dev/null 2>&1 &
writer=$!
before=$(told wal)
more() { [ "$(told wal)" -gt $((before + 20)) ]; }
wait_until 20 "wal: node 2 writes" more
t=$(date +%s%N)
assert_ok "power failure of node 2" sb kill 2
wait $writer 2>/dev/null
rolled_back "power failure in mid-transaction" delete $kills
note "power failure in mid-transaction: rolled back by node 3, verified on two nodes after $((($(date +%s%N) - t) / 1000000)) ms"
verified "wal, power failure of the only writer" wal 1 3 1
note "wal: power failure of the only node that wrote: all $(told wal) commits told are there"
assert_ok "node 2 starts again" sb start 2
assert_ok "node 2 mounts again" sb mount "$FS" 2
for mode in delete truncate persist wal; do
	write 2 $mode 5 >/dev/null || fail "$mode: node 2, back again, cannot write"
	verified "$mode, at the end" $mode $kills 1 2 3
done

# The checker itself: a commit that is gone, and a page that is another.
sqlite3 "$(db 1 delete)" ".backup $TMP/lost.db" && cp "$TMP/lost.db" "$TMP/bad.db" || fail "self-test: cannot copy"
assert_ok "self-test: the copy" python3 "$HERE/ledger.py" verify "$TMP/lost.db" $kills "$TMP"/delete.told?
python3 "$HERE/ledger.py" lose "$TMP/lost.db" || fail "self-test: cannot plant the fault"
python3 "$HERE/ledger.py" verify "$TMP/lost.db" $kills "$TMP"/delete.told? 2>/dev/null && fail "self-test: expected a lost commit to be seen"
printf '\xff\xff' | dd of="$TMP/bad.db" bs=1 seek=$((4096 * 6 + 3)) conv=notrunc status=none
python3 "$HERE/ledger.py" verify "$TMP/bad.db" $kills "$TMP"/delete.told? 2>/dev/null && fail "self-test: expected a torn page to be seen"
exit 0
