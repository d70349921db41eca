/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the TCP transport: listener, the table of peers, dialling with back-off. One connection per pair: the lower node
 * id dials. Must never happen: a peer dropped and anything of it left behind; a storm of attempts; a name looked up
 * (addresses are numeric: a resolver may block). */
#include "net/net_int.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKOFF_MIN_NS	 (20 * TS_NS_PER_MS)
#define BACKOFF_MAX_NS	 (1 * TS_NS_PER_S)
#define UNPROVEN_MAX	 128
#define LOG_INTERVAL_NS	 (10 * TS_NS_PER_S)

static int parse_addr(const char *addr, unsigned port, struct sockaddr_storage *out, socklen_t *len)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)out;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;

	memset(out, 0, sizeof(*out));
	if (port > 65535)
		return -EINVAL;
	if (inet_pton(AF_INET, addr, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)port);
		*len = sizeof(*v4);
		return 0;
	}
	if (inet_pton(AF_INET6, addr, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons((uint16_t)port);
		*len = sizeof(*v6);
		return 0;
	}
	return -EINVAL;
}

/* A wrong key or a port scan shows as one line in ten seconds, with the count of the others. */
void net_auth_log(struct net_tcp *t, const char *what, const struct net_conn *c)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	char host[64] = "?";
	uint64_t now = ts_exec_now(t->exec);

	if (t->auth_log_ns && now - t->auth_log_ns < LOG_INTERVAL_NS) {
		t->auth_suppressed++;
		return;
	}
	if (!getpeername(c->fd, (struct sockaddr *)&sa, &len))
		getnameinfo((struct sockaddr *)&sa, len, host, sizeof(host), NULL, 0, NI_NUMERICHOST);
	ts_warn("net: %s (claims to be node %u) %s (%lu more since the last such line)", host,
		c->dialler ? le16_get(c->hs.hello.dst_node) : le16_get(c->hs.hello.src_node), what, t->auth_suppressed);
	t->auth_log_ns = now;
	t->auth_suppressed = 0;
}

/* ---- dialling --------------------------------------------------------------------------------------------------- */

static void dial(void *arg)
{
	struct net_peer *p = arg;
	struct sockaddr_storage sa;
	socklen_t len;
	int fd;

	if (p->conn)
		return;
	p->attempts++;
	fd = -1;
	if (!parse_addr(p->addr, p->port, &sa, &len))
		fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&sa, len) && errno != EINPROGRESS) {
		close(fd);
		fd = -1;
	}
	if (fd >= 0)
		p->conn = net_conn_new(p->t, fd, p);
	if (!p->conn)
		net_peer_dial_later(p);
}

/* 20 ms doubling to 1 s, each shortened by up to half by chance, so that a hundred nodes do not knock at once. */
void net_peer_dial_later(struct net_peer *p)
{
	struct ts_exec *x = p->t->exec;
	unsigned shift = TS_MIN(p->attempts, 7u);
	uint64_t base = TS_MIN(BACKOFF_MIN_NS << shift, BACKOFF_MAX_NS);
	uint64_t delay = p->attempts ? base / 2 + ts_random(ts_exec_env(x)) % (base / 2 + 1) : 0;

	if (p->t->net->self < p->node)
		ts_timer_arm(x, &p->dial, ts_exec_now(x) + delay, dial, p);
}

void net_peer_conn_lost(struct net_peer *p)
{
	/* A connection that ends as soon as it is made must not become a loop. */
	if (p->opened_ns && ts_exec_now(p->t->exec) - p->opened_ns > BACKOFF_MAX_NS)
		p->attempts = 0;
	p->opened_ns = 0;
	net_peer_dial_later(p);
}

static void peer_flush(void *arg)
{
	struct net_peer *p = arg;

	p->flush_armed = false;
	if (p->conn && p->conn->state == NET_C_OPEN)
		net_conn_flush(p->conn);
}

void net_peer_flush_soon(struct net_peer *p)
{
	if (p->flush_armed || !p->conn || p->conn->state != NET_C_OPEN)
		return;
	p->flush_armed = true;
	ts_exec_defer(p->t->exec, &p->flush, peer_flush, p);
}

