/* SPDX-License-Identifier: Apache-2.0 */
/* Random walks of five engines: requests of all modes and ranges, voluntary releases, ownership of units
 * moving, delays and reordering across lanes and peers, full lanes, deaths, rejoins, changes of quorum in any
 * phase. After every step no conflicting holders; at the end everything drains: no request is lost, no revoke
 * unanswered, and what the masters believe covers what is held. Arguments: [seed [walks [steps]]]. */
#include "dlm_sim.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const struct dlm_key keys[] = {{1, KIND_HASH},		{3, KIND_SEGMENT}, {3 << 9 | 1, KIND_INODE},
				      {3 << 9 | 2, KIND_INODE}, {4, KIND_SEGMENT}, {4 << 9 | 7, KIND_INODE}};

struct walk {
	struct sim s;
	unsigned ghost; /* died, not recovered yet */
	uint64_t moves[16];
	bool sh_only;
};

static void range_of(uint64_t *start, uint64_t *end)
{
	static const uint64_t at[][2] = {{0, DLM_END}, {0, 99},	       {100, 199},
					 {50, 149},    {200, DLM_END}, {7, 7}};
	unsigned i = (unsigned)sim_rnd(TS_ARRAY_LEN(at));
	*start = at[i][0];
	*end = at[i][1];
}

static void random_request(struct walk *w, struct sim_node *n)
{
	static const enum dlm_mode modes[] = {DLM_SH, DLM_SH, DLM_EX, DLM_EX, DLM_SW};
	unsigned k = (unsigned)sim_rnd(w->s.nkeys);
	uint64_t start, end;
	if (!sim_can_request(n, k))
		return;
	range_of(&start, &end);
	enum dlm_mode mode = modes[sim_rnd(TS_ARRAY_LEN(modes))];
	if (keys[k].kind == KIND_SEGMENT && sim_rnd(4)) {
		start = 0;
		end = DLM_END;
		mode = DLM_EX;
	}
	int rc = sim_request(n, k, mode, start, end, sim_rnd(2), sim_rnd(10) ? 0 : sim_rnd(2) ? DLM_F_AHEAD : (unsigned)sim_rnd(4));
	assert_true(rc == 0 || rc == 1 || rc == -EAGAIN || rc == -TS_ERR_WOULD_WAIT);
	if (rc == 1)
		assert_true(dlm_holds(&n->keys[k].res, mode, start, end));
}

static void random_shrink(struct walk *w, struct sim_node *n)
{
	unsigned k = (unsigned)sim_rnd(w->s.nkeys);
	uint64_t start, end;
	if (!n->keys[k].known)
		return;
	range_of(&start, &end);
	dlm_shrink(n->d, &n->keys[k].res, start, end, sim_rnd(3) ? DLM_NL : DLM_SH);
}

static void step(struct walk *w)
{
	struct sim_node *n = &w->s.node[1 + sim_rnd(w->s.n)];
	unsigned dice = (unsigned)sim_rnd(1000);
	if (n->alive && n->flush && sim_rnd(4) == 0) {
		sim_do_flush(n);
	} else if (dice < 600) {
		sim_random_deliver(&w->s);
	} else if (!n->alive) {
		return;
	} else if (dice < 700) {
		random_request(w, n);
	} else if (dice < 730) {
		random_shrink(w, n);
	} else if (dice < 930) {
		unsigned k = (unsigned)sim_rnd(w->s.nkeys);
		if (sim_can_revoke(n, k))
			sim_do_revoke(n, k);
	} else if (dice < 990) {
		if (sim_can_view(n))
			sim_do_view(n);
		dlm_tick(n->d);
		w->s.keeps = (uint32_t)sim_rnd(64);
	} else if (dice < 992) {
		(void)sim_random_membership(&w->s, &w->ghost);
	}
}

