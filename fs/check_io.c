/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the checker's blocks: read through an overlay of blocks that are changed in memory only, written with a new version,
 * and the judgement whether a block is the one that is looked for.
 * Must never happen: a write to a disk when only looking; a block believed because one field of it is right. */
#include "fs/check.h"

struct over {
	struct ts_map_node node;
	fs_addr addr;
	uint8_t *data;
};

bool chk_addr_ok(const struct chk *c, fs_addr a, uint64_t subs)
{
	unsigned disk = FS_ADDR_DISK(a);
	uint64_t sub = FS_ADDR_SUB(a);

	return !(a >> 52) && disk < c->ndisks && sub >= FS_SUPER_SUB && sub < c->disk[disk].size_subs &&
	       subs <= c->disk[disk].size_subs - sub;
}

void *chk_page(void)
{
	return ts_alloc_aligned(FS_SUB, FS_SUB);
}

/* ---- overlay --------------------------------------------------------------------------------------------------------- */
static struct over *over_find(struct chk *c, fs_addr a)
{
	for (struct ts_map_node *n = ts_map_first(&c->overlay, ts_hash_u64(a)); n; n = ts_map_next(n)) {
		struct over *o = TS_CONTAINER(n, struct over, node);

		if (o->addr == a)
			return o;
	}
	return NULL;
}

static void over_drop(struct chk *c, struct over *o)
{
	ts_map_remove(&c->overlay, &o->node);
	ts_free(o->data);
	ts_free(o);
	c->overlay_n--;
}

static int over_put(struct chk *c, fs_addr a, const void *block)
{
	struct over *o = over_find(c, a);

	if (!o) {
		if (c->overlay_n >= c->overlay_max) {
			c->overlay_full = true;
			return -ENOMEM;
		}
		o = ts_alloc(sizeof(*o));
		if (!o)
			return -ENOMEM;
		o->addr = a;
		o->data = chk_page();
		if (!o->data || ts_map_insert(&c->overlay, &o->node, ts_hash_u64(a))) {
			ts_free(o->data);
			ts_free(o);
			return -ENOMEM;
		}
		c->overlay_n++;
	}
	memcpy(o->data, block, FS_SUB);
	return 0;
}

static int free_one(struct ts_map_node *n, void *arg)
{
	over_drop(arg, TS_CONTAINER(n, struct over, node));
	return 0;
}

void chk_overlay_free(struct chk *c)
{
	(void)ts_map_each(&c->overlay, free_one, c);
	ts_map_fini(&c->overlay);
}

struct home {
	struct chk *c;
	struct over **o;
	size_t n;
};
static int collect(struct ts_map_node *n, void *arg)
{
	struct home *h = arg;

	h->o[h->n++] = TS_CONTAINER(n, struct over, node);
	return 0;
}
static int by_addr(const void *x, const void *y)
{
	const struct over *a = *(struct over *const *)x, *b = *(struct over *const *)y;

	return a->addr < b->addr ? -1 : a->addr > b->addr;
}

static int home_one(struct chk *c, void *arg, uint64_t i)
{
	struct home *h = arg;
	struct over *o = h->o[i];
	struct chk_disk *d = &c->disk[FS_ADDR_DISK(o->addr)];

	d->dirty = true;
	return nsd_write(d->dev, o->data, FS_SUB, FS_ADDR_SUB(o->addr) * FS_SUB);
}

int chk_overlay_home(struct chk *c)
{
	struct home h = {.c = c};
	int rc;

	TS_ASSERT(c->repair);
	if (!c->overlay_n)
		return 0;
	h.o = ts_alloc(c->overlay_n * sizeof(*h.o));
	if (!h.o)
		return -ENOMEM;
	(void)ts_map_each(&c->overlay, collect, &h);
	qsort(h.o, h.n, sizeof(h.o[0]), by_addr);
	rc = chk_par(c, h.n, home_one, &h);
	if (!rc)
		rc = chk_flush(c);
	for (size_t i = 0; !rc && i < h.n; i++)
		over_drop(c, h.o[i]);
	ts_free(h.o);
	return rc;
}

/* ---- reading, writing ------------------------------------------------------------------------------------------------ */
static int read_singly(struct chk *c, fs_addr a, uint8_t *buf, size_t subs)
{
	struct chk_disk *d = &c->disk[FS_ADDR_DISK(a)];

	for (size_t i = 0; i < subs; i++) {
		int rc = nsd_read(d->dev, buf + i * FS_SUB, FS_SUB, (FS_ADDR_SUB(a) + i) * FS_SUB);

		if (rc && rc != -EIO)
			return rc;
		if (rc && !d->lost)
			chk_found(c, false, "disk %u sub %llu: cannot be read -> taken for zeros", FS_ADDR_DISK(a),
				  (unsigned long long)FS_ADDR_SUB(a) + i);
		if (rc)
			memset(buf + i * FS_SUB, 0, FS_SUB);
	}
	return 0;
}

int chk_read(struct chk *c, fs_addr a, void *buf, size_t subs)
{
	struct chk_disk *d = &c->disk[FS_ADDR_DISK(a)];
	int rc;

	TS_ASSERT(!(a >> 52) && FS_ADDR_DISK(a) < c->ndisks && FS_ADDR_SUB(a) + subs <= d->size_subs);
	rc = nsd_read(d->dev, buf, subs * FS_SUB, FS_ADDR_SUB(a) * FS_SUB);
	if (rc == -EIO)
		rc = read_singly(c, a, buf, subs);
	if (rc)
		return chk_fail(c, rc, "%s: disk %u sub %llu: read error %d", c->step, FS_ADDR_DISK(a),
				(unsigned long long)FS_ADDR_SUB(a), rc);
	for (size_t i = 0; c->overlay_n && i < subs; i++) {
		struct over *o = over_find(c, a + i);

		if (o)
			memcpy((uint8_t *)buf + i * FS_SUB, o->data, FS_SUB);
	}
	return 0;
}

