/* SPDX-License-Identifier: Apache-2.0 */
/* Job: attributes, symlink targets, statfs. What must never happen: a size changed without DATA EX and INODE EX, or an
 * attribute changed without ctime. getattr of what is cached takes no memory and no message. */
#include "fs/take.h"
#include "fs/xattr_int.h"

int fs_getattr(struct fs *fs, const struct fs_cred *c, uint64_t ino, struct fs_attr *out)
{
	struct tok_pin pin = {0};
	struct fs_inode *ip;
	int rc = fs_enter(fs, FS_OP_GETATTR);

	if (!rc)
		rc = tok_pin(fs->tok, TOK_INODE, ino, TOK_SH, 0, TOK_END, c->flags & FS_NOWAIT ? TOK_NOWAIT : 0, &pin);
	if (rc)
		return rc == -TS_ERR_FENCED ? -EIO : rc;
	rc = fs_inode_get(fs, ino, &ip);
	if (!rc) {
		fs_inode_attr(fs, ip, out);
		fs_inode_put(fs, ip);
	}
	tok_unpin(fs->tok, &pin);
	return rc;
}

/* ---- setattr ---------------------------------------------------------------------------------------------------------- */
struct set {
	const struct fs_cred *cred;
	uint64_t ino;
	const struct fs_setattr *s;
	struct fs_attr *out;
};

/* utime without times, which an append-only file takes as it takes a write. */
static bool touch_only(unsigned valid)
{
	const unsigned now = FS_SET_ATIME_NOW | FS_SET_MTIME_NOW;

	return (valid & now) == now && !(valid & ~(now | FS_SET_ATIME | FS_SET_MTIME));
}

static int set_check(struct fs_inode *ip, const struct fs_setattr *s)
{
	unsigned mode = le16_get(fs_idisk(ip)->mode);
	uint32_t flags = le32_get(fs_idisk(ip)->flags);

	if (!(s->valid & ~(unsigned)(FS_SET_FLAGS | FS_SET_PROJECT)))
		return 0; /* the way back */
	if (flags & FS_IF_IMMUTABLE || (flags & FS_IF_APPEND && !touch_only(s->valid)))
		return -EPERM;
	if (!(s->valid & FS_SET_SIZE))
		return 0;
	if (S_ISDIR(mode))
		return -EISDIR;
	if (!S_ISREG(mode))
		return -EINVAL;
	return s->size > (uint64_t)FS_MAX_SIZE ? -EFBIG : 0;
}

static uint32_t new_mode(const struct fs_inode_disk *d, const struct fs_setattr *s)
{
	uint32_t mode = le16_get(d->mode);
	bool chown = s->valid & (FS_SET_UID | FS_SET_GID);

	if (s->valid & FS_SET_MODE)
		mode = (mode & S_IFMT) | (s->mode & 07777);
	if ((s->valid & FS_SET_KILL_SUID || (chown && !(s->valid & FS_SET_MODE))) && !S_ISDIR(mode)) {
		mode &= ~(uint32_t)S_ISUID;
		if (mode & S_IXGRP)
			mode &= ~(uint32_t)S_ISGID;
	}
	return mode;
}

/* Who is told nothing keeps the bits: the kernel's own idea of what a write or an open changes does not have the mode in it. */
int fs_suid_drop(struct fs *fs, struct fs_inode *ip)
{
	const struct fs_upcalls *up = &fs->args.up;
	unsigned mode = le16_get(fs_idisk(ip)->mode), now = mode & ~(unsigned)S_ISUID;
	struct fs_tx tx;
	int rc;

	if (mode & S_IXGRP)
		now &= ~(unsigned)S_ISGID;
	if (now == mode)
		return 0;
	rc = fs_log_reserve(fs, 0);
	if (rc)
		return rc;
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, ip->buf);
	fs_idisk(ip)->mode = le16_make((uint16_t)now);
	fs_inode_update_tx(fs, &tx, ip);
	(void)fs_tx_commit(&tx);
	if (up->inval_attr)
		up->inval_attr(up->arg, ip->ino);
	return 0;
}

static void set_times(struct fs *fs, struct fs_inode *ip, const struct fs_setattr *s)
{
	int64_t now = fs_now_ns(fs);

	if (s->valid & FS_SET_ATIME_NOW)
		ip->atime_ns = now;
	else if (s->valid & FS_SET_ATIME)
		ip->atime_ns = s->atime_ns;
	if (s->valid & FS_SET_MTIME_NOW)
		ip->mtime_ns = now;
	else if (s->valid & FS_SET_MTIME)
		ip->mtime_ns = s->mtime_ns;
	else if (s->valid & FS_SET_SIZE)
		ip->mtime_ns = now;
	ip->ctime_ns = s->valid & FS_SET_CTIME ? s->ctime_ns : now;
}

