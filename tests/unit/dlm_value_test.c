/* SPDX-License-Identifier: Apache-2.0 */
/* Values of SW holders: random walks of five engines in which holders of SW or EX "write" (a number that only grows), whoever
 * leaves EX puts his number on the disk, and whoever leaves SW gives it away with the release. After every step the view of
 * each SH or EX holder (disk, or what came with his grant) knows the last write of every living node. Messages are delayed and
 * lost with their receivers, nodes die and come back, units change masters. Arguments: [seed [walks [steps]]]. */
#include "dlm_sim.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const struct dlm_key keys[] = {{1, KIND_HASH}, {3, KIND_SEGMENT}, {3 << 9 | 1, KIND_INODE}, {3 << 9 | 2, KIND_INODE}};
#define NKEYS TS_ARRAY_LEN(keys)

enum plant { PLANT_NONE, PLANT_NOT_GIVEN, PLANT_NOT_KEPT, PLANTS };
struct walk {
	struct sim s;
	unsigned ghost;
	enum plant plant;
	uint64_t counter, disk[NKEYS];
	uint64_t mine[SIM_NODES + 1][NKEYS];  /* written or received, not on the disk: needs SW or EX */
	uint64_t wrote[SIM_NODES + 1][NKEYS]; /* last write of this life */
	uint64_t writes, given, looks;
	const char *broken;
};

static bool holds(struct sim_node *n, unsigned k, enum dlm_mode mode)
{
	return n->alive && n->keys[k].known && dlm_holds(&n->keys[k].res, mode, 0, DLM_END);
}

static void give_up(struct walk *w, struct sim_node *n, unsigned k, enum dlm_mode to)
{
	uint64_t *mine = &w->mine[n->id][k];

	if (holds(n, k, DLM_EX)) {
		w->disk[k] = TS_MAX(w->disk[k], *mine);
		*mine = 0;
	} else if (holds(n, k, DLM_SW) && to != DLM_SW && *mine) {
		struct dlm_value v = {.era = 1, .high = *mine, .set = true};

		if (w->plant != PLANT_NOT_GIVEN)
			dlm_value_give(&n->keys[k].res, &v);
		*mine = 0;
		w->given++;
	}
	dlm_shrink(n->d, &n->keys[k].res, 0, DLM_END, to);
}

/* What came with grants is taken; then the law. */
static void look(struct walk *w)
{
	for (unsigned a = 1; a <= w->s.n; a++) {
		struct sim_node *n = &w->s.node[a];

		for (unsigned k = 0; n->alive && k < NKEYS; k++) {
			struct dlm_value v;
			uint64_t sees;

			if (n->keys[k].known && dlm_value_take(&n->keys[k].res, &v)) {
				if (!holds(n, k, DLM_EX))
					w->broken = "a value came without EX";
				w->mine[a][k] = TS_MAX(w->mine[a][k], v.high);
			}
			if (w->plant == PLANT_NOT_KEPT && n->keys[k].known)
				n->keys[k].res.keep.set = false;
			if (!holds(n, k, DLM_SH))
				continue;
			sees = TS_MAX(w->disk[k], w->mine[a][k]);
			w->looks++;
			for (unsigned b = 1; b <= w->s.n; b++)
				if (w->s.node[b].alive && w->wrote[b][k] > sees)
					w->broken = "a holder does not know what a living node wrote";
		}
	}
}

static void random_request(struct walk *w, struct sim_node *n)
{
	static const enum dlm_mode modes[] = {DLM_SH, DLM_SW, DLM_SW, DLM_SW, DLM_EX};
	unsigned k = (unsigned)sim_rnd(NKEYS);
	enum dlm_mode mode = keys[k].kind == KIND_SEGMENT ? DLM_EX : modes[sim_rnd(TS_ARRAY_LEN(modes))];

	if (!sim_can_request(n, k))
		return;
	(void)!sim_request(n, k, mode, 0, DLM_END, true, (sim_rnd(2) && mode == DLM_SW ? DLM_F_BEST : 0) | (sim_rnd(10) ? 0 : DLM_F_QUICK));
}

static void random_write(struct walk *w, struct sim_node *n)
{
	unsigned k = (unsigned)sim_rnd(NKEYS);

	if (keys[k].kind == KIND_SEGMENT || (!holds(n, k, DLM_SW) && !holds(n, k, DLM_EX)))
		return;
	w->mine[n->id][k] = w->wrote[n->id][k] = ++w->counter;
	w->writes++;
}

