/* SPDX-License-Identifier: Apache-2.0 */
/* Job: files that several nodes write at the same time. Each writes under DATA EX of his own blocks and INODE SW: pages become
 * dirty, space is taken, the size grows in memory, and nobody else hears of it. Inode and map change under INODE EX only, so
 * what was written so has to be committed by somebody who waits for that: fsync, a revoke of DATA, a writer who has too much, or
 * the fiber here.
 *
 *   write under SW --> dirty --wave--> ready --INODE EX--> mapped
 *   size, times    --> lazy  --INODE EX--> in the inode        (SW revoked: given away as a value, see dlm/dlm.h)
 *
 * Why a node may rely on a size that others are ahead of: whoever gives up DATA of a range that reaches behind the size on disk
 * has written down his own size first, under EX, and that EX took this node's SW away. So its own size lies behind every byte of
 * others in its own blocks.
 *
 * Shared blocks are at most a quarter of the pool (shared_limit): whoever waits for memory with pins held waits for blocks that
 * can be written without any token. What must never happen: a transaction under SW; a wait for INODE EX with SW pinned, or by
 * the fiber of write-behind. */
#include "fs/data_int.h"

#define SHARE_TICK_NS (3 * TS_NS_PER_S)

int share_pin_ex(struct fs *fs, struct fs_inode *ip, struct tok_pin *pin)
{
	struct fs_inode *again;
	int rc = tok_pin(fs->tok, TOK_INODE, ip->ino, TOK_EX, 0, TOK_END, 0, pin);

	if (rc)
		return rc == -TS_ERR_FENCED ? -EIO : rc;
	rc = fs_inode_get(fs, ip->ino, &again);
	if (!rc) {
		rc = again == ip ? 0 : -ESTALE;
		fs_inode_put(fs, again);
	}
	if (rc)
		tok_unpin(fs->tok, pin);
	return rc;
}

int share_write_lazy(struct fs *fs, struct fs_inode *ip)
{
	struct tok_pin pin;
	int rc = share_pin_ex(fs, ip, &pin);

	if (rc)
		return rc;
	rc = fs_inode_write_lazy(fs, ip);
	tok_unpin(fs->tok, &pin);
	return rc;
}

void share_kick(struct fs *fs, bool all)
{
	struct fs_datastate *ds = fs->datas;

	ds->share_all |= all;
	ts_cond_signal(&ds->share_kick);
}

void share_mark(struct fs *fs, struct data_blk *b)
{
	fs->datas->nshared += !b->shared;
	b->shared = true;
}

void share_unmark(struct fs *fs, struct data_blk *b)
{
	struct fs_datastate *ds = fs->datas;

	if (!b->shared)
		return;
	b->shared = false;
	ds->nshared--;
	ts_cond_broadcast(&ds->share_room);
}

int share_settle(struct fs *fs, struct fs_inode *ip)
{
	struct fs_datastate *ds = fs->datas;
	int rc = fs_data_writeback(fs, ip);

	while (!rc && ds->nshared >= ds->shared_limit && fs->run != FS_RUN_STOPPED) {
		share_kick(fs, true);
		(void)!ts_cond_wait_until(&ds->share_room, ts_exec_now(fs->exec) + SHARE_TICK_NS, "blocks of shared files to be mapped",
					  ds->nshared, ds->shared_limit);
	}
	return fs->run == FS_RUN_STOPPED ? -EIO : rc;
}

int share_gap(struct fs *fs, struct fs_inode *ip)
{
	struct data_file *df = data_use(fs, ip);
	uint64_t size = ip->size;
	int rc;

	if (!df)
		return -ENOMEM;
	rc = data_gap(fs, df, size, TS_ALIGN_UP(size, (uint64_t)fs->block_size));
	if (!rc)
		ip->gap_clean = size;
	data_unuse(fs, df);
	return rc;
}

/* ---- the fiber ---------------------------------------------------------------------------------------------------- */

static bool over(const struct fs *fs)
{
	return fs->stopping_threads || fs->run == FS_RUN_STOPPED;
}

/* A file with something to commit, referenced. */
static struct fs_inode *file_due(struct fs *fs, bool all)
{
	uint64_t now = ts_exec_now(fs->exec), before = all ? UINT64_MAX : now > SHARE_TICK_NS ? now - SHARE_TICK_NS : 0;

	ts_list_for(n, &fs->datas->dirty_files) {
		struct data_file *df = ts_list_entry(n, struct data_file, dirty_link);
		bool due = false;

		ts_list_for(l, &df->active) {
			const struct data_blk *b = ts_list_entry(l, const struct data_blk, active);

			due |= b->shared && b->ready && b->dirtied_ns <= before;
		}
		if (due)
			return fs_inode_find(fs, df->ip->ino);
	}
	return NULL;
}

static void commit_due(struct fs *fs, bool all)
{
	struct fs_inode *ip;
	unsigned n = 0;

	ts_list_for(l, &fs->datas->dirty_files)
		n++;
	while (n-- && !over(fs) && (ip = file_due(fs, all))) {
		struct data_file *df = ip->data;
		int rc = df ? data_commit(fs, df, false, true) : 0;

		if (rc && fs->run != FS_RUN_STOPPED)
			ts_debug("inode %llu: shared data could not be mapped (%d)", (unsigned long long)ip->ino, rc);
		fs_inode_put(fs, ip);
	}
}

int fs_share_lazy_all(struct fs *fs)
{
	unsigned n = fs_inode_count_shared(fs);
	struct fs_inode *ip;
	int rc = 0;

	while (!rc && n-- && (ip = fs_inode_next_shared(fs))) {
		rc = share_write_lazy(fs, ip);
		if (rc == -ESTALE)
			rc = 0; /* freed meanwhile */
		fs_inode_put(fs, ip);
	}
	return rc;
}

static void share_fiber(void *arg)
{
	struct fs *fs = arg;
	struct fs_datastate *ds = fs->datas;

	while (!over(fs)) {
		bool all;

		(void)!ts_cond_wait_until(&ds->share_kick, ts_exec_now(fs->exec) + SHARE_TICK_NS, "shared files to be written down", 0, 0);
		all = ds->share_all;
		ds->share_all = false;
		commit_due(fs, all);
		if (!over(fs) && fs_share_lazy_all(fs) && !over(fs))
			ts_debug("%s: sizes of shared files are written down later", fs->super.name);
	}
	ts_group_done(&fs->background, 0);
}

void fs_share_wake(struct fs *fs)
{
	ts_cond_broadcast(&fs->datas->share_kick);
	ts_cond_broadcast(&fs->datas->share_room);
}

int fs_share_start(struct fs *fs)
{
	int rc;

	ts_group_add(&fs->background);
	rc = ts_fiber_spawn(fs->exec, "shared files", share_fiber, fs);
	if (rc)
		ts_group_done(&fs->background, 0);
	return rc;
}
