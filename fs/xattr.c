/* SPDX-License-Identifier: Apache-2.0 */
/* Job: extended attributes of an inode: a packed list in the payload's tail, or in one block when they do not fit there.
 *
 *   payload:  [front: data, entries or pointers] ... free ... [inline list: xattr_len] [block pointer: 48 if XATTR_BLOCK]
 *
 * Together they never exceed one block, so that the inline list can always move out of the way of a growing front.
 * What must never happen: a length from disk believed, or a front and a list that overlap. */
#include "fs/xattr_int.h"

#define PTR ((unsigned)sizeof(struct fs_bptr_disk))

static unsigned front_of(const struct fs_inode_disk *d)
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

fs_addr fs_xattr_block(struct fs_inode *ip)
{
	struct fs_bptr_disk p;

	if (!has_block(fs_idisk(ip)))
		return 0;
	memcpy(&p, tail_ptr(fs_idisk(ip)), sizeof(p));
	return le64_get(p.addr[0]);
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
	unsigned front = front_of(d);
	bool movable = d->payload_type == FS_PL_INLINE && S_ISREG(le16_get(d->mode));
	unsigned keep = movable ? 0 : PTR;

	if (front + keep >= FS_INODE_PAYLOAD)
		return 0;
	return TS_MIN(FS_INODE_PAYLOAD - front - keep, (unsigned)FS_XATTR_INLINE_MAX);
}

/* ---- the packed list ------------------------------------------------------------------------------------------------- */
bool fs_xattr_next(struct ts_rd *r, const char **name, size_t *name_len, const uint8_t **value, size_t *len)
{
	const struct fs_xattr_ent_disk *e;

	if (!r->left)
		return false;
	e = ts_rd_bytes(r, sizeof(*e));
	if (!e || !e->name_len) {
		r->bad = true;
		return false;
	}
	*name_len = e->name_len;
	*len = le16_get(e->value_len);
	*name = ts_rd_bytes(r, *name_len);
	*value = ts_rd_bytes(r, *len);
	return !r->bad;
}

uint8_t *fs_xattr_find(uint8_t *list, size_t list_len, const char *name, size_t *len)
{
	struct ts_rd r = {.p = list, .left = list_len};
	const uint8_t *value;
	const char *n;
	size_t nl;

	while (fs_xattr_next(&r, &n, &nl, &value, len)) {
		if (nl == strlen(name) && !memcmp(n, name, nl))
			return list + (value - list);
	}
	return NULL;
}

void fs_xattr_set_remove(struct fs_xattr_set *s, const char *name)
{
	size_t len, start;
	uint8_t *v = fs_xattr_find(s->list, s->len, name, &len);

	if (!v)
		return;
	start = (size_t)(v - s->list) - strlen(name) - sizeof(struct fs_xattr_ent_disk);
	memmove(s->list + start, v + len, s->len - (size_t)(v + len - s->list));
	s->len -= (size_t)(v + len - s->list) - start;
}

static size_t list_add(uint8_t *list, size_t used, size_t room, const char *name, const void *value, size_t len)
{
	struct fs_xattr_ent_disk e = {.name_len = (uint8_t)strlen(name), .value_len = le16_make((uint16_t)len)};
	struct ts_wr w = {.p = list + used, .left = room - used};

	ts_wr_bytes(&w, &e, sizeof(e));
	ts_wr_bytes(&w, name, e.name_len);
	ts_wr_bytes(&w, value, len);
	return w.bad ? 0 : used + w.used;
}

int fs_xattr_set_add(struct fs_xattr_set *s, const char *name, const void *value, size_t len)
{
	size_t n = len > FS_XATTR_BLOCK_MAX ? 0 : list_add(s->list, s->len, sizeof(s->list), name, value, len);

	if (!n || n > FS_XATTR_BLOCK_MAX)
		return -ENOSPC;
	s->len = n;
	return 0;
}

