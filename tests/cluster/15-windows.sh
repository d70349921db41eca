#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Every window between kernel, daemon and another node that docs/fuse.md lists is opened on purpose by a
# fault point: no stale name, attribute, ACL, page or size, and nothing hangs. A window that did not open
# is a failure, and so is a planted omission that is not noticed.
# timeout: 180
# quick
. "$(dirname "$0")/lib.sh"

d=windows.$$
mkdir "$(mnt 1)/$d" || fail "node 1: cannot make $d"
chmod 755 "$(mnt 1)/$d" "$(mnt 1)"
python3 "$HERE/windows.py" "$FS" "/run/$TESSERA_SANDBOX_NAME-sandbox/n%d/tesserad.sock" "$(mnt 1)/$d" "$(mnt 2)/$d" "$(mnt 3)/$d" \
	>"$TMP/out" 2>&1
rc=$?
sed 's/^/   /' "$TMP/out"
[ $rc = 0 ] || fail "windows: expected none wrong, got: $(tail -n 1 "$TMP/out")"

# A hold ends by itself, and nothing is left armed.
on 1 tessera diag fault "$FS" arm mknod.before_pin --hold 200 || fail "node 1: cannot arm a fault point"
assert_ok "a hold that nobody releases" timeout 5 mkfifo "$(mnt 1)/$d/fifo"
assert_eq "holds that timed out" 1 "$(on 1 tessera --json diag fault "$FS" list | jq '.[0].timed_out')"
on 1 tessera diag fault "$FS" clear
assert_eq "fault points armed" 0 "$(on 1 tessera --json diag fault "$FS" list | jq length)"
assert_refused "a point that does not exist" "none of that name" 1 tessera diag fault "$FS" arm nothing.before_pin
assert_refused "a hold that is too long" "must be a number from 1 to 5000" 1 tessera diag fault "$FS" arm mknod.before_pin --hold 60000
exit 0
