/* SPDX-License-Identifier: Apache-2.0 */
/* Job: extended attributes and ACLs: against a model, inline and in a block, and their effect on permission bits. */
#include "fs_alloc_util.h"
#include "fs/xattr_int.h"

#include <stdio.h>

static const struct fs_cred root = {0}, user = {.uid = 1000, .gid = 1000};

static void basics_body(struct fs *fs)
{
	uint64_t ino = util_inode(fs, S_IFREG | 0644, 1), fifo = util_inode(fs, S_IFIFO | 0644, 1);
	char buf[256];

	assert_int_equal(fs_getxattr(fs, &root, ino, "user.a", buf, sizeof(buf)), -ENODATA);
	assert_int_equal(fs_setxattr(fs, &root, ino, "user.a", "hello", 5, FS_XATTR_REPLACE), -ENODATA);
	assert_int_equal(fs_setxattr(fs, &root, ino, "user.a", "hello", 5, FS_XATTR_CREATE), 0);
	assert_int_equal(fs_setxattr(fs, &root, ino, "user.a", "again", 5, FS_XATTR_CREATE), -EEXIST);
	assert_int_equal(fs_getxattr(fs, &root, ino, "user.a", NULL, 0), 5);
	assert_int_equal(fs_getxattr(fs, &root, ino, "user.a", buf, 4), -ERANGE);
	assert_int_equal(fs_getxattr(fs, &root, ino, "user.a", buf, 5), 5);
	assert_memory_equal(buf, "hello", 5);
	assert_int_equal(fs_setxattr(fs, &root, ino, "user.empty", "", 0, 0), 0);
	assert_int_equal(fs_getxattr(fs, &root, ino, "user.empty", buf, 5), 0);
	assert_int_equal(fs_setxattr(fs, &root, ino, "trusted.t", "x", 1, 0), 0);
	assert_int_equal(fs_setxattr(fs, &user, ino, "trusted.u", "x", 1, 0), -EPERM);
	assert_int_equal(fs_getxattr(fs, &user, ino, "trusted.t", buf, 5), -ENODATA);
	assert_int_equal(fs_listxattr(fs, &user, ino, buf, sizeof(buf)), 7 + 11);
	assert_memory_equal(buf, "user.a\0user.empty\0", 18);
	assert_int_equal(fs_listxattr(fs, &root, ino, NULL, 0), 7 + 11 + 10);
	assert_int_equal(fs_listxattr(fs, &root, ino, buf, 20), -ERANGE);
	assert_int_equal(fs_removexattr(fs, &root, ino, "user.a"), 0);
	assert_int_equal(fs_removexattr(fs, &root, ino, "user.a"), -ENODATA);
	assert_int_equal(fs_setxattr(fs, &root, ino, "user.", "x", 1, 0), -EOPNOTSUPP);
	assert_int_equal(fs_setxattr(fs, &root, ino, "other.x", "x", 1, 0), -EOPNOTSUPP);
	assert_int_equal(fs_setxattr(fs, &root, ino, "system.x", "x", 1, 0), -EOPNOTSUPP);
	assert_int_equal(fs_setxattr(fs, &root, fifo, "user.a", "x", 1, 0), -EPERM);
	assert_int_equal(fs_setxattr(fs, &root, fifo, "security.a", "x", 1, 0), 0);
	assert_int_equal(fs_tok_stub_pins(), 0);
}
static void basics(void **state)
{
	util_test(1, 300 << 20, 1 << 20, basics_body);
}

#define KEYS 12u
static void front_set(struct fs *fs, uint64_t ino, unsigned type, unsigned len)
{
	struct tok_pin pin = {0};
	struct fs_inode *ip;
	struct fs_tx tx;

	assert_int_equal(tok_pin(fs->tok, TOK_INODE, ino, TOK_EX, 0, TOK_END, 0, &pin), 0);
	assert_int_equal(fs_inode_get(fs, ino, &ip), 0);
	assert_int_equal(fs_log_reserve(fs, 0), 0);
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, ip->buf);
	fs_idisk(ip)->payload_type = (uint8_t)type;
	fs_idisk(ip)->inline_len = le16_make((uint16_t)len);
	fs_tx_commit(&tx);
	fs_inode_put(fs, ip);
	tok_unpin(fs->tok, &pin);
}

