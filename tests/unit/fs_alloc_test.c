/* SPDX-License-Identifier: Apache-2.0 */
/* Job: allocation of space: bits, placement, taking and returning, frees that wait for the log, revokes, a full file system. */
#include "fs_alloc_util.h"

static uint64_t rng = 1;
static uint32_t rnd(uint32_t n)
{
	rng = ts_hash_u64(rng + 0x9e3779b97f4a7c15ULL);
	return (uint32_t)(rng % n);
}

/* ---- bits against the naive way ------------------------------------------------------------------------------------ */
#define NB 1000u
static void bits(void **state)
{
	uint64_t w[(NB + 63) / 64] = {0};
	bool m[NB] = {0};

	for (unsigned round = 0; round < 20000; round++) {
		uint32_t from = rnd(NB), n = 1 + rnd(TS_MIN(200u, NB - from)), need = 1 + rnd(80), c = 0, run = 0, at = FS_NO_SUB;

		for (uint32_t i = from; i < from + n; i++)
			c += m[i];
		for (uint32_t i = from; i < from + n && at == FS_NO_SUB; i++) {
			run = m[i] ? 0 : run + 1;
			if (run == need)
				at = i + 1 - need;
		}
		assert_int_equal(fs_bits_count(w, from, n), c);
		assert_int_equal(fs_bits_any(w, from, n), c > 0);
		assert_int_equal(fs_bits_all(w, from, n), c == n);
		assert_int_equal(fs_bits_run(w, from, from + n, need), at);
		if (rnd(2))
			fs_bits_set(w, from, n);
		else
			fs_bits_clear(w, from, n);
		c = fs_bits_any(w, from, 1);
		for (uint32_t i = from; i < from + n; i++)
			m[i] = c;
	}
}

static void chunk_setup(struct fs_chunk *c, uint32_t nsubs, uint32_t unit)
{
	memset(c, 0, sizeof(*c));
	memset(c->shadow, 0xff, sizeof(c->shadow));
	fs_bits_clear(c->shadow, FS_CHUNK_HEAD, nsubs - FS_CHUNK_HEAD);
	c->nsubs = nsubs;
	c->free = nsubs - FS_CHUNK_HEAD;
	fs_chunk_reset(c, unit);
}

/* Whole units are aligned, small ones leave them whole, and everything is found until nothing is left. */
static void chunk(void **state)
{
	static const uint32_t units[] = {16, 256, 512, 4096};
	struct fs_chunk *c = ts_xalloc(sizeof(*c));

	for (unsigned k = 0; k < TS_ARRAY_LEN(units); k++) {
		uint32_t unit = units[k], nsubs = FS_BITMAP_BITS, whole = nsubs / unit - 1, got = 0, off;

		chunk_setup(c, nsubs, unit);
		for (uint32_t i = 0; i < unit - FS_CHUNK_HEAD; i++) { /* the unit with the head takes them all */
			off = fs_chunk_find(c, unit, 1, FS_NO_SUB);
			assert_true(off < unit && off >= FS_CHUNK_HEAD && !fs_bits_any(c->shadow, off, 1));
			fs_bits_set(c->shadow, off, 1);
			c->free--;
		}
		while ((off = fs_chunk_find(c, unit, unit, FS_NO_SUB)) != FS_NO_SUB) {
			assert_true(off % unit == 0 && !fs_bits_any(c->shadow, off, unit));
			fs_bits_set(c->shadow, off, unit);
			c->free -= unit;
			got++;
		}
		assert_int_equal(got, whole);
		assert_int_equal(fs_chunk_find(c, unit, 1, FS_NO_SUB), FS_NO_SUB);
		fs_bits_clear(c->shadow, 5 * unit, unit / 2);
		c->free += unit / 2;
		fs_chunk_reset(c, unit);
		assert_int_equal(fs_chunk_find(c, unit, unit, FS_NO_SUB), FS_NO_SUB);
		assert_int_equal(fs_chunk_find(c, unit, unit / 2 + 1, FS_NO_SUB), FS_NO_SUB);
		assert_int_equal(fs_chunk_find(c, unit, unit / 2, FS_NO_SUB), 5 * unit);
	}
	ts_free(c);
}

/* ---- on a node ------------------------------------------------------------------------------------------------------- */
static int get(struct fs *fs, bool meta, uint32_t subs, uint64_t stripe, struct fs_ext *e)
{
	int rc = fs_alloc_take(fs, meta, subs, 0, stripe, e);

	while (rc == -FS_NEED_SPACE || rc == -FS_NEED_META) {
		rc = fs_alloc_refill(fs, rc);
		if (!rc)
			rc = fs_alloc_take(fs, meta, subs, 0, stripe, e);
	}
	return rc;
}

