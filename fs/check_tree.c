/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the hash tree of one directory: pointers, depths, prefixes, the slots that leaves share; then each run of records goes
 * to whoever looks at names.
 * Must never happen: a block used twice in a tree; a leaf given up because its depth or prefix is damaged while pointers and names say
 * what they were; a walk without end. */
#include "fs/check.h"

#include <stdio.h>

#define SLOTS 64u

struct node { /* 64 slots */
	struct chk_tree *t;
	struct fs_bptr_disk *p;
	uint64_t prefix;
	unsigned bits, level;
	bool changed;
};

static uint64_t slot_prefix(const struct node *n, unsigned slot)
{
	return n->prefix | (uint64_t)slot << (58 - n->bits);
}

static uint64_t run_mask(unsigned first, unsigned n)
{
	return (n == SLOTS ? ~0ULL : (1ULL << n) - 1) << first;
}

/* One aligned run of a power of two? */
static bool proper(uint64_t mask, unsigned *first, unsigned *n)
{
	*n = (unsigned)__builtin_popcountll(mask);
	*first = (unsigned)__builtin_ctzll(mask);
	return !(*n & (*n - 1)) && !(*first % *n) && mask == run_mask(*first, *n);
}

static unsigned depth_of(const struct node *n, unsigned slots)
{
	return n->bits + 6 - (unsigned)__builtin_ctz(slots);
}

static void clear_slots(struct node *n, uint64_t mask)
{
	for (unsigned i = 0; i < SLOTS; i++)
		if (mask >> i & 1)
			memset(&n->p[i], 0, sizeof(n->p[i]));
	n->changed = true;
}

/* ---- pointers ------------------------------------------------------------------------------------------------------------ */
static void pointer(struct chk *c, struct node *n, unsigned i)
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

/* All slots of a leaf have one pointer: the one most of them have. */
static void make_equal(struct chk *c, struct node *n, uint64_t mask)
{
	unsigned best = (unsigned)__builtin_ctzll(mask), most = 0;
	bool equal = true;

	for (unsigned i = best; i < SLOTS; i++)
		equal = equal && (!(mask >> i & 1) || !memcmp(&n->p[i], &n->p[best], sizeof(n->p[i])));
	if (equal)
		return;
	for (unsigned i = 0; i < SLOTS; i++) {
		unsigned same = 0;

		if (!(mask >> i & 1))
			continue;
		for (unsigned k = 0; k < SLOTS; k++)
			same += mask >> k & 1 && !memcmp(&n->p[i], &n->p[k], sizeof(n->p[i]));
		if (same > most) {
			most = same;
			best = i;
		}
	}
	chk_found(c, true, "directory %llu: pointers to one leaf differ -> made equal", (unsigned long long)n->t->dir);
	for (unsigned i = 0; i < SLOTS; i++)
		if (mask >> i & 1 && i != best)
			n->p[i] = n->p[best];
	n->changed = true;
}

/* ---- leaves ---------------------------------------------------------------------------------------------------------------- */
static bool claim_of(const struct node *n, const struct fs_dirleaf_disk *l, unsigned *first, unsigned *slots)
{
	unsigned depth = l->depth_bits;
	uint64_t prefix = le64_get(l->prefix);

	if (depth < n->bits || depth > n->bits + 6 || (depth && prefix << depth) || (!depth && prefix) || !chk_hash_fits(prefix, n->prefix, n->bits))
		return false;
	*slots = 1u << (n->bits + 6 - depth);
	*first = (unsigned)(prefix >> (58 - n->bits)) & 63;
	return true;
}

static bool names_fit(struct chk *c, const struct node *n, const struct fs_dirleaf_disk *l, unsigned first, unsigned slots, bool none_ok)
{
	unsigned fit, all;

	chk_ents_vote(c, l->ents, sizeof(l->ents), slot_prefix(n, first), depth_of(n, slots), &fit, &all);
	return all ? fit * 10 >= all * 9 : none_ok;
}

/* Which slots the leaf shall fill; false: none of them, it is not theirs. */
static bool leaf_place(struct chk *c, struct node *n, struct fs_dirleaf_disk *l, uint64_t mask, unsigned *first, unsigned *slots)
{
	unsigned rf, rn, cf = 0, cn = SLOTS;
	bool run = proper(mask, &rf, &rn), claim = claim_of(n, l, &cf, &cn);
	uint64_t want = claim ? run_mask(cf, cn) : 0, others = 0;

	if (claim && want == mask) {
		*first = cf;
		*slots = cn;
		return true;
	}
	for (unsigned i = 0; i < SLOTS; i++)
		others |= (uint64_t)(!(mask >> i & 1) && !chk_zero_ptr(&n->p[i])) << i;
	if (claim && want & mask && !(want & others) && !(run && (mask & want) == want && names_fit(c, n, l, rf, rn, false) &&
							    !names_fit(c, n, l, cf, cn, false))) {
		*first = cf;
		*slots = cn;
		return true;
	}
	if (run && names_fit(c, n, l, rf, rn, !claim || want & mask)) {
		*first = rf;
		*slots = rn;
		return true;
	}
	if (!claim || !(want & mask))
		return false;
	*first = (unsigned)__builtin_ctzll(want & mask); /* others have part of its slots: the largest run that is its own */
	*slots = 1;
	while (*slots < SLOTS && !((run_mask(*first / (2 * *slots) * 2 * *slots, 2 * *slots)) & ~(want & mask))) {
		*slots *= 2;
		*first = *first / *slots * *slots;
	}
	return true;
}