static int make_room(struct fs *fs, uint64_t ino, unsigned front, unsigned *room)
{
	struct tok_pin pin = {0};
	struct fs_inode *ip;
	int rc;

	assert_int_equal(tok_pin(fs->tok, TOK_INODE, ino, TOK_EX, 0, TOK_END, 0, &pin), 0);
	assert_int_equal(fs_inode_get(fs, ino, &ip), 0);
	rc = fs_xattr_make_room(fs, ip, front);
	*room = fs_xattr_inline_room(ip);
	fs_inode_put(fs, ip);
	tok_unpin(fs->tok, &pin);
	return rc;
}

/* Random sets and removes against a model, while the front of the payload grows and shrinks and the token goes away. */
static void model_body(struct fs *fs)
{
	uint64_t ino = util_inode(fs, S_IFDIR | 0755, 2), rng = 3;
	uint8_t val[KEYS][1200], got[1200];
	size_t len[KEYS];
	bool there[KEYS] = {0};
	struct fs_room room0, room1;

	assert_int_equal(fs_setxattr(fs, &root, ino, "user.warm", "x", 1, 0), 0);
	assert_int_equal(fs_alloc_statfs(fs, &room0), 0);
	for (unsigned round = 0; round < 3000; round++) {
		char name[32];
		unsigned k, room;
		int rc;

		rng = ts_hash_u64(rng + round);
		k = (unsigned)(rng % KEYS);
		snprintf(name, sizeof(name), "user.key%u", k);
		if (rng >> 8 & 1) {
			uint8_t v[1200];
			size_t n = (rng >> 16) % (round % 3 ? 60 : 1200);

			memset(v, (int)round, sizeof(v));
			rc = fs_setxattr(fs, &root, ino, name, v, n, 0);
			if (rc == -FS_NEED_META)
				fail();
			assert_true(rc == 0 || rc == -ENOSPC);
			if (!rc) {
				memcpy(val[k], v, n);
				len[k] = n;
				there[k] = true;
			}
		} else {
			assert_int_equal(fs_removexattr(fs, &root, ino, name), there[k] ? 0 : -ENODATA);
			there[k] = false;
		}
		if (rng >> 32 & 1) {
			unsigned front = (unsigned)((rng >> 40) % (FS_INODE_PTRS * 48 + 1));

			rc = make_room(fs, ino, front, &room);
			while (rc == -FS_NEED_META) {
				assert_int_equal(fs_alloc_refill(fs, rc), 0);
				rc = make_room(fs, ino, front, &room);
			}
			assert_int_equal(rc, 0);
			assert_true(room >= front);
			front_set(fs, ino, FS_PL_DIRINLINE, front);
		}
		if (round % 97 == 0)
			assert_int_equal(fs_tok_stub_revoke(fs->tok, TOK_INODE, ino, TOK_NL), 0);
		for (k = 0; k < KEYS; k++) {
			snprintf(name, sizeof(name), "user.key%u", k);
			assert_int_equal(fs_getxattr(fs, &root, ino, name, got, sizeof(got)), there[k] ? (ssize_t)len[k] : -ENODATA);
			if (there[k])
				assert_memory_equal(got, val[k], len[k]);
		}
	}
	front_set(fs, ino, FS_PL_NONE, 0);
	for (unsigned k = 0; k < KEYS; k++) {
		char name[32];

		snprintf(name, sizeof(name), "user.key%u", k);
		assert_int_equal(fs_removexattr(fs, &root, ino, name), there[k] ? 0 : -ENODATA);
	}
	assert_int_equal(fs_reaper_urgent(fs, TS_NS_PER_S), 0);
	ts_sleep_until(ts_exec_now(fs->exec) + 20 * TS_NS_PER_S);
	assert_int_equal(fs_alloc_statfs(fs, &room1), 0);
	assert_int_equal(room0.free, room1.free); /* the block went back */
}
static void model(void **state)
{
	util_test(1, 300 << 20, 1 << 20, model_body);
}

/* ---- more than a block -------------------------------------------------------------------------------------------------- */
#define BIG_KEYS 400u
struct big {
	uint32_t len[BIG_KEYS], seed[BIG_KEYS]; /* seed 0: not there */
	uint8_t value[FS_XATTR_VALUE_MAX], got[FS_XATTR_VALUE_MAX];
	char list[65536], name[256];
};

