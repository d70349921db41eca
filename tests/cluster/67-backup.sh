#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A node whose system disk is gone: backed up, wiped of its configuration, keys and state, restored, and it joins and mounts again, with a key that
# is nowhere else on it. A backup is 0600 and never written over a file; --no-keys has no secret in it; a damaged or foreign file, and one that would
# replace something, changes nothing.
# timeout: 90
. "$(dirname "$0")/lib.sh"

n3=$(state_dir)/n3
T3() { TESSERA_CONFIG=$n3/tesserad.conf TESSERA_COROSYNC=$n3/corosync.conf TESSERA_SOCKET=/nonexistent "$TESSERA_BINDIR/tessera" "$@"; } # no daemon is needed
refused() { # OBJECT PATTERN ARGS...
	local what=$1 pattern=$2
	shift 2
	T3 "$@" >"$TMP/out" 2>"$TMP/err" && fail "$what: expected a refusal"
	[ "$(grep -c . "$TMP/err")" = 1 ] || fail "$what: expected one line: $(cat "$TMP/err")"
	grep -qE -- "$pattern" "$TMP/err" || fail "$what: expected a line like /$pattern/: $(cat "$TMP/err")"
	note "$what: $(sed "s|$TMP|DIR|g" "$TMP/err")"
}
state() { (cd "$n3" && for f in *.conf *.key tesserad/incarnation; do [ ! -e "$f" ] || sha256sum "$f"; done); }

assert_ok "a key that the sandbox does not have" on 1 tessera cluster key rotate
assert_ok "backup" T3 cluster backup "$TMP/n3.tar"
assert_eq "mode of the backup" 600 "$(stat -c %a "$TMP/n3.tar")"
tar -tf "$TMP/n3.tar" >"$TMP/list" || fail "tar cannot read the backup"
for f in manifest.json tesserad.conf cluster.key corosync.conf corosync.key incarnation; do grep -qx "tessera-backup/$f" "$TMP/list" || fail "the backup has no $f: $(paste -sd ' ' "$TMP/list")"; done
assert_eq "disks in the list" "$(urls | paste -sd ' ')" "$(tar -xOf "$TMP/n3.tar" tessera-backup/manifest.json | jq -r '.disks[]' | paste -sd ' ')"
refused "backup over a file" "name a file that is not there" cluster backup "$TMP/n3.tar"

# Without secrets.
key=$(cat "$n3/cluster.key")
cp "$n3/tesserad.conf" "$TMP/saved.conf"
echo "disk = iscsi://user%secretword@10.77.0.254:3260/iqn.x/9" >>"$n3/tesserad.conf"
assert_ok "backup without keys" T3 cluster backup --no-keys "$TMP/plain.tar"
assert_ok "backup with keys" T3 cluster backup "$TMP/full.tar"
cp "$TMP/saved.conf" "$n3/tesserad.conf"
grep -qaF -e "$key" -e secretword "$TMP/plain.tar" && fail "--no-keys: a secret is in it"
grep -qaF 'user%(masked)@' "$TMP/plain.tar" || fail "--no-keys: the disk with a password is not there at all"
grep -qaF "$key" "$TMP/full.tar" && grep -qaF secretword "$TMP/full.tar" || fail "with keys: they are not there: nothing is proven"

# What is there stays.
before=$(state)
assert_ok "restore of what is there already" T3 cluster restore "$TMP/n3.tar"
assert_eq "after it" "$before" "$(state)"
echo "# changed" >>"$n3/tesserad.conf"
before=$(state)
refused "restore over a changed file" "tesserad.conf is there, and is not what was saved" cluster restore "$TMP/n3.tar"
head -c 3000 "$TMP/n3.tar" >"$TMP/short.tar"
(head -c 600 "$TMP/n3.tar" && printf X && tail -c +602 "$TMP/n3.tar") >"$TMP/flip.tar"
(head -c 100 "$TMP/n3.tar" && printf X && tail -c +102 "$TMP/n3.tar") >"$TMP/head.tar"
mkdir -p "$TMP/evil/tessera-backup" && tar -xf "$TMP/n3.tar" -C "$TMP/evil"
jq ".files[0].path = \"$n3/../../etc/x\"" "$TMP/evil/tessera-backup/manifest.json" >"$TMP/m" && cp "$TMP/m" "$TMP/evil/tessera-backup/manifest.json"
tar --format=ustar -cf "$TMP/evil.tar" -C "$TMP/evil" tessera-backup/manifest.json tessera-backup/tesserad.conf tessera-backup/corosync.conf
: >"$TMP/empty.tar"
for f in short head evil empty; do refused "restore of $f" "nothing was changed" cluster restore --force "$TMP/$f.tar"; done
T3 cluster restore --force "$TMP/flip.tar" >/dev/null 2>&1 && [ "$(state)" = "$before" ] && fail "planted: a changed backup changes nothing: the comparison is blind"
refused "restore of nothing" "No such file" cluster restore --force "$TMP/nosuch.tar"

# The system disk is gone.
for i in 1 2 3; do echo "$i" >"$(mnt 3)/backup-$i"; done
sync "$(mnt 3)"/backup-[123]
old=$(on 3 tessera --json node info | jq .incarnation)
sb kill 3
rm -rf "${n3:?}/"*.conf "$n3/"*.key* "$n3/tesserad" "$n3/corosync-state"
assert_ok "restore" T3 cluster restore "$TMP/n3.tar"
assert_eq "the key" "$key" "$(cat "$n3/cluster.key")"
assert_eq "mode of the key" 600 "$(stat -c %a "$n3/cluster.key")"
assert_eq "mode of state_dir" 700 "$(stat -c %a "$n3/tesserad")"
cmp -s "$TMP/saved.conf" "$n3/tesserad.conf" || fail "tesserad.conf is not what was saved"
t=${EPOCHREALTIME/./}
assert_ok "start" sb start 3
assert_ok "mount" on 3 tessera mount "$FS" "$(mnt 3)"
note "the restored node was ready and mounted $(((${EPOCHREALTIME/./} - t) / 1000)) ms after its start"
assert_eq "its files" "1 2 3" "$(cat "$(mnt 3)"/backup-[123] | paste -sd ' ')"
echo back >"$(mnt 3)/backup-4" && [ "$(cat "$(mnt 1)/backup-4")" = back ] || fail "node 1 does not see what the restored node writes"
[ "$(on 3 tessera --json node info | jq .incarnation)" -gt "$old" ] || fail "its life is no newer than the one before"
on 3 tessera --json health >"$TMP/health"
jq -e 'all(.conditions[]; .condition != "key_old")' "$TMP/health" >/dev/null || fail "health of the restored node: $(jq -c .conditions "$TMP/health")"
