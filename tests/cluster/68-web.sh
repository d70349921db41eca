#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The page of `tessera web`: what it says is what the command says; nothing beyond the loopback, nothing by a foreign name, nothing but GET, nothing from
# elsewhere; a mount point that is markup stays text, also in a real browser where one is installed; it answers at once while a node is dead.
# timeout: 120
. "$(dirname "$0")/lib.sh"

in_node() { # N COMMAND...
	local n=$1
	shift
	nsenter --net="/run/netns/$TESSERA_SANDBOX_NAME-n$n" "$@"
}
get() { # N PATH FILE [HOST] [METHOD]: status, headers in FILE.h
	in_node "$1" curl -s -X "${5:-GET}" -D "$3.h" -o "$3" -w '%{http_code}' ${4:+-H "Host: $4"} --max-time 5 "http://${ADDR:-127.0.0.1:7421}$2"
}
look() { # N FILE JQ-CONDITION
	assert_eq "GET /web.json" 200 "$(get "$1" /web.json "$2")"
	jq -e "$3" "$2" >/dev/null 2>&1
}

# --- a mount point that is markup ---
evil="$TMP/<img src=x onerror=document.title=1>"
mkdir -p "$evil"
trap 'umount -l "$evil" 2>/dev/null; cleanup_lib' EXIT # lib.sh knows no blanks in mount points
assert_ok "umount 1" on 1 tessera umount "$FS"
assert_ok "mount on markup" on 1 tessera mount "$FS" "$evil"

# --- the files ---
assert_eq "where it is" "true http://127.0.0.1:7421/" "$(on 1 tessera --json web | jq -r '"\(.on) \(.url)"')"
for f in / /web.js /web.css; do
	assert_eq "GET $f" 200 "$(get 1 $f "$TMP/page")"
	grep -qi "^content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'" "$TMP/page.h" ||
		fail "$f: no strict policy: $(cat "$TMP/page.h")"
	for h in "x-content-type-options: nosniff" "x-frame-options: DENY" "cache-control: no-store" "referrer-policy: no-referrer"; do
		grep -qi "^$h" "$TMP/page.h" || fail "$f: no header $h"
	done
	cat "$TMP/page" >>"$TMP/all"
done
grep -oE '(https?:)?//[a-z][^" ]*' "$TMP/all" | grep -v '^http://www.w3.org/2000/svg$' >"$TMP/elsewhere"
[ ! -s "$TMP/elsewhere" ] || fail "the page names something elsewhere: $(head -n 1 "$TMP/elsewhere")"
grep -qE 'innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function| on[a-z]+=|style="' "$TMP/all" && fail "the page makes markup of text"
cmp -s <(cat "$TOP"/admin/web/index.html "$TOP"/admin/web/web.js "$TOP"/admin/web/web.css) "$TMP/all" || fail "what is served is not what is in the source"

# --- what it says ---
wait_until 5 "the first look" look 1 "$TMP/j" '.time_ms > 0'
jq -e '(.nodes | length) == 3 and (.counters | length) == 3 and (.health | length) == 3 and (.disks | length) == 2 and .quorum.quorate and (.fs | length) == 1' "$TMP/j" >/dev/null ||
	fail "web.json: $(jq -c 'del(.counters, .tokens)' "$TMP/j" | cut -c 1-600)"
assert_eq "nodes" "$(on 1 tessera --json cluster status | jq -c '[.[] | [.node, .state, .mounts]]')" "$(jq -c '[.nodes[] | [.node, .state, .mounts]]' "$TMP/j")"
assert_eq "disks" "$(on 1 tessera --json disk list | jq -c '[.[] | [.url, .state, .contents]]')" "$(jq -c '[.disks[] | [.url, .state, .contents]]' "$TMP/j")"
jq -e --arg e "$evil" 'any(.events.events[]; .text == "at " + $e)' "$TMP/j" >/dev/null || fail "the planted mount point is in no event: nothing is proven"
for i in $(seq 200); do echo "$i" >"$(mnt 2)/web-$i"; done
was=$(jq --arg f "$FS" '.counters[] | select(.node == 2) | .mounts[] | select(.name == $f) | .requests' "$TMP/j")
wait_until 10 "200 files made on node 2 to be counted behind $was requests" look 1 "$TMP/j2" ".counters[] | select(.node == 2) | .mounts[] | select(.name == \"$FS\") | .requests >= $was + 200"
touch "$(mnt 2)/lock"
background flock "$(mnt 2)/lock" sleep 30
wait_until 6 "the lock" look 2 "$TMP/j3" 'any(.locks[]; .kind == "flock")'

