/* SPDX-License-Identifier: Apache-2.0 */
/* The lock engine's frame: entry and exit, messages in and out, what is kept for later. Job: a message
 * reaches its handler only in its own epoch and when its time has come; done() is called outside of every
 * loop of the engine. Must never happen: order within a lane is lost. */
#include "dlm/plock_int.h"

void *plock_xalloc(size_t n, const char *what)
{
	return ts_alloc_must(n, what);
}
void plock_must(int rc, const char *what)
{
	if (rc)
		TS_PANIC("locks: no memory for %s: it cannot be dropped without breaking the lock protocol",
			 what);
}

struct plock *plock_new(const struct plock_args *a)
{
	struct plock *p = ts_alloc(sizeof *p);
	if (!p)
		return NULL;
	TS_ASSERT(a->self > 0 && a->self < NET_MAX_NODES);
	p->a = *a;
	p->self = a->self;
	p->a.max_locks = a->max_locks ? a->max_locks : 1000000;
	p->a.max_idle = a->max_idle ? a->max_idle : 4096;
	p->a.alone = a->alone ? a->alone : 64;
	ts_map_init(&p->res);
	ts_map_init(&p->mres);
	ts_map_init(&p->pids);
	ts_list_init(&p->idle);
	ts_list_init(&p->midle);
	ts_list_init(&p->all);
	ts_list_init(&p->finished);
	ts_list_init(&p->local);
	ts_list_init(&p->parked);
	ts_list_init(&p->outq);
	return p;
}

static void free_q(struct ts_list *l)
{
	struct ts_list *n;
	while ((n = ts_list_pop_front(l)))
		ts_free(ts_list_entry(n, struct plock_qmsg, link));
}
static int free_pid(struct ts_map_node *n, void *arg)
{
	struct plock *p = arg;
	ts_map_remove(&p->pids, n);
	ts_free(TS_CONTAINER(n, struct plock_pid, node));
	return 0;
}

void plock_free(struct plock *p)
{
	struct ts_list *n;
	if (!p)
		return;
	ts_map_each(&p->mres, plock_mres_free, p);
	ts_map_each(&p->res, plock_res_free, p);
	ts_map_each(&p->pids, free_pid, p);
	free_q(&p->local);
	free_q(&p->parked);
	while ((n = ts_list_pop_front(&p->outq)))
		ts_free(ts_list_entry(n, struct plock_omsg, link));
	ts_map_fini(&p->res);
	ts_map_fini(&p->mres);
	ts_map_fini(&p->pids);
	ts_free(p);
}

bool plock_is_member(const struct plock *p, unsigned node)
{
	for (unsigned i = 0; i < p->nmembers; i++)
		if (p->members[i] == node)
			return true;
	return false;
}

unsigned plock_master(const struct plock *p, uint64_t ino)
{
	unsigned best = 0;
	uint64_t score = 0, h = ts_hash_2(ino, 0x6c6f636b);
	for (unsigned i = 0; i < p->nmembers; i++) {
		uint64_t s = ts_hash_2(h, p->members[i]);
		if (!best || s > score) {
			best = p->members[i];
			score = s;
		}
	}
	return best;
}

/* ---- messages kept ---- */

struct plock_qmsg *plock_keep(const struct plock_m *m)
{
	size_t ents = m->count * sizeof *m->ents;
	struct plock_qmsg *q = plock_xalloc(sizeof *q + ents, "a message kept");
	q->m = *m;
	if (ents) {
		memcpy(q + 1, m->ents, ents);
		q->m.ents = (const struct plock_entry_msg *)(q + 1);
	}
	return q;
}

static void dispatch(struct plock *p, const struct plock_m *m);

/* The phase or the epoch changed: each is tried once, in order; it may be parked again. */
void plock_unpark(struct plock *p)
{
	struct ts_list todo;
	struct ts_list *n;
	ts_list_init(&todo);
	while ((n = ts_list_pop_front(&p->parked)))
		ts_list_push_back(&todo, n);
	while ((n = ts_list_pop_front(&todo))) {
		struct plock_qmsg *q = ts_list_entry(n, struct plock_qmsg, link);
		dispatch(p, &q->m);
		ts_free(q);
	}
}

/* ---- sending ---- */

static bool lane_waits(const struct plock *p, unsigned node, enum net_lane lane)
{
	ts_list_for(n, &p->outq)
	{
		const struct plock_omsg *o = ts_list_entry(n, const struct plock_omsg, link);
		if (o->node == node && o->lane == lane)
			return true;
	}
	return false;
}

