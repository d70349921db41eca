/* SPDX-License-Identifier: Apache-2.0 */
/* Job: pins are taken in ascending order whatever an operation learns in between, and none is left. The token manager here is a
 * fake that panics when a fiber waits for a token below one it holds. */
#include "fs/take.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define IDS 16
struct tok {
	enum tok_kind kind;
	uint64_t id;
	unsigned sh, ex;
	struct ts_cond cond;
};
static struct tok toks[TOK_KINDS][IDS];
static struct fs fs;
static struct ts_exec *x;
static struct tok_mgr *mgr = (struct tok_mgr *)&toks;
static unsigned npins, nwaits, refills, remote_id; /* a remote token is granted only to who may wait */
static int refill_rc;
static unsigned asked[64], nasked, asked_flags;
static uint64_t rng = 1;

static uint64_t rnd(void)
{
	rng = rng * 6364136223846793005ULL + 1442695040888963407ULL;
	return rng >> 33;
}

/* Held by a fiber: its data pointer. */
struct holds {
	struct tok *t[32];
	unsigned n;
};

int tok_pin(struct tok_mgr *m, enum tok_kind kind, uint64_t id, enum tok_mode mode, uint64_t start, uint64_t end, unsigned flags,
	    struct tok_pin *out)
{
	struct tok *t = &toks[kind][id];
	struct holds *h = ts_fiber_data();

	TS_ASSERT(m == mgr && start == 0 && end == TOK_END);
	if (nasked < TS_ARRAY_LEN(asked))
		asked[nasked++] = kind * 100 + (unsigned)id;
	asked_flags = flags;
	t->kind = kind;
	t->id = id;
	if (remote_id && id == remote_id && flags & (TOK_NOWAIT | TOK_TRY))
		return -TS_ERR_WOULD_WAIT;
	while (t->ex || (mode == TOK_EX && t->sh)) {
		if (flags & TOK_TRY)
			return -TS_ERR_WOULD_WAIT;
		for (unsigned i = 0; i < h->n; i++)
			if (h->t[i]->kind > kind || (h->t[i]->kind == kind && h->t[i]->id >= id))
				TS_PANIC("waits for %u/%lu with %u/%lu pinned", kind, id, h->t[i]->kind, h->t[i]->id);
		nwaits++;
		ts_cond_wait(&t->cond, "token", kind, id);
	}
	*(mode == TOK_EX ? &t->ex : &t->sh) += 1;
	h->t[h->n++] = t;
	npins++;
	*out = (struct tok_pin){.tok = t, .mode = mode, .start = start, .end = end};
	return 0;
}

void tok_unpin(struct tok_mgr *m, struct tok_pin *p)
{
	struct holds *h = ts_fiber_data();
	struct tok *t = p->tok;
	unsigned i = 0;

	if (!t)
		return;
	while (i < h->n && h->t[i] != t)
		i++;
	TS_ASSERT(i < h->n);
	h->t[i] = h->t[--h->n];
	*(p->mode == TOK_EX ? &t->ex : &t->sh) -= 1;
	npins--;
	*p = (struct tok_pin){0};
	ts_cond_broadcast(&t->cond);
}

int fs_alloc_refill(struct fs *f, int need)
{
	TS_ASSERT(need == FS_NEED_SPACE || need == FS_NEED_INODE || need == FS_NEED_META);
	TS_ASSERT(((struct holds *)ts_fiber_data())->n == 0);
	refills++;
	ts_fiber_yield();
	return refill_rc;
}

static uint64_t fake_clock(void *arg)
{
	return 1;
}
static const struct ts_env_ops fake_ops = {.now_ns = fake_clock, .wall_ns = fake_clock, .random = fake_clock};
static const struct ts_env fake_env = {.ops = &fake_ops};

static int setup(void **state)
{
	for (int k = 0; k < TOK_KINDS; k++)
		for (int i = 0; i < IDS; i++) {
			toks[k][i] = (struct tok){0};
			ts_cond_init(&toks[k][i].cond);
		}
	x = ts_exec_new(&fake_env);
	fs.tok = mgr;
	npins = nwaits = refills = nasked = remote_id = 0;
	refill_rc = 0;
	return 0;
}

static int teardown(void **state)
{
	assert_int_equal(npins, 0);
	ts_exec_free(x);
	return 0;
}

struct run {
	fs_take_fn fn;
	void *arg;
	bool nowait;
	int rc;
};
static void run_fiber(void *arg)
{
	struct run *r = arg;
	struct holds h = {.n = 0};

	ts_fiber_data_set(&h);
	r->rc = fs_take_run(&fs, r->nowait, r->fn, r->arg);
	TS_ASSERT(h.n == 0);
}

