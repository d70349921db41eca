#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Locks of applications and the death of a node: what its processes held is free when it is recovered, not
# before and not much later; who waited on another node is woken once; locks of living nodes stay, wherever
# they were mastered; and who waited for them still waits. `tessera diag locks` tells who holds and who waits.
# timeout: 150
# quick
. "$(dirname "$0")/lib.sh"

dir=locks.$$
mkdir "$(mnt 1)/$dir" || fail "node 1: cannot make $dir"
files=24 # enough for every node to master some

# holder N WHAT: node N locks byte 0 of every file for writing until it is killed.
holder() {
	background on "$1" python3 "$HERE/locker.py" hold "$(mnt "$1")/$dir/$2" "$files" "$TMP/$2.ready"
	wait_until 20 "node $1: locks of $2" test -s "$TMP/$2.ready"
}
# waiter N WHAT: node N waits for all of them; each lock is told with its time.
waiter() {
	background on "$1" python3 "$HERE/locker.py" wait "$(mnt "$1")/$dir/$2" "$files" "$TMP/$2.$1.woken"
}
woken() { wc -l <"$TMP/$1.woken"; }
all_woken() { [ "$(woken "$1")" = "$files" ]; }
waits() { # N COUNT: node N has so many waiting operations
	[ "$(on "$1" tessera --json diag locks | jq '[.[] | select(.waiting and .role == "holder")] | length')" = "$2" ]
}

holder 2 dead
holder 3 alive
waiter 1 dead
waiter 1 alive
wait_until 20 "node 1: waiting" waits 1 $((2 * files))
on 2 tessera --json diag locks | jq -e "[.[] | select(.role == \"holder\" and (.waiting | not))] | length == $files" >/dev/null ||
	fail "node 2: expected diag locks to tell $files locks"
assert_eq "locks of node 2 given while it lives" 0 "$(woken dead.1)"

t=$(date +%s%N)
assert_ok "power failure of node 2" sb kill 2
wait_until 30 "node 1: locks of the dead node" all_woken dead.1
note "locks of the dead node: all on node 1 after $((($(date +%s%N) - t) / 1000000)) ms"
assert_eq "locks of the living node 3 given" 0 "$(woken alive.1)"
wait_until 10 "node 1: still waiting for the living" waits 1 "$files"

# The living one ends: its locks are free at once.
t=$(date +%s%N)
kill "$(cat "$TMP/alive.ready")" || fail "node 3: the holder is gone"
wait_until 10 "node 1: locks of the process that ended" all_woken alive.1
note "locks of a process that ended: all on node 1 after $((($(date +%s%N) - t) / 1000000)) ms"

assert_ok "node 2 starts again" sb start 2
assert_ok "node 2 mounts again" sb mount "$FS" 2
waiter 2 dead
wait_until 10 "node 2, back again: waits for what node 1 has now" waits 2 "$files"
assert_eq "locks given twice" 0 "$(woken dead.2)"

# Nobody stays on the mounts.
kill -KILL "${BACKGROUND[@]}" 2>/dev/null
none_left() { ! pgrep -f "locker.py (hold|wait) /mnt/$TESSERA_SANDBOX_NAME/" >/dev/null; }
wait_until 20 "processes of the test end" none_left
