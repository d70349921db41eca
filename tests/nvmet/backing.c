/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the files behind the namespaces: past the page cache by io_uring (nsd's own back end for files), or through it. Through it,
 * reads and writes are done at once, a flush by a thread, so that it stops nobody. */
#include "tests/nvmet/nvmet.h"
#include "nsd/nsd.h"

#include <fcntl.h>
#include <pthread.h>
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
	struct ts_task task;
	int fd, rc;
};

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

static void job_finish(void *arg)
{
	struct job *j = arg;

	job_end(j, j->rc);
}

static void *flush_thread(void *arg)
{
	struct job *j = arg;

	j->rc = fdatasync(j->fd) ? -errno : 0;
	while (ts_exec_post(T.exec, job_finish, j))
		usleep(1000); /* its bound: 65536 posts waiting */
	return NULL;
}

static int whole(int fd, struct cmd *k, bool write, uint64_t off, uint64_t len)
{
	for (uint64_t done = 0; done < len;) {
		ssize_t n = write ? pwrite(fd, k->buf + done, len - done, (off_t)(off + done))
				  : pread(fd, k->buf + done, len - done, (off_t)(off + done));

		if (n <= 0)
			return n ? -errno : -EIO;
		done += (uint64_t)n;
	}
	return 0;
}

static int hole(int fd, uint64_t off, uint64_t len, int mode)
{
	return fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len) ? -errno : 0;
}

static void cached_io(struct job *j, uint8_t opcode, uint64_t off, uint64_t len)
{
	pthread_t t;

	j->fd = j->cmd->ns->backing->fd;
	if (opcode == NVME_OP_FLUSH && pthread_create(&t, NULL, flush_thread, j) == 0) {
		pthread_detach(t);
		return;
	}
	if (opcode == NVME_OP_FLUSH)
		j->rc = -EAGAIN;
	else if (opcode == NVME_OP_READ || opcode == NVME_OP_WRITE)
		j->rc = whole(j->fd, j->cmd, opcode == NVME_OP_WRITE, off, len);
	else
		j->rc = hole(j->fd, off, len, FALLOC_FL_PUNCH_HOLE); /* a hole reads as zeros */
	ts_exec_defer(T.exec, &j->task, job_finish, j);
}

void backing_io(struct cmd *k, uint8_t opcode, uint64_t off, uint64_t len, backing_done done)
{
	struct job *j = calloc(1, sizeof(*j));

	TS_ASSERT(j);
	j->cmd = k;
	j->done = done;
	if (!k->ns->backing->dev) {
		cached_io(j, opcode, off, len);
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
