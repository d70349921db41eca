/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the cache of metadata blocks: found, read and checked, pinned, evicted. Homes are written by home.c.
 * Must never happen: a block served that fails its checks; a dirty or pinned block evicted; two buffers for one address
 * of which both may be written. */
#include "fs/buf_int.h"

#define MIN_BUFS 256

int fs_bufcache_init(struct fs *fs, size_t bytes)
{
	struct fs_bufcache *c = ts_alloc(sizeof(*c));

	if (!c)
		return -ENOMEM;
	ts_map_init(&c->map);
	ts_map_init(&c->res);
	ts_list_init(&c->lru);
	ts_list_init(&c->dirty);
	ts_list_init(&c->chunks);
	ts_mutex_init(&c->home_mutex);
	ts_cond_init(&c->home_cond);
	c->max = TS_MAX(bytes / FS_SUB, (size_t)MIN_BUFS);
	c->bounce = ts_alloc_aligned(FS_SUB, FS_HOME_BATCH * FS_SUB);
	c->batch = ts_alloc(sizeof(*c->batch));
	if (!c->bounce || !c->batch) {
		ts_free(c->bounce);
		ts_free(c->batch);
		ts_free(c);
		return -ENOMEM;
	}
	fs->bufs = c;
	return 0;
}

/* ---- pages: from chunks, which are kept --------------------------------------------------------------------------- */

#define CHUNK_PAGES 64
struct chunk {
	struct ts_list link;
	uint8_t *mem;
};

static void pages_more(struct fs_bufcache *c)
{
	struct chunk *k = ts_alloc(sizeof(*k));
	uint8_t *mem = ts_alloc_aligned(FS_SUB, CHUNK_PAGES * FS_SUB);

	if (!k || !mem) {
		ts_free(k);
		ts_free(mem);
		return;
	}
	k->mem = mem;
	ts_list_push_back(&c->chunks, &k->link);
	for (unsigned i = 0; i < CHUNK_PAGES; i++)
		fs_page_put(c, mem + (size_t)i * FS_SUB);
}

void *fs_page_get(struct fs_bufcache *c)
{
	void *p;

	if (!c->page)
		pages_more(c);
	p = c->page;
	if (p)
		memcpy(&c->page, p, sizeof(c->page));
	return p;
}

void fs_page_put(struct fs_bufcache *c, void *p)
{
	if (!p)
		return;
	memcpy(p, &c->page, sizeof(c->page));
	c->page = p;
}

static void buf_free(struct fs_bufcache *c, struct fs_buf *b)
{
	fs_page_put(c, b->before);
	fs_page_put(c, b->data);
	ts_free(b);
}

static int free_node(struct ts_map_node *n, void *arg)
{
	struct fs_bufcache *c = arg;

	ts_map_remove(&c->map, n);
	buf_free(c, TS_CONTAINER(n, struct fs_buf, node));
	return 0;
}
static int free_res(struct ts_map_node *n, void *arg)
{
	ts_map_remove(arg, n);
	ts_free(TS_CONTAINER(n, struct fs_buf_res, node));
	return 0;
}

void fs_bufcache_fini(struct fs *fs)
{
	struct fs_bufcache *c = fs->bufs;

	if (!c)
		return;
	ts_map_each(&c->map, free_node, c);
	ts_map_each(&c->res, free_res, &c->res);
	ts_map_fini(&c->map);
	ts_map_fini(&c->res);
	ts_list_for_safe(i, tmp, &c->chunks) {
		struct chunk *k = ts_list_entry(i, struct chunk, link);

		ts_free(k->mem);
		ts_free(k);
	}
	ts_free(c->bounce);
	ts_free(c->batch);
	ts_free(c);
	fs->bufs = NULL;
}

/* ---- resources: which buffers a token covers --------------------------------------------------------------------- */

struct fs_buf_res *fs_buf_res_find(struct fs *fs, enum tok_kind kind, uint64_t id)
{
	for (struct ts_map_node *n = ts_map_first(&fs->bufs->res, ts_hash_2(kind, id)); n; n = ts_map_next(n)) {
		struct fs_buf_res *r = TS_CONTAINER(n, struct fs_buf_res, node);

		if (r->kind == kind && r->id == id)
			return r;
	}
	return NULL;
}

static int res_join(struct fs *fs, struct fs_buf *b)
{
	struct fs_buf_res *r = fs_buf_res_find(fs, b->res_kind, b->res_id);

	if (!r) {
		r = ts_alloc(sizeof(*r));
		if (!r)
			return -ENOMEM;
		r->kind = b->res_kind;
		r->id = b->res_id;
		ts_list_init(&r->bufs);
		if (ts_map_insert(&fs->bufs->res, &r->node, ts_hash_2(r->kind, r->id))) {
			ts_free(r);
			return -ENOMEM;
		}
	}
	ts_list_push_back(&r->bufs, &b->res_link);
	b->res = r;
	return 0;
}

