/* SPDX-License-Identifier: Apache-2.0 */
/* Job: inodes in memory. An inode's block is pinned while the INODE token is here; size and times may be newer in memory than
 * in the block (lazy), written within 5 s, at fsync and before the token leaves.
 *
 * What must never happen: a field used after its token left (buf is NULL then), a lazy change lost by a revoke or by
 * memory pressure, an inode of hostile contents believed, a free inode used. */
#include "fs/alloc_int.h"

#define LAZY_NS	   (5 * TS_NS_PER_S)
#define LAZY_BATCH 16u
#define CACHE_MAX  200000u

struct fs_icache {
	struct ts_map map;
	struct ts_list lru;  /* refs == 0, oldest first */
	struct ts_list lazy;
	struct ts_list lazy_shared; /* under INODE SW when they became lazy */
	unsigned count, max;
	struct ts_cond wake;
	struct fs_inode *spare; /* NULL or blank: fs_inode_spare() */
};

int64_t fs_now_ns(struct fs *fs)
{
	return (int64_t)ts_wall_ns(fs->env);
}

static struct fs_inode *lookup(struct fs *fs, uint64_t ino)
{
	for (struct ts_map_node *n = ts_map_first(&fs->icache->map, ts_hash_u64(ino)); n; n = ts_map_next(n)) {
		struct fs_inode *ip = TS_CONTAINER(n, struct fs_inode, node);

		if (ip->ino == ino)
			return ip;
	}
	return NULL;
}

static void ref(struct fs_inode *ip)
{
	if (ip->refs++ == 0)
		ts_list_del(&ip->lru_link);
}

static void lazy_clear(struct fs_inode *ip)
{
	ip->lazy_dirty = false;
	ts_list_del(&ip->lazy_link);
}

static void buf_release(struct fs *fs, struct fs_inode *ip)
{
	TS_ASSERT(!ip->lazy_dirty);
	if (ip->buf)
		fs_buf_put(fs, ip->buf);
	ip->buf = NULL;
}

static void evict(struct fs *fs, struct fs_inode *ip)
{
	TS_ASSERT(!ip->refs && !ip->data && !ip->lazy_dirty);
	fs_buf_put_cold(fs, ip->buf); /* else blocks of inodes that had their time here would drive out those of directories */
	ts_map_remove(&fs->icache->map, &ip->node);
	ts_list_del(&ip->lru_link);
	fs->icache->count--;
	ts_free(ip);
}

/* Over the bound: the oldest that nobody uses go; one with unwritten times is asked for by its token. */
static void shrink(struct fs *fs)
{
	struct fs_icache *ic = fs->icache;

	for (unsigned tries = 0; ic->count > ic->max && tries < 8 && !ts_list_empty(&ic->lru); tries++) {
		struct fs_inode *ip = ts_list_entry(ic->lru.next, struct fs_inode, lru_link);

		if (!ip->lazy_dirty && !ip->data) {
			evict(fs, ip);
			continue;
		}
		tok_drop_hint(fs->tok, TOK_INODE, ip->ino);
		ts_list_del(&ip->lru_link);
		ts_list_push_back(&ic->lru, &ip->lru_link);
	}
}

struct fs_inode *fs_inode_find(struct fs *fs, uint64_t ino)
{
	struct fs_inode *ip = lookup(fs, ino);

	if (ip)
		ref(ip);
	return ip;
}

bool fs_inode_open_here(struct fs *fs, uint64_t ino)
{
	const struct fs_inode *ip = fs->icache ? lookup(fs, ino) : NULL;

	return ip && (ip->opens || (ip->buf && !le16_get(fs_idisk((struct fs_inode *)ip)->mode)));
}

bool fs_inode_mapped(struct fs *fs, uint64_t ino)
{
	const struct fs_inode *ip = lookup(fs, ino);

	return ip && ip->maps;
}

void fs_inode_put(struct fs *fs, struct fs_inode *ip)
{
	TS_ASSERT(ip->refs);
	if (--ip->refs)
		return;
	ts_list_push_back(&fs->icache->lru, &ip->lru_link);
	if (!ip->buf && !ip->data)
		evict(fs, ip);
	else
		shrink(fs);
}

