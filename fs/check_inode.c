/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the fields of one inode: each in its range and none against another. Names and links are others' work.
 * Must never happen: contents given up because one small field about them is wrong while the others tell what they are. */
#include "fs/check.h"

#include <stdio.h>

#define PTR	    ((unsigned)sizeof(struct fs_bptr_disk))
#define PTRS	    (FS_INODE_PTRS * PTR)
#define KNOWN_FLAGS 0x1ffu

#define WRONG CHK_WRONG
#define INO   CHK_INO

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

static void kind(struct chk_look *l)
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
static void free_inode(struct chk_look *l)
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

/* A pool that is none counts as `system` for whoever writes the file; what lies in another one then is told by outside(). */
static void placement(struct chk_look *l)
{
	struct fs_inode_disk *d = l->d;
	bool file = S_ISREG(le16_get(d->mode)), may = file || S_ISDIR(le16_get(d->mode));

	if (!fs_pool_name_of(&l->c->super, d->pool) || (d->pool && !may)) {
		WRONG(l, "inode %llu: pool %u is %s -> system", INO(l), d->pool, may ? "none of this file system" : "not for this kind");
		d->pool = 0;
	}
	if (d->stripe && !may) {
		WRONG(l, "inode %llu: stripe of %u disks, but it has no blocks -> 0", INO(l), d->stripe);
		d->stripe = 0;
	}
	if (d->place_flags & ~(file ? FS_PF_ELSEWHERE : 0)) {
		WRONG(l, "inode %llu: flags of its layout %#x cannot be -> %#x", INO(l), d->place_flags, d->place_flags & (file ? FS_PF_ELSEWHERE : 0));
		d->place_flags &= file ? FS_PF_ELSEWHERE : 0;
	}
}

/* Blocks in another pool than the file's: nothing is lost by it, so the file says it from now on, and `layout migrate` brings them home. */
static void outside(struct chk_look *l, const struct chk_map *m)
{
	struct fs_inode_disk *d = l->d;

	if (!m->outside || d->place_flags & FS_PF_ELSEWHERE)
		return;
	WRONG(l, "inode %llu: %llu blocks lie outside of its pool %s -> marked, `tessera layout migrate` moves them", INO(l),
	      (unsigned long long)m->outside, fs_pool_name_of(&l->c->super, d->pool));
	d->place_flags |= FS_PF_ELSEWHERE;
}

/* ---- simple fields -------------------------------------------------------------------------------------------------------- */
static void small_fields(struct chk_look *l)
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
	if (d->copies != 1) {
		WRONG(l, "inode %llu: copies %u -> 1", INO(l), d->copies);
		d->copies = 1;
	}
	placement(l);
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

unsigned chk_front(const struct fs_inode_disk *d)
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

void chk_front_fits(struct chk_look *l)
{
	struct fs_inode_disk *d = l->d;
	unsigned room = FS_INODE_PAYLOAD - (has_block(d) || d->payload_type == FS_PL_TARGET ? PTR : 0);

	if (chk_front(d) > room) {
		WRONG(l, "inode %llu: inline length %u is more than there is room -> %u", INO(l), chk_front(d), room);
		d->inline_len = le16_make((uint16_t)TS_MIN(room, le64_get(d->size)));
	}
}

/* ---- sizes -------------------------------------------------------------------------------------------------------------------- */
static void set_size(struct chk_look *l, uint64_t size)
{
	WRONG(l, "inode %llu: size %llu -> %llu", INO(l), (unsigned long long)le64_get(l->d->size), (unsigned long long)size);
	l->d->size = le64_make(size);
}

/* The end of a long target is where it should be, and the inode says so. */
static void target_check(struct chk_look *l)
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

static void size_check(struct chk_look *l, const struct chk_map *m)
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
	struct chk_look l = {.c = c, .ino = ino, .d = d, .changed = changed};
	struct chk_map m = {.ino = ino};
	int rc;

	if (!le16_get(d->mode))
		free_inode(&l);
	if (!le16_get(d->mode))
		return 0;
	kind(&l);
	small_fields(&l);
	chk_front_fits(&l);
	rc = chk_xattrs(&l);
	if (rc)
		return rc;
	if (d->payload_type == FS_PL_MAP) {
		m.pool = d->pool;
		rc = chk_map(c, ino, d, &m);
		*changed |= m.changed;
	}
	if (rc)
		return rc;
	outside(&l, &m);
	size_check(&l, &m);
	if (!S_ISDIR(le16_get(d->mode)) && le64_get(d->subs) != m.subs + l.xattr_subs) {
		WRONG(&l, "inode %llu: says %llu sub-blocks, has %llu -> set", INO(&l), (unsigned long long)le64_get(d->subs),
		      (unsigned long long)(m.subs + l.xattr_subs));
		d->subs = le64_make(m.subs + l.xattr_subs);
	}
	return 0;
}