static void res_leave(struct fs *fs, struct fs_buf *b)
{
	struct fs_buf_res *r = b->res;

	if (!r)
		return;
	ts_list_del(&b->res_link);
	b->res = NULL;
	r->last_lsn = TS_MAX(r->last_lsn, b->last_lsn);
	if (!ts_list_empty(&r->bufs))
		return;
	fs->bufs->gone_lsn = TS_MAX(fs->bufs->gone_lsn, r->last_lsn);
	ts_map_remove(&fs->bufs->res, &r->node);
	ts_free(r);
}

/* ---- life of a buffer --------------------------------------------------------------------------------------------- */

static struct fs_buf *find(struct fs *fs, fs_addr a)
{
	for (struct ts_map_node *n = ts_map_first(&fs->bufs->map, ts_hash_u64(a)); n; n = ts_map_next(n)) {
		struct fs_buf *b = TS_CONTAINER(n, struct fs_buf, node);

		if (b->addr == a)
			return b;
	}
	return NULL;
}

/* Out of the map: nobody finds it any more; freed with the last pin. */
static void detach(struct fs *fs, struct fs_buf *b)
{
	TS_ASSERT(!b->dirty && !b->writing && !b->tx);
	if (!b->detached) {
		b->detached = true;
		ts_map_remove(&fs->bufs->map, &b->node);
		ts_list_del(&b->lru_link);
		res_leave(fs, b);
		fs->bufs->count--;
	}
	if (!b->pins)
		buf_free(fs->bufs, b);
}

static void pin(struct fs_buf *b)
{
	if (b->pins++ == 0)
		ts_list_del(&b->lru_link);
}

static void put(struct fs *fs, struct fs_buf *b, bool cold)
{
	TS_ASSERT(b->pins && !b->tx);
	if (--b->pins)
		return;
	b->cold = cold;
	if (b->detached || (!b->uptodate && !b->reading) || (b->fresh && !b->dirty))
		detach(fs, b); /* gone, unreadable, or never committed */
	else if (cold && !b->dirty) /* else home.c, when it is clean */
		ts_list_push_front(&fs->bufs->lru, &b->lru_link);
	else
		ts_list_push_back(&fs->bufs->lru, &b->lru_link);
}

void fs_buf_put(struct fs *fs, struct fs_buf *b)
{
	if (b)
		put(fs, b, false);
}

void fs_buf_put_cold(struct fs *fs, struct fs_buf *b)
{
	if (b)
		put(fs, b, true);
}

static bool evict_one(struct fs *fs)
{
	unsigned looked = 0;

	ts_list_for_safe(i, tmp, &fs->bufs->lru) {
		struct fs_buf *b = ts_list_entry(i, struct fs_buf, lru_link);

		if (!b->dirty && !b->writing && !b->reading) {
			detach(fs, b);
			return true;
		}
		ts_list_del(i); /* looked at again only after the others */
		ts_list_push_back(&fs->bufs->lru, i);
		if (++looked == 64)
			break;
	}
	return false;
}

/* May overshoot by what is pinned: that is bounded by the operations under way. Dirty buffers are pushed home from one
 * half of the cache on; at three quarters a reader waits for them. */
static void make_room(struct fs *fs, bool wait)
{
	struct fs_bufcache *c = fs->bufs;

	if (c->ndirty > c->max / 2)
		fs_log_kick_home(fs);
	while (wait && c->ndirty > c->max / 4 * 3 && fs->log && fs->run != FS_RUN_STOPPED) {
		fs_log_kick_home(fs);
		ts_cond_wait(&c->home_cond, "clean metadata buffers", c->ndirty, c->max);
	}
	while (c->count >= c->max && evict_one(fs))
		;
}

static int buf_new(struct fs *fs, fs_addr a, enum tok_kind kind, uint64_t res_id, struct fs_buf **out)
{
	struct fs_buf *b = ts_alloc(sizeof(*b));

	if (!b)
		return -ENOMEM;
	b->data = fs_page_get(fs->bufs);
	b->addr = a;
	b->res_kind = kind;
	b->res_id = res_id;
	b->pins = 1;
	ts_list_init(&b->res_link);
	ts_list_init(&b->dirty_link);
	ts_list_init(&b->lru_link);
	ts_list_init(&b->tx_link);
	ts_cond_init(&b->cond);
	if (!b->data || ts_map_insert(&fs->bufs->map, &b->node, ts_hash_u64(a)))
		goto no_memory;
	if (res_join(fs, b)) {
		ts_map_remove(&fs->bufs->map, &b->node);
		goto no_memory;
	}
	fs->bufs->count++;
	*out = b;
	return 0;
no_memory:
	buf_free(fs->bufs, b);
	return -ENOMEM;
}