/* ---- what net.c calls ------------------------------------------------------------------------------------------- */

static int tcp_send(struct net *n, const struct net_out *o, uint64_t call_id, int result, bool reply)
{
	struct net_tcp *t = n->priv;
	struct net_peer *p = t->peers[o->dst_node];
	struct net_tx *m;
	int rc;

	if (!p)
		return -ENOTCONN;
	m = ts_alloc_aligned(16, sizeof(*m) + o->len);
	if (!m)
		return -ENOMEM;
	m->len = o->len;
	if (o->len)
		memcpy(m->payload, o->payload, o->len);
	m->hdr = (struct net_hdr_msg){
		.magic = le32_make(NET_MAGIC),
		.lane = (uint8_t)o->lane,
		.flags = reply ? NET_F_REPLY : 0,
		.type = le16_make(o->type),
		.src_node = le16_make((uint16_t)n->self),
		.payload_len = le32_make(o->len),
		.src_incarnation = le64_make(n->incarnation),
		.dst_incarnation = le64_make(p->incarnation),
		.view = le64_make(o->view),
		.lamport = le64_make(net_lamport_tick(n)),
		.call_id = le64_make(call_id),
		.result = le32_make((uint32_t)result),
		.group = le32_make(o->group),
		.ship_slot = le64_make(o->ship_slot),
		.payload_csum = le64_make(ts_csum64(m->payload, o->len, 0)),
	};
	rc = net_lane_push(&p->lane[o->lane], m);
	if (rc) {
		ts_free(m);
		return rc;
	}
	net_peer_flush_soon(p);
	return 0;
}

/* A connection that proved itself before our own view named its incarnation. */
static void take_parked(struct net_tcp *t, struct net_peer *p)
{
	ts_list_for_safe(l, tmp, &t->conns)
	{
		struct net_conn *c = ts_list_entry(l, struct net_conn, link);

		if (c->state != NET_C_PARKED || le16_get(c->hs.hello.src_node) != p->node)
			continue;
		if (le64_get(c->hs.hello.src_incarnation) != p->incarnation || !net_hs_accept(c))
			net_conn_close(c);
		return;
	}
}

static void tcp_peer_set(struct net *n, unsigned node, uint64_t incarnation, const char *addr, unsigned port)
{
	struct net_tcp *t = n->priv;
	struct net_peer *p = t->peers[node];

	if (!p) {
		p = ts_alloc(sizeof(*p));
		if (!p) { /* sends fail with -ENOTCONN; the next view tries again */
			ts_err("net: out of memory for node %u: it stays unreachable until the next view", node);
			return;
		}
		p->t = t;
		p->node = node;
		p->incarnation = incarnation;
		for (unsigned i = 0; i < NET_LANES; i++)
			net_lane_init(&p->lane[i]);
		t->peers[node] = p;
		ts_debug("net: node %u incarnation %#lx at %s port %u is a peer", node, incarnation, addr, port);
	} else if (p->port == port && !strcmp(p->addr, addr)) {
		return;
	}
	snprintf(p->addr, sizeof(p->addr), "%s", addr);
	p->port = port;
	p->attempts = 0;
	if (!p->conn)
		net_peer_dial_later(p);
	take_parked(t, p);
}

static void tcp_peer_drop(struct net *n, unsigned node)
{
	struct net_tcp *t = n->priv;
	struct net_peer *p = t->peers[node];
	struct net_conn *c;

	if (!p)
		return;
	t->peers[node] = NULL;
	c = p->conn;
	p->conn = NULL; /* so that losing it does not dial again */
	if (c)
		net_conn_close(c);
	ts_timer_cancel(&p->dial);
	ts_timer_cancel(&p->ack);
	if (p->flush_armed)
		ts_list_del(&p->flush.link);
	for (unsigned i = 0; i < NET_LANES; i++)
		net_lane_free(&p->lane[i]);
	ts_free(p);
}

