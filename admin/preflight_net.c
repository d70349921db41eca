/* SPDX-License-Identifier: Apache-2.0 */
/* How the nodes of `tessera preflight` talk: TCP for one question and its answer, both encrypted and authenticated under a hash of the cluster
 * key and two nonces; UDP for datagrams that come back as they are, if they carry a token that was told by TCP. Plain blocking sockets
 * with time limits: this runs in the command.
 *
 *   who asks: magic, nonce -> ; listener: nonce -> ; who asks: length, sealed question -> ; listener: length, sealed answer
 *
 * Must never happen: anything told to, or done for, who has not the cluster key; a wait without an end. */
#include "admin/preflight.h"
#include "net/net.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define MAGIC	    "TSPRFL1\n"
#define WAIT_MS	    3000
#define FRAME_MAX   (1u << 20)
#define ASKED_MAX   64 /* addresses one question may name */
#define TOKENS	    16
#define UDP_SMALL   64
#define UDP_WAIT_MS 400
#define UDP_TRIES   3

_Static_assert(sizeof(MAGIC) == 9, "eight bytes of magic");

static int address(const char *addr, unsigned port, struct sockaddr_in *a)
{
	*a = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	return inet_pton(AF_INET, addr, &a->sin_addr) == 1 ? 0 : -EINVAL;
}

/* Small segments: a path that loses large packets must not lose the answer, or nothing would be told of it. */
static void small(int fd)
{
	int mss = 536;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &mss, sizeof(mss));
}

static void limit(int fd)
{
	struct timeval t = {WAIT_MS / 1000, WAIT_MS % 1000 * 1000};
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t)); /* of connect, too */
}

int preflight_connect(const char *addr, unsigned port, int *fd)
{
	struct sockaddr_in a;
	int rc = address(addr, port, &a);
	if (rc)
		return rc;
	*fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*fd < 0)
		return -errno;
	limit(*fd);
	small(*fd);
	if (connect(*fd, (struct sockaddr *)&a, sizeof(a)) == 0)
		return 0;
	rc = errno == EINPROGRESS ? -ETIMEDOUT : -errno;
	close(*fd);
	return rc;
}

static bool all_in(int fd, void *buf, size_t n)
{
	return recv(fd, buf, n, MSG_WAITALL) == (ssize_t)n;
}

static bool all_out(int fd, const void *buf, size_t n)
{
	for (const char *p = buf; n;) {
		ssize_t w = send(fd, p, n, MSG_NOSIGNAL);
		if (w <= 0)
			return false;
		p += w;
		n -= (size_t)w;
	}
	return true;
}

/* ---- frames ------------------------------------------------------------------------------------------------------------------- */

struct talk {
	int fd;
	uint8_t key[32];
};

static void talk_key(const struct conf *c, const uint8_t asker[32], const uint8_t listener[32], uint8_t key[32])
{
	crypto_generichash_state st;
	crypto_generichash_init(&st, c->key, sizeof(c->key), 32);
	crypto_generichash_update(&st, (const uint8_t *)"tessera preflight", 18);
	crypto_generichash_update(&st, asker, 32);
	crypto_generichash_update(&st, listener, 32);
	crypto_generichash_final(&st, key, 32);
}

static bool frame_out(const struct talk *t, uint8_t way, json_t *o)
{
	uint8_t nonce[crypto_secretbox_NONCEBYTES] = {way};
	char *text = json_dumps(o, JSON_COMPACT);
	size_t n = text ? strlen(text) : 0;
	uint8_t *box = ts_alloc(n + crypto_secretbox_MACBYTES);
	le32 len = le32_make((uint32_t)(n + crypto_secretbox_MACBYTES));
	bool ok = text && box && crypto_secretbox_easy(box, (const uint8_t *)text, n, nonce, t->key) == 0 && all_out(t->fd, &len, sizeof(len)) &&
		  all_out(t->fd, box, le32_get(len));
	ts_free(box);
	free(text);
	return ok;
}

