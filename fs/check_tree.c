/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the hash tree of one directory: pointers, index nodes, stray blocks; leaves are check_leaf.c's.
 * Must never happen: a block used twice in a tree; a walk without end. */
#include "fs/check_tree.h"

#include <stdio.h>

/* ---- pointers ------------------------------------------------------------------------------------------------------------ */
static void pointer(struct chk *c, struct chk_node *n, unsigned i)
{
	struct fs_bptr_disk p = n->p[i];
	const char *why = NULL;

	if (chk_zero_ptr(&p))
		return;
	p.flags &= (uint8_t)~FS_BP_INDEX;
	if (chk_bptr_sane(c, &p, false, &why))
		return;
	/* Anything but the address can be mended. */
	p = (struct fs_bptr_disk){.addr = {p.addr[0]}, .birth = p.birth, .subs = le16_make(1)};
	if (!le64_get(p.birth) || le64_get(p.birth) > CHK_VERSION_MAX)
		p.birth = le64_make(1);
	n->changed = true;
	if (chk_bptr_sane(c, &p, false, &(const char *){NULL})) {
		chk_found(c, true, "directory %llu, slot %u of level %u: its pointer %s -> corrected", (unsigned long long)n->t->dir, i, n->level, why);
		p.flags = n->p[i].flags & FS_BP_INDEX;
		n->p[i] = p;
		return;
	}
	chk_found(c, true, "directory %llu, slot %u of level %u: its pointer %s -> removed", (unsigned long long)n->t->dir, i, n->level, why);
	memset(&n->p[i], 0, sizeof(n->p[i]));
}

/* ---- index nodes ------------------------------------------------------------------------------------------------------------ */
static int visit_slots(struct chk *c, struct chk_node *n);

/* Some name below the node: 1 and its hash, 0 none. */
static int sample(struct chk *c, const struct fs_bptr_disk *p, uint64_t dir, unsigned level, uint64_t *hash)
{
	struct fs_dirindex_disk *b = chk_page();
	int rc = b ? 0 : -ENOMEM;

	for (unsigned i = 0; i < SLOTS && !rc && level <= CHK_DIR_LEVELS; i++) {
		fs_addr a = le64_get(p[i].addr[0]);
		struct fs_dirleaf_disk *l = (void *)b;
		unsigned off = 0;

		if (!a || !chk_addr_ok(c, a, 1) || (i && a == le64_get(p[i - 1].addr[0])))
			continue;
		rc = chk_read(c, a, b, 1);
		if (rc || le64_get(b->h.res_id) != dir || fs_mdhdr_wrong(b, c->super.fs_id, 0, a))
			continue;
		if (b->h.type == FS_BT_DIRINDEX) {
			rc = sample(c, b->p, dir, level + 1, hash);
			break; /* one way down is enough */
		}
		for (; b->h.type == FS_BT_DIRLEAF && !rc && off + DIR_REC_HEAD < sizeof(l->ents); off += 4) {
			const struct fs_dirent_disk *d = (const void *)(l->ents + off);

			if (d->name_len && d->name_len <= sizeof(l->ents) - off - DIR_REC_HEAD &&
			    chk_name_hash(c, dir_rec_name(d), d->name_len) == le64_get(d->hash)) {
				*hash = le64_get(d->hash);
				rc = 1;
			}
		}
	}
	ts_free(b);
	return rc;
}

/* 1: it is in its place (or was set so), 0: it is not. */
static int index_place(struct chk *c, struct chk_node *n, unsigned slot, struct fs_dirindex_disk *b, bool *fixed)
{
	uint64_t prefix = slot_prefix(n, slot), hash;
	unsigned bits = n->bits + 6, zero = 0;
	int rc;

	for (unsigned i = 0; i < sizeof(b->reserved); i++)
		zero |= b->reserved[i];
	if (zero) {
		chk_found(c, true, "directory %llu: reserved bytes of an index block are used -> cleared", (unsigned long long)n->t->dir);
		memset(b->reserved, 0, sizeof(b->reserved));
		*fixed = true;
	}
	if (b->depth_bits == bits && le64_get(b->prefix) == prefix)
		return 1;
	rc = sample(c, b->p, n->t->dir, n->level + 1, &hash);
	if (rc <= 0 || !chk_hash_fits(hash, prefix, bits))
		return rc < 0 ? rc : 0;
	chk_found(c, true, "directory %llu: index block has depth %u, prefix %#llx -> %u, %#llx", (unsigned long long)n->t->dir, b->depth_bits,
		  (unsigned long long)le64_get(b->prefix), bits, (unsigned long long)prefix);
	b->depth_bits = (uint8_t)bits;
	b->prefix = le64_make(prefix);
	*fixed = true;
	return 1;
}