/* Everything that can happen happens, until nothing can. */
static void drain(struct walk *w)
{
	struct sim *s = &w->s;
	s->full = 0;
	if (w->ghost)
		w->ghost = 0;
	sim_view_add(s, 0, true);
	for (bool more = true; more;) {
		more = false;
		for (unsigned a = 1; a <= s->n; a++)
			while (sim_can_view(&s->node[a]))
				sim_do_view(&s->node[a]), more = true;
		for (unsigned a = 1; a <= s->n; a++)
			if (s->node[a].alive && s->node[a].flush)
				sim_do_flush(&s->node[a]), more = true;
		for (unsigned a = 1; a <= s->n; a++)
			for (unsigned b = 1; b <= s->n; b++)
				for (unsigned l = 0; l < NET_LANES; l++)
					while (!ts_list_empty(&s->q[a][b][l])) {
						sim_deliver(s, a, b, l);
						more = true;
					}
		for (unsigned a = 1; a <= s->n; a++)
			for (unsigned k = 0; k < s->nkeys; k++)
				while (sim_can_revoke(&s->node[a], k))
					sim_do_revoke(&s->node[a], k), more = true;
		assert_true(sim_lawful(s, 0));
	}
}

static void check_quiet(struct walk *w)
{
	struct sim *s = &w->s;
	for (unsigned a = 1; a <= s->n; a++) {
		struct sim_node *n = &s->node[a];
		if (!n->alive)
			continue;
		assert_true(dlm_ready(n->d));
		assert_true(ts_list_empty(&n->d->parked));
		assert_true(ts_list_empty(&n->d->reqs));
		for (unsigned k = 0; k < s->nkeys; k++) {
			struct dlm_res *r = &n->keys[k].res;
			assert_false(n->keys[k].waiting);
			for (uint32_t i = 0; n->keys[k].known && i < r->held.n;
			     i++) { /* cover: the master knows */
				struct sim_node *m = &s->node[dlm_master(n->d, r->key)];
				if (dlm_master(m->d, r->key) != m->id)
					m = &s->node[dlm_master(m->d, r->key)];
				struct dlm_mres *x = dlm_mres_find(m->d, r->key);
				assert_non_null(x);
				assert_true(dlm_rset_covers(&x->granted, a, r->held.v[i].mode,
							    r->held.v[i].start, r->held.v[i].end));
			}
		}
	}
}

static uint64_t seed0 = 1, walks = 60, steps = 6000;

static uint64_t kept;

static void one_walk(uint64_t seed, uint64_t *granted)
{
	struct walk *w = ts_xalloc(sizeof *w);
	memset(w, 0, sizeof *w);
	sim_rng_state = seed;
	w->s.collect = seed % 2;
	sim_init(&w->s, SIM_NODES, keys, TS_ARRAY_LEN(keys));
	w->s.full = sim_rnd(3) ? 0 : 7;
	for (uint64_t i = 0; i < steps; i++) {
		step(w);
		if (!sim_lawful(&w->s, w->ghost))
			fail_msg("seed %llu step %llu: %s", (unsigned long long)seed, (unsigned long long)i,
				 w->s.broken);
	}
	drain(w);
	check_quiet(w);
	*granted += w->s.granted;
	kept += w->s.kept;
	sim_fini(&w->s);
	ts_free(w);
}

static void random_walks(void **state)
{
	uint64_t granted = 0;
	for (uint64_t i = 0; i < walks; i++)
		one_walk(seed0 + i, &granted);
	printf("%llu walks of %llu steps, %llu grants by message\n", (unsigned long long)walks,
	       (unsigned long long)steps, (unsigned long long)granted);
	assert_true(granted > walks);
	assert_true(kept > walks); /* what was asked ahead was refused, too */
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(random_walks)};
	seed0 = argc > 1 ? strtoull(argv[1], NULL, 0) : seed0;
	walks = argc > 2 ? strtoull(argv[2], NULL, 0) : walks;
	steps = argc > 3 ? strtoull(argv[3], NULL, 0) : steps;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
