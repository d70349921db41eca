/* SPDX-License-Identifier: Apache-2.0 */
/* Names are taken back from the kernel before their directory's token goes (docs/decisions.md says how this was found).
 *
 *   drop begins: no name is handed out any more
 *     --> unanswered replies go out
 *     --> PRUNE: names and inodes nobody uses go, with no lock; the kernel FORGETs them
 *     --> the others, and names that are not there: EXPIRE_ONLY each, which waits for the directory's lock and so for whoever
 *         applies an answer that he got with that lock
 *     --> a name that was looked up again may be applied without it: its thread is seen to have gone on first
 *     --> nothing left: the directory rests
 *
 * The directory's lock may be held by a request that waits for the very token. Such a request takes the names back before it waits
 * (tf_names_before_wait); what it cannot get back because it holds the lock itself it leaves to a thread that is next in line for it,
 * and is answered ESTALE once, behind which the kernel begins it anew. If all this does not help for TF_LOCKED_NS, the entry epoch is
 * raised: it takes no lock, and drops every name of the mount, those of directories in use, too.
 *
 * Must never happen: a return from tf_inval_names while the kernel can answer from a name of the directory; a request answered
 * ESTALE twice. */
#include "fuse/fuse_int.h"
#include <sched.h>
#include <time.h>

#define TF_NOTIFY_INC_EPOCH 8 /* 7.44 */
#define TF_NOTIFY_PRUNE	    9 /* 7.45 */
#define TF_EXPIRE_ONLY	    1u
#define TF_PRUNE_MAX	    4096 /* inodes a call */
#define TF_LOCKED_NS	    (2 * TS_NS_PER_S)
#define TF_LOCKED_HURRY_NS  (500 * TS_NS_PER_MS) /* without quorum */
#define TF_PRUNE_TRIES	    5
#define TF_RAN_NS	    1000000 /* so long a thread does not run between being woken and applying an answer */
#define TF_LOOK_NS	    1000000
#define TF_BOUNCE_NS	    (5 * TS_NS_PER_S)
#define TF_BACK_NS	    (100 * TS_NS_PER_MS)
#define TF_BOUNCE_REST_NS   (2 * TS_NS_PER_S)

struct prune_msg {
	uint32_t count, padding;
	uint64_t spare;
	/* node ids follow */
};
_Static_assert(sizeof(struct prune_msg) == 16, "FUSE_NOTIFY_PRUNE");

struct expire_msg { /* fuse_notify_inval_entry_out, of which older headers do not know the flags */
	uint64_t parent;
	uint32_t namelen, flags;
	char name[TF_NAME_MAX + 1];
};
_Static_assert(offsetof(struct expire_msg, name) == sizeof(struct fuse_notify_inval_entry_out), "FUSE_NOTIFY_INVAL_ENTRY");

struct one { /* to be expired */
	struct tf_unlocked unlocked[TF_UNLOCKED];
	uint8_t len;
	char name[TF_NAME_MAX + 1];
};

/* ---- on notifier threads ---------------------------------------------------------------------------------------------- */

static int job_prune(struct tf_job *j)
{
	const uint64_t *id = j->data;
	int rc = 0;
	for (uint64_t i = 0; i < j->end && !rc; i += TF_PRUNE_MAX) {
		struct prune_msg m = {.count = (uint32_t)TS_MIN(j->end - i, (uint64_t)TF_PRUNE_MAX)};
		rc = tf_notify_write(j->tf, TF_NOTIFY_PRUNE, &m, sizeof(m), id + i, m.count * sizeof(*id));
	}
	return rc;
}

/* How long it has run, in ns; UINT64_MAX: it is not runnable (asleep elsewhere, or gone). */
static uint64_t thread_ran(uint32_t tid)
{
	char buf[256];
	if (tf_thread_state(tid) != 'R')
		return UINT64_MAX;
	return tf_proc_read(tid, "schedstat", buf, sizeof(buf)) ? strtoull(buf, NULL, 10) : 0;
}

/* A thread that was answered is runnable until it runs, and does not sleep before it has applied the answer. */
static void applied_wait(const struct tf_job *j, const struct tf_unlocked *u)
{
	const struct ts_env *env = ts_exec_env(j->tf->exec);
	if (!u->tid || ts_now_ns(env) >= u->ns + TF_APPLY_NS)
		return;
	uint64_t first = thread_ran(u->tid), ran = first;
	while (ran != UINT64_MAX && ran < first + TF_RAN_NS && ts_now_ns(env) < u->ns + TF_APPLY_NS && !atomic_load(&j->tf->is_gone)) {
		struct timespec ts = {0, 200000};
		nanosleep(&ts, NULL);
		ran = thread_ran(u->tid);
	}
}

