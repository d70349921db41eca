/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the block map: every height of the tree, inserted in any order, read after a remount, cut down again, with all space
 * back at the end; pointers from disk that are not valid are refused and nothing is freed by them. */
#include "fs_data_util.h"

#define BS (64u << 10)

static const uint64_t far_blocks[] = {
	0, 1, 62, 63, 64, 65, 83, 84, 85, 5375, 5376, 5377, 64ULL * 7056 - 1, 64ULL * 7056, 64ULL * 592704, 64ULL * 49787136 + 5,
	64ULL * 4182119424ULL, 64ULL * 351298031616ULL, (uint64_t)INT64_MAX / BS - 1,
};
#define NFAR TS_ARRAY_LEN(far_blocks)

static void heights(void **state)
{
	assert_int_equal(fs_map_height_for(0), 0);
	assert_int_equal(fs_map_height_for(63), 0);
	assert_int_equal(fs_map_height_for(64), 1);
	assert_int_equal(fs_map_height_for(64 * 84 - 1), 1);
	assert_int_equal(fs_map_height_for(64 * 84), 2);
	assert_true(fs_map_height_for((uint64_t)FS_MAX_SIZE / FS_MIN_BLOCK) <= MAP_MAX_HEIGHT);
}

static uint64_t free_now(struct fs *fs)
{
	struct fs_room room;

	for (int k = 0; k < 20; k++) { /* frees become free after the log and the reaper */
		assert_int_equal(fs_log_force(fs, fs_log_head(fs)), 0);
		fs_reaper_kick(fs);
		ts_sleep_until(ts_exec_now(fs->exec) + 2 * TS_NS_PER_S);
	}
	assert_int_equal(fs_alloc_statfs(fs, &room), 0);
	return room.free;
}

static unsigned order[NFAR];
static uint64_t map_ino;

static void check_all(struct fs *fs, struct fs_file *f, uint64_t below)
{
	for (unsigned i = 0; i < NFAR; i++) {
		uint64_t off = far_blocks[i] * BS;

		if (far_blocks[i] < below)
			du_check(fs, f, 100 + i, off + 17, 5000);
	}
}

