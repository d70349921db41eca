/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the fields of one inode: each in its range and none against another. Names and links are others' work.
 * Must never happen: contents given up because one small field about them is wrong while the others tell what they are. */
#include "fs/check.h"

#include <stdio.h>

#define PTR	    ((unsigned)sizeof(struct fs_bptr_disk))
#define PTRS	    (FS_INODE_PTRS * PTR)
#define KNOWN_FLAGS 0xffu

struct look {
	struct chk *c;
	uint64_t ino;
	struct fs_inode_disk *d;
	bool *changed;
	unsigned rest; /* bytes of a symlink target in the attribute block */
};
#define WRONG(l, ...) (chk_found((l)->c, true, __VA_ARGS__), *(l)->changed = true)
#define INO(l)	      ((unsigned long long)(l)->ino)

uint8_t chk_dtype(unsigned mode)
{
	return (uint8_t)IFTODT(mode);
}

static bool kind_known(unsigned mode)
{
	return S_ISREG(mode) || S_ISDIR(mode) || S_ISLNK(mode) || S_ISCHR(mode) || S_ISBLK(mode) || S_ISFIFO(mode) || S_ISSOCK(mode);
}

static bool has_block(const struct fs_inode_disk *d)
{
	return le32_get(d->flags) & FS_IF_XATTR_BLOCK;
}

static uint64_t content_subs(const struct fs_inode_disk *d)
{
	return le64_get(d->subs) - (has_block(d) && le64_get(d->subs));
}

/* Do the first bytes of the payload look like pointers? At least one is there, and all are sane or zero. */
static bool looks_like_pointers(const struct chk *c, const struct fs_inode_disk *d)
{
	const struct fs_bptr_disk *p = (const void *)d->payload;
	unsigned used = 0;
	const char *why;

	for (unsigned i = 0; i < FS_INODE_PTRS; i++) {
		if (chk_zero(&p[i], PTR))
			continue;
		if (!chk_bptr_sane(c, &p[i], true, &why) && !(p[i].flags & FS_BP_INDEX))
			return false;
		used++;
	}
	return used > 0;
}

/* ---- kind and payload --------------------------------------------------------------------------------------------------- */
static bool payload_fits(unsigned mode, uint8_t pl, bool orphan)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return pl == FS_PL_NONE || pl == FS_PL_INLINE || pl == FS_PL_MAP;
	case S_IFDIR:
		return pl == FS_PL_DIRINLINE || pl == FS_PL_DIRTREE;
	case S_IFLNK:
		return pl == FS_PL_INLINE || pl == FS_PL_TARGET || (pl == FS_PL_NONE && orphan); /* being freed */
	case S_IFCHR:
	case S_IFBLK:
		return pl == FS_PL_DEVICE;
	default:
		return pl == FS_PL_NONE;
	}
}

static unsigned mode_of_payload(uint8_t pl)
{
	if (pl == FS_PL_TARGET)
		return S_IFLNK | 0777;
	return pl == FS_PL_DIRINLINE || pl == FS_PL_DIRTREE ? S_IFDIR | 0700 : pl == FS_PL_DEVICE ? S_IFCHR : S_IFREG | 0600;
}

/* What the payload must be by the other fields, for this kind of inode; the present type if they do not say otherwise. */
static uint8_t payload_by_fields(const struct chk *c, const struct fs_inode_disk *d, unsigned mode)
{
	bool ptrs = !le16_get(d->inline_len) && content_subs(d) && looks_like_pointers(c, d);
	uint8_t pl = d->payload_type;
	bool fits = payload_fits(mode, pl, true);

	if (S_ISREG(mode)) {
		if (ptrs)
			return FS_PL_MAP;
		if (le16_get(d->inline_len) && le16_get(d->inline_len) <= le64_get(d->size))
			return FS_PL_INLINE;
		return fits ? pl : FS_PL_NONE;
	}
	if (S_ISDIR(mode)) {
		if (ptrs)
			return FS_PL_DIRTREE;
		if (le16_get(d->inline_len) && pl == FS_PL_DIRTREE && !looks_like_pointers(c, d))
			return FS_PL_DIRINLINE;
		return fits && pl != FS_PL_NONE ? pl : FS_PL_DIRINLINE;
	}
	if (S_ISLNK(mode))
		return le16_get(d->inline_len) && pl != FS_PL_TARGET ? FS_PL_INLINE : pl;
	return S_ISCHR(mode) || S_ISBLK(mode) ? FS_PL_DEVICE : FS_PL_NONE;
}

