/* SPDX-License-Identifier: Apache-2.0 */
/* Job: carries the core over corosync: a thread that polls CPG and quorum and calls their libraries (which may block), a
 * queue each way to the executor. Must never happen: a library call on the executor; an event lost or out of order between
 * corosync and the core; corosync's death unnoticed. */
#include "quorum/cs_int.h"

#include <corosync/cpg.h>
#include <corosync/quorum.h>
#include <corosync/votequorum.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define CLOSE_SECONDS 3

struct cs {
	struct chan *ch;
	pthread_t thread;
	cpg_handle_t cpg;
	quorum_handle_t quorum;
	votequorum_handle_t vq;
	struct cpg_name group;
	unsigned self;
	uint64_t ring;
	bool have_ring, joined, lost, warned;
	struct quorum_ring_member members[CPG_MEMBERS_MAX];
	size_t nmembers;
};

static void put_lost(struct cs *cs, const char *what, cs_error_t rc)
{
	static const char overflow[] = "the executor did not take the carrier's events (stalled, or out of memory)";
	struct ev *e;

	if (cs->lost)
		return;
	while (!(e = ev_new(EV_LOST, 0)))
		usleep(10000);
	cs->lost = true;
	if (rc)
		snprintf(e->why, sizeof(e->why), "corosync is gone (%s: %s)", what, cs_strerror(rc));
	else
		snprintf(e->why, sizeof(e->why), "%s", what ? what : overflow);
	pthread_mutex_lock(&cs->ch->mutex);
	ts_list_push_back(&cs->ch->to_core, &e->link);
	cs->ch->nto_core++;
	chan_post(cs->ch);
	pthread_mutex_unlock(&cs->ch->mutex);
}

/* ---- corosync's callbacks, on the thread ------------------------------------------------------------------------------ */

static uint64_t ring_of(uint32_t nodeid, uint64_t seq)
{
	return seq << 10 | (nodeid & 1023);
}

static void copy_list(struct quorum_ring_member *to, const struct quorum_ring_member *from, size_t n)
{
	if (n)
		memcpy(to, from, n * sizeof(*to));
}

static void put_conf(struct cs *cs, const struct quorum_ring_member *m, size_t nm, const struct quorum_ring_member *l, size_t nl,
		     bool exited, const struct quorum_ring_member *j, size_t nj)
{
	struct ev *e = ev_new(EV_CONF, (nm + nl + nj) * sizeof(*m));

	if (e) {
		e->m = (struct quorum_ring_member *)e->data;
		e->l = e->m + nm;
		e->j = e->l + nl;
		copy_list(e->m, m, nm);
		copy_list(e->l, l, nl);
		copy_list(e->j, j, nj);
		e->nm = nm;
		e->nl = nl;
		e->nj = nj;
		e->exited = exited;
		e->ring = cs->ring;
	}
	ev_put(cs->ch, e);
}

static void on_deliver(cpg_handle_t h, const struct cpg_name *g, uint32_t node, uint32_t pid, void *msg, size_t len)
{
	struct cs *cs = NULL;
	struct ev *e;

	cpg_context_get(h, (void **)&cs);
	e = ev_new(EV_MSG, len);
	if (e) {
		e->node = node;
		e->pid = pid;
		e->len = len;
		memcpy(e->data, msg, len);
	}
	ev_put(cs->ch, e);
}

/* A daemon that died or left under a living corosync holds no lease; one that went with its node may. */
static void on_confchg(cpg_handle_t h, const struct cpg_name *g, const struct cpg_address *m, size_t nm,
		       const struct cpg_address *l, size_t nl, const struct cpg_address *j, size_t nj)
{
	struct quorum_ring_member mid[2 * CPG_MEMBERS_MAX], end[CPG_MEMBERS_MAX], ex[CPG_MEMBERS_MAX], lost[CPG_MEMBERS_MAX],
		join[CPG_MEMBERS_MAX];
	struct cs *cs = NULL;
	size_t nend = 0, nex = 0, nlost = 0, nmid = 0, njoin = 0;

	cpg_context_get(h, (void **)&cs);
	for (size_t i = 0; i < nm; i++)
		end[nend++] = (struct quorum_ring_member){m[i].nodeid, m[i].pid};
	for (size_t i = 0; i < nj; i++)
		join[njoin++] = (struct quorum_ring_member){j[i].nodeid, j[i].pid};
	for (size_t i = 0; i < nl; i++) {
		struct quorum_ring_member who = {l[i].nodeid, l[i].pid};

		if (l[i].reason == CPG_REASON_PROCDOWN || l[i].reason == CPG_REASON_LEAVE)
			ex[nex++] = who;
		else
			lost[nlost++] = who;
	}
	if (nex && nlost) { /* both kinds at once: first those that ended */
		for (size_t i = 0; i < cs->nmembers; i++) {
			bool gone = false;

			for (size_t k = 0; k < nex; k++)
				gone |= ex[k].node == cs->members[i].node && ex[k].pid == cs->members[i].pid;
			if (!gone)
				mid[nmid++] = cs->members[i];
		}
		put_conf(cs, mid, nmid, ex, nex, true, NULL, 0);
		nex = 0;
	}
	memcpy(cs->members, end, nend * sizeof(end[0]));
	cs->nmembers = nend;
	cs->joined = true;
	put_conf(cs, end, nend, nex ? ex : lost, nex ? nex : nlost, nex != 0, join, njoin);
}

