/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the decision about one inode's locks, the same at its master and at a delegate. Fair: who holds no
 * lock at all queues behind those who wait already. Who holds one may pass, because those who wait may wait
 * for it: queueing would make deadlocks that the locks themselves do not have. Must never happen: a
 * conflicting lock is given. */
#include "dlm/plock_int.h"

void plock_auth_init(struct plock_auth *a)
{
	*a = (struct plock_auth){0};
	ts_list_init(&a->waiters);
}

struct plock_auth *plock_auth_find(const struct ts_map *m, uint64_t ino)
{
	for (struct ts_map_node *n = ts_map_first(m, ts_hash_u64(ino)); n; n = ts_map_next(n)) {
		struct plock_auth *a = TS_CONTAINER(n, struct plock_auth, node);
		if (a->ino == ino)
			return a;
	}
	return NULL;
}

struct plock_auth *plock_auth_new(struct ts_map *m, uint64_t ino, size_t size)
{
	struct plock_auth *a = ts_alloc(size);
	if (!a)
		return NULL;
	plock_auth_init(a);
	a->ino = ino;
	if (ts_map_insert(m, &a->node, ts_hash_u64(ino))) {
		ts_free(a);
		return NULL;
	}
	return a;
}

/* Does someone older wait for what w would take? */
static bool behind(const struct plock_auth *a, const struct plock_want *w)
{
	if ((w->flags & PLOCK_F_BARGE) || plock_table_has_owner(&a->t, &w->p))
		return false;
	ts_list_for(n, &a->waiters)
	{
		const struct plock_want *o = ts_list_entry(n, const struct plock_want, link);
		if (o == w)
			break;
		if (plock_clash(&o->p, &w->p))
			return true;
	}
	return false;
}

int plock_auth_try(struct plock_auth *a, const struct plock_want *w)
{
	if (plock_table_clash(&a->t, &w->p, 0) < a->t.n || behind(a, w))
		return -EAGAIN;
	return plock_table_set(&a->t, &w->p, true) ? -ENOLCK : 0;
}

struct plock_want *plock_auth_next(struct plock_auth *a, int *rc)
{
	ts_list_for(n, &a->waiters)
	{
		struct plock_want *w = ts_list_entry(n, struct plock_want, link);
		*rc = plock_auth_try(a, w);
		if (*rc == -EAGAIN)
			continue;
		ts_list_del(&w->link);
		return w;
	}
	return NULL;
}