/* ---- reading --------------------------------------------------------------------------------------------------------- */
static int block_get(struct fs *fs, struct fs_inode *ip, struct fs_buf **out)
{
	fs_addr a = fs_xattr_block(ip);
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

static bool list_sane(const uint8_t *list, size_t len)
{
	struct ts_rd r = {.p = list, .left = len};
	const uint8_t *value;
	const char *n;
	size_t nl, vl;

	while (fs_xattr_next(&r, &n, &nl, &value, &vl))
		;
	return !r.bad;
}

int fs_xattr_load(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s)
{
	struct fs_inode_disk *d = fs_idisk(ip);
	int rc = 0;

	s->blk = NULL;
	s->len = 0;
	if (has_block(d))
		rc = block_get(fs, ip, &s->blk);
	if (rc)
		return rc;
	s->len = le16_get(d->xattr_len); /* checked when the inode was read: front, list and pointer fit the payload */
	memcpy(s->list, inline_list(d), s->len);
	if (s->blk) {
		const struct fs_xattr_disk *x = (struct fs_xattr_disk *)s->blk->data;

		memcpy(s->list + s->len, x->ents, le16_get(x->used));
		s->len += le16_get(x->used);
	}
	if (!list_sane(s->list, s->len)) {
		ts_err("fs %s: xattrs of inode %llu contradict themselves; access gets EUCLEAN, run fsck", fs->super.name,
		       (unsigned long long)ip->ino);
		return -EUCLEAN;
	}
	return 0;
}

void fs_xattr_unload(struct fs *fs, struct fs_xattr_set *s)
{
	if (s->blk)
		fs_buf_put(fs, s->blk);
	s->blk = NULL;
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

/* The inode's buffer is in tx. The list goes inline and a block, if any, is freed. */
static void store_inline(struct fs *fs, struct fs_tx *tx, struct fs_inode *ip, const uint8_t *list, size_t len)
{
	struct fs_inode_disk *d = fs_idisk(ip);
	fs_addr a = fs_xattr_block(ip);

	if (a) {
		struct fs_bptr_disk p;

		memcpy(&p, tail_ptr(d), sizeof(p));
		fs_alloc_free(fs, tx, a, 1, le64_get(p.birth));
		d->subs = le64_make(le64_get(d->subs) - TS_MIN(le64_get(d->subs), 1u));
	}
	clear_tail(d);
	d->flags = le32_make(le32_get(d->flags) & ~(uint32_t)FS_IF_XATTR_BLOCK);
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
	clear_tail(d);
	fs_alloc_commit(fs, tx, e);
	d->flags = le32_make(le32_get(d->flags) | FS_IF_XATTR_BLOCK);
	d->subs = le64_make(le64_get(d->subs) + 1);
	struct fs_bptr_disk p = {.birth = le64_make(fs_version_next(fs)), .subs = le16_make(1)};

	p.addr[0] = le64_make(e->addr);
	memcpy(tail_ptr(d), &p, sizeof(p));
}

/* Space and buffer for a list that leaves the inode: before the transaction. */
static int block_prepare(struct fs *fs, uint64_t ino, uint32_t gen, struct fs_ext *e, struct fs_buf **b)
{
	int rc = fs_alloc_take(fs, true, 1, 0, ino, e);

	if (rc)
		return rc;
	rc = fs_buf_new(fs, e->addr, FS_BT_XATTR, TOK_INODE, ino, gen, b);
	if (rc)
		fs_alloc_untake(fs, e);
	return rc;
}

static void touch(struct fs *fs, struct fs_tx *tx, struct fs_inode *ip, const uint32_t *mode)
{
	struct fs_inode_disk *d = fs_idisk(ip);

	if (mode)
		d->mode = le16_make((uint16_t)((le16_get(d->mode) & ~07777u) | (*mode & 07777)));
	ip->ctime_ns = fs_now_ns(fs);
	fs_inode_update_tx(fs, tx, ip);
}

static int store_in_inode(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s, const uint32_t *mode)
{
	fs_addr freed = fs_xattr_block(ip);
	struct fs_tx tx;
	int rc = fs_log_reserve(fs, 3 * FS_SUB);

	if (rc)
		return rc;
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, ip->buf);
	store_inline(fs, &tx, ip, s->list, s->len);
	touch(fs, &tx, ip, mode);
	fs_tx_commit(&tx);
	fs_xattr_unload(fs, s);
	if (freed)
		fs_buf_forget(fs, freed);
	return 0;
}

static int store_in_block(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s, const uint32_t *mode)
{
	struct fs_buf *b = s->blk;
	struct fs_ext e = {0};
	struct fs_tx tx;
	int rc = b ? 0 : block_prepare(fs, ip->ino, ip->gen, &e, &b);

	if (rc)
		return rc;
	rc = fs_log_reserve(fs, 6 * FS_SUB);
	if (rc) {
		if (e.subs)
			fs_alloc_untake(fs, &e);
	} else {
		fs_tx_begin(fs, &tx);
		fs_tx_buf(&tx, ip->buf);
		store_block(fs, &tx, fs_idisk(ip), b, e.subs ? &e : NULL, s->list, s->len);
		touch(fs, &tx, ip, mode);
		fs_tx_commit(&tx);
	}
	if (!s->blk)
		fs_buf_put(fs, b);
	return rc;
}

int fs_xattr_store(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s, const uint32_t *mode)
{
	const struct fs_inode_disk *d = fs_idisk(ip);

	TS_ASSERT(s->len <= FS_XATTR_BLOCK_MAX);
	if (s->len <= inline_max(d))
		return store_in_inode(fs, ip, s, mode);
	if (!s->blk && front_of(d) + PTR > FS_INODE_PAYLOAD)
		return S_ISREG(le16_get(d->mode)) && d->payload_type == FS_PL_INLINE ? -TS_ERR_MOVED : -ENOSPC;
	return store_in_block(fs, ip, s, mode);
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
	if (!rc && front_of(fs_idisk(ip)) + PTR > FS_INODE_PAYLOAD)
		rc = -EUCLEAN; /* a list and a front this long never were together */
	if (!rc && s->len > FS_XATTR_BLOCK_MAX)
		rc = -EUCLEAN;
	if (!rc)
		rc = store_in_block(fs, ip, s, NULL);
	fs_xattr_unload(fs, s);
	ts_free(s);
	return rc;
}

/* ---- long symlink targets ---------------------------------------------------------------------------------------------- */
int fs_xattr_target_prepare(struct fs *fs, uint64_t ino, uint32_t gen, struct fs_ext *e, struct fs_buf **b)
{
	return block_prepare(fs, ino, gen, e, b);
}

void fs_xattr_target_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode_disk *d, struct fs_buf *b, const struct fs_ext *e,
			const char *rest, size_t len)
{
	uint8_t list[sizeof(struct fs_xattr_ent_disk) + sizeof(FS_XATTR_TARGET) + FS_TARGET_MAX - FS_TARGET_INLINE];
	size_t n = list_add(list, 0, sizeof(list), FS_XATTR_TARGET, rest, len);

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

int fs_xattr_free_blocks_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *ip)
{
	if (has_block(fs_idisk(ip))) {
		fs_tx_buf(tx, ip->buf);
		store_inline(fs, tx, ip, NULL, 0);
	}
	return 0;
}

