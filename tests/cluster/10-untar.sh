#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A tree of more than 20,000 entries unpacked on one node is the same from the others; three nodes unpack
# three trees at once into one directory and all agree from everywhere.
# timeout: 600
. "$(dirname "$0")/lib.sh"

tar=$(make_tar 20500 big) || exit 1
mkdir -p "$TMP/ref" && tar -C "$TMP/ref" -xpf "$tar" || fail "$tar: cannot unpack it locally"
manifest "$TMP/ref" >"$TMP/ref.manifest"
count=$(wc -l <"$TMP/ref.manifest")
[ "$count" -ge 20000 ] || fail "test tree: expected 20000 entries or more, got $count"

d=untar.$$
mkdir "$(mnt 1)/$d" || fail "node 1: cannot make $d"
t=$(date +%s%N)
on 1 tar -C "$(mnt 1)/$d" -xpf "$tar" || fail "node 1: cannot unpack"
note "$count entries unpacked on node 1 in $((($(date +%s%N) - t) / 1000000)) ms"
assert_tree "node 2's view of node 1's tree" "$TMP/ref.manifest" "$(mnt 2)/$d"
assert_tree "node 3's view of node 1's tree" "$TMP/ref.manifest" "$(mnt 3)/$d"
assert_tree "node 1's own view" "$TMP/ref.manifest" "$(mnt 1)/$d"
rm -rf "$TMP/ref"

# Three at once: different trees, one parent.
d=three.$$
mkdir "$(mnt 2)/$d"
pids=()
for n in 1 2 3; do
	tar=$(make_tar 7000 part$n $((n * 7000))) || exit 1
	mkdir "$TMP/ref" && tar -C "$TMP/ref" -xpf "$tar" || fail "$tar: cannot unpack it locally"
	manifest "$TMP/ref" >"$TMP/ref$n.manifest"
	rm -rf "$TMP/ref"
done
t=$(date +%s%N)
for n in 1 2 3; do
	(mkdir "$(mnt $n)/$d/by$n" && on $n tar -C "$(mnt $n)/$d/by$n" -xpf "$(make_tar 7000 part$n $((n * 7000)))") &
	pids+=($!)
done
for p in "${pids[@]}"; do
	wait "$p" || fail "three nodes at once: one of the tars failed"
done
note "three nodes unpacked 7000 entries each at once in $((($(date +%s%N) - t) / 1000000)) ms"
for n in 1 2 3; do
	for seen in 1 2 3; do
		assert_tree "node $seen's view of node $n's tree" "$TMP/ref$n.manifest" "$(mnt $seen)/$d/by$n"
	done
done
# Removal is work as well: node 3 removes what node 1 made.
rm -rf "$(mnt 3)/$d/by1" || fail "node 3: cannot remove node 1's tree"
assert_eq "names in $d from node 2" "by2 by3" "$(cd "$(mnt 2)/$d" && echo *)"
