/* SPDX-License-Identifier: Apache-2.0 */
/* Between check_tree.c (index nodes, pointers) and check_leaf.c (leaves). */
#ifndef TESSERA_FS_CHECK_TREE_H
#define TESSERA_FS_CHECK_TREE_H

#include "fs/check.h"

#define SLOTS 64u

struct chk_node { /* 64 slots */
	struct chk_tree *t;
	struct fs_bptr_disk *p;
	uint64_t prefix;
	unsigned bits, level;
	bool changed;
};

static inline uint64_t slot_prefix(const struct chk_node *n, unsigned slot)
{
	return n->prefix | (uint64_t)slot << (58 - n->bits);
}

static inline uint64_t run_mask(unsigned first, unsigned n)
{
	return (n == SLOTS ? ~0ULL : (1ULL << n) - 1) << first;
}

/* One aligned run of a power of two? */
static inline bool proper(uint64_t mask, unsigned *first, unsigned *n)
{
	*n = (unsigned)__builtin_popcountll(mask);
	*first = (unsigned)__builtin_ctzll(mask);
	return !(*n & (*n - 1)) && !(*first % *n) && mask == run_mask(*first, *n);
}

static inline unsigned depth_of(const struct chk_node *n, unsigned slots)
{
	return n->bits + 6 - (unsigned)__builtin_ctz(slots);
}

/* ---- check_leaf.c ---- */
void chk_clear_slots(struct chk_node *n, uint64_t mask);
/* Slots that the leaf says it fills: false: it says nothing that can be. */
bool chk_leaf_claim(const struct chk_node *n, const struct fs_dirleaf_disk *l, unsigned *first, unsigned *slots);
/* Do its names lead to these slots? none_ok: the answer when it has none. */
bool chk_leaf_names_fit(struct chk *c, const struct chk_node *n, const struct fs_dirleaf_disk *l, unsigned first, unsigned slots, bool none_ok);
/* A leaf that the slots in mask lead to: its place, depth, prefix, then its names. */
int chk_leaf_block(struct chk *c, struct chk_node *n, struct fs_dirleaf_disk *l, uint64_t mask, bool fixed) TS_MUST_CHECK;

#endif
