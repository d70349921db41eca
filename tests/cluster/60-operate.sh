#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Operating a cluster by the command alone: every answer fits its schema (and how long each takes), wrong use changes nothing, keys of the
# configuration are set (live or not, here or on all nodes), mounts are made and ended on other nodes, a busy mount names its users,
# events are followed and programs run on them, a support bundle has no secret in it.
# timeout: 420
. "$(dirname "$0")/lib.sh"

own_sandbox --nodes 3 --disk-count 1 --disk-size 1G
# shellcheck disable=SC2046 # words
assert_ok "fs create" on 1 tessera fs create "$FS" $(urls) --log-slots 4
assert_ok "mount" sb mount "$FS"
T=$TESSERA_BINDIR/tessera
sock() { echo "/run/$TESSERA_SANDBOX_NAME-sandbox/n$1/tesserad.sock"; }
status_of() { # STATUS N COMMAND...: the exit status, and one line with words of a remedy
	local want=$1 n=$2 rc
	shift 2
	timeout 30 "$SANDBOX" exec "$n" -- "$@" >/dev/null 2>"$TMP/err"
	rc=$?
	assert_eq "status of '$*' ($(head -n 1 "$TMP/err"))" "$want" "$rc"
	[ "$(grep -c . "$TMP/err")" -le 1 ] || fail "'$*': more than one line: $(cat "$TMP/err")"
}
get() { on "$1" tessera --json config get "$2" | jq -r .value; }
conf() { echo "$(state_dir)/n$1/tesserad.conf"; }

# --- answers ---
python3 "$TOP/tests/admin/answers.py" "$T" "$(sock 1)" "$FS" 2 >"$TMP/answers" || fail "answers: $(tail -n 5 "$TMP/answers")"
grep '^   ' "$TMP/answers"

# --- wrong use changes nothing ---
state() {
	local n
	for n in 1 2 3; do
		md5sum <"$(conf $n)"
		on $n tessera --json config list | md5sum
		on $n tessera --json status | jq -c '[.state, .view.number, [.mounts[] | [.name, .dir, .options, .state]]]'
		on $n tessera --json fs list | jq -c '[.[] | [.name, .disks, .mounted_on]]'
	done
}
state >"$TMP/before"
python3 "$TOP/tests/admin/usage.py" "$T" "$TOP/build/release" --socket "$(sock 1)" >"$TMP/usage" || fail "wrong use: $(tail -n 10 "$TMP/usage")"
state >"$TMP/after"
assert_same_file "the cluster after $(tail -n 1 "$TMP/usage")" "$TMP/before" "$TMP/after"
note "wrong use: $(tail -n 1 "$TMP/usage"); $(grep past "$TMP/usage")"

# --- not permitted ---
chmod 0711 "/run/$TESSERA_SANDBOX_NAME-sandbox" "/run/$TESSERA_SANDBOX_NAME-sandbox/n1"
cp "$T" "$TMP/tessera" && chmod 0755 "$TMP" "$TMP/tessera"
setpriv --reuid 65534 --regid 65534 --clear-groups "$TMP/tessera" --socket "$(sock 1)" status >/dev/null 2>"$TMP/err"
rc=$?
assert_eq "status of a user's question ($(cat "$TMP/err"))" 5 $rc
grep -q "run as root" "$TMP/err" || fail "a user's question: expected a remedy, got: $(cat "$TMP/err")"
chmod 0700 "/run/$TESSERA_SANDBOX_NAME-sandbox/n1"
status_of 5 1 tessera node fence 2
status_of 3 1 tessera --socket "$TMP/nothing" status
assert_eq "the cluster after them" "$(cat "$TMP/before")" "$(state)"

# --- configuration ---
assert_eq "log_level" 6 "$(get 1 log_level)"
assert_eq "a live key" false "$(on 1 tessera --json config set log_level 7 | jq .restart_needed)"
assert_eq "log_level, set" 7 "$(get 1 log_level)"
assert_eq "log_level of another node" 6 "$(get 2 log_level)"
assert_eq "a key that is not live" true "$(on 1 tessera --json config set page_pool 64M | jq .restart_needed)"
assert_eq "page_pool before the restart" 268435456 "$(get 1 page_pool | sed 's/^256M$/268435456/')"
grep -qx 'page_pool = 64M' "$(conf 1)" || fail "config set: the file has no such line: $(cat "$(conf 1)")"
assert_eq "lines of the file that were there" "$(on 2 cat "$(conf 2)" | grep -c '^disk = ')" "$(grep -c '^disk = ' "$(conf 1)")"
assert_eq "mode of the file" 600 "$(stat -c %a "$(conf 1)")"
before=$(md5sum <"$(conf 1)")
for bad in "log_level 9" "log_level x" "warn_space 101" "metrics nowhere" "metrics 1.2.3:80" "lease_ms 1" "nokey 1" "disk file:///x" "hooks_dir relative"; do
	# shellcheck disable=SC2086 # words
	status_of 2 1 tessera config set $bad
