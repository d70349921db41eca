/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a disk that becomes larger while it is mounted: its new part is used, nothing of the old one is lost, and a death in front of any step
 * leaves what fsck takes for sound and the next call finishes. */
#include "fs_harness.h"
#include "fs/alloc_int.h"
#include "fs/disks.h"
#include "nsd/nsd_int.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define LARGE (64ull << 20)
#define SMALL (32ull << 20)
#define BS    (64u << 10)
#define N     2

static const struct fs_cred root;
static char err[512];

static void mount_fiber(void *arg)
{
	struct fsh *h = arg;
	struct fs_mount_args a = {.exec = h->x, .disks = h->devs, .ndisks = N, .net = h->net, .quorum = h->quorum, .times = {2000, 400, 500, 150},
				  .page_pool_bytes = 16u << 20, .meta_pool_bytes = 8u << 20};
	int rc = fs_mount(&a, &h->fs, err, sizeof(err));

	if (rc)
		TS_PANIC("mount: %d %s", rc, err);
}

static void node_mount(struct fsh *h)
{
	fsw_reset();
	fsh_mount_by(h, mount_fiber, h);
}

/* As the unit says itself when it is opened; what it says when it is asked is the disk's. */
static void shown(struct fsh *h, uint64_t bytes)
{
	for (unsigned i = 0; i < N; i++) {
		h->devs[i]->info.size_bytes = bytes;
		h->disk[i]->bytes = bytes;
	}
}

static struct fsh *world(void)
{
	struct fsh *h = fsh_new(N, LARGE);
	struct fs_format_args a = {.name = "test", .block_size = BS, .log_slots = 3, .log_bytes = 1 << 20};

	shown(h, SMALL);
	fsh_format_args(h, &a);
	node_mount(h);
	return h;
}

