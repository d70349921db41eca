/* SPDX-License-Identifier: Apache-2.0 */
/* Exhaustive exploration of small worlds of lock engines: two or three nodes, a script for each process,
 * every order of events that FIFO lanes allow, a signal at any moment of a wait, one death or one view change
 * at any moment. The law of plock_sim.h in every state; in every final state all has ended and the masters
 * know what is held. States are recognised by a hash. Each planted fault must be found. Argument: [limit of
 * states per scenario]. */
#include "plock_sim.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum op {
	END,
	SET,
	TRY,
	UNSET,
	LOOK,
	SIGNAL
}; /* SIGNAL: cancels what the line before asked for, or comes too late */
struct line {
	enum op op;
	uint64_t ino;
	enum plock_type type;
	uint64_t start, end;
};
struct scenario {
	const char *name;
	unsigned n, procs, crashes, views, alone;
	struct line script[PSIM_NODES + 1][2][6];
};
#define WR(i, a, b)                                                                                          \
	{                                                                                                    \
		SET, i, PLOCK_WR, a, b                                                                       \
	}
#define RD(i, a, b)                                                                                          \
	{                                                                                                    \
		SET, i, PLOCK_RD, a, b                                                                       \
	}
#define TRYW(i, a, b)                                                                                        \
	{                                                                                                    \
		TRY, i, PLOCK_WR, a, b                                                                       \
	}
#define FREE(i)                                                                                              \
	{                                                                                                    \
		UNSET, i, PLOCK_UN, 0, 9                                                                     \
	}
#define PART(i, a, b)                                                                                        \
	{                                                                                                    \
		UNSET, i, PLOCK_UN, a, b                                                                     \
	}
#define DOWN(i)                                                                                              \
	{                                                                                                    \
		UNSET, i, PLOCK_RD, 0, 9                                                                     \
	}
#define TEST(i)                                                                                              \
	{                                                                                                    \
		LOOK, i, PLOCK_WR, 0, 9                                                                      \
	}
#define SIG                                                                                                  \
	{                                                                                                    \
		SIGNAL, 0, 0, 0, 0                                                                           \
	}
/* clang-format off */
static const struct scenario scenarios[] = {
	{"two take turns", 2, 1, 0, 0, 1, {{{{0}}}, {{WR(1, 0, 9), FREE(1), WR(1, 0, 9), FREE(1)}}, {{WR(1, 0, 9), FREE(1)}}}},
	{"delegated again", 2, 1, 0, 0, 2, {{{{0}}}, {{WR(1, 0, 9), FREE(1), TRYW(1, 0, 9), FREE(1)}}, {{RD(1, 0, 0), PART(1, 0, 0), TEST(1)}}}},
	{"two processes on a node", 2, 2, 0, 0, 1, {{{{0}}}, {{WR(1, 0, 4), FREE(1)}, {WR(1, 3, 9), FREE(1)}}, {{RD(1, 4, 4), FREE(1)}}}},
	{"three take turns", 3, 1, 0, 0, 2, {{{{0}}}, {{WR(1, 0, 9), FREE(1)}}, {{WR(1, 0, 9), FREE(1)}}, {{RD(1, 0, 9), FREE(1)}}}},
	{"upgrade and downgrade", 2, 1, 0, 0, 2, {{{{0}}}, {{RD(1, 0, 9), WR(1, 0, 3), DOWN(1), FREE(1)}}, {{RD(1, 5, 9), WR(1, 5, 9), FREE(1)}}}},
	{"signals", 2, 1, 0, 0, 2, {{{{0}}}, {{WR(1, 0, 9), SIG, FREE(1)}}, {{WR(1, 0, 9), SIG, FREE(1)}}}},
	{"signal against a recall", 2, 2, 0, 0, 2, {{{{0}}}, {{WR(1, 0, 9), FREE(1)}, {WR(1, 0, 9), SIG, FREE(1)}}, {{TRYW(1, 0, 9), FREE(1)}}}},
	{"cycle of two upgrades", 2, 1, 0, 0, 2, {{{{0}}}, {{RD(1, 0, 0), WR(1, 0, 0), FREE(1)}}, {{RD(1, 0, 0), WR(1, 0, 0), FREE(1)}}}},
	{"cycle over two inodes", 2, 1, 0, 0, 2, {{{{0}}}, {{WR(1, 0, 0), WR(2, 0, 0), FREE(2), FREE(1)}}, {{WR(2, 0, 0), WR(1, 0, 0), FREE(1), FREE(2)}}}},
	{"view change", 2, 1, 0, 1, 2, {{{{0}}}, {{WR(1, 0, 9), PART(1, 2, 3), FREE(1)}}, {{WR(1, 0, 9), FREE(1)}}}},
	{"view change and signal", 2, 1, 0, 1, 2, {{{{0}}}, {{WR(1, 0, 9), FREE(1)}}, {{WR(1, 0, 9), SIG, FREE(1)}}}},
	{"one death", 3, 1, 1, 0, 2, {{{{0}}}, {{WR(1, 0, 9), FREE(1)}}, {{WR(1, 0, 9), FREE(1)}}, {{{0}}}}},
	{"one death, three fight", 3, 1, 1, 0, 1, {{{{0}}}, {{WR(1, 0, 9), FREE(1)}}, {{WR(1, 0, 9), FREE(1)}}, {{TRYW(1, 0, 0), FREE(1)}}}},
};
/* clang-format on */

