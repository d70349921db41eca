#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Every condition of `tessera health` is caused by the fault that it names, seen with its severity, object and exit status, and gone when
# the fault is. At the end the table says that none was left out.
# timeout: 420
. "$(dirname "$0")/lib.sh"

own_sandbox --nodes 3 --disk-count 1 --disk-size 512M
state=$(state_dir)
declare -A SEEN

health() { timeout 5 "$SANDBOX" exec "$1" -- tessera --json health 2>/dev/null || :; } # its status is the severity
has() { # N CONDITION [OBJECT-PATTERN]
	health "$1" | jq -e --arg c "$2" --arg o "${3:-.}" '.conditions[] | select(.condition == $c and (.object | test($o)))' >"$TMP/found"
}
hasnt() { ! has "$@"; }
raised() { # SECONDS N CONDITION [OBJECT-PATTERN]
	wait_until "$1" "condition $3 on node $2" has "${@:2}"
	[ "$(jq -rs '.[0] | .meaning != "" and .todo != "" and .detail != "" and .since_ms > 0' "$TMP/found")" = true ] || fail "$3: something of it is empty: $(cat "$TMP/found")"
	SEEN[$3]=1
	note "$(jq -rs '.[0] | "\(.severity) \(.condition): \(.object): \(.detail)"' "$TMP/found" | cut -c 1-150)"
}
cleared() { # SECONDS N CONDITION
	wait_until "$1" "condition $3 on node $2 to end" hasnt "${@:2}"
}
# What is over sooner than one can look: the events tell that it was true. mark N...: count from now on.
# Past the sandbox, which takes a node whose corosync stands still for frozen.
ask() { # N ARGUMENTS...
	timeout 5 "$TESSERA_BINDIR/tessera" --socket "/run/$TESSERA_SANDBOX_NAME-sandbox/n$1/tesserad.sock" --json "${@:2}" 2>/dev/null
}
declare -A MARK
mark() {
	local n
	for n in "$@"; do MARK[$n]=$(ask "$n" events --limit 1 | jq .last); done
}
raised_since() { # CONDITION N...
	local n c=$1
	for n in "${@:2}"; do
		ask "$n" events --since "${MARK[$n]}" --limit 1000 |
			jq -re --arg c "$c" '[.events[] | select(.event == "health.raised" and (.text | startswith($c + ":")))][0] // empty | "\(.severity) \(.object): \(.text)"' >"$TMP/raised" && [ -s "$TMP/raised" ] && return 0
	done
	return 1
}
was_raised() { # SECONDS CONDITION N...
	wait_until "$1" "condition $2 to be raised on node ${*:3}" raised_since "${@:2}"
	SEEN[$2]=1
	note "$(cut -c 1-150 "$TMP/raised")"
}
exit_of() { # N: of health
	timeout 5 "$SANDBOX" exec "$1" -- tessera health >/dev/null 2>&1
	echo $?
}
set_key() { assert_ok "config set $2 $3 on $1" on "$1" tessera config set "$2" "$3"; }
dpid() { cat "$state/n$1/tesserad.pid"; }

# --- sound ---
# shellcheck disable=SC2046 # words
assert_ok "fs create" on 1 tessera fs create "$FS" $(urls) --log-slots 4
assert_ok "mount" sb mount "$FS"
wait_until 30 "node 1 to be sound" sh -c "[ \"\$($SANDBOX exec 1 -- tessera --json health | jq -r .worst)\" = ok ]"
assert_eq "exit status of a sound node" 0 "$(exit_of 1)"
names=$(on 1 tessera --json status | jq '.mounts[0].fuse.names_cached')
if [ "$names" = false ]; then raised 3 1 no_name_cache; else
	has 1 no_name_cache && fail "no_name_cache: true though the kernel keeps names"
	note "no_name_cache: this kernel keeps names (tests/unit/admin_health_test.c has the other case)"
fi

