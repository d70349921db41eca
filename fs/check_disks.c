/* SPDX-License-Identifier: Apache-2.0 */
/* Job: disk table, labels and slot table, and that nothing in the system area overlaps.
 * Must never happen: a label written over a disk of another file system. */
#include "fs/check.h"

#include <stdio.h>

#define DISKTAB_BLOCKS ((FS_MAX_DISKS + FS_DISKS_PER_BLOCK - 1) / FS_DISKS_PER_BLOCK)
#define SLOTTAB_BLOCKS (FS_MAX_SLOTS / FS_SLOTS_PER_BLOCK)

/* ---- disk table ------------------------------------------------------------------------------------------------------ */
/* The bitmap of a region lies where the entry says. */
static bool bitmap_there(struct chk *c, unsigned disk, uint64_t sub, uint32_t region)
{
	struct fs_bitmap_disk *b = chk_page();
	bool there = b && chk_addr_ok(c, FS_ADDR(disk, sub), 1) && !chk_read(c, FS_ADDR(disk, sub), b, 1) && b->h.type == FS_BT_BITMAP &&
		     le64_get(b->h.addr) == FS_ADDR(disk, sub) && le32_get(b->region) == region;

	ts_free(b);
	return there;
}

static bool holds(const struct fs_disk_ent_disk *e)
{
	return e->state == FS_DISK_READY || e->state == FS_DISK_DRAINING;
}

static bool ent_sane(struct chk *c, unsigned i, const struct fs_disk_ent_disk *e)
{
	uint64_t size = le64_get(e->size_subs), start = le64_get(e->region_start);
	uint32_t n = le32_get(e->nchunks);

	if (fs_disk_ent_none(e)) /* no disk has the number, or one was given and taken back */
		return !c->disk[i].dev || le64_get(c->super.feat_incompat) & FS_FEAT_DISKS;
	return !((c->disk[i].dev && size > c->disk[i].size_subs) || start < FS_SYSTEM_SUB || start > size || n > c->nregions ||
	    (uint64_t)n * c->region_subs > size - start || e->usage > 3 || e->state >= FS_DISK_STATES ||
	    (e->state && !(le64_get(c->super.feat_incompat) & FS_FEAT_DISKS)) || (!c->disk[i].dev && holds(e)) || !chk_zero(e->reserved, sizeof(e->reserved)) ||
	    !chk_zero(e->reserved0, sizeof(e->reserved0)) || (le32_get(e->grow_from) && le32_get(e->grow_from) >= n) || !fs_pool_name_of(&c->super, e->pool) || (e->pool && e->usage != FS_DISK_DATA) ||
	    start % c->block_subs || chk_zero(e->uuid, sizeof(e->uuid)));
}

/* Two of three bitmaps: a damaged one does not make the entry wrong. */
static bool ent_there(struct chk *c, unsigned i, const struct fs_disk_ent_disk *e)
{
	uint64_t start = le64_get(e->region_start);
	uint32_t n = le32_get(e->nchunks);

	return !n || !c->disk[i].dev || fs_disk_ent_none(e) || e->state == FS_DISK_GONE || bitmap_there(c, i, start, 0) + bitmap_there(c, i, start + (uint64_t)(n - 1) * c->region_subs, n - 1) +
				     bitmap_there(c, i, start + (uint64_t)(n / 2) * c->region_subs, n / 2) >= 2;
}

static bool disktab_there(struct chk *c, const void *block, void *arg)
{
	unsigned first = *(unsigned *)arg * FS_DISKS_PER_BLOCK;

	for (unsigned i = first; i < c->ndisks && i < first + FS_DISKS_PER_BLOCK; i++)
		if (!ent_there(c, i, &((const struct fs_disktab_disk *)block)->d[i - first]))
			return false;
	return true;
}

static bool disktab_sane(struct chk *c, const void *block, void *arg)
{
	const struct fs_disktab_disk *t = block;
	unsigned b = *(unsigned *)arg;

	if (t->h.res_kind != TOK_FS || le64_get(t->h.res_id) != b)
		return false;
	for (unsigned k = 0; k < FS_DISKS_PER_BLOCK; k++) {
		unsigned i = b * FS_DISKS_PER_BLOCK + k;

		if (i < c->ndisks ? !ent_sane(c, i, &t->d[k]) : !chk_zero(&t->d[k], sizeof(t->d[k])))
			return false;
	}
	return true;
}

