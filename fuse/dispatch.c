/* SPDX-License-Identifier: Apache-2.0 */
/* From the kernel's request to its handler and back. The executor reads /dev/fuse itself, without blocking, and runs each
 * request on a fiber of the same thread: no hop to another thread, and a request that has to wait holds no thread.
 * Bytes come from the kernel, yet lengths are checked: a short or unknown request is answered with an error.
 * Must never happen: a request without exactly one answer; a handler touching a request after its answer. */
#include "fuse/fuse_int.h"
#include <sys/epoll.h>
#include <unistd.h>

#define TF_READS_PER_TURN 16

const struct tf_op_ent tf_ops[64] = {
	[FUSE_LOOKUP] = {"lookup", tf_op_lookup, false},
	[FUSE_FORGET] = {"forget", tf_op_forget, true},
	[FUSE_GETATTR] = {"getattr", tf_op_getattr, false},
	[TF_STATX] = {"statx", tf_op_statx, false},
	[FUSE_SETATTR] = {"setattr", tf_op_setattr, false},
	[FUSE_READLINK] = {"readlink", tf_op_readlink, false},
	[FUSE_SYMLINK] = {"symlink", tf_op_symlink, false},
	[FUSE_MKNOD] = {"mknod", tf_op_mknod, false},
	[FUSE_MKDIR] = {"mkdir", tf_op_mkdir, false},
	[FUSE_UNLINK] = {"unlink", tf_op_unlink, false},
	[FUSE_RMDIR] = {"rmdir", tf_op_rmdir, false},
	[FUSE_RENAME] = {"rename", tf_op_rename, false},
	[FUSE_LINK] = {"link", tf_op_link, false},
	[FUSE_OPEN] = {"open", tf_op_open, false},
	[FUSE_READ] = {"read", tf_op_read, false},
	[FUSE_WRITE] = {"write", tf_op_write, false},
	[FUSE_STATFS] = {"statfs", tf_op_statfs, false},
	[FUSE_RELEASE] = {"release", tf_op_release, false},
	[FUSE_FSYNC] = {"fsync", tf_op_fsync, false},
	[FUSE_SETXATTR] = {"setxattr", tf_op_setxattr, false},
	[FUSE_GETXATTR] = {"getxattr", tf_op_getxattr, false},
	[FUSE_LISTXATTR] = {"listxattr", tf_op_listxattr, false},
	[FUSE_REMOVEXATTR] = {"removexattr", tf_op_removexattr, false},
	[FUSE_FLUSH] = {"flush", tf_op_flush, false},
	[FUSE_INIT] = {"init", tf_op_init, true},
	[FUSE_OPENDIR] = {"opendir", tf_op_opendir, true},
	[FUSE_READDIR] = {"readdir", tf_op_readdir, false},
	[FUSE_RELEASEDIR] = {"releasedir", tf_op_releasedir, true},
	[FUSE_FSYNCDIR] = {"fsyncdir", tf_op_fsyncdir, false},
	[FUSE_GETLK] = {"getlk", tf_op_getlk, false},
	[FUSE_SETLK] = {"setlk", tf_op_setlk, false},
	[FUSE_SETLKW] = {"setlkw", tf_op_setlkw, false},
	[FUSE_CREATE] = {"create", tf_op_create, false},
	[FUSE_INTERRUPT] = {"interrupt", tf_op_interrupt, true},
	[FUSE_DESTROY] = {"destroy", tf_op_destroy, true},
	[FUSE_BATCH_FORGET] = {"batch_forget", tf_op_batch_forget, true},
	[FUSE_IOCTL] = {"ioctl", tf_op_ioctl, false},
	[FUSE_FALLOCATE] = {"fallocate", tf_op_fallocate, false},
	[FUSE_READDIRPLUS] = {"readdirplus", tf_op_readdirplus, false},
	[FUSE_RENAME2] = {"rename2", tf_op_rename2, false},
	[FUSE_LSEEK] = {"lseek", tf_op_lseek, false},
	[FUSE_COPY_FILE_RANGE] = {"copy_file_range", tf_op_copy_file_range, false},
	[FUSE_TMPFILE] = {"tmpfile", tf_op_tmpfile, false},
};

const char *tfuse_op_name(unsigned opcode)
{
	return opcode < TS_ARRAY_LEN(tf_ops) ? tf_ops[opcode].name : NULL;
}

uint8_t *tf_buf_get(struct tfuse *tf)
{
	if (tf->npool)
		return tf->pool[--tf->npool];
	return ts_alloc_aligned(4096, TF_BUF_BYTES);
}

void tf_buf_put(struct tfuse *tf, uint8_t *b)
{
	if (!b)
		return;
	if (tf->npool < TF_POOL_BUFS)
		tf->pool[tf->npool++] = b;
	else
		ts_free(b);
}

const void *tf_arg(const struct tf_req *q, size_t size)
{
	return q->arg_len >= size ? q->arg : NULL;
}

