/* SPDX-License-Identifier: Apache-2.0 */
/* plock inside. plock.c: entry, exit, sending, messages kept; plock_client.c: this node's processes;
 * plock_master.c: what is decided for all; plock_auth.c: the decision itself, the same for master and
 * delegate; plock_table.c: ranges; plock_detect.c: cycles; plock_recover.c: epochs; plock_wire.c;
 * plock_debug.c.
 *
 * Between a client and a master there are two ordered channels: the client's (operations, cancels, state:
 * lane request) and the master's (answers, delegations, recalls: lane grant). The protocol rests on their
 * order: no message is numbered. */
#ifndef TESSERA_DLM_PLOCK_INT_H
#define TESSERA_DLM_PLOCK_INT_H

#include "dlm/plock.h"

enum plock_msg_type {
	PLOCK_OP = PLOCK_TYPE_CLASS + 1, /* client: decide this */
	PLOCK_CANCEL,			 /* client: it is not wanted any more */
	PLOCK_STATE,			 /* delegate: entries are my locks; LAST: you decide now */
	PLOCK_PROBE,			 /* entries are a chain of waiters, each waits for the next */
	PLOCK_CONFIRM,	/* entries are a cycle, found by number `op`; is it still there at `pos`? */
	PLOCK_DONE,	/* master: the operation ended with `result` */
	PLOCK_DELEGATE, /* master: you decide about this inode */
	PLOCK_RECALL,	/* master: send me your state */
	PLOCK_REPORT,	/* recovery: entries are what my processes hold and you master */
	PLOCK_REPORTED, /* recovery: count of entries reported to you in `op` */
	PLOCK_TYPE_END
};
#define PLOCK_WIRE_VERSION 1
#define PLOCK_BATCH	   512
#define PLOCK_CYCLE_MAX	   32
enum {			   /* on the wire only, beside PLOCK_F_* */
       PLOCK_MF_MOVED = 8, /* OP: was waiting at the delegate that is being recalled */
       PLOCK_MF_LAST = 16,
       PLOCK_MF_OWNER =
	       32, /* PROBE: for the node of `owner`; else for the authority of the waiter (node, op) */
       PLOCK_MF_KILL = 64, /* CONFIRM: every entry was seen twice: end the first with -EDEADLK */
};

struct plock_head_msg { /* every message; count entries follow */
	le16 version;
	uint8_t kind, type, space, flags;
	le16 node; /* PROBE: of the waiter or owner meant. DONE of a TEST: of the lock in the way */
	le64 ino, start, end, owner, op, since;
	le32 pid;
	le32 result; /* DONE: positive errno */
	le32 pos;    /* CONFIRM */
	le32 count;
	le64 round; /* PROBE: number of the initiator */
};
_Static_assert(sizeof(struct plock_head_msg) == 80, "wire");
struct plock_entry_msg {
	le64 ino, owner;
	le64 a, b; /* lock: start, end; waiter: op, since */
	le32 pid;
	le16 node;
	uint8_t type, space;
};
_Static_assert(sizeof(struct plock_entry_msg) == 40, "wire");

struct plock_m { /* any message, decoded */
	unsigned src;
	uint16_t type;
	uint64_t epoch, ino, op, since_ns, round;
	struct plock_piece p;
	uint8_t kind, flags;
	int result;
	uint32_t pos, count;
	const struct plock_entry_msg *ents;
};
struct plock_qmsg { /* kept for later */
	struct ts_list link;
	struct plock_m m;
};
struct plock_omsg { /* bytes kept because the lane was full */
	struct ts_list link;
	unsigned node;
	enum net_lane lane;
	uint16_t type;
	uint32_t len;
	uint8_t bytes[];
};

/* Pieces sorted by (space, node, owner, start); those of one owner in one space do not overlap, and are
 * merged. */
