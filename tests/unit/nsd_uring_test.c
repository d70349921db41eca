/* SPDX-License-Identifier: Apache-2.0 */
/* Job: real files through io_uring: verified I/O at depth, splitting, bad requests, the gate, bounce, deadlines. */
#include "nsd/nsd.h"
#include "tests/unit/nsd_util.h"

#include <fcntl.h>
#include <unistd.h>

#define SIZE (64u << 20)

static char path[] = "/var/tmp/tessera_uring_XXXXXX";
static char url[64];

static struct nsd_dev *open_file(bool read_only, struct nsd_gate gate)
{
	struct nsd_open_args a = {.exec = ts_exec_self(), .url = url, .gate = gate, .read_only = read_only};
	struct nsd_dev *d;
	char err[200];

	if (nsd_open(&a, &d, err, sizeof(err)))
		fail_msg("%s", err);
	return d;
}

static void reads_back_what_was_written(void *arg)
{
	struct nsd_dev *d = open_file(false, (struct nsd_gate){0});

	assert_true(nsd_info(d)->size_bytes == SIZE);
	assert_string_equal(nsd_info(d)->transport, "file");
	storm(d, 3000, 64, 64 * 1024, 1);
	nsd_close(d);
}

static void long_and_scattered(void *arg)
{
	struct nsd_dev *d = open_file(false, (struct nsd_gate){0});
	size_t len = 5u << 20;
	uint8_t *w = ts_alloc_aligned(4096, len), *r = ts_alloc_aligned(4096, len + 4096);
	struct iovec *iov = ts_xalloc(1280 * sizeof(*iov));

	fill(w, len, 77);
	assert_int_equal(nsd_write(d, w, len, 8192), 0); /* five parts */
	for (int i = 0; i < 1280; i++)
		iov[i] = (struct iovec){r + i * 4096, 4096};
	assert_int_equal(submit_wait(d, NSD_READ, 8192, len, iov, 1280, 0), 0); /* by segments */
	assert_memory_equal(w, r, len);
	memset(r, 0, len);
	assert_int_equal(nsd_read(d, r + 7, 65536, 8192), 0); /* unaligned: bounced */
	assert_memory_equal(w, r + 7, 65536);
	iov[0] = (struct iovec){r + 1, 1000};
	iov[1] = (struct iovec){r + 5000, 0};
	iov[2] = (struct iovec){r + 9001, 3096};
	memcpy(r + 1, w, 1000);
	memcpy(r + 9001, w + 1000, 3096);
	assert_int_equal(submit_wait(d, NSD_WRITE, 1u << 20, 4096, iov, 3, 0), 0);
	assert_int_equal(nsd_read(d, r, 4096, 1u << 20), 0);
	assert_memory_equal(w, r, 4096);
	assert_int_equal(submit_wait(d, NSD_ZERO, 8192, len, NULL, 0, 0), 0);
	assert_int_equal(nsd_read(d, r, len, 8192), 0);
	for (size_t i = 0; i < len; i++)
		if (r[i])
			fail_msg("byte %zu was not zeroed", i);
	assert_int_equal(submit_wait(d, NSD_DISCARD, 0, 1u << 20, NULL, 0, 0), 0);
	assert_int_equal(nsd_flush(d), 0);
	ts_free(w);
	ts_free(r);
	ts_free(iov);
	nsd_close(d);
}

static bool gate_open;
static bool gate(void *arg)
{
	return gate_open;
}

