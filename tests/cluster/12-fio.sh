#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Two nodes write one file at once, first disjoint halves, then interleaved blocks, then interleaved
# pieces that share pages; the third node verifies every block.
# timeout: 300
# quick
. "$(dirname "$0")/lib.sh"

size=64 # MiB per node
[ "$MODE" = quick ] && size=16

job() { # NODE FILE ARGS...
	local n=$1 f=$2
	shift 2
	(cd "$TMP" && on "$n" fio --name="job$n" --filename="$(mnt "$n")/$f" --ioengine=psync --verify=crc32c --verify_fatal=1 \
		--thread --minimal "$@") >"$TMP/fio.$n.out" 2>&1
}

# shellcheck disable=SC2086 # words
pair() { # OBJECT COMMON-WORDS WORDS-OF-NODE-1 WORDS-OF-NODE-2
	local f=fio.$$.$RANDOM a b
	# Sparse at full length: fio truncates a file that is too short when it starts, under the other's hands.
	truncate -s $((2 * size + 1))M "$(mnt 3)/$f" || fail "$1: cannot create the file"
	job 1 $f $2 $3 --do_verify=0 --end_fsync=1 &
	a=$!
	job 2 $f $2 $4 --do_verify=0 --end_fsync=1 &
	b=$!
	wait $a || fail "$1: node 1 cannot write: $(grep -m 1 -E "verify|error" "$TMP/fio.1.out")"
	wait $b || fail "$1: node 2 cannot write: $(grep -m 1 -E "verify|error" "$TMP/fio.2.out")"
	job 3 $f $2 $3 --verify_only || fail "$1: node 3 reads other data than node 1 wrote: $(grep -m 1 -E "verify|error" "$TMP/fio.3.out")"
	job 3 $f $2 $4 --verify_only || fail "$1: node 3 reads other data than node 2 wrote: $(grep -m 1 -E "verify|error" "$TMP/fio.3.out")"
	assert_eq "$1: size from node 1 and node 3" "$(stat -c %s "$(mnt 1)/$f")" "$(stat -c %s "$(mnt 3)/$f")"
	note "$1: every block verified on node 3"
	rm -f "$(mnt 3)/$f"
}

pair "disjoint halves, sequential" "--bs=64k --rw=write" "--offset=0 --size=${size}m" "--offset=${size}m --size=${size}m"
pair "disjoint halves, random" "--bs=16k --rw=randwrite --randseed=7" "--offset=0 --size=${size}m" "--offset=${size}m --size=${size}m"
pair "interleaved blocks of 64 KiB" "--bs=64k --rw=write:64k --size=${size}m" "--offset=0" "--offset=64k"
pair "interleaved blocks of 4 KiB, direct" "--bs=4k --rw=write:4k --size=$((size / 8))m --direct=1" "--offset=0" "--offset=4k"
pair "interleaved pieces of 3000 bytes" "--bs=3000 --rw=write:3000 --size=3000000" "--offset=0" "--offset=3000"
