/* SPDX-License-Identifier: Apache-2.0 */
/* Job: free inodes: unique, generations that grow, segments made, given up, claimed again; the segment table. */
#include "fs_alloc_util.h"

static int take(struct fs *fs, uint64_t *ino, struct tok_pin *pin, struct fs_buf **b, uint32_t *gen)
{
	int rc = fs_ialloc_take(fs, ino, pin, b, gen);

	while (rc == -FS_NEED_INODE) {
		rc = fs_alloc_refill(fs, rc);
		if (!rc)
			rc = fs_ialloc_take(fs, ino, pin, b, gen);
	}
	return rc;
}

#define MANY 2000u
static void unique_body(struct fs *fs)
{
	uint8_t *seen = ts_xalloc(1 << 20);

	for (unsigned i = 0; i < MANY; i++) {
		uint64_t ino = util_inode(fs, S_IFREG | 0644, 1);

		assert_true(ino > FS_ROOT_INO && ino < 1 << 20);
		assert_false(seen[ino]);
		seen[ino] = 1;
	}
	/* Other segments of one node are near each other: few table blocks are touched. */
	ts_free(seen);
}
static void unique(void **state)
{
	util_test(1, 300 << 20, 1 << 20, unique_body);
}

static void untake_body(struct fs *fs)
{
	struct tok_pin pin = {0}, pin2 = {0};
	struct fs_buf *b, *b2;
	uint64_t ino, again;
	uint32_t gen, gen2;

	assert_int_equal(take(fs, &ino, &pin, &b, &gen), 0);
	assert_int_equal(gen, 1);
	fs_ialloc_untake(fs, ino, &pin, b);
	assert_int_equal(fs_tok_stub_pins(), 0);
	assert_int_equal(take(fs, &again, &pin, &b, &gen2), 0);
	assert_int_equal(again, ino);
	assert_int_equal(gen2, gen);
	/* One that somebody looks at is passed over, not waited for. */
	fs_ialloc_untake(fs, again, &pin, b);
	assert_int_equal(tok_pin(fs->tok, TOK_INODE, ino, TOK_SH, 0, TOK_END, 0, &pin2), 0);
	assert_int_equal(fs_ialloc_take(fs, &again, &pin, &b2, &gen2), 0);
	assert_int_not_equal(again, ino);
	fs_ialloc_untake(fs, again, &pin, b2);
	tok_unpin(fs->tok, &pin2);
}
static void untake(void **state)
{
	util_test(1, 300 << 20, 1 << 20, untake_body);
}

/* Many are ready, but no token can be had now (a node's death is being recovered): the refill waits, nobody says ENOSPC. */
struct hold {
	struct fs *fs;
	struct tok_pin pin[FS_SEG_INODES];
	unsigned n;
};
static void let_go(void *arg)
{
	struct hold *h = arg;

	ts_sleep_until(ts_exec_now(h->fs->exec) + 100 * TS_NS_PER_MS);
	while (h->n)
		tok_unpin(h->fs->tok, &h->pin[--h->n]);
}
static void hold_ready(struct hold *h, const struct fs_seg *s)
{
	for (unsigned i = 0; i < FS_SEG_INODES; i++)
		if (s->slot[i].state == FS_SLOT_READY) {
			uint64_t ino = (s->id << FS_SEG_SHIFT) + i;

			assert_int_equal(tok_pin(h->fs->tok, TOK_INODE, ino, TOK_SH, 0, TOK_END, 0, &h->pin[h->n++]), 0);
		}
}
static void no_token_body(struct fs *fs)
{
	static struct hold h;
	struct tok_pin pin = {0};
	struct fs_buf *b;
	uint64_t ino;
	uint32_t gen;

	assert_int_equal(take(fs, &ino, &pin, &b, &gen), 0);
	fs_ialloc_untake(fs, ino, &pin, b);
	h = (struct hold){.fs = fs};
	assert_int_equal(fs->ialloc->nsegs, 1);
	hold_ready(&h, ts_list_entry(fs->ialloc->segs.next, struct fs_seg, link));
	assert_int_equal(h.n, fs->ialloc->nready);
	assert_int_equal(fs_ialloc_take(fs, &ino, &pin, &b, &gen), -FS_NEED_INODE);
	assert_int_equal(ts_fiber_spawn(fs->exec, "let go", let_go, &h), 0);
	assert_int_equal(fs_alloc_refill(fs, -FS_NEED_INODE), 0);
	assert_int_equal(h.n, 0);
	assert_int_equal(fs_ialloc_take(fs, &ino, &pin, &b, &gen), 0);
	fs_ialloc_untake(fs, ino, &pin, b);
}
static void no_token(void **state)
{
	util_test(1, 300 << 20, 1 << 20, no_token_body);
}

static void set_free(struct fs *fs, uint64_t ino)
{
	struct tok_pin pin = {0};
	struct fs_inode *ip;
	struct fs_tx tx;

	assert_int_equal(tok_pin(fs->tok, TOK_INODE, ino, TOK_EX, 0, TOK_END, 0, &pin), 0);
	assert_int_equal(fs_inode_get(fs, ino, &ip), 0);
	assert_int_equal(fs_log_reserve(fs, 0), 0);
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, ip->buf);
	fs_idisk(ip)->mode = le16_make(0);
	fs_tx_commit(&tx);
	fs_inode_forget_freed(fs, ip);
	fs_ialloc_freed(fs, ino);
	fs_inode_put(fs, ip);
	tok_unpin(fs->tok, &pin);
}

