/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what fs_format writes can be opened and adds up; what cannot be formatted is refused with a reason; what was damaged
 * is not opened. */
#include "fs_harness.h"

#include <stdio.h>

struct attempt {
	struct fsh *h;
	struct fs_format_args a;
	int rc;
	char err[256];
};
static void attempt_fiber(void *arg)
{
	struct attempt *t = arg;
	uint8_t id[16];

	t->a.disks = t->h->devs;
	t->a.ndisks = t->h->ndisks;
	t->a.env = &t->h->env;
	t->rc = fs_format(&t->a, id, t->err, sizeof(t->err));
}
static int try_format(struct fsh *h, struct fs_format_args a, char *err, size_t errlen)
{
	struct attempt t = {.h = h, .a = a};

	fsh_run(h, attempt_fiber, &t);
	snprintf(err, errlen, "%s", t.err);
	return t.rc;
}

static void refusals(void **state)
{
	struct fsh *h = fsh_new(1, 16 << 20);
	char err[256];

	assert_int_equal(try_format(h, (struct fs_format_args){.name = "a/b"}, err, sizeof(err)), -EINVAL);
	assert_non_null(strstr(err, "name"));
	assert_int_equal(try_format(h, (struct fs_format_args){.name = "a", .block_size = 100000}, err, sizeof(err)), -EINVAL);
	assert_non_null(strstr(err, "block size"));
	assert_int_equal(try_format(h, (struct fs_format_args){.name = "a", .log_slots = 257}, err, sizeof(err)), -EINVAL);
	assert_int_equal(try_format(h, (struct fs_format_args){.name = "a", .log_bytes = 4096}, err, sizeof(err)), -EINVAL);
	assert_int_equal(try_format(h, (struct fs_format_args){.name = "a"}, err, sizeof(err)), -ENOSPC);
	assert_non_null(strstr(err, "too small"));
	fsh_free(h);
}

struct opened {
	struct fsh *h;
	struct fs *fs;
	int rc;
	char err[256];
};
static void open_fiber(void *arg)
{
	struct opened *o = arg;
	struct fs_bare_args a = {.exec = o->h->x, .disks = o->h->devs, .ndisks = o->h->ndisks, .meta_pool_bytes = 1 << 20};

	o->rc = fs_bare_new(&a, &o->fs, o->err, sizeof(o->err));
}

static void check_regions(struct fs *fs)
{
	uint32_t rs = le32_get(fs->super.region_subs), most = 0;

	for (unsigned d = 0; d < fs->ndisks; d++) {
		const struct fs_disk_ent_disk *e = &fs->disks[d].ent;

		assert_int_equal(le64_get(e->region_start) % fs->block_subs, 0);
		for (uint32_t r = 0; r < le32_get(e->nchunks); r++) {
			struct fs_buf *b;
			fs_addr a = FS_ADDR(d, le64_get(e->region_start) + (uint64_t)r * rs);
			const struct fs_bitmap_disk *m;

			assert_int_equal(fs_buf_get(fs, a, FS_BT_BITMAP, TOK_REGION, r, &b), 0);
			m = (const struct fs_bitmap_disk *)b->data;
			assert_int_equal(le32_get(m->nsubs), rs);
			assert_int_equal(le32_get(m->free), rs - 2 - (!d && !r ? FS_SEG_INODES : 0));
			assert_int_equal(m->type, r ? FS_REGION_FREE : FS_REGION_META);
			fs_buf_put(fs, b);
			assert_int_equal(fs_buf_get(fs, a + 1, FS_BT_CHUNKAUX, TOK_REGION, r, &b), 0);
			fs_buf_put(fs, b);
		}
		most = TS_MAX(most, le32_get(e->nchunks));
	}
	assert_int_equal(most, le32_get(fs->super.nregions));
}

