# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Two nodes with a tiebreaker, for 39-two-nodes.sh and 45-tiebreaker.sh: what they say about their quorum, and how they come back.

two_nodes() {
	own_sandbox --nodes 2 --tiebreaker --disks iscsi --disk-count 1 --disk-size 1G
	state=$(state_dir)
	# shellcheck disable=SC2046 # words
	assert_ok "fs create" on 1 tessera fs create "$FS" $(urls) --log-slots 4
	assert_ok "mount" sb mount "$FS"
}
san() { nsenter --net="/run/netns/$TESSERA_SANDBOX_NAME-san" "$@"; }
quorum() { # NODE FILTER
	on "$1" timeout 10 tessera --json quorum status 2>/dev/null | jq -r "$2"
}
halves() { grep -c "event: view .* is half of the nodes" "$state/n$1/tesserad.log"; }
is_quorate() { [ "$(quorum "$1" .quorate)" = true ]; }
is_waiting() { [ "$(quorum "$1" .quorate)" = false ]; }
by_tie() { [ "$(quorum "$1" .by)" = tie ]; }
disk_known() { [ "$(quorum "$1" .tiebreaker.usable)" = true ]; }
daemon_ended() { [ "$(sb status --json | jq -r --argjson n "$1" '.nodes[] | select(.id == $n) | .tesserad')" = stopped ]; }
both_back() { # whatever of them does not run, or runs as a life that is out
	local n
	for n in 1 2; do
		sb heal $n
		sb thaw $n
	done >/dev/null 2>&1
	sleep 2
	for n in 1 2; do
		sb start $n --no-wait >/dev/null 2>&1
	done
	for n in 1 2; do
		wait_until 40 "node $n to be a member again" is_quorate $n
		wait_until 20 "node $n to have the tiebreaker" disk_known $n
		timeout 5 stat "$(mnt $n)/." >/dev/null 2>&1 || timeout 10 umount -l "$(mnt $n)" 2>/dev/null
		assert_ok "node $n mounts" sb mount "$FS" $n
	done
	assert_eq "daemons" 2 "$(quorum 1 .daemons)"
}
takes() { # OBJECT NODE FILE TEXT: it is written within 30 s. In the background: a call that waits in the kernel for the daemon cannot be killed
	local mark=$TMP/took.$RANDOM.$RANDOM
	background sh -c "echo $4 >'$(mnt "$2")/$3' && sync '$(mnt "$2")/$3' && touch $mark"
	wait_until 30 "$1: node $2 to write" test -e "$mark"
}
held_by() { # NODE: a file that this node holds
	echo old >"$(mnt "$1")/held" && sync "$(mnt "$1")/held" || fail "node $1: cannot write"
}
ms_since() { echo $((($(date +%s%N) - $1) / 1000000)); }
median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
