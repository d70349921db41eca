/* SPDX-License-Identifier: Apache-2.0 */
/* Processes that begin together. What must never happen: a time that leaves out the slowest of them, or a figure when one failed. */
#include "ranks.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

static pthread_barrier_t *barrier;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *shared(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return p;
}

/* The first that fails takes the others along: they would wait for it at the barrier. */
static int collect(const pid_t *pid, unsigned n)
{
	int bad = 0;

	for (unsigned left = n; left; left--) {
		int st;

		if (wait(&st) < 0)
			return 1;
		if ((!WIFEXITED(st) || WEXITSTATUS(st)) && !bad++)
			for (unsigned i = 0; i < n; i++)
				kill(pid[i], SIGKILL);
	}
	return bad != 0;
}

int ranks_run(struct ranks *r, unsigned n, int (*work)(unsigned rank, void *arg), void *arg)
{
	pthread_barrierattr_t a;
	pid_t *pid = calloc(n, sizeof(*pid)), parent = getpid();
	int rc;

	if (!pid)
		return 1;
	r->n = n;
	r->result = shared(n * sizeof(*r->result));
	barrier = shared(sizeof(*barrier));
	pthread_barrierattr_init(&a);
	pthread_barrierattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(barrier, &a, n);
	for (unsigned i = 0; i < n; i++) {
		pid[i] = fork();
		if (pid[i] < 0) {
			perror("fork");
			exit(1);
		}
		if (pid[i] == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			_exit(getppid() != parent || work(i, arg) ? 1 : 0);
		}
	}
	rc = collect(pid, n);
	free(pid);
	return rc;
}

void ranks_begin(struct ranks *r, unsigned rank)
{
	pthread_barrier_wait(barrier);
	r->result[rank].begin_ns = now_ns();
}

void ranks_end(struct ranks *r, unsigned rank, uint64_t ops, uint64_t bytes)
{
	r->result[rank].end_ns = now_ns();
	r->result[rank].ops = ops;
	r->result[rank].bytes = bytes;
}

void ranks_print(const struct ranks *r, const char *what)
{
	uint64_t begin = UINT64_MAX, end = 0, ops = 0, bytes = 0;

	for (unsigned i = 0; i < r->n; i++) {
		const struct rank_result *p = &r->result[i];

		begin = p->begin_ns < begin ? p->begin_ns : begin;
		end = p->end_ns > end ? p->end_ns : end;
		ops += p->ops;
		bytes += p->bytes;
	}
	printf("{\"what\": \"%s\", \"ranks\": %u, \"ops\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"seconds\": %.6f}\n", what, r->n, ops, bytes,
	       (double)(end - begin) / 1e9);
}

uint64_t number_of(const char *option, const char *text)
{
	char *end;
	uint64_t v = strtoull(text ? text : "", &end, 10);

	if (!text || end == text || *end) {
		fprintf(stderr, "%s: '%s' is not a number\n", option, text ? text : "");
		exit(2);
	}
	return v;
}
