/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the disks as this node knows them, brought up to what disk 0 says: at the mount, and whenever another node says that they changed.
 * What must never happen: a disk closed that something may still lie on; a disk taken from before all nodes have it open (K1). */
#include "fs/alloc_int.h"
#include "fs/disks.h"

#include <stdio.h>

#define ASK_NS	 (30 * TS_NS_PER_S)
#define AGAIN_NS (50 * TS_NS_PER_MS)

enum fs_disk_state fs_disk_state(const struct fs *fs, unsigned disk)
{
	const struct fs_disk_ent_disk *e = disk < fs->ndisks ? &fs->disks[disk].ent : NULL;

	return !e || fs_disk_ent_none(e) ? FS_DISK_GONE : e->state;
}

unsigned fs_pool_known(const struct fs *fs, unsigned pool)
{
	return fs_pool_name_of(&fs->super, pool) ? pool : 0;
}

unsigned fs_disk_pool(const struct fs *fs, unsigned disk)
{
	return disk < fs->ndisks ? fs_pool_known(fs, fs->disks[disk].ent.pool) : 0;
}

bool fs_disk_holds(const struct fs *fs, unsigned disk)
{
	enum fs_disk_state s = fs_disk_state(fs, disk);

	return s == FS_DISK_READY || s == FS_DISK_DRAINING;
}

/* ---- taking over what disk 0 says --------------------------------------------------------------------------------- */

static int attach(struct fs *fs, unsigned no, const struct fs_disk_ent_disk *e)
{
	const struct fs_mount_args *a = &fs->args;
	char url[FS_DISKURL_BYTES];
	struct nsd_dev *dev = NULL;
	int rc = a->disk_open ? fs_diskurl_read(fs->disks[0].dev, fs->super.fs_id, no, url) : -ENODEV;

	if (!rc)
		rc = a->disk_open(a->disk_arg, no, e->uuid, url, &dev);
	if (!rc && le64_get(e->size_subs) > nsd_info(dev)->size_bytes / FS_SUB) {
		a->disk_close(a->disk_arg, no, dev);
		rc = -ENOSPC;
	}
	if (rc) {
		ts_err("%s: disk %u (%s) joins the file system and cannot be opened here: %s", fs->super.name, no, url[0] ? url : "place not told",
		       strerror(-rc));
		return rc;
	}
	fs->disks[no].dev = dev;
	return 0;
}

static void detach(struct fs *fs, unsigned no)
{
	struct fs_disk *d = &fs->disks[no];
	struct nsd_dev *dev = d->dev;

	d->dev = NULL;
	d->flushed_gen = d->write_gen;
	d->data_gen = 0;
	if (dev && fs->args.disk_close)
		fs->args.disk_close(fs->args.disk_arg, no, dev);
}

static bool wants_dev(const struct fs_disk_ent_disk *e)
{
	return !fs_disk_ent_none(e) && e->state != FS_DISK_GONE;
}

/* The disk is as large as its entry says, as this node sees it. */
static int grown(struct fs *fs, unsigned no, const struct fs_disk_ent_disk *e)
{
	struct nsd_dev *dev = fs->disks[no].dev;
	int rc = le64_get(e->size_subs) <= nsd_info(dev)->size_bytes / FS_SUB ? 0 : nsd_resize(dev);

	if (!rc && le64_get(e->size_subs) > nsd_info(dev)->size_bytes / FS_SUB)
		rc = -ENOSPC;
	if (rc)
		ts_err("%s: disk %u has grown, and this node sees %llu MiB of it, not %llu (%s); look whether its path knows the new size", fs->super.name, no,
		       (unsigned long long)(nsd_info(dev)->size_bytes >> 20), (unsigned long long)(le64_get(e->size_subs) >> 8), strerror(abs(rc)));
	return rc;
}

