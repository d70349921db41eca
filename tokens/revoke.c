/* SPDX-License-Identifier: Apache-2.0 */
/* Giving a token back, each on a fiber of a bounded set.
 *
 *   asked (or drop) --> queued --> minimum hold --> pre_revoke (pins still granted) --> barrier (no new pins
 * above `to`, but late ones)
 *        --> pins in conflict drained --> last_revoke --> barrier for late pins too, drained again
 *        --> revoke call-back --> dlm_shrink --> barrier lifted, the local queue asks again
 *
 * Must never happen: dlm_shrink before the call-back returned 0; a barrier left standing; a pin that is
 * served after a grant never getting its turn (the grant serves the queue at once, before any revoke can
 * start). */
#include "tokens/tokens_int.h"

/* The next thing to give back: what a master asked for, or the whole if it is to be dropped and idle. */
static bool next_want(const struct tok_mgr *m, struct tok *t, struct dlm_want *w)
{
	if (m->failed)
		return false;
	if (dlm_revoke_first(&t->res, w))
		return true;
	if (!t->drop || !t->res.held.n || t->nsh || t->nex || !ts_list_empty(&t->waiters))
		return false;
	*w = (struct dlm_want){.start = 0, .end = TOK_END, .to = DLM_NL};
	return true;
}

static void wait_min_hold(struct tok_mgr *m, const struct tok *t)
{
	uint64_t until = t->granted_ns + m->min_hold_ns;
	if (tok_came_ahead(t)) /* nobody here asked for it */
		return;
	if ((t->unused || t->nsh || t->nex) && !t->drop && ts_exec_now(m->a.exec) < until)
		ts_sleep_until(until);
}

/* What pins may go on beside a revoke to `to`. One to SW is waited for by all: the call-back writes down what EX allowed. */
static enum dlm_mode barrier(enum dlm_mode to)
{
	return to == DLM_SW ? DLM_NL : to;
}

static bool in_conflict(const struct tok *t, enum dlm_mode to)
{
	return (t->nex && !dlm_covers(to, (enum dlm_mode)t->ex_mode)) || (t->nsh && !dlm_covers(to, DLM_SH));
}

static void drain(struct tok_mgr *m, struct tok *t, const struct dlm_want *w)
{
	while (!m->failed && in_conflict(t, barrier(w->to)))
		ts_cond_wait(&t->drained, "pins of a revoked token drained", t->res.key.kind, t->res.key.id);
}

/* More than was asked for, where this node is not at work: who asks behind its last use gets all from there to the end of the
 * piece (two sequential writers part at the second one's offset; what the asker does not want is free for the next one), who
 * asks before it gets what he would like up to it. */
static void widen(const struct tok *t, struct dlm_want *w)
{
	for (uint32_t i = 0; i < t->res.held.n; i++) {
		const struct dlm_piece *p = &t->res.held.v[i];
		if (w->start > t->last_end && p->start <= w->end && p->end > w->end)
			w->end = p->end;
	}
	if (w->end < t->last_start) {
		w->start = TS_MIN(w->start, w->dstart);
		w->end = TS_MAX(w->end, TS_MIN(w->dend, t->last_start - 1));
	}
}

static void note_contention(struct tok_mgr *m, struct tok *t)
{
	uint64_t now = ts_exec_now(m->a.exec);
	t->contended = now - t->contended_ns < TOK_CONTENDED_NS ? t->contended + 1 : 1;
	t->contended_ns = now;
}

/* false: the token stays, and so does the barrier. */
#define MEMORY_TRIES   1500u /* 30 s */
#define MEMORY_WAIT_NS (20 * TS_NS_PER_MS)

