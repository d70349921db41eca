/* SPDX-License-Identifier: Apache-2.0 */
/* Job: bytes of files: inline and mapped, growing tails, holes, unwritten blocks, cutting, errors of write-behind, a full
 * disk, revokes. */
#include "fs_data_util.h"
#include "fs/buf_int.h"

#define MIB (1u << 20)

/* ---- small files live in the inode and leave it when they grow ------------------------------------------------------ */
static uint64_t kept_ino;
static void inline_body(struct fsh *h, struct fs *fs)
{
	struct fs_file f;

	du_create(fs, &f);
	kept_ino = f.ip->ino;
	du_write(fs, &f, 1, 0, 100);
	du_check(fs, &f, 1, 0, 100);
	assert_int_equal(fs_fsync(fs, &f, false), 0);
	assert_int_equal(du_disk(fs, &f)->payload_type, FS_PL_INLINE);
	assert_int_equal(le16_get(du_disk(fs, &f)->inline_len), 100);
	assert_int_equal(le64_get(du_disk(fs, &f)->subs), 0);
	du_revoke(fs, &f);
	du_check(fs, &f, 1, 0, 100);
	du_write(fs, &f, 1, 100, 3801); /* 3,901: the last that fits */
	assert_int_equal(fs_fsync(fs, &f, false), 0);
	assert_int_equal(du_disk(fs, &f)->payload_type, FS_PL_INLINE);
	du_write(fs, &f, 1, 3901, 1);
	assert_int_equal(fs_fsync(fs, &f, false), 0);
	assert_int_equal(du_disk(fs, &f)->payload_type, FS_PL_MAP);
	assert_int_equal(le64_get(du_disk(fs, &f)->subs), 1);
	du_revoke(fs, &f);
	du_check(fs, &f, 1, 0, 3902);
	du_write(fs, &f, 1, 3902, 200000);
	du_check(fs, &f, 1, 0, 203902);
	du_close(fs, &f);
}
static void inline_again_body(struct fsh *h, struct fs *fs)
{
	struct fs_file f;

	du_open(fs, &f, kept_ino);
	assert_int_equal(f.ip->size, 203902);
	du_check(fs, &f, 1, 0, 203902);
	assert_int_equal(du_truncate(fs, &f, 0), 0);
	assert_int_equal(le64_get(du_disk(fs, &f)->subs), 0);
	assert_int_equal(du_disk(fs, &f)->payload_type, FS_PL_NONE);
	du_write(fs, &f, 2, 0, 10);
	assert_int_equal(fs_fsync(fs, &f, false), 0);
	assert_int_equal(du_disk(fs, &f)->payload_type, FS_PL_INLINE);
	assert_int_equal(du_truncate(fs, &f, 5), 0);
	assert_int_equal(du_truncate(fs, &f, 20), 0);
	du_check(fs, &f, 2, 0, 5);
	du_check(fs, &f, 0, 5, 15);
	/* Inline bytes stay while only far blocks are written. */
	du_write(fs, &f, 3, 40 * MIB, 100);
	assert_int_equal(fs_fsync(fs, &f, false), 0);
	du_revoke(fs, &f);
	du_check(fs, &f, 2, 0, 5);
	du_check(fs, &f, 0, 5, 100000);
	du_check(fs, &f, 3, 40 * MIB, 100);
	du_close(fs, &f);
}
static void inline_files(void **state)
{
	struct fsh *h = du_new(2, 64 * MIB, 64 << 10);

	du_run(h, inline_body);
	du_run(h, inline_again_body);
	fsh_free(h);
}

