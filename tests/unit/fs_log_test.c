/* SPDX-License-Identifier: Apache-2.0 */
/* Job: transactions, group commit, laws 3, 4 and 5, checkpoints and ring ends; and after every power failure the state that
 * replay makes is that of one commit, not before the last one forced. */
#include "fs_harness.h"
#include "nsd/nsd_int.h"

#include <stdio.h>
#include <time.h>

#define INODES	400
#define HISTORY 200000

static fs_addr inode_addr(struct fs *fs, uint64_t ino)
{
	return FS_ADDR(0, le64_get(fs->disks[0].ent.region_start) + FS_CHUNK_HEAD + ino);
}

static struct fs_buf *get(struct fs *fs, uint64_t ino)
{
	struct fs_buf *b;

	assert_int_equal(fs_buf_get(fs, inode_addr(fs, ino), FS_BT_INODE, TOK_INODE, ino, &b), 0);
	return b;
}

#define VALUE_AT 1000
static uint64_t value(const struct fs_buf *b)
{
	uint64_t v;

	memcpy(&v, b->data + VALUE_AT, 8);
	return v;
}
/* The value, and bytes all over the block that follow from it. */
static void put_value(struct fs_buf *b, uint64_t v)
{
	memcpy(b->data + VALUE_AT, &v, 8);
	for (unsigned i = 0; i < 1 + v % 7; i++)
		b->data[1100 + ts_hash_2(v, i) % 2900] = (uint8_t)v;
}

static uint64_t change(struct fs *fs, uint64_t ino, uint64_t v)
{
	struct fs_buf *b = get(fs, ino);
	struct fs_tx tx;

	assert_int_equal(fs_log_reserve(fs, 0), 0);
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, b);
	put_value(b, v);
	fs_tx_commit(&tx);
	fs_buf_put(fs, b);
	return tx.lsn;
}

static struct fsh *start(void)
{
	struct fsh *h = fsh_new(1, 64 << 20);

	fsh_format(h, 64 << 10);
	fsh_core(h);
	return h;
}

/* ---- one write and one flush -------------------------------------------------------------------------------------- */

static void one_force_fiber(void *arg)
{
	struct fsh *h = arg;
	struct fsh_disk *d = h->disk[0];
	uint64_t w = d->writes, f = d->flushes, lsn = change(h->fs, 5, 77);

	assert_true(fs_log_stable(h->fs) < lsn);
	assert_int_equal(d->writes, w);
	assert_int_equal(fs_log_force(h->fs, lsn), 0);
	assert_int_equal(d->writes, w + 1);
	assert_int_equal(d->flushes, f + 1);
	assert_int_equal(fs_log_force(h->fs, lsn), 0); /* is stable */
	assert_int_equal(d->writes, w + 1);
	/* Law 3: data before the frame. */
	uint8_t *data = ts_alloc_aligned(4096, 4096);

	memset(data, 1, 4096);
	assert_int_equal(fs_io_write(h->fs, FS_ADDR(0, 16000), data, 4096), 0);
	lsn = change(h->fs, 5, 78);
	assert_int_equal(fs_log_force(h->fs, lsn), 0);
	assert_int_equal(d->flushes, f + 3);
	ts_free(data);
}
static void one_force(void **state)
{
	struct fsh *h = start();

	fsh_run(h, one_force_fiber, h);
	fsh_core_close(h);
	fsh_free(h);
}

/* ---- group commit ------------------------------------------------------------------------------------------------- */

