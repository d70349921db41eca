/* SPDX-License-Identifier: Apache-2.0 */
/* Job: fibers wait, wake and end as written. Planted faults: an overtaken mutex waiter, a lost signal, a dirty stack. */
#include "lib/lib.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>

static uint64_t fake_now;
static uint64_t fake_clock(void *arg)
{
	return fake_now;
}
static const struct ts_env_ops fake_ops = {.now_ns = fake_clock, .wall_ns = fake_clock, .random = fake_clock};
static const struct ts_env fake_env = {.ops = &fake_ops};

struct world {
	struct ts_exec *x;
	struct ts_cond cond;
	struct ts_mutex mutex;
	struct ts_group group;
	struct ts_done done;
	char trace[256];
	int count, rc;
};

static int setup(void **state)
{
	struct world *w = ts_xalloc(sizeof(*w));

	fake_now = 1000;
	w->x = ts_exec_new(&fake_env);
	ts_cond_init(&w->cond);
	ts_mutex_init(&w->mutex);
	ts_group_init(&w->group);
	ts_done_init(&w->done);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	ts_exec_free(w->x);
	ts_free(w);
	return 0;
}

static void spawn(struct world *w, ts_fn fn, void *arg)
{
	assert_int_equal(ts_fiber_spawn(w->x, "test", fn, arg), 0);
}

static void note(struct world *w, char c)
{
	w->trace[strlen(w->trace)] = c;
}

static void ping(void *arg)
{
	struct world *w = arg;

	for (int i = 0; i < 3; i++) {
		note(w, 'a');
		ts_fiber_yield();
	}
}
static void pong(void *arg)
{
	struct world *w = arg;

	for (int i = 0; i < 3; i++) {
		note(w, 'b');
		ts_fiber_yield();
	}
}
static void yields_alternate(void **state)
{
	struct world *w = *state;

	spawn(w, ping, w);
	spawn(w, pong, w);
	assert_int_equal(ts_fiber_count(w->x), 2);
	assert_false(ts_exec_run(w->x, 1000));
	assert_string_equal(w->trace, "ababab");
	assert_int_equal(ts_fiber_count(w->x), 0);
}

static void waiter(void *arg)
{
	struct world *w = arg;
	int me = w->count++;

	ts_cond_wait(&w->cond, "test signal", 7, (uint64_t)me);
	note(w, (char)('0' + me));
}
static void count_waiting(void *arg, const char *name, const char *what, uint64_t a, uint64_t b, uint64_t since)
{
	assert_string_equal(name, "test");
	assert_string_equal(what, "test signal");
	assert_int_equal(a, 7);
	assert_int_equal(since, 1000);
	++*(int *)arg;
}
static void cond_is_fifo_and_visible(void **state)
{
	struct world *w = *state;
	int seen = 0;

	for (int i = 0; i < 5; i++)
		spawn(w, waiter, w);
	ts_exec_run(w->x, 1000);
	ts_fiber_each_waiting(w->x, count_waiting, &seen);
	assert_int_equal(seen, 5);
	ts_cond_signal(&w->cond);
	ts_exec_run(w->x, 1000);
	assert_string_equal(w->trace, "0");
	ts_cond_broadcast(&w->cond);
	ts_exec_run(w->x, 1000);
	assert_string_equal(w->trace, "01234");
	ts_cond_signal(&w->cond); /* nobody: harmless */
}

static void deadline_waiter(void *arg)
{
	struct world *w = arg;

	w->rc = ts_cond_wait_until(&w->cond, 5000, "x", 0, 0);
	w->count++;
}
static void cond_deadline(void **state)
{
	struct world *w = *state;

	spawn(w, deadline_waiter, w);
	ts_exec_run(w->x, 1000);
	assert_int_equal(ts_exec_next_timer(w->x), 5000);
	fake_now = 4999;
	ts_exec_run(w->x, 1000);
	assert_int_equal(w->count, 0);
	fake_now = 5000;
	ts_exec_run(w->x, 1000);
	assert_int_equal(w->count, 1);
	assert_int_equal(w->rc, -ETIMEDOUT);
	assert_true(ts_list_empty(&w->cond.waiters));
	fake_now = 1000;
	spawn(w, deadline_waiter, w);
	ts_exec_run(w->x, 1000);
	ts_cond_signal(&w->cond);
	fake_now = 9000; /* signalled first: the deadline must not turn it into a time-out */
	ts_exec_run(w->x, 1000);
	assert_int_equal(w->rc, 0);
	assert_int_equal(ts_exec_next_timer(w->x), UINT64_MAX);
}

static void sleeper(void *arg)
{
	struct world *w = arg;

	ts_sleep_until(2000);
	w->count++;
}
static void sleep_until(void **state)
{
	struct world *w = *state;

	spawn(w, sleeper, w);
	ts_exec_run(w->x, 100);
	assert_int_equal(w->count, 0);
	fake_now = 2000;
	ts_exec_run(w->x, 100);
	assert_int_equal(w->count, 1);
}

