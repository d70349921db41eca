/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the block map of a file: 64 pointers in the inode, a radix tree of indirect blocks with 84 pointers below them.
 * The root of height h covers 64 * 84^h blocks; growing by a level puts the old root into slots 0..63 of one new node.
 *
 * What must never happen: a pointer from disk is followed or freed unchecked; a change of the map outside a transaction or
 * without map_lock; an empty indirect block that stays in the tree; a crash between two transactions that shows bytes which
 * were cut off (fs_map_free lowers the size in the transactions that free). */
#include "fs/data_int.h"

static const uint64_t pow84[MAP_MAX_HEIGHT + 1] = {
	1ULL, 84ULL, 7056ULL, 592704ULL, 49787136ULL, 4182119424ULL, 351298031616ULL, 29509034655744ULL};

static struct fs_bptr_disk *root_of(struct data_file *df)
{
	return (struct fs_bptr_disk *)fs_idisk(df->ip)->payload;
}
static struct fs_bptr_disk *node_ptrs(struct fs_buf *b)
{
	return ((struct fs_indirect_disk *)b->data)->p;
}

bool fs_map_is_tree(struct fs_inode *ip)
{
	return fs_idisk(ip)->payload_type == FS_PL_MAP;
}

unsigned fs_map_room(struct fs_inode *ip)
{
	return fs_xattr_inline_room(ip);
}

unsigned fs_map_height_for(uint64_t idx)
{
	unsigned h = 0;

	while (h < MAP_MAX_HEIGHT && idx >= FS_INODE_PTRS * pow84[h])
		h++;
	return h;
}

int fs_map_decode(struct fs *fs, uint64_t ino, const struct fs_bptr_disk *p, bool data, struct fs_bmap *out)
{
	memset(out, 0, sizeof(*out));
	out->addr = le64_get(p->addr[0]);
	if (!out->addr)
		return 0;
	out->subs = le16_get(p->subs);
	out->birth = le64_get(p->birth);
	out->unwritten = p->flags & FS_BP_UNWRITTEN;
	if (!out->subs || out->subs > (data ? fs->block_subs : 1) || p->comp || (p->flags & ~FS_BP_UNWRITTEN) ||
	    (out->unwritten && !data) || fs_io_check_addr(fs, out->addr, out->subs)) {
		ts_err("inode %llu: block pointer to %llx, %u sub-blocks, is not valid; run tessera fs check",
		       (unsigned long long)ino, (unsigned long long)out->addr, out->subs);
		return -EUCLEAN;
	}
	return 0;
}

static void encode(struct fs_bptr_disk *p, const struct fs_bmap *m)
{
	memset(p, 0, sizeof(*p));
	p->addr[0] = le64_make(m->addr);
	p->birth = le64_make(m->birth);
	p->subs = le16_make((uint16_t)m->subs);
	p->flags = m->unwritten ? FS_BP_UNWRITTEN : 0;
}

void fs_map_done(struct fs *fs, struct map_path *p)
{
	for (unsigned l = 1; l <= MAP_MAX_HEIGHT; l++) {
		if (p->node[l])
			fs_buf_put(fs, p->node[l]);
		p->node[l] = NULL;
	}
}

