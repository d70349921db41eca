/* SPDX-License-Identifier: Apache-2.0 */
/* Exhaustive exploration of small worlds: two or three engines, a script each, every order of events that
 * FIFO lanes allow, revokes answered at any time, one death or one view change at any moment. In every state
 * no two nodes hold conflicting modes; in every final state nobody waits. States are recognised by a hash in
 * which stamps and revoke numbers count by order only. Each planted fault must be found. Arguments: [limit of
 * states per scenario]. */
#include "dlm_sim.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum op { END, REQ, REL, AHEAD };
struct line {
	enum op op;
	unsigned key;
	enum dlm_mode mode;
	uint64_t start, end;
};
struct scenario {
	const char *name;
	unsigned n, nkeys, crashes, views;
	struct dlm_key keys[3];
	struct line script[4][6]; /* by node; of 0: who has use for whatever others ask for ahead */
};

#define R0  0, 99
#define R1  100, 199
#define ALL 0, DLM_END
#define SH(k, ...)                                                                                           \
	{                                                                                                    \
		REQ, k, DLM_SH, __VA_ARGS__                                                                  \
	}
#define EX(k, ...)                                                                                           \
	{                                                                                                    \
		REQ, k, DLM_EX, __VA_ARGS__                                                                  \
	}
#define ASK(k, mode)                                                                                         \
	{                                                                                                    \
		AHEAD, k, mode, ALL                                                                          \
	}
#define KEEPS(node) {{END, 1u << (node), DLM_NL, 0, 0}}
#define DROP(k)                                                                                              \
	{                                                                                                    \
		REL, k, DLM_NL, ALL                                                                          \
	}
#define DOWN(k)                                                                                              \
	{                                                                                                    \
		REL, k, DLM_SH, ALL                                                                          \
	}
#define ONE                                                                                                  \
	{                                                                                                    \
		{                                                                                            \
			0, KIND_HASH                                                                         \
		}                                                                                            \
	}
#define UNIT                                                                                                 \
	{                                                                                                    \
		{0, KIND_SEGMENT},                                                                           \
		{                                                                                            \
			1, KIND_INODE                                                                        \
		}                                                                                            \
	} /* unit 0 and an inode in it */
/* clang-format off */
static const struct scenario scenarios[] = {
	{"two upgrades", 2, 1, 0, 0, ONE, {{{0}}, {SH(0, ALL), EX(0, ALL)}, {SH(0, ALL), EX(0, ALL)}}},
	{"three upgrades", 3, 1, 0, 0, ONE, {{{0}}, {SH(0, ALL), EX(0, ALL)}, {SH(0, ALL), EX(0, ALL)}, {SH(0, ALL), EX(0, ALL)}}},
	{"two ranges", 3, 1, 0, 0, ONE, {{{0}}, {EX(0, R0), EX(0, R1)}, {EX(0, R1), SH(0, ALL)}, {SH(0, 50, 149)}}},
	{"release and ask again", 2, 1, 0, 0, ONE,
	 {{{0}}, {EX(0, ALL), DROP(0), SH(0, R0), EX(0, R1)}, {EX(0, R0), DOWN(0), EX(0, ALL), DROP(0), SH(0, ALL)}}},
	{"view change", 2, 1, 0, 1, ONE, {{{0}}, {SH(0, ALL), EX(0, R0)}, {EX(0, R1), EX(0, R0)}}},
	{"two view changes", 2, 1, 0, 2, ONE, {{{0}}, {SH(0, ALL), EX(0, ALL)}, {EX(0, ALL)}}},
	{"one death", 3, 1, 1, 0, ONE, {{{0}}, {SH(0, ALL), EX(0, R0)}, {SH(0, ALL), EX(0, ALL)}, {{0}}}},
	{"three fight, one death", 3, 1, 1, 0, ONE, {{{0}}, {EX(0, ALL)}, {EX(0, ALL)}, {EX(0, R0)}}},
	{"unit to and fro", 2, 2, 0, 0, UNIT,
	 {{{0}}, {EX(0, ALL), EX(1, ALL), DROP(0), EX(1, ALL)}, {SH(1, ALL), EX(0, ALL), EX(1, ALL)}}},
	{"unit released, asked again", 2, 2, 0, 0, UNIT,
	 {{{0}}, {EX(0, ALL), EX(1, ALL), DROP(1), DROP(0), EX(0, ALL)}, {EX(1, ALL), DROP(1), EX(1, ALL)}}},
	{"unit among three", 3, 2, 0, 0, UNIT, {{{0}}, {EX(0, ALL), EX(1, ALL), DROP(0)}, {EX(1, ALL), DROP(1)}, {EX(0, ALL), SH(1, ALL)}}},
	{"unit and view change", 2, 2, 0, 1, UNIT, {{{0}}, {EX(0, ALL), EX(1, ALL), DROP(0)}, {EX(1, ALL), EX(0, ALL)}}},
	{"asked ahead", 3, 1, 0, 0, ONE, {{{0}}, {EX(0, ALL)}, {ASK(0, DLM_SH), EX(0, ALL)}, {EX(0, ALL)}}},
	{"asked ahead and kept", 3, 1, 0, 0, ONE, {KEEPS(1), {EX(0, ALL)}, {ASK(0, DLM_EX), SH(0, ALL)}, {SH(0, ALL)}}},
	{"two ask ahead", 3, 1, 0, 0, ONE, {KEEPS(2), {EX(0, ALL)}, {ASK(0, DLM_EX)}, {ASK(0, DLM_SH), EX(0, R0)}}},
	{"asked ahead, view change", 2, 1, 0, 1, ONE, {{{0}}, {EX(0, ALL), SH(0, R0)}, {ASK(0, DLM_EX), EX(0, ALL)}}},
	{"asked ahead, unit leaves", 2, 2, 0, 0, UNIT, {{{0}}, {EX(0, ALL), EX(1, ALL), DROP(0)}, {ASK(1, DLM_EX), EX(1, ALL)}}},
	{"asked ahead, one death", 3, 1, 1, 0, ONE, {KEEPS(1), {EX(0, ALL)}, {ASK(0, DLM_SH), EX(0, R0)}, {{0}}}},
	{"unit and a death", 3, 2, 1, 0, UNIT, {{{0}}, {EX(0, ALL), EX(1, ALL), DROP(0)}, {EX(1, ALL)}, {{0}}}},
};
/* clang-format on */

