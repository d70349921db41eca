#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Disks that come and go under load: a fifth disk is added and filled, with one node killed in the middle; one of the four the file system was
# made on is drained, again with a node killed in the middle, and removed. Every file keeps its checksum, what is written meanwhile too, the
# disks are within 5 % of the mean, and fsck finds nothing.
# timeout: 900
# shellcheck disable=SC2015,SC2016 # what wait_until evaluates is to be expanded then
. "$(dirname "$0")/lib.sh"

own_sandbox --nodes 3 --disks iscsi --disk-count 6 --disk-size 1G
mapfile -t u < <(urls)
F=d
tess() { on "$1" tessera --json "${@:2}"; }
disks() { tess 1 disk list $F; }
state() { disks | jq -r ".[] | select(.number == $1) | .state"; }

assert_ok "fs create" on 1 tessera fs create $F --metadata-disks 1 --log-size 4M "${u[@]:0:4}"
assert_ok "mount" sb mount $F
for n in 1 2 3; do mkdir "$(mnt $n)/$n"; done

# Files of the beginning: large ones over all disks, small ones of a block or less, and values of attributes that lie on disks of their own.
for i in $(seq 24); do
	head -c 24M /dev/urandom >"$(mnt $((i % 3 + 1)))/1/big$i" || fail "cannot write big$i"
done
for i in $(seq 300); do
	head -c $((i * 700)) /dev/urandom >"$(mnt $((i % 3 + 1)))/2/small$i" || fail "cannot write small$i"
done
python3 - "$(mnt 2)/2/small7" <<'PY' || fail "cannot set attributes"
import os, sys
for k in range(4):
    os.setxattr(sys.argv[1], "user.v%d" % k, bytes([65 + k]) * 20000)
PY
sync -f "$(mnt 1)/1" "$(mnt 2)/2" "$(mnt 3)/3"
sums() { (cd "$1" && find 1 2 -type f -print0 | sort -z | xargs -0 sha256sum); }
sums "$(mnt 3)" >"$TMP/before"
note "$(wc -l <"$TMP/before") files, $(du -sm "$(mnt 1)" | cut -f 1) MiB, by disk: $(disks | jq -c '[.[].used_permille]') permille"

# A load on nodes 1 and 2 that says what it wrote and forced; node 3 is the one that dies.
load() { # N
	local i=0
	while [ ! -e "$TMP/stop" ]; do
		i=$((i + 1))
		head -c $((200000 + i % 5 * 900000)) /dev/urandom >"$TMP/load$1" && cp "$TMP/load$1" "$(mnt "$1")/3/load$1.$((i % 12))" &&
			sync "$(mnt "$1")/3/load$1.$((i % 12))" && sha256sum <"$TMP/load$1" >"$TMP/sum$1.$((i % 12))" || {
			echo "node $1: write $i failed" >"$TMP/load.failed"
			return
		}
	done
}
for n in 1 2; do background load $n; done
load_ok() {
	[ ! -e "$TMP/load.failed" ] || fail "$(cat "$TMP/load.failed")"
}
spread() { # largest distance from the mean, permille of the room
	disks | jq '[.[] | select(.state == "ready")] | (([.[].used_bytes] | add) / ([.[].room_bytes] | add)) as $m |
		[.[] | (.used_bytes / .room_bytes - $m) | fabs * 1000] | max | floor'
}

# What cannot be is refused, and nothing is changed.
disks | jq -c '[.[] | [.number, .state, .url]]' >"$TMP/table"
assert_refused "drain of a disk with metadata" "metadata" 1 tessera disk drain $F 0
assert_refused "remove of a disk in use" "drain" 1 tessera disk remove $F 1
assert_refused "a disk that is in use" "in use|already" 2 tessera disk add $F "${u[1]}"
assert_refused "no such disk" "no disk" 2 tessera disk drain $F 17
disks | jq -c '[.[] | [.number, .state, .url]]' >"$TMP/table2"
assert_same_file "the table after refusals" "$TMP/table" "$TMP/table2"

