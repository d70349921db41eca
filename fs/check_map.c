/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the block map of a file: every pointer in range, every indirect block its own, counted; and the walk over all blocks of an inode,
 * which everything that accounts space uses.
 * Must never happen: a pointer followed unchecked; a height believed that the blocks contradict (all data would seem lost). */
#include "fs/check.h"

#include <stdio.h>

#define PTR ((unsigned)sizeof(struct fs_bptr_disk))

uint64_t chk_pow84(unsigned n)
{
	uint64_t p = 1;

	while (n--)
		p *= CHK_FAN;
	return p;
}

static uint64_t c_block(const struct chk *c)
{
	return (uint64_t)c->block_subs * FS_SUB;
}

bool chk_bptr_sane(const struct chk *c, const struct fs_bptr_disk *p, bool data, const char **why)
{
	fs_addr a = le64_get(p->addr[0]);
	uint32_t subs = le16_get(p->subs), region, off;

	*why = NULL;
	if (!a)
		*why = "has fields without an address";
	else if (!subs || subs > (data ? c->block_subs : 1))
		*why = "has an impossible length";
	else if (!chk_in_region(c, a, subs, &region, &off) || off < FS_CHUNK_HEAD)
		*why = "leads outside the space for blocks";
	else if (le64_get(p->addr[1]) || le64_get(p->addr[2]))
		*why = "has copies";
	else if (p->comp || p->csum_type || le64_get(p->csum) || p->reserved[0] || p->reserved[1] || p->reserved[2])
		*why = "has fields of a later version";
	else if (p->flags & ~(data ? FS_BP_UNWRITTEN : 0))
		*why = "has impossible flags";
	else if (le64_get(p->birth) > CHK_VERSION_MAX || !le64_get(p->birth))
		*why = "has an impossible birth";
	return !*why;
}

/* Faults that leave no doubt where the block is: corrected in place. */
static bool ptr_mend(const struct chk *c, struct fs_bptr_disk *p, bool data, uint64_t birth)
{
	struct fs_bptr_disk m = *p;
	const char *why;

	m.addr[1] = m.addr[2] = m.csum = le64_make(0);
	m.comp = m.csum_type = 0;
	memset(m.reserved, 0, sizeof(m.reserved));
	m.flags &= data ? FS_BP_UNWRITTEN : 0;
	if (le64_get(m.birth) > CHK_VERSION_MAX || !le64_get(m.birth))
		m.birth = le64_make(birth);
	if (!data)
		m.subs = le16_make(1);
	else if (le16_get(m.subs) > c->block_subs || !le16_get(m.subs))
		m.subs = le16_make((uint16_t)c->block_subs);
	if (!chk_bptr_sane(c, &m, data, &why)) {
		m.subs = le16_make(1);
		if (!chk_bptr_sane(c, &m, data, &why))
			return false;
	}
	*p = m;
	return true;
}

/* Sane afterwards, or zero. true: changed. */
static bool ptr_check(struct chk *c, struct fs_bptr_disk *p, bool data, uint64_t ino, uint64_t idx)
{
	const char *why;
	bool mended;

	if (chk_zero_ptr(p) || chk_bptr_sane(c, p, data, &why))
		return false;
	mended = le64_get(p->addr[0]) && ptr_mend(c, p, data, TS_MAX(c->clock, 1u));
	chk_found(c, true, "inode %llu, block %llu: its pointer %s -> %s", (unsigned long long)ino, (unsigned long long)idx, why,
		  mended ? "corrected" : "removed");
	if (!mended)
		memset(p, 0, sizeof(*p));
	return true;
}

/* ---- addresses met ------------------------------------------------------------------------------------------------------ */
int chk_set_add(struct chk_set *s, fs_addr a)
{
	size_t i;

	if (s->n * 4 >= s->room * 3) {
		struct chk_set big = {.room = s->room ? s->room * 2 : 64};

		big.v = ts_alloc(big.room * sizeof(*big.v));
		if (!big.v)
			return -ENOMEM;
		for (i = 0; i < s->room; i++) {
			if (s->v[i] && chk_set_add(&big, s->v[i]) < 0)
				return -ENOMEM; /* cannot be: it is large enough */
		}
		ts_free(s->v);
		*s = big;
	}
	for (i = ts_hash_u64(a) % s->room; s->v[i]; i = (i + 1) % s->room)
		if (s->v[i] == a)
			return 0;
	s->v[i] = a;
	s->n++;
	return 1;
}

void chk_set_free(struct chk_set *s)
{
	ts_free(s->v);
	*s = (struct chk_set){0};
}

/* ---- structure ---------------------------------------------------------------------------------------------------------- */
struct walk {
	struct chk *c;
	uint64_t ino;
	uint32_t gen;
	struct chk_map *m;
	uint64_t limit; /* first index no file has */
	struct chk_set set;
};

