/* SPDX-License-Identifier: Apache-2.0 */
/* Private to replay.c (what a log says: a pure function of its bytes), recover.c and the tests. */
#ifndef TESSERA_FS_REPLAY_H
#define TESSERA_FS_REPLAY_H

#include "fs/log_int.h"

struct fs_logimage {
	struct fs_frame_id id;
	const uint8_t *ring;
	uint64_t ring_bytes;
	uint64_t tail;
	uint64_t seal;	 /* 0: until the first bad frame; else the frames must reach exactly this */
	/* Makes ring[off, off + len) present; NULL: all of it is. */
	int (*load)(void *arg, uint64_t off, uint64_t len);
	void *arg;
};
struct fs_replay_rec {
	struct fs_rec rec;
	uint32_t next; /* of the same block, index + 1; 0 = last */
};
struct fs_replay_block {
	struct ts_map_node node;
	fs_addr addr;
	uint32_t first, last;	/* record index + 1; 0 = none: freed behind them */
	uint64_t done_version;	/* of the block after replay; 0 = nothing was to do */
};
struct fs_replay_intent {
	struct ts_map_node node;
	uint64_t number, a, b;
	enum fs_intent_type type;
	uint32_t subs;
};
struct fs_replay_adopted {
	uint32_t slot;
	uint64_t incarnation;
};
struct fs_replay {
	uint64_t end; /* LSN behind the last good frame */
	uint64_t max_version;
	struct fs_replay_rec *recs;
	size_t nrecs, room;
	struct ts_map blocks;	/* fs_replay_block */
	struct ts_map intents;	/* fs_replay_intent, live ones */
	struct fs_replay_adopted *adopted;
	unsigned nadopted;
};
/* Reads the log: -EUCLEAN when a good frame holds nonsense or a sealed log ends early; the records point into ring. */
int fs_replay_scan(const struct fs_logimage *img, struct fs_replay **out) TS_MUST_CHECK;
void fs_replay_free(struct fs_replay *r);
/* One block: data is what the disk holds; *changed: data is now what must be written. -EUCLEAN: records that cannot be.
 * -ENODATA: the records begin behind the block on disk, without an image. They were home once, else the image would be in
 * the log; since then another node's home write was torn, whose log has an image. So in the end, with all dead logs replayed, the
 * block must be good and have fs_replay_last() at least. */
int fs_replay_apply(const struct fs_replay *r, const struct fs_replay_block *b, const uint8_t fs_id8[8], uint64_t incarnation,
		    uint8_t *data, bool *changed) TS_MUST_CHECK;
uint64_t fs_replay_last(const struct fs_replay *r, const struct fs_replay_block *b); /* version of its newest record */
bool fs_replay_has_adopted(const struct fs_replay *r, uint32_t slot, uint64_t incarnation);

/* Blocks that one dead log could not rebuild, as another one must (fs_replay_apply): looked at when all are replayed. */
struct fs_gap {
	fs_addr addr;
	uint64_t version; /* at least */
	uint32_t slot;
};
struct fs_gaps {
	struct fs_gap *v;
	size_t n, room;
};
int fs_gaps_add(struct fs_gaps *g, fs_addr addr, uint64_t version, uint32_t slot) TS_MUST_CHECK; /* room: the caller frees v */

#endif