/* *forged: it came, and not from who has the key. */
static json_t *frame_in(const struct talk *t, uint8_t way, bool *forged)
{
	uint8_t nonce[crypto_secretbox_NONCEBYTES] = {way};
	le32 len;
	uint8_t *box = NULL;
	json_t *o = NULL;
	*forged = false;
	if (!all_in(t->fd, &len, sizeof(len)) || le32_get(len) < crypto_secretbox_MACBYTES || le32_get(len) > FRAME_MAX)
		return NULL;
	size_t n = le32_get(len);
	box = ts_alloc(n);
	if (box && all_in(t->fd, box, n)) {
		*forged = crypto_secretbox_open_easy(box, box, n, nonce, t->key) != 0;
		if (!*forged)
			o = json_loadb((const char *)box, n - crypto_secretbox_MACBYTES, 0, NULL);
	}
	ts_free(box);
	return o;
}

/* ---- asking ------------------------------------------------------------------------------------------------------------------- */

static json_t *ask(const struct conf *c, const char *addr, json_t *question, char *self, size_t selflen, char *error, size_t errlen, bool *other_key)
{
	struct talk t;
	uint8_t mine[32], theirs[32];
	struct sockaddr_in sa;
	socklen_t salen = sizeof(sa);
	json_t *o = NULL;
	unsigned port = c->port + PREFLIGHT_PORT_STEP;
	int rc = preflight_connect(addr, port, &t.fd);
	*other_key = false;
	if (rc) {
		snprintf(error, errlen, "TCP port %u: %s", port, strerror(-rc));
		return NULL;
	}
	if (self && getsockname(t.fd, (struct sockaddr *)&sa, &salen) == 0)
		inet_ntop(AF_INET, &sa.sin_addr, self, (socklen_t)selflen);
	randombytes_buf(mine, sizeof(mine));
	if (all_out(t.fd, MAGIC, 8) && all_out(t.fd, mine, 32) && all_in(t.fd, theirs, 32)) {
		talk_key(c, mine, theirs, t.key);
		o = frame_out(&t, 1, question) ? frame_in(&t, 2, other_key) : NULL;
		*other_key |= !o; /* who cannot read the question hangs up */
	}
	close(t.fd);
	sodium_memzero(t.key, sizeof(t.key));
	if (!o)
		snprintf(error, errlen, "%s", *other_key ? "it does not take our cluster key" : "something else answers there");
	return o;
}

static bool udp_once(int fd, const uint8_t *token, size_t bytes)
{
	uint8_t buf[65536];
	memset(buf, 0, bytes);
	memcpy(buf, token, PREFLIGHT_TOKEN);
	for (unsigned i = 0; i < UDP_TRIES; i++) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		if (send(fd, buf, bytes, 0) != (ssize_t)bytes && errno == EMSGSIZE)
			return false;
		while (poll(&p, 1, UDP_WAIT_MS) == 1) {
			ssize_t n = recv(fd, buf, sizeof(buf), 0);
			if (n == (ssize_t)bytes && !sodium_memcmp(buf, token, PREFLIGHT_TOKEN))
				return true;
			if (n < 0)
				break;
		}
	}
	return false;
}

static void no_fragments(int fd)
{
	int mode = IP_PMTUDISC_PROBE; /* whole or not at all, whatever is remembered of the path */
	(void)setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &mode, sizeof(mode));
}

static void udp_try(const struct conf *c, struct preflight_peer *p, json_t *own, const uint8_t *token)
{
	struct sockaddr_in a;
	unsigned ours = preflight_mtu_of(own, p->self), theirs = preflight_mtu_of(p->facts, p->addr), mtu = theirs && theirs < ours ? theirs : ours;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	p->udp_bytes = mtu > UDP_SMALL + PREFLIGHT_UDP_HEAD && mtu <= 65535 ? mtu - PREFLIGHT_UDP_HEAD : UDP_SMALL;
	if (fd < 0 || address(p->addr, c->port + PREFLIGHT_PORT_STEP, &a) || connect(fd, (struct sockaddr *)&a, sizeof(a))) {
		if (fd >= 0)
			close(fd);
		return;
	}
	no_fragments(fd);
	p->udp = udp_once(fd, token, UDP_SMALL);
	p->udp_full = p->udp && udp_once(fd, token, p->udp_bytes);
	close(fd);
}