static bool payload_sane(const struct fs_inode_disk *d)
{
	unsigned xattrs = le16_get(d->xattr_len), len = le16_get(d->inline_len);
	unsigned room = FS_INODE_PAYLOAD - (le32_get(d->flags) & FS_IF_XATTR_BLOCK ? sizeof(struct fs_bptr_disk) : 0);

	if (xattrs > room)
		return false;
	room -= xattrs;
	switch (d->payload_type) {
	case FS_PL_NONE:
		return true;
	case FS_PL_INLINE:
	case FS_PL_DIRINLINE:
		return len <= room;
	case FS_PL_TARGET:
		return len == FS_TARGET_INLINE && len <= room && le32_get(d->flags) & FS_IF_XATTR_BLOCK;
	case FS_PL_MAP:
	case FS_PL_DIRTREE:
		return FS_INODE_PTRS * sizeof(struct fs_bptr_disk) <= room && d->map_height <= 11;
	case FS_PL_DEVICE:
		return sizeof(le64) <= room;
	default:
		return false;
	}
}

/* 0, -ESTALE (free), -EUCLEAN. */
static int block_check(struct fs *fs, uint64_t ino, const struct fs_inode_disk *d)
{
	unsigned mode = le16_get(d->mode);
	bool dir_payload = d->payload_type == FS_PL_DIRINLINE || d->payload_type == FS_PL_DIRTREE;

	if (!mode)
		return -ESTALE;
	if (le64_get(d->size) <= (uint64_t)FS_MAX_SIZE && payload_sane(d) && (S_ISLNK(mode) || d->payload_type != FS_PL_TARGET) &&
	    (S_ISDIR(mode) || !dir_payload) &&
	    (!S_ISDIR(mode) || dir_payload || d->payload_type == FS_PL_NONE))
		return 0;
	ts_err("fs %s: inode %llu contradicts itself; access gets EUCLEAN, run fsck", fs->super.name, (unsigned long long)ino);
	return -EUCLEAN;
}

static void fields_load(struct fs_inode *ip)
{
	const struct fs_inode_disk *d = fs_idisk(ip);

	ip->gen = le32_get(d->h.res_gen);
	ip->size = le64_get(d->size);
	ip->atime_ns = (int64_t)le64_get(d->atime_ns);
	ip->mtime_ns = (int64_t)le64_get(d->mtime_ns);
	ip->ctime_ns = (int64_t)le64_get(d->ctime_ns);
	ip->gap_clean = UINT64_MAX;
}

/* One life of the inode's size: neither freed and made again, nor cut off, in between. */
static uint64_t value_era(const struct fs_inode *ip)
{
	return (uint64_t)le32_get(fs_idisk((struct fs_inode *)ip)->h.res_gen) << 32 | le32_get(fs_idisk((struct fs_inode *)ip)->trunc_epoch);
}

static void value_merge(struct fs *fs, struct fs_inode *ip, const struct tok_value *v)
{
	if (v->era != value_era(ip) || (v->high <= ip->size && (int64_t)v->time <= ip->ctime_ns))
		return;
	ip->size = TS_MAX(ip->size, TS_MIN(v->high, (uint64_t)FS_MAX_SIZE));
	if ((int64_t)v->time > ip->ctime_ns)
		ip->mtime_ns = ip->ctime_ns = (int64_t)v->time;
	fs_inode_lazy(fs, ip);
}

void fs_inode_values(struct fs *fs, struct fs_inode *ip)
{
	struct tok_value v;

	if (tok_value_take(fs->tok, TOK_INODE, ip->ino, &v))
		value_merge(fs, ip, &v);
	if (tok_value_kept(fs->tok, TOK_INODE, ip->ino, &v) && tok_holds(fs->tok, TOK_INODE, ip->ino, TOK_SW, 0, TOK_END))
		value_merge(fs, ip, &v);
}

