/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a new inode in one transaction: taken from this node's own segment, filled, named (or an orphan from birth), with all
 * that it inherits from its directory.
 * Must never happen: a name without an inode or an inode without name and intent, whatever fails or crashes in between; a new
 * entry in a removed directory. */
#include "fs/alloc_int.h"
#include "fs/names.h"
#include "fs/xattr_int.h"

#include <dirent.h>

/* What one call collects before its transaction. */
struct making {
	struct fs_make *m;
	struct fs *fs;
	struct fs_inode *dir;
	struct fs_dirop op;
	uint64_t ino;
	uint32_t gen, mode, gid;
	struct tok_pin pin, open_pin;
	struct fs_buf *buf, *rest; /* rest: of a long symlink target */
	struct fs_ext rest_ext;
	uint16_t xattr_len;
	uint8_t xattrs[FS_XATTR_INLINE_MAX];
};

static int make_inherit(struct making *k)
{
	struct fs_inode_disk *d = fs_idisk(k->dir);
	uint32_t mode = k->m->mode & (S_IFMT | 07777), dir_mode = le16_get(d->mode);
	int rc = 0;

	k->gid = k->m->cred->gid;
	if (dir_mode & S_ISGID) {
		k->gid = le32_get(d->gid);
		if (S_ISDIR(mode))
			mode |= S_ISGID;
	}
	k->mode = mode;
	if (S_ISLNK(mode))
		k->mode = S_IFLNK | 0777;
	else
		rc = fs_xattr_inherit(k->fs, k->dir, k->m->cred->umask, &k->mode, k->xattrs, &k->xattr_len);
	TS_ASSERT(rc || k->xattr_len <= FS_XATTR_INLINE_MAX);
	return rc;
}

static bool long_target(const struct making *k)
{
	return S_ISLNK(k->mode) && strlen(k->m->target) > FS_TARGET_INLINE;
}

static void rest_undo(struct making *k)
{
	if (!k->rest)
		return;
	fs_alloc_untake(k->fs, &k->rest_ext);
	fs_buf_put(k->fs, k->rest);
	k->rest = NULL;
}

/* Everything that may wait or fail. */
static int make_prepare(struct making *k)
{
	struct fs_make *m = k->m;
	int rc;

	if (fs_has_flag(k->dir, FS_IF_IMMUTABLE))
		return -EPERM;
	if (m->name) {
		rc = fs_dir_insert_prepare(k->fs, k->dir, m->name, m->len, &k->op);
		if (rc == -EEXIST)
			m->exists = k->op.ent;
		if (rc)
			return rc;
	}
	if (S_ISDIR(m->mode) && le32_get(fs_idisk(k->dir)->nlink) >= FS_LINK_MAX)
		return -EMLINK;
	rc = make_inherit(k);
	if (!rc)
		rc = fs_ialloc_take(k->fs, &k->ino, &k->pin, &k->buf, &k->gen);
	if (rc)
		return rc;
	/* Nobody can know the inode yet; should its OPEN token still be elsewhere, the caller asks for it later. */
	if (m->file && (rc = tok_pin(k->fs->tok, TOK_OPEN, k->ino, TOK_SH, 0, TOK_END, TOK_NOWAIT | TOK_TRY, &k->open_pin))) {
		k->open_pin = (struct tok_pin){0};
		rc = rc == -ENOMEM ? rc : 0; /* behind the commit it would be too late to say so */
	}
	if (!rc && long_target(k))
		rc = fs_xattr_target_prepare(k->fs, k->ino, k->gen, &k->rest_ext, &k->rest);
	if (!rc)
		rc = fs_log_reserve(k->fs, 0);
	if (!rc)
		rc = fs_inode_spare(k->fs); /* for make_result; no wait from here to there */
	if (rc) {
		rest_undo(k);
		tok_unpin(k->fs->tok, &k->open_pin);
		fs_ialloc_untake(k->fs, k->ino, &k->pin, k->buf);
	}
	return rc;
}

