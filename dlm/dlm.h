/* SPDX-License-Identifier: Apache-2.0 */
/* dlm: the lock engine of one node for one group (file system). A deterministic state machine: events go in
 * (a local request, a local shrink, a message of a peer, a group view), actions come out through struct
 * dlm_ops. It owns no thread, no socket, no clock and no fiber; its memory of a held resource lives inside
 * the caller's struct.
 *
 * Two roles in one struct: client (what this node holds and asks for) and master (what it grants to others).
 *
 *   client, one point of a resource:   NL --request--> waiting --grant--> held --revoke--> leaving
 * --shrink--> NL engine, at each group epoch:       OUT -> OWN (who owns which unit) -> REPORT (what is held)
 * -> RUN
 *
 * What must never happen: two nodes hold conflicting modes on one point; a message of another epoch changes
 * anything; a revoke is left without its one answer while the epoch lasts; a master grants before every
 * member has reported. */
#ifndef TESSERA_DLM_DLM_H
#define TESSERA_DLM_DLM_H

#include "lib/lib.h"
#include "net/net.h"
#include "quorum/quorum.h"

#define DLM_TYPE_CLASS 0x100
#define DLM_END	       UINT64_MAX

enum dlm_mode { DLM_NL, DLM_SH, DLM_SW, DLM_EX, DLM_MODES };

/* Modes as tables: may two nodes hold a and b at once; does have give at least want; least mode that gives
 * both; greatest mode given by both; greatest mode that may stay beside one that is wanted. */
bool dlm_compatible(enum dlm_mode a, enum dlm_mode b);
bool dlm_covers(enum dlm_mode have, enum dlm_mode want);
enum dlm_mode dlm_join(enum dlm_mode a, enum dlm_mode b);
enum dlm_mode dlm_meet(enum dlm_mode a, enum dlm_mode b);
enum dlm_mode dlm_beside(enum dlm_mode wanted);

struct dlm_key {
	uint64_t id;
	uint32_t kind;
};

/* A held or granted range [start, end], inclusive. (granter, stamp) names the newest grant that made it:
 * stamps of one granter only grow; 0,0 = rebuilt from a report. */
struct dlm_piece {
	uint64_t start, end, stamp;
	uint16_t node;
	uint16_t granter;
	uint8_t mode;
};
/* A set of pieces sorted by (node, start); pieces of one node do not overlap. Never moved in memory. */
struct dlm_rset {
	struct dlm_piece *v;
	uint32_t n, cap;
	struct dlm_piece one; /* room for the usual case */
};

/* What SW holders have changed, each for himself: merged by its rules on the way from who gives SW up to the one who gets the
 * resource alone. A higher era voids a lower one; within one era the greatest of each counts. */
struct dlm_value {
	uint64_t era, high, time;
	bool set;
};
void dlm_value_merge(struct dlm_value *into, const struct dlm_value *v);

struct dlm;
struct dlm_res { /* client side of one resource, embedded in the caller's struct */
	struct ts_map_node node;
	struct dlm_key key;
	struct dlm_value keep;	/* given up with SW, and it is not known yet that a later holder has it: told to every master */
	struct dlm_value got;	/* came with a grant: the caller's to take */
	struct dlm_rset held;	/* node field unused (0) */
	struct ts_list reqs;	/* outstanding requests */
	struct ts_list revokes; /* revokes of masters that are not answered yet, oldest first */
};

enum {
	DLM_F_LOCAL = 1, /* only if this node's own master can grant at once; else -TS_ERR_WOULD_WAIT and
			    nothing is queued */
	DLM_F_QUICK = 2, /* granted only if free at the master now; else -EAGAIN */
	DLM_F_BEST = 4,	 /* SW of the whole: EX instead if nobody else holds or waits */
	DLM_F_AHEAD = 8, /* nobody needs it yet: denied with -EAGAIN when a holder has use for it, or somebody else waits */
};
struct dlm_req { /* caller's memory until granted or denied */
	struct ts_list link, all;
	struct dlm_res *res;
	uint64_t id, start, end, dstart, dend; /* required range, desired range (contains it) */
	uint64_t moved_stamp, moved_seen;      /* what the last MOVED said, see README */
	uint16_t moved_by;
	uint8_t mode, flags;
	bool sent;
};