static const char *big_name(struct big *b, unsigned k)
{
	int n = snprintf(b->name, sizeof(b->name), "user.key%u", k);

	if (k % 7 == 0) {
		memset(b->name + n, 'x', 255 - (size_t)n);
		b->name[255] = 0;
	}
	return b->name;
}

static void big_fill(struct big *b, uint32_t seed, size_t len)
{
	for (size_t i = 0; i < len; i++)
		b->value[i] = (uint8_t)(seed + i * 7 + (i >> 9));
}

static void big_set(struct fs *fs, struct big *b, uint64_t ino, unsigned k, uint32_t len, uint32_t seed)
{
	big_fill(b, seed, len);
	assert_int_equal(fs_setxattr(fs, &root, ino, big_name(b, k), b->value, len, b->seed[k] ? FS_XATTR_REPLACE : FS_XATTR_CREATE), 0);
	b->len[k] = len;
	b->seed[k] = seed;
}

static void big_check(struct fs *fs, struct big *b, uint64_t ino)
{
	size_t names = 0;

	for (unsigned k = 0; k < BIG_KEYS; k++) {
		ssize_t n = fs_getxattr(fs, &root, ino, big_name(b, k), b->got, sizeof(b->got));

		assert_int_equal(n, b->seed[k] ? (ssize_t)b->len[k] : -ENODATA);
		names += b->seed[k] ? strlen(b->name) + 1 : 0;
		if (n <= 0)
			continue;
		big_fill(b, b->seed[k], (size_t)n);
		assert_memory_equal(b->got, b->value, (size_t)n);
	}
	assert_int_equal(fs_listxattr(fs, &root, ino, b->list, sizeof(b->list)), names);
	assert_int_equal(fs_listxattr(fs, &root, ino, NULL, 0), names);
}

static uint32_t big_len(uint64_t r)
{
	static const uint32_t edges[] = {0, 1, 64, 1023, 1024, 1025, 4024, 4025, 4096, 4097, 65535, 65536};

	switch (r % 8) {
	case 0:
		return edges[(r >> 8) % TS_ARRAY_LEN(edges)];
	case 1:
		return (uint32_t)((r >> 8) % 65537);
	case 2:
		return (uint32_t)((r >> 8) % 5000);
	default:
		return (uint32_t)((r >> 8) % 200);
	}
}

/* Sets, replaces and removes against a model, up and down through every shape; the space is back when all are gone, and
 * when the inode is. */
static void big_body(struct fs *fs)
{
	struct big *b = ts_xalloc(sizeof(*b));
	uint64_t ino = util_inode(fs, S_IFREG | 0644, 1), rng = 11;
	struct fs_room room0, room1;
	struct fs_attr attr;

	assert_int_equal(fs_setxattr(fs, &root, ino, "user.warm", "x", 1, 0), 0);
	assert_int_equal(fs_removexattr(fs, &root, ino, "user.warm"), 0);
	big_set(fs, b, ino, 1, 60000, 1); /* regions of both types are claimed */
	assert_int_equal(fs_removexattr(fs, &root, ino, big_name(b, 1)), 0);
	b->seed[1] = 0;
	assert_int_equal(fs_reaper_urgent(fs, TS_NS_PER_S), 0);
	ts_sleep_until(ts_exec_now(fs->exec) + 20 * TS_NS_PER_S);
	assert_int_equal(fs_alloc_statfs(fs, &room0), 0);
	for (unsigned phase = 0; phase < 6; phase++) {
		unsigned keys = phase % 2 ? BIG_KEYS : 12 + 30 * phase;

		for (unsigned round = 0; round < 600; round++) {
			unsigned k;

			rng = ts_hash_u64(rng + round);
			k = (unsigned)(rng % keys);
			if ((rng >> 10) % 10 < (phase % 2 ? 8 : 3)) {
				big_set(fs, b, ino, k, big_len(rng >> 20), 1 + (uint32_t)(rng >> 33));
			} else {
				assert_int_equal(fs_removexattr(fs, &root, ino, big_name(b, k)), b->seed[k] ? 0 : -ENODATA);
				b->seed[k] = 0;
			}
			if (round % 100 == 17)
				assert_int_equal(fs_tok_stub_revoke(fs->tok, TOK_INODE, ino, TOK_NL), 0);
			if (round % 100 == 50)
				big_check(fs, b, ino);
		}
		big_check(fs, b, ino);
	}
	assert_int_equal(fs_getattr(fs, &root, ino, &attr), 0);
	assert_true(attr.blocks512 > 8);
	for (unsigned k = 0; k < BIG_KEYS; k++) {
		assert_int_equal(fs_removexattr(fs, &root, ino, big_name(b, k)), b->seed[k] ? 0 : -ENODATA);
		b->seed[k] = 0;
	}
	big_check(fs, b, ino);
	assert_int_equal(fs_getattr(fs, &root, ino, &attr), 0);
	assert_int_equal(attr.blocks512, 0);
	assert_int_equal(fs_reaper_urgent(fs, TS_NS_PER_S), 0);
	ts_sleep_until(ts_exec_now(fs->exec) + 20 * TS_NS_PER_S);
	assert_int_equal(fs_alloc_statfs(fs, &room1), 0);
	assert_int_equal(room0.free, room1.free);
	assert_int_equal(fs_tok_stub_pins(), 0);
	ts_free(b);
}
static void big(void **state)
{
	util_test(2, 300 << 20, 1 << 20, big_body);
}

