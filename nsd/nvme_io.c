/* SPDX-License-Identifier: Apache-2.0 */
/* Job: requests as NVMe commands, what their answers mean, and the queue of what is to be sent again. Must never happen: a write sent
 * or sent again with the gate shut, or sent again while a controller that is not known to be dead may still execute it. */
#include "nsd/nvme_int.h"

#define RC_RETRY (-TS_ERR_RETRY)

int nvme_io_init(struct nvme_dev *d)
{
	unsigned n = d->target.queues * NVME_DEPTH;

	ts_list_init(&d->free);
	ts_list_init(&d->running);
	ts_list_init(&d->waiting);
	ts_list_init(&d->doubtful);
	d->cmds = ts_alloc(n * sizeof(*d->cmds));
	d->conn = ts_alloc((1 + d->target.queues) * sizeof(*d->conn));
	if (!d->cmds || !d->conn)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++)
		ts_list_push_back(&d->free, &d->cmds[i].link);
	return 0;
}

void nvme_io_free(struct nvme_dev *d)
{
	ts_timer_cancel(&d->deadline);
	ts_timer_cancel(&d->doubt);
	ts_timer_cancel(&d->alive);
	ts_free(d->cmds);
	ts_free(d->conn);
}

/* ---- answers --------------------------------------------------------------------------------------------------------- */

static const char *name_of(enum nsd_op op)
{
	static const char *const names[] = {"read", "write", "flush", "discard", "zero"};

	return names[op];
}

/* 0, a final error, or RC_RETRY. */
static int judge(struct nvme_dev *d, struct nsd_req *r, uint16_t status)
{
	int rc = nvme_meaning(status);

	if (rc == -EAGAIN) {
		if (status != NVME_SC_TRANSPORT)
			r->tries = 0; /* not the request's fault: its deadline bounds it */
		nvme_recheck(d);
		return RC_RETRY;
	}
	if (rc == -TS_ERR_FENCED && d->pr_key)
		nvme_recheck(d);
	if (rc && rc != -TS_ERR_FENCED) {
		ts_err("%s: %s at %llu+%llu failed: status %03x", d->name, name_of(r->op), (unsigned long long)r->off,
		       (unsigned long long)r->len, status);
		if (rc == -EOPNOTSUPP && r->op != NSD_ZERO && r->op != NSD_DISCARD)
			rc = -EIO;
	}
	return rc;
}

static struct nsd_req *take_back(struct nvme_dev *d, struct nvme_cmd *c)
{
	struct nsd_req *r = c->req;

	c->req = NULL;
	ts_list_del(&c->link);
	ts_list_push_front(&d->free, &c->link);
	return r;
}

static void answered(struct nvme_slot *s, int rc, uint16_t status, uint32_t result)
{
	struct nvme_cmd *c = ts_list_entry(s, struct nvme_cmd, slot);
	struct nvme_dev *d = c->d;
	struct nsd_req *r;

	if (rc)
		return; /* stays in running: nvme_requeue_running() takes it when all connections are closed */
	r = take_back(d, c);
	rc = judge(d, r, status);
	if (rc == RC_RETRY && r->tries >= NVME_MAX_TRIES)
		rc = -EIO;
	if (rc != RC_RETRY) {
		nsd_complete(r, rc);
	} else {
		ts_list_push_front(&d->waiting, &r->link);
		d->nwaiting++;
	}
	nvme_pump(d);
}

bool nvme_writes_running(const struct nvme_dev *d)
{
	ts_list_for(l, &d->running)
		if (nsd_is_write(ts_list_entry(l, struct nvme_cmd, link)->req->op))
			return true;
	return false;
}

static void doubt_ends(void *arg)
{
	struct nvme_dev *d = arg;

	while (!ts_list_empty(&d->doubtful)) { /* from the end, so that the first sent is the first again */
		struct ts_list *l = d->doubtful.prev;

		ts_list_del(l);
		ts_list_push_front(&d->waiting, l);
	}
	nvme_pump(d);
}

