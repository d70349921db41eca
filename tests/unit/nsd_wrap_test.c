/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the fault and the record device over a disk in memory whose completions the test orders itself; splitting. */
#include "nsd/nsd.h"
#include "tests/unit/nsd_util.h"

#define SIZE (8u << 20)

/* A disk in memory: completes at once, or when the test says so. */
struct mem {
	uint8_t *data;
	bool hold;
	struct nsd_req *held[16];
	unsigned nheld, submits, max_iov;
	uint64_t max_len;
	bool closed;
};
static struct mem mem;

static void mem_do(struct nsd_req *r)
{
	uint8_t *p = mem.data + r->off;

	for (int i = 0; i < r->iovcnt; i++) {
		if (r->op == NSD_READ)
			memcpy(r->iov[i].iov_base, p, r->iov[i].iov_len);
		else
			memcpy(p, r->iov[i].iov_base, r->iov[i].iov_len);
		p += r->iov[i].iov_len;
	}
	if (r->op == NSD_ZERO)
		memset(p, 0, r->len);
	nsd_complete(r, 0);
}

static void mem_submit(struct nsd_dev *d, struct nsd_req *r)
{
	mem.submits++;
	mem.max_len = TS_MAX(mem.max_len, r->len);
	mem.max_iov = TS_MAX(mem.max_iov, (unsigned)r->iovcnt);
	if (mem.hold && mem.nheld < TS_ARRAY_LEN(mem.held))
		mem.held[mem.nheld++] = r;
	else
		mem_do(r);
}

static void mem_close(struct nsd_dev *d)
{
	mem.closed = true;
}

static const struct nsd_ops mem_ops = {.submit = mem_submit, .close = mem_close};

static struct nsd_dev *mem_new(void)
{
	static const struct nsd_info info = {.size_bytes = SIZE, .sector_bytes = 512, .transport = "sim"};
	uint8_t *data = mem.data;

	mem = (struct mem){.data = data ? data : ts_alloc_aligned(4096, SIZE)};
	memset(mem.data, 0xee, SIZE);
	return nsd_dev_new(ts_exec_self(), &mem_ops, NULL, &info, NULL, "mem");
}

static void release(unsigned i)
{
	struct nsd_req *r = mem.held[i];

	assert_non_null(r);
	mem.held[i] = NULL;
	mem_do(r);
	ts_fiber_yield();
	ts_fiber_yield();
	ts_fiber_yield();
}

static void splitting(void *arg)
{
	struct nsd_dev *d = mem_new();
	size_t len = 3u << 20;
	uint8_t *w = ts_alloc_aligned(4096, len), *r = ts_alloc_aligned(4096, len);
	struct iovec *iov = ts_xalloc(6144 * sizeof(*iov));

	fill(w, len, 1);
	for (int i = 0; i < 6144; i++)
		iov[i] = (struct iovec){w + i * 512, 512};
	assert_int_equal(submit_wait(d, NSD_WRITE, 512, len, iov, 6144, 0), 0);
	assert_int_equal(mem.max_iov, 256);
	assert_true(mem.submits >= 24);
	assert_memory_equal(mem.data + 512, w, len);
	assert_int_equal(mem.data[511], 0xee);
	assert_int_equal(mem.data[512 + len], 0xee);
	for (unsigned round = 0; round < 200; round++) { /* random cuts of the memory, odd lengths */
		uint64_t rnd = ts_hash_u64(round), left = len, n = 0;

		for (; left; n++) {
			size_t part;

			rnd = ts_hash_u64(rnd);
			part = TS_MIN(left, 16000 + rnd % 40000);
			iov[n] = (struct iovec){r + (len - left), part};
			left -= part;
		}
		memset(r, 0, len);
		assert_int_equal(submit_wait(d, NSD_READ, 512, len, iov, (int)n, 0), 0);
		assert_memory_equal(r, w, len);
	}
	assert_true(mem.max_len <= 1u << 20);
	iov[0] = (struct iovec){w, 100}; /* many segments that are not whole sectors: refused, not cut wrongly */
	iov[1] = (struct iovec){w + 100, len - 100 - 298 * 512};
	for (int i = 2; i < 300; i++)
		iov[i] = (struct iovec){w, 512};
	assert_int_equal(submit_wait(d, NSD_READ, 0, len, iov, 300, 0), -EINVAL);
	for (uint64_t n = 1; n <= 3; n++) {
		ts_alloc_fail_nth(n);
		assert_int_equal(nsd_write(d, w, len, 0), -ENOMEM);
	}
	assert_int_equal(nsd_write(d, w, len, 0), 0);
	assert_int_equal(submit_wait(d, NSD_ZERO, 0, SIZE, NULL, 0, 0), 0);
	for (size_t i = 0; i < SIZE; i++)
		if (mem.data[i])
			fail_msg("byte %zu was not zeroed", i);
	ts_free(w);
	ts_free(r);
	ts_free(iov);
	nsd_close(d);
	assert_true(mem.closed);
}

