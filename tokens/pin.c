/* SPDX-License-Identifier: Apache-2.0 */
/* Pins: a token of the cluster and a lock among the fibers of this node, in one.
 *
 *   tok_pin: held, no local conflict, nobody queued --> pinned (the hit: a lookup and a counter)
 *            else queued --first in the queue, no local conflict--> held: pinned
 *                                                      --> not held: dlm request --granted--> pinned
 *
 * Fair: once somebody waits, later pins wait behind. A fiber pins one resource once (twice would wait for
 * itself). Must never happen: a pin in a mode that is not held, or above allow (a revoke's barrier). */
#include "tokens/tokens_int.h"

struct tok *tok_find(const struct tok_mgr *m, enum tok_kind kind, uint64_t id)
{
	struct dlm_res *r = dlm_find(m->dlm, (struct dlm_key){.id = id, .kind = kind});
	return r ? TS_CONTAINER(r, struct tok, res) : NULL;
}

struct tok *tok_get(struct tok_mgr *m, enum tok_kind kind, uint64_t id)
{
	struct tok *t = tok_find(m, kind, id);
	if (t)
		return t;
	t = ts_alloc(sizeof *t);
	if (!t)
		return NULL;
	t->allow = TOK_EX;
	ts_list_init(&t->lru);
	ts_list_init(&t->rvq);
	ts_list_init(&t->kept);
	ts_list_init(&t->ahead);
	ts_list_init(&t->waiters);
	ts_cond_init(&t->drained);
	if (dlm_res_init(m->dlm, &t->res, (struct dlm_key){.id = id, .kind = kind})) {
		ts_free(t);
		return NULL;
	}
	ts_list_push_back(&m->all, &t->all);
	m->ntoks++;
	m->nsegments += kind == TOK_SEGMENT;
	return t;
}

static void tok_free(struct tok_mgr *m, struct tok *t)
{
	TS_ASSERT(!t->has_got && ts_list_empty(&t->kept) && ts_list_empty(&t->ahead));
	dlm_res_fini(m->dlm, &t->res);
	ts_list_del(&t->lru);
	ts_list_del(&t->all);
	m->ntoks--;
	m->nsegments -= t->res.key.kind == TOK_SEGMENT;
	ts_free(t);
	ts_cond_broadcast(&m->shrunk);
}

void tok_settle(struct tok_mgr *m, struct tok *t)
{
	ts_list_del(&t->lru);
	if (t->nsh || t->nex || t->requesting || t->revoke_queued || t->serving ||
	    !ts_list_empty(&t->waiters))
		return;
	if (t->res.held.n)
		ts_list_push_back(t->res.key.kind == TOK_SEGMENT ? &m->lru_segments : &m->lru, &t->lru);
	else if (!dlm_res_idle(m->dlm, &t->res))
		ts_list_push_back(&m->closing, &t->lru);
	else if (!m->failed)
		tok_free(m, t);
}

static bool unpinned_for(const struct tok *t, enum tok_mode mode)
{
	return !t->nex && !(mode != TOK_SH && t->nsh);
}
static bool allowed(const struct tok *t, enum tok_mode mode, unsigned flags)
{
	return dlm_covers((enum dlm_mode)t->allow, (enum dlm_mode)mode) || (flags & TOK_LATE && t->late_ok);
}
static bool local_free(const struct tok *t, enum tok_mode mode, unsigned flags)
{
	return unpinned_for(t, mode) && allowed(t, mode, flags);
}
static bool held(const struct tok *t, enum tok_mode mode, uint64_t start, uint64_t end)
{
	return dlm_holds(&t->res, (enum dlm_mode)mode, start, end);
}
static void count_pin(struct tok_mgr *m, struct tok *t, enum tok_mode mode, uint64_t start, uint64_t end)
{
	if (mode == TOK_SH) {
		t->nsh++;
	} else {
		t->nex++;
		t->ex_mode = mode;
	}
	t->last_start = start;
	t->last_end = end;
	t->unused = false;
	m->st.pins++;
	if (tok_came_ahead(t))
		tok_ahead_used(m, t);
}

/* ---- the queue
 * ------------------------------------------------------------------------------------------------------*/

static void wake(struct tok_waiter *w, int rc)
{
	ts_list_del(&w->link);
	ts_done_set(&w->done, rc);
}

void tok_fail_waiters(struct tok_mgr *m, struct tok *t, unsigned flags_mask, int rc)
{
	ts_list_for_safe(n, tmp, &t->waiters)
	{
		struct tok_waiter *w = ts_list_entry(n, struct tok_waiter, link);
		if (!flags_mask || w->flags & flags_mask)
			wake(w, rc);
	}
}

