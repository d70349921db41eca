/* SPDX-License-Identifier: Apache-2.0 */
/* Job: file data of one inode goes from some disks to others, block by block: taken there, read, written, and one transaction puts the
 * new pointer in and frees the old place. What must never happen: a byte of a file changes; what was decided before the tokens were
 * held is believed after (each block is looked at again under DATA EX and INODE EX); a pin held while space is looked for. */
#include "fs/data_int.h"
#include "fs/disks.h"
#include "fs/xattr_int.h"

#define BATCH	 8u  /* blocks moved under one set of pins */
#define REACH	 64u /* blocks pinned for them */
#define TRIES	 16u

struct mover {
	struct fs *fs;
	struct fs_move_plan *p;
	uint64_t ino, cursor; /* blocks below are done */
	unsigned need_disk;   /* -ENOSPC: of regions owned here; get some there */
	uint32_t need_subs;
	unsigned tries, pool; /* pool: of the file, as of now */
};

static bool leaves(const struct fs_move_plan *p, unsigned disk)
{
	return disk < p->ndisks && p->from[disk] > 0;
}

/* Values of attributes are few: they make room for nothing, and move only when a disk is to be empty. */
static bool leaves_all(const struct fs_move_plan *p, unsigned disk)
{
	return disk < p->ndisks && p->from[disk] == INT64_MAX;
}

/* Where most may come, of the file's pool; -1: nowhere. */
static int best_dest(const struct mover *m, const bool *tried)
{
	const struct fs_move_plan *p = m->p;
	int best = -1;

	for (unsigned d = 0; d < p->ndisks; d++)
		if (!tried[d] && p->room[d] > 0 && fs_disk_pool(m->fs, d) == m->pool && (best < 0 || p->room[d] > p->room[best]))
			best = (int)d;
	return best;
}

static int take_dest(struct mover *m, uint32_t subs, struct fs_ext *e)
{
	bool *tried = ts_alloc(m->p->ndisks);
	int d = -1, first = -1, rc = tried ? -ENOSPC : -ENOMEM;

	while (rc == -ENOSPC && (d = best_dest(m, tried)) >= 0) {
		first = first < 0 ? d : first;
		tried[d] = true;
		rc = fs_alloc_take_on(m->fs, subs, (unsigned)d, e);
	}
	if (rc == -ENOSPC && first >= 0) {
		m->need_disk = (unsigned)first;
		m->need_subs = subs;
		rc = -(FS_NEED_SPACE + (int)m->pool);
	}
	ts_free(tried);
	return rc == -ENOSPC && !m->p->all ? -ENODATA : rc; /* the others are as full as they should be */
}

static void account(struct mover *m, unsigned from, const struct fs_ext *e)
{
	struct fs_move_plan *p = m->p;
	unsigned to = FS_ADDR_DISK(e->addr);

	if (p->from[from] != INT64_MAX)
		p->from[from] -= e->subs;
	if (to < p->ndisks)
		p->room[to] -= e->subs;
	p->moved += e->subs;
}

/* Its new place is taken and its pages are on their way there. 1: begun, 0: nothing to do. */
static int block_begin(struct mover *m, struct data_blk *b)
{
	struct fs *fs = m->fs;
	struct fs_ext e;
	unsigned from;
	int rc = data_blk_known(fs, b);

	if (!rc && (b->ndirty || b->next != NEXT_NONE))
		rc = data_blk_flush(fs, b);
	if (!rc)
		rc = data_blk_settled(fs, b);
	if (rc || !b->map.addr || b->next != NEXT_NONE || !leaves(m->p, from = FS_ADDR_DISK(b->map.addr)))
		return rc;
	rc = take_dest(m, b->map.subs, &e);
	if (rc)
		return rc;
	if (b->map.unwritten) {
		data_blk_plan(b, NEXT_FRESH, &e);
		b->unwritten = b->ready = true;
		b->wave_seq = ++fs->datas->seq;
		data_blk_active(fs, b);
	} else {
		rc = data_blk_move(fs, b, &e);
		if (rc)
			return rc == -TS_ERR_RETRY ? 0 : rc; /* the next pass sees it again */
		if (!b->ndirty) { /* all of it behind the end of the file */
			data_blk_release(fs, b);
			return 0;
		}
		data_wave_start(fs, b);
	}
	account(m, from, &e);
	return 1;
}

/* Everything is pinned. *next: blocks before it are done. */
static int range_move(struct mover *m, struct data_file *df, uint64_t last, uint64_t *next)
{
	struct data_blk *v[BATCH];
	unsigned n = 0;
	int rc = 0;

	while (!rc && n < BATCH && *next <= last) {
		uint64_t idx = 0;
		struct data_blk *b;

		rc = fs_map_next(m->fs, df, *next, &idx);
		if (rc || idx > last) {
			*next = rc ? *next : last + 1;
			break;
		}
		b = data_blk_get(m->fs, df, idx);
		if (!b)
			rc = -ENOMEM;
		else
			rc = block_begin(m, b);
		if (rc == 1)
			v[n++] = b;
		else if (b)
			data_blk_put(m->fs, b);
		if (rc >= 0)
			*next = idx + 1;
		rc = TS_MIN(rc, 0);
	}
	for (unsigned i = 0; i < n; i++) {
		int rc2 = data_blk_flush(m->fs, v[i]);

		rc = rc2 ? rc2 : rc;
		data_blk_put(m->fs, v[i]);
	}
	return rc;
}

