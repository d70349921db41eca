/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the size of a file changes; blocks behind it are freed. Cutting goes from the end down: each transaction frees the
 * blocks of one leaf and lowers the size to the first byte it freed. A crash in between leaves a file that is longer than
 * asked for, whose bytes are right, and no written block behind its end (D5).
 *
 * What must never happen: bytes that were cut off come back when the file grows again (the tail of the last page is zero on
 * disk before the size shrinks; growing over left-overs zeroes them first); a block is freed while a write to it is under way. */
#include "fs/data_int.h"

/* Waits until no write of the blocks [from, to) is in flight. */
static void wait_waves(struct fs *fs, struct data_file *df, uint64_t from, uint64_t to)
{
	bool busy;

	do {
		busy = false;
		ts_list_for(n, &df->active) {
			struct data_blk *b = ts_list_entry(n, struct data_blk, active);

			if (b->ios && b->idx >= from && b->idx < to)
				busy = true;
		}
		if (busy)
			ts_cond_wait(&df->cond, "writes of what is cut off, inode", df->ip->ino, from);
	} while (busy);
}

static void blk_forget(struct fs *fs, struct data_blk *b)
{
	b->pins++;
	for (uint32_t i = 0; i < data_blk_chunks(fs); i++) {
		if (b->chunk[i])
			data_chunk_cut(fs, b->chunk[i]);
	}
	b->ready = false;
	b->io_rc = 0;
	data_blk_release(fs, b);
	b->known = b->tail_clean = false;
	data_blk_active(fs, b);
	data_blk_put(fs, b);
}

void data_cut_blocks(struct fs *fs, struct data_file *df, uint64_t from, uint64_t to)
{
	wait_waves(fs, df, from, to);
	ts_list_for_safe(n, tmp, &df->blks) {
		struct data_blk *b = ts_list_entry(n, struct data_blk, link);

		if (b->idx >= from && b->idx < to)
			blk_forget(fs, b);
	}
	ts_cond_broadcast(&fs->datas->room);
}

/* Pages of the last block behind its byte `keep` leave memory; that page's tail becomes zero. Nothing in flight. */
static void cut_pages(struct fs *fs, struct data_blk *b, uint32_t keep)
{
	uint32_t page = keep / DATA_PAGE + (keep % DATA_PAGE != 0); /* first page to go */

	for (uint32_t i = 0; i < data_blk_chunks(fs); i++) {
		struct data_chunk *c = b->chunk[i];
		uint32_t first = i * DATA_CHUNK_PAGES;
		uint16_t bits;

		if (!c || page >= first + DATA_CHUNK_PAGES)
			continue;
		if (page <= first) {
			data_chunk_cut(fs, c);
			continue;
		}
		bits = (uint16_t)(DATA_CHUNK_ALL << (page - first));
		data_pages_clean(fs, c, bits);
		c->valid &= (uint16_t)~bits;
		data_chunk_settle(fs, c);
	}
	if (keep % DATA_PAGE && b->chunk[keep / DATA_CHUNK]) {
		struct data_chunk *c = b->chunk[keep / DATA_CHUNK];

		if (c->valid & data_bit(keep / DATA_PAGE))
			memset(c->mem + keep % DATA_CHUNK, 0, DATA_PAGE - keep % DATA_PAGE);
	}
	if (!b->ready && (!b->ndirty || (b->next == NEXT_EXTEND && page <= b->map.subs)))
		data_blk_release(fs, b); /* nothing left that needs it */
	data_blk_active(fs, b);
}

static bool chunk_reading(const struct data_blk *b, uint32_t keep)
{
	struct data_chunk *c = b->chunk[keep / DATA_CHUNK];

	return c && c->reading;
}

/* The block that keeps its first `keep` bytes. *written: its tail must be zero on disk before the size shrinks. */
static int cut_last(struct fs *fs, struct data_blk *b, uint32_t keep)
{
	struct data_chunk *c = NULL;
	bool on_disk;
	int rc = data_blk_known(fs, b);

	if (rc)
		return rc;
	on_disk = keep % DATA_PAGE && data_page_source(fs, b, keep / DATA_PAGE) == SRC_DISK;
	for (;;) {
		wait_waves(fs, b->df, b->idx, b->idx + 1);
		if (chunk_reading(b, keep)) {
			struct data_chunk *busy = b->chunk[keep / DATA_CHUNK];

			ts_cond_wait(&busy->cond, "reads of what is cut off, inode", b->df->ip->ino, b->idx);
			continue;
		}
		if (!on_disk || c)
			break;
		rc = data_page_fill(fs, b, keep / DATA_PAGE, &c);
		if (rc)
			return rc;
	}
	cut_pages(fs, b, keep);
	b->tail_clean = false;
	if (c) {
		data_pages_dirty(fs, c, data_bit(keep / DATA_PAGE));
		data_chunk_unpin(fs, c);
		rc = data_blk_flush(fs, b);
	}
	return rc;
}

