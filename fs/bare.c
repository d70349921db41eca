/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a file system opened from its disks alone: labels, superblock, disk and slot tables read, compared and believed only
 * if all agree; where they do not, disk 0 counts (disks.h). Must never happen: disks of two file systems, or in a wrong order, taken for one. */
#include "fs/disks.h"

#include <stdio.h>

#define META_POOL_DEFAULT (128u << 20)

static int fail(char *errmsg, size_t errlen, int rc, const char *fmt, unsigned disk, const char *what)
{
	snprintf(errmsg, errlen, fmt, disk, what);
	return rc;
}

static int check_label(struct fs *fs, unsigned no, uint8_t fs_id[16], char *err, size_t errlen)
{
	struct nsd_label_disk *l = ts_alloc(sizeof(*l));
	enum nsd_label_state state;
	char what[96] = "";
	int rc = l ? nsd_label_read(fs->disks[no].dev, l, &state, what, sizeof(what)) : -ENOMEM;

	if (rc)
		fail(err, errlen, rc, "disk %u: its label cannot be read%s", no, "");
	else if (state != NSD_LABEL_OK)
		rc = fail(err, errlen, -EINVAL, "disk %u holds no file system of ours: %s", no, what[0] ? what : "no good label");
	else if (no && memcmp(fs_id, l->fs_id, 16))
		rc = fail(err, errlen, -EINVAL, "disk %u belongs to another file system than the first%s", no, "");
	else if (le16_get(l->disk_no) != no)
		rc = fail(err, errlen, -EINVAL, "disk %u is out of order, or disks are missing%s", no, "");
	else if (no && memcmp(l->disk_uuid, fs->disks[no].ent.uuid, 16))
		rc = fail(err, errlen, -EINVAL, "disk %u is not the one that the disk table names%s", no, "");
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
	if (!le32_get(s->ndisks) || le32_get(s->ndisks) > FS_MAX_DISKS || le32_get(s->ndisks) < ndisks)
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
	if (fs_pools_wrong(s))
		return fs_pools_wrong(s);
	return s->name[0] && nsd_name_ok(s->name, sizeof(s->name)) ? NULL : "name";
}

/* Of the others only those count against disk 0 that were written as late as its own: a change goes there first. */
static int read_supers(struct fs *fs, const uint8_t fs_id[16], char *err, size_t errlen)
{
	struct fs_super_disk *s = ts_alloc_aligned(FS_SUB, 2 * sizeof(*s));
	const size_t body = sizeof(s->h);
	int rc = s ? 0 : -ENOMEM;

	for (unsigned i = 0; i < fs->ndisks && !rc; i++) {
		const char *wrong = NULL;

		if (i && (!fs->disks[i].dev || !fs_disk_holds(fs, i)))
			continue;
		for (unsigned k = 0, good = 0; k < 2 && !wrong; k++) {
			rc = nsd_read(fs->disks[i].dev, s, FS_SUB, (FS_SUPER_SUB + k) * FS_SUB);
			if (!rc && !fs_mdhdr_wrong(s, fs_id, FS_BT_SUPER, FS_ADDR(i, FS_SUPER_SUB + k)) && !memcmp(s->fs_id, fs_id, 16) && s->h.reserved.v == s->h.res_gen.v) {
				if (!good || le32_get(s->h.res_gen) > le32_get(s[1].h.res_gen))
					s[1] = s[0];
				good++;
			}
			if (rc || (k && !good))
				wrong = "superblock";
		}
		if (!wrong && i && le32_get(s[1].h.res_gen) > le32_get(fs->super.h.res_gen))
			wrong = "superblock: it is newer than that of disk 0";
		if (!wrong && i && s[1].h.res_gen.v == fs->super.h.res_gen.v &&
		    memcmp((uint8_t *)&s[1] + body, (uint8_t *)&fs->super + body, sizeof(*s) - body))
			wrong = "superblock: it is not that of disk 0";
		if (wrong)
			rc = fail(err, errlen, rc ? rc : -EUCLEAN, "disk %u has a wrong %s", i, wrong);
	}
	ts_free(s);
	return rc;
}

