#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Trees carried by rsync, tar and cp with everything that they keep (times, owners, hard links, holes, ACLs,
# attributes), each by another node; mail delivered, taken and appended by all nodes at once (mailer.py); and
# commits that all nodes push into one git repository.
# timeout: 400
. "$(dirname "$0")/lib.sh"
for tool in rsync setfacl setfattr git; do
	command -v $tool >/dev/null || skip "no $tool"
done

dir=mix.$$ many=60
[ "$MODE" = long ] && many=3000
here() { echo "$(mnt "$1")/$dir"; } # N
mkdir "$(here 1)" || fail "node 1: cannot make $dir"

# --- trees ------------------------------------------------------------------------------------------

tar=$(make_tar 800 mix) || exit 1
src=$TMP/src
mkdir "$src" && tar -C "$src" -xpf "$tar" || fail "$tar: cannot unpack it locally"
i=0
while IFS= read -r -d '' f; do
	i=$((i + 1))
	case $((i % 5)) in
	0) setfacl -m u:$((2000 + i)):rw,g:$((3000 + i)):r,m::rw "$f" ;;
	1) setfattr -n user.origin -v "file $i" "$f" && setfattr -n trusted.mix -v 0x00ff$((i % 90 + 10)) "$f" ;;
	2) ln "$f" "$f.again" && chown $((4000 + i)):$((5000 + i)) "$f" && chmod u+s,g+s "$f" ;;
	3) truncate -s +3M "$f" && echo end >>"$f" && touch -d "@$((1000000000 + i)).123456789" "$f" ;;
	4) chmod 0 "$f" ;;
	esac || fail "$f: cannot be made special here"
done < <(find "$src" -type f -print0 | sort -z | head -z -n 150)
find "$src" -type d | sort | sed -n 1,20p | xargs setfacl -d -m u:2001:rwx,g:3001:rx || fail "$src: no default ACLs here"
mkfifo "$src/fifo" && mknod "$src/device" c 1 3 || fail "$src: no fifo or device here"
# rsync compares times by the second: a directory of this second it would leave as its last entry made it.
find "$src" -type d -exec touch -d "@1100000000.987654321" {} + || fail "$src: directories keep no times here"

described() { # DIRECTORY: what the manifest does not know
	(cd "$1" && find . -print0 | sort -z >"$TMP/names" && xargs -0 getfacl -P -n <"$TMP/names" && xargs -0 getfattr -h -d -m '^(user|trusted)\.' -e hex <"$TMP/names") 2>&1
}
manifest "$src" >"$TMP/src.manifest"
described "$src" >"$TMP/src.described"
[ "$(grep -c ^default: "$TMP/src.described")" -gt 20 ] && [ "$(grep -c ^trusted.mix "$TMP/src.described")" -gt 20 ] ||
	fail "test tree: expected ACLs and attributes, got too few"
same_tree() { # OBJECT NODE DIRECTORY
	assert_tree "$1, seen from node $2" "$TMP/src.manifest" "$(here "$2")/$3"
	described "$(here "$2")/$3" >"$TMP/described"
	assert_same_file "$1: ACLs and attributes, seen from node $2" "$TMP/src.described" "$TMP/described"
}
rsync=(rsync -aHAXS --numeric-ids)
assert_ok "node 1: rsync" on 1 "${rsync[@]}" "$src/" "$(here 1)/rsync/"
same_tree rsync 2 rsync
assert_eq "node 3: what rsync would send again" "" "$(on 3 "${rsync[@]}" -n -i --checksum "$src/" "$(here 3)/rsync/" | head -n 3)"
on 2 tar -C "$(here 2)/rsync" --acls --xattrs --xattrs-include='*' --sparse --numeric-owner -cf "$(here 2)/mix.tar" . || fail "node 2: tar failed"
mkdir "$(here 3)/tar"
on 3 tar -C "$(here 3)/tar" --acls --xattrs --xattrs-include='*' --numeric-owner -xpf "$(here 3)/mix.tar" || fail "node 3: tar of node 2's archive failed"
same_tree tar 1 tar
assert_ok "node 1: cp -a" on 1 cp -a --sparse=always "$(here 1)/tar" "$(here 1)/cp"
same_tree cp 3 cp
diff -r --no-dereference --exclude=fifo --exclude=device "$(here 2)/cp" "$(here 2)/rsync" >"$TMP/diff" || fail "node 2: diff -r: $(head -n 3 "$TMP/diff")"
# As many bytes and the same time: only what is inside tells.
f=$(cd "$src" && find . -type f -size +1k -size -9k | sort | head -n 1)
touch -r "$(here 2)/cp/$f" "$TMP/time" && printf '\xa5' | dd of="$(here 2)/cp/$f" bs=1 seek=100 conv=notrunc status=none && touch -r "$TMP/time" "$(here 2)/cp/$f"
diff -r --no-dereference --exclude=fifo --exclude=device "$(here 1)/cp" "$(here 1)/rsync" >/dev/null && fail "self-test: expected one byte to be seen"
note "$(wc -l <"$TMP/src.manifest") entries by rsync, tar and cp, each seen from other nodes"

