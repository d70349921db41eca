/* SPDX-License-Identifier: Apache-2.0 */
/* Job: statfs, as the whole cluster has it: this node's regions from memory, the others' as their nodes tell when they are asked
 * (space_ask.c), what nobody has changed from disk. Nothing is sent while nobody asks; who asks often gets an answer of a
 * moment ago. Must never happen: space given out by what is known here, it is for telling only. */
#include "fs/alloc_int.h"

#define AGE_NS	    (FS_SPACE_AGE_MS * TS_NS_PER_MS)
#define TABLE_NS    TS_NS_PER_S
#define LOOK_READS  4096u /* chunks read for one answer at most: more regions than that are looked at by and by */
#define TABLE_READS 1024u

void fs_space_changed(struct fs *fs, uint32_t region, uint32_t freed)
{
	struct fs_alloc *a = fs->alloc;
	struct fs_region_hint *h = &a->hints[region];

	if (h->changed)
		ts_list_del(&h->changed_link);
	h->changed = ++a->changes;
	ts_list_push_front(&a->changed, &h->changed_link);
	if (a->space) { /* when it is ours no more it is looked at */
		a->space->seen[region].stale = true;
		a->space->seen[region].free += freed;
		a->space->seen[region].whole += freed == fs->block_subs ? freed : 0;
	}
}

/* Bits in units that are wholly free; the first holds the chunk's own blocks. A unit is at least two bytes, so that the order of
 * bytes in a word does not matter. */
static uint32_t whole_units(const void *bits, uint32_t nsubs, uint32_t unit)
{
	const uint8_t *p = bits;
	uint32_t n = 0, bytes = unit / 8;

	for (uint32_t u = 1; u < TS_MIN(nsubs, FS_BITMAP_BITS) / unit; u++)
		n += !p[u * bytes] && (bytes == 1 || !memcmp(p + u * bytes, p + u * bytes + 1, bytes - 1));
	return n * unit;
}

struct fs_seen fs_space_owned(struct fs *fs, const struct fs_region *r)
{
	struct fs_seen s = {.free = (uint32_t)r->free, .type = (uint8_t)r->type, .known = true};

	memcpy(s.pfree, r->pfree, sizeof(s.pfree));
	for (unsigned i = 0; i < r->nchunks; i++)
		if (r->chunks[i].usable) {
			uint32_t n = whole_units(r->chunks[i].shadow, r->chunks[i].nsubs, fs->block_subs);

			s.whole += n;
			s.pwhole[r->chunks[i].pool] += n;
		}
	return s;
}

static int look_chunk(struct fs *fs, unsigned disk, uint32_t region, struct fs_seen *out)
{
	fs_addr at = fs_chunk_addr(fs, disk, region);
	struct fs_buf *b = fs_buf_peek(fs, at); /* newer than the disk while the token is cached here */
	const struct fs_bitmap_disk *d = b ? fs_bitmap_of(b) : NULL;
	void *raw = NULL;
	int rc = 0;

	if (!d) {
		d = raw = ts_alloc_aligned(FS_SUB, FS_SUB);
		rc = raw ? fs_io_read(fs, at, raw, FS_SUB) : -ENOMEM;
	}
	if (!rc && d->type <= FS_REGION_DATA && le32_get(d->free) <= FS_BITMAP_BITS &&
	    (b || !fs_mdhdr_wrong(d, fs->super.fs_id, FS_BT_BITMAP, at)) && /* else caught half written, or broken: nothing free */
	    fs_disk_takes(fs, disk, d->type)) {
		uint32_t n = whole_units(d->bits, le32_get(d->nsubs), fs->block_subs);

		out->free += le32_get(d->free);
		out->pfree[fs_disk_pool(fs, disk)] += le32_get(d->free);
		out->whole += n;
		out->pwhole[fs_disk_pool(fs, disk)] += n;
		out->type = TS_MAX(out->type, d->type); /* the share of a disk that came later has none yet */
	}
	if (b)
		fs_buf_put(fs, b);
	ts_free(raw);
	return rc;
}

int fs_space_region(struct fs *fs, uint32_t region, struct fs_seen *out)
{
	int rc = 0;

	*out = (struct fs_seen){.known = true};
	for (unsigned d = 0; d < fs->ndisks && !rc; d++)
		rc = fs_chunk_exists(fs, d, region) ? look_chunk(fs, d, region, out) : 0;
	return rc;
}

/* What is being freed lay in a region with a type: who still believes it to have none looked before another node gave it one. */
static enum fs_region_type type_at(struct fs *fs, fs_addr a, uint32_t subs)
{
	const struct fs_alloc *al = fs->alloc;
	struct fs_place p;

