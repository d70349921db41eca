/* SPDX-License-Identifier: Apache-2.0 */
/* Random walks of four lock engines, three processes with up to two threads on each: locks of all kinds that
 * wait or not, tests, unlocks, upgrades, interrupts, closes, delays and reordering across lanes and peers,
 * full lanes, deaths, rejoins, quorum lost and back. The law of plock_sim.h after every step; at the end
 * everything drains: nobody waits for nothing, no cycle is left, and when all is unlocked every wait ends.
 * Each planted fault must be found. Arguments: [seed [walks [steps]]]. */
#include "plock_sim.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static uint64_t rng_state;
static uint64_t rnd(uint64_t n)
{
	rng_state = rng_state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (ts_hash_u64(rng_state) >> 11) % n;
}

struct walk {
	struct psim s;
	unsigned inodes, bytes, flavour;
};
enum { THREADS = 1, CANCELS = 2, VIEWS = 4, SLOW = 8 }; /* SLOW: messages take long, and many signals come */

static struct psim_proc *some_proc(struct walk *w)
{
	return &w->s.node[1 + rnd(w->s.n)].proc[rnd(w->s.nprocs)];
}

static void random_op(struct walk *w)
{
	struct psim_proc *p = some_proc(w);
	struct psim_op *o = &p->slot[w->flavour & THREADS ? rnd(PSIM_SLOTS) : 0];
	uint64_t a = rnd(w->bytes), b = rnd(w->bytes), dice = rnd(20);
	enum plock_space space = rnd(8) ? PLOCK_RECORD : PLOCK_FLOCK;
	unsigned flags = rnd(4) ? PLOCK_F_WAIT | (space == PLOCK_RECORD && rnd(6) ? PLOCK_F_DETECT : 0) : 0;
	if (!p->node->alive || o->busy)
		return;
	if (dice < 11)
		psim_submit(&w->s, o, 1 + rnd(w->inodes), PLOCK_RAISE, 1 + (enum plock_type)rnd(2), space,
			    TS_MIN(a, b), TS_MAX(a, b), flags);
	else if (dice < 17)
		psim_submit(&w->s, o, 1 + rnd(w->inodes), PLOCK_LOWER, rnd(4) ? PLOCK_UN : PLOCK_RD, space,
			    TS_MIN(a, b), TS_MAX(a, b), 0);
	else if (dice < 19)
		psim_submit(&w->s, o, 1 + rnd(w->inodes), PLOCK_LOWER, PLOCK_UN, space, 0, PLOCK_END, 0);
	else
		psim_submit(&w->s, o, 1 + rnd(w->inodes), PLOCK_TEST, PLOCK_WR, space, a, a, 0);
}

static void random_cancel(struct walk *w)
{
	struct psim_op *o = &some_proc(w)->slot[rnd(PSIM_SLOTS)];
	if (o->proc->node->alive && o->busy)
		plock_cancel(o->proc->node->p, &o->op);
}

static void random_deliver(struct walk *w)
{
	struct psim *s = &w->s;
	unsigned found = 0, pick[3] = {0};
	for (unsigned a = 1; a <= s->n; a++)
		for (unsigned b = 1; b <= s->n; b++)
			for (unsigned l = 0; l < NET_LANES; l++)
				if (!ts_list_empty(&s->q[a][b][l]) && rnd(++found) == 0)
					pick[0] = a, pick[1] = b, pick[2] = l;
	if (found)
		psim_deliver(s, pick[0], pick[1], pick[2]);
}

static void random_membership(struct walk *w)
{
	struct psim *s = &w->s;
	unsigned id = 1 + (unsigned)rnd(s->n), alive = 0;
	for (unsigned i = 1; i <= s->n; i++)
		alive += s->node[i].alive;
	if (s->nviews + 8 >= PSIM_VIEWS)
		return;
	if (s->ghost) {
		psim_recovered(s);
	} else if (!s->node[id].alive) { /* a new incarnation joins */
		plock_free(s->node[id].p);
		psim_start_node(s, id);
		psim_view_add(s, true);
	} else if (alive > 2 && rnd(2)) {
		psim_kill(s, id);
	} else {
		psim_view_add(s, rnd(2));
	}
}

