/* SPDX-License-Identifier: Apache-2.0 */
/* Job: open files: create, O_TMPFILE, open, release. An open file pins OPEN SH of its inode, which keeps the inode from being
 * freed by whatever node removes its last name.
 * Must never happen: a handle without that pin; a handle on an inode that was freed and made anew since its name was read. */
#include "fs/names.h"

#include <fcntl.h>

void fs_file_attach(struct fs *fs, struct fs_file *f, struct fs_inode *ip)
{
	f->ip = ip;
	f->wb_error_seen = ip->wb_error_seq;
	ip->opens++;
	fs->nfiles++;
	ts_list_push_back(&fs->files, &f->link);
}

static struct fs_file *file_new(struct fs *fs, int flags)
{
	struct fs_file *f = ts_alloc(sizeof(*f));

	if (!f)
		return NULL;
	f->fs = fs;
	f->flags = flags & ~(O_CREAT | O_EXCL | O_TRUNC | O_NOCTTY);
	ts_list_init(&f->link);
	return f;
}

uint64_t fs_file_ino(const struct fs_file *f)
{
	return f->ip->ino;
}

bool fs_file_writes(const struct fs_file *f)
{
	return (f->flags & O_ACCMODE) != O_RDONLY;
}

void fs_release(struct fs *fs, struct fs_file *f)
{
	struct fs_inode *ip = f->ip;

	ts_list_del(&f->link);
	fs->nfiles--;
	tok_lock_release(fs->tok, ip->ino, (uintptr_t)f);
	tok_unpin(fs->tok, &f->open_pin);
	TS_ASSERT(ip->opens && ip->maps >= f->maps);
	ip->maps -= f->maps;
	if (!--ip->opens)
		fs_inode_closed(fs, ip);
	fs_inode_put(fs, ip);
	ts_free(f);
}

void fs_file_maps(struct fs_file *f)
{
	f->ip->maps += !f->maps;
	f->maps = true;
}

/* ---- open ---------------------------------------------------------------------------------------------------------- */
struct open_arg {
	uint64_t ino;
	uint32_t gen; /* 0: any */
	int flags;
	bool kill_suid;
	struct fs_file *file;
	struct fs_attr *out; /* or NULL */
};

static int open_check(const struct open_arg *a, struct fs_inode *ip)
{
	bool writes = (a->flags & O_ACCMODE) != O_RDONLY || a->flags & O_TRUNC;

	if (a->gen && ip->gen != a->gen)
		return -ESTALE;
	if (fs_is_dir(ip))
		return -EISDIR;
	if (S_ISLNK(le16_get(fs_idisk(ip)->mode)))
		return -ELOOP;
	if (!S_ISREG(le16_get(fs_idisk(ip)->mode)))
		return -ENXIO;
	if (writes && fs_has_flag(ip, FS_IF_IMMUTABLE))
		return -EPERM;
	return writes && fs_has_flag(ip, FS_IF_APPEND) && (a->flags & O_TRUNC || !(a->flags & O_APPEND)) ? -EPERM : 0;
}

static int open_truncate(struct fs *fs, struct fs_inode *ip, bool kill_suid)
{
	int rc = kill_suid ? fs_suid_drop(fs, ip) : 0;

	if (!rc && ip->size)
		rc = fs_data_truncate(fs, ip, 0);
	if (!rc) {
		ip->mtime_ns = ip->ctime_ns = fs_now_ns(fs);
		fs_inode_lazy(fs, ip);
	}
	return rc;
}

static int open_once(struct fs_take *t, void *arg)
{
	struct open_arg *a = arg;
	bool trunc = a->flags & O_TRUNC;
	struct fs_inode *ip;
	int rc;

	fs_take_add(t, TOK_OPEN, a->ino, TOK_SH);
	if (trunc)
		fs_take_add(t, TOK_DATA, a->ino, TOK_EX);
	fs_take_add(t, TOK_INODE, a->ino, trunc ? TOK_EX : TOK_SH);
	rc = fs_take_all(t);
	if (rc)
		return rc;
	rc = fs_inode_get(t->fs, a->ino, &ip);
	if (rc)
		return rc;
	rc = open_check(a, ip);
	if (!rc && trunc)
		rc = open_truncate(t->fs, ip, a->kill_suid);
	if (rc) {
		fs_inode_put(t->fs, ip);
		return rc;
	}
	if (a->out)
		fs_inode_attr(t->fs, ip, a->out);
	fs_file_attach(t->fs, a->file, ip);
	a->file->open_pin = fs_take_keep(t, TOK_OPEN, a->ino);
	return 0;
}

