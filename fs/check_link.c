/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what is connected to the root, what nobody names, and how many names everything has.
 * Must never happen: a directory below itself after a repair; an inode with contents freed because its name was lost. */
#include "fs/check.h"

/* ---- the root ---------------------------------------------------------------------------------------------------------------- */
static void root_init(struct chk *c, struct fs_inode_disk *d, uint32_t gen)
{
	memset((uint8_t *)d + sizeof(d->h), 0, FS_SUB - sizeof(d->h));
	d->h.res_gen = le32_make(gen);
	d->mode = le16_make(S_IFDIR | 0755);
	d->nlink = le32_make(2);
	d->atime_ns = d->mtime_ns = d->ctime_ns = d->btime_ns = le64_make(ts_wall_ns(c->a->env));
	d->payload_type = FS_PL_DIRINLINE;
	d->copies = 1;
	d->parent = le64_make(FS_ROOT_INO);
}

int chk_root(struct chk *c)
{
	struct chk_ino *t = chk_ino(c, FS_ROOT_INO);
	struct fs_inode_disk *d;
	int rc;

	if (!t)
		return chk_fail(c, -EUCLEAN, "the first segment of inodes, with the root, is nowhere: it cannot be repaired");
	if (t->type == DT_DIR && t->parent == FS_ROOT_INO && !(t->flags & (CI_DEAD | CI_ORPHAN)))
		return 0;
	d = chk_page();
	rc = d ? chk_ino_read(c, FS_ROOT_INO, d) : -ENOMEM;
	if (!rc && t->type != DT_DIR) {
		chk_found(c, true, "inode 1: the root is no directory -> a new, empty one");
		root_init(c, d, t->gen ? t->gen : 1);
		*t = (struct chk_ino){.gen = le32_get(d->h.res_gen), .type = DT_DIR, .nlink = 2, .parent = FS_ROOT_INO};
	} else if (!rc) {
		chk_found(c, true, "inode 1: the root has a wrong parent or is marked removed -> corrected");
		d->parent = le64_make(FS_ROOT_INO);
		d->flags = le32_make(le32_get(d->flags) & ~(uint32_t)(FS_IF_DEAD | FS_IF_ORPHAN));
		t->parent = FS_ROOT_INO;
		t->flags &= (uint16_t)~(CI_DEAD | CI_ORPHAN);
	}
	if (!rc)
		rc = chk_ino_write(c, FS_ROOT_INO, d);
	ts_free(d);
	return rc;
}

/* ---- orphans ------------------------------------------------------------------------------------------------------------------- */
/* Its blocks come back with the bitmaps: expected there, like what the logs free. */
static int remember_block(struct chk *c, void *arg, uint64_t ino, struct fs_bptr_disk *p, bool meta, uint64_t idx, bool *changed)
{
	struct chk_intent it = {.type = FS_INTENT_FREE, .a = le64_get(p->addr[0]), .subs = meta ? 1 : le16_get(p->subs), .slot = FS_MAX_SLOTS};
	struct chk_intent *last = c->nintent ? &c->intent[c->nintent - 1] : NULL;

	if (last && last->slot == FS_MAX_SLOTS && last->type == FS_INTENT_FREE && last->a + last->subs == it.a &&
	    last->subs < UINT32_MAX / 2) {
		last->subs += it.subs;
		return 0;
	}
	return chk_intent_add(c, &it);
}

static int free_orphan(struct chk *c, uint64_t ino)
{
	struct chk_visit v = {.block = remember_block};
	struct fs_inode_disk *d = chk_page();
	bool changed = false;
	int rc = d ? chk_ino_read(c, ino, d) : -ENOMEM;

	if (!rc)
		rc = chk_walk(c, ino, d, &v, &changed);
	if (!rc) {
		chk_ino_free(c, ino, d);
		rc = chk_ino_write(c, ino, d);
	}
	ts_free(d);
	return rc;
}

/* Nobody names it. */
static int unnamed(struct chk *c, uint64_t ino, struct chk_ino *t)
{
	bool orphan = !t->nlink && t->flags & (CI_ORPHAN | CI_DEAD);

	if (orphan && t->flags & CI_INTENT)
		return c->repair ? free_orphan(c, ino) : 0; /* as the next mount would */
	if (orphan) {
		chk_found(c, true, "inode %llu: removed, but no log says that it is to be freed -> freed", (unsigned long long)ino);
		return free_orphan(c, ino);
	}
	chk_found(c, true, "inode %llu: no directory names it -> lost+found", (unsigned long long)ino);
	t->flags |= CI_LOST;
	c->nlost++;
	return 0;
}

