/* SPDX-License-Identifier: Apache-2.0 */
/* Job: one name into a directory that was found sound, without log or tokens: blocks from the pool, children before their
 * parents, so that a break in between leaves nothing worse than space without an owner.
 * Must never happen: a name that its hash does not lead to. */
#include "fs/check.h"

struct path {
	uint64_t dir, hash;
	struct fs_inode_disk *d;
	struct fs_dirindex_disk *node[CHK_DIR_LEVELS + 1];
	fs_addr at[CHK_DIR_LEVELS + 1];
	unsigned n; /* index nodes */
	struct fs_dirleaf_disk *leaf;
	fs_addr leaf_at;
};

static struct fs_bptr_disk *slots(struct path *p)
{
	return p->n ? p->node[p->n - 1]->p : (struct fs_bptr_disk *)p->d->payload;
}

static unsigned bits(const struct path *p)
{
	return p->n * 6;
}

static void path_free(struct path *p)
{
	while (p->n)
		ts_free(p->node[--p->n]);
	ts_free(p->leaf);
	p->leaf = NULL;
}

/* Reads the way to where the hash belongs. -EUCLEAN: an earlier step left it unsound (not all was repaired). */
static int path_find(struct chk *c, struct path *p)
{
	while (p->d->payload_type == FS_PL_DIRTREE) {
		struct fs_bptr_disk *s = &slots(p)[dir_slot(p->hash, bits(p))];
		fs_addr a = le64_get(s->addr[0]);
		struct fs_mhdr_disk *b;
		int rc;

		if (!a)
			return 0;
		if (!chk_addr_ok(c, a, 1) || p->n >= CHK_DIR_LEVELS)
			return -EUCLEAN;
		b = chk_page();
		rc = b ? chk_read(c, a, b, 1) : -ENOMEM;
		if (!rc && (le64_get(b->res_id) != p->dir || b->type != (s->flags & FS_BP_INDEX ? FS_BT_DIRINDEX : FS_BT_DIRLEAF)))
			rc = -EUCLEAN;
		if (rc || !(s->flags & FS_BP_INDEX)) {
			p->leaf = (void *)b;
			p->leaf_at = a;
			return rc;
		}
		p->at[p->n] = a;
		p->node[p->n++] = (void *)b;
	}
	return 0;
}

static int path_open(struct chk *c, uint64_t dir, uint64_t hash, struct path *p)
{
	int rc;

	*p = (struct path){.dir = dir, .hash = hash, .d = chk_page()};
	rc = p->d ? chk_ino_read(c, dir, p->d) : -ENOMEM;
	return rc ? rc : path_find(c, p);
}

static void path_close(struct path *p)
{
	path_free(p);
	ts_free(p->d);
	p->d = NULL;
}

static struct dir_ents ents_of(struct path *p)
{
	unsigned behind = le16_get(p->d->xattr_len) + (unsigned)sizeof(struct fs_bptr_disk);

	if (p->leaf)
		return (struct dir_ents){.p = p->leaf->ents, .used = TS_MIN(le16_get(p->leaf->used), (unsigned)sizeof(p->leaf->ents)),
					 .cap = sizeof(p->leaf->ents)};
	return (struct dir_ents){.p = p->d->payload, .used = TS_MIN(le16_get(p->d->inline_len), (unsigned)FS_INODE_PAYLOAD),
				 .cap = behind < FS_INODE_PAYLOAD ? FS_INODE_PAYLOAD - behind : 0};
}

int chk_lookup(struct chk *c, uint64_t dir, const char *name, size_t len, uint64_t *ino)
{
	struct path p;
	struct dir_ents e;
	int rc = path_open(c, dir, chk_name_hash(c, name, len), &p);

	if (!rc && p.d->payload_type == FS_PL_DIRTREE && !p.leaf)
		rc = -ENOENT;
	if (!rc) {
		e = ents_of(&p);
		rc = dir_ents_find(&e, p.hash, name, len);
	}
	if (rc >= 0) {
		*ino = le64_get(dir_rec(&e, (unsigned)rc)->ino);
		rc = 0;
	}
	path_close(&p);
	return rc;
}

