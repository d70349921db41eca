/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated ordered multicast and its membership, shaped like corosync: messages of one configuration reach all its
 * members in one order; when a member is unreachable the ring carries nothing until the token time-out, then forms
 * configurations of those who reach each other, and what was waiting is sent there. A process that exits on a living machine
 * is reported at once, within the configuration. */
#include "tests/sim/sim.h"

#define TOKEN_NS (1500 * TS_NS_PER_MS)

enum item_kind { ITEM_MSG, ITEM_CONF };
struct item {
	struct ts_list link;
	enum item_kind kind;
	uint64_t due;
	unsigned src;
	uint32_t src_pid;
	size_t len;
	uint8_t *data;
	/* ITEM_CONF */
	struct quorum_ring_member members[SIM_NODES], left[SIM_NODES], joined[SIM_NODES];
	unsigned nmembers, nleft, njoined;
	bool by_exit, quorate;
	uint64_t ring_seq;
};
struct station { /* the ring as one machine sees it */
	struct quorum_ring_member conf[SIM_NODES]; /* last configuration put into its queue */
	unsigned nconf;
	unsigned comp; /* component it is in; 0 = down */
	struct sim_life *member; /* daemon that joined the group */
	struct ts_list inbox, outbox;
	bool armed;
	uint64_t last_due;
};
struct sim_ring {
	struct sim *s;
	struct station st[SIM_NODES + 1];
	uint64_t seq, epoch; /* epoch: pending reconfigurations of an older one are void */
	bool stalled;
};

static void item_free(struct item *it)
{
	ts_list_del(&it->link);
	free(it->data);
	free(it);
}

static void list_clear(struct ts_list *l)
{
	while (!ts_list_empty(l))
		item_free(ts_list_entry(l->next, struct item, link));
}

static void give(struct sim_ring *r, unsigned id, struct item *it)
{
	struct sim_life *l = r->st[id].member;
	if (!l || !l->alive)
		return;
	if (it->kind == ITEM_MSG) {
		quorum_core_deliver(l->quorum, it->src, it->src_pid, it->data, it->len);
		return;
	}
	quorum_core_confchg(l->quorum, it->members, it->nmembers, it->left, it->nleft, it->by_exit, it->joined, it->njoined, it->ring_seq);
	quorum_core_needed(l->quorum, r->s->nnodes / 2 + 1);
	quorum_core_expected(l->quorum, r->s->nnodes);
	if (l->alive)
		quorum_core_quorate(l->quorum, it->quorate, it->ring_seq);
}

static void inbox_pump(void *arg, uint64_t id, uint64_t b)
{
	struct sim_ring *r = arg;
	struct station *st = &r->st[id];
	st->armed = false;
	while (!ts_list_empty(&st->inbox)) {
		struct item *it = ts_list_entry(st->inbox.next, struct item, link);
		if (sim_frozen(r->s, st->member))
			it->due = TS_MAX(it->due, st->member->frozen_until);
		if (it->due > r->s->now) {
			st->armed = true;
			sim_at(r->s, it->due, inbox_pump, r, id, 0);
			return;
		}
		ts_list_del(&it->link);
		give(r, (unsigned)id, it);
		item_free(it);
	}
}

static void push(struct sim_ring *r, unsigned id, const struct item *tmpl)
{
	struct station *st = &r->st[id];
	struct item *it = malloc(sizeof(*it));
	TS_ASSERT(it);
	*it = *tmpl;
	ts_list_init(&it->link);
	if (tmpl->data) {
		it->data = malloc(tmpl->len ? tmpl->len : 1);
		TS_ASSERT(it->data);
		memcpy(it->data, tmpl->data, tmpl->len);
	}
	it->due = TS_MAX(st->last_due, r->s->now + 50000 + sim_below(r->s, sim_chance(r->s, 3) ? 30 * TS_NS_PER_MS : 400000));
	st->last_due = it->due;
	ts_list_push_back(&st->inbox, &it->link);
	if (!st->armed) {
		st->armed = true;
		sim_at(r->s, it->due, inbox_pump, r, id, 0);
	}
}

/* One message takes its place in the order of its component: it goes into every member's queue at one instant. */
static void sequence(void *arg, uint64_t id, uint64_t b)
{
	struct sim_ring *r = arg;
	struct station *st = &r->st[id];
	if (r->stalled || !st->comp)
		return; /* sent on when the new configuration stands */
	while (!ts_list_empty(&st->outbox)) {
		struct item *it = ts_list_entry(st->outbox.next, struct item, link);
		for (unsigned k = 1; k <= r->s->nnodes; k++)
			if (r->st[k].comp == st->comp && r->st[k].member)
				push(r, k, it);
		item_free(it);
	}
}

static int mcast(void *arg, const void *msg, size_t len)
{
	struct sim_life *l = arg;
	struct sim_ring *r = l->node->sim->ring;
	struct item *it = calloc(1, sizeof(*it));
	TS_ASSERT(it);
	it->kind = ITEM_MSG;
	it->src = l->node->id;
	it->src_pid = l->pid;
	it->len = len;
	it->data = malloc(len ? len : 1);
	TS_ASSERT(it->data);
	memcpy(it->data, msg, len);
	ts_list_push_back(&r->st[l->node->id].outbox, &it->link);
	sim_in(r->s, 80000 + sim_below(r->s, 300000), sequence, r, l->node->id, 0);
	return 0;
}

