#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Bad input and wrong situations: one clear line, a status that is not zero, and nothing changed on disk.
# timeout: 400
# quick
. "$(dirname "$0")/lib.sh"

own_sandbox --nodes 3 --disk-count 3 --disk-size 1G
mapfile -t url < <(urls)
mapfile -t file < <(disk_files)

# The first and the last 4 MiB of every disk: labels, tables and superblocks live there.
fingerprint() {
	local f
	for f in "${file[@]}"; do
		{ head -c 4M "$f" && tail -c 4M "$f"; } | sha256sum
	done
}
unchanged() { # OBJECT COMMAND...
	local before
	before=$(fingerprint)
	"${@:2}"
	assert_eq "$1: the disks" "$before" "$(fingerprint)"
}
refused() { # OBJECT PATTERN N COMMAND...
	unchanged "$1" assert_refused "$@"
}

# No label.
refused "mount of what does not exist" "nosuch" 1 tessera mount nosuch "$TMP"
refused "fsck of a disk without label" "label|no tessera|not a tessera|no file system" 1 tessera fsck -n "${url[0]}"

# Somebody else's data.
mkfs.ext4 -q -F "${file[0]}" || fail "mkfs.ext4 failed"
refused "fs create over ext4" "ext4" 1 tessera fs create x "${url[0]}"
refused "fs create over ext4, one of two disks" "ext4" 1 tessera fs create x "${url[1]}" "${url[0]}"
dd if=/dev/zero of="${file[0]}" bs=1M count=8 conv=notrunc status=none
printf 'label: gpt\nsize=100M\n' | sfdisk -q "${file[0]}" || fail "sfdisk failed"
refused "fs create over a partition table" "partition|gpt" 1 tessera fs create x "${url[0]}"
assert_ok "fs create --force over a partition table" on 1 tessera fs create a --force "${url[0]}"
assert_ok "fs list" on 2 tessera fs list

# Names, verbs, options, sizes.
refused "name already taken" "exist|taken|in use" 2 tessera fs create a "${url[1]}"
refused "disk already used" "label|in use|belongs|tessera" 2 tessera fs create b "${url[0]}"
refused "no disk given" "disk|url|usage" 1 tessera fs create b
refused "unknown verb" "frobnicate" 1 tessera frobnicate
refused "unknown option" "no-such-option" 1 tessera fs create b --no-such-option "${url[1]}"
for size in 3M -1 0 1Q 1000 999999999999999999999G abc 32M 4K; do
	refused "block size $size" "block.size" 1 tessera fs create b --block-size "$size" "${url[1]}"
done
refused "nonsense log slots" "log.slots" 1 tessera fs create b --log-slots 0 "${url[1]}"
refused "name with a slash" "name" 1 tessera fs create ../b "${url[1]}"
refused "name of 300 letters" "name" 1 tessera fs create "$(printf 'x%.0s' $(seq 300))" "${url[1]}"
refused "nonsense URL" "nonsense|url" 1 tessera fs create b nonsense
refused "LUN that is not there" "/77" 1 tessera fs create b "${url[0]%/*}/77"
refused "same disk twice" "twice|same|already" 1 tessera fs create b "${url[1]}" "${url[1]}"

# Mounting.
refused "mount on what is no directory" "not a directory|no such" 1 tessera mount a /etc/hostname
refused "mount where nothing is" "no such|does not exist" 1 tessera mount a "$TMP/gone"
assert_ok "mount" sb mount a
mkdir "$TMP/second"
assert_refused "second mount on the same node" "mounted" 1 tessera mount a "$TMP/second"
assert_refused "fs create over what is mounted" "label|in use|mounted|exist|taken|belongs" 2 tessera fs create a --force "${url[0]}"
assert_refused "fsck of what is mounted" "mounted|in use" 2 tessera fsck -y a
assert_refused "umount of what is not mounted" "not mounted" 1 tessera umount "$TMP/second"
echo works >"$(mnt 1)/file" || fail "the mount does not work after the refusals"
assert_eq "node 3 after the refusals" works "$(cat "$(mnt 3)/file")"
assert_ok "unmount" sb umount

