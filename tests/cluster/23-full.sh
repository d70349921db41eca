#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A small file system is filled by two nodes until ENOSPC: nothing that was there is harmed, deleting
# works, and the space can be used again.
# timeout: 240
. "$(dirname "$0")/lib.sh"

own_sandbox --nodes 2 --disk-count 1 --disk-size 1G
# shellcheck disable=SC2046 # one word per URL
assert_ok "fs create" on 1 tessera fs create small $(urls)
assert_ok "mount" sb mount small
tar=$(make_tar 1000 tiny) || exit 1
mkdir "$(mnt 1)/keep" && on 1 tar -C "$(mnt 1)/keep" -xpf "$tar" || fail "cannot unpack the tree to keep"
manifest "$(mnt 1)/keep" >"$TMP/keep"

free() { stat -f -c '%a %S' "$(mnt "${1:-1}")" | awk '{print int($1 * $2 / 1048576)}'; } # what files can get

fill() { # NODE DIR: full files only are kept count of
	python3 - "$(mnt "$1")/$2" <<'END'
import errno, os, sys
d, n = sys.argv[1], 0
os.makedirs(d, exist_ok=True)
block = os.urandom(1 << 20)
while True:
    name = os.path.join(d, "fill%05d" % n)
    try:
        with open(name, "wb", buffering=0) as f:
            for i in range(4):
                done = f.write(block)
                if done != len(block):
                    f.write(block[done:])
            os.fsync(f.fileno())
    except OSError as e:
        if e.errno != errno.ENOSPC:
            sys.exit("%s: expected ENOSPC, got %s" % (name, e))
        break
    n += 1
for i in range(n):
    with open(os.path.join(d, "fill%05d" % i), "rb") as f:
        if f.read() != block * 4:
            sys.exit("%s: file %d was fsynced and reads otherwise" % (d, i))
print(n)
END
}

for round in 1 2; do
	before=$(free)
	fill 1 fill1 >"$TMP/n1" 2>&1 &
	a=$!
	fill 2 fill2 >"$TMP/n2" 2>&1 &
	b=$!
	wait $a || fail "round $round: node 1: $(tail -n 1 "$TMP/n1")"
	wait $b || fail "round $round: node 2: $(tail -n 1 "$TMP/n2")"
	files=$(($(tail -n 1 "$TMP/n1") + $(tail -n 1 "$TMP/n2")))
	note "round $round: full after $((files * 4)) MiB of $before MiB free"
	[ $((files * 4)) -ge $((before * 9 / 10)) ] || fail "round $round: expected at least nine tenths of $before MiB to be usable, got $((files * 4)) MiB"
	sleep 1 # as late as statfs may be
	for n in 1 2; do
		note "round $round: node $n says $(free $n) MiB are free on the full file system"
		[ "$(free $n)" -le $((before / 20)) ] || fail "round $round: node $n says that $(free $n) of $before MiB are free on a full file system"
	done
	assert_tree "round $round: the tree that was there, from node 2" "$TMP/keep" "$(mnt 2)/keep"
	assert_ok "round $round: delete on a full file system" rm -rf "$(mnt 2)/fill1" "$(mnt 1)/fill2"
	# Freed space may come back a little later.
	back() { [ "$(free)" -ge $((before * 95 / 100)) ]; }
	wait_until 30 "round $round: free space after deleting (of $before MiB)" back
done
assert_ok "a file after all" dd if=/dev/zero of="$(mnt 2)/after" bs=1M count=64 conv=fsync status=none
assert_tree "the tree that was there, from node 1" "$TMP/keep" "$(mnt 1)/keep"
assert_ok "unmount" sb umount
fsck_clean "after ENOSPC" small