/* The number of a new ring comes before its changes of membership, and alone if there are none. */
static void on_totem(cpg_handle_t h, struct cpg_ring_id id, uint32_t n, const uint32_t *list)
{
	struct cs *cs = NULL;
	uint64_t ring = ring_of(id.nodeid, id.seq);

	cpg_context_get(h, (void **)&cs);
	if (cs->have_ring && ring == cs->ring)
		return;
	cs->ring = ring;
	cs->have_ring = true;
	if (cs->joined)
		put_conf(cs, cs->members, cs->nmembers, NULL, 0, false, NULL, 0);
}

/* Whatever else decides between two halves there must not be beside the tiebreaker. */
#define OTHER_ARBITERS                                                                                               \
	(VOTEQUORUM_INFO_AUTO_TIE_BREAKER | VOTEQUORUM_INFO_LAST_MAN_STANDING | VOTEQUORUM_INFO_ALLOW_DOWNSCALE |    \
	 VOTEQUORUM_INFO_QDEVICE_REGISTERED | VOTEQUORUM_INFO_QDEVICE_CAST_VOTE)

/* How many daemons a quorate view needs, and of how many votes in all. One vote per node is what leases are reasoned with. */
static void count_votes(struct cs *cs, struct ev *e, uint32_t ring_members)
{
	struct votequorum_info vi;
	uint32_t n;

	if (votequorum_getinfo(cs->vq, cs->self, &vi) != CS_OK) {
		e->needed = QUORUM_MAX_NODES; /* unknown: not quorate */
		return;
	}
	n = vi.quorum;
	if (vi.flags & VOTEQUORUM_INFO_QDEVICE_CAST_VOTE)
		n -= TS_MIN(n, vi.qdevice_votes);
	n = TS_MIN(n, ring_members);
	if ((vi.flags & VOTEQUORUM_INFO_TWONODE) && !(vi.flags & VOTEQUORUM_INFO_QDEVICE_CAST_VOTE)) {
		n = 2;
		e->quorate &= ring_members > 1; /* for two_node both halves are */
	}
	e->needed = TS_MAX(n, 1u);
	if (!(vi.flags & OTHER_ARBITERS) && vi.node_votes == 1)
		e->expected = vi.highest_expected;
	if (!cs->warned && vi.node_votes != 1)
		ts_warn("quorum: node %u has %u votes in corosync.conf: leases count one vote per node, and a tiebreaker is not used", cs->self,
			vi.node_votes);
	if (!cs->warned && !e->expected && vi.highest_expected % 2 == 0)
		ts_notice("quorum: corosync decides even splits itself (flags %#x): a tiebreaker is not used", vi.flags);
	cs->warned = true;
}

static void on_quorum(quorum_handle_t h, uint32_t quorate, struct quorum_ring_id id, uint32_t n, const uint32_t *list)
{
	uint64_t bits[Q_NODE_IDS / 64] = {0};
	const void *ctx = NULL;
	struct cs *cs;
	struct ev *e;

	quorum_context_get(h, &ctx);
	cs = (struct cs *)ctx;
	e = ev_new(EV_QUORATE, 2 * sizeof(bits));
	for (uint32_t i = 0; i < n; i++)
		if (list[i] < Q_NODE_IDS)
			bits[list[i] / 64] |= 1ULL << list[i] % 64;
	if (e) {
		memcpy(e->data, bits, sizeof(bits));
		cs_nodelist_get(bits);
		memcpy(e->data + sizeof(bits), bits, sizeof(bits));
		e->quorate = quorate;
		e->ring = ring_of(id.nodeid, id.seq);
		e->expected = 0;
		count_votes(cs, e, n);
	}
	ev_put(cs->ch, e);
}

static void on_nodelist(quorum_handle_t h, struct quorum_ring_id id, uint32_t nm, const uint32_t *m, uint32_t nj,
			const uint32_t *j, uint32_t nl, const uint32_t *l)
{
	/* Who the machines are does not matter here: daemons are counted, by CPG. */
}

/* ---- the thread --------------------------------------------------------------------------------------------------------- */