static void tcp_stats(struct net *n, struct net_stats *out)
{
	struct net_tcp *t = n->priv;

	*out = t->stats;
}

void net_tcp_each_peer(const struct net *n, void (*fn)(void *arg, const struct net_peer_info *i), void *arg)
{
	const struct net_tcp *t = n->priv;

	for (unsigned k = 1; k < NET_MAX_NODES; k++) {
		const struct net_peer *p = t->peers[k];
		if (!p)
			continue;
		struct net_peer_info i = {.node = p->node, .incarnation = p->incarnation, .addr = p->addr, .port = p->port,
					  .connected = p->conn && p->conn->state == NET_C_OPEN, .attempts = p->attempts, .connected_ns = p->opened_ns,
					  .old_key = p->old_key};
		for (unsigned l = 0; l < NET_LANES; l++) {
			i.unacked += p->lane[l].inflight;
			i.queued += p->lane[l].count;
		}
		fn(arg, &i);
	}
}

static void tcp_close(struct net *n)
{
	struct net_tcp *t = n->priv;

	for (unsigned i = 1; i < NET_MAX_NODES; i++)
		tcp_peer_drop(n, i);
	while (!ts_list_empty(&t->conns))
		net_conn_close(ts_list_entry(t->conns.next, struct net_conn, link));
	ts_timer_cancel(&t->tick);
	if (t->listen_fd >= 0) {
		ts_loop_fd_del(t->loop, t->listen_fd);
		close(t->listen_fd);
	}
	sodium_memzero(&t->keys, sizeof(t->keys));
	ts_free(t);
}

static unsigned tcp_proto(const struct net *n, unsigned node)
{
	const struct net_tcp *t = n->priv;

	return node < NET_MAX_NODES && t->peers[node] ? t->peers[node]->proto : 0;
}

static const struct net_ops tcp_ops = {tcp_send, tcp_peer_set, tcp_peer_drop, tcp_close, tcp_stats, tcp_proto};

/* ---- listening -------------------------------------------------------------------------------------------------- */

/* Strangers are few: the one that has waited longest without a proof makes room. */
static void limit_unproven(struct net_tcp *t)
{
	if (t->nunproven < UNPROVEN_MAX)
		return;
	ts_list_for_safe(l, tmp, &t->conns)
	{
		struct net_conn *c = ts_list_entry(l, struct net_conn, link);

		if (!c->proven && !c->busy) {
			net_conn_close(c);
			return;
		}
	}
}

static void on_accept(void *arg, uint32_t events)
{
	struct net_tcp *t = arg;

	for (unsigned i = 0; i < 16; i++) {
		int fd = accept4(t->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0)
			return;
		limit_unproven(t);
		(void)net_conn_new(t, fd, NULL); /* closes fd if it fails */
	}
}

/* Once a second: buffers that grew for a large frame are given back. */
static void tick(void *arg)
{
	struct net_tcp *t = arg;

	ts_list_for(l, &t->conns)
	{
		struct net_conn *c = ts_list_entry(l, struct net_conn, link);
		uint8_t *b;

		if (c->rcap > (64u << 10) && !c->big && c->rstart == c->rend && !c->busy) {
			b = ts_alloc_aligned(64, 64u << 10);
			if (b) {
				ts_free(c->rbuf);
				c->rbuf = b;
				c->rcap = 64u << 10;
				c->rstart = c->rend = 0;
			}
		}
		c->big = false;
	}
	ts_timer_arm(t->exec, &t->tick, ts_exec_now(t->exec) + TS_NS_PER_S, tick, t);
}

