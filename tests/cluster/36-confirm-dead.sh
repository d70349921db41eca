#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The day when fencing fails (a fault point makes it): the recovery stays at that step, says so, and nothing of what the dead node held
# is given out. `node confirm-dead` is refused while anything says that the node lives (member, corosync, lease, log), and without
# confirmation; then it lets the recovery go on. A node with a power switch is switched off by itself. `node fence` puts one out.
# timeout: 300
. "$(dirname "$0")/lib.sh"

cc -std=gnu17 -D_GNU_SOURCE -O2 -I"$TOP" -o "$TMP/logscratch" "$HERE/logscratch.c" || fail "logscratch.c does not compile"
own_sandbox --nodes 3 --disk-count 1 --disk-size 1G
state=$(state_dir) file=$(disk_files)

# Node 3 has a power switch.
cat >"$TMP/agent" <<END
#!/bin/bash
echo "args: \$*" >>$TMP/agent.log
while read -r l; do
	case \$l in action=*) action=\${l#*=} ;; plug=*) plug=\${l#*=} ;; esac
done
echo "\$action \$plug" >>$TMP/agent.log
case \$action in
off) TESSERA_SANDBOX_NAME=$TESSERA_SANDBOX_NAME TESSERA_BINDIR=$TESSERA_BINDIR $SANDBOX kill \$plug && touch $TMP/off ;;
status) [ -e $TMP/off ] && exit 2 || exit 0 ;;
esac
END
chmod 0755 "$TMP/agent"
echo 'plug=3' >"$TMP/agent.conf" && chmod 0600 "$TMP/agent.conf"
echo "fence_agent = 3 $TMP/agent $TMP/agent.conf" >"$state/extra.conf"
for n in 1 2 3; do
	assert_ok "stop the daemon of node $n" sb stop $n --tesserad
	assert_ok "start node $n with a power switch for 3" sb start $n
done
# shellcheck disable=SC2046 # words
assert_ok "fs create" on 1 tessera fs create "$FS" $(urls) --log-slots 4
assert_ok "mount" sb mount "$FS"

faults() { # arm|release NODE...
	local what=$1 n
	shift
	for n in "$@"; do assert_ok "$what recovery.fence on $n" on "$n" tessera diag fault "$FS" "$what" recovery.fence; done
}
recovery() { # NODE FILTER
	on "$1" tessera --json diag recovery "$FS" | jq -r ".[0] | $2"
}
stuck() { # NODE: a fence has failed there
	[[ $(recovery 1 '.last_error // ""') == fence* ]] && [ "$(recovery 1 '.pending[0].node')" = "$1" ]
}
through() { [ "$(recovery 1 '.pending | length')" = 0 ]; }
state_of() { on 1 tessera --json node list | jq -r --argjson n "$1" '.[] | select(.node == $n) | .state'; }

for n in 1 2 3; do echo "$n" >"$(mnt $n)/held$n" && sync -f "$(mnt $n)/held$n" || fail "node $n: cannot write"; done
slot=$(on 2 tessera --json status | jq '.mounts[0].log.slot')
faults arm 1 3
assert_refused "a member" "alive.*member" 1 tessera node confirm-dead 2 --yes-i-know
assert_refused "oneself" "this node" 1 tessera node confirm-dead 1 --yes-i-know
assert_refused "nobody" "node number" 1 tessera node confirm-dead nobody --yes-i-know
assert_refused "a node of which nothing is pending" "nothing of it waits" 1 tessera node confirm-dead 77 --yes-i-know

# Dead, and the disk does not fence it.
assert_ok "kill 2" sb kill 2
assert_refused "at once" "alive|lease|nothing of it waits" 3 tessera node confirm-dead 2 --yes-i-know
wait_until 30 "the recovery of node 2 to fail at its fence" stuck 2
t=$(date +%s%N)
assert_eq "coordinator" 1 "$(recovery 3 .coordinator)"
assert_eq "what node 3 says" "another node recovers" "$(recovery 3 .state)"
assert_eq "state of node 2" "dead, to recover" "$(state_of 2)"
note "stuck: $(recovery 1 .last_error), attempt $(recovery 1 .attempts); three answers after $((($(date +%s%N) - t) / 1000000)) ms"
# In the background: a call that waits in the kernel for the daemon cannot be killed.
background sh -c "echo taken >'$(mnt 1)/held2' && touch $TMP/taken2"
still() { [ "$(recovery 1 .attempts)" -gt 11 ]; }
wait_until 60 "a recovery that cannot fence to be tried on, and not to stop the node" still
assert_eq "node 1 after many attempts" ready "$(node_state 1)"
[ ! -e "$TMP/taken2" ] || fail "node 1: expected to wait for what node 2 held, got it"

