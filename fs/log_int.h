/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the files of the log: logfmt.c (bytes), log.c (frames, force), tx.c (changes), intent.c, checkpoint.c (tail,
 * header, background fiber), replay.c and recover.c (logs of others). */
#ifndef TESSERA_FS_LOG_INT_H
#define TESSERA_FS_LOG_INT_H

#include "fs/fs_int.h"

#define FS_REC_BUF_MAX (40 + FS_SUB + FS_SUB / 8 * 2) /* one block's record, runs included, never exceeds this */
#define FS_REC_INTENT_BYTES (40 + 32)
#define FS_LOG_FRAMES	8
#define FS_LOG_MIN_RING (256u << 10)

/* ---- logfmt.c: bytes; everything read is hostile ---- */
/* Runs of 8-byte words of `now` that differ from `before` (NULL: from zero), version, incarnation and checksum apart. */
size_t fs_runs_encode(uint8_t *out, const uint8_t *before, const uint8_t *now);
bool fs_runs_apply(uint8_t *block, const uint8_t *runs, size_t len); /* false: malformed */
struct fs_rec { /* decoded */
	enum fs_rec_type type;
	enum tok_kind res_kind;
	enum fs_block_type block_type;
	uint64_t res_id, prev_version, version;
	fs_addr addr;
	const uint8_t *payload;
	uint32_t len;
};
size_t fs_rec_encode_head(uint8_t *out, const struct fs_rec *r);
int fs_rec_next(struct ts_rd *rd, struct fs_rec *out); /* 1, 0 = end, -EUCLEAN */
struct fs_frame_id { /* what a frame must say to belong to a log */
	uint32_t slot;
	uint64_t incarnation;
	uint8_t fs_id8[8];
};
void fs_frame_seal(uint8_t *frame, const struct fs_frame_id *id, uint64_t lsn, uint32_t frame_len, uint32_t payload_len, uint64_t tail);
/* Length of the frame that begins here if its header belongs to the log and says lsn; 0 if not. room: to the ring's end. */
uint32_t fs_frame_len(const uint8_t *head, const struct fs_frame_id *id, uint64_t lsn, uint64_t room);
bool fs_frame_csum_ok(const uint8_t *frame);

/* ---- the live log ---- */
struct fs_frame {
	struct ts_list link;
	uint8_t *buf;
	uint64_t lsn;
	uint32_t used; /* header and records */
	uint32_t room; /* used may grow to this */
	uint32_t len;  /* closed: bytes in the ring */
	struct nsd_req req;
	struct iovec iov;
};
struct fs_logstate {
	struct fs_frame_id id;
	fs_addr head_addr;	/* the two header blocks */
	fs_addr ring_addr;
	uint64_t ring;		/* bytes */
	uint32_t frame_max;
	uint64_t reserve;	/* of the ring: for checkpoints only */

	struct fs_frame frames[FS_LOG_FRAMES];
	struct ts_list free, closed;
	unsigned nfree;
	struct fs_frame *open;
	uint64_t next_lsn;	/* where the next frame begins */
	uint64_t last_lsn;	/* of the last commit */
	uint64_t stable;	/* end of the last frame known stable */
	uint64_t open_since_ns; /* first commit that is not forced */
	bool forcing, failed;
	struct ts_cond force_cond;

	struct fs_tx *tx;	/* open now */
	uint8_t *scratch;	/* its intent records */

	uint64_t tail;		/* in the header on disk: nobody replays before it */
	uint64_t hold_lsn;	/* recovery keeps the tail here; UINT64_MAX = not */
	struct fs_loghead_disk head; /* as last written */
	struct ts_mutex ckpt_mutex;
	struct ts_cond space_cond; /* the tail moved or a frame is free */
	struct ts_cond kick_cond;  /* background fiber */
	bool want_ckpt, want_force, want_home, ending_fiber;
	struct ts_group fiber;
	uint64_t idle_since_ns, last_commits;

	struct ts_list intents; /* fs_intent.link, by hold_lsn */
	struct ts_map by_number;
	struct ts_list staged, ending; /* of the open transaction */
	struct ts_list spare;
	unsigned nspare, nintents;
	uint64_t next_number;
};

/* A frame with room for bytes is open; never waits: fs_log_reserve made sure. */
struct fs_frame *fs_log_frame(struct fs *fs, size_t bytes);
bool fs_log_fits(const struct fs_logstate *g, size_t bytes, uint64_t keep_free); /* ring and frames */
void fs_log_committed(struct fs *fs, uint64_t lsn);
int fs_log_wait_frames(struct fs *fs) TS_MUST_CHECK; /* two frames are free */
uint64_t fs_log_begin_of_next(const struct fs_logstate *g); /* what is committed now goes into a frame that begins here or later */

/* tx.c */
void fs_tx_adopted(struct fs_tx *tx, uint32_t slot, uint64_t incarnation);

/* intent.c */
void fs_intent_encode(uint8_t *out, const struct fs_intent *it);
int fs_intent_inherit(struct fs *fs, enum fs_intent_type type, uint32_t subs, uint64_t a, uint64_t b) TS_MUST_CHECK;
int fs_intent_spare(struct fs *fs, unsigned n) TS_MUST_CHECK;
void fs_intents_committed(struct fs *fs, uint64_t frame_lsn, uint64_t lsn);
struct fs_intent *fs_intent_find(struct fs *fs, uint64_t number);
void fs_intents_free(struct fs *fs);
int fs_intents_relog(struct fs *fs, uint64_t below) TS_MUST_CHECK; /* those whose newest record begins below */

/* loghead.c: header and place of any slot. read: -EUCLEAN if neither copy is good. write: next sequence, flushed. */
fs_addr fs_loghead_addr(const struct fs *fs, uint32_t slot);
uint64_t fs_log_ring_bytes(const struct fs *fs);
int fs_loghead_read(struct fs *fs, uint32_t slot, struct fs_loghead_disk *out) TS_MUST_CHECK;
int fs_loghead_write(struct fs *fs, uint32_t slot, struct fs_loghead_disk *head) TS_MUST_CHECK;

/* recover.c: the live intents of a CLEAN log become ours (in memory). */
int fs_replay_inherit(struct fs *fs, const struct fs_loghead_disk *head) TS_MUST_CHECK;

/* checkpoint.c */
uint64_t fs_log_tail(struct fs *fs); /* what the header could say once all commits are stable */
int fs_log_header_write(struct fs *fs, enum fs_log_state state, uint64_t tail, uint64_t seal) TS_MUST_CHECK; /* ours; and flush */
int fs_log_checkpoint(struct fs *fs, uint64_t below, bool relog) TS_MUST_CHECK;
int fs_log_background(struct fs *fs) TS_MUST_CHECK; /* starts the fiber */
void fs_log_end(struct fs *fs); /* the fiber ends; nothing is written */
void fs_log_wake_all(struct fs *fs); /* the node stopped: whoever waits for the log looks again */

#endif
