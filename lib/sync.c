/* SPDX-License-Identifier: Apache-2.0 */
/* Job: waiting primitives among fibers of one executor. Must never happen: a waiter overtaken by a late comer (mutex
 * ownership is handed over, not released) or an object touched after its last waiter was made ready and freed it. */
#include "lib/fiber_int.h"

void ts_cond_init(struct ts_cond *c)
{
	ts_list_init(&c->waiters);
}

void ts_cond_wait(struct ts_cond *c, const char *what, uint64_t a, uint64_t b)
{
	ts_fiber_park(&c->waiters, UINT64_MAX, what, a, b);
}

int ts_cond_wait_until(struct ts_cond *c, uint64_t deadline_ns, const char *what, uint64_t a, uint64_t b)
{
	return ts_fiber_park(&c->waiters, deadline_ns, what, a, b);
}

void ts_cond_signal(struct ts_cond *c)
{
	if (!ts_list_empty(&c->waiters))
		ts_fiber_make_ready(ts_list_entry(c->waiters.next, struct ts_fiber, link));
}

void ts_cond_broadcast(struct ts_cond *c)
{
	while (!ts_list_empty(&c->waiters))
		ts_cond_signal(c);
}

void ts_mutex_init(struct ts_mutex *m)
{
	m->owner = NULL;
	ts_cond_init(&m->cond);
}

void ts_mutex_lock(struct ts_mutex *m, const char *what)
{
	struct ts_fiber *self = ts_fiber_self();

	TS_ASSERT(self && m->owner != self);
	if (!m->owner) {
		m->owner = self;
		return;
	}
	ts_cond_wait(&m->cond, what, (uint64_t)(uintptr_t)m, 0);
	TS_ASSERT(m->owner == self);
}

bool ts_mutex_trylock(struct ts_mutex *m)
{
	struct ts_fiber *self = ts_fiber_self();

	TS_ASSERT(self);
	if (m->owner)
		return false;
	m->owner = self;
	return true;
}

void ts_mutex_unlock(struct ts_mutex *m)
{
	TS_ASSERT(m->owner && m->owner == ts_fiber_self());
	m->owner = NULL;
	if (!ts_list_empty(&m->cond.waiters)) {
		m->owner = ts_list_entry(m->cond.waiters.next, struct ts_fiber, link);
		ts_cond_signal(&m->cond);
	}
}

void ts_done_init(struct ts_done *d)
{
	d->done = false;
	d->rc = 0;
	ts_cond_init(&d->cond);
}

void ts_done_set(struct ts_done *d, int rc)
{
	TS_ASSERT(!d->done);
	d->done = true;
	d->rc = rc;
	ts_cond_broadcast(&d->cond);
}

int ts_done_wait(struct ts_done *d, const char *what, uint64_t a, uint64_t b)
{
	while (!d->done)
		ts_cond_wait(&d->cond, what, a, b);
	return d->rc;
}

void ts_group_init(struct ts_group *g)
{
	g->pending = 0;
	g->rc = 0;
	ts_cond_init(&g->cond);
}

void ts_group_add(struct ts_group *g)
{
	g->pending++;
}

void ts_group_done(struct ts_group *g, int rc)
{
	TS_ASSERT(g->pending);
	if (rc && !g->rc)
		g->rc = rc;
	if (--g->pending == 0)
		ts_cond_broadcast(&g->cond);
}

int ts_group_wait(struct ts_group *g, const char *what)
{
	while (g->pending)
		ts_cond_wait(&g->cond, what, g->pending, 0);
	return g->rc;
}