enum ev { EV_DELIVER, EV_VIEW, EV_SCRIPT, EV_RECOVERED, EV_CRASH, EV_NEWVIEW };
struct event {
	uint8_t what, a, b, c;
};
#define MAX_DEPTH 400
#define MAX_EV	  64

static struct psim S;
static const struct scenario *sc;
static uint64_t shift; /* added to inodes: other masters */
static enum psim_fault fault;
static unsigned pc[PSIM_NODES + 1][2], crashes, newviews;
static struct event path[MAX_DEPTH];
static uint64_t states, edges, finals, limit = 60000;
static bool found, capped;

static void world_new(void)
{
	psim_init(&S, sc->n, sc->procs, sc->alone);
	memset(pc, 0, sizeof pc);
	crashes = sc->crashes;
	newviews = sc->views;
	for (bool more = true; more;) { /* the first epoch, without choices */
		more = false;
		for (unsigned a = 1; a <= S.n; a++) {
			if (psim_can_view(&S.node[a]))
				psim_do_view(&S.node[a]), more = true;
			for (unsigned b = 1; b <= S.n; b++)
				for (unsigned l = 0; l < NET_LANES; l++)
					while (!ts_list_empty(&S.q[a][b][l]))
						psim_deliver(&S, a, b, l), more = true;
		}
	}
	S.fault = fault;
}

static bool script_can(unsigned a, unsigned i)
{
	const struct line *l = &sc->script[a][i][pc[a][i]];
	return l->op != END && (l->op == SIGNAL || !S.node[a].proc[i].slot[0].busy);
}

static unsigned enabled(struct event *out, unsigned *forced)
{
	unsigned n = 0;
	for (uint8_t a = 1; a <= S.n; a++) {
		for (uint8_t b = 1; b <= S.n; b++)
			for (uint8_t l = 0; l < NET_LANES; l++)
				if (!ts_list_empty(&S.q[a][b][l]))
					out[n++] = (struct event){EV_DELIVER, a, b, l};
		if (psim_can_view(&S.node[a]))
			out[n++] = (struct event){EV_VIEW, a, 0, 0};
		for (uint8_t i = 0; S.node[a].alive && i < sc->procs; i++)
			if (script_can(a, i))
				out[n++] = (struct event){EV_SCRIPT, a, i, 0};
	}
	if (S.ghost)
		out[n++] = (struct event){EV_RECOVERED, 0, 0, 0};
	*forced = n;
	for (uint8_t a = 1; crashes && a <= S.n; a++)
		out[n++] = (struct event){EV_CRASH, a, 0, 0};
	if (newviews && !S.ghost)
		out[n++] = (struct event){EV_NEWVIEW, 0, 0, 0};
	TS_ASSERT(n <= MAX_EV);
	return n;
}