/* ---- growing ---------------------------------------------------------------------------------------------------------------- */
static int new_block(struct chk *c, struct path *p, enum fs_block_type type, void **out, struct fs_bptr_disk *ptr)
{
	fs_addr a;
	void *b;

	if (!c->npool)
		return -ENOSPC;
	b = chk_page();
	if (!b)
		return -ENOMEM;
	a = c->pool[--c->npool];
	chk_zero_block(c, b, type, TOK_DIR, a, p->dir, le32_get(p->d->h.res_gen));
	*ptr = (struct fs_bptr_disk){.addr = {le64_make(a)}, .birth = le64_make(TS_MAX(c->clock, c->seen) + 1), .subs = le16_make(1),
				     .flags = type == FS_BT_DIRINDEX ? FS_BP_INDEX : 0};
	p->d->subs = le64_make(le64_get(p->d->subs) + 1);
	*out = b;
	return 0;
}

/* The lowest node of the path, then the inode (which counts blocks). */
static int write_up(struct chk *c, struct path *p)
{
	int rc = p->n ? chk_write(c, p->at[p->n - 1], p->node[p->n - 1]) : 0;

	return rc ? rc : chk_ino_write(c, p->dir, p->d);
}

static void leaf_set(struct fs_dirleaf_disk *l, uint64_t prefix, unsigned depth, unsigned used, unsigned count)
{
	l->prefix = le64_make(depth ? prefix >> (64 - depth) << (64 - depth) : 0);
	l->depth_bits = (uint8_t)depth;
	l->used = le16_make((uint16_t)used);
	l->count = le16_make((uint16_t)count);
}

static int grow_to_tree(struct chk *c, struct path *p)
{
	struct dir_ents from = ents_of(p), to;
	struct fs_dirleaf_disk *l;
	struct fs_bptr_disk ptr;
	unsigned count;
	int rc;

	if (FS_INODE_PTRS * sizeof(ptr) + le16_get(p->d->xattr_len) + sizeof(ptr) > FS_INODE_PAYLOAD)
		return -ENOSPC;
	rc = new_block(c, p, FS_BT_DIRLEAF, (void **)&l, &ptr);
	if (rc)
		return rc;
	to = (struct dir_ents){.p = l->ents, .cap = sizeof(l->ents)};
	count = dir_ents_copy(&from, -1, 0, &to);
	leaf_set(l, 0, 0, to.used, count);
	rc = chk_write(c, le64_get(ptr.addr[0]), l);
	ts_free(l);
	memset(p->d->payload, 0, from.used);
	for (unsigned i = 0; i < FS_INODE_PTRS; i++)
		((struct fs_bptr_disk *)p->d->payload)[i] = ptr;
	p->d->payload_type = FS_PL_DIRTREE;
	p->d->inline_len = le16_make(0);
	return rc ? rc : chk_ino_write(c, p->dir, p->d);
}

static int grow_hole(struct chk *c, struct path *p)
{
	struct fs_dirleaf_disk *l;
	struct fs_bptr_disk ptr;
	int rc = new_block(c, p, FS_BT_DIRLEAF, (void **)&l, &ptr);

	if (rc)
		return rc;
	leaf_set(l, p->hash, bits(p) + 6, 0, 0);
	rc = chk_write(c, le64_get(ptr.addr[0]), l);
	ts_free(l);
	slots(p)[dir_slot(p->hash, bits(p))] = ptr;
	return rc ? rc : write_up(c, p);
}

static int grow_level(struct chk *c, struct path *p)
{
	struct fs_bptr_disk *s = &slots(p)[dir_slot(p->hash, bits(p))], ptr;
	struct fs_dirindex_disk *b;
	int rc;

	if (bits(p) + 12 > FS_DIR_MAX_DEPTH)
		return -ENOSPC;
	rc = new_block(c, p, FS_BT_DIRINDEX, (void **)&b, &ptr);
	if (rc)
		return rc;
	b->depth_bits = (uint8_t)(bits(p) + 6);
	b->prefix = le64_make(p->hash >> (58 - bits(p)) << (58 - bits(p)));
	for (unsigned i = 0; i < 64; i++)
		b->p[i] = *s;
	rc = chk_write(c, le64_get(ptr.addr[0]), b);
	ts_free(b);
	*s = ptr;
	return rc ? rc : write_up(c, p);
}