static uint64_t commit(struct fs *fs, const struct fs_ext *e, unsigned n)
{
	struct fs_tx tx;

	assert_int_equal(fs_log_reserve(fs, 0), 0);
	fs_tx_begin(fs, &tx);
	for (unsigned i = 0; i < n; i++)
		fs_alloc_commit(fs, &tx, &e[i]);
	return fs_tx_commit(&tx);
}

static uint64_t release(struct fs *fs, const struct fs_ext *e, unsigned n)
{
	struct fs_tx tx;

	assert_int_equal(fs_log_reserve(fs, 0), 0);
	fs_tx_begin(fs, &tx);
	for (unsigned i = 0; i < n; i++)
		fs_alloc_free(fs, &tx, e[i].addr, e[i].subs, 1);
	return fs_tx_commit(&tx);
}

struct model { /* every sub-block in use, to find an overlap */
	uint8_t *used[8];
	uint64_t subs;
};
static void model_add(struct fs *fs, struct model *m, const struct fs_ext *e, bool in_use)
{
	unsigned d = FS_ADDR_DISK(e->addr);

	for (uint64_t s = FS_ADDR_SUB(e->addr); s < FS_ADDR_SUB(e->addr) + e->subs; s++) {
		assert_int_equal(m->used[d][s], !in_use);
		m->used[d][s] = in_use;
	}
	m->subs += in_use ? e->subs : -(uint64_t)e->subs;
}
static void model_new(struct fs *fs, struct model *m)
{
	memset(m, 0, sizeof(*m));
	for (unsigned d = 0; d < fs->ndisks; d++)
		m->used[d] = ts_xalloc(le64_get(fs->disks[d].ent.size_subs));
}
static void model_free(struct fs *fs, struct model *m)
{
	for (unsigned d = 0; d < fs->ndisks; d++)
		ts_free(m->used[d]);
}

#define HELD 400u
static void random_body(struct fs *fs)
{
	struct model m;
	struct fs_ext held[HELD], e;
	bool in_use[HELD] = {0}, committed[HELD] = {0};
	struct fs_room room0, room1;

	model_new(fs, &m);
	assert_int_equal(fs_alloc_statfs(fs, &room0), 0);
	for (unsigned round = 0; round < 6000; round++) {
		unsigned i = rnd(HELD);
		bool meta = i % 4 == 0;

		if (!in_use[i]) {
			uint32_t subs = meta ? 1 : rnd(2) ? fs->block_subs : 1 + rnd(fs->block_subs);

			assert_int_equal(get(fs, meta, subs, rnd(100), &held[i]), 0);
			if (!meta && subs == fs->block_subs) {
				struct fs_place p;

				assert_true(fs_alloc_place(fs, held[i].addr, subs, &p));
				assert_int_equal(p.off % fs->block_subs, 0);
			}
			model_add(fs, &m, &held[i], true);
			in_use[i] = true;
			committed[i] = false;
		} else if (!committed[i] && rnd(2)) {
			commit(fs, &held[i], 1);
			committed[i] = true;
		} else if (!committed[i]) {
			fs_alloc_untake(fs, &held[i]);
			model_add(fs, &m, &held[i], false);
			in_use[i] = false;
		} else {
			release(fs, &held[i], 1);
			model_add(fs, &m, &held[i], false); /* an earlier use of it would show as an overlap in the bitmaps */
			in_use[i] = false;
		}
	}
	for (unsigned i = 0; i < HELD; i++) {
		if (in_use[i] && committed[i])
			release(fs, &held[i], 1);
		else if (in_use[i])
			fs_alloc_untake(fs, &held[i]);
	}
	assert_int_equal(fs_reaper_urgent(fs, TS_NS_PER_S), 0);
	ts_sleep_until(ts_exec_now(fs->exec) + 20 * TS_NS_PER_S);
	assert_true(ts_list_empty(fs_log_intents(fs)));
	assert_int_equal(fs_alloc_statfs(fs, &room1), 0);
	assert_int_equal(room0.free, room1.free);
	assert_int_equal(get(fs, false, 1, 0, &e), 0);
	fs_alloc_untake(fs, &e);
	model_free(fs, &m);
}
static void random_use(void **state)
{
	util_test(1, 600 << 20, 64 << 10, random_body);
	util_test(4, 400 << 20, 1 << 20, random_body);
}

