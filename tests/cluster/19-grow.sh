#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A disk becomes larger while three nodes use it: its new part is used by all of them, after one of them was killed, too, and fsck finds nothing. The
# disks are files here: tgtd does not look at the size of its backing file again.
# timeout: 300
# shellcheck disable=SC2015,SC2016 # what wait_until evaluates is to be expanded then
. "$(dirname "$0")/lib.sh"

own_sandbox --nodes 3 --disks file --disk-count 2 --disk-size 256M
mapfile -t u < <(urls)
F=g
tess() { on "$1" tessera --json "${@:2}"; }
size() { tess "$1" disk show $F "$2" | jq .size_bytes; }

assert_ok "fs create" on 1 tessera fs create $F --log-size 4M "${u[@]}"
assert_ok "mount" sb mount $F
head -c 60M /dev/urandom >"$TMP/data" && cp "$TMP/data" "$(mnt 2)/data" && sync -f "$(mnt 2)" || fail "cannot write"
was=$(size 1 1)
free=$(tess 1 fs df $F | jq '.[0].free_bytes')
assert_refused "a disk that has not grown" "as large as it was" 1 tessera disk grow $F 1
assert_refused "no such disk" "no disk" 1 tessera disk grow $F 17
assert_eq "size after refusals" "$was" "$(size 3 1)"

truncate -s 1G "${u[1]#file://}" || fail "cannot make ${u[1]} larger"
assert_ok "grow" on 2 tessera disk grow $F 1
for n in 1 2 3; do assert_eq "size on node $n" $((1 << 30)) "$(size $n 1)"; done
wait_until 10 "the room is told" eval '[ "$(tess 3 fs df $F | jq ".[0].free_bytes")" -gt '$((free + (500 << 20)))' ]'
note "disk 1 grew from $((was >> 20)) to $(($(size 1 1) >> 20)) MiB, free were $((free >> 20)) MiB and are $(($(tess 3 fs df $F | jq '.[0].free_bytes') >> 20))"
for n in 1 2 3; do head -c 200M /dev/urandom >"$TMP/big$n" && cp "$TMP/big$n" "$(mnt $n)/big$n" && sync "$(mnt $n)/big$n" || fail "node $n: the new part is not used"; done
assert_ok "kill 3" sb kill 3
for n in 1 2 3; do assert_ok "bytes of node $n" cmp "$TMP/big$n" "$(mnt 1)/big$n"; done
assert_ok "start 3" sb start 3
assert_ok "mount again" sb mount $F
assert_ok "bytes on node 3" cmp "$TMP/data" "$(mnt 3)/data"
truncate -s 512M "${u[0]#file://}" || fail "cannot make ${u[0]} larger"
assert_ok "grow of the disk with metadata" on 3 tessera disk grow $F 0
assert_ok "unmount everywhere" sb umount
fsck_clean "disks that grew" $F
assert_ok "sandbox restarts" sb down
assert_ok "sandbox up" sb up
assert_ok "mount" sb mount $F
for n in 1 2 3; do assert_ok "bytes after a restart of all" cmp "$TMP/big$n" "$(mnt 2)/big$n"; done
