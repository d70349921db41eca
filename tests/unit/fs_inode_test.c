/* SPDX-License-Identifier: Apache-2.0 */
/* Job: inodes in memory: lazy times, revokes, the bound, orphans that wait for their last close. */
#include "fs_alloc_util.h"
#include "fs/log_int.h"

static struct fs_inode *get(struct fs *fs, uint64_t ino, enum tok_mode mode, struct tok_pin *pin)
{
	struct fs_inode *ip;

	*pin = (struct tok_pin){0};
	assert_int_equal(tok_pin(fs->tok, TOK_INODE, ino, mode, 0, TOK_END, 0, pin), 0);
	assert_int_equal(fs_inode_get(fs, ino, &ip), 0);
	return ip;
}
static void put(struct fs *fs, struct fs_inode *ip, struct tok_pin *pin)
{
	fs_inode_put(fs, ip);
	tok_unpin(fs->tok, pin);
}

static void attr_body(struct fs *fs)
{
	uint64_t ino = util_inode(fs, S_IFREG | 0640, 1);
	struct fs_cred c = {0};
	struct fs_attr a;
	struct fs_setattr s = {.valid = FS_SET_UID | FS_SET_GID, .uid = 7, .gid = 8};

	assert_int_equal(fs_getattr(fs, &c, ino, &a), 0);
	assert_int_equal(a.mode, S_IFREG | 0640);
	assert_int_equal(a.nlink, 1);
	assert_int_equal(a.gen, 1);
	assert_int_equal(a.size, 0);
	assert_true(a.cacheable);
	assert_int_equal(fs_getattr(fs, &c, ino + 100, &a), -ESTALE);
	assert_int_equal(fs_getattr(fs, &c, 0, &a), -ESTALE);
	s.valid = FS_SET_MODE;
	s.mode = 06755;
	assert_int_equal(fs_setattr(fs, &c, ino, &s, &a), 0);
	assert_int_equal(a.mode, S_IFREG | 06755);
	s.valid = FS_SET_UID | FS_SET_GID;
	assert_int_equal(fs_setattr(fs, &c, ino, &s, &a), 0);
	assert_int_equal(a.mode, S_IFREG | 0755); /* chown takes the bits away */
	assert_int_equal(a.uid, 7);
	assert_int_equal(a.gid, 8);
	s = (struct fs_setattr){.valid = FS_SET_SIZE, .size = 5000000};
	assert_int_equal(fs_setattr(fs, &c, ino, &s, &a), 0);
	assert_int_equal(a.size, 5000000);
	ino = util_inode(fs, S_IFDIR | 0755, 2);
	assert_int_equal(fs_setattr(fs, &c, ino, &s, &a), -EISDIR);
	s = (struct fs_setattr){.valid = FS_SET_ATIME | FS_SET_MTIME_NOW, .atime_ns = -5};
	assert_int_equal(fs_setattr(fs, &c, ino, &s, &a), 0);
	assert_int_equal(a.atime_ns, -5);
	assert_int_equal(fs_tok_stub_pins(), 0);
}
static void attr(void **state)
{
	util_test(1, 300 << 20, 1 << 20, attr_body);
}