/* One descent. -TS_ERR_RETRY when the map changed while a node was read. */
static int walk_once(struct fs *fs, struct data_file *df, uint64_t idx, struct map_path *p)
{
	struct fs_inode_disk *d;
	uint64_t seq = df->map_seq;

	memset(p, 0, sizeof(*p));
	if (!df->ip->buf)
		return -EIO; /* all tokens were lost */
	d = fs_idisk(df->ip);
	p->height = d->map_height;
	if (d->payload_type != FS_PL_MAP) {
		p->height = 0;
		p->span = UINT64_MAX;
		return 0;
	}
	if (p->height > MAP_MAX_HEIGHT) {
		ts_err("inode %llu: map height %u; run tessera fs check", (unsigned long long)df->ip->ino, p->height);
		return -EUCLEAN;
	}
	p->level = p->height;
	if (idx / pow84[p->height] >= FS_INODE_PTRS) {
		p->base = FS_INODE_PTRS * pow84[p->height];
		p->span = UINT64_MAX - p->base;
		return 0;
	}
	p->ptr = &root_of(df)[idx / pow84[p->height]];
	while (p->level && le64_get(p->ptr->addr[0])) {
		struct fs_bmap m;
		int rc = fs_map_decode(fs, df->ip->ino, p->ptr, false, &m);

		if (!rc)
			rc = fs_buf_get(fs, m.addr, FS_BT_INDIRECT, TOK_INODE, df->ip->ino, &p->node[p->level]);
		if (!rc && (df->map_seq != seq || !df->ip->buf))
			rc = -TS_ERR_RETRY;
		if (rc) {
			fs_map_done(fs, p);
			return rc;
		}
		p->ptr = &node_ptrs(p->node[p->level])[idx / pow84[p->level - 1] % MAP_FAN];
		p->level--;
	}
	p->span = pow84[p->level];
	p->base = idx / p->span * p->span;
	return 0;
}

int fs_map_walk(struct fs *fs, struct data_file *df, uint64_t idx, struct map_path *p)
{
	int rc;

	do
		rc = walk_once(fs, df, idx, p);
	while (rc == -TS_ERR_RETRY);
	return rc;
}

int fs_map_lookup(struct fs *fs, struct data_file *df, uint64_t idx, struct fs_bmap *out)
{
	struct map_path p;
	int rc = fs_map_walk(fs, df, idx, &p);

	memset(out, 0, sizeof(*out));
	if (rc)
		return rc;
	if (p.ptr && !p.level)
		rc = fs_map_decode(fs, df->ip->ino, p.ptr, true, out);
	fs_map_done(fs, &p);
	return rc;
}

int fs_map_next(struct fs *fs, struct data_file *df, uint64_t idx, uint64_t *out)
{
	for (;;) {
		struct map_path p;
		int rc = fs_map_walk(fs, df, idx, &p);
		bool mapped;

		if (rc)
			return rc;
		mapped = p.ptr && le64_get(p.ptr->addr[0]);
		fs_map_done(fs, &p);
		if (mapped || !p.ptr) {
			*out = mapped ? idx : UINT64_MAX;
			return 0;
		}
		idx = p.base + p.span;
	}
}

/* ---- inserting -------------------------------------------------------------------------------------------------- */

static bool ptrs_empty(const struct fs_bptr_disk *p, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (le64_get(p[i].addr[0]))
			return false;
	}
	return true;
}

static void subs_add(struct data_file *df, int64_t n) /* inode buffer is in the transaction */
{
	struct fs_inode_disk *d = fs_idisk(df->ip);

	d->subs = le64_make(le64_get(d->subs) + (uint64_t)n);
}

static int new_node(struct fs *fs, struct data_file *df, struct fs_ext *ext, struct fs_buf **out)
{
	int rc = fs_map_stock_pop(fs, df, ext);

	if (rc)
		return rc;
	rc = fs_buf_new(fs, ext->addr, FS_BT_INDIRECT, TOK_INODE, df->ip->ino, df->ip->gen, out);
	if (rc)
		fs_map_stock_push(fs, df, ext);
	return rc;
}

static void node_unmake(struct fs *fs, struct data_file *df, struct fs_ext *ext, struct fs_buf *b)
{
	fs_buf_put(fs, b);
	fs_buf_forget(fs, ext->addr);
	fs_map_stock_push(fs, df, ext);
}

static void point_to_node(struct fs *fs, struct fs_tx *tx, struct data_file *df, struct fs_bptr_disk *ptr, const struct fs_ext *ext)
{
	struct fs_bmap m = {.addr = ext->addr, .birth = fs_version_next(fs), .subs = 1};

	fs_alloc_commit(fs, tx, ext);
	encode(ptr, &m);
	subs_add(df, 1);
}

