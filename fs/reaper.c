/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what was promised to the log and can be done later: freed space goes back to its bitmaps, inodes without links are
 * freed when nobody in the cluster has them open.
 *
 * FREE intents are applied in batches per region, only when the freeing transaction is stable (law 7). A region of
 * another node is asked for politely a few times, then its token is taken. ORPHAN intents are polled: each try takes OPEN EX only if
 * it is free now, so that a file held open for days costs a message now and then and never a waiting fiber. One that the mount
 * of this node still knows (a removed directory that is somebody's working directory, a name looked up and not yet opened) is
 * parked until the mount has forgotten it.
 * What must never happen: an intent done twice, or one orphan that keeps the others waiting. */
#include "fs/alloc_int.h"

#define TICK_NS	      (500 * TS_NS_PER_MS)
#define IDLE_NS	      (5 * TS_NS_PER_S)
#define PASS_MAX      4096u /* FREE intents sorted at once */
#define POLITE_TRIES  3u
#define CROWD	      2048u /* so many intents: no politeness */
#define WORKERS	      8u
#define RETRY_MIN_NS  (50 * TS_NS_PER_MS)
#define RETRY_MAX_NS  (5 * TS_NS_PER_S)

struct orphan {
	struct ts_map_node node, by_ino;
	struct ts_list link; /* queue or parked, while no worker has it */
	struct fs *fs;
	uint64_t number, ino, next_try, delay;
	uint32_t gen;
	bool parked;
};
struct fs_reaper {
	struct ts_cond wake, passed;
	bool kicked, started, crowd;
	unsigned urgent; /* fibers that wait for space */
	uint64_t passes;
	uint64_t next_free, next_walk;
	struct ts_map orphans, inos; /* by intent, by inode */
	struct ts_list queue, parked;
	unsigned workers;
};

static struct orphan *orphan_find(struct fs_reaper *r, uint64_t number)
{
	for (struct ts_map_node *n = ts_map_first(&r->orphans, ts_hash_u64(number)); n; n = ts_map_next(n)) {
		struct orphan *o = TS_CONTAINER(n, struct orphan, node);

		if (o->number == number)
			return o;
	}
	return NULL;
}

void fs_reaper_orphan(struct fs *fs, uint64_t number, uint64_t ino, uint32_t gen)
{
	struct fs_reaper *r = fs->reaper;
	struct orphan *o;

	if (!r || orphan_find(r, number))
		return;
	o = ts_alloc(sizeof(*o));
	if (!o)
		return; /* the walk over the intents finds it again */
	*o = (struct orphan){.fs = fs, .number = number, .ino = ino, .gen = gen};
	if (ts_map_insert(&r->orphans, &o->node, ts_hash_u64(number))) {
		ts_free(o);
		return;
	}
	if (ts_map_insert(&r->inos, &o->by_ino, ts_hash_u64(ino))) {
		ts_map_remove(&r->orphans, &o->node);
		ts_free(o);
		return;
	}
	ts_list_push_back(&r->queue, &o->link);
	fs->alloc->promised++;
	fs_reaper_kick(fs);
}

/* ---- orphans ------------------------------------------------------------------------------------------------------ */
static void orphan_work(void *arg)
{
	struct orphan *o = arg;
	struct fs *fs = o->fs;
	struct fs_reaper *r = fs->reaper;
	int rc = fs_orphan_run(fs, o->number, o->ino, o->gen);

	r->workers--;
	if (rc == 0) {
		ts_map_remove(&r->orphans, &o->node);
		ts_map_remove(&r->inos, &o->by_ino);
		ts_free(o);
	} else {
		if (rc != -EAGAIN && rc != -TS_ERR_FENCED && fs->run != FS_RUN_STOPPED)
			ts_warn("fs %s: inode %llu without links could not be freed (%d), tried again later", fs->super.name,
				(unsigned long long)o->ino, rc);
		o->delay = TS_MIN(TS_MAX(o->delay * 2, RETRY_MIN_NS), RETRY_MAX_NS);
		o->next_try = ts_exec_now(fs->exec) + o->delay;
		ts_list_push_back(&r->queue, &o->link);
	}
	ts_cond_broadcast(&r->passed);
	if (!ts_list_empty(&r->queue))
		fs_reaper_kick(fs);
	ts_group_done(&fs->background, 0);
}

static bool still_known(struct fs *fs, const struct orphan *o)
{
	const struct fs_upcalls *up = &fs->args.up;

	return up->known && up->known(up->arg, o->ino, o->gen);
}

static void unpark(struct fs_reaper *r, struct orphan *o)
{
	ts_list_del(&o->link);
	o->next_try = 0;
	ts_list_push_back(&r->queue, &o->link);
}

void fs_forgotten(struct fs *fs, uint64_t ino)
{
	struct fs_reaper *r = fs->reaper;

	for (struct ts_map_node *n = r ? ts_map_first(&r->inos, ts_hash_u64(ino)) : NULL; n; n = ts_map_next(n)) {
		struct orphan *o = TS_CONTAINER(n, struct orphan, by_ino);

		if (o->ino != ino || !o->parked)
			continue;
		o->parked = false;
		unpark(r, o);
		fs_reaper_kick(fs);
	}
}

/* Starts workers for orphans whose time has come; when the next one's will. */
static uint64_t orphans_start(struct fs *fs)
{
	struct fs_reaper *r = fs->reaper;
	uint64_t now = ts_exec_now(fs->exec), next = now + IDLE_NS;
	unsigned looked = 0;

	ts_list_for_safe(l, tmp, &r->queue)
	{
		struct orphan *o = ts_list_entry(l, struct orphan, link);

		if (r->workers >= WORKERS || looked++ >= PASS_MAX)
			break;
		if (o->next_try > now) {
			next = TS_MIN(next, o->next_try);
			continue;
		}
		ts_list_del(&o->link);
		if (still_known(fs, o)) {
			o->parked = true;
			ts_list_push_back(&r->parked, &o->link);
			continue;
		}
		ts_group_add(&fs->background);
		if (ts_fiber_spawn(fs->exec, "orphan", orphan_work, o)) {
			ts_group_done(&fs->background, 0);
			ts_list_push_back(&r->queue, &o->link);
			return now + RETRY_MIN_NS;
		}
		r->workers++;
	}
	return next;
}

/* What the mount forgot without saying so: it is gone itself. */
static void parked_walk(struct fs_reaper *r)
{
	ts_list_for_safe(l, tmp, &r->parked)
	{
		struct orphan *o = ts_list_entry(l, struct orphan, link);

		o->parked = false;
		unpark(r, o);
	}
}

/* Intents that came with the log (mount, recovery of another node) or found no memory when they were made. */
static void orphans_walk(struct fs *fs)
{
	ts_list_for(l, fs_log_intents(fs))
	{
		const struct fs_intent *in = ts_list_entry(l, struct fs_intent, link);

		if (in->type == FS_INTENT_ORPHAN)
			fs_reaper_orphan(fs, in->number, in->a, (uint32_t)in->b);
	}
}

/* ---- freed space ---------------------------------------------------------------------------------------------------- */
struct frees {
	struct fs_intent **in;
	unsigned n, left; /* left: live FREE intents beyond, or not stable yet */
};

static uint32_t region_of(struct fs *fs, const struct fs_intent *in)
{
	struct fs_place p;

	return fs_alloc_place(fs, in->a, in->subs, &p) ? p.region : UINT32_MAX;
}

static int by_region(const void *a, const void *b, void *fs)
{
	const struct fs_intent *x = *(struct fs_intent *const *)a, *y = *(struct fs_intent *const *)b;
	uint32_t rx = region_of(fs, x), ry = region_of(fs, y);

	if (rx != ry)
		return rx < ry ? -1 : 1;
	return x->a < y->a ? -1 : x->a > y->a;
}

static void frees_collect(struct fs *fs, struct frees *f)
{
	uint64_t stable = fs_log_stable(fs);

	f->n = f->left = 0;
	ts_list_for(l, fs_log_intents(fs))
	{
		struct fs_intent *in = ts_list_entry(l, struct fs_intent, link);

		if (in->type != FS_INTENT_FREE || in->busy)
			continue;
		if (in->lsn > stable || f->n == PASS_MAX) {
			f->left++;
			continue;
		}
		in->busy = true;
		f->in[f->n++] = in;
	}
	qsort_r(f->in, f->n, sizeof(*f->in), by_region, fs);
}

static int apply_region(struct fs *fs, uint32_t region, struct fs_intent **in, unsigned n, bool firm)
{
	struct fs_region_hint *h = &fs->alloc->hints[region];
	unsigned done = 0;
	int rc = 0;

	if (!firm && !h->reg && h->busy < POLITE_TRIES) {
		rc = fs_alloc_apply_frees(fs, region, in, n, TOK_QUICK, &done);
		h->busy += rc == -EAGAIN;
	} else {
		rc = fs_alloc_apply_frees(fs, region, in, n, 0, &done);
	}
	while (!rc && done < n) {
		in += done;
		n -= done;
		rc = fs_alloc_apply_frees(fs, region, in, n, 0, &done);
	}
	for (unsigned i = rc ? 0 : done; i < n; i++)
		in[i]->busy = false;
	return rc == -EAGAIN ? 0 : rc;
}

/* One pass over what is stable; how many intents remain, or -errno. */
static int frees_pass(struct fs *fs)
{
	struct frees f = {.in = ts_alloc(PASS_MAX * sizeof(*f.in))};
	int rc = f.in ? 0 : -ENOMEM;

	if (!rc)
		frees_collect(fs, &f);
	for (unsigned i = 0, end; i < f.n; i = end) {
		uint32_t region = region_of(fs, f.in[i]);

		for (end = i + 1; end < f.n && region_of(fs, f.in[end]) == region; end++)
			;
		if (region == UINT32_MAX) {
			fs_stop(fs, "a free of %#llx names no region: run fsck", (unsigned long long)f.in[i]->a);
			rc = -EUCLEAN;
		}
		if (rc) {
			for (unsigned k = i; k < end; k++)
				f.in[k]->busy = false;
			continue;
		}
		rc = apply_region(fs, region, f.in + i, end - i, fs->reaper->urgent || f.n + f.left > CROWD);
	}
	ts_free(f.in);
	return rc ? rc : (int)TS_MIN(f.left, (unsigned)INT32_MAX);
}

/* ---- the fiber -------------------------------------------------------------------------------------------------------- */
static bool over(const struct fs *fs)
{
	return fs->stopping_threads || fs->run == FS_RUN_STOPPED;
}

static int pass(struct fs *fs)
{
	struct fs_reaper *r = fs->reaper;
	uint64_t now = ts_exec_now(fs->exec);
	int rc = 0;

	if (now >= r->next_walk || r->urgent) {
		orphans_walk(fs);
		parked_walk(r);
		r->next_walk = now + IDLE_NS;
	}
	if (r->urgent || r->crowd)
		rc = fs_log_force(fs, fs_log_head(fs));
	if (!rc && (now >= r->next_free || r->urgent || r->crowd) && !ts_list_empty(fs_log_intents(fs))) {
		r->crowd = false;
		rc = frees_pass(fs);
		r->next_free = ts_exec_now(fs->exec) + TICK_NS;
	}
	r->passes++;
	ts_cond_broadcast(&r->passed);
	return rc < 0 ? rc : 0;
}

static void reaper_fiber(void *arg)
{
	struct fs *fs = arg;
	struct fs_reaper *r = fs->reaper;

	while (!over(fs)) {
		uint64_t next = orphans_start(fs);
		int rc;

		if (!r->kicked) {
			uint64_t tick = ts_exec_now(fs->exec) + (ts_list_empty(fs_log_intents(fs)) ? IDLE_NS : TICK_NS);

			(void)ts_cond_wait_until(&r->wake, TS_MIN(next, tick), "freed space and orphans", 0, 0);
		}
		r->kicked = false;
		if (over(fs))
			break;
		rc = pass(fs);
		if (rc && rc != -TS_ERR_FENCED && !over(fs))
			ts_warn("fs %s: freed space could not be given back (%d), tried again in %d ms", fs->super.name, rc,
				(int)(TICK_NS / TS_NS_PER_MS));
	}
	ts_cond_broadcast(&r->passed);
	ts_group_done(&fs->background, 0);
}

int fs_reaper_kick(struct fs *fs)
{
	if (fs->reaper) {
		fs->reaper->kicked = true;
		ts_cond_signal(&fs->reaper->wake);
	}
	if (fs->stopping_threads || fs->run == FS_RUN_STOPPED) {
		if (fs->reaper)
			ts_cond_broadcast(&fs->reaper->passed);
		if (fs->ialloc)
			ts_cond_broadcast(&fs->ialloc->wake);
		if (fs->icache)
			fs_icache_wake(fs);
		if (fs->datas)
			fs_share_wake(fs);
	}
	return 0;
}

void fs_reaper_crowd(struct fs *fs)
{
	if (fs->reaper && !fs->reaper->crowd) {
		fs->reaper->crowd = true;
		(void)fs_reaper_kick(fs);
	}
}

static bool urgent_goes_on(struct fs *fs, uint64_t deadline, uint64_t gen)
{
	return !over(fs) && ts_exec_now(fs->exec) < deadline && fs->alloc->gen[FS_REGION_DATA] == gen;
}

int fs_reaper_urgent(struct fs *fs, uint64_t wait_ns)
{
	struct fs_reaper *r = fs->reaper;
	uint64_t deadline = ts_exec_now(fs->exec) + wait_ns, gen = fs->alloc->gen[FS_REGION_DATA];
	unsigned quiet = 0;

	if (!r || !r->started)
		return 0;
	r->urgent++;
	ts_list_for(l, &r->queue)
	ts_list_entry(l, struct orphan, link)->next_try = 0;
	/* Until space came back, or two passes with no orphan being freed brought nothing. */
	while (quiet < 2 && urgent_goes_on(fs, deadline, gen) && (!ts_list_empty(fs_log_intents(fs)) || r->workers)) {
		uint64_t seen = r->passes;
		unsigned busy;

		fs_reaper_kick(fs);
		while (r->passes == seen && urgent_goes_on(fs, deadline, gen))
			(void)ts_cond_wait_until(&r->passed, deadline, "freed space", r->workers, 0);
		busy = r->workers;
		quiet = busy ? 0 : quiet + 1;
		while (busy && r->workers >= busy && urgent_goes_on(fs, deadline, gen))
			(void)ts_cond_wait_until(&r->passed, deadline, "orphans being freed", busy, 0);
	}
	r->urgent--;
	return over(fs) ? -EIO : 0;
}

static int spawn(struct fs *fs, const char *name, ts_fn fn)
{
	int rc;

	ts_group_add(&fs->background);
	rc = ts_fiber_spawn(fs->exec, name, fn, fs);
	if (rc)
		ts_group_done(&fs->background, 0);
	return rc;
}

int fs_reaper_start(struct fs *fs)
{
	struct fs_reaper *r = ts_alloc(sizeof(*r));
	int rc;

	if (!r)
		return -ENOMEM;
	ts_cond_init(&r->wake);
	ts_cond_init(&r->passed);
	ts_map_init(&r->orphans);
	ts_map_init(&r->inos);
	ts_list_init(&r->queue);
	ts_list_init(&r->parked);
	fs->reaper = r;
	rc = spawn(fs, "reaper", reaper_fiber);
	r->started = rc == 0;
	if (!rc)
		rc = spawn(fs, "inode filler", fs_ialloc_fiber);
	if (!rc)
		rc = spawn(fs, "lazy inodes", fs_icache_fiber);
	if (!rc)
		rc = fs_share_start(fs);
	return rc; /* what was started ends when the failed mount sets stopping_threads */
}

static int orphan_free(struct ts_map_node *n, void *arg)
{
	struct fs_reaper *r = arg;
	struct orphan *o = TS_CONTAINER(n, struct orphan, node);

	ts_map_remove(&r->orphans, n);
	ts_map_remove(&r->inos, &o->by_ino);
	ts_free(o);
	return 0;
}

void fs_reaper_fini(struct fs *fs)
{
	struct fs_reaper *r = fs->reaper;

	if (!r)
		return;
	(void)ts_map_each(&r->orphans, orphan_free, r);
	ts_map_fini(&r->orphans);
	ts_map_fini(&r->inos);
	ts_free(r);
	fs->reaper = NULL;
}
