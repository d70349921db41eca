/* SPDX-License-Identifier: Apache-2.0 */
/* Job: rename, in one transaction: plain, over an existing name, NOREPLACE, EXCHANGE.
 * Must never happen: a directory below itself (two renames that are legal each can make a loop together: a directory moves between
 * parents only under RENAME EX, and the ancestors are walked under it); the moved name in two places or none. */
#include "fs/names.h"

#include <dirent.h>

enum { OLD, NEW };
/* Deeper than any path: a walk this long is a loop on disk. */
#define RENAME_DEPTH (1u << 20)

struct rename_arg {
	uint64_t dir[2];
	const char *name[2];
	size_t len[2];
	unsigned flags;
	uint64_t walk[2]; /* directories to move to the other parent, known from an earlier round: [OLD] to dir[NEW] and back */
};

struct renaming {
	struct fs *fs;
	struct rename_arg *a;
	struct fs_inode *dir[2], *ip[2]; /* ip[NEW]: replaced or exchanged, or NULL */
	struct fs_dirop op[2];
	bool exchange, cross, dst, isdir[2];
};

/* Is `ino` neither `dir` nor above it? Only RENAME EX is pinned: no directory changes its parent now. */
static int rename_walk(struct fs_take *t, uint64_t dir, uint64_t ino)
{
	struct tok_pin pin = {0};
	struct fs_inode *ip;
	int rc = 0;

	for (unsigned depth = 0; depth < RENAME_DEPTH; depth++) {
		if (dir == ino)
			return -EINVAL;
		if (dir == FS_ROOT_INO)
			return 0;
		rc = tok_pin(t->fs->tok, TOK_INODE, dir, TOK_SH, 0, TOK_END, t->flags, &pin);
		if (rc)
			return rc;
		rc = fs_dir_open(t->fs, dir, &ip);
		if (!rc) {
			dir = le64_get(fs_idisk(ip)->parent);
			fs_inode_put(t->fs, ip);
		}
		tok_unpin(t->fs->tok, &pin);
		if (rc)
			return rc;
	}
	ts_err("fs %s: the parents of directory %llu form a loop; run fsck", t->fs->super.name, (unsigned long long)dir);
	return -EUCLEAN;
}

static int rename_take(struct fs_take *t, struct rename_arg *a)
{
	int rc = 0;

	for (int i = 0; i < 2; i++) {
		fs_take_add(t, TOK_DIR, a->dir[i], TOK_EX);
		fs_take_add(t, TOK_INODE, a->dir[i], TOK_EX);
	}
	if (a->walk[OLD] || a->walk[NEW]) {
		fs_take_add(t, TOK_RENAME, 0, TOK_EX);
		rc = fs_take_upto(t, TOK_RENAME);
		if (!rc && a->walk[OLD])
			rc = rename_walk(t, a->dir[NEW], a->walk[OLD]);
		if (!rc && a->walk[NEW])
			rc = rename_walk(t, a->dir[OLD], a->walk[NEW]);
	}
	return rc ? rc : fs_take_all(t);
}

/* What the two names are, and whether the rules of their kinds allow it. 1: nothing to do. */
static int rename_look(struct renaming *r)
{
	struct rename_arg *a = r->a;
	struct fs_dirent e;
	int rc = fs_dir_lookup(r->fs, r->dir[OLD], a->name[OLD], a->len[OLD], &e);

	if (rc)
		return rc;
	rc = fs_dir_lookup(r->fs, r->dir[NEW], a->name[NEW], a->len[NEW], &r->op[NEW].ent);
	r->dst = !rc;
	if (rc && rc != -ENOENT)
		return rc;
	if (r->exchange && !r->dst)
		return -ENOENT;
	if (r->dst && a->flags & FS_RENAME_NOREPLACE)
		return -EEXIST;
	if (r->dst && r->op[NEW].ent.ino == e.ino)
		return 1;
	r->isdir[OLD] = e.type == DT_DIR;
	r->isdir[NEW] = r->dst && r->op[NEW].ent.type == DT_DIR;
	if (r->dst && !r->exchange && r->isdir[OLD] != r->isdir[NEW])
		return r->isdir[OLD] ? -ENOTDIR : -EISDIR;
	/* The insert first: it may split, which would make the other's path stale. */
	rc = fs_dir_insert_prepare(r->fs, r->dir[NEW], a->name[NEW], a->len[NEW], &r->op[NEW]);
	TS_ASSERT(rc || !r->dst);
	if (rc && rc != -EEXIST)
		return rc;
	return fs_dir_remove_prepare(r->fs, r->dir[OLD], a->name[OLD], a->len[OLD], &r->op[OLD]);
}

