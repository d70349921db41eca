/* SPDX-License-Identifier: Apache-2.0 */
/* Job: indirect blocks for pointers that will be inserted later, taken when write() takes the data block: writing back can
 * wait for no region (law 2). Every entry of the stock is reserved by one file; what a file does not need goes back at once.
 *
 * How many: a file with pending fresh blocks reserves (nheads + 1) * pend_height. pend_height is the tree's height once the
 * farthest pending block is in. A head is a pending block that may need a whole new way down; its neighbour in the same
 * leaf is none. One pend_height more is for growing. What must never happen: fewer entries than inserting all pending
 * blocks, in whatever order, can use up. */
#include "fs/data_int.h"

static int stock_room(struct fs_datastate *ds, size_t n)
{
	struct fs_ext *v;
	size_t room = ds->stock_room ? ds->stock_room : 64;

	while (room < n)
		room *= 2;
	if (room == ds->stock_room)
		return 0;
	v = ts_alloc(room * sizeof(*v));
	if (!v)
		return -ENOMEM;
	if (ds->nstock)
		memcpy(v, ds->stock, ds->nstock * sizeof(*v));
	ts_free(ds->stock);
	ds->stock = v;
	ds->stock_room = room;
	return 0;
}

static unsigned required(const struct data_file *df)
{
	return df->npend ? (df->nheads + 1) * df->pend_height : 0;
}

/* Takes or gives back until the file has what it needs. */
static int adjust(struct fs *fs, struct data_file *df)
{
	struct fs_datastate *ds = fs->datas;
	unsigned need = required(df);
	int rc;

	while (df->meta_reserved > need) {
		TS_ASSERT(ds->nstock);
		fs_alloc_untake(fs, &ds->stock[--ds->nstock]);
		df->meta_reserved--;
	}
	if (df->meta_reserved == need)
		return 0;
	rc = stock_room(ds, ds->nstock + need - df->meta_reserved);
	while (!rc && df->meta_reserved < need) {
		rc = fs_alloc_take(fs, true, 1, 0, ds->nstock, &ds->stock[ds->nstock]);
		if (!rc) {
			ds->nstock++;
			df->meta_reserved++;
		}
	}
	return rc;
}

static bool follows_neighbour(struct fs *fs, struct data_blk *b)
{
	struct data_blk *prev = b->idx % MAP_FAN ? data_blk_find(fs, b->df, b->idx - 1) : NULL;

	return prev && ((prev->known && prev->map.addr) || prev->next == NEXT_FRESH);
}

int fs_map_pend(struct fs *fs, struct data_blk *b)
{
	struct data_file *df = b->df;
	unsigned before = df->pend_height, cur = fs_map_is_tree(df->ip) ? fs_idisk(df->ip)->map_height : 0;
	int rc;

	b->head = !follows_neighbour(fs, b);
	if (!df->npend)
		before = 0;
	df->pend_height = TS_MAX(TS_MAX(before, cur), fs_map_height_for(b->idx));
	df->npend++;
	df->nheads += b->head;
	rc = adjust(fs, df);
	if (!rc)
		return 0;
	df->npend--;
	df->nheads -= b->head;
	df->pend_height = before;
	(void)adjust(fs, df); /* gives back only */
	return rc;
}

void fs_map_unpend(struct fs *fs, struct data_blk *b)
{
	struct data_file *df = b->df;

	TS_ASSERT(df->npend && df->nheads >= b->head);
	df->npend--;
	df->nheads -= b->head;
	b->head = false;
	if (df->meta_reserved > required(df))
		(void)adjust(fs, df);
}

int fs_map_stock_pop(struct fs *fs, struct data_file *df, struct fs_ext *out)
{
	struct fs_datastate *ds = fs->datas;

	if (df->meta_reserved) {
		TS_ASSERT(ds->nstock);
		df->meta_reserved--;
		*out = ds->stock[--ds->nstock];
		return 0;
	}
	return fs_alloc_take(fs, true, 1, 0, 0, out);
}

void fs_map_stock_push(struct fs *fs, struct data_file *df, const struct fs_ext *e)
{
	struct fs_datastate *ds = fs->datas;

	if (df->meta_reserved >= required(df) || stock_room(ds, ds->nstock + 1)) {
		fs_alloc_untake(fs, e);
		return;
	}
	ds->stock[ds->nstock++] = *e;
	df->meta_reserved++;
}