static int with_inode(struct mover *m, enum tok_mode mode, struct tok_pin *pin, struct fs_inode **ip, struct data_file **df)
{
	int rc = tok_pin(m->fs->tok, TOK_INODE, m->ino, mode, 0, TOK_END, 0, pin);

	*df = NULL;
	if (rc)
		return rc;
	rc = fs_inode_get(m->fs, m->ino, ip);
	if (!rc) {
		fs_inode_values(m->fs, *ip);
		m->pool = fs_pool_known(m->fs, fs_idisk(*ip)->pool);
		*df = S_ISREG(le16_get(fs_idisk(*ip)->mode)) && fs_map_is_tree(*ip) ? data_use(m->fs, *ip) : NULL;
		if (*df)
			return 0;
		fs_inode_put(m->fs, *ip);
		rc = -ESTALE; /* nothing of it can be moved */
	}
	tok_unpin(m->fs->tok, pin);
	return rc;
}

static void without_inode(struct mover *m, struct tok_pin *pin, struct fs_inode *ip, struct data_file *df)
{
	data_unuse(m->fs, df);
	fs_inode_put(m->fs, ip);
	tok_unpin(m->fs->tok, pin);
}

/* The next block that is to go, with nobody disturbed; UINT64_MAX: none. */
static int find_next(struct mover *m, uint64_t *idx, bool *mapped)
{
	struct tok_pin pin = {0};
	struct fs_inode *ip;
	struct data_file *df;
	unsigned turns = 0;
	int rc = with_inode(m, TOK_SH, &pin, &ip, &df);

	*idx = m->cursor;
	if (rc)
		return rc;
	*mapped = ip->maps;
	for (;;) {
		struct fs_bmap bm;

		rc = fs_map_next(m->fs, df, *idx, idx);
		if (rc || *idx == UINT64_MAX)
			break;
		rc = fs_map_lookup(m->fs, df, *idx, &bm);
		if (rc || (bm.addr && leaves(m->p, FS_ADDR_DISK(bm.addr))))
			break;
		++*idx;
		if (++turns % 64 == 0)
			ts_fiber_yield();
	}
	without_inode(m, &pin, ip, df);
	return rc;
}

static int move_some(struct mover *m)
{
	uint64_t bs = m->fs->block_size, idx, last, next;
	struct tok_pin data = {0}, inode = {0};
	struct fs_inode *ip;
	struct data_file *df;
	bool mapped = false;
	int rc = find_next(m, &idx, &mapped);

	if (rc || idx == UINT64_MAX)
		return rc ? rc : -ESTALE;
	last = TS_MIN(idx + REACH - 1, FS_MAX_SIZE / bs);
	if (mapped) /* dirty pages come through the kernel, and their file's token leaves as a whole */
		rc = tok_pin(m->fs->tok, TOK_DATA, m->ino, TOK_EX, 0, TOK_END, 0, &data);
	else
		rc = tok_pin(m->fs->tok, TOK_DATA, m->ino, TOK_EX, idx * bs, (last + 1) * bs - 1, 0, &data);
	if (rc)
		return rc;
	rc = with_inode(m, TOK_EX, &inode, &ip, &df);
	if (!rc) {
		next = idx;
		rc = range_move(m, df, last, &next);
		m->tries = next > m->cursor ? 0 : m->tries;
		m->cursor = next;
		without_inode(m, &inode, ip, df);
	}
	tok_unpin(m->fs->tok, &data);
	return rc;
}

/* ---- attributes with values of their own ---------------------------------------------------------------------------- */

static bool first_leaving(struct mover *m, const struct fs_xattr_set *s, struct fs_xattr_at *at)
{
	struct ts_rd r;

	for (unsigned i = 0; fs_xattr_part(s, i, &r); i++)
		while (fs_xattr_next(&r, at))
			if (at->flags & FS_XE_EXT && leaves_all(m->p, FS_ADDR_DISK(fs_xattr_ext_addr(at))))
				return true;
	return false;
}

/* INODE EX pinned. The value is set again: its new place is one that new things go to. ctime stays. */
static int xattr_move(struct mover *m, struct fs_inode *ip, struct fs_xattr_set *s, bool *more)
{
	struct fs_xattr_at at;
	char name[FS_NAME_MAX + 1];
	int64_t ctime = ip->ctime_ns;
	uint8_t *value;
	size_t len;
	int rc = fs_xattr_load(m->fs, ip, s);

	*more = !rc && first_leaving(m, s, &at);
	if (!*more)
		return rc;
	len = fs_xattr_len(&at);
	value = ts_alloc(TS_MAX(len, (size_t)1));
	rc = value ? fs_xattr_value(m->fs, ip, &at, value) : -ENOMEM;
	memcpy(name, at.name, at.name_len);
	name[at.name_len] = 0;
	if (!rc)
		rc = fs_xattr_change(m->fs, ip, s, name, value, len, NULL);
	if (!rc) {
		m->p->moved += (len + FS_SUB - 1) / FS_SUB;
		ip->ctime_ns = ctime;
		fs_inode_lazy(m->fs, ip);
	}
	ts_free(value);
	return rc;
}

