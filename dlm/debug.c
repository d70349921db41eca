/* SPDX-License-Identifier: Apache-2.0 */
/* Looking inside: every held token and mastered resource for diagnostics, and the whole state as typed
 * numbers for the model test, which must recognise a state it has been in. Must never happen: looking changes
 * anything. */
#include "dlm/dlm_int.h"

struct walk {
	struct dlm *d;
	void (*fn)(void *arg, const struct dlm_info *i);
	void *arg;
};

static int each_res(struct ts_map_node *n, void *arg)
{
	const struct walk *w = arg;
	const struct dlm_res *r = TS_CONTAINER(n, struct dlm_res, node);
	for (uint32_t i = 0; i < r->held.n; i++) {
		struct dlm_info inf = {
			.key = r->key, .piece = r->held.v[i], .revoking = !ts_list_empty(&r->revokes)};
		inf.piece.node = w->d->self;
		w->fn(w->arg, &inf);
	}
	return 0;
}

static bool being_revoked(const struct dlm_mres *r, const struct dlm_piece *p, uint64_t *since)
{
	ts_list_for(n, &r->revokes)
	{
		const struct dlm_rout *o = ts_list_entry(n, const struct dlm_rout, link);
		*since = o->since_ns;
		if (o->node == p->node && dlm_overlap(o->start, o->end, p->start, p->end))
			return true;
	}
	return false;
}

static int each_mres(struct ts_map_node *n, void *arg)
{
	const struct walk *w = arg;
	const struct dlm_mres *r = TS_CONTAINER(n, struct dlm_mres, node);
	for (uint32_t i = 0; i < r->granted.n; i++) {
		struct dlm_info inf = {.key = r->key, .piece = r->granted.v[i], .mastered = true};
		inf.revoking = being_revoked(r, &inf.piece, &inf.since_ns);
		w->fn(w->arg, &inf);
	}
	ts_list_for(l, &r->waiters)
	{
		const struct dlm_waiter *q = ts_list_entry(l, const struct dlm_waiter, link);
		struct dlm_info inf = {
			.key = r->key,
			.piece = {.start = q->start, .end = q->end, .node = q->node, .mode = q->mode},
			.mastered = true,
			.waiting = true,
			.since_ns = q->since_ns};
		w->fn(w->arg, &inf);
	}
	return 0;
}

void dlm_each(struct dlm *d, void (*fn)(void *arg, const struct dlm_info *i), void *arg)
{
	struct walk w = {.d = d, .fn = fn, .arg = arg};
	ts_map_each(&d->res, each_res, &w);
	ts_map_each(&d->mres, each_mres, &w);
}

/* ---- state as numbers
 * -----------------------------------------------------------------------------------------------*/

struct dump {
	struct dlm *d;
	dlm_dump_fn fn;
	void *arg;
};
static void plain(struct dump *o, uint64_t v)
{
	o->fn(o->arg, DLM_V_PLAIN, v);
}

static void dump_set(struct dump *o, const struct dlm_rset *s)
{
	plain(o, s->n);
	for (uint32_t i = 0; i < s->n; i++) {
		plain(o, s->v[i].start);
		plain(o, s->v[i].end);
		plain(o, (uint64_t)s->v[i].node << 32 | (uint64_t)s->v[i].granter << 8 | s->v[i].mode);
		o->fn(o->arg, DLM_V_STAMP, s->v[i].stamp);
	}
}

static int dump_res(struct ts_map_node *n, void *arg)
{
	struct dump *o = arg;
	const struct dlm_res *r = TS_CONTAINER(n, struct dlm_res, node);
	plain(o, r->key.id << 8 | r->key.kind);
	dump_set(o, &r->held);
	plain(o, r->keep.set ? r->keep.high + 1 : 0);
	plain(o, r->got.set ? r->got.high + 1 : 0);
	ts_list_for(l, &r->revokes)
	{
		const struct dlm_rin *v = ts_list_entry(l, const struct dlm_rin, link);
		o->fn(o->arg, DLM_V_ID, v->id);
		plain(o, v->start);
		plain(o, v->end);
		plain(o, (uint64_t)v->src << 32 | (uint64_t)v->granter << 8 | v->to);
	}
	plain(o, 0x72);
	return 0;
}

