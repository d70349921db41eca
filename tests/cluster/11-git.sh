#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# git as a user of the mount: a repository of a few thousand objects cloned on node 2, checked on node 3,
# commits on nodes 1 and 2 in turns, each seeing the other's.
# timeout: 240
. "$(dirname "$0")/lib.sh"

export HOME=$TMP GIT_CONFIG_NOSYSTEM=1
git config --global user.name test && git config --global user.email test@example.com
git config --global --add safe.directory '*' && git config --global init.defaultBranch main
git config --global gc.auto 0

git init -q "$TMP/src" || fail "git init failed"
python3 - <<'END' | git -C "$TMP/src" fast-import --quiet || fail "git fast-import failed"
import sys
out = sys.stdout
for c in range(300):
    out.write("commit refs/heads/main\nmark :%d\ncommitter t <t@e> %d +0000\ndata 4\nc%03d\n" % (c + 1, 1600000000 + c, c))
    if c:
        out.write("from :%d\n" % c)
    for f in range(10):
        text = "".join("%d %d %d\n" % (c, f, i * c) for i in range(f * 20 + 1))
        out.write("M 100644 inline dir%d/sub%d/file%d\ndata %d\n%s\n" % (c % 20, f, (c * f) % 50, len(text), text))
END
objects=$(git -C "$TMP/src" rev-list --objects --all | wc -l)
[ "$objects" -gt 3000 ] || fail "test repository: expected more than 3000 objects, got $objects"

r=git.$$
on 2 git clone -q --no-local "$TMP/src" "$(mnt 2)/$r" || fail "node 2: git clone failed"
on 3 git -C "$(mnt 3)/$r" fsck --full --strict || fail "node 3: git fsck failed on what node 2 cloned"
assert_eq "node 3: git status" "" "$(on 3 git -C "$(mnt 3)/$r" status --porcelain)"
assert_eq "node 3: objects" "$objects" "$(on 3 git -C "$(mnt 3)/$r" rev-list --objects --all | wc -l)"

for i in $(seq 20); do
	n=$((i % 2 + 1))
	echo "line $i of node $n" >>"$(mnt $n)/$r/notes" &&
		on $n git -C "$(mnt $n)/$r" add notes && on $n git -C "$(mnt $n)/$r" commit -qm "commit $i" ||
		fail "node $n: commit $i failed"
	assert_eq "node $((3 - n)): newest commit" "commit $i" "$(on $((3 - n)) git -C "$(mnt $((3 - n)))/$r" log -1 --format=%s)"
done
on 3 git -C "$(mnt 3)/$r" gc -q || fail "node 3: git gc failed"
on 1 git -C "$(mnt 1)/$r" fsck --full --strict || fail "node 1: git fsck failed after node 3's gc"
assert_eq "node 1: commits" 320 "$(on 1 git -C "$(mnt 1)/$r" rev-list --count HEAD)"
assert_eq "node 2: git status" "" "$(on 2 git -C "$(mnt 2)/$r" status --porcelain)"
note "$objects objects cloned, 20 commits by two nodes in turns"
