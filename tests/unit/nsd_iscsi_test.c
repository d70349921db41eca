/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the iSCSI back end against a real tgtd of the test's own: verified I/O at depth, sessions killed under writes,
 * target restarted, target frozen past a deadline, two nodes fencing one another, passwords, wrong names. */
#include "nsd/nsd_int.h"
#include "tests/unit/nsd_util.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define IQN   "iqn.2026-11.test:nsd"
#define SIZE  (256u << 20)
#define KEY_A 0xaaa1u
#define KEY_B 0xbbb2u

static char dir[] = "/var/tmp/tessera_iscsi_XXXXXX";
static pid_t tgtd;
static int port;
static int control; /* tgtd's control port: part of its shared names */

static int run(const char *fmt, ...)
{
	char cmd[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	return system(cmd);
}

static int free_port(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(sa);
	int fd = socket(AF_INET, SOCK_STREAM, 0), p;

	if (bind(fd, (struct sockaddr *)&sa, n) || getsockname(fd, (struct sockaddr *)&sa, &n))
		return 0;
	p = ntohs(sa.sin_port);
	close(fd);
	return p;
}

static void start_process(void)
{
	char log[128], portal[64], ctl[16];

	snprintf(log, sizeof(log), "%s/tgtd.log", dir);
	snprintf(portal, sizeof(portal), "portal=127.0.0.1:%d", port);
	snprintf(ctl, sizeof(ctl), "%d", control);
	tgtd = fork();
	if (tgtd == 0) {
		int fd = open(log, O_CREAT | O_WRONLY | O_APPEND, 0600);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(fd, 1);
		dup2(fd, 2);
		execlp("tgtd", "tgtd", "-f", "-C", ctl, "-t", "4", "--iscsi", portal, NULL);
		_exit(127);
	}
}

#define TGTADM "tgtadm -C %d --lld iscsi "

static bool start_tgtd(void)
{
	bool up = false;

	start_process();
	for (int i = 0; !up && i < 100; i++) {
		up = run(TGTADM "--op show --mode target >/dev/null 2>&1", control) == 0;
		if (!up)
			usleep(50000);
	}
	return up && run(TGTADM "--op new --mode target --tid 1 -T " IQN, control) == 0 &&
	       run(TGTADM "--op bind --mode target --tid 1 -I ALL", control) == 0 &&
	       run(TGTADM "--op new --mode logicalunit --tid 1 --lun 1 -b %s/lun --bstype rdwr", control, dir) == 0 &&
	       run(TGTADM "--op update --mode logicalunit --tid 1 --lun 1 --params scsi_sn=serial1,scsi_id=testid1",
		   control) == 0;
}

static void kill_tgtd(void)
{
	if (tgtd > 0) {
		kill(tgtd, SIGKILL);
		waitpid(tgtd, NULL, 0);
	}
	tgtd = 0;
	run("rm -f %s/sock*", dir);
}

/* Without a pidfd of ours: ends the TCP connections of all sessions, as a network or target would. */
static void kill_sessions(void)
{
	run("for s in $(tgtadm -C %d --lld iscsi --op show --mode conn --tid 1 | awk '/^Session:/{print $2}'); do "
	    "tgtadm -C %d --lld iscsi --op delete --mode conn --tid 1 --sid $s --cid 0; done >/dev/null 2>&1",
	    control, control);
}

static const char *url_with(const char *login, const char *iqn, int lun)
{
	static char url[300];

	snprintf(url, sizeof(url), "iscsi://%s127.0.0.1:%d/%s/%d", login, port, iqn, lun);
	return url;
}

static int try_open(const char *url, const char *node, uint64_t isid, struct nsd_gate gate, struct nsd_dev **d,
		    char *err, size_t n)
{
	char initiator[100];
	struct nsd_open_args a = {.exec = ts_exec_self(), .url = url, .initiator_name = initiator, .isid = isid,
				  .gate = gate};

	snprintf(initiator, sizeof(initiator), "iqn.2026-11.test:%s", node);
	return nsd_open(&a, d, err, n);
}

static struct nsd_dev *open_as(const char *node, uint64_t isid)
{
	struct nsd_dev *d;
	char err[400];

	if (try_open(url_with("", IQN, 1), node, isid, (struct nsd_gate){0}, &d, err, sizeof(err)))
		fail_msg("%s", err);
	return d;
}

static void pause_ms(unsigned ms)
{
	ts_sleep_until(ts_exec_now(ts_exec_self()) + ms * TS_NS_PER_MS);
}

/* ---- tests --------------------------------------------------------------------------------------------------------- */

static void opens_and_tells_what_it_is(void *arg)
{
	struct nsd_dev *d = open_as("a", 1);
	const struct nsd_info *i = nsd_info(d);

	assert_true(i->size_bytes == SIZE);
	assert_int_equal(i->sector_bytes, 512);
	assert_string_equal(i->transport, "iscsi");
	assert_true(i->has_reservations);
	assert_true(i->max_io_bytes >= 1u << 20);
	assert_non_null(strstr(i->serial, "/serial1"));
	assert_int_equal(nsd_session_gen(d), 1);
	nsd_close(d);
}

static void depth_64_verified(void *arg)
{
	struct nsd_dev *d = open_as("a", 1);

	storm(d, 6400, 64, 4096, 1);
	storm(d, 1280, 64, 256 * 1024, 2);
	storm(d, 400, 200, 8192, 3); /* more than the target is given at once */
	nsd_close(d);
}

static void long_scattered_unaligned_memory(void *arg)
{
	struct nsd_dev *d = open_as("a", 1);
	size_t len = 5u << 20;
	uint8_t *w = ts_alloc_aligned(4096, len), *r = ts_alloc_aligned(4096, len);
	struct iovec iov[3];

	fill(w, len, 7);
	assert_int_equal(nsd_write(d, w, len, 1u << 20), 0);
	iov[0] = (struct iovec){r, 777};
	iov[1] = (struct iovec){r + 777, 0};
	iov[2] = (struct iovec){r + 777, len - 777};
	assert_int_equal(submit_wait(d, NSD_READ, 1u << 20, len, iov, 3, 0), 0);
	assert_memory_equal(w, r, len);
	assert_int_equal(submit_wait(d, NSD_ZERO, 1u << 20, len - 512, NULL, 0, 0), 0);
	assert_int_equal(nsd_read(d, r, len, 1u << 20), 0);
	for (size_t i = 0; i < len - 512; i++)
		if (r[i])
			fail_msg("byte %zu was not zeroed", i);
	assert_memory_equal(r + len - 512, w + len - 512, 512);
	assert_int_equal(submit_wait(d, NSD_DISCARD, 0, 4096, NULL, 0, 0), -EOPNOTSUPP);
	assert_int_equal(nsd_flush(d), 0);
	ts_free(w);
	ts_free(r);
	nsd_close(d);
}

static void killer(void *arg)
{
	struct ts_group *g = arg;

	for (int i = 0; i < 4; i++) {
		pause_ms(150);
		kill_sessions();
	}
	ts_group_done(g, 0);
}

static void sessions_killed_under_writes(void *arg)
{
	struct nsd_dev *d = open_as("a", 1);
	struct ts_group g;
	struct nsd_stats st;
	uint64_t seed = 10;

	ts_group_init(&g);
	ts_group_add(&g);
	assert_int_equal(ts_fiber_spawn(ts_exec_self(), "killer", killer, &g), 0);
	do
		storm(d, 640, 64, 128 * 1024, seed++);
	while (g.pending);
	ts_group_wait(&g, "killer");
	nsd_stats_get(d, &st);
	printf("sessions %llu, resends %llu, errors %llu\n", (unsigned long long)nsd_session_gen(d),
	       (unsigned long long)st.resends, (unsigned long long)st.errors);
	assert_true(nsd_session_gen(d) >= 3);
	assert_true(st.resends > 0);
	assert_int_equal(st.errors, 0);
	nsd_close(d);
}

static void restarter(void *arg)
{
	struct ts_group *g = arg;

	pause_ms(100);
	kill_tgtd();
	pause_ms(300);
	/* The old connections were reset by the dying target's kernel; TIME_WAIT may keep its port for a moment. */
	for (int i = 0; i < 80; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
					 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		int rc = bind(fd, (struct sockaddr *)&sa, sizeof(sa));

		close(fd);
		if (rc == 0)
			break;
		pause_ms(1000);
	}
	assert_true(start_tgtd());
	ts_group_done(g, 0);
}

static void target_restarted_under_writes(void *arg)
{
	struct nsd_dev *d = open_as("a", 1);
	struct ts_group g;
	struct nsd_stats st;
	uint64_t seed = 20;

	ts_group_init(&g);
	ts_group_add(&g);
	assert_int_equal(ts_fiber_spawn(ts_exec_self(), "restarter", restarter, &g), 0);
	do
		storm(d, 640, 64, 64 * 1024, seed++);
	while (g.pending);
	nsd_stats_get(d, &st);
	assert_int_equal(nsd_session_gen(d), 2);
	assert_int_equal(st.errors, 0);
	assert_true(st.resends > 0);
	nsd_close(d);
}

static void frozen_target_and_deadline(void *arg)
{
	struct nsd_dev *d = open_as("a", 1);
	uint8_t *b = ts_alloc_aligned(4096, 1u << 20);
	struct iovec iov = {b, 1u << 20};
	uint64_t t0;
	int rc;

	fill(b, 1u << 20, 1);
	kill(tgtd, SIGSTOP);
	t0 = ts_exec_now(ts_exec_self());
	rc = submit_wait(d, NSD_WRITE, 4u << 20, 1u << 20, &iov, 1, t0 + 500 * TS_NS_PER_MS);
	t0 = ts_exec_now(ts_exec_self()) - t0;
	memset(b, 0xdd, 1u << 20); /* the buffer is ours again: nothing of this may reach the disk */
	kill(tgtd, SIGCONT);
	assert_int_equal(rc, -ETIMEDOUT);
	assert_in_range(t0 / TS_NS_PER_MS, 499, 1500);
	assert_int_equal(nsd_read(d, b, 1u << 20, 4u << 20), 0); /* on the next session */
	for (unsigned i = 0; i < 1u << 20; i += 4096)
		if (b[i] == 0xdd && b[i + 1] == 0xdd && b[i + 4095] == 0xdd)
			fail_msg("the buffer was sent after it had been given back");
	assert_true(nsd_session_gen(d) >= 2);
	ts_free(b);
	nsd_close(d);
}

static void see_control(void *arg, const char *name, const char *what, uint64_t a, uint64_t b, uint64_t since)
{
	if (!strcmp(what, "iSCSI control command"))
		*(bool *)arg = true;
}

/* The target stops answering while a new session is just being set up: the session's own fiber waits for a command, and
 * nobody else could give that up. */
static void target_frozen_in_set_up(void *arg)
{
	struct nsd_dev *d = open_as("a", 1);
	uint8_t *b = ts_alloc_aligned(4096, 4096);
	bool seen = false;

	kill_sessions();
	for (int i = 0; !seen && i < 5000; i++) {
		ts_fiber_each_waiting(ts_exec_self(), see_control, &seen);
		if (!seen)
			ts_sleep_until(ts_exec_now(ts_exec_self()) + TS_NS_PER_MS / 5);
	}
	assert_true(seen);
	kill(tgtd, SIGSTOP);
	pause_ms(6000); /* beyond the time that a set-up may take */
	kill(tgtd, SIGCONT);
	assert_int_equal(nsd_read(d, b, 4096, 0), 0);
	ts_free(b);
	nsd_close(d);
}

static bool gate_open;
static bool gate(void *arg)
{
	return gate_open;
}

/* A write whose session dies is sent again only if the gate is still open then. */
static void gate_is_asked_again_on_resend(void *arg)
{
	struct nsd_dev *d;
	uint8_t *b = ts_alloc_aligned(4096, 4096);
	struct iovec iov = {b, 4096}, other = {ts_alloc_aligned(4096, 4096), 4096};
	struct nsd_stats st;
	int rc;
	struct ts_done done;
	struct nsd_req r = {.op = NSD_WRITE, .off = 1u << 20, .len = 4096, .iov = &iov, .iovcnt = 1, .done = wait_done,
			    .arg = &done};
	char err[200];

	gate_open = true;
	assert_int_equal(try_open(url_with("", IQN, 1), "a", 1, (struct nsd_gate){.may_write = gate}, &d, err,
				  sizeof(err)), 0);
	fill(b, 4096, 3);
	assert_int_equal(nsd_write(d, b, 4096, 1u << 20), 0);
	fill(b, 4096, 4);
	ts_done_init(&done);
	kill(tgtd, SIGSTOP);
	nsd_submit(d, &r);
	pause_ms(50); /* it is sent, under session 1 */
	gate_open = false;
	rc = submit_wait(d, NSD_READ, 0, 4096, &other, 1, ts_exec_now(ts_exec_self()) + 100 * TS_NS_PER_MS);
	assert_int_equal(rc, -ETIMEDOUT); /* this drops the session under the write */
	kill(tgtd, SIGCONT);
	assert_int_equal(ts_done_wait(&done, "resend", 0, 0), -TS_ERR_FENCED);
	nsd_stats_get(d, &st);
	assert_int_equal(st.resends, 0);
	assert_int_equal(nsd_write(d, b, 4096, 2u << 20), -TS_ERR_FENCED);
	assert_int_equal(nsd_read(d, b, 4096, 1u << 20), 0);
	ts_free(other.iov_base);
	ts_free(b);
	nsd_close(d);
}

static void two_nodes_and_a_fence(void *arg)
{
	struct nsd_dev *a = open_as("a", 1), *b = open_as("b", 2), *c = open_as("c", 3);
	struct nsd_pr_state *s = ts_xalloc(sizeof(*s));
	uint8_t *buf = ts_alloc_aligned(4096, 4u << 20);
	struct iovec iov = {buf, 4u << 20};

	assert_int_equal(nsd_pr_register(a, KEY_A), 0);
	assert_int_equal(nsd_pr_register(b, 0xb0b0), 0);
	assert_int_equal(nsd_pr_register(b, KEY_B), 0); /* replaces */
	assert_int_equal(nsd_pr_reserve(a, KEY_A), 0);
	assert_int_equal(nsd_pr_reserve(b, KEY_B), 0); /* already so: fine */
	assert_int_equal(nsd_pr_read(b, s), 0);
	assert_int_equal(s->nkeys, 2);
	assert_int_equal(s->type, NSD_PR_WRITE_EXCL_ALL_REGISTRANTS);
	assert_int_equal(nsd_write(a, buf, 4096, 0), 0);
	assert_int_equal(nsd_write(b, buf, 4096, 0), 0);
	assert_int_equal(nsd_write(c, buf, 4096, 0), -TS_ERR_FENCED); /* never registered */
	assert_int_equal(nsd_pr_reserve(c, 0xcccc), -TS_ERR_FENCED);
	assert_int_equal(nsd_read(c, buf, 4096, 0), 0);

	/* A session that dies keeps its registration, and the device goes on. */
	kill_sessions();
	assert_int_equal(nsd_write(a, buf, 4096, 0), 0);
	assert_int_equal(nsd_write(b, buf, 4096, 0), 0);
	assert_true(nsd_session_gen(a) >= 2);

	assert_int_equal(nsd_pr_fence(b, KEY_B, 0x123), -ENOENT);
	assert_int_equal(nsd_pr_fence(c, 0xcccc, KEY_B), -TS_ERR_FENCED); /* not registered: may not fence */
	assert_int_equal(nsd_pr_fence(b, KEY_B, KEY_A), 0);
	assert_int_equal(nsd_pr_fence(b, KEY_B, KEY_A), -ENOENT);
	assert_false(nsd_info(b)->has_preempt_abort); /* stock tgt has none: it was found out, plain preempt used */
	assert_int_equal(submit_wait(a, NSD_WRITE, 0, 4u << 20, &iov, 1, 0), -TS_ERR_FENCED);
	kill_sessions();
	pause_ms(300);
	assert_int_equal(nsd_write(a, buf, 4096, 0), -TS_ERR_FENCED);
	assert_int_equal(nsd_pr_register(a, KEY_A), -TS_ERR_FENCED); /* dead for ever, also for a new registration */
	assert_int_equal(nsd_pr_fence(a, KEY_A, KEY_B), -TS_ERR_FENCED);
	assert_int_equal(nsd_write(b, buf, 4096, 0), 0);
	nsd_close(a);

	a = open_as("a", 1); /* a new incarnation with a new key is welcome */
	assert_int_equal(nsd_write(a, buf, 4096, 0), -TS_ERR_FENCED);
	assert_int_equal(nsd_pr_register(a, KEY_A + 1), 0);
	assert_int_equal(nsd_write(a, buf, 4096, 0), 0);
	assert_int_equal(nsd_pr_unregister(a, KEY_A + 1), 0);
	assert_int_equal(nsd_write(a, buf, 4096, 0), -TS_ERR_FENCED);
	/* The first reserver of all is long gone; every fence leaves a reservation that stands. */
	for (uint64_t key = 1; key <= 20; key++) {
		assert_int_equal(nsd_pr_register(a, key), 0);
		assert_int_equal(nsd_write(a, buf, 4096, 0), 0);
		assert_int_equal(key & 1 ? nsd_pr_fence(b, KEY_B, key) : nsd_pr_unregister(a, key), 0);
		assert_int_equal(nsd_write(a, buf, 4096, 0), -TS_ERR_FENCED);
		assert_int_equal(nsd_write(c, buf, 4096, 0), -TS_ERR_FENCED);
		assert_int_equal(nsd_pr_read(b, s), 0);
		assert_int_equal(s->type, NSD_PR_WRITE_EXCL_ALL_REGISTRANTS);
		nsd_close(a);
		a = open_as("a", 1);
	}
	assert_int_equal(nsd_pr_unregister(b, KEY_B), 0);
	ts_free(buf);
	ts_free(s);
	nsd_close(a);
	nsd_close(b);
	nsd_close(c);
}

/* Preempted while its session is down: the first thing it hears on the new session is that it is out. */
static void fenced_while_away(void *arg)
{
	struct nsd_dev *a = open_as("a", 1), *b = open_as("b", 2);
	uint8_t *buf = ts_alloc_aligned(4096, 4096);

	assert_int_equal(nsd_pr_register(a, KEY_A), 0);
	assert_int_equal(nsd_pr_register(b, KEY_B), 0);
	assert_int_equal(nsd_pr_reserve(b, KEY_B), 0);
	assert_int_equal(nsd_pr_fence(b, KEY_B, KEY_A), 0);
	kill_sessions();
	for (int i = 0; i < 100 && nsd_read(a, buf, 4096, 0) == 0; i++)
		pause_ms(20);
	assert_int_equal(nsd_read(a, buf, 4096, 0), -TS_ERR_FENCED);
	assert_int_equal(nsd_write(b, buf, 4096, 0), 0);
	assert_int_equal(nsd_pr_unregister(b, KEY_B), 0);
	nsd_close(b);
	nsd_close(a);
	/* b left nothing behind, not even from the session that was killed: anybody writes again. */
	a = open_as("a", 1);
	assert_int_equal(nsd_write(a, buf, 4096, 0), 0);
	ts_free(buf);
	nsd_close(a);
}

/* Stock tgt: no PREEMPT AND ABORT, and UNMAP and WRITE SAME of a preempted node are executed. Which is why they are never sent. */
static void abilities_are_found_out(void *arg)
{
	struct nsd_dev *a = open_as("a", 1), *b = open_as("a:probe", 2), *c;
	uint8_t *buf = ts_alloc_aligned(4096, 4096), *after = ts_alloc_aligned(4096, 4096);
	struct nsd_pr_state *s = ts_xalloc(sizeof(*s));
	char err[200] = "";
	uint32_t able;

	fill(buf, 4096, 5);
	assert_int_equal(nsd_write(a, buf, 4096, 800u << 10), 0);
	if (nsd_able_probe(a, KEY_A, b, KEY_B, 800u << 10, &able, err, sizeof(err)))
		fail_msg("%s", err);
	for (unsigned i = 0, bit; nsd_able_name(i, &bit); i++)
		printf("%s: %s\n", nsd_able_name(i, &bit), able & bit ? "yes" : "no");
	assert_int_equal(able, NSD_ABLE_PROBED | NSD_ABLE_ENFORCES | NSD_ABLE_FLUSH_FENCED);
	assert_int_equal(nsd_read(a, after, 4096, 800u << 10), 0);
	assert_memory_not_equal(buf, after, 4096); /* the UNMAP did happen: the answer was true */
	assert_int_equal(nsd_pr_read(a, s), 0);
	assert_int_equal(s->nkeys, 0);
	assert_int_equal(s->type, NSD_PR_NONE);
	c = open_as("c", 3);
	assert_int_equal(nsd_write(c, buf, 4096, 0), 0); /* nothing is left behind */
	nsd_close(a);
	nsd_close(b);
	nsd_close(c);
	ts_free(buf);
	ts_free(after);
	ts_free(s);
}

/* ---- a target that restarts and has forgotten all registrations ------------------------------------------------------ */

#define LOST_OFF (8u << 20)
struct survivor {
	uint64_t key;
	int answers[4]; /* of the cluster, one by one; the last one counts for ever */
	unsigned asked;
	uint8_t seen; /* what is on the disk when it is asked */
};

static uint8_t byte_on_disk(uint64_t off)
{
	char path[128];
	uint8_t b = 0;
	int fd;

	snprintf(path, sizeof(path), "%s/lun", dir);
	fd = open(path, O_RDONLY);
	assert_int_equal(pread(fd, &b, 1, (off_t)off), 1);
	close(fd);
	return b;
}

static int on_lost(void *arg, struct nsd_dev *d)
{
	struct survivor *s = arg;
	int answer = s->answers[TS_MIN(s->asked, 3u)], rc;

	s->asked++;
	s->seen = byte_on_disk(LOST_OFF);
	if (answer == -TS_ERR_FENCED)
		return answer;
	rc = nsd_pr_register(d, s->key);
	if (!rc)
		rc = nsd_pr_reserve(d, s->key);
	return rc ? rc : answer;
}

static struct nsd_dev *open_lost(const char *node, uint64_t isid, struct survivor *s)
{
	struct nsd_dev *d;
	char err[400];

	assert_int_equal(try_open(url_with("", IQN, 1), node, isid, (struct nsd_gate){.registration_lost = on_lost, .arg = s}, &d, err,
				  sizeof(err)), 0);
	assert_int_equal(nsd_pr_register(d, s->key), 0);
	assert_int_equal(nsd_pr_reserve(d, s->key), 0);
	return d;
}

static void registration_lost_with_the_target(void *arg)
{
	/* a is told "not yet" once, after it has registered already; b was excluded. */
	struct survivor sa = {.key = KEY_A, .answers = {-EAGAIN}}, sb = {.key = KEY_B, .answers = {-TS_ERR_FENCED, -TS_ERR_FENCED}};
	struct nsd_dev *a = open_lost("a", 1, &sa), *b = open_lost("b", 2, &sb), *c = open_as("c", 3);
	struct nsd_pr_state *s = ts_xalloc(sizeof(*s));
	uint8_t *old = ts_alloc_aligned(4096, 4096), *new = ts_alloc_aligned(4096, 4096);
	struct iovec iov = {new, 4096};
	struct ts_done da, db;
	struct nsd_req ra = {.op = NSD_WRITE, .off = LOST_OFF, .len = 4096, .iov = &iov, .iovcnt = 1, .done = wait_done, .arg = &da};
	struct nsd_req rb = ra;
	struct ts_group g;

	memset(old, 0x11, 4096);
	memset(new, 0x22, 4096);
	assert_int_equal(nsd_write(a, old, 4096, LOST_OFF), 0);
	assert_int_equal(nsd_losses(a), 0);
	ts_done_init(&da);
	ts_done_init(&db);
	rb.arg = &db;
	rb.off = LOST_OFF + 4096;
	kill(tgtd, SIGSTOP); /* both writes are on their way when the target dies */
	nsd_submit(a, &ra);
	nsd_submit(b, &rb);
	pause_ms(50);
	ts_group_init(&g);
	ts_group_add(&g);
	assert_int_equal(ts_fiber_spawn(ts_exec_self(), "restarter", restarter, &g), 0);
	assert_int_equal(ts_done_wait(&da, "write of a", 0, 0), 0);
	assert_int_equal(ts_done_wait(&db, "write of b", 0, 0), -TS_ERR_FENCED);
	ts_group_wait(&g, "restarter");
	assert_int_equal(sa.asked, 2);
	assert_int_equal(sa.seen, 0x11); /* the second time, too: nothing was sent before the cluster had agreed */
	assert_int_equal(byte_on_disk(LOST_OFF), 0x22);
	assert_int_not_equal(byte_on_disk(LOST_OFF + 4096), 0x22);
	assert_int_equal(nsd_losses(a), 1);
	assert_int_equal(nsd_pr_read(a, s), 0);
	assert_true(s->nkeys); /* tgt keeps one for each session that a registered in */
	for (unsigned i = 0; i < s->nkeys; i++)
		assert_int_equal(s->keys[i], KEY_A);
	assert_int_equal(s->type, NSD_PR_WRITE_EXCL_ALL_REGISTRANTS);
	assert_int_equal(nsd_write(c, new, 4096, LOST_OFF + 8192), -TS_ERR_FENCED); /* who is not registered is kept out again */
	assert_int_equal(nsd_pr_register(b, KEY_B), -TS_ERR_FENCED);
	/* A session that is lost alone asks nobody. */
	kill_sessions();
	assert_int_equal(nsd_write(a, new, 4096, LOST_OFF), 0);
	assert_int_equal(sa.asked, 2);
	assert_int_equal(nsd_losses(a), 1);
	assert_int_equal(nsd_pr_unregister(a, KEY_A), 0);
	nsd_close(a);
	nsd_close(b);
	nsd_close(c);
	ts_free(old);
	ts_free(new);
	ts_free(s);
}

/* The reservation vanishes alone (here: taken away by hand): the next session puts it back. Its holder's death leaves it. */
static void reservation_is_looked_at(void *arg)
{
	struct nsd_dev *a = open_as("a", 1), *b = open_as("b", 2);
	struct nsd_pr_state *p = ts_xalloc(sizeof(*p));
	uint8_t *buf = ts_alloc_aligned(4096, 4096);

	assert_int_equal(nsd_pr_register(a, KEY_A), 0);
	assert_int_equal(nsd_pr_register(b, KEY_B), 0);
	assert_int_equal(nsd_pr_reserve(a, KEY_A), 0);
	assert_int_equal(nsd_pr_reserve(b, KEY_B), 0);
	/* a made it, and goes: first its session alone, then its registration. */
	nsd_close(a);
	assert_int_equal(nsd_pr_read(b, p), 0);
	assert_int_equal(p->type, NSD_PR_WRITE_EXCL_ALL_REGISTRANTS);
	assert_int_equal(nsd_pr_fence(b, KEY_B, KEY_A), 0);
	assert_int_equal(nsd_pr_read(b, p), 0);
	assert_int_equal(p->type, NSD_PR_WRITE_EXCL_ALL_REGISTRANTS);
	assert_int_equal(b->ops->pr(b, NSD_PRV_RELEASE, KEY_B, 0, NULL), 0);
	assert_int_equal(nsd_pr_read(b, p), 0);
	assert_int_equal(p->type, NSD_PR_NONE);
	kill_sessions();
	assert_int_equal(nsd_write(b, buf, 4096, 0), 0);
	assert_int_equal(nsd_pr_read(b, p), 0);
	assert_int_equal(p->type, NSD_PR_WRITE_EXCL_ALL_REGISTRANTS);
	assert_int_equal(nsd_pr_unregister(b, KEY_B), 0);
	nsd_close(b);
	ts_free(buf);
	ts_free(p);
}

static void label_on_a_lun(void *arg)
{
	struct nsd_dev *d = open_as("a", 1);
	struct nsd_label_disk *l = ts_alloc_aligned(4096, sizeof(*l)), *m = ts_alloc_aligned(4096, sizeof(*m));
	enum nsd_label_state st;
	char what[200];

	memset(l, 0, sizeof(*l));
	memcpy(l->fs_name, "fs1", 4);
	assert_int_equal(nsd_label_write(d, l), 0);
	assert_int_equal(nsd_label_read(d, m, &st, what, sizeof(what)), 0);
	assert_int_equal(st, NSD_LABEL_OK);
	assert_string_equal(m->fs_name, "fs1");
	assert_int_equal(nsd_label_erase(d), 0);
	assert_int_equal(nsd_label_read(d, m, &st, what, sizeof(what)), 0);
	assert_int_equal(st, NSD_LABEL_NONE);
	ts_free(l);
	ts_free(m);
	nsd_close(d);
}

static void wrong_addresses(void *arg)
{
	static const char *const bad[] = {
		"iscsi://", "iscsi://h", "iscsi://h/", "iscsi://h/iqn", "iscsi://h/iqn/", "iscsi://h/iqn/x",
		"iscsi://h:0/iqn/1", "iscsi://h:99999/iqn/1", "iscsi://:1/iqn/1", "iscsi://@h/iqn/1",
		"iscsi://u%@h/iqn/1", "iscsi://[::1/iqn/1", "iscsi://h//1", "iscsi://h/iqn/-1"};
	struct nsd_dev *d;
	char err[400];

	for (size_t i = 0; i < TS_ARRAY_LEN(bad); i++) {
		err[0] = 0;
		if (try_open(bad[i], "a", 1, (struct nsd_gate){0}, &d, err, sizeof(err)) != -EINVAL)
			fail_msg("%s was taken", bad[i]);
		assert_non_null(strstr(err, "URL"));
	}
	assert_int_equal(try_open(url_with("", "iqn.no:such", 1), "a", 1, (struct nsd_gate){0}, &d, err, sizeof(err)),
			 -ENOENT);
	assert_int_equal(try_open(url_with("", IQN, 7), "a", 1, (struct nsd_gate){0}, &d, err, sizeof(err)), -ENOENT);
	assert_int_equal(try_open("iscsi://127.0.0.1:1/" IQN "/1", "a", 1, (struct nsd_gate){0}, &d, err, sizeof(err)),
			 -ECONNREFUSED);
	assert_null(d);
}

static void chap_is_needed_and_never_told(void *arg)
{
	struct nsd_dev *d;
	char err[400];

	assert_int_equal(run(TGTADM "--op new --mode account --user node1 --password correcthorse1", control), 0);
	assert_int_equal(run(TGTADM "--op bind --mode account --tid 1 --user node1", control), 0);
	assert_int_equal(try_open(url_with("", IQN, 1), "a", 1, (struct nsd_gate){0}, &d, err, sizeof(err)), -EACCES);
	assert_int_equal(try_open(url_with("node1%wronghorse12@", IQN, 1), "a", 1, (struct nsd_gate){0}, &d, err,
				  sizeof(err)), -EACCES);
	assert_null(strstr(err, "wronghorse"));
	assert_int_equal(try_open(url_with("node1%correcthorse1@", IQN, 1), "a", 1, (struct nsd_gate){0}, &d, err,
				  sizeof(err)), 0);
	assert_null(strstr(nsd_url(d), "horse"));
	kill_sessions();
	storm(d, 64, 8, 4096, 99); /* the new session needs the password again */
	nsd_close(d);
	run(TGTADM "--op delete --mode account --user node1", control);
}

static void failing_allocations(void *arg)
{
	struct nsd_dev *d;
	char err[400];

	for (uint64_t n = 1;; n++) {
		int rc;

		ts_alloc_fail_nth(n);
		rc = try_open(url_with("", IQN, 1), "a", 1, (struct nsd_gate){0}, &d, err, sizeof(err));
		ts_alloc_fail_nth(0);
		if (!rc) {
			nsd_close(d);
			if (n > 4)
				break;
		}
		assert_true(n < 100);
	}
}

static void closing_while_the_target_is_gone(void *arg)
{
	struct nsd_dev *d = open_as("a", 1);

	kill(tgtd, SIGSTOP);
	nsd_close(d);  /* bounded by the logout's second */
	kill(tgtd, SIGCONT);
}

static void speed(void *arg)
{
	struct nsd_dev *d = open_as("a", 1);

	bench(d, "iscsi (tgt)");
	nsd_close(d);
}

#define T(fn) {#fn, in_fiber, NULL, NULL, fn}

static const char *cannot(void)
{
	if (geteuid())
		return "not root";
	if (run("command -v tgtd tgtadm >/dev/null 2>&1"))
		return "tgtd and tgtadm are not installed";
	return NULL;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(opens_and_tells_what_it_is), T(depth_64_verified), T(long_scattered_unaligned_memory),
		T(sessions_killed_under_writes), T(frozen_target_and_deadline), T(target_frozen_in_set_up), T(gate_is_asked_again_on_resend),
		T(two_nodes_and_a_fence), T(fenced_while_away), T(abilities_are_found_out), T(label_on_a_lun), T(wrong_addresses),
		T(chap_is_needed_and_never_told), T(failing_allocations), T(closing_while_the_target_is_gone),
		T(target_restarted_under_writes), T(registration_lost_with_the_target), T(reservation_is_looked_at), T(speed),
	};
	char sock[128];
	int rc = 1;

	if (cannot()) {
		printf("SKIPPED: %s\n", cannot());
		return 77;
	}
	if (!mkdtemp(dir))
		return 1;
	port = free_port();
	control = 1000 + (int)(getpid() % 30000);
	snprintf(sock, sizeof(sock), "%s/sock", dir);
	setenv("TGT_IPC_SOCKET", sock, 1);
	if (run("truncate -s %u %s/lun", SIZE, dir) == 0 && start_tgtd())
		rc = cmocka_run_group_tests(tests, NULL, NULL);
	else
		printf("tgtd did not start, see %s/tgtd.log\n", dir);
	kill_tgtd();
	if (!rc)
		run("rm -rf %s", dir);
	return rc;
}
