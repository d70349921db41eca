#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A node whose system disk is gone: backed up, wiped of its configuration, keys and state, restored, and it joins and mounts again, with a key that
# is nowhere else on it. A backup is 0600 and never written over a file; --no-keys has no secret in it; a damaged or foreign file, and one that would
# replace something, changes nothing. And `fs changes`, for backups of data.
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

# --- what has changed since: exactly that, whoever changed it; a list that is not complete does not move the stamp ---
top1=$(mnt 1)/changes top2=$(mnt 2)/changes
mkdir -p "$top1/sub/deep" "$top2/other" "$top1/empty"
for i in $(seq 200); do echo "$i" >"$top1/sub/f$i"; done
touch "$top1/other/gone" "$top1/other/chmod" "$top1/sub/deep/write" "$top1/other/old" "$top1/other/link"
t=$(($(date +%s) + 1))
while [ "$(date +%s)" -lt $((t + 1)) ]; do sleep 0.05; done
since=@$((t + 1))
odd=$'li\nne' bytes=$'\xff\xfe'
echo more >>"$top2/sub/deep/write"
chmod 600 "$top2/other/chmod"
rm "$top2/other/gone"
mv "$top1/other/old" "$top1/empty/new"
touch "$top2/$odd" "$top2/$bytes"
ln "$top1/other/link" "$top1/link2"
printf '%s\n' changes changes/sub/deep/write changes/other changes/other/chmod changes/empty changes/empty/new "changes/$odd" "changes/$bytes" changes/other/link changes/link2 |
	tr '\n' ' ' | tr -s ' ' | sed 's/li ne/li\nne/' | tr ' ' '\0' | sort -z >"$TMP/want"
t=${EPOCHREALTIME/./}
on 1 tessera fs changes "$FS" --since "$since" --null | sort -z >"$TMP/got"
note "a walk over $(find "$(mnt 1)" -xdev | wc -l) entries: $(((${EPOCHREALTIME/./} - t) / 1000)) ms"
cmp -s "$TMP/want" "$TMP/got" || fail "fs changes: expected $(tr '\0' '|' <"$TMP/want"), got $(tr '\0' '|' <"$TMP/got")"
on 3 tessera --json fs changes "$FS" --since "$since" >"$TMP/json"
jq -e '[.changed[] | .path // .path_hex] | length == 10 and any(. == "6368616e6765732ffffe") and any(. == "changes/li\nne")' "$TMP/json" >/dev/null || fail "fs changes --json: $(jq -c . "$TMP/json")"
assert_eq "nothing since" "" "$(on 1 tessera fs changes "$FS" --since @$(($(date +%s) + 60)))"
assert_ok "the first of a row" on 1 tessera fs changes "$FS" --since-file "$TMP/stamp"
stamp=$(stat -c %.Y "$TMP/stamp")
python3 -c '
import os, sys
os.chdir(sys.argv[1])
for i in range(20): os.mkdir("d" * 250); os.chdir("d" * 250)' "$top1/empty"
on 1 tessera fs changes "$FS" --since-file "$TMP/stamp" >/dev/null 2>"$TMP/err"
rc=$?
[ $rc = 1 ] && grep -q "too long; the list is not complete" "$TMP/err" || fail "a path that is too long: status $rc, $(cut -c 1-200 "$TMP/err")"
assert_eq "the stamp after an error" "$stamp" "$(stat -c %.Y "$TMP/stamp")"
rm -rf "$top1/empty"
for bad in "" "--since x" "--since 1.5h" "--since @" "--since 2026-13-01" "--since 1h --since-file $TMP/stamp"; do
	# shellcheck disable=SC2086 # words
	on 1 tessera fs changes "$FS" $bad >/dev/null 2>"$TMP/err"
	rc=$?
	[ $rc = 2 ] && [ "$(grep -c . "$TMP/err")" = 1 ] || fail "fs changes $bad: expected status 2 and one line, got $rc: $(cat "$TMP/err")"
done
assert_refused "not mounted" "not mounted on this node" 1 tessera fs changes nosuch --since 1h
