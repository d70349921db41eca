/* SPDX-License-Identifier: Apache-2.0 */
/* Job: extended attributes that one block does not hold: long values lie in extents of their own in data regions (written before
 * the transaction that points to them, never changed in place), and when names and short values need more than one block,
 * the inode points to an index of such blocks.
 * What must never happen: a transaction that grows with the number of attributes; a value given out whose checksum is wrong;
 * an extent that nobody names, or that two entries name. */
#include "fs/xattr_int.h"

#define LONG	  1024u			/* values longer than this leave the list when it is full */
#define LIST_MAX  65536u		/* of names, each with its end: more cannot be listed */
#define CROWDED	  (FS_XATTR_LEAVES / 2) /* from so many blocks on, short values leave, too */
#define EXT	  sizeof(struct fs_xattr_ext_disk)
#define TX_BLOCKS 12u

/* ---- external values ------------------------------------------------------------------------------------------------------ */
static uint32_t subs_of(size_t len)
{
	return (uint32_t)((len + FS_SUB - 1) / FS_SUB);
}

static struct fs_xattr_ext_disk ext_of(const struct fs_xattr_at *at)
{
	struct fs_xattr_ext_disk x;

	memcpy(&x, at->value, sizeof(x));
	return x;
}

fs_addr fs_xattr_ext_addr(const struct fs_xattr_at *at)
{
	struct fs_xattr_ext_disk x = ext_of(at);

	return le64_get(x.p.addr[0]);
}

bool fs_xattr_ext_sane(struct fs *fs, const struct fs_xattr_at *at)
{
	struct fs_xattr_ext_disk x = ext_of(at);
	uint32_t len = le32_get(x.len);

	return len && len <= FS_XATTR_VALUE_MAX && le16_get(x.p.subs) == subs_of(len) && !x.p.flags && !x.p.comp &&
	       !fs_io_check_addr(fs, le64_get(x.p.addr[0]), subs_of(len));
}

size_t fs_xattr_len(const struct fs_xattr_at *at)
{
	struct fs_xattr_ext_disk x;

	if (!(at->flags & FS_XE_EXT))
		return at->len;
	x = ext_of(at);
	return le32_get(x.len);
}

int fs_xattr_value(struct fs *fs, struct fs_inode *ip, const struct fs_xattr_at *at, void *out)
{
	struct fs_xattr_ext_disk x;
	size_t len = fs_xattr_len(at);
	uint8_t *buf;
	int rc;

	if (!(at->flags & FS_XE_EXT)) {
		memcpy(out, at->value, len);
		return 0;
	}
	x = ext_of(at);
	buf = ts_alloc_aligned(FS_SUB, (size_t)subs_of(len) * FS_SUB);
	if (!buf)
		return -ENOMEM;
	rc = fs_io_read(fs, le64_get(x.p.addr[0]), buf, (size_t)subs_of(len) * FS_SUB);
	if (!rc && ts_csum64(buf, len, 0) != le64_get(x.csum)) {
		ts_err("fs %s: a value of an extended attribute of inode %llu, disk %u sub %llu, is damaged; access gets EUCLEAN, run fsck",
		       fs->super.name, (unsigned long long)ip->ino, FS_ADDR_DISK(le64_get(x.p.addr[0])),
		       (unsigned long long)FS_ADDR_SUB(le64_get(x.p.addr[0])));
		rc = -EUCLEAN;
	}
	if (!rc)
		memcpy(out, buf, len);
	ts_free(buf);
	return rc;
}

/* Takes space for the value and writes it there: before the transaction that names it (law 3). */
static int ext_write(struct fs *fs, struct fs_inode *ip, const void *value, size_t len, struct fs_ext *e, struct fs_xattr_ext_disk *x)
{
	size_t n = (size_t)subs_of(len) * FS_SUB;
	uint8_t *buf;
	int rc = fs_alloc_take(fs, false, subs_of(len), 0, ip->ino, e);

	if (rc)
		return rc;
	buf = ts_alloc_aligned(FS_SUB, n);
	rc = buf ? 0 : -ENOMEM;
	if (buf) {
		memcpy(buf, value, len);
		memset(buf + len, 0, n - len);
		rc = fs_io_write(fs, e->addr, buf, n);
	}
	ts_free(buf);
	if (rc) {
		fs_alloc_untake(fs, e);
		e->subs = 0;
		return rc;
	}
	*x = (struct fs_xattr_ext_disk){.p = {.birth = le64_make(fs_version_next(fs)), .subs = le16_make((uint16_t)subs_of(len))},
					.len = le32_make((uint32_t)len),
					.csum = le64_make(ts_csum64(value, len, 0))};
	x->p.addr[0] = le64_make(e->addr);
	return 0;
}