static int cached_get(struct fs *fs, struct fs_inode *ip, struct fs_inode **out)
{
	const struct fs_inode_disk *d = fs_idisk(ip);

	if (!le16_get(d->mode))
		return -ESTALE;
	if (ip->gen != le32_get(d->h.res_gen)) { /* freed and made again while it was in memory */
		int rc = block_check(fs, ip->ino, d);

		if (rc)
			return rc;
		TS_ASSERT(!ip->lazy_dirty);
		fields_load(ip);
	}
	fs_inode_values(fs, ip);
	ref(ip);
	*out = ip;
	return 0;
}

int fs_inode_spare(struct fs *fs)
{
	struct fs_icache *ic = fs->icache;

	if (!ic->spare)
		ic->spare = ts_alloc(sizeof(*ic->spare));
	return ic->spare ? 0 : -ENOMEM;
}

static int inode_new(struct fs *fs, uint64_t ino, struct fs_inode **out)
{
	struct fs_inode *ip = fs->icache->spare ? fs->icache->spare : ts_alloc(sizeof(*ip));

	if (!ip)
		return -ENOMEM;
	fs->icache->spare = NULL;
	ip->ino = ino;
	ts_list_init(&ip->lazy_link);
	ts_list_init(&ip->lru_link);
	if (ts_map_insert(&fs->icache->map, &ip->node, ts_hash_u64(ino))) {
		ts_free(ip);
		return -ENOMEM;
	}
	fs->icache->count++;
	ts_list_push_back(&fs->icache->lru, &ip->lru_link);
	*out = ip;
	return 0;
}

static int inode_get(struct fs *fs, uint64_t ino, struct fs_inode **out)
{
	struct fs_inode *ip = lookup(fs, ino);
	struct fs_buf *b;
	fs_addr a;
	int rc;

	if (ip && ip->buf)
		return cached_get(fs, ip, out);
	rc = fs_ino_addr(fs, ino, &a);
	if (!rc)
		rc = fs_buf_get(fs, a, FS_BT_INODE, TOK_INODE, ino, &b);
	if (rc)
		return rc;
	rc = block_check(fs, ino, (struct fs_inode_disk *)b->data);
	ip = lookup(fs, ino); /* another fiber may have been faster */
	if (!rc && ip && ip->buf)
		rc = cached_get(fs, ip, out);
	else if (!rc && !ip)
		rc = inode_new(fs, ino, &ip);
	if (rc || ip->buf) {
		fs_buf_put(fs, b);
		return rc;
	}
	ip->buf = b;
	fields_load(ip);
	fs_inode_values(fs, ip);
	ref(ip);
	shrink(fs);
	*out = ip;
	return 0;
}

int fs_inode_get(struct fs *fs, uint64_t ino, struct fs_inode **out)
{
	const struct fs_upcalls *up = &fs->args.up;
	struct fs_inode *ip;
	int rc = inode_get(fs, ino, &ip);

	if (rc)
		return rc;
	if (up->stale && up->stale(up->arg, ino, ip->gen)) {
		fs_inode_put(fs, ip);
		return -ESTALE;
	}
	*out = ip;
	return 0;
}

/* ---- changes ---------------------------------------------------------------------------------------------------------- */
void fs_inode_update_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *ip)
{
	struct fs_inode_disk *d = fs_idisk(ip);

	fs_tx_buf(tx, ip->buf);
	d->size = le64_make(ip->size);
	d->atime_ns = le64_make((uint64_t)ip->atime_ns);
	d->mtime_ns = le64_make((uint64_t)ip->mtime_ns);
	d->ctime_ns = le64_make((uint64_t)ip->ctime_ns);
	if (ip->lazy_dirty)
		lazy_clear(ip);
}

void fs_inode_lazy(struct fs *fs, struct fs_inode *ip)
{
	TS_ASSERT(ip->buf);
	if (ip->lazy_dirty)
		return;
	ip->lazy_dirty = true;
	if (tok_holds(fs->tok, TOK_INODE, ip->ino, TOK_EX, 0, TOK_END))
		ts_list_push_back(&fs->icache->lazy, &ip->lazy_link);
	else
		ts_list_push_back(&fs->icache->lazy_shared, &ip->lazy_link);
}

