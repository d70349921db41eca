/* SPDX-License-Identifier: Apache-2.0 */
/* Job: transactions of file data: pointers of blocks whose first write completed, small files into their inode, the change from
 * inline to a map. Up to DATA_BATCH blocks of one leaf a transaction, size and times with them.
 *
 * INODE EX is held all the time: looked at under map_lock, which a revoke waits for before the token leaves.
 *
 * What must never happen: inline bytes vanish from the inode before block 0, which has them now, is mapped in the same
 * transaction; a wait between gathering what is ready and the commit; a wait for space. */
#include "fs/data_int.h"

#define MAP_BYTES (FS_INODE_PTRS * sizeof(struct fs_bptr_disk))
#define BATCH_LOG ((DATA_BATCH + MAP_MAX_HEIGHT + 2) * 4400u) /* images of bitmaps, path and inode */

static struct data_blk *first_ready(struct data_file *df)
{
	ts_list_for(n, &df->active) {
		struct data_blk *b = ts_list_entry(n, struct data_blk, active);

		if (b->ready)
			return b;
	}
	return NULL;
}

static bool inline_bytes(struct data_file *df)
{
	struct fs_inode_disk *d = fs_idisk(df->ip);

	return d->payload_type == FS_PL_INLINE && le16_get(d->inline_len);
}

/* The inode's buffer is in the transaction. */
static void become_tree(struct data_file *df)
{
	struct fs_inode_disk *d = fs_idisk(df->ip);

	memset(d->payload, 0, MAP_BYTES);
	d->payload_type = FS_PL_MAP;
	d->inline_len = le16_make(0);
	d->map_height = 0;
	df->map_seq++;
}

static void commit_one(struct fs *fs, struct fs_tx *tx, struct map_insert *in, struct data_blk *b)
{
	struct fs_bmap m = b->map;

	if (b->next == NEXT_FRESH) {
		fs_alloc_commit(fs, tx, &b->ext);
		if (b->map.addr)
			fs_alloc_free(fs, tx, b->map.addr, b->map.subs, b->map.birth);
		m = (struct fs_bmap){.addr = b->ext.addr, .subs = b->ext.subs, .birth = fs_version_next(fs), .unwritten = b->unwritten};
	} else if (b->next == NEXT_EXTEND) {
		fs_alloc_commit(fs, tx, &b->ext);
		m.subs += b->ext.subs;
	} else {
		m.unwritten = false;
	}
	fs_map_insert_set(fs, tx, b->df, in, b->idx, &m);
	if (b->next == NEXT_FRESH && !b->map.addr)
		fs_map_unpend(fs, b);
	data_blk_plan(b, NEXT_NONE, &b->ext);
	b->map = m;
	b->known = true;
	b->ready = b->unwritten = b->kept = false;
}

/* Blocks of one leaf. The root itself is the leaf of a map without levels, and it has fewer places than a block of pointers: what
 * is beyond it waits until the map has grown. */
static unsigned gather(struct data_file *df, uint64_t leaf, struct data_blk **v)
{
	bool flat = !fs_map_is_tree(df->ip) || fs_idisk(df->ip)->map_height == 0;
	unsigned n = 0;

	ts_list_for(l, &df->active) {
		struct data_blk *b = ts_list_entry(l, struct data_blk, active);

		if (!b->ready || b->idx / MAP_FAN != leaf || (flat && b->idx >= FS_INODE_PTRS))
			continue;
		if (!b->idx && n) { /* never left out: the inline bytes hang on it */
			v[n == DATA_BATCH ? n - 1 : n] = v[0];
			n += n < DATA_BATCH;
			v[0] = b;
		} else if (n < DATA_BATCH) {
			v[n++] = b;
		}
	}
	return n;
}

static void batch_tx(struct fs *fs, struct data_file *df, struct map_insert *in, struct data_blk **v, unsigned n)
{
	struct fs_tx tx;

	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, df->ip->buf);
	if (!fs_map_is_tree(df->ip))
		become_tree(df);
	fs_map_insert_link(fs, &tx, df, in, v[0]->idx);
	for (unsigned i = 0; i < n; i++)
		commit_one(fs, &tx, in, v[i]);
	fs_inode_update_tx(fs, &tx, df->ip);
	(void)fs_tx_commit(&tx);
	for (unsigned i = 0; i < n; i++) {
		data_blk_active(fs, v[i]);
		data_blk_settle(fs, v[i]);
	}
}

