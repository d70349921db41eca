/* SPDX-License-Identifier: Apache-2.0 */
/* Job: one TCP connection: its life, and reading frames, checking them, handing them up in order. Must never happen: a
 * frame used before its proof; a byte read past what arrived; a connection freed under its own callback. */
#include "net/net_int.h"

#include <netinet/tcp.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define RBUF_BYTES   (64u << 10)
#define READ_BUDGET  (1u << 20)

static void on_event(void *arg, uint32_t events);

static void tune(int fd)
{
	int one = 1, idle = 2, intvl = 1, cnt = 3;
	unsigned user_ms = 4000, lowat = 128u << 10;

	/* Best effort: without them it is slower or notices a silent cut later, never wrong. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &intvl, sizeof(intvl));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &cnt, sizeof(cnt));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_ms, sizeof(user_ms));
	/* Bulk must not sit in the kernel in front of recovery. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof(lowat));
}

static void handshake_timeout(void *arg)
{
	net_conn_close(arg);
}

/* Takes fd over, also when it fails. */
struct net_conn *net_conn_new(struct net_tcp *t, int fd, struct net_peer *p)
{
	struct net_conn *c = ts_alloc(sizeof(*c));
	uint32_t events = p ? EPOLLIN | EPOLLOUT : EPOLLIN;

	if (c)
		c->rbuf = ts_alloc_aligned(64, RBUF_BYTES);
	if (!c || !c->rbuf || ts_loop_fd_add(t->loop, fd, events, on_event, c)) {
		close(fd);
		if (c)
			ts_free(c->rbuf);
		ts_free(c);
		return NULL;
	}
	tune(fd);
	c->t = t;
	c->fd = fd;
	c->peer = p;
	c->dialler = p != NULL;
	c->state = p ? NET_C_CONNECTING : NET_C_HELLO;
	c->rcap = RBUF_BYTES;
	c->proven = c->dialler; /* counts strangers only */
	t->nunproven += !c->proven;
	ts_list_push_back(&t->conns, &c->link);
	ts_timer_arm(t->exec, &c->timer, ts_exec_now(t->exec) + 5 * TS_NS_PER_S, handshake_timeout, c);
	return c;
}

static void conn_free(struct net_conn *c)
{
	sodium_memzero(&c->tx, sizeof(c->tx));
	sodium_memzero(&c->rx, sizeof(c->rx));
	sodium_memzero(c->secret_key, sizeof(c->secret_key));
	sodium_memzero(c->key, sizeof(c->key));
	net_conn_copies_free(c);
	ts_free(c->rbuf);
	ts_free(c);
}

void net_conn_close(struct net_conn *c)
{
	struct net_peer *p = c->peer;

	if (c->closed)
		return;
	c->closed = true;
	ts_timer_cancel(&c->timer);
	ts_loop_fd_del(c->t->loop, c->fd);
	close(c->fd);
	ts_list_del(&c->link);
	c->t->nunproven -= !c->proven;
	c->peer = NULL;
	if (p && p->conn == c) {
		p->key_try += c->dialler && c->state == NET_C_WELCOME; /* it may not have that key */
		p->conn = NULL;
		net_peer_conn_lost(p);
	}
	if (!c->busy)
		conn_free(c);
}

void net_conn_open(struct net_conn *c, struct net_peer *p)
{
	c->peer = p;
	p->conn = c;
	p->old_key = false;
	p->proto = c->proto;
	c->t->replaced_by = 0;
	c->state = NET_C_OPEN;
	p->opened_ns = ts_exec_now(c->t->exec);
	p->rx_msgs = 0;
	p->rx_bytes = 0;
	for (unsigned i = 0; i < NET_LANES; i++)
		p->lane[i].rx_acked = p->lane[i].rx_seq; /* said in the handshake */
	c->t->stats.reconnects += p->was_open;
	p->was_open = true;
	ts_timer_cancel(&c->timer);
	ts_debug("net: connected with node %u incarnation %#lx, protocol %u%s", p->node, p->incarnation, c->proto, c->tx.secret ? ", encrypted" : "");
	if (ts_loop_fd_mod(c->t->loop, c->fd, EPOLLIN)) {
		net_conn_close(c);
		return;
	}
	net_peer_flush_soon(p);
}

/* ---- in --------------------------------------------------------------------------------------------------------- */

static bool protocol_error(struct net_conn *c, const char *what)
{
	ts_warn("net: node %u: %s: connection closed", c->peer->node, what);
	return false;
}

static bool header_ok(const struct net_conn *c, const struct net_hdr_msg *h)
{
	return le32_get(h->magic) == NET_MAGIC && le16_get(h->proto) == c->proto && h->lane < NET_LANES &&
	       !(h->flags & ~(NET_F_REPLY | NET_F_ACK)) && le16_get(h->src_node) == c->peer->node &&
	       le64_get(h->src_incarnation) == c->peer->incarnation &&
	       le64_get(h->dst_incarnation) == c->t->net->incarnation;
}

static bool take_acks(struct net_conn *c, const struct net_hdr_msg *h, const uint8_t *payload, uint32_t len)
{
	const struct net_acks_msg *a = (const struct net_acks_msg *)payload;

	if (!(h->flags & NET_F_ACK))
		return net_lane_ack(&c->peer->lane[h->lane], le64_get(h->ack));
	if (len != sizeof(*a))
		return false;
	for (unsigned i = 0; i < NET_LANES; i++)
		if (!net_lane_ack(&c->peer->lane[i], le64_get(a->ack[i])))
			return false;
	return true;
}

static void ack_timer(void *arg)
{
	struct net_peer *p = arg;
	bool due = false;

	for (unsigned i = 0; i < NET_LANES; i++)
		due |= p->lane[i].rx_seq > p->lane[i].rx_acked;
	if (due && p->conn && p->conn->state == NET_C_OPEN) {
		p->ack_now = true;
		net_peer_flush_soon(p);
	}
}

static void note_received(struct net_peer *p, size_t bytes)
{
	p->rx_msgs++;
	p->rx_bytes += bytes;
	if (p->rx_msgs >= NET_ACK_MSGS || p->rx_bytes >= NET_ACK_BYTES) {
		p->ack_now = true;
		net_peer_flush_soon(p);
	} else if (!p->ack.exec) {
		ts_timer_arm(p->t->exec, &p->ack, ts_exec_now(p->t->exec) + NET_ACK_DELAY_NS, ack_timer, p);
	}
}

static void hand_up(struct net_conn *c, const struct net_hdr_msg *h, const uint8_t *payload, uint32_t len)
{
	struct net_msg m = {.src_node = c->peer->node,
			    .src_incarnation = c->peer->incarnation,
			    .lane = h->lane,
			    .type = le16_get(h->type),
			    .group = le32_get(h->group),
			    .view = le64_get(h->view),
			    .lamport = le64_get(h->lamport),
			    .call_id = le64_get(h->call_id),
			    .ship_slot = le64_get(h->ship_slot),
			    .result = (int32_t)le32_get(h->result),
			    .payload = payload,
			    .len = len};

	net_deliver(c->t->net, &m, h->flags & NET_F_REPLY);
}

/* One whole frame. false = close. The handler may drop the peer: c->closed is looked at afterwards. */
static bool on_frame(struct net_conn *c, const struct net_hdr_msg *h, uint8_t *payload, uint32_t len)
{
	struct net_lane_state *l;
	uint64_t seq = le64_get(h->seq);

	if (!net_seal_check(&c->rx, h, payload, len))
		return protocol_error(c, "a frame does not prove itself");
	if (!header_ok(c, h) || (c->rx.secret ? 0 : ts_csum64(payload, len, 0)) != le64_get(h->payload_csum))
		return protocol_error(c, "a frame's header is not valid");
	c->t->stats.frames_received++;
	if (!take_acks(c, h, payload, len))
		return protocol_error(c, "it acknowledges what was never sent");
	if (c->peer->lane[h->lane].next != &c->peer->lane[h->lane].q)
		net_peer_flush_soon(c->peer); /* credit came back */
	if (h->flags & NET_F_ACK) {
		for (unsigned i = 0; i < NET_LANES; i++)
			if (c->peer->lane[i].next != &c->peer->lane[i].q)
				net_peer_flush_soon(c->peer);
		return true;
	}
	l = &c->peer->lane[h->lane];
	if (seq <= l->rx_seq) {
		c->t->stats.dropped_old++;
		return true;
	}
	if (seq != l->rx_seq + 1)
		return protocol_error(c, "a message is missing");
	l->rx_seq = seq;
	note_received(c->peer, sizeof(*h) + len);
	hand_up(c, h, payload, len);
	return true;
}

/* Room for a frame of `need` bytes at rstart. */
static bool make_room(struct net_conn *c, size_t need)
{
	size_t have = c->rend - c->rstart;
	uint8_t *b = c->rbuf;

	if (c->rstart + need <= c->rcap && c->rend < c->rcap)
		return true;
	if (need > c->rcap) {
		b = ts_alloc_aligned(64, need);
		if (!b)
			return false;
		c->rcap = need;
		c->big = true;
	}
	memmove(b, c->rbuf + c->rstart, have);
	if (b != c->rbuf) {
		ts_free(c->rbuf);
		c->rbuf = b;
	}
	c->rstart = 0;
	c->rend = have;
	return true;
}

/* Frames that are whole, then room for the next. false = close. */
static bool parse(struct net_conn *c)
{
	size_t need = sizeof(struct net_hdr_msg);

	while (!c->closed && c->state == NET_C_OPEN && c->rend - c->rstart >= sizeof(struct net_hdr_msg)) {
		struct net_hdr_msg *h = (struct net_hdr_msg *)(c->rbuf + c->rstart);
		uint32_t len = le32_get(h->payload_len);

		if (len > NET_MAX_PAYLOAD)
			return protocol_error(c, "a frame is longer than allowed");
		need = sizeof(*h) + len;
		if (c->rend - c->rstart < need)
			break;
		c->rstart += need;
		if (!on_frame(c, h, (uint8_t *)(h + 1), len))
			return false;
		need = sizeof(struct net_hdr_msg);
	}
	if (c->closed)
		return true;
	if (c->rstart == c->rend)
		c->rstart = c->rend = 0;
	return make_room(c, need);
}

static void on_readable(struct net_conn *c)
{
	size_t budget = READ_BUDGET;

	while (!c->closed && c->state != NET_C_PARKED && budget) {
		size_t room = c->rcap - c->rend;
		ssize_t n = recv(c->fd, c->rbuf + c->rend, room, MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (n <= 0) {
			if (c->state == NET_C_OPEN)
				ts_info("net: connection with node %u lost: %s", c->peer->node,
					n ? strerror(errno) : "closed by it");
			net_conn_close(c);
			return;
		}
		c->rend += (size_t)n;
		c->t->stats.bytes_received += (size_t)n;
		budget -= TS_MIN(budget, (size_t)n);
		if (c->state != NET_C_OPEN && !net_hs_input(c)) {
			net_conn_close(c);
			return;
		}
		if (!c->closed && !parse(c))
			net_conn_close(c);
		if ((size_t)n < room)
			return; /* the socket is empty; level-triggered anyway */
	}
}

static void on_connected(struct net_conn *c)
{
	int err = 0;
	socklen_t len = sizeof(err);

	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len) || err || !net_hs_start(c) ||
	    ts_loop_fd_mod(c->t->loop, c->fd, EPOLLIN)) {
		ts_debug("net: node %u does not answer at %s port %u: %s", c->peer->node, c->peer->addr, c->peer->port,
			 strerror(err));
		net_conn_close(c);
	}
}

static void on_event(void *arg, uint32_t events)
{
	struct net_conn *c = arg;

	c->busy++;
	if (c->state == NET_C_CONNECTING) {
		if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
			on_connected(c);
	} else if (c->state == NET_C_PARKED) {
		net_conn_close(c); /* only an error or a hang-up is reported while parked */
	} else {
		if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
			on_readable(c);
		if (!c->closed && (events & EPOLLOUT))
			net_conn_flush(c);
	}
	if (!--c->busy && c->closed)
		conn_free(c);
}
