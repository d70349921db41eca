/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a simulated carrier for tests of the quorum core: rings with a total order of messages, joins and exits; ring
 * changes with transitional groups, holes and messages that arrive in the next ring; quorum reports on a channel of their
 * own. Must never happen: anything that a real carrier forbids (two members of one transitional group that see different
 * messages), for then a failing seed proves nothing. */
#ifndef TESSERA_TESTS_QUORUM_SIM_H
#define TESSERA_TESTS_QUORUM_SIM_H

#include "quorum/quorum_int.h"

#include <stdio.h>

#define MAXN	 6
#define MAXRINGS 4096

struct sim_cfg { /* members of the group on a ring */
	struct quorum_ring_member v[MAXN * 2];
	size_t n;
};
enum ent_kind { E_MSG, E_JOIN, E_EXIT, E_LEAVE };
struct ent {
	enum ent_kind kind;
	struct quorum_ring_member who;
	struct sim_cfg after; /* joins, exits */
	size_t len;
	uint8_t *data;
};
struct ring {
	uint64_t seq;
	bool has[MAXN + 1];
	struct sim_cfg procs; /* at the end of the log */
	struct ent *log;
	size_t n, room;
};
struct item { /* of a node's queue from the carrier: a message or a configuration */
	bool is_msg, exit;
	struct quorum_ring_member who;
	size_t len;
	uint8_t *data;
	struct sim_cfg members, left, joined;
	uint64_t ring;
};
struct queue {
	struct item *v;
	size_t at, n, room;
};
/* The tiebreaker's disk: what is written lands some time later, and is read some time after that. */
struct tie_job {
	struct simnode *nd; /* NULL: free, or its node died: nobody is told, the write may land yet */
	unsigned node;
	uint64_t ticket, inc, due;
	bool write, read;
	struct tie_slot_disk own;
};
struct vq {
	bool quorate;
	uint64_t ring;
};
struct sim;
struct simnode {
	struct sim *s;
	unsigned id;
	bool up; /* the carrier (the machine) */
	struct quorum *q;
	struct ts_exec *x;
	uint32_t pid;
	struct quorum_durable durable;
	uint64_t inc, offset, stalled_until;
	unsigned ring; /* index */
	size_t pos;
	struct queue in;
	struct vq vq[64];
	unsigned vq_at, vq_n;
	bool dead, suspended, unhealthy, left, wants_group;
	uint64_t last_view;
	bool view_quorate;
	uint64_t last_epoch;
	struct quorum_tie tie; /* kept over restarts */
	bool tie_set;
};
struct sim {
	uint64_t now, rng, next_pid, next_seq;
	unsigned n;
	struct simnode node[MAXN + 1];
	struct ring *rings;
	unsigned nrings;
	bool tie, tie_gone; /* there is a tiebreaker; it does not answer */
	struct tie_slot_disk slots[TIE_SLOTS];
	struct tie_job jobs[4 * MAXN];
	uint64_t bids;
	void (*trace)(struct sim *s, const char *what);
};

static inline uint64_t sim_rand(struct sim *s)
{
	s->rng ^= s->rng << 13;
	s->rng ^= s->rng >> 7;
	s->rng ^= s->rng << 17;
	return s->rng * 0x2545f4914f6cdd1dULL >> 11;
}
static inline unsigned sim_pick(struct sim *s, unsigned n)
{
	return (unsigned)(sim_rand(s) % n);
}

static uint64_t env_now(void *arg)
{
	struct simnode *nd = arg;

	return nd->s->now + nd->offset;
}
static uint64_t env_random(void *arg)
{
	return sim_rand(((struct simnode *)arg)->s);
}
static const struct ts_env_ops sim_env = {env_now, env_now, env_random};

static void cfg_del(struct sim_cfg *c, struct quorum_ring_member who)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->v[i].node == who.node && c->v[i].pid == who.pid)
			c->v[i--] = c->v[--c->n];
}

static void log_add(struct ring *r, enum ent_kind kind, struct quorum_ring_member who, const void *data, size_t len)
{
	struct ent *e;

	if (r->n == r->room) {
		r->room = r->room ? r->room * 2 : 64;
		r->log = realloc(r->log, r->room * sizeof(*r->log));
	}
	e = &r->log[r->n++];
	memset(e, 0, sizeof(*e));
	e->kind = kind;
	e->who = who;
	if (kind == E_JOIN)
		r->procs.v[r->procs.n++] = who;
	else if (kind != E_MSG)
		cfg_del(&r->procs, who);
	if (kind != E_MSG)
		e->after = r->procs;
	e->len = len;
	if (len) {
		e->data = malloc(len);
		memcpy(e->data, data, len);
	}
}

