#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Names that the kernel keeps: repeated looks send no request; what other nodes change is seen at once all the same; directories in use
# and mounts upon them stay; and where all nodes change one directory nothing is bounced twice.
# timeout: 180
. "$(dirname "$0")/lib.sh"

fuse() { on "$1" tessera --json status | jq -r ".mounts[] | select(.name == \"$FS\").fuse.$2"; } # N WHAT
asked() { fuse "$1" 'ops | (.lookup // 0) + (.getattr // 0)'; }
[ "$(fuse 1 names_cached)" = true ] || skip "this kernel (FUSE protocol 7.$(fuse 1 protocol_minor)) cannot be made to drop names: none are kept"

# --- looked at again ----------------------------------------------------------------------------------

many=2000
d=names.$$
mkdir "$(mnt 1)/$d" || fail "node 1: cannot make $d"
(cd "$(mnt 1)/$d" && for i in $(seq 0 $((many - 1))); do : >"f$i"; done) || fail "node 1: cannot make $many files"
look() { # N: looks four times; prints how many requests for names and attributes each pass made
	local n=$1 before
	coproc L { exec python3 "$HERE/names.py" again "$(mnt "$n")/$d" $many 4; }
	before=$(asked "$n")
	for _ in 1 2 3 4; do
		read -r -t 60 <&"${L[0]}" || fail "node $n: cannot look at $many files"
		now=$(asked "$n")
		echo -n "$((now - before)) "
		before=$now
		sleep 0.5 # a directory that another node has just changed is given time to calm down
		echo >&"${L[1]}"
	done
	wait "$L_PID"
}
for n in 1 2; do
	requests=$(look $n) || exit 1
	note "node $n: requests for names and attributes of $many files, four passes: $requests"
	[ "$(awk '{print $4}' <<<"$requests")" -le 10 ] || fail "node $n: fourth look at $many files: expected at most 10 requests, got $requests"
done
kept=$(fuse 2 names)
[ "$kept" -ge $many ] || fail "node 2: names kept: expected $many at least, got $kept"
for i in $(seq 0 7 $((many - 1))); do
	mv "$(mnt 1)/$d/f$i" "$(mnt 1)/$d/g$i" || fail "node 1: cannot rename f$i"
	[ ! -e "$(mnt 2)/$d/f$i" ] && [ -e "$(mnt 2)/$d/g$i" ] || fail "node 2: f$i, renamed by node 1: expected to be seen as g$i at once"
done
assert_eq "node 3: files" "$many" "$(on 3 find "$(mnt 3)/$d" -type f | wc -l)"

# --- directories in use ---------------------------------------------------------------------------------

mkdir "$(mnt 1)/$d/sub" "$(mnt 1)/$d/on" && mount -t tmpfs names "$(mnt 1)/$d/on" || fail "node 1: cannot mount upon $d/on"
epochs=$(fuse 1 epoch_bumps)
timeout 100 python3 "$HERE/names.py" stays "$(mnt 1)/$d" "$(mnt 2)/$d" 200
rc=$?
umount "$(mnt 1)/$d/on"
[ $rc = 0 ] || fail "node 1: directories in use do not stay"
assert_eq "node 1: times all names were dropped" "$epochs" "$(fuse 1 epoch_bumps)"

# --- all nodes change one directory ------------------------------------------------------------------------

seconds=8
[ "$MODE" = long ] && seconds=300
for round in 1 2; do
	mkdir "$(mnt $round)/$d/storm$round"
	out=$(timeout $((seconds + 60)) python3 "$HERE/names.py" storm $seconds "$(mnt 1)/$d/storm$round" "$(mnt 2)/$d/storm$round" "$(mnt 3)/$d/storm$round") ||
		fail "a directory changed by all nodes: $out"
	note "a directory changed by all nodes: $out"
done
note "calls bounced: $(fuse 1 bounced) $(fuse 2 bounced) $(fuse 3 bounced); all names dropped: $(fuse 1 epoch_bumps) $(fuse 2 epoch_bumps) $(fuse 3 epoch_bumps) times"
exit 0
