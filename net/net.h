/* SPDX-License-Identifier: Apache-2.0 */
/* net: messages between the daemons of a cluster. Authenticated with the cluster key, in order and exactly once per
 * (incarnation pair, lane) for as long as both incarnations live: a broken connection is made again and what was not
 * acknowledged is sent again; duplicates are dropped by sequence. When a peer's incarnation departs (net_peer_drop),
 * everything queued to or from it is gone, before the caller continues.
 *
 * Lanes: each has its own credits and queue, none waits behind another; the lower number goes first.
 * A request that is answered (net_call) must never be sent on a lane whose handler may wait for the same lane's reply. */
#ifndef TESSERA_NET_NET_H
#define TESSERA_NET_NET_H

#include "lib/lib.h"

#define NET_PORT_DEFAULT 7420
#define NET_MAX_PAYLOAD  (4u << 20)
#define NET_MAX_NODES	 256 /* node ids 1..255 in this version */
#define NET_PROTO_MIN	 1
#define NET_PROTO_MAX	 3 /* 2: session keys that the cluster key alone does not give away; payloads may be encrypted */
#define NET_PROTO_MANY	 3 /* whoever speaks it takes frames of many token messages */

enum net_lane { NET_RECOVERY, NET_RELEASE, NET_GRANT, NET_REVOKE, NET_SHIPPED, NET_REQUEST, NET_BULK, NET_LANES };

/* On the wire, before every payload. Version negotiation happens in the handshake; proto is the agreed one. */
#define NET_MAGIC 0x54534d47u /* "TSMG" */
struct net_hdr_msg {
	le32 magic;
	le16 proto;
	uint8_t lane;
	uint8_t flags;	     /* NET_F_* */
	le16 type;	     /* owner's message number: dlm 0x100.., fs 0x200.., admin 0x300.., locks 0x400.. */
	le16 src_node;
	le32 payload_len;
	le64 src_incarnation;
	le64 dst_incarnation;
	le64 view;	     /* sender's view or domain epoch that the message belongs to; 0 = none */
	le64 seq;	     /* per (incarnation pair, lane), from 1; 0 for acks */
	le64 ack;	     /* highest seq received on this lane */
	le64 lamport;
	le64 call_id;	     /* pairs a reply with its request; 0 = one-way */
	le32 result;	     /* replies: 0, errno, or TS_ERR_RETRY / TS_ERR_MOVED as positive numbers */
	le32 group;	     /* short id of the file system (domain) it is about; 0 = the node itself */
	le64 ship_slot;	     /* shipped operations: sequence per (requester, executor incarnation); 0 = none */
	le64 payload_csum;   /* xxh3 of the payload */
	uint8_t mac[16];     /* keyed BLAKE2b over the frame's counter, header (mac zeroed) and payload, session key */
	uint8_t reserved[16];
};
_Static_assert(sizeof(struct net_hdr_msg) == 128, "wire header size");
enum { NET_F_REPLY = 1, NET_F_ACK = 2 };

struct net_msg { /* as handed to a handler; payload is valid during the handler only */
	unsigned src_node;
	uint64_t src_incarnation;
	enum net_lane lane;
	uint16_t type;
	uint32_t group;
	uint64_t view, lamport, call_id, ship_slot;
	int result;
	const void *payload;
	uint32_t len;
};

struct net_out { /* what a sender fills in */
	unsigned dst_node;
	enum net_lane lane;
	uint16_t type;
	uint32_t group;
	uint64_t view, ship_slot;
	const void *payload; /* copied */
	uint32_t len;
};

struct net;
struct net_stats {
	uint64_t frames_sent, frames_received, bytes_sent, bytes_received, resent, reconnects, dropped_old;
};

/* How the two implementations (TCP and the simulator's) plug in. */
struct net_ops {
	int (*send)(struct net *n, const struct net_out *o, uint64_t call_id, int result, bool reply);
	void (*peer_set)(struct net *n, unsigned node, uint64_t incarnation, const char *addr, unsigned port);
	void (*peer_drop)(struct net *n, unsigned node);
	void (*close)(struct net *n);
	void (*stats)(struct net *n, struct net_stats *out);
	unsigned (*proto)(const struct net *n, unsigned node); /* NULL: all speak NET_PROTO_MAX */
};

