/* SPDX-License-Identifier: Apache-2.0 */
/* The tiebreaker's own header: what lies on its disk, and the machine that decides with it (tiebreaker.c). The machine owns no
 * disk, no clock and no memory of its own but this struct: the core, the model (tests/model) and the unit tests step the same one.
 * What must never happen, and why it does not: docs/quorum.md. */
#ifndef TESSERA_QUORUM_TIE_INT_H
#define TESSERA_QUORUM_TIE_INT_H

#include "lib/lib.h"

/* ---- on the disk: a head and one block a node, 4 KiB each; what counts lies in the first 512 bytes of a block, so that no sector
 * size tears it ------------------------------------------------------------------------------------------------------------ */
#define TIE_BLOCK   4096u
#define TIE_SLOTS   63u /* node ids 1 .. 63 */
#define TIE_BYTES   ((TIE_SLOTS + 1) * TIE_BLOCK)
#define TIE_VERSION 1
struct tie_head_disk {
	char magic[8]; /* "TSSRTIEH" */
	le32 version, slots;
	uint8_t cluster_id[16];
	uint8_t uuid[16]; /* drawn anew whenever the area is made: an area that was made again knows nothing, and is another one */
	uint8_t reserved[456];
	le64 csum; /* ts_csum64_skip over the struct, seed 0 */
};
_Static_assert(sizeof(struct tie_head_disk) == 512, "tiebreaker head size");
struct tie_slot_disk {
	char magic[8]; /* "TSSRTIES" */
	le32 version, node;
	uint8_t uuid[16];
	le64 incarnation; /* who wrote this */
	le64 promised;	  /* the highest view number this node has bid with */
	le64 accepted;	  /* the highest for which it wrote "goes on without the others"; 0: never */
	le64 accepted_incarnation;
	le64 base;    /* the view that accepted follows */
	le64 writes;  /* counts */
	le64 wall_ns; /* of this write, for people */
	uint8_t reserved[416];
	le64 csum;
};
_Static_assert(sizeof(struct tie_slot_disk) == 512, "tiebreaker slot size");

/* ---- the machine ------------------------------------------------------------------------------------------------------------ */
struct tie_slot {
	uint64_t incarnation, promised, accepted, accepted_incarnation, base, writes, wall_ns;
};
enum tie_phase { TIE_IDLE, TIE_LOOK, TIE_PROMISE, TIE_ACCEPT };
enum tie_result {
	TIE_RUNNING, /* do what step says */
	TIE_WON,     /* the disk has accepted: this side goes on */
	TIE_LOST,    /* another side may have gone on (by, seen) */
	TIE_HIGHER,  /* another one bids with more (by, seen): try again with a number above */
	TIE_FAILED,  /* nothing is known: the disk failed (rc) or is not what it was */
};
struct tie_machine {
	enum tie_phase phase;
	unsigned node;
	uint64_t incarnation, number, base;
	uint8_t uuid[16];
	struct tie_slot mine; /* as last written or read */
	uint64_t present[TIE_SLOTS + 1]; /* incarnations of this side by node: what they have accepted is in base */
	unsigned by;
	uint64_t seen;
	int rc;
};
struct tie_step {
	enum tie_result result;
	bool write; /* running: write slot, make it stable, then read all slots; not write: read all slots */
	struct tie_slot_disk slot;
};

/* View numbers of two bidders never meet: the smallest number above both that is the node's own. */
_Static_assert((TIE_SLOTS & (TIE_SLOTS + 1)) == 0, "all ones: node ids fit below it");
uint64_t tie_number_next(uint64_t above, unsigned node);
/* A bid of node for view number (its own, above everything its side has promised), behind the view base, the newest its side has
 * accepted. present as in the machine. */
void tie_begin(struct tie_machine *m, unsigned node, uint64_t incarnation, const uint8_t uuid[16], uint64_t number, uint64_t base,
	       const uint64_t present[TIE_SLOTS + 1], struct tie_step *next);
/* The step is done: rc, and if 0 the slots 1 .. TIE_SLOTS as read after the write, slots[0] being node 1's. Any bytes. wall_ns goes into
 * the next slot. */
void tie_done(struct tie_machine *m, int rc, const struct tie_slot_disk *slots, uint64_t wall_ns, struct tie_step *next);

void tie_slot_encode(struct tie_slot_disk *d, unsigned node, const uint8_t uuid[16], const struct tie_slot *s);
bool tie_slot_decode(const struct tie_slot_disk *d, unsigned node, const uint8_t uuid[16], struct tie_slot *s) TS_MUST_CHECK;
void tie_head_encode(struct tie_head_disk *d, const uint8_t cluster_id[16], const uint8_t uuid[16]);
/* 0; -ENOENT: no head; -EPERM: of another cluster; -EPROTONOSUPPORT: a later version; -EBADMSG: damaged. */
int tie_head_decode(const struct tie_head_disk *d, const uint8_t cluster_id[16], uint8_t uuid[16]) TS_MUST_CHECK;

/* Planted faults, for the test of the model; 0 in every build that ships. */
#ifdef TIE_PLANTS
extern unsigned tie_plant;
enum { TIE_PLANT_NONE, TIE_PLANT_NO_LOOK_AFTER_ACCEPT, TIE_PLANT_NO_PROMISE, TIE_PLANT_BASE_IGNORED, TIE_PLANT_SAME_NUMBERS,
       TIE_PLANT_FORGETS_ACCEPTED };
#define TIE_PLANTED(p) (tie_plant == (p))
#else
#define TIE_PLANTED(p) false
#endif

#endif
