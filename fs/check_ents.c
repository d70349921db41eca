/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the records of one run of directory entries: a sound chain, legal and unique names, true hashes, unique collision
 * numbers. A broken chain is not given up: names prove themselves by their hash.
 * Must never happen: a name that was removed comes back; a step outside the run. */
#include "fs/check.h"

uint64_t chk_name_hash(const struct chk *c, const char *name, size_t len)
{
	uint64_t h = ts_siphash(name, len, c->super.hash_key);

	return h >> 9 == UINT64_MAX >> 9 ? h - 512 : h;
}

bool chk_hash_fits(uint64_t hash, uint64_t prefix, unsigned depth)
{
	return !depth || !((hash ^ prefix) >> (64 - depth));
}

static bool name_legal(const char *name, size_t len)
{
	return len && !memchr(name, '/', len) && !memchr(name, 0, len) && !(len == 1 && name[0] == '.') &&
	       !(len == 2 && name[0] == '.' && name[1] == '.');
}

static uint64_t true_hash(const struct chk *c, const struct fs_dirent_disk *d)
{
	return chk_name_hash(c, dir_rec_name(d), d->name_len);
}

/* A record that proves itself, whatever its length field says. */
static bool proves_itself(const struct chk *c, const uint8_t *p, unsigned left)
{
	const struct fs_dirent_disk *d = (const void *)p;

	return left >= DIR_REC_HEAD && d->name_len && d->name_len <= left - DIR_REC_HEAD && le64_get(d->ino) && le64_get(d->ino) < FS_MAX_INO &&
	       name_legal(dir_rec_name(d), d->name_len) && le64_get(d->hash) == true_hash(c, d);
}

void chk_ents_vote(const struct chk *c, const uint8_t *p, unsigned len, uint64_t prefix, unsigned depth, unsigned *fit, unsigned *all)
{
	*fit = *all = 0;
	for (unsigned off = 0; off + DIR_REC_HEAD < len;) {
		const struct fs_dirent_disk *d = (const void *)(p + off);

		if (!proves_itself(c, p + off, len - off)) {
			off += 4;
			continue;
		}
		++*all;
		*fit += chk_hash_fits(le64_get(d->hash), prefix, depth);
		off += DIR_REC_LEN(d->name_len);
	}
}

/* Everything that proves itself, packed. */
static void salvage(struct chk *c, struct dir_ents *e)
{
	unsigned off = 0, limit = TS_MIN(e->used, e->cap);
	struct dir_ents to = {.cap = e->cap};
	uint8_t room[FS_SUB];

	to.p = room;
	while (off + DIR_REC_HEAD < limit) {
		const struct fs_dirent_disk *d = (const void *)(e->p + off);
		unsigned len;

		if (!proves_itself(c, e->p + off, limit - off)) {
			off += 4;
			continue;
		}
		len = DIR_REC_LEN(d->name_len);
		if (len > to.cap - to.used)
			break;
		memset(room + to.used, 0, len);
		memcpy(room + to.used, d, DIR_REC_HEAD + d->name_len);
		((struct fs_dirent_disk *)(room + to.used))->rec_len = le16_make((uint16_t)len);
		to.used += len;
		off += len;
	}
	memcpy(e->p, room, to.used);
	memset(e->p + to.used, 0, e->cap - to.used);
	e->used = to.used;
}

static bool chain_sound(const struct dir_ents *e)
{
	struct fs_dirent_disk *d;
	unsigned off = 0;
	int rc;

	if (e->used > e->cap)
		return false;
	while ((rc = dir_ents_at(e, off, &d)) > 0)
		off += le16_get(d->rec_len);
	return rc == 0;
}

static void drop(struct chk *c, struct chk_leaf *l, unsigned off, const char *why)
{
	const struct fs_dirent_disk *d = dir_rec(&l->e, off);

	chk_found(c, true, "directory %llu, entry of inode %llu: %s -> removed", (unsigned long long)l->dir, (unsigned long long)le64_get(d->ino), why);
	dir_ents_remove(&l->e, off);
	l->changed = true;
}

/* Of an earlier record: the same name (returns -1), or its collision number (marked in colls). */
static bool compare_before(const struct dir_ents *e, unsigned end, const struct fs_dirent_disk *d, uint64_t colls[4])
{
	struct fs_dirent_disk *o;

	memset(colls, 0, 4 * sizeof(colls[0]));
	for (unsigned off = 0; off < end && dir_ents_at(e, off, &o) > 0; off += le16_get(o->rec_len)) {
		if (!dir_rec_live(o) || le64_get(o->hash) >> 9 != le64_get(d->hash) >> 9)
			continue;
		colls[o->coll / 64] |= 1ULL << (o->coll % 64);
		if (o->name_len == d->name_len && !memcmp(dir_rec_name(o), dir_rec_name(d), d->name_len))
			return false;
	}
	return true;
}

/* One live record; false: it was removed. */
static bool record(struct chk *c, struct chk_leaf *l, unsigned off)
{
	struct fs_dirent_disk *d = dir_rec(&l->e, off);
	uint64_t hash = true_hash(c, d), colls[4];
	unsigned coll = 0;

	if (!name_legal(dir_rec_name(d), d->name_len)) {
		drop(c, l, off, "its name is not legal");
		return false;
	}
	if (!chk_hash_fits(hash, l->prefix, l->depth)) {
		drop(c, l, off, hash == le64_get(d->hash) ? "its name does not belong into this leaf" : "its name does not have its hash");
		return false;
	}
	if (hash != le64_get(d->hash)) {
		chk_found(c, true, "directory %llu, \"%.*s\": hash is wrong -> corrected", (unsigned long long)l->dir, d->name_len, dir_rec_name(d));
		d->hash = le64_make(hash);
		l->changed = true;
	}
	if (d->reserved[0] || d->reserved[1] || d->reserved[2]) {
		chk_found(c, true, "directory %llu, \"%.*s\": reserved bytes are used -> cleared", (unsigned long long)l->dir, d->name_len,
			  dir_rec_name(d));
		memset(d->reserved, 0, sizeof(d->reserved));
		l->changed = true;
	}
	if (!compare_before(&l->e, off, d, colls)) {
		drop(c, l, off, "its name is there twice");
		return false;
	}
	if (!(colls[d->coll / 64] >> (d->coll % 64) & 1))
		return true;
	while (coll < 256 && colls[coll / 64] >> (coll % 64) & 1)
		coll++;
	if (coll == 256) {
		drop(c, l, off, "no collision number is left for it");
		return false;
	}
	chk_found(c, true, "directory %llu, \"%.*s\": collision number %u is another's -> %u", (unsigned long long)l->dir, d->name_len,
		  dir_rec_name(d), d->coll, coll);
	d->coll = (uint8_t)coll;
	l->changed = true;
	return true;
}

int chk_ents_mend(struct chk *c, struct chk_leaf *l)
{
	unsigned off = 0;
	struct fs_dirent_disk *d;

	if (!chain_sound(&l->e)) {
		chk_found(c, true, "directory %llu: a chain of entries is broken -> names that prove themselves are kept", (unsigned long long)l->dir);
		salvage(c, &l->e);
		l->changed = true;
	}
	while (off < l->e.used) {
		int rc = dir_ents_at(&l->e, off, &d);

		TS_ASSERT(rc > 0);
		if (dir_rec_live(d) && !record(c, l, off)) {
			off = 0; /* free records were merged: from the beginning */
			continue;
		}
		off += le16_get(d->rec_len);
	}
	return 0;
}