struct many {
	struct fsh *h;
	unsigned left, i;
};
static void committer(void *arg)
{
	struct many *m = arg;
	uint64_t ino = 2 + m->i++;

	assert_int_equal(fs_log_force(m->h->fs, change(m->h->fs, ino, ino)), 0);
	m->left--;
}
static void many_fiber(void *arg)
{
	struct many *m = arg;

	for (unsigned i = 0; i < 100; i++)
		ts_fiber_yield(), assert_int_equal(ts_fiber_spawn(m->h->x, "committer", committer, m), 0);
	while (m->left)
		ts_sleep_until(m->h->now_ns + 1000000);
}
static void group_commit(void **state)
{
	struct fsh *h = start();
	struct many m = {.h = h, .left = 100};
	uint64_t f = h->fs->stats.log_forces;

	h->disk[0]->flush_ns = 1000000;
	h->disk[0]->write_ns = 100000;
	fsh_run(h, many_fiber, &m);
	assert_true(h->fs->stats.log_forces - f <= 4);
	h->disk[0]->flush_ns = h->disk[0]->write_ns = 0;
	fsh_core_close(h);
	fsh_free(h);
}

/* ---- random work, power failures ---------------------------------------------------------------------------------- */

struct entry {
	uint64_t ino, before, lsn;
};
struct model {
	struct fsh *h;
	uint64_t now[INODES]; /* as committed */
	struct entry *history; /* of this incarnation; a transaction's entries share their lsn */
	size_t n;
	unsigned users[INODES]; /* the tokens: pinned ... */
	bool revoking[INODES];	/* ... or on their way out */
	uint64_t forced; /* a force up to here returned */
	unsigned running;
	bool stop;
	uint64_t next_value;
	unsigned intents; /* of all committed */
	uint64_t numbers[64];
	unsigned nnumbers;
};

static void random_tx(struct model *m)
{
	struct fs *fs = m->h->fs;
	struct fs_buf *b[4];
	unsigned n = 1 + fsh_random(m->h) % 4;
	uint64_t ino[4];
	size_t first;
	struct fs_tx tx;

	for (unsigned i = 0; i < n; i++) {
		/* A few hot ones, many cold ones, never the same twice. */
		ino[i] = 2 + i * 90 + fsh_random(m->h) % (fsh_random(m->h) % 2 ? 4 : 90);
		while (m->revoking[ino[i]])
			ts_sleep_until(m->h->now_ns + 10000);
		m->users[ino[i]]++;
		b[i] = get(fs, ino[i]);
	}
	assert_int_equal(fs_log_reserve(fs, 0), 0);
	fs_tx_begin(fs, &tx);
	first = m->n;
	for (unsigned i = 0; i < n; i++) {
		assert_true(m->n < HISTORY);
		m->history[m->n++] = (struct entry){.ino = ino[i], .before = m->now[ino[i]]};
		assert_int_equal(value(b[i]), m->now[ino[i]]);
		fs_tx_buf(&tx, b[i]);
		m->now[ino[i]] = ++m->next_value;
		put_value(b[i], m->now[ino[i]]);
	}
	if (fsh_random(m->h) % 4 == 0 && m->nnumbers < 64)
		m->numbers[m->nnumbers++] = fs_tx_intent(&tx, FS_INTENT_ORPHAN, 0, ++m->intents, 0);
	else if (m->nnumbers && fsh_random(m->h) % 4 == 0)
		fs_tx_intent_done(&tx, m->numbers[--m->nnumbers]);
	fs_tx_commit(&tx);
	for (size_t i = first; i < m->n; i++)
		m->history[i].lsn = tx.lsn;
	for (unsigned i = 0; i < n; i++) {
		fs_buf_put(fs, b[i]);
		m->users[ino[i]]--;
	}
}

static void revoke(struct model *m, uint64_t ino)
{
	if (m->revoking[ino])
		return;
	m->revoking[ino] = true;
	while (m->users[ino])
		ts_sleep_until(m->h->now_ns + 10000);
	assert_int_equal(fs_buf_clean_resource(m->h->fs, TOK_INODE, ino, fsh_random(m->h) % 2), 0);
	m->revoking[ino] = false;
}

