/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the TCP transport, two and three nodes on loopback in one process. What must never happen, and is tried here: a
 * message lost, doubled or out of order over forced cuts and flipped bytes; anything delivered from a stranger, a
 * replayed handshake, garbage, or an incarnation that is not a peer. */
#include "net/net_int.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* Not cmocka's assertions: they jump, and the tests run on fibers. */
#define CHECK(c)                                                                                           \
	do {                                                                                               \
		if (!(c)) {                                                                                \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #c);                            \
			abort();                                                                           \
		}                                                                                          \
	} while (0)

#define T_DATA	0x101
#define T_ECHO	0x102
#define T_NEVER 0x103
#define LANES_TESTED 3
static struct ts_exec *x;
static struct ts_loop *loop;
static const uint8_t key_a[32] = {1, 2, 3}, key_b[32] = {9};
static bool encrypt; /* every node that comes up wants it */

struct node {
	struct net *n;
	unsigned id;
	uint64_t got[NET_LANES], next[NET_LANES], bytes;
	uint64_t order[64], norder;
	struct net_msg held;
	unsigned drop_at;
};

static void on_msg(void *arg, const struct net_msg *m)
{
	struct node *nd = arg;
	uint64_t v = 0;

	if (m->type == T_ECHO) {
		CHECK(net_reply(nd->n, m, 7, m->payload, m->len) == 0);
		return;
	}
	if (m->type == T_NEVER) {
		nd->held = *m;
		nd->held.payload = NULL;
		return;
	}
	CHECK(m->len >= sizeof(v));
	memcpy(&v, m->payload, sizeof(v));
	CHECK(v == nd->next[m->lane]++);
	nd->got[m->lane]++;
	nd->bytes += m->len;
	if (nd->norder < 64)
		nd->order[nd->norder++] = m->lane;
	if (nd->drop_at && nd->got[m->lane] == nd->drop_at)
		net_peer_drop(nd->n, m->src_node);
}

static void up_key(struct node *nd, unsigned id, uint64_t inc, const uint8_t *key)
{
	struct net_tcp_args a = {x, id, inc, key, "127.0.0.1", 0, encrypt};
	char err[128];

	memset(nd, 0, sizeof(*nd));
	nd->id = id;
	if (net_tcp_open(&a, &nd->n, err, sizeof(err))) {
		fprintf(stderr, "%s\n", err);
		abort();
	}
	net_handle(nd->n, 0x100, on_msg, nd);
}

static void up(struct node *nd, unsigned id, uint64_t inc)
{
	up_key(nd, id, inc, key_a);
}

static void know(struct node *a, struct node *b)
{
	net_peer_set(a->n, b->id, b->n->incarnation, "127.0.0.1", net_tcp_port(b->n));
}

static void pair(struct node *a, struct node *b)
{
	know(a, b);
	know(b, a);
}

static void nap(unsigned ms)
{
	ts_sleep_until(ts_exec_now(x) + ms * TS_NS_PER_MS);
}

static void wait_open(struct node *a, struct node *b)
{
	for (unsigned i = 0; i < 4000 && !(net_tcp_test_open(a->n, b->id) && net_tcp_test_open(b->n, a->id)); i++)
		nap(1);
	CHECK(net_tcp_test_open(a->n, b->id));
}

static int put(struct node *a, unsigned dst, enum net_lane lane, uint64_t v, uint32_t len)
{
	static uint8_t buf[NET_MAX_PAYLOAD];
	struct net_out o = {.dst_node = dst, .lane = lane, .type = T_DATA, .payload = buf, .len = len};
	int rc;

	memcpy(buf, &v, sizeof(v));
	while ((rc = net_send(a->n, &o)) == -ENOBUFS)
		nap(1);
	return rc;
}

static void wait_got(struct node *b, enum net_lane lane, uint64_t n)
{
	for (unsigned i = 0; i < 20000 && b->got[lane] < n; i++)
		nap(1);
	CHECK(b->got[lane] == n);
}

/* ---- order, replies, bounds -------------------------------------------------------------------------------------- */

