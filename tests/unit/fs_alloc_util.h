/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a node of the modules above the log (allocation, inodes, reaper, data) on the harness's disks, with the token stub and
 * revokes that reach them; shared by the tests of allocation, inodes and xattrs. */
#ifndef TESSERA_TESTS_FS_ALLOC_UTIL_H
#define TESSERA_TESTS_FS_ALLOC_UTIL_H

#include "fs_harness.h"
#include "fs/alloc_int.h"

static inline int util_revoke(void *arg, enum tok_kind kind, uint64_t id, enum tok_mode to, uint64_t start, uint64_t end)
{
	struct fs *fs = arg;

	switch (kind) {
	case TOK_DATA:
		return fs_data_revoke(fs, id, to == TOK_NL, 0, TOK_END);
	case TOK_INODE:
		return fs_inode_revoke(fs, id, to);
	case TOK_SEGMENT:
		return fs_ialloc_revoke_segment(fs, id);
	case TOK_SEGTAB:
		return fs_segtab_revoke(fs, id, to == TOK_NL);
	case TOK_REGION:
		return fs_alloc_revoke_region(fs, id);
	default:
		return fs_buf_clean_resource(fs, kind, id, to == TOK_NL);
	}
}

/* From a fiber. */
static inline void util_up(struct fs *fs)
{
	struct tok_args a = {.exec = fs->exec, .self = fs->self, .incarnation = fs->incarnation,
			     .events = {.revoke = util_revoke, .arg = fs}};

	fs->tok = tok_mgr_new(&a);
	assert_int_equal(fs_alloc_init(fs), 0);
	assert_int_equal(fs_ialloc_init(fs), 0);
	assert_int_equal(fs_icache_init(fs), 0);
	assert_int_equal(fs_data_init(fs, 4 << 20), 0);
	assert_int_equal(fs_reaper_start(fs), 0);
}

/* From a fiber: as an unmount does, up to the log. Then fsh_core_close. */
static inline void util_down(struct fs *fs)
{
	assert_int_equal(fs_inode_writeback_all(fs), 0);
	fs->stopping_threads = true;
	fs_reaper_kick(fs);
	fs_log_kick(fs);
	(void)ts_group_wait(&fs->background, "background fibers");
	assert_int_equal(tok_mgr_drain(fs->tok), 0);
	fs_data_fini(fs);
	fs_reaper_fini(fs);
	fs_icache_fini(fs);
	fs_ialloc_fini(fs);
	fs_alloc_fini(fs);
	tok_mgr_free(fs->tok);
	fs->tok = NULL;
}

/* A test body on a fiber, on a formatted and started node. */
struct util_run {
	struct fs *fs;
	void (*body)(struct fs *fs);
	bool down;
};
static inline void util_fiber(void *arg)
{
	struct util_run *u = arg;

	if (!u->fs->tok)
		util_up(u->fs);
	u->body(u->fs);
	if (u->down)
		util_down(u->fs);
}
static inline void util_test(unsigned ndisks, uint64_t bytes, uint32_t block, void (*body)(struct fs *fs))
{
	struct fsh *h = fsh_new(ndisks, bytes);
	struct util_run u = {.body = body, .down = true};

	fsh_format(h, block);
	u.fs = fsh_core(h);
	fsh_run(h, util_fiber, &u);
	fsh_core_close(h);
	assert_int_equal(fs_tok_stub_pins(), 0);
	fsh_free(h);
}

/* A new inode of this mode, without a name; its number. */
static inline uint64_t util_inode(struct fs *fs, uint32_t mode, uint32_t nlink)
{
	struct tok_pin pin = {0};
	struct fs_buf *b;
	struct fs_tx tx;
	uint64_t ino;
	uint32_t gen;
	int rc = fs_ialloc_take(fs, &ino, &pin, &b, &gen);

	while (rc == -FS_NEED_INODE) {
		assert_int_equal(fs_alloc_refill(fs, rc), 0);
		rc = fs_ialloc_take(fs, &ino, &pin, &b, &gen);
	}
	assert_int_equal(rc, 0);
	rc = fs_log_reserve(fs, 0);
	assert_int_equal(rc, 0);
	fs_tx_begin(fs, &tx);
	fs_inode_init_tx(fs, &tx, b, ino, gen, mode, 0, 0, 0);
	((struct fs_inode_disk *)b->data)->nlink = le32_make(nlink);
	fs_tx_commit(&tx);
	fs_buf_put(fs, b);
	tok_unpin(fs->tok, &pin);
	return ino;
}

#endif