/* A lazy change is in the block within 5 s, and at home when the token leaves. */
static void lazy_body(struct fs *fs)
{
	uint64_t ino = util_inode(fs, S_IFREG | 0600, 1);
	struct fs_inode_disk *d = ts_alloc_aligned(FS_SUB, FS_SUB);
	struct tok_pin pin;
	struct fs_inode *ip = get(fs, ino, TOK_EX, &pin);
	fs_addr a;

	assert_non_null(d);
	ip->mtime_ns = 42;
	fs_inode_lazy(fs, ip);
	assert_int_not_equal(le64_get(fs_idisk(ip)->mtime_ns), 42);
	tok_unpin(fs->tok, &pin);
	ts_sleep_until(ts_exec_now(fs->exec) + 6 * TS_NS_PER_S);
	assert_false(ip->lazy_dirty);
	assert_int_equal(le64_get(fs_idisk(ip)->mtime_ns), 42);
	ip->mtime_ns = 43;
	fs_inode_lazy(fs, ip);
	assert_int_equal(fs_tok_stub_revoke(fs->tok, TOK_INODE, ino, TOK_NL), 0);
	assert_null(ip->buf);
	assert_int_equal(fs_ino_addr(fs, ino, &a), 0);
	assert_null(fs_buf_peek(fs, a));
	assert_int_equal(fs_io_read(fs, a, d, FS_SUB), 0);
	assert_int_equal(le64_get(d->mtime_ns), 43);
	fs_inode_put(fs, ip);
	ip = get(fs, ino, TOK_SH, &pin);
	assert_int_equal(ip->mtime_ns, 43);
	put(fs, ip, &pin);
	ts_free(d);
}
static void lazy(void **state)
{
	util_test(1, 300 << 20, 1 << 20, lazy_body);
}

/* Far more inodes than may be cached. */
static void bound_body(struct fs *fs)
{
	uint64_t first = 0, last = 0;
	struct tok_pin pin;

	for (unsigned i = 0; i < 3000; i++) {
		struct fs_inode *ip;

		last = util_inode(fs, S_IFREG | 0600, 1);
		first = first ? first : last;
		ip = get(fs, last, TOK_EX, &pin);
		ip->size = i;
		if (i % 7 == 0)
			fs_inode_lazy(fs, ip);
		else
			ip->size = 0;
		put(fs, ip, &pin);
	}
	struct fs_inode *ip = get(fs, first, TOK_SH, &pin);

	put(fs, ip, &pin);
}
static void bound(void **state)
{
	util_test(1, 300 << 20, 1 << 20, bound_body);
}

/* A block of a directory, in the cache. */
static fs_addr leaf_new(struct fs *fs)
{
	struct fs_ext e;
	struct fs_buf *b;
	struct fs_tx tx;
	int rc;

	while ((rc = fs_alloc_take(fs, true, 1, 0, 0, &e)))
		assert_int_equal(fs_alloc_refill(fs, rc), 0);
	assert_int_equal(fs_buf_new(fs, e.addr, FS_BT_DIRLEAF, TOK_DIR, 77, 1, &b), 0);
	assert_int_equal(fs_log_reserve(fs, 0), 0);
	fs_tx_begin(fs, &tx);
	fs_alloc_commit(fs, &tx, &e);
	fs_tx_buf(&tx, b);
	fs_tx_commit(&tx);
	fs_buf_put(fs, b);
	return e.addr;
}

/* Inodes that come and go, however many, leave the blocks of a directory in use alone. */
static void passing_body(struct fs *fs)
{
	enum { LEAVES = 600, INODES = 12000 }; /* of 2,048 buffers 1,024 may be inodes */
	fs_addr leaf[LEAVES];
	uint64_t missed = 0;

	for (unsigned i = 0; i < LEAVES; i++)
		leaf[i] = leaf_new(fs);
	for (unsigned i = 0; i < INODES; i++) {
		struct tok_pin pin;
		struct fs_inode *ip = get(fs, util_inode(fs, S_IFREG | 0600, 1), TOK_EX, &pin);
		struct fs_buf *b;

		put(fs, ip, &pin);
		if (i % 200 == 0)
			assert_int_equal(fs_log_checkpoint(fs, UINT64_MAX, false), 0); /* most are clean */
		if (i % 10)
			continue;
		b = fs_buf_peek(fs, leaf[i / 10 % LEAVES]);
		missed += !b;
		fs_buf_put(fs, b);
	}
	assert_int_equal(missed, 0);
}
static void passing(void **state)
{
	util_test(1, 300 << 20, 1 << 20, passing_body);
}