/* Those who tried only, and for whom it comes too late, are told; the others wait for the token to come back. */
void tok_late_over(struct tok_mgr *m, struct tok *t)
{
	t->late_ok = false;
	ts_list_for_safe(n, tmp, &t->waiters)
	{
		struct tok_waiter *w = ts_list_entry(n, struct tok_waiter, link);
		if (w->flags & TOK_TRY && !allowed(t, w->mode, w->flags))
			wake(w, -TS_ERR_WOULD_WAIT);
	}
}

bool tok_contended(const struct tok_mgr *m, const struct tok *t)
{
	return t->contended >= 2 && ts_exec_now(m->a.exec) - t->contended_ns < TOK_CONTENDED_NS;
}

/* Asks the engine: for everything it can have, or, of a resource that others take to pieces, for no more than it needs. 1 held
 * now, 0 asked (the callback comes), or an error. */
static int ask(struct tok_mgr *m, struct tok *t, const struct tok_waiter *w)
{
	bool exact = tok_contended(m, t);
	t->req = (struct dlm_req){.start = w->start,
				  .end = w->end,
				  .dstart = exact ? w->start : 0,
				  .dend = exact ? w->end : TOK_END,
				  .mode = w->mode};
	t->req.flags = (uint8_t)((w->flags & (TOK_NOWAIT | TOK_TRY) ? DLM_F_LOCAL : 0) |
				 (w->flags & TOK_QUICK ? DLM_F_QUICK : 0) | (w->mode == TOK_SW ? DLM_F_BEST : 0));
	t->requesting = true; /* a callback from inside must find it so */
	int rc = dlm_request(m->dlm, &t->res, &t->req);
	if (rc == 0)
		return t->requesting ? 0 : 1;
	t->requesting = false;
	if (rc == 1) {
		t->granted_ns = m->min_hold_ns ? ts_exec_now(m->a.exec) : 0;
		t->unused = true;
		tok_value_news(m, t);
	}
	return rc;
}

/* Serves the queue as far as it goes. 0 = look at the head again. */
static int serve_head(struct tok_mgr *m, struct tok *t)
{
	struct tok_waiter *w = ts_list_entry(t->waiters.next, struct tok_waiter, link);
	if (!local_free(t, w->mode, w->flags))
		return 1;
	if (held(t, w->mode, w->start, w->end)) {
		count_pin(m, t, w->mode, w->start, w->end);
		wake(w, 0);
		return 0;
	}
	if (t->requesting)
		return 1;
	int rc = ask(m, t, w);
	if (rc < 0)
		wake(w, rc);
	else if (rc == 0) /* from here on it means waiting for another node */
		tok_fail_waiters(m, t, TOK_NOWAIT, -TS_ERR_WOULD_WAIT);
	return rc == 0;
}

void tok_serve(struct tok_mgr *m, struct tok *t)
{
	if (t->serving || m->failed)
		return;
	t->serving = true;
	while (!ts_list_empty(&t->waiters) && serve_head(m, t) == 0)
		;
	t->serving = false;
}

void tok_granted(void *arg, struct dlm_req *q)
{
	struct tok_mgr *m = arg;
	struct tok *t = TS_CONTAINER(q, struct tok, req);
	t->requesting = false;
	t->unused = true;
	t->granted_ns = ts_exec_now(m->a.exec);
	tok_value_news(m, t);
	if (t->asked_ahead)
		tok_ahead_came(m, t);
	tok_serve(m, t);
	tok_settle(m, t);
}

void tok_denied(void *arg, struct dlm_req *q, int err)
{
	struct tok_mgr *m = arg;
	struct tok *t = TS_CONTAINER(q, struct tok, req);
	t->requesting = false;
	if (t->asked_ahead) /* who waits by now asks in earnest */
		tok_ahead_denied(m, t);
	else if (!ts_list_empty(&t->waiters))
		wake(ts_list_entry(t->waiters.next, struct tok_waiter, link), err);
	tok_serve(m, t);
	tok_settle(m, t);
}

/* ---- pin and unpin
 * --------------------------------------------------------------------------------------------------*/

/* What NOWAIT and TRY promise not to wait for. */
static bool would_wait(const struct tok *t, enum tok_mode mode, unsigned flags)
{
	if (flags & TOK_TRY)
		return !ts_list_empty(&t->waiters) || !local_free(t, mode, flags) || t->requesting;
	return flags & TOK_NOWAIT &&
	       (t->requesting || !dlm_covers((enum dlm_mode)t->allow, (enum dlm_mode)mode));
}

