/* SPDX-License-Identifier: Apache-2.0 */
/* How long requests take, who sends them, and what those wait for that are not answered yet. Must never happen: looking changes
 * anything, or counting waits or allocates. */
#include "fuse/fuse_int.h"

#define WAYS 4

/* The row of a process, within its few places the one that was quiet the longest makes room. */
static struct tfuse_user *user_of(struct tfuse *tf, uint32_t pid, uint32_t uid)
{
	struct tfuse_user *set = &tf->users[pid % (TFUSE_USERS / WAYS) * WAYS], *oldest = set;
	for (unsigned i = 0; i < WAYS; i++) {
		if (set[i].pid == pid && set[i].uid == uid)
			return &set[i];
		if (set[i].last_ns < oldest->last_ns)
			oldest = &set[i];
	}
	*oldest = (struct tfuse_user){.pid = pid, .uid = uid};
	return oldest;
}

void tf_watch_end(struct tf_req *q)
{
	struct tfuse *tf = q->tf;
	uint64_t now = ts_exec_now(tf->exec), ns = now - q->begun_ns;
	ts_hist_add(&tf->st.time[q->in->opcode], ns);
	if (!q->in->pid) /* the kernel's own: write-back, release */
		return;
	struct tfuse_user *u = user_of(tf, q->in->pid, q->in->uid);
	u->ops++;
	u->busy_ns += ns;
	u->last_ns = now;
	if (q->in->opcode == FUSE_READ && q->arg_len >= sizeof(struct fuse_read_in))
		u->read_bytes += ((const struct fuse_read_in *)(const void *)q->arg)->size;
	else if (q->in->opcode == FUSE_WRITE && q->arg_len >= sizeof(struct fuse_write_in))
		u->write_bytes += ((const struct fuse_write_in *)(const void *)q->arg)->size;
}

void tfuse_each_user(const struct tfuse *tf, void (*fn)(void *arg, const struct tfuse_user *u), void *arg)
{
	for (unsigned i = 0; i < TFUSE_USERS; i++)
		if (tf->users[i].ops)
			fn(arg, &tf->users[i]);
}

void tfuse_each_request(const struct tfuse *tf, void (*fn)(void *arg, const struct tfuse_request *r), void *arg)
{
	ts_list_for(l, &tf->requests) {
		const struct tf_req *q = ts_list_entry(l, const struct tf_req, link);
		struct tfuse_request r = {.op = tfuse_op_name(q->in->opcode), .ino = q->in->nodeid, .begun_ns = q->begun_ns, .pid = q->in->pid,
					  .uid = q->in->uid};
		if (q->fiber)
			r.waits_for = ts_fiber_waits_for(q->fiber, &r.a, &r.b, &r.since_ns);
		fn(arg, &r);
	}
}
