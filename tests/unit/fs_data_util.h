/* SPDX-License-Identifier: Apache-2.0 */
/* Job: files for the tests of file bytes: a handle on an inode without a name, and a model in memory to compare with. Disks are
 * filled with a pattern first, so that whatever was not written shows. */
#ifndef TESSERA_TESTS_FS_DATA_UTIL_H
#define TESSERA_TESTS_FS_DATA_UTIL_H

#include "fs_alloc_util.h"
#include "fs/data_int.h"

#include <fcntl.h>

static inline void du_pattern(struct fsh *h)
{
	for (unsigned i = 0; i < h->ndisks; i++) {
		memset(h->disk[i]->now, 0xa5, h->disk[i]->bytes);
		memset(h->disk[i]->stable, 0xa5, h->disk[i]->bytes);
	}
}

static inline void du_open(struct fs *fs, struct fs_file *f, uint64_t ino)
{
	struct tok_pin pin = {0};

	memset(f, 0, sizeof(*f));
	assert_int_equal(tok_pin(fs->tok, TOK_INODE, ino, TOK_SH, 0, TOK_END, 0, &pin), 0);
	assert_int_equal(fs_inode_get(fs, ino, &f->ip), 0);
	tok_unpin(fs->tok, &pin);
	f->fs = fs;
	f->flags = O_RDWR;
	f->ip->opens++;
	f->wb_error_seen = f->ip->wb_error_seq;
}

static inline void du_create(struct fs *fs, struct fs_file *f)
{
	du_open(fs, f, util_inode(fs, S_IFREG | 0644, 1));
}

static inline void du_close(struct fs *fs, struct fs_file *f)
{
	f->ip->opens--;
	fs_inode_put(fs, f->ip);
	f->ip = NULL;
}

/* As setattr does. */
static inline int du_truncate(struct fs *fs, struct fs_file *f, uint64_t size)
{
	struct tok_pin d = {0}, i = {0};
	struct fs_inode *ip;
	int rc;

	assert_int_equal(tok_pin(fs->tok, TOK_DATA, f->ip->ino, TOK_EX, 0, TOK_END, 0, &d), 0);
	assert_int_equal(tok_pin(fs->tok, TOK_INODE, f->ip->ino, TOK_EX, 0, TOK_END, 0, &i), 0);
	assert_int_equal(fs_inode_get(fs, f->ip->ino, &ip), 0);
	rc = fs_data_truncate(fs, ip, size);
	fs_inode_put(fs, ip);
	tok_unpin(fs->tok, &i);
	tok_unpin(fs->tok, &d);
	return rc;
}

/* Both tokens asked for by another node: everything is home, nothing cached. */
static inline void du_revoke(struct fs *fs, struct fs_file *f)
{
	assert_int_equal(fs_tok_stub_revoke(fs->tok, TOK_DATA, f->ip->ino, TOK_NL), 0);
	assert_int_equal(fs_tok_stub_revoke(fs->tok, TOK_INODE, f->ip->ino, TOK_NL), 0);
	assert_null(f->ip->data);
	assert_null(f->ip->buf);
}

static inline struct fs_inode_disk *du_disk(struct fs *fs, struct fs_file *f)
{
	uint8_t b[1];

	if (!f->ip->buf)
		assert_true(fs_read(fs, f, b, 1, 0) >= 0);
	return fs_idisk(f->ip);
}

static inline uint8_t du_byte(uint64_t seed, uint64_t off)
{
	return (uint8_t)(ts_hash_u64(seed * 1000003 + off / 8) >> (off % 8 * 8));
}
static inline void du_fill(uint8_t *p, uint64_t seed, uint64_t off, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = du_byte(seed, off + i);
}
static inline void du_write(struct fs *fs, struct fs_file *f, uint64_t seed, uint64_t off, size_t n)
{
	uint8_t *p = ts_xalloc(n);

	du_fill(p, seed, off, n);
	assert_int_equal(fs_write(fs, f, p, n, off, false, false, NULL), (int64_t)n);
	ts_free(p);
}
/* seed 0: zeros */
static inline void du_check(struct fs *fs, struct fs_file *f, uint64_t seed, uint64_t off, size_t n)
{
	uint8_t *p = ts_xalloc(n);
	size_t done = 0;

	TS_ASSERT(n && n < (1ULL << 32));
	memset(p, 0x5a, n);
	while (done < n) {
		ssize_t k = fs_read(fs, f, p + done, n - done, off + done);

		assert_true(k > 0);
		done += (size_t)k;
	}
	for (size_t i = 0; i < n; i++) {
		uint8_t want = seed ? du_byte(seed, off + i) : 0;

		if (p[i] != want)
			fail_msg("inode %lu: byte %lu is %#x, not %#x", f->ip->ino, off + i, p[i], want);
	}
	ts_free(p);
}

struct du_test {
	struct fsh *h;
	struct fs *fs;
	void (*body)(struct fsh *h, struct fs *fs);
};
static inline void du_fiber(void *arg)
{
	struct du_test *t = arg;

	util_up(t->fs);
	t->body(t->h, t->fs);
	util_down(t->fs);
}
static inline void du_run(struct fsh *h, void (*body)(struct fsh *h, struct fs *fs))
{
	struct du_test t = {.h = h, .fs = fsh_core(h), .body = body};

	fsh_run(h, du_fiber, &t);
	fsh_core_close(h);
	assert_int_equal(fs_tok_stub_pins(), 0);
}
static inline struct fsh *du_new(unsigned ndisks, uint64_t bytes, uint32_t block)
{
	struct fsh *h = fsh_new(ndisks, bytes);

	du_pattern(h);
	fsh_format(h, block);
	return h;
}

#endif
