/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what each operation on names must answer, and what it does to the model's tree. The order of the
 * checks is Linux's (fs/namei.c), for an operation may have several reasons to fail. What must never happen:
 * a name moves and the inode's number of links does not say so. */
#include "model_int.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>

/* ---- listings: "name type" in order of names ---- */
static int by_name(const void *a, const void *b)
{
	return strcmp(a, b);
}

static void listing(struct model *m, int dir, struct model_answer *want)
{
	char names[MODEL_ENTRIES][16];
	unsigned n = 0;

	for (unsigned k = 0; k < MODEL_ENTRIES; k++)
		if (m->i[dir].e[k].ino >= 0)
			memcpy(names[n++], m->i[dir].e[k].name, 16);
	qsort(names, n, 16, by_name);
	for (unsigned k = 0; k < n; k++) {
		uint32_t mode = m->i[model_entry(m, dir, names[k])].mode;
		size_t at = want->len, len = strlen(names[k]) + 3;
		snprintf(model_answer_bytes(want, at + len) + at, len + 1, "%s %c\n", names[k],
			 S_ISDIR(mode)	 ? 'd'
			 : S_ISLNK(mode) ? 'l'
					 : 'f');
	}
}

bool model_op_list(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_found f;
	int rc = model_walk(m, op->p, true, &f);

	want->err = rc ? -rc : f.ino < 0 ? ENOENT : S_ISDIR(m->i[f.ino].mode) ? 0 : ENOTDIR;
	if (!want->err)
		listing(m, f.ino, want);
	return true;
}

bool model_op_hlist(struct model *m, const struct model_op *op, struct model_answer *want)
{
	int ino = m->h[op->mount][op->slot].ino;

	if (ino < 0 || !S_ISDIR(m->i[ino].mode) || !m->i[ino].nlink)
		return false;
	listing(m, ino, want);
	return true;
}

/* ---- making ---- */
/* A new name that must not be there. False with want->err 0: there is no room in the model. */
static bool make(struct model *m, const char *path, struct model_found *f, struct model_answer *want)
{
	int rc = model_walk(m, path, false, f);

	want->err = rc ? -rc : f->ino >= 0 ? EEXIST : 0;
	return !want->err && model_room(m, f->dir);
}

bool model_op_mkdir(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_found f;
	bool can = make(m, op->p, &f, want);
	int ino = can ? model_new(m, S_IFDIR | (op->flags & 07777)) : -1;

	if (ino < 0)
		return want->err;
	m->i[ino].nlink = 2;
	model_enter(m, f.dir, f.name, ino);
	return true;
}

bool model_op_symlink(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_found f;
	bool can = make(m, op->p, &f, want);
	int ino = can ? model_new(m, S_IFLNK | 0777) : -1;

	if (ino < 0)
		return want->err;
	m->i[ino].nlink = 1;
	memcpy(m->i[ino].target, op->q, MODEL_PATH);
	model_enter(m, f.dir, f.name, ino);
	return true;
}

bool model_op_readlink(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_found f;
	int rc = model_walk(m, op->p, false, &f);

	want->err = rc ? -rc : f.ino < 0 ? ENOENT : S_ISLNK(m->i[f.ino].mode) ? 0 : EINVAL;
	if (!want->err) {
		size_t len = strlen(m->i[f.ino].target);
		memcpy(model_answer_bytes(want, len), m->i[f.ino].target, len);
	}
	return true;
}

bool model_op_link(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_found from, to;
	int rc = model_walk(m, op->p, false, &from);

	want->err = rc ? -rc : from.ino < 0 ? ENOENT : 0;
	if (want->err)
		return true;
	bool can = make(m, op->q, &to, want);
	if (want->err)
		return true;
	if (S_ISDIR(m->i[from.ino].mode)) {
		want->err = EPERM;
		return true;
	}
	if (!can)
		return false;
	m->i[from.ino].nlink++;
	model_touch(m, from.ino);
	model_enter(m, to.dir, to.name, from.ino);
	return true;
}

/* ---- removing ---- */
/* A name goes, and one link of its inode. */
static void drop(struct model *m, const struct model_found *f)
{
	struct model_inode *i = &m->i[f->ino];

	model_remove(m, f->dir, f->name);
	i->nlink = S_ISDIR(i->mode) ? 0 : i->nlink - 1;
	model_touch(m, f->ino);
	model_unref(m, f->ino);
}

bool model_op_unlink(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_found f;
	int rc = model_walk(m, op->p, false, &f);

	want->err = rc ? -rc : f.ino < 0 ? ENOENT : S_ISDIR(m->i[f.ino].mode) ? EISDIR : 0;
	if (!want->err)
		drop(m, &f);
	return true;
}

bool model_op_rmdir(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_found f;
	int rc = model_walk(m, op->p, false, &f);

	want->err = rc				 ? -rc
		    : f.ino < 0			 ? ENOENT
		    : !S_ISDIR(m->i[f.ino].mode) ? ENOTDIR
		    : model_count(m, f.ino)	 ? ENOTEMPTY
						 : 0;
	if (!want->err)
		drop(m, &f);
	return true;
}

/* ---- rename ---- */
static int may_rename(struct model *m, const struct model_op *op, const struct model_found *from,
		      const struct model_found *to)
{
	bool exchange = op->flags & RENAME_EXCHANGE;

	if (from->ino < 0)
		return ENOENT;
	if (op->flags & RENAME_NOREPLACE && to->ino >= 0)
		return EEXIST;
	if (exchange && to->ino < 0)
		return ENOENT;
	bool dir = S_ISDIR(m->i[from->ino].mode);
	if (dir && model_below(m, from->ino, to->dir))
		return EINVAL;
	if (to->ino < 0)
		return 0;
	bool over_dir = S_ISDIR(m->i[to->ino].mode);
	if (over_dir && model_below(m, to->ino, from->dir))
		return exchange ? EINVAL : ENOTEMPTY;
	if (from->ino == to->ino || exchange)
		return 0;
	if (dir != over_dir)
		return dir ? ENOTDIR : EISDIR;
	return over_dir && model_count(m, to->ino) ? ENOTEMPTY : 0;
}

bool model_op_rename(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_found from, to;
	int rc = model_walk(m, op->p, false, &from);

	/* Both parents first, then both names. */
	if (!rc)
		rc = model_walk(m, op->q, false, &to);
	want->err = rc ? -rc : may_rename(m, op, &from, &to);
	if (want->err || from.ino == to.ino)
		return true;
	if (to.ino < 0 && to.dir != from.dir && !model_room(m, to.dir))
		return false;
	if (to.ino >= 0 && !(op->flags & RENAME_EXCHANGE)) {
		drop(m, &to);
	} else if (to.ino >= 0) {
		model_remove(m, to.dir, to.name);
		model_touch(m, to.ino);
	}
	model_remove(m, from.dir, from.name);
	model_enter(m, to.dir, to.name, from.ino);
	model_touch(m, from.ino);
	if (to.ino >= 0 && op->flags & RENAME_EXCHANGE)
		model_enter(m, from.dir, from.name, to.ino);
	return true;
}
