/* SPDX-License-Identifier: Apache-2.0 */
/* One handler of lock messages per net, several managers (one per mounted file system) behind it, found by
 * the group in the message. Must never happen: a message reaches a manager that is already freed. */
#include "tokens/tokens_int.h"
#include <pthread.h>

struct tok_demux {
	struct ts_list link;
	struct net *net;
	struct ts_list mgrs;
};

/* Nets of different executors may be opened and closed at once; the lists behind one net belong to its
 * executor. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct ts_list nets = TS_LIST_INIT(nets);

static void on_message(void *arg, const struct net_msg *msg)
{
	struct tok_demux *x = arg;
	ts_list_for(n, &x->mgrs)
	{
		struct tok_mgr *m = ts_list_entry(n, struct tok_mgr, peers);
		if (m->a.net_group == msg->group) {
			tok_message(m, msg);
			return;
		}
	}
}

static struct tok_demux *find_or_new(struct net *net)
{
	ts_list_for(n, &nets)
	{
		struct tok_demux *x = ts_list_entry(n, struct tok_demux, link);
		if (x->net == net)
			return x;
	}
	struct tok_demux *x = ts_alloc(sizeof *x);
	if (!x)
		return NULL;
	x->net = net;
	ts_list_init(&x->mgrs);
	ts_list_push_back(&nets, &x->link);
	net_handle(net, DLM_TYPE_CLASS, on_message, x);
	net_handle(net, PLOCK_TYPE_CLASS, on_message, x);
	return x;
}

int tok_demux_add(struct tok_mgr *m)
{
	pthread_mutex_lock(&lock);
	m->demux = find_or_new(m->a.net);
	if (m->demux)
		ts_list_push_back(&m->demux->mgrs, &m->peers);
	pthread_mutex_unlock(&lock);
	return m->demux ? 0 : -ENOMEM;
}

void tok_demux_del(struct tok_mgr *m)
{
	pthread_mutex_lock(&lock);
	ts_list_del(&m->peers);
	if (ts_list_empty(&m->demux->mgrs)) {
		net_handle(m->demux->net, DLM_TYPE_CLASS, NULL, NULL);
		net_handle(m->demux->net, PLOCK_TYPE_CLASS, NULL, NULL);
		ts_list_del(&m->demux->link);
		ts_free(m->demux);
	}
	pthread_mutex_unlock(&lock);
}
