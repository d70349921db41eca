/* SPDX-License-Identifier: Apache-2.0 */
/* Job: makes a file system: lays out every disk, writes tables, bitmaps, log headers and the root directory, and last the
 * labels. Must never happen: a disk that looks like ours before everything it names is stable; a layout in which two things overlap. */
#include "fs/disks.h"

#include <stdio.h>

#define LOG_MIN	     (512u << 10)
#define LOG_SMALL    (4u << 20)
#define LOG_LARGE    (64u << 20)
#define LOG_SHARE    128 /* of the space, all slots together: in a large directory every change is a leaf in the log until the next checkpoint */
#define BYTES_PER_INODE (16u << 10)
#define MIN_REGIONS  4 /* metadata, data, and one more of each */
#define WANT_REGIONS 64
#define IO_SUBS	     256 /* of one write */
#define FORMAT_INCARNATION 1

struct layout_disk {
	uint64_t size_subs, next_sub, region_start;
	uint32_t nchunks;
	uint8_t uuid[16], usage, pool;
};
struct layout {
	const struct fs_format_args *a;
	char *err;
	size_t errlen;
	uint8_t fs_id[16];
	uint32_t block_subs, log_subs, nslots, region_subs, nregions;
	uint64_t nsegments, segtab_blocks;
	struct fs_segtab_ext_disk ext[FS_SEGTAB_EXTENTS];
	uint32_t next;
	fs_addr slot[FS_MAX_SLOTS];
	struct layout_disk *disk;
	uint8_t *buf; /* IO_SUBS */
	struct fs_super_disk *super, pools; /* pools: only they */
	uint64_t version;
};

static int refuse(struct layout *l, int rc, const char *text)
{
	snprintf(l->err, l->errlen, "%s", text);
	return rc;
}

/* ---- what goes where ---------------------------------------------------------------------------------------------- */

static int check_args(struct layout *l)
{
	const struct fs_format_args *a = l->a;
	uint32_t bs = a->block_size ? a->block_size : 1u << 20;
	size_t n = a->name ? strlen(a->name) : 0;

	if (!n || n > 63 || !nsd_name_ok(a->name, n + 1))
		return refuse(l, -EINVAL, "the name must be 1 to 63 characters of A-Z a-z 0-9 _ . -");
	if (bs < FS_MIN_BLOCK || bs > FS_MAX_BLOCK || (bs & (bs - 1)))
		return refuse(l, -EINVAL, "the block size must be a power of two from 64 KiB to 16 MiB");
	if (!a->ndisks || a->ndisks > FS_MAX_DISKS)
		return refuse(l, -EINVAL, "a file system has 1 to 4096 disks");
	if (a->meta_disks > a->ndisks)
		return refuse(l, -EINVAL, "there are fewer disks than are to hold metadata");
	if (a->log_slots > FS_MAX_SLOTS)
		return refuse(l, -EINVAL, "at most 256 log slots");
	if (a->log_bytes && (a->log_bytes < LOG_MIN || a->log_bytes > (1ULL << 30)))
		return refuse(l, -EINVAL, "a log is 512 KiB to 1 GiB");
	l->block_subs = bs / FS_SUB;
	l->nslots = a->log_slots ? a->log_slots : 8;
	return 0;
}

static unsigned meta_disks(const struct fs_format_args *a)
{
	return a->meta_disks ? a->meta_disks : a->ndisks;
}

/* So many disks, the first, that hold it: at most up to the first that does not. */
static unsigned meta_first(const struct layout *l)
{
	unsigned n = 0;

	while (n < meta_disks(l->a) && l->disk[n].usage == FS_DISK_ANY)
		n++;
	return n;
}

static uint64_t total_subs(const struct layout *l)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < l->a->ndisks; i++)
		n += l->disk[i].size_subs;
	return n;
}

static fs_addr place(struct layout *l, unsigned disk, uint64_t subs)
{
	uint64_t at = l->disk[disk].next_sub;

	l->disk[disk].next_sub += subs;
	return FS_ADDR(disk, at);
}