/* ---- the last block takes what it needs and grows ------------------------------------------------------------------- */
static void tail_body(struct fsh *h, struct fs *fs)
{
	struct fs_file f;
	uint64_t at = 10000;

	du_create(fs, &f);
	du_write(fs, &f, 7, 0, 10000);
	assert_int_equal(fs_fsync(fs, &f, false), 0);
	assert_int_equal(le64_get(du_disk(fs, &f)->subs), 3);
	for (unsigned i = 0; i < 200; i++) { /* appended and synced, as a log file is */
		size_t n = 1 + fsh_random(h) % 9000;

		du_write(fs, &f, 7, at, n);
		at += n;
		if (i % 3 != 2)
			assert_int_equal(fs_fsync(fs, &f, i % 2), 0);
		if (i % 7 == 6)
			du_revoke(fs, &f);
	}
	assert_int_equal(f.ip->size, at);
	du_check(fs, &f, 7, 0, at);
	du_revoke(fs, &f);
	du_check(fs, &f, 7, 0, at);
	assert_true(le64_get(du_disk(fs, &f)->subs) * FS_SUB < at + 2 * MIB);
	du_close(fs, &f);
}
static void growing_tail(void **state)
{
	struct fsh *h = du_new(3, 64 * MIB, 256 << 10);

	du_run(h, tail_body);
	fsh_free(h);
}

/* ---- streams larger than the pool ------------------------------------------------------------------------------------ */
static void stream_body(struct fsh *h, struct fs *fs)
{
	struct fs_file f;
	uint64_t n = 40 * MIB, reads;

	du_create(fs, &f);
	for (uint64_t o = 0; o < n; o += MIB)
		du_write(fs, &f, 9, o, MIB);
	assert_int_equal(fs_fsync(fs, &f, false), 0);
	assert_int_equal(le64_get(du_disk(fs, &f)->subs), n / FS_SUB);
	du_revoke(fs, &f);
	reads = h->disk[0]->reads + h->disk[1]->reads;
	for (uint64_t o = 0; o < n; o += 128 << 10)
		du_check(fs, &f, 9, o, 128 << 10);
	reads = h->disk[0]->reads + h->disk[1]->reads - reads;
	if (reads > 200) /* merged */
		fail_msg("%lu reads", reads);
	assert_true(fs->stats.prefetch_bytes > n / 2);
	for (unsigned i = 0; i < 300; i++) /* 4 KiB here and there, more chunks than the pool has */
		du_write(fs, &f, 9, fsh_random(h) % (n / 4096) * 4096, 4096);
	du_check(fs, &f, 9, 0, n);
	du_close(fs, &f);
}
static void streams(void **state)
{
	struct fsh *h = du_new(2, 96 * MIB, MIB);

	h->disk[0]->write_ns = h->disk[1]->write_ns = TS_NS_PER_MS;
	h->disk[0]->read_ns = h->disk[1]->read_ns = TS_NS_PER_MS;
	du_run(h, stream_body);
	fsh_free(h);
}

/* ---- what is told of dirty memory ------------------------------------------------------------------------------------ */
static uint64_t told_dirty(struct fs *fs)
{
	struct fs_stats s;

	fs_stats_get(fs, &s);
	return s.dirty_bytes;
}
/* Metadata and data are both in the sum, also where only one of them went home, and nothing is left over. */
static void dirty_told_body(struct fsh *h, struct fs *fs)
{
	struct fs_file f;

	du_create(fs, &f);
	for (unsigned i = 0; i < 3; i++) {
		du_write(fs, &f, 1, i * 2 * MIB, MIB);
		assert_int_equal(told_dirty(fs), fs->bufs->ndirty * FS_SUB + MIB);
		assert_int_equal(fs_fsync(fs, &f, false), 0);
		assert_int_equal(told_dirty(fs), fs->bufs->ndirty * FS_SUB);
		assert_true(fs->bufs->ndirty);
	}
	assert_int_equal(fs_home_write_below(fs, UINT64_MAX), 0);
	assert_int_equal(told_dirty(fs), 0);
	du_close(fs, &f);
}
static void dirty_told(void **state)
{
	struct fsh *h = du_new(2, 64 * MIB, MIB);

	du_run(h, dirty_told_body);
	fsh_free(h);
}

