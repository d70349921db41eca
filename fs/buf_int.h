/* SPDX-License-Identifier: Apache-2.0 */
/* Private to buf.c (cache), home.c (homes) and tx.c (changes). */
#ifndef TESSERA_FS_BUF_INT_H
#define TESSERA_FS_BUF_INT_H

#include "fs/fs_int.h"

#define FS_HOME_BATCH 256 /* blocks copied and written together */

struct fs_buf_res { /* what one token covers of the cache */
	struct ts_map_node node;
	enum tok_kind kind;
	uint64_t id;
	struct ts_list bufs;
	uint64_t last_lsn; /* of buffers that left the cache */
};
struct fs_home_batch {
	struct iovec iov[FS_HOME_BATCH];
	struct nsd_req req[FS_HOME_BATCH];
};
struct fs_bufcache {
	struct ts_map map, res;
	size_t count, max;
	struct ts_list lru;	   /* not pinned, oldest first */
	struct ts_list dirty;	   /* by first_lsn */
	size_t ndirty;
	uint64_t gone_lsn;	   /* last change of resources that have no buffer any more */
	unsigned forgotten_writing; /* freed blocks whose home write has not ended */
	struct ts_mutex home_mutex; /* batch and bounce */
	struct ts_cond home_cond;  /* a home write ended */
	struct fs_home_batch *batch;
	uint8_t *bounce;
	void *page;		   /* free pages, chained by their first bytes */
	struct ts_list chunks;	   /* they come from */
};

void *fs_page_get(struct fs_bufcache *c); /* NULL: no memory */
void fs_page_put(struct fs_bufcache *c, void *p);

struct fs_buf_res *fs_buf_res_find(struct fs *fs, enum tok_kind kind, uint64_t id);
void fs_buf_drop(struct fs *fs, struct fs_buf *b); /* clean: out of the cache */

/* home.c */
void fs_home_dirty(struct fs *fs, struct fs_buf *b, uint64_t frame_lsn, uint64_t lsn); /* committed in this frame */
void fs_home_clean(struct fs *fs, struct fs_buf *b); /* not dirty any more, without writing it */
/* Writes home, and flushes, what is dirty since before `below`, oldest first. Log must be stable up to what it writes. */
int fs_home_write_below(struct fs *fs, uint64_t below) TS_MUST_CHECK;
uint64_t fs_home_first_lsn(struct fs *fs); /* of the oldest dirty buffer, UINT64_MAX if none */

/* log.c */
void fs_log_kick_home(struct fs *fs); /* many dirty buffers: checkpoint soon */

#endif