static void run_line(unsigned a, unsigned i)
{
	const struct line *l = &sc->script[a][i][pc[a][i]];
	struct psim_op *o = &S.node[a].proc[i].slot[0];
	static const enum plock_kind kinds[] = {
		[SET] = PLOCK_RAISE, [TRY] = PLOCK_RAISE, [UNSET] = PLOCK_LOWER, [LOOK] = PLOCK_TEST};
	if (l->op == SIGNAL) {
		pc[a][i]++;
		if (o->busy)
			plock_cancel(S.node[a].p, &o->op);
		return;
	}
	S.clock = a * 100 + i * 50 + pc[a][i]++; /* the same in every order of events */
	psim_submit(&S, o, l->ino + shift, kinds[l->op], l->type, PLOCK_RECORD, l->start, l->end,
		    l->op == SET ? PLOCK_F_WAIT | PLOCK_F_DETECT : 0);
}

static void apply(struct event e)
{
	switch ((enum ev)e.what) {
	case EV_DELIVER:
		psim_deliver(&S, e.a, e.b, e.c);
		break;
	case EV_VIEW:
		psim_do_view(&S.node[e.a]);
		break;
	case EV_SCRIPT:
		run_line(e.a, e.b);
		break;
	case EV_RECOVERED:
		psim_recovered(&S);
		break;
	case EV_CRASH:
		crashes--;
		psim_kill(&S, e.a);
		break;
	case EV_NEWVIEW:
		newviews--;
		psim_view_add(&S, true);
		break;
	}
}

/* ---- recognising a state ---- */
static struct {
	uint64_t v[16384];
	unsigned n;
} D;
static void emit(void *arg, uint64_t v)
{
	TS_ASSERT(D.n < TS_ARRAY_LEN(D.v));
	D.v[D.n++] = v;
}

static void state_hash(uint64_t h[2])
{
	D.n = 0;
	for (unsigned a = 1; a <= S.n; a++) {
		struct psim_node *x = &S.node[a];
		emit(NULL, (uint64_t)x->view << 1 | x->alive);
		for (unsigned i = 0; i < sc->procs; i++)
			emit(NULL, (uint64_t)pc[a][i] << 1 | x->proc[i].slot[0].busy);
		if (x->alive || S.ghost == a)
			plock_dump(x->p, emit, NULL);
		for (unsigned b = 1; b <= S.n; b++)
			for (unsigned l = 0; l < NET_LANES; l++)
				ts_list_for(n, &S.q[a][b][l])
				{
					const struct psim_msg *q =
						ts_list_entry(n, const struct psim_msg, link);
					struct plock_m m = {.src = a, .type = q->type, .epoch = q->epoch};
					TS_ASSERT(plock_decode(&m, q->bytes, q->len));
					emit(NULL, (uint64_t)b << 8 | l);
					plock_dump_msg(&m, emit, NULL);
				}
	}
	emit(NULL, (uint64_t)S.ghost << 32 | S.nviews << 8 | crashes << 4 | newviews);
	h[0] = ts_csum64(D.v, D.n * sizeof D.v[0], 1) | 1;
	h[1] = ts_csum64(D.v, D.n * sizeof D.v[0], 2);
}

#define TABLE (1u << 21)
static uint64_t (*table)[2];
static bool seen_before(void)
{
	uint64_t h[2];
	state_hash(h);
	for (uint64_t i = h[0] % TABLE;; i = (i + 1) % TABLE) {
		if (table[i][0] == h[0] && table[i][1] == h[1])
			return true;
		if (!table[i][0]) {
			memcpy(table[i], h, sizeof h);
			return false;
		}
	}
}

/* ---- the search ---- */
static void tell(const char *what, unsigned depth)
{
	found = true;
	if (fault != PSIM_NO_FAULT)
		return;
	printf("%s: %s after", sc->name, what);
	for (unsigned i = 0; i < depth; i++)
		printf(" %u:%u,%u,%u", path[i].what, path[i].a, path[i].b, path[i].c);
	printf("\n");
}

static void final_state(unsigned depth)
{
	finals++;
	psim_check_quiet(&S);
	for (unsigned a = 1; a <= S.n; a++)
		for (unsigned i = 0; S.node[a].alive && i < sc->procs; i++)
			psim_law(&S, !S.node[a].proc[i].slot[0].busy && sc->script[a][i][pc[a][i]].op == END,
				 "a wait does not end");
	if (S.broken)
		tell(S.broken, depth);
}

