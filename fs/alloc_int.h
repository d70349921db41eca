/* SPDX-License-Identifier: Apache-2.0 */
/* What alloc*.c, ialloc*.c, segtab.c and the reaper share among themselves. Nothing else includes this. */
#ifndef TESSERA_FS_ALLOC_INT_H
#define TESSERA_FS_ALLOC_INT_H

#include "fs/fs_int.h"

#define FS_NO_SUB	   UINT32_MAX
#define FS_REGIONS_ROOM(n) (2 * (n) + 4096u) /* a file system grows to so many regions without a new mount */
/* Classes of space: none, metadata, and data of each pool. Of pool 0 it is the type's number. */
#define FS_CLASSES	   (FS_REGION_DATA + FS_POOLS)
#define FS_CLASS(type, pool) ((type) == FS_REGION_DATA ? FS_REGION_DATA + (pool) : (unsigned)(type))
#define FS_CLASS_TYPE(c)   ((enum fs_region_type)TS_MIN((unsigned)(c), (unsigned)FS_REGION_DATA))
#define FS_CLASS_POOL(c)   ((c) > FS_REGION_DATA ? (c) - FS_REGION_DATA : 0u)
#define FS_META_RESERVE	   64u	/* metadata subs that only deleting may take */
#define FS_FREE_BATCH	   256u /* intents in one bitmap transaction */
#define FS_FREE_BATCH_BUFS 32u	/* bitmap blocks in one transaction */
#define FS_SEG_MAX_OWNED   64u

/* One chunk of an owned region. shadow = bits in the buffer OR taken and not committed. */
struct fs_chunk {
	struct fs_buf *buf; /* bitmap block, pinned as long as the region is owned */
	unsigned disk, pool;
	uint32_t nsubs, free;	    /* free: zero bits of the shadow */
	uint32_t cursor;	    /* unit where the search for a whole unit begins */
	uint32_t partial;	    /* unit where the last partial one was found */
	uint32_t run_max;	    /* partly used units have no longer free run than this */
	bool no_unit;		    /* no wholly free unit */
	bool usable;		    /* its disk takes what the region is for: counts in fs_region.free */
	uint64_t shadow[FS_BITMAP_BITS / 64];
};
struct fs_region {
	struct ts_list link; /* owned regions of one type */
	uint32_t id;
	enum fs_region_type type;
	bool listed;		   /* usable: in its type's list */
	unsigned taken;		   /* extents taken, not committed */
	uint64_t free;		   /* of all pools */
	uint32_t pfree[FS_POOLS];  /* of each */
	struct ts_cond cond;	   /* taken fell */
	unsigned nchunks;
	struct fs_chunk *chunks;
	struct fs_chunk **by_disk; /* [ndisks], NULL where the region has no chunk */
	unsigned ndisks;
	uint64_t disks_gen;	   /* fs.disks_gen when it was loaded: with another it must be loaded again */
};
struct fs_region_hint { /* what is believed about a region; stale unless reg is set */
	struct fs_region *reg;
	uint32_t free;
	uint32_t pfree[FS_POOLS];
	uint32_t run_max[FS_POOLS]; /* a claim proved that no longer run is free; reset when space comes back */
	uint32_t stamp;	  /* refill that looked last */
	uint8_t type;
	bool known, bad, exact;
	uint8_t busy; /* how often the reaper found it held by another node */
	uint64_t changed;	     /* fs_alloc.changes when this node last changed its free space; 0: never */
	struct ts_list changed_link; /* in fs_alloc.changed, the last changed first; not linked while changed is 0 */
};
struct fs_alloc {
	struct fs_region_hint *hints; /* [nregions] */
	uint32_t nregions, stamp, room; /* room: there is memory for so many regions, should a disk grow */
	uint32_t unit[3];	      /* by type: aligned unit of whole allocations */
	struct ts_list owned[3];
	unsigned nowned[3], max_owned;
	uint64_t free[FS_CLASSES];    /* of listed regions */
	uint32_t want[FS_CLASSES];    /* subs of the last take that failed */
	unsigned want_on[FS_CLASSES]; /* it was to be on that disk, number + 1 */
	uint64_t gen[FS_CLASSES];     /* grows when space became available */
	uint64_t promised;	      /* frees and orphans logged by this node: space that will come */
	uint64_t full_promised;
	uint64_t full_gen[FS_CLASSES], full_until[FS_CLASSES]; /* a refill failed at that gen: do not search again before */
	uint32_t full_subs[FS_CLASSES];
	uint64_t total_subs;
	uint16_t *ring[FS_CLASSES]; /* numbers of the disks that take it, in order */
	unsigned nring[FS_CLASSES];
	bool even[FS_CLASSES];	   /* they are of one size */
	uint64_t changes;
	struct ts_list changed;
	struct fs_space *space; /* space.c; NULL until statfs is asked for */
	struct ts_list freeing; /* inodes whose contents are being freed */
	struct ts_mutex lock; /* refill */
};

