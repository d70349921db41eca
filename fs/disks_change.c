/* SPDX-License-Identifier: Apache-2.0 */
/* Job: changes of the disk table, one at a time in the cluster (K4), each step on disk before the next: adding a disk, draining and
 * removing one, and what the nodes are to move. Whoever dies in between leaves a state that the next call, or every mount, goes on from.
 * What must never happen: a table on disk 0 that is neither the old nor the new one (K2); a disk that counts while a node has it not (K1). */
#include "fs/alloc_int.h"
#include "fs/disks.h"

#include <stdarg.h>
#include <stdio.h>

#define HEADS 64u /* chunk heads under way */

struct change {
	struct fs *fs;
	char *err;
	size_t errlen;
	struct tok_pin pin;
	struct fs_super_disk *pools; /* as they will be */
};

static int refuse(struct change *c, int rc, const char *fmt, ...) TS_PRINTF(3, 4);
static int refuse(struct change *c, int rc, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->err, c->errlen, fmt, ap);
	va_end(ap);
	return rc;
}

int fs_disks_lock(struct fs *fs, struct tok_pin *pin)
{
	int rc = tok_pin(fs->tok, TOK_FS, FS_DISKS_TOKEN, TOK_EX, 0, TOK_END, 0, pin);

	if (rc)
		return rc;
	rc = fs_disks_refresh(fs);
	if (rc)
		tok_unpin(fs->tok, pin);
	return rc;
}

static int begin(struct change *c, struct fs *fs, char *errmsg, size_t errlen)
{
	int rc;

	*c = (struct change){.fs = fs, .err = errmsg, .errlen = errlen};
	if (errlen)
		errmsg[0] = 0;
	if (fs->args.read_only)
		return refuse(c, -EROFS, "file system %s: mounted read-only on this node; do it on one where it is not", fs->super.name);
	if (!fs_disks_enter(fs))
		return refuse(c, -ESHUTDOWN, "file system %s: it is being unmounted on this node", fs->super.name);
	rc = fs_disks_lock(fs, &c->pin);
	if (rc)
		ts_group_done(&fs->background, 0);
	return rc ? refuse(c, rc, "file system %s: its disk table cannot be read, or a disk of it cannot be opened here (%s)", fs->super.name,
			   strerror(abs(rc))) : 0;
}

static void end(struct change *c)
{
	tok_unpin(c->fs->tok, &c->pin);
	ts_group_done(&c->fs->background, 0);
}

/* ---- the table ---------------------------------------------------------------------------------------------------- */

static int put(struct fs *fs, void *block, enum fs_block_type type, fs_addr a, uint64_t id, uint32_t gen)
{
	struct fs_mhdr_disk *h = block;

	fs_mdhdr_fill(block, fs->super.fs_id, type, TOK_FS, a, id, gen);
	h->reserved = h->res_gen;
	fs_mdhdr_seal(block, fs->incarnation, fs_version_next(fs));
	return fs_io_write_meta(fs, a, block, FS_SUB);
}

/* Two copies, the second when the first is stable. */
static int put_twice(struct fs *fs, void *block, enum fs_block_type type, fs_addr a, fs_addr b, uint64_t id, uint32_t gen)
{
	int rc = put(fs, block, type, a, id, gen);

	if (!rc)
		rc = fs_io_flush_addr(fs, a);
	if (!rc)
		rc = put(fs, block, type, b, id, gen);
	return rc ? rc : fs_io_flush_addr(fs, b);
}

static int put_on(struct fs *fs, unsigned disk, struct fs_super_disk *s, struct fs_disktab_disk *t, unsigned b, uint32_t gen)
{
	int rc = put_twice(fs, s, FS_BT_SUPER, FS_ADDR(disk, FS_SUPER_SUB), FS_ADDR(disk, FS_SUPER_SUB + 1), 0, gen);

	if (!rc && t)
		rc = put_twice(fs, t, FS_BT_DISKTAB, FS_ADDR(disk, FS_DISKTAB_SUB + b), FS_ADDR(disk, FS_DISKTAB_SUB2 + b), b, gen);
	return rc;
}

