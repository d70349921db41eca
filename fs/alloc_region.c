/* SPDX-License-Identifier: Apache-2.0 */
/* Job: regions this node owns: load their bitmaps under TOK_REGION EX, give them a type, apply freed space, give them up.
 * What must never happen: a region used after its token left; a bit cleared twice (the block may be somebody else's by
 * then); a metadata region that becomes a data region while its new type is not at home (a replay of an old record
 * would overwrite a user's data: replay asks the bitmap at home, fs_alloc_record_void). */
#include "fs/alloc_int.h"

struct fs_bitmap_disk *fs_bitmap_of(struct fs_buf *b)
{
	return (struct fs_bitmap_disk *)b->data;
}

uint32_t fs_disk_chunks(const struct fs_disk_ent_disk *e)
{
	return le32_get(e->grow_from) ? le32_get(e->grow_from) : le32_get(e->nchunks);
}

bool fs_chunk_exists(struct fs *fs, unsigned disk, uint32_t region)
{
	return fs_disk_holds(fs, disk) && region < fs_disk_chunks(&fs->disks[disk].ent);
}

fs_addr fs_chunk_addr(struct fs *fs, unsigned disk, uint32_t region)
{
	return FS_ADDR(disk, le64_get(fs->disks[disk].ent.region_start) +
				     (uint64_t)region * le32_get(fs->super.region_subs));
}

bool fs_alloc_place(struct fs *fs, fs_addr a, uint32_t subs, struct fs_place *out)
{
	return !(a >> 52) && fs_disk_holds(fs, FS_ADDR_DISK(a)) && fs_alloc_place_taken(fs, a, subs, out);
}

bool fs_alloc_place_taken(struct fs *fs, fs_addr a, uint32_t subs, struct fs_place *out)
{
	uint64_t start, sub = FS_ADDR_SUB(a), rs = le32_get(fs->super.region_subs);

	out->disk = FS_ADDR_DISK(a);
	if (a >> 52 || out->disk >= fs->ndisks)
		return false;
	start = le64_get(fs->disks[out->disk].ent.region_start);
	if (sub < start || (sub - start) / rs >= le32_get(fs->disks[out->disk].ent.nchunks))
		return false;
	out->region = (uint32_t)((sub - start) / rs);
	out->off = (uint32_t)((sub - start) % rs);
	return out->region < le32_get(fs->super.nregions) && out->off >= FS_CHUNK_HEAD && subs && subs <= rs - out->off;
}

bool fs_disk_takes(struct fs *fs, unsigned disk, enum fs_region_type type)
{
	unsigned u = fs->disks[disk].ent.usage;

	if (fs_disk_state(fs, disk) != FS_DISK_READY)
		return false;
	if (type == FS_REGION_META && fs_disk_pool(fs, disk))
		return false; /* metadata is in the pool `system` only, whatever the entry says */
	return u == FS_DISK_ANY || type == FS_REGION_FREE || (u == FS_DISK_META && type == FS_REGION_META) ||
	       (u == FS_DISK_DATA && type == FS_REGION_DATA);
}

uint64_t fs_region_room(struct fs *fs, uint32_t region, enum fs_region_type type)
{
	uint64_t n = 0;

	for (unsigned d = 0; d < fs->ndisks; d++)
		n += fs_chunk_exists(fs, d, region) && fs_disk_takes(fs, d, type);
	return n * (le32_get(fs->super.region_subs) - FS_CHUNK_HEAD);
}

uint64_t fs_region_room_of(struct fs *fs, uint32_t region, unsigned cls)
{
	const struct fs_alloc *a = fs->alloc;
	uint64_t n = 0;

	for (unsigned i = 0; i < a->nring[cls]; i++)
		n += fs_chunk_exists(fs, a->ring[cls][i], region) && fs_disk_takes(fs, a->ring[cls][i], FS_CLASS_TYPE(cls));
	return n * (le32_get(fs->super.region_subs) - FS_CHUNK_HEAD);
}

void fs_region_gain(struct fs *fs, struct fs_region *r, const struct fs_chunk *c, int64_t subs)
{
	if (!c->usable)
		return;
	r->free += (uint64_t)subs;
	r->pfree[c->pool] += (uint32_t)subs;
	if (r->listed)
		fs->alloc->free[FS_CLASS(r->type, c->pool)] += (uint64_t)subs;
}

