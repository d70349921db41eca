/* SPDX-License-Identifier: Apache-2.0 */
/* plock: locks of applications (fcntl record locks of processes and of open files, flock) of one group. A
 * deterministic state machine beside the token engine, with the same manners: events in (operation, cancel,
 * message, group view), actions out through struct plock_ops; no thread, socket, clock or fiber.
 * docs/locks.md tells the protocol.
 *
 * An inode's locks are decided by one node at a time, its *authority*: the master (rendezvous hash of the
 * inode over the members), or the one node that uses them, to which the master delegated them.
 *
 *   inode, at its master: nobody --first operation--> delegated --operation of another node--> recalling
 *       --its locks and waiters arrived--> decided here --one node alone for a while--> delegated
 *
 *   engine, at each epoch: OUT -> REPORTING (all tell the new masters what their processes hold) -> RUN
 *
 * What must never happen: two owners hold conflicting locks; an operation ends twice or never; a lock of a
 * dead node is granted again before its recovery is complete; EDEADLK without a cycle that was looked at
 * twice. */
#ifndef TESSERA_DLM_PLOCK_H
#define TESSERA_DLM_PLOCK_H

#include "lib/lib.h"
#include "net/net.h"
#include "quorum/quorum.h"

#define PLOCK_TYPE_CLASS 0x400
#define PLOCK_END	 UINT64_MAX

enum plock_type { PLOCK_UN, PLOCK_RD, PLOCK_WR };
/* Locks of different spaces never conflict. Those of processes and of open files share one, as in the kernel.
 */
enum plock_space { PLOCK_RECORD, PLOCK_FLOCK, PLOCK_SPACES };
/* RAISE: at least `type` on the range for the owner. LOWER: at most `type`; cannot fail. TEST: who would be
 * in the way. */
enum plock_kind { PLOCK_RAISE, PLOCK_LOWER, PLOCK_TEST, PLOCK_KINDS };
enum {
	PLOCK_F_WAIT = 1,   /* RAISE: wait for it; else -EAGAIN */
	PLOCK_F_DETECT = 2, /* RAISE that waits: of a process, takes part in cycles (-EDEADLK) */
	PLOCK_F_BARGE = 4, /* set by the engine: need not queue behind those who wait, because others may wait
			      for it */
};

struct plock_piece { /* [start, end] inclusive */
	uint64_t start, end;
	uint64_t owner;	 /* unique on its node */
	uint64_t handle; /* open file it was last asked through; known to its own node only */
	uint32_t pid;
	uint16_t node;
	uint8_t type, space;
};
struct plock_want { /* what somebody asks for */
	struct ts_list link;
	struct plock_piece p;
	uint64_t op;			/* its node's number */
	uint64_t since_ns;		/* wall clock of its node: the youngest in a cycle is the victim */
	uint64_t probe_op, probe_round; /* last deadlock probe that passed here */
	uint16_t probe_node;
	uint8_t kind, flags;
};
struct plock_res;
struct plock_op { /* caller's memory until done(). Set ino, w.p (without node), w.kind, w.flags, w.since_ns.
		   */
	struct plock_want w;
	uint64_t ino;
	struct plock_piece found; /* TEST: type PLOCK_UN = nobody is in the way */
	int rc;
	struct ts_list link, all; /* the engine's from here on */
	struct plock_res *res;
	bool cancelled;
};

struct plock_ops {
	/* As struct dlm_ops.send. */
	int (*send)(void *arg, unsigned node, enum net_lane lane, uint16_t type, uint64_t epoch,
		    const void *p, uint32_t len);
	/* Once for each operation, when its call or the event that ended it is about to return. May submit
	 * others. */
	void (*done)(void *arg, struct plock_op *op);
	void *arg;
};
struct plock_args {
	unsigned self;
	size_t max_locks; /* of this node's processes; beyond it -ENOLCK. 0 = 1,000,000 */
	size_t max_idle; /* delegations kept here, and histories kept as master, without any lock. 0 = 4096 */
	unsigned alone;	 /* operations in a row by one node until a contended inode is delegated again. 0 = 64
			  */
	struct plock_ops ops;
};
struct plock;
struct plock *plock_new(const struct plock_args *a) TS_MUST_CHECK;
void plock_free(struct plock *p); /* operations are forgotten, not touched */

/* rc: 0, -EAGAIN, -EINTR (cancelled, holds nothing new), -EDEADLK, -ENOLCK. */
void plock_submit(struct plock *p, struct plock_op *op);
void plock_cancel(struct plock *p,
		  struct plock_op *op); /* its done() still comes, with 0 if the lock came first */
/* What this node's own processes hold (a lock that is being given up does not count). */
enum plock_type plock_held(const struct plock *p, uint64_t ino,
			   const struct plock_piece *key); /* strongest of that owner in the range */
/* Any lock taken through that handle, or NULL; changed by the next call of the engine. */
const struct plock_piece *plock_of_handle(const struct plock *p, uint64_t ino, uint64_t handle);

void plock_message(struct plock *p, unsigned src, uint16_t type, uint64_t epoch, const void *b, uint32_t len);
void plock_view(struct plock *p, const struct quorum_group_view *v);
bool plock_tick(struct plock *p); /* as dlm_tick */
bool plock_tick_wanted(const struct plock *p);

unsigned plock_master(const struct plock *p, uint64_t ino);
bool plock_delegated(const struct plock *p, uint64_t ino); /* decided here, without a message */
struct plock_stats {
	uint64_t locks, inodes, mastered, ops, local_ops, sent, delegations, recalls, probes, deadlocks,
		dropped_old, conflicts;
};
void plock_stats_get(const struct plock *p, struct plock_stats *out);
struct plock_info {
	uint64_t ino;
	struct plock_piece p;
	bool mastered; /* told by the master; else by the node whose process it is */
	bool waiting, delegated;
	unsigned master;
	uint64_t since_ns; /* waiting: wall clock */
};
void plock_each(struct plock *p, void (*fn)(void *arg, const struct plock_info *i), void *arg);

#endif