/* The whole table becomes double when this file system is changed for the first time. */
static int make_double(struct fs *fs)
{
	struct fs_disktab_disk *t = ts_alloc_aligned(FS_SUB, FS_SUB);
	int rc = t ? 0 : -ENOMEM;

	for (unsigned d = 0; d < fs->ndisks && !rc; d++) {
		if (!fs->disks[d].dev)
			continue;
		for (unsigned b = 0; b < FS_DISKTAB_TWICE && !rc; b++) {
			rc = fs_disktab_read(fs->disks[0].dev, fs->super.fs_id, b, t);
			if (!rc)
				rc = put(fs, t, FS_BT_DISKTAB, FS_ADDR(d, FS_DISKTAB_SUB2 + b), b, le32_get(t->h.res_gen));
		}
		if (!rc)
			rc = fs_io_flush_addr(fs, FS_ADDR(d, FS_DISKTAB_SUB2));
	}
	ts_free(t);
	return rc;
}

static void edit_super(const struct fs_disk_edit *e, struct fs_super_disk *s)
{
	s->feat_incompat = le64_make(le64_get(s->feat_incompat) | FS_FEAT_DISKS);
	if (e->nregions) {
		s->feat_incompat = le64_make(le64_get(s->feat_incompat) | FS_FEAT_POOLS);
		s->nregions = le32_make(TS_MAX(e->nregions, le32_get(s->nregions)));
	}
	if (e->pools) {
		s->feat_incompat = le64_make(le64_get(s->feat_incompat) | (le64_get(e->pools->feat_incompat) & FS_FEAT_POOLS));
		memcpy(s->pool, e->pools->pool, sizeof(s->pool));
	}
	if (e->ndisks)
		s->ndisks = le32_make(e->ndisks);
	if (e->set_move) {
		s->move = e->move;
		s->move_mib_s = le32_make(e->move_mib_s);
	}
}

int fs_disks_write(struct fs *fs, const struct fs_disk_edit *e)
{
	struct fs_super_disk *s = ts_alloc_aligned(FS_SUB, FS_SUB);
	struct fs_disktab_disk *t = ts_alloc_aligned(FS_SUB, FS_SUB);
	unsigned b = e->no == UINT32_MAX ? 0 : e->no / FS_DISKS_PER_BLOCK;
	uint32_t gen = 0;
	int rc = s && t ? 0 : -ENOMEM;

	if (!rc && !(le64_get(fs->super.feat_incompat) & FS_FEAT_DISKS))
		rc = make_double(fs);
	if (!rc)
		rc = fs_supertab_read(fs->disks[0].dev, fs->super.fs_id, s);
	if (!rc)
		rc = fs_disktab_read(fs->disks[0].dev, fs->super.fs_id, b, t);
	if (!rc) {
		gen = TS_MAX(le32_get(s->h.res_gen), le32_get(t->h.res_gen)) + 1;
		edit_super(e, s);
		if (e->no != UINT32_MAX)
			t->d[e->no % FS_DISKS_PER_BLOCK] = e->ent;
		rc = put_on(fs, 0, s, e->no == UINT32_MAX ? NULL : t, b, gen);
	}
	for (unsigned d = 1; d < fs->ndisks && !rc; d++) {
		int rc2;

		if (!fs->disks[d].dev)
			continue;
		rc2 = put_on(fs, d, s, e->no == UINT32_MAX ? NULL : t, b, gen);
		if (rc2) /* it has the older copy; the next change tries again, and fsck */
			ts_warn("%s: disk %u: its copy of the disk table could not be written (%d)", fs->super.name, d, rc2);
	}
	ts_free(s);
	ts_free(t);
	return rc;
}

/* On disk, known here, and known to all others. */
static int change_and_tell(struct change *c, const struct fs_disk_edit *e, unsigned *who)
{
	int rc = fs_disks_write(c->fs, e);

	*who = c->fs->self;
	if (!rc)
		rc = fs_disks_refresh(c->fs);
	return rc ? rc : fs_disks_tell(c->fs, who);
}

static int set_state(struct change *c, unsigned no, enum fs_disk_state state)
{
	struct fs_disk_edit e = {.no = no, .ent = c->fs->disks[no].ent};
	unsigned who;
	int rc;

	e.ent.state = (uint8_t)state;
	rc = change_and_tell(c, &e, &who);
	return rc ? refuse(c, rc, "disk %u: node %u does not take it as %s (%s); say it again when that node is well", no, who,
			   fs_disk_state_name(state), strerror(abs(rc))) : 0;
}

/* ---- what a new disk gets before it counts ------------------------------------------------------------------------- */

