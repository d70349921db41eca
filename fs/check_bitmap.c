/* SPDX-License-Identifier: Apache-2.0 */
/* Job: each chunk's two head blocks against what was marked: in use without an owner, owned but free, counters, the region's
 * type. Intents of the logs may hold space without an owner: that is no fault, and what a repair gives back.
 * Must never happen: a type that contradicts what lies in the region (a replay would overwrite a user's data). */
#include "fs/check.h"

#include <stdio.h>

struct head {
	struct chk *c;
	uint32_t region;
	unsigned disk;
	fs_addr at;
	struct fs_bitmap_disk *b;
	struct fs_chunkaux_disk *x;
	bool changed, lost;
	char what[64];
};

static bool bit(const uint8_t *bits, uint32_t i)
{
	return bits[i / 8] >> (i % 8) & 1;
}

static int head_open(struct chk *c, uint32_t region, unsigned disk, struct head *h)
{
	uint8_t *buf = ts_alloc_aligned(FS_SUB, 2 * FS_SUB);

	*h = (struct head){.c = c, .region = region, .disk = disk, .at = FS_ADDR(disk, c->disk[disk].region_start + (uint64_t)region * c->region_subs)};
	snprintf(h->what, sizeof(h->what), "region %u on disk %u", region, disk);
	h->b = (void *)buf;
	h->x = (void *)(buf + (buf ? FS_SUB : 0));
	return buf ? chk_read(c, h->at, buf, 2) : -ENOMEM;
}

/* ---- header and plain fields ------------------------------------------------------------------------------------------------------ */
static void judge_bitmap(struct head *h)
{
	struct chk_want w = {.type = FS_BT_BITMAP, .kind = TOK_REGION, .addr = h->at, .res_id = h->region, .place = true, .what = h->what};
	enum chk_verdict v = chk_judge(h->c, h->b, &w);

	h->changed = v != CHK_OK;
	h->lost = v == CHK_NOT;
	if (!h->lost)
		return;
	chk_found(h->c, true, "%s: bitmap is lost -> made from what is in use", h->what);
	chk_zero_block(h->c, h->b, FS_BT_BITMAP, TOK_REGION, h->at, h->region, 0);
	h->b->region = le32_make(h->region);
	h->b->disk = le16_make((uint16_t)h->disk);
	h->b->first_sub = le64_make(FS_ADDR_SUB(h->at));
	h->b->nsubs = le32_make(h->c->region_subs);
	h->b->type = 0xff; /* as its neighbours, or what lies in it */
	/* What a log may still say of its blocks is void: all logs are replayed. */
	h->b->retyped_version = le64_make(TS_MAX(h->c->clock, h->c->seen));
}

static void plain_fields(struct head *h)
{
	struct fs_bitmap_disk *b = h->b;
	bool wrong = le32_get(b->region) != h->region || le16_get(b->disk) != h->disk || le64_get(b->first_sub) != FS_ADDR_SUB(h->at) ||
		     le32_get(b->nsubs) != h->c->region_subs || b->reserved0 || !chk_zero(b->reserved, sizeof(b->reserved)) ||
		     le32_get(b->h.res_gen);
	uint64_t retyped = le64_get(b->retyped_version);

	if (wrong) {
		chk_found(h->c, true, "%s: bitmap describes another chunk or uses reserved fields -> corrected", h->what);
		b->region = le32_make(h->region);
		b->disk = le16_make((uint16_t)h->disk);
		b->first_sub = le64_make(FS_ADDR_SUB(h->at));
		b->nsubs = le32_make(h->c->region_subs);
		b->reserved0 = 0;
		memset(b->reserved, 0, sizeof(b->reserved));
		b->h.res_gen = le32_make(0);
		h->changed = true;
	}
	if (retyped > CHK_VERSION_MAX || (retyped > le64_get(b->h.version) && le64_get(b->h.version) && !h->lost)) {
		chk_found(h->c, true, "%s: type changed at time %llu, after the last change of the block -> corrected", h->what,
			  (unsigned long long)retyped);
		b->retyped_version = le64_make(TS_MIN(le64_get(b->h.version), CHK_VERSION_MAX));
		h->changed = true;
	}
}