/* The lock of a busy directory goes to whoever is awake; a waiter of real-time priority is handed it. */
static void in_line(bool first)
{
	struct sched_param p = {.sched_priority = first ? 1 : 0};
	(void)!sched_setscheduler(0, first ? SCHED_FIFO : SCHED_OTHER, &p); /* without the right to it the directory may be locked longer */
}

static int job_expire(struct tf_job *j)
{
	const struct one *o = j->data;
	int rc = 0;
	in_line(true);
	for (uint64_t i = 0; i < j->end && !atomic_load(&j->tf->is_gone); i++) {
		struct expire_msg m = {.parent = tf_nodeid(j->node->ino, j->node->gen), .namelen = o[i].len, .flags = TF_EXPIRE_ONLY};
		memcpy(m.name, o[i].name, o[i].len);
		for (unsigned k = 0; k < TF_UNLOCKED && !j->once; k++)
			applied_wait(j, &o[i].unlocked[k]);
		int e = tf_notify_write(j->tf, FUSE_NOTIFY_INVAL_ENTRY, &m, offsetof(struct expire_msg, name) + o[i].len + 1u, NULL, 0);
		if (e && e != -ENOENT && e != -ENOTDIR)
			rc = e;
	}
	in_line(false);
	return rc;
}

/* ---- the drop, one at a time for a directory --------------------------------------------------------------------------- */

static struct tf_job *drop_job(struct tfuse *tf, struct tf_node *dir, int (*fn)(struct tf_job *), size_t bytes)
{
	struct tf_job *j = tf_job_new(tf, fn);
	if (j)
		j->data = ts_alloc(bytes);
	if (!j || !j->data)
		TS_PANIC("mount %s: no memory to take names of directory %llu back from the kernel", tf->mountpoint, (unsigned long long)dir->ino);
	j->node = dir;
	tf_node_ref(dir);
	return j;
}

/* Pages stay with their inode: for these only the names go, by a call each. */
static bool prunable(const struct tf_name *e, bool last)
{
	return e->child && (last || !e->child->pages_cached);
}

static void prune(struct tfuse *tf, struct tf_node *dir, bool last)
{
	if (!dir->nnames)
		return;
	struct tf_job *j = drop_job(tf, dir, job_prune, dir->nnames * sizeof(uint64_t));
	uint64_t *id = j->data;
	ts_list_for(l, &dir->names) {
		const struct tf_name *e = ts_list_entry(l, struct tf_name, link);
		if (prunable(e, last))
			id[j->end++] = tf_nodeid(e->child->ino, e->child->gen);
	}
	tf->st.names_pruned += j->end;
	(void)tf_job_run(j, "kernel to drop names nobody uses", dir->ino); /* what it did not drop is seen */
}

/* What is left, and the directory's lock once at least. */
static struct tf_job *expire_job(struct tfuse *tf, struct tf_node *dir)
{
	struct tf_job *j = drop_job(tf, dir, job_expire, (dir->nnames + 1) * sizeof(struct one));
	struct one *o = j->data;
	ts_list_for(l, &dir->names) {
		const struct tf_name *e = ts_list_entry(l, struct tf_name, link);
		memcpy(o[j->end].unlocked, e->unlocked, sizeof(e->unlocked));
		o[j->end].len = e->len;
		memcpy(o[j->end++].name, e->name, e->len);
	}
	tf->st.names_expired += j->end;
	if (!j->end)
		o[j->end++] = (struct one){.len = 1, .name = "."}; /* no entry has that name */
	j->once = tf_fault(tf, TF_OMIT_APPLIED, dir->ino);
	return j;
}

static void names_gone(struct tfuse *tf, struct tf_node *dir, uint64_t upto)
{
	ts_list_for_safe(l, t, &dir->names) {
		struct tf_name *e = ts_list_entry(l, struct tf_name, link);
		if (e->stamp <= upto)
			tf_name_free(tf, e);
	}
}