static int write_block(struct fs *fs, struct nsd_dev *dev, unsigned no, void *block, enum fs_block_type type, uint64_t sub, uint64_t id,
		       uint32_t gen)
{
	fs_mdhdr_fill(block, fs->super.fs_id, type, TOK_FS, FS_ADDR(no, sub), id, gen);
	((struct fs_mhdr_disk *)block)->reserved = le32_make(gen);
	fs_mdhdr_seal(block, fs->incarnation, fs_version_next(fs));
	return nsd_write(dev, block, FS_SUB, sub * FS_SUB);
}

/* Superblock, disk table and slot table, as disk 0 has them. */
static int copy_tables(struct fs *fs, struct nsd_dev *dev, unsigned no, void *page)
{
	struct fs_mhdr_disk *h = page;
	int rc = fs_supertab_read(fs->disks[0].dev, fs->super.fs_id, page);

	for (unsigned k = 0; k < 2 && !rc; k++)
		rc = write_block(fs, dev, no, page, FS_BT_SUPER, FS_SUPER_SUB + k, 0, le32_get(h->res_gen));
	for (unsigned b = 0; b * FS_DISKS_PER_BLOCK < FS_MAX_DISKS && !rc; b++) {
		rc = fs_disktab_read(fs->disks[0].dev, fs->super.fs_id, b, page);
		if (!rc)
			rc = write_block(fs, dev, no, page, FS_BT_DISKTAB, FS_DISKTAB_SUB + b, b, le32_get(h->res_gen));
		if (!rc && b < FS_DISKTAB_TWICE)
			rc = write_block(fs, dev, no, page, FS_BT_DISKTAB, FS_DISKTAB_SUB2 + b, b, le32_get(h->res_gen));
	}
	for (unsigned b = 0; b < FS_MAX_SLOTS / FS_SLOTS_PER_BLOCK && !rc; b++) {
		rc = fs_io_read(fs, FS_ADDR(0, FS_SLOTTAB_SUB + b), page, FS_SUB);
		if (!rc)
			rc = write_block(fs, dev, no, page, FS_BT_SLOTTAB, FS_SLOTTAB_SUB + b, b, 0);
	}
	return rc;
}

struct heads {
	struct nsd_req req[HEADS];
	struct iovec iov[HEADS];
	struct ts_group group;
};
static void head_done(struct nsd_req *r, int rc)
{
	ts_group_done(r->arg, rc);
}

/* Of the chunks from that one on. */
static int write_heads(struct fs *fs, struct nsd_dev *dev, unsigned no, const struct fs_disk_ent_disk *e, uint32_t from)
{
	uint32_t n = le32_get(e->nchunks), rs = le32_get(fs->super.region_subs);
	uint8_t *buf = ts_alloc_aligned(FS_SUB, HEADS * 2 * FS_SUB);
	struct heads *h = ts_alloc(sizeof(*h));
	int rc = buf && h ? 0 : -ENOMEM;

	for (uint32_t r = from; r < n && !rc; r += HEADS) {
		ts_group_init(&h->group);
		for (uint32_t i = 0; i < HEADS && r + i < n; i++) {
			uint8_t *b = buf + (size_t)i * 2 * FS_SUB;
			uint64_t sub = le64_get(e->region_start) + (uint64_t)(r + i) * rs;

			fs_chunk_head_fill(b, fs->super.fs_id, no, r + i, sub, rs, FS_CHUNK_HEAD);
			fs_mdhdr_seal(b, fs->incarnation, fs_version_next(fs));
			fs_mdhdr_seal(b + FS_SUB, fs->incarnation, fs_version_next(fs));
			h->iov[i] = (struct iovec){b, 2 * FS_SUB};
			h->req[i] = (struct nsd_req){.op = NSD_WRITE, .len = 2 * FS_SUB, .iov = &h->iov[i], .iovcnt = 1, .off = sub * FS_SUB,
						     .done = head_done, .arg = &h->group};
			ts_group_add(&h->group);
			nsd_submit(dev, &h->req[i]);
		}
		rc = ts_group_wait(&h->group, "chunk heads of a new disk");
	}
	ts_free(h);
	ts_free(buf);
	return rc ? rc : nsd_flush(dev);
}