static int put(struct fs *fs, uint64_t ino, uint64_t len, uint64_t off)
{
	uint8_t *buf = ts_xalloc(len);
	struct fs_file *f;
	int64_t rc;

	for (uint64_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(ts_hash_u64((off + i) / 512) + off + i);
	assert_int_equal(fs_open(fs, &root, ino, O_RDWR, &f), 0);
	rc = fs_write(fs, f, buf, len, off, false, false, NULL);
	if (rc >= 0)
		assert_int_equal(fs_fsync(fs, f, false), 0);
	fs_release(fs, f);
	ts_free(buf);
	return (int)rc;
}

static uint64_t file, written;
static void fill_fiber(void *arg)
{
	struct fsh *h = arg;
	struct fs_attr at;
	int rc;

	if (!file) {
		assert_int_equal(fs_mknod(h->fs, &root, FS_ROOT_INO, "file", 4, S_IFREG | 0644, 0, NULL, &at), 0);
		file = at.ino;
	}
	while ((rc = put(h->fs, file, BS, written)) == BS)
		written += BS;
	assert_int_equal(rc, -ENOSPC);
	assert_int_equal(fs_sync(h->fs), 0);
}

static void read_fiber(void *arg)
{
	struct fsh *h = arg;
	uint8_t *buf = ts_xalloc(written);
	struct fs_file *f;

	assert_int_equal(fs_open(h->fs, &root, file, O_RDONLY, &f), 0);
	assert_int_equal(fs_read(h->fs, f, buf, written, 0), written);
	for (uint64_t i = 0; i < written; i++)
		if (buf[i] != (uint8_t)(ts_hash_u64(i / 512) + i))
			fail_msg("byte %llu of %llu", (unsigned long long)i, (unsigned long long)written);
	fs_release(h->fs, f);
	ts_free(buf);
}

struct verb {
	struct fsh *h;
	unsigned no, stop_at, step;
	int rc;
};
static int step(void *arg, const char *what)
{
	struct verb *v = arg;

	return ++v->step == v->stop_at ? -ECANCELED : 0;
}
static void grow_fiber(void *arg)
{
	struct verb *v = arg;
	struct fs_disk_grow g = {.no = v->no, .step = step, .arg = v};

	v->rc = fs_disk_grow(v->h->fs, &g, err, sizeof(err));
}
static int grow(struct fsh *h, unsigned no, unsigned stop_at)
{
	struct verb v = {.h = h, .no = no, .stop_at = stop_at};

	fsh_run(h, grow_fiber, &v);
	return v.rc;
}

static void finding(void *arg, const char *text, bool repaired)
{
	fprintf(stderr, "finding: %s\n", text);
}
static void check_fiber(void *arg)
{
	struct fsh *h = arg;
	struct fs_check_args a = {.disks = h->devs, .ndisks = N, .env = &h->env, .finding = finding};
	struct fs_check_result r;

	assert_int_equal(fs_check(&a, true, &r, err, sizeof(err)), 0);
	assert_int_equal(r.findings, 0);
}

static uint64_t room(struct fsh *h)
{
	return h->fs->alloc->total_subs;
}

static void grows(void **state)
{
	struct fsh *h = world();
	uint64_t before, full, nregions = h->fs->alloc->nregions;

	file = written = 0;
	fsh_run(h, fill_fiber, h);
	full = written;
	before = room(h);
	assert_int_equal(grow(h, 0, 0), -EALREADY);
	assert_int_equal(grow(h, 7, 0), -ENOENT);
	h->disk[0]->bytes = h->disk[1]->bytes = SMALL + FS_SUB;
	assert_int_equal(grow(h, 0, 0), -ENOSPC);
	assert_int_equal(room(h), before);
	h->disk[0]->bytes = h->disk[1]->bytes = LARGE;
	if (grow(h, 0, 0))
		fail_msg("%s", err);
	assert_int_equal(grow(h, 0, 0), -EALREADY);
	assert_true(h->fs->alloc->nregions > nregions);
	assert_true(room(h) > before + before / 3);
	fsh_run(h, fill_fiber, h);
	assert_true(written > full + (20u << 20));
	assert_int_equal(grow(h, 1, 0), 0);
	assert_true(room(h) > before + before * 3 / 4);
	fsh_run(h, fill_fiber, h);
	assert_true(written > full + (50u << 20));
	fsh_run(h, read_fiber, h);
	fsh_unmount(h);
	fsh_run(h, check_fiber, h);
	node_mount(h);
	fsh_run(h, read_fiber, h);
	fsh_crash(h, 3);
	node_mount(h);
	fsh_run(h, read_fiber, h);
	fsh_unmount(h);
	fsh_run(h, check_fiber, h);
	fsh_free(h);
}

static void dies_at_step(void **state)
{
	for (unsigned at = 1;; at++) {
		struct fsh *h = world();
		int rc;

		file = written = 0;
		fsh_run(h, fill_fiber, h);
		h->disk[0]->bytes = h->disk[1]->bytes = LARGE;
		rc = grow(h, 1, at);
		if (rc != -ECANCELED) {
			assert_int_equal(rc, 0);
			assert_int_equal(at, 5);
			fsh_unmount(h);
			fsh_free(h);
			return;
		}
		fsh_crash(h, at * 77);
		fsh_run(h, check_fiber, h);
		node_mount(h);
		fsh_run(h, read_fiber, h);
		rc = grow(h, 1, 0);
		if (rc)
			fail_msg("again after a death at step %u: %d %s", at, rc, err);
		fsh_run(h, fill_fiber, h);
		fsh_run(h, read_fiber, h);
		fsh_unmount(h);
		fsh_run(h, check_fiber, h);
		fsh_free(h);
	}
}

/* An entry that grows to less than it was is not believed. */
static void hostile_fiber(void *arg)
{
	struct fsh *h = arg;
	struct fs_disk_ent_disk e = h->fs->disks[1].ent;

	assert_null(fs_disk_ent_wrong(&h->fs->super, &e, 0));
	e.grow_from = le32_make(le32_get(e.nchunks) - 1);
	assert_null(fs_disk_ent_wrong(&h->fs->super, &e, 0));
	e.grow_from = e.nchunks;
	assert_non_null(fs_disk_ent_wrong(&h->fs->super, &e, 0));
	e.grow_from = le32_make(UINT32_MAX);
	assert_non_null(fs_disk_ent_wrong(&h->fs->super, &e, 0));
}
static void hostile(void **state)
{
	struct fsh *h = world();

	fsh_run(h, hostile_fiber, h);
	fsh_unmount(h);
	fsh_free(h);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(grows), cmocka_unit_test(dies_at_step), cmocka_unit_test(hostile)};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
