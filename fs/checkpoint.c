/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the tail of this node's log: dirty buffers brought home oldest first, old intents logged again, then the header; and
 * the fiber that does this in the background. Must never happen: a header whose tail passes a record that a replay would still
 * need: the tail is computed first, then everything committed is forced, then the header is written. */
#include "fs/buf_int.h"
#include "fs/log_int.h"

#define BEAT_NS	  TS_NS_PER_S
#define FORCE_NS  (5 * TS_NS_PER_S) /* bounds what a crash loses */
#define IDLE_NS	  (5 * TS_NS_PER_S)

uint64_t fs_log_tail(struct fs *fs)
{
	struct fs_logstate *g = fs->log;
	uint64_t tail = TS_MIN(fs_log_begin_of_next(g), fs_home_first_lsn(fs));

	TS_ASSERT(!g->tx);
	if (!ts_list_empty(&g->closed))
		tail = TS_MIN(tail, ts_list_entry(g->closed.next, struct fs_frame, link)->lsn);
	if (!ts_list_empty(&g->intents))
		tail = TS_MIN(tail, ts_list_entry(g->intents.next, struct fs_intent, link)->hold_lsn);
	return TS_MIN(tail, g->hold_lsn);
}

int fs_log_header_write(struct fs *fs, enum fs_log_state state, uint64_t tail, uint64_t seal)
{
	struct fs_logstate *g = fs->log;
	int rc;

	g->head.slot = le32_make(fs->slot);
	g->head.state = le32_make(state);
	g->head.node = le32_make(fs->self);
	g->head.incarnation = le64_make(fs->incarnation);
	g->head.tail_lsn = le64_make(tail);
	g->head.seal_lsn = le64_make(seal);
	g->head.sealed_by = le64_make(0);
	g->head.lamport = le64_make(fs_version_next(fs));
	rc = fs_loghead_write(fs, fs->slot, &g->head);
	if (rc) {
		fs_stop(fs, "the header of log slot %u cannot be written (error %d)", fs->slot, rc);
		return rc;
	}
	g->tail = tail;
	ts_cond_broadcast(&g->space_cond);
	return 0;
}

int fs_log_checkpoint(struct fs *fs, uint64_t below, bool relog)
{
	struct fs_logstate *g = fs->log;
	uint64_t tail;
	int rc = 0;

	ts_mutex_lock(&g->ckpt_mutex, "checkpoint of another fiber");
	if (relog)
		rc = fs_intents_relog(fs, below);
	if (rc == -ENOSPC)
		fs_stop(fs, "log slot %u has no room for its %u intents", fs->slot, g->nintents);
	if (!rc)
		rc = fs_home_write_below(fs, below);
	if (!rc) {
		tail = fs_log_tail(fs);
		rc = fs_log_force(fs, fs_log_head(fs));
	}
	if (!rc && tail > g->tail) {
		rc = fs_log_header_write(fs, FS_LOG_ACTIVE, tail, 0);
		fs->stats.checkpoints++;
	}
	ts_mutex_unlock(&g->ckpt_mutex);
	return rc;
}

/* ---- background --------------------------------------------------------------------------------------------------- */

void fs_log_kick(struct fs *fs)
{
	if (fs->log)
		ts_cond_signal(&fs->log->kick_cond);
}

void fs_log_kick_home(struct fs *fs)
{
	if (!fs->log || fs->log->want_home)
		return;
	fs->log->want_home = true;
	fs_log_kick(fs);
}

void fs_log_wake_all(struct fs *fs)
{
	if (fs->bufs)
		ts_cond_broadcast(&fs->bufs->home_cond);
	if (!fs->log)
		return;
	ts_cond_broadcast(&fs->log->kick_cond);
	ts_cond_broadcast(&fs->log->space_cond);
	ts_cond_broadcast(&fs->log->force_cond);
}

static bool idle(struct fs *fs, uint64_t now)
{
	struct fs_logstate *g = fs->log;

	if (fs->stats.tx_commits != g->last_commits) {
		g->last_commits = fs->stats.tx_commits;
		g->idle_since_ns = now;
	}
	return now - g->idle_since_ns >= IDLE_NS && fs->bufs->ndirty;
}

static int beat(struct fs *fs)
{
	struct fs_logstate *g = fs->log;
	uint64_t now = ts_exec_now(fs->exec), used = fs_log_begin_of_next(g) - g->tail;
	int rc = 0;

	if (g->want_force || (g->last_lsn > g->stable && now - g->open_since_ns >= FORCE_NS)) {
		g->want_force = false;
		rc = fs_log_force(fs, g->last_lsn);
	}
	if (rc)
		return rc;
	if (g->want_ckpt || used > g->ring / 2) {
		g->want_ckpt = false;
		rc = fs_log_checkpoint(fs, fs_log_begin_of_next(g) - TS_MIN(used, g->ring / 4), true);
	}
	if (!rc && (g->want_home || idle(fs, now))) {
		g->want_home = false;
		rc = fs_log_checkpoint(fs, fs_log_begin_of_next(g), false);
	}
	return rc;
}

static void background(void *arg)
{
	struct fs *fs = arg;
	struct fs_logstate *g = fs->log;

	while (!g->ending_fiber && fs->run != FS_RUN_STOPPED) {
		if (!g->want_force && !g->want_ckpt && !g->want_home)
			ts_cond_wait_until(&g->kick_cond, ts_exec_now(fs->exec) + BEAT_NS, "log: nothing to do", g->last_lsn, g->stable);
		if (g->ending_fiber || beat(fs))
			break;
	}
	ts_group_done(&g->fiber, 0);
}

int fs_log_background(struct fs *fs)
{
	int rc;

	ts_group_add(&fs->log->fiber);
	rc = ts_fiber_spawn(fs->exec, "log", background, fs);
	if (rc)
		ts_group_done(&fs->log->fiber, rc);
	return rc;
}

/* Last of all fibers: until then others may wait for room in the log. */
void fs_log_end(struct fs *fs)
{
	if (!fs->log)
		return;
	fs->log->ending_fiber = true;
	fs_log_kick(fs);
	(void)ts_group_wait(&fs->log->fiber, "log fiber to end");
}

int fs_log_shutdown_clean(struct fs *fs)
{
	struct fs_logstate *g = fs->log;
	int rc;

	fs_log_end(fs);
	rc = fs_log_checkpoint(fs, UINT64_MAX, true);
	if (!rc) /* nothing is dirty: a tail behind everything but the intents, which were just logged again */
		rc = fs_log_force(fs, fs_log_head(fs));
	if (!rc)
		rc = fs_log_header_write(fs, FS_LOG_CLEAN, fs_log_tail(fs), g->stable);
	g->failed = true; /* nothing may be logged any more */
	return rc;
}
