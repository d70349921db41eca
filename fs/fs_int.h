/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of fs/ share. Laws (see fs/README.md):
 *
 *  1. One executor per file system: code between two waits is atomic. A transaction is begun, filled and committed
 *     without waiting: every buffer it touches was read (pinned) before, every block it uses was taken before.
 *  2. Pins of tokens are taken in ascending (kind, id) order. Nothing waits for TOK_REGION, TOK_SEGMENT or TOK_SEGTAB while it
 *     holds a pin: an operation that finds no space or no free inode returns -FS_NEED_SPACE / -FS_NEED_INODE, its wrapper
 *     drops all pins, refills, and starts again.
 *  3. Data before pointer: a block's data write has completed, and its disk was flushed, before the frame with the
 *     transaction that points to it is written.
 *  4. Log before home: a dirty metadata buffer is written home only when its last change is stable in the log.
 *  5. A token leaves only when the log is stable up to its last change, its dirty buffers are home and flushed.
 *  6. A dirty page in the pool implies DATA EX of its block. It also implies INODE EX, unless it was written under INODE SW
 *     (share.c). A revoke of EX, or of DATA, writes the data back first. Dirty (lazy) times and size in struct fs_inode imply
 *     INODE EX, or SW: then they go to the next who has EX, as a value. Inode and map change under INODE EX only.
 *  7. Freed space is used again only after the freeing transaction is stable: frees are intents in the freer's own log,
 *     applied to the bitmap later by fs_reaper under TOK_REGION, in one transaction with the intent's end.
 *  8. An inode is free when its block says mode == 0; its allocation state lives in the inode block under the inode's own
 *     token, so another node's unlink needs no message to the segment's owner (which rediscovers it by scanning).
 */
#ifndef TESSERA_FS_FS_INT_H
#define TESSERA_FS_FS_INT_H

#include "fs/fs.h"
#include "fs/format.h"

enum { FS_NEED_INODE = 4102, FS_NEED_META = 4103, FS_NEED_EX = 4104 /* share.c */, FS_NEED_SPACE = 4112 /* and the number of the pool */ };
static inline bool fs_needs_space(int64_t rc) { return rc <= -FS_NEED_SPACE && rc > -(FS_NEED_SPACE + (int)FS_POOLS); }

/* ======== recprog.c: where a recovery stands ======================================================================= */
#define FS_REC_PAST 16
struct fs_recovery {
	struct fs_recovery_info now;
	uint64_t step_ns[FS_REC_STEPS];
	struct fs_recovered past[FS_REC_PAST];
	uint64_t npast;
	bool cannot_fence; /* the last attempt ended there: it is tried for ever, for only people can help */
	unsigned fault_fence;
};

/* ======== io.c: addresses to disks ================================================================================ */
struct fs_disk {
	struct fs *fs;
	struct nsd_dev *dev;
	struct fs_disk_ent_disk ent;
	uint64_t write_gen;   /* writes completed */
	uint64_t data_gen;    /* write_gen after the last write of file data */
	uint64_t flushed_gen; /* writes up to here are stable */
	uint64_t flush_target; /* write_gen when the flush in flight began */
	uint64_t losses;      /* nsd_losses() under the oldest write that is not stable */
	bool flushing;
	int flush_rc; /* of the last flush */
	uint64_t full_until;  /* no region had room on it: stripes leave it out */
	uint32_t search_at;   /* region where room on it was found last */
	struct nsd_req flush_req;
	struct ts_cond flush_cond;
};
const char *fs_pool_name_of(const struct fs_super_disk *s, unsigned pool); /* NULL: no pool has the number */
unsigned fs_pool_known(const struct fs *fs, unsigned pool); /* itself, or 0 for what is none */
unsigned fs_disk_pool(const struct fs *fs, unsigned disk);
bool fs_disk_holds(const struct fs *fs, unsigned disk); /* READY or DRAINING: things may lie on it */
enum fs_disk_state fs_disk_state(const struct fs *fs, unsigned disk); /* GONE: there is none of that number */
int fs_io_read(struct fs *fs, fs_addr a, void *buf, size_t bytes) TS_MUST_CHECK;	 /* aligned buf; waits */
int fs_io_write(struct fs *fs, fs_addr a, const void *buf, size_t bytes) TS_MUST_CHECK; /* file data: law 3 */
int fs_io_write_meta(struct fs *fs, fs_addr a, const void *buf, size_t bytes) TS_MUST_CHECK; /* the same, outside law 3 (homes, logs) */
/* Asynchronous; done on the executor. req embedded by the caller. */
void fs_io_submit(struct fs *fs, struct nsd_req *r, enum nsd_op op, fs_addr a, const struct iovec *iov, int iovcnt,
		  void (*done)(struct nsd_req *, int), void *arg);
/* The same for homes and logs: does not make law 3 flush. */
void fs_io_submit_meta(struct fs *fs, struct nsd_req *r, enum nsd_op op, fs_addr a, const struct iovec *iov, int iovcnt,
		       void (*done)(struct nsd_req *, int), void *arg);