/* One number. Something that may lie on it is reached from now on, or nothing can any more. */
static int take_over(struct fs *fs, unsigned no, const struct fs_disk_ent_disk *e, bool *changed)
{
	struct fs_disk *d = &fs->disks[no];
	bool known = no < fs->ndisks;
	int rc = 0;

	if (known && !memcmp(&d->ent, e, sizeof(*e)) && (d->dev || !wants_dev(e)))
		return 0;
	if (fs_disk_ent_wrong(&fs->super, e, 0))
		return -EUCLEAN;
	*changed = true;
	if (wants_dev(e))
		rc = d->dev ? grown(fs, no, e) : attach(fs, no, e);
	if (rc && (e->state == FS_DISK_JOINING || e->state == FS_DISK_EMPTY)) { /* nothing is there yet: K1 makes them ask again */
		d->ent = *e;
		return rc;
	}
	if (rc)
		return rc;
	d->ent = *e;
	return 0;
}

static int read_table(struct fs *fs, struct fs_super_disk *s, struct fs_disk_ent_disk **out)
{
	struct fs_disktab_disk *t = ts_alloc(sizeof(*t));
	struct fs_disk_ent_disk *v = NULL;
	uint32_t n = 0;
	int rc = t ? fs_supertab_read(fs->disks[0].dev, fs->super.fs_id, s) : -ENOMEM;

	if (!rc) {
		n = le32_get(s->ndisks);
		if (le32_get(s->nregions) > (fs->alloc ? fs->alloc->room : UINT32_MAX))
			rc = -EFBIG;
		else if (fs_pools_wrong(s) || le32_get(s->nregions) < le32_get(fs->super.nregions) || n < fs->ndisks || n > TS_MAX(fs->ndisks, FS_DISKS_ONLINE))
			rc = -EUCLEAN;
	}
	if (!rc) {
		v = ts_alloc(n * sizeof(*v));
		rc = v ? 0 : -ENOMEM;
	}
	for (uint32_t i = 0; i < n && !rc; i++) {
		if (i % FS_DISKS_PER_BLOCK == 0)
			rc = fs_disktab_read(fs->disks[0].dev, fs->super.fs_id, i / FS_DISKS_PER_BLOCK, t);
		if (!rc)
			v[i] = t->d[i % FS_DISKS_PER_BLOCK];
	}
	ts_free(t);
	if (rc)
		ts_free(v);
	else
		*out = v;
	return rc;
}

/* K1 and K3 need it done when this returns: nobody here takes from, or looks at, what is not to be used. Waits for tokens. */
static int settle(struct fs *fs)
{
	int rc = 0;

	ts_mutex_lock(&fs->settle_lock, "space of disks to be settled");
	while (fs->settled_gen != fs->disks_gen && !rc) {
		uint64_t gen = fs->disks_gen;

		rc = fs_alloc_disks_changed(fs);
		for (unsigned i = 0; i < fs->ndisks && !rc && gen == fs->disks_gen; i++)
			if (fs->disks[i].dev && !wants_dev(&fs->disks[i].ent))
				detach(fs, i);
		if (!rc)
			fs->settled_gen = gen;
	}
	ts_mutex_unlock(&fs->settle_lock);
	return rc;
}

static int refresh_locked(struct fs *fs)
{
	struct fs_super_disk *s = ts_alloc(sizeof(*s));
	struct fs_disk_ent_disk *v = NULL;
	bool changed = false;
	int first = 0, rc = s ? read_table(fs, s, &v) : -ENOMEM;

	if (!rc) {
		uint32_t n = le32_get(s->ndisks);

		fs_version_raise(fs, le64_get(s->h.version));
		fs->super.feat_incompat = s->feat_incompat; /* the entries are judged by them */
		memcpy(fs->super.pool, s->pool, sizeof(s->pool));
		fs->super.nregions = s->nregions;
		if (fs->alloc)
			fs->alloc->nregions = le32_get(s->nregions);
		for (unsigned i = 0; i < n; i++) {
			if (i >= fs->ndisks)
				memset(&fs->disks[i].ent, 0, sizeof(fs->disks[i].ent));
			rc = take_over(fs, i, &v[i], &changed);
			first = first ? first : rc;
			if (i >= fs->ndisks)
				fs->ndisks = i + 1;
		}
		fs->super = *s;
		rc = 0;
		if (changed)
			fs->disks_gen++;
		fs_mover_wake(fs);
	}
	ts_free(v);
	ts_free(s);
	return rc ? rc : first;
}