static int run(fs_take_fn fn, void *arg, bool nowait)
{
	struct run r = {.fn = fn, .arg = arg, .nowait = nowait, .rc = 12345};

	assert_int_equal(ts_fiber_spawn(x, "op", run_fiber, &r), 0);
	while (ts_exec_run(x, 1000000))
		;
	assert_int_equal(ts_fiber_count(x), 0);
	return r.rc;
}

/* ---- tests --------------------------------------------------------------------------------------------------------- */
static int sorted_once(struct fs_take *t, void *arg)
{
	fs_take_add(t, TOK_INODE, 5, TOK_SH);
	fs_take_add(t, TOK_DIR, 7, TOK_EX);
	fs_take_add(t, TOK_INODE, 3, TOK_EX);
	fs_take_add(t, TOK_DIR, 2, TOK_SH);
	fs_take_add(t, TOK_INODE, 5, TOK_EX);
	fs_take_add(t, TOK_INODE, 3, TOK_SH); /* EX stays */
	fs_take_add(t, TOK_RENAME, 0, TOK_EX);
	if (fs_take_upto(t, TOK_RENAME) || npins != 1 || fs_take_all(t))
		return -EIO;
	return toks[TOK_INODE][5].ex && toks[TOK_INODE][3].ex && toks[TOK_DIR][2].sh ? 0 : -EIO;
}

static void sorted_and_once_each(void **state)
{
	static const unsigned want[] = {200, 502, 507, 703, 705};

	assert_int_equal(run(sorted_once, NULL, false), 0);
	assert_int_equal(nasked, TS_ARRAY_LEN(want));
	assert_memory_equal(asked, want, sizeof(want));
	assert_int_equal(asked_flags, 0);
	assert_int_equal(run(sorted_once, NULL, true), 0);
	assert_int_equal(asked_flags, TOK_NOWAIT);
}

/* A token below, held by another fiber until that fiber was let go on: the operation drops all, and gets it in order. */
static bool let_go;
static unsigned rounds;
static void holder(void *arg)
{
	struct holds h = {.n = 0};
	struct tok_pin p = {0};

	ts_fiber_data_set(&h);
	TS_ASSERT(!tok_pin(mgr, TOK_DIR, 1, TOK_EX, 0, TOK_END, 0, &p));
	while (!let_go)
		ts_fiber_yield();
	tok_unpin(mgr, &p);
}

static int below_once(struct fs_take *t, void *arg)
{
	int rc;

	rounds++;
	let_go = rounds == 2;
	fs_take_add(t, TOK_INODE, 4, TOK_EX);
	rc = fs_take_all(t);
	if (rc)
		return rc;
	rc = fs_take_more(t, TOK_DIR, 1, TOK_EX);
	if (rc)
		TS_ASSERT(t->held == 0);
	if (rc)
		return rc;
	TS_ASSERT(toks[TOK_DIR][1].ex == 1 && toks[TOK_INODE][4].ex == 1);
	rc = fs_take_more(t, TOK_INODE, 9, TOK_SH); /* above all: simply taken */
	TS_ASSERT(!rc && !fs_take_more(t, TOK_INODE, 9, TOK_SH));
	rc = fs_take_more(t, TOK_INODE, 2, TOK_SH); /* below, but free */
	TS_ASSERT(!rc);
	return 0;
}

static void below_what_is_held(void **state)
{
	let_go = false;
	rounds = 0;
	assert_int_equal(ts_fiber_spawn(x, "holder", holder, NULL), 0);
	ts_exec_run(x, 1);
	assert_int_equal(run(below_once, NULL, false), 0);
	assert_int_equal(rounds, 2);
	assert_int_equal(nwaits, 1);
}

static int upgrade_once(struct fs_take *t, void *arg)
{
	int rc;

	rounds++;
	fs_take_add(t, TOK_INODE, 4, TOK_SH);
	rc = fs_take_all(t);
	TS_ASSERT(!rc);
	return fs_take_more(t, TOK_INODE, 4, TOK_EX);
}

static void shared_becomes_exclusive(void **state)
{
	rounds = 0;
	assert_int_equal(run(upgrade_once, NULL, false), 0);
	assert_int_equal(rounds, 2);
}

static int all_once(struct fs_take *t, void *arg)
{
	rounds++;
	fs_take_add(t, TOK_DIR, 1, TOK_SH);
	fs_take_add(t, TOK_INODE, 8, TOK_SH);
	return fs_take_all(t);
}

static void no_wait_for_others(void **state)
{
	remote_id = 8;
	assert_int_equal(run(all_once, NULL, true), -TS_ERR_WOULD_WAIT);
	assert_int_equal(run(all_once, NULL, false), 0);
}

