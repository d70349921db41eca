/* SPDX-License-Identifier: Apache-2.0 */
/* Job: cycles of waiting processes, over inodes and nodes. A chain of waiters is passed on (probe): the
 * authority of a waiter knows whose locks are in its way, the node of such an owner knows what its other
 * threads or it itself waits for. When the chain comes back to where it began it is a cycle, maybe of the
 * past: it is walked a second time (confirm). A waiter that is met twice with one number has waited all the
 * time between, so all of them waited at the moment between the two walks. Then the youngest waiter gets
 * -EDEADLK; every walk of one cycle ends at the same. Since a waiter passes only the first chain of a search,
 * a search ends with one cycle at most: when that is gone, or ended elsewhere, who began it searches again.
 *
 * Must never happen: EDEADLK from what was seen once; a chain that is passed on for ever (length, and each
 * waiter passes a chain of one beginning only once). */
#include "dlm/plock_int.h"

static void put(struct plock_entry_msg *e, uint64_t ino, const struct plock_want *w)
{
	*e = (struct plock_entry_msg){.ino = le64_make(ino),
				      .owner = le64_make(w->p.owner),
				      .a = le64_make(w->op),
				      .b = le64_make(w->since_ns),
				      .pid = le32_make(w->p.pid),
				      .node = le16_make(w->p.node),
				      .type = w->p.type,
				      .space = w->p.space};
}

static bool is(const struct plock_entry_msg *e, const struct plock_want *w)
{
	return le16_get(e->node) == w->p.node && le64_get(e->a) == w->op;
}

/* The chain ends with a waiter here: on to the owners of what is in its way. */
static void to_owners(struct plock *p, struct plock_auth *a, const struct plock_want *w,
		      const struct plock_m *chain)
{
	uint64_t last = 0;
	unsigned last_node = 0;
	for (uint32_t i = plock_table_clash(&a->t, &w->p, 0); i < a->t.n;
	     i = plock_table_clash(&a->t, &w->p, i + 1)) {
		const struct plock_piece *q = &a->t.v[i];
		if (q->owner == last && q->node == last_node)
			continue; /* pieces of an owner lie together */
		last = q->owner;
		last_node = q->node;
		struct plock_m m = *chain;
		m.flags = PLOCK_MF_OWNER;
		m.p = (struct plock_piece){.owner = q->owner, .node = q->node, .space = q->space};
		p->st.probes++;
		plock_send(p, q->node, &m);
	}
}

void plock_detect_start(struct plock *p, uint64_t ino, struct plock_auth *a, struct plock_want *w)
{
	struct plock_entry_msg e;
	struct plock_m chain = {.type = PLOCK_PROBE, .round = ++p->last_round, .count = 1, .ents = &e};
	if (!(w->flags & PLOCK_F_DETECT))
		return;
	put(&e, ino, w);
	to_owners(p, a, w, &chain);
}

/* ---- where a waiter is decided about ---- */

/* NULL: not here, or not any more. */
static struct plock_auth *authority(struct plock *p, uint64_t ino, unsigned node, uint64_t op,
				    struct plock_want **w)
{
	struct plock_res *r = node == p->self ? plock_res_find(p, ino) : NULL;
	struct plock_mres *m = plock_mres_find(p, ino);
	*w = NULL;
	if (r && r->delegated) {
		*w = plock_waiter_find(&r->a, node, op);
		return *w ? &r->a : NULL;
	}
	if (m && !m->delegate)
		*w = plock_waiter_find(&m->a, node, op);
	return *w ? &m->a : NULL;
}

/* To the node that decides about the inode: its master, which passes it on to a delegate. */
static void to_authority(struct plock *p, uint64_t ino, const struct plock_m *m)
{
	struct plock_res *r = plock_res_find(p, ino);
	struct plock_mres *x = plock_mres_find(p, ino);
	unsigned node = r && r->delegated ? p->self : x && x->delegate ? x->delegate : plock_master(p, ino);
	plock_send(p, node, m);
}

/* Not here: the delegate of what is mastered here. The delegate itself does not send it back. */
static bool pass_on(struct plock *p, uint64_t ino, const struct plock_m *m)
{
	struct plock_mres *x = plock_mres_find(p, ino);
	if (!x || !x->delegate || x->delegate == p->self || x->delegate == m->src)
		return false;
	plock_send(p, x->delegate, m);
	return true;
}

/* ---- the first walk ---- */

/* The cycle, beginning with its victim. */
static void confirm(struct plock *p, const struct plock_m *chain)
{
	struct plock_entry_msg e[PLOCK_CYCLE_MAX];
	uint32_t n = chain->count, v = 0;
	for (uint32_t i = 1; i < n; i++) {
		const struct plock_entry_msg *a = &chain->ents[i], *b = &chain->ents[v];
		uint64_t sa = le64_get(a->b), sb = le64_get(b->b);
		if (sa > sb || (sa == sb && le16_get(a->node) > le16_get(b->node)) ||
		    (sa == sb && le16_get(a->node) == le16_get(b->node) && le64_get(a->a) > le64_get(b->a)))
			v = i;
	}
	for (uint32_t i = 0; i < n; i++)
		e[i] = chain->ents[(v + i) % n];
	struct plock_m m = {.type = PLOCK_CONFIRM, .op = (n - v) % n, .count = n, .ents = e};
	to_authority(p, le64_get(e[0].ino), &m);
}