/* ---- alloc_bits.c ---- */
bool fs_bits_any(const uint64_t *w, uint32_t from, uint32_t n); /* any 1 in the range */
bool fs_bits_all(const uint64_t *w, uint32_t from, uint32_t n); /* only 1s in the range */
void fs_bits_set(uint64_t *w, uint32_t from, uint32_t n);
void fs_bits_clear(uint64_t *w, uint32_t from, uint32_t n);
uint32_t fs_bits_count(const uint64_t *w, uint32_t from, uint32_t n);
uint32_t fs_bits_run(const uint64_t *w, uint32_t from, uint32_t end, uint32_t need); /* first free run, FS_NO_SUB */
void fs_chunk_reset(struct fs_chunk *c, uint32_t unit); /* search hints: space came back */
uint32_t fs_chunk_find(struct fs_chunk *c, uint32_t unit, uint32_t subs, uint32_t near);
bool fs_dbits_all(const uint8_t *bits, uint32_t from, uint32_t n); /* the same on the bytes of a bitmap block */
void fs_dbits_set(uint8_t *bits, uint32_t from, uint32_t n, bool to);

/* ---- alloc_region.c ---- */
struct fs_place { /* an address taken apart */
	uint32_t region, off;
	unsigned disk;
};
bool fs_alloc_place(struct fs *fs, fs_addr a, uint32_t subs, struct fs_place *out); /* false: not in any region */
/* The same of what was taken: a node that was thrown out meanwhile may have learnt that the disk holds nothing any more. */
bool fs_alloc_place_taken(struct fs *fs, fs_addr a, uint32_t subs, struct fs_place *out);
fs_addr fs_chunk_addr(struct fs *fs, unsigned disk, uint32_t region);
uint32_t fs_disk_chunks(const struct fs_disk_ent_disk *e); /* that may be used */
bool fs_chunk_exists(struct fs *fs, unsigned disk, uint32_t region);
struct fs_bitmap_disk *fs_bitmap_of(struct fs_buf *b);
/* Region EX pinned: reads and checks the bitmaps, settles a type change that was cut short. */
int fs_region_load(struct fs *fs, uint32_t id, struct fs_region **out) TS_MUST_CHECK;
int fs_region_set_type(struct fs *fs, struct fs_region *r, enum fs_region_type type) TS_MUST_CHECK;
bool fs_region_empty(const struct fs_region *r);
bool fs_region_fits(struct fs *fs, struct fs_region *r, unsigned cls, uint32_t subs);
void fs_region_gain(struct fs *fs, struct fs_region *r, const struct fs_chunk *c, int64_t subs); /* usable space of it came or went */
void fs_hint_from(struct fs_region_hint *h, const struct fs_region *r);
void fs_hint_retry(struct fs_region_hint *h); /* space came back: what did not fit may fit now */
void fs_alloc_gen_all(struct fs_alloc *a);
void fs_region_install(struct fs *fs, struct fs_region *r);
void fs_region_unlist(struct fs *fs, struct fs_region *r);
void fs_region_free(struct fs *fs, struct fs_region *r); /* unlisted or never listed, nothing taken */
bool fs_disk_takes(struct fs *fs, unsigned disk, enum fs_region_type type); /* FREE: may have chunks of regions of no type yet */
uint64_t fs_region_room(struct fs *fs, uint32_t region, enum fs_region_type type); /* sub-blocks of it that such a region could give out */
uint64_t fs_region_room_of(struct fs *fs, uint32_t region, unsigned cls);	   /* the same, of one class */
int fs_alloc_ring(struct fs *fs) TS_MUST_CHECK; /* the disks changed: who takes what */
/* Runs fn(arg, 0..n-1) on up to 16 fibers; first error. */
int fs_par_run(struct fs *fs, const char *name, unsigned n, int (*fn)(void *arg, unsigned i), void *arg) TS_MUST_CHECK;
/* The reaper: clears the bits and ends the intents (FREE, all of one region, marked busy). -EAGAIN with TOK_QUICK. */
int fs_alloc_apply_frees(struct fs *fs, uint32_t region, struct fs_intent **in, unsigned n, unsigned tok_flags, unsigned *done) TS_MUST_CHECK;

