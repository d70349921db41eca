/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what a connection between daemons reads: handshake and frames, as acceptor and as dialler, from a stranger (raw bytes) and
 * from a peer that has the key (a true handshake whose fields the input changes, then frames with a good seal over what the input
 * changes). Checked beside memory: a stranger never reaches a handler; a peer's messages come in order. */
#include "net/net_int.h"
#include "tests/fuzz/fuzz.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define SELF	 5
#define SELF_INC 500
#define LOW	 2 /* dials us */
#define HIGH	 9 /* is dialled by us */
#define PEER_INC 900

enum { RAW_IN, PEER_IN, RAW_OUT, PEER_OUT, MODES };

static const uint8_t key[NET_KEY_BYTES] = {1, 2, 3};
static struct {
	struct ts_exec *x;
	struct ts_loop *loop;
	struct net *net;
	struct net_tcp *t;
	int fd; /* the other end */
	bool has_key;
	uint64_t got;
} w;

/* One turn without sleep: the hook is called in front of the wait. */
static void stop_hook(void *arg)
{
	ts_loop_stop(w.loop);
}
static void turns(unsigned n)
{
	while (n--)
		ts_loop_run(w.loop);
}

static void on_msg(void *arg, const struct net_msg *m)
{
	TS_ASSERT(w.has_key);
	w.got++;
	fuzz_touch(m->payload, m->len);
	if (m->call_id)
		(void)net_reply(w.net, m, 0, m->payload, TS_MIN(m->len, 64u));
}

static bool put(const void *p, size_t n)
{
	bool ok = send(w.fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)n;

	turns(2);
	return ok;
}
static bool get(void *p, size_t n)
{
	return recv(w.fd, p, n, MSG_DONTWAIT) == (ssize_t)n;
}

/* ---- the other side of a handshake, written from README.md ------------------------------------------------------------- */

static void keyed(const struct net_hs *hs, const char *label, size_t len, uint8_t *out, size_t outlen)
{
	crypto_generichash_blake2b_state st;

	crypto_generichash_blake2b_init(&st, key, sizeof(key), outlen);
	crypto_generichash_blake2b_update(&st, (const uint8_t *)label, strlen(label) + 1);
	crypto_generichash_blake2b_update(&st, (const uint8_t *)hs, len);
	crypto_generichash_blake2b_final(&st, out, outlen);
}

/* Up to 16 bytes are changed, as the input says. */
static void mutate(struct ts_rd *rd, void *p, size_t n)
{
	for (unsigned left = ts_rd_u8(rd) % 16; left && !rd->bad; left--) {
		unsigned off = ts_rd_u8(rd);
		uint8_t v = ts_rd_u8(rd);

		if (off < n)
			((uint8_t *)p)[off] = v;
	}
}

static bool shake_in(struct ts_rd *rd, struct net_hs *hs)
{
	hs->hello = (struct net_hello_msg){.magic = le32_make(0x54534831), .size = le16_make(sizeof(hs->hello)), .ver_min = le16_make(1),
					   .ver_max = le16_make(1), .src_node = le16_make(LOW), .dst_node = le16_make(SELF),
					   .src_incarnation = le64_make(PEER_INC), .dst_incarnation = le64_make(SELF_INC)};
	mutate(rd, &hs->hello, sizeof(hs->hello));
	if (!put(&hs->hello, sizeof(hs->hello)) || !get(&hs->challenge, sizeof(hs->challenge)))
		return false;
	hs->proof = (struct net_proof_msg){.magic = le32_make(0x54534833), .size = le16_make(sizeof(hs->proof))};
	mutate(rd, &hs->proof, offsetof(struct net_proof_msg, mac));
	keyed(hs, "tessera net dialler", offsetof(struct net_hs, proof.mac), hs->proof.mac, 32);
	return put(&hs->proof, sizeof(hs->proof)) && get(&hs->welcome, sizeof(hs->welcome));
}

static bool shake_out(struct ts_rd *rd, struct net_hs *hs)
{
	turns(2);
	if (!get(&hs->hello, sizeof(hs->hello)))
		return false;
	hs->challenge = (struct net_challenge_msg){.magic = le32_make(0x54534832), .size = le16_make(sizeof(hs->challenge)),
						   .ver_min = le16_make(1), .ver_max = le16_make(1)};
	mutate(rd, &hs->challenge, sizeof(hs->challenge));
	if (!put(&hs->challenge, sizeof(hs->challenge)) || !get(&hs->proof, sizeof(hs->proof)))
		return false;
	hs->welcome = (struct net_welcome_msg){.magic = le32_make(0x54534834), .size = le16_make(sizeof(hs->welcome))};
	mutate(rd, &hs->welcome, offsetof(struct net_welcome_msg, mac));
	keyed(hs, "tessera net acceptor", offsetof(struct net_hs, welcome.mac), hs->welcome.mac, 32);
	return put(&hs->welcome, sizeof(hs->welcome));
}

