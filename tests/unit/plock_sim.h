/* SPDX-License-Identifier: Apache-2.0 */
/* Several lock engines in one process, joined by queues that are FIFO per (sender, receiver, lane). Every
 * event is chosen by the test. The law, looked at after each: no two owners hold conflicting locks (what a
 * dead node held counts until its recovery is complete), an operation ends once, what a grant promised is
 * held, EDEADLK only to a member of a cycle that is there. Faults can be planted (struct psim.fault), and
 * each test shows that they are seen. */
#ifndef TESTS_PLOCK_SIM_H
#define TESTS_PLOCK_SIM_H

#include "dlm/plock_int.h"
#include <stdio.h>

#define PSIM_NODES 4
#define PSIM_PROCS 3
#define PSIM_SLOTS 2 /* threads of a process */
#define PSIM_VIEWS 2048

enum psim_fault {
	PSIM_NO_FAULT,
	PSIM_LOST_WAITERS, /* a recall forgets who waits */
	PSIM_LOST_LOCKS,   /* a recall forgets what is held */
	PSIM_OLD_GRANT,	   /* an answer of an old epoch counts */
	PSIM_EARLY_GATE,   /* locks of the dead are given before their recovery is complete */
	PSIM_ONE_WALK,	   /* a cycle is not confirmed */
	PSIM_KEPT_WAITER,  /* a cancel is answered, and the waiter stays */
	PSIM_FAULTS
};
struct psim_msg {
	struct ts_list link;
	uint16_t type;
	uint64_t epoch;
	uint32_t len;
	uint8_t bytes[];
};
struct psim_op {
	struct plock_op op;
	struct psim_proc *proc;
	bool busy;
	bool was_in_cycle; /* since it was submitted */
};
struct psim_proc {
	struct psim_node *node;
	unsigned id;
	struct psim_op slot[PSIM_SLOTS];
};
struct psim_node {
	struct psim *s;
	unsigned id;
	struct plock *p;
	bool alive;
	unsigned view;
	struct psim_proc proc[PSIM_PROCS];
};
struct psim {
	unsigned n, nprocs;
	struct psim_node node[PSIM_NODES + 1];
	struct ts_list q[PSIM_NODES + 1][PSIM_NODES + 1][NET_LANES];
	struct quorum_group_view *views[PSIM_VIEWS];
	unsigned nviews, ghost; /* ghost: died, not recovered */
	enum psim_fault fault;
	unsigned full; /* every full-th send is refused */
	unsigned alone, max_idle;
	uint64_t sends, granted, deadlocks, again, interrupted, clock;
	bool strict; /* single threads, no views: whoever waits gives nothing up, so the graph is exact */
	const char *broken;
};

static inline void psim_law(struct psim *s, bool ok, const char *what)
{
	if (!ok && !s->broken)
		s->broken = what;
}

/* ---- the graph of waiting, from what the nodes themselves know ---- */

static inline bool psim_holds_against(struct psim *s, const struct psim_proc *holder,
				      const struct plock_op *op)
{
	const struct plock_res *r = plock_res_find(holder->node->p, op->ino);
	for (uint32_t i = 0; r && i < r->a.t.n; i++)
		if (r->a.t.v[i].owner == holder->id && plock_clash(&r->a.t.v[i], &op->w.p))
			return true;
	return false;
}
static inline bool psim_waits(const struct psim_op *o)
{
	return o->busy && o->op.w.kind == PLOCK_RAISE && (o->op.w.flags & PLOCK_F_DETECT);
}
static inline bool psim_reaches(struct psim *s, struct psim_proc *from, struct psim_proc *to,
				bool seen[][PSIM_PROCS])
{
	for (unsigned k = 0; k < PSIM_SLOTS; k++)
		for (unsigned a = 1; psim_waits(&from->slot[k]) && a <= s->n; a++)
			for (unsigned i = 0; s->node[a].alive && i < s->nprocs; i++) {
				struct psim_proc *h = &s->node[a].proc[i];
				if (h == from || !psim_holds_against(s, h, &from->slot[k].op))
					continue;
				if (h == to)
					return true;
				if (!seen[a][i]) {
					seen[a][i] = true;
					if (psim_reaches(s, h, to, seen))
						return true;
				}
			}
	return false;
}
static inline bool psim_in_cycle(struct psim *s, struct psim_proc *p)
{
	bool seen[PSIM_NODES + 1][PSIM_PROCS] = {0};
	return psim_reaches(s, p, p, seen);
}

