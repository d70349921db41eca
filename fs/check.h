/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the checker share; nothing else includes this. docs/fsck.md explains the steps.
 *
 * Laws of the checker:
 *  C1 Every change goes through chk_write: to the disk when repairing, else into an overlay in memory. So a look without repair sees
 *     after each step what a repair would have left, and both say the same.
 *  C2 No bit of a bitmap is cleared before everything that refers to space was judged; references go first, space last.
 *  C3 Bytes from disk are hostile: no length, address, height or count is used before it was compared with what can be.
 *  C4 Everything a step needs is bounded by args->memory_bound, or the checker refuses and says how much it needs. */
#ifndef TESSERA_FS_CHECK_H
#define TESSERA_FS_CHECK_H

#include "fs/disks.h"
#include "fs/dir_int.h"

#include <dirent.h>

#define CHK_VERSION_MAX (1ULL << 62) /* a Lamport time beyond this was never given */
#define CHK_MAX_HEIGHT	7u	     /* of a block map */
#define CHK_FAN		84u
#define CHK_FIBERS	16u
#define CHK_DIR_LEVELS	(FS_DIR_MAX_DEPTH / 6 - 1) /* index nodes on a path */

/* ---- what is known of an inode: 24 bytes each ---------------------------------------------------------------------- */
enum {
	CI_NAMED = 1,	  /* directory: an entry in its parent was found */
	CI_ORPHAN = 2,	  /* says so itself */
	CI_DEAD = 4,
	CI_DOUBT = 8,	  /* directory: has entries to be decided when all names are known */
	CI_REACHED = 16,  /* directory: connected to the root */
	CI_INTENT = 32,	  /* a live ORPHAN intent */
	CI_LOST = 64,	  /* to be put into lost+found */
	CI_MET = 128,	  /* scratch */
	CI_MOVED = 256,	  /* parent is another than on disk */
};
struct chk_ino {
	uint32_t gen;
	uint32_t nlink; /* as the inode says */
	uint32_t seen;	/* names; directories: subdirectories */
	uint16_t flags;
	uint8_t type; /* DT_*, 0 = free */
	uint8_t reserved;
	uint64_t parent; /* directories */
};
_Static_assert(sizeof(struct chk_ino) == 24, "inode table entry");
struct chk_seg {
	uint64_t id;
	fs_addr addr;
	struct chk_ino *ino; /* [FS_SEG_INODES] */
};

struct chk_disk {
	struct nsd_dev *dev;
	uint64_t size_subs, region_start;
	uint32_t nchunks;
	bool dirty; /* written and not flushed */
	bool lost;  /* blank, in the place of one that is gone */
};
struct chk_intent {
	uint32_t slot, type, subs;
	uint64_t number, a, b;
};
struct chk_range {
	fs_addr addr;
	uint64_t subs;
};
struct chk_slot {
	fs_addr addr;
	struct fs_loghead_disk head; /* the good copy that counts */
	uint64_t end;		     /* behind the last frame found */
	uint64_t adopted_by;	     /* intents void: another log has them */
	bool good, live;
};

struct chk_set { /* of addresses */
	fs_addr *v;
	size_t n, room;
};
struct chk_space;
struct chk {
	const struct fs_check_args *a;
	struct fs_check_result *out;
	char *err;
	size_t errlen;
	struct ts_exec *exec;
	bool repair;
	unsigned fibers;
	/* geometry, believed after chk_super */
	struct fs_super_disk super;
	struct fs_disk_ent_disk *ents;
	struct chk_disk *disk;
	unsigned ndisks;
	uint32_t block_subs, region_subs, nregions, nslots, log_subs;
	struct chk_slot *slot;
	/* blocks changed in memory only */
	struct ts_map overlay;
	uint64_t overlay_n, overlay_max;
	bool overlay_full;
	/* versions */
	uint64_t clock; /* the highest given by any log, or here */
	uint64_t seen;	/* the highest found on a block */
	bool wrote;
	/* memory */
	uint64_t mem_used, mem_bound;
	/* inodes */
	struct chk_seg *seg;
	size_t nseg, seg_room;
	bool searched, want_search;
	uint64_t lost_found; /* inode of lost+found, once known */
	/* intents */
	struct chk_intent *intent; /* by address */
	size_t nintent, intent_room;
	uint8_t *rtype; /* [nregions] what the bitmaps said first, 0xff: unknown */
	struct chk_space *space;
	/* metadata blocks kept for repair: in use on disk, referenced by nobody yet */
	fs_addr *pool;
	size_t npool, pool_want;
	uint64_t nlost;
	unsigned round;
	uint64_t round_findings;
	const char *step;
};

