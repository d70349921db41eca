/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the log of a dead node: frames, records, runs, and what replay makes of a block. The input is a list of records, sealed into
 * frames as the log does it, or the raw bytes of one frame. Checked beside memory: a replayed block is sound, its version never goes
 * back, and replaying once more changes nothing (recovery may begin again at any time). */
#include "fs/replay.h"
#include "tests/fuzz/fuzz.h"

#define RING  (16u * FS_SUB)
#define NADDR 4u

static const struct fs_frame_id id = {.slot = 1, .incarnation = 7, .fs_id8 = "fuzzfuzz"};
static uint8_t *ring;

static fs_addr addr_of(unsigned i)
{
	return FS_ADDR(0, 5000 + i % NADDR);
}

/* One record from the input; numbers are small, so that records meet. */
static size_t put_rec(struct ts_rd *rd, uint8_t *out, size_t room)
{
	struct fs_rec r = {.type = ts_rd_u8(rd) % 8, .res_kind = ts_rd_u8(rd) % TOK_KINDS, .block_type = ts_rd_u8(rd) % (FS_BT_COUNT + 1)};
	unsigned how = ts_rd_u8(rd);
	struct fs_intent_disk it = {.type = le32_make(how & 3), .subs = le32_make(how >> 2)};
	size_t n;

	r.res_id = ts_rd_u8(rd);
	r.addr = addr_of(ts_rd_u8(rd));
	r.prev_version = ts_rd_u8(rd);
	r.version = ts_rd_u8(rd);
	r.payload = fuzz_run(rd, &n);
	if (r.type == FS_REC_INTENT && !(how & 128)) {
		it.number = le64_make(r.res_id);
		it.a = le64_make(r.addr);
		r.payload = (const uint8_t *)&it;
		n = sizeof(it);
	}
	r.len = (uint32_t)n;
	if (sizeof(struct fs_rec_disk) + n > room)
		return 0;
	out += fs_rec_encode_head(out, &r);
	if (n)
		memcpy(out, r.payload, n);
	return sizeof(struct fs_rec_disk) + n;
}

/* Returns where the log ends. */
static uint64_t build(struct ts_rd *rd)
{
	uint64_t lsn = 0;

	while (!rd->bad && rd->left && lsn + 4 * FS_SUB <= RING) {
		unsigned nrec = ts_rd_u8(rd) % 8;
		uint8_t *frame = ring + lsn;
		size_t used = sizeof(struct fs_frame_disk), n = 1;
		uint32_t len;

		for (unsigned i = 0; i < nrec && n && !rd->bad; i++) {
			n = put_rec(rd, frame + used, 4 * FS_SUB - used);
			used += n;
		}
		len = (uint32_t)TS_ALIGN_UP(used, FS_SUB);
		fs_frame_seal(frame, &id, lsn, len, (uint32_t)(used - sizeof(struct fs_frame_disk)), 0);
		lsn += len;
	}
	return lsn;
}

static void replay_block(const struct fs_replay *r, fs_addr a)
{
	for (struct ts_map_node *n = ts_map_first(&r->blocks, ts_hash_u64(a)); n; n = ts_map_next(n)) {
		const struct fs_replay_block *b = TS_CONTAINER(n, struct fs_replay_block, node);
		uint8_t *data = ts_alloc_aligned(FS_SUB, FS_SUB);
		bool changed, again;
		uint64_t before;

		if (b->addr != a || !b->last) {
			ts_free(data);
			continue;
		}
		memset(data, 0, FS_SUB); /* one of them was written before, with version 3 */
		fs_mdhdr_fill(data, id.fs_id8, FS_BT_INODE, TOK_INODE, a, 5, 1);
		fs_mdhdr_seal(data, 1, 3);
		if (a == addr_of(1))
			data[100] ^= 1; /* torn */
		before = fs_mdhdr_wrong(data, id.fs_id8, 0, a) ? 0 : 3;
		if (fs_replay_apply(r, b, id.fs_id8, 9, data, &changed) == 0 && changed) {
			TS_ASSERT(!fs_mdhdr_wrong(data, id.fs_id8, 0, a) && fs_mdhdr_version(data) > before);
			TS_ASSERT(fs_replay_apply(r, b, id.fs_id8, 9, data, &again) == 0 && !again);
		}
		ts_free(data);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct ts_rd rd = fuzz_in(p, n);
	unsigned how = ts_rd_u8(&rd);
	struct fs_logimage img = {.id = id, .ring_bytes = RING};
	struct fs_replay *r;
	uint64_t end = 0;

	ring = ts_alloc_aligned(FS_SUB, RING);
	memset(ring, 0, RING);
	img.ring = ring;
	if (how & 1) {
		size_t len = TS_MIN(rd.left, (size_t)RING - sizeof(struct fs_frame_disk));

		memcpy(ring + sizeof(struct fs_frame_disk), rd.p, len);
		end = TS_ALIGN_UP(sizeof(struct fs_frame_disk) + len, FS_SUB);
		fs_frame_seal(ring, &id, 0, (uint32_t)end, (uint32_t)len, 0);
	} else {
		end = build(&rd);
	}
	img.seal = how & 2 ? end : 0;
	if (fs_replay_scan(&img, &r) == 0) {
		TS_ASSERT(r->end <= RING && r->end == end);
		for (unsigned i = 0; i < NADDR; i++)
			replay_block(r, addr_of(i));
		fs_replay_free(r);
	}
	ts_free(ring);
	return 0;
}

void fuzz_seeds(void)
{
	static uint8_t buf[32768], before[FS_SUB], now[FS_SUB], runs[FS_REC_BUF_MAX];
	struct ts_wr w = {.p = buf, .left = sizeof(buf)};

	ts_wr_u8(&w, 0);
	for (unsigned i = 0; i < 4; i++) {
		ts_wr_u8(&w, 3);
		for (unsigned k = 0; k < 3; k++) {
			unsigned type = k == 0 ? FS_REC_IMAGE : k == 1 ? FS_REC_DELTA : FS_REC_INTENT;
			const uint8_t head[8] = {(uint8_t)type, TOK_INODE, FS_BT_INODE, 4 | FS_INTENT_FREE, 5, (uint8_t)(k == 2 ? 3 : i % 3), (uint8_t)(10 + k), (uint8_t)(10 + k + 1)};
			size_t n;

			fs_mdhdr_fill(now, id.fs_id8, FS_BT_INODE, TOK_INODE, addr_of(i), 5, 1);
			memset(now + 200 + 64 * k, 'a', 40);
			n = fs_runs_encode(runs, k ? before : NULL, now);
			memcpy(before, now, FS_SUB);
			ts_wr_bytes(&w, head, sizeof(head));
			fuzz_run_put(&w, runs, n);
		}
	}
	fuzz_seed(buf, w.used);
	buf[0] = 2;
	fuzz_seed(buf, w.used);
	buf[0] = 1;
	fuzz_seed(buf, w.used);
}