static void t_order(void *arg)
{
	struct node a, b;
	uint32_t len = 16;
	char buf[16];
	int result = 0;
	struct net_out echo = {.dst_node = 2, .lane = NET_REQUEST, .type = T_ECHO, .payload = "hallo", .len = 5};
	struct net_out none = {.dst_node = 2, .lane = NET_REQUEST, .type = 0x901};

	up(&a, 1, 11);
	up(&b, 2, 22);
	CHECK(put(&a, 2, 0, 0, 8) == -ENOTCONN);
	pair(&a, &b);
	for (uint64_t i = 0; i < 3000; i++)
		for (unsigned l = 0; l < LANES_TESTED; l++)
			CHECK(put(&a, 2, (enum net_lane)l, i, 8 + (uint32_t)(i % 3000)) == 0);
	CHECK(put(&a, 2, NET_BULK, 0, NET_MAX_PAYLOAD) == 0);
	CHECK(put(&a, 2, NET_BULK, 1, NET_MAX_PAYLOAD + 1) == -EMSGSIZE);
	for (unsigned l = 0; l < LANES_TESTED; l++)
		wait_got(&b, (enum net_lane)l, 3000);
	wait_got(&b, NET_BULK, 1);
	CHECK(net_call(a.n, &echo, 0, &result, buf, &len) == 0);
	CHECK(result == 7 && len == 5 && !memcmp(buf, "hallo", 5));
	len = 2;
	CHECK(net_call(a.n, &echo, 0, &result, buf, &len) == -EMSGSIZE && len == 5);
	CHECK(net_call(a.n, &none, 0, &result, NULL, NULL) == 0 && result == ENOSYS);
	echo.type = T_NEVER;
	CHECK(net_call(a.n, &echo, ts_exec_now(x) + 30 * TS_NS_PER_MS, &result, NULL, NULL) == -ETIMEDOUT);
	CHECK(net_reply(b.n, &b.held, 0, "late", 4) == 0); /* nobody waits any more */
	echo.type = T_ECHO;
	echo.dst_node = 1; /* to oneself */
	len = 16;
	CHECK(net_call(a.n, &echo, 0, &result, buf, &len) == 0 && len == 5);
	CHECK(a.n->lamport && b.n->lamport);
	nap(50);
	CHECK(((struct net_tcp *)a.n->priv)->peers[2]->lane[0].count == 0); /* all acknowledged */
	net_close(a.n);
	net_close(b.n);
}

/* ---- exactly once over cuts -------------------------------------------------------------------------------------- */

static void t_cuts(void *arg)
{
	struct node a, b;
	struct net_stats s;
	uint64_t r;

	up(&a, 1, 11);
	up(&b, 2, 22);
	pair(&a, &b);
	wait_open(&a, &b);
	for (uint64_t i = 0; i < 6000; i++) {
		r = ts_random(&ts_env_real);
		CHECK(put(&a, 2, NET_REQUEST, i, 8 + (uint32_t)(r % 5000)) == 0);
		CHECK(put(&b, 1, NET_GRANT, i, 8 + (uint32_t)(r % 100)) == 0);
		if (i % 50 == 0)
			ts_fiber_yield();
		if (i % 400 == 399) {
			nap(r & 3);
			net_tcp_test_cut(r & 4 ? a.n : b.n, r & 4 ? 2 : 1);
			nap(60); /* the back-off grows for connections that do not last */
		}
	}
	wait_got(&b, NET_REQUEST, 6000);
	wait_got(&a, NET_GRANT, 6000);
	net_stats_get(a.n, &s);
	CHECK(s.reconnects > 3);
	printf("cuts: %lu reconnects, %lu resent\n", s.reconnects, s.resent);
	net_close(a.n);
	net_close(b.n);
}

/* ---- peers ------------------------------------------------------------------------------------------------------- */

struct caller {
	struct node *a;
	int rc;
	bool done;
};
static void call_never(void *arg)
{
	struct caller *c = arg;
	struct net_out o = {.dst_node = 2, .lane = NET_REQUEST, .type = T_NEVER};

	c->rc = net_call(c->a->n, &o, 0, NULL, NULL, NULL);
	c->done = true;
}

static void t_drop(void *arg)
{
	struct node a, b, b2;
	struct caller c = {.a = &a};
	struct net_msg old;

	up(&a, 1, 11);
	up(&b, 2, 22);
	pair(&a, &b);
	wait_open(&a, &b);
	CHECK(ts_fiber_spawn(x, "caller", call_never, &c) == 0);
	while (!b.held.call_id)
		nap(1);
	old = b.held;
	net_peer_drop(a.n, 2);
	nap(1);
	CHECK(c.done && c.rc == -ENOTCONN);
	CHECK(put(&a, 2, 0, 0, 8) == -ENOTCONN);
	/* b still believes in a: what it sends must not arrive, however often it dials or is dialled */
	for (unsigned i = 0; i < 10; i++)
		CHECK(put(&b, 1, 0, i, 8) == 0);
	nap(100);
	CHECK(a.got[0] == 0);
	/* a new incarnation of b starts from nothing; its predecessor's queue is dead */
	net_close(b.n);
	up(&b2, 2, 23);
	pair(&a, &b2);
	CHECK(put(&b2, 1, 0, 0, 8) == 0);
	wait_got(&a, 0, 1);
	/* a reply to a departed asker goes nowhere */
	old.src_node = 1;
	old.src_incarnation = 10;
	CHECK(net_reply(b2.n, &old, 0, NULL, 0) == -ENOTCONN);
	/* dropping from inside a handler */
	b2.drop_at = 5;
	for (uint64_t i = 0; i < 100; i++)
		CHECK(put(&a, 2, 1, i, 8) == 0);
	nap(100);
	CHECK(b2.got[1] == 5);
	net_close(a.n);
	net_close(b2.n);
}

