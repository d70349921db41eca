/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the fiber of each mount that moves file data when disks are drained, or when all are to be equally full. What is to be done is on disk
 * (states of disks, fs_super_disk.move), so it goes on whoever dies. The nodes share the segments of inodes by their place in
 * the group's view, and pass over them until the bitmaps say that it is done; that the lowest node decides.
 *
 * What must never happen: a disk called empty on which something lies or may come to lie (K3); two nodes that wait for each other (a pass
 * holds the tokens of one inode at a time). A look at inodes without tokens may miss some: it only decides where to look, and a pass
 * that finds nothing while the bitmaps are not empty is followed by one that looks at every inode under its token. */
#include "fs/alloc_int.h"
#include "fs/disks.h"

#define AFTER_NS     (500 * TS_NS_PER_MS) /* between passes */
#define FREES_NS     (5 * TS_NS_PER_S)
#define SHOW_NS	     (2 * TS_NS_PER_S) /* so often the others, and who looks, see how far a long pass is */
#define READ_INODES  16u
#define STUCK_PASSES 12u /* without getting nearer to equal disks */

struct fs_mover {
	struct ts_cond wake;
	bool deep; /* the next pass looks at everything */
	uint64_t moved_bytes, passes;
	uint64_t paced_moved, paced_from; /* rate: sub-blocks of this pass, since when */
	unsigned even_seen, stuck;
	uint64_t best; /* the smallest deviation seen, in ppm */
	bool told;
};

void fs_mover_wake(struct fs *fs)
{
	if (fs->mover)
		ts_cond_broadcast(&fs->mover->wake);
}

void fs_mover_stats(const struct fs *fs, uint64_t *bytes, uint64_t *passes)
{
	*bytes = fs->mover ? fs->mover->moved_bytes : 0;
	*passes = fs->mover ? fs->mover->passes : 0;
}

static bool over(const struct fs *fs)
{
	return fs->stopping_threads || fs->run == FS_RUN_STOPPED || fs->run == FS_RUN_UNMOUNTING;
}

void fs_mover_pace(struct fs *fs, uint64_t moved)
{
	struct fs_mover *m = fs->mover;
	uint64_t rate = (uint64_t)le32_get(fs->super.move_mib_s) << 20, due;

	m->moved_bytes += (moved - m->paced_moved) * FS_SUB;
	if (rate) {
		due = m->paced_from + (moved - m->paced_moved) * FS_SUB * 1000 / rate * TS_NS_PER_MS;
		while (!over(fs) && ts_exec_now(fs->exec) < due)
			ts_sleep_until(TS_MIN(due, ts_exec_now(fs->exec) + 200 * TS_NS_PER_MS));
	}
	m->paced_moved = moved;
	m->paced_from = ts_exec_now(fs->exec);
}

/* ---- what is to be done ------------------------------------------------------------------------------------------- */

static bool draining(const struct fs *fs)
{
	for (unsigned d = 0; d < fs->ndisks; d++)
		if (fs_disk_state(fs, d) == FS_DISK_DRAINING)
			return true;
	return false;
}

static bool wanted(const struct fs *fs)
{
	return !fs->args.read_only && (fs->super.move & FS_MOVE_REBALANCE || draining(fs));
}

/* This node's place among those that work. false: it is not among them. */
static bool place(const struct fs *fs, unsigned *rank, unsigned *n)
{
	bool found = false;

	*n = *rank = 0;
	for (unsigned i = 0; i < fs->gview.nmembers; i++) {
		const struct quorum_member *m = &fs->gview.members[i];

		if (m->slot == UINT32_MAX)
			continue;
		if (m->node == fs->self) {
			*rank = *n;
			found = true;
		}
		++*n;
	}
	return found;
}

struct look {
	struct fs_disk_use use[FS_DISKS_ONLINE];
	uint64_t used[FS_POOLS], room[FS_POOLS]; /* of all that take data */
	uint64_t deviation;   /* the largest, of a disk's share from the mean, in ppm of its room */
};