static void planned_faults_only(void *arg)
{
	struct nsd_fault_plan plan = {.fail_nth = 3, .fail_op = NSD_WRITE, .rc = -ENOSPC};
	struct nsd_dev *d = nsd_fault_new(mem_new(), &plan);
	uint8_t *b = ts_alloc_aligned(4096, 8192);
	uint64_t t;

	fill(b, 8192, 1);
	assert_int_equal(nsd_write(d, b, 4096, 0), 0);
	assert_int_equal(nsd_write(d, b, 4096, 4096), 0);
	assert_int_equal(nsd_read(d, b, 4096, 0), 0);
	assert_int_equal(nsd_flush(d), 0);
	assert_int_equal(nsd_write(d, b, 4096, 8192), -ENOSPC);
	assert_int_equal(mem.data[8192], 0xee);
	assert_int_equal(nsd_write(d, b, 4096, 8192), 0);
	plan.tear_nth_write = 1;
	assert_int_equal(nsd_write(d, b, 7 * 512, 1u << 20), -EIO);
	assert_memory_equal(mem.data + (1u << 20), b, 3 * 512);
	assert_int_equal(mem.data[(1u << 20) + 3 * 512], 0xee);
	plan.tear_nth_write = 1;
	assert_int_equal(nsd_write(d, b, 512, 2u << 20), -EIO);
	assert_int_equal(mem.data[2u << 20], 0xee);
	plan.delay_ns = 30 * TS_NS_PER_MS;
	t = ts_exec_now(ts_exec_self());
	assert_int_equal(nsd_flush(d), 0);
	assert_true(ts_exec_now(ts_exec_self()) - t >= 30 * TS_NS_PER_MS);
	plan.delay_ns = 0;
	ts_alloc_fail_nth(1);
	assert_int_equal(nsd_write(d, b, 512, 0), -ENOMEM);
	ts_free(b);
	nsd_close(d);
	assert_true(mem.closed);
}

static char told[64];
static void tell(void *arg, enum nsd_op op, uint64_t off, const void *data, uint64_t len)
{
	size_t n = strlen(told);

	if (op == NSD_FLUSH) {
		told[n] = 'F';
		return;
	}
	assert_int_equal(op, NSD_WRITE);
	assert_int_equal(len, 512);
	assert_true(is_filled(data, 512, off));
	told[n] = (char)('a' + off / 512);
}

struct one {
	struct nsd_req req;
	struct iovec iov;
	struct ts_done done;
	uint8_t buf[512];
};

static void begin(struct nsd_dev *d, struct one *o, enum nsd_op op, unsigned no)
{
	*o = (struct one){.iov = {o->buf, 512}};
	ts_done_init(&o->done);
	o->req = (struct nsd_req){.op = op, .iov = &o->iov, .done = wait_done, .arg = &o->done};
	if (op != NSD_FLUSH) {
		o->req.off = no * 512;
		o->req.len = 512;
		o->req.iovcnt = 1;
		fill(o->buf, 512, no * 512);
	}
	nsd_submit(d, &o->req);
}

static void end(struct one *o)
{
	assert_int_equal(ts_done_wait(&o->done, "test", 0, 0), 0);
	memset(o->buf, 0, sizeof(o->buf)); /* what was told late must have been copied */
}

/* a completes before the first flush is submitted; b and c while it is in flight; d while only the second one is. */
static void record_is_never_too_optimistic(void *arg)
{
	struct nsd_dev *d = nsd_record_new(mem_new(), tell, NULL);
	static struct one a, b, c, e, f1, f2;

	memset(told, 0, sizeof(told));
	begin(d, &a, NSD_WRITE, 0);
	end(&a);
	assert_string_equal(told, "a");
	mem.hold = true;
	begin(d, &b, NSD_WRITE, 1);  /* 0 */
	begin(d, &f1, NSD_FLUSH, 0); /* 1 */
	begin(d, &c, NSD_WRITE, 2);  /* 2 */
	release(2);
	end(&c);
	release(0);
	end(&b);
	assert_string_equal(told, "a"); /* both wait for the flush that does not cover them */
	begin(d, &f2, NSD_FLUSH, 0); /* 3 */
	begin(d, &e, NSD_WRITE, 4);  /* 4 */
	release(4);
	end(&e);
	release(1);
	end(&f1);
	assert_string_equal(told, "aFcb");
	release(3);
	end(&f2);
	assert_string_equal(told, "aFcbFe");
	nsd_close(d);
}