static void locker(void *arg)
{
	struct world *w = arg;
	int me = w->count++;

	ts_mutex_lock(&w->mutex, "test mutex");
	note(w, (char)('0' + me));
	ts_fiber_yield();
	note(w, (char)('0' + me));
	ts_mutex_unlock(&w->mutex);
	if (me == 0) { /* tries at once to take it again: the waiters come first */
		ts_mutex_lock(&w->mutex, "test mutex");
		note(w, 'z');
		ts_mutex_unlock(&w->mutex);
	}
}
static void try_locker(void *arg)
{
	struct world *w = arg;

	assert_false(ts_mutex_trylock(&w->mutex));
}
static void mutex_is_fair(void **state)
{
	struct world *w = *state;

	for (int i = 0; i < 3; i++)
		spawn(w, locker, w);
	spawn(w, try_locker, w);
	ts_exec_run(w->x, 1000);
	assert_string_equal(w->trace, "001122z");
	assert_null(w->mutex.owner);
}

static void worker(void *arg)
{
	struct world *w = arg;
	int me = w->count++;

	ts_fiber_yield();
	ts_group_done(&w->group, me == 1 ? -EIO : me == 2 ? -ENOSPC : 0);
}
static void grouper(void *arg)
{
	struct world *w = arg;

	for (int i = 0; i < 4; i++) {
		ts_group_add(&w->group);
		spawn(w, worker, w);
	}
	w->rc = ts_group_wait(&w->group, "workers");
	ts_done_set(&w->done, 42);
}
static void done_waiter(void *arg)
{
	struct world *w = arg;

	assert_int_equal(ts_done_wait(&w->done, "done", 0, 0), 42);
	note(w, 'd');
}
static void group_and_done(void **state)
{
	struct world *w = *state;

	spawn(w, done_waiter, w);
	spawn(w, done_waiter, w);
	spawn(w, grouper, w);
	ts_exec_run(w->x, 1000);
	assert_int_equal(w->rc, -EIO);
	spawn(w, done_waiter, w); /* after the fact: no wait */
	ts_exec_run(w->x, 1000);
	assert_string_equal(w->trace, "ddd");
}

static double deep(int n)
{
	volatile char pad[512];
	double d;

	memset((void *)pad, n, sizeof(pad));
	if (n % 16 == 0)
		ts_fiber_yield();
	d = n ? deep(n - 1) + 0.5 : 0.0;
	return pad[100] == (char)n ? d : -1e9;
}
static void deep_fiber(void *arg)
{
	struct world *w = arg;
	char text[64];

	/* Needs a 16-aligned stack (SSE in printf of doubles). */
	snprintf(text, sizeof(text), "%.1f", deep(100));
	assert_string_equal(text, "50.0");
	ts_fiber_data_set(text);
	ts_fiber_yield();
	assert_ptr_equal(ts_fiber_data(), text);
	w->count++;
}
static void many_deep_fibers(void **state)
{
	struct world *w = *state;

	for (int i = 0; i < 1500; i++) /* more than the cache keeps */
		spawn(w, deep_fiber, w);
	while (ts_exec_run(w->x, 7))
		;
	assert_int_equal(w->count, 1500);
}

static void stuck(void *arg)
{
	struct world *w = arg;
	volatile char big[4096]; /* with ASan: poisoned redzones stay behind when the fiber is killed */

	memset((void *)big, 1, sizeof(big));
	ts_cond_wait_until(&w->cond, 1 << 30, "never", big[5], 0);
	w->count = -1000;
}
static void kill_forgets(void **state)
{
	struct world *w = *state;

	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < 50; i++)
			spawn(w, stuck, w);
		ts_exec_run(w->x, 25); /* half of them have not even started */
		ts_exec_kill(w->x);
		assert_int_equal(ts_fiber_count(w->x), 0);
		assert_int_equal(ts_exec_next_timer(w->x), UINT64_MAX);
		ts_cond_init(&w->cond);
	}
	spawn(w, deep_fiber, w);
	ts_exec_run(w->x, 1000);
	assert_int_equal(w->count, 1);
}

static void waits_once(void *arg)
{
	struct world *w = arg;

	note(w, 'a');
	ts_cond_wait(&w->cond, "test", 0, 0);
	note(w, 'c');
}

/* A started fiber runs before the call returns, as far as its first wait; a spawned one does not. */
static void from_a_callback(void *arg)
{
	struct world *w = arg;

	assert_int_equal(ts_fiber_start(w->x, "test", waits_once, w), 0);
	note(w, 'b');
	assert_null(ts_fiber_self());
	ts_cond_signal(&w->cond);
	assert_string_equal(w->trace, "ab");
}

static void start_runs_at_once(void **state)
{
	struct world *w = *state;

	assert_int_equal(ts_exec_post(w->x, from_a_callback, w), 0);
	ts_exec_run(w->x, 10);
	assert_string_equal(w->trace, "abc");
	assert_int_equal(ts_fiber_count(w->x), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(yields_alternate, setup, teardown),
		cmocka_unit_test_setup_teardown(cond_is_fifo_and_visible, setup, teardown),
		cmocka_unit_test_setup_teardown(cond_deadline, setup, teardown),
		cmocka_unit_test_setup_teardown(sleep_until, setup, teardown),
		cmocka_unit_test_setup_teardown(mutex_is_fair, setup, teardown),
		cmocka_unit_test_setup_teardown(group_and_done, setup, teardown),
		cmocka_unit_test_setup_teardown(many_deep_fibers, setup, teardown),
		cmocka_unit_test_setup_teardown(kill_forgets, setup, teardown),
		cmocka_unit_test_setup_teardown(start_runs_at_once, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
