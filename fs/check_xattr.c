/* SPDX-License-Identifier: Apache-2.0 */
/* Job: extended attributes of one inode: the list in it, the block or the index with its blocks, and values that lie in extents of
 * their own, whose checksums are compared.
 * Must never happen: an attribute given up because another one is damaged; a damaged value that passes for a good one. */
#include "fs/check.h"

#include <stdio.h>

#define PTR ((unsigned)sizeof(struct fs_bptr_disk))
#define EXT ((unsigned)sizeof(struct fs_xattr_ext_disk))

static bool has_block(const struct fs_inode_disk *d)
{
	return le32_get(d->flags) & FS_IF_XATTR_BLOCK;
}

/* ---- a packed list ----------------------------------------------------------------------------------------------------------- */
static unsigned ent_len(const struct fs_xattr_ent_disk *e)
{
	return (unsigned)sizeof(*e) + e->name_len + le16_get(e->value_len);
}

static bool same_name(const uint8_t *a, unsigned alen, const struct fs_xattr_ent_disk *e)
{
	for (unsigned k = 0; k < alen;) {
		const struct fs_xattr_ent_disk *o = (const void *)(a + k);

		if (o->name_len == e->name_len && !memcmp(o + 1, e + 1, e->name_len))
			return true;
		k += ent_len(o);
	}
	return false;
}

/* Bytes of it that are sound. */
static unsigned list_sound(const uint8_t *list, unsigned len)
{
	unsigned at = 0;

	while (len - at >= sizeof(struct fs_xattr_ent_disk)) {
		const struct fs_xattr_ent_disk *e = (const void *)(list + at);
		unsigned n = ent_len(e);

		if (!e->name_len || e->flags & ~FS_XE_EXT || (e->flags && le16_get(e->value_len) != EXT) || n > len - at ||
		    memchr(e + 1, 0, e->name_len) || !memchr(e + 1, '.', e->name_len) || same_name(list, at, e))
			break;
		at += n;
	}
	return at;
}

static struct fs_xattr_ext_disk *ext_at(const struct fs_xattr_ent_disk *e)
{
	return (struct fs_xattr_ext_disk *)(uintptr_t)((const uint8_t *)(e + 1) + e->name_len);
}

static void list_cut(uint8_t *list, unsigned *len, unsigned at, unsigned n)
{
	memmove(list + at, list + at + n, *len - at - n);
	*len -= n;
	memset(list + *len, 0, n);
}

/* ---- values of their own ----------------------------------------------------------------------------------------------------------- */
static unsigned subs_of(uint32_t len)
{
	return (len + FS_SUB - 1) / FS_SUB;
}

/* The length with which the bytes have the checksum: the one that is said, or one that takes as much space. 0: none. */
static uint32_t proven_len(const uint8_t *buf, const struct fs_xattr_ext_disk *x)
{
	uint32_t len = le32_get(x->len), max = le16_get(x->p.subs) * FS_SUB;

	if (len && len <= max && ts_csum64(buf, len, 0) == le64_get(x->csum))
		return len;
	for (uint32_t n = max - FS_SUB + 1; n <= max; n++) {
		if (ts_csum64(buf, n, 0) == le64_get(x->csum))
			return n;
	}
	return 0;
}

