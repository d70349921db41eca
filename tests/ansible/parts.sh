# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# The parts of run. A part that fails says so in a line "failed: ..." and ends; "note: ..." is printed with the result.

FS=home DIR=/srv/home

fail() {
	echo "failed: $*"
	exit 1
}
note() { echo "note: $*"; }

# The inventory of now: NODE[=STATE]..., more variables of all in INVENTORY_MORE (lines of YAML).
inventory() {
	local n k
	{
		printf 'all:\n  children:\n    tessera:\n      hosts:\n'
		for n in "$@"; do
			k=${n%%=*}
			printf '        n%s:\n          ansible_host: %s\n          tessera_node_id: %s\n' "$k" "$BED_NET.$k" "$k"
			[ "$n" = "$k" ] || printf '          tessera_state: %s\n' "${n#*=}"
		done
		cat <<-END
			      vars:
			        ansible_user: root
			        ansible_ssh_private_key_file: $BED_DIR/id
			        tessera_cluster_name: bed
			        tessera_apt_source: "deb [trusted=yes] $BED_PACKAGES ./"
			        tessera_corosync_move_to_root_cgroup: "no"
			        tessera_disks: [$(bed_url 1), $(bed_url 2)]
		END
		[ -n "${INVENTORY_FS:-}" ] && printf '%s\n' "$INVENTORY_FS" ||
			printf '        tessera_filesystems:\n          - {name: %s, path: %s, create: true}\n' "$FS" "$DIR"
		[ -z "${INVENTORY_MORE:-}" ] || printf '%s\n' "$INVENTORY_MORE"
	} >"$BED_DIR/hosts.yml"
}

# Runs a playbook of the collection; its output in $PLAY. Collections are looked for in a tree of their own.
PLAY=$LOGS/play.log
play() { # PLAYBOOK ARGUMENT...
	local tree=$BED_DIR/collections/ansible_collections/tessera rc t=$SECONDS
	mkdir -p "$tree" && ln -sfn "$TOP/ansible" "$tree/cluster"
	rc=0
	HOME=$BED_DIR ANSIBLE_COLLECTIONS_PATH=$BED_DIR/collections ANSIBLE_HOST_KEY_CHECKING=False ANSIBLE_PIPELINING=True ANSIBLE_FORKS=8 \
		ANSIBLE_LOCAL_TEMP=$BED_DIR/local ANSIBLE_SSH_CONTROL_PATH_DIR=$BED_DIR/cp ANSIBLE_NOCOLOR=1 ANSIBLE_LOCALHOST_WARNING=False LC_ALL=C.UTF-8 \
		ANSIBLE_SSH_ARGS="-o ControlMaster=auto -o ControlPersist=60s -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR" \
		in_san timeout --foreground 1200 ansible-playbook -i "$BED_DIR/hosts.yml" "tessera.cluster.$1" "${@:2}" >"$PLAY" 2>&1 || rc=$?
	cat "$PLAY"
	play_seconds=$((SECONDS - t))
	return $rc
}
plays() { # PLAYBOOK ARGUMENT...
	play "$@" || fail "$1: $(grep -E '^(fatal|failed): |UNREACHABLE|^ERROR' "$PLAY" | head -n 1)"
}
recap() { sed -n "s/^n$1 .* $2=\([0-9]*\) .*/\1/p" "$PLAY"; } # N changed|failed
unchanged() { # N...: the last run changed nothing there
	local n
	for n in "$@"; do
		[ "$(recap "$n" changed)" = 0 ] || fail "node $n: expected 0 changed, got $(recap "$n" changed): $(grep -B30 "^changed: \[n$n\]" "$PLAY" | grep '^TASK' | tail -n 1)"
	done
}

# In the table, and it answers.
# shellcheck disable=SC2016 # expanded by the container's shell
mounted() { on "$1" sh -c 'grep -q " '$DIR' .* - fuse.tessera " /proc/self/mountinfo && timeout 2 stat -f '$DIR; }
# shellcheck disable=SC2317
not_mounted() { ! on "$1" grep -q " - fuse.tessera " /proc/self/mountinfo; }
daemon() { on "$1" systemctl show --property MainPID --value tessera; }
members() { on "$1" tessera --json status | jq -c '[.view.members[].node] | sort'; }
files() { on "$1" sh -c 'sha256sum /etc/corosync/corosync.conf /etc/corosync/authkey /etc/tessera/* /etc/fstab 2>/dev/null'; }
seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.1f", b - a}'; }
mounts_again() { # N FROM WHAT
	bed_wait 120 mounted "$1" || fail "node $1: $3: not mounted again after 120 s: $(on "$1" systemctl show --property StatusText --value tessera)"
	note "$3: mounted again after $(seconds_since "$2") s"
}

