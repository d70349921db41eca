/* SPDX-License-Identifier: Apache-2.0 */
/* Job: read and write of a file's bytes through the pool. Space is taken here, when the caller can still be told that there
 * is none; writing back needs none. The caller (ops_file.c) has pinned DATA and INODE: SH to read, EX to write.
 *
 * What must never happen: a dirty page without space (D1); old bytes of a disk or of a longer former life of the file in
 * what is read (D3, D4); a page changed while the disk is reading it out (writers wait for `writing`). */
#include "fs/data_int.h"

/* ---- space ------------------------------------------------------------------------------------------------------- */

uint32_t data_blk_capacity(const struct data_blk *b)
{
	if (b->next == NEXT_FRESH)
		return b->ext.subs;
	return (b->map.addr ? b->map.subs : 0) + (b->next == NEXT_EXTEND ? b->ext.subs : 0);
}

/* Files grow: powers of two, so that the copies of a growing last block stay few. */
static uint32_t want_subs(const struct fs *fs, uint32_t need)
{
	uint32_t n = 1;

	while (n < need)
		n *= 2;
	return TS_MIN(n, fs->block_subs);
}

static int take_space(struct fs *fs, struct data_blk *b, uint32_t need, struct fs_ext *out)
{
	uint32_t want = want_subs(fs, need);
	struct fs_layout_want w = data_blk_want(fs, b);
	int rc = fs_alloc_take_data(fs, &w, want, 0, out);

	if (fs_needs_space(rc) && need < want)
		rc = fs_alloc_take_data(fs, &w, need, 0, out);
	return rc;
}

static int64_t data_blk_taken(const struct data_blk *b)
{
	if (b->next == NEXT_NONE)
		return 0;
	return (int64_t)b->ext.subs - (b->next == NEXT_FRESH && b->map.addr ? b->map.subs : 0);
}

void data_blk_plan(struct data_blk *b, enum data_next next, const struct fs_ext *ext)
{
	b->df->taken -= data_blk_taken(b);
	b->next = next;
	b->ext = *ext;
	b->df->taken += data_blk_taken(b);
}

/* Space not mapped yet counts: who sees a file with bytes and without blocks takes it for one hole, and copies nothing. */
uint64_t fs_data_blocks512(struct fs *fs, struct fs_inode *ip, bool *passing)
{
	struct data_file *df = ip->data;
	int64_t subs = (int64_t)le64_get(fs_idisk(ip)->subs) + (df ? df->taken : 0);
	struct data_blk *b = df ? data_blk_find(fs, df, 0) : NULL;
	bool in_inode = (b && data_is_inline(b)) || (fs_idisk(ip)->payload_type == FS_PL_INLINE && le16_get(fs_idisk(ip)->inline_len));

	*passing = df && df->taken;
	return (uint64_t)TS_MAX(subs, (int64_t)0) * (FS_SUB / 512) + (in_inode ? (TS_MIN(ip->size, (uint64_t)FS_SUB) + 511) / 512 : 0);
}

void data_blk_release(struct fs *fs, struct data_blk *b)
{
	if (b->next == NEXT_NONE)
		return;
	TS_ASSERT(!b->ios && !b->ready);
	fs_alloc_untake(fs, &b->ext);
	if (b->next == NEXT_FRESH && !b->map.addr)
		fs_map_unpend(fs, b);
	data_blk_plan(b, NEXT_NONE, &b->ext);
	b->unwritten = b->kept = false;
	data_blk_settle(fs, b);
}

/* A hole, or unwritten: nothing to copy. */
static int reserve_fresh(struct fs *fs, struct data_blk *b, uint32_t need)
{
	struct fs_ext e;
	int rc = take_space(fs, b, need, &e);

	if (rc)
		return rc;
	if (b->next == NEXT_FRESH) {
		fs_alloc_untake(fs, &b->ext);
		data_blk_plan(b, NEXT_FRESH, &e);
		return 0;
	}
	TS_ASSERT(b->next == NEXT_NONE);
	if (!b->map.addr) {
		rc = fs_map_pend(fs, b);
		if (rc) {
			fs_alloc_untake(fs, &e);
			return rc;
		}
	}
	data_blk_plan(b, NEXT_FRESH, &e);
	data_blk_settle(fs, b);
	return 0;
}

