/* SPDX-License-Identifier: Apache-2.0 */
/* Job: dirty pages go to disk in waves, one wave of a block at a time; after the first wave of a block with new space its
 * pointer is inserted (data_commit.c). One fiber looks after what nobody waits for: blocks that are old, or all under pressure.
 *
 * What must never happen: a pointer committed before its data write completed (law 3: the log's force flushes the disks); part
 * of a fresh block left as the disk had it (D4); an error of write-behind that nobody hears of (H33); a wait for tokens,
 * regions or pool memory. */
#include "fs/data_int.h"

#define FLUSH_AGE_NS (3 * TS_NS_PER_S)
#define FLUSH_TICK_NS TS_NS_PER_S

void data_kick(struct fs *fs)
{
	fs->datas->kicked = true;
	ts_cond_signal(&fs->datas->kick);
}

void data_error(struct fs *fs, struct data_file *df, int rc)
{
	struct fs_inode *ip = df->ip;

	ip->wb_error = rc == -ENOSPC || fs_needs_space(rc) || rc == -FS_NEED_META ? -ENOSPC : -EIO;
	ip->wb_error_seq++;
	ts_err("inode %llu: written data is lost (%s); fsync and close of it will tell", (unsigned long long)ip->ino,
	       ip->wb_error == -ENOSPC ? "no space" : "I/O error");
}

bool data_is_inline(const struct data_blk *b)
{
	return b->ndirty && !b->idx && b->next == NEXT_NONE && !b->ready && b->df->ip->buf && !fs_map_is_tree(b->df->ip);
}

void data_blk_lose(struct fs *fs, struct data_blk *b)
{
	int rc = b->io_rc ? b->io_rc : -EIO;

	TS_ASSERT(!b->ios && b->pins);
	for (uint32_t i = 0; i < data_blk_chunks(fs); i++) {
		if (b->chunk[i])
			data_chunk_cut(fs, b->chunk[i]);
	}
	b->ready = false;
	data_blk_release(fs, b);
	b->io_rc = 0;
	data_blk_active(fs, b);
	data_error(fs, b->df, rc);
	ts_cond_broadcast(&b->df->cond);
	ts_cond_broadcast(&fs->datas->room);
}

/* ---- a wave ------------------------------------------------------------------------------------------------------- */

static void wave_part_done(struct fs *fs, struct data_blk *b, int rc)
{
	if (rc && !b->io_rc)
		b->io_rc = rc;
	if (--b->ios)
		return;
	if (b->first && !b->io_rc)
		b->ready = true;
	b->first = false;
	b->df->flush_due = true;
	data_blk_active(fs, b);
	data_blk_settle(fs, b);
	if (b->ready || b->io_rc)
		data_kick(fs);
	ts_cond_broadcast(&b->df->cond);
}

static void write_done(struct nsd_req *r, int rc)
{
	struct data_io *io = r->arg;
	struct fs *fs = io->fs;
	struct data_blk *b = io->blk;
	unsigned first = io->page / DATA_CHUNK_PAGES;

	for (unsigned p = io->page; p < io->page + io->npages; p++) {
		struct data_chunk *c = io->chunk[p / DATA_CHUNK_PAGES - first];

		if (c)
			c->writing &= (uint16_t)~data_bit(p);
	}
	for (unsigned i = 0; i < TS_ARRAY_LEN(io->chunk); i++) {
		struct data_chunk *c = io->chunk[i];

		if (c) {
			data_chunk_settle(fs, c);
			ts_cond_broadcast(&c->cond);
		}
	}
	TS_ASSERT(fs->datas->ndirty >= io->ndirty);
	fs->datas->ndirty -= io->ndirty;
	ts_cond_broadcast(&fs->datas->room);
	data_io_put(fs, io);
	wave_part_done(fs, b, rc);
}

struct wave {
	struct data_blk *b;
	fs_addr base;	    /* of page 0 */
	unsigned zero_from, zero_to; /* pages that must be written, zeros if not in memory */
	unsigned end;
	struct data_io *io;
};

