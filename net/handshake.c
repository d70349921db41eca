/* SPDX-License-Identifier: Apache-2.0 */
/* Job: two daemons prove to each other, over fresh nonces, that they hold the cluster key, and agree on a protocol
 * version and a session key: hello -> challenge -> proof -> welcome. The dialler proves first, so that a stranger gets
 * nothing but a nonce. Must never happen: anything but these four fixed messages is looked at before the proof; a
 * recorded handshake is of any use later; a version is chosen, or encryption left out, that the proof does not cover. */
#include "net/net_int.h"

#define HS_HELLO     0x54534831u /* TSH1 */
#define HS_CHALLENGE 0x54534832u
#define HS_PROOF     0x54534833u
#define HS_WELCOME   0x54534834u
#define PARK_NS	     (3 * TS_NS_PER_S)

/* BLAKE2b under the cluster key over a label and the first len bytes of the transcript. */
static void keyed_hash(const struct net_conn *c, const char *label, size_t len, uint8_t *out, size_t outlen)
{
	crypto_generichash_blake2b_state st;

	crypto_generichash_blake2b_init(&st, c->key, NET_KEY_BYTES, outlen);
	crypto_generichash_blake2b_update(&st, (const uint8_t *)label, strlen(label) + 1);
	crypto_generichash_blake2b_update(&st, (const uint8_t *)&c->hs, len);
	crypto_generichash_blake2b_final(&st, out, outlen);
}

static void proof_mac(const struct net_conn *c, uint8_t out[32])
{
	keyed_hash(c, "tessera net dialler", offsetof(struct net_hs, proof.mac), out, 32);
}

static void welcome_mac(const struct net_conn *c, uint8_t out[32])
{
	keyed_hash(c, "tessera net acceptor", offsetof(struct net_hs, welcome.mac), out, 32);
}

/* Both nonces are public keys; what they give together whoever has the cluster key later cannot find out. false: the other's is none. */
static bool shared_secret(const struct net_conn *c, uint8_t out[crypto_scalarmult_BYTES])
{
	return crypto_scalarmult(out, c->secret_key, c->dialler ? c->hs.challenge.nonce : c->hs.hello.nonce) == 0;
}

static void session_keys(const struct net_conn *c, const char *label, const uint8_t *shared, uint8_t keys[2 * NET_KEY_BYTES])
{
	crypto_generichash_blake2b_state st;

	_Static_assert(2 * NET_KEY_BYTES <= crypto_generichash_blake2b_BYTES_MAX, "two keys of one hash");
	crypto_generichash_blake2b_init(&st, c->key, NET_KEY_BYTES, 2 * NET_KEY_BYTES);
	crypto_generichash_blake2b_update(&st, (const uint8_t *)label, strlen(label) + 1);
	crypto_generichash_blake2b_update(&st, (const uint8_t *)&c->hs, offsetof(struct net_hs, welcome));
	if (shared)
		crypto_generichash_blake2b_update(&st, shared, crypto_scalarmult_BYTES);
	crypto_generichash_blake2b_final(&st, keys, 2 * NET_KEY_BYTES);
}

static bool wants_secret(const struct net_conn *c)
{
	return (c->hs.hello.flags | c->hs.challenge.flags) & NET_HS_SECRET;
}

bool net_hs_session(struct net_conn *c)
{
	uint8_t keys[2 * NET_KEY_BYTES], shared[crypto_scalarmult_BYTES];
	struct net_seal *first = c->dialler ? &c->tx : &c->rx, *second = c->dialler ? &c->rx : &c->tx;
	bool ok = c->proto < 2 || shared_secret(c, shared);

	session_keys(c, "tessera net session", c->proto < 2 ? NULL : shared, keys);
	net_seal_init(first, keys);
	net_seal_init(second, keys + NET_KEY_BYTES);
	if (c->proto >= 2 && wants_secret(c)) {
		session_keys(c, "tessera net cipher", shared, keys);
		net_seal_secret(first, keys);
		net_seal_secret(second, keys + NET_KEY_BYTES);
	}
	sodium_memzero(keys, sizeof(keys));
	sodium_memzero(shared, sizeof(shared));
	sodium_memzero(c->secret_key, sizeof(c->secret_key));
	return ok;
}