static void step(struct walk *w)
{
	struct psim_node *n = &w->s.node[1 + rnd(w->s.n)];
	unsigned dice = (unsigned)rnd(1000);
	if (dice < (w->flavour & SLOW ? 450 : 700)) {
		random_deliver(w);
	} else if (dice < (w->flavour & SLOW ? 800 : 900)) {
		random_op(w);
	} else if (dice < 920) {
		if (w->flavour & CANCELS)
			random_cancel(w);
	} else if (n->alive && dice < 995) {
		if (psim_can_view(n))
			psim_do_view(n);
		(void)plock_tick(n->p);
	} else if (w->flavour & VIEWS) {
		random_membership(w);
	}
}

static void drain(struct walk *w)
{
	struct psim *s = &w->s;
	s->full = 0;
	for (bool more = true; more;) {
		more = false;
		for (unsigned a = 1; a <= s->n; a++) {
			while (psim_can_view(&s->node[a]))
				psim_do_view(&s->node[a]), more = true;
			if (s->node[a].alive)
				(void)plock_tick(s->node[a].p);
		}
		for (unsigned a = 1; a <= s->n; a++)
			for (unsigned b = 1; b <= s->n; b++)
				for (unsigned l = 0; l < NET_LANES; l++)
					while (!ts_list_empty(&s->q[a][b][l]) && !s->broken) {
						psim_deliver(s, a, b, l);
						(void)psim_lawful(s);
						more = true;
					}
	}
}

static unsigned busy(struct walk *w)
{
	unsigned n = 0;
	for (unsigned a = 1; a <= w->s.n; a++)
		for (unsigned i = 0; w->s.node[a].alive && i < w->s.nprocs; i++)
			for (unsigned k = 0; k < PSIM_SLOTS; k++)
				n += w->s.node[a].proc[i].slot[k].busy;
	return n;
}

/* Processes that do not wait close everything, one after the other; then those that waited; cycles that
 * nobody looks for end by a signal. */
static void unlock_all(struct walk *w)
{
	for (unsigned round = 0; round < 200 && !w->s.broken; round++) {
		bool acted = false, last = !busy(w);
		for (unsigned a = 1; a <= w->s.n; a++)
			for (unsigned i = 0; w->s.node[a].alive && i < w->s.nprocs; i++) {
				struct psim_proc *p = &w->s.node[a].proc[i];
				for (uint64_t x = 0; x < w->inodes * 2; x++)
					if (!p->slot[0].busy && !p->slot[1].busy) {
						psim_submit(&w->s, &p->slot[0], x / 2 + 1, PLOCK_LOWER,
							    PLOCK_UN, x % 2, 0, PLOCK_END, 0);
						drain(w);
						acted = true;
					}
			}
		if (last)
			break;
		if (!acted || round > 50)
			for (unsigned a = 1; a <= w->s.n; a++)
				for (unsigned i = 0; w->s.node[a].alive && i < w->s.nprocs; i++)
					for (unsigned k = 0; k < PSIM_SLOTS; k++)
						if (w->s.node[a].proc[i].slot[k].busy && rnd(2))
							plock_cancel(w->s.node[a].p,
								     &w->s.node[a].proc[i].slot[k].op);
		drain(w);
	}
	psim_law(&w->s, !busy(w), "a wait does not end");
	for (unsigned a = 1; a <= w->s.n; a++)
		psim_law(&w->s, !w->s.node[a].alive || !w->s.node[a].p->nlocks, "a lock is left");
}

static uint64_t seed0 = 1, walks = 400, steps = 3000;
static uint64_t totals[6];

