/* SPDX-License-Identifier: Apache-2.0 */
/* Fibers: plain sequential C that waits by yielding to its executor. Stacks come from a pool (256 KiB with a guard
 * page, lazily touched); a switch saves callee-saved registers only and makes no system call; annotated for ASan and TSan.
 *
 * Waiting primitives are for fibers of one executor (no atomics). Every wait carries a text, shown with its age by
 * `tessera diag waiters`. What must never happen: a wait with a pthread lock held; a wake-up lost between a check and
 * a wait (impossible here, there is no preemption, as long as nothing yields between them). */
#ifndef TESSERA_LIB_FIBER_H
#define TESSERA_LIB_FIBER_H

#include "lib/exec.h"

struct ts_fiber;

/* Starts fn(arg) on a fiber of x; it is ready at once and runs at the next step. -ENOMEM if no stack can be had. */
int ts_fiber_spawn(struct ts_exec *x, const char *name, ts_fn fn, void *arg) TS_MUST_CHECK;
/* The same, and runs it now until it waits or ends. From callbacks of the executor only, not from a fiber. */
int ts_fiber_start(struct ts_exec *x, const char *name, ts_fn fn, void *arg) TS_MUST_CHECK;
struct ts_fiber *ts_fiber_self(void); /* NULL outside fibers */
struct ts_exec *ts_exec_self(void);   /* executor now running on this thread, NULL outside */
void ts_fiber_yield(void);	      /* ready again at once, behind the others */
void ts_sleep_until(uint64_t when_ns);
/* A pointer a layer may attach to the running fiber (request context). */
void ts_fiber_data_set(void *p);
void *ts_fiber_data(void);

/* Visits waiting fibers: name, what they wait for ("token inode 17 EX"), object numbers, since when. For diag waiters. */
typedef void (*ts_fiber_visit)(void *arg, const char *name, const char *what, uint64_t a, uint64_t b, uint64_t since_ns);
void ts_fiber_each_waiting(struct ts_exec *x, ts_fiber_visit fn, void *arg);
/* What that fiber waits for, NULL when it does not. */
const char *ts_fiber_waits_for(const struct ts_fiber *f, uint64_t *a, uint64_t *b, uint64_t *since_ns);
size_t ts_fiber_count(const struct ts_exec *x); /* alive */

/* Condition: a FIFO of waiting fibers. what is a static string; a and b are numbers to show with it. */
struct ts_cond {
	struct ts_list waiters;
};
#define TS_COND_INIT(name) {TS_LIST_INIT((name).waiters)}
void ts_cond_init(struct ts_cond *c);
void ts_cond_wait(struct ts_cond *c, const char *what, uint64_t a, uint64_t b);
/* 0 when signalled, -ETIMEDOUT at the deadline. */
int ts_cond_wait_until(struct ts_cond *c, uint64_t deadline_ns, const char *what, uint64_t a, uint64_t b);
void ts_cond_signal(struct ts_cond *c);
void ts_cond_broadcast(struct ts_cond *c);

/* FIFO mutex among fibers of one executor. */
struct ts_mutex {
	struct ts_fiber *owner;
	struct ts_cond cond;
};
void ts_mutex_init(struct ts_mutex *m);
void ts_mutex_lock(struct ts_mutex *m, const char *what);
bool ts_mutex_trylock(struct ts_mutex *m);
void ts_mutex_unlock(struct ts_mutex *m);

/* One-shot result: somebody completes it once (also from callbacks outside fibers), one or more fibers wait. */
struct ts_done {
	bool done;
	int rc;
	struct ts_cond cond;
};
void ts_done_init(struct ts_done *d);
void ts_done_set(struct ts_done *d, int rc);
int ts_done_wait(struct ts_done *d, const char *what, uint64_t a, uint64_t b);

/* Counts outstanding work: add before starting, done when it ends, wait until zero. First error is kept. */
struct ts_group {
	unsigned pending;
	int rc;
	struct ts_cond cond;
};
void ts_group_init(struct ts_group *g);
void ts_group_add(struct ts_group *g);
void ts_group_done(struct ts_group *g, int rc);
int ts_group_wait(struct ts_group *g, const char *what);

#endif
