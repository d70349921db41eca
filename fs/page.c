/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the page pool: 64 KiB chunks of one arena, their blocks and files, free list and LRU, the slots for requests.
 *
 * What must never happen: a chunk with dirty pages, with I/O in flight or in a block that waits for its transaction is
 * reused (D2); the pool grows beyond its size; an allocation that may fail on the way of writing back. */
#include "fs/data_int.h"

/* ---- files ------------------------------------------------------------------------------------------------------- */

struct data_file *data_use(struct fs *fs, struct fs_inode *ip)
{
	struct data_file *df = ip->data;

	if (!df) {
		df = ts_alloc(sizeof(*df));
		if (!df)
			return NULL;
		TS_ASSERT(ip->refs);
		ip->refs++;
		ip->data = df;
		df->ip = ip;
		ts_list_init(&df->blks);
		ts_list_init(&df->active);
		ts_list_init(&df->dirty_link);
		ts_mutex_init(&df->map_lock);
		ts_cond_init(&df->cond);
	}
	df->users++;
	return df;
}

static void file_try_free(struct fs *fs, struct data_file *df)
{
	struct fs_inode *ip = df->ip;

	if (df->users || !ts_list_empty(&df->blks))
		return;
	TS_ASSERT(!df->npend && !df->taken && !df->meta_reserved && !df->map_lock.owner);
	ip->data = NULL;
	ts_free(df);
	fs_inode_put(fs, ip);
}

