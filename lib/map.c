/* SPDX-License-Identifier: Apache-2.0 */
/* Job: intrusive hash map. Must never happen: an insert that fails once the first bucket array exists (growing is
 * only an optimisation: when it cannot be had the chains get longer). */
#include "lib/map.h"

#define FIRST_BUCKETS 16

void ts_map_init(struct ts_map *m)
{
	*m = (struct ts_map){0};
}

void ts_map_fini(struct ts_map *m)
{
	ts_free(m->bucket);
	*m = (struct ts_map){0};
}

static struct ts_map_node **slot(const struct ts_map *m, uint64_t hash)
{
	return &m->bucket[hash & (m->nbuckets - 1)];
}

static bool resize(struct ts_map *m, size_t nbuckets)
{
	struct ts_map_node **old = m->bucket, **fresh = ts_alloc(nbuckets * sizeof(*fresh));
	size_t nold = m->nbuckets;

	if (!fresh)
		return false;
	m->bucket = fresh;
	m->nbuckets = nbuckets;
	for (size_t i = 0; i < nold; i++) {
		for (struct ts_map_node *n = old[i], *next; n; n = next) {
			struct ts_map_node **s = slot(m, n->hash);

			next = n->next;
			n->next = *s;
			*s = n;
		}
	}
	ts_free(old);
	return true;
}

int ts_map_insert(struct ts_map *m, struct ts_map_node *n, uint64_t hash)
{
	struct ts_map_node **s;

	if (!m->nbuckets && !resize(m, FIRST_BUCKETS))
		return -ENOMEM;
	if (m->count >= m->nbuckets)
		resize(m, m->nbuckets * 2);
	s = slot(m, hash);
	n->hash = hash;
	n->next = *s;
	*s = n;
	m->count++;
	return 0;
}

void ts_map_remove(struct ts_map *m, struct ts_map_node *n)
{
	struct ts_map_node **s;

	TS_ASSERT(m->nbuckets);
	for (s = slot(m, n->hash); *s != n; s = &(*s)->next)
		TS_ASSERT(*s);
	*s = n->next;
	n->next = NULL;
	m->count--;
}

static struct ts_map_node *skip_to(struct ts_map_node *n, uint64_t hash)
{
	while (n && n->hash != hash)
		n = n->next;
	return n;
}

struct ts_map_node *ts_map_first(const struct ts_map *m, uint64_t hash)
{
	return m->nbuckets ? skip_to(*slot(m, hash), hash) : NULL;
}

struct ts_map_node *ts_map_next(const struct ts_map_node *n)
{
	return skip_to(n->next, n->hash);
}

int ts_map_each(struct ts_map *m, int (*fn)(struct ts_map_node *n, void *arg), void *arg)
{
	for (size_t i = 0; i < m->nbuckets; i++) {
		for (struct ts_map_node *n = m->bucket[i], *next; n; n = next) {
			int rc;

			next = n->next;
			rc = fn(n, arg);
			if (rc)
				return rc;
		}
	}
	return 0;
}
