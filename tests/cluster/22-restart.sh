#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Everything stops and starts again: all is there. Cleanly first; then all nodes lose power at once.
# timeout: 240
. "$(dirname "$0")/lib.sh"

tar=$(make_tar 2000 small) || exit 1
d=restart.$$
mkdir "$(mnt 1)/$d"
pids=()
for n in 1 2 3; do
	(mkdir "$(mnt $n)/$d/by$n" && on $n tar -C "$(mnt $n)/$d/by$n" -xpf "$tar") &
	pids+=($!)
done
for p in "${pids[@]}"; do wait "$p" || fail "cannot unpack the trees"; done
manifest "$(mnt 1)/$d" >"$TMP/before"

assert_ok "sandbox down" sb down
for n in 1 2 3; do
	last=$(awk '/^--- started/ {s = ""} {s = s $0 "\n"} END {printf "%s", s}' "$(state_dir)/n$n/tesserad.log")
	grep -q "node $n: stopping" <<<"$last" && grep -q "file system $FS: unmounted" <<<"$last" ||
		fail "node $n: expected a clean stop by SIGTERM, got: $(tail -n 3 <<<"$last")"
done
assert_ok "sandbox up" sb up
assert_ok "mount" sb mount "$FS"
for n in 1 2 3; do
	assert_tree "node $n after a clean stop of all" "$TMP/before" "$(mnt $n)/$d"
done
note "clean stop of all nodes: $(wc -l <"$TMP/before") entries are there"

echo stable >"$(mnt 3)/$d/last"
sync -f "$(mnt 3)/$d/last" || fail "node 3: sync failed"
manifest "$(mnt 2)/$d" >"$TMP/before"
for n in 1 2 3; do assert_ok "kill $n" sb kill $n; done
assert_ok "sandbox up after loss of all" sb up
assert_ok "mount after loss of all" sb mount "$FS"
for n in 1 2 3; do
	assert_tree "node $n after loss of all" "$TMP/before" "$(mnt $n)/$d"
done
note "power failure of all nodes: everything synced is there"
assert_ok "unmount everywhere" sb umount
fsck_clean "loss of all" "$FS"