static void wave_send(struct fs *fs, struct wave *w)
{
	struct data_io *io = w->io;

	w->io = NULL;
	if (!io)
		return;
	if (!io->npages) {
		data_io_put(fs, io);
		return;
	}
	io->blk = w->b;
	w->b->ios++;
	fs->stats.data_write_bytes += (uint64_t)io->npages * DATA_PAGE;
	fs_io_submit(fs, &io->req, NSD_WRITE, w->base + io->page, io->iov, (int)io->niov, write_done, io);
}

static void wave_iov(struct data_io *io, const uint8_t *mem, bool zeros)
{
	struct iovec *v = io->niov ? &io->iov[io->niov - 1] : NULL;

	if (v && zeros && v->iov_base == (void *)(uintptr_t)mem && v->iov_len < DATA_CHUNK)
		v->iov_len += DATA_PAGE;
	else if (v && !zeros && (uint8_t *)v->iov_base + v->iov_len == mem)
		v->iov_len += DATA_PAGE;
	else
		io->iov[io->niov++] = (struct iovec){.iov_base = (void *)(uintptr_t)mem, .iov_len = DATA_PAGE};
}

static void wave_page(struct fs *fs, struct wave *w, struct data_chunk *c, unsigned p)
{
	struct data_io *io = w->io;

	if (!io->npages)
		io->page = p;
	io->npages++;
	if (!c) {
		wave_iov(io, fs->datas->zeros, true);
		return;
	}
	if (c->dirty & data_bit(p)) {
		c->dirty &= (uint16_t)~data_bit(p);
		w->b->ndirty--;
		io->ndirty++;
	}
	c->writing |= data_bit(p);
	ts_list_del(&c->link);
	io->chunk[p / DATA_CHUNK_PAGES - io->page / DATA_CHUNK_PAGES] = c;
	wave_iov(io, data_page(c, p), false);
}

static bool wave_io_full(const struct data_io *io, unsigned p)
{
	return io->npages && (p != io->page + io->npages || io->npages == DATA_IO_BYTES / DATA_PAGE || io->niov == DATA_IO_IOVS);
}

/* A first write takes no more than it needs; a smaller extent is there, for it could come from the larger one. */
static void wave_trim(struct fs *fs, struct data_blk *b)
{
	struct fs_layout_want w = {.pool = fs_disk_pool(fs, FS_ADDR_DISK(b->ext.addr)), .file = b->df->ip->ino, .block = b->idx};
	unsigned need = 0;
	struct fs_ext e;

	if (b->map.addr || b->kept || b->pins > 1)
		return;
	for (unsigned i = 0; i < data_blk_chunks(fs); i++) {
		unsigned valid = b->chunk[i] ? b->chunk[i]->valid : 0;

		if (valid)
			need = i * DATA_CHUNK_PAGES + 32 - (unsigned)__builtin_clz(valid);
	}
	if (!need || need >= b->ext.subs || fs_alloc_take_data(fs, &w, need, b->ext.addr, &e))
		return;
	fs_alloc_untake(fs, &b->ext);
	data_blk_plan(b, b->next, &e);
}

static void wave_plan(struct fs *fs, struct data_blk *b, struct wave *w)
{
	memset(w, 0, sizeof(*w));
	w->b = b;
	w->base = b->map.addr;
	w->end = b->map.subs;
	if (b->next == NEXT_FRESH) {
		if (!b->ready)
			wave_trim(fs, b);
		w->base = b->ext.addr;
		w->end = b->ext.subs;
		w->zero_to = b->ready ? 0 : w->end;
	} else if (b->next == NEXT_EXTEND) {
		w->end = b->map.subs + b->ext.subs;
		w->zero_from = b->ready ? 0 : b->map.subs;
		w->zero_to = b->ready ? 0 : w->end;
	} else if (b->map.unwritten && !b->ready) {
		w->zero_to = w->end;
	}
	b->first = w->zero_to != 0;
}

