/* SPDX-License-Identifier: Apache-2.0 */
/* Job: dirty metadata buffers and their way home: copied, sealed, written in batches of neighbours, flushed; and law 5 for
 * one token. Must never happen: a home write of a change that is not stable in the log (law 4); a buffer called clean before its
 * home is flushed; a change lost that was made while the home write was under way. */
#include "fs/buf_int.h"

#define IN_FLIGHT 64
#define RUN_MAX	  256 /* blocks in one request: 1 MiB */
#define FS_HOME_LOOK 1024 /* dirty blocks looked at for neighbours */

/* ---- dirty or not ------------------------------------------------------------------------------------------------- */

static void dirty_insert(struct fs_bufcache *c, struct fs_buf *b)
{
	struct ts_list *at = c->dirty.prev;

	while (at != &c->dirty && ts_list_entry(at, struct fs_buf, dirty_link)->first_lsn > b->first_lsn)
		at = at->prev;
	ts_list_insert_(&b->dirty_link, at, at->next);
}

void fs_home_dirty(struct fs *fs, struct fs_buf *b, uint64_t frame_lsn, uint64_t lsn)
{
	struct fs_bufcache *c = fs->bufs;

	b->last_lsn = lsn;
	b->fresh = false;
	if (!b->dirty) {
		b->dirty = true;
		b->first_lsn = frame_lsn;
		dirty_insert(c, b);
		c->ndirty++;
	} else if (b->writing && !b->redirtied) {
		b->redirtied = true;
		b->next_first_lsn = frame_lsn;
	}
}

void fs_home_clean(struct fs *fs, struct fs_buf *b)
{
	b->redirtied = false;
	b->fresh = false;
	if (!b->dirty)
		return;
	b->dirty = false;
	ts_list_del(&b->dirty_link);
	fs->bufs->ndirty--;
}

uint64_t fs_home_first_lsn(struct fs *fs)
{
	struct fs_bufcache *c = fs->bufs;

	return ts_list_empty(&c->dirty) ? UINT64_MAX : ts_list_entry(c->dirty.next, struct fs_buf, dirty_link)->first_lsn;
}

/* ---- one batch ---------------------------------------------------------------------------------------------------- */

struct wanted { /* which buffers: of one resource, or all that are dirty since before `below` */
	enum tok_kind kind; /* TOK_NONE: all */
	uint64_t id, below;
};
struct look { /* what a walk over the wanted ones found */
	uint64_t lsn;	  /* the log must be stable up to here for them */
	unsigned dirty, writing;
	struct fs_buf **b; /* NULL: only look */
	unsigned n;
};

static bool look_at(struct fs *fs, struct look *l, struct fs_buf *b)
{
	if (b->writing) {
		l->writing++;
		return true;
	}
	if (!b->dirty)
		return true;
	TS_ASSERT(!b->tx);
	l->dirty++;
	l->lsn = TS_MAX(l->lsn, b->last_lsn);
	if (l->b)
		l->b[l->n++] = b;
	return l->dirty < FS_HOME_BATCH;
}

static void look(struct fs *fs, const struct wanted *w, struct look *l)
{
	struct fs_buf_res *r;

	if (w->kind == TOK_NONE) {
		ts_list_for(i, &fs->bufs->dirty) {
			struct fs_buf *b = ts_list_entry(i, struct fs_buf, dirty_link);

			if (b->first_lsn >= w->below || !look_at(fs, l, b))
				return;
		}
		return;
	}
	r = fs_buf_res_find(fs, w->kind, w->id);
	if (!r)
		return;
	ts_list_for(i, &r->bufs)
		if (!look_at(fs, l, ts_list_entry(i, struct fs_buf, res_link)))
			return;
}

/* Whoever takes one inode or directory away from this node is likely to ask for its neighbours next, and a home write with its flush costs the
 * same for one block as for many: what is as old, of that kind and stable in the log goes along. The next revokes find it clean. */
static void add_neighbours(struct fs *fs, const struct wanted *w, struct look *l)
{
	uint64_t stable = fs_log_stable(fs);
	unsigned seen = 0;

	if (w->kind != TOK_INODE && w->kind != TOK_DIR)
		return;
	ts_list_for(i, &fs->bufs->dirty) {
		struct fs_buf *b = ts_list_entry(i, struct fs_buf, dirty_link);

		if (l->n == FS_HOME_BATCH || seen++ == FS_HOME_LOOK)
			return;
		if (b->res_kind == w->kind && b->res_id != w->id && !b->writing && b->last_lsn <= stable)
			l->b[l->n++] = b;
	}
}

static int by_addr(const void *x, const void *y)
{
	const struct fs_buf *a = *(struct fs_buf *const *)x, *b = *(struct fs_buf *const *)y;

	return a->addr < b->addr ? -1 : a->addr > b->addr;
}

struct sending {
	struct ts_cond cond;
	unsigned in_flight;
	int rc;
};

static void run_done(struct nsd_req *r, int rc)
{
	struct sending *s = r->arg;

	if (rc && !s->rc)
		s->rc = rc;
	s->in_flight--;
	ts_cond_broadcast(&s->cond);
}

/* What a change made from here on finds: a home write under way, so that it logs a whole image and stays dirty. */
static void copy_all(struct fs *fs, struct fs_buf **b, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		uint8_t *copy = fs->bufs->bounce + (size_t)i * FS_SUB;

		memcpy(copy, b[i]->data, FS_SUB);
		fs_mdhdr_seal(copy, fs->incarnation, b[i]->version);
		b[i]->writing = true;
		b[i]->redirtied = false;
	}
}