const char *tf_str(const struct tf_req *q, size_t off, size_t max, size_t *len, size_t *next)
{
	if (off >= q->arg_len)
		return NULL;
	const char *s = (const char *)q->arg + off;
	const char *e = memchr(s, 0, q->arg_len - off);
	if (!e || (size_t)(e - s) > max)
		return NULL;
	*len = (size_t)(e - s);
	if (next)
		*next = off + *len + 1;
	return s;
}

void tf_fault_at(struct tf_req *q, enum tf_fault_stage stage)
{
	if (q->in->opcode < TF_FAULT_OPS) /* others are rejected */
		(void)tf_fault(q->tf, TF_AT_OPS + q->in->opcode * TF_FAULT_STAGES + stage, q->in->nodeid);
}

int tf_reply_iov(struct tf_req *q, struct iovec *iov, int n)
{
	struct fuse_out_header h = {.error = 0, .unique = q->in->unique};
	size_t len = sizeof(h);
	iov[0] = (struct iovec){&h, sizeof(h)};
	for (int i = 1; i < n; i++)
		len += iov[i].iov_len;
	h.len = (uint32_t)len;
	tf_fault_at(q, TF_BEFORE_REPLY);
	ssize_t w = writev(q->tf->fd, iov, n);
	int err = errno;
	tf_fault_at(q, TF_AFTER_REPLY);
	errno = err;
	if (w < 0 && errno != ENOENT && errno != ENODEV)
		ts_err("mount %s: answer to %s refused by the kernel: %s", q->tf->mountpoint,
		       tfuse_op_name(q->in->opcode), strerror(errno));
	return w < 0 ? -errno : 0;
}

int tf_reply(struct tf_req *q, const void *data, size_t len)
{
	struct iovec iov[2] = {{NULL, 0}, {(void *)data, len}};
	return tf_reply_iov(q, iov, len ? 2 : 1);
}

static int errno_for_kernel(int err)
{
	switch (err) {
	case TS_ERR_FENCED:
		return EIO;
	case TS_ERR_BOUNCED:
		return ESTALE;
	case TS_ERR_RETRY:
	case TS_ERR_MOVED:
	case TS_ERR_WOULD_WAIT:
		return EAGAIN;
	case EUCLEAN:
		return EIO;
	default:
		return err > 0 && err < 512 ? err : EIO;
	}
}

void tf_reply_err(struct tf_req *q, int err)
{
	struct fuse_out_header h = {.len = sizeof(h), .error = -errno_for_kernel(err), .unique = q->in->unique};
	struct iovec iov = {&h, sizeof(h)};
	if (err != TS_ERR_BOUNCED) /* it has not begun */
		tf_fault_at(q, TF_BEFORE_REPLY);
	ssize_t w = writev(q->tf->fd, &iov, 1);
	if (w < 0 && errno != ENOENT && errno != ENODEV)
		ts_err("mount %s: error answer refused by the kernel: %s", q->tf->mountpoint, strerror(errno));
}

static void req_free(struct tf_req *q)
{
	struct tfuse *tf = q->tf;
	tf_watch_end(q);
	ts_list_del(&q->link);
	tf_names_answered(q);
	if (q->big)
		tf_buf_put(tf, q->buf);
	ts_free(q);
	TS_ASSERT(tf->in_flight);
	if (--tf->in_flight == 0)
		ts_cond_broadcast(&tf->idle);
}

static void req_run(void *arg)
{
	struct tf_req *q = arg;
	q->fiber = ts_fiber_self();
	if (q->fiber)
		ts_fiber_data_set(q);
	if (q->in->opcode != FUSE_READ && q->in->opcode != FUSE_WRITE) /* these when they are in their list */
		tf_fault_at(q, TF_BEFORE_PIN);
	int rc = tf_ops[q->in->opcode].fn(q);
	if (rc == -ESTALE)
		rc = tf_removed_dir(q);
	tf_retry_done(q, rc);
	if (q->tf->st.bounced)
		tf_bounce_over(q, rc);
	if (rc < 0 && rc != -TF_NOREPLY)
		tf_reply_err(q, -rc);
	req_free(q);
}

static uint64_t means(struct tf_req *q, unsigned i, uint64_t nodeid)
{
	const struct tf_node *n = tf_node_by_id(q->tf, nodeid);
	q->means[i].ino = tf_node_ino(nodeid);
	q->means[i].gen = n ? n->gen : 0; /* not known: by handle, and the kernel compares the generation itself */
	return q->means[i].ino;
}

uint64_t tf_second(struct tf_req *q, uint64_t nodeid)
{
	return means(q, 1, nodeid);
}

/* From here on in->nodeid is the inode's number, and the generation is looked at by tf_stale(). */
static void req_target(struct tf_req *q)
{
	struct fuse_in_header *h = (struct fuse_in_header *)q->buf;
	q->nodeid = h->nodeid;
	h->nodeid = means(q, 0, h->nodeid);
}

/* Asked by fs/ on the fiber of a request, for every inode it comes to. */
bool tf_stale(void *arg, uint64_t ino, uint32_t gen)
{
	const struct tf_req *q = ts_fiber_data();
	for (unsigned i = 0; q && i < TS_ARRAY_LEN(q->means); i++)
		if (q->means[i].ino == ino && q->means[i].gen && q->means[i].gen != gen)
			return true;
	return false;
}