void fs_hint_from(struct fs_region_hint *h, const struct fs_region *r)
{
	h->free = (uint32_t)r->free;
	memcpy(h->pfree, r->pfree, sizeof(h->pfree));
}

void fs_hint_retry(struct fs_region_hint *h)
{
	memset(h->run_max, 0, sizeof(h->run_max));
}

void fs_alloc_gen_all(struct fs_alloc *a)
{
	for (unsigned c = 0; c < FS_CLASSES; c++)
		a->gen[c]++;
}

/* ---- parallel loops ---------------------------------------------------------------------------------------------- */
struct par {
	unsigned next, n;
	int rc;
	int (*fn)(void *arg, unsigned i);
	void *arg;
	struct ts_group group;
};

static void par_work(struct par *p)
{
	while (p->next < p->n && !p->rc) {
		int rc = p->fn(p->arg, p->next++);

		if (rc && !p->rc)
			p->rc = rc;
	}
}

static void par_fiber(void *arg)
{
	struct par *p = arg;

	par_work(p);
	ts_group_done(&p->group, 0);
}

int fs_par_run(struct fs *fs, const char *name, unsigned n, int (*fn)(void *arg, unsigned i), void *arg)
{
	struct par p = {.n = n, .fn = fn, .arg = arg};

	ts_group_init(&p.group);
	for (unsigned i = 1; i < TS_MIN(n, 16u); i++) {
		ts_group_add(&p.group);
		if (ts_fiber_spawn(fs->exec, name, par_fiber, &p)) {
			ts_group_done(&p.group, 0);
			break; /* fewer helpers, same work */
		}
	}
	par_work(&p);
	(void)ts_group_wait(&p.group, name);
	return p.rc;
}

/* ---- loading ------------------------------------------------------------------------------------------------------ */
struct load {
	struct fs *fs;
	struct fs_region *r;
};

static int chunk_check(struct fs *fs, struct fs_region *r, struct fs_chunk *c)
{
	struct fs_bitmap_disk *d = fs_bitmap_of(c->buf);
	uint32_t n = le32_get(d->nsubs);

	if (le32_get(d->region) != r->id || le16_get(d->disk) != c->disk || n > le32_get(fs->super.region_subs) ||
	    n > FS_BITMAP_BITS || n <= FS_CHUNK_HEAD || d->type > FS_REGION_DATA ||
	    le64_get(d->first_sub) != FS_ADDR_SUB(c->buf->addr)) {
		ts_err("fs %s: bitmap of region %u on disk %u contradicts itself; it is left alone, run fsck",
		       fs->super.name, r->id, c->disk);
		return -EUCLEAN;
	}
	c->nsubs = n;
	memset(c->shadow, 0xff, sizeof(c->shadow));
	for (uint32_t i = 0; i < FS_BITMAP_BITS / 64; i++) {
		le64 w;

		memcpy(&w, d->bits + i * 8, 8);
		c->shadow[i] = le64_get(w);
	}
	fs_bits_set(c->shadow, 0, FS_CHUNK_HEAD);
	c->free = n - fs_bits_count(c->shadow, 0, n);
	return 0;
}

static int load_chunk(void *arg, unsigned i)
{
	struct load *l = arg;
	struct fs_chunk *c = &l->r->chunks[i];
	int rc = fs_buf_get(l->fs, fs_chunk_addr(l->fs, c->disk, l->r->id), FS_BT_BITMAP, TOK_REGION, l->r->id, &c->buf);

	return rc ? rc : chunk_check(l->fs, l->r, c);
}

void fs_region_free(struct fs *fs, struct fs_region *r)
{
	TS_ASSERT(!r->listed && !r->taken);
	for (unsigned i = 0; r->chunks && i < r->nchunks; i++) {
		if (r->chunks[i].buf)
			fs_buf_put(fs, r->chunks[i].buf);
	}
	ts_free(r->chunks);
	ts_free(r->by_disk);
	ts_free(r);
}

static struct fs_region *region_new(struct fs *fs, uint32_t id)
{
	struct fs_region *r = ts_alloc(sizeof(*r));
	unsigned k = 0;