# Damage: the two labels are subs 0 and 1, the two superblocks subs 16 and 17 (docs of the format). One copy
# gone must not matter; all gone, or a newer version, is refused and nothing is "repaired" by the attempt.
cc -std=gnu17 -D_GNU_SOURCE -I"$TOP" -o "$TMP/relabel" "$HERE/relabel.c" || fail "relabel.c does not compile"
cp --sparse=always "${file[0]}" "$TMP/good.img"
noise() { # SUB COUNT [SKIP-BYTES]
	dd if=/dev/urandom of="${file[0]}" bs=1 seek=$(($1 * 4096 + ${3:-0})) count=$(($2 * 4096 - ${3:-0})) conv=notrunc status=none
}
reopen() { # the daemon of node 1 looks at its disks anew
	assert_ok "stop the daemon of node 1" sb stop 1 --tesserad
	assert_ok "start the daemon of node 1" sb start 1 --no-wait
	for _ in $(seq 50); do
		[ "$(node_state 1)" = ready ] && break
		sleep 0.1
	done
}
mended() {
	cp --sparse=always "$TMP/good.img" "${file[0]}"
	reopen
}
damaged() { # OBJECT PATTERN COMMAND...
	"${@:3}"
	reopen
	refused "mount: $1" "$2" 1 tessera mount a "$TMP/second"
	mended
}
harmless() { # OBJECT COMMAND...
	"${@:2}"
	reopen
	assert_ok "mount: $1" sb mount a 1
	assert_eq "$1: the file" works "$(cat "$(mnt 1)/file")"
	assert_ok "umount: $1" sb umount 1
	note "$1: harmless"
	mended
}
damaged "both labels lost" "label|no .*file system|not found|unknown|no such" noise 0 2
damaged "both labels broken behind the magic" "label|checksum|damaged|broken|corrupt" sh -c "
	for at in 100 4196; do printf XXXX | dd of=${file[0]} bs=1 seek=\$at conv=notrunc status=none; done"
damaged "a newer version" "version|newer" "$TMP/relabel" "${file[0]}" 99
damaged "both superblocks lost" "superblock|checksum|damaged|broken|corrupt" noise 16 2
harmless "first label lost" noise 0 1
harmless "second label lost" noise 1 1
harmless "first superblock lost" noise 16 1
harmless "second superblock lost" noise 17 1

# A wrong key keeps a node out and harms nobody.
assert_ok "mount on 1 and 2" sb mount a 1 2
assert_ok "stop 3" sb stop 3
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$(state_dir)/n3/cluster.key"
if TESSERA_SANDBOX_READY_LIMIT=10 sb start 3 >"$TMP/start" 2>&1 && on 3 tessera mount a "$TMP/second" 2>>"$TMP/start"; then
	fail "wrong cluster key: expected node 3 to be kept out, got a mount"
fi
grep -qi key "$(state_dir)/n3/tesserad.log" || fail "wrong cluster key: expected a line about the key in node 3's log, got: $(tail -n 1 "$(state_dir)/n3/tesserad.log")"
echo more >"$(mnt 2)/file" || fail "wrong cluster key on node 3: node 2 cannot write"
assert_eq "node 1 beside a node with a wrong key" more "$(timeout 20 cat "$(mnt 1)/file")"
note "wrong cluster key: $(tail -n 1 "$TMP/start")"
assert_ok "kill 3" sb kill 3
cp "$(state_dir)/cluster.key" "$(state_dir)/n3/cluster.key"

# Without quorum nobody mounts.
assert_ok "unmount" sb umount
assert_ok "kill 2" sb kill 2
sleep 4
refused "mount without quorum" "quorum|quorate" 1 tessera mount a "$TMP/second"
refused "fs create without quorum" "quorum|quorate" 1 tessera fs create b "${url[1]}"