/* ---- holes, unwritten, punch, zero, seek ------------------------------------------------------------------------------- */
static void sparse_body(struct fsh *h, struct fs *fs)
{
	uint64_t bs = fs->block_size;
	struct fs_file f;

	du_create(fs, &f);
	du_write(fs, &f, 3, 10 * bs + 5000, 100);
	assert_int_equal(fs_seek(fs, &f, 0, false), 10 * bs + 4096);
	assert_int_equal(fs_seek(fs, &f, 0, true), 0);
	assert_int_equal(fs_fsync(fs, &f, false), 0);
	assert_int_equal(fs_seek(fs, &f, 0, false), 10 * bs);
	assert_int_equal(fs_seek(fs, &f, 10 * bs + 4096, true), 10 * bs + 5100);
	assert_int_equal(fs_seek(fs, &f, 10 * bs + 5100, false), -ENXIO);
	du_check(fs, &f, 0, 0, 10 * bs + 5000);
	du_check(fs, &f, 3, 10 * bs + 5000, 100);
	assert_int_equal(fs_fallocate(fs, &f, FS_FALLOC_KEEP_SIZE, 20 * bs, 3 * bs, false), 0);
	assert_int_equal(f.ip->size, 10 * bs + 5100);
	assert_int_equal(fs_fallocate(fs, &f, 0, 5 * bs, 3 * bs + 100, false), 0);
	du_revoke(fs, &f);
	du_check(fs, &f, 0, 0, 10 * bs + 5000);
	assert_int_equal(fs_seek(fs, &f, 0, false), 10 * bs);
	du_write(fs, &f, 4, 6 * bs + 9000, 10);
	du_revoke(fs, &f);
	du_check(fs, &f, 0, 0, 6 * bs + 9000);
	du_check(fs, &f, 4, 6 * bs + 9000, 10);
	du_check(fs, &f, 0, 6 * bs + 9010, 4 * bs - 9010 + 5000);
	assert_int_equal(du_truncate(fs, &f, 24 * bs), 0);
	du_check(fs, &f, 0, 10 * bs + 5100, 14 * bs - 5100);
	assert_int_equal(du_truncate(fs, &f, 0), 0);
	assert_int_equal(le64_get(du_disk(fs, &f)->subs), 0);
	du_close(fs, &f);
}
static void punch_body(struct fsh *h, struct fs *fs)
{
	uint64_t bs = fs->block_size;
	struct fs_file f;

	du_create(fs, &f);
	du_write(fs, &f, 5, 0, 8 * bs + 777);
	assert_int_equal(fs_fallocate(fs, &f, FS_FALLOC_PUNCH, 0, 1, false), -EOPNOTSUPP);
	assert_int_equal(fs_fallocate(fs, &f, FS_FALLOC_PUNCH | FS_FALLOC_KEEP_SIZE, bs / 2 + 3, 3 * bs, false), 0);
	assert_int_equal(fs_fallocate(fs, &f, FS_FALLOC_ZERO, 5 * bs + 1, 2 * bs, false), 0);
	for (int i = 0; i < 2; i++) {
		du_check(fs, &f, 5, 0, bs / 2 + 3);
		du_check(fs, &f, 0, bs / 2 + 3, 3 * bs);
		du_check(fs, &f, 5, 3 * bs + bs / 2 + 3, bs + bs / 2 - 2);
		du_check(fs, &f, 0, 5 * bs + 1, 2 * bs);
		du_check(fs, &f, 5, 7 * bs + 1, bs + 776);
		du_revoke(fs, &f);
	}
	assert_int_equal(fs_seek(fs, &f, 0, true), bs);
	assert_int_equal(fs_seek(fs, &f, bs, false), 3 * bs);
	assert_int_equal(fs_seek(fs, &f, 6 * bs, false), 7 * bs);
	assert_int_equal(fs_fallocate(fs, &f, FS_FALLOC_PUNCH | FS_FALLOC_KEEP_SIZE, 8 * bs + 7, bs, false), 0);
	du_check(fs, &f, 5, 8 * bs, 7);
	du_check(fs, &f, 0, 8 * bs + 7, 770);
	assert_int_equal(fs_fallocate(fs, &f, FS_FALLOC_PUNCH | FS_FALLOC_KEEP_SIZE, 0, 100 * bs, false), 0);
	assert_int_equal(le64_get(du_disk(fs, &f)->subs), 0);
	assert_int_equal(f.ip->size, 8 * bs + 777);
	du_close(fs, &f);
}
static void sparse_files(void **state)
{
	struct fsh *h = du_new(2, 64 * MIB, 64 << 10);

	du_run(h, sparse_body);
	du_run(h, punch_body);
	fsh_free(h);
}

