/* SPDX-License-Identifier: Apache-2.0 */
/* Several dlm engines in one process, joined by queues: FIFO per (sender, receiver, lane), nothing else is
 * ordered. Job: every event is chosen by the test; after each one no two nodes hold conflicting modes (dead
 * nodes count until their recovery is complete). Must never happen here: the harness hides a broken law, so
 * faults can be planted (struct sim.fault) and each test shows that they are seen. */
#ifndef TESTS_DLM_SIM_H
#define TESTS_DLM_SIM_H

#include "dlm/dlm_int.h"
#include <stdio.h>

#define SIM_NODES 5
#define SIM_KEYS  6
#define SIM_VIEWS 4096
enum { KIND_HASH = 1, KIND_INODE = 7, KIND_SEGMENT = 8 };

struct sim_msg {
	struct ts_list link;
	uint16_t type;
	uint64_t epoch;
	uint32_t len;
	uint8_t bytes[];
};
struct sim_key {
	struct dlm_res res;
	struct dlm_req req;
	bool known, waiting;
	struct sim_node *owner;
};
struct sim_node {
	struct sim *s;
	unsigned id;
	struct dlm *d;
	bool alive;
	unsigned view; /* index of the next view it will get */
	bool flush;    /* it has collected messages */
	struct sim_key keys[SIM_KEYS];
};
enum sim_fault { SIM_NO_FAULT, SIM_EARLY_RELEASE, SIM_LOST_RELEASE, SIM_OLD_GRANT, SIM_REFUSAL_GIVES, SIM_FAULTS };
struct sim {
	unsigned n;
	struct sim_node node[SIM_NODES + 1];
	struct ts_list q[SIM_NODES + 1][SIM_NODES + 1][NET_LANES];
	struct quorum_group_view *views[SIM_VIEWS];
	unsigned nviews;
	enum sim_fault fault;
	bool fault_done;
	struct dlm_key key[SIM_KEYS];
	unsigned nkeys;
	uint64_t sends, denied, granted;
	bool collect;  /* messages wait for sim_do_flush, and share frames */
	uint32_t keeps; /* nodes that have use for whatever others ask for ahead */
	uint64_t kept;	/* so often they said so */
	unsigned full; /* every full-th send is refused with -ENOBUFS, 0 = none */
	const char *broken;
};

static inline void sim_push(struct sim *s, unsigned src, unsigned dst, enum net_lane lane, uint16_t type,
			    uint64_t epoch, const void *p, uint32_t len)
{
	struct sim_msg *m = ts_xalloc(sizeof *m + len);
	m->type = type;
	m->epoch = epoch;
	m->len = len;
	memcpy(m->bytes, p, len);
	ts_list_push_back(&s->q[src][dst][lane], &m->link);
}
static inline int sim_send(void *arg, unsigned node, enum net_lane lane, uint16_t type, uint64_t epoch,
			   const void *p, uint32_t len)
{
	struct sim_node *me = arg;
	struct sim *s = me->s;
	if (node == me->id || node > s->n)
		TS_PANIC("message to node %u", node);
	s->sends++;
	if (s->full && s->sends % s->full == 0)
		return -ENOBUFS;
	if (s->fault == SIM_LOST_RELEASE && type == DLM_RELEASE && !s->fault_done) {
		s->fault_done = true;
		return 0;
	}
	if (s->fault == SIM_REFUSAL_GIVES && type == DLM_RELEASE && ((const struct dlm_lock_msg *)p)->mode == DLM_EX && !s->fault_done) {
		struct dlm_lock_msg w = *(const struct dlm_lock_msg *)p;
		w.mode = DLM_NL;
		s->fault_done = true;
		sim_push(s, me->id, node, lane, type, epoch, &w, len);
		return 0;
	}
	if (s->node[node].alive)
		sim_push(s, me->id, node, lane, type, epoch, p, len);
	return 0;
}
static inline void sim_granted(void *arg, struct dlm_req *q)
{
	struct sim_key *k = TS_CONTAINER(q, struct sim_key, req);
	k->owner->s->granted++;
	k->waiting = false;
}
static inline void sim_denied(void *arg, struct dlm_req *q, int err)
{
	struct sim_key *k = TS_CONTAINER(q, struct sim_key, req);
	k->owner->s->denied++;
	k->waiting = false;
}
static inline void sim_revoke(void *arg, struct dlm_res *r)
{
}
static inline void sim_changed(void *arg)
{
}
static inline bool sim_ahead_ok(void *arg, struct dlm_key key, bool holder)
{
	struct sim_node *n = arg;
	bool keep = holder && n->s->keeps >> n->id & 1;
	n->s->kept += keep;
	return !keep;
}
static inline void sim_flush_wanted(void *arg)
{
	struct sim_node *n = arg;
	n->flush = true;
}
static inline void sim_do_flush(struct sim_node *n)
{
	n->flush = false;
	dlm_flush(n->d);
}

