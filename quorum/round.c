/* SPDX-License-Identifier: Apache-2.0 */
/* Job: from a configuration of the carrier to an agreed view: gather (everyone says what it has), promise (nobody will
 * accept anything older), state (the one with the newest state says how it goes on), acknowledgements (visible once a
 * majority has it). Must never happen: a state proposed before all promised; two states under one number; a view
 * from a configuration that is not quorate. */
#include "quorum/quorum_int.h"

#include <stdio.h>

static void put_banned(struct quorum *q, struct ts_wr *w)
{
	for (unsigned i = 0; i < q->nprocs; i++) {
		if (!q->procs[i].banned)
			continue;
		ts_wr_u32(w, q->procs[i].node);
		ts_wr_u32(w, q->procs[i].pid);
	}
}

/* How long ago each member's last renewal was received here: bounds the lease it can believe in. */
static unsigned put_ages(struct quorum *q, struct ts_wr *w, bool count)
{
	unsigned n = 0;

	for (unsigned i = 0; i < q->cur.nmembers; i++) {
		const struct quorum_member *m = &q->cur.members[i].pub;

		if (q->heard[m->node].inc != m->incarnation)
			continue;
		n++;
		if (count)
			continue;
		ts_wr_u32(w, m->node);
		ts_wr_u64(w, m->incarnation);
		ts_wr_u64(w, q_now(q) - q->heard[m->node].ns);
	}
	return n;
}

void q_send_sync(struct quorum *q)
{
	uint8_t buf[8192];
	struct ts_wr w = {.p = buf, .left = sizeof(buf)};
	unsigned nbanned = 0;
	struct quorum_sync_msg s = {
		.view = le64_make(q->accepted),
		.idx = le64_make(q->accepted_idx),
		.promised = le64_make(q->promised),
		.flags = le32_make((q->cur.exists ? Q_F_STATE : 0) | (q->vq_quorate ? Q_F_QUORATE : 0) |
				   (q->forced ? Q_F_FORCED : 0)),
		.needed = le32_make(q->needed),
		.lease_ms = le32_make(q->a.times.lease_ms),
		.expected = le32_make(q->expected),
		.tie = q_tie_make(&q->tie.known),
		.port = le16_make(q->a.port),
		.nages = le16_make((uint16_t)put_ages(q, NULL, true)),
	};

	if (!q_ring_agreed(q))
		return;
	for (unsigned i = 0; i < q->nprocs; i++)
		nbanned += q->procs[i].banned;
	s.nbanned = le16_make((uint16_t)nbanned);
	memcpy(s.addr, q->a.addr, sizeof(s.addr));
	q_hdr_write(q, &w, Q_M_SYNC, 0);
	ts_wr_bytes(&w, &s, sizeof(s));
	put_banned(q, &w);
	put_ages(q, &w, false);
	TS_ASSERT(!w.bad);
	q_send(q, buf, w.used);
}

static void send_number(struct quorum *q, enum q_type type, uint64_t number, uint64_t value)
{
	uint8_t buf[64];
	struct ts_wr w = {.p = buf, .left = sizeof(buf)};

	q_hdr_write(q, &w, type, number);
	ts_wr_u64(&w, value);
	TS_ASSERT(!w.bad);
	q_send(q, buf, w.used);
}

void q_send_ack(struct quorum *q)
{
	send_number(q, Q_M_ACK, q->cur.view, q->cur.idx);
}

void q_round_restart(struct quorum *q)
{
	if (q->phase == Q_DEAD)
		return;
	q->phase = Q_GATHER;
	q->phase_ns = q_now(q);
	for (unsigned i = 0; i < q->nprocs; i++) {
		q->procs[i].synced = false;
		q->procs[i].promise = 0;
	}
	q_send_sync(q);
}

/* ---- gather ------------------------------------------------------------------------------------------------------- */

static bool newer(const struct q_sync *a, const struct q_sync *b)
{
	if (a->has_state != b->has_state || !a->has_state)
		return a->has_state && !b->has_state;
	return a->view != b->view ? a->view > b->view : a->idx > b->idx;
}

/* A restarted node may have helped to make a view that nobody here remembers. Then what the others have is the past,
 * perhaps undone already by those who died since: none of it goes on, and who lived in it is refused. */
