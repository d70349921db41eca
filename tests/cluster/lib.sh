# shellcheck shell=bash disable=SC2034
# SPDX-License-Identifier: Apache-2.0
#
# What the cluster tests share: nodes, mount points, assertions that name object, expected and got.
# A test is an executable NN-name.sh that sources this and exits 0 (passed), 77 (skipped; the last line
# says why) or anything else (failed). Header lines `# timeout: SECONDS` and `# quick` are read by run.
#
# What must never happen here: an assertion that cannot fail (00-selftest.sh plants faults in each), or
# a look at a path of a dead or frozen node outside of `timeout`.
set -uo pipefail
export LC_ALL=C

HERE=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
TOP=$(readlink -f "$HERE/../..")
export TESSERA_SANDBOX_NAME=${TESSERA_SANDBOX_NAME:-tscheck}
export TESSERA_BINDIR=${TESSERA_BINDIR:-$TOP/build/release/admin}
SANDBOX=$TOP/admin/sandbox/tessera-sandbox
FS=${TESSERA_TEST_FS:-t}
MODE=${TESSERA_TEST_MODE:-default} # quick, default or long
TEST=$(basename "$0" .sh)
TMP=$(mktemp -d "${TMPDIR:-/tmp}/tessera-$TEST.XXXXXX") || exit 1
OWN_SANDBOX='' # name of a sandbox that this test made for itself
BACKGROUND=()

cleanup_lib() {
	local p
	trap '' INT TERM # the second signal must not end the tidying
	for p in "${BACKGROUND[@]}"; do
		kill -KILL "$p" 2>/dev/null
	done
	if [ -n "$OWN_SANDBOX" ]; then
		TESSERA_SANDBOX_NAME=$OWN_SANDBOX "$SANDBOX" down --wipe --quiet
	fi
	# A node may have mounted below it: its files are not ours to remove.
	awk -v p="$TMP" 'index($5, p) == 1 {print $5}' /proc/self/mountinfo | sort -r | while read -r p; do umount -l "$p"; done
	rm -rf --one-file-system -- "$TMP"
}
trap cleanup_lib EXIT
trap 'exit 143' TERM INT

note() { printf '   %s\n' "$*"; }

fail() {
	printf 'FAILED: %s\n' "$*" >&2
	exit 1
}

skip() {
	printf 'skipped: %s\n' "$*"
	exit 77
}

# --- nodes ------------------------------------------------------------------------------------------

sb() { "$SANDBOX" "$@"; }

on() { # N COMMAND...
	local n=$1
	shift
	"$SANDBOX" exec "$n" -- "$@"
}

mnt() { echo "/mnt/$TESSERA_SANDBOX_NAME/n$1"; }
state_dir() { echo "/var/lib/$TESSERA_SANDBOX_NAME-sandbox"; }
nodes() { sb status --json | jq -r '.nodes[].id'; }
urls() { sb disks; }
disk_files() { sb disks --files; }
node_state() { sb status --json | jq -r --argjson n "$1" '.nodes[] | select(.id == $n) | .state'; }

# A sandbox beside the common one, for tests that break disks or need other sizes. Arguments as for `up`.
own_sandbox() {
	OWN_SANDBOX=${TESSERA_TEST_OWN_SANDBOX:-tsown}
	export TESSERA_SANDBOX_NAME=$OWN_SANDBOX
	[[ " $* " == *" --disks "* ]] || set -- --disks "${TESSERA_TEST_DISKS:-iscsi}" "$@"
	sb up --fresh "$@" || fail "own sandbox: up $* failed"
}

# A command in the background, ended with the test at the latest. Its pid is in $!.
background() {
	"$@" &
	BACKGROUND+=("$!")
}

# --- assertions -------------------------------------------------------------------------------------