/* While the node is suspended, writes wait in io.c; a write that the gate refused is sent again when the gate is open. A conflict
 * with the gate open (-TS_ERR_FENCED), and everything after fs_stop (-EIO), comes back. */
int fs_io_flush_all(struct fs *fs) TS_MUST_CHECK;  /* every disk with completed writes that are not stable, in parallel */
int fs_io_flush_data(struct fs *fs) TS_MUST_CHECK; /* only disks with unstable file data: law 3 */
int fs_io_flush_addr(struct fs *fs, fs_addr a) TS_MUST_CHECK; /* the disk of this address */
void fs_io_resume(struct fs *fs); /* suspension ended, or the node stopped */
int fs_io_check_addr(const struct fs *fs, fs_addr a, uint64_t subs) TS_MUST_CHECK; /* -EUCLEAN: on no disk, or among the labels */

/* ======== mdhdr.c: the header of every metadata block ============================================================== */
void fs_mdhdr_fill(void *block, const uint8_t fs_id8[8], enum fs_block_type type, enum tok_kind kind, fs_addr a, uint64_t res_id,
		   uint32_t res_gen);
void fs_mdhdr_seal(void *block, uint64_t incarnation, uint64_t version); /* these two fields, then the checksum */
/* NULL, or what is wrong: "magic", "checksum", "address", "file system", "type". type 0: any known type. */
const char *fs_mdhdr_wrong(const void *block, const uint8_t fs_id8[8], enum fs_block_type type, fs_addr a);
static inline uint64_t fs_mdhdr_version(const void *block) { return le64_get(((const struct fs_mhdr_disk *)block)->version); }

/* ======== buf.c: metadata buffers, one 4 KiB block each ============================================================ */
struct fs_buf {
	struct ts_map_node node;
	fs_addr addr;
	uint8_t *data;		/* 4096, aligned; begins with fs_mhdr_disk */
	enum tok_kind res_kind;
	uint64_t res_id;
	unsigned pins;
	bool uptodate, dirty, reading, detached;
	bool writing;		/* home write or its flush under way */
	bool cold;		/* not pinned, and not to be kept when it is clean */
	bool fresh;		/* from fs_buf_new, not committed yet: whole image */
	bool forgotten;		/* freed while its home write was under way */
	bool redirtied;		/* changed since the home write in flight took its copy */
	struct fs_tx *tx;	/* in this open transaction */
	uint8_t *before;	/* copy from fs_tx_buf, for the delta */
	uint64_t version;	/* of data */
	uint64_t first_lsn;	/* of the first change since home: holds the log's tail */
	uint64_t next_first_lsn; /* redirtied: first_lsn once the home write is stable */
	uint64_t last_lsn;	/* must be stable before home */
	struct fs_buf_res *res;
	struct ts_list res_link;  /* buffers of one resource */
	struct ts_list dirty_link; /* by first_lsn */
	struct ts_list lru_link;
	struct ts_list tx_link;
	struct ts_cond cond;
};
/* Reads (or finds) the block and pins it. Verifies magic, own address, fs id, checksum, type and resource: -EUCLEAN if wrong,
 * with a line in the log. */
int fs_buf_get(struct fs *fs, fs_addr a, enum fs_block_type type, enum tok_kind kind, uint64_t res_id, struct fs_buf **out) TS_MUST_CHECK;
/* A block about to be made: zeroed, header filled, no read; goes into a transaction by fs_tx_buf as a whole image. */
int fs_buf_new(struct fs *fs, fs_addr a, enum fs_block_type type, enum tok_kind kind, uint64_t res_id, uint32_t res_gen, struct fs_buf **out) TS_MUST_CHECK;
void fs_buf_put(struct fs *fs, struct fs_buf *b);
void fs_buf_put_cold(struct fs *fs, struct fs_buf *b); /* its user has kept it long enough: the next to be evicted */
struct fs_buf *fs_buf_peek(struct fs *fs, fs_addr a); /* if cached and uptodate: pinned; else NULL; never waits */
/* The block was freed: nobody writes it home any more (its log records stay, versions protect). Call after commit. */
void fs_buf_forget(struct fs *fs, fs_addr a);
/* Law 5 for one resource: force log, write home, flush. Then, if drop, forget the clean buffers. Waits. */
int fs_buf_clean_resource(struct fs *fs, enum tok_kind kind, uint64_t res_id, bool drop) TS_MUST_CHECK;
/* Reads blocks of inodes into the cache, neighbours in one request and all requests at once. w ascends by address, and INODE of
 * each is held here at the call: until the last read has begun nothing waits. Waits for the reads. Blocks that cannot be had are left out. */
#define FS_PREFETCH_MAX	 256 /* blocks */
#define FS_PREFETCH_RUN	 64  /* blocks in one request */
#define FS_PREFETCH_HOLE 4u  /* blocks between two that are read for nothing, so that it is one request */
struct fs_buf_want {
	fs_addr addr;
	uint64_t ino;
};
struct fs_prefetch_run {
	struct fs_prefetch *p;
	struct nsd_req req;
	fs_addr addr;
	unsigned n;
	struct fs_buf *b[FS_PREFETCH_RUN]; /* NULL: a hole */
	struct iovec iov[FS_PREFETCH_RUN];
};
struct fs_prefetch {
	struct fs *fs;
	struct ts_cond cond;
	unsigned in_flight;
	uint8_t *hole; /* FS_SUB, aligned */
	struct fs_prefetch_run run[FS_PREFETCH_MAX];
};
void fs_buf_prefetch_inodes(struct fs *fs, struct fs_prefetch *p, const struct fs_buf_want *w, unsigned n);