static void place_system(struct layout *l)
{
	uint64_t total = total_subs(l), log_bytes = l->a->log_bytes, blocks;
	unsigned n = meta_first(l), pieces; /* what cannot be moved lies on no disk that is for data only */

	if (!log_bytes)
		log_bytes = TS_MIN((uint64_t)LOG_LARGE, TS_MAX((uint64_t)LOG_SMALL, total * FS_SUB / LOG_SHARE / l->nslots));
	l->log_subs = (uint32_t)(log_bytes / FS_SUB);
	for (unsigned i = 0; i < l->nslots; i++)
		l->slot[i] = place(l, i % n, l->log_subs);
	l->nsegments = TS_MIN(FS_MAX_INO / FS_SEG_INODES, TS_MAX((uint64_t)4, total * FS_SUB / BYTES_PER_INODE / FS_SEG_INODES));
	blocks = l->segtab_blocks = (l->nsegments + FS_SEGS_PER_BLOCK - 1) / FS_SEGS_PER_BLOCK;
	pieces = TS_MIN((unsigned)TS_MIN(blocks, (uint64_t)FS_SEGTAB_EXTENTS), n);
	for (unsigned i = 0; i < pieces; i++) {
		uint64_t from = blocks * i / pieces, to = blocks * (i + 1) / pieces;

		l->ext[i] = (struct fs_segtab_ext_disk){.first_block = le64_make(from), .nblocks = le64_make(to - from)};
		l->ext[i].addr[0] = le64_make(place(l, i, to - from));
	}
	l->next = pieces;
}

/* Regions: as many as wanted if the disks are large enough, never smaller than a segment of inodes and some blocks. */
static int place_regions(struct layout *l)
{
	uint64_t largest = 0, rs, least = TS_MAX(2 * FS_SEG_INODES, 4 * l->block_subs), most;

	for (unsigned i = 0; i < l->a->ndisks; i++) {
		struct layout_disk *d = &l->disk[i];

		d->region_start = TS_ALIGN_UP(d->next_sub, l->block_subs);
		if (d->region_start < d->size_subs)
			largest = TS_MAX(largest, d->size_subs - d->region_start);
	}
	most = TS_ALIGN_DOWN(FS_BITMAP_BITS, l->block_subs);
	least = TS_MIN(TS_ALIGN_UP(least, l->block_subs), most);
	rs = TS_ALIGN_DOWN(largest / WANT_REGIONS, l->block_subs);
	rs = TS_MIN(TS_MAX(rs, least), most);
	l->region_subs = (uint32_t)rs;
	for (unsigned i = 0; i < l->a->ndisks; i++) {
		struct layout_disk *d = &l->disk[i];
		uint64_t n = d->region_start < d->size_subs ? (d->size_subs - d->region_start) / rs : 0;

		if (n > UINT32_MAX)
			return refuse(l, -EFBIG, "a disk is larger than this format can address");
		d->nchunks = (uint32_t)n;
		l->nregions = TS_MAX(l->nregions, d->nchunks);
	}
	if (!l->disk[0].nchunks || l->nregions < MIN_REGIONS) {
		uint64_t need = (l->disk[0].region_start + MIN_REGIONS * rs) * FS_SUB;

		snprintf(l->err, l->errlen, "the disks are too small: with %u log slots of %llu KiB the first needs %llu MiB at least",
			 l->nslots, (unsigned long long)l->log_subs * 4, (unsigned long long)((need + (1 << 20) - 1) >> 20));
		return -ENOSPC;
	}
	return 0;
}

static void random_bytes(const struct layout *l, uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i += 8) {
		uint64_t r = ts_random(l->a->env);

		memcpy(p + i, &r, 8);
	}
}

