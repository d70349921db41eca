/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a call that does not return within the limit ends the program, after saying which call it is. A
 * thread, for a signal does not reach a caller that waits for a FUSE answer. What must never happen: the
 * tester itself hangs and nobody learns where. */
#include "model.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static atomic_ullong ticks;
static unsigned limit;
static void (*say_where)(void);

void model_watch_tick(void)
{
	atomic_fetch_add(&ticks, 1);
}

static void *watch(void *arg)
{
	unsigned long long seen = 0;
	unsigned still = 0;

	for (;;) {
		struct timespec second = {1, 0};
		nanosleep(&second, NULL);
		unsigned long long now = atomic_load(&ticks);
		still = now == seen ? still + 1 : 0;
		seen = now;
		if (still < limit)
			continue;
		say_where();
		fflush(stdout);
		_exit(1);
	}
	return arg;
}

void model_watch_start(unsigned seconds, void (*say)(void))
{
	pthread_t t;

	limit = seconds;
	say_where = say;
	if (pthread_create(&t, NULL, watch, NULL))
		abort();
	pthread_detach(t);
}