static void t_late_view(void *arg) /* the dialler's view comes first: the proven connection waits for ours */
{
	struct node a, b;

	up(&a, 1, 11);
	up(&b, 2, 22);
	know(&a, &b);
	CHECK(put(&a, 2, 0, 0, 8) == 0);
	nap(200);
	CHECK(b.got[0] == 0 && !net_tcp_test_open(b.n, 1));
	net_peer_set(b.n, 1, 12, "127.0.0.1", net_tcp_port(a.n)); /* another incarnation is not it */
	nap(50);
	CHECK(b.got[0] == 0);
	net_peer_drop(b.n, 1);
	know(&b, &a);
	wait_got(&b, 0, 1);
	net_close(a.n);
	net_close(b.n);
}

static void t_three(void *arg)
{
	struct node nd[3];

	for (unsigned i = 0; i < 3; i++)
		up(&nd[i], i + 1, 100 + i);
	for (unsigned i = 0; i < 3; i++)
		for (unsigned j = 0; j < 3; j++)
			know(&nd[i], &nd[j]);
	for (uint64_t k = 0; k < 500; k++)
		for (unsigned i = 0; i < 3; i++)
			CHECK(put(&nd[i], (i + 1) % 3 + 1, NET_SHIPPED, k, 64) == 0);
	for (unsigned i = 0; i < 3; i++)
		wait_got(&nd[i], NET_SHIPPED, 500);
	for (unsigned i = 0; i < 3; i++)
		net_close(nd[i].n);
}

/* ---- lanes ------------------------------------------------------------------------------------------------------- */

static void t_lanes(void *arg)
{
	struct node a, b;
	unsigned before = 0;

	up(&a, 1, 11);
	up(&b, 2, 22);
	know(&a, &b); /* queued before there is a connection: then priority decides alone */
	for (uint64_t i = 0; i < 40; i++)
		CHECK(put(&a, 2, NET_BULK, i, 1u << 20) == 0);
	for (uint64_t i = 0; i < 10; i++)
		CHECK(put(&a, 2, NET_RECOVERY, i, 64) == 0);
	know(&b, &a);
	wait_got(&b, NET_BULK, 40);
	wait_got(&b, NET_RECOVERY, 10);
	for (unsigned i = 0; i < 10; i++)
		CHECK(b.order[i] == NET_RECOVERY);
	/* and with bulk on its way, recovery passes what is not yet in the socket */
	b.norder = 0;
	for (uint64_t i = 40; i < 80; i++)
		CHECK(put(&a, 2, NET_BULK, i, 1u << 20) == 0);
	nap(2);
	CHECK(put(&a, 2, NET_RECOVERY, 10, 64) == 0);
	wait_got(&b, NET_BULK, 80);
	while (before < b.norder && b.order[before] == NET_BULK)
		before++;
	CHECK(b.got[NET_RECOVERY] == 11 && before < 40);
	printf("lanes: recovery passed %u of 40 MiB of bulk\n", 40 - before);
	net_close(a.n);
	net_close(b.n);
}

static void t_bounds(void *arg)
{
	struct node a, b;
	struct net_out o = {.dst_node = 2, .lane = NET_REVOKE, .type = T_DATA};
	uint64_t v;
	unsigned sent = 0;

	up(&a, 1, 11);
	up(&b, 2, 22);
	know(&a, &b);
	o.payload = &v;
	o.len = sizeof(v);
	for (v = 0; net_send(a.n, &o) == 0; v++)
		sent++;
	CHECK(sent == NET_LANE_MSGS && net_send(a.n, &o) == -ENOBUFS);
	CHECK(put(&a, 2, NET_RECOVERY, 0, 8) == 0); /* the others have their own bound */
	know(&b, &a);
	wait_got(&b, NET_REVOKE, sent);
	net_close(a.n);
	net_close(b.n);
}

/* ---- strangers --------------------------------------------------------------------------------------------------- */

static int dial_raw(unsigned port)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0);
	return fd;
}

/* Sends and returns how many bytes come back until the end or the time. */
static size_t poke(unsigned port, const void *data, size_t len, unsigned ms, bool *ended)
{
	uint8_t in[4096];
	size_t got = 0;
	int fd = dial_raw(port);

	(void)!send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	*ended = false;
	for (unsigned i = 0; i < ms && !*ended; i++) {
		ssize_t n = recv(fd, in, sizeof(in), MSG_DONTWAIT);

		if (n > 0)
			got += (size_t)n;
		else if (n == 0 || errno != EAGAIN)
			*ended = true;
		if (n < 0)
			nap(1);
	}
	close(fd);
	return got;
}

