/* SPDX-License-Identifier: Apache-2.0 */
/* The search for an order, on histories made by hand: each is given with its verdict.
 * What must never happen: a bad one that is called good; the good ones show that it does not call everything
 * bad. */
#include "hist.h"

#include <errno.h>
#include <string.h>

#define R(w, f, t, v)                                                                                        \
	{                                                                                                    \
		.kind = HIST_READ, .worker = w, .from = f, .to = t, .got = v                                 \
	}
#define W(w, f, t, v)                                                                                        \
	{                                                                                                    \
		.kind = HIST_WRITE, .worker = w, .from = f, .to = t, .arg = v                                \
	}
#define N(k, w, f, t, ...)                                                                                   \
	{                                                                                                    \
		.kind = HIST_##k, .worker = w, .from = f, .to = t, __VA_ARGS__                               \
	}

static const uint64_t three[] = {11, 22, 33};
static const struct hist_records records = {three, 3};

static const struct {
	const char *what;
	const struct hist_spec *spec;
	enum hist_verdict want;
	size_t want_states;
	struct hist_op ops[8];
} cases[] = {
	{"nothing", &hist_register, HIST_GOOD, 1, {{0}}},
	{"read behind write", &hist_register, HIST_GOOD, 1, {W(0, 1, 2, 5), R(1, 3, 4, 5)}},
	{"old value behind write", &hist_register, HIST_BAD, 0, {W(0, 1, 2, 5), R(1, 3, 4, 0)}},
	{"old value beside write", &hist_register, HIST_GOOD, 1, {W(0, 1, 9, 5), R(1, 3, 4, 0)}},
	{"value nobody wrote", &hist_register, HIST_BAD, 0, {W(0, 1, 9, 5), R(1, 3, 4, 6)}},
	{"new, then old again", &hist_register, HIST_BAD, 0, {W(0, 1, 9, 5), R(1, 2, 3, 5), R(2, 4, 5, 0)}},
	{"old, then new", &hist_register, HIST_GOOD, 1, {W(0, 1, 9, 5), R(1, 2, 3, 0), R(2, 4, 5, 5)}},
	{"two writes at once, either may be last",
	 &hist_register,
	 HIST_GOOD,
	 2,
	 {W(0, 1, 9, 5), W(1, 1, 9, 6)}},
	{"two writes at once, seen in both orders",
	 &hist_register,
	 HIST_BAD,
	 0,
	 {W(0, 1, 9, 5), W(1, 1, 9, 6), R(2, 10, 11, 5), R(2, 12, 13, 6)}},
	{"a write that ends late is seen early",
	 &hist_register,
	 HIST_GOOD,
	 1,
	 {W(0, 1, 20, 5), R(1, 2, 3, 5), W(1, 4, 5, 6), R(2, 6, 7, 6)}},
	{"error of a register",
	 &hist_register,
	 HIST_BAD,
	 0,
	 {{.kind = HIST_READ, .from = 1, .to = 2, .err = EIO}}},
	{"two creates, one wins",
	 &hist_names,
	 HIST_GOOD,
	 1,
	 {N(CREATE, 0, 1, 5, .arg = 7), N(CREATE, 1, 1, 5, .arg = 8, .err = EEXIST),
	  N(LOOK, 0, 6, 7, .got = 7)}},
	{"two creates, both win",
	 &hist_names,
	 HIST_BAD,
	 0,
	 {N(CREATE, 0, 1, 5, .arg = 7), N(CREATE, 1, 1, 5, .arg = 8)}},
	{"two creates, none wins",
	 &hist_names,
	 HIST_BAD,
	 0,
	 {N(CREATE, 0, 1, 5, .arg = 7, .err = EEXIST), N(CREATE, 1, 1, 5, .arg = 8, .err = EEXIST)}},
	{"name gone behind unlink",
	 &hist_names,
	 HIST_BAD,
	 0,
	 {N(CREATE, 0, 1, 2, .arg = 7), N(UNLINK, 0, 3, 4), N(LOOK, 1, 5, 6, .got = 7)}},
	{"replaced name is never away",
	 &hist_names,
	 HIST_BAD,
	 0,
	 {N(CREATE, 0, 1, 2, .arg = 7), N(CREATE, 0, 3, 4, .a = 1, .arg = 8), N(RENAME, 0, 5, 9, .b = 1),
	  N(LOOK, 1, 6, 7, .a = 1, .err = ENOENT)}},
	{"renamed file under its new name",
	 &hist_names,
	 HIST_GOOD,
	 1,
	 {N(CREATE, 0, 1, 2, .arg = 7), N(RENAME, 0, 5, 9, .b = 1), N(LOOK, 1, 6, 7, .a = 1, .got = 7),
	  N(LOOK, 1, 8, 8, .err = ENOENT)}},
	{"old name still there behind the new",
	 &hist_names,
	 HIST_BAD,
	 0,
	 {N(CREATE, 0, 1, 2, .arg = 7), N(RENAME, 0, 5, 9, .b = 1), N(LOOK, 1, 6, 7, .a = 1, .got = 7),
	  N(LOOK, 1, 8, 8, .got = 7)}},
	{"no replace over a name",
	 &hist_names,
	 HIST_BAD,
	 0,
	 {N(CREATE, 0, 1, 2, .arg = 7), N(CREATE, 0, 3, 4, .a = 1, .arg = 8), N(NOREPLACE, 0, 5, 9, .b = 1)}},
	{"exchange",
	 &hist_names,
	 HIST_GOOD,
	 1,
	 {N(CREATE, 0, 1, 2, .arg = 7), N(CREATE, 0, 3, 4, .a = 1, .arg = 8), N(EXCHANGE, 0, 5, 9, .b = 1),
	  N(LOOK, 0, 10, 11, .got = 8), N(LOOK, 0, 12, 13, .a = 1, .got = 7)}},
	{"no replace, refused for a target that came when the source went",
	 &hist_names,
	 HIST_GOOD,
	 1,
	 {N(CREATE, 0, 1, 2, .arg = 7), N(NOREPLACE, 1, 3, 9, .b = 1, .err = EEXIST, .mixed = true),
	  N(NOREPLACE, 0, 4, 5, .b = 1)}},
	{"the same on one machine",
	 &hist_names,
	 HIST_BAD,
	 0,
	 {N(CREATE, 0, 1, 2, .arg = 7), N(NOREPLACE, 1, 3, 9, .b = 1, .err = EEXIST),
	  N(NOREPLACE, 0, 4, 5, .b = 1)}},
	{"records in their order",
	 &hist_log,
	 HIST_GOOD,
	 1,
	 {N(APPEND, 0, 1, 2, .arg = 11), N(APPEND, 1, 3, 9, .arg = 33), N(APPEND, 2, 3, 9, .arg = 22),
	  N(COUNT, 0, 4, 8, .got = 1)}},
	{"records against their order",
	 &hist_log,
	 HIST_BAD,
	 0,
	 {N(APPEND, 0, 1, 2, .arg = 22), N(APPEND, 1, 3, 4, .arg = 11)}},
	{"a lost record",
	 &hist_log,
	 HIST_BAD,
	 0,
	 {N(APPEND, 0, 1, 2, .arg = 11), N(APPEND, 1, 3, 4, .arg = 44)}},
	{"a count too short",
	 &hist_log,
	 HIST_BAD,
	 0,
	 {N(APPEND, 0, 1, 2, .arg = 11), N(COUNT, 1, 3, 4, .got = 0)}},
	{"one lock, one holder",
	 &hist_lock,
	 HIST_GOOD,
	 1,
	 {N(LOCK_EX, 0, 1, 2), N(LOCK_EX, 1, 3, 4, .err = EAGAIN), N(UNLOCK, 0, 5, 6), N(LOCK_SH, 1, 7, 8),
	  N(LOCK_SH, 2, 9, 10)}},
	{"two holders", &hist_lock, HIST_BAD, 0, {N(LOCK_EX, 0, 1, 2), N(LOCK_EX, 1, 3, 4)}},
	{"refused for nobody",
	 &hist_lock,
	 HIST_BAD,
	 0,
	 {N(LOCK_SH, 0, 1, 2), N(LOCK_SH, 1, 3, 4, .err = EAGAIN)}},
};