static int dump_mres(struct ts_map_node *n, void *arg)
{
	struct dump *o = arg;
	const struct dlm_mres *r = TS_CONTAINER(n, struct dlm_mres, node);
	plain(o, r->key.id << 8 | r->key.kind);
	dump_set(o, &r->granted);
	plain(o, r->value.set ? r->value.high + 1 : 0);
	ts_list_for(l, &r->waiters)
	{
		const struct dlm_waiter *w = ts_list_entry(l, const struct dlm_waiter, link);
		plain(o, (uint64_t)w->ahead << 33 | (uint64_t)w->asked << 32 | (uint64_t)w->node << 8 | w->mode);
		plain(o, w->start);
		plain(o, w->end);
		plain(o, w->req);
	}
	plain(o, 0x6d);
	ts_list_for(l, &r->revokes)
	{
		const struct dlm_rout *v = ts_list_entry(l, const struct dlm_rout, link);
		o->fn(o->arg, DLM_V_ID, v->id);
		plain(o, v->start);
		plain(o, v->end);
		plain(o, (uint64_t)v->node << 8 | v->to);
	}
	return 0;
}

static int dump_unit(struct ts_map_node *n, void *arg)
{
	struct dump *o = arg;
	const struct dlm_unit *u = TS_CONTAINER(n, struct dlm_unit, node);
	plain(o, u->id);
	plain(o, (uint64_t)u->owner << 32 | u->hint << 16 | (unsigned)u->mine << 1 | u->closing);
	o->fn(o->arg, DLM_V_STAMP, u->own_stamp);
	return 0;
}

void dlm_dump_msg(const struct dlm_msg *m, dlm_dump_fn fn, void *arg)
{
	const uint64_t v[] = {(uint64_t)m->src << 32 | m->type,
			      m->epoch,
			      m->key.id << 8 | m->key.kind,
			      m->start,
			      m->end,
			      m->dstart,
			      m->dend,
			      (uint64_t)m->node << 32 | m->granter,
			      m->value.set ? m->value.high + 1 : 0,
			      (uint64_t)m->mode << 32 | (uint64_t)m->flags << 16 | m->hops};
	for (size_t i = 0; i < TS_ARRAY_LEN(v); i++)
		fn(arg, DLM_V_PLAIN, v[i]);
	fn(arg, DLM_V_STAMP, m->stamp);
	fn(arg, DLM_V_STAMP, m->seen);
	fn(arg, DLM_V_ID, m->revoke);
	fn(arg, DLM_V_PLAIN, m->req);
	for (uint32_t i = 0; m->ents && i < m->count; i++) {
		struct dlm_key k;
		struct dlm_piece p;
		dlm_decode_entry(&m->ents[i], &k, &p);
		fn(arg, DLM_V_PLAIN, k.id << 8 | k.kind);
		fn(arg, DLM_V_PLAIN, p.start);
		fn(arg, DLM_V_PLAIN, p.end);
		fn(arg, DLM_V_PLAIN, (uint64_t)p.node << 32 | (uint64_t)p.granter << 8 | p.mode);
		fn(arg, DLM_V_STAMP, p.stamp);
	}
}

void dlm_dump(struct dlm *d, dlm_dump_fn fn, void *arg)
{
	struct dump o = {.d = d, .fn = fn, .arg = arg};
	plain(&o, d->epoch << 8 | (unsigned)d->phase << 1 | d->gate);
	for (unsigned i = 0; i < d->nmembers; i++) {
		unsigned n = d->members[i];
		plain(&o, (uint64_t)n << 2 | d->own_done[n] << 1 | d->rep_done[n]);
		fn(arg, DLM_V_STAMP, d->seen[n]);
		plain(&o, d->rep_got[n]);
	}
	ts_map_each(&d->res, dump_res, &o);
	ts_map_each(&d->mres, dump_mres, &o);
	ts_map_each(&d->units, dump_unit, &o);
	ts_list_for(n, &d->reqs)
	{
		const struct dlm_req *q = ts_list_entry(n, const struct dlm_req, all);
		plain(&o, q->res->key.id << 8 | q->res->key.kind);
		plain(&o, q->start);
		plain(&o, q->end);
		plain(&o, (uint64_t)q->moved_by << 16 | q->mode << 8 | q->sent);
		plain(&o, q->id);
	}
	ts_list_for(n, &d->parked) dlm_dump_msg(&ts_list_entry(n, const struct dlm_qmsg, link)->m, fn, arg);
}
