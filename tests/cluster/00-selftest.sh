#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The checkers of these tests are checked: each must see a fault that is planted for it. No file system
# of ours is needed. What must never happen: a checker that finds nothing because it looks at nothing.
# timeout: 90
# quick
. "$(dirname "$0")/lib.sh"

must_fail() { # OBJECT COMMAND...
	local what=$1
	shift
	("$@") >"$TMP/out" 2>&1 && fail "$what: expected to see the planted fault, got success: $(cat "$TMP/out")"
	return 0
}

# Assertions.
must_fail "assert_eq" assert_eq thing 1 2
must_fail "assert_ok" assert_ok thing false
must_fail "assert_refused, success" assert_refused thing . 1 true
must_fail "assert_refused, two lines" assert_refused thing . 1 sh -c 'echo a >&2; echo b >&2; exit 1'
must_fail "assert_refused, silent" assert_refused thing . 1 false
must_fail "assert_refused, other words" assert_refused thing quorum 1 sh -c 'echo no disk >&2; exit 1'
must_fail "assert_refused, killed" assert_refused thing . 1 sh -c 'echo a >&2; kill -9 $$'
assert_ok "assert_refused, right" assert_refused thing "no disk" 1 sh -c 'echo no disk >&2; exit 1'
must_fail "wait_until" wait_until 1 thing false

# Manifest: every kind of difference.
python3 "$HERE/padtree.py" "$TMP/a" 300 x
cp -a "$TMP/a" "$TMP/b"
manifest "$TMP/a" >"$TMP/a.manifest"
assert_tree "copy of a tree" "$TMP/a.manifest" "$TMP/b"
file=$(find "$TMP/b" -type f -size +1k -links 1 | head -n 1)
link=$(find "$TMP/b" -type l | head -n 1)
plant() { # WHAT COMMAND...: on a fresh copy
	local what=$1
	shift
	rm -rf "$TMP/b" && cp -a "$TMP/a" "$TMP/b" || fail "cannot copy"
	"$@" || fail "cannot plant: $what"
	must_fail "manifest, $what" assert_tree "$what" "$TMP/a.manifest" "$TMP/b"
}
flip() {
	local m
	m=$(stat -c %y "$1")
	chmod u+w "$1" && printf '\377\001' | dd of="$1" bs=1 seek=700 conv=notrunc status=none && touch -d "$m" "$1"
}
plant "two changed bytes" flip "$file"
plant "a missing file" rm -f "$file"
plant "one more file" touch "$TMP/b/more"
plant "a mode" chmod 0123 "$file"
plant "an mtime" touch -d '2001-01-01 00:00:00.5' "$file"
plant "a link target" ln -sfn elsewhere "$link"
plant "an owner" chown 12:34 "$file"

# Coherence: two names of one directory agree, two directories do not.
mkdir "$TMP/one" "$TMP/two"
ln -s one "$TMP/same"
assert_ok "coherence, one directory" python3 "$HERE/coherence.py" 20 "$TMP/one" "$TMP/same"
must_fail "coherence, two directories" python3 "$HERE/coherence.py" 2 "$TMP/one" "$TMP/two"

# Worker: what was acknowledged is there; a hole in it is seen.
mkdir "$TMP/w"
timeout 3 python3 "$HERE/worker.py" write "$TMP/w" "$TMP/log"
[ -s "$TMP/log" ] || fail "worker: expected acknowledged files, got an empty log"
assert_ok "worker" python3 "$HERE/worker.py" verify "$TMP/w" "$TMP/log"
cp -a "$TMP/w" "$TMP/w2" && truncate -s -1 "$TMP/w2/w000002"
must_fail "worker, one byte short" python3 "$HERE/worker.py" verify "$TMP/w2" "$TMP/log"
rm -rf "$TMP/w2" && cp -a "$TMP/w" "$TMP/w2" && truncate -s 45 "$TMP/w2/journal"
must_fail "worker, journal cut" python3 "$HERE/worker.py" verify "$TMP/w2" "$TMP/log"
rm -rf "$TMP/w2" && cp -a "$TMP/w" "$TMP/w2" && rm "$TMP/w2/w000001"
must_fail "worker, file gone" python3 "$HERE/worker.py" verify "$TMP/w2" "$TMP/log"

# Promises: each kind of change, and what may be broken of it.
mkdir "$TMP/p"
for n in 1 2; do
	timeout 3 python3 "$HERE/promises.py" write "$TMP/p" $n "$TMP/p.log$n"