static int need_twice(struct fs_take *t, void *arg)
{
	int rc = all_once(t, NULL);

	return rc ? rc : rounds <= 2 ? -FS_NEED_INODE : 0;
}

static int need_always(struct fs_take *t, void *arg)
{
	int rc = all_once(t, NULL);

	return rc ? rc : -FS_NEED_META;
}

static void refills_between(void **state)
{
	rounds = 0;
	assert_int_equal(run(need_always, NULL, true), -TS_ERR_WOULD_WAIT);
	assert_int_equal(refills, 0);
	rounds = 0;
	assert_int_equal(run(need_twice, NULL, false), 0);
	assert_int_equal(refills, 2);
	assert_int_equal(run(need_always, NULL, false), -ENOSPC);
	assert_true(refills > 0 && refills < 1000);
	refill_rc = -EIO;
	assert_int_equal(run(need_always, NULL, false), -EIO);
}

static int retry_always(struct fs_take *t, void *arg)
{
	rounds++;
	/* Learns something else each time. */
	fs_take_add(t, TOK_INODE, 1, TOK_EX);
	if (fs_take_all(t))
		return -EIO;
	return fs_take_more(t, TOK_INODE, rnd() % IDS, TOK_SH) ? -EIO : -TS_ERR_RETRY;
}

static void retries_are_bounded(void **state)
{
	rounds = 0;
	assert_int_equal(run(retry_always, NULL, false), -EBUSY);
	assert_true(rounds > 10 && rounds < 10000);
}

static struct tok_pin kept;
static int keep_once(struct fs_take *t, void *arg)
{
	fs_take_add(t, TOK_OPEN, 3, TOK_SH);
	fs_take_add(t, TOK_INODE, 3, TOK_EX);
	if (fs_take_all(t))
		return -EIO;
	kept = fs_take_keep(t, TOK_OPEN, 3);
	return 0;
}

static void keep_fiber(void *arg)
{
	struct holds h = {.n = 0};

	ts_fiber_data_set(&h);
	TS_ASSERT(!fs_take_run(&fs, false, keep_once, NULL));
	TS_ASSERT(h.n == 1 && toks[TOK_OPEN][3].sh == 1 && toks[TOK_INODE][3].ex == 0);
	tok_unpin(mgr, &kept);
}

static void a_pin_is_kept(void **state)
{
	assert_int_equal(ts_fiber_spawn(x, "keep", keep_fiber, NULL), 0);
	ts_exec_run(x, 100);
	assert_int_equal(ts_fiber_count(x), 0);
}

/* Many fibers that learn as they go: all end, nobody waits against the order, and EX excludes. */
static unsigned in_use[IDS], finished;
static int storm_once(struct fs_take *t, void *arg)
{
	uint64_t ids[4];
	unsigned n = 2 + (unsigned)(rnd() % 3);
	int rc;

	for (unsigned i = 0; i < n; i++)
		ids[i] = 1 + rnd() % 6;
	fs_take_add(t, TOK_DIR, ids[0], TOK_EX);
	fs_take_add(t, TOK_INODE, ids[0], TOK_EX);
	rc = fs_take_all(t);
	for (unsigned i = 1; i < n && !rc; i++) {
		rc = fs_take_more(t, i % 2 ? TOK_DIR : TOK_INODE, ids[i], TOK_EX);
		if (!rc)
			ts_fiber_yield();
	}
	if (rc)
		return rc;
	TS_ASSERT(!in_use[ids[0]]++);
	ts_fiber_yield();
	in_use[ids[0]]--;
	finished++;
	return 0;
}

static void a_storm_ends(void **state)
{
	enum { N = 200 };
	static struct run r[N];

	finished = 0;
	for (int i = 0; i < N; i++) {
		r[i] = (struct run){.fn = storm_once};
		assert_int_equal(ts_fiber_spawn(x, "op", run_fiber, &r[i]), 0);
	}
	while (ts_exec_run(x, 100000))
		;
	assert_int_equal(ts_fiber_count(x), 0);
	for (int i = 0; i < N; i++)
		assert_true(r[i].rc == 0 || r[i].rc == -EBUSY);
	assert_true(finished > N * 9 / 10);
	assert_true(nwaits > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(sorted_and_once_each, setup, teardown),
		cmocka_unit_test_setup_teardown(below_what_is_held, setup, teardown),
		cmocka_unit_test_setup_teardown(shared_becomes_exclusive, setup, teardown),
		cmocka_unit_test_setup_teardown(no_wait_for_others, setup, teardown),
		cmocka_unit_test_setup_teardown(refills_between, setup, teardown),
		cmocka_unit_test_setup_teardown(retries_are_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(a_pin_is_kept, setup, teardown),
		cmocka_unit_test_setup_teardown(a_storm_ends, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