/* The sub-blocks right behind the block, if they are free: -EAGAIN if not. */
static int reserve_extend(struct fs *fs, struct data_blk *b, uint32_t need)
{
	uint32_t extra = want_subs(fs, need) - b->map.subs;
	fs_addr goal = b->map.addr + b->map.subs;
	struct fs_layout_want w = data_blk_want(fs, b);
	struct fs_ext e;

	if (b->next != NEXT_NONE || fs_alloc_take_data(fs, &w, extra, goal, &e))
		return -EAGAIN;
	if (e.addr != goal) {
		fs_alloc_untake(fs, &e);
		return -EAGAIN;
	}
	data_blk_plan(b, NEXT_EXTEND, &e);
	data_blk_settle(fs, b);
	return 0;
}

/* Every page of the block below the end of file valid and its chunk pinned. On an error those up to *pinned are pinned. */
static int load_block(struct fs *fs, struct data_blk *b, unsigned *pinned)
{
	uint64_t size = b->df->ip->size, off = data_blk_off(fs, b);
	uint64_t pages = size > off ? TS_MIN((size - off + DATA_PAGE - 1) / DATA_PAGE, b->map.subs) : 0;
	int rc = pages ? data_read_submit(fs, b, 0, (unsigned)pages, true) : 0;

	for (unsigned p = 0; !rc && p < pages; p++) {
		struct data_chunk *c;

		rc = data_page_fill(fs, b, p, &c);
		if (!rc)
			*pinned = p + 1;
	}
	return rc;
}

int data_blk_move(struct fs *fs, struct data_blk *b, const struct fs_ext *e)
{
	struct fs_datastate *ds = fs->datas;
	struct fs_bmap was = b->map;
	unsigned pinned = 0;
	int rc;

	ts_mutex_lock(&ds->grow_lock, "one growing block at a time");
	rc = load_block(fs, b, &pinned);
	while (!rc && (b->ios || b->ready)) {
		if (!b->ios && data_sharing(b->df->ip))
			rc = -FS_NEED_EX; /* nobody can map it while this fiber has SW */
		else
			ts_cond_wait(&b->df->cond, "writes of a growing block, inode", b->df->ip->ino, b->idx);
	}
	if (!rc && (b->next != NEXT_NONE || b->map.addr != was.addr || b->map.subs != was.subs))
		rc = -TS_ERR_RETRY;
	if (rc) {
		fs_alloc_untake(fs, e);
	} else {
		data_blk_plan(b, NEXT_FRESH, e);
	}
	for (unsigned p = 0; p < pinned; p++) {
		struct data_chunk *c = b->chunk[p / DATA_CHUNK_PAGES];

		if (!rc)
			data_pages_dirty(fs, c, data_bit(p));
		data_chunk_unpin(fs, c);
	}
	data_blk_settle(fs, b);
	ts_mutex_unlock(&ds->grow_lock);
	return rc;
}

/* A larger extent. */
static int reserve_move(struct fs *fs, struct data_blk *b, uint32_t need)
{
	struct fs_ext e;
	int rc = take_space(fs, b, need, &e);

	if (rc)
		return rc;
	if (b->next == NEXT_FRESH) { /* loaded already */
		fs_alloc_untake(fs, &b->ext);
		data_blk_plan(b, NEXT_FRESH, &e);
		return 0;
	}
	return data_blk_move(fs, b, &e);
}

int data_blk_reserve(struct fs *fs, struct data_blk *b, uint32_t need)
{
	TS_ASSERT(need <= fs->block_subs);
	for (;;) {
		int rc = data_blk_known(fs, b);

		if (rc || data_blk_capacity(b) >= need)
			return rc;
		if (b->ios || b->ready) {
			rc = data_blk_settled(fs, b);
		} else if (!b->map.addr || b->map.unwritten) {
			return reserve_fresh(fs, b, need);
		} else if (b->next == NEXT_EXTEND) {
			rc = b->ndirty ? data_blk_flush(fs, b) : 0;
			if (!rc && b->next == NEXT_EXTEND && !b->ndirty && !b->ios && !b->ready)
				data_blk_release(fs, b);
		} else {
			rc = reserve_extend(fs, b, need);
			if (rc != -EAGAIN)
				return rc;
			rc = reserve_move(fs, b, need);
			if (rc != -TS_ERR_RETRY)
				return rc;
			rc = 0;
		}
		if (rc)
			return rc;
	}
}

/* ---- inline or not ------------------------------------------------------------------------------------------------ */

bool data_stays_inline(struct fs *fs, struct data_file *df, uint64_t end)
{
	return !fs_map_is_tree(df->ip) && !df->npend && end <= fs_map_room(df->ip) && end <= DATA_PAGE;
}