/* One level more, in a transaction of its own. */
static int grow_level(struct fs *fs, struct data_file *df)
{
	struct fs_ext ext;
	struct fs_buf *b = NULL;
	struct fs_tx tx;
	bool empty = ptrs_empty(root_of(df), FS_INODE_PTRS);
	int rc = empty ? 0 : new_node(fs, df, &ext, &b);

	if (rc)
		return rc;
	rc = fs_log_reserve(fs, 0);
	if (rc) {
		if (b)
			node_unmake(fs, df, &ext, b);
		return rc;
	}
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, df->ip->buf);
	if (b) {
		fs_tx_buf(&tx, b);
		memcpy(node_ptrs(b), root_of(df), FS_INODE_PTRS * sizeof(struct fs_bptr_disk));
		memset(root_of(df), 0, FS_INODE_PTRS * sizeof(struct fs_bptr_disk));
		point_to_node(fs, &tx, df, root_of(df), &ext);
	}
	fs_idisk(df->ip)->map_height++;
	(void)fs_tx_commit(&tx);
	df->map_seq++;
	if (b)
		fs_buf_put(fs, b);
	return 0;
}

void fs_map_insert_done(struct fs *fs, struct data_file *df, struct map_insert *in)
{
	if (!in->linked) {
		for (unsigned l = 1; l <= in->nnew; l++) {
			node_unmake(fs, df, &in->ext[l], in->path.node[l]);
			in->path.node[l] = NULL;
		}
	}
	fs_map_done(fs, &in->path);
	in->nnew = 0;
}

int fs_map_insert_prepare(struct fs *fs, struct data_file *df, uint64_t idx, struct map_insert *in)
{
	int rc = 0;
	unsigned missing;

	memset(in, 0, sizeof(*in));
	if (!fs_map_is_tree(df->ip)) { /* the caller's transaction makes the root */
		TS_ASSERT(idx < FS_INODE_PTRS);
		return 0;
	}
	while (!rc && fs_idisk(df->ip)->map_height < fs_map_height_for(idx))
		rc = grow_level(fs, df);
	if (!rc)
		rc = fs_map_walk(fs, df, idx, &in->path);
	if (rc)
		return rc;
	missing = in->path.level;
	for (unsigned l = 1; l <= missing; l++) {
		rc = new_node(fs, df, &in->ext[l], &in->path.node[l]);
		if (rc) {
			fs_map_insert_done(fs, df, in);
			return rc;
		}
		in->nnew = l;
	}
	return 0;
}

/* The inode's buffer is in the transaction already. */
void fs_map_insert_link(struct fs *fs, struct fs_tx *tx, struct data_file *df, struct map_insert *in, uint64_t idx)
{
	unsigned h = in->path.height;

	for (unsigned l = in->nnew; l >= 1; l--) {
		struct fs_buf *parent = l == h ? NULL : in->path.node[l + 1];
		struct fs_bptr_disk *ptr = parent ? &node_ptrs(parent)[idx / pow84[l] % MAP_FAN] : &root_of(df)[idx / pow84[l]];

		if (parent)
			fs_tx_buf(tx, parent);
		fs_tx_buf(tx, in->path.node[l]);
		point_to_node(fs, tx, df, ptr, &in->ext[l]);
	}
	in->linked = true;
	df->map_seq++;
}

void fs_map_insert_set(struct fs *fs, struct fs_tx *tx, struct data_file *df, struct map_insert *in, uint64_t idx, const struct fs_bmap *m)
{
	struct fs_bptr_disk *ptr;

	if (in->path.node[1]) {
		fs_tx_buf(tx, in->path.node[1]);
		ptr = &node_ptrs(in->path.node[1])[idx % MAP_FAN];
	} else {
		ptr = &root_of(df)[idx];
	}
	subs_add(df, (int64_t)m->subs - (le64_get(ptr->addr[0]) ? le16_get(ptr->subs) : 0));
	encode(ptr, m);
	df->map_seq++;
}

/* ---- freeing ---------------------------------------------------------------------------------------------------- */

