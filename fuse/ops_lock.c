/* SPDX-License-Identifier: Apache-2.0 */
/* Locks of applications. With FUSE_POSIX_LOCKS and FUSE_FLOCK_LOCKS the kernel keeps none itself: every fcntl and flock on
 * a regular file comes here, and every close comes as FLUSH, because it drops the process's locks on the file. A request
 * that waits holds a fiber only; a signal comes as INTERRUPT. */
#include "fuse/fuse_int.h"
#include <fcntl.h>
#include <stdio.h>

#define ASLEEP_TRIES 1000
#define ASLEEP_NS    TS_NS_PER_MS

/* The kernel does not say whether a record lock is of the process or of the open file. Who waits sits in the system call, whose
 * second argument tells; but on another CPU it may not have gone to sleep yet, and is then told to be running, no more.
 * Not known: of the process, as nearly all are. */
static bool of_process(void *arg)
{
	const struct tf_req *q = ts_fiber_data();
	struct ts_exec *exec = q->tf->exec;
	char text[256];
	unsigned long nr, fd, cmd;
	bool is = tf_proc_read(q->in->pid, "syscall", text, sizeof(text));
	for (unsigned i = 0; is && !strncmp(text, "running", 7) && i < ASLEEP_TRIES && !tf_interrupted(arg); i++) {
		ts_sleep_until(ts_exec_now(exec) + ASLEEP_NS);
		is = tf_proc_read(q->in->pid, "syscall", text, sizeof(text));
	}
	return !is || sscanf(text, "%lu %lx %lx", &nr, &fd, &cmd) != 3 || cmd != F_OFD_SETLKW;
}

static int lock_of(const struct fuse_lk_in *in, struct fs_lock *l)
{
	static const struct {
		uint32_t kernel;
		enum fs_lock_type type;
	} types[] = {{F_UNLCK, FS_LOCK_NONE}, {F_RDLCK, FS_LOCK_READ}, {F_WRLCK, FS_LOCK_WRITE}};
	*l = (struct fs_lock){.start = in->lk.start,
			      .end = in->lk.end,
			      .owner = in->owner,
			      .pid = in->lk.pid,
			      .flock = in->lk_flags & FUSE_LK_FLOCK};
	for (size_t i = 0; i < TS_ARRAY_LEN(types); i++)
		if (types[i].kernel == in->lk.type) {
			l->type = types[i].type;
			return l->start <= l->end ? 0 : -EINVAL;
		}
	return -EINVAL;
}

static int set(struct tf_req *q, bool wait)
{
	const struct fuse_lk_in *in = tf_arg(q, sizeof(*in));
	struct fs_lock l;
	int rc = in ? lock_of(in, &l) : -EINVAL;
	if (rc == 0)
		rc = fs_lock_set(q->tf->fs, tf_handle(in->fh), &l, wait, of_process);
	if (rc)
		return rc;
	return tf_reply(q, NULL, 0) ? -TF_NOREPLY : 0;
}

int tf_op_setlk(struct tf_req *q)
{
	return set(q, false);
}

int tf_op_setlkw(struct tf_req *q)
{
	return set(q, true);
}

int tf_op_getlk(struct tf_req *q)
{
	const struct fuse_lk_in *in = tf_arg(q, sizeof(*in));
	struct fs_lock l;
	int rc = in ? lock_of(in, &l) : -EINVAL;
	if (rc == 0 && l.type == FS_LOCK_NONE)
		rc = -EINVAL;
	if (rc == 0)
		rc = fs_lock_get(q->tf->fs, tf_handle(in->fh), &l);
	if (rc)
		return rc;
	struct fuse_lk_out out = {.lk = {.start = l.start, .end = l.end, .pid = l.pid}};
	out.lk.type = l.type == FS_LOCK_WRITE ? F_WRLCK : l.type == FS_LOCK_READ ? F_RDLCK : F_UNLCK;
	return tf_reply(q, &out, sizeof(out)) ? -TF_NOREPLY : 0;
}