unsigned fs_inode_count_shared(struct fs *fs)
{
	unsigned n = 0;

	ts_list_for(l, &fs->icache->lazy_shared)
		n++;
	return n;
}

struct fs_inode *fs_inode_next_shared(struct fs *fs)
{
	struct fs_icache *ic = fs->icache;
	struct fs_inode *ip;

	if (ts_list_empty(&ic->lazy_shared))
		return NULL;
	ip = ts_list_entry(ic->lazy_shared.next, struct fs_inode, lazy_link);
	ts_list_del(&ip->lazy_link);
	ts_list_push_back(&ic->lazy_shared, &ip->lazy_link);
	ref(ip);
	return ip;
}

int fs_inode_write_lazy(struct fs *fs, struct fs_inode *ip)
{
	struct fs_tx tx;
	int rc;

	if (!ip->lazy_dirty)
		return 0;
	rc = fs_log_reserve(fs, 2 * FS_SUB);
	if (rc || !ip->lazy_dirty) /* written by somebody else while this waited */
		return rc;
	fs_tx_begin(fs, &tx);
	fs_inode_update_tx(fs, &tx, ip);
	fs_tx_commit(&tx);
	return 0;
}

/* On this list means that INODE EX is here, and nothing waits between that look and the commit: no pin is needed. */
static int lazy_pass(struct fs *fs)
{
	struct fs_icache *ic = fs->icache;
	struct fs_tx tx;

	while (!ts_list_empty(&ic->lazy)) {
		int rc = fs_log_reserve(fs, (size_t)LAZY_BATCH * (FS_SUB + 512));

		if (rc)
			return rc;
		fs_tx_begin(fs, &tx);
		for (unsigned i = 0; i < LAZY_BATCH && !ts_list_empty(&ic->lazy); i++)
			fs_inode_update_tx(fs, &tx, ts_list_entry(ic->lazy.next, struct fs_inode, lazy_link));
		fs_tx_commit(&tx);
	}
	return 0;
}

void fs_icache_fiber(void *arg)
{
	struct fs *fs = arg;
	struct fs_icache *ic = fs->icache;

	while (!fs->stopping_threads && fs->run != FS_RUN_STOPPED) {
		int rc;

		(void)ts_cond_wait_until(&ic->wake, ts_exec_now(fs->exec) + LAZY_NS, "lazy inodes", 0, 0);
		if (fs->run == FS_RUN_STOPPED)
			break;
		rc = lazy_pass(fs);
		if (rc && fs->run != FS_RUN_STOPPED)
			ts_warn("fs %s: times of inodes could not be logged (%d), tried again in 5 s", fs->super.name, rc);
	}
	ts_group_done(&fs->background, 0);
}

void fs_icache_wake(struct fs *fs)
{
	ts_cond_broadcast(&fs->icache->wake);
}

void fs_inode_init_tx(struct fs *fs, struct fs_tx *tx, struct fs_buf *b, uint64_t ino, uint32_t gen, uint32_t mode, uint32_t uid,
		      uint32_t gid, uint64_t parent)
{
	struct fs_inode_disk *d = (struct fs_inode_disk *)b->data;
	le64 now = le64_make((uint64_t)fs_now_ns(fs));

	fs_tx_buf(tx, b);
	memset(b->data + sizeof(d->h), 0, FS_SUB - sizeof(d->h));
	d->h.type = FS_BT_INODE;
	d->h.res_kind = TOK_INODE;
	d->h.res_id = le64_make(ino);
	d->h.res_gen = le32_make(gen);
	d->mode = le16_make((uint16_t)mode);
	d->uid = le32_make(uid);
	d->gid = le32_make(gid);
	d->atime_ns = d->mtime_ns = d->ctime_ns = d->btime_ns = now;
	d->copies = 1;
	d->parent = le64_make(parent);
}

void fs_inode_orphan_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *ip)
{
	struct fs_inode_disk *d = fs_idisk(ip);
	uint64_t number;

	fs_tx_buf(tx, ip->buf);
	d->flags = le32_make(le32_get(d->flags) | FS_IF_ORPHAN);
	number = fs_tx_intent(tx, FS_INTENT_ORPHAN, 0, ip->ino, ip->gen);
	fs_reaper_orphan(fs, number, ip->ino, ip->gen); /* looked at by another fiber: after the commit */
}