static void leave(void *arg)
{
	sim_ring_exit(arg, false);
}

struct quorum_carrier_ops sim_ring_carrier(struct sim_life *l)
{
	return (struct quorum_carrier_ops){mcast, leave, l};
}

/* The configuration of a component as it stands, put into each member's queue with what changed for that member. */
static void conf_push(struct sim_ring *r, unsigned comp, bool by_exit)
{
	struct item base = {.kind = ITEM_CONF, .by_exit = by_exit, .ring_seq = ++r->seq};
	unsigned machines = 0;
	for (unsigned k = 1; k <= r->s->nnodes; k++) {
		if (r->st[k].comp != comp)
			continue;
		machines++;
		if (r->st[k].member)
			base.members[base.nmembers++] = (struct quorum_ring_member){k, r->st[k].member->pid};
	}
	base.quorate = machines > r->s->nnodes / 2;
	for (unsigned k = 1; k <= r->s->nnodes; k++) {
		struct station *st = &r->st[k];
		if (st->comp != comp || !st->member)
			continue;
		struct item it = base;
		for (unsigned i = 0; i < st->nconf; i++) {
			bool still = false;
			for (unsigned m = 0; m < base.nmembers; m++)
				still |= base.members[m].node == st->conf[i].node && base.members[m].pid == st->conf[i].pid;
			if (!still)
				it.left[it.nleft++] = st->conf[i];
		}
		for (unsigned m = 0; m < base.nmembers; m++) {
			bool old = false;
			for (unsigned i = 0; i < st->nconf; i++)
				old |= base.members[m].node == st->conf[i].node && base.members[m].pid == st->conf[i].pid;
			if (!old)
				it.joined[it.njoined++] = base.members[m];
		}
		memcpy(st->conf, base.members, sizeof(base.members));
		st->nconf = base.nmembers;
		if (it.nleft || it.njoined || !by_exit)
			push(r, k, &it);
	}
}

static void reform(void *arg, uint64_t epoch, uint64_t b)
{
	struct sim_ring *r = arg;
	struct sim *s = r->s;
	unsigned comp = 0, old[SIM_NODES + 1];
	if (epoch != r->epoch)
		return;
	for (unsigned i = 1; i <= s->nnodes; i++) {
		old[i] = r->st[i].comp;
		r->st[i].comp = 0;
	}
	for (unsigned i = 1; i <= s->nnodes; i++) {
		if (!s->nodes[i].machine_up || r->st[i].comp)
			continue;
		comp++;
		for (unsigned k = i; k <= s->nnodes; k++)
			if (s->nodes[k].machine_up && (k == i || (s->reach[i][k] && s->reach[k][i])))
				r->st[k].comp = comp;
	}
	r->stalled = false;
	for (unsigned c = 1; c <= comp; c++)
		conf_push(r, c, false);
	for (unsigned i = 1; i <= s->nnodes; i++)
		sim_in(s, 100000 + sim_below(s, 300000), sequence, r, i, 0);
	(void)old;
}

void sim_ring_reach_changed(struct sim *s)
{
	struct sim_ring *r = s->ring;
	r->stalled = true;
	sim_in(s, TOKEN_NS / 2 + sim_below(s, TOKEN_NS), reform, r, ++r->epoch, 0);
}

static void join(void *arg, uint64_t id, uint64_t incarnation)
{
	struct sim_ring *r = arg;
	struct sim_life *l = sim_life(r->s, (unsigned)id);
	if (!l || l->incarnation != incarnation)
		return;
	if (r->stalled || !r->st[id].comp) { /* its corosync is not in the ring yet */
		sim_in(r->s, 50 * TS_NS_PER_MS, join, r, id, incarnation);
		return;
	}
	r->st[id].member = l;
	r->st[id].nconf = 0;
	conf_push(r, r->st[id].comp, true);
}

void sim_ring_join(struct sim_life *l)
{
	sim_in(l->node->sim, TS_NS_PER_MS + sim_below(l->node->sim, 20 * TS_NS_PER_MS), join, l->node->sim->ring, l->node->id, l->incarnation);
}

void sim_ring_exit(struct sim_life *l, bool machine_died)
{
	struct sim *s = l->node->sim;
	struct sim_ring *r = s->ring;
	struct station *st = &r->st[l->node->id];
	if (machine_died)
		list_clear(&st->outbox); /* a process that exits has given its messages to its corosync already */
	list_clear(&st->inbox);
	if (st->member == l) {
		st->member = NULL;
		st->nconf = 0;
		if (!machine_died && !r->stalled && st->comp)
			conf_push(r, st->comp, true);
	}
	if (machine_died) {
		s->nodes[l->node->id].machine_up = false;
		sim_ring_reach_changed(s);
	}
}

void sim_ring_new(struct sim *s)
{
	s->ring = calloc(1, sizeof(*s->ring));
	TS_ASSERT(s->ring);
	s->ring->s = s;
	for (unsigned i = 0; i <= SIM_NODES; i++) {
		ts_list_init(&s->ring->st[i].inbox);
		ts_list_init(&s->ring->st[i].outbox);
	}
}

void sim_ring_free(struct sim *s)
{
	for (unsigned i = 0; i <= SIM_NODES; i++) {
		list_clear(&s->ring->st[i].inbox);
		list_clear(&s->ring->st[i].outbox);
	}
	free(s->ring);
}