static void nonce_make(struct net_conn *c, uint8_t nonce[32])
{
	_Static_assert(crypto_scalarmult_BYTES == 32, "public key size");
	randombytes_buf(c->secret_key, sizeof(c->secret_key));
	(void)crypto_scalarmult_base(nonce, c->secret_key); /* it cannot fail */
}

static bool pick_version(struct net_conn *c)
{
	unsigned lo = TS_MAX(le16_get(c->hs.hello.ver_min), le16_get(c->hs.challenge.ver_min));
	unsigned hi = TS_MIN(le16_get(c->hs.hello.ver_max), le16_get(c->hs.challenge.ver_max));

	c->proto = (uint16_t)hi;
	return lo <= hi;
}

static bool plain_refused(const struct net_conn *c)
{
	return c->proto < 2 && wants_secret(c);
}

static void put_rx(const struct net_peer *p, le64 out[8])
{
	for (unsigned i = 0; i < NET_LANES; i++)
		out[i] = le64_make(p->lane[i].rx_seq);
}

/* What the other side has received: frees it here, the rest goes out again. */
static bool take_rx(struct net_peer *p, const le64 in[8])
{
	for (unsigned i = 0; i < NET_LANES; i++) {
		struct net_lane_state *l = &p->lane[i];

		net_lane_rewind(l);
		if (!net_lane_ack(l, le64_get(in[i])))
			return false;
		p->t->stats.resent += l->sent_max - l->acked;
		l->wire_max = l->acked;
	}
	return true;
}

/* ---- which key (net_keys) ---------------------------------------------------------------------------------------- */

/* Of whoever dials: one after the other, the retired one last, to tell who still has it. */
static bool choose_key(struct net_conn *c)
{
	const struct net_keys *k = &c->t->keys;
	unsigned i = c->peer->key_try % (k->n + k->has_retired);

	memcpy(c->key, i < k->n ? k->key[i] : k->retired, NET_KEY_BYTES);
	return i < k->n;
}

static bool proves(struct net_conn *c, const uint8_t key[NET_KEY_BYTES])
{
	uint8_t mac[32];

	memcpy(c->key, key, NET_KEY_BYTES);
	proof_mac(c, mac);
	return !crypto_verify_32(mac, c->hs.proof.mac);
}

static bool proof_known(struct net_conn *c)
{
	for (unsigned i = 0; i < c->t->keys.n; i++)
		if (proves(c, c->t->keys.key[i]))
			return true;
	return false;
}

static void note_old_key(struct net_tcp *t, unsigned node)
{
	if (node >= NET_MAX_NODES || !t->peers[node] || t->peers[node]->old_key)
		return;
	t->peers[node]->old_key = true;
	ts_warn("net: node %u still has the cluster key that was replaced: refused; copy the key file of this node there and restart its tesserad", node);
}

static void note_replaced(struct net_tcp *t, unsigned by)
{
	if (t->keys.n > 1) /* the other key is tried next */
		return;
	if (!t->replaced_by)
		ts_err("net: node %u says that the cluster key was replaced while this node was away: copy the key file of a member here and restart tesserad", by);
	t->replaced_by = by;
}

bool net_hs_start(struct net_conn *c)
{
	struct net *n = c->t->net;
	struct net_hello_msg *h = &c->hs.hello;
	bool good = choose_key(c);

	*h = (struct net_hello_msg){.magic = le32_make(HS_HELLO),
				    .size = le16_make(sizeof(*h)),
				    .ver_min = le16_make(NET_PROTO_MIN),
				    .ver_max = le16_make((uint16_t)c->t->proto_max),
				    .src_node = le16_make((uint16_t)n->self),
				    .dst_node = le16_make((uint16_t)c->peer->node),
				    .src_incarnation = le64_make(n->incarnation),
				    .dst_incarnation = le64_make(c->peer->incarnation),
				    .flags = (uint8_t)((c->t->encrypt ? NET_HS_SECRET : 0) | (good ? 0 : NET_HS_TELLS))};
	nonce_make(c, h->nonce);
	c->state = NET_C_CHALLENGE;
	return net_conn_send_raw(c, h, sizeof(*h));
}