/* ---- cut and grown: nothing comes back ---------------------------------------------------------------------------------- */
static void cut_body(struct fsh *h, struct fs *fs)
{
	uint64_t bs = fs->block_size;
	static const uint64_t cuts[] = {1, 4095, 4096, 4097, 60000, 65536, 65537, 100000, 190001};

	for (unsigned i = 0; i < TS_ARRAY_LEN(cuts) * 4; i++) {
		uint64_t cut = cuts[i / 4];
		struct fs_file f;

		du_create(fs, &f);
		du_write(fs, &f, 11, 0, 3 * bs + 100);
		if (i & 1)
			assert_int_equal(fs_fsync(fs, &f, false), 0);
		if (i & 2)
			du_revoke(fs, &f);
		assert_int_equal(du_truncate(fs, &f, cut), 0);
		if (i & 1)
			assert_int_equal(du_truncate(fs, &f, 4 * bs), 0);
		else
			du_write(fs, &f, 12, 4 * bs, 1);
		du_check(fs, &f, 11, 0, cut);
		du_check(fs, &f, 0, cut, 4 * bs - cut);
		du_revoke(fs, &f);
		du_check(fs, &f, 11, 0, cut);
		du_check(fs, &f, 0, cut, 4 * bs - cut);
		assert_int_equal(du_truncate(fs, &f, 0), 0);
		assert_int_equal(le64_get(du_disk(fs, &f)->subs), 0);
		du_close(fs, &f);
	}
}
static void cut_and_grown(void **state)
{
	struct fsh *h = du_new(2, 64 * MIB, 64 << 10);

	du_run(h, cut_body);
	fsh_free(h);
}