static inline void sim_start_node(struct sim *s, unsigned id)
{
	struct sim_node *n = &s->node[id];
	struct dlm_args a = {.self = id,
			     .unit_kinds = 1u << KIND_INODE,
			     .owner_kind = KIND_SEGMENT,
			     .unit_shift = 9,
			     .ops = {sim_send, sim_granted, sim_denied, sim_revoke, sim_changed, n, sim_ahead_ok,
				     s->collect ? sim_flush_wanted : NULL, NULL}};
	*n = (struct sim_node){.s = s, .id = id, .alive = true, .view = s->nviews};
	n->d = dlm_new(&a);
	TS_ASSERT(n->d);
	for (unsigned i = 0; i < s->nkeys; i++)
		n->keys[i].owner = n;
}

/* A view of who lives now. pending: node that died and is not recovered, 0 = none. */
static inline void sim_view_add(struct sim *s, unsigned pending, bool quorate)
{
	struct quorum_group_view *v = ts_xalloc(sizeof *v);
	TS_ASSERT(s->nviews < SIM_VIEWS);
	*v = (struct quorum_group_view){
		.group = 1, .epoch = s->nviews + 1, .view = s->nviews + 1, .quorate = quorate};
	for (unsigned i = 1; i <= s->n; i++)
		if (s->node[i].alive)
			v->members[v->nmembers++].node = i;
	if (pending)
		v->pending[v->npending++].node = pending;
	s->views[s->nviews++] = v;
}

static inline void sim_init(struct sim *s, unsigned n, const struct dlm_key *keys, unsigned nkeys)
{
	*s = (struct sim){.n = n, .nkeys = nkeys, .collect = s->collect};
	memcpy(s->key, keys, nkeys * sizeof *keys);
	for (unsigned a = 0; a <= SIM_NODES; a++)
		for (unsigned b = 0; b <= SIM_NODES; b++)
			for (unsigned l = 0; l < NET_LANES; l++)
				ts_list_init(&s->q[a][b][l]);
	for (unsigned i = 1; i <= n; i++)
		sim_start_node(s, i);
	sim_view_add(s, 0, true);
}

static inline void sim_drop_queues(struct sim *s, unsigned node)
{
	for (unsigned a = 1; a <= s->n; a++)
		for (unsigned b = 1; b <= s->n; b++)
			for (unsigned l = 0; (a == node || b == node || !node) && l < NET_LANES; l++) {
				struct ts_list *x;
				while ((x = ts_list_pop_front(&s->q[a][b][l])))
					ts_free(ts_list_entry(x, struct sim_msg, link));
			}
}
static inline void sim_fini(struct sim *s)
{
	sim_drop_queues(s, 0);
	for (unsigned i = 1; i <= s->n; i++)
		dlm_free(s->node[i].d);
	for (unsigned i = 0; i < s->nviews; i++)
		ts_free(s->views[i]);
}

/* ---- events
 * ---------------------------------------------------------------------------------------------------------*/

static inline void sim_deliver(struct sim *s, unsigned src, unsigned dst, enum net_lane lane)
{
	struct sim_node *n = &s->node[dst];
	struct sim_msg *m = ts_list_entry(ts_list_pop_front(&s->q[src][dst][lane]), struct sim_msg, link);
	uint64_t epoch = m->epoch;
	if (s->fault == SIM_OLD_GRANT && m->type == DLM_GRANT && epoch != dlm_epoch(n->d))
		epoch = dlm_epoch(n->d); /* as if nobody had looked at the epoch */
	if (s->fault == SIM_EARLY_RELEASE && m->type == DLM_REVOKE && !s->fault_done) {
		struct dlm_msg v = {.type = DLM_REVOKE};
		struct dlm_lock_msg w;
		s->fault_done = true;
		if (dlm_decode(&v, m->bytes, m->len)) {
			struct dlm_msg r = v;
			r.type = DLM_RELEASE;
			r.node = (uint16_t)dst;
			sim_push(s, dst, src, NET_RELEASE, DLM_RELEASE, epoch, &w, dlm_encode(&r, &w));
		}
	} else {
		dlm_message(n->d, src, m->type, epoch, m->bytes, m->len);
	}
	ts_free(m);
}

