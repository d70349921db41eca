/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the membership that fs/ sees in unit tests: one group whose nodes share an executor; every change is delivered to
 * every member in one order, as the real one does. And a net without peers, for its Lamport clock. */
#include "fs_harness.h"

struct quorum {
	struct ts_exec *x;
	unsigned self;
	uint64_t incarnation;
	void (*fn)(void *arg, const struct quorum_group_view *v);
	void *arg;
	bool dead, may_write;
	struct ts_list link;
};
static struct quorum_group_view world;
static struct ts_list nodes = TS_LIST_INIT(nodes);

void fsw_reset(void)
{
	world = (struct quorum_group_view){0};
}

struct quorum *fsw_quorum_new(struct ts_exec *x, unsigned node, uint64_t incarnation)
{
	struct quorum *q = ts_xalloc(sizeof(*q));

	*q = (struct quorum){.x = x, .self = node, .incarnation = incarnation, .may_write = true};
	if (ts_list_empty(&nodes))
		fsw_reset(); /* a cluster that starts */
	ts_list_push_back(&nodes, &q->link);
	return q;
}
void fsw_quorum_views(struct quorum *q, void (*fn)(void *arg, const struct quorum_group_view *v), void *arg)
{
	q->fn = fn;
	q->arg = arg;
}
void fsw_quorum_free(struct quorum *q)
{
	ts_list_del(&q->link);
	ts_free(q);
}
void fsw_quorum_gate(struct quorum *q, bool may_write)
{
	q->may_write = may_write;
}

/* Every view is delivered by a deferred task of its own, in order. */
struct delivery {
	struct ts_task task;
	struct quorum_group_view v;
};
static void deliver(void *arg)
{
	struct delivery *d = arg;

	ts_list_for_safe(i, tmp, &nodes) {
		struct quorum *q = ts_list_entry(i, struct quorum, link);
		bool member = false;

		for (unsigned k = 0; k < d->v.nmembers; k++)
			member |= d->v.members[k].node == q->self && d->v.members[k].incarnation == q->incarnation;
		if (member && !q->dead && q->fn)
			q->fn(q->arg, &d->v);
	}
	ts_free(d);
}
static void changed(struct ts_exec *x)
{
	struct delivery *d = ts_xalloc(sizeof(*d));

	world.epoch++;
	world.quorate = true;
	d->v = world;
	ts_exec_defer(x, &d->task, deliver, d);
}

static int find(const struct quorum_member *m, unsigned n, unsigned node, uint64_t incarnation)
{
	for (unsigned i = 0; i < n; i++)
		if (m[i].node == node && m[i].incarnation == incarnation)
			return (int)i;
	return -1;
}
static void cut(struct quorum_member *m, unsigned *n, unsigned i)
{
	memmove(m + i, m + i + 1, (*n - i - 1) * sizeof(*m));
	(*n)--;
}

int quorum_group_join(struct quorum *q, uint64_t group, uint32_t slot)
{
	int i = find(world.members, world.nmembers, q->self, q->incarnation);

	TS_ASSERT(!world.group || world.group == group);
	world.group = group;
	for (unsigned k = 0; k < world.nmembers; k++)
		if (slot != UINT32_MAX && world.members[k].slot == slot)
			return 0; /* refused, or nothing new: no view */
	if (i >= 0) {
		world.members[i].slot = slot;
	} else {
		unsigned at = 0;

		while (at < world.nmembers && world.members[at].node < q->self)
			at++;
		memmove(world.members + at + 1, world.members + at, (world.nmembers - at) * sizeof(world.members[0]));
		world.members[at] = (struct quorum_member){.node = q->self, .incarnation = q->incarnation, .slot = slot};
		world.nmembers++;
	}
	changed(q->x);
	return 0;
}

int quorum_group_leave(struct quorum *q, uint64_t group)
{
	int i = find(world.members, world.nmembers, q->self, q->incarnation);

	if (i < 0)
		return -ENOENT;
	cut(world.members, &world.nmembers, (unsigned)i);
	changed(q->x);
	return 0;
}

void fsw_quorum_die(struct quorum *q)
{
	int i = find(world.members, world.nmembers, q->self, q->incarnation);

	q->dead = true;
	if (i < 0)
		return;
	world.pending[world.npending++] = world.members[i];
	cut(world.members, &world.nmembers, (unsigned)i);
	changed(q->x);
}

