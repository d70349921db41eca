/* SPDX-License-Identifier: Apache-2.0 */
/* Job: where the blocks of a file are to be: the layout in its inode (pool, number of disks), or in its directory's for what is made in it.
 * Told and changed by calls and by the attribute FS_XATTR_LAYOUT; and files that go from one pool to another.
 *
 *           set (no blocks)                         migrate                          all blocks are there
 *   in P ------------------> in Q         in P -----------------> in Q, ELSEWHERE ------------------------> in Q
 *
 * Law: a data block lies on a disk of its file's pool, or the inode says ELSEWHERE. New blocks come to the pool at once.
 * What must never happen: a pool changed while blocks that nobody has mapped yet wait for their transaction (whoever changes it has DATA EX
 * and INODE EX, and all is written back before); ELSEWHERE taken away while a block is. */
#include "fs/alloc_int.h"
#include "fs/data_int.h"
#include "fs/disks.h"
#include "fs/layout.h"
#include "fs/take.h"

#include <stdarg.h>
#include <stdio.h>

/* ---- words --------------------------------------------------------------------------------------------------------- */

int fs_layout_text(struct fs *fs, const struct fs_inode_disk *d, char *buf, size_t n)
{
	return snprintf(buf, n, "pool=%s stripe=%u", fs_pool_name_of(&fs->super, fs_pool_known(fs, d->pool)), d->stripe);
}

/* "pool=NAME stripe=N", or one of the two. */
int fs_layout_parse(const char *text, size_t len, struct fs_layout_set *out)
{
	char buf[96], *save = NULL, *end;
	bool any = false;

	*out = (struct fs_layout_set){.stripe = -1};
	if (len >= sizeof(buf) || memchr(text, 0, len))
		return -EINVAL;
	memcpy(buf, text, len);
	buf[len] = 0;
	for (char *w = strtok_r(buf, " \n", &save); w; w = strtok_r(NULL, " \n", &save)) {
		if (!strncmp(w, "pool=", 5) && w[5] && strlen(w + 5) < sizeof(out->pool)) {
			memcpy(out->pool, w + 5, strlen(w + 5) + 1);
		} else if (!strncmp(w, "stripe=", 7) && w[7] >= '0' && w[7] <= '9') {
			unsigned long v = strtoul(w + 7, &end, 10);

			if (*end || v > FS_STRIPE_MAX)
				return -EINVAL;
			out->stripe = (int)v;
		} else {
			return -EINVAL;
		}
		any = true;
	}
	return any ? 0 : -EINVAL;
}

/* ---- blocks -------------------------------------------------------------------------------------------------------- */

enum where { WHERE_ANY, WHERE_OUTSIDE };

/* Is there a block, or one outside of that pool? INODE EX pinned, everything mapped. */
static int has_block(struct fs *fs, struct fs_inode *ip, enum where w, unsigned pool, bool *out)
{
	struct data_file *df = fs_map_is_tree(ip) ? data_use(fs, ip) : NULL;
	struct fs_bmap bm;
	uint64_t idx = 0;
	unsigned turns = 0;
	int rc = 0;

	*out = false;
	if (!df)
		return fs_map_is_tree(ip) ? -ENOMEM : 0;
	for (;; idx++) {
		rc = fs_map_next(fs, df, idx, &idx);
		if (rc || idx == UINT64_MAX)
			break;
		rc = fs_map_lookup(fs, df, idx, &bm);
		*out = !rc && bm.addr && (w == WHERE_ANY || fs_disk_pool(fs, FS_ADDR_DISK(bm.addr)) != pool);
		if (rc || *out)
			break;
		if (++turns % 64 == 0)
			ts_fiber_yield();
	}
	data_unuse(fs, df);
	return rc;
}

static bool pending(const struct fs_inode *ip)
{
	const struct data_file *df = ip->data;

	return df && df->taken;
}

/* ---- changing ------------------------------------------------------------------------------------------------------ */

struct change {
	uint64_t ino;
	const struct fs_layout_set *set;
	bool migrate;
	bool with_data;
	unsigned pool; /* out: of the file now */
	bool done;     /* out: nothing is left to be moved */
	void (*step)(void *arg, uint64_t bytes);
	void *arg;
};

