/* SPDX-License-Identifier: Apache-2.0 */
/* Open files: data goes through fs/'s page pool. O_APPEND opens use direct I/O, because the kernel computes the offset from
 * a size it does not refresh; the end is found under the token here. Other opens keep the kernel's pages: they are valid
 * exactly as long as the file's token is held. */
#include "fuse/fuse_int.h"
#include <fcntl.h>
#include <unistd.h>

static struct fs_file *handle(uint64_t fh)
{
	return (struct fs_file *)(uintptr_t)fh;
}

static uint32_t open_mode(struct tfuse *tf, uint64_t ino, int flags)
{
	struct tf_node *n = tf_node_find(tf, ino);
	if (flags & O_APPEND)
		return FOPEN_DIRECT_IO;
	if (n)
		n->pages_cached = true;
	/* Every close drops the process's locks on the file. */
	return FOPEN_KEEP_CACHE | (tf->local_locks && (flags & O_ACCMODE) == O_RDONLY ? FOPEN_NOFLUSH : 0);
}

int tf_op_open(struct tf_req *q)
{
	const struct fuse_open_in *in = tf_arg(q, sizeof(*in));
	struct fs_file *f;
	if (!in)
		return -EINVAL;
	int rc = fs_open(q->tf->fs, &q->cred, q->in->nodeid, (int)in->flags, &f);
	if (rc)
		return rc;
	struct fuse_open_out out = {.fh = (uint64_t)(uintptr_t)f, .open_flags = open_mode(q->tf, q->in->nodeid, (int)in->flags)};
	if (tf_reply(q, &out, sizeof(out))) {
		fs_release(q->tf->fs, f);
		return -TF_NOREPLY;
	}
	return 0;
}

static int created_reply(struct tf_req *q, struct fs_file *f, const struct fs_attr *a, int flags, bool names)
{
	struct {
		struct fuse_entry_out e;
		struct fuse_open_out o;
	} out = {0};
	if (!tf_entry_fill(q->tf, q->in->nodeid, &out.e, a, false, names)) {
		fs_release(q->tf->fs, f);
		return -ENOMEM;
	}
	out.o.fh = (uint64_t)(uintptr_t)f;
	out.o.open_flags = open_mode(q->tf, a->ino, flags);
	if (tf_reply(q, &out, sizeof(out))) {
		tf_node_forget(q->tf, a->ino, 1);
		fs_release(q->tf->fs, f);
		return -TF_NOREPLY;
	}
	return 0;
}

int tf_op_create(struct tf_req *q)
{
	const struct fuse_create_in *in = tf_arg(q, sizeof(*in));
	size_t len;
	const char *name = in ? tf_str(q, sizeof(*in), 4096, &len, NULL) : NULL;
	struct fs_file *f;
	struct fs_attr a;
	if (!name)
		return -EINVAL;
	if (len > TF_NAME_MAX)
		return -ENAMETOOLONG;
	q->cred.umask = in->umask;
	int rc = fs_create(q->tf->fs, &q->cred, q->in->nodeid, name, len, in->mode, (int)in->flags, &f, &a);
	return rc ? rc : created_reply(q, f, &a, (int)in->flags, true);
}

int tf_op_tmpfile(struct tf_req *q)
{
	const struct fuse_create_in *in = tf_arg(q, sizeof(*in));
	struct fs_file *f;
	struct fs_attr a;
	if (!in)
		return -EINVAL;
	q->cred.umask = in->umask;
	int rc = fs_tmpfile(q->tf->fs, &q->cred, q->in->nodeid, in->mode, (int)in->flags, &f, &a);
	return rc ? rc : created_reply(q, f, &a, (int)in->flags, false);
}

int tf_op_read(struct tf_req *q)
{
	const struct fuse_read_in *in = tf_arg(q, sizeof(*in));
	if (!in || in->size > TF_MAX_WRITE)
		return -EINVAL;
	struct tf_node *n = tf_node_find(q->tf, q->in->nodeid);
	if (n)
		n->pages_cached = true;
	uint8_t *buf = in->size <= 4096 ? ts_alloc_aligned(64, 4096) : tf_buf_get(q->tf);
	if (!buf)
		return -ENOMEM;
	ssize_t r = fs_read(q->tf->fs, handle(in->fh), buf, in->size, in->offset);
	int rc = r < 0 ? (int)r : tf_reply(q, buf, (size_t)r) ? -TF_NOREPLY : 0;
	if (in->size <= 4096)
		ts_free(buf);
	else
		tf_buf_put(q->tf, buf);
	return rc;
}

