/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the NVMe/TCP back end against the tests' own target (tests/nvmet), a process with a real file behind it: verified I/O in all its
 * shapes, digests with bits flipped on the way, connections lost under writes, target restarted, frozen, slow, nodes that fence one
 * another, reservations kept and lost, wrong addresses, discovery. */
#include "nsd/nsd_int.h"
#include "tests/unit/nsd_util.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define NQN   "nqn.2026-11.io.tessera:test"
#define SIZE  (256u << 20)
#define KEY_A 0xaaa1u
#define KEY_B 0xbbb2u

static char dir[] = "/var/tmp/tessera_nvme_XXXXXX";
static pid_t target;
static int port;

static int run(const char *fmt, ...)
{
	char cmd[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	return system(cmd);
}

/* ---- the target -------------------------------------------------------------------------------------------------------- */

static void exec_target(const char *options, int out)
{
	char cmd[1200], log[128];
	int fd;

	snprintf(log, sizeof(log), "%s/log", dir);
	fd = open(log, O_CREAT | O_WRONLY | O_APPEND, 0600);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(out, 1);
	dup2(fd, 2);
	snprintf(cmd, sizeof(cmd), "exec " NVMET " --port %d %s %s/disk1 %s/disk2", port, options, dir, dir);
	execl("/bin/sh", "sh", "-c", cmd, NULL);
	_exit(127);
}

static bool start_target(const char *options)
{
	char line[64] = "";
	int p[2];
	ssize_t n;

	if (pipe(p))
		return false;
	target = fork();
	if (target == 0)
		exec_target(options, p[1]);
	close(p[1]);
	n = read(p[0], line, sizeof(line) - 1);
	close(p[0]);
	if (n <= 0 || sscanf(line, "ready %d", &port) != 1)
		return false;
	return true;
}

static void kill_target(void)
{
	if (target > 0) {
		kill(target, SIGKILL);
		waitpid(target, NULL, 0);
	}
	target = 0;
}

static void with_target(const char *options)
{
	kill_target();
	run("rm -f %s/*.pr", dir);
	if (!start_target(options))
		fail_msg("nvmet %s does not start, see %s/log", options, dir);
}

static void reset_connections(void)
{
	kill(target, SIGUSR1);
}

static const char *url_with(const char *query)
{
	static char url[300];

	snprintf(url, sizeof(url), "nvme-tcp://127.0.0.1:%d/" NQN "%s", port, query);
	return url;
}

static int try_open(const char *url, const char *node, uint64_t life, struct nsd_gate gate, struct nsd_dev **d, char *err, size_t n)
{
	char initiator[100];
	struct nsd_open_args a = {.exec = ts_exec_self(), .url = url, .initiator_name = initiator, .isid = 1, .incarnation = life,
				  .gate = gate};

	snprintf(initiator, sizeof(initiator), "iqn.2026-11.test:%s", node);
	return nsd_open(&a, d, err, n);
}

static struct nsd_dev *open_query(const char *node, uint64_t life, const char *query)
{
	struct nsd_dev *d;
	char err[400];

	if (try_open(url_with(query), node, life, (struct nsd_gate){0}, &d, err, sizeof(err)))
		fail_msg("%s", err);
	return d;
}

static struct nsd_dev *open_as(const char *node, uint64_t life)
{
	return open_query(node, life, "?ns=1");
}

static void pause_ms(unsigned ms)
{
	ts_sleep_until(ts_exec_now(ts_exec_self()) + ms * TS_NS_PER_MS);
}

/* ---- what it is -------------------------------------------------------------------------------------------------------- */

static void opens_and_tells_what_it_is(void *arg)
{
	struct nsd_dev *d = open_as("a", 1), *e;
	const struct nsd_info *i = nsd_info(d);
	char query[100];

	assert_true(i->size_bytes == SIZE);
	assert_int_equal(i->sector_bytes, 512);
	assert_string_equal(i->transport, "nvme-tcp");
	assert_true(i->has_reservations);
	assert_true(i->has_preempt_abort);
	assert_false(i->keeps_reservations);
	assert_int_equal(i->max_io_bytes, 1u << 20);
	assert_int_equal(strncmp(i->serial, "uuid.", 5), 0);
	assert_int_equal(nsd_session_gen(d), 1);
	assert_string_equal(nsd_url(d), url_with("?ns=1"));
	/* The same namespace by its UUID. */
	snprintf(query, sizeof(query), "?uuid=%s&queues=1", i->serial + 5);
	e = open_query("b", 1, query);
	assert_string_equal(nsd_info(e)->serial, i->serial);
	nsd_close(d);
	nsd_close(e);
	d = open_query("a", 1, "?ns=2");
	assert_true(nsd_info(d)->size_bytes == SIZE / 2);
	nsd_close(d);
}

static void discovery(void *arg)
{
	struct nsd_dev *d;
	char url[100], err[400];

	snprintf(url, sizeof(url), "nvme-tcp://127.0.0.1:%d/?ns=2", port);
	if (try_open(url, "a", 1, (struct nsd_gate){0}, &d, err, sizeof(err)))
		fail_msg("%s", err);
	assert_true(nsd_info(d)->size_bytes == SIZE / 2);
	storm(d, 64, 8, 4096, 5);
	nsd_close(d);
	snprintf(url, sizeof(url), "nvme-tcp://127.0.0.1:%d", port);
	assert_int_equal(try_open(url, "a", 1, (struct nsd_gate){0}, &d, err, sizeof(err)), -EINVAL);
	assert_non_null(strstr(err, "2 namespaces"));
}

static void wrong_addresses(void *arg)
{
	static const char *const bad[] = {
		"nvme-tcp://", "nvme-tcp://:1/nqn.x?ns=1", "nvme-tcp://h:0/nqn.x", "nvme-tcp://h:99999/nqn.x", "nvme-tcp://h/iqn.x?ns=1",
		"nvme-tcp://h/nqn.x?ns=0", "nvme-tcp://h/nqn.x?ns=", "nvme-tcp://h/nqn.x?ns=1x", "nvme-tcp://h/nqn.x?ns", "nvme-tcp://h/nqn.x?no=1",
		"nvme-tcp://h/nqn.x?uuid=12", "nvme-tcp://h/nqn.x?ns=1&uuid=00112233-4455-6677-8899-aabbccddeeff", "nvme-tcp://h/nqn.x?queues=0",
		"nvme-tcp://h/nqn.x?queues=17", "nvme-tcp://h/nqn.x?hdgst=2", "nvme-tcp://[::1/nqn.x?ns=1", "nvme-tcp://h/nqn.x?uuid=00112233-4455-6677-8899-aabbccddeegg",
	};
	struct nsd_dev *d;
	char err[400];

	for (size_t i = 0; i < TS_ARRAY_LEN(bad); i++) {
		err[0] = 0;
		if (try_open(bad[i], "a", 1, (struct nsd_gate){0}, &d, err, sizeof(err)) != -EINVAL)
			fail_msg("%s was taken", bad[i]);
		assert_non_null(strstr(err, "URL"));
	}
	assert_int_equal(try_open(url_with("-not?ns=1"), "a", 1, (struct nsd_gate){0}, &d, err, sizeof(err)), -ENOENT);
	assert_non_null(strstr(err, "no such subsystem"));
	assert_int_equal(try_open(url_with("?ns=3"), "a", 1, (struct nsd_gate){0}, &d, err, sizeof(err)), -ENOENT);
	assert_int_equal(try_open(url_with("?uuid=00112233-4455-6677-8899-aabbccddeeff"), "a", 1, (struct nsd_gate){0}, &d, err, sizeof(err)), -ENOENT);
	assert_int_equal(try_open("nvme-tcp://127.0.0.1:1/" NQN "?ns=1", "a", 1, (struct nsd_gate){0}, &d, err, sizeof(err)), -ECONNREFUSED);
	assert_null(d);
}

/* ---- I/O --------------------------------------------------------------------------------------------------------------- */

static void shapes(struct nsd_dev *d)
{
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
	assert_int_equal(nsd_flush(d), 0);
	ts_free(w);
	ts_free(r);
}

static void storms(struct nsd_dev *d)
{
	storm(d, 3200, 64, 4096, 1);
	storm(d, 640, 64, 128 * 1024, 2);
	storm(d, 400, 200, 8192, 3); /* more than the target is given at once */
	shapes(d);
}

static void io_in_all_shapes(void *arg)
{
	static const struct {
		const char *options, *query;
	} rows[] = {
		{"", "?ns=1"},
		{"--capsule 0 --r2t 4096", "?ns=1"},			     /* all writes asked for, piece by piece */
		{"--max-h2c 8192 --c2h 4096", "?ns=1&queues=1"},	     /* many PDUs of one transfer */
		{"--no-success --depth 4 --queues 2", "?ns=1&queues=8"}, /* small queues, answers apart from data */
		{"--cached", "?ns=1&hdgst=1"},
		{"--r2t 65536 --max-h2c 8192 --c2h 16384", "?ns=1&ddgst=1"},
		{"--no-success", "?ns=1&hdgst=1&ddgst=1&queues=16"},
	};

	for (size_t i = 0; i < TS_ARRAY_LEN(rows); i++) {
		struct nsd_dev *d;

		with_target(rows[i].options);
		d = open_query("a", 1, rows[i].query);
		storms(d);
		assert_int_equal(nsd_session_gen(d), 1);
		nsd_close(d);
	}
	with_target("");
}

/* ---- digests: a proxy that flips a bit --------------------------------------------------------------------------------- */

static int proxy_port;
static atomic_int flip_to_host, flip_to_target; /* so many chunks of data get a wrong bit */
struct pipe2 {
	int host, target;
};

static bool forward(int from, int to, atomic_int *flip)
{
	uint8_t buf[65536];
	ssize_t n = read(from, buf, sizeof(buf)), left = atomic_load(flip);

	if (n <= 0)
		return false;
	if (n > 3000 && left > 0 && atomic_compare_exchange_strong(flip, (int *)&left, (int)left - 1))
		buf[n / 2] ^= 0x10;
	for (ssize_t o = 0, k; o < n; o += k) {
		k = write(to, buf + o, (size_t)(n - o));
		if (k <= 0)
			return false;
	}
	return true;
}

static void *pipe_main(void *arg)
{
	struct pipe2 p = *(struct pipe2 *)arg;
	struct pollfd f[2] = {{p.host, POLLIN, 0}, {p.target, POLLIN, 0}};

	free(arg);
	while (poll(f, 2, -1) > 0)
		if ((f[0].revents && !forward(p.host, p.target, &flip_to_target)) ||
		    (f[1].revents && !forward(p.target, p.host, &flip_to_host)))
			break;
	close(p.host);
	close(p.target);
	return NULL;
}

static void *proxy_main(void *arg)
{
	int l = (int)((intptr_t)arg & 0xffff), to = (int)((intptr_t)arg >> 16); /* descriptor; port: the next test has another */

	for (;;) {
		struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)to), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		struct pipe2 *p = malloc(sizeof(*p));
		pthread_t t;

		p->host = accept(l, NULL, NULL);
		p->target = socket(AF_INET, SOCK_STREAM, 0);
		if (p->host < 0 || connect(p->target, (struct sockaddr *)&sa, sizeof(sa)) || pthread_create(&t, NULL, pipe_main, p))
			return NULL;
		pthread_detach(t);
	}
}

