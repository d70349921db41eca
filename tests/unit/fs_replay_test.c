/* SPDX-License-Identifier: Apache-2.0 */
/* Job: logs built byte by byte: every order and version, torn homes, freed blocks, ring ends, truncation at every block,
 * flipped bits, and payloads of nonsense under good checksums. Replay never reads outside and never takes a version back. */
#include "fs_harness.h"
#include "fs/replay.h"

#include <stdio.h>

#define RING (64u * FS_SUB)
static const uint8_t id8[8] = {1, 2, 3, 4, 5, 6, 7, 8};
static uint64_t rng;
static uint64_t rnd(void)
{
	rng += 0x9e3779b97f4a7c15ULL;
	return ts_hash_u64(rng);
}

/* ---- runs --------------------------------------------------------------------------------------------------------- */

static void runs(void **state)
{
	uint8_t a[FS_SUB], b[FS_SUB], c[FS_SUB], out[FS_REC_BUF_MAX];

	rng = 7;
	for (unsigned round = 0; round < 3000; round++) {
		unsigned edits = rnd() % 40;
		size_t n;

		for (size_t i = 0; i < FS_SUB; i++)
			a[i] = round % 3 ? (uint8_t)rnd() : 0;
		memcpy(b, a, FS_SUB);
		for (unsigned i = 0; i < edits; i++) {
			size_t at = 64 + rnd() % (FS_SUB - 64), len = 1 + rnd() % (FS_SUB - at);

			memset(b + at, (int)rnd(), rnd() % 3 ? TS_MIN(len, (size_t)9) : len);
		}
		n = fs_runs_encode(out, a, b);
		assert_true(n <= FS_REC_BUF_MAX - 40);
		memcpy(c, a, FS_SUB);
		assert_true(fs_runs_apply(c, out, n));
		assert_memory_equal(b, c, FS_SUB);
		n = fs_runs_encode(out, NULL, b);
		memset(c, 0, FS_SUB);
		assert_true(fs_runs_apply(c, out, n));
		memcpy(c + 40, b + 40, 24); /* whoever writes the block makes these */
		assert_memory_equal(b, c, FS_SUB);
	}
	for (unsigned i = 0; i < FS_SUB; i++) /* the worst: every other word */
		b[i] = (uint8_t)(a[i] + (i / 8 % 2 ? 1 : 0));
	assert_true(fs_runs_encode(out, a, b) <= FS_REC_BUF_MAX - 40);
}

static void hostile_runs(void **state)
{
	uint8_t block[FS_SUB], bytes[256];

	rng = 8;
	for (unsigned round = 0; round < 100000; round++) {
		size_t n = rnd() % sizeof(bytes);
		uint8_t *exact = ts_xalloc(n); /* for the address sanitizer */

		for (size_t i = 0; i < n; i++)
			exact[i] = rnd() % 4 ? (uint8_t)(rnd() % 17) : (uint8_t)rnd();
		(void)fs_runs_apply(block, exact, n);
		ts_free(exact);
	}
}

/* ---- a log in memory ---------------------------------------------------------------------------------------------- */

struct maker {
	uint8_t *ring;
	struct fs_logimage img;
	uint64_t lsn;
	uint8_t frame[8 * FS_SUB];
	size_t used;
};

static struct maker *maker_new(uint64_t lsn)
{
	struct maker *m = ts_xalloc(sizeof(*m));

	m->ring = ts_xalloc(RING);
	m->lsn = lsn;
	m->img = (struct fs_logimage){.id = {.slot = 3, .incarnation = 9}, .ring = m->ring, .ring_bytes = RING, .tail = lsn};
	memcpy(m->img.id.fs_id8, id8, 8);
	m->used = sizeof(struct fs_frame_disk);
	return m;
}
static void maker_free(struct maker *m)
{
	ts_free(m->ring);
	ts_free(m);
}
static void frame_end(struct maker *m)
{
	uint32_t len = (uint32_t)TS_ALIGN_UP(m->used, FS_SUB);
	uint64_t to_end = RING - m->lsn % RING;

	if (len > to_end) {
		uint8_t pad[FS_SUB] = {0};

		fs_frame_seal(pad, &m->img.id, m->lsn, (uint32_t)to_end, 0, m->img.tail);
		memcpy(m->ring + m->lsn % RING, pad, FS_SUB);
		m->lsn += to_end;
	}
	fs_frame_seal(m->frame, &m->img.id, m->lsn, len, (uint32_t)(m->used - sizeof(struct fs_frame_disk)), m->img.tail);
	memcpy(m->ring + m->lsn % RING, m->frame, len);
	m->lsn += len;
	memset(m->frame, 0, sizeof(m->frame));
	m->used = sizeof(struct fs_frame_disk);
}