/* ======== ahead.c: tokens and blocks of inodes that are likely to be wanted next =================================== */
int fs_ahead_init(struct fs *fs) TS_MUST_CHECK;
void fs_ahead_fini(struct fs *fs);
/* Call-backs of tokens/: a pin waits for another node; what became of a guess; may another node's guess be granted? */
void fs_ahead_missed(void *fs, enum tok_kind kind, uint64_t id, enum tok_mode mode);
void fs_ahead_news(void *fs, enum tok_kind kind, uint64_t id, enum tok_mode mode, enum tok_ahead_news news);
bool fs_ahead_ok(void *fs, enum tok_kind kind, uint64_t id);
struct fs_dirent;
/* A listing that goes on at `cookie` is about to tell this entry: its order is likely to be that of what is looked at next. */
void fs_ahead_listed(struct fs *fs, uint64_t dir, uint64_t cookie, const struct fs_dirent *e);
bool fs_inode_open_here(struct fs *fs, uint64_t ino); /* or known to be free */

/* ======== tx.c, log.c ============================================================================================== */
struct fs_tx {
	struct fs *fs;
	struct ts_list bufs;
	uint8_t *recs;	    /* records beside buffers (intents) */
	size_t recs_len, recs_cap;
	uint64_t lsn;	    /* after commit: force up to here makes it stable */
	bool open;
	unsigned nintents;
};
/* Waits until the log has room for `bytes` more (default a generous bound per transaction). May be called with pins held:
 * making room needs no token. Must precede fs_tx_begin without a wait in between. bytes 0 = 64 KiB. */
int fs_log_reserve(struct fs *fs, size_t bytes) TS_MUST_CHECK;
/* The same for the reaper, who is not slowed down when many intents wait for it. */
int fs_log_reserve_reaper(struct fs *fs, size_t bytes) TS_MUST_CHECK;
void fs_tx_begin(struct fs *fs, struct fs_tx *tx);
void fs_tx_buf(struct fs_tx *tx, struct fs_buf *b); /* b (pinned, uptodate) will change: call before the first change */
uint64_t fs_tx_intent(struct fs_tx *tx, enum fs_intent_type type, uint32_t subs, uint64_t a, uint64_t b); /* returns its number */
void fs_tx_intent_done(struct fs_tx *tx, uint64_t number);
/* Cannot fail and does not wait: versions, deltas, dirty marks; returns the LSN. Buffers stay pinned by the caller. */
uint64_t fs_tx_commit(struct fs_tx *tx);
int fs_log_force(struct fs *fs, uint64_t lsn) TS_MUST_CHECK; /* waits; group commit; flushes data disks first (law 3) */
uint64_t fs_log_stable(const struct fs *fs);
uint64_t fs_log_head(const struct fs *fs); /* LSN that forces everything committed so far */
uint64_t fs_version_next(struct fs *fs); /* Lamport tick */
void fs_version_raise(struct fs *fs, uint64_t seen); /* by what is read from disk */

/* Live intents of this node's log, for the reaper. */
struct fs_intent {
	struct ts_list link;
	struct ts_map_node node;
	uint64_t number, lsn; /* lsn that made it: stable from there on (law 7) */
	uint64_t hold_lsn;    /* start of the frame that holds its newest record: holds the log's tail */
	enum fs_intent_type type;
	uint32_t subs;
	uint64_t a, b;
	bool busy; /* the reaper works on it: do not free this struct before its end is committed (re-logging is fine) */
};
struct ts_list *fs_log_intents(struct fs *fs); /* log.c: committed and not ended, oldest first (fs_intent.link) */

void fs_log_kick(struct fs *fs); /* wakes the log's background fiber (it ends when stopping_threads is set) */

/* ======== bare.c: a file system opened without membership, tokens or log: for mount, check and tests ================ */
struct fs_bare_args {
	struct ts_exec *exec;
	struct nsd_dev **disks; /* in disk_no order */
	unsigned ndisks;
	size_t meta_pool_bytes;
	/* Asked by replay for every block: fs_alloc_record_void. */
	int (*record_void)(struct fs *fs, fs_addr a, uint64_t record_version, bool *skip);
};
/* Labels, superblock, disk and slot tables are read and must agree; io and buffer cache are up. From a fiber. */
int fs_bare_new(const struct fs_bare_args *a, struct fs **out, char *errmsg, size_t errlen) TS_MUST_CHECK;
void fs_bare_free(struct fs *fs); /* does not wait; nothing may be in flight (or the executor was killed) */

/* format.c: both blocks in front of a chunk of no type, not sealed. */
void fs_chunk_head_fill(uint8_t buf[2 * FS_SUB], const uint8_t fs_id[16], unsigned disk, uint32_t region, uint64_t sub, uint32_t nsubs, uint32_t used);