/* Metadata is in the pool system: the disks of others stand behind those that hold it. */
static int pool_of(struct layout *l, unsigned i)
{
	const char *name = l->a->pools ? l->a->pools[i] : "system";
	unsigned pool;
	int rc = fs_pool_number(&l->pools, name, &pool);

	if (rc == -ENOSPC)
		snprintf(l->err, l->errlen, "disk %u: a file system has at most %u pools, and %s is one more", i, FS_POOLS, name);
	else if (rc)
		snprintf(l->err, l->errlen, "disk %u: \"%.40s\" is no name of a pool: 1 to 31 characters of A-Z a-z 0-9 _ . -", i, name);
	if (rc)
		return rc;
	if (pool && i < l->a->meta_disks) {
		snprintf(l->err, l->errlen, "disk %u is to hold metadata, which is in the pool system only, and not in %s", i, name);
		return -EINVAL;
	}
	if (!i && pool)
		return refuse(l, -EINVAL, "the first disk holds metadata: it must be of the pool system");
	l->disk[i].pool = (uint8_t)pool;
	if (pool)
		l->disk[i].usage = FS_DISK_DATA;
	return 0;
}

static int plan(struct layout *l)
{
	int rc = check_args(l);

	if (rc)
		return rc;
	l->disk = ts_alloc(l->a->ndisks * sizeof(*l->disk));
	l->buf = ts_alloc_aligned(FS_SUB, IO_SUBS * FS_SUB);
	l->super = ts_alloc_aligned(FS_SUB, sizeof(*l->super));
	if (!l->disk || !l->buf || !l->super)
		return refuse(l, -ENOMEM, "out of memory");
	do
		random_bytes(l, l->fs_id, sizeof(l->fs_id));
	while (!(l->fs_id[0] | l->fs_id[1] | l->fs_id[2] | l->fs_id[3]));
	for (unsigned i = 0; i < l->a->ndisks; i++) {
		l->disk[i].size_subs = nsd_info(l->a->disks[i])->size_bytes / FS_SUB;
		l->disk[i].next_sub = FS_SYSTEM_SUB;
		l->disk[i].usage = i < meta_disks(l->a) ? FS_DISK_ANY : FS_DISK_DATA;
		random_bytes(l, l->disk[i].uuid, 16);
		rc = pool_of(l, i);
		if (rc)
			return rc;
		if (l->disk[i].size_subs > 1ULL << 40)
			return refuse(l, -EFBIG, "a disk is larger than this format can address");
	}
	place_system(l);
	return place_regions(l);
}

/* ---- writing ------------------------------------------------------------------------------------------------------ */

static int write_at(struct layout *l, fs_addr a, const void *buf, uint64_t subs)
{
	return nsd_write(l->a->disks[FS_ADDR_DISK(a)], buf, subs * FS_SUB, FS_ADDR_SUB(a) * FS_SUB);
}

static int write_block(struct layout *l, fs_addr a, void *block, enum fs_block_type type, enum tok_kind kind, uint64_t id)
{
	fs_mdhdr_fill(block, l->fs_id, type, kind, a, id, 0);
	fs_mdhdr_seal(block, FORMAT_INCARNATION, ++l->version);
	return write_at(l, a, block, 1);
}

static int write_super(struct layout *l)
{
	struct fs_super_disk *s = l->super;
	int rc = 0;

	memset(s, 0, sizeof(*s));
	memcpy(s->fs_id, l->fs_id, 16);
	memcpy(s->cluster_id, l->a->cluster_id, 16);
	memcpy(s->name, l->a->name, strlen(l->a->name));
	s->format_version = le32_make(FS_FORMAT_VERSION);
	s->feat_incompat = le64_make(FS_FEAT_INCOMPAT);
	s->block_size = le32_make(l->block_subs * FS_SUB);
	s->create_time_ns = le64_make(ts_wall_ns(l->a->env));
	random_bytes(l, s->hash_key, 16);
	s->ndisks = le32_make(l->a->ndisks);
	s->nslots = le32_make(l->nslots);
	s->log_subs = le32_make(l->log_subs);
	s->region_subs = le32_make(l->region_subs);
	s->nregions = le32_make(l->nregions);
	memcpy(s->pool, l->pools.pool, sizeof(s->pool));
	s->meta_copies = s->data_copies = 1;
	s->nsegments = le64_make(l->nsegments);
	s->nsegtab_ext = le32_make(l->next);
	memcpy(s->segtab, l->ext, sizeof(s->segtab));
	for (unsigned i = 0; i < 2 * l->a->ndisks && !rc; i++)
		rc = write_block(l, FS_ADDR(i / 2, FS_SUPER_SUB + i % 2), s, FS_BT_SUPER, TOK_FS, 0);
	return rc;
}