void fs_map_cut_tx(struct fs *fs, struct fs_tx *tx, struct data_file *df, struct map_cut *cut, uint64_t size)
{
	struct fs_inode_disk *d = fs_idisk(df->ip);

	fs_tx_buf(tx, df->ip->buf);
	df->ip->size = TS_MIN(df->ip->size, size);
	if (!cut->bumped)
		d->trunc_epoch = le32_make(le32_get(d->trunc_epoch) + 1);
	cut->bumped = true;
	fs_inode_update_tx(fs, tx, df->ip);
}

struct free_leaf { /* one transaction of fs_map_free */
	struct map_path p;
	struct fs_bptr_disk *ptrs; /* of the leaf, or the root */
	uint64_t lo, hi;	   /* indices to free, hi inclusive */
	uint64_t leaf_base;
	unsigned leaf_n;
	struct fs_bmap gone[MAP_FAN];
	unsigned ngone;
	unsigned nempty;	   /* nodes 1..nempty become empty and are freed */
	bool root_empty;
};

static bool only_ptr(const struct fs_bptr_disk *p, unsigned n, unsigned slot)
{
	for (unsigned i = 0; i < n; i++) {
		if (i != slot && le64_get(p[i].addr[0]))
			return false;
	}
	return true;
}

static int free_plan(struct fs *fs, struct data_file *df, struct free_leaf *f, uint64_t from, uint64_t pos)
{
	unsigned h = f->p.height;
	bool rest = false;

	f->leaf_n = h ? MAP_FAN : FS_INODE_PTRS;
	f->ptrs = h ? node_ptrs(f->p.node[1]) : root_of(df);
	f->leaf_base = h ? pos / MAP_FAN * MAP_FAN : 0;
	f->lo = TS_MAX(from, f->leaf_base);
	f->hi = pos;
	for (unsigned i = 0; i < f->leaf_n; i++) {
		uint64_t idx = f->leaf_base + i;
		int rc;

		if (!le64_get(f->ptrs[i].addr[0]))
			continue;
		if (idx < f->lo || idx > f->hi) {
			rest = true;
			continue;
		}
		rc = fs_map_decode(fs, df->ip->ino, &f->ptrs[i], true, &f->gone[f->ngone]);
		if (rc)
			return rc;
		f->ngone++;
	}
	if (rest || !f->ngone)
		return 0;
	if (!h) {
		f->root_empty = true;
		return 0;
	}
	for (f->nempty = 1; f->nempty < h; f->nempty++) {
		if (!only_ptr(node_ptrs(f->p.node[f->nempty + 1]), MAP_FAN, pos / pow84[f->nempty] % MAP_FAN))
			return 0;
	}
	f->root_empty = only_ptr(root_of(df), FS_INODE_PTRS, (unsigned)(pos / pow84[h]));
	return 0;
}

/* Clears the pointers, or the one pointer above what became empty. */
static void free_unlink(struct fs *fs, struct fs_tx *tx, struct data_file *df, struct free_leaf *f)
{
	unsigned h = f->p.height, up = f->nempty + 1;
	struct fs_bptr_disk *ptr;

	if (!f->nempty) {
		fs_tx_buf(tx, h ? f->p.node[1] : df->ip->buf);
		memset(&f->ptrs[f->lo - f->leaf_base], 0, (f->hi - f->lo + 1) * sizeof(*ptr));
		return;
	}
	for (unsigned l = 1; l <= f->nempty; l++) {
		struct fs_bptr_disk *q = l == h ? &root_of(df)[f->hi / pow84[h]] : &node_ptrs(f->p.node[l + 1])[f->hi / pow84[l] % MAP_FAN];

		fs_alloc_free(fs, tx, f->p.node[l]->addr, 1, le64_get(q->birth));
		subs_add(df, -1);
	}
	if (up <= h)
		fs_tx_buf(tx, f->p.node[up]);
	ptr = up > h ? &root_of(df)[f->hi / pow84[h]] : &node_ptrs(f->p.node[up])[f->hi / pow84[f->nempty] % MAP_FAN];
	memset(ptr, 0, sizeof(*ptr));
}