assert_eq() { # OBJECT EXPECTED GOT
	[ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"
}

assert_ok() { # OBJECT COMMAND...
	local what=$1 out rc
	shift
	out=$("$@" 2>&1)
	rc=$?
	[ $rc = 0 ] || fail "$what: expected success of '$*', got status $rc: $(tail -n 5 <<<"$out")"
}

# The command, run on node N, must be refused: status neither 0 nor that of a signal or time-out, one
# line on stderr that matches PATTERN (extended, any case), nothing beside it.
assert_refused() { # OBJECT PATTERN N COMMAND...
	local what=$1 pattern=$2 n=$3 rc err
	shift 3
	timeout 30 "$SANDBOX" exec "$n" -- "$@" >/dev/null 2>"$TMP/refused"
	rc=$?
	err=$(cat "$TMP/refused")
	[ $rc != 0 ] || fail "$what: expected a refusal of '$*', got success"
	[ $rc -lt 124 ] || fail "$what: expected a refusal of '$*', got status $rc (hang or signal): $err"
	[ "$(grep -c . "$TMP/refused")" = 1 ] || fail "$what: expected one line on stderr from '$*', got: $err"
	grep -qiE -- "$pattern" "$TMP/refused" || fail "$what: expected a line like /$pattern/ from '$*', got: $err"
	note "$what: $err"
}

assert_same_file() { # OBJECT EXPECTED-FILE GOT-FILE
	cmp -s "$2" "$3" && return 0
	diff "$2" "$3" | head -n 20 >&2
	fail "$1: expected the same as $2 ($(wc -l <"$2") lines), got other content ($(wc -l <"$3") lines); the first differences are above"
}

wait_until() { # SECONDS OBJECT COMMAND...
	local limit=$1 what=$2 t=$SECONDS
	shift 2
	until "$@"; do
		[ $((SECONDS - t)) -lt "$limit" ] || fail "$what: expected '$*' within $limit s, got nothing"
		sleep 0.1
	done
}

# --- tools ------------------------------------------------------------------------------------------

manifest() { # DIRECTORY > lines
	python3 "$HERE/manifest.py" "$@" || fail "$1: cannot read the tree"
}

assert_tree() { # OBJECT EXPECTED-MANIFEST DIRECTORY
	manifest "$3" >"$TMP/got.manifest"
	assert_same_file "$1" "$2" "$TMP/got.manifest"
}

fsck_clean() { # OBJECT NAME [NODE]: the file system must be unmounted everywhere
	local out rc
	out=$(timeout 300 "$SANDBOX" exec "${3:-1}" -- tessera fsck -n "$2" 2>&1)
	rc=$?
	[ $rc = 0 ] || fail "$1: expected a clean fsck of $2, got status $rc: $(tail -n 20 <<<"$out")"
	note "$1: fsck clean"
}

# A list of COUNT entries below /usr (directories before their content), and if this system has fewer,
# a tree of our own at $TMP/pad. Prints a tar file's path; made once per count and kept by `run`.
make_tar() { # COUNT NAME [SKIP]
	local cache=${TESSERA_TEST_CACHE:-$TMP} n
	local tar=$cache/$2-$1.tar list=$TMP/$2.list
	if [ ! -e "$tar" ]; then
		mkdir -p "$cache"
		find /usr/include /usr/share -xdev \( -type d -o -type l -o -type f -size -512k \) -readable -printf '%P\t%H/%P\n' 2>/dev/null |
			awk -F'\t' -v skip="${3:-0}" -v n="$1" '
				$1 == "" || NR <= skip {next}
				{
					# The directories above, once: else tar makes them with the time of unpacking.
					path = substr($2, 2)
					for (i = 1; (j = index(substr(path, i), "/")) > 0; i += j) {
						up = substr(path, 1, i + j - 2)
						if (!(up in seen)) {seen[up] = 1; print up}
					}
					if (!(path in seen)) {seen[path] = 1; print path}
				}
				NR >= skip + n {exit}' >"$list"
		n=$(wc -l <"$list")
		if [ "$n" -lt "$1" ]; then
			python3 "$HERE/padtree.py" "$TMP/pad" $(($1 - n)) "$2" || fail "cannot make a tree at $TMP/pad"
			(cd "$TMP" && find pad -printf '%p\n') >"$TMP/pad.list"
		else
			: >"$TMP/pad.list"
		fi
		tar --format=posix --no-recursion -cf "$tar.new" -C / -T "$list" -C "$TMP" -T "$TMP/pad.list" || fail "tar: cannot make $tar"
		mv "$tar.new" "$tar"
	fi
	echo "$tar"
}
