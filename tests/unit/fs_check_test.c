/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the checker is itself checked: a populated file system is clean; then every field of every structure on disk is changed,
 * with and without a right checksum, and each time the check must say so, repair it, and find nothing afterwards. Then many faults
 * at once from seeds.
 * Must never happen: a field of fs/format.h that is in no table here (static checks compare the tables with the structs). */
#include "fs_alloc_util.h"
#include "fs/xattr_int.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>

#define NDISKS 3u
#define DISK_BYTES (24ull << 20)
#define BLOCK 65536u
static const struct fs_cred me = {.uid = 1000, .gid = 100, .umask = 022};

/* ---- running the check ------------------------------------------------------------------------------------------------ */
struct run {
	struct fsh *h;
	bool repair, force, loud;
	uint64_t bound;
	struct fs_check_result res;
	int rc;
	unsigned unfixed;
	char err[256], first[256];
};

static void on_finding(void *arg, const char *text, bool repaired)
{
	struct run *r = arg;

	if (!r->first[0])
		snprintf(r->first, sizeof(r->first), "%s", text);
	r->unfixed += !repaired;
	if (r->loud || getenv("CHECK_LOUD"))
		fprintf(stderr, "    %s%s\n", repaired ? "[repaired] " : "", text);
}

static void check_fiber(void *arg)
{
	struct run *r = arg;
	struct fs_check_args a = {.disks = r->h->devs, .ndisks = r->h->ndisks, .repair = r->repair, .env = &r->h->env, .finding = on_finding,
				  .arg = r, .memory_bound = r->bound};

	r->rc = fs_check(&a, r->force, &r->res, r->err, sizeof(r->err));
}

static void check(struct fsh *h, bool repair, bool force, struct run *r)
{
	*r = (struct run){.h = h, .repair = repair, .force = force};
	fsh_run(h, check_fiber, r);
}

static void expect_clean(struct fsh *h, bool force, const char *when)
{
	struct run r;

	check(h, false, force, &r);
	if (r.rc || r.res.findings)
		fail_msg("%s: rc %d (%s), %llu findings, the first: %s", when, r.rc, r.err, (unsigned long long)r.res.findings, r.first);
}

/* ---- a populated file system -------------------------------------------------------------------------------------------- */
static struct fs *fs;
static struct fs_attr at;

static uint64_t mk(uint64_t dir, const char *name, uint32_t mode)
{
	int rc = fs_mknod(fs, &me, dir, name, strlen(name), mode, 0x1234, "a target of a symbolic link", &at);

	if (rc)
		fail_msg("mknod %s: %d", name, rc);
	return at.ino;
}

static void put(uint64_t ino, uint64_t off, size_t len, uint8_t fill)
{
	uint8_t *buf = ts_xalloc(len);
	struct fs_file *f;

	memset(buf, fill, len);
	assert_int_equal(fs_open(fs, &me, ino, O_RDWR, &f), 0);
	assert_int_equal(fs_write(fs, f, buf, len, off, false, false, NULL), (ssize_t)len);
	assert_int_equal(fs_fsync(fs, f, false), 0);
	fs_release(fs, f);
	ts_free(buf);
}

static void alloc_range(uint64_t ino, int mode, uint64_t off, uint64_t len)
{
	struct fs_file *f;

	assert_int_equal(fs_open(fs, &me, ino, O_RDWR, &f), 0);
	assert_int_equal(fs_fallocate(fs, f, mode, off, len, false), 0);
	fs_release(fs, f);
}

static void attr(uint64_t ino, const char *name, size_t len)
{
	static char value[65536];

	assert_true(len <= sizeof(value));
	memset(value, 'v', sizeof(value));
	assert_int_equal(fs_setxattr(fs, &(struct fs_cred){0}, ino, name, value, len, 0), 0);
}

struct made {
	uint64_t dir, tree, empty, tiny, flat, high, sparse, link, longlink, dev, fifo, sock, many, longvals, manyvals;
} made;

static void populate(struct fs *f)
{
	char name[256], target[4001] = "";

	fs = f;
	memset(&made, 0, sizeof(made));
	made.dir = mk(FS_ROOT_INO, "dir", S_IFDIR | 0755);
	made.tree = mk(FS_ROOT_INO, "tree", S_IFDIR | 0755);
	made.many = mk(made.tree, "many", S_IFDIR | 0755);
	made.empty = mk(made.dir, "empty", S_IFREG | 0644);
	made.tiny = mk(made.dir, "tiny", S_IFREG | 0644);
	made.flat = mk(made.dir, "flat", S_IFREG | 0644);
	made.high = mk(made.dir, "high", S_IFREG | 0644);
	made.sparse = mk(made.dir, "sparse", S_IFREG | 0644);
	made.link = mk(made.dir, "link", S_IFLNK | 0777);
	memset(target, 't', sizeof(target) - 1);
	assert_int_equal(fs_mknod(fs, &me, made.dir, "longlink", 8, S_IFLNK | 0777, 0, target, &at), 0);
	made.longlink = at.ino;
	made.longvals = mk(made.tree, "longvals", S_IFREG | 0600);
	made.manyvals = mk(made.tree, "manyvals", S_IFDIR | 0700);
	made.dev = mk(made.dir, "dev", S_IFCHR | 0600);
	made.fifo = mk(made.dir, "fifo", S_IFIFO | 0600);
	made.sock = mk(made.dir, "sock", S_IFSOCK | 0600);
	put(made.tiny, 0, 1000, 1);
	put(made.flat, 0, 3 * BLOCK + 5000, 2);
	put(made.high, 0, 2 * BLOCK, 3);
	put(made.high, 100ull * BLOCK, BLOCK, 4);
	put(made.sparse, 6000ull * BLOCK, 100, 5);
	put(made.sparse, 20ull * BLOCK, 10000, 6);
	alloc_range(made.flat, FS_FALLOC_KEEP_SIZE, 6 * BLOCK, BLOCK);
	alloc_range(made.high, 0, 50ull * BLOCK, BLOCK);
	attr(made.tiny, "user.a", 20);
	attr(made.tiny, "user.bee", 100);
	attr(made.flat, "user.large", 2500);
	attr(made.dir, "user.onadir", 30);
	attr(made.longvals, "user.short", 300);
	attr(made.longvals, "user.long", 5000); /* an extent, named in the inode */
	attr(made.manyvals, "user.longest", 65536);
	for (unsigned i = 0; i < 60; i++) {
		snprintf(name, sizeof(name), "user.number.%u", i);
		attr(made.manyvals, name, 150 + i);
	}
	for (unsigned i = 0; i < 60; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		(void)mk(made.tree, name, S_IFREG | 0600);
	}
	for (unsigned i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "another name of a file, %u", i);
		assert_int_equal(fs_link(fs, &me, made.tiny, made.tree, name, strlen(name), &at), 0);
	}
	for (unsigned i = 0; i < 1500; i++) {
		snprintf(name, sizeof(name), "%0200u", i);
		assert_int_equal(fs_link(fs, &me, made.empty, made.many, name, strlen(name), &at), 0);
	}
	for (unsigned i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "f%u", 3 * i);
		assert_int_equal(fs_unlink(fs, &me, made.tree, name, strlen(name)), 0);
	}
	assert_int_equal(fs_sync(fs), 0);
}

static struct fsh *populated(bool crash)
{
	struct fsh *h = fsh_new(NDISKS, DISK_BYTES);
	struct util_run u = {.body = populate, .down = !crash};

	fsh_format(h, BLOCK);
	u.fs = fsh_core(h);
	fsh_run(h, util_fiber, &u);
	if (crash)
		fsh_crash(h, 7);
	else
		fsh_core_close(h);
	return h;
}

/* ---- clean ------------------------------------------------------------------------------------------------------------------ */
static void test_format(void **state)
{
	struct fsh *h = fsh_new(NDISKS, DISK_BYTES);
	struct run r;

	fsh_format(h, BLOCK);
	expect_clean(h, false, "after format");
	check(h, true, false, &r);
	assert_int_equal(r.rc, 0);
	assert_int_equal(r.res.findings, 0);
	assert_int_equal(r.res.dirs, 1);
	fsh_free(h);
}

static void test_populated(void **state)
{
	struct fsh *h = populated(false);
	struct run r;

	check(h, false, false, &r);
	if (r.rc || r.res.findings)
		fail_msg("rc %d (%s), %llu findings, the first: %s", r.rc, r.err, (unsigned long long)r.res.findings, r.first);
	assert_int_equal(r.res.dirs, 5);
	check(h, true, false, &r);
	assert_int_equal(r.rc, 0);
	assert_int_equal(r.res.findings, 0);
	expect_clean(h, false, "after a repair of nothing");
	fsh_free(h);
}

