/* SPDX-License-Identifier: Apache-2.0 */
/* A new group epoch: who owns which unit, who holds what, then go on. Restartable at any instant by a newer
 * epoch: all that was learnt under the old one (lock table, revokes, parked and kept messages, stamps) is
 * dropped first, except what this node itself holds, owns and wants.
 *
 *   view --> OWNING: OWN to all                 --OWN of all here-->   REPORTING: REPORT to each new master,
 * DONE to all, outstanding requests again
 *        --DONE of all here--> RUN: parked requests and releases, grants (if the gate is open)
 *
 * Must never happen: a master runs while one member's report is missing; a conflicting report is accepted
 * (panic). */
#include "dlm/dlm_int.h"

/* ---- forgetting the old epoch
 * ---------------------------------------------------------------------------------------*/

static int forget_mres(struct ts_map_node *n, void *arg)
{
	dlm_mres_free(arg, TS_CONTAINER(n, struct dlm_mres, node));
	return 0;
}
static int forget_unit(struct ts_map_node *n, void *arg)
{
	struct dlm *d = arg;
	struct dlm_unit *u = TS_CONTAINER(n, struct dlm_unit, node);
	u->mine = u->mine && !u->closing; /* closing: its token is given up already; the holders report to the
					     hash master */
	u->closing = false;
	u->owner = u->hint = 0;
	u->own_stamp = 0;
	u->hash = dlm_hash_master(d, (struct dlm_key){.kind = d->a.owner_kind, .id = u->id});
	dlm_unit_put(d, u);
	return 0;
}
static int forget_tags(struct ts_map_node *n, void *arg)
{
	struct dlm_res *r = TS_CONTAINER(n, struct dlm_res, node);
	struct ts_list *l;
	while ((l = ts_list_pop_front(&r->revokes)))
		ts_free(ts_list_entry(l, struct dlm_rin, link));
	for (uint32_t i = 0; i < r->held.n; i++)
		r->held.v[i].granter = 0, r->held.v[i].stamp = 0;
	return 0;
}

static void forget(struct dlm *d)
{
	struct ts_list *n;
	ts_map_each(&d->mres, forget_mres, d);
	ts_map_each(&d->units, forget_unit, d);
	ts_map_each(&d->res, forget_tags, d);
	while ((n = ts_list_pop_front(&d->outq)))
		ts_free(ts_list_entry(n, struct dlm_omsg, link));
	dlm_collected_drop(d);
	while ((n = ts_list_pop_front(&d->local)))
		dlm_qfree(d, ts_list_entry(n, struct dlm_qmsg, link));
	ts_list_for_safe(p, tmp, &d->parked)
	{
		struct dlm_qmsg *q = ts_list_entry(p, struct dlm_qmsg, link);
		if (q->m.epoch < d->epoch) {
			ts_list_del(p);
			dlm_qfree(d, q);
		}
	}
	ts_list_for(q, &d->reqs) ts_list_entry(q, struct dlm_req, all)->sent = false;
	memset(d->seen, 0, sizeof d->seen);
	memset(d->own_done, 0, sizeof d->own_done);
	memset(d->rep_done, 0, sizeof d->rep_done);
	memset(d->rep_got, 0, sizeof d->rep_got);
}

/* ---- batches to others
 * ----------------------------------------------------------------------------------------------*/

struct batch {
	struct dlm_batch_msg head;
	struct dlm_entry_msg ents[DLM_BATCH];
};
struct outgoing {
	struct dlm *d;
	struct batch *to[QUORUM_MAX_NODES]; /* by member index; phase 1 uses only [0], for all */
	uint32_t n[QUORUM_MAX_NODES];
	uint64_t sent[QUORUM_MAX_NODES];
};