static void adds_up_fiber(void *arg)
{
	struct opened *o = arg;
	struct fs *fs;
	struct fs_buf *b;
	const struct fs_segtab_disk *t;
	const struct fs_inode_disk *d;

	open_fiber(o);
	if (o->rc)
		fail_msg("%s", o->err);
	fs = o->fs;
	check_regions(fs);
	assert_int_equal(fs_buf_get(fs, le64_get(fs->super.segtab[0].addr[0]), FS_BT_SEGTAB, TOK_SEGTAB, 0, &b), 0);
	t = (const struct fs_segtab_disk *)b->data;
	fs_addr first = le64_get(t->s[0].addr[0]);

	assert_int_equal(le64_get(t->s[1].addr[0]), 0);
	fs_buf_put(fs, b);
	assert_int_equal(fs_buf_get(fs, first + 1, FS_BT_INODE, TOK_INODE, 1, &b), 0);
	d = (const struct fs_inode_disk *)b->data;
	assert_int_equal(le16_get(d->mode), S_IFDIR | 0755);
	assert_int_equal(le64_get(d->parent), 1);
	fs_buf_put(fs, b);
	assert_int_equal(fs_buf_get(fs, first + 511, FS_BT_INODE, TOK_INODE, 511, &b), 0);
	assert_int_equal(le16_get(((const struct fs_inode_disk *)b->data)->mode), 0);
	fs_buf_put(fs, b);
	assert_int_equal(fs_buf_get(fs, first + 511, FS_BT_INODE, TOK_INODE, 510, &b), -EUCLEAN);
	assert_int_equal(fs_buf_get(fs, FS_ADDR(7, 99), FS_BT_INODE, TOK_INODE, 510, &b), -EUCLEAN);
	fs_bare_free(fs);
}

static void adds_up(void **state)
{
	for (unsigned n = 1; n <= 3; n++) {
		for (uint32_t bs = FS_MIN_BLOCK; bs <= 4u << 20; bs *= 8) {
			struct fsh *h = fsh_new(n, 256 << 20);
			struct opened o = {.h = h};

			fsh_format(h, bs);
			fsh_crash(h, 0); /* all of it is stable */
			fsh_run(h, adds_up_fiber, &o);
			fsh_free(h);
		}
	}
}

static int open_again(struct fsh *h, char *err, size_t errlen)
{
	struct opened o = {.h = h};

	fsh_run(h, open_fiber, &o);
	if (!o.rc)
		fs_bare_free(o.fs);
	snprintf(err, errlen, "%s", o.err);
	return o.rc;
}

static void damage(void **state)
{
	struct fsh *h = fsh_new(2, 64 << 20);
	struct nsd_dev *swap;
	char err[256];

	assert_int_equal(open_again(h, err, sizeof(err)), -EINVAL); /* blank */
	fsh_format(h, 64 << 10);
	assert_int_equal(open_again(h, err, sizeof(err)), 0);
	swap = h->devs[0];
	h->devs[0] = h->devs[1];
	h->devs[1] = swap;
	assert_int_equal(open_again(h, err, sizeof(err)), -EINVAL);
	swap = h->devs[0];
	h->devs[0] = h->devs[1];
	h->devs[1] = swap;
	h->ndisks = 1;
	assert_int_equal(open_again(h, err, sizeof(err)), -EINVAL);
	h->ndisks = 2;
	h->disk[1]->now[FS_SUPER_SUB * FS_SUB + 100] ^= 1; /* one copy: the other serves */
	assert_int_equal(open_again(h, err, sizeof(err)), 0);
	h->disk[1]->now[(FS_SUPER_SUB + 1) * FS_SUB + 100] ^= 1;
	assert_int_equal(open_again(h, err, sizeof(err)), -EUCLEAN);
	assert_non_null(strstr(err, "superblock"));
	h->disk[1]->now[FS_SUPER_SUB * FS_SUB + 100] ^= 1;
	h->disk[0]->now[FS_DISKTAB_SUB * FS_SUB + 70] ^= 1; /* it lies twice, too */
	assert_int_equal(open_again(h, err, sizeof(err)), 0);
	h->disk[0]->now[FS_DISKTAB_SUB2 * FS_SUB + 70] ^= 1;
	assert_int_equal(open_again(h, err, sizeof(err)), -EUCLEAN);
	fsh_free(h);
}

/* A format that breaks off anywhere leaves no disk that looks like ours. */
static void broken_off(void **state)
{
	for (uint64_t nth = 1; nth < 600; nth += 7) {
		struct fsh *h = fsh_new(1, 64 << 20);
		char err[256];
		int rc;

		fsh_format(h, 64 << 10);
		h->disk[0]->fail_op = NSD_WRITE;
		h->disk[0]->fail_nth = nth;
		h->disk[0]->fail_rc = -EIO;
		rc = try_format(h, (struct fs_format_args){.name = "again", .block_size = 64 << 10, .log_slots = 2, .log_bytes = 512 << 10},
				err, sizeof(err));
		if (!rc) {
			fsh_free(h);
			break;
		}
		assert_int_equal(rc, -EIO);
		assert_int_not_equal(open_again(h, err, sizeof(err)), 0);
		fsh_free(h);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refusals),
		cmocka_unit_test(adds_up),
		cmocka_unit_test(damage),
		cmocka_unit_test(broken_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