static void start_proxy(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(sa);
	int l = socket(AF_INET, SOCK_STREAM, 0);
	pthread_t t;

	assert_int_equal(bind(l, (struct sockaddr *)&sa, n) || listen(l, 64) || getsockname(l, (struct sockaddr *)&sa, &n), 0);
	proxy_port = ntohs(sa.sin_port);
	assert_int_equal(pthread_create(&t, NULL, proxy_main, (void *)((intptr_t)port << 16 | l)), 0);
}

static struct nsd_dev *open_by_proxy(const char *query)
{
	struct nsd_dev *d;
	char url[200], err[400];

	snprintf(url, sizeof(url), "nvme-tcp://127.0.0.1:%d/" NQN "%s", proxy_port, query);
	if (try_open(url, "a", 1, (struct nsd_gate){0}, &d, err, sizeof(err)))
		fail_msg("%s", err);
	return d;
}

/* Wrong bits on the way, in both directions, under load: seen by the digests, and what was hit is moved again. */
static void bits_flipped_on_the_way(void *arg)
{
	uint8_t *w = ts_alloc_aligned(4096, 256u << 10), *r = ts_alloc_aligned(4096, 256u << 10);
	struct nsd_stats st;
	struct nsd_dev *d;

	start_proxy();
	fill(w, 256u << 10, 42);
	/* Without digests nobody notices: the checker below does see what it is to see. */
	d = open_by_proxy("?ns=1");
	atomic_store(&flip_to_target, 1);
	assert_int_equal(nsd_write(d, w, 256u << 10, 4u << 20), 0);
	assert_int_equal(nsd_read(d, r, 256u << 10, 4u << 20), 0);
	assert_memory_not_equal(w, r, 256u << 10);
	nsd_close(d);
	d = open_by_proxy("?ns=1&hdgst=1&ddgst=1");
	for (int i = 0; i < 4; i++) {
		atomic_store(i & 1 ? &flip_to_host : &flip_to_target, 1);
		assert_int_equal(nsd_write(d, w, 256u << 10, 4u << 20), 0);
		memset(r, 0, 256u << 10);
		assert_int_equal(nsd_read(d, r, 256u << 10, 4u << 20), 0);
		assert_memory_equal(w, r, 256u << 10);
	}
	assert_int_equal(atomic_load(&flip_to_host) + atomic_load(&flip_to_target), 0);
	atomic_store(&flip_to_host, 2);
	atomic_store(&flip_to_target, 2);
	storm(d, 320, 16, 64 * 1024, 77);
	nsd_stats_get(d, &st);
	printf("flipped bits: %llu associations, %llu resends\n", (unsigned long long)nsd_session_gen(d), (unsigned long long)st.resends);
	assert_true(st.resends >= 4);
	assert_int_equal(st.errors, 0);
	nsd_close(d);
	ts_free(w);
	ts_free(r);
}

