/* SPDX-License-Identifier: Apache-2.0 */
/* Job: requests as READ(16), WRITE(16), SYNCHRONIZE CACHE(16), and what their answers mean. Must never happen: a write
 * sent or sent again with the gate shut, or a request completed while libiscsi may still read its buffers. */
#include "nsd/iscsi_int.h"

#include <poll.h>

#define RC_RETRY (-TS_ERR_RETRY) /* a zombie that goes back to the queue */

int nsd_iscsi_io_init(struct iscsi_dev *d)
{
	ts_list_init(&d->free);
	ts_list_init(&d->running);
	ts_list_init(&d->zombies);
	ts_list_init(&d->waiting);
	ts_list_init(&d->controls);
	d->cmds = ts_alloc(ISCSI_DEPTH * sizeof(*d->cmds));
	if (!d->cmds)
		return -ENOMEM;
	for (unsigned i = 0; i < ISCSI_DEPTH; i++)
		ts_list_push_back(&d->free, &d->cmds[i].link);
	return 0;
}

void nsd_iscsi_io_free(struct iscsi_dev *d)
{
	ts_timer_cancel(&d->deadline);
	ts_free(d->cmds);
}

/* ---- answers --------------------------------------------------------------------------------------------------- */

/* 0, a final error, or RC_RETRY. */
static int judge(struct iscsi_dev *d, struct nsd_req *r, const struct scsi_task *t, int status)
{
	int key = status == SCSI_STATUS_CHECK_CONDITION ? (int)t->sense.key : 0;

	switch (status) {
	case SCSI_STATUS_GOOD:
		if (r->op == NSD_READ && t->residual_status == SCSI_RESIDUAL_UNDERFLOW && t->residual)
			return -EIO; /* fewer bytes than asked for: the rest of the buffer is old */
		return 0;
	case SCSI_STATUS_RESERVATION_CONFLICT:
		if (d->pr_key)
			nsd_iscsi_recheck(d);
		return -TS_ERR_FENCED;
	case SCSI_STATUS_BUSY:
	case SCSI_STATUS_TASK_SET_FULL:
	case SCSI_STATUS_TASK_ABORTED:
		r->tries = 0; /* not the request's fault: its deadline bounds it */
		nsd_iscsi_recheck(d);
		return RC_RETRY;
	case SCSI_STATUS_CHECK_CONDITION:
		if (key == SCSI_SENSE_RECOVERED_ERROR)
			return 0;
		if (key == SCSI_SENSE_UNIT_ATTENTION || key == SCSI_SENSE_COMMAND_ABORTED ||
		    key == SCSI_SENSE_NOT_READY) {
			nsd_iscsi_recheck(d);
			return RC_RETRY;
		}
		ts_err("%s: %s at %llu+%llu failed: sense key %d, code %04x", d->name,
		       r->op == NSD_READ ? "read" : r->op == NSD_FLUSH ? "flush" : "write",
		       (unsigned long long)r->off, (unsigned long long)r->len, key, (unsigned)t->sense.ascq);
		return key == SCSI_SENSE_DATA_PROTECTION ? -EROFS : -EIO;
	default:
		return -EIO;
	}
}

static void requeue(struct iscsi_dev *d, struct nsd_req *r)
{
	ts_list_push_front(&d->waiting, &r->link);
	d->nwaiting++;
}

static void release(struct iscsi_dev *d, struct iscsi_cmd *c, int rc)
{
	struct nsd_req *r = c->req;

	if (c->task)
		scsi_free_scsi_task(c->task);
	c->task = NULL;
	c->req = NULL;
	ts_list_del(&c->link);
	ts_list_push_front(&d->free, &c->link);
	if (rc != RC_RETRY)
		nsd_complete(r, rc);
	else if (r->tries >= ISCSI_MAX_TRIES)
		nsd_complete(r, -EIO);
	else
		requeue(d, r);
}

static void answered(struct iscsi_context *ctx, int status, void *command_data, void *private_data)
{
	struct iscsi_cmd *c = private_data;
	struct iscsi_dev *d = c->d;
	int rc;

	if (status == SCSI_STATUS_CANCELLED || status == SCSI_STATUS_ERROR || status == SCSI_STATUS_TIMEOUT) {
		nsd_iscsi_lost(d, "session ended under commands in flight");
		return; /* stays in running: nsd_iscsi_requeue_running takes it when ctx is gone */
	}
	rc = judge(d, c->req, c->task, status);
	if (rc && c->req->op == NSD_WRITE) {
		/* The target may answer before all Data-Out is sent, and libiscsi still holds task and buffers. */
		c->rc = rc;
		ts_list_del(&c->link);
		ts_list_push_back(&d->zombies, &c->link);
		return;
	}
	release(d, c, rc);
}

void nsd_iscsi_reap_zombies(struct iscsi_dev *d)
{
	if (ts_list_empty(&d->zombies) || d->lost)
		return;
	if (iscsi_out_queue_length(d->ctx) || (iscsi_which_events(d->ctx) & POLLOUT))
		return;
	while (!ts_list_empty(&d->zombies)) {
		struct iscsi_cmd *c = ts_list_entry(d->zombies.next, struct iscsi_cmd, link);

		release(d, c, c->rc);
	}
}

void nsd_iscsi_requeue_running(struct iscsi_dev *d)
{
	TS_ASSERT(!d->ctx);
	while (!ts_list_empty(&d->zombies)) {
		struct iscsi_cmd *c = ts_list_entry(d->zombies.next, struct iscsi_cmd, link);

		release(d, c, c->rc);
	}
	while (!ts_list_empty(&d->running)) { /* from the end, so that the first sent is the first again */
		struct iscsi_cmd *c = ts_list_entry(d->running.prev, struct iscsi_cmd, link);

		c->req->tries = 0; /* a lost session is not the request's fault; its deadline bounds it */
		release(d, c, RC_RETRY);
	}
}