done
assert_refused "a metrics address that is not here" "metrics" 1 tessera config set metrics 203.0.113.7:80
chattr +i "$(conf 1)" 2>/dev/null && {
	assert_refused "a file that cannot be written" "nothing was changed" 1 tessera config set log_level 5
	chattr -i "$(conf 1)"
}
assert_eq "the file after refusals" "$before" "$(md5sum <"$(conf 1)")"
assert_eq "log_level after refusals" 7 "$(get 1 log_level)"
assert_ok "config set on all" on 1 tessera --node all config set warn_log 80
for n in 1 2 3; do assert_eq "warn_log of node $n" 80 "$(get $n warn_log)"; done
on 1 tessera config list | grep -q "$(cat "$(state_dir)/n1/cluster.key")" && fail "config list shows the cluster key"
note "configuration: set live, for the next start, on all nodes; 10 refusals changed nothing"

# --- mounts on other nodes, without ssh ---
assert_ok "umount on 2 and 3, asked on 1" on 1 tessera --node 2,3 umount "$FS"
for n in 2 3; do mountpoint -q "$(mnt $n)" && fail "node $n: still mounted"; done
assert_ok "mount on 2, asked on 3" on 3 tessera --node 2 mount "$FS" "$(mnt 2)"
echo routed >"$(mnt 2)/routed" && [ "$(cat "$(mnt 1)/routed")" = routed ] || fail "the mount made from elsewhere does not work"
status_of 1 1 tessera --node 2,3 mount "$FS" "$(mnt 3)"
grep -q "node 2: .*already mounted" "$TMP/err" || fail "mount on several: expected a line about node 2, got: $(cat "$TMP/err")"
mountpoint -q "$(mnt 3)" || fail "node 3: not mounted though only node 2 refused"
status_of 1 1 tessera --node 77 status
grep -q "node 77: not a member" "$TMP/err" || fail "a node that is none: $(cat "$TMP/err")"

# --- who uses a mount ---
background sh -c "cd '$(mnt 3)' && exec sleep 100"
user=$!
wait_until 5 "sleep to start there" sh -c "[ \"\$(readlink /proc/$user/cwd)\" = '$(mnt 3)' ]"
status_of 1 1 tessera --node 3 umount "$FS"
grep -q "process $user (sleep) works in it" "$TMP/err" || fail "busy umount: expected process $user to be named, got: $(cat "$TMP/err")"
note "$(cat "$TMP/err")"
kill "$user" && wait "$user" 2>/dev/null
assert_ok "umount when nobody uses it" on 1 tessera --node 3 umount "$FS"
assert_ok "mount on 3" on 1 tessera --node 3 mount "$FS" "$(mnt 3)"

# --- events and programs run on them ---
mkdir "$TMP/hooks" "$TMP/out" && chmod 0755 "$TMP/hooks"
cat >"$TMP/hooks/10-note" <<END
#!/bin/sh
echo "\$1 \$2 \$3 | \$TESSERA_EVENT | \$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status) | \$(ls /proc/self/fd | tr '\n' ' ')" >>$TMP/out/notes
END
printf '#!/bin/sh\necho run >>%s/out/unsafe\n' "$TMP" >"$TMP/hooks/20-unsafe"
printf '#!/bin/sh\nexec sleep 100\n' >"$TMP/hooks/30-hangs"
chmod 0755 "$TMP/hooks/"* && chmod 0777 "$TMP/hooks/20-unsafe"
: >"$TMP/followed"
background on 1 timeout 60 tessera events --follow >"$TMP/followed"
wait_until 5 "events to be followed" grep -q node.started "$TMP/followed"
assert_ok "hooks_dir" on 1 tessera config set hooks_dir "$TMP/hooks"
assert_ok "umount on 1" on 1 tessera umount "$FS"
wait_until 5 "the event at who follows" grep -q "fs.unmounted" "$TMP/followed"
wait_until 20 "the hook to run" grep -q "^config.changed info hooks_dir" "$TMP/out/notes"
grep -q "| 0000000000000000 |" "$TMP/out/notes" || fail "hook: it has capabilities: $(cat "$TMP/out/notes")"
[ ! -e "$TMP/out/unsafe" ] || fail "hook: a program that anybody can write was run"
wait_until 30 "the hook that hangs to be killed" sh -c "$SANDBOX exec 1 -- tessera --json events --hooks | jq -e '.failed >= 2' >/dev/null"
assert_ok "status while a hook hangs" on 1 tessera status
note "hooks: $(head -n 1 "$TMP/out/notes"); $(on 1 tessera --json events --hooks | jq -c '[.run, .failed, .dropped, .last_error]')"
assert_ok "mount on 1" on 1 tessera mount "$FS" "$(mnt 1)"