void preflight_ask(const struct conf *c, struct preflight_peer *p, json_t *own)
{
	uint8_t token[PREFLIGHT_TOKEN];
	char hex[2 * PREFLIGHT_TOKEN + 1];
	randombytes_buf(token, sizeof(token));
	sodium_bin2hex(hex, sizeof(hex), token, sizeof(token));
	json_t *q = json_pack("{s:s,s:s}", "ask", "facts", "token", hex);
	int64_t begun = preflight_wall_ms();
	p->facts = ask(c, p->addr, q, p->self, sizeof(p->self), p->error, sizeof(p->error), &p->other_key);
	p->took_ms = preflight_wall_ms() - begun;
	json_decref(q);
	if (!p->facts)
		return;
	p->clock_ms = json_integer_value(json_object_get(p->facts, "time_ms")) - begun - p->took_ms / 2;
	udp_try(c, p, own, token);
}

json_t *preflight_ask_reach(const struct conf *c, const struct preflight_peer *p, json_t *addrs)
{
	char error[256];
	bool other;
	json_t *q = json_pack("{s:s,s:O}", "ask", "reach", "to", addrs), *o = ask(c, p->addr, q, NULL, 0, error, sizeof(error), &other);
	json_t *bad = json_is_array(json_object_get(o, "not")) ? json_incref(json_object_get(o, "not")) : NULL;
	json_decref(q);
	json_decref(o);
	return bad;
}

/* ---- listening ---------------------------------------------------------------------------------------------------------------- */

struct listener {
	const struct conf *c;
	json_t *facts;
	int tcp, udp, port; /* port: the daemon's own, as long as no daemon has it; -1 */
	uint8_t token[TOKENS][PREFLIGHT_TOKEN];
	unsigned ntokens;
	bool quiet;
};

static volatile sig_atomic_t ended;
static void on_end(int sig)
{
	ended = sig;
}

static json_t *reach(json_t *to)
{
	json_t *bad = json_array(), *x;
	size_t i;
	json_array_foreach(to, i, x) {
		const char *addr = json_string_value(json_object_get(x, "addr"));
		int fd, rc = addr && i < ASKED_MAX ? preflight_connect(addr, (unsigned)json_integer_value(json_object_get(x, "port")), &fd) : -EINVAL;
		if (rc)
			json_array_append_new(bad, json_pack("{s:s,s:s}", "addr", addr ? addr : "?", "error", strerror(-rc)));
		else
			close(fd);
	}
	return json_pack("{s:o}", "not", bad);
}

static json_t *answer(struct listener *l, json_t *q)
{
	const char *what = json_string_value(json_object_get(q, "ask")), *hex = json_string_value(json_object_get(q, "token"));
	if (what && !strcmp(what, "reach"))
		return reach(json_object_get(q, "to"));
	if (!what || strcmp(what, "facts") || !hex ||
	    sodium_hex2bin(l->token[l->ntokens % TOKENS], PREFLIGHT_TOKEN, hex, strlen(hex), NULL, NULL, NULL))
		return NULL;
	l->ntokens++;
	json_t *o = json_copy(l->facts);
	json_object_set_new(o, "time_ms", json_integer(preflight_wall_ms()));
	return o;
}