static double mean(const struct look *l, unsigned pool)
{
	return l->room[pool] ? (double)l->used[pool] / (double)l->room[pool] : 0;
}

static int look(struct fs *fs, struct look *l)
{
	int rc = 0;

	memset(l, 0, sizeof(*l));
	for (unsigned d = 0; d < fs->ndisks && !rc; d++) {
		if (!fs_disk_takes(fs, d, FS_REGION_DATA))
			continue;
		rc = fs_disk_use_read(fs, d, &l->use[d]);
		l->used[fs_disk_pool(fs, d)] += l->use[d].used;
		l->room[fs_disk_pool(fs, d)] += l->use[d].room;
	}
	for (unsigned d = 0; d < fs->ndisks && !rc; d++) {
		const struct fs_disk_use *u = &l->use[d];
		double off;

		if (!u->room)
			continue;
		off = (double)u->used / (double)u->room - mean(l, fs_disk_pool(fs, d));
		l->deviation = TS_MAX(l->deviation, (uint64_t)((off < 0 ? -off : off) * 1e6));
	}
	return rc;
}

/* false: there is nothing to move. */
static bool plan_make(struct fs *fs, const struct look *l, unsigned n, struct fs_move_plan *p)
{
	bool any = false;

	memset(p, 0, sizeof(*p));
	p->ndisks = TS_MIN(fs->ndisks, FS_DISKS_ONLINE);
	p->all = draining(fs);
	for (unsigned d = 0; d < p->ndisks; d++) {
		const struct fs_disk_use *u = &l->use[d];
		int64_t target = (int64_t)(mean(l, fs_disk_pool(fs, d)) * (double)u->room), off = (int64_t)u->used - target;
		int64_t slack = TS_MAX((int64_t)u->room / 400, 2 * (int64_t)fs->block_subs);

		if (p->all) {
			p->from[d] = fs_disk_state(fs, d) == FS_DISK_DRAINING ? INT64_MAX : 0;
			p->room[d] = u->room > u->used ? (int64_t)(u->room - u->used) : 0;
			any |= p->from[d] > 0;
		} else if (u->room) {
			p->from[d] = off > slack ? off / n + 1 : 0;
			p->room[d] = off < 0 ? -off / n + 1 : 0;
			any |= p->from[d] > 0;
		}
	}
	return any;
}

/* ---- a pass ------------------------------------------------------------------------------------------------------- */

struct pass {
	struct fs *fs;
	struct fs_move_plan plan;
	unsigned rank, n;
	bool deep;
	uint64_t gen, failed, shown_ns, shown_moved;
	uint8_t *buf;
	struct fs_segtab_disk *tab;
};

static bool points_away(const struct pass *p, const struct fs_inode_disk *d)
{
	const struct fs_bptr_disk *v = (const struct fs_bptr_disk *)d->payload;

	if (d->map_height)
		return true;
	for (unsigned i = 0; i < FS_INODE_PTRS; i++) {
		unsigned disk = FS_ADDR_DISK(le64_get(v[i].addr[0]));

		if (le64_get(v[i].addr[0]) && disk < p->plan.ndisks && p->plan.from[disk] > 0)
			return true;
	}
	return false;
}

static bool candidate(const struct pass *p, const struct fs_inode_disk *d, fs_addr at)
{
	if (p->deep)
		return true;
	if (fs_mdhdr_wrong(d, p->fs->super.fs_id, FS_BT_INODE, at) || !le16_get(d->mode))
		return false;
	if (S_ISREG(le16_get(d->mode)) && d->payload_type == FS_PL_MAP && points_away(p, d))
		return true;
	return p->plan.all && (le32_get(d->flags) & FS_IF_XATTR_BLOCK || le16_get(d->xattr_len) >= sizeof(struct fs_xattr_ext_disk));
}

