#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Three nodes that lose quorum and get it back: while each is alone nobody writes and nobody unmounts; when they hear each other again the
# calls that waited are done, through the same open file, by the same lives of the daemons. Then a majority dies for good: an operator's
# word lets the last node go on, and is refused while anything speaks against it.
# timeout: 300
. "$(dirname "$0")/lib.sh"

own_sandbox --nodes 3 --disk-count 1 --disk-size 1G
state=$(state_dir)
# shellcheck disable=SC2046 # words
assert_ok "fs create" on 1 tessera fs create "$FS" $(urls) --log-slots 4
assert_ok "mount" sb mount "$FS"

quorum() { # NODE FILTER
	on "$1" timeout 10 tessera --json quorum status 2>/dev/null | jq -r "$2"
}
waits() { [ "$(quorum "$1" .quorate)" = false ]; }
goes_on() { [ "$(quorum "$1" '.state')" = quorate ]; }
daemons() { cat "$state"/n?/tesserad.pid | paste -sd' '; }
both_back() { # nodes 2 and 3, if need be as new lives
	local n
	for n in 2 3; do
		sb start $n --no-wait >/dev/null 2>&1
		wait_until 60 "node $n to be a member" goes_on $n
		timeout 5 stat "$(mnt $n)/." >/dev/null 2>&1 || timeout 10 umount -l "$(mnt $n)" 2>/dev/null
		assert_ok "node $n mounts" sb mount "$FS" $n
	done
}
rest() { # no grant under way: node 1 has what it will write
	echo 0 >"$(mnt 1)/log" && sync "$(mnt 1)/log" || fail "node 1: cannot write"
}

# --- lost and found ----------------------------------------------------------------------------------------------------------
for what in "cut" "freeze"; do
	rest
	before=$(daemons)
	# One process has the file open, and writes what it is told. (A descriptor of ours would be closed by every child of ours, and that waits.)
	rm -f "$TMP/tell" "$TMP/done"
	mkfifo "$TMP/tell"
	background sh -c "exec 7>>'$(mnt 1)/log'; while read -r w; do echo \$w >&7 && echo \$w >>'$TMP/done'; done <'$TMP/tell'"
	exec 8>"$TMP/tell"
	# Too short for a lease, and no quorum at any of them: nobody is put out.
	for n in 2 3; do sb $what $n; done
	wait_until 20 "$what: node 1 to wait" waits 1
	echo waited >&8
	t=$(date +%s%N)
	sleep 3
	[ ! -s "$TMP/done" ] || fail "$what: expected node 1 to wait without quorum, got a write"
	assert_eq "$what: node 1 is mounted still" 1 "$(grep -c " $(mnt 1) " /proc/self/mountinfo)"
	for n in 2 3; do
		[ $what = cut ] && sb heal $n
		[ $what = freeze ] && sb thaw $n
	done
	wait_until 30 "$what: node 1 to go on" goes_on 1
	wait_until 20 "$what: the call that waited to be done" test -s "$TMP/done"
	note "$what: node 1 waited, and goes on $((($(date +%s%N) - t) / 1000000)) ms after it began, 3000 of them by us"
	echo after >&8
	wait_until 10 "$what: the open file to serve on" grep -qx after "$TMP/done"
	exec 8>&-
	# Whoever was there when a majority heard each other again lives on; who was still away then is out, and comes back as a new life.
	assert_eq "$what: life of node 1" "${before%% *}" "$(cat "$state/n1/tesserad.pid")"
	sleep 3
	kept=0
	for n in 1 2 3; do goes_on $n && kept=$((kept + 1)); done
	[ $kept -ge 2 ] || fail "$what: expected two or three lives to go on, got $kept"
	note "$what: $kept of 3 lives go on"
	both_back
	for n in 2 3; do assert_eq "$what: node $n reads" "0 waited after" "$(timeout 20 cat "$(mnt $n)/log" | paste -sd' ')"; done
done

# --- an operator's word -------------------------------------------------------------------------------------------------------
assert_refused "force with quorum" "has quorum" 1 tessera quorum force 2 3 --yes-i-know
for n in 2 3; do echo "$n" >"$(mnt $n)/held$n" && sync "$(mnt $n)/held$n" || fail "node $n: cannot write"; done
assert_ok "kill 3" sb kill 3
of_two() { [ "$(quorum 1 .daemons)" = 2 ] && goes_on 1; }
wait_until 30 "node 1 and 2 to go on without 3" of_two
assert_ok "cut 2" sb cut 2
wait_until 20 "node 1 to wait" waits 1
assert_refused "force: one is not named" "node 3 is missing, too" 1 tessera quorum force 2 --yes-i-know
assert_refused "force: not confirmed" "not confirmed" 1 tessera quorum force 2 3
assert_refused "force: no number" "not a node number" 1 tessera quorum force two --yes-i-know
assert_refused "force: not a node" "no node of corosync" 1 tessera quorum force 2 9 --yes-i-know
assert_ok "heal 2" sb heal 2
wait_until 30 "node 1 and 2 to be a majority" goes_on 1
assert_ok "kill 2" sb kill 2
wait_until 20 "node 1 to wait again" waits 1
t=$(date +%s%N)
assert_ok "force" on 1 tessera quorum force 2 3 --yes-i-know
note "forced: a view after $((($(date +%s%N) - t) / 1000000)) ms"
assert_eq "by what" force "$(quorum 1 .by)"
grep -q "event: quorum forced.*: 2 3$" "$state/n1/tesserad.log" || fail "expected an event in the log of node 1"
background sh -c "cat '$(mnt 1)'/held2 '$(mnt 1)'/held3 >$TMP/both && echo 1 >'$(mnt 1)/held2' && touch $TMP/taken"
wait_until 60 "node 1 to have what the dead held" test -e "$TMP/taken"
assert_eq "what they held" "2 3" "$(paste -sd' ' "$TMP/both")"

# They come back, and the majority is one again.
for n in 2 3; do
	assert_ok "start $n" sb start $n --no-wait
	wait_until 40 "node $n to be a member again" goes_on $n
	assert_ok "mount on $n" sb mount "$FS" $n
done
assert_eq "by what, all back" majority "$(quorum 1 .by)"
assert_eq "node 2 reads" 1 "$(timeout 20 cat "$(mnt 2)/held2")"
assert_ok "unmount" sb umount
fsck_clean "quorum lost, found, forced" "$FS"