/* The indirect block p leads to, in b. 1: not one; *fixed: write it. */
static int node_read(struct walk *w, struct fs_bptr_disk *p, struct fs_indirect_disk *b, bool *fixed, bool *ptr_changed)
{
	char what[48];
	struct chk_want want = {.type = FS_BT_INDIRECT, .kind = TOK_INODE, .addr = le64_get(p->addr[0]), .res_id = w->ino, .what = what};
	enum chk_verdict v;
	int rc;

	snprintf(what, sizeof(what), "inode %llu, indirect block", (unsigned long long)w->ino);
	rc = chk_set_add(&w->set, want.addr);
	if (rc <= 0)
		return rc < 0 ? rc : 1; /* met before: there would be no end */
	rc = chk_read(w->c, want.addr, b, 1);
	if (rc)
		return rc;
	v = chk_judge(w->c, b, &want);
	if (v == CHK_NOT)
		return 1;
	*fixed = v == CHK_FIXED;
	if (le32_get(b->h.res_gen) != w->gen) {
		if (fs_mdhdr_version(b) < le64_get(p->birth))
			return 1; /* of an earlier life of the inode */
		chk_found(w->c, true, "%s: generation %u, the inode's is %u -> corrected", what, le32_get(b->h.res_gen), w->gen);
		b->h.res_gen = le32_make(w->gen);
		*fixed = true;
	} else if (fs_mdhdr_version(b) < le64_get(p->birth)) {
		chk_found(w->c, true, "%s: older than the pointer to it -> the pointer's birth is corrected", what);
		p->birth = le64_make(fs_mdhdr_version(b));
		*ptr_changed = true;
	}
	return 0;
}

static bool walk_ptrs(struct walk *w, struct fs_bptr_disk *p, unsigned n, unsigned level, uint64_t base, int *rc);

/* true: the pointer changed. */
static bool walk_node(struct walk *w, struct fs_bptr_disk *p, unsigned level, uint64_t base, int *rc)
{
	struct fs_indirect_disk *b = chk_page();
	bool fixed = false, changed = false, used = false;

	*rc = b ? node_read(w, p, b, &fixed, &changed) : -ENOMEM;
	if (!*rc) {
		w->m->subs++;
		fixed |= walk_ptrs(w, b->p, CHK_FAN, level - 1, base, rc);
		for (unsigned i = 0; i < CHK_FAN; i++)
			used |= !chk_zero_ptr(&b->p[i]);
	}
	if (*rc > 0 || (!*rc && !used)) {
		chk_found(w->c, true, "inode %llu, blocks from %llu: the pointer leads to %s -> removed", (unsigned long long)w->ino,
			  (unsigned long long)base, *rc ? "what is not an indirect block of it" : "an indirect block without blocks");
		w->m->subs -= !*rc;
		memset(p, 0, sizeof(*p));
		changed = true;
		fixed = false;
		*rc = 0;
	}
	if (!*rc && fixed)
		*rc = chk_write(w->c, le64_get(p->addr[0]), b);
	ts_free(b);
	return changed;
}

static bool walk_ptrs(struct walk *w, struct fs_bptr_disk *p, unsigned n, unsigned level, uint64_t base, int *rc)
{
	uint64_t span = chk_pow84(level);
	bool changed = false;

	for (unsigned i = 0; i < n && !*rc; i++) {
		uint64_t idx = base + i * span;

		changed |= ptr_check(w->c, &p[i], !level, w->ino, idx);
		if (chk_zero_ptr(&p[i]))
			continue;
		if (idx >= w->limit) {
			chk_found(w->c, true, "inode %llu, block %llu: lies beyond the largest file -> removed", (unsigned long long)w->ino,
				  (unsigned long long)idx);
			memset(&p[i], 0, sizeof(p[i]));
			changed = true;
			continue;
		}
		if (level) {
			changed |= walk_node(w, &p[i], level, idx, rc);
			continue;
		}
		w->m->subs += le16_get(p[i].subs);
		w->m->outside += w->c->ents[FS_ADDR_DISK(le64_get(p[i].addr[0]))].pool != w->m->pool;
		if (!(p[i].flags & FS_BP_UNWRITTEN)) {
			w->m->start = idx * c_block(w->c);
			w->m->end = w->m->start + (uint64_t)le16_get(p[i].subs) * FS_SUB;
		}
	}
	return changed;
}

/* The height that the blocks themselves show: levels of indirect blocks of this inode, one below the other. *exact: below them
 * comes data, for the pointer leads out of the metadata; else the last one is damaged and there is one more level at least. */
static int height_probe(struct walk *w, const struct fs_inode_disk *d, unsigned *out, bool *known, bool *exact)
{
	struct fs_indirect_disk *b = chk_page();
	const struct fs_bptr_disk *p = (const void *)d->payload;
	unsigned n = FS_INODE_PTRS, height = 0;
	int rc = b ? 0 : -ENOMEM;

	*known = *exact = false;
	while (!rc && height <= CHK_MAX_HEIGHT) {
		struct fs_bptr_disk at;
		const char *why;
		unsigned i = 0;

		while (i < n && (!le64_get(p[i].addr[0]) || !chk_bptr_sane(w->c, &p[i], true, &why)))
			i++;
		if (i == n)
			break;
		at = p[i];
		*known = true;
		*exact = !chk_meta_region(w->c, le64_get(at.addr[0]));
		if (*exact)
			break;
		rc = chk_read(w->c, le64_get(at.addr[0]), b, 1);
		if (rc || fs_mdhdr_wrong(b, w->c->super.fs_id, FS_BT_INDIRECT, le64_get(at.addr[0])) || le64_get(b->h.res_id) != w->ino)
			break;
		height++;
		p = b->p;
		n = CHK_FAN;
	}
	ts_free(b);
	*out = height;
	return rc;
}

