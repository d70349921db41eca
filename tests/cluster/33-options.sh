#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Mount options: each does what it says, on this node and no other; one that does not exist is refused by name.
# timeout: 240
# quick
. "$(dirname "$0")/lib.sh"

own_sandbox --nodes 2 --disk-count 1 --disk-size 2G
# shellcheck disable=SC2046 # one word per URL
assert_ok "fs create" on 1 tessera fs create opt $(urls)
a=$(mnt 1) b=$(mnt 2)
mkdir -p "$a" "$b"
assert_ok "mount on node 2" on 2 tessera mount opt "$b"
mounted() { assert_ok "mount -o $1" on 1 tessera mount -o "$1" opt "$a"; } # OPTIONS
gone() { assert_ok "umount" on 1 tessera umount opt; }
atime() { stat -c %X.%x "$1"; }
read_it() { cat "$1" >/dev/null || fail "cannot read $1"; }

assert_refused "an unknown option" "mount option 'frobnicate': unknown" 1 tessera mount -o noatime,frobnicate opt "$a"
assert_refused "remount" "mount -o remount,ro" 1 tessera mount -o remount,ro opt "$a"
on 1 tessera help mount | grep -q nodiratime || fail "tessera help mount: does not name the options"

# ro: nothing can be written here, and what node 2 writes is seen.
echo one >"$b/f" && cp /bin/true "$b/prog" && chmod 4755 "$b/prog" && mknod "$b/null" c 1 3 && chmod 666 "$b/null" && sync
mounted ro
grep " $a " /proc/mounts | grep -q "[ ,]ro[ ,]" || fail "ro: not in /proc/mounts: $(grep " $a " /proc/mounts)"
for cmd in "touch $a/new" "sh -c 'echo x >$a/f'" "rm -f $a/f" "mkdir $a/d" "chmod 600 $a/f" "setfattr -n user.a -v x $a/f" "chattr +i $a/f"; do
	eval "$cmd" 2>/dev/null && fail "ro: '$cmd' was done"
done
echo two >"$b/f"
assert_eq "ro: what node 2 wrote" two "$(cat "$a/f")"
gone

# nosuid, nodev, noexec: the kernel's, so they must reach it.
mounted nosuid,nodev,noexec
"$a/prog" 2>/dev/null && fail "noexec: a program ran"
cat "$a/null" 2>/dev/null && fail "nodev: a device was opened"
grep " $a " /proc/mounts | grep -q nosuid || fail "nosuid: not in /proc/mounts: $(grep " $a " /proc/mounts)"
gone
mounted defaults
"$a/prog" || fail "defaults: a program does not run"
cat "$a/null" || fail "defaults: a device cannot be opened"
gone

# noatime; relatime: the first read behind a change counts, the next does not.
mounted noatime
echo x >"$a/n"
was=$(atime "$a/n")
sleep 0.02
read_it "$a/n"
assert_eq "noatime: time of the last read" "$was" "$(atime "$a/n")"
gone
mounted relatime,nodiratime,lazytime
echo x >"$a/r"
sleep 0.02
echo 3 >/proc/sys/vm/drop_caches
read_it "$a/r"
was=$(atime "$a/r")
[ "$(stat -c %X "$a/r")" -ge "$(stat -c %Y "$a/r")" ] || fail "relatime: the first read behind a change does not count"
sleep 0.02
echo 3 >/proc/sys/vm/drop_caches
read_it "$a/r"
assert_eq "relatime: time of the last read, read again" "$was" "$(atime "$a/r")"
gone

# strictatime: every read counts, also of what was read before, and node 2 sees it.
mounted strictatime
echo x >"$a/s"
mkdir "$a/sd"
for round in 1 2 3; do
	was=$(atime "$b/s") dwas=$(atime "$b/sd")
	sleep 0.02
	read_it "$a/s"
	ls "$a/sd" >/dev/null
	now=$(atime "$b/s") dnow=$(atime "$b/sd")
	[ "$now" != "$was" ] || fail "strictatime, round $round: node 2 sees no read of the file: $now"
	[ "$dnow" != "$dwas" ] || fail "strictatime, round $round: node 2 sees no listing of the directory: $dnow"
	assert_eq "strictatime, round $round: both nodes" "$now" "$(atime "$a/s")"
done
gone
mounted strictatime,nodiratime
dwas=$(atime "$b/sd")
sleep 0.02
ls "$a/sd" >/dev/null
assert_eq "nodiratime: time of the last listing" "$dwas" "$(atime "$b/sd")"

# remount,ro by mount(8): this mount refuses writing, the other one does not; and back.
echo before >"$a/w"
assert_ok "remount,ro" on 1 mount -o remount,ro "$a"
touch "$a/new" 2>/dev/null && fail "remounted ro: a file was made"
echo behind >"$b/w" || fail "node 2 cannot write beside a mount that is read-only"
assert_eq "remounted ro: what node 2 wrote" behind "$(cat "$a/w")"
assert_ok "remount,rw" on 1 mount -o remount,rw "$a"
echo again >"$a/w" || fail "remounted rw: cannot write"
assert_eq "remounted rw: what was written" again "$(cat "$b/w")"

# fs set: what every mount begins with, set from node 1 while both have it mounted; options given win; node 2 finds what node 1 set.
assert_ok "fs set" on 1 tessera fs set opt mount_options ro,noatime
echo x >"$a/after" || fail "fs set: changed a mount that was there"
gone
assert_ok "mount without options" on 1 tessera mount opt "$a"
touch "$a/new" 2>/dev/null && fail "fs set ro: a file was made"
assert_eq "options of the mount" ro,noatime "$(on 1 tessera --json fs show opt | jq -r .options)"
gone
mounted rw,nosuid
echo x >"$a/n2" || fail "fs set ro, mount -o rw: cannot write"
grep " $a " /proc/mounts | grep -q nosuid || fail "options given are not there: $(grep " $a " /proc/mounts)"
was=$(atime "$a/n2")
sleep 0.02
read_it "$a/n2"
assert_eq "fs set noatime: time of the last read" "$was" "$(atime "$a/n2")"
gone
assert_eq "node 2 sees the default" ro,noatime "$(on 2 tessera --json fs show opt | jq -r .default_options)"
assert_ok "umount 2" on 2 tessera umount opt
assert_ok "mount 2 without options" on 2 tessera mount opt "$b"
touch "$b/new" 2>/dev/null && fail "fs set ro: node 2 made a file"
sb kill 1 && sb start 1
wait_until 20 "node 1 to be ready" sh -c "[ \"\$($SANDBOX exec 1 -- tessera --json status | jq -r .state)\" = ready ]"
for bad in "mount_options frobnicate|unknown" "mount_options remount|remount" "log_slots 16|cannot be changed.*--log-slots" "name other|cannot be changed" "block_size 1M|cannot be changed" \
	"colour red|no such setting" "mount_options $(printf 'noatime,%.0s' $(seq 20))ro|longer than"; do
	# shellcheck disable=SC2086 # words
	assert_refused "fs set ${bad%%|*}" "${bad#*|}" 1 tessera fs set opt ${bad%%|*}
done
assert_refused "fs set of another" "no such file system" 1 tessera fs set nosuch mount_options ro
assert_eq "after refusals" ro,noatime "$(on 1 tessera --json fs show opt | jq -r .default_options)"
assert_ok "fs set none" on 1 tessera fs set opt mount_options none
assert_ok "mount" on 1 tessera mount opt "$a"
echo x >"$a/new" || fail "fs set none: cannot write"
assert_ok "umount" sb umount
fsck_clean "after all options" opt