/* Handler of a message type range (type & 0xff00). Runs on the executor outside fibers, in order per (peer, lane);
 * must not wait: spawn a fiber for that. */
typedef void (*net_handler)(void *arg, const struct net_msg *m);
void net_handle(struct net *n, uint16_t type_class, net_handler fn, void *arg); /* type_class e.g. 0x100 */

/* The clock that all messages carry: sent with now+1, raised by what arrives. Versions of blocks come from it. */
uint64_t net_lamport_tick(struct net *n);
void net_lamport_raise(struct net *n, uint64_t seen);

/* The protocol that this life of the peer speaks with us; 0: not known yet. */
unsigned net_peer_proto(const struct net *n, unsigned node);

/* One-way. 0; -ENOTCONN no such peer (departed); -ENOBUFS the lane's queue is full (65536 messages or 256 MiB).
 * A message to oneself is delivered too, deferred. */
int net_send(struct net *n, const struct net_out *o) TS_MUST_CHECK;
/* Request and reply, from a fiber. Reply payload is copied to buf (up to *len, then *len = its size; -EMSGSIZE if larger;
 * len NULL = not wanted).
 * Returns 0 with *result set, or -ENOTCONN when the peer departed, -ETIMEDOUT at the deadline (0 = none). */
int net_call(struct net *n, const struct net_out *o, uint64_t deadline_ns, int *result, void *buf, uint32_t *len) TS_MUST_CHECK;
/* Answers a request, from the handler or later (keep src_node, incarnation, call_id, lane, group). */
int net_reply(struct net *n, const struct net_msg *req, int result, const void *payload, uint32_t len);

/* Peers come from the view: quorum tells which incarnations are members. */
void net_peer_set(struct net *n, unsigned node, uint64_t incarnation, const char *addr, unsigned port);
void net_peer_drop(struct net *n, unsigned node); /* pending calls to it end with -ENOTCONN */
void net_stats_get(struct net *n, struct net_stats *out);
void net_close(struct net *n);

struct net_tcp_args {
	struct ts_exec *exec;
	unsigned self_node;
	uint64_t incarnation;
	const uint8_t *key; /* 32 bytes, the cluster key */
	const char *bind_addr;
	unsigned port;
	bool encrypt; /* payloads on every connection of this node, whoever else wants it; peers that cannot are refused */
};
/* The keys of a cluster while they are changed. Who dials proves itself with one after the other, beginning with the first. */
#define NET_KEYS 2
struct net_keys {
	uint8_t key[NET_KEYS][32]; /* each is accepted */
	unsigned n;
	bool has_retired;
	uint8_t retired[32]; /* accepted no more; who still has it is told so */
};
/* Connections that were made under a key that is not among them are closed, and made anew: nothing that was sent is lost. */
void net_tcp_keys_set(struct net *n, const struct net_keys *k);
/* The node that has told us, under our own key, that this key has been replaced; 0: none. */
unsigned net_tcp_key_replaced(const struct net *n);
/* What is known of each peer of a net that net_tcp_open() made. */
struct net_peer_info {
	unsigned node;
	uint64_t incarnation;
	const char *addr;
	unsigned port;
	bool connected;
	unsigned attempts; /* to connect, since the last connection that lasted */
	uint64_t unacked, queued; /* messages sent and not acknowledged; of these and those still to be sent */
	uint64_t connected_ns; /* since when (the clock's time) */
	bool old_key; /* it has the key that was retired */
};
void net_tcp_each_peer(const struct net *n, void (*fn)(void *arg, const struct net_peer_info *i), void *arg);
int net_tcp_open(const struct net_tcp_args *a, struct net **out, char *errmsg, size_t errlen) TS_MUST_CHECK;
/* For another implementation (the simulator). */
struct net *net_new(struct ts_exec *x, unsigned self_node, uint64_t incarnation, const struct net_ops *ops, void *priv) TS_MUST_CHECK;
void *net_priv(struct net *n);
/* Implementation to net: a message arrived (already authenticated, de-duplicated, in order per lane). */
void net_deliver(struct net *n, const struct net_msg *m, bool reply);

#endif