static bool on_hello(struct net_conn *c)
{
	const struct net_hello_msg *h = &c->hs.hello;
	struct net_challenge_msg *r = &c->hs.challenge;

	if (le32_get(h->magic) != HS_HELLO || le16_get(h->size) != sizeof(*h) ||
	    le16_get(h->dst_node) != c->t->net->self)
		return false;
	*r = (struct net_challenge_msg){.magic = le32_make(HS_CHALLENGE),
					.size = le16_make(sizeof(*r)),
					.ver_min = le16_make(NET_PROTO_MIN),
					.ver_max = le16_make((uint16_t)c->t->proto_max),
					.flags = c->t->encrypt ? NET_HS_SECRET : 0};
	nonce_make(c, r->nonce);
	c->state = NET_C_PROOF;
	return net_conn_send_raw(c, r, sizeof(*r));
}

static bool on_challenge(struct net_conn *c)
{
	const struct net_challenge_msg *r = &c->hs.challenge;
	struct net_proof_msg *p = &c->hs.proof;

	if (le32_get(r->magic) != HS_CHALLENGE || le16_get(r->size) != sizeof(*r))
		return false;
	*p = (struct net_proof_msg){.magic = le32_make(HS_PROOF), .size = le16_make(sizeof(*p))};
	put_rx(c->peer, p->rx_seq);
	proof_mac(c, p->mac);
	c->state = NET_C_WELCOME;
	return net_conn_send_raw(c, p, sizeof(*p));
}

static bool send_welcome(struct net_conn *c, enum net_hs_status status, const struct net_peer *p)
{
	struct net_welcome_msg *w = &c->hs.welcome;

	*w = (struct net_welcome_msg){
		.magic = le32_make(HS_WELCOME), .size = le16_make(sizeof(*w)), .status = le16_make(status)};
	if (p)
		put_rx(p, w->rx_seq);
	welcome_mac(c, w->mac);
	return net_conn_send_raw(c, w, sizeof(*w)) && status == NET_HS_OK;
}

bool net_hs_accept(struct net_conn *c)
{
	struct net_peer *p = c->t->peers[le16_get(c->hs.hello.src_node)];

	TS_ASSERT(p && p->incarnation == le64_get(c->hs.hello.src_incarnation));
	if (p->conn) /* the dialler has lost it or would not dial; what is unread there will be sent again */
		net_conn_close(p->conn);
	if (!send_welcome(c, NET_HS_OK, p) || !take_rx(p, c->hs.proof.rx_seq) || !net_hs_session(c))
		return false;
	net_conn_open(c, p);
	return true;
}

static void park_timeout(void *arg)
{
	net_conn_close(arg);
}

/* Proven, but our own view does not name that incarnation (yet): one such connection per node may wait a little. */
static bool park(struct net_conn *c)
{
	ts_list_for_safe(l, tmp, &c->t->conns)
	{
		struct net_conn *o = ts_list_entry(l, struct net_conn, link);

		if (o->state == NET_C_PARKED && le16_get(o->hs.hello.src_node) == le16_get(c->hs.hello.src_node))
			net_conn_close(o);
	}
	c->state = NET_C_PARKED;
	ts_timer_arm(c->t->exec, &c->timer, ts_exec_now(c->t->exec) + PARK_NS, park_timeout, c);
	return ts_loop_fd_mod(c->t->loop, c->fd, 0) == 0;
}

