/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's frame: entry and exit, messages in and out, what is kept for later. Job: a message reaches its
 * handler only in its own epoch and when its time has come. Must never happen: a handler runs inside another
 * one's loop over the lock table (messages to oneself therefore wait until the outermost entry leaves); order
 * within a lane is lost. */
#include "dlm/dlm_int.h"

void *dlm_xalloc(size_t n, const char *what)
{
	return ts_alloc_must(n, what);
}

struct dlm *dlm_new(const struct dlm_args *a)
{
	struct dlm *d = ts_alloc(sizeof *d);
	if (!d)
		return NULL;
	TS_ASSERT(a->self > 0 && a->self < NET_MAX_NODES && a->owner_kind < 32);
	d->a = *a;
	d->self = a->self;
	if (!d->a.max_mastered)
		d->a.max_mastered = 4000000;
	ts_map_init(&d->res);
	ts_map_init(&d->mres);
	ts_map_init(&d->units);
	ts_list_init(&d->reqs);
	ts_list_init(&d->local);
	ts_list_init(&d->parked);
	ts_list_init(&d->outq);
	ts_list_init(&d->collected);
	ts_list_init(&d->spare);
	return d;
}

static void free_list_q(struct ts_list *l)
{
	struct ts_list *n;
	while ((n = ts_list_pop_front(l)))
		ts_free(ts_list_entry(n, struct dlm_qmsg, link));
}
static int free_mres(struct ts_map_node *n, void *arg)
{
	dlm_mres_free(arg, TS_CONTAINER(n, struct dlm_mres, node));
	return 0;
}
static int free_unit(struct ts_map_node *n, void *arg)
{
	struct dlm *d = arg;
	ts_map_remove(&d->units, n);
	ts_free(TS_CONTAINER(n, struct dlm_unit, node));
	return 0;
}
static int free_res(struct ts_map_node *n, void *arg)
{
	struct dlm_res *r = TS_CONTAINER(n, struct dlm_res, node);
	struct ts_list *l;
	while ((l = ts_list_pop_front(&r->revokes)))
		ts_free(ts_list_entry(l, struct dlm_rin, link));
	dlm_rset_fini(&r->held);
	return 0;
}

void dlm_free(struct dlm *d)
{
	if (!d)
		return;
	ts_map_each(&d->mres, free_mres, d);
	ts_map_each(&d->units, free_unit, d);
	ts_map_each(&d->res, free_res, d);
	free_list_q(&d->local);
	free_list_q(&d->parked);
	free_list_q(&d->spare);
	struct ts_list *n;
	while ((n = ts_list_pop_front(&d->outq)))
		ts_free(ts_list_entry(n, struct dlm_omsg, link));
	dlm_collected_drop(d);
	ts_map_fini(&d->res);
	ts_map_fini(&d->mres);
	ts_map_fini(&d->units);
	ts_free(d);
}

bool dlm_is_member(const struct dlm *d, unsigned node)
{
	for (unsigned i = 0; i < d->nmembers; i++)
		if (d->members[i] == node)
			return true;
	return false;
}
bool dlm_in_unit(const struct dlm *d, uint32_t kind)
{
	return d->a.unit_kinds >> kind & 1;
}

/* ---- messages kept
 * --------------------------------------------------------------------------------------------------*/

static struct dlm_qmsg *qnew(struct dlm *d, const struct dlm_msg *m)
{
	size_t ents = m->ents ? m->count * sizeof *m->ents : 0;
	struct ts_list *n = ents ? NULL : ts_list_pop_front(&d->spare);
	struct dlm_qmsg *q = n ? ts_list_entry(n, struct dlm_qmsg, link)
			       : dlm_xalloc(sizeof *q + ents, dlm_type_name(m->type));
	q->m = *m;
	if (ents) {
		memcpy(q + 1, m->ents, ents);
		q->m.ents = (const struct dlm_entry_msg *)(q + 1);
	}
	return q;
}
void dlm_qfree(struct dlm *d, struct dlm_qmsg *q)
{
	if (q->m.ents)
		ts_free(q);
	else
		ts_list_push_back(&d->spare, &q->link);
}

void dlm_park(struct dlm *d, const struct dlm_msg *m)
{
	ts_list_push_back(&d->parked, &qnew(d, m)->link);
}

/* Something changed that parked messages may wait for: each is tried once, in order; it may be parked again.
 */
void dlm_unpark(struct dlm *d)
{
	if (d->unparking || ts_list_empty(&d->parked)) {
		d->unpark_again = true;
		return;
	}
	d->unparking = true;
	do {
		d->unpark_again = false;
		struct ts_list todo;
		ts_list_init(&todo);
		struct ts_list *n;
		while ((n = ts_list_pop_front(&d->parked)))
			ts_list_push_back(&todo, n);
		while ((n = ts_list_pop_front(&todo))) {
			struct dlm_qmsg *q = ts_list_entry(n, struct dlm_qmsg, link);
			dlm_dispatch(d, &q->m);
			dlm_qfree(d, q);
		}
	} while (d->unpark_again);
	d->unparking = false;
}

/* ---- sending
 * --------------------------------------------------------------------------------------------------------*/

static bool lane_waits(const struct dlm *d, unsigned node, enum net_lane lane)
{
	ts_list_for(n, &d->outq)
	{
		const struct dlm_omsg *o = ts_list_entry(n, const struct dlm_omsg, link);
		if (o->node == node && o->lane == lane)
			return true;
	}
	return false;
}