static int send_copies(struct fs *fs, struct fs_buf **b, unsigned n)
{
	struct fs_bufcache *c = fs->bufs;
	struct fs_home_batch *t = c->batch;
	struct sending s = {0};

	ts_cond_init(&s.cond);
	for (unsigned i = 0, len; i < n && !s.rc; i += len) {
		for (len = 1; i + len < n && len < RUN_MAX && b[i + len]->addr == b[i]->addr + len; len++)
			;
		while (s.in_flight >= IN_FLIGHT)
			ts_cond_wait(&s.cond, "home writes", s.in_flight, n);
		t->iov[i] = (struct iovec){c->bounce + (size_t)i * FS_SUB, (size_t)len * FS_SUB};
		s.in_flight++;
		fs_io_submit_meta(fs, &t->req[i], NSD_WRITE, b[i]->addr, &t->iov[i], 1, run_done, &s);
	}
	while (s.in_flight)
		ts_cond_wait(&s.cond, "home writes", s.in_flight, n);
	fs->stats.home_writes += n;
	return s.rc;
}

static void end_one(struct fs *fs, struct fs_buf *b, int rc)
{
	struct fs_bufcache *c = fs->bufs;

	b->writing = false;
	if (b->forgotten) {
		c->forgotten_writing--;
		ts_cond_broadcast(&b->cond);
		if (!b->reading)
			fs_buf_drop(fs, b);
		return;
	}
	if (!rc && b->redirtied) {
		b->redirtied = false;
		ts_list_del(&b->dirty_link);
		b->first_lsn = b->next_first_lsn;
		dirty_insert(c, b);
	} else if (!rc) {
		fs_home_clean(fs, b);
		if (b->cold && !b->pins) {
			ts_list_del(&b->lru_link);
			ts_list_push_front(&c->lru, &b->lru_link);
		}
	}
	ts_cond_broadcast(&b->cond);
}

static int write_batch(struct fs *fs, const struct wanted *w, unsigned *count)
{
	struct fs_buf *b[FS_HOME_BATCH];
	struct look l = {.b = b};
	int rc;

	*count = 0;
	ts_mutex_lock(&fs->bufs->home_mutex, "home writes of another fiber");
	look(fs, w, &l);
	if (!l.n) {
		ts_mutex_unlock(&fs->bufs->home_mutex);
		return 0;
	}
	add_neighbours(fs, w, &l);
	qsort(b, l.n, sizeof(b[0]), by_addr);
	copy_all(fs, b, l.n);
	rc = fs_log_force(fs, l.lsn); /* law 4; after the copies, or a busy block would never be stable */
	if (!rc)
		rc = send_copies(fs, b, l.n);
	ts_mutex_unlock(&fs->bufs->home_mutex);
	if (!rc)
		rc = fs_io_flush_all(fs);
	for (unsigned i = 0; i < l.n; i++)
		end_one(fs, b[i], rc);
	ts_cond_broadcast(&fs->bufs->home_cond);
	*count = l.n;
	if (rc)
		fs_stop(fs, "metadata cannot be written home (error %d)", rc);
	return rc;
}

/* Until nothing wanted is dirty or on its way. */
static int write_wanted(struct fs *fs, const struct wanted *w)
{
	for (;;) {
		struct look l = {0};
		unsigned n;
		int rc;

		if (fs->run == FS_RUN_STOPPED)
			return -EIO;
		look(fs, w, &l);
		if (!l.dirty && !l.writing)
			return 0;
		rc = l.dirty ? fs_log_force(fs, l.lsn) : 0; /* outside home_mutex: shared with other revokes */
		l = (struct look){0};
		if (!rc)
			rc = write_batch(fs, w, &n);
		if (rc)
			return rc;
		look(fs, w, &l);
		if (!n && l.writing)
			ts_cond_wait(&fs->bufs->home_cond, "home writes", w->kind, w->id);
	}
}

int fs_home_write_below(struct fs *fs, uint64_t below)
{
	struct wanted w = {.below = below};

	return write_wanted(fs, &w);
}

/* ---- law 5 -------------------------------------------------------------------------------------------------------- */

static void drop_clean(struct fs *fs, enum tok_kind kind, uint64_t id)
{
	struct fs_buf_res *r;

	while ((r = fs_buf_res_find(fs, kind, id))) {
		struct fs_buf *b = ts_list_entry(r->bufs.next, struct fs_buf, res_link);

		if (b->dirty || b->writing)
			return; /* changed again: not a drop after all; the caller looks */
		if (b->reading) { /* a prefetch: its result is void */
			b->pins++; /* the reader has it pinned, too: it is in no list */
			while (b->reading)
				ts_cond_wait(&b->cond, "prefetch", b->addr, id);
			fs_buf_put(fs, b);
			continue;
		}
		b->uptodate = false;
		fs_buf_drop(fs, b);
	}
}

int fs_buf_clean_resource(struct fs *fs, enum tok_kind kind, uint64_t res_id, bool drop)
{
	struct wanted w = {.kind = kind, .id = res_id};
	int rc;

	TS_ASSERT(kind != TOK_NONE);
	do {
		struct fs_buf_res *r = fs_buf_res_find(fs, kind, res_id);
		uint64_t lsn = fs->bufs->gone_lsn;

		if (r)
			lsn = TS_MAX(lsn, r->last_lsn);
		rc = fs_log_force(fs, lsn);
		if (!rc)
			rc = write_wanted(fs, &w);
		/* A freed block must not be overwritten by our last home write of it once somebody else may use it. */
		while (!rc && fs->bufs->forgotten_writing)
			ts_cond_wait(&fs->bufs->home_cond, "home writes of freed blocks", kind, res_id);
		if (rc)
			return rc;
		if (drop)
			drop_clean(fs, kind, res_id);
	} while (drop && fs_buf_res_find(fs, kind, res_id));
	return 0;
}
