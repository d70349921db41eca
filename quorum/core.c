/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the core's shell: what the carrier reports, what goes to it, what is shown upwards. Must never happen: the gate
 * open on an excluded or non-quorate node; an event for a state that a majority has not accepted. */
#include "quorum/quorum_int.h"

#include <stdio.h>

const struct quorum_times quorum_times_default = {.lease_ms = 2000, .renew_ms = 400, .margin_ms = 500, .settle_ms = 150};

/* ---- to the carrier ------------------------------------------------------------------------------------------------ */

static void outbox_retry(void *arg);

static void outbox_run(struct quorum *q)
{
	while (!ts_list_empty(&q->outbox)) {
		struct q_out *o = ts_list_entry(q->outbox.next, struct q_out, link);

		if (q->a.carrier.mcast(q->a.carrier.arg, o->data, o->len)) {
			ts_timer_arm(q->exec, &q->send_timer, q_now(q) + 5 * TS_NS_PER_MS, outbox_retry, q);
			return;
		}
		ts_list_del(&o->link);
		q->noutbox--;
		ts_free(o);
	}
}

static void outbox_retry(void *arg)
{
	outbox_run(arg);
}

void q_send(struct quorum *q, const void *msg, size_t len)
{
	struct q_out *o;

	if (q->phase == Q_DEAD)
		return;
	if (!q->noutbox && !q->a.carrier.mcast(q->a.carrier.arg, msg, len))
		return;
	o = q->noutbox < Q_OUTBOX ? ts_alloc(sizeof(*o) + len) : NULL;
	if (!o) { /* every message is said again by the tick while it matters */
		ts_warn("quorum: the carrier takes nothing and %u messages wait: one is dropped", q->noutbox);
		return;
	}
	memcpy(o->data, msg, len);
	o->len = len;
	ts_list_push_back(&q->outbox, &o->link);
	q->noutbox++;
	if (q->noutbox == 1)
		ts_timer_arm(q->exec, &q->send_timer, q_now(q) + 5 * TS_NS_PER_MS, outbox_retry, q);
}

/* ---- upwards ------------------------------------------------------------------------------------------------------- */

static void emit_view(struct quorum *q)
{
	q->view_pub.number = q->vis.view;
	q->view_pub.quorate = q->vis_quorate;
	q->view_pub.nmembers = q->vis.nmembers;
	for (unsigned i = 0; i < q->vis.nmembers; i++)
		q->view_pub.members[i] = q->vis.members[i].pub;
	if (q->a.events.view)
		q->a.events.view(q->a.events.arg, &q->view_pub);
}

static bool concerns(struct quorum *q, const struct quorum_group_view *g)
{
	return q_in_group(g, q->a.self, q->a.incarnation) || q_reqs_joining(q, g->group);
}

static void emit_group(struct quorum *q, const struct quorum_group_view *g)
{
	if (q->a.events.group)
		q->a.events.group(q->a.events.arg, g);
}

/* vis is new, before is what was shown last (its groups' quorate flags included). */
void q_emit(struct quorum *q, const struct q_state *before)
{
	bool new_view = !q->vis_quorate || before->view != q->vis.view, was_quorate = q->vis_quorate;

	q->vis_quorate = true;
	atomic_store(&q->gate, true);
	if (!q->first_view_ns)
		q->first_view_ns = q_now(q);
	if (q->vis.by == QUORUM_BY_MAJORITY)
		q->forced = false;
	q_tie_known(q);
	if (new_view)
		emit_view(q);
	for (unsigned i = 0; i < q->vis.ngroups && q->phase != Q_DEAD; i++) {
		struct quorum_group_view *g = &q->vis.groups[i];
		const struct quorum_group_view *old = q_group_find((struct q_state *)before, g->group);

		g->view = q->vis.view;
		g->quorate = true;
		if ((concerns(q, g) || (old && concerns(q, old))) && (!old || old->epoch != g->epoch || !was_quorate))
			emit_group(q, g);
	}
	for (unsigned i = 0; i < before->ngroups && q->phase != Q_DEAD; i++) {
		struct quorum_group_view gone = {.group = before->groups[i].group,
						 .epoch = q->vis.epochs,
						 .view = q->vis.view,
						 .quorate = true};

		if (!q_group_find(&q->vis, gone.group) && concerns(q, &before->groups[i]))
			emit_group(q, &gone);
	}
	q_reqs_visible(q);
	q_suspend_eval(q);
}