# --- what it does not do ---
for m in POST PUT DELETE; do assert_eq "$m /web.json" 405 "$(get 1 /web.json "$TMP/x" "" $m)"; done
for h in evil.example "evil.example:7421" "localhost.evil.example"; do
	assert_eq "as $h" 403 "$(get 1 /web.json "$TMP/x" "$h")"
	assert_eq "page as $h" 403 "$(get 1 / "$TMP/x" "$h")"
done
assert_eq "as localhost" 200 "$(get 1 / "$TMP/x" localhost:7421)"
for p in /index.html /web /../etc/passwd /web.json/ "//"; do assert_eq "GET $p" 404 "$(get 1 $p "$TMP/x")"; done
assert_ok "metrics beyond the loopback" on 1 tessera config set metrics 10.77.0.1:7421
assert_eq "page beyond the loopback" 404 "$(ADDR=10.77.0.1:7421 get 2 / "$TMP/x")"
assert_eq "web.json beyond the loopback" 404 "$(ADDR=10.77.0.1:7421 get 2 /web.json "$TMP/x")"
assert_eq "metrics beyond the loopback" 200 "$(ADDR=10.77.0.1:7421 get 2 /metrics "$TMP/x")"
on 1 tessera web | grep -q "beyond the loopback" || fail "tessera web does not say why there is none"
assert_ok "web = yes" on 1 tessera config set web yes
assert_eq "page, web = yes" 200 "$(ADDR=10.77.0.1:7421 get 2 / "$TMP/x")"
assert_ok "metrics as before" on 1 tessera config set metrics 127.0.0.1:7421
assert_ok "web = no" on 1 tessera config set web no
assert_eq "page, web = no" 404 "$(get 1 / "$TMP/x")"
assert_refused "web = maybe" "local, yes or no" 1 tessera config set web maybe
assert_ok "web = local" on 1 tessera config set web local

# --- while a node is dead ---
sb kill 3
t=${EPOCHREALTIME/./}
wait_until 15 "node 3 to be shown away" look 1 "$TMP/j4" '(.quorum.missing == [3]) and any(.health[].conditions[]; .condition == "node_down" or .condition == "recovery_running")'
note "node 3 dead, shown $(((${EPOCHREALTIME/./} - t) / 1000)) ms later"
worst=0
for i in $(seq 20); do
	t=${EPOCHREALTIME/./}
	assert_eq "GET /web.json" 200 "$(get 1 /web.json "$TMP/x")"
	t=$((${EPOCHREALTIME/./} - t))
	[ $t -le $worst ] || worst=$t
done
note "the slowest of 20 answers meanwhile: $((worst / 1000)) ms"

# --- in a browser ---
if command -v chromium >/dev/null; then
	in_node 1 timeout 60 chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir="$TMP/chrome" --window-size=1400,1500 --virtual-time-budget=6000 \
		--dump-dom http://127.0.0.1:7421/ >"$TMP/dom" 2>"$TMP/chrome.log" || fail "chromium: $(tail -n 3 "$TMP/chrome.log")"
	grep -q "<title>$TESSERA_SANDBOX_NAME - Tessera</title>" "$TMP/dom" || fail "browser: the script did not run, or markup did: $(grep -o '<title>.*</title>' "$TMP/dom")"
	grep -q '&lt;img src=x onerror=' "$TMP/dom" || fail "browser: the planted mount point is not there as text"
	grep -q '<img' "$TMP/dom" && fail "browser: text became markup"
	for text in "node 1 (this)" "quorate" "node_down" "node 3" "away" ":san/1"; do grep -q "$text" "$TMP/dom" || fail "browser: '$text' is not on the page"; done
	[ "$(grep -o '<rect' "$TMP/dom" | wc -l)" -ge 4 ] || fail "browser: nodes and disks are not drawn"
	note "browser: $(chromium --version 2>/dev/null | head -n 1), $(grep -o '<rect' "$TMP/dom" | wc -l) boxes, $(grep -o '<tr' "$TMP/dom" | wc -l) rows"
	[ -z "${TESSERA_TEST_SHOT:-}" ] || in_node 1 timeout 60 chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir="$TMP/chrome" --window-size=1400,1500 \
		--virtual-time-budget=6000 --screenshot="$TESSERA_TEST_SHOT" http://127.0.0.1:7421/ >/dev/null 2>&1
else
	note "no browser is installed (package chromium): the page's script was read, not run"
fi
assert_ok "umount" on 1 tessera umount "$FS"
assert_ok "mount" on 1 tessera mount "$FS" "$(mnt 1)"
