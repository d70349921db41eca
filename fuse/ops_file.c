/* SPDX-License-Identifier: Apache-2.0 */
/* Open files: data goes through fs/'s page pool. O_APPEND opens use direct I/O, because the kernel computes the offset from
 * a size it does not refresh; the end is found under the token here. Other opens keep the kernel's pages: they are valid
 * exactly as long as the file's token is held. */
#include "fuse/fuse_int.h"
#include <fcntl.h>
#include <unistd.h>

static bool mappable(int flags)
{
	return (flags & O_ACCMODE) == O_RDWR;
}

/* Pages that were read under a shared token must not be dirtied: the first handle that could map them for writing starts without
 * pages, and while there is one all pages are read under the exclusive token. */
static void open_fill(struct tfuse *tf, uint64_t ino, int flags, struct fs_file *f, struct fuse_open_out *out)
{
	struct tf_node *n = tf_node_find(tf, ino);
	bool first = n && mappable(flags) && n->writers++ == 0;
	if (n)
		n->opens++;
	out->fh = (uint64_t)(uintptr_t)f;
	if (mappable(flags))
		fs_file_maps(f);
	if (flags & O_APPEND || (tf->strict_atime && (flags & O_ACCMODE) != O_WRONLY)) {
		out->fh |= TF_FH_DIRECT;
		out->open_flags = FOPEN_DIRECT_IO;
		return;
	}
	if (n)
		tf_pages_filled(n);
	bool drop = first && !tok_cached(fs_tokens(tf->fs), TOK_DATA, ino, TOK_EX);
	/* Every close drops the process's locks on the file: no FOPEN_NOFLUSH. */
	bool noflush = tf->local_locks && (flags & O_ACCMODE) == O_RDONLY;
	out->open_flags = (drop ? 0 : FOPEN_KEEP_CACHE) | (noflush ? FOPEN_NOFLUSH : 0);
}

static void open_undo(struct tfuse *tf, uint64_t ino, int flags)
{
	struct tf_node *n = tf_node_find(tf, ino);
	if (!n)
		return;
	TS_ASSERT(n->opens);
	n->opens--;
	if (mappable(flags)) {
		TS_ASSERT(n->writers);
		n->writers--;
	}
}

int tf_op_open(struct tf_req *q)
{
	const struct fuse_open_in *in = tf_arg(q, sizeof(*in));
	struct fuse_open_out out = {0};
	struct fs_file *f;
	if (!in)
		return -EINVAL;
	if (in->open_flags & FUSE_OPEN_KILL_SUIDGID)
		q->cred.flags |= FS_KILL_SUID;
	int rc = fs_open(q->tf->fs, &q->cred, q->in->nodeid, (int)in->flags, &f);
	if (rc)
		return rc;
	open_fill(q->tf, q->in->nodeid, (int)in->flags, f, &out);
	if (tf_reply(q, &out, sizeof(out))) {
		open_undo(q->tf, q->in->nodeid, (int)in->flags);
		fs_release(q->tf->fs, f);
		return -TF_NOREPLY;
	}
	return 0;
}

