/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated network between daemons: per (sender, receiver, lane) first in first out, delays drawn per message, so that
 * lanes and peers overtake each other. A cut pair keeps its messages, as TCP would, until it heals or a side is dropped. */
#include "net/net_int.h"
#include "tests/sim/sim.h"

struct msg {
	struct ts_list link;
	uint64_t due, src_inc, dst_inc, lamport, call_id;
	struct net_out o;
	int result;
	bool reply;
	uint8_t payload[];
};
struct pair {
	struct ts_list q[NET_LANES];
	bool armed[NET_LANES];
	uint64_t last[NET_LANES];
};
struct sim_net {
	struct pair p[SIM_NODES + 1][SIM_NODES + 1];
};

static void pump(void *arg, uint64_t from_to, uint64_t lane);

static void arm(struct sim *s, unsigned from, unsigned to, unsigned lane, uint64_t when)
{
	struct pair *p = &s->net->p[from][to];
	if (p->armed[lane])
		return;
	p->armed[lane] = true;
	sim_at(s, TS_MAX(when, s->now), pump, s, (uint64_t)from << 8 | to, lane);
}

static void pump(void *arg, uint64_t from_to, uint64_t lane)
{
	struct sim *s = arg;
	unsigned from = (unsigned)(from_to >> 8), to = (unsigned)(from_to & 255);
	struct pair *p = &s->net->p[from][to];
	p->armed[lane] = false;
	while (!ts_list_empty(&p->q[lane])) {
		struct msg *m = ts_list_entry(p->q[lane].next, struct msg, link);
		struct sim_life *d = sim_life(s, to);
		if (sim_frozen(s, d))
			m->due = TS_MAX(m->due, d->frozen_until);
		if (m->due > s->now) {
			arm(s, from, to, (unsigned)lane, m->due);
			return;
		}
		if (!s->reach[from][to])
			return; /* pumped again when healed */
		struct sim_life *src = sim_life(s, from);
		bool known = d && d->net->peer[from] == m->src_inc;
		bool drop = !d || d->incarnation != m->dst_inc || (!known && (!src || src->incarnation != m->src_inc));
		if (!drop && !known) { /* names an older life of the sender, or none, or no more: as TCP's parked connections, it waits */
			arm(s, from, to, (unsigned)lane, s->now + TS_NS_PER_MS);
			return;
		}
		ts_list_del(&m->link);
		if (!drop) {
			struct net_msg nm = {.src_node = from, .src_incarnation = m->src_inc, .lane = m->o.lane, .type = m->o.type,
					     .group = m->o.group, .view = m->o.view, .lamport = m->lamport, .call_id = m->call_id,
					     .ship_slot = m->o.ship_slot, .result = m->result, .payload = m->payload, .len = m->o.len};
			s->messages++;
			net_deliver(d->net, &nm, m->reply);
		}
		free(m);
	}
}

static int send(struct net *n, const struct net_out *o, uint64_t call_id, int result, bool reply)
{
	struct sim_life *l = net_priv(n);
	struct sim *s = l->node->sim;
	struct pair *p = &s->net->p[l->node->id][o->dst_node];
	if (s->plant && !strcmp(s->plant, "lost-locks") && sim_lock_state(o))
		return 0;
	struct msg *m = malloc(sizeof(*m) + o->len);
	TS_ASSERT(m);
	uint64_t delay = 20000 + sim_below(s, 150000);
	if (sim_chance(s, 2))
		delay += sim_below(s, 20 * TS_NS_PER_MS);
	*m = (struct msg){.due = TS_MAX(s->now + delay, p->last[o->lane]), .src_inc = l->incarnation, .dst_inc = n->peer[o->dst_node],
			  .lamport = net_lamport_tick(n), .call_id = call_id, .o = *o, .result = result, .reply = reply};
	if (o->len)
		memcpy(m->payload, o->payload, o->len);
	if (s->plant && !strcmp(s->plant, "refusal-gives"))
		sim_ahead_refusal_gives(o, m->payload);
	p->last[o->lane] = m->due;
	ts_list_push_back(&p->q[o->lane], &m->link);
	arm(s, l->node->id, o->dst_node, o->lane, m->due);
	return 0;
}

static void purge(struct sim *s, unsigned from, unsigned to)
{
	struct ts_list *e;
	for (unsigned lane = 0; lane < NET_LANES; lane++)
		while ((e = ts_list_pop_front(&s->net->p[from][to].q[lane])))
			free(ts_list_entry(e, struct msg, link));
}

static void peer_set(struct net *n, unsigned node, uint64_t incarnation, const char *addr, unsigned port)
{
}

static void peer_drop(struct net *n, unsigned node)
{
	struct sim_life *l = net_priv(n);
	purge(l->node->sim, l->node->id, node);
}

static void net_gone(struct net *n)
{
}

static void stats(struct net *n, struct net_stats *out)
{
	memset(out, 0, sizeof(*out));
}

static const struct net_ops ops = {send, peer_set, peer_drop, net_gone, stats, NULL};

struct net *sim_net_open(struct sim_life *l)
{
	return net_new(l->x, l->node->id, l->incarnation, &ops, l);
}

void sim_net_life_dead(struct sim_life *l)
{
	/* What it had sent may still arrive; what is on its way to it is lost with its sockets. */
	for (unsigned i = 1; i <= SIM_NODES; i++)
		purge(l->node->sim, i, l->node->id);
}

void sim_net_healed(struct sim *s)
{
	for (unsigned i = 1; i <= s->nnodes; i++)
		for (unsigned k = 1; k <= s->nnodes; k++)
			for (unsigned lane = 0; lane < NET_LANES; lane++)
				if (s->reach[i][k] && !ts_list_empty(&s->net->p[i][k].q[lane]))
					arm(s, i, k, lane, s->now + 1000 + sim_below(s, 2 * TS_NS_PER_MS));
}

void sim_net_new(struct sim *s)
{
	s->net = calloc(1, sizeof(*s->net));
	TS_ASSERT(s->net);
	for (unsigned i = 0; i <= SIM_NODES; i++)
		for (unsigned k = 0; k <= SIM_NODES; k++)
			for (unsigned lane = 0; lane < NET_LANES; lane++)
				ts_list_init(&s->net->p[i][k].q[lane]);
}

void sim_net_free(struct sim *s)
{
	for (unsigned i = 0; i <= SIM_NODES; i++)
		for (unsigned k = 0; k <= SIM_NODES; k++)
			purge(s, i, k);
	free(s->net);
}