static int shrink_inline(struct fs *fs, struct data_file *df, uint64_t size, struct map_cut *cut)
{
	struct fs_inode_disk *d;
	struct fs_tx tx;
	uint16_t len;
	int rc = fs_log_reserve(fs, 0);

	if (rc)
		return rc;
	if (!df->ip->buf)
		return -EIO;
	d = fs_idisk(df->ip);
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, df->ip->buf);
	len = le16_get(d->inline_len);
	if ((d->payload_type == FS_PL_INLINE || d->payload_type == FS_PL_TARGET) && len > size && len <= FS_INODE_PAYLOAD) {
		memset(d->payload + size, 0, len - size);
		d->inline_len = le16_make((uint16_t)size);
		if (!size)
			d->payload_type = FS_PL_NONE;
	}
	fs_map_cut_tx(fs, &tx, df, cut, size);
	(void)fs_tx_commit(&tx);
	return 0;
}

static int shrink_map(struct fs *fs, struct data_file *df, uint64_t size, struct map_cut *cut)
{
	uint64_t idx = size / fs->block_size;
	uint32_t keep = (uint32_t)((size % fs->block_size + FS_SUB - 1) / FS_SUB);
	int rc = fs_map_free(fs, df, keep ? idx + 1 : idx, UINT64_MAX, cut);

	if (!rc && keep) {
		struct data_blk *b = data_blk_get(fs, df, idx);

		if (!b)
			return -ENOMEM;
		rc = data_blk_known(fs, b);
		if (!rc && b->next == NEXT_NONE && !b->ready && !b->ios && b->map.addr && b->map.subs > keep) {
			rc = fs_map_trim(fs, df, idx, keep, cut);
			if (!rc)
				b->map.subs = keep; /* its dirty pages, if any, lie below */
		}
		data_blk_put(fs, b);
	}
	if (!rc && (df->ip->size > size || !cut->bumped))
		rc = shrink_inline(fs, df, size, cut); /* nothing inline here: size and epoch */
	return rc;
}

static int shrink(struct fs *fs, struct data_file *df, uint64_t size)
{
	uint32_t bs = fs->block_size;
	struct map_cut cut = {.size = size};
	int rc = 0;

	data_cut_blocks(fs, df, size / bs + (size % bs != 0), UINT64_MAX);
	if (size % bs) {
		struct data_blk *b = data_blk_get(fs, df, size / bs);

		if (!b)
			return -ENOMEM;
		rc = cut_last(fs, b, (uint32_t)(size % bs));
		data_blk_put(fs, b);
	}
	if (rc)
		return rc;
	return fs_map_is_tree(df->ip) ? shrink_map(fs, df, size, &cut) : shrink_inline(fs, df, size, &cut);
}

int fs_data_truncate(struct fs *fs, struct fs_inode *ip, uint64_t size)
{
	struct data_file *df;
	int rc = 0;

	if (size > FS_MAX_SIZE)
		return -EFBIG;
	df = data_use(fs, ip);
	if (!df)
		return -ENOMEM;
	ip->mtime_ns = ip->ctime_ns = fs_now_ns(fs);
	ip->gap_clean = UINT64_MAX;
	fs_inode_lazy(fs, ip);
	/* Shrinking to the same size is not nothing: blocks behind the end (fallocate) go. */
	if (size > ip->size) {
		rc = data_gap(fs, df, ip->size, size);
		if (!rc) {
			ip->size = size;
			fs_inode_lazy(fs, ip);
		}
	} else {
		rc = shrink(fs, df, size);
	}
	data_unuse(fs, df);
	return rc;
}

int fs_data_free_all(struct fs *fs, struct fs_inode *ip)
{
	struct data_file *df = data_use(fs, ip);
	int rc;

	if (!df)
		return -ENOMEM;
	rc = shrink(fs, df, 0);
	data_unuse(fs, df);
	return rc;
}