static int write_tables(struct layout *l, unsigned disk)
{
	struct fs_slottab_disk *s = (struct fs_slottab_disk *)l->buf;
	struct fs_disktab_disk *d = (struct fs_disktab_disk *)l->buf;
	int rc = 0;

	for (unsigned b = 0; b < FS_MAX_SLOTS / FS_SLOTS_PER_BLOCK && !rc; b++) {
		memset(s, 0, sizeof(*s));
		for (unsigned i = 0; i < FS_SLOTS_PER_BLOCK; i++)
			s->s[i].addr[0] = le64_make(l->slot[b * FS_SLOTS_PER_BLOCK + i]);
		rc = write_block(l, FS_ADDR(disk, FS_SLOTTAB_SUB + b), s, FS_BT_SLOTTAB, TOK_FS, b);
	}
	for (unsigned b = 0; b * FS_DISKS_PER_BLOCK < FS_MAX_DISKS && !rc; b++) {
		memset(d, 0, sizeof(*d));
		for (unsigned i = b * FS_DISKS_PER_BLOCK; i < TS_MIN(l->a->ndisks, (b + 1) * FS_DISKS_PER_BLOCK); i++) {
			struct fs_disk_ent_disk *e = &d->d[i % FS_DISKS_PER_BLOCK];

			memcpy(e->uuid, l->disk[i].uuid, 16);
			e->size_subs = le64_make(l->disk[i].size_subs);
			e->region_start = le64_make(l->disk[i].region_start);
			e->nchunks = le32_make(l->disk[i].nchunks);
			e->failure_group = le16_make((uint16_t)i);
			e->usage = l->disk[i].usage;
			e->pool = l->disk[i].pool;
		}
		rc = write_block(l, FS_ADDR(disk, FS_DISKTAB_SUB + b), d, FS_BT_DISKTAB, TOK_FS, b);
		if (!rc && b < FS_DISKTAB_TWICE)
			rc = write_block(l, FS_ADDR(disk, FS_DISKTAB_SUB2 + b), d, FS_BT_DISKTAB, TOK_FS, b);
	}
	return rc;
}

static int write_slots(struct layout *l)
{
	struct fs_loghead_disk *h = (struct fs_loghead_disk *)l->buf;
	int rc = 0;

	for (unsigned i = 0; i < 2 * l->nslots && !rc; i++) {
		memset(h, 0, sizeof(*h));
		h->sequence = le64_make(i % 2);
		h->slot = le32_make(i / 2);
		h->state = le32_make(FS_LOG_FREE);
		rc = write_block(l, l->slot[i / 2] + i % 2, h, FS_BT_LOGHEAD, TOK_SLOT, i / 2);
	}
	return rc;
}

static fs_addr first_segment(const struct layout *l)
{
	return FS_ADDR(0, l->disk[0].region_start + FS_CHUNK_HEAD);
}

static int write_segtab(struct layout *l)
{
	struct fs_segtab_disk *t = (struct fs_segtab_disk *)l->buf;
	int rc = 0;

	for (unsigned x = 0; x < l->next; x++) {
		uint64_t n = le64_get(l->ext[x].nblocks), first = le64_get(l->ext[x].first_block);

		for (uint64_t i = 0; i < n && !rc; i += IO_SUBS) {
			uint64_t part = TS_MIN(n - i, (uint64_t)IO_SUBS);
			fs_addr a = le64_get(l->ext[x].addr[0]) + i;

			memset(l->buf, 0, part * FS_SUB);
			if (!(first + i)) {
				t->s[0].addr[0] = le64_make(first_segment(l));
				t->s[0].used_hint = le32_make(2);
			}
			for (uint64_t k = 0; k < part; k++) {
				fs_mdhdr_fill(&t[k], l->fs_id, FS_BT_SEGTAB, TOK_SEGTAB, a + k, first + i + k, 0);
				fs_mdhdr_seal(&t[k], FORMAT_INCARNATION, ++l->version);
			}
			rc = write_at(l, a, l->buf, part);
		}
	}
	return rc;
}