/* An empty map, in a transaction of its own: what will be inserted first lies far behind. */
static int plant_tree(struct fs *fs, struct data_file *df)
{
	struct fs_tx tx;
	int rc = fs_log_reserve(fs, 0);

	if (rc || fs_map_is_tree(df->ip))
		return rc;
	if (!df->ip->buf || inline_bytes(df) || fs_map_room(df->ip) < MAP_BYTES)
		return -EIO;
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, df->ip->buf);
	become_tree(df);
	(void)fs_tx_commit(&tx);
	return 0;
}

static int commit_batch(struct fs *fs, struct data_file *df, uint64_t idx)
{
	struct data_blk *v[DATA_BATCH];
	struct map_insert in;
	unsigned n;
	int rc = 0;

	if (!fs_map_is_tree(df->ip) && fs_map_room(df->ip) < MAP_BYTES)
		rc = fs_xattr_make_room(fs, df->ip, MAP_BYTES);
	if (!rc && !fs_map_is_tree(df->ip) && fs_map_height_for(idx))
		rc = plant_tree(fs, df);
	if (!rc)
		rc = fs_map_insert_prepare(fs, df, idx, &in);
	if (rc)
		return rc;
	rc = fs_log_reserve(fs, BATCH_LOG);
	if (!rc && !df->ip->buf)
		rc = -EIO;
	if (!rc && !fs_map_is_tree(df->ip) && fs_map_room(df->ip) < MAP_BYTES)
		rc = -TS_ERR_RETRY; /* an xattr came in between */
	n = rc ? 0 : gather(df, idx / MAP_FAN, v);
	if (n)
		batch_tx(fs, df, &in, v, n);
	fs_map_insert_done(fs, df, &in);
	return rc == -TS_ERR_RETRY ? 0 : rc;
}

/* The file leaves its inode: block 0 with the inline bytes goes first. map_lock is dropped meanwhile. 0: look again. */
static int bring_block0(struct fs *fs, struct data_file *df)
{
	struct data_blk *b = data_blk_find(fs, df, 0);
	int rc = 0;

	if (!b || (!b->ndirty && !b->ios) || b->next == NEXT_NONE)
		return -EIO;
	b->pins++;
	ts_mutex_unlock(&df->map_lock);
	data_wave_start(fs, b);
	while (b->ios)
		ts_cond_wait(&df->cond, "block 0 to be written, inode", df->ip->ino, 0);
	if (b->io_rc)
		rc = -EIO;
	ts_mutex_lock(&df->map_lock, "block map, to commit");
	data_blk_put(fs, b);
	return rc;
}

static int commit_ready(struct fs *fs, struct data_file *df)
{
	struct data_blk *b;
	int rc = 0;

	while (!rc && (b = first_ready(df))) {
		if (!df->ip->buf)
			return -EIO;
		if (!fs_map_is_tree(df->ip) && inline_bytes(df)) {
			struct data_blk *b0 = data_blk_find(fs, df, 0);

			if (!b0 || !b0->ready) {
				rc = bring_block0(fs, df);
				continue;
			}
			b = b0;
		}
		rc = commit_batch(fs, df, b->idx);
	}
	return rc;
}

/* ---- inline ---------------------------------------------------------------------------------------------------------- */

/* Bytes to keep: up to the size, or up to the last byte that is not zero in a larger, sparse file. */
static size_t inline_length(struct data_file *df, const uint8_t *mem)
{
	size_t n = TS_MIN(df->ip->size, DATA_PAGE);

	if (n < df->ip->size || n > fs_map_room(df->ip)) {
		while (n && !mem[n - 1])
			n--;
	}
	return n;
}

static void inline_tx(struct fs *fs, struct data_file *df, struct data_chunk *c, size_t n)
{
	struct fs_inode_disk *d = fs_idisk(df->ip);
	size_t old = d->payload_type == FS_PL_INLINE ? TS_MIN(le16_get(d->inline_len), fs_map_room(df->ip)) : 0;
	struct fs_tx tx;

	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, df->ip->buf);
	memcpy(d->payload, c->mem, n);
	if (old > n)
		memset(d->payload + n, 0, old - n);
	d->payload_type = n ? FS_PL_INLINE : FS_PL_NONE;
	d->inline_len = le16_make((uint16_t)n);
	fs_inode_update_tx(fs, &tx, df->ip);
	(void)fs_tx_commit(&tx);
	data_pages_clean(fs, c, 1);
	data_blk_active(fs, c->blk);
	data_chunk_settle(fs, c);
	ts_cond_broadcast(&fs->datas->room);
}

