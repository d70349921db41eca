/* SPDX-License-Identifier: Apache-2.0 */
/* Job: superblock, disk table and disk places as they lie on a disk, read by whoever needs them before a file system is open.
 * What must never happen: a copy believed that was cut short while it was written, or an older one while a newer one is whole. */
#include "fs/disks.h"

#include <ctype.h>
#include <stdio.h>

/* no: of the disk whose copy it is. */
static int read_best(struct nsd_dev *dev, unsigned no, const uint8_t fs_id[16], enum fs_block_type type, const uint64_t sub[2], void *out)
{
	uint8_t *b = ts_alloc_aligned(FS_SUB, 2 * FS_SUB);
	int best = -1, rc = b ? 0 : -ENOMEM;
	uint64_t gen[2] = {0, 0};

	for (int i = 0; i < 2 && !rc; i++) {
		const struct fs_mhdr_disk *h = (const void *)(b + i * FS_SUB);

		if (!sub[i])
			continue;
		rc = nsd_read(dev, b + i * FS_SUB, FS_SUB, sub[i] * FS_SUB);
		if (rc || fs_mdhdr_wrong(h, fs_id, type, FS_ADDR(no, sub[i])) || h->reserved.v != h->res_gen.v)
			continue;
		gen[i] = le32_get(h->res_gen);
		if (best < 0 || gen[i] > gen[best])
			best = i;
	}
	if (!rc && best < 0)
		rc = -EUCLEAN;
	if (!rc)
		memcpy(out, b + best * FS_SUB, FS_SUB);
	ts_free(b);
	return rc;
}

static int super_read(struct nsd_dev *dev, unsigned no, const uint8_t fs_id[16], struct fs_super_disk *out)
{
	const uint64_t sub[2] = {FS_SUPER_SUB, FS_SUPER_SUB + 1};
	int rc = read_best(dev, no, fs_id, FS_BT_SUPER, sub, out);

	return rc ? rc : memcmp(out->fs_id, fs_id, 16) ? -EUCLEAN : 0;
}

int fs_supertab_read(struct nsd_dev *dev, const uint8_t fs_id[16], struct fs_super_disk *out)
{
	return super_read(dev, 0, fs_id, out);
}

static int disktab_read(struct nsd_dev *dev, unsigned no, const uint8_t fs_id[16], unsigned block, struct fs_disktab_disk *out)
{
	const uint64_t sub[2] = {FS_DISKTAB_SUB + block, block < FS_DISKTAB_TWICE ? FS_DISKTAB_SUB2 + block : 0};

	return read_best(dev, no, fs_id, FS_BT_DISKTAB, sub, out);
}

int fs_disktab_read(struct nsd_dev *dev, const uint8_t fs_id[16], unsigned block, struct fs_disktab_disk *out)
{
	return disktab_read(dev, 0, fs_id, block, out);
}

int fs_diskurl_read(struct nsd_dev *dev, const uint8_t fs_id[16], unsigned no, char out[FS_DISKURL_BYTES])
{
	const uint64_t sub[2] = {FS_DISKURL_SUB + no / FS_DISKURL_PER_BLOCK, 0};
	struct fs_diskurl_disk *d;
	int rc;

	out[0] = 0;
	if (no >= FS_DISKS_ONLINE)
		return 0;
	d = ts_alloc(sizeof(*d));
	rc = d ? read_best(dev, 0, fs_id, FS_BT_DISKURL, sub, d) : -ENOMEM;
	if (!rc) {
		const char *s = d->url[no % FS_DISKURL_PER_BLOCK];
		size_t n = strnlen(s, FS_DISKURL_BYTES);

		for (size_t i = 0; i < n; i++)
			if (!isgraph((unsigned char)s[i]))
				n = FS_DISKURL_BYTES;
		if (n < FS_DISKURL_BYTES)
			memcpy(out, s, n + 1);
	}
	ts_free(d);
	return rc == -EUCLEAN ? 0 : rc; /* never written */
}

bool fs_disk_ent_none(const struct fs_disk_ent_disk *e)
{
	static const struct fs_disk_ent_disk none;

	return !memcmp(e, &none, sizeof(none));
}

const char *fs_pool_name_of(const struct fs_super_disk *s, unsigned pool)
{
	if (!pool)
		return "system";
	if (pool >= FS_POOLS || !(le64_get(s->feat_incompat) & FS_FEAT_POOLS) || !s->pool[pool].name[0] ||
	    !nsd_name_ok(s->pool[pool].name, FS_POOL_NAME))
		return NULL;
	return s->pool[pool].name;
}

const char *fs_pools_wrong(const struct fs_super_disk *s)
{
	static const struct fs_pool_ent_disk none;

	for (unsigned p = 0; p < FS_POOLS; p++) {
		if (!memcmp(&s->pool[p], &none, sizeof(none)))
			continue;
		if (!p || !fs_pool_name_of(s, p) || !strcmp(s->pool[p].name, "system"))
			return "name of a pool";
		for (unsigned q = 1; q < p; q++)
			if (!strcmp(s->pool[p].name, s->pool[q].name))
				return "name of a pool: two have it";
	}
	return NULL;
}

int fs_pool_by_name(const struct fs_super_disk *s, const char *name, unsigned *pool)
{
	for (*pool = 0; *pool < FS_POOLS; ++*pool) {
		const char *n = fs_pool_name_of(s, *pool);

		if (n && !strcmp(n, name))
			return 0;
	}
	return -ENOENT;
}

