/* SPDX-License-Identifier: Apache-2.0 */
/* A simulated daemon: wires quorum, net, disks and fs as tesserad does, mounts, and runs the clients. */
#include "tests/sim/sim.h"
#include <stdio.h>

static uint64_t env_now(void *arg)
{
	struct sim_node *n = arg;
	return n->sim->now + n->clock_offset;
}

static uint64_t env_wall(void *arg)
{
	struct sim_node *n = arg;
	return 1700000000 * TS_NS_PER_S + n->sim->now;
}

static uint64_t env_random(void *arg)
{
	return sim_random(((struct sim_node *)arg)->sim);
}

static const struct ts_env_ops env_ops = {env_now, env_wall, env_random};
const struct ts_env_ops *const sim_env_ops = &env_ops;

static uint64_t key_of(void *arg, unsigned node, uint64_t incarnation)
{
	return ((uint64_t)node << 48) | quorum_incarnation_counter(incarnation);
}

static void on_view(void *arg, const struct quorum_view *v)
{
	struct sim_life *l = arg;
	bool present[SIM_NODES + 1] = {false};
	for (unsigned i = 0; i < v->nmembers; i++) {
		unsigned id = v->members[i].node;
		if (id == l->node->id)
			continue;
		present[id] = true;
		if (l->peers[id] == v->members[i].incarnation)
			continue;
		if (l->peers[id])
			net_peer_drop(l->net, id);
		l->peers[id] = v->members[i].incarnation;
		net_peer_set(l->net, id, v->members[i].incarnation, v->members[i].addr, v->members[i].port);
	}
	for (unsigned id = 1; id <= SIM_NODES; id++)
		if (l->peers[id] && !present[id]) {
			net_peer_drop(l->net, id);
			l->peers[id] = 0;
		}
	l->node->sim->halves += v->quorate && v->nmembers * 2 == l->node->sim->nnodes;
	sim_say(l->node->sim, "n%u view %llu members %u %s", l->node->id, (unsigned long long)v->number, v->nmembers, v->quorate ? "quorate" : "-");
	ts_cond_broadcast(&l->changed);
}

/* Who was a member and is none any more is dead, also when all others forgot the group and found only its log. */
static void deaths(struct sim *s, const struct quorum_group_view *g)
{
	for (unsigned id = 1; id <= s->nnodes; id++) {
		struct sim_life *l = sim_life(s, id);
		bool in = false, pending = false;
		for (unsigned i = 0; l && i < g->nmembers; i++)
			in |= g->members[i].node == id && g->members[i].incarnation == l->incarnation;
		for (unsigned i = 0; l && i < g->npending; i++)
			pending |= g->pending[i].node == id && g->pending[i].incarnation == l->incarnation;
		if (in && !l->member_since)
			l->member_since = g->epoch;
		else if (pending || (l && !in && l->member_since && g->epoch > l->member_since && !l->unmount))
			sim_work_life_dead(l);
	}
}

static void on_group(void *arg, const struct quorum_group_view *g)
{
	struct sim_life *l = arg;
	sim_say(l->node->sim, "n%u group epoch %llu members %u pending %u", l->node->id, (unsigned long long)g->epoch, g->nmembers, g->npending);
	if (g->quorate)
		deaths(l->node->sim, g);
	if (l->fs)
		fs_group_view(l->fs, g);
	ts_cond_broadcast(&l->changed);
}

static void on_excluded(void *arg, const char *why)
{
	struct sim_life *l = arg;
	sim_say(l->node->sim, "n%u excluded: %s", l->node->id, why);
	l->excluded = true; /* the world takes the process down after this step */
	if (l->fs)
		fs_excluded(l->fs, why);
}

static void on_suspended(void *arg, bool suspended)
{
	struct sim_life *l = arg;
	sim_say(l->node->sim, "n%u %s", l->node->id, suspended ? "suspended" : "resumed");
	if (l->fs)
		fs_suspend(l->fs, suspended);
	ts_cond_broadcast(&l->changed);
}

