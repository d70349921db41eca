/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the lease of this node, and what is known about the leases of others. A renewal counts from the moment it was
 * sent, and only once a majority of the view has said that it received it: whoever takes over later has heard of it.
 * Must never happen: lease_until later than a survivor's quorum_dead_lease_end_ns(). */
#include "quorum/quorum_int.h"

#include <stdio.h>

static uint64_t ms(uint64_t n)
{
	return n * TS_NS_PER_MS;
}

bool quorum_may_write(const struct quorum *q)
{
	return atomic_load(&q->gate) && q_now(q) < atomic_load(&q->lease_until);
}

uint64_t quorum_lease_until_ns(const struct quorum *q)
{
	return atomic_load(&q->lease_until);
}

void q_suspend_eval(struct quorum *q)
{
	uint64_t soft = q->lease_base + ms(q->a.times.lease_ms) / 4 * 3;
	bool want = q->phase == Q_DEAD || !atomic_load(&q->gate) || !q->lease_base || q_now(q) >= soft;

	if (want == q->suspended)
		return;
	q->suspended = want;
	if (q->a.events.suspended)
		q->a.events.suspended(q->a.events.arg, want);
}

void q_heard(struct quorum *q, unsigned node, uint64_t inc, uint64_t ns)
{
	if (q->heard[node].inc > inc)
		return;
	if (q->heard[node].inc < inc)
		q->heard[node].ns = 0;
	q->heard[node].inc = inc;
	q->heard[node].ns = TS_MAX(q->heard[node].ns, ns);
}

/* ---- renewing ------------------------------------------------------------------------------------------------------ */

static void renew_due(void *arg);

static bool urgent(const struct quorum *q)
{
	return q_now(q) + ms(q->a.times.lease_ms) / 2 > atomic_load(&q->lease_until);
}

static void put_acks(struct quorum *q, struct ts_wr *w)
{
	for (unsigned i = 0; i < q->nprocs; i++) {
		const struct q_proc *p = &q->procs[i];

		if (p->banned || !p->rx_renew)
			continue;
		ts_wr_u32(w, p->node);
		ts_wr_u64(w, p->rx_renew);
	}
}

/* Not full: acknowledges only. So does a node that is not healthy: the others' leases must not suffer from its disks. */
static void send_renew(struct quorum *q, bool full)
{
	uint8_t buf[2048];
	struct ts_wr w = {.p = buf, .left = sizeof(buf)};
	bool mine = full && (!q->a.healthy || q->a.healthy(q->a.events.arg));
	struct quorum_renew_msg m = {0};
	unsigned n = 0;

	if (full)
		q->renew_ns = q_now(q);
	q->ack_due_ns = 0;
	for (unsigned i = 0; i < q->nprocs; i++)
		n += !q->procs[i].banned && q->procs[i].rx_renew;
	if (mine) {
		q->renew_seq++;
		q->sent_ns[q->renew_seq % Q_SENT] = q_now(q);
	}
	m.seq = le64_make(q->renew_seq);
	m.flags = le16_make((uint16_t)((mine ? 0 : Q_F_NOT_MINE) | (mine && urgent(q) ? Q_F_URGENT : 0)));
	m.nacks = le16_make((uint16_t)n);
	q_hdr_write(q, &w, Q_M_RENEW, q->phase == Q_IN_VIEW ? q->cur.view : 0);
	ts_wr_bytes(&w, &m, sizeof(m));
	put_acks(q, &w);
	TS_ASSERT(!w.bad);
	if (q->noutbox < 64)
		q_send(q, buf, w.used);
}

static void renew_arm(struct quorum *q)
{
	uint64_t due = q->renew_ns + ms(q->a.times.renew_ms);

	if (q->ack_due_ns)
		due = TS_MIN(due, q->ack_due_ns);
	ts_timer_arm(q->exec, &q->renew_timer, TS_MAX(due, q_now(q)), renew_due, q);
}

