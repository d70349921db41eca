/* SPDX-License-Identifier: Apache-2.0 */
/* tokens: what lets a node cache as if it were alone. A node that holds a token may use and cache what it covers and
 * sends no message; another node that needs it in a conflicting mode makes the holder give it back (revoke).
 *
 * Built on dlm/ (the sans-I/O lock engine: resources, modes, ranges, queues, masters, recovery). This layer adds fibers
 * that wait, the cache of held tokens, pins, revoke call-backs, minimum hold time and memory bounds.
 *
 * Order law: a fiber that holds pins takes further pins only in ascending (kind, id). Kinds are numbered in that order.
 * What must never happen: two nodes with conflicting modes on overlapping ranges; a token leaving before its revoke
 * call-back has made everything under it durable and invalid; a grant of what a dead node may have held before its
 * group view has no pending incarnation left. */
#ifndef TESSERA_TOKENS_TOKENS_H
#define TESSERA_TOKENS_TOKENS_H

#include "lib/lib.h"
#include "net/net.h"
#include "quorum/quorum.h"

enum tok_kind {
	TOK_NONE = 0,
	TOK_FS = 1,	 /* id 0: fs-wide state (format, fsck exclusion) */
	TOK_RENAME = 2,	 /* id 0: moving a directory into another directory */
	TOK_SLOT = 3,	 /* log slot */
	TOK_OPEN = 4,	 /* inode: SH pinned while open here; EX = nobody has it open */
	TOK_DIR = 5,	 /* inode: names of a directory; range = hash values */
	TOK_DATA = 6,	 /* inode: bytes of a file; range = offsets */
	TOK_INODE = 7,	 /* inode: attributes, xattrs, block map, size */
	TOK_SEGMENT = 8, /* inode segment: the right to allocate inodes in it; with it comes mastership (see dlm/README.md) */
	TOK_SEGTAB = 9,	 /* block of the segment table */
	TOK_REGION = 10, /* allocation region */
	TOK_KINDS
};
#define TOK_SEGMENT_SHIFT 9 /* 512 inodes a segment: segment of OPEN/DIR/DATA/INODE id = id >> 9 */
#define TOK_END UINT64_MAX

enum tok_mode { TOK_NL = 0, TOK_SH = 1, TOK_SW = 2, TOK_EX = 3 };

struct tok_mgr;
struct tok;
struct tok_pin { /* all zero = empty */
	struct tok *tok;
	enum tok_mode mode;
	uint64_t start, end;
};

/* What becomes of a token that was asked for ahead. */
enum tok_ahead_news {
	TOK_AHEAD_CAME,	   /* held here, and not used yet */
	TOK_AHEAD_USED,	   /* pinned for the first time */
	TOK_AHEAD_REFUSED, /* somebody else has use for it */
	TOK_AHEAD_LOST,	   /* it left again and nobody had used it */
};

struct tok_events {
	/* A held token must shrink to mode `to` (NL, SH or SW) on [start, end] (inclusive). Called on a fiber of its own, with
	 * no pins on it in conflict and new conflicting pins blocked... except during pre_revoke. Must make everything
	 * durable under [start,end] (log forced, dirty home and flushed) and drop caches (to == NL), then return. An error
	 * means the token cannot be given up (I/O error): the node keeps it and must stop. Of DATA and REGION it may pin INODE; any other
	 * pins nothing that another node may hold. */
	int (*revoke)(void *arg, enum tok_kind kind, uint64_t id, enum tok_mode to, uint64_t start, uint64_t end);
	/* First step of a revoke, before new users are blocked: invalidate kernel caches; runs on the same fiber; new pins
	 * are still granted meanwhile. May wait for kernel requests to finish. */
	void (*pre_revoke)(void *arg, enum tok_kind kind, uint64_t id, enum tok_mode to, uint64_t start, uint64_t end);
	/* Behind it, with new users blocked and those in conflict gone: what kernel caches took meanwhile goes too, for good. Only
	 * TOK_LATE pins are granted meanwhile: what this waits for must need no other. */
	void (*last_revoke)(void *arg, enum tok_kind kind, uint64_t id, enum tok_mode to, uint64_t start, uint64_t end);
	/* Must a DATA token stay in one piece? Then a revoke of a part takes all of it. NULL: never. Does not wait. */
	bool (*whole)(void *arg, enum tok_kind kind, uint64_t id);
	/* A pin of DIR that is not SH and will not be had without another node is about to wait: what a revoke of the token would need from
	 * the caller is to be given up before. May wait; an error is the pin's. NULL: nothing is. */
	int (*before_wait)(void *arg, enum tok_kind kind, uint64_t id);
	/* A pin waits for another node: the moment to tok_ahead() for what will be wanted next. Does not wait. NULL: nothing is asked ahead. */
	void (*missed)(void *arg, enum tok_kind kind, uint64_t id, enum tok_mode mode);
	void (*ahead)(void *arg, enum tok_kind kind, uint64_t id, enum tok_mode mode, enum tok_ahead_news news); /* does not wait */
	/* Another node asks ahead: is this of no use here, and likely of some there? NULL: yes. Does not wait. */
	bool (*ahead_ok)(void *arg, enum tok_kind kind, uint64_t id);
	/* All tokens of this node are gone (excluded from the group): caches are void, nothing may be written. */
	void (*lost)(void *arg);
	void *arg;
};