static int write_label(struct fs *fs, const struct fs_disk_add *a, unsigned no, const struct fs_disk_ent_disk *e)
{
	struct nsd_label_disk *b = ts_alloc_aligned(FS_SUB, sizeof(*b));
	int rc = b ? 0 : -ENOMEM;

	if (b) {
		*b = (struct nsd_label_disk){.version = le32_make(NSD_LABEL_VERSION), .flags = le32_make(a->able), .disk_no = le16_make((uint16_t)no),
					     .disk_count = le16_make((uint16_t)TS_MAX(no + 1, fs->ndisks)), .failure_group = e->failure_group,
					     .usage = e->usage, .size_bytes = le64_make(le64_get(e->size_subs) * FS_SUB),
					     .write_time_ns = le64_make(ts_wall_ns(fs->env)), .sequence = le64_make(1)};
		snprintf(b->pool, sizeof(b->pool), "%s", a->pool ? a->pool : "system");
		memcpy(b->magic, "TSSRNSD\n", 8);
		memcpy(b->cluster_id, fs->super.cluster_id, 16);
		memcpy(b->fs_id, fs->super.fs_id, 16);
		memcpy(b->disk_uuid, e->uuid, 16);
		memcpy(b->fs_name, fs->super.name, sizeof(b->fs_name));
		snprintf(b->nsd_name, sizeof(b->nsd_name), "%.52s-%u", fs->super.name, no);
		rc = nsd_label_write(a->dev, b);
	}
	ts_free(b);
	return rc;
}

static int write_url(struct fs *fs, unsigned no, const char *url)
{
	struct fs_diskurl_disk *d = ts_alloc_aligned(FS_SUB, FS_SUB);
	uint64_t block = no / FS_DISKURL_PER_BLOCK;
	fs_addr a = FS_ADDR(0, FS_DISKURL_SUB + block);
	int rc = d ? fs_io_read(fs, a, d, FS_SUB) : -ENOMEM;

	if (!rc && fs_mdhdr_wrong(d, fs->super.fs_id, FS_BT_DISKURL, a))
		memset(d, 0, sizeof(*d));
	if (!rc) {
		memset(d->url[no % FS_DISKURL_PER_BLOCK], 0, FS_DISKURL_BYTES);
		snprintf(d->url[no % FS_DISKURL_PER_BLOCK], FS_DISKURL_BYTES, "%s", url);
		rc = put(fs, d, FS_BT_DISKURL, a, block, 0);
	}
	ts_free(d);
	return rc ? rc : fs_io_flush_addr(fs, a);
}

/* ---- adding ------------------------------------------------------------------------------------------------------- */

static int step(const struct fs_disk_add *a, const char *what)
{
	return a->step ? a->step(a->arg, what) : 0;
}

/* Whether somebody began with this very disk, and its number. An error: nobody knows, and it may not be written to. */
static int begun_before(struct fs *fs, struct nsd_dev *dev, unsigned *no, bool *begun)
{
	struct nsd_label_disk *l = ts_alloc(sizeof(*l));
	enum nsd_label_state state;
	char what[96];
	int rc = l ? nsd_label_read(dev, l, &state, what, sizeof(what)) : -ENOMEM;

	*begun = false;
	if (!rc && state == NSD_LABEL_OK && !memcmp(l->fs_id, fs->super.fs_id, 16)) {
		*no = le16_get(l->disk_no);
		*begun = fs_disk_state(fs, *no) != FS_DISK_GONE && !memcmp(l->disk_uuid, fs->disks[*no].ent.uuid, 16);
	}
	ts_free(l);
	return rc;
}

static int plan(struct change *c, const struct fs_disk_add *a, unsigned *no, struct fs_disk_ent_disk *e)
{
	struct fs *fs = c->fs;
	uint64_t size = nsd_info(a->dev)->size_bytes / FS_SUB, start = TS_ALIGN_UP((uint64_t)FS_SYSTEM_SUB, fs->block_subs);
	uint32_t rs = le32_get(fs->super.region_subs), n;

	const char *name = a->pool ? a->pool : "system";
	unsigned pool;
	int rc = fs_pool_number(c->pools, name, &pool);

	if (rc == -EINVAL)
		return refuse(c, rc, "\"%.40s\" is no name of a pool: 1 to 31 characters of A-Z a-z 0-9 _ . -", name);
	if (rc)
		return refuse(c, rc, "file system %s has had %u pools: no number is left for \"%s\"; use one of its pools", fs->super.name, FS_POOLS, name);
	if (pool && a->metadata)
		return refuse(c, -EINVAL, "metadata is in the pool system only: leave out --metadata, or --pool %s", name);
	if (size > 1ULL << 40)
		return refuse(c, -EFBIG, "the disk is larger than this format can address");
	if (size < start + rs)
		return refuse(c, -ENOSPC, "the disk is too small: file system %s needs %llu MiB at least", fs->super.name,
			      (unsigned long long)(((start + rs) * FS_SUB + (1 << 20) - 1) >> 20));
	for (*no = 0; *no < fs->ndisks && !fs_disk_ent_none(&fs->disks[*no].ent);)
		++*no;
	if (*no >= FS_DISKS_ONLINE)
		return refuse(c, -ENFILE, "file system %s has had %u disks: no number is left that can be given while it is mounted", fs->super.name,
			      fs->ndisks);
	n = (uint32_t)TS_MIN((size - start) / rs, (uint64_t)le32_get(fs->super.nregions));
	*e = (struct fs_disk_ent_disk){.size_subs = le64_make(size), .region_start = le64_make(start), .nchunks = le32_make(n),
				       .failure_group = le16_make((uint16_t)a->failure_group), .state = FS_DISK_JOINING,
				       .usage = a->metadata ? FS_DISK_ANY : FS_DISK_DATA, .pool = (uint8_t)pool};
	for (unsigned i = 0; i < 16; i += 8) {
		uint64_t r = ts_random(fs->env) | 1;

		memcpy(e->uuid + i, &r, 8);
	}
	return 0;
}