static void persist(void *arg, const struct quorum_durable *d)
{
	((struct sim_life *)arg)->node->durable = *d;
}

static void on_tie(void *arg, const struct quorum_tie *t)
{
	((struct sim_life *)arg)->node->tie = *t;
}

/* The disk of the tiebreaker, and the first who can makes the cluster agree on it. */
static void tie_fiber(void *arg)
{
	struct sim_life *l = arg;
	struct sim *s = l->node->sim;
	static const uint8_t cluster[16];
	struct quorum_tie_disk *t;
	struct quorum_info i;
	int rc;
	while ((rc = quorum_tie_disk_open(l->tie_dev, cluster, s->tie_uuid, &t))) {
		if (rc != -EIO && rc != -ENOMEM) { /* a power failure of everything, or no memory for a while */
			sim_fail(s, "n%u: the tiebreaker cannot be opened: %d", l->node->id, rc);
			return;
		}
		ts_sleep_until(ts_exec_now(l->x) + 100 * TS_NS_PER_MS);
	}
	quorum_tie_disk_use(l->quorum, t);
	for (;;) {
		quorum_info_get(l->quorum, &i);
		if (i.agreed.url[0])
			return;
		if (quorum_tie_set(l->quorum, s->tie_uuid, nsd_url(l->tie_dev)))
			sim_say(s, "n%u: no majority to choose a tiebreaker yet", l->node->id);
		ts_sleep_until(ts_exec_now(l->x) + 200 * TS_NS_PER_MS);
	}
}

int sim_disk_register(struct sim_life *l, struct nsd_dev *dev)
{
	uint64_t key = key_of(NULL, l->node->id, l->incarnation);
	int rc = nsd_pr_register(dev, key);
	return rc ? rc : nsd_pr_reserve(dev, key);
}

static int register_keys(struct sim_life *l, struct nsd_dev *given[], unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		int rc = given[i] ? sim_disk_register(l, given[i]) : 0;
		if (rc)
			return rc;
	}
	return 0;
}

static void mount_fiber(void *arg)
{
	struct sim_life *l = arg;
	struct sim *s = l->node->sim;
	char err[256] = "";
	while (!quorum_may_write(l->quorum) || !quorum_view_get(l->quorum)->quorate)
		(void)!ts_cond_wait_until(&l->changed, ts_exec_now(l->x) + 100 * TS_NS_PER_MS, "quorum", 0, 0);
	unsigned ndisks = 0;
	int rc = sim_disks_given(l, l->given, TS_ARRAY_LEN(l->given), &ndisks);
	if (rc == 0)
		rc = register_keys(l, l->given, ndisks);
	if (rc) {
		sim_say(s, "n%u keys: %d", l->node->id, rc);
		l->excluded = true;
		return;
	}
	struct fs_mount_args a = {
		.exec = l->x, .disks = l->given, .ndisks = ndisks, .disk_open = sim_disk_joins, .disk_close = sim_disk_leaves, .disk_arg = l, .net = l->net, .quorum = l->quorum,
		.pr_key = key_of(NULL, l->node->id, l->incarnation), .key_of = key_of, .times = quorum_times_default,
		.page_pool_bytes = 4 << 20, .meta_pool_bytes = 4 << 20, .net_group = 7,
	};
	rc = fs_mount(&a, &l->fs, err, sizeof(err));
	if (rc) {
		sim_say(s, "n%u mount: %d %s", l->node->id, rc, err);
		l->excluded = true; /* come back as a new incarnation */
		return;
	}
	sim_say(s, "n%u mounted", l->node->id);
	l->mounted = true;
	for (unsigned i = 0; i < 2; i++) {
		l->clients++;
		TS_ASSERT(ts_fiber_spawn(l->x, "client", sim_work_client, l) == 0);
		if (!s->shared_load)
			continue;
		l->clients++;
		TS_ASSERT(ts_fiber_spawn(l->x, "sharing client", sim_shared_client, l) == 0);
	}
	for (unsigned i = 0; i < 2; i++) {
		l->clients++;
		TS_ASSERT(ts_fiber_spawn(l->x, "lock client", sim_lock_client, l) == 0);
	}
	if (s->disks_load) {
		l->clients++;
		TS_ASSERT(ts_fiber_spawn(l->x, "disks client", sim_disks_client, l) == 0);
	}
	while (!l->unmount || l->clients)
		(void)!ts_cond_wait_until(&l->changed, ts_exec_now(l->x) + 50 * TS_NS_PER_MS, "end", 0, 0);
	sim_ahead_count(l);
	rc = fs_unmount(l->fs, false);
	if (rc != -EBUSY) /* else it is still there: an evicted node's clients leave files open */
		l->fs = NULL;
	l->mounted = false;
	if (rc && (l->evicted || l->excluded)) { /* it was told while it unmounted */
		l->excluded = true;
		return;
	}
	if (rc)
		sim_fail(s, "n%u: clean unmount failed: %d", l->node->id, rc);
	for (unsigned i = 0; i < SIM_DISKS; i++)
		(void)!nsd_pr_unregister(l->devs[i], a.pr_key);
	sim_say(s, "n%u unmounted", l->node->id);
	l->unmounted = true;
}

