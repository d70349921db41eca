/* SPDX-License-Identifier: Apache-2.0 */
/* Job: space of the regions this node owns, taken and returned without waiting.
 *
 * Taken extents live in the shadow bitmap only; the transaction that makes a pointer to them sets the bits
 * (fs_alloc_commit). Freed extents are intents; their bits fall when the reaper applies them, after the freeing
 * transaction is stable. What must never happen: an extent given out twice; an extent given out whose former pointer may
 * come back after a crash; a take that waits. */
#include "fs/alloc_int.h"

static enum fs_region_type type_of(bool meta)
{
	return meta ? FS_REGION_META : FS_REGION_DATA;
}

static void take_account(struct fs *fs, struct fs_region *r, struct fs_chunk *c, uint32_t off, uint32_t subs)
{
	fs_bits_set(c->shadow, off, subs);
	c->free -= subs;
	fs_region_gain(fs, r, c, -(int64_t)subs);
	r->taken++;
}

static bool take_in(struct fs *fs, struct fs_region *r, unsigned disk, uint32_t subs, uint32_t near, struct fs_ext *out)
{
	struct fs_chunk *c = disk < r->ndisks ? r->by_disk[disk] : NULL;
	uint32_t off;

	if (!c || !c->usable || !fs_disk_takes(fs, disk, r->type))
		return false;
	off = fs_chunk_find(c, fs->alloc->unit[r->type], subs, near);
	if (off == FS_NO_SUB)
		return false;
	take_account(fs, r, c, off, subs);
	*out = (struct fs_ext){.addr = fs_chunk_addr(fs, disk, r->id) + off, .subs = subs};
	return true;
}

static bool take_near(struct fs *fs, unsigned cls, uint32_t subs, fs_addr goal, struct fs_ext *out)
{
	struct fs_place p;
	struct fs_region *r;

	if (!goal || !fs_alloc_place(fs, goal, 1, &p) || fs_disk_pool(fs, p.disk) != FS_CLASS_POOL(cls))
		return false;
	r = fs->alloc->hints[p.region].reg;
	return r && r->listed && r->type == FS_CLASS_TYPE(cls) && r->free >= subs && take_in(fs, r, p.disk, subs, p.off, out);
}

/* Where in the ring a stripe begins: in turn, or, of disks of several sizes, as often as a disk is large. */
static unsigned ring_first(struct fs *fs, unsigned type, uint64_t stripe)
{
	const struct fs_alloc *a = fs->alloc;
	uint64_t all = 0, x;

	if (a->even[type])
		return (unsigned)(stripe % a->nring[type]);
	for (unsigned i = 0; i < a->nring[type]; i++)
		all += le32_get(fs->disks[a->ring[type][i]].ent.nchunks);
	x = ts_hash_u64(stripe) % all;
	for (unsigned i = 0; i < a->nring[type]; i++) {
		uint32_t n = le32_get(fs->disks[a->ring[type][i]].ent.nchunks);

		if (x < n)
			return i;
		x -= n;
	}
	return 0;
}

int fs_alloc_take_on(struct fs *fs, uint32_t subs, unsigned disk, struct fs_ext *out)
{
	struct fs_alloc *a = fs->alloc;

	ts_list_for(l, &a->owned[FS_REGION_DATA])
	{
		struct fs_region *r = ts_list_entry(l, struct fs_region, link);

		if (r->free >= subs && take_in(fs, r, disk, subs, FS_NO_SUB, out))
			return 0;
	}
	return -ENOSPC;
}

/* The k-th disk to be tried: those of the stripe in turn, from the one that is due; then the others. */
struct turn {
	unsigned first, due, width;
};
static unsigned ring_turn(const struct turn *t, unsigned n, unsigned k)
{
	return (t->first + (k < t->width ? (t->due + k) % t->width : k)) % n;
}