/* ======== recover.c, super.c ======================================================================================= */
/* Seals and replays one slot's log, adopts its intents into our own log, marks it. Used at mount and on a node's death. */
struct fs_gaps;
int fs_recover_slot(struct fs *fs, uint32_t slot, unsigned node, uint64_t incarnation, struct fs_gaps *gaps) TS_MUST_CHECK;
/* For check and repair, on a bare file system, when no node has it mounted: replays every log that was not closed, in the
 * right order; live intents stay in their logs (state CLEAN). *count: logs replayed. */
int fs_recover_offline(struct fs *fs, unsigned *count) TS_MUST_CHECK;
int fs_slot_state(struct fs *fs, uint32_t slot, enum fs_log_state *state, unsigned *node, uint64_t *incarnation) TS_MUST_CHECK;
/* Live intents in any slot's log (blocks and inodes that are as good as free), without changing anything. */
int fs_slot_intents(struct fs *fs, uint32_t slot, void (*fn)(void *arg, const struct fs_intent *it), void *arg) TS_MUST_CHECK;

/* ======== alloc.c (space), ialloc.c (inodes), reaper.c ============================================================= */
struct fs_ext { /* taken, not yet in a transaction */
	fs_addr addr;
	uint32_t subs;
};
/* Takes subs contiguous sub-blocks from regions this node owns; never waits. meta: from metadata regions (subs 1 or
 * FS_SEG_INODES). Data: subs up to block size; a full block is aligned to block size; goal = address to be near, or 0;
 * spread over disks by `stripe` (block index). -FS_NEED_SPACE / -FS_NEED_META when owned regions have none. */
int fs_alloc_take(struct fs *fs, bool meta, uint32_t subs, fs_addr goal, uint64_t stripe, struct fs_ext *out) TS_MUST_CHECK;
/* The same for the data of a file: of its pool, spread over as many disks as its layout says while they have room. */
struct fs_layout_want {
	unsigned pool, width; /* width 0: all disks of the pool */
	uint64_t file, block;
};
int fs_alloc_take_data(struct fs *fs, const struct fs_layout_want *w, uint32_t subs, fs_addr goal, struct fs_ext *out) TS_MUST_CHECK;
/* The same for unlink, truncate and rename: may use the reserve of metadata that keeps deleting possible when all is full. */
int fs_alloc_take_reserve(struct fs *fs, uint32_t subs, fs_addr goal, struct fs_ext *out) TS_MUST_CHECK;
void fs_alloc_untake(struct fs *fs, const struct fs_ext *e); /* changed my mind before commit */
void fs_alloc_commit(struct fs *fs, struct fs_tx *tx, const struct fs_ext *e); /* sets the bits in this transaction */
/* Data, on that disk: -ENOSPC if owned regions have none there. */
int fs_alloc_take_on(struct fs *fs, uint32_t subs, unsigned disk, struct fs_ext *out) TS_MUST_CHECK;
/* No pins held: owned regions have so much there; -ENOSPC. */
int fs_alloc_refill_on(struct fs *fs, unsigned disk, uint32_t subs) TS_MUST_CHECK;
/* Disks came, went or changed their state: who takes what, and nothing is left that was taken before. No pins held. */
int fs_alloc_disks_changed(struct fs *fs) TS_MUST_CHECK;
/* Frees in this transaction: an intent; the space comes back later (law 7). */
void fs_alloc_free(struct fs *fs, struct fs_tx *tx, fs_addr a, uint32_t subs, uint64_t birth);
/* Gets more regions / inodes. No pins may be held. need: subs or inodes wanted. -ENOSPC when the file system is full. */
int fs_alloc_refill(struct fs *fs, int need_err) TS_MUST_CHECK;
struct fs_room {
	uint64_t total, free; /* subs */
	uint64_t data;	      /* of free: what files can get */
	uint64_t inodes, free_inodes;
};
/* As the whole cluster has it, at most FS_SPACE_AGE_MS old. Asks the other nodes; waits for disks and, not for long, for them. */
#define FS_SPACE_AGE_MS 250u
int fs_alloc_statfs(struct fs *fs, struct fs_room *out) TS_MUST_CHECK;
struct fs_pool_room {
	uint64_t total, free; /* subs that files can have; free: in whole blocks */
	unsigned disks;	      /* that take data */
};
int fs_pools_room(struct fs *fs, struct fs_pool_room out[FS_POOLS]) TS_MUST_CHECK; /* as fs_alloc_statfs */
int fs_alloc_revoke_region(struct fs *fs, uint64_t region) TS_MUST_CHECK; /* stops using it, waits for what is taken */
/* For replay: *skip if the region of this block was retyped after the record was made: the block may hold a user's data now.
 * Reads the bitmap from disk, takes no token. A region's new type is at home before anything in it is used. */
int fs_alloc_record_void(struct fs *fs, fs_addr a, uint64_t record_version, bool *skip) TS_MUST_CHECK;