/* ---- lost connections -------------------------------------------------------------------------------------------------- */

static void killer(void *arg)
{
	struct ts_group *g = arg;

	for (int i = 0; i < 4; i++) {
		pause_ms(200);
		reset_connections();
		pause_ms(700);
	}
	ts_group_done(g, 0);
}

static void connections_reset_under_writes(void *arg)
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
	nsd_stats_get(d, &st);
	printf("associations %llu, resends %llu, errors %llu\n", (unsigned long long)nsd_session_gen(d), (unsigned long long)st.resends,
	       (unsigned long long)st.errors);
	assert_true(nsd_session_gen(d) >= 3);
	assert_true(st.resends > 0);
	assert_int_equal(st.errors, 0);
	nsd_close(d);
}

/* A write that the old controller has taken in and executes late must not come over what was written after its second sending. */
static void late_write_of_an_old_association(void *arg)
{
	uint8_t *b = ts_alloc_aligned(4096, 4096);
	struct iovec iov = {b, 4096};
	struct ts_done done;
	struct nsd_req r = {.op = NSD_WRITE, .off = 1u << 20, .len = 4096, .iov = &iov, .iovcnt = 1, .done = wait_done, .arg = &done};
	struct nsd_dev *d;
	struct nsd_stats st;
	uint64_t t0;

	with_target("--slow-write 1:400");
	d = open_as("a", 1);
	fill(b, 4096, 1);
	ts_done_init(&done);
	nsd_submit(d, &r);
	pause_ms(50);
	reset_connections(); /* the write is with the target, and nobody hears of it any more */
	t0 = ts_exec_now(ts_exec_self());
	assert_int_equal(ts_done_wait(&done, "resent", 0, 0), 0);
	printf("resent and done %llu ms after the loss\n", (unsigned long long)((ts_exec_now(ts_exec_self()) - t0) / TS_NS_PER_MS));
	nsd_stats_get(d, &st);
	assert_int_equal(st.resends, 1);
	fill(b, 4096, 2);
	assert_int_equal(nsd_write(d, b, 4096, 1u << 20), 0);
	pause_ms(600);
	assert_int_equal(nsd_read(d, b, 4096, 1u << 20), 0);
	assert_true(is_filled(b, 4096, 2));
	nsd_close(d);
	ts_free(b);
	with_target("");
}