/* Freed space is given out again only when the freeing transaction is stable, and then it is. */
static void stable_body(struct fs *fs)
{
	struct fs_ext *e = ts_xalloc(100000 * sizeof(*e)), again;
	unsigned n = 0;
	uint64_t lsn;
	int rc;

	while ((rc = get(fs, false, fs->block_subs, n, &e[n])) == 0) {
		commit(fs, &e[n], 1);
		n++;
	}
	assert_int_equal(rc, -ENOSPC);
	assert_int_equal(fs_log_force(fs, fs_log_head(fs)), 0);
	lsn = release(fs, &e[7], 1);
	assert_true(fs_log_stable(fs) < lsn);
	assert_int_equal(fs_alloc_take(fs, false, fs->block_subs, 0, 0, &again), -FS_NEED_SPACE);
	assert_int_equal(get(fs, false, fs->block_subs, 0, &again), 0);
	assert_true(fs_log_stable(fs) >= lsn);
	assert_int_equal(again.addr, e[7].addr);
	fs_alloc_untake(fs, &again);
	/* Full for data, yet metadata that deleting may need is there. */
	assert_int_equal(get(fs, true, 1, 0, &again), 0);
	fs_alloc_untake(fs, &again);
	ts_free(e);
}
static void reuse_when_stable(void **state)
{
	util_test(1, 300 << 20, 1 << 20, stable_body);
}

/* Metadata runs full; the reserve is for deleting only. */
static void reserve_body(struct fs *fs)
{
	struct fs_ext *e = ts_xalloc(300000 * sizeof(*e)), r[FS_META_RESERVE];
	unsigned n = 0, k = 0;
	int rc;

	while ((rc = get(fs, true, 1, n, &e[n])) == 0)
		n++;
	assert_int_equal(rc, -ENOSPC);
	assert_true(n > 20000);
	while (k < FS_META_RESERVE && !fs_alloc_take_reserve(fs, 1, 0, &r[k]))
		k++;
	assert_int_equal(k, FS_META_RESERVE);
	while (k)
		fs_alloc_untake(fs, &r[--k]);
	/* All regions are metadata now; when they are empty data may have them. */
	while (n)
		fs_alloc_untake(fs, &e[--n]);
	for (n = 0; (rc = get(fs, false, fs->block_subs, n, &e[n])) == 0; n++)
		;
	assert_int_equal(rc, -ENOSPC);
	assert_true(n > 100);
	for (unsigned i = 0; i < n; i++) {
		struct fs_place p;
		bool skip;

		assert_true(fs_alloc_place(fs, e[i].addr, e[i].subs, &p));
		/* An old log record for a block in there is void: the new type is at home. */
		assert_int_equal(fs_alloc_record_void(fs, e[i].addr, 1, &skip), 0);
		assert_true(skip || fs->alloc->hints[p.region].reg->type != FS_REGION_DATA ||
			    le64_get(fs_bitmap_of(fs->alloc->hints[p.region].reg->chunks[0].buf)->retyped_version) > 1);
	}
	while (n)
		fs_alloc_untake(fs, &e[--n]);
	ts_free(e);
}
static void reserve_and_retype(void **state)
{
	util_test(1, 400 << 20, 1 << 20, reserve_body);
}

struct late {
	struct fs *fs;
	struct fs_ext e;
	bool committed;
};
static void late_commit(void *arg)
{
	struct late *l = arg;

	ts_sleep_until(ts_exec_now(l->fs->exec) + 200 * TS_NS_PER_MS);
	commit(l->fs, &l->e, 1);
	l->committed = true;
}

/* A revoke waits for what was taken; afterwards the bits are at home and the region is not used. */
static void revoke_body(struct fs *fs)
{
	struct late l = {.fs = fs};
	struct fs_bitmap_disk *d = ts_alloc_aligned(FS_SUB, FS_SUB);
	struct fs_place p, q;
	struct fs_ext e;

	assert_non_null(d);
	assert_int_equal(get(fs, false, fs->block_subs, 0, &l.e), 0);
	assert_true(fs_alloc_place(fs, l.e.addr, l.e.subs, &p));
	assert_int_equal(ts_fiber_spawn(fs->exec, "late", late_commit, &l), 0);
	assert_int_equal(fs_tok_stub_revoke(fs->tok, TOK_REGION, p.region, TOK_NL), 0);
	assert_true(l.committed);
	assert_null(fs->alloc->hints[p.region].reg);
	assert_null(fs_buf_peek(fs, fs_chunk_addr(fs, p.disk, p.region)));
	assert_int_equal(fs_io_read(fs, fs_chunk_addr(fs, p.disk, p.region), d, FS_SUB), 0);
	assert_true(fs_dbits_all(d->bits, p.off, l.e.subs));
	assert_int_equal(fs_alloc_take(fs, false, 1, 0, 0, &e), -FS_NEED_SPACE);
	assert_int_equal(get(fs, false, 1, 0, &e), 0);
	assert_true(fs_alloc_place(fs, e.addr, 1, &q));
	fs_alloc_untake(fs, &e);
	/* A free in a region that is not ours: the reaper takes its token. */
	release(fs, &l.e, 1);
	ts_sleep_until(ts_exec_now(fs->exec) + 20 * TS_NS_PER_S);
	assert_true(ts_list_empty(fs_log_intents(fs)));
	ts_free(d);
}
static void revoke(void **state)
{
	util_test(2, 400 << 20, 256 << 10, revoke_body);
}

