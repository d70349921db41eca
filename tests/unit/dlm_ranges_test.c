/* SPDX-License-Identifier: Apache-2.0 */
/* Sets of pieces against a brute-force picture (one cell per point), and how requests are clipped by others.
 */
#include "dlm_sim.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define POINTS 24
#define TOP    (DLM_END - POINTS + 1) /* the domain's last point is DLM_END: no overflow may be hidden */

struct picture {
	uint8_t mode[4][POINTS], granter[4][POINTS];
};

static uint64_t rng_state = 7;
static uint64_t rnd(uint64_t n)
{
	rng_state = rng_state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (ts_hash_u64(rng_state) >> 11) % n;
}

static void compare(const struct dlm_rset *s, const struct picture *want, uint64_t base)
{
	struct picture got = {0};
	for (uint32_t i = 0; i < s->n; i++) {
		const struct dlm_piece *p = &s->v[i];
		assert_true(p->start <= p->end && p->mode != DLM_NL);
		if (i && s->v[i - 1].node == p->node) {
			assert_true(s->v[i - 1].end < p->start);
			assert_false(s->v[i - 1].end + 1 == p->start && s->v[i - 1].mode == p->mode &&
				     s->v[i - 1].granter == p->granter);
		} else if (i) {
			assert_true(s->v[i - 1].node < p->node);
		}
		for (uint64_t x = p->start - base; x <= p->end - base; x++) {
			got.mode[p->node][x] = p->mode;
			got.granter[p->node][x] = (uint8_t)p->granter;
		}
	}
	for (unsigned n = 0; n < 4; n++)
		for (unsigned x = 0; x < POINTS; x++) {
			assert_int_equal(got.mode[n][x], want->mode[n][x]);
			if (got.mode[n][x])
				assert_int_equal(got.granter[n][x], want->granter[n][x]);
		}
}

static void one_op(struct dlm_rset *s, struct picture *w, uint64_t base, uint64_t *stamp)
{
	uint64_t a = rnd(POINTS), b = a + rnd(POINTS - a);
	struct dlm_piece p = {.start = base + a,
			      .end = base + b,
			      .node = (uint16_t)rnd(4),
			      .granter = (uint16_t)(1 + rnd(2)),
			      .mode = (uint8_t)rnd(4),
			      .stamp = ++*stamp};
	bool raise = rnd(2), any = rnd(2);
	if (raise && p.mode == DLM_NL)
		return;
	assert_true((raise ? dlm_rset_raise(s, &p) : dlm_rset_lower(s, &p, any)) >= 0);
	for (uint64_t x = a; x <= b; x++) {
		uint8_t *m = &w->mode[p.node][x], *g = &w->granter[p.node][x];
		if (raise) {
			*m = dlm_join(*m, p.mode);
			*g = (uint8_t)p.granter;
		} else if (any || *g == p.granter) {
			*m = dlm_meet(*m, p.mode);
		}
	}
}

static void against_a_picture(void **state)
{
	for (unsigned walk = 0; walk < 400; walk++) {
		struct dlm_rset s;
		struct picture w = {0};
		uint64_t base = walk & 1 ? TOP : 0, stamp = 0;
		dlm_rset_init(&s);
		for (unsigned i = 0; i < 120; i++) {
			one_op(&s, &w, base, &stamp);
			compare(&s, &w, base);
			unsigned n = (unsigned)rnd(4), a = (unsigned)rnd(POINTS),
				 b = a + (unsigned)rnd(POINTS - a);
			enum dlm_mode m = 1 + rnd(3);
			bool all = true;
			for (unsigned x = a; x <= b; x++)
				all = all && dlm_covers(w.mode[n][x], m);
			assert_int_equal(dlm_rset_covers(&s, n, m, base + a, base + b), all);
		}
		dlm_rset_fini(&s);
	}
}

