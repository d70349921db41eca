/* SPDX-License-Identifier: Apache-2.0 */
/* dlm inside: structs of the two roles, messages, and who calls whom: dlm.c dispatches to client.c (grant,
 * denied, moved, revoke), master.c (request, release), unit.c (handover) and recover.c (own, report, done).
 * Calls that may reach the user's callbacks are made last in a handler. Messages to oneself wait in dlm.local
 * until the outermost entry leaves. */
#ifndef TESSERA_DLM_INT_H
#define TESSERA_DLM_INT_H

#include "dlm/dlm.h"

enum dlm_type {
	DLM_REQUEST = DLM_TYPE_CLASS + 1, /* give me */
	DLM_GRANT,			  /* you have it */
	DLM_DENIED,			  /* result says why */
	DLM_MOVED,			  /* ask node `node` */
	DLM_REVOKE,			  /* give up at least this */
	DLM_RELEASE,			  /* I gave up; revoke != 0: the answer to that revoke */
	DLM_HANDOVER,			  /* entries: the lock table of a unit goes back to its hash master */
	DLM_OWN,			  /* entries: units I own (recovery, phase 1) */
	DLM_REPORT,			  /* entries: what I hold and you master now (phase 2) */
	DLM_DONE,			  /* id = number of entries reported to you */
	DLM_MANY,			  /* several of REQUEST .. RELEASE and DONE that share a lane */
	DLM_TYPE_END
};
#define DLM_WIRE_VERSION 2
#define DLM_RESULT_MAX	 4095 /* an errno */
enum { DLM_MF_QUICK = 1, DLM_MF_MASTER = 2, DLM_MF_LAST = 4, DLM_MF_VALUE = 8, DLM_MF_BEST = 16, DLM_MF_AHEAD = 32 };

struct dlm_lock_msg { /* REQUEST .. RELEASE, DONE */
	le16 version;
	uint8_t mode;
	uint8_t flags; /* DLM_MF_* */
	le32 kind;
	le64 id, start, end, dstart, dend;
	le64 req;   /* requester's number */
	le64 stamp; /* GRANT: its stamp. REVOKE, RELEASE: newest grant of granter meant. REQUEST, MOVED: grant
		       of ownership */
	le64 revoke;  /* revoker's number, 0 = voluntary */
	le64 seen;    /* REQUEST, MOVED: newest grant that the moving node had seen from the hash master */
	le16 node;    /* RELEASE: whose. MOVED: ask this one. */
	le16 granter; /* whose stamp; REQUEST: who sent the MOVED */
	le16 hops;
	le16 result;  /* DENIED: positive errno. DLM_MOVED has a type of its own */
	le64 value[3]; /* RELEASE, GRANT with DLM_MF_VALUE: era, high, time */
};
_Static_assert(sizeof(struct dlm_lock_msg) == 112, "wire");

struct dlm_batch_msg { /* HANDOVER, OWN, REPORT: this, then count entries */
	le16 version;
	uint8_t flags; /* DLM_MF_LAST */
	uint8_t reserved;
	le32 count;
	le64 unit;  /* HANDOVER */
	le64 stamp; /* HANDOVER: the grant of ownership that ends */
};
_Static_assert(sizeof(struct dlm_batch_msg) == 24, "wire");
struct dlm_entry_msg {
	le64 id, start, end, stamp;
	le32 kind;
	le16 node, granter;
	uint8_t mode;
	uint8_t value; /* 1: not a piece: start, end, stamp are era, high, time of a value */
	uint8_t reserved[6];
};
_Static_assert(sizeof(struct dlm_entry_msg) == 48, "wire");
#define DLM_BATCH 512
struct dlm_many_msg { /* MANY: this, then count of struct dlm_one_msg */
	le16 version;
	le16 count;
	le32 reserved;
};
_Static_assert(sizeof(struct dlm_many_msg) == 8, "wire");
struct dlm_one_msg {
	le16 type;
	uint8_t reserved[6];
	struct dlm_lock_msg m;
};
_Static_assert(sizeof(struct dlm_one_msg) == 120, "wire");
#define DLM_MANY_MAX 64 /* in one frame */

struct dlm_msg { /* any message, decoded */
	unsigned src;
	uint16_t type;
	uint64_t epoch;
	struct dlm_key key;
	uint64_t start, end, dstart, dend, req, stamp, revoke, seen;
	uint16_t node, granter, hops, result;
	uint8_t mode, flags;
	struct dlm_value value;
	uint32_t count;
	const struct dlm_entry_msg *ents;
};
struct dlm_qmsg { /* a message kept: local queue, parked */
	struct ts_list link;
	struct dlm_msg m;
};
struct dlm_omsg { /* bytes kept because the lane was full */
	struct ts_list link;
	unsigned node;
	enum net_lane lane;
	uint16_t type;
	uint32_t len;
	uint8_t bytes[];
};

struct dlm_collected { /* messages to one node on one lane that are not sent yet */
	struct ts_list link;
	unsigned node;
	enum net_lane lane;
	uint32_t n;
	struct dlm_many_msg head;
	struct dlm_one_msg one[DLM_MANY_MAX];
};