/* map_lock held. -EAGAIN: xattrs have taken the room; the page has got space and goes the other way. */
static int commit_inline(struct fs *fs, struct data_file *df)
{
	struct data_blk *b = data_blk_find(fs, df, 0);
	struct data_chunk *c;
	size_t n;
	int rc;

	if (!b || !data_is_inline(b))
		return 0;
	rc = fs_log_reserve(fs, 0);
	b = data_blk_find(fs, df, 0);
	if (rc || !b || !data_is_inline(b))
		return rc;
	c = b->chunk[0];
	TS_ASSERT(c && c->dirty == 1 && b->ndirty == 1 && !b->ios);
	n = inline_length(df, c->mem);
	if (n <= fs_map_room(df->ip)) {
		inline_tx(fs, df, c, n);
		return 0;
	}
	b->pins++;
	rc = data_blk_reserve(fs, b, 1);
	data_blk_put(fs, b);
	return rc ? rc : -EAGAIN;
}

static void lose_ready(struct fs *fs, struct data_file *df, bool inl)
{
	bool again = true;

	while (again) {
		again = false;
		ts_list_for(n, &df->active) {
			struct data_blk *b = ts_list_entry(n, struct data_blk, active);

			if (b->ios || (!b->ready && !(inl && data_is_inline(b))))
				continue;
			b->pins++;
			data_blk_lose(fs, b);
			data_blk_put(fs, b);
			again = true;
			break;
		}
	}
}

static int commit_once(struct fs *fs, struct data_file *df, bool with_inline, bool last)
{
	int rc = 0;

	ts_mutex_lock(&df->map_lock, "block map, to commit");
	if (data_has_work(df, UINT64_MAX) && (!df->ip->buf || !data_ex_held(fs, df->ip))) {
		ts_mutex_unlock(&df->map_lock);
		return -FS_NEED_EX;
	}
	rc = commit_ready(fs, df);
	if (!rc && with_inline)
		rc = commit_inline(fs, df);
	if (rc == -EAGAIN) {
		rc = bring_block0(fs, df);
		if (!rc)
			rc = commit_ready(fs, df);
	}
	if (rc && rc != -FS_NEED_META && (rc != -ENOMEM || last)) {
		ts_err("inode %llu: block map cannot be written (%d)", (unsigned long long)df->ip->ino, rc);
		lose_ready(fs, df, with_inline);
	}
	ts_mutex_unlock(&df->map_lock);
	ts_cond_broadcast(&df->cond);
	return rc;
}

/* What was accepted is not lost because memory is short for a while: others give some back without any token of ours. */
static int commit_held(struct fs *fs, struct data_file *df, bool with_inline)
{
	unsigned tries = 0;
	int rc;

	do
		rc = commit_once(fs, df, with_inline, tries == FS_MEMORY_TRIES);
	while (fs_memory_wait(fs, rc, &tries));
	return rc;
}

/* Other nodes may have made the tree higher than was known when blocks were pended: then a pin can be dropped, and more taken. */
#define COMMIT_REFILLS 16
static int commit_pinned(struct fs *fs, struct data_file *df, bool with_inline)
{
	int rc;

	for (unsigned i = 0;; i++) {
		struct tok_pin pin;

		rc = share_pin_ex(fs, df->ip, &pin);
		if (rc)
			return rc;
		rc = commit_held(fs, df, with_inline);
		tok_unpin(fs->tok, &pin);
		if (rc != -FS_NEED_META || i == COMMIT_REFILLS)
			return rc;
		rc = fs_alloc_refill(fs, FS_NEED_META);
		if (rc)
			return rc;
	}
}

int data_commit(struct fs *fs, struct data_file *df, bool with_inline, bool may_pin)
{
	unsigned tries = 0;
	int rc;

	df->users++;
	rc = commit_held(fs, df, with_inline);
	if (may_pin && !data_sharing(df->ip) &&
	    (rc == -FS_NEED_EX || (rc == -FS_NEED_META && !tok_revoke_pending(fs->tok, TOK_INODE, df->ip->ino))))
		do
			rc = commit_pinned(fs, df, with_inline);
		while (fs_memory_wait(fs, rc, &tries));
	if (may_pin && rc && rc != -FS_NEED_EX && fs->run != FS_RUN_STOPPED) {
		ts_mutex_lock(&df->map_lock, "block map, to give up");
		lose_ready(fs, df, with_inline);
		ts_mutex_unlock(&df->map_lock);
	}
	data_unuse(fs, df);
	return rc;
}