# --- space, inodes, log ---
dd if=/dev/zero of="$(mnt 1)/big" bs=1M count=600 status=none 2>/dev/null
raised 30 1 space_low "$FS"
assert_eq "exit status of a warning" 20 "$(exit_of 1)"
rm "$(mnt 1)/big"
cleared 60 1 space_low
for i in $(seq 300); do : >"$(mnt 1)/i$i"; done
set_key 1 warn_space 1
raised 30 1 inodes_low "$FS"
set_key 1 warn_space 90
cleared 5 1 inodes_low
set_key 1 warn_log 1
background sh -c "while :; do for i in 1 2 3 4 5 6 7 8 9; do echo >'$(mnt 1)/i'\$i; done; done"
loop=$!
raised 10 1 log_full "$FS"
kill "$loop"
set_key 1 warn_log 90
cleared 5 1 log_full

# --- disks: the target hangs, then its session breaks ---
background sh -c "while dd if=/dev/zero of='$(mnt 1)/slow' bs=4k count=1 conv=fsync status=none; do : >'$TMP/synced'; done"
loop=$!
wait_until 20 "writes to go on" test -e "$TMP/synced"
kill -STOP "$(cat "$state/tgtd.pid")"
sleep 1.5 # how long the disk stands still
kill -CONT "$(cat "$state/tgtd.pid")"
raised 15 1 disk_slow "iscsi"
kill "$loop"
wait "$loop" 2>/dev/null
assert_ok "umount" sb umount
assert_ok "kill the target" sb san stop
assert_ok "start the target" sb san start
raised 20 1 disk_session "iscsi"

# --- disks that are configured and not there, have no reservations, have errors ---
truncate -s 256M "$TMP/plain" && chmod 0600 "$TMP/plain" && chmod 0755 "$TMP"
printf 'disk = %s/77\ndisk = file://%s/plain\n' "$(urls | sed 's,/[0-9]*$,,')" "$TMP" >"$state/extra.conf"
assert_ok "stop the daemon of node 3" sb stop 3 --tesserad
# Node 3 is gone, its machine is not.
raised 5 1 node_no_daemon "node 3"
assert_ok "start it with two disks more" sb start 3 --no-wait
raised 20 3 disk_closed "/77"
assert_eq "exit status of an error" 21 "$(exit_of 3)"
raised 5 3 disk_no_reservations plain
truncate -s 0 "$TMP/plain"
on 3 tessera disk list >/dev/null
raised 10 3 disk_errors plain
cleared 10 1 node_no_daemon

# --- another version, another clock, one name for two ---
mkdir "$TMP/other" && sed 's/0\.1\.0/0.1.9/g' "$TESSERA_BINDIR/tesserad" >"$TMP/other/tesserad" && chmod 0755 "$TMP/other/tesserad"
cp "$TESSERA_BINDIR/tessera" "$TMP/other/"
cat >"$TMP/clock.c" <<'END'
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t c, struct timespec *t)
{
	int rc = (int)syscall(SYS_clock_gettime, c, t);
	if (rc == 0 && c == CLOCK_REALTIME)
		t->tv_sec += 5;
	return rc;
}
END
cc -shared -fPIC -O2 -o "$TMP/clock.so" "$TMP/clock.c" || fail "clock.c does not compile"
printf 'initiator_name = iqn.2026-11.io.tessera:%s-n1\n' "$TESSERA_SANDBOX_NAME" >"$state/extra.conf"
assert_ok "stop the daemon of node 3" sb stop 3 --tesserad
assert_ok "start node 3, another version with node 1's name and a clock of its own" env TESSERA_BINDIR="$TMP/other" LD_PRELOAD="$TMP/clock.so" "$SANDBOX" start 3 --no-wait
raised 30 1 version_mismatch "node 3"
raised 5 1 clocks_differ "node 3"
raised 5 1 initiator_twice "node 3"
assert_eq "exit status of what is critical" 22 "$(exit_of 1)"
rm "$state/extra.conf"
assert_ok "stop the daemon of node 3" sb stop 3 --tesserad
assert_ok "start node 3 as it should be" sb start 3
cleared 20 1 version_mismatch
cleared 5 1 initiator_twice
assert_ok "mount" sb mount "$FS"

# --- programs run on events ---
mkdir "$TMP/hooks" && printf '#!/bin/sh\nexit 3\n' >"$TMP/hooks/bad" && chmod 0755 "$TMP/hooks" "$TMP/hooks/bad"
set_key 1 hooks_dir "$TMP/hooks"
raised 10 1 hooks_failing hooks

