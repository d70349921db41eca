#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A node is excluded while a WRITE of part of a page waits for its daemon: the kernel has locked the page, and the daemon's
# invalidation, which it begins when its lease ends, waits for the page. The daemon ends all the same, the call with an error,
# the mount stays where it is, and the node comes back.
# timeout: 120
. "$(dirname "$0")/lib.sh"

d=excluded.$$
mkdir "$(mnt 3)/$d" && head -c 65536 /dev/zero >"$(mnt 3)/$d/f" && sync -f "$(mnt 3)/$d/f" || fail "node 3 cannot write"
sb umount 3 && sb mount "$FS" 3 || fail "node 3 cannot mount again"
ls "$(mnt 3)/$d/f" >/dev/null || fail "node 3 does not see its file"
# What is held goes on after 5 s by itself. By then the node has long been excluded; else this test sees nothing.
assert_ok "hold the WRITE" on 3 tessera diag fault "$FS" arm write.before_pin --hold 5000
python3 - "$(mnt 3)/$d/f" >"$TMP/write" 2>&1 <<'END_PY' &
import errno, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
os.pread(fd, 4096, 40960) # a page that there is to drop; the one that is written is not cached
try:
    print("wrote", os.pwrite(fd, b"part of a page", 5000))
except OSError as e:
    print("failed", errno.errorcode[e.errno])
END_PY
writer=$!
BACKGROUND+=("$writer")
held() { on 3 tessera diag fault "$FS" list | grep -qE 'write.before_pin .*\b1\b'; }
wait_until 5 "the WRITE to be held" held
pid=$(cat "$(state_dir)/n3/tesserad.pid")
sb cut 3
suspended() { [[ $(node_state 3) == waiting* ]]; }
wait_until 10 "node 3 to be without a lease" suspended
kill -KILL "$(cat "$(state_dir)/n3/corosync.pid")"
gone() { # or a leader that nobody has reaped, without threads
	local t=(/proc/"$pid"/task/*)
	! [ -e "${t[0]}" ] || { [ ${#t[@]} = 1 ] && grep -q '^State:.Z' "/proc/$pid/status"; }
}
wait_until 20 "tesserad of node 3 to end" gone
wait "$writer"
grep -qx 'failed \(ENOTCONN\|ECONNABORTED\|EIO\)' "$TMP/write" || fail "the WRITE: expected an error of a mount that is gone, got: $(cat "$TMP/write")"
grep -q " $(mnt 3) " /proc/self/mountinfo || fail "node 3: expected the mount to stay where it was, got none"
note "the daemon has ended; the WRITE: $(cat "$TMP/write")"
sb heal 3
assert_ok "node 3 starts again" sb start 3
assert_ok "node 3 mounts again" sb mount "$FS" 3
assert_eq "what node 3 had made stable" 65536 "$(stat -c %s "$(mnt 3)/$d/f")"