static void failed_writes_are_not_told(void *arg)
{
	struct nsd_fault_plan plan = {.fail_nth = 1, .fail_op = NSD_WRITE, .rc = -EIO};
	struct nsd_dev *d = nsd_record_new(nsd_fault_new(mem_new(), &plan), tell, NULL);
	uint8_t buf[512];

	memset(told, 0, sizeof(told));
	fill(buf, 512, 0);
	assert_int_equal(nsd_write(d, buf, 512, 0), -EIO);
	assert_string_equal(told, "");
	assert_int_equal(nsd_write(d, buf, 512, 0), 0);
	assert_string_equal(told, "a");
	for (uint64_t n = 1; n <= 3; n++) {
		ts_alloc_fail_nth(n);
		assert_int_equal(nsd_write(d, buf, 512, 0), -ENOMEM);
	}
	assert_string_equal(told, "a");
	nsd_close(d);
}

static void close_waits(void *arg)
{
	struct nsd_dev *d = mem_new();
	static struct one a;

	mem.hold = true;
	begin(d, &a, NSD_WRITE, 0);
	mem_do(mem.held[0]); /* completion is deferred, still counted */
	nsd_close(d);
	assert_true(mem.closed);
	end(&a);
}

#define T(fn) {#fn, in_fiber, NULL, NULL, fn}

/* What is written over a disk is read back and never reaches it; what cannot be read below is read where it was written; nothing else of a
 * lost disk is; and it holds no more than it may. */
static void overlay_keeps_the_disk(void *arg)
{
	static struct nsd_fault_plan plan;
	struct nsd_dev *below = nsd_fault_new(mem_new(), &plan), *d, *lost;
	uint8_t *w = ts_alloc_aligned(4096, 16384), *r = ts_alloc_aligned(4096, 16384);

	d = nsd_overlay_new(ts_exec_self(), below, 0, 3 * 5000);
	lost = nsd_overlay_new(ts_exec_self(), NULL, SIZE, 100 * 5000);
	assert_true(d && lost);
	assert_int_equal(nsd_info(d)->size_bytes, SIZE);
	assert_int_equal(nsd_info(lost)->size_bytes, SIZE);
	fill(w, 16384, 5);
	assert_int_equal(nsd_write(d, w, 4096, 8192), 0);
	assert_int_equal(nsd_flush(d), 0);
	assert_int_equal(nsd_read(d, r, 16384, 4096), 0);
	assert_true(r[0] == 0xee && r[4095] == 0xee && !memcmp(r + 4096, w, 4096) && r[8192] == 0xee && r[16383] == 0xee);
	for (unsigned i = 0; i < SIZE; i += 4096)
		assert_true(mem.data[i] == 0xee && mem.data[i + 4095] == 0xee);
	assert_int_equal(nsd_write(d, w, 512, 0), -EINVAL); /* no half sub-blocks */

	plan = (struct nsd_fault_plan){.fail_nth = 1, .fail_op = NSD_READ, .rc = -EIO};
	assert_int_equal(nsd_read(d, r, 4096, 8192), 0); /* unreadable, but all of it was written here */
	plan.fail_nth = 1;
	assert_int_equal(nsd_read(d, r, 8192, 8192), -EIO);

	assert_int_equal(nsd_write(d, w, 8192, 65536), 0);
	assert_int_equal(nsd_write(d, w, 4096, 65536), 0); /* again: nothing more */
	assert_int_equal(nsd_write(d, w, 4096, 131072), -ENOSPC);

	assert_int_equal(nsd_read(lost, r, 4096, 0), -EIO);
	assert_int_equal(nsd_write(lost, w, 8192, 4096), 0);
	assert_int_equal(nsd_read(lost, r, 8192, 4096), 0);
	assert_memory_equal(r, w, 8192);
	assert_int_equal(nsd_read(lost, r, 8192, 8192), -EIO);
	nsd_close(d);
	nsd_close(lost);
	nsd_close(below);
	ts_free(w);
	ts_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(splitting), T(planned_faults_only), T(record_is_never_too_optimistic), T(failed_writes_are_not_told),
		T(close_waits), T(overlay_keeps_the_disk),
	};
	int rc = cmocka_run_group_tests(tests, NULL, NULL);

	ts_free(mem.data);
	return rc;
}
