#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A real program built on the mount: this one. One source tree, two build directories, nodes 1 and 2 at once with
# make -j; all objects, archives and programs of the two are the same byte for byte, and run on node 3. make on
# another node has nothing left to do, and after a change exactly that. git over the tree on all nodes.
# timeout: 400
. "$(dirname "$0")/lib.sh"
for tool in cmake make cc git; do
	command -v $tool >/dev/null || skip "no $tool"
done

dir=build.$$
targets=(lib_map_test dlm_matrix_test fs_dir_test tesserad)
[ "$MODE" = long ] && targets=(all)
export HOME=$TMP GIT_CONFIG_NOSYSTEM=1 CCACHE_DISABLE=1
git config --global user.name test && git config --global user.email test@example.com
git config --global --add safe.directory '*' && git config --global init.defaultBranch main

# The same path on every node, as on machines of their own: else objects tell where they were made.
mkdir "$TMP/tree"
inside() { # N BUILD COMMAND...: with the tree of node N at $TMP/tree, its directory BUILD at $TMP/tree/build
	local n=$1 b=$2
	shift 2
	# shellcheck disable=SC2016 # for the inner shell
	on "$n" unshare --mount --propagation slave -- sh -ec 'mount --bind "$1" "$2"; mount --bind "$1/$3" "$2/build"; cd "$2"; shift 3; exec "$@"' \
		sh "$(mnt "$n")/$dir" "$TMP/tree" "$b" "$@"
}

mkdir "$(mnt 3)/$dir" "$(mnt 3)/$dir/src" "$(mnt 3)/$dir/build" "$(mnt 3)/$dir/b1" "$(mnt 3)/$dir/b2" || fail "node 3: cannot make $dir"
tar -C "$TOP" --exclude=./.git --exclude='./build*' -cf - . | on 3 tar -C "$(mnt 3)/$dir/src" --no-same-owner -xf - || fail "node 3: tar failed"

git_on() { # N COMMAND...
	local n=$1
	shift
	on "$n" git -C "$(mnt "$n")/$dir/src" "$@"
}
git_on 3 init -q && git_on 3 add -A -f && git_on 3 commit -qm all || fail "node 3: git init, add, commit failed"
files=$(git_on 3 ls-files | wc -l)

built() { # N: one whole build on node N
	inside "$1" "b$1" cmake -S src -B build -G 'Unix Makefiles' -DCMAKE_BUILD_TYPE=Debug &&
		inside "$1" "b$1" make -C build -j "$(nproc)" "${targets[@]}"
}
t=$SECONDS
for n in 1 2; do
	built $n >"$TMP/make.$n" 2>&1 &
	pids[n]=$!
done
for n in 1 2; do
	wait "${pids[n]}" || fail "node $n: the build failed: $(grep -E 'error|\*\*\*|Error' "$TMP/make.$n" | head -n 5) $(tail -n 3 "$TMP/make.$n")"
	grep -iE 'clock skew|in the future' "$TMP/make.$n" && fail "node $n: expected files not newer than now"
done
took=$((SECONDS - t))

products() { # DIRECTORY: what was made, with a sum of its bytes
	(cd "$1" && find . \( -name '*.o' -o -name '*.a' -o -type f -perm -u+x \) -not -path '*/CMakeFiles/[0-9]*' -not -name '*.bin' | sort | xargs md5sum)
}
products "$(mnt 3)/$dir/b1" >"$TMP/products.1"
products "$(mnt 3)/$dir/b2" >"$TMP/products.2"
made=$(wc -l <"$TMP/products.1")
[ "$made" -gt 100 ] || fail "node 3: expected more than 100 objects of node 1, got $made"
assert_same_file "node 3: what node 2 built" "$TMP/products.1" "$TMP/products.2"
for n in 1 2; do # each sees of the other what node 3 sees
	products "$(mnt $n)/$dir/b$((3 - n))" >"$TMP/products"
	assert_same_file "node $n: what node $((3 - n)) built" "$TMP/products.1" "$TMP/products"