static int index_block(struct chk *c, struct chk_node *n, struct fs_dirindex_disk *b, uint64_t mask, bool fixed)
{
	struct chk_node below = {.t = n->t, .p = b->p, .bits = n->bits + 6, .level = n->level + 1};
	unsigned slot = (unsigned)__builtin_ctzll(mask), used = 0;
	fs_addr a = le64_get(b->h.addr);
	int rc = 0;

	/* The slot whose prefix it has, if several lead to it. */
	for (unsigned i = 0; i < SLOTS; i++)
		if (mask >> i & 1 && le64_get(b->prefix) == slot_prefix(n, i))
			slot = i;
	if (n->level < CHK_DIR_LEVELS)
		rc = index_place(c, n, slot, b, &fixed);
	if (rc < 0)
		return rc;
	if (rc && mask != 1ULL << slot) {
		chk_found(c, true, "directory %llu: several slots lead to one index block -> one of them", (unsigned long long)n->t->dir);
		chk_clear_slots(n, mask & ~(1ULL << slot));
	}
	if (rc) {
		n->t->subs++;
		below.prefix = slot_prefix(n, slot);
		rc = visit_slots(c, &below);
		if (rc)
			return rc;
		for (unsigned i = 0; i < SLOTS; i++)
			used += !chk_zero_ptr(&b->p[i]);
		n->t->subs -= !used;
	}
	if (!used) {
		chk_found(c, true, "directory %llu, slot %u: leads to an index block that is empty or of another place -> removed",
			  (unsigned long long)n->t->dir, slot);
		chk_clear_slots(n, mask);
		return 0;
	}
	return fixed || below.changed ? chk_write(c, a, b) : 0;
}

/* ---- one block that some slots lead to ---------------------------------------------------------------------------------------- */
/* 1: it is a block of this directory (headers mended); 0: not. */
static int block_read(struct chk *c, struct chk_node *n, fs_addr a, const struct fs_bptr_disk *p, struct fs_mhdr_disk *b, bool *fixed)
{
	struct chk_want w = {.kind = TOK_DIR, .addr = a, .res_id = n->t->dir};
	char what[48];
	int rc = chk_set_add(&n->t->set, a);

	if (rc <= 0)
		return rc;
	rc = chk_read(c, a, b, 1);
	if (rc)
		return rc;
	w.what = what;
	w.type = b->type == FS_BT_DIRINDEX ? FS_BT_DIRINDEX : FS_BT_DIRLEAF;
	snprintf(what, sizeof(what), "directory %llu, %s", (unsigned long long)n->t->dir, w.type == FS_BT_DIRINDEX ? "index block" : "leaf");
	switch (chk_judge(c, b, &w)) {
	case CHK_NOT:
		return 0;
	case CHK_FIXED:
		*fixed = true;
		break;
	case CHK_OK:
		break;
	}
	if (le32_get(b->res_gen) == n->t->gen)
		return 1;
	if (le64_get(b->version) < le64_get(p->birth))
		return 0; /* of an earlier life of the inode */
	chk_found(c, true, "%s: generation %u, the inode's is %u -> corrected", what, le32_get(b->res_gen), n->t->gen);
	b->res_gen = le32_make(n->t->gen);
	*fixed = true;
	return 1;
}

static void flags_right(struct chk *c, struct chk_node *n, uint64_t mask, bool index)
{
	bool wrong = false;

	for (unsigned i = 0; i < SLOTS; i++) {
		if (!(mask >> i & 1) || !(n->p[i].flags & FS_BP_INDEX) == !index)
			continue;
		n->p[i].flags = index ? FS_BP_INDEX : 0;
		wrong = true;
	}
	if (!wrong)
		return;
	chk_found(c, true, "directory %llu: a pointer does not say what it leads to -> corrected", (unsigned long long)n->t->dir);
	n->changed = true;
}

static int visit_block(struct chk *c, struct chk_node *n, uint64_t mask, void *b)
{
	unsigned slot = (unsigned)__builtin_ctzll(mask);
	struct fs_bptr_disk p = n->p[slot];
	bool fixed = false;
	int rc = block_read(c, n, le64_get(p.addr[0]), &p, b, &fixed);

	if (rc < 0)
		return rc;
	if (!rc) {
		chk_found(c, true, "directory %llu, slot %u of level %u: leads to no block of it -> removed", (unsigned long long)n->t->dir, slot,
			  n->level);
		chk_clear_slots(n, mask);
		return 0;
	}
	flags_right(c, n, mask, ((struct fs_mhdr_disk *)b)->type == FS_BT_DIRINDEX);
	return ((struct fs_mhdr_disk *)b)->type == FS_BT_DIRINDEX ? index_block(c, n, b, mask, fixed) : chk_leaf_block(c, n, b, mask, fixed);
}