static void restarter(void *arg)
{
	struct ts_group *g = arg;

	pause_ms(100);
	kill_target();
	pause_ms(300);
	assert_true(start_target(""));
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
	kill(target, SIGSTOP);
	t0 = ts_exec_now(ts_exec_self());
	rc = submit_wait(d, NSD_WRITE, 4u << 20, 1u << 20, &iov, 1, t0 + 500 * TS_NS_PER_MS);
	t0 = ts_exec_now(ts_exec_self()) - t0;
	memset(b, 0xdd, 1u << 20); /* the buffer is ours again: nothing of this may reach the disk */
	kill(target, SIGCONT);
	assert_int_equal(rc, -ETIMEDOUT);
	assert_in_range(t0 / TS_NS_PER_MS, 499, 1500);
	assert_int_equal(nsd_read(d, b, 1u << 20, 4u << 20), 0); /* on the next association */
	for (unsigned i = 0; i < 1u << 20; i += 4096)
		if (b[i] == 0xdd && b[i + 1] == 0xdd && b[i + 4095] == 0xdd)
			fail_msg("the buffer was sent after it had been given back");
	assert_true(nsd_session_gen(d) >= 2);
	ts_free(b);
	nsd_close(d);
}

/* A frozen target, and nothing to send: the keep-alive notices. */
static void frozen_and_idle(void *arg)
{
	struct nsd_dev *d = open_as("a", 1);
	uint8_t *b = ts_alloc_aligned(4096, 4096);

	kill(target, SIGSTOP);
	pause_ms(4500);
	kill(target, SIGCONT);
	assert_int_equal(nsd_read(d, b, 4096, 0), 0);
	assert_true(nsd_session_gen(d) >= 2);
	pause_ms(5000); /* longer than the keep-alive time: we are not thrown out for being quiet */
	assert_int_equal(nsd_read(d, b, 4096, 0), 0);
	assert_true(nsd_session_gen(d) == 2);
	ts_free(b);
	nsd_close(d);
}

static void see_control(void *arg, const char *name, const char *what, uint64_t a, uint64_t b, uint64_t since)
{
	if (!strcmp(what, "NVMe control command"))
		*(bool *)arg = true;
}

static void target_frozen_in_set_up(void *arg)
{
	struct nsd_dev *d = open_as("a", 1);
	uint8_t *b = ts_alloc_aligned(4096, 4096);
	bool seen = false;

	reset_connections();
	for (int i = 0; !seen && i < 5000; i++) {
		ts_fiber_each_waiting(ts_exec_self(), see_control, &seen);
		if (!seen)
			ts_sleep_until(ts_exec_now(ts_exec_self()) + TS_NS_PER_MS / 5);
	}
	assert_true(seen);
	kill(target, SIGSTOP);
	pause_ms(6000); /* beyond the time that a set-up may take */
	kill(target, SIGCONT);
	assert_int_equal(nsd_read(d, b, 4096, 0), 0);
	ts_free(b);
	nsd_close(d);
}

static bool gate_open;
static bool gate(void *arg)
{
	return gate_open;
}