void q_not_quorate(struct quorum *q)
{
	atomic_store(&q->gate, false);
	if (q->vis_quorate) {
		q->vis_quorate = false;
		emit_view(q);
		for (unsigned i = 0; i < q->vis.ngroups && q->phase != Q_DEAD; i++) {
			q->vis.groups[i].quorate = false;
			if (concerns(q, &q->vis.groups[i]))
				emit_group(q, &q->vis.groups[i]);
		}
	}
	q_suspend_eval(q);
}

void q_die(struct quorum *q, const char *why)
{
	if (q->phase == Q_DEAD)
		return;
	atomic_store(&q->gate, false);
	atomic_store(&q->lease_until, 0);
	q->phase = Q_DEAD;
	ts_timer_cancel(&q->tick);
	ts_timer_cancel(&q->renew_timer);
	ts_err("quorum: node %u incarnation %#lx is excluded: %s; restart the daemon to come back", q->a.self,
	       q->a.incarnation, why);
	q_suspend_eval(q);
	if (q->a.events.excluded)
		q->a.events.excluded(q->a.events.arg, why);
	q->a.carrier.leave(q->a.carrier.arg);
}

/* ---- from the carrier ---------------------------------------------------------------------------------------------- */

struct q_proc *q_proc_find(struct quorum *q, uint32_t node, uint32_t pid)
{
	for (unsigned i = 0; i < q->nprocs; i++)
		if (q->procs[i].node == node && q->procs[i].pid == pid)
			return &q->procs[i];
	return NULL;
}

struct q_proc *q_proc_of(struct quorum *q, unsigned node, uint64_t inc)
{
	for (unsigned i = 0; i < q->nprocs; i++)
		if (q->procs[i].node == node && q->procs[i].inc == inc)
			return &q->procs[i];
	return NULL;
}

bool q_is_self(const struct quorum *q, const struct q_proc *p)
{
	if (p->node != q->a.self)
		return false;
	if (p->inc)
		return p->inc == q->a.incarnation;
	for (unsigned i = 0; i < q->nprocs; i++) /* not introduced yet: it is us if there is no other of this node */
		if (&q->procs[i] != p && q->procs[i].node == q->a.self)
			return false;
	return true;
}

bool q_ring_agreed(const struct quorum *q)
{
	return q->ring_known && q->vq_known && q->ring == q->vq_ring;
}

static bool listed(const struct quorum_ring_member *v, size_t n, uint32_t node, uint32_t pid)
{
	for (size_t i = 0; i < n; i++)
		if (v[i].node == node && v[i].pid == pid)
			return true;
	return false;
}

static int by_node(const void *a, const void *b)
{
	const struct q_proc *x = a, *y = b;

	return x->node != y->node ? (x->node < y->node ? -1 : 1) : (x->pid > y->pid) - (x->pid < y->pid);
}

static void note_exit(struct quorum *q, const struct quorum_ring_member *left, size_t nleft)
{
	for (size_t i = 0; i < nleft; i++) {
		struct q_proc *p = q_proc_find(q, left[i].node, left[i].pid);

		if (!p || !p->inc || p->node >= Q_NODE_IDS)
			continue;
		q->exited[p->node] = TS_MAX(q->exited[p->node], p->inc);
		for (unsigned k = 0; k < TS_MIN(q->npast, (unsigned)Q_PAST); k++)
			if (q->past[k].node == p->node && q->past[k].inc == p->inc)
				q->past[k].end_ns = 0;
	}
}

