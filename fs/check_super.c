/* SPDX-License-Identifier: Apache-2.0 */
/* Job: blocks that exist in several copies: which copy counts, the others are rewritten from it; and the superblock.
 * Must never happen: a copy chosen that contradicts itself while another does not; a guess where no copy is good. */
#include "fs/check.h"

#define BODY sizeof(struct fs_mhdr_disk)

struct copy {
	bool valid, sane, first, there; /* first: of equal ones */
	uint32_t gen;
	unsigned votes;
	uint64_t version;
};

static bool same(const uint8_t *a, const uint8_t *b)
{
	const struct fs_mhdr_disk *x = (const void *)a, *y = (const void *)b;

	return !memcmp(x->fs_id8, y->fs_id8, sizeof(x->fs_id8)) && x->res_kind == y->res_kind && x->res_id.v == y->res_id.v && x->res_gen.v == y->res_gen.v && x->flags.v == y->flags.v &&
	       x->reserved.v == y->reserved.v && !memcmp(a + BODY, b + BODY, FS_SUB - BODY);
}

static bool copy_valid(const struct chk_copies *k, const uint8_t *block, fs_addr a)
{
	const struct fs_mhdr_disk *h = (const void *)block;
	const uint8_t *id = k->fs_id8 ? k->fs_id8 : h->fs_id8;

	return !fs_mdhdr_wrong(block, id, k->type, a) && !le16_get(h->flags) && le32_get(h->reserved) == (k->by_gen ? le32_get(h->res_gen) : 0) &&
	       le64_get(h->version) <= CHK_VERSION_MAX && le64_get(h->version);
}

/* The first of equal copies collects their votes. */
static void vote(struct chk *c, const struct chk_copies *k, const uint8_t *all, struct copy *v)
{
	for (unsigned i = 0; i < k->n; i++) {
		const uint8_t *b = all + (size_t)i * FS_SUB;
		unsigned j = 0;

		v[i].valid = copy_valid(k, b, k->at[i]);
		v[i].sane = v[i].valid && (!k->sane || k->sane(c, b, k->arg));
		v[i].version = fs_mdhdr_version(b);
		v[i].gen = k->by_gen ? le32_get(((const struct fs_mhdr_disk *)b)->res_gen) : 0;
		while (v[i].sane && j < i && !(v[j].first && same(b, all + (size_t)j * FS_SUB)))
			j++;
		v[i].first = v[i].sane && j == i;
		if (v[i].sane)
			v[j].votes++;
	}
}

static bool better(const struct copy *a, const struct copy *b)
{
	if (a->there != b->there)
		return a->there;
	return a->votes != b->votes ? a->votes > b->votes : a->version > b->version;
}

/* A majority counts; else the copy whose places are true, the most frequent, the newest of those. Lost disks have no vote, and where there are
 * some no place needs to be true. -1: none. */
static int choose(struct chk *c, const struct chk_copies *k, const uint8_t *all, struct copy *v)
{
	int best = -1;
	uint32_t gen = 0;
	unsigned n = 0, few = 2;

	vote(c, k, all, v);
	for (unsigned i = 0; i < k->n; i++)
		gen = TS_MAX(gen, v[i].sane ? v[i].gen : 0);
	for (unsigned i = 0; i < k->n; i++) {
		bool lost = c->disk[FS_ADDR_DISK(k->at[i])].lost;

		n += !lost && (!v[i].sane || v[i].gen == gen);
		few = lost ? 0 : few;
	}
	for (unsigned i = 0; i < k->n; i++) {
		if (!v[i].first || v[i].gen != gen)
			continue;
		v[i].there = !k->there || (n > few && 2 * v[i].votes > n) || k->there(c, all + (size_t)i * FS_SUB, k->arg);
		if (n > few && 2 * v[i].votes > n)
			return (int)i;
		if (v[i].there && (best < 0 || better(&v[i], &v[best])))
			best = (int)i;
	}
	return best;
}

/* Copy j is another, good one on the disk of copy i. */
static bool twin(const struct chk_copies *k, const struct copy *v, unsigned i, unsigned j)
{
	return j < k->n && FS_ADDR_DISK(k->at[i]) == FS_ADDR_DISK(k->at[j]) && v[j].sane;
}

