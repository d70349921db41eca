/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the tree of the model: inodes, names, and the walk along a path as Linux does it.
 * What must never happen: an inode is freed while a handle or a map holds it (its content would be another
 * file's). */
#include "model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FOLLOWED 40

void model_init(struct model *m, unsigned nmounts)
{
	memset(m, 0, sizeof(*m));
	m->nmounts = nmounts;
	for (unsigned k = 0; k < MODEL_MOUNTS; k++) {
		for (unsigned s = 0; s < MODEL_SLOTS; s++)
			m->h[k][s].ino = -1;
		for (unsigned s = 0; s < MODEL_MAPS; s++)
			m->map[k][s] = -1;
	}
	int root = model_new(m, S_IFDIR | 0755);
	m->i[root].nlink = 2;
}

void model_free(struct model *m)
{
	for (unsigned k = 0; k < MODEL_INODES; k++)
		free(m->i[k].data);
	memset(m, 0, sizeof(*m));
}

int model_new(struct model *m, uint32_t mode)
{
	for (int k = 0; k < MODEL_INODES; k++) {
		struct model_inode *i = &m->i[k];
		if (i->used)
			continue;
		memset(i, 0, sizeof(*i));
		i->used = i->touched = true;
		i->mode = mode;
		for (unsigned e = 0; e < MODEL_ENTRIES; e++)
			i->e[e].ino = -1;
		return k;
	}
	return -1;
}

void model_touch(struct model *m, int ino)
{
	m->i[ino].touched = true;
}

void model_unref(struct model *m, int ino)
{
	struct model_inode *i = &m->i[ino];

	if (i->nlink || i->refs)
		return;
	free(i->data);
	memset(i, 0, sizeof(*i));
}

int model_entry(struct model *m, int dir, const char *name)
{
	struct model_inode *d = &m->i[dir];

	for (unsigned k = 0; k < MODEL_ENTRIES; k++)
		if (d->e[k].ino >= 0 && !strcmp(d->e[k].name, name))
			return d->e[k].ino;
	return -1;
}

unsigned model_count(const struct model *m, int dir)
{
	unsigned n = 0;

	for (unsigned k = 0; k < MODEL_ENTRIES; k++)
		n += m->i[dir].e[k].ino >= 0;
	return n;
}

bool model_room(const struct model *m, int dir)
{
	return model_count(m, dir) < MODEL_ENTRIES;
}

void model_enter(struct model *m, int dir, const char *name, int ino)
{
	struct model_inode *d = &m->i[dir];

	for (unsigned k = 0; k < MODEL_ENTRIES; k++) {
		if (d->e[k].ino >= 0)
			continue;
		memcpy(d->e[k].name, name, sizeof(d->e[k].name));
		d->e[k].ino = ino;
		model_touch(m, dir);
		return;
	}
	abort();
}

void model_remove(struct model *m, int dir, const char *name)
{
	struct model_inode *d = &m->i[dir];

	for (unsigned k = 0; k < MODEL_ENTRIES; k++)
		if (d->e[k].ino >= 0 && !strcmp(d->e[k].name, name))
			d->e[k].ino = -1;
	model_touch(m, dir);
}

bool model_below(struct model *m, int dir, int ino)
{
	if (dir == ino)
		return true;
	for (unsigned k = 0; k < MODEL_ENTRIES; k++)
		if (m->i[dir].e[k].ino >= 0 && model_below(m, m->i[dir].e[k].ino, ino))
			return true;
	return false;
}

/* The rest of a path from a directory on. */
static int walk(struct model *m, int dir, const char *path, bool follow, unsigned *followed,
		struct model_found *f)
{
	for (;;) {
		size_t len = strcspn(path, "/");
		bool last = !path[len];
		if (!S_ISDIR(m->i[dir].mode))
			return -ENOTDIR;
		if (len >= sizeof(f->name))
			return -ENAMETOOLONG;
		memset(f->name, 0, sizeof(f->name));
		memcpy(f->name, path, len);
		f->dir = dir;
		f->ino = strcmp(f->name, ".") ? model_entry(m, dir, f->name) : dir;
		if (f->ino < 0)
			return last ? 0 : -ENOENT;
		if (S_ISLNK(m->i[f->ino].mode) && (!last || follow)) {
			if ((*followed)++ >= MAX_FOLLOWED)
				return -ELOOP;
			int rc = walk(m, dir, m->i[f->ino].target, true, followed, f);
			if (rc)
				return rc;
			if (f->ino < 0)
				return last ? 0 : -ENOENT;
		}
		if (last)
			return 0;
		dir = f->ino;
		path += len + 1;
	}
}

int model_walk(struct model *m, const char *path, bool follow, struct model_found *f)
{
	unsigned followed = 0;

	return walk(m, 0, path, follow, &followed, f);
}