static void test_crashed(void **state)
{
	struct fsh *h = populated(true);
	struct run r;

	check(h, false, false, &r);
	assert_int_equal(r.rc, -EBUSY);
	assert_true(strlen(r.err) > 0);
	expect_clean(h, true, "looking at a crashed one");
	check(h, true, true, &r);
	assert_int_equal(r.rc, 0);
	if (r.res.findings)
		fail_msg("%s", r.first);
	assert_true(r.res.replayed_logs);
	expect_clean(h, false, "after its replay");
	fsh_free(h);
}

/* ---- tables: every field of every structure ------------------------------------------------------------------------------- */
enum class {
	STRICT, /* every other value is found */
	SOME,	/* some values are legal, some are found: why */
	ANY,	/* every value is legal: why */
	NEST,	/* its own table */
};
struct field {
	const char *name;
	unsigned off, len;
	enum class class;
	const char *why;
};
#define ROW(Q, f, c, w) {#Q "." #f, offsetof(struct Q, f), sizeof(((struct Q *)0)->f), c, w},
#define SUM(Q, f, c, w) +sizeof(((struct Q *)0)->f)
#define TABLE(s, T)                                                                                                                 \
	static const struct field t_##s[] = {T(ROW, s)};                                                                            \
	_Static_assert(0 T(SUM, s) == sizeof(struct s), "a field of struct " #s " is in no table")

#define T_MHDR(X, Q)                                                                                                                \
	X(Q, magic, STRICT, "") X(Q, type, STRICT, "") X(Q, res_kind, STRICT, "") X(Q, flags, STRICT, "") X(Q, fs_id8, STRICT, "")      \
	X(Q, addr, STRICT, "") X(Q, res_id, STRICT, "") X(Q, res_gen, STRICT, "") X(Q, reserved, STRICT, "")                            \
	X(Q, incarnation, ANY, "who wrote it, for diagnosis") X(Q, version, SOME, "any time but none and one that never comes")         \
	X(Q, csum, NEST, "changed with everything")
TABLE(fs_mhdr_disk, T_MHDR);
#define T_SUPER(X, Q)                                                                                                               \
	X(Q, h, NEST, "") X(Q, fs_id, STRICT, "") X(Q, cluster_id, STRICT, "") X(Q, name, STRICT, "") X(Q, format_version, STRICT, "") \
	X(Q, block_size, STRICT, "") X(Q, feat_compat, STRICT, "") X(Q, feat_ro_compat, STRICT, "") X(Q, feat_incompat, STRICT, "")     \
	X(Q, create_time_ns, STRICT, "") X(Q, hash_key, STRICT, "") X(Q, ndisks, STRICT, "") X(Q, nslots, STRICT, "")                  \
	X(Q, log_subs, STRICT, "") X(Q, region_subs, STRICT, "") X(Q, nregions, STRICT, "") X(Q, meta_copies, STRICT, "")               \
	X(Q, data_copies, STRICT, "") X(Q, reserved0, STRICT, "") X(Q, nsegments, STRICT, "") X(Q, nsegtab_ext, STRICT, "")             \
	X(Q, reserved1, STRICT, "") X(Q, segtab, NEST, "") X(Q, move, STRICT, "") X(Q, reserved2, STRICT, "")                    \
	X(Q, move_mib_s, STRICT, "") X(Q, pool, STRICT, "") X(Q, reserved, STRICT, "")
TABLE(fs_super_disk, T_SUPER);
#define T_EXT(X, Q) X(Q, addr, STRICT, "") X(Q, first_block, STRICT, "") X(Q, nblocks, STRICT, "")
TABLE(fs_segtab_ext_disk, T_EXT);
#define T_DISK(X, Q)                                                                                                                \
	X(Q, uuid, STRICT, "") X(Q, size_subs, STRICT, "") X(Q, region_start, STRICT, "") X(Q, nchunks, STRICT, "")                     \
	X(Q, failure_group, STRICT, "") X(Q, usage, STRICT, "") X(Q, state, STRICT, "") X(Q, pool, STRICT, "") X(Q, reserved0, STRICT, "") \
	X(Q, grow_from, STRICT, "") X(Q, reserved, STRICT, "")
TABLE(fs_disk_ent_disk, T_DISK);
#define T_DISKTAB(X, Q) X(Q, h, NEST, "") X(Q, d, NEST, "")
TABLE(fs_disktab_disk, T_DISKTAB);
#define T_SLOTENT(X, Q) X(Q, addr, STRICT, "")
TABLE(fs_slot_ent_disk, T_SLOTENT);
#define T_SLOTTAB(X, Q) X(Q, h, NEST, "") X(Q, s, NEST, "") X(Q, reserved, STRICT, "")
TABLE(fs_slottab_disk, T_SLOTTAB);
#define T_SEGENT(X, Q) X(Q, addr, STRICT, "") X(Q, flags, STRICT, "") X(Q, used_hint, SOME, "a hint: any number up to 512")
TABLE(fs_seg_ent_disk, T_SEGENT);
#define T_SEGTAB(X, Q) X(Q, h, NEST, "") X(Q, s, NEST, "")
TABLE(fs_segtab_disk, T_SEGTAB);
#define T_BITMAP(X, Q)                                                                                                              \
	X(Q, h, NEST, "") X(Q, region, STRICT, "") X(Q, disk, STRICT, "") X(Q, type, STRICT, "") X(Q, reserved0, STRICT, "")            \
	X(Q, first_sub, STRICT, "") X(Q, nsubs, STRICT, "") X(Q, free, STRICT, "")                                                      \
	X(Q, retyped_version, SOME, "any time before the block's own") X(Q, reserved, STRICT, "") X(Q, bits, STRICT, "")
TABLE(fs_bitmap_disk, T_BITMAP);
#define T_AUX(X, Q) X(Q, h, NEST, "") X(Q, free_seq, STRICT, "") X(Q, reserved, STRICT, "")
TABLE(fs_chunkaux_disk, T_AUX);
#define T_BPTR(X, Q)                                                                                                                \
	X(Q, addr, STRICT, "") X(Q, birth, SOME, "any time there was") X(Q, csum, STRICT, "") X(Q, subs, STRICT, "")                    \
	X(Q, comp, STRICT, "") X(Q, csum_type, STRICT, "") X(Q, flags, SOME, "written or not is what it says") X(Q, reserved, STRICT, "")
TABLE(fs_bptr_disk, T_BPTR);
#define T_INODE(X, Q)                                                                                                               \
	X(Q, h, NEST, "") X(Q, mode, SOME, "permissions are free") X(Q, flags, SOME, "some flags are the user's") X(Q, nlink, STRICT, "")  \
	X(Q, uid, ANY, "the user's") X(Q, gid, ANY, "the user's") X(Q, project, ANY, "the user's")                                      \
	X(Q, size, SOME, "a file may be larger than its blocks") X(Q, subs, STRICT, "") X(Q, atime_ns, ANY, "a time")                   \
	X(Q, mtime_ns, ANY, "a time") X(Q, ctime_ns, ANY, "a time") X(Q, btime_ns, ANY, "a time") X(Q, map_height, STRICT, "")          \
	X(Q, payload_type, SOME, "an empty file has none or an empty one") X(Q, inline_len, SOME, "an inline file may end in zeros")    \
	X(Q, xattr_len, SOME, "without attributes it is 0") X(Q, trunc_epoch, ANY, "a counter") X(Q, pool, STRICT, "") X(Q, copies, STRICT, "")                 \
	X(Q, parent, STRICT, "") X(Q, stripe, ANY, "any number of disks") X(Q, place_flags, SOME, "blocks may lie elsewhere") \
	X(Q, reserved, STRICT, "") X(Q, payload, NEST, "")
TABLE(fs_inode_disk, T_INODE);
#define T_INDIRECT(X, Q) X(Q, h, NEST, "") X(Q, p, NEST, "")
TABLE(fs_indirect_disk, T_INDIRECT);
#define T_DIRENT(X, Q)                                                                                                              \
	X(Q, hash, STRICT, "") X(Q, ino, STRICT, "") X(Q, gen, STRICT, "") X(Q, rec_len, STRICT, "")                                    \
	X(Q, coll, ANY, "any number no neighbour has") X(Q, type, STRICT, "") X(Q, name_len, STRICT, "") X(Q, reserved, STRICT, "")
TABLE(fs_dirent_disk, T_DIRENT);
#define T_DIRINDEX(X, Q) X(Q, h, NEST, "") X(Q, prefix, STRICT, "") X(Q, depth_bits, STRICT, "") X(Q, reserved, STRICT, "") X(Q, p, NEST, "")
TABLE(fs_dirindex_disk, T_DIRINDEX);
#define T_DIRLEAF(X, Q)                                                                                                             \
	X(Q, h, NEST, "") X(Q, prefix, STRICT, "") X(Q, depth_bits, STRICT, "") X(Q, reserved0, STRICT, "") X(Q, used, STRICT, "")      \
	X(Q, count, STRICT, "") X(Q, reserved1, STRICT, "") X(Q, reserved2, STRICT, "") X(Q, ents, NEST, "")
TABLE(fs_dirleaf_disk, T_DIRLEAF);
#define T_XENT(X, Q) X(Q, name_len, SOME, "another length may make another sound list") X(Q, flags, STRICT, "") X(Q, value_len, SOME, "the same")
TABLE(fs_xattr_ent_disk, T_XENT);
#define T_XATTR(X, Q) X(Q, h, NEST, "") X(Q, used, STRICT, "") X(Q, reserved, STRICT, "") X(Q, ents, NEST, "")
TABLE(fs_xattr_disk, T_XATTR);
#define T_XEXT(X, Q) X(Q, p, NEST, "") X(Q, len, STRICT, "") X(Q, reserved, STRICT, "") X(Q, csum, STRICT, "")
TABLE(fs_xattr_ext_disk, T_XEXT);
#define T_XINDEX(X, Q) X(Q, h, NEST, "") X(Q, count, STRICT, "") X(Q, reserved, STRICT, "") X(Q, p, NEST, "")
TABLE(fs_xattr_index_disk, T_XINDEX);
#define T_LOGHEAD(X, Q)                                                                                                             \
	X(Q, h, NEST, "") X(Q, sequence, SOME, "a higher one is as good") X(Q, slot, STRICT, "") X(Q, state, SOME, "FREE and CLEAN are both empty") \
	X(Q, node, ANY, "who had it last") X(Q, reserved0, STRICT, "") X(Q, incarnation, SOME, "who had it last")                       \
	X(Q, tail_lsn, SOME, "an empty log may begin anywhere") X(Q, seal_lsn, SOME, "the same") X(Q, lamport, SOME, "any time")       \
	X(Q, sealed_by, ANY, "for diagnosis") X(Q, reserved, STRICT, "")
TABLE(fs_loghead_disk, T_LOGHEAD);
#define T_FRAME(X, Q)                                                                                                               \
	X(Q, magic, STRICT, "") X(Q, slot, STRICT, "") X(Q, incarnation, STRICT, "") X(Q, lsn, STRICT, "") X(Q, frame_len, STRICT, "") \
	X(Q, payload_len, STRICT, "") X(Q, tail_lsn, ANY, "where the tail was, for diagnosis") X(Q, fs_id8, STRICT, "")                 \
	X(Q, reserved, ANY, "nobody looks at it") X(Q, csum, NEST, "")
TABLE(fs_frame_disk, T_FRAME);
#define T_REC(X, Q)                                                                                                                 \
	X(Q, type, STRICT, "") X(Q, res_kind, ANY, "not of an intent") X(Q, flags, ANY, "nobody looks at it")                           \
	X(Q, block_type, ANY, "not of an intent") X(Q, len, STRICT, "") X(Q, res_id, STRICT, "") X(Q, addr, ANY, "not of an intent")   \
	X(Q, prev_version, ANY, "not of an intent") X(Q, version, ANY, "not of an intent")
TABLE(fs_rec_disk, T_REC);
#define T_INTENT(X, Q)                                                                                                              \
	X(Q, number, STRICT, "") X(Q, type, STRICT, "") X(Q, subs, STRICT, "") X(Q, a, STRICT, "") X(Q, b, ANY, "birth, for diagnosis")
TABLE(fs_intent_disk, T_INTENT);

#define EACH_TABLE(X)                                                                                                               \
	X(fs_mhdr_disk) X(fs_super_disk) X(fs_segtab_ext_disk) X(fs_disk_ent_disk) X(fs_disktab_disk) X(fs_slot_ent_disk)               \
	X(fs_slottab_disk) X(fs_seg_ent_disk) X(fs_segtab_disk) X(fs_bitmap_disk) X(fs_chunkaux_disk) X(fs_bptr_disk) X(fs_inode_disk) \
	X(fs_indirect_disk) X(fs_dirent_disk) X(fs_dirindex_disk) X(fs_dirleaf_disk) X(fs_xattr_ent_disk) X(fs_xattr_disk)              \
	X(fs_xattr_ext_disk) X(fs_xattr_index_disk)                                                                                       \
	X(fs_loghead_disk) X(fs_frame_disk) X(fs_rec_disk) X(fs_intent_disk)

/* With the sums checked above: no byte is in a table twice, so none is missing. And whoever says ANY or SOME says why. */
static void test_tables(void **state)
{
#define NO_BYTE_TWICE(s)                                                                                                            \
	do {                                                                                                                        \
		uint8_t seen[sizeof(struct s)] = {0};                                                                               \
		for (size_t i = 0; i < TS_ARRAY_LEN(t_##s); i++) {                                                                  \
			const struct field *f = &t_##s[i];                                                                          \
			assert_true(f->class == STRICT || f->class == NEST || *f->why);                                             \
			for (unsigned k = f->off; k < f->off + f->len; k++)                                                         \
				assert_int_equal(seen[k]++, 0);                                                                     \
		}                                                                                                                   \
	} while (0);
	EACH_TABLE(NO_BYTE_TWICE)
}

/* ---- an image that is damaged and restored --------------------------------------------------------------------------------- */
static uint8_t *pristine[NDISKS];
static uint8_t *dirtied[NDISKS]; /* a byte per sub-block */

static void on_write(void *arg, unsigned disk, enum nsd_op op, uint64_t off, const void *data, uint64_t len)
{
	for (uint64_t s = off / FS_SUB; op == NSD_WRITE && s < (off + len + FS_SUB - 1) / FS_SUB; s++)
		dirtied[disk][s] = 1;
}

static void image_take(struct fsh *h)
{
	for (unsigned i = 0; i < NDISKS; i++) {
		pristine[i] = ts_xalloc(DISK_BYTES);
		dirtied[i] = ts_xalloc(DISK_BYTES / FS_SUB);
		memcpy(pristine[i], h->disk[i]->now, DISK_BYTES);
		memset(dirtied[i], 0, DISK_BYTES / FS_SUB);
	}
	h->record = on_write;
}

static void image_restore(struct fsh *h)
{
	for (unsigned i = 0; i < NDISKS; i++) {
		for (uint64_t s = 0; s < DISK_BYTES / FS_SUB; s++) {
			if (dirtied[i][s])
				memcpy(h->disk[i]->now + s * FS_SUB, pristine[i] + s * FS_SUB, FS_SUB);
			dirtied[i][s] = 0;
		}
	}
}

static void image_drop(struct fsh *h)
{
	h->record = NULL;
	for (unsigned i = 0; i < NDISKS; i++) {
		ts_free(pristine[i]);
		ts_free(dirtied[i]);
	}
}

static uint8_t *block_at(struct fsh *h, fs_addr a)
{
	return h->disk[FS_ADDR_DISK(a)]->now + FS_ADDR_SUB(a) * FS_SUB;
}
static void touch_block(fs_addr a)
{
	dirtied[FS_ADDR_DISK(a)][FS_ADDR_SUB(a)] = 1;
}

/* The newest block of this type and resource. */
static fs_addr find_block(struct fsh *h, unsigned type, uint64_t res_id)
{
	uint64_t best = 0;
	fs_addr found = 0;

	for (unsigned d = 0; d < NDISKS; d++) {
		for (uint64_t s = FS_SUPER_SUB; s < DISK_BYTES / FS_SUB; s++) {
			fs_addr a = FS_ADDR(d, s);
			const struct fs_mhdr_disk *m = (const void *)block_at(h, a);

			if (m->type == type && le64_get(m->addr) == a && le64_get(m->res_id) == res_id &&
			    !fs_mdhdr_wrong(m, h->fs_id, type, a) && le64_get(m->version) > best) {
				best = le64_get(m->version);
				found = a;
			}
		}
	}
	if (!found)
		fail_msg("no block of type %u, resource %llu", type, (unsigned long long)res_id);
	return found;
}

/* ---- changing one field ------------------------------------------------------------------------------------------------------- */
struct target {
	char name[48];
	fs_addr addr;
	unsigned off;	  /* of the structure in the block */
	fs_addr frame;	  /* not 0: it is in a frame of a log; csum there */
	const struct field *f;
	unsigned n;
};
static struct target targets[256];
static unsigned ntargets;
#define AIM(label, a, o, s) aim(label, a, o, t_##s, TS_ARRAY_LEN(t_##s))
static void aim(const char *name, fs_addr a, unsigned off, const struct field *f, size_t n)
{
	struct target *t = &targets[ntargets++];

	TS_ASSERT(ntargets <= TS_ARRAY_LEN(targets));
	*t = (struct target){.addr = a, .off = off, .f = f, .n = (unsigned)n};
	snprintf(t->name, sizeof(t->name), "%s", name);
}
/* A block with its header. */
#define AIM_BLOCK(label, a, s)                                                                                                      \
	do {                                                                                                                        \
		AIM(label, a, 0, fs_mhdr_disk);                                                                                     \
		AIM(label, a, 0, s);                                                                                                \
	} while (0)

enum { VALUES = 6 };
static bool change(uint8_t *p, unsigned len, unsigned how, uint64_t seed)
{
	uint8_t before[FS_SUB];
	unsigned where = (unsigned)(ts_hash_u64(seed) % len);

	memcpy(before, p, len);
	switch (how) {
	case 0: memset(p, 0xff, len); break;
	case 1: memset(p, 0, len); break;
	case 2: p[0]++; break;
	case 3: p[0]--; break;
	case 4: p[where] ^= (uint8_t)(1u << (ts_hash_u64(seed + 1) % 8)); break;
	case 5:
		for (unsigned i = 0; i < TS_MIN(len, 8u); i++)
			p[(where + i) % len] = (uint8_t)ts_hash_u64(seed + 2 + i);
		break;
	}
	return memcmp(before, p, len) != 0;
}

static void reseal(struct fsh *h, const struct target *t)
{
	uint8_t *b = block_at(h, t->frame ? t->frame : t->addr);
	struct fs_frame_disk *f = (void *)b;

	if (!t->frame)
		((struct fs_mhdr_disk *)b)->csum = le64_make(ts_csum64_skip(b, FS_SUB, FS_MHDR_CSUM_OFF, 0));
	else if (le32_get(f->payload_len) <= FS_FRAME_MAX - sizeof(*f))
		f->csum = le64_make(ts_csum64_skip(b, sizeof(*f) + le32_get(f->payload_len), offsetof(struct fs_frame_disk, csum), 0));
}

static unsigned long nchanges, nfound, nrefused, ncomplaints;

/* All of them are worth seeing: the test fails at its end. */
static void complain(const char *fmt, ...) TS_PRINTF(1, 2);
static void complain(const char *fmt, ...)
{
	va_list ap;

	if (ncomplaints++ >= 60)
		return;
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n");
}

/* Damaged already: repair, then nothing may be left. */
static void repair_and_look(struct fsh *h, const char *what)
{
	struct run r;

	check(h, true, true, &r);
	if (r.rc == -EUCLEAN && strstr(r.err, "cannot be repaired")) {
		nrefused++;
		return;
	}
	if (r.rc || r.unfixed)
		complain("%s: repair says %d (%s), %u not repaired, the first: %s", what, r.rc, r.err, r.unfixed, r.first);
	check(h, false, false, &r);
	if (r.rc || r.res.findings)
		complain("%s: after its repair: %d (%s), %llu findings, the first: %s", what, r.rc, r.err,
			 (unsigned long long)r.res.findings, r.first);
}

/* A value that nothing else on disk repeats, of an object where another one of the kind has it checked. */
static bool nothing_to_compare(const struct target *t, const struct field *f)
{
	if (!strcmp(f->name, "fs_intent_disk.subs") && strstr(t->name, "an inode"))
		return true; /* an inode has none */
	return !strcmp(f->name, "fs_mhdr_disk.res_gen") && !strcmp(t->name, "root"); /* no entry names the root */
}

static bool one_change(struct fsh *h, const struct target *t, const struct field *f, unsigned how, bool seal)
{
	char what[160];
	struct run r;
	bool found;
	uint8_t *p = block_at(h, t->addr) + t->off + f->off;

	if (!change(p, f->len, how, t->addr * 977 + f->off * 31 + how))
		return false;
	touch_block(t->addr);
	if (t->frame)
		touch_block(t->frame);
	if (seal)
		reseal(h, t);
	snprintf(what, sizeof(what), "%s: %s, change %u, checksum %s", t->name, f->name, how, seal ? "right" : "wrong");
	if (getenv("CHECK_LOUD"))
		fprintf(stderr, "%s\n", what);
	check(h, false, false, &r); /* -EBUSY: a log that is closed no more */
	found = r.res.findings || r.rc;
	nchanges++;
	nfound += found;
	if (!found && (!seal || (f->class == STRICT && !nothing_to_compare(t, f))))
		complain("%s: not found", what);
	repair_and_look(h, what);
	image_restore(h);
	return found;
}

static void change_all(struct fsh *h)
{
	bool full = getenv("CHECK_FULL");

	for (unsigned i = 0; i < ntargets; i++) {
		const struct target *t = &targets[i];

		for (unsigned k = 0; k < t->n; k++) {
			const struct field *f = &t->f[k];
			bool found = false;

			if (f->class == NEST || (getenv("CHECK_TARGET") && !strstr(t->name, getenv("CHECK_TARGET"))))
				continue;
			for (unsigned how = 0; how < VALUES; how++) { /* some of them each, unless asked for all */
				if (full || (f->class == SOME ? !found : (how + k + i) % (f->class == STRICT ? 3 : 6) == 0))
					found |= one_change(h, t, f, how, true);
			}
			if (f->class == SOME && !found)
				complain("%s: %s: no change of it was found", t->name, f->name);
			if (!t->frame && (full || (i + k) % 4 == 0))
				(void)one_change(h, t, f, 4, false);
		}
	}
	assert_int_equal(ncomplaints, 0);
}

/* ---- where everything is -------------------------------------------------------------------------------------------------------- */
static fs_addr find_bitmap(struct fsh *h, unsigned type, bool used)
{
	for (unsigned d = 0; d < NDISKS; d++) {
		for (uint64_t s = FS_SYSTEM_SUB; s < DISK_BYTES / FS_SUB; s++) {
			const struct fs_bitmap_disk *b = (const void *)block_at(h, FS_ADDR(d, s));

			if (b->h.type == FS_BT_BITMAP && !fs_mdhdr_wrong(b, h->fs_id, FS_BT_BITMAP, FS_ADDR(d, s)) && b->type == type &&
			    (le32_get(b->free) < le32_get(b->nsubs) - FS_CHUNK_HEAD) == used)
				return FS_ADDR(d, s);
		}
	}
	fail_msg("no bitmap of type %u", type);
	return 0;
}

static fs_addr ptr_in(struct fsh *h, fs_addr block, unsigned off)
{
	const struct fs_bptr_disk *p = (const void *)(block_at(h, block) + off);

	return le64_get(p->addr[0]);
}

static unsigned first_ptr(struct fsh *h, fs_addr block, unsigned off, unsigned n)
{
	for (unsigned i = 0; i < n; i++, off += sizeof(struct fs_bptr_disk))
		if (ptr_in(h, block, off))
			return off;
	fail_msg("no pointer");
	return 0;
}
#define PAYLOAD ((unsigned)offsetof(struct fs_inode_disk, payload))
#define PTR	((unsigned)sizeof(struct fs_bptr_disk))

static fs_addr aim_inode(struct fsh *h, const char *name, uint64_t ino)
{
	fs_addr a = find_block(h, FS_BT_INODE, ino);

	AIM_BLOCK(name, a, fs_inode_disk);
	return a;
}

static void aim_system(struct fsh *h)
{
	const struct fs_super_disk *s = (const void *)block_at(h, FS_ADDR(0, FS_SUPER_SUB));
	fs_addr seg = le64_get(s->segtab[0].addr[0]), a;

	AIM_BLOCK("superblock", FS_ADDR(0, FS_SUPER_SUB), fs_super_disk);
	AIM_BLOCK("superblock, last copy", FS_ADDR(NDISKS - 1, FS_SUPER_SUB + 1), fs_super_disk);
	AIM("superblock extent", FS_ADDR(1, FS_SUPER_SUB), offsetof(struct fs_super_disk, segtab), fs_segtab_ext_disk);
	AIM_BLOCK("slot table", FS_ADDR(1, FS_SLOTTAB_SUB), fs_slottab_disk);
	AIM("slot 1", FS_ADDR(0, FS_SLOTTAB_SUB), offsetof(struct fs_slottab_disk, s[1]), fs_slot_ent_disk);
	AIM("no slot", FS_ADDR(0, FS_SLOTTAB_SUB + 1), offsetof(struct fs_slottab_disk, s[9]), fs_slot_ent_disk);
	AIM_BLOCK("disk table", FS_ADDR(0, FS_DISKTAB_SUB), fs_disktab_disk);
	AIM_BLOCK("disk table, second copy", FS_ADDR(0, FS_DISKTAB_SUB2), fs_disktab_disk);
	AIM("disk 1, second copy", FS_ADDR(0, FS_DISKTAB_SUB2), offsetof(struct fs_disktab_disk, d[1]), fs_disk_ent_disk);
	AIM("disk 0", FS_ADDR(2, FS_DISKTAB_SUB), offsetof(struct fs_disktab_disk, d[0]), fs_disk_ent_disk);
	AIM("disk 2", FS_ADDR(0, FS_DISKTAB_SUB), offsetof(struct fs_disktab_disk, d[2]), fs_disk_ent_disk);
	AIM("no disk", FS_ADDR(1, FS_DISKTAB_SUB + 7), offsetof(struct fs_disktab_disk, d[2]), fs_disk_ent_disk);
	AIM_BLOCK("segment table", seg, fs_segtab_disk);
	AIM("segment 0", seg, offsetof(struct fs_segtab_disk, s[0]), fs_seg_ent_disk);
	AIM("segment 1", seg, offsetof(struct fs_segtab_disk, s[1]), fs_seg_ent_disk);
	AIM("no segment", seg, offsetof(struct fs_segtab_disk, s[100]), fs_seg_ent_disk);
	a = find_bitmap(h, FS_REGION_META, true);
	AIM_BLOCK("bitmap of metadata", a, fs_bitmap_disk);
	AIM_BLOCK("second chunk block", a + 1, fs_chunkaux_disk);
	AIM_BLOCK("bitmap of data", find_bitmap(h, FS_REGION_DATA, true), fs_bitmap_disk);
	AIM_BLOCK("bitmap of a free region", find_bitmap(h, FS_REGION_FREE, false), fs_bitmap_disk);
}

static void aim_loghead(struct fsh *h, const char *name, uint32_t slot)
{
	const struct fs_slottab_disk *t = (const void *)block_at(h, FS_ADDR(0, FS_SLOTTAB_SUB));
	fs_addr a = le64_get(t->s[slot].addr[0]);
	const struct fs_loghead_disk *x = (const void *)block_at(h, a), *y = (const void *)block_at(h, a + 1);

	a += le64_get(y->sequence) > le64_get(x->sequence);
	AIM_BLOCK(name, a, fs_loghead_disk);
}

static void aim_files(struct fsh *h)
{
	fs_addr flat = aim_inode(h, "file, flat map", made.flat), high = aim_inode(h, "file, high map", made.high), a;
	fs_addr sparse = aim_inode(h, "file, sparse", made.sparse), tiny = aim_inode(h, "file, inline", made.tiny);

	(void)aim_inode(h, "file, empty", made.empty);
	(void)aim_inode(h, "symbolic link", made.link);
	(void)aim_inode(h, "symbolic link, long", made.longlink);
	a = find_block(h, FS_BT_XATTR, made.longlink);
	AIM_BLOCK("end of its target", a, fs_xattr_disk);
	AIM("attribute of that end", a, offsetof(struct fs_xattr_disk, ents), fs_xattr_ent_disk);
	(void)aim_inode(h, "device", made.dev);
	(void)aim_inode(h, "fifo", made.fifo);
	(void)aim_inode(h, "socket", made.sock);
	AIM("pointer to data", flat, PAYLOAD, fs_bptr_disk);
	AIM("pointer to unwritten data", flat, PAYLOAD + 6 * PTR, fs_bptr_disk);
	AIM("pointer to an attribute block", flat, FS_SUB - PTR, fs_bptr_disk);
	AIM("pointer to an indirect block", high, PAYLOAD, fs_bptr_disk);
	a = ptr_in(h, high, PAYLOAD);
	AIM_BLOCK("indirect block", a, fs_indirect_disk);
	AIM("pointer in it", a, offsetof(struct fs_indirect_disk, p[1]), fs_bptr_disk);
	a = ptr_in(h, sparse, first_ptr(h, sparse, PAYLOAD, FS_INODE_PTRS));
	AIM_BLOCK("indirect block of level 2", a, fs_indirect_disk);
	AIM("pointer in it", a, first_ptr(h, a, 64, 84), fs_bptr_disk);
	a = find_block(h, FS_BT_XATTR, made.flat);
	AIM_BLOCK("attribute block", a, fs_xattr_disk);
	AIM("attribute in a block", a, offsetof(struct fs_xattr_disk, ents), fs_xattr_ent_disk);
	AIM("attribute in an inode", tiny, FS_SUB - le16_get(((struct fs_inode_disk *)block_at(h, tiny))->xattr_len), fs_xattr_ent_disk);
}

/* Of an entry whose value is an extent: the entry, and what its value says; its first is found by its name. */
static void aim_ext(struct fsh *h, const char *entry, const char *ext, const char *pointer, fs_addr block, const char *name)
{
	uint8_t *b = block_at(h, block), *n = memmem(b, FS_SUB, name, strlen(name));
	unsigned off;

	assert_non_null(n);
	off = (unsigned)(n - b);
	assert_int_equal(b[off - 3], FS_XE_EXT);
	AIM(entry, block, off - (unsigned)sizeof(struct fs_xattr_ent_disk), fs_xattr_ent_disk);
	AIM(ext, block, off + (unsigned)strlen(name), fs_xattr_ext_disk);
	AIM(pointer, block, off + (unsigned)strlen(name), fs_bptr_disk);
}

static void aim_attrs(struct fsh *h)
{
	fs_addr one = aim_inode(h, "file, a value in an extent", made.longvals), dir = aim_inode(h, "directory, index of attributes", made.manyvals);
	fs_addr index = ptr_in(h, dir, FS_SUB - PTR), a;

	aim_ext(h, "entry of a long value", "long value", "pointer to a long value", one, "user.long");
	AIM("pointer to an index of attributes", dir, FS_SUB - PTR, fs_bptr_disk);
	AIM_BLOCK("index of attributes", index, fs_xattr_index_disk);
	assert_true(le16_get(((struct fs_xattr_index_disk *)block_at(h, index))->count) > 2);
	AIM("pointer to a block of them", index, offsetof(struct fs_xattr_index_disk, p[1]), fs_bptr_disk);
	AIM("no pointer", index, offsetof(struct fs_xattr_index_disk, p[40]), fs_bptr_disk);
	a = ptr_in(h, index, offsetof(struct fs_xattr_index_disk, p[0]));
	AIM_BLOCK("block behind an index", a, fs_xattr_disk);
	aim_ext(h, "entry of the longest value", "longest value", "pointer to the longest value", a, "user.longest");
}

static void aim_dirs(struct fsh *h)
{
	fs_addr root = aim_inode(h, "root", FS_ROOT_INO), dir = aim_inode(h, "directory, inline", made.dir);
	fs_addr tree = aim_inode(h, "directory, one leaf", made.tree), many = aim_inode(h, "directory, large", made.many), a;
	unsigned off = PAYLOAD;

	AIM("entry of the root", root, PAYLOAD, fs_dirent_disk);
	AIM("entry in an inode", dir, PAYLOAD, fs_dirent_disk);
	AIM("pointer to a leaf", tree, PAYLOAD + 9 * PTR, fs_bptr_disk);
	a = ptr_in(h, tree, PAYLOAD);
	AIM_BLOCK("leaf of all", a, fs_dirleaf_disk);
	AIM("entry in it", a, offsetof(struct fs_dirleaf_disk, ents), fs_dirent_disk);
	while (!(((struct fs_bptr_disk *)(block_at(h, many) + off))->flags & FS_BP_INDEX))
		off += PTR;
	AIM("pointer to an index block", many, off, fs_bptr_disk);
	a = ptr_in(h, many, off);
	AIM_BLOCK("index block", a, fs_dirindex_disk);
	AIM("pointer in it", a, offsetof(struct fs_dirindex_disk, p[40]), fs_bptr_disk);
	a = ptr_in(h, a, offsetof(struct fs_dirindex_disk, p[40]));
	AIM_BLOCK("leaf", a, fs_dirleaf_disk);
	AIM("entry in it", a, offsetof(struct fs_dirleaf_disk, ents), fs_dirent_disk);
}

static struct fsh *image;
static int image_up(void **state)
{
	image = populated(false);
	image_take(image);
	ntargets = 0;
	nchanges = nfound = nrefused = ncomplaints = 0;
	return 0;
}
static int image_down(void **state)
{
	image_drop(image);
	fsh_free(image);
	if (nchanges)
		print_message("%lu changes, %lu found, %lu repairs refused\n", nchanges, nfound, nrefused);
	return 0;
}

static void test_change_system(void **state)
{
	aim_system(image);
	aim_loghead(image, "log header", 0);
	aim_loghead(image, "unused log header", 1);
	change_all(image);
}
static void test_change_files(void **state)
{
	aim_files(image);
	change_all(image);
}
static void test_change_attrs(void **state)
{
	aim_attrs(image);
	change_all(image);
}
static void test_change_dirs(void **state)
{
	aim_dirs(image);
	change_all(image);
}

/* ---- intents in a log that was closed ------------------------------------------------------------------------------------- */
static void leave_intents(struct fs *f)
{
	struct fs_file *file;

	populate(f);
	assert_int_equal(fs_open(fs, &me, made.high, O_RDWR, &file), 0); /* open: the reaper must leave it alone */
	assert_int_equal(fs_unlink(fs, &me, made.dir, "high", 4), 0);
	fs_release(fs, file);
	assert_int_equal(fs_unlink(fs, &me, made.dir, "sparse", 6), 0);
	alloc_range(made.flat, FS_FALLOC_KEEP_SIZE | FS_FALLOC_PUNCH, 0, 2 * BLOCK);
}

/* Nothing is given back before the log is closed: the header then says CLEAN, with a tail before its seal. */
static struct fsh *with_intents(void)
{
	struct fsh *h = fsh_new(NDISKS, DISK_BYTES);
	struct util_run u = {.body = leave_intents, .down = true};

	fsh_format(h, BLOCK);
	u.fs = fsh_core(h);
	fsh_run(h, util_fiber, &u);
	fsh_core_close(h);
	return h;
}

static fs_addr slot_addr(struct fsh *h, uint32_t slot)
{
	return le64_get(((const struct fs_slottab_disk *)block_at(h, FS_ADDR(0, FS_SLOTTAB_SUB)))->s[slot].addr[0]);
}

/* The first frame between tail and seal that has an intent of this type; *off: where its record begins. */
static fs_addr find_intent(struct fsh *h, unsigned type, unsigned *off)
{
	fs_addr a = slot_addr(h, 0);
	const struct fs_super_disk *s = (const void *)block_at(h, FS_ADDR(0, FS_SUPER_SUB));
	const struct fs_loghead_disk *x = (const void *)block_at(h, a), *y = (const void *)block_at(h, a + 1);
	const struct fs_loghead_disk *l = le64_get(y->sequence) > le64_get(x->sequence) ? y : x;
	uint64_t ring = (uint64_t)(le32_get(s->log_subs) - 2) * FS_SUB, lsn = le64_get(l->tail_lsn);

	assert_int_equal(le32_get(l->state), FS_LOG_CLEAN);
	assert_true(lsn < le64_get(l->seal_lsn));
	while (lsn < le64_get(l->seal_lsn)) {
		fs_addr at_frame = a + 2 + lsn % ring / FS_SUB;
		const struct fs_frame_disk *f = (const void *)block_at(h, at_frame);
		unsigned at_rec = sizeof(*f);

		assert_int_equal(le32_get(f->magic), FS_FRAME_MAGIC);
		while (at_rec < sizeof(*f) + le32_get(f->payload_len)) {
			const struct fs_rec_disk *r = (const void *)((const uint8_t *)f + at_rec);
			const struct fs_intent_disk *it = (const void *)(r + 1);

			if (r->type == FS_REC_INTENT && le32_get(it->type) == type) {
				*off = at_rec;
				return at_frame;
			}
			at_rec += (unsigned)sizeof(*r) + le32_get(r->len);
		}
		lsn += le32_get(f->frame_len);
	}
	fail_msg("no intent of type %u", type);
	return 0;
}

static void test_intents(void **state)
{
	struct fsh *h = with_intents();
	unsigned off;
	struct run r;

	(void)find_intent(h, FS_INTENT_FREE, &off);
	(void)find_intent(h, FS_INTENT_ORPHAN, &off);
	expect_clean(h, false, "with intents in a closed log");
	check(h, true, false, &r); /* does what they say, and that is no finding */
	assert_int_equal(r.rc, 0);
	if (r.res.findings)
		fail_msg("%s", r.first);
	expect_clean(h, false, "after the intents were done");
	fsh_free(h);
}

static int intents_up(void **state)
{
	image = with_intents();
	image_take(image);
	ntargets = 0;
	nchanges = nfound = nrefused = ncomplaints = 0;
	return 0;
}

static void aim_frame(fs_addr frame, unsigned off, const char *name, const struct field *f, size_t n)
{
	aim(name, frame + off / FS_SUB, off % FS_SUB, f, n);
	targets[ntargets - 1].frame = frame;
}

static void test_change_log(void **state)
{
	unsigned off;
	fs_addr a = find_intent(image, FS_INTENT_FREE, &off);

	aim_loghead(image, "log header with intents", 0);
	aim_frame(a, 0, "frame", t_fs_frame_disk, TS_ARRAY_LEN(t_fs_frame_disk));
	aim_frame(a, off, "record of a free", t_fs_rec_disk, TS_ARRAY_LEN(t_fs_rec_disk));
	aim_frame(a, off + sizeof(struct fs_rec_disk), "intent to free space", t_fs_intent_disk, TS_ARRAY_LEN(t_fs_intent_disk));
	a = find_intent(image, FS_INTENT_ORPHAN, &off);
	aim_frame(a, off + sizeof(struct fs_rec_disk), "intent to free an inode", t_fs_intent_disk, TS_ARRAY_LEN(t_fs_intent_disk));
	change_all(image);
}

/* ---- labels: not of this layer, but of these disks --------------------------------------------------------------------------- */
static void test_labels(void **state)
{
	for (unsigned copy = 0; copy < 2; copy++) {
		for (unsigned off = 0; off < NSD_LABEL_BYTES; off += off < 300 ? 3 : 517) {
			char what[64];
			struct run r;
			struct nsd_label_disk *l = (void *)(image->disk[1]->now + (size_t)copy * NSD_LABEL_BYTES);

			snprintf(what, sizeof(what), "label copy %u, byte %u", copy, off);
			((uint8_t *)l)[off] ^= 0x41;
			dirtied[1][copy] = 1;
			if (off & 1 && off < offsetof(struct nsd_label_disk, csum))
				l->csum = le64_make(ts_csum64_skip(l, sizeof(*l), offsetof(struct nsd_label_disk, csum), 0));
			check(image, false, false, &r);
			if (!r.res.findings)
				complain("%s: not found", what);
			repair_and_look(image, what);
			image_restore(image);
		}
	}
	assert_int_equal(ncomplaints, 0);
}

/* ---- what a repair keeps ------------------------------------------------------------------------------------------------------------ */
/* Mounted again after a repair. */
struct again {
	struct fs *fs;
	void (*body)(struct fs *fs);
};
static void again_fiber(void *arg)
{
	struct again *g = arg;

	g->body(g->fs);
}
static void reopen(struct fsh *h, void (*body)(struct fs *))
{
	struct again g = {.fs = fsh_mount(h), .body = body};

	fsh_run(h, again_fiber, &g);
	fsh_unmount(h);
}

/* Whatever was lost: it can be used. */
static void use_it(struct fs *f)
{
	uint64_t dir, file;
	char name[32];

	fs = f;
	dir = mk(FS_ROOT_INO, "after the repair", S_IFDIR | 0755);
	for (unsigned i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "file %u", i);
		file = mk(dir, name, S_IFREG | 0644);
		if (i % 10 == 0)
			put(file, i * 9000, 30000, (uint8_t)i);
		if (i % 3 == 0)
			assert_int_equal(fs_unlink(fs, &me, dir, name, strlen(name)), 0);
	}
}

static void repaired(struct fsh *h, const char *expect, void (*body)(struct fs *))
{
	struct run r;

	check(h, true, true, &r);
	assert_int_equal(r.rc, 0);
	assert_int_equal(r.unfixed, 0);
	if (!strstr(r.first, expect))
		fail_msg("expected \"%s\", the first finding is \"%s\"", expect, r.first);
	expect_clean(h, false, expect);
	reopen(h, body);
	expect_clean(h, false, "after it was used again");
}

static void seal_block(fs_addr a)
{
	struct target t = {.addr = a};

	touch_block(a);
	reseal(image, &t);
}

static uint64_t look(uint64_t dir, const char *name)
{
	int rc = fs_lookup(fs, &me, dir, name, strlen(name), &at);

	return rc ? 0 : at.ino;
}

static void read_is(uint64_t ino, uint64_t off, uint8_t fill, bool same)
{
	uint8_t buf[5000];
	struct fs_file *f;

	assert_int_equal(fs_open(fs, &me, ino, O_RDONLY, &f), 0);
	assert_int_equal(fs_read(fs, f, buf, sizeof(buf), off), sizeof(buf));
	for (size_t i = 0; i < sizeof(buf); i++)
		assert_int_equal(buf[i] == fill, same);
	fs_release(fs, f);
}

static void all_there(struct fs *f)
{
	fs = f;
	assert_int_equal(look(FS_ROOT_INO, "lost+found"), 0);
	assert_int_equal(look(made.dir, "flat"), made.flat);
	assert_int_equal(look(made.dir, "high"), made.high);
	assert_true(look(made.tree, "f1") != 0);
	read_is(made.flat, 0, 2, true);
	read_is(made.high, 100ull * BLOCK, 4, true);
	read_is(made.sparse, 20ull * BLOCK, 6, true);
	assert_int_equal(fs_getattr(fs, &me, made.many, &at), 0);
	assert_int_equal(at.size, 1500);
}

static void test_height(void **state)
{
	fs_addr a = find_block(image, FS_BT_INODE, made.sparse);

	for (unsigned h = 0; h < 9; h++) {
		if (h == 2)
			continue;
		((struct fs_inode_disk *)block_at(image, a))->map_height = (uint8_t)h;
		seal_block(a);
		repaired(image, "map height", all_there);
		image_restore(image);
	}
}

static void test_segments(void **state)
{
	const struct fs_super_disk *s = (const void *)block_at(image, FS_ADDR(0, FS_SUPER_SUB));
	fs_addr a = le64_get(s->segtab[0].addr[0]);

	memset(block_at(image, a) + sizeof(struct fs_mhdr_disk), 0, FS_SUB - sizeof(struct fs_mhdr_disk));
	seal_block(a);
	repaired(image, "put into the segment table", all_there);
	image_restore(image);
	memset(block_at(image, a), 0x55, FS_SUB);
	touch_block(a);
	repaired(image, "segment table block 0", all_there);
}

static void found_again(struct fs *f)
{
	uint64_t lost;
	char name[32];

	fs = f;
	lost = look(FS_ROOT_INO, "lost+found");
	assert_true(lost != 0);
	assert_int_equal(look(made.dir, "dir"), 0);
	snprintf(name, sizeof(name), "#%llu", (unsigned long long)made.dir);
	assert_int_equal(look(lost, name), made.dir);
	assert_int_equal(look(made.dir, "flat"), made.flat);
	assert_int_equal(look(lost, ".."), FS_ROOT_INO);
	assert_int_equal(look(made.dir, ".."), lost);
}

/* An entry of an inline directory that leads to ino. */
static struct fs_dirent_disk *entry_of(fs_addr dir, uint64_t ino)
{
	struct fs_inode_disk *d = (void *)block_at(image, dir);

	for (unsigned off = 0; off < le16_get(d->inline_len);) {
		struct fs_dirent_disk *e = (void *)(d->payload + off);

		if (le64_get(e->ino) == ino)
			return e;
		off += le16_get(e->rec_len);
	}
	fail_msg("no entry");
	return NULL;
}

static void forget_name(uint64_t dir, uint64_t ino)
{
	fs_addr a = find_block(image, FS_BT_INODE, dir);
	struct fs_inode_disk *d = (void *)block_at(image, a);
	struct fs_dirent_disk *e = entry_of(a, ino);

	e->ino = le64_make(0);
	e->name_len = 0;
	d->size = le64_make(le64_get(d->size) - 1);
	seal_block(a);
}

static void test_lost(void **state)
{
	forget_name(FS_ROOT_INO, made.dir);
	repaired(image, "no directory names it", found_again);
}

static void many_found(struct fs *f)
{
	uint64_t lost;

	fs = f;
	lost = look(FS_ROOT_INO, "lost+found");
	assert_int_equal(fs_getattr(fs, &me, lost, &at), 0);
	assert_true(at.size >= 40);
	assert_int_equal(fs_getattr(fs, &me, made.tree, &at), 0);
	assert_int_equal(at.size, 0);
}

static void test_lost_many(void **state)
{
	fs_addr a = find_block(image, FS_BT_INODE, made.tree);

	memset(block_at(image, a) + PAYLOAD, 0, FS_INODE_PTRS * PTR); /* its whole tree */
	seal_block(a);
	repaired(image, "a tree without leaves", many_found);
}

static void both_there(struct fs *f)
{
	fs = f;
	read_is(made.flat, BLOCK, 2, true);
	read_is(made.sparse, 20ull * BLOCK, 6, false);
}

static void test_double(void **state)
{
	fs_addr a = find_block(image, FS_BT_INODE, made.flat), l2, l1;
	struct fs_bptr_disk *p = (void *)(block_at(image, a) + PAYLOAD + PTR);
	uint64_t at_most = le64_get(p->birth);

	/* Block 20 of the sparse file: the first leaf of its tree. */
	a = find_block(image, FS_BT_INODE, made.sparse);
	l2 = ptr_in(image, a, PAYLOAD);
	l1 = ptr_in(image, l2, offsetof(struct fs_indirect_disk, p[0]));
	((struct fs_indirect_disk *)block_at(image, l1))->p[20].addr[0] = p->addr[0];
	((struct fs_indirect_disk *)block_at(image, l1))->p[20].birth = le64_make(at_most - 1);
	seal_block(l1);
	repaired(image, "which inode", both_there);
}

/* ---- values of attributes in extents ---- */
static struct fs_xattr_ext_disk *ext_in(fs_addr block, const char *name)
{
	uint8_t *n = memmem(block_at(image, block), FS_SUB, name, strlen(name));

	assert_non_null(n);
	return (void *)(n + strlen(name));
}

static fs_addr longest_leaf(void)
{
	fs_addr dir = find_block(image, FS_BT_INODE, made.manyvals), index = ptr_in(image, dir, FS_SUB - PTR);

	return ptr_in(image, index, offsetof(struct fs_xattr_index_disk, p[0]));
}

static ssize_t attr_len(uint64_t ino, const char *name)
{
	static char value[65536];
	ssize_t n = fs_getxattr(fs, &(struct fs_cred){0}, ino, name, value, sizeof(value));

	for (ssize_t i = 0; i < n; i++)
		assert_int_equal(value[i], 'v');
	return n;
}

static void others_there(struct fs *f)
{
	char name[32];

	fs = f;
	assert_int_equal(attr_len(made.manyvals, "user.longest"), -ENODATA);
	for (unsigned i = 0; i < 60; i++) {
		snprintf(name, sizeof(name), "user.number.%u", i);
		assert_int_equal(attr_len(made.manyvals, name), 150 + i);
	}
	assert_int_equal(attr_len(made.longvals, "user.long"), 5000);
}

/* One byte of a long value is another: that attribute goes, the others stay. */
static void test_rotten_value(void **state)
{
	fs_addr a;
	struct fs_xattr_ext_disk x;

	memcpy(&x, ext_in(longest_leaf(), "user.longest"), sizeof(x));
	a = le64_get(x.p.addr[0]) + 9;
	block_at(image, a)[77] ^= 4;
	touch_block(a);
	repaired(image, "user.longest is damaged", others_there);
}

static void one_there(struct fs *f)
{
	fs = f;
	assert_int_equal((attr_len(made.manyvals, "user.longest") == 65536) + (attr_len(made.longvals, "user.long") == 65536), 1);
	assert_int_equal((attr_len(made.manyvals, "user.longest") == -ENODATA) + (attr_len(made.longvals, "user.long") == -ENODATA), 1);
	assert_int_equal(attr_len(made.longvals, "user.short"), 300);
	assert_int_equal(attr_len(made.manyvals, "user.number.59"), 209);
}

/* Two attributes name one extent, and its bytes are right for both. */
static void test_double_value(void **state)
{
	fs_addr a = find_block(image, FS_BT_INODE, made.longvals);
	struct fs_inode_disk *d = (void *)block_at(image, a);

	memcpy(ext_in(a, "user.long"), ext_in(longest_leaf(), "user.longest"), sizeof(struct fs_xattr_ext_disk));
	d->subs = le64_make(le64_get(d->subs) - 2 + 16);
	seal_block(a);
	repaired(image, "which inode", one_there);
}

static void leaf_gone(struct fs *f)
{
	unsigned there = 0;
	char name[32];

	fs = f;
	for (unsigned i = 0; i < 60; i++) {
		snprintf(name, sizeof(name), "user.number.%u", i);
		there += attr_len(made.manyvals, name) == (ssize_t)(150 + i);
	}
	assert_true(there > 20 && there < 60);
	assert_int_equal(fs_setxattr(fs, &(struct fs_cred){0}, made.manyvals, "user.new", "v", 1, 0), 0);
}

/* A block behind the index is lost, the others are not. */
static void test_lost_leaf(void **state)
{
	fs_addr dir = find_block(image, FS_BT_INODE, made.manyvals), index = ptr_in(image, dir, FS_SUB - PTR);
	fs_addr a = ptr_in(image, index, offsetof(struct fs_xattr_index_disk, p[1]));

	memset(block_at(image, a), 0, FS_SUB);
	touch_block(a);
	repaired(image, "block 1 of its attributes", leaf_gone);
}

static void loop_gone(struct fs *f)
{
	uint64_t lost;
	char name[32];

	fs = f;
	lost = look(FS_ROOT_INO, "lost+found");
	snprintf(name, sizeof(name), "#%llu", (unsigned long long)made.tree);
	if (!look(lost, name)) {
		snprintf(name, sizeof(name), "#%llu", (unsigned long long)made.dir);
		assert_int_equal(look(lost, name), made.dir);
	}
}

/* dir and tree lie below each other, nothing else names them. */
static void test_loop(void **state)
{
	uint64_t dir = made.dir, tree = made.tree;
	fs_addr a = find_block(image, FS_BT_INODE, dir), b = find_block(image, FS_BT_INODE, tree), leaf;
	struct fs_dirent_disk *e = entry_of(a, made.fifo);
	struct fs_inode_disk *d = (void *)block_at(image, a), *t = (void *)block_at(image, b);

	forget_name(FS_ROOT_INO, dir);
	forget_name(FS_ROOT_INO, tree);
	d->parent = le64_make(tree);
	t->parent = le64_make(dir);
	e->ino = le64_make(tree);
	e->gen = t->h.res_gen;
	e->type = DT_DIR;
	seal_block(a);
	seal_block(b);
	leaf = ptr_in(image, b, PAYLOAD);
	e = (void *)((struct fs_dirleaf_disk *)block_at(image, leaf))->ents;
	e->ino = le64_make(dir);
	e->gen = d->h.res_gen;
	e->type = DT_DIR;
	seal_block(leaf);
	repaired(image, "below itself", loop_gone);
}

/* The bitmap of the chunk that a block lies in says that it is free. */
static void test_free_but_used(void **state)
{
	struct fs_bitmap_disk *b;
	fs_addr a = find_bitmap(image, FS_REGION_DATA, true);

	b = (void *)block_at(image, a);
	b->bits[0] = (1 << FS_CHUNK_HEAD) - 1;
	memset(b->bits + 1, 0, sizeof(b->bits) - 1);
	seal_block(a);
	repaired(image, "free", all_there);
	image_restore(image);
	a = find_bitmap(image, FS_REGION_META, true);
	memset(block_at(image, a), 0, FS_SUB);
	touch_block(a);
	repaired(image, "bitmap is lost", all_there);
}

/* Little memory: more passes, the same result; too little: says how much. */
static void test_memory(void **state)
{
	struct run r = {.h = image, .bound = 150000};

	fsh_run(image, check_fiber, &r);
	if (r.rc || r.res.findings)
		fail_msg("%d (%s) %s", r.rc, r.err, r.first);
	r = (struct run){.h = image, .bound = 9000};
	fsh_run(image, check_fiber, &r);
	assert_int_equal(r.rc, -ENOMEM);
	assert_non_null(strstr(r.err, "MiB"));
}

/* Every read and write that fails once: an error with a text, or a finding; never a crash, and the next run gets through. */
static void test_io_errors(void **state)
{
	fs_addr a = find_block(image, FS_BT_INODE, made.flat);

	for (unsigned op = 0; op < 2; op++) {
		for (uint64_t nth = 1; nth < 400; nth += op ? 1 : 13) {
			struct run r;

			((struct fs_inode_disk *)block_at(image, a))->nlink = le32_make(7);
			seal_block(a);
			image->disk[0]->fail_op = op ? NSD_WRITE : NSD_READ;
			image->disk[0]->fail_nth = nth;
			image->disk[0]->fail_rc = op ? -EIO : -ETIMEDOUT;
			check(image, true, true, &r);
			assert_true(!r.rc || r.err[0]);
			if (image->disk[0]->fail_nth) /* so many there were not */
				nth = 400;
			image->disk[0]->fail_nth = 0;
			repair_and_look(image, "after an error");
			image_restore(image);
		}
	}
	assert_int_equal(ncomplaints, 0);
}

/* ---- many faults at once --------------------------------------------------------------------------------------------------------- */
struct spot {
	fs_addr addr;
};
static struct spot spots[8192];
static unsigned nspots;

static void find_spots(struct fsh *h)
{
	nspots = 0;
	for (unsigned d = 0; d < NDISKS; d++) {
		for (uint64_t s = FS_SUPER_SUB; s < DISK_BYTES / FS_SUB; s++) {
			fs_addr a = FS_ADDR(d, s);
			const struct fs_mhdr_disk *m = (const void *)block_at(h, a);
			const struct fs_inode_disk *i = (const void *)m;

			if (fs_mdhdr_wrong(m, h->fs_id, 0, a) || (m->type == FS_BT_INODE && !le16_get(i->mode)) || nspots == TS_ARRAY_LEN(spots))
				continue;
			spots[nspots++].addr = a;
		}
	}
}

/* The interesting blocks are few among copies of tables. */
static fs_addr pick(struct fsh *h, uint64_t *rng)
{
	for (;;) {
		fs_addr a = spots[(*rng = ts_hash_u64(*rng + 1)) % nspots].addr;
		unsigned type = ((struct fs_mhdr_disk *)block_at(h, a))->type;

		if ((type == FS_BT_DISKTAB || type == FS_BT_SLOTTAB) && *rng >> 32 & 15)
			continue;
		return a;
	}
}

static void damage(struct fsh *h, uint64_t *rng)
{
	fs_addr a = pick(h, rng), other;
	uint8_t *b = block_at(h, a);
	unsigned n = 1 + (unsigned)((*rng = ts_hash_u64(*rng)) % 4), kind = (unsigned)(*rng >> 20) % 16;
	struct target t = {.addr = a};

	touch_block(a);
	switch (kind) {
	case 0:
		memset(b, 0, FS_SUB);
		return;
	case 1: /* the other block, here */
		other = pick(h, rng);
		memcpy(b, block_at(h, other), FS_SUB);
		return;
	case 2:
		other = pick(h, rng);
		memcpy(b + 512, block_at(h, other) + 512, FS_SUB - 512);
		break;
	default:
		for (unsigned i = 0; i < n; i++) {
			unsigned off = (unsigned)((*rng = ts_hash_u64(*rng)) % (kind & 1 ? 400 : FS_SUB));

			b[off] = kind & 2 ? (uint8_t)(*rng >> 24) : (uint8_t)(b[off] ^ 1u << (*rng >> 24) % 8);
		}
	}
	if (kind & 8)
		reseal(h, &t);
}

static void fuzz(uint64_t first, uint64_t seeds)
{
	find_spots(image);
	for (uint64_t seed = first; seed < first + seeds; seed++) {
		uint64_t rng = ts_hash_u64(seed);
		char what[64];
		struct run r;

		snprintf(what, sizeof(what), "seed %llu", (unsigned long long)seed);
		for (unsigned i = 0; i < 1 + seed % 12; i++)
			damage(image, &rng);
		check(image, false, false, &r);
		nchanges++;
		nfound += r.rc || r.res.findings;
		repair_and_look(image, what);
		if (seed % 8 == 0) {
			reopen(image, use_it);
			check(image, false, false, &r);
			if (r.rc || r.res.findings)
				complain("%s: after it was used again: %d (%s), %s", what, r.rc, r.err, r.first);
		}
		image_restore(image);
	}
	print_message("seeds %llu to %llu, %lu refused\n", (unsigned long long)first, (unsigned long long)(first + seeds - 1), nrefused);
	assert_int_equal(ncomplaints, 0);
}

static void test_fuzz(void **state)
{
	const char *first = getenv("CHECK_SEED"), *n = getenv("CHECK_SEEDS");

	fuzz(first ? strtoull(first, NULL, 0) : 1, n ? strtoull(n, NULL, 0) : first ? 1 : 100);
}

static int crashed_up(void **state)
{
	image = populated(true);
	image_take(image);
	nchanges = nfound = nrefused = ncomplaints = 0;
	return 0;
}

/* Beside a log that is not replayed yet. */
static void test_fuzz_crashed(void **state)
{
	fuzz(500000, 60);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_format),
		cmocka_unit_test(test_populated),
		cmocka_unit_test(test_crashed),
		cmocka_unit_test(test_tables),
		cmocka_unit_test_setup_teardown(test_change_system, image_up, image_down),
		cmocka_unit_test_setup_teardown(test_change_files, image_up, image_down),
		cmocka_unit_test_setup_teardown(test_change_attrs, image_up, image_down),
		cmocka_unit_test_setup_teardown(test_change_dirs, image_up, image_down),
		cmocka_unit_test(test_intents),
		cmocka_unit_test_setup_teardown(test_change_log, intents_up, image_down),
		cmocka_unit_test_setup_teardown(test_labels, image_up, image_down),
		cmocka_unit_test_setup_teardown(test_height, image_up, image_down),
		cmocka_unit_test_setup_teardown(test_segments, image_up, image_down),
		cmocka_unit_test_setup_teardown(test_lost, image_up, image_down),
		cmocka_unit_test_setup_teardown(test_lost_many, image_up, image_down),
		cmocka_unit_test_setup_teardown(test_double, image_up, image_down),
		cmocka_unit_test_setup_teardown(test_rotten_value, image_up, image_down),
		cmocka_unit_test_setup_teardown(test_double_value, image_up, image_down),
		cmocka_unit_test_setup_teardown(test_lost_leaf, image_up, image_down),
		cmocka_unit_test_setup_teardown(test_loop, image_up, image_down),
		cmocka_unit_test_setup_teardown(test_free_but_used, image_up, image_down),
		cmocka_unit_test_setup_teardown(test_memory, image_up, image_down),
		cmocka_unit_test_setup_teardown(test_io_errors, image_up, image_down),
		cmocka_unit_test_setup_teardown(test_fuzz, image_up, image_down),
		cmocka_unit_test_setup_teardown(test_fuzz_crashed, crashed_up, image_down),
	};

	ts_log_level_set(TS_LOG_WARN);
	if (getenv("CHECK_FILTER"))
		cmocka_set_test_filter(getenv("CHECK_FILTER"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
