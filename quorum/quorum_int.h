/* SPDX-License-Identifier: Apache-2.0 */
/* quorum's own header: the core's state. Everything runs on the executor; only gate and lease_until are read by other
 * threads. What must never happen: two different states under one (view, index); a node that acts on a change that a
 * majority has not accepted; README.md has the argument. */
#ifndef TESSERA_QUORUM_QUORUM_INT_H
#define TESSERA_QUORUM_QUORUM_INT_H

#include "quorum/quorum.h"
#include "quorum/tie_int.h"

#include <stdatomic.h>

#define Q_NODE_IDS  256 /* node ids 1..255, as net/ has them */
#define Q_PROCS	    128 /* processes in the closed group */
#define Q_REQS	    256
#define Q_PAST	    256
#define Q_SENT	    64
#define Q_OUTBOX    4096
#define Q_MSG_MAX   (128u << 10) /* a state of 64 members and 64 groups is below 80 KiB */
#define Q_TICK_NS   (50 * TS_NS_PER_MS)
#define Q_RETRY_NS  (200 * TS_NS_PER_MS)
#define Q_STUCK_NS  (1 * TS_NS_PER_S)
#define Q_TIE_STUCK_NS (3 * TS_NS_PER_S)
#define Q_ACK_NS    (50 * TS_NS_PER_MS) /* a renewal is acknowledged within this; sooner when it is urgent */
#define Q_URGENT_NS (10 * TS_NS_PER_MS)

/* ---- replicated state: identical wherever (view, idx) is identical ------------------------------------------------ */
struct q_member {
	struct quorum_member pub;
	uint32_t lease_ms;   /* what that node really armed */
	uint64_t last_reqid; /* its last request that was applied: none is applied twice or late */
};
struct q_state {
	bool exists;
	uint64_t view, idx; /* version: ordered first by view, then by operations applied in it */
	unsigned leader;    /* the only one that numbers operations of this view */
	uint64_t epochs;    /* last group epoch given out */
	uint64_t excluded[Q_NODE_IDS]; /* highest dead incarnation by node */
	enum quorum_by by;
	struct quorum_tie tie;
	unsigned nmembers;
	struct q_member members[QUORUM_MAX_NODES];
	unsigned ngroups;
	struct quorum_group_view groups[QUORUM_MAX_GROUPS];
};
enum q_kind { Q_JOIN = 1, Q_LEAVE, Q_RECOVERED, Q_TIE, Q_EVICT /* requests of this node only */ };
struct q_op {
	uint64_t reqid;
	unsigned req_node;
	uint64_t req_inc;
	enum q_kind kind;
	uint64_t group;
	uint32_t slot;
	unsigned node;
	uint64_t inc;
	struct quorum_tie tie; /* Q_TIE: uuid and url */
};
struct quorum_group_view *q_group_find(struct q_state *s, uint64_t group);
struct q_member *q_member_find(struct q_state *s, unsigned node, uint64_t inc);
bool q_in_group(const struct quorum_group_view *g, unsigned node, uint64_t inc);
void q_state_copy(struct q_state *to, const struct q_state *from);
bool q_state_apply(struct q_state *s, const struct q_op *op); /* true: it changed something */
void q_state_exclude(struct q_state *s, unsigned node, uint64_t inc);

/* ---- the configuration the carrier reports ------------------------------------------------------------------------ */
struct q_sync { /* what a process says about itself in a round */
	bool has_state, quorate, forced;
	uint64_t view, idx, promised; /* without state: what was accepted last in an earlier life */
	uint32_t needed, expected, lease_ms;
	struct quorum_tie tie; /* that it remembers */
	char addr[48];
	uint16_t port;
};
struct q_proc {
	uint32_t node, pid;
	uint64_t inc; /* 0 until its first sync */
	bool banned;  /* not waited for any more: evicted, or not a member of the view */
	bool synced;
	struct q_sync sync;
	uint64_t promise;	      /* round number it promised */
	uint64_t ack_idx;	      /* of the present view; UINT64_MAX = not even the view itself */
	uint64_t life_ns, evict_ns;   /* last sign of life; last eviction proposed */
	uint64_t rx_renew, my_acked;  /* its last renewal seen here; my last renewal seen there; of the present view */
};
struct q_past { /* a departed incarnation: when its lease is over */
	unsigned node;
	uint64_t inc, end_ns;
};
struct q_req {
	struct ts_list link;
	struct q_op op;
	uint64_t sent_ns, retry_ns;
	uint64_t applied_idx; /* applied in the present view at that index, UINT64_MAX = not */
	char why[64];
};
struct q_out {
	struct ts_list link;
	size_t len;
	uint8_t data[];
};
enum q_phase { Q_GATHER, Q_PROMISE, Q_IN_VIEW, Q_DEAD };

