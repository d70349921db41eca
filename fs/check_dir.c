/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the names of every directory against the inode table: first all that are certain, by many fibers; then those in doubt, one
 * directory after the other, when it is known what else names their inodes.
 * Must never happen: a directory with two names; a name removed while its inode could have been told from the other facts. */
#include "fs/check.h"

struct names {
	struct chk_ino *dir;
	bool decide;
};

static void remove_at(struct chk *c, struct chk_leaf *l, unsigned off, const char *why)
{
	const struct fs_dirent_disk *d = dir_rec(&l->e, off);

	chk_found(c, true, "directory %llu, \"%.*s\" (inode %llu): %s -> removed", (unsigned long long)l->dir, d->name_len, dir_rec_name(d),
		  (unsigned long long)le64_get(d->ino), why);
	dir_ents_remove(&l->e, off);
	l->changed = true;
}

static void type_right(struct chk *c, struct chk_leaf *l, struct fs_dirent_disk *d, const struct chk_ino *t)
{
	if (d->type == t->type)
		return;
	chk_found(c, true, "directory %llu, \"%.*s\": type %u, inode %llu is of type %u -> set", (unsigned long long)l->dir, d->name_len,
		  dir_rec_name(d), d->type, (unsigned long long)le64_get(d->ino), t->type);
	d->type = t->type;
	l->changed = true;
}

/* ---- first reading ------------------------------------------------------------------------------------------------------ */
/* NULL: counted, or in doubt; else why it must go. */
static const char *see(struct chk *c, struct names *s, struct chk_leaf *l, struct fs_dirent_disk *d)
{
	uint64_t ino = le64_get(d->ino);
	struct chk_ino *t = chk_ino(c, ino);

	if (!t && ino >> FS_SEG_SHIFT < le64_get(c->super.nsegments) && !c->searched) {
		c->want_search = true; /* its segment may only be lost */
		s->dir->flags |= CI_DOUBT;
		return NULL;
	}
	if (!t || !t->type)
		return "names no inode";
	if (ino == FS_ROOT_INO || ino == l->dir)
		return "names the root or the directory itself";
	if (le32_get(d->gen) != t->gen) {
		s->dir->flags |= CI_DOUBT;
		return NULL;
	}
	if (t->type == DT_DIR) {
		if (t->parent != l->dir || t->flags & CI_NAMED) {
			s->dir->flags |= CI_DOUBT;
			return NULL;
		}
		t->flags |= CI_NAMED;
		s->dir->seen++;
	} else {
		t->seen++;
	}
	type_right(c, l, d, t);
	return NULL;
}

/* ---- second reading: what was in doubt --------------------------------------------------------------------------------------- */
static const char *adopt(struct chk *c, struct names *s, struct chk_leaf *l, struct chk_ino *t, uint64_t ino)
{
	if (t->flags & CI_NAMED)
		return "is a second name of a directory";
	chk_found(c, true, "directory %llu: its parent is %llu, but only directory %llu names it -> parent set", (unsigned long long)ino,
		  (unsigned long long)t->parent, (unsigned long long)l->dir);
	t->parent = l->dir;
	t->flags |= CI_NAMED | CI_MET | CI_MOVED;
	s->dir->seen++;
	return NULL;
}

static const char *generation(struct chk *c, struct names *s, struct chk_leaf *l, struct fs_dirent_disk *d, struct chk_ino *t)
{
	uint64_t ino = le64_get(d->ino);
	bool wanted = t->type == DT_DIR ? !(t->flags & CI_NAMED) : t->seen < t->nlink;

	if (!wanted || t->type != d->type)
		return "names an inode of another generation";
	chk_found(c, true, "directory %llu, \"%.*s\": generation %u, inode %llu has %u -> set", (unsigned long long)l->dir, d->name_len,
		  dir_rec_name(d), le32_get(d->gen), (unsigned long long)ino, t->gen);
	d->gen = le32_make(t->gen);
	l->changed = true;
	if (t->type != DT_DIR) {
		t->seen++;
		return NULL;
	}
	if (t->parent != l->dir)
		return adopt(c, s, l, t, ino);
	t->flags |= CI_NAMED | CI_MET;
	s->dir->seen++;
	return NULL;
}

static const char *decide(struct chk *c, struct names *s, struct chk_leaf *l, struct fs_dirent_disk *d)
{
	uint64_t ino = le64_get(d->ino);
	struct chk_ino *t = chk_ino(c, ino);
	const char *why;

	if (!t || !t->type)
		return "names no inode";
	if (le32_get(d->gen) != t->gen)
		return generation(c, s, l, d, t);
	if (t->type != DT_DIR)
		return NULL;
	if (t->parent == l->dir && t->flags & CI_NAMED) {
		if (t->flags & CI_MET)
			return "is a second name of a directory";
		t->flags |= CI_MET;
		return NULL;
	}
	why = adopt(c, s, l, t, ino);
	if (!why)
		type_right(c, l, d, t);
	return why;
}