/* What a list may be at most: 64 KiB of names; then ENOSPC, and nothing of what was there is harmed. */
static void longest_list_body(struct fs *fs)
{
	uint64_t ino = util_inode(fs, S_IFDIR | 0755, 2);
	char name[32], *list = ts_xalloc(65536);
	size_t names = 0, n = 0;
	int rc = 0;

	while (!rc) {
		snprintf(name, sizeof(name), "user.%zx", n);
		rc = fs_setxattr(fs, &root, ino, name, &n, sizeof(n), 0);
		if (!rc) {
			names += strlen(name) + 1;
			n++;
		}
	}
	assert_int_equal(rc, -ENOSPC);
	assert_true(names > 65536 - 16 && names <= 65536);
	assert_int_equal(fs_listxattr(fs, &root, ino, list, 65536), names);
	for (size_t i = 0, got; i < n; i += 97) {
		snprintf(name, sizeof(name), "user.%zx", i);
		assert_int_equal(fs_getxattr(fs, &root, ino, name, &got, sizeof(got)), sizeof(got));
		assert_int_equal(got, i);
	}
	ts_free(list);
}
static void longest_list(void **state)
{
	util_test(1, 300 << 20, 1 << 20, longest_list_body);
}

/* Without the feature in the superblock: one block, as ever. */
static void old_format_body(struct fs *fs)
{
	uint64_t ino = util_inode(fs, S_IFREG | 0644, 1);
	uint8_t v[5000] = {1};

	fs->super.feat_incompat = le64_make(0);
	assert_int_equal(fs_setxattr(fs, &root, ino, "user.a", v, 3000, 0), 0);
	assert_int_equal(fs_setxattr(fs, &root, ino, "user.b", v, 3000, 0), -ENOSPC);
	assert_int_equal(fs_setxattr(fs, &root, ino, "user.b", v, 500, 0), 0);
	assert_int_equal(fs_setxattr(fs, &root, ino, "user.c", v, 5000, 0), -ENOSPC);
	assert_int_equal(fs_setxattr(fs, &root, ino, "user.c", v, 1000, 0), -ENOSPC);
	assert_int_equal(fs_getxattr(fs, &root, ino, "user.a", v, sizeof(v)), 3000);
}
static void old_format(void **state)
{
	util_test(1, 300 << 20, 1 << 20, old_format_body);
}

/* ---- ACLs ------------------------------------------------------------------------------------------------------------ */
struct acl_ent {
	le16 tag, perm;
	le32 id;
};
struct acl {
	le32 version;
	struct acl_ent e[8];
};
#define ACL_LEN(n) (4 + (n) * sizeof(struct acl_ent))
static void acl_put(struct acl *a, unsigned i, unsigned tag, unsigned perm, uint32_t id)
{
	a->version = le32_make(2);
	a->e[i] = (struct acl_ent){le16_make((uint16_t)tag), le16_make((uint16_t)perm), le32_make(id)};
}

static uint32_t mode_of(struct fs *fs, uint64_t ino)
{
	struct fs_attr a;

	assert_int_equal(fs_getattr(fs, &root, ino, &a), 0);
	return a.mode & 07777;
}

