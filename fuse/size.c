/* SPDX-License-Identifier: Apache-2.0 */
/* The size of a file in the kernel, and the end that a READ meets.
 *
 * The kernel takes the end of a short READ for the end of the file only if no invalidation of that inode came
 * since it sent it, and of several READs believes the first one that it applies. If it does not, it fills the
 * page with zeros up to the size it believed, and read(2) returns them, now and from the page later. So where
 * its word would not count, or may not be the right one, the kernel is made to ask for the size before the
 * READ is answered: a notifier thread looks at the inode through the mount (open_by_handle_at, which finds it
 * in memory; no look-up), at what the kernel has first, which sends nothing. When that call has returned, its
 * GETATTR has been applied; it may sleep behind that for the very pages that the READ holds, which it is
 * about to cut at the new end, and the size is set by then. So the READ must not bring more than that: it
 * keeps its pins, and the thread is answered what the file has under them.
 *
 * Going to the mount point, the thread's rights in the root directory are checked, and the kernel may ask for
 * that directory's attributes first. Their token may be with a node that waits for what the READ holds. So
 * that question of our own threads is answered with what was told last (tf_op_getattr): without a timeout,
 * and the kernel takes nothing from it that is older than what it has.
 *
 * Answers with attributes: the kernel disregards one that anything which changed the inode overtook (an
 * invalidation, the answer to a WRITE, another answer with attributes), and goes on with the size it had: a
 * read(2) behind an append, here or elsewhere, would end early. One that counts and changes the size cuts the
 * pages behind it, but not in the same moment: another thread's READ may have brought more by then, and would
 * see zeros. So while a file is open here and its size may have been moved elsewhere, a thread of ours first
 * looks at the size that the kernel has, and makes it ask if that is another one. The answer then changes
 * nothing, and whether it counts does not matter. What is older than that look is overtaken by it.
 *
 * Must never happen: a look of a READ, which has pins, that waits for a token; so many threads looking that
 * revokes find none. */
#include "fuse/fuse_int.h"
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#define TF_TELLERS	32   /* at once */
#define FH_INO64_GEN	0x81 /* the kernel's FILEID_INO64_GEN: what FUSE makes of an inode */
#define TF_LOOK_NS	300000
#define TF_SEND_NS	100000 /* from taking its version number to queueing a request */
#define TF_PINNED_NS	(500 * TS_NS_PER_MS)
#define TF_CUT_TRIES	8
#define TF_SETTLE_SOON	4
#define TF_SETTLE_TRIES 100
#define TF_PAGE		4096ULL

struct fuse_handle {
	struct file_handle h;
	uint32_t raw[3];
};

/* What the kernel has; it does not ask for it. */
static int kernel_size(int fd, uint64_t *size)
{
	struct statx stx;
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_SIZE, &stx))
		return -errno;
	*size = stx.stx_size;
	return 0;
}

static int size_tell(struct tf_job *j, int fd)
{
	struct statx stx;
	uint64_t has = 0;
	int rc = kernel_size(fd, &has);
	if (!rc && (j->cut ? has > j->size : has != j->size))
		rc = statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_SIZE, &stx)
			     ? -errno
			     : kernel_size(fd, &has);
	j->size = has;
	return rc;
}

/* The mount is named by the directory this thread is in, for as long as it takes: a descriptor of it would
 * cost an OPENDIR. */
static int job_tell(struct tf_job *j)
{
	uint64_t id = tf_nodeid(j->node->ino, j->node->gen);
	struct fuse_handle fh = {.h = {.handle_bytes = sizeof(fh.raw), .handle_type = FH_INO64_GEN},
				 .raw = {(uint32_t)(id >> 32), (uint32_t)id, j->node->gen}};
	if (unshare(CLONE_FS) || chdir(j->tf->mountpoint))
		return -errno;
	int fd = open_by_handle_at(AT_FDCWD, &fh.h, O_PATH | O_CLOEXEC);
	int rc = fd < 0 ? -errno : size_tell(j, fd);
	if (fd >= 0)
		close(fd);
	if (chdir("/"))
		TS_PANIC("a thread cannot leave %s: it could not be unmounted", j->tf->mountpoint);
	return rc;
}

struct tf_job *tf_size_teller(const struct tf_req *q)
{
	ts_list_for(l, &q->tf->telling)
	{
		struct tf_job *j = ts_list_entry(l, struct tf_job, tell_link);
		if (q->in->pid == (uint32_t)atomic_load(&j->tid))
			return j;
	}
	return NULL;
}

void tf_size_answered(struct tf_job *j)
{
	j->answered = true;
}

/* ---- pages filled beside a thread that asks
 * ------------------------------------------------------------------------------ */

/* It cuts the pages at what it was told, perhaps only after more of the file came into them. */
void tf_size_filled(struct tfuse *tf, struct tf_node *n, uint64_t end)
{
	if (n->asking && end > n->asked_size && !tf_fault(tf, TF_OMIT_TORN, n->ino))
		n->torn = true;
}

static void ask_begin(struct tf_node *n, uint64_t size)
{
	n->asked_size = n->asking++ ? TS_MIN(n->asked_size, size) : size;
}

/* true: the page of the end that was told is to be dropped. */
static bool ask_end(struct tf_node *n)
{
	TS_ASSERT(n->asking);
	if (--n->asking || !n->torn)
		return false;
	n->torn = false;
	return n->asked_size % TF_PAGE;
}

