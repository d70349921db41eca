/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the core's side of the tiebreaker: when one half may bid, one bid after the other to the disk, and what its outcome does to
 * the round. Must never happen: a bid with a disk that this node has not seen agreed; a second write while one is under way; a bid's
 * outcome taken for that of another round. */
#include "quorum/quorum_int.h"

#define TIE_AGAIN_NS (150 * TS_NS_PER_MS) /* two that bid at once wait for up to this, at random */
#define TIE_RETRY_NS TS_NS_PER_S
#define TIE_LOST_NS  (5 * TS_NS_PER_S) /* what changes this is a new configuration, which begins a round by itself */
#define TIE_LIMIT_NS (10 * TS_NS_PER_S) /* a bid that the disk does not answer: who else is here may have come to something */

bool q_tie_none(const struct quorum_tie *t)
{
	static const uint8_t zeros[sizeof(t->uuid)];

	return !memcmp(t->uuid, zeros, sizeof(zeros));
}

/* One that is accepted and not known to be chosen may be unknown to the other half, which would bid elsewhere: then nobody bids. */
bool q_tie_usable(const struct quorum *q)
{
	return q->tie.have && q->vis.exists && !q_tie_none(&q->cur.tie) && !memcmp(&q->cur.tie, &q->vis.tie, sizeof(q->cur.tie)) &&
	       !memcmp(q->cur.tie.uuid, q->tie.uuid, sizeof(q->tie.uuid)) && q->a.self <= TIE_SLOTS;
}

void q_tie_known(struct quorum *q)
{
	if (!memcmp(&q->tie.known, &q->vis.tie, sizeof(q->tie.known)))
		return;
	q->tie.known = q->vis.tie;
	if (q->a.events.tie)
		q->a.events.tie(q->a.events.arg, &q->tie.known);
}

static void bid_end(struct quorum *q, enum quorum_bid bid, unsigned by, uint64_t seen, int rc)
{
	if (bid != q->tie.bid || by != q->tie.bid_by)
		switch (bid) {
		case QUORUM_BID_WON:
			ts_notice("quorum: the tiebreaker lets this half go on as view %lu", q->round);
			break;
		case QUORUM_BID_LOST:
			ts_warn("quorum: half of the nodes, and the tiebreaker says that node %u may have gone on without them (view %lu): waiting for it",
				by, seen);
			break;
		case QUORUM_BID_FAILED:
			if (by)
				ts_err("quorum: tiebreaker %s: the slot of node %u cannot be believed (%s): nobody goes on by it; make it again "
				       "with `tessera quorum tiebreaker set` when all nodes are there",
				       q->cur.tie.url, by, strerror(-rc));
			else
				ts_warn("quorum: half of the nodes, and the tiebreaker %s does not answer (%s): waiting", q->cur.tie.url,
					strerror(-rc));
			break;
		default:
			break;
		}
	q->tie.bid = bid;
	q->tie.bid_by = by;
	q->tie.bid_seen = seen;
	q->tie.bid_rc = rc;
	q->tie.bid_ns = q_now(q);
}

static void finish(struct quorum *q, const struct tie_step *s)
{
	const struct tie_machine *m = &q->tie.m;
	bool current = q->phase == Q_PROMISE && q->round_by == QUORUM_BY_TIE && q->round == m->number && !q->tie.wanted;

	if (!current)
		return; /* what it wrote stands, and outranks nothing that was agreed since */
	switch (s->result) {
	case TIE_WON:
		bid_end(q, QUORUM_BID_WON, 0, m->number, 0);
		q_round_won(q);
		break;
	case TIE_LOST:
		bid_end(q, QUORUM_BID_LOST, m->by, m->seen, 0);
		q->tie.again_ns = q_now(q) + TIE_LOST_NS;
		break;
	case TIE_HIGHER:
		bid_end(q, QUORUM_BID_HIGHER, m->by, m->seen, 0);
		q->promised = TS_MAX(q->promised, m->seen);
		q->tie.again_ns = q_now(q) + 1 + ts_random(ts_exec_env(q->exec)) % TIE_AGAIN_NS;
		break;
	default:
		bid_end(q, QUORUM_BID_FAILED, m->by, 0, m->rc);
		q->tie.again_ns = q_now(q) + TIE_RETRY_NS;
		break;
	}
}

static void step(struct quorum *q, const struct tie_step *s);

