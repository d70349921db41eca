/* SPDX-License-Identifier: Apache-2.0 */
/* Do all members of the view hear us, and we them? Asked before a mount joins the group: a node with a wrong cluster key, or
 * behind a firewall, is a member for corosync, but would hold up every token of the others. Must never happen: an answer
 * that waits. */
#include "admin/daemon.h"
#include <stdio.h>

#define PEER_HELLO	0x301
#define PEER_CONFIRM	0x302 /* one-way: an operator says that this incarnation's machine is off */
#define PEER_TIE	0x304 /* (0x303 is route.c's) have you this tiebreaker open? */
#define PEER_TIMEOUT_NS (3 * TS_NS_PER_S)

struct peer_confirm_msg {
	le64 node, incarnation;
};

static void on_message(void *arg, const struct net_msg *m)
{
	struct daemon *d = arg;
	struct ts_rd rd = {.p = m->payload, .left = m->len};
	if (route_message(d, m) || key_message(d, m))
		return;
	if (m->type == PEER_CONFIRM) {
		uint64_t node = ts_rd_u64(&rd), incarnation = ts_rd_u64(&rd);
		if (!rd.bad && node < NET_MAX_NODES && node != d->conf.node_id)
			confirm_dead(d, (unsigned)node, incarnation, m->src_node);
	}
	if (m->type == PEER_TIE && m->call_id) {
		const uint8_t *uuid = ts_rd_bytes(&rd, sizeof(d->tie.agreed.uuid));
		bool have = uuid && d->tie.disk && !memcmp(uuid, d->tie.agreed.uuid, sizeof(d->tie.agreed.uuid));
		if (net_reply(d->net, m, have ? 0 : -EAGAIN, NULL, 0))
			ts_debug("peer %u: its question about the tiebreaker could not be answered", m->src_node);
	}
	if (m->type == PEER_HELLO && m->call_id && net_reply(d->net, m, 0, NULL, 0))
		ts_debug("peer %u: its greeting could not be answered", m->src_node);
}

void peers_open(struct daemon *d)
{
	net_handle(d->net, PEER_HELLO & 0xff00, on_message, d);
}

void peers_confirm_dead(struct daemon *d, unsigned to, unsigned node, uint64_t incarnation)
{
	struct peer_confirm_msg w = {.node = le64_make(node), .incarnation = le64_make(incarnation)};
	struct net_out o = {.dst_node = to, .lane = NET_RECOVERY, .type = PEER_CONFIRM, .payload = &w, .len = sizeof(w)};
	if (net_send(d->net, &o))
		ts_warn("node %u: could not be told that node %u is confirmed dead; say it there, too, if it is the one that recovers", to, node);
}

bool peers_have_tie(struct daemon *d, unsigned node, const uint8_t uuid[16], uint64_t deadline)
{
	struct net_out o = {.dst_node = node, .lane = NET_REQUEST, .type = PEER_TIE, .payload = uuid, .len = 16};
	int result = -EAGAIN, rc = 0;
	while (rc == 0 && result && ts_exec_now(d->exec) < deadline) {
		rc = net_call(d->net, &o, TS_MIN(deadline, ts_exec_now(d->exec) + PEER_TIMEOUT_NS), &result, NULL, NULL);
		if (rc == 0 && result)
			ts_sleep_until(ts_exec_now(d->exec) + 100 * TS_NS_PER_MS);
	}
	return rc == 0 && result == 0;
}

int peers_reachable(struct daemon *d, char *errmsg, size_t errlen)
{
	struct quorum_view v = *quorum_view_get(d->quorum); /* a copy: the view may change while we ask */
	for (unsigned i = 0; i < v.nmembers; i++) {
		const struct quorum_member *m = &v.members[i];
		struct net_out o = {.dst_node = m->node, .lane = NET_REQUEST, .type = PEER_HELLO, .view = v.number};
		int result = 0;
		if (m->node == d->conf.node_id)
			continue;
		int rc = net_call(d->net, &o, ts_exec_now(d->exec) + PEER_TIMEOUT_NS, &result, NULL, NULL);
		if (rc == -ENOTCONN) /* it left meanwhile */
			continue;
		if (rc) {
			snprintf(errmsg, errlen, "node %u (%s port %u): a member that does not answer (%s); check that its cluster key is ours and that no firewall is between",
				 m->node, m->addr, m->port, strerror(-rc));
			return rc;
		}
	}
	return 0;
}
