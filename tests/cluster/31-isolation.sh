#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Nodes talk by network, corosync and LUNs alone: no file, memory, pipe or socket is open in two of the
# daemons, unless it is a system file that both only read, or a device.
# timeout: 60
# quick
. "$(dirname "$0")/lib.sh"

state=$(state_dir)
declare -A pid
for n in 1 2 3; do
	pid[$n]=$(cat "$state/n$n/tesserad.pid")
	# Some work, so that everything that can be open is.
	echo "$n" >"$(mnt $n)/isolation$n" && cat "$(mnt $((n % 3 + 1)))/isolation$n" >/dev/null || fail "node $n: does not work"
	[ "$(readlink "/proc/${pid[$n]}/ns/net")" != "$(readlink /proc/self/ns/net)" ] || fail "node $n: tesserad is in the host's network"
done
assert_eq "network namespaces" 3 "$(for n in 1 2 3; do readlink "/proc/${pid[$n]}/ns/net"; done | sort -u | wc -l)"

# Device, inode and kind of everything open or mapped writable.
things() {
	local f t
	for f in "/proc/$1/fd"/*; do
		t=$(readlink "$f") || continue
		case $t in
		socket:* | pipe:*) echo "$t" ;;
		anon_inode:* | /memfd:* | /dev/null | /dev/zero | /dev/*random) ;;
		/dev/fuse) ;; # every open is a connection of its own
		*)
			grep -q 'flags:.*[12]$' "/proc/$1/fdinfo/${f##*/}" 2>/dev/null &&
				stat -L -c "file %d:%i $t" "$f"
			;;
		esac
	done
	# Shared writable mappings; the rings of io_uring are anonymous.
	awk '$2 ~ /w.s/ && $5 != 0 && $6 !~ /^(anon_inode:|\/memfd:)/ {print "map " $4 ":" $5 " " $6}' "/proc/$1/maps"
}
for n in 1 2 3; do
	things "${pid[$n]}" | sort -u >"$TMP/things.$n"
	[ -s "$TMP/things.$n" ] || fail "node $n: expected open sockets at least, got nothing: the test does not see"
done
common=$(cut -d' ' -f1,2 "$TMP"/things.[123] | sort | uniq -d)
[ -z "$common" ] || fail "things open in two daemons: expected none, got: $(grep -hF "$common" "$TMP"/things.[123] | sort -u | tr '\n' ';')"

# Nor do they hold each other's directories, read-only or not.
for n in 1 2 3; do
	for other in 1 2 3; do
		[ $n = $other ] && continue
		! find "/proc/${pid[$n]}/fd" -lname "$state/n$other/*" -o -lname "/run/$TESSERA_SANDBOX_NAME-sandbox/n$other/*" | grep -q . ||
			fail "node $n: has a file of node $other open"
	done
	! find "/proc/${pid[$n]}/fd" -lname "$state/disks/*" | grep -q . || fail "node $n: opens the disk files beside the target"
done
# UNIX sockets connect only within a node's namespace, except the admin socket, which is the node's own.
for n in 1 2 3; do
	peers=$(on $n cat /proc/net/unix | awk '$8 != "" {print $8}' | grep -E "sandbox/n[0-9]+/" | grep -v "sandbox/n$n/" | sort -u)
	[ -z "$peers" ] || fail "node $n: sees UNIX sockets of others: $peers"
done
note "three daemons, nothing in common but network and target"