static bool stale(const struct pass *p)
{
	return over(p->fs) || p->gen != p->fs->disks_gen || !wanted(p->fs);
}

static bool any_left(const struct fs_move_plan *p)
{
	for (unsigned d = 0; d < p->ndisks; d++)
		if (p->from[d] > 0)
			return true;
	return false;
}

static int show(struct fs *fs);
static int show_now_and_then(struct pass *p)
{
	uint64_t now = ts_exec_now(p->fs->exec);
	int rc;

	if (now < p->shown_ns + SHOW_NS || p->plan.moved == p->shown_moved)
		return 0;
	rc = show(p->fs);
	p->shown_ns = ts_exec_now(p->fs->exec);
	p->shown_moved = p->plan.moved;
	return rc;
}

static int segment(struct pass *p, uint64_t seg, fs_addr a)
{
	int rc = 0;

	for (unsigned i = 0; i < FS_SEG_INODES && !rc; i++) {
		uint64_t ino = (seg << FS_SEG_SHIFT) + i;

		if (i % READ_INODES == 0)
			rc = fs_io_read(p->fs, a + i, p->buf, READ_INODES * FS_SUB);
		if (rc || stale(p) || !any_left(&p->plan))
			break;
		rc = show_now_and_then(p);
		if (rc)
			break;
		if (!ino || !candidate(p, (struct fs_inode_disk *)(p->buf + (i % READ_INODES) * FS_SUB), a + i))
			continue;
		rc = fs_move_inode(p->fs, ino, &p->plan);
		if (rc && p->fs->run != FS_RUN_STOPPED && rc != -TS_ERR_FENCED) { /* the others go on; the bitmaps will tell */
			if (!p->failed++)
				ts_warn("%s: data of inode %llu could not be moved (%d); it is tried again", p->fs->super.name,
					(unsigned long long)ino, rc);
			rc = 0;
		}
	}
	return rc;
}

static int segments(struct pass *p)
{
	int rc = 0;

	for (uint64_t blk = 0; blk < fs_segtab_blocks(p->fs) && !rc; blk++) {
		rc = fs_segtab_glance(p->fs, blk, p->tab);
		if (rc == -EAGAIN) { /* half written; the next pass */
			rc = 0;
			continue;
		}
		for (unsigned k = 0; k < FS_SEGS_PER_BLOCK && !rc && !stale(p); k++) {
			uint64_t seg = blk * FS_SEGS_PER_BLOCK + k;
			fs_addr a = le64_get(p->tab->s[k].addr[0]);

			if (a && !fs_io_check_addr(p->fs, a, FS_SEG_INODES) && (p->deep || seg % p->n == p->rank))
				rc = segment(p, seg, a);
		}
	}
	return rc;
}

/* What it freed and took is in the bitmaps at home, so that the others' looks and the next one here see it. */
static int show(struct fs *fs)
{
	uint64_t deadline = ts_exec_now(fs->exec) + FREES_NS, coming[3];
	int rc = fs_log_force(fs, fs_log_head(fs));

	for (;;) {
		fs_space_coming(fs, coming);
		if (rc || !coming[FS_REGION_DATA] || ts_exec_now(fs->exec) >= deadline || over(fs))
			break;
		rc = fs_reaper_kick(fs);
		ts_sleep_until(ts_exec_now(fs->exec) + 50 * TS_NS_PER_MS);
	}
	for (uint32_t id = 0; id < fs->alloc->nregions && !rc && !over(fs); id++)
		if (fs->alloc->hints[id].reg && fs->alloc->hints[id].type == FS_REGION_DATA)
			rc = fs_buf_clean_resource(fs, TOK_REGION, id, false);
	return rc;
}

/* ---- the end ------------------------------------------------------------------------------------------------------ */

