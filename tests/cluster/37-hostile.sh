#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# What somebody on this machine who is not root can do to a daemon: nothing. Its socket answers root only, it has kept little of root's
# power itself, it trusts no directory of others, and no symbolic link sends its mounts or unmounts elsewhere.
# timeout: 240
# quick
. "$(dirname "$0")/lib.sh"

own_sandbox --nodes 2 --disk-count 1 --disk-size 2G
# shellcheck disable=SC2046 # one word per URL
assert_ok "fs create" on 1 tessera fs create h $(urls)
conf=$(state_dir)/n1/tesserad.conf
sock=$(sed -n 's/^ *run_dir *= *//p' "$conf")/tesserad.sock
[ -S "$sock" ] || fail "no socket of node 1 at '$sock'"
pid=$(cat "$(state_dir)/n1/tesserad.pid") || fail "no pid of node 1's tesserad"

# --- what it can do: of each thread, also of those that started later -------------------------------------------------------
m=$(mnt 1)
mkdir -p "$m"
assert_ok "mount" on 1 tessera mount h "$m"
echo works >"$m/f" && sync && assert_eq "a file" works "$(cat "$m/f")"
# SYS_ADMIN 21, DAC_READ_SEARCH 2, SYS_PTRACE 19, IPC_LOCK 14, SYS_NICE 23
want=$(printf '%016x' $((1 << 21 | 1 << 2 | 1 << 19 | 1 << 14 | 1 << 23)))
threads=0
for t in /proc/"$pid"/task/*/status; do
	for f in CapPrm CapEff CapBnd; do
		assert_eq "$f of $t" "$want" "$(awk -v f="$f:" '$1 == f {print $2}' "$t")"
	done
	assert_eq "CapInh of $t" 0000000000000000 "$(awk '$1 == "CapInh:" {print $2}' "$t")"
	assert_eq "CapAmb of $t" 0000000000000000 "$(awk '$1 == "CapAmb:" {print $2}' "$t")"
	assert_eq "NoNewPrivs of $t" 1 "$(awk '$1 == "NoNewPrivs:" {print $2}' "$t")"
	threads=$((threads + 1))
done
[ $threads -ge 2 ] || fail "threads of tesserad: expected several, got $threads"
note "$threads threads with $want"

# --- the socket --------------------------------------------------------------------------------------------------------------
assert_eq "mode of the socket" 600 "$(stat -c %a "$sock")"
ask() { # USER: bytes that a request brings, or the error
	timeout 20 runuser -u "$1" -- python3 - "$sock" <<-'END'
		import socket, sys
		s = socket.socket(socket.AF_UNIX)
		try:
		    s.connect(sys.argv[1])
		    s.sendall(b'{"verb":"status","pos":[],"opt":{}}\n')
		    n = 0
		    while True:
		        b = s.recv(65536)
		        if not b:
		            break
		        n += len(b)
		    print(n)
		except OSError as e:
		    print(e.strerror)
	END
}
[ "$(ask root)" -gt 100 ] || fail "root got no status"
dir=$(dirname "$sock") mode=$(stat -c %a "$(dirname "$sock")")
assert_eq "another user at the socket" "Permission denied" "$(ask nobody)"
chmod 0711 "$dir" && chmod 0666 "$sock" # the modes are not all there is
got=$(ask nobody)
chmod 0600 "$sock" && chmod "$mode" "$dir"
case $got in 0 | "Connection reset by peer" | "Broken pipe") ;; *) fail "another user at an open socket: expected nothing, got: $got" ;; esac
[ "$(ask root)" -gt 100 ] || fail "root got no status behind that"
assert_ok "umount" on 1 tessera umount h

# --- symbolic links on the way to a mount point -------------------------------------------------------------------------------
raw() { # VERB ARGUMENT...: past the command, which follows links itself
	python3 - "$sock" "$@" <<-'END'
		import json, socket, sys
		s = socket.socket(socket.AF_UNIX)
		s.connect(sys.argv[1])
		s.sendall((json.dumps({"verb": sys.argv[2], "pos": sys.argv[3:], "opt": {}}) + "\n").encode())
		a = json.loads(s.makefile().readlines()[-1])
		print("done" if a["ok"] else a["error"])
	END
}
mounted() { awk -v p="$1" '$5 == p {n++} END {exit !n}' /proc/self/mountinfo; }
mkdir -p "$TMP/a/m" "$TMP/other/m"
chmod 755 "$TMP"
ln -s "$TMP/other" "$TMP/link"
ln -s "$TMP/other/m" "$TMP/last"
for p in "$TMP/link/m" "$TMP/last"; do
	got=$(raw mount h "$p")
	[[ $got == *"symbolic link"* ]] || fail "mount over the link $p: expected a refusal, got: $got"
	mounted "$TMP/other/m" && fail "mount over the link $p: it is mounted where the link leads"
done
assert_ok "mount by a link that root follows" on 1 tessera mount h "$TMP/link/m"
mounted "$TMP/other/m" || fail "mount by a link: not mounted at its end"
assert_ok "umount by the link" on 1 tessera umount "$TMP/link/m/"
mounted "$TMP/other/m" && fail "umount by the link: still mounted"

# The way to a mount is moved away, and a link put there that leads to another mount.
assert_ok "mount at a/m" on 1 tessera mount h "$TMP/a/m"
mount --bind /usr "$TMP/other/m" || fail "bind mount"
mv "$TMP/a" "$TMP/b" && ln -s "$TMP/other" "$TMP/a"
got=$(raw umount h)
[ "$got" != "done" ] || fail "umount by a link: expected a refusal, got success"
note "umount with a link on the way: $got"
mounted "$TMP/other/m" || fail "umount by a link: another mount is gone"
mounted "$TMP/b/m" || fail "umount by a link: ours is gone"
rm "$TMP/a" && mv "$TMP/b" "$TMP/a"
assert_ok "umount at last" on 1 tessera umount h
umount "$TMP/other/m" || fail "the bind mount is gone"

# --- directories and a key that others can change -----------------------------------------------------------------------------
for what in "chmod 0777 $TMP/s" "chown nobody $TMP/s" "ln -sfn $TMP/other $TMP/s"; do
	rm -rf "$TMP/s" && { [[ $what == ln* ]] || mkdir "$TMP/s"; } && $what || fail "$what"
	sed "s|^state_dir.*|state_dir = $TMP/s|" "$conf" >"$TMP/conf"
	timeout 20 "$TESSERA_BINDIR/tesserad" -c "$TMP/conf" >"$TMP/out" 2>&1
	rc=$?
	[ $rc = 78 ] && grep -q "directory of root's" "$TMP/out" || fail "state directory after '$what': expected a refusal, got status $rc: $(cat "$TMP/out")"
done
note "state directories of others are refused"