struct tok_args {
	struct ts_exec *exec;
	struct net *net;
	uint64_t group;	     /* as in quorum_group_view */
	uint32_t net_group;  /* short id put into messages */
	unsigned self;
	uint64_t incarnation;
	struct tok_events events;
	size_t max_tokens;   /* bound of cached tokens here; idle ones are given back, oldest first. 0 = 1,000,000 */
	uint32_t min_hold_ms; /* 0 = default 5; a freshly granted token is kept at least so long if it was not used yet or is in use */
};
struct tok_mgr *tok_mgr_new(const struct tok_args *a) TS_MUST_CHECK;
/* New group view (members, pending): re-masters, reports held tokens, resumes. Grants wait while pending is not empty
 * or the view is not quorate. On the executor. */
void tok_mgr_view(struct tok_mgr *m, const struct quorum_group_view *v);
/* Ready: the current view's re-mastering is complete and nothing is pending. Waits. -TS_ERR_FENCED if lost. */
int tok_mgr_wait_ready(struct tok_mgr *m) TS_MUST_CHECK;
/* Gives every token back (revokes itself), for a clean unmount; from a fiber; no pins may be left. */
int tok_mgr_drain(struct tok_mgr *m) TS_MUST_CHECK;
void tok_mgr_free(struct tok_mgr *m); /* also abruptly: pins and waiters must be gone or the executor killed */
void tok_mgr_fail(struct tok_mgr *m); /* excluded: every waiter and later pin gets -TS_ERR_FENCED; calls events.lost once */

enum {
	TOK_NOWAIT = 1, /* -TS_ERR_WOULD_WAIT instead of waiting for another node (a local master that can grant now is no wait) */
	TOK_TRY = 2,	/* like NOWAIT, and not even behind other fibers of this node */
	TOK_LATE = 8,	/* if held: before all who wait, and also while it is being given back, until last_revoke has returned */
	TOK_QUICK = 4,	/* do not ask holders to give up: granted only if free now at the master (one round trip); -EAGAIN else */
};
/* Pins [start, end] in mode SH, SW or EX for the caller: waits until this node holds it and no local pin conflicts (SH pins
 * share, an EX or SW pin excludes other fibers: a pin is also the node-local lock, of the whole resource whatever the range; a
 * fiber pins one resource only once). Ranges are for DATA: what is asked for beyond [start, end] is the rest of the resource as
 * long as nobody contends. SW is for the whole of INODE: other nodes may have it at the same time; who is alone gets EX.
 * 0, -TS_ERR_WOULD_WAIT, -EAGAIN, -TS_ERR_FENCED, -ENOMEM. */
int tok_pin(struct tok_mgr *m, enum tok_kind kind, uint64_t id, enum tok_mode mode, uint64_t start, uint64_t end,
	    unsigned flags, struct tok_pin *out) TS_MUST_CHECK;
void tok_unpin(struct tok_mgr *m, struct tok_pin *p); /* empties *p; harmless on an empty one */
/* Held here now in at least this mode on the whole resource, and no revoke begun (kernel caching allowed)? */
bool tok_cached(struct tok_mgr *m, enum tok_kind kind, uint64_t id, enum tok_mode mode);
/* Does a fiber of this node wait for it? */
bool tok_wanted(struct tok_mgr *m, enum tok_kind kind, uint64_t id);
/* Held here in at least this mode on [start, end], whether or not a revoke has begun? */
bool tok_holds(struct tok_mgr *m, enum tok_kind kind, uint64_t id, enum tok_mode mode, uint64_t start, uint64_t end);
/* What a holder of SW changed, on its way to whoever can write it down (dlm/dlm.h). give: in the revoke call-back, before SW
 * leaves. take: under a pin (EX is held then), what came with a grant, once. kept: what this node gave and nobody is known to
 * have yet. */
