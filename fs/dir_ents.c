/* SPDX-License-Identifier: Apache-2.0 */
/* Job: directory entries as packed records in a run of bytes, the same in a leaf and in an inode. Room that a removed
 * name leaves stays where it is as a free record, so that a change touches few bytes (they all go into the log).
 * Must never happen: a step beyond `used`, whatever the bytes say; an entry that changes its (hash, coll). */
#include "fs/dir_int.h"

int dir_ents_at(const struct dir_ents *e, unsigned off, struct fs_dirent_disk **out)
{
	struct fs_dirent_disk *d;
	unsigned rec;

	if (off == e->used)
		return 0;
	if (off > e->used || e->used - off < DIR_REC_HEAD)
		return -EUCLEAN;
	d = dir_rec(e, off);
	rec = le16_get(d->rec_len);
	if (rec % 4 || rec < DIR_REC_HEAD + d->name_len || rec > e->used - off)
		return -EUCLEAN;
	if (dir_rec_live(d) != (d->name_len != 0) || le64_get(d->ino) >= FS_MAX_INO)
		return -EUCLEAN;
	*out = d;
	return 1;
}

int dir_ents_find(const struct dir_ents *e, uint64_t hash, const char *name, size_t len)
{
	le64 want = le64_make(hash);
	struct fs_dirent_disk *d;
	unsigned off = 0;
	int rc;

	while ((rc = dir_ents_at(e, off, &d)) > 0) {
		if (d->hash.v == want.v && d->name_len == len && dir_rec_live(d) && !memcmp(dir_rec_name(d), name, len))
			return (int)off;
		off += le16_get(d->rec_len);
	}
	return rc ? rc : -ENOENT;
}

int dir_ents_scan(const struct dir_ents *e, uint64_t hash, struct dir_scan *out)
{
	uint64_t colls[4] = {0};
	struct fs_dirent_disk *d;
	unsigned off = 0;
	int rc;

	*out = (struct dir_scan){.coll = -1};
	while ((rc = dir_ents_at(e, off, &d)) > 0) {
		off += le16_get(d->rec_len);
		if (!dir_rec_live(d))
			continue;
		out->count++;
		out->live_bytes += DIR_REC_LEN(d->name_len);
		if (le64_get(d->hash) >> 9 == hash >> 9)
			colls[d->coll / 64] |= 1ULL << (d->coll % 64);
	}
	for (int i = 0; i < 256 && out->coll < 0; i++)
		if (!(colls[i / 64] >> (i % 64) & 1))
			out->coll = i;
	return rc;
}

int dir_ents_find_coll(const struct dir_ents *e, uint64_t hash, uint8_t coll)
{
	struct fs_dirent_disk *d;
	unsigned off = 0;

	while (dir_ents_at(e, off, &d) > 0) {
		if (le64_get(d->hash) == hash && d->coll == coll && dir_rec_live(d))
			return (int)off;
		off += le16_get(d->rec_len);
	}
	return -ENOENT;
}

static void ents_free_rec(struct dir_ents *e, unsigned off, unsigned len)
{
	struct fs_dirent_disk *d = dir_rec(e, off);

	d->ino = le64_make(0);
	d->name_len = 0;
	d->rec_len = le16_make((uint16_t)len);
}

static void ents_compact(struct dir_ents *e)
{
	uint8_t room[FS_SUB];
	struct dir_ents to = {.p = room, .cap = sizeof(room)};

	dir_ents_copy(e, -1, 0, &to);
	memcpy(e->p, room, to.used);
	memset(e->p + to.used, 0, e->used - to.used);
	e->used = to.used;
}

/* A free record of at least need bytes, or the end of the records when that still leaves room for it. */
static bool ents_room(const struct dir_ents *e, unsigned need, unsigned *at)
{
	struct fs_dirent_disk *d;
	unsigned off = 0;

	while (dir_ents_at(e, off, &d) > 0) {
		if (!dir_rec_live(d) && le16_get(d->rec_len) >= need) {
			*at = off;
			return true;
		}
		off += le16_get(d->rec_len);
	}
	*at = e->used;
	return e->used <= e->cap && e->cap - e->used >= need;
}

void dir_ents_insert(struct dir_ents *e, const struct fs_dirent_disk *head, const char *name)
{
	unsigned need = DIR_REC_LEN(head->name_len), off, rec = need;
	struct fs_dirent_disk *d;

	if (!ents_room(e, need, &off)) {
		ents_compact(e);
		TS_ASSERT(ents_room(e, need, &off));
	}
	d = dir_rec(e, off);
	if (off == e->used) {
		e->used += need;
	} else {
		rec = le16_get(d->rec_len);
		if (rec - need >= DIR_REC_HEAD) {
			memset(e->p + off + need, 0, DIR_REC_HEAD);
			ents_free_rec(e, off + need, rec - need);
			rec = need;
		}
	}
	*d = *head;
	d->rec_len = le16_make((uint16_t)rec);
	memcpy(d + 1, name, head->name_len);
	memset((char *)(d + 1) + head->name_len, 0, need - DIR_REC_HEAD - head->name_len);
}

void dir_ents_remove(struct dir_ents *e, unsigned off)
{
	unsigned at = 0, before = off, len = le16_get(dir_rec(e, off)->rec_len);
	struct fs_dirent_disk *d;

	if (dir_ents_at(e, off + len, &d) > 0 && !dir_rec_live(d))
		len += le16_get(d->rec_len);
	ents_free_rec(e, off, len);
	while (at < off) {
		before = at;
		at += le16_get(dir_rec(e, at)->rec_len);
	}
	if (before != off && !dir_rec_live(dir_rec(e, before))) {
		len += off - before;
		off = before;
		ents_free_rec(e, off, len);
	}
	if (off + len == e->used)
		e->used = off;
}

unsigned dir_ents_copy(const struct dir_ents *from, int bit, unsigned value, struct dir_ents *to)
{
	unsigned off = 0, count = 0;
	struct fs_dirent_disk *d;

	while (dir_ents_at(from, off, &d) > 0) {
		unsigned len = DIR_REC_LEN(d->name_len);

		off += le16_get(d->rec_len);
		if (!dir_rec_live(d) || (bit >= 0 && (le64_get(d->hash) >> bit & 1) != value))
			continue;
		TS_ASSERT(len <= to->cap - to->used);
		memcpy(to->p + to->used, d, len);
		dir_rec(to, to->used)->rec_len = le16_make((uint16_t)len);
		to->used += len;
		count++;
	}
	return count;
}

void dir_ent_out(const struct fs_dirent_disk *d, struct fs_dirent *out)
{
	out->ino = le64_get(d->ino);
	out->hash = le64_get(d->hash);
	out->cookie = dir_cookie(out->hash, d->coll);
	out->gen = le32_get(d->gen);
	out->type = d->type;
}
