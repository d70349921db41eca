/* SPDX-License-Identifier: Apache-2.0 */
/* Job: extended attributes of an inode: a packed list in the payload's tail, or in one block when they do not fit there. What
 * does not fit one block is xattr_big.c's.
 *
 *   payload:  [front: data, entries or pointers] ... free ... [inline list: xattr_len] [block pointer: 48 if XATTR_BLOCK]
 *
 * An inline list never exceeds one block, so that it can always move out of the way of a growing front.
 * What must never happen: a length from disk believed, or a front and a list that overlap. */
#include "fs/xattr_int.h"

#define PTR ((unsigned)sizeof(struct fs_bptr_disk))

unsigned fs_xattr_front(const struct fs_inode_disk *d)
{
	switch (d->payload_type) {
	case FS_PL_INLINE:
	case FS_PL_DIRINLINE:
	case FS_PL_TARGET:
		return le16_get(d->inline_len);
	case FS_PL_MAP:
	case FS_PL_DIRTREE:
		return FS_INODE_PTRS * PTR;
	case FS_PL_DEVICE:
		return sizeof(le64);
	default:
		return 0;
	}
}

static bool has_block(const struct fs_inode_disk *d)
{
	return le32_get(d->flags) & FS_IF_XATTR_BLOCK;
}

static uint8_t *tail_ptr(struct fs_inode_disk *d)
{
	return d->payload + FS_INODE_PAYLOAD - PTR;
}

static uint8_t *inline_list(struct fs_inode_disk *d)
{
	return d->payload + FS_INODE_PAYLOAD - (has_block(d) ? PTR : 0) - le16_get(d->xattr_len);
}

struct fs_bptr_disk fs_xattr_pointer(struct fs_inode *ip)
{
	struct fs_bptr_disk p = {.flags = 0};

	if (has_block(fs_idisk(ip)))
		memcpy(&p, tail_ptr(fs_idisk(ip)), sizeof(p));
	return p;
}

unsigned fs_xattr_inline_room(struct fs_inode *ip)
{
	const struct fs_inode_disk *d = fs_idisk(ip);
	unsigned used = le16_get(d->xattr_len) + (has_block(d) ? PTR : 0);

	return used > FS_INODE_PAYLOAD ? 0 : FS_INODE_PAYLOAD - used;
}

/* Most bytes of inline list beside this front. Fronts that cannot be moved out keep a place for the pointer of a block. */
static unsigned inline_max(const struct fs_inode_disk *d)
{
	unsigned front = fs_xattr_front(d);
	bool movable = d->payload_type == FS_PL_INLINE && S_ISREG(le16_get(d->mode));
	unsigned keep = movable ? 0 : PTR;

	if (front + keep >= FS_INODE_PAYLOAD)
		return 0;
	return TS_MIN(FS_INODE_PAYLOAD - front - keep, (unsigned)FS_XATTR_INLINE_MAX);
}

/* ---- the packed list ------------------------------------------------------------------------------------------------- */
bool fs_xattr_next(struct ts_rd *r, struct fs_xattr_at *at)
{
	const struct fs_xattr_ent_disk *e;

	if (!r->left)
		return false;
	e = ts_rd_bytes(r, sizeof(*e));
	if (!e || !e->name_len || e->flags & ~FS_XE_EXT) {
		r->bad = true;
		return false;
	}
	*at = (struct fs_xattr_at){.ent = e, .name_len = e->name_len, .len = le16_get(e->value_len), .flags = e->flags, .leaf = -1};
	at->name = ts_rd_bytes(r, at->name_len);
	at->value = ts_rd_bytes(r, at->len);
	at->ent_len = sizeof(*e) + at->name_len + at->len;
	if (at->flags & FS_XE_EXT && at->len != sizeof(struct fs_xattr_ext_disk))
		r->bad = true;
	return !r->bad;
}

static bool find(struct ts_rd r, const char *name, struct fs_xattr_at *at)
{
	while (fs_xattr_next(&r, at)) {
		if (at->name_len == strlen(name) && !memcmp(at->name, name, at->name_len))
			return true;
	}
	return false;
}

uint8_t *fs_xattr_find(uint8_t *list, size_t list_len, const char *name, size_t *len)
{
	struct fs_xattr_at at;

	if (!find((struct ts_rd){.p = list, .left = list_len}, name, &at))
		return NULL;
	*len = at.len;
	return list + (at.value - list);
}

bool fs_xattr_part(const struct fs_xattr_set *s, unsigned i, struct ts_rd *out)
{
	const struct fs_xattr_disk *x;

	if (i > s->nleaves)
		return false;
	*out = (struct ts_rd){.p = s->list, .left = s->len};
	if (i) {
		x = (const struct fs_xattr_disk *)s->leaf[i - 1]->data;
		*out = (struct ts_rd){.p = x->ents, .left = le16_get(x->used)};
	}
	return true;
}