load_start() { # N...
	local n
	for n in "$@"; do
		rm -f "$BED_DIR/load$n"
		on "$n" rm -f /run/load-stop
		on "$n" python3 - "$DIR/load$n" /run/load-stop <"$HERE/load.py" >"$BED_DIR/load$n" 2>&1 &
	done
}
load_stop() { # N...: no call of any failed
	local n
	for n in "$@"; do on "$n" touch /run/load-stop; done
	for n in "$@"; do
		bed_wait 60 grep -q operations "$BED_DIR/load$n" || fail "node $n: the load does not end: $(cat "$BED_DIR/load$n")"
		[ "$(jq '.errors | length' "$BED_DIR/load$n")" = 0 ] && [ "$(jq .operations "$BED_DIR/load$n")" -gt 0 ] || fail "node $n: load: $(cat "$BED_DIR/load$n")"
		note "node $n meanwhile: $(jq -r '"\(.operations) operations, \(.errors | length) errors, longest call \(.longest_ms) ms"' "$BED_DIR/load$n")"
	done
}

package() { (cd "$BUILD" && cpack -G DEB >"$LOGS/cpack.log" 2>&1) || fail "cpack: $(tail -n 1 "$LOGS/cpack.log")"; }
deb() { echo "$BUILD/tessera_$(sed -n 's/^set(CPACK_PACKAGE_VERSION "\(.*\)")/\1/p' "$BUILD/CPackConfig.cmake")_$(dpkg --print-architecture).deb"; }
# The same with a higher version: what an upgrade is for dpkg.
deb_next() { # SUFFIX
	local d=$BED_DIR/next
	rm -rf "$d" && dpkg-deb -R "$(deb)" "$d" && sed -i "s/^Version: .*/&+$1/" "$d/DEBIAN/control" && dpkg-deb -b "$d" "$BED_DIR/tessera-$1.deb"
}

# shellcheck disable=SC2317
part_up() {
	local t=$SECONDS
	package
	"$HERE/root" "$CACHE" "$(deb)" || fail "no root file system"
	note "packages built, root file system there: $((SECONDS - t)) s"
	t=$EPOCHREALTIME
	bed_up 5 3 4G || fail "the containers do not come up"
	note "5 empty containers booted: $(seconds_since "$t") s"
	bed_packages "$CACHE"/debs/*.deb "$(deb)" || fail "no repository"
}

part_lint() {
	local tree=$BED_DIR/collections/ansible_collections/tessera suppress=()
	mkdir -p "$tree" && ln -sfn "$TOP/ansible" "$tree/cluster"
	(cd "$tree/cluster" && HOME=$BED_DIR ANSIBLE_COLLECTIONS_PATH=$BED_DIR/collections LC_ALL=C.UTF-8 ansible-lint --offline --nocolor) || fail "ansible-lint"
	[ -d "$BUILD/man" ] || suppress=(--suppress-tags no-manual-page)
	lintian --allow-root --fail-on error,warning "${suppress[@]}" "$BUILD"/tessera*.deb || fail "lintian"
	[ ${#suppress[@]} = 0 ] || note "manual pages are not built here: lintian was not asked about them"
}

# Check mode on empty nodes tells, and does nothing.
part_plan() {
	local n
	inventory 1 2 3
	plays site --check --diff
	for n in 1 2 3; do
		[ "$(recap $n changed)" -ge 5 ] || fail "node $n: expected what would be done, got $(recap $n changed)"
		on $n sh -c 'test ! -e /etc/tessera && test ! -e /etc/corosync && test ! -e /etc/apt/sources.list.d/tessera.list' || fail "node $n: check mode left something"
	done
	grep -q '^+cluster_name = bed' "$PLAY" || fail "no diff of tesserad.conf"
	! grep -qE '[0-9a-f]{64}' "$PLAY" || fail "a key in the output"
	note "check mode on empty nodes: $play_seconds s"
}

part_first() {
	local n
	inventory 1 2 3
	plays site
	for n in 1 2 3; do mounted $n || fail "node $n: not mounted"; done
	on 1 sh -c "echo works >$DIR/first && sync $DIR/first" && [ "$(on 3 cat $DIR/first)" = works ] || fail "node 3 does not see what node 1 has written"
	! grep -qF "$(on 1 cat /etc/tessera/cluster.key)" "$PLAY" || fail "the cluster key is in the output"
	note "from empty containers to mounted on three: $play_seconds s ($(awk -v s=$play_seconds 'BEGIN {printf "%.1f", s / 60}') min), load $(cut -d' ' -f1 /proc/loadavg)"
}

part_second() {
	inventory 1 2 3
	plays site
	unchanged 1 2 3
	note "second run: 0 changed, $play_seconds s"
}

# Check mode with something to do: told with diffs, not done.
part_preview() {
	local before n
	before=$(for n in 1 2 3; do files $n; daemon $n; done)
	INVENTORY_FS="        tessera_filesystems: [{name: $FS, path: $DIR, options: noatime, create: true}]" INVENTORY_MORE='        tessera_config: {page_pool: 256M}' inventory 1 2 3
	plays site --check --diff
	for n in 1 2 3; do [ "$(recap $n changed)" -ge 2 ] || fail "node $n: expected changes to be told, got $(recap $n changed)"; done
	grep -q '^+page_pool = 256M' "$PLAY" || fail "no diff of tesserad.conf"
	grep -q "^+tessera:$FS $DIR tessera noatime,_netdev,x-systemd.after" "$PLAY" || fail "no diff of fstab"
	[ "$before" = "$(for n in 1 2 3; do files $n; daemon $n; done)" ] || fail "check mode has changed something"
	inventory 1 2 3
	note "check mode: $play_seconds s"
}

# What somebody did by hand is put right, there and nowhere else (and the count of `second` can be another than 0).
part_drift() {
	inventory 1 2 3
	on 2 sh -c "umount $DIR && sed -i /tessera/d /etc/fstab && sed -i 's/token: .*/token: 999/' /etc/corosync/corosync.conf" || fail "cannot spoil node 2"
	plays site
	unchanged 1 3
	[ "$(recap 2 changed)" -ge 2 ] || fail "node 2: expected changes, got $(recap 2 changed)"
	mounted 2 && on 2 grep -q 'token: 450' /etc/corosync/corosync.conf || fail "node 2: not put right"
}

