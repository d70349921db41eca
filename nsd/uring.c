/* SPDX-License-Identifier: Apache-2.0 */
/* Job: regular files and block devices through one io_uring per device, submitted in batches before the loop sleeps.
 * Must never happen: a request completed while the kernel may still use its buffers (a deadline only cancels, and the
 * completion queue decides), or a short transfer taken for a whole one. */
#include "nsd/nsd_int.h"

#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/stat.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define RING_DEPTH 128

struct uring {
	struct nsd_dev *dev;
	struct ts_loop *loop;
	int fd, evfd;
	bool have_ring, watched;
	uint32_t align; /* buffers and lengths for O_DIRECT; 1 if buffered */
	struct io_uring ring;
	unsigned in_ring, unsubmitted;
	struct ts_list waiting, running; /* requests by link */
	struct ts_timer deadline;
};
struct io { /* per running request, in req->priv */
	struct nsd_req *req;
	struct iovec *iov; /* own copy: bounce buffer, or the rest of a short transfer; NULL = the caller's */
	int iovcnt;
	void *bounce;
	uint64_t done;
	bool cancelled;
};

static void ring_submit(void *arg)
{
	struct uring *u = arg;
	int n;

	while (u->unsubmitted) {
		n = io_uring_submit(&u->ring);
		if (n == -EINTR)
			continue;
		if (n == -EAGAIN || n == -EBUSY)
			return; /* kernel out of memory for now: the next turn tries again */
		TS_ASSERT(n >= 0);
		u->unsubmitted -= TS_MIN((unsigned)n, u->unsubmitted);
	}
}

static struct io_uring_sqe *get_sqe(struct uring *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	if (!sqe) {
		ring_submit(u);
		sqe = io_uring_get_sqe(&u->ring);
	}
	if (sqe)
		u->unsubmitted++;
	return sqe;
}

static void io_end(struct uring *u, struct io *io, int rc)
{
	struct nsd_req *r = io->req;

	if (io->bounce && r->op == NSD_READ && !rc)
		nsd_scatter(r, io->bounce);
	if (rc == -ECANCELED || (rc == -EINTR && io->cancelled))
		rc = -ETIMEDOUT;
	ts_list_del(&r->link);
	ts_free(io->bounce);
	ts_free(io->iov);
	ts_free(io);
	nsd_complete(r, rc);
}

static bool io_queue(struct uring *u, struct io *io)
{
	struct io_uring_sqe *sqe = get_sqe(u);
	struct nsd_req *r = io->req;
	const struct iovec *iov = io->iov ? io->iov : r->iov;
	unsigned n = (unsigned)(io->iov ? io->iovcnt : r->iovcnt);

	if (!sqe)
		return false;
	switch (r->op) {
	case NSD_READ:
		io_uring_prep_readv(sqe, u->fd, iov, n, r->off + io->done);
		break;
	case NSD_WRITE:
		io_uring_prep_writev(sqe, u->fd, iov, n, r->off + io->done);
		break;
	case NSD_FLUSH:
		io_uring_prep_fsync(sqe, u->fd, IORING_FSYNC_DATASYNC);
		break;
	case NSD_ZERO:
		io_uring_prep_fallocate(sqe, u->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)r->off,
					(off_t)r->len);
		break;
	case NSD_DISCARD:
		io_uring_prep_fallocate(sqe, u->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)r->off,
					(off_t)r->len);
		break;
	}
	io_uring_sqe_set_data(sqe, io);
	u->in_ring++;
	return true;
}

static bool aligned(const struct uring *u, const struct nsd_req *r)
{
	for (int i = 0; i < r->iovcnt; i++)
		if (((uintptr_t)r->iov[i].iov_base | r->iov[i].iov_len) % u->align)
			return false;
	return true;
}