static struct item *push(struct queue *q)
{
	if (q->n == q->room) {
		q->room = q->room ? q->room * 2 : 32;
		q->v = realloc(q->v, q->room * sizeof(*q->v));
	}
	memset(&q->v[q->n], 0, sizeof(q->v[0]));
	return &q->v[q->n++];
}

static void queue_clear(struct queue *q)
{
	for (size_t i = q->at; i < q->n; i++)
		free(q->v[i].data);
	q->at = q->n = 0;
}

static struct quorum_ring_member self_of(const struct simnode *nd)
{
	return (struct quorum_ring_member){nd->id, nd->pid};
}

static int sim_mcast(void *arg, const void *msg, size_t len)
{
	struct simnode *nd = arg;

	if (sim_pick(nd->s, 50) == 0)
		return -EAGAIN;
	log_add(&nd->s->rings[nd->ring], E_MSG, self_of(nd), msg, len);
	return 0;
}

static void sim_leave(void *arg)
{
	struct simnode *nd = arg;

	if (!nd->left)
		log_add(&nd->s->rings[nd->ring], E_LEAVE, self_of(nd), NULL, 0);
	nd->left = true;
}

static void push_msg(struct simnode *nd, const struct ent *e)
{
	struct item *it = push(&nd->in);

	it->is_msg = true;
	it->who = e->who;
	it->len = e->len;
	it->data = malloc(e->len);
	memcpy(it->data, e->data, e->len);
}

static void push_cfg(struct simnode *nd, const struct sim_cfg *m, const struct sim_cfg *left, const struct sim_cfg *joined,
		     bool ex, uint64_t ring)
{
	static const struct sim_cfg none;
	struct item *it = push(&nd->in);

	it->members = *m;
	it->left = left ? *left : none;
	it->joined = joined ? *joined : none;
	it->exit = ex;
	it->ring = ring;
}

static void push_ent(struct simnode *nd, const struct ent *e, uint64_t ring)
{
	struct sim_cfg one = {.n = 1};

	one.v[0] = e->who;
	if (e->kind == E_MSG)
		push_msg(nd, e);
	else
		push_cfg(nd, &e->after, e->kind == E_JOIN ? NULL : &one, e->kind == E_JOIN ? &one : NULL,
			 e->kind == E_EXIT || e->kind == E_LEAVE, ring);
}

static void push_vq(struct simnode *nd)
{
	struct ring *r = &nd->s->rings[nd->ring];
	unsigned k = 0;

	for (unsigned i = 1; i <= nd->s->n; i++)
		k += r->has[i];
	if (nd->vq_n < 64)
		nd->vq[nd->vq_n++] = (struct vq){k > nd->s->n / 2, r->seq};
}

static struct ring *new_ring(struct sim *s)
{
	struct ring *r = &s->rings[s->nrings++];

	TS_ASSERT(s->nrings < MAXRINGS);
	memset(r, 0, sizeof(*r));
	r->seq = s->next_seq += 4;
	return r;
}

/* One transitional group leaves its old ring: the same messages reach all of it, perhaps with holes behind. */
static void flush_group(struct sim *s, const bool *in, unsigned old, struct ent *again, size_t *nagain)
{
	struct ring *r = &s->rings[old];
	size_t cut = 0, fixed = 0;
	bool hole[MAXN + 1];

	for (size_t i = 0; i < r->n; i++)
		if (r->log[i].kind != E_MSG)
			fixed = i + 1;
	for (unsigned i = 1; i <= s->n; i++) {
		hole[i] = sim_pick(s, 2);
		if (in[i])
			cut = TS_MAX(cut, s->node[i].pos);
	}
	cut = TS_MAX(cut, fixed);
	cut += sim_pick(s, (unsigned)(r->n - cut) + 1);
	for (unsigned i = 1; i <= s->n; i++)
		for (size_t k = s->node[i].pos; in[i] && s->node[i].q && k < cut; k++)
			push_ent(&s->node[i], &r->log[k], r->seq);
	for (size_t k = cut; k < r->n; k++) {
		unsigned src = r->log[k].who.node;

		if (!in[src])
			continue;
		if (hole[src] && sim_pick(s, 8) == 0)
			hole[src] = false; /* the rest of this sender was not sequenced any more */
		for (unsigned i = 1; i <= s->n && hole[src]; i++)
			if (in[i] && s->node[i].q)
				push_msg(&s->node[i], &r->log[k]);
		if (!hole[src] && *nagain < 4096) {
			again[*nagain] = r->log[k];
			again[*nagain].data = malloc(r->log[k].len);
			memcpy(again[(*nagain)++].data, r->log[k].data, r->log[k].len);
		}
	}
}