static void random_worker(void *arg)
{
	struct model *m = arg;
	struct fs *fs = m->h->fs;

	while (!m->stop) {
		uint64_t r = fsh_random(m->h) % 100, lsn;

		random_tx(m);
		if (r < 5) {
			lsn = fs_log_head(fs);
			assert_int_equal(fs_log_force(fs, lsn), 0);
			m->forced = TS_MAX(m->forced, lsn);
		} else if (r < 8) {
			revoke(m, 2 + fsh_random(m->h) % 300);
		} else if (r < 12) {
			ts_sleep_until(m->h->now_ns + fsh_random(m->h) % (3 * TS_NS_PER_MS));
		} else if (r == 12 && fsh_random(m->h) % 30 == 0) {
			ts_sleep_until(m->h->now_ns + 8 * TS_NS_PER_S); /* idle: checkpoint */
		}
	}
	m->running--;
}

static void work_fiber(void *arg)
{
	struct model *m = arg;
	unsigned n = 1 + fsh_random(m->h) % 5;
	uint64_t until = m->h->now_ns + (2 + fsh_random(m->h) % 60) * 5 * TS_NS_PER_MS;

	m->stop = false;
	for (unsigned i = 0; i < n; i++) {
		m->running++;
		assert_int_equal(ts_fiber_spawn(m->h->x, "worker", random_worker, m), 0);
	}
	ts_sleep_until(until); /* then the power fails, whatever they do */
}

static void verify_fiber(void *arg)
{
	struct model *m = arg;
	uint64_t ino;

	/* Which commit is the state of? Undo the history from its end until everything agrees. */
	for (;;) {
		uint64_t lsn;

		for (ino = 2; ino < INODES; ino++) {
			struct fs_buf *b = get(m->h->fs, ino);
			bool same = value(b) == m->now[ino];

			fs_buf_put(m->h->fs, b);
			if (!same)
				break;
		}
		if (ino == INODES)
			break;
		assert_true(m->n > 0);
		lsn = m->history[m->n - 1].lsn;
		if (lsn <= m->forced)
			fail_msg("inode %lu lost a change that was forced", ino);
		while (m->n && m->history[m->n - 1].lsn == lsn) {
			m->n--;
			m->now[m->history[m->n].ino] = m->history[m->n].before;
		}
	}
}

static void crash_rounds(uint64_t seed, unsigned rounds)
{
	struct model *m = ts_xalloc(sizeof(*m));
	struct fsh *h = fsh_new(1 + seed % 2, 64 << 20);
	struct fs_format_args a = {.block_size = 64 << 10, .log_slots = 2, .log_bytes = 512 << 10};

	h->rng = seed;
	m->h = h;
	m->history = ts_xalloc(HISTORY * sizeof(*m->history));
	fsh_format_args(h, &a);
	fsh_core(h);
	for (unsigned r = 0; r < rounds; r++) {
		m->n = 0;
		m->running = m->nnumbers = 0;
		memset(m->users, 0, sizeof(m->users));
		memset(m->revoking, 0, sizeof(m->revoking));
		m->forced = 0;
		h->disk[0]->write_ns = fsh_random(h) % 3 * 100000;
		h->disk[0]->flush_ns = fsh_random(h) % 3 * 500000;
		h->disk[0]->read_ns = 20000;
		fsh_run(h, work_fiber, m);
		fsh_crash(h, fsh_random(h) % 4 ? fsh_random(h) | 1 : 0);
		fsh_core(h);
		assert_int_equal(h->replayed, 1);
		fsh_run(h, verify_fiber, m);
	}
	fsh_core_close(h);
	fsh_core(h);
	assert_int_equal(h->replayed, 0);
	m->n = 0;
	fsh_run(h, verify_fiber, m);
	fsh_core_close(h);
	fsh_free(h);
	ts_free(m->history);
	ts_free(m);
}
static void crashes(void **state)
{
	const char *one = getenv("SEED");

	if (one)
		return crash_rounds(strtoull(one, NULL, 0), 12);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	const uint64_t seeds = 7;
#else
	const uint64_t seeds = 20;
#endif
	for (uint64_t seed = 1; seed <= seeds; seed++)
		crash_rounds(seed, 12);
}