static void send_raw(struct plock *p, unsigned node, uint16_t type, const void *b, uint32_t len)
{
	enum net_lane lane = plock_lane(type);
	p->st.sent++;
	if (ts_list_empty(&p->outq) || !lane_waits(p, node, lane))
		if (p->a.ops.send(p->a.ops.arg, node, lane, type, p->epoch, b, len) != -ENOBUFS)
			return;
	struct plock_omsg *o = plock_xalloc(sizeof *o + len, "a message to a full lane");
	o->node = node;
	o->lane = lane;
	o->type = type;
	o->len = len;
	memcpy(o->bytes, b, len);
	ts_list_push_back(&p->outq, &o->link);
}

void plock_send(struct plock *p, unsigned node, const struct plock_m *m)
{
	if (node == p->self) {
		struct plock_qmsg *q = plock_keep(m);
		q->m.src = p->self;
		q->m.epoch = p->epoch;
		ts_list_push_back(&p->local, &q->link);
		return;
	}
	uint8_t small[sizeof(struct plock_head_msg) + PLOCK_CYCLE_MAX * sizeof(struct plock_entry_msg)];
	uint8_t *big = m->count > PLOCK_CYCLE_MAX ? plock_xalloc(PLOCK_MSG_MAX, "a batch") : NULL;
	uint8_t *b = big ? big : small;
	send_raw(p, node, m->type, b, plock_encode(m, b, big ? PLOCK_MSG_MAX : sizeof small));
	ts_free(big);
}

bool plock_tick(struct plock *p)
{
	struct ts_list todo;
	struct ts_list *n;
	ts_list_init(&todo);
	while ((n = ts_list_pop_front(&p->outq)))
		ts_list_push_back(&todo, n);
	while ((n = ts_list_pop_front(&todo))) {
		struct plock_omsg *o = ts_list_entry(n, struct plock_omsg, link);
		send_raw(p, o->node, o->type, o->bytes, o->len);
		ts_free(o);
	}
	return plock_tick_wanted(p);
}
bool plock_tick_wanted(const struct plock *p)
{
	return !ts_list_empty(&p->outq);
}

/* ---- entry and exit ---- */

static const struct {
	void (*fn)(struct plock *, const struct plock_m *);
	bool master; /* needs what everybody reported */
} handlers[] = {
	[PLOCK_OP - PLOCK_OP] = {plock_on_op, true},
	[PLOCK_CANCEL - PLOCK_OP] = {plock_on_cancel, true},
	[PLOCK_STATE - PLOCK_OP] = {plock_on_state, true},
	[PLOCK_PROBE - PLOCK_OP] = {plock_on_probe, true},
	[PLOCK_CONFIRM - PLOCK_OP] = {plock_on_confirm, true},
	[PLOCK_DONE - PLOCK_OP] = {plock_on_done, false},
	[PLOCK_DELEGATE - PLOCK_OP] = {plock_on_delegate, false},
	[PLOCK_RECALL - PLOCK_OP] = {plock_on_recall, false},
	[PLOCK_REPORT - PLOCK_OP] = {plock_on_report, false},
	[PLOCK_REPORTED - PLOCK_OP] = {plock_on_reported, false},
};

/* The epoch law: older is dropped, newer waits for the view. What waits is bounded by what others hold and
 * ask for. */
static void dispatch(struct plock *p, const struct plock_m *m)
{
	if (m->epoch > p->epoch) {
		ts_list_push_back(&p->parked, &plock_keep(m)->link);
		return;
	}
	if (m->epoch < p->epoch || p->phase == PLOCK_OUT || !plock_is_member(p, m->src)) {
		p->st.dropped_old++;
		return;
	}
	if (handlers[m->type - PLOCK_OP].master && p->phase != PLOCK_RUN)
		ts_list_push_back(&p->parked, &plock_keep(m)->link);
	else
		handlers[m->type - PLOCK_OP].fn(p, m);
}

void plock_enter(struct plock *p)
{
	p->depth++;
}

static bool leave_step(struct plock *p)
{
	struct ts_list *n = ts_list_pop_front(&p->local);
	if (n) {
		struct plock_qmsg *q = ts_list_entry(n, struct plock_qmsg, link);
		dispatch(p, &q->m);
		ts_free(q);
		return true;
	}
	n = ts_list_pop_front(&p->finished);
	if (n)
		p->a.ops.done(p->a.ops.arg, ts_list_entry(n, struct plock_op, link));
	return n != NULL;
}

void plock_leave(struct plock *p)
{
	TS_ASSERT(p->depth > 0);
	while (p->depth == 1 && leave_step(p))
		;
	p->depth--;
}

void plock_message(struct plock *p, unsigned src, uint16_t type, uint64_t epoch, const void *b, uint32_t len)
{
	struct plock_m m = {.src = src, .type = type, .epoch = epoch};
	if (src == 0 || src >= NET_MAX_NODES || !plock_decode(&m, b, len)) {
		ts_err("locks: malformed message type 0x%x (%u bytes) from node %u ignored", type, len, src);
		return;
	}
	plock_enter(p);
	dispatch(p, &m);
	plock_leave(p);
}