/* Sends what is queued. true = try again soon. */
static bool send_queued(struct cs *cs)
{
	struct chan *c = cs->ch;
	struct ts_list *n;
	cs_error_t rc;

	for (;;) {
		struct iovec iov;
		struct ev *e;

		pthread_mutex_lock(&c->mutex);
		n = ts_list_empty(&c->to_cpg) ? NULL : c->to_cpg.next; /* only this thread takes from it */
		pthread_mutex_unlock(&c->mutex);
		if (!n)
			return false;
		e = ts_list_entry(n, struct ev, link);
		iov = (struct iovec){e->data, e->len};
		rc = cpg_mcast_joined(cs->cpg, CPG_TYPE_AGREED, &iov, 1);
		if (rc == CS_ERR_TRY_AGAIN)
			return true;
		if (rc != CS_OK) {
			put_lost(cs, "cpg_mcast_joined", rc);
			return false;
		}
		pthread_mutex_lock(&c->mutex);
		ts_list_del(n);
		c->nto_cpg--;
		pthread_mutex_unlock(&c->mutex);
		ts_free(e);
	}
}

static bool bad(cs_error_t rc)
{
	return rc != CS_OK && rc != CS_ERR_TRY_AGAIN;
}

static void dispatch(struct cs *cs, const struct pollfd *p)
{
	uint64_t n;
	cs_error_t rc;

	if (p[0].revents && read(p[0].fd, &n, sizeof(n)) < 0)
		TS_ASSERT(errno == EAGAIN);
	if (p[1].revents && bad(rc = cpg_dispatch(cs->cpg, CS_DISPATCH_ALL)))
		put_lost(cs, "cpg_dispatch", rc);
	if (p[2].revents && bad(rc = quorum_dispatch(cs->quorum, CS_DISPATCH_ALL)))
		put_lost(cs, "quorum_dispatch", rc);
	for (unsigned i = 1; i < 3; i++)
		if (p[i].revents & (POLLHUP | POLLERR | POLLNVAL))
			put_lost(cs, "connection", CS_ERR_LIBRARY);
}

static bool wants_end(struct cs *cs)
{
	struct chan *c = cs->ch;
	bool leave, closed, overflow;

	pthread_mutex_lock(&c->mutex);
	leave = c->leave;
	closed = c->closed;
	overflow = c->overflow;
	c->leave = false;
	chan_post(c);
	pthread_mutex_unlock(&c->mutex);
	if (overflow)
		put_lost(cs, NULL, 0);
	if (leave && !cs->lost)
		(void)cpg_leave(cs->cpg, &cs->group); /* politeness: the connection's end says the same */
	return closed;
}

static void disconnect(struct cs *cs)
{
	if (cs->cpg)
		cpg_finalize(cs->cpg);
	if (cs->quorum)
		quorum_finalize(cs->quorum);
	if (cs->vq)
		votequorum_finalize(cs->vq);
}

static void *thread_main(void *arg)
{
	struct cs *cs = arg;
	struct pollfd p[3] = {{.fd = cs->ch->evfd, .events = POLLIN}, {.events = POLLIN}, {.events = POLLIN}};
	bool again = false;

	if (cpg_fd_get(cs->cpg, &p[1].fd) != CS_OK || quorum_fd_get(cs->quorum, &p[2].fd) != CS_OK)
		put_lost(cs, "no descriptor", CS_ERR_LIBRARY);
	while (!wants_end(cs)) {
		/* While the executor's queue of posts is full, or totem takes nothing, look again by time. */
		if (poll(p, cs->lost ? 1 : 3, again ? 2 : 100) < 0)
			continue;
		if (!cs->lost)
			dispatch(cs, p);
		else if (p[0].revents && read(p[0].fd, &(uint64_t){0}, 8) < 0)
			TS_ASSERT(errno == EAGAIN);
		again = !cs->lost && send_queued(cs);
	}
	disconnect(cs);
	pthread_mutex_lock(&cs->ch->mutex);
	chan_unref(cs->ch);
	ts_free(cs);
	return NULL;
}

/* ---- closing and opening ------------------------------------------------------------------------------------------------ */

/* corosync may be stopped under a library call: then the thread is left to itself rather than waited for. */
static void cs_close(void *arg)
{
	struct cs *cs = arg;
	struct chan *c = cs->ch;
	pthread_t th = cs->thread;
	struct timespec until;

	pthread_mutex_lock(&c->mutex);
	c->closed = true;
	c->q = NULL;
	pthread_mutex_unlock(&c->mutex);
	chan_wake(c);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += CLOSE_SECONDS;
	if (pthread_timedjoin_np(th, NULL, &until)) {
		ts_warn("quorum: corosync does not answer: its connection is left behind");
		pthread_detach(th);
	}
	pthread_mutex_lock(&c->mutex);
	chan_unref(c);
}

