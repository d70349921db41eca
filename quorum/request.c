/* SPDX-License-Identifier: Apache-2.0 */
/* Job: changes of groups: asked for by a member, numbered by the view's leader, applied by all in that order, finished
 * when a majority has them. Must never happen: an operation applied in another view than it was numbered in; one number
 * given to two operations; a request forgotten before it is done. */
#include "quorum/quorum_int.h"

#include <stdio.h>

bool q_reqs_joining(const struct quorum *q, uint64_t group)
{
	ts_list_for(n, &q->reqs)
	{
		const struct q_req *r = ts_list_entry(n, struct q_req, link);

		if (r->op.kind == Q_JOIN && r->op.group == group)
			return true;
	}
	return false;
}

static void req_free(struct quorum *q, struct q_req *r)
{
	ts_list_del(&r->link);
	q->nreqs--;
	ts_free(r);
}

static void req_send(struct quorum *q, struct q_req *r)
{
	uint8_t buf[512];
	struct ts_wr w = {.p = buf, .left = sizeof(buf)};
	struct q_proc *p;

	r->sent_ns = q_now(q);
	if (r->op.kind == Q_EVICT) {
		p = q_proc_of(q, r->op.node, r->op.inc);
		if (p && !p->banned)
			q_send_evict(q, p, r->why);
		return;
	}
	if (q->phase != Q_IN_VIEW)
		return; /* with the next view */
	q_hdr_write(q, &w, Q_M_REQ, q->cur.view);
	q_op_write(&w, &r->op, 0);
	TS_ASSERT(!w.bad);
	q_send(q, buf, w.used);
}

/* Requests of a node are applied in the order they were made: the next goes out when the one before is applied. */
static struct q_req *first_open(struct quorum *q)
{
	ts_list_for(n, &q->reqs)
	{
		struct q_req *r = ts_list_entry(n, struct q_req, link);

		if (r->op.kind != Q_EVICT && r->applied_idx == UINT64_MAX)
			return r;
	}
	return NULL;
}

static void send_first(struct quorum *q)
{
	struct q_req *r = first_open(q);

	if (r)
		req_send(q, r);
}