/* ---- blocks behind an index ----------------------------------------------------------------------------------------------- */
static struct fs_xattr_index_disk *index_of(const struct fs_xattr_set *s)
{
	return (struct fs_xattr_index_disk *)s->index->data;
}

static struct fs_xattr_disk *leaf_of(const struct fs_xattr_set *s, unsigned i)
{
	return (struct fs_xattr_disk *)s->leaf[i]->data;
}

int fs_xattr_index_load(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s, fs_addr a)
{
	unsigned n;
	int rc = fs_io_check_addr(fs, a, 1);

	if (!rc)
		rc = fs_buf_get(fs, a, FS_BT_XATTRINDEX, TOK_INODE, ip->ino, &s->index);
	n = rc ? 0 : le16_get(index_of(s)->count);
	if (!rc && (!n || n > FS_XATTR_LEAVES))
		rc = -EUCLEAN;
	for (unsigned i = 0; i < n && !rc; i++) {
		rc = fs_xattr_block_get(fs, ip, le64_get(index_of(s)->p[i].addr[0]), &s->leaf[i]);
		s->nleaves += !rc;
	}
	return rc;
}

struct change {
	const char *name;
	const void *value; /* as it stands in the list */
	size_t len;
	uint8_t flags;
	const uint32_t *mode;
	bool was_there;
	struct fs_xattr_at old;
	struct fs_xattr_settle x;
	struct fs_xattr_ext_disk ext;
};

static size_t ent_len(const struct change *c)
{
	return c->value ? sizeof(struct fs_xattr_ent_disk) + strlen(c->name) + c->len : 0;
}

static void leaf_add(struct fs_tx *tx, struct fs_buf *b, const struct change *c)
{
	struct fs_xattr_disk *x = (struct fs_xattr_disk *)b->data;

	fs_tx_buf(tx, b);
	x->used = le16_make((uint16_t)fs_xattr_list_add(x->ents, le16_get(x->used), sizeof(x->ents), c->name, c->value, c->len, c->flags));
	TS_ASSERT(le16_get(x->used));
}

static void index_add(struct fs *fs, struct fs_xattr_index_disk *x, fs_addr a)
{
	unsigned n = le16_get(x->count);

	x->p[n] = (struct fs_bptr_disk){.birth = le64_make(fs_version_next(fs)), .subs = le16_make(1)};
	x->p[n].addr[0] = le64_make(a);
	x->count = le16_make((uint16_t)(n + 1));
}

static void block_commit(struct fs *fs, struct fs_tx *tx, struct fs_inode_disk *d, const struct fs_ext *e)
{
	fs_alloc_commit(fs, tx, e);
	d->subs = le64_make(le64_get(d->subs) + 1);
}

static void block_free(struct fs *fs, struct fs_tx *tx, struct fs_inode_disk *d, fs_addr a, uint64_t birth)
{
	fs_alloc_free(fs, tx, a, 1, birth);
	d->subs = le64_make(le64_get(d->subs) - TS_MIN(le64_get(d->subs), 1u));
}

static void new_drop(struct fs *fs, struct fs_ext *e, struct fs_buf *b)
{
	if (b)
		fs_buf_put(fs, b);
	if (e->subs)
		fs_alloc_untake(fs, e);
}

