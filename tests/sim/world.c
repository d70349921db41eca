/* SPDX-License-Identifier: Apache-2.0 */
/* The world's clock, dice and event queue. Events of one instant run in the order in which they were made. */
#include "tests/sim/sim.h"
#include <stdarg.h>
#include <stdio.h>

uint64_t sim_random(struct sim *s)
{
	s->rng += 0x9e3779b97f4a7c15ULL;
	uint64_t z = s->rng;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static bool before(const struct sim_event *a, const struct sim_event *b)
{
	return a->when != b->when ? a->when < b->when : a->seq < b->seq;
}

void sim_at(struct sim *s, uint64_t when, sim_fn fn, void *arg, uint64_t a, uint64_t b)
{
	if (s->nheap == s->cap) {
		s->cap = s->cap ? s->cap * 2 : 256;
		s->heap = realloc(s->heap, s->cap * sizeof(*s->heap));
		TS_ASSERT(s->heap);
	}
	struct sim_event e = {when, ++s->event_seq, fn, arg, a, b};
	size_t i = s->nheap++;
	for (; i && before(&e, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
		s->heap[i] = s->heap[(i - 1) / 2];
	s->heap[i] = e;
}

static struct sim_event event_pop(struct sim *s)
{
	struct sim_event top = s->heap[0], last = s->heap[--s->nheap];
	size_t i = 0;
	for (;;) {
		size_t c = 2 * i + 1;
		if (c >= s->nheap)
			break;
		if (c + 1 < s->nheap && before(&s->heap[c + 1], &s->heap[c]))
			c++;
		if (!before(&s->heap[c], &last))
			break;
		s->heap[i] = s->heap[c];
		i = c;
	}
	s->heap[i] = last;
	return top;
}

void sim_fail(struct sim *s, const char *fmt, ...)
{
	va_list ap;
	if (s->failed)
		return;
	s->failed = true;
	va_start(ap, fmt);
	vsnprintf(s->why, sizeof(s->why), fmt, ap);
	va_end(ap);
}

void sim_say(struct sim *s, const char *fmt, ...)
{
	va_list ap;
	if (!s->verbose)
		return;
	fprintf(stderr, "%10.3f ms  ", (double)s->now / 1e6);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

struct sim_life *sim_life(struct sim *s, unsigned id)
{
	struct sim_life *l = s->nodes[id].life;
	return l && l->alive ? l : NULL;
}

static uint64_t next_time(struct sim *s)
{
	uint64_t t = s->nheap ? s->heap[0].when : UINT64_MAX;
	for (unsigned i = 1; i <= s->nnodes; i++) {
		struct sim_life *l = sim_life(s, i);
		if (!l)
			continue;
		uint64_t n = ts_exec_next_timer(l->x);
		if (n == UINT64_MAX)
			continue;
		n = n > s->nodes[i].clock_offset ? n - s->nodes[i].clock_offset : 0;
		t = TS_MIN(t, TS_MAX(n, l->frozen_until));
	}
	return t;
}

/* Every node runs until it has nothing ready; who goes first is drawn. An excluded node is taken down in between. */
static void nodes_run(struct sim *s)
{
	bool more = true;
	for (unsigned round = 0; more && !s->failed; round++) {
		unsigned first = (unsigned)sim_below(s, s->nnodes);
		more = false;
		if (round > 200000) {
			sim_fail(s, "livelock: the nodes never come to rest at one instant");
			return;
		}
		for (unsigned k = 0; k < s->nnodes; k++) {
			unsigned id = 1 + (first + k) % s->nnodes;
			struct sim_life *l = sim_life(s, id);
			if (!l || sim_frozen(s, l))
				continue;
			bool starved = id == s->starved && s->now < s->starved_until;
			unsigned steps = 1 + (unsigned)sim_below(s, 50);
			if (starved)
				ts_alloc_fail_nth(1 + sim_below(s, s->starve_every));
			more |= ts_exec_run(l->x, steps);
			if (starved)
				ts_alloc_fail_nth(0);
			if (l->excluded)
				sim_node_crash(s, id, false);
		}
	}
}

bool sim_again(struct sim_life *l)
{
	struct sim *s = l->node->sim;
	if (!s->starved || sim_life_over(l))
		return false;
	ts_sleep_until(ts_exec_now(l->x) + 5 * TS_NS_PER_MS);
	return !sim_life_over(l);
}

bool sim_run_until(struct sim *s, bool (*cond)(struct sim *s), uint64_t deadline)
{
	while (!s->failed) {
		nodes_run(s);
		if (s->failed || cond(s))
			return true;
		uint64_t t = next_time(s);
		if (t > deadline) {
			s->now = TS_MAX(s->now, deadline);
			return false;
		}
		s->now = TS_MAX(s->now, t);
		while (s->nheap && s->heap[0].when <= s->now) {
			struct sim_event e = event_pop(s);
			e.fn(e.arg, e.a, e.b);
		}
	}
	return true;
}