void data_unuse(struct fs *fs, struct data_file *df)
{
	TS_ASSERT(df->users);
	df->users--;
	file_try_free(fs, df);
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

static uint64_t blk_hash(const struct data_file *df, uint64_t idx)
{
	return ts_hash_2((uintptr_t)df, idx);
}

struct data_blk *data_blk_find(struct fs *fs, struct data_file *df, uint64_t idx)
{
	if (df->last && df->last->idx == idx)
		return df->last;
	for (struct ts_map_node *n = ts_map_first(&fs->datas->blks, blk_hash(df, idx)); n; n = ts_map_next(n)) {
		struct data_blk *b = TS_CONTAINER(n, struct data_blk, node);

		if (b->df == df && b->idx == idx) {
			df->last = b;
			return b;
		}
	}
	return NULL;
}

struct data_blk *data_blk_get(struct fs *fs, struct data_file *df, uint64_t idx)
{
	struct data_blk *b = data_blk_find(fs, df, idx);

	if (!b) {
		b = ts_alloc(sizeof(*b) + data_blk_chunks(fs) * sizeof(b->chunk[0]));
		if (!b)
			return NULL;
		b->df = df;
		b->idx = idx;
		ts_list_init(&b->active);
		if (ts_map_insert(&fs->datas->blks, &b->node, blk_hash(df, idx))) {
			ts_free(b);
			return NULL;
		}
		ts_list_push_back(&df->blks, &b->link);
		df->last = b;
	}
	b->pins++;
	return b;
}

static bool blk_try_free(struct fs *fs, struct data_blk *b)
{
	if (b->pins || b->nchunks || b->next != NEXT_NONE || b->ready || b->ios)
		return false;
	TS_ASSERT(!b->ndirty && ts_list_empty(&b->active));
	ts_map_remove(&fs->datas->blks, &b->node);
	ts_list_del(&b->link);
	if (b->df->last == b)
		b->df->last = NULL;
	ts_free(b);
	return true;
}

void data_blk_put(struct fs *fs, struct data_blk *b)
{
	struct data_file *df = b->df;

	TS_ASSERT(b->pins);
	b->pins--;
	if (blk_try_free(fs, b))
		file_try_free(fs, df);
}

int data_blk_known(struct fs *fs, struct data_blk *b)
{
	struct data_file *df = b->df;

	while (!b->known) {
		struct fs_bmap m;
		uint64_t seq;
		int rc;

		if (!df->ip->buf)
			return -EIO;
		seq = df->map_seq;
		rc = fs_map_lookup(fs, df, b->idx, &m);
		if (rc)
			return rc;
		if (b->known || seq != df->map_seq)
			continue;
		b->map = m;
		b->known = true;
	}
	return 0;
}

/* Dirty, being written or ready: somebody has to look after it. */
void data_blk_active(struct fs *fs, struct data_blk *b)
{
	struct data_file *df = b->df;
	bool want = b->ndirty || b->ios || b->ready || b->io_rc;

	if (!want)
		share_unmark(fs, b);
	if (want == !ts_list_empty(&b->active))
		return;
	if (want) {
		if (ts_list_empty(&df->active)) {
			TS_ASSERT(ts_list_empty(&df->dirty_link));
			ts_list_push_back(&fs->datas->dirty_files, &df->dirty_link);
			data_kick(fs);
		}
		ts_list_push_back(&df->active, &b->active);
	} else {
		ts_list_del(&b->active);
		if (ts_list_empty(&df->active))
			ts_list_del(&df->dirty_link);
	}
}

/* ---- chunks ------------------------------------------------------------------------------------------------------ */

static bool chunk_idle(const struct data_chunk *c)
{
	return !c->pins && !c->dirty && !c->reading && !c->writing && c->blk && c->blk->next == NEXT_NONE && !c->blk->ready && !c->blk->first;
}

static void chunk_free(struct fs_datastate *ds, struct data_chunk *c)
{
	ts_list_del(&c->link);
	c->valid = 0;
	ts_list_push_front(&ds->free, &c->link);
	ds->nfree++;
	ts_cond_signal(&ds->room);
}

void data_chunk_settle(struct fs *fs, struct data_chunk *c)
{
	struct fs_datastate *ds = fs->datas;

	if (!c->blk) { /* cut loose: free once nobody uses it */
		if (!c->pins && !c->reading && !c->writing)
			chunk_free(ds, c);
		return;
	}
	if (chunk_idle(c)) {
		bool was = !ts_list_empty(&c->link);

		ts_list_del(&c->link);
		ts_list_push_back(&ds->lru, &c->link);
		if (!was)
			ts_cond_signal(&ds->room);
	} else {
		ts_list_del(&c->link);
	}
}

void data_blk_settle(struct fs *fs, struct data_blk *b)
{
	for (uint32_t i = 0; i < data_blk_chunks(fs); i++) {
		if (b->chunk[i])
			data_chunk_settle(fs, b->chunk[i]);
	}
}

void data_pages_clean(struct fs *fs, struct data_chunk *c, uint16_t bits)
{
	unsigned n = (unsigned)__builtin_popcount(c->dirty & bits);

	c->dirty &= (uint16_t)~bits;
	TS_ASSERT(c->blk && c->blk->ndirty >= n && fs->datas->ndirty >= n);
	c->blk->ndirty -= n;
	fs->datas->ndirty -= n;
}

void data_pages_dirty(struct fs *fs, struct data_chunk *c, uint16_t bits)
{
	struct data_blk *b = c->blk;
	unsigned n = (unsigned)__builtin_popcount(bits & ~c->dirty);

	TS_ASSERT(!(bits & (c->reading | c->writing)));
	c->valid |= bits;
	if (!n)
		return;
	if (!b->ndirty) {
		b->seq = ++fs->datas->seq;
		if (!b->ready) /* else it waits for its transaction since then */
			b->dirtied_ns = ts_exec_now(fs->exec);
	}
	c->dirty |= bits;
	b->ndirty += n;
	fs->datas->ndirty += n;
	data_blk_active(fs, b);
	ts_list_del(&c->link);
}

void data_chunk_cut(struct fs *fs, struct data_chunk *c)
{
	struct data_blk *b = c->blk;

	TS_ASSERT(!c->writing);
	data_pages_clean(fs, c, c->dirty);
	b->chunk[c->index] = NULL;
	b->nchunks--;
	c->blk = NULL;
	data_blk_active(fs, b);
	data_chunk_settle(fs, c);
	ts_cond_broadcast(&c->cond);
}

static bool evict_one(struct fs *fs)
{
	struct fs_datastate *ds = fs->datas;
	struct data_chunk *c;
	struct data_blk *b;
	struct data_file *df;

	if (ts_list_empty(&ds->lru))
		return false;
	c = ts_list_entry(ds->lru.next, struct data_chunk, link);
	b = c->blk;
	df = b->df;
	data_chunk_cut(fs, c);
	if (blk_try_free(fs, b))
		file_try_free(fs, df);
	return true;
}

struct data_chunk *data_chunk_get(struct fs *fs, struct data_blk *b, unsigned page, bool wait)
{
	struct fs_datastate *ds = fs->datas;
	unsigned ci = page / DATA_CHUNK_PAGES;
	struct data_chunk *c;

	TS_ASSERT(b->pins && ci < data_blk_chunks(fs));
	for (;;) {
		if (b->chunk[ci])
			return b->chunk[ci];
		if (!ts_list_empty(&ds->free) || evict_one(fs))
			break;
		if (!wait)
			return NULL;
		ds->starved = true;
		data_kick(fs);
		ts_cond_wait(&ds->room, "room in the page pool, inode", b->df->ip->ino, b->idx);
	}
	c = ts_list_entry(ts_list_pop_front(&ds->free), struct data_chunk, link);
	ds->nfree--;
	TS_ASSERT(!c->blk && !c->dirty && !c->reading && !c->writing && !c->pins && !c->valid);
	c->blk = b;
	c->index = ci;
	b->chunk[ci] = c;
	b->nchunks++;
	data_chunk_settle(fs, c);
	return c;
}

void data_throttle(struct fs *fs)
{
	struct fs_datastate *ds = fs->datas;

	while (ds->ndirty >= ds->dirty_limit) {
		data_kick(fs);
		ts_cond_wait(&ds->room, "dirty pages to be written", ds->ndirty, ds->dirty_limit);
	}
}

/* ---- request slots ----------------------------------------------------------------------------------------------- */

struct data_io *data_io_get(struct fs *fs, bool wait)
{
	struct fs_datastate *ds = fs->datas;
	struct data_io *io;

	while (ts_list_empty(&ds->io_free)) {
		if (!wait)
			return NULL;
		ts_cond_wait(&ds->io_room, "a slot for a data request", DATA_IOS, 0);
	}
	io = ts_list_entry(ts_list_pop_front(&ds->io_free), struct data_io, link);
	ds->io_nfree--;
	io->fs = fs;
	io->blk = NULL;
	io->niov = 0;
	io->npages = 0;
	io->ndirty = 0;
	memset(io->chunk, 0, sizeof(io->chunk));
	return io;
}

void data_io_put(struct fs *fs, struct data_io *io)
{
	struct fs_datastate *ds = fs->datas;

	ts_list_push_front(&ds->io_free, &io->link);
	ds->io_nfree++;
	ts_cond_signal(&ds->io_room);
}

/* ---- the pool ---------------------------------------------------------------------------------------------------- */

#define POOL_MIN_BLOCKS 8u

static int pool_alloc(struct fs_datastate *ds)
{
	ds->arena = ts_alloc_aligned(DATA_PAGE, ds->nchunks * DATA_CHUNK);
	ds->zeros = ts_alloc_aligned(DATA_PAGE, DATA_CHUNK);
	ds->chunks = ts_alloc(ds->nchunks * sizeof(*ds->chunks));
	ds->ios = ts_alloc(DATA_IOS * sizeof(*ds->ios));
	if (!ds->arena || !ds->zeros || !ds->chunks || !ds->ios)
		return -ENOMEM;
	memset(ds->zeros, 0, DATA_CHUNK);
	for (size_t i = 0; i < ds->nchunks; i++) {
		ds->chunks[i].mem = ds->arena + i * DATA_CHUNK;
		ts_cond_init(&ds->chunks[i].cond);
		ts_list_push_back(&ds->free, &ds->chunks[i].link);
	}
	for (size_t i = 0; i < DATA_IOS; i++)
		ts_list_push_back(&ds->io_free, &ds->ios[i].link);
	ds->nfree = ds->nchunks;
	ds->io_nfree = DATA_IOS;
	return 0;
}

static void pool_free(struct fs *fs)
{
	struct fs_datastate *ds = fs->datas;

	ts_map_fini(&ds->blks);
	ts_free(ds->stock);
	ts_free(ds->ios);
	ts_free(ds->chunks);
	ts_free(ds->zeros);
	ts_free(ds->arena);
	ts_free(ds);
	fs->datas = NULL;
}

int fs_data_init(struct fs *fs, size_t pool_bytes)
{
	struct fs_datastate *ds = ts_alloc(sizeof(*ds));
	int rc;

	if (!ds)
		return -ENOMEM;
	fs->datas = ds;
	ts_list_init(&ds->free);
	ts_list_init(&ds->lru);
	ts_list_init(&ds->dirty_files);
	ts_list_init(&ds->io_free);
	ts_cond_init(&ds->room);
	ts_cond_init(&ds->io_room);
	ts_cond_init(&ds->kick);
	ts_cond_init(&ds->share_kick);
	ts_cond_init(&ds->share_room);
	ts_mutex_init(&ds->grow_lock);
	ts_map_init(&ds->blks);
	ts_done_init(&ds->ended);
	pool_bytes = pool_bytes ? pool_bytes : (size_t)256 << 20;
	pool_bytes = TS_MAX(pool_bytes, (size_t)fs->block_size * POOL_MIN_BLOCKS);
	ds->nchunks = pool_bytes / DATA_CHUNK;
	ds->dirty_limit = ds->nchunks * DATA_CHUNK_PAGES / 2;
	ds->shared_limit = TS_MAX(ds->nchunks / 4 / data_blk_chunks(fs), (size_t)2);
	rc = pool_alloc(ds);
	if (!rc)
		rc = data_flusher_start(fs);
	if (rc)
		pool_free(fs);
	return rc;
}

static int file_forget(struct ts_map_node *n, void *arg)
{
	struct fs *fs = arg;
	struct data_blk *b = TS_CONTAINER(n, struct data_blk, node);
	struct data_file *df = b->df;

	ts_map_remove(&fs->datas->blks, n);
	ts_list_del(&b->link);
	ts_list_del(&b->active);
	ts_free(b);
	if (ts_list_empty(&df->blks)) {
		if (ts_fiber_self()) { /* else the inodes may be gone before us */
			df->ip->data = NULL;
			df->ip->refs--;
		}
		ts_free(df);
	}
	return 0;
}

/* After fs_kill the flusher is gone with its executor; what was cached is only memory. */
void fs_data_fini(struct fs *fs)
{
	struct fs_datastate *ds = fs->datas;

	if (!ds)
		return;
	ds->stop = true;
	if (ts_fiber_self() && ds->running) {
		data_kick(fs);
		(void)ts_done_wait(&ds->ended, "write-behind fiber to end", 0, 0);
		while (ds->io_nfree < DATA_IOS)
			ts_cond_wait(&ds->io_room, "data requests in flight", ds->io_nfree, DATA_IOS);
	}
	(void)ts_map_each(&ds->blks, file_forget, fs);
	pool_free(fs);
}
