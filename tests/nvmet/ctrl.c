/* SPDX-License-Identifier: Apache-2.0 */
/* Job: controllers: Connect, properties, keep-alive, their end. */
#include "tests/nvmet/nvmet.h"

struct ctrl *ctrl_find(uint16_t cntlid)
{
	ts_list_for(l, &T.ctrls) {
		struct ctrl *t = ts_list_entry(l, struct ctrl, link);

		if (t->cntlid == cntlid && !t->ended)
			return t;
	}
	return NULL;
}

static void ctrl_late(void *arg)
{
	ctrl_end(arg, "keep-alive time is over");
}

void ctrl_alive(struct ctrl *t)
{
	if (t->kato_ms)
		ts_timer_arm(T.exec, &t->kato, ts_exec_now(T.exec) + t->kato_ms * TS_NS_PER_MS, ctrl_late, t);
}

static void drop_events(struct ctrl *t)
{
	struct ts_list *l;

	while ((l = ts_list_pop_front(&t->events)))
		cmd_free(ts_list_entry(l, struct cmd, link));
	t->nevents = 0;
}

void ctrl_end(struct ctrl *t, const char *why)
{
	if (t->ended)
		return;
	t->ended = true;
	fprintf(stderr, "nvmet: controller %u of %s ends: %s\n", t->cntlid, t->hostnqn, why);
	ts_timer_cancel(&t->kato);
	for (unsigned i = 0; i <= MAX_QUEUES; i++)
		if (t->queue[i])
			conn_close(t->queue[i]);
	ctrl_drained(t);
}

/* Called whenever a command is through at the backing. */
void ctrl_drained(struct ctrl *t)
{
	if (t->executing)
		return;
	if (t->disabling) {
		t->disabling = false;
		t->csts = 0;
	}
	if (t->ended) {
		ts_list_del(&t->link);
		free(t);
	}
}

/* ---- Connect ----------------------------------------------------------------------------------------------------------- */

static bool text_ok(const char *s)
{
	return memchr(s, 0, 256) && s[0];
}

static struct ctrl *ctrl_new(const struct nvme_connect_msg *m, uint32_t kato_ms)
{
	struct ctrl *t = calloc(1, sizeof(*t));

	TS_ASSERT(t);
	do
		T.next_cntlid = (uint16_t)(T.next_cntlid % 0xffef + 1);
	while (ctrl_find(T.next_cntlid));
	t->cntlid = T.next_cntlid;
	t->discovery = !strcmp(m->subnqn, NVME_DISCOVERY_NQN);
	memcpy(t->hostid, m->hostid, 16);
	memcpy(t->hostnqn, m->hostnqn, sizeof(t->hostnqn));
	t->kato_ms = kato_ms;
	ts_list_init(&t->events);
	ts_list_push_back(&T.ctrls, &t->link);
	return t;
}

static uint16_t join(struct conn *c, const struct nvme_connect_msg *m, uint16_t qid, uint16_t depth, uint32_t kato_ms)
{
	static const uint8_t none[16];
	uint16_t cntlid = le16_get(m->cntlid);
	struct ctrl *t;

	if (c->ctrl || !text_ok(m->subnqn) || !text_ok(m->hostnqn) || !depth || qid > T.opt.queues ||
	    (strcmp(m->subnqn, T.opt.nqn) && strcmp(m->subnqn, NVME_DISCOVERY_NQN)) || !memcmp(m->hostid, none, 16))
		return NVME_SC_CONNECT_PARAM;
	if (!qid) {
		if (cntlid != 0xffff)
			return NVME_SC_CONNECT_PARAM;
		t = ctrl_new(m, kato_ms);
	} else {
		t = ctrl_find(cntlid);
		if (!t || t->discovery || t->queue[qid] || !(t->csts & NVME_CSTS_RDY) || memcmp(t->hostid, m->hostid, 16) ||
		    strcmp(t->hostnqn, m->hostnqn))
			return NVME_SC_CONNECT_PARAM;
	}
	t->queue[qid] = c;
	c->ctrl = t;
	c->qid = qid;
	c->depth = TS_MIN(depth, MAX_DEPTH);
	ts_timer_cancel(&c->timer);
	return 0;
}

static void connect_execute(struct cmd *k)
{
	const struct nvme_connect_msg *m = (const void *)k->buf;
	uint32_t w = le32_get(k->sqe.cdw10);

	if (k->len != sizeof(*m) || w & 0xffff)
		k->status = k->len != sizeof(*m) ? NVME_SC_CONNECT_PARAM : NVME_SC_CONNECT_FORMAT;
	else
		k->status = join(k->conn, m, (uint16_t)(w >> 16), (uint16_t)le32_get(k->sqe.cdw11), le32_get(k->sqe.cdw12));
	if (!k->status) {
		k->ctrl = k->conn->ctrl;
		k->dw0 = k->ctrl->cntlid;
		if (!k->conn->qid) {
			ctrl_alive(k->ctrl);
			fprintf(stderr, "nvmet: controller %u for %s\n", k->ctrl->cntlid, k->ctrl->hostnqn);
		}
	}
	cmd_answer(k);
}

/* ---- properties -------------------------------------------------------------------------------------------------------- */

static void set_cc(struct ctrl *t, uint32_t cc)
{
	bool was = t->cc & NVME_CC_EN, is = cc & NVME_CC_EN;

	t->cc = cc;
	if (is && !was)
		t->csts = NVME_CSTS_RDY;
	if (was && !is) {
		drop_events(t);
		for (unsigned i = 1; i <= MAX_QUEUES; i++)
			if (t->queue[i]) {
				t->queue[i]->ctrl = NULL; /* the controller itself stays */
				conn_close(t->queue[i]);
				t->queue[i] = NULL;
			}
		t->disabling = true;
		ctrl_drained(t);
	}
	if (cc >> 14 & 3)
		t->csts = (t->csts & ~0xcu) | 8;
}

static uint64_t property(const struct ctrl *t, uint32_t off, bool *known)
{
	*known = true;
	switch (off) {
	case NVME_PROP_CAP:
		return T.opt.depth | 1u << 16 | 20ull << 24 | 1ull << 37;
	case NVME_PROP_VS:
		return 0x10400;
	case NVME_PROP_CC:
		return t->cc;
	case NVME_PROP_CSTS:
		return t->csts;
	}
	*known = false;
	return 0;
}

void ctrl_fabrics(struct cmd *k)
{
	unsigned type = le32_get(k->sqe.nsid) & 0xff;
	uint32_t off = le32_get(k->sqe.cdw11);
	struct ctrl *t = k->conn->ctrl;
	bool known;
	uint64_t v;

	if (type == NVME_FAB_CONNECT) {
		connect_execute(k);
		return;
	}
	if (!t || k->conn->qid) {
		k->status = NVME_SC_SEQUENCE;
	} else if (type == NVME_FAB_GET) {
		v = property(t, off, &known);
		k->dw0 = (uint32_t)v;
		k->dw1 = le32_get(k->sqe.cdw10) & 1 ? (uint32_t)(v >> 32) : 0;
		k->status = known ? 0 : NVME_SC_INVALID_FIELD;
	} else if (type == NVME_FAB_SET && off == NVME_PROP_CC) {
		set_cc(t, le32_get(k->sqe.cdw12));
	} else {
		k->status = NVME_SC_INVALID_FIELD;
	}
	cmd_answer(k);
}