/* The list of one block, and what does not fit it any more, become two blocks behind an index. s->list ends with the new entry. */
static int grow(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s, const struct change *c)
{
	struct fs_ext e[3] = {{0}, {0}, {0}};
	struct fs_buf *b[3] = {NULL, NULL, s->blk}; /* index, second block, first block */
	struct fs_xattr_disk *first;
	struct fs_tx tx;
	int rc = 0;

	for (unsigned i = 0; i < 3 && !rc; i++) {
		if (b[i])
			continue;
		rc = fs_xattr_block_new(fs, ip->ino, ip->gen, i ? FS_BT_XATTR : FS_BT_XATTRINDEX, &e[i], &b[i]);
		if (rc)
			e[i].subs = 0;
	}
	if (!rc)
		rc = fs_log_reserve(fs, TX_BLOCKS * FS_SUB);
	if (rc) {
		for (unsigned i = 0; i < 3; i++)
			new_drop(fs, &e[i], b[i] == s->blk ? NULL : b[i]);
		return rc;
	}
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, ip->buf);
	for (unsigned i = 0; i < 3; i++) {
		fs_tx_buf(&tx, b[i]);
		if (e[i].subs)
			block_commit(fs, &tx, fs_idisk(ip), &e[i]);
	}
	first = (struct fs_xattr_disk *)b[2]->data;
	first->used = le16_make((uint16_t)(s->len - ent_len(c)));
	memcpy(first->ents, s->list, s->len - ent_len(c));
	memset(first->ents + (s->len - ent_len(c)), 0, sizeof(first->ents) - (s->len - ent_len(c)));
	leaf_add(&tx, b[1], c);
	index_add(fs, (struct fs_xattr_index_disk *)b[0]->data, b[2]->addr);
	index_add(fs, (struct fs_xattr_index_disk *)b[0]->data, b[1]->addr);
	fs_xattr_point_tx(fs, fs_idisk(ip), b[0]->addr, FS_BP_INDEX);
	fs_xattr_settle_tx(fs, &tx, fs_idisk(ip), &c->x);
	fs_xattr_touch_tx(fs, &tx, ip, c->mode);
	fs_tx_commit(&tx);
	for (unsigned i = 0; i < 3; i++) {
		if (b[i] != s->blk)
			fs_buf_put(fs, b[i]);
	}
	return 0;
}

/* Where the entry goes: its own block, another with room, a new one (nleaves); FS_XATTR_LEAVES: nowhere. */
static unsigned leaf_for(const struct fs_xattr_set *s, const struct change *c)
{
	size_t n = ent_len(c);

	if (c->was_there && le16_get(leaf_of(s, (unsigned)c->old.leaf)->used) - c->old.ent_len + n <= FS_XATTR_BLOCK_MAX)
		return (unsigned)c->old.leaf;
	for (unsigned i = 0; i < s->nleaves; i++) {
		if (le16_get(leaf_of(s, i)->used) + n <= FS_XATTR_BLOCK_MAX)
			return i;
	}
	return s->nleaves;
}

/* Takes block i out of the index; what is left of an index with one block or none is the block, or nothing. */
static void leaf_drop(struct fs *fs, struct fs_tx *tx, struct fs_inode *ip, struct fs_xattr_set *s, unsigned i)
{
	struct fs_xattr_index_disk *x = index_of(s);
	struct fs_inode_disk *d = fs_idisk(ip);
	unsigned last = le16_get(x->count) - 1u;
	struct fs_bptr_disk p = fs_xattr_pointer(ip);

	fs_tx_buf(tx, s->index);
	block_free(fs, tx, d, le64_get(x->p[i].addr[0]), le64_get(x->p[i].birth));
	x->p[i] = x->p[last];
	memset(&x->p[last], 0, sizeof(x->p[last]));
	x->count = le16_make((uint16_t)last);
	if (last <= 1) {
		fs_xattr_point_tx(fs, d, last ? le64_get(x->p[0].addr[0]) : 0, 0);
		block_free(fs, tx, d, le64_get(p.addr[0]), le64_get(p.birth));
	}
}

/* Blocks that were freed leave the cache, when nobody here has them pinned. */
static void leaves_forget(struct fs *fs, struct fs_xattr_set *s, fs_addr leaf, fs_addr index)
{
	fs_xattr_unload(fs, s);
	if (leaf)
		fs_buf_forget(fs, leaf);
	if (index)
		fs_buf_forget(fs, index);
}