void data_wave_start(struct fs *fs, struct data_blk *b)
{
	struct wave w;

	TS_ASSERT(b->pins);
	if (b->ios || b->io_rc || !b->ndirty || data_is_inline(b))
		return;
	wave_plan(fs, b, &w);
	TS_ASSERT(b->known && w.base && w.end);
	b->ios = 1; /* the wave cannot end before it is built */
	b->wave_seq = b->seq;
	for (unsigned p = 0; p < w.end; p++) {
		struct data_chunk *c = b->chunk[p / DATA_CHUNK_PAGES];
		uint16_t bit = data_bit(p);
		bool must = p >= w.zero_from && p < w.zero_to;

		if (c && !(c->valid & bit))
			c = NULL;
		if (!must && !(c && (c->dirty & bit)))
			continue;
		if (w.io && wave_io_full(w.io, p))
			wave_send(fs, &w);
		if (!w.io) {
			w.io = data_io_get(fs, true);
			p--; /* look again: the slot may have cost a wait */
			continue;
		}
		wave_page(fs, &w, c, p);
	}
	wave_send(fs, &w);
	wave_part_done(fs, b, 0);
}

/* ---- waiting for it ------------------------------------------------------------------------------------------------ */

/* The fiber of write-behind may have dropped what failed before we look. */
static int errors_since(const struct data_file *df, uint64_t seq)
{
	return df->ip->wb_error_seq == seq ? 0 : df->ip->wb_error;
}

int data_blk_settled(struct fs *fs, struct data_blk *b)
{
	uint64_t errors = b->df->ip->wb_error_seq;
	int rc = 0;

	while (!rc && (b->ios || b->ready || b->io_rc)) {
		if (b->ios)
			ts_cond_wait(&b->df->cond, "data to be written, inode, block", b->df->ip->ino, b->idx);
		else if (b->io_rc)
			data_blk_lose(fs, b);
		else
			rc = data_commit(fs, b->df, false, true);
	}
	return rc ? rc : errors_since(b->df, errors);
}

int data_blk_flush(struct fs *fs, struct data_blk *b)
{
	uint64_t seq = b->seq, errors = b->df->ip->wb_error_seq;
	int rc = 0;

	while (!rc && b->ndirty && b->seq <= seq) {
		if (data_is_inline(b)) {
			rc = data_commit(fs, b->df, true, true);
		} else {
			data_wave_start(fs, b);
			rc = data_blk_settled(fs, b);
		}
	}
	if (!rc)
		rc = data_blk_settled(fs, b);
	return rc ? rc : errors_since(b->df, errors);
}

static bool wants_wave(const struct data_blk *b, uint64_t seq, uint64_t before_ns)
{
	return b->ndirty && !b->ios && !b->io_rc && b->seq <= seq && b->dirtied_ns <= before_ns && !data_is_inline(b);
}

struct blk_range {
	uint64_t first, last; /* indexes, inclusive */
};
static const struct blk_range every_blk = {0, UINT64_MAX};

static bool blk_in(const struct data_blk *b, const struct blk_range *r)
{
	return b->idx >= r->first && b->idx <= r->last;
}

/* Starts waves for blocks dirtied up to seq and before_ns; drops those whose wave failed. */
static void start_waves(struct fs *fs, struct data_file *df, const struct blk_range *r, uint64_t seq, uint64_t before_ns)
{
	bool again;

	do {
		again = false;
		ts_list_for(n, &df->active) {
			struct data_blk *b = ts_list_entry(n, struct data_blk, active);

			if (!blk_in(b, r) || (!(b->io_rc && !b->ios) && !wants_wave(b, seq, before_ns)))
				continue;
			b->pins++;
			if (b->io_rc)
				data_blk_lose(fs, b);
			else
				data_wave_start(fs, b);
			data_blk_put(fs, b);
			again = true; /* the list may be another one now */
			break;
		}
	} while (again);
}

static struct data_blk *pending(struct data_file *df, const struct blk_range *r, uint64_t seq)
{
	ts_list_for(n, &df->active) {
		struct data_blk *b = ts_list_entry(n, struct data_blk, active);

		if (!blk_in(b, r))
			continue;
		if (((b->ios || b->ready) && b->wave_seq <= seq) || (b->ndirty && b->seq <= seq) || b->io_rc)
			return b;
	}
	return NULL;
}

bool data_has_work(struct data_file *df, uint64_t before_ns)
{
	ts_list_for(n, &df->active) {
		struct data_blk *b = ts_list_entry(n, struct data_blk, active);

		if (b->ready || (data_is_inline(b) && b->dirtied_ns <= before_ns))
			return true;
	}
	return false;
}

