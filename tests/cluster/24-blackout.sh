#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Power failure of nodes and disks at one moment, in mid-load, on disks that throw away what was not
# flushed (lossydisk.c): everything that fsync promised is there. In every third round one node loses power
# before, so that its recovery is what the blackout meets. At last a planted fault: a disk that lies about
# its flushes, which the checker must see.
# timeout: 150
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/failure.sh"

lossy_sandbox

load_start() { # DIRECTORY: on every node, until its power fails
	local n
	for n in 1 2 3; do
		background on $n python3 "$HERE/promises.py" write "$(mnt $n)/$1" $n "$TMP/$1.log$n" 2>/dev/null
	done
	for n in 1 2 3; do
		wait_until 20 "$1: node $n: a first fsync" grep -qs '^+' "$TMP/$1.log$n"
	done
}

thrown=0
blackout() { # OBJECT SEED
	local lost
	assert_ok "$1: power off" sb power-off
	wait "${BACKGROUND[@]}" 2>/dev/null
	BACKGROUND=()
	control "power-cut $2"
	lost=$(($(counted dropped) + $(counted torn)))
	thrown=$((thrown + lost))
	note "$1: of $(counted unflushed) un-flushed writes $(counted dropped) thrown away, $(counted torn) torn, $(counted kept) kept"
}

back() { # OBJECT
	assert_ok "$1: up" sb up
	assert_ok "$1: mount" sb mount "$FS"
}

# Is all that was promised in DIRECTORY there, seen from node N?
promised() { # N DIRECTORY
	timeout 60 python3 "$HERE/promises.py" verify "$(mnt "$1")/$2" "$TMP/$2".log[123] >"$TMP/verify" 2>&1
}
kept() { # OBJECT N DIRECTORY
	promised "$2" "$3" || fail "$1: node $2: what fsync promised is not there: $(tail -n 8 "$TMP/verify")"
}

round() { # NUMBER
	local d=round$1 what="round $1" seed=$(($1 % 2 ? 0 : RANDOM + 1)) # all is lost, or any part of it
	load_start "$d"
	sleep "$((1 + RANDOM % 3)).$((RANDOM % 10))"
	if [ $(($1 % 3)) = 0 ]; then
		what="round $1, node 2 first"
		assert_ok "$what: kill" sb kill 2
		sleep "$((RANDOM % 5)).$((RANDOM % 10))" # before, while and after its log is replayed
	fi
	blackout "$what, seed $seed" $seed
	back "$what"
	kept "$what" $((1 + RANDOM % 3)) "$d"
	note "$what: $(tail -n 1 "$TMP/verify")"
	assert_ok "$what: unmount" sb umount
	fsck_clean "$what" "$FS"
	assert_ok "$what: mount after fsck" sb mount "$FS"
	kept "$what, after fsck" $((1 + RANDOM % 3)) "$d"
}

rounds=4
[ "$MODE" = long ] && rounds=20
for r in $(seq $rounds); do round "$r"; done
[ "$(counted ignored)" = 0 ] || fail "lossydisk: ignored flushes that nobody told it to"
[ $thrown -gt 0 ] || fail "blackout: expected un-flushed writes to throw away in $rounds rounds, got none: nothing is proven"
for r in $(seq $rounds); do kept "all earlier rounds" 1 "round$r"; done
note "$thrown un-flushed writes were thrown away in $rounds rounds, $(counted flushes) flushes"

# Planted fault. The disk falls back to a whole state, that of the moment when its lies began.
load_start liar
sleep 1
control lying-flush
sleep 2
blackout "lying flush (planted)" 0
[ "$(counted ignored)" -gt 0 ] || fail "lying flush: expected the nodes to flush, got nothing"
control honest-flush
back "lying flush"
promised 1 liar && fail "lying flush: expected to see broken promises, got: $(cat "$TMP/verify")"
grep -q ' promises, [1-9][0-9]* broken$' "$TMP/verify" || fail "lying flush: expected broken promises, got: $(cat "$TMP/verify")"
note "lying flush (planted): seen: $(tail -n 1 "$TMP/verify")"
