#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# GET /metrics of every node: strictly read (and by promtool, where it is), counters move with the operations that they count and never
# go back, many and slow clients hold up nothing, the address is changed and switched off while the daemon runs; the dashboard asks for
# families that there are.
# timeout: 120
. "$(dirname "$0")/lib.sh"

CHECK=$TOP/tests/admin/promcheck.py
python3 "$CHECK" --self-test >/dev/null || fail "the reader of the format does not see planted faults"
in_node() { # N COMMAND...
	local n=$1
	shift
	nsenter --net="/run/netns/$TESSERA_SANDBOX_NAME-n$n" "$@"
}
scrape() { # N FILE [ADDRESS]
	in_node "$1" python3 -c '
import http.client, sys
c = http.client.HTTPConnection(sys.argv[2], timeout=10)
c.request("GET", "/metrics")
r = c.getresponse()
assert r.status == 200 and r.getheader("Content-Type").startswith("text/plain; version=0.0.4"), (r.status, r.getheader("Content-Type"))
open(sys.argv[1], "wb").write(r.read())' "$2" "${3:-127.0.0.1:7421}"
}
# What another thread or a whole cluster would show: one node, every family.
for n in 1 2 3; do
	assert_ok "GET /metrics of node $n" scrape $n "$TMP/m$n"
	out=$(python3 "$CHECK" "$TMP/m$n") || fail "metrics of node $n: $out"
	note "node $n: $out, $(stat -c %s "$TMP/m$n") bytes"
	if command -v promtool >/dev/null; then
		promtool check metrics <"$TMP/m$n" >"$TMP/promtool" 2>&1
		rc=$?
		[ $rc = 0 ] || [ $rc = 3 ] || fail "promtool: status $rc: $(head -n 3 "$TMP/promtool")" # 3: read, and it would name something otherwise
		note "promtool: status $rc $(head -n 1 "$TMP/promtool")"
	fi
done
command -v promtool >/dev/null || note "promtool is not installed: read by our own reader only"

# --- they move ---
for i in $(seq 50); do echo "$i" >"$(mnt 1)/m$i"; done
dd if=/dev/urandom of="$(mnt 1)/data" bs=1M count=8 conv=fsync status=none
for i in $(seq 50); do cat "$(mnt 2)/m$i" >/dev/null; done
mkdir "$(mnt 2)/two" # what node 2 makes it masters itself: node 1 has to ask for it
for i in $(seq 50); do echo "$i" >"$(mnt 2)/two/m$i"; done
for i in $(seq 50); do cat "$(mnt 1)/two/m$i" >/dev/null; done
cat "$(mnt 2)/data" >/dev/null
echo x >"$(mnt 2)/m1" && cat "$(mnt 1)/m1" >/dev/null
for n in 1 2; do
	scrape $n "$TMP/n$n" || fail "second GET of node $n"
	python3 "$CHECK" "$TMP/m$n" "$TMP/n$n" >"$TMP/grew$n" || fail "node $n: $(cat "$TMP/grew$n")"
done
for f in tessera_fuse_requests_total tessera_fuse_op_seconds tessera_disk_writes_total tessera_disk_written_bytes_total tessera_disk_flushes_total \
	tessera_disk_seconds tessera_log_forces_total tessera_log_force_seconds tessera_log_transactions_total tessera_fs_written_bytes_total \
	tessera_dlm_requests_sent_total tessera_dlm_revokes_sent_total tessera_token_wait_seconds tessera_net_frames_sent_total \
	tessera_net_bytes_received_total tessera_tokens_pins_total; do
	grep -qx "$f" "$TMP/grew1" || fail "$f of node 1: expected it to grow with files made, written, forced and revoked; grew: $(paste -sd ' ' "$TMP/grew1")"
done
for f in tessera_fs_read_bytes_total tessera_disk_reads_total tessera_dlm_requests_sent_total tessera_dlm_revokes_received_total; do
	grep -qx "$f" "$TMP/grew2" || fail "$f of node 2: expected it to grow with files read; grew: $(paste -sd ' ' "$TMP/grew2")"
