/* SPDX-License-Identifier: Apache-2.0 */
/* Attributes and pages go before the token goes; names: names_drop.c.
 *
 * Attributes: inval_inode(ino, -1): takes no lock that a request holds. ENOENT means that the kernel does not have the inode
 * yet although a reply is on its way: retried until it is found or forgotten.
 * Pages: inval_inode(ino, off, len): waits for folio locks. A READ that waits for the token holds all its folios: these are left out,
 * they are filled under the next token. A WRITE holds the folio of its last byte if it covers it in part and it was not up to date;
 * whether, only a try can tell: a call that stays blocked there has nothing to drop.
 * A call that met a request which came after the look is left alone (it ends with that request) and made anew around it.
 * No call is made behind a reply where it can be helped: the next READ's word about the end of the file would not count
 * (fi->attr_version), and an end that another node has moved down would show as zeros.
 *
 * Must never happen: a return from here while the kernel can still answer from what was cached before. */
#include "fuse/fuse_int.h"
#include <time.h>
#include <unistd.h>

#define TF_PAGE		    4096ULL
#define TF_BLOCKED_MS	    2
#define TF_TRY_MS	    1 /* for a folio that a WRITE may hold */
#define TF_ROUNDS_FIRST	    4   /* readers go on reading: the rest is for the last call */
#define TF_ROUNDS_LAST	    4096 /* each is made by a request that came meanwhile, and those wait now */
#define TF_CLEAR_NS	    (20 * TS_NS_PER_MS) /* for the caller of an answered fallocate() */

/* READs sent before the call do not count as to the end of the file (size.c): counted before and behind it. */
static int notify_inval_inode(struct tfuse *tf, struct tf_node *n, int64_t off, int64_t len)
{
	struct fuse_notify_inval_inode_out o = {.ino = tf_nodeid(n->ino, n->gen), .off = off, .len = len};
	atomic_fetch_add(&n->inval_running, 1);
	atomic_fetch_add(&n->invals, 1);
	atomic_store(&n->inval_ns, ts_now_ns(ts_exec_env(tf->exec)));
	int rc = tf_notify_write(tf, FUSE_NOTIFY_INVAL_INODE, &o, sizeof(o), NULL, 0);
	atomic_fetch_add(&n->invals, 1);
	atomic_fetch_sub(&n->inval_running, 1);
	return rc;
}

/* Invalidates, and again while the kernel says ENOENT although an entry reply that it may not have applied yet went out.
 * A look-up count alone proves nothing: a FORGET may be on its way for an inode that the kernel has dropped already.
 * Gives up when it was forgotten, the reply is long applied, or the mount is gone (then there is no cache). */