/* Void are names that the kernel was told before the epoch was raised; but READDIRPLUS sets it when its answer is applied. */
static bool left(struct tfuse *tf, struct tf_node *dir)
{
	uint64_t now = ts_exec_now(tf->exec);
	if (dir->nnames && dir->epoch != tf->epoch) {
		dir->epoch = tf->epoch;
		ts_list_for_safe(l, t, &dir->names) {
			struct tf_name *e = ts_list_entry(l, struct tf_name, link);
			if (e->armed_ns + TF_APPLY_NS < tf->epoch_ns)
				tf_name_free(tf, e);
		}
	}
	return !tf->is_gone && (dir->nnames || (dir->changed_ns && now < dir->changed_ns + TF_APPLY_NS));
}

static void drop_fiber(void *arg)
{
	struct tf_node *dir = arg;
	struct tfuse *tf = dir->tf;
	while (left(tf, dir)) {
		while (dir->unanswered)
			ts_cond_wait(&dir->names_cond, "answers with names to go out", dir->ino, dir->unanswered);
		uint64_t changed = dir->changed_ns;
		prune(tf, dir, dir->prune_all);
		for (unsigned i = 0; i < TF_PRUNE_TRIES && dir->prune_all && dir->nnames; i++) { /* in use while it is being moved here */
			ts_sleep_until(ts_exec_now(tf->exec) + TF_LOOK_NS);
			prune(tf, dir, true);
		}
		if (!left(tf, dir))
			break;
		uint64_t upto = tf->name_stamp;
		struct tf_job *j = dir->expiring = expire_job(tf, dir);
		tf_job_submit(j);
		int rc = ts_done_wait(&j->done, "kernel to drop names", dir->ino, j->end);
		dir->expiring = NULL;
		if (rc && rc != -ENOTCONN && rc != -ENODEV && !tf->is_gone)
			TS_PANIC("mount %s: the kernel does not give up names of directory %llu: %s", tf->mountpoint, (unsigned long long)dir->ino,
				 strerror(-rc));
		names_gone(tf, dir, upto);
		if (dir->changed_ns == changed)
			dir->changed_ns = 0;
		tf_node_unref(tf, dir);
		tf_job_free(j);
	}
	dir->dropping = false;
	ts_cond_broadcast(&dir->names_cond);
	if (--tf->droppers == 0)
		ts_cond_broadcast(&tf->idle);
	tf_node_unref(tf, dir);
}

static void drop_begin(struct tfuse *tf, struct tf_node *dir)
{
	if (dir->dropping)
		return;
	dir->dropping = true;
	dir->tf = tf;
	tf_node_ref(dir);
	tf->droppers++;
	tf->st.inval_names++;
	if (ts_fiber_spawn(tf->exec, "names", drop_fiber, dir))
		TS_PANIC("mount %s: no fiber to take names of directory %llu back from the kernel", tf->mountpoint, (unsigned long long)dir->ino);
}

/* Names of before are void, whoever holds a lock. */
static void epoch_raise(struct tfuse *tf, const struct tf_node *dir)
{
	int rc = tf_notify_write(tf, TF_NOTIFY_INC_EPOCH, NULL, 0, NULL, 0);
	if (rc && rc != -ENOTCONN && rc != -ENODEV)
		TS_PANIC("kernel refuses to raise the entry epoch: %s", strerror(-rc));
	ts_notice("mount %s: directory %llu stays locked in the kernel: all names of the mount are dropped", tf->mountpoint,
		  (unsigned long long)dir->ino);
	tf->epoch++;
	tf->epoch_ns = ts_exec_now(tf->exec);
	tf->st.epoch_bumps++;
}

void tf_inval_names(void *arg, uint64_t ino, unsigned how)
{
	struct tfuse *tf = arg;
	struct tf_node *dir = tf->is_gone ? NULL : tf_node_find(tf, ino);
	if (!dir)
		return;
	tf_names_rest(tf, dir);
	if (!left(tf, dir) || tf_fault(tf, how & FS_INVAL_LAST ? TF_AT_INVAL_NAMES_LAST : TF_AT_INVAL_NAMES, ino))
		return;
	uint64_t until = ts_exec_now(tf->exec) + (how & FS_INVAL_HURRY ? TF_LOCKED_HURRY_NS : TF_LOCKED_NS);
	tf_node_ref(dir);
	dir->prune_all = how & FS_INVAL_LAST;
	while (left(tf, dir)) {
		drop_begin(tf, dir);
		int rc = ts_cond_wait_until(&dir->names_cond, until, "names to be taken back from the kernel", ino, dir->nnames);
		if (rc && !dir->unanswered && left(tf, dir)) {
			epoch_raise(tf, dir);
			dir->changed_ns = 0; /* an entry of before */
		}
		if (rc)
			until = ts_exec_now(tf->exec) + TF_LOCKED_HURRY_NS;
	}
	dir->prune_all = false;
	tf_node_unref(tf, dir);
}