/* ---- errors of write-behind reach each handle once ------------------------------------------------------------------------ */
static void error_body(struct fsh *h, struct fs *fs)
{
	struct fs_file f, g;

	du_create(fs, &f);
	du_open(fs, &g, f.ip->ino);
	du_write(fs, &f, 1, 0, 100000);
	assert_int_equal(fs_fsync(fs, &f, false), 0);
	du_write(fs, &f, 2, 0, 100000);
	h->disk[0]->fail_op = NSD_WRITE;
	h->disk[0]->fail_nth = 1;
	h->disk[0]->fail_rc = -EIO;
	ts_sleep_until(ts_exec_now(fs->exec) + 10 * TS_NS_PER_S); /* written behind */
	assert_int_equal(fs_fsync(fs, &f, false), -EIO);
	assert_int_equal(fs_fsync(fs, &f, false), 0);
	assert_int_equal(fs_flush(fs, &f), 0);
	assert_int_equal(fs_flush(fs, &g), -EIO);
	assert_int_equal(fs_flush(fs, &g), 0);
	du_write(fs, &f, 3, 0, 100000);
	assert_int_equal(fs_fsync(fs, &g, false), 0);
	du_revoke(fs, &f);
	du_check(fs, &f, 3, 0, 100000);
	/* A new block whose first write fails is a hole again. */
	assert_int_equal(du_truncate(fs, &f, 65536 * 3), 0);
	h->disk[0]->fail_nth = 1;
	du_write(fs, &f, 4, 65536 * 3, 65536); /* written behind at once */
	assert_int_equal(fs_fsync(fs, &f, false), -EIO);
	assert_int_equal(fs_fsync(fs, &f, false), 0);
	assert_int_equal(fs_fsync(fs, &g, false), -EIO);
	du_check(fs, &f, 0, 65536 * 3, 65536);
	du_close(fs, &g);
	du_close(fs, &f);
}
/* A disk error in the middle of a read: bytes before it for whoever reads, the error for whoever keeps pages and would take them for the end. */
static void read_error_body(struct fsh *h, struct fs *fs)
{
	const uint64_t bs = 65536;
	static uint8_t buf[3 * 65536];
	struct fs_file f;
	unsigned part = 0;
	ssize_t n[2];

	du_create(fs, &f);
	du_write(fs, &f, 1, 0, 3 * bs);
	assert_int_equal(fs_fsync(fs, &f, false), 0);
	for (unsigned nth = 1; nth < 12; nth++) {
		for (unsigned whole = 0; whole < 2; whole++) {
			du_revoke(fs, &f); /* nothing of it is in memory */
			h->disk[0]->fail_op = NSD_READ;
			h->disk[0]->fail_nth = nth;
			h->disk[0]->fail_on = true;
			h->disk[0]->fail_rc = -EIO;
			n[whole] = whole ? fs_read_cached(fs, &f, false, buf, sizeof(buf), 0, NULL) : fs_read(fs, &f, buf, sizeof(buf), 0);
			h->disk[0]->fail_nth = 0;
			assert_int_equal(fs_read(fs, &f, buf, sizeof(buf), 0), sizeof(buf));
		}
		part += n[0] > 0 && (size_t)n[0] < sizeof(buf);
		assert_true(n[1] == -EIO || n[1] == sizeof(buf));
		assert_int_equal(n[1] == -EIO, n[0] < (ssize_t)sizeof(buf));
	}
	assert_true(part > 0);
	du_close(fs, &f);
}
static void read_errors(void **state)
{
	struct fsh *h = du_new(1, 64 * MIB, 64 << 10);

	du_run(h, read_error_body);
	fsh_free(h);
}

static void errors(void **state)
{
	struct fsh *h = du_new(1, 64 * MIB, 64 << 10);

	du_run(h, error_body);
	fsh_free(h);
}

/* ---- full: write tells, fsync never does; after cutting there is space again ------------------------------------------------ */
static void full_body(struct fsh *h, struct fs *fs)
{
	uint8_t *p = ts_xalloc(MIB);
	struct fs_file f, g;
	uint64_t at = 0;
	ssize_t n;

	memset(p, 0x77, MIB);
	du_create(fs, &f);
	du_create(fs, &g);
	for (int round = 0; round < 3; round++) {
		at = 0;
		while ((n = fs_write(fs, &f, p, 300000, at, false, false, NULL)) > 0)
			at += (uint64_t)n;
		assert_int_equal(n, -ENOSPC);
		assert_true(at > 10 * MIB);
		assert_int_equal(fs_fsync(fs, &f, false), 0);
		assert_int_equal(f.ip->size, at);
		assert_int_equal(fs_write(fs, &g, p, 300000, 0, false, false, NULL), -ENOSPC);
		assert_int_equal(fs_fallocate(fs, &g, 0, 0, 4 * MIB, false), -ENOSPC);
		assert_int_equal(fs_fsync(fs, &g, false), 0);
		assert_int_equal(du_truncate(fs, &g, 0), 0);
		assert_int_equal(du_truncate(fs, &f, 100), 0);
		assert_int_equal(fs_fsync(fs, &f, false), 0);
	}
	ts_free(p);
	du_close(fs, &f);
	du_close(fs, &g);
}
static void full_disk(void **state)
{
	struct fsh *h = du_new(1, 48 * MIB, 64 << 10);

	du_run(h, full_body);
	fsh_free(h);
}

