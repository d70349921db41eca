/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's second look. ESTALE for an inode that another node freed between LOOKUP and OPEN (or SETATTR, ...) makes the kernel
 * walk the path again, once; a second ESTALE reaches the user. So whoever was answered ESTALE gets, with each LOOKUP of the second
 * walk, the inode held as if it were open: whatever comes next finds it. The hold goes with that request, with the next LOOKUP,
 * TF_RETRY_NS after it, or when its slot is needed.
 * Must never happen: a hold that outlives the mount; a hold without bound. */
#include "fuse/fuse_int.h"

#define TF_RETRY_NS (5 * TS_NS_PER_S)

static void slot_clear(struct tfuse *tf, struct tf_retry *r)
{
	if (!r->until)
		return;
	fs_hold_drop(tf->fs, &r->hold);
	*r = (struct tf_retry){0};
	tf->nretries--;
}

static struct tf_retry *slot_of(struct tfuse *tf, uint32_t pid)
{
	for (unsigned i = 0; tf->nretries && i < TF_RETRIES; i++)
		if (tf->retries[i].until && tf->retries[i].pid == pid)
			return &tf->retries[i];
	return NULL;
}

static void sweep(struct tfuse *tf)
{
	uint64_t now = ts_exec_now(tf->exec);
	for (unsigned i = 0; tf->nretries && i < TF_RETRIES; i++)
		if (tf->retries[i].until < now)
			slot_clear(tf, &tf->retries[i]);
}

static void note(struct tfuse *tf, uint32_t pid)
{
	struct tf_retry *r = slot_of(tf, pid);
	if (!r) { /* a free one, or the oldest */
		r = &tf->retries[0];
		for (unsigned i = 1; i < TF_RETRIES; i++)
			if (tf->retries[i].until < r->until)
				r = &tf->retries[i];
	}
	slot_clear(tf, r);
	r->pid = pid;
	r->until = ts_exec_now(tf->exec) + TF_RETRY_NS;
	tf->nretries++;
}

/* Is it the request that the walk was for? Others come on the way (GETATTR, GETXATTR), or late from an earlier open (RELEASE). */
static bool ends(const struct tf_req *q, uint64_t ino)
{
	switch (q->in->opcode) {
	case FUSE_OPEN:
	case FUSE_SETATTR:
	case FUSE_SETXATTR:
	case FUSE_REMOVEXATTR:
	case FUSE_LINK:
		return ino && (q->means[0].ino == ino || q->means[1].ino == ino);
	default:
		return false;
	}
}

void tf_retry_done(struct tf_req *q, int rc)
{
	struct tfuse *tf = q->tf;
	struct tf_retry *r;
	if (tf->nretries)
		sweep(tf);
	r = slot_of(tf, q->in->pid);
	if (rc == -ESTALE)
		note(tf, q->in->pid);
	else if (r && ends(q, fs_hold_ino(&r->hold)))
		slot_clear(tf, r);
}

int tf_retry_lookup(struct tf_req *q, const char *name, size_t len, struct fs_attr *a)
{
	struct fs_hold hold = {0};
	struct tf_retry *r = slot_of(q->tf, q->in->pid);
	int rc = fs_lookup_hold(q->tf->fs, &q->cred, q->in->nodeid, name, len, a, r ? &hold : NULL);
	r = slot_of(q->tf, q->in->pid); /* again: this waited */
	if (!r) {
		fs_hold_drop(q->tf->fs, &hold);
		return rc;
	}
	fs_hold_drop(q->tf->fs, &r->hold);
	r->hold = hold;
	r->until = ts_exec_now(q->tf->exec) + TF_RETRY_NS;
	return rc;
}

void tf_retry_clear(struct tfuse *tf)
{
	for (unsigned i = 0; i < TF_RETRIES; i++)
		slot_clear(tf, &tf->retries[i]);
}