/* ---- alloc_hint.c ---- */
int fs_alloc_hint_read(struct fs *fs, uint32_t region, bool all) TS_MUST_CHECK;
bool fs_alloc_can_take(struct fs *fs, unsigned cls, uint32_t subs);

/* ---- space.c, space_ask.c: free space of the whole file system ---- */
#define FS_MSG_SPACE	 0x203
#define FS_SPACE_REGIONS 4096u /* told in one answer at most */
struct fs_seen { /* a region as last told, or as it lies on disk */
	uint32_t free, whole; /* whole: of free, in whole blocks */
	uint32_t pfree[FS_POOLS], pwhole[FS_POOLS];
	uint8_t type;
	bool known, stale; /* stale: this node changed it since, the numbers are about right */
};
struct fs_seen_table { /* of one block of the segment table */
	uint32_t free;
	uint8_t made;
	bool known;
};
struct fs_seg_free {
	uint64_t seg;
	uint32_t free;
};
struct fs_space_peer {
	uint64_t since, mute_until;
	uint64_t coming[3]; /* by type: freed, not yet in the bitmaps */
	struct fs_seg_free segs[FS_SEG_MAX_OWNED];
	unsigned nsegs;
};
struct fs_space {
	struct ts_mutex lock;
	struct fs_seen *seen;	     /* [nregions] */
	struct fs_seen_table *table; /* [fs_segtab_blocks] */
	struct fs_space_peer *peer[QUORUM_MAX_NODES]; /* by place in the group's view */
	unsigned npeers;
	uint64_t epoch, when, table_when, table_next;
	uint32_t next;
	bool looked;
};
/* This node changed the free space of a region: freed so much. Cheap, never waits. */
void fs_space_changed(struct fs *fs, uint32_t region, uint32_t freed);
/* A region as this node's memory or the disk has it. Waits for the disk. */
int fs_space_region(struct fs *fs, uint32_t region, struct fs_seen *out) TS_MUST_CHECK;
void fs_space_coming(struct fs *fs, uint64_t coming[3]); /* of this node */
struct fs_seen fs_space_owned(struct fs *fs, const struct fs_region *r);
/* Space is short here: what is known of the regions becomes what all nodes say now. *coming: what others have still to free. */
int fs_space_to_hints(struct fs *fs, uint64_t *coming) TS_MUST_CHECK;
struct fs_freeing { /* on the stack of who frees, in fs_alloc.freeing: its blocks count as free by and by */
	struct ts_list link;
	struct fs_inode *ip;
};
unsigned fs_space_segs(struct fs *fs, struct fs_seg_free out[FS_SEG_MAX_OWNED]);
void fs_space_fini(struct fs *fs);
/* Asks every other node that has it mounted what it changed since it was last asked. A node that does not answer in time is left out. */
int fs_space_ask_all(struct fs *fs, struct fs_space *s) TS_MUST_CHECK;
void fs_space_asked(struct fs *fs, struct net *n, const struct net_msg *m, uint64_t since); /* from the handler of messages */