static unsigned forget_past(const struct quorum *q, unsigned source)
{
	const struct q_sync *best = &q->procs[source].sync;
	unsigned fresh = source;
	bool forgotten = false;

	for (unsigned i = q->nprocs; i-- > 0;) {
		const struct q_proc *p = &q->procs[i];

		if (p->banned || p->sync.has_state)
			continue;
		forgotten |= p->sync.view > best->view || (p->sync.view == best->view && p->sync.idx > best->idx);
		fresh = i;
	}
	return forgotten ? fresh : source;
}

struct plan { /* how a round goes on; the same at everyone, for it is made of their SYNCs */
	uint64_t number;
	unsigned source;
	uint32_t needed;
	enum quorum_by by;
};

/* May this configuration go on at all, and by what? Half of all needs the tiebreaker, less than that an operator's word. */
static bool permitted(const struct quorum *q, struct plan *p)
{
	unsigned n = 0;
	uint32_t expected = 0;
	bool quorate = true, alike = true, forced = false;

	for (unsigned i = 0; i < q->nprocs; i++) {
		const struct q_sync *s = &q->procs[i].sync;

		if (q->procs[i].banned)
			continue;
		quorate &= s->quorate;
		forced |= s->forced;
		alike &= !n++ || s->expected == expected;
		expected = s->expected;
	}
	p->by = QUORUM_BY_MAJORITY;
	if (quorate && n >= p->needed)
		return true;
	if (forced) {
		p->by = QUORUM_BY_FORCE;
		p->needed = 1;
		return true;
	}
	if (alike && expected && n * 2 == expected) {
		p->by = QUORUM_BY_TIE;
		p->needed = TS_MAX(p->needed, expected / 2 + 1);
		return true;
	}
	return quorate;
}

/* Everyone that is waited for has spoken, and together they may go on: the next number and whose state that will be. */
static bool complete(const struct quorum *q, struct plan *plan)
{
	uint64_t promised = 0;
	bool any = false;

	*plan = (struct plan){.needed = 1};
	for (unsigned i = 0; i < q->nprocs; i++) {
		const struct q_proc *p = &q->procs[i];

		if (p->banned)
			continue;
		if (!p->synced)
			return false;
		promised = TS_MAX(promised, p->sync.promised);
		plan->needed = TS_MAX(plan->needed, p->sync.needed);
		if (!any || newer(&p->sync, &q->procs[plan->source].sync))
			plan->source = i;
		any = true;
	}
	if (!any || !permitted(q, plan))
		return false;
	plan->source = forget_past(q, plan->source);
	plan->number = plan->by == QUORUM_BY_TIE && q->procs[plan->source].node <= TIE_SLOTS ? tie_number_next(promised, q->procs[plan->source].node) : promised + 1;
	return true;
}

/* Whoever recovers a node that nobody remembers waits as long as its own lease lasts: one length for all, that of the state that
 * goes on. false: ours is another one. */
static bool lease_fits(struct quorum *q, unsigned source)
{
	uint32_t theirs = q->procs[source].sync.lease_ms;
	char why[192];

	for (unsigned i = 0; i < q->nprocs && q_is_self(q, &q->procs[source]); i++) {
		const struct q_proc *p = &q->procs[i];

		if (!p->banned && p->sync.lease_ms != theirs)
			ts_warn("quorum: node %u is refused: its lease_ms is %u, here it is %u; set it to %u there", p->node,
				p->sync.lease_ms, theirs, theirs);
	}
	if (q->a.times.lease_ms == theirs)
		return true;
	snprintf(why, sizeof(why), "lease_ms is %u here and %u on node %u, and must be equal: set it to %u in the tesserad.conf of this node",
		 q->a.times.lease_ms, theirs, q->procs[source].node, theirs);
	q_die(q, why);
	return false;
}

static void remember(struct quorum *q)
{
	struct quorum_durable d = {.promised = q->promised, .accepted = q->accepted, .accepted_idx = q->accepted_idx};

	if (q->a.persist)
		q->a.persist(q->a.events.arg, &d);
}