static void t_wrong_key(void *arg)
{
	struct node a, b;

	up_key(&a, 1, 11, key_b);
	up(&b, 2, 22);
	pair(&a, &b);
	for (uint64_t i = 0; i < 10; i++)
		CHECK(put(&a, 2, 0, i, 8) == 0 && put(&b, 1, 0, i, 8) == 0);
	nap(400);
	CHECK(!net_tcp_test_open(a.n, 2) && !net_tcp_test_open(b.n, 1));
	CHECK(!a.got[0] && !b.got[0]);
	CHECK(((struct net_tcp *)b.n->priv)->auth_suppressed > 0); /* one line, the rest counted */
	net_close(a.n);
	net_close(b.n);
}

static struct net_keys keys_of(const uint8_t *first, const uint8_t *second, const uint8_t *retired)
{
	struct net_keys k = {.n = second ? 2 : 1, .has_retired = retired != NULL};

	memcpy(k.key[0], first, 32);
	if (second)
		memcpy(k.key[1], second, 32);
	if (retired)
		memcpy(k.retired, retired, 32);
	return k;
}

static bool made_under(struct node *a, unsigned node, const uint8_t *key)
{
	const struct net_peer *p = ((struct net_tcp *)a->n->priv)->peers[node];

	return p->conn && p->conn->state == NET_C_OPEN && !memcmp(p->conn->key, key, 32);
}

/* The key is changed under traffic, on the two one after the other, in the order that admin/key_rotate.c has; at each step they are cut, so
 * that a new handshake shows that they still agree. Nothing is lost or doubled. */
static void t_keys(void *arg)
{
	const struct {
		const uint8_t *first, *second, *retired;
	} steps[] = {{key_a, key_b, NULL}, {key_b, key_a, NULL}, {key_b, NULL, key_a}};
	struct node a, b;
	uint64_t sent = 0;

	up(&a, 1, 11);
	up(&b, 2, 22);
	pair(&a, &b);
	wait_open(&a, &b);
	for (unsigned s = 0; s < TS_ARRAY_LEN(steps); s++)
		for (unsigned who = 0; who < 2; who++) {
			struct net_keys k = keys_of(steps[s].first, steps[s].second, steps[s].retired);

			net_tcp_keys_set(who ? a.n : b.n, &k);
			for (unsigned i = 0; i < 200; i++, sent++) {
				if (i == 100)
					net_tcp_test_cut(a.n, 2);
				CHECK(put(&a, 2, 0, sent, 4000) == 0 && put(&b, 1, 0, sent, 4000) == 0);
				if (i % 50 == 0)
					nap(1);
			}
			for (unsigned i = 0; i < 4000 && (a.got[0] < sent || b.got[0] < sent); i++)
				nap(1);
			CHECK(a.got[0] == sent && b.got[0] == sent);
		}
	CHECK(made_under(&a, 2, key_b) && made_under(&b, 1, key_b));
	CHECK(!((struct net_tcp *)a.n->priv)->auth_log_ns && !((struct net_tcp *)b.n->priv)->auth_log_ns); /* at no step was one refused */
	net_close(a.n);
	net_close(b.n);
}

/* A connection under a key that is dropped is closed and made anew under the other, without being cut by anybody. */
static void t_keys_drop(void *arg)
{
	struct net_keys both = keys_of(key_a, key_b, NULL), one = keys_of(key_b, NULL, key_a);
	struct node a, b;

	up(&a, 1, 11);
	up(&b, 2, 22);
	pair(&a, &b);
	wait_open(&a, &b);
	net_tcp_keys_set(a.n, &both);
	net_tcp_keys_set(b.n, &both);
	CHECK(made_under(&a, 2, key_a));
	net_tcp_keys_set(b.n, &one);
	CHECK(!net_tcp_test_open(b.n, 1));
	for (uint64_t i = 0; i < 20; i++)
		CHECK(put(&a, 2, 0, i, 8) == 0 && put(&b, 1, 0, i, 8) == 0);
	for (unsigned i = 0; i < 4000 && (a.got[0] < 20 || b.got[0] < 20); i++) /* a, who dials, tries its second key */
		nap(1);
	CHECK(a.got[0] == 20 && b.got[0] == 20 && made_under(&a, 2, key_b) && !net_tcp_key_replaced(a.n));
	net_close(a.n);
	net_close(b.n);
}