/* With its token, so as it is: is the disk's share of the region empty? */
static int chunk_empty(struct fs *fs, unsigned disk, uint32_t region, bool *empty)
{
	struct tok_pin pin = {0};
	struct fs_buf *b;
	int rc = tok_pin(fs->tok, TOK_REGION, region, TOK_EX, 0, TOK_END, 0, &pin);

	if (rc)
		return rc;
	rc = fs_buf_get(fs, fs_chunk_addr(fs, disk, region), FS_BT_BITMAP, TOK_REGION, region, &b);
	if (!rc) {
		const struct fs_bitmap_disk *d = fs_bitmap_of(b);

		*empty = le32_get(d->free) == le32_get(d->nsubs) - FS_CHUNK_HEAD;
		fs_buf_put(fs, b);
	}
	tok_unpin(fs->tok, &pin);
	return rc;
}

static int disk_empty(struct fs *fs, unsigned disk, bool *empty)
{
	int rc = 0;

	*empty = true;
	for (uint32_t r = 0; r < le32_get(fs->disks[disk].ent.nchunks) && *empty && !rc && !over(fs); r++)
		rc = chunk_empty(fs, disk, r, empty);
	*empty &= !over(fs);
	return rc;
}

static int drained(struct fs *fs, unsigned disk)
{
	struct tok_pin pin = {0};
	bool empty = false;
	unsigned who;
	int rc = fs_disks_lock(fs, &pin);

	if (!rc && fs_disk_state(fs, disk) == FS_DISK_DRAINING) {
		rc = fs_disks_tell(fs, &who); /* all know that nothing comes to it, before its bitmaps are looked at */
		if (!rc)
			rc = disk_empty(fs, disk, &empty);
		if (!rc && empty) /* else the frees that emptied it here are done again behind a crash, on a disk that holds nothing */
			rc = fs_log_force(fs, fs_log_head(fs));
		if (!rc && empty) {
			struct fs_disk_edit e = {.no = disk, .ent = fs->disks[disk].ent};

			e.ent.state = FS_DISK_EMPTY;
			rc = fs_disks_write(fs, &e);
			if (!rc)
				rc = fs_disks_refresh(fs);
			if (!rc)
				rc = fs_disks_tell(fs, &who);
			ts_notice("%s: disk %u is empty and can be removed", fs->super.name, disk);
		}
	}
	tok_unpin(fs->tok, &pin);
	return rc;
}

/* Its bitmaps at home are old when other nodes keep them: then they are asked for. */
static int drain_conclude(struct fs *fs, uint64_t moved)
{
	int rc = 0;

	for (unsigned d = 0; d < fs->ndisks && !rc; d++) {
		struct fs_disk_use u;

		if (fs_disk_state(fs, d) != FS_DISK_DRAINING)
			continue;
		rc = fs_disk_use_read(fs, d, &u);
		if (!rc && (!(u.used + u.meta) || !moved))
			rc = drained(fs, d);
	}
	return rc;
}

static int rebalance_conclude(struct fs *fs, const struct look *l, bool todo)
{
	struct fs_mover *m = fs->mover;
	struct fs_disk_edit e = {.no = UINT32_MAX, .set_move = true, .move_mib_s = le32_get(fs->super.move_mib_s)};
	struct tok_pin pin = {0};
	unsigned who;
	int rc;

	m->even_seen = todo ? 0 : m->even_seen + 1;
	m->stuck = l->deviation < m->best ? 0 : m->stuck + 1;
	m->best = TS_MIN(m->best, l->deviation);
	if (m->even_seen < 2 && m->stuck < STUCK_PASSES)
		return 0;
	rc = fs_disks_lock(fs, &pin);
	if (!rc && fs->super.move & FS_MOVE_REBALANCE) {
		rc = fs_disks_write(fs, &e);
		if (!rc)
			rc = fs_disks_refresh(fs);
		if (!rc)
			rc = fs_disks_tell(fs, &who);
		ts_notice("%s: rebalanced: each disk is within %llu.%llu %% of the mean", fs->super.name, (unsigned long long)(l->deviation / 10000),
			  (unsigned long long)(l->deviation / 1000 % 10));
	}
	tok_unpin(fs->tok, &pin);
	return rc;
}