/* The group's processes on the nodes of a set, by what the machines really run. */
static struct sim_cfg procs_of(struct sim *s, const bool *in)
{
	struct sim_cfg c = {.n = 0};

	for (unsigned i = 1; i <= s->n; i++)
		if (in[i] && s->node[i].q && !s->node[i].left)
			c.v[c.n++] = self_of(&s->node[i]);
	return c;
}

static struct sim_cfg minus(const struct sim_cfg *a, const struct sim_cfg *b)
{
	struct sim_cfg c = *a;

	for (size_t i = 0; i < b->n; i++)
		cfg_del(&c, b->v[i]);
	return c;
}

static void announce(struct simnode *nd, const struct sim_cfg *before, const struct sim_cfg *stay, const struct sim_cfg *after,
		     uint64_t seq)
{
	struct sim_cfg left = minus(before, stay), joined = minus(after, stay);

	if (sim_pick(nd->s, 2))
		push_cfg(nd, before, NULL, NULL, false, seq); /* the ring number first, alone */
	if (sim_pick(nd->s, 3) == 0) {
		push_cfg(nd, after, &left, &joined, false, seq);
		return;
	}
	push_cfg(nd, stay, &left, NULL, false, seq);
	for (size_t i = 0; i < joined.n && sim_pick(nd->s, 2); i++) { /* one at a time, then the rest */
		struct sim_cfg one = {.n = 1}, m = *stay;

		one.v[0] = joined.v[i];
		for (size_t k = 0; k <= i; k++)
			m.v[m.n++] = joined.v[k];
		push_cfg(nd, &m, NULL, &one, false, seq);
		if (i + 1 == joined.n)
			return;
		if (sim_pick(nd->s, 2) == 0) {
			joined = minus(after, &m);
			break;
		}
	}
	push_cfg(nd, after, NULL, &joined, false, seq);
}

/* comp[i]: 0 = down, else which new ring. Nodes of one old ring that go together are one transitional group, unless
 * chance makes a node one of its own (a pause that only it has not noticed). */
static void reconfig(struct sim *s, const unsigned *comp)
{
	static struct ent again[MAXN + 1][4096];
	size_t nagain[MAXN + 1] = {0};
	unsigned trans[MAXN + 1], target[MAXN + 1] = {0}, old[MAXN + 1];
	bool done[MAXN + 1] = {false};

	for (unsigned i = 1; i <= s->n; i++) {
		old[i] = s->node[i].ring;
		trans[i] = sim_pick(s, 12) == 0 ? 100 + i : 0;
	}
	for (unsigned i = 1; i <= s->n; i++) {
		bool in[MAXN + 1] = {false};
		struct sim_cfg stay, before = s->rings[old[i]].procs;

		if (!comp[i] || done[i])
			continue;
		if (!target[comp[i]]) {
			new_ring(s);
			target[comp[i]] = s->nrings - 1;
		}
		for (unsigned k = i; k <= s->n; k++)
			in[k] = comp[k] == comp[i] && old[k] == old[i] && trans[k] == trans[i];
		flush_group(s, in, old[i], again[comp[i]], &nagain[comp[i]]);
		stay = procs_of(s, in);
		for (unsigned k = 1; k <= s->n; k++) {
			bool all[MAXN + 1];
			struct sim_cfg after;

			if (!in[k])
				continue;
			done[k] = true;
			for (unsigned j = 1; j <= s->n; j++)
				all[j] = comp[j] == comp[k];
			after = procs_of(s, all);
			s->rings[target[comp[k]]].procs = after;
			s->rings[target[comp[k]]].has[k] = true;
			if (s->node[k].q && !s->node[k].left)
				announce(&s->node[k], &before, &stay, &after, s->rings[target[comp[k]]].seq);
		}
	}
	for (unsigned i = 1; i <= s->n; i++) {
		if (!comp[i])
			continue;
		s->node[i].ring = target[comp[i]];
		s->node[i].pos = 0;
	}
	for (unsigned c = 1; c <= s->n; c++) {
		for (size_t k = 0; k < nagain[c]; k++) {
			struct ent *e = &again[c][k];

			log_add(&s->rings[target[c]], E_MSG, e->who, e->data, e->len);
			free(e->data);
		}
	}
	for (unsigned i = 1; i <= s->n; i++)
		if (comp[i] && s->node[i].q)
			push_vq(&s->node[i]);
}