static int change_leaves(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s, const struct change *c)
{
	unsigned to = c->value ? leaf_for(s, c) : FS_XATTR_LEAVES, from = c->was_there ? (unsigned)c->old.leaf : FS_XATTR_LEAVES;
	struct fs_ext e = {0};
	struct fs_buf *b = NULL;
	fs_addr gone = 0, index_gone = 0;
	struct fs_tx tx;
	int rc = c->value && to == FS_XATTR_LEAVES ? -ENOSPC : 0;

	if (!rc && to == s->nleaves)
		rc = fs_xattr_block_new(fs, ip->ino, ip->gen, FS_BT_XATTR, &e, &b);
	if (rc)
		return rc;
	rc = fs_log_reserve(fs, TX_BLOCKS * FS_SUB);
	if (rc) {
		new_drop(fs, &e, b);
		return rc;
	}
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, ip->buf);
	if (b) {
		block_commit(fs, &tx, fs_idisk(ip), &e);
		fs_tx_buf(&tx, s->index);
		index_add(fs, index_of(s), e.addr);
	}
	if (from != FS_XATTR_LEAVES) {
		size_t used = le16_get(leaf_of(s, from)->used);

		fs_tx_buf(&tx, s->leaf[from]);
		fs_xattr_list_remove(leaf_of(s, from)->ents, &used, &c->old);
		leaf_of(s, from)->used = le16_make((uint16_t)used);
	}
	if (c->value)
		leaf_add(&tx, b ? b : s->leaf[to], c);
	if (from != FS_XATTR_LEAVES && from != to && !le16_get(leaf_of(s, from)->used)) {
		gone = s->leaf[from]->addr;
		leaf_drop(fs, &tx, ip, s, from);
		if (le16_get(index_of(s)->count) <= 1)
			index_gone = s->index->addr;
	}
	fs_xattr_settle_tx(fs, &tx, fs_idisk(ip), &c->x);
	fs_xattr_touch_tx(fs, &tx, ip, c->mode);
	fs_tx_commit(&tx);
	if (b)
		fs_buf_put(fs, b);
	leaves_forget(fs, s, gone, index_gone);
	return 0;
}

/* ---- a change ------------------------------------------------------------------------------------------------------------- */
static bool may_grow(struct fs *fs, const struct fs_inode_disk *d)
{
	return le64_get(fs->super.feat_incompat) & FS_FEAT_XATTRS && d->payload_type != FS_PL_TARGET;
}

static size_t names_len(const struct fs_xattr_set *s)
{
	struct fs_xattr_at at;
	struct ts_rd r;
	size_t n = 0;

	for (unsigned i = 0; fs_xattr_part(s, i, &r); i++) {
		while (fs_xattr_next(&r, &at))
			n += at.name_len + 1;
	}
	return n;
}

/* Long values leave the list when they do not fit it. ACLs and the ends of targets never do. */
static bool leaves_list(const struct fs_xattr_set *s, const struct change *c)
{
	size_t fits = s->index ? LONG : FS_XATTR_BLOCK_MAX;

	if (!strncmp(c->name, "system.", 7))
		return false;
	if (!s->index && s->len + ent_len(c) > FS_XATTR_BLOCK_MAX)
		fits = LONG;
	else if (!s->index)
		return false;
	if (s->nleaves > CROWDED)
		fits = EXT;
	return c->len > fits;
}

static int change_list(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s, struct change *c)
{
	const struct fs_inode_disk *d = fs_idisk(ip);
	size_t n;

	if (!c->value)
		return fs_xattr_store(fs, ip, s, c->mode, &c->x);
	n = fs_xattr_list_add(s->list, s->len, sizeof(s->list), c->name, c->value, c->len, c->flags);
	if (!n)
		return -ENOSPC;
	s->len = n;
	if (n <= FS_XATTR_BLOCK_MAX)
		return fs_xattr_store(fs, ip, s, c->mode, &c->x);
	if (!may_grow(fs, d) || ent_len(c) > FS_XATTR_BLOCK_MAX || n - ent_len(c) > FS_XATTR_BLOCK_MAX)
		return -ENOSPC;
	if (!s->blk && fs_xattr_front(d) + sizeof(struct fs_bptr_disk) > FS_INODE_PAYLOAD)
		return S_ISREG(le16_get(d->mode)) && d->payload_type == FS_PL_INLINE ? -TS_ERR_MOVED : -ENOSPC;
	return grow(fs, ip, s, c);
}