struct plock_table {
	struct plock_piece *v;
	uint32_t n, cap;
	void (*counted)(void *arg, const struct plock_piece *p,
			int by); /* may be NULL: each piece that comes or goes */
	void *arg;
};
struct plock_auth { /* all that a decision needs; the first of what is known of an inode, in a map by its number */
	struct ts_map_node node;
	uint64_t ino;
	struct plock_table t;
	struct ts_list waiters; /* struct plock_want, oldest first */
};
struct plock_res { /* an inode at a node whose processes use its locks */
	struct plock_auth a; /* t: what they hold; waiters: only while delegated */
	struct ts_list ops;  /* struct plock_op without an end yet, oldest first */
	struct ts_list idle; /* in plock.idle: delegated, nothing held nor asked */
	bool delegated;
};
struct plock_mres { /* an inode at its master */
	struct plock_auth a; /* empty while delegated */
	struct ts_list pend; /* plock_qmsg: operations that wait for the recall or for the gate */
	struct ts_list idle; /* in plock.midle: only history */
	unsigned delegate;   /* 0 = decided here */
	bool recalling;
	bool contended; /* several nodes used it */
	unsigned last, streak;
};
_Static_assert(offsetof(struct plock_res, a) == 0 && offsetof(struct plock_mres, a) == 0, "found as their first member");
struct plock_pid { /* pieces that processes of this node hold, by pid */
	struct ts_map_node node;
	uint32_t pid;
	uint64_t n;
};

enum plock_phase { PLOCK_OUT, PLOCK_REPORTING, PLOCK_RUN };
struct plock {
	struct plock_args a;
	unsigned self;
	enum plock_phase phase;
	bool gate; /* quorate and nothing pending */
	uint64_t epoch, last_op, last_round;
	unsigned nmembers;
	uint16_t members[QUORUM_MAX_NODES];
	bool rep_done[NET_MAX_NODES];
	uint64_t rep_got[NET_MAX_NODES];
	struct ts_map res, mres, pids;
	struct ts_list idle, midle; /* oldest first */
	size_t nidle, nmidle, nlocks;
	struct ts_list all;	 /* every operation without an end, oldest first */
	struct ts_list finished; /* ended, done() not called yet */
	struct ts_list local, parked, outq;
	unsigned depth;
	struct plock_stats st;
};

static inline bool plock_overlap(const struct plock_piece *a, const struct plock_piece *b)
{
	return a->start <= b->end && b->start <= a->end;
}
static inline bool plock_same_owner(const struct plock_piece *a, const struct plock_piece *b)
{
	return a->owner == b->owner && a->node == b->node && a->space == b->space;
}
static inline bool plock_clash(const struct plock_piece *a, const struct plock_piece *b)
{
	return a->space == b->space && (a->type == PLOCK_WR || b->type == PLOCK_WR) && plock_overlap(a, b) &&
	       !plock_same_owner(a, b);
}
static inline bool plock_granting(const struct plock *p)
{
	return p->phase == PLOCK_RUN && p->gate;
}

/* plock_table.c */
void plock_table_fini(struct plock_table *t);
int plock_table_set(struct plock_table *t, const struct plock_piece *p,
		    bool raise) TS_MUST_CHECK; /* 0, -ENOMEM: unchanged */
void plock_table_clear(struct plock_table *t);
/* Index of the next piece from i on that is in the way of p; t->n = none. */
uint32_t plock_table_clash(const struct plock_table *t, const struct plock_piece *p, uint32_t i);
/* The one that starts first, with its neighbours of the same owner and type; false = none. */
bool plock_table_first_clash(const struct plock_table *t, const struct plock_piece *p,
			     struct plock_piece *out);
enum plock_type plock_table_held(const struct plock_table *t, const struct plock_piece *p);
bool plock_table_has_owner(const struct plock_table *t, const struct plock_piece *p);