/* ---- intents ------------------------------------------------------------------------------------------------------ */

static void make_intents(void *arg)
{
	struct fsh *h = arg;
	uint64_t keep = 0;

	for (unsigned i = 0; i < 3000; i++) {
		struct fs_tx tx;
		uint64_t n;

		assert_int_equal(fs_log_reserve(h->fs, 0), 0);
		fs_tx_begin(h->fs, &tx);
		n = fs_tx_intent(&tx, FS_INTENT_FREE, 1, FS_ADDR(0, 16000 + i), i);
		fs_tx_commit(&tx);
		if (!keep)
			keep = n;
		for (unsigned k = 0; k < 20; k++) /* the log goes round several times: the tail passes */
			change(h->fs, 2 + k, i * 100 + k);
		if (i % 100) {
			assert_int_equal(fs_log_reserve(h->fs, 0), 0);
			fs_tx_begin(h->fs, &tx);
			fs_tx_intent_done(&tx, n);
			fs_tx_commit(&tx);
		}
	}
	assert_int_equal(fs_log_force(h->fs, fs_log_head(h->fs)), 0);
}
static void look_intents(void *arg)
{
	struct fsh *h = arg;
	unsigned n = 0;

	ts_list_for(i, fs_log_intents(h->fs)) {
		struct fs_intent *it = ts_list_entry(i, struct fs_intent, link);

		assert_int_equal(it->type, FS_INTENT_FREE);
		assert_int_equal(it->b % 100, 0);
		assert_int_equal(it->a, FS_ADDR(0, 16000 + it->b));
		assert_true(it->lsn <= fs_log_stable(h->fs));
		n++;
	}
	assert_int_equal(n, 30);
}
static void intents_survive(void **state)
{
	struct fsh *h = start();

	fsh_run(h, make_intents, h);
	assert_true(h->fs->stats.checkpoints > 3);
	fsh_crash(h, 0);
	fsh_core(h);
	assert_int_equal(h->replayed, 1);
	fsh_run(h, look_intents, h);
	fsh_core_close(h);
	for (unsigned i = 0; i < 3; i++) {
		fsh_core(h);
		assert_int_equal(h->replayed, 0);
		fsh_run(h, look_intents, h);
		fsh_core_close(h);
	}
	fsh_free(h);
}

/* ---- freed blocks, suspended writes, failing disks ---------------------------------------------------------------- */

static void forget_fiber(void *arg)
{
	struct fsh *h = arg;
	fs_addr a = FS_ADDR(0, 15000);
	uint8_t *data = ts_alloc_aligned(4096, 4096);
	struct fs_buf *b;
	struct fs_tx tx;

	assert_int_equal(fs_buf_new(h->fs, a, FS_BT_DIRLEAF, TOK_DIR, 9, 1, &b), 0);
	assert_int_equal(fs_log_reserve(h->fs, 0), 0);
	fs_tx_begin(h->fs, &tx);
	fs_tx_buf(&tx, b);
	b->data[500] = 1;
	fs_tx_commit(&tx);
	fs_buf_put(h->fs, b);
	assert_int_equal(fs_log_force(h->fs, tx.lsn), 0);
	assert_int_equal(fs_log_reserve(h->fs, 0), 0);
	fs_tx_begin(h->fs, &tx);
	fs_tx_intent(&tx, FS_INTENT_FREE, 1, a, 0);
	fs_tx_commit(&tx);
	fs_buf_forget(h->fs, a);
	assert_null(fs_buf_peek(h->fs, a));
	assert_int_equal(fs_log_force(h->fs, tx.lsn), 0);
	/* Another node uses it now. */
	memset(data, 0x77, 4096);
	assert_int_equal(fs_io_write(h->fs, a, data, 4096), 0);
	assert_int_equal(fs_io_flush_all(h->fs), 0);
	ts_free(data);
}
static void freed_blocks_stay(void **state)
{
	struct fsh *h = start();

	fsh_run(h, forget_fiber, h);
	fsh_crash(h, 0);
	fsh_core(h);
	assert_int_equal(h->disk[0]->now[15000 * 4096], 0x77);
	fsh_core_close(h);
	fsh_free(h);
}

