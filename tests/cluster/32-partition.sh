#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A node cut off its peers (but not the disks) loses its leases: it neither writes nor answers from old
# caches, the others go on, and after healing it comes back and sees everything. The same for a freeze.
# timeout: 240
. "$(dirname "$0")/lib.sh"

# comes_back OBJECT: node 3 may have ended itself; start what is missing, mount, look.
comes_back() {
	sb heal 3 && sb thaw 3
	sleep 3
	# An excluded life must not go on: whatever is left of it is replaced.
	if ! { [ "$(timeout 10 cat "$(mnt 3)/$d/value" 2>/dev/null)" = new ] && timeout 10 touch "$(mnt 3)/$d/again"; }; then
		sb stop 3 >/dev/null 2>&1 || sb kill 3
		assert_ok "$1: node 3 starts again" sb start 3
		assert_ok "$1: node 3 mounts again" sb mount "$FS" 3
		note "$1: node 3 needed a restart"
	fi
	assert_eq "$1: node 3 sees what the others wrote" new "$(timeout 20 cat "$(mnt 3)/$d/value")"
	echo 3 >"$(mnt 3)/$d/from3" || fail "$1: node 3 cannot write after it came back"
	assert_eq "$1: node 1 reads node 3" 3 "$(timeout 20 cat "$(mnt 1)/$d/from3")"
}

for how in "cut 3" "cut 3 --san" "freeze 3"; do
	d=partition.$$.$RANDOM
	mkdir "$(mnt 3)/$d" && echo old >"$(mnt 3)/$d/value" && sync -f "$(mnt 3)/$d/value" || fail "$how: node 3 does not work"
	assert_eq "$how: node 1 before" old "$(cat "$(mnt 1)/$d/value")"
	t=$(date +%s%N)
	# shellcheck disable=SC2086 # words
	sb $how || fail "sandbox $how failed"
	timeout 30 sh -c "echo new >$(mnt 1)/$d/value" || fail "$how: node 1 cannot write what node 3 held"
	note "$how: node 1 took over after $((($(date +%s%N) - t) / 1000000)) ms"
	assert_eq "$how: node 2" new "$(timeout 20 cat "$(mnt 2)/$d/value")"
	if [ "$how" != "freeze 3" ]; then
		# The other has taken over: node 3 may wait or fail, but must not answer from its cache.
		got=$(timeout 3 cat "$(mnt 3)/$d/value" 2>/dev/null)
		[ "$got" != old ] || fail "$how: expected no answer from node 3, got the old value"
		if timeout 3 sh -c "echo stale >$(mnt 3)/$d/value && sync -f $(mnt 3)/$d/value" 2>/dev/null; then
			fail "$how: expected node 3's write to be refused, got success"
		fi
	fi
	comes_back "$how"
	assert_eq "$how: nothing stale arrived later" new "$(timeout 20 cat "$(mnt 2)/$d/value")"
done
assert_ok "unmount everywhere" sb umount
fsck_clean "partitions" "$FS"
