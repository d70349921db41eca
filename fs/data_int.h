/* SPDX-License-Identifier: Apache-2.0 */
/* What map.c, page.c, data.c, writeback.c, prefetch.c, truncate.c, falloc.c and ops_file.c share: cached bytes of files.
 *
 * A file's cache (struct data_file, hung on fs_inode.data) has blocks; a block has 64 KiB chunks of the pool; a chunk has
 * 4 KiB pages with bits valid, dirty, reading, writing.
 *
 *   mem  -> dirty -> (wave of writes) -> ready -> (transaction) -> mapped and clean
 *
 * Invariants:
 *  D1 dirty pages lie only where space is: inside blk->map (written or not), inside blk->ext, or in block 0 of an inline file.
 *  D2 a page that is not valid reads from blk->map; where that has nothing (hole, unwritten, behind subs) it reads zeros.
 *     Therefore chunks of a block with blk->next or blk->ready stay in memory until the transaction.
 *  D3 bytes behind the end of the file are zero in every valid page. On disk they may be anything that once was in
 *     this file: loading zeroes them, and growing the size over them first writes zeros there (data_gap).
 *  D4 the first write of a fresh, extended or unwritten block covers all its new sub-blocks, with zeros where no data is.
 *  D5 a written block never lies wholly behind the end of the file (truncate lowers the size in the transactions that
 *     free blocks); unwritten ones may (fallocate KEEP_SIZE).
 *  D6 nobody changes the map but under map_lock; nothing waits for pool memory under map_lock.
 *  D7 a pending block has its indirect blocks taken beforehand (meta_reserved): writing back never runs out of space.
 *  D8 data_file.taken = what all ext add to the map: st_blocks tells both, so no file with bytes looks like one hole. */
#ifndef TESSERA_FS_DATA_INT_H
#define TESSERA_FS_DATA_INT_H

#include "fs/fs_int.h"

#define DATA_PAGE	 4096u
#define DATA_CHUNK	 65536u
#define DATA_CHUNK_PAGES 16u
#define DATA_CHUNK_ALL	 0xffffu
#define DATA_IO_BYTES	 (1u << 20) /* one request carries at most so much */
#define DATA_IO_IOVS	 48u
#define DATA_IOS	 192u	    /* requests in flight, all files together */
#define DATA_BATCH	 16u	    /* blocks a transaction maps */

#define MAP_FAN	       84u
#define MAP_MAX_HEIGHT 7u

struct fs_bmap { /* a block pointer in memory; addr 0 = hole */
	fs_addr addr;
	uint64_t birth;
	uint32_t subs;
	bool unwritten;
};

struct data_chunk {
	struct data_blk *blk; /* NULL: free, or cut loose while requests still use it */
	uint8_t *mem;
	uint32_t index;	      /* within the block */
	uint16_t valid, dirty, reading, writing;
	uint32_t pins;
	struct ts_list link;  /* free list; or LRU while clean, idle and unpinned */
	int rc;		      /* the last read failed; taken by who waits for it */
	struct ts_cond cond;  /* reading or writing ended */
};

enum data_next { NEXT_NONE, NEXT_FRESH /* ext is the whole new block */, NEXT_EXTEND /* ext follows map on disk */ };
struct data_blk {
	struct ts_map_node node;
	struct data_file *df;
	uint64_t idx;
	struct fs_bmap map;   /* committed; valid if known */
	struct fs_ext ext;    /* taken, by next */
	enum data_next next;
	bool known, head;     /* head: counts for indirect blocks */
	bool first;	      /* the wave in flight is a first write (D4) */
	bool ready;	      /* first write done: wants its transaction */
	bool unwritten;	      /* ext is to be mapped as unwritten (fallocate) */
	bool kept;	      /* a new block keeps all of ext (fallocate), also what no page needs */
	bool shared;	      /* written under INODE SW: counted in ds->nshared until it is clean */
	bool tail_clean;      /* behind what was written, the block is zero on disk */
	unsigned pins, nchunks, ndirty; /* ndirty: pages */
	unsigned ios;	      /* writes in flight, plus one while the wave is being built */
	int io_rc;	      /* a wave failed: the block is to be lost */
	uint64_t seq, wave_seq, dirtied_ns;
	struct ts_list link;  /* df->blks */
	struct ts_list active; /* df->active: dirty, writing or ready */
	struct data_chunk *chunk[];
};