struct quorum {
	struct ts_exec *exec;
	struct quorum_core_args a;
	void *cs; /* the corosync carrier, if it is that */
	void (*cs_close)(void *cs);
	_Atomic bool gate;
	_Atomic uint64_t lease_until;
	enum q_phase phase;
	uint64_t phase_ns;
	/* configuration */
	unsigned nprocs;
	struct q_proc procs[Q_PROCS];
	uint64_t ring, digest;
	bool ring_known, vq_known, vq_quorate;
	uint64_t vq_ring, machines[Q_NODE_IDS / 64], configured[Q_NODE_IDS / 64];
	uint32_t needed, expected;
	bool forced; /* an operator has vouched; until a majority is there again */
	/* round */
	uint64_t promised, accepted, accepted_idx, round; /* accepted: also in an earlier life */
	unsigned source; /* index into procs */
	bool proposed;
	enum quorum_by round_by; /* what the configuration of this round can go on by */
	uint32_t view_needed;
	/* tiebreaker: tie.c */
	struct {
		struct quorum_tie_ops ops;
		uint8_t uuid[16]; /* of the disk behind ops */
		bool have, busy, wanted;
		uint64_t ticket;
		struct tie_machine m;
		struct quorum_tie known; /* as last shown upwards, or remembered */
		enum quorum_bid bid;
		unsigned bid_by;
		uint64_t bid_seen, bid_ns, again_ns;
		int bid_rc;
	} tie;
	/* replicated */
	struct q_state cur, vis, scratch;
	bool vis_quorate;
	struct quorum_view view_pub;
	/* requests */
	struct ts_list reqs;
	unsigned nreqs;
	uint64_t next_reqid;
	struct q_op ops[Q_REQS]; /* leader: to be numbered, a ring */
	unsigned ops_at, nops;
	bool op_out;
	uint64_t op_out_ns;
	/* lease */
	uint64_t renew_seq, renew_ns, sent_ns[Q_SENT], lease_base, tick_ns;
	uint64_t ack_due_ns; /* others' renewals are to be acknowledged by then; 0 = none */
	bool suspended;
	struct {
		uint64_t inc, ns;
	} heard[Q_NODE_IDS]; /* last renewal of that incarnation that any of us received */
	uint64_t exited[Q_NODE_IDS]; /* its own living carrier says that this incarnation's process ended */
	struct q_past past[Q_PAST];
	unsigned npast;
	uint64_t first_view_ns;
	struct ts_timer tick, send_timer, renew_timer;
	/* to the carrier */
	struct ts_list outbox;
	unsigned noutbox;
};

