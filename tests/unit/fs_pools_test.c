/* SPDX-License-Identifier: Apache-2.0 */
/* Job: pools and layouts on one node: where blocks come to lie, what is inherited, what a full pool says, files that go from pool to pool, disks
 * that come to a pool and go; and what is done about a disk table or an inode that says what cannot be. */
#include "fs_harness.h"
#include "fs/alloc_int.h"
#include "fs/disks.h"
#include "fs/layout.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define BYTES (32ull << 20)
#define BS    (64u << 10)
#define SPARE 5 /* disks 0 and 1: system; 2, 3 and 4: fast; 5: joins */

static const struct fs_cred root, user = {.uid = 1000};

static int disk_open(void *arg, unsigned no, const uint8_t uuid[16], const char *url, struct nsd_dev **out)
{
	*out = ((struct fsh *)arg)->devs[no];
	return 0;
}
static void disk_close(void *arg, unsigned no, struct nsd_dev *dev) {}

static int mount_rc;
static void mount_fiber(void *arg)
{
	struct fsh *h = arg;
	struct fs_disk_info *v;
	unsigned n;
	static struct nsd_dev *given[FSH_DISKS];
	struct fs_mount_args a = {.exec = h->x, .disks = given, .net = h->net, .quorum = h->quorum, .disk_open = disk_open, .disk_close = disk_close,
				  .disk_arg = h, .times = {2000, 400, 500, 150}, .page_pool_bytes = 16u << 20, .meta_pool_bytes = 8u << 20};
	char err[256] = "";

	assert_int_equal(fs_disks_list(h->devs[0], &v, &n), 0);
	for (unsigned i = 0; i < n; i++)
		given[i] = v[i].state == FS_DISK_GONE ? NULL : h->devs[i];
	a.ndisks = n;
	ts_free(v);
	mount_rc = fs_mount(&a, &h->fs, err, sizeof(err));
}

static int node_mount(struct fsh *h)
{
	fsw_reset();
	fsh_mount_by(h, mount_fiber, h);
	return mount_rc;
}

static struct fsh *world(void)
{
	static const char *pools[] = {"system", "system", "fast", "fast", "fast"};
	struct fsh *h = fsh_new(SPARE + 1, BYTES);
	struct fs_format_args a = {.name = "test", .block_size = BS, .log_slots = 3, .log_bytes = 1 << 20, .pools = pools};

	h->ndisks = SPARE;
	fsh_format_args(h, &a);
	h->ndisks = SPARE + 1;
	assert_int_equal(node_mount(h), 0);
	return h;
}

/* ---- things done on a fiber ---------------------------------------------------------------------------------------- */
static struct fs *fs;
static struct fsh *now;
static void run(struct fsh *h, void (*fn)(void *arg))
{
	fs = h->fs;
	now = h;
	fsh_run(h, fn, h);
}

static uint64_t make(uint64_t dir, const char *name, unsigned mode)
{
	struct fs_attr at;

	assert_int_equal(fs_mknod(fs, &root, dir, name, strlen(name), mode, 0, NULL, &at), 0);
	return at.ino;
}