static int fail(char *errmsg, size_t errlen, const char *what, cs_error_t rc)
{
	snprintf(errmsg, errlen, "corosync: %s: %s", what, cs_strerror(rc));
	return -ENOTCONN;
}

static int connect_all(struct cs *cs, char *errmsg, size_t errlen)
{
	static cpg_model_v1_data_t cb = {.model = CPG_MODEL_V1,
					 .cpg_deliver_fn = on_deliver,
					 .cpg_confchg_fn = on_confchg,
					 .cpg_totem_confchg_fn = on_totem,
					 .flags = CPG_MODEL_V1_DELIVER_INITIAL_TOTEM_CONF};
	static quorum_model_v1_data_t qcb = {
		.model = QUORUM_MODEL_V1, .quorum_notify_fn = on_quorum, .nodelist_notify_fn = on_nodelist};
	uint32_t type = 0;
	cs_error_t rc;

	CS_TRY(rc, cpg_model_initialize(&cs->cpg, CPG_MODEL_V1, (cpg_model_data_t *)&cb, cs));
	if (rc != CS_OK)
		return fail(errmsg, errlen, "process groups (cpg) do not answer", rc);
	CS_TRY(rc, votequorum_initialize(&cs->vq, &(votequorum_callbacks_t){0}));
	if (rc != CS_OK)
		return fail(errmsg, errlen, "votequorum does not answer; set quorum.provider to corosync_votequorum", rc);
	CS_TRY(rc, quorum_model_initialize(&cs->quorum, QUORUM_MODEL_V1, (quorum_model_data_t *)&qcb, &type, cs));
	if (rc != CS_OK || type != QUORUM_SET)
		return fail(errmsg, errlen, "no quorum provider; set quorum.provider to corosync_votequorum", rc);
	CS_TRY(rc, cpg_join(cs->cpg, &cs->group));
	if (rc != CS_OK)
		return fail(errmsg, errlen, "cannot join the cluster's process group", rc);
	CS_TRY(rc, quorum_trackstart(cs->quorum, CS_TRACK_CURRENT | CS_TRACK_CHANGES));
	if (rc != CS_OK)
		return fail(errmsg, errlen, "cannot follow quorum", rc);
	return 0;
}

static int name_group(struct cs *cs, const char *cluster, char *errmsg, size_t errlen)
{
	int n = snprintf(cs->group.value, sizeof(cs->group.value), "tessera:%s", cluster);

	if (n < 0 || (size_t)n >= sizeof(cs->group.value)) {
		snprintf(errmsg, errlen, "cluster name %s is too long for a process group (%zu)", cluster,
			 sizeof(cs->group.value) - sizeof("tessera:"));
		return -ENAMETOOLONG;
	}
	cs->group.length = (uint32_t)n;
	return 0;
}

static int start_thread(struct cs *cs)
{
	sigset_t all, old;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&cs->thread, NULL, thread_main, cs);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -rc;
}

int quorum_cs_open(const struct quorum_cs_args *a, struct quorum **out, char *errmsg, size_t errlen)
{
	struct quorum_core_args ca = {.exec = a->exec,
				      .incarnation = a->incarnation,
				      .port = a->peer_port,
				      .times = a->times,
				      .events = a->events,
				      .healthy = a->healthy,
				      .durable = a->durable,
				      .persist = a->persist,
				      .tie = a->tie};
	struct cs_local local;
	struct quorum *q = NULL;
	struct cs *cs;
	int rc = cs_local_get(&local, errmsg, errlen);

	if (rc)
		return rc;
	cs = ts_alloc(sizeof(*cs));
	if (cs)
		cs->ch = chan_new(a->exec);
	if (!cs || !cs->ch) {
		ts_free(cs);
		snprintf(errmsg, errlen, "out of memory or descriptors");
		return -ENOMEM;
	}
	cs->self = ca.self = local.node;
	memcpy(ca.addr, local.addr, sizeof(ca.addr));
	ca.carrier = (struct quorum_carrier_ops){chan_mcast, chan_leave, cs->ch};
	rc = name_group(cs, a->cluster_name, errmsg, errlen);
	if (!rc)
		rc = connect_all(cs, errmsg, errlen);
	if (!rc) {
		cs->ch->q = q = quorum_core_new(&ca);
		rc = q ? start_thread(cs) : -ENOMEM;
		if (rc)
			snprintf(errmsg, errlen, "out of memory, or incarnation 0, or no thread to be had");
	}
	if (rc) {
		quorum_core_kill(q);
		disconnect(cs);
		pthread_mutex_lock(&cs->ch->mutex);
		cs->ch->refs = 1;
		chan_unref(cs->ch);
		ts_free(cs);
		return rc;
	}
	q->cs = cs;
	q->cs_close = cs_close;
	*out = q;
	return 0;
}