/* ---- regions: 64 chunk heads under way at a time ------------------------------------------------------------------ */

#define HEADS 64
struct heads {
	struct nsd_req req[HEADS];
	struct iovec iov[HEADS];
	struct ts_group group;
};
static void head_done(struct nsd_req *r, int rc)
{
	ts_group_done(r->arg, rc);
}

/* Both blocks in front of a chunk, not sealed. */
void fs_chunk_head_fill(uint8_t buf[2 * FS_SUB], const uint8_t fs_id[16], unsigned disk, uint32_t region, uint64_t sub, uint32_t nsubs, uint32_t used)
{
	struct fs_bitmap_disk *b = (struct fs_bitmap_disk *)buf;

	memset(buf, 0, 2 * FS_SUB);
	b->region = le32_make(region);
	b->disk = le16_make((uint16_t)disk);
	b->first_sub = le64_make(sub);
	b->nsubs = le32_make(nsubs);
	b->free = le32_make(nsubs - used);
	for (uint32_t i = 0; i < used; i++)
		b->bits[i / 8] |= (uint8_t)(1u << i % 8);
	fs_mdhdr_fill(b, fs_id, FS_BT_BITMAP, TOK_REGION, FS_ADDR(disk, sub), region, 0);
	fs_mdhdr_fill(buf + FS_SUB, fs_id, FS_BT_CHUNKAUX, TOK_REGION, FS_ADDR(disk, sub + 1), region, 0);
}

static void fill_head(struct layout *l, uint8_t *buf, unsigned disk, uint32_t region)
{
	uint64_t sub = l->disk[disk].region_start + (uint64_t)region * l->region_subs;

	fs_chunk_head_fill(buf, l->fs_id, disk, region, sub, l->region_subs, FS_CHUNK_HEAD + (!disk && !region ? FS_SEG_INODES : 0));
	((struct fs_bitmap_disk *)buf)->type = region ? FS_REGION_FREE : FS_REGION_META; /* the first holds the first segment of inodes */
	fs_mdhdr_seal(buf, FORMAT_INCARNATION, ++l->version);
	fs_mdhdr_seal(buf + FS_SUB, FORMAT_INCARNATION, ++l->version);
}

static int write_heads(struct layout *l, unsigned disk)
{
	struct layout_disk *d = &l->disk[disk];
	struct heads *h = ts_alloc(sizeof(*h));
	int rc = h ? 0 : -ENOMEM;

	for (uint32_t r = 0; r < d->nchunks && !rc; r += HEADS) {
		ts_group_init(&h->group);
		for (uint32_t i = 0; i < HEADS && r + i < d->nchunks; i++) {
			uint8_t *buf = l->buf + (size_t)i * 2 * FS_SUB;

			fill_head(l, buf, disk, r + i);
			h->iov[i] = (struct iovec){buf, 2 * FS_SUB};
			h->req[i] = (struct nsd_req){.op = NSD_WRITE, .len = 2 * FS_SUB, .iov = &h->iov[i], .iovcnt = 1,
						     .off = (d->region_start + (uint64_t)(r + i) * l->region_subs) * FS_SUB,
						     .done = head_done, .arg = &h->group};
			ts_group_add(&h->group);
			nsd_submit(l->a->disks[disk], &h->req[i]);
		}
		rc = ts_group_wait(&h->group, "format: chunk heads");
		if (l->a->progress)
			l->a->progress(l->a->arg, "allocation maps",
				       (unsigned)(((uint64_t)disk * 1000 + (uint64_t)r * 1000 / d->nchunks) / l->a->ndisks));
	}
	ts_free(h);
	return rc;
}

static void fill_root(const struct layout *l, struct fs_inode_disk *d)
{
	le64 now = le64_make(ts_wall_ns(l->a->env));

	d->mode = le16_make(S_IFDIR | 0755);
	d->nlink = le32_make(2);
	d->atime_ns = d->mtime_ns = d->ctime_ns = d->btime_ns = now;
	d->payload_type = FS_PL_DIRINLINE;
	d->copies = 1;
	d->parent = le64_make(FS_ROOT_INO);
}

