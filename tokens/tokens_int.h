/* SPDX-License-Identifier: Apache-2.0 */
/* tokens inside. pin.c: pins and the local queue; revoke.c: giving back; lock.c: locks of applications;
 * lru.c: the bound and drain; mgr.c: life, messages, views; diag.c: names and looking. All on one executor;
 * nothing yields between a check and the change it allows. */
#ifndef TESSERA_TOKENS_INT_H
#define TESSERA_TOKENS_INT_H

#include "dlm/dlm.h"
#include "dlm/plock.h"
#include "tokens/tokens.h"

#define TOK_REVOKE_FIBERS 256
#define TOK_DATA_FIBERS	  192 /* of them: revokes of DATA and REGION may wait for INODE, and those of INODE must find a fiber everywhere */
#define TOK_AHEAD_OUT	  512  /* asked for ahead and not answered */
#define TOK_AHEAD_UNUSED  4096 /* here and not used: beyond, the oldest go back */
#define TOK_AHEAD_AGE_NS  (3 * TS_NS_PER_S) /* unused so long: given back, for who may not revoke (QUICK) would find it in the way for ever */
#define TOK_KEPT_MAX	  1024
#define TOK_CONTENDED_NS  TS_NS_PER_S
#define TOK_RETRY_NS	  TS_NS_PER_MS

struct tok {
	struct dlm_res res;
	struct dlm_req req;
	struct ts_list all;
	struct ts_list lru;	/* in mgr.lru* when idle: held, no pin, no waiter, no revoke */
	struct ts_list rvq;	/* in mgr.rvq or rvq_data: a revoke fiber shall look at it */
	struct ts_list kept;	/* in mgr.kept: gave a value that nobody is known to have */
	struct ts_list ahead;	/* in mgr.ahead: came ahead, not used yet */
	struct ts_list waiters; /* struct tok_waiter, first come first served */
	struct ts_cond drained; /* pins in conflict with allow may be gone */
	uint64_t granted_ns;
	unsigned nsh, nex;
	uint64_t last_start, last_end; /* of the last pin: a revoke beside it may take more than it must */
	uint64_t contended_ns;	       /* last revoke, */
	unsigned contended;	       /* and how many followed each other closely */
	uint8_t ex_mode;	       /* of the one pin that nex counts: EX or SW */
	bool has_got;		       /* counted in mgr.ngot */
	uint8_t allow;	    /* greatest mode new pins may have: EX, lower while a revoke's barrier stands */
	bool late_ok;	    /* the barrier lets TOK_LATE pass */
	bool requesting;    /* dlm has our request */
	bool asked_ahead;   /* and it is one of tok_ahead() */
	bool revoke_begun;  /* a revoke waits or runs: nothing may be cached above from here on */
	bool revoke_queued; /* in rvq or in the hands of a revoke fiber */
	bool drop;	    /* to be given back without being asked */
	bool unused;	    /* not pinned since it was granted */
	bool serving;
};
struct tok_waiter {
	struct ts_list link;
	struct ts_done done;
	enum tok_mode mode;
	unsigned flags;
	uint64_t start, end;
};

struct tok_demux;
struct tok_mgr {
	struct tok_args a;
	struct dlm *dlm;
	struct tok_demux *demux;
	struct ts_list peers; /* in demux */
	struct ts_list all, rvq, rvq_data;
	struct ts_list kept; /* toks, oldest first */
	struct ts_list lru, lru_segments; /* idle, oldest first; segments are never given back for memory */
	struct ts_list closing;		  /* segments given up here whose lock table is on its way home */
	size_t ntoks, nsegments;
	size_t nkept, ngot;
	struct ts_list ahead; /* toks that came ahead and were not used, oldest first */
	unsigned nahead, ahead_out;
	struct ts_timer ahead_age;
	struct ts_task flush; /* what dlm collected goes out when all that is ready has run */
	bool flushing;
	unsigned revoke_fibers, data_fibers, dropping;
	bool keeper; /* a fiber clears kept */
	uint64_t min_hold_ns;
	bool failed;
	struct plock *locks;
	struct ts_list lock_calls,
		lock_closings;	      /* lock.c: fibers inside; locks given up that nobody waits for */
	struct ts_cond ready, shrunk; /* dlm_ready may have changed; a token is gone or no longer closing */
	struct ts_timer retry;
	struct tok_stats st;
};

/* pin.c */
struct tok *tok_find(const struct tok_mgr *m, enum tok_kind kind, uint64_t id);
struct tok *tok_get(struct tok_mgr *m, enum tok_kind kind, uint64_t id); /* made if it is not there; NULL: no memory */
bool tok_contended(const struct tok_mgr *m, const struct tok *t);
void tok_serve(struct tok_mgr *m, struct tok *t);
void tok_fail_waiters(struct tok_mgr *m, struct tok *t, unsigned flags_mask, int rc); /* 0 = all */
void tok_settle(struct tok_mgr *m, struct tok *t); /* after a change: to the lru, out of it, or freed */
void tok_late_over(struct tok_mgr *m, struct tok *t); /* TOK_LATE passes the barrier no more */
void tok_granted(void *arg, struct dlm_req *q);
void tok_denied(void *arg, struct dlm_req *q, int err);

void tok_value_news(struct tok_mgr *m, struct tok *t); /* after a grant */

/* ahead.c */
static inline bool tok_came_ahead(const struct tok *t) { return !ts_list_empty((struct ts_list *)&t->ahead); }
bool tok_ahead_ok(void *arg, struct dlm_key key, bool holder);
void tok_ahead_came(struct tok_mgr *m, struct tok *t);	/* its answer is a grant, */
void tok_ahead_denied(struct tok_mgr *m, struct tok *t); /* or not */
void tok_ahead_used(struct tok_mgr *m, struct tok *t);	/* first pin: not ahead any more */
void tok_ahead_lost(struct tok_mgr *m, struct tok *t);

/* value.c */
void tok_kept_bound(struct tok_mgr *m);
void tok_kept_clear_one(struct tok_mgr *m); /* the oldest; waits */

/* revoke.c */
void tok_on_revoke(void *arg, struct dlm_res *r);
void tok_revoke_queue(struct tok_mgr *m, struct tok *t);
void tok_revoke_start(struct tok_mgr *m);

/* lru.c */
void tok_lru_bound(struct tok_mgr *m);
#define TOK_DROPS_AT_ONCE 64
void tok_drop(struct tok_mgr *m, struct tok *t);

/* diag.c */
const char *tok_wait_name(enum tok_kind k, enum tok_mode m); /* "token inode EX", static */

/* lock.c */
void tok_lock_done(void *arg, struct plock_op *op);
void tok_lock_fini(struct tok_mgr *m);

/* demux.c: several file systems on one net */
int tok_demux_add(struct tok_mgr *m) TS_MUST_CHECK;
void tok_demux_del(struct tok_mgr *m);
void tok_message(struct tok_mgr *m, const struct net_msg *msg);

#endif