	if (!r)
		return NULL;
	r->id = id;
	r->disks_gen = fs->disks_gen;
	r->ndisks = fs->ndisks;
	ts_cond_init(&r->cond);
	ts_list_init(&r->link);
	for (unsigned d = 0; d < fs->ndisks; d++)
		r->nchunks += fs_chunk_exists(fs, d, id);
	r->chunks = ts_alloc(sizeof(*r->chunks) * TS_MAX(r->nchunks, 1u));
	r->by_disk = ts_alloc(sizeof(*r->by_disk) * fs->ndisks);
	if (!r->chunks || !r->by_disk) {
		fs_region_free(fs, r);
		return NULL;
	}
	for (unsigned d = 0; d < fs->ndisks; d++) {
		if (fs_chunk_exists(fs, d, id)) {
			r->chunks[k].disk = d;
			r->chunks[k].pool = fs_disk_pool(fs, d);
			r->by_disk[d] = &r->chunks[k++];
		}
	}
	return r;
}

bool fs_region_empty(const struct fs_region *r)
{
	for (unsigned i = 0; i < r->nchunks; i++) {
		if (r->chunks[i].free != r->chunks[i].nsubs - FS_CHUNK_HEAD)
			return false;
	}
	return !r->taken;
}

/* What may be given out depends on the type and on the disks. */
static void count_free(struct fs *fs, struct fs_region *r)
{
	TS_ASSERT(!r->listed);
	r->free = 0;
	memset(r->pfree, 0, sizeof(r->pfree));
	for (unsigned i = 0; i < r->nchunks; i++) {
		struct fs_chunk *c = &r->chunks[i];

		c->usable = fs_disk_takes(fs, c->disk, r->type);
		fs_chunk_reset(c, fs->alloc->unit[r->type ? r->type : FS_REGION_DATA]);
		fs_region_gain(fs, r, c, c->free);
	}
}

static int set_type_of(struct fs *fs, struct fs_region *r, enum fs_region_type type, bool others);

/* Types are changed from the first chunk on, of empty regions only: a change cut short is finished by the next owner. So is the share of a disk
 * that came later: of what has the type already nothing changes, for that would make its records void. */
static int settle_type(struct fs *fs, struct fs_region *r)
{
	unsigned type = FS_REGION_FREE;
	bool mixed = false;

	for (unsigned i = 0; i < r->nchunks && type == FS_REGION_FREE; i++) /* none ever becomes free again */
		type = fs_bitmap_of(r->chunks[i].buf)->type;
	for (unsigned i = 0; i < r->nchunks; i++) {
		struct fs_chunk *c = &r->chunks[i];

		if (fs_bitmap_of(c->buf)->type == type)
			continue;
		if (c->free != c->nsubs - FS_CHUNK_HEAD) {
			ts_err("fs %s: region %u has chunks of different types; it is left alone, run fsck",
			       fs->super.name, r->id);
			return -EUCLEAN;
		}
		mixed = true;
	}
	r->type = type;
	return mixed ? set_type_of(fs, r, type, true) : 0;
}

int fs_region_load(struct fs *fs, uint32_t id, struct fs_region **out)
{
	struct fs_region *r = region_new(fs, id);
	struct load l = {fs, r};
	int rc;

	if (!r)
		return -ENOMEM;
	rc = r->nchunks ? fs_par_run(fs, "region load", r->nchunks, load_chunk, &l) : -EUCLEAN;
	if (!rc)
		rc = settle_type(fs, r);
	if (rc) {
		fs_region_free(fs, r);
		return rc;
	}
	count_free(fs, r);
	*out = r;
	return 0;
}

