/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what a connection sends: acknowledgements that are due, then messages by lane and credit, many frames to a system
 * call. Must never happen: the memory of a frame freed while it is half written; bulk in front of recovery. */
#include "net/net_int.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#define BATCH_BYTES  (256u << 10)
#define FLUSH_ROUNDS 16

bool net_conn_send_raw(struct net_conn *c, const void *buf, size_t len)
{
	/* An empty socket buffer takes a handshake message whole; one that does not is not worth waiting for. */
	return send(c->fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len;
}

static void add_iov(struct net_conn *c, void *base, size_t len, struct net_tx *m)
{
	c->iov[c->iov_n] = (struct iovec){base, len};
	c->iov_copy[c->iov_n] = NULL;
	c->iov_tx[c->iov_n++] = m;
}

void net_conn_copies_free(struct net_conn *c)
{
	for (unsigned i = c->iov_at; i < c->iov_n; i++) {
		ts_free(c->iov_copy[i]);
		c->iov_copy[i] = NULL;
	}
}

/* false: no memory for what is encrypted. */
static bool add_message(struct net_conn *c, struct net_tx *m)
{
	size_t len = sizeof(m->hdr) + m->len;
	struct {
		struct net_hdr_msg hdr;
		uint8_t payload[];
	} *copy;

	if (!c->tx.secret) {
		net_seal_mac(&c->tx, &m->hdr, m->payload, m->len);
		add_iov(c, &m->hdr, len, m);
		return true;
	}
	copy = ts_alloc(len);
	if (!copy)
		return false;
	memcpy(copy, (const uint8_t *)m + offsetof(struct net_tx, hdr), len);
	net_seal_mac(&c->tx, &copy->hdr, copy->payload, m->len);
	add_iov(c, copy, len, m);
	c->iov_copy[c->iov_n - 1] = copy;
	return true;
}

static void fill_ack(struct net_conn *c)
{
	struct net_peer *p = c->peer;
	struct net *n = c->t->net;

	memset(&c->ack, 0, sizeof(c->ack));
	for (unsigned i = 0; i < NET_LANES; i++) {
		c->ack.payload.ack[i] = le64_make(p->lane[i].rx_seq);
		p->lane[i].rx_acked = p->lane[i].rx_seq;
	}
	c->ack.hdr = (struct net_hdr_msg){
		.magic = le32_make(NET_MAGIC),
		.proto = le16_make(c->proto),
		.flags = NET_F_ACK,
		.src_node = le16_make((uint16_t)n->self),
		.payload_len = le32_make(sizeof(c->ack.payload)),
		.src_incarnation = le64_make(n->incarnation),
		.dst_incarnation = le64_make(p->incarnation),
		.ack = le64_make(p->lane[0].rx_seq),
		.lamport = le64_make(n->lamport),
		.payload_csum = le64_make(ts_csum64(&c->ack.payload, sizeof(c->ack.payload), 0)),
	};
	net_seal_mac(&c->tx, &c->ack.hdr, &c->ack.payload, sizeof(c->ack.payload));
	p->ack_now = false;
	p->rx_msgs = 0;
	p->rx_bytes = 0;
	add_iov(c, &c->ack, sizeof(c->ack), NULL);
}

/* Fills the vector: an ack that is due, then lanes in order of priority, each within its credit. Messages in it, 0: none, or -ENOMEM. */
static int fill(struct net_conn *c)
{
	struct net_peer *p = c->peer;
	size_t bytes = 0;

	c->iov_at = c->iov_n = 0;
	if (p->ack_now)
		fill_ack(c);
	for (unsigned i = 0; i < NET_LANES && bytes < BATCH_BYTES; i++) {
		struct net_lane_state *l = &p->lane[i];
		struct net_tx *m;

		while (c->iov_n < NET_IOV && bytes < BATCH_BYTES && (m = net_lane_take(l))) {
			m->hdr.proto = le16_make(c->proto);
			m->hdr.ack = le64_make(l->rx_seq);
			l->rx_acked = l->rx_seq;
			if (!add_message(c, m))
				return -ENOMEM;
			bytes += sizeof(m->hdr) + m->len;
		}
	}
	return (int)c->iov_n;
}

static void written(struct net_conn *c, size_t n)
{
	c->t->stats.bytes_sent += n;
	while (n) {
		struct iovec *v = &c->iov[c->iov_at];
		struct net_tx *m = c->iov_tx[c->iov_at];

		if (n < v->iov_len) {
			v->iov_base = (char *)v->iov_base + n;
			v->iov_len -= n;
			return;
		}
		n -= v->iov_len;
		ts_free(c->iov_copy[c->iov_at]);
		c->iov_copy[c->iov_at++] = NULL;
		c->t->stats.frames_sent++;
		if (m)
			c->peer->lane[m->hdr.lane].wire_max = m->seq;
	}
}

static bool want_out(struct net_conn *c, bool want)
{
	if (c->want_out == want)
		return true;
	c->want_out = want;
	return ts_loop_fd_mod(c->t->loop, c->fd, want ? EPOLLIN | EPOLLOUT : EPOLLIN) == 0;
}

void net_conn_flush(struct net_conn *c)
{
	int filled = 1;

	for (unsigned round = 0; c->state == NET_C_OPEN && (c->iov_at < c->iov_n || (filled = fill(c)) > 0); round++) {
		struct msghdr mh = {.msg_iov = c->iov + c->iov_at, .msg_iovlen = c->iov_n - c->iov_at};
		ssize_t n;

		if (round == FLUSH_ROUNDS) {
			net_peer_flush_soon(c->peer);
			return;
		}
		n = sendmsg(c->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
			if (!want_out(c, true))
				net_conn_close(c);
			return;
		}
		if (n < 0) {
			ts_info("net: connection with node %u lost while sending: %s", c->peer->node, strerror(errno));
			net_conn_close(c);
			return;
		}
		written(c, (size_t)n);
	}
	if (filled < 0)
		ts_warn("net: no memory to encrypt what goes to node %u: its connection is made anew", c->peer->node);
	if (filled < 0 || !want_out(c, false))
		net_conn_close(c);
}
