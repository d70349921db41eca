#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# `tessera preflight` on three nodes: a good set is all ok, also for a port that no daemon has; then each check is seen to fail by causing
# what it looks for: MTU of an interface and of the path only, twice the same initiator, machine and node id, a LUN that is not mapped,
# blocked TCP and UDP ports, a clock, versions of settings, corosync's file and key, another cluster key, nobody there. A LUN that carries nothing is
# tried for fencing and left as it was; one with a file system is not touched.
# timeout: 120
. "$(dirname "$0")/lib.sh"

PORT=7520 # no daemon has it
tgt() { TGT_IPC_SOCKET=/run/$TESSERA_SANDBOX_NAME-sandbox/tgt tgtadm -C 7 --lld iscsi "$@"; }
in_ns() { # N COMMAND... (in its network and a mount and host name of its own)
	local n=$1
	shift
	# shellcheck disable=SC2016 # expanded by the inner shell
	${EXEC:-} nsenter --net="/run/netns/$TESSERA_SANDBOX_NAME-n$n" unshare --mount --uts --propagation private sh -c \
		'mount --bind "$1" /etc/machine-id && hostname "$2" && shift 2 && exec "$@"' sh "$TMP/machine$n" "$(cat "$TMP/host$n")" "$@"
}
row() { jq -r --arg c "$1" --arg o "${2:-}" '.[] | select(.check == $c and ($o == "" or (.object | contains($o)))) | .result' "$TMP/rows" | sort -u | paste -sd ' '; }
want() { # CHECK OBJECT RESULT [PATTERN]
	[ "$3" = "$(row "$1" "$2")" ] || fail "preflight, $1 $2: expected '$3', got: $(jq -c --arg c "$1" '.[] | select(.check == $c)' "$TMP/rows")"
	[ -z "${4:-}" ] || jq -e --arg c "$1" --arg o "$2" --arg p "$4" 'any(.[]; .check == $c and (.object | contains($o)) and (.detail | test($p)) and .remedy != "")' "$TMP/rows" \
		>/dev/null || fail "preflight, $1 $2: no row with a remedy and a detail like /$4/: $(jq -c --arg c "$1" '.[] | select(.check == $c)' "$TMP/rows")"
}
listeners=()
listen() { # N [ENV...]
	local n=$1
	shift
	EXEC="exec" in_ns "$n" env "$@" "${TESSERA:-$TESSERA_BINDIR/tessera}" preflight --listen --seconds 60 --config "$TMP/n$n.conf" --corosync "$TMP/n$n.corosync" >"$TMP/listen$n" 2>&1 &
	listeners+=("$!")
	BACKGROUND+=("$!")
}
unlisten() {
	kill "${listeners[@]}" 2>/dev/null
	wait "${listeners[@]}" 2>/dev/null
	listeners=()
	rm -f "$TMP"/listen[23]
}
listening() { for n in "$@"; do grep -q listening "$TMP/listen$n" 2>/dev/null || return 1; done; }
fly() { # STATUS
	wait_until 10 "listeners" listening "${who[@]}"
	in_ns 1 timeout 60 "$TESSERA_BINDIR/tessera" --json preflight --config "$TMP/n1.conf" --corosync "$TMP/n1.corosync" 10.77.0.2 10.77.0.3 >"$TMP/rows" 2>"$TMP/err"
	local rc=$?
	[ $rc = "$1" ] || fail "preflight: expected status $1, got $rc: $(cat "$TMP/err") $(jq -c '.[] | select(.result != "ok")' "$TMP/rows")"
}
confs() {
	local n
	for n in 1 2 3; do
		sed "s/^port = .*/port = $PORT/" "$(state_dir)/n$n/tesserad.conf" >"$TMP/n$n.conf"
		[ "$DISKS" != iscsi ] || echo "disk = iscsi://10.77.0.254:3260/iqn.2026-11.io.tessera:san/50" >>"$TMP/n$n.conf"
		cp "$(state_dir)/n$n/corosync.conf" "$TMP/n$n.corosync"
		tr -d - </proc/sys/kernel/random/uuid >"$TMP/machine$n"
		echo "preflight-n$n" >"$TMP/host$n"
	done
}
DISKS=${TESSERA_TEST_DISKS:-iscsi}
if [ "$DISKS" = iscsi ]; then
	truncate -s 64M "$TMP/blank.img"
	tgt --op new --mode logicalunit --tid 1 --lun 50 -b "$TMP/blank.img" || fail "tgtadm: LUN 50"
	trap 'tgt --op delete --mode logicalunit --tid 1 --lun 50 >/dev/null 2>&1; cleanup_lib' EXIT
fi
sum() { sha256sum <"$TMP/blank.img"; }
disk_sums() { for f in $(disk_files); do dd if="$f" bs=4k count=64 status=none | sha256sum; done; }

# --- all is well ---
confs
who=(2 3)
[ "$DISKS" != iscsi ] || before=$(sum)
disks_before=$(disk_sums)
t=$SECONDS
listen 2
listen 3
fly 0
note "three nodes: $(jq length "$TMP/rows") rows, all ok, $((SECONDS - t)) s"
for c in version format protocol cluster lease identity clock udp mtu port lun fencing corosync; do assert_eq "check $c" ok "$(row $c)"; done
assert_eq "nodes whose ports were tried" 2 "$(jq '[.[] | select(.check == "port")] | length' "$TMP/rows")"
if [ "$DISKS" = iscsi ]; then
	jq -e '.[] | select(.check == "fencing" and (.object | endswith("/50")) and (.detail | test("preempted cannot write")))' "$TMP/rows" >/dev/null || fail "the blank LUN was not tried"
	[ "$before" = "$(sum)" ] || fail "the blank LUN was changed"