/* One thing about it may be wrong: then what the rest says is tried, and the checksum is the proof. 1: true now, 0: it is not. */
static int ext_prove(struct chk *c, struct fs_xattr_ext_disk *x)
{
	struct fs_xattr_ext_disk m = *x;
	uint32_t len = le32_get(x->len), max = FS_XATTR_VALUE_MAX / FS_SUB;
	uint8_t *buf = ts_alloc_aligned(FS_SUB, (size_t)max * FS_SUB);
	const char *why;
	int rc = buf ? 0 : -ENOMEM;

	memset(&m.p, 0, sizeof(m.p));
	m.p.addr[0] = x->p.addr[0];
	m.p.birth = le64_get(x->p.birth) && le64_get(x->p.birth) <= CHK_VERSION_MAX ? x->p.birth : le64_make(TS_MAX(c->clock, 1u));
	m.reserved = le32_make(0);
	for (unsigned by_len = 0; by_len < 2 && !rc; by_len++) {
		unsigned subs = by_len ? subs_of(TS_MIN(len, FS_XATTR_VALUE_MAX)) : le16_get(x->p.subs);

		m.p.subs = le16_make((uint16_t)subs);
		if (!subs || subs > max || !chk_bptr_sane(c, &m.p, true, &why))
			continue;
		rc = chk_read(c, le64_get(m.p.addr[0]), buf, subs);
		m.len = le32_make(rc ? 0 : proven_len(buf, &m));
		if (!rc && le32_get(m.len) && subs_of(le32_get(m.len)) != subs)
			m.len = le32_make(0);
		if (!rc && le32_get(m.len)) {
			*x = m;
			rc = 1;
		}
	}
	ts_free(buf);
	return rc;
}

/* Every such value of a sound list: proven, corrected, or its attribute goes. *changed: the list. */
static int exts_check(struct chk_look *l, uint8_t *list, unsigned *len, bool *changed)
{
	for (unsigned at = 0; at < *len;) {
		struct fs_xattr_ent_disk *e = (void *)(list + at);
		struct fs_xattr_ext_disk was, now;
		int rc = 1;

		if (!e->flags) {
			at += ent_len(e);
			continue;
		}
		memcpy(&was, ext_at(e), sizeof(was));
		now = was;
		rc = ext_prove(l->c, &now);
		if (rc < 0)
			return rc;
		if (!rc) {
			chk_found(l->c, true, "inode %llu: the value of its attribute %.*s is damaged -> the attribute is removed", CHK_INO(l),
				  e->name_len, (const char *)(e + 1));
			list_cut(list, len, at, ent_len(e));
			*changed = true;
			continue;
		}
		if (memcmp(&was, &now, sizeof(now))) {
			chk_found(l->c, true, "inode %llu: what is said about the value of its attribute %.*s is wrong -> corrected", CHK_INO(l),
				  e->name_len, (const char *)(e + 1));
			memcpy(ext_at(e), &now, sizeof(now));
			*changed = true;
		}
		l->xattr_subs += le16_get(now.p.subs);
		at += ent_len(e);
	}
	return 0;
}

/* ---- in the inode ----------------------------------------------------------------------------------------------------------------- */
static void inline_sound(struct chk_look *l)
{
	struct fs_inode_disk *d = l->d;
	unsigned end = FS_INODE_PAYLOAD - (has_block(d) ? PTR : 0), len = le16_get(d->xattr_len), best = 0;
	unsigned most = TS_MIN(end - chk_front(d), (unsigned)FS_XATTR_INLINE_MAX);
	uint8_t *p = d->payload;

	if (len <= most && list_sound(p + end - len, len) == len)
		return;
	/* The length may be what is wrong. Only shorter ones: bytes before the list may be what a user once wrote into the file. */
	for (unsigned n = sizeof(struct fs_xattr_ent_disk) + 1; n <= TS_MIN(len, most); n++) {
		if (list_sound(p + end - n, n) == n)
			best = n;
	}
	if (!best && len <= most) { /* else keep what is sound at its beginning */
		best = list_sound(p + end - len, len);
		memmove(p + end - best, p + end - len, best);
	}
	CHK_WRONG(l, "inode %llu: %u bytes of extended attributes are damaged -> %u bytes are kept", CHK_INO(l), len, best);
	d->xattr_len = le16_make((uint16_t)best);
	if (best < most)
		memset(p + chk_front(d), 0, end - best - chk_front(d));
}


static int inline_check(struct chk_look *l)
{
	struct fs_inode_disk *d = l->d;
	unsigned end = FS_INODE_PAYLOAD - (has_block(d) ? PTR : 0), was, len;
	uint8_t *list;
	bool changed = false;
	int rc;

	inline_sound(l);
	was = len = le16_get(d->xattr_len);
	list = d->payload + end - was;
	rc = exts_check(l, list, &len, &changed);
	if (len != was) { /* the list ends where it ended */
		memmove(d->payload + end - len, list, len);
		memset(list, 0, was - len);
		d->xattr_len = le16_make((uint16_t)len);
	}
	*l->changed |= changed;
	return rc;
}