static int set_fields(struct fs *fs, struct fs_inode *ip, const struct fs_setattr *s)
{
	struct fs_inode_disk *d;
	struct fs_buf *acl = NULL;
	struct fs_tx tx;
	int rc = 0;

	if (s->valid & FS_SET_MODE)
		rc = fs_acl_chmod_prepare(fs, ip, &acl);
	if (!rc)
		rc = fs_log_reserve(fs, 4 * FS_SUB);
	if (rc)
		goto out;
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, ip->buf);
	d = fs_idisk(ip);
	d->mode = le16_make((uint16_t)new_mode(d, s));
	if (s->valid & FS_SET_UID)
		d->uid = le32_make(s->uid);
	if (s->valid & FS_SET_GID)
		d->gid = le32_make(s->gid);
	if (s->valid & FS_SET_PROJECT)
		d->project = le32_make(s->project);
	if (s->valid & FS_SET_FLAGS)
		d->flags = le32_make((le32_get(d->flags) & ~(uint32_t)FS_FLAGS_USER) | (s->flags & FS_FLAGS_USER));
	if (s->valid & FS_SET_MODE)
		fs_acl_chmod_tx(&tx, ip, acl, le16_get(d->mode));
	set_times(fs, ip, s);
	fs_inode_update_tx(fs, &tx, ip);
	fs_tx_commit(&tx);
out:
	if (acl)
		fs_buf_put(fs, acl);
	return rc;
}

static int set_once(struct fs_take *t, void *arg)
{
	struct set *a = arg;
	struct fs_inode *ip;
	int rc;

	if (a->s->valid & FS_SET_SIZE)
		fs_take_add(t, TOK_DATA, a->ino, TOK_EX);
	fs_take_add(t, TOK_INODE, a->ino, TOK_EX);
	rc = fs_take_all(t);
	if (!rc)
		rc = fs_inode_get(t->fs, a->ino, &ip);
	if (rc)
		return rc;
	rc = set_check(ip, a->s);
	if (!rc && a->s->valid & FS_SET_SIZE)
		rc = fs_data_truncate(t->fs, ip, a->s->size);
	if (!rc && a->s->valid)
		rc = set_fields(t->fs, ip, a->s);
	if (!rc && a->out)
		fs_inode_attr(t->fs, ip, a->out);
	fs_inode_put(t->fs, ip);
	return rc;
}

int fs_setattr(struct fs *fs, const struct fs_cred *c, uint64_t ino, const struct fs_setattr *s, struct fs_attr *out)
{
	struct set a = {.cred = c, .ino = ino, .s = s, .out = out};
	int rc = fs_enter(fs, FS_OP_SETATTR);

	if (!rc && fs->args.read_only)
		rc = -EROFS;
	return rc ? rc : fs_take_run(fs, c->flags & FS_NOWAIT, set_once, &a);
}

/* ---- readlink, statfs ------------------------------------------------------------------------------------------------- */
static int readlink_pinned(struct fs *fs, struct fs_inode *ip, char *buf, size_t size)
{
	const struct fs_inode_disk *d = fs_idisk(ip);
	unsigned len = le16_get(d->inline_len);
	int rest = 0;

	if (!S_ISLNK(le16_get(d->mode)))
		return -EINVAL;
	if ((d->payload_type != FS_PL_INLINE && d->payload_type != FS_PL_TARGET) || len > FS_INODE_PAYLOAD)
		return -EUCLEAN;
	len = (unsigned)TS_MIN((size_t)len, size);
	memcpy(buf, d->payload, len);
	if (d->payload_type == FS_PL_TARGET)
		rest = fs_xattr_target_rest(fs, ip, buf + len, size - len);
	return rest < 0 ? rest : (int)len + rest;
}

int fs_readlink(struct fs *fs, const struct fs_cred *c, uint64_t ino, char *buf, size_t size)
{
	struct tok_pin pin = {0};
	struct fs_inode *ip;
	int rc = fs_enter(fs, FS_OP_READLINK);

	if (!rc)
		rc = tok_pin(fs->tok, TOK_INODE, ino, TOK_SH, 0, TOK_END, c->flags & FS_NOWAIT ? TOK_NOWAIT : 0, &pin);
	if (rc)
		return rc == -TS_ERR_FENCED ? -EIO : rc;
	rc = fs_inode_get(fs, ino, &ip);
	if (!rc) {
		rc = readlink_pinned(fs, ip, buf, size);
		fs_inode_put(fs, ip);
	}
	tok_unpin(fs->tok, &pin);
	return rc;
}

int fs_statfs(struct fs *fs, struct statvfs *out)
{
	struct fs_room room;
	int rc = fs_enter(fs, FS_OP_STATFS);

	if (!rc)
		rc = fs_alloc_statfs(fs, &room);
	if (rc)
		return rc;
	*out = (struct statvfs){
		.f_bsize = fs->block_size,
		.f_frsize = FS_SUB,
		.f_blocks = room.total,
		.f_bfree = room.free,
		.f_bavail = room.data,
		.f_files = room.inodes,
		.f_ffree = room.free_inodes,
		.f_favail = room.free_inodes,
		.f_fsid = fs->group,
		.f_flag = fs->args.read_only ? ST_RDONLY : 0,
		.f_namemax = FS_NAME_MAX,
	};
	return 0;
}
