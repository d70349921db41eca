/* SPDX-License-Identifier: Apache-2.0 */
/* Job: addresses to disks, and the knowledge of what is stable on each. While the node is suspended (lease or quorum
 * lost, perhaps only for a moment) its writes wait here; what the write gate refused is sent again when the gate opens.
 * Must never happen: a flush that reports as stable a write that completed after it began, or that its disk may have lost;
 * a write sent while suspended or after the node stopped; a reservation conflict taken for a shut gate (the node would wait for ever instead of stopping). */
#include "fs/fs_int.h"

#define IO_OPS	   512 /* in flight; more wait in order */
#define GATE_POLL  (20 * TS_NS_PER_MS)
#define FENCED_MAX 3 /* refusals with the gate open before it is believed to be a reservation conflict */

struct io_op {
	struct ts_list link; /* free, or parked until the gate opens, or there is memory */
	struct fs *fs;
	struct nsd_req *r;
	struct fs_disk *d;
	void (*done)(struct nsd_req *, int);
	void *arg;
	bool data;
	unsigned fenced;
	uint64_t starved_ns; /* since when there is no memory for it; 0: there is */
};
struct fs_io {
	struct io_op op[IO_OPS];
	struct ts_list free, parked;
	struct ts_list waiting; /* nsd_req.link: not sent yet; priv is a struct fs_disk, its lowest bit: file data */
	struct ts_timer poll;
};

int fs_io_init(struct fs *fs)
{
	struct fs_io *io = ts_alloc(sizeof(*io));

	if (!io)
		return -ENOMEM;
	ts_list_init(&io->free);
	ts_list_init(&io->parked);
	ts_list_init(&io->waiting);
	for (unsigned i = 0; i < IO_OPS; i++) {
		io->op[i].fs = fs;
		ts_list_push_back(&io->free, &io->op[i].link);
	}
	for (unsigned i = 0; i < TS_MAX(fs->ndisks, FS_DISKS_ONLINE); i++) {
		fs->disks[i].fs = fs;
		ts_cond_init(&fs->disks[i].flush_cond);
	}
	fs->io = io;
	return 0;
}

void fs_io_fini(struct fs *fs)
{
	if (!fs->io)
		return;
	ts_timer_cancel(&fs->io->poll);
	ts_free(fs->io);
	fs->io = NULL;
}

int fs_io_check_addr(const struct fs *fs, fs_addr a, uint64_t subs)
{
	unsigned disk = FS_ADDR_DISK(a);
	uint64_t sub = FS_ADDR_SUB(a), size;

	if (a >> 52 || disk >= fs->ndisks || !fs->disks[disk].dev || sub < FS_SUPER_SUB)
		return -EUCLEAN;
	size = nsd_info(fs->disks[disk].dev)->size_bytes / FS_SUB;
	return sub < size && subs <= size - sub ? 0 : -EUCLEAN;
}

/* ---- requests --------------------------------------------------------------------------------------------------- */

static bool is_write(const struct nsd_req *r)
{
	return r->op == NSD_WRITE || r->op == NSD_ZERO || r->op == NSD_DISCARD;
}

static bool gate_open(const struct fs *fs)
{
	return !fs->args.quorum || quorum_may_write(fs->args.quorum);
}

static void pump(struct fs *fs);
static void pump_timer(void *arg)
{
	pump(arg);
}

static void poll_gate(struct fs *fs)
{
	if (!fs->io->poll.exec)
		ts_timer_arm(fs->exec, &fs->io->poll, ts_exec_now(fs->exec) + (fs->run == FS_RUN_STOPPED ? 0 : GATE_POLL), pump_timer,
			     fs);
}

static void op_done(struct nsd_req *r, int rc);
static void op_end(struct io_op *op, int rc);
static void op_send(struct io_op *op)
{
	if (!op->d->dev) { /* the disk was removed meanwhile: only who looks at it for statistics meets this */
		op_end(op, -EIO);
		return;
	}
	op->r->done = op_done;
	op->r->arg = op;
	nsd_submit(op->d->dev, op->r);
}

static void op_end(struct io_op *op, int rc)
{
	struct fs *fs = op->fs;
	struct nsd_req *r = op->r;

	if (!rc && is_write(r)) {
		if (op->d->write_gen == op->d->flushed_gen)
			op->d->losses = nsd_losses(op->d->dev);
		op->d->write_gen++;
		if (op->data)
			op->d->data_gen = op->d->write_gen;
	}
	r->done = op->done;
	r->arg = op->arg;
	ts_list_push_front(&fs->io->free, &op->link);
	r->done(r, rc);
	if (fs->io && !ts_list_empty(&fs->io->waiting))
		pump(fs);
}

