/* SPDX-License-Identifier: Apache-2.0 */
/* Job: looking at the lock engine: numbers, every lock and waiter for diagnostics, the state as a row of
 * numbers for tests that must recognise it. Must never happen: looking changes anything. */
#include "dlm/plock_int.h"

void plock_stats_get(const struct plock *p, struct plock_stats *out)
{
	*out = p->st;
	out->locks = p->nlocks;
	out->inodes = p->res.count;
	out->mastered = p->mres.count;
}

struct walk {
	struct plock *p;
	void (*fn)(void *arg, const struct plock_info *i);
	void *arg;
};

static void walk_auth(struct walk *w, const struct plock_auth *a, struct plock_info *i)
{
	i->waiting = false;
	for (uint32_t k = 0; k < a->t.n; k++) {
		i->p = a->t.v[k];
		w->fn(w->arg, i);
	}
}

static int each_res(struct ts_map_node *n, void *arg)
{
	struct walk *w = arg;
	const struct plock_res *r = TS_CONTAINER(n, struct plock_res, a.node);
	struct plock_info i = {
		.ino = r->a.ino, .delegated = r->delegated, .master = plock_master(w->p, r->a.ino)};
	walk_auth(w, &r->a, &i);
	i.waiting = true;
	ts_list_for(l, &r->ops)
	{
		const struct plock_op *op = ts_list_entry(l, const struct plock_op, link);
		i.p = op->w.p;
		i.since_ns = op->w.since_ns;
		if (op->w.kind == PLOCK_RAISE)
			w->fn(w->arg, &i);
	}
	return 0;
}

static int each_mres(struct ts_map_node *n, void *arg)
{
	struct walk *w = arg;
	const struct plock_mres *r = TS_CONTAINER(n, struct plock_mres, a.node);
	struct plock_info i = {
		.ino = r->a.ino, .delegated = r->delegate != 0, .master = w->p->self, .mastered = true};
	walk_auth(w, &r->a, &i);
	i.waiting = true;
	ts_list_for(l, &r->a.waiters)
	{
		const struct plock_want *x = ts_list_entry(l, const struct plock_want, link);
		i.p = x->p;
		i.since_ns = x->since_ns;
		w->fn(w->arg, &i);
	}
	return 0;
}

void plock_each(struct plock *p, void (*fn)(void *arg, const struct plock_info *i), void *arg)
{
	struct walk w = {.p = p, .fn = fn, .arg = arg};
	ts_map_each(&p->res, each_res, &w);
	ts_map_each(&p->mres, each_mres, &w);
}

/* ---- state as numbers ---- */

struct dump {
	plock_dump_fn fn;
	void *arg;
};
static void piece(struct dump *o, const struct plock_piece *q)
{
	o->fn(o->arg, (uint64_t)q->node << 48 | (uint64_t)q->type << 40 | (uint64_t)q->space << 32 | q->pid);
	o->fn(o->arg, q->owner);
	o->fn(o->arg, q->start);
	o->fn(o->arg, q->end);
}
static void want(struct dump *o, const struct plock_want *w)
{
	piece(o, &w->p);
	o->fn(o->arg, w->op << 16 | (uint64_t)w->kind << 8 | w->flags);
	o->fn(o->arg, (uint64_t)w->probe_node << 32 | w->probe_op);
}
static void auth(struct dump *o, const struct plock_auth *a)
{
	o->fn(o->arg, a->t.n);
	for (uint32_t i = 0; i < a->t.n; i++)
		piece(o, &a->t.v[i]);
	ts_list_for(l, &a->waiters) want(o, ts_list_entry(l, const struct plock_want, link));
}

static int dump_res(struct ts_map_node *n, void *arg)
{
	struct dump *o = arg;
	const struct plock_res *r = TS_CONTAINER(n, struct plock_res, a.node);
	o->fn(o->arg, r->a.ino << 1 | r->delegated);
	auth(o, &r->a);
	ts_list_for(l, &r->ops)
	{
		const struct plock_op *op = ts_list_entry(l, const struct plock_op, link);
		want(o, &op->w);
		o->fn(o->arg, op->cancelled);
	}
	return 0;
}

static int dump_mres(struct ts_map_node *n, void *arg)
{
	struct dump *o = arg;
	const struct plock_mres *r = TS_CONTAINER(n, struct plock_mres, a.node);
	o->fn(o->arg, r->a.ino << 20 | (uint64_t)r->delegate << 12 | r->last << 4 |
			      (unsigned)r->recalling << 1 | r->contended);
	o->fn(o->arg, r->streak);
	auth(o, &r->a);
	ts_list_for(l, &r->pend)
		plock_dump_msg(&ts_list_entry(l, const struct plock_qmsg, link)->m, o->fn, o->arg);
	return 0;
}

void plock_dump_msg(const struct plock_m *m, plock_dump_fn fn, void *arg)
{
	struct dump o = {fn, arg};
	fn(arg, (uint64_t)m->src << 48 | (uint64_t)m->type << 32 | (uint64_t)m->kind << 24 |
			(uint64_t)m->flags << 16 | (uint64_t)(-m->result & 0xffff));
	fn(arg, m->epoch);
	fn(arg, m->ino);
	fn(arg, m->op);
	piece(&o, &m->p);
	fn(arg, (uint64_t)m->pos << 32 | m->count);
	for (uint32_t i = 0; i < m->count; i++)
		fn(arg, ts_csum64(&m->ents[i], sizeof m->ents[i], 0));
}

void plock_dump(struct plock *p, plock_dump_fn fn, void *arg)
{
	struct dump o = {fn, arg};
	fn(arg, p->epoch << 8 | (unsigned)p->phase << 1 | p->gate);
	for (unsigned i = 0; i < p->nmembers; i++)
		fn(arg, (uint64_t)p->members[i] << 40 | p->rep_got[p->members[i]] << 1 |
				p->rep_done[p->members[i]]);
	ts_map_each(&p->res, dump_res, &o);
	ts_map_each(&p->mres, dump_mres, &o);
	ts_list_for(l, &p->parked)
		plock_dump_msg(&ts_list_entry(l, const struct plock_qmsg, link)->m, fn, arg);
}
