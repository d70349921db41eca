/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what is believed about regions nobody here owns (type, free space), read from disk without a token.
 * A hint may be stale: it only decides where to look. What must never happen: space given out because of a hint. */
#include "fs/alloc_int.h"

struct look {
	struct fs *fs;
	uint32_t region;
	uint64_t free;
	unsigned seen, chunks, type;
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
		l->free += le32_get(d->free);
		l->type = d->type;
		l->seen++;
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
		if (!fs_chunk_exists(fs, d, region) || !fs_disk_takes(fs, d, l.seen ? l.type : FS_REGION_FREE))
			continue;
		if (all || !l.chunks)
			rc = look_chunk(&l, d);
		l.chunks++;
	}
	if (rc || h->reg)
		return rc;
	h->known = true;
	h->bad = !l.seen;
	if (l.seen) {
		uint64_t f = l.free * l.chunks / l.seen;

		h->exact = l.seen == l.chunks;
		h->type = (uint8_t)l.type;
		if (f != h->free)
			h->run_max = 0;
		h->free = (uint32_t)f;
	} else {
		h->free = 0;
	}
	return 0;
}

bool fs_alloc_can_take(struct fs *fs, enum fs_region_type type, uint32_t subs)
{
	struct fs_alloc *a = fs->alloc;
	uint32_t reserve = type == FS_REGION_META ? FS_META_RESERVE : 0;

	if (a->free[type] < (uint64_t)subs + reserve)
		return false;
	ts_list_for(l, &a->owned[type])
	{
		struct fs_region *r = ts_list_entry(l, struct fs_region, link);

		if (r->free >= subs && fs_region_fits(fs, r, type, subs))
			return true;
	}
	return false;
}