/* ---- a world that can be made again
 * ---------------------------------------------------------------------------------*/

enum ev { EV_DELIVER, EV_VIEW, EV_REVOKE, EV_SCRIPT, EV_RECOVERED, EV_CRASH, EV_NEWVIEW };
struct event {
	uint8_t what, a, b, c;
};
#define MAX_DEPTH 400
#define MAX_EV	  48

static struct sim S;
static const struct scenario *sc;
static uint64_t shift; /* ids start here: other masters */
static enum sim_fault fault;
static unsigned pc[4], ghost, crashes, newviews;
static struct event path[MAX_DEPTH];
static uint64_t states, edges, finals, limit = 120000;
static bool found, capped;

static unsigned enabled(struct event *out, unsigned *forced);
static void apply(struct event e);

static void world_new(void)
{
	struct dlm_key keys[3];
	for (unsigned i = 0; i < sc->nkeys; i++) {
		keys[i] = sc->keys[i];
		keys[i].id += keys[i].kind == KIND_INODE ? shift << 9 : shift;
	}
	sim_init(&S, sc->n, keys, sc->nkeys);
	memset(pc, 0, sizeof pc);
	ghost = 0;
	crashes = sc->crashes;
	newviews = sc->views;
	for (bool more = true; more;) { /* the first epoch, without choices */
		more = false;
		for (unsigned a = 1; a <= S.n; a++) {
			if (sim_can_view(&S.node[a]))
				sim_do_view(&S.node[a]), more = true;
			for (unsigned b = 1; b <= S.n; b++)
				for (unsigned l = 0; l < NET_LANES; l++)
					while (!ts_list_empty(&S.q[a][b][l]))
						sim_deliver(&S, a, b, l), more = true;
		}
	}
	S.fault = fault;
	S.keeps = sc->script[0][0].key;
}