# --- a support bundle ---
echo "disk = iscsi://user%secretword@10.77.0.254:3260/iqn.x/9" >"$(state_dir)/extra.conf" # there is no such LUN
assert_ok "stop the daemon of node 3" sb stop 3 --tesserad
assert_ok "start it with a disk that has a password" sb start 3 --no-wait
wait_until 20 "node 3 to answer" sh -c "$SANDBOX exec 3 -- tessera status >/dev/null 2>&1"
rm "$(state_dir)/extra.conf"
assert_ok "snap" on 1 tessera snap "$TMP/snap.tar"
assert_refused "snap over a file that is there" "not there" 1 tessera snap "$TMP/snap.tar"
tar -tf "$TMP/snap.tar" >"$TMP/snap.list" || fail "snap: tar cannot read it"
mkdir "$TMP/snap" && tar -xf "$TMP/snap.tar" -C "$TMP/snap"
for f in status health events config-list diag-waiters diag-messages diag-leases cluster-status; do
	jq -e '.ok' "$TMP/snap/tessera-snap/$f.json" >/dev/null || fail "snap: $f.json is missing or says no"
done
assert_eq "nodes in the bundle" "1 2 3" "$(jq -r '.data[].node' "$TMP/snap/tessera-snap/status.json" | paste -sd ' ')"
for n in 1 2 3; do grep -rqF "$(cat "$(state_dir)/n$n/cluster.key")" "$TMP/snap" && fail "snap: the cluster key is in it"; done
assert_eq "mode of the bundle" 600 "$(stat -c %a "$TMP/snap.tar")"
grep -rqF secretword "$TMP/snap" && fail "snap: a disk's password is in it: $(grep -rlF secretword "$TMP/snap" | paste -sd ' ')"
grep -qF 'user%(masked)@' "$TMP/snap/tessera-snap/config-list.json" || fail "snap: the disk with a password is not there at all: nothing is proven"
note "snap: $(wc -l <"$TMP/snap.list") files, $(stat -c %s "$TMP/snap.tar") bytes"

# --- people and pipes ---
on 1 tessera health | grep -q $'\033' && fail "health: colours in a pipe"
python3 -c 'import pty, sys; pty.spawn(sys.argv[1:])' env -u NO_COLOR "$T" --socket "$(sock 1)" cluster status >"$TMP/pty" 2>&1 </dev/null
grep -q $'\033' "$TMP/pty" || fail "cluster status: no colours on a terminal"
timeout 5 "$SANDBOX" exec 1 -- tessera --watch 1 status >"$TMP/watch"
[ "$(grep -c '^tessera status, ' "$TMP/watch")" -ge 3 ] || fail "--watch: expected it several times within 5 s, got: $(grep -c . "$TMP/watch") lines"
top=$(on 1 tessera --node all --json top --interval 300 | jq -r '.[].node' | paste -sd ' ')
assert_eq "nodes in top" "1 2 3" "$top"

# --- without quorum ---
assert_ok "kill 2" sb kill 2
assert_ok "kill 3" sb kill 3
wait_until 10 "node 1 to know it" sh -c "[ \"\$($SANDBOX exec 1 -- tessera --json quorum status | jq .quorate)\" = false ]"
for verb in "fs create x file:///nonexistent" "mount $FS /mnt" "fsck $FS" "node confirm-dead 2 --yes-i-know"; do
	# shellcheck disable=SC2086 # words
	timeout 30 "$SANDBOX" exec 1 -- tessera $verb >/dev/null 2>"$TMP/err"
	rc=$?
	[ $rc = 4 ] || [ "$verb" = "mount $FS /mnt" ] || [ "$verb" = "fsck $FS" ] || fail "'$verb' without quorum: expected status 4, got $rc: $(cat "$TMP/err")"
	[ $rc != 0 ] || fail "'$verb' without quorum: expected a refusal"
	note "without quorum, status $rc: $(cat "$TMP/err")"
done
python3 "$TOP/tests/admin/answers.py" "$T" "$(sock 1)" "$FS" 1 --alone >"$TMP/answers" || fail "answers without quorum: $(tail -n 5 "$TMP/answers")"
note "without quorum: $(tail -n 1 "$TMP/answers" | tr -s ' ')"