struct tok_value {
	uint64_t era, high, time;
};
void tok_value_give(struct tok_mgr *m, enum tok_kind kind, uint64_t id, const struct tok_value *v);
bool tok_value_came(struct tok_mgr *m, enum tok_kind kind, uint64_t id); /* is there one to take? */
bool tok_value_take(struct tok_mgr *m, enum tok_kind kind, uint64_t id, struct tok_value *out);
bool tok_value_kept(struct tok_mgr *m, enum tok_kind kind, uint64_t id, struct tok_value *out);
/* Asks for whole tokens that are likely to be wanted soon, many in one message. Never waits and promises nothing: what is held or
 * asked for already, in use, or beyond the bounds is left out, and a node that has use for one keeps it. What comes obeys every rule
 * of a held token, but leaves at once when it is revoked unused. Returns how many were asked for. */
unsigned tok_ahead(struct tok_mgr *m, enum tok_kind kind, enum tok_mode mode, const uint64_t *ids, unsigned n);
/* Give an idle token back soon (memory pressure, forget). */
void tok_drop_hint(struct tok_mgr *m, enum tok_kind kind, uint64_t id);
/* Is this node the master of the resource now? (then a pin of an uncontended one sends no message) */
bool tok_is_master(struct tok_mgr *m, enum tok_kind kind, uint64_t id);
/* A revoke is pending on this token: long users should stop at the next convenient point. */
bool tok_revoke_pending(struct tok_mgr *m, enum tok_kind kind, uint64_t id);

struct tok_stats {
	uint64_t held, mastered, pins, pin_hits, requests_sent, grants, revokes_received, revokes_sent, releases_sent, moved, view_changes;
	uint64_t frames, frames_many; /* of tokens to other nodes; with many messages in one */
	uint64_t ahead_asked, ahead_came, ahead_used, ahead_refused, ahead_lost;
	struct ts_hist wait_time; /* of pins that had to wait */
};
void tok_stats_get(struct tok_mgr *m, struct tok_stats *out);
/* For diag tokens: every held token and every mastered resource with holders and waiters. mastered=false: a held token. */
struct tok_info {
	bool mastered;
	enum tok_kind kind;
	uint64_t id, start, end;
	unsigned node; /* holder or waiter */
	enum tok_mode mode;
	bool waiting, revoking;
	unsigned pins;
	uint64_t since_ns;
};
void tok_each(struct tok_mgr *m, void (*fn)(void *arg, const struct tok_info *i), void *arg);
/* ---- locks of applications (docs/locks.md) ---- */
enum tok_lock_type { TOK_LOCK_NONE, TOK_LOCK_READ, TOK_LOCK_WRITE };
struct tok_lock {
	uint64_t ino, start, end; /* inclusive */
	uint64_t owner;		  /* unique on this node */
	uint64_t handle;	  /* the open file it is asked through, not 0 */
	uint32_t pid;
	unsigned node;		  /* told by tok_lock_get */
	enum tok_lock_type type;
	bool flock;		  /* else a record lock of a process or of an open file; the two kinds never conflict */
};
struct tok_lock_waiter { /* who waits for the lock; NULL members are allowed */
	bool (*interrupted)(void *arg);
	/* Asked before a wait for a record lock: does it belong to a process (NULL, true: cycles end with -EDEADLK), or to an
	 * open file? */
	bool (*of_process)(void *arg);
	void *arg;
};
/* Sets the range to l->type for the owner. 0, -EAGAIN (only without w), -EINTR, -EDEADLK, -ENOLCK, -TS_ERR_FENCED. */
int tok_lock_set(struct tok_mgr *m, const struct tok_lock *l, const struct tok_lock_waiter *w) TS_MUST_CHECK;
/* Who would be in the way of such a lock: one of them is put into *l, or type NONE. */
int tok_lock_get(struct tok_mgr *m, struct tok_lock *l, const struct tok_lock_waiter *w) TS_MUST_CHECK;
int tok_lock_close(struct tok_mgr *m, uint64_t ino, uint64_t owner) TS_MUST_CHECK; /* close(2): record locks of the owner go */
void tok_lock_release(struct tok_mgr *m, uint64_t ino, uint64_t handle); /* last close: all taken through it go; does not wait */
void tok_lock_interrupt(struct tok_mgr *m); /* waiters ask `interrupted` */
struct tok_lock_info {
	struct tok_lock lock;
	bool mastered; /* told by the inode's master; else by the node whose process it is */
	bool waiting, delegated;
	unsigned master;
	uint64_t since_wall_ns; /* waiting */
};
void tok_lock_each(struct tok_mgr *m, void (*fn)(void *arg, const struct tok_lock_info *i), void *arg);
struct tok_lock_stats {
	uint64_t locks, inodes, mastered, ops, local_ops, sent, delegations, recalls, deadlocks;
};
void tok_lock_stats_get(struct tok_mgr *m, struct tok_lock_stats *out);

const char *tok_kind_name(enum tok_kind k);
const char *tok_mode_name(enum tok_mode m);

#endif
