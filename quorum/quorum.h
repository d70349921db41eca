/* SPDX-License-Identifier: Apache-2.0 */
/* quorum: who is a member, who is dead, who may write.
 *
 * A pure core (quorum_core_*) is fed with totally ordered messages and membership changes and answers with actions; it
 * owns no thread, no socket, no clock. quorum_cs.c feeds it from corosync (CPG, votequorum, cmap) on a thread of its own;
 * the simulator feeds it from a simulated ordered multicast. Everything above knows views and groups, never corosync.
 *
 * Words. view: one agreed membership of the cluster with a number that only grows. group: the nodes that mount one file
 * system, with an epoch that grows at every change. pending: incarnations that left a group without a clean leave; they
 * need recovery, in order; only a completed replay (quorum_group_recovered, ordered) removes one.
 * Invariants: all nodes see the same views and group epochs in the same order; an incarnation once excluded is never a
 * member again; a node without quorum or lease never passes quorum_may_write(). */
#ifndef TESSERA_QUORUM_QUORUM_H
#define TESSERA_QUORUM_QUORUM_H

#include "lib/lib.h"

#define QUORUM_MAX_NODES  64 /* voters: what corosync's ring carries */
#define QUORUM_MAX_GROUPS 64

/* An incarnation names one life of one node's daemon, and no other life of any node: log frames, seals and adopted intents on
 * disk are told apart by it alone. counter grows with every life of the node, range 1 .. 2^47 - 1. */
#define QUORUM_INCARNATION_NODE_BITS 16
static inline uint64_t quorum_incarnation_make(unsigned node, uint64_t counter)
{
	return counter << QUORUM_INCARNATION_NODE_BITS | node;
}
static inline uint64_t quorum_incarnation_counter(uint64_t incarnation)
{
	return incarnation >> QUORUM_INCARNATION_NODE_BITS;
}

struct quorum_member {
	unsigned node;
	uint64_t incarnation;
	uint32_t slot; /* groups: log slot it writes; UINT32_MAX if none yet */
	char addr[48]; /* views: peer address */
	uint16_t port;
};
struct quorum_view {
	uint64_t number;
	bool quorate;
	unsigned nmembers;
	struct quorum_member members[QUORUM_MAX_NODES]; /* sorted by node */
};
struct quorum_group_view {
	uint64_t group;	 /* first 8 bytes of the file system's id, never 0 */
	uint64_t epoch;	 /* grows with every change of members or pending */
	uint64_t view;	 /* view number it belongs to */
	bool quorate;
	unsigned nmembers;
	struct quorum_member members[QUORUM_MAX_NODES]; /* sorted by node */
	unsigned npending;
	struct quorum_member pending[QUORUM_MAX_NODES]; /* dead, to be recovered, oldest first */
};

/* The tiebreaker of even clusters (docs/quorum.md): a small area on a shared disk. Replicated, like views; kept by the daemons over
 * restarts. uuid names one making of the area: all zeros, there is no tiebreaker. */
#define QUORUM_TIE_URL	 200
#define QUORUM_TIE_NODES 63 /* node ids that may use it */
struct quorum_tie {
	uint64_t version; /* grows with every change; 0: nobody ever set one */
	uint8_t uuid[16];
	char url[QUORUM_TIE_URL];
};

struct quorum;
struct quorum_events {
	/* On the executor, outside fibers, in the agreed order. */
	void (*view)(void *arg, const struct quorum_view *v);
	void (*group)(void *arg, const struct quorum_group_view *g); /* groups this node has joined or is joining */
	void (*excluded)(void *arg, const char *why); /* this incarnation is out: stop all I/O at once, for ever */
	void (*suspended)(void *arg, bool suspended); /* lease or quorum lost / back: block and invalidate / go on.
						       * A node starts suspended; the first event is (false). */
	void *arg;
	void (*tie)(void *arg, const struct quorum_tie *t); /* the cluster has agreed on this one: keep it, open it. Before the view. */
};

struct quorum_times {
	uint32_t lease_ms;  /* 2000: right to write counted from sending a renewal that came back */
	uint32_t renew_ms;  /* 400 */
	uint32_t margin_ms; /* 500: clock and scheduling slack that survivors add before they trust a lease to be over */
	uint32_t settle_ms; /* 150: after a fence, before anything the victim wrote is read */
};
extern const struct quorum_times quorum_times_default;

/* What a node must remember over restarts of its daemon, in a small file that is replaced atomically. */
struct quorum_durable {
	uint64_t promised; /* highest view number ever promised */
	uint64_t accepted; /* highest view number ever accepted */
	uint64_t accepted_idx; /* and how many changes of groups in it */
};