static void orphan(struct fs *fs, uint64_t ino)
{
	struct tok_pin pin;
	struct fs_inode *ip = get(fs, ino, TOK_EX, &pin);
	struct fs_tx tx;

	assert_int_equal(fs_log_reserve(fs, 0), 0);
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, ip->buf);
	fs_idisk(ip)->nlink = le32_make(0);
	fs_inode_orphan_tx(fs, &tx, ip);
	fs_tx_commit(&tx);
	put(fs, ip, &pin);
}

static int alive(struct fs *fs, uint64_t ino)
{
	struct fs_cred c = {0};
	struct fs_attr a;

	return fs_getattr(fs, &c, ino, &a);
}

static void orphan_body(struct fs *fs)
{
	static const uint32_t modes[] = {S_IFREG | 0600, S_IFDIR | 0700, S_IFLNK | 0777, S_IFIFO | 0600};
	uint64_t ino;
	struct tok_pin open_pin = {0}, pin;
	struct fs_inode *ip;

	for (unsigned i = 0; i < TS_ARRAY_LEN(modes); i++) {
		ino = util_inode(fs, modes[i], 1);
		orphan(fs, ino);
		ts_sleep_until(ts_exec_now(fs->exec) + TS_NS_PER_S);
		assert_int_equal(alive(fs, ino), -ESTALE);
	}
	/* Open: it stays, and goes with the last close. */
	ino = util_inode(fs, S_IFREG | 0600, 1);
	assert_int_equal(tok_pin(fs->tok, TOK_OPEN, ino, TOK_SH, 0, TOK_END, 0, &open_pin), 0);
	ip = get(fs, ino, TOK_SH, &pin);
	ip->opens++;
	tok_unpin(fs->tok, &pin);
	orphan(fs, ino);
	ts_sleep_until(ts_exec_now(fs->exec) + 60 * TS_NS_PER_S);
	assert_int_equal(alive(fs, ino), 0);
	tok_unpin(fs->tok, &open_pin);
	ip->opens--;
	fs_inode_closed(fs, ip);
	fs_inode_put(fs, ip);
	ts_sleep_until(ts_exec_now(fs->exec) + 60 * TS_NS_PER_S);
	assert_int_equal(alive(fs, ino), -ESTALE);
	/* Linked again before the reaper came: the intent is void. */
	ino = util_inode(fs, S_IFREG | 0600, 1);
	assert_int_equal(tok_pin(fs->tok, TOK_OPEN, ino, TOK_SH, 0, TOK_END, 0, &open_pin), 0);
	ip = get(fs, ino, TOK_SH, &pin);
	ip->opens++;
	tok_unpin(fs->tok, &pin);
	orphan(fs, ino);
	ts_sleep_until(ts_exec_now(fs->exec) + TS_NS_PER_S);
	struct fs_tx tx;

	assert_int_equal(tok_pin(fs->tok, TOK_INODE, ino, TOK_EX, 0, TOK_END, 0, &pin), 0);
	assert_int_equal(fs_log_reserve(fs, 0), 0);
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, ip->buf);
	fs_idisk(ip)->nlink = le32_make(1);
	fs_tx_commit(&tx);
	tok_unpin(fs->tok, &pin);
	ip->opens--;
	fs_inode_put(fs, ip);
	tok_unpin(fs->tok, &open_pin);
	ts_sleep_until(ts_exec_now(fs->exec) + 60 * TS_NS_PER_S);
	assert_int_equal(alive(fs, ino), 0);
	assert_true(ts_list_empty(fs_log_intents(fs)));
	assert_int_equal(fs_tok_stub_pins(), 0);
}
static void orphans(void **state)
{
	util_test(1, 300 << 20, 1 << 20, orphan_body);
}