/* The file will have a map: what is inline becomes the dirty page 0, with space. */
int data_leave_inline(struct fs *fs, struct data_file *df)
{
	struct fs_inode *ip = df->ip;
	struct data_blk *b;
	struct data_chunk *c;
	int rc = 0;

	if (fs_map_is_tree(ip))
		return 0;
	if (fs_map_room(ip) < FS_INODE_PTRS * sizeof(struct fs_bptr_disk))
		rc = fs_xattr_make_room(fs, ip, FS_INODE_PTRS * sizeof(struct fs_bptr_disk));
	if (rc)
		return rc;
	b = data_blk_get(fs, df, 0);
	if (!b)
		return -ENOMEM;
	if (!b->ndirty && (fs_idisk(ip)->payload_type != FS_PL_INLINE || !le16_get(fs_idisk(ip)->inline_len)))
		goto out;
	rc = data_page_fill(fs, b, 0, &c);
	if (rc)
		goto out;
	rc = data_blk_reserve(fs, b, 1);
	while (!rc && ((c->reading | c->writing) & 1))
		ts_cond_wait(&c->cond, "page 0 of inode", ip->ino, 0);
	if (!rc && !fs_map_is_tree(ip))
		data_pages_dirty(fs, c, 1);
	data_chunk_unpin(fs, c);
out:
	data_blk_put(fs, b);
	return rc;
}

/* ---- write -------------------------------------------------------------------------------------------------------- */

static uint16_t page_bits(size_t from, size_t n) /* offsets in the chunk */
{
	unsigned a = (unsigned)(from / DATA_PAGE), z = (unsigned)((from + n - 1) / DATA_PAGE);

	return (uint16_t)((DATA_CHUNK_ALL >> (DATA_CHUNK_PAGES - 1 - z)) & (DATA_CHUNK_ALL << a));
}

/* Puts bytes (src NULL: zeros) into one chunk: offset in the block, not across a chunk. Space is there, or inline. */
static int put_piece(struct fs *fs, struct data_blk *b, const uint8_t *src, uint64_t off, size_t n, bool inl)
{
	unsigned first = (unsigned)(off / DATA_PAGE), last = (unsigned)((off + n - 1) / DATA_PAGE);
	size_t in = off % DATA_CHUNK;
	uint16_t bits = page_bits(in, n);
	struct data_chunk *c;

	for (;;) {
		bool head, tail;
		int rc = inl || (b->known && data_blk_capacity(b) > last) ? 0 : data_blk_reserve(fs, b, last + 1);

		if (rc)
			return rc;
		c = data_chunk_get(fs, b, first, true);
		if (!inl && data_blk_capacity(b) <= last)
			continue;
		if ((c->reading | c->writing) & bits) {
			ts_cond_wait(&c->cond, "a page to be idle, inode, block", b->df->ip->ino, b->idx);
			continue;
		}
		head = off % DATA_PAGE && !(c->valid & data_bit(first));
		tail = (off + n) % DATA_PAGE && !(c->valid & data_bit(last));
		if (!head && !tail)
			break;
		rc = data_page_fill(fs, b, head ? first : last, &c);
		if (rc)
			return rc;
		data_chunk_unpin(fs, c);
	}
	if (src)
		memcpy(c->mem + in, src, n);
	else
		memset(c->mem + in, 0, n);
	data_pages_dirty(fs, c, bits);
	return 0;
}

int data_zero_pages(struct fs *fs, struct data_blk *b, uint64_t from, uint64_t to)
{
	bool inl = !fs_map_is_tree(b->df->ip) && b->next == NEXT_NONE;
	int rc = 0;

	while (!rc && from < to) {
		size_t n = (size_t)TS_MIN(to - from, DATA_CHUNK - from % DATA_CHUNK);

		data_throttle(fs);
		rc = put_piece(fs, b, NULL, from, n, inl);
		from += n;
	}
	return rc;
}

/* The size is about to grow from old_size over [old_size, to) without data: what the last block's sub-blocks have there on
 * disk becomes zero first (D3). */
