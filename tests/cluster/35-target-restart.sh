#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The target restarts and has forgotten who may write. A node hangs with writes under way and is declared dead; then the target is
# killed and started. The survivors put keys and reservation back before they write and go on; a machine that is not registered is
# refused; and when the dead node wakes up not one byte on the disk changes. Last, a restart under load: who had something that was
# not flushed goes out, and nothing that fsync promised is lost.
# timeout: 300
. "$(dirname "$0")/lib.sh"

own_sandbox --nodes 3 --disk-count 1 --disk-size 512M
url=$(urls) file=$(disk_files)
state=$(state_dir)

if [[ $url == nvme-tcp://* ]]; then
	stranger=("$TESSERA_BINDIR/../tests/nvmet/nvmet_outsider" "$url")
else
	# shellcheck disable=SC2046 # words
	cc -std=gnu17 -O2 -Wall -Wextra -o "$TMP/outsider" "$HERE/outsider.c" $(pkg-config --cflags --libs libiscsi) || fail "outsider.c does not compile"
	portal=${url#iscsi://} portal=${portal%%/*} iqn=${url#iscsi://*/} lun=${url##*/} iqn=${iqn%/*}
	stranger=("$TMP/outsider" "$portal" "$iqn" "$lun")
fi
outsider() { # what a write of the last sector by a stranger gives
	on 1 timeout 20 "${stranger[@]}" $(((512 << 11) - 1))
}
sum() { md5sum <"$file"; }
said() { # N PATTERN
	grep -q "$2" "$state/n$1/tesserad.log"
}

# The checkers see: without a reservation the stranger writes, and the sum changes.
before=$(sum)
assert_eq "a stranger's write to a disk of nobody" written "$(outsider)"
[ "$(sum)" != "$before" ] || fail "a stranger's write: expected another sum of the disk, got the same: nothing is proven below"

assert_ok "fs create" on 1 tessera fs create "$FS" "$url" --log-slots 4
able() { on 3 tessera --json disk list | jq -r ".[0] | .fencing, (.abilities | to_entries[] | select(.value) | .key)" | paste -sd ' '; }
can="preempt probed enforces flush_fenced" # stock tgt
[[ $url != nvme-tcp://* ]] || can="preempt-abort probed enforces preempt_abort unmap_fenced write_same_fenced flush_fenced"
assert_eq "what the disk can do, as its label tells another node" "$can" "$(able)"
assert_ok "mount" sb mount "$FS"
assert_eq "a stranger's write to a mounted disk" refused "$(outsider)"

# Node 2 hangs while it writes.
for n in 1 3; do echo "$n" >"$(mnt $n)/by$n"; done
background on 2 sh -c "while dd if=/dev/urandom of='$(mnt 2)/stream' bs=1M count=48 conv=notrunc status=none; do :; done" 2>/dev/null
echo kept >"$(mnt 2)/kept" && sync -f "$(mnt 2)/kept" || fail "node 2 cannot write"
wait_until 20 "node 2 to write" test -s "$(mnt 2)/stream"
written() { on "$1" tessera --json disk list | jq '.[0].io.write_bytes'; }
in_stream() { [ "$(written 2)" -gt $((32 << 20)) ]; }
wait_until 30 "node 2 to have writes under way" in_stream
assert_ok "freeze 2" sb freeze 2
t=$(date +%s%N)
timeout 40 sh -c "echo after >'$(mnt 1)/kept'" || fail "node 1 cannot write what node 2 held"
note "node 2 hangs in mid-stream; declared dead, fenced and replayed after $((($(date +%s%N) - t) / 1000000)) ms"
assert_eq "node 3 after the recovery" after "$(timeout 20 cat "$(mnt 3)/kept")"
for n in 1 3; do sync -f "$(mnt $n)/by$n" || fail "node $n: sync failed"; done

# Quiet: nothing changes for longer than the survivors' background force takes.
quiet() {
	local a
	a=$(sum)
	sleep 6
	[ "$(sum)" = "$a" ]
}
wait_until 60 "the survivors to be quiet" quiet
assert_ok "san kill" sb san kill
t=$(date +%s%N)
assert_ok "san start" sb san start
for n in 1 3; do
	wait_until 30 "node $n: its key stands again" said $n "its target had lost all reservations; ours stands again"
done
note "keys and reservation stand again $((($(date +%s%N) - t) / 1000000)) ms after the start of the target"
assert_eq "a stranger's write after the restart" refused "$(outsider)"
for n in 1 3; do
	timeout 20 sh -c "echo again$n >'$(mnt $n)/again$n' && sync -f '$(mnt $n)/again$n'" || fail "node $n: cannot write after the restart of the target"
done
assert_eq "node 3 reads node 1" again1 "$(timeout 20 cat "$(mnt 3)/again1")"
assert_eq "node 1 reads node 3" again3 "$(timeout 20 cat "$(mnt 1)/again3")"

wait_until 60 "the survivors to be quiet again" quiet
before=$(sum)
writes="$(written 1) $(written 3)"
assert_ok "thaw 2" sb thaw 2
gone() { ! kill -0 "$(cat "$state/n2/tesserad.pid")" 2>/dev/null || said 2 "out of the cluster"; }
wait_until 60 "node 2 to notice that it is out" gone
sleep 3 # whatever it had queued would come now
assert_eq "writes of the survivors meanwhile" "$writes" "$(written 1) $(written 3)"
assert_eq "the disk after node 2 woke up" "$before" "$(sum)"
! said 2 "ours stands again" || fail "node 2: registered again although it was out"
note "node 2 woke up: not one byte changed"

# Back as another life.
assert_ok "kill 2" sb kill 2
BACKGROUND=()
assert_ok "start 2" sb start 2
assert_ok "mount on 2" sb mount "$FS" 2
assert_eq "node 2, back, reads" after "$(timeout 20 cat "$(mnt 2)/kept")"

# Under load.
for n in 1 2 3; do
	background on $n python3 "$HERE/promises.py" write "$(mnt $n)/load" $n "$TMP/load.log$n" 2>/dev/null
done
for n in 1 2 3; do wait_until 20 "node $n: a first fsync" grep -qs '^+' "$TMP/load.log$n"; done
sleep 2
assert_ok "san kill under load" sb san kill
assert_ok "san start under load" sb san start
sleep 5
out=0
for n in 1 2 3; do
	said $n "lost its memory" && out=$((out + 1))
done
note "restart under load: $out of 3 nodes had something that was not flushed, and went out"
for n in 1 2 3; do assert_ok "kill $n" sb kill $n; done # the load with it
wait "${BACKGROUND[@]}" 2>/dev/null
BACKGROUND=()
assert_ok "up" sb up
assert_ok "mount after the restart under load" sb mount "$FS"
timeout 60 python3 "$HERE/promises.py" verify "$(mnt 1)/load" "$TMP"/load.log[123] >"$TMP/verify" 2>&1 ||
	fail "restart under load: what fsync promised is not there: $(tail -n 8 "$TMP/verify")"
note "restart under load: $(tail -n 1 "$TMP/verify")"
assert_ok "unmount" sb umount
fsck_clean "restarts of the target" "$FS"
