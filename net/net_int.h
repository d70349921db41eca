/* SPDX-License-Identifier: Apache-2.0 */
/* net's own header: the common part (struct net) and the TCP implementation (struct tcp, peers, lanes, connections).
 * One net belongs to one executor; nothing here is locked. What must never happen: a byte of an unproven connection
 * interpreted beyond the fixed handshake messages; a message delivered twice, out of order, or from a dead incarnation. */
#ifndef TESSERA_NET_NET_INT_H
#define TESSERA_NET_NET_INT_H

#include "net/net.h"

#include <sodium.h>
#include <sys/uio.h>

struct net_self_msg;
struct net {
	struct ts_exec *exec;
	unsigned self;
	uint64_t incarnation;
	const struct net_ops *ops;
	void *priv;
	struct {
		net_handler fn;
		void *arg;
	} handler[256];
	uint64_t lamport, next_call, dropped_old;
	uint64_t peer[NET_MAX_NODES]; /* current incarnation, 0 = none */
	struct ts_map calls;
	struct ts_list selfq;
	unsigned nself;
	size_t self_bytes;
	struct ts_task self_task;
	bool self_armed;
};

#define NET_LANE_MSGS	 65536u
#define NET_LANE_BYTES	 (256u << 20)
#define NET_CREDIT_MSGS	 1024u
#define NET_CREDIT_BYTES (8u << 20)
#define NET_ACK_MSGS	 64u
#define NET_ACK_BYTES	 (1u << 20)
#define NET_ACK_DELAY_NS (20 * TS_NS_PER_MS)
#define NET_KEY_BYTES	 32
#define NET_FRAME_MAX	 (sizeof(struct net_hdr_msg) + NET_MAX_PAYLOAD)
_Static_assert(NET_LANES <= 8, "handshake and ack frames carry eight lanes");

/* ---- frame.c: one direction of a proven connection ------------------------------------------------------------ */
struct net_seal {
	crypto_generichash_blake2b_state keyed; /* the key is in, nothing else */
	uint64_t counter;			/* frames so far: a replayed or reordered frame has the wrong one */
	bool secret;				/* payloads are encrypted, under a key of their own */
	uint8_t cipher[crypto_stream_chacha20_ietf_KEYBYTES];
};
void net_seal_init(struct net_seal *s, const uint8_t key[NET_KEY_BYTES]);
void net_seal_secret(struct net_seal *s, const uint8_t key[NET_KEY_BYTES]); /* from the first frame on */
/* The payload is encrypted, or decrypted, in place, if it is secret. */
void net_seal_mac(struct net_seal *s, struct net_hdr_msg *h, void *payload, size_t len);
bool net_seal_check(struct net_seal *s, const struct net_hdr_msg *h, void *payload, size_t len);
struct net_acks_msg { /* payload of a standalone ack frame */
	le64 ack[8];
};

/* ---- lanes.c: reliability towards one peer incarnation -------------------------------------------------------- */
struct net_tx {
	struct ts_list link;
	uint64_t seq;
	uint32_t len;		/* payload */
	struct net_hdr_msg hdr; /* wire form, followed by the payload */
	uint8_t payload[];
};
struct net_lane_state {
	struct ts_list q;     /* everything not acknowledged, by seq */
	struct ts_list *next; /* first one not given to the present connection; &q if none */
	uint64_t tx_seq, sent_max, wire_max, acked; /* given out; to any socket ever; to this one wholly; acknowledged */
	uint64_t rx_seq, rx_acked;
	uint32_t count, inflight;
	size_t bytes, inflight_bytes;
};
void net_lane_init(struct net_lane_state *l);
int net_lane_push(struct net_lane_state *l, struct net_tx *m);
struct net_tx *net_lane_take(struct net_lane_state *l); /* next to send within credit, or NULL */
bool net_lane_ack(struct net_lane_state *l, uint64_t ack); /* false: the peer acknowledges what was never sent */
void net_lane_rewind(struct net_lane_state *l); /* a new connection: nothing was sent on it yet */
void net_lane_free(struct net_lane_state *l);