static void evaluate(struct quorum *q)
{
	struct plan p;

	if ((q->phase != Q_GATHER && q->phase != Q_PROMISE) || !complete(q, &p))
		return;
	if (q->phase == Q_PROMISE && p.number == q->round && p.source == q->source)
		return;
	if (p.number <= q->promised) { /* what we said is behind what we promised: say it again */
		q->phase = Q_GATHER;
		q_send_sync(q);
		return;
	}
	if (!lease_fits(q, p.source))
		return;
	q->phase = Q_PROMISE;
	q->phase_ns = q_now(q);
	q->promised = q->round = p.number;
	q->source = p.source;
	q->view_needed = p.needed;
	q->round_by = p.by;
	q->tie.again_ns = 0;
	q->proposed = false;
	for (unsigned i = 0; i < q->nprocs; i++)
		q->procs[i].promise = 0;
	remember(q);
	send_number(q, Q_M_PROMISE, p.number, q->procs[p.source].node);
}

static void read_banned(struct quorum *q, struct ts_rd *r, unsigned n)
{
	while (n--) {
		uint32_t node = ts_rd_u32(r), pid = ts_rd_u32(r);
		struct q_proc *p = r->bad ? NULL : q_proc_find(q, node, pid);

		if (!p)
			continue;
		if (q_is_self(q, p)) {
			q_die(q, "the other members have evicted this incarnation");
			return;
		}
		p->banned = true;
	}
}

static void read_ages(struct quorum *q, struct ts_rd *r, unsigned n)
{
	uint64_t now = q_now(q);

	while (n--) {
		uint32_t node = ts_rd_u32(r);
		uint64_t inc = ts_rd_u64(r), age = ts_rd_u64(r);

		if (!r->bad && node && node < Q_NODE_IDS && age <= now)
			q_heard(q, node, inc, now - age);
	}
}

void q_on_sync(struct quorum *q, struct q_proc *p, struct q_msg *m)
{
	const struct quorum_sync_msg *s = ts_rd_bytes(&m->rd, sizeof(*s));

	if (!s || m->ring != q->ring || m->digest != q->digest || (p->inc && p->inc != m->inc))
		return;
	p->inc = m->inc;
	p->synced = true;
	p->life_ns = q_now(q);
	p->sync = (struct q_sync){.has_state = le32_get(s->flags) & Q_F_STATE,
				  .quorate = le32_get(s->flags) & Q_F_QUORATE,
				  .forced = le32_get(s->flags) & Q_F_FORCED,
				  .view = le64_get(s->view),
				  .idx = le64_get(s->idx),
				  .promised = le64_get(s->promised),
				  .needed = le32_get(s->needed),
				  .lease_ms = le32_get(s->lease_ms),
				  .expected = le32_get(s->expected),
				  .tie = q_tie_get(&s->tie),
				  .port = le16_get(s->port)};
	memcpy(p->sync.addr, s->addr, sizeof(p->sync.addr));
	p->sync.addr[sizeof(p->sync.addr) - 1] = 0;
	read_banned(q, &m->rd, le16_get(s->nbanned));
	if (q->phase == Q_DEAD)
		return;
	read_ages(q, &m->rd, le16_get(s->nages));
	if (q->phase == Q_IN_VIEW) {
		if (!p->sync.quorate && q->cur.by == QUORUM_BY_MAJORITY)
			q_round_restart(q);
		return;
	}
	evaluate(q);
}

/* ---- promise, proposal -------------------------------------------------------------------------------------------- */

static bool all_promised(const struct quorum *q)
{
	for (unsigned i = 0; i < q->nprocs; i++)
		if (!q->procs[i].banned && q->procs[i].promise != q->round)
			return false;
	return true;
}

/* A process that lived in a past which went on without it, or whose node has a younger process here. */
static bool refused(struct quorum *q, struct q_state *base, const struct q_proc *p)
{
	if (p->inc <= base->excluded[p->node])
		return true;
	if (p->sync.has_state && !q_member_find(base, p->node, p->inc))
		return true;
	for (unsigned i = 0; i < q->nprocs; i++)
		if (!q->procs[i].banned && q->procs[i].node == p->node && q->procs[i].inc > p->inc)
			return true;
	return false;
}