static void random_membership(struct walk *w)
{
	unsigned died = sim_random_membership(&w->s, &w->ghost);

	for (unsigned k = 0; died && k < NKEYS; k++)
		w->mine[died][k] = w->wrote[died][k] = 0;
}

static void step(struct walk *w)
{
	struct sim_node *n = &w->s.node[1 + sim_rnd(w->s.n)];
	unsigned dice = (unsigned)sim_rnd(1000), k = (unsigned)sim_rnd(NKEYS);
	struct dlm_want want;

	if (dice < 550) {
		sim_random_deliver(&w->s);
	} else if (!n->alive) {
		return;
	} else if (dice < 650) {
		random_request(w, n);
	} else if (dice < 670) {
		if (n->keys[k].known)
			give_up(w, n, k, sim_rnd(3) ? DLM_NL : DLM_SH);
	} else if (dice < 770) {
		random_write(w, n);
	} else if (dice < 930) {
		if (n->keys[k].known && dlm_revoke_first(&n->keys[k].res, &want))
			give_up(w, n, k, want.to);
	} else if (dice < 990) {
		if (sim_can_view(n))
			sim_do_view(n);
		dlm_tick(n->d);
	} else if (dice < 993) {
		random_membership(w);
	}
}

/* NULL, or what was broken. */
static const char *one_walk(uint64_t seed, uint64_t steps, enum plant plant, uint64_t *given, uint64_t *looks)
{
	struct walk *w = ts_xalloc(sizeof *w);
	const char *broken;

	memset(w, 0, sizeof *w);
	sim_rng_state = seed;
	w->plant = plant;
	sim_init(&w->s, SIM_NODES, keys, NKEYS);
	w->s.full = sim_rnd(3) ? 0 : 7;
	for (uint64_t i = 0; i < steps && !w->broken; i++) {
		step(w);
		look(w);
		if (!w->broken && !sim_lawful(&w->s, w->ghost))
			w->broken = w->s.broken;
	}
	broken = w->broken;
	*given += w->given;
	*looks += w->looks;
	sim_fini(&w->s);
	ts_free(w);
	return broken;
}

static uint64_t seed0 = 1, walks = 60, steps = 6000;

static void random_walks(void **state)
{
	uint64_t given = 0, looks = 0;

	for (uint64_t i = 0; i < walks; i++) {
		const char *broken = one_walk(seed0 + i, steps, PLANT_NONE, &given, &looks);

		if (broken)
			fail_msg("seed %llu: %s", (unsigned long long)(seed0 + i), broken);
	}
	printf("%llu walks of %llu steps: %llu values given, %llu looks at the law\n", (unsigned long long)walks, (unsigned long long)steps,
	       (unsigned long long)given, (unsigned long long)looks);
	assert_true(given > walks * 10);
}

static void planted_faults_are_seen(void **state)
{
	for (enum plant p = PLANT_NOT_GIVEN; p < PLANTS; p++) {
		uint64_t given = 0, looks = 0, seen = 0;

		for (uint64_t i = 0; i < 60 && !seen; i++)
			seen += one_walk(seed0 + i, 6000, p, &given, &looks) != NULL;
		if (!seen)
			fail_msg("planted fault %d was not seen", (int)p);
	}
}

static void merging(void **state)
{
	struct dlm_value v = {0};

	dlm_value_merge(&v, &(struct dlm_value){.era = 2, .high = 5, .time = 9, .set = false});
	assert_false(v.set);
	dlm_value_merge(&v, &(struct dlm_value){.era = 2, .high = 5, .time = 9, .set = true});
	dlm_value_merge(&v, &(struct dlm_value){.era = 2, .high = 7, .time = 3, .set = true});
	assert_true(v.set && v.era == 2 && v.high == 7 && v.time == 9);
	dlm_value_merge(&v, &(struct dlm_value){.era = 1, .high = 100, .time = 100, .set = true});
	assert_true(v.era == 2 && v.high == 7 && v.time == 9);
	dlm_value_merge(&v, &(struct dlm_value){.era = 3, .high = 1, .time = 1, .set = true});
	assert_true(v.era == 3 && v.high == 1 && v.time == 1);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(merging), cmocka_unit_test(random_walks), cmocka_unit_test(planted_faults_are_seen)};

	seed0 = argc > 1 ? strtoull(argv[1], NULL, 0) : seed0;
	walks = argc > 2 ? strtoull(argv[2], NULL, 0) : walks;
	steps = argc > 3 ? strtoull(argv[3], NULL, 0) : steps;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
