#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Two pools on four disks, used by three nodes: files lie where their directory says, whoever writes them; a pool that is full says so and leaves the
# other alone; a file goes from one pool to the other while it is written; a disk joins a pool, and its last one stays while files are on it.
# timeout: 600
# shellcheck disable=SC2015,SC2016 # what wait_until evaluates is to be expanded then
. "$(dirname "$0")/lib.sh"

own_sandbox --nodes 3 --disks iscsi --disk-count 5 --disk-size 512M
mapfile -t u < <(urls)
F=p
tess() { on "$1" tessera --json "${@:2}"; }
pool() { tess "$1" pool list $F | jq -r ".[] | select(.pool == \"$2\") | .$3"; }
layout() { tess "$1" layout get "$2" | jq -r ".$3"; }
pools_of() { tess 1 layout get "$1" | jq -r '[.disks[].pool] | unique | join(",")'; }
stable() { sync -f "$(mnt 1)" "$(mnt 2)" "$(mnt 3)"; }

assert_refused "the first disk in a pool of its own" "system" 1 tessera fs create $F "fast=${u[0]}" "${u[1]}"
assert_refused "a pool without a name" "pool" 1 tessera fs create $F "${u[0]}" "a b=${u[1]}"
assert_ok "fs create" on 1 tessera fs create $F --log-size 4M "${u[0]}" "${u[1]}" "fast=${u[2]}" "fast=${u[3]}"
assert_ok "mount" sb mount $F
assert_eq "pools" "fast:2 system:2" "$(tess 2 pool list $F | jq -r '[.[] | "\(.pool):\(.disks)"] | sort | join(" ")')"
assert_eq "disks of fast" "2,3" "$(tess 3 pool show $F fast | jq -r '[.disk_list[].number] | join(",")')"
assert_refused "no such pool" "no pool" 1 tessera pool show $F slow

# A directory's layout is inherited on all nodes; by the verb, and by the attribute.
mkdir "$(mnt 1)/fast" "$(mnt 1)/plain" "$(mnt 1)/byattr"
assert_ok "layout set" on 1 tessera layout set "$(mnt 1)/fast" --pool fast
assert_eq "pool on node 3" fast "$(layout 3 "$(mnt 3)/fast" pool)"
assert_ok "attribute" setfattr -n tessera.layout -v "pool=fast stripe=1" "$(mnt 2)/byattr"
assert_eq "attribute on node 3" "pool=fast stripe=1" "$(getfattr --only-values -n tessera.layout "$(mnt 3)/byattr" 2>/dev/null)"
setfattr -n tessera.layout -v "pool=slow" "$(mnt 2)/byattr" 2>/dev/null && fail "setfattr: a pool that there is not was taken"
[ "$(id -u)" != 0 ] || ! setpriv --reuid 65534 --clear-groups setfattr -n tessera.layout -v "pool=system" "$(mnt 2)/byattr" 2>/dev/null ||
	fail "setfattr: another user than root was let"
for n in 1 2 3; do
	mkdir "$(mnt $n)/fast/$n"
	head -c 12M /dev/urandom >"$(mnt $n)/fast/$n/f" && head -c 12M /dev/urandom >"$(mnt $n)/plain/f$n" && head -c 12M /dev/urandom >"$(mnt $n)/byattr/f$n" ||
		fail "cannot write on node $n"
done
stable
for n in 1 2 3; do
	assert_eq "pools of fast/$n/f" fast "$(pools_of "$(mnt 1)/fast/$n/f")"
	assert_eq "pools of plain/f$n" system "$(pools_of "$(mnt 1)/plain/f$n")"
	assert_eq "pools of byattr/f$n" fast "$(pools_of "$(mnt 1)/byattr/f$n")"
	assert_eq "disks of byattr/f$n" 1 "$(tess 1 layout get "$(mnt 1)/byattr/f$n" | jq '.disks | length')"
done
note "by pool: $(tess 1 pool list $F | jq -c '[.[] | [.pool, .used_bytes, .free_bytes]]')"

