/* SPDX-License-Identifier: Apache-2.0 */
/* Job: an inode's locks at its master: decided here, or delegated to the one node that uses them.
 *
 *   here --one node has all of it--> delegated --operation of another--> recalling --STATE, LAST--> here
 *
 * Must never happen: a decision while a delegate may decide; a lock given while the gate is closed; an answer
 * sent twice. */
#include "dlm/plock_int.h"

/* ---- inodes ---- */

struct plock_mres *plock_mres_find(const struct plock *p, uint64_t ino)
{
	return (struct plock_mres *)plock_auth_find(&p->mres, ino);
}

static struct plock_mres *mres_get(struct plock *p, uint64_t ino)
{
	struct plock_mres *r = plock_mres_find(p, ino);
	if (r)
		return r;
	r = (struct plock_mres *)plock_auth_new(&p->mres, ino, sizeof *r);
	if (!r)
		return NULL;
	ts_list_init(&r->pend);
	ts_list_init(&r->idle);
	return r;
}

static void idle_del(struct plock *p, struct plock_mres *r)
{
	if (ts_list_empty(&r->idle))
		return;
	ts_list_del(&r->idle);
	p->nmidle--;
}

static void free_waiters(struct plock_mres *r)
{
	struct ts_list *n;
	while ((n = ts_list_pop_front(&r->a.waiters)))
		ts_free(ts_list_entry(n, struct plock_want, link));
}

int plock_mres_free(struct ts_map_node *n, void *arg)
{
	struct plock *p = arg;
	struct plock_mres *r = TS_CONTAINER(n, struct plock_mres, a.node);
	struct ts_list *l;
	idle_del(p, r);
	free_waiters(r);
	while ((l = ts_list_pop_front(&r->pend)))
		ts_free(ts_list_entry(l, struct plock_qmsg, link));
	plock_table_fini(&r->a.t);
	ts_map_remove(&p->mres, n);
	ts_free(r);
	return 0;
}

/* Kept while it says something; that it was contended is remembered as long as there is room, else it would
 * be delegated and recalled for every single operation of nodes that take turns. */
static void settle_one(struct plock *p, struct plock_mres *r)
{
	idle_del(p, r);
	if (r->a.t.n || r->delegate || !ts_list_empty(&r->a.waiters) || !ts_list_empty(&r->pend))
		return;
	if (!r->contended) {
		plock_mres_free(&r->a.node, p);
		return;
	}
	ts_list_push_back(&p->midle, &r->idle);
	p->nmidle++;
}
static void trim(struct plock *p)
{
	while (p->nmidle > p->a.max_idle)
		plock_mres_free(&ts_list_entry(p->midle.next, struct plock_mres, idle)->a.node, p);
}
static void settle(struct plock *p, struct plock_mres *r)
{
	settle_one(p, r);
	trim(p);
}

/* ---- answers ---- */

static void answer(struct plock *p, uint64_t ino, unsigned node, uint64_t op, int rc,
		   const struct plock_piece *found)
{
	struct plock_m m = {.type = PLOCK_DONE, .ino = ino, .op = op, .result = rc};
	if (found)
		m.p = *found;
	plock_send(p, node, &m);
}

static void pump(struct plock *p, struct plock_mres *r)
{
	struct plock_want *w;
	int rc;
	while (plock_granting(p) && !r->delegate && (w = plock_auth_next(&r->a, &rc))) {
		answer(p, r->a.ino, w->p.node, w->op, rc, NULL);
		ts_free(w);
	}
}

struct plock_want *plock_waiter_find(struct plock_auth *a, unsigned node, uint64_t op)
{
	ts_list_for(n, &a->waiters)
	{
		struct plock_want *w = ts_list_entry(n, struct plock_want, link);
		if (w->p.node == node && w->op == op)
			return w;
	}
	return NULL;
}

void plock_master_end(struct plock *p, struct plock_mres *r, struct plock_want *w, int rc)
{
	answer(p, r->a.ino, w->p.node, w->op, rc, NULL);
	ts_list_del(&w->link);
	ts_free(w);
	pump(p, r);
	settle(p, r);
}

