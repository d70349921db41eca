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
rest() { # no grant under way: node 1 has what it will write
	echo 0 >"$(mnt 1)/log" && sync "$(mnt 1)/log" || fail "node 1: cannot write"
}

# --- lost and found ----------------------------------------------------------------------------------------------------------
for what in "cut" "freeze"; do
	rest
	before=$(daemons)
	exec 7>>"$(mnt 1)/log" || fail "node 1: cannot open"
	# Too short for a lease, and no quorum at any of them: nobody is put out.
	for n in 2 3; do sb $what $n; done
	wait_until 20 "$what: node 1 to wait" waits 1
	rm -f "$TMP/done"
	background sh -c "echo waited >&7 && touch $TMP/done"
	t=$(date +%s%N)
	sleep 3
	[ ! -e "$TMP/done" ] || fail "$what: expected node 1 to wait without quorum, got a write"
	assert_eq "$what: node 1 is mounted still" 1 "$(grep -c " $(mnt 1) " /proc/self/mountinfo)"
	for n in 2 3; do
		[ $what = cut ] && sb heal $n
		[ $what = freeze ] && sb thaw $n
	done
	wait_until 30 "$what: node 1 to go on" goes_on 1
	wait_until 20 "$what: the call that waited to be done" test -e "$TMP/done"
	note "$what: node 1 waited, and goes on $((($(date +%s%N) - t) / 1000000)) ms after it began, 3000 of them by us"
	echo after >&7 || fail "$what: expected the open file to serve on, got an error"
	exec 7>&-
	if [ $what = cut ]; then # each was alone: nobody went on, and all of them do
		for n in 2 3; do wait_until 20 "$what: node $n to go on" goes_on $n; done
		assert_eq "$what: lives of the daemons" "$before" "$(daemons)"
		for n in 2 3; do assert_eq "$what: node $n reads" "0 waited after" "$(timeout 20 cat "$(mnt $n)/log" | paste -sd' ')"; done
	else
		assert_eq "$what: life of node 1" "${before%% *}" "$(cat "$state/n1/tesserad.pid")"
	fi
done

# --- an operator's word -------------------------------------------------------------------------------------------------------
for n in 2 3; do
	sb start $n >/dev/null 2>&1
	wait_until 40 "node $n to be a member" goes_on $n
	timeout 5 stat "$(mnt $n)/." >/dev/null 2>&1 || timeout 10 umount -l "$(mnt $n)" 2>/dev/null
	assert_ok "node $n mounts" sb mount "$FS" $n
done
assert_refused "force with quorum" "has quorum" 1 tessera quorum force 2 3 --yes-i-know
for n in 2 3; do echo "$n" >"$(mnt $n)/held$n" && sync "$(mnt $n)/held$n" || fail "node $n: cannot write"; done
assert_ok "cut 2" sb cut 2
assert_ok "kill 3" sb kill 3
wait_until 20 "node 1 to wait" waits 1
assert_refused "force: one is not named" "node 3 is missing, too" 1 tessera quorum force 2 --yes-i-know
assert_refused "force: not confirmed" "not confirmed" 1 tessera quorum force 2 3
assert_refused "force: not a node" "no node of corosync" 1 tessera quorum force two --yes-i-know
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