static void lower_spares_newer_grants(void **state)
{
	struct dlm_rset s;
	dlm_rset_init(&s);
	struct dlm_piece p = {.start = 0, .end = 9, .node = 1, .granter = 2, .mode = DLM_EX, .stamp = 5};
	struct dlm_piece old = {.start = 0, .end = 9, .node = 1, .granter = 2, .mode = DLM_NL, .stamp = 4};
	assert_int_equal(dlm_rset_raise(&s, &p), 0);
	assert_int_equal(dlm_rset_lower(&s, &old, false), 0);
	assert_true(dlm_rset_covers(&s, 1, DLM_EX, 0, 9));
	old.stamp = 5;
	old.granter = 3;
	assert_int_equal(dlm_rset_lower(&s, &old, false), 0);
	old.granter = 2;
	assert_int_equal(dlm_rset_lower(&s, &old, false), 1);
	assert_int_equal(s.n, 0);
	dlm_rset_fini(&s);
}

static void no_memory_changes_nothing(void **state)
{
	for (uint64_t nth = 1; nth < 3; nth++) {
		struct dlm_rset s;
		dlm_rset_init(&s);
		struct dlm_piece p = {
			.start = 0, .end = 99, .node = 1, .granter = 2, .mode = DLM_EX, .stamp = 5};
		assert_int_equal(dlm_rset_raise(&s, &p), 0);
		p.start = 40;
		p.end = 50;
		p.mode = DLM_NL;
		ts_alloc_fail_nth(nth);
		int rc = dlm_rset_lower(&s, &p, true);
		ts_alloc_fail_nth(0);
		assert_int_equal(rc, nth == 1 ? -ENOMEM : 1);
		assert_int_equal(dlm_rset_covers(&s, 1, DLM_EX, 0, 99), nth == 1);
		dlm_rset_fini(&s);
	}
}

static void deliver_all(struct sim *s)
{
	for (bool more = true; more;) {
		more = false;
		for (unsigned a = 1; a <= s->n; a++) {
			if (sim_can_view(&s->node[a]))
				sim_do_view(&s->node[a]), more = true;
			for (unsigned k = 0; k < s->nkeys; k++)
				while (sim_can_revoke(&s->node[a], k))
					sim_do_revoke(&s->node[a], k), more = true;
			for (unsigned b = 1; b <= s->n; b++)
				for (unsigned l = 0; l < NET_LANES; l++)
					while (!ts_list_empty(&s->q[a][b][l]))
						sim_deliver(s, a, b, l), more = true;
		}
		assert_true(sim_lawful(s, 0));
	}
}

static const struct dlm_piece *held(struct sim *s, unsigned node)
{
	assert_int_equal(s->node[node].keys[0].res.held.n, 1);
	return &s->node[node].keys[0].res.held.v[0];
}

/* The first gets everything; the second takes what it needs up to where the first goes on; a third gets what
 * is free. */
static void desired_is_clipped(void **state)
{
	struct sim *s = ts_xalloc(sizeof *s);
	const struct dlm_key key = {9, KIND_HASH};
	sim_init(s, 3, &key, 1);
	deliver_all(s);
	assert_true(sim_request(&s->node[1], 0, DLM_EX, 0, 99, true, 0) >= 0);
	deliver_all(s);
	assert_int_equal(held(s, 1)->start, 0);
	assert_true(held(s, 1)->end == DLM_END);
	assert_true(sim_request(&s->node[2], 0, DLM_EX, 1000, 1999, true, 0) >= 0);
	deliver_all(s);
	assert_int_equal(held(s, 2)->start, 1000);
	assert_int_equal(held(s, 2)->end, 1999);
	dlm_shrink(s->node[1].d, &s->node[1].keys[0].res, 500, DLM_END, DLM_NL);
	deliver_all(s);
	assert_true(sim_request(&s->node[3], 0, DLM_SH, 5000, 5000, true, 0) >= 0);
	deliver_all(s);
	assert_int_equal(held(s, 3)->start, 2000);
	assert_true(held(s, 3)->end == DLM_END);
	assert_int_equal(held(s, 1)->end, 499);
	sim_fini(s);
	ts_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(against_a_picture),
		cmocka_unit_test(lower_spares_newer_grants),
		cmocka_unit_test(no_memory_changes_nothing),
		cmocka_unit_test(desired_is_clipped),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