assert_refused "not confirmed" "not confirmed" 1 tessera node confirm-dead 2
echo 3 | script -qec "'$SANDBOX' exec 1 -- tessera node confirm-dead 2" /dev/null >"$TMP/typed" 2>&1 &&
	fail "another name typed: expected a refusal, got: $(cat "$TMP/typed")"
grep -q "not confirmed, nothing was done" "$TMP/typed" || fail "another name typed: expected 'not confirmed', got: $(cat "$TMP/typed")"
background "$TMP/logscratch" "$file" "$slot"
scratch=$!
assert_refused "its log grows" "log on the disks is being written" 3 tessera node confirm-dead 2 --yes-i-know
kill -KILL $scratch
wait $scratch 2>/dev/null
stuck 2 || fail "after the refusals: expected node 2 to wait for recovery still"

# From a node that does not recover; typed this time.
echo 2 | script -qec "'$SANDBOX' exec 3 -- tessera node confirm-dead 2" /dev/null >"$TMP/typed" 2>&1 ||
	fail "confirm-dead: $(cat "$TMP/typed")"
wait_until 30 "the recovery of node 2 to go on" through
wait_until 20 "node 1 to write what node 2 held" test -e "$TMP/taken2"
for n in 1 3; do
	grep -q "an operator on node 3 has confirmed" "$state/n$n/tesserad.log" || fail "node $n: expected a line about the confirmation in its log"
done
assert_eq "diag recovery, past" 2 "$(recovery 1 '.past[0].node')"
note "confirmed on node 3: recovered in $(recovery 1 '.past[0].ms') ms, $(recovery 1 '.past[0].records') records"

# The daemon alone dies: corosync sees the machine.
assert_ok "start 2" sb start 2
assert_ok "mount on 2" sb mount "$FS" 2
echo again >"$(mnt 2)/held2" || fail "node 2: cannot write when it is back"
assert_ok "crash 2" sb crash 2
wait_until 30 "the recovery of node 2's daemon to fail at its fence" stuck 2
assert_refused "corosync sees it" "corosync sees" 1 tessera node confirm-dead 2 --yes-i-know
faults release 1 3
wait_until 30 "the recovery when the fence works again" through
assert_eq "state of node 2" "no daemon" "$(state_of 2)"
assert_ok "start 2 again" sb start 2
assert_ok "mount on 2 again" sb mount "$FS" 2

# The power switch.
faults arm 1 2
echo mine >"$(mnt 3)/held3" || fail "node 3: cannot write"
assert_ok "freeze 3" sb freeze 3
t=$(date +%s%N)
background sh -c "echo taken >'$(mnt 1)/held3' && touch $TMP/taken3"
wait_until 60 "node 1 to write what node 3 held" test -e "$TMP/taken3"
note "node 3 hung, could not be fenced, was switched off and replayed after $((($(date +%s%N) - t) / 1000000)) ms"
grep -q "^off 3$" "$TMP/agent.log" || fail "power switch: expected 'off 3', got: $(paste -sd ';' "$TMP/agent.log")"
grep "^args" "$TMP/agent.log" | grep -qv "^args: $" && fail "power switch: expected no arguments, got: $(grep ^args "$TMP/agent.log" | head -n 1)"
assert_eq "node 3 by the sandbox" stopped "$(sb status --json | jq -r '.nodes[] | select(.id == 3) | .tesserad')"
faults release 1 2
rm "$TMP/off"

# Put out by hand.
assert_ok "start 3" sb start 3
assert_ok "mount on 3" sb mount "$FS" 3
assert_eq "key of node 3" yes "$(on 1 tessera --json node show 3 --keys | jq -r '.keys[0].registered')"
assert_refused "fence oneself" "this node" 1 tessera node fence 1 --yes-i-know
assert_refused "fence without confirmation" "not confirmed" 1 tessera node fence 3
assert_refused "fence with a switch that is not there" "no power switch" 1 tessera node fence 2 --power --yes-i-know
assert_ok "fence 3" on 2 tessera node fence 3 --yes-i-know
gone() { grep -q "out of the cluster: an operator put it out" "$state/n3/tesserad.log"; }
wait_until 20 "node 3 to end" gone
background sh -c "echo taken >'$(mnt 1)/held3' && touch $TMP/fenced3"
wait_until 60 "node 1 to write what node 3 held when it was put out" test -e "$TMP/fenced3"
assert_ok "fence 3 with its power" on 2 tessera node fence 3 --power --yes-i-know
assert_eq "node 3 by the sandbox, switched off" stopped "$(sb status --json | jq -r '.nodes[] | select(.id == 3) | .corosync')"

assert_ok "up" sb up
assert_ok "mount everywhere" sb mount "$FS"
assert_eq "node 3, back" taken "$(timeout 20 cat "$(mnt 3)/held3")"
assert_ok "unmount" sb umount
fsck_clean "confirmed, switched off, put out" "$FS"