done
creates() { sed -n 's/^tessera_fuse_requests_total{fs="'"$FS"'",op="create"} //p' "$1"; }
bounced() { sed -n 's/^tessera_fuse_bounced_total{fs="'"$FS"'"} //p' "$1"; }
made=$(($(creates "$TMP/n1") - $(creates "$TMP/m1" | grep . || echo 0))) again=$(($(bounced "$TMP/n1") - $(bounced "$TMP/m1"))) # begun anew: counted twice
[ $made -ge 51 ] && [ $made -le $((51 + again)) ] || fail "creates counted on node 1: expected 51 and at most $again that were begun anew, got $made"
note "51 creates of node 1: $made counted, $again requests were begun anew"
note "$(wc -l <"$TMP/grew1") families grew on node 1"

# --- top shows the same numbers, and who does it ---
background sh -c "while :; do echo x >'$(mnt 1)/top'; done"
loop=$!
on 1 tessera --json top --interval 1000 >"$TMP/top"
jq -e --argjson p $loop '.[0].mounts[0] | .ops_s > 1 and (.ops | map(.op) | index("write")) and (.processes | map(.pid) | index($p))' "$TMP/top" >/dev/null ||
	fail "top: expected operations and process $loop, got: $(jq -c '.[0].mounts' "$TMP/top" | cut -c 1-300)"
kill "$loop"
note "top: $(jq -r '.[0].mounts[0] | "\(.ops_s | floor) operations/s, process \(.processes[0].pid) \(.processes[0].ops_s | floor)/s"' "$TMP/top")"

# --- bad, slow and many clients ---
in_node 1 python3 - <<'END' || fail "bad clients: see above"
import http.client, socket, sys
def ask(method, path):
    c = http.client.HTTPConnection("127.0.0.1:7421", timeout=10)
    c.request(method, path)
    return c.getresponse().status
assert ask("GET", "/nosuch") == 404 and ask("GET", "/../etc/passwd") == 404 and ask("POST", "/metrics") == 405 and ask("HEAD", "/metrics") == 200
idle = []
for i in range(14): # they say half a request and stay
    s = socket.create_connection(("127.0.0.1", 7421), timeout=10)
    s.sendall(b"GET /metrics HT")
    idle.append(s)
assert ask("GET", "/metrics") == 200
for junk in (b"\0" * 70000, b"GET " + b"x" * 70000 + b" HTTP/1.1\r\n\r\n", b"GET /metrics HTTP/9.9\r\n\r\n", b"\r\n\r\n\r\n"):
    s = socket.create_connection(("127.0.0.1", 7421), timeout=10)
    try:
        s.sendall(junk)
        s.shutdown(socket.SHUT_WR)
        s.recv(100)
    except OSError:
        pass
    s.close()
END
t=${EPOCHREALTIME/./}
echo quick >"$(mnt 1)/quick" && [ "$(cat "$(mnt 2)/quick")" = quick ] || fail "the mount does not work beside slow clients"
note "a file written and read on another node beside 14 idle clients: $(((${EPOCHREALTIME/./} - t) / 1000)) ms"

# --- where ---
in_node 2 python3 -c 'import socket; socket.create_connection(("10.77.0.1", 7421), timeout=3)' 2>/dev/null && fail "metrics of node 1 are answered beyond the loopback"
assert_ok "metrics on another address" on 1 tessera config set metrics 10.77.0.1:7500
assert_ok "GET from another node" scrape 2 "$TMP/far" 10.77.0.1:7500
grep -q 'tessera_info{.*node="1"} 1' "$TMP/far" || fail "GET from another node: not node 1's"
scrape 1 "$TMP/x" 2>/dev/null && fail "the old address still answers"
assert_ok "metrics off" on 1 tessera config set metrics off
scrape 2 "$TMP/x" 10.77.0.1:7500 2>/dev/null && fail "metrics = off: something answers"
assert_ok "metrics as it was" on 1 tessera config set metrics 127.0.0.1:7421
assert_ok "GET again" scrape 1 "$TMP/again"

# --- the dashboard ---
dash=$TOP/docs/grafana-tessera.json
jq -e . "$dash" >/dev/null || fail "the dashboard is no JSON"
for f in $(jq -r '.. | .expr? // empty' "$dash" | grep -o 'tessera_[a-z_]*' | sort -u); do
	base=${f%_bucket}
	grep -q "^# TYPE \($f\|$base\) " "$TMP/n1" || fail "the dashboard asks for $f, and there is no such family"
done
note "dashboard: $(jq '[.panels[] | select(.targets)] | length' "$dash") panels, $(jq -r '.. | .expr? // empty' "$dash" | grep -o 'tessera_[a-z_]*' | sort -u | wc -l) families"