static void leaf_fill(struct chk *c, struct node *n, struct fs_dirleaf_disk *l, uint64_t mask, unsigned first, unsigned slots, bool *fixed)
{
	uint64_t want = run_mask(first, slots), prefix = slot_prefix(n, first);
	unsigned depth = depth_of(n, slots);
	struct fs_bptr_disk p = n->p[__builtin_ctzll(mask)];

	prefix = depth ? prefix >> (64 - depth) << (64 - depth) : 0;
	if (want != mask) {
		chk_found(c, true, "directory %llu: slots of a leaf are not those of its depth %u -> corrected", (unsigned long long)n->t->dir, depth);
		clear_slots(n, mask & ~want);
		for (unsigned i = 0; i < SLOTS; i++)
			if (want >> i & 1 && chk_zero_ptr(&n->p[i]))
				n->p[i] = p;
		n->changed = true;
	}
	make_equal(c, n, want);
	if (l->depth_bits != depth || le64_get(l->prefix) != prefix) {
		chk_found(c, true, "directory %llu: leaf has depth %u, prefix %#llx -> %u, %#llx", (unsigned long long)n->t->dir, l->depth_bits,
			  (unsigned long long)le64_get(l->prefix), depth, (unsigned long long)prefix);
		l->depth_bits = (uint8_t)depth;
		l->prefix = le64_make(prefix);
		*fixed = true;
	}
}

/* Bytes of records: where the last of `count` live ones ends, if the chain leads there. */
static unsigned used_by_count(struct chk *c, struct fs_dirleaf_disk *l)
{
	struct dir_ents e = {.p = l->ents, .used = sizeof(l->ents), .cap = sizeof(l->ents)};
	unsigned off = 0, live = 0, count = le16_get(l->count), fit, all;
	struct fs_dirent_disk *d;

	while (live < count && dir_ents_at(&e, off, &d) > 0) {
		if (dir_rec_live(d)) {
			chk_ents_vote(c, l->ents + off, DIR_REC_LEN(d->name_len), 0, 0, &fit, &all);
			if (!all)
				return 0;
			live++;
		}
		off += le16_get(d->rec_len);
	}
	return live == count && off <= sizeof(l->ents) ? off : 0;
}

static unsigned live_in(struct fs_dirleaf_disk *l, unsigned used, bool *sound)
{
	struct dir_ents e = {.p = l->ents, .used = used, .cap = sizeof(l->ents)};
	unsigned off = 0, live = 0;
	struct fs_dirent_disk *d;
	int rc = used > sizeof(l->ents) ? -EUCLEAN : 1;

	while (rc > 0 && (rc = dir_ents_at(&e, off, &d)) > 0) {
		live += dir_rec_live(d);
		off += le16_get(d->rec_len);
	}
	*sound = rc == 0;
	return live;
}

static int leaf_names(struct chk *c, struct chk_tree *t, struct fs_dirleaf_disk *d, bool *fixed)
{
	struct chk_leaf l = {.dir = t->dir, .prefix = le64_get(d->prefix), .depth = d->depth_bits};
	unsigned used = le16_get(d->used), by, count;
	bool sound;
	int rc;

	if (live_in(d, used, &sound) != le16_get(d->count) || !sound) {
		by = used_by_count(c, d);
		if (by && by != used) {
			chk_found(c, true, "directory %llu: a leaf says %u bytes of entries, has %u -> set", (unsigned long long)t->dir, used, by);
			used = by;
			*fixed = true;
		}
	}
	l.e = (struct dir_ents){.p = d->ents, .used = used, .cap = sizeof(d->ents)};
	rc = t->fn(c, t->arg, &l);
	if (rc)
		return rc;
	count = live_in(d, l.e.used, &sound);
	t->count += count;
	if (!l.changed && count != le16_get(d->count))
		chk_found(c, true, "directory %llu: a leaf says %u entries, has %u -> set", (unsigned long long)t->dir, le16_get(d->count), count);
	*fixed |= l.changed || count != le16_get(d->count) || l.e.used != le16_get(d->used);
	d->count = le16_make((uint16_t)count);
	d->used = le16_make((uint16_t)l.e.used);
	return 0;
}