static int disk_table(struct chk *c)
{
	struct fs_disktab_disk *t = chk_page();
	fs_addr *at = ts_alloc(2 * (size_t)c->ndisks * sizeof(*at));
	bool twice = le64_get(c->super.feat_incompat) & FS_FEAT_DISKS;
	int rc = t && at ? 0 : -ENOMEM;

	for (unsigned b = 0; b < DISKTAB_BLOCKS && !rc; b++) {
		struct chk_copies k = {.type = FS_BT_DISKTAB, .what = "disk table", .at = at, .sane = disktab_sane, .there = disktab_there,
				       .arg = &b, .fs_id8 = c->super.fs_id, .by_gen = true};

		for (unsigned i = 0; i < c->ndisks; i++) {
			if (!c->disk[i].dev)
				continue;
			at[k.n++] = FS_ADDR(i, FS_DISKTAB_SUB + b);
			if (twice && b < FS_DISKTAB_TWICE)
				at[k.n++] = FS_ADDR(i, FS_DISKTAB_SUB2 + b);
		}
		rc = chk_copies(c, &k, t);
		if (rc == -EUCLEAN)
			rc = chk_fail(c, rc, "block %u of the disk table is good on no disk: nothing was changed there, it cannot be repaired", b);
		for (unsigned i = b * FS_DISKS_PER_BLOCK; i < c->ndisks && i < (b + 1) * FS_DISKS_PER_BLOCK && !rc; i++)
			c->ents[i] = t->d[i % FS_DISKS_PER_BLOCK];
	}
	ts_free(t);
	ts_free(at);
	return rc;
}

/* Regions counted on the disks are those of the superblock. On a disk that is not in use yet, or no more, nothing may lie. */
static int regions_agree(struct chk *c)
{
	bool gone = false;
	uint32_t most = 0;

	for (unsigned i = 0; i < c->ndisks; i++) {
		const struct fs_disk_ent_disk *e = &c->ents[i];

		c->disk[i].region_start = le64_get(e->region_start);
		c->disk[i].nchunks = !fs_disk_ent_none(e) && holds(e) ? le32_get(e->nchunks) : 0;
		most = TS_MAX(most, le32_get(e->nchunks));
		gone |= e->state == FS_DISK_GONE;
	}
	if (most > c->nregions || (most < c->nregions && !gone && !le32_get(c->super.h.res_gen))) /* a disk that was to grow, and did not, leaves more */
		return chk_fail(c, -EUCLEAN, "the superblock says %u regions, the disk table %u: it cannot be repaired", c->nregions, most);
	return 0;
}

/* ---- labels ---------------------------------------------------------------------------------------------------------- */
static bool label_valid(const struct nsd_label_disk *l)
{
	return !memcmp(l->magic, "TSSRNSD\n", 8) && le32_get(l->version) == NSD_LABEL_VERSION &&
	       le64_get(l->csum) == ts_csum64_skip(l, sizeof(*l), offsetof(struct nsd_label_disk, csum), 0) &&
	       nsd_name_ok(l->nsd_name, sizeof(l->nsd_name)) && nsd_name_ok(l->pool, sizeof(l->pool));
}

/* What the label of disk i must be; texts, times and sequence are kept. */
static void label_right(struct chk *c, unsigned i, struct nsd_label_disk *l)
{
	const struct fs_disk_ent_disk *e = &c->ents[i];

	memcpy(l->magic, "TSSRNSD\n", 8);
	l->version = le32_make(NSD_LABEL_VERSION);
	l->flags = le32_make(le32_get(l->flags) & NSD_ABLE_PROBED ? le32_get(l->flags) & NSD_ABLE_ALL : 0);
	memcpy(l->cluster_id, c->super.cluster_id, 16);
	memcpy(l->fs_id, c->super.fs_id, 16);
	memcpy(l->disk_uuid, e->uuid, 16);
	l->disk_no = le16_make((uint16_t)i);
	if (le16_get(l->disk_count) > c->ndisks || le16_get(l->disk_count) <= i) /* how many there were when it was written */
		l->disk_count = le16_make((uint16_t)c->ndisks);
	l->failure_group = e->failure_group;
	l->usage = e->usage;
	memset(l->pool, 0, sizeof(l->pool));
	snprintf(l->pool, sizeof(l->pool), "%s", fs_pool_name_of(&c->super, e->pool));
	l->reserved0 = 0;
	if (!le32_get(e->grow_from) || le64_get(l->size_bytes) > le64_get(e->size_subs) * FS_SUB) /* while it grows, the label comes after */
		l->size_bytes = le64_make(le64_get(e->size_subs) * FS_SUB);
	memcpy(l->fs_name, c->super.name, sizeof(l->fs_name));
	memset(l->reserved, 0, sizeof(l->reserved));
}

