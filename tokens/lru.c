/* SPDX-License-Identifier: Apache-2.0 */
/* The bound: more than max_tokens tokens here, and the oldest idle ones are given back, a few at a time; and
 * drain, which gives everything back. Must never happen: a pinned token is dropped; drain hands a segment's
 * lock table to another node while this node's own tokens still fill it (segments go last). */
#include "tokens/tokens_int.h"

void tok_drop(struct tok_mgr *m, struct tok *t)
{
	if (t->drop || t->revoke_queued)
		return;
	t->drop = true;
	m->dropping++;
	tok_revoke_queue(m, t);
}

void tok_lru_bound(struct tok_mgr *m)
{
	while (!m->failed && m->ntoks > m->a.max_tokens + m->dropping && m->dropping < TOK_DROPS_AT_ONCE &&
	       !ts_list_empty(&m->lru))
		tok_drop(m, ts_list_entry(m->lru.next, struct tok, lru));
}

void tok_drop_hint(struct tok_mgr *m, enum tok_kind kind, uint64_t id)
{
	struct tok *t = tok_find(m, kind, id);
	if (t && !m->failed && !ts_list_empty(&t->lru))
		tok_drop(m, t);
}

static void drop_some(struct tok_mgr *m, struct ts_list *idle)
{
	while (m->dropping < TOK_REVOKE_FIBERS && !ts_list_empty(idle))
		tok_drop(m, ts_list_entry(idle->next, struct tok, lru));
}

int tok_mgr_drain(struct tok_mgr *m)
{
	while (!m->failed && (m->ntoks || dlm_tick_wanted(m->dlm))) {
		if (m->nkept) {
			tok_kept_clear_one(m);
			continue;
		}
		drop_some(m, m->ntoks > m->nsegments ? &m->lru : &m->lru_segments);
		if (m->ntoks)
			ts_cond_wait(&m->shrunk, "tokens given back", m->ntoks, m->nsegments);
		else
			ts_sleep_until(ts_exec_now(m->a.exec) + TOK_RETRY_NS);
	}
	return m->failed ? -TS_ERR_FENCED : 0;
}
