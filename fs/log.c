/* SPDX-License-Identifier: Apache-2.0 */
/* Job: this node's log: frames filled by commits, written and flushed by whoever forces first (the others share it), room
 * reserved before a transaction begins. Must never happen: a frame written before the data its transactions point to is stable
 * (law 3); a frame that overwrites what the header's tail still names; an LSN called stable before its flush has ended. */
#include "fs/buf_int.h"
#include "fs/alloc_int.h"
#include "fs/log_int.h"

#define TX_DEFAULT    (64u << 10)
#define INTENT_SLOW_MS 100 /* a transaction waits so long when too many intents live: the reaper shall keep up */

uint64_t fs_log_stable(const struct fs *fs)
{
	return fs->log->stable;
}

uint64_t fs_log_head(const struct fs *fs)
{
	return fs->log->last_lsn;
}

uint64_t fs_version_next(struct fs *fs)
{
	if (fs->args.net)
		return net_lamport_tick(fs->args.net);
	return ++fs->lamport; /* offline: raised by what was read */
}

void fs_version_raise(struct fs *fs, uint64_t seen)
{
	if (fs->args.net)
		net_lamport_raise(fs->args.net, seen);
	else
		fs->lamport = TS_MAX(fs->lamport, seen);
}

uint64_t fs_log_begin_of_next(const struct fs_logstate *g)
{
	return g->open ? g->open->lsn : g->next_lsn;
}

/* ---- frames ------------------------------------------------------------------------------------------------------- */

/* Where the log would end if a transaction of this many bytes came now. */
static uint64_t end_with(const struct fs_logstate *g, size_t bytes)
{
	uint64_t at = g->next_lsn, to_end;

	if (g->open) {
		if (bytes <= g->open->room - g->open->used)
			return g->open->lsn + TS_ALIGN_UP(g->open->used + bytes, FS_SUB);
		at = g->open->lsn;
		if (g->open->used > sizeof(struct fs_frame_disk))
			at += TS_ALIGN_UP(g->open->used, FS_SUB);
	}
	bytes = TS_ALIGN_UP(bytes + sizeof(struct fs_frame_disk), FS_SUB);
	to_end = g->ring - at % g->ring;
	return at + bytes + (bytes > to_end ? to_end : 0);
}

bool fs_log_fits(const struct fs_logstate *g, size_t bytes, uint64_t keep_free)
{
	return end_with(g, bytes) - g->tail <= g->ring - keep_free;
}

static struct fs_frame *frame_take(struct fs_logstate *g)
{
	struct fs_frame *f = ts_list_entry(ts_list_pop_front(&g->free), struct fs_frame, link);

	TS_ASSERT(g->nfree);
	g->nfree--;
	f->lsn = g->next_lsn;
	f->used = sizeof(struct fs_frame_disk);
	return f;
}

static void frame_close(struct fs_logstate *g, struct fs_frame *f, uint32_t len)
{
	f->len = len;
	g->next_lsn = f->lsn + len;
	ts_list_push_back(&g->closed, &f->link);
}

static void close_open(struct fs_logstate *g)
{
	struct fs_frame *f = g->open;

	if (!f || f->used == sizeof(struct fs_frame_disk))
		return;
	g->open = NULL;
	frame_close(g, f, (uint32_t)TS_ALIGN_UP(f->used, FS_SUB));
}

static void frame_open(struct fs_logstate *g, size_t bytes)
{
	uint64_t to_end = g->ring - g->next_lsn % g->ring;

	if (g->open) { /* empty, but too small for this one: at the ring's end */
		ts_list_push_front(&g->free, &g->open->link);
		g->nfree++;
		g->open = NULL;
	}
	if (bytes + sizeof(struct fs_frame_disk) > to_end) {
		frame_close(g, frame_take(g), (uint32_t)to_end); /* padding: only its first block is written */
		to_end = g->ring;
	}
	g->open = frame_take(g);
	g->open->room = (uint32_t)TS_MIN((uint64_t)g->frame_max, to_end);
	TS_ASSERT(bytes <= g->open->room - g->open->used);
}

struct fs_frame *fs_log_frame(struct fs *fs, size_t bytes)
{
	struct fs_logstate *g = fs->log;

	TS_ASSERT(fs_log_fits(g, bytes, 0));
	if (g->open && bytes <= g->open->room - g->open->used)
		return g->open;
	close_open(g);
	frame_open(g, bytes);
	if (!ts_list_empty(&g->closed)) {
		g->want_force = true;
		fs_log_kick(fs);
	}
	return g->open;
}

void fs_log_committed(struct fs *fs, uint64_t lsn)
{
	struct fs_logstate *g = fs->log;

	TS_ASSERT(lsn >= g->last_lsn);
	if (g->last_lsn <= g->stable)
		g->open_since_ns = ts_exec_now(fs->exec);
	g->last_lsn = lsn;
}

/* ---- force -------------------------------------------------------------------------------------------------------- */

