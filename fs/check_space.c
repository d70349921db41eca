/* SPDX-License-Identifier: Apache-2.0 */
/* Job: who uses which sub-block: every pointer of every inode is marked in memory, by as many passes over regions as memory
 * asks for; then doubles are settled and the bitmaps compared.
 * Must never happen: a bitmap changed before the whole pass was marked and its doubles were settled. */
#include "fs/check.h"

uint64_t *chk_space_bits(struct chk *c, uint32_t region, unsigned disk)
{
	struct chk_space *s = c->space;

	return s->bits + ((size_t)(region - s->first) * c->ndisks + disk) * s->words;
}

/* ---- every inode's blocks ---------------------------------------------------------------------------------------------------- */
static int walk_segment(struct chk *c, void *arg, uint64_t n)
{
	const struct chk_visit *v = arg;
	struct chk_seg *s = &c->seg[n];
	struct fs_inode_disk *d = chk_page();
	int rc = d ? 0 : -ENOMEM;

	for (unsigned i = 0; i < FS_SEG_INODES && !rc; i++) {
		bool changed = false;

		if (!s->ino[i].type)
			continue;
		rc = chk_read(c, s->addr + i, d, 1);
		if (!rc && (d->payload_type == FS_PL_MAP || d->payload_type == FS_PL_DIRTREE || le32_get(d->flags) & FS_IF_XATTR_BLOCK ||
			    le16_get(d->xattr_len)))
			rc = chk_walk(c, (s->id << FS_SEG_SHIFT) + i, d, v, &changed);
		if (!rc && changed)
			rc = chk_write(c, s->addr + i, d);
	}
	ts_free(d);
	return rc;
}

int chk_walk_all(struct chk *c, const struct chk_visit *v)
{
	return chk_par(c, c->nseg, walk_segment, (void *)(uintptr_t)v);
}

/* ---- marking -------------------------------------------------------------------------------------------------------------------- */
static int twice(struct chk *c, fs_addr a)
{
	struct chk_space *s = c->space;

	if (s->ntwice == CHK_TWICE_MAX)
		return 0; /* the next round finds the others */
	if (s->ntwice == s->twice_room) {
		size_t room = s->twice_room ? s->twice_room * 2 : 256;
		fs_addr *v = ts_alloc(room * sizeof(*v));

		if (!v)
			return -ENOMEM;
		if (s->ntwice)
			memcpy(v, s->twice, s->ntwice * sizeof(*v));
		ts_free(s->twice);
		s->twice = v;
		s->twice_room = room;
	}
	s->twice[s->ntwice++] = a;
	return 0;
}

static int mark(struct chk *c, fs_addr a, uint32_t subs, bool meta)
{
	struct chk_space *s = c->space;
	uint32_t region, off;
	uint64_t *bits;
	int rc = 0;

	if (!chk_in_region(c, a, subs, &region, &off) || region < s->first || region >= s->end)
		return 0;
	bits = chk_space_bits(c, region, FS_ADDR_DISK(a));
	*(meta ? &s->nmeta[region - s->first] : &s->ndata[region - s->first]) += subs;
	for (uint32_t i = off; i < off + subs && !rc; i++) {
		if (bits[i / 64] >> (i % 64) & 1)
			rc = twice(c, a + (i - off));
		bits[i / 64] |= 1ULL << (i % 64);
	}
	return rc;
}

static int mark_block(struct chk *c, void *arg, uint64_t ino, struct fs_bptr_disk *p, bool meta, uint64_t idx, bool *changed)
{
	return mark(c, le64_get(p->addr[0]), meta ? 1 : le16_get(p->subs), meta);
}

static int mark_all(struct chk *c)
{
	struct chk_space *s = c->space;
	struct chk_visit v = {.block = mark_block};
	uint32_t n = s->end - s->first;
	int rc = 0;

	memset(s->bits, 0, (size_t)n * c->ndisks * s->words * 8);
	memset(s->nmeta, 0, n * sizeof(*s->nmeta));
	memset(s->ndata, 0, n * sizeof(*s->ndata));
	s->ntwice = 0;
	for (size_t i = 0; i < c->nseg && !rc; i++)
		rc = mark(c, c->seg[i].addr, FS_SEG_INODES, true);
	return rc ? rc : chk_walk_all(c, &v);
}

/* ---- passes ----------------------------------------------------------------------------------------------------------------------- */
static bool mixed(const struct chk_space *s)
{
	for (uint32_t i = 0; i < s->end - s->first; i++)
		if (s->nmeta[i] && s->ndata[i])
			return true;
	return false;
}

static uint64_t used(const struct chk *c)
{
	const struct chk_space *s = c->space;
	uint64_t n = 0;

	for (size_t i = 0; i < (size_t)(s->end - s->first) * c->ndisks * s->words; i++)
		n += (uint64_t)__builtin_popcountll(s->bits[i]);
	return n;
}

static int pass(struct chk *c)
{
	int rc = mark_all(c);

	for (unsigned tries = 0; !rc && tries < 8 && (c->space->ntwice || mixed(c->space)); tries++) {
		rc = chk_doubles(c);
		if (!rc)
			rc = mark_all(c);
	}
	if (!rc)
		rc = chk_flush(c); /* references before space */
	if (rc)
		return rc;
	c->out->blocks_used += used(c);
	return chk_bitmaps(c);
}

static uint32_t regions_at_once(struct chk *c, uint32_t words)
{
	uint64_t each = (uint64_t)c->ndisks * words * 8 + 8, room = c->mem_bound > c->mem_used ? c->mem_bound - c->mem_used : 0;

	return (uint32_t)TS_MIN((uint64_t)c->nregions, TS_MAX((uint64_t)1, room / 2 / each));
}

int chk_space(struct chk *c)
{
	struct chk_space s = {.words = (c->region_subs + 63) / 64};
	uint32_t step = regions_at_once(c, s.words);
	size_t nbits = (size_t)step * c->ndisks * s.words * 8, ncount = (size_t)step * sizeof(uint32_t);
	int rc = 0;

	c->pool_want = c->nlost ? c->nlost / 16 + 32 : 0;
	c->npool = 0;
	ts_free(c->pool);
	c->pool = c->pool_want ? ts_alloc(c->pool_want * sizeof(*c->pool)) : NULL;
	s.bits = chk_alloc(c, nbits);
	s.nmeta = chk_alloc(c, ncount);
	s.ndata = chk_alloc(c, ncount);
	if (!s.bits || !s.nmeta || !s.ndata || (c->pool_want && !c->pool))
		rc = -ENOMEM;
	c->space = &s;
	c->out->blocks_used = 0;
	for (s.first = 0; s.first < c->nregions && !rc; s.first = s.end) {
		s.end = TS_MIN(s.first + step, c->nregions);
		chk_step(c, "space", s.first, c->nregions);
		rc = pass(c);
	}
	chk_free(c, s.bits, nbits);
	chk_free(c, s.nmeta, ncount);
	chk_free(c, s.ndata, ncount);
	ts_free(s.twice);
	c->space = NULL;
	return rc;
}
