/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a file system opened from its disks alone: labels, superblock, disk and slot tables read, compared and believed only
 * if all agree. Must never happen: disks of two file systems, or in a wrong order, taken for one. */
#include "fs/fs_int.h"

#include <stdio.h>

#define META_POOL_DEFAULT (128u << 20)

static int fail(char *errmsg, size_t errlen, int rc, const char *fmt, unsigned disk, const char *what)
{
	snprintf(errmsg, errlen, fmt, disk, what);
	return rc;
}

static int check_label(struct nsd_dev *dev, unsigned no, unsigned count, uint8_t fs_id[16], char *err, size_t errlen)
{
	struct nsd_label_disk *l = ts_alloc(sizeof(*l));
	enum nsd_label_state state;
	char what[96] = "";
	int rc = l ? nsd_label_read(dev, l, &state, what, sizeof(what)) : -ENOMEM;

	if (rc)
		fail(err, errlen, rc, "disk %u: its label cannot be read%s", no, "");
	else if (state != NSD_LABEL_OK)
		rc = fail(err, errlen, -EINVAL, "disk %u holds no file system of ours: %s", no, what[0] ? what : "no good label");
	else if (no && memcmp(fs_id, l->fs_id, 16))
		rc = fail(err, errlen, -EINVAL, "disk %u belongs to another file system than the first%s", no, "");
	else if (le16_get(l->disk_no) != no || le16_get(l->disk_count) != count)
		rc = fail(err, errlen, -EINVAL, "disk %u is out of order, or disks are missing%s", no, "");
	else if (!no)
		memcpy(fs_id, l->fs_id, 16);
	ts_free(l);
	return rc;
}

static bool pow2(uint32_t x)
{
	return x && !(x & (x - 1));
}

static const char *super_wrong(const struct fs_super_disk *s, unsigned ndisks)
{
	uint32_t bs = le32_get(s->block_size);

	if (le32_get(s->format_version) != FS_FORMAT_VERSION || le64_get(s->feat_incompat) & ~FS_FEAT_INCOMPAT)
		return "format version";
	if (!pow2(bs) || bs < FS_MIN_BLOCK || bs > FS_MAX_BLOCK)
		return "block size";
	if (le32_get(s->ndisks) != ndisks)
		return "number of disks";
	if (!le32_get(s->nslots) || le32_get(s->nslots) > FS_MAX_SLOTS)
		return "number of log slots";
	if (le32_get(s->log_subs) < 2 + (128u << 10) / FS_SUB)
		return "log size";
	if (le32_get(s->region_subs) < 64 || le32_get(s->region_subs) > FS_BITMAP_BITS || le32_get(s->region_subs) % (bs / FS_SUB))
		return "region size";
	if (!le32_get(s->nregions) || !le64_get(s->nsegments) || !le32_get(s->nsegtab_ext) ||
	    le32_get(s->nsegtab_ext) > FS_SEGTAB_EXTENTS)
		return "tables";
	return s->name[0] && nsd_name_ok(s->name, sizeof(s->name)) ? NULL : "name";
}

/* The better of the two copies on one disk. */
static int read_super(struct fs *fs, unsigned no, const uint8_t fs_id[16], struct fs_super_disk *out, struct fs_super_disk *pair)
{
	int rc = nsd_read(fs->disks[no].dev, pair, 2 * sizeof(*pair), FS_SUPER_SUB * FS_SUB), best = -1;

	for (int i = 0; i < 2 && !rc; i++)
		if (!fs_mdhdr_wrong(&pair[i], fs_id, FS_BT_SUPER, FS_ADDR(no, FS_SUPER_SUB + i)) && !memcmp(pair[i].fs_id, fs_id, 16) &&
		    (best < 0 || fs_mdhdr_version(&pair[i]) > fs_mdhdr_version(&pair[best])))
			best = i;
	if (!rc && best < 0)
		rc = -EUCLEAN;
	if (!rc)
		*out = pair[best];
	return rc;
}

static int read_supers(struct fs *fs, const uint8_t fs_id[16], char *err, size_t errlen)
{
	struct fs_super_disk *s = ts_alloc_aligned(FS_SUB, 3 * sizeof(*s));
	const size_t body = sizeof(s->h);
	int rc = s ? 0 : -ENOMEM;

	for (unsigned i = 0; i < fs->ndisks && !rc; i++) {
		const char *wrong;

		rc = read_super(fs, i, fs_id, &s[2], s);
		wrong = rc ? "superblock" : super_wrong(&s[2], fs->ndisks);
		if (!wrong && i && memcmp((uint8_t *)&s[2] + body, (uint8_t *)&fs->super + body, sizeof(*s) - body))
			wrong = "superblock: it is not that of disk 0";
		if (wrong)
			rc = fail(err, errlen, rc ? rc : -EUCLEAN, "disk %u has a wrong %s", i, wrong);
		else if (!i)
			fs->super = s[2];
	}
	ts_free(s);
	return rc;
}