/* Directories that change their parent need RENAME EX and the walk: learnt here, done in the next round. */
static int rename_need_walk(struct fs_take *t, struct renaming *r)
{
	struct rename_arg *a = r->a;
	uint64_t need[2] = {0, 0};

	if (r->cross && r->isdir[OLD])
		need[OLD] = r->op[OLD].ent.ino;
	if (r->cross && r->exchange && r->isdir[NEW])
		need[NEW] = r->op[NEW].ent.ino;
	if ((!need[OLD] || need[OLD] == a->walk[OLD]) && (!need[NEW] || need[NEW] == a->walk[NEW]))
		return 0;
	memcpy(a->walk, need, sizeof(need));
	return -TS_ERR_RETRY;
}

/* The inodes under the two names, and the names in a directory that is replaced. */
static int rename_take_children(struct fs_take *t, struct renaming *r)
{
	struct fs_want more[3] = {{.kind = TOK_INODE, .id = r->op[OLD].ent.ino}};
	unsigned n = 1, i = 0;
	int rc = rename_need_walk(t, r);

	if (r->dst)
		more[n++] = (struct fs_want){.kind = TOK_INODE, .id = r->op[NEW].ent.ino};
	if (r->isdir[NEW] && !r->exchange)
		more[n++] = (struct fs_want){.kind = TOK_DIR, .id = r->op[NEW].ent.ino};
	if (rc)
		fs_take_drop(t);
	while (!rc && i < n) {
		rc = fs_take_more(t, more[i].kind, more[i].id, TOK_EX);
		i++;
	}
	if (rc == -TS_ERR_RETRY) /* nothing is pinned now: want all of them next time */
		for (i = 0; i < n; i++)
			fs_take_add(t, more[i].kind, more[i].id, TOK_EX);
	return rc;
}

static int rename_check(struct renaming *r)
{
	struct fs_inode *src = r->ip[OLD], *dst = r->ip[NEW], *to = r->dir[NEW], *from = r->dir[OLD];
	const uint32_t fixed = FS_IF_IMMUTABLE | FS_IF_APPEND;

	if (fs_has_flag(from, fixed) || fs_has_flag(src, fixed) || fs_has_flag(to, r->dst ? fixed : FS_IF_IMMUTABLE) ||
	    (dst && fs_has_flag(dst, fixed)))
		return -EPERM;
	if (dst && r->isdir[NEW] && !r->exchange && dst->size)
		return -ENOTEMPTY;
	if (r->cross && r->isdir[OLD] && !r->isdir[NEW] && le32_get(fs_idisk(to)->nlink) >= FS_LINK_MAX)
		return -EMLINK;
	if (r->cross && r->exchange && r->isdir[NEW] && !r->isdir[OLD] && le32_get(fs_idisk(from)->nlink) >= FS_LINK_MAX)
		return -EMLINK;
	if (fs_has_flag(to, FS_IF_PROJINHERIT) && fs_idisk(to)->project.v != fs_idisk(src)->project.v)
		return -EXDEV;
	if (r->exchange && fs_has_flag(from, FS_IF_PROJINHERIT) && fs_idisk(from)->project.v != fs_idisk(dst)->project.v)
		return -EXDEV;
	return 0;
}

/* The inode that now has its name in dir[to]. */
static void rename_moved_tx(struct renaming *r, struct fs_tx *tx, int which, int to, int64_t now)
{
	struct fs_inode *ip = r->ip[which];

	ip->ctime_ns = now;
	fs_inode_update_tx(r->fs, tx, ip);
	if (!r->cross || !r->isdir[which])
		return;
	fs_idisk(ip)->parent = le64_make(r->a->dir[to]);
	fs_links_add(r->dir[!to], -1);
	fs_links_add(r->dir[to], 1);
}