int data_gap(struct fs *fs, struct data_file *df, uint64_t old_size, uint64_t to)
{
	uint64_t idx = old_size / fs->block_size, from = old_size % fs->block_size, end;
	struct data_blk *b;
	int rc;

	if (!from || !fs_map_is_tree(df->ip))
		return 0;
	b = data_blk_get(fs, df, idx);
	if (!b)
		return -ENOMEM;
	rc = data_blk_known(fs, b);
	if (!rc && (b->ios || b->ready)) /* written before the end was cut, perhaps, and not mapped yet */
		rc = data_blk_settled(fs, b);
	end = TS_MIN(to - idx * fs->block_size, (uint64_t)b->map.subs * FS_SUB);
	if (!rc && b->map.addr && !b->map.unwritten && from < end) {
		rc = data_zero_pages(fs, b, from, end);
		if (!rc)
			rc = data_blk_flush(fs, b);
	}
	data_blk_put(fs, b);
	return rc;
}

/* A size that other nodes do not know may end in the middle of this block, and they grow over it: what is behind on disk becomes
 * zero now (D3). [.., end) of the block is being written. */
static int clean_tail(struct fs *fs, struct data_blk *b, uint64_t end)
{
	bool fresh = b->next == NEXT_FRESH && !b->ready; /* ready: the disk may have what was cut off since */
	uint64_t room = fresh || (b->next != NEXT_FRESH && (b->map.unwritten || !b->map.addr)) ? 0 :
			(uint64_t)(b->next == NEXT_FRESH ? b->ext.subs : b->map.subs) * FS_SUB;
	int rc = 0;

	if (b->tail_clean)
		return 0;
	if (end < room)
		rc = data_zero_pages(fs, b, end, room);
	b->tail_clean = !rc;
	return rc;
}

/* Space for the whole write before its first byte. When that cannot be had now, *end moves down to what can, unless it is all or
 * nothing: a write that keeps nothing and starts again would find its own blocks, again and again. */
static int reserve_range(struct fs *fs, struct data_file *df, uint64_t off, uint64_t *end, bool whole)
{
	uint32_t bs = fs->block_size;
	int rc = data_leave_inline(fs, df);

	for (uint64_t i = off / bs; !rc && i <= (*end - 1) / bs; i++) {
		uint64_t to = TS_MIN(*end - i * bs, bs);
		struct data_blk *b = data_blk_get(fs, df, i);

		if (!b)
			return -ENOMEM;
		rc = data_blk_reserve(fs, b, (uint32_t)((to + FS_SUB - 1) / FS_SUB));
		data_blk_put(fs, b);
		if (rc && i * bs > off && !whole) {
			*end = i * bs;
			return 0;
		}
	}
	return rc;
}

static void release_unused(struct fs *fs, struct data_file *df, uint64_t off, uint64_t end)
{
	for (uint64_t i = off / fs->block_size; i <= (end - 1) / fs->block_size; i++) {
		struct data_blk *b = data_blk_find(fs, df, i);

		if (b && b->next != NEXT_NONE && !b->ndirty && !b->ios && !b->ready) {
			b->pins++;
			data_blk_release(fs, b);
			data_blk_put(fs, b);
		}
	}
}

static int write_block(struct fs *fs, struct data_blk *b, const uint8_t *src, uint64_t off, size_t n, bool inl, size_t *done)
{
	struct fs_inode *ip = b->df->ip;
	int64_t now = fs_now_ns(fs);

	while (n) {
		size_t k = TS_MIN(n, DATA_CHUNK - off % DATA_CHUNK);
		int rc;

		data_throttle(fs);
		if (data_sharing(ip))
			share_mark(fs, b);
		rc = put_piece(fs, b, src, off, k, inl);
		if (!rc && data_sharing(ip) && data_blk_off(fs, b) + off + k > ip->size && k == n)
			rc = clean_tail(fs, b, off + k);
		if (rc) {
			data_blk_active(fs, b);
			return rc;
		}
		off += k;
		src += k;
		n -= k;
		*done += k;
		ip->size = TS_MAX(ip->size, data_blk_off(fs, b) + off);
		ip->mtime_ns = ip->ctime_ns = now;
		fs_inode_lazy(fs, ip);
	}
	if (b->ndirty == data_blk_pages(fs) && !b->ios)
		data_wave_start(fs, b);
	return 0;
}