void tf_size_over(struct tf_job *j)
{
	struct tf_node *n = j->node;
	if (ask_end(n))
		tf_inval_later(j->tf, n->ino, n->asked_size, n->asked_size);
}

/* Until it is over, or sleeps behind its answer; twice, as a look may be old. */
static int tell_wait(struct tfuse *tf, struct tf_job *j, uint64_t until)
{
	for (unsigned asleep = 0; !j->done.done && asleep < 2;) {
		(void)!ts_cond_wait_until(&j->done.cond, ts_exec_now(tf->exec) + TF_LOOK_NS,
					  "kernel to ask for the size", j->node->ino, 0);
		asleep = !j->done.done && j->answered && tf_job_asleep(j) ? asleep + 1 : 0;
		if (!j->done.done && asleep < 2 && ts_exec_now(tf->exec) >= until)
			return -ETIMEDOUT;
	}
	return j->done.done ? j->done.rc : 0;
}

/* *size: the file's; becomes the kernel's. attr: what the thread is answered, if not what the file has; it
 * waits for no token then. */
static int tell(struct tfuse *tf, struct tf_node *n, const struct fs_attr *attr, uint64_t until,
		uint64_t *size)
{
	while (tf->tellers >= TF_TELLERS)
		if (ts_cond_wait_until(&tf->told, until, "others to tell the kernel a size", n->ino, 0))
			return -ETIMEDOUT;
	struct tf_job *j = tf_job_new(tf, job_tell);
	if (!j)
		return -ENOMEM;
	j->node = n;
	j->tells = true;
	j->cut = attr;
	j->attr = attr;
	j->size = *size;
	tf_node_ref(n);
	tf->tellers++;
	ts_list_push_back(&tf->telling, &j->tell_link);
	ask_begin(n, *size);
	tf_job_submit(j);
	int rc = tell_wait(tf, j, until);
	ts_list_del(&j->tell_link);
	tf->tellers--;
	ts_cond_signal(&tf->told);
	if (!j->done.done) {
		j->attr = NULL;
		j->detached = true;
		return rc;
	}
	*size = j->size;
	if (ask_end(n))
		(attr ? tf_inval_later : tf_inval_now)(tf, n->ino, n->asked_size, n->asked_size); /* a READ may hold that very page */
	tf_node_unref(tf, n);
	tf_job_free(j);
	return rc;
}

/* ---- READs that meet the end
 * ------------------------------------------------------------------------------------------- */

void tf_size_arrived(struct tf_req *q)
{
	struct tf_node *n = q->node;
	q->invals = atomic_load(&n->invals);
	q->doubtful =
		atomic_load(&n->inval_running) || atomic_load(&n->inval_ns) + TF_SEND_NS >= q->tf->drained_ns;
}

static bool doubtful(const struct tf_req *q, uint64_t end)
{
	const struct tf_node *n = q->node;
	if (tf_fault(q->tf, TF_OMIT_SIZE, n->ino))
		return false;
	return end <= q->first || q->doubtful || n->size_moved || q->invals != atomic_load(&n->invals);
}

void tf_size_at_end(void *req, const struct fs_attr *a)
{
	struct tf_req *q = req;
	struct tfuse *tf = q->tf;
	struct tf_node *n = q->node;
	uint64_t until = ts_exec_now(tf->exec) + TF_PINNED_NS, size = a->size;
	int rc = 0;
	q->unsaid = false;
	if (!n || !doubtful(q, a->size))
		return;
	for (unsigned i = 0; i < TF_CUT_TRIES; i++) { /* what overtakes its answer ends */
		size = a->size;
		rc = tell(tf, n, a, until, &size);
		if (rc || size <= a->size)
			break;
	}
	q->unsaid = rc || size > a->size;
	tf->st.sizes_told += !q->unsaid;
}

/* ---- answers with attributes
 * ------------------------------------------------------------------------------------------- */

static struct tf_node *moved(struct tfuse *tf, const struct fs_attr *a)
{
	struct tf_node *n = S_ISREG(a->mode) ? tf_node_by_id(tf, tf_nodeid(a->ino, a->gen)) : NULL;
	return n && n->opens && n->size_moved && !tf_fault(tf, TF_OMIT_SETTLE, n->ino) ? n : NULL;
}

bool tf_size_moved(struct tfuse *tf, const struct fs_attr *a)
{
	return moved(tf, a) != NULL;
}

bool tf_size_settled(struct tf_req *q, struct tf_size_seen *s, const struct fs_attr *a)
{
	struct tfuse *tf = q->tf;
	struct tf_node *n = moved(tf, a);
	if (!n || s->tries == TF_SETTLE_TRIES || tf->is_gone || tf_size_teller(q))
		return true;
	if (s->seen && s->size == a->size) {
		n->size_moved = !a->cacheable; /* no revoke has begun: the next one says so */
		return true;
	}
	if (s->tries++ >= TF_SETTLE_SOON) /* a write through the page cache that extends the file: the kernel
					     takes no size meanwhile */
		ts_sleep_until(ts_exec_now(tf->exec) + TS_NS_PER_MS);
	tf_node_ref(n);
	s->size = a->size;
	s->seen = tell(tf, n, NULL, UINT64_MAX, &s->size) == 0;
	tf->st.sizes_settled++;
	tf_node_unref(tf, n);
	return false;
}
