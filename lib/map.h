/* SPDX-License-Identifier: Apache-2.0 */
/* Intrusive chained hash map from a 64-bit hash to nodes; the caller compares keys. Grows by itself.
 * Not thread-safe: a map belongs to one executor. */
#ifndef TESSERA_LIB_MAP_H
#define TESSERA_LIB_MAP_H

#include "lib/base.h"

struct ts_map_node {
	struct ts_map_node *next;
	uint64_t hash;
};
struct ts_map {
	struct ts_map_node **bucket;
	size_t nbuckets; /* power of two, 0 = nothing allocated yet */
	size_t count;
};

static inline uint64_t ts_hash_u64(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdULL;
	x ^= x >> 33;
	x *= 0xc4ceb9fe1a85ec53ULL;
	return x ^ (x >> 33);
}
static inline uint64_t ts_hash_2(uint64_t a, uint64_t b) { return ts_hash_u64(a * 0x9e3779b97f4a7c15ULL ^ ts_hash_u64(b)); }

void ts_map_init(struct ts_map *m);
void ts_map_fini(struct ts_map *m); /* the map must be empty or its nodes are forgotten */
/* 0 or -ENOMEM (only when the very first bucket array cannot be allocated). */
int ts_map_insert(struct ts_map *m, struct ts_map_node *n, uint64_t hash) TS_MUST_CHECK;
void ts_map_remove(struct ts_map *m, struct ts_map_node *n);
/* First node with this hash, then the following ones: for (n = ts_map_first(m, h); n; n = ts_map_next(n)) compare. */
struct ts_map_node *ts_map_first(const struct ts_map *m, uint64_t hash);
struct ts_map_node *ts_map_next(const struct ts_map_node *n);
/* Visits every node; fn may remove the node it is given. Stops when fn returns non-zero and returns that. */
int ts_map_each(struct ts_map *m, int (*fn)(struct ts_map_node *n, void *arg), void *arg);

#endif