/* ---- reading ------------------------------------------------------------------------------------------------------ */

static int verify(struct fs *fs, struct fs_buf *b, enum fs_block_type type)
{
	const struct fs_mhdr_disk *h = (const struct fs_mhdr_disk *)b->data;
	const char *wrong = fs_mdhdr_wrong(b->data, fs->super.fs_id, type, b->addr);

	if (!wrong && (h->res_kind != b->res_kind || le64_get(h->res_id) != b->res_id))
		wrong = "owner";
	if (wrong) {
		ts_err("%s: disk %u block %llu (%s %llu, type %d) has a wrong %s: run tessera fsck", fs->super.name,
		       FS_ADDR_DISK(b->addr), (unsigned long long)FS_ADDR_SUB(b->addr), tok_kind_name(b->res_kind),
		       (unsigned long long)b->res_id, type, wrong);
		return -EUCLEAN;
	}
	b->version = le64_get(h->version);
	fs_version_raise(fs, b->version);
	return 0;
}

static int read_block(struct fs *fs, struct fs_buf *b, enum fs_block_type type)
{
	int rc;

	b->reading = true;
	rc = fs_io_read(fs, b->addr, b->data, FS_SUB);
	if (!rc)
		rc = verify(fs, b, type);
	b->reading = false;
	b->uptodate = !rc && !b->detached && !b->forgotten;
	if (rc || b->forgotten) /* not to be found again: of two who waited for a read that failed, one would keep it for the other for ever */
		detach(fs, b);
	ts_cond_broadcast(&b->cond);
	return rc ? rc : b->uptodate ? 0 : -TS_ERR_RETRY;
}

static int found(struct fs *fs, struct fs_buf *b, enum fs_block_type type, enum tok_kind kind, uint64_t res_id)
{
	const struct fs_mhdr_disk *h = (const struct fs_mhdr_disk *)b->data;

	if (h->type == type && b->res_kind == kind && b->res_id == res_id)
		return 0;
	ts_err("%s: disk %u block %llu is %s %llu type %d, wanted as %s %llu type %d: run tessera fsck", fs->super.name,
	       FS_ADDR_DISK(b->addr), (unsigned long long)FS_ADDR_SUB(b->addr), tok_kind_name(b->res_kind),
	       (unsigned long long)b->res_id, h->type, tok_kind_name(kind), (unsigned long long)res_id, type);
	return -EUCLEAN;
}

/* 1: not in the cache. */
static int get_cached(struct fs *fs, fs_addr a, enum fs_block_type type, enum tok_kind kind, uint64_t res_id, struct fs_buf **out)
{
	struct fs_buf *b;
	int rc;

	while ((b = find(fs, a))) {
		pin(b);
		if (b->uptodate && !b->forgotten) {
			fs->stats.buf_hits++;
			rc = found(fs, b, type, kind, res_id);
			if (rc)
				fs_buf_put(fs, b);
			else
				*out = b;
			return rc;
		}
		/* Being read, or its last home write is still under way although it was freed. */
		while (!b->detached && (b->reading || (b->forgotten && b->writing)))
			ts_cond_wait(&b->cond, "metadata block", a, res_id);
		fs_buf_put(fs, b);
	}
	return 1;
}

int fs_buf_get(struct fs *fs, fs_addr a, enum fs_block_type type, enum tok_kind kind, uint64_t res_id, struct fs_buf **out)
{
	struct fs_buf *b;
	int rc;

	*out = NULL;
again:
	rc = get_cached(fs, a, type, kind, res_id, out);
	if (rc <= 0)
		return rc;
	if (fs_io_check_addr(fs, a, 1)) {
		ts_err("%s: block address %#llx of %s %llu lies on no disk: run tessera fsck", fs->super.name, (unsigned long long)a,
		       tok_kind_name(kind), (unsigned long long)res_id);
		return -EUCLEAN;
	}
	fs->stats.buf_misses++;
	make_room(fs, true);
	if (find(fs, a))
		goto again; /* it came while this fiber waited */
	rc = buf_new(fs, a, kind, res_id, &b);
	if (rc)
		return rc;
	rc = read_block(fs, b, type);
	if (rc)
		fs_buf_put(fs, b);
	if (rc == -TS_ERR_RETRY)
		goto again;
	if (!rc)
		*out = b;
	return rc;
}

