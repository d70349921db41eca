#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A stuck operation is explained on one screen by `diag waiters`: which process does what to which inode, since when, what it waits for,
# who holds that, and what happens next. The revoke is blocked by a node whose daemon hangs, then by a whole frozen node.
# timeout: 180
. "$(dirname "$0")/lib.sh"

state=$(state_dir)
waiters() { timeout 5 "$SANDBOX" exec "$1" -- tessera --json diag waiters 2>/dev/null; }
explained() { # N: an operation of a program waits longer than 0.3 s, and why
	waiters "$1" >"$TMP/w" && jq -e '.[] | select(.pid and .since_ms > 300 and .because and .next)' "$TMP/w" >"$TMP/row"
}
field() { jq -rs ".[0].$1" "$TMP/row"; }

for n in 1 2 3; do echo "$n" >"$(mnt $n)/w$n" || fail "node $n cannot write"; done
ino=$(stat -c %i "$(mnt 2)/w2")
sync -f "$(mnt 2)/w2"
echo more >>"$(mnt 2)/w2"

# --- the daemon of node 2 hangs; corosync there lives ---
kill -STOP "$(cat "$state/n2/tesserad.pid")"
begun=${EPOCHREALTIME/./}
cat "$(mnt 1)/w2" >/dev/null 2>&1 &
reader=$!
wait_until 5 "an explanation" explained 1
took=$(((${EPOCHREALTIME/./} - begun) / 1000))
on 1 tessera diag waiters >"$TMP/screen"
assert_eq "the process that is named" "$reader" "$(field pid)"
case $(field ino) in 1 | "$ino") ;; *) fail "the inode that is named: expected $ino or the root, got $(field ino)" ;; esac
[[ $(field waits_for) == token* ]] || fail "what it waits for: expected a token, got $(field waits_for)"
grep -q "node 2" <<<"$(field because)" || fail "because of whom: expected node 2, got: $(field because)"
grep -q "node 2 has not renewed its lease\|node 2 renews its lease\|node 2 is a member no more\|recovers it" <<<"$(field next)" ||
	fail "what happens next: expected the fate of node 2, got: $(field next)"
[ "$(grep -c . "$TMP/screen")" -le 24 ] || fail "one screen: expected at most 24 lines, got $(grep -c . "$TMP/screen")"
note "explained $took ms after the operation began:"
while read -r l; do note "  $l"; done <"$TMP/screen"

# Until it is over, each answer comes within half a second.
worst=0
for _ in $(seq 20); do
	t=${EPOCHREALTIME/./}
	waiters 1 >/dev/null
	t=$(((${EPOCHREALTIME/./} - t) / 1000))
	[ $t -le $worst ] || worst=$t
	kill -0 $reader 2>/dev/null || break
done
note "slowest answer while it was stuck: $worst ms"
wait $reader
kill -CONT "$(cat "$state/n2/tesserad.pid")"
wait_until 20 "node 2 to end, for it was put out" sh -c "! kill -0 $(cat "$state/n2/tesserad.pid") 2>/dev/null"
assert_ok "start 2" sb start 2
assert_ok "mount on 2" sb mount "$FS" 2

# --- the whole node freezes ---
echo again >>"$(mnt 2)/w2"
sb freeze 2 || fail "freeze 2"
timeout 30 cat "$(mnt 3)/w2" >/dev/null 2>&1 &
reader=$!
wait_until 5 "an explanation on node 3" explained 3
note "frozen: $(field because)"
note "next:   $(field next)"
grep -q "node 2" <<<"$(field because)$(field next)" || fail "frozen node: expected node 2 to be named, got: $(field because) / $(field next)"
wait $reader
assert_ok "thaw 2" sb thaw 2

# --- a lock of another program says so, and is not called stuck ---
background flock "$(mnt 1)/w1" sleep 60
holder=$!
wait_until 5 "the lock" sh -c "! flock -n '$(mnt 3)/w1' true"
background timeout 30 flock "$(mnt 3)/w1" true
wait_until 5 "an explanation of a lock" sh -c "$SANDBOX exec 3 -- tessera --json diag waiters | jq -e '.[] | select(.who == \"setlkw\" and .because == \"a lock of another program\")' >/dev/null"
kill "$holder"
