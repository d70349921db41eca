/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a new epoch of the group. What was decided elsewhere under the old one is forgotten; every node tells
 * the new masters what its own processes hold, asks again for what they wait for, and nobody is given
 * anything before every member has told. Locks of a dead node are in nobody's report; they are free when its
 * recovery is complete (the gate). Must never happen: a report is lost (counted), an answer of an older epoch
 * counts (dropped). */
#include "dlm/plock_int.h"

static void forget(struct plock *p)
{
	struct ts_list *n;
	ts_map_each(&p->mres, plock_mres_free, p);
	plock_res_forget_epoch(p);
	while ((n = ts_list_pop_front(&p->outq)))
		ts_free(ts_list_entry(n, struct plock_omsg, link));
	while ((n = ts_list_pop_front(&p->local)))
		ts_free(ts_list_entry(n, struct plock_qmsg, link));
	ts_list_for_safe(l, tmp, &p->parked)
	{
		struct plock_qmsg *q = ts_list_entry(l, struct plock_qmsg, link);
		if (q->m.epoch < p->epoch) {
			ts_list_del(l);
			ts_free(q);
		}
	}
	memset(p->rep_done, 0, sizeof p->rep_done);
	memset(p->rep_got, 0, sizeof p->rep_got);
}

struct outgoing {
	struct plock *p;
	struct plock_entry_msg *to[QUORUM_MAX_NODES]; /* by member index */
	uint32_t n[QUORUM_MAX_NODES];
	uint64_t sent[QUORUM_MAX_NODES];
};

static void flush(struct outgoing *o, unsigned i)
{
	struct plock_m m = {.type = PLOCK_REPORT, .count = o->n[i], .ents = o->to[i]};
	if (o->n[i])
		plock_send(o->p, o->p->members[i], &m);
	o->n[i] = 0;
}

static int report(struct ts_map_node *n, void *arg)
{
	struct outgoing *o = arg;
	struct plock *p = o->p;
	const struct plock_res *r = TS_CONTAINER(n, struct plock_res, a.node);
	unsigned i = 0, to = plock_master(p, r->a.ino);
	while (p->members[i] != to)
		i++;
	for (uint32_t k = 0; k < r->a.t.n; k++) {
		struct plock_piece piece = r->a.t.v[k];
		piece.handle = 0;
		o->sent[i]++;
		if (to == p->self) {
			plock_master_insert(p, r->a.ino, &piece);
			continue;
		}
		if (!o->to[i])
			o->to[i] = plock_xalloc(PLOCK_BATCH * sizeof *o->to[i], "recovery");
		plock_encode_lock(&o->to[i][o->n[i]++], r->a.ino, &piece);
		if (o->n[i] == PLOCK_BATCH)
			flush(o, i);
	}
	return 0;
}

static void tell(struct plock *p)
{
	struct outgoing *o = plock_xalloc(sizeof *o, "recovery");
	o->p = p;
	ts_map_each(&p->res, report, o);
	for (unsigned i = 0; i < p->nmembers; i++) {
		struct plock_m m = {.type = PLOCK_REPORTED, .op = o->sent[i]};
		flush(o, i);
		if (p->members[i] != p->self)
			plock_send(p, p->members[i], &m);
		ts_free(o->to[i]);
	}
	ts_free(o);
	p->rep_done[p->self] = true;
}

static void step(struct plock *p)
{
	for (unsigned i = 0; i < p->nmembers; i++)
		if (!p->rep_done[p->members[i]])
			return;
	if (p->phase != PLOCK_REPORTING)
		return;
	p->phase = PLOCK_RUN;
	plock_unpark(p);
}

void plock_on_report(struct plock *p, const struct plock_m *m)
{
	for (uint32_t i = 0; i < m->count; i++) {
		struct plock_piece piece;
		uint64_t ino;
		TS_ASSERT(plock_decode_lock(&m->ents[i], &ino, &piece)); /* plock_decode() has looked */
		piece.node = (uint16_t)m->src;
		plock_master_insert(p, ino, &piece);
	}
	p->rep_got[m->src] += m->count;
}

void plock_on_reported(struct plock *p, const struct plock_m *m)
{
	if (p->rep_got[m->src] != m->op)
		TS_PANIC("locks: node %u reported %llu locks, %llu arrived", m->src,
			 (unsigned long long)m->op, (unsigned long long)p->rep_got[m->src]);
	p->rep_done[m->src] = true;
	step(p);
}

static void gate_set(struct plock *p, const struct quorum_group_view *v)
{
	bool was = p->gate;
	p->gate = v->quorate && v->npending == 0;
	if (!was && plock_granting(p))
		plock_master_open(p);
}

void plock_view(struct plock *p, const struct quorum_group_view *v)
{
	if (v->epoch < p->epoch)
		return;
	plock_enter(p);
	TS_ASSERT(p->depth == 1); /* never from inside done() */
	if (v->epoch == p->epoch && p->phase != PLOCK_OUT) {
		gate_set(p, v);
		plock_leave(p);
		return;
	}
	p->epoch = v->epoch;
	p->nmembers = v->nmembers;
	for (unsigned i = 0; i < v->nmembers; i++) {
		TS_ASSERT(v->members[i].node > 0 && v->members[i].node < NET_MAX_NODES);
		p->members[i] = (uint16_t)v->members[i].node;
	}
	p->gate = v->quorate && v->npending == 0;
	forget(p);
	p->phase = plock_is_member(p, p->self) ? PLOCK_REPORTING : PLOCK_OUT;
	if (p->phase == PLOCK_REPORTING) {
		tell(p);
		plock_res_resend(p);
		step(p);
		plock_unpark(p);
	}
	plock_leave(p);
}