static bool on_proof(struct net_conn *c)
{
	struct net *n = c->t->net;
	const struct net_hello_msg *h = &c->hs.hello;
	unsigned src = le16_get(h->src_node);

	if (le32_get(c->hs.proof.magic) == HS_PROOF && c->t->keys.has_retired && proves(c, c->t->keys.retired)) {
		if (!(h->flags & NET_HS_TELLS)) /* else it knows */
			note_old_key(c->t, src);
		return send_welcome(c, NET_HS_RETIRED, NULL);
	}
	if (le32_get(c->hs.proof.magic) != HS_PROOF || !proof_known(c)) {
		net_auth_log(c->t, "offers no proof of this cluster's key: refused; compare the key files", c);
		return false;
	}
	c->proven = true;
	c->t->nunproven--;
	if (h->flags & NET_HS_TELLS) {
		note_replaced(c->t, src);
		return send_welcome(c, NET_HS_TOLD, NULL);
	}
	if (!pick_version(c)) {
		ts_warn("net: node %u speaks protocol %u to %u, this one %u to %u: refused; upgrade the older one", src,
			le16_get(h->ver_min), le16_get(h->ver_max), NET_PROTO_MIN, NET_PROTO_MAX);
		return send_welcome(c, NET_HS_VERSION, NULL);
	}
	if (plain_refused(c)) {
		ts_warn("net: node %u cannot encrypt, and that is demanded: refused; upgrade it", src);
		return send_welcome(c, NET_HS_PLAIN, NULL);
	}
	if (!src || src >= n->self)
		return send_welcome(c, NET_HS_ROLE, NULL);
	if (le64_get(h->dst_incarnation) != n->incarnation)
		return send_welcome(c, NET_HS_STALE, NULL);
	if (n->peer[src] != le64_get(h->src_incarnation) || !c->t->peers[src])
		return park(c);
	return net_hs_accept(c);
}

static bool on_welcome(struct net_conn *c)
{
	static const char *const why[] = {"", "no common protocol version: upgrade the older node",
					  "it is another incarnation by now", "both ends would dial: node ids differ",
					  "encryption is demanded, and one of the two cannot: upgrade the older node",
					  "the cluster key was replaced", "it has the old cluster key, and was told"};
	const struct net_welcome_msg *w = &c->hs.welcome;
	unsigned status = le16_get(w->status);
	uint8_t mac[32];

	welcome_mac(c, mac);
	if (le32_get(w->magic) != HS_WELCOME || crypto_verify_32(mac, w->mac)) {
		net_auth_log(c->t, "answers without proof of this cluster's key: not trusted; compare the key files", c);
		return false;
	}
	if (status == NET_HS_TOLD)
		note_old_key(c->t, c->peer->node);
	if (status == NET_HS_RETIRED && !(c->hs.hello.flags & NET_HS_TELLS))
		note_replaced(c->t, c->peer->node);
	if (status == NET_HS_OK && c->hs.hello.flags & NET_HS_TELLS) /* an older version, which does not know what was said */
		return false;
	if (status == NET_HS_OK && !pick_version(c))
		status = NET_HS_VERSION;
	if (status == NET_HS_OK && plain_refused(c))
		status = NET_HS_PLAIN;
	if (status != NET_HS_OK) {
		if (status != NET_HS_RETIRED && status != NET_HS_TOLD) /* these were told once */
			ts_info("net: node %u refuses: %s", c->peer->node,
				status < TS_ARRAY_LEN(why) ? why[status] : "for a reason unknown here");
		return false;
	}
	if (!take_rx(c->peer, w->rx_seq)) {
		ts_warn("net: node %u acknowledges what was never sent: connection refused", c->peer->node);
		return false;
	}
	if (!net_hs_session(c))
		return false;
	net_conn_open(c, c->peer);
	return true;
}

/* Takes one fixed message out of the buffer, if all of it is there. */
static bool take(struct net_conn *c, void *dst, size_t size)
{
	if (c->rend - c->rstart < size)
		return false;
	memcpy(dst, c->rbuf + c->rstart, size);
	c->rstart += size;
	return true;
}

static bool step(struct net_conn *c)
{
	switch (c->state) {
	case NET_C_HELLO:
		return !take(c, &c->hs.hello, sizeof(c->hs.hello)) || on_hello(c);
	case NET_C_CHALLENGE:
		return !take(c, &c->hs.challenge, sizeof(c->hs.challenge)) || on_challenge(c);
	case NET_C_PROOF:
		return !take(c, &c->hs.proof, sizeof(c->hs.proof)) || on_proof(c);
	case NET_C_WELCOME:
		return !take(c, &c->hs.welcome, sizeof(c->hs.welcome)) || on_welcome(c);
	default:
		return true;
	}
}

bool net_hs_input(struct net_conn *c)
{
	size_t before;

	do {
		before = c->rstart;
		if (!step(c))
			return false;
	} while (!c->closed && c->rstart != before);
	return true;
}
