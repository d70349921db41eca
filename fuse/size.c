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
static int tell_wait(struct tfuse *tf, struct tf_job *j)
{
	int rc = 0;
	for (unsigned asleep = 0; !j->done.done && asleep < 2;) {
		(void)!ts_cond_wait_until(&j->done.cond, ts_exec_now(tf->exec) + TF_LOOK_NS, "kernel to ask for the size", j->node->ino, 0);
		asleep = !j->done.done && j->answered && tf_job_asleep(j) ? asleep + 1 : 0;
	}
	ts_list_del(&j->tell_link);
	if (!j->done.done) {
		j->detached = true;
		return 0;
	}
	rc = j->done.rc;
	tf_node_unref(tf, j->node);
	tf_job_free(j);
	return rc;
}

void tf_size_arrived(struct tf_req *q)
{
	struct tf_node *n = q->node;
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

int tf_size_tell(struct tf_req *q)
{
	struct tfuse *tf = q->tf;
	struct tf_node *n = q->node;
	uint64_t invals = atomic_load(&n->invals);
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
	int rc = tell_wait(tf, j);
	tf->tellers--;
	ts_cond_signal(&tf->told);
	tf->st.sizes_told += rc == 0;
	q->told = rc == 0 && invals == atomic_load(&n->invals);
	return rc;
}