/* plock_auth.c */
void plock_auth_init(struct plock_auth *a);
struct plock_auth *plock_auth_find(const struct ts_map *m, uint64_t ino);
/* In the map, with no locks and no waiters, at the head of `size` zeroed bytes; NULL: no memory. */
struct plock_auth *plock_auth_new(struct ts_map *m, uint64_t ino, size_t size);
int plock_auth_try(struct plock_auth *a,
		   const struct plock_want *w) TS_MUST_CHECK; /* 0 = raised, -EAGAIN, -ENOLCK */
struct plock_want *plock_auth_next(struct plock_auth *a,
				   int *rc); /* a waiter that need not wait any more, unlinked; NULL */

/* plock.c */
void *plock_xalloc(size_t n, const char *what);
void plock_must(int rc, const char *what);
void plock_enter(struct plock *p);
void plock_leave(struct plock *p);
void plock_send(struct plock *p, unsigned node, const struct plock_m *m); /* to oneself: deferred */
struct plock_qmsg *plock_keep(const struct plock_m *m);
void plock_unpark(struct plock *p);
bool plock_is_member(const struct plock *p, unsigned node);

/* plock_wire.c */
uint32_t plock_encode(const struct plock_m *m, void *out, uint32_t room);
bool plock_decode(struct plock_m *m, const void *b, uint32_t len);
void plock_encode_lock(struct plock_entry_msg *e, uint64_t ino, const struct plock_piece *p);
bool plock_decode_lock(const struct plock_entry_msg *e, uint64_t *ino, struct plock_piece *p);
enum net_lane plock_lane(uint16_t type);
#define PLOCK_MSG_MAX (sizeof(struct plock_head_msg) + PLOCK_BATCH * sizeof(struct plock_entry_msg))

/* plock_client.c */
struct plock_res *plock_res_find(const struct plock *p, uint64_t ino);
void plock_res_forget_epoch(struct plock *p);
void plock_res_resend(struct plock *p);
int plock_res_free(struct ts_map_node *n, void *arg);
void plock_local_end(struct plock *p, struct plock_op *op,
		     int rc); /* takes a waiter out of a delegated inode */
void plock_on_done(struct plock *p, const struct plock_m *m);
void plock_on_delegate(struct plock *p, const struct plock_m *m);
void plock_on_recall(struct plock *p, const struct plock_m *m);
struct plock_op *plock_op_find(const struct plock_res *r, uint64_t op);

/* plock_master.c */
struct plock_mres *plock_mres_find(const struct plock *p, uint64_t ino);
void plock_master_insert(struct plock *p, uint64_t ino, const struct plock_piece *piece); /* a report */
void plock_master_open(struct plock *p); /* the gate opened */
int plock_mres_free(struct ts_map_node *n, void *arg);
struct plock_want *plock_waiter_find(struct plock_auth *a, unsigned node, uint64_t op);
void plock_master_end(struct plock *p, struct plock_mres *r, struct plock_want *w, int rc);
void plock_on_op(struct plock *p, const struct plock_m *m);
void plock_on_cancel(struct plock *p, const struct plock_m *m);
void plock_on_state(struct plock *p, const struct plock_m *m);

/* plock_detect.c */
void plock_detect_start(struct plock *p, uint64_t ino, struct plock_auth *a, struct plock_want *w);
void plock_detect_owner(struct plock *p,
			const struct plock_piece *owner); /* got a lock: others of its threads may wait */
void plock_on_probe(struct plock *p, const struct plock_m *m);
void plock_on_confirm(struct plock *p, const struct plock_m *m);

/* plock_recover.c */
void plock_on_report(struct plock *p, const struct plock_m *m);
void plock_on_reported(struct plock *p, const struct plock_m *m);

/* plock_debug.c: the whole state as numbers, to recognise it again */
typedef void (*plock_dump_fn)(void *arg, uint64_t v);
void plock_dump(struct plock *p, plock_dump_fn fn, void *arg);
void plock_dump_msg(const struct plock_m *m, plock_dump_fn fn, void *arg);

#endif