/* ---- a run of records ------------------------------------------------------------------------------------------------------------ */
static int names_of(struct chk *c, void *arg, struct chk_leaf *l)
{
	struct names *s = arg;
	struct fs_dirent_disk *d;
	unsigned off = 0;
	int rc = s->decide ? 0 : chk_ents_mend(c, l);

	while (!rc && off < l->e.used && dir_ents_at(&l->e, off, &d) > 0) {
		unsigned len = le16_get(d->rec_len);
		const char *why = !dir_rec_live(d) ? NULL : s->decide ? decide(c, s, l, d) : see(c, s, l, d);

		if (why) {
			/* Merging with a free record before it moves nothing behind it. */
			struct fs_dirent_disk *next;
			unsigned end = off + len;

			if (dir_ents_at(&l->e, end, &next) > 0 && !dir_rec_live(next))
				end += le16_get(next->rec_len);
			remove_at(c, l, off, why);
			off = end;
			continue;
		}
		off += len;
	}
	return rc;
}

/* ---- a directory ----------------------------------------------------------------------------------------------------------------- */
static int dir_read(struct chk *c, uint64_t ino, bool second)
{
	struct names s = {.dir = chk_ino(c, ino), .decide = second};
	struct chk_tree t = {.dir = ino, .gen = s.dir->gen, .fn = names_of, .arg = &s};
	struct fs_inode_disk *d = chk_page();
	uint64_t subs;
	int rc = d ? chk_ino_read(c, ino, d) : -ENOMEM;

	if (!rc)
		rc = chk_tree(c, d, &t);
	if (!rc)
		rc = chk_xattr_subs(c, ino, d, &subs);
	if (rc)
		goto out;
	subs += t.subs;
	if (le64_get(d->size) != t.count) {
		if (!second || !t.changed)
			chk_found(c, true, "directory %llu: says %llu entries, has %llu -> set", (unsigned long long)ino,
				  (unsigned long long)le64_get(d->size), (unsigned long long)t.count);
		d->size = le64_make(t.count);
		t.changed = true;
	}
	if (le64_get(d->subs) != subs) {
		chk_found(c, true, "directory %llu: says %llu sub-blocks, has %llu -> set", (unsigned long long)ino,
			  (unsigned long long)le64_get(d->subs), (unsigned long long)subs);
		d->subs = le64_make(subs);
		t.changed = true;
	}
	if (t.count && s.dir->flags & CI_DEAD) { /* nobody removes a directory with names in it */
		chk_found(c, true, "directory %llu: is marked removed, but has %llu entries -> not removed", (unsigned long long)ino,
			  (unsigned long long)t.count);
		s.dir->flags &= (uint16_t)~(CI_DEAD | CI_ORPHAN | CI_INTENT);
		d->flags = le32_make(le32_get(d->flags) & ~(uint32_t)(FS_IF_DEAD | FS_IF_ORPHAN));
		t.changed = true;
	}
	if (t.changed)
		rc = chk_ino_write(c, ino, d);
out:
	chk_set_free(&t.set);
	ts_free(d);
	return rc;
}

static int segment_dirs(struct chk *c, void *arg, uint64_t n)
{
	int rc = 0;

	for (unsigned i = 0; i < FS_SEG_INODES && !rc; i++) {
		if (c->seg[n].ino[i].type == DT_DIR)
			rc = dir_read(c, (c->seg[n].id << FS_SEG_SHIFT) + i, false);
	}
	return rc;
}

int chk_dirs(struct chk *c)
{
	return chk_par(c, c->nseg, segment_dirs, NULL);
}

int chk_dirs_decide(struct chk *c)
{
	int rc = 0;

	for (size_t n = 0; n < c->nseg && !rc; n++) {
		for (unsigned i = 0; i < FS_SEG_INODES && !rc; i++) {
			struct chk_ino *t = &c->seg[n].ino[i];

			if (t->type == DT_DIR && t->flags & CI_DOUBT)
				rc = dir_read(c, (c->seg[n].id << FS_SEG_SHIFT) + i, true);
		}
	}
	return rc;
}

/* ---- taking one name away -------------------------------------------------------------------------------------------------------- */
struct unname {
	uint64_t ino;
	bool done;
};
static int unname_in(struct chk *c, void *arg, struct chk_leaf *l)
{
	struct unname *u = arg;
	struct fs_dirent_disk *d;

	for (unsigned off = 0; !u->done && dir_ents_at(&l->e, off, &d) > 0; off += le16_get(d->rec_len)) {
		if (!dir_rec_live(d) || le64_get(d->ino) != u->ino)
			continue;
		dir_ents_remove(&l->e, off);
		l->changed = u->done = true;
	}
	return 0;
}

int chk_unname(struct chk *c, uint64_t dir, uint64_t ino)
{
	struct unname u = {.ino = ino};
	struct chk_tree t = {.dir = dir, .fn = unname_in, .arg = &u};
	struct fs_inode_disk *d = chk_page();
	int rc = d ? chk_ino_read(c, dir, d) : -ENOMEM;

	if (!rc) {
		t.gen = le32_get(d->h.res_gen);
		rc = chk_tree(c, d, &t);
	}
	if (!rc && u.done) {
		d->size = le64_make(t.count);
		chk_ino(c, dir)->seen--;
		rc = chk_ino_write(c, dir, d);
	}
	chk_set_free(&t.set);
	ts_free(d);
	return rc;
}
