/* SPDX-License-Identifier: Apache-2.0 */
/* tesserad: one per node; wires the parts and lives until a signal, its exclusion, or corosync's death.
 *
 *   start: configuration -> incarnation made durable -> net -> quorum (joins) -> disks -> admin socket -> "ready"
 *          a configuration or directory that must be changed by somebody: status 78; what may come right by itself: status 1
 *   stop:  mounts ended cleanly -> quorum left -> net closed
 *   out:   I/O stopped, mounts answer EIO, the process ends with status 75 and comes back as a new incarnation
 *
 * Must never happen: joining with an incarnation that is not durable; a write after exclusion. */
#include "admin/daemon.h"
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

static void node_event(struct daemon *d, enum event_id id, unsigned node, uint64_t incarnation)
{
	char object[24];
	snprintf(object, sizeof(object), "node %u", node);
	event_post(d, id, object, "incarnation %llu", (unsigned long long)incarnation);
}

static void on_view(void *arg, const struct quorum_view *v)
{
	struct daemon *d = arg;
	bool present[TS_ARRAY_LEN(d->view_seen)] = {false};
	for (unsigned i = 0; i < v->nmembers; i++) {
		const struct quorum_member *m = &v->members[i];
		if (m->node >= TS_ARRAY_LEN(d->view_seen) || m->node == d->conf.node_id)
			continue;
		present[m->node] = true;
		if (d->view_seen[m->node] == m->incarnation)
			continue;
		if (d->view_seen[m->node])
			net_peer_drop(d->net, m->node);
		node_event(d, EV_NODE_JOINED, m->node, m->incarnation);
		d->view_seen[m->node] = m->incarnation;
		net_peer_set(d->net, m->node, m->incarnation, m->addr, m->port);
	}
	for (unsigned n = 0; n < TS_ARRAY_LEN(d->view_seen); n++)
		if (d->view_seen[n] && !present[n]) {
			node_event(d, EV_NODE_LEFT, n, d->view_seen[n]);
			net_peer_drop(d->net, n);
			d->view_seen[n] = 0;
		}
	bool quorate = v->quorate && v->nmembers;
	if (quorate != d->quorate)
		event_post(d, quorate ? EV_QUORUM_BACK : EV_QUORUM_LOST, d->conf.cluster_name, "view %llu of %u members", (unsigned long long)v->number, v->nmembers);
	d->quorate = quorate;
	ts_notice("view %llu: %u members, %s", (unsigned long long)v->number, v->nmembers, v->quorate ? "quorate" : "not quorate");
	struct quorum_info i = {0};
	if (d->quorum) /* else it is being opened */
		quorum_info_get(d->quorum, &i);
	if (v->quorate && i.by == QUORUM_BY_TIE)
		ts_notice("event: view %llu is half of the nodes: the tiebreaker let them go on", (unsigned long long)v->number);
	if (v->quorate && i.by == QUORUM_BY_FORCE)
		ts_warn("event: view %llu is no majority: an operator has vouched that the others are dead", (unsigned long long)v->number);
	ts_cond_broadcast(&d->changed);
}

/* Without this on stable storage the node must not go on: a restarted daemon would deny what it had promised. */
static void on_persist(void *arg, const struct quorum_durable *q)
{
	struct daemon *d = arg;
	const uint64_t v[CONF_DURABLE] = {q->promised, q->accepted, q->accepted_idx};
	int rc = conf_durable_store(&d->conf, v);
	if (rc)
		TS_PANIC("%s/view: %s; membership cannot be remembered, free or repair that file system", d->conf.state_dir, strerror(-rc));
}

static void on_group(void *arg, const struct quorum_group_view *g)
{
	struct daemon *d = arg;
	struct mount *m = mount_by_group(d, g->group);
	if (m && m->fs)
		fs_group_view(m->fs, g);
	ts_cond_broadcast(&d->changed);
}

static void daemon_out(struct daemon *d, const char *why)
{
	if (d->excluded)
		return;
	d->excluded = true;
	event_post(d, EV_EXCLUDED, "this node", "%s", why);
	ts_err("node %u: out of the cluster: %s; all I/O stops, tesserad ends and may start again as a new incarnation", d->conf.node_id, why);
	ts_list_for(l, &d->mounts) {
		struct mount *m = ts_list_entry(l, struct mount, link);
		if (m->fs)
			fs_excluded(m->fs, why);
		if (m->tf)
			tfuse_abort(m->tf);
	}
	d->exit_code = EXIT_EXCLUDED;
	ts_loop_stop(d->loop);
}

static void on_excluded(void *arg, const char *why)
{
	daemon_out(arg, why);
}

