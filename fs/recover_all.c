/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the dead of a file system, all of them: fenced on every disk or their leases waited for, then their logs recovered in an
 * order in which no adopter's log is closed before the log it adopted from. Must never happen: a log looked at while its
 * owner's writes may still land; a member taken for dead because a view is late. */
#include "fs/recover_int.h"

#include <stdio.h>

#define BARRIER_NS (20 * TS_NS_PER_MS)

struct dead {
	uint32_t slot;
	unsigned node;
	uint64_t incarnation;
	uint64_t sealed_by; /* 0: not sealed */
	bool pending, done;
};
struct dead_list {
	struct dead d[FS_MAX_SLOTS + QUORUM_MAX_NODES];
	unsigned n;
};

static bool member(const struct quorum_group_view *g, unsigned node, uint64_t incarnation)
{
	for (unsigned i = 0; i < g->nmembers; i++)
		if (g->members[i].node == node && g->members[i].incarnation == incarnation)
			return true;
	return false;
}

static struct dead *find(struct dead_list *l, unsigned node, uint64_t incarnation)
{
	for (unsigned i = 0; i < l->n; i++)
		if (l->d[i].node == node && l->d[i].incarnation == incarnation)
			return &l->d[i];
	return NULL;
}

/* Open logs on disk whose owners are not members now. */
static int look_at_slots(struct fs *fs, struct dead_list *l)
{
	for (uint32_t i = 0; i < le32_get(fs->super.nslots); i++) {
		struct fs_loghead_disk h;
		struct dead *d;
		int rc = fs_loghead_read(fs, i, &h);

		if (rc)
			return rc;
		fs_version_raise(fs, le64_get(h.lamport));
		if (le32_get(h.state) != FS_LOG_ACTIVE && le32_get(h.state) != FS_LOG_SEALED)
			continue;
		d = find(l, le32_get(h.node), le64_get(h.incarnation));
		if (!d) {
			d = &l->d[l->n++];
			*d = (struct dead){.node = le32_get(h.node), .incarnation = le64_get(h.incarnation)};
		}
		d->slot = i;
		d->sealed_by = le32_get(h.state) == FS_LOG_SEALED ? le64_get(h.sealed_by) : 0;
	}
	return 0;
}

static void add_pending(const struct quorum_group_view *g, struct dead_list *l)
{
	for (unsigned i = 0; i < g->npending; i++) {
		struct dead *d = find(l, g->pending[i].node, g->pending[i].incarnation);

		if (!d) {
			d = &l->d[l->n++];
			*d = (struct dead){.slot = UINT32_MAX, .node = g->pending[i].node, .incarnation = g->pending[i].incarnation};
		}
		d->pending = true;
	}
}

/* A sealed log's owner was fenced before the seal: dead for certain, and perhaps a pending node adopted from it. */
static void drop_living(const struct quorum_group_view *g, struct dead_list *l, bool on_disk)
{
	unsigned n = 0;

	for (unsigned i = 0; i < l->n; i++)
		if (l->d[i].pending || l->d[i].sealed_by || (on_disk && !member(g, l->d[i].node, l->d[i].incarnation)))
			l->d[n++] = l->d[i];
	l->n = n;
}

/* Until a renewal of our own lease that was sent after now has come back: whatever was agreed before now came before it, in
 * particular the joins of all whose headers we have read. */
static int barrier(struct fs *fs)
{
	uint64_t begin = ts_exec_now(fs->exec), lease = (uint64_t)fs->args.times.lease_ms * TS_NS_PER_MS;

	while (quorum_lease_until_ns(fs->args.quorum) <= begin + lease) {
		if (fs->run == FS_RUN_STOPPED || fs->stop_recovery)
			return -EIO;
		ts_sleep_until(ts_exec_now(fs->exec) + BARRIER_NS);
	}
	return 0;
}