/* ---- check.c ---- */
/* One finding. Text: "object: what is wrong -> what is done". fixed: a repair exists (and is made when repairing). */
void chk_found(struct chk *c, bool fixed, const char *fmt, ...) TS_PRINTF(3, 4);
int chk_fail(struct chk *c, int rc, const char *fmt, ...) TS_PRINTF(3, 4); /* fills errmsg, returns rc */
void chk_step(struct chk *c, const char *step, uint64_t done, uint64_t all);
void *chk_alloc(struct chk *c, size_t n); /* zeroed, counted against the bound; NULL: chk_fail was called */
void chk_free(struct chk *c, void *p, size_t n);
/* fn(arg, 0..n-1) on args->threads fibers; first error. */
int chk_par(struct chk *c, uint64_t n, int (*fn)(struct chk *c, void *arg, uint64_t i), void *arg) TS_MUST_CHECK;

/* ---- check_io.c ---- */
bool chk_addr_ok(const struct chk *c, fs_addr a, uint64_t subs); /* on a disk, behind the labels */
/* Reads through the overlay. A sub-block that cannot be read is a finding and comes as zeros. */
int chk_read(struct chk *c, fs_addr a, void *buf, size_t subs) TS_MUST_CHECK;
/* One metadata block: new version, checksum. */
int chk_write(struct chk *c, fs_addr a, void *block) TS_MUST_CHECK;
int chk_put(struct chk *c, fs_addr a, const void *block) TS_MUST_CHECK; /* as it is */
int chk_flush(struct chk *c) TS_MUST_CHECK;
int chk_overlay_home(struct chk *c) TS_MUST_CHECK; /* repairing: what the logs left goes to the disks */
void chk_overlay_free(struct chk *c);
void *chk_page(void); /* 4 KiB, aligned; ts_free */
static inline bool chk_zero(const void *p, size_t n)
{
	const uint8_t *b = p;

	return !n || (!b[0] && !memcmp(b, b + 1, n - 1));
}
static inline bool chk_zero_ptr(const struct fs_bptr_disk *p)
{
	return !p->addr[0].v && chk_zero(p, sizeof(*p));
}
void chk_zero_block(struct chk *c, void *block, enum fs_block_type type, enum tok_kind kind, fs_addr a, uint64_t res_id, uint32_t gen);

/* Header of a block that lies at a. place: it can be nowhere else (inodes, bitmaps, tables); else something pointed to it.
 * CHK_FIXED: the header was corrected in memory, a finding was made, write it; CHK_NOT: not this block. */
enum chk_verdict { CHK_OK, CHK_FIXED, CHK_NOT };
struct chk_want {
	enum fs_block_type type;
	enum tok_kind kind;
	fs_addr addr;
	uint64_t res_id;
	bool place;
	bool quiet;	  /* only the verdict: no finding, no change */
	const char *what; /* of findings: "inode 7", ... */
};
enum chk_verdict chk_judge(struct chk *c, void *block, const struct chk_want *w);

/* ---- check_super.c, check_disks.c ---- */
int chk_super(struct chk *c) TS_MUST_CHECK;
int chk_disks(struct chk *c) TS_MUST_CHECK;	/* labels, disk table */
int chk_slots(struct chk *c) TS_MUST_CHECK;	/* slot table, overlaps in the system area */
/* Copies of one block at several addresses: which one counts, and those that differ are rewritten. */
struct chk_copies {
	enum fs_block_type type;
	const char *what;
	const fs_addr *at;
	unsigned n;
	bool (*sane)(struct chk *c, const void *block, void *arg);
	bool (*there)(struct chk *c, const void *block, void *arg); /* what it names is where it says; where no majority decides */
	bool by_gen; /* only those changed most often (res_gen) count: a change goes to disk 0 first, and may not have come to the others */
	void *arg;
	const uint8_t *fs_id8; /* NULL: any */
};
int chk_copies(struct chk *c, const struct chk_copies *k, void *best) TS_MUST_CHECK; /* -EUCLEAN: none */