/* ---- decisions ---- */

static struct plock_want *enqueue(struct plock_mres *r, const struct plock_m *m)
{
	struct plock_want *w = ts_alloc(sizeof *w);
	if (!w)
		return NULL;
	w->p = m->p;
	w->p.node = (uint16_t)m->src;
	w->op = m->op;
	w->since_ns = m->since_ns;
	w->kind = m->kind;
	w->flags = m->flags & (PLOCK_F_WAIT | PLOCK_F_DETECT | PLOCK_F_BARGE);
	ts_list_push_back(&r->a.waiters, &w->link);
	return w;
}

static void raise(struct plock *p, struct plock_mres *r, const struct plock_m *m)
{
	struct plock_want try = {.p = m->p, .op = m->op, .kind = m->kind, .flags = m->flags};
	int rc = plock_auth_try(&r->a, &try);
	if (rc == -EAGAIN && (m->flags & PLOCK_F_WAIT)) {
		struct plock_want *w = enqueue(r, m);
		if (w) {
			plock_detect_start(p, r->a.ino, &r->a, w);
			return;
		}
		rc = -ENOLCK;
	}
	answer(p, r->a.ino, m->src, m->op, rc, NULL);
}

static void decide(struct plock *p, struct plock_mres *r, const struct plock_m *m)
{
	struct plock_piece found;
	switch ((enum plock_kind)m->kind) {
	case PLOCK_RAISE:
		raise(p, r, m);
		break;
	case PLOCK_LOWER:
		plock_must(plock_table_set(&r->a.t, &m->p, false), "an unlock");
		answer(p, r->a.ino, m->src, m->op, 0, NULL);
		pump(p, r);
		break;
	default:
		answer(p, r->a.ino, m->src, m->op, 0,
		       plock_table_first_clash(&r->a.t, &m->p, &found) ? &found : NULL);
	}
}

static bool only_of(const struct plock_mres *r, unsigned node)
{
	for (uint32_t i = 0; i < r->a.t.n; i++)
		if (r->a.t.v[i].node != node)
			return false;
	ts_list_for(n, &r->a.waiters) if (ts_list_entry(n, struct plock_want, link)->p.node !=
					  node) return false;
	return true;
}

/* The node has seen every answer before it sees this, so it has our table; its waiters are its own
 * operations. */
static void delegate_maybe(struct plock *p, struct plock_mres *r, unsigned node)
{
	struct plock_m m = {.type = PLOCK_DELEGATE, .ino = r->a.ino};
	if (!plock_granting(p) || r->delegate || !ts_list_empty(&r->pend) ||
	    (r->contended && r->streak < p->a.alone) || !only_of(r, node))
		return;
	plock_send(p, node, &m);
	r->delegate = node;
	r->recalling = false;
	r->streak = 0;
	plock_table_clear(&r->a.t);
	free_waiters(r);
}

static void decide_and_look(struct plock *p, struct plock_mres *r, const struct plock_m *m)
{
	r->streak = r->last == m->src ? r->streak + 1 : 0;
	r->last = m->src;
	decide(p, r, m);
	delegate_maybe(p, r, m->src);
}

static void pend_run(struct plock *p, struct plock_mres *r)
{
	struct ts_list *n;
	while (plock_granting(p) && !r->delegate && (n = ts_list_pop_front(&r->pend))) {
		struct plock_qmsg *q = ts_list_entry(n, struct plock_qmsg, link);
		decide_and_look(p, r, &q->m);
		ts_free(q);
	}
}

static void recall(struct plock *p, struct plock_mres *r)
{
	struct plock_m m = {.type = PLOCK_RECALL, .ino = r->a.ino};
	if (r->recalling)
		return;
	r->recalling = r->contended = true;
	p->st.recalls++;
	plock_send(p, r->delegate, &m);
}