static const char *one_walk(uint64_t seed, enum psim_fault fault, uint64_t *at)
{
	struct walk *w = ts_xalloc(sizeof *w);
	const char *broken;
	rng_state = seed;
	memset(w, 0, sizeof *w);
	psim_init(&w->s, 2 + (unsigned)rnd(3), 1 + (unsigned)rnd(PSIM_PROCS), 1 + (unsigned)rnd(5));
	w->s.max_idle = 1;
	w->flavour = fault == PSIM_ONE_WALK ? SLOW | CANCELS : (unsigned)rnd(16);
	w->s.strict = !(w->flavour & (THREADS | VIEWS));
	w->inodes = 1 + (unsigned)rnd(4);
	w->bytes = 1 + (unsigned)rnd(8);
	w->s.full = rnd(3) ? 0 : 7;
	w->s.fault = fault;
	for (*at = 0; *at < steps && psim_lawful(&w->s); ++*at)
		step(w);
	if (w->s.ghost && !w->s.broken)
		psim_recovered(&w->s);
	if (!w->s.broken) {
		psim_view_add(&w->s, true); /* quorate, all recovered */
		drain(w);
		psim_check_quiet(&w->s);
	}
	if (!w->s.broken)
		unlock_all(w);
	if (!w->s.broken)
		psim_check_quiet(&w->s);
	totals[0] += w->s.granted;
	totals[1] += w->s.again;
	totals[2] += w->s.interrupted;
	totals[3] += w->s.deadlocks;
	totals[4] += w->s.sends;
	broken = w->s.broken;
	psim_fini(&w->s);
	ts_free(w);
	return broken;
}

static void random_walks(void **state)
{
	uint64_t at;
	for (uint64_t i = 0; i < walks; i++) {
		const char *broken = one_walk(seed0 + i, PSIM_NO_FAULT, &at);
		if (broken)
			fail_msg("seed %llu step %llu: %s", (unsigned long long)(seed0 + i),
				 (unsigned long long)at, broken);
	}
	printf("%llu walks: %llu locks, %llu EAGAIN, %llu EINTR, %llu EDEADLK, %llu messages\n",
	       (unsigned long long)walks, (unsigned long long)totals[0], (unsigned long long)totals[1],
	       (unsigned long long)totals[2], (unsigned long long)totals[3], (unsigned long long)totals[4]);
	for (unsigned i = 0; i < 5; i++)
		assert_true(totals[i] > walks / 4);
}

static void planted_faults_are_found(void **state)
{
	static const char *const names[] = {[PSIM_LOST_WAITERS] = "waiters lost at a recall",
					    [PSIM_LOST_LOCKS] = "locks lost at a recall",
					    [PSIM_OLD_GRANT] = "answer of an old epoch",
					    [PSIM_EARLY_GATE] = "locks of the dead given early",
					    [PSIM_ONE_WALK] = "cycle not confirmed",
					    [PSIM_KEPT_WAITER] = "cancelled waiter kept"};
	ts_log_level_set((enum ts_log_level)(TS_LOG_ERR - 1)); /* what is planted is told */
	for (unsigned f = 1; f < PSIM_FAULTS; f++) {
		uint64_t caught = 0, at;
		for (uint64_t i = 0; i < 4000 && caught < 2; i++)
			caught += one_walk(seed0 + i, (enum psim_fault)f, &at) != NULL;
		printf("planted %-30s found %llu times\n", names[f], (unsigned long long)caught);
		assert_true(caught > 0);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(random_walks),
					   cmocka_unit_test(planted_faults_are_found)};
#if defined(__SANITIZE_ADDRESS__)
	walks = 80;
#endif
	seed0 = argc > 1 ? strtoull(argv[1], NULL, 0) : seed0;
	walks = argc > 2 ? strtoull(argv[2], NULL, 0) : walks;
	steps = argc > 3 ? strtoull(argv[3], NULL, 0) : steps;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
