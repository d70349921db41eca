/* SPDX-License-Identifier: Apache-2.0 */
/* Job: one lane towards one peer incarnation: what is queued, what is on its way, what is acknowledged. Must never
 * happen: a message freed before the peer has it; an unbounded queue; more on its way than the lane's credit. */
#include "net/net_int.h"

void net_lane_init(struct net_lane_state *l)
{
	*l = (struct net_lane_state){0};
	ts_list_init(&l->q);
	l->next = &l->q;
}

static struct net_tx *entry(struct ts_list *l)
{
	return ts_list_entry(l, struct net_tx, link);
}

int net_lane_push(struct net_lane_state *l, struct net_tx *m)
{
	if (l->count >= NET_LANE_MSGS || l->bytes + m->len > NET_LANE_BYTES)
		return -ENOBUFS;
	m->seq = ++l->tx_seq;
	m->hdr.seq = le64_make(m->seq);
	ts_list_push_back(&l->q, &m->link);
	if (l->next == &l->q)
		l->next = &m->link;
	l->count++;
	l->bytes += m->len;
	return 0;
}

struct net_tx *net_lane_take(struct net_lane_state *l)
{
	struct net_tx *m;

	if (l->next == &l->q)
		return NULL;
	m = entry(l->next);
	if (l->inflight && (l->inflight >= NET_CREDIT_MSGS || l->inflight_bytes + m->len > NET_CREDIT_BYTES))
		return NULL;
	l->next = l->next->next;
	l->inflight++;
	l->inflight_bytes += m->len;
	l->sent_max = TS_MAX(l->sent_max, m->seq);
	return m;
}

bool net_lane_ack(struct net_lane_state *l, uint64_t ack)
{
	if (ack > l->wire_max)
		return false;
	while (!ts_list_empty(&l->q) && entry(l->q.next)->seq <= ack) {
		struct net_tx *m = entry(l->q.next);

		if (l->next == &m->link) { /* only at the start of a connection: the ack of the one before */
			l->next = m->link.next;
		} else {
			l->inflight--;
			l->inflight_bytes -= m->len;
		}
		ts_list_del(&m->link);
		l->count--;
		l->bytes -= m->len;
		ts_free(m);
	}
	l->acked = TS_MAX(l->acked, ack);
	return true;
}

void net_lane_rewind(struct net_lane_state *l)
{
	l->next = l->q.next;
	l->inflight = 0;
	l->inflight_bytes = 0;
	l->wire_max = l->sent_max;
}

void net_lane_free(struct net_lane_state *l)
{
	struct ts_list *n;

	while ((n = ts_list_pop_front(&l->q)))
		ts_free(entry(n));
	net_lane_init(l);
}