static int list_dead(struct fs *fs, bool on_disk, struct dead_list *l)
{
	int rc;

	l->n = 0;
	if (!fs->args.quorum)
		return look_at_slots(fs, l);
	rc = look_at_slots(fs, l);
	if (!rc && on_disk)
		rc = barrier(fs); /* what is added to the view from here on was not on disk when we looked */
	add_pending(&fs->gview, l);
	drop_living(&fs->gview, l, on_disk);
	return rc;
}

int fs_recover_wanted(struct fs *fs, bool *wanted)
{
	struct dead_list *l = ts_alloc(sizeof(*l));
	int rc = l ? look_at_slots(fs, l) : -ENOMEM;

	*wanted = false;
	for (unsigned i = 0; !rc && i < l->n; i++)
		*wanted |= !member(&fs->gview, l->d[i].node, l->d[i].incarnation);
	ts_free(l);
	return rc;
}

/* ---- fences, leases, settling ------------------------------------------------------------------------------------- */

bool fs_recover_settles(const struct fs *fs)
{
	return fs->args.quorum != NULL;
}

void fs_recover_settle(struct fs *fs)
{
	ts_sleep_until(ts_exec_now(fs->exec) + (uint64_t)fs->args.times.settle_ms * TS_NS_PER_MS);
}

/* Not when it is us whom the disk refuses: then we are out, and another node decides. */
static int fenced_otherwise(struct fs *fs, unsigned disk, const struct dead *d, int rc, bool *leased)
{
	fs_rec_failed(fs, rc, "fence", disk);
	fs->recovery.cannot_fence = rc != -TS_ERR_FENCED;
	if (!fs->recovery.cannot_fence || !fs->args.fence_otherwise ||
	    fs->args.fence_otherwise(fs->args.key_arg, d->node, d->incarnation, disk, rc)) {
		ts_err("%s: node %u cannot be fenced on disk %u (error %d): its log is not replayed yet", fs->super.name, d->node, disk, rc);
		return rc;
	}
	ts_warn("%s: node %u could not be fenced on disk %u (error %d), but is known to be off: going on when its lease is over",
		fs->super.name, d->node, disk, rc);
	fs->recovery.cannot_fence = false;
	*leased = true;
	return 0;
}

static int fence_on(struct fs *fs, unsigned disk, const struct dead *d, bool *leased)
{
	struct nsd_dev *dev = fs->disks[disk].dev;
	int rc;

	if (!dev) /* no disk any more, or none yet */
		return 0;
	if (!fs->args.key_of || !fs->args.pr_key || !nsd_info(dev)->has_reservations) {
		*leased = true;
		return 0;
	}
	rc = nsd_pr_fence(dev, fs->args.pr_key, fs->args.key_of(fs->args.key_arg, d->node, d->incarnation));
	if (fs->recovery.fault_fence && fs->recovery.fault_fence--)
		rc = -EIO;
	if (rc == -EOPNOTSUPP) {
		*leased = true;
		rc = 0;
	}
	if (rc == -ENOENT)
		rc = 0; /* was not registered here */
	return rc ? fenced_otherwise(fs, disk, d, rc, leased) : 0;
}

static int wait_lease(struct fs *fs, const struct dead *d)
{
	for (;;) {
		uint64_t end = quorum_dead_lease_end_ns(fs->args.quorum, d->node, d->incarnation);

		if (!end || end <= ts_exec_now(fs->exec))
			return 0;
		if (fs->run == FS_RUN_STOPPED)
			return -EIO;
		ts_sleep_until(end);
	}
}

static int fence_all(struct fs *fs, struct dead_list *l)
{
	for (unsigned i = 0; i < l->n; i++) {
		bool leased = false;
		int rc = 0;

		fs_rec_step(fs, FS_REC_FENCE, l->d[i].node, l->d[i].incarnation);
		for (unsigned k = 0; k < fs->ndisks && !rc; k++)
			rc = fence_on(fs, k, &l->d[i], &leased);
		if (!rc && leased) {
			fs_rec_step(fs, FS_REC_LEASE, l->d[i].node, l->d[i].incarnation);
			rc = wait_lease(fs, &l->d[i]);
		}
		if (rc)
			return rc;
	}
	return 0;
}