/* A free inode ready to use: its INODE EX pin is in *pin (TOK_TRY), its buffer pinned. Never waits; -FS_NEED_INODE. */
struct fs_inode;
int fs_ialloc_take(struct fs *fs, uint64_t *ino, struct tok_pin *pin, struct fs_buf **buf, uint32_t *next_gen) TS_MUST_CHECK;
void fs_ialloc_untake(struct fs *fs, uint64_t ino, struct tok_pin *pin, struct fs_buf *buf);
void fs_ialloc_freed(struct fs *fs, uint64_t ino); /* after a commit that set mode 0: owner may reuse it once stable */
int fs_ialloc_revoke_segment(struct fs *fs, uint64_t seg) TS_MUST_CHECK; /* revoke of TOK_SEGMENT */
void fs_ialloc_inode_lost(struct fs *fs, uint64_t ino); /* INODE EX leaves: a ready inode is not ready any more */
int fs_ino_addr(struct fs *fs, uint64_t ino, fs_addr *out) TS_MUST_CHECK; /* segment table look-up, cached; waits; -ESTALE if no such segment */
int fs_segtab_revoke(struct fs *fs, uint64_t block, bool drop) TS_MUST_CHECK; /* revoke of TOK_SEGTAB */
/* Intents are waiting. Also wakes every background fiber of alloc, inode and reaper: after stopping_threads was set they end. */
int fs_reaper_kick(struct fs *fs);

/* ======== inode.c: inodes in memory ================================================================================ */
struct fs_inode {
	struct ts_map_node node;
	uint64_t ino;
	uint32_t gen;
	unsigned refs;
	struct fs_buf *buf;	/* pinned while valid; NULL after the INODE token left */
	/* Authoritative while buf is valid; written into buf by fs_inode_update_tx. */
	uint64_t size;
	int64_t atime_ns, mtime_ns, ctime_ns;
	bool lazy_dirty;	/* the above differ from buf (implies INODE EX or SW held); under lazy_link */
	struct ts_list lazy_link;
	struct ts_list lru_link;
	const void *sw_fiber;	/* pins INODE SW without EX: it may not change inode or map */
	uint64_t gap_clean;	/* behind this size its last block is zero on disk; UINT64_MAX = not looked at */
	void *data;		/* data.c: cached blocks of the file */
	unsigned opens;		/* fs_file count here */
	unsigned maps;		/* of them, those through which pages may be mapped and dirtied: DATA is taken, and leaves, as a whole */
	int wb_error;		/* write-behind failed; wb_error_seq tells handles once each */
	uint64_t wb_error_seq;
};
/* With INODE pinned (SH is enough): the inode in memory, referenced; reads its block. -ESTALE if free (mode 0). */
int fs_inode_get(struct fs *fs, uint64_t ino, struct fs_inode **out) TS_MUST_CHECK;
/* The next fs_inode_get of an inode whose block is pinned, with no wait in between, finds memory. -ENOMEM. */
int fs_inode_spare(struct fs *fs) TS_MUST_CHECK;
void fs_inode_put(struct fs *fs, struct fs_inode *ip);
bool fs_inode_mapped(struct fs *fs, uint64_t ino); /* maps > 0 */
struct fs_inode *fs_inode_find(struct fs *fs, uint64_t ino); /* cached, referenced, or NULL */
static inline struct fs_inode_disk *fs_idisk(struct fs_inode *ip) { return (struct fs_inode_disk *)ip->buf->data; }
/* Puts size and times into the buffer within tx (which must be open; fs_tx_buf is done here). */
void fs_inode_update_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *ip);
void fs_inode_lazy(struct fs *fs, struct fs_inode *ip); /* times/size changed in memory: mark, written within 5 s or at revoke/fsync */
int fs_inode_write_lazy(struct fs *fs, struct fs_inode *ip) TS_MUST_CHECK; /* reserve + tx if lazy_dirty; INODE EX held */
/* INODE pinned, buf there: what SW holders changed and this node has the right to write down becomes lazy. */
void fs_inode_values(struct fs *fs, struct fs_inode *ip);
/* The next inode with lazy changes under SW, referenced, or NULL. */
struct fs_inode *fs_inode_next_shared(struct fs *fs);
unsigned fs_inode_count_shared(struct fs *fs);
void fs_inode_attr(struct fs *fs, struct fs_inode *ip, struct fs_attr *out); /* fills; cacheable by tok_cached */
int64_t fs_now_ns(struct fs *fs); /* wall clock for times */
void fs_atime(struct fs *fs, struct fs_inode *ip); /* ops_file.c: it was read */
int fs_suid_drop(struct fs *fs, struct fs_inode *ip) TS_MUST_CHECK; /* set-id bits go, and the kernel hears of it; INODE EX pinned, a transaction of its own */
/* Makes a new inode in tx on a taken one: fills the block; nlink and payload by the caller. */
void fs_inode_init_tx(struct fs *fs, struct fs_tx *tx, struct fs_buf *b, uint64_t ino, uint32_t gen, uint32_t mode, uint32_t uid,
		      uint32_t gid, uint64_t parent);