bool fs_xattr_lookup(const struct fs_xattr_set *s, const char *name, struct fs_xattr_at *at)
{
	struct ts_rd r;

	for (unsigned i = 0; fs_xattr_part(s, i, &r); i++) {
		if (!find(r, name, at))
			continue;
		at->leaf = (int)i - 1;
		return true;
	}
	return false;
}

void fs_xattr_list_remove(uint8_t *list, size_t *len, const struct fs_xattr_at *at)
{
	size_t start = (size_t)((const uint8_t *)at->ent - list), n = at->ent_len;

	memmove(list + start, list + start + n, *len - start - n);
	*len -= n;
	memset(list + *len, 0, n);
}

size_t fs_xattr_list_add(uint8_t *list, size_t used, size_t room, const char *name, const void *value, size_t len, uint8_t flags)
{
	struct fs_xattr_ent_disk e = {.name_len = (uint8_t)strlen(name), .flags = flags, .value_len = le16_make((uint16_t)len)};
	struct ts_wr w = {.p = list + used, .left = room - used};

	if (len > UINT16_MAX || sizeof(e) + e.name_len + len > w.left)
		return 0;
	ts_wr_bytes(&w, &e, sizeof(e));
	ts_wr_bytes(&w, name, e.name_len);
	ts_wr_bytes(&w, value, len);
	return w.bad ? 0 : used + w.used;
}

/* ---- reading --------------------------------------------------------------------------------------------------------- */
int fs_xattr_block_get(struct fs *fs, struct fs_inode *ip, fs_addr a, struct fs_buf **out)
{
	int rc = fs_io_check_addr(fs, a, 1);

	*out = NULL;
	if (!rc)
		rc = fs_buf_get(fs, a, FS_BT_XATTR, TOK_INODE, ip->ino, out);
	if (!rc && le16_get(((struct fs_xattr_disk *)(*out)->data)->used) > FS_XATTR_BLOCK_MAX) {
		fs_buf_put(fs, *out);
		*out = NULL;
		rc = -EUCLEAN;
	}
	return rc;
}

static bool list_sane(struct fs *fs, struct ts_rd r)
{
	struct fs_xattr_at at;

	while (fs_xattr_next(&r, &at)) {
		if (at.flags & FS_XE_EXT && !fs_xattr_ext_sane(fs, &at))
			return false;
	}
	return !r.bad;
}

/* No index: the list is what the inode has and then what its block has. */
static int list_load(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s, fs_addr block)
{
	struct fs_inode_disk *d;
	int rc = block ? fs_xattr_block_get(fs, ip, block, &s->blk) : 0;

	if (rc)
		return rc;
	d = fs_idisk(ip);
	s->len = le16_get(d->xattr_len); /* checked when the inode was read: front, list and pointer fit the payload */
	memcpy(s->list, inline_list(d), s->len);
	if (s->blk) {
		const struct fs_xattr_disk *x = (struct fs_xattr_disk *)s->blk->data;

		memcpy(s->list + s->len, x->ents, le16_get(x->used));
		s->len += le16_get(x->used);
	}
	return 0;
}

int fs_xattr_load(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s)
{
	struct fs_bptr_disk p = fs_xattr_pointer(ip);
	fs_addr a = le64_get(p.addr[0]);
	struct ts_rd r;
	bool sane;
	int rc;

	s->blk = s->index = NULL;
	s->len = s->nleaves = 0;
	if (p.flags & FS_BP_INDEX)
		rc = fs_xattr_index_load(fs, ip, s, a);
	else if (has_block(fs_idisk(ip)) && !a)
		rc = -EUCLEAN;
	else
		rc = list_load(fs, ip, s, a);
	if (rc)
		return rc;
	sane = !s->index || !le16_get(fs_idisk(ip)->xattr_len);
	for (unsigned i = 0; sane && fs_xattr_part(s, i, &r); i++)
		sane = list_sane(fs, r);
	if (!sane) {
		ts_err("fs %s: xattrs of inode %llu contradict themselves; access gets EUCLEAN, run fsck", fs->super.name,
		       (unsigned long long)ip->ino);
		return -EUCLEAN;
	}
	return 0;
}

void fs_xattr_unload(struct fs *fs, struct fs_xattr_set *s)
{
	while (s->nleaves)
		fs_buf_put(fs, s->leaf[--s->nleaves]);
	if (s->index)
		fs_buf_put(fs, s->index);
	if (s->blk)
		fs_buf_put(fs, s->blk);
	s->blk = s->index = NULL;
}