	if (!fs_alloc_place(fs, a, subs, &p))
		return FS_REGION_FREE;
	if (al->hints[p.region].known && al->hints[p.region].type != FS_REGION_FREE)
		return al->hints[p.region].type;
	if (al->space && al->space->seen[p.region].known && al->space->seen[p.region].type != FS_REGION_FREE)
		return al->space->seen[p.region].type;
	return FS_REGION_DATA;
}

void fs_space_coming(struct fs *fs, uint64_t coming[3])
{
	memset(coming, 0, 3 * sizeof(*coming));
	ts_list_for(l, fs_log_intents(fs))
	{
		const struct fs_intent *in = ts_list_entry(l, struct fs_intent, link);

		if (in->type == FS_INTENT_FREE)
			coming[type_at(fs, in->a, in->subs)] += in->subs;
	}
	ts_list_for(l, &fs->alloc->freeing)
	{
		const struct fs_inode *ip = ts_list_entry(l, struct fs_freeing, link)->ip;
		const struct fs_inode_disk *d = ip->buf ? (const struct fs_inode_disk *)ip->buf->data : NULL;

		if (d)
			coming[S_ISREG(le16_get(d->mode)) ? FS_REGION_DATA : FS_REGION_META] += TS_MIN(le64_get(d->subs), fs->alloc->total_subs);
	}
}

unsigned fs_space_segs(struct fs *fs, struct fs_seg_free out[FS_SEG_MAX_OWNED])
{
	unsigned n = 0;

	if (!fs->ialloc)
		return 0;
	ts_list_for(l, &fs->ialloc->segs)
	{
		const struct fs_seg *s = ts_list_entry(l, struct fs_seg, link);

		if (n < FS_SEG_MAX_OWNED)
			out[n++] = (struct fs_seg_free){.seg = s->id, .free = FS_SEG_INODES - s->count[FS_SLOT_NONE]};
	}
	return n;
}

/* ---- looking --------------------------------------------------------------------------------------------------------- */
struct look {
	struct fs *fs;
	uint64_t first;
	uint32_t *ids;
	const struct fs_seg_free *segs; /* sorted */
	unsigned nsegs;
};

static int look_region(void *arg, unsigned i)
{
	struct look *l = arg;
	struct fs_seen now;
	int rc = fs_space_region(l->fs, l->ids[i], &now);

	if (!rc)
		l->fs->alloc->space->seen[l->ids[i]] = now;
	return rc;
}

/* What is not known and nobody here owns is read, up to the bound; from where the last look ended. */
static int look_regions(struct fs *fs, struct fs_space *s)
{
	struct fs_alloc *a = fs->alloc;
	unsigned n = 0, max = TS_MIN(a->nregions, TS_MAX(LOOK_READS / fs->ndisks, 1u));
	struct look l = {.fs = fs, .ids = ts_alloc((size_t)max * sizeof(*l.ids))};
	uint32_t k = 0;
	int rc;

	if (!l.ids)
		return -ENOMEM;
	for (; k < a->nregions && n < max; k++) {
		uint32_t r = (uint32_t)(((uint64_t)s->next + k) % a->nregions);

		if (!a->hints[r].reg && (!s->seen[r].known || s->seen[r].stale))
			l.ids[n++] = r;
	}
	s->next = (uint32_t)(((uint64_t)s->next + k) % a->nregions);
	rc = n ? fs_par_run(fs, "free space", n, look_region, &l) : 0;
	ts_free(l.ids);
	return rc;
}

static int by_seg(const void *a, const void *b)
{
	const struct fs_seg_free *x = a, *y = b;

	return x->seg < y->seg ? -1 : x->seg > y->seg;
}

static int look_table(void *arg, unsigned i)
{
	struct look *l = arg;
	uint64_t all = fs_segtab_blocks(l->fs), blk = (l->first + i) % all;
	struct fs_seen_table now = {.known = true};
	struct fs_segtab_disk *t = ts_alloc(sizeof(*t));
	int rc = t ? fs_segtab_glance(l->fs, blk, t) : -ENOMEM;

	for (unsigned k = 0; !rc && k < FS_SEGS_PER_BLOCK; k++) {
		struct fs_seg_free key = {.seg = blk * FS_SEGS_PER_BLOCK + k};
		const struct fs_seg_free *told = bsearch(&key, l->segs, l->nsegs, sizeof(key), by_seg);

		if (!told && !le64_get(t->s[k].addr[0]))
			continue; /* told and not there: made by its owner, not at home yet */
		now.made++;
		now.free += told ? told->free : FS_SEG_INODES - TS_MIN(le32_get(t->s[k].used_hint), FS_SEG_INODES);
	}
	if (!rc)
		l->fs->alloc->space->table[blk] = now;
	ts_free(t);
	return rc == -EAGAIN ? 0 : rc;
}