static int rewrite(struct chk *c, const struct chk_copies *k, const uint8_t *all, unsigned best, const struct copy *v)
{
	const uint8_t *good = all + (size_t)best * FS_SUB;
	uint8_t *b = chk_page();
	int rc = b ? 0 : -ENOMEM;

	for (unsigned i = 0; i < k->n && !rc; i++) {
		if (v[i].valid && same(good, all + (size_t)i * FS_SUB))
			continue;
		if (v[i].sane && v[i].gen < v[best].gen && !c->repair) /* whoever changed it did not come so far: no fault */
			continue;
		/* Half written when the power failed: that is why there are two on each disk. */
		if (k->by_gen && v[best].gen && !v[i].valid && (twin(k, v, i, i - 1) || twin(k, v, i, i + 1))) {
			if (!c->repair)
				continue;
		} else if (!c->disk[FS_ADDR_DISK(k->at[i])].lost && (!v[i].sane || v[i].gen == v[best].gen))
			chk_found(c, true, "disk %u: %s at sub %llu %s -> written from the copy on disk %u", FS_ADDR_DISK(k->at[i]), k->what,
			  (unsigned long long)FS_ADDR_SUB(k->at[i]),
			  !v[i].valid ? "is damaged" : !v[i].sane ? "contradicts the disks" : "differs from the others", FS_ADDR_DISK(k->at[best]));
		memcpy(b, good, FS_SUB);
		((struct fs_mhdr_disk *)b)->addr = le64_make(k->at[i]);
		rc = chk_write(c, k->at[i], b);
	}
	ts_free(b);
	return rc;
}

int chk_copies(struct chk *c, const struct chk_copies *k, void *out)
{
	uint8_t *all = ts_alloc_aligned(FS_SUB, (size_t)k->n * FS_SUB);
	struct copy *v = ts_alloc(k->n * sizeof(*v));
	int best = -1, rc = all && v ? 0 : -ENOMEM;

	for (unsigned i = 0; i < k->n && !rc; i++)
		rc = chk_read(c, k->at[i], all + (size_t)i * FS_SUB, 1);
	if (!rc) {
		best = choose(c, k, all, v);
		rc = best < 0 ? -EUCLEAN : 0;
	}
	if (!rc) {
		memcpy(out, all + (size_t)best * FS_SUB, FS_SUB);
		for (unsigned i = 0; i < k->n; i++)
			c->seen = TS_MAX(c->seen, v[i].sane ? v[i].version : 0);
		rc = rewrite(c, k, all, (unsigned)best, v);
	}
	ts_free(all);
	ts_free(v);
	return rc;
}

/* ---- the superblock ------------------------------------------------------------------------------------------------ */
static bool pow2(uint32_t x)
{
	return x && !(x & (x - 1));
}

/* Extents of the segment table: on disks, in order, without gaps. */
static bool segtab_sane(struct chk *c, const struct fs_super_disk *s)
{
	uint64_t next = 0, nseg = le64_get(s->nsegments);
	uint32_t n = le32_get(s->nsegtab_ext);

	if (!nseg || nseg > FS_MAX_INO / FS_SEG_INODES || !n || n > FS_SEGTAB_EXTENTS)
		return false;
	for (uint32_t i = 0; i < n; i++) {
		const struct fs_segtab_ext_disk *e = &s->segtab[i];
		uint64_t blocks = le64_get(e->nblocks);

		if (le64_get(e->first_block) != next || !blocks || blocks > 1ULL << 40 || !chk_addr_ok(c, le64_get(e->addr[0]), blocks) ||
		    FS_ADDR_SUB(le64_get(e->addr[0])) < FS_SYSTEM_SUB || le64_get(e->addr[1]) || le64_get(e->addr[2]))
			return false;
		next += blocks;
	}
	return next == (nseg + FS_SEGS_PER_BLOCK - 1) / FS_SEGS_PER_BLOCK &&
	       chk_zero((const uint8_t *)&s->segtab[n], (FS_SEGTAB_EXTENTS - n) * sizeof(s->segtab[0]));
}