# The units: what dies comes back and is mounted again; what cannot work does not loop.
part_service() {
	local t pid
	on 2 sh -c "echo stable >$DIR/service && sync $DIR/service"
	[ "$(on 1 cat $DIR/service)" = stable ] || fail "node 1 does not see the file"
	t=$EPOCHREALTIME
	pid=$(daemon 1)
	on 1 kill -KILL "$pid"
	bed_wait 60 other_daemon 1 "$pid" || fail "node 1: no new daemon after a crash"
	mounts_again 1 "$t" "daemon killed"
	[ "$(on 1 cat $DIR/service)" = stable ] || fail "node 1 does not see the file after a crash"

	t=$EPOCHREALTIME
	pid=$(daemon 1)
	on 1 kill -STOP "$pid"
	bed_wait 90 other_daemon 1 "$pid" || fail "node 1: the watchdog did not end a daemon that stands"
	on 1 journalctl -b -u tessera --no-pager | grep -q 'Watchdog timeout' || fail "node 1: it was not the watchdog"
	mounts_again 1 "$t" "daemon stands still"

	t=$EPOCHREALTIME
	pid=$(daemon 1)
	on 1 pkill -KILL -x corosync
	bed_wait 60 other_daemon 1 "$pid" || fail "node 1: no new daemon behind corosync's death"
	mounts_again 1 "$t" "corosync killed"

	# A wrong configuration: one try, status 78, and then nothing.
	on 1 sh -c 'echo nonsense >>/etc/tessera/tesserad.conf; systemctl restart tessera' && fail "node 1: started with nonsense in its configuration"
	bed_wait 10 failed_for_good 1 || fail "node 1: $(on 1 systemctl show -p ActiveState -p NRestarts -p ExecMainStatus tessera)"
	t=$EPOCHREALTIME
	on 1 sh -c 'sed -i /nonsense/d /etc/tessera/tesserad.conf; systemctl start tessera'
	mounts_again 1 "$t" "configuration put right"

	# fstab alone, as after a reload of systemd while it is mounted: a network file system still.
	on 1 systemctl daemon-reload
	on 1 systemctl show -p After srv-home.mount | grep -q remote-fs-pre.target || fail "systemd takes the mount for a local one"

	# Orderly: unmounted before the daemon stops, left clean, and there again after the boot.
	t=$EPOCHREALTIME
	bed_halt 1 || fail "node 1: does not shut down"
	note "shutdown: $(seconds_since "$t") s"
	t=$EPOCHREALTIME
	bed_boot 1
	mounts_again 1 "$t" "boot"
	on 1 journalctl -b -1 --no-pager -o cat | grep -nE "file system $FS: unmounted|node 1: stopping|Stopped corosync" >"$LOGS/shutdown"
	awk -F: '/unmounted/ {u = $1} /stopping/ {s = $1} /Stopped corosync/ {c = $1} END {exit !(u && s && c && u < s && s < c)}' "$LOGS/shutdown" ||
		fail "shutdown in the wrong order: $(cat "$LOGS/shutdown")"

	# All at once, as after a power failure: each waits for the quorum.
	bed_kill 1 && bed_kill 2 && bed_kill 3 || fail "cannot switch off"
	t=$EPOCHREALTIME
	bed_boot 1
	sleep 3 # alone for a while
	not_mounted 1 || fail "node 1 alone has mounted"
	bed_boot 2 && bed_boot 3
	mounts_again 1 "$t" "all booted, node 1 three seconds before"
	bed_wait 60 mounted 2 && bed_wait 60 mounted 3 || fail "nodes 2 and 3: not mounted"
	[ "$(on 3 cat $DIR/service)" = stable ] || fail "the file is gone"
}
other_daemon() { local p && p=$(daemon "$1") && [ "$p" != 0 ] && [ "$p" != "$2" ]; }
failed_for_good() { on "$1" systemctl show -p ActiveState -p NRestarts -p ExecMainStatus tessera | tr '\n' ' ' | grep -q 'NRestarts=0 ExecMainStatus=78 ActiveState=failed'; }