static int bounce(struct io *io)
{
	struct nsd_req *r = io->req;

	io->iov = ts_alloc(sizeof(*io->iov));
	io->bounce = ts_alloc_aligned(4096, r->len);
	if (!io->iov || !io->bounce)
		return -ENOMEM;
	if (r->op == NSD_WRITE)
		nsd_gather(io->bounce, r);
	io->iov[0] = (struct iovec){io->bounce, r->len};
	io->iovcnt = 1;
	return 0;
}

/* A short transfer: continue behind what is done, with segments of our own. */
static int rest(struct io *io, uint64_t moved)
{
	struct nsd_req *r = io->req;
	const struct iovec *from = io->iov ? io->iov : r->iov;
	int n = io->iov ? io->iovcnt : r->iovcnt, skip = 0;
	struct iovec *iov;

	while (skip < n && from[skip].iov_len <= moved)
		moved -= from[skip++].iov_len;
	TS_ASSERT(skip < n);
	iov = ts_alloc((size_t)(n - skip) * sizeof(*iov));
	if (!iov)
		return -ENOMEM;
	memcpy(iov, from + skip, (size_t)(n - skip) * sizeof(*iov));
	iov[0].iov_base = (char *)iov[0].iov_base + moved;
	iov[0].iov_len -= moved;
	ts_free(io->iov);
	io->iov = iov;
	io->iovcnt = n - skip;
	return 0;
}

static void start(struct uring *u, struct nsd_req *r)
{
	struct io *io;
	int rc = 0;

	if (!nsd_may_send(u->dev, r)) {
		nsd_complete(r, -TS_ERR_FENCED); /* it waited, and the gate was shut meanwhile */
		return;
	}
	io = ts_alloc(sizeof(*io));
	if (!io) {
		nsd_complete(r, -ENOMEM);
		return;
	}
	io->req = r;
	r->priv = io;
	ts_list_push_back(&u->running, &r->link);
	if ((r->op == NSD_READ || r->op == NSD_WRITE) && !aligned(u, r))
		rc = bounce(io);
	if (!rc && !io_queue(u, io))
		rc = -EAGAIN;
	if (rc)
		io_end(u, io, rc);
}

static void start_waiting(struct uring *u)
{
	while (u->in_ring < RING_DEPTH && !ts_list_empty(&u->waiting)) {
		struct nsd_req *r = ts_list_entry(u->waiting.next, struct nsd_req, link);

		ts_list_del(&r->link);
		start(u, r);
	}
}

static void io_result(struct uring *u, struct io *io, int res)
{
	struct nsd_req *r = io->req;
	int rc;

	if (res < 0 && res != -EAGAIN) {
		if (r->op == NSD_ZERO && res == -EOPNOTSUPP && !u->dev->zero_by_write) {
			u->dev->zero_by_write = true; /* this file system cannot: from now on zeros are written */
			ts_info("%s: no zeroing by the file system (%s), zeros are written", u->dev->url,
				strerror(-res));
		}
		if (r->op == NSD_ZERO && res == -EOPNOTSUPP) {
			ts_list_del(&r->link);
			ts_free(io);
			nsd_split_submit(u->dev, r);
			return;
		}
		io_end(u, io, res == -EINVAL ? -EIO : res);
		return;
	}
	res = TS_MAX(res, 0);
	if (r->op != NSD_READ && r->op != NSD_WRITE) {
		io_end(u, io, 0);
		return;
	}
	io->done += (uint64_t)res;
	if (io->done >= r->len) {
		io_end(u, io, 0);
		return;
	}
	/* Short. Nothing at all is the end of the file (it shrank under us) unless the kernel asked to try again. */
	rc = io->cancelled ? -ETIMEDOUT : res == 0 && ++r->tries > 3 ? -EIO : rest(io, (uint64_t)res);
	if (!rc && !nsd_may_send(u->dev, r))
		rc = -TS_ERR_FENCED;
	if (!rc && !io_queue(u, io))
		rc = -EAGAIN;
	if (rc)
		io_end(u, io, rc);
}