/* ---- append, copy, suid ------------------------------------------------------------------------------------------------------ */
static void other_body(struct fsh *h, struct fs *fs)
{
	struct fs_file f, g;
	uint64_t off;
	struct fs_tx tx;

	du_create(fs, &f);
	du_create(fs, &g);
	for (unsigned i = 0; i < 500; i++) {
		assert_int_equal(fs_write(fs, &f, "0123456789abcdef", 16, 3, true, false, &off), 16);
		assert_int_equal(off, i * 16);
	}
	assert_int_equal(fs_copy_range(fs, &f, 8, &g, 100000, 1 << 30, false), 7992);
	assert_int_equal(g.ip->size, 107992);
	assert_int_equal(fs_copy_range(fs, &f, 0, &f, 15, 16, false), -EINVAL);
	assert_int_equal(fs_copy_range(fs, &f, 0, &f, 16000, 16, false), 16);
	assert_int_equal(fs_log_reserve(fs, 0), 0);
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, f.ip->buf);
	fs_idisk(f.ip)->mode = le16_make(S_IFREG | 06755);
	fs_tx_commit(&tx);
	assert_int_equal(fs_write(fs, &f, "x", 1, 0, false, true, NULL), 1);
	assert_int_equal(le16_get(du_disk(fs, &f)->mode), S_IFREG | 0755);
	assert_int_equal(fs_write(fs, &f, "x", 1, FS_MAX_SIZE, false, true, NULL), -EFBIG);
	du_close(fs, &f);
	du_close(fs, &g);
}
static void other_calls(void **state)
{
	struct fsh *h = du_new(2, 64 * MIB, 64 << 10);

	du_run(h, other_body);
	fsh_free(h);
}

/* ---- many fibers, revokes in between: pages are whole, appended records all there -------------------------------------------- */
#define PAGES 400u
struct crowd {
	struct fsh *h;
	struct fs *fs;
	struct fs_file f, log;
	struct ts_group group;
	uint64_t stamp, records;
	unsigned left;
};

static void nap(struct crowd *c)
{
	if (fsh_random(c->h) % 3 == 0)
		ts_sleep_until(ts_exec_now(c->fs->exec) + fsh_random(c->h) % (20 * TS_NS_PER_MS));
	else
		ts_fiber_yield();
}

static void crowd_writer(void *arg)
{
	struct crowd *c = arg;
	uint64_t *p = ts_xalloc(64 * 4096);

	for (unsigned i = 0; i < 150; i++) {
		uint64_t first = fsh_random(c->h) % PAGES, n = 1 + fsh_random(c->h) % TS_MIN(64u, PAGES - first), v = ++c->stamp;
		unsigned how = (unsigned)(fsh_random(c->h) % 8);

		for (uint64_t k = 0; k < n * 512; k++)
			p[k] = v;
		if (how == 0)
			assert_int_equal(du_truncate(c->fs, &c->f, first * 4096), 0);
		else if (how == 1)
			assert_int_equal(fs_fallocate(c->fs, &c->f, FS_FALLOC_PUNCH | FS_FALLOC_KEEP_SIZE, first * 4096, n * 4096, false), 0);
		else if (how == 2)
			assert_int_equal(fs_fallocate(c->fs, &c->f, 0, first * 4096, n * 4096, false), 0);
		else
			assert_int_equal(fs_write(c->fs, &c->f, p, n * 4096, first * 4096, false, false, NULL), (int64_t)n * 4096);
		nap(c);
	}
	ts_free(p);
	c->left--;
	ts_group_done(&c->group, 0);
}

static void crowd_reader(void *arg)
{
	struct crowd *c = arg;
	uint64_t *p = ts_xalloc(64 * 4096);

	while (c->left) {
		uint64_t first = fsh_random(c->h) % PAGES;
		ssize_t n = fs_read(c->fs, &c->f, p, (1 + fsh_random(c->h) % 64) * 4096, first * 4096);

		assert_true(n >= 0 && n % 4096 == 0);
		for (uint64_t k = 0; k < (uint64_t)n / 8; k++)
			if (p[k] != p[k / 512 * 512] || p[k] > c->stamp)
				TS_PANIC("page %lu is torn: %#lx and %#lx", first + k / 512, p[k], p[k / 512 * 512]);
		nap(c);
	}
	ts_free(p);
	ts_group_done(&c->group, 0);
}