/* ---- wire.c: versioned, bounds-checked ----------------------------------------------------------------------------- */
#define Q_MAGIC	  0x54535155u /* TSQU */
#define Q_VERSION 2
enum q_type { Q_M_SYNC = 1, Q_M_PROMISE, Q_M_STATE, Q_M_ACK, Q_M_REQ, Q_M_OP, Q_M_RENEW, Q_M_EVICT };
struct quorum_hdr_msg {
	le32 magic;
	le16 version, type;
	le64 incarnation, ring, digest; /* ring and digest: the configuration it was sent in */
	le64 number;			/* round or view it is about */
};
struct quorum_tie_msg {
	le64 version;
	uint8_t uuid[16];
	char url[QUORUM_TIE_URL];
};
struct quorum_sync_msg {
	le64 view, idx, promised;
	le32 flags, needed, lease_ms, expected;
	char addr[48];
	le16 port, nbanned, nages, pad;
	struct quorum_tie_msg tie;
};
struct quorum_op_msg {
	le64 idx, reqid, req_inc, group, inc;
	le32 req_node, kind, slot, node;
};
struct quorum_renew_msg {
	le64 seq;
	le16 flags, nacks;
	le32 pad;
};
struct quorum_evict_msg {
	le32 node, pid;
	le64 inc;
	char why[64];
};
struct quorum_state_msg {
	le64 epochs;
	le32 nmembers, nexcluded, ngroups, needed, by, pad;
	struct quorum_tie_msg tie;
};
enum { Q_F_STATE = 1, Q_F_QUORATE = 2, Q_F_FORCED = 4 };
enum { Q_F_URGENT = 1, Q_F_NOT_MINE = 2 /* acknowledges others, renews nothing */ };
struct q_msg { /* a decoded header with the cursor behind it */
	enum q_type type;
	uint64_t inc, ring, digest, number;
	struct ts_rd rd;
};
bool q_msg_read(struct q_msg *m, const void *buf, size_t len);
void q_hdr_write(struct quorum *q, struct ts_wr *w, enum q_type type, uint64_t number);
void q_op_write(struct ts_wr *w, const struct q_op *op, uint64_t idx);
bool q_op_read(struct ts_rd *r, struct q_op *op, uint64_t *idx);
void q_state_write(struct ts_wr *w, const struct q_state *s, uint32_t needed);
bool q_state_read(struct ts_rd *r, struct q_state *s, uint32_t *needed);
struct quorum_tie_msg q_tie_make(const struct quorum_tie *t);
struct quorum_tie q_tie_get(const struct quorum_tie_msg *m);

/* ---- core.c -------------------------------------------------------------------------------------------------------- */
void q_send(struct quorum *q, const void *msg, size_t len);
void q_die(struct quorum *q, const char *why);
struct q_proc *q_proc_find(struct quorum *q, uint32_t node, uint32_t pid);
struct q_proc *q_proc_of(struct quorum *q, unsigned node, uint64_t inc);
bool q_is_self(const struct quorum *q, const struct q_proc *p);
bool q_ring_agreed(const struct quorum *q);
void q_emit(struct quorum *q, const struct q_state *before);
void q_not_quorate(struct quorum *q);
static inline uint64_t q_now(const struct quorum *q)
{
	return ts_exec_now(q->exec);
}

/* ---- round.c: from a configuration to a view ------------------------------------------------------------------------ */
void q_round_restart(struct quorum *q);
void q_round_tick(struct quorum *q);
void q_send_sync(struct quorum *q);
void q_accepted(struct quorum *q); /* cur is a new state: remember it, then acknowledge */
void q_send_ack(struct quorum *q);
void q_on_sync(struct quorum *q, struct q_proc *p, struct q_msg *m);
void q_on_promise(struct quorum *q, struct q_proc *p, struct q_msg *m);
void q_on_state(struct quorum *q, struct q_proc *p, struct q_msg *m);
void q_on_ack(struct quorum *q, struct q_proc *p, struct q_msg *m);
unsigned q_needed_acks(const struct quorum *q);
void q_round_won(struct quorum *q); /* the bid of this round */

/* ---- tie.c: the bid of one half ------------------------------------------------------------------------------------- */
bool q_tie_none(const struct quorum_tie *t);
bool q_tie_usable(const struct quorum *q);
void q_tie_bid(struct quorum *q);
bool q_tie_again(const struct quorum *q); /* the round of the last bid is to be made anew */
void q_tie_known(struct quorum *q); /* vis is new: tell upwards */

/* ---- request.c: ordered changes of groups --------------------------------------------------------------------------- */
void q_on_req(struct quorum *q, struct q_proc *p, struct q_msg *m);
void q_on_op(struct quorum *q, struct q_proc *p, struct q_msg *m);
void q_reqs_visible(struct quorum *q);
void q_reqs_new_view(struct quorum *q);
void q_reqs_tick(struct quorum *q);
bool q_reqs_joining(const struct quorum *q, uint64_t group);

/* ---- lease.c --------------------------------------------------------------------------------------------------------- */
void q_on_renew(struct quorum *q, struct q_proc *p, struct q_msg *m);
void q_on_evict(struct quorum *q, struct q_proc *p, struct q_msg *m);
void q_lease_new_view(struct quorum *q, const struct q_state *before);
void q_lease_tick(struct quorum *q);
void q_suspend_eval(struct quorum *q);
void q_heard(struct quorum *q, unsigned node, uint64_t inc, uint64_t ns);
void q_send_evict(struct quorum *q, struct q_proc *p, const char *why);

#endif