void nvme_requeue_running(struct nvme_dev *d, uint64_t doubt_until)
{
	uint64_t now = ts_exec_now(d->exec);

	d->doubt_until = TS_MAX(d->doubt_until, doubt_until);
	while (!ts_list_empty(&d->running)) {
		struct nsd_req *r = take_back(d, ts_list_entry(d->running.prev, struct nvme_cmd, link));

		r->tries = 0; /* a lost association is not the request's fault; its deadline bounds it */
		ts_list_push_front(nsd_is_write(r->op) && d->doubt_until > now ? &d->doubtful : &d->waiting, &r->link);
		d->nwaiting++;
	}
	if (!ts_list_empty(&d->doubtful))
		ts_timer_arm(d->exec, &d->doubt, TS_MAX(d->doubt_until, now), doubt_ends, d);
}

void nvme_fail_all(struct nvme_dev *d, int rc)
{
	struct ts_list *n;

	TS_ASSERT(ts_list_empty(&d->running));
	while ((n = ts_list_pop_front(&d->doubtful)) || (n = ts_list_pop_front(&d->waiting)))
		nsd_complete(ts_list_entry(n, struct nsd_req, link), rc);
	d->nwaiting = 0;
}

/* ---- sending --------------------------------------------------------------------------------------------------------- */

static void make_rw(struct nvme_dev *d, struct nvme_cmd *c, struct nvme_cmd_msg *m, uint8_t opcode)
{
	struct nsd_req *r = c->req;
	uint64_t lba = r->off / d->info.sector_bytes;

	m->opcode = opcode;
	m->cdw10 = le32_make((uint32_t)lba);
	m->cdw11 = le32_make((uint32_t)(lba >> 32));
	m->cdw12 = le32_make((uint32_t)(r->len / d->info.sector_bytes - 1));
	if (opcode == NVME_OP_WRITE_ZEROES)
		return;
	c->slot.iov = r->iov;
	c->slot.iovcnt = r->iovcnt;
	c->slot.len = (uint32_t)r->len;
	c->slot.out = opcode == NVME_OP_WRITE;
}

static void make_discard(struct nvme_dev *d, struct nvme_cmd *c, struct nvme_cmd_msg *m)
{
	struct nvme_dsm_range_msg *range = (struct nvme_dsm_range_msg *)c->payload;
	uint64_t lba = c->req->off / d->info.sector_bytes, left = c->req->len / d->info.sector_bytes;
	unsigned n = 0;

	_Static_assert(sizeof(c->payload) >= 4 * sizeof(*range), "ranges");
	for (; left; n++) {
		uint32_t k = (uint32_t)TS_MIN(left, UINT32_MAX);

		range[n] = (struct nvme_dsm_range_msg){.blocks = le32_make(k), .lba = le64_make(lba)};
		lba += k;
		left -= k;
	}
	m->opcode = NVME_OP_DSM;
	m->cdw10 = le32_make(n - 1);
	m->cdw11 = le32_make(NVME_DSM_DEALLOCATE);
	c->iov = (struct iovec){c->payload, n * sizeof(*range)};
	c->slot.iov = &c->iov;
	c->slot.iovcnt = 1;
	c->slot.len = (uint32_t)c->iov.iov_len;
	c->slot.out = true;
}

static void send_one(struct nvme_dev *d, struct nvme_conn *q, struct nsd_req *r)
{
	struct nvme_cmd *c = ts_list_entry(ts_list_pop_front(&d->free), struct nvme_cmd, link);
	struct nvme_cmd_msg m = {.opcode = NVME_OP_FLUSH, .nsid = le32_make(d->nsid)};

	c->d = d;
	c->req = r;
	c->slot = (struct nvme_slot){.done = answered};
	if (r->op == NSD_READ)
		make_rw(d, c, &m, NVME_OP_READ);
	else if (r->op == NSD_WRITE)
		make_rw(d, c, &m, NVME_OP_WRITE);
	else if (r->op == NSD_ZERO)
		make_rw(d, c, &m, NVME_OP_WRITE_ZEROES);
	else if (r->op == NSD_DISCARD)
		make_discard(d, c, &m);
	ts_list_push_back(&d->running, &c->link);
	r->tries++;
	d->dev->stats.resends += r->session_gen != 0;
	r->session_gen = d->gen;
	nvme_queue_submit(&q->q, &c->slot, &m);
}