int fs_xattr_change(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s, const char *name, const void *value, size_t len,
		    const uint32_t *mode)
{
	struct change c = {.name = name, .value = value, .len = len, .mode = mode};
	int rc = 0;

	c.was_there = fs_xattr_lookup(s, name, &c.old);
	if (c.was_there && c.old.flags & FS_XE_EXT)
		c.x.freed = ext_of(&c.old).p;
	if (value && !c.was_there && names_len(s) + strlen(name) + 1 > LIST_MAX)
		return -ENOSPC;
	if (c.was_there && !s->index)
		fs_xattr_list_remove(s->list, &s->len, &c.old);
	if (value && leaves_list(s, &c)) {
		if (!(le64_get(fs->super.feat_incompat) & FS_FEAT_XATTRS) || len > FS_XATTR_VALUE_MAX)
			return -ENOSPC;
		rc = ext_write(fs, ip, value, len, &c.x.taken, &c.ext);
		c.value = &c.ext;
		c.len = sizeof(c.ext);
		c.flags = FS_XE_EXT;
	}
	if (!rc)
		rc = s->index ? change_leaves(fs, ip, s, &c) : change_list(fs, ip, s, &c);
	if (rc && c.x.taken.subs)
		fs_alloc_untake(fs, &c.x.taken);
	return rc;
}

/* ---- the end of an inode ------------------------------------------------------------------------------------------------------ */
static void free_values(struct fs *fs, struct fs_tx *tx, struct fs_inode_disk *d, struct ts_rd r)
{
	struct fs_xattr_settle x = {.taken = {0}};
	struct fs_xattr_at at;

	while (fs_xattr_next(&r, &at)) {
		if (!(at.flags & FS_XE_EXT))
			continue;
		x.freed = ext_of(&at).p;
		fs_xattr_settle_tx(fs, tx, d, &x);
	}
}

/* One transaction: the last block and its values, or the list and its values. */
static int free_some(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s)
{
	struct fs_bptr_disk p = fs_xattr_pointer(ip);
	fs_addr gone = 0, index_gone = 0;
	struct ts_rd r;
	struct fs_tx tx;
	int rc = fs_log_reserve(fs, TX_BLOCKS * FS_SUB);

	if (rc)
		return rc;
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, ip->buf);
	(void)fs_xattr_part(s, s->nleaves, &r);
	free_values(fs, &tx, fs_idisk(ip), r);
	if (s->index) {
		gone = s->leaf[s->nleaves - 1]->addr;
		leaf_drop(fs, &tx, ip, s, s->nleaves - 1);
		index_gone = le16_get(index_of(s)->count) <= 1 ? s->index->addr : 0;
	} else {
		gone = le64_get(p.addr[0]);
		fs_xattr_point_tx(fs, fs_idisk(ip), 0, 0);
		if (gone)
			block_free(fs, &tx, fs_idisk(ip), gone, le64_get(p.birth));
	}
	fs_tx_commit(&tx);
	leaves_forget(fs, s, gone, index_gone);
	return 0;
}

int fs_xattr_free_all(struct fs *fs, struct fs_inode *ip)
{
	struct fs_xattr_set *s;
	int rc = 0;

	if (!le16_get(fs_idisk(ip)->xattr_len) && !(le32_get(fs_idisk(ip)->flags) & FS_IF_XATTR_BLOCK))
		return 0;
	s = ts_alloc(sizeof(*s));
	if (!s)
		return -ENOMEM;
	while (!rc && (le16_get(fs_idisk(ip)->xattr_len) || le32_get(fs_idisk(ip)->flags) & FS_IF_XATTR_BLOCK)) {
		rc = fs_xattr_load(fs, ip, s);
		if (!rc)
			rc = free_some(fs, ip, s);
		fs_xattr_unload(fs, s);
	}
	ts_free(s);
	return rc;
}