/* Who was away and has the old key: nothing goes either way, and both ends know why, whoever dials. */
static void t_keys_away(void *arg)
{
	for (unsigned away = 1; away <= 2; away++) {
		struct net_keys one = keys_of(key_b, NULL, key_a);
		struct node a, b;
		struct node *stale = away == 1 ? &a : &b, *fresh = away == 1 ? &b : &a;

		up(&a, 1, 11);
		up(&b, 2, 22);
		net_tcp_keys_set(fresh->n, &one);
		pair(&a, &b);
		CHECK(put(&a, 2, 0, 0, 8) == 0 && put(&b, 1, 0, 0, 8) == 0);
		for (unsigned i = 0; i < 4000 && !net_tcp_key_replaced(stale->n); i++)
			nap(1);
		nap(50);
		CHECK(net_tcp_key_replaced(stale->n) == fresh->id && !net_tcp_key_replaced(fresh->n));
		CHECK(((struct net_tcp *)fresh->n->priv)->peers[stale->id]->old_key);
		CHECK(!a.got[0] && !b.got[0] && !net_tcp_test_open(a.n, 2) && !net_tcp_test_open(b.n, 1));
		net_tcp_keys_set(stale->n, &one); /* the file was copied */
		for (unsigned i = 0; i < 4000 && (!a.got[0] || !b.got[0]); i++)
			nap(1);
		CHECK(a.got[0] == 1 && b.got[0] == 1 && !((struct net_tcp *)fresh->n->priv)->peers[stale->id]->old_key);
		net_close(a.n);
		net_close(b.n);
	}
}

static void t_garbage(void *arg)
{
	struct node b;
	uint8_t buf[512];
	struct net_hello_msg h = {.magic = le32_make(0x54534831u),
				  .size = le16_make(sizeof(h)),
				  .ver_min = le16_make(1),
				  .ver_max = le16_make(1),
				  .src_node = le16_make(1),
				  .dst_node = le16_make(2)};
	bool ended;
	size_t got;

	up(&b, 2, 22);
	net_peer_set(b.n, 1, 11, "127.0.0.1", 1);
	for (unsigned i = 0; i < 200; i++) {
		size_t len = (size_t)(ts_random(&ts_env_real) % sizeof(buf));

		randombytes_buf(buf, sizeof(buf));
		if (i & 1) /* a valid first message, then anything */
			memcpy(buf, &h, sizeof(h));
		got = poke(net_tcp_port(b.n), buf, len, 3, &ended);
		CHECK(got <= sizeof(struct net_challenge_msg));
	}
	CHECK(!net_tcp_test_open(b.n, 1) && !b.got[0]);
	for (unsigned i = 0; i < 300; i++) { /* more silent strangers than are tolerated */
		int fd = dial_raw(net_tcp_port(b.n));

		ts_fiber_yield();
		if (i % 3)
			close(fd);
		else
			CHECK(dup2(fd, fd) == fd);
		if (!(i % 10))
			nap(1);
		CHECK(((struct net_tcp *)b.n->priv)->nunproven <= 128 + 16);
		if (i % 3 == 0)
			close(fd);
	}
	net_close(b.n);
}

/* ---- a man in the middle ----------------------------------------------------------------------------------------- */

struct proxy {
	int lfd;
	unsigned port, target;
	pthread_t th;
	struct recording {
		uint8_t b[1 << 16];
		atomic_size_t n;
	} rec, back; /* dialler to acceptor, acceptor to dialler; of the first connection */
	atomic_uint flip_every; /* bytes; 0 = honest */
	atomic_bool stop;
};

static bool pump(struct proxy *p, int from, int to, struct recording *rec, uint64_t *count)
{
	uint8_t buf[4096];
	ssize_t n = recv(from, buf, sizeof(buf), MSG_DONTWAIT);
	size_t at = rec ? rec->n : 0;
	unsigned every = p->flip_every;

	if (n < 0)
		return errno == EAGAIN;
	if (n == 0)
		return false;
	if (rec && at + (size_t)n <= sizeof(rec->b)) {
		memcpy(rec->b + at, buf, (size_t)n);
		rec->n = at + (size_t)n;
	}
	*count += (uint64_t)n;
	if (every && *count > every)
		buf[n / 2] ^= 0x10;
	return send(to, buf, (size_t)n, MSG_NOSIGNAL) == n;
}

static void *proxy_main(void *arg)
{
	struct proxy *p = arg;
	bool first = true;

	while (!p->stop) {
		int in = accept(p->lfd, NULL, NULL), out;
		uint64_t c1 = 0, c2 = 0;

		if (in < 0)
			break;
		out = dial_raw(p->target);
		while (!p->stop && pump(p, in, out, first ? &p->rec : NULL, &c1) &&
		       pump(p, out, in, first ? &p->back : NULL, &c2))
			usleep(200);
		first = false;
		close(in);
		close(out);
	}
	return NULL;
}

static void proxy_up(struct proxy *p, unsigned target)
{
	struct sockaddr_in sa = {.sin_family = AF_INET};
	socklen_t len = sizeof(sa);

	memset(p, 0, sizeof(*p));
	p->target = target;
	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	p->lfd = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(!bind(p->lfd, (struct sockaddr *)&sa, sizeof(sa)) && !listen(p->lfd, 8));
	CHECK(!getsockname(p->lfd, (struct sockaddr *)&sa, &len));
	p->port = ntohs(sa.sin_port);
	CHECK(!pthread_create(&p->th, NULL, proxy_main, p));
}

static void proxy_down(struct proxy *p)
{
	p->stop = true;
	shutdown(p->lfd, SHUT_RDWR);
	pthread_join(p->th, NULL);
	close(p->lfd);
}