fi
[ "$disks_before" = "$(disk_sums)" ] || fail "a disk with a file system was changed"
in_ns 1 "$TESSERA_BINDIR/tessera" preflight --config "$TMP/n1.conf" --corosync "$TMP/n1.corosync" --no-probe 10.77.0.2 >"$TMP/text"
grep -q "^ok   mtu  *node 2: 1500" "$TMP/text" || fail "text: no line for the MTU: $(head -n 5 "$TMP/text")"
unlisten

# --- one fault a check, all at once ---
confs
cat >"$TMP/clock.c" <<'END'
#define _GNU_SOURCE
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>
int clock_gettime(clockid_t c, struct timespec *t)
{
	int rc = (int)syscall(SYS_clock_gettime, c, t);
	if (rc == 0 && c == CLOCK_REALTIME)
		t->tv_sec += 90;
	return rc;
}
END
cc -shared -fPIC -O2 -o "$TMP/clock.so" "$TMP/clock.c" || fail "clock.c does not compile"
sed -i "s/^initiator_name = .*/$(grep ^initiator_name "$TMP/n1.conf" | sed 's/[\/&]/\\&/g')/" "$TMP/n3.conf"
sed -i "0,/^disk = /{/^disk = /d}" "$TMP/n2.conf"
echo "lease_ms = 5000" >>"$TMP/n2.conf"
cp "$TMP/machine1" "$TMP/machine2"
cp "$TMP/host1" "$TMP/host2"
sed -i 's/ring0_addr: 10.77.0.3/ring0_addr: 10.77.0.33/' "$TMP/n3.corosync"
sed -i 's/crypto_cipher: .*/crypto_cipher: none/; s/token: 450/token: 9000/' "$TMP/n2.corosync"
head -c 256 /dev/urandom >"$TMP/other.key" && chmod 600 "$TMP/other.key"
sed -i "s|keyfile: .*|keyfile: $TMP/other.key|" "$TMP/n3.corosync"
ip -n "$TESSERA_SANDBOX_NAME-n2" link set eth0 mtu 1400
nsenter --net="/run/netns/$TESSERA_SANDBOX_NAME-n3" nft -f - <<END
table inet preflight {
	chain i {
		type filter hook input priority 0
		tcp dport $PORT reject
		udp dport $((PORT + 2)) drop
	}
}
END
sed -i "s/^cluster_name = .*/cluster_name = another/" "$TMP/n2.conf"
version=$("$TESSERA_BINDIR/tessera" version | awk '{print $2}')
LC_ALL=C sed "s/\x00${version//./\\.}\x00/\x009${version:1}\x00/g" "$TESSERA_BINDIR/tessera" >"$TMP/tessera" && chmod +x "$TMP/tessera"
TESSERA=$TMP/tessera listen 2
listen 3 LD_PRELOAD="$TMP/clock.so"
fly 21
ip -n "$TESSERA_SANDBOX_NAME-n2" link set eth0 mtu 1500
nsenter --net="/run/netns/$TESSERA_SANDBOX_NAME-n3" nft delete table inet preflight
unlisten
want identity "node 3" fail "initiator"
for p in machine_id host; do want identity "node 2" warn "$p"; done
want lease "node 2" fail "5000"
want cluster "node 2" fail "another"
want version "node 2" warn "\"9"
want lun "" "fail ok" "node 2 does not have it"
want clock "node 3" fail "before"
want clock "node 2" ok
want mtu "node 2" fail "1400"
want udp "node 3" fail
want port "node 3" fail "7520"
want port "node 2" fail "from there, TCP to 10.77.0.3"
for p in "no address of that node" "its nodelist is not" "its key is not"; do want corosync "node 3" fail "$p"; done
for p in "not authenticated" "token is 9000" "cluster_name is"; do want corosync "node 2" "fail warn" "$p"; done
note "faults seen: $(jq -r '.[] | select(.result != "ok") | .check + " " + .object' "$TMP/rows" | sed 's/iscsi:.*//' | sort -u | paste -sd ',')"

# --- the path carries less than the interfaces say; another cluster key ---
confs
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$TMP/cluster.key" && chmod 600 "$TMP/cluster.key"
sed -i "s|^cluster_key_file = .*|cluster_key_file = $TMP/cluster.key|" "$TMP/n3.conf"
ip -n "$TESSERA_SANDBOX_NAME-san" link set p2 mtu 1400
listen 2
listen 3
fly 21
ip -n "$TESSERA_SANDBOX_NAME-san" link set p2 mtu 1500
cp "$TMP/listen3" "$TMP/refused3"
unlisten
want mtu "node 2" fail "does not get through"
want key 10.77.0.3 fail
grep -q "another cluster key" "$TMP/refused3" || fail "the listener says nothing of who has another key"

# --- nobody listens; twice the same node; no disks at all ---
confs
for n in 1 2; do sed -i '/^disk = /d' "$TMP/n$n.conf"; done
sed -i 's/^node_id = .*/node_id = 1/' "$TMP/n2.conf"
rm "$TMP/n2.corosync"
who=(2)
listen 2
fly 21
unlisten
want answer 10.77.0.3 fail "TCP port 7522"
want lun disks fail "no node"
want identity "node 1" fail "node"
want corosync "node 1" fail "n2.corosync"
for verb in "--listen 10.0.0.1" "--seconds 5"; do
	# shellcheck disable=SC2086 # words
	on 1 tessera preflight $verb >/dev/null 2>"$TMP/err"
	[ $? = 2 ] || fail "preflight $verb: expected status 2: $(cat "$TMP/err")"
done
assert_refused "no configuration" "nonexistent" 1 tessera preflight --config /nonexistent/file