/* ---- blocks ------------------------------------------------------------------------------------------------------------------------- */
union block {
	struct fs_mhdr_disk h;
	struct fs_xattr_disk x;
	struct fs_xattr_index_disk i;
	uint8_t raw[FS_SUB];
};

/* 0: is what it should be, and *x is it; 1: not. */
static int block_read(struct chk_look *l, const struct fs_bptr_disk *p, enum fs_block_type type, union block *x, bool tell, bool *fixed)
{
	struct chk_want w = {.type = type, .kind = TOK_INODE, .addr = le64_get(p->addr[0]), .res_id = l->ino};
	enum chk_verdict v;
	char what[48];
	const char *why;
	int rc;

	w.what = what;
	snprintf(what, sizeof(what), "inode %llu, attribute %s", CHK_INO(l), type == FS_BT_XATTR ? "block" : "index");
	if (!le64_get(p->addr[0]) || !chk_bptr_sane(l->c, p, false, &why))
		return 1;
	rc = chk_read(l->c, w.addr, x, 1);
	if (rc)
		return rc;
	if (!tell)
		return fs_mdhdr_wrong(x, l->c->super.fs_id, type, w.addr) || le64_get(x->h.res_id) != l->ino ||
		       le32_get(x->h.res_gen) != le32_get(l->d->h.res_gen) || !chk_meta_region(l->c, w.addr);
	v = chk_judge(l->c, x, &w);
	*fixed = v == CHK_FIXED;
	if (v == CHK_NOT)
		return 1;
	if (le32_get(x->h.res_gen) != le32_get(l->d->h.res_gen)) {
		if (fs_mdhdr_version(x) < le64_get(p->birth))
			return 1; /* of an earlier life of the inode */
		chk_found(l->c, true, "%s: has another generation -> corrected", what);
		x->h.res_gen = l->d->h.res_gen;
		*fixed = true;
	}
	return 0;
}

/* Bytes of a symlink target in a sound list of attributes. */
static unsigned target_rest(const uint8_t *list, unsigned len)
{
	for (unsigned at = 0; at < len;) {
		const struct fs_xattr_ent_disk *e = (const void *)(list + at);

		if (e->name_len == strlen(FS_XATTR_TARGET) && !memcmp(e + 1, FS_XATTR_TARGET, e->name_len))
			return TS_MIN((unsigned)le16_get(e->value_len), FS_TARGET_MAX - FS_TARGET_INLINE);
		at += (unsigned)sizeof(*e) + e->name_len + le16_get(e->value_len);
	}
	return 0;
}

struct before { /* lists whose names must not come again */
	const uint8_t *list;
	unsigned len;
};

/* The rest of the block is zero, so the list itself shows its length. 1: nothing in it. */
static int block_contents(struct chk_look *l, struct fs_xattr_disk *x, fs_addr a, bool fixed, const struct before *b, unsigned nb)
{
	unsigned used = le16_get(x->used), sound = list_sound(x->ents, sizeof(x->ents)), kept;
	int rc;

	for (unsigned at = 0; at < sound;) {
		const struct fs_xattr_ent_disk *e = (const void *)(x->ents + at);

		for (unsigned i = 0; i < nb; i++) {
			if (same_name(b[i].list, b[i].len, e))
				sound = at;
		}
		at += ent_len(e);
	}
	if (!sound)
		return 1;
	l->rest = target_rest(x->ents, sound);
	if (sound != used || !chk_zero(x->ents + sound, sizeof(x->ents) - sound)) {
		chk_found(l->c, true, "inode %llu: %u bytes of extended attributes in its block, %u are sound -> those are kept", CHK_INO(l), used, sound);
		memset(x->ents + sound, 0, sizeof(x->ents) - sound);
		fixed = true;
	}
	if (!chk_zero(x->reserved, sizeof(x->reserved))) {
		chk_found(l->c, true, "inode %llu: reserved bytes of its attribute block are used -> cleared", CHK_INO(l));
		memset(x->reserved, 0, sizeof(x->reserved));
		fixed = true;
	}
	kept = sound;
	rc = exts_check(l, x->ents, &kept, &fixed);
	if (rc)
		return rc;
	if (!kept)
		return 1;
	x->used = le16_make((uint16_t)kept);
	l->xattr_subs++;
	return fixed ? chk_write(l->c, a, x) : 0;
}