static bool decides(const struct fs *fs)
{
	unsigned rank, n;

	return place(fs, &rank, &n) && rank == 0;
}

/* ---- the fiber ---------------------------------------------------------------------------------------------------- */

static int pass_run(struct fs *fs, struct pass *p, struct look *l)
{
	struct fs_mover *m = fs->mover;
	bool todo;
	int rc = look(fs, l);

	if (rc || !place(fs, &p->rank, &p->n))
		return rc;
	p->gen = fs->disks_gen;
	p->shown_ns = ts_exec_now(fs->exec);
	p->deep = m->deep;
	todo = plan_make(fs, l, p->n, &p->plan);
	m->paced_moved = 0;
	m->paced_from = ts_exec_now(fs->exec);
	if (todo)
		rc = segments(p);
	fs_mover_pace(fs, p->plan.moved);
	if (!rc && p->plan.moved)
		rc = show(fs);
	m->passes++;
	m->deep = p->plan.all && !p->plan.moved && !p->deep;
	if (rc || stale(p) || !decides(fs))
		return rc;
	return p->plan.all ? drain_conclude(fs, p->plan.moved) : rebalance_conclude(fs, l, todo);
}

static void pass(struct fs *fs)
{
	struct fs_mover *m = fs->mover;
	struct pass *p = ts_alloc(sizeof(*p));
	struct look *l = ts_alloc(sizeof(*l));
	int rc = p && l ? 0 : -ENOMEM;

	if (p) {
		p->fs = fs;
		p->buf = ts_alloc_aligned(FS_SUB, READ_INODES * FS_SUB);
		p->tab = ts_alloc(sizeof(*p->tab));
		if (!p->buf || !p->tab)
			rc = -ENOMEM;
	}
	if (!rc)
		rc = pass_run(fs, p, l);
	if (rc && !over(fs) && rc != -TS_ERR_FENCED && !m->told)
		ts_warn("%s: moving data between disks is interrupted (%d) and tried again", fs->super.name, rc);
	m->told = rc != 0;
	if (p) {
		ts_free(p->buf);
		ts_free(p->tab);
	}
	ts_free(p);
	ts_free(l);
}

static void mover_fiber(void *arg)
{
	struct fs *fs = arg;
	struct fs_mover *m = fs->mover;

	while (!over(fs)) {
		if (!wanted(fs) || fs->run != FS_RUN_LIVE || fs->suspended) {
			m->deep = false;
			m->even_seen = m->stuck = 0;
			m->best = UINT64_MAX;
			if (!wanted(fs))
				ts_cond_wait(&m->wake, "data to move between disks", fs->disks_gen, 0);
			else
				ts_cond_wait_until(&m->wake, ts_exec_now(fs->exec) + AFTER_NS, "the mount, to move data", 0, 0);
			continue;
		}
		pass(fs);
		ts_cond_wait_until(&m->wake, ts_exec_now(fs->exec) + AFTER_NS, "the next pass over the inodes", m->passes, 0);
	}
	ts_group_done(&fs->background, 0);
}

int fs_mover_start(struct fs *fs)
{
	int rc;

	fs->mover = ts_alloc(sizeof(*fs->mover));
	if (!fs->mover)
		return -ENOMEM;
	ts_cond_init(&fs->mover->wake);
	fs->mover->best = UINT64_MAX;
	ts_group_add(&fs->background);
	rc = ts_fiber_spawn(fs->exec, "mover", mover_fiber, fs);
	if (rc)
		ts_group_done(&fs->background, rc);
	return rc;
}

void fs_mover_fini(struct fs *fs)
{
	ts_free(fs->mover);
	fs->mover = NULL;
}