/* nlink reached 0: ORPHAN intent in tx; the reaper frees the inode when OPEN EX can be had. An intent whose inode has
 * another generation now, or nlink > 0 (an O_TMPFILE that was linked), is void: the reaper just ends it. */
void fs_inode_orphan_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *ip);
/* xattr.c: what a new inode in dir inherits (INODE of dir pinned; may wait for disk, before the transaction). *mode comes with the
 * type and without umask; leaves final, by the default ACL or by umask. list: packed inline xattrs of the new inode
 * (FS_XATTR_INLINE_MAX bytes of room), *len of them. */
int fs_xattr_inherit(struct fs *fs, struct fs_inode *dir, uint32_t umask, uint32_t *mode, uint8_t *list, uint16_t *len) TS_MUST_CHECK;
/* Revoke of INODE to NL, SH or SW: everything of it durable, or given away; NL: buffer and cached fields are forgotten. */
int fs_inode_revoke(struct fs *fs, uint64_t ino, enum tok_mode to) TS_MUST_CHECK;
int fs_inode_writeback_all(struct fs *fs) TS_MUST_CHECK; /* fs_data_writeback of every inode that has cached data, then lazy inodes */
/* Last close on this node (ip->opens is 0, OPEN unpinned): an OPEN token is cached idle only while INODE is cached and nlink > 0,
 * so that the reaper's polling for OPEN EX succeeds as soon as nobody has the inode open. */
void fs_inode_closed(struct fs *fs, struct fs_inode *ip);

/* ======== xattr.c: room in the inode's payload ===================================================================== */
/* Bytes the front of the payload (inline data, entries, pointers) may use while the xattrs stay where they are. */
unsigned fs_xattr_inline_room(struct fs_inode *ip);
/* Makes room for a front of `front` bytes (at most FS_INODE_PTRS * 48): inline xattrs move to a block if they are in the way.
 * INODE EX pinned; own transaction; -FS_NEED_META. */
int fs_xattr_make_room(struct fs *fs, struct fs_inode *ip, unsigned front) TS_MUST_CHECK;

/* ======== dir.c: names of one directory. DIR pinned by the caller (SH to look, EX to change) ======================== */
struct fs_dirent {
	uint64_t ino, hash, cookie;
	uint32_t gen;
	unsigned type; /* DT_* */
};
struct fs_dirop { /* prepared change of one name: the blocks on the way to its leaf are pinned */
	struct fs_buf *bufs[12]; /* index nodes from the root down */
	unsigned nbufs;
	struct fs_buf *leaf;
	fs_addr freed[12]; /* blocks the change freed, forgotten by done */
	unsigned nfreed;
	uint64_t hash;
	uint8_t coll;
	bool found, inline_dir;
	struct fs_dirent ent; /* if found */
};
/* Hash of a name as it stands in entries and orders them. */
uint64_t fs_dir_hash(const struct fs *fs, const char *name, size_t len);
int fs_dir_lookup(struct fs *fs, struct fs_inode *dir, const char *name, size_t len, struct fs_dirent *out) TS_MUST_CHECK;
/* prepare reads the path to the leaf, may wait for disk, and splits a full leaf in a transaction of its own; then *_tx changes
 * without waiting. Two changes of one directory in one transaction: prepare the insert first, apply it first. After -EEXIST
 * and -ENOENT, too, fs_dirop_done is due. The *_tx keep size, mtime and ctime of the directory. */
int fs_dir_insert_prepare(struct fs *fs, struct fs_inode *dir, const char *name, size_t len, struct fs_dirop *op) TS_MUST_CHECK; /* -EEXIST with op->ent */
void fs_dir_insert_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *dir, struct fs_dirop *op, const char *name, size_t len,
		      uint64_t ino, uint32_t gen, unsigned dtype);
int fs_dir_remove_prepare(struct fs *fs, struct fs_inode *dir, const char *name, size_t len, struct fs_dirop *op) TS_MUST_CHECK; /* -ENOENT */
void fs_dir_remove_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *dir, struct fs_dirop *op);
void fs_dir_replace_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *dir, struct fs_dirop *op, uint64_t ino, uint32_t gen, unsigned dtype); /* entry found by insert_prepare */
void fs_dirop_done(struct fs *fs, struct fs_dirop *op); /* after the commit or instead of it: unpins; harmless twice */
typedef bool (*fs_dir_iter_fn)(void *arg, const struct fs_dirent *e, const char *name, size_t len);
int fs_dir_iterate(struct fs *fs, struct fs_inode *dir, uint64_t cookie, fs_dir_iter_fn fn, void *arg) TS_MUST_CHECK; /* in cookie order, entries with cookie > given; fn must not wait, false = enough */
int fs_dir_free_tree(struct fs *fs, struct fs_inode *dir) TS_MUST_CHECK; /* dead directory, DIR EX and INODE EX pinned: frees its blocks in own transactions */