/* ---- directories ------------------------------------------------------------------------------------------------------------------ */
/* Up from ino to the root or something that is known; breaks a loop. Two walks: the first marks, the second settles. */
static int climb(struct chk *c, uint64_t ino)
{
	struct chk_ino *t = chk_ino(c, ino);
	uint64_t at = ino;
	bool loop;

	while (at != FS_ROOT_INO && t->flags & CI_NAMED && !(t->flags & (CI_REACHED | CI_MET))) {
		t->flags |= CI_MET;
		at = t->parent;
		t = chk_ino(c, at);
		TS_ASSERT(t && t->type == DT_DIR); /* the entry that named it was found there */
	}
	loop = at != FS_ROOT_INO && t->flags & CI_MET;
	for (uint64_t i = ino; chk_ino(c, i)->flags & CI_MET; i = chk_ino(c, i)->parent) {
		chk_ino(c, i)->flags &= (uint16_t)~CI_MET;
		chk_ino(c, i)->flags |= CI_REACHED;
	}
	if (!loop)
		return 0;
	chk_found(c, true, "directory %llu: is below itself -> taken out of the loop, lost+found", (unsigned long long)at);
	t->flags &= (uint16_t)~CI_NAMED;
	t->flags |= CI_LOST;
	c->nlost++;
	return chk_unname(c, t->parent, at);
}

static int each(struct chk *c, int (*fn)(struct chk *c, uint64_t ino, struct chk_ino *t))
{
	int rc = 0;

	for (size_t n = 0; n < c->nseg && !rc; n++) {
		for (unsigned i = 0; i < FS_SEG_INODES && !rc; i++) {
			struct chk_ino *t = &c->seg[n].ino[i];

			if (t->type)
				rc = fn(c, (c->seg[n].id << FS_SEG_SHIFT) + i, t);
		}
	}
	return rc;
}

static int unmark(struct chk *c, uint64_t ino, struct chk_ino *t)
{
	t->flags &= (uint16_t)~CI_MET;
	return 0;
}

static int climb_one(struct chk *c, uint64_t ino, struct chk_ino *t)
{
	return t->type == DT_DIR ? climb(c, ino) : 0;
}

static int find_unnamed(struct chk *c, uint64_t ino, struct chk_ino *t)
{
	bool named = ino == FS_ROOT_INO || (t->type == DT_DIR ? t->flags & CI_NAMED : t->seen > 0);

	return named || t->flags & CI_LOST ? 0 : unnamed(c, ino, t);
}

int chk_connect(struct chk *c)
{
	int rc;

	c->nlost = 0;
	rc = each(c, unmark);
	if (!rc)
		rc = each(c, climb_one);
	if (!rc)
		rc = each(c, find_unnamed);
	chk_intent_sort(c);
	return rc;
}

/* ---- link counts ------------------------------------------------------------------------------------------------------------------- */
static uint32_t links_right(uint64_t ino, const struct chk_ino *t)
{
	if (t->type != DT_DIR)
		return t->seen;
	return ino == FS_ROOT_INO || t->flags & CI_NAMED ? t->seen + 2 : 0;
}

static int settle(struct chk *c, uint64_t ino, struct chk_ino *t)
{
	uint32_t want = links_right(ino, t);
	bool marked = want && t->flags & (CI_ORPHAN | CI_DEAD);
	struct fs_inode_disk *d;
	int rc;

	if (t->flags & CI_LOST) /* could not be put anywhere: said already */
		return 0;
	if (t->nlink == want && !marked && !(t->flags & CI_MOVED))
		return 0;
	d = chk_page();
	rc = d ? chk_ino_read(c, ino, d) : -ENOMEM;
	if (!rc && t->nlink != want)
		chk_found(c, true, "inode %llu: says %u links, has %u -> set", (unsigned long long)ino, t->nlink, want);
	if (!rc && marked) {
		chk_found(c, true, "inode %llu: is marked removed, but has a name -> mark cleared", (unsigned long long)ino);
		d->flags = le32_make(le32_get(d->flags) & ~(uint32_t)(FS_IF_ORPHAN | FS_IF_DEAD | FS_IF_TMPFILE));
	}
	if (!rc) {
		d->nlink = le32_make(want);
		if (t->type == DT_DIR)
			d->parent = le64_make(t->parent);
		t->nlink = want;
		rc = chk_ino_write(c, ino, d);
	}
	ts_free(d);
	return rc;
}

static int settle_segment(struct chk *c, void *arg, uint64_t n)
{
	int rc = 0;

	for (unsigned i = 0; i < FS_SEG_INODES && !rc; i++) {
		if (c->seg[n].ino[i].type)
			rc = settle(c, (c->seg[n].id << FS_SEG_SHIFT) + i, &c->seg[n].ino[i]);
	}
	return rc;
}

int chk_links(struct chk *c)
{
	return chk_par(c, c->nseg, settle_segment, NULL);
}