static int take(struct fs *fs, unsigned cls, uint32_t subs, fs_addr goal, const struct turn *t, uint32_t reserve, struct fs_ext *out)
{
	struct fs_alloc *a = fs->alloc;
	enum fs_region_type type = FS_CLASS_TYPE(cls);
	unsigned n = a->nring[cls], pool = FS_CLASS_POOL(cls);

	TS_ASSERT(subs && subs <= a->unit[type]);
	if (a->free[cls] >= (uint64_t)subs + reserve) {
		if (take_near(fs, cls, subs, goal, out))
			return 0;
		for (unsigned k = 0; k < n; k++) {
			unsigned disk = a->ring[cls][ring_turn(t, n, k)];

			ts_list_for(l, &a->owned[type])
			{
				struct fs_region *r = ts_list_entry(l, struct fs_region, link);

				if (r->pfree[pool] >= subs && take_in(fs, r, disk, subs, FS_NO_SUB, out))
					return 0;
			}
			if (k < t->width && ts_exec_now(fs->exec) >= fs->disks[disk].full_until) { /* not here, but perhaps in other regions */
				a->want_on[cls] = disk + 1;
				break;
			}
		}
	}
	a->want[cls] = subs;
	return type == FS_REGION_META ? -FS_NEED_META : -(FS_NEED_SPACE + (int)pool);
}

static struct turn turn_all(struct fs *fs, unsigned cls, uint64_t stripe)
{
	return (struct turn){.first = fs->alloc->nring[cls] ? ring_first(fs, cls, stripe) : 0};
}

int fs_alloc_take(struct fs *fs, bool meta, uint32_t subs, fs_addr goal, uint64_t stripe, struct fs_ext *out)
{
	struct turn t = turn_all(fs, type_of(meta), stripe);

	return take(fs, type_of(meta), subs, goal, &t, meta ? FS_META_RESERVE : 0, out);
}

int fs_alloc_take_reserve(struct fs *fs, uint32_t subs, fs_addr goal, struct fs_ext *out)
{
	struct turn t = turn_all(fs, FS_REGION_META, fs->self);

	return take(fs, FS_REGION_META, subs, goal, &t, 0, out);
}

int fs_alloc_take_data(struct fs *fs, const struct fs_layout_want *w, uint32_t subs, fs_addr goal, struct fs_ext *out)
{
	unsigned cls = FS_CLASS(FS_REGION_DATA, w->pool);
	bool some = w->width && w->width < fs->alloc->nring[cls];
	struct turn t = turn_all(fs, cls, some ? ts_hash_u64(w->file) : w->file + w->block);

	TS_ASSERT(w->pool < FS_POOLS);
	if (some) {
		t.width = w->width;
		t.due = (unsigned)(w->block % w->width);
	}
	return take(fs, cls, subs, goal, &t, 0, out);
}

static struct fs_region *region_of(struct fs *fs, const struct fs_ext *e, struct fs_place *p)
{
	struct fs_region *r;

	TS_ASSERT(fs_alloc_place_taken(fs, e->addr, e->subs, p));
	r = fs->alloc->hints[p->region].reg;
	TS_ASSERT(r && r->taken && r->by_disk[p->disk]); /* a region stays until what was taken from it is settled */
	return r;
}

static void taken_done(struct fs_region *r)
{
	if (--r->taken == 0)
		ts_cond_broadcast(&r->cond);
}

void fs_alloc_untake(struct fs *fs, const struct fs_ext *e)
{
	struct fs_place p;
	struct fs_region *r = region_of(fs, e, &p);
	struct fs_chunk *c = r->by_disk[p.disk];

	TS_ASSERT(fs_bits_all(c->shadow, p.off, e->subs));
	fs_bits_clear(c->shadow, p.off, e->subs);
	c->free += e->subs;
	fs_region_gain(fs, r, c, e->subs);
	fs->alloc->gen[FS_CLASS(r->type, c->pool)]++;
	fs_chunk_reset(c, fs->alloc->unit[r->type]);
	fs_space_changed(fs, r->id, 0);
	taken_done(r);
}

void fs_alloc_commit(struct fs *fs, struct fs_tx *tx, const struct fs_ext *e)
{
	struct fs_place p;
	struct fs_region *r = region_of(fs, e, &p);
	struct fs_chunk *c = r->by_disk[p.disk];
	struct fs_bitmap_disk *d = fs_bitmap_of(c->buf);

	TS_ASSERT(fs_bits_all(c->shadow, p.off, e->subs));
	fs_tx_buf(tx, c->buf);
	fs_dbits_set(d->bits, p.off, e->subs, true);
	d->free = le32_make(le32_get(d->free) - e->subs);
	fs_space_changed(fs, r->id, 0);
	taken_done(r);
}

