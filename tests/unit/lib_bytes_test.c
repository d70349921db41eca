/* SPDX-License-Identifier: Apache-2.0 */
/* Job: byte order, bounds, checksums by known answers, clocks, log lines, allocation faults. */
#include "lib/lib.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void little_endian_whatever_the_machine(void **state)
{
	uint8_t b[16];
	struct ts_wr w = {.p = b, .left = sizeof(b)};
	struct ts_rd r = {.p = b, .left = 15};
	static const uint8_t want[15] = {1, 3, 2, 7, 6, 5, 4, 15, 14, 13, 12, 11, 10, 9, 8};

	ts_wr_u8(&w, 1);
	ts_wr_u16(&w, 0x0203);
	ts_wr_u32(&w, 0x04050607);
	ts_wr_u64(&w, 0x08090a0b0c0d0e0fULL);
	assert_int_equal(w.used, 15);
	assert_memory_equal(b, want, 15);
	assert_int_equal(ts_rd_u8(&r), 1);
	assert_int_equal(ts_rd_u16(&r), 0x0203);
	assert_int_equal(ts_rd_u32(&r), 0x04050607);
	assert_true(ts_rd_u64(&r) == 0x08090a0b0c0d0e0fULL);
	assert_false(r.bad);
	assert_int_equal(r.left, 0);
}

static void nothing_past_the_end(void **state)
{
	uint8_t b[7] = {1, 2, 3, 4, 5, 6, 7};

	for (size_t room = 0; room < 7; room++) {
		struct ts_rd r = {.p = b, .left = room};
		uint8_t out[8];
		struct ts_wr w = {.p = out, .left = room};

		memset(out, 0xEE, sizeof(out));
		ts_rd_bytes(&r, room);
		assert_false(r.bad);
		assert_int_equal(ts_rd_u8(&r), 0);
		assert_true(r.bad);
		assert_int_equal(ts_rd_u64(&r), 0); /* stays bad */
		ts_wr_bytes(&w, b, room);
		ts_wr_u8(&w, 9);
		assert_true(w.bad);
		assert_int_equal(out[room], 0xEE);
		assert_int_equal(w.used, room);
	}
	struct ts_rd r = {.p = b, .left = 7};
	assert_null(ts_rd_bytes(&r, SIZE_MAX));
	assert_true(r.bad);
}

static void known_answers(void **state)
{
	uint8_t key[16], msg[15], block[4096], saved[8];
	uint64_t c;

	for (uint8_t i = 0; i < 16; i++)
		key[i] = i;
	for (uint8_t i = 0; i < 15; i++)
		msg[i] = i;
	assert_true(ts_siphash(msg, 15, key) == 0xa129ca6149be45e5ULL);
	assert_true(ts_siphash(msg, 0, key) == 0x726fdb47dd0e0e31ULL);
	assert_true(ts_csum64("", 0, 0) == 0x2d06800538d394c2ULL);
	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (uint8_t)(i * 7);
	for (size_t off = 0; off <= sizeof(block) - 8; off += 511) {
		c = ts_csum64_skip(block, sizeof(block), off, 5);
		memcpy(saved, block + off, 8);
		memset(block + off, 0, 8);
		assert_true(c == ts_csum64(block, sizeof(block), 5));
		memcpy(block + off, saved, 8);
	}
}

static void clock_and_random(void **state)
{
	uint64_t a = ts_now_ns(&ts_env_real), b = ts_now_ns(&ts_env_real);
	uint64_t r = ts_random(&ts_env_real), ones = 0;

	assert_true(b >= a && a > 0);
	assert_true(ts_wall_ns(&ts_env_real) > 1600000000ULL * TS_NS_PER_S);
	assert_true(r != ts_random(&ts_env_real));
	for (int i = 0; i < 1000; i++)
		ones += (uint64_t)__builtin_popcountll(ts_random(&ts_env_real));
	assert_in_range(ones, 31000, 33000);
}

static void nth_allocation_fails(void **state)
{
	void *p, *q;

	ts_alloc_fail_nth(2);
	p = ts_alloc(10);
	assert_non_null(p);
	q = ts_alloc_aligned(4096, 4096);
	assert_null(q);
	q = ts_alloc_aligned(4096, 4096);
	assert_non_null(q);
	assert_int_equal((uintptr_t)q % 4096, 0);
	ts_free(p);
	ts_free(q);
	ts_free(NULL);
}

static void hook_says_so(void)
{
	if (write(STDERR_FILENO, "HOOK\n", 5) != 5)
		_exit(3);
}

/* Runs fn in a child and returns what it wrote to stderr. */
static int child_stderr(void (*fn)(void), char *out, size_t room)
{
	int p[2], status;
	ssize_t n;
	size_t used = 0;
	pid_t pid;

	assert_int_equal(pipe(p), 0);
	pid = fork();
	if (pid == 0) {
		dup2(p[1], STDERR_FILENO);
		signal(SIGABRT, SIG_DFL);
		fn();
		_exit(0);
	}
	close(p[1]);
	while ((n = read(p[0], out + used, room - 1 - used)) > 0)
		used += (size_t)n;
	out[used] = 0;
	close(p[0]);
	waitpid(pid, &status, 0);
	return status;
}

static void panic_child(void)
{
	ts_panic_hook_set(hook_says_so);
	TS_ASSERT(1 + 1 == 3);
}
static void panic_tells_and_aborts(void **state)
{
	char text[512];
	int status = child_stderr(panic_child, text, sizeof(text));

	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	assert_non_null(strstr(text, "assertion failed: 1 + 1 == 3"));
	assert_non_null(strstr(text, "HOOK"));
	assert_true(strstr(text, "HOOK") > strstr(text, "PANIC"));
}

static void log_child(void)
{
	ts_log_open("lib_bytes_test", TS_LOG_INFO, true);
	ts_debug("not shown");
	ts_info("disk %d\nforged line", 7);
}
static void one_event_one_line(void **state)
{
	char text[512];

	assert_int_equal(child_stderr(log_child, text, sizeof(text)), 0);
	assert_non_null(strstr(text, "INFO disk 7 forged line\n"));
	assert_null(strstr(text, "not shown"));
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(little_endian_whatever_the_machine),
		cmocka_unit_test(nothing_past_the_end),
		cmocka_unit_test(known_answers),
		cmocka_unit_test(clock_and_random),
		cmocka_unit_test(nth_allocation_fails),
		cmocka_unit_test(panic_tells_and_aborts),
		cmocka_unit_test(one_event_one_line),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