static void send_batch(struct dlm *d, unsigned node, uint16_t type, struct batch *b, uint32_t n, bool last)
{
	b->head = (struct dlm_batch_msg){.version = le16_make(DLM_WIRE_VERSION),
					 .flags = last ? DLM_MF_LAST : 0,
					 .count = le32_make(n)};
	dlm_send_raw(d, node, type, b, sizeof b->head + n * sizeof b->ents[0]);
}

static void own_flush(struct outgoing *o, bool last)
{
	struct dlm *d = o->d;
	for (unsigned i = 0; i < d->nmembers; i++)
		if (d->members[i] != d->self)
			send_batch(d, d->members[i], DLM_OWN, o->to[0], o->n[0], last);
	o->n[0] = 0;
}

static int own_add(struct ts_map_node *n, void *arg)
{
	struct outgoing *o = arg;
	struct dlm_unit *u = TS_CONTAINER(n, struct dlm_unit, node);
	struct dlm_piece whole = {.end = DLM_END, .mode = DLM_EX, .node = o->d->self};
	if (!u->mine)
		return 0;
	if (u->hash == o->d->self)
		u->owner = o->d->self;
	if (o->n[0] == DLM_BATCH)
		own_flush(o, false);
	dlm_encode_entry(&o->to[0]->ents[o->n[0]++],
			 (struct dlm_key){.kind = o->d->a.owner_kind, .id = u->id}, &whole);
	return 0;
}

static void tell_owned(struct dlm *d)
{
	struct outgoing o = {.d = d};
	o.to[0] = dlm_xalloc(sizeof *o.to[0], "recovery");
	ts_map_each(&d->units, own_add, &o);
	own_flush(&o, true);
	ts_free(o.to[0]);
	d->own_done[d->self] = true;
}

/* Room for one more entry to the i-th member. */
static struct dlm_entry_msg *report_next(struct outgoing *o, unsigned i)
{
	if (!o->to[i])
		o->to[i] = dlm_xalloc(sizeof *o->to[i], "recovery");
	if (o->n[i] == DLM_BATCH) {
		send_batch(o->d, o->d->members[i], DLM_REPORT, o->to[i], o->n[i], false);
		o->n[i] = 0;
	}
	o->sent[i]++;
	return &o->to[i]->ents[o->n[i]++];
}

static int report_res(struct ts_map_node *n, void *arg)
{
	struct outgoing *o = arg;
	struct dlm *d = o->d;
	struct dlm_res *r = TS_CONTAINER(n, struct dlm_res, node);
	if (!r->held.n && !r->keep.set)
		return 0;
	unsigned i = 0, to = dlm_master(d, r->key);
	while (d->members[i] != to)
		i++;
	for (uint32_t k = 0; k < r->held.n; k++) {
		struct dlm_piece p = r->held.v[k];
		p.node = d->self;
		if (to == d->self)
			dlm_master_insert(d, r->key, &p);
		else
			dlm_encode_entry(report_next(o, i), r->key, &p);
	}
	if (r->keep.set && to == d->self)
		dlm_master_value(d, r->key, &r->keep);
	else if (r->keep.set)
		dlm_encode_value(report_next(o, i), r->key, &r->keep);
	return 0;
}

static void tell_held(struct dlm *d)
{
	struct outgoing *o = dlm_xalloc(sizeof *o, "recovery");
	o->d = d;
	ts_map_each(&d->res, report_res, o);
	for (unsigned i = 0; i < d->nmembers; i++) {
		if (o->n[i])
			send_batch(d, d->members[i], DLM_REPORT, o->to[i], o->n[i], true);
		struct dlm_msg done = {.type = DLM_DONE, .key.id = o->sent[i]};
		if (d->members[i] != d->self)
			dlm_send(d, d->members[i], &done);
		ts_free(o->to[i]);
	}
	ts_free(o);
	d->rep_done[d->self] = true;
}

/* ---- the phases
 * -----------------------------------------------------------------------------------------------------*/

static bool all(const struct dlm *d, const bool *done)
{
	for (unsigned i = 0; i < d->nmembers; i++)
		if (!done[d->members[i]])
			return false;
	return true;
}

