/* SPDX-License-Identifier: Apache-2.0 */
/* Job: get more space: claim regions, give idle ones up, retype empty ones, take from other nodes, wait for frees; then
 * ENOSPC. Called without pins. What must never happen: a search that goes on for ever (a region is tried once per
 * refill), or a node that hoards every region of a small file system. */
#include "fs/alloc_int.h"

/* ROOMY: of the type, with a good part free. On a big file system an untyped one is as good: looking at all regions for
 * the best takes too long. RETYPE: empty, of the other type. TAKE: whatever another node owns. */
enum pass { PASS_ROOMY, PASS_FREE, PASS_ANY, PASS_RETYPE, PASS_TAKE, PASS_TAKE_FREE, PASSES };
#define BIG	      256u
#define AHEAD	      64u
#define FULL_NS	      (200 * TS_NS_PER_MS)
#define WAIT_FREES_NS (3 * TS_NS_PER_S)
#define STRIPE_FULL_NS (5 * TS_NS_PER_S)
#define OTHERS_NS     (100 * TS_NS_PER_MS)

/* The last untyped region is kept for metadata unless metadata has room elsewhere: deleting must stay possible. */
static bool data_may_type(struct fs *fs)
{
	struct fs_alloc *a = fs->alloc;
	unsigned untyped = 0;

	if (a->free[FS_REGION_META] >= 2 * FS_SEG_INODES)
		return true;
	for (uint32_t i = 0; i < a->nregions; i++) {
		const struct fs_region_hint *h = &a->hints[i];

		if (!h->known || (h->type == FS_REGION_META && h->free >= 2 * FS_SEG_INODES))
			return true;
		untyped += h->type == FS_REGION_FREE && !h->bad;
	}
	return untyped > 1;
}

static bool worth(struct fs *fs, enum pass p, uint32_t id, unsigned cls, uint32_t subs, bool may_type)
{
	const struct fs_region_hint *h = &fs->alloc->hints[id];
	enum fs_region_type type = FS_CLASS_TYPE(cls);
	unsigned pool = FS_CLASS_POOL(cls);
	bool room = h->type == type && h->pfree[pool] >= subs && (!h->run_max[pool] || h->run_max[pool] >= subs);


	switch (p) {
	case PASS_ROOMY:
		if (fs->alloc->nregions > BIG && may_type && h->type == FS_REGION_FREE)
			return fs_region_room_of(fs, id, cls);
		return room && h->pfree[pool] >= fs_region_room_of(fs, id, cls) / 8;
	case PASS_FREE:
	case PASS_TAKE_FREE:
		return h->type == FS_REGION_FREE && may_type && fs_region_room_of(fs, id, cls); /* no disk of the pool may be so long */
	case PASS_RETYPE:
		return h->type != type && h->type != FS_REGION_FREE && h->free >= fs_region_room(fs, id, h->type) && fs_region_room_of(fs, id, cls);
	default:
		return room;
	}
}

static void give_up(struct fs *fs, struct fs_region *r)
{
	struct fs_region_hint *h = &fs->alloc->hints[r->id];
	uint32_t id = r->id;

	fs_region_unlist(fs, r);
	h->reg = NULL;
	fs_hint_from(h, r);
	fs_region_free(fs, r);
	tok_drop_hint(fs->tok, TOK_REGION, id);
}

/* At the bound the emptiest region that cannot serve this request goes. */
static void make_room(struct fs *fs, enum fs_region_type type)
{
	struct fs_alloc *a = fs->alloc;
	struct fs_region *victim = NULL;

	if (a->nowned[type] < a->max_owned)
		return;
	ts_list_for(l, &a->owned[type])
	{
		struct fs_region *r = ts_list_entry(l, struct fs_region, link);

		if (!r->taken && (!victim || r->free < victim->free))
			victim = r;
	}
	if (victim)
		give_up(fs, victim);
}