static const char *disk_ent_wrong(const struct fs *fs, unsigned i)
{
	const struct fs_disk_ent_disk *e = &fs->disks[i].ent;
	uint64_t size = le64_get(e->size_subs), start = le64_get(e->region_start);

	if (size > nsd_info(fs->disks[i].dev)->size_bytes / FS_SUB)
		return "size: the disk has shrunk";
	if (start < FS_SYSTEM_SUB || start > size || le32_get(e->nchunks) > le32_get(fs->super.nregions) ||
	    (uint64_t)le32_get(e->nchunks) * le32_get(fs->super.region_subs) > size - start)
		return "entry in the disk table";
	return NULL;
}

static int read_table(struct fs *fs, uint64_t sub, enum fs_block_type type, void *block)
{
	int rc = fs_io_read(fs, FS_ADDR(0, sub), block, FS_SUB);

	if (!rc && fs_mdhdr_wrong(block, fs->super.fs_id, type, FS_ADDR(0, sub)))
		rc = -EUCLEAN;
	return rc;
}

static int read_tables(struct fs *fs, char *err, size_t errlen)
{
	struct fs_disktab_disk *d = ts_alloc_aligned(FS_SUB, FS_SUB);
	struct fs_slottab_disk *s = (struct fs_slottab_disk *)d;
	const char *wrong = NULL;
	unsigned bad = 0;
	int rc = d ? 0 : -ENOMEM;

	for (unsigned i = 0; i < fs->ndisks && !rc && !wrong; i++) {
		if (i % FS_DISKS_PER_BLOCK == 0)
			rc = read_table(fs, FS_DISKTAB_SUB + i / FS_DISKS_PER_BLOCK, FS_BT_DISKTAB, d);
		if (rc)
			break;
		fs->disks[i].ent = d->d[i % FS_DISKS_PER_BLOCK];
		wrong = disk_ent_wrong(fs, bad = i);
	}
	for (unsigned i = 0; i < le32_get(fs->super.nslots) && !rc && !wrong; i++) {
		if (i % FS_SLOTS_PER_BLOCK == 0)
			rc = read_table(fs, FS_SLOTTAB_SUB + i / FS_SLOTS_PER_BLOCK, FS_BT_SLOTTAB, s);
		if (rc)
			break;
		fs->slots[i] = s->s[i % FS_SLOTS_PER_BLOCK];
		if (fs_io_check_addr(fs, le64_get(fs->slots[i].addr[0]), le32_get(fs->super.log_subs)))
			wrong = "slot table";
	}
	ts_free(d);
	if (rc)
		return fail(err, errlen, rc, "disk %u: its disk and slot tables cannot be read%s", 0, "");
	return wrong ? fail(err, errlen, -EUCLEAN, "disk %u has a wrong %s", bad, wrong) : 0;
}

static int open_disks(struct fs *fs, const struct fs_bare_args *a, char *err, size_t errlen)
{
	uint8_t fs_id[16];
	int rc = 0;

	for (unsigned i = 0; i < a->ndisks && !rc; i++) {
		fs->disks[i].dev = a->disks[i];
		rc = check_label(a->disks[i], i, a->ndisks, fs_id, err, errlen);
	}
	if (!rc)
		rc = fs_io_init(fs);
	if (!rc)
		rc = read_supers(fs, fs_id, err, errlen);
	if (!rc)
		rc = read_tables(fs, err, errlen);
	return rc;
}

int fs_bare_new(const struct fs_bare_args *a, struct fs **out, char *errmsg, size_t errlen)
{
	struct fs *fs = ts_alloc(sizeof(*fs));
	int rc = -ENOMEM;

	*out = NULL;
	if (errlen)
		errmsg[0] = 0;
	if (!fs)
		return -ENOMEM;
	fs->exec = a->exec;
	fs->env = ts_exec_env(a->exec);
	fs->ndisks = a->ndisks;
	ts_cond_init(&fs->run_cond);
	ts_cond_init(&fs->gview_cond);
	ts_group_init(&fs->background);
	ts_list_init(&fs->files);
	ts_list_init(&fs->peers_link);
	if (!a->ndisks || a->ndisks > FS_MAX_DISKS) {
		rc = fail(errmsg, errlen, -EINVAL, "a file system has 1 to 4096 disks, not %u%s", a->ndisks, "");
		goto failed;
	}
	fs->disks = ts_alloc(a->ndisks * sizeof(*fs->disks));
	if (fs->disks)
		rc = open_disks(fs, a, errmsg, errlen);
	if (!rc)
		rc = fs_bufcache_init(fs, a->meta_pool_bytes ? a->meta_pool_bytes : META_POOL_DEFAULT);
	if (rc)
		goto failed;
	fs->block_size = le32_get(fs->super.block_size);
	fs->block_subs = fs->block_size / FS_SUB;
	fs->claim_slot = UINT32_MAX;
	fs->record_void = a->record_void;
	memcpy(&fs->group, fs->super.fs_id, sizeof(fs->group));
	*out = fs;
	return 0;
failed:
	if (errlen && !errmsg[0])
		snprintf(errmsg, errlen, "the file system cannot be opened: %s", strerror(-rc));
	fs_bare_free(fs);
	return rc;
}

void fs_bare_free(struct fs *fs)
{
	if (!fs)
		return;
	fs_bufcache_fini(fs);
	fs_io_fini(fs);
	ts_free(fs->disks);
	ts_free(fs);
}
