/* SPDX-License-Identifier: Apache-2.0 */
/* The manager's life: made before the group is joined (messages of the first epoch may come before its view),
 * fed with views and messages, failed when this node is excluded, freed. Must never happen: a waiter that
 * nobody wakes when the node is excluded; a message handled after failure. */
#include "tokens/tokens_int.h"

_Static_assert((int)TOK_NL == DLM_NL && (int)TOK_SH == DLM_SH && (int)TOK_SW == DLM_SW &&
		       (int)TOK_EX == DLM_EX,
	       "one set of modes");

static void retry(void *arg)
{
	struct tok_mgr *m = arg;
	if (m->failed)
		return;
	bool tokens = dlm_tick(m->dlm), locks = plock_tick(m->locks);
	if (tokens || locks)
		ts_timer_arm(m->a.exec, &m->retry, ts_exec_now(m->a.exec) + TOK_RETRY_NS, retry, m);
}

static int send_op(void *arg, unsigned node, enum net_lane lane, uint16_t type, uint64_t epoch, const void *p,
		   uint32_t len)
{
	struct tok_mgr *m = arg;
	struct net_out o = {.dst_node = node,
			    .lane = lane,
			    .type = type,
			    .group = m->a.net_group,
			    .view = epoch,
			    .payload = p,
			    .len = len};
	int rc = net_send(m->a.net, &o);
	if (!rc)
		return 0;
	/* Lane full, no memory, or a peer that is not there yet or no more: kept until it works or the epoch
	 * ends. */
	if (!m->retry.exec)
		ts_timer_arm(m->a.exec, &m->retry, ts_exec_now(m->a.exec) + TOK_RETRY_NS, retry, m);
	return -ENOBUFS;
}

static void flush(void *arg)
{
	struct tok_mgr *m = arg;
	m->flushing = false;
	if (!m->failed)
		dlm_flush(m->dlm);
}

static void flush_wanted(void *arg)
{
	struct tok_mgr *m = arg;
	if (m->flushing)
		return;
	m->flushing = true;
	ts_exec_defer(m->a.exec, &m->flush, flush, m);
}

static bool many_ok(void *arg, unsigned node)
{
	const struct tok_mgr *m = arg;
	return net_peer_proto(m->a.net, node) >= NET_PROTO_MANY;
}

static void changed(void *arg)
{
	struct tok_mgr *m = arg;
	struct ts_list again;
	struct ts_list *n;
	ts_list_init(&again);
	while ((n = ts_list_pop_front(&m->closing)))
		ts_list_push_back(&again, n);
	while ((n = ts_list_pop_front(&again)))
		tok_settle(m, ts_list_entry(n, struct tok, lru));
	ts_cond_broadcast(&m->ready);
	ts_cond_broadcast(&m->shrunk);
}

struct tok_mgr *tok_mgr_new(const struct tok_args *a)
{
	struct tok_mgr *m = ts_alloc(sizeof *m);
	if (!m)
		return NULL;
	m->a = *a;
	if (!m->a.max_tokens)
		m->a.max_tokens = 1000000;
	m->min_hold_ns = (a->min_hold_ms ? a->min_hold_ms : 5) * TS_NS_PER_MS;
	ts_list_init(&m->all);
	ts_list_init(&m->lru);
	ts_list_init(&m->lru_segments);
	ts_list_init(&m->closing);
	ts_list_init(&m->rvq);
	ts_list_init(&m->rvq_data);
	ts_list_init(&m->kept);
	ts_list_init(&m->ahead);
	ts_list_init(&m->flush.link);
	ts_list_init(&m->peers);
	ts_list_init(&m->lock_calls);
	ts_list_init(&m->lock_closings);
	ts_cond_init(&m->ready);
	ts_cond_init(&m->shrunk);
	struct dlm_args d = {
		.self = a->self,
		.unit_kinds = 1u << TOK_OPEN | 1u << TOK_DIR | 1u << TOK_DATA | 1u << TOK_INODE,
		.owner_kind = TOK_SEGMENT,
		.unit_shift = TOK_SEGMENT_SHIFT,
		.ops = {.send = send_op,
			.granted = tok_granted,
			.denied = tok_denied,
			.revoke = tok_on_revoke,
			.ahead_ok = tok_ahead_ok,
			.flush_wanted = flush_wanted,
			.many_ok = many_ok,
			.changed = changed,
			.arg = m},
	};
	struct plock_args p = {.self = a->self, .ops = {.send = send_op, .done = tok_lock_done, .arg = m}};
	m->dlm = dlm_new(&d);
	m->locks = plock_new(&p);
	if (!m->dlm || !m->locks || tok_demux_add(m)) {
		dlm_free(m->dlm);
		plock_free(m->locks);
		ts_free(m);
		return NULL;
	}
	return m;
}

void tok_message(struct tok_mgr *m, const struct net_msg *msg)
{
	if (m->failed)
		return;
	dlm_now(m->dlm, ts_exec_now(m->a.exec));
	if ((msg->type & 0xff00) == PLOCK_TYPE_CLASS)
		plock_message(m->locks, msg->src_node, msg->type, msg->view, msg->payload, msg->len);
	else
		dlm_message(m->dlm, msg->src_node, msg->type, msg->view, msg->payload, msg->len);
}

void tok_mgr_view(struct tok_mgr *m, const struct quorum_group_view *v)
{
	if (m->failed || v->group != m->a.group)
		return;
	dlm_now(m->dlm, ts_exec_now(m->a.exec));
	dlm_view(m->dlm, v);
	plock_view(m->locks, v);
}

int tok_mgr_wait_ready(struct tok_mgr *m)
{
	while (!m->failed && !dlm_ready(m->dlm))
		ts_cond_wait(&m->ready, "tokens of the group ready", m->a.group, dlm_epoch(m->dlm));
	return m->failed ? -TS_ERR_FENCED : 0;
}

void tok_mgr_fail(struct tok_mgr *m)
{
	if (m->failed)
		return;
	m->failed = true;
	ts_timer_cancel(&m->retry);
	ts_timer_cancel(&m->ahead_age);
	ts_list_for(n, &m->all)
	{
		struct tok *t = ts_list_entry(n, struct tok, all);
		tok_fail_waiters(m, t, 0, -TS_ERR_FENCED);
		ts_cond_broadcast(&t->drained);
	}
	tok_lock_interrupt(m);
	ts_cond_broadcast(&m->ready);
	ts_cond_broadcast(&m->shrunk);
	if (m->a.events.lost)
		m->a.events.lost(m->a.events.arg);
}

void tok_mgr_free(struct tok_mgr *m)
{
	struct ts_list *n;
	if (!m)
		return;
	ts_timer_cancel(&m->retry);
	ts_timer_cancel(&m->ahead_age);
	ts_list_del(&m->flush.link);
	tok_demux_del(m);
	dlm_free(m->dlm);
	tok_lock_fini(m);
	while ((n = ts_list_pop_front(&m->all)))
		ts_free(ts_list_entry(n, struct tok, all));
	ts_free(m);
}

void tok_stats_get(struct tok_mgr *m, struct tok_stats *out)
{
	struct dlm_stats d;
	dlm_stats_get(m->dlm, &d);
	*out = m->st;
	out->held = m->ntoks;
	out->mastered = d.mastered;
	out->frames = d.frames;
	out->frames_many = d.frames_many;
	out->requests_sent = d.requests_sent;
	out->grants = d.grants;
	out->revokes_received = d.revokes_received;
	out->revokes_sent = d.revokes_sent;
	out->releases_sent = d.releases_sent;
	out->moved = d.moved;
	out->view_changes = d.view_changes;
}