done
note "$made objects, archives and programs built on two nodes at once in $took s, byte for byte the same"
for test in lib_map_test dlm_matrix_test; do
	assert_ok "node 3: $test from the mount" on 3 timeout 60 "$(mnt 3)/$dir/b$((RANDOM % 2 + 1))/tests/unit/$test"
done

# make that is interrupted on one node and goes on on another.
inside 2 b2 make -s -C build clean || fail "node 2: make clean failed"
inside 1 b2 timeout -s INT 4 make -C build -j "$(nproc)" "${targets[@]}" >"$TMP/again" 2>&1 && fail "node 1: expected make to be interrupted, it was done"
products "$(mnt 2)/$dir/b2" >"$TMP/products"
part=$(wc -l <"$TMP/products")
[ "$part" -lt "$made" ] || fail "node 1: expected make to be interrupted in the middle, all was made"
inside 3 b2 make -C build -j "$(nproc)" "${targets[@]}" >"$TMP/again" 2>&1 || fail "node 3: make behind an interrupted one failed: $(tail -n 3 "$TMP/again")"
products "$(mnt 1)/$dir/b2" >"$TMP/products"
assert_same_file "node 1: what node 3 finished" "$TMP/products.1" "$TMP/products"
note "make interrupted on node 1 behind $part objects, finished by node 3: the same"

# make on another node than the one that built: times and sizes of files say that there is nothing to do.
compiled() { grep -c 'Building C object' "$TMP/again"; }
inside 3 b1 make -C build "${targets[@]}" >"$TMP/again" 2>&1 || fail "node 3: make again failed: $(tail -n 3 "$TMP/again")"
assert_eq "node 3: objects built again where all is made" 0 "$(compiled)"
echo '/* changed on node 2 */' >>"$(mnt 2)/$dir/src/lib/map.c" || fail "node 2: cannot change lib/map.c"
inside 3 b1 make -C build "${targets[@]}" >"$TMP/again" 2>&1 || fail "node 3: make after a change failed: $(tail -n 3 "$TMP/again")"
assert_eq "node 3: objects built again behind a change on node 2" 1 "$(compiled)"

# git, whose index trusts what stat says.
assert_eq "node 1: git status" " M lib/map.c" "$(git_on 1 status --porcelain --ignored | grep -v '^!!')"
git_on 1 checkout -q -- lib/map.c || fail "node 1: git checkout failed"
for n in 2 3 1; do
	assert_eq "node $n: git status" "" "$(git_on $n status --porcelain)"
	# As many bytes as before, within the same second.
	sed -i '1s/./x/' "$(mnt $n)/$dir/src/README.md" || fail "node $n: cannot change README.md"
	assert_eq "node $((n % 3 + 1)): git status behind a change of node $n" " M README.md" "$(git_on $((n % 3 + 1)) status --porcelain)"
	git_on $((n % 3 + 1)) checkout -q -- README.md || fail "node $((n % 3 + 1)): git checkout failed"
done
assert_ok "node 2: git clone" on 2 git clone -q --no-local "$(mnt 2)/$dir/src" "$(mnt 2)/$dir/clone"
assert_ok "node 1: git fsck of the clone" on 1 git -C "$(mnt 1)/$dir/clone" fsck --full --strict
assert_eq "node 3: files of the clone" "$files" "$(on 3 git -C "$(mnt 3)/$dir/clone" ls-files | wc -l)"
diff -r --exclude=.git "$(mnt 3)/$dir/src" "$(mnt 1)/$dir/clone" >"$TMP/diff" || fail "the clone differs: $(head -n 3 "$TMP/diff")"
note "git: $files files, status and fsck on every node"

# The comparison itself: one byte of one object.
object=$(find "$(mnt 2)/$dir/b2" -name 'map.c.o' | head -n 1)
printf '\xa5' | dd of="$object" bs=1 seek=600 conv=notrunc status=none
products "$(mnt 3)/$dir/b2" >"$TMP/products.2"
cmp -s "$TMP/products.1" "$TMP/products.2" && fail "self-test: expected one byte of an object to be seen"
exit 0
