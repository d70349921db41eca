/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the corosync carrier against a real corosync of one node, in a network and mount namespace of its own: a view, a
 * lease, a group, an error that names what is missing, and exclusion when corosync is killed. Skipped without root or
 * corosync. With QUORUM_CS_WATCH=incarnation it joins the corosync it finds and prints what it sees (for tests by hand
 * of several nodes). */
#include "quorum/quorum_int.h"

#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static struct ts_exec *x;
static struct ts_loop *loop;
static struct quorum *q;
static struct ts_timer timer;
static pid_t corosync;
static unsigned step, persisted;
static bool excluded, suspended = true, watch;
static uint64_t epoch, view;

static void on_view(void *arg, const struct quorum_view *v)
{
	view = v->quorate ? v->number : 0;
	printf("%.3f view %lu quorate %d members", (double)ts_exec_now(x) / 1e9, v->number, v->quorate);
	for (unsigned i = 0; i < v->nmembers; i++)
		printf(" %u.%lu@%s:%u", v->members[i].node, v->members[i].incarnation, v->members[i].addr, v->members[i].port);
	printf("\n");
}

static void on_group(void *arg, const struct quorum_group_view *g)
{
	epoch = g->epoch;
	printf("%.3f group epoch %#lx members %u pending", (double)ts_exec_now(x) / 1e9, g->epoch, g->nmembers);
	for (unsigned i = 0; i < g->npending; i++)
		printf(" %u.%lu(lease ends in %.0f ms)", g->pending[i].node, g->pending[i].incarnation,
		       (double)(int64_t)(quorum_dead_lease_end_ns(q, g->pending[i].node, g->pending[i].incarnation) -
					 ts_exec_now(x)) / 1e6);
	printf("\n");
}

static void on_excluded(void *arg, const char *why)
{
	excluded = true;
	printf("%.3f excluded: %s\n", (double)ts_exec_now(x) / 1e9, why);
	if (watch)
		ts_loop_stop(loop);
}

static void on_suspended(void *arg, bool s)
{
	suspended = s;
	printf("%.3f suspended %d\n", (double)ts_exec_now(x) / 1e9, s);
}

static void persist(void *arg, const struct quorum_durable *d)
{
	persisted++;
}

static struct quorum_cs_args args(uint64_t inc)
{
	return (struct quorum_cs_args){.exec = x,
				       .cluster_name = "unit",
				       .incarnation = inc,
				       .peer_port = 7420,
				       .times = quorum_times_default,
				       .events = {on_view, on_group, on_excluded, on_suspended, NULL, NULL},
				       .persist = persist};
}

/* ---- a corosync of our own ------------------------------------------------------------------------------------------- */

static bool own_world(void)
{
	struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int s;

	if (geteuid() || access("/usr/sbin/corosync", X_OK) || unshare(CLONE_NEWNET | CLONE_NEWNS) ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("tmpfs", "/run", "tmpfs", 0, "size=64m") ||
	    mount("tmpfs", "/dev/shm", "tmpfs", 0, "size=256m") ||
	    mkdir("/run/lock", 0755) || mkdir("/run/state", 0700))
		return false;
	s = socket(AF_INET, SOCK_DGRAM, 0);
	if (s < 0 || ioctl(s, SIOCSIFFLAGS, &ifr))
		return false;
	close(s);
	return true;
}

static bool corosync_start(void)
{
	FILE *f = fopen("/run/corosync.conf", "w");

	if (!f)
		return false;
	fprintf(f,
		"totem {\n version: 2\n cluster_name: unit\n transport: knet\n token: 1000\n crypto_cipher: none\n crypto_hash: none\n}\n"
		"quorum {\n provider: corosync_votequorum\n}\n"
		"nodelist {\n node {\n nodeid: 5\n name: n5\n ring0_addr: 127.0.0.1\n }\n}\n"
		"system {\n state_dir: /run/state\n sched_rr: no\n move_to_root_cgroup: no\n}\n"
		"logging {\n to_stderr: no\n to_syslog: no\n to_logfile: yes\n logfile: /run/corosync.log\n}\n");
	fclose(f);
	corosync = fork();
	if (!corosync) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execl("/usr/sbin/corosync", "corosync", "-f", "-c", "/run/corosync.conf", NULL);
		_exit(127);
	}
	return corosync > 0;
}

/* ---- the story, told by a timer --------------------------------------------------------------------------------------- */

static void story(void *arg)
{
	static unsigned ticks;
	unsigned before = step;

	switch (step) {
	case 0:
		if (view && !suspended && quorum_may_write(q)) {
			assert_int_equal(quorum_self(q), 5);
			assert_string_equal(quorum_view_get(q)->members[0].addr, "127.0.0.1");
			assert_int_equal(quorum_group_join(q, 9, 3), 0);
			step++;
		}
		break;
	case 1:
		if (epoch) {
			assert_int_equal(quorum_group_get(q, 9)->members[0].slot, 3);
			kill(corosync, SIGKILL);
			step++;
		}
		break;
	case 2:
		if (excluded) {
			assert_false(quorum_may_write(q));
			assert_true(suspended);
			ts_loop_stop(loop);
			return;
		}
		break;
	}
	ticks = step == before ? ticks + 1 : 0;
	if (ticks > 3000) {
		printf("stuck at step %u\n", step);
		ts_loop_stop(loop);
		return;
	}
	ts_timer_arm(x, &timer, ts_exec_now(x) + 5 * TS_NS_PER_MS, story, NULL);
}

static void t_single(void **state)
{
	struct quorum_cs_args a;
	char err[200] = "";

	if (!own_world()) {
		printf("skipped: needs root, namespaces and /usr/sbin/corosync\n");
		skip();
	}
	x = ts_exec_new(&ts_env_real);
	loop = ts_loop_new(x);
	a = args(77);
	assert_true(quorum_cs_open(&a, &q, err, sizeof(err)) < 0); /* there is no corosync yet */
	printf("without corosync: %s\n", err);
	assert_non_null(strstr(err, "corosync"));
	assert_true(corosync_start());
	for (unsigned i = 0; i < 100 && !q; i++) { /* it needs a moment */
		usleep(100000);
		if (quorum_cs_open(&a, &q, err, sizeof(err)))
			q = NULL;
	}
	if (!q)
		fail_msg("%s", err);
	ts_timer_arm(x, &timer, ts_exec_now(x), story, NULL);
	ts_loop_run(loop);
	assert_true(excluded);
	assert_true(persisted >= 3);
	quorum_close(q);
	while (ts_exec_run(x, 100))
		;
	ts_loop_free(loop);
	ts_exec_free(x);
	waitpid(corosync, NULL, 0);
}

static void on_term(int sig)
{
	ts_loop_stop(loop);
}

static int watch_main(const char *inc)
{
	struct quorum_cs_args a;
	char err[200];

	watch = true;
	x = ts_exec_new(&ts_env_real);
	loop = ts_loop_new(x);
	a = args(strtoull(inc, NULL, 0));
	if (quorum_cs_open(&a, &q, err, sizeof(err))) {
		fprintf(stderr, "%s\n", err);
		return 1;
	}
	signal(SIGTERM, on_term);
	if (quorum_group_join(q, 9, quorum_self(q)))
		return 1;
	ts_loop_run(loop);
	quorum_close(q);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(t_single)};

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (getenv("QUORUM_CS_WATCH"))
		return watch_main(getenv("QUORUM_CS_WATCH"));
	return cmocka_run_group_tests_name("quorum_cs", tests, NULL, NULL);
}