static void crowd_appender(void *arg)
{
	struct crowd *c = arg;

	for (unsigned i = 0; i < 300; i++) {
		uint64_t rec[2] = {c->records, ~c->records};

		c->records++;
		assert_int_equal(fs_write(c->fs, &c->log, rec, sizeof(rec), 0, true, false, NULL), sizeof(rec));
		nap(c);
	}
	c->left--;
	ts_group_done(&c->group, 0);
}

static void crowd_other(void *arg)
{
	struct crowd *c = arg;

	while (c->left) {
		struct fs_file *f = fsh_random(c->h) % 2 ? &c->f : &c->log;

		switch (fsh_random(c->h) % 4) {
		case 0:
			assert_int_equal(fs_tok_stub_revoke(c->fs->tok, TOK_DATA, f->ip->ino, fsh_random(c->h) % 2 ? TOK_NL : TOK_SH), 0);
			break;
		case 1:
			assert_int_equal(fs_tok_stub_revoke(c->fs->tok, TOK_INODE, f->ip->ino, TOK_NL), 0);
			break;
		case 2:
			assert_int_equal(fs_sync(c->fs), 0);
			break;
		default:
			assert_int_equal(fs_fsync(c->fs, f, false), 0);
		}
		ts_sleep_until(ts_exec_now(c->fs->exec) + fsh_random(c->h) % (40 * TS_NS_PER_MS));
	}
	ts_group_done(&c->group, 0);
}

static void crowd_body(struct fsh *h, struct fs *fs)
{
	static const ts_fn fns[] = {crowd_writer, crowd_writer, crowd_appender, crowd_appender, crowd_reader, crowd_reader, crowd_reader, crowd_other};
	struct crowd *c = ts_xalloc(sizeof(*c));
	uint64_t *seen;

	*c = (struct crowd){.h = h, .fs = fs, .left = 4};
	ts_group_init(&c->group);
	du_create(fs, &c->f);
	du_create(fs, &c->log);
	for (unsigned i = 0; i < TS_ARRAY_LEN(fns); i++) {
		ts_group_add(&c->group);
		assert_int_equal(ts_fiber_spawn(fs->exec, "crowd", fns[i], c), 0);
	}
	(void)ts_group_wait(&c->group, "the crowd");
	du_revoke(fs, &c->log);
	assert_int_equal(c->records, 600);
	seen = ts_xalloc(600 * 16);
	assert_int_equal(fs_read(fs, &c->log, seen, 600 * 16, 0), 600 * 16);
	for (unsigned i = 0; i < 600; i++) { /* order may differ from that of the counting */
		assert_true(seen[2 * i] == ~seen[2 * i + 1] && seen[2 * i] < 600);
		for (unsigned k = 0; k < i; k++)
			assert_true(seen[2 * k] != seen[2 * i]);
	}
	ts_free(seen);
	du_close(fs, &c->f);
	du_close(fs, &c->log);
	ts_free(c);
}
static void many_fibers(void **state)
{
	for (unsigned run = 0; run < 4; run++) {
		struct fsh *h = du_new(2, 64 * MIB, run % 2 ? 256 << 10 : 64 << 10);

		h->rng += run;
		for (unsigned d = 0; d < 2; d++) {
			h->disk[d]->read_ns = TS_NS_PER_MS / 2;
			h->disk[d]->write_ns = run * TS_NS_PER_MS;
			h->disk[d]->flush_ns = 2 * TS_NS_PER_MS;
		}
		du_run(h, crowd_body);
		fsh_free(h);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(inline_files), cmocka_unit_test(growing_tail), cmocka_unit_test(streams), cmocka_unit_test(dirty_told),
		cmocka_unit_test(sparse_files), cmocka_unit_test(cut_and_grown), cmocka_unit_test(errors), cmocka_unit_test(read_errors),
		cmocka_unit_test(full_disk), cmocka_unit_test(other_calls),
		cmocka_unit_test(many_fibers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