/* ---- requests that are about to wait ------------------------------------------------------------------------------------ */

/* Of a thread that was answered ESTALE and has not come back. */
static struct tf_bounced *bounced_of(struct tfuse *tf, uint32_t pid)
{
	uint64_t now = ts_exec_now(tf->exec);
	for (unsigned i = 0; pid && i < TF_BOUNCED; i++)
		if (tf->bounced[i].pid == pid && tf->bounced[i].until >= now)
			return &tf->bounced[i];
	return NULL;
}

/* Not twice. If it never comes back, the slot is free after a while; without a free one it counts as answered before. */
static bool bounce(struct tfuse *tf, uint32_t pid)
{
	uint64_t now = ts_exec_now(tf->exec);
	if (!pid || bounced_of(tf, pid))
		return false;
	for (unsigned i = 0; i < TF_BOUNCED; i++)
		if (tf->bounced[i].until < now) {
			tf->bounced[i] = (struct tf_bounced){.pid = pid, .until = now + TF_BOUNCE_NS};
			return true;
		}
	return false;
}

/* On the way back to the directory whose lock it gave up so that its names can be taken back: not before they are. The kernel asks for the
 * directory's attributes before it locks it. true: that took time. */
bool tf_bounced_wait(const struct tf_req *q, uint64_t ino)
{
	struct tf_node *dir = q->tf->st.bounced ? tf_node_find(q->tf, ino) : NULL;
	if (!dir || !dir->dropping || !bounced_of(q->tf, q->in->pid))
		return false;
	uint64_t until = ts_exec_now(q->tf->exec) + TF_BACK_NS;
	tf_node_ref(dir);
	while (dir->dropping && ts_cond_wait_until(&dir->names_cond, until, "names to be taken back from the kernel", ino, 0) == 0)
		;
	tf_node_unref(q->tf, dir);
	return true;
}

/* On its way back it only looks; whatever else it asks for is the call that was begun anew, or a later one. */
void tf_bounce_over(const struct tf_req *q, int rc)
{
	struct tf_bounced *b;
	switch (q->in->opcode) {
	case FUSE_LOOKUP:
	case FUSE_GETATTR:
	case FUSE_GETXATTR:
	case FUSE_READLINK:
		return;
	default:
		b = rc == -TS_ERR_BOUNCED ? NULL : bounced_of(q->tf, q->in->pid);
		if (b)
			*b = (struct tf_bounced){0};
	}
}

/* 0: nothing is kept of it, or nothing can be done about it. */
static int names_back(struct tf_req *q, struct tf_node *dir)
{
	struct tfuse *tf = q->tf;
	if (dir->nnames)
		tf_names_rest(tf, dir);
	while (left(tf, dir)) {
		drop_begin(tf, dir);
		(void)!ts_cond_wait_until(&dir->names_cond, ts_exec_now(tf->exec) + TF_LOOK_NS, "names to be taken back from the kernel", dir->ino,
					  dir->nnames);
		if (!left(tf, dir) || !dir->expiring || !tf_job_asleep(dir->expiring))
			continue;
		if (!bounce(tf, q->in->pid))
			return 0;
		dir->rest_until = ts_exec_now(tf->exec) + TF_BOUNCE_REST_NS;
		tf->st.bounced++;
		tf_inval_attr(tf, dir->ino);
		return -TS_ERR_BOUNCED;
	}
	return 0;
}

int tf_names_before_wait(void *arg, uint64_t ino)
{
	struct tf_req *q = ts_fiber_data();
	if (!q || q->tf->is_gone || tf_fault(q->tf, TF_OMIT_BEFORE_WAIT, ino))
		return 0; /* it has nothing locked */
	bool two = q->in->opcode == FUSE_RENAME || q->in->opcode == FUSE_RENAME2;
	uint64_t inos[] = {ino, q->means[0].ino, two ? q->means[1].ino : 0};
	int rc = 0;
	for (unsigned i = 0; i < TS_ARRAY_LEN(inos) && !rc; i++) {
		struct tf_node *dir = inos[i] ? tf_node_find(q->tf, inos[i]) : NULL;
		if (!dir)
			continue;
		tf_names_park(q, dir);
		rc = names_back(q, dir);
	}
	return rc;
}
