#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Three nodes write one file at once: each its own part, strided by 1 MiB, interleaved records of 47,008 bytes. All read the same
# checksum. Then one loses power while all write: what it had fsynced is there, and every byte of the others, who had not.
# timeout: 240
. "$(dirname "$0")/lib.sh"

d=shared.$$
mkdir "$(mnt 1)/$d" || fail "$d: cannot be made"

shared() { # N VERB ARGUMENTS...
	local n=$1
	shift
	on "$n" python3 "$HERE/shared.py" "$@"
}

# --- all write, all read ------------------------------------------------------------------------------

together() { # SHAPE CALLS PASSES
	local n pids=() want t
	t=$(date +%s%N)
	for n in 1 2 3; do
		background shared "$n" write "$(mnt "$n")/$d" "$1" "$n" 3 "$2" "$3" "$TMP/$1.$n"
		pids+=("$!")
	done
	for n in "${pids[@]}"; do
		wait "$n" || fail "$1: a writer met an error"
	done
	t=$((($(date +%s%N) - t) / 1000000))
	want=$(python3 "$HERE/shared.py" sum "$1" 3 "$2" "$3")
	for n in 1 2 3; do
		assert_eq "$1: checksum on node $n" "$want" "$(sha256sum <"$(mnt "$n")/$d/$1" | cut -d' ' -f1)"
		assert_eq "$1: size on node $n as on node 1" "$(stat -c '%s %Y' "$(mnt 1)/$d/$1")" "$(stat -c '%s %Y' "$(mnt "$n")/$d/$1")"
	done
	note "$1: 3 nodes, $3 times $2 calls each in $t ms; the same from everywhere"
	rm "$(mnt 3)/$d/$1" "$TMP/$1".[123] || fail "$1: cannot be removed"
}

together segmented 16 1
together strided 16 1
together hard 200 2

# --- one goes ------------------------------------------------------------------------------------------

calls() { [ "$1" = hard ] && echo 150 || echo 12; }

verify() { # N OBJECT
	local s
	for s in strided hard; do
		timeout 100 "$SANDBOX" exec "$1" -- python3 "$HERE/shared.py" verify "$(mnt "$1")/$d" "$s" 3 "$(calls $s)" 2 \
			"$TMP/$s.1" "$TMP/$s.2" "$TMP/$s.3" >"$TMP/verify" 2>&1 || fail "$2: $(tail -n 12 "$TMP/verify")"
		note "$2: $(tail -n 1 "$TMP/verify")"
	done
}

pids=()
for s in strided hard; do
	for n in 1 2 3; do
		# Not through `on`: the signal that ends it must reach it.
		background python3 "$HERE/shared.py" write "$(mnt "$n")/$d" $s "$n" 3 "$(calls $s)" 0 "$TMP/$s.$n" 2>"$TMP/error.$s.$n"
		[ "$n" = 2 ] || pids+=("$!")
	done
done
stable() { grep -q '^=' "$TMP/strided.2" && grep -q '^=' "$TMP/hard.2"; }
wait_until 60 "node 2 has fsynced in both files" stable
sleep 2
assert_ok "power failure" sb kill 2
# Each of the living has written all its calls, and some of them behind the recovery.
done_by() { grep -c '^+' "$TMP/$1.$2"; }
for s in strided hard; do
	for n in 1 3; do
		at=$(done_by "$s" "$n")
		go_on() { [ "$(done_by "$s" "$n")" -gt $((at + 20)) ] && [ "$(done_by "$s" "$n")" -ge "$(calls "$s")" ]; }
		wait_until 60 "node $n goes on writing ($s)" go_on
	done
done
kill -TERM "${pids[@]}"
for n in "${pids[@]}"; do
	wait "$n" || fail "a living node's writer met an error: $(cat "$TMP"/error.*)"
done
verify 1 "node 1, after the power failure"
verify 3 "node 3, after the power failure"
assert_ok "node 2 starts again" sb start 2
assert_ok "node 2 mounts again" sb mount "$FS" 2
verify 2 "node 2, back again"
assert_ok "unmount everywhere" sb umount
fsck_clean "shared files" "$FS"
assert_ok "mount again" sb mount "$FS"
verify 3 "node 3, after fsck"
rm -r "/mnt/$TESSERA_SANDBOX_NAME/n1/$d" || fail "$d: cannot be removed"
