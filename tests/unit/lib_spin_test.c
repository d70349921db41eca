/* SPDX-License-Identifier: Apache-2.0 */
/* Job: when the loop looks for events before it sleeps. What must never happen: that it goes on looking where nothing comes. */
#include "lib/lib.h"
#include "lib/spin.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

static void begins_behind_short_sleeps(void **state)
{
	struct ts_spin s = {0};

	for (unsigned i = 0; i < TS_SPIN_NEED_MIN; i++) {
		assert_false(ts_spin_worth(&s));
		ts_spin_slept(&s, TS_SPIN_SHORT_NS);
	}
	assert_true(ts_spin_worth(&s));
	ts_spin_slept(&s, TS_SPIN_SHORT_NS + 1); /* one long sleep: from the beginning */
	assert_false(ts_spin_worth(&s));
	s.never = true;
	for (unsigned i = 0; i < 100; i++)
		ts_spin_slept(&s, 1);
	assert_false(ts_spin_worth(&s));
}

static unsigned sleeps_until_worth(struct ts_spin *s)
{
	unsigned n = 0;

	for (; !ts_spin_worth(s); n++)
		ts_spin_slept(s, 1);
	return n;
}

/* Each miss costs TS_SPIN_NS; the sleeps between two of them double. */
static void misses_make_it_rare(void **state)
{
	struct ts_spin s = {0};
	unsigned want = TS_SPIN_NEED_MIN;

	for (unsigned i = 0; i < 20; i++, want = TS_MIN(want * 2, TS_SPIN_NEED_MAX)) {
		assert_int_equal(sleeps_until_worth(&s), want);
		ts_spin_miss(&s);
		assert_false(ts_spin_worth(&s));
	}
	assert_int_equal(sleeps_until_worth(&s), TS_SPIN_NEED_MAX);
	for (unsigned i = 0; i < 20; i++) {
		assert_true(ts_spin_worth(&s)); /* a hit goes on */
		ts_spin_hit(&s);
	}
	ts_spin_miss(&s); /* and makes up for former misses */
	assert_int_equal(sleeps_until_worth(&s), TS_SPIN_NEED_MIN * 2);
}

/* The real loop, with a thread that answers at once: it looks, and nothing is lost. */
struct echo {
	struct ts_exec *x;
	struct ts_loop *l;
	int to[2], back[2];
	unsigned left;
};

static void *answer(void *arg)
{
	struct echo *e = arg;
	char c;

	while (read(e->to[0], &c, 1) == 1)
		assert_int_equal(write(e->back[1], &c, 1), 1);
	return NULL;
}

static void came(void *arg, uint32_t events)
{
	struct echo *e = arg;
	char c = 0;

	assert_int_equal(read(e->back[0], &c, 1), 1);
	if (--e->left == 0)
		ts_loop_stop(e->l);
	else
		assert_int_equal(write(e->to[1], &c, 1), 1);
}

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * TS_NS_PER_S + (uint64_t)t.tv_nsec;
}

static void stop(void *arg)
{
	ts_loop_stop(arg);
}

static void loop_answers_and_rests(void **state)
{
	struct echo e = {.x = ts_exec_new(&ts_env_real), .left = 20000};
	struct ts_timer t = {0};
	pthread_t thread;
	uint64_t before;

	e.l = ts_loop_new(e.x);
	assert_int_equal(pipe(e.to), 0);
	assert_int_equal(pipe(e.back), 0);
	assert_int_equal(pthread_create(&thread, NULL, answer, &e), 0);
	assert_int_equal(ts_loop_fd_add(e.l, e.back[0], EPOLLIN, came, &e), 0);
	assert_int_equal(write(e.to[1], "", 1), 1);
	ts_loop_run(e.l);
	assert_int_equal(e.left, 0);
	before = cpu_ns();
	ts_timer_arm(e.x, &t, ts_exec_now(e.x) + TS_NS_PER_S, stop, e.l);
	ts_loop_run(e.l);
	printf("processor time of a second without events: %llu us\n", (unsigned long long)(cpu_ns() - before) / 1000);
	close(e.to[1]);
	pthread_join(thread, NULL);
	ts_loop_fd_del(e.l, e.back[0]);
	ts_loop_free(e.l);
	ts_exec_free(e.x);
	close(e.to[0]);
	close(e.back[0]);
	close(e.back[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(begins_behind_short_sleeps),
		cmocka_unit_test(misses_make_it_rare),
		cmocka_unit_test(loop_answers_and_rests),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