struct round {
	struct ts_list frames;
	struct ts_group group;
	uint64_t end;
};

static void frame_written(struct nsd_req *r, int rc)
{
	ts_group_done(r->arg, rc);
}

static void frame_send(struct fs *fs, struct fs_frame *f, struct ts_group *group)
{
	struct fs_logstate *g = fs->log;
	uint32_t payload = f->used - (uint32_t)sizeof(struct fs_frame_disk);
	uint32_t bytes = (uint32_t)TS_ALIGN_UP(f->used, FS_SUB);

	memset(f->buf + f->used, 0, bytes - f->used);
	fs_frame_seal(f->buf, &g->id, f->lsn, f->len, payload, g->tail);
	f->iov = (struct iovec){f->buf, bytes};
	ts_group_add(group);
	fs_io_submit_meta(fs, &f->req, NSD_WRITE, g->ring_addr + f->lsn % g->ring / FS_SUB, &f->iov, 1, frame_written, group);
	fs->stats.log_frames++;
	fs->stats.log_bytes += bytes;
}

static int round_write(struct fs *fs, struct round *r)
{
	int rc = fs_io_flush_data(fs); /* law 3 */

	if (rc)
		return rc;
	ts_group_init(&r->group);
	ts_list_for(i, &r->frames)
		frame_send(fs, ts_list_entry(i, struct fs_frame, link), &r->group);
	rc = ts_group_wait(&r->group, "log write");
	return rc ? rc : fs_io_flush_addr(fs, fs->log->ring_addr);
}

/* Everything committed so far becomes stable. What is committed meanwhile goes into the next frame. */
static int force_round(struct fs *fs)
{
	struct fs_logstate *g = fs->log;
	struct round r;
	struct ts_list *l;
	int rc;
	uint64_t begun = ts_exec_now(fs->exec);

	close_open(g);
	r.end = g->next_lsn;
	ts_list_init(&r.frames);
	while ((l = ts_list_pop_front(&g->closed)))
		ts_list_push_back(&r.frames, l);
	rc = round_write(fs, &r);
	while ((l = ts_list_pop_front(&r.frames))) {
		ts_list_push_back(&g->free, l);
		g->nfree++;
	}
	if (rc) {
		g->failed = true;
		fs_stop(fs, rc == -TS_ERR_FENCED ? "the log cannot be written: this node is fenced" : "the log cannot be written (error %d)",
			rc);
		return rc;
	}
	fs->stats.log_forces++;
	ts_hist_add(&fs->stats.force_time, ts_exec_now(fs->exec) - begun);
	g->stable = r.end;
	g->open_since_ns = ts_exec_now(fs->exec);
	return 0;
}

int fs_log_force(struct fs *fs, uint64_t lsn)
{
	struct fs_logstate *g = fs->log;

	if (!g)
		return 0; /* nothing was ever committed */
	TS_ASSERT(!g->tx && lsn <= g->last_lsn);
	while (g->stable < lsn) {
		if (g->failed || fs->run == FS_RUN_STOPPED)
			return -EIO;
		if (g->forcing) {
			ts_cond_wait(&g->force_cond, "log force", lsn, g->stable);
			continue;
		}
		g->forcing = true;
		if (force_round(fs) == 0)
			ts_cond_broadcast(&g->space_cond);
		g->forcing = false;
		ts_cond_broadcast(&g->force_cond);
	}
	return 0;
}

int fs_log_wait_frames(struct fs *fs)
{
	struct fs_logstate *g = fs->log;

	while (g->nfree < 2) { /* one for padding, one for the records */
		uint64_t lsn = g->last_lsn;
		int rc = fs_log_force(fs, lsn);

		if (rc)
			return rc;
		if (g->nfree < 2 && g->forcing)
			ts_cond_wait(&g->force_cond, "log frames", lsn, g->stable);
	}
	return 0;
}

/* ---- room --------------------------------------------------------------------------------------------------------- */

/* The reaper works off intents with transactions of its own: nobody waits for it for long, only gives it time. */
static void slow_down(struct fs *fs)
{
	struct fs_logstate *g = fs->log;

	if ((uint64_t)g->nintents * FS_REC_INTENT_BYTES <= g->ring / 16)
		return;
	fs_reaper_crowd(fs);
	ts_cond_wait_until(&g->space_cond, ts_exec_now(fs->exec) + INTENT_SLOW_MS * TS_NS_PER_MS, "intents of freed space",
			   g->nintents, 0);
}

int fs_log_reserve(struct fs *fs, size_t bytes)
{
	slow_down(fs);
	return fs_log_reserve_reaper(fs, bytes);
}