static int aux(struct head *h)
{
	struct chk_want w = {.type = FS_BT_CHUNKAUX, .kind = TOK_REGION, .addr = h->at + 1, .res_id = h->region, .place = true, .what = h->what};
	enum chk_verdict v = chk_judge(h->c, h->x, &w);

	if (v == CHK_NOT) {
		chk_found(h->c, true, "%s: its second block is lost -> made again", h->what);
		chk_zero_block(h->c, h->x, FS_BT_CHUNKAUX, TOK_REGION, h->at + 1, h->region, 0);
	}
	if (!chk_zero((uint8_t *)h->x + sizeof(h->x->h), FS_SUB - sizeof(h->x->h)) || le32_get(h->x->h.res_gen)) {
		chk_found(h->c, true, "%s: its second block has marks of shipped frees, of which there are none -> cleared", h->what);
		memset((uint8_t *)h->x + sizeof(h->x->h), 0, FS_SUB - sizeof(h->x->h));
		h->x->h.res_gen = le32_make(0);
		v = CHK_FIXED;
	}
	return v == CHK_OK ? 0 : chk_write(h->c, h->at + 1, h->x);
}

/* The share of a disk that came later, or of one that grew: it gets the type from the region's next owner. */
static bool late(const struct head *h)
{
	return !h->lost && h->b->type == FS_REGION_FREE && !le64_get(h->b->retyped_version) && le32_get(h->c->super.h.res_gen) &&
	       le32_get(h->b->free) == h->c->region_subs - FS_CHUNK_HEAD;
}

/* ---- type ---------------------------------------------------------------------------------------------------------------------------- */
/* What the region must be: by its contents, else by its chunks. */
static int region_type(struct chk *c, uint32_t region, uint8_t *out)
{
	struct chk_space *s = c->space;
	unsigned votes[3] = {0, 0, 0}, best = FS_REGION_FREE;
	struct head h;
	int rc = 0;

	if (s->nmeta[region - s->first] || s->ndata[region - s->first]) {
		*out = s->nmeta[region - s->first] ? FS_REGION_META : FS_REGION_DATA;
		return 0;
	}
	for (unsigned d = 0; d < c->ndisks && !rc; d++) {
		if (region >= c->disk[d].nchunks)
			continue;
		rc = head_open(c, region, d, &h);
		if (!rc && !fs_mdhdr_wrong(h.b, c->super.fs_id, FS_BT_BITMAP, h.at) && h.b->type <= FS_REGION_DATA && !late(&h))
			votes[h.b->type]++;
		ts_free(h.b);
	}
	for (unsigned i = 1; i < 3; i++)
		if (votes[i] > votes[best])
			best = i;
	*out = (uint8_t)best;
	return rc;
}

static void type(struct head *h, uint8_t want)
{
	static const char *const name[] = {"free", "metadata", "data"};
	struct fs_bitmap_disk *b = h->b;

	if (b->type == want)
		return;
	if (late(h))
		return;
	if (!h->lost)
		chk_found(h->c, true, "%s: type %u, but the region is of type %s -> set", h->what, b->type, name[want]);
	b->type = want;
	b->retyped_version = le64_make(TS_MAX(h->c->clock, h->c->seen));
	h->changed = true;
}

/* ---- bits ------------------------------------------------------------------------------------------------------------------------------ */
/* Space that intents will free is in use without an owner, and is given back here. */
static void take_intents(struct head *h, uint8_t *bits)
{
	struct chk *c = h->c;
	size_t lo = 0, hi = c->nintent;
	fs_addr end = h->at + c->region_subs;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (c->intent[mid].a < h->at)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < c->nintent && c->intent[lo].a < end; lo++) {
		const struct chk_intent *it = &c->intent[lo];
		unsigned was_free = 0;

		for (fs_addr a = it->a; it->type == FS_INTENT_FREE && a < it->a + it->subs && a < end; a++) {
			uint32_t i = (uint32_t)(a - h->at);

			was_free += !bit(bits, i) && !h->lost;
			if (i >= FS_CHUNK_HEAD)
				bits[i / 8] &= (uint8_t)~(1u << (i % 8));
		}
		if (was_free && it->slot < FS_MAX_SLOTS)
			chk_found(c, true, "log of slot %u: frees disk %u sub %llu, which is free -> not done", it->slot, h->disk,
				  (unsigned long long)FS_ADDR_SUB(it->a));
	}
}

static void pool_take(struct head *h, uint64_t *used)
{
	struct chk *c = h->c;

	for (uint32_t i = c->region_subs; i-- > FS_CHUNK_HEAD && c->npool < c->pool_want;) {
		if (used[i / 64] >> (i % 64) & 1)
			continue;
		used[i / 64] |= 1ULL << (i % 64);
		c->pool[c->npool++] = h->at + i;
	}
}

