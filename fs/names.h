/* SPDX-License-Identifier: Apache-2.0 */
/* What the operations on names share (ops_name.c, ops_create.c, ops_rename.c, make.c). */
#ifndef TESSERA_FS_NAMES_H
#define TESSERA_FS_NAMES_H

#include "fs/take.h"

/* fs_enter, and -EROFS for what changes. */
int fs_name_enter(struct fs *fs, enum fs_op op, bool changes) TS_MUST_CHECK;
/* -ENAMETOOLONG, -ENOENT (empty), -EINVAL ('/' or NUL inside). */
int fs_name_check(const char *name, size_t len) TS_MUST_CHECK;
/* 1 for ".", 2 for "..", else 0. */
unsigned fs_name_dots(const char *name, size_t len);
static inline bool fs_nowait(const struct fs_cred *c)
{
	return c->flags & FS_NOWAIT;
}

/* INODE pinned: a living directory. -ENOTDIR, -ENOENT (removed), -ESTALE. */
int fs_dir_open(struct fs *fs, uint64_t ino, struct fs_inode **out) TS_MUST_CHECK;
/* DIR of dir and INODE of the child pinned: the inode that an entry names; -EUCLEAN when it is another or none. */
int fs_child_open(struct fs *fs, uint64_t dir, const struct fs_dirent *e, struct fs_inode **out) TS_MUST_CHECK;
static inline bool fs_is_dir(struct fs_inode *ip)
{
	return S_ISDIR(le16_get(fs_idisk(ip)->mode));
}
static inline bool fs_has_flag(struct fs_inode *ip, uint32_t any)
{
	return le32_get(fs_idisk(ip)->flags) & any;
}
/* In tx already. */
void fs_links_add(struct fs_inode *ip, int delta);
/* A name of a non-directory, or the only one of an empty directory, goes: link count, dead mark, orphan. */
void fs_unname_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *ip, int64_t now);

/* ---- make.c: a new inode, under a name or without one -------------------------------------------------------------- */
struct fs_make {
	const struct fs_cred *cred;
	uint64_t dir;
	const char *name; /* NULL: none (O_TMPFILE) */
	size_t len;
	uint32_t mode;
	uint64_t rdev;
	const char *target;
	bool linkable;		 /* without a name: may be given one */
	struct fs_file *file;	 /* to be opened, or NULL */
	struct fs_attr *out;
	struct fs_dirent exists; /* set with -EEXIST */
};
int fs_make_once(struct fs_take *t, void *arg); /* arg: struct fs_make; for fs_take_run */

/* ---- ops_create.c -------------------------------------------------------------------------------------------------- */
/* ip's reference goes to f; INODE pinned. f->open_pin is the caller's to set. */
void fs_file_attach(struct fs *fs, struct fs_file *f, struct fs_inode *ip);

#endif
