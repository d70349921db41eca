# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# One node goes while it writes; used by 20-power.sh and 21-crash.sh. The target writes into the page
# cache of this machine, so a dying node loses what it had not sent, and nothing the target acknowledged:
# un-flushed writes lost at the disk are tested by 24-blackout.sh, the simulator and tests/crash.

# survive OBJECT COMMAND...: the command takes node 2 away.
survive() {
	local what=$1 d=failure.$$ n p pids=() worst count t
	shift
	for n in 1 2 3; do mkdir -p "$(mnt 1)/$d/by$n"; done
	background on 2 python3 "$HERE/worker.py" write "$(mnt 2)/$d/by2" "$TMP/acknowledged"
	for n in 1 3; do
		background python3 "$HERE/worker.py" pause "$(mnt $n)/$d/by$n" "$TMP/pause.$n" 25
		pids+=("$!")
	done
	sleep 5
	[ -s "$TMP/acknowledged" ] || fail "$what: expected node 2 to have written in 5 s, got nothing"
	t=$(date +%s%N)
	"$@" || fail "$what: '$*' failed"
	# The names of the dead node are wanted at once: this waits for its recovery.
	timeout 60 python3 "$HERE/worker.py" verify "$(mnt 1)/$d/by2" "$TMP/acknowledged" >"$TMP/verify" 2>&1 ||
		fail "$what: node 1 misses what was fsynced (or waits for ever): $(tail -n 5 "$TMP/verify")"
	note "$what: $(tail -n 1 "$TMP/verify"); all read on node 1 after $((($(date +%s%N) - t) / 1000000)) ms"
	for p in "${pids[@]}"; do
		wait "$p" || fail "$what: work on a surviving node met errors"
	done
	for n in 1 3; do
		read -r worst count _ <"$TMP/pause.$n"
		note "$what: node $n: longest pause $worst ms in $count operations"
		[ "$worst" -lt 15000 ] || fail "$what: node $n: expected pauses below 15000 ms, got $worst ms"
	done
	timeout 60 python3 "$HERE/worker.py" verify "$(mnt 3)/$d/by2" "$TMP/acknowledged" >"$TMP/verify" 2>&1 ||
		fail "$what: node 3 misses what was fsynced: $(tail -n 5 "$TMP/verify")"

	# It comes back as a new life of itself and works.
	assert_ok "$what: node 2 starts again" sb start 2
	assert_ok "$what: node 2 mounts again" sb mount "$FS" 2
	timeout 60 python3 "$HERE/worker.py" verify "$(mnt 2)/$d/by2" "$TMP/acknowledged" >"$TMP/verify" 2>&1 ||
		fail "$what: node 2, back again, misses what it had fsynced: $(tail -n 5 "$TMP/verify")"
	echo back >"$(mnt 2)/$d/by1/from2" || fail "$what: node 2, back again, cannot write"
	assert_eq "$what: node 3 reads node 2's new file" back "$(cat "$(mnt 3)/$d/by1/from2")"

	assert_ok "$what: unmount everywhere" sb umount
	fsck_clean "$what" "$FS"
	assert_ok "$what: mount again" sb mount "$FS"
	timeout 60 python3 "$HERE/worker.py" verify "$(mnt 1)/$d/by2" "$TMP/acknowledged" >"$TMP/verify" 2>&1 ||
		fail "$what: after fsck and mount, node 1 misses what was fsynced: $(tail -n 5 "$TMP/verify")"
}
