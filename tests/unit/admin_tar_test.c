/* SPDX-License-Identifier: Apache-2.0 */
/* The tar files of `tessera snap` and `cluster backup`: what was written is read back; a file cut anywhere, or with any one byte changed, is read
 * without a fault of memory, and never gives a member that was not written under its name. */
#include "admin/cli.h"

#include <setjmp.h>
#include <stdarg.h>
#include <time.h>

#include <cmocka.h>

#define MAX 4096

static const struct {
	const char *name;
	size_t len;
} members[] = {{"a/empty", 0}, {"a/one", 1}, {"a/block", 512}, {"a/more", 1300}};

static char *text_of(size_t len)
{
	char *s = calloc(1, len + 1);
	for (size_t i = 0; i < len; i++)
		s[i] = (char)('a' + i % 26);
	return s;
}

static char *tar_make(size_t *len)
{
	static const char end[1024];
	char *buf = NULL;
	FILE *f = open_memstream(&buf, len);
	for (size_t i = 0; i < TS_ARRAY_LEN(members); i++) {
		char *s = text_of(members[i].len);
		assert_true(cli_tar_member(f, members[i].name, s, members[i].len, 1));
		free(s);
	}
	assert_int_equal(fwrite(end, sizeof(end), 1, f), 1);
	fclose(f);
	return buf;
}

/* Members read; *rc is what ended it. good: each is one that was written, in order. */
static unsigned tar_read(const char *buf, size_t len, int *rc, bool *good)
{
	FILE *f = fmemopen((void *)(uintptr_t)buf, len ? len : 1, "r");
	char name[101], *text;
	size_t n, i = 0;
	*good = true;
	while ((*rc = cli_tar_next(f, name, &text, &n, MAX)) == 1) {
		char *want = i < TS_ARRAY_LEN(members) ? text_of(members[i].len) : NULL;
		*good &= want && !strcmp(name, members[i].name) && n == members[i].len && !memcmp(text, want, n);
		free(want);
		free(text);
		i++;
	}
	fclose(f);
	return (unsigned)i;
}

static void whole(void **state)
{
	size_t len;
	int rc;
	bool good;
	char *buf = tar_make(&len);
	assert_int_equal(len % 512, 0);
	assert_int_equal(tar_read(buf, len, &rc, &good), TS_ARRAY_LEN(members));
	assert_int_equal(rc, 0);
	assert_true(good);
	free(buf);
}

static void cut(void **state)
{
	size_t len;
	int rc;
	bool good;
	char *buf = tar_make(&len);
	for (size_t n = 0; n + 1024 < len; n++) {
		tar_read(buf, n, &rc, &good);
		assert_int_equal(rc, -EINVAL);
		assert_true(good);
	}
	free(buf);
}

static void flipped(void **state)
{
	size_t len;
	int rc;
	bool good;
	unsigned seen = 0;
	char *buf = tar_make(&len);
	for (size_t n = 0; n < len; n++) {
		buf[n] ^= 0x15;
		unsigned got = tar_read(buf, len, &rc, &good);
		assert_true(got <= TS_ARRAY_LEN(members));
		seen += rc == -EINVAL || !good;
		buf[n] ^= 0x15;
	}
	assert_true(seen > 4 * 400); /* every byte of a header counts; what is between the texts does not */
	free(buf);
}

static void too_long(void **state)
{
	size_t len = 0;
	int rc;
	bool good;
	char *buf = NULL, *s = text_of(MAX + 1);
	FILE *f = open_memstream(&buf, &len);
	assert_true(cli_tar_member(f, "long", s, MAX + 1, 1));
	fclose(f);
	assert_int_equal(tar_read(buf, len, &rc, &good), 0);
	assert_int_equal(rc, -EINVAL);
	free(s);
	free(buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(whole), cmocka_unit_test(cut), cmocka_unit_test(flipped), cmocka_unit_test(too_long)};
	return cmocka_run_group_tests_name("admin_tar", tests, NULL, NULL);
}
