/* SPDX-License-Identifier: Apache-2.0 */
/* Job: operations on names: look-up, make, link, unlink, rmdir, list.
 * Must never happen: a name added to a removed directory; a directory removed that has names, or gets one at that moment; a
 * link count that is not the number of names; a change decided on what was read before the last wait without its pins. */
#include "fs/names.h"

#include <dirent.h>

int fs_name_enter(struct fs *fs, enum fs_op op, bool changes)
{
	int rc = fs_enter(fs, op);

	return rc ? rc : changes && fs->args.read_only ? -EROFS : 0;
}

int fs_name_check(const char *name, size_t len)
{
	if (!len)
		return -ENOENT;
	if (len > FS_NAME_MAX)
		return -ENAMETOOLONG;
	return memchr(name, '/', len) || memchr(name, 0, len) ? -EINVAL : 0;
}

unsigned fs_name_dots(const char *name, size_t len)
{
	return len <= 2 && name[0] == '.' && name[len - 1] == '.' ? (unsigned)len : 0;
}

int fs_dir_open(struct fs *fs, uint64_t ino, struct fs_inode **out)
{
	int rc = fs_inode_get(fs, ino, out);

	if (rc)
		return rc;
	if (!fs_is_dir(*out))
		rc = -ENOTDIR;
	else if (fs_has_flag(*out, FS_IF_DEAD))
		rc = -ENOENT;
	if (rc) {
		fs_inode_put(fs, *out);
		*out = NULL;
	}
	return rc;
}

int fs_child_open(struct fs *fs, uint64_t dir, const struct fs_dirent *e, struct fs_inode **out)
{
	int rc = fs_inode_get(fs, e->ino, out);

	if (rc && rc != -ESTALE)
		return rc;
	if (!rc && (*out)->gen == e->gen && (unsigned)IFTODT(le16_get(fs_idisk(*out)->mode)) == e->type)
		return 0;
	if (!rc)
		fs_inode_put(fs, *out);
	*out = NULL;
	ts_err("fs %s: directory %llu: an entry names inode %llu.%u, which is not there; run fsck", fs->super.name,
	       (unsigned long long)dir, (unsigned long long)e->ino, e->gen);
	return -EUCLEAN;
}

void fs_links_add(struct fs_inode *ip, int delta)
{
	struct fs_inode_disk *d = fs_idisk(ip);

	d->nlink = le32_make(le32_get(d->nlink) + (uint32_t)delta);
}

void fs_unname_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *ip, int64_t now)
{
	struct fs_inode_disk *d;

	ip->ctime_ns = now;
	fs_inode_update_tx(fs, tx, ip);
	d = fs_idisk(ip);
	if (fs_is_dir(ip)) {
		d->nlink = le32_make(0);
		d->flags = le32_make(le32_get(d->flags) | FS_IF_DEAD);
	} else {
		fs_links_add(ip, -1);
	}
	if (!le32_get(d->nlink))
		fs_inode_orphan_tx(fs, tx, ip);
}

/* ---- look-up ------------------------------------------------------------------------------------------------------- */
struct name_arg {
	const struct fs_cred *cred;
	uint64_t dir, ino;
	const char *name;
	size_t len;
	bool rmdir;
	struct fs_attr *out;
	struct fs_hold *hold;
};

static int lookup_entry(struct fs *fs, const struct name_arg *a, struct fs_dirent *e)
{
	unsigned dots = fs_name_dots(a->name, a->len);
	struct fs_inode *dir;
	int rc = fs_dir_open(fs, a->dir, &dir);

	if (rc)
		return rc;
	if (dots)
		e->ino = le64_get(fs_idisk(dir)->parent);
	else
		rc = fs_dir_lookup(fs, dir, a->name, a->len, e);
	fs_inode_put(fs, dir);
	return rc;
}

/* As an open file does: the reaper of this node looks at `opens`, that of another one at the token. Takes over ip's reference. */
static void hold_make(struct fs_take *t, struct fs_hold *hold, struct fs_inode *ip)
{
	ip->opens++;
	*hold = (struct fs_hold){.pin = fs_take_keep(t, TOK_OPEN, ip->ino), .ip = ip};
}