static void write_track(struct tf_req *q, const struct fuse_write_in *in)
{
	q->node = tf_node_find(q->tf, q->in->nodeid);
	if (!q->node)
		return;
	tf_node_ref(q->node);
	q->node->pages_cached = true; /* a write through the page cache fills it, also on a handle opened before the last revoke */
	q->w_start = in->offset;
	q->w_end = in->offset + in->size - 1;
	ts_list_push_back(&q->node->writes, &q->node_link);
}

static void write_untrack(struct tf_req *q)
{
	if (!q->node)
		return;
	ts_list_del(&q->node_link);
	tf_node_unref(q->tf, q->node);
}

#define LATE_MAX 256

/* How much of it lies within the file as it is now. */
static uint32_t late_clip(struct tf_req *q, const struct fuse_write_in *in)
{
	struct fs_attr a;
	int rc = fs_getattr(q->tf->fs, &q->cred, q->in->nodeid, &a);
	if (rc)
		return in->size; /* the write itself tells what is wrong */
	return a.size <= in->offset ? 0 : (uint32_t)TS_MIN((uint64_t)in->size, a.size - in->offset);
}

/* A page dirtied through a shared map, silently and maybe under a shared token only. It arrives when the kernel launders it, often
 * because a revoke waits for just that: so it is answered first and applied when the token comes; flush, fsync and
 * release wait for it, and tell if it failed. Where the token is held, and beyond the bound, it is answered when it is applied.
 * A map never makes a file longer: what another node cut off meanwhile stays cut off. */
static int late_write(struct tf_req *q, const struct fuse_write_in *in)
{
	struct tfuse *tf = q->tf;
	struct tf_node *n = tf_node_find(tf, q->in->nodeid);
	struct fuse_write_out out = {.size = in->size};
	bool early = n && tf->late_total < LATE_MAX && !tok_cached(fs_tokens(tf->fs), TOK_DATA, q->in->nodeid, TOK_EX);
	uint32_t len = in->size;
	if (n) {
		n->late_writes++; /* an invalidation that met it looks again, whichever way it is answered */
		n->pages_cached = true; /* whoever wrote a mapped page still has it */
	}
	if (early) {
		n->late_pending++;
		tf->late_total++;
		tf_node_ref(n);
		(void)!tf_reply(q, &out, sizeof(out));
		len = late_clip(q, in);
	}
	ssize_t r = len ? fs_write(tf->fs, handle(in->fh), q->arg + sizeof(*in), len, in->offset, false, false, NULL) : 0;
	if (!early)
		return r < 0 ? (int)r : tf_reply(q, &out, sizeof(out)) ? -TF_NOREPLY : 0;
	if (r != (ssize_t)len)
		n->late_error = r < 0 ? (int)r : -EIO;
	tf->late_total--;
	n->late_pending--;
	ts_cond_broadcast(&n->late_cond);
	tf_node_unref(tf, n);
	return 0;
}

static void late_wait(struct tf_req *q)
{
	struct tf_node *n = tf_node_find(q->tf, q->in->nodeid);
	if (!n)
		return;
	tf_node_ref(n);
	while (n->late_pending)
		ts_cond_wait(&n->late_cond, "mapped pages to be written", n->ino, n->late_pending);
	tf_node_unref(q->tf, n);
}

/* For those who can tell the user: flush and fsync. */
static int late_result(struct tf_req *q)
{
	late_wait(q);
	struct tf_node *n = tf_node_find(q->tf, q->in->nodeid);
	int rc = n ? n->late_error : 0;
	if (n)
		n->late_error = 0;
	return rc;
}