static void renew_due(void *arg)
{
	struct quorum *q = arg;

	send_renew(q, q_now(q) >= q->renew_ns + ms(q->a.times.renew_ms));
	renew_arm(q);
}

static void ack_soon(struct quorum *q, uint64_t delay)
{
	uint64_t due = q_now(q) + delay;

	if (q->ack_due_ns && q->ack_due_ns <= due)
		return;
	q->ack_due_ns = due;
	renew_arm(q);
}

/* The newest renewal of ours that enough members have received, and when it was sent. */
static void lease_eval(struct quorum *q)
{
	uint64_t acked[Q_PROCS], seq;
	unsigned n = 0, need = q_needed_acks(q);

	for (unsigned i = 0; i < q->nprocs; i++) {
		uint64_t v = q->procs[i].banned ? 0 : q->procs[i].my_acked;
		unsigned at = n++;

		for (; at && acked[at - 1] < v; at--)
			acked[at] = acked[at - 1];
		acked[at] = v;
	}
	if (!need || n < need)
		return;
	seq = acked[need - 1];
	if (!seq || seq > q->renew_seq || q->renew_seq - seq >= Q_SENT)
		return;
	q->lease_base = TS_MAX(q->lease_base, q->sent_ns[seq % Q_SENT]);
	atomic_store(&q->lease_until, q->lease_base + ms(q->a.times.lease_ms));
	q_suspend_eval(q);
}

void q_on_renew(struct quorum *q, struct q_proc *p, struct q_msg *m)
{
	const struct quorum_renew_msg *r = ts_rd_bytes(&m->rd, sizeof(*r));
	uint64_t now = q_now(q), seq, mine = 0;

	if (!r || p->node >= Q_NODE_IDS)
		return;
	seq = le64_get(r->seq);
	if (!(le16_get(r->flags) & Q_F_NOT_MINE)) {
		p->life_ns = now;
		q_heard(q, p->node, p->inc, now);
	}
	for (unsigned n = le16_get(r->nacks); n && !m->rd.bad; n--) {
		uint32_t node = ts_rd_u32(&m->rd);
		uint64_t s = ts_rd_u64(&m->rd);

		if (node == q->a.self && !m->rd.bad)
			mine = s;
	}
	if (q->phase != Q_IN_VIEW || m->number != q->cur.view)
		return;
	if (!(le16_get(r->flags) & Q_F_NOT_MINE))
		p->rx_renew = TS_MAX(p->rx_renew, seq);
	if (q_is_self(q, p))
		mine = seq;
	p->my_acked = TS_MAX(p->my_acked, TS_MIN(mine, q->renew_seq));
	lease_eval(q);
	if (!(le16_get(r->flags) & Q_F_NOT_MINE) && !q_is_self(q, p))
		ack_soon(q, le16_get(r->flags) & Q_F_URGENT ? Q_URGENT_NS : Q_ACK_NS);
}

/* ---- the others ---------------------------------------------------------------------------------------------------- */

static uint64_t silence_allowed(const struct quorum *q, uint32_t lease_ms)
{
	return ms((uint64_t)TS_MAX(q->a.times.lease_ms, lease_ms) + q->a.times.margin_ms);
}

void q_send_evict(struct quorum *q, struct q_proc *p, const char *why)
{
	uint8_t buf[256];
	struct ts_wr w = {.p = buf, .left = sizeof(buf)};
	struct quorum_evict_msg e = {.node = le32_make(p->node), .pid = le32_make(p->pid), .inc = le64_make(p->inc)};

	p->evict_ns = q_now(q);
	snprintf(e.why, sizeof(e.why), "%s", why);
	q_hdr_write(q, &w, Q_M_EVICT, 0);
	ts_wr_bytes(&w, &e, sizeof(e));
	TS_ASSERT(!w.bad);
	q_send(q, buf, w.used);
}