static void label_new(struct chk *c, struct nsd_label_disk *l, unsigned i)
{
	memset(l, 0, sizeof(*l));
	snprintf(l->nsd_name, sizeof(l->nsd_name), "%.50s-%u", c->super.name, i);
	l->write_time_ns = c->super.create_time_ns;
}

static int label_one(struct chk *c, unsigned i, struct nsd_label_disk *pair, struct nsd_label_disk *want)
{
	struct nsd_dev *dev = c->disk[i].dev;
	bool valid[2], right;
	int rc = nsd_read(dev, pair, 2 * sizeof(*pair), 0), best = 0;

	if (rc)
		return chk_fail(c, rc, "disk %u: its label cannot be read (%d)", i, rc);
	for (int k = 0; k < 2; k++)
		valid[k] = label_valid(&pair[k]);
	/* The superblock on this disk is ours (it was rewritten if not): a label of another file system is a contradiction. */
	if (valid[0] && valid[1])
		best = le64_get(pair[1].sequence) > le64_get(pair[0].sequence);
	else
		best = valid[1];
	if (valid[best])
		*want = pair[best];
	else
		label_new(c, want, i);
	if (valid[best] && memcmp(want->fs_id, c->super.fs_id, 16) && (!valid[!best] || memcmp(pair[!best].fs_id, c->super.fs_id, 16)))
		return chk_fail(c, -EUCLEAN, "disk %u has the label of another file system (%.63s): nothing was changed there", i, want->fs_name);
	label_right(c, i, want);
	want->csum = le64_make(ts_csum64_skip(want, sizeof(*want), offsetof(struct nsd_label_disk, csum), 0));
	right = valid[0] && valid[1] && !memcmp(&pair[0], want, sizeof(*want)) && !memcmp(&pair[1], want, sizeof(*want));
	if (right)
		return 0;
	chk_found(c, true, "disk %u: label %s -> both copies written from superblock and disk table", i,
		  !valid[0] || !valid[1] ? "is damaged" : "disagrees with the disk table or between its copies");
	return c->repair ? nsd_label_write(dev, want) : 0;
}

static int labels(struct chk *c)
{
	struct nsd_label_disk *p = ts_alloc_aligned(FS_SUB, 3 * sizeof(*p));
	int rc = p ? 0 : -ENOMEM;

	for (unsigned i = 0; i < c->ndisks && !rc; i++)
		rc = c->disk[i].dev && c->ents[i].state != FS_DISK_GONE && !fs_disk_ent_none(&c->ents[i]) ? label_one(c, i, p, p + 2) : 0;
	ts_free(p);
	return rc;
}

int chk_disks(struct chk *c)
{
	int rc;

	c->ents = ts_alloc(c->ndisks * sizeof(*c->ents));
	if (!c->ents)
		return -ENOMEM;
	rc = disk_table(c);
	if (!rc)
		rc = regions_agree(c);
	return rc ? rc : labels(c);
}

/* ---- slot table -------------------------------------------------------------------------------------------------------- */
static bool slot_there(struct chk *c, fs_addr a, uint32_t slot)
{
	struct fs_loghead_disk *h = chk_page();
	unsigned good = 0;

	for (unsigned k = 0; h && k < 2; k++)
		good += !chk_read(c, a + k, h, 1) && h->h.type == FS_BT_LOGHEAD && le64_get(h->h.addr) == a + k && le32_get(h->slot) == slot;
	ts_free(h);
	return good > 0;
}