static int free_commit(struct fs *fs, struct data_file *df, struct free_leaf *f, struct map_cut *cut)
{
	fs_addr dead[MAP_MAX_HEIGHT];
	struct fs_tx tx;
	int rc = fs_log_reserve(fs, 0);

	if (rc)
		return rc;
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, df->ip->buf);
	for (unsigned i = 0; i < f->ngone; i++) {
		fs_alloc_free(fs, &tx, f->gone[i].addr, f->gone[i].subs, f->gone[i].birth);
		subs_add(df, -(int64_t)f->gone[i].subs);
	}
	free_unlink(fs, &tx, df, f);
	if (f->root_empty && cut && !cut->size && !f->lo) {
		fs_idisk(df->ip)->payload_type = FS_PL_NONE;
		fs_idisk(df->ip)->map_height = 0;
	}
	if (cut)
		fs_map_cut_tx(fs, &tx, df, cut, TS_MAX(cut->size, f->lo * fs->block_size));
	else
		fs_inode_update_tx(fs, &tx, df->ip);
	(void)fs_tx_commit(&tx);
	df->map_seq++;
	for (unsigned l = 1; l <= f->nempty; l++)
		dead[l - 1] = f->p.node[l]->addr;
	fs_map_done(fs, &f->p);
	for (unsigned l = 1; l <= f->nempty; l++)
		fs_buf_forget(fs, dead[l - 1]);
	return 0;
}

int fs_map_free(struct fs *fs, struct data_file *df, uint64_t from, uint64_t to, struct map_cut *cut)
{
	uint64_t pos;
	int rc = 0;

	ts_mutex_lock(&df->map_lock, "block map, to free");
	if (!df->ip->buf || !fs_map_is_tree(df->ip))
		goto out;
	to = TS_MIN(to, FS_INODE_PTRS * pow84[TS_MIN(fs_idisk(df->ip)->map_height, MAP_MAX_HEIGHT)]);
	for (pos = to; !rc && pos > from;) { /* pos: everything from here on is done */
		struct free_leaf f;

		memset(&f, 0, sizeof(f));
		rc = fs_map_walk(fs, df, pos - 1, &f.p);
		if (rc)
			break;
		if (f.p.level) {
			pos = f.p.base;
		} else {
			rc = free_plan(fs, df, &f, from, pos - 1);
			if (!rc && f.ngone)
				rc = free_commit(fs, df, &f, cut);
			pos = f.lo;
		}
		fs_map_done(fs, &f.p);
		if (!rc && df->ip->buf && !fs_map_is_tree(df->ip))
			break;
	}
out:
	ts_mutex_unlock(&df->map_lock);
	return rc;
}

/* The block keeps its first `keep` sub-blocks. */
int fs_map_trim(struct fs *fs, struct data_file *df, uint64_t idx, uint32_t keep, struct map_cut *cut)
{
	struct map_path p;
	struct fs_bmap m = {0};
	struct fs_tx tx;
	int rc;

	ts_mutex_lock(&df->map_lock, "block map, to trim");
	rc = fs_map_walk(fs, df, idx, &p);
	if (rc)
		goto out;
	if (p.ptr && !p.level)
		rc = fs_map_decode(fs, df->ip->ino, p.ptr, true, &m);
	if (!rc && m.addr && m.subs > keep)
		rc = fs_log_reserve(fs, 0);
	if (!rc && m.addr && m.subs > keep) {
		TS_ASSERT(keep);
		fs_tx_begin(fs, &tx);
		fs_tx_buf(&tx, df->ip->buf);
		if (p.height)
			fs_tx_buf(&tx, p.node[1]);
		fs_alloc_free(fs, &tx, m.addr + keep, m.subs - keep, m.birth);
		subs_add(df, (int64_t)keep - m.subs);
		p.ptr->subs = le16_make((uint16_t)keep);
		fs_map_cut_tx(fs, &tx, df, cut, cut->size);
		(void)fs_tx_commit(&tx);
		df->map_seq++;
	}
	fs_map_done(fs, &p);
out:
	ts_mutex_unlock(&df->map_lock);
	return rc;
}