static void kind(struct look *l)
{
	struct fs_inode_disk *d = l->d;
	unsigned mode = le16_get(d->mode);
	bool orphan = le32_get(d->flags) & FS_IF_ORPHAN;
	uint8_t pl;

	if (!kind_known(mode)) {
		WRONG(l, "inode %llu: mode %#o is of no kind -> %s by its contents", INO(l), mode,
		      S_ISDIR(mode_of_payload(d->payload_type)) ? "directory" : "file");
		mode = (mode_of_payload(d->payload_type) & S_IFMT) | (mode & 07777);
	} else if ((S_ISDIR(mode) || (!payload_fits(mode, d->payload_type, orphan) && d->payload_type != FS_PL_NONE)) &&
		   S_ISDIR(mode) != S_ISDIR(mode_of_payload(d->payload_type)) && d->payload_type != FS_PL_NONE) {
		unsigned by = mode_of_payload(d->payload_type) & S_IFMT;

		/* One of the two is wrong: a file that has a map or bytes, a directory that has entries. */
		if (d->payload_type <= FS_PL_DEVICE && (S_ISDIR(by) ? le64_get(d->parent) != 0 : le64_get(d->parent) == 0)) {
			WRONG(l, "inode %llu: kind %#o against its contents of type %u -> %s", INO(l), mode & S_IFMT, d->payload_type,
			      S_ISDIR(by) ? "directory" : "not a directory");
			mode = by | (mode & 07777);
		}
	}
	d->mode = le16_make((uint16_t)mode);
	pl = payload_by_fields(l->c, d, mode);
	if (pl == d->payload_type && payload_fits(mode, pl, orphan))
		return;
	if (!payload_fits(mode, pl, orphan)) { /* a link without target, a device without number: nothing is left of it */
		WRONG(l, "inode %llu: kind %#o has contents of type %u -> empty file", INO(l), mode & S_IFMT, d->payload_type);
		d->mode = le16_make((uint16_t)(S_IFREG | (mode & 07777)));
		pl = FS_PL_NONE;
	} else {
		WRONG(l, "inode %llu: type of contents %u is wrong -> %u", INO(l), d->payload_type, pl);
	}
	d->payload_type = pl;
}

/* ---- a free inode --------------------------------------------------------------------------------------------------------- */
/* Freeing clears these; one that has links and contents lost its mode. */
static void free_inode(struct look *l)
{
	struct fs_inode_disk *d = l->d;

	if (!le32_get(d->flags) && !le32_get(d->nlink) && !le64_get(d->size) && !le64_get(d->subs) && d->payload_type == FS_PL_NONE &&
	    !d->map_height && !le16_get(d->inline_len) && !le16_get(d->xattr_len))
		return;
	if (l->ino && le32_get(d->nlink) && le32_get(d->h.res_gen)) {
		WRONG(l, "inode %llu: mode 0 with %u links -> mode by its contents", INO(l), le32_get(d->nlink));
		d->mode = le16_make((uint16_t)mode_of_payload(d->payload_type));
		return;
	}
	WRONG(l, "inode %llu: free, but not empty -> emptied", INO(l));
	memset((uint8_t *)d + sizeof(d->h), 0, FS_SUB - sizeof(d->h));
}