static int inval_until_known(struct tf_job *j, int64_t off, int64_t len)
{
	const struct ts_env *env = ts_exec_env(j->tf->exec);
	for (;;) {
		int rc = notify_inval_inode(j->tf, j->node, off, len);
		if (rc != -ENOENT || j->once || !atomic_load(&j->node->known) || atomic_load(&j->tf->is_gone))
			return rc;
		if (ts_now_ns(env) > atomic_load(&j->node->replied_ns) + TF_APPLY_NS)
			return rc;
		atomic_fetch_add(&j->tf->enoent, 1);
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
	j->once = tf_fault(tf, TF_OMIT_AGAIN, n->ino);
	return j;
}

void tf_inval_attr(void *arg, uint64_t ino)
{
	struct tfuse *tf = arg;
	struct tf_node *n = tf->is_gone ? NULL : tf_node_find(tf, ino);
	if (n)
		n->size_moved = true;
	if (!n || !n->attr_cached || tf_fault(tf, TF_AT_INVAL_ATTR, ino))
		return;
	n = tf_node_find(tf, ino); /* again: a fault point may have waited */
	if (!n)
		return;
	n->attr_cached = false;
	tf->st.inval_attr++;
	tf_job_run(node_job(tf, n, job_inval_attr, 0, 0), "kernel to drop attributes", ino);
}

/* Whole pages [first, last], both inclusive bytes. */
struct span {
	uint64_t first, last;
};
struct spans {
	struct span *v;
	unsigned n;
	uint64_t arrivals; /* when it was collected */
};

static void span_add(struct spans *s, uint64_t first, uint64_t last)
{
	s->v[s->n++] = (struct span){first / TF_PAGE * TF_PAGE, last / TF_PAGE * TF_PAGE + TF_PAGE - 1};
}

static int span_order(const void *a, const void *b)
{
	const struct span *x = a, *y = b;
	return x->first < y->first ? -1 : x->first > y->first;
}

static unsigned list_len(const struct ts_list *head)
{
	unsigned n = 0;
	ts_list_for(l, head)
		n++;
	return n;
}

/* The page that q, an unanswered WRITE, may have locked. */
static bool write_holds(const struct tf_req *q, uint64_t *page)
{
	*page = q->last / TF_PAGE * TF_PAGE;
	return (q->last + 1) % TF_PAGE != 0 || q->first > *page;
}

/* Pages that unanswered requests may have locked, in ascending order. */
static void spans_collect(struct tf_node *n, struct spans *s)
{
	s->n = 0;
	s->arrivals = n->arrivals;
	s->v = ts_alloc((list_len(&n->writes) + list_len(&n->reads) + 1) * sizeof(*s->v));
	if (!s->v)
		TS_PANIC("no memory to invalidate the kernel's cache of inode %llu", (unsigned long long)n->ino);
	ts_list_for(l, &n->writes) {
		uint64_t page;
		if (write_holds(ts_list_entry(l, struct tf_req, node_link), &page))
			span_add(s, page, page);
	}
	ts_list_for(l, &n->reads) {
		const struct tf_req *q = ts_list_entry(l, struct tf_req, node_link);
		span_add(s, q->first, q->last);
	}
	qsort(s->v, s->n, sizeof(*s->v), span_order);
}

/* false: it is blocked, and requests came in since that it may be blocked by. The job ends by itself with these. */
static bool piece_inval(struct tfuse *tf, struct tf_node *n, uint64_t first, uint64_t last, const struct spans *s)
{
	struct tf_job *j = node_job(tf, n, job_inval_data, first, last);
	tf_job_submit(j);
	while (!j->done.done) {
		uint64_t dl = ts_exec_now(tf->exec) + TF_BLOCKED_MS * TS_NS_PER_MS;
		int rc = ts_cond_wait_until(&j->done.cond, dl, "kernel to drop pages", n->ino, first);
		if (rc == -ETIMEDOUT && !j->done.done && atomic_load(&j->tid) && n->arrivals != s->arrivals) {
			j->detached = true;
			return false;
		}
	}
	tf_node_unref(tf, n);
	tf_job_free(j);
	return true;
}

/* One pass over [first, last] around the spans. */
static bool inval_pass(struct tfuse *tf, struct tf_node *n, uint64_t first, uint64_t last, const struct spans *s)
{
	uint64_t pos = first / TF_PAGE * TF_PAGE;
	for (unsigned i = 0; i < s->n && pos <= last; i++) {
		if (s->v[i].last < pos)
			continue;
		if (s->v[i].first > last)
			break;
		if (s->v[i].first > pos && !piece_inval(tf, n, pos, s->v[i].first - 1, s))
			return false;
		if (s->v[i].last >= last)
			return true;
		pos = s->v[i].last + 1;
	}
	return pos > last || piece_inval(tf, n, pos, last, s);
}

/* Waits for a call about a page that a WRITE may hold: until it is over, or sleeps for a page's lock, which is held only while there is
 * nothing in it to drop. Asleep twice, because it also sleeps while a dirty page is written, and that WRITE has come by the second look. */
static void held_wait(struct tfuse *tf, struct tf_node *n, struct tf_job *j)
{
	for (unsigned asleep = 0; !j->done.done && asleep < 2;) {
		uint64_t dl = ts_exec_now(tf->exec) + TF_TRY_MS * TS_NS_PER_MS;
		(void)!ts_cond_wait_until(&j->done.cond, dl, "kernel to drop a page being written", n->ino, 0);
		asleep = !j->done.done && tf_job_asleep(j) ? asleep + 1 : 0;
	}
	if (!j->done.done) {
		j->detached = true;
		return;
	}
	tf_node_unref(tf, n);
	tf_job_free(j);
}

/* Pages that WRITEs hold, or not. */
static void held_inval(struct tfuse *tf, struct tf_node *n)
{
	struct spans s = {0};
	unsigned k = 0;
	s.v = ts_alloc((list_len(&n->writes) + 1) * sizeof(*s.v));
	if (!s.v)
		TS_PANIC("no memory to invalidate the kernel's cache of inode %llu", (unsigned long long)n->ino);
	ts_list_for(l, &n->writes) {
		uint64_t page;
		if (write_holds(ts_list_entry(l, struct tf_req, node_link), &page))
			span_add(&s, page, page);
	}
	struct tf_job **j = ts_alloc((s.n + 1) * sizeof(*j));
	if (!j)
		TS_PANIC("no memory to invalidate the kernel's cache of inode %llu", (unsigned long long)n->ino);
	for (; k < s.n; k++) {
		j[k] = node_job(tf, n, job_inval_data, s.v[k].first, s.v[k].last);
		tf_job_submit(j[k]);
	}
	while (k--)
		held_wait(tf, n, j[k]);
	ts_free(j);
	ts_free(s.v);
}

/* true: the pages are gone, and none came meanwhile. Beside a part of the file others stay cached. */
static bool inval_round(struct tfuse *tf, struct tf_node *n, uint64_t first, uint64_t last)
{
	uint64_t late = n->late_writes, fills = n->fills;
	bool all = first == 0 && last == UINT64_MAX;
	struct spans s;
	if (all)
		n->pages_cached = false;
	spans_collect(n, &s);
	bool through = inval_pass(tf, n, first, last, &s);
	ts_free(s.v);
	if (!through) {
		n->pages_cached = true;
		tf->st.inval_retries++;
		return false;
	}
	held_inval(tf, n);
	(void)tf_fault(tf, TF_AT_INVAL_ROUND, n->ino);
	if (n->late_writes != late) /* a page dirtied again behind the call stays */
		tf_pages_filled(n);
	return n->fills == fills;
}

/* The kernel gives no sign of when a caller has applied an answer; what it clears after a whole round of other nodes would be theirs. */
static void clear_wait(struct tfuse *tf, struct tf_node *n)
{
	while (n->clearing && !tf->is_gone)
		ts_cond_wait(&n->clear_cond, "a hole's ends to be cleared", n->ino, n->clearing);
	if (n->cleared_ns && ts_exec_now(tf->exec) < n->cleared_ns + TF_CLEAR_NS)
		ts_sleep_until(n->cleared_ns + TF_CLEAR_NS);
}

static void pages_drop(struct tfuse *tf, struct tf_node *n, uint64_t start, uint64_t end, unsigned how)
{
	unsigned rounds = how & FS_INVAL_LAST ? TF_ROUNDS_LAST : TF_ROUNDS_FIRST;
	if (!n->pages_cached || (how & FS_INVAL_SHARED && !n->writers))
		return;
	if (tf_fault(tf, how & FS_INVAL_LAST ? TF_AT_INVAL_LAST : TF_AT_INVAL_DATA, n->ino))
		return;
	tf->st.inval_data++;
	bool gone = false;
	for (unsigned i = 0; i < rounds && !tf->is_gone && !gone; i++)
		gone = inval_round(tf, n, start, end);
	if (how & FS_INVAL_LAST && !gone && !tf->is_gone)
		TS_PANIC("mount %s: the kernel does not give up the pages of inode %llu: another node would see old bytes", tf->mountpoint,
			 (unsigned long long)n->ino);
}

void tf_inval_data(void *arg, uint64_t ino, uint64_t start, uint64_t end, unsigned how)
{
	struct tfuse *tf = arg;
	struct tf_node *n = tf->is_gone ? NULL : tf_node_find(tf, ino);
	if (!n)
		return;
	tf_node_ref(n);
	if (!(how & FS_INVAL_SHARED) && !tf_fault(tf, TF_OMIT_CLEAR, ino)) /* else nobody writes yet */
		clear_wait(tf, n);
	pages_drop(tf, n, start, end, how);
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

void tf_inval_now(struct tfuse *tf, uint64_t ino, uint64_t start, uint64_t end)
{
	struct tf_node *n = tf->is_gone ? NULL : tf_node_find(tf, ino);
	if (n && n->pages_cached)
		(void)tf_job_run(node_job(tf, n, job_inval_data, start, end), "kernel to drop pages written past it", ino);
}

void tf_inval_written(struct tf_req *q, uint64_t start, uint64_t end)
{
	struct tfuse *tf = q->tf;
	struct tf_node *n = q->node;
	uint64_t page;
	if (!n || tf->is_gone || tf_fault(tf, TF_OMIT_LATER, n->ino))
		return;
	bool held = write_holds(q, &page) && page <= end && page + TF_PAGE > start;
	if (!held || start < page)
		(void)tf_job_run(node_job(tf, n, job_inval_data, start, held ? page - 1 : end), "kernel to drop pages written past it", n->ino);
	if (held) {
		struct tf_job *j = node_job(tf, n, job_inval_data, page, page + TF_PAGE - 1);
		tf_job_submit(j);
		held_wait(tf, n, j);
	}
	if (held && page + TF_PAGE <= end)
		(void)tf_job_run(node_job(tf, n, job_inval_data, page + TF_PAGE, end), "kernel to drop pages written past it", n->ino);
}

void tf_stopped(void *arg, const char *why)
{
	struct tfuse *tf = arg;
	ts_err("mount %s: stopped: %s; every operation answers EIO", tf->mountpoint, why);
	if (tf->stopped)
		tf->stopped(tf->arg, why);
}