static int make(struct change *c, const struct fs_disk_add *a, unsigned no, const struct fs_disk_ent_disk *e)
{
	struct fs *fs = c->fs;
	void *page = ts_alloc_aligned(FS_SUB, FS_SUB);
	int rc = page ? step(a, "tables") : -ENOMEM;

	if (!rc)
		rc = nsd_label_erase(a->dev);
	if (!rc)
		rc = copy_tables(fs, a->dev, no, page);
	if (!rc)
		rc = step(a, "allocation maps");
	if (!rc)
		rc = write_heads(fs, a->dev, no, e, 0);
	if (!rc)
		rc = step(a, "label");
	if (!rc)
		rc = write_label(fs, a, no, e);
	if (!rc)
		rc = step(a, "place");
	if (!rc)
		rc = write_url(fs, no, a->url);
	ts_free(page);
	return rc && !c->err[0] ? refuse(c, rc, "the disk cannot be written (%s)", strerror(abs(rc))) : rc;
}

static int join(struct change *c, unsigned no, const struct fs_disk_ent_disk *e)
{
	struct fs_disk_edit edit = {.no = no, .ent = *e, .ndisks = TS_MAX(no + 1, c->fs->ndisks), .pools = c->pools};
	unsigned who;
	int rc = change_and_tell(c, &edit, &who);

	if (!rc)
		return 0;
	/* Nothing is on it: it is as if it had never been. */
	refuse(c, rc, "node %u cannot open the disk (%s); see its log. Nothing was changed", who, strerror(abs(rc)));
	memset(&edit.ent, 0, sizeof(edit.ent));
	edit.ndisks = 0;
	if (change_and_tell(c, &edit, &who))
		ts_warn("%s: disk %u: it could not be taken back everywhere; `tessera disk remove` does it", c->fs->super.name, no);
	return rc;
}

static int add(struct change *c, const struct fs_disk_add *a, unsigned *no)
{
	struct fs_disk_ent_disk e;
	bool begun;
	int rc = begun_before(c->fs, a->dev, no, &begun);

	if (rc)
		return refuse(c, rc, "its label cannot be read (%s)", strerror(abs(rc)));
	if (begun) {
		if (fs_disk_state(c->fs, *no) != FS_DISK_JOINING)
			return refuse(c, -EEXIST, "the disk is number %u of file system %s already", *no, c->fs->super.name);
		e = c->fs->disks[*no].ent;
		if (a->pool && strcmp(a->pool, fs_pool_name_of(&c->fs->super, fs_disk_pool(c->fs, *no))))
			return refuse(c, -EEXIST, "the disk began to join the pool %s: say so, or remove it first",
				      fs_pool_name_of(&c->fs->super, fs_disk_pool(c->fs, *no)));
	} else {
		rc = plan(c, a, no, &e);
		if (!rc)
			rc = make(c, a, *no, &e);
	}
	if (!rc)
		rc = step(a, "joining");
	if (!rc)
		rc = join(c, *no, &e);
	if (!rc)
		rc = step(a, "ready");
	return rc ? rc : set_state(c, *no, FS_DISK_READY);
}

int fs_disk_add(struct fs *fs, const struct fs_disk_add *a, unsigned *no, char *errmsg, size_t errlen)
{
	struct change c;
	int rc;

	if (strlen(a->url) >= FS_DISKURL_BYTES)
		return refuse(&(struct change){.err = errmsg, .errlen = errlen}, -ENAMETOOLONG, "the disk's URL is too long");
	rc = begin(&c, fs, errmsg, errlen);
	if (rc)
		return rc;
	c.pools = ts_alloc(sizeof(*c.pools));
	rc = c.pools ? 0 : refuse(&c, -ENOMEM, "out of memory");
	if (!rc) {
		*c.pools = fs->super;
		rc = add(&c, a, no);
	}
	ts_free(c.pools);
	end(&c);
	return rc;
}