/* First what can be nobody's: a stray pointer must not take a place from the leaf that has it. */
static int stray(struct chk *c, struct chk_node *n, uint64_t mask, void *b, bool *is)
{
	struct chk_want w = {.kind = TOK_DIR, .addr = le64_get(n->p[__builtin_ctzll(mask)].addr[0]), .res_id = n->t->dir, .quiet = true};
	unsigned first, slots, cf, cn;
	struct fs_dirleaf_disk *l = b;
	int rc = chk_read(c, w.addr, b, 1);

	if (rc)
		return rc;
	w.type = l->h.type == FS_BT_DIRINDEX ? FS_BT_DIRINDEX : FS_BT_DIRLEAF;
	*is = chk_judge(c, b, &w) == CHK_NOT;
	if (*is || w.type == FS_BT_DIRINDEX || (chk_leaf_claim(n, l, &cf, &cn) && run_mask(cf, cn) & mask))
		return 0;
	*is = !proper(mask, &first, &slots) || !chk_leaf_names_fit(c, n, l, first, slots, true);
	return 0;
}

static uint64_t same_block(const struct chk_node *n, unsigned i) /* of a slot that is not empty: has an address by now */
{
	uint64_t mask = 0;

	for (unsigned k = 0; k < SLOTS; k++)
		mask |= (uint64_t)(n->p[k].addr[0].v == n->p[i].addr[0].v) << k;
	return mask;
}

static int drop_strays(struct chk *c, struct chk_node *n, void *b)
{
	uint64_t done = 0;
	int rc = 0;

	for (unsigned i = 0; i < SLOTS && !rc; i++) {
		uint64_t mask = chk_zero_ptr(&n->p[i]) || done >> i & 1 ? 0 : same_block(n, i);
		bool is = false;

		if (!mask)
			continue;
		done |= mask;
		rc = stray(c, n, mask, b, &is);
		if (rc || !is)
			continue;
		chk_found(c, true, "directory %llu, slot %u of level %u: leads to no block that belongs there -> removed",
			  (unsigned long long)n->t->dir, i, n->level);
		chk_clear_slots(n, mask);
	}
	return rc;
}

static int visit_slots(struct chk *c, struct chk_node *n)
{
	uint64_t done = 0;
	void *b = chk_page();
	int rc = b ? 0 : -ENOMEM;

	for (unsigned i = 0; i < SLOTS; i++)
		pointer(c, n, i);
	if (!rc)
		rc = drop_strays(c, n, b);
	for (unsigned i = 0; i < SLOTS && !rc; i++) {
		uint64_t mask = done >> i & 1 || chk_zero_ptr(&n->p[i]) ? 0 : same_block(n, i);

		if (!mask)
			continue;
		rc = visit_block(c, n, mask, b);
		done |= mask;
		if (!chk_zero_ptr(&n->p[i])) /* slots that were given to it meanwhile, too */
			done |= same_block(n, i);
	}
	ts_free(b);
	return rc;
}

/* ---- a whole directory --------------------------------------------------------------------------------------------------------- */
static int inline_names(struct chk *c, struct fs_inode_disk *d, struct chk_tree *t)
{
	unsigned behind = le16_get(d->xattr_len) + (unsigned)sizeof(struct fs_bptr_disk);
	struct chk_leaf l = {.dir = t->dir, .e = {.p = d->payload, .used = le16_get(d->inline_len)}};
	struct fs_dirent_disk *r;
	int rc;

	l.e.cap = behind < FS_INODE_PAYLOAD ? FS_INODE_PAYLOAD - behind : 0;
	rc = t->fn(c, t->arg, &l);
	for (unsigned off = 0; !rc && dir_ents_at(&l.e, off, &r) > 0; off += le16_get(r->rec_len))
		t->count += dir_rec_live(r);
	t->changed |= l.changed || l.e.used != le16_get(d->inline_len);
	d->inline_len = le16_make((uint16_t)l.e.used);
	return rc;
}

int chk_tree(struct chk *c, struct fs_inode_disk *d, struct chk_tree *t)
{
	struct chk_node root = {.t = t, .p = (struct fs_bptr_disk *)d->payload};
	bool used = false;
	int rc;

	if (d->payload_type != FS_PL_DIRTREE)
		return inline_names(c, d, t);
	rc = visit_slots(c, &root);
	for (unsigned i = 0; i < SLOTS; i++)
		used |= !chk_zero_ptr(&root.p[i]);
	t->changed |= root.changed;
	chk_set_free(&t->set);
	if (rc || used)
		return rc;
	chk_found(c, true, "directory %llu: a tree without leaves -> empty directory", (unsigned long long)t->dir);
	d->payload_type = FS_PL_DIRINLINE;
	t->changed = true;
	return 0;
}