static int read_slots(struct fs *fs, char *err, size_t errlen)
{
	struct fs_slottab_disk *s = ts_alloc_aligned(FS_SUB, FS_SUB);
	int rc = s ? 0 : -ENOMEM;

	for (unsigned i = 0; i < le32_get(fs->super.nslots) && !rc; i++) {
		fs_addr a = FS_ADDR(0, FS_SLOTTAB_SUB + i / FS_SLOTS_PER_BLOCK);

		if (i % FS_SLOTS_PER_BLOCK == 0) {
			rc = fs_io_read(fs, a, s, FS_SUB);
			if (!rc && fs_mdhdr_wrong(s, fs->super.fs_id, FS_BT_SLOTTAB, a))
				rc = -EUCLEAN;
			if (rc) {
				fail(err, errlen, rc, "disk %u: its slot table cannot be read%s", 0, "");
				break;
			}
		}
		fs->slots[i] = s->s[i % FS_SLOTS_PER_BLOCK];
		if (fs_io_check_addr(fs, le64_get(fs->slots[i].addr[0]), le32_get(fs->super.log_subs)))
			rc = fail(err, errlen, -EUCLEAN, "disk %u has a wrong %s", 0, "slot table");
	}
	ts_free(s);
	return rc;
}

static int read_disktab(struct fs *fs, char *err, size_t errlen)
{
	struct fs_disktab_disk *d = ts_alloc(sizeof(*d));
	int rc = d ? 0 : -ENOMEM;

	for (unsigned i = 0; i < fs->ndisks && !rc; i++) {
		const char *wrong;

		if (i % FS_DISKS_PER_BLOCK == 0)
			rc = fs_disktab_read(fs->disks[0].dev, fs->super.fs_id, i / FS_DISKS_PER_BLOCK, d);
		if (rc) {
			fail(err, errlen, rc, "disk %u: its disk table cannot be read%s", 0, "");
			break;
		}
		fs->disks[i].ent = d->d[i % FS_DISKS_PER_BLOCK];
		if (fs_disk_state(fs, i) == FS_DISK_GONE)
			fs->disks[i].dev = NULL;
		wrong = fs_disk_ent_wrong(&fs->super, &fs->disks[i].ent, fs->disks[i].dev ? nsd_info(fs->disks[i].dev)->size_bytes / FS_SUB : 0);
		if (wrong)
			rc = fail(err, errlen, -EUCLEAN, "disk %u has a wrong %s", i, wrong);
		else if (!fs->disks[i].dev && fs_disk_holds(fs, i))
			rc = fail(err, errlen, -EINVAL, "disk %u is out of order, or disks are missing%s", i, "");
	}
	ts_free(d);
	return rc;
}

static int open_disks(struct fs *fs, const struct fs_bare_args *a, char *err, size_t errlen)
{
	uint8_t fs_id[16];
	const char *wrong;
	int rc;

	for (unsigned i = 0; i < a->ndisks; i++)
		fs->disks[i].dev = a->disks[i];
	if (!fs->disks[0].dev)
		return fail(err, errlen, -EINVAL, "disk %u is missing%s", 0, "");
	rc = check_label(fs, 0, fs_id, err, errlen);
	if (!rc)
		rc = fs_io_init(fs);
	if (rc)
		return rc;
	rc = fs_supertab_read(fs->disks[0].dev, fs_id, &fs->super);
	wrong = rc ? "superblock" : super_wrong(&fs->super, a->ndisks);
	if (wrong)
		return fail(err, errlen, rc ? rc : -EUCLEAN, "disk %u has a wrong %s", 0, wrong);
	if (le32_get(fs->super.ndisks) > TS_MAX(a->ndisks, FS_DISKS_ONLINE))
		return fail(err, errlen, -EINVAL, "disk %u is out of order, or disks are missing%s", a->ndisks, "");
	fs->ndisks = le32_get(fs->super.ndisks); /* what is not given may not be needed */
	rc = read_disktab(fs, err, errlen);
	for (unsigned i = 1; i < fs->ndisks && !rc; i++)
		rc = fs->disks[i].dev ? check_label(fs, i, fs_id, err, errlen) : 0;
	if (!rc)
		rc = read_supers(fs, fs_id, err, errlen);
	return rc ? rc : read_slots(fs, err, errlen);
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
	ts_group_init(&fs->recovery_group);
	ts_list_init(&fs->files);
	ts_list_init(&fs->peers_link);
	if (!a->ndisks || a->ndisks > FS_MAX_DISKS) {
		rc = fail(errmsg, errlen, -EINVAL, "a file system has 1 to 4096 disks, not %u%s", a->ndisks, "");
		goto failed;
	}
	ts_mutex_init(&fs->disks_lock);
	ts_mutex_init(&fs->settle_lock);
	fs->disks = ts_alloc(TS_MAX(a->ndisks, FS_DISKS_ONLINE) * sizeof(*fs->disks));
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
