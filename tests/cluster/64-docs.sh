#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Every command of the guides (docs/admin-guide.md, troubleshooting.md, from-gpfs.md) is run, in their order, on node 1 of a cluster that has no
# file system yet. Only the example's URL and directory are replaced by ours.
# timeout: 240
. "$(dirname "$0")/lib.sh"

own_sandbox --nodes 3 --disk-count 1 --disk-size 512M
url=$(urls)
python3 "$TOP/tests/admin/docs_commands.py" --blocks "$TOP" >"$TMP/commands"
[ "$(wc -l <"$TMP/commands")" -gt 50 ] || fail "the guides: expected more than 50 commands to run, got $(wc -l <"$TMP/commands")"
mkdir "$TMP/srv" "$TMP/srv/data" "$TMP/here"
cd "$TMP/here" || exit 1

count=0
while IFS=$'\t' read -r where cmd; do
	cmd=${cmd//iscsi:\/\/10.0.0.1:3260\/iqn.2026-11.com.example:san\/1/$url}
	# The three nodes of a sandbox share this machine's directories: each gets its own.
	if [[ $cmd =~ ^"tessera --node "(2,3|3|all)" mount data /srv/data"$ ]]; then
		nodes=${BASH_REMATCH[1]/all/1,2,3}
		for n in ${nodes//,/ }; do
			mkdir -p "$TMP/srv/data$n"
			timeout 60 "$SANDBOX" exec 1 -- tessera --node "$n" mount data "$TMP/srv/data$n" >"$TMP/out" 2>&1 || fail "$where: $cmd (node $n): $(tail -n 3 "$TMP/out")"
		done
	else
		cmd=${cmd//\/srv\/data/$TMP\/srv\/data1}
		mkdir -p "$TMP/srv/data1"
		timeout 60 "$SANDBOX" exec 1 -- bash -c "$cmd" >"$TMP/out" 2>&1 || fail "$where: $cmd: status $?: $(tail -n 3 "$TMP/out")"
		[ -s "$TMP/out" ] || [[ $cmd =~ (mount|umount|rm) ]] || [[ $cmd == *"diag locks"* ]] || fail "$where: $cmd: said nothing"
		grep -q "unknown\|usage: tessera" "$TMP/out" && [[ $cmd != *help* ]] && fail "$where: $cmd: $(head -n 1 "$TMP/out")"
	fi
	count=$((count + 1))
done <"$TMP/commands"
cd /
note "$count commands of the guides were run"
timeout 60 "$SANDBOX" exec 1 -- tessera --node all umount data >/dev/null 2>&1 || fail "umount at the end"
# One that is wrong must be seen.
timeout 20 "$SANDBOX" exec 1 -- bash -c "tessera fs df nosuch" >/dev/null 2>&1 && fail "planted: a wrong command passes"
exit 0