void fs_alloc_free(struct fs *fs, struct fs_tx *tx, fs_addr a, uint32_t subs, uint64_t birth)
{
	(void)fs_tx_intent(tx, FS_INTENT_FREE, subs, a, birth);
	fs->alloc->promised++;
}

/* ---- disks ----------------------------------------------------------------------------------------------------------- */
int fs_alloc_ring(struct fs *fs)
{
	struct fs_alloc *a = fs->alloc;
	uint64_t total = 0;

	for (unsigned t = FS_REGION_META; t < FS_CLASSES; t++) {
		uint16_t *v = ts_alloc(TS_MAX(fs->ndisks, 1u) * sizeof(*v));
		unsigned n = 0;

		if (!v)
			return -ENOMEM;
		a->even[t] = true;
		for (unsigned d = 0; d < fs->ndisks; d++) {
			if (!le32_get(fs->disks[d].ent.nchunks) || !fs_disk_takes(fs, d, FS_CLASS_TYPE(t)) || fs_disk_pool(fs, d) != FS_CLASS_POOL(t))
				continue;
			v[n++] = (uint16_t)d;
			a->even[t] &= fs->disks[d].ent.nchunks.v == fs->disks[v[0]].ent.nchunks.v;
		}
		ts_free(a->ring[t]);
		a->ring[t] = v;
		a->nring[t] = n;
	}
	for (unsigned d = 0; d < fs->ndisks; d++)
		if (fs_disk_holds(fs, d))
			total += (uint64_t)TS_MIN(fs_disk_chunks(&fs->disks[d].ent), a->nregions) *
				 (le32_get(fs->super.region_subs) - FS_CHUNK_HEAD);
	a->total_subs = total;
	return 0;
}

/* ---- life ------------------------------------------------------------------------------------------------------------ */
#define MAX_REGIONS (64u << 20)
int fs_alloc_init(struct fs *fs)
{
	uint32_t n = le32_get(fs->super.nregions), rs = le32_get(fs->super.region_subs);
	struct fs_alloc *a;

	if (!n || n > MAX_REGIONS || rs <= FS_CHUNK_HEAD || rs > FS_BITMAP_BITS || !fs->ndisks || !fs->block_subs ||
	    fs->block_subs > rs)
		return -EUCLEAN;
	a = ts_alloc(sizeof(*a));
	if (!a)
		return -ENOMEM;
	a->room = FS_REGIONS_ROOM(n);
	a->hints = ts_alloc((size_t)a->room * sizeof(*a->hints));
	if (!a->hints) {
		ts_free(a);
		return -ENOMEM;
	}
	a->nregions = n;
	a->unit[FS_REGION_META] = FS_SEG_INODES;
	a->unit[FS_REGION_DATA] = fs->block_subs;
	/* Memory: 8 KiB a chunk. A big file system on few disks may own more regions at once. */
	a->max_owned = TS_MAX(2u, TS_MIN(n > 1024 ? 32u : 8u, 2048u / fs->ndisks));
	for (unsigned t = 0; t < TS_ARRAY_LEN(a->owned); t++)
		ts_list_init(&a->owned[t]);
	ts_mutex_init(&a->lock);
	ts_list_init(&a->changed);
	ts_list_init(&a->freeing);
	fs->alloc = a;
	return fs_alloc_ring(fs); /* fs_alloc_fini follows an error, too */
}

void fs_alloc_fini(struct fs *fs)
{
	struct fs_alloc *a = fs->alloc;

	if (!a)
		return;
	for (unsigned t = 0; t < TS_ARRAY_LEN(a->owned); t++) {
		ts_list_for_safe(l, tmp, &a->owned[t])
		{
			struct fs_region *r = ts_list_entry(l, struct fs_region, link);

			fs_region_unlist(fs, r);
			r->taken = 0; /* the node stopped with operations cut short: nothing of it was committed */
			fs_region_free(fs, r);
		}
	}
	fs_space_fini(fs);
	for (unsigned t = 0; t < TS_ARRAY_LEN(a->ring); t++)
		ts_free(a->ring[t]);
	ts_free(a->hints);
	ts_free(a);
	fs->alloc = NULL;
}