struct dlm_unit {
	struct ts_map_node node;
	uint64_t id;
	unsigned hash;		  /* its hash master in this epoch */
	unsigned owner;		  /* at the hash master: who was granted mastership, 0 = nobody */
	unsigned hint;		  /* elsewhere: who is said to own it, 0 = ask the hash master */
	uint64_t own_stamp;	  /* of the grant that made owner (or, in hint, was told with MOVED; in mine,
				     received) */
	bool mine;		  /* this node owns it: it masters here */
	bool closing;		  /* mine, and going back as soon as revokes out are answered */
	unsigned granter;	  /* closing: who granted the owner token */
	struct ts_list resources; /* struct dlm_mres mastered here */
	bool pumping;		  /* it is not freed now */
};
struct dlm_mres { /* master side of one resource */
	struct ts_map_node node;
	struct dlm_key key;
	struct dlm_unit *unit; /* NULL: mastered by hash, always */
	struct ts_list unit_link;
	struct dlm_rset granted;
	struct dlm_value value; /* of SW holders that are gone, for whoever gets it alone */
	struct ts_list waiters, revokes;
};
struct dlm_waiter {
	struct ts_list link;
	uint64_t req, start, end, dstart, dend, since_ns;
	uint16_t node;
	uint8_t mode;
	bool quick, best;
	bool ahead, asked; /* nobody needs it yet; its revokes are out, or were refused */
};
struct dlm_rout { /* a revoke sent and not answered */
	struct ts_list link;
	uint64_t id, start, end, since_ns;
	uint16_t node;
	uint8_t to;
};
struct dlm_rin { /* a revoke received and not answered */
	struct ts_list link;
	uint64_t id, start, end, dstart, dend;
	uint16_t src, granter;
	uint8_t to;
};

enum dlm_phase { DLM_OUT, DLM_OWNING, DLM_REPORTING, DLM_RUN };
struct dlm {
	struct dlm_args a;
	unsigned self;
	enum dlm_phase phase;
	bool gate; /* quorate and nothing pending */
	uint64_t epoch, now_ns;
	unsigned nmembers;
	uint16_t members[QUORUM_MAX_NODES];
	uint64_t seen[NET_MAX_NODES]; /* newest grant stamp received from each node in this epoch */
	uint64_t stamp, last_req, last_revoke;
	/* recovery, by node */
	bool own_done[NET_MAX_NODES], rep_done[NET_MAX_NODES];
	uint64_t rep_got[NET_MAX_NODES];
	struct ts_map res, mres, units;
	struct ts_list reqs;   /* every outstanding request here, oldest first */
	struct ts_list local;  /* dlm_qmsg to oneself */
	struct ts_list parked; /* dlm_qmsg whose time has not come */
	struct ts_list outq;   /* dlm_omsg */
	struct ts_list collected; /* dlm_collected */
	struct ts_list spare;  /* free dlm_qmsg */
	unsigned depth;
	bool unparking, unpark_again, draining;
	struct dlm_stats st;
};

/* ranges.c */
void dlm_rset_init(struct dlm_rset *s);
void dlm_rset_fini(struct dlm_rset *s);
int dlm_rset_reserve(struct dlm_rset *s, uint32_t extra) TS_MUST_CHECK;
bool dlm_rset_covers(const struct dlm_rset *s, unsigned node, enum dlm_mode mode, uint64_t start,
		     uint64_t end);
/* Point-wise join / meet on p's range for p's node; raise takes p's tag; lower touches only pieces of p's
 * granter with stamp <= p's (any_tag: all). lower returns whether anything changed. -ENOMEM leaves the set as
 * it was. */
int dlm_rset_raise(struct dlm_rset *s, const struct dlm_piece *p) TS_MUST_CHECK;
int dlm_rset_lower(struct dlm_rset *s, const struct dlm_piece *p, bool any_tag) TS_MUST_CHECK;
static inline bool dlm_overlap(uint64_t s1, uint64_t e1, uint64_t s2, uint64_t e2)
{
	return s1 <= e2 && s2 <= e1;
}

/* wire.c */
uint32_t dlm_encode(const struct dlm_msg *m, struct dlm_lock_msg *out);
bool dlm_decode(struct dlm_msg *m, const void *p, uint32_t len); /* type is set; false = malformed */
void dlm_encode_entry(struct dlm_entry_msg *e, struct dlm_key key, const struct dlm_piece *p);
void dlm_decode_entry(const struct dlm_entry_msg *e, struct dlm_key *key, struct dlm_piece *p);
void dlm_encode_value(struct dlm_entry_msg *e, struct dlm_key key, const struct dlm_value *v);
/* true: the entry is a value. */
bool dlm_decode_value(const struct dlm_entry_msg *e, struct dlm_key *key, struct dlm_value *v);
/* A frame of many: all of them are sound and share a lane, or it is false. Each is then dlm_decode()d. */
bool dlm_many_sound(const void *p, uint32_t len, uint32_t *count);
enum net_lane dlm_lane(uint16_t type);
const char *dlm_type_name(uint16_t type);

