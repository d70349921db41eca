/* SPDX-License-Identifier: Apache-2.0 */
/* Values of SW holders (dlm/dlm.h): given in the revoke call-back, taken under a pin by whoever got the token alone.
 *
 *   give --> kept here --a grant of SH or EX, or of EX with the value--> forgotten or taken
 *
 * Must never happen: a value is forgotten while nobody is known to have it; values kept without bound: beyond TOK_KEPT_MAX the
 * oldest are asked for in SH, which makes somebody write them down. */
#include "tokens/tokens_int.h"

static void kept_update(struct tok_mgr *m, struct tok *t)
{
	bool in = !ts_list_empty(&t->kept);
	if (t->res.keep.set == in)
		return;
	if (in) {
		ts_list_del(&t->kept);
		m->nkept--;
	} else {
		ts_list_push_back(&m->kept, &t->kept);
		m->nkept++;
	}
}

void tok_value_news(struct tok_mgr *m, struct tok *t)
{
	kept_update(m, t);
	if (t->res.got.set && !t->has_got) {
		t->has_got = true;
		m->ngot++;
	}
}

void tok_value_give(struct tok_mgr *m, enum tok_kind kind, uint64_t id, const struct tok_value *v)
{
	struct tok *t = tok_find(m, kind, id);
	TS_ASSERT(t && dlm_holds(&t->res, DLM_SW, 0, TOK_END));
	dlm_value_give(&t->res, &(struct dlm_value){.era = v->era, .high = v->high, .time = v->time, .set = true});
	kept_update(m, t);
	tok_kept_bound(m);
}

bool tok_value_came(struct tok_mgr *m, enum tok_kind kind, uint64_t id)
{
	const struct tok *t = m->ngot ? tok_find(m, kind, id) : NULL;
	return t && t->has_got;
}

bool tok_value_take(struct tok_mgr *m, enum tok_kind kind, uint64_t id, struct tok_value *out)
{
	struct tok *t = m->ngot ? tok_find(m, kind, id) : NULL;
	struct dlm_value v;
	if (!t || !t->has_got || !dlm_value_take(&t->res, &v))
		return false;
	TS_ASSERT(dlm_holds(&t->res, DLM_EX, 0, TOK_END));
	t->has_got = false;
	m->ngot--;
	*out = (struct tok_value){.era = v.era, .high = v.high, .time = v.time};
	return true;
}

bool tok_value_kept(struct tok_mgr *m, enum tok_kind kind, uint64_t id, struct tok_value *out)
{
	struct tok *t = m->nkept ? tok_find(m, kind, id) : NULL;
	if (!t || !t->res.keep.set)
		return false;
	*out = (struct tok_value){.era = t->res.keep.era, .high = t->res.keep.high, .time = t->res.keep.time};
	return true;
}

void tok_kept_clear_one(struct tok_mgr *m)
{
	struct tok *t = ts_list_entry(m->kept.next, struct tok, kept);
	struct tok_pin pin;
	if (tok_pin(m, (enum tok_kind)t->res.key.kind, t->res.key.id, TOK_SH, 0, TOK_END, 0, &pin))
		ts_fiber_yield(); /* no memory, or failed: the caller looks */
	else
		tok_unpin(m, &pin);
}

static void keeper(void *arg)
{
	struct tok_mgr *m = arg;
	while (!m->failed && m->nkept > TOK_KEPT_MAX / 2)
		tok_kept_clear_one(m);
	m->keeper = false;
}

void tok_kept_bound(struct tok_mgr *m)
{
	if (m->nkept > TOK_KEPT_MAX && !m->keeper && ts_fiber_spawn(m->a.exec, "values kept", keeper, m) == 0)
		m->keeper = true;
}
