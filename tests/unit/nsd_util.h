/* SPDX-License-Identifier: Apache-2.0 */
/* For the tests of nsd: run a test inside a fiber on a real loop, verified I/O storms, a small benchmark. */
#ifndef TESSERA_TESTS_UNIT_NSD_UTIL_H
#define TESSERA_TESTS_UNIT_NSD_UTIL_H

#include "nsd/nsd.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>

#define UNUSED __attribute__((unused))

struct fiber_test {
	struct ts_loop *loop;
	ts_fn fn;
	bool ended;
};

static void fiber_test_main(void *arg)
{
	struct fiber_test *t = arg;

	t->fn(NULL);
	t->ended = true;
	ts_loop_stop(t->loop);
}

/* The test's initial state is the function to run: cmocka's failure jumps out of the fiber's stack, and the process ends. */
static UNUSED void in_fiber(void **state)
{
	struct ts_exec *x = ts_exec_new(&ts_env_real);
	struct fiber_test t = {.loop = ts_loop_new(x), .fn = (ts_fn)(uintptr_t)*state};

	assert_int_equal(ts_fiber_spawn(x, "test", fiber_test_main, &t), 0);
	ts_loop_run(t.loop);
	assert_true(t.ended);
	while (ts_fiber_count(x))
		ts_exec_run(x, 1000);
	ts_loop_free(t.loop);
	ts_exec_free(x);
}

static UNUSED void fill(void *buf, size_t len, uint64_t seed)
{
	uint64_t *w = buf;

	for (size_t i = 0; i < len / 8; i++)
		w[i] = ts_hash_u64(seed * 1000003 + i);
}

static UNUSED bool is_filled(const void *buf, size_t len, uint64_t seed)
{
	const uint64_t *w = buf;

	for (size_t i = 0; i < len / 8; i++)
		if (w[i] != ts_hash_u64(seed * 1000003 + i))
			return false;
	return true;
}

static UNUSED void wait_done(struct nsd_req *r, int rc)
{
	ts_done_set(r->arg, rc);
}

static UNUSED int submit_wait(struct nsd_dev *d, enum nsd_op op, uint64_t off, uint64_t len, const struct iovec *iov,
			      int iovcnt, uint64_t deadline)
{
	struct ts_done done;
	struct nsd_req r = {.op = op, .off = off, .len = len, .iov = iov, .iovcnt = iovcnt, .done = wait_done,
			    .arg = &done, .deadline_ns = deadline};

	ts_done_init(&done);
	nsd_submit(d, &r);
	return ts_done_wait(&done, "test I/O", off, len);
}

/* depth fibers write, read back and verify blocks of their own; any error that is not allowed fails the test. */
struct storm {
	struct nsd_dev *dev;
	struct ts_group group;
	unsigned per_fiber, block, next;
	uint64_t seed, errors;
	bool errors_allowed;
};

static UNUSED void storm_fiber(void *arg)
{
	struct storm *s = arg;
	unsigned me = s->next++, slots = 8;
	uint64_t written[8] = {0};
	uint8_t *buf = ts_alloc_aligned(4096, s->block);

	for (unsigned i = 0; i < s->per_fiber; i++) {
		uint64_t rnd = ts_hash_u64(s->seed + me * 1000000ULL + i), slot = rnd % slots;
		uint64_t off = NSD_DATA_START + ((uint64_t)me * slots + slot) * s->block;
		int rc;

		if (rnd >> 8 & 1) {
			fill(buf, s->block, rnd);
			rc = nsd_write(s->dev, buf, s->block, off);
			written[slot] = rc ? 0 : rnd;
		} else {
			rc = nsd_read(s->dev, buf, s->block, off);
			if (!rc && written[slot] && !is_filled(buf, s->block, written[slot]))
				fail_msg("fiber %u: block at %llu is not what was written", me, (unsigned long long)off);
		}
		s->errors += rc != 0;
		if (rc && !s->errors_allowed)
			fail_msg("fiber %u: I/O %u at %llu: %d", me, i, (unsigned long long)off, rc);
	}
	ts_free(buf);
	ts_group_done(&s->group, 0);
}

static UNUSED void storm(struct nsd_dev *d, unsigned ops, unsigned depth, unsigned block, uint64_t seed)
{
	struct storm s = {.dev = d, .per_fiber = ops / depth, .block = block, .seed = seed};
	struct nsd_stats st;

	while ((uint64_t)depth * 8 * block > nsd_info(d)->size_bytes - NSD_DATA_START)
		s.block = block /= 2;
	ts_group_init(&s.group);
	for (unsigned i = 0; i < depth; i++) {
		ts_group_add(&s.group);
		assert_int_equal(ts_fiber_spawn(ts_exec_self(), "storm", storm_fiber, &s), 0);
	}
	ts_group_wait(&s.group, "storm");
	nsd_stats_get(d, &st);
	assert_int_equal(st.in_flight, 0);
}

struct bench {
	struct nsd_dev *dev;
	struct ts_group group;
	enum nsd_op op;
	unsigned block;
	uint64_t end_ns, ops;
};

static UNUSED void bench_fiber(void *arg)
{
	struct bench *b = arg;
	uint8_t *buf = ts_alloc_aligned(4096, b->block);
	uint64_t blocks = nsd_info(b->dev)->size_bytes / b->block;
	int rc = 0;

	memset(buf, 0x5a, b->block);
	while (!rc && ts_exec_now(ts_exec_self()) < b->end_ns) {
		uint64_t off = ts_random(&ts_env_real) % blocks * b->block;

		rc = b->op == NSD_READ ? nsd_read(b->dev, buf, b->block, off) : nsd_write(b->dev, buf, b->block, off);
		b->ops++;
	}
	ts_free(buf);
	ts_group_done(&b->group, rc);
}

static UNUSED void bench(struct nsd_dev *d, const char *name)
{
	static const struct {
		unsigned block, depth;
	} run[] = {{4096, 1}, {4096, 32}, {1u << 20, 4}};

	for (int i = 0; i < 6; i++) {
		unsigned depth = run[i / 2].depth;
		struct bench b = {.dev = d, .block = run[i / 2].block, .op = i & 1 ? NSD_READ : NSD_WRITE};
		uint64_t t = 300 * TS_NS_PER_MS;

		b.end_ns = ts_exec_now(ts_exec_self()) + t;
		ts_group_init(&b.group);
		for (unsigned k = 0; k < depth; k++) {
			ts_group_add(&b.group);
			assert_int_equal(ts_fiber_spawn(ts_exec_self(), "bench", bench_fiber, &b), 0);
		}
		assert_int_equal(ts_group_wait(&b.group, "bench"), 0);
		printf("%s %s %7u bytes depth %2u: %8.0f IOPS %7.1f MB/s\n", name, i & 1 ? "read " : "write", b.block,
		       depth, (double)b.ops * 1e9 / (double)t, (double)b.ops * b.block * 1e3 / (double)t);
	}
}

#endif