static unsigned run_cases(void)
{
	unsigned failed = 0;

	for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
		struct hist_states s = {{0}, 1};
		size_t n = 0, done;
		while (n < 8 && cases[k].ops[n].to)
			n++;
		enum hist_verdict got = hist_check(cases[k].spec, &records, cases[k].ops, n, &s, &done);
		if (got == cases[k].want && (got != HIST_GOOD || s.n == cases[k].want_states))
			continue;
		printf("FAILED: %s: expected verdict %d with %zu states, got %d with %zu\n", cases[k].what,
		       cases[k].want, cases[k].want_states, got, s.n);
		failed++;
	}
	return failed;
}

/* Six workers at once for as long as a round may be: found good in no time; and with one old answer, found
 * bad. */
static unsigned run_large(void)
{
	static struct hist_op ops[HIST_MAX_OPS];
	unsigned failed = 0;
	size_t done;

	for (unsigned bad = 0; bad < 2; bad++) {
		struct hist_states s = {{0}, 1};
		for (unsigned k = 0; k < HIST_MAX_OPS; k++) {
			int64_t at = 100 + k / 6 * 10;
			ops[k] = k % 6 ? (struct hist_op)R(k % 6, at + 2, at + 3, k / 6)
				       : (struct hist_op)W(0, at, at + 1, k / 6);
		}
		if (bad)
			ops[100].got--;
		enum hist_verdict got = hist_check(&hist_register, NULL, ops, HIST_MAX_OPS, &s, &done);
		if (got != (bad ? HIST_BAD : HIST_GOOD)) {
			printf("FAILED: large history %u: got verdict %d after %zu operations\n", bad, got,
			       done);
			failed++;
		}
		struct hist_states before = {{0}, 1};
		if (bad && (done = hist_shorten(&hist_register, NULL, ops, HIST_MAX_OPS, &before)) > 23) {
			printf("FAILED: shortened: expected the writes and one read, got %zu operations\n",
			       done);
			failed++;
		}
	}
	return failed;
}

int main(void)
{
	unsigned failed = run_cases() + run_large();

	printf("histories: %zu cases, %u failed\n", sizeof(cases) / sizeof(cases[0]) + 2, failed);
	return failed != 0;
}