/* ======== map.c, data.c, page.c, writeback.c: bytes of one file ==================================================== */
struct fs_file {
	struct fs *fs;
	struct fs_inode *ip;
	int flags;		/* O_* */
	struct tok_pin open_pin; /* OPEN SH for as long as it is open */
	bool maps;		/* counted in ip->maps */
	uint64_t wb_error_seen;
	uint64_t ra_next, ra_window, ra_end; /* sequential prefetch: next offset expected, bytes ahead, asked for up to here */
	struct ts_list link;
};
/* Without memory for what must be done, it is tried so often, so far apart: 30 s. */
#define FS_MEMORY_TRIES	  1500u
#define FS_MEMORY_WAIT_NS (20 * TS_NS_PER_MS)
/* run.c: do ... while (fs_memory_wait(fs, rc, &tries)); tries begins with 0 and is FS_MEMORY_TRIES in the last round. */
bool fs_memory_wait(struct fs *fs, int rc, unsigned *tries) TS_MUST_CHECK;
/* All with DATA and INODE pinned in the right mode by the caller (ops_file.c), except where they say so. */
/* whole: an error is the result, whatever was read before it; else only if nothing was. */
ssize_t fs_data_read(struct fs *fs, struct fs_inode *ip, struct fs_file *f, void *buf, size_t len, uint64_t off, bool whole) TS_MUST_CHECK;
/* Into the pool; updates size and times lazily; -FS_NEED_SPACE. whole: nothing is written unless there is space for all. */
ssize_t fs_data_write(struct fs *fs, struct fs_inode *ip, const void *buf, size_t len, uint64_t off, bool whole) TS_MUST_CHECK;
int fs_data_truncate(struct fs *fs, struct fs_inode *ip, uint64_t size) TS_MUST_CHECK; /* both ways; frees blocks in bounded transactions; sets size */
int fs_data_writeback(struct fs *fs, struct fs_inode *ip) TS_MUST_CHECK; /* all dirty data to disk and mapped (law 3 holds by the later force); no pin needed beyond law 6 */
int fs_data_fsync(struct fs *fs, struct fs_inode *ip) TS_MUST_CHECK; /* writeback + lazy inode + log force */
uint64_t fs_data_blocks512(struct fs *fs, struct fs_inode *ip, bool *passing); /* passing: not yet what it will be */
void fs_data_drop(struct fs *fs, struct fs_inode *ip); /* clean pages are forgotten (token left) */
int fs_data_free_all(struct fs *fs, struct fs_inode *ip) TS_MUST_CHECK; /* inode being freed: all blocks, bounded transactions */
int fs_data_fallocate(struct fs *fs, struct fs_inode *ip, int mode, uint64_t off, uint64_t len) TS_MUST_CHECK;
int64_t fs_data_seek(struct fs *fs, struct fs_inode *ip, uint64_t off, bool hole) TS_MUST_CHECK;
int fs_data_init(struct fs *fs, size_t pool_bytes) TS_MUST_CHECK;
void fs_data_fini(struct fs *fs);
/* FS_PL_INLINE becomes FS_PL_MAP in a transaction of its own (setxattr needs the room). DATA EX and INODE EX pinned. -FS_NEED_SPACE. */
int fs_data_uninline(struct fs *fs, struct fs_inode *ip) TS_MUST_CHECK;
int fs_data_revoke(struct fs *fs, uint64_t ino, bool drop, uint64_t start, uint64_t end) TS_MUST_CHECK; /* bytes, inclusive */

/* ======== share.c: files that several nodes write ================================================================== */
int fs_share_start(struct fs *fs) TS_MUST_CHECK; /* its fiber, in fs->background */
void fs_share_wake(struct fs *fs);
int fs_share_lazy_all(struct fs *fs) TS_MUST_CHECK; /* sizes and times under SW are written down; no pins held */