/* ---- type --------------------------------------------------------------------------------------------------------- */
#define TYPE_BATCH 64u
/* others: only chunks that have another one. */
static int set_type_of(struct fs *fs, struct fs_region *r, enum fs_region_type type, bool others)
{
	bool was_used = r->type != FS_REGION_FREE;
	struct fs_tx tx;
	int rc;

	for (unsigned i = 0; i < r->nchunks; i += TYPE_BATCH) {
		unsigned end = TS_MIN(i + TYPE_BATCH, r->nchunks);

		rc = fs_log_reserve(fs, (size_t)TYPE_BATCH * (FS_SUB + 256));
		if (rc)
			return rc;
		fs_tx_begin(fs, &tx);
		for (unsigned k = i; k < end; k++) {
			struct fs_bitmap_disk *d = fs_bitmap_of(r->chunks[k].buf);

			if (others && d->type == type)
				continue;
			fs_tx_buf(&tx, r->chunks[k].buf);
			d->type = (uint8_t)type;
			d->retyped_version = le64_make(fs_version_next(fs));
		}
		fs_tx_commit(&tx);
	}
	r->type = type;
	fs_space_changed(fs, r->id, 0);
	count_free(fs, r);
	/* Home before use: replay of any log asks the bitmap on disk whether a record is void. */
	return was_used ? fs_buf_clean_resource(fs, TOK_REGION, r->id, false) : 0;
}

int fs_region_set_type(struct fs *fs, struct fs_region *r, enum fs_region_type type)
{
	return set_type_of(fs, r, type, false);
}

int fs_alloc_record_void(struct fs *fs, fs_addr a, uint64_t record_version, bool *skip)
{
	struct fs_place p;
	struct fs_bitmap_disk *d;
	fs_addr at;
	int rc;

	*skip = false;
	if (!fs_alloc_place(fs, a, 1, &p))
		return 0; /* system area or a bitmap itself: never retyped */
	d = ts_alloc_aligned(FS_SUB, FS_SUB);
	if (!d)
		return -ENOMEM;
	at = fs_chunk_addr(fs, p.disk, p.region);
	rc = fs_io_read(fs, at, d, FS_SUB);
	if (!rc && !fs_mdhdr_wrong(d, fs->super.fs_id, FS_BT_BITMAP, at))
		*skip = le64_get(d->retyped_version) > record_version || d->type == FS_REGION_DATA;
	ts_free(d); /* a torn bitmap: its own log has the image, and the type of a region in use never changes */
	return rc;
}

/* ---- owning ------------------------------------------------------------------------------------------------------- */
bool fs_region_fits(struct fs *fs, struct fs_region *r, unsigned cls, uint32_t subs)
{
	uint32_t unit = fs->alloc->unit[FS_CLASS_TYPE(cls)];

	for (unsigned i = 0; i < r->nchunks; i++) {
		struct fs_chunk *c = &r->chunks[i];

		if (c->usable && c->pool == FS_CLASS_POOL(cls) && fs_chunk_find(c, unit, subs, FS_NO_SUB) != FS_NO_SUB)
			return true;
	}
	return false;
}

void fs_region_install(struct fs *fs, struct fs_region *r)
{
	struct fs_alloc *a = fs->alloc;
	struct fs_region_hint *h = &a->hints[r->id];

	TS_ASSERT(!h->reg && !r->listed && r->type != FS_REGION_FREE);
	h->reg = r;
	h->type = (uint8_t)r->type;
	h->known = h->exact = true;
	r->listed = true;
	ts_list_push_front(&a->owned[r->type], &r->link);
	a->nowned[r->type]++;
	for (unsigned p = 0; p < FS_POOLS; p++) {
		if (!r->pfree[p])
			continue;
		a->free[FS_CLASS(r->type, p)] += r->pfree[p];
		a->gen[FS_CLASS(r->type, p)]++;
	}
}

void fs_region_unlist(struct fs *fs, struct fs_region *r)
{
	struct fs_alloc *a = fs->alloc;

	if (!r->listed)
		return;
	r->listed = false;
	ts_list_del(&r->link);
	a->nowned[r->type]--;
	for (unsigned p = 0; p < FS_POOLS; p++)
		if (r->pfree[p])
			a->free[FS_CLASS(r->type, p)] -= r->pfree[p];
}

/* Nothing more is taken from it, what was taken is settled, then it is forgotten. Nobody else may do the same. */
static int region_settle(struct fs *fs, struct fs_region *r)
{
	struct fs_region_hint *h = &fs->alloc->hints[r->id];

	fs_region_unlist(fs, r);
	while (r->taken) { /* whoever took it needs at most INODE to commit or return it */
		int rc = fs_inode_writeback_all(fs);

		if (fs->run == FS_RUN_STOPPED)
			return rc ? rc : -EIO;
		if (r->taken)
			(void)ts_cond_wait_until(&r->cond, ts_exec_now(fs->exec) + 50 * TS_NS_PER_MS, "space of a revoked region",
						 r->id, r->taken);
	}
	h->reg = NULL;
	fs_hint_from(h, r);
	fs_hint_retry(h);
	fs_region_free(fs, r);
	return 0;
}