static void frames(struct ts_rd *rd, const struct net_hs *hs, bool in)
{
	uint8_t keys[2 * NET_KEY_BYTES], drop[512];
	struct net_seal seal;
	uint64_t seq[NET_LANES] = {0};

	keyed(hs, "tessera net session", offsetof(struct net_hs, welcome), keys, sizeof(keys));
	net_seal_init(&seal, in ? keys : keys + NET_KEY_BYTES);
	while (!rd->bad && rd->left) {
		unsigned how = ts_rd_u8(rd), lane = how % NET_LANES;
		struct {
			struct net_hdr_msg h;
			uint8_t p[2048];
		} f = {.h = {.magic = le32_make(NET_MAGIC), .proto = le16_make(1), .lane = (uint8_t)lane, .type = le16_make(0x101),
			     .src_node = le16_make(in ? LOW : HIGH), .src_incarnation = le64_make(PEER_INC),
			     .dst_incarnation = le64_make(SELF_INC), .seq = le64_make(seq[lane] + 1), .lamport = le64_make(7)}};
		size_t n;
		const uint8_t *run = fuzz_run(rd, &n);

		n = TS_MIN(n, sizeof(f.p));
		memcpy(f.p, run, n);
		f.h.payload_len = le32_make((uint32_t)n);
		mutate(rd, &f.h, sizeof(f.h));
		if (!(how & 64)) /* else whatever sum and seal there are */
			f.h.payload_csum = le64_make(ts_csum64(f.p, n, 0));
		if (!(how & 128))
			net_seal_mac(&seal, &f.h, f.p, n);
		seq[lane]++;
		if (!put(&f, sizeof(f.h) + n))
			return;
		while (recv(w.fd, drop, sizeof(drop), MSG_DONTWAIT) > 0)
			;
	}
}

static void raw(struct ts_rd *rd)
{
	while (!rd->bad && rd->left) {
		size_t n;
		const uint8_t *run = fuzz_run(rd, &n);

		if (n && !put(run, n))
			return;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct ts_rd rd = fuzz_in(p, n);
	unsigned mode = ts_rd_u8(&rd) % MODES;
	bool in = mode == RAW_IN || mode == PEER_IN;
	struct net_tcp_args a = {.self_node = SELF, .incarnation = SELF_INC, .key = key, .bind_addr = "127.0.0.1"};
	struct net_hs hs = {0};
	struct net_conn *c;
	char err[128];
	int fds[2];

	fuzz_env_reset();
	w.x = a.exec = ts_exec_new(&fuzz_env);
	w.loop = ts_loop_new(w.x);
	TS_ASSERT(net_tcp_open(&a, &w.net, err, sizeof(err)) == 0);
	w.t = net_priv(w.net);
	w.has_key = mode == PEER_IN || mode == PEER_OUT;
	ts_loop_before_wait(w.loop, stop_hook, NULL);
	net_handle(w.net, 0x100, on_msg, NULL);
	net_peer_set(w.net, LOW, PEER_INC, "none", 1);
	net_peer_set(w.net, HIGH, PEER_INC, "none", 1); /* no address: it cannot be dialled, the pair of sockets stands for that */
	TS_ASSERT(net_send(w.net, &(struct net_out){.dst_node = in ? LOW : HIGH, .lane = NET_BULK, .type = 0x102, .payload = key, .len = 32}) == 0);
	TS_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
	w.fd = fds[1];
	c = net_conn_new(w.t, fds[0], in ? NULL : w.t->peers[HIGH]);
	if (!in)
		w.t->peers[HIGH]->conn = c;
	if (!w.has_key)
		raw(&rd);
	else if (in ? shake_in(&rd, &hs) : shake_out(&rd, &hs))
		frames(&rd, &hs, in);
	close(w.fd);
	turns(2);
	net_close(w.net);
	ts_loop_free(w.loop);
	ts_exec_free(w.x);
	return 0;
}

void fuzz_seeds(void)
{
	static uint8_t buf[8192], payload[2048];
	struct net_hello_msg hello = {.magic = le32_make(0x54534831), .size = le16_make(sizeof(hello)), .ver_min = le16_make(1),
				      .ver_max = le16_make(1), .src_node = le16_make(LOW), .dst_node = le16_make(SELF)};

	for (unsigned mode = 0; mode < MODES; mode++) {
		struct ts_wr o = {.p = buf, .left = sizeof(buf)};

		ts_wr_u8(&o, (uint8_t)mode);
		if (mode == RAW_IN || mode == RAW_OUT) {
			fuzz_run_put(&o, &hello, sizeof(hello));
			fuzz_run_put(&o, payload, 104);
			fuzz_run_put(&o, payload, 200);
		} else {
			ts_wr_u16(&o, 0); /* nothing is changed in the handshake */
			for (unsigned i = 0; i < 4; i++) {
				ts_wr_u8(&o, (uint8_t)i);
				fuzz_run_put(&o, payload, 10 + 400 * i);
				ts_wr_u8(&o, 1); /* a request: its number */
				ts_wr_u8(&o, offsetof(struct net_hdr_msg, call_id));
				ts_wr_u8(&o, (uint8_t)i);
			}
		}
		fuzz_seed(buf, o.used);
	}
}