/* ---- draining, removing -------------------------------------------------------------------------------------------- */

/* The others must be able to take what is on it. */
static int room_elsewhere(struct change *c, unsigned no)
{
	uint64_t room = 0, used = 0;
	unsigned others = 0, pool = fs_disk_pool(c->fs, no);
	const char *name = fs_pool_name_of(&c->fs->super, pool);
	int rc = 0;

	for (unsigned d = 0; d < c->fs->ndisks && !rc; d++) {
		struct fs_disk_use u;

		if (d != no && (!fs_disk_takes(c->fs, d, FS_REGION_DATA) || fs_disk_pool(c->fs, d) != pool))
			continue;
		rc = fs_disk_use_read(c->fs, d, &u);
		if (rc)
			break;
		if (d == no)
			used = u.used;
		else
			room += u.room - u.used;
		others += d != no;
	}
	if (rc)
		return refuse(c, rc, "disk %u: what is on the disks cannot be read (%s)", no, strerror(abs(rc)));
	if (!others && (used || !pool)) /* a pool without files may lose its last disk */
		return refuse(c, -EBUSY, "disk %u: it is the last of pool %s that takes file data, and %llu KiB are on it; add one to the pool first, or move "
			      "the files (tessera layout migrate)", no, name, (unsigned long long)used * 4);
	if (used > room)
		return refuse(c, -ENOSPC, "disk %u: %llu MiB are on it, and the other disks of pool %s have room for %llu MiB; add a disk first", no,
			      (unsigned long long)(used * FS_SUB >> 20), name, (unsigned long long)(room * FS_SUB >> 20));
	return 0;
}

static int may_drain(struct change *c, unsigned no)
{
	struct fs *fs = c->fs;
	enum fs_disk_state s = fs_disk_state(fs, no);
	struct fs_disk_use u;

	if (s == FS_DISK_EMPTY)
		return 0; /* done already */
	if (s != FS_DISK_READY && s != FS_DISK_DRAINING)
		return refuse(c, -EINVAL, "disk %u is %s: only a disk that is ready can be drained", no, fs_disk_state_name(s));
	if (s == FS_DISK_DRAINING)
		return 0; /* it goes on; perhaps at another rate */
	if (fs->disks[no].ent.usage != FS_DISK_DATA) {
		int rc = fs_disk_use_read(fs, no, &u);

		return rc ? rc : refuse(c, -EOPNOTSUPP,
					"disk %u holds metadata (%llu KiB of it, and the logs and tables it was formatted with), which cannot be moved: "
					"only disks for data alone can be drained (fs create --metadata-disks, disk add)",
					no, (unsigned long long)u.meta * 4);
	}
	return room_elsewhere(c, no);
}

static int set_rate(struct change *c, uint32_t mib_s, uint8_t move)
{
	struct fs_disk_edit e = {.no = UINT32_MAX, .set_move = true, .move = move, .move_mib_s = mib_s};
	unsigned who;
	int rc = 0;

	if (c->fs->super.move != move || le32_get(c->fs->super.move_mib_s) != mib_s)
		rc = change_and_tell(c, &e, &who);
	return rc ? refuse(c, rc, "node %u does not take the change (%s); say it again when that node is well", who, strerror(abs(rc))) : 0;
}

static int undrain(struct change *c, unsigned no)
{
	struct fs *fs = c->fs;
	enum fs_disk_state s = fs_disk_state(fs, no);
	int rc = 0;

	if (s != FS_DISK_DRAINING && s != FS_DISK_EMPTY)
		return refuse(c, -EINVAL, "disk %u is %s: it is not being drained", no, fs_disk_state_name(s));
	if (s == FS_DISK_EMPTY) { /* regions may have changed their type meanwhile, without their share of it */
		rc = write_heads(fs, fs->disks[no].dev, no, &fs->disks[no].ent, 0);
		if (rc)
			return refuse(c, rc, "disk %u cannot be written (%s)", no, strerror(abs(rc)));
	}
	return set_state(c, no, FS_DISK_READY);
}