static void op_done(struct nsd_req *r, int rc)
{
	struct io_op *op = r->arg;
	struct fs *fs = op->fs;

	if (rc == -TS_ERR_FENCED && fs->run != FS_RUN_STOPPED && (!gate_open(fs) || ++op->fenced < FENCED_MAX)) {
		ts_list_push_back(&fs->io->parked, &op->link);
		poll_gate(fs);
		return;
	}
	if (rc == -ENOMEM && r->op != NSD_READ && fs->run != FS_RUN_STOPPED) { /* what was accepted is not lost for that */
		uint64_t now = ts_exec_now(fs->exec);

		op->starved_ns = op->starved_ns ? op->starved_ns : now;
		if (now < op->starved_ns + FS_MEMORY_TRIES * FS_MEMORY_WAIT_NS) {
			ts_list_push_back(&fs->io->parked, &op->link);
			poll_gate(fs);
			return;
		}
	}
	op_end(op, rc);
}

static void end_waiting(struct nsd_req *r, int rc)
{
	r->rc = rc;
	r->done(r, rc);
}

static void pump_parked(struct fs *fs, bool stopped, bool closed)
{
	struct ts_list todo, *n;

	ts_list_init(&todo);
	while ((n = ts_list_pop_front(&fs->io->parked)))
		ts_list_push_back(&todo, n);
	while ((n = ts_list_pop_front(&todo))) {
		struct io_op *op = ts_list_entry(n, struct io_op, link);

		if (stopped)
			op_end(op, -EIO);
		else if (closed)
			ts_list_push_back(&fs->io->parked, n);
		else
			op_send(op);
	}
}

/* Sends what waits, as far as slots and the gate allow. From callbacks, timers and submitters. */
static void pump(struct fs *fs)
{
	struct fs_io *io = fs->io;
	bool stopped = fs->run == FS_RUN_STOPPED, closed = fs->suspended || !gate_open(fs);

	pump_parked(fs, stopped, closed);
	while (stopped && !ts_list_empty(&io->waiting))
		end_waiting(ts_list_entry(ts_list_pop_front(&io->waiting), struct nsd_req, link), -EIO);
	ts_list_for_safe(i, tmp, &io->waiting) {
		struct nsd_req *r = ts_list_entry(i, struct nsd_req, link);
		struct io_op *op;

		if (ts_list_empty(&io->free) || (closed && is_write(r)))
			continue;
		ts_list_del(i);
		op = ts_list_entry(ts_list_pop_front(&io->free), struct io_op, link);
		op->r = r;
		op->d = (struct fs_disk *)((uintptr_t)r->priv & ~(uintptr_t)1);
		op->data = (uintptr_t)r->priv & 1;
		op->done = r->done;
		op->arg = r->arg;
		op->fenced = 0;
		op->starved_ns = 0;
		op_send(op);
	}
	if (!stopped && closed && (!ts_list_empty(&io->waiting) || !ts_list_empty(&io->parked)))
		poll_gate(fs);
}

void fs_io_resume(struct fs *fs)
{
	if (fs->io)
		pump(fs);
}

static void submit(struct fs *fs, struct nsd_req *r, enum nsd_op op, fs_addr a, const struct iovec *iov, int iovcnt, bool data,
		   void (*done)(struct nsd_req *, int), void *arg)
{
	struct fs_disk *d = &fs->disks[FS_ADDR_DISK(a)];
	uint64_t len = 0;

	TS_ASSERT(FS_ADDR_DISK(a) < fs->ndisks);
	for (int i = 0; i < iovcnt; i++)
		len += iov[i].iov_len;
	if (op != NSD_ZERO && op != NSD_DISCARD)
		r->len = len; /* else the caller's */
	*r = (struct nsd_req){.op = op, .off = op == NSD_FLUSH ? 0 : FS_ADDR_SUB(a) * FS_SUB, .len = r->len, .iov = iov,
			      .iovcnt = iovcnt, .done = done, .arg = arg, .priv = (void *)((uintptr_t)d | data)};
	ts_list_push_back(&fs->io->waiting, &r->link);
	if (fs->run == FS_RUN_STOPPED)
		poll_gate(fs); /* fails, but never from inside the call */
	else
		pump(fs);
}