static int write_inodes(struct layout *l)
{
	struct fs_inode_disk *d = (struct fs_inode_disk *)l->buf;
	fs_addr a = first_segment(l);
	int rc = 0;

	for (unsigned i = 0; i < FS_SEG_INODES && !rc; i += IO_SUBS) {
		memset(d, 0, IO_SUBS * FS_SUB);
		for (unsigned k = 0; k < IO_SUBS; k++) {
			bool root = i + k == FS_ROOT_INO;

			if (root)
				fill_root(l, &d[k]);
			fs_mdhdr_fill(&d[k], l->fs_id, FS_BT_INODE, TOK_INODE, a + i + k, i + k, root);
			fs_mdhdr_seal(&d[k], FORMAT_INCARNATION, ++l->version);
		}
		rc = write_at(l, a + i, d, IO_SUBS);
	}
	return rc;
}

static int write_labels(struct layout *l)
{
	struct nsd_label_disk *b = (struct nsd_label_disk *)l->buf;
	int rc = 0;

	for (unsigned i = 0; i < l->a->ndisks && !rc; i++) {
		*b = (struct nsd_label_disk){.version = le32_make(NSD_LABEL_VERSION),
					     .flags = le32_make(l->a->able ? l->a->able[i] : 0), .disk_no = le16_make((uint16_t)i),
					     .disk_count = le16_make((uint16_t)l->a->ndisks),
					     .failure_group = le16_make((uint16_t)i), .usage = l->disk[i].usage,
					     .size_bytes = le64_make(l->disk[i].size_subs * FS_SUB),
					     .write_time_ns = le64_make(ts_wall_ns(l->a->env)), .sequence = le64_make(1)};
		snprintf(b->pool, sizeof(b->pool), "%s", fs_pool_name_of(l->super, l->disk[i].pool));
		memcpy(b->magic, "TSSRNSD\n", 8);
		memcpy(b->cluster_id, l->a->cluster_id, 16);
		memcpy(b->fs_id, l->fs_id, 16);
		memcpy(b->disk_uuid, l->disk[i].uuid, 16);
		memcpy(b->fs_name, l->a->name, strlen(l->a->name));
		snprintf(b->nsd_name, sizeof(b->nsd_name), "%.52s-%u", l->a->name, i);
		rc = nsd_label_write(l->a->disks[i], b);
	}
	return rc;
}

static int write_all(struct layout *l)
{
	int rc = 0;

	for (unsigned i = 0; i < l->a->ndisks && !rc; i++) /* what was here before is not found again, even if this breaks off */
		rc = nsd_label_erase(l->a->disks[i]);
	for (unsigned i = 0; i < l->a->ndisks && !rc; i++) {
		rc = write_tables(l, i);
		if (!rc)
			rc = write_heads(l, i);
	}
	if (!rc)
		rc = write_slots(l);
	if (!rc)
		rc = write_segtab(l);
	if (!rc)
		rc = write_inodes(l);
	if (!rc)
		rc = write_super(l);
	for (unsigned i = 0; i < l->a->ndisks && !rc; i++)
		rc = nsd_flush(l->a->disks[i]);
	return rc ? rc : write_labels(l);
}

int fs_format(const struct fs_format_args *a, uint8_t fs_id_out[16], char *errmsg, size_t errlen)
{
	struct layout l = {.a = a, .err = errmsg, .errlen = errlen};
	int rc;

	if (errlen)
		errmsg[0] = 0;
	rc = plan(&l);
	if (!rc) {
		rc = write_all(&l);
		if (rc)
			snprintf(errmsg, errlen, "a disk could not be written (%s): nothing was formatted",
				 rc == -TS_ERR_FENCED ? "reservation conflict" : strerror(-rc));
	}
	if (!rc)
		memcpy(fs_id_out, l.fs_id, 16);
	ts_free(l.disk);
	ts_free(l.buf);
	ts_free(l.super);
	return rc;
}