static void reap(struct uring *u)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
		struct io *io = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&u->ring, cqe);
		if (!io)
			continue; /* the answer to a cancel: the request's own completion is what counts */
		u->in_ring--;
		io_result(u, io, res);
	}
	start_waiting(u);
}

static void on_event(void *arg, uint32_t events)
{
	struct uring *u = arg;
	uint64_t n;

	if (read(u->evfd, &n, sizeof(n)) < 0)
		TS_ASSERT(errno == EAGAIN || errno == EINTR);
	reap(u);
}

/* ---- deadlines: one timer for the earliest; due requests are cancelled, waiting ones end at once ------------------ */

static void deadline_passed(void *arg);

static void arm_deadline(struct uring *u, uint64_t due)
{
	if (!u->deadline.exec || due < u->deadline.when_ns)
		ts_timer_arm(u->dev->exec, &u->deadline, due, deadline_passed, u);
}

static void cancel(struct uring *u, struct io *io)
{
	struct io_uring_sqe *sqe;

	if (io->cancelled)
		return;
	sqe = get_sqe(u);
	if (!sqe)
		return; /* ring full: the timer comes again */
	io_uring_prep_cancel(sqe, io, 0);
	io_uring_sqe_set_data(sqe, NULL);
	io->cancelled = true;
	ts_warn("%s: I/O at %llu+%llu passed its deadline, cancelling it", u->dev->url,
		(unsigned long long)io->req->off, (unsigned long long)io->req->len);
}

static void deadline_passed(void *arg)
{
	struct uring *u = arg;
	uint64_t now = ts_exec_now(u->dev->exec), next = UINT64_MAX;

	ts_list_for_safe(pos, tmp, &u->waiting) {
		struct nsd_req *r = ts_list_entry(pos, struct nsd_req, link);

		if (r->due_ns > now) {
			next = TS_MIN(next, r->due_ns);
			continue;
		}
		ts_list_del(&r->link);
		nsd_complete(r, -ETIMEDOUT);
	}
	ts_list_for(pos, &u->running) {
		struct nsd_req *r = ts_list_entry(pos, struct nsd_req, link);
		struct io *io = r->priv;

		if (r->due_ns <= now)
			cancel(u, io);
		if (!io->cancelled)
			next = TS_MIN(next, TS_MAX(r->due_ns, now + TS_NS_PER_MS));
	}
	if (next != UINT64_MAX)
		arm_deadline(u, next);
}

static void uring_submit(struct nsd_dev *d, struct nsd_req *r)
{
	struct uring *u = d->priv;

	ts_list_push_back(&u->waiting, &r->link);
	arm_deadline(u, r->due_ns);
	start_waiting(u);
}

/* ---- open and close -------------------------------------------------------------------------------------------- */

static void uring_free(struct uring *u)
{
	if (u->watched) {
		ts_loop_before_wait_del(u->loop, ring_submit, u);
		ts_loop_fd_del(u->loop, u->evfd);
	}
	ts_timer_cancel(&u->deadline);
	if (u->have_ring)
		io_uring_queue_exit(&u->ring);
	if (u->evfd >= 0)
		close(u->evfd);
	if (u->fd >= 0)
		close(u->fd);
	ts_free(u);
}

static void uring_close(struct nsd_dev *d)
{
	uring_free(d->priv);
}

static int uring_size(struct nsd_dev *d, uint64_t *bytes)
{
	struct uring *u = nsd_dev_priv(d);
	struct stat st;

	if (fstat(u->fd, &st))
		return -errno;
	*bytes = (uint64_t)st.st_size;
	if (S_ISBLK(st.st_mode) && ioctl(u->fd, BLKGETSIZE64, bytes))
		return -errno;
	*bytes = TS_ALIGN_DOWN(*bytes, nsd_info(d)->sector_bytes);
	return 0;
}