void plock_on_op(struct plock *p, const struct plock_m *in)
{
	struct plock_m m = *in;
	struct plock_mres *r = mres_get(p, m.ino);
	m.p.node = (uint16_t)m.src;
	m.p.handle = 0;
	if (!r) {
		answer(p, m.ino, m.src, m.op, m.kind == PLOCK_LOWER ? 0 : -ENOLCK, NULL);
		return;
	}
	if (r->delegate == m.src) {
		/* Sent before the delegation came: decided there. Or a waiter that comes with the state. */
		if ((m.flags & PLOCK_MF_MOVED) && !enqueue(r, &m))
			answer(p, m.ino, m.src, m.op, -ENOLCK, NULL);
		return;
	}
	if (r->delegate && m.kind == PLOCK_LOWER) { /* whoever is not the delegate has nothing here */
		answer(p, m.ino, m.src, m.op, 0, NULL);
		return;
	}
	if (m.kind != PLOCK_LOWER && (r->delegate || !plock_granting(p) || !ts_list_empty(&r->pend))) {
		ts_list_push_back(&r->pend, &plock_keep(&m)->link);
		if (r->delegate)
			recall(p, r);
		return;
	}
	decide_and_look(p, r, &m);
	settle(p, r);
}

void plock_on_cancel(struct plock *p, const struct plock_m *m)
{
	struct plock_mres *r = plock_mres_find(p, m->ino);
	if (!r || r->delegate == m->src)
		return; /* it has its answer already, or is decided by whoever cancels it */
	struct plock_want *w = plock_waiter_find(&r->a, m->src, m->op);
	if (w) {
		plock_master_end(p, r, w, -EINTR);
		return;
	}
	ts_list_for(n, &r->pend)
	{
		struct plock_qmsg *q = ts_list_entry(n, struct plock_qmsg, link);
		if (q->m.src != m->src || q->m.op != m->op)
			continue;
		ts_list_del(&q->link);
		ts_free(q);
		answer(p, r->a.ino, m->src, m->op, -EINTR, NULL);
		settle(p, r);
		return;
	}
}

void plock_on_state(struct plock *p, const struct plock_m *m)
{
	struct plock_mres *r = plock_mres_find(p, m->ino);
	if (!r || r->delegate != m->src)
		TS_PANIC("locks: impossible state: node %u gives up inode %llu, which it does not decide "
			 "about",
			 m->src, (unsigned long long)m->ino);
	for (uint32_t i = 0; i < m->count; i++) {
		struct plock_piece piece;
		uint64_t ino;
		TS_ASSERT(plock_decode_lock(&m->ents[i], &ino, &piece)); /* plock_decode() has looked */
		piece.node = (uint16_t)m->src;
		plock_must(plock_table_set(&r->a.t, &piece, true), "state of an inode");
	}
	if (!(m->flags & PLOCK_MF_LAST))
		return;
	r->delegate = 0;
	r->recalling = false;
	r->streak = 0;
	pump(p, r);
	ts_list_for(n, &r->a.waiters)
		plock_detect_start(p, r->a.ino, &r->a, ts_list_entry(n, struct plock_want, link));
	pend_run(p, r);
	settle(p, r);
}

/* ---- epochs ---- */

void plock_master_insert(struct plock *p, uint64_t ino, const struct plock_piece *piece)
{
	struct plock_mres *r = mres_get(p, ino);
	if (!r)
		TS_PANIC("locks: no memory for a reported lock");
	uint32_t i = plock_table_clash(&r->a.t, piece, 0);
	if (i < r->a.t.n) { /* their programs go on anyhow: told, and both kept */
		p->st.conflicts++;
		ts_err("locks: impossible state: nodes %u and %u hold conflicting locks of inode %llu",
		       r->a.t.v[i].node, piece->node, (unsigned long long)ino);
	}
	plock_must(plock_table_set(&r->a.t, piece, true), "a reported lock");
}

static int open_each(struct ts_map_node *n, void *arg)
{
	struct plock *p = arg;
	struct plock_mres *r = TS_CONTAINER(n, struct plock_mres, a.node);
	pump(p, r);
	pend_run(p, r);
	settle_one(p, r);
	return 0;
}
void plock_master_open(struct plock *p)
{
	ts_map_each(&p->mres, open_each, p);
	trim(p);
}
