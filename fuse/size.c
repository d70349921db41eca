/* SPDX-License-Identifier: Apache-2.0 */
/* The size of a file in the kernel, and the end that a READ meets.
 *
 * The kernel takes the end of a short READ for the end of the file only if no invalidation of that inode came since it sent it, and of
 * several READs believes the first one that it applies. If it does not, it fills the page with zeros up to the size it
 * believed, and read(2) returns them, now and from the page later. So where its word would not count, or may not be the right one, the
 * kernel is made to ask for the size before the READ is answered: a notifier thread looks at the inode through the mount
 * (open_by_handle_at, which finds it in memory; no look-up), and when that call has returned its GETATTR has been applied.
 *
 * Must never happen: pins held while the thread looks; so many threads looking that revokes find none. */
#include "fuse/fuse_int.h"
#include <fcntl.h>
#include <unistd.h>

#define TF_TELLERS	 32 /* at once */
#define FH_INO64_GEN	 0x81 /* the kernel's FILEID_INO64_GEN: what FUSE makes of an inode */
#define TF_SEND_NS	 100000 /* from taking its version number to queueing a request */

struct fuse_handle {
	struct file_handle h;
	uint32_t raw[3];
};

static int job_tell(struct tf_job *j)
{
	uint64_t id = tf_nodeid(j->node->ino, j->node->gen);
	struct fuse_handle fh = {.h = {.handle_bytes = sizeof(fh.raw), .handle_type = FH_INO64_GEN},
				 .raw = {(uint32_t)(id >> 32), (uint32_t)id, j->node->gen}};
	struct statx stx;
	int m = open(j->tf->mountpoint, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int fd = m < 0 ? -1 : open_by_handle_at(m, &fh.h, O_PATH | O_CLOEXEC);
	int rc = fd < 0 || statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_SIZE, &stx) ? -errno : 0;
	if (fd >= 0)
		close(fd);
	if (m >= 0)
		close(m);
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
	tf->st.sizes_told++;
	int rc = tf_job_run(j, "kernel to ask for the size", n->ino);
	tf->tellers--;
	ts_cond_signal(&tf->told);
	q->told = rc == 0 && invals == atomic_load(&n->invals);
	return rc;
}