/* ---- an index ----------------------------------------------------------------------------------------------------------------------- */
/* Do its contents say that it is one? Sane pointers, and nothing behind them. */
static bool index_like(const struct chk *c, const struct fs_xattr_index_disk *x)
{
	unsigned n = 0;
	const char *why;

	while (n < FS_XATTR_LEAVES && chk_bptr_sane(c, &x->p[n], false, &why))
		n++;
	return n && chk_zero(&x->p[n], (FS_XATTR_LEAVES - n) * (size_t)PTR);
}

struct leaves {
	union block *b; /* [FS_XATTR_LEAVES], aligned */
	struct before list[FS_XATTR_LEAVES];
	unsigned n;
};

/* Block k of the index, if it is one of this inode: 0, and it stays; 1: it goes. */
static int leaf_check(struct chk_look *l, struct leaves *v, const struct fs_bptr_disk *p)
{
	union block *b = &v->b[v->n];
	bool fixed = false;
	int rc;

	for (unsigned i = 0; i < v->n; i++) {
		if (le64_get(v->b[i].h.addr) == le64_get(p->addr[0]))
			return 1; /* twice */
	}
	rc = block_read(l, p, FS_BT_XATTR, b, true, &fixed);
	if (!rc)
		rc = block_contents(l, &b->x, le64_get(p->addr[0]), fixed, v->list, v->n);
	if (!rc) {
		v->list[v->n] = (struct before){b->x.ents, le16_get(b->x.used)};
		v->n++;
	}
	return rc;
}

static int index_leaves(struct chk_look *l, struct fs_xattr_index_disk *x, struct leaves *v, bool *fixed)
{
	unsigned to = 0, count = le16_get(x->count);
	int rc;

	for (unsigned i = 0; i < FS_XATTR_LEAVES; i++) {
		struct fs_bptr_disk p = x->p[i];

		if (chk_zero_ptr(&p))
			continue;
		rc = leaf_check(l, v, &p);
		if (rc < 0)
			return rc;
		if (rc) {
			chk_found(l->c, true, "inode %llu: block %u of its attributes is none, or nothing in it is sound -> let go", CHK_INO(l), i);
			*fixed = true;
			continue;
		}
		x->p[to++] = p;
	}
	if (count != to && !*fixed)
		chk_found(l->c, true, "inode %llu: its index of attributes says %u blocks, has %u -> corrected", CHK_INO(l), count, to);
	*fixed |= count != to;
	memset(&x->p[to], 0, (FS_XATTR_LEAVES - to) * (size_t)PTR);
	x->count = le16_make((uint16_t)to);
	if (!chk_zero(x->reserved, sizeof(x->reserved))) {
		chk_found(l->c, true, "inode %llu: reserved bytes of its index of attributes are used -> cleared", CHK_INO(l));
		memset(x->reserved, 0, sizeof(x->reserved));
		*fixed = true;
	}
	return 0;
}

static int index_check(struct chk_look *l, struct fs_bptr_disk *p, struct fs_xattr_index_disk *x, bool fixed)
{
	struct leaves v = {.b = ts_alloc_aligned(FS_SUB, FS_XATTR_LEAVES * (size_t)FS_SUB)};
	int rc = v.b ? index_leaves(l, x, &v, &fixed) : -ENOMEM;

	if (!rc && v.n >= 2) {
		l->xattr_subs++;
		rc = fixed ? chk_write(l->c, le64_get(p->addr[0]), x) : 0;
	} else if (!rc) { /* what is left needs none */
		CHK_WRONG(l, "inode %llu: %u blocks of attributes are left -> without an index", CHK_INO(l), v.n);
		if (v.n)
			*p = x->p[0];
		else
			memset(p, 0, PTR);
		l->d->flags = le32_make((le32_get(l->d->flags) & ~(uint32_t)FS_IF_XATTR_BLOCK) | (v.n ? FS_IF_XATTR_BLOCK : 0));
	}
	ts_free(v.b);
	return rc;
}

