#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The cluster key changed under load on all nodes, without an error of a program; broken off at each step by the death of a node and finished on
# another; refused whole where a node cannot write it; a node that was away is told, by its own health and by that of the others, and comes
# back with the file copied. The key is in no log and no answer.
# timeout: 150
. "$(dirname "$0")/lib.sh"

key() { cat "$(state_dir)/n$1/cluster.key"; }
extra() { find "$(state_dir)/n$1" -maxdepth 1 -name 'cluster.key.*' ! -name '*.retired' -printf '%f\n' | sort | paste -sd ' '; }
same() { # OBJECT
	assert_eq "$1: key of node 2" "$(key 1)" "$(key 2)"
	assert_eq "$1: key of node 3" "$(key 1)" "$(key 3)"
}
key_name() { on "$1" tessera --json cluster key status | jq -r ".$2 // \"\""; }
condition() { { on "$1" tessera --json health || true; } | jq -e --arg c "$2" --arg o "$3" 'any(.conditions[]; .condition == $c and .object == $o)' >/dev/null; }
misses() { on "$1" tessera --json quorum status | jq -e ".missing == [$2]" >/dev/null; }
ready() { [ "$(on "$1" tessera --json status 2>/dev/null | jq -r .state)" = ready ]; }
cat >"$TMP/load.py" <<'END'
import os, sys
mnt, n, tmp = sys.argv[1], int(sys.argv[2]), sys.argv[3]
other, i, errors = 1 + n % 3, 0, open("%s/err%d" % (tmp, n), "w", buffering=1)
def at(k): return "%s/n%d/key-%d" % (mnt, n, k)
while not os.path.exists("%s/stop%d" % (tmp, n)):
    i += 1
    try:
        with open(at(n) + ".new", "w") as f:
            f.write(str(i))
        os.rename(at(n) + ".new", at(n))
        if open(at(n)).read() != str(i):
            errors.write("read %d\n" % i)
        if os.path.exists(tmp + "/all"):
            open(at(other)).read()
        if i % 10 == 0:
            os.sync()
    except OSError as e:
        errors.write("%d: %s\n" % (i, e))
open("%s/count%d" % (tmp, n), "w").write(str(i))
END
secrets=("$(key 1)")

# --- under load, everywhere ---
for n in 1 2 3; do
	python3 "$TMP/load.py" "/mnt/$TESSERA_SANDBOX_NAME" $n "$TMP" &
	BACKGROUND+=("$!")
	eval "load$n=$!"
done
wait_until 10 "the load" sh -c "[ -e $(mnt 1)/key-1 ] && [ -e $(mnt 2)/key-2 ] && [ -e $(mnt 3)/key-3 ]"
touch "$TMP/all"
t=${EPOCHREALTIME/./}
for i in 1 2 3; do
	assert_ok "rotate, round $i" on $i tessera cluster key rotate
	same "round $i"
	[[ " ${secrets[*]} " != *" $(key 1) "* ]] || fail "round $i: the key is an old one"
	secrets+=("$(key 1)")
	assert_eq "round $i: files left" "" "$(extra 1)$(extra 2)$(extra 3)"
done
note "three changes under load: $(((${EPOCHREALTIME/./} - t) / 1000)) ms"
sleep 0.5
touch "$TMP/stop1" "$TMP/stop3"
# shellcheck disable=SC2154 # set by eval
wait "$load1" "$load3"
for n in 1 2 3; do [ ! -s "$TMP/err$n" ] || fail "node $n: errors of its programs: $(head -n 3 "$TMP/err$n")"; done
note "operations of nodes 1 and 3 meanwhile: $(cat "$TMP/count1") and $(cat "$TMP/count3") rounds, no error"
for n in 1 2 3; do
	assert_eq "state of node $n" settled "$(key_name $n state)"
	assert_eq "mode of the key of node $n" 600 "$(stat -c %a "$(state_dir)/n$n/cluster.key")"
	assert_eq "connections of node $n" "true true" "$(on $n tessera --json diag net | jq -r '.[].connected' | paste -sd ' ')"