/* ---- writing --------------------------------------------------------------------------------------------------------- */
static void list_to_block(struct fs_buf *b, const uint8_t *list, size_t len)
{
	struct fs_xattr_disk *x = (struct fs_xattr_disk *)b->data;

	x->used = le16_make((uint16_t)len);
	memcpy(x->ents, list, len);
	memset(x->ents + len, 0, sizeof(x->ents) - len);
}

static void clear_tail(struct fs_inode_disk *d)
{
	uint8_t *p = inline_list(d);

	memset(p, 0, (size_t)(d->payload + FS_INODE_PAYLOAD - p));
	d->xattr_len = le16_make(0);
}

static void subs_less(struct fs_inode_disk *d, uint64_t n)
{
	d->subs = le64_make(le64_get(d->subs) - TS_MIN(le64_get(d->subs), n));
}

void fs_xattr_settle_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode_disk *d, const struct fs_xattr_settle *x)
{
	if (x->taken.subs) {
		fs_alloc_commit(fs, tx, &x->taken);
		d->subs = le64_make(le64_get(d->subs) + x->taken.subs);
	}
	if (le64_get(x->freed.addr[0])) {
		fs_alloc_free(fs, tx, le64_get(x->freed.addr[0]), le16_get(x->freed.subs), le64_get(x->freed.birth));
		subs_less(d, le16_get(x->freed.subs));
	}
}

void fs_xattr_point_tx(struct fs *fs, struct fs_inode_disk *d, fs_addr a, uint8_t flags)
{
	struct fs_bptr_disk p = {.birth = le64_make(fs_version_next(fs)), .subs = le16_make(1), .flags = flags};

	clear_tail(d);
	d->flags = le32_make((le32_get(d->flags) & ~(uint32_t)FS_IF_XATTR_BLOCK) | (a ? FS_IF_XATTR_BLOCK : 0));
	p.addr[0] = le64_make(a);
	if (a)
		memcpy(tail_ptr(d), &p, sizeof(p));
}

/* The inode's buffer is in tx. The list goes inline and a block, if any, is freed. */
static void store_inline(struct fs *fs, struct fs_tx *tx, struct fs_inode *ip, const uint8_t *list, size_t len)
{
	struct fs_inode_disk *d = fs_idisk(ip);
	struct fs_bptr_disk p = fs_xattr_pointer(ip);

	if (le64_get(p.addr[0])) {
		fs_alloc_free(fs, tx, le64_get(p.addr[0]), 1, le64_get(p.birth));
		subs_less(d, 1);
	}
	fs_xattr_point_tx(fs, d, 0, 0);
	d->xattr_len = le16_make((uint16_t)len);
	if (len)
		memcpy(inline_list(d), list, len);
}

/* The list goes into the block: the one there is, or a new one with its space e. */
static void store_block(struct fs *fs, struct fs_tx *tx, struct fs_inode_disk *d, struct fs_buf *b, const struct fs_ext *e,
			const uint8_t *list, size_t len)
{
	fs_tx_buf(tx, b);
	list_to_block(b, list, len);
	if (!e) {
		memset(inline_list(d), 0, le16_get(d->xattr_len));
		d->xattr_len = le16_make(0);
		return;
	}
	fs_alloc_commit(fs, tx, e);
	d->subs = le64_make(le64_get(d->subs) + 1);
	fs_xattr_point_tx(fs, d, e->addr, 0);
}

/* Space and buffer for a list that leaves the inode: before the transaction. */
int fs_xattr_block_new(struct fs *fs, uint64_t ino, uint32_t gen, enum fs_block_type type, struct fs_ext *e, struct fs_buf **b)
{
	int rc = fs_alloc_take(fs, true, 1, 0, ino, e);

	if (rc)
		return rc;
	rc = fs_buf_new(fs, e->addr, type, TOK_INODE, ino, gen, b);
	if (rc)
		fs_alloc_untake(fs, e);
	return rc;
}

void fs_xattr_touch_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *ip, const uint32_t *mode)
{
	struct fs_inode_disk *d = fs_idisk(ip);

	if (mode)
		d->mode = le16_make((uint16_t)((le16_get(d->mode) & ~07777u) | (*mode & 07777)));
	ip->ctime_ns = fs_now_ns(fs);
	fs_inode_update_tx(fs, tx, ip);
}

static int store_in_inode(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s, const uint32_t *mode, const struct fs_xattr_settle *x)
{
	struct fs_bptr_disk p = fs_xattr_pointer(ip);
	fs_addr freed = le64_get(p.addr[0]);
	struct fs_tx tx;
	int rc = fs_log_reserve(fs, 5 * FS_SUB);

	if (rc)
		return rc;
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, ip->buf);
	store_inline(fs, &tx, ip, s->list, s->len);
	fs_xattr_settle_tx(fs, &tx, fs_idisk(ip), x);
	fs_xattr_touch_tx(fs, &tx, ip, mode);
	fs_tx_commit(&tx);
	fs_xattr_unload(fs, s);
	if (freed)
		fs_buf_forget(fs, freed);
	return 0;
}