/* "." is asked for by who has a handle and no path, and then of what is no directory as well. */
static int lookup_self(struct fs_take *t, struct name_arg *a)
{
	struct fs_inode *ip;
	int rc;

	fs_take_add(t, TOK_INODE, a->dir, TOK_SH);
	rc = fs_take_all(t);
	if (!rc)
		rc = fs_inode_get(t->fs, a->dir, &ip);
	if (rc)
		return rc;
	rc = le32_get(fs_idisk(ip)->nlink) ? 0 : -ESTALE; /* who has it open is not asked again */
	fs_inode_attr(t->fs, ip, a->out);
	a->out->entry_cacheable = false;
	fs_inode_put(t->fs, ip);
	return rc;
}

static int lookup_once(struct fs_take *t, void *arg)
{
	struct name_arg *a = arg;
	struct fs *fs = t->fs;
	struct fs_dirent e;
	struct fs_inode *ip;
	bool hold;
	int rc;

	if (fs_name_dots(a->name, a->len) == 1)
		return lookup_self(t, a);
	fs_take_add(t, TOK_DIR, a->dir, TOK_SH);
	fs_take_add(t, TOK_INODE, a->dir, TOK_SH);
	rc = fs_take_all(t);
	if (!rc)
		rc = lookup_entry(fs, a, &e);
	hold = !rc && a->hold && !fs_name_dots(a->name, a->len) && e.type != DT_DIR;
	if (hold)
		rc = fs_take_more(t, TOK_OPEN, e.ino, TOK_SH);
	if (!rc)
		rc = fs_take_more(t, TOK_INODE, e.ino, TOK_SH);
	if (!rc)
		rc = fs_name_dots(a->name, a->len) ? fs_inode_get(fs, e.ino, &ip) : fs_child_open(fs, a->dir, &e, &ip);
	if (!rc) {
		fs_inode_attr(fs, ip, a->out);
		if (hold)
			hold_make(t, a->hold, ip);
		else
			fs_inode_put(fs, ip);
	}
	/* Also for -ENOENT: the absence of the name may be cached, too. */
	if (!rc || rc == -ENOENT)
		fs_entry_attr(fs, a->dir, a->out);
	return rc;
}

void fs_hold_drop(struct fs *fs, struct fs_hold *hold)
{
	struct fs_inode *ip = hold->ip;

	if (!ip)
		return;
	hold->ip = NULL;
	tok_unpin(fs->tok, &hold->pin);
	TS_ASSERT(ip->opens);
	if (!--ip->opens)
		fs_inode_closed(fs, ip);
	fs_inode_put(fs, ip);
}

uint64_t fs_hold_ino(const struct fs_hold *hold)
{
	return hold->ip ? hold->ip->ino : 0;
}

int fs_lookup_hold(struct fs *fs, const struct fs_cred *c, uint64_t dir, const char *name, size_t len, struct fs_attr *out,
		   struct fs_hold *hold)
{
	struct name_arg a = {.cred = c, .dir = dir, .name = name, .len = len, .out = out, .hold = hold};
	int rc = fs_name_enter(fs, FS_OP_LOOKUP, false);

	if (!rc)
		rc = fs_name_check(name, len);
	if (rc)
		return rc;
	memset(out, 0, sizeof(*out));
	return fs_take_run(fs, fs_nowait(c), lookup_once, &a);
}

int fs_lookup(struct fs *fs, const struct fs_cred *c, uint64_t dir, const char *name, size_t len, struct fs_attr *out)
{
	return fs_lookup_hold(fs, c, dir, name, len, out, NULL);
}

/* ---- make, link ---------------------------------------------------------------------------------------------------- */
static int mknod_check(uint32_t mode, const char *target)
{
	switch (mode & S_IFMT) {
	case S_IFLNK:
		if (!target || !*target)
			return -ENOENT;
		return strlen(target) > FS_TARGET_MAX ? -ENAMETOOLONG : 0;
	case S_IFREG:
	case S_IFDIR:
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		return 0;
	}
	return -EINVAL;
}

