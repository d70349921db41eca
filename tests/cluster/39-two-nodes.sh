#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Two nodes and a tiebreaker disk: whoever is left goes on, of two that cannot hear each other exactly one does, and the other is fenced
# and writes nothing. Without the disk a lone node waits, and so does one that was started alone, until the other comes, or an operator
# vouches for its death. The planted fault: each node asks a disk of its own (a copy under the same identity); then both win, and the
# check that counts them must say so. Times are printed.
# timeout: 420
. "$(dirname "$0")/lib.sh"

own_sandbox --nodes 2 --tiebreaker --disks iscsi --disk-count 1 --disk-size 1G
state=$(state_dir)
# shellcheck disable=SC2046 # words
assert_ok "fs create" on 1 tessera fs create "$FS" $(urls) --log-slots 4
assert_ok "mount" sb mount "$FS"

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
	background sh -c "echo $4 >'$(mnt "$2")/$3' && sync -f '$(mnt "$2")/$3' && touch $mark"
	wait_until 30 "$1: node $2 to write" test -e "$mark"
}
held_by() { # NODE: a file that this node holds
	echo old >"$(mnt "$1")/held" && sync -f "$(mnt "$1")/held" || fail "node $1: cannot write"
}
ms_since() { echo $((($(date +%s%N) - $1) / 1000000)); }
median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }

# --- one is killed ------------------------------------------------------------------------------------------------------
for how in kill crash; do
	: >"$TMP/times"
	for i in 1 2 3; do
		dead=$((1 + i % 2)) left=$((2 - i % 2))
		held_by $dead
		n=$(halves $left) t=$(date +%s%N)
		assert_ok "$how $dead" sb $how $dead
		takes "$how $dead" $left held "$how$i"
		ms_since "$t" >>"$TMP/times"
		assert_eq "$how $dead: by what node $left goes on" tie "$(quorum $left .by)"
		assert_eq "$how $dead: views of a half on node $left" $((n + 1)) "$(halves $left)"
		both_back
		assert_eq "$how $dead: node $dead reads" "$how$i" "$(timeout 20 cat "$(mnt $dead)/held")"
	done
	note "$how: the other has what it held after $(paste -sd' ' "$TMP/times") ms, median $(median <"$TMP/times")"
done

# --- they do not hear each other -------------------------------------------------------------------------------------------
winners() { # how many of them have made a view of their own since `before1`, `before2`; one look, after a while
	local n=0
	[ "$(halves 1)" -gt "$before1" ] && n=$((n + 1)) winner=1 loser=2
	[ "$(halves 2)" -gt "$before2" ] && n=$((n + 1)) winner=2 loser=1
	echo $n
}
separate() { # COMMAND of the sandbox
	before1=$(halves 1) before2=$(halves 2) winner='' loser=''
	t=$(date +%s%N)
	# shellcheck disable=SC2086 # words
	sb $1 || fail "sandbox $1 failed"
}
for how in "cut 1" "cut 2 --in" "cut 2 --out" "freeze 2"; do
	both_back
	held_by 2
	separate "$how"
	some() { [ "$(winners)" -ge 1 ]; }
	wait_until 30 "one of them to go on" some
	first=$(ms_since "$t")
	winners >/dev/null # sets winner and loser here
	takes "$how" "$winner" held won
	note "$how: node $winner goes on after $first ms, has what node 2 held after $(ms_since "$t") ms"
	if [ "$how" != "freeze 2" ] && timeout 3 sh -c "echo lost >$(mnt $loser)/held && sync -f $(mnt $loser)/held" 2>/dev/null; then
		fail "$how: expected node $loser's write not to be taken, got success"
	fi
	sleep 2
	[ "$(winners)" = 1 ] || fail "$how: expected one of them to go on, got $(winners)"
	both_back
	for n in 1 2; do assert_eq "$how: what is in the file, node $n" won "$(timeout 20 cat "$(mnt $n)/held")"; done
done

# --- the tiebreaker is gone ---------------------------------------------------------------------------------------------------
san() { nsenter --net="/run/netns/$TESSERA_SANDBOX_NAME-san" "$@"; }
portal() { # gone|back
	case $1 in
	gone) san nft 'add table inet tie; add chain inet tie in { type filter hook input priority 0; }; add rule inet tie in tcp dport 3261 drop' ;;
	back) san nft delete table inet tie ;;
	esac || fail "nft: cannot make the tiebreaker $1"
}
portal gone
held_by 2
sleep 3
assert_eq "both alive, no tiebreaker" true "$(quorum 1 .quorate)"
takes "both alive, no tiebreaker" 1 held both
assert_ok "kill 2" sb kill 2
wait_until 20 "node 1 to wait" is_waiting 1
background sh -c "echo alone >'$(mnt 1)/alone' && touch $TMP/alone"
sleep 5
[ ! -e "$TMP/alone" ] || fail "alone without the tiebreaker: expected node 1 to wait, got a write"
note "alone without the tiebreaker: $(quorum 1 '.state + "; " + .tiebreaker.last_bid')"
t=$(date +%s%N)
portal back
wait_until 60 "node 1 to go on when the disk is back" test -e "$TMP/alone"
note "the disk is back: node 1 goes on after $(ms_since "$t") ms, without unmounting"
both_back