# --- mail -------------------------------------------------------------------------------------------

all() { # OBJECT ARGUMENT...: mailer.py on every node at once; @ is the node's directory, % its number
	local what=$1 n p pids=()
	shift
	for n in 1 2 3; do
		local a=("${@//@/$(here $n)}")
		on $n timeout 120 python3 "$HERE/mailer.py" "${a[@]//%/$n}" 2>"$TMP/$what.err$n" &
		pids+=($!)
	done
	for p in "${pids[@]}"; do
		wait "$p" || fail "$what: a node failed: $(tail -qn 1 "$TMP/$what".err?)"
	done
}
mkdir -p "$(here 1)"/maildir/{tmp,new,cur}
t=$(date +%s%N)
(all take take @/maildir n% "$TMP/taken.%" "$TMP/sent") &
takers=$!
all deliver deliver @/maildir n% $many
touch "$TMP/sent"
wait $takers || fail "takers of mail failed"
took=$((($(date +%s%N) - t) / 1000000))
for n in 1 2 3; do
	python3 "$HERE/mailer.py" maildir "$(here $n)/maildir" $((3 * many)) "$TMP"/taken.? >"$TMP/maildir" 2>&1 || fail "node $n: maildir: $(cat "$TMP/maildir")"
done
note "maildir: $(cat "$TMP/maildir"), in $took ms"

times=''
for kind in dotlock link fcntl flock; do
	echo 0000000000 >"$(here 1)/mbox.$kind"
	t=$(date +%s%N)
	all $kind append @/mbox.$kind n% $many $kind
	times+=" $kind $((($(date +%s%N) - t) / 1000000)) ms"
	for n in 1 2 3; do
		assert_ok "node $n: mbox under $kind" python3 "$HERE/mailer.py" mbox "$(here $n)/mbox.$kind" $((3 * many))
	done
done
note "mbox, $((3 * many)) messages of three nodes under a lock:$times"

# --- git push ---------------------------------------------------------------------------------------

export HOME=$TMP GIT_CONFIG_NOSYSTEM=1
git config --global user.name test && git config --global user.email test@example.com
git config --global --add safe.directory '*' && git config --global init.defaultBranch main
pushes=5
[ "$MODE" = long ] && pushes=200
push_all() { # N: its commits into the repository that all nodes push to, each behind what the others have pushed
	local n=$1 i work=$TMP/work.$1
	for i in $(seq $pushes); do
		echo "$n $i" >"$work/by$n.$i" && git -C "$work" add . && git -C "$work" commit -qm "$n $i" || return 1
		until on "$n" git -C "$work" push -q origin main 2>"$TMP/push.$n"; do
			grep -qE 'rejected|cannot lock ref' "$TMP/push.$n" || return 1
			on "$n" git -C "$work" pull -q --rebase origin main 2>"$TMP/pull.$n" || return 1
			echo again
		done
	done
}
on 3 git init -q --bare "$(here 3)/bare.git" || fail "node 3: git init failed"
git init -q "$TMP/first" && git -C "$TMP/first" commit -q --allow-empty -m first && git -C "$TMP/first" push -q "$(here 1)/bare.git" main || fail "node 1: first push failed"
pids=()
for n in 1 2 3; do
	on $n git clone -q --no-local "$(here $n)/bare.git" "$TMP/work.$n" || fail "node $n: git clone failed"
done
for n in 1 2 3; do
	push_all $n >"$TMP/again.$n" 2>"$TMP/commit.$n" &
	pids[n]=$!
done
for n in 1 2 3; do
	wait "${pids[n]}" || fail "node $n: git push: $(tail -qn 3 "$TMP/commit.$n" "$TMP/push.$n" "$TMP/pull.$n" 2>/dev/null)"
done
for n in 1 2 3; do
	assert_ok "node $n: git fsck" on $n git -C "$(here $n)/bare.git" fsck --full --strict
	assert_eq "node $n: commits" $((1 + 3 * pushes)) "$(on $n git -C "$(here $n)/bare.git" rev-list --count main)"
	assert_eq "node $n: files" $((3 * pushes)) "$(on $n git -C "$(here $n)/bare.git" ls-tree --name-only main | wc -l)"
done
note "git: $((3 * pushes)) pushes of three nodes, $(cat "$TMP"/again.? | wc -l) begun again"

# The checkers: a message taken twice, one that is gone, one without a lock.
head -n 1 "$TMP/taken.1" >>"$TMP/taken.2"
python3 "$HERE/mailer.py" maildir "$(here 1)/maildir" $((3 * many)) "$TMP"/taken.? >/dev/null 2>&1 && fail "self-test: expected a message taken twice to be seen"
sed -i '/^From n2 5 /,/^From/d' "$(here 2)/mbox.link"
python3 "$HERE/mailer.py" mbox "$(here 1)/mbox.link" $((3 * many)) 2>/dev/null && fail "self-test: expected a lost message to be seen"
exit 0