done
stable() { # KIND [NODE]: the last number of it that node 1 was promised
	awk -v k="$1" '$1 == "+" && $2 == k {n = $3} END {print n + 0}' "$TMP/p.log${2:-1}"
}
kept() { # DIRECTORY
	python3 "$HERE/promises.py" verify "$1" "$TMP/p.log1" "$TMP/p.log2"
}
assert_ok "promises" kept "$TMP/p"
for n in 1 2; do # what was begun and not made stable is lost, and its writer goes on from there
	truncate -s "$(($(stable append "$n") * 64))" "$TMP/p/by$n/append"
	timeout 1 python3 "$HERE/promises.py" write "$TMP/p" $n "$TMP/p.log$n"
done
assert_ok "promises, resumed" kept "$TMP/p"
broken() { # WHAT COMMAND...: in a copy
	local what=$1
	shift
	rm -rf "$TMP/p2" && cp -a "$TMP/p" "$TMP/p2" || fail "cannot copy"
	(cd "$TMP/p2/by1" && "$@") || fail "cannot plant: $what"
	must_fail "promises, $what" kept "$TMP/p2"
}
at() { # FILE OFFSET: other bytes there
	printf '\001\377' | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
moved=to/f$(stable move) swap=swap.$(stable swap)
broken "a file gone" rm "$moved"
broken "a rename undone" mv "$moved" .
broken "both names of a rename" cp "$moved" .
broken "a removal undone" touch "f$(stable drop)"
broken "an older file under its name" sh -c "echo old >swap"
broken "the name before a rename" touch "$swap"
broken "records cut off" truncate -s 100 append
broken "a slot cut off" truncate -s $(($(stable slot) * 3000 + 2999)) slots
broken "other bytes in a slot" at slots $(($(stable slot) * 3000 + 9))
broken "a record of all gone" at ../all/append 70
broken "a slot in the file of all" at ../all/slots $((($(stable shared) * 4 + 1) * 3000 + 9))
broken "foreign bytes in what was not stable" at broad 5000
broken "everything of a node gone" sh -c 'rm -r ../by1'

# One file of three nodes: of node 2 only what was stable counts, of the others all that had returned.
mkdir "$TMP/s"
for n in 1 2 3; do
	python3 "$HERE/shared.py" write "$TMP/s" hard $n 3 18 2 "$TMP/s.log$n" || fail "shared: cannot write"
done
shared_kept() { # DIRECTORY
	python3 "$HERE/shared.py" verify "$1" hard 3 18 2 "$TMP/s.log1" "$TMP/s.log2" "$TMP/s.log3"
}
assert_ok "shared" shared_kept "$TMP/s"
assert_eq "shared, checksum" "$(python3 "$HERE/shared.py" sum hard 3 18 2)" "$(sha256sum <"$TMP/s/hard" | cut -d' ' -f1)"
broken_file() { # WHAT COMMAND...: in a copy
	local what=$1
	shift
	rm -rf "$TMP/s2" && cp -a "$TMP/s" "$TMP/s2" || fail "cannot copy"
	(cd "$TMP/s2" && "$@") || fail "cannot plant: $what"
	must_fail "shared, $what" shared_kept "$TMP/s2"
}
again() { # NODE: its first pass over its second
	python3 "$HERE/shared.py" write . hard "$1" 3 18 1 "$TMP/s.again"
}
broken_file "other bytes of node 1" at hard 1000
broken_file "other bytes of node 2" at hard $((47008 + 9))
broken_file "the end cut off" truncate -s -1 hard
broken_file "more at the end" sh -c 'echo more >>hard'
broken_file "old bytes of a living node" again 3
broken_file "old bytes of what was stable" again 2
sed -i '/^=/d' "$TMP/s.log2" # nothing was stable
rm -rf "$TMP/s2" && cp -a "$TMP/s" "$TMP/s2" && (cd "$TMP/s2" && again 2)
shared_kept "$TMP/s2" >"$TMP/out"
grep -q ', 0 bad$' "$TMP/out" || fail "shared: old bytes of what a dead node had not forced are allowed: $(cat "$TMP/out")"
broken_file "foreign bytes in what was not stable" at hard $((47008 + 9))
broken_file "old bytes of a living node beside it" again 1

# fio: a stale block is seen by the verifying pass.
cd "$TMP" || exit 1
fio_job="--name=x --filename=$TMP/fio --bs=4k --size=1m --rw=write:4k --verify=crc32c --verify_fatal=1 --minimal"
# shellcheck disable=SC2086 # words
assert_ok "fio" fio $fio_job --do_verify=0
# shellcheck disable=SC2086 # words
assert_ok "fio, right data" fio $fio_job --verify_only
dd if=/dev/zero of="$TMP/fio" bs=4k seek=10 count=1 conv=notrunc status=none
# shellcheck disable=SC2086 # words
must_fail "fio, a lost block" fio $fio_job --verify_only
note "every checker sees the fault planted for it"