static void make_payload(struct making *k, struct fs_inode_disk *d)
{
	le64 rdev = le64_make(k->m->rdev);
	size_t len;

	switch (k->mode & S_IFMT) {
	case S_IFREG:
		d->payload_type = FS_PL_INLINE;
		break;
	case S_IFDIR:
		d->payload_type = FS_PL_DIRINLINE;
		break;
	case S_IFLNK:
		len = strlen(k->m->target);
		d->size = le64_make(len);
		d->payload_type = k->rest ? FS_PL_TARGET : FS_PL_INLINE;
		len = TS_MIN(len, (size_t)FS_TARGET_INLINE);
		d->inline_len = le16_make((uint16_t)len);
		memcpy(d->payload, k->m->target, len);
		break;
	case S_IFCHR:
	case S_IFBLK:
		d->payload_type = FS_PL_DEVICE;
		memcpy(d->payload, &rdev, sizeof(rdev));
		break;
	}
	if (k->xattr_len)
		memcpy(d->payload + FS_INODE_PAYLOAD - k->xattr_len, k->xattrs, k->xattr_len);
	d->xattr_len = le16_make(k->xattr_len);
}

static void make_inode_tx(struct making *k, struct fs_tx *tx)
{
	struct fs_inode_disk *d = (struct fs_inode_disk *)k->buf->data, *dir = fs_idisk(k->dir);
	bool isdir = S_ISDIR(k->mode);
	uint32_t flags = 0;

	fs_inode_init_tx(k->fs, tx, k->buf, k->ino, k->gen, k->mode, k->m->cred->uid, k->gid, isdir ? k->m->dir : 0);
	make_payload(k, d);
	if (k->rest)
		fs_xattr_target_tx(k->fs, tx, d, k->rest, &k->rest_ext, k->m->target + FS_TARGET_INLINE, strlen(k->m->target) - FS_TARGET_INLINE);
	d->nlink = le32_make(!k->m->name ? 0 : isdir ? 2 : 1);
	if (le32_get(dir->flags) & FS_IF_PROJINHERIT) {
		d->project = dir->project;
		flags |= isdir ? FS_IF_PROJINHERIT : 0;
	}
	if (isdir || S_ISREG(k->mode)) {
		d->pool = (uint8_t)fs_pool_known(k->fs, dir->pool);
		d->stripe = dir->stripe;
	}
	if (!k->m->name) {
		flags |= FS_IF_ORPHAN | (k->m->linkable ? FS_IF_TMPFILE : 0);
		fs_reaper_orphan(k->fs, fs_tx_intent(tx, FS_INTENT_ORPHAN, 0, k->ino, k->gen), k->ino, k->gen);
	}
	d->flags = le32_make(le32_get(d->flags) | flags);
}

static void make_commit(struct making *k)
{
	struct fs_make *m = k->m;
	struct fs_tx tx;

	fs_tx_begin(k->fs, &tx);
	make_inode_tx(k, &tx);
	if (m->name) {
		fs_dir_insert_tx(k->fs, &tx, k->dir, &k->op, m->name, m->len, k->ino, k->gen, IFTODT(k->mode));
		if (S_ISDIR(k->mode))
			fs_links_add(k->dir, 1);
	}
	fs_tx_commit(&tx);
	if (k->rest)
		fs_buf_put(k->fs, k->rest);
}

static int make_result(struct making *k)
{
	struct fs_make *m = k->m;
	struct fs_inode *ip;
	int rc = fs_inode_get(k->fs, k->ino, &ip);

	if (rc)
		goto out;
	if (m->out) {
		fs_inode_attr(k->fs, ip, m->out);
		if (m->name)
			fs_entry_attr(k->fs, m->dir, m->out);
	}
	if (m->file) {
		fs_file_attach(k->fs, m->file, ip);
		m->file->open_pin = k->open_pin;
		k->open_pin = (struct tok_pin){0};
	} else {
		fs_inode_put(k->fs, ip);
	}
out:
	tok_unpin(k->fs->tok, &k->open_pin);
	fs_buf_put(k->fs, k->buf);
	tok_unpin(k->fs->tok, &k->pin);
	return rc;
}

int fs_make_once(struct fs_take *t, void *arg)
{
	struct making k = {.m = arg, .fs = t->fs};
	int rc;

	if (k.m->name)
		fs_take_add(t, TOK_DIR, k.m->dir, TOK_EX);
	fs_take_add(t, TOK_INODE, k.m->dir, k.m->name ? TOK_EX : TOK_SH);
	rc = fs_take_all(t);
	if (rc)
		return rc;
	rc = fs_dir_open(k.fs, k.m->dir, &k.dir);
	if (rc)
		return rc;
	rc = make_prepare(&k);
	if (!rc) {
		make_commit(&k);
		rc = make_result(&k);
	}
	fs_dirop_done(k.fs, &k.op);
	fs_inode_put(k.fs, k.dir);
	return rc;
}