/* ---- simple fields -------------------------------------------------------------------------------------------------------- */
static void small_fields(struct look *l)
{
	struct fs_inode_disk *d = l->d;
	uint32_t flags = le32_get(d->flags), good = flags & KNOWN_FLAGS;
	bool dir = S_ISDIR(le16_get(d->mode));

	if (!le32_get(d->h.res_gen)) {
		WRONG(l, "inode %llu: in use with generation 0 -> 1", INO(l));
		d->h.res_gen = le32_make(1);
	}
	if (!dir)
		good &= ~(uint32_t)FS_IF_DEAD;
	if (!(good & FS_IF_ORPHAN) || dir)
		good &= ~(uint32_t)FS_IF_TMPFILE;
	if (good != flags) {
		WRONG(l, "inode %llu: flags %#x cannot be -> %#x", INO(l), flags, good);
		d->flags = le32_make(good);
	}
	if (d->pool || d->copies != 1) {
		WRONG(l, "inode %llu: pool %u, copies %u -> 0, 1", INO(l), d->pool, d->copies);
		d->pool = 0;
		d->copies = 1;
	}
	if (!chk_zero(d->reserved, sizeof(d->reserved))) {
		WRONG(l, "inode %llu: reserved bytes are used -> cleared", INO(l));
		memset(d->reserved, 0, sizeof(d->reserved));
	}
	if (!dir && le64_get(d->parent)) {
		WRONG(l, "inode %llu: has a parent though it is no directory -> cleared", INO(l));
		d->parent = le64_make(0);
	}
	if (d->payload_type != FS_PL_INLINE && d->payload_type != FS_PL_DIRINLINE && d->payload_type != FS_PL_TARGET &&
	    le16_get(d->inline_len)) {
		WRONG(l, "inode %llu: inline length %u without inline contents -> 0", INO(l), le16_get(d->inline_len));
		d->inline_len = le16_make(0);
	}
	if (d->map_height && (d->payload_type != FS_PL_MAP || d->map_height > CHK_MAX_HEIGHT)) {
		WRONG(l, "inode %llu: map height %u -> corrected", INO(l), d->map_height);
		d->map_height = 0; /* a map's own blocks tell it again */
	}
}

static unsigned front(const struct fs_inode_disk *d)
{
	switch (d->payload_type) {
	case FS_PL_INLINE:
	case FS_PL_DIRINLINE:
	case FS_PL_TARGET:
		return le16_get(d->inline_len);
	case FS_PL_MAP:
	case FS_PL_DIRTREE:
		return PTRS;
	case FS_PL_DEVICE:
		return sizeof(le64);
	default:
		return 0;
	}
}

static void front_fits(struct look *l)
{
	struct fs_inode_disk *d = l->d;
	unsigned room = FS_INODE_PAYLOAD - (has_block(d) || d->payload_type == FS_PL_TARGET ? PTR : 0);

	if (front(d) > room) {
		WRONG(l, "inode %llu: inline length %u is more than there is room -> %u", INO(l), front(d), room);
		d->inline_len = le16_make((uint16_t)TS_MIN(room, le64_get(d->size)));
	}
}

/* ---- extended attributes --------------------------------------------------------------------------------------------------- */
unsigned chk_xattr_list(const uint8_t *list, unsigned len)
{
	unsigned at = 0;

	while (len - at >= sizeof(struct fs_xattr_ent_disk)) {
		const struct fs_xattr_ent_disk *e = (const void *)(list + at);
		unsigned n = (unsigned)sizeof(*e) + e->name_len + le16_get(e->value_len);

		if (!e->name_len || e->reserved || n > len - at || memchr(e + 1, 0, e->name_len) || !memchr(e + 1, '.', e->name_len))
			break;
		for (unsigned k = 0; k < at;) { /* a name once */
			const struct fs_xattr_ent_disk *o = (const void *)(list + k);

			if (o->name_len == e->name_len && !memcmp(o + 1, e + 1, e->name_len))
				return at;
			k += (unsigned)sizeof(*o) + o->name_len + le16_get(o->value_len);
		}
		at += n;
	}
	return at;
}

static bool same_name(const uint8_t *a, unsigned alen, const struct fs_xattr_ent_disk *e)
{
	for (unsigned k = 0; k < alen;) {
		const struct fs_xattr_ent_disk *o = (const void *)(a + k);

		if (o->name_len == e->name_len && !memcmp(o + 1, e + 1, e->name_len))
			return true;
		k += (unsigned)sizeof(*o) + o->name_len + le16_get(o->value_len);
	}
	return false;
}