static void set_config(struct quorum *q, const struct quorum_ring_member *members, size_t n,
		       const struct quorum_ring_member *joined, size_t njoined)
{
	struct q_proc next[Q_PROCS];
	le32 ids[2 * Q_PROCS];

	for (size_t i = 0; i < n; i++) {
		struct q_proc *old = q_proc_find(q, members[i].node, members[i].pid);

		memset(&next[i], 0, sizeof(next[i]));
		if (old && !listed(joined, njoined, members[i].node, members[i].pid))
			next[i] = *old;
		else
			next[i].life_ns = q_now(q);
		next[i].node = members[i].node;
		next[i].pid = members[i].pid;
		if (!next[i].node || next[i].node >= Q_NODE_IDS)
			next[i].banned = true; /* cannot be a member: its own daemon says so */
	}
	qsort(next, n, sizeof(next[0]), by_node);
	memcpy(q->procs, next, n * sizeof(next[0]));
	q->nprocs = (unsigned)n;
	for (size_t i = 0; i < n; i++) {
		ids[2 * i] = le32_make(next[i].node);
		ids[2 * i + 1] = le32_make(next[i].pid);
	}
	q->digest = ts_csum64(ids, 2 * n * sizeof(ids[0]), 0); /* in order: everyone computes the same */
}

void quorum_core_confchg(struct quorum *q, const struct quorum_ring_member *members, size_t nmembers,
			 const struct quorum_ring_member *left, size_t nleft, bool left_by_process_exit,
			 const struct quorum_ring_member *joined, size_t njoined, uint64_t ring_seq)
{
	bool here = false;

	if (q->phase == Q_DEAD)
		return;
	if (nmembers > Q_PROCS) {
		q_die(q, "more processes in the group than this version carries");
		return;
	}
	if (left_by_process_exit)
		note_exit(q, left, nleft);
	for (size_t i = 0; i < nmembers; i++)
		here |= members[i].node == q->a.self;
	if (!here) {
		q_die(q, "the carrier has removed this process from the group");
		return;
	}
	set_config(q, members, nmembers, joined, njoined);
	q->ring = ring_seq;
	q->ring_known = true;
	q_round_restart(q);
}

void quorum_core_needed(struct quorum *q, unsigned daemons)
{
	q->needed = TS_MIN(daemons, (unsigned)QUORUM_MAX_NODES);
}

void quorum_core_expected(struct quorum *q, unsigned expected)
{
	q->expected = expected <= QUORUM_MAX_NODES && expected % 2 == 0 ? expected : 0;
}

void quorum_core_machines(struct quorum *q, const uint64_t bits[4])
{
	_Static_assert(sizeof(q->machines) == 4 * sizeof(bits[0]), "a bit for each node id");
	memcpy(q->machines, bits, sizeof(q->machines));
}

void quorum_core_configured(struct quorum *q, const uint64_t bits[4])
{
	memcpy(q->configured, bits, sizeof(q->configured));
}

bool quorum_node_configured(const struct quorum *q, unsigned node)
{
	return node < Q_NODE_IDS && q->configured[node / 64] >> node % 64 & 1;
}

bool quorum_machine_up(const struct quorum *q, unsigned node)
{
	return node < Q_NODE_IDS && q->machines[node / 64] >> node % 64 & 1;
}

void quorum_core_quorate(struct quorum *q, bool quorate, uint64_t ring_seq)
{
	bool changed = !q->vq_known || q->vq_quorate != quorate || q->vq_ring != ring_seq;

	if (q->phase == Q_DEAD || !changed)
		return;
	q->vq_known = true;
	q->vq_quorate = quorate;
	q->vq_ring = ring_seq;
	if (!quorate)
		q_not_quorate(q);
	q_send_sync(q); /* if the rings agree; a member in a view that hears "not quorate" starts over */
}