void fs_inode_forget_freed(struct fs *fs, struct fs_inode *ip)
{
	if (ip->lazy_dirty)
		lazy_clear(ip);
	if (ip->data)
		fs_data_drop(fs, ip);
	ip->wb_error = 0;
}

void fs_inode_attr(struct fs *fs, struct fs_inode *ip, struct fs_attr *out)
{
	const struct fs_inode_disk *d = fs_idisk(ip);
	unsigned mode = le16_get(d->mode);
	le64 rdev = le64_make(0);
	uint64_t blocks512 = le64_get(d->subs) * (FS_SUB / 512);
	bool passing = false;

	if (S_ISREG(mode))
		blocks512 = fs_data_blocks512(fs, ip, &passing);
	if (d->payload_type == FS_PL_DEVICE)
		memcpy(&rdev, d->payload, sizeof(rdev));
	*out = (struct fs_attr){
		.ino = ip->ino,
		.gen = ip->gen,
		.mode = mode,
		.nlink = le32_get(d->nlink),
		.uid = le32_get(d->uid),
		.gid = le32_get(d->gid),
		.project = le32_get(d->project),
		.flags = le32_get(d->flags) & FS_FLAGS_USER,
		.rdev = le64_get(rdev),
		.size = ip->size,
		.blocks512 = blocks512,
		.atime_ns = ip->atime_ns,
		.mtime_ns = ip->mtime_ns,
		.ctime_ns = ip->ctime_ns,
		.btime_ns = (int64_t)le64_get(d->btime_ns),
		.blksize = fs->block_size,
		.cacheable = !passing && fs_may_cache(fs, TOK_INODE, ip->ino),
	};
}

/* ---- revoke ----------------------------------------------------------------------------------------------------------- */
void fs_inode_closed(struct fs *fs, struct fs_inode *ip)
{
	if (!ip->opens && (!ip->buf || !le32_get(fs_idisk(ip)->nlink)))
		tok_drop_hint(fs->tok, TOK_OPEN, ip->ino);
}

/* SW or SH leaves: size and times go along, to whoever has EX next. Dirty data stays: its map can change under EX only, which
 * somebody waits for in front of us (share.c). */
static void revoke_shared(struct fs *fs, struct fs_inode *ip)
{
	struct tok_value v;

	if (!ip->buf)
		return;
	if (ip->lazy_dirty) {
		v = (struct tok_value){.era = value_era(ip), .high = ip->size, .time = (uint64_t)TS_MAX(ip->ctime_ns, (int64_t)0)};
		tok_value_give(fs->tok, TOK_INODE, ip->ino, &v);
		lazy_clear(ip);
	}
	buf_release(fs, ip);
}

/* EX leaves, and nobody has looked at the inode since it came: what came with the grant must not leave unwritten, and what was
 * written under SW is mapped now, so the inode is needed. */
static int revoke_unseen(struct fs *fs, uint64_t ino)
{
	struct fs_inode *ip = lookup(fs, ino), *got;
	struct tok_value v;
	int rc;

	if (!tok_value_came(fs->tok, TOK_INODE, ino) && !(ip && ip->data && !ip->buf))
		return 0;
	rc = inode_get(fs, ino, &got); /* takes it when the inode is there, not before: others may be looking at it now */
	if (rc == -ESTALE) { /* freed: nobody's size */
		(void)tok_value_take(fs->tok, TOK_INODE, ino, &v);
		return 0;
	}
	if (!rc)
		fs_inode_put(fs, got);
	return rc;
}

static int revoke_cached(struct fs *fs, struct fs_inode *ip, bool drop)
{
	uint64_t errors = ip->wb_error_seq;
	int rc = ip->data ? fs_data_writeback(fs, ip) : 0;

	if (rc && ip->wb_error_seq != errors && rc == ip->wb_error)
		rc = fs_data_writeback(fs, ip); /* the loss is told to the file's handles; the token may go */
	if (!rc)
		rc = fs_inode_write_lazy(fs, ip);
	if (rc || !drop)
		return rc;
	buf_release(fs, ip);
	return 0;
}