static void serve(struct listener *l)
{
	struct talk t;
	struct sockaddr_in a = {0};
	socklen_t alen = sizeof(a);
	uint8_t magic[8], theirs[32], mine[32];
	char text[48];
	bool forged = false;
	t.fd = accept4(l->tcp, (struct sockaddr *)&a, &alen, SOCK_CLOEXEC);
	if (t.fd < 0)
		return;
	limit(t.fd);
	randombytes_buf(mine, sizeof(mine));
	json_t *q = NULL, *o = NULL;
	if (all_in(t.fd, magic, 8) && !memcmp(magic, MAGIC, 8) && all_in(t.fd, theirs, 32) && all_out(t.fd, mine, 32)) {
		talk_key(l->c, theirs, mine, t.key);
		q = frame_in(&t, 1, &forged);
		o = q ? answer(l, q) : NULL;
	}
	bool told = o && frame_out(&t, 2, o);
	inet_ntop(AF_INET, &a.sin_addr, text, sizeof(text));
	if (!l->quiet)
		fprintf(stderr, "%s: %s\n", text, told ? "answered" : forged ? "has another cluster key: refused" : "refused");
	close(t.fd);
	sodium_memzero(t.key, sizeof(t.key));
	json_decref(q);
	json_decref(o);
}

static void echo(struct listener *l)
{
	static uint8_t buf[65536];
	struct sockaddr_in a;
	socklen_t alen = sizeof(a);
	ssize_t n = recvfrom(l->udp, buf, sizeof(buf), MSG_DONTWAIT, (struct sockaddr *)&a, &alen);
	for (unsigned i = 0; n >= PREFLIGHT_TOKEN && i < TS_MIN(l->ntokens, (unsigned)TOKENS); i++)
		if (!sodium_memcmp(buf, l->token[i], PREFLIGHT_TOKEN)) {
			(void)!sendto(l->udp, buf, (size_t)n, MSG_DONTWAIT, (struct sockaddr *)&a, alen);
			return;
		}
}

static int bound(int type, unsigned port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int one = 1, fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
	if (fd >= 0 && type == SOCK_STREAM)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd >= 0 && type == SOCK_STREAM)
		small(fd);
	if (fd >= 0 && (bind(fd, (struct sockaddr *)&a, sizeof(a)) || (type == SOCK_STREAM && listen(fd, 16)))) {
		int err = errno;
		close(fd);
		errno = err;
		return -1;
	}
	return fd;
}

static int open_all(struct listener *l, char *errmsg, size_t errlen)
{
	unsigned port = l->c->port + PREFLIGHT_PORT_STEP;
	l->port = bound(SOCK_STREAM, l->c->port); /* taken: by a daemon, which can be connected to as well */
	if (l->quiet)
		return 0; /* only that port is to be there */
	l->tcp = bound(SOCK_STREAM, port);
	l->udp = l->tcp < 0 ? -1 : bound(SOCK_DGRAM, port);
	if (l->udp < 0) {
		int err = errno;
		snprintf(errmsg, errlen, "preflight: port %u: %s; is another one listening?", port, strerror(err));
		return -err;
	}
	no_fragments(l->udp);
	return 0;
}

int preflight_listen(const struct conf *c, json_t *facts, unsigned seconds, bool quiet, char *errmsg, size_t errlen)
{
	struct listener l = {.c = c, .facts = facts, .tcp = -1, .udp = -1, .port = -1, .quiet = quiet};
	struct sigaction sa = {.sa_handler = on_end};
	time_t until = time(NULL) + seconds;
	int rc = open_all(&l, errmsg, errlen);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	if (rc == 0 && !quiet) {
		printf("listening on port %u for %u s; now run `tessera preflight ADDRESS ...` on another node\n", c->port + PREFLIGHT_PORT_STEP, seconds);
		fflush(stdout);
	}
	while (rc == 0 && !ended && time(NULL) < until) {
		struct pollfd p[3] = {{.fd = l.tcp, .events = POLLIN}, {.fd = l.udp, .events = POLLIN}, {.fd = l.port, .events = POLLIN}};
		if (poll(p, 3, 200) <= 0)
			continue;
		if (p[0].revents)
			serve(&l);
		if (p[1].revents)
			echo(&l);
		int fd = p[2].revents ? accept4(l.port, NULL, NULL, SOCK_CLOEXEC) : -1;
		if (fd >= 0)
			close(fd);
	}
	for (unsigned i = 0; i < 3; i++) {
		int fd = i == 0 ? l.tcp : i == 1 ? l.udp : l.port;
		if (fd >= 0)
			close(fd);
	}
	return rc;
}