/* A write whose association dies is sent again only if the gate is still open then. */
static void gate_is_asked_again_on_resend(void *arg)
{
	struct nsd_dev *d;
	uint8_t *b = ts_alloc_aligned(4096, 4096);
	struct iovec iov = {b, 4096}, other = {ts_alloc_aligned(4096, 4096), 4096};
	struct nsd_stats st;
	struct ts_done done;
	struct nsd_req r = {.op = NSD_WRITE, .off = 1u << 20, .len = 4096, .iov = &iov, .iovcnt = 1, .done = wait_done, .arg = &done};
	char err[200];

	gate_open = true;
	assert_int_equal(try_open(url_with("?ns=1"), "a", 1, (struct nsd_gate){.may_write = gate}, &d, err, sizeof(err)), 0);
	fill(b, 4096, 3);
	assert_int_equal(nsd_write(d, b, 4096, 1u << 20), 0);
	fill(b, 4096, 4);
	ts_done_init(&done);
	kill(target, SIGSTOP);
	nsd_submit(d, &r);
	pause_ms(50); /* it is sent, under association 1 */
	gate_open = false;
	assert_int_equal(submit_wait(d, NSD_READ, 0, 4096, &other, 1, ts_exec_now(ts_exec_self()) + 100 * TS_NS_PER_MS), -ETIMEDOUT);
	kill(target, SIGCONT);
	assert_int_equal(ts_done_wait(&done, "resend", 0, 0), -TS_ERR_FENCED);
	nsd_stats_get(d, &st);
	assert_int_equal(st.resends, 0);
	assert_int_equal(nsd_write(d, b, 4096, 2u << 20), -TS_ERR_FENCED);
	assert_int_equal(nsd_read(d, b, 4096, 1u << 20), 0);
	ts_free(other.iov_base);
	ts_free(b);
	nsd_close(d);
}

/* ---- reservations ------------------------------------------------------------------------------------------------------ */

static void two_nodes_and_a_fence(void *arg)
{
	struct nsd_dev *a = open_as("a", 1), *b = open_as("b", 1), *c = open_as("c", 1);
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

	/* An association that dies keeps its registration, and the device goes on. */
	reset_connections();
	assert_int_equal(nsd_write(a, buf, 4096, 0), 0);
	assert_int_equal(nsd_write(b, buf, 4096, 0), 0);
	assert_true(nsd_session_gen(a) >= 2);

	assert_int_equal(nsd_pr_fence(b, KEY_B, 0x123), -ENOENT);
	assert_int_equal(nsd_pr_fence(c, 0xcccc, KEY_B), -TS_ERR_FENCED); /* not registered: may not fence */
	assert_int_equal(nsd_pr_fence(b, KEY_B, KEY_A), 0);
	assert_int_equal(nsd_pr_fence(b, KEY_B, KEY_A), -ENOENT);
	assert_true(nsd_info(b)->has_preempt_abort);
	assert_int_equal(submit_wait(a, NSD_WRITE, 0, 4u << 20, &iov, 1, 0), -TS_ERR_FENCED);
	reset_connections();
	pause_ms(300);
	assert_int_equal(nsd_write(a, buf, 4096, 0), -TS_ERR_FENCED);
	assert_int_equal(nsd_pr_register(a, KEY_A), -TS_ERR_FENCED); /* dead for ever, also for a new registration */
	assert_int_equal(nsd_pr_fence(a, KEY_A, KEY_B), -TS_ERR_FENCED);
	assert_int_equal(nsd_write(b, buf, 4096, 0), 0);
	nsd_close(a);

	a = open_as("a", 2); /* a new life with a new key is welcome */
	assert_int_equal(nsd_write(a, buf, 4096, 0), -TS_ERR_FENCED);
	assert_int_equal(nsd_pr_register(a, KEY_A + 1), 0);
	assert_int_equal(nsd_write(a, buf, 4096, 0), 0);
	assert_int_equal(nsd_pr_unregister(a, KEY_A + 1), 0);
	assert_int_equal(nsd_write(a, buf, 4096, 0), -TS_ERR_FENCED);
	assert_int_equal(nsd_pr_unregister(b, KEY_B), 0);
	assert_int_equal(nsd_write(a, buf, 4096, 0), 0); /* nobody is left, nor a reservation */
	ts_free(buf);
	ts_free(s);
	nsd_close(a);
	nsd_close(b);
	nsd_close(c);
}

/* What an earlier life of a node has under way is not let in by the next one's registration. */
static void lives_are_apart(void *arg)
{
	struct nsd_dev *old = open_as("a", 1), *b = open_as("b", 1), *new;
	uint8_t *buf = ts_alloc_aligned(4096, 4096);

	assert_int_equal(nsd_pr_register(old, KEY_A), 0);
	assert_int_equal(nsd_pr_register(b, KEY_B), 0);
	assert_int_equal(nsd_pr_reserve(b, KEY_B), 0);
	new = open_as("a", 2);
	assert_int_equal(nsd_pr_register(new, KEY_A + 1), 0);
	assert_int_equal(nsd_write(new, buf, 4096, 0), 0);
	assert_int_equal(nsd_pr_fence(b, KEY_B, KEY_A), 0);
	assert_int_equal(nsd_write(old, buf, 4096, 0), -TS_ERR_FENCED);
	assert_int_equal(nsd_write(new, buf, 4096, 0), 0);
	assert_int_equal(nsd_pr_unregister(new, KEY_A + 1), 0);
	assert_int_equal(nsd_pr_unregister(b, KEY_B), 0);
	nsd_close(old);
	nsd_close(new);
	nsd_close(b);
	ts_free(buf);
}