void nsd_iscsi_fail_all(struct iscsi_dev *d, int rc)
{
	struct ts_list *n;

	TS_ASSERT(ts_list_empty(&d->running) && ts_list_empty(&d->zombies));
	while ((n = ts_list_pop_front(&d->waiting)))
		nsd_complete(ts_list_entry(n, struct nsd_req, link), rc);
	d->nwaiting = 0;
}

/* ---- sending --------------------------------------------------------------------------------------------------- */

static int copy_iov(struct iscsi_cmd *c)
{
	int n = 0;

	for (int i = 0; i < c->req->iovcnt; i++)
		if (c->req->iov[i].iov_len)
			c->iov[n++] = (struct scsi_iovec){c->req->iov[i].iov_base, c->req->iov[i].iov_len};
	return n;
}

static struct scsi_task *make_task(struct iscsi_dev *d, struct iscsi_cmd *c)
{
	struct nsd_req *r = c->req;
	int sector = (int)d->info.sector_bytes;
	uint64_t lba = r->off / d->info.sector_bytes;
	struct scsi_task *t;

	switch (r->op) {
	case NSD_READ:
		t = scsi_cdb_read16(lba, (uint32_t)r->len, sector, 0, 0, 0, 0, 0);
		if (t)
			scsi_task_set_iov_in(t, c->iov, copy_iov(c));
		return t;
	case NSD_WRITE:
		t = scsi_cdb_write16(lba, (uint32_t)r->len, sector, 0, 0, 0, 0, 0);
		if (t)
			scsi_task_set_iov_out(t, c->iov, copy_iov(c));
		return t;
	default:
		return scsi_cdb_synchronizecache16(0, 0, 0, 0);
	}
}

static void send_one(struct iscsi_dev *d, struct nsd_req *r)
{
	struct iscsi_cmd *c = ts_list_entry(ts_list_pop_front(&d->free), struct iscsi_cmd, link);

	c->d = d;
	c->req = r;
	c->rc = 0;
	c->task = make_task(d, c);
	ts_list_push_back(&d->running, &c->link);
	r->tries++;
	d->dev->stats.resends += r->session_gen != 0;
	r->session_gen = d->gen;
	if (!c->task)
		release(d, c, -ENOMEM);
	else if (iscsi_scsi_command_async(d->ctx, d->target.lun, c->task, answered, NULL, c))
		nsd_iscsi_lost(d, "command could not be queued"); /* stays in running, comes back from there */
}

void nsd_iscsi_pump(struct iscsi_dev *d)
{
	/* Zombies wait for the send queue to run dry: nothing is added until they are gone. */
	while (d->state == ISCSI_UP && !d->lost && ts_list_empty(&d->zombies) && !ts_list_empty(&d->free) &&
	       !ts_list_empty(&d->waiting)) {
		struct nsd_req *r = ts_list_entry(ts_list_pop_front(&d->waiting), struct nsd_req, link);

		d->nwaiting--;
		if (!nsd_may_send(d->dev, r))
			nsd_complete(r, -TS_ERR_FENCED);
		else
			send_one(d, r);
	}
}

/* ---- deadlines: one timer for the earliest ----------------------------------------------------------------------- */

static void deadline_passed(void *arg);

static void arm(struct iscsi_dev *d, uint64_t due)
{
	if (!d->deadline.exec || due < d->deadline.when_ns)
		ts_timer_arm(d->exec, &d->deadline, due, deadline_passed, d);
}

static void deadline_passed(void *arg)
{
	struct iscsi_dev *d = arg;
	uint64_t now = ts_exec_now(d->exec), next = UINT64_MAX;
	struct ts_list *busy[2] = {&d->running, &d->zombies};

	ts_list_for_safe(pos, tmp, &d->waiting) {
		struct nsd_req *r = ts_list_entry(pos, struct nsd_req, link);

		if (r->due_ns > now) {
			next = TS_MIN(next, r->due_ns);
			continue;
		}
		ts_list_del(&r->link);
		d->nwaiting--;
		nsd_complete(r, -ETIMEDOUT);
	}
	for (int i = 0; i < 2; i++) {
		ts_list_for(pos, busy[i]) {
			struct nsd_req *r = ts_list_entry(pos, struct iscsi_cmd, link)->req;

			if (r->due_ns <= now)
				nsd_iscsi_lost(d, "a command was not answered by its deadline");
			/* If lost, it comes back to waiting at once and is looked at again. */
			next = TS_MIN(next, TS_MAX(r->due_ns, now + TS_NS_PER_MS));
		}
	}
	if (next != UINT64_MAX)
		arm(d, next);
}

void nsd_iscsi_submit(struct nsd_dev *dev, struct nsd_req *r)
{
	struct iscsi_dev *d = nsd_dev_priv(dev);

	if (d->state == ISCSI_FENCED) {
		nsd_complete(r, -TS_ERR_FENCED);
	} else if (r->op == NSD_DISCARD || r->op == NSD_ZERO) {
		nsd_complete(r, -EOPNOTSUPP); /* UNMAP and WRITE SAME are not fenced everywhere */
	} else if (d->nwaiting >= ISCSI_QUEUE) {
		nsd_complete(r, -EAGAIN);
	} else {
		ts_list_push_back(&d->waiting, &r->link);
		d->nwaiting++;
		arm(d, r->due_ns);
		nsd_iscsi_pump(d);
	}
}
