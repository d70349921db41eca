/* SPDX-License-Identifier: Apache-2.0 */
/* Job: attributes.h. Must never happen: a torn value that passes, so each byte follows from name and number. */
#include "attrs.h"

#include <errno.h>
#include <stdio.h>

#define MOST 300u

static size_t len_of(unsigned content, unsigned n)
{
	uint64_t r = ts_hash_2(content, n);

	return r % 5 == 0 ? 4 + (r >> 8) % 30000 : r % 5 == 1 ? 4 + (r >> 8) % 3000 : 4 + (r >> 8) % 300;
}

static void fill(uint8_t *buf, size_t len, unsigned content, unsigned n)
{
	le32 number = le32_make(n);

	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(content * 13 + n * 7 + i * 3 + (i >> 8));
	memcpy(buf, &number, sizeof(number));
}

static int set(struct fs *fs, const struct fs_cred *c, uint64_t ino, const char *name, unsigned content, unsigned n)
{
	uint8_t *buf = ts_xalloc(65536);
	int rc;

	fill(buf, len_of(content, n), content, n);
	rc = fs_setxattr(fs, c, ino, name, buf, len_of(content, n), 0);
	ts_free(buf);
	return rc;
}

int attrs_add(struct fs *fs, const struct fs_cred *c, uint64_t ino, unsigned content, unsigned n)
{
	char name[32];
	int rc;

	snprintf(name, sizeof(name), "user.n%u", n);
	rc = set(fs, c, ino, name, content, n);
	return rc ? rc : set(fs, c, ino, "user.newest", content + 1, n);
}

/* 1: there and right, 0: not there, -1: wrong. */
static int look(struct fs *fs, const struct fs_cred *c, uint64_t ino, const char *name, unsigned content, unsigned *n)
{
	uint8_t *got = ts_xalloc(65536), *want = ts_xalloc(65536);
	ssize_t len = fs_getxattr(fs, c, ino, name, got, 65536);
	int rc = len == -ENODATA ? 0 : -1;
	le32 number;

	if (len >= 4) {
		memcpy(&number, got, sizeof(number));
		*n = le32_get(number);
		fill(want, (size_t)len, content, *n);
		rc = (size_t)len == len_of(content, *n) && !memcmp(got, want, (size_t)len) ? 1 : -1;
	}
	ts_free(got);
	ts_free(want);
	return rc;
}

const char *attrs_wrong(struct fs *fs, const struct fs_cred *c, uint64_t ino, unsigned content, unsigned n)
{
	unsigned number = 0, there = 0;
	char name[32];
	int rc;

	for (unsigned i = 1; i <= MOST; i++) {
		snprintf(name, sizeof(name), "user.n%u", i);
		rc = look(fs, c, ino, name, content, &number);
		if (rc < 0 || (rc && number != i))
			return "the value of an attribute";
		if (!rc)
			break;
		there = i;
	}
	if (there < n)
		return "an attribute that was stable is gone";
	rc = look(fs, c, ino, "user.newest", content + 1, &number);
	if (rc < 0 || (!rc && n))
		return "the value of the attribute that is replaced";
	return n && number < n ? "an old value of the attribute that is replaced" : NULL;
}