int tf_op_write(struct tf_req *q)
{
	const struct fuse_write_in *in = tf_arg(q, sizeof(*in));
	if (!in || q->arg_len - sizeof(*in) < in->size || in->offset > (uint64_t)INT64_MAX - in->size)
		return -EINVAL;
	if (in->size == 0) {
		struct fuse_write_out none = {0};
		return tf_reply(q, &none, sizeof(none)) ? -TF_NOREPLY : 0;
	}
	if (in->write_flags & FUSE_WRITE_CACHE)
		return late_write(q, in);
	uint64_t at = in->offset;
	bool append = in->flags & O_APPEND;
	write_track(q, in);
	ssize_t r = fs_write(q->tf->fs, handle(in->fh), q->arg + sizeof(*in), in->size, in->offset, append,
			     in->write_flags & FUSE_WRITE_KILL_SUIDGID, &at);
	struct fuse_write_out out = {.size = r > 0 ? (uint32_t)r : 0};
	int rc = r < 0 ? (int)r : tf_reply(q, &out, sizeof(out)) ? -TF_NOREPLY : 0;
	write_untrack(q);
	if (r > 0 && at != in->offset) { /* the kernel may have put these bytes into its cache at the wrong place */
		tf_inval_later(q->tf, q->in->nodeid, in->offset, in->offset + (uint64_t)r - 1);
		tf_inval_later(q->tf, q->in->nodeid, at, at + (uint64_t)r - 1);
	}
	return rc;
}

int tf_op_flush(struct tf_req *q)
{
	const struct fuse_flush_in *in = tf_arg(q, sizeof(*in));
	if (!in)
		return -EINVAL;
	int lock_rc = fs_lock_close(q->tf->fs, handle(in->fh), in->lock_owner);
	int rc = fs_file_writes(handle(in->fh)) ? late_result(q) : 0; /* a reader would take the writer's error away */
	if (rc == 0)
		rc = fs_flush(q->tf->fs, handle(in->fh));
	rc = rc ? rc : lock_rc;
	if (rc)
		return rc;
	return tf_reply(q, NULL, 0) ? -TF_NOREPLY : 0;
}

int tf_op_release(struct tf_req *q)
{
	const struct fuse_release_in *in = tf_arg(q, sizeof(*in));
	if (!in)
		return -EINVAL;
	late_wait(q); /* their handle may be this one; an error stays for the next flush or fsync */
	fs_release(q->tf->fs, handle(in->fh));
	return tf_reply(q, NULL, 0) ? -TF_NOREPLY : 0;
}

int tf_op_fsync(struct tf_req *q)
{
	const struct fuse_fsync_in *in = tf_arg(q, sizeof(*in));
	if (!in)
		return -EINVAL;
	int rc = late_result(q);
	if (rc == 0)
		rc = fs_fsync(q->tf->fs, handle(in->fh), in->fsync_flags & FUSE_FSYNC_FDATASYNC);
	if (rc)
		return rc;
	return tf_reply(q, NULL, 0) ? -TF_NOREPLY : 0;
}

int tf_op_fallocate(struct tf_req *q)
{
	const struct fuse_fallocate_in *in = tf_arg(q, sizeof(*in));
	if (!in)
		return -EINVAL;
	if (in->mode & ~(uint32_t)(FS_FALLOC_KEEP_SIZE | FS_FALLOC_PUNCH | FS_FALLOC_ZERO))
		return -EOPNOTSUPP;
	int rc = fs_fallocate(q->tf->fs, handle(in->fh), (int)in->mode, in->offset, in->length);
	if (rc)
		return rc;
	return tf_reply(q, NULL, 0) ? -TF_NOREPLY : 0;
}

int tf_op_lseek(struct tf_req *q)
{
	const struct fuse_lseek_in *in = tf_arg(q, sizeof(*in));
	if (!in || (in->whence != SEEK_HOLE && in->whence != SEEK_DATA))
		return -EINVAL;
	int64_t r = fs_seek(q->tf->fs, handle(in->fh), in->offset, in->whence == SEEK_HOLE);
	if (r < 0)
		return (int)r;
	struct fuse_lseek_out out = {.offset = (uint64_t)r};
	return tf_reply(q, &out, sizeof(out)) ? -TF_NOREPLY : 0;
}

int tf_op_copy_file_range(struct tf_req *q)
{
	const struct fuse_copy_file_range_in *in = tf_arg(q, sizeof(*in));
	if (!in || in->flags)
		return -EINVAL;
	size_t len = TS_MIN(in->len, (uint64_t)1 << 30);
	ssize_t r = fs_copy_range(q->tf->fs, handle(in->fh_in), in->off_in, handle(in->fh_out), in->off_out, len);
	if (r < 0)
		return (int)r;
	struct fuse_write_out out = {.size = (uint32_t)r};
	return tf_reply(q, &out, sizeof(out)) ? -TF_NOREPLY : 0;
}