static void add_member(struct q_state *s, const struct q_proc *p)
{
	struct q_member m = {.pub = {.node = p->node, .incarnation = p->inc, .slot = UINT32_MAX, .port = p->sync.port},
			     .lease_ms = p->sync.lease_ms};
	unsigned at = 0;

	memcpy(m.pub.addr, p->sync.addr, sizeof(m.pub.addr));
	while (at < s->nmembers && s->members[at].pub.node < p->node)
		at++;
	if (at < s->nmembers && s->members[at].pub.node == p->node) { /* a member stays one */
		m.last_reqid = s->members[at].last_reqid;
		s->members[at] = m;
		return;
	}
	if (s->nmembers == QUORUM_MAX_NODES) {
		ts_err("quorum: node %u does not fit into a view of %u: left out", p->node, QUORUM_MAX_NODES);
		return;
	}
	memmove(&s->members[at + 1], &s->members[at], (s->nmembers - at) * sizeof(s->members[0]));
	s->members[at] = m;
	s->nmembers++;
}

/* A new history keeps the tiebreaker of the old one. */
static struct quorum_tie remembered(const struct quorum *q)
{
	struct quorum_tie t = {0};

	for (unsigned i = 0; i < q->nprocs; i++)
		if (!q->procs[i].banned && q->procs[i].sync.tie.version > t.version)
			t = q->procs[i].sync.tie;
	return t;
}

/* The state that follows base in this configuration. */
static void next_state(struct quorum *q, struct q_state *s)
{
	bool stay[QUORUM_MAX_NODES] = {false}, out[Q_PROCS] = {false};
	struct quorum_member gone[QUORUM_MAX_NODES];
	unsigned ngone = 0;

	if (!s->exists) {
		s->epochs = q->round << 32; /* above every epoch of a history that was forgotten */
		s->tie = remembered(q);
	}
	s->exists = true;
	for (unsigned i = 0; i < q->nprocs; i++)
		out[i] = q->procs[i].banned || refused(q, s, &q->procs[i]);
	for (unsigned m = 0; m < s->nmembers; m++)
		for (unsigned i = 0; i < q->nprocs; i++)
			stay[m] |= !out[i] && q->procs[i].node == s->members[m].pub.node &&
				   q->procs[i].inc == s->members[m].pub.incarnation;
	for (unsigned m = 0; m < s->nmembers; m++)
		if (!stay[m])
			gone[ngone++] = s->members[m].pub;
	for (unsigned i = 0; i < ngone; i++)
		q_state_exclude(s, gone[i].node, gone[i].incarnation);
	for (unsigned i = 0; i < q->nprocs; i++) {
		if (!q->procs[i].banned && out[i])
			q_state_exclude(s, q->procs[i].node, q->procs[i].inc);
	}
	for (unsigned i = 0; i < q->nprocs; i++)
		if (!out[i])
			add_member(s, &q->procs[i]);
}

static void send_state(struct quorum *q, enum quorum_by by)
{
	struct q_state *s = &q->scratch;
	struct ts_wr w = {.left = Q_MSG_MAX};
	uint8_t *buf;

	s->by = by;
	w.p = buf = ts_alloc(Q_MSG_MAX);
	if (!buf) { /* the round is stuck; the tick starts another */
		ts_err("quorum: out of memory for the state of view %lu", q->round);
		return;
	}
	q_hdr_write(q, &w, Q_M_STATE, q->round);
	q_state_write(&w, s, q->view_needed);
	TS_ASSERT(!w.bad);
	q_send(q, buf, w.used);
	ts_free(buf);
}

static void propose(struct quorum *q)
{
	struct q_state *s = &q->scratch;
	bool out = false;

	q->proposed = true;
	q_state_copy(s, &q->cur);
	next_state(q, s);
	if (s->nmembers >= q->view_needed) {
		send_state(q, q->round_by);
		return;
	}
	for (unsigned i = 0; i < q->nprocs; i++) { /* the dead must learn of it, or they would wait here for ever */
		if (q->procs[i].banned || !refused(q, &q->cur, &q->procs[i]))
			continue;
		q_send_evict(q, &q->procs[i], "it was excluded while it was away");
		out = true;
	}
	q->tie.again_ns = q_now(q) + Q_STUCK_NS;
	if (!out && q->round_by == QUORUM_BY_TIE)
		q_tie_bid(q);
}

/* The disk has accepted this round's number: so must all of this half. */
void q_round_won(struct quorum *q)
{
	q_state_copy(&q->scratch, &q->cur);
	next_state(q, &q->scratch);
	q->view_needed = q->scratch.nmembers;
	send_state(q, QUORUM_BY_TIE);
}

