/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the two queues between the corosync thread and the executor. Must never happen: an event dropped or out of order
 * (without room the node is out), or a touch of what quorum_close() has freed. */
#include "quorum/cs_int.h"

#include <sys/eventfd.h>
#include <unistd.h>

#define TO_CORE_MAX 16384
#define TO_CPG_MAX  4096

struct chan *chan_new(struct ts_exec *x)
{
	struct chan *c = ts_alloc(sizeof(*c));

	if (!c)
		return NULL;
	c->evfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->evfd < 0) {
		ts_free(c);
		return NULL;
	}
	pthread_mutex_init(&c->mutex, NULL);
	ts_list_init(&c->to_core);
	ts_list_init(&c->to_cpg);
	c->refs = 2; /* thread and executor */
	c->exec = x;
	return c;
}

static void free_list(struct ts_list *l)
{
	struct ts_list *n;

	while ((n = ts_list_pop_front(l)))
		ts_free(ts_list_entry(n, struct ev, link));
}

void chan_unref(struct chan *c) /* mutex held; released */
{
	bool last = --c->refs == 0;

	pthread_mutex_unlock(&c->mutex);
	if (!last)
		return;
	free_list(&c->to_core);
	free_list(&c->to_cpg);
	close(c->evfd);
	pthread_mutex_destroy(&c->mutex);
	ts_free(c);
}

static void to_core(struct quorum *q, const struct ev *e)
{
	uint64_t machines[Q_NODE_IDS / 64];

	switch (e->kind) {
	case EV_MSG:
		quorum_core_deliver(q, e->node, e->pid, e->data, e->len);
		break;
	case EV_CONF:
		quorum_core_confchg(q, e->m, e->nm, e->l, e->nl, e->exited, e->j, e->nj, e->ring);
		break;
	case EV_QUORATE:
		quorum_core_needed(q, e->needed);
		quorum_core_expected(q, e->expected);
		memcpy(machines, e->data, sizeof(machines));
		quorum_core_machines(q, machines);
		memcpy(machines, e->data + sizeof(machines), sizeof(machines));
		quorum_core_configured(q, machines);
		quorum_core_quorate(q, e->quorate, e->ring);
		break;
	case EV_LOST:
		quorum_core_lost(q, e->why);
		break;
	}
}

static void drain(void *arg) /* on the executor */
{
	struct chan *c = arg;
	struct ts_list *n;

	pthread_mutex_lock(&c->mutex);
	c->posted = false;
	while (!c->closed && (n = ts_list_pop_front(&c->to_core))) {
		c->nto_core--;
		pthread_mutex_unlock(&c->mutex);
		to_core(c->q, ts_list_entry(n, struct ev, link));
		ts_free(ts_list_entry(n, struct ev, link));
		pthread_mutex_lock(&c->mutex);
	}
	chan_unref(c);
}

void chan_post(struct chan *c)
{
	if (c->posted || c->closed || ts_list_empty(&c->to_core))
		return;
	if (ts_exec_post(c->exec, drain, c) == 0) { /* else the thread's next turn tries again */
		c->posted = true;
		c->refs++;
	}
}

struct ev *ev_new(enum ev_kind kind, size_t len)
{
	struct ev *e = ts_alloc(sizeof(*e) + len);

	if (e)
		e->kind = kind;
	return e;
}

/* A lost event would make this node's order differ from the others': without room or memory the node is out. */
void ev_put(struct chan *c, struct ev *e)
{
	pthread_mutex_lock(&c->mutex);
	if (!e || c->nto_core >= TO_CORE_MAX) {
		ts_free(e);
		c->overflow = true;
	} else if (!c->overflow) {
		ts_list_push_back(&c->to_core, &e->link);
		c->nto_core++;
	} else {
		ts_free(e);
	}
	chan_post(c);
	pthread_mutex_unlock(&c->mutex);
}

void chan_wake(struct chan *c)
{
	if (write(c->evfd, &(uint64_t){1}, 8) < 0)
		TS_ASSERT(errno == EAGAIN);
}

int chan_mcast(void *arg, const void *msg, size_t len)
{
	struct chan *c = arg;
	struct ev *e;

	pthread_mutex_lock(&c->mutex);
	e = c->nto_cpg < TO_CPG_MAX ? ev_new(EV_MSG, len) : NULL;
	if (e) {
		memcpy(e->data, msg, len);
		e->len = len;
		ts_list_push_back(&c->to_cpg, &e->link);
		c->nto_cpg++;
	}
	pthread_mutex_unlock(&c->mutex);
	if (!e)
		return -EAGAIN;
	chan_wake(c);
	return 0;
}

void chan_leave(void *arg)
{
	struct chan *c = arg;

	pthread_mutex_lock(&c->mutex);
	c->leave = true;
	pthread_mutex_unlock(&c->mutex);
	chan_wake(c);
}