/* ======== the file system in memory ================================================================================ */
enum fs_run { FS_RUN_MOUNTING, FS_RUN_LIVE, FS_RUN_SUSPENDED, FS_RUN_STOPPED, FS_RUN_UNMOUNTING };
struct fs_logstate;  /* log.c */
struct fs_bufcache;  /* buf.c */
struct fs_alloc;     /* alloc.c */
struct fs_ialloc;    /* ialloc.c */
struct fs_icache;    /* inode.c */
struct fs_datastate; /* page.c */
struct fs {
	struct ts_exec *exec;
	const struct ts_env *env;
	struct fs_mount_args args;
	struct fs_super_disk super;
	uint32_t block_size, block_subs;
	uint64_t group;
	unsigned self;
	uint64_t incarnation;
	uint64_t lamport; /* where there is no net (offline) */
	uint32_t slot;
	enum fs_run run;
	bool suspended;
	char stop_why[128];
	struct ts_cond run_cond;
	struct fs_disk *disks;	/* [TS_MAX(ndisks, FS_DISKS_ONLINE)] */
	unsigned ndisks;	/* numbers given; not all are disks */
	uint64_t disks_gen;	/* grows when the disks or what they are for change */
	uint64_t settled_gen;	/* of disks_gen: what was taken before is settled */
	struct ts_mutex disks_lock, settle_lock; /* the table is being read and taken over; what that changed is being settled */
	struct fs_mover *mover;
	struct fs_slot_ent_disk slots[FS_MAX_SLOTS];
	struct tok_mgr *tok;
	struct fs_io *io;
	struct fs_logstate *log;
	struct fs_bufcache *bufs;
	struct fs_alloc *alloc;
	struct fs_ialloc *ialloc;
	struct fs_segtab *segtab;
	struct fs_reaper *reaper;
	struct fs_icache *icache;
	struct fs_ahead *ahead;
	struct fs_datastate *datas;
	struct quorum_group_view gview;
	struct ts_cond gview_cond;
	bool recovering;
	uint64_t recovery_ns;	/* when it began */
	bool log_begun;		/* the header of our slot may say ACTIVE */
	bool want_on_disk;	/* recover also what only the disks know to be dead */
	uint64_t yielded_epoch; /* another node recovers, as of this epoch of its view */
	struct net_msg yields[QUORUM_MAX_NODES]; /* who waits for the end of our recovery; call_id 0 = empty */
	struct ts_list peers_link;
	uint32_t claim_slot;	/* what we told the group; UINT32_MAX = none yet */
	uint32_t adopted_slot;	/* last log whose intents went into ours */
	uint64_t adopted_incarnation;
	unsigned recovered;	/* logs, since the mount */
	struct fs_recovery recovery; /* how it goes (recprog.c) */
	int (*record_void)(struct fs *fs, fs_addr a, uint64_t record_version, bool *skip); /* fs_alloc_record_void; see recover.c */
	unsigned nfiles;
	struct ts_list files;
	struct fs_stats stats;
	bool stopping_threads; /* background fibers end */
	struct ts_group background;
	/* Recovery ends behind them: they may wait for tokens that wait for it, and this node may be the one to do it. */
	bool stop_recovery;
	struct ts_group recovery_group;
};
/* May the kernel be told to keep what it is told under this token? Not while suspended: the token may be gone without our knowing. */
static inline bool fs_may_cache(const struct fs *fs, enum tok_kind kind, uint64_t id)
{
	return !fs->suspended && tok_cached(fs->tok, kind, id, TOK_SH);
}
/* May it keep this name of the directory? Not while somebody here waits for the right to change them: he may have it locked in the kernel,
 * and what is kept could not be taken back. */
static inline void fs_entry_attr(const struct fs *fs, uint64_t dir, struct fs_attr *a)
{
	a->entry_cacheable = fs_may_cache(fs, TOK_DIR, dir) && !tok_wanted(fs->tok, TOK_DIR, dir);
	a->entry_private = a->entry_cacheable && tok_cached(fs->tok, TOK_DIR, dir, TOK_EX);
}
/* Every module that lives in struct fs has these; called by super.c in this order at mount, reversed at unmount. */
int fs_io_init(struct fs *fs) TS_MUST_CHECK;
void fs_io_fini(struct fs *fs);
int fs_bufcache_init(struct fs *fs, size_t bytes) TS_MUST_CHECK;
void fs_bufcache_fini(struct fs *fs);
int fs_log_init(struct fs *fs) TS_MUST_CHECK; /* of the claimed slot: header made ACTIVE for this incarnation */
int fs_log_shutdown_clean(struct fs *fs) TS_MUST_CHECK; /* all home, header CLEAN; live intents are kept in the log */
void fs_log_fini(struct fs *fs);
int fs_alloc_init(struct fs *fs) TS_MUST_CHECK;
void fs_alloc_fini(struct fs *fs);
int fs_ialloc_init(struct fs *fs) TS_MUST_CHECK;
void fs_ialloc_fini(struct fs *fs);
int fs_icache_init(struct fs *fs) TS_MUST_CHECK;
void fs_icache_fini(struct fs *fs);
int fs_reaper_start(struct fs *fs) TS_MUST_CHECK; /* spawns the background fibers of alloc, ialloc, inode and the reaper, in fs->background */
void fs_reaper_fini(struct fs *fs); /* after fs->background is empty */

enum fs_op { FS_OP_LOOKUP, FS_OP_GETATTR, FS_OP_SETATTR, FS_OP_MKNOD, FS_OP_MKDIR, FS_OP_SYMLINK, FS_OP_LINK, FS_OP_UNLINK, FS_OP_RMDIR,
	     FS_OP_RENAME, FS_OP_READLINK, FS_OP_READDIR, FS_OP_OPEN, FS_OP_CREATE, FS_OP_TMPFILE, FS_OP_RELEASE, FS_OP_READ, FS_OP_WRITE,
	     FS_OP_FLUSH, FS_OP_FSYNC, FS_OP_SYNC, FS_OP_FALLOCATE, FS_OP_SEEK, FS_OP_COPY, FS_OP_STATFS, FS_OP_SETXATTR, FS_OP_GETXATTR,
	     FS_OP_LISTXATTR, FS_OP_REMOVEXATTR, FS_OP_LOCK, FS_OPS }; /* at most 32: index into fs_stats.ops */
/* -EIO once stopped; waits while suspended; called at the start of every operation. */
int fs_enter(struct fs *fs, unsigned op) TS_MUST_CHECK;
/* This node's own state is impossible or a disk failed under metadata: keep the tokens, stop all I/O, say why. */
void fs_stop(struct fs *fs, const char *fmt, ...) TS_PRINTF(2, 3);

#endif