# A LUN with somebody's data on it is not made a file system of, and the play says which.
part_foreign() {
	local before
	mkfs.ext4 -q -F "$BED_DIR/lun3" && before=$(head -c 8M "$BED_DIR/lun3" | sha256sum)
	INVENTORY_FS="        tessera_filesystems: [{name: other, path: /srv/other, create: true, disks: [$(bed_url 3)]}]"
	INVENTORY_MORE="        tessera_restart_mounted: true
        tessera_disks: [$(bed_url 1), $(bed_url 2), $(bed_url 3)]"
	inventory 1 2 3
	unset INVENTORY_FS INVENTORY_MORE
	sed -i "0,/tessera_disks/{/tessera_disks/d}" "$BED_DIR/hosts.yml"
	! play site || fail "a file system was made over ext4"
	grep -q "lun.*3\|/3: carries.*ext4" "$PLAY" && grep -q 'carries .*ext4' "$PLAY" || fail "the message does not say what is on which disk: $(grep fatal "$PLAY")"
	[ "$before" = "$(head -c 8M "$BED_DIR/lun3" | sha256sum)" ] || fail "the LUN was written to"
	inventory 1 2 3
	INVENTORY_MORE='        tessera_restart_mounted: true' inventory 1 2 3
	plays site
	inventory 1 2 3
}

part_fourth() {
	local n before=''
	for n in 1 2 3; do before+="$(daemon $n) "; done
	inventory 1 2 3 4
	load_start 1 2
	plays site
	load_stop 1 2
	mounted 4 || fail "node 4: not mounted"
	[ "$(members 1)" = '[1,2,3,4]' ] || fail "in the view: $(members 1)"
	[ "$before" = "$(for n in 1 2 3; do printf '%s ' "$(daemon $n)"; done)" ] || fail "a daemon was restarted"
	note "a fourth node: $play_seconds s"
	plays site
	unchanged 1 2 3 4
}

part_rest() {
	inventory 1 2=maintenance 3 4
	# In use: refused, and nothing stopped.
	on 2 sh -c "cd $DIR && exec sleep 600" &
	sleep 1
	! play site || fail "a mount in use was taken away"
	grep -q 'busy' "$PLAY" || fail "the message does not say that it is in use"
	mounted 2 || fail "node 2: was unmounted all the same"
	on 2 pkill -x sleep
	load_start 1 3
	plays site
	load_stop 1 3
	not_mounted 2 || fail "node 2: still mounted"
	[ "$(members 1)" = '[1,3,4]' ] || fail "in the view: $(members 1)"
	note "node 2 rests: $play_seconds s"
	plays site
	unchanged 1 2 3 4
	bed_halt 2 && bed_boot 2 && bed_wait 60 on 2 systemctl is-active corosync || fail "node 2: does not boot"
	bed_wait 60 on 2 systemctl is-system-running || fail "node 2: $(on 2 systemctl is-system-running), $(on 2 systemctl --failed --no-legend)"
	not_mounted 2 && [ "$(daemon 2)" = 0 ] || fail "node 2: works though it should rest"
	inventory 1 2 3 4
	plays site
	mounted 2 && [ "$(members 1)" = '[1,2,3,4]' ] || fail "node 2: not back"
	note "and is back: $play_seconds s"
}