/* ---- check_log.c, check_replay.c ---- */
int chk_logs(struct chk *c, bool force_offline) TS_MUST_CHECK;
int chk_logs_close(struct chk *c) TS_MUST_CHECK; /* headers: CLEAN, no intents, clock */

/* ---- check_scan.c ---- */
int chk_segments(struct chk *c) TS_MUST_CHECK; /* segment table */
int chk_inodes(struct chk *c) TS_MUST_CHECK;
void chk_segments_free(struct chk *c);
struct chk_ino *chk_ino(struct chk *c, uint64_t ino); /* NULL: no such segment */
fs_addr chk_ino_addr(struct chk *c, uint64_t ino);    /* 0: none */
int chk_ino_read(struct chk *c, uint64_t ino, struct fs_inode_disk *d) TS_MUST_CHECK;
int chk_ino_write(struct chk *c, uint64_t ino, struct fs_inode_disk *d) TS_MUST_CHECK;
void chk_ino_free(struct chk *c, uint64_t ino, struct fs_inode_disk *d); /* in memory: becomes a free inode */
int chk_segment_search(struct chk *c, bool *found) TS_MUST_CHECK;
int chk_region_types(struct chk *c) TS_MUST_CHECK;
bool chk_in_region(const struct chk *c, fs_addr a, uint64_t subs, uint32_t *region, uint32_t *off);
bool chk_meta_region(const struct chk *c, fs_addr a); /* of a metadata region, as far as the bitmaps say */

/* ---- check_inode.c ---- */
/* All fields of one inode but names: *changed if the block must be written. */
int chk_inode(struct chk *c, uint64_t ino, struct fs_inode_disk *d, bool *changed) TS_MUST_CHECK;
uint8_t chk_dtype(unsigned mode);
struct chk_look { /* at one inode */
	struct chk *c;
	uint64_t ino;
	struct fs_inode_disk *d;
	bool *changed;
	unsigned rest;	     /* bytes of a symlink target in the attribute block */
	uint64_t xattr_subs; /* of the blocks and values of its attributes */
};
#define CHK_WRONG(l, ...) (chk_found((l)->c, true, __VA_ARGS__), *(l)->changed = true)
#define CHK_INO(l)	  ((unsigned long long)(l)->ino)
unsigned chk_front(const struct fs_inode_disk *d); /* bytes of the payload in front of the attributes */
void chk_front_fits(struct chk_look *l);

/* ---- check_xattr.c ---- */
int chk_xattrs(struct chk_look *l) TS_MUST_CHECK;
int chk_xattr_subs(struct chk *c, uint64_t ino, struct fs_inode_disk *d, uint64_t *subs) TS_MUST_CHECK; /* of blocks and values */
/* Blocks and values; a value whose pointer the visitor clears is removed. */
struct chk_visit;
int chk_xattr_walk(struct chk *c, uint64_t ino, struct fs_inode_disk *d, const struct chk_visit *v, bool *changed) TS_MUST_CHECK;

/* ---- check_map.c ---- */
int chk_set_add(struct chk_set *s, fs_addr a) TS_MUST_CHECK; /* 1: new, 0: was there, -ENOMEM */
void chk_set_free(struct chk_set *s);
struct chk_map {
	uint64_t ino, subs;	/* of all blocks */
	uint64_t start, end;	/* bytes of the last written block; end 0: none */
	bool changed;		/* the inode's own pointers */
	unsigned pool;	  /* of the file */
	uint64_t outside; /* out: data blocks in another one */
};
int chk_map(struct chk *c, uint64_t ino, struct fs_inode_disk *d, struct chk_map *m) TS_MUST_CHECK;
bool chk_bptr_sane(const struct chk *c, const struct fs_bptr_disk *p, bool data, const char **why);
/* Every block of an inode's map, directory tree and xattrs; meta: 1 sub. Pointer in a block (or the inode: at = 0) that may be cleared
 * by the visitor: *changed then. For files only, idx is the block's index. */