void sim_node_start(struct sim *s, unsigned id)
{
	struct sim_node *n = &s->nodes[id];
	struct sim_life *l = calloc(1, sizeof(*l));
	TS_ASSERT(l && !n->life);
	if (!n->machine_up) {
		n->machine_up = true;
		sim_ring_reach_changed(s);
	}
	n->life = l;
	l->node = n;
	l->alive = true;
	l->incarnation = quorum_incarnation_make(id, ++n->last_incarnation);
	l->pid = 1000 * id + ++n->next_pid;
	l->env = (struct ts_env){&env_ops, n};
	l->x = ts_exec_new(&l->env);
	TS_ASSERT(l->x);
	ts_cond_init(&l->changed);
	l->net = sim_net_open(l);
	for (unsigned i = 0; i < SIM_DISKS; i++)
		l->devs[i] = sim_disk_open(l, i);
	struct quorum_core_args q = {
		.exec = l->x, .self = id, .incarnation = l->incarnation, .addr = "sim", .port = 1, .times = quorum_times_default,
		.events = {on_view, on_group, on_excluded, on_suspended, l, on_tie}, .carrier = sim_ring_carrier(l),
		.durable = n->durable, .persist = persist, .tie = n->tie,
	};
	l->quorum = quorum_core_new(&q);
	TS_ASSERT(l->net && l->quorum);
	sim_say(s, "n%u starts, incarnation %llu", id, (unsigned long long)n->last_incarnation);
	sim_ring_join(l);
	if (s->tie_uuid[0]) { /* not nnodes: it is another one while the world is checked */
		l->tie_dev = sim_disk_open(l, SIM_TIE);
		TS_ASSERT(ts_fiber_spawn(l->x, "tiebreaker", tie_fiber, l) == 0);
	}
	TS_ASSERT(ts_fiber_spawn(l->x, "mount", mount_fiber, l) == 0);
}

void sim_node_crash(struct sim *s, unsigned id, bool machine)
{
	struct sim_life *l = sim_life(s, id);
	if (!l)
		return;
	sim_say(s, "n%u %s", id, machine ? "loses power" : "daemon dies");
	l->alive = false;
	s->nodes[id].life = NULL;
	s->crashes++;
	sim_work_life_dead(l);
	sim_disks_life_dead(l);
	sim_net_life_dead(l);
	sim_ring_exit(l, machine);
	ts_exec_kill(l->x);
	sim_ahead_count(l);
	if (l->fs)
		fs_kill(l->fs);
	quorum_core_kill(l->quorum);
	net_close(l->net);
	/* The executor and devices stay: requests on their way refer to them. A child process runs few seeds. */
}
