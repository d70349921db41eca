/* SPDX-License-Identifier: Apache-2.0 */
/* Job: one leaf of a directory: which slots it fills, its depth and prefix, how much of it is used; then its names.
 * Must never happen: a leaf given up because its depth or prefix is damaged while pointers and names say what they were. */
#include "fs/check_tree.h"

void chk_clear_slots(struct chk_node *n, uint64_t mask)
{
	for (unsigned i = 0; i < SLOTS; i++)
		if (mask >> i & 1)
			memset(&n->p[i], 0, sizeof(n->p[i]));
	n->changed = true;
}

/* All slots of a leaf have one pointer: the one most of them have. */
static void make_equal(struct chk *c, struct chk_node *n, uint64_t mask)
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
bool chk_leaf_claim(const struct chk_node *n, const struct fs_dirleaf_disk *l, unsigned *first, unsigned *slots)
{
	unsigned depth = l->depth_bits;
	uint64_t prefix = le64_get(l->prefix);

	if (depth < n->bits || depth > n->bits + 6 || (depth && prefix << depth) || (!depth && prefix) || !chk_hash_fits(prefix, n->prefix, n->bits))
		return false;
	*slots = 1u << (n->bits + 6 - depth);
	*first = (unsigned)(prefix >> (58 - n->bits)) & 63;
	return true;
}

bool chk_leaf_names_fit(struct chk *c, const struct chk_node *n, const struct fs_dirleaf_disk *l, unsigned first, unsigned slots, bool none_ok)
{
	unsigned fit, all;

	chk_ents_vote(c, l->ents, sizeof(l->ents), slot_prefix(n, first), depth_of(n, slots), &fit, &all);
	return all ? fit * 10 >= all * 9 : none_ok;
}

/* Which slots the leaf shall fill; false: none of them, it is not theirs. */
static bool leaf_place(struct chk *c, struct chk_node *n, struct fs_dirleaf_disk *l, uint64_t mask, unsigned *first, unsigned *slots)
{
	unsigned rf, rn, cf = 0, cn = SLOTS;
	bool run = proper(mask, &rf, &rn), claim = chk_leaf_claim(n, l, &cf, &cn);
	uint64_t want = claim ? run_mask(cf, cn) : 0, others = 0;

	if (claim && want == mask) {
		*first = cf;
		*slots = cn;
		return true;
	}
	for (unsigned i = 0; i < SLOTS; i++)
		others |= (uint64_t)(!(mask >> i & 1) && !chk_zero_ptr(&n->p[i])) << i;
	if (claim && want & mask && !(want & others) && !(run && (mask & want) == want && chk_leaf_names_fit(c, n, l, rf, rn, false) &&
							    !chk_leaf_names_fit(c, n, l, cf, cn, false))) {
		*first = cf;
		*slots = cn;
		return true;
	}
	if (run && chk_leaf_names_fit(c, n, l, rf, rn, !claim || want & mask)) {
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

static void leaf_fill(struct chk *c, struct chk_node *n, struct fs_dirleaf_disk *l, uint64_t mask, unsigned first, unsigned slots, bool *fixed)
{
	uint64_t want = run_mask(first, slots), prefix = slot_prefix(n, first);
	unsigned depth = depth_of(n, slots);
	struct fs_bptr_disk p = n->p[__builtin_ctzll(mask)];

	prefix = depth ? prefix >> (64 - depth) << (64 - depth) : 0;
	if (want != mask) {
		chk_found(c, true, "directory %llu: slots of a leaf are not those of its depth %u -> corrected", (unsigned long long)n->t->dir, depth);
		chk_clear_slots(n, mask & ~want);
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

int chk_leaf_block(struct chk *c, struct chk_node *n, struct fs_dirleaf_disk *l, uint64_t mask, bool fixed)
{
	unsigned first, slots;
	fs_addr a = le64_get(l->h.addr);
	int rc;

	if (!leaf_place(c, n, l, mask, &first, &slots)) {
		chk_found(c, true, "directory %llu, slot %u: leads to a leaf of another place -> removed", (unsigned long long)n->t->dir,
			  (unsigned)__builtin_ctzll(mask));
		chk_clear_slots(n, mask);
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