static void acl_body(struct fs *fs)
{
	uint64_t ino = util_inode(fs, S_IFREG | 0644, 1), dir = util_inode(fs, S_IFDIR | 0755, 2);
	struct fs_setattr s = {.valid = FS_SET_MODE, .mode = 0640};
	struct acl a = {0}, got;
	struct fs_attr attr;

	acl_put(&a, 0, 1, 7, UINT32_MAX);
	acl_put(&a, 1, 4, 5, UINT32_MAX);
	acl_put(&a, 2, 0x20, 1, UINT32_MAX);
	/* Says nothing beyond the mode: the mode changes and nothing is stored. */
	assert_int_equal(fs_setxattr(fs, &root, ino, FS_ACL_ACCESS, &a, ACL_LEN(3), 0), 0);
	assert_int_equal(mode_of(fs, ino), 0751);
	assert_int_equal(fs_getxattr(fs, &root, ino, FS_ACL_ACCESS, &got, sizeof(got)), -ENODATA);
	assert_int_equal(fs_setxattr(fs, &root, ino, FS_ACL_DEFAULT, &a, ACL_LEN(3), 0), -EACCES);
	/* A named user: stored; the group bits are the mask. */
	acl_put(&a, 0, 1, 6, UINT32_MAX);
	acl_put(&a, 1, 2, 7, 1000);
	acl_put(&a, 2, 4, 4, UINT32_MAX);
	acl_put(&a, 3, 0x10, 6, UINT32_MAX);
	acl_put(&a, 4, 0x20, 0, UINT32_MAX);
	assert_int_equal(fs_setxattr(fs, &root, ino, FS_ACL_ACCESS, &a, ACL_LEN(4), 0), -EINVAL);
	assert_int_equal(fs_setxattr(fs, &root, ino, FS_ACL_ACCESS, &a, ACL_LEN(5) - 1, 0), -EINVAL);
	assert_int_equal(fs_setxattr(fs, &root, ino, FS_ACL_ACCESS, &a, ACL_LEN(5), 0), 0);
	assert_int_equal(mode_of(fs, ino), 0660);
	/* chmod: the ACL follows. */
	assert_int_equal(fs_setattr(fs, &root, ino, &s, &attr), 0);
	assert_int_equal(fs_getxattr(fs, &root, ino, FS_ACL_ACCESS, &got, sizeof(got)), ACL_LEN(5));
	assert_int_equal(le16_get(got.e[0].perm), 6);
	assert_int_equal(le16_get(got.e[1].perm), 7);
	assert_int_equal(le16_get(got.e[2].perm), 4);
	assert_int_equal(le16_get(got.e[3].perm), 4);
	assert_int_equal(le16_get(got.e[4].perm), 0);
	/* Default ACL: what a new inode gets. */
	assert_int_equal(fs_setxattr(fs, &root, dir, FS_ACL_DEFAULT, &a, ACL_LEN(5), 0), 0);
	assert_int_equal(mode_of(fs, dir), 0755);
	struct tok_pin pin = {0};
	struct fs_inode *ip;
	uint8_t list[FS_XATTR_INLINE_MAX];
	uint16_t len;
	uint32_t mode = S_IFREG | 0666;
	size_t n;
	uint8_t *v;

	assert_int_equal(tok_pin(fs->tok, TOK_INODE, dir, TOK_SH, 0, TOK_END, 0, &pin), 0);
	assert_int_equal(fs_inode_get(fs, dir, &ip), 0);
	assert_int_equal(fs_xattr_inherit(fs, ip, 022, &mode, list, &len), 0);
	assert_int_equal(mode, S_IFREG | 0660);
	v = fs_xattr_find(list, len, FS_ACL_ACCESS, &n);
	assert_non_null(v);
	assert_int_equal(n, ACL_LEN(5));
	assert_null(fs_xattr_find(list, len, FS_ACL_DEFAULT, &n));
	mode = S_IFDIR | 0700;
	assert_int_equal(fs_xattr_inherit(fs, ip, 022, &mode, list, &len), 0);
	assert_int_equal(mode, S_IFDIR | 0600);
	v = fs_xattr_find(list, len, FS_ACL_DEFAULT, &n);
	assert_memory_equal(v, &a, ACL_LEN(5));
	v = fs_xattr_find(list, len, FS_ACL_ACCESS, &n);
	memcpy(&got, v, n);
	assert_int_equal(le16_get(got.e[3].perm), 0); /* mask */
	assert_int_equal(le16_get(got.e[1].perm), 7);
	fs_inode_put(fs, ip);
	tok_unpin(fs->tok, &pin);
	assert_int_equal(fs_removexattr(fs, &root, dir, FS_ACL_DEFAULT), 0);
	assert_int_equal(tok_pin(fs->tok, TOK_INODE, dir, TOK_SH, 0, TOK_END, 0, &pin), 0);
	assert_int_equal(fs_inode_get(fs, dir, &ip), 0);
	mode = S_IFREG | 0666;
	assert_int_equal(fs_xattr_inherit(fs, ip, 022, &mode, list, &len), 0);
	assert_int_equal(mode, S_IFREG | 0644);
	assert_int_equal(len, 0);
	fs_inode_put(fs, ip);
	tok_unpin(fs->tok, &pin);
}
static void acl(void **state)
{
	util_test(1, 300 << 20, 1 << 20, acl_body);
}