ssize_t fs_data_write(struct fs *fs, struct fs_inode *ip, const void *buf, size_t len, uint64_t off, bool whole)
{
	uint64_t end = off + len, full = len;
	struct data_file *df;
	size_t done = 0;
	bool inl;
	int rc = 0;

	if (!len)
		return 0;
	if (off > FS_MAX_SIZE || len > FS_MAX_SIZE - off)
		return -EFBIG;
	df = data_use(fs, ip);
	if (!df)
		return -ENOMEM;
	inl = data_stays_inline(fs, df, end);
	if (!inl)
		rc = reserve_range(fs, df, off, &end, whole);
	len = (size_t)(end - off);
	if (!rc && off > ip->size && ip->gap_clean != ip->size)
		rc = data_gap(fs, df, ip->size, off);
	while (!rc && done < len) {
		uint64_t at = (off + done) % fs->block_size;
		struct data_blk *b = data_blk_get(fs, df, (off + done) / fs->block_size);

		if (!b) {
			rc = -ENOMEM;
			break;
		}
		rc = write_block(fs, b, (const uint8_t *)buf + done, at, TS_MIN(len - done, fs->block_size - at), inl, &done);
		data_blk_put(fs, b);
	}
	if (rc) {
		release_unused(fs, df, off, off + full);
		if (!inl)
			release_unused(fs, df, 0, 1);
	}
	data_unuse(fs, df);
	return done && !(rc && whole) ? (ssize_t)done : rc;
}

/* ---- read --------------------------------------------------------------------------------------------------------- */

struct reader {
	struct data_file *df;
	struct fs_file *f;
	uint64_t off, end; /* of the whole call */
	bool ahead;	   /* prefetch was looked at */
};

static void read_missed(struct fs *fs, struct reader *r, uint64_t pos)
{
	fs->stats.page_misses++;
	data_prefetch(fs, r->df, pos, r->end);
	if (r->f && !r->ahead)
		data_read_ahead(fs, r->df, r->f, r->off, (size_t)(r->end - r->off));
	r->ahead = true;
}

/* Copies from one chunk what is valid or known to be zero, at least one page's part; may wait for the first page. */
static int read_piece(struct fs *fs, struct reader *r, struct data_blk *b, uint8_t *dst, uint64_t off, size_t n, size_t *got)
{
	unsigned page = (unsigned)(off / DATA_PAGE);
	struct data_chunk *c = b->chunk[page / DATA_CHUNK_PAGES];
	size_t k = TS_MIN(n, DATA_PAGE - off % DATA_PAGE);
	bool pin = false;
	int rc;

	if (!c || !(c->valid & data_bit(page))) {
		if (!(c && (c->reading & data_bit(page))) && data_page_source(fs, b, page) == SRC_ZERO) {
			memset(dst, 0, k);
			*got = k;
			return 0;
		}
		if (!(c && (c->reading & data_bit(page))))
			read_missed(fs, r, data_blk_off(fs, b) + off);
		rc = data_page_fill(fs, b, page, &c);
		if (rc)
			return rc;
		pin = true;
	}
	while (k < n && (c->valid & data_bit((unsigned)((off + k) / DATA_PAGE))))
		k = TS_MIN(n, k + DATA_PAGE);
	memcpy(dst, c->mem + off % DATA_CHUNK, k);
	if (pin)
		data_chunk_unpin(fs, c);
	else if (!ts_list_empty(&c->link))
		data_chunk_settle(fs, c);
	*got = k;
	return 0;
}

ssize_t fs_data_read(struct fs *fs, struct fs_inode *ip, struct fs_file *f, void *buf, size_t len, uint64_t off, bool whole)
{
	struct reader r = {.f = f, .off = off};
	size_t done = 0;
	int rc = 0;

	if (off >= ip->size || !len)
		return 0;
	len = TS_MIN(len, ip->size - off);
	r.end = off + len;
	r.df = data_use(fs, ip);
	if (!r.df)
		return -ENOMEM;
	while (!rc && done < len) {
		uint64_t at = (off + done) % fs->block_size;
		struct data_blk *b = data_blk_get(fs, r.df, (off + done) / fs->block_size);
		size_t n = TS_MIN(len - done, fs->block_size - at);

		rc = b ? data_blk_known(fs, b) : -ENOMEM;
		while (!rc && n) {
			size_t got = 0;

			rc = read_piece(fs, &r, b, (uint8_t *)buf + done, at, TS_MIN(n, DATA_CHUNK - at % DATA_CHUNK), &got);
			done += got;
			at += got;
			n -= got;
			fs->stats.page_hits++;
		}
		if (b)
			data_blk_put(fs, b);
	}
	if (!rc && f && !r.ahead)
		data_read_ahead(fs, r.df, f, off, len);
	data_unuse(fs, r.df);
	return done && !(rc && whole) ? (ssize_t)done : rc;
}