int fs_mknod(struct fs *fs, const struct fs_cred *c, uint64_t dir, const char *name, size_t len, uint32_t mode, uint64_t rdev,
	     const char *symlink_target, struct fs_attr *out)
{
	enum fs_op op = S_ISDIR(mode) ? FS_OP_MKDIR : S_ISLNK(mode) ? FS_OP_SYMLINK : FS_OP_MKNOD;
	struct fs_make m = {.cred = c, .dir = dir, .name = name, .len = len, .mode = mode, .rdev = rdev, .target = symlink_target, .out = out};
	int rc = fs_name_enter(fs, op, true);

	if (!rc)
		rc = fs_name_check(name, len);
	if (!rc)
		rc = fs_name_dots(name, len) ? -EEXIST : mknod_check(mode, symlink_target);
	return rc ? rc : fs_take_run(fs, fs_nowait(c), fs_make_once, &m);
}

static int link_check(struct fs_inode *dir, struct fs_inode *ip)
{
	struct fs_inode_disk *d = fs_idisk(ip);

	if (fs_is_dir(ip) || fs_has_flag(ip, FS_IF_IMMUTABLE | FS_IF_APPEND) || fs_has_flag(dir, FS_IF_IMMUTABLE))
		return -EPERM;
	if (!le32_get(d->nlink) && !fs_has_flag(ip, FS_IF_TMPFILE))
		return -ENOENT;
	if (le32_get(d->nlink) >= FS_LINK_MAX)
		return -EMLINK;
	return fs_has_flag(dir, FS_IF_PROJINHERIT) && fs_idisk(dir)->project.v != d->project.v ? -EXDEV : 0;
}

static void link_tx(struct fs *fs, const struct name_arg *a, struct fs_inode *dir, struct fs_inode *ip, struct fs_dirop *op)
{
	struct fs_inode_disk *d = fs_idisk(ip);
	struct fs_tx tx;

	fs_tx_begin(fs, &tx);
	fs_dir_insert_tx(fs, &tx, dir, op, a->name, a->len, ip->ino, ip->gen, IFTODT(le16_get(d->mode)));
	ip->ctime_ns = dir->ctime_ns;
	fs_inode_update_tx(fs, &tx, ip);
	fs_links_add(ip, 1);
	/* An intent of an O_TMPFILE that finds a link count is void. */
	d->flags = le32_make(le32_get(d->flags) & ~(uint32_t)(FS_IF_ORPHAN | FS_IF_TMPFILE));
	fs_tx_commit(&tx);
	fs_inode_attr(fs, ip, a->out);
	fs_entry_attr(fs, a->dir, a->out);
}

static int link_once(struct fs_take *t, void *arg)
{
	struct name_arg *a = arg;
	struct fs *fs = t->fs;
	struct fs_inode *dir = NULL, *ip = NULL;
	struct fs_dirop op = {0};
	int rc;

	fs_take_add(t, TOK_DIR, a->dir, TOK_EX);
	fs_take_add(t, TOK_INODE, a->dir, TOK_EX);
	fs_take_add(t, TOK_INODE, a->ino, TOK_EX);
	rc = fs_take_all(t);
	if (!rc)
		rc = fs_dir_open(fs, a->dir, &dir);
	if (!rc)
		rc = fs_inode_get(fs, a->ino, &ip);
	if (!rc)
		rc = fs_dir_insert_prepare(fs, dir, a->name, a->len, &op);
	if (!rc)
		rc = link_check(dir, ip);
	if (!rc)
		rc = fs_log_reserve(fs, 0);
	if (!rc)
		link_tx(fs, a, dir, ip, &op);
	fs_dirop_done(fs, &op);
	if (ip)
		fs_inode_put(fs, ip);
	if (dir)
		fs_inode_put(fs, dir);
	return rc;
}

int fs_link(struct fs *fs, const struct fs_cred *c, uint64_t ino, uint64_t dir, const char *name, size_t len, struct fs_attr *out)
{
	struct name_arg a = {.cred = c, .dir = dir, .ino = ino, .name = name, .len = len, .out = out};
	int rc = fs_name_enter(fs, FS_OP_LINK, true);

	if (!rc)
		rc = fs_name_check(name, len);
	if (!rc && fs_name_dots(name, len))
		rc = -EEXIST;
	return rc ? rc : fs_take_run(fs, fs_nowait(c), link_once, &a);
}