static int look_inodes(struct fs *fs, struct fs_space *s)
{
	unsigned n = (unsigned)TS_MIN(fs_segtab_blocks(fs), (uint64_t)TABLE_READS);
	struct fs_seg_free *segs = ts_alloc((size_t)(s->npeers + 1) * FS_SEG_MAX_OWNED * sizeof(*segs));
	struct look l = {.fs = fs, .first = s->table_next, .segs = segs};
	int rc;

	if (!segs)
		return -ENOMEM;
	l.nsegs = fs_space_segs(fs, segs);
	for (unsigned i = 0; i < s->npeers; i++) {
		memcpy(segs + l.nsegs, s->peer[i]->segs, s->peer[i]->nsegs * sizeof(*segs));
		l.nsegs += s->peer[i]->nsegs;
	}
	qsort(segs, l.nsegs, sizeof(*segs), by_seg);
	rc = fs_par_run(fs, "free inodes", n, look_table, &l);
	s->table_next = (s->table_next + n) % fs_segtab_blocks(fs);
	ts_free(segs);
	return rc;
}

/* ---- the sum --------------------------------------------------------------------------------------------------------- */
struct sum {
	uint64_t free[3], empty[3]; /* by type; empty: in regions that are all free, which may change their type */
	uint64_t data, known, untyped; /* data: in whole blocks that files can get */
};

static struct sum add_up(struct fs *fs, const struct fs_space *s)
{
	const struct fs_alloc *a = fs->alloc;
	struct sum t = {.known = 0};
	uint64_t coming[3];

	for (uint32_t i = 0; i < a->nregions; i++) {
		struct fs_seen now = a->hints[i].reg ? fs_space_owned(fs, a->hints[i].reg) : s->seen[i];
		bool empty = now.free >= fs_region_room(fs, i, now.type);

		if (!now.known)
			continue;
		t.known++;
		t.free[now.type] += now.free;
		t.untyped += now.type == FS_REGION_FREE;
		if (empty)
			t.empty[now.type] += now.free;
		if (empty || now.type != FS_REGION_META)
			t.data += now.whole;
	}
	if (t.known && t.known < a->nregions)
		t.data = (uint64_t)((double)t.data / (double)t.known * a->nregions);
	fs_space_coming(fs, coming);
	for (unsigned type = 0; type < 3; type++) {
		if (t.known && t.known < a->nregions) /* the rest is believed to look like what was seen */
			t.free[type] = (uint64_t)((double)t.free[type] / (double)t.known * a->nregions);
		t.free[type] += coming[type];
		for (unsigned i = 0; i < s->npeers; i++)
			t.free[type] += s->peer[i]->coming[type];
	}
	t.data += coming[FS_REGION_DATA];
	for (unsigned i = 0; i < s->npeers; i++)
		t.data += s->peer[i]->coming[FS_REGION_DATA];
	return t;
}

static void sum_inodes(struct fs *fs, const struct fs_space *s, uint64_t meta, struct fs_room *out)
{
	uint64_t made = 0, unused = 0, used, room = le64_get(fs->super.nsegments) * FS_SEG_INODES;

	for (uint64_t b = 0; b < fs_segtab_blocks(fs); b++) {
		made += (uint64_t)s->table[b].made * FS_SEG_INODES;
		unused += s->table[b].free;
	}
	used = made - TS_MIN(unused, made);
	/* An inode is one sub-block. */
	out->free_inodes = TS_MIN(unused + meta / FS_SEG_INODES * FS_SEG_INODES, room - TS_MIN(used, room));
	out->inodes = used + out->free_inodes;
}

/* Files get what is of type data or of none; the last untyped region is kept for metadata as alloc_refill.c does. */
static void sum_up(struct fs *fs, const struct fs_space *s, struct fs_room *out)
{
	struct sum t = add_up(fs, s);
	uint64_t all = t.free[0] + t.free[1] + t.free[2], data = t.data;

	if (t.free[FS_REGION_META] < 2 * FS_SEG_INODES && t.untyped == 1)
		data -= TS_MIN(data, t.free[FS_REGION_FREE]);
	out->total = fs->alloc->total_subs;
	out->free = TS_MIN(all, out->total);
	out->data = TS_MIN(data, out->free);
	sum_inodes(fs, s, t.free[FS_REGION_META] + t.free[FS_REGION_FREE] + t.empty[FS_REGION_DATA], out);
}