t=$SECONDS
assert_ok "disk add" on 2 tessera disk add $F "${u[4]}"
note "disk added in $((SECONDS - t)) s: $(disks | jq -c '[.[] | [.number, .state, .used_permille]]')"
for n in 1 2 3; do assert_eq "disk 4 on node $n" ready "$(tess $n disk show $F 4 | jq -r .state)"; done
[ "$(spread)" -gt 50 ] || fail "spread before the rebalance: expected more than 50 permille, got $(spread)"

t=$SECONDS
assert_ok "rebalance begins" on 1 tessera disk rebalance $F --rate 4M --no-wait
wait_until 60 "the new disk gets something" eval '[ "$(disks | jq ".[] | select(.number == 4) | .used_permille")" -ge 10 ]'
assert_ok "kill 3" sb kill 3
[ "$(tess 1 disk show $F 4 | jq .rebalancing)" = true ] || fail "rebalance: expected it to go on when node 3 is killed"
note "node 3 killed; $(disks | jq -c '[.[].used_permille]')"
assert_ok "rate is raised" on 1 tessera disk rebalance $F --no-wait
wait_until 300 "rebalance ends" eval '[ "$(tess 1 disk show $F 4 | jq .rebalancing)" = false ]'
note "rebalanced in $((SECONDS - t)) s: $(disks | jq -c '[.[].used_permille]') permille, $(spread) from the mean"
[ "$(spread)" -le 50 ] || fail "spread after the rebalance: expected at most 50 permille, got $(spread)"
load_ok
assert_ok "start 3" sb start 3
assert_ok "mount again" sb mount $F
assert_eq "disks of the node that came back" 5 "$(tess 3 disk list $F | jq length)"

t=$SECONDS
assert_ok "drain begins" on 2 tessera disk drain $F 2 --rate 2M --no-wait
assert_eq "state" draining "$(state 2)"
before=$(disks | jq '.[] | select(.number == 2) | .used_bytes')
wait_until 60 "something leaves disk 2" eval '[ "$(disks | jq ".[] | select(.number == 2) | .used_bytes")" -lt $((before * 19 / 20)) ]'
assert_ok "kill 3" sb kill 3
left=$(disks | jq '.[] | select(.number == 2) | .used_bytes')
[ "$left" -gt 0 ] && [ "$(state 2)" = draining ] || fail "drain: expected something to be left when node 3 is killed"
note "node 3 killed with $(($(disks | jq '.[] | select(.number == 2) | .used_bytes') >> 20)) of $((before >> 20)) MiB to move"
assert_ok "drain goes on" timeout 400 "$SANDBOX" exec 1 -- tessera disk drain $F 2
assert_eq "state" empty "$(state 2)"
note "drained in $((SECONDS - t)) s: $(disks | jq -c '[.[] | [.number, .state, .used_permille]]')"
assert_ok "start 3" sb start 3
assert_ok "mount again" sb mount $F
assert_ok "remove" on 3 tessera disk remove $F 2
assert_eq "disks" "[0,1,3,4]" "$(disks | jq -c '[.[].number]')"
assert_eq "label of what was removed" blank "$(on 1 tessera --json disk list | jq -r --arg u "${u[2]}" '.[] | select(.url == $u) | .label')"

touch "$TMP/stop"
wait
load_ok
for n in 1 2 3; do
	sums "$(mnt $n)" >"$TMP/after"
	assert_same_file "checksums on node $n" "$TMP/before" "$TMP/after"
done
k=0
for s in "$TMP"/sum[12].*; do
	f=$(mnt 3)/3/load${s##*/sum}
	assert_eq "$f" "$(cat "$s")" "$(sha256sum <"$f")"
	k=$((k + 1))
done
for i in 0 1 2 3; do
	assert_eq "attribute $i" 20000 "$(getfattr --only-values -n user.v$i "$(mnt 1)/2/small7" | tr -d '\0' | wc -c)"
done
note "$k files written meanwhile are what was written; places of one: $(tess 1 disk places $F "$(stat -c %i "$(mnt 1)/1/big1")" | jq -c .bytes_on_disk)"
assert_ok "unmount everywhere" sb umount
fsck_clean "disks that came and went" $F
assert_ok "sandbox restarts" sb down
assert_ok "sandbox up" sb up
assert_ok "mount" sb mount $F
sums "$(mnt 2)" >"$TMP/after"
assert_same_file "checksums after a restart of all" "$TMP/before" "$TMP/after"