/* Types the region if need be; 1: it fits, 0: it does not. */
static int adopt_pinned(struct fs *fs, struct fs_region *r, unsigned cls, uint32_t subs)
{
	struct fs_region_hint *h = &fs->alloc->hints[r->id];
	enum fs_region_type type = FS_CLASS_TYPE(cls);
	int rc = 0;

	h->known = h->exact = true;
	h->type = (uint8_t)r->type;
	fs_hint_from(h, r);
	if (r->type != type && fs_region_empty(r) && (r->type == FS_REGION_FREE || h->free >= fs_region_room(fs, r->id, r->type)))
		rc = fs_region_set_type(fs, r, type);
	if (rc)
		return rc;
	if (r->type != type)
		return 0;
	h->type = (uint8_t)type;
	fs_hint_from(h, r);
	if (fs_region_fits(fs, r, cls, subs))
		return 1;
	h->run_max[FS_CLASS_POOL(cls)] = subs - 1;
	return 0;
}

static int claim(struct fs *fs, uint32_t id, unsigned cls, uint32_t subs, unsigned flags)
{
	struct fs_region_hint *h = &fs->alloc->hints[id];
	struct fs_region *r = NULL;
	struct tok_pin pin = {0};
	int rc = tok_pin(fs->tok, TOK_REGION, id, TOK_EX, 0, TOK_END, flags, &pin);

	if (rc)
		return rc == -EAGAIN ? 0 : rc;
	if (h->reg) { /* only the refill lock's holder installs */
		rc = 0;
		goto out;
	}
	do {
		if (r)
			fs_region_free(fs, r);
		r = NULL;
		rc = fs_region_load(fs, id, &r);
		if (rc == -EUCLEAN) {
			h->bad = true;
			rc = 0;
		} else if (!rc) {
			rc = adopt_pinned(fs, r, cls, subs);
		}
	} while (rc >= 0 && r && r->disks_gen != fs->disks_gen); /* the disks changed meanwhile */
	if (rc == 1) {
		make_room(fs, FS_CLASS_TYPE(cls));
		fs_region_install(fs, r);
	} else if (r) {
		fs_region_free(fs, r);
	}
out:
	tok_unpin(fs->tok, &pin);
	if (rc == 0 && !h->reg)
		tok_drop_hint(fs->tok, TOK_REGION, id);
	return rc;
}

struct ahead {
	struct fs *fs;
	uint32_t first;
};

static int ahead_one(void *arg, unsigned i)
{
	struct ahead *a = arg;
	uint32_t id = (uint32_t)(((uint64_t)a->first + i) % a->fs->alloc->nregions);
	const struct fs_region_hint *h = &a->fs->alloc->hints[id];

	return h->reg || h->known ? 0 : fs_alloc_hint_read(a->fs, id, false);
}

static int hints_ahead(struct fs *fs, uint32_t first)
{
	struct ahead a = {fs, first};

	return fs_par_run(fs, "region hints", TS_MIN(AHEAD, fs->alloc->nregions), ahead_one, &a);
}

static int run_pass(struct fs *fs, enum pass p, unsigned cls, uint32_t subs)
{
	struct fs_alloc *a = fs->alloc;
	enum fs_region_type type = FS_CLASS_TYPE(cls);
	bool quick = p != PASS_TAKE && p != PASS_TAKE_FREE;
	bool may_type = type == FS_REGION_META || data_may_type(fs);
	uint32_t start = (uint32_t)(ts_hash_2(fs->self, type) % a->nregions);

	for (uint32_t k = 0; k < a->nregions; k++) {
		uint32_t id = (uint32_t)(((uint64_t)start + k) % a->nregions);
		struct fs_region_hint *h = &a->hints[id];
		int rc = 0;

		if (fs->run == FS_RUN_STOPPED)
			return -EIO;
		if (!h->reg && !h->known)
			rc = hints_ahead(fs, id);
		if (rc)
			return rc;
		if (h->reg || h->bad || (quick && p != PASS_RETYPE && h->stamp == a->stamp) || !worth(fs, p, id, cls, subs, may_type))
			continue;
		h->stamp = a->stamp;
		rc = claim(fs, id, cls, subs, quick ? TOK_QUICK : 0);
		if (rc)
			return rc;
	}
	return 0;
}

