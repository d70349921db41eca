/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel caches go before the token goes.
 *
 * Attributes: inval_inode(ino, -1): takes no lock that a request holds. ENOENT means that the kernel does not have the inode
 * yet although a reply is on its way: retried until it is found or forgotten.
 * Pages: inval_inode(ino, off, len): waits for folio locks. A WRITE that itself waits for the token may hold the folio of its
 * first or last byte: those folios are left out (they are not up to date, or are invalidated behind the reply).
 * Names: the mount's epoch is raised (kernel 6.16+), which takes no lock at all; on older kernels no entry ever gets a timeout.
 *
 * Must never happen: a return from here while the kernel can still answer from what was cached before. */
#include "fuse/fuse_int.h"
#include <time.h>
#include <unistd.h>

#define TF_NOTIFY_INC_EPOCH 8
#define TF_PAGE		    4096ULL
#define TF_EDGES	    32
#define TF_BLOCKED_MS	    30
#define TF_APPLY_NS	    (2 * TS_NS_PER_S) /* a reply written longer ago has been applied by its caller */

static int notify_write(struct tfuse *tf, int code, const void *data, size_t len)
{
	struct fuse_out_header h = {.len = (uint32_t)(sizeof(h) + len), .error = code, .unique = 0};
	struct iovec iov[2] = {{&h, sizeof(h)}, {(void *)data, len}};
	ssize_t n = writev(tf->fd, iov, len ? 2 : 1);
	return n < 0 ? -errno : 0;
}

static int notify_inval_inode(struct tfuse *tf, uint64_t ino, int64_t off, int64_t len)
{
	struct fuse_notify_inval_inode_out o = {.ino = ino, .off = off, .len = len};
	return notify_write(tf, FUSE_NOTIFY_INVAL_INODE, &o, sizeof(o));
}

/* Invalidates, and again while the kernel says ENOENT although an entry reply that it may not have applied yet went out.
 * A look-up count alone proves nothing: a FORGET may be on its way for an inode that the kernel has dropped already.
 * Gives up when it was forgotten, the reply is long applied, or the mount is gone (then there is no cache). */
static int inval_until_known(struct tf_job *j, int64_t off, int64_t len)
{
	const struct ts_env *env = ts_exec_env(j->tf->exec);
	for (;;) {
		int rc = notify_inval_inode(j->tf, tf_nodeid(j->node->ino, j->node->gen), off, len);
		if (rc != -ENOENT || !atomic_load(&j->node->known) || atomic_load(&j->tf->is_gone))
			return rc;
		if (ts_now_ns(env) > atomic_load(&j->node->replied_ns) + TF_APPLY_NS)
			return rc;
		struct timespec ts = {0, 200000};
		nanosleep(&ts, NULL);
	}
}

static int job_inval_attr(struct tf_job *j)
{
	return inval_until_known(j, -1, 0);
}

static int job_inval_data(struct tf_job *j)
{
	int64_t len = j->end == UINT64_MAX ? 0 : (int64_t)(j->end - j->start + 1);
	return inval_until_known(j, (int64_t)j->start, len);
}

static struct tf_job *node_job(struct tfuse *tf, struct tf_node *n, int (*fn)(struct tf_job *), uint64_t start, uint64_t end)
{
	struct tf_job *j = tf_job_new(tf, fn);
	if (!j)
		TS_PANIC("no memory to invalidate the kernel's cache of inode %llu", (unsigned long long)n->ino);
	j->node = n;
	tf_node_ref(n);
	j->start = start;
	j->end = end;
	return j;
}

void tf_inval_attr(void *arg, uint64_t ino)
{
	struct tfuse *tf = arg;
	struct tf_node *n = tf->is_gone ? NULL : tf_node_find(tf, ino);
	if (!n || !n->attr_cached)
		return;
	n->attr_cached = false;
	tf->st.inval_attr++;
	tf_job_run(node_job(tf, n, job_inval_attr, 0, 0), "kernel to drop attributes", ino);
}