int fs_alloc_revoke_region(struct fs *fs, uint64_t region)
{
	struct fs_alloc *a = fs->alloc;

	if (region < a->nregions && a->hints[region].reg) {
		int rc = region_settle(fs, a->hints[region].reg);

		if (rc)
			return rc;
	}
	return fs_buf_clean_resource(fs, TOK_REGION, region, true);
}

/* ---- the disks changed -------------------------------------------------------------------------------------------- */
/* 0: given up, or it was not there any more. The pin keeps a revoke from doing the same. */
static int reload_one(struct fs *fs, uint32_t id)
{
	struct fs_region_hint *h = &fs->alloc->hints[id];
	struct tok_pin pin = {0};
	int rc = tok_pin(fs->tok, TOK_REGION, id, TOK_EX, 0, TOK_END, TOK_QUICK, &pin);

	if (rc == -EAGAIN) { /* it is leaving: that settles it, too */
		ts_sleep_until(ts_exec_now(fs->exec) + 20 * TS_NS_PER_MS);
		return 0;
	}
	if (rc)
		return rc;
	h->known = false;
	if (h->reg && h->reg->disks_gen != fs->disks_gen)
		rc = region_settle(fs, h->reg);
	if (!rc) /* blocks of a disk that is used no more must be at home while it is still there */
		rc = fs_buf_clean_resource(fs, TOK_REGION, id, !h->reg);
	tok_unpin(fs->tok, &pin);
	return rc;
}

int fs_alloc_disks_changed(struct fs *fs)
{
	struct fs_alloc *a = fs->alloc;
	int rc = a ? fs_alloc_ring(fs) : 0;

	for (uint32_t id = 0; a && id < a->nregions && !rc; id++) {
		if (!a->hints[id].reg && tok_cached(fs->tok, TOK_REGION, id, TOK_EX))
			rc = reload_one(fs, id);
		while (!rc && a->hints[id].reg && a->hints[id].reg->disks_gen != fs->disks_gen) {
			rc = reload_one(fs, id);
			if (!rc && fs->run == FS_RUN_STOPPED)
				rc = -EIO;
		}
		a->hints[id].known = a->hints[id].reg != NULL;
		a->hints[id].bad = false;
	}
	if (a)
		fs_alloc_gen_all(a);
	return rc;
}

/* ---- freed space -------------------------------------------------------------------------------------------------- */
struct frees {
	struct fs_buf *bufs[FS_FREE_BATCH_BUFS];
	unsigned disk[FS_FREE_BATCH_BUFS];
	unsigned nbufs;
};

static int bitmap_for(struct fs *fs, struct frees *f, uint32_t region, unsigned disk)
{
	int rc;

	for (unsigned i = 0; i < f->nbufs; i++) {
		if (f->disk[i] == disk)
			return (int)i;
	}
	if (f->nbufs == FS_FREE_BATCH_BUFS)
		return -E2BIG;
	rc = fs_buf_get(fs, fs_chunk_addr(fs, disk, region), FS_BT_BITMAP, TOK_REGION, region, &f->bufs[f->nbufs]);
	if (rc)
		return rc;
	f->disk[f->nbufs] = disk;
	return (int)f->nbufs++;
}