int fs_disks_learn(struct fs *fs)
{
	int rc;

	ts_mutex_lock(&fs->disks_lock, "the disk table");
	rc = refresh_locked(fs);
	ts_mutex_unlock(&fs->disks_lock);
	return rc;
}

int fs_disks_refresh(struct fs *fs)
{
	int rc = fs_disks_learn(fs), rc2 = settle(fs);

	return rc ? rc : rc2;
}

/* ---- the others --------------------------------------------------------------------------------------------------- */

struct asked {
	struct fs *fs;
	struct net *net;
	struct net_msg m;
};

static void asked_fiber(void *arg)
{
	struct asked q = *(struct asked *)arg;
	int rc = fs_disks_refresh(q.fs);

	ts_free(arg);
	if (net_reply(q.net, &q.m, -rc, NULL, 0))
		ts_debug("%s: node %u is gone, which asked to look at the disks", q.fs->super.name, q.m.src_node);
	ts_group_done(&q.fs->background, 0);
}

void fs_disks_asked(struct fs *fs, struct net *n, const struct net_msg *m)
{
	struct asked *q = fs->stopping_threads || fs->run == FS_RUN_STOPPED ? NULL : ts_alloc(sizeof(*q));

	if (q) {
		*q = (struct asked){fs, n, *m};
		q->m.payload = NULL;
		ts_group_add(&fs->background);
		if (!ts_fiber_spawn(fs->exec, "disks changed", asked_fiber, q))
			return;
		ts_group_done(&fs->background, 0);
		ts_free(q);
	}
	net_reply(n, m, EAGAIN, NULL, 0);
}

static bool still_member(struct fs *fs, const struct quorum_member *m)
{
	for (unsigned i = 0; i < fs->gview.nmembers; i++)
		if (fs->gview.members[i].node == m->node && fs->gview.members[i].incarnation == m->incarnation)
			return true;
	return false;
}

static int tell(struct fs *fs, const struct quorum_member *m)
{
	uint64_t deadline = ts_exec_now(fs->exec) + ASK_NS;

	while (still_member(fs, m)) {
		struct fs_word_msg w = {.group = le64_make(fs->group), .epoch = le64_make(fs->gview.epoch)};
		struct net_out o = {.dst_node = m->node, .lane = NET_REQUEST, .type = FS_MSG_DISKS, .group = fs->args.net_group,
				    .payload = &w, .len = sizeof(w)};
		int result = 0, rc;

		if (fs->run == FS_RUN_STOPPED || fs->stopping_threads)
			return -EIO;
		rc = net_call(fs->args.net, &o, deadline, &result, NULL, NULL);
		if (!rc && result != EAGAIN)
			return -result;
		if (ts_exec_now(fs->exec) >= deadline)
			return -ETIMEDOUT;
		ts_sleep_until(ts_exec_now(fs->exec) + AGAIN_NS); /* not connected yet, or gone: then the next view says so */
	}
	return 0;
}

int fs_disks_tell(struct fs *fs, unsigned *who)
{
	struct quorum_group_view *g = ts_alloc(sizeof(*g));
	int rc = g ? 0 : -ENOMEM;

	*who = fs->self;
	if (g)
		*g = fs->gview;
	for (unsigned i = 0; !rc && i < g->nmembers; i++) {
		if (g->members[i].node == fs->self)
			continue;
		rc = tell(fs, &g->members[i]);
		if (rc)
			*who = g->members[i].node;
	}
	ts_free(g);
	return rc;
}

