/* SPDX-License-Identifier: Apache-2.0 */
/* Job: lost+found: found or made, and every inode without a name gets one there: "#" and its number.
 * Must never happen: a lost inode freed because there is no room for its name (it stays, and the finding says so). */
#include "fs/check.h"

#include <stdio.h>

static bool usable(const struct chk_ino *t)
{
	return t && t->type == DT_DIR && t->flags & CI_NAMED && t->parent == FS_ROOT_INO && !(t->flags & CI_LOST);
}

/* A free inode that some segment has: 0 if none. */
static uint64_t free_inode(struct chk *c)
{
	for (size_t n = 0; n < c->nseg; n++) {
		for (unsigned i = c->seg[n].id ? 0 : FS_ROOT_INO + 1; i < FS_SEG_INODES; i++) {
			if (!c->seg[n].ino[i].type)
				return (c->seg[n].id << FS_SEG_SHIFT) + i;
		}
	}
	return 0;
}

static int make(struct chk *c, const char *name, uint64_t *out)
{
	struct fs_inode_disk *d = chk_page();
	uint64_t ino = free_inode(c);
	struct chk_ino *t;
	uint32_t gen;
	int rc = !d ? -ENOMEM : ino ? chk_ino_read(c, ino, d) : -ENOSPC;

	if (rc)
		goto out;
	t = chk_ino(c, ino);
	gen = t->gen == UINT32_MAX ? 1 : t->gen + 1;
	memset((uint8_t *)d + sizeof(d->h), 0, FS_SUB - sizeof(d->h));
	d->h.res_gen = le32_make(gen);
	d->mode = le16_make(S_IFDIR | 0700);
	d->nlink = le32_make(2);
	d->atime_ns = d->mtime_ns = d->ctime_ns = d->btime_ns = le64_make(ts_wall_ns(c->a->env));
	d->payload_type = FS_PL_DIRINLINE;
	d->copies = 1;
	d->parent = le64_make(FS_ROOT_INO);
	rc = chk_ino_write(c, ino, d);
	if (rc)
		goto out;
	*t = (struct chk_ino){.gen = gen, .nlink = 2, .type = DT_DIR, .flags = CI_NAMED | CI_REACHED, .parent = FS_ROOT_INO};
	rc = chk_insert(c, FS_ROOT_INO, name, strlen(name), ino);
	if (!rc) {
		chk_ino(c, FS_ROOT_INO)->seen++;
		*out = ino;
	} else {
		chk_ino_free(c, ino, d);
		if (chk_ino_write(c, ino, d))
			rc = -EIO;
	}
out:
	ts_free(d);
	return rc;
}

static int find_or_make(struct chk *c, uint64_t *out)
{
	char name[32] = "lost+found";

	for (unsigned i = 2; i < 10; i++) {
		int rc = chk_lookup(c, FS_ROOT_INO, name, strlen(name), out);

		if (!rc && usable(chk_ino(c, *out)))
			return 0;
		if (rc == -ENOENT)
			return make(c, name, out);
		if (rc)
			return rc;
		snprintf(name, sizeof(name), "lost+found.%u", i);
	}
	return -EEXIST;
}

static int put_one(struct chk *c, uint64_t dir, uint64_t ino, struct chk_ino *t)
{
	char name[48];
	int rc;

	snprintf(name, sizeof(name), "#%llu", (unsigned long long)ino);
	rc = chk_insert(c, dir, name, strlen(name), ino);
	if (rc == -EEXIST) {
		snprintf(name, sizeof(name), "#%llu.%u", (unsigned long long)ino, t->gen);
		rc = chk_insert(c, dir, name, strlen(name), ino);
	}
	if (rc)
		return rc;
	t->flags &= (uint16_t)~CI_LOST;
	if (t->type == DT_DIR) {
		t->flags |= CI_NAMED | CI_MOVED;
		t->parent = dir;
		chk_ino(c, dir)->seen++;
	} else {
		t->seen++;
	}
	return 0;
}

static int cannot(struct chk *c, int rc)
{
	if (rc != -ENOSPC && rc != -EEXIST)
		return rc;
	chk_found(c, false, "lost+found: no %s for the names of what is lost -> left as it is; make room and check again",
		  rc == -ENOSPC ? "space or free inode" : "usable name");
	return 0;
}

int chk_lost_found(struct chk *c)
{
	uint64_t dir;
	int rc;

	if (!c->nlost)
		return 0;
	chk_step(c, "lost+found", 0, 1);
	rc = find_or_make(c, &dir);
	for (size_t n = 0; n < c->nseg && !rc; n++) {
		for (unsigned i = 0; i < FS_SEG_INODES && !rc; i++) {
			struct chk_ino *t = &c->seg[n].ino[i];

			if (t->type && t->flags & CI_LOST)
				rc = put_one(c, dir, (c->seg[n].id << FS_SEG_SHIFT) + i, t);
		}
	}
	return rc ? cannot(c, rc) : 0;
}