static int64_t put(uint64_t ino, uint64_t len, uint64_t off, unsigned seed)
{
	uint8_t *buf = ts_xalloc(len);
	struct fs_file *f;
	int64_t rc;

	for (uint64_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(ts_hash_2(seed, (off + i) / 512) + off + i);
	assert_int_equal(fs_open(fs, &root, ino, O_RDWR, &f), 0);
	rc = fs_write(fs, f, buf, len, off, false, false, NULL);
	if (rc >= 0)
		assert_int_equal(fs_fsync(fs, f, false), 0);
	fs_release(fs, f);
	ts_free(buf);
	return rc;
}

static void same(uint64_t ino, uint64_t len, unsigned seed)
{
	uint8_t *buf = ts_xalloc(len);
	struct fs_file *f;

	assert_int_equal(fs_open(fs, &root, ino, O_RDONLY, &f), 0);
	assert_int_equal(fs_read(fs, f, buf, len, 0), len);
	for (uint64_t i = 0; i < len; i++)
		if (buf[i] != (uint8_t)(ts_hash_2(seed, i / 512) + i))
			fail_msg("inode %llu, byte %llu", (unsigned long long)ino, (unsigned long long)i);
	fs_release(fs, f);
	ts_free(buf);
}

static int lay(uint64_t ino, const char *pool, int stripe)
{
	struct fs_layout_set s = {.stripe = stripe};

	snprintf(s.pool, sizeof(s.pool), "%s", pool);
	return fs_layout_set(fs, ino, &s);
}

/* The disks its blocks are on, as bits. */
static unsigned disks_of(uint64_t ino)
{
	uint64_t *bytes;
	unsigned n, set = 0;

	assert_int_equal(fs_file_places(fs, ino, &bytes, &n), 0);
	for (unsigned d = 0; d < n; d++)
		set |= bytes[d] ? 1u << d : 0;
	ts_free(bytes);
	return set;
}
#define SYSTEM 0x03u
#define FAST   0x1cu

static uint64_t free_of(const char *pool)
{
	struct fs_pool_info p[FS_POOLS_MAX];

	assert_int_equal(fs_pools_get(fs, p), 0);
	for (unsigned i = 0; i < FS_POOLS_MAX; i++)
		if (!strcmp(p[i].name, pool))
			return p[i].free_bytes;
	fail_msg("no pool %s", pool);
	return 0;
}

/* ---- fsck ---------------------------------------------------------------------------------------------------------- */
struct found {
	unsigned n;
	int rc;
	char first[256], err[256];
	bool repair;
};
static void finding(void *arg, const char *text, bool repaired)
{
	struct found *f = arg;

	if (getenv("TEST_VERBOSE"))
		fprintf(stderr, "finding: %s\n", text);
	if (!f->n++)
		snprintf(f->first, sizeof(f->first), "%s", text);
}
static void check_fiber(void *arg)
{
	struct found *f = arg;
	struct fs_disk_info *v;
	unsigned n;
	struct nsd_dev *devs[FSH_DISKS] = {NULL};
	struct fs_check_args a = {.disks = devs, .env = &now->env, .finding = finding, .arg = f, .repair = f->repair};
	struct fs_check_result r;

	assert_int_equal(fs_disks_list(now->devs[0], &v, &n), 0);
	for (unsigned i = 0; i < n; i++)
		devs[i] = v[i].state == FS_DISK_GONE ? NULL : now->devs[i];
	a.ndisks = n;
	ts_free(v);
	f->rc = fs_check(&a, true, &r, f->err, sizeof(f->err));
}
static struct found fsck(struct fsh *h, bool repair)
{
	struct found f = {.repair = repair};

	now = h;
	fsh_run(h, check_fiber, &f);
	return f;
}
static void clean(struct fsh *h, const char *when)
{
	struct found f = fsck(h, false);

	if (f.rc || f.n)
		fail_msg("%s: %d %s, %u findings, the first: %s", when, f.rc, f.err, f.n, f.first);
}

/* ---- where blocks come to lie -------------------------------------------------------------------------------------- */
static uint64_t dir, sub, inside, plain, narrow, early;
static void placement_fiber(void *arg)
{
	struct fs_layout l;
	char text[64];

	dir = make(FS_ROOT_INO, "dir", S_IFDIR | 0755);
	early = make(dir, "early", S_IFREG | 0644);
	assert_int_equal(lay(dir, "none", -1), -ENOENT);
	assert_int_equal(lay(dir, "fast", -1), 0);
	sub = make(dir, "sub", S_IFDIR | 0755);
	inside = make(sub, "inside", S_IFREG | 0644);
	plain = make(FS_ROOT_INO, "plain", S_IFREG | 0644);
	assert_int_equal(put(inside, 40 * BS, 0, 1), 40 * BS);
	assert_int_equal(put(plain, 40 * BS, 0, 2), 40 * BS);
	assert_int_equal(put(early, 40 * BS, 0, 3), 40 * BS);
	assert_int_equal(disks_of(inside), FAST);
	assert_int_equal(disks_of(plain), SYSTEM);
	assert_int_equal(disks_of(early), SYSTEM); /* what was there before keeps its own */
	/* Over so many disks, one after the other. */
	assert_int_equal(lay(sub, "", 2), 0);
	narrow = make(sub, "narrow", S_IFREG | 0644);
	assert_int_equal(put(narrow, 30 * BS, 0, 4), 30 * BS);
	assert_int_equal(__builtin_popcount(disks_of(narrow)), 2);
	assert_int_equal(disks_of(narrow) & ~FAST, 0);
	assert_int_equal(fs_layout_get(fs, narrow, &l), 0);
	assert_string_equal(l.pool, "fast");
	assert_int_equal(l.stripe, 2);
	assert_false(l.elsewhere || l.dir);
	/* Also when it is more than its disk has in one region: the others follow when the disk is full. */
	assert_int_equal(lay(sub, "", 1), 0);
	uint64_t one = make(sub, "one", S_IFREG | 0644), n = 0;

	while (n < 14 << 20 && put(one, 8 * BS, n, 6) == 8 * BS)
		n += 8 * BS;
	assert_int_equal(__builtin_popcount(disks_of(one)), 1);
	while (n < 40 << 20 && put(one, 8 * BS, n, 6) == 8 * BS)
		n += 8 * BS;
	assert_int_equal(n, 40 << 20);
	assert_true(__builtin_popcount(disks_of(one)) > 1);
	assert_int_equal(fs_unlink(fs, &root, sub, "one", 3), 0);
	assert_int_equal(lay(sub, "", 2), 0);
	/* A file with blocks keeps its pool, and may get another width. */
	assert_int_equal(lay(plain, "fast", -1), -EBUSY);
	assert_int_equal(lay(plain, "system", 1), 0);
	assert_int_equal(lay(plain, "", 256), -EINVAL);
	assert_int_equal(lay(make(FS_ROOT_INO, "fifo", S_IFIFO | 0644), "fast", -1), -EOPNOTSUPP);
	/* As an attribute. */
	assert_int_equal(fs_getxattr(fs, &user, narrow, FS_XATTR_LAYOUT, text, sizeof(text)), 18);
	assert_memory_equal(text, "pool=fast stripe=2", 18);
	assert_int_equal(fs_listxattr(fs, &root, narrow, text, sizeof(text)), 0);
	assert_int_equal(fs_setxattr(fs, &user, narrow, FS_XATTR_LAYOUT, "stripe=1", 8, 0), -EPERM);
	assert_int_equal(fs_setxattr(fs, &root, narrow, FS_XATTR_LAYOUT, "stripe=1", 8, 0), 0);
	assert_int_equal(fs_setxattr(fs, &root, narrow, FS_XATTR_LAYOUT, "pool=none", 9, 0), -EINVAL);
	assert_int_equal(fs_setxattr(fs, &root, narrow, FS_XATTR_LAYOUT, "pool=system", 11, 0), -EBUSY);
	for (unsigned i = 0; i < 4; i++) {
		static const char *bad[] = {"", "pool=", "stripe=300", "colour=red"};

		assert_int_equal(fs_setxattr(fs, &root, narrow, FS_XATTR_LAYOUT, bad[i], strlen(bad[i]), 0), -EINVAL);
	}
	assert_int_equal(fs_layout_get(fs, narrow, &l), 0);
	assert_int_equal(l.stripe, 1);
	assert_int_equal(fs_removexattr(fs, &root, sub, FS_XATTR_LAYOUT), 0);
	assert_int_equal(fs_layout_get(fs, sub, &l), 0);
	assert_string_equal(l.pool, "system");
	/* Emptied, it may go. Values of attributes are in system, wherever the file is. */
	assert_int_equal(fs_setattr(fs, &root, narrow, &(struct fs_setattr){.valid = FS_SET_SIZE}, &(struct fs_attr){0}), 0);
	assert_int_equal(lay(narrow, "system", 0), 0);
	assert_int_equal(put(narrow, 10 * BS, 0, 5), 10 * BS);
	assert_int_equal(disks_of(narrow) & ~SYSTEM, 0);
	assert_int_equal(fs_setxattr(fs, &root, inside, "user.long", ts_xalloc(30000), 30000, 0), 0);
}
static void again_fiber(void *arg)
{
	same(inside, 40 * BS, 1);
	same(plain, 40 * BS, 2);
	same(early, 40 * BS, 3);
	same(narrow, 10 * BS, 5);
	assert_int_equal(disks_of(inside), FAST);
}

static void placement(void **state)
{
	struct fsh *h = world();

	run(h, placement_fiber);
	fsh_unmount(h);
	clean(h, "after files in two pools");
	assert_int_equal(node_mount(h), 0);
	run(h, again_fiber);
	fsh_crash(h, 5);
	assert_int_equal(node_mount(h), 0);
	run(h, again_fiber);
	fsh_unmount(h);
	clean(h, "after a crash");
	fsh_free(h);
}

/* ---- a full pool ----------------------------------------------------------------------------------------------------- */
static void full_fiber(void *arg)
{
	uint64_t file, other, left = free_of("fast"), sys = free_of("system"), n = 0;
	int64_t rc;

	dir = make(FS_ROOT_INO, "dir", S_IFDIR | 0755);
	assert_int_equal(lay(dir, "fast", -1), 0);
	file = make(dir, "file", S_IFREG | 0644);
	other = make(FS_ROOT_INO, "other", S_IFREG | 0644);
	while ((rc = put(file, BS, n * BS, 7)) == BS)
		n++;
	assert_int_equal(rc, -ENOSPC);
	assert_true(n * BS <= left && n * BS + (left >> 4) >= left); /* nearly all of it was to be had */
	assert_int_equal(disks_of(file) & ~FAST, 0);
	assert_true(free_of("fast") < 4 * BS);
	assert_true(free_of("system") + 8 * BS > sys);
	/* The others are not full. */
	assert_int_equal(put(other, 20 * BS, 0, 8), 20 * BS);
	assert_int_equal(disks_of(other), SYSTEM);
	assert_int_equal(fs_unlink(fs, &root, dir, "file", 4), 0);
}
static void full_again_fiber(void *arg)
{
	uint64_t file = make(dir, "file2", S_IFREG | 0644);

	assert_int_equal(put(file, 100 * BS, 0, 7), 100 * BS);
	assert_int_equal(disks_of(file) & ~FAST, 0);
}
static void full(void **state)
{
	struct fsh *h = world();

	run(h, full_fiber);
	fsh_settle(h, 6 * TS_NS_PER_S);
	run(h, full_again_fiber);
	fsh_unmount(h);
	clean(h, "after a full pool");
	fsh_free(h);
}

/* ---- from pool to pool ----------------------------------------------------------------------------------------------- */
static void migrate_fiber(void *arg)
{
	struct fs_layout l;
	uint64_t moved, file = make(FS_ROOT_INO, "file", S_IFREG | 0644), tiny = make(FS_ROOT_INO, "tiny", S_IFREG | 0644);

	assert_int_equal(put(file, 50 * BS + 777, 0, 1), 50 * BS + 777);
	assert_int_equal(fs_layout_migrate(fs, file, "nowhere", NULL, NULL, &moved), -ENOENT);
	assert_int_equal(fs_layout_migrate(fs, FS_ROOT_INO, "fast", NULL, NULL, &moved), -EOPNOTSUPP);
	assert_int_equal(fs_layout_migrate(fs, file, "fast", NULL, NULL, &moved), 0);
	assert_true(moved >= 50 * BS);
	assert_int_equal(disks_of(file) & ~FAST, 0);
	assert_int_equal(fs_layout_get(fs, file, &l), 0);
	assert_false(l.elsewhere);
	same(file, 50 * BS + 777, 1);
	assert_int_equal(fs_layout_migrate(fs, file, NULL, NULL, NULL, &moved), 0);
	assert_int_equal(moved, 0);
	assert_int_equal(fs_layout_migrate(fs, tiny, "fast", NULL, NULL, &moved), 0); /* without blocks: as good as set */
	assert_int_equal(fs_layout_get(fs, tiny, &l), 0);
	assert_string_equal(l.pool, "fast");
	plain = file;
}
/* The other pool is too small for it: told, and sound; then there is room, and it goes on. */
static void migrate_full_fiber(void *arg)
{
	struct fs_layout l;
	uint64_t moved, big = make(FS_ROOT_INO, "fill", S_IFREG | 0644), n = 0;

	while (put(big, BS, n * BS, 7) == BS)
		n++;
	assert_int_equal(fs_layout_migrate(fs, plain, "system", NULL, NULL, &moved), -ENOSPC);
	assert_int_equal(fs_layout_get(fs, plain, &l), 0);
	assert_string_equal(l.pool, "system");
	assert_true(l.elsewhere);
	same(plain, 50 * BS + 777, 1);
	assert_int_equal(fs_sync(fs), 0);
}
static void migrate_on_fiber(void *arg)
{
	struct fs_layout l;
	uint64_t moved;
	int rc;

	same(plain, 50 * BS + 777, 1);
	rc = fs_unlink(fs, &root, FS_ROOT_INO, "fill", 4);
	assert_true(!rc || rc == -ENOENT);
	assert_int_equal(fs_sync(fs), 0);
	ts_sleep_until(ts_exec_now(fs->exec) + 8 * TS_NS_PER_S);
	assert_int_equal(fs_layout_migrate(fs, plain, NULL, NULL, NULL, &moved), 0);
	assert_int_equal(disks_of(plain) & ~SYSTEM, 0);
	assert_int_equal(fs_layout_get(fs, plain, &l), 0);
	assert_false(l.elsewhere);
	same(plain, 50 * BS + 777, 1);
}
static void migrating(void **state)
{
	struct fsh *h = world();

	run(h, migrate_fiber);
	run(h, migrate_full_fiber);
	fsh_crash(h, 9);
	clean(h, "in the middle of a migration");
	assert_int_equal(node_mount(h), 0);
	run(h, migrate_on_fiber);
	fsh_unmount(h);
	clean(h, "after it");
	fsh_free(h);
}

/* ---- disks of a pool ------------------------------------------------------------------------------------------------- */
static char err[512];
static unsigned state_of(unsigned no)
{
	return fs_disk_state(fs, no);
}
static int add(const char *pool, bool metadata)
{
	struct fs_disk_add a = {.dev = now->devs[SPARE], .url = "", .pool = pool, .metadata = metadata};
	unsigned no;

	return fs_disk_add(fs, &a, &no, err, sizeof(err));
}
static void wait_state(unsigned no, unsigned state)
{
	for (unsigned i = 0; state_of(no) != state; i++) {
		if (i == 120)
			fail_msg("disk %u is %s after a minute", no, fs_disk_state_name(state_of(no)));
		ts_sleep_until(ts_exec_now(fs->exec) + 500 * TS_NS_PER_MS);
	}
}
static void disks_fiber(void *arg)
{
	uint64_t file;

	dir = make(FS_ROOT_INO, "dir", S_IFDIR | 0755);
	assert_int_equal(add("bad/name", false), -EINVAL);
	assert_int_equal(add("slow", true), -EINVAL);
	assert_non_null(strstr(err, "metadata"));
	assert_int_equal(add("slow", false), 0);
	assert_int_equal(fs_disk_pool(fs, SPARE), 2);
	assert_int_equal(lay(dir, "slow", -1), 0);
	file = make(dir, "file", S_IFREG | 0644);
	assert_int_equal(put(file, 20 * BS, 0, 1), 20 * BS);
	assert_int_equal(disks_of(file), 1u << SPARE);
	/* The last of its pool, with something on it. */
	assert_int_equal(fs_disk_drain(fs, SPARE, false, 0, err, sizeof(err)), -EBUSY);
	assert_non_null(strstr(err, "slow"));
	/* Drained and spread out inside of the pool. */
	inside = make(FS_ROOT_INO, "inside", S_IFREG | 0644);
	assert_int_equal(lay(inside, "fast", 1), 0);
	assert_int_equal(put(inside, 40 * BS, 0, 2), 40 * BS);
	assert_int_equal(__builtin_popcount(disks_of(inside)), 1);
	unsigned from = (unsigned)__builtin_ctz(disks_of(inside));
	assert_int_equal(fs_disk_rebalance(fs, false, 0, err, sizeof(err)), 0);
	for (unsigned i = 0; fs->super.move && i < 120; i++)
		ts_sleep_until(ts_exec_now(fs->exec) + 500 * TS_NS_PER_MS);
	assert_false(fs->super.move);
	assert_int_equal(disks_of(inside), FAST);
	assert_int_equal(fs_disk_drain(fs, from, false, 0, err, sizeof(err)), 0);
	wait_state(from, FS_DISK_EMPTY);
	assert_int_equal(disks_of(inside), FAST & ~(1u << from));
	assert_int_equal(disks_of(file), 1u << SPARE);
	same(file, 20 * BS, 1);
	same(inside, 40 * BS, 2);
	assert_int_equal(fs_disk_drain(fs, from, true, 0, err, sizeof(err)), 0);
	/* Without files, the last goes; its name stays, and says that there is no disk. */
	assert_int_equal(fs_unlink(fs, &root, dir, "file", 4), 0);
	assert_int_equal(fs_sync(fs), 0);
	ts_sleep_until(ts_exec_now(fs->exec) + 8 * TS_NS_PER_S);
	if (fs_disk_drain(fs, SPARE, false, 0, err, sizeof(err)))
		fail_msg("%s", err);
	wait_state(SPARE, FS_DISK_EMPTY);
	assert_int_equal(fs_disk_remove(fs, SPARE, err, sizeof(err)), 0);
	file = make(dir, "file", S_IFREG | 0644);
	assert_int_equal(put(file, 20 * BS, 0, 1), -ENOSPC);
	assert_int_equal(put(file, 1000, 0, 1), 1000); /* in its inode */
}
static void disks(void **state)
{
	struct fsh *h = world();

	run(h, disks_fiber);
	fsh_unmount(h);
	clean(h, "after disks of pools");
	fsh_free(h);
}

/* ---- what is on disk lies ---------------------------------------------------------------------------------------------- */
static void reseal(struct fsh *h, uint8_t *b)
{
	const struct fs_mhdr_disk *m = (const void *)b;

	fs_mdhdr_seal(b, le64_get(m->incarnation), le64_get(m->version));
	(void)h;
}
static uint8_t *inode_at(struct fsh *h, uint64_t ino)
{
	for (unsigned d = 0; d < 2; d++)
		for (uint64_t s = FS_SYSTEM_SUB; s < BYTES / FS_SUB; s++) {
			uint8_t *b = h->disk[d]->now + s * FS_SUB;
			const struct fs_mhdr_disk *m = (const void *)b;

			if (m->type == FS_BT_INODE && le64_get(m->res_id) == ino && !fs_mdhdr_wrong(b, h->fs_id, FS_BT_INODE, FS_ADDR(d, s)))
				return b;
		}
	fail_msg("inode %llu is nowhere", (unsigned long long)ino);
	return NULL;
}

static void lies_fiber(void *arg)
{
	plain = make(FS_ROOT_INO, "plain", S_IFREG | 0644);
	dir = make(FS_ROOT_INO, "dir", S_IFDIR | 0755);
	assert_int_equal(put(plain, 10 * BS, 0, 1), 10 * BS);
}
/* A pool that is none counts as system. */
static void unknown_fiber(void *arg)
{
	struct fs_layout l;
	uint64_t file;

	assert_int_equal(fs_layout_get(fs, dir, &l), 0);
	assert_string_equal(l.pool, "system");
	file = make(dir, "file", S_IFREG | 0644);
	assert_int_equal(put(file, 10 * BS, 0, 1), 10 * BS);
	assert_int_equal(disks_of(file), SYSTEM);
	assert_int_equal(put(plain, 10 * BS, 10 * BS, 1), 10 * BS);
	assert_int_equal(disks_of(plain), SYSTEM);
}
static void planted(void **state)
{
	struct fsh *h = world();
	struct fs_inode_disk *d;
	struct found f;

	run(h, lies_fiber);
	fsh_unmount(h);
	clean(h, "before");
	/* A file that says another pool than its blocks are in. */
	d = (void *)inode_at(h, plain);
	d->pool = 1;
	reseal(h, (uint8_t *)d);
	f = fsck(h, false);
	assert_int_equal(f.n, 1);
	assert_non_null(strstr(f.first, "10 blocks lie outside of its pool fast"));
	f = fsck(h, true);
	assert_int_equal(f.n, 1);
	clean(h, "marked");
	d = (void *)inode_at(h, plain);
	assert_int_equal(d->place_flags, FS_PF_ELSEWHERE);
	d->place_flags = 0;
	/* Pools that there are not, or never can be. */
	d->pool = 5;
	reseal(h, (uint8_t *)d);
	d = (void *)inode_at(h, dir);
	d->pool = 200;
	reseal(h, (uint8_t *)d);
	fsh_disk_settle(h->disk[0]);
	fsh_disk_settle(h->disk[1]);
	f = fsck(h, false);
	assert_int_equal(f.n, 2);
	assert_int_equal(node_mount(h), 0);
	run(h, unknown_fiber);
	fsh_unmount(h);
	f = fsck(h, true);
	assert_int_equal(f.n, 2);
	clean(h, "repaired");
	fsh_free(h);
}

/* Entries and names that cannot be: the mount is refused, and fsck does not take them. */
static void hostile_tables(void **state)
{
	for (unsigned k = 0; k < 7; k++) {
		struct fsh *h = world();

		fsh_unmount(h);
		for (unsigned c = 0; c < 2; c++) {
			struct fs_super_disk *s = (void *)(h->disk[0]->now + (FS_SUPER_SUB + c) * FS_SUB);
			struct fs_disktab_disk *t = (void *)(h->disk[0]->now + (c ? FS_DISKTAB_SUB2 : FS_DISKTAB_SUB) * FS_SUB);

			switch (k) {
			case 0: t->d[2].pool = 7; break;		     /* no name */
			case 1: t->d[2].pool = 255; break;		     /* no number */
			case 2: t->d[2].usage = FS_DISK_ANY; break;	     /* metadata outside of system */
			case 3: memset(s->pool[1].name, 'x', FS_POOL_NAME); break; /* no end */
			case 4: memcpy(s->pool[2].name, "fast", 4); break;   /* twice */
			case 5: memcpy(s->pool[0].name, "fast2", 5); break;  /* system's */
			case 6: memcpy(s->pool[1].name, "a/b\n", 5); break;  /* no name of anything */
			}
			reseal(h, (uint8_t *)s);
			reseal(h, (uint8_t *)t);
		}
		fsh_disk_settle(h->disk[0]);
		if (!node_mount(h))
			fail_msg("mounted with hostile table %u", k);
		if (k < 3) { /* the copies on the other disks are good */
			struct found f = fsck(h, true);

			assert_true(f.n || f.rc);
			assert_int_equal(f.rc, 0);
			clean(h, "repaired");
		}
		fsh_free(h);
	}
}

/* fs create: what cannot be. */
static void format_fiber(void *arg)
{
	static const char *bad[][3] = {{"fast", "system", "system"}, {"system", "", "x"}, {"system", "a b", "x"}, {"system", "fast", "system"}};
	struct fs_format_args a = {.name = "test", .block_size = BS, .log_slots = 3, .log_bytes = 1 << 20, .disks = now->devs, .ndisks = 3, .env = &now->env};
	uint8_t id[16];

	for (unsigned i = 0; i < TS_ARRAY_LEN(bad); i++) {
		a.pools = bad[i];
		a.meta_disks = i == 3 ? 2 : 0;
		assert_int_equal(fs_format(&a, id, err, sizeof(err)), -EINVAL);
		assert_true(strlen(err) > 10);
	}
}
static void formats(void **state)
{
	struct fsh *h = fsh_new(3, BYTES);

	run(h, format_fiber);
	fsh_free(h);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(placement), cmocka_unit_test(full),	       cmocka_unit_test(migrating), cmocka_unit_test(disks),
		cmocka_unit_test(planted),   cmocka_unit_test(hostile_tables), cmocka_unit_test(formats),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