/* Preempted while its association is down: the first thing it hears on the new one is that it is out. */
static void fenced_while_away(void *arg)
{
	struct nsd_dev *a = open_as("a", 1), *b = open_as("b", 1);
	uint8_t *buf = ts_alloc_aligned(4096, 4096);

	assert_int_equal(nsd_pr_register(a, KEY_A), 0);
	assert_int_equal(nsd_pr_register(b, KEY_B), 0);
	assert_int_equal(nsd_pr_reserve(b, KEY_B), 0);
	assert_int_equal(nsd_pr_fence(b, KEY_B, KEY_A), 0);
	reset_connections();
	for (int i = 0; i < 100 && nsd_read(a, buf, 4096, 0) == 0; i++)
		pause_ms(20);
	assert_int_equal(nsd_read(a, buf, 4096, 0), -TS_ERR_FENCED);
	assert_int_equal(nsd_write(b, buf, 4096, 0), 0);
	assert_int_equal(nsd_pr_unregister(b, KEY_B), 0);
	nsd_close(b);
	nsd_close(a);
	ts_free(buf);
}

/* A write of the victim that is being executed when it is preempted is over before the fence is. */
static void fence_waits_for_the_victims_writes(void *arg)
{
	uint8_t *b1 = ts_alloc_aligned(4096, 4096), *b2 = ts_alloc_aligned(4096, 4096);
	struct iovec iov = {b1, 4096};
	struct ts_done done;
	struct nsd_req r = {.op = NSD_WRITE, .off = 1u << 20, .len = 4096, .iov = &iov, .iovcnt = 1, .done = wait_done, .arg = &done};
	struct nsd_dev *a, *b;

	with_target("--slow-write 1:300");
	a = open_as("a", 1);
	b = open_as("b", 1);
	assert_int_equal(nsd_pr_register(a, KEY_A), 0);
	assert_int_equal(nsd_pr_register(b, KEY_B), 0);
	assert_int_equal(nsd_pr_reserve(b, KEY_B), 0);
	fill(b1, 4096, 1);
	ts_done_init(&done);
	nsd_submit(a, &r);
	pause_ms(50);
	assert_int_equal(nsd_pr_fence(b, KEY_B, KEY_A), 0);
	fill(b2, 4096, 2);
	assert_int_equal(nsd_write(b, b2, 4096, 1u << 20), 0);
	(void)!ts_done_wait(&done, "the victim's write", 0, 0);
	pause_ms(400);
	assert_int_equal(nsd_read(b, b2, 4096, 1u << 20), 0);
	assert_true(is_filled(b2, 4096, 2));
	nsd_close(a);
	nsd_close(b);
	ts_free(b1);
	ts_free(b2);
	with_target("");
}

static uint32_t abilities(const char *options)
{
	struct nsd_dev *a, *b;
	uint32_t able;
	char err[200] = "";

	with_target(options);
	a = open_as("a", 1);
	b = open_as("a:probe", 1);
	if (nsd_able_probe(a, KEY_A, b, KEY_B, 800u << 10, &able, err, sizeof(err)))
		fail_msg("%s", err);
	nsd_close(a);
	nsd_close(b);
	return able;
}

/* Also of a target whose PREEMPT answers well and unregisters nobody, and of one that does not enforce. */
static void abilities_are_found_out(void *arg)
{
	uint32_t good = NSD_ABLE_PROBED | NSD_ABLE_ENFORCES | NSD_ABLE_PREEMPT_ABORT | NSD_ABLE_UNMAP_FENCED | NSD_ABLE_WRITE_SAME_FENCED |
			NSD_ABLE_FLUSH_FENCED;
	struct nsd_dev *d, *b;
	uint8_t *buf = ts_alloc_aligned(4096, 4096);

	assert_int_equal(abilities("--fault no-fence"), NSD_ABLE_PROBED);
	assert_int_equal(abilities("--fault keep-victim"), NSD_ABLE_PROBED);
	d = open_as("a", 1);
	b = open_as("b", 1);
	assert_int_equal(nsd_pr_register(d, KEY_A), 0);
	assert_int_equal(nsd_pr_register(b, KEY_B), 0);
	assert_int_equal(nsd_pr_reserve(b, KEY_B), 0);
	assert_int_equal(nsd_pr_fence(b, KEY_B, KEY_A), -EIO); /* the key is still there: not fenced, whatever the target says */
	nsd_close(d);
	nsd_close(b);
	assert_int_equal(abilities("--ptpl"), good | NSD_ABLE_KEEPS);
	assert_int_equal(abilities(""), good);
	/* Only what was found fenced is used. */
	d = open_as("a", 1);
	assert_int_equal(submit_wait(d, NSD_DISCARD, 0, 4096, NULL, 0, 0), -EOPNOTSUPP);
	nsd_able_apply(d, good);
	fill(buf, 4096, 1);
	assert_int_equal(nsd_write(d, buf, 4096, 8192), 0);
	assert_int_equal(submit_wait(d, NSD_ZERO, 8192, 4096, NULL, 0, 0), 0);
	assert_int_equal(nsd_read(d, buf, 4096, 8192), 0);
	assert_true(buf[0] == 0 && !memcmp(buf, buf + 1, 4095));
	assert_int_equal(submit_wait(d, NSD_DISCARD, 0, 64u << 20, NULL, 0, 0), 0);
	shapes(d);
	nsd_able_apply(d, good & ~(uint32_t)NSD_ABLE_UNMAP_FENCED);
	assert_int_equal(submit_wait(d, NSD_DISCARD, 0, 4096, NULL, 0, 0), -EOPNOTSUPP);
	nsd_close(d);
	ts_free(buf);
}

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

	snprintf(path, sizeof(path), "%s/disk1", dir);
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