/* Block contents of this version, as some history of one block. */
static void content(uint8_t *b, fs_addr a, uint64_t version)
{
	memset(b, 0, FS_SUB);
	fs_mdhdr_fill(b, id8, FS_BT_DIRLEAF, TOK_DIR, a, 77, 1);
	for (uint64_t v = 10; v <= version; v++)
		b[100 + ts_hash_2(a, v) % 3900] = (uint8_t)v;
	fs_mdhdr_seal(b, 9, version);
}
static void rec_block(struct maker *m, fs_addr a, uint64_t prev, uint64_t version) /* prev 0: image */
{
	uint8_t before[FS_SUB], now[FS_SUB];
	struct fs_rec r = {.type = prev ? FS_REC_DELTA : FS_REC_IMAGE, .res_kind = TOK_DIR, .block_type = FS_BT_DIRLEAF, .res_id = 77,
			   .addr = a, .prev_version = prev, .version = version};

	content(before, a, prev);
	content(now, a, version);
	r.len = (uint32_t)fs_runs_encode(m->frame + m->used + 40, prev ? before : NULL, now);
	m->used += fs_rec_encode_head(m->frame + m->used, &r) + r.len;
}
static void rec_intent(struct maker *m, uint64_t number, enum fs_intent_type type, fs_addr a, uint32_t subs)
{
	struct fs_intent it = {.number = number, .type = type, .a = a, .subs = subs};

	fs_intent_encode(m->frame + m->used, &it);
	m->used += FS_REC_INTENT_BYTES;
}
static void rec_plain(struct maker *m, enum fs_rec_type type, uint64_t id, uint64_t version)
{
	struct fs_rec r = {.type = type, .res_id = id, .version = version};

	m->used += fs_rec_encode_head(m->frame + m->used, &r);
}

static struct fs_replay *scan(struct maker *m, int want)
{
	struct fs_replay *r;
	int rc = fs_replay_scan(&m->img, &r);

	assert_int_equal(rc, want);
	return r;
}

struct pick {
	fs_addr a;
	const struct fs_replay_block *b;
};
static int pick_one(struct ts_map_node *n, void *arg)
{
	struct pick *p = arg;
	const struct fs_replay_block *b = TS_CONTAINER(n, struct fs_replay_block, node);

	if (b->addr == p->a)
		p->b = b;
	return 0;
}
static const struct fs_replay_block *block(struct fs_replay *r, fs_addr a)
{
	struct pick p = {.a = a};

	ts_map_each(&r->blocks, pick_one, &p);
	return p.b;
}

/* Applies to a disk block; the version it has then, or -errno. */
static int64_t apply(struct fs_replay *r, fs_addr a, uint8_t *disk)
{
	uint8_t want[FS_SUB];
	bool changed;
	const struct fs_replay_block *b = block(r, a);
	int rc = b ? fs_replay_apply(r, b, id8, 9, disk, &changed) : 0;

	if (rc)
		return rc;
	if (fs_mdhdr_wrong(disk, id8, FS_BT_DIRLEAF, a))
		return 0;
	content(want, a, fs_mdhdr_version(disk));
	assert_memory_equal(want, disk, FS_SUB);
	return (int64_t)fs_mdhdr_version(disk);
}

/* ---- versions ----------------------------------------------------------------------------------------------------- */