static bool slottab_sane(struct chk *c, const void *block, void *arg)
{
	const struct fs_slottab_disk *t = block;
	unsigned b = *(unsigned *)arg;

	if (t->h.res_kind != TOK_FS || le64_get(t->h.res_id) != b || le32_get(t->h.res_gen) || !chk_zero(t->reserved, sizeof(t->reserved)))
		return false;
	for (unsigned k = 0; k < FS_SLOTS_PER_BLOCK; k++) {
		unsigned i = b * FS_SLOTS_PER_BLOCK + k;
		fs_addr a = le64_get(t->s[k].addr[0]);

		if (i >= c->nslots ? !chk_zero(&t->s[k], sizeof(t->s[k]))
				   : !chk_addr_ok(c, a, c->log_subs) || FS_ADDR_SUB(a) < FS_SYSTEM_SUB ||
					     FS_ADDR_SUB(a) + c->log_subs > c->disk[FS_ADDR_DISK(a)].region_start ||
					     le64_get(t->s[k].addr[1]) || le64_get(t->s[k].addr[2]))
			return false;
	}
	return true;
}

static bool slottab_there(struct chk *c, const void *block, void *arg)
{
	unsigned first = *(unsigned *)arg * FS_SLOTS_PER_BLOCK;

	for (unsigned i = first; i < c->nslots && i < first + FS_SLOTS_PER_BLOCK; i++)
		if (!slot_there(c, le64_get(((const struct fs_slottab_disk *)block)->s[i - first].addr[0]), i))
			return false;
	return true;
}

static int by_addr(const void *x, const void *y)
{
	const struct chk_range *a = x, *b = y;

	return a->addr < b->addr ? -1 : a->addr > b->addr;
}

static int no_overlap(struct chk *c)
{
	uint32_t nx = le32_get(c->super.nsegtab_ext), n = c->nslots + nx;
	struct chk_range *r = ts_alloc(n * sizeof(*r));
	int rc = r ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < n && !rc; i++) {
		r[i].addr = i < c->nslots ? c->slot[i].addr : le64_get(c->super.segtab[i - c->nslots].addr[0]);
		r[i].subs = i < c->nslots ? c->log_subs : le64_get(c->super.segtab[i - c->nslots].nblocks);
		if (FS_ADDR_SUB(r[i].addr) + r[i].subs > c->disk[FS_ADDR_DISK(r[i].addr)].region_start)
			rc = -EUCLEAN;
	}
	if (!rc)
		qsort(r, n, sizeof(*r), by_addr);
	for (uint32_t i = 1; i < n && !rc; i++) {
		if (r[i - 1].addr + r[i - 1].subs > r[i].addr)
			rc = -EUCLEAN;
	}
	ts_free(r);
	return rc == -EUCLEAN ? chk_fail(c, rc, "logs and segment table overlap in the system area: it cannot be repaired") : rc;
}

int chk_slots(struct chk *c)
{
	struct fs_slottab_disk *t = chk_page();
	fs_addr *at = ts_alloc(c->ndisks * sizeof(*at));
	int rc = 0;

	c->slot = ts_alloc(c->nslots * sizeof(*c->slot));
	if (!t || !at || !c->slot)
		rc = -ENOMEM;
	for (unsigned b = 0; b < SLOTTAB_BLOCKS && !rc; b++) {
		struct chk_copies k = {.type = FS_BT_SLOTTAB, .what = "log slot table", .at = at, .sane = slottab_sane, .there = slottab_there,
				       .arg = &b, .fs_id8 = c->super.fs_id};

		for (unsigned i = 0; i < c->ndisks; i++)
			if (c->disk[i].dev)
				at[k.n++] = FS_ADDR(i, FS_SLOTTAB_SUB + b);
		rc = chk_copies(c, &k, t);
		if (rc == -EUCLEAN)
			rc = chk_fail(c, rc, "block %u of the log slot table is good on no disk: it cannot be repaired", b);
		for (unsigned i = b * FS_SLOTS_PER_BLOCK; i < c->nslots && i < (b + 1) * FS_SLOTS_PER_BLOCK && !rc; i++)
			c->slot[i].addr = le64_get(t->s[i % FS_SLOTS_PER_BLOCK].addr[0]);
	}
	ts_free(t);
	ts_free(at);
	return rc ? rc : no_overlap(c);
}