static int created_reply(struct tf_req *q, struct fs_file *f, const struct fs_attr *a, int flags, const char *name, size_t len)
{
	struct {
		struct fuse_entry_out e;
		struct fuse_open_out o;
	} out = {0};
	if (!tf_entry_fill(q, name, len, &out.e, a, false)) {
		fs_release(q->tf->fs, f);
		return -ENOMEM;
	}
	open_fill(q->tf, a->ino, flags, f, &out.o);
	if (tf_reply(q, &out, sizeof(out))) {
		open_undo(q->tf, a->ino, flags);
		tf_node_forget(q->tf, out.e.nodeid, 1);
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
	if (in->open_flags & FUSE_OPEN_KILL_SUIDGID)
		q->cred.flags |= FS_KILL_SUID;
	int rc = fs_create(q->tf->fs, &q->cred, q->in->nodeid, name, len, in->mode, (int)in->flags, &f, &a);
	tf_name_made(q);
	return rc ? rc : created_reply(q, f, &a, (int)in->flags, name, len);
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
	return rc ? rc : created_reply(q, f, &a, (int)in->flags, NULL, 0);
}

/* ---- requests in flight, as the invalidation of pages must know them ------------------------------------------------ */

static void track(struct tf_req *q, bool write, uint64_t off, uint32_t size)
{
	q->node = tf_node_find(q->tf, q->in->nodeid);
	if (!q->node)
		return;
	tf_node_ref(q->node);
	q->first = off;
	q->last = off + size - 1;
	q->node->arrivals++;
	ts_list_push_back(write ? &q->node->writes : &q->node->reads, &q->node_link);
	if (!write)
		tf_size_arrived(q);
}

static void untrack(struct tf_req *q)
{
	if (!q->node)
		return;
	ts_list_del(&q->node_link);
	tf_node_unref(q->tf, q->node);
	q->node = NULL;
}

#define MET_NS (50 * TS_NS_PER_MS) /* from filling a page to sending the WRITE */

/* No wait lies behind the read: what was read would be old. */
static ssize_t read_pages(struct tf_req *q, const struct fuse_read_in *in, uint8_t *buf)
{
	const struct fs_at_end end = {tf_size_at_end, q};
	for (;;) {
		bool mapped = q->node && q->node->writers;
		ssize_t r = fs_read_cached(q->tf->fs, tf_handle(in->fh), mapped, buf, in->size, in->offset, &end);
		if (mapped || !q->node || !q->node->writers)
			return r; /* else opened for writing meanwhile: not under a shared token */
	}
}

/* WRITEs on their way have filled the kernel's pages, a revoke may have dropped these, and this READ brings back what was there before. */
static void read_meets(const struct tf_req *q)
{
	struct tf_node *n = q->node;
	n->read_ns = ts_exec_now(q->tf->exec);
	ts_list_for(l, &n->writes) {
		struct tf_req *w = ts_list_entry(l, struct tf_req, node_link);
		w->met |= w->first <= q->last && q->first <= w->last;
	}
}

/* A READ was answered behind an invalidation, and before this WRITE came here: it was perhaps on its way already. */
static bool write_met(const struct tf_req *q)
{
	const struct tf_node *n = q->node;
	uint64_t inval_ns = n ? atomic_load(&n->inval_ns) : 0;
	return inval_ns && n->read_ns >= inval_ns && ts_exec_now(q->tf->exec) < inval_ns + MET_NS;
}

int tf_op_read(struct tf_req *q)
{
	const struct fuse_read_in *in = tf_arg(q, sizeof(*in));
	if (!in || in->size > TF_MAX_WRITE || in->offset > (uint64_t)INT64_MAX - in->size)
		return -EINVAL;
	uint8_t *buf = in->size <= 4096 ? ts_alloc_aligned(64, 4096) : tf_buf_get(q->tf);
	if (!buf)
		return -ENOMEM;
	if (in->size && !(in->read_flags & FUSE_READ_LOCKOWNER)) /* only READs past the page cache name an owner */
		track(q, false, in->offset, in->size);
	tf_fault_at(q, TF_BEFORE_PIN);
	ssize_t r = read_pages(q, in, buf);
	if (q->node && q->unsaid) /* the next best: no later read finds this page */
		tf_inval_later(q->tf, q->in->nodeid, q->first, q->last);
	if (q->node && r >= 0) { /* behind the end, too: the kernel fills the page with zeros */
		tf_size_filled(q->tf, q->node, r ? in->offset + (uint64_t)r : 0);
		tf_pages_filled(q->node);
		read_meets(q);
	}
	int rc = r < 0 ? (int)r : tf_reply(q, buf, (size_t)r) ? -TF_NOREPLY : 0;
	untrack(q);
	if (in->size <= 4096)
		ts_free(buf);
	else
		tf_buf_put(q->tf, buf);
	return rc;
}

/* ---- pages dirtied through maps ---------------------------------------------------------------------------------------- */

#define LATE_MAX 256

/* A page dirtied through a shared map: under the exclusive token (open_fill), so it is applied under it, also while the token is being
 * given back, which waits for just that. Where that cannot be (a kernel that writes back late, a suspended node) it is answered first,
 * and flush and fsync wait for it and tell if it failed; beyond the bound it is answered when it is applied. */
static int late_write(struct tf_req *q, const struct fuse_write_in *in)
{
	struct tfuse *tf = q->tf;
	struct tf_node *n = tf_node_find(tf, q->in->nodeid);
	struct fuse_write_out out = {.size = in->size};
	const uint8_t *data = q->arg + sizeof(*in);
	if (n) {
		n->late_writes++; /* an invalidation that met it looks again, whichever way it is answered */
		tf_pages_filled(n); /* whoever wrote a mapped page still has it */
	}
	int rc = fs_write_mapped(tf->fs, tf_handle(in->fh), data, in->size, in->offset, false);
	bool early = rc == -TS_ERR_WOULD_WAIT && n && tf->late_total < LATE_MAX;
	if (early) {
		n->late_pending++;
		tf->late_total++;
		tf_node_ref(n);
		(void)!tf_reply(q, &out, sizeof(out));
	}
	if (rc == -TS_ERR_WOULD_WAIT)
		rc = fs_write_mapped(tf->fs, tf_handle(in->fh), data, in->size, in->offset, true);
	if (!early)
		return rc < 0 ? rc : tf_reply(q, &out, sizeof(out)) ? -TF_NOREPLY : 0;
	if (rc)
		n->late_error = rc;
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
	if (in->write_flags & FUSE_WRITE_CACHE) {
		tf_fault_at(q, TF_BEFORE_PIN);
		return late_write(q, in);
	}
	uint64_t at = in->offset;
	bool append = in->flags & O_APPEND && !tf_fault(q->tf, TF_OMIT_END, q->in->nodeid);
	track(q, true, in->offset, in->size);
	q->met = write_met(q);
	tf_fault_at(q, TF_BEFORE_PIN);
	if (q->node)
		tf_pages_filled(q->node); /* a write through the page cache fills it, also on a handle opened before the last revoke */
	ssize_t r = fs_write(q->tf->fs, tf_handle(in->fh), q->arg + sizeof(*in), in->size, in->offset, append,
			     in->write_flags & FUSE_WRITE_KILL_SUIDGID, &at);
	if (q->node && r > 0)
		tf_size_filled(q->tf, q->node, in->offset + (uint64_t)r);
	if (q->node)
		tf_pages_filled(q->node); /* a revoke while it waited has dropped them for the last time, but not those it brings now */
	if (r > 0 && in->fh & TF_FH_DIRECT) /* other handles may have read these pages while it was on its way */
		tf_inval_now(q->tf, q->in->nodeid, at, at + (uint64_t)r - 1);
	else if (r > 0 && q->met && at == in->offset && !tf_fault(q->tf, TF_OMIT_MET, q->in->nodeid))
		tf_inval_written(q, at, at + (uint64_t)r - 1);
	if (r > 0 && at != in->offset && !(in->fh & TF_FH_DIRECT)) { /* the kernel has put these bytes into its cache at the wrong place */
		tf_inval_written(q, in->offset, in->offset + (uint64_t)r - 1);
		tf_inval_written(q, at, at + (uint64_t)r - 1);
	}
	if (q->node && r > 0 && (at != in->offset || !tok_cached(fs_tokens(q->tf->fs), TOK_INODE, q->in->nodeid, TOK_EX)))
		q->node->size_moved = true; /* SW: others may move the end and need not ask for it here */
	struct fuse_write_out out = {.size = r > 0 ? (uint32_t)r : 0};
	int rc = r < 0 ? (int)r : tf_reply(q, &out, sizeof(out)) ? -TF_NOREPLY : 0;
	untrack(q);
	return rc;
}

int tf_op_flush(struct tf_req *q)
{
	const struct fuse_flush_in *in = tf_arg(q, sizeof(*in));
	if (!in)
		return -EINVAL;
	int lock_rc = fs_lock_close(q->tf->fs, tf_handle(in->fh), in->lock_owner);
	int rc = fs_file_writes(tf_handle(in->fh)) ? late_result(q) : 0; /* a reader would take the writer's error away */
	if (rc == 0)
		rc = fs_flush(q->tf->fs, tf_handle(in->fh));
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
	open_undo(q->tf, q->in->nodeid, (int)in->flags);
	fs_release(q->tf->fs, tf_handle(in->fh));
	return tf_reply(q, NULL, 0) ? -TF_NOREPLY : 0;
}

int tf_op_fsync(struct tf_req *q)
{
	const struct fuse_fsync_in *in = tf_arg(q, sizeof(*in));
	if (!in)
		return -EINVAL;
	int rc = late_result(q);
	if (rc == 0)
		rc = fs_fsync(q->tf->fs, tf_handle(in->fh), in->fsync_flags & FUSE_FSYNC_FDATASYNC);
	if (rc)
		return rc;
	return tf_reply(q, NULL, 0) ? -TF_NOREPLY : 0;
}

/* The kernel says it for writes only (FUSE_WRITE_KILL_SUIDGID); for the other calls the user counts, not CAP_FSETID. */
static bool kills_set_id(const struct tf_req *q)
{
	return q->cred.uid != 0;
}

/* A hole's ends within pages are cleared in the kernel's copy of these after the answer: until then the token stays (clear_wait). */
static int clearing_reply(struct tf_req *q)
{
	struct tf_node *n = tf_node_find(q->tf, q->in->nodeid);
	if (n) {
		tf_node_ref(n);
		n->clearing++;
	}
	int rc = tf_reply(q, NULL, 0) ? -TF_NOREPLY : 0;
	if (n) {
		n->clearing--;
		n->cleared_ns = ts_exec_now(q->tf->exec);
		ts_cond_broadcast(&n->clear_cond);
		tf_node_unref(q->tf, n);
	}
	return rc;
}

int tf_op_fallocate(struct tf_req *q)
{
	const struct fuse_fallocate_in *in = tf_arg(q, sizeof(*in));
	if (!in)
		return -EINVAL;
	if (in->mode & ~(uint32_t)(FS_FALLOC_KEEP_SIZE | FS_FALLOC_PUNCH | FS_FALLOC_ZERO))
		return -EOPNOTSUPP;
	int rc = fs_fallocate(q->tf->fs, tf_handle(in->fh), (int)in->mode, in->offset, in->length, kills_set_id(q));
	if (rc)
		return rc;
	if (in->mode & (FS_FALLOC_PUNCH | FS_FALLOC_ZERO) && (in->offset | (in->offset + in->length)) % 4096)
		return clearing_reply(q);
	return tf_reply(q, NULL, 0) ? -TF_NOREPLY : 0;
}

int tf_op_lseek(struct tf_req *q)
{
	const struct fuse_lseek_in *in = tf_arg(q, sizeof(*in));
	if (!in || (in->whence != SEEK_HOLE && in->whence != SEEK_DATA))
		return -EINVAL;
	int64_t r = fs_seek(q->tf->fs, tf_handle(in->fh), in->offset, in->whence == SEEK_HOLE);
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
	ssize_t r = fs_copy_range(q->tf->fs, tf_handle(in->fh_in), in->off_in, tf_handle(in->fh_out), in->off_out, len, kills_set_id(q));
	if (r < 0)
		return (int)r;
	struct fuse_write_out out = {.size = (uint32_t)r};
	return tf_reply(q, &out, sizeof(out)) ? -TF_NOREPLY : 0;
}
