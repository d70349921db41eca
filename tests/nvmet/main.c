/* SPDX-License-Identifier: Apache-2.0 */
/* Job: nvmet's options, memory, listening socket. Each FILE is a namespace, numbered from 1, its UUID made from the NQN and the file's
 * name.
 *
 *	nvmet [OPTION...] FILE...	in the foreground; prints "ready PORT" when it listens
 *	SIGUSR1: every connection is reset. SIGTERM: ends. */
#include "tests/nvmet/nvmet.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

struct target T;

/* ---- buffers: powers of two from 4 KiB, kept ---------------------------------------------------------------------------- */

#define CLASSES 9
#define KEPT	64
static void *kept[CLASSES][KEPT];
static unsigned nkept[CLASSES];

static unsigned class_of(uint32_t len)
{
	unsigned c = 0;

	while ((4096u << c) < len)
		c++;
	TS_ASSERT(c < CLASSES);
	return c;
}

void *buf_new(uint32_t len)
{
	unsigned c = class_of(len);
	void *p = nkept[c] ? kept[c][--nkept[c]] : ts_alloc_aligned(4096, 4096u << c);

	TS_ASSERT(p);
	return p;
}

void buf_free(void *p, uint32_t len)
{
	unsigned c;

	if (!p)
		return;
	c = class_of(len);
	if (nkept[c] < KEPT)
		kept[c][nkept[c]++] = p;
	else
		ts_free(p);
}

/* ---- start --------------------------------------------------------------------------------------------------------------- */

static void before_sleep(void *arg)
{
	conn_flush_all();
}

static void on_accept(void *arg, uint32_t events)
{
	int fd;

	while ((fd = accept4(T.listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
		conn_new(fd);
}

static void on_signal(void *arg, uint32_t events)
{
	int fd = (int)(intptr_t)arg;
	struct signalfd_siginfo si;
	struct linger reset = {.l_onoff = 1};

	while (read(fd, &si, sizeof(si)) == sizeof(si)) {
		if (si.ssi_signo == SIGTERM || si.ssi_signo == SIGINT)
			_exit(0); /* what was flushed is stable, the rest is not: as with any disk that is switched off */
		while (!ts_list_empty(&T.conns)) {
			struct conn *c = ts_list_entry(T.conns.next, struct conn, link);

			setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
			conn_close(c);
		}
	}
}

static int listen_on(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)T.opt.port)};
	socklen_t len = sizeof(sa);
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (inet_pton(AF_INET, T.opt.addr, &sa.sin_addr) != 1)
		return -EINVAL;
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) || bind(fd, (struct sockaddr *)&sa, len) ||
	    listen(fd, 256) || getsockname(fd, (struct sockaddr *)&sa, &len))
		return -errno;
	T.listen_fd = fd;
	T.opt.port = ntohs(sa.sin_port);
	return ts_loop_fd_add(T.loop, fd, EPOLLIN, on_accept, NULL);
}

static void start(void *arg)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < T.nns; i++) {
		struct ns *n = &T.ns[i];
		const char *base = strrchr(n->path, '/');
		uint64_t h[2];

		base = base ? base + 1 : n->path;
		h[0] = ts_csum64(base, strlen(base), ts_csum64(T.opt.nqn, strlen(T.opt.nqn), 1));
		h[1] = ts_csum64(base, strlen(base), ts_csum64(T.opt.nqn, strlen(T.opt.nqn), 2));
		memcpy(n->uuid, h, 16);
		n->uuid[6] = (uint8_t)((n->uuid[6] & 15) | 0x80); /* version 8: made by own rules */
		n->uuid[8] = (uint8_t)((n->uuid[8] & 0x3f) | 0x80);
		ts_list_init(&n->executing);
		ts_list_init(&n->fences);
		rc = backing_open(n);
		if (!rc)
			resv_load(n);
	}
	if (!rc)
		rc = listen_on();
	if (rc) {
		fprintf(stderr, "nvmet: %s\n", strerror(-rc));
		_exit(1);
	}
	printf("ready %u\n", T.opt.port);
	fflush(stdout);
}