static void force_later(void *arg)
{
	struct fsh *h = arg;

	assert_int_equal(fs_log_force(h->fs, change(h->fs, 3, h->now_ns)), 0);
}
struct opener {
	struct fsh *h;
	struct ts_timer t;
};
static void open_gate(void *arg)
{
	struct opener *o = arg;

	fsw_quorum_gate(o->h->quorum, true);
	o->h->may_write = true;
	o->h->fs->suspended = false;
	fs_io_resume(o->h->fs);
}
static void suspension(void **state)
{
	struct fsh *h = start();
	struct opener o = {.h = h};
	uint64_t begin;

	h->quorum = fsw_quorum_new(h->x, 1, h->incarnation);
	h->fs->args.quorum = h->quorum;
	for (unsigned told = 0; told < 2; told++) { /* the gate may shut before the node is told */
		h->may_write = false;
		fsw_quorum_gate(h->quorum, false);
		h->fs->suspended = told;
		begin = h->now_ns;
		ts_timer_arm(h->x, &o.t, begin + TS_NS_PER_S, open_gate, &o);
		fsh_run(h, force_later, h);
		assert_true(h->now_ns >= begin + TS_NS_PER_S);
		assert_int_equal(h->fs->run, FS_RUN_LIVE);
	}
	h->fs->args.quorum = NULL;
	fsh_core_close(h);
	fsh_free(h);
}

static void force_fails(void *arg)
{
	struct fsh *h = arg;
	uint64_t lsn = change(h->fs, 3, 9);

	assert_true(fs_log_force(h->fs, lsn) < 0);
	assert_true(fs_log_stable(h->fs) < lsn);
	assert_int_equal(fs_log_force(h->fs, lsn), -EIO);
	assert_int_equal(fs_log_reserve(h->fs, 0), -EIO);
	assert_int_equal(fs_enter(h->fs, 0), -EIO);
	assert_int_equal(fs_buf_clean_resource(h->fs, TOK_INODE, 3, true), -EIO); /* the token is kept */
}
static void errors_stop(void **state)
{
	for (unsigned i = 0; i < 3; i++) {
		struct fsh *h = start();

		h->disk[0]->fail_op = i == 1 ? NSD_FLUSH : NSD_WRITE;
		h->disk[0]->fail_nth = 1;
		h->disk[0]->fail_rc = -EIO;
		if (i == 2) {
			h->disk[0]->fail_nth = 0;
			h->may_write = false; /* with an open gate as far as quorum knows: a reservation conflict */
		}
		fsh_run(h, force_fails, h);
		assert_int_equal(h->fs->run, FS_RUN_STOPPED);
		h->may_write = true;
		fsh_crash(h, 0);
		fsh_free(h);
	}
}

/* A target that restarts may have lost what was written and not flushed: nothing of that is ever called stable. */
static void forgotten_when_clean(void *arg)
{
	struct fsh *h = arg;

	assert_int_equal(fs_log_force(h->fs, change(h->fs, 3, 9)), 0);
	assert_int_equal(fs_io_flush_all(h->fs), 0);
	h->devs[0]->losses++;
	assert_int_equal(fs_log_force(h->fs, change(h->fs, 3, 10)), 0);
	assert_int_equal(fs_io_flush_all(h->fs), 0);
}
static void forgotten_when_dirty(void *arg)
{
	struct fsh *h = arg;
	uint8_t *b = ts_alloc_aligned(FS_SUB, FS_SUB);

	memset(b, 0, FS_SUB);
	assert_int_equal(fs_io_write(h->fs, inode_addr(h->fs, 50), b, FS_SUB), 0);
	h->devs[0]->losses++;
	assert_int_equal(fs_io_flush_data(h->fs), -EIO);
	assert_int_equal(h->fs->run, FS_RUN_STOPPED);
	assert_int_equal(fs_io_flush_data(h->fs), -EIO); /* for ever */
	ts_free(b);
}
static void disk_forgets(void **state)
{
	struct fsh *h = start();

	fsh_run(h, forgotten_when_clean, h);
	assert_int_equal(h->fs->run, FS_RUN_LIVE);
	fsh_run(h, forgotten_when_dirty, h);
	assert_int_equal(h->fs->run, FS_RUN_STOPPED);
	fsh_crash(h, 0);
	fsh_free(h);
}

