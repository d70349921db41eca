/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the segment table and every inode block: 2 MiB a segment, read by many fibers at once, into the inode table.
 * Must never happen: an inode given up while its header can be corrected; two segments in one place; inodes of a segment
 * that the table has lost given up before all metadata regions were searched for it. */
#include "fs/check.h"

#include <stdio.h>

static uint64_t table_blocks(const struct chk *c)
{
	return (le64_get(c->super.nsegments) + FS_SEGS_PER_BLOCK - 1) / FS_SEGS_PER_BLOCK;
}

static fs_addr table_addr(const struct chk *c, uint64_t blk)
{
	for (unsigned i = 0; i < le32_get(c->super.nsegtab_ext); i++) {
		const struct fs_segtab_ext_disk *e = &c->super.segtab[i];

		if (blk >= le64_get(e->first_block) && blk - le64_get(e->first_block) < le64_get(e->nblocks))
			return le64_get(e->addr[0]) + blk - le64_get(e->first_block);
	}
	return 0;
}

/* ---- the table in memory ----------------------------------------------------------------------------------------------- */
static struct chk_seg *seg_find(struct chk *c, uint64_t id)
{
	size_t lo = 0, hi = c->nseg;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (c->seg[mid].id == id)
			return &c->seg[mid];
		if (c->seg[mid].id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

static int seg_add(struct chk *c, uint64_t id, fs_addr a)
{
	if (c->nseg == c->seg_room) {
		size_t room = c->seg_room ? c->seg_room * 2 : 64;
		struct chk_seg *v = chk_alloc(c, room * sizeof(*v));

		if (!v)
			return -ENOMEM;
		if (c->nseg)
			memcpy(v, c->seg, c->nseg * sizeof(*v));
		chk_free(c, c->seg, c->seg_room * sizeof(*v));
		c->seg = v;
		c->seg_room = room;
	}
	TS_ASSERT(!c->nseg || c->seg[c->nseg - 1].id < id); /* the table is read in order */
	c->seg[c->nseg] = (struct chk_seg){.id = id, .addr = a};
	c->seg[c->nseg].ino = chk_alloc(c, FS_SEG_INODES * sizeof(struct chk_ino));
	return c->seg[c->nseg++].ino ? 0 : -ENOMEM;
}

void chk_segments_free(struct chk *c)
{
	for (size_t i = 0; i < c->nseg; i++)
		chk_free(c, c->seg[i].ino, FS_SEG_INODES * sizeof(struct chk_ino));
	chk_free(c, c->seg, c->seg_room * sizeof(*c->seg));
	c->seg = NULL;
	c->nseg = c->seg_room = 0;
}

struct chk_ino *chk_ino(struct chk *c, uint64_t ino)
{
	struct chk_seg *s = ino && ino < FS_MAX_INO ? seg_find(c, ino >> FS_SEG_SHIFT) : NULL;

	return s ? &s->ino[ino % FS_SEG_INODES] : NULL;
}

fs_addr chk_ino_addr(struct chk *c, uint64_t ino)
{
	struct chk_seg *s = seg_find(c, ino >> FS_SEG_SHIFT);

	return s ? s->addr + ino % FS_SEG_INODES : 0;
}

int chk_ino_read(struct chk *c, uint64_t ino, struct fs_inode_disk *d)
{
	fs_addr a = chk_ino_addr(c, ino);

	TS_ASSERT(a);
	return chk_read(c, a, d, 1);
}

int chk_ino_write(struct chk *c, uint64_t ino, struct fs_inode_disk *d)
{
	return chk_write(c, chk_ino_addr(c, ino), d);
}

void chk_ino_free(struct chk *c, uint64_t ino, struct fs_inode_disk *d)
{
	struct chk_ino *t = chk_ino(c, ino);

	memset((uint8_t *)d + sizeof(d->h), 0, FS_SUB - sizeof(d->h));
	*t = (struct chk_ino){.gen = le32_get(d->h.res_gen)};
}

/* ---- regions ------------------------------------------------------------------------------------------------------------ */
bool chk_in_region(const struct chk *c, fs_addr a, uint64_t subs, uint32_t *region, uint32_t *off)
{
	const struct chk_disk *d = &c->disk[FS_ADDR_DISK(a)];
	uint64_t sub = FS_ADDR_SUB(a);

	if (a >> 52 || FS_ADDR_DISK(a) >= c->ndisks || sub < d->region_start || (sub - d->region_start) / c->region_subs >= d->nchunks)
		return false;
	*region = (uint32_t)((sub - d->region_start) / c->region_subs);
	*off = (uint32_t)((sub - d->region_start) % c->region_subs);
	return subs && subs <= c->region_subs - *off;
}

bool chk_meta_region(const struct chk *c, fs_addr a)
{
	uint32_t region, off;

	return chk_in_region(c, a, 1, &region, &off) && off >= FS_CHUNK_HEAD && c->rtype[region] == FS_REGION_META;
}

static int type_one(struct chk *c, void *arg, uint64_t region)
{
	struct fs_bitmap_disk *b = chk_page();
	int rc = b ? 0 : -ENOMEM;

	for (unsigned d = 0; d < c->ndisks && !rc; d++) {
		fs_addr a = FS_ADDR(d, c->disk[d].region_start + region * c->region_subs);

		if (region >= c->disk[d].nchunks)
			continue;
		rc = chk_read(c, a, b, 1);
		if (rc || fs_mdhdr_wrong(b, c->super.fs_id, FS_BT_BITMAP, a) || b->type > FS_REGION_DATA)
			continue;
		if (c->rtype[region] == 0xff || b->type == FS_REGION_META)
			c->rtype[region] = b->type;
	}
	ts_free(b);
	return rc;
}

int chk_region_types(struct chk *c)
{
	c->rtype = chk_alloc(c, c->nregions);
	if (!c->rtype)
		return -ENOMEM;
	memset(c->rtype, 0xff, c->nregions);
	chk_step(c, "region types", 0, 1);
	return chk_par(c, c->nregions, type_one, NULL);
}

/* ---- segment table -------------------------------------------------------------------------------------------------------- */
/* Some inode of the segment lies where the entry says. */
static int seg_there(struct chk *c, uint64_t id, fs_addr a, bool *there)
{
	uint8_t *buf = ts_alloc_aligned(FS_SUB, 16 * FS_SUB);
	unsigned good = 0;
	int rc = buf ? 0 : -ENOMEM;

	for (unsigned i = 0; i < FS_SEG_INODES && !rc && !good; i += 128) {
		rc = chk_read(c, a + i, buf, 16);
		for (unsigned k = 0; k < 16 && !rc; k++) {
			const struct fs_mhdr_disk *h = (const void *)(buf + (size_t)k * FS_SUB);

			good += h->type == FS_BT_INODE && le64_get(h->addr) == a + i + k && le64_get(h->res_id) == (id << FS_SEG_SHIFT) + i + k;
		}
	}
	ts_free(buf);
	*there = good > 0;
	return rc;
}

static int entry_check(struct chk *c, uint64_t id, struct fs_seg_ent_disk *e, bool *changed)
{
	fs_addr a = le64_get(e->addr[0]);
	uint32_t region, off;
	bool there = false;
	int rc = 0;

	if (id >= le64_get(c->super.nsegments) || !a) {
		static const struct fs_seg_ent_disk zero;

		if (!memcmp(e, &zero, sizeof(*e)))
			return 0;
		chk_found(c, true, "segment %llu: not made, but its entry in the table is not empty -> emptied", (unsigned long long)id);
		*e = zero;
		c->want_search = *changed = true;
		return 0;
	}
	if (chk_in_region(c, a, FS_SEG_INODES, &region, &off) && off >= FS_CHUNK_HEAD)
		rc = seg_there(c, id, a, &there);
	if (rc)
		return rc;
	if (!there) {
		chk_found(c, true, "segment %llu: the table says disk %u sub %llu, where its inodes are not -> entry emptied, metadata is searched for them",
			  (unsigned long long)id, FS_ADDR_DISK(a), (unsigned long long)FS_ADDR_SUB(a));
		memset(e, 0, sizeof(*e));
		c->want_search = *changed = true;
		return 0;
	}
	if (le64_get(e->addr[1]) || le64_get(e->addr[2]) || le32_get(e->flags) || le32_get(e->used_hint) > FS_SEG_INODES) {
		chk_found(c, true, "segment %llu: copies, flags or hint of its table entry cannot be -> reset", (unsigned long long)id);
		e->addr[1] = e->addr[2] = le64_make(0);
		e->flags = le32_make(0);
		e->used_hint = le32_make(TS_MIN(le32_get(e->used_hint), FS_SEG_INODES));
		*changed = true;
	}
	return seg_add(c, id, a);
}

static int table_block(struct chk *c, uint64_t blk, struct fs_segtab_disk *t)
{
	fs_addr a = table_addr(c, blk);
	struct chk_want w = {.type = FS_BT_SEGTAB, .kind = TOK_SEGTAB, .addr = a, .res_id = blk, .place = true, .what = "segment table"};
	bool changed = false;
	int rc = chk_read(c, a, t, 1);

	if (rc)
		return rc;
	switch (chk_judge(c, t, &w)) {
	case CHK_OK:
		break;
	case CHK_NOT:
		chk_found(c, true, "segment table block %llu (disk %u sub %llu): lost -> emptied, metadata is searched for its segments",
			  (unsigned long long)blk, FS_ADDR_DISK(a), (unsigned long long)FS_ADDR_SUB(a));
		chk_zero_block(c, t, FS_BT_SEGTAB, TOK_SEGTAB, a, blk, 0);
		c->want_search = true;
		/* fall through */
	case CHK_FIXED:
		changed = true;
	}
	if (le32_get(t->h.res_gen)) {
		chk_found(c, true, "segment table block %llu: has a generation -> cleared", (unsigned long long)blk);
		t->h.res_gen = le32_make(0);
		changed = true;
	}
	for (unsigned k = 0; k < FS_SEGS_PER_BLOCK && !rc; k++)
		rc = entry_check(c, blk * FS_SEGS_PER_BLOCK + k, &t->s[k], &changed);
	return !rc && changed ? chk_write(c, a, t) : rc;
}

int chk_segments(struct chk *c)
{
	struct fs_segtab_disk *t = chk_page();
	uint64_t n = table_blocks(c);
	int rc = t ? 0 : -ENOMEM;

	for (uint64_t b = 0; b < n && !rc; b++) {
		rc = table_block(c, b, t);
		if (b % 256 == 0)
			chk_step(c, "segment table", b, n);
	}
	ts_free(t);
	if (!rc && !seg_find(c, 0))
		c->want_search = true; /* the root is in it */
	return rc;
}

/* ---- searching for lost segments ----------------------------------------------------------------------------------------- */
#define PIECE 512u
struct search {
	bool found;
};

static int seg_enter(struct chk *c, uint64_t id, fs_addr a, struct search *s)
{
	uint64_t blk = id / FS_SEGS_PER_BLOCK;
	struct fs_segtab_disk *t;
	struct fs_seg_ent_disk *e;
	int rc;

	if (seg_find(c, id) || id >= le64_get(c->super.nsegments))
		return 0;
	t = chk_page();
	rc = t ? chk_read(c, table_addr(c, blk), t, 1) : -ENOMEM;
	e = t ? &t->s[id % FS_SEGS_PER_BLOCK] : NULL;
	if (!rc && !le64_get(e->addr[0])) {
		chk_found(c, true, "segment %llu: its inodes were found at disk %u sub %llu -> put into the segment table",
			  (unsigned long long)id, FS_ADDR_DISK(a), (unsigned long long)FS_ADDR_SUB(a));
		e->addr[0] = le64_make(a);
		e->used_hint = le32_make(FS_SEG_INODES);
		s->found = true;
		rc = chk_write(c, table_addr(c, blk), t);
	}
	ts_free(t);
	return rc;
}

/* A whole chunk: inodes that say where they are; the first of a segment tells where all of it is. */
static int search_chunk(struct chk *c, fs_addr chunk, uint8_t *buf, struct search *s)
{
	int rc = 0;

	for (uint32_t off = FS_CHUNK_HEAD; off < c->region_subs && !rc; off += PIECE) {
		uint32_t n = TS_MIN(PIECE, c->region_subs - off);

		rc = chk_read(c, chunk + off, buf, n);
		for (uint32_t i = 0; i < n && !rc; i++) {
			const struct fs_mhdr_disk *h = (const void *)(buf + (size_t)i * FS_SUB);
			fs_addr a = chunk + off + i;
			uint64_t ino = le64_get(h->res_id), in = ino % FS_SEG_INODES;

			if (h->type != FS_BT_INODE || fs_mdhdr_wrong(h, c->super.fs_id, FS_BT_INODE, a) || ino >= FS_MAX_INO ||
			    off + i < FS_CHUNK_HEAD + in || off + i - in + FS_SEG_INODES > c->region_subs)
				continue;
			rc = seg_enter(c, ino >> FS_SEG_SHIFT, a - in, s);
		}
	}
	return rc;
}

static int search_region(struct chk *c, void *arg, uint64_t region)
{
	uint8_t *buf;
	int rc = 0;

	if (c->rtype[region] != FS_REGION_META && c->rtype[region] != 0xff)
		return 0;
	buf = ts_alloc_aligned(FS_SUB, (size_t)PIECE * FS_SUB);
	for (unsigned d = 0; d < c->ndisks && !rc; d++) {
		if (!buf)
			rc = -ENOMEM;
		else if (region < c->disk[d].nchunks)
			rc = search_chunk(c, FS_ADDR(d, c->disk[d].region_start + region * c->region_subs), buf, arg);
	}
	ts_free(buf);
	return rc;
}

int chk_segment_search(struct chk *c, bool *found)
{
	struct search s = {0};
	unsigned fibers = c->fibers;
	int rc;

	chk_step(c, "searching metadata for lost inodes", 0, 1);
	c->fibers = TS_MIN(fibers, 4u);
	rc = chk_par(c, c->nregions, search_region, &s);
	c->fibers = fibers;
	*found = s.found;
	return rc;
}

/* ---- inodes -------------------------------------------------------------------------------------------------------------- */
static void enter(struct chk *c, struct chk_ino *t, const struct fs_inode_disk *d, uint64_t ino)
{
	uint32_t flags = le32_get(d->flags);

	*t = (struct chk_ino){.gen = le32_get(d->h.res_gen)};
	if (!le16_get(d->mode))
		return;
	t->type = chk_dtype(le16_get(d->mode));
	t->nlink = le32_get(d->nlink);
	t->parent = t->type == DT_DIR ? le64_get(d->parent) : 0;
	t->flags = (flags & FS_IF_ORPHAN ? CI_ORPHAN : 0) | (flags & FS_IF_DEAD ? CI_DEAD : 0);
	c->out->inodes++;
	c->out->dirs += t->type == DT_DIR;
	c->out->files += t->type == DT_REG;
}

static int inode_block(struct chk *c, struct chk_seg *s, unsigned i, struct fs_inode_disk *d)
{
	uint64_t ino = (s->id << FS_SEG_SHIFT) + i;
	char what[40];
	struct chk_want w = {.type = FS_BT_INODE, .kind = TOK_INODE, .addr = s->addr + i, .res_id = ino, .place = true, .what = what};
	bool changed = false;
	int rc = 0;

	snprintf(what, sizeof(what), "inode %llu", (unsigned long long)ino);
	switch (chk_judge(c, d, &w)) {
	case CHK_OK:
		break;
	case CHK_NOT:
		chk_found(c, true, "%s (disk %u sub %llu): block is lost -> free inode", what, FS_ADDR_DISK(w.addr),
			  (unsigned long long)FS_ADDR_SUB(w.addr));
		/* Generations of former lives are unknown: one that none of them is likely to have had. */
		chk_zero_block(c, d, FS_BT_INODE, TOK_INODE, w.addr, ino, (uint32_t)(c->clock + c->seen) | 0x40000000u);
		/* fall through */
	case CHK_FIXED:
		changed = true;
	}
	if (!ino && le16_get(d->mode)) {
		chk_found(c, true, "inode 0: is in use -> freed");
		chk_ino_free(c, ino, d);
		changed = true;
	}
	rc = chk_inode(c, ino, d, &changed);
	if (rc)
		return rc;
	enter(c, &s->ino[i], d, ino);
	return changed ? chk_write(c, w.addr, d) : 0;
}

static int segment_scan(struct chk *c, void *arg, uint64_t n)
{
	struct chk_seg *s = &c->seg[n];
	uint8_t *buf = ts_alloc_aligned(FS_SUB, (size_t)FS_SEG_INODES * FS_SUB);
	int rc = buf ? chk_read(c, s->addr, buf, FS_SEG_INODES) : -ENOMEM;

	for (unsigned i = 0; i < FS_SEG_INODES && !rc; i++)
		rc = inode_block(c, s, i, (struct fs_inode_disk *)(buf + (size_t)i * FS_SUB));
	ts_free(buf);
	return rc;
}

/* Two entries with one place: the second reading of it found foreign inodes, so only neighbours that overlap remain. */
int chk_inodes(struct chk *c)
{
	int rc = chk_par(c, c->nseg, segment_scan, NULL);

	for (size_t i = 0; i < c->nintent && !rc; i++) {
		const struct chk_intent *it = &c->intent[i];
		struct chk_ino *t = it->type == FS_INTENT_ORPHAN ? chk_ino(c, it->a) : NULL;

		if (t && t->type && t->gen == (uint32_t)it->b)
			t->flags |= CI_INTENT;
	}
	return rc;
}