static int xattrs_some(struct mover *m)
{
	struct fs_xattr_set *s = ts_alloc(sizeof(*s));
	struct tok_pin pin = {0};
	struct fs_inode *ip;
	bool more = true;
	int rc = s ? tok_pin(m->fs->tok, TOK_INODE, m->ino, TOK_EX, 0, TOK_END, 0, &pin) : -ENOMEM;

	if (!rc)
		rc = fs_inode_get(m->fs, m->ino, &ip);
	if (!rc) {
		uint32_t flags = le32_get(fs_idisk(ip)->flags);

		if (!le16_get(fs_idisk(ip)->xattr_len) && !(flags & FS_IF_XATTR_BLOCK))
			more = false;
		while (!rc && more) {
			rc = xattr_move(m, ip, s, &more);
			fs_xattr_unload(m->fs, s);
		}
		fs_inode_put(m->fs, ip);
	}
	tok_unpin(m->fs->tok, &pin);
	ts_free(s);
	return rc;
}

/* ---- one inode ---------------------------------------------------------------------------------------------------- */

/* No pins held. What the step needs is got, or it is given up. */
static int get_room(struct mover *m, int rc)
{
	if (++m->tries > TRIES)
		return -ENOSPC;
	if (fs_needs_space(rc) && m->need_subs) {
		rc = fs_alloc_refill_on(m->fs, m->need_disk, m->need_subs);
		if (rc == -ENOSPC)
			m->p->room[m->need_disk] = 0; /* another disk, then */
		m->need_subs = 0;
		return rc == -ENOSPC ? 0 : rc;
	}
	return fs_alloc_refill(m->fs, rc);
}

static int run(struct mover *m, int (*some)(struct mover *m))
{
	int rc = 0;

	while (!rc && m->fs->run != FS_RUN_STOPPED && !m->fs->stopping_threads) {
		if (!m->p->unpaced)
			fs_mover_pace(m->fs, m->p->moved);
		rc = some(m);
		if (fs_needs_space(rc) || rc == -FS_NEED_META)
			rc = get_room(m, rc);
		else if (!rc && some == xattrs_some)
			break;
		if (m->p->step)
			m->p->step(m->p->arg, m->p->moved * FS_SUB);
	}
	return rc;
}

int fs_move_inode(struct fs *fs, uint64_t ino, struct fs_move_plan *p)
{
	struct mover m = {.fs = fs, .p = p, .ino = ino};
	int rc = run(&m, move_some), rc2;

	m.tries = 0;
	rc2 = p->all ? run(&m, xattrs_some) : 0;
	for (unsigned d = 0; d < p->ndisks && rc == -ENODATA; d++)
		p->from[d] = fs_disk_pool(fs, d) == m.pool ? 0 : p->from[d];
	if (rc == -ESTALE || rc == -ENODATA)
		rc = 0;
	if (rc2 == -ESTALE || rc2 == -EUCLEAN)
		rc2 = 0;
	return rc ? rc : rc2;
}

int fs_file_places(struct fs *fs, uint64_t ino, uint64_t **bytes, unsigned *ndisks)
{
	struct fs_move_plan *none = ts_alloc(sizeof(*none));
	struct mover m = {.fs = fs, .p = none, .ino = ino};
	struct tok_pin pin = {0};
	struct fs_inode *ip;
	struct data_file *df;
	uint64_t idx = 0;
	unsigned turns = 0;
	int rc;

	*ndisks = fs->ndisks;
	*bytes = NULL;
	if (!fs_disks_enter(fs)) {
		ts_free(none);
		return -ESHUTDOWN;
	}
	*bytes = ts_alloc(fs->ndisks * sizeof(**bytes));
	rc = none && *bytes ? with_inode(&m, TOK_SH, &pin, &ip, &df) : -ENOMEM;
	if (!rc) {
		for (;; idx++) {
			struct fs_bmap bm;

			rc = fs_map_next(fs, df, idx, &idx);
			if (rc || idx == UINT64_MAX)
				break;
			rc = fs_map_lookup(fs, df, idx, &bm);
			if (rc)
				break;
			if (bm.addr && FS_ADDR_DISK(bm.addr) < *ndisks)
				(*bytes)[FS_ADDR_DISK(bm.addr)] += (uint64_t)bm.subs * FS_SUB;
			if (++turns % 64 == 0)
				ts_fiber_yield();
		}
		without_inode(&m, &pin, ip, df);
	}
	ts_group_done(&fs->background, 0);
	if (rc == -ESTALE)
		rc = 0; /* in its inode, or no file: nothing on any disk of its own */
	if (rc) {
		ts_free(*bytes);
		*bytes = NULL;
	}
	ts_free(none);
	return rc;
}