# What cannot be is refused, and nothing is changed.
assert_refused "pool of a file with blocks" "migrate" 2 tessera layout set "$(mnt 2)/plain/f1" --pool fast
assert_refused "no such pool" "no pool" 2 tessera layout set "$(mnt 2)/fast" --pool slow
assert_refused "no file of ours" "no file" 2 tessera layout get /etc/hostname
assert_refused "metadata outside of system" "metadata" 2 tessera disk add $F "${u[4]}" --pool fast --metadata
assert_eq "pool after refusals" system "$(layout 3 "$(mnt 3)/plain/f1" pool)"

# A file moves while another node writes it: every byte is what was written last.
head -c 64M /dev/urandom >"$TMP/moving" && cp "$TMP/moving" "$(mnt 1)/plain/moving" && stable
writer() { # writes over the file, again and again, with the same bytes
	while [ ! -e "$TMP/stop" ]; do
		dd if="$TMP/moving" of="$(mnt 2)/plain/moving" bs=1M conv=notrunc,fsync status=none || echo failed >"$TMP/writer.failed"
	done
}
background writer
t=$SECONDS
assert_ok "migrate" on 3 tessera layout migrate "$(mnt 3)/plain/moving" --pool fast
touch "$TMP/stop"
wait
[ ! -e "$TMP/writer.failed" ] || fail "the writer on node 2 failed while the file moved"
note "64 MiB moved under a writer in $((SECONDS - t)) s"
stable
assert_eq "pools of it" fast "$(pools_of "$(mnt 1)/plain/moving")"
assert_eq "elsewhere" false "$(layout 1 "$(mnt 1)/plain/moving" elsewhere)"
for n in 1 2 3; do assert_ok "bytes on node $n" cmp "$TMP/moving" "$(mnt $n)/plain/moving"; done

# Full: files of the pool get ENOSPC, the others go on, the log and health name the pool.
free=$(pool 1 fast free_bytes)
dd if=/dev/zero of="$(mnt 1)/fast/fill" bs=1M status=none 2>"$TMP/full" && fail "fast never became full"
grep -q "No space left" "$TMP/full" || fail "fill: expected ENOSPC, got $(cat "$TMP/full")"
size=$(stat -c %s "$(mnt 1)/fast/fill")
[ "$size" -ge $((free * 9 / 10)) ] || fail "fill: expected about $free bytes to fit, got $size"
note "full: $((size >> 20)) of $((free >> 20)) MiB that were free; $(tess 1 pool list $F | jq -c '[.[] | [.pool, .used_percent]]')"
head -c 20M /dev/urandom >"$(mnt 2)/plain/more" || fail "system is not full, and a file of it was refused"
stable
assert_eq "pools of what came after" system "$(pools_of "$(mnt 1)/plain/more")"
on 1 tessera --json diag messages | jq -r '.[].text' | grep -q "pool fast: no data space" || fail "node 1's log does not name the pool that is full"
wait_until 30 "health names the pool" eval '{ on 1 tessera --json health || true; } | jq -r ".conditions[].object" | grep -q "pool fast"'

# A disk for the pool: room again. The last disk of a pool stays while files are on it.
assert_ok "disk add" on 2 tessera disk add $F "${u[4]}" --pool fast
assert_eq "disks of fast" 3 "$(pool 3 fast disks)"
head -c 20M /dev/urandom >"$(mnt 3)/fast/after" || fail "fast has room again, and a file of it was refused"
rm "$(mnt 1)/fast/fill"
stable
for d in 2 3; do
	assert_ok "drain of disk $d" timeout 200 "$SANDBOX" exec 1 -- tessera disk drain $F $d
	assert_eq "pools of plain/f1 after it" system "$(pools_of "$(mnt 1)/plain/f1")"
done
assert_refused "the last disk of fast" "last of pool fast" 1 tessera disk drain $F 4
assert_eq "disks of moving" 4 "$(tess 1 layout get "$(mnt 1)/plain/moving" | jq -r '[.disks[].number] | join(",")')"
for n in 1 2 3; do assert_ok "bytes on node $n" cmp "$TMP/moving" "$(mnt $n)/plain/moving"; done

assert_ok "unmount everywhere" sb umount
fsck_clean "two pools" $F
assert_ok "sandbox restarts" sb down
assert_ok "sandbox up" sb up
assert_ok "mount" sb mount $F
assert_eq "pool after a restart of all" fast "$(layout 2 "$(mnt 2)/fast/1" pool)"
assert_ok "bytes after a restart of all" cmp "$TMP/moving" "$(mnt 2)/plain/moving"
