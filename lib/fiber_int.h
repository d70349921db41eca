/* SPDX-License-Identifier: Apache-2.0 */
/* Private to lib/: executor and fiber insides, stacks, and the sanitizer annotations. */
#ifndef TESSERA_LIB_FIBER_INT_H
#define TESSERA_LIB_FIBER_INT_H

#include "lib/fiber.h"

#include <pthread.h>
#include <stdatomic.h>

#if defined(__SANITIZE_ADDRESS__)
#define TS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TS_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define TS_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TS_TSAN 1
#endif
#endif

#define TS_STACK_BYTES (256u * 1024)
#define TS_STACK_CACHE 1024
#define TS_POST_MAX    65536

enum fiber_state { FIBER_READY, FIBER_RUNNING, FIBER_WAITING, FIBER_ENDED };

/* Lives at the top of its own stack. */
struct ts_fiber {
	struct ts_list link; /* ready queue or a condition's waiters */
	struct ts_list all;
	struct ts_exec *exec;
	void *sp;
	void *stack; /* lowest usable byte */
	size_t stack_bytes;
	enum fiber_state state;
	const char *name, *what;
	uint64_t a, b, since_ns;
	struct ts_timer timer;
	bool timed_out;
	ts_fn fn;
	void *arg, *data;
	void *asan_fake, *tsan;
};

struct post {
	ts_fn fn;
	void *arg;
};
struct post_queue {
	struct post *v;
	size_t count, room;
};

struct ts_exec {
	struct ts_env env;
	struct ts_list ready, deferred, fibers;
	size_t nfibers;
	struct ts_fiber *current;
	bool running;

	struct ts_timer **heap;
	size_t heap_count, heap_room;
	uint64_t timer_seq;

	pthread_mutex_t post_mutex;
	struct post_queue posts, posts_taken; /* posts: under post_mutex; posts_taken: executor's own */
	atomic_bool have_posts;
	bool sleeping; /* under post_mutex: the driver waits and wants wake() */
	void (*wake)(struct ts_loop *l);
	struct ts_loop *loop;

	void *sched_sp; /* the driver's context while a fiber runs */
	void *asan_fake, *tsan;
	const void *asan_bottom;
	size_t asan_size;
};

/* fiber.c */
void ts_fiber_resume(struct ts_fiber *f); /* driver's side: run f until it waits, yields or ends */
void ts_fiber_make_ready(struct ts_fiber *f);
int ts_fiber_park(struct ts_list *where, uint64_t deadline_ns, const char *what, uint64_t a, uint64_t b);
void ts_fiber_forget(struct ts_fiber *f); /* frees without running it */
const char *ts_fiber_name(void);	  /* of the running fiber, NULL outside */
/* exec.c */
struct ts_exec *ts_exec_enter(struct ts_exec *x); /* x becomes ts_exec_self(); returns the one before */
bool ts_exec_ready(struct ts_exec *x);
bool ts_exec_sleep_begin(struct ts_exec *x); /* false: posts are waiting, do not sleep */
void ts_exec_sleep_end(struct ts_exec *x);
/* stack.c */
void *ts_stack_get(void); /* lowest usable byte of TS_STACK_BYTES, NULL if none can be had */
void ts_stack_put(void *stack);

#endif