/* ---- the pointer in the last 48 bytes of the payload, or none ----------------------------------------------------------------------- */
static void let_go(struct chk_look *l, struct fs_bptr_disk *p)
{
	CHK_WRONG(l, "inode %llu: no sound attribute is in its block -> let go", CHK_INO(l));
	l->d->flags = le32_make(le32_get(l->d->flags) & ~(uint32_t)FS_IF_XATTR_BLOCK);
	memset(p, 0, PTR);
}

/* What lies there decides between a block and an index; the pointer and the type in the header may be wrong about it. */
static int is_index(struct chk_look *l, const struct fs_bptr_disk *p, union block *x, bool *index)
{
	bool says = p->flags & FS_BP_INDEX;
	int rc = 0;

	*index = says;
	if (!chk_addr_ok(l->c, le64_get(p->addr[0]), 1))
		return 0;
	rc = chk_read(l->c, le64_get(p->addr[0]), x, 1);
	if (!rc)
		*index = index_like(l->c, &x->i) || (says && x->h.type == FS_BT_XATTRINDEX);
	return rc;
}

static int beside_index(struct chk_look *l, unsigned end)
{
	struct fs_inode_disk *d = l->d;
	unsigned len = le16_get(d->xattr_len);

	if (!len)
		return 0;
	CHK_WRONG(l, "inode %llu: %u bytes of attributes in it, beside an index -> let go", CHK_INO(l), len);
	d->xattr_len = le16_make(0);
	if (chk_front(d) < end)
		memset(d->payload + chk_front(d), 0, end - chk_front(d));
	return 0;
}

int chk_xattrs(struct chk_look *l)
{
	struct fs_inode_disk *d = l->d;
	struct fs_bptr_disk *p = (void *)(d->payload + FS_INODE_PAYLOAD - PTR), plain;
	struct before inl;
	union block *x;
	bool fixed = false, index = false;
	int rc;

	if (!has_block(d) && (chk_zero(p, PTR) || chk_front(d) > FS_INODE_PAYLOAD - PTR))
		return inline_check(l);
	x = chk_page();
	if (!x)
		return -ENOMEM;
	plain = *p;
	rc = is_index(l, p, x, &index);
	plain.flags &= (uint8_t)~FS_BP_INDEX;
	if (!rc)
		rc = block_read(l, &plain, index ? FS_BT_XATTRINDEX : FS_BT_XATTR, x, has_block(d), &fixed);
	if (rc >= 0 && has_block(d) != !rc) {
		CHK_WRONG(l, "inode %llu: flag of an attribute block %s -> %s", CHK_INO(l), rc ? "without such a block" : "is missing",
			  rc ? "cleared" : "set");
		d->flags = le32_make(le32_get(d->flags) ^ FS_IF_XATTR_BLOCK);
	}
	chk_front_fits(l);
	if (!rc && !!(p->flags & FS_BP_INDEX) != index) {
		CHK_WRONG(l, "inode %llu: pointer to its attributes is wrong about an index -> corrected", CHK_INO(l));
		p->flags = index ? FS_BP_INDEX : 0;
	}
	if (!rc && index)
		rc = beside_index(l, FS_INODE_PAYLOAD - PTR);
	else if (rc >= 0) {
		int irc = inline_check(l);

		rc = irc ? irc : rc;
	}
	if (!rc && index) {
		rc = index_check(l, p, &x->i, fixed);
	} else if (!rc) {
		inl = (struct before){d->payload + FS_INODE_PAYLOAD - PTR - le16_get(d->xattr_len), le16_get(d->xattr_len)};
		rc = block_contents(l, &x->x, le64_get(p->addr[0]), fixed, &inl, 1);
		if (rc > 0)
			let_go(l, p);
	}
	ts_free(x);
	return rc < 0 ? rc : 0;
}