void quorum_core_lost(struct quorum *q, const char *why)
{
	q_die(q, why);
}

void quorum_core_deliver(struct quorum *q, unsigned src_node, uint32_t src_pid, const void *msg, size_t len)
{
	struct q_proc *p = q_proc_find(q, src_node, src_pid);
	struct q_msg m;

	if (q->phase == Q_DEAD || !p || p->banned)
		return;
	if (!q_msg_read(&m, msg, len)) {
		ts_warn("quorum: a message of node %u cannot be read here (another version?): ignored", src_node);
		return;
	}
	if (m.type == Q_M_EVICT) {
		q_on_evict(q, p, &m);
		return;
	}
	if (m.type != Q_M_SYNC && p->inc != m.inc)
		return;
	switch (m.type) {
	case Q_M_SYNC:
		q_on_sync(q, p, &m);
		break;
	case Q_M_PROMISE:
		q_on_promise(q, p, &m);
		break;
	case Q_M_STATE:
		q_on_state(q, p, &m);
		break;
	case Q_M_ACK:
		q_on_ack(q, p, &m);
		break;
	case Q_M_REQ:
		q_on_req(q, p, &m);
		break;
	case Q_M_OP:
		q_on_op(q, p, &m);
		break;
	case Q_M_RENEW:
		q_on_renew(q, p, &m);
		break;
	default:
		break; /* a later version's: not for us */
	}
}

/* ---- life ---------------------------------------------------------------------------------------------------------- */

static void tick(void *arg)
{
	struct quorum *q = arg;

	ts_timer_arm(q->exec, &q->tick, q_now(q) + Q_TICK_NS, tick, q);
	q_lease_tick(q);
	if (q->phase != Q_DEAD)
		q_round_tick(q);
	if (q->phase != Q_DEAD)
		q_reqs_tick(q);
}

struct quorum *quorum_core_new(const struct quorum_core_args *a)
{
	struct quorum *q;

	if (!a->self || a->self >= Q_NODE_IDS || !a->incarnation || !a->times.lease_ms || !a->times.renew_ms)
		return NULL;
	q = ts_alloc(sizeof(*q));
	if (!q)
		return NULL;
	q->exec = a->exec;
	q->a = *a;
	q->promised = TS_MAX(a->durable.promised, a->durable.accepted);
	q->accepted = a->durable.accepted;
	q->accepted_idx = a->durable.accepted_idx;
	q->tie.known = a->tie;
	q->needed = 1;
	q->suspended = true;
	q->tick_ns = q_now(q);
	ts_list_init(&q->reqs);
	ts_list_init(&q->outbox);
	tick(q);
	return q;
}

void quorum_core_kill(struct quorum *q)
{
	struct ts_list *n;

	if (!q)
		return;
	ts_timer_cancel(&q->tick);
	ts_timer_cancel(&q->send_timer);
	ts_timer_cancel(&q->renew_timer);
	while ((n = ts_list_pop_front(&q->outbox)))
		ts_free(ts_list_entry(n, struct q_out, link));
	while ((n = ts_list_pop_front(&q->reqs)))
		ts_free(ts_list_entry(n, struct q_req, link));
	ts_free(q);
}

void quorum_close(struct quorum *q)
{
	if (!q)
		return;
	atomic_store(&q->gate, false);
	if (q->phase != Q_DEAD)
		q->a.carrier.leave(q->a.carrier.arg);
	if (q->cs_close)
		q->cs_close(q->cs);
	quorum_core_kill(q);
}

unsigned quorum_self(const struct quorum *q)
{
	return q->a.self;
}

uint64_t quorum_incarnation(const struct quorum *q)
{
	return q->a.incarnation;
}

const struct quorum_view *quorum_view_get(const struct quorum *q)
{
	return &q->view_pub;
}

const struct quorum_group_view *quorum_group_get(const struct quorum *q, uint64_t group)
{
	return q_group_find((struct q_state *)&q->vis, group);
}
