/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what every transport shares: handlers by class of type, calls and their replies, the Lamport clock, messages to
 * oneself, and the gate on incarnations. Must never happen: a message or a reply from an incarnation that is not the
 * peer of now reaches a handler or a waiting call; a call that waits for ever on a peer that has departed. */
#include "net/net_int.h"

struct call {
	struct ts_map_node map;
	struct ts_list drop; /* while the peer is being dropped */
	uint64_t id;
	unsigned dst;
	struct ts_cond cond;
	bool finished, wants;
	int rc, result;
	void *buf;
	uint32_t cap, len;
};

struct net_self_msg {
	struct ts_list link;
	struct net_msg m;
	bool reply;
	uint8_t payload[];
};

struct net *net_new(struct ts_exec *x, unsigned self_node, uint64_t incarnation, const struct net_ops *ops, void *priv)
{
	struct net *n;

	if (!self_node || self_node >= NET_MAX_NODES || !incarnation)
		return NULL;
	n = ts_alloc(sizeof(*n));
	if (!n)
		return NULL;
	n->exec = x;
	n->self = self_node;
	n->incarnation = incarnation;
	n->ops = ops;
	n->priv = priv;
	n->peer[self_node] = incarnation;
	ts_map_init(&n->calls);
	ts_list_init(&n->selfq);
	return n;
}

void *net_priv(struct net *n)
{
	return n->priv;
}

void net_handle(struct net *n, uint16_t type_class, net_handler fn, void *arg)
{
	n->handler[type_class >> 8].fn = fn;
	n->handler[type_class >> 8].arg = arg;
}

uint64_t net_lamport_tick(struct net *n)
{
	return ++n->lamport;
}

void net_lamport_raise(struct net *n, uint64_t seen)
{
	n->lamport = TS_MAX(n->lamport, seen);
}

/* ---- messages to oneself: delivered from a task, never from inside the sender's call ---------------------------- */

static void self_free(struct net *n, struct net_self_msg *s)
{
	n->nself--;
	n->self_bytes -= s->m.len;
	ts_free(s);
}

static void self_run(void *arg)
{
	struct net *n = arg;
	unsigned batch = n->nself; /* what handlers send now waits for the next turn */

	n->self_armed = false;
	while (batch-- && !ts_list_empty(&n->selfq)) {
		struct net_self_msg *s = ts_list_entry(ts_list_pop_front(&n->selfq), struct net_self_msg, link);

		net_deliver(n, &s->m, s->reply);
		self_free(n, s);
	}
	if (!ts_list_empty(&n->selfq) && !n->self_armed) {
		n->self_armed = true;
		ts_exec_defer(n->exec, &n->self_task, self_run, n);
	}
}

static int self_send(struct net *n, const struct net_out *o, uint64_t call_id, int result, bool reply)
{
	struct net_self_msg *s;

	if (n->nself >= NET_LANE_MSGS || n->self_bytes + o->len > NET_LANE_BYTES)
		return -ENOBUFS;
	s = ts_alloc(sizeof(*s) + o->len);
	if (!s)
		return -ENOMEM;
	if (o->len)
		memcpy(s->payload, o->payload, o->len);
	s->reply = reply;
	s->m = (struct net_msg){.src_node = n->self,
				.src_incarnation = n->incarnation,
				.lane = o->lane,
				.type = o->type,
				.group = o->group,
				.view = o->view,
				.lamport = net_lamport_tick(n),
				.call_id = call_id,
				.ship_slot = o->ship_slot,
				.result = result,
				.payload = s->payload,
				.len = o->len};
	n->nself++;
	n->self_bytes += o->len;
	ts_list_push_back(&n->selfq, &s->link);
	if (!n->self_armed) {
		n->self_armed = true;
		ts_exec_defer(n->exec, &n->self_task, self_run, n);
	}
	return 0;
}

static int send_any(struct net *n, const struct net_out *o, uint64_t call_id, int result, bool reply)
{
	if (o->len > NET_MAX_PAYLOAD || (unsigned)o->lane >= NET_LANES)
		return -EMSGSIZE;
	if (o->dst_node >= NET_MAX_NODES || !n->peer[o->dst_node])
		return -ENOTCONN;
	if (o->dst_node == n->self)
		return self_send(n, o, call_id, result, reply);
	return n->ops->send(n, o, call_id, result, reply);
}

int net_send(struct net *n, const struct net_out *o)
{
	return send_any(n, o, 0, 0, false);
}

int net_reply(struct net *n, const struct net_msg *req, int result, const void *payload, uint32_t len)
{
	struct net_out o = {.dst_node = req->src_node,
			    .lane = req->lane,
			    .type = req->type,
			    .group = req->group,
			    .view = req->view,
			    .payload = payload,
			    .len = len};

	if (!req->call_id)
		return 0; /* nobody waits */
	if (req->src_node >= NET_MAX_NODES || n->peer[req->src_node] != req->src_incarnation)
		return -ENOTCONN; /* the asker is dead; its successor did not ask */
	return send_any(n, &o, req->call_id, result, true);
}

/* ---- calls ------------------------------------------------------------------------------------------------------ */