/* ---- segtab.c ---- */
int fs_segtab_init(struct fs *fs) TS_MUST_CHECK;
void fs_segtab_fini(struct fs *fs);
uint64_t fs_segtab_blocks(const struct fs *fs);
int fs_segtab_block_addr(struct fs *fs, uint64_t blk, fs_addr *out) TS_MUST_CHECK;
/* A look without a token: may be stale, entries that are set are final. */
int fs_segtab_glance(struct fs *fs, uint64_t blk, struct fs_segtab_disk *copy) TS_MUST_CHECK;
int fs_segtab_refresh(struct fs *fs, uint64_t blk) TS_MUST_CHECK; /* the block as it is, read under its token */
void fs_segtab_note(struct fs *fs, uint64_t seg, fs_addr a);
int fs_segtab_hint_set(struct fs *fs, uint64_t seg, uint32_t used, bool relative) TS_MUST_CHECK; /* relative: used is subtracted */

/* ---- ialloc.c ---- */
enum fs_slot_state { FS_SLOT_NONE, FS_SLOT_CAND, FS_SLOT_READY, FS_SLOT_PENDING };
struct fs_ino_slot {
	struct ts_list link; /* ready or pending */
	uint64_t lsn;	     /* PENDING: stable up to here makes it ready */
	uint32_t gen;	     /* of the free inode */
	uint8_t state;
};
struct fs_seg {
	struct ts_map_node node;
	struct ts_list link;
	uint64_t id;
	fs_addr addr;
	unsigned count[4]; /* slots by state */
	unsigned busy;	   /* fibers that work on it across waits */
	bool dead;	   /* token left: freed by the last busy user */
	bool told_full;	   /* the table's hint says that no inode is free */
	struct fs_ino_slot slot[FS_SEG_INODES];
};
#define FS_FREED_SLOTS 256
struct fs_ialloc {
	struct ts_map map;
	struct ts_list segs, ready, pending;
	unsigned nsegs, nready, npending;
	uint64_t tab_cursor; /* table block where we look next */
	uint64_t full_until;
	struct ts_mutex lock;
	struct ts_cond wake;
	bool kicked;
	struct {
		uint64_t seg;
		uint32_t count;
	} freed[FS_FREED_SLOTS]; /* inodes freed in segments of others, for their used_hint */
};
int fs_ialloc_refill(struct fs *fs) TS_MUST_CHECK;
int fs_ialloc_await(struct fs *fs) TS_MUST_CHECK;
void fs_ialloc_fiber(void *fs);
struct fs_seg *fs_seg_find(struct fs *fs, uint64_t id);
struct fs_seg *fs_seg_add(struct fs *fs, uint64_t id, fs_addr a);
void fs_seg_drop(struct fs *fs, struct fs_seg *s);
void fs_seg_done(struct fs *fs, struct fs_seg *s); /* end of busy */
void fs_slot_set(struct fs *fs, struct fs_seg *s, unsigned i, enum fs_slot_state to, bool front);
int fs_seg_prefill(struct fs *fs, unsigned want) TS_MUST_CHECK; /* candidates become ready */
int fs_seg_claim(struct fs *fs, uint64_t id, uint32_t hint, unsigned tok_flags) TS_MUST_CHECK; /* number of candidates or -errno */
int fs_seg_make(struct fs *fs) TS_MUST_CHECK;

/* ---- inode.c, reaper.c ---- */
void fs_icache_fiber(void *fs);
void fs_icache_wake(struct fs *fs);
void fs_inode_forget_freed(struct fs *fs, struct fs_inode *ip); /* its block says mode 0 now */
void fs_reaper_orphan(struct fs *fs, uint64_t number, uint64_t ino, uint32_t gen);
/* Space is short: applies what can be freed, waits for it until the deadline. No pins held. */
int fs_reaper_urgent(struct fs *fs, uint64_t wait_ns) TS_MUST_CHECK;
void fs_reaper_crowd(struct fs *fs); /* too many intents: those that are there are worked off at once */
int fs_orphan_run(struct fs *fs, uint64_t number, uint64_t ino, uint32_t gen) TS_MUST_CHECK; /* -EAGAIN: somebody has it open */

#endif