/* 1 dials 2 by way of p, which writes down what is said. */
static void up_by_proxy(struct node *a, struct node *b, struct proxy *p)
{
	up(a, 1, 11);
	up(b, 2, 22);
	proxy_up(p, net_tcp_port(b->n));
	net_peer_set(a->n, 2, 22, "127.0.0.1", p->port);
	know(b, a);
}

static void t_replay(void *arg)
{
	static struct proxy p;
	struct node a, b;
	bool ended;
	size_t n, got;

	up_by_proxy(&a, &b, &p);
	for (uint64_t i = 0; i < 5; i++)
		CHECK(put(&a, 2, 0, i, 100) == 0);
	wait_got(&b, 0, 5);
	n = p.rec.n;
	CHECK(n >= sizeof(struct net_hello_msg) + sizeof(struct net_proof_msg) + 5 * 228);
	for (unsigned i = 0; i < 3; i++) {
		got = poke(net_tcp_port(b.n), p.rec.b, n, 500, &ended);
		CHECK(ended && got <= sizeof(struct net_challenge_msg));
		CHECK(b.got[0] == 5 && net_tcp_test_open(b.n, 1)); /* the real one is not disturbed either */
	}
	CHECK(put(&a, 2, 0, 5, 100) == 0);
	wait_got(&b, 0, 6);
	net_close(a.n);
	net_close(b.n);
	proxy_down(&p);
}

/* Plays what an acceptor once said to whoever dials. */
struct replayer {
	int lfd;
	const struct recording *rec;
	atomic_uint conns;
	atomic_size_t most; /* bytes a dialler sent behind its hello */
};

static void *replayer_main(void *arg)
{
	struct replayer *r = arg;
	int fd;

	while ((fd = accept(r->lfd, NULL, NULL)) >= 0) {
		uint8_t buf[4096];
		size_t got = 0;
		ssize_t n;

		if (recv(fd, buf, sizeof(struct net_hello_msg), MSG_WAITALL) == sizeof(struct net_hello_msg))
			(void)!send(fd, r->rec->b, r->rec->n, MSG_NOSIGNAL);
		while ((n = recv(fd, buf, sizeof(buf), 0)) > 0)
			got += (size_t)n;
		r->most = TS_MAX(r->most, got);
		close(fd);
		r->conns++;
	}
	return NULL;
}

/* Whoever stands where node 2 was, with all that node 2 said, is nobody: the proof is over our new nonce. */
static void t_replay_back(void *arg)
{
	static struct proxy p;
	static struct replayer r;
	struct sockaddr_in sa = {.sin_family = AF_INET};
	socklen_t len = sizeof(sa);
	struct net_stats st;
	struct node a, b;
	pthread_t th;

	up_by_proxy(&a, &b, &p);
	for (uint64_t i = 0; i < 5; i++)
		CHECK(put(&b, 1, 0, i, 100) == 0);
	wait_got(&a, 0, 5);
	CHECK(p.back.n >= sizeof(struct net_challenge_msg) + sizeof(struct net_welcome_msg) + 5 * 228);
	net_close(b.n);
	net_peer_drop(a.n, 2);
	proxy_down(&p);
	r.rec = &p.back;
	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	r.lfd = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(!bind(r.lfd, (struct sockaddr *)&sa, sizeof(sa)) && !listen(r.lfd, 8) && !getsockname(r.lfd, (struct sockaddr *)&sa, &len));
	CHECK(!pthread_create(&th, NULL, replayer_main, &r));
	net_peer_set(a.n, 2, 22, "127.0.0.1", ntohs(sa.sin_port));
	for (unsigned i = 0; i < 20000 && r.conns < 3; i++) {
		CHECK(!net_tcp_test_open(a.n, 2));
		nap(1);
	}
	CHECK(r.conns >= 3 && r.most <= sizeof(struct net_proof_msg) && a.got[0] == 5);
	net_stats_get(a.n, &st);
	CHECK(st.reconnects == 0); /* not even for the moment until the first frame fails */
	net_close(a.n);
	shutdown(r.lfd, SHUT_RDWR);
	pthread_join(th, NULL);
	close(r.lfd);
}

static void t_flip(void *arg)
{
	static struct proxy p;
	struct node a, b;

	up(&a, 1, 11);
	up(&b, 2, 22);
	proxy_up(&p, net_tcp_port(b.n));
	p.flip_every = 30000;
	net_peer_set(a.n, 2, 22, "127.0.0.1", p.port);
	know(&b, &a);
	for (uint64_t i = 0; i < 600; i++)
		CHECK(put(&a, 2, 0, i, 200) == 0 && put(&b, 1, 0, i, 3000) == 0);
	nap(1500);
	p.flip_every = 0;
	wait_got(&b, 0, 600);
	wait_got(&a, 0, 600);
	net_close(a.n);
	net_close(b.n);
	proxy_down(&p);
}