static void insert_body(struct fsh *h, struct fs *fs)
{
	struct fs_file f;

	du_create(fs, &f);
	map_ino = f.ip->ino;
	for (unsigned i = 0; i < NFAR; i++)
		order[i] = i;
	for (unsigned i = NFAR - 1; i > 0; i--) {
		unsigned j = (unsigned)(fsh_random(h) % (i + 1)), t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	for (unsigned i = 0; i < NFAR; i++) {
		du_write(fs, &f, 100 + order[i], far_blocks[order[i]] * BS + 17, 5000);
		if (fsh_random(h) % 3 == 0)
			assert_int_equal(fs_fsync(fs, &f, false), 0);
	}
	assert_int_equal(fs_fsync(fs, &f, false), 0);
	assert_int_equal(fs->datas->nstock, 0); /* no metadata kept back */
	check_all(fs, &f, UINT64_MAX);
	assert_true(du_disk(fs, &f)->map_height == fs_map_height_for(far_blocks[NFAR - 1]));
	du_revoke(fs, &f);
	check_all(fs, &f, UINT64_MAX);
	du_close(fs, &f);
}

static void cut_body(struct fsh *h, struct fs *fs)
{
	struct fs_file f;

	du_open(fs, &f, map_ino);
	check_all(fs, &f, UINT64_MAX);
	assert_int_equal(fs_fallocate(fs, &f, FS_FALLOC_PUNCH | FS_FALLOC_KEEP_SIZE, 5376ULL * BS, (uint64_t)BS * (64ULL * 49787136 - 5376), false), 0);
	du_check(fs, &f, 0, 5376ULL * BS, 20000);
	du_check(fs, &f, 0, 64ULL * 592704 * BS, 20000);
	check_all(fs, &f, 5376);
	for (unsigned i = NFAR; i-- > 0;) {
		assert_int_equal(du_truncate(fs, &f, far_blocks[i] * BS), 0);
		check_all(fs, &f, TS_MIN(far_blocks[i], 5376));
		if (i % 4 == 0)
			du_revoke(fs, &f);
	}
	assert_int_equal(f.ip->size, 0);
	assert_int_equal(le64_get(du_disk(fs, &f)->subs), 0);
	assert_int_equal(du_disk(fs, &f)->payload_type, FS_PL_NONE);
	assert_int_equal(le32_get(du_disk(fs, &f)->trunc_epoch), NFAR);
	du_close(fs, &f);
}

static uint64_t free_before;
static void before_body(struct fsh *h, struct fs *fs)
{
	struct fs_file f;

	du_create(fs, &f); /* so that the segment is there */
	du_close(fs, &f);
	free_before = free_now(fs);
}
static void after_body(struct fsh *h, struct fs *fs)
{
	assert_int_equal(free_now(fs), free_before);
}

static void every_height(void **state)
{
	for (unsigned run = 0; run < 4; run++) {
		struct fsh *h = du_new(2, 64u << 20, BS);

		h->rng += run;
		du_run(h, before_body);
		du_run(h, insert_body);
		du_run(h, cut_body);
		du_run(h, after_body);
		fsh_free(h);
	}
}

/* ---- hostile pointers ---------------------------------------------------------------------------------------------------- */
static void spoil(struct fs *fs, struct fs_file *f, unsigned how, struct fs_bptr_disk *p)
{
	switch (how) {
	case 0:
		p->addr[0] = le64_make(FS_ADDR(4000, 5000)); /* no such disk */
		break;
	case 1:
		p->addr[0] = le64_make(FS_ADDR(0, (1ULL << 40) - 1));
		break;
	case 2:
		p->addr[0] = le64_make(le64_get(p->addr[0]) | 1ULL << 60);
		break;
	case 3:
		p->subs = le16_make(17);
		break;
	case 4:
		p->subs = le16_make(0);
		break;
	case 5:
		p->comp = 1;
		break;
	case 6:
		p->flags = 0x80;
		break;
	default:
		p->addr[0] = le64_make(1); /* a label */
	}
}

static void hostile_body(struct fsh *h, struct fs *fs)
{
	for (unsigned how = 0; how < 9; how++) {
		struct fs_inode_disk *d;
		uint8_t saved[FS_SUB], b[10];
		struct fs_file f;
		size_t intents = 0;

		du_create(fs, &f);
		du_write(fs, &f, 1, 0, 3 * BS);
		du_revoke(fs, &f);
		d = du_disk(fs, &f);
		ts_sleep_until(ts_exec_now(fs->exec) + TS_NS_PER_S); /* what was read ahead is here */
		fs_data_drop(fs, f.ip);
		memcpy(saved, d, FS_SUB);
		if (how == 8)
			d->map_height = 9;
		else
			spoil(fs, &f, how, (struct fs_bptr_disk *)d->payload + 1);
		assert_int_equal(fs_read(fs, &f, b, 10, BS), -EUCLEAN);
		ts_list_for(l, fs_log_intents(fs))
			intents++;
		assert_int_equal(du_truncate(fs, &f, 0), -EUCLEAN);
		ts_list_for(l, fs_log_intents(fs))
			intents--;
		assert_int_equal(intents, 0);
		assert_int_equal(fs_write(fs, &f, "x", 1, BS + 5, false, false, NULL), -EUCLEAN);
		memcpy(f.ip->buf->data, saved, FS_SUB);
		assert_int_equal(du_truncate(fs, &f, 0), 0);
		du_close(fs, &f);
	}
}
static void hostile(void **state)
{
	struct fsh *h = du_new(1, 64u << 20, BS);

	du_run(h, hostile_body);
	fsh_free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(heights), cmocka_unit_test(every_height), cmocka_unit_test(hostile)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