static int write_it(struct fs *fs, struct fs_inode *ip, unsigned pool, int stripe, uint8_t flags)
{
	struct fs_inode_disk *d = fs_idisk(ip);
	struct fs_tx tx;
	int rc;

	if (d->pool == pool && (stripe < 0 || d->stripe == stripe) && d->place_flags == flags)
		return 0;
	rc = fs_log_reserve(fs, 0);
	if (rc)
		return rc;
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, ip->buf);
	d->pool = (uint8_t)pool;
	if (stripe >= 0)
		d->stripe = (uint8_t)stripe;
	d->place_flags = flags;
	ip->ctime_ns = fs_now_ns(fs);
	fs_inode_update_tx(fs, &tx, ip);
	fs_tx_commit(&tx);
	return 0;
}

/* Everything pinned that has to be. */
static int file_change(struct fs *fs, struct fs_inode *ip, struct change *c, unsigned pool)
{
	struct fs_inode_disk *d = fs_idisk(ip);
	uint8_t flags = d->place_flags;
	bool any = false;
	int rc;

	if (pool == fs_pool_known(fs, d->pool) && !c->migrate)
		return write_it(fs, ip, d->pool, c->set->stripe, flags); /* for new blocks; those that are there stay where they are */
	if (!c->with_data)
		return -TS_ERR_MOVED;
	rc = c->migrate ? fs_data_writeback(fs, ip) : 0;
	if (!rc)
		rc = has_block(fs, ip, c->migrate ? WHERE_OUTSIDE : WHERE_ANY, pool, &any);
	if (rc)
		return rc;
	any |= pending(ip);
	if (any && !c->migrate)
		return -EBUSY;
	c->done = !any;
	return write_it(fs, ip, pool, c->set->stripe, any ? FS_PF_ELSEWHERE : 0);
}

static int change_pinned(struct fs *fs, struct fs_inode *ip, struct change *c)
{
	struct fs_inode_disk *d = fs_idisk(ip);
	unsigned mode = le16_get(d->mode), pool = fs_pool_known(fs, d->pool);
	int rc = 0;

	if (le32_get(d->flags) & (FS_IF_IMMUTABLE | FS_IF_APPEND))
		return -EPERM;
	if (c->set->pool[0])
		rc = fs_pool_by_name(&fs->super, c->set->pool, &pool);
	if (rc)
		return rc;
	if (!(le64_get(fs->super.feat_incompat) & FS_FEAT_POOLS) && (pool || c->set->stripe > 0))
		return -EOPNOTSUPP; /* made before there were layouts, and it has got no pool since */
	c->pool = pool;
	if (S_ISDIR(mode) && !c->migrate)
		return write_it(fs, ip, pool, c->set->stripe, 0);
	return S_ISREG(mode) ? file_change(fs, ip, c, pool) : -EOPNOTSUPP;
}

static int change_once(struct fs_take *t, void *arg)
{
	struct change *c = arg;
	struct fs_inode *ip;
	int rc;

	if (c->with_data)
		fs_take_add(t, TOK_DATA, c->ino, TOK_EX);
	fs_take_add(t, TOK_INODE, c->ino, TOK_EX);
	rc = fs_take_all(t);
	if (!rc)
		rc = fs_inode_get(t->fs, c->ino, &ip);
	if (rc)
		return rc;
	fs_inode_values(t->fs, ip);
	rc = change_pinned(t->fs, ip, c);
	fs_inode_put(t->fs, ip);
	if (rc == -TS_ERR_MOVED) {
		c->with_data = true;
		rc = -TS_ERR_RETRY;
	}
	return rc;
}

int fs_layout_set(struct fs *fs, uint64_t ino, const struct fs_layout_set *s)
{
	struct change c = {.ino = ino, .set = s};

	if (fs->args.read_only)
		return -EROFS;
	if (s->stripe > (int)FS_STRIPE_MAX)
		return -EINVAL;
	return fs_take_run(fs, false, change_once, &c);
}