static void free_one(struct fs *fs, struct fs_tx *tx, struct frees *f, const struct fs_place *p, uint32_t subs)
{
	struct fs_region *r = fs->alloc->hints[p->region].reg;
	int i = bitmap_for(fs, f, p->region, p->disk); /* pinned above: found, does not wait */
	struct fs_bitmap_disk *d = fs_bitmap_of(f->bufs[i]);

	fs_tx_buf(tx, f->bufs[i]);
	fs_dbits_set(d->bits, p->off, subs, false);
	d->free = le32_make(le32_get(d->free) + subs);
	if (r) {
		struct fs_chunk *c = p->disk < r->ndisks ? r->by_disk[p->disk] : NULL;

		if (c) { /* else it will be loaded again: a disk came */
			fs_bits_clear(c->shadow, p->off, subs);
			c->free += subs;
			fs_chunk_reset(c, fs->alloc->unit[r->type]);
		}
		if (c)
			fs_region_gain(fs, r, c, subs);
	} else if (fs->alloc->hints[p->region].known && fs_disk_takes(fs, p->disk, fs->alloc->hints[p->region].type)) {
		fs->alloc->hints[p->region].free += subs;
		fs->alloc->hints[p->region].pfree[fs_disk_pool(fs, p->disk)] += subs;
	}
	fs_space_changed(fs, p->region, subs);
}

/* Reads the bitmaps of as many intents as fit one transaction; how many, or -errno. */
static int frees_prepare(struct fs *fs, uint32_t region, struct fs_intent **in, unsigned n, struct frees *f,
			 struct fs_place *places)
{
	for (unsigned k = 0; k < n; k++) {
		struct fs_bitmap_disk *d;
		int i = -EUCLEAN;

		if (fs_alloc_place(fs, in[k]->a, in[k]->subs, &places[k]) && places[k].region == region)
			i = bitmap_for(fs, f, region, places[k].disk);
		if (i == -E2BIG)
			return (int)k;
		if (i < 0 && i != -EUCLEAN)
			return i;
		d = i < 0 ? NULL : fs_bitmap_of(f->bufs[i]);
		if (!d || places[k].off + in[k]->subs > TS_MIN(le32_get(d->nsubs), FS_BITMAP_BITS) ||
		    !fs_dbits_all(d->bits, places[k].off, in[k]->subs)) {
			fs_stop(fs, "space %#llx (%u sub-blocks) of region %u is freed but was not in use: run fsck",
				(unsigned long long)in[k]->a, in[k]->subs, region);
			return -EUCLEAN;
		}
	}
	return (int)n;
}

static int apply_pinned(struct fs *fs, uint32_t region, struct fs_intent **in, unsigned n, struct frees *f, unsigned *done)
{
	struct fs_place places[FS_FREE_BATCH];
	struct fs_region_hint *h = &fs->alloc->hints[region];
	struct fs_tx tx;
	int rc = frees_prepare(fs, region, in, n, f, places);

	if (rc <= 0)
		return rc;
	n = (unsigned)rc;
	rc = fs_log_reserve_reaper(fs, (size_t)f->nbufs * (FS_SUB + 512) + (size_t)n * 64 + FS_SUB);
	if (rc)
		return rc;
	fs_tx_begin(fs, &tx);
	for (unsigned k = 0; k < n; k++) {
		struct fs_place *p = &places[k];
		uint32_t subs = in[k]->subs;
		int i = bitmap_for(fs, f, region, p->disk);

		if (!fs_dbits_all(fs_bitmap_of(f->bufs[i])->bits, p->off, subs)) { /* twice in this batch */
			fs_stop(fs, "space %#llx of region %u is freed twice: run fsck", (unsigned long long)in[k]->a, region);
			subs = 0;
		}
		if (subs)
			free_one(fs, &tx, f, p, subs);
		fs_tx_intent_done(&tx, in[k]->number);
	}
	fs_tx_commit(&tx); /* the intents are gone now */
	fs_hint_retry(h);
	h->busy = 0;
	fs_alloc_gen_all(fs->alloc);
	*done = n;
	return 0;
}

int fs_alloc_apply_frees(struct fs *fs, uint32_t region, struct fs_intent **in, unsigned n, unsigned tok_flags, unsigned *done)
{
	struct frees f = {.nbufs = 0};
	struct tok_pin pin = {0};
	int rc = tok_pin(fs->tok, TOK_REGION, region, TOK_EX, 0, TOK_END, tok_flags, &pin);

	*done = 0;
	if (rc)
		return rc;
	rc = apply_pinned(fs, region, in, TS_MIN(n, FS_FREE_BATCH), &f, done);
	for (unsigned i = 0; i < f.nbufs; i++)
		fs_buf_put(fs, f.bufs[i]);
	tok_unpin(fs->tok, &pin);
	return rc;
}