# apt and dpkg alone, on node 5, which is of no cluster.
part_package() {
	local left
	on 5 sh -c "echo 'deb [trusted=yes] $BED_PACKAGES ./' >/etc/apt/sources.list.d/t.list && apt-get -qq update && apt-get -qqy --no-install-recommends install tessera" >"$LOGS/apt.log" 2>&1 || fail "install: $(tail -n 2 "$LOGS/apt.log")"
	on 5 sh -c 'systemctl is-enabled tessera && ! systemctl is-active tessera && tessera version && test -d /etc/tessera' || fail "not as it should be behind the installation"
	on 5 sh -c 'ldd /usr/sbin/tesserad /usr/bin/tessera /usr/sbin/mount.tessera' | grep 'not found' && fail "a library is missing"
	on 5 systemctl start tessera || fail "without a configuration: expected to be skipped, got an error"
	on 5 sh -c 'echo x >/etc/tessera/tesserad.conf; mkdir -p /var/lib/tessera; echo 1 >/var/lib/tessera/incarnation'
	deb_next a && cp "$BED_DIR/tessera-a.deb" "$BED_DIR/n5/m/root/" && on 5 dpkg -i /root/tessera-a.deb || fail "upgrade"
	on 5 grep -q x /etc/tessera/tesserad.conf || fail "the upgrade touched the configuration"
	on 5 dpkg -r tessera || fail "remove"
	on 5 test -e /etc/tessera/tesserad.conf || fail "removing took the configuration"
	on 5 sh -c 'test ! -e /usr/sbin/tesserad && test -e /var/lib/tessera/incarnation' || fail "removing left the program or took the state"
	on 5 dpkg -P tessera || fail "purge"
	left=$(on 5 find / -xdev -not -path '/proc/*' -not -path '/var/lib/apt/*' -not -path '/var/cache/*' -not -path '/root/*' -not -path '/var/log/*' -iname '*tessera*')
	[ -z "$left" ] || fail "purging left: $left"
}

part_upgrade() {
	local pid n first='' next
	next=b$(date +%s) # newer than that of an earlier run in the same containers
	deb_next "$next" && bed_packages "$BED_DIR/tessera-$next.deb" || fail "no newer package"
	# The package alone leaves a daemon with mounts as it is.
	pid=$(daemon 3)
	on 3 sh -c 'apt-get -qq update && apt-get -qqy install tessera' || fail "apt on node 3"
	[ "$(daemon 3)" = "$pid" ] && mounted 3 || fail "node 3: the package has restarted the daemon"
	for n in 1 2 3 4; do first+="$(daemon $n) "; done
	load_start 1
	plays upgrade --limit n2,n3,n4
	load_stop 1
	note "nodes 2, 3 and 4 upgraded: $play_seconds s"
	load_start 2 3 4
	plays upgrade --limit n1
	load_stop 2 3 4
	note "node 1 upgraded: $play_seconds s"
	for n in 1 2 3 4; do
		on $n dpkg-query -W -f '${Version}' tessera | grep -q "+$next\$" || fail "node $n: not the new package"
		mounted $n || fail "node $n: not mounted"
		[[ " $first" != *" $(daemon $n) "* ]] || fail "node $n: still the old daemon"
		on $n readlink "/proc/$(daemon $n)/exe" | grep -q deleted && fail "node $n: the old program runs"
	done
	plays upgrade
	unchanged 1 2 3 4
}

part_leave() {
	inventory 1 2 3 4=absent
	load_start 1
	plays site
	load_stop 1
	[ "$(members 1)" = '[1,2,3]' ] || fail "in the view: $(members 1)"
	on 1 grep -q 'nodeid: 4' /etc/corosync/corosync.conf && fail "node 4 is in corosync.conf"
	on 1 corosync-quorumtool -s | grep -qE 'Expected votes: +3' || fail "$(on 1 corosync-quorumtool -s)"
	on 4 sh -c '! systemctl is-active corosync tessera && ! grep tessera /etc/fstab && test ! -e /etc/tessera/cluster.key' || fail "node 4: something is left"
	note "node 4 is gone: $play_seconds s"
	plays site
	unchanged 1 2 3 4
}

part_end() {
	local n
	for n in 1 2 3; do on $n umount $DIR || fail "node $n: umount"; done
	on 1 tessera fsck --no-repair $FS || fail "fsck finds something"
}