static struct nsd_dev *open_lost(const char *node, struct survivor *s)
{
	struct nsd_dev *d;
	char err[400];

	assert_int_equal(try_open(url_with("?ns=1"), node, 1, (struct nsd_gate){.registration_lost = on_lost, .arg = s}, &d, err, sizeof(err)), 0);
	assert_int_equal(nsd_pr_register(d, s->key), 0);
	assert_int_equal(nsd_pr_reserve(d, s->key), 0);
	return d;
}

static void registration_lost_with_the_target(void *arg)
{
	/* a is told "not yet" once, after it has registered already; b was excluded. */
	struct survivor sa = {.key = KEY_A, .answers = {-EAGAIN}}, sb = {.key = KEY_B, .answers = {-TS_ERR_FENCED, -TS_ERR_FENCED}};
	struct nsd_dev *a = open_lost("a", &sa), *b = open_lost("b", &sb), *c = open_as("c", 1);
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
	ts_done_init(&da);
	ts_done_init(&db);
	rb.arg = &db;
	rb.off = LOST_OFF + 4096;
	kill(target, SIGSTOP); /* both writes are on their way when the target dies */
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
	assert_int_equal(s->nkeys, 1);
	assert_int_equal(s->keys[0], KEY_A);
	assert_int_equal(s->type, NSD_PR_WRITE_EXCL_ALL_REGISTRANTS);
	assert_int_equal(nsd_write(c, new, 4096, LOST_OFF + 8192), -TS_ERR_FENCED); /* who is not registered is kept out again */
	assert_int_equal(nsd_pr_register(b, KEY_B), -TS_ERR_FENCED);
	/* An association that is lost alone asks nobody. */
	reset_connections();
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

/* A target that keeps them: after its restart the key stands, and nobody is asked. */
static void registration_kept_by_the_target(void *arg)
{
	struct survivor sa = {.key = KEY_A, .answers = {-TS_ERR_FENCED}};
	struct nsd_dev *a, *b;
	uint8_t *buf = ts_alloc_aligned(4096, 4096);

	with_target("--ptpl");
	a = open_lost("a", &sa);
	b = open_as("b", 1);
	assert_true(nsd_info(a)->keeps_reservations);
	kill_target();
	assert_true(start_target("--ptpl"));
	assert_int_equal(nsd_write(a, buf, 4096, 0), 0);
	assert_int_equal(nsd_write(b, buf, 4096, 0), -TS_ERR_FENCED);
	assert_int_equal(sa.asked, 0);
	assert_int_equal(nsd_losses(a), 0);
	assert_int_equal(nsd_pr_unregister(a, KEY_A), 0);
	nsd_close(a);
	nsd_close(b);
	ts_free(buf);
	with_target("");
}

/* The reservation vanishes alone (here: taken away by hand): the next association puts it back. Its holder's death leaves it. */
static void reservation_is_looked_at(void *arg)
{
	struct nsd_dev *a = open_as("a", 1), *b = open_as("b", 1);
	struct nsd_pr_state *p = ts_xalloc(sizeof(*p));
	uint8_t *buf = ts_alloc_aligned(4096, 4096);

	assert_int_equal(nsd_pr_register(a, KEY_A), 0);
	assert_int_equal(nsd_pr_register(b, KEY_B), 0);
	assert_int_equal(nsd_pr_reserve(a, KEY_A), 0);
	assert_int_equal(nsd_pr_reserve(b, KEY_B), 0);
	nsd_close(a); /* it made the reservation, and goes: first its association alone, then its registration */
	assert_int_equal(nsd_pr_read(b, p), 0);
	assert_int_equal(p->type, NSD_PR_WRITE_EXCL_ALL_REGISTRANTS);
	assert_int_equal(nsd_pr_fence(b, KEY_B, KEY_A), 0);
	assert_int_equal(nsd_pr_read(b, p), 0);
	assert_int_equal(p->type, NSD_PR_WRITE_EXCL_ALL_REGISTRANTS);
	assert_int_equal(b->ops->pr(b, NSD_PRV_RELEASE, KEY_B, 0, NULL), 0);
	assert_int_equal(nsd_pr_read(b, p), 0);
	assert_int_equal(p->type, NSD_PR_NONE);
	reset_connections();
	assert_int_equal(nsd_write(b, buf, 4096, 0), 0);
	assert_int_equal(nsd_pr_read(b, p), 0);
	assert_int_equal(p->type, NSD_PR_WRITE_EXCL_ALL_REGISTRANTS);
	assert_int_equal(nsd_pr_unregister(b, KEY_B), 0);
	nsd_close(b);
	ts_free(buf);
	ts_free(p);
}

/* ---- the rest ---------------------------------------------------------------------------------------------------------- */

static void failing_allocations(void *arg)
{
	struct nsd_dev *d;
	char err[400];

	for (uint64_t n = 1;; n++) {
		int rc;

		ts_alloc_fail_nth(n);
		rc = try_open(url_with("?ns=1"), "a", 1, (struct nsd_gate){0}, &d, err, sizeof(err));
		ts_alloc_fail_nth(0);
		if (!rc) {
			nsd_close(d);
			if (n > 12)
				break;
		}
		assert_true(n < 100);
	}
}

static void closing_while_the_target_is_gone(void *arg)
{
	struct nsd_dev *d = open_as("a", 1);

	kill(target, SIGSTOP);
	nsd_close(d); /* bounded by the shutdown's second */
	kill(target, SIGCONT);
}

static void speed(void *arg)
{
	struct nsd_dev *d = open_as("a", 1);

	bench(d, "nvme-tcp (nvmet)");
	nsd_close(d);
}

/* ---- a target that is not ours (tests/vm/nvme) --------------------------------------------------------------------------- */

static void a_foreign_target(void *arg)
{
	static const char *const queries[] = {"?ns=1", "?ns=1&hdgst=1&queues=1", "?ns=1&ddgst=1&queues=2", "?ns=1&hdgst=1&ddgst=1"};
	const char *base = getenv("TESSERA_NVME_FOREIGN");
	char url[300], err[400];
	struct nsd_dev *d;

	for (size_t i = 0; i <= TS_ARRAY_LEN(queries); i++) {
		bool discover = i == TS_ARRAY_LEN(queries);

		snprintf(url, sizeof(url), "%s%s%s", base, discover ? "/?ns=1" : "/nqn.2026-11.io.tessera:kernel", discover ? "" : queries[i]);
		/* Discovered is an address that only the target's own network has. */
		if (try_open(url, "a", 1, (struct nsd_gate){0}, &d, err, sizeof(err))) {
			if (discover && strstr(err, "nqn.2026-11.io.tessera:kernel")) {
				printf("   discovered: %.80s\n", err);
				return;
			}
			fail_msg("%s", err);
		}
		storm(d, 320, 32, 4096, i + 1);
		storm(d, 96, 16, 128 * 1024, i + 10);
		shapes(d);
		assert_int_equal(nsd_session_gen(d), 1);
		printf("   our host on a foreign target, %s: %llu MiB, unit \"%s\", reservations %s\n", queries[i % 4],
		       (unsigned long long)nsd_info(d)->size_bytes >> 20, nsd_info(d)->serial, nsd_info(d)->has_reservations ? "yes" : "no");
		nsd_close(d);
	}
}

#define T(fn) {#fn, in_fiber, NULL, NULL, fn}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(opens_and_tells_what_it_is), T(discovery), T(wrong_addresses), T(io_in_all_shapes), T(bits_flipped_on_the_way),
		T(connections_reset_under_writes), T(late_write_of_an_old_association), T(frozen_target_and_deadline), T(frozen_and_idle),
		T(target_frozen_in_set_up), T(gate_is_asked_again_on_resend), T(two_nodes_and_a_fence), T(lives_are_apart),
		T(fenced_while_away), T(fence_waits_for_the_victims_writes), T(abilities_are_found_out), T(registration_lost_with_the_target),
		T(registration_kept_by_the_target), T(reservation_is_looked_at), T(target_restarted_under_writes), T(failing_allocations),
		T(closing_while_the_target_is_gone), T(speed),
	};
	int rc = 1;

	if (getenv("TESSERA_NVME_FOREIGN")) {
		const struct CMUnitTest foreign[] = {T(a_foreign_target)};

		return cmocka_run_group_tests(foreign, NULL, NULL);
	}
	if (!mkdtemp(dir))
		return 1;
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	if (run("truncate -s %u %s/disk1 && truncate -s %u %s/disk2", SIZE, dir, SIZE / 2, dir) == 0 && start_target(""))
		rc = cmocka_run_group_tests(tests, NULL, NULL);
	else
		printf("nvmet did not start, see %s/log\n", dir);
	kill_target();
	if (!rc)
		run("rm -rf %s", dir);
	return rc;
}