static bool leaf_reserved(struct fs_dirleaf_disk *l)
{
	static const uint8_t zero[sizeof(l->reserved2)];

	if (!l->reserved0 && !le16_get(l->reserved1) && !memcmp(l->reserved2, zero, sizeof(zero)))
		return false;
	l->reserved0 = 0;
	l->reserved1 = le16_make(0);
	memset(l->reserved2, 0, sizeof(l->reserved2));
	return true;
}

static int leaf(struct chk *c, struct node *n, struct fs_dirleaf_disk *l, uint64_t mask, bool fixed)
{
	unsigned first, slots;
	fs_addr a = le64_get(l->h.addr);
	int rc;

	if (!leaf_place(c, n, l, mask, &first, &slots)) {
		chk_found(c, true, "directory %llu, slot %u: leads to a leaf of another place -> removed", (unsigned long long)n->t->dir,
			  (unsigned)__builtin_ctzll(mask));
		clear_slots(n, mask);
		return 0;
	}
	leaf_fill(c, n, l, mask, first, slots, &fixed);
	if (leaf_reserved(l)) {
		chk_found(c, true, "directory %llu: reserved bytes of a leaf are used -> cleared", (unsigned long long)n->t->dir);
		fixed = true;
	}
	n->t->subs++;
	rc = leaf_names(c, n->t, l, &fixed);
	return !rc && fixed ? chk_write(c, a, l) : rc;
}

/* ---- index nodes ------------------------------------------------------------------------------------------------------------ */
static int visit_slots(struct chk *c, struct node *n);

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
static int index_place(struct chk *c, struct node *n, unsigned slot, struct fs_dirindex_disk *b, bool *fixed)
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

static int index_block(struct chk *c, struct node *n, struct fs_dirindex_disk *b, uint64_t mask, bool fixed)
{
	struct node below = {.t = n->t, .p = b->p, .bits = n->bits + 6, .level = n->level + 1};
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
		clear_slots(n, mask & ~(1ULL << slot));
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
		clear_slots(n, mask);
		return 0;
	}
	return fixed || below.changed ? chk_write(c, a, b) : 0;
}

/* ---- one block that some slots lead to ---------------------------------------------------------------------------------------- */
/* 1: it is a block of this directory (headers mended); 0: not. */
static int block_read(struct chk *c, struct node *n, fs_addr a, const struct fs_bptr_disk *p, struct fs_mhdr_disk *b, bool *fixed)
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

static void flags_right(struct chk *c, struct node *n, uint64_t mask, bool index)
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

static int visit_block(struct chk *c, struct node *n, uint64_t mask, void *b)
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
		clear_slots(n, mask);
		return 0;
	}
	flags_right(c, n, mask, ((struct fs_mhdr_disk *)b)->type == FS_BT_DIRINDEX);
	return ((struct fs_mhdr_disk *)b)->type == FS_BT_DIRINDEX ? index_block(c, n, b, mask, fixed) : leaf(c, n, b, mask, fixed);
}

/* First what can be nobody's: a stray pointer must not take a place from the leaf that has it. */
static int stray(struct chk *c, struct node *n, uint64_t mask, void *b, bool *is)
{
	struct chk_want w = {.kind = TOK_DIR, .addr = le64_get(n->p[__builtin_ctzll(mask)].addr[0]), .res_id = n->t->dir, .quiet = true};
	unsigned first, slots, cf, cn;
	struct fs_dirleaf_disk *l = b;
	int rc = chk_read(c, w.addr, b, 1);

	if (rc)
		return rc;
	w.type = l->h.type == FS_BT_DIRINDEX ? FS_BT_DIRINDEX : FS_BT_DIRLEAF;
	*is = chk_judge(c, b, &w) == CHK_NOT;
	if (*is || w.type == FS_BT_DIRINDEX || (claim_of(n, l, &cf, &cn) && run_mask(cf, cn) & mask))
		return 0;
	*is = !proper(mask, &first, &slots) || !names_fit(c, n, l, first, slots, true);
	return 0;
}

static uint64_t same_block(const struct node *n, unsigned i) /* of a slot that is not empty: has an address by now */
{
	uint64_t mask = 0;

	for (unsigned k = 0; k < SLOTS; k++)
		mask |= (uint64_t)(n->p[k].addr[0].v == n->p[i].addr[0].v) << k;
	return mask;
}

static int drop_strays(struct chk *c, struct node *n, void *b)
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
		clear_slots(n, mask);
	}
	return rc;
}

static int visit_slots(struct chk *c, struct node *n)
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
	struct node root = {.t = t, .p = (struct fs_bptr_disk *)d->payload};
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