static void compare(struct head *h, const uint8_t *disk, const uint64_t *used)
{
	uint32_t leaked = 0, missing = 0, first[2] = {0, 0};

	for (uint32_t i = 0; i < h->c->region_subs; i++) {
		bool want = i < FS_CHUNK_HEAD || used[i / 64] >> (i % 64) & 1, is = bit(disk, i);

		if (is && !want && !leaked++)
			first[0] = i;
		if (!is && want && !missing++)
			first[1] = i;
	}
	if (leaked && !h->lost)
		chk_found(h->c, true, "%s: %u sub-blocks are in use without an owner, the first at sub %llu -> freed", h->what, leaked,
			  (unsigned long long)FS_ADDR_SUB(h->at) + first[0]);
	if (missing && !h->lost)
		chk_found(h->c, true, "%s: %u sub-blocks have an owner but are free, the first at sub %llu -> in use", h->what, missing,
			  (unsigned long long)FS_ADDR_SUB(h->at) + first[1]);
	if (!chk_zero(disk + (h->c->region_subs + 7) / 8, FS_BITMAP_BITS / 8 - (h->c->region_subs + 7) / 8)) {
		chk_found(h->c, true, "%s: bits behind the end of its bitmap are set -> cleared", h->what);
		h->changed = true;
	}
	h->changed |= leaked || missing;
}

static void bits(struct head *h, bool pool)
{
	struct fs_bitmap_disk *b = h->b;
	uint64_t *used = chk_space_bits(h->c, h->region, h->disk);
	uint8_t disk[FS_BITMAP_BITS / 8], now[FS_BITMAP_BITS / 8] = {0};
	uint32_t zero_disk = 0, zero_now = 0, n = h->c->region_subs;

	memcpy(disk, b->bits, sizeof(disk));
	for (uint32_t i = 0; i < n; i++)
		zero_disk += !bit(disk, i);
	if (zero_disk != le32_get(b->free) && !h->lost) {
		chk_found(h->c, true, "%s: says %u free sub-blocks, has %u -> set", h->what, le32_get(b->free), zero_disk);
		h->changed = true;
	}
	take_intents(h, disk);
	compare(h, disk, used);
	if (pool)
		pool_take(h, used);
	for (uint32_t i = 0; i < n; i++) {
		if (i < FS_CHUNK_HEAD || used[i / 64] >> (i % 64) & 1)
			now[i / 8] |= (uint8_t)(1u << (i % 8));
		else
			zero_now++;
	}
	/* Looking only, what the logs hold stays; a repair gives it back, found or not. */
	if (memcmp(now, b->bits, sizeof(now)) || le32_get(b->free) != zero_now) {
		h->changed |= h->c->repair || pool;
		memcpy(b->bits, now, sizeof(now));
		b->free = le32_make(zero_now);
	}
}

/* ---- a region -------------------------------------------------------------------------------------------------------------------------- */
static int chunk(struct chk *c, uint32_t region, unsigned disk, uint8_t want)
{
	struct head h;
	int rc = head_open(c, region, disk, &h);

	if (!rc) {
		judge_bitmap(&h);
		plain_fields(&h);
		type(&h, want);
		bits(&h, want == FS_REGION_META && c->npool < c->pool_want);
		rc = aux(&h);
	}
	if (!rc && h.changed)
		rc = chk_write(c, h.at, h.b);
	ts_free(h.b);
	return rc;
}

static int one_region(struct chk *c, void *arg, uint64_t i)
{
	uint32_t region = c->space->first + (uint32_t)i;
	uint8_t want;
	int rc = region_type(c, region, &want);

	for (unsigned d = 0; d < c->ndisks && !rc; d++) {
		if (region < c->disk[d].nchunks)
			rc = chunk(c, region, d, want);
	}
	return rc;
}

int chk_bitmaps(struct chk *c)
{
	return chk_par(c, c->space->end - c->space->first, one_region, NULL);
}

/* What the repair kept for itself and did not need. */
int chk_pool_return(struct chk *c)
{
	int rc = 0;

	while (c->npool && !rc) {
		fs_addr a = c->pool[--c->npool];
		uint32_t region, off;
		struct head h;

		if (!chk_in_region(c, a, 1, &region, &off))
			continue;
		rc = head_open(c, region, FS_ADDR_DISK(a), &h);
		if (!rc && bit(h.b->bits, off)) {
			h.b->bits[off / 8] &= (uint8_t)~(1u << (off % 8));
			h.b->free = le32_make(le32_get(h.b->free) + 1);
			rc = chk_write(c, h.at, h.b);
		}
		ts_free(h.b);
	}
	return rc;
}