/* A freed inode waits for the log, then comes back with the next generation. */
static void freed_body(struct fs *fs)
{
	uint64_t ino = util_inode(fs, S_IFREG | 0600, 1), got;
	struct tok_pin pin = {0};
	struct fs_buf *b;
	uint32_t gen;

	set_free(fs, ino);
	assert_int_equal(fs_ialloc_take(fs, &got, &pin, &b, &gen), 0);
	assert_int_not_equal(got, ino);
	fs_ialloc_untake(fs, got, &pin, b);
	assert_int_equal(fs_log_force(fs, fs_log_head(fs)), 0);
	assert_int_equal(fs_ialloc_take(fs, &got, &pin, &b, &gen), 0);
	assert_int_equal(got, ino);
	assert_int_equal(gen, 2);
	fs_ialloc_untake(fs, got, &pin, b);
	/* Its token leaves: it is not ready any more, and is found again by reading it. */
	assert_int_equal(fs_tok_stub_revoke(fs->tok, TOK_INODE, ino, TOK_NL), 0);
	assert_int_equal(fs_seg_find(fs, ino >> FS_SEG_SHIFT)->slot[ino % FS_SEG_INODES].state, FS_SLOT_CAND);
	assert_true(fs_seg_prefill(fs, 100000) > 0);
	assert_int_equal(fs_seg_find(fs, ino >> FS_SEG_SHIFT)->slot[ino % FS_SEG_INODES].state, FS_SLOT_READY);
	assert_int_equal(fs_seg_find(fs, ino >> FS_SEG_SHIFT)->slot[ino % FS_SEG_INODES].gen, 1);
}
static void freed(void **state)
{
	util_test(1, 300 << 20, 1 << 20, freed_body);
}

/* A segment that was given up is claimed again instead of a new one, and what is in use stays in use. */
static void claim_body(struct fs *fs)
{
	uint64_t used[100], seg, ino;
	struct tok_pin pin = {0};
	struct fs_buf *b;
	uint32_t gen;

	for (unsigned i = 0; i < 100; i++)
		used[i] = util_inode(fs, S_IFREG | 0600, 1);
	seg = used[99] >> FS_SEG_SHIFT;
	for (unsigned s = 0; s < 4; s++)
		if (fs_seg_find(fs, s))
			assert_int_equal(fs_tok_stub_revoke(fs->tok, TOK_SEGMENT, s, TOK_NL), 0);
	assert_null(fs_seg_find(fs, seg));
	assert_int_equal(fs->ialloc->nready, 0);
	for (unsigned i = 0; i < 300; i++) {
		assert_int_equal(take(fs, &ino, &pin, &b, &gen), 0);
		for (unsigned k = 0; k < 100; k++)
			assert_int_not_equal(ino, used[k]);
		assert_true(ino >> FS_SEG_SHIFT <= seg);
		fs_buf_put(fs, b);
		tok_unpin(fs->tok, &pin);
	}
}
static void claim(void **state)
{
	util_test(1, 300 << 20, 1 << 20, claim_body);
}

static void table_body(struct fs *fs)
{
	uint64_t ino = util_inode(fs, S_IFREG | 0600, 1);
	fs_addr a, b;

	assert_int_equal(fs_ino_addr(fs, 0, &a), -ESTALE);
	assert_int_equal(fs_ino_addr(fs, FS_MAX_INO, &a), -ESTALE);
	assert_int_equal(fs_ino_addr(fs, UINT64_MAX, &a), -ESTALE);
	assert_int_equal(fs_ino_addr(fs, le64_get(fs->super.nsegments) * FS_SEG_INODES - 1, &a), -ESTALE);
	assert_int_equal(fs_ino_addr(fs, FS_ROOT_INO, &a), 0);
	assert_int_equal(fs_ino_addr(fs, ino, &a), 0);
	fs_segtab_fini(fs);
	assert_int_equal(fs_segtab_init(fs), 0);
	assert_int_equal(fs_ino_addr(fs, ino, &b), 0);
	assert_int_equal(a, b);
}
static void table(void **state)
{
	util_test(2, 300 << 20, 64 << 10, table_body);
}

/* Every inode that space allows, then ENOSPC. */
static void full_body(struct fs *fs)
{
	uint64_t ino, n = 0;
	struct tok_pin pin = {0};
	struct fs_buf *b;
	uint32_t gen;
	int rc;

	while ((rc = take(fs, &ino, &pin, &b, &gen)) == 0) {
		fs_buf_put(fs, b);
		tok_unpin(fs->tok, &pin);
		n++;
	}
	assert_int_equal(rc, -ENOSPC);
	assert_true(n > 10 * FS_SEG_INODES);
	assert_int_equal(fs_tok_stub_pins(), 0);
}
static void full(void **state)
{
	util_test(1, 300 << 20, 1 << 20, full_body);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unique), cmocka_unit_test(untake), cmocka_unit_test(freed),
		cmocka_unit_test(claim),  cmocka_unit_test(table),  cmocka_unit_test(full),
		cmocka_unit_test(no_token),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