static void xattr_inline(struct look *l)
{
	struct fs_inode_disk *d = l->d;
	unsigned end = FS_INODE_PAYLOAD - (has_block(d) ? PTR : 0), len = le16_get(d->xattr_len), best = 0;
	unsigned most = TS_MIN(end - front(d), (unsigned)FS_XATTR_INLINE_MAX);
	uint8_t *p = d->payload;

	if (len <= most && chk_xattr_list(p + end - len, len) == len)
		return;
	/* The length may be what is wrong. Only shorter ones: bytes before the list may be what a user once wrote into the file. */
	for (unsigned n = sizeof(struct fs_xattr_ent_disk) + 1; n <= TS_MIN(len, most); n++) {
		if (chk_xattr_list(p + end - n, n) == n)
			best = n;
	}
	if (!best && len <= most) { /* else keep what is sound at its beginning */
		best = chk_xattr_list(p + end - len, len);
		memmove(p + end - best, p + end - len, best);
	}
	WRONG(l, "inode %llu: %u bytes of extended attributes are damaged -> %u bytes are kept", INO(l), len, best);
	d->xattr_len = le16_make((uint16_t)best);
	if (best < most)
		memset(p + front(d), 0, end - best - front(d));
}

/* 0: is what it should be, and *x is it; 1: not. */
static int xattr_block_read(struct look *l, const struct fs_bptr_disk *p, struct fs_xattr_disk *x, bool tell, bool *fixed)
{
	struct chk_want w = {.type = FS_BT_XATTR, .kind = TOK_INODE, .addr = le64_get(p->addr[0]), .res_id = l->ino};
	enum chk_verdict v;
	char what[48];
	const char *why;
	int rc;

	w.what = what;
	snprintf(what, sizeof(what), "inode %llu, attribute block", INO(l));
	if (!le64_get(p->addr[0]) || !chk_bptr_sane(l->c, p, false, &why))
		return 1;
	rc = chk_read(l->c, w.addr, x, 1);
	if (rc)
		return rc;
	if (!tell)
		return fs_mdhdr_wrong(x, l->c->super.fs_id, FS_BT_XATTR, w.addr) || le64_get(x->h.res_id) != l->ino ||
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

/* The rest of the block is zero, so the list itself shows its length. 1: nothing in it. */
static int xattr_block_contents(struct look *l, struct fs_xattr_disk *x, fs_addr a, bool fixed)
{
	const struct fs_inode_disk *d = l->d;
	unsigned used = le16_get(x->used), sound = chk_xattr_list(x->ents, sizeof(x->ents)), inl = le16_get(d->xattr_len);
	const uint8_t *list = d->payload + FS_INODE_PAYLOAD - PTR - inl;

	for (unsigned at = 0; at < sound;) {
		const struct fs_xattr_ent_disk *e = (const void *)(x->ents + at);

		if (same_name(list, inl, e))
			sound = at;
		at += (unsigned)sizeof(*e) + e->name_len + le16_get(e->value_len);
	}
	if (!sound)
		return 1;
	l->rest = target_rest(x->ents, sound);
	if (sound != used || !chk_zero(x->ents + sound, sizeof(x->ents) - sound)) {
		chk_found(l->c, true, "inode %llu: %u bytes of extended attributes in its block, %u are sound -> those are kept", INO(l), used, sound);
		x->used = le16_make((uint16_t)sound);
		memset(x->ents + sound, 0, sizeof(x->ents) - sound);
		fixed = true;
	}
	if (!chk_zero(x->reserved, sizeof(x->reserved))) {
		chk_found(l->c, true, "inode %llu: reserved bytes of its attribute block are used -> cleared", INO(l));
		memset(x->reserved, 0, sizeof(x->reserved));
		fixed = true;
	}
	return fixed ? chk_write(l->c, a, x) : 0;
}

/* The pointer in the last 48 bytes of the payload, or none. */
static int xattr_pointer(struct look *l, bool *there)
{
	struct fs_inode_disk *d = l->d;
	struct fs_bptr_disk *p = (void *)(d->payload + FS_INODE_PAYLOAD - PTR);
	struct fs_xattr_disk *x;
	bool fixed = false;
	int rc = 1;

	*there = false;
	if (!has_block(d) && (chk_zero(p, PTR) || front(d) > FS_INODE_PAYLOAD - PTR))
		return 0;
	x = chk_page();
	if (!x)
		return -ENOMEM;
	rc = xattr_block_read(l, p, x, has_block(d), &fixed);
	if (rc >= 0 && has_block(d) != !rc) {
		WRONG(l, "inode %llu: flag of an attribute block %s -> %s", INO(l), rc ? "without such a block" : "is missing",
		      rc ? "cleared" : "set");
		d->flags = le32_make(le32_get(d->flags) ^ FS_IF_XATTR_BLOCK);
	}
	*there = !rc;
	front_fits(l);
	xattr_inline(l);
	if (!rc) {
		rc = xattr_block_contents(l, x, le64_get(p->addr[0]), fixed);
		if (rc > 0) {
			WRONG(l, "inode %llu: no sound attribute is in its block -> let go", INO(l));
			d->flags = le32_make(le32_get(d->flags) & ~(uint32_t)FS_IF_XATTR_BLOCK);
			memset(p, 0, PTR);
			*there = false;
		}
	}
	ts_free(x);
	return rc < 0 ? rc : 0;
}

/* ---- sizes -------------------------------------------------------------------------------------------------------------------- */
static void set_size(struct look *l, uint64_t size)
{
	WRONG(l, "inode %llu: size %llu -> %llu", INO(l), (unsigned long long)le64_get(l->d->size), (unsigned long long)size);
	l->d->size = le64_make(size);
}

/* The end of a long target is where it should be, and the inode says so. */
static void target_check(struct look *l)
{
	struct fs_inode_disk *d = l->d;
	unsigned len = le16_get(d->inline_len);

	if (l->rest && (d->payload_type != FS_PL_TARGET || len != FS_TARGET_INLINE)) {
		WRONG(l, "inode %llu: the end of its target is in its attribute block, but it has contents of type %u, %u bytes -> corrected", INO(l),
		      d->payload_type, len);
		d->payload_type = FS_PL_TARGET;
		d->inline_len = le16_make(FS_TARGET_INLINE);
	} else if (!l->rest && d->payload_type == FS_PL_TARGET) {
		WRONG(l, "inode %llu: the end of its target is lost -> %u bytes are left", INO(l), len);
		d->payload_type = FS_PL_INLINE;
	}
}

static void size_check(struct look *l, const struct chk_map *m)
{
	struct fs_inode_disk *d = l->d;
	uint64_t size = le64_get(d->size), len;
	unsigned mode = le16_get(d->mode);

	if (S_ISLNK(mode))
		target_check(l);
	len = le16_get(d->inline_len);
	if (S_ISDIR(mode))
		return; /* its entries are counted later */
	if (S_ISLNK(mode)) {
		if (d->payload_type != FS_PL_NONE && size != len + l->rest && len)
			set_size(l, len + l->rest);
	} else if (!S_ISREG(mode)) {
		if (size)
			set_size(l, 0);
	} else if (d->payload_type == FS_PL_INLINE && size < len) {
		set_size(l, len);
	} else if (d->payload_type == FS_PL_MAP && size < m->end && (size <= m->start)) {
		set_size(l, m->end);
	} else if (size > FS_MAX_SIZE) {
		set_size(l, d->payload_type == FS_PL_MAP ? m->end : len);
	}
	if (S_ISLNK(mode) && d->payload_type == FS_PL_INLINE && !len) {
		WRONG(l, "inode %llu: a symbolic link to nothing -> empty file", INO(l));
		d->mode = le16_make((uint16_t)(S_IFREG | (mode & 07777)));
		d->payload_type = FS_PL_NONE;
		d->size = le64_make(0);
	}
}

int chk_inode(struct chk *c, uint64_t ino, struct fs_inode_disk *d, bool *changed)
{
	struct look l = {.c = c, .ino = ino, .d = d, .changed = changed};
	struct chk_map m = {.ino = ino};
	bool block = false;
	int rc;

	if (!le16_get(d->mode))
		free_inode(&l);
	if (!le16_get(d->mode))
		return 0;
	kind(&l);
	small_fields(&l);
	front_fits(&l);
	rc = xattr_pointer(&l, &block);
	if (rc)
		return rc;
	front_fits(&l);
	xattr_inline(&l);
	if (d->payload_type == FS_PL_MAP) {
		rc = chk_map(c, ino, d, &m);
		*changed |= m.changed;
	}
	if (rc)
		return rc;
	size_check(&l, &m);
	if (!S_ISDIR(le16_get(d->mode)) && le64_get(d->subs) != m.subs + block) {
		WRONG(&l, "inode %llu: says %llu sub-blocks, has %llu -> set", INO(&l), (unsigned long long)le64_get(d->subs),
		      (unsigned long long)(m.subs + block));
		d->subs = le64_make(m.subs + block);
	}
	return 0;
}