static void probe_owner(struct plock *p, const struct plock_m *in)
{
	struct plock_m m = *in;
	m.flags = 0;
	ts_list_for(n, &p->all)
	{
		const struct plock_op *op = ts_list_entry(n, const struct plock_op, all);
		if (op->w.kind != PLOCK_RAISE || !(op->w.flags & PLOCK_F_DETECT) || op->cancelled ||
		    !plock_same_owner(&op->w.p, &in->p))
			continue;
		m.ino = op->ino;
		m.op = op->w.op;
		m.p = op->w.p;
		to_authority(p, op->ino, &m);
	}
}

void plock_on_probe(struct plock *p, const struct plock_m *m)
{
	struct plock_entry_msg e[PLOCK_CYCLE_MAX];
	struct plock_m chain = *m;
	struct plock_want *w;
	if (m->flags & PLOCK_MF_OWNER) {
		probe_owner(p, m);
		return;
	}
	struct plock_auth *a = authority(p, m->ino, m->p.node, m->op, &w);
	if (!a) {
		(void)pass_on(p, m->ino,
			      m); /* else it is on its way somewhere, and searches itself when it arrives */
		return;
	}
	if (!m->count) {
		plock_detect_start(p, m->ino, a, w);
		return;
	}
	for (uint32_t i = 0; i < m->count; i++)
		if (is(&m->ents[i], w)) {
			if (i == 0 && m->count > 1)
				confirm(p, m);
			return; /* a cycle further on is found by those who are in it */
		}
	unsigned from = le16_get(m->ents[0].node);
	if (m->count == PLOCK_CYCLE_MAX ||
	    (w->probe_node == from && w->probe_op == le64_get(m->ents[0].a) && w->probe_round == m->round))
		return;
	w->probe_node = (uint16_t)from;
	w->probe_op = le64_get(m->ents[0].a);
	w->probe_round = m->round;
	memcpy(e, m->ents, m->count * sizeof e[0]);
	put(&e[chain.count++], m->ino, w);
	chain.ents = e;
	to_owners(p, a, w, &chain);
}

/* An owner got a lock while others of its threads wait: who waits for that lock waits for them. */
void plock_detect_owner(struct plock *p, const struct plock_piece *owner)
{
	struct plock_m m = {.type = PLOCK_PROBE, .p = *owner};
	probe_owner(p, &m);
}

/* ---- the second walk ---- */

static bool waits_for(const struct plock_auth *a, const struct plock_want *w,
		      const struct plock_entry_msg *next)
{
	for (uint32_t i = plock_table_clash(&a->t, &w->p, 0); i < a->t.n;
	     i = plock_table_clash(&a->t, &w->p, i + 1))
		if (a->t.v[i].node == le16_get(next->node) && a->t.v[i].owner == le64_get(next->owner))
			return true;
	return false;
}

static void kill(struct plock *p, uint64_t ino, struct plock_want *w)
{
	struct plock_res *r = w->p.node == p->self ? plock_res_find(p, ino) : NULL;
	p->st.deadlocks++;
	if (r && r->delegated)
		plock_local_end(p, TS_CONTAINER(w, struct plock_op, w), -EDEADLK);
	else
		plock_master_end(p, plock_mres_find(p, ino), w, -EDEADLK);
}

/* The waiter that began the search (number `op` in the cycle) begins another. */
static void again(struct plock *p, const struct plock_m *cycle)
{
	const struct plock_entry_msg *e = &cycle->ents[cycle->op];
	struct plock_m m = {.type = PLOCK_PROBE, .ino = le64_get(e->ino), .op = le64_get(e->a)};
	m.p = (struct plock_piece){.owner = le64_get(e->owner), .node = le16_get(e->node), .space = e->space};
	to_authority(p, m.ino, &m);
}

void plock_on_confirm(struct plock *p, const struct plock_m *in)
{
	struct plock_m m = *in;
	const struct plock_entry_msg *e = &m.ents[m.pos];
	uint64_t ino = le64_get(e->ino);
	struct plock_want *w;
	struct plock_auth *a = authority(p, ino, le16_get(e->node), le64_get(e->a), &w);
	if (!a && pass_on(p, ino, in))
		return;
	if (!a || !waits_for(a, w, &m.ents[(m.pos + 1) % m.count])) {
		again(p, &m);
		return;
	}
	if (m.flags & PLOCK_MF_KILL) {
		kill(p, ino, w);
		if (m.op)
			again(p, &m);
		return;
	}
	if (++m.pos == m.count) {
		m.pos = 0;
		m.flags |= PLOCK_MF_KILL;
	}
	to_authority(p, le64_get(m.ents[m.pos].ino), &m);
}
