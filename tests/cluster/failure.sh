# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# What goes while it is in use: one node (survive: 20-power.sh, 21-crash.sh), or all nodes and disks (lossy_sandbox: 24-blackout.sh,
# 44-lost.sh). The target writes into the page cache of this machine, so a dying node loses what it had not sent, and nothing
# the target acknowledged; only the disks of lossy_sandbox lose at a power failure what was not flushed.

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

# A sandbox of three nodes on two such disks (lossydisk.c), with the file system mounted. They obey `control`.
lossy_sandbox() {
	local k
	lossy=$TMP/lossy
	# shellcheck disable=SC2046 # words
	cc -std=gnu17 -D_GNU_SOURCE -O2 -Wall -Wextra -o "$TMP/lossydisk" "$HERE/lossydisk.c" $(pkg-config --cflags --libs fuse3) ||
		fail "lossydisk.c does not compile; is libfuse3-dev there?"
	mkdir "$TMP/backing" "$lossy"
	for k in 1 2; do truncate -s 2G "$TMP/backing/disk$k.img"; done
	# Not one of the background: it ends with its mount, when the sandbox is down.
	"$TMP/lossydisk" "$TMP/backing" "$lossy" &
	wait_until 5 "lossydisk" test -e "$lossy/control"
	own_sandbox --nodes 3 --disks iscsi --disk-count 2 --disk-size 2G --disk-dir "$lossy"
	mapfile -t url < <(urls)
	assert_ok "fs create" on 1 tessera fs create "$FS" "${url[@]}"
	assert_ok "mount" sb mount "$FS"
}
control() { # COMMAND: to the disks of lossy_sandbox
	echo "$*" >"$lossy/control" || fail "lossydisk: refused '$*'"
}
counted() { # WORD: what they have counted
	awk -v w="$1" '$1 == w {print $2}' "$lossy/control"
}
