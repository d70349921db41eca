/* SPDX-License-Identifier: Apache-2.0 */
/* The executor: one thread's run queue of fibers, timers and posted calls. It owns no clock and no sleep:
 * a driver steps it. The daemon's driver is ts_loop (epoll); the simulator steps many executors in one thread.
 *
 * Everything a node does with one file system happens on one executor, so code between two yields is atomic
 * with respect to all other requests of that file system. No pthread lock is held across a yield.
 *
 * All calls are for the executor's own thread, except ts_exec_post(), which is for any thread. */
#ifndef TESSERA_LIB_EXEC_H
#define TESSERA_LIB_EXEC_H

#include "lib/env.h"
#include "lib/list.h"

struct ts_exec;
struct ts_loop;
typedef void (*ts_fn)(void *arg);

struct ts_exec *ts_exec_new(const struct ts_env *env) TS_MUST_CHECK; /* env is copied */
void ts_exec_free(struct ts_exec *x); /* no fiber may be alive; timers are dropped. The simulator's crash uses ts_exec_kill first */
const struct ts_env *ts_exec_env(const struct ts_exec *x);
static inline uint64_t ts_exec_now(const struct ts_exec *x) { return ts_now_ns(ts_exec_env(x)); }

/* Runs everything that is ready (posted calls, due timers, ready fibers) until nothing is, or until max_steps
 * fiber switches and deferred tasks were made. Returns true when something is still ready. Nested calls are forbidden. */
bool ts_exec_run(struct ts_exec *x, unsigned max_steps);
/* Earliest timer in ns of the env's clock, UINT64_MAX if none. */
uint64_t ts_exec_next_timer(struct ts_exec *x);
/* From any thread (the driver is woken): run fn(arg) on the executor. Order is kept. Returns -ENOMEM at the bound. */
int ts_exec_post(struct ts_exec *x, ts_fn fn, void *arg);
/* From the executor's thread: run fn(arg) soon, after what is ready now; uses the caller's node, cannot fail. */
struct ts_task {
	struct ts_list link;
	ts_fn fn;
	void *arg;
};
void ts_exec_defer(struct ts_exec *x, struct ts_task *t, ts_fn fn, void *arg);
/* Simulated power failure: every fiber, timer and task is forgotten where it stands (stacks are freed, nothing unwinds). */
void ts_exec_kill(struct ts_exec *x);

struct ts_timer {
	struct ts_exec *exec; /* NULL = not armed */
	uint64_t when_ns;
	ts_fn fn;
	void *arg;
	size_t heap_index;
	uint64_t seq; /* order of arming: equal times fire in that order */
};
void ts_timer_arm(struct ts_exec *x, struct ts_timer *t, uint64_t when_ns, ts_fn fn, void *arg); /* re-arms if armed */
void ts_timer_cancel(struct ts_timer *t); /* harmless if not armed */

/* The epoll driver for real processes. fd callbacks run on the executor's thread, outside any fiber. */
struct ts_loop *ts_loop_new(struct ts_exec *x) TS_MUST_CHECK;
void ts_loop_free(struct ts_loop *l);
struct ts_loop *ts_exec_loop(struct ts_exec *x); /* NULL in the simulator */
typedef void (*ts_fd_fn)(void *arg, uint32_t epoll_events);
int ts_loop_fd_add(struct ts_loop *l, int fd, uint32_t epoll_events, ts_fd_fn fn, void *arg) TS_MUST_CHECK;
int ts_loop_fd_mod(struct ts_loop *l, int fd, uint32_t epoll_events) TS_MUST_CHECK;
void ts_loop_fd_del(struct ts_loop *l, int fd);
/* Idle callback: called every turn before the loop waits (submission queues are flushed there). */
void ts_loop_before_wait(struct ts_loop *l, ts_fn fn, void *arg);
void ts_loop_before_wait_del(struct ts_loop *l, ts_fn fn, void *arg); /* not from inside the callback */
void ts_loop_run(struct ts_loop *l); /* until ts_loop_stop */
void ts_loop_stop(struct ts_loop *l); /* any thread, and signal handlers */

#endif