/* ---- encryption ------------------------------------------------------------------------------------------------------- */

static const char marker[] = "what nobody else is to read";

static bool said(const struct recording *r)
{
	return memmem(r->b, r->n, marker, sizeof(marker)) != NULL;
}

/* Payloads there and back, by way of p, as each of the two wants it. true: they could be read on the way, both. */
static bool readable(bool a_wants, bool b_wants)
{
	static const uint32_t sizes[] = {sizeof(marker), 1000, 1025, 5000};
	static struct proxy p;
	static char buf[5000], back[5000];
	struct node a, b;
	bool there, here;

	encrypt = a_wants;
	up(&a, 1, 11);
	encrypt = b_wants;
	up(&b, 2, 22);
	encrypt = false;
	proxy_up(&p, net_tcp_port(b.n));
	net_peer_set(a.n, 2, 22, "127.0.0.1", p.port);
	know(&b, &a);
	for (unsigned i = 0; i < TS_ARRAY_LEN(sizes); i++) {
		uint32_t len = sizeof(back);
		struct net_out echo = {.dst_node = 2, .lane = NET_REQUEST, .type = T_ECHO, .payload = buf, .len = sizes[i]};
		int result;

		memcpy(buf, marker, sizeof(marker));
		CHECK(net_call(a.n, &echo, 0, &result, back, &len) == 0 && len == sizes[i] && !memcmp(buf, back, len));
	}
	there = said(&p.rec);
	here = said(&p.back);
	CHECK(there == here);
	net_close(a.n);
	net_close(b.n);
	proxy_down(&p);
	return there;
}

static void t_secret(void *arg)
{
	CHECK(readable(false, false)); /* else the others show nothing */
	CHECK(!readable(true, false));
	CHECK(!readable(false, true));
	CHECK(!readable(true, true));
}

/* A node that speaks protocol 1 only: fine where nobody wants encryption, else refused by whoever wants it, on either side. */
static void older(bool old_dials, bool wants)
{
	struct node a, b;

	encrypt = wants && !old_dials;
	up(&a, 1, 11);
	encrypt = wants && old_dials;
	up(&b, 2, 22);
	encrypt = false;
	((struct net_tcp *)net_priv(old_dials ? a.n : b.n))->proto_max = 1;
	pair(&a, &b);
	CHECK(put(&a, 2, 0, 0, 100) == 0);
	if (wants) {
		nap(300);
		CHECK(b.got[0] == 0 && !net_tcp_test_open(a.n, 2) && !net_tcp_test_open(b.n, 1));
	} else {
		wait_got(&b, 0, 1);
		CHECK(net_peer_proto(a.n, 2) == 1 && net_peer_proto(b.n, 1) == 1 && net_peer_proto(a.n, 3) == 0);
	}
	net_close(a.n);
	net_close(b.n);
}

static void t_older(void *arg)
{
	for (unsigned i = 0; i < 4; i++)
		older(i & 1, i & 2);
}

/* A public key that gives the same secret with every other one proves nothing, although its owner has the cluster key. */
static void t_weak(void *arg)
{
	struct net_conn c = {.proto = 2, .dialler = true};
	struct net_tcp t = {.encrypt = true};

	c.t = &t;
	c.hs.hello.flags = NET_HS_SECRET;
	randombytes_buf(c.secret_key, sizeof(c.secret_key));
	CHECK(!net_hs_session(&c)); /* the other's is zero */
	CHECK(crypto_scalarmult_base(c.hs.challenge.nonce, key_a) == 0);
	randombytes_buf(c.secret_key, sizeof(c.secret_key));
	CHECK(net_hs_session(&c) && c.tx.secret && c.rx.secret && memcmp(c.tx.cipher, c.rx.cipher, sizeof(c.tx.cipher)));
}

static void t_seal_secret(void *arg)
{
	struct net_seal tx, rx;
	struct net_hdr_msg h = {.payload_csum = le64_make(5)};
	uint8_t first[64] = {7}, again[64] = {7}, was[64] = {7};

	net_seal_init(&tx, key_a);
	net_seal_secret(&tx, key_b);
	rx = tx;
	net_seal_mac(&tx, &h, first, sizeof(first));
	CHECK(le64_get(h.payload_csum) == 0 && memcmp(first, was, sizeof(was)));
	CHECK(net_seal_check(&rx, &h, first, sizeof(first)) && !memcmp(first, was, sizeof(was)));
	net_seal_mac(&tx, &h, first, sizeof(first));
	net_seal_mac(&tx, &h, again, sizeof(again));
	CHECK(memcmp(first, again, sizeof(again))); /* never the same stream */
	CHECK(!net_seal_check(&rx, &h, again, sizeof(again)) && memcmp(again, was, sizeof(was))); /* out of order: not even decrypted */
}

/* ---- speed: printed, with a floor far below what it does ---------------------------------------------------------- */

