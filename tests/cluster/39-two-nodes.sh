#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Two nodes and a tiebreaker disk: whoever is left goes on, and of two that cannot hear each other exactly one does; the other is fenced
# and writes nothing. The planted fault: each node asks a disk of its own (a copy under the same identity); then both win, and the check
# that counts them must say so. Times are printed.
# timeout: 420
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/twonodes.sh"

two_nodes

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
	if [ "$how" != "freeze 2" ] && timeout 3 sh -c "echo lost >$(mnt $loser)/held && sync $(mnt $loser)/held" 2>/dev/null; then
		fail "$how: expected node $loser's write not to be taken, got success"
	fi
	sleep 2
	[ "$(winners)" = 1 ] || fail "$how: expected one of them to go on, got $(winners)"
	both_back
	for n in 1 2; do assert_eq "$how: what is in the file, node $n" won "$(timeout 20 cat "$(mnt $n)/held")"; done
done

url=$(sb disks --tiebreaker)
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
