/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what this node does with the views of its group: it claims a log slot, knows who coordinates recovery (the lowest
 * member that has a slot), and recovers when that is itself. Must never happen: a slot's header written by two nodes: the group
 * gives a slot to one member at a time, and a member writes ACTIVE only after a view showed the slot as its own. */
#include "fs/disks.h"
#include "fs/recover_int.h"

#define LOOK_NS	     (500 * TS_NS_PER_MS)
#define CLAIM_NS     (2 * TS_NS_PER_S)
#define RETRY_NS     TS_NS_PER_S
#define RETRIES_MAX  10
#define TOLD_EVERY   30

static const struct quorum_member *self(const struct fs *fs)
{
	for (unsigned i = 0; i < fs->gview.nmembers; i++)
		if (fs->gview.members[i].node == fs->self && fs->gview.members[i].incarnation == fs->incarnation)
			return &fs->gview.members[i];
	return NULL;
}

const struct quorum_member *fs_coordinator(const struct fs *fs)
{
	for (unsigned i = 0; i < fs->gview.nmembers; i++)
		if (fs->gview.members[i].slot != UINT32_MAX)
			return &fs->gview.members[i]; /* sorted by node */
	return NULL;
}

static bool coordinating(const struct fs *fs)
{
	const struct quorum_member *c = fs_coordinator(fs);

	return c && c == self(fs) && fs->gview.quorate && fs->gview.epoch >= fs->yielded_epoch;
}

void fs_group_view(struct fs *fs, const struct quorum_group_view *g)
{
	if (g->group != fs->group || (fs->gview.epoch && g->epoch < fs->gview.epoch))
		return;
	fs->gview = *g;
	if (fs->tok)
		tok_mgr_view(fs->tok, g);
	ts_cond_broadcast(&fs->gview_cond);
}

static int wait_view(struct fs *fs, uint64_t ns, const char *what)
{
	ts_cond_wait_until(&fs->gview_cond, ts_exec_now(fs->exec) + ns, what, fs->gview.epoch, fs->claim_slot);
	return fs->run == FS_RUN_STOPPED || fs->stopping_threads ? -EIO : 0;
}

/* ---- recovery ----------------------------------------------------------------------------------------------------- */

void fs_recover_request(struct fs *fs)
{
	fs->want_on_disk = true;
	ts_cond_broadcast(&fs->gview_cond);
}

/* -EAGAIN: another node coordinates. */
static int recover_now(struct fs *fs, bool on_disk)
{
	int rc;

	if (!coordinating(fs) || fs->recovering)
		return -EAGAIN;
	fs->recovering = true;
	fs->recovery.cannot_fence = false;
	fs_rec_step(fs, FS_REC_ASK, 0, 0);
	fs->recovery_ns = ts_exec_now(fs->exec);
	rc = fs_peers_yield(fs);
	if (!rc && !coordinating(fs))
		rc = -EAGAIN;
	if (!rc)
		rc = fs_disks_learn(fs); /* the log may name disks that came after this node read the table */
	if (!rc)
		rc = fs_recover_all(fs, on_disk);
	fs->recovering = false;
	if (rc && rc != -EAGAIN && !fs->recovery.cannot_fence)
		fs_rec_failed(fs, rc, fs_recovery_step_name(fs->recovery.now.step), UINT32_MAX);
	fs_rec_ended(fs, rc);
	fs_peers_ended(fs);
	return rc;
}

static void give_up_maybe(struct fs *fs, unsigned failures, int rc)
{
	if (fs->recovery.cannot_fence) {
		if (failures % TOLD_EVERY == 1)
			ts_err("%s: a dead node cannot be fenced (%s): what it held stays blocked. Make sure that it is switched off, then say "
			       "`tessera node confirm-dead NODE`; see `tessera diag recovery`",
			       fs->super.name, fs->recovery.now.error);
		return;
	}
	if (failures > RETRIES_MAX || rc == -EUCLEAN)
		fs_stop(fs, "the log of a dead node cannot be recovered (error %d): run tessera fsck on the unmounted file system", rc);
	else
		ts_warn("%s: recovery of a dead node failed (error %d), again in a second", fs->super.name, rc);
}

static void recovery_fiber(void *arg)
{
	struct fs *fs = arg;
	unsigned failures = 0;

	while (!fs->stop_recovery && fs->run != FS_RUN_STOPPED) {
		uint64_t epoch = fs->gview.epoch;
		int rc;

		if (!coordinating(fs) || (!fs->gview.npending && !fs->want_on_disk)) {
			ts_cond_wait(&fs->gview_cond, "recovery: nobody died", epoch, 0);
			continue;
		}
		rc = recover_now(fs, fs->want_on_disk || fs->run == FS_RUN_MOUNTING);
		if (rc && rc != -EAGAIN && fs->run != FS_RUN_STOPPED && !fs->stop_recovery)
			give_up_maybe(fs, ++failures, rc);
		if (!rc) {
			fs->want_on_disk = false;
			failures = 0;
		}
		if (rc || fs->gview.epoch == epoch) /* the view without the recovered is on its way */
			ts_cond_wait_until(&fs->gview_cond, ts_exec_now(fs->exec) + RETRY_NS, "recovery: next view", epoch, 0);
	}
	ts_group_done(&fs->recovery_group, 0);
}