/* ---- inheritance ------------------------------------------------------------------------------------------------------ */
static int inherit_acl(uint8_t *acl, size_t acl_len, uint32_t *mode, uint8_t *list, uint16_t *len)
{
	size_t n = 0;
	uint8_t *copy;

	if (S_ISDIR(*mode)) {
		n = list_add(list, 0, FS_XATTR_INLINE_MAX, FS_ACL_DEFAULT, acl, acl_len);
		if (!n)
			return -ENOSPC;
	}
	copy = acl; /* the set is the caller's own copy: changed in place */
	if (fs_acl_create(copy, acl_len, mode)) {
		n = list_add(list, n, FS_XATTR_INLINE_MAX, FS_ACL_ACCESS, copy, acl_len);
		if (!n)
			return -ENOSPC;
	}
	*len = (uint16_t)n;
	return 0;
}

int fs_xattr_inherit(struct fs *fs, struct fs_inode *dir, uint32_t umask, uint32_t *mode, uint8_t *list, uint16_t *len)
{
	const struct fs_inode_disk *d = fs_idisk(dir);
	struct fs_xattr_set *s;
	uint8_t *acl = NULL;
	size_t acl_len = 0;
	int rc = 0;

	*len = 0;
	if (S_ISLNK(*mode))
		return 0;
	if (!le16_get(d->xattr_len) && !has_block(d)) { /* the common case allocates nothing */
		*mode &= ~(umask & 0777);
		return 0;
	}
	s = ts_alloc(sizeof(*s));
	if (!s)
		return -ENOMEM;
	rc = fs_xattr_load(fs, dir, s);
	if (!rc)
		acl = fs_xattr_find(s->list, s->len, FS_ACL_DEFAULT, &acl_len);
	if (!rc && acl)
		rc = fs_acl_check(acl, acl_len) ? -EUCLEAN : inherit_acl(acl, acl_len, mode, list, len);
	else if (!rc)
		*mode &= ~(umask & 0777);
	fs_xattr_unload(fs, s);
	ts_free(s);
	return rc;
}

/* ---- chmod ------------------------------------------------------------------------------------------------------------- */
int fs_acl_chmod_prepare(struct fs *fs, struct fs_inode *ip, struct fs_buf **blk)
{
	*blk = NULL;
	return has_block(fs_idisk(ip)) ? block_get(fs, ip, blk) : 0;
}

void fs_acl_chmod_tx(struct fs_tx *tx, struct fs_inode *ip, struct fs_buf *blk, uint32_t mode)
{
	struct fs_inode_disk *d = fs_idisk(ip);
	size_t len;
	uint8_t *v = fs_xattr_find(inline_list(d), le16_get(d->xattr_len), FS_ACL_ACCESS, &len);

	if (!v && blk) {
		struct fs_xattr_disk *x = (struct fs_xattr_disk *)blk->data;

		v = fs_xattr_find(x->ents, le16_get(x->used), FS_ACL_ACCESS, &len);
		if (v)
			fs_tx_buf(tx, blk);
	}
	if (v && !fs_acl_check(v, len))
		fs_acl_set_mode(v, len, mode); /* the inode's own buffer is in tx already */
}