static int pump_each(struct ts_map_node *n, void *arg)
{
	dlm_master_pump(arg, TS_CONTAINER(n, struct dlm_mres, node));
	return 0;
}
struct closing {
	struct dlm *d;
	struct dlm_unit *u;
};
static int find_closing(struct ts_map_node *n, void *arg)
{
	struct closing *c = arg;
	c->u = TS_CONTAINER(n, struct dlm_unit, node);
	return c->u->closing;
}

static void step(struct dlm *d)
{
	if (d->phase == DLM_OWNING && all(d, d->own_done)) {
		d->phase = DLM_REPORTING;
		tell_held(d);
		dlm_client_resend(d);
	}
	if (d->phase == DLM_REPORTING && all(d, d->rep_done)) {
		d->phase = DLM_RUN;
		struct closing c = {.d = d};
		while (ts_map_each(&d->units, find_closing, &c))
			dlm_unit_closed_check(d, c.u);
		dlm_unpark(d);
		d->a.ops.changed(d->a.ops.arg);
	}
}

void dlm_on_own(struct dlm *d, const struct dlm_msg *m)
{
	for (uint32_t i = 0; i < m->count; i++) {
		uint64_t id = le64_get(m->ents[i].id);
		struct dlm_unit *u = dlm_unit_get(d, id);
		if (!u)
			TS_PANIC("dlm: no memory for unit %llu", (unsigned long long)id);
		if (u->mine || (u->hint && u->hint != m->src))
			TS_PANIC("dlm: impossible state: nodes %u and %u both own unit %llu",
				 u->mine ? d->self : u->hint, m->src, (unsigned long long)id);
		u->hint = m->src;
		if (u->hash == d->self)
			u->owner = m->src;
	}
	if (m->flags & DLM_MF_LAST)
		d->own_done[m->src] = true;
	step(d);
}

void dlm_on_report(struct dlm *d, const struct dlm_msg *m)
{
	dlm_master_entries(d, m, true);
	d->rep_got[m->src] += m->count;
}

void dlm_on_done(struct dlm *d, const struct dlm_msg *m)
{
	if (d->rep_got[m->src] != m->key.id)
		TS_PANIC("dlm: node %u reported %llu tokens, %llu arrived", m->src,
			 (unsigned long long)m->key.id, (unsigned long long)d->rep_got[m->src]);
	d->rep_done[m->src] = true;
	step(d);
}

static void set_gate(struct dlm *d, const struct quorum_group_view *v)
{
	bool was = d->gate;
	d->gate = v->quorate && v->npending == 0;
	if (was == d->gate)
		return;
	if (dlm_granting(d))
		ts_map_each(&d->mres, pump_each, d);
	d->a.ops.changed(d->a.ops.arg);
}

void dlm_view(struct dlm *d, const struct quorum_group_view *v)
{
	if (v->epoch < d->epoch)
		return;
	dlm_enter(d);
	TS_ASSERT(d->depth == 1); /* never from inside a callback of its own */
	if (v->epoch == d->epoch && d->phase != DLM_OUT) {
		set_gate(d, v);
		dlm_leave(d);
		return;
	}
	d->epoch = v->epoch;
	d->nmembers = v->nmembers;
	for (unsigned i = 0; i < v->nmembers; i++) {
		TS_ASSERT(v->members[i].node > 0 && v->members[i].node < NET_MAX_NODES);
		d->members[i] = (uint16_t)v->members[i].node;
	}
	d->gate = v->quorate && v->npending == 0;
	d->st.view_changes++;
	forget(d);
	d->phase = dlm_is_member(d, d->self) ? DLM_OWNING : DLM_OUT;
	if (d->phase == DLM_OWNING) {
		tell_owned(d);
		step(d);
		dlm_unpark(d);
	}
	d->a.ops.changed(d->a.ops.arg);
	dlm_leave(d);
}
