#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Two nodes whose tiebreaker is lost, changed or not there. Both alive need none; a lone node without it waits, and goes on by itself when
# it is back; one that has its decision needs it no more. A node that was started alone waits for the other, or for an operator who
# vouches for its death. Foreign disks are refused, and the reserved area of a file system's disk serves as well.
# timeout: 420
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/twonodes.sh"

two_nodes

# --- the tiebreaker is gone ---------------------------------------------------------------------------------------------------
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
assert_refused "not a URL" "not the URL of a disk" 1 tessera quorum tiebreaker set nonsense
assert_refused "a disk that is not there" "cannot be opened" 1 tessera quorum tiebreaker set file:///nonexistent/disk
truncate -s 4M "$TMP/ext4.img" && mkfs.ext4 -q "$TMP/ext4.img" || fail "mkfs.ext4 failed"
assert_refused "somebody's disk" "ext4" 1 tessera quorum tiebreaker set "file://$TMP/ext4.img"
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

assert_ok "unmount" sb umount
fsck_clean "tiebreaker lost, changed, forced" "$FS"