/* dlm.c */
void dlm_enter(struct dlm *d);
void dlm_leave(struct dlm *d);
void dlm_send(struct dlm *d, unsigned node,
	      const struct dlm_msg *m); /* lock messages; to oneself: deferred */
void dlm_send_now(struct dlm *d, unsigned node, uint16_t type, const void *p, uint32_t len); /* what was collected stays behind it */
void dlm_send_raw(struct dlm *d, unsigned node, uint16_t type, const void *p, uint32_t len);
/* many.c */
bool dlm_collect(struct dlm *d, unsigned node, uint16_t type, const struct dlm_lock_msg *w); /* false: send it */
void dlm_flush_lane(struct dlm *d, unsigned node, enum net_lane lane);
void dlm_collected_drop(struct dlm *d);
void dlm_on_many(struct dlm *d, unsigned src, uint64_t epoch, const void *p, uint32_t count);
/* dlm.c again */
void dlm_park(struct dlm *d, const struct dlm_msg *m);
void dlm_unpark(struct dlm *d);
void dlm_qfree(struct dlm *d, struct dlm_qmsg *q);
void dlm_dispatch(struct dlm *d, const struct dlm_msg *m);
bool dlm_is_member(const struct dlm *d, unsigned node);
bool dlm_in_unit(const struct dlm *d, uint32_t kind);
static inline uint64_t dlm_unit_of(const struct dlm *d, struct dlm_key k)
{
	return k.id >> d->a.unit_shift;
}
static inline uint64_t dlm_key_hash(struct dlm_key k)
{
	return ts_hash_u64(k.id * 16 + k.kind);
}
static inline bool dlm_granting(const struct dlm *d)
{
	return d->phase == DLM_RUN && d->gate;
}
void *dlm_xalloc(size_t n, const char *what); /* for what must not be lost: panics when there is no memory */

/* unit.c */
unsigned dlm_hash_master(const struct dlm *d, struct dlm_key key);
struct dlm_unit *dlm_unit_find(const struct dlm *d, uint64_t id);
struct dlm_unit *dlm_unit_get(struct dlm *d, uint64_t id); /* NULL = no memory */
void dlm_unit_put(struct dlm *d, struct dlm_unit *u);	   /* frees it when it says nothing */
struct dlm_unit *dlm_owned_unit(const struct dlm *d,
				struct dlm_key key); /* key is an owner token of a unit owned here */
bool dlm_unit_give(struct dlm *d, struct dlm_key key,
		   const struct dlm_piece *grant); /* may the grant carry mastership */
void dlm_unit_closed_check(struct dlm *d, struct dlm_unit *u);
void dlm_unit_hint(struct dlm *d, struct dlm_key key, unsigned node, uint64_t stamp);
void dlm_on_handover(struct dlm *d, const struct dlm_msg *m);
bool dlm_request_elsewhere(struct dlm *d, const struct dlm_msg *m); /* true: parked or moved, not ours */

/* master.c */
struct dlm_mres *dlm_mres_find(const struct dlm *d, struct dlm_key key);
struct dlm_mres *dlm_mres_get(struct dlm *d, struct dlm_key key);
void dlm_mres_free(struct dlm *d, struct dlm_mres *r);
int dlm_master_try(struct dlm *d, struct dlm_req *q, struct dlm_piece *out, bool *mastery, struct dlm_value *v);
void dlm_master_pump(struct dlm *d, struct dlm_mres *r);
void dlm_master_insert(struct dlm *d, struct dlm_key key, const struct dlm_piece *p);
void dlm_master_value(struct dlm *d, struct dlm_key key, const struct dlm_value *v);
void dlm_master_entries(struct dlm *d, const struct dlm_msg *m, bool report); /* of a REPORT or a HANDOVER */
void dlm_on_request(struct dlm *d, const struct dlm_msg *m);
void dlm_on_release(struct dlm *d, const struct dlm_msg *m);

/* client.c */
void dlm_client_resend(struct dlm *d); /* every outstanding request, to whom it belongs now */
void dlm_client_tell_rest(struct dlm *d, struct dlm_res *r, unsigned granter);
void dlm_on_grant(struct dlm *d, const struct dlm_msg *m);
void dlm_on_denied(struct dlm *d, const struct dlm_msg *m);
void dlm_on_moved(struct dlm *d, const struct dlm_msg *m);
void dlm_on_revoke(struct dlm *d, const struct dlm_msg *m);

/* recover.c */
void dlm_on_own(struct dlm *d, const struct dlm_msg *m);
void dlm_on_report(struct dlm *d, const struct dlm_msg *m);
void dlm_on_done(struct dlm *d, const struct dlm_msg *m);

/* debug.c: state as typed numbers, for the model tests: stamps and ids matter only by order. */
enum dlm_dump_type { DLM_V_PLAIN, DLM_V_STAMP, DLM_V_ID };
typedef void (*dlm_dump_fn)(void *arg, enum dlm_dump_type t, uint64_t v);
void dlm_dump(struct dlm *d, dlm_dump_fn fn, void *arg);
void dlm_dump_msg(const struct dlm_msg *m, dlm_dump_fn fn, void *arg);

#endif