static void call_finish(struct net *n, struct call *c, int rc)
{
	ts_map_remove(&n->calls, &c->map);
	c->rc = rc;
	c->finished = true;
	ts_cond_broadcast(&c->cond);
}

static struct call *call_find(struct net *n, uint64_t id)
{
	for (struct ts_map_node *m = ts_map_first(&n->calls, ts_hash_u64(id)); m; m = ts_map_next(m)) {
		struct call *c = TS_CONTAINER(m, struct call, map);

		if (c->id == id)
			return c;
	}
	return NULL;
}

int net_call(struct net *n, const struct net_out *o, uint64_t deadline_ns, int *result, void *buf, uint32_t *len)
{
	struct call c = {.id = ++n->next_call, .dst = o->dst_node, .buf = buf, .cap = len ? *len : 0, .wants = len != NULL};
	int rc;

	TS_ASSERT(ts_fiber_self());
	ts_cond_init(&c.cond);
	rc = ts_map_insert(&n->calls, &c.map, ts_hash_u64(c.id));
	if (rc)
		return rc;
	rc = send_any(n, o, c.id, 0, false);
	if (rc) {
		ts_map_remove(&n->calls, &c.map);
		return rc;
	}
	while (!c.finished) {
		if (!deadline_ns) {
			ts_cond_wait(&c.cond, "reply of node", o->dst_node, o->type);
		} else if (ts_cond_wait_until(&c.cond, deadline_ns, "reply of node", o->dst_node, o->type) &&
			   !c.finished) {
			ts_map_remove(&n->calls, &c.map);
			return -ETIMEDOUT;
		}
	}
	if (len && c.rc != -ENOTCONN)
		*len = c.len;
	if (result)
		*result = c.result;
	return c.rc;
}

static void deliver_reply(struct net *n, const struct net_msg *m)
{
	struct call *c = call_find(n, m->call_id);

	if (!c || c->dst != m->src_node)
		return; /* timed out */
	c->result = m->result;
	c->len = m->len;
	if (m->len && m->len <= c->cap)
		memcpy(c->buf, m->payload, m->len);
	call_finish(n, c, c->wants && m->len > c->cap ? -EMSGSIZE : 0);
}

void net_deliver(struct net *n, const struct net_msg *m, bool reply)
{
	if (!m->src_node || m->src_node >= NET_MAX_NODES || n->peer[m->src_node] != m->src_incarnation) {
		n->dropped_old++;
		return;
	}
	net_lamport_raise(n, m->lamport);
	if (reply) {
		deliver_reply(n, m);
	} else if (n->handler[m->type >> 8].fn) {
		n->handler[m->type >> 8].fn(n->handler[m->type >> 8].arg, m);
	} else {
		ts_debug("message type %#x of node %u has no handler here: refused", m->type, m->src_node);
		net_reply(n, m, ENOSYS, NULL, 0);
	}
}

/* ---- peers ------------------------------------------------------------------------------------------------------ */

void net_peer_set(struct net *n, unsigned node, uint64_t incarnation, const char *addr, unsigned port)
{
	if (!node || node >= NET_MAX_NODES || node == n->self || !incarnation)
		return;
	if (n->peer[node] && n->peer[node] != incarnation)
		net_peer_drop(n, node);
	n->peer[node] = incarnation;
	n->ops->peer_set(n, node, incarnation, addr, port);
}

static int collect_calls(struct ts_map_node *m, void *arg)
{
	struct {
		unsigned node;
		struct ts_list list;
	} *a = arg;
	struct call *c = TS_CONTAINER(m, struct call, map);

	if (c->dst == a->node)
		ts_list_push_back(&a->list, &c->drop);
	return 0;
}

void net_peer_drop(struct net *n, unsigned node)
{
	struct {
		unsigned node;
		struct ts_list list;
	} a = {.node = node};
	struct ts_list *l;

	if (!node || node >= NET_MAX_NODES || node == n->self || !n->peer[node])
		return;
	n->peer[node] = 0;
	n->ops->peer_drop(n, node);
	ts_list_init(&a.list);
	ts_map_each(&n->calls, collect_calls, &a);
	while ((l = ts_list_pop_front(&a.list)))
		call_finish(n, ts_list_entry(l, struct call, drop), -ENOTCONN);
}

unsigned net_peer_proto(const struct net *n, unsigned node)
{
	return n->ops->proto ? n->ops->proto(n, node) : NET_PROTO_MAX;
}

void net_stats_get(struct net *n, struct net_stats *out)
{
	*out = (struct net_stats){0};
	n->ops->stats(n, out);
	out->dropped_old += n->dropped_old;
}

/* Fibers must not be waiting in net_call: peers are dropped first, or the executor was killed and they are gone. */
void net_close(struct net *n)
{
	struct ts_list *l;

	if (!n)
		return;
	n->ops->close(n);
	if (n->self_armed)
		ts_list_del(&n->self_task.link);
	while ((l = ts_list_pop_front(&n->selfq)))
		ts_free(ts_list_entry(l, struct net_self_msg, link));
	ts_map_fini(&n->calls);
	ts_free(n);
}