/* The segment table lies where it says: tells the true copy from a plausible one. */
static bool super_there(struct chk *c, const void *block, void *arg)
{
	const struct fs_super_disk *s = block;
	uint8_t *b = chk_page();
	bool ok = b != NULL;

	for (uint32_t i = 0; ok && i < le32_get(s->nsegtab_ext); i++) {
		fs_addr a = le64_get(s->segtab[i].addr[0]), last = a + le64_get(s->segtab[i].nblocks) - 1;
		bool first_ok = !chk_read(c, a, b, 1) && ((struct fs_mhdr_disk *)b)->type == FS_BT_SEGTAB;

		ok = first_ok || (!chk_read(c, last, b, 1) && ((struct fs_mhdr_disk *)b)->type == FS_BT_SEGTAB);
	}
	ts_free(b);
	return ok;
}

static bool super_sane(struct chk *c, const void *block, void *arg)
{
	const struct fs_super_disk *s = block;
	uint32_t bs = le32_get(s->block_size), rs = le32_get(s->region_subs);

	if (s->h.res_kind != TOK_FS || le64_get(s->h.res_id) || memcmp(s->h.fs_id8, s->fs_id, 8))
		return false;
	if (le32_get(s->format_version) != FS_FORMAT_VERSION || le64_get(s->feat_compat) || le64_get(s->feat_ro_compat) ||
	    le64_get(s->feat_incompat) & ~FS_FEAT_INCOMPAT)
		return false;
	if (!pow2(bs) || bs < FS_MIN_BLOCK || bs > FS_MAX_BLOCK || rs < 64 || rs > FS_BITMAP_BITS || rs % (bs / FS_SUB))
		return false;
	if (!le32_get(s->ndisks) || le32_get(s->ndisks) > c->ndisks || !le32_get(s->nslots) || le32_get(s->nslots) > FS_MAX_SLOTS ||
	    le32_get(s->log_subs) < 2 + (128u << 10) / FS_SUB || le32_get(s->log_subs) > (1u << 20) || !le32_get(s->nregions))
		return false;
	if (s->meta_copies != 1 || s->data_copies != 1 || s->reserved0[0] || s->reserved0[1] || le32_get(s->reserved1) ||
	    fs_pools_wrong(s) || !chk_zero(s->reserved, sizeof(s->reserved)) || s->move > FS_MOVE_REBALANCE || !chk_zero(s->reserved2, sizeof(s->reserved2)))
		return false;
	if ((s->move || le32_get(s->move_mib_s) || le32_get(s->h.res_gen)) && !(le64_get(s->feat_incompat) & FS_FEAT_DISKS))
		return false;
	if (!s->name[0] || !nsd_name_ok(s->name, sizeof(s->name)))
		return false;
	return segtab_sane(c, s);
}

int chk_super(struct chk *c)
{
	fs_addr *at = ts_alloc(2 * (size_t)c->ndisks * sizeof(*at));
	struct chk_copies k = {.type = FS_BT_SUPER, .what = "superblock", .at = at, .sane = super_sane, .there = super_there, .by_gen = true};
	struct fs_super_disk *s = chk_page();
	int rc = at && s ? 0 : -ENOMEM;

	for (unsigned i = 0; i < 2 * c->ndisks && !rc; i++)
		if (c->disk[i / 2].dev)
			at[k.n++] = FS_ADDR(i / 2, FS_SUPER_SUB + i % 2);
	for (unsigned i = 0; i < c->ndisks && !rc; i++) {
		if (c->disk[i].dev && c->disk[i].size_subs <= FS_SYSTEM_SUB)
			rc = chk_fail(c, -EUCLEAN, "disk %u is too small to hold a file system", i);
	}
	if (!rc) {
		rc = chk_copies(c, &k, s);
		if (rc == -EUCLEAN)
			rc = chk_fail(c, rc, "no superblock on any of the %u disks can be used (or disks are missing): nothing was changed",
				      c->ndisks);
	}
	if (!rc && le32_get(s->ndisks) != c->ndisks)
		rc = chk_fail(c, -EUCLEAN, "the file system has had %u disks, not %u: nothing was changed", le32_get(s->ndisks), c->ndisks);
	if (!rc) {
		c->super = *s;
		c->block_subs = le32_get(s->block_size) / FS_SUB;
		c->region_subs = le32_get(s->region_subs);
		c->nregions = le32_get(s->nregions);
		c->nslots = le32_get(s->nslots);
		c->log_subs = le32_get(s->log_subs);
	}
	ts_free(at);
	ts_free(s);
	return rc;
}