static const uint8_t tie_uuid[16] = {7, 7, 7};

static void tie_land(struct sim *s, struct tie_job *j)
{
	if (j->write)
		s->slots[j->node - 1] = j->own;
	j->write = false;
}

/* A write of an earlier life of the node is over, one way or the other, when the next life's session begins. */
static int tie_io(void *arg, uint64_t ticket, const struct tie_slot_disk *own)
{
	struct simnode *nd = arg;
	struct sim *s = nd->s;
	struct tie_job *j = NULL;

	for (unsigned i = 0; i < 4 * MAXN; i++) {
		if (s->jobs[i].node == nd->id && !s->jobs[i].nd) {
			if (sim_pick(s, 2))
				tie_land(s, &s->jobs[i]);
			s->jobs[i] = (struct tie_job){0};
		}
		if (!s->jobs[i].node)
			j = &s->jobs[i];
	}
	for (unsigned i = 0; i < 4 * MAXN; i++)
		TS_ASSERT(!s->jobs[i].nd || s->jobs[i].nd != nd); /* one at a time */
	TS_ASSERT(j);
	*j = (struct tie_job){.nd = nd, .node = nd->id, .ticket = ticket, .inc = nd->inc, .write = own != NULL, .read = true};
	if (own)
		j->own = *own;
	j->due = s->now + sim_rand(s) % (sim_pick(s, 10) ? 3 * TS_NS_PER_MS : 2 * TS_NS_PER_S);
	s->bids += own != NULL;
	return 0;
}

static void tie_dead(struct simnode *nd)
{
	for (unsigned i = 0; i < 4 * MAXN; i++)
		if (nd->s->jobs[i].nd == nd)
			nd->s->jobs[i].nd = NULL;
}

static void tie_run(struct sim *s)
{
	for (unsigned i = 0; i < 4 * MAXN; i++) {
		struct tie_job *j = &s->jobs[i];
		struct simnode *nd = j->nd;
		uint64_t ticket = j->ticket;

		if (!j->node || s->tie_gone || j->due > s->now)
			continue;
		if (j->write) { /* landed; read later */
			tie_land(s, j);
			j->due = s->now + sim_rand(s) % (3 * TS_NS_PER_MS);
			continue;
		}
		if (nd && nd->stalled_until >= s->now)
			continue;
		*j = (struct tie_job){0};
		if (nd && nd->q)
			quorum_core_tie_done(nd->q, ticket, 0, s->slots);
	}
}

static void tie_format(struct sim *s)
{
	for (unsigned n = 1; n <= TIE_SLOTS; n++)
		tie_slot_encode(&s->slots[n - 1], n, tie_uuid, &(struct tie_slot){0});
	memset(s->jobs, 0, sizeof(s->jobs));
}

/* The next thing the carrier has for this node. */
static bool sim_deliver(struct simnode *nd)
{
	struct ring *r = &nd->s->rings[nd->ring];
	struct item it;

	if (!nd->q)
		return false;
	if (nd->vq_at < nd->vq_n && sim_pick(nd->s, 3) == 0) {
		struct vq v = nd->vq[nd->vq_at++];

		if (nd->vq_at == nd->vq_n)
			nd->vq_at = nd->vq_n = 0;
		quorum_core_quorate(nd->q, v.quorate, v.ring);
		return true;
	}
	if (nd->in.at == nd->in.n) {
		nd->in.at = nd->in.n = 0;
		if (nd->pos == r->n)
			return nd->vq_at < nd->vq_n;
		push_ent(nd, &r->log[nd->pos++], r->seq);
	}
	it = nd->in.v[nd->in.at++];
	if (it.is_msg)
		quorum_core_deliver(nd->q, it.who.node, it.who.pid, it.data, it.len);
	else
		quorum_core_confchg(nd->q, it.members.v, it.members.n, it.left.v, it.left.n, it.exit, it.joined.v,
				    it.joined.n, it.ring);
	free(it.data);
	return true;
}

static void sim_free(struct sim *s)
{
	for (unsigned r = 0; r < s->nrings; r++) {
		for (size_t i = 0; i < s->rings[r].n; i++)
			free(s->rings[r].log[i].data);
		free(s->rings[r].log);
	}
	for (unsigned i = 1; i <= s->n; i++) {
		queue_clear(&s->node[i].in);
		free(s->node[i].in.v);
	}
}

#endif