/* What is freed in a region that another node gave its type is space of files, whatever was believed of the region before. */
static void coming_body(struct fs *fs)
{
	uint64_t coming[3];
	struct fs_ext e;
	struct fs_place p;

	assert_int_equal(get(fs, false, 16, 0, &e), 0);
	commit(fs, &e, 1);
	assert_true(fs_alloc_place(fs, e.addr, 16, &p));
	assert_int_equal(fs_tok_stub_revoke(fs->tok, TOK_REGION, p.region, TOK_NL), 0);
	fs->alloc->hints[p.region].type = FS_REGION_FREE;
	release(fs, &e, 1);
	fs_space_coming(fs, coming);
	assert_int_equal(coming[FS_REGION_DATA], 16);
	assert_int_equal(coming[FS_REGION_FREE] + coming[FS_REGION_META], 0);
	ts_sleep_until(ts_exec_now(fs->exec) + 20 * TS_NS_PER_S);
	fs_space_coming(fs, coming);
	assert_int_equal(coming[FS_REGION_DATA], 0);
}
static void coming(void **state)
{
	util_test(1, 300 << 20, 256 << 10, coming_body);
}

/* Freeing what is free stops the node. */
static void double_free_body(struct fs *fs)
{
	struct fs_ext e;

	assert_int_equal(get(fs, false, 4, 0, &e), 0);
	commit(fs, &e, 1);
	release(fs, &e, 1);
	release(fs, &e, 1);
	ts_sleep_until(ts_exec_now(fs->exec) + 20 * TS_NS_PER_S);
	assert_int_equal(fs->run, FS_RUN_STOPPED);
}
static void double_free(void **state)
{
	struct fsh *h = fsh_new(1, 300 << 20);
	struct util_run u = {.body = double_free_body};

	fsh_format(h, 1 << 20);
	u.fs = fsh_core(h);
	fsh_run(h, util_fiber, &u);
	fsh_free(h);
}

/* A refill whose memory or disk fails at any step leaves nothing behind and works the next time. */
static struct fsh *fault_h;
static void fault_body(struct fs *fs)
{
	for (unsigned kind = 0; kind < 2; kind++) {
		uint64_t nth = 1;
		int rc;

		do {
			struct fs_ext e;

			for (uint32_t r = 0; r < fs->alloc->nregions; r++)
				assert_int_equal(fs_tok_stub_revoke(fs->tok, TOK_REGION, r, TOK_NL), 0);
			if (kind) {
				fault_h->disk[0]->fail_op = NSD_READ;
				fault_h->disk[0]->fail_rc = -EIO;
				fault_h->disk[0]->fail_nth = nth++;
			} else {
				ts_alloc_fail_nth(nth++);
			}
			rc = fs_alloc_take(fs, false, 16, 0, 0, &e);
			if (rc == -FS_NEED_SPACE)
				rc = fs_alloc_refill(fs, rc);
			ts_alloc_fail_nth(0);
			fault_h->disk[0]->fail_nth = 0;
			assert_true(rc == 0 || rc == (kind ? -EIO : -ENOMEM));
			assert_int_equal(fs_tok_stub_pins(), 0);
			assert_int_equal(get(fs, false, 16, 0, &e), 0);
			fs_alloc_untake(fs, &e);
			assert_true(nth < 1000);
		} while (rc);
	}
}
static void fault_each(void **state)
{
	struct util_run u = {.body = fault_body, .down = true};

	fault_h = fsh_new(2, 300 << 20);
	fsh_format(fault_h, 1 << 20);
	u.fs = fsh_core(fault_h);
	fsh_run(fault_h, util_fiber, &u);
	fsh_core_close(fault_h);
	fsh_free(fault_h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bits),		    cmocka_unit_test(chunk),	  cmocka_unit_test(random_use),
		cmocka_unit_test(reuse_when_stable), cmocka_unit_test(reserve_and_retype), cmocka_unit_test(revoke),
		cmocka_unit_test(coming),	    cmocka_unit_test(double_free),	  cmocka_unit_test(fault_each),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
