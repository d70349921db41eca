/* SPDX-License-Identifier: Apache-2.0 */
/* The size of a file in the kernel, and the end that a READ meets.
 *
 * The kernel takes the end of a short READ for the end of the file only if no invalidation of that inode came since it sent it, and of
 * several READs believes the first one that it applies. If it does not, it fills the page with zeros up to the size it
 * believed, and read(2) returns them, now and from the page later. So where its word would not count, or may not be the right one, the
 * kernel is made to ask for the size before the READ is answered: a notifier thread looks at the inode through the mount
 * (open_by_handle_at, which finds it in memory; no look-up). When that call has returned, its GETATTR has been applied; if the file became
 * shorter it sleeps behind that for the very pages that the READ holds, and the size is set by then.
 *
 * An append is the same: the kernel takes what it wrote for the end as it believed it, and a look that an invalidation overtakes
 * leaves it at that: a read behind it would not reach what was just written. So where another node has moved the end, the kernel is
 * told before the append is answered, again until no invalidation came between.
 *
 * Going to the mount point, the thread's rights in the root directory are checked, and the kernel may ask for that directory's attributes
 * first. Their token may be with a node that waits for what the READ holds. So that question of our own threads is answered with what
 * was told last (tf_op_getattr): without a timeout, and the kernel takes nothing from it that is older than what it has.
 *
 * Must never happen: pins held while the thread looks; a look that waits for another inode's token; so many threads looking that
 * revokes find none. */
#include "fuse/fuse_int.h"
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#define TF_TELLERS	 32 /* at once */
#define FH_INO64_GEN	 0x81 /* the kernel's FILEID_INO64_GEN: what FUSE makes of an inode */
#define TF_LOOK_NS	 300000
#define TF_APPEND_TRIES	 64
#define TF_BEFORE_NS	 (10 * TS_NS_PER_MS)
#define TF_APPLIED_NS	 (20 * TS_NS_PER_MS) /* an answer written longer ago has been applied */
#define TF_SEND_NS	 100000 /* from taking its version number to queueing a request */

struct fuse_handle {
	struct file_handle h;
	uint32_t raw[3];
};

/* The mount is named by the directory this thread is in, for as long as it takes: a descriptor of it would cost an OPENDIR. */
static int job_tell(struct tf_job *j)
{
	uint64_t id = tf_nodeid(j->node->ino, j->node->gen);
	struct fuse_handle fh = {.h = {.handle_bytes = sizeof(fh.raw), .handle_type = FH_INO64_GEN},
				 .raw = {(uint32_t)(id >> 32), (uint32_t)id, j->node->gen}};
	struct statx stx;
	if (unshare(CLONE_FS) || chdir(j->tf->mountpoint))
		return -errno;
	int fd = open_by_handle_at(AT_FDCWD, &fh.h, O_PATH | O_CLOEXEC);
	int rc = fd < 0 || statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_SIZE, &stx) ? -errno : 0;
	if (fd >= 0)
		close(fd);
	if (chdir("/"))
		TS_PANIC("a thread cannot leave %s: it could not be unmounted", j->tf->mountpoint);
	return rc;
}

void tf_size_answered(const struct tf_req *q)
{
	ts_list_for(l, &q->tf->telling) {
		struct tf_job *j = ts_list_entry(l, struct tf_job, tell_link);
		if (q->in->pid == (uint32_t)atomic_load(&j->tid))
			j->answered = true;
	}
}

bool tf_size_is_teller(const struct tf_req *q)
{
	ts_list_for(l, &q->tf->telling) {
		if (q->in->pid == (uint32_t)atomic_load(&ts_list_entry(l, struct tf_job, tell_link)->tid))
			return true;
	}
	return false;
}

/* Until it is over, or sleeps behind its answer; twice, as a look may be old. */
static int tell_wait(struct tfuse *tf, struct tf_job *j, uint64_t until)
{
	int rc = 0;
	for (unsigned asleep = 0; !j->done.done && asleep < 2;) {
		if (ts_exec_now(tf->exec) >= until) {
			rc = -ETIMEDOUT;
			break;
		}
		(void)!ts_cond_wait_until(&j->done.cond, ts_exec_now(tf->exec) + TF_LOOK_NS, "kernel to ask for the size", j->node->ino, 0);
		asleep = !j->done.done && j->answered && tf_job_asleep(j) ? asleep + 1 : 0;
	}
	ts_list_del(&j->tell_link);
	if (!j->done.done) {
		j->detached = true;
		return rc;
	}
	rc = j->done.rc;
	tf_node_unref(tf, j->node);
	ts_free(j);
	return rc;
}

void tf_size_arrived(struct tf_req *q)
{
	struct tf_node *n = q->node;
	q->least = n->size_ns + TF_APPLIED_NS > ts_exec_now(q->tf->exec) ? n->replied_size : UINT64_MAX;
	q->invals = atomic_load(&n->invals);
	q->doubtful = atomic_load(&n->inval_running) || atomic_load(&n->inval_ns) + TF_SEND_NS >= q->tf->drained_ns;
}

bool tf_size_doubtful(const struct tf_req *q, uint64_t end)
{
	const struct tf_node *n = q->node;
	if (tf_fault(q->tf, TF_OMIT_SIZE, n->ino))
		return false;
	if (q->told)
		return n->told_size > end;
	return end <= q->first || q->doubtful || q->invals != atomic_load(&n->invals);
}