/* Random bytes as a packed list or an ACL never lead outside of it. */
static void hostile(void **state)
{
	uint64_t rng = 5;

	for (unsigned i = 0; i < 20000; i++) {
		uint8_t *p;
		size_t n, len;

		rng = ts_hash_u64(rng + i);
		n = rng % 200;
		p = ts_xalloc(n + 1);
		for (size_t k = 0; k < n; k++)
			p[k] = (uint8_t)(ts_hash_2(rng, k) % (i % 2 ? 256 : 12));
		if (n >= 4)
			p[0] = 2, p[1] = p[2] = p[3] = 0;
		(void)fs_xattr_find(p, n, "user.x", &len);
		if (!fs_acl_check(p, n)) {
			uint32_t mode = 0777;

			(void)fs_acl_create(p, n, &mode);
		}
		ts_free(p);
	}
}

/* Memory that runs out at any step: an error, nothing half done, and it works the next time. */
static void memory_body(struct fs *fs)
{
	uint64_t ino = util_inode(fs, S_IFREG | 0644, 1), nth = 1;
	uint8_t big[1500], got[1500];
	int rc;

	memset(big, 7, sizeof(big));
	do {
		assert_int_equal(fs_tok_stub_revoke(fs->tok, TOK_INODE, ino, TOK_NL), 0);
		ts_alloc_fail_nth(nth++);
		rc = fs_setxattr(fs, &root, ino, "user.big", big, sizeof(big), 0);
		ts_alloc_fail_nth(0);
		assert_true(rc == 0 || rc == -ENOMEM);
		assert_int_equal(fs_tok_stub_pins(), 0);
		assert_int_equal(fs_getxattr(fs, &root, ino, "user.big", got, sizeof(got)), rc ? -ENODATA : (ssize_t)sizeof(big));
		assert_true(nth < 1000);
	} while (rc);
	assert_memory_equal(big, got, sizeof(big));
	assert_true(nth > 2);
	/* The same where the list grows behind an index, and where the value gets an extent. */
	for (unsigned i = 0; i < 9; i++) {
		char name[16];

		snprintf(name, sizeof(name), "user.%u", i);
		nth = 1;
		do {
			assert_int_equal(fs_tok_stub_revoke(fs->tok, TOK_INODE, ino, TOK_NL), 0);
			ts_alloc_fail_nth(nth++);
			rc = fs_setxattr(fs, &root, ino, name, big, i % 3 ? 900 : 1500, 0);
			ts_alloc_fail_nth(0);
			assert_true(rc == 0 || rc == -ENOMEM);
			assert_int_equal(fs_tok_stub_pins(), 0);
			assert_int_equal(fs_getxattr(fs, &root, ino, name, got, sizeof(got)), rc ? -ENODATA : i % 3 ? 900 : 1500);
			assert_true(nth < 1000);
		} while (rc);
		assert_memory_equal(big, got, i % 3 ? 900 : 1500);
	}
}
static void memory(void **state)
{
	util_test(1, 300 << 20, 1 << 20, memory_body);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(basics),
		cmocka_unit_test(model),
		cmocka_unit_test(big),
		cmocka_unit_test(longest_list),
		cmocka_unit_test(old_format),
		cmocka_unit_test(acl),
		cmocka_unit_test(hostile),
		cmocka_unit_test(memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