/* Of one pool. What is metadata's takes room of `system` only; of the others its share is no room at all. */
static void pool_sum(struct fs *fs, const struct fs_space *s, unsigned pool, struct fs_pool_room *out)
{
	const struct fs_alloc *a = fs->alloc;
	uint64_t known = 0;
	unsigned cls = FS_CLASS(FS_REGION_DATA, pool);

	*out = (struct fs_pool_room){.total = 0};
	for (uint32_t i = 0; i < a->nregions; i++) {
		struct fs_seen now = a->hints[i].reg ? fs_space_owned(fs, a->hints[i].reg) : s->seen[i];

		if (!now.known)
			continue;
		known++;
		if (now.type != FS_REGION_META || !pool)
			out->total += fs_region_room_of(fs, i, cls);
		if (now.type != FS_REGION_META)
			out->free += now.pwhole[pool];
	}
	if (known && known < a->nregions) { /* the rest is believed to look like what was seen */
		out->total = (uint64_t)((double)out->total / (double)known * a->nregions);
		out->free = (uint64_t)((double)out->free / (double)known * a->nregions);
	}
	out->disks = a->nring[cls];
}

/* ---- life ------------------------------------------------------------------------------------------------------------ */
static int make(struct fs *fs, struct fs_space **out)
{
	struct fs_alloc *a = fs->alloc;
	struct fs_space *s = a->space ? a->space : ts_alloc(sizeof(*s));

	*out = s;
	if (!s || a->space)
		return s ? 0 : -ENOMEM;
	s->seen = ts_alloc((size_t)a->room * sizeof(*s->seen));
	s->table = ts_alloc((size_t)fs_segtab_blocks(fs) * sizeof(*s->table));
	if (!s->seen || !s->table) {
		ts_free(s->seen);
		ts_free(s->table);
		ts_free(s);
		return -ENOMEM;
	}
	ts_mutex_init(&s->lock);
	a->space = s;
	return 0;
}

void fs_space_fini(struct fs *fs)
{
	struct fs_space *s = fs->alloc->space;

	if (!s)
		return;
	for (unsigned i = 0; i < s->npeers; i++)
		ts_free(s->peer[i]);
	ts_free(s->seen);
	ts_free(s->table);
	ts_free(s);
	fs->alloc->space = NULL;
}

static int look(struct fs *fs, struct fs_space *s)
{
	uint64_t now = ts_exec_now(fs->exec);
	int rc = 0;

	if (s->looked && now - s->when < AGE_NS)
		return 0;
	rc = fs_space_ask_all(fs, s);
	if (!rc)
		rc = look_regions(fs, s);
	if (!rc && (!s->looked || now - s->table_when >= TABLE_NS)) {
		rc = look_inodes(fs, s);
		s->table_when = now;
	}
	s->when = ts_exec_now(fs->exec);
	s->looked = rc == 0;
	return rc;
}

int fs_space_to_hints(struct fs *fs, uint64_t *coming)
{
	struct fs_alloc *a = fs->alloc;
	struct fs_space *s;
	int rc = make(fs, &s);

	*coming = 0;
	if (rc)
		return rc;
	ts_mutex_lock(&s->lock, "free space");
	s->looked = false;
	rc = look(fs, s);
	ts_mutex_unlock(&s->lock);
	for (unsigned i = 0; !rc && i < s->npeers; i++)
		*coming += s->peer[i]->coming[0] + s->peer[i]->coming[1] + s->peer[i]->coming[2];
	for (uint32_t i = 0; !rc && i < a->nregions; i++) {
		struct fs_region_hint *h = &a->hints[i];

		fs_hint_retry(h);
		if (h->reg)
			continue;
		h->known = s->seen[i].known;
		h->exact = false;
		h->type = s->seen[i].type;
		h->free = s->seen[i].free;
		memcpy(h->pfree, s->seen[i].pfree, sizeof(h->pfree));
	}
	return rc;
}

static int looked(struct fs *fs, struct fs_space **out)
{
	int rc = make(fs, out);

	if (rc)
		return rc;
	ts_mutex_lock(&(*out)->lock, "free space");
	rc = look(fs, *out);
	ts_mutex_unlock(&(*out)->lock);
	return rc;
}

int fs_alloc_statfs(struct fs *fs, struct fs_room *out)
{
	struct fs_space *s;
	int rc = looked(fs, &s);

	if (!rc)
		sum_up(fs, s, out);
	return rc;
}

int fs_pools_room(struct fs *fs, struct fs_pool_room out[FS_POOLS])
{
	struct fs_space *s;
	int rc = looked(fs, &s);

	for (unsigned p = 0; p < FS_POOLS && !rc; p++)
		pool_sum(fs, s, p, &out[p]);
	return rc;
}