static const struct nsd_ops uring_ops = {.submit = uring_submit, .close = uring_close, .size = uring_size};

static int open_path(struct uring *u, const char *path, bool read_only, struct nsd_info *info)
{
	int flags = O_CLOEXEC | (read_only ? O_RDONLY : O_RDWR);

	u->fd = open(path, flags | O_DIRECT);
	if (u->fd < 0 && errno == EINVAL) {
		u->fd = open(path, flags); /* tmpfs of older kernels and the like */
		info->buffered = true;
	}
	return u->fd < 0 ? -errno : 0;
}

static int size_up(struct uring *u, const char *path, struct nsd_info *info)
{
	struct stat st;
	uint64_t bytes;
	int sector;

	if (fstat(u->fd, &st))
		return -errno;
	if (S_ISBLK(st.st_mode)) {
		if (ioctl(u->fd, BLKGETSIZE64, &bytes) || ioctl(u->fd, BLKSSZGET, &sector))
			return -errno;
		info->size_bytes = bytes;
		info->sector_bytes = (uint32_t)sector;
		snprintf(info->transport, sizeof(info->transport), "block");
	} else if (S_ISREG(st.st_mode)) {
		info->size_bytes = (uint64_t)st.st_size;
		info->sector_bytes = 512;
#ifdef STATX_DIOALIGN
		struct statx sx;

		if (!info->buffered && statx(u->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 &&
		    (sx.stx_mask & STATX_DIOALIGN) && sx.stx_dio_offset_align > 512)
			info->sector_bytes = 4096;
#endif
		snprintf(info->transport, sizeof(info->transport), "file");
	} else {
		return -ENOTBLK;
	}
	info->size_bytes = TS_ALIGN_DOWN(info->size_bytes, info->sector_bytes);
	u->align = info->buffered ? 1 : info->sector_bytes;
	return info->sector_bytes == 512 || info->sector_bytes == 4096 ? 0 : -EINVAL;
}

static int start_ring(struct uring *u, struct ts_exec *x)
{
	int rc = io_uring_queue_init(RING_DEPTH, &u->ring, 0);

	if (rc)
		return rc;
	u->have_ring = true;
	u->evfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (u->evfd < 0)
		return -errno;
	rc = io_uring_register_eventfd(&u->ring, u->evfd);
	if (rc)
		return rc;
	u->loop = ts_exec_loop(x);
	rc = ts_loop_fd_add(u->loop, u->evfd, EPOLLIN, on_event, u);
	if (rc)
		return rc;
	ts_loop_before_wait(u->loop, ring_submit, u);
	u->watched = true;
	return 0;
}

int nsd_uring_open(const struct nsd_open_args *args, const char *path, struct nsd_dev **out, char *errmsg,
		   size_t errlen)
{
	struct nsd_info info = {.max_io_bytes = NSD_MAX_IO_DEFAULT};
	struct uring *u = ts_alloc(sizeof(*u));
	const char *step = "open";
	int rc;

	if (!u)
		return -ENOMEM;
	u->fd = u->evfd = -1;
	ts_list_init(&u->waiting);
	ts_list_init(&u->running);
	rc = open_path(u, path, args->read_only, &info);
	if (!rc) {
		step = "size (a regular file or block device with sectors of 512 or 4096 bytes is expected)";
		rc = size_up(u, path, &info);
	}
	if (!rc) {
		step = "io_uring";
		rc = start_ring(u, args->exec);
	}
	if (!rc) {
		u->dev = nsd_dev_new(args->exec, &uring_ops, u, &info, &args->gate, args->url);
		rc = u->dev ? 0 : -ENOMEM;
	}
	if (rc) {
		snprintf(errmsg, errlen, "%s: %s: %s", path, step, strerror(-rc));
		uring_free(u);
		return rc;
	}
	u->dev->read_only = args->read_only;
	*out = u->dev;
	return 0;
}
