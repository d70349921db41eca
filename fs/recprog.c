/* SPDX-License-Identifier: Apache-2.0 */
/* Job: where a recovery stands, for who looks at it from outside: the step, about whom, since when, how far, what went wrong last;
 * and the last ones that ended. Must never happen: a look that waits, or that changes what is recovered. */
#include "fs/recover_int.h"

#include <stdio.h>

const char *fs_recovery_step_name(enum fs_recovery_step s)
{
	static const char *const names[FS_REC_STEPS] = {
		[FS_REC_IDLE] = "idle",	    [FS_REC_ASK] = "ask",	[FS_REC_LIST] = "list",	    [FS_REC_FENCE] = "fence",
		[FS_REC_LEASE] = "lease",   [FS_REC_SETTLE] = "settle", [FS_REC_SEAL] = "seal",	    [FS_REC_REPLAY] = "replay",
		[FS_REC_VERIFY] = "verify", [FS_REC_ADOPT] = "adopt",	[FS_REC_CLOSE] = "close",   [FS_REC_REPORT] = "report",
	};

	return s < FS_REC_STEPS ? names[s] : NULL;
}

static uint64_t now(const struct fs *fs)
{
	return ts_exec_now(fs->exec);
}

void fs_rec_step(struct fs *fs, enum fs_recovery_step step, unsigned node, uint64_t incarnation)
{
	struct fs_recovery *r = &fs->recovery;

	if (r->now.step < FS_REC_STEPS)
		r->step_ns[r->now.step] += now(fs) - r->now.since_ns;
	if (r->now.step == FS_REC_IDLE && step != FS_REC_IDLE) {
		r->now.begun_ns = now(fs);
		r->now.attempts++;
		memset(r->step_ns, 0, sizeof(r->step_ns));
	}
	r->now.step = step;
	r->now.since_ns = now(fs);
	r->now.node = node;
	r->now.incarnation = incarnation;
	r->now.blocks = r->now.blocks_done = 0;
}

void fs_rec_failed(struct fs *fs, int rc, const char *what, unsigned disk)
{
	struct fs_recovery *r = &fs->recovery;

	r->now.rc = rc;
	snprintf(r->now.error, sizeof(r->now.error), "%s%s%.150s: %s", what, disk == UINT32_MAX ? "" : " on ",
		 disk == UINT32_MAX ? "" : nsd_url(fs->disks[disk].dev), strerror(-rc));
}

void fs_rec_logged(struct fs *fs, uint32_t slot, unsigned node, uint64_t incarnation, size_t records, size_t blocks, size_t intents)
{
	struct fs_recovery *r = &fs->recovery;

	r->past[r->npast++ % FS_REC_PAST] = (struct fs_recovered){.node = node, .incarnation = incarnation, .slot = slot,
								  .records = records, .blocks = blocks, .intents = intents,
								  .begun_ns = r->now.begun_ns, .end_ns = now(fs)};
}

void fs_rec_ended(struct fs *fs, int rc)
{
	struct fs_recovery *r = &fs->recovery;

	fs_rec_step(fs, FS_REC_IDLE, 0, 0);
	if (rc)
		return;
	r->now.attempts = 0;
	r->now.rc = 0;
	r->now.error[0] = 0;
}

void fs_recovery_get(const struct fs *fs, struct fs_recovery_info *out)
{
	const struct fs_recovery *r = &fs->recovery;
	const struct quorum_member *c = fs_coordinator(fs);

	*out = r->now;
	out->coordinator = c ? c->node : 0;
	out->done = r->npast;
	for (unsigned i = 0; i < FS_REC_STEPS; i++)
		out->step_ns[i] = r->step_ns[i];
	if (r->now.step != FS_REC_IDLE)
		out->step_ns[r->now.step] += now(fs) - r->now.since_ns;
}

unsigned fs_recovery_past(const struct fs *fs, struct fs_recovered *out, unsigned n)
{
	const struct fs_recovery *r = &fs->recovery;
	unsigned have = (unsigned)TS_MIN(r->npast, (uint64_t)FS_REC_PAST), i;

	for (i = 0; i < have && i < n; i++) /* the newest first */
		out[i] = r->past[(r->npast - 1 - i) % FS_REC_PAST];
	return i;
}

/* ---- does a log still grow? ------------------------------------------------------------------------------------------ */

#define SUM_BYTES (256u << 10)

int fs_slot_sum(struct fs *fs, uint32_t slot, uint64_t *sum)
{
	uint64_t ring = fs_log_ring_bytes(fs);
	fs_addr a = slot < le32_get(fs->super.nslots) ? le64_get(fs->slots[slot].addr[0]) + 2 : 0; /* behind its header's two blocks */
	uint8_t *buf;
	int rc = 0;

	*sum = 0;
	if (!a)
		return -EINVAL;
	if (fs->run != FS_RUN_LIVE || fs->stopping_threads)
		return -ESHUTDOWN;
	buf = ts_alloc_aligned(FS_SUB, SUM_BYTES);
	if (!buf)
		return -ENOMEM;
	ts_group_add(&fs->background); /* an unmount waits for us */
	for (uint64_t off = 0; off < ring && !rc; off += SUM_BYTES) {
		size_t n = (size_t)TS_MIN((uint64_t)SUM_BYTES, ring - off);

		rc = fs->stopping_threads ? -ESHUTDOWN : fs_io_read(fs, a + off / FS_SUB, buf, n);
		*sum = ts_csum64(buf, n, *sum);
	}
	ts_free(buf);
	ts_group_done(&fs->background, 0);
	return rc;
}

void fs_fault_fence(struct fs *fs, unsigned times)
{
	fs->recovery.fault_fence = times;
}