/* Ordered, so every process of the configuration stops waiting for the victim at the same point and starts over. */
void q_on_evict(struct quorum *q, struct q_proc *p, struct q_msg *m)
{
	const struct quorum_evict_msg *e = ts_rd_bytes(&m->rd, sizeof(*e));
	struct q_proc *v;
	char why[65];

	if (!e || m->ring != q->ring || m->digest != q->digest)
		return;
	v = q_proc_find(q, le32_get(e->node), le32_get(e->pid));
	if (!v || v->banned)
		return;
	memcpy(why, e->why, sizeof(e->why));
	why[64] = 0;
	if (q_is_self(q, v)) {
		q_die(q, why);
		return;
	}
	ts_warn("quorum: node %u incarnation %#lx is evicted on behalf of node %u: %s", v->node, v->inc, p->node, why);
	v->banned = true;
	q_round_restart(q);
}

static void evict_silent(struct quorum *q)
{
	uint64_t now = q_now(q);
	bool first = true; /* nobody that is alive has a lower id */

	if (!q_ring_agreed(q) || !q->vq_quorate)
		return;
	for (unsigned i = 0; i < q->nprocs && first; i++) {
		struct q_proc *p = &q->procs[i];

		if (p->banned || now - p->life_ns > silence_allowed(q, p->sync.lease_ms))
			continue;
		first = q_is_self(q, p);
		break;
	}
	for (unsigned i = 0; i < q->nprocs && first; i++) {
		struct q_proc *p = &q->procs[i];

		if (p->banned || q_is_self(q, p) || now - p->life_ns <= silence_allowed(q, p->sync.lease_ms) ||
		    now - p->evict_ns < Q_STUCK_NS)
			continue;
		q_send_evict(q, p, "it has not renewed its lease");
	}
}

void q_lease_tick(struct quorum *q)
{
	uint64_t now = q_now(q), gap = now - q->tick_ns;

	q->tick_ns = now;
	if (!q->renew_timer.exec)
		renew_arm(q);
	q_suspend_eval(q);
	if (gap > 2 * ms(q->a.times.renew_ms)) { /* we slept, not they: what they sent is still in our queues */
		for (unsigned i = 0; i < q->nprocs; i++)
			q->procs[i].life_ns = now;
		return;
	}
	evict_silent(q);
}

/* ---- the departed -------------------------------------------------------------------------------------------------- */

static void departed(struct quorum *q, const struct q_member *m)
{
	unsigned node = m->pub.node;
	uint64_t now = q_now(q);
	uint64_t last = q->heard[node].inc == m->pub.incarnation ? q->heard[node].ns : now;
	struct q_past *p = &q->past[q->npast++ % Q_PAST];

	*p = (struct q_past){node, m->pub.incarnation, last + silence_allowed(q, m->lease_ms)};
	if (q->exited[node] == m->pub.incarnation)
		p->end_ns = 0;
}

/* next becomes the state of the view: before it does, remember who goes. */
void q_lease_new_view(struct quorum *q, const struct q_state *next)
{
	for (unsigned i = 0; i < q->cur.nmembers; i++)
		if (!q_member_find((struct q_state *)next, q->cur.members[i].pub.node, q->cur.members[i].pub.incarnation))
			departed(q, &q->cur.members[i]);
	q->renew_ns = 0; /* at once: the view is new, and so are its acknowledgements */
	renew_arm(q);
}

uint64_t quorum_dead_lease_end_ns(const struct quorum *q, unsigned node, uint64_t incarnation)
{
	uint64_t now = q_now(q), end = q->first_view_ns + silence_allowed(q, 0);

	if (node < Q_NODE_IDS && q->exited[node] == incarnation)
		return 0;
	if (!q->first_view_ns)
		return now + silence_allowed(q, 0);
	for (unsigned i = 0; i < TS_MIN(q->npast, (unsigned)Q_PAST); i++)
		if (q->past[i].node == node && q->past[i].inc == incarnation)
			return q->past[i].end_ns > now ? q->past[i].end_ns : 0;
	if (q_member_find((struct q_state *)&q->cur, node, incarnation))
		return now + silence_allowed(q, 0); /* not departed */
	/* Departed before we knew the cluster: any lease it had ends within one lease of our first view. */
	return end > now ? end : 0;
}
