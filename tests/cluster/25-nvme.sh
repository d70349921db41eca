#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Disks over NVMe/TCP: a sandbox of its own on the tests' target (tests/nvmet), and on it the tests of data, coherence and power
# failure with fencing as they are on iSCSI; then the one of a target that restarts and has forgotten all reservations.
# timeout: 600
. "$(dirname "$0")/lib.sh"

own_sandbox --nodes 3 --disks nvme --disk-count 2 --disk-size 2G
mapfile -t url < <(urls)
[[ ${url[0]} == nvme-tcp://* ]] || fail "sandbox: expected URLs of NVMe/TCP, got ${url[0]}"
assert_ok "fs create" on 1 tessera fs create "$FS" "${url[@]}"
assert_ok "mount" sb mount "$FS"
assert_eq "transport and fencing of both disks" "nvme-tcp preempt-abort nvme-tcp preempt-abort" \
	"$(on 2 tessera --json disk list | jq -r '.[] | .transport, .fencing' | paste -sd ' ')"

part() { # TEST [MODE]
	TESSERA_TEST_MODE=${2:-$MODE} "$HERE/$1.sh" >"$TMP/part" 2>&1 || {
		cat "$TMP/part"
		fail "$1 on NVMe/TCP: see above"
	}
	sed -n "s/^   /   $1: /p" "$TMP/part"
}
part 12-fio quick
part 13-coherence quick
part 20-power

assert_ok "down" sb down --wipe --quiet
export TESSERA_TEST_DISKS=nvme
part 35-target-restart