static int known(struct change *c, unsigned no)
{
	if (fs_disk_state(c->fs, no) != FS_DISK_GONE)
		return 0;
	return refuse(c, -ENOENT, "file system %s has no disk of number %u; see `tessera disk list %s`", c->fs->super.name, no, c->fs->super.name);
}

int fs_disk_drain(struct fs *fs, unsigned no, bool cancel, uint32_t mib_s, char *errmsg, size_t errlen)
{
	struct change c;
	int rc = begin(&c, fs, errmsg, errlen);

	if (rc)
		return rc;
	rc = known(&c, no);
	if (!rc && cancel) {
		rc = undrain(&c, no);
	} else if (!rc) {
		rc = may_drain(&c, no);
		if (!rc)
			rc = set_rate(&c, mib_s, fs->super.move);
		if (!rc && fs_disk_state(fs, no) == FS_DISK_READY)
			rc = set_state(&c, no, FS_DISK_DRAINING);
	}
	end(&c);
	return rc;
}

int fs_disk_rebalance(struct fs *fs, bool stop, uint32_t mib_s, char *errmsg, size_t errlen)
{
	struct change c;
	int rc = begin(&c, fs, errmsg, errlen);

	if (rc)
		return rc;
	rc = set_rate(&c, stop ? le32_get(fs->super.move_mib_s) : mib_s, stop ? 0 : FS_MOVE_REBALANCE);
	end(&c);
	return rc;
}

/* ---- growing --------------------------------------------------------------------------------------------------------- */

/* 1: maps of the new chunks, which nothing points to; 2: the table names them (grow_from), every node sees the disk so large and knows the
 * regions; 3: the label; 4: the table says that they may be used. Between them each state is sound, and the next call goes on. */
static int grow_plan(struct change *c, unsigned no, struct fs_disk_ent_disk *e, uint32_t *from)
{
	struct fs *fs = c->fs;
	uint64_t was = le64_get(e->size_subs), start = le64_get(e->region_start), size, n;
	uint32_t rs = le32_get(fs->super.region_subs);
	int rc = nsd_resize(fs->disks[no].dev);

	if (rc)
		return refuse(c, rc, "disk %u does not say how large it is (%s)", no, strerror(abs(rc)));
	size = nsd_info(fs->disks[no].dev)->size_bytes / FS_SUB;
	n = size > start ? (size - start) / rs : 0;
	*from = le32_get(e->nchunks);
	if (size <= was)
		return refuse(c, -EALREADY, "disk %u is as large as it was, %llu MiB; make the LUN larger first", no, (unsigned long long)(was >> 8));
	if (size > 1ULL << 40 || n > UINT32_MAX)
		return refuse(c, -EFBIG, "disk %u is larger than this format can address", no);
	if (n <= *from)
		return refuse(c, -ENOSPC, "disk %u has grown by less than it takes: space is used in pieces of %llu MiB", no, (unsigned long long)rs >> 8);
	if (n > fs->alloc->room)
		return refuse(c, -EFBIG, "disk %u has grown by more than can be used while the file system is mounted: unmount it on all nodes and mount it again first", no);
	e->size_subs = le64_make(size);
	e->nchunks = le32_make((uint32_t)n);
	e->grow_from = le32_make(*from);
	return 0;
}

static int grow_label(struct fs *fs, unsigned no)
{
	struct nsd_label_disk *l = ts_alloc_aligned(FS_SUB, sizeof(*l));
	enum nsd_label_state state;
	char what[96];
	int rc = l ? nsd_label_read(fs->disks[no].dev, l, &state, what, sizeof(what)) : -ENOMEM;

	if (!rc && state == NSD_LABEL_OK && le16_get(l->disk_no) == no) { /* else it is fsck's */
		l->size_bytes = le64_make(le64_get(fs->disks[no].ent.size_subs) * FS_SUB);
		l->sequence = le64_make(le64_get(l->sequence) + 1);
		rc = nsd_label_write(fs->disks[no].dev, l);
	}
	ts_free(l);
	return rc;
}

