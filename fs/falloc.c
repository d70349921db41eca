/* SPDX-License-Identifier: Apache-2.0 */
/* Job: fallocate (allocate, punch, zero), SEEK_HOLE and SEEK_DATA, inline to map on demand.
 *
 * What must never happen: an unwritten block that shows what the disk had (it reads zeros, its first write covers it whole);
 * bytes outside the given range change; the size changes with KEEP_SIZE. DATA EX and INODE EX are pinned by the caller. */
#include "fs/data_int.h"

static void touch(struct fs *fs, struct fs_inode *ip)
{
	ip->mtime_ns = ip->ctime_ns = fs_now_ns(fs);
	fs_inode_lazy(fs, ip);
}

/* A file may have more blocks than a lease has time for: who walks over them and finds all he asks for in memory never waits. */
#define TURNS_MAX 64u

static void let_others_run(unsigned *turns)
{
	if (++*turns % TURNS_MAX == 0)
		ts_fiber_yield();
}

/* Zeros over [from, to), inside one block, where it has written bytes. */
static int punch_edge(struct fs *fs, struct data_file *df, uint64_t from, uint64_t to)
{
	uint64_t idx = from / fs->block_size, base = idx * fs->block_size, end;
	struct data_blk *b;
	int rc;

	to = TS_MIN(to, TS_ALIGN_UP(df->ip->size, DATA_PAGE));
	if (from >= to)
		return 0;
	b = data_blk_get(fs, df, idx);
	if (!b)
		return -ENOMEM;
	rc = data_blk_known(fs, b);
	end = TS_MIN(to - base, (uint64_t)b->map.subs * FS_SUB);
	if (!fs_map_is_tree(df->ip))
		end = TS_MIN(to - base, TS_MIN(DATA_PAGE, df->ip->size));
	else if (!b->map.addr || b->map.unwritten)
		end = 0;
	if (!rc && from - base < end)
		rc = data_zero_pages(fs, b, from - base, end);
	data_blk_put(fs, b);
	return rc;
}

static int punch(struct fs *fs, struct data_file *df, uint64_t off, uint64_t end)
{
	uint64_t bs = fs->block_size, first, last;
	int rc = fs_data_writeback(fs, df->ip); /* no pending block between here and the end */

	if (rc)
		return rc;
	if (!fs_map_is_tree(df->ip))
		return off < DATA_PAGE ? punch_edge(fs, df, off, TS_MIN(end, DATA_PAGE)) : 0;
	if (end >= df->ip->size && end < UINT64_MAX - bs)
		end = TS_MAX(end, TS_ALIGN_UP(df->ip->size, bs));
	first = off / bs + (off % bs != 0);
	last = end / bs;
	if (first > last)
		return punch_edge(fs, df, off, end);
	rc = punch_edge(fs, df, off, first * bs);
	if (!rc)
		rc = punch_edge(fs, df, last * bs, end);
	if (!rc && first < last) {
		data_cut_blocks(fs, df, first, last);
		rc = fs_map_free(fs, df, first, last, NULL);
	}
	return rc;
}

/* Space of a block that has data goes to disk with it, all of it: the caller was promised that it is there. */
static int keep_space(struct fs *fs, struct data_blk *b)
{
	if (b->next == NEXT_NONE || !b->ndirty)
		return 0;
	b->kept = b->next == NEXT_FRESH;
	return data_blk_flush(fs, b);
}

/* The block gets `need` sub-blocks. *ready: a transaction is due. */
static int alloc_block(struct fs *fs, struct data_blk *b, uint32_t need, bool *ready)
{
	int rc = data_blk_known(fs, b);

	if (!rc)
		rc = data_blk_settled(fs, b);
	if (rc)
		return rc;
	if (data_blk_capacity(b) >= need)
		return keep_space(fs, b);
	if ((!b->map.addr || b->map.unwritten) && b->next == NEXT_NONE && !b->ndirty) {
		rc = data_blk_reserve(fs, b, need);
		if (rc)
			return rc;
		TS_ASSERT(b->next == NEXT_FRESH);
		b->unwritten = true;
		b->ready = true;
		b->wave_seq = ++fs->datas->seq;
		data_blk_active(fs, b);
		*ready = true;
		return 0;
	}
	rc = data_blk_reserve(fs, b, need);
	if (!rc && !b->ndirty) { /* the extension has to be written: with zeros */
		rc = data_zero_pages(fs, b, (uint64_t)(need - 1) * FS_SUB, (uint64_t)need * FS_SUB);
		if (rc && !b->ndirty && !b->ios && !b->ready)
			data_blk_release(fs, b);
	}
	return rc ? rc : keep_space(fs, b);
}

static int allocate(struct fs *fs, struct data_file *df, uint64_t off, uint64_t end)
{
	uint64_t bs = fs->block_size;
	unsigned nready = 0, turns = 0;
	int rc = data_leave_inline(fs, df), rc2;

	for (uint64_t i = off / bs; !rc && i <= (end - 1) / bs; i++) {
		struct data_blk *b = data_blk_get(fs, df, i);
		uint64_t to = TS_MIN(end - i * bs, bs);
		bool ready = false;

		let_others_run(&turns);
		if (!b) {
			rc = -ENOMEM;
			break;
		}
		rc = alloc_block(fs, b, (uint32_t)((to + FS_SUB - 1) / FS_SUB), &ready);
		nready += ready;
		if (!rc && nready && nready % DATA_BATCH == 0)
			rc = data_commit(fs, df, false, false);
		data_blk_put(fs, b);
	}
	rc2 = nready ? data_commit(fs, df, false, false) : 0;
	return rc ? rc : rc2;
}