static int store_in_block(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s, const uint32_t *mode, const struct fs_xattr_settle *x)
{
	struct fs_buf *b = s->blk;
	struct fs_ext e = {0};
	struct fs_tx tx;
	int rc = b ? 0 : fs_xattr_block_new(fs, ip->ino, ip->gen, FS_BT_XATTR, &e, &b);

	if (rc)
		return rc;
	rc = fs_log_reserve(fs, 8 * FS_SUB);
	if (rc) {
		if (e.subs)
			fs_alloc_untake(fs, &e);
	} else {
		fs_tx_begin(fs, &tx);
		fs_tx_buf(&tx, ip->buf);
		store_block(fs, &tx, fs_idisk(ip), b, e.subs ? &e : NULL, s->list, s->len);
		fs_xattr_settle_tx(fs, &tx, fs_idisk(ip), x);
		fs_xattr_touch_tx(fs, &tx, ip, mode);
		fs_tx_commit(&tx);
	}
	if (!s->blk)
		fs_buf_put(fs, b);
	return rc;
}

int fs_xattr_store(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s, const uint32_t *mode, const struct fs_xattr_settle *x)
{
	const struct fs_inode_disk *d = fs_idisk(ip);

	TS_ASSERT(s->len <= FS_XATTR_BLOCK_MAX);
	if (s->len <= inline_max(d))
		return store_in_inode(fs, ip, s, mode, x);
	if (!s->blk && fs_xattr_front(d) + PTR > FS_INODE_PAYLOAD)
		return S_ISREG(le16_get(d->mode)) && d->payload_type == FS_PL_INLINE ? -TS_ERR_MOVED : -ENOSPC;
	return store_in_block(fs, ip, s, mode, x);
}

int fs_xattr_make_room(struct fs *fs, struct fs_inode *ip, unsigned front)
{
	struct fs_xattr_set *s;
	int rc;

	TS_ASSERT(front <= FS_INODE_PTRS * PTR);
	if (fs_xattr_inline_room(ip) >= front || !le16_get(fs_idisk(ip)->xattr_len))
		return fs_xattr_inline_room(ip) >= front ? 0 : -EUCLEAN;
	s = ts_alloc(sizeof(*s));
	if (!s)
		return -ENOMEM;
	rc = fs_xattr_load(fs, ip, s);
	if (!rc && fs_xattr_front(fs_idisk(ip)) + PTR > FS_INODE_PAYLOAD)
		rc = -EUCLEAN; /* a list and a front this long never were together */
	if (!rc && s->len > FS_XATTR_BLOCK_MAX)
		rc = -EUCLEAN;
	if (!rc)
		rc = store_in_block(fs, ip, s, NULL, &(struct fs_xattr_settle){.taken = {0}});
	fs_xattr_unload(fs, s);
	ts_free(s);
	return rc;
}

/* ---- long symlink targets ---------------------------------------------------------------------------------------------- */
int fs_xattr_target_prepare(struct fs *fs, uint64_t ino, uint32_t gen, struct fs_ext *e, struct fs_buf **b)
{
	return fs_xattr_block_new(fs, ino, gen, FS_BT_XATTR, e, b);
}

void fs_xattr_target_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode_disk *d, struct fs_buf *b, const struct fs_ext *e,
			const char *rest, size_t len)
{
	uint8_t list[sizeof(struct fs_xattr_ent_disk) + sizeof(FS_XATTR_TARGET) + FS_TARGET_MAX - FS_TARGET_INLINE];
	size_t n = fs_xattr_list_add(list, 0, sizeof(list), FS_XATTR_TARGET, rest, len, 0);

	TS_ASSERT(n);
	store_block(fs, tx, d, b, e, list, n);
}

int fs_xattr_target_rest(struct fs *fs, struct fs_inode *ip, char *rest, size_t size)
{
	struct fs_xattr_set *s = ts_alloc(sizeof(*s));
	const uint8_t *v;
	size_t len;
	int rc;

	if (!s)
		return -ENOMEM;
	rc = fs_xattr_load(fs, ip, s);
	v = rc ? NULL : fs_xattr_find(s->list, s->len, FS_XATTR_TARGET, &len);
	if (!rc && (!v || len > FS_TARGET_MAX - FS_TARGET_INLINE))
		rc = -EUCLEAN;
	if (!rc) {
		rc = (int)TS_MIN(len, size);
		memcpy(rest, v, (size_t)rc);
	}
	fs_xattr_unload(fs, s);
	ts_free(s);
	return rc;
}