static int writeback(struct fs *fs, struct fs_inode *ip, const struct blk_range *r)
{
	struct data_file *df = ip->data;
	uint64_t seq = fs->datas->seq, errors = ip->wb_error_seq;
	struct data_blk *b;
	int rc = 0;

	if (!df)
		return 0;
	df->users++;
	while (!rc && (start_waves(fs, df, r, seq, UINT64_MAX), b = pending(df, r, seq))) {
		/* Not for nothing: it wakes all who wait here, and two of them would wake each other for ever. */
		rc = data_has_work(df, UINT64_MAX) ? data_commit(fs, df, true, true) : 0;
		b = pending(df, r, seq);
		if (!rc && b && b->ios)
			ts_cond_wait(&df->cond, "data to be written, inode", ip->ino, 0);
	}
	/* A commit under way must be over before a token leaves; one that comes later finds nothing to do. Once, not until nobody has
	 * the lock: two who wait here would hand it to each other for ever. */
	if (df->map_lock.owner)
		ts_mutex_lock(&df->map_lock, "commits to end"), ts_mutex_unlock(&df->map_lock);
	data_unuse(fs, df);
	return rc ? rc : ip->wb_error_seq != errors ? ip->wb_error : 0;
}

int fs_data_writeback(struct fs *fs, struct fs_inode *ip)
{
	return writeback(fs, ip, &every_blk);
}

/* Size and times go into the inode, or are known to be in it. */
static int sync_inode(struct fs *fs, struct fs_inode *ip)
{
	struct tok_value v;
	struct tok_pin pin;
	int rc;

	if (ip->lazy_dirty && data_ex_held(fs, ip))
		return fs_inode_write_lazy(fs, ip);
	if (ip->lazy_dirty)
		return share_write_lazy(fs, ip);
	if (!tok_value_kept(fs->tok, TOK_INODE, ip->ino, &v))
		return 0;
	rc = tok_pin(fs->tok, TOK_INODE, ip->ino, TOK_SH, 0, TOK_END, 0, &pin); /* whoever has it forces his log first */
	tok_unpin(fs->tok, &pin);
	return rc ? rc : ip->lazy_dirty ? sync_inode(fs, ip) : 0;
}

/* datasync: times alone are no reason to force the log. */
int data_sync(struct fs *fs, struct fs_inode *ip, bool datasync)
{
	struct data_file *df;
	int rc = fs_data_writeback(fs, ip), rc2 = 0;
	bool same_size = ip->buf && le64_get(fs_idisk(ip)->size) == ip->size;

	if (!(datasync && same_size))
		rc2 = sync_inode(fs, ip);
	if (!rc2 && ip->buf && ip->buf->last_lsn > fs_log_stable(fs))
		rc2 = fs_log_force(fs, ip->buf->last_lsn);
	df = ip->data;
	if (!rc2 && (!df || df->flush_due)) {
		if (df)
			df->flush_due = false;
		rc2 = fs_io_flush_data(fs);
		df = ip->data;
		if (rc2 && df)
			df->flush_due = true;
	}
	return rc ? rc : rc2;
}

int fs_data_fsync(struct fs *fs, struct fs_inode *ip)
{
	return data_sync(fs, ip, false);
}

static void drop(struct fs *fs, struct fs_inode *ip, const struct blk_range *r)
{
	struct data_file *df = ip->data;

	if (!df)
		return;
	df->users++;
	ts_list_for_safe(n, tmp, &df->blks) {
		struct data_blk *b = ts_list_entry(n, struct data_blk, link);

		if (!blk_in(b, r) || b->ndirty || b->ios || b->ready || b->next != NEXT_NONE || b->io_rc)
			continue;
		for (uint32_t i = 0; i < data_blk_chunks(fs); i++) {
			if (b->chunk[i])
				data_chunk_cut(fs, b->chunk[i]);
		}
		b->known = b->tail_clean = false;
		b->pins++;
		data_blk_put(fs, b);
	}
	data_unuse(fs, df);
}

void fs_data_drop(struct fs *fs, struct fs_inode *ip)
{
	drop(fs, ip, &every_blk);
}