/* Owned regions of the other type that are wholly empty: give them back so that the retype pass finds them. */
static void release_empty(struct fs *fs, enum fs_region_type other)
{
	ts_list_for_safe(l, tmp, &fs->alloc->owned[other])
	{
		struct fs_region *r = ts_list_entry(l, struct fs_region, link);

		if (fs_region_empty(r))
			give_up(fs, r);
	}
}

static int search(struct fs *fs, unsigned cls, uint32_t subs)
{
	uint64_t deadline = ts_exec_now(fs->exec) + WAIT_FREES_NS, coming;
	bool last = false;

	for (unsigned round = 0;; round++) {
		fs->alloc->stamp++;
		for (int p = 0; p < PASSES; p++) {
			int rc;

			if (p == PASS_RETYPE)
				release_empty(fs, cls == FS_REGION_META ? FS_REGION_DATA : FS_REGION_META);
			rc = run_pass(fs, p, cls, subs);
			if (rc)
				return rc < 0 ? rc : 0;
		}
		if (last)
			return -ENOSPC;
		if (round == 0) {
			int rc = fs_reaper_urgent(fs, WAIT_FREES_NS);

			if (rc || fs_alloc_can_take(fs, cls, subs))
				return rc;
		} else { /* another node is freeing: it comes in steps of its log */
			ts_sleep_until(ts_exec_now(fs->exec) + OTHERS_NS);
		}
		int hrc = fs_space_to_hints(fs, &coming);

		if (hrc)
			return hrc;
		last = !coming || ts_exec_now(fs->exec) >= deadline;
	}
}

static void tell_full(struct fs *fs, unsigned cls, uint32_t subs)
{
	const char *pool = fs_pool_name_of(&fs->super, FS_CLASS_POOL(cls));

	if (!fs->alloc->nring[cls] && cls != FS_REGION_META)
		ts_notice("fs %s: pool %s has no disk that takes data; writers get ENOSPC until one is added (`tessera disk add --pool %s`)",
			  fs->super.name, pool ? pool : "?", pool ? pool : "?");
	else if (cls == FS_REGION_META)
		ts_notice("fs %s: no metadata space for %u sub-blocks in any region; writers get ENOSPC until files are deleted", fs->super.name,
			  subs);
	else
		ts_notice("fs %s: pool %s: no data space for %u sub-blocks in any region; writers of its files get ENOSPC until files of it are deleted or "
			  "a disk is added to it", fs->super.name, pool ? pool : "?", subs);
}

static int refill(struct fs *fs, unsigned type, uint32_t subs)
{
	struct fs_alloc *a = fs->alloc;
	int rc;

	ts_mutex_lock(&a->lock, "allocation refill");
	if (fs_alloc_can_take(fs, type, subs)) {
		rc = 0; /* another fiber's refill, or frees */
	} else if (a->full_gen[type] == a->gen[type] && a->full_promised == a->promised && subs >= a->full_subs[type] &&
		   ts_exec_now(fs->exec) < a->full_until[type]) {
		rc = -ENOSPC;
	} else {
		rc = a->nring[type] ? search(fs, type, subs) : -ENOSPC;
		if (rc == -ENOSPC) {
			a->full_gen[type] = a->gen[type];
			a->full_promised = a->promised;
			a->full_until[type] = ts_exec_now(fs->exec) + FULL_NS;
			a->full_subs[type] = subs;
			tell_full(fs, type, subs);
		}
	}
	ts_mutex_unlock(&a->lock);
	return rc;
}

/* Is there room in the region's share of that disk? As it lies there, or is here: what was freed a moment ago is not at home yet. */
static int room_on(struct fs *fs, uint32_t id, unsigned disk, uint32_t subs, bool *out)
{
	fs_addr at = fs_chunk_addr(fs, disk, id);
	struct fs_buf *b = fs_buf_peek(fs, at);
	struct fs_bitmap_disk *d;
	int rc;

	if (b) {
		*out = le32_get(fs_bitmap_of(b)->free) >= subs;
		fs_buf_put(fs, b);
		return 0;
	}
	d = ts_alloc_aligned(FS_SUB, FS_SUB);
	rc = d ? fs_io_read(fs, at, d, FS_SUB) : -ENOMEM;
	*out = !rc && !fs_mdhdr_wrong(d, fs->super.fs_id, FS_BT_BITMAP, at) && le32_get(d->free) >= subs;
	ts_free(d);
	return rc;
}