static void usage(void)
{
	fprintf(stderr, "usage: nvmet [--addr A] [--port P] [--nqn NQN] [--queues N] [--depth N] [--capsule BYTES] [--max-h2c BYTES]\n"
			"  [--c2h BYTES] [--r2t BYTES] [--cached] [--ptpl] [--no-success] [--cqt MS] [--slow-write NTH:MS]\n"
			"  [--fault keep-victim|no-fence] FILE...\n");
	exit(2);
}

static void fault(const char *name)
{
	if (!strcmp(name, "keep-victim"))
		T.opt.keep_victim = true;
	else if (!strcmp(name, "no-fence"))
		T.opt.no_fence = true;
	else
		usage();
}

static void options(int argc, char **argv)
{
	enum { ADDR, PORT, NQN, QUEUES, DEPTH, CAPSULE, H2C, C2H, R2T, CACHED, PTPL, NO_SUCCESS, CQT, SLOW, FAULT };
	static const struct option known[] = {
		{"addr", 1, NULL, ADDR}, {"port", 1, NULL, PORT}, {"nqn", 1, NULL, NQN}, {"queues", 1, NULL, QUEUES}, {"depth", 1, NULL, DEPTH},
		{"capsule", 1, NULL, CAPSULE}, {"max-h2c", 1, NULL, H2C}, {"c2h", 1, NULL, C2H}, {"r2t", 1, NULL, R2T},
		{"cached", 0, NULL, CACHED}, {"ptpl", 0, NULL, PTPL}, {"no-success", 0, NULL, NO_SUCCESS}, {"cqt", 1, NULL, CQT},
		{"slow-write", 1, NULL, SLOW}, {"fault", 1, NULL, FAULT}, {0}};
	struct options *o = &T.opt;

	*o = (struct options){.addr = "127.0.0.1", .port = 4420, .nqn = "nqn.2026-11.io.tessera:test", .queues = 8, .depth = MAX_DEPTH - 1,
			      .capsule = 16384, .max_h2c = MAX_IO, .c2h = MAX_IO, .r2t = MAX_IO};
	for (int c; (c = getopt_long(argc, argv, "", known, NULL)) >= 0;) {
		unsigned n = optarg ? (unsigned)strtoul(optarg, NULL, 0) : 0;

		switch (c) {
		case ADDR: o->addr = optarg; break;
		case PORT: o->port = n; break;
		case NQN: o->nqn = optarg; break;
		case QUEUES: o->queues = n; break;
		case DEPTH: o->depth = n; break;
		case CAPSULE: o->capsule = n & ~15u; break;
		case H2C: o->max_h2c = n; break;
		case C2H: o->c2h = n; break;
		case R2T: o->r2t = n; break;
		case CACHED: o->cached = true; break;
		case PTPL: o->ptpl = true; break;
		case NO_SUCCESS: o->no_success = true; break;
		case CQT: o->cqt_ms = n; break;
		case SLOW:
			if (sscanf(optarg, "%u:%u", &o->slow_nth, &o->slow_ms) != 2)
				usage();
			break;
		case FAULT: fault(optarg); break;
		default: usage();
		}
	}
	if (!o->queues || o->queues > MAX_QUEUES || !o->depth || o->depth >= MAX_DEPTH || !o->c2h || !o->r2t || o->max_h2c < 4096)
		usage();
}

int main(int argc, char **argv)
{
	sigset_t set;
	int fd;

	options(argc, argv);
	for (; optind < argc && T.nns < MAX_NS; optind++) {
		struct ns *n = &T.ns[T.nns++];

		n->id = T.nns;
		snprintf(n->path, sizeof(n->path), "%s", argv[optind]);
	}
	if (!T.nns || optind < argc)
		usage();
	ts_list_init(&T.conns);
	ts_list_init(&T.ctrls);
	T.exec = ts_exec_new(&ts_env_real);
	T.loop = ts_loop_new(T.exec);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	TS_ASSERT(fd >= 0 && ts_loop_fd_add(T.loop, fd, EPOLLIN, on_signal, (void *)(intptr_t)fd) == 0);
	ts_loop_before_wait(T.loop, before_sleep, NULL);
	TS_ASSERT(ts_fiber_spawn(T.exec, "start", start, NULL) == 0);
	ts_loop_run(T.loop);
	return 0;
}