/* ---- a read that several wait for ---------------------------------------------------------------------------------- */

struct readers {
	struct fsh *h;
	struct ts_group group;
	unsigned failed, read;
};
static void read_fiber(void *arg)
{
	struct readers *r = arg;
	struct fs_buf *b;
	int rc = fs_buf_get(r->h->fs, inode_addr(r->h->fs, 40), FS_BT_INODE, TOK_INODE, 40, &b);

	r->failed += rc == -EIO;
	r->read += rc == 0;
	if (!rc)
		fs_buf_put(r->h->fs, b);
	ts_group_done(&r->group, 0);
}
static void readers_fiber(void *arg)
{
	struct readers *r = arg;

	r->h->disk[0]->fail_op = NSD_READ;
	r->h->disk[0]->fail_nth = 1;
	r->h->disk[0]->fail_rc = -EIO;
	for (unsigned i = 0; i < 4; i++) {
		ts_group_add(&r->group);
		assert_int_equal(ts_fiber_spawn(r->h->x, "reader", read_fiber, r), 0);
	}
	assert_int_equal(ts_group_wait(&r->group, "readers"), 0);
}
/* Whoever sent it is told; those who waited for it ask again, and nobody waits for ever. */
static void failed_read_has_waiters(void **state)
{
	struct readers r = {.h = start()};

	ts_group_init(&r.group);
	fsh_run(r.h, readers_fiber, &r);
	assert_int_equal(r.failed, 1);
	assert_int_equal(r.read, 3);
	fsh_crash(r.h, 0);
	fsh_free(r.h);
}

/* ---- cost --------------------------------------------------------------------------------------------------------- */

static void cost_fiber(void *arg)
{
	struct fsh *h = arg;
	struct fs_buf *b[3] = {get(h->fs, 2), get(h->fs, 3), get(h->fs, 4)};
	struct timespec t0, t1;
	const unsigned n = 20000;

	clock_gettime(CLOCK_MONOTONIC, &t0);
	for (unsigned i = 0; i < n; i++) {
		struct fs_tx tx;

		assert_int_equal(fs_log_reserve(h->fs, 0), 0);
		fs_tx_begin(h->fs, &tx);
		for (unsigned k = 0; k < 3; k++) {
			fs_tx_buf(&tx, b[k]);
			put_value(b[k], i);
		}
		fs_tx_commit(&tx);
	}
	clock_gettime(CLOCK_MONOTONIC, &t1);
	for (unsigned k = 0; k < 3; k++)
		fs_buf_put(h->fs, b[k]);
	print_message("transaction of 3 buffers: %.2f us\n",
		      ((double)(t1.tv_sec - t0.tv_sec) * 1e9 + (double)(t1.tv_nsec - t0.tv_nsec)) / 1000 / n);
}
static void cost(void **state)
{
	struct fsh *h = start();

	fsh_run(h, cost_fiber, h);
	fsh_core_close(h);
	fsh_free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_force),	   cmocka_unit_test(group_commit),    cmocka_unit_test(intents_survive),
		cmocka_unit_test(freed_blocks_stay), cmocka_unit_test(suspension),    cmocka_unit_test(errors_stop),
		cmocka_unit_test(disk_forgets),
		cmocka_unit_test(failed_read_has_waiters),
		cmocka_unit_test(cost),		   cmocka_unit_test(crashes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