static bool owned_takes(struct fs *fs, unsigned disk, uint32_t subs)
{
	ts_list_for(l, &fs->alloc->owned[FS_REGION_DATA])
	{
		struct fs_region *r = ts_list_entry(l, struct fs_region, link);
		struct fs_chunk *c = disk < r->ndisks ? r->by_disk[disk] : NULL;

		if (c && c->usable && fs_chunk_find(c, fs->alloc->unit[FS_REGION_DATA], subs, FS_NO_SUB) != FS_NO_SUB)
			return true;
	}
	return false;
}

static int refill_on(struct fs *fs, unsigned disk, uint32_t subs, unsigned flags)
{
	struct fs_alloc *a = fs->alloc;
	uint32_t start = fs->disks[disk].search_at ? fs->disks[disk].search_at : (uint32_t)(ts_hash_2(fs->self, FS_REGION_DATA) % a->nregions);

	for (uint32_t k = 0; k < a->nregions; k++) {
		uint32_t id = (uint32_t)(((uint64_t)start + k) % a->nregions);
		struct fs_region_hint *h = &a->hints[id];
		bool room = false;
		int rc = 0;

		if (fs->run == FS_RUN_STOPPED)
			return -EIO;
		if (h->reg || !fs_chunk_exists(fs, disk, id))
			continue;
		rc = fs_alloc_hint_read(fs, id, false);
		if (!rc && !h->bad && (h->type == FS_REGION_DATA || (h->type == FS_REGION_FREE && data_may_type(fs))))
			rc = room_on(fs, id, disk, subs, &room);
		if (!rc && room)
			rc = claim(fs, id, FS_CLASS(FS_REGION_DATA, fs_disk_pool(fs, disk)), subs, flags);
		if (rc < 0)
			return rc;
		if (rc && owned_takes(fs, disk, subs)) {
			fs->disks[disk].search_at = id;
			return 0;
		}
	}
	return -ENOSPC;
}

int fs_alloc_refill_on(struct fs *fs, unsigned disk, uint32_t subs)
{
	int rc = 0;

	ts_mutex_lock(&fs->alloc->lock, "allocation refill");
	if (!owned_takes(fs, disk, subs)) {
		rc = refill_on(fs, disk, subs, TOK_QUICK);
		if (rc == -ENOSPC)
			rc = refill_on(fs, disk, subs, 0);
	}
	ts_mutex_unlock(&fs->alloc->lock);
	return rc;
}

/* A disk of a stripe: more regions with room there, or it is left out for a while. */
static int refill_stripe(struct fs *fs, unsigned cls)
{
	struct fs_alloc *a = fs->alloc;
	unsigned disk = a->want_on[cls] - 1;
	int rc;

	a->want_on[cls] = 0;
	rc = fs_alloc_refill_on(fs, disk, TS_MAX(a->want[cls], 1u));
	if (rc != -ENOSPC)
		return rc;
	fs->disks[disk].full_until = ts_exec_now(fs->exec) + STRIPE_FULL_NS;
	return 0; /* it looks again, at the others */
}

int fs_alloc_refill(struct fs *fs, int need_err)
{
	unsigned type;
	int rc;

	if (fs_needs_space(-abs(need_err))) {
		type = FS_CLASS(FS_REGION_DATA, (unsigned)(abs(need_err) - FS_NEED_SPACE));
		if (fs->alloc->want_on[type])
			return refill_stripe(fs, type);
		return refill(fs, type, TS_MAX(fs->alloc->want[type], 1u));
	}
	switch (abs(need_err)) {
	case FS_NEED_INODE:
		rc = fs_ialloc_refill(fs);
		return rc ? rc : fs_ialloc_await(fs);
	case FS_NEED_META:
		type = FS_REGION_META;
		break;
	default:
		return need_err < 0 ? need_err : -need_err; /* not a need: the caller's own error */
	}
	return refill(fs, type, TS_MAX(fs->alloc->want[type], 1u));
}