/* ---- every block and value ------------------------------------------------------------------------------------------------------------- */
struct walk {
	struct chk *c;
	const struct chk_visit *v;
	uint64_t ino;
};

/* A value is told from the others by where its entry stands. *changed: the list. */
static int walk_list(struct walk *w, uint8_t *list, unsigned *len, uint64_t where, bool *changed)
{
	unsigned sound = list_sound(list, *len), old = *len;
	int rc = 0;

	for (unsigned at = 0; at < sound && !rc;) {
		struct fs_xattr_ent_disk *e = (void *)(list + at);
		unsigned n = ent_len(e);
		struct fs_bptr_disk p;
		bool cleared = false;
		const char *why;

		if (e->flags) {
			memcpy(&p, ext_at(e), sizeof(p));
			if (chk_bptr_sane(w->c, &p, true, &why))
				rc = w->v->block(w->c, w->v->arg, w->ino, &p, false, 1ULL << 62 | where << 16 | at, &cleared);
		}
		if (cleared) {
			list_cut(list, len, at, n);
			sound -= n;
		} else {
			at += n;
		}
	}
	*changed |= *len != old;
	return rc;
}

static int walk_block(struct walk *w, struct fs_bptr_disk *p, uint64_t where, unsigned depth)
{
	union block *b = chk_page();
	fs_addr a = le64_get(p->addr[0]);
	bool none = false, changed = false;
	unsigned len;
	int rc = b ? 0 : -ENOMEM;

	if (!rc && chk_addr_ok(w->c, a, 1)) {
		rc = w->v->block(w->c, w->v->arg, w->ino, p, true, where, &none);
		if (!rc)
			rc = chk_read(w->c, a, b, 1);
	}
	if (rc || le64_get(b->h.res_id) != w->ino) {
		ts_free(b);
		return rc;
	}
	if (b->h.type == FS_BT_XATTRINDEX && !depth) {
		for (unsigned i = 0; i < FS_XATTR_LEAVES && !rc; i++)
			rc = chk_zero_ptr(&b->i.p[i]) ? 0 : walk_block(w, &b->i.p[i], i + 1, 1);
	} else if (b->h.type == FS_BT_XATTR) {
		len = TS_MIN(le16_get(b->x.used), (unsigned)sizeof(b->x.ents));
		rc = walk_list(w, b->x.ents, &len, where + 1, &changed);
		if (!rc && changed) {
			b->x.used = le16_make((uint16_t)len);
			rc = chk_write(w->c, a, b);
		}
	}
	ts_free(b);
	return rc;
}

int chk_xattr_walk(struct chk *c, uint64_t ino, struct fs_inode_disk *d, const struct chk_visit *v, bool *changed)
{
	struct walk w = {.c = c, .v = v, .ino = ino};
	unsigned end = FS_INODE_PAYLOAD - (has_block(d) ? PTR : 0), was = le16_get(d->xattr_len), len = was;
	int rc = 0;

	if (was && was <= end) {
		rc = walk_list(&w, d->payload + end - was, &len, 0, changed);
		if (len != was) {
			memmove(d->payload + end - len, d->payload + end - was, len);
			memset(d->payload + end - was, 0, was - len);
			d->xattr_len = le16_make((uint16_t)len);
		}
	}
	if (!rc && has_block(d))
		rc = walk_block(&w, (void *)(d->payload + FS_INODE_PAYLOAD - PTR), 0, 0);
	return rc;
}

static int count_one(struct chk *c, void *arg, uint64_t ino, struct fs_bptr_disk *p, bool meta, uint64_t idx, bool *changed)
{
	*(uint64_t *)arg += meta ? 1 : le16_get(p->subs);
	return 0;
}

int chk_xattr_subs(struct chk *c, uint64_t ino, struct fs_inode_disk *d, uint64_t *subs)
{
	struct chk_visit v = {.block = count_one, .arg = subs};
	bool none = false;

	*subs = 0;
	return chk_xattr_walk(c, ino, d, &v, &none);
}
