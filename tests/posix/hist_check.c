/* SPDX-License-Identifier: Apache-2.0 */
/* Job: is there an order of these operations, one at a time, that keeps the order of those that did not
 * overlap and explains every answer? All orders at once, by the number of operations done: a set of
 * (operations done, state) without doubles. What must never happen: "good" without such an order. Too many
 * possibilities are said to be too many. */
#include "hist.h"

#include <stdlib.h>
#include <string.h>

struct order {
	uint64_t done[HIST_MAX_OPS / 64], state;
};

struct set {
	struct order *o;
	size_t n;
	uint32_t *slot; /* index + 1; a power of two, twice as many as orders */
};

#define SLOTS (1u << 19)
_Static_assert(SLOTS > 2 * HIST_MAX_ORDERS, "the table stays half empty");

static bool has(const struct order *o, size_t i)
{
	return o->done[i / 64] >> (i % 64) & 1;
}

static uint32_t hash(const struct order *o)
{
	uint64_t h = o->state;

	for (size_t k = 0; k < HIST_MAX_OPS / 64; k++) {
		h = (h ^ o->done[k]) * 0xbf58476d1ce4e5b9ULL;
		h ^= h >> 29;
	}
	return (uint32_t)(h * 0x94d049bb133111ebULL >> 40) & (SLOTS - 1);
}

static bool add(struct set *s, const struct order *o)
{
	uint32_t h = hash(o);

	for (; s->slot[h]; h = (h + 1) & (SLOTS - 1))
		if (!memcmp(&s->o[s->slot[h] - 1], o, sizeof(*o)))
			return true;
	if (s->n == HIST_MAX_ORDERS)
		return false;
	s->o[s->n++] = *o;
	s->slot[h] = (uint32_t)s->n;
	return true;
}

/* Forgets all, in time of what is in it. */
static void clear(struct set *s)
{
	for (size_t k = 0; k < s->n; k++) {
		uint32_t h = hash(&s->o[k]);
		while (s->slot[h]) {
			s->slot[h] = 0;
			h = (h + 1) & (SLOTS - 1);
		}
	}
	s->n = 0;
}

static struct set *set_get(unsigned which)
{
	static struct set two[2];

	if (!two[which].o) {
		two[which].o = malloc(HIST_MAX_ORDERS * sizeof(struct order));
		two[which].slot = calloc(SLOTS, sizeof(uint32_t));
		if (!two[which].o || !two[which].slot)
			abort();
	}
	clear(&two[which]);
	return &two[which];
}

/* Every order that is one operation longer. */
static bool extend(const struct hist_spec *spec, const void *arg, const struct hist_op *ops, size_t n,
		   const struct order *o, struct set *to)
{
	int64_t first_end = INT64_MAX;

	for (size_t i = 0; i < n; i++)
		if (!has(o, i) && ops[i].to < first_end)
			first_end = ops[i].to;
	for (size_t k = 0; k < 2 * n; k++) {
		struct order next = *o;
		size_t i = k / 2;
		/* What began behind another's end comes behind it. */
		if (has(o, i) || ops[i].from > first_end ||
		    !spec->step(arg, o->state, &ops[i], k % 2, &next.state))
			continue;
		next.done[i / 64] |= 1ULL << (i % 64);
		if (!add(to, &next))
			return false;
	}
	return true;
}

enum hist_verdict hist_check(const struct hist_spec *spec, const void *arg, const struct hist_op *ops,
			     size_t n, struct hist_states *states, size_t *done)
{
	struct set *now = set_get(0), *then = set_get(1);

	*done = 0;
	if (n > HIST_MAX_OPS)
		return HIST_TOO_BIG;
	for (size_t k = 0; k < states->n; k++)
		add(now, &(struct order){.state = states->s[k]});
	for (size_t level = 0; level < n; level++) {
		for (size_t k = 0; k < now->n; k++)
			if (!extend(spec, arg, ops, n, &now->o[k], then))
				return HIST_TOO_BIG;
		if (!then->n)
			return HIST_BAD;
		*done = level + 1;
		struct set *t = now;
		now = then;
		then = t;
		clear(then);
	}
	if (now->n > HIST_MAX_STATES)
		return HIST_TOO_BIG;
	for (size_t k = 0; k < now->n;
	     k++) /* all operations are done: the orders differ in their states only */
		states->s[k] = now->o[k].state;
	states->n = now->n;
	return HIST_GOOD;
}

static bool changes_nothing(const struct hist_op *op)
{
	return op->err || op->kind == HIST_READ || op->kind == HIST_LOOK || op->kind == HIST_COUNT;
}

size_t hist_shorten(const struct hist_spec *spec, const void *arg, struct hist_op *ops, size_t n,
		    const struct hist_states *before)
{
	struct hist_states states;
	size_t done;

	for (size_t i = n; i-- > 0;) {
		struct hist_op was = ops[i];
		if (!changes_nothing(&was))
			continue;
		memmove(&ops[i], &ops[i + 1], (n - i - 1) * sizeof(*ops));
		states = *before;
		if (hist_check(spec, arg, ops, n - 1, &states, &done) == HIST_BAD) {
			n--;
			continue;
		}
		memmove(&ops[i + 1], &ops[i], (n - i - 1) * sizeof(*ops));
		ops[i] = was;
	}
	return n;
}
