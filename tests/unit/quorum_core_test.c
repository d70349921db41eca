/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the quorum core under random schedules: crashes, daemon deaths, restarts, partitions, merges, stalls, lost and late
 * messages, then healing. The invariants are those of quorum/README.md; a failing seed is printed and replays with
 * QUORUM_SEED=n; QUORUM_SEEDS=n runs more of them. */
#include "quorum_sim.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static uint64_t seed_now;
static bool verbose;
#define CHECK(c)                                                                                           \
	do {                                                                                               \
		if (!(c)) {                                                                                \
			fprintf(stderr, "%s:%d: %s (QUORUM_SEED=%lu)\n", __FILE__, __LINE__, #c, seed_now);  \
			abort();                                                                           \
		}                                                                                          \
	} while (0)
#define GROUP 0x77

/* ---- what any node was ever shown ---------------------------------------------------------------------------------- */
struct seen_view {
	uint64_t number;
	unsigned n;
	uint64_t inc[MAXN + 1];
};
struct seen_group {
	uint64_t epoch;
	uint64_t member[MAXN + 1];
	unsigned npending;
	struct {
		unsigned node;
		uint64_t inc;
	} pending[QUORUM_MAX_NODES];
};
#define MAXSEEN 8192
static struct seen_view views[MAXSEEN];
static struct seen_group groups[MAXSEEN];
static unsigned nviews, ngroups;
static uint64_t recovered[MAXN + 1][256]; /* incarnations for which recovered was called */
static unsigned nrecovered[MAXN + 1];
static bool left_clean[MAXN + 1][4096];
static char last_why[200]; /* of the last that was excluded */
static struct {
	uint64_t views, excluded, writes, evicted, geneses, halves, bids;
} total;

static void on_view(void *arg, const struct quorum_view *v)
{
	struct simnode *nd = arg;
	struct seen_view s = {.number = v->number, .n = v->nmembers};
	unsigned at = 0;

	if (verbose)
		printf("%8lu ms node %u: view %lu quorate %d members %u\n", nd->s->now / 1000000, nd->id, v->number, v->quorate,
		       v->nmembers);
	nd->view_quorate = v->quorate;
	if (!v->quorate) {
		CHECK(v->number == nd->last_view);
		return;
	}
	CHECK(v->number > nd->last_view && v->number <= nd->durable.accepted && !nd->dead);
	nd->last_view = v->number;
	total.views++;
	for (unsigned i = 0; i < v->nmembers; i++) {
		CHECK(v->members[i].node <= MAXN && !s.inc[v->members[i].node]);
		s.inc[v->members[i].node] = v->members[i].incarnation;
		CHECK(v->members[i].port == 7000 + v->members[i].node && !strcmp(v->members[i].addr, "addr"));
	}
	CHECK(s.inc[nd->id] == nd->inc);
	/* needed; half will do with the tiebreaker */
	CHECK(v->nmembers > nd->s->n / 2 || (nd->s->tie && v->nmembers * 2 == nd->s->n));
	total.halves += v->nmembers * 2 == nd->s->n;
	while (at < nviews && views[at].number < s.number)
		at++;
	if (at < nviews && views[at].number == s.number) {
		CHECK(!memcmp(&views[at], &s, sizeof(s)));
		return;
	}
	CHECK(nviews < MAXSEEN);
	memmove(&views[at + 1], &views[at], (nviews - at) * sizeof(s));
	views[at] = s;
	nviews++;
}

static void on_group(void *arg, const struct quorum_group_view *g)
{
	struct simnode *nd = arg;
	static struct seen_group s;
	unsigned at = 0;

	memset(&s, 0, sizeof(s));
	s.epoch = g->epoch;
	if (verbose) {
		printf("%8lu ms node %u: group epoch %#lx members", nd->s->now / 1000000, nd->id, g->epoch);
		for (unsigned i = 0; i < g->nmembers; i++)
			printf(" %u.%lu", g->members[i].node, g->members[i].incarnation);
		printf(" pending");
		for (unsigned i = 0; i < g->npending; i++)
			printf(" %u.%lu", g->pending[i].node, g->pending[i].incarnation);
		printf(" view %lu quorate %d\n", g->view, g->quorate);
	}
	CHECK(g->group == GROUP && g->epoch >= nd->last_epoch && !nd->dead);
	CHECK(g->quorate == nd->view_quorate && g->view == nd->last_view);
	nd->last_epoch = g->epoch;
	for (unsigned i = 0; i < g->nmembers; i++)
		s.member[g->members[i].node] = g->members[i].incarnation;
	s.npending = g->npending;
	for (unsigned i = 0; i < g->npending; i++) {
		s.pending[i].node = g->pending[i].node;
		s.pending[i].inc = g->pending[i].incarnation;
	}
	while (at < ngroups && groups[at].epoch < s.epoch)
		at++;
	if (at < ngroups && groups[at].epoch == s.epoch) {
		CHECK(!memcmp(&groups[at], &s, sizeof(s)));
		return;
	}
	CHECK(ngroups < MAXSEEN);
	memmove(&groups[at + 1], &groups[at], (ngroups - at) * sizeof(s));
	groups[at] = s;
	ngroups++;
}

static void on_excluded(void *arg, const char *why)
{
	struct simnode *nd = arg;

	if (verbose)
		printf("%8lu ms node %u inc %lu: excluded: %s\n", nd->s->now / 1000000, nd->id, nd->inc, why);
	CHECK(!nd->dead && nd->suspended);
	nd->dead = true;
	snprintf(last_why, sizeof(last_why), "%s", why);
	total.excluded++;
}

static void on_suspended(void *arg, bool suspended)
{
	struct simnode *nd = arg;

	CHECK(nd->suspended != suspended);
	nd->suspended = suspended;
}

static void on_tie(void *arg, const struct quorum_tie *t)
{
	((struct simnode *)arg)->tie = *t;
}

static bool healthy(void *arg)
{
	return !((struct simnode *)arg)->unhealthy;
}

static void persist(void *arg, const struct quorum_durable *d)
{
	struct simnode *nd = arg;

	CHECK(d->promised >= nd->durable.promised && d->accepted >= nd->durable.accepted && d->accepted <= d->promised);
	nd->durable = *d;
}

/* ---- actions --------------------------------------------------------------------------------------------------------- */

static void start_daemon(struct simnode *nd)
{
	struct quorum_core_args a = {.self = nd->id,
				     .port = (uint16_t)(7000 + nd->id),
				     .addr = "addr",
				     .times = quorum_times_default,
				     .events = {on_view, on_group, on_excluded, on_suspended, nd, on_tie},
				     .carrier = {sim_mcast, sim_leave, nd},
				     .healthy = healthy,
				     .persist = persist,
				     .tie = nd->tie,
				     .durable = nd->durable};
	struct ts_env env = {&sim_env, nd};

	if (!nd->up || nd->q)
		return;
	nd->offset = sim_rand(nd->s) % 1000000000;
	nd->x = ts_exec_new(&env);
	nd->inc++;
	nd->pid = (uint32_t)++nd->s->next_pid;
	nd->dead = nd->left = nd->unhealthy = nd->view_quorate = false;
	nd->suspended = true;
	nd->last_view = nd->last_epoch = 0;
	nd->wants_group = false;
	nd->stalled_until = 0;
	a.exec = nd->x;
	a.incarnation = nd->inc;
	nd->q = quorum_core_new(&a);
	CHECK(nd->q);
	/* Clocks run alike here, so the argument must hold without any margin; half of the seeds prove it. */
	if (seed_now & 1)
		nd->q->a.times.margin_ms = 0;
	quorum_core_needed(nd->q, nd->s->n / 2 + 1);
	quorum_core_expected(nd->q, nd->s->n);
	if (nd->s->tie)
		quorum_core_tie(nd->q, &(struct quorum_tie_ops){tie_io, nd}, tie_uuid);
	nd->tie_set = false;
	nd->pos = nd->s->rings[nd->ring].n;
	log_add(&nd->s->rings[nd->ring], E_JOIN, self_of(nd), NULL, 0);
	push_vq(nd);
}

static void stop_daemon(struct simnode *nd, bool power)
{
	if (!nd->q)
		return;
	if (!nd->left && !power)
		log_add(&nd->s->rings[nd->ring], E_EXIT, self_of(nd), NULL, 0);
	tie_dead(nd);
	ts_exec_kill(nd->x);
	quorum_core_kill(nd->q);
	ts_exec_free(nd->x);
	nd->q = NULL;
	nd->x = NULL;
	queue_clear(&nd->in);
	nd->vq_at = nd->vq_n = 0;
}

static void split(struct sim *s, unsigned ways)
{
	unsigned comp[MAXN + 1] = {0};

	for (unsigned i = 1; i <= s->n; i++)
		comp[i] = s->node[i].up ? 1 + sim_pick(s, ways) : 0;
	reconfig(s, comp);
}

static void power_off(struct sim *s, struct simnode *nd)
{
	unsigned comp[MAXN + 1] = {0}, map = 0, ring[MAXN + 1];

	stop_daemon(nd, true);
	nd->up = false;
	for (unsigned i = 1; i <= s->n; i++) { /* the others stay as they are */
		ring[i] = s->node[i].ring;
		for (unsigned k = 1; k < i && s->node[i].up && !comp[i]; k++)
			if (comp[k] && ring[k] == ring[i])
				comp[i] = comp[k];
		if (s->node[i].up && !comp[i])
			comp[i] = ++map;
	}
	reconfig(s, comp);
}

static void power_on(struct sim *s, struct simnode *nd)
{
	if (nd->up)
		return;
	nd->up = true;
	new_ring(s)->has[nd->id] = true; /* alone, until somebody merges */
	nd->ring = s->nrings - 1;
	nd->pos = 0;
	start_daemon(nd);
}

static void group_work(struct simnode *nd, bool calm)
{
	const struct quorum_group_view *g;
	struct sim *s = nd->s;
	bool member;

	if (!nd->q || nd->dead)
		return;
	if (nd->s->tie && !nd->tie_set && q_tie_none(&nd->q->vis.tie)) /* whoever is first */
		nd->tie_set = quorum_tie_set(nd->q, tie_uuid, "sim") == 0;
	g = quorum_group_get(nd->q, GROUP);
	member = g && q_in_group(g, nd->id, nd->inc);
	if (!nd->wants_group) {
		nd->wants_group = true;
		CHECK(quorum_group_join(nd->q, GROUP, nd->id) == 0);
	} else if (member && g->npending && (calm || sim_pick(s, 3) == 0) && g->members[0].node == nd->id) {
		unsigned node = g->pending[0].node;

		if (nrecovered[node] < 256)
			recovered[node][nrecovered[node]++] = g->pending[0].incarnation;
		if (quorum_group_recovered(nd->q, GROUP, node, g->pending[0].incarnation))
			CHECK(!calm);
	} else if (member && !calm && sim_pick(s, 20) == 0) {
		left_clean[nd->id][nd->inc] = true;
		nd->wants_group = false;
		CHECK(quorum_group_leave(nd->q, GROUP) == 0);
	}
}

/* The worst case for leases: the others hear nothing for a while, then one node is cut off and stands still, its writers
 * do not. What only it received itself must not have made its lease longer. */
static struct {
	uint64_t at;
	unsigned node;
} ambush;

static void ambush_begin(struct sim *s, struct simnode *nd)
{
	uint64_t d = 100 * TS_NS_PER_MS + sim_rand(s) % (900 * TS_NS_PER_MS);

	if (ambush.at)
		return;
	ambush.node = nd->id;
	ambush.at = s->now + d;
	for (unsigned i = 1; i <= s->n; i++)
		if (i != nd->id)
			s->node[i].stalled_until = ambush.at;
}

static void ambush_end(struct sim *s)
{
	unsigned comp[MAXN + 1] = {0};

	if (!ambush.at || s->now < ambush.at)
		return;
	ambush.at = 0;
	for (unsigned i = 1; i <= s->n; i++)
		comp[i] = !s->node[i].up ? 0 : i == ambush.node ? 2 : 1;
	reconfig(s, comp);
	s->node[ambush.node].stalled_until = s->now + 4 * TS_NS_PER_S;
}

static void fault(struct sim *s)
{
	struct simnode *nd = &s->node[1 + sim_pick(s, s->n)], *o = &s->node[1 + sim_pick(s, s->n)];
	unsigned what = sim_pick(s, s->tie ? 21 : 19);

	if (verbose)
		printf("%8lu ms fault %u node %u\n", s->now / 1000000, what, nd->id);
	if (what >= 19)
		s->tie_gone = !s->tie_gone;
	else if (what >= 16)
		ambush_begin(s, nd);
	else if (what <= 2)
		split(s, 2 + sim_pick(s, 2));
	else if (what <= 5)
		split(s, 1);
	else if (what == 6)
		power_off(s, nd);
	else if (what <= 8)
		power_on(s, nd);
	else if (what == 9)
		stop_daemon(nd, false);
	else if (what <= 11)
		start_daemon(nd);
	else if (what <= 13)
		nd->stalled_until = s->now + sim_rand(s) % (4000 * TS_NS_PER_MS);
	else if (what == 14)
		nd->unhealthy = !nd->unhealthy;
	else if (nd->q && !nd->dead && o->q && quorum_evict(nd->q, o->id, o->inc, "test") == 0)
		total.evicted++;
}

/* ---- what must hold at every step -------------------------------------------------------------------------------------- */

static void check_writes(struct sim *s)
{
	for (unsigned i = 1; i <= s->n; i++) {
		struct simnode *w = &s->node[i];

		if (!w->q || !quorum_may_write(w->q))
			continue;
		total.writes++;
		CHECK(!w->dead && w->view_quorate);
		for (unsigned k = 1; k <= s->n; k++) {
			struct simnode *o = &s->node[k];
			const struct quorum_view *v;
			bool in = false;

			if (!o->q || o->dead || k == i)
				continue;
			v = quorum_view_get(o->q);
			if (!v->quorate || v->number <= w->last_view)
				continue; /* it does not know better than the writer */
			for (unsigned m = 0; m < v->nmembers; m++)
				in |= v->members[m].node == i && v->members[m].incarnation == w->inc;
			if (!in) /* then it must still be waiting for the writer's lease */
				CHECK(quorum_dead_lease_end_ns(o->q, i, w->inc) > 0);
		}
	}
}

static bool has_member(const struct seen_group *g, unsigned node, uint64_t inc)
{
	return g->member[node] == inc;
}

static bool was_recovered(unsigned node, uint64_t inc)
{
	for (unsigned i = 0; i < nrecovered[node]; i++)
		if (recovered[node][i] == inc)
			return true;
	return false;
}

static bool in_pending(const struct seen_group *g, unsigned node, uint64_t inc)
{
	for (unsigned i = 0; i < g->npending; i++)
		if (g->pending[i].node == node && g->pending[i].inc == inc)
			return true;
	return false;
}

/* Over the whole history: nothing dead comes back, nothing pending is lost, no member vanishes. */
static void check_history(struct sim *s)
{
	uint64_t gone[MAXN + 1] = {0};

	for (unsigned v = 0; v < nviews; v++) {
		for (unsigned i = 1; i <= s->n; i++) {
			CHECK(!views[v].inc[i] || views[v].inc[i] > gone[i]);
			if (v && views[v - 1].inc[i] && views[v].inc[i] != views[v - 1].inc[i])
				gone[i] = views[v - 1].inc[i];
		}
	}
	for (unsigned e = 1; e < ngroups; e++) {
		const struct seen_group *a = &groups[e - 1], *b = &groups[e];

		if (a->epoch >> 32 != b->epoch >> 32) { /* a majority died at once: a new history */
			total.geneses++;
			continue;
		}
		for (unsigned i = 1; i <= s->n; i++) {
			uint64_t inc = a->member[i];

			if (inc && !has_member(b, i, inc))
				CHECK(in_pending(b, i, inc) || left_clean[i][inc] || was_recovered(i, inc));
		}
		for (unsigned p = 0; p < a->npending; p++)
			CHECK(in_pending(b, a->pending[p].node, a->pending[p].inc) ||
			      was_recovered(a->pending[p].node, a->pending[p].inc));
	}
}

static bool healed(struct sim *s)
{
	uint64_t number = 0;

	for (unsigned i = 1; i <= s->n; i++) {
		struct simnode *nd = &s->node[i];
		const struct quorum_group_view *g;

		if (!nd->q || nd->dead || nd->suspended || !quorum_may_write(nd->q))
			return false;
		g = quorum_group_get(nd->q, GROUP);
		if (quorum_view_get(nd->q)->nmembers != s->n || !g || g->nmembers != s->n || g->npending)
			return false;
		if (number && quorum_view_get(nd->q)->number != number)
			return false;
		number = quorum_view_get(nd->q)->number;
	}
	return true;
}

/* ---- one schedule ------------------------------------------------------------------------------------------------------ */

static void step(struct sim *s, bool calm)
{
	struct simnode *nd = &s->node[1 + sim_pick(s, s->n)];

	s->now += sim_rand(s) % (calm ? 400000 : 1000000);
	tie_run(s);
	if (!calm && sim_pick(s, 400) == 0)
		s->now += sim_rand(s) % (900 * TS_NS_PER_MS);
	if (nd->q && nd->stalled_until < s->now) {
		for (unsigned k = 1 + sim_pick(s, 12); k && sim_deliver(nd); k--)
			;
		ts_exec_run(nd->x, 1000);
		if (sim_pick(s, 30) == 0)
			group_work(nd, calm);
		if (nd->dead && sim_pick(s, 30) == 0)
			stop_daemon(nd, false);
	}
	check_writes(s);
}

static void run_seed(uint64_t seed)
{
	static struct sim s;
	static struct ring rings[MAXRINGS];
	unsigned steps;

	seed_now = seed;
	memset(&s, 0, sizeof(s));
	s.rings = rings;
	s.rng = ts_hash_u64(seed + 1) | 1;
	s.now = 100 * TS_NS_PER_S;
	s.n = 2 + sim_pick(&s, 4);
	s.tie = s.n % 2 == 0 && sim_pick(&s, 4);
	tie_format(&s);
	nviews = ngroups = 0;
	ambush.at = 0;
	memset(nrecovered, 0, sizeof(nrecovered));
	memset(left_clean, 0, sizeof(left_clean));
	for (unsigned i = 1; i <= s.n; i++) {
		s.node[i].s = &s;
		s.node[i].id = i;
		power_on(&s, &s.node[i]);
	}
	if (sim_pick(&s, 4))
		split(&s, 1);
	steps = 500 + sim_pick(&s, 3000);
	for (unsigned i = 0; i < steps; i++) {
		step(&s, false);
		ambush_end(&s);
		if (sim_pick(&s, 120) == 0)
			fault(&s);
	}
	for (unsigned i = 1; i <= s.n; i++) {
		s.node[i].stalled_until = 0;
		s.node[i].unhealthy = false;
		power_on(&s, &s.node[i]);
	}
	split(&s, 1);
	s.tie_gone = false;
	for (unsigned i = 0; i < 150000 && !healed(&s); i++) {
		step(&s, true);
		if (sim_pick(&s, 200) == 0)
			start_daemon(&s.node[1 + sim_pick(&s, s.n)]);
	}
	CHECK(healed(&s));
	check_history(&s);
	total.bids += s.bids;
	for (unsigned i = 1; i <= s.n; i++)
		stop_daemon(&s.node[i], true);
	sim_free(&s);
}

static void t_schedules(void **state)
{
	const char *one = getenv("QUORUM_SEED"), *many = getenv("QUORUM_SEEDS"), *from = getenv("QUORUM_FROM");
	uint64_t n = many ? strtoull(many, NULL, 0) : 400, start = from ? strtoull(from, NULL, 0) : 0;

	ts_log_level_set(verbose ? TS_LOG_DEBUG : (enum ts_log_level)0);
	if (one) {
		verbose = true;
		run_seed(strtoull(one, NULL, 0));
		return;
	}
	for (uint64_t i = start; i < start + n; i++)
		run_seed(i);
	printf("%lu schedules: %lu views shown, %lu incarnations excluded, %lu evictions asked for, %lu times a node might write, "
	       "%lu histories lost with a majority, %lu views of one half shown, %lu writes to the tiebreaker\n",
	       n, total.views, total.excluded, total.evicted, total.writes, total.geneses, total.halves, total.bids);
	CHECK(total.views && total.excluded && total.writes && total.halves);
}

/* ---- a node with another lease ----------------------------------------------------------------------------------------- */

static void restart(struct simnode *nd, uint32_t lease_ms)
{
	stop_daemon(nd, false);
	start_daemon(nd);
	nd->q->a.times.lease_ms = lease_ms; /* it has said nothing yet */
}

/* Until this node is refused and the two others work without it; it says both values. */
static void refused(struct sim *s, unsigned out, const char *its, const char *others)
{
	struct simnode *nd = &s->node[out];
	bool calm = false;

	last_why[0] = 0;
	for (unsigned i = 0; i < 150000 && !calm; i++) {
		calm = nd->dead || !nd->q;
		step(s, true);
		for (unsigned k = 1; k <= s->n && calm; k++)
			calm = k == out || (s->node[k].q && quorum_may_write(s->node[k].q) && quorum_view_get(s->node[k].q)->nmembers == s->n - 1);
		for (unsigned k = 1; k <= s->n; k++)
			CHECK(k == out || !s->node[k].dead);
	}
	CHECK(calm && strstr(last_why, "lease_ms") && strstr(last_why, its) && strstr(last_why, others));
}

static void t_lease(void **state)
{
	static struct sim s;
	static struct ring rings[MAXRINGS];

	for (uint64_t seed = 2; seed < 22; seed++) {
		seed_now = seed;
		memset(&s, 0, sizeof(s));
		s.rings = rings;
		s.rng = ts_hash_u64(seed) | 1;
		s.now = 100 * TS_NS_PER_S;
		s.n = 3;
		nviews = ngroups = 0;
		memset(nrecovered, 0, sizeof(nrecovered));
		for (unsigned i = 1; i <= s.n; i++) {
			s.node[i].s = &s;
			s.node[i].id = i;
			power_on(&s, &s.node[i]);
		}
		s.node[3].q->a.times.lease_ms = 12000;
		split(&s, 1);
		refused(&s, 3, "12000", "2000"); /* nobody has a state: the lowest node's counts */
		restart(&s.node[3], 2000);
		for (unsigned i = 0; i < 150000 && !healed(&s); i++)
			step(&s, true);
		CHECK(healed(&s));
		restart(&s.node[1], 3001);
		refused(&s, 1, "3001", "2000"); /* those who have a state stay, whoever comes */
		for (unsigned i = 1; i <= s.n; i++)
			stop_daemon(&s.node[i], true);
		sim_free(&s);
	}
}

/* ---- hostile bytes: nothing is promised but that nothing is read or written out of bounds ------------------------------ */

static void mutate(struct sim *s, struct simnode *nd)
{
	struct ring *r = &s->rings[nd->ring];
	const struct ent *e = r->n ? &r->log[sim_pick(s, (unsigned)r->n)] : NULL;
	uint8_t buf[70000];
	size_t len;

	if (!e || e->kind != E_MSG || e->len > sizeof(buf) - 64)
		return;
	memcpy(buf, e->data, e->len);
	len = e->len;
	for (unsigned k = sim_pick(s, 6); k; k--)
		buf[sim_pick(s, (unsigned)len)] = (uint8_t)sim_rand(s);
	if (sim_pick(s, 4) == 0)
		len = sim_pick(s, (unsigned)len + 64);
	if (sim_pick(s, 4) == 0 && len > sizeof(struct quorum_hdr_msg)) { /* the right place, another content */
		struct quorum_hdr_msg *h = (struct quorum_hdr_msg *)buf;

		h->type = le16_make((uint16_t)(1 + sim_pick(s, 9)));
		h->number = le64_make(nd->q->round + sim_pick(s, 2));
		h->ring = le64_make(nd->q->ring);
		h->digest = le64_make(nd->q->digest);
	}
	quorum_core_deliver(nd->q, e->who.node, e->who.pid, buf, len);
}

static void t_garbage(void **state)
{
	static struct sim s;
	static struct ring rings[MAXRINGS];

	for (uint64_t seed = 1; seed < 60; seed++) {
		memset(&s, 0, sizeof(s));
		s.rings = rings;
		s.rng = ts_hash_u64(seed);
		s.now = 100 * TS_NS_PER_S;
		s.n = 3;
		for (unsigned i = 1; i <= s.n; i++) {
			s.node[i].s = &s;
			s.node[i].id = i;
			power_on(&s, &s.node[i]);
			s.node[i].q->a.events = (struct quorum_events){.arg = &s.node[i]};
			s.node[i].q->a.persist = NULL;
		}
		split(&s, 1);
		for (unsigned i = 0; i < 3000; i++) {
			struct simnode *nd = &s.node[1 + sim_pick(&s, s.n)];

			s.now += sim_rand(&s) % 1000000;
			for (unsigned k = sim_pick(&s, 4); nd->q && k; k--) {
				sim_deliver(nd);
				mutate(&s, nd);
			}
			if (nd->q && sim_pick(&s, 20) == 0)
				(void)!quorum_group_join(nd->q, 1 + sim_pick(&s, 3), sim_pick(&s, 5));
			if (nd->q)
				ts_exec_run(nd->x, 1000);
			if (nd->q && sim_pick(&s, 500) == 0) {
				stop_daemon(nd, false);
				start_daemon(nd);
				nd->q->a.events = (struct quorum_events){.arg = nd};
				nd->q->a.persist = NULL;
			}
			if (sim_pick(&s, 300) == 0)
				split(&s, 1 + sim_pick(&s, 2));
		}
		for (unsigned i = 1; i <= s.n; i++)
			stop_daemon(&s.node[i], true);
		sim_free(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(t_schedules), cmocka_unit_test(t_lease), cmocka_unit_test(t_garbage)};

	setvbuf(stdout, NULL, _IOLBF, 0);

	return cmocka_run_group_tests_name("quorum_core", tests, NULL, NULL);
}
