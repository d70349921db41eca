/* SPDX-License-Identifier: Apache-2.0 */
/* What a token costs: the lock engine alone (dlm/, one node that is its own master: grant and release of resources in memory), and a
 * token that moves between two daemons' worth of executor, tokens/ and net/ over TCP, next to a bare TCP round trip of a message as long.
 * Nothing lies under the tokens: no log is forced, no cache dropped.
 *
 *   tokens [--rounds N]
 *
 * Prints one JSON line. What must never happen: a pin counted as moved that was answered from the cache. */
#include "dlm/dlm.h"
#include "tokens/tokens.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define RESOURCES 100000u
#define IDS	  64u
#define FRAME	  240u /* header and lock message */
#define CHECK(c)                                                                     \
	do {                                                                         \
		if (!(c)) {                                                          \
			fprintf(stderr, "tokens: %s:%d: %s\n", __FILE__, __LINE__, #c); \
			exit(1);                                                     \
		}                                                                    \
	} while (0)

static struct quorum_group_view view_of(unsigned nodes)
{
	struct quorum_group_view v = {.group = 77, .epoch = 1, .view = 1, .quorate = true, .nmembers = nodes};

	for (unsigned i = 0; i < nodes; i++)
		v.members[i] = (struct quorum_member){.node = i + 1, .incarnation = i + 1};
	return v;
}

/* ---- the engine alone ------------------------------------------------------------------------------------------ */

static int no_send(void *arg, unsigned node, enum net_lane lane, uint16_t type, uint64_t epoch, const void *p, uint32_t len)
{
	CHECK(!"a message from a node that is alone");
	return 0;
}
static void no_req(void *arg, struct dlm_req *req) { }
static void no_denied(void *arg, struct dlm_req *req, int err) { }
static void no_res(void *arg, struct dlm_res *res) { }
static void no_change(void *arg) { }

static double engine_rate(unsigned rounds)
{
	struct dlm_args a = {.self = 1, .owner_kind = TOK_SEGMENT, .ops = {no_send, no_req, no_denied, no_res, no_change, NULL, NULL, NULL, NULL}};
	struct quorum_group_view v = view_of(1);
	struct dlm *d = dlm_new(&a);
	struct dlm_res *r = calloc(RESOURCES, sizeof(*r));
	struct dlm_req q;
	uint64_t begin, n = 0;

	CHECK(d && r);
	dlm_view(d, &v);
	CHECK(dlm_ready(d));
	for (unsigned i = 0; i < RESOURCES; i++)
		CHECK(dlm_res_init(d, &r[i], (struct dlm_key){.id = i, .kind = TOK_REGION}) == 0);
	begin = ts_now_ns(&ts_env_real);
	for (unsigned k = 0; k < rounds; k++)
		for (unsigned i = 0; i < RESOURCES; i++, n++) {
			q = (struct dlm_req){.end = DLM_END, .dend = DLM_END, .mode = DLM_EX};
			CHECK(dlm_request(d, &r[i], &q) == 1);
			dlm_shrink(d, &r[i], 0, DLM_END, DLM_NL);
		}
	begin = ts_now_ns(&ts_env_real) - begin;
	for (unsigned i = 0; i < RESOURCES; i++)
		dlm_res_fini(d, &r[i]);
	dlm_free(d);
	free(r);
	return (double)n * 1e9 / (double)begin;
}

/* ---- a token that moves ---------------------------------------------------------------------------------------- */

struct side {
	struct ts_exec *x;
	struct ts_loop *loop;
	struct net *net;
	struct tok_mgr *m;
	unsigned self, rounds;
	int talk; /* to the other process: ports, then turns */
	bool turn;
	struct ts_cond turned;
	uint64_t moved_ns, moved;
};

static int on_revoke(void *arg, enum tok_kind kind, uint64_t id, enum tok_mode to, uint64_t start, uint64_t end)
{
	return 0;
}
static void on_lost(void *arg)
{
	CHECK(!"excluded");
}

static void on_talk(void *arg, uint32_t events)
{
	struct side *s = arg;
	char c;

	CHECK(read(s->talk, &c, 1) == 1);
	s->turn = true;
	ts_cond_broadcast(&s->turned);
}

static void take_all(struct side *s)
{
	for (unsigned id = 0; id < IDS; id++) {
		struct tok_stats before, after;
		struct tok_pin p = {0};
		uint64_t t;

		tok_stats_get(s->m, &before);
		t = ts_exec_now(s->x);
		CHECK(tok_pin(s->m, TOK_REGION, id, TOK_EX, 0, TOK_END, 0, &p) == 0);
		s->moved_ns += ts_exec_now(s->x) - t;
		s->moved++;
		tok_unpin(s->m, &p);
		tok_stats_get(s->m, &after);
		CHECK(after.pin_hits == before.pin_hits);
	}
}

static void turns(void *arg)
{
	struct side *s = arg;

	CHECK(tok_mgr_wait_ready(s->m) == 0);
	for (unsigned i = 0; i < s->rounds; i++) {
		while (!s->turn)
			ts_cond_wait(&s->turned, "turn", 0, 0);
		s->turn = false;
		if (i == 1) /* the first time nobody holds them */
			s->moved = s->moved_ns = 0;
		take_all(s);
		CHECK(write(s->talk, "", 1) == 1);
	}
	while (!s->turn) /* the other's last turn needs us */
		ts_cond_wait(&s->turned, "turn", 0, 0);
	ts_loop_stop(s->loop);
}

static void open_side(struct side *s)
{
	static const uint8_t key[32] = {1};
	struct net_tcp_args na = {.self_node = s->self, .incarnation = s->self, .key = key, .bind_addr = "127.0.0.1"};
	struct tok_args ta = {.group = 77, .net_group = 1, .self = s->self, .incarnation = s->self, .events = {.revoke = on_revoke, .lost = on_lost}};
	struct quorum_group_view v = view_of(2);
	char err[128];
	unsigned port = 0;

	s->x = na.exec = ta.exec = ts_exec_new(&ts_env_real);
	s->loop = ts_loop_new(s->x);
	ts_cond_init(&s->turned);
	/* The port is chosen by trying: two processes ask from opposite ends. */
	for (na.port = s->self == 1 ? 21000 : 29000; net_tcp_open(&na, &s->net, err, sizeof(err)); na.port += s->self == 1 ? 1u : -1u)
		CHECK(na.port > 20000 && na.port < 30000);
	ta.net = s->net;
	CHECK(write(s->talk, &na.port, sizeof(port)) == sizeof(port) && read(s->talk, &port, sizeof(port)) == sizeof(port));
	net_peer_set(s->net, 3 - s->self, 3 - s->self, "127.0.0.1", port);
	s->m = tok_mgr_new(&ta);
	CHECK(s->m);
	tok_mgr_view(s->m, &v);
	CHECK(ts_loop_fd_add(s->loop, s->talk, EPOLLIN, on_talk, s) == 0);
	CHECK(ts_fiber_spawn(s->x, "turns", turns, s) == 0);
}

static double moved_us(unsigned rounds)
{
	int pair[2], st;
	struct side s = {.self = 1, .rounds = rounds, .turn = true};
	pid_t child;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	child = fork();
	CHECK(child >= 0);
	s.talk = pair[child == 0];
	if (child == 0) {
		s.self = 2;
		s.turn = false;
	}
	open_side(&s);
	ts_loop_run(s.loop);
	if (child == 0)
		_exit(0);
	CHECK(write(s.talk, "", 1) == 1);
	CHECK(waitpid(child, &st, 0) == child && st == 0);
	return (double)s.moved_ns / (double)s.moved / 1e3;
}

/* ---- a bare round trip ------------------------------------------------------------------------------------------- */

static void whole(int fd, bool out)
{
	char buf[FRAME] = {0};

	for (size_t done = 0; done < FRAME;) {
		ssize_t n = out ? write(fd, buf + done, FRAME - done) : read(fd, buf + done, FRAME - done);

		CHECK(n > 0);
		done += (size_t)n;
	}
}

static double round_trip_us(unsigned trips)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM, 0), fd, one = 1, st;
	uint64_t t;
	pid_t child;

	CHECK(l >= 0 && bind(l, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(l, 1) == 0 && getsockname(l, (struct sockaddr *)&a, &len) == 0);
	child = fork();
	CHECK(child >= 0);
	fd = child == 0 ? socket(AF_INET, SOCK_STREAM, 0) : accept(l, NULL, NULL);
	if (child == 0)
		CHECK(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	CHECK(fd >= 0 && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0);
	t = ts_now_ns(&ts_env_real);
	for (unsigned i = 0; i < trips; i++) {
		whole(fd, child == 0);
		whole(fd, child != 0);
	}
	if (child == 0)
		_exit(0);
	t = ts_now_ns(&ts_env_real) - t;
	CHECK(waitpid(child, &st, 0) == child && st == 0);
	close(fd);
	close(l);
	return (double)t / trips / 1e3;
}

int main(int argc, char **argv)
{
	unsigned rounds = argc == 3 && !strcmp(argv[1], "--rounds") ? (unsigned)atoi(argv[2]) : 20;
	double rate, moved, trip;

	if (!rounds || (argc != 1 && argc != 3)) {
		fprintf(stderr, "usage: tokens [--rounds N]\n");
		return 2;
	}
	rate = engine_rate(rounds);
	trip = round_trip_us(rounds * IDS);
	moved = moved_us(rounds + 1);
	printf("{\"what\": \"tokens\", \"grants_per_s\": %.0f, \"held_bytes\": %zu, \"round_trip_us\": %.2f, \"moved_us\": %.2f}\n", rate,
	       sizeof(struct dlm_res), trip, moved);
	return 0;
}