static void explore(unsigned depth)
{
	struct event ev[MAX_EV];
	unsigned forced, n = enabled(ev, &forced);
	if (!forced)
		final_state(depth);
	for (unsigned i = 0; i < n && !found; i++) {
		if (states >= limit || depth + 1 >= MAX_DEPTH) {
			capped = true;
			return;
		}
		if (i) {
			psim_fini(&S);
			world_new();
			for (unsigned k = 0; k < depth; k++)
				apply(path[k]);
		}
		path[depth] = ev[i];
		apply(ev[i]);
		edges++;
		if (!psim_lawful(&S)) {
			tell(S.broken, depth + 1);
			return;
		}
		if (seen_before())
			continue;
		states++;
		explore(depth + 1);
	}
}

static void search(const struct scenario *s, enum psim_fault f)
{
	sc = s;
	fault = f;
	states = edges = finals = 0;
	found = capped = false;
	memset(table, 0, TABLE * sizeof *table);
	world_new();
	explore(0);
	psim_fini(&S);
}

/* Chooses inodes so that the first one's master is the node wanted. */
static void shift_to(const struct scenario *s, unsigned master)
{
	for (shift = 0;; shift++) {
		sc = s;
		world_new();
		unsigned m = plock_master(S.node[1].p, 1 + shift);
		psim_fini(&S);
		if (m == master)
			break;
	}
	TS_ASSERT(shift <= 6); /* plock_sim.h looks at inodes up to 8 */
}

static void every_scenario(void **state)
{
	uint64_t total = 0;
	for (unsigned i = 0; i < TS_ARRAY_LEN(scenarios); i++)
		for (unsigned master = 1; master <= scenarios[i].n; master++) {
			shift_to(&scenarios[i], master);
			search(&scenarios[i], PSIM_NO_FAULT);
			printf("%-27s master %u %8llu states %9llu steps %6llu final states%s\n", sc->name,
			       master, (unsigned long long)states, (unsigned long long)edges,
			       (unsigned long long)finals, capped ? "  (stopped at the limit)" : "");
			fflush(stdout);
			total += states;
			assert_false(found);
			assert_true(finals > 0);
		}
	printf("%llu states\n", (unsigned long long)total);
}

/* A checker that cannot fail is worse than none. A cycle that is looked at once is too rare here: see
 * dlm_plock_random_test. */
static void planted_faults_are_found(void **state)
{
	static const char *const names[] = {[PSIM_LOST_WAITERS] = "waiters lost at a recall",
					    [PSIM_LOST_LOCKS] = "locks lost at a recall",
					    [PSIM_OLD_GRANT] = "answer of an old epoch",
					    [PSIM_EARLY_GATE] = "locks of the dead given early",
					    [PSIM_KEPT_WAITER] = "cancelled waiter kept"};
	ts_log_level_set((enum ts_log_level)(TS_LOG_ERR - 1));
	for (unsigned f = 1; f < PSIM_FAULTS; f++) {
		unsigned caught = 0;
		for (unsigned i = 0; names[f] && i < TS_ARRAY_LEN(scenarios) && !caught; i++)
			for (unsigned master = 1; master <= scenarios[i].n && !caught; master++) {
				shift_to(&scenarios[i], master);
				search(&scenarios[i], (enum psim_fault)f);
				caught += found;
			}
		if (names[f])
			printf("planted %-30s %s%s\n", names[f], caught ? "found in: " : "NOT FOUND",
			       caught ? sc->name : "");
		assert_true(caught || !names[f]);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(every_scenario),
					   cmocka_unit_test(planted_faults_are_found)};
#if defined(__SANITIZE_ADDRESS__)
	limit = 5000;
#endif
	limit = argc > 1 ? TS_MIN(strtoull(argv[1], NULL, 0), TABLE * 3ull / 4) : limit;
	table = ts_xalloc(TABLE * sizeof *table);
	int rc = cmocka_run_group_tests(tests, NULL, NULL);
	ts_free(table);
	return rc;
}