static unsigned enabled(struct event *out, unsigned *forced)
{
	unsigned n = 0;
	for (uint8_t a = 1; a <= S.n; a++) {
		struct sim_node *x = &S.node[a];
		for (uint8_t b = 1; b <= S.n; b++)
			for (uint8_t l = 0; l < NET_LANES; l++)
				if (!ts_list_empty(&S.q[a][b][l]))
					out[n++] = (struct event){EV_DELIVER, a, b, l};
		if (!x->alive)
			continue;
		if (sim_can_view(x))
			out[n++] = (struct event){EV_VIEW, a, 0, 0};
		for (uint8_t k = 0; k < S.nkeys; k++)
			if (sim_can_revoke(x, k))
				out[n++] = (struct event){EV_REVOKE, a, k, 0};
		const struct line *l = &sc->script[a][pc[a]];
		if (l->op == REL || ((l->op == REQ || l->op == AHEAD) && sim_can_request(x, l->key)))
			if (!pc[a] || !x->keys[sc->script[a][pc[a] - 1].key].waiting)
				out[n++] = (struct event){EV_SCRIPT, a, 0, 0};
	}
	if (ghost)
		out[n++] = (struct event){EV_RECOVERED, 0, 0, 0};
	*forced = n;
	for (uint8_t a = 1; crashes && a <= S.n; a++)
		out[n++] = (struct event){EV_CRASH, a, 0, 0};
	if (newviews && !ghost)
		out[n++] = (struct event){EV_NEWVIEW, 0, 0, 0};
	TS_ASSERT(n <= MAX_EV);
	return n;
}

static void run_line(struct sim_node *x)
{
	const struct line *l = &sc->script[x->id][pc[x->id]++];
	if (l->op != REL)
		(void)sim_request(x, l->key, l->mode, l->start, l->end, true, l->op == AHEAD ? DLM_F_AHEAD : 0);
	else if (x->keys[l->key].known)
		dlm_shrink(x->d, &x->keys[l->key].res, l->start, l->end, l->mode);
}

static void apply(struct event e)
{
	switch ((enum ev)e.what) {
	case EV_DELIVER:
		sim_deliver(&S, e.a, e.b, e.c);
		break;
	case EV_VIEW:
		sim_do_view(&S.node[e.a]);
		break;
	case EV_REVOKE:
		sim_do_revoke(&S.node[e.a], e.b);
		break;
	case EV_SCRIPT:
		run_line(&S.node[e.a]);
		break;
	case EV_RECOVERED:
		ghost = 0;
		sim_view_add(&S, 0, true);
		break;
	case EV_CRASH:
		crashes--;
		sim_kill(&S, e.a);
		ghost = e.a;
		sim_view_add(&S, e.a, true);
		break;
	case EV_NEWVIEW:
		newviews--;
		sim_view_add(&S, 0, true);
		break;
	}
}

/* ---- recognising a state
 * --------------------------------------------------------------------------------------------*/

static struct {
	uint64_t v[8192];
	uint8_t t[8192];
	unsigned n;
} D;
static void emit(void *arg, enum dlm_dump_type t, uint64_t v)
{
	TS_ASSERT(D.n < TS_ARRAY_LEN(D.v));
	D.v[D.n] = v;
	D.t[D.n++] = (uint8_t)t;
}

static void rank(enum dlm_dump_type t)
{
	static uint64_t u[2048];
	unsigned n = 1;
	u[0] = 0;
	for (unsigned i = 0; i < D.n; i++) {
		unsigned j = 0;
		if (D.t[i] != t)
			continue;
		while (j < n && u[j] < D.v[i])
			j++;
		if (j < n && u[j] == D.v[i])
			continue;
		TS_ASSERT(n < TS_ARRAY_LEN(u));
		memmove(&u[j + 1], &u[j], (n++ - j) * sizeof u[0]);
		u[j] = D.v[i];
	}
	for (unsigned i = 0; i < D.n; i++) {
		unsigned j = 0;
		if (D.t[i] != t)
			continue;
		while (u[j] != D.v[i])
			j++;
		D.v[i] = j;
	}
}

static void dump_queues(void)
{
	for (unsigned a = 1; a <= S.n; a++)
		for (unsigned b = 1; b <= S.n; b++)
			for (unsigned l = 0; l < NET_LANES; l++)
				ts_list_for(n, &S.q[a][b][l])
				{
					const struct sim_msg *x =
						ts_list_entry(n, const struct sim_msg, link);
					struct dlm_msg m = {.src = a, .type = x->type, .epoch = x->epoch};
					TS_ASSERT(dlm_decode(&m, x->bytes, x->len));
					emit(NULL, DLM_V_PLAIN, (uint64_t)a << 16 | b << 8 | l);
					dlm_dump_msg(&m, emit, NULL);
				}
}