static void refused_requests(void *arg)
{
	struct nsd_dev *d = open_file(false, (struct nsd_gate){.may_write = gate});
	uint8_t *b = ts_alloc_aligned(4096, 8192);
	struct iovec iov = {b, 4096};
	struct nsd_stats st;

	gate_open = true;
	assert_int_equal(nsd_write(d, b, 4096, SIZE), -EINVAL);
	assert_int_equal(nsd_write(d, b, 8192, SIZE - 4096), -EINVAL);
	assert_int_equal(nsd_write(d, b, 4096, UINT64_MAX - 4095), -EINVAL);
	assert_int_equal(nsd_write(d, b, 100, 0), -EINVAL);
	assert_int_equal(nsd_write(d, b, 4096, 100), -EINVAL);
	assert_int_equal(nsd_write(d, b, 0, 0), -EINVAL);
	assert_int_equal(submit_wait(d, NSD_READ, 0, 8192, &iov, 1, 0), -EINVAL);
	assert_int_equal(submit_wait(d, (enum nsd_op)77, 0, 4096, &iov, 1, 0), -EINVAL);
	assert_int_equal(submit_wait(d, NSD_READ, 0, 4096, &iov, 1, 1), -ETIMEDOUT);
	fill(b, 4096, 5);
	assert_int_equal(nsd_write(d, b, 4096, 0), 0);
	gate_open = false;
	memset(b, 0, 4096);
	assert_int_equal(nsd_write(d, b, 4096, 0), -TS_ERR_FENCED);
	assert_int_equal(submit_wait(d, NSD_ZERO, 0, 4096, NULL, 0, 0), -TS_ERR_FENCED);
	assert_int_equal(submit_wait(d, NSD_DISCARD, 0, 4096, NULL, 0, 0), -TS_ERR_FENCED);
	assert_int_equal(nsd_read(d, b, 4096, 0), 0);
	assert_true(is_filled(b, 4096, 5));
	assert_int_equal(nsd_flush(d), 0);
	assert_int_equal(nsd_pr_register(d, 1), -EOPNOTSUPP);
	nsd_stats_get(d, &st);
	assert_int_equal(st.fenced, 3);
	assert_int_equal(st.in_flight, 0);
	ts_free(b);
	nsd_close(d);
}

static void read_only_refuses_writes(void *arg)
{
	struct nsd_dev *d = open_file(true, (struct nsd_gate){0});
	uint8_t *b = ts_alloc_aligned(4096, 4096);

	assert_int_equal(nsd_write(d, b, 4096, 0), -EROFS);
	assert_int_equal(nsd_read(d, b, 4096, 0), 0);
	ts_free(b);
	nsd_close(d);
}

static void shrunk_file_is_an_error(void *arg)
{
	struct nsd_dev *d = open_file(false, (struct nsd_gate){0});
	uint8_t *b = ts_alloc_aligned(4096, 65536);

	assert_int_equal(truncate(path, SIZE - 32768), 0);
	assert_int_equal(nsd_read(d, b, 65536, SIZE - 65536), -EIO); /* half of it is there */
	assert_int_equal(truncate(path, SIZE), 0);
	assert_int_equal(nsd_read(d, b, 65536, SIZE - 65536), 0);
	ts_free(b);
	nsd_close(d);
}

static void bad_urls(void *arg)
{
	static const char *const bad[] = {"file://relative", "http://x", "file:///nonexistent/x", "file:///dev/null",
					  "file:///tmp", ""};
	char err[200];

	for (size_t i = 0; i < TS_ARRAY_LEN(bad); i++) {
		struct nsd_open_args a = {.exec = ts_exec_self(), .url = bad[i]};
		struct nsd_dev *d;

		err[0] = 0;
		assert_int_not_equal(nsd_open(&a, &d, err, sizeof(err)), 0);
		assert_int_not_equal(strlen(err), 0);
		assert_null(d);
	}
}

/* Every allocation of open, a split write and a bounced read fails once: no leak, no crash, an error each time. */
static void failing_allocations(void *arg)
{
	for (uint64_t n = 1;; n++) {
		struct nsd_open_args a = {.exec = ts_exec_self(), .url = url};
		uint8_t *b = ts_alloc_aligned(4096, 3u << 20);
		struct nsd_dev *d;
		char err[200];
		int rc;

		ts_alloc_fail_nth(n);
		rc = nsd_open(&a, &d, err, sizeof(err));
		if (!rc) {
			rc = nsd_write(d, b, 3u << 20, 0);
			if (!rc)
				rc = nsd_read(d, b + 1, 4096, 0);
			else
				assert_int_equal(rc, -ENOMEM);
			ts_alloc_fail_nth(0);
			nsd_close(d);
		}
		ts_alloc_fail_nth(0);
		ts_free(b);
		if (!rc)
			break;
		assert_true(n < 100);
	}
}

static void speed(void *arg)
{
	struct nsd_dev *d = open_file(false, (struct nsd_gate){0});

	bench(d, "file");
	nsd_close(d);
}

#define T(fn) {#fn, in_fiber, NULL, NULL, fn}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(reads_back_what_was_written), T(long_and_scattered), T(refused_requests), T(read_only_refuses_writes),
		T(shrunk_file_is_an_error), T(bad_urls), T(failing_allocations), T(speed),
	};
	int fd = mkstemp(path), rc;

	if (fd < 0 || ftruncate(fd, SIZE))
		return 1;
	close(fd);
	snprintf(url, sizeof(url), "file://%s", path);
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	return rc;
}