/* Makes a request of the n bytes in tf->rbuf. Small ones are copied so that the big buffer stays; large ones take it. */
static struct tf_req *req_new(struct tfuse *tf, size_t n)
{
	struct tf_req *q = ts_alloc(sizeof(*q));
	if (!q)
		return NULL;
	q->tf = tf;
	if (n <= TF_SMALL_BYTES) {
		memcpy(q->small, tf->rbuf, n);
		q->buf = q->small;
	} else {
		uint8_t *fresh = tf_buf_get(tf);
		if (!fresh) {
			ts_free(q);
			return NULL;
		}
		q->buf = tf->rbuf;
		q->big = true;
		tf->rbuf = fresh;
	}
	q->len = n;
	q->in = (const struct fuse_in_header *)q->buf;
	q->arg = q->buf + sizeof(*q->in);
	q->arg_len = n - sizeof(*q->in);
	req_target(q);
	q->cred = (struct fs_cred){.uid = q->in->uid, .gid = q->in->gid, .pid = q->in->pid};
	q->begun_ns = ts_exec_now(tf->exec);
	ts_list_init(&q->node_link);
	ts_list_push_back(&tf->requests, &q->link);
	tf->in_flight++;
	return q;
}

/* Asked by fs/ on the fiber of an operation that has not begun. A fiber of ours that is no request has no data. */
bool tf_interrupted(void *arg)
{
	const struct tf_req *q = ts_fiber_data();
	return q && (q->interrupted || q->tf->is_gone);
}

/* The wait may be long (no quorum): whoever was interrupted gets EINTR if nothing was done yet. Other waits end by themselves
 * and are answered normally. */
int tf_op_interrupt(struct tf_req *q)
{
	const struct fuse_interrupt_in *in = tf_arg(q, sizeof(*in));
	ts_list_for(l, &q->tf->requests) {
		struct tf_req *r = ts_list_entry(l, struct tf_req, link);
		if (in && r->in->unique == in->unique && r != q) {
			r->interrupted = true;
			fs_interrupt(q->tf->fs);
			break;
		}
	}
	return -TF_NOREPLY;
}

static void reject(struct tfuse *tf, int err)
{
	const struct fuse_in_header *in = (const struct fuse_in_header *)tf->rbuf;
	struct tf_req q = {.tf = tf, .in = in};
	if (in->opcode != FUSE_FORGET && in->opcode != FUSE_BATCH_FORGET && in->opcode != FUSE_INTERRUPT)
		tf_reply_err(&q, err);
}

static void dispatch(struct tfuse *tf, size_t n)
{
	const struct fuse_in_header *in = (const struct fuse_in_header *)tf->rbuf;
	if (n < sizeof(*in) || in->len != n) {
		ts_err("mount %s: request of %zu bytes with a wrong length, ignored", tf->mountpoint, n);
		return;
	}
	tf->st.requests++;
	if (in->opcode >= TS_ARRAY_LEN(tf_ops) || !tf_ops[in->opcode].fn) {
		reject(tf, ENOSYS);
		return;
	}
	tf->st.op_count[in->opcode]++;
	struct tf_req *q = req_new(tf, n);
	if (!q) {
		reject(tf, ENOMEM);
		return;
	}
	if (tf_ops[in->opcode].inline_ok)
		req_run(q);
	else if (ts_fiber_start(tf->exec, tf_ops[q->in->opcode].name, req_run, q)) {
		tf_reply_err(q, ENOMEM);
		req_free(q);
	}
}

void tf_nobody_waits(struct tfuse *tf)
{
	if (tf->fs)
		fs_interrupt(tf->fs);
}

static void gone_fiber(void *arg)
{
	struct tfuse *tf = arg;
	if (tf->gone)
		tf->gone(tf->arg);
}

static void connection_gone(struct tfuse *tf)
{
	if (tf->is_gone)
		return;
	tf->is_gone = true;
	if (tf->polling)
		ts_loop_fd_del(ts_exec_loop(tf->exec), tf->fd);
	tf->polling = false;
	tf_nobody_waits(tf);
	if (ts_fiber_spawn(tf->exec, "mount gone", gone_fiber, tf))
		ts_err("mount %s: no memory to clean up behind the umount", tf->mountpoint);
}

void tf_readable(void *arg, uint32_t events)
{
	struct tfuse *tf = arg;
	for (unsigned i = 0; i < TF_READS_PER_TURN; i++) {
		ssize_t n = read(tf->fd, tf->rbuf, TF_BUF_BYTES);
		if (n >= 0) {
			dispatch(tf, (size_t)n);
			continue;
		}
		if (errno == EINTR || errno == ENOENT) /* ENOENT: the request was aborted before it was read */
			continue;
		if (errno == EAGAIN) {
			tf->drained_ns = ts_exec_now(tf->exec);
			return;
		}
		connection_gone(tf); /* ENODEV: unmounted or aborted */
		return;
	}
}