static void on_suspended(void *arg, bool suspended)
{
	struct daemon *d = arg;
	event_post(d, suspended ? EV_LEASE_LOST : EV_LEASE_BACK, "this node", "%s", suspended ? "operations wait" : "operations go on");
	ts_notice("node %u: %s", d->conf.node_id, suspended ? "no lease: operations wait" : "lease held: operations go on");
	ts_list_for(l, &d->mounts) {
		struct mount *m = ts_list_entry(l, struct mount, link);
		if (m->fs)
			fs_suspend(m->fs, suspended);
	}
	ts_cond_broadcast(&d->changed);
}

static void stop_fiber(void *arg)
{
	struct daemon *d = arg;
	mounts_stop_all(d);
	server_close(d);
	metrics_close(d);
	disks_close_all(d);
	ts_loop_stop(d->loop);
}

static void on_signal(void *arg, uint32_t events)
{
	struct daemon *d = arg;
	if (d->stopping)
		return;
	d->stopping = true;
	service_stopping();
	ts_notice("node %u: stopping", d->conf.node_id);
	event_post(d, EV_STOPPING, "this node", "told by a signal");
	ts_cond_broadcast(&d->events->more);
	ts_cond_broadcast(&d->changed);
	if (ts_fiber_spawn(d->exec, "stop", stop_fiber, d))
		ts_loop_stop(d->loop);
}

static void cluster_id(struct daemon *d)
{
	le64 a = le64_make(ts_csum64(d->conf.cluster_name, strlen(d->conf.cluster_name), 1));
	le64 b = le64_make(ts_csum64(d->conf.cluster_name, strlen(d->conf.cluster_name), 2));
	memcpy(d->cluster_id, &a, 8);
	memcpy(d->cluster_id + 8, &b, 8);
}

/* The daemon is in the write-back path of its own machine: it must not wait for memory that only it can free. */
static void harden(void)
{
	struct rlimit nofile = {65536, 65536};
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0))
		ts_warn("PR_SET_IO_FLUSHER refused (%s): memory pressure may slow write-back", strerror(errno));
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT))
		ts_warn("mlockall refused (%s): the daemon may be paged out", strerror(errno));
	if (setrlimit(RLIMIT_NOFILE, &nofile))
		ts_warn("open file limit not raised: %s", strerror(errno));
}

static int start(struct daemon *d, char *errmsg, size_t errlen)
{
	const struct ts_env *env = ts_exec_env(d->exec);
	if ((mkdir(d->conf.state_dir, 0700) && errno != EEXIST) || (mkdir(d->conf.run_dir, 0755) && errno != EEXIST)) {
		int err = errno;
		snprintf(errmsg, errlen, "state_dir or run_dir cannot be made: %s", strerror(err));
		return -err;
	}
	int rc = privilege_dir_check(d->conf.state_dir, errmsg, errlen);
	if (rc == 0)
		rc = privilege_dir_check(d->conf.run_dir, errmsg, errlen);
	if (rc == 0)
		rc = conf_incarnation_next(&d->conf, ts_wall_ns(env), &d->incarnation, errmsg, errlen);
	if (rc)
		return rc;
	struct net_tcp_args n = {.exec = d->exec, .self_node = d->conf.node_id, .incarnation = d->incarnation, .key = d->conf.key,
				 .bind_addr = "0.0.0.0", .port = d->conf.port, .encrypt = d->conf.encrypt};
	rc = net_tcp_open(&n, &d->net, errmsg, errlen);
	if (rc)
		return rc;
	rc = key_rotate_open(d, errmsg, errlen);
	if (rc)
		return rc;
	peers_open(d);
	uint64_t v[CONF_DURABLE];
	conf_durable_load(&d->conf, v);
	struct quorum_cs_args q = {
		.exec = d->exec, .cluster_name = d->conf.cluster_name, .incarnation = d->incarnation,
		.peer_port = (uint16_t)d->conf.port, .times = conf_times(&d->conf),
		.durable = {v[0], v[1], v[2]}, .persist = on_persist,
		.events = {on_view, on_group, on_excluded, on_suspended, d, tie_agreed},
	};
	tie_load(d, &q.tie);
	rc = quorum_cs_open(&q, &d->quorum, errmsg, errlen);
	if (rc)
		return rc;
	if (quorum_self(d->quorum) != d->conf.node_id) {
		snprintf(errmsg, errlen, "node_id %u: corosync calls this node %u; make the two agree", d->conf.node_id, quorum_self(d->quorum));
		return -EINVAL;
	}
	rc = disks_open_all(d);
	if (rc == 0)
		rc = tie_start(d);
	if (rc == 0)
		rc = server_open(d, errmsg, errlen);
	if (rc == 0)
		rc = health_open(d);
	char why[256];
	if (rc == 0 && metrics_open(d, d->conf.metrics, why, sizeof(why)))
		ts_warn("%s; the daemon goes on without", why);
	return rc;
}