/* ---- unlink, rmdir ------------------------------------------------------------------------------------------------- */
static int remove_check(const struct name_arg *a, struct fs_inode *dir, struct fs_inode *ip)
{
	if (fs_has_flag(dir, FS_IF_IMMUTABLE | FS_IF_APPEND) || fs_has_flag(ip, FS_IF_IMMUTABLE | FS_IF_APPEND))
		return -EPERM;
	if (a->rmdir)
		return ip->size ? -ENOTEMPTY : 0;
	return le32_get(fs_idisk(ip)->nlink) ? 0 : -EUCLEAN;
}

static void remove_tx(struct fs *fs, struct fs_inode *dir, struct fs_inode *ip, struct fs_dirop *op)
{
	struct fs_tx tx;

	fs_tx_begin(fs, &tx);
	fs_dir_remove_tx(fs, &tx, dir, op);
	if (fs_is_dir(ip))
		fs_links_add(dir, -1);
	fs_unname_tx(fs, &tx, ip, dir->ctime_ns);
	fs_tx_commit(&tx);
	if (!le32_get(fs_idisk(ip)->nlink))
		fs_reaper_kick(fs);
}

/* The name's inode, and for rmdir the names in it, exclusively. */
static int remove_take_child(struct fs_take *t, const struct name_arg *a, const struct fs_dirent *e)
{
	int rc;

	if (a->rmdir != (e->type == DT_DIR))
		return a->rmdir ? -ENOTDIR : -EISDIR;
	if (a->rmdir) {
		rc = fs_take_more(t, TOK_DIR, e->ino, TOK_EX);
		if (rc == -TS_ERR_RETRY)
			fs_take_add(t, TOK_INODE, e->ino, TOK_EX);
		if (rc)
			return rc;
	}
	return fs_take_more(t, TOK_INODE, e->ino, TOK_EX);
}

static int remove_once(struct fs_take *t, void *arg)
{
	const struct name_arg *a = arg;
	struct fs *fs = t->fs;
	struct fs_inode *dir = NULL, *ip = NULL;
	struct fs_dirop op = {0};
	int rc;

	fs_take_add(t, TOK_DIR, a->dir, TOK_EX);
	fs_take_add(t, TOK_INODE, a->dir, TOK_EX);
	rc = fs_take_all(t);
	if (!rc)
		rc = fs_dir_open(fs, a->dir, &dir);
	if (!rc)
		rc = fs_dir_remove_prepare(fs, dir, a->name, a->len, &op);
	if (!rc)
		rc = remove_take_child(t, a, &op.ent);
	if (!rc)
		rc = fs_child_open(fs, a->dir, &op.ent, &ip);
	if (!rc)
		rc = remove_check(a, dir, ip);
	if (!rc)
		rc = fs_log_reserve(fs, 0);
	if (!rc)
		remove_tx(fs, dir, ip, &op);
	fs_dirop_done(fs, &op);
	if (ip)
		fs_inode_put(fs, ip);
	if (dir)
		fs_inode_put(fs, dir);
	return rc;
}

static int remove_name(struct fs *fs, const struct fs_cred *c, uint64_t dir, const char *name, size_t len, bool rmdir)
{
	struct name_arg a = {.cred = c, .dir = dir, .name = name, .len = len, .rmdir = rmdir};
	int rc = fs_name_enter(fs, rmdir ? FS_OP_RMDIR : FS_OP_UNLINK, true);

	if (!rc)
		rc = fs_name_check(name, len);
	if (rc)
		return rc;
	if (fs_name_dots(name, len))
		return !rmdir ? -EISDIR : len == 1 ? -EINVAL : -ENOTEMPTY;
	return fs_take_run(fs, fs_nowait(c), remove_once, &a);
}

int fs_unlink(struct fs *fs, const struct fs_cred *c, uint64_t dir, const char *name, size_t len)
{
	return remove_name(fs, c, dir, name, len, false);
}

int fs_rmdir(struct fs *fs, const struct fs_cred *c, uint64_t dir, const char *name, size_t len)
{
	return remove_name(fs, c, dir, name, len, true);
}