# --- a member that does not answer on tesserad's port ---
in3() { nsenter --net="/run/netns/$TESSERA_SANDBOX_NAME-n3" "$@"; }
in3 nft add table inet t && in3 nft 'add chain inet t i { type filter hook input priority 0; }' && in3 nft 'add chain inet t o { type filter hook output priority 0; }' &&
	in3 nft add rule inet t i tcp dport 7420 drop && in3 nft add rule inet t i tcp sport 7420 drop || fail "nft refuses"
raised 40 1 node_unreachable "node 3"
in3 nft delete table inet t
cleared 30 1 node_unreachable

# --- a daemon that hangs while its machine and corosync live: silence, stuck operations, a revoke that is not answered ---
for n in 1 2 3; do set_key $n warn_wait_ms 300; done
echo held >"$(mnt 2)/held" && sync "$(mnt 2)/held" && echo more >>"$(mnt 2)/held"
mark 1 3
kill -STOP "$(dpid 2)"
background timeout 30 cat "$(mnt 1)/held"
background timeout 30 cat "$(mnt 3)/held"
for c in node_silent operation_stuck revoke_blocked; do was_raised 20 $c 1 3; done
raised 20 1 node_no_daemon "node 2" # before it may go on
kill -CONT "$(dpid 2)"
wait_until 20 "node 2 to end, for it was put out" sh -c "! kill -0 $(dpid 2) 2>/dev/null"
for n in 1 3; do cleared 20 $n operation_stuck; done
assert_ok "start 2" sb start 2
assert_ok "mount on 2" sb mount "$FS" 2

# --- a mount that was aborted ---
echo open >"$(mnt 3)/open" && exec 8<"$(mnt 3)/open" || fail "node 3 cannot write"
umount -f "$(mnt 3)" 2>/dev/null
raised 15 3 mount_lost "$FS"
exec 8<&-
umount -l "$(mnt 3)"
cleared 5 3 mount_lost
assert_ok "mount on 3" sb mount "$FS" 3

# --- a recovery whose fence fails ---
for n in 1 3; do assert_ok "fault on $n" on $n tessera diag fault "$FS" arm recovery.fence; done
echo x >"$(mnt 2)/x" && sync "$(mnt 2)/x"
assert_ok "kill 2" sb kill 2
raised 10 1 node_down "node 2"
raised 20 1 recovery_running "$FS"
for c in fencing_failed recovery_stuck; do
	wait_until 20 "condition $c" sh -c "for n in 1 3; do $SANDBOX exec \$n -- tessera --json health | jq -e '.conditions[] | select(.condition == \"$c\")' >/dev/null && exit 0; done; exit 1"
	SEEN[$c]=1
	note "$c"
done
for n in 1 3; do assert_ok "no fault on $n" on $n tessera diag fault "$FS" release recovery.fence; done
for c in fencing_failed recovery_stuck recovery_running; do cleared 20 1 $c; done

# --- no lease: this node's corosync stands still ---
mark 3
kill -STOP "$(cat "$state/n3/corosync.pid")"
for c in lease_late no_lease; do was_raised 15 $c 3; done
kill -KILL "$(cat "$state/n3/corosync.pid")"
raised 15 1 no_quorum
assert_eq "exit status without quorum" 22 "$(exit_of 1)"

# --- events tell the same ---
for e in health.raised health.cleared node.left quorum.lost recovery.failed recovery.done lease.lost config.changed; do
	on 1 tessera --json events --limit 1000 | jq -e --arg e $e '.events[] | select(.event == $e)' >/dev/null || fail "events: no $e on node 1"
done

# --- none was left out ---
missing=()
mapfile -t all < <(sed -n 's/^.*= {"\([a-z_]*\)", SEV_.*/\1/p' "$TOP/admin/health_table.c")
for c in key_old key_changing; do # their faults are caused there
	grep -q "wait_until .* condition [1-3] $c " "$HERE/66-key.sh" && SEEN[$c]=66-key
done
for c in "${all[@]}"; do
	[ -n "${SEEN[$c]:-}" ] || [ "$c" = no_name_cache ] || missing+=("$c")
done
[ ${#missing[@]} = 0 ] || fail "conditions that no fault here has caused: ${missing[*]}"
note "${#SEEN[@]} conditions were caused and seen"