bool fs_disks_enter(struct fs *fs)
{
	if (fs->run != FS_RUN_LIVE || fs->stopping_threads)
		return false;
	ts_group_add(&fs->background);
	return true;
}

/* ---- looking ------------------------------------------------------------------------------------------------------ */

struct use {
	struct fs *fs;
	unsigned disk;
	struct fs_disk_use sum;
};

static int use_one(void *arg, unsigned i)
{
	struct use *u = arg;
	struct fs *fs = u->fs;
	fs_addr at = fs_chunk_addr(fs, u->disk, i);
	struct fs_buf *b = fs_buf_peek(fs, at); /* newer than the disk while the token is cached here */
	const struct fs_bitmap_disk *d = b ? fs_bitmap_of(b) : NULL;
	uint32_t all = le32_get(fs->super.region_subs) - FS_CHUNK_HEAD;
	void *raw = NULL;
	int rc = 0;

	if (!d) {
		d = raw = ts_alloc_aligned(FS_SUB, FS_SUB);
		rc = raw ? fs_io_read(fs, at, raw, FS_SUB) : -ENOMEM;
	}
	if (!rc && (b || !fs_mdhdr_wrong(d, fs->super.fs_id, FS_BT_BITMAP, at)) && le32_get(d->free) <= all) {
		if (d->type == FS_REGION_META)
			u->sum.meta += all - le32_get(d->free);
		else
			u->sum.used += all - le32_get(d->free);
		u->sum.room += d->type == FS_REGION_META ? 0 : all;
	}
	if (b)
		fs_buf_put(fs, b);
	ts_free(raw);
	return rc;
}

int fs_disk_use_read(struct fs *fs, unsigned disk, struct fs_disk_use *out)
{
	struct use u = {.fs = fs, .disk = disk};
	int rc = 0;

	if (fs_disk_holds(fs, disk))
		rc = fs_par_run(fs, "use of a disk", le32_get(fs->disks[disk].ent.nchunks), use_one, &u);
	*out = u.sum;
	return rc;
}

int fs_disks_status(struct fs *fs, struct fs_disks_status *out)
{
	uint64_t sub = FS_SUB;
	int rc = 0;

	memset(out, 0, sizeof(*out));
	out->ndisks = fs->ndisks;
	out->disk = ts_alloc(fs->ndisks * sizeof(*out->disk));
	if (!out->disk)
		return -ENOMEM;
	if (!fs_disks_enter(fs)) {
		ts_free(out->disk);
		out->disk = NULL;
		return -ESHUTDOWN;
	}
	for (unsigned i = 0; i < out->ndisks && !rc; i++) {
		const struct fs_disk_ent_disk *e = &fs->disks[i].ent;
		struct fs_disk_info *v = &out->disk[i];
		struct fs_disk_use u;

		*v = (struct fs_disk_info){.size_bytes = le64_get(e->size_subs) * sub, .failure_group = le16_get(e->failure_group),
					   .usage = e->usage, .state = fs_disk_state(fs, i), .pool = fs_disk_pool(fs, i)};
		snprintf(v->pool_name, sizeof(v->pool_name), "%s", fs_pool_name_of(&fs->super, v->pool));
		memcpy(v->uuid, e->uuid, 16);
		if (v->state == FS_DISK_GONE)
			continue;
		rc = fs_diskurl_read(fs->disks[0].dev, fs->super.fs_id, i, v->url);
		if (!rc)
			rc = fs_disk_use_read(fs, i, &u);
		if (!rc) {
			v->used_bytes = u.used * sub;
			v->room_bytes = u.room * sub;
			v->meta_bytes = u.meta * sub;
		}
	}
	out->rebalancing = fs->super.move & FS_MOVE_REBALANCE;
	out->mib_s = le32_get(fs->super.move_mib_s);
	fs_mover_stats(fs, &out->moved_bytes, &out->passes);
	ts_group_done(&fs->background, 0);
	if (rc) {
		ts_free(out->disk);
		out->disk = NULL;
	}
	return rc;
}