/* ---- sizes that are applied late ----
 *
 * When the kernel applies a size that is not the one it had, it cuts its pages there: behind the lock of a page that a READ holds,
 * whenever that is, with zeros up to the page's end. If that READ was answered with bytes behind that size (another node, or an append of
 * this one, has moved the end meanwhile), they are zeros then, for as long as the page stays. So the page goes, and until it is gone nobody
 * is told of a longer file; unless another READ holds it: that one may wait for such an answer. Then it goes as soon as that one lets go. */
void tf_size_replied(struct tfuse *tf, struct tf_node *n, uint64_t size)
{
	n->replied_size = size;
	n->size_ns = ts_exec_now(tf->exec);
	if (!n->sized) /* the kernel had none before */
		n->sure_size = size;
	n->sized = true;
	n->unsure = size != n->sure_size;
	ts_list_for(l, &n->reads) {
		struct tf_req *q = ts_list_entry(l, struct tf_req, node_link);
		q->least = TS_MIN(q->least, size);
	}
}

void tf_size_torn(struct tf_req *q, struct tf_node *n, uint64_t end)
{
	if (q->least >= end || q->tf->is_gone || tf_fault(q->tf, TF_OMIT_TORN, n->ino))
		return;
	n->torn++;
	q->tf->st.pages_torn++;
	tf_inval_torn(q->tf, n, TS_MAX(q->first, q->least), end - 1);
	n->torn--;
	ts_cond_broadcast(&n->torn_cond);
}

bool tf_size_is_settled(struct tfuse *tf, uint64_t ino)
{
	const struct tf_node *n = tf_node_find(tf, ino);
	return !n || !n->torn || tf->is_gone;
}

void tf_size_settled(struct tfuse *tf, uint64_t ino)
{
	struct tf_node *n = tf_node_find(tf, ino);
	if (!n || !n->torn)
		return;
	tf_node_ref(n);
	while (n->torn && !tf->is_gone)
		ts_cond_wait(&n->torn_cond, "pages that may be cut to be dropped", ino, n->torn);
	tf_node_unref(tf, n);
}

void tf_size_append(struct tf_req *q)
{
	for (unsigned i = 0; i < TF_APPEND_TRIES && !q->told && !tf_fault(q->tf, TF_OMIT_SIZE, q->node->ino); i++) {
		if (tf_size_tell(q))
			return;
	}
}

static int tell(struct tfuse *tf, struct tf_node *n, uint64_t until, bool *sure)
{
	uint64_t invals = atomic_load(&n->invals);
	if (tf->tellers >= TF_TELLERS && until != UINT64_MAX)
		return -EBUSY;
	while (tf->tellers >= TF_TELLERS)
		ts_cond_wait(&tf->told, "others to tell the kernel a size", n->ino, 0);
	struct tf_job *j = tf_job_new(tf, job_tell);
	if (!j)
		return -ENOMEM;
	j->node = n;
	tf_node_ref(n);
	tf->tellers++;
	ts_list_push_back(&tf->telling, &j->tell_link);
	tf_job_submit(j);
	int rc = tell_wait(tf, j, until);
	tf->tellers--;
	ts_cond_signal(&tf->told);
	tf->st.sizes_told += rc == 0;
	*sure = rc == 0 && invals == atomic_load(&n->invals);
	if (*sure) {
		n->sure_size = n->told_size;
		n->unsure = false;
	}
	return rc;
}

int tf_size_tell(struct tf_req *q)
{
	return tell(q->tf, q->node, UINT64_MAX, &q->told);
}

/* ---- answers that do not count ----
 *
 * A read asks for the size when the kernel has none that it trusts. If an invalidation comes between question and answer, the kernel
 * drops the answer and reads with the size that it had, which may lack what was appended long before. So a GETATTR that was overtaken
 * is answered when another one was not; and what was just answered is told once more before an invalidation that could overtake it. */
void tf_size_asked(const struct tf_req *q, struct tf_size_asked *a)
{
	const struct tf_node *n = tf_node_find(q->tf, q->in->nodeid);
	*a = (struct tf_size_asked){.invals = n ? atomic_load(&n->invals) : 0};
	if (n)
		a->doubtful = atomic_load(&n->inval_running) || atomic_load(&n->inval_ns) + TF_SEND_NS >= q->tf->drained_ns;
}

bool tf_size_overtaken(struct tf_req *q, struct tf_size_asked *a, uint64_t size)
{
	struct tf_node *n = tf_node_find(q->tf, q->in->nodeid);
	bool sure;
	int rc;
	if (!n || size == n->sure_size || (!a->doubtful && a->invals == atomic_load(&n->invals)) || a->tries++ >= TF_APPEND_TRIES ||
	    tf_size_is_teller(q) || tf_fault(q->tf, TF_OMIT_SIZE, n->ino))
		return false;
	tf_node_ref(n);
	rc = tell(q->tf, n, UINT64_MAX, &sure);
	tf_node_unref(q->tf, n);
	if (rc)
		a->tries = TF_APPEND_TRIES;
	return true;
}

void tf_size_before_inval(void *arg, uint64_t ino)
{
	struct tfuse *tf = arg;
	struct tf_node *n = tf->is_gone ? NULL : tf_node_find(tf, ino);
	bool sure;
	if (!n || !n->unsure || tf_fault(tf, TF_OMIT_SIZE, ino))
		return;
	if (ts_exec_now(tf->exec) >= n->size_ns + TF_APPLIED_NS) {
		n->sure_size = n->replied_size;
		n->unsure = false;
		return;
	}
	tf_node_ref(n);
	/* Not for long: the look walks to the mount point, and whoever has that directory may wait for this very token. */
	(void)!tell(tf, n, ts_exec_now(tf->exec) + TF_BEFORE_NS, &sure);
	tf_node_unref(tf, n);
}