done

# --- node 2 cannot write it: nothing is changed anywhere ---
mkdir "$(state_dir)/n2/cluster.key.next.new"
assert_refused "a node that cannot write" "node 2: taking the new key: .*nothing was changed" 1 tessera cluster key rotate
rmdir "$(state_dir)/n2/cluster.key.next.new"
assert_eq "after a refusal: files" "" "$(extra 1)$(extra 2)$(extra 3)"
assert_eq "after a refusal: key" "${secrets[-1]}" "$(key 1)"

# --- who drives dies behind the first step; another finishes, with the same key ---
assert_ok "rotate, broken off behind add" on 1 tessera cluster key rotate --stop-after add
assert_eq "files of node 3" cluster.key.next "$(extra 3)"
next=$(key_name 3 next)
sb kill 1
wait_until 15 "node 2 to see it" misses 2 1
assert_refused "a node is away" "node 1 is away" 2 tessera cluster key rotate
assert_ok "start 1" sb start 1
wait_until 20 "node 1 to be ready" ready 1
wait_until 10 "a condition" condition 3 key_changing "cluster key"
assert_ok "finish on 2" on 2 tessera cluster key rotate
assert_eq "the key that was begun with" "$next" "$(key_name 1 key)"
same "finished on 2"
secrets+=("$(key 1)")

# --- the same behind the second ---
assert_ok "rotate, broken off behind switch" on 2 tessera cluster key rotate --stop-after switch
assert_eq "files of node 3" cluster.key.old "$(extra 3)"
sb kill 3
assert_ok "start 3" sb start 3
wait_until 20 "node 3 to be ready" ready 3
assert_ok "finish on 3" on 3 tessera cluster key rotate
same "finished on 3"
assert_eq "files left" "" "$(extra 1)$(extra 2)$(extra 3)"
secrets+=("$(key 1)")

# --- a node that was away ---
sb kill 3
wait_until 15 "node 1 to see it" misses 1 3
assert_ok "without node 3" on 1 tessera cluster key rotate --without-away
[ "$(key 1)" != "$(key 3)" ] || fail "the node that is away has the new key"
secrets+=("$(key 1)")
assert_ok "start 3 with the old key" sb start 3 --no-wait
wait_until 15 "node 3 to say that its key was replaced" condition 3 key_old "this node"
wait_until 15 "node 1 to say so" condition 1 key_old "node 3"
assert_refused "mount with the old key" "does not answer" 3 tessera mount "$FS" "$(mnt 3)"
sb stop 3 --tesserad >/dev/null
install -m 0600 "$(state_dir)/n1/cluster.key" "$(state_dir)/n3/cluster.key"
assert_ok "start 3 with the new key" sb start 3
wait_until 20 "node 3 to be ready" ready 3
assert_ok "mount on 3" on 3 tessera mount "$FS" "$(mnt 3)"
wait_until 10 "health of node 1" sh -c "! $SANDBOX exec 1 -- tessera --json health | grep -q key_old"
touch "$TMP/stop2"
# shellcheck disable=SC2154 # set by eval
wait "$load2"
[ ! -s "$TMP/err2" ] || fail "node 2, which was never touched: errors of its programs: $(head -n 3 "$TMP/err2")"
note "node 2 worked through all of it: $(cat "$TMP/count2") rounds, no error"

# --- secrets ---
for n in 1 2 3; do
	on $n tessera --json --node all cluster key status
	on $n tessera --json events
	cat "$(state_dir)/n$n/tesserad.log"
done >"$TMP/said"
for s in "${secrets[@]}"; do grep -qF "$s" "$TMP/said" && fail "a key is in a log or an answer"; done
grep -q "$(key_name 1 key)" "$TMP/said" || fail "the name of the key is in no answer: nothing is proven"
assert_refused "a step that there is none" "must be add or switch" 1 tessera cluster key rotate --stop-after x