/* ---- the engine's calls ---- */

static inline void psim_push(struct psim *s, unsigned src, unsigned dst, enum net_lane lane, uint16_t type,
			     uint64_t epoch, const void *b, uint32_t len)
{
	struct psim_msg *m = ts_xalloc(sizeof *m + len);
	m->type = type;
	m->epoch = epoch;
	m->len = len;
	memcpy(m->bytes, b, len);
	ts_list_push_back(&s->q[src][dst][lane], &m->link);
}
static inline int psim_send(void *arg, unsigned node, enum net_lane lane, uint16_t type, uint64_t epoch,
			    const void *b, uint32_t len)
{
	struct psim_node *me = arg;
	struct psim *s = me->s;
	TS_ASSERT(node != me->id && node <= s->n);
	s->sends++;
	if (s->full && s->sends % s->full == 0)
		return -ENOBUFS;
	if (s->node[node].alive)
		psim_push(s, me->id, node, lane, type, epoch, b, len);
	return 0;
}
static inline void psim_done(void *arg, struct plock_op *op)
{
	struct psim_op *o = TS_CONTAINER(op, struct psim_op, op);
	struct psim *s = o->proc->node->s;
	bool alone = true;
	psim_law(s, o->busy, "an operation ends twice");
	for (unsigned k = 0; k < PSIM_SLOTS; k++)
		alone &= &o->proc->slot[k] == o || !o->proc->slot[k].busy;
	if (op->w.kind == PLOCK_RAISE && !op->rc) {
		struct plock_piece key = op->w.p;
		s->granted++;
		for (uint64_t b = key.start; alone && b <= op->w.p.end;
		     b++) { /* small ranges in these tests */
			key.start = key.end = b;
			psim_law(s, plock_held(o->proc->node->p, op->ino, &key) >= op->w.p.type,
				 "a granted lock is not held");
		}
	}
	psim_law(s, op->rc != -EINTR || op->cancelled, "EINTR without a cancel");
	s->again += op->rc == -EAGAIN;
	s->interrupted += op->rc == -EINTR;
	if (op->rc == -EDEADLK) {
		s->deadlocks++;
		psim_law(s, op->w.flags & PLOCK_F_DETECT, "EDEADLK for what takes no part in cycles");
		psim_law(s, !s->strict || o->was_in_cycle || psim_in_cycle(s, o->proc),
			 "EDEADLK without a cycle");
	}
	o->busy = false;
}

static inline void psim_start_node(struct psim *s, unsigned id)
{
	struct psim_node *n = &s->node[id];
	struct plock_args a = {
		.self = id, .alone = s->alone, .max_idle = s->max_idle, .ops = {psim_send, psim_done, n}};
	*n = (struct psim_node){.s = s, .id = id, .alive = true, .view = s->nviews};
	n->p = plock_new(&a);
	TS_ASSERT(n->p);
	for (unsigned i = 0; i < PSIM_PROCS; i++) {
		n->proc[i].node = n;
		n->proc[i].id = i + 1;
		for (unsigned k = 0; k < PSIM_SLOTS; k++)
			n->proc[i].slot[k].proc = &n->proc[i];
	}
}

static inline void psim_view_add(struct psim *s, bool quorate)
{
	struct quorum_group_view *v = ts_xalloc(sizeof *v);
	TS_ASSERT(s->nviews < PSIM_VIEWS);
	*v = (struct quorum_group_view){
		.group = 1, .epoch = s->nviews + 1, .view = s->nviews + 1, .quorate = quorate};
	for (unsigned i = 1; i <= s->n; i++)
		if (s->node[i].alive)
			v->members[v->nmembers++].node = i;
	if (s->ghost && s->fault != PSIM_EARLY_GATE)
		v->pending[v->npending++].node = s->ghost;
	s->views[s->nviews++] = v;
}