static int events_open(struct daemon *d)
{
	d->events = ts_alloc(sizeof(*d->events));
	if (!d->events)
		return -ENOMEM;
	ts_cond_init(&d->events->more);
	event_post(d, EV_STARTED, "this node", "version %s", TESSERA_VERSION);
	return hooks_open(d);
}

/* Before the first thread: one that does not block them is who the kernel gives them to, and they end the process then and there. */
static sigset_t signals_block(void)
{
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, SIGTERM);
	sigaddset(&s, SIGINT);
	sigprocmask(SIG_BLOCK, &s, NULL);
	signal(SIGPIPE, SIG_IGN);
	return s;
}

static int signals_watch(struct daemon *d, const sigset_t *s)
{
	int fd = signalfd(-1, s, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? -errno : ts_loop_fd_add(d->loop, fd, EPOLLIN | EPOLLET, on_signal, d);
}

static int usage(int rc)
{
	fprintf(rc ? stderr : stdout, "usage: tesserad [-f] -c CONFIGURATION\n"
				      "  -c, --config FILE   configuration (default /etc/tessera/tesserad.conf)\n"
				      "  -f, --foreground    stay in the foreground (the default; kept for scripts)\n"
				      "  -V, --version       print the version\n");
	return rc;
}

struct boot {
	struct daemon *d;
	int rc;
	char errmsg[512];
};

static void boot_fiber(void *arg)
{
	struct boot *b = arg;
	b->rc = start(b->d, b->errmsg, sizeof(b->errmsg));
	if (b->rc) {
		b->d->exit_code = b->rc == -EINVAL || b->rc == -EPERM ? EXIT_CONFIG : 1;
		fprintf(stderr, "tesserad: %s\n", b->errmsg[0] ? b->errmsg : strerror(-b->rc));
		ts_loop_stop(b->d->loop);
		return;
	}
	ts_notice("node %u: incarnation %llu of cluster %s", b->d->conf.node_id, (unsigned long long)b->d->incarnation, b->d->conf.cluster_name);
	service_ready(b->d);
}

static int run(const char *path)
{
	static struct daemon d;
	static struct boot b;
	char errmsg[512];
	if (conf_load(path, &d.conf, errmsg, sizeof(errmsg))) {
		fprintf(stderr, "tesserad: %s\n", errmsg);
		return EXIT_CONFIG;
	}
	/* All three before the first thread, which libqb's log is. */
	sigset_t sigs = signals_block();
	harden();
	int rc = privilege_drop(&d.conf);
	if (rc) {
		fprintf(stderr, "tesserad: root's power cannot be given away: %s\n", strerror(-rc));
		return 1;
	}
	ts_log_open("tesserad", (enum ts_log_level)d.conf.log_level, !service_has_journal());
	if (d.conf.fault_points)
		ts_notice("%s: fault_points = yes: root may hold up and break the mounts of this node; for tests only", path);
	d.listen_fd = -1;
	d.out = daemon_out;
	ts_list_init(&d.disks);
	ts_list_init(&d.mounts);
	ts_cond_init(&d.changed);
	ts_mutex_init(&d.mount_lock);
	cluster_id(&d);
	d.exec = ts_exec_new(&ts_env_real);
	d.loop = d.exec ? ts_loop_new(d.exec) : NULL;
	snprintf(d.conf_path, sizeof(d.conf_path), "%s", path);
	if (!d.loop || events_open(&d) || signals_watch(&d, &sigs)) {
		fprintf(stderr, "tesserad: cannot start: %s\n", strerror(errno));
		return 1;
	}
	d.started_ns = ts_exec_now(d.exec);
	b.d = &d;
	if (ts_fiber_spawn(d.exec, "start", boot_fiber, &b))
		return 1;
	ts_loop_run(d.loop);
	if (d.quorum && !d.excluded)
		quorum_close(d.quorum);
	if (d.net)
		net_close(d.net);
	return d.exit_code;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {{"config", required_argument, NULL, 'c'}, {"foreground", no_argument, NULL, 'f'},
					      {"version", no_argument, NULL, 'V'},	{"help", no_argument, NULL, 'h'},
					      {0}};
	const char *path = "/etc/tessera/tesserad.conf";
	int o;
	if (argc > 2 && !strcmp(argv[1], HOOK_ARG))
		return hooks_child(argc - 2, argv + 2);
	while ((o = getopt_long(argc, argv, "c:fVh", longs, NULL)) != -1)
		switch (o) {
		case 'c':
			path = optarg;
			break;
		case 'f':
			break;
		case 'V':
			printf("tesserad %s\n", TESSERA_VERSION);
			return 0;
		case 'h':
			return usage(0);
		default:
			return usage(2);
		}
	return optind < argc ? usage(2) : run(path);
}