struct data_file {
	struct fs_inode *ip;  /* referenced */
	struct ts_list blks, active;
	struct ts_list dirty_link; /* ds->dirty_files while active is not empty */
	unsigned users;	      /* fibers inside */
	struct ts_mutex map_lock;
	struct ts_cond cond;  /* a wave or a transaction ended */
	uint64_t map_seq;     /* counts changes of the map */
	bool flush_due;	      /* data was written since the last fsync. Without a data_file: unknown, so yes */
	unsigned npend, nheads, pend_height, meta_reserved;
	int64_t taken;	      /* sub-blocks the file will have more than its map has now: sum of data_blk_taken */
	struct data_blk *last; /* look-up cache */
};

struct data_io {
	struct nsd_req req;
	struct ts_list link;
	struct data_blk *blk; /* writes */
	struct fs *fs;
	unsigned page, npages, niov;
	unsigned ndirty;      /* writes: pages that were dirty */
	uint64_t size;	      /* reads: end of file when submitted */
	uint64_t blk_off;     /* reads: file offset of the block */
	struct iovec iov[DATA_IO_IOVS];
	struct data_chunk *chunk[DATA_IO_BYTES / DATA_CHUNK + 1];
};

struct fs_datastate {
	uint8_t *arena, *zeros;
	struct data_chunk *chunks;
	size_t nchunks, nfree;
	struct ts_list free, lru;
	struct ts_cond room;	/* a chunk became free or clean, or dirty pages fewer */
	struct ts_map blks;
	struct ts_list dirty_files;
	size_t ndirty, dirty_limit; /* pages dirty or being written */
	size_t nshared, shared_limit; /* blocks that need INODE EX before they can be clean */
	bool share_all; /* share.c */
	struct ts_cond share_kick, share_room;
	struct data_io *ios;
	struct ts_list io_free;
	unsigned io_nfree;
	struct ts_cond io_room;
	struct ts_mutex grow_lock; /* one relocation at a time loads a whole block */
	struct fs_ext *stock;	/* metadata sub-blocks taken for pending blocks; all are reserved */
	size_t nstock, stock_room;
	uint64_t seq;
	bool stop, running;
	bool kicked, starved;
	struct ts_cond kick;
	struct ts_done ended;
};

static inline uint32_t data_blk_pages(const struct fs *fs) { return fs->block_subs; }
static inline uint32_t data_blk_chunks(const struct fs *fs) { return fs->block_size / DATA_CHUNK; }
/* Files of one block are on all disks, too. */
/* Where new space for it is to be: by the layout of the file, whose inode is pinned. */
static inline struct fs_layout_want data_blk_want(const struct fs *fs, const struct data_blk *b)
{
	const struct fs_inode_disk *d = fs_idisk(b->df->ip);

	return (struct fs_layout_want){.pool = fs_pool_known(fs, d->pool), .width = d->stripe, .file = b->df->ip->ino, .block = b->idx};
}
static inline uint64_t data_blk_off(const struct fs *fs, const struct data_blk *b) { return b->idx * fs->block_size; }
static inline uint8_t *data_page(struct data_chunk *c, unsigned page) { return c->mem + (size_t)(page % DATA_CHUNK_PAGES) * DATA_PAGE; }
static inline uint16_t data_bit(unsigned page) { return (uint16_t)(1u << (page % DATA_CHUNK_PAGES)); }

/* ---- page.c ------------------------------------------------------------------------------------------------------ */
struct data_file *data_use(struct fs *fs, struct fs_inode *ip); /* NULL: no memory. Keeps it until data_unuse */
void data_unuse(struct fs *fs, struct data_file *df);
struct data_blk *data_blk_find(struct fs *fs, struct data_file *df, uint64_t idx); /* NULL if not in memory */
struct data_blk *data_blk_get(struct fs *fs, struct data_file *df, uint64_t idx);  /* found or made, pinned; NULL: no memory */
void data_blk_put(struct fs *fs, struct data_blk *b);	/* forgets it when nothing is left in it */
int data_blk_known(struct fs *fs, struct data_blk *b) TS_MUST_CHECK;	/* b->map is right; may wait */
/* The chunk of a page; wait = false: NULL when none is free now. Not pinned. */
struct data_chunk *data_chunk_get(struct fs *fs, struct data_blk *b, unsigned page, bool wait);
void data_chunk_settle(struct fs *fs, struct data_chunk *c); /* puts it on the LRU or takes it off, as its state says */
void data_blk_settle(struct fs *fs, struct data_blk *b);
void data_chunk_cut(struct fs *fs, struct data_chunk *c); /* its block forgets it; dirty pages are lost */
void data_pages_dirty(struct fs *fs, struct data_chunk *c, uint16_t bits); /* marks valid and dirty */
void data_pages_clean(struct fs *fs, struct data_chunk *c, uint16_t bits); /* dirty bits are dropped */
void data_blk_active(struct fs *fs, struct data_blk *b); /* on or off df->active, as its state says */
struct data_io *data_io_get(struct fs *fs, bool wait);
void data_io_put(struct fs *fs, struct data_io *io);
/* Pool pressure: waits until few enough pages are dirty. */
void data_throttle(struct fs *fs);