static int open_ino(struct fs *fs, const struct fs_cred *c, uint64_t ino, uint32_t gen, int flags, struct fs_file **out, struct fs_attr *attr)
{
	struct open_arg a = {.ino = ino, .gen = gen, .flags = flags, .kill_suid = c->flags & FS_KILL_SUID, .file = file_new(fs, flags), .out = attr};
	int rc;

	if (!a.file)
		return -ENOMEM;
	rc = fs_take_run(fs, fs_nowait(c), open_once, &a);
	if (rc)
		ts_free(a.file);
	else
		*out = a.file;
	return rc;
}

int fs_open(struct fs *fs, const struct fs_cred *c, uint64_t ino, int flags, struct fs_file **out)
{
	int rc = fs_name_enter(fs, FS_OP_OPEN, (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC);

	return rc ? rc : open_ino(fs, c, ino, 0, flags, out, NULL);
}

/* ---- create -------------------------------------------------------------------------------------------------------- */

/* The OPEN token of the new inode was elsewhere: waits for it, holding nothing, and looks whether the inode is still there. */
static int create_pin_late(struct fs *fs, struct fs_file *f)
{
	struct tok_pin pin = {0};
	struct fs_inode *ip;
	uint32_t gen = f->ip->gen;
	int rc = tok_pin(fs->tok, TOK_OPEN, f->ip->ino, TOK_SH, 0, TOK_END, 0, &f->open_pin);

	if (rc)
		return rc;
	rc = tok_pin(fs->tok, TOK_INODE, f->ip->ino, TOK_SH, 0, TOK_END, 0, &pin);
	if (rc) {
		tok_unpin(fs->tok, &f->open_pin); /* tried again from the beginning */
		f->open_pin = (struct tok_pin){0};
		return rc;
	}
	rc = fs_inode_get(fs, f->ip->ino, &ip);
	if (!rc) {
		rc = ip->gen == gen ? 0 : -ESTALE;
		fs_inode_put(fs, ip);
	}
	tok_unpin(fs->tok, &pin);
	return rc;
}

static int create_new(struct fs *fs, struct fs_make *m, int flags, struct fs_file **out)
{
	unsigned tries = 0;
	int rc;

	m->file = file_new(fs, flags);
	if (!m->file)
		return -ENOMEM;
	rc = fs_take_run(fs, fs_nowait(m->cred), fs_make_once, m);
	if (rc) {
		ts_free(m->file);
		return rc;
	}
	if (!m->file->open_pin.tok)
		do /* it is made: not to be told otherwise */
			rc = create_pin_late(fs, m->file);
		while (fs_memory_wait(fs, rc, &tries));
	if (rc)
		fs_release(fs, m->file);
	else
		*out = m->file;
	return rc;
}

int fs_create(struct fs *fs, const struct fs_cred *c, uint64_t dir, const char *name, size_t len, uint32_t mode, int flags,
	      struct fs_file **out, struct fs_attr *attr)
{
	struct fs_make m = {.cred = c, .dir = dir, .name = name, .len = len, .mode = S_IFREG | (mode & 07777), .out = attr};
	int rc = fs_name_enter(fs, FS_OP_CREATE, true);

	if (!rc)
		rc = fs_name_check(name, len);
	if (rc)
		return rc;
	if (fs_name_dots(name, len))
		return flags & O_EXCL ? -EEXIST : -EISDIR;
	/* A name that is there is opened; one that went between the two is made again. */
	for (int tries = 0; tries < 100; tries++) {
		rc = create_new(fs, &m, flags, out);
		if (rc != -EEXIST || flags & O_EXCL)
			return rc;
		rc = open_ino(fs, c, m.exists.ino, m.exists.gen, flags, out, attr);
		if (rc != -ESTALE)
			return rc;
	}
	return -EBUSY;
}

int fs_tmpfile(struct fs *fs, const struct fs_cred *c, uint64_t dir, uint32_t mode, int flags, struct fs_file **out, struct fs_attr *attr)
{
	struct fs_make m = {.cred = c, .dir = dir, .mode = S_IFREG | (mode & 07777), .linkable = !(flags & O_EXCL), .out = attr};
	int rc = fs_name_enter(fs, FS_OP_TMPFILE, true);

	return rc ? rc : create_new(fs, &m, flags, out);
}
