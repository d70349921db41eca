/* SPDX-License-Identifier: Apache-2.0 */
/* Job: executor and loop: order of turns, timers against a model, posts from other threads, descriptors. */
#include "lib/lib.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <unistd.h>

static uint64_t fake_now;
static uint64_t fake_clock(void *arg)
{
	return fake_now;
}
static const struct ts_env_ops fake_ops = {.now_ns = fake_clock, .wall_ns = fake_clock, .random = fake_clock};
static const struct ts_env fake_env = {.ops = &fake_ops};

static char trace[64];
static void note(void *arg)
{
	trace[strlen(trace)] = (char)(uintptr_t)arg;
}

struct turn {
	struct ts_exec *x;
	struct ts_task task, again;
	struct ts_timer timer;
};
static void fiber_note(void *arg)
{
	note((void *)'f');
}
static void task_note(void *arg)
{
	struct turn *t = arg;

	note((void *)'d');
	ts_exec_defer(t->x, &t->again, note, (void *)'D');
	assert_int_equal(ts_fiber_spawn(t->x, "f", fiber_note, NULL), 0);
}

static void order_of_a_turn(void **state)
{
	struct turn t = {.x = ts_exec_new(&fake_env)};

	memset(trace, 0, sizeof(trace));
	ts_exec_defer(t.x, &t.task, task_note, &t);
	assert_int_equal(ts_fiber_spawn(t.x, "f", fiber_note, NULL), 0);
	ts_timer_arm(t.x, &t.timer, 0, note, (void *)'t');
	assert_int_equal(ts_exec_post(t.x, note, (void *)'p'), 0);
	assert_int_equal(ts_exec_post(t.x, note, (void *)'q'), 0);
	assert_false(ts_exec_run(t.x, 1000));
	assert_string_equal(trace, "pqtfdfD");
	ts_exec_free(t.x);
}

static void budget_is_kept(void **state)
{
	struct ts_exec *x = ts_exec_new(&fake_env);

	memset(trace, 0, sizeof(trace));
	for (int i = 0; i < 5; i++)
		assert_int_equal(ts_fiber_spawn(x, "f", fiber_note, NULL), 0);
	assert_true(ts_exec_run(x, 2));
	assert_string_equal(trace, "ff");
	assert_true(ts_exec_run(x, 2));
	assert_false(ts_exec_run(x, 2));
	assert_string_equal(trace, "fffff");
	ts_exec_free(x);
}

static int rearmed;
static void rearm(void *arg)
{
	struct ts_timer *t = arg;

	if (++rearmed < 3)
		ts_timer_arm(ts_exec_self(), t, 0, rearm, t); /* always due: must not lock out the fibers */
	note((void *)'t');
}
static void timers_do_not_starve(void **state)
{
	struct ts_exec *x = ts_exec_new(&fake_env);
	struct ts_timer t = {0};

	memset(trace, 0, sizeof(trace));
	ts_timer_arm(x, &t, 0, rearm, &t);
	assert_int_equal(ts_fiber_spawn(x, "f", fiber_note, NULL), 0);
	ts_exec_run(x, 100);
	assert_string_equal(trace, "tftt");
	ts_exec_free(x);
}

struct modelled {
	struct ts_timer timer;
	uint64_t when; /* UINT64_MAX: not armed */
	int fired;
};
static void fire(void *arg)
{
	struct modelled *m = arg;

	assert_true(m->when <= fake_now);
	m->when = UINT64_MAX;
	m->fired++;
}
static void timers_against_model(void **state)
{
	struct ts_exec *x = ts_exec_new(&fake_env);
	static struct modelled m[300];
	uint64_t seed = 42;

	fake_now = 0;
	for (size_t i = 0; i < TS_ARRAY_LEN(m); i++)
		m[i].when = UINT64_MAX;
	for (int step = 0; step < 20000; step++) {
		struct modelled *t;
		uint64_t least = UINT64_MAX;

		seed = ts_hash_u64(seed + 1);
		t = &m[seed % TS_ARRAY_LEN(m)];
		switch (seed >> 32 & 3) {
		case 0:
		case 1:
			t->when = fake_now + (seed >> 40) % 500;
			ts_timer_arm(x, &t->timer, t->when, fire, t);
			break;
		case 2:
			t->when = UINT64_MAX;
			ts_timer_cancel(&t->timer);
			break;
		case 3:
			fake_now += (seed >> 40) % 50;
			ts_exec_run(x, 1000);
			break;
		}
		for (size_t i = 0; i < TS_ARRAY_LEN(m); i++)
			least = TS_MIN(least, m[i].when);
		assert_int_equal(ts_exec_next_timer(x), least);
	}
	ts_exec_free(x);
	for (size_t i = 0; i < TS_ARRAY_LEN(m); i++)
		assert_null(m[i].timer.exec);
}

