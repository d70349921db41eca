/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens that nobody here needs yet, asked for because they are likely to be wanted next.
 *
 *   tok_ahead --> asked --granted--> came (unused) --first pin--> an ordinary token
 *                       --refused--> nothing          --revoked, or not used for 3 s--> lost
 *   a pin meanwhile waits for the answer, and asks in earnest when it is no
 *
 * Must never happen: a pin fails because what was asked ahead was refused; another node waits for the minimum hold of a token that
 * nobody here has used; asking or keeping ahead without bound, or for ever what only a revoke would bring back. */
#include "tokens/tokens_int.h"

static void tell(struct tok_mgr *m, const struct tok *t, enum tok_mode mode, enum tok_ahead_news news)
{
	if (m->a.events.ahead)
		m->a.events.ahead(m->a.events.arg, (enum tok_kind)t->res.key.kind, t->res.key.id, mode, news);
}

/* Holder: a token is not given away while it is in use, was not used yet, or is fought for. */
bool tok_ahead_ok(void *arg, struct dlm_key key, bool holder)
{
	struct tok_mgr *m = arg;
	const struct tok *t = holder ? tok_find(m, (enum tok_kind)key.kind, key.id) : NULL;
	if (t && (t->nsh || t->nex || t->requesting || t->unused || !ts_list_empty(&t->waiters) || tok_contended(m, t)))
		return false;
	return !m->a.events.ahead_ok || m->a.events.ahead_ok(m->a.events.arg, (enum tok_kind)key.kind, key.id);
}

static bool worth_asking(const struct tok_mgr *m, const struct tok *t, enum tok_mode mode)
{
	return !t->requesting && !t->revoke_queued && !t->drop && !t->serving && !t->nsh && !t->nex && ts_list_empty(&t->waiters) &&
	       !tok_contended(m, t) && !dlm_holds(&t->res, (enum dlm_mode)mode, 0, TOK_END);
}

static bool ask(struct tok_mgr *m, struct tok *t, enum tok_mode mode)
{
	t->req = (struct dlm_req){.end = TOK_END, .dend = TOK_END, .mode = mode, .flags = DLM_F_AHEAD};
	t->requesting = t->asked_ahead = t->serving = true; /* serving: an answer from inside must not free it */
	m->ahead_out++;
	ts_list_del(&t->lru);
	int rc = dlm_request(m->dlm, &t->res, &t->req);
	if (rc == 1) {
		t->requesting = false;
		t->unused = true;
		t->granted_ns = ts_exec_now(m->a.exec);
		tok_value_news(m, t);
		tok_ahead_came(m, t);
	} else if (rc < 0) {
		t->requesting = t->asked_ahead = false;
		m->ahead_out--;
	}
	t->serving = false;
	tok_settle(m, t);
	return rc >= 0;
}

unsigned tok_ahead(struct tok_mgr *m, enum tok_kind kind, enum tok_mode mode, const uint64_t *ids, unsigned n)
{
	unsigned asked = 0;
	TS_ASSERT(mode == TOK_SH || mode == TOK_EX);
	if (m->failed || !dlm_ready(m->dlm))
		return 0;
	dlm_now(m->dlm, ts_exec_now(m->a.exec));
	for (unsigned i = 0; i < n && m->ahead_out < TOK_AHEAD_OUT && m->ntoks < m->a.max_tokens; i++) {
		const struct tok *have = tok_find(m, kind, ids[i]);
		if (have && !worth_asking(m, have, mode))
			continue;
		struct tok *t = tok_get(m, kind, ids[i]);
		if (!t)
			break;
		asked += ask(m, t, mode);
	}
	m->st.ahead_asked += asked;
	return asked;
}

static void leave_list(struct tok_mgr *m, struct tok *t)
{
	ts_list_del(&t->ahead);
	m->nahead--;
}

/* Nobody came for them. Some at a time; one that cannot go now (it is being asked for in a higher mode) is looked at again. */
static void age(void *arg)
{
	struct tok_mgr *m = arg;
	uint64_t now = ts_exec_now(m->a.exec);
	unsigned looked = 0;
	ts_list_for_safe(n, tmp, &m->ahead)
	{
		struct tok *t = ts_list_entry(n, struct tok, ahead);
		if (m->dropping >= TOK_DROPS_AT_ONCE || looked++ == TOK_DROPS_AT_ONCE || t->granted_ns + TOK_AHEAD_AGE_NS > now)
			break;
		if (!ts_list_empty(&t->lru))
			tok_drop(m, t);
	}
	if (!ts_list_empty(&m->ahead)) {
		uint64_t oldest = ts_list_entry(m->ahead.next, struct tok, ahead)->granted_ns;
		ts_timer_arm(m->a.exec, &m->ahead_age, TS_MAX(now + 10 * TS_NS_PER_MS, oldest + TOK_AHEAD_AGE_NS), age, m);
	}
}

/* The oldest that nobody wanted make room. */
static void bound(struct tok_mgr *m)
{
	while (m->nahead > TOK_AHEAD_UNUSED) {
		struct tok *old = ts_list_entry(m->ahead.next, struct tok, ahead);
		leave_list(m, old);
		m->st.ahead_lost++;
		if (!ts_list_empty(&old->lru))
			tok_drop(m, old);
	}
}

void tok_ahead_came(struct tok_mgr *m, struct tok *t)
{
	t->asked_ahead = false;
	m->ahead_out--;
	m->st.ahead_came++;
	if (!tok_came_ahead(t)) { /* in a lower mode before, and not used either */
		ts_list_push_back(&m->ahead, &t->ahead);
		m->nahead++;
	}
	if (!m->ahead_age.exec)
		ts_timer_arm(m->a.exec, &m->ahead_age, t->granted_ns + TOK_AHEAD_AGE_NS, age, m);
	tell(m, t, (enum tok_mode)t->req.mode, TOK_AHEAD_CAME);
	bound(m);
}

void tok_ahead_denied(struct tok_mgr *m, struct tok *t)
{
	t->asked_ahead = false;
	m->ahead_out--;
	m->st.ahead_refused++;
	tell(m, t, (enum tok_mode)t->req.mode, TOK_AHEAD_REFUSED);
}

void tok_ahead_used(struct tok_mgr *m, struct tok *t)
{
	leave_list(m, t);
	m->st.ahead_used++;
	tell(m, t, (enum tok_mode)t->req.mode, TOK_AHEAD_USED);
}

void tok_ahead_lost(struct tok_mgr *m, struct tok *t)
{
	leave_list(m, t);
	m->st.ahead_lost++;
	tell(m, t, (enum tok_mode)t->req.mode, TOK_AHEAD_LOST);
}