int chk_map(struct chk *c, uint64_t ino, struct fs_inode_disk *d, struct chk_map *m)
{
	struct walk w = {.c = c, .ino = ino, .gen = le32_get(d->h.res_gen), .m = m, .limit = FS_MAX_SIZE / c_block(c) + 1};
	struct fs_bptr_disk *root = (void *)d->payload;
	unsigned shown;
	bool known, exact;
	int rc = height_probe(&w, d, &shown, &known, &exact);

	if (rc)
		return rc;
	if (known && shown <= CHK_MAX_HEIGHT && (exact ? shown != d->map_height : shown > d->map_height)) {
		chk_found(c, true, "inode %llu: map height %u, its blocks show %u -> corrected", (unsigned long long)ino, d->map_height, shown);
		d->map_height = (uint8_t)shown;
		m->changed = true;
	}
	m->changed |= walk_ptrs(&w, root, FS_INODE_PTRS, d->map_height, 0, &rc);
	chk_set_free(&w.set);
	return rc;
}

/* ---- visiting every block of what was found sound ---------------------------------------------------------------------- */
struct visit {
	struct chk *c;
	const struct chk_visit *v;
	uint64_t ino;
	uint64_t budget; /* a directory or map that leads in circles ends */
};

static int visit_map(struct visit *w, struct fs_bptr_disk *p, unsigned n, unsigned level, uint64_t base, bool *changed)
{
	uint64_t span = chk_pow84(level);
	const char *why;
	int rc = 0;

	for (unsigned i = 0; i < n && !rc; i++) {
		struct fs_indirect_disk *b;
		bool below = false, here = false;

		if (chk_zero_ptr(&p[i]) || !chk_bptr_sane(w->c, &p[i], !level, &why) || !w->budget)
			continue;
		w->budget--;
		rc = w->v->block(w->c, w->v->arg, w->ino, &p[i], level > 0, base + i * span, &here);
		*changed |= here;
		if (rc || !level || chk_zero_ptr(&p[i]))
			continue;
		b = chk_page();
		rc = b ? chk_read(w->c, le64_get(p[i].addr[0]), b, 1) : -ENOMEM;
		if (!rc && b->h.type == FS_BT_INDIRECT && le64_get(b->h.res_id) == w->ino)
			rc = visit_map(w, b->p, CHK_FAN, level - 1, base + i * span, &below);
		if (!rc && below)
			rc = chk_write(w->c, le64_get(p[i].addr[0]), b);
		ts_free(b);
	}
	return rc;
}

/* Neighbouring slots that share a leaf count once. Pointers of directories are never cleared by visitors: their blocks say whose
 * they are, nobody else can have them. */
static int visit_dir(struct visit *w, struct fs_bptr_disk *p, unsigned level)
{
	fs_addr before = 0;
	int rc = 0;

	for (unsigned i = 0; i < 64 && !rc; i++) {
		fs_addr a = le64_get(p[i].addr[0]);
		struct fs_dirindex_disk *b;
		bool none = false;

		if (!a || a == before || !chk_addr_ok(w->c, a, 1) || !w->budget)
			continue;
		before = a;
		w->budget--;
		rc = w->v->block(w->c, w->v->arg, w->ino, &p[i], true, 0, &none);
		if (rc || !(p[i].flags & FS_BP_INDEX) || level >= CHK_DIR_LEVELS)
			continue;
		b = chk_page();
		rc = b ? chk_read(w->c, a, b, 1) : -ENOMEM;
		if (!rc && b->h.type == FS_BT_DIRINDEX && le64_get(b->h.res_id) == w->ino)
			rc = visit_dir(w, b->p, level + 1);
		ts_free(b);
	}
	return rc;
}

int chk_walk(struct chk *c, uint64_t ino, struct fs_inode_disk *d, const struct chk_visit *v, bool *changed)
{
	struct visit w = {.c = c, .v = v, .ino = ino, .budget = 64 + 2 * c->nregions * (uint64_t)c->region_subs * c->ndisks};
	int rc;

	if (!le16_get(d->mode))
		return 0;
	rc = chk_xattr_walk(c, ino, d, v, changed);
	if (!rc && d->payload_type == FS_PL_MAP && d->map_height <= CHK_MAX_HEIGHT)
		rc = visit_map(&w, (void *)d->payload, FS_INODE_PTRS, d->map_height, 0, changed);
	if (!rc && d->payload_type == FS_PL_DIRTREE)
		rc = visit_dir(&w, (void *)d->payload, 0);
	return rc;
}