static void state_hash(uint64_t h[2])
{
	D.n = 0;
	for (unsigned a = 1; a <= S.n; a++) {
		struct sim_node *x = &S.node[a];
		emit(NULL, DLM_V_PLAIN, (uint64_t)pc[a] << 32 | x->view << 1 | x->alive);
		if (x->alive || ghost == a)
			dlm_dump(x->d, emit, NULL);
	}
	emit(NULL, DLM_V_PLAIN,
	     (uint64_t)ghost << 32 | S.nviews << 8 | crashes << 4 | newviews << 1 | S.fault_done);
	dump_queues();
	rank(DLM_V_STAMP);
	rank(DLM_V_ID);
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

/* ---- the search
 * -----------------------------------------------------------------------------------------------------*/

static void tell(const char *what, unsigned depth)
{
	found = true;
	if (fault != SIM_NO_FAULT)
		return;
	printf("%s: %s after", sc->name, what);
	for (unsigned i = 0; i < depth; i++)
		printf(" %u:%u,%u,%u", path[i].what, path[i].a, path[i].b, path[i].c);
	printf("\n");
}

static void final_state(unsigned depth)
{
	finals++;
	for (unsigned a = 1; a <= S.n; a++) {
		struct sim_node *x = &S.node[a];
		if (!x->alive)
			continue;
		if (sc->script[a][pc[a]].op != END || !dlm_ready(x->d) || !ts_list_empty(&x->d->parked) ||
		    !ts_list_empty(&x->d->reqs))
			tell("a request is lost", depth);
	}
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
			sim_fini(&S);
			world_new();
			for (unsigned k = 0; k < depth; k++)
				apply(path[k]);
		}
		path[depth] = ev[i];
		apply(ev[i]);
		edges++;
		if (!sim_lawful(&S, ghost)) {
			tell(S.broken, depth + 1);
			return;
		}
		if (seen_before())
			continue;
		states++;
		explore(depth + 1);
	}
}

static void search(const struct scenario *s, enum sim_fault f)
{
	sc = s;
	fault = f;
	states = edges = finals = 0;
	found = capped = false;
	memset(table, 0, TABLE * sizeof *table);
	world_new();
	explore(0);
	sim_fini(&S);
}

/* Chooses ids so that the hash master of the first key is the node wanted. */
static void shift_to(const struct scenario *s, unsigned master)
{
	for (shift = 1;; shift++) {
		sc = s;
		world_new();
		unsigned m = dlm_master(S.node[1].d, S.key[0]);
		sim_fini(&S);
		if (m == master)
			return;
	}
}

static void every_scenario(void **state)
{
	uint64_t total = 0;
	for (unsigned i = 0; i < TS_ARRAY_LEN(scenarios); i++)
		for (unsigned master = 1; master <= scenarios[i].n; master++) {
			shift_to(&scenarios[i], master);
			search(&scenarios[i], SIM_NO_FAULT);
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

/* A checker that cannot fail is worse than none. */
static void planted_faults_are_found(void **state)
{
	ts_log_level_set(TS_LOG_ERR);
	static const char *const names[] = {[SIM_EARLY_RELEASE] = "early release",
					    [SIM_LOST_RELEASE] = "lost release",
					    [SIM_OLD_GRANT] = "grant of an old epoch",
					    [SIM_REFUSAL_GIVES] = "refusal that gives"};
	for (unsigned f = SIM_EARLY_RELEASE; f < SIM_FAULTS; f++) {
		unsigned caught = 0;
		for (unsigned i = 0; i < TS_ARRAY_LEN(scenarios); i++) {
			shift_to(&scenarios[i], 1);
			search(&scenarios[i], f);
			caught += found;
		}
		printf("planted %-22s found in %u of %zu scenarios\n", names[f], caught,
		       TS_ARRAY_LEN(scenarios));
		assert_true(caught > 0);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(every_scenario),
					   cmocka_unit_test(planted_faults_are_found)};
#if defined(__SANITIZE_ADDRESS__)
	limit = 1500;
#endif
	limit = argc > 1 ? TS_MIN(strtoull(argv[1], NULL, 0), TABLE * 3ull / 4) : limit;
	table = ts_xalloc(TABLE * sizeof *table);
	int rc = cmocka_run_group_tests(tests, NULL, NULL);
	ts_free(table);
	return rc;
}
