/* SPDX-License-Identifier: Apache-2.0 */
/* Histogram of durations: powers of two of a microsecond, so that adding costs a few instructions and two can be subtracted.
 * Not thread-safe: each belongs to one executor. */
#ifndef TESSERA_LIB_HIST_H
#define TESSERA_LIB_HIST_H

#include "lib/base.h"

#define TS_HIST_BUCKETS 26 /* bucket i: more than 2^(i-1) us, at most 2^i us; the last: longer than 16.8 s */
struct ts_hist {
	uint64_t count, sum_ns, bucket[TS_HIST_BUCKETS];
};

static inline unsigned ts_hist_index(uint64_t ns)
{
	uint64_t us = (ns + 999) / 1000;
	unsigned i = us <= 1 ? 0 : 64u - (unsigned)__builtin_clzll(us - 1);
	return i < TS_HIST_BUCKETS ? i : TS_HIST_BUCKETS - 1;
}

static inline uint64_t ts_hist_bound_us(unsigned i) { return 1ull << i; } /* of bucket i; none for the last */

static inline void ts_hist_add(struct ts_hist *h, uint64_t ns)
{
	h->count++;
	h->sum_ns += ns;
	h->bucket[ts_hist_index(ns)]++;
}

/* What came since `before`, an older copy of the same. */
static inline struct ts_hist ts_hist_since(const struct ts_hist *h, const struct ts_hist *before)
{
	struct ts_hist d = {h->count - before->count, h->sum_ns - before->sum_ns, {0}};
	for (unsigned i = 0; i < TS_HIST_BUCKETS; i++)
		d.bucket[i] = h->bucket[i] - before->bucket[i];
	return d;
}

/* So many of a thousand took at most that long, in us (the bucket's upper bound). 0: none counted. */
static inline uint64_t ts_hist_us(const struct ts_hist *h, unsigned permille)
{
	uint64_t want = (h->count * permille + 999) / 1000, seen = 0;
	for (unsigned i = 0; i < TS_HIST_BUCKETS && h->count; i++)
		if ((seen += h->bucket[i]) >= want && want)
			return ts_hist_bound_us(i);
	return 0;
}

#endif
