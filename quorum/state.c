/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the replicated state and its transitions, as pure functions. Must never happen: an excluded incarnation becomes a
 * member again; a dead member of a group leaves it without becoming pending; pending shrinks but by Q_RECOVERED. */
#include "quorum/quorum_int.h"

struct quorum_group_view *q_group_find(struct q_state *s, uint64_t group)
{
	for (unsigned i = 0; i < s->ngroups; i++)
		if (s->groups[i].group == group)
			return &s->groups[i];
	return NULL;
}

struct q_member *q_member_find(struct q_state *s, unsigned node, uint64_t inc)
{
	for (unsigned i = 0; i < s->nmembers; i++)
		if (s->members[i].pub.node == node && s->members[i].pub.incarnation == inc)
			return &s->members[i];
	return NULL;
}

bool q_in_group(const struct quorum_group_view *g, unsigned node, uint64_t inc)
{
	for (unsigned i = 0; i < g->nmembers; i++)
		if (g->members[i].node == node && g->members[i].incarnation == inc)
			return true;
	return false;
}

bool quorum_group_predecessor_pending(const struct quorum_group_view *g, unsigned node)
{
	for (unsigned i = 0; i < g->npending; i++)
		if (g->pending[i].node == node)
			return true;
	return false;
}

void q_state_copy(struct q_state *to, const struct q_state *from)
{
	memcpy(to, from, offsetof(struct q_state, groups));
	memcpy(to->groups, from->groups, from->ngroups * sizeof(from->groups[0]));
}

static void group_remove(struct quorum_group_view *g, unsigned i)
{
	memmove(&g->members[i], &g->members[i + 1], (g->nmembers - i - 1) * sizeof(g->members[0]));
	g->nmembers--;
}

/* Room in pending is kept for every member when it joins, so this cannot fail. */
static bool group_lose(struct q_state *s, struct quorum_group_view *g, unsigned node, uint64_t inc)
{
	for (unsigned i = 0; i < g->nmembers; i++) {
		if (g->members[i].node != node || g->members[i].incarnation > inc)
			continue;
		TS_ASSERT(g->npending < QUORUM_MAX_NODES);
		g->pending[g->npending++] = g->members[i];
		group_remove(g, i);
		g->epoch = ++s->epochs;
		return true;
	}
	return false;
}

void q_state_exclude(struct q_state *s, unsigned node, uint64_t inc)
{
	s->excluded[node] = TS_MAX(s->excluded[node], inc);
	for (unsigned i = 0; i < s->nmembers; i++) {
		if (s->members[i].pub.node != node || s->members[i].pub.incarnation > inc)
			continue;
		memmove(&s->members[i], &s->members[i + 1], (s->nmembers - i - 1) * sizeof(s->members[0]));
		s->nmembers--;
		break;
	}
	for (unsigned i = 0; i < s->ngroups; i++)
		while (group_lose(s, &s->groups[i], node, inc))
			;
}

static bool slot_taken(const struct quorum_group_view *g, const struct q_op *op)
{
	for (unsigned i = 0; i < g->nmembers; i++)
		if (op->slot != UINT32_MAX && g->members[i].slot == op->slot && g->members[i].node != op->req_node)
			return true;
	return false;
}

/* Who is the arbiter may be changed by those only who do not need one. */
static bool tie_set(struct q_state *s, const struct q_op *op)
{
	uint64_t version = s->tie.version + 1;

	if (s->by != QUORUM_BY_MAJORITY)
		return false;
	s->tie = op->tie;
	s->tie.version = version;
	return true;
}

static bool group_join(struct q_state *s, const struct q_op *op)
{
	struct quorum_group_view *g = q_group_find(s, op->group);
	struct quorum_member m = {.node = op->req_node, .incarnation = op->req_inc, .slot = op->slot};
	unsigned at = 0;

	if (!g) {
		if (s->ngroups == QUORUM_MAX_GROUPS)
			return false;
		g = &s->groups[s->ngroups++];
		memset(g, 0, sizeof(*g));
		g->group = op->group;
	}
	if (slot_taken(g, op)) {
		ts_err("quorum: node %u claims log slot %u of group %#lx, which a living member has: refused", op->req_node,
		       op->slot, op->group);
		return false;
	}
	while (at < g->nmembers && g->members[at].node < m.node)
		at++;
	if (at < g->nmembers && g->members[at].node == m.node) {
		if (g->members[at].slot == m.slot)
			return false;
	} else {
		if (g->nmembers + g->npending >= QUORUM_MAX_NODES)
			return false; /* until a recovery is complete: every member must find room in pending */
		memmove(&g->members[at + 1], &g->members[at], (g->nmembers - at) * sizeof(g->members[0]));
		g->nmembers++;
	}
	g->members[at] = m;
	g->epoch = ++s->epochs;
	return true;
}

static bool group_leave(struct q_state *s, const struct q_op *op)
{
	struct quorum_group_view *g = q_group_find(s, op->group);

	for (unsigned i = 0; g && i < g->nmembers; i++) {
		if (g->members[i].node != op->req_node || g->members[i].incarnation != op->req_inc)
			continue;
		group_remove(g, i);
		g->epoch = ++s->epochs;
		return true;
	}
	return false;
}

static bool group_recovered(struct q_state *s, const struct q_op *op)
{
	struct quorum_group_view *g = q_group_find(s, op->group);

	for (unsigned i = 0; g && i < g->npending; i++) {
		if (g->pending[i].node != op->node || g->pending[i].incarnation != op->inc)
			continue;
		memmove(&g->pending[i], &g->pending[i + 1], (g->npending - i - 1) * sizeof(g->pending[0]));
		g->npending--;
		g->epoch = ++s->epochs;
		return true;
	}
	return false;
}

/* A group that nobody is in and nobody must recover is forgotten; epochs go on from s->epochs. */
static void forget_empty(struct q_state *s)
{
	for (unsigned i = 0; i < s->ngroups; i++) {
		if (s->groups[i].nmembers || s->groups[i].npending)
			continue;
		s->groups[i--] = s->groups[--s->ngroups];
	}
}

bool q_state_apply(struct q_state *s, const struct q_op *op)
{
	struct q_member *m = q_member_find(s, op->req_node, op->req_inc);
	bool changed = false;

	if (!m || op->reqid <= m->last_reqid)
		return false; /* asked by an incarnation that is not in the view, or asked again after it was done */
	m->last_reqid = op->reqid;
	switch (op->kind) {
	case Q_JOIN:
		changed = group_join(s, op);
		break;
	case Q_LEAVE:
		changed = group_leave(s, op);
		break;
	case Q_RECOVERED:
		changed = group_recovered(s, op);
		break;
	case Q_TIE:
		changed = tie_set(s, op);
		break;
	case Q_EVICT:
		break;
	}
	forget_empty(s);
	return changed;
}