# A survivor that has its decision needs the disk no more.
assert_ok "kill 2" sb kill 2
wait_until 20 "node 1 to go on" by_tie 1
portal gone
takes "decided" 1 decided yes
sleep 4
takes "decided, after more than a lease" 1 decided still
portal back
both_back

# --- no tiebreaker: nobody goes on alone (and the checks above do not pass by themselves) -------------------------------------
assert_ok "tiebreaker none" on 1 tessera quorum tiebreaker none
held_by 2
assert_ok "kill 2" sb kill 2
wait_until 20 "node 1 to wait" is_waiting 1
sleep 4
assert_eq "none: node 1" false "$(quorum 1 .quorate)"
url=$(sb disks --tiebreaker)
assert_refused "no majority to choose one" "majority" 1 tessera quorum tiebreaker set "$url"
both_back_none() { is_quorate 1 && is_quorate 2; }
sb start 2 --no-wait
wait_until 40 "both to be members" both_back_none
assert_ok "node 2 mounts" sb mount "$FS" 2
assert_refused "not a URL" "not a URL" 1 tessera quorum tiebreaker set nonsense
assert_refused "a disk that is not there" "cannot be opened" 1 tessera quorum tiebreaker set file:///nonexistent/disk
truncate -s 4M "$TMP/xfs.img" && mkfs.ext4 -q "$TMP/xfs.img" || fail "mkfs.ext4 failed"
assert_refused "somebody's disk" "ext4" 1 tessera quorum tiebreaker set "file://$TMP/xfs.img"
# The reserved area of the file system's own disk.
assert_ok "tiebreaker on the file system's disk" on 1 tessera quorum tiebreaker set "$(urls)"
assert_refused "fs create over the tiebreaker" "tiebreaker" 1 tessera fs create other "$(urls)" --force
wait_until 10 "node 2 to have it" disk_known 2
held_by 1
assert_ok "kill 1" sb kill 1
takes "on the file system's disk" 2 held area
assert_eq "on the file system's disk: by what" tie "$(quorum 2 .by)"
both_back
assert_ok "tiebreaker on its own LUN again" on 2 tessera quorum tiebreaker set "$url"
wait_until 10 "node 1 to have it" disk_known 1

# --- both are killed, one is started alone ------------------------------------------------------------------------------------
held_by 2
assert_ok "power-off" sb power-off
assert_ok "the target again" sb san start
assert_ok "start 1 alone" sb start 1 --no-wait
sleep 6
assert_eq "started alone" false "$(quorum 1 .quorate)"
note "started alone: $(quorum 1 .state)"
assert_refused "force: nobody named that is missing" "no node of corosync" 1 tessera quorum force 7 --yes-i-know
assert_refused "force: oneself" "not dead" 1 tessera quorum force 1 --yes-i-know
assert_refused "force: not confirmed" "not confirmed" 1 tessera quorum force 2
assert_ok "force" on 1 tessera quorum force 2 --yes-i-know
assert_eq "forced: by what" force "$(quorum 1 .by)"
grep -q "event: quorum forced.*: 2$" "$state/n1/tesserad.log" || fail "forced: expected an event in the log of node 1"
assert_ok "forced: node 1 mounts" sb mount "$FS" 1
assert_eq "forced: node 1 reads" old "$(timeout 20 cat "$(mnt 1)/held")"
assert_refused "force: with quorum" "has quorum" 1 tessera quorum force 2 --yes-i-know
both_back
assert_eq "after the return of node 2" majority "$(quorum 1 .by)"

# --- planted: a disk of its own for each -----------------------------------------------------------------------------------------
assert_ok "unmount" sb umount
fsck_clean "two nodes" "$FS"
cp "$state/tiebreaker.img" "$TMP/copy.img"
export TGT_IPC_SOCKET=$TMP/tgt
san tgtd -f -C 9 --iscsi "portal=10.77.0.254:3262" >"$TMP/tgtd.log" 2>&1 &
BACKGROUND+=("$!")
copy() { tgtadm -C 9 --lld iscsi "$@"; }
answers() { copy --op show --mode target >/dev/null 2>&1; }
wait_until 5 "the second target" answers
iqn=$(cut -d/ -f4 <<<"$url")
copy --op new --mode target --tid 1 -T "$iqn" && copy --op new --mode logicalunit --tid 1 --lun 100 -b "$TMP/copy.img" --bstype rdwr &&
	copy --op update --mode logicalunit --tid 1 --lun 100 --params "vendor_id=TESSERA,product_id=SANDBOX,scsi_sn=$TESSERA_SANDBOX_NAME-tie,scsi_id=$TESSERA_SANDBOX_NAME-tie" &&
	copy --op bind --mode target --tid 1 -I ALL || fail "planted: no second target: $(cat "$TMP/tgtd.log")"
nsenter --net="/run/netns/$TESSERA_SANDBOX_NAME-n2" nft 'add table ip plant; add chain ip plant out { type nat hook output priority -100; }; add rule ip plant out tcp dport 3261 dnat to 10.77.0.254:3262' || fail "planted: nft refused"
assert_ok "planted: node 2 opens the copy" sb stop 2 --tesserad
assert_ok "planted: node 2 again" sb start 2
wait_until 20 "node 2 to have the copy" disk_known 2
separate "cut 1"
two() { [ "$(winners)" = 2 ]; }
wait_until 30 "planted: both to win, and to be counted" two
note "planted: with a disk for each both go on, and the check sees it"
