# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Containers that boot a whole Debian with systemd, on a bridge with a real iSCSI target. Sourced by run.
#
#   network NAME-san: bridge br0, address .254, tgtd, packages by HTTP, where Ansible runs
#   network NAME-nI:  eth0 .I, the container nI (systemd-nspawn on an overlay of the root file system)
#
# What must never happen: a process, namespace or directory that is not of this bed touched; a container that shares a cgroup with
# another (each would see and stop the other's processes); anything left behind by down.

BED_NET=10.79.0 BED_SAN=$NAME-san BED_IQN=iqn.2026-11.io.tessera:bed BED_TGT=9
BED_DIR=/var/tmp/$NAME-bed # not in /tmp, which may be memory: the LUNs are there
BED_PACKAGES=http://$BED_NET.254:8079

bed_cgroot() {
	local d
	for d in /sys/fs/cgroup /sys/fs/cgroup/unified; do
		[ "$(stat -fc %T "$d" 2>/dev/null)" = cgroup2fs ] && [ -w "$d/cgroup.procs" ] && echo "$d" && return
	done
	return 1
}

in_san() { nsenter --net="/run/netns/$BED_SAN" -- "$@"; }
bed_tgt() { TGT_IPC_SOCKET=$BED_DIR/tgt tgtadm -C $BED_TGT --lld iscsi "$@"; }
bed_url() { echo "iscsi://$BED_NET.254:3260/$BED_IQN/$1"; }

bed_network() { # NODES
	local n
	ip netns add "$BED_SAN" && ip -n "$BED_SAN" -batch - <<-END || return 1
		link set lo up
		link add br0 address 02:00:0a:4f:00:fe type bridge
		addr add $BED_NET.254/24 dev br0
		link set br0 up
	END
	for n in $(seq "$1"); do
		ip netns add "$NAME-n$n" && ip -n "$NAME-n$n" -batch - <<-END && ip -n "$BED_SAN" link set "p$n" up master br0 || return 1
			link set lo up
			link add eth0 type veth peer name p$n netns $BED_SAN
			addr add $BED_NET.$n/24 dev eth0
			link set eth0 up
		END
	done
}

# Detached, in the network of the target, its pid in a file.
bed_spawn() { # NAME COMMAND...
	local what=$1
	shift
	setsid nsenter --net="/run/netns/$BED_SAN" -- "$@" </dev/null >"$BED_DIR/$what.log" 2>&1 &
	echo $! >"$BED_DIR/$what.pid"
	disown
}