/* Many at once, and their numbers come back. */
static void many_body(struct fs *fs)
{
	uint64_t inos[500];

	for (unsigned round = 0; round < 4; round++) {
		for (unsigned i = 0; i < 500; i++)
			inos[i] = util_inode(fs, S_IFREG | 0600, 1);
		for (unsigned i = 0; i < 500; i++)
			orphan(fs, inos[i]);
		ts_sleep_until(ts_exec_now(fs->exec) + 30 * TS_NS_PER_S);
		for (unsigned i = 0; i < 500; i++)
			assert_int_equal(alive(fs, inos[i]), -ESTALE);
		assert_int_equal(fs_log_force(fs, fs_log_head(fs)), 0);
	}
	assert_true(inos[0] < 4 * FS_SEG_INODES);
	assert_true(ts_list_empty(fs_log_intents(fs)));
}
static void many(void **state)
{
	util_test(1, 300 << 20, 1 << 20, many_body);
}

/* Hostile bytes in an inode: an error, no more. */
static void hostile_body(struct fs *fs)
{
	uint64_t ino = util_inode(fs, S_IFREG | 0600, 1), rng = 1;
	struct tok_pin pin;
	struct fs_inode *ip = get(fs, ino, TOK_EX, &pin), *again;
	uint8_t good[FS_SUB];

	memcpy(good, ip->buf->data, FS_SUB);
	for (unsigned i = 0; i < 3000; i++) {
		struct fs_buf *b = ip->buf;
		struct fs_tx tx;
		int rc;

		assert_int_equal(fs_log_reserve(fs, 0), 0);
		fs_tx_begin(fs, &tx);
		fs_tx_buf(&tx, b);
		for (unsigned k = 0; k < 4; k++) {
			rng = ts_hash_u64(rng + k + 1);
			b->data[sizeof(struct fs_mhdr_disk) + rng % 131] = (uint8_t)(rng >> 20);
		}
		fs_tx_commit(&tx);
		b->pins++; /* kept while the inode forgets it */
		fs_inode_put(fs, ip);
		tok_unpin(fs->tok, &pin);
		assert_int_equal(fs_tok_stub_revoke(fs->tok, TOK_DATA, ino, TOK_NL), 0);
		assert_int_equal(tok_pin(fs->tok, TOK_INODE, ino, TOK_EX, 0, TOK_END, 0, &pin), 0);
		ip = fs_inode_find(fs, ino);
		if (ip && ip->buf) {
			fs_buf_put(fs, ip->buf);
			ip->buf = NULL;
		}
		if (ip)
			fs_inode_put(fs, ip);
		rc = fs_inode_get(fs, ino, &again);
		assert_true(rc == 0 || rc == -ESTALE || rc == -EUCLEAN);
		if (rc == 0) {
			ssize_t n;
			struct fs_attr a;
			struct fs_cred c = {0};

			fs_inode_attr(fs, again, &a);
			(void)fs_xattr_inline_room(again);
			fs_inode_put(fs, again);
			tok_unpin(fs->tok, &pin);
			n = fs_listxattr(fs, &c, ino, NULL, 0);
			assert_true(n >= 0 || n == -EUCLEAN);
			assert_int_equal(tok_pin(fs->tok, TOK_INODE, ino, TOK_EX, 0, TOK_END, 0, &pin), 0);
		}
		assert_int_equal(fs_log_reserve(fs, 0), 0);
		fs_tx_begin(fs, &tx);
		fs_tx_buf(&tx, b);
		memcpy(b->data + sizeof(struct fs_mhdr_disk), good + sizeof(struct fs_mhdr_disk),
		       FS_SUB - sizeof(struct fs_mhdr_disk));
		fs_tx_commit(&tx);
		ip = fs_inode_find(fs, ino);
		if (ip && ip->buf) {
			fs_buf_put(fs, ip->buf);
			ip->buf = NULL;
		}
		if (ip)
			fs_inode_put(fs, ip);
		fs_buf_put(fs, b);
		assert_int_equal(fs_inode_get(fs, ino, &ip), 0);
	}
	put(fs, ip, &pin);
}
static void hostile(void **state)
{
	util_test(1, 300 << 20, 1 << 20, hostile_body);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(attr),	   cmocka_unit_test(lazy), cmocka_unit_test(bound),
		cmocka_unit_test(orphans), cmocka_unit_test(many), cmocka_unit_test(hostile), cmocka_unit_test(passing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