static void versions(void **state)
{
	const fs_addr a = FS_ADDR(0, 5000);
	struct maker *m = maker_new(RING);
	struct fs_replay *r;
	uint8_t disk[FS_SUB];

	rec_block(m, a, 9, 10); /* of before the last home: its image lies before the tail */
	rec_block(m, a, 10, 11);
	rec_block(m, a, 0, 14);
	frame_end(m);
	rec_block(m, a, 14, 15);
	rec_block(m, a, 15, 20);
	frame_end(m);
	r = scan(m, 0);
	assert_int_equal(r->end, m->lsn);
	for (uint64_t v = 10; v < 30; v += v == 15 ? 5 : 1) { /* whatever can be at home: nobody wrote between 15 and 20 */
		content(disk, a, v);
		assert_int_equal(apply(r, a, disk), TS_MAX(v, (uint64_t)20));
	}
	memset(disk, 0xee, FS_SUB); /* never written */
	assert_int_equal(apply(r, a, disk), 20);
	for (unsigned cut = 512; cut < FS_SUB; cut += 512) { /* torn between any two versions */
		uint8_t other[FS_SUB];

		content(disk, a, 11);
		content(other, a, 18);
		memcpy(disk, other, cut);
		assert_int_equal(apply(r, a, disk), 20);
	}
	fs_replay_free(r);
	maker_free(m);

	m = maker_new(RING);
	rec_block(m, a, 11, 12); /* no image: only the right version can be brought on */
	frame_end(m);
	r = scan(m, 0);
	content(disk, a, 11);
	assert_int_equal(apply(r, a, disk), 12);
	content(disk, a, 13);
	assert_int_equal(apply(r, a, disk), 13);
	content(disk, a, 10);
	assert_int_equal(apply(r, a, disk), -ENODATA);
	memset(disk, 0, FS_SUB);
	assert_int_equal(apply(r, a, disk), -ENODATA);
	fs_replay_free(r);
	maker_free(m);
}

/* One node's change went home, the next holder's home write of the block was torn: only the second log can rebuild it, and what
 * the first asks for in the end is there, in whichever order they are replayed. */
static void torn_by_the_next_holder(void **state)
{
	const fs_addr a = FS_ADDR(0, 5000);
	struct maker *m[2] = {maker_new(RING), maker_new(RING)};
	struct fs_replay *r[2];
	struct pick p = {.a = a};
	uint8_t disk[FS_SUB];

	rec_block(m[0], a, 11, 12);
	frame_end(m[0]);
	rec_block(m[1], a, 0, 14);
	rec_block(m[1], a, 14, 20);
	frame_end(m[1]);
	for (unsigned i = 0; i < 2; i++)
		r[i] = scan(m[i], 0);
	ts_map_each(&r[0]->blocks, pick_one, &p);
	assert_int_equal(fs_replay_last(r[0], p.b), 12);
	memset(disk, 0xee, FS_SUB);
	assert_int_equal(apply(r[0], a, disk), -ENODATA);
	assert_int_equal(apply(r[1], a, disk), 20);
	assert_int_equal(apply(r[0], a, disk), 20);
	for (unsigned i = 0; i < 2; i++) {
		fs_replay_free(r[i]);
		maker_free(m[i]);
	}
}

static void freed(void **state)
{
	const fs_addr a = FS_ADDR(0, 5000);
	struct maker *m = maker_new(RING);
	struct fs_replay *r;
	uint8_t disk[FS_SUB], same[FS_SUB];

	for (unsigned i = 0; i < 4; i++)
		rec_block(m, a + i, 0, 10);
	rec_intent(m, 1, FS_INTENT_FREE, a + 1, 2);
	rec_intent(m, 2, FS_INTENT_ORPHAN, 99, 0);
	frame_end(m);
	rec_block(m, a + 2, 0, 12); /* used again */
	rec_plain(m, FS_REC_INTENT_DONE, 2, 0);
	rec_plain(m, FS_REC_INTENT_DONE, 77, 0); /* its beginning is before the tail */
	rec_plain(m, FS_REC_ADOPTED, 5, 66);
	frame_end(m);
	r = scan(m, 0);
	memset(disk, 0x55, FS_SUB); /* somebody's data */
	memcpy(same, disk, FS_SUB);
	assert_int_equal(apply(r, a + 1, disk), 0);
	assert_memory_equal(disk, same, FS_SUB);
	assert_int_equal(apply(r, a, disk), 10);
	assert_int_equal(apply(r, a + 2, disk), 12);
	assert_int_equal(r->intents.count, 1);
	assert_true(fs_replay_has_adopted(r, 5, 66));
	assert_false(fs_replay_has_adopted(r, 5, 67));
	fs_replay_free(r);
	maker_free(m);
}

/* ---- ends --------------------------------------------------------------------------------------------------------- */