static int add(struct quorum *q, const struct q_op *op, const char *why)
{
	struct q_req *r;

	if (q->phase == Q_DEAD)
		return -ESHUTDOWN;
	if (op->kind != Q_EVICT && op->kind != Q_TIE && !op->group)
		return -EINVAL;
	if (q->nreqs >= Q_REQS)
		return -ENOBUFS;
	r = ts_alloc(sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->op = *op;
	r->op.reqid = ++q->next_reqid;
	r->op.req_node = q->a.self;
	r->op.req_inc = q->a.incarnation;
	r->applied_idx = UINT64_MAX;
	r->retry_ns = Q_RETRY_NS;
	snprintf(r->why, sizeof(r->why), "%s", why);
	ts_list_push_back(&q->reqs, &r->link);
	q->nreqs++;
	if (r->op.kind == Q_EVICT || first_open(q) == r)
		req_send(q, r);
	return 0;
}

int quorum_group_join(struct quorum *q, uint64_t group, uint32_t slot)
{
	return add(q, &(struct q_op){.kind = Q_JOIN, .group = group, .slot = slot}, "");
}

int quorum_group_leave(struct quorum *q, uint64_t group)
{
	int rc = add(q, &(struct q_op){.kind = Q_LEAVE, .group = group}, "");

	if (rc)
		return rc;
	ts_list_for_safe(n, tmp, &q->reqs) /* a join that is still tried again must not come after it */
	{
		struct q_req *r = ts_list_entry(n, struct q_req, link);

		if (r->op.kind == Q_JOIN && r->op.group == group)
			req_free(q, r);
	}
	send_first(q);
	return 0;
}

int quorum_group_recovered(struct quorum *q, uint64_t group, unsigned node, uint64_t incarnation)
{
	if (!node || node >= Q_NODE_IDS)
		return -EINVAL;
	return add(q, &(struct q_op){.kind = Q_RECOVERED, .group = group, .node = node, .inc = incarnation}, "");
}

int quorum_tie_set(struct quorum *q, const uint8_t uuid[16], const char *url)
{
	struct q_op op = {.kind = Q_TIE};

	if (q->phase != Q_IN_VIEW || !q->vis_quorate || q->cur.by != QUORUM_BY_MAJORITY)
		return -EAGAIN;
	if (url) {
		if (strlen(url) >= sizeof(op.tie.url))
			return -ENAMETOOLONG;
		memcpy(op.tie.uuid, uuid, sizeof(op.tie.uuid));
		strcpy(op.tie.url, url);
		if (q_tie_none(&op.tie))
			return -EINVAL;
	}
	return add(q, &op, "");
}

int quorum_evict(struct quorum *q, unsigned node, uint64_t incarnation, const char *why)
{
	if (!node || node >= Q_NODE_IDS || !q_member_find(&q->cur, node, incarnation))
		return -ENOENT;
	return add(q, &(struct q_op){.kind = Q_EVICT, .node = node, .inc = incarnation}, why);
}

/* ---- the leader ---------------------------------------------------------------------------------------------------- */

static bool leading(const struct quorum *q)
{
	return q->phase == Q_IN_VIEW && q->cur.leader == q->a.self;
}

/* One operation is out at a time: the next number is known only when it has come back. */
static void pump(struct quorum *q)
{
	uint8_t buf[512];
	struct ts_wr w = {.p = buf, .left = sizeof(buf)};

	if (!leading(q) || q->op_out || !q->nops)
		return;
	q_hdr_write(q, &w, Q_M_OP, q->cur.view);
	q_op_write(&w, &q->ops[q->ops_at], q->cur.idx + 1);
	TS_ASSERT(!w.bad);
	q->op_out = true;
	q->op_out_ns = q_now(q);
	q_send(q, buf, w.used);
}

void q_on_req(struct quorum *q, struct q_proc *p, struct q_msg *m)
{
	struct q_op op;
	uint64_t idx;

	if (!leading(q) || m->number != q->cur.view || !q_op_read(&m->rd, &op, &idx) || op.req_node != p->node ||
	    op.req_inc != p->inc)
		return;
	for (unsigned i = 0; i < q->nops; i++) {
		const struct q_op *o = &q->ops[(q->ops_at + i) % Q_REQS];

		if (o->req_node == op.req_node && o->req_inc == op.req_inc && o->reqid == op.reqid)
			return; /* asked again */
	}
	if (q->nops == Q_REQS)
		return; /* it asks again */
	q->ops[(q->ops_at + q->nops++) % Q_REQS] = op;
	pump(q);
}

/* What the state says was applied of our requests. */
static void note_applied(struct quorum *q)
{
	const struct q_member *m = q_member_find(&q->cur, q->a.self, q->a.incarnation);

	ts_list_for(n, &q->reqs)
	{
		struct q_req *r = ts_list_entry(n, struct q_req, link);

		if (r->op.kind != Q_EVICT && r->applied_idx == UINT64_MAX && m && r->op.reqid <= m->last_reqid)
			r->applied_idx = q->cur.idx;
	}
}

void q_on_op(struct quorum *q, struct q_proc *p, struct q_msg *m)
{
	struct q_op op;
	uint64_t idx;

	if (q->phase != Q_IN_VIEW || m->number != q->cur.view || p->node != q->cur.leader ||
	    !q_op_read(&m->rd, &op, &idx) || idx != q->cur.idx + 1)
		return;
	(void)q_state_apply(&q->cur, &op);
	q->cur.idx = idx;
	note_applied(q);
	q->phase_ns = q_now(q);
	q_accepted(q);
	if (op.req_node == q->a.self)
		send_first(q);
	if (leading(q) && q->op_out && q->nops) {
		q->op_out = false;
		q->ops_at = (q->ops_at + 1) % Q_REQS;
		q->nops--;
		pump(q);
	}
}

/* ---- progress ------------------------------------------------------------------------------------------------------ */

/* A join that could not be applied (slot taken, no room) stays and is tried again. */
static bool done(struct quorum *q, struct q_req *r)
{
	const struct quorum_group_view *g;

	if (r->op.kind == Q_EVICT)
		return !q_member_find(&q->vis, r->op.node, r->op.inc);
	if (r->applied_idx == UINT64_MAX || r->applied_idx > q->vis.idx || q->vis.view != q->cur.view)
		return false;
	if (r->op.kind != Q_JOIN)
		return true;
	g = q_group_find(&q->vis, r->op.group);
	if (g && q_in_group(g, q->a.self, q->a.incarnation))
		return true;
	r->applied_idx = UINT64_MAX; /* as a new request, behind the others, at the next tick */
	r->op.reqid = ++q->next_reqid;
	r->sent_ns = q_now(q);
	r->retry_ns = Q_STUCK_NS;
	ts_list_del(&r->link);
	ts_list_push_back(&q->reqs, &r->link);
	return false;
}

void q_reqs_visible(struct quorum *q)
{
	ts_list_for_safe(n, tmp, &q->reqs)
	{
		struct q_req *r = ts_list_entry(n, struct q_req, link);

		if (done(q, r))
			req_free(q, r);
	}
}

void q_reqs_new_view(struct quorum *q)
{
	q->nops = 0;
	q->op_out = false;
	ts_list_for(n, &q->reqs) ts_list_entry(n, struct q_req, link)->applied_idx = UINT64_MAX;
	note_applied(q);
	send_first(q);
}

void q_reqs_tick(struct quorum *q)
{
	uint64_t now = q_now(q);

	struct q_req *first = first_open(q);

	ts_list_for(n, &q->reqs)
	{
		struct q_req *r = ts_list_entry(n, struct q_req, link);

		if ((r == first || r->op.kind == Q_EVICT) && now - r->sent_ns > r->retry_ns)
			req_send(q, r);
	}
	if (leading(q) && q->op_out && now - q->op_out_ns > Q_STUCK_NS) {
		q->op_out = false; /* the same operation under the same number */
		pump(q);
	}
}