int fs_layout_get(struct fs *fs, uint64_t ino, struct fs_layout *out)
{
	struct tok_pin pin = {0};
	struct fs_inode *ip;
	int rc = tok_pin(fs->tok, TOK_INODE, ino, TOK_SH, 0, TOK_END, 0, &pin);

	*out = (struct fs_layout){.block_size = fs->block_size};
	if (rc)
		return rc;
	rc = fs_inode_get(fs, ino, &ip);
	if (!rc) {
		const struct fs_inode_disk *d = fs_idisk(ip);

		out->dir = S_ISDIR(le16_get(d->mode));
		if (!out->dir && !S_ISREG(le16_get(d->mode)))
			rc = -EOPNOTSUPP;
		snprintf(out->pool, sizeof(out->pool), "%s", fs_pool_name_of(&fs->super, fs_pool_known(fs, d->pool)));
		out->stripe = d->stripe;
		out->elsewhere = d->place_flags & FS_PF_ELSEWHERE;
		fs_inode_put(fs, ip);
	}
	tok_unpin(fs->tok, &pin);
	return rc;
}

/* ---- from pool to pool --------------------------------------------------------------------------------------------- */

#define PASSES 3 /* what is written meanwhile comes to the new pool at once: one finds everything */

static int plan_for(struct fs *fs, unsigned pool, struct fs_move_plan *p)
{
	struct fs_disk_use u;
	int rc = 0;

	*p = (struct fs_move_plan){.ndisks = TS_MIN(fs->ndisks, FS_DISKS_ONLINE), .unpaced = true};
	for (unsigned d = 0; d < p->ndisks && !rc; d++) {
		if (!fs_disk_holds(fs, d))
			continue;
		if (fs_disk_pool(fs, d) != pool) {
			p->from[d] = INT64_MAX;
		} else if (fs_disk_takes(fs, d, FS_REGION_DATA)) {
			rc = fs_disk_use_read(fs, d, &u);
			p->room[d] = u.room > u.used ? (int64_t)(u.room - u.used) : 0;
		}
	}
	return rc;
}

static int migrate(struct fs *fs, struct change *c, uint64_t *moved)
{
	struct fs_move_plan *p = ts_alloc(sizeof(*p));
	int rc = p ? 0 : -ENOMEM;

	for (unsigned i = 0; !rc && !c->done && i < PASSES; i++) {
		c->with_data = false;
		rc = fs_take_run(fs, false, change_once, c);
		if (rc || c->done)
			break;
		rc = plan_for(fs, c->pool, p);
		p->step = c->step;
		p->arg = c->arg;
		if (!rc)
			rc = fs_move_inode(fs, c->ino, p);
		*moved += p->moved * FS_SUB;
	}
	if (!rc && !c->done) { /* look once more */
		rc = fs_take_run(fs, false, change_once, c);
		rc = !rc && !c->done ? -ENOSPC : rc;
	}
	ts_free(p);
	return rc;
}

int fs_layout_migrate(struct fs *fs, uint64_t ino, const char *pool, void (*step)(void *arg, uint64_t bytes), void *arg, uint64_t *moved)
{
	struct fs_layout_set s = {.stripe = -1};
	struct change c = {.ino = ino, .set = &s, .migrate = true, .step = step, .arg = arg};
	int rc;

	*moved = 0;
	if (pool && strlen(pool) >= sizeof(s.pool))
		return -ENOENT;
	if (pool)
		memcpy(s.pool, pool, strlen(pool) + 1);
	if (fs->args.read_only)
		return -EROFS;
	if (!fs_disks_enter(fs))
		return -ESHUTDOWN;
	rc = migrate(fs, &c, moved);
	ts_group_done(&fs->background, 0);
	return rc;
}

/* ---- pools --------------------------------------------------------------------------------------------------------- */

int fs_pools_get(struct fs *fs, struct fs_pool_info out[FS_POOLS_MAX])
{
	struct fs_pool_room room[FS_POOLS];
	int rc;

	_Static_assert(FS_POOLS_MAX == FS_POOLS && FS_POOL_NAME_BYTES == FS_POOL_NAME, "what is told outside is what is on disk");
	if (!fs_disks_enter(fs))
		return -ESHUTDOWN;
	rc = fs_pools_room(fs, room);
	for (unsigned p = 0; p < FS_POOLS && !rc; p++) {
		const char *name = fs_pool_name_of(&fs->super, p);

		out[p] = (struct fs_pool_info){.disks = room[p].disks, .size_bytes = room[p].total * FS_SUB, .free_bytes = room[p].free * FS_SUB};
		snprintf(out[p].name, sizeof(out[p].name), "%s", name ? name : "");
	}
	ts_group_done(&fs->background, 0);
	return rc;
}