static void begin(struct quorum *q)
{
	uint64_t present[TIE_SLOTS + 1] = {0};
	struct tie_step s;

	q->tie.wanted = false;
	for (unsigned i = 0; i < q->nprocs; i++)
		if (!q->procs[i].banned && q->procs[i].node <= TIE_SLOTS)
			present[q->procs[i].node] = q->procs[i].inc;
	tie_begin(&q->tie.m, q->a.self, q->a.incarnation, q->tie.uuid, q->round, q->cur.view, present, &s);
	q->tie.bid_ns = q_now(q);
	step(q, &s);
}

static void step(struct quorum *q, const struct tie_step *s)
{
	int rc;

	if (s->result != TIE_RUNNING) {
		finish(q, s);
		return;
	}
	q->tie.busy = true;
	rc = q->tie.ops.io(q->tie.ops.arg, ++q->tie.ticket, s->write ? &s->slot : NULL);
	if (rc) {
		q->tie.busy = false;
		q->tie.m.by = 0;
		q->tie.m.rc = rc;
		finish(q, &(struct tie_step){.result = TIE_FAILED});
	}
}

bool q_tie_again(const struct quorum *q)
{
	return !q->tie.again_ns || q_now(q) >= q->tie.again_ns;
}

/* This node is the source of a round of one half, and all of that half have promised. */
void q_tie_bid(struct quorum *q)
{
	if (!q_tie_usable(q) || !q->cur.exists || (q->a.healthy && !q->a.healthy(q->a.events.arg))) { /* as without a tiebreaker: suspended until the others are back */
		q->tie.again_ns = q_now(q) + TIE_LOST_NS;
		return;
	}
	q->tie.again_ns = q_now(q) + TIE_LIMIT_NS;
	q->tie.wanted = true;
	if (!q->tie.busy)
		begin(q);
}

void quorum_core_tie_done(struct quorum *q, uint64_t ticket, int rc, const struct tie_slot_disk *slots)
{
	struct tie_step s;

	if (!q->tie.busy || ticket != q->tie.ticket)
		return; /* of a disk that is not ours any more */
	q->tie.busy = false;
	if (q->phase == Q_DEAD)
		return;
	if (q->tie.wanted) { /* the round has changed meanwhile: from the beginning, with what the disk says now */
		if (q->phase == Q_PROMISE && q->round_by == QUORUM_BY_TIE && q->proposed && q_tie_usable(q))
			begin(q);
		else
			q->tie.wanted = false;
		return;
	}
	tie_done(&q->tie.m, rc, slots, ts_wall_ns(ts_exec_env(q->exec)), &s);
	if (s.result == TIE_RUNNING && (q->phase != Q_PROMISE || q->round != q->tie.m.number))
		return; /* nobody waits for it any more */
	step(q, &s);
}

void quorum_core_tie(struct quorum *q, const struct quorum_tie_ops *ops, const uint8_t uuid[16])
{
	q->tie.have = ops != NULL;
	q->tie.busy = q->tie.wanted = false;
	q->tie.ticket++;
	q->tie.again_ns = TS_MIN(q->tie.again_ns, q_now(q) + 1);
	if (!ops)
		return;
	q->tie.ops = *ops;
	memcpy(q->tie.uuid, uuid, sizeof(q->tie.uuid));
}

static bool view_stands(const struct quorum *q)
{
	return q->phase == Q_IN_VIEW && q->vis_quorate && q->vis.view == q->cur.view;
}

/* ---- an operator's word ------------------------------------------------------------------------------------------------------ */

int quorum_force(struct quorum *q)
{
	if (q->phase == Q_DEAD)
		return -ESHUTDOWN;
	if (view_stands(q))
		return -EALREADY;
	if (!q_ring_agreed(q))
		return -EAGAIN;
	q->forced = true;
	q->promised += 1ULL << 20; /* above whatever the dead may have agreed on among themselves */
	q_round_restart(q);
	return 0;
}

void quorum_info_get(const struct quorum *q, struct quorum_info *out)
{
	*out = (struct quorum_info){.quorate = view_stands(q),
				    .by = q->vis.by,
				    .expected = q->expected,
				    .needed = q->needed,
				    .ring_quorate = q->vq_known && q->vq_quorate,
				    .agreed = q->vis.exists ? q->vis.tie : q->tie.known,
				    .tie_usable = q_tie_usable(q),
				    .bid = q->tie.busy ? QUORUM_BID_RUNNING : q->tie.bid,
				    .bid_by = q->tie.bid_by,
				    .bid_seen = q->tie.bid_seen,
				    .bid_rc = q->tie.bid_rc,
				    .bid_ns = q->tie.bid_ns};
	for (unsigned i = 0; i < q->nprocs; i++)
		out->daemons += !q->procs[i].banned;
	out->tie = q->expected && out->daemons * 2 == q->expected;
}
