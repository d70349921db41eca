#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# 1,000 rounds each of create, append, truncate, chmod, rename and unlink on changing nodes; the others
# look at once by stat, readdir, open and read, with warm caches. Not one stale answer.
# timeout: 300
# quick
. "$(dirname "$0")/lib.sh"

rounds=1000
[ "$MODE" = quick ] && rounds=100
[ "$MODE" = long ] && rounds=10000
d=coherence.$$
mkdir "$(mnt 1)/$d" || fail "node 1: cannot make $d"
python3 "$HERE/coherence.py" $rounds "$(mnt 1)/$d" "$(mnt 2)/$d" "$(mnt 3)/$d" >"$TMP/out" 2>&1
rc=$?
sed 's/^/   /' "$TMP/out"
[ $rc = 0 ] || fail "coherence: expected 0 stale answers, got: $(grep -m 1 STALE "$TMP/out" || tail -n 1 "$TMP/out")"

# The proof is worth something only if the caches are used: a second look must not ask the daemon.
requests() { on 1 tessera --json status 2>/dev/null | jq -r '.fuse.requests // empty'; }
before=$(requests)
if [ -n "$before" ]; then
	for _ in $(seq 200); do stat "$(mnt 1)/$d/resident1" >/dev/null; done
	note "200 repeated stats cost $(($(requests) - before)) requests to the daemon"
else
	note "requests to the daemon: not shown by tessera status"
fi
on 1 tessera --json diag tokens 2>/dev/null | jq -c '.cache? // .stats? // empty' | sed 's/^/   tokens: /'
exit 0