static int grow_split(struct chk *c, struct path *p)
{
	struct fs_dirleaf_disk *l = p->leaf, *nl;
	unsigned depth = l->depth_bits, half = 1u << (bits(p) + 5 - depth), first = dir_slot(le64_get(l->prefix), bits(p)), count[2];
	uint64_t prefix = le64_get(l->prefix);
	struct dir_ents from = ents_of(p), to[2];
	struct fs_bptr_disk ptr;
	uint8_t *room = ts_alloc(2 * FS_SUB);
	int rc = room ? new_block(c, p, FS_BT_DIRLEAF, (void **)&nl, &ptr) : -ENOMEM;

	if (rc)
		goto out;
	for (unsigned i = 0; i < 2; i++) {
		to[i] = (struct dir_ents){.p = room + i * FS_SUB, .cap = sizeof(l->ents)};
		count[i] = dir_ents_copy(&from, 63 - (int)depth, i, &to[i]);
	}
	memcpy(nl->ents, to[1].p, to[1].used);
	leaf_set(nl, prefix | 1ULL << (63 - depth), depth + 1, to[1].used, count[1]);
	memset(l->ents, 0, sizeof(l->ents));
	memcpy(l->ents, to[0].p, to[0].used);
	leaf_set(l, prefix, depth + 1, to[0].used, count[0]);
	for (unsigned i = 0; i < half; i++)
		slots(p)[first + half + i] = ptr;
	rc = chk_write(c, le64_get(ptr.addr[0]), nl);
	ts_free(nl);
	if (!rc)
		rc = write_up(c, p);
	if (!rc)
		rc = chk_write(c, p->leaf_at, l);
out:
	ts_free(room);
	return rc;
}

/* ---- inserting --------------------------------------------------------------------------------------------------------------- */
static int put(struct chk *c, struct path *p, const char *name, size_t len, uint64_t ino, unsigned coll)
{
	const struct chk_ino *t = chk_ino(c, ino);
	struct fs_dirent_disk head = {.hash = le64_make(p->hash), .ino = le64_make(ino), .gen = le32_make(t->gen), .coll = (uint8_t)coll,
				      .type = t->type, .name_len = (uint8_t)len};
	struct dir_ents e = ents_of(p);
	int rc = 0;

	dir_ents_insert(&e, &head, name);
	p->d->size = le64_make(le64_get(p->d->size) + 1);
	if (p->leaf) {
		p->leaf->used = le16_make((uint16_t)e.used);
		p->leaf->count = le16_make((uint16_t)(le16_get(p->leaf->count) + 1));
		rc = chk_write(c, p->leaf_at, p->leaf);
	} else {
		p->d->inline_len = le16_make((uint16_t)e.used);
	}
	return rc ? rc : chk_ino_write(c, p->dir, p->d);
}

/* 1: room was made, look again. */
static int step(struct chk *c, struct path *p, const char *name, size_t len, uint64_t ino)
{
	bool tree = p->d->payload_type == FS_PL_DIRTREE;
	struct dir_scan scan;
	struct dir_ents e;
	int rc;

	if (tree && !p->leaf) {
		rc = grow_hole(c, p);
		return rc ? rc : 1;
	}
	if (tree && (p->leaf->depth_bits < bits(p) || p->leaf->depth_bits > bits(p) + 6))
		return -EUCLEAN;
	e = ents_of(p);
	rc = dir_ents_find(&e, p->hash, name, len);
	if (rc >= 0)
		return -EEXIST;
	rc = dir_ents_scan(&e, p->hash, &scan);
	if (rc || scan.coll < 0)
		return rc ? rc : -ENOSPC;
	if (scan.live_bytes + DIR_REC_LEN(len) <= e.cap)
		return put(c, p, name, len, ino, (unsigned)scan.coll);
	rc = !tree ? grow_to_tree(c, p) : p->leaf->depth_bits >= bits(p) + 6 ? grow_level(c, p) : grow_split(c, p);
	return rc ? rc : 1;
}

int chk_insert(struct chk *c, uint64_t dir, const char *name, size_t len, uint64_t ino)
{
	int rc = 1;

	for (unsigned tries = 0; rc == 1 && tries < 128; tries++) {
		struct path p;

		rc = path_open(c, dir, chk_name_hash(c, name, len), &p);
		if (!rc)
			rc = step(c, &p, name, len, ino);
		path_close(&p);
	}
	return rc == 1 ? -ENOSPC : rc;
}