static bool give_back(struct tok_mgr *m, struct tok *t, struct dlm_want *w)
{
	const struct tok_events *e = &m->a.events;
	enum tok_kind kind = (enum tok_kind)t->res.key.kind;
	uint64_t id = t->res.key.id;
	t->revoke_begun = true;
	wait_min_hold(m, t);
	if (!t->drop && kind == TOK_DATA && e->whole && e->whole(e->arg, kind, id)) {
		w->start = 0;
		w->end = TOK_END;
	} else if (!t->drop && kind == TOK_DATA) {
		note_contention(m, t);
		widen(t, w);
	}
	if (e->pre_revoke)
		e->pre_revoke(e->arg, kind, id, (enum tok_mode)w->to, w->start, w->end);
	if (tok_came_ahead(t))
		tok_ahead_lost(m, t);
	t->allow = barrier(w->to);
	t->late_ok = true;
	tok_fail_waiters(m, t, TOK_NOWAIT, -TS_ERR_WOULD_WAIT);
	drain(m, t, w);
	if (!m->failed && e->last_revoke)
		e->last_revoke(e->arg, kind, id, (enum tok_mode)w->to, w->start, w->end);
	tok_late_over(m, t);
	drain(m, t, w);
	int rc = m->failed ? -TS_ERR_FENCED : 0;
	if (!rc && e->revoke)
		rc = e->revoke(e->arg, kind, id, (enum tok_mode)w->to, w->start, w->end);
	for (unsigned i = 0; rc == -ENOMEM && !m->failed && i < MEMORY_TRIES; i++) { /* short for a while, and nothing was given up yet */
		ts_sleep_until(ts_exec_now(m->a.exec) + MEMORY_WAIT_NS);
		rc = e->revoke(e->arg, kind, id, (enum tok_mode)w->to, w->start, w->end);
	}
	if (m->failed)
		return false;
	if (rc) {
		ts_err("token %s %llu cannot be given up (error %d): this node keeps it and stops",
		       tok_kind_name(kind), (unsigned long long)id, rc);
		tok_mgr_fail(m);
		return false;
	}
	dlm_now(m->dlm, ts_exec_now(m->a.exec));
	dlm_shrink(m->dlm, &t->res, w->start, w->end, w->to);
	t->allow = TOK_EX;
	return true;
}

static void revoke_tok(struct tok_mgr *m, struct tok *t)
{
	struct dlm_want w;
	bool dropped = t->drop, ok = true;
	while (ok && next_want(m, t, &w))
		ok = give_back(m, t, &w);
	t->drop = false;
	if (dropped)
		m->dropping--;
	if (!ok || m->failed)
		return;
	t->revoke_begun = t->revoke_queued = false;
	tok_serve(m, t);
	tok_settle(m, t);
}

static void fiber(void *arg)
{
	struct tok_mgr *m = arg;
	struct ts_list *n;
	while (!m->failed) {
		bool data = ts_list_empty(&m->rvq);
		if (data && m->data_fibers >= TOK_DATA_FIBERS)
			break;
		n = ts_list_pop_front(data ? &m->rvq_data : &m->rvq);
		if (!n)
			break;
		m->data_fibers += data;
		revoke_tok(m, ts_list_entry(n, struct tok, rvq));
		m->data_fibers -= data;
	}
	m->revoke_fibers--;
	ts_cond_broadcast(&m->shrunk);
}

/* One fiber per queued token up to the bound; if no stack can be had, those that run go on with the queue. */
void tok_revoke_start(struct tok_mgr *m)
{
	if (m->revoke_fibers >= TOK_REVOKE_FIBERS)
		return;
	if (ts_fiber_spawn(m->a.exec, "revoke", fiber, m) == 0)
		m->revoke_fibers++;
	else if (!m->revoke_fibers)
		TS_PANIC("tokens: no fiber for a revoke: nothing here would ever be given back");
}

void tok_revoke_queue(struct tok_mgr *m, struct tok *t)
{
	if (t->revoke_queued || m->failed)
		return;
	t->revoke_queued = true;
	ts_list_del(&t->lru);
	bool waits = t->res.key.kind == TOK_DATA || t->res.key.kind == TOK_REGION;
	ts_list_push_back(waits ? &m->rvq_data : &m->rvq, &t->rvq);
	tok_revoke_start(m);
}

void tok_on_revoke(void *arg, struct dlm_res *r)
{
	struct tok *t = TS_CONTAINER(r, struct tok, res);
	t->revoke_begun = true;
	tok_revoke_queue(arg, t);
}
