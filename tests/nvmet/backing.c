/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the files behind the namespaces: past the page cache by nsd's own back end for files, or through it, by io_uring too: a
 * kernel that holds a writer back because its disk is busy holds back nobody else. */
#include "tests/nvmet/nvmet.h"
#include "nsd/nsd.h"

#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

struct backing {
	struct nsd_dev *dev; /* direct */
	int fd;		     /* cached */
};
struct job {
	struct nsd_req req;
	struct iovec iov;
	struct cmd *cmd;
	backing_done done;
	uint8_t opcode; /* cached */
	uint64_t off, len, moved;
};
static struct io_uring ring; /* of the cached ones */
static int ring_event = -1;

static void job_end(struct job *j, int rc)
{
	struct cmd *k = j->cmd;
	backing_done done = j->done;

	free(j);
	done(k, rc);
}

static void direct_done(struct nsd_req *r, int rc)
{
	job_end(TS_CONTAINER(r, struct job, req), rc);
}

static enum nsd_op op_of(uint8_t opcode)
{
	return opcode == NVME_OP_READ ? NSD_READ : opcode == NVME_OP_WRITE ? NSD_WRITE
	       : opcode == NVME_OP_FLUSH ? NSD_FLUSH : opcode == NVME_OP_DSM ? NSD_DISCARD : NSD_ZERO;
}

static bool moves(uint8_t opcode)
{
	return opcode == NVME_OP_READ || opcode == NVME_OP_WRITE;
}

static void queue_job(struct job *j)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
	int fd = j->cmd->ns->backing->fd;
	uint64_t at = j->off + j->moved, left = j->len - j->moved;

	if (!sqe) {
		io_uring_submit(&ring);
		sqe = io_uring_get_sqe(&ring);
	}
	TS_ASSERT(sqe);
	if (j->opcode == NVME_OP_READ)
		io_uring_prep_read(sqe, fd, j->cmd->buf + j->moved, (unsigned)left, at);
	else if (j->opcode == NVME_OP_WRITE)
		io_uring_prep_write(sqe, fd, j->cmd->buf + j->moved, (unsigned)left, at);
	else if (j->opcode == NVME_OP_FLUSH)
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	else /* a hole reads as zeros */
		io_uring_prep_fallocate(sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)left);
	io_uring_sqe_set_data(sqe, j);
}

static void on_completions(void *arg, uint32_t events)
{
	struct io_uring_cqe *cqe;
	uint64_t n;

	(void)!read(ring_event, &n, sizeof(n));
	while (io_uring_peek_cqe(&ring, &cqe) == 0) {
		struct job *j = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&ring, cqe);
		if (res > 0 && moves(j->opcode))
			j->moved += (uint64_t)res;
		if (res < 0 && res != -EAGAIN && res != -EINTR)
			job_end(j, res);
		else if (res == 0 && moves(j->opcode))
			job_end(j, -EIO); /* the file has become shorter */
		else if (res >= 0 && (!moves(j->opcode) || j->moved == j->len))
			job_end(j, 0);
		else
			queue_job(j);
	}
}

static void submit_jobs(void *arg)
{
	io_uring_submit(&ring);
}

static int ring_start(void)
{
	int rc = io_uring_queue_init(256, &ring, 0);

	if (rc)
		return rc;
	ring_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (ring_event < 0 || io_uring_register_eventfd(&ring, ring_event))
		return -EIO;
	ts_loop_before_wait(T.loop, submit_jobs, NULL);
	return ts_loop_fd_add(T.loop, ring_event, EPOLLIN, on_completions, NULL);
}

void backing_io(struct cmd *k, uint8_t opcode, uint64_t off, uint64_t len, backing_done done)
{
	struct job *j = calloc(1, sizeof(*j));

	TS_ASSERT(j);
	j->cmd = k;
	j->done = done;
	if (!k->ns->backing->dev) {
		j->opcode = opcode;
		j->off = off;
		j->len = len;
		queue_job(j);
		return;
	}
	j->iov = (struct iovec){k->buf, len};
	j->req = (struct nsd_req){.op = op_of(opcode), .off = off, .len = len, .done = direct_done};
	if (opcode == NVME_OP_READ || opcode == NVME_OP_WRITE) {
		j->req.iov = &j->iov;
		j->req.iovcnt = 1;
	}
	nsd_submit(k->ns->backing->dev, &j->req);
}

/* From a fiber. */
int backing_open(struct ns *n)
{
	struct nsd_open_args a = {.exec = T.exec};
	char url[1100], err[300];
	struct stat st;
	int rc = 0;

	n->backing = calloc(1, sizeof(*n->backing));
	TS_ASSERT(n->backing);
	n->shift = 9;
	if (T.opt.cached) {
		n->backing->fd = open(n->path, O_RDWR | O_CLOEXEC);
		if (n->backing->fd < 0 || fstat(n->backing->fd, &st))
			rc = -errno;
		else
			n->bytes = TS_ALIGN_DOWN((uint64_t)st.st_size, 512);
		if (!rc && ring_event < 0)
			rc = ring_start();
		if (rc)
			fprintf(stderr, "nvmet: %s: %s\n", n->path, strerror(-rc));
		return rc;
	}
	snprintf(url, sizeof(url), "file://%s", n->path);
	a.url = url;
	rc = nsd_open(&a, &n->backing->dev, err, sizeof(err));
	if (rc) {
		fprintf(stderr, "nvmet: %s\n", err);
		return rc;
	}
	n->bytes = nsd_info(n->backing->dev)->size_bytes;
	n->shift = nsd_info(n->backing->dev)->sector_bytes == 4096 ? 12 : 9;
	return 0;
}
