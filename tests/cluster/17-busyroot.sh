#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# All nodes work on the same few files in the root directory itself: the daemons' own threads pass it on their way to the mount
# point, and must not wait for who waits for them.
# timeout: 120
. "$(dirname "$0")/lib.sh"

out=$(timeout -k 5 90 python3 "$HERE/busyroot.py" 20 "$(mnt 1)" "$(mnt 2)" "$(mnt 3)") || fail "the root directory of all nodes: $out"
note "the root directory of all nodes: $out"
