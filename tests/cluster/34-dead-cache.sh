#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A documented difference: the daemon of a node is killed, another node writes what that node had cached, and a descriptor
# that was open there still reads the old bytes from the kernel's cache; what is not cached it cannot read, and
# nothing it can be made to write arrives.
# timeout: 120
. "$(dirname "$0")/lib.sh"

own_sandbox --nodes 3 --disk-count 1 --disk-size 1G
# shellcheck disable=SC2046 # one word per URL
assert_ok "fs create" on 1 tessera fs create dead $(urls)
assert_ok "mount" sb mount dead
head -c 8192 /dev/zero | tr '\0' o >"$(mnt 1)/f" && sync || fail "cannot write the file"
mkfifo "$TMP/go" "$TMP/done" || fail "cannot make pipes"
timeout 100 python3 - "$(mnt 1)/f" "$TMP/go" "$TMP/done" >"$TMP/got" 2>&1 <<'END' &
import errno, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
assert os.pread(fd, 4096, 0) == b"o" * 4096
open(sys.argv[3], "w").write("open")
open(sys.argv[2]).read()
print("cached", os.pread(fd, 4, 0).decode())
for name, call in (("written", lambda: os.pwrite(fd, b"dead", 0)), ("synced", lambda: os.fsync(fd)), ("opened", lambda: os.open(sys.argv[1], os.O_RDONLY))):
    try:
        print(name, call())
    except OSError as e:
        print(name, errno.errorcode[e.errno])
END
reader=$!
BACKGROUND+=("$reader")
assert_eq "the reader" open "$(timeout 20 cat "$TMP/done")"
assert_ok "kill of node 1" sb kill 1
write_there() { timeout 20 sh -c "head -c 8192 /dev/zero | tr '\\0' n >'$(mnt 2)/f' && sync"; }
wait_until 30 "node 2 to write when node 1 is recovered" write_there
echo go >"$TMP/go"
wait $reader || fail "the reader: $(cat "$TMP/got")"
sed 's/^/   /' "$TMP/got"
assert_eq "cached bytes read by a descriptor of the dead node" "cached oooo" "$(grep '^cached' "$TMP/got")"
for what in written synced opened; do
	grep -qE "^$what (ENOTCONN|EIO|ECONNABORTED|ENOENT)" "$TMP/got" || fail "$what on the dead node: expected an error of a mount that is gone, got: $(grep "^$what" "$TMP/got")"
done
assert_eq "what node 2 wrote" nnnn "$(head -c 4 "$(mnt 2)/f")"
exit 0