struct chk_visit {
	int (*block)(struct chk *c, void *arg, uint64_t ino, struct fs_bptr_disk *p, bool meta, uint64_t idx, bool *changed);
	void *arg;
};
int chk_walk(struct chk *c, uint64_t ino, struct fs_inode_disk *d, const struct chk_visit *v, bool *changed) TS_MUST_CHECK;
uint64_t chk_pow84(unsigned n);

/* ---- check_tree.c: the tree of one directory: pointers, depths, prefixes, shared slots ---- */
struct chk_leaf { /* one run of records: of a leaf, or of the inode (depth 0) */
	uint64_t dir;
	struct dir_ents e;
	uint64_t prefix;
	unsigned depth, count; /* live records, set by fn */
	bool changed;	       /* by fn */
};
typedef int (*chk_leaf_fn)(struct chk *c, void *arg, struct chk_leaf *l);
struct chk_tree {
	uint64_t dir;
	uint32_t gen;
	uint64_t subs, count; /* out: blocks, entries */
	bool changed;	      /* out: the inode */
	chk_leaf_fn fn;
	void *arg;
	struct chk_set set;
};
int chk_tree(struct chk *c, struct fs_inode_disk *d, struct chk_tree *t) TS_MUST_CHECK;

/* ---- check_ents.c: records of a run ---- */
uint64_t chk_name_hash(const struct chk *c, const char *name, size_t len);
/* Makes the chain of records sound, names legal and unique, hashes true, collision numbers unique; what cannot stay is removed. */
int chk_ents_mend(struct chk *c, struct chk_leaf *l) TS_MUST_CHECK;
bool chk_hash_fits(uint64_t hash, uint64_t prefix, unsigned depth);
/* Live records whose name's hash fits / all live ones; lenient, for votes. */
void chk_ents_vote(const struct chk *c, const uint8_t *p, unsigned len, uint64_t prefix, unsigned depth, unsigned *fit, unsigned *all);

/* ---- check_dir.c ---- */
int chk_dirs(struct chk *c) TS_MUST_CHECK;	  /* every directory's names */
int chk_dirs_decide(struct chk *c) TS_MUST_CHECK; /* doubtful entries, when all names are known */
int chk_unname(struct chk *c, uint64_t dir, uint64_t ino) TS_MUST_CHECK; /* removes the entry that names ino */

/* ---- check_link.c, check_lost.c, check_insert.c ---- */
int chk_root(struct chk *c) TS_MUST_CHECK;
int chk_connect(struct chk *c) TS_MUST_CHECK;	 /* loops, unreachable, orphans */
int chk_lost_found(struct chk *c) TS_MUST_CHECK; /* inserts what is lost */
int chk_links(struct chk *c) TS_MUST_CHECK;	 /* counts, flags, parents written */
int chk_insert(struct chk *c, uint64_t dir, const char *name, size_t len, uint64_t ino) TS_MUST_CHECK; /* -EEXIST, -ENOSPC */
int chk_lookup(struct chk *c, uint64_t dir, const char *name, size_t len, uint64_t *ino) TS_MUST_CHECK; /* -ENOENT */
int chk_intent_add(struct chk *c, const struct chk_intent *it) TS_MUST_CHECK;
void chk_intent_sort(struct chk *c);

/* ---- check_space.c, check_double.c, check_bitmap.c ---- */
struct chk_space { /* of one pass: regions [first, end) of every disk */
	uint32_t first, end, words; /* words: per chunk */
	uint64_t *bits;		    /* [end - first][ndisks][words] */
	uint32_t *nmeta, *ndata;    /* [end - first] */
	fs_addr *twice;		    /* sub-blocks met more than once, sorted when marking is over */
	size_t ntwice, twice_room;
};
#define CHK_TWICE_MAX (1u << 18)
int chk_space(struct chk *c) TS_MUST_CHECK;
int chk_pool_return(struct chk *c) TS_MUST_CHECK;
uint64_t *chk_space_bits(struct chk *c, uint32_t region, unsigned disk);
int chk_walk_all(struct chk *c, const struct chk_visit *v) TS_MUST_CHECK;
int chk_doubles(struct chk *c) TS_MUST_CHECK; /* names owners, decides, clears pointers */
int chk_bitmaps(struct chk *c) TS_MUST_CHECK; /* compares and repairs the pass */

#endif