bed_wait() { # SECONDS COMMAND...
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

bed_target() { # LUNS SIZE
	local k
	TGT_IPC_SOCKET=$BED_DIR/tgt bed_spawn tgtd tgtd -f -C $BED_TGT --iscsi "portal=$BED_NET.254:3260"
	bed_wait 10 bed_tgt --op show --mode target && bed_tgt --op new --mode target --tid 1 -T $BED_IQN || return 1
	for k in $(seq "$1"); do
		truncate -s "$2" "$BED_DIR/lun$k"
		bed_tgt --op new --mode logicalunit --tid 1 --lun "$k" -b "$BED_DIR/lun$k" --bstype rdwr &&
			bed_tgt --op update --mode logicalunit --tid 1 --lun "$k" --params "vendor_id=TESSERA,scsi_sn=bed-$k,scsi_id=bed-lun$k,thin_provisioning=1" || return 1
	done
	bed_tgt --op bind --mode target --tid 1 -I ALL
}

# A directory of packages, as a repository. Call again behind a change.
bed_packages() { # DEB...
	mkdir -p "$BED_DIR/debs" && cp -f "$@" "$BED_DIR/debs/" && (cd "$BED_DIR/debs" && dpkg-scanpackages --multiversion . >Packages.new 2>"$BED_DIR/scan.log" && mv Packages.new Packages) || return 1
	[ -e "$BED_DIR/http.pid" ] || bed_spawn http python3 -m http.server --bind "$BED_NET.254" --directory "$BED_DIR/debs" "${BED_PACKAGES##*:}"
}

bed_boot() { # N
	local d=$BED_DIR/n$1 cg
	cg=$(bed_cgroot)/$NAME-n$1
	mkdir -p "$cg" "$d/up" "$d/work" "$d/m" || return 1
	mountpoint -q "$d/m" || mount -t overlay overlay -o "lowerdir=$BED_DIR/root,upperdir=$d/up,workdir=$d/work" "$d/m" || return 1
	if [ ! -e "$d/up/etc/hostname" ]; then
		echo "n$1" >"$d/m/etc/hostname"
		: >"$d/m/etc/machine-id"
		install -D -m 0600 "$BED_DIR/id.pub" "$d/m/root/.ssh/authorized_keys"
		ssh-keygen -q -t ed25519 -N '' -f "$d/m/etc/ssh/ssh_host_ed25519_key"
	fi
	# shellcheck disable=SC2016 # expanded by the inner shell
	SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 setsid bash -c 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' bed "$cg" \
		systemd-nspawn --quiet --register=no --keep-unit -D "$d/m" -b -M "$NAME-n$1" --network-namespace-path="/run/netns/$NAME-n$1" \
		--capability=all --bind=/dev/fuse --console=pipe </dev/null >>"$d/console" 2>&1 &
	echo $! >"$d/pid"
	disown
}

# Its first process; nothing if it is off.
bed_leader() {
	local p
	p=$(cat "$BED_DIR/n$1/pid" 2>/dev/null) && [ -d "/proc/$p" ] && pgrep -P "$p" | head -n 1
}

on() { # N COMMAND...: in that container
	local n=$1 leader
	shift
	leader=$(bed_leader "$n") || return 1
	[ -n "$leader" ] && nsenter -t "$leader" --mount --uts --ipc --net --pid --root --wd -- env -i PATH=/usr/sbin:/usr/bin LC_ALL=C.UTF-8 HOME=/root "$@"
}

bed_sshd() { in_san timeout 2 bash -c "exec 3<>/dev/tcp/$BED_NET.$1/22"; }
bed_off() { [ -z "$(bed_leader "$1")" ]; }

bed_halt() { # N: an orderly shutdown
	local l
	l=$(bed_leader "$1") && [ -n "$l" ] || return 0
	kill -RTMIN+4 "$l" && bed_wait 150 bed_off "$1"
}

# Power failure.
bed_kill() { # N
	local cg
	cg=$(bed_cgroot)/$NAME-n$1
	[ -e "$cg/cgroup.kill" ] && echo 1 >"$cg/cgroup.kill"
	bed_wait 10 bed_off "$1"
}

bed_up() { # NODES LUNS SIZE
	local n
	bed_down
	mkdir -m 0700 "$BED_DIR" && mkdir "$BED_DIR/root" && tar -C "$BED_DIR/root" --numeric-owner -xpf "$CACHE/root.tar" || return 1
	ssh-keygen -q -t ed25519 -N '' -f "$BED_DIR/id" && bed_network "$1" && bed_target "$2" "$3" || return 1
	for n in $(seq "$1"); do bed_boot "$n" || return 1; done
	for n in $(seq "$1"); do
		bed_wait 60 bed_sshd "$n" || { echo "container n$n does not come up: $(tail -n 1 "$BED_DIR/n$n/console")" && return 1; }
	done
}

bed_down() {
	local d n p cg
	cg=$(bed_cgroot)
	for d in "$BED_DIR"/n*/; do
		[ -d "$d" ] || continue
		n=${d%/} n=${n##*/n}
		bed_kill "$n"
		umount -l "$BED_DIR/n$n/m" 2>/dev/null
	done
	for d in "$BED_DIR"/*.pid; do
		p=$(cat "$d" 2>/dev/null) && tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null | grep -qE 'tgtd|http\.server' && kill -KILL "$p"
	done
	for d in "$cg/$NAME"-n*/; do
		[ -d "$d" ] && find "$d" -depth -type d -exec rmdir {} + 2>/dev/null
	done
	for d in /run/netns/"$NAME"-*; do
		[ -e "$d" ] && ip netns del "${d##*/}"
	done
	[ ! -d "$BED_DIR" ] || rm -rf --one-file-system -- "$BED_DIR"
}
