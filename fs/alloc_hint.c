/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what is believed about regions nobody here owns (type, free space), read from disk without a token.
 * A hint may be stale: it only decides where to look. What must never happen: space given out because of a hint. */
#include "fs/alloc_int.h"

struct look {
	struct fs *fs;
	uint32_t region;
	uint64_t free[FS_POOLS];
	unsigned seen[FS_POOLS], chunks[FS_POOLS], all_seen, type;
};

static int look_chunk(struct look *l, unsigned disk)
{
	fs_addr at = fs_chunk_addr(l->fs, disk, l->region);
	struct fs_bitmap_disk *d = ts_alloc_aligned(FS_SUB, FS_SUB);
	int rc;

	if (!d)
		return -ENOMEM;
	rc = fs_io_read(l->fs, at, d, FS_SUB);
	if (!rc && !fs_mdhdr_wrong(d, l->fs->super.fs_id, FS_BT_BITMAP, at) && d->type <= FS_REGION_DATA &&
	    le32_get(d->free) <= FS_BITMAP_BITS) {
		unsigned p = fs_disk_pool(l->fs, disk);

		l->free[p] += le32_get(d->free);
		l->type = TS_MAX(l->type, d->type); /* the share of a disk that came later has none yet */
		l->seen[p]++;
		l->all_seen++;
	}
	ts_free(d);
	return rc;
}

int fs_alloc_hint_read(struct fs *fs, uint32_t region, bool all)
{
	struct look l = {.fs = fs, .region = region};
	struct fs_region_hint *h = &fs->alloc->hints[region];
	int rc = 0;

	for (unsigned d = 0; d < fs->ndisks && !rc; d++) {
		unsigned p = fs_disk_pool(fs, d);

		if (!fs_chunk_exists(fs, d, region) || !fs_disk_takes(fs, d, l.all_seen ? l.type : FS_REGION_FREE))
			continue;
		if (all || !l.chunks[p]) /* one share of each pool */
			rc = look_chunk(&l, d);
		l.chunks[p]++;
	}
	if (rc || h->reg)
		return rc;
	h->known = h->exact = true;
	h->bad = !l.all_seen;
	h->free = 0;
	for (unsigned p = 0; p < FS_POOLS; p++) {
		uint32_t f = l.seen[p] ? (uint32_t)(l.free[p] * l.chunks[p] / l.seen[p]) : 0;

		h->exact &= l.seen[p] == l.chunks[p];
		if (f != h->pfree[p])
			h->run_max[p] = 0;
		h->pfree[p] = f;
		h->free += f;
	}
	h->type = l.all_seen ? (uint8_t)l.type : h->type;
	return 0;
}

bool fs_alloc_can_take(struct fs *fs, unsigned cls, uint32_t subs)
{
	struct fs_alloc *a = fs->alloc;
	uint32_t reserve = cls == FS_REGION_META ? FS_META_RESERVE : 0;

	if (a->free[cls] < (uint64_t)subs + reserve)
		return false;
	ts_list_for(l, &a->owned[FS_CLASS_TYPE(cls)])
	{
		struct fs_region *r = ts_list_entry(l, struct fs_region, link);

		if (r->pfree[FS_CLASS_POOL(cls)] >= subs && fs_region_fits(fs, r, cls, subs))
			return true;
	}
	return false;
}