static int grow(struct change *c, const struct fs_disk_grow *g)
{
	struct fs_disk_edit e = {.no = g->no, .ent = c->fs->disks[g->no].ent}, back = e;
	enum fs_disk_state s = fs_disk_state(c->fs, g->no);
	uint32_t from = 0;
	unsigned who;
	int rc = 0;

	if (s != FS_DISK_READY && s != FS_DISK_DRAINING)
		return refuse(c, -EINVAL, "disk %u is %s: only a disk that is in use grows", g->no, fs_disk_state_name(s));
	if (g->no >= FS_DISKS_ONLINE)
		return refuse(c, -EOPNOTSUPP, "disk %u: only disks with numbers below %u change while mounted", g->no, FS_DISKS_ONLINE);
	if (!le32_get(e.ent.grow_from)) {
		rc = grow_plan(c, g->no, &e.ent, &from);
		if (!rc && g->step)
			rc = g->step(g->arg, "allocation maps");
		if (!rc) {
			rc = write_heads(c->fs, c->fs->disks[g->no].dev, g->no, &e.ent, from);
			if (rc)
				refuse(c, rc, "disk %u: its new part cannot be written (%s)", g->no, strerror(abs(rc)));
		}
		if (!rc && g->step)
			rc = g->step(g->arg, "table");
		if (rc)
			return rc;
		e.nregions = le32_get(e.ent.nchunks);
	}
	rc = change_and_tell(c, &e, &who);
	if (rc) {
		refuse(c, rc, "disk %u: node %u does not see it so large (%s); see its log. Nothing was changed", g->no, who, strerror(abs(rc)));
		if (!le32_get(back.ent.grow_from) && change_and_tell(c, &back, &who))
			ts_warn("%s: disk %u: that it grows could not be taken back everywhere; `tessera disk grow` again", c->fs->super.name, g->no);
		return rc;
	}
	if (g->step)
		rc = g->step(g->arg, "label");
	if (!rc)
		rc = grow_label(c->fs, g->no);
	if (rc)
		return refuse(c, rc, "disk %u: its label cannot be written (%s); say it again", g->no, strerror(abs(rc)));
	if (g->step)
		rc = g->step(g->arg, "use");
	if (rc)
		return rc;
	e.ent.grow_from = le32_make(0);
	rc = change_and_tell(c, &e, &who);
	return rc ? refuse(c, rc, "disk %u: node %u does not use its new part yet (%s); say it again when that node is well", g->no, who, strerror(abs(rc))) : 0;
}

int fs_disk_grow(struct fs *fs, const struct fs_disk_grow *g, char *errmsg, size_t errlen)
{
	struct change c;
	int rc = begin(&c, fs, errmsg, errlen);

	if (rc)
		return rc;
	rc = known(&c, g->no);
	if (!rc)
		rc = grow(&c, g);
	end(&c);
	return rc;
}

static int remove_it(struct change *c, unsigned no)
{
	struct fs *fs = c->fs;
	enum fs_disk_state s = fs_disk_state(fs, no);
	struct fs_disk_edit none = {.no = no};
	struct fs_disk_use u;
	unsigned who = fs->self;
	int rc;

	if (s == FS_DISK_JOINING) {
		rc = change_and_tell(c, &none, &who);
		return rc ? refuse(c, rc, "disk %u: node %u does not let it go (%s)", no, who, strerror(abs(rc))) : 0;
	}
	if (s != FS_DISK_EMPTY) {
		rc = fs_disk_use_read(fs, no, &u);
		return rc ? rc : refuse(c, -EBUSY, "disk %u is %s and holds %llu MiB; `tessera disk drain %s %u` first", no, fs_disk_state_name(s),
					(unsigned long long)((u.used + u.meta) * FS_SUB >> 20), fs->super.name, no);
	}
	none.ent = fs->disks[no].ent;
	none.ent.state = FS_DISK_GONE;
	memset(none.ent.uuid, 0xff, sizeof(none.ent.uuid)); /* what comes back under the old name is no disk of ours */
	rc = fs_disks_write(fs, &none);
	if (rc)
		return refuse(c, rc, "disk %u: the disk table cannot be written (%s)", no, strerror(abs(rc)));
	/* A label that stays, should this node die now, is of no disk in the table, and is not believed. */
	if (fs->disks[no].dev && nsd_label_erase(fs->disks[no].dev))
		ts_warn("%s: disk %u: its label could not be erased", fs->super.name, no);
	rc = fs_disks_refresh(fs);
	if (!rc)
		rc = fs_disks_tell(fs, &who);
	return rc ? refuse(c, rc, "disk %u is removed, but node %u has not let it go yet (%s)", no, who, strerror(abs(rc))) : 0;
}

int fs_disk_remove(struct fs *fs, unsigned no, char *errmsg, size_t errlen)
{
	struct change c;
	int rc = begin(&c, fs, errmsg, errlen);

	if (rc)
		return rc;
	rc = known(&c, no);
	if (!rc)
		rc = remove_it(&c, no);
	end(&c);
	return rc;
}