int fs_inode_revoke(struct fs *fs, uint64_t ino, enum tok_mode to)
{
	bool ex = tok_holds(fs->tok, TOK_INODE, ino, TOK_EX, 0, TOK_END);
	bool sw = !ex && tok_holds(fs->tok, TOK_INODE, ino, TOK_SW, 0, TOK_END);
	bool drop = to == TOK_NL || sw;
	struct fs_inode *ip;
	int rc = ex ? revoke_unseen(fs, ino) : 0;

	if (rc)
		return rc;
	ip = fs_inode_find(fs, ino);
	fs_ialloc_inode_lost(fs, ino);
	if (ip && ex)
		rc = revoke_cached(fs, ip, drop);
	else if (ip && drop)
		revoke_shared(fs, ip);
	if (ip) {
		if (drop && !rc && !ip->opens)
			tok_drop_hint(fs->tok, TOK_OPEN, ino);
		fs_inode_put(fs, ip);
	} else if (drop) {
		tok_drop_hint(fs->tok, TOK_OPEN, ino);
	}
	return rc ? rc : fs_buf_clean_resource(fs, TOK_INODE, ino, drop);
}

struct all {
	struct fs_inode **ip;
	size_t n, max;
};

static int collect_data(struct ts_map_node *n, void *arg)
{
	struct fs_inode *ip = TS_CONTAINER(n, struct fs_inode, node);
	struct all *a = arg;

	if (ip->data && a->n < a->max) {
		ref(ip);
		a->ip[a->n++] = ip;
	}
	return 0;
}

int fs_inode_writeback_all(struct fs *fs)
{
	struct all a = {.max = fs->icache->count};
	int rc = 0;

	a.ip = ts_alloc(TS_MAX(a.max, (size_t)1) * sizeof(*a.ip));
	if (!a.ip)
		return -ENOMEM;
	(void)ts_map_each(&fs->icache->map, collect_data, &a);
	for (size_t i = 0; i < a.n; i++) {
		int wrc = a.ip[i]->data ? fs_data_writeback(fs, a.ip[i]) : 0;

		if (wrc && wrc != -ESTALE && !rc) /* stale: freed by another node meanwhile, nobody's data */
			rc = wrc;
		fs_inode_put(fs, a.ip[i]);
	}
	ts_free(a.ip);
	if (!rc)
		rc = fs_share_lazy_all(fs);
	return rc ? rc : lazy_pass(fs);
}

/* ---- life --------------------------------------------------------------------------------------------------------------- */
int fs_icache_init(struct fs *fs)
{
	struct fs_icache *ic = ts_alloc(sizeof(*ic));
	size_t pool = fs->args.meta_pool_bytes ? fs->args.meta_pool_bytes : (size_t)128 << 20;

	if (!ic)
		return -ENOMEM;
	ts_map_init(&ic->map);
	ts_list_init(&ic->lru);
	ts_list_init(&ic->lazy);
	ts_list_init(&ic->lazy_shared);
	ts_cond_init(&ic->wake);
	/* Every cached inode pins its block: half of the pool at most. */
	ic->max = (unsigned)TS_MAX((size_t)64, TS_MIN((size_t)CACHE_MAX, pool / FS_SUB / 2));
	fs->icache = ic;
	return 0;
}

static int fini_one(struct ts_map_node *n, void *arg)
{
	struct fs *fs = arg;
	struct fs_inode *ip = TS_CONTAINER(n, struct fs_inode, node);

	if (ip->buf)
		fs_buf_put(fs, ip->buf);
	ts_map_remove(&fs->icache->map, n);
	ts_free(ip);
	return 0;
}

/* After an unmount nothing is left; after a stop or a kill what is left is forgotten. */
void fs_icache_fini(struct fs *fs)
{
	if (!fs->icache)
		return;
	(void)ts_map_each(&fs->icache->map, fini_one, fs);
	ts_map_fini(&fs->icache->map);
	ts_free(fs->icache->spare);
	ts_free(fs->icache);
	fs->icache = NULL;
}