/* ---- map.c ------------------------------------------------------------------------------------------------------- */
struct map_path { /* one way down the tree; ptr stays valid while the path is pinned */
	unsigned height, level;	  /* level of the slot found: it covers 84^level blocks from base */
	uint64_t base, span;
	struct fs_bptr_disk *ptr; /* NULL: behind what the tree can hold */
	struct fs_buf *node[MAP_MAX_HEIGHT + 1]; /* [1..height]; those below `level` are missing */
};
unsigned fs_map_room(struct fs_inode *ip);  /* bytes of the payload that inline data may use */
bool fs_map_is_tree(struct fs_inode *ip);
int fs_map_walk(struct fs *fs, struct data_file *df, uint64_t idx, struct map_path *p) TS_MUST_CHECK;
void fs_map_done(struct fs *fs, struct map_path *p);
int fs_map_decode(struct fs *fs, uint64_t ino, const struct fs_bptr_disk *p, bool data, struct fs_bmap *out) TS_MUST_CHECK;
int fs_map_lookup(struct fs *fs, struct data_file *df, uint64_t idx, struct fs_bmap *out) TS_MUST_CHECK;
/* First index >= idx whose slot may be mapped; UINT64_MAX if none. */
int fs_map_next(struct fs *fs, struct data_file *df, uint64_t idx, uint64_t *out) TS_MUST_CHECK;
unsigned fs_map_height_for(uint64_t idx);
/* Inserting, map_lock held: makes the tree high enough (own transactions), then pins the way with new nodes where some miss. */
struct map_insert {
	struct map_path path;
	unsigned nnew;		     /* path.node[1..nnew] are new */
	struct fs_ext ext[MAP_MAX_HEIGHT + 1];
	bool linked;
};
int fs_map_insert_prepare(struct fs *fs, struct data_file *df, uint64_t idx, struct map_insert *in) TS_MUST_CHECK;
void fs_map_insert_link(struct fs *fs, struct fs_tx *tx, struct data_file *df, struct map_insert *in, uint64_t idx);
void fs_map_insert_set(struct fs *fs, struct fs_tx *tx, struct data_file *df, struct map_insert *in, uint64_t idx, const struct fs_bmap *m);
void fs_map_insert_done(struct fs *fs, struct data_file *df, struct map_insert *in);
/* Frees the blocks [from, to), the highest first, one leaf a transaction. cut != NULL: the size follows down to cut->size. */
struct map_cut {
	uint64_t size;
	bool bumped; /* trunc_epoch was raised already */
};
void fs_map_cut_tx(struct fs *fs, struct fs_tx *tx, struct data_file *df, struct map_cut *cut, uint64_t size);
int fs_map_free(struct fs *fs, struct data_file *df, uint64_t from, uint64_t to, struct map_cut *cut) TS_MUST_CHECK;
int fs_map_trim(struct fs *fs, struct data_file *df, uint64_t idx, uint32_t keep, struct map_cut *cut) TS_MUST_CHECK;
/* Taken metadata for pending blocks. */
int fs_map_pend(struct fs *fs, struct data_blk *b) TS_MUST_CHECK; /* -FS_NEED_META */
void fs_map_unpend(struct fs *fs, struct data_blk *b);
int fs_map_stock_pop(struct fs *fs, struct data_file *df, struct fs_ext *out) TS_MUST_CHECK;
void fs_map_stock_push(struct fs *fs, struct data_file *df, const struct fs_ext *e);

/* ---- prefetch.c: reads -------------------------------------------------------------------------------------------- */
enum data_src { SRC_ZERO, SRC_DISK, SRC_INLINE };
enum data_src data_page_source(struct fs *fs, struct data_blk *b, unsigned page);
/* Submits reads of what is missing in pages [page, page + n) of a known block. wait = false: as far as memory allows. */
int data_read_submit(struct fs *fs, struct data_blk *b, unsigned page, unsigned n, bool wait) TS_MUST_CHECK; /* -TS_ERR_WOULD_WAIT */
int data_page_fill(struct fs *fs, struct data_blk *b, unsigned page, struct data_chunk **out) TS_MUST_CHECK; /* valid and idle on return, pinned */
void data_chunk_unpin(struct fs *fs, struct data_chunk *c);
void data_prefetch(struct fs *fs, struct data_file *df, uint64_t from, uint64_t to);
void data_read_ahead(struct fs *fs, struct data_file *df, struct fs_file *f, uint64_t off, size_t len);