int fs_log_reserve_reaper(struct fs *fs, size_t bytes)
{
	struct fs_logstate *g = fs->log;
	int rc;

	TS_ASSERT(!g->tx);
	bytes = TS_MIN(bytes ? bytes : (size_t)TX_DEFAULT, (size_t)g->frame_max - sizeof(struct fs_frame_disk));
	for (;;) {
		if (fs->run == FS_RUN_STOPPED || g->failed)
			return -EIO;
		rc = fs_log_wait_frames(fs);
		if (rc)
			return rc;
		if (fs_log_fits(g, bytes, g->reserve))
			break;
		g->want_ckpt = true;
		fs_log_kick(fs);
		ts_cond_wait(&g->space_cond, "log space", end_with(g, bytes) - g->tail, g->ring);
	}
	if (end_with(g, bytes) - g->tail > g->ring / 2 && !g->want_ckpt) {
		g->want_ckpt = true;
		fs_log_kick(fs);
	}
	return fs_intent_spare(fs, (unsigned)(bytes / FS_REC_INTENT_BYTES) + 1);
}

/* ---- life --------------------------------------------------------------------------------------------------------- */

static int state_new(struct fs *fs, struct fs_logstate **out)
{
	struct fs_logstate *g = ts_alloc(sizeof(*g));

	if (!g)
		return -ENOMEM;
	fs->log = g;
	ts_list_init(&g->free);
	ts_list_init(&g->closed);
	ts_list_init(&g->intents);
	ts_list_init(&g->staged);
	ts_list_init(&g->ending);
	ts_list_init(&g->spare);
	ts_map_init(&g->by_number);
	ts_cond_init(&g->force_cond);
	ts_cond_init(&g->space_cond);
	ts_cond_init(&g->kick_cond);
	ts_mutex_init(&g->ckpt_mutex);
	ts_group_init(&g->fiber);
	g->hold_lsn = UINT64_MAX;
	g->next_number = 1;
	g->ring = fs_log_ring_bytes(fs);
	g->frame_max = (uint32_t)TS_MIN((uint64_t)FS_FRAME_MAX, TS_ALIGN_DOWN(g->ring / 4, FS_SUB));
	g->reserve = g->ring / 4;
	g->head_addr = fs_loghead_addr(fs, fs->slot);
	g->ring_addr = g->head_addr + 2;
	g->id = (struct fs_frame_id){.slot = fs->slot, .incarnation = fs->incarnation};
	memcpy(g->id.fs_id8, fs->super.fs_id, sizeof(g->id.fs_id8));
	g->scratch = ts_alloc(g->frame_max / 2);
	for (unsigned i = 0; i < FS_LOG_FRAMES && g->scratch; i++) {
		g->frames[i].buf = ts_alloc_aligned(FS_SUB, g->frame_max);
		if (!g->frames[i].buf)
			break;
		ts_list_push_back(&g->free, &g->frames[i].link);
		g->nfree++;
	}
	*out = g;
	return g->nfree == FS_LOG_FRAMES ? 0 : -ENOMEM;
}

static int reserve_map(struct fs_logstate *g)
{
	struct ts_map_node dummy;
	int rc = ts_map_insert(&g->by_number, &dummy, 0);

	if (!rc)
		ts_map_remove(&g->by_number, &dummy);
	return rc;
}

/* What the predecessor left is logged under our own incarnation, behind its end, before the header says that this is our
 * log: one header write makes the old intents ours, or leaves them where they are. */
static int take_over(struct fs *fs, struct fs_logstate *g)
{
	uint64_t start = TS_MAX(le64_get(g->head.seal_lsn), g->ring);
	int rc;

	g->next_lsn = g->stable = g->last_lsn = start;
	g->tail = le32_get(g->head.state) == FS_LOG_CLEAN ? le64_get(g->head.tail_lsn) : start;
	if (g->tail < le64_get(g->head.seal_lsn)) {
		rc = fs_replay_inherit(fs, &g->head);
		if (!rc)
			rc = fs_intents_relog(fs, UINT64_MAX);
		if (!rc)
			rc = fs_log_force(fs, g->last_lsn);
		if (rc)
			return rc;
	}
	return fs_log_header_write(fs, FS_LOG_ACTIVE, start, 0);
}

int fs_log_init(struct fs *fs)
{
	struct fs_logstate *g;
	int rc = state_new(fs, &g);

	if (!rc)
		rc = reserve_map(g);
	if (!rc)
		rc = fs_loghead_read(fs, fs->slot, &g->head);
	if (!rc && le32_get(g->head.state) != FS_LOG_FREE && le32_get(g->head.state) != FS_LOG_CLEAN)
		rc = -EBUSY;
	if (!rc) {
		fs_version_raise(fs, le64_get(g->head.lamport));
		fs->log_begun = true;
		rc = take_over(fs, g);
	}
	if (!rc)
		rc = fs_log_background(fs);
	if (rc)
		fs_log_fini(fs);
	return rc;
}

void fs_log_fini(struct fs *fs)
{
	struct fs_logstate *g = fs->log;

	if (!g)
		return;
	for (unsigned i = 0; i < FS_LOG_FRAMES; i++)
		ts_free(g->frames[i].buf);
	fs_intents_free(fs);
	ts_free(g->scratch);
	ts_free(g);
	fs->log = NULL;
}
