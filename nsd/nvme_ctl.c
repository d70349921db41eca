/* SPDX-License-Identifier: Apache-2.0 */
/* Job: commands that a fiber waits for: Fabrics, Identify, features, logs, reservations. Must never happen: a fiber that goes on while
 * its buffer may still be written; giving up a command means that its connection is closed first. */
#include "nsd/nvme_int.h"

#include <stdio.h>

struct nvme_ctl {
	struct nvme_slot slot;
	struct nvme_dev *d;
	struct nvme_conn *c;
	struct nvme_answer *answer;
	struct iovec iov;
	struct ts_done done;
};

static void ctl_done(struct nvme_slot *s, int rc, uint16_t status, uint32_t result)
{
	struct nvme_ctl *k = ts_list_entry(s, struct nvme_ctl, slot);

	*k->answer = (struct nvme_answer){.status = status, .result = result};
	ts_done_set(&k->done, rc);
	ts_cond_broadcast(&k->d->wake);
}

static void ctl_late(void *arg)
{
	struct nvme_ctl *k = arg;

	if (k->c->broken)
		return;
	k->c->broken = true;
	nvme_set_error(k->d, "queue %u: a control command was not answered in time", k->c->q.qid);
	nvme_lost(k->d, "control command");
	ts_cond_broadcast(&k->d->wake);
}

/* An association that is lost is taken down over its admin queue; on the others nothing more is sent. */
static bool gone(const struct nvme_conn *c)
{
	return c->broken || (c->d->lost && c->q.qid);
}

/* The session's own fiber waits for the end of the connection, too: there is nobody else to close it and give the command up. */
static int wait_for_end(struct nvme_ctl *k, uint64_t opcode)
{
	if (ts_fiber_self() != k->d->fiber)
		return ts_done_wait(&k->done, "NVMe control command", opcode, k->c->q.qid);
	while (!k->done.done && !gone(k->c))
		ts_cond_wait(&k->d->wake, "NVMe control command", opcode, k->c->q.qid);
	if (!k->done.done)
		nvme_conn_close(k->c);
	return k->done.rc;
}

int nvme_ctl(struct nvme_conn *c, struct nvme_cmd_msg *cmd, void *data, uint32_t len, bool out, struct nvme_answer *a,
	     uint64_t deadline)
{
	struct nvme_ctl k = {.d = c->d, .c = c, .answer = a, .iov = {data, len}};
	struct ts_timer late = {0};
	int rc;

	if (gone(c))
		return -ENOTCONN;
	if (!nvme_queue_room(&c->q))
		return -EBUSY; /* nvme_pump() leaves room for us: more at once than was thought of */
	k.slot.iov = &k.iov;
	k.slot.iovcnt = len ? 1 : 0;
	k.slot.len = len;
	k.slot.out = out;
	k.slot.done = ctl_done;
	ts_done_init(&k.done);
	nvme_queue_submit(&c->q, &k.slot, cmd);
	nvme_conn_flush(c);
	ts_timer_arm(c->d->exec, &late, deadline, ctl_late, &k);
	rc = wait_for_end(&k, cmd->opcode);
	ts_timer_cancel(&late);
	return rc;
}

int nvme_admin(struct nvme_dev *d, uint8_t opcode, uint32_t nsid, uint32_t cdw10, uint32_t cdw11, void *data, uint32_t len,
	       struct nvme_answer *a, uint64_t deadline)
{
	struct nvme_cmd_msg cmd = {.opcode = opcode, .nsid = le32_make(nsid), .cdw10 = le32_make(cdw10), .cdw11 = le32_make(cdw11)};

	return nvme_ctl(&d->conn[0], &cmd, data, len, false, a, deadline);
}

int nvme_meaning(uint16_t status)
{
	switch (status) {
	case NVME_SC_OK:
		return 0;
	case NVME_SC_RESV_CONFLICT:
		return -TS_ERR_FENCED;
	case NVME_SC_INVALID_OPCODE:
	case NVME_SC_INVALID_FIELD:
		return -EOPNOTSUPP;
	case NVME_SC_ABORTED:
	case NVME_SC_SQ_DELETED:
	case NVME_SC_PREEMPTED:
	case NVME_SC_INTERRUPTED:
	case NVME_SC_TRANSPORT:
	case NVME_SC_NS_NOT_READY:
		return -EAGAIN;
	case NVME_SC_WRITE_PROTECTED:
		return -EROFS;
	default:
		return (status & 0x700) == NVME_SCT_PATH ? -EAGAIN : -EIO;
	}
}