/* The I/O queue with the least to do. NULL: all are full. */
static struct nvme_conn *pick(struct nvme_dev *d)
{
	struct nvme_conn *best = NULL;

	for (unsigned i = 0; i < d->nio; i++) {
		struct nvme_conn *c = &d->conn[1 + (d->turn + i) % d->nio];
		unsigned keep = c->q.qid == 1 ? TS_MIN(NVME_CONTROL_ROOM, c->q.depth / 2) : 0;

		if (nvme_queue_room(&c->q) && c->q.busy + keep < c->q.depth && (!best || c->q.busy < best->q.busy))
			best = c;
	}
	d->turn++;
	return best;
}

void nvme_pump(struct nvme_dev *d)
{
	while (d->state == NVME_UP && !d->lost && !ts_list_empty(&d->waiting)) {
		struct nvme_conn *c = pick(d);
		struct nsd_req *r;

		if (!c)
			return;
		r = ts_list_entry(ts_list_pop_front(&d->waiting), struct nsd_req, link);
		d->nwaiting--;
		if (!nsd_may_send(d->dev, r))
			nsd_complete(r, -TS_ERR_FENCED);
		else
			send_one(d, c, r);
	}
}

void nvme_flush(struct nvme_dev *d)
{
	for (unsigned i = 0; i < d->nconn; i++)
		if (d->conn[i].fd >= 0 && nvme_queue_has_out(&d->conn[i].q))
			nvme_conn_flush(&d->conn[i]);
}

/* ---- deadlines: one timer for the earliest ---------------------------------------------------------------------------- */

static void deadline_passed(void *arg);

static void arm(struct nvme_dev *d, uint64_t due)
{
	if (!d->deadline.exec || due < d->deadline.when_ns)
		ts_timer_arm(d->exec, &d->deadline, due, deadline_passed, d);
}

static void deadline_passed(void *arg)
{
	struct nvme_dev *d = arg;
	uint64_t now = ts_exec_now(d->exec), next = UINT64_MAX;
	struct ts_list *idle[2] = {&d->waiting, &d->doubtful};

	for (int i = 0; i < 2; i++)
		ts_list_for_safe(pos, tmp, idle[i]) {
			struct nsd_req *r = ts_list_entry(pos, struct nsd_req, link);

			if (r->due_ns > now) {
				next = TS_MIN(next, r->due_ns);
				continue;
			}
			ts_list_del(&r->link);
			d->nwaiting--;
			nsd_complete(r, -ETIMEDOUT);
		}
	ts_list_for(pos, &d->running) {
		struct nsd_req *r = ts_list_entry(pos, struct nvme_cmd, link)->req;

		if (r->due_ns <= now)
			nvme_lost(d, "a command was not answered by its deadline");
		/* If lost, it comes back to a list above soon and is looked at again. */
		next = TS_MIN(next, TS_MAX(r->due_ns, now + TS_NS_PER_MS));
	}
	if (next != UINT64_MAX)
		arm(d, next);
}

static int refusal(const struct nvme_dev *d, const struct nsd_req *r)
{
	if (d->state == NVME_FENCED)
		return -TS_ERR_FENCED;
	if ((r->op == NSD_DISCARD && !d->dev->may_discard) || (r->op == NSD_ZERO && d->dev->zero_by_write))
		return -EOPNOTSUPP; /* not fenced here, as far as is known */
	if (r->op == NSD_DISCARD && r->len / d->info.sector_bytes > 4ULL * UINT32_MAX)
		return -EINVAL;
	return d->nwaiting >= NVME_QUEUE_MAX ? -EAGAIN : 0;
}

void nvme_submit(struct nsd_dev *dev, struct nsd_req *r)
{
	struct nvme_dev *d = nsd_dev_priv(dev);
	int rc = refusal(d, r);

	if (rc) {
		nsd_complete(r, rc);
		return;
	}
	ts_list_push_back(&d->waiting, &r->link);
	d->nwaiting++;
	arm(d, r->due_ns);
	nvme_pump(d);
}