/* The daemon's: connects to corosync, joins the closed process group, starts the lease. errmsg names what is missing. */
struct quorum_cs_args {
	struct ts_exec *exec;
	const char *cluster_name;
	uint64_t incarnation;
	uint16_t peer_port;
	struct quorum_times times;
	struct quorum_events events;
	/* Progress proof of the parts a lease depends on (executor beat is checked by quorum itself). May be NULL.
	 * Called with events.arg, as is persist. */
	bool (*healthy)(void *arg);
	struct quorum_durable durable; /* as persist was last given it; zeros at this node's first start */
	/* Must be on stable storage when it returns: it is what a restarted node still knows of the past, and what keeps view
	 * numbers from going back and a forgotten view from being undone. Called on the executor, twice per view
	 * and once per change of a group: never while only leases are renewed. NULL only in tests. */
	void (*persist)(void *arg, const struct quorum_durable *d);
	struct quorum_tie tie; /* as the event last gave it */
};
int quorum_cs_open(const struct quorum_cs_args *a, struct quorum **out, char *errmsg, size_t errlen) TS_MUST_CHECK;
void quorum_close(struct quorum *q); /* leaves politely */

unsigned quorum_self(const struct quorum *q);
uint64_t quorum_incarnation(const struct quorum *q);
bool quorum_may_write(const struct quorum *q);	     /* the gate of nsd: quorate, lease valid now, not excluded. Any thread. */
uint64_t quorum_lease_until_ns(const struct quorum *q); /* 0 = none */
const struct quorum_view *quorum_view_get(const struct quorum *q);
/* When the lease that a departed incarnation may still believe in is over, margin included (0 = already over / its own
 * living corosync reported its daemon's death). Recovery waits for it where the disks have no reservations. */
uint64_t quorum_dead_lease_end_ns(const struct quorum *q, unsigned node, uint64_t incarnation);

/* Is that node's machine in corosync's membership, with or without a daemon? As far as this node has heard. */
bool quorum_machine_up(const struct quorum *q, unsigned node);
/* Is it in corosync's nodelist? As last read. */
bool quorum_node_configured(const struct quorum *q, unsigned node);

/* Ordered changes of a group. From any context on the executor; the effect is seen in the group event, or not at all if
 * this node is excluded first. join: slot is the log slot claimed on disk. */
int quorum_group_join(struct quorum *q, uint64_t group, uint32_t slot) TS_MUST_CHECK;
int quorum_group_leave(struct quorum *q, uint64_t group) TS_MUST_CHECK; /* clean: log empty, tokens given back */
int quorum_group_recovered(struct quorum *q, uint64_t group, unsigned node, uint64_t incarnation) TS_MUST_CHECK;
const struct quorum_group_view *quorum_group_get(const struct quorum *q, uint64_t group); /* NULL = unknown */
/* True while an older incarnation of that node is pending in the group: a member for which this holds must not start. */
bool quorum_group_predecessor_pending(const struct quorum_group_view *g, unsigned node);
/* Ordered, as changes of groups are; takes effect only in a view of a majority. url NULL: none. -EAGAIN: no such view now. */
int quorum_tie_set(struct quorum *q, const uint8_t uuid[16], const char *url) TS_MUST_CHECK;
/* An operator vouches that the nodes that are missing are dead: this node and those it sees go on without a majority. Only the caller
 * can know; what it must ask before is in docs/quorum.md. -EALREADY: there is a view. */
int quorum_force(struct quorum *q) TS_MUST_CHECK;

/* How the quorum stands, for people. */
enum quorum_by { QUORUM_BY_MAJORITY, QUORUM_BY_TIE, QUORUM_BY_FORCE };
enum quorum_bid { QUORUM_BID_NONE, QUORUM_BID_RUNNING, QUORUM_BID_WON, QUORUM_BID_LOST, QUORUM_BID_HIGHER, QUORUM_BID_FAILED };
struct quorum_info {
	bool quorate;		 /* a view stands */
	enum quorum_by by;	 /* how it came about */
	unsigned expected;	 /* votes in corosync.conf; 0: ties are not decided here (qdevice, auto_tie_breaker, unequal votes) */
	unsigned needed, daemons; /* daemons a view needs; those in this configuration */
	bool ring_quorate, tie;	 /* corosync's opinion; this is exactly one half */
	struct quorum_tie agreed; /* zeros: none */
	bool tie_usable;	 /* its disk is given to us, and this node has seen it agreed */
	enum quorum_bid bid;	 /* the last one */
	unsigned bid_by;	 /* lost, higher: to whom; failed: whose slot, 0 = the disk */
	uint64_t bid_seen;
	int bid_rc;
	uint64_t bid_ns; /* when */
};
void quorum_info_get(const struct quorum *q, struct quorum_info *out);