int fs_view_start(struct fs *fs)
{
	int rc;

	ts_group_add(&fs->recovery_group);
	rc = ts_fiber_spawn(fs->exec, "recovery", recovery_fiber, fs);
	if (rc)
		ts_group_done(&fs->recovery_group, rc);
	return rc;
}

/* Mounting: until no log on disk belongs to an incarnation that is gone. */
int fs_view_wait_no_dead(struct fs *fs)
{
	for (;;) {
		const struct quorum_member *c = fs_coordinator(fs);
		bool wanted;
		int rc = fs_recover_wanted(fs, &wanted);

		if (rc || !wanted)
			return rc;
		if (c && c != self(fs))
			fs_peers_please(fs, c->node);
		fs_recover_request(fs);
		rc = wait_view(fs, LOOK_NS, "recovery of what crashed before");
		if (rc)
			return rc;
	}
}

/* ---- the claim of a slot ------------------------------------------------------------------------------------------ */

static bool slot_of_someone(const struct fs *fs, uint32_t slot)
{
	for (unsigned i = 0; i < fs->gview.nmembers; i++)
		if (fs->gview.members[i].slot == slot)
			return true;
	for (unsigned i = 0; i < fs->gview.npending; i++)
		if (fs->gview.pending[i].slot == slot)
			return true;
	return false;
}

/* Slots that could be ours: closed ones; those whose last owner left intents first. */
static int candidates(struct fs *fs, uint32_t *out, unsigned *n, uint32_t *dead)
{
	unsigned rest = 0;
	uint32_t other[FS_MAX_SLOTS];

	*n = 0;
	*dead = UINT32_MAX;
	for (uint32_t i = 0; i < le32_get(fs->super.nslots); i++) {
		struct fs_loghead_disk h;
		int rc;

		if (slot_of_someone(fs, i))
			continue;
		rc = fs_loghead_read(fs, i, &h);
		if (rc)
			return rc;
		fs_version_raise(fs, le64_get(h.lamport));
		if (le32_get(h.state) == FS_LOG_CLEAN && le64_get(h.tail_lsn) < le64_get(h.seal_lsn))
			out[(*n)++] = i;
		else if (le32_get(h.state) == FS_LOG_CLEAN || le32_get(h.state) == FS_LOG_FREE)
			other[rest++] = i;
		else
			*dead = i;
	}
	memcpy(out + *n, other, rest * sizeof(*out));
	*n += rest;
	return 0;
}

/* Mounters at the same time look at different ones. */
static unsigned rank(const struct fs *fs)
{
	unsigned r = 0;

	for (unsigned i = 0; i < fs->gview.nmembers && fs->gview.members[i].node != fs->self; i++)
		r += fs->gview.members[i].slot == UINT32_MAX;
	return r;
}

/* UINT32_MAX: none now, others are at work. */
static int pick(struct fs *fs, uint32_t *slot)
{
	uint32_t c[FS_MAX_SLOTS], dead;
	unsigned n;
	int rc = candidates(fs, c, &n, &dead);

	if (rc)
		return rc;
	*slot = n ? c[rank(fs) % n] : UINT32_MAX;
	if (!n && !fs_coordinator(fs))
		*slot = dead; /* every log crashed and nobody has a slot: recovered in place, then ours */
	return 0;
}

static bool full(const struct fs *fs)
{
	unsigned n = 0;

	for (unsigned i = 0; i < fs->gview.nmembers; i++)
		n += fs->gview.members[i].slot != UINT32_MAX;
	return n >= le32_get(fs->super.nslots);
}

static int claim(struct fs *fs)
{
	for (;;) {
		uint64_t deadline;
		uint32_t slot;
		int rc = pick(fs, &slot);

		if (rc)
			return rc;
		if (slot == UINT32_MAX && full(fs))
			return -EUSERS;
		if (slot == UINT32_MAX) {
			rc = wait_view(fs, LOOK_NS, "a free log slot");
			if (rc)
				return rc;
			continue;
		}
		fs->claim_slot = slot;
		rc = quorum_group_join(fs->args.quorum, fs->group, slot);
		deadline = ts_exec_now(fs->exec) + CLAIM_NS;
		while (!rc && ts_exec_now(fs->exec) < deadline) {
			const struct quorum_member *me = self(fs);

			if (me && me->slot == slot) {
				fs->slot = slot;
				return 0;
			}
			if (slot_of_someone(fs, slot))
				break; /* another was first */
			rc = wait_view(fs, LOOK_NS, "log slot claim");
		}
		if (rc)
			return rc;
	}
}

/* Joins, owns a slot whose log is closed. */
int fs_view_join(struct fs *fs)
{
	int rc = quorum_group_join(fs->args.quorum, fs->group, UINT32_MAX);

	while (!rc && !self(fs))
		rc = wait_view(fs, LOOK_NS, "the group's view");
	if (!rc)
		rc = claim(fs);
	while (!rc) {
		struct fs_loghead_disk h;

		rc = fs_loghead_read(fs, fs->slot, &h);
		if (rc || le32_get(h.state) == FS_LOG_FREE || le32_get(h.state) == FS_LOG_CLEAN)
			break;
		rc = recover_now(fs, true);
		if (rc == -EAGAIN)
			rc = wait_view(fs, LOOK_NS, "recovery of this node's log slot");
	}
	return rc;
}