static inline bool sim_can_request(const struct sim_node *n, unsigned k)
{
	return n->alive && n->view && !n->keys[k].waiting;
}
static inline int sim_request(struct sim_node *n, unsigned k, enum dlm_mode mode, uint64_t start,
			      uint64_t end, bool wide, unsigned flags)
{
	struct sim_key *key = &n->keys[k];
	if (!key->known) {
		TS_ASSERT(dlm_res_init(n->d, &key->res, n->s->key[k]) == 0);
		key->known = true;
	}
	key->req = (struct dlm_req){.mode = mode,
				    .start = start,
				    .end = end,
				    .dstart = wide ? 0 : start,
				    .dend = wide ? DLM_END : end,
				    .flags = (uint8_t)flags};
	key->waiting = true;
	int rc = dlm_request(n->d, &key->res, &key->req);
	if (rc != 0)
		key->waiting = false;
	return rc;
}
static inline bool sim_can_revoke(const struct sim_node *n, unsigned k)
{
	struct dlm_want w;
	return n->alive && n->keys[k].known && dlm_revoke_first(&n->keys[k].res, &w);
}
static inline void sim_do_revoke(struct sim_node *n, unsigned k)
{
	struct dlm_want w;
	if (dlm_revoke_first(&n->keys[k].res, &w))
		dlm_shrink(n->d, &n->keys[k].res, w.start, w.end, w.to);
}
static inline bool sim_can_view(const struct sim_node *n)
{
	return n->alive && n->view < n->s->nviews;
}
static inline void sim_do_view(struct sim_node *n)
{
	dlm_view(n->d, n->s->views[n->view++]);
}
static inline void sim_kill(struct sim *s, unsigned id)
{
	s->node[id].alive = false;
	sim_drop_queues(s, id);
}

/* ---- chance
 * ------------------------------------------------------------------------------------------------------*/

static uint64_t sim_rng_state;
static inline uint64_t sim_rnd(uint64_t n)
{
	sim_rng_state = sim_rng_state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (ts_hash_u64(sim_rng_state) >> 11) % n;
}

static inline void sim_random_deliver(struct sim *s)
{
	unsigned found = 0, pick[3] = {0};
	for (unsigned a = 1; a <= s->n; a++)
		for (unsigned b = 1; b <= s->n; b++)
			for (unsigned l = 0; l < NET_LANES; l++)
				if (!ts_list_empty(&s->q[a][b][l]) && sim_rnd(++found) == 0)
					pick[0] = a, pick[1] = b, pick[2] = l;
	if (found)
		sim_deliver(s, pick[0], pick[1], pick[2]);
}

/* A death, a recovery, a rejoin or a change of quorum. *ghost: died, not recovered yet. Returns who died now, 0 = nobody. */
static inline unsigned sim_random_membership(struct sim *s, unsigned *ghost)
{
	unsigned id = 1 + (unsigned)sim_rnd(s->n), alive = 0;
	for (unsigned i = 1; i <= s->n; i++)
		alive += s->node[i].alive;
	if (s->nviews + 8 >= SIM_VIEWS)
		return 0;
	if (*ghost) { /* recovered: what it held may be granted from here on */
		*ghost = 0;
		sim_view_add(s, 0, true);
	} else if (!s->node[id].alive) { /* a new incarnation joins */
		dlm_free(s->node[id].d);
		sim_start_node(s, id);
		sim_view_add(s, 0, true);
	} else if (alive > 2 && sim_rnd(2)) {
		sim_kill(s, id);
		*ghost = id;
		sim_view_add(s, id, true);
		return id;
	} else {
		sim_view_add(s, 0, sim_rnd(2));
	}
	return 0;
}

/* ---- the law
 * --------------------------------------------------------------------------------------------------------*/

static inline bool sim_sets_clash(const struct dlm_rset *a, const struct dlm_rset *b)
{
	for (uint32_t i = 0; i < a->n; i++)
		for (uint32_t j = 0; j < b->n; j++)
			if (dlm_overlap(a->v[i].start, a->v[i].end, b->v[j].start, b->v[j].end) &&
			    !dlm_compatible(a->v[i].mode, b->v[j].mode))
				return true;
	return false;
}
/* Dead nodes keep what they held until ghost is cleared by the test (their recovery is complete). */
static inline bool sim_lawful(struct sim *s, unsigned ghost)
{
	for (unsigned k = 0; k < s->nkeys; k++)
		for (unsigned a = 1; a <= s->n; a++)
			for (unsigned b = a + 1; b <= s->n; b++) {
				struct sim_node *x = &s->node[a], *y = &s->node[b];
				if ((!x->alive && ghost != a) || (!y->alive && ghost != b) ||
				    !x->keys[k].known || !y->keys[k].known)
					continue;
				if (sim_sets_clash(&x->keys[k].res.held, &y->keys[k].res.held)) {
					s->broken = "two nodes hold conflicting modes";
					return false;
				}
			}
	return true;
}

#endif