/* ---- the tiebreaker's disk (tie_disk.c). All from fibers; d has no gate, or one that lets ungated requests pass ---------------- */
struct nsd_dev;
struct quorum_tie_disk;
struct quorum_tie_slot_info {
	bool readable;
	uint64_t incarnation, promised, accepted, base, writes, wall_ns;
};
/* Makes the area anew: nothing that was in it counts any more. -ENOSPC, I/O errors. */
int quorum_tie_disk_make(struct nsd_dev *d, const uint8_t cluster_id[16], const uint8_t uuid[16]) TS_MUST_CHECK;
/* -ENOENT no area, -EPERM another cluster's, -ESTALE another uuid (made again, or another disk), -EBADMSG, -EPROTONOSUPPORT. */
int quorum_tie_disk_open(struct nsd_dev *d, const uint8_t cluster_id[16], const uint8_t uuid[16], struct quorum_tie_disk **out) TS_MUST_CHECK;
int quorum_tie_disk_slots(struct quorum_tie_disk *t, struct quorum_tie_slot_info out[QUORUM_TIE_NODES]) TS_MUST_CHECK; /* out[0]: node 1 */
void quorum_tie_disk_use(struct quorum *q, struct quorum_tie_disk *t); /* NULL: none */
void quorum_tie_disk_close(struct quorum_tie_disk *t); /* used no more; waits for what is under way */

/* Proposes to evict a member (missed lease, I/O errors): ordered; that incarnation is excluded everywhere. */
int quorum_evict(struct quorum *q, unsigned node, uint64_t incarnation, const char *why) TS_MUST_CHECK;

/* To be shown, not decided by (look.c). */
struct quorum_look {
	const char *phase;
	uint64_t phase_since_ns, renewal_sent_ns; /* of this node's newest renewal that counts */
	unsigned daemons, needed, leader; /* in the carrier's group; for a quorate view; node that numbers changes */
	bool suspended;
};
void quorum_look_get(const struct quorum *q, struct quorum_look *out);
uint64_t quorum_heard_ns(const struct quorum *q, unsigned node, uint64_t incarnation); /* its last renewal known here; 0: none */

/* ---- the core and what carries it (corosync or the simulator) ---------------------------------------------------- */
struct quorum_carrier_ops {
	/* Ordered multicast to all members, oneself included. Bounded by carrier; -EAGAIN = try later (core retries on timer). */
	int (*mcast)(void *arg, const void *msg, size_t len);
	void (*leave)(void *arg);
	void *arg;
};
struct quorum_core_args {
	struct ts_exec *exec;
	unsigned self;
	uint64_t incarnation;
	char addr[48];
	uint16_t port;
	struct quorum_times times;
	struct quorum_events events;
	struct quorum_carrier_ops carrier;
	bool (*healthy)(void *arg);
	struct quorum_durable durable; /* as in quorum_cs_args */
	void (*persist)(void *arg, const struct quorum_durable *d);
	struct quorum_tie tie;
};
struct tie_slot_disk;
/* What carries bids to the disk: tie_disk.c, or a test. One at a time. own NULL: read all slots; else write it into this node's, make it
 * stable, then read all. Ends in quorum_core_tie_done() with the ticket, later, however long the disk takes; never from inside. */
struct quorum_tie_ops {
	int (*io)(void *arg, uint64_t ticket, const struct tie_slot_disk *own);
	void *arg;
};
void quorum_core_tie(struct quorum *q, const struct quorum_tie_ops *ops, const uint8_t uuid[16]); /* NULL: no disk */
void quorum_core_tie_done(struct quorum *q, uint64_t ticket, int rc, const struct tie_slot_disk *slots /* QUORUM_TIE_NODES */);
struct quorum *quorum_core_new(const struct quorum_core_args *a) TS_MUST_CHECK;
/* Carrier to core, on the executor, in carrier order. */
struct quorum_ring_member { unsigned node; uint32_t pid; };
void quorum_core_confchg(struct quorum *q, const struct quorum_ring_member *members, size_t nmembers,
			 const struct quorum_ring_member *left, size_t nleft, bool left_by_process_exit,
			 const struct quorum_ring_member *joined, size_t njoined, uint64_t ring_seq);
void quorum_core_quorate(struct quorum *q, bool quorate, uint64_t ring_seq);
/* How many daemons a quorate view needs, as votes allow; before quorum_core_quorate(). Never called: 1, that is, the carrier's
 * quorate alone decides, and leases are acknowledged by a majority of the view. */
void quorum_core_needed(struct quorum *q, unsigned daemons);
/* The votes of the whole cluster, one a node, if exactly half of them may be decided by the tiebreaker; 0: never. Before quorate(). */
void quorum_core_expected(struct quorum *q, unsigned expected);
/* The machines of the ring, with or without a daemon: one bit a node id, 256 of them. Only for those who ask. */
void quorum_core_machines(struct quorum *q, const uint64_t bits[4]);
void quorum_core_configured(struct quorum *q, const uint64_t bits[4]); /* those of the configuration; likewise */
void quorum_core_deliver(struct quorum *q, unsigned src_node, uint32_t src_pid, const void *msg, size_t len);
void quorum_core_lost(struct quorum *q, const char *why); /* the carrier died under us: excluded */
void quorum_core_kill(struct quorum *q);		  /* simulator's power failure: free without a word */

#endif