struct dlm_ops {
	/* 0; -ENOBUFS: kept and sent again by dlm_tick(); any other error: the peer is gone, the message is
	 * dropped. */
	int (*send)(void *arg, unsigned node, enum net_lane lane, uint16_t type, uint64_t epoch,
		    const void *p, uint32_t len);
	void (*granted)(void *arg, struct dlm_req *req);
	void (*denied)(void *arg, struct dlm_req *req, int err);
	/* res->revokes is not empty: make it safe, then dlm_shrink(). See dlm_revoke_first(). */
	void (*revoke)(void *arg, struct dlm_res *res);
	void (*changed)(void *arg); /* dlm_ready(), or dlm_res_idle() of an owner token, may have changed */
	void *arg;
	/* May what is asked for ahead (DLM_F_AHEAD) go to another node? holder: this node would give it up; else it only grants
	 * it as master. NULL: always. Does not wait. */
	bool (*ahead_ok)(void *arg, struct dlm_key key, bool holder);
	/* Something is collected: call dlm_flush() soon, once. NULL: nothing is collected, each message is a frame. */
	void (*flush_wanted)(void *arg);
	/* Does that node take frames of many? Once yes, always yes in an epoch. NULL: all do. */
	bool (*many_ok)(void *arg, unsigned node);
};
struct dlm_args {
	unsigned self;
	uint32_t unit_kinds; /* bit per kind whose master is the owner of unit id >> unit_shift */
	uint32_t owner_kind; /* kind whose EX token on unit u carries the mastership of u */
	unsigned unit_shift;
	size_t max_mastered; /* resources mastered here; beyond it requests are denied with -ENOMEM. 0 =
				4,000,000 */
	struct dlm_ops ops;
};

struct dlm *dlm_new(const struct dlm_args *a) TS_MUST_CHECK;
void dlm_free(struct dlm *d); /* the caller's dlm_res and dlm_req are forgotten, not touched */

/* Client. */
int dlm_res_init(struct dlm *d, struct dlm_res *r, struct dlm_key key) TS_MUST_CHECK; /* 0, -ENOMEM */
bool dlm_res_idle(const struct dlm *d, const struct dlm_res *r); /* nothing held, asked, revoked or closing */
void dlm_res_fini(struct dlm *d, struct dlm_res *r);		 /* must be idle */
struct dlm_res *dlm_find(const struct dlm *d, struct dlm_key key);
bool dlm_holds(const struct dlm_res *r, enum dlm_mode mode, uint64_t start, uint64_t end);
/* 1 granted now (no callback will come), 0 the answer comes later, or -TS_ERR_WOULD_WAIT, -EAGAIN, -ENOMEM.
 */
int dlm_request(struct dlm *d, struct dlm_res *r, struct dlm_req *req) TS_MUST_CHECK;
/* Before dlm_shrink takes SW away: what this node changed under it. It goes with the release, and is kept here until a grant of
 * SH or EX shows that somebody has it for good: r is not idle until then. */
void dlm_value_give(struct dlm_res *r, const struct dlm_value *v);
/* What came with the last grant (mode EX, whatever was asked for): the caller has it from here on. */
bool dlm_value_take(struct dlm_res *r, struct dlm_value *out);
/* The caller made it safe that mode on [start, end] is at most `to` from now on: tells the master, answers
 * revokes. */
void dlm_shrink(struct dlm *d, struct dlm_res *r, uint64_t start, uint64_t end, enum dlm_mode to);
/* The oldest revoke for which something must still be given up: at least [start, end] to mode `to`; up to
 * [dstart, dend] would be welcome. */
struct dlm_want {
	uint64_t start, end, dstart, dend;
	enum dlm_mode to;
};
bool dlm_revoke_first(const struct dlm_res *r, struct dlm_want *out);

/* Events from outside. */
void dlm_message(struct dlm *d, unsigned src, uint16_t type, uint64_t epoch, const void *p, uint32_t len);
void dlm_view(struct dlm *d, const struct quorum_group_view *v);
bool dlm_tick(
	struct dlm *d); /* sends again what -ENOBUFS kept; true = something is still kept, tick again soon */
bool dlm_tick_wanted(const struct dlm *d);
void dlm_flush(struct dlm *d); /* sends what was collected, many messages in one frame */
void dlm_now(struct dlm *d, uint64_t now_ns); /* time shown in diagnostics; decides nothing */

/* Looking at it. */
bool dlm_ready(
	const struct dlm *d); /* this epoch's re-mastering is complete, view quorate, nothing pending */
uint64_t dlm_epoch(const struct dlm *d);
unsigned dlm_master(const struct dlm *d, struct dlm_key key); /* as far as this node knows; 0 = no view yet */
struct dlm_stats {
	uint64_t held, mastered, requests_sent, grants, revokes_received, revokes_sent, releases_sent, moved,
		view_changes, owned_units, dropped_old,
		frames, frames_many; /* to others; with many messages in one */
};
void dlm_stats_get(const struct dlm *d, struct dlm_stats *out);
struct dlm_info {
	struct dlm_key key;
	struct dlm_piece piece; /* waiting: required range and wanted mode, node = who waits */
	bool mastered, waiting, revoking;
	uint64_t since_ns;
};
void dlm_each(struct dlm *d, void (*fn)(void *arg, const struct dlm_info *i), void *arg);
const char *dlm_mode_name(enum dlm_mode m);

#endif