static void nothing(void *arg)
{
}
static void posts_are_bounded(void **state)
{
	struct ts_exec *x = ts_exec_new(&fake_env);
	unsigned n = 0;

	while (ts_exec_post(x, nothing, NULL) == 0)
		n++;
	assert_int_equal(n, 65536);
	ts_exec_run(x, 1);
	assert_int_equal(ts_exec_post(x, nothing, NULL), 0);
	ts_exec_free(x);
}

/* ---- loop ------------------------------------------------------------------------------------------------------ */

#define THREADS 4
#define POSTS	20000
struct shared {
	struct ts_exec *x;
	struct ts_loop *l;
	int got, next[THREADS];
};
struct message {
	struct shared *s;
	int thread, n;
};
static void receive(void *arg)
{
	struct message *m = arg;

	assert_int_equal(m->s->next[m->thread]++, m->n); /* order is kept per poster */
	if (++m->s->got == THREADS * POSTS)
		ts_loop_stop(m->s->l);
	ts_free(m);
}
struct poster {
	struct shared *s;
	int thread;
};
static void *post_many(void *arg)
{
	struct poster *p = arg;

	for (int i = 0; i < POSTS; i++) {
		struct message *m = ts_xalloc(sizeof(*m));

		*m = (struct message){p->s, p->thread, i};
		while (ts_exec_post(p->s->x, receive, m))
			usleep(100);
		if (i % 1000 == 0)
			usleep(500); /* let the loop fall asleep now and then */
	}
	return NULL;
}
static void posts_from_threads(void **state)
{
	struct shared s = {.x = ts_exec_new(&ts_env_real)};
	struct poster p[THREADS];
	pthread_t th[THREADS];

	s.l = ts_loop_new(s.x);
	for (int i = 0; i < THREADS; i++) {
		p[i] = (struct poster){&s, i};
		pthread_create(&th[i], NULL, post_many, &p[i]);
	}
	ts_loop_run(s.l);
	for (int i = 0; i < THREADS; i++)
		pthread_join(th[i], NULL);
	assert_int_equal(s.got, THREADS * POSTS);
	ts_loop_free(s.l);
	ts_exec_free(s.x);
}

struct fds {
	struct ts_exec *x;
	struct ts_loop *l;
	int a[2], b[2], calls, hooks;
};
static void readable(void *arg, uint32_t events)
{
	struct fds *f = arg;

	/* Both are readable in the same batch: the other one is deleted before its turn comes. */
	f->calls++;
	ts_loop_fd_del(f->l, f->a[0]);
	ts_loop_fd_del(f->l, f->b[0]);
	assert_ptr_equal(ts_exec_self(), f->x);
	assert_null(ts_fiber_self());
}
static void hook(void *arg)
{
	((struct fds *)arg)->hooks++;
}
static void sleep_and_stop(void *arg)
{
	struct fds *f = arg;
	uint64_t t = ts_exec_now(f->x);

	ts_sleep_until(t + 20 * TS_NS_PER_MS);
	assert_true(ts_exec_now(f->x) >= t + 20 * TS_NS_PER_MS);
	ts_loop_stop(f->l);
}
static void descriptors(void **state)
{
	struct fds f = {.x = ts_exec_new(&ts_env_real)};

	f.l = ts_loop_new(f.x);
	assert_ptr_equal(ts_exec_loop(f.x), f.l);
	assert_int_equal(pipe(f.a), 0);
	assert_int_equal(pipe(f.b), 0);
	assert_int_equal(write(f.a[1], "x", 1), 1);
	assert_int_equal(write(f.b[1], "x", 1), 1);
	assert_int_equal(ts_loop_fd_add(f.l, f.a[0], EPOLLIN, readable, &f), 0);
	assert_int_equal(ts_loop_fd_add(f.l, f.a[0], EPOLLIN, readable, &f), -EEXIST);
	assert_int_equal(ts_loop_fd_add(f.l, f.b[0], EPOLLIN, readable, &f), 0);
	assert_int_equal(ts_loop_fd_mod(f.l, f.b[1], EPOLLIN), -ENOENT);
	ts_loop_before_wait(f.l, hook, &f);
	assert_int_equal(ts_fiber_spawn(f.x, "sleeper", sleep_and_stop, &f), 0);
	ts_loop_run(f.l);
	assert_int_equal(f.calls, 1);
	assert_true(f.hooks >= 2);
	ts_loop_before_wait_del(f.l, hook, &f);
	ts_loop_free(f.l);
	ts_exec_free(f.x);
	for (int i = 0; i < 2; i++) {
		close(f.a[i]);
		close(f.b[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(order_of_a_turn),   cmocka_unit_test(budget_is_kept),
		cmocka_unit_test(timers_do_not_starve), cmocka_unit_test(timers_against_model),
		cmocka_unit_test(posts_are_bounded), cmocka_unit_test(posts_from_threads),
		cmocka_unit_test(descriptors),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