/* ---- all of them -------------------------------------------------------------------------------------------------- */

/* Not before a log that this one may have adopted from: its marker is needed until that one is closed. */
static bool may_go(const struct dead_list *l, const struct dead *d)
{
	for (unsigned i = 0; i < l->n; i++)
		if (!l->d[i].done && &l->d[i] != d && l->d[i].sealed_by == d->incarnation)
			return false;
	return true;
}

static int recover_list(struct fs *fs, struct dead_list *l, struct fs_gaps *gaps)
{
	for (unsigned left = l->n; left;) {
		unsigned before = left;

		for (unsigned i = 0; i < l->n; i++) {
			struct dead *d = &l->d[i];
			int rc;

			if (d->done || !may_go(l, d))
				continue;
			rc = d->slot == UINT32_MAX ? 0 : fs_recover_slot(fs, d->slot, d->node, d->incarnation, gaps);
			if (rc)
				return rc;
			d->done = true;
			left--;
		}
		if (left == before)
			return -EUCLEAN; /* two logs each sealed by the other: impossible */
	}
	return 0;
}

/* Where the time went, for whoever waited for it. */
enum { T_BEGUN, T_LISTED, T_FENCED, T_SETTLED, T_ENDED, T_COUNT };

static void say_how_long(const struct fs *fs, unsigned n, const uint64_t *t)
{
	uint64_t ms[T_COUNT], all = (t[T_ENDED] - t[T_BEGUN]) / TS_NS_PER_MS;

	for (unsigned i = 1; i < T_COUNT; i++)
		ms[i] = (t[i] - t[i - 1]) / TS_NS_PER_MS;
	ts_notice("%s: recovery of %u dead took %lu ms: the others asked %lu, fenced or leases over %lu, settled %lu, logs %lu",
		  fs->super.name, n, all, ms[T_LISTED], ms[T_FENCED], ms[T_SETTLED], ms[T_ENDED]);
}

int fs_recover_all(struct fs *fs, bool on_disk)
{
	struct dead_list *l = ts_alloc(sizeof(*l));
	struct fs_gaps gaps = {0};
	uint64_t t[T_COUNT] = {fs->recovery_ns};
	int rc;

	fs_rec_step(fs, FS_REC_LIST, 0, 0);
	rc = l ? list_dead(fs, on_disk, l) : -ENOMEM;
	t[T_LISTED] = t[T_FENCED] = t[T_SETTLED] = ts_exec_now(fs->exec);
	if (!rc && l->n && fs_recover_settles(fs)) {
		unsigned n = l->n;

		rc = fence_all(fs, l);
		t[T_FENCED] = ts_exec_now(fs->exec);
		if (!rc) {
			fs_rec_step(fs, FS_REC_SETTLE, 0, 0);
			fs_recover_settle(fs);
			rc = look_at_slots(fs, l); /* what they wrote last; others are not our business */
			l->n = n;
		}
		t[T_SETTLED] = ts_exec_now(fs->exec);
	}
	if (!rc)
		rc = recover_list(fs, l, &gaps);
	if (!rc)
		rc = fs_gaps_closed(fs, &gaps);
	ts_free(gaps.v);
	if (!rc)
		fs_rec_step(fs, FS_REC_REPORT, 0, 0);
	for (unsigned i = 0; !rc && i < l->n; i++)
		if (l->d[i].pending)
			rc = quorum_group_recovered(fs->args.quorum, fs->group, l->d[i].node, l->d[i].incarnation);
	fs->recovered += rc ? 0 : l->n;
	t[T_ENDED] = ts_exec_now(fs->exec);
	if (!rc && l->n && fs->args.quorum)
		say_how_long(fs, l->n, t);
	ts_free(l);
	return rc;
}

int fs_recover_offline(struct fs *fs, unsigned *count)
{
	unsigned before = fs->recovered;
	int rc;

	TS_ASSERT(!fs->log && !fs->args.quorum);
	rc = fs_recover_all(fs, true);
	*count = fs->recovered - before;
	return rc;
}