static void t_speed(void *arg)
{
	struct node a, b;
	struct net_out echo = {.dst_node = 2, .lane = NET_REQUEST, .type = T_ECHO, .payload = "0123456789", .len = 10};
	uint64_t t, n = 200000;

	up(&a, 1, 11);
	up(&b, 2, 22);
	pair(&a, &b);
	wait_open(&a, &b);
	t = ts_exec_now(x);
	for (uint64_t i = 0; i < n; i++) {
		CHECK(put(&a, 2, NET_REQUEST, i, 64) == 0);
		if (i % 256 == 255)
			ts_fiber_yield();
	}
	wait_got(&b, NET_REQUEST, n);
	t = ts_exec_now(x) - t;
	printf("speed: one way, both ends on one thread: %.0f messages/s\n", (double)n * 1e9 / (double)t);
	t = ts_exec_now(x);
	for (unsigned i = 0; i < 5000; i++)
		CHECK(net_call(a.n, &echo, 0, NULL, NULL, NULL) == 0);
	t = ts_exec_now(x) - t;
	printf("speed: request and reply: %.1f us\n", (double)t / 5e6);
	b.bytes = 0;
	t = ts_exec_now(x);
	for (uint64_t i = 0; i < 256; i++)
		CHECK(put(&a, 2, NET_BULK, i, 1u << 20) == 0);
	wait_got(&b, NET_BULK, 256);
	t = ts_exec_now(x) - t;
	printf("speed: bulk: %.0f MB/s\n", (double)b.bytes * 1e3 / (double)t);
	net_close(a.n);
	net_close(b.n);
}

/* ---- frame: what a seal must refuse ------------------------------------------------------------------------------- */

static void t_seal(void *arg)
{
	struct net_seal tx, rx, rx0;
	struct net_hdr_msg h = {.seq = le64_make(1)}, h2 = {.seq = le64_make(2)}, bad;
	static uint8_t payload[3000];

	net_seal_init(&tx, key_a);
	net_seal_init(&rx, key_a);
	for (unsigned len = 0; len <= 3000; len += 1500) {
		h.payload_len = le32_make(len);
		rx0 = rx;
		net_seal_mac(&tx, &h, payload, len);
		net_seal_mac(&tx, &h2, NULL, 0);
		CHECK(!net_seal_check(&rx, &h2, NULL, 0)); /* reordered */
		CHECK(net_seal_check(&rx, &h, payload, len));
		CHECK(!net_seal_check(&rx, &h, payload, len)); /* replayed */
		CHECK(net_seal_check(&rx, &h2, NULL, 0));
		for (unsigned bit = 0; bit < 8 * sizeof(h); bit++) {
			bad = h;
			((uint8_t *)&bad)[bit / 8] ^= (uint8_t)(1u << (bit % 8));
			CHECK(!net_seal_check(&rx0, &bad, payload, len));
		}
		for (unsigned i = 0; i < len; i += 37) {
			payload[i] ^= 1;
			CHECK(!net_seal_check(&rx0, &h, payload, len));
			payload[i] ^= 1;
		}
		CHECK(net_seal_check(&rx0, &h, payload, len));
	}
}

static ts_fn body;
static void run_body(void *arg)
{
	body(NULL);
	ts_loop_stop(loop);
}

static void run(void **state)
{
	body = *(ts_fn *)*state;
	x = ts_exec_new(&ts_env_real);
	loop = ts_loop_new(x);
	assert_non_null(loop);
	assert_int_equal(ts_fiber_spawn(x, "test", run_body, NULL), 0);
	ts_loop_run(loop);
	while (ts_exec_run(x, 100)) /* let ended fibers go */
		;
	ts_loop_free(loop);
	ts_exec_free(x);
}

#define T(name) {#name, run, NULL, NULL, &(ts_fn){name}}
int main(void)
{
	const struct CMUnitTest tests[] = {T(t_seal),	   T(t_order),	 T(t_cuts),   T(t_drop),   T(t_late_view), T(t_three), T(t_lanes),
					   T(t_bounds), T(t_wrong_key), T(t_keys), T(t_keys_drop), T(t_keys_away), T(t_garbage), T(t_replay), T(t_replay_back), T(t_flip),	   T(t_speed)};
	const struct CMUnitTest secrets[] = {T(t_seal_secret), T(t_secret), T(t_older), T(t_weak)};
	const struct CMUnitTest encrypted[] = {T(t_order), T(t_cuts), T(t_drop), T(t_lanes), T(t_bounds), T(t_replay), T(t_replay_back), T(t_flip), T(t_speed)};
	int failed = cmocka_run_group_tests_name("net_tcp", tests, NULL, NULL) + cmocka_run_group_tests_name("net_tcp secrets", secrets, NULL, NULL);

	encrypt = true;
	return failed + cmocka_run_group_tests_name("net_tcp encrypted", encrypted, NULL, NULL);
}