static inline void psim_init(struct psim *s, unsigned n, unsigned nprocs, unsigned alone)
{
	*s = (struct psim){.n = n, .nprocs = nprocs, .alone = alone};
	for (unsigned a = 0; a <= PSIM_NODES; a++)
		for (unsigned b = 0; b <= PSIM_NODES; b++)
			for (unsigned l = 0; l < NET_LANES; l++)
				ts_list_init(&s->q[a][b][l]);
	for (unsigned i = 1; i <= n; i++)
		psim_start_node(s, i);
	psim_view_add(s, true);
}
static inline void psim_drop_queues(struct psim *s, unsigned node)
{
	for (unsigned a = 1; a <= s->n; a++)
		for (unsigned b = 1; b <= s->n; b++)
			for (unsigned l = 0; (a == node || b == node || !node) && l < NET_LANES; l++) {
				struct ts_list *x;
				while ((x = ts_list_pop_front(&s->q[a][b][l])))
					ts_free(ts_list_entry(x, struct psim_msg, link));
			}
}
static inline void psim_fini(struct psim *s)
{
	psim_drop_queues(s, 0);
	for (unsigned i = 1; i <= s->n; i++)
		plock_free(s->node[i].p);
	for (unsigned i = 0; i < s->nviews; i++)
		ts_free(s->views[i]);
}

/* ---- events ---- */

static inline void psim_submit(struct psim *s, struct psim_op *o, uint64_t ino, enum plock_kind kind,
			       enum plock_type type, enum plock_space space, uint64_t start, uint64_t end,
			       unsigned flags)
{
	TS_ASSERT(!o->busy);
	o->op = (struct plock_op){.ino = ino};
	o->op.w.p = (struct plock_piece){.owner = o->proc->id,
					 .pid = o->proc->id,
					 .handle = o->proc->id,
					 .type = (uint8_t)type,
					 .space = (uint8_t)space,
					 .start = start,
					 .end = end};
	o->op.w.kind = (uint8_t)kind;
	o->op.w.flags = (uint8_t)flags;
	o->op.w.since_ns = ++s->clock;
	o->busy = true;
	o->was_in_cycle = false;
	plock_submit(o->proc->node->p, &o->op);
}

/* The planted faults that sit in a message on its way. */
static inline bool psim_corrupt(struct psim *s, unsigned src, unsigned dst, struct psim_msg *x,
				uint64_t *epoch)
{
	struct plock_m m = {.src = src, .type = x->type, .epoch = x->epoch};
	uint8_t b[PLOCK_MSG_MAX];
	TS_ASSERT(plock_decode(&m, x->bytes, x->len));
	switch (s->fault) {
	case PSIM_LOST_WAITERS:
		return m.type == PLOCK_OP && (m.flags & PLOCK_MF_MOVED);
	case PSIM_LOST_LOCKS:
		return m.type == PLOCK_STATE && m.count;
	case PSIM_OLD_GRANT:
		if (m.type == PLOCK_DONE)
			*epoch = s->node[dst].p->epoch;
		return false;
	case PSIM_ONE_WALK:
		if (m.type != PLOCK_CONFIRM || m.pos)
			return false;
		m.flags |= PLOCK_MF_KILL;
		x->len = plock_encode(&m, b, sizeof b);
		memcpy(x->bytes, b, x->len);
		return false;
	case PSIM_KEPT_WAITER:
		if (m.type != PLOCK_CANCEL)
			return false;
		struct plock_m r = {.type = PLOCK_DONE, .ino = m.ino, .op = m.op, .result = -EINTR};
		psim_push(s, dst, src, NET_GRANT, PLOCK_DONE, x->epoch, b, plock_encode(&r, b, sizeof b));
		return true;
	default:
		return false;
	}
}
static inline void psim_deliver(struct psim *s, unsigned src, unsigned dst, unsigned lane)
{
	struct psim_msg *m = ts_list_entry(ts_list_pop_front(&s->q[src][dst][lane]), struct psim_msg, link);
	uint64_t epoch = m->epoch;
	if (!s->fault || !psim_corrupt(s, src, dst, m, &epoch))
		plock_message(s->node[dst].p, src, m->type, epoch, m->bytes, m->len);
	ts_free(m);
}
static inline bool psim_can_view(const struct psim_node *n)
{
	return n->alive && n->view < n->s->nviews;
}
static inline void psim_do_view(struct psim_node *n)
{
	plock_view(n->p, n->s->views[n->view++]);
}
static inline void psim_kill(struct psim *s, unsigned id)
{
	s->node[id].alive = false;
	s->ghost = id;
	psim_drop_queues(s, id);
	psim_view_add(s, true);
}
static inline void psim_recovered(struct psim *s)
{
	s->ghost = 0;
	psim_view_add(s, true);
}