void dlm_send_now(struct dlm *d, unsigned node, uint16_t type, const void *p, uint32_t len)
{
	/* The first of many tells the lane. */
	enum net_lane lane = dlm_lane(type == DLM_MANY ? le16_get(((const struct dlm_one_msg *)((const struct dlm_many_msg *)p + 1))->type) : type);
	d->st.frames++;
	d->st.frames_many += type == DLM_MANY;
	if (ts_list_empty(&d->outq) || !lane_waits(d, node, lane))
		if (d->a.ops.send(d->a.ops.arg, node, lane, type, d->epoch, p, len) != -ENOBUFS)
			return;
	struct dlm_omsg *o = dlm_xalloc(sizeof *o + len, "a message to a full lane");
	o->node = node;
	o->lane = lane;
	o->type = type;
	o->len = len;
	memcpy(o->bytes, p, len);
	ts_list_push_back(&d->outq, &o->link);
}

void dlm_send_raw(struct dlm *d, unsigned node, uint16_t type, const void *p, uint32_t len)
{
	dlm_flush_lane(d, node, dlm_lane(type));
	dlm_send_now(d, node, type, p, len);
}

void dlm_send(struct dlm *d, unsigned node, const struct dlm_msg *m)
{
	if (node == d->self) {
		struct dlm_qmsg *q = qnew(d, m);
		q->m.src = d->self;
		q->m.epoch = d->epoch;
		ts_list_push_back(&d->local, &q->link);
		return;
	}
	struct dlm_lock_msg w;
	uint32_t len = dlm_encode(m, &w);
	if (!dlm_collect(d, node, m->type, &w))
		dlm_send_now(d, node, m->type, &w, len);
}

bool dlm_tick(struct dlm *d)
{
	struct ts_list todo;
	struct ts_list *n;
	ts_list_init(&todo);
	while ((n = ts_list_pop_front(&d->outq)))
		ts_list_push_back(&todo, n);
	while ((n = ts_list_pop_front(&todo))) {
		struct dlm_omsg *o = ts_list_entry(n, struct dlm_omsg, link);
		d->st.frames--; /* counted already */
		d->st.frames_many -= o->type == DLM_MANY;
		dlm_send_now(d, o->node, o->type, o->bytes, o->len);
		ts_free(o);
	}
	return dlm_tick_wanted(d);
}
bool dlm_tick_wanted(const struct dlm *d)
{
	return !ts_list_empty(&d->outq) || !ts_list_empty(&d->collected);
}
void dlm_now(struct dlm *d, uint64_t now_ns)
{
	d->now_ns = now_ns;
}

/* ---- entry and exit
 * -------------------------------------------------------------------------------------------------*/

void dlm_enter(struct dlm *d)
{
	d->depth++;
}
void dlm_leave(struct dlm *d)
{
	TS_ASSERT(d->depth > 0);
	if (d->depth == 1) {
		struct ts_list *n;
		while ((n = ts_list_pop_front(&d->local))) {
			struct dlm_qmsg *q = ts_list_entry(n, struct dlm_qmsg, link);
			if (q->m.epoch == d->epoch)
				dlm_dispatch(d, &q->m);
			dlm_qfree(d, q);
		}
	}
	d->depth--;
}

static void (*const handlers[])(struct dlm *, const struct dlm_msg *) = {
	[DLM_REQUEST - DLM_REQUEST] = dlm_on_request,	[DLM_GRANT - DLM_REQUEST] = dlm_on_grant,
	[DLM_DENIED - DLM_REQUEST] = dlm_on_denied,	[DLM_MOVED - DLM_REQUEST] = dlm_on_moved,
	[DLM_REVOKE - DLM_REQUEST] = dlm_on_revoke,	[DLM_RELEASE - DLM_REQUEST] = dlm_on_release,
	[DLM_HANDOVER - DLM_REQUEST] = dlm_on_handover, [DLM_OWN - DLM_REQUEST] = dlm_on_own,
	[DLM_REPORT - DLM_REQUEST] = dlm_on_report,	[DLM_DONE - DLM_REQUEST] = dlm_on_done,
};

/* The epoch law: older is dropped, newer waits for the view. A node sends only phase-1 messages before all
 * others have entered its epoch, so what waits here is bounded. */
void dlm_dispatch(struct dlm *d, const struct dlm_msg *m)
{
	if (m->epoch > d->epoch) {
		dlm_park(d, m);
		return;
	}
	if (m->epoch < d->epoch || d->phase == DLM_OUT || !dlm_is_member(d, m->src)) {
		d->st.dropped_old++;
		return;
	}
	handlers[m->type - DLM_REQUEST](d, m);
}

void dlm_message(struct dlm *d, unsigned src, uint16_t type, uint64_t epoch, const void *p, uint32_t len)
{
	struct dlm_msg m = {.src = src, .type = type, .epoch = epoch};
	uint32_t count;
	if (type == DLM_MANY && src < NET_MAX_NODES && dlm_many_sound(p, len, &count)) {
		dlm_enter(d);
		dlm_on_many(d, src, epoch, p, count);
		dlm_leave(d);
		return;
	}
	if (type == DLM_MANY || !dlm_decode(&m, p, len) || src >= NET_MAX_NODES) {
		ts_err("dlm: malformed message type 0x%x (%u bytes) from node %u ignored", type, len, src);
		return;
	}
	dlm_enter(d);
	dlm_dispatch(d, &m);
	dlm_leave(d);
}

/* ---- looking at it
 * --------------------------------------------------------------------------------------------------*/

bool dlm_ready(const struct dlm *d)
{
	return dlm_granting(d);
}
uint64_t dlm_epoch(const struct dlm *d)
{
	return d->epoch;
}
void dlm_stats_get(const struct dlm *d, struct dlm_stats *out)
{
	*out = d->st;
	out->held = d->res.count;
	out->mastered = d->mres.count;
}