int chk_put(struct chk *c, fs_addr a, const void *block)
{
	struct chk_disk *d = &c->disk[FS_ADDR_DISK(a)];
	int rc;

	TS_ASSERT(!(a >> 52) && FS_ADDR_DISK(a) < c->ndisks && FS_ADDR_SUB(a) < d->size_subs);
	c->wrote = true;
	if (!c->repair) { /* what does not fit is judged by later steps as it is on disk */
		rc = over_put(c, a, block);
		return rc == -ENOMEM && c->overlay_full ? 0 : rc;
	}
	d->dirty = true;
	rc = nsd_write(d->dev, block, FS_SUB, FS_ADDR_SUB(a) * FS_SUB);
	return rc ? chk_fail(c, rc, "%s: disk %u sub %llu: write error %d", c->step, FS_ADDR_DISK(a),
			     (unsigned long long)FS_ADDR_SUB(a), rc)
		  : 0;
}

int chk_write(struct chk *c, fs_addr a, void *block)
{
	c->clock = TS_MAX(c->clock, c->seen) + 1;
	fs_mdhdr_seal(block, le64_get(((struct fs_mhdr_disk *)block)->incarnation), c->clock);
	return chk_put(c, a, block);
}

int chk_flush(struct chk *c)
{
	int rc = 0;

	for (unsigned i = 0; i < c->ndisks && !rc; i++) {
		if (!c->disk[i].dirty)
			continue;
		c->disk[i].dirty = false;
		rc = nsd_flush(c->disk[i].dev);
	}
	return rc;
}

void chk_zero_block(struct chk *c, void *block, enum fs_block_type type, enum tok_kind kind, fs_addr a, uint64_t res_id, uint32_t gen)
{
	memset(block, 0, FS_SUB);
	fs_mdhdr_fill(block, c->super.fs_id, type, kind, a, res_id, gen);
}

/* ---- judging ------------------------------------------------------------------------------------------------------- */
static bool csum_ok(const void *block)
{
	const struct fs_mhdr_disk *h = block;

	return le64_get(h->csum) == ts_csum64_skip(block, FS_SUB, FS_MHDR_CSUM_OFF, 0);
}

/* What is wrong with the fields that say which block this is: number of them, the last one's name. */
static unsigned identity(struct chk *c, const struct fs_mhdr_disk *h, const struct chk_want *w, const char **wrong, bool *decisive)
{
	unsigned n = 0;

	*decisive = false;
	if (le32_get(h->magic) != FS_MAGIC)
		n++, *wrong = "magic";
	if (memcmp(h->fs_id8, c->super.fs_id, sizeof(h->fs_id8)))
		n++, *wrong = "file system";
	if (h->res_kind != w->kind)
		n++, *wrong = "resource kind";
	if (le64_get(h->addr) != w->addr)
		n++, *wrong = "address", *decisive = true;
	if (h->type != w->type)
		n++, *wrong = "type", *decisive = true;
	if (le64_get(h->res_id) != w->res_id)
		n++, *wrong = "resource", *decisive = true;
	return n;
}

static void identity_set(struct chk *c, struct fs_mhdr_disk *h, const struct chk_want *w)
{
	h->magic = le32_make(FS_MAGIC);
	memcpy(h->fs_id8, c->super.fs_id, sizeof(h->fs_id8));
	h->res_kind = (uint8_t)w->kind;
	h->addr = le64_make(w->addr);
	h->type = (uint8_t)w->type;
	h->res_id = le64_make(w->res_id);
}

static bool version_absurd(struct chk *c, const struct fs_mhdr_disk *h, const char *what)
{
	uint64_t v = le64_get(h->version);

	if (v && v <= CHK_VERSION_MAX) {
		c->seen = TS_MAX(c->seen, v);
		return false;
	}
	chk_found(c, true, "%s: version %llu was never given -> a new one", what, (unsigned long long)v);
	return true;
}

enum chk_verdict chk_judge(struct chk *c, void *block, const struct chk_want *w)
{
	struct fs_mhdr_disk *h = block;
	const char *wrong = NULL;
	bool sound = csum_ok(block), decisive, fixed = false;
	unsigned n = identity(c, h, w, &wrong, &decisive);
	unsigned long long sub = FS_ADDR_SUB(w->addr);

	/* One wrong field may be damage; more, or one that says "another block" where a pointer led here, is another block. */
	if (n > 1 || (n == 1 && decisive && !w->place))
		return CHK_NOT;
	if (w->quiet)
		return n || !sound ? CHK_FIXED : CHK_OK;
	if (n) {
		identity_set(c, h, w);
		if (!sound && !csum_ok(block) && !w->place)
			return CHK_NOT;
		chk_found(c, true, "%s (disk %u sub %llu): header has a wrong %s -> corrected", w->what, FS_ADDR_DISK(w->addr), sub, wrong);
		fixed = true;
	} else if (!sound) {
		chk_found(c, true, "%s (disk %u sub %llu): checksum is wrong -> contents checked, written again", w->what,
			  FS_ADDR_DISK(w->addr), sub);
		fixed = true;
	}
	if (le16_get(h->flags) || le32_get(h->reserved)) {
		chk_found(c, true, "%s (disk %u sub %llu): reserved header fields are used -> cleared", w->what, FS_ADDR_DISK(w->addr), sub);
		h->flags = le16_make(0);
		h->reserved = le32_make(0);
		fixed = true;
	}
	if (version_absurd(c, h, w->what))
		fixed = true;
	return fixed ? CHK_FIXED : CHK_OK;
}