/* ---- the law ---- */

static inline bool psim_clash(struct plock *x, struct plock *y)
{
	for (uint64_t ino = 1; ino <= 8; ino++) {
		struct plock_res *a = plock_res_find(x, ino), *b = plock_res_find(y, ino);
		for (uint32_t i = 0; a && b && i < a->a.t.n; i++)
			if (plock_table_clash(&b->a.t, &a->a.t.v[i], 0) < b->a.t.n)
				return true;
	}
	return false;
}
/* Who was in a cycle at some moment of his wait may get EDEADLK, even if another victim, or a signal,
 * dissolved it since. */
static inline void psim_mark_cycles(struct psim *s)
{
	for (unsigned a = 1; a <= s->n; a++)
		for (unsigned i = 0; s->node[a].alive && i < s->nprocs; i++) {
			struct psim_op *o = &s->node[a].proc[i].slot[0];
			o->was_in_cycle |= psim_waits(o) && psim_in_cycle(s, o->proc);
		}
}
static inline bool psim_lawful(struct psim *s)
{
	if (s->strict)
		psim_mark_cycles(s);
	for (unsigned a = 1; a <= s->n; a++)
		for (unsigned b = a; b <= s->n; b++)
			if ((s->node[a].alive || s->ghost == a) && (s->node[b].alive || s->ghost == b))
				psim_law(s, !psim_clash(s->node[a].p, s->node[b].p),
					 "conflicting locks are held");
	return !s->broken;
}
/* Nothing is on its way: the master's table is what the nodes hold, nobody waits for nothing, no cycle is
 * left. */
static inline void psim_check_quiet(struct psim *s)
{
	for (unsigned a = 1; a <= s->n; a++) {
		struct psim_node *n = &s->node[a];
		struct plock_stats st;
		if (!n->alive)
			continue;
		plock_stats_get(n->p, &st);
		psim_law(s, !st.conflicts, "reports conflict");
		psim_law(s, ts_list_empty(&n->p->parked) && ts_list_empty(&n->p->local) && !n->p->depth,
			 "messages are left");
		for (uint64_t ino = 1; ino <= 8; ino++) {
			struct plock_res *r = plock_res_find(n->p, ino);
			struct plock_mres *m = plock_mres_find(s->node[plock_master(n->p, ino)].p, ino);
			for (uint32_t i = 0; r && !r->delegated && i < r->a.t.n; i++)
				psim_law(s,
					 m && !m->delegate &&
						 plock_table_held(&m->a.t, &r->a.t.v[i]) == r->a.t.v[i].type,
					 "the master does not know a lock");
			psim_law(s, !r || !r->delegated || (m && m->delegate == a),
				 "a delegation that the master does not know");
		}
		for (unsigned i = 0; i < s->nprocs; i++)
			for (unsigned k = 0; k < PSIM_SLOTS; k++) {
				struct psim_op *o = &n->proc[i].slot[k];
				if (!o->busy)
					continue;
				bool blocked = false;
				psim_law(s, o->op.w.kind == PLOCK_RAISE && (o->op.w.flags & PLOCK_F_WAIT),
					 "an operation without an end");
				for (unsigned b = 1; b <= s->n; b++)
					for (unsigned j = 0; s->node[b].alive && j < s->nprocs; j++) {
						struct psim_proc *h = &s->node[b].proc[j];
						blocked |=
							h != &n->proc[i] && psim_holds_against(s, h, &o->op);
						for (unsigned l = 0; l < PSIM_SLOTS;
						     l++) /* or behind someone who waits */
							blocked |=
								h != &n->proc[i] && h->slot[l].busy &&
								h->slot[l].op.ino == o->op.ino &&
								plock_clash(&h->slot[l].op.w.p, &o->op.w.p);
					}
				psim_law(s, blocked, "a waiter was not woken");
				psim_law(s, !psim_waits(o) || !psim_in_cycle(s, &n->proc[i]),
					 "a cycle was not found");
			}
	}
}

#endif