void fs_io_submit(struct fs *fs, struct nsd_req *r, enum nsd_op op, fs_addr a, const struct iovec *iov, int iovcnt,
		  void (*done)(struct nsd_req *, int), void *arg)
{
	submit(fs, r, op, a, iov, iovcnt, true, done, arg);
}

void fs_io_submit_meta(struct fs *fs, struct nsd_req *r, enum nsd_op op, fs_addr a, const struct iovec *iov, int iovcnt,
		       void (*done)(struct nsd_req *, int), void *arg)
{
	submit(fs, r, op, a, iov, iovcnt, false, done, arg);
}

/* ---- from fibers, waiting --------------------------------------------------------------------------------------- */

static void wake(struct nsd_req *r, int rc)
{
	ts_done_set(r->arg, rc);
}

static int run(struct fs *fs, enum nsd_op op, fs_addr a, void *buf, size_t bytes, bool data, const char *what)
{
	struct iovec iov = {.iov_base = buf, .iov_len = bytes};
	struct nsd_req r;
	struct ts_done done;

	ts_done_init(&done);
	submit(fs, &r, op, a, &iov, 1, data, wake, &done);
	return ts_done_wait(&done, what, a, bytes);
}

int fs_io_read(struct fs *fs, fs_addr a, void *buf, size_t bytes)
{
	return run(fs, NSD_READ, a, buf, bytes, false, "read");
}

int fs_io_write(struct fs *fs, fs_addr a, const void *buf, size_t bytes)
{
	return run(fs, NSD_WRITE, a, (void *)(uintptr_t)buf, bytes, true, "write");
}

int fs_io_write_meta(struct fs *fs, fs_addr a, const void *buf, size_t bytes)
{
	return run(fs, NSD_WRITE, a, (void *)(uintptr_t)buf, bytes, false, "metadata write");
}

/* ---- flush ------------------------------------------------------------------------------------------------------ */

static void flush_done(struct nsd_req *r, int rc)
{
	struct fs_disk *d = r->arg;

	d->flushing = false;
	if (!rc && d->flush_target > d->flushed_gen && nsd_losses(d->dev) != d->losses) {
		fs_stop(d->fs, "disk %s lost its memory, and with it perhaps what was written and not flushed yet", nsd_url(d->dev));
		rc = -EIO;
	}
	if (!rc)
		d->flushed_gen = TS_MAX(d->flushed_gen, d->flush_target);
	d->flush_rc = rc;
	ts_cond_broadcast(&d->flush_cond);
}

static void flush_begin(struct fs *fs, struct fs_disk *d)
{
	fs_addr a = FS_ADDR(d - fs->disks, 0);

	d->flushing = true;
	d->flush_target = d->write_gen;
	submit(fs, &d->flush_req, NSD_FLUSH, a, NULL, 0, false, flush_done, d);
}

/* Until everything up to gen is stable: at most the flush in flight (which may have begun too early) and one more. */
static int flush_wait(struct fs *fs, struct fs_disk *d, uint64_t gen)
{
	while (d->flushed_gen < gen) {
		bool mine = !d->flushing || d->flush_target >= gen;

		if (!d->flushing)
			flush_begin(fs, d);
		while (d->flushing)
			ts_cond_wait(&d->flush_cond, "disk flush", (uint64_t)(d - fs->disks), gen);
		if (mine && d->flushed_gen < gen && d->flush_rc)
			return d->flush_rc;
	}
	return 0;
}

static int flush_where(struct fs *fs, bool data_only)
{
	int rc = 0;

	for (unsigned i = 0; i < fs->ndisks; i++) {
		struct fs_disk *d = &fs->disks[i];

		if ((data_only ? d->data_gen : d->write_gen) > d->flushed_gen && !d->flushing)
			flush_begin(fs, d); /* all at once, then wait for each */
	}
	for (unsigned i = 0; i < fs->ndisks && !rc; i++)
		rc = flush_wait(fs, &fs->disks[i], data_only ? fs->disks[i].data_gen : fs->disks[i].write_gen);
	return rc;
}

int fs_io_flush_all(struct fs *fs)
{
	return flush_where(fs, false);
}

int fs_io_flush_data(struct fs *fs)
{
	return flush_where(fs, true);
}

int fs_io_flush_addr(struct fs *fs, fs_addr a)
{
	struct fs_disk *d = &fs->disks[FS_ADDR_DISK(a)];

	TS_ASSERT(FS_ADDR_DISK(a) < fs->ndisks);
	return flush_wait(fs, d, d->write_gen);
}