void q_on_promise(struct quorum *q, struct q_proc *p, struct q_msg *m)
{
	if (m->ring != q->ring || m->digest != q->digest || q->phase != Q_PROMISE || m->number != q->round ||
	    ts_rd_u64(&m->rd) != q->procs[q->source].node)
		return;
	p->promise = q->round;
	if (!q->proposed && q_is_self(q, &q->procs[q->source]) && all_promised(q))
		propose(q);
}

/* ---- state, acknowledgement --------------------------------------------------------------------------------------- */

void q_on_state(struct quorum *q, struct q_proc *p, struct q_msg *m)
{
	struct q_state *s = &q->scratch;
	uint32_t needed;

	if (m->ring != q->ring || m->digest != q->digest || q->phase != Q_PROMISE || m->number != q->round ||
	    p != &q->procs[q->source] || q->round != q->promised)
		return;
	if (!q_state_read(&m->rd, s, &needed)) {
		ts_err("quorum: state of view %lu from node %u cannot be read: ignored", m->number, p->node);
		return;
	}
	s->view = m->number;
	s->leader = p->node;
	if (s->excluded[q->a.self] >= q->a.incarnation || !q_member_find(s, q->a.self, q->a.incarnation)) {
		q_die(q, "the cluster went on without this incarnation");
		return;
	}
	q_lease_new_view(q, s);
	q_state_copy(&q->cur, s);
	q->view_needed = needed;
	q->phase = Q_IN_VIEW;
	q->phase_ns = q_now(q);
	for (unsigned i = 0; i < q->nprocs; i++) {
		struct q_proc *o = &q->procs[i];

		o->banned = o->banned || !q_member_find(&q->cur, o->node, o->inc);
		o->ack_idx = UINT64_MAX;
		o->rx_renew = o->my_acked = 0;
	}
	q_accepted(q);
	q_reqs_new_view(q);
}

void q_accepted(struct quorum *q)
{
	q->accepted = q->cur.view;
	q->accepted_idx = q->cur.idx;
	remember(q);
	q_send_ack(q);
}

unsigned q_needed_acks(const struct quorum *q)
{
	return TS_MIN(q->cur.nmembers, TS_MAX(q->cur.nmembers / 2 + 1, q->view_needed));
}

static void try_visible(struct quorum *q)
{
	unsigned acks = 0;

	if (q->vis_quorate && q->vis.view == q->cur.view && q->vis.idx == q->cur.idx)
		return;
	for (unsigned i = 0; i < q->nprocs; i++)
		acks += !q->procs[i].banned && q->procs[i].ack_idx != UINT64_MAX && q->procs[i].ack_idx >= q->cur.idx;
	if (acks < q_needed_acks(q) || !q_ring_agreed(q) || (!q->vq_quorate && q->cur.by == QUORUM_BY_MAJORITY))
		return;
	q_state_copy(&q->scratch, &q->vis);
	q_state_copy(&q->vis, &q->cur);
	q_emit(q, &q->scratch);
}

void q_on_ack(struct quorum *q, struct q_proc *p, struct q_msg *m)
{
	uint64_t idx = ts_rd_u64(&m->rd);

	if (m->rd.bad || q->phase != Q_IN_VIEW || m->number != q->cur.view)
		return;
	if (p->ack_idx == UINT64_MAX || idx > p->ack_idx)
		p->ack_idx = idx;
	try_visible(q);
}

/* Nothing is lost by the carrier, but a queue of ours may have been full: what is stuck is said again. */
void q_round_tick(struct quorum *q)
{
	uint64_t patience = Q_STUCK_NS;

	if (q->phase == Q_PROMISE && q->round_by == QUORUM_BY_TIE && q->proposed) { /* ours: the bid says when */
		if (!q_tie_again(q))
			return;
		patience = 0;
	} else if (q->phase == Q_PROMISE && q->round_by == QUORUM_BY_TIE) {
		patience = Q_TIE_STUCK_NS; /* somebody waits for the disk */
	}
	if (q_now(q) - q->phase_ns < patience)
		return;
	if (q->phase == Q_GATHER || q->phase == Q_PROMISE) {
		q->phase_ns = q_now(q);
		q_send_sync(q);
	} else if (q->phase == Q_IN_VIEW && (q->vis.view != q->cur.view || q->vis.idx != q->cur.idx)) {
		q->phase_ns = q_now(q);
		q_send_ack(q);
	}
}