int quorum_group_recovered(struct quorum *q, uint64_t group, unsigned node, uint64_t incarnation)
{
	int i = find(world.pending, world.npending, node, incarnation);

	if (i >= 0)
		cut(world.pending, &world.npending, (unsigned)i);
	changed(q->x);
	return 0;
}

const struct quorum_group_view *quorum_group_get(const struct quorum *q, uint64_t group)
{
	return world.group == group ? &world : NULL;
}
unsigned quorum_self(const struct quorum *q)
{
	return q->self;
}
uint64_t quorum_incarnation(const struct quorum *q)
{
	return q->incarnation;
}
bool quorum_may_write(const struct quorum *q)
{
	return q->may_write;
}
uint64_t quorum_dead_lease_end_ns(const struct quorum *q, unsigned node, uint64_t incarnation)
{
	return 0;
}

uint64_t quorum_lease_until_ns(const struct quorum *q)
{
	return ts_exec_now(q->x) + 2 * TS_NS_PER_S; /* renewed all the time */
}

/* ---- net: to the other nets of this process, in order, deferred --------------------------------------------------- */

struct stub_net {
	struct ts_list link;
	struct net *net;
	struct ts_exec *x;
	unsigned node;
	uint64_t incarnation;
	bool cut;
};
static struct ts_list nets = TS_LIST_INIT(nets);
struct packet {
	struct ts_task task;
	struct net_msg m;
	unsigned dst;
	bool reply;
	uint8_t payload[];
};

static struct stub_net *net_find(unsigned node)
{
	ts_list_for(i, &nets)
		if (ts_list_entry(i, struct stub_net, link)->node == node)
			return ts_list_entry(i, struct stub_net, link);
	return NULL;
}

static void net_arrive(void *arg)
{
	struct packet *p = arg;
	struct stub_net *d = net_find(p->dst);

	if (d)
		net_deliver(d->net, &p->m, p->reply);
	ts_free(p);
}

static int net_stub_send(struct net *n, const struct net_out *o, uint64_t call_id, int result, bool reply)
{
	struct stub_net *s = net_priv(n);
	struct packet *p;

	if (s->cut || !net_find(o->dst_node))
		return -ENOTCONN;
	p = ts_xalloc(sizeof(*p) + o->len);
	p->dst = o->dst_node;
	p->reply = reply;
	p->m = (struct net_msg){.src_node = s->node, .src_incarnation = s->incarnation, .lane = o->lane, .type = o->type,
				.group = o->group, .view = o->view, .lamport = net_lamport_tick(n), .call_id = call_id,
				.ship_slot = o->ship_slot, .result = result, .payload = p->payload, .len = o->len};
	if (o->len)
		memcpy(p->payload, o->payload, o->len);
	ts_exec_defer(s->x, &p->task, net_arrive, p);
	return 0;
}
static void net_none_peer(struct net *n, unsigned node, uint64_t incarnation, const char *addr, unsigned port)
{
}
static void net_none_drop(struct net *n, unsigned node)
{
}
static void net_none_close(struct net *n)
{
	struct stub_net *s = net_priv(n);

	if (!s->cut)
		fsw_net_cut(n);
	ts_free(s);
}
void fsw_net_cut(struct net *n)
{
	struct stub_net *s = net_priv(n);

	s->cut = true;
	ts_list_del(&s->link);
	ts_list_for(i, &nets)
		net_peer_drop(ts_list_entry(i, struct stub_net, link)->net, s->node);
}
static void net_none_stats(struct net *n, struct net_stats *out)
{
	*out = (struct net_stats){0};
}
struct net *fsw_net_new(struct ts_exec *x, unsigned node, uint64_t incarnation)
{
	static const struct net_ops ops = {net_stub_send, net_none_peer, net_none_drop, net_none_close, net_none_stats, NULL};
	struct stub_net *s = ts_xalloc(sizeof(*s));

	*s = (struct stub_net){.x = x, .node = node, .incarnation = incarnation};
	s->net = net_new(x, node, incarnation, &ops, s);
	TS_ASSERT(s->net && !net_find(node));
	ts_list_for(i, &nets) {
		struct stub_net *o = ts_list_entry(i, struct stub_net, link);

		net_peer_set(o->net, node, incarnation, "", 0);
		net_peer_set(s->net, o->node, o->incarnation, "", 0);
	}
	ts_list_push_back(&nets, &s->link);
	return s->net;
}