/* Does the range reach behind the size that other writers of the file may know? They would take its bytes there for zeros. */
static bool size_ahead(struct fs *fs, struct fs_inode *ip, const struct blk_range *r)
{
	struct tok_value v;

	if (data_ex_held(fs, ip))
		return false; /* and nobody writes the file beside us */
	if (!ip->buf)
		return tok_value_kept(fs->tok, TOK_INODE, ip->ino, &v);
	return ip->lazy_dirty && ip->size > le64_get(fs_idisk(ip)->size) && r->last >= le64_get(fs_idisk(ip)->size) / fs->block_size;
}

/* Written, mapped and stable. */
static int sync_range(struct fs *fs, struct fs_inode *ip, const struct blk_range *r)
{
	int rc = writeback(fs, ip, r);

	if (!rc && size_ahead(fs, ip, r))
		rc = sync_inode(fs, ip);
	if (!rc && ip->buf && ip->buf->last_lsn > fs_log_stable(fs))
		rc = fs_log_force(fs, ip->buf->last_lsn);
	return rc;
}

/* The DATA token is asked for elsewhere. Data that a disk refused is lost and its writers are told; the token may go. */
int fs_data_revoke(struct fs *fs, uint64_t ino, bool clean, uint64_t start, uint64_t end)
{
	struct blk_range r = {start / fs->block_size, end / fs->block_size};
	struct fs_inode *ip = fs_inode_find(fs, ino);
	uint64_t errors;
	int rc;

	if (!ip)
		return 0;
	errors = ip->wb_error_seq;
	rc = sync_range(fs, ip, &r);
	if (rc && ip->wb_error_seq != errors && rc == ip->wb_error)
		rc = sync_range(fs, ip, &r);
	if (!rc)
		rc = fs_io_flush_data(fs);
	if (!rc && clean)
		drop(fs, ip, &r);
	fs_inode_put(fs, ip);
	return rc;
}

/* ---- the fiber ------------------------------------------------------------------------------------------------------ */

static void flush_file(struct fs *fs, struct data_file *df, bool all)
{
	uint64_t now = ts_exec_now(fs->exec), before = all ? UINT64_MAX : now > FLUSH_AGE_NS ? now - FLUSH_AGE_NS : 0;

	df->users++;
	start_waves(fs, df, &every_blk, fs->datas->seq, before);
	if (data_has_work(df, before)) {
		int rc = data_commit(fs, df, true, false);

		if (rc == -FS_NEED_EX) /* a wait for another node is not for this fiber: memory may depend on it */
			share_kick(fs, all);
		else if (rc)
			ts_debug("inode %llu: write-behind failed", (unsigned long long)df->ip->ino); /* its writers are told by wb_error */
	}
	data_unuse(fs, df);
}

static void flush_pass(struct fs *fs)
{
	struct fs_datastate *ds = fs->datas;
	bool all = ds->starved || ds->ndirty > ds->dirty_limit / 2;
	size_t n = 0;

	ds->starved = false;
	ts_list_for(l, &ds->dirty_files)
		n++;
	while (n-- && !ts_list_empty(&ds->dirty_files)) {
		struct data_file *df = ts_list_entry(ds->dirty_files.next, struct data_file, dirty_link);

		ts_list_del(&df->dirty_link);
		ts_list_push_back(&ds->dirty_files, &df->dirty_link);
		flush_file(fs, df, all);
	}
}

static void flusher(void *arg)
{
	struct fs *fs = arg;
	struct fs_datastate *ds = fs->datas;

	while (!ds->stop) {
		if (!ds->kicked && ts_list_empty(&ds->dirty_files))
			ts_cond_wait(&ds->kick, "dirty data (write-behind)", 0, 0);
		else if (!ds->kicked)
			(void)ts_cond_wait_until(&ds->kick, ts_exec_now(fs->exec) + FLUSH_TICK_NS, "dirty data to grow old", 0, 0);
		ds->kicked = false;
		if (!ds->stop)
			flush_pass(fs);
	}
	ds->running = false;
	ts_done_set(&ds->ended, 0);
}

int data_flusher_start(struct fs *fs)
{
	int rc = ts_fiber_spawn(fs->exec, "write-behind", flusher, fs);

	fs->datas->running = !rc;
	return rc;
}
