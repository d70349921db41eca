/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens asked for ahead: how often a seed did that and what became of it, and a plant: whoever says that it keeps what another node
 * asked ahead is understood to have given it up. Must never happen: a run that calls itself good and never asked ahead. */
#include "dlm/dlm_int.h"
#include "tests/sim/sim.h"
#include "tokens/tokens.h"

void sim_ahead_count(struct sim_life *l)
{
	struct sim *s = l->node->sim;
	struct tok_stats st;
	if (!l->fs || !fs_tokens(l->fs))
		return;
	tok_stats_get(fs_tokens(l->fs), &st);
	s->ahead_came += st.ahead_came;
	s->ahead_used += st.ahead_used;
	s->ahead_refused += st.ahead_refused;
	s->ahead_lost += st.ahead_lost;
	s->token_frames += st.frames;
	s->token_frames_many += st.frames_many;
}

static void one_gives(uint16_t type, struct dlm_lock_msg *m)
{
	if (type == DLM_RELEASE && m->mode == DLM_EX)
		m->mode = DLM_NL;
}

void sim_ahead_refusal_gives(const struct net_out *o, void *payload)
{
	struct dlm_many_msg *h = payload;
	struct dlm_one_msg *one = (struct dlm_one_msg *)(h + 1);
	if (o->type == DLM_RELEASE)
		one_gives(o->type, payload);
	for (unsigned i = 0; o->type == DLM_MANY && i < le16_get(h->count); i++)
		one_gives(le16_get(one[i].type), &one[i].m);
}