/* ---- Fabrics ------------------------------------------------------------------------------------------------------- */

static int fabrics(struct nvme_dev *d, struct nvme_cmd_msg *cmd, struct nvme_answer *a, uint64_t deadline)
{
	int rc = nvme_ctl(&d->conn[0], cmd, NULL, 0, false, a, deadline);

	return rc || !a->status ? rc : -EIO;
}

int nvme_property_set(struct nvme_dev *d, uint32_t off, uint32_t value, uint64_t deadline)
{
	struct nvme_cmd_msg cmd = {.opcode = NVME_OP_FABRICS, .nsid = le32_make(NVME_FAB_SET), .cdw11 = le32_make(off),
				   .cdw12 = le32_make(value)};
	struct nvme_answer a;

	return fabrics(d, &cmd, &a, deadline);
}

/* The upper half of a property of 8 bytes is in the second word of the answer, which the queue does not keep: nothing here needs it. */
int nvme_property_get(struct nvme_dev *d, uint32_t off, bool wide, uint64_t *value, uint64_t deadline)
{
	struct nvme_cmd_msg cmd = {.opcode = NVME_OP_FABRICS, .nsid = le32_make(NVME_FAB_GET), .cdw10 = le32_make(wide),
				   .cdw11 = le32_make(off)};
	struct nvme_answer a;
	int rc = fabrics(d, &cmd, &a, deadline);

	*value = a.result;
	return rc;
}

static int connect_meaning(struct nvme_conn *c, const struct nvme_answer *a)
{
	static const struct {
		uint16_t status;
		int rc;
		const char *text;
	} rows[] = {{NVME_SC_CONNECT_PARAM, -ENOENT, "the target has no such subsystem, or does not take these parameters"},
		    {NVME_SC_CONNECT_HOST, -EACCES, "the target does not let this host in"},
		    {NVME_SC_CONNECT_BUSY, -EBUSY, "the target has no controller to spare"},
		    {NVME_SC_KATO_INVALID, -EINVAL, "the target does not take this keep-alive time"}};

	for (size_t i = 0; i < TS_ARRAY_LEN(rows); i++)
		if (a->status == rows[i].status) {
			nvme_set_error(c->d, "%s", rows[i].text);
			return rows[i].rc;
		}
	if (a->status) {
		nvme_set_error(c->d, "Connect of queue %u failed (status %03x)", c->q.qid, a->status);
		return -EIO;
	}
	if (a->result >> 16 & 3) {
		nvme_set_error(c->d, "the target wants hosts to prove themselves (in-band authentication), which Tessera cannot");
		return -EACCES;
	}
	return 0;
}

int nvme_connect(struct nvme_conn *c, uint64_t deadline)
{
	struct nvme_dev *d = c->d;
	struct nvme_connect_msg *m = ts_alloc(sizeof(*m));
	/* The depth is told counting from 0, and one entry of the ring stays empty. */
	struct nvme_cmd_msg cmd = {.opcode = NVME_OP_FABRICS, .nsid = le32_make(NVME_FAB_CONNECT),
				   .cdw10 = le32_make((uint32_t)c->q.qid << 16), .cdw11 = le32_make(c->q.depth),
				   .cdw12 = le32_make(c->q.qid ? 0 : d->kato_ms)};
	struct nvme_answer a;
	int rc;

	if (!m)
		return -ENOMEM;
	memcpy(m->hostid, d->hostid, 16);
	m->cntlid = le16_make(c->q.qid ? d->cntlid : 0xffff);
	snprintf(m->subnqn, sizeof(m->subnqn), "%s", d->target.nqn[0] ? d->target.nqn : NVME_DISCOVERY_NQN);
	snprintf(m->hostnqn, sizeof(m->hostnqn), "%s", d->hostnqn);
	rc = nvme_ctl(c, &cmd, m, sizeof(*m), true, &a, deadline);
	ts_free(m);
	if (!rc)
		rc = connect_meaning(c, &a);
	if (!rc && !c->q.qid)
		d->cntlid = (uint16_t)a.result;
	return rc;
}