static int pin_slowly(struct tok_mgr *m, struct tok *t, enum tok_mode mode, uint64_t start, uint64_t end, unsigned flags)
{
	struct tok_waiter w = {.mode = mode, .flags = flags, .start = start, .end = end};
	const struct dlm_key key = t->res.key; /* t may be gone when a wait ends in an error */
	bool late = flags & TOK_LATE && held(t, mode, start, end) && allowed(t, mode, flags);
	if (!late && would_wait(t, mode, flags)) {
		tok_settle(m, t);
		return -TS_ERR_WOULD_WAIT;
	}
	ts_done_init(&w.done);
	if (late)
		ts_list_push_front(&t->waiters, &w.link);
	else
		ts_list_push_back(&t->waiters, &w.link);
	ts_list_del(&t->lru);
	dlm_now(m->dlm, ts_exec_now(m->a.exec));
	tok_serve(m, t);
	int rc = w.done.rc;
	if (!w.done.done) {
		TS_ASSERT(ts_fiber_self());
		if (t->requesting && m->a.events.missed)
			m->a.events.missed(m->a.events.arg, (enum tok_kind)key.kind, key.id, mode);
		uint64_t begun = ts_exec_now(m->a.exec);
		rc = ts_done_wait(&w.done, tok_wait_name((enum tok_kind)key.kind, mode), key.id,
				  dlm_master(m->dlm, key));
		ts_hist_add(&m->st.wait_time, ts_exec_now(m->a.exec) - begun);
	}
	if (rc && (t = tok_find(m, (enum tok_kind)key.kind, key.id)))
		tok_settle(m, t);
	return rc;
}

static int before_wait(struct tok_mgr *m, enum tok_kind kind, uint64_t id, enum tok_mode mode, unsigned flags)
{
	if (kind != TOK_DIR || mode == TOK_SH || flags & (TOK_NOWAIT | TOK_TRY) || !m->a.events.before_wait)
		return 0;
	const struct tok *t = tok_find(m, kind, id);
	return t && held(t, mode, 0, TOK_END) && allowed(t, mode, flags) ? 0 : m->a.events.before_wait(m->a.events.arg, kind, id);
}

int tok_pin(struct tok_mgr *m, enum tok_kind kind, uint64_t id, enum tok_mode mode, uint64_t start,
	    uint64_t end, unsigned flags, struct tok_pin *out)
{
	*out = (struct tok_pin){0};
	TS_ASSERT(start <= end && mode != TOK_NL);
	if (kind != TOK_DATA) {
		start = 0;
		end = TOK_END;
	}
	int rc = before_wait(m, kind, id, mode, flags);
	if (rc || m->failed)
		return rc ? rc : -TS_ERR_FENCED;
	struct tok *t = tok_get(m, kind, id);
	if (!t)
		return -ENOMEM;
	if (held(t, mode, start, end) && local_free(t, mode, flags) && (ts_list_empty(&t->waiters) || flags & TOK_LATE)) {
		m->st.pin_hits++;
		ts_list_del(&t->lru);
		count_pin(m, t, mode, start, end);
	} else {
		rc = pin_slowly(m, t, mode, start, end, flags);
		if (rc)
			return rc;
		if (m->ntoks > m->a.max_tokens)
			tok_lru_bound(m);
	}
	*out = (struct tok_pin){.tok = t, .mode = mode, .start = start, .end = end};
	return 0;
}

void tok_unpin(struct tok_mgr *m, struct tok_pin *p)
{
	struct tok *t = p->tok;
	if (!t)
		return;
	unsigned *n = p->mode == TOK_SH ? &t->nsh : &t->nex;
	TS_ASSERT(*n > 0);
	--*n;
	*p = (struct tok_pin){0};
	if (t->nex || t->nsh)
		return;
	if (t->revoke_queued)
		ts_cond_broadcast(&t->drained);
	if (!ts_list_empty(&t->waiters))
		tok_serve(m, t);
	tok_settle(m, t);
}

bool tok_cached(struct tok_mgr *m, enum tok_kind kind, uint64_t id, enum tok_mode mode)
{
	const struct tok *t = tok_find(m, kind, id);
	return t && !m->failed && !t->revoke_begun && held(t, mode, 0, TOK_END);
}
bool tok_wanted(struct tok_mgr *m, enum tok_kind kind, uint64_t id)
{
	const struct tok *t = tok_find(m, kind, id);
	return t && !ts_list_empty(&t->waiters);
}
bool tok_holds(struct tok_mgr *m, enum tok_kind kind, uint64_t id, enum tok_mode mode, uint64_t start, uint64_t end)
{
	const struct tok *t = tok_find(m, kind, id);
	return t && !m->failed && held(t, mode, start, end);
}
bool tok_revoke_pending(struct tok_mgr *m, enum tok_kind kind, uint64_t id)
{
	const struct tok *t = tok_find(m, kind, id);
	return t && t->revoke_begun;
}
bool tok_is_master(struct tok_mgr *m, enum tok_kind kind, uint64_t id)
{
	return dlm_master(m->dlm, (struct dlm_key){.id = id, .kind = kind}) == m->a.self;
}