int fs_buf_new(struct fs *fs, fs_addr a, enum fs_block_type type, enum tok_kind kind, uint64_t res_id, uint32_t res_gen, struct fs_buf **out)
{
	struct fs_buf *b;
	int rc;

	*out = NULL;
	while ((b = find(fs, a))) { /* what it was before it was freed */
		TS_ASSERT(!b->tx);
		pin(b);
		while (!b->detached && (b->reading || b->writing))
			ts_cond_wait(&b->cond, "old home of a reused block", a, res_id);
		if (!b->detached) {
			fs_home_clean(fs, b);
			b->uptodate = false;
			detach(fs, b);
		}
		fs_buf_put(fs, b);
	}
	rc = fs_io_check_addr(fs, a, 1);
	if (rc)
		return rc;
	make_room(fs, false);
	rc = buf_new(fs, a, kind, res_id, &b);
	if (rc)
		return rc;
	memset(b->data, 0, FS_SUB);
	fs_mdhdr_fill(b->data, fs->super.fs_id, type, kind, a, res_id, res_gen);
	b->fresh = b->uptodate = true;
	*out = b;
	return 0;
}

struct fs_buf *fs_buf_peek(struct fs *fs, fs_addr a)
{
	struct fs_buf *b = find(fs, a);

	if (!b || !b->uptodate || b->forgotten)
		return NULL;
	pin(b);
	return b;
}

void fs_buf_forget(struct fs *fs, fs_addr a)
{
	struct fs_buf *b = find(fs, a);

	if (!b)
		return;
	TS_ASSERT(!b->tx);
	fs_home_clean(fs, b);
	b->uptodate = false;
	if (!b->writing && !b->reading)
		return detach(fs, b);
	b->forgotten = true; /* stays known until its home write has ended: home.c */
	if (b->writing)
		fs->bufs->forgotten_writing++;
}

void fs_buf_drop(struct fs *fs, struct fs_buf *b)
{
	detach(fs, b);
}

/* ---- prefetch: neighbours in one read, all reads at once ----------------------------------------------------------- */

static void prefetched(struct fs *fs, struct fs_buf *b, int rc)
{
	const struct fs_mhdr_disk *h = (const struct fs_mhdr_disk *)b->data;

	b->reading = false;
	/* A block that was never made, or is another thing, is no error here: whoever needs it will say so. */
	b->uptodate = !rc && !b->detached && !b->forgotten && h->res_kind == b->res_kind && le64_get(h->res_id) == b->res_id &&
		      !fs_mdhdr_wrong(b->data, fs->super.fs_id, FS_BT_INODE, b->addr) && verify(fs, b, FS_BT_INODE) == 0;
	if (b->forgotten)
		detach(fs, b);
	ts_cond_broadcast(&b->cond);
	fs_buf_put(fs, b);
}

static void run_done(struct nsd_req *r, int rc)
{
	struct fs_prefetch_run *run = r->arg;
	struct fs_prefetch *p = run->p;

	for (unsigned i = 0; i < run->n; i++)
		if (run->b[i])
			prefetched(p->fs, run->b[i], rc);
	p->in_flight--;
	ts_cond_broadcast(&p->cond);
}

/* From w[0] on: blocks that follow each other closely. Holes between them are read into a page that nobody looks at. */
static unsigned run_make(struct fs *fs, struct fs_prefetch *p, struct fs_prefetch_run *run, const struct fs_buf_want *w, unsigned n)
{
	unsigned i = 0;

	*run = (struct fs_prefetch_run){.p = p, .addr = w[0].addr};
	for (; i < n && w[i].addr - run->addr < FS_PREFETCH_RUN && w[i].addr - run->addr <= run->n + FS_PREFETCH_HOLE; i++) {
		unsigned at = (unsigned)(w[i].addr - run->addr);

		if (find(fs, w[i].addr) || fs_io_check_addr(fs, w[i].addr, 1))
			continue;
		make_room(fs, false);
		if (buf_new(fs, w[i].addr, TOK_INODE, w[i].ino, &run->b[at]))
			continue;
		run->b[at]->reading = true;
		run->n = at + 1;
	}
	for (unsigned k = 0; k < run->n; k++)
		run->iov[k] = (struct iovec){run->b[k] ? run->b[k]->data : p->hole, FS_SUB};
	return i;
}

void fs_buf_prefetch_inodes(struct fs *fs, struct fs_prefetch *p, const struct fs_buf_want *w, unsigned n)
{
	unsigned nruns = 0;

	TS_ASSERT(n <= FS_PREFETCH_MAX && !p->in_flight);
	p->fs = fs;
	for (unsigned i = 0; i < n;) { /* nothing waits here: the caller has looked at the tokens */
		i += run_make(fs, p, &p->run[nruns], w + i, n - i);
		nruns += p->run[nruns].n > 0;
	}
	for (unsigned i = 0; i < nruns; i++) {
		struct fs_prefetch_run *run = &p->run[i];

		p->in_flight++;
		fs_io_submit_meta(fs, &run->req, NSD_READ, run->addr, run->iov, (int)run->n, run_done, run);
	}
	while (p->in_flight)
		ts_cond_wait(&p->cond, "inodes read ahead", p->in_flight, n);
}