/* ---- data.c ------------------------------------------------------------------------------------------------------- */
bool data_stays_inline(struct fs *fs, struct data_file *df, uint64_t end);
int data_blk_reserve(struct fs *fs, struct data_blk *b, uint32_t need) TS_MUST_CHECK;
/* To a taken extent, which becomes the block's or is given back: the pages of the old one become dirty, they will be written to the new
 * one. -TS_ERR_RETRY: it changed meanwhile. */
int data_blk_move(struct fs *fs, struct data_blk *b, const struct fs_ext *e) TS_MUST_CHECK;
uint32_t data_blk_capacity(const struct data_blk *b); /* sub-blocks, map and ext together */
void data_blk_plan(struct data_blk *b, enum data_next next, const struct fs_ext *ext); /* the only way to change these two */
void data_blk_release(struct fs *fs, struct data_blk *b); /* gives ext back: pages that needed it must be gone */
int data_leave_inline(struct fs *fs, struct data_file *df) TS_MUST_CHECK;
int data_gap(struct fs *fs, struct data_file *df, uint64_t old_size, uint64_t to) TS_MUST_CHECK;
int data_zero_pages(struct fs *fs, struct data_blk *b, uint64_t from, uint64_t to) TS_MUST_CHECK; /* offsets in the block */

/* ---- truncate.c --------------------------------------------------------------------------------------------------- */
void data_cut_blocks(struct fs *fs, struct data_file *df, uint64_t from, uint64_t to); /* memory of [from, to) is gone; waits for its writes */

/* ---- writeback.c, data_commit.c --------------------------------------------------------------------------------------------------- */
void data_wave_start(struct fs *fs, struct data_blk *b); /* writes what is dirty; may wait for request slots */
int data_blk_settled(struct fs *fs, struct data_blk *b) TS_MUST_CHECK; /* waits until nothing is in flight or to be committed */
int data_blk_flush(struct fs *fs, struct data_blk *b) TS_MUST_CHECK;   /* this block written and mapped */
/* Transactions for what is ready, and for dirty inline data if with_inline. They need INODE EX: unless it is held, it is pinned if
 * may_pin, and else (also if this fiber has pinned SW) -FS_NEED_EX. may_pin: no pin of INODE or above is held but for SW. */
int data_commit(struct fs *fs, struct data_file *df, bool with_inline, bool may_pin) TS_MUST_CHECK;
bool data_is_inline(const struct data_blk *b); /* dirty, and goes into the inode */
int data_sync(struct fs *fs, struct fs_inode *ip, bool datasync) TS_MUST_CHECK;
void data_kick(struct fs *fs);
bool data_has_work(struct data_file *df, uint64_t before_ns); /* something data_commit would do */

/* ---- share.c ------------------------------------------------------------------------------------------------------ */
static inline bool data_ex_held(struct fs *fs, const struct fs_inode *ip)
{
	return tok_holds(fs->tok, TOK_INODE, ip->ino, TOK_EX, 0, TOK_END);
}
static inline bool data_sharing(const struct fs_inode *ip) { return ip->sw_fiber && ip->sw_fiber == ts_fiber_self(); }
/* INODE EX pinned and the inode's block in memory. No pins held. */
int share_pin_ex(struct fs *fs, struct fs_inode *ip, struct tok_pin *pin) TS_MUST_CHECK;
int share_write_lazy(struct fs *fs, struct fs_inode *ip) TS_MUST_CHECK; /* size and times into the inode, under EX. No pins held. */
void share_kick(struct fs *fs, bool all);
void share_mark(struct fs *fs, struct data_blk *b); /* about to be dirtied under SW */
void share_unmark(struct fs *fs, struct data_blk *b);
/* After -FS_NEED_EX, no pins held: this file's blocks are written and mapped, or there is room for shared ones again. */
int share_settle(struct fs *fs, struct fs_inode *ip) TS_MUST_CHECK;
/* The tail of the last block becomes zero on disk. DATA EX of that block and INODE SW pinned. */
int share_gap(struct fs *fs, struct fs_inode *ip) TS_MUST_CHECK;
void data_error(struct fs *fs, struct data_file *df, int rc);
void data_blk_lose(struct fs *fs, struct data_blk *b); /* all its pages and its ext are dropped; nothing in flight */
int data_flusher_start(struct fs *fs) TS_MUST_CHECK;

#endif