/* ---- listing ------------------------------------------------------------------------------------------------------- */
struct list_arg {
	struct fs *fs;
	uint64_t dir, cookie, listed;
	bool want_attr;
	fs_dirent_fn emit;
	void *arg;
};

/* In memory, or its block is (ahead.c): nothing is read. INODE is pinned. */
static struct fs_inode *list_inode(struct fs *fs, uint64_t ino)
{
	struct fs_inode *ip = fs_inode_find(fs, ino);
	struct fs_buf *b;
	fs_addr a;

	if (ip && ip->buf)
		return ip;
	if (ip)
		fs_inode_put(fs, ip);
	if (fs_ino_addr(fs, ino, &a) || !(b = fs_buf_peek(fs, a)))
		return NULL;
	fs_buf_put(fs, b);
	return fs_inode_get(fs, ino, &ip) ? NULL : ip;
}

/* Attributes of a child when they cost nothing: token here, inode in memory. */
static bool list_attr(struct list_arg *a, const struct fs_dirent *e, struct fs_attr *out)
{
	struct tok_pin pin = {0};
	struct fs_inode *ip;
	bool known;

	if (tok_pin(a->fs->tok, TOK_INODE, e->ino, TOK_SH, 0, TOK_END, TOK_NOWAIT | TOK_TRY, &pin))
		return false;
	ip = list_inode(a->fs, e->ino);
	known = ip && ip->buf && ip->gen == e->gen;
	if (known) {
		fs_inode_attr(a->fs, ip, out);
		fs_entry_attr(a->fs, a->dir, out);
	}
	if (ip)
		fs_inode_put(a->fs, ip);
	tok_unpin(a->fs->tok, &pin);
	return known;
}

static bool list_entry(void *arg, const struct fs_dirent *e, const char *name, size_t len)
{
	struct list_arg *a = arg;
	struct fs_attr attr;
	bool known = a->want_attr && list_attr(a, e, &attr);

	if (!a->emit(a->arg, name, len, e->ino, e->type, e->cookie, known ? &attr : NULL))
		return false;
	fs_ahead_listed(a->fs, a->dir, a->listed, e);
	a->listed = e->cookie;
	return true;
}

static int list_dir(struct list_arg *a, struct fs_inode *dir)
{
	uint64_t parent = le64_get(fs_idisk(dir)->parent);

	a->listed = TS_MAX(a->cookie, 2u);
	if (a->cookie < 1 && !a->emit(a->arg, ".", 1, a->dir, DT_DIR, 1, NULL))
		return 0;
	if (a->cookie < 2 && !a->emit(a->arg, "..", 2, parent, DT_DIR, 2, NULL))
		return 0;
	return fs_dir_iterate(a->fs, dir, a->cookie, list_entry, a);
}

static int list_once(struct fs_take *t, void *arg)
{
	struct list_arg *a = arg;
	struct fs_inode *dir;
	int rc;

	fs_take_add(t, TOK_DIR, a->dir, TOK_SH);
	fs_take_add(t, TOK_INODE, a->dir, TOK_SH);
	rc = fs_take_all(t);
	if (rc)
		return rc;
	rc = fs_dir_open(a->fs, a->dir, &dir);
	if (rc)
		return rc;
	rc = list_dir(a, dir);
	fs_inode_put(a->fs, dir);
	return rc;
}

int fs_readdir(struct fs *fs, const struct fs_cred *c, uint64_t dir, uint64_t cookie, bool want_attr, fs_dirent_fn emit, void *arg)
{
	struct list_arg a = {.fs = fs, .dir = dir, .cookie = cookie, .want_attr = want_attr, .emit = emit, .arg = arg};
	int rc = fs_name_enter(fs, FS_OP_READDIR, false);

	struct fs_inode *ip;

	if (!rc)
		rc = fs_take_run(fs, fs_nowait(c), list_once, &a);
	ip = rc || fs->args.nodiratime ? NULL : fs_inode_find(fs, dir);
	if (ip) {
		fs_atime(fs, ip);
		fs_inode_put(fs, ip);
	}
	return rc;
}