int fs_data_fallocate(struct fs *fs, struct fs_inode *ip, int mode, uint64_t off, uint64_t len)
{
	bool keep = mode & FS_FALLOC_KEEP_SIZE, hole = mode & FS_FALLOC_PUNCH, zero = mode & FS_FALLOC_ZERO;
	uint64_t end = off + len;
	struct data_file *df;
	int rc = 0;

	if ((mode & ~(FS_FALLOC_KEEP_SIZE | FS_FALLOC_PUNCH | FS_FALLOC_ZERO)) || (hole && (zero || !keep)))
		return -EOPNOTSUPP;
	if (!len)
		return -EINVAL;
	if (off > FS_MAX_SIZE || len > FS_MAX_SIZE - off)
		return -EFBIG;
	df = data_use(fs, ip);
	if (!df)
		return -ENOMEM;
	if (hole || zero)
		rc = punch(fs, df, off, end);
	if (!rc && !hole && !data_stays_inline(fs, df, end))
		rc = allocate(fs, df, off, end);
	if (!rc && !hole && !keep && end > ip->size) {
		rc = data_gap(fs, df, ip->size, end);
		if (!rc)
			ip->size = end;
	}
	if (!rc)
		touch(fs, ip);
	data_unuse(fs, df);
	return rc;
}

int fs_data_uninline(struct fs *fs, struct fs_inode *ip)
{
	struct data_file *df = data_use(fs, ip);
	struct data_blk *b;
	int rc;

	if (!df)
		return -ENOMEM;
	rc = data_leave_inline(fs, df);
	b = rc || fs_map_is_tree(ip) ? NULL : data_blk_find(fs, df, 0);
	if (b) {
		b->pins++;
		rc = data_blk_flush(fs, b);
		data_blk_put(fs, b);
	}
	data_unuse(fs, df);
	return rc;
}

/* ---- SEEK_HOLE, SEEK_DATA ------------------------------------------------------------------------------------------- */

static bool page_is_data(struct fs *fs, struct data_blk *b, unsigned page)
{
	struct data_chunk *c = b->chunk[page / DATA_CHUNK_PAGES];
	uint16_t bit = data_bit(page);

	if (c && (((c->dirty | c->writing) & bit) || ((b->next != NEXT_NONE || b->ready || b->first) && (c->valid & bit))))
		return true;
	return data_page_source(fs, b, page) != SRC_ZERO;
}

/* First block at or behind idx > 0 that may have data: on disk, or only in memory yet. */
static int next_block(struct fs *fs, struct data_file *df, uint64_t idx, uint64_t *out)
{
	int rc = 0;

	*out = UINT64_MAX;
	if (fs_map_is_tree(df->ip))
		rc = fs_map_next(fs, df, idx, out);
	ts_list_for(n, &df->active) {
		struct data_blk *b = ts_list_entry(n, struct data_blk, active);

		if (b->idx >= idx && b->idx < *out)
			*out = b->idx;
	}
	return rc;
}

/* Offset in the block of the first page from `at` on that is (hole: is not) data; the block size if none. */
static uint64_t seek_block(struct fs *fs, struct data_blk *b, uint64_t at, bool hole)
{
	unsigned p = (unsigned)(at / DATA_PAGE);

	if (page_is_data(fs, b, p) != hole)
		return at;
	for (p++; p < data_blk_pages(fs); p++) {
		if (page_is_data(fs, b, p) != hole)
			return (uint64_t)p * DATA_PAGE;
	}
	return fs->block_size;
}

int64_t fs_data_seek(struct fs *fs, struct fs_inode *ip, uint64_t off, bool hole)
{
	uint64_t bs = fs->block_size, pos = off, found = UINT64_MAX;
	struct data_file *df;
	unsigned turns = 0;
	int rc = 0;

	if (off >= ip->size)
		return -ENXIO;
	df = data_use(fs, ip);
	if (!df)
		return -ENOMEM;
	while (!rc && pos < ip->size && found == UINT64_MAX) {
		struct data_blk *b = data_blk_get(fs, df, pos / bs);
		uint64_t at, idx = pos / bs + 1;

		let_others_run(&turns);
		rc = b ? data_blk_known(fs, b) : -ENOMEM;
		if (!rc) {
			at = seek_block(fs, b, pos % bs, hole);
			if (at < bs)
				found = pos / bs * bs + at;
			else if (!hole)
				rc = next_block(fs, df, idx, &idx);
		}
		if (b)
			data_blk_put(fs, b);
		pos = idx < UINT64_MAX / bs ? idx * bs : UINT64_MAX;
	}
	data_unuse(fs, df);
	if (rc)
		return rc;
	if (found >= ip->size)
		return hole ? (int64_t)ip->size : -ENXIO;
	return (int64_t)found;
}