/* ---- handshake.c ---------------------------------------------------------------------------------------------- */
enum net_hs_status { NET_HS_OK, NET_HS_VERSION, NET_HS_STALE, NET_HS_ROLE, NET_HS_PLAIN, NET_HS_RETIRED, NET_HS_TOLD };
#define NET_HS_SECRET 1u /* flags: it wants payloads encrypted */
#define NET_HS_TELLS  2u /* hello's flags: the key it proves is retired; it comes to say that, and nothing else */
struct net_hello_msg {
	le32 magic;
	le16 size, ver_min, ver_max, src_node, dst_node, pad;
	le64 src_incarnation, dst_incarnation;
	uint8_t nonce[32]; /* an X25519 public key, made for this connection */
	uint8_t flags;
	uint8_t reserved[31];
};
struct net_challenge_msg {
	le32 magic;
	le16 size, ver_min, ver_max, pad;
	uint8_t nonce[32];
	uint8_t flags;
	uint8_t reserved[19];
};
struct net_proof_msg {
	le32 magic;
	le16 size, pad;
	le64 rx_seq[8];
	uint8_t mac[32];
};
struct net_welcome_msg {
	le32 magic;
	le16 size, status;
	le64 rx_seq[8];
	uint8_t mac[32];
};
_Static_assert(sizeof(struct net_hello_msg) == 96 && sizeof(struct net_challenge_msg) == 64, "handshake size");
_Static_assert(sizeof(struct net_proof_msg) == 104 && sizeof(struct net_welcome_msg) == 104, "handshake size");
struct net_hs { /* the transcript: both sides end with the same four messages */
	struct net_hello_msg hello;
	struct net_challenge_msg challenge;
	struct net_proof_msg proof;
	struct net_welcome_msg welcome;
};
struct net_conn;
bool net_hs_start(struct net_conn *c); /* dialler: says hello. false = close */
bool net_hs_input(struct net_conn *c); /* consumes what has arrived; false = close */
bool net_hs_session(struct net_conn *c); /* keys, of what both have said. false: the other gave no key; close */
bool net_hs_accept(struct net_conn *c); /* parked one whose peer is now known: sends the welcome */

/* ---- tcp.c, tcp_conn.c ---------------------------------------------------------------------------------------- */
enum net_conn_state { NET_C_CONNECTING, NET_C_HELLO, NET_C_CHALLENGE, NET_C_PROOF, NET_C_WELCOME, NET_C_PARKED, NET_C_OPEN };
#define NET_IOV 64
struct net_conn {
	struct ts_list link;
	struct net_tcp *t;
	struct net_peer *peer; /* dialler: from the start; acceptor: once open */
	int fd;
	enum net_conn_state state;
	bool dialler, closed, want_out, proven;
	unsigned busy;	       /* callbacks on the stack: freed when the last returns */
	struct ts_timer timer; /* handshake or parking deadline */
	uint8_t *rbuf;
	size_t rcap, rstart, rend;
	bool big; /* a frame needed a grown buffer lately */
	struct net_hs hs;
	uint8_t key[NET_KEY_BYTES]; /* the cluster key it is made under */
	uint8_t secret_key[crypto_scalarmult_SCALARBYTES]; /* of our nonce; gone when it is open */
	uint16_t proto;
	struct net_seal tx, rx;
	struct iovec iov[NET_IOV];
	struct net_tx *iov_tx[NET_IOV]; /* NULL: an ack frame */
	void *iov_copy[NET_IOV];	/* the frame encrypted: the message may have to go over another connection */
	unsigned iov_at, iov_n;
	struct {
		struct net_hdr_msg hdr;
		struct net_acks_msg payload;
	} ack;
};
struct net_peer {
	struct net_tcp *t;
	unsigned node;
	uint64_t incarnation;
	char addr[48];
	unsigned port;
	struct net_lane_state lane[NET_LANES];
	struct net_conn *conn;	     /* open, or being dialled */
	struct ts_timer dial, ack;   /* next attempt; delayed acknowledgement */
	unsigned attempts, rx_msgs;  /* attempts without a lasting connection; received and not acknowledged */
	uint64_t opened_ns;
	size_t rx_bytes;
	bool ack_now, flush_armed, was_open;
	unsigned proto;	  /* of its last connection; 0: none yet */
	unsigned key_try; /* which key is next, and the retired one behind them */
	bool old_key;
	struct ts_task flush;
};
struct net_tcp {
	struct net *net;
	struct ts_exec *exec;
	struct ts_loop *loop;
	int listen_fd;
	unsigned port;
	struct net_keys keys;
	unsigned replaced_by; /* node */
	bool encrypt;
	unsigned proto_max; /* NET_PROTO_MAX, but for tests */
	struct net_peer *peers[NET_MAX_NODES];
	struct ts_list conns;
	unsigned nunproven;
	struct ts_timer tick;
	uint64_t auth_log_ns, auth_suppressed;
	struct net_stats stats;
};
struct net_conn *net_conn_new(struct net_tcp *t, int fd, struct net_peer *p);
void net_conn_close(struct net_conn *c);
void net_conn_open(struct net_conn *c, struct net_peer *p); /* proven and welcome: adopt, resend, go */
bool net_conn_send_raw(struct net_conn *c, const void *buf, size_t len); /* handshake messages, all or nothing */
void net_conn_flush(struct net_conn *c);
void net_conn_copies_free(struct net_conn *c);
void net_peer_flush_soon(struct net_peer *p);
void net_peer_dial_later(struct net_peer *p);
void net_peer_conn_lost(struct net_peer *p);
void net_auth_log(struct net_tcp *t, const char *what, const struct net_conn *c);

/* Tests. */
unsigned net_tcp_port(struct net *n);
bool net_tcp_test_cut(struct net *n, unsigned node); /* shuts the connection down under both sides */
bool net_tcp_test_open(struct net *n, unsigned node);

#endif
