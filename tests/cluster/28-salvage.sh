#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# `tessera salvage`: a file system that has lost a disk with data, one that has lost a disk with metadata and data, and a log that was not replayed.
# What can be read is right, what cannot is listed, nothing else is, and no byte of any disk changes.
# timeout: 240
. "$(dirname "$0")/lib.sh"

own_sandbox --nodes 3 --disks iscsi --disk-count 5 --disk-size 512M
mapfile -t u < <(urls)
mapfile -t file < <(disk_files)
tess() { on "$1" tessera --json "${@:2}"; }

# a: metadata on one disk, data on that and two more. b: everything on both.
assert_ok "fs create a" on 1 tessera fs create a --metadata-disks 1 --log-size 4M --block-size 64K "${u[@]:0:3}"
assert_ok "fs create b" on 1 tessera fs create b --log-size 4M --block-size 64K "${u[@]:3:2}"
declare -A at=([a]=$TMP/a [b]=$TMP/b)
mkdir "$TMP/a" "$TMP/b"
for f in a b; do
	assert_ok "mount $f" on 1 tessera mount $f "${at[$f]}"
	for d in 1 2 3; do
		mkdir -p "${at[$f]}/d$d/sub"
		for i in $(seq 16); do
			head -c $((i * i * 1500)) /dev/urandom >"${at[$f]}/d$d/sub/f$i"
		done
		ln -s "f1" "${at[$f]}/d$d/sub/link"
	done
	head -c 9000000 /dev/urandom >"${at[$f]}/big"
	sync "${at[$f]}/big" "${at[$f]}"/d?/sub/f*
done
manifest() { (cd "$1" && find . -type f ! -path './lost+found/*' -print0 | sort -z | xargs -0 sha256sum 2>/dev/null); }
# Which files of a lie on its disk number 2, as the mounted file system says.
for f in $(cd "$TMP/a" && find . -type f); do
	tess 1 disk places a "$(stat -c %i "$TMP/a/$f")" | jq -e '.bytes_on_disk["2"] // empty' >/dev/null && echo "${f#.}"
done | sort >"$TMP/on2"
manifest "$TMP/a" >"$TMP/whole.a"
manifest "$TMP/b" >"$TMP/whole.b"
[ "$(wc -l <"$TMP/on2")" -gt 10 ] || fail "a: expected files on disk 2, got $(wc -l <"$TMP/on2")"
assert_refused "salvage of what is mounted" "mounted" 1 tessera salvage a "$TMP/b"
assert_ok "umount b" on 1 tessera umount "$TMP/b"
echo forced >"$TMP/a/last" && sync "$TMP/a/last" # only in the log of a node that dies
assert_ok "power off" sb power-off
umount -l "$TMP/a" 2>/dev/null

# Two disks are gone for good: number 2 of a, number 1 of b.
for k in 2 4; do
	truncate -s 0 "${file[k]}" && truncate -s 512M "${file[k]}"
done
for k in 0 1 3; do sha256sum "${file[k]}"; done >"$TMP/disks"
assert_ok "up" sb up
assert_refused "mount of a" "disk number 2" 1 tessera mount a "$TMP/a"
assert_refused "salvage of what there is not" "no disk of it" 1 tessera salvage nothing "$TMP/a"
assert_refused "salvage --lost of no number" "not a list" 1 tessera salvage a --lost 0,x "$TMP/a"
assert_refused "salvage with all lost that has metadata" "cannot be put together|good superblock" 1 tessera salvage a --lost 0,1 "$TMP/a"
mountpoint -q "$TMP/a" && fail "a refused salvage left a mount"

salvage() { # NAME OPTION...
	local f=$1 t=${EPOCHREALTIME/./}
	shift
	tess 1 salvage "$f" "${at[$f]}" "$@" >"$TMP/said.$f" || fail "salvage of $f: status $?: $(cat "$TMP/said.$f")"
	jq -r '.damaged_list[].path' "$TMP/said.$f" | sort >"$TMP/listed.$f"
	note "$f: $(((${EPOCHREALTIME/./} - t) / 1000)) ms, $(jq -c '{lost_disks, findings, files, dirs, damaged, lost_bytes}' "$TMP/said.$f")"
}
salvage a
assert_eq "a: disks lost" "[2]" "$(jq -c .lost_disks "$TMP/said.a")"
assert_eq "a: files listed" "$(cat "$TMP/on2")" "$(cat "$TMP/listed.a")"
assert_eq "a: the file that was only in a log" forced "$(cat "$TMP/a/last")"
touch "$TMP/a/no" 2>/dev/null && fail "a: a file was made in a salvage mount"
manifest "$TMP/a" >"$TMP/now.a"
sort "$TMP/whole.a" >"$TMP/w" && grep -v ' \./last$' "$TMP/now.a" | sort | comm -13 "$TMP/w" - >"$TMP/wrong"
[ ! -s "$TMP/wrong" ] || fail "a: read without an error, and wrong: $(head -n 3 "$TMP/wrong")"
assert_eq "a: files read whole" "$(($(wc -l <"$TMP/whole.a") - $(wc -l <"$TMP/on2") + 1))" "$(wc -l <"$TMP/now.a")"
assert_refused "mount while it is salvaged" "disk number 2|in use|mounted" 1 tessera mount a "$TMP/b"
assert_refused "fsck while it is salvaged" "disk number 2|in use|mounted" 1 tessera fsck --yes a
assert_ok "umount a" on 1 tessera umount "$TMP/a"

# b: names, inodes and maps are missing, too. What is not listed, nor below a directory that is, is right.
salvage b --verify
manifest "$TMP/b" | sort >"$TMP/now.b"
python3 - "$TMP/whole.b" "$TMP/now.b" "$TMP/listed.b" <<'PY' || fail "b: see above"
import sys
read = lambda p: {l[66:].rstrip("\n"): l[:64] for l in open(p)}
was, now, listed = read(sys.argv[1]), read(sys.argv[2]), {l.rstrip("\n") for l in open(sys.argv[3])}
def told(path):
    at = path[1:]
    while at:
        if at in listed:
            return True
        at = at.rpartition("/")[0]
    return "/" in listed
wrong = [p for p in was if now.get(p) != was[p] and not told(p)]
whole = [p for p in was if now.get(p) == was[p]]
print("   b: %d of %d files are whole where they were, %d are listed or below a listed directory" % (len(whole), len(was), len(was) - len(whole)))
if wrong:
    sys.exit("not what they were, and not listed: %s" % wrong[:3])
if not whole:
    sys.exit("nothing was found whole")
PY
assert_ok "umount b" on 1 tessera umount "$TMP/b"
for k in 0 1 3; do sha256sum "${file[k]}"; done | cmp - "$TMP/disks" || fail "a disk was written to"
note "the disks are what they were, byte for byte"