static void rename_tx(struct renaming *r)
{
	struct fs_dirent src = r->op[OLD].ent, dst = r->op[NEW].ent;
	struct fs *fs = r->fs;
	bool orphan = false;
	struct fs_tx tx;
	int64_t now;

	fs_tx_begin(fs, &tx);
	if (r->dst)
		fs_dir_replace_tx(fs, &tx, r->dir[NEW], &r->op[NEW], src.ino, src.gen, src.type);
	else
		fs_dir_insert_tx(fs, &tx, r->dir[NEW], &r->op[NEW], r->a->name[NEW], r->a->len[NEW], src.ino, src.gen, src.type);
	if (r->exchange)
		fs_dir_replace_tx(fs, &tx, r->dir[OLD], &r->op[OLD], dst.ino, dst.gen, dst.type);
	else
		fs_dir_remove_tx(fs, &tx, r->dir[OLD], &r->op[OLD]);
	now = r->dir[NEW]->ctime_ns;
	rename_moved_tx(r, &tx, OLD, NEW, now);
	if (r->exchange) {
		rename_moved_tx(r, &tx, NEW, OLD, now);
	} else if (r->dst) {
		if (r->isdir[NEW])
			fs_links_add(r->dir[NEW], -1);
		fs_unname_tx(fs, &tx, r->ip[NEW], now);
		orphan = !le32_get(fs_idisk(r->ip[NEW])->nlink);
	}
	fs_tx_commit(&tx);
	if (orphan)
		fs_reaper_kick(fs);
}

static int rename_with_dirs(struct fs_take *t, struct renaming *r)
{
	int rc = rename_look(r);

	if (rc)
		return rc;
	rc = rename_take_children(t, r);
	for (int i = 0; i < 2 && !rc; i++)
		if (i == OLD || r->dst)
			rc = fs_child_open(r->fs, r->a->dir[i], &r->op[i].ent, &r->ip[i]);
	if (!rc)
		rc = rename_check(r);
	if (!rc)
		rc = fs_log_reserve(r->fs, 0);
	if (!rc)
		rename_tx(r);
	return rc;
}

static int rename_once(struct fs_take *t, void *arg)
{
	struct rename_arg *a = arg;
	struct renaming r = {.fs = t->fs, .a = a, .exchange = a->flags & FS_RENAME_EXCHANGE, .cross = a->dir[OLD] != a->dir[NEW]};
	int rc = rename_take(t, a);

	for (int i = 0; i < 2 && !rc; i++)
		rc = fs_dir_open(t->fs, a->dir[i], &r.dir[i]);
	if (!rc)
		rc = rename_with_dirs(t, &r);
	/* The remove's blocks last: what it freed must have no other user. */
	fs_dirop_done(t->fs, &r.op[NEW]);
	fs_dirop_done(t->fs, &r.op[OLD]);
	for (int i = 0; i < 2; i++) {
		if (r.ip[i])
			fs_inode_put(t->fs, r.ip[i]);
		if (r.dir[i])
			fs_inode_put(t->fs, r.dir[i]);
	}
	return rc;
}

int fs_rename(struct fs *fs, const struct fs_cred *c, uint64_t dir, const char *name, size_t len, uint64_t newdir,
	      const char *newname, size_t newlen, unsigned flags)
{
	struct rename_arg a = {.dir = {dir, newdir}, .name = {name, newname}, .len = {len, newlen}, .flags = flags};
	int rc = fs_name_enter(fs, FS_OP_RENAME, true);

	if (!rc && (flags & ~(unsigned)(FS_RENAME_NOREPLACE | FS_RENAME_EXCHANGE) || flags == (FS_RENAME_NOREPLACE | FS_RENAME_EXCHANGE)))
		rc = -EINVAL;
	if (!rc)
		rc = fs_name_check(name, len);
	if (!rc)
		rc = fs_name_check(newname, newlen);
	if (!rc && (fs_name_dots(name, len) || fs_name_dots(newname, newlen)))
		rc = -EBUSY;
	if (!rc)
		rc = fs_take_run(fs, fs_nowait(c), rename_once, &a);
	return rc == 1 ? 0 : rc;
}