/* Page-aligned pieces that unanswered WRITEs may have locked. */
static unsigned edges_collect(struct tf_node *n, uint64_t e[TF_EDGES])
{
	unsigned k = 0;
	ts_list_for(l, &n->writes) {
		struct tf_req *q = ts_list_entry(l, struct tf_req, node_link);
		if (k + 2 > TF_EDGES)
			break;
		e[k++] = q->w_start / TF_PAGE * TF_PAGE;
		e[k++] = q->w_end / TF_PAGE * TF_PAGE;
	}
	for (unsigned i = 1; i < k; i++)
		for (unsigned m = i; m > 0 && e[m] < e[m - 1]; m--) {
			uint64_t t = e[m];
			e[m] = e[m - 1];
			e[m - 1] = t;
		}
	return k;
}

struct piece {
	struct tf_job *job;
	struct ts_list link;
};

/* One pass over [start, end] without the folios in e. Returns false if a call is still blocked after a while although
 * new WRITEs came in (the caller looks again); a blocked job finishes by itself once those are answered. */
static bool inval_pass(struct tfuse *tf, struct tf_node *n, uint64_t start, uint64_t end, const uint64_t *e, unsigned ne)
{
	uint64_t pos = start / TF_PAGE * TF_PAGE;
	for (unsigned i = 0; i <= ne && pos <= end; i++) {
		uint64_t stop = i < ne ? e[i] : 0;
		bool last = i == ne;
		if (!last && (stop < pos || stop > end)) {
			continue;
		}
		if (last || stop > pos) {
			struct tf_job *j = node_job(tf, n, job_inval_data, pos, last ? end : stop - 1);
			tf_job_submit(j);
			for (;;) {
				if (j->done.done)
					break;
				uint64_t dl = ts_exec_now(tf->exec) + TF_BLOCKED_MS * TS_NS_PER_MS;
				int rc = ts_cond_wait_until(&j->done.cond, dl, "kernel to drop pages", n->ino, pos);
				if (rc == -ETIMEDOUT && !j->done.done) {
					uint64_t e2[TF_EDGES];
					if (edges_collect(n, e2) != ne || (ne && memcmp(e, e2, ne * sizeof(*e)))) {
						j->detached = true;
						return false;
					}
				}
			}
			tf_node_unref(tf, n);
			ts_free(j);
		}
		if (!last)
			pos = stop + TF_PAGE;
	}
	return true;
}

void tf_inval_data(void *arg, uint64_t ino, uint64_t start, uint64_t end)
{
	struct tfuse *tf = arg;
	struct tf_node *n = tf->is_gone ? NULL : tf_node_find(tf, ino);
	if (!n || !n->pages_cached)
		return;
	n->pages_cached = false;
	tf->st.inval_data++;
	tf_node_ref(n);
	for (unsigned round = 0; round < 64 && !tf->is_gone; round++) {
		uint64_t e[TF_EDGES], late = n->late_writes;
		unsigned ne = edges_collect(n, e);
		if (!inval_pass(tf, n, start, end, e, ne)) {
			tf->st.inval_retries++;
			continue;
		}
		for (unsigned i = 0; i < ne; i++)
			tf_inval_later(tf, ino, e[i], e[i] + TF_PAGE - 1);
		if (n->late_writes == late) /* a page dirtied again behind the call stays: look again */
			break;
	}
	tf_node_unref(tf, n);
}

void tf_inval_later(struct tfuse *tf, uint64_t ino, uint64_t start, uint64_t end)
{
	struct tf_node *n = tf->is_gone ? NULL : tf_node_find(tf, ino);
	if (!n)
		return;
	struct tf_job *j = node_job(tf, n, job_inval_data, start, end);
	j->detached = true;
	tf_job_submit(j);
}

void tf_inval_names(void *arg, uint64_t dir)
{
	struct tfuse *tf = arg;
	struct tf_node *n = tf->is_gone ? NULL : tf_node_find(tf, dir);
	if (!n || n->names_epoch != tf->epoch)
		return; /* nothing handed out since the last raise */
	int rc = notify_write(tf, TF_NOTIFY_INC_EPOCH, NULL, 0);
	if (rc && rc != -ENOTCONN && rc != -ENODEV)
		TS_PANIC("kernel refuses to raise the entry epoch: %s", strerror(-rc));
	tf->epoch++;
	tf->st.inval_names++;
	tf->st.epoch_bumps++;
}

void tf_stopped(void *arg, const char *why)
{
	struct tfuse *tf = arg;
	ts_err("mount %s: stopped: %s; every operation answers EIO", tf->mountpoint, why);
	if (tf->stopped)
		tf->stopped(tf->arg, why);
}