int fs_pool_number(struct fs_super_disk *s, const char *name, unsigned *pool)
{
	if (!name[0] || strlen(name) >= FS_POOL_NAME || !nsd_name_ok(name, strlen(name) + 1))
		return -EINVAL;
	if (!fs_pool_by_name(s, name, pool))
		return 0;
	for (*pool = 1; *pool < FS_POOLS; ++*pool)
		if (!s->pool[*pool].name[0]) {
			memset(s->pool[*pool].name, 0, FS_POOL_NAME);
			memcpy(s->pool[*pool].name, name, strlen(name));
			s->feat_incompat = le64_make(le64_get(s->feat_incompat) | FS_FEAT_POOLS);
			return 0;
		}
	return -ENOSPC;
}

const char *fs_disk_ent_wrong(const struct fs_super_disk *s, const struct fs_disk_ent_disk *e, uint64_t size_subs)
{
	uint64_t size = le64_get(e->size_subs), start = le64_get(e->region_start);

	if (fs_disk_ent_none(e))
		return NULL;
	if (size_subs && size > size_subs)
		return "size: the disk has shrunk";
	if (e->state >= FS_DISK_STATES || e->usage > FS_DISK_NEITHER || start < FS_SYSTEM_SUB || start > size ||
	    le32_get(e->nchunks) > le32_get(s->nregions) || (uint64_t)le32_get(e->nchunks) * le32_get(s->region_subs) > size - start)
		return "entry in the disk table";
	if (le32_get(e->grow_from) && (le32_get(e->grow_from) >= le32_get(e->nchunks) || !(le64_get(s->feat_incompat) & FS_FEAT_POOLS)))
		return "entry in the disk table: it grows to less than it was";
	if (!fs_pool_name_of(s, e->pool))
		return "entry in the disk table: its pool is none";
	if (e->pool && e->usage != FS_DISK_DATA)
		return "entry in the disk table: metadata outside of the pool system";
	return NULL;
}

int fs_disks_list(struct nsd_dev *dev, struct fs_disk_info **out, unsigned *n)
{
	struct nsd_label_disk *l = ts_alloc(sizeof(*l));
	struct fs_super_disk *s = ts_alloc(sizeof(*s));
	struct fs_disktab_disk *t = ts_alloc(sizeof(*t));
	struct fs_disk_info *v = NULL;
	enum nsd_label_state state;
	unsigned no = 0;
	char what[96];
	int rc = l && s && t ? nsd_label_read(dev, l, &state, what, sizeof(what)) : -ENOMEM;

	*out = NULL;
	*n = 0;
	if (!rc && state != NSD_LABEL_OK)
		rc = -EUCLEAN;
	if (!rc) {
		no = le16_get(l->disk_no);
		rc = super_read(dev, no, l->fs_id, s);
	}
	if (!rc && (!le32_get(s->ndisks) || le32_get(s->ndisks) > FS_MAX_DISKS))
		rc = -EUCLEAN;
	if (!rc) {
		v = ts_alloc(le32_get(s->ndisks) * sizeof(*v));
		rc = v ? 0 : -ENOMEM;
	}
	for (unsigned i = 0; !rc && i < le32_get(s->ndisks); i++) {
		const struct fs_disk_ent_disk *e = &t->d[i % FS_DISKS_PER_BLOCK];

		if (i % FS_DISKS_PER_BLOCK == 0)
			rc = disktab_read(dev, no, l->fs_id, i / FS_DISKS_PER_BLOCK, t);
		if (rc)
			break;
		v[i] = (struct fs_disk_info){.size_bytes = le64_get(e->size_subs) * FS_SUB,
					     .failure_group = le16_get(e->failure_group),
					     .usage = e->usage,
					     .pool = fs_pool_name_of(s, e->pool) ? e->pool : 0,
					     .state = fs_disk_ent_none(e) || e->state >= FS_DISK_STATES ? FS_DISK_GONE : e->state};
		memcpy(v[i].uuid, e->uuid, 16);
		snprintf(v[i].pool_name, sizeof(v[i].pool_name), "%s", fs_pool_name_of(s, v[i].pool));
		if (v[i].state != FS_DISK_GONE && !no)
			rc = fs_diskurl_read(dev, l->fs_id, i, v[i].url);
	}
	if (!rc) {
		*out = v;
		*n = le32_get(s->ndisks);
	} else {
		ts_free(v);
	}
	ts_free(l);
	ts_free(s);
	ts_free(t);
	return rc;
}

const char *fs_disk_state_name(unsigned state)
{
	static const char *const name[] = {[FS_DISK_READY] = "ready", [FS_DISK_JOINING] = "joining", [FS_DISK_DRAINING] = "draining",
					   [FS_DISK_EMPTY] = "empty", [FS_DISK_GONE] = "gone"};

	return state < FS_DISK_STATES ? name[state] : "?";
}

const char *fs_disk_usage_name(unsigned usage)
{
	static const char *const name[] = {[FS_DISK_ANY] = "data+metadata", [FS_DISK_META] = "metadata", [FS_DISK_DATA] = "data",
					   [FS_DISK_NEITHER] = "none"};

	return usage <= FS_DISK_NEITHER ? name[usage] : "?";
}