static void ends(void **state)
{
	for (uint64_t start = RING; start < 2 * RING; start += FS_SUB) { /* the ring's end everywhere */
		struct maker *m = maker_new(start);
		uint64_t end[80];
		unsigned n = 0;
		struct fs_replay *r;

		rng = start;
		while (m->lsn < start + RING - 8 * FS_SUB) {
			for (uint64_t k = 1 + rnd() % 3; k; k--)
				rec_block(m, FS_ADDR(0, 5000 + rnd() % 50), 0, 10 + n);
			frame_end(m);
			end[n++] = m->lsn;
		}
		r = scan(m, 0);
		assert_int_equal(r->end, end[n - 1]);
		fs_replay_free(r);
		m->img.seal = end[n / 2];
		r = scan(m, 0);
		assert_int_equal(r->end, end[n / 2]);
		fs_replay_free(r);
		m->img.seal += FS_SUB * 100;
		assert_null(scan(m, -EUCLEAN));
		/* One bad byte in a frame ends the log before it; a sealed log must not end there. */
		m->img.seal = 0;
		m->ring[end[n / 2] % RING + 70] ^= 4;
		r = scan(m, 0);
		if (r->end != end[n / 2])
			assert_int_equal(r->end - end[n / 2], RING - end[n / 2] % RING); /* a pad stands there; its frame is elsewhere */
		fs_replay_free(r);
		maker_free(m);
	}
}

static void bit_flips(void **state)
{
	struct maker *m = maker_new(5 * RING);
	const fs_addr a = FS_ADDR(0, 5000);
	struct fs_replay *r;
	uint8_t disk[FS_SUB];

	for (unsigned i = 0; i < 12; i++) {
		rec_block(m, a + i % 3, i < 3 ? 0 : 10 + i - 3, 10 + i);
		frame_end(m);
	}
	rng = 11;
	for (unsigned round = 0; round < 20000; round++) {
		uint64_t bit = rnd() % (12 * FS_SUB * 8);

		m->ring[bit / 8] ^= (uint8_t)(1 << bit % 8);
		r = scan(m, 0);
		assert_true(r->end <= m->lsn && r->end >= m->img.tail);
		for (unsigned i = 0; i < 3; i++) {
			memset(disk, 0, FS_SUB);
			assert_true(apply(r, a + i, disk) >= 0);
		}
		fs_replay_free(r);
		m->ring[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	maker_free(m);
}

/* Good checksums over nonsense: what a bug or an enemy writes. */
static void nonsense(void **state)
{
	const fs_addr a = FS_ADDR(0, 5000);

	rng = 12;
	for (unsigned round = 0; round < 20000; round++) {
		struct maker *m = maker_new(RING);
		struct fs_replay *r;
		uint8_t disk[FS_SUB];
		bool changed;

		rec_block(m, a, 0, 10);
		rec_block(m, a, 10, 11);
		rec_intent(m, 1, FS_INTENT_FREE, a + 9, 2);
		rec_plain(m, FS_REC_ADOPTED, 5, 66);
		for (unsigned i = 0; i < 1 + round % 5; i++) {
			size_t at = 64 + rnd() % (m->used - 64);

			m->frame[at] = rnd() % 2 ? (uint8_t)rnd() : (uint8_t)(m->frame[at] ^ (1 << rnd() % 8));
		}
		if (rnd() % 4 == 0)
			m->used -= rnd() % (m->used - 64);
		frame_end(m);
		if (fs_replay_scan(&m->img, &r) == 0) {
			struct pick p = {.a = a};

			ts_map_each(&r->blocks, pick_one, &p);
			content(disk, a, 9);
			if (p.b && fs_replay_apply(r, p.b, id8, 9, disk, &changed) == 0)
				assert_true(fs_mdhdr_version(disk) >= 9);
			fs_replay_free(r);
		}
		maker_free(m);
	}
}

static void bad_images(void **state)
{
	struct maker *m = maker_new(RING);

	m->img.tail = RING + 1;
	assert_null(scan(m, -EUCLEAN));
	m->img.tail = UINT64_MAX - FS_SUB + 1;
	assert_null(scan(m, -EUCLEAN));
	m->img.tail = RING;
	m->img.seal = FS_SUB;
	assert_null(scan(m, -EUCLEAN));
	m->img.seal = 0;
	m->img.ring_bytes = 0;
	assert_null(scan(m, -EUCLEAN));
	maker_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(runs),	 cmocka_unit_test(hostile_runs), cmocka_unit_test(versions), cmocka_unit_test(torn_by_the_next_holder), cmocka_unit_test(freed),
		cmocka_unit_test(ends),	 cmocka_unit_test(bit_flips),	 cmocka_unit_test(nonsense), cmocka_unit_test(bad_images),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