static int listen_on(struct net_tcp *t, const struct net_tcp_args *a, char *errmsg, size_t errlen)
{
	struct sockaddr_storage sa;
	socklen_t len;
	int one = 1, fd, rc;

	if (parse_addr(a->bind_addr, a->port, &sa, &len)) {
		snprintf(errmsg, errlen, "%s is not a numeric address, or port %u is not one", a->bind_addr, a->port);
		return -EINVAL;
	}
	fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(fd, (struct sockaddr *)&sa, len) || listen(fd, 256) ||
	    getsockname(fd, (struct sockaddr *)&sa, &len)) {
		rc = -errno;
		snprintf(errmsg, errlen, "cannot listen on %s port %u: %s", a->bind_addr, a->port, strerror(errno));
		if (fd >= 0)
			close(fd);
		return rc;
	}
	t->port = ntohs(sa.ss_family == AF_INET ? ((struct sockaddr_in *)&sa)->sin_port
						: ((struct sockaddr_in6 *)&sa)->sin6_port);
	rc = ts_loop_fd_add(t->loop, fd, EPOLLIN, on_accept, t);
	if (rc) {
		close(fd);
		snprintf(errmsg, errlen, "cannot watch the listening socket: %s", strerror(-rc));
		return rc;
	}
	t->listen_fd = fd;
	return 0;
}

static bool key_known(const struct net_keys *k, const uint8_t key[NET_KEY_BYTES])
{
	bool known = false;

	for (unsigned i = 0; i < k->n; i++)
		known |= !sodium_memcmp(k->key[i], key, NET_KEY_BYTES);
	return known;
}

void net_tcp_keys_set(struct net *n, const struct net_keys *k)
{
	struct net_tcp *t = n->priv;

	t->keys = *k;
	t->replaced_by = 0;
	ts_list_for_safe(l, tmp, &t->conns)
	{
		struct net_conn *c = ts_list_entry(l, struct net_conn, link);

		if ((c->state == NET_C_OPEN || c->state == NET_C_PARKED || c->state == NET_C_WELCOME) && !key_known(k, c->key))
			net_conn_close(c);
	}
	for (unsigned i = 0; i < NET_MAX_NODES; i++)
		if (t->peers[i]) {
			t->peers[i]->key_try = 0;
			t->peers[i]->old_key = false;
		}
}

unsigned net_tcp_key_replaced(const struct net *n)
{
	const struct net_tcp *t = n->priv;

	return t->replaced_by;
}

int net_tcp_open(const struct net_tcp_args *a, struct net **out, char *errmsg, size_t errlen)
{
	struct net_tcp *t;
	int rc;

	if (!ts_exec_loop(a->exec) || sodium_init() < 0) {
		snprintf(errmsg, errlen, "%s", ts_exec_loop(a->exec) ? "libsodium does not start" : "the executor has no loop");
		return -EINVAL;
	}
	t = ts_alloc(sizeof(*t));
	if (!t) {
		snprintf(errmsg, errlen, "out of memory");
		return -ENOMEM;
	}
	t->exec = a->exec;
	t->loop = ts_exec_loop(a->exec);
	t->listen_fd = -1;
	ts_list_init(&t->conns);
	memcpy(t->keys.key[0], a->key, NET_KEY_BYTES);
	t->keys.n = 1;
	t->encrypt = a->encrypt;
	t->proto_max = NET_PROTO_MAX;
	t->net = net_new(a->exec, a->self_node, a->incarnation, &tcp_ops, t);
	if (!t->net) {
		snprintf(errmsg, errlen, "node id %u must be 1 to %u and the incarnation not 0", a->self_node,
			 NET_MAX_NODES - 1);
		ts_free(t);
		return -EINVAL;
	}
	rc = listen_on(t, a, errmsg, errlen);
	if (rc) {
		net_close(t->net);
		return rc;
	}
	tick(t);
	*out = t->net;
	return 0;
}

/* ---- tests ------------------------------------------------------------------------------------------------------ */

unsigned net_tcp_port(struct net *n)
{
	return ((struct net_tcp *)n->priv)->port;
}

bool net_tcp_test_open(struct net *n, unsigned node)
{
	struct net_peer *p = ((struct net_tcp *)n->priv)->peers[node];

	return p && p->conn && p->conn->state == NET_C_OPEN;
}

bool net_tcp_test_cut(struct net *n, unsigned node)
{
	struct net_peer *p = ((struct net_tcp *)n->priv)->peers[node];

	return p && p->conn && !shutdown(p->conn->fd, SHUT_RDWR);
}
