/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what a log says. A pure function of the log's bytes and the block on disk, without I/O of its own: the reference
 * against which everything faster is compared. Must never happen: a block going back to an older version; an old record applied
 * to a block that the same log freed later (it may be another's now); a read outside the bytes, whatever the log says. */
#include "fs/replay.h"

#define RECS_MAX (16u << 20)

/* ---- what the records add up to ----------------------------------------------------------------------------------- */

static struct fs_replay_block *block_find(const struct fs_replay *r, fs_addr a)
{
	for (struct ts_map_node *n = ts_map_first(&r->blocks, ts_hash_u64(a)); n; n = ts_map_next(n))
		if (TS_CONTAINER(n, struct fs_replay_block, node)->addr == a)
			return TS_CONTAINER(n, struct fs_replay_block, node);
	return NULL;
}

static struct fs_replay_intent *intent_find(const struct fs_replay *r, uint64_t number)
{
	for (struct ts_map_node *n = ts_map_first(&r->intents, ts_hash_u64(number)); n; n = ts_map_next(n))
		if (TS_CONTAINER(n, struct fs_replay_intent, node)->number == number)
			return TS_CONTAINER(n, struct fs_replay_intent, node);
	return NULL;
}

static int rec_add(struct fs_replay *r, const struct fs_rec *rec)
{
	if (r->nrecs == r->room) {
		size_t room = r->room ? r->room * 2 : 1024;
		void *v = room <= RECS_MAX ? ts_alloc(room * sizeof(*r->recs)) : NULL;

		if (!v)
			return -ENOMEM;
		if (r->nrecs)
			memcpy(v, r->recs, r->nrecs * sizeof(*r->recs));
		ts_free(r->recs);
		r->recs = v;
		r->room = room;
	}
	r->recs[r->nrecs++] = (struct fs_replay_rec){.rec = *rec};
	return 0;
}

static int add_change(struct fs_replay *r, const struct fs_rec *rec)
{
	struct fs_replay_block *b = block_find(r, rec->addr);
	int rc;

	if (!b) {
		b = ts_alloc(sizeof(*b));
		if (!b)
			return -ENOMEM;
		b->addr = rec->addr;
		if (ts_map_insert(&r->blocks, &b->node, ts_hash_u64(b->addr))) {
			ts_free(b);
			return -ENOMEM;
		}
	}
	rc = rec_add(r, rec);
	if (rc)
		return rc;
	if (b->last)
		r->recs[b->last - 1].next = (uint32_t)r->nrecs;
	else
		b->first = (uint32_t)r->nrecs;
	b->last = (uint32_t)r->nrecs;
	return 0;
}

/* What this log said of the blocks before it freed them is void: they may be someone else's by now. */
static void freed(struct fs_replay *r, fs_addr a, uint32_t subs)
{
	for (uint32_t i = 0; i < subs && r->blocks.count; i++) {
		struct fs_replay_block *b = block_find(r, a + i);

		if (b)
			b->first = b->last = 0;
	}
}

static int add_intent(struct fs_replay *r, const struct fs_rec *rec)
{
	struct fs_intent_disk d;
	struct fs_replay_intent *it = intent_find(r, rec->res_id);

	memcpy(&d, rec->payload, sizeof(d));
	if (le64_get(d.number) != rec->res_id)
		return -EUCLEAN;
	if (le32_get(d.type) == FS_INTENT_FREE) {
		if (!le32_get(d.subs) || le32_get(d.subs) > FS_MAX_BLOCK / FS_SUB)
			return -EUCLEAN;
		freed(r, le64_get(d.a), le32_get(d.subs));
	} else if (le32_get(d.type) != FS_INTENT_ORPHAN) {
		return -EUCLEAN;
	}
	if (it)
		return 0; /* logged again */
	it = ts_alloc(sizeof(*it));
	if (!it)
		return -ENOMEM;
	*it = (struct fs_replay_intent){.number = rec->res_id, .type = le32_get(d.type), .subs = le32_get(d.subs),
					.a = le64_get(d.a), .b = le64_get(d.b)};
	if (ts_map_insert(&r->intents, &it->node, ts_hash_u64(it->number))) {
		ts_free(it);
		return -ENOMEM;
	}
	return 0;
}

static int add_adopted(struct fs_replay *r, const struct fs_rec *rec)
{
	struct fs_replay_adopted *v = ts_alloc((r->nadopted + 1) * sizeof(*v));

	if (!v)
		return -ENOMEM;
	if (r->nadopted)
		memcpy(v, r->adopted, r->nadopted * sizeof(*v));
	v[r->nadopted++] = (struct fs_replay_adopted){.slot = (uint32_t)rec->res_id, .incarnation = rec->version};
	ts_free(r->adopted);
	r->adopted = v;
	return 0;
}

bool fs_replay_has_adopted(const struct fs_replay *r, uint32_t slot, uint64_t incarnation)
{
	for (unsigned i = 0; i < r->nadopted; i++)
		if (r->adopted[i].slot == slot && r->adopted[i].incarnation == incarnation)
			return true;
	return false;
}

static int add(struct fs_replay *r, const struct fs_rec *rec)
{
	struct fs_replay_intent *it;

	switch (rec->type) {
	case FS_REC_IMAGE:
	case FS_REC_DELTA:
		r->max_version = TS_MAX(r->max_version, rec->version);
		return add_change(r, rec);
	case FS_REC_INTENT:
		return add_intent(r, rec);
	case FS_REC_INTENT_DONE:
		it = intent_find(r, rec->res_id);
		if (it) { /* else its beginning lies before the tail */
			ts_map_remove(&r->intents, &it->node);
			ts_free(it);
		}
		return 0;
	case FS_REC_ADOPTED:
		return add_adopted(r, rec);
	case FS_REC_RESULT:
		return 0;
	}
	return -EUCLEAN;
}

/* ---- frames ------------------------------------------------------------------------------------------------------- */

static int load(const struct fs_logimage *img, uint64_t off, uint64_t len)
{
	return img->load ? img->load(img->arg, off, len) : 0;
}

/* The frame at lsn: its length, 0 when the log ends here, or an error of reading. */
static int64_t frame_at(const struct fs_logimage *img, uint64_t lsn, const uint8_t **frame)
{
	uint64_t off = lsn % img->ring_bytes;
	uint32_t len, used;
	int rc = load(img, off, FS_SUB);

	if (rc)
		return rc;
	*frame = img->ring + off;
	len = fs_frame_len(*frame, &img->id, lsn, img->ring_bytes - off);
	if (!len)
		return 0;
	used = (uint32_t)sizeof(struct fs_frame_disk) + le32_get(((const struct fs_frame_disk *)*frame)->payload_len);
	rc = load(img, off, TS_ALIGN_UP(used, FS_SUB));
	if (rc)
		return rc;
	return fs_frame_csum_ok(*frame) ? len : 0;
}

static int frame_read(struct fs_replay *r, const uint8_t *frame)
{
	const struct fs_frame_disk *f = (const struct fs_frame_disk *)frame;
	struct ts_rd rd = {.p = frame + sizeof(*f), .left = le32_get(f->payload_len)};
	struct fs_rec rec;
	int rc;

	while ((rc = fs_rec_next(&rd, &rec)) > 0) {
		rc = add(r, &rec);
		if (rc)
			break;
	}
	return rc;
}

static int scan(const struct fs_logimage *img, struct fs_replay *r)
{
	uint64_t limit = img->seal ? img->seal : img->tail + img->ring_bytes;

	r->end = img->tail;
	while (r->end < limit) {
		const uint8_t *frame = NULL;
		int64_t len = frame_at(img, r->end, &frame);
		int rc;

		if (len < 0)
			return (int)len;
		if (!len || (uint64_t)len > limit - r->end)
			break;
		rc = frame_read(r, frame);
		if (rc)
			return rc;
		r->end += (uint64_t)len;
	}
	return img->seal && r->end != img->seal ? -EUCLEAN : 0;
}

int fs_replay_scan(const struct fs_logimage *img, struct fs_replay **out)
{
	struct fs_replay *r;
	int rc;

	*out = NULL;
	if (!img->ring_bytes || img->ring_bytes % FS_SUB || img->tail % FS_SUB || (img->seal && img->seal < img->tail) ||
	    img->tail > UINT64_MAX / 2)
		return -EUCLEAN;
	r = ts_alloc(sizeof(*r));
	if (!r)
		return -ENOMEM;
	ts_map_init(&r->blocks);
	ts_map_init(&r->intents);
	rc = scan(img, r);
	if (rc)
		fs_replay_free(r);
	else
		*out = r;
	return rc;
}

static int free_block(struct ts_map_node *n, void *arg)
{
	ts_map_remove(arg, n);
	ts_free(TS_CONTAINER(n, struct fs_replay_block, node));
	return 0;
}
static int free_intent(struct ts_map_node *n, void *arg)
{
	ts_map_remove(arg, n);
	ts_free(TS_CONTAINER(n, struct fs_replay_intent, node));
	return 0;
}

void fs_replay_free(struct fs_replay *r)
{
	if (!r)
		return;
	ts_map_each(&r->blocks, free_block, &r->blocks);
	ts_map_each(&r->intents, free_intent, &r->intents);
	ts_map_fini(&r->blocks);
	ts_map_fini(&r->intents);
	ts_free(r->recs);
	ts_free(r->adopted);
	ts_free(r);
}

/* ---- one block ---------------------------------------------------------------------------------------------------- */

static bool identity_ok(const uint8_t *data, const struct fs_rec *rec, const uint8_t fs_id8[8])
{
	const struct fs_mhdr_disk *h = (const struct fs_mhdr_disk *)data;

	return le32_get(h->magic) == FS_MAGIC && h->type == rec->block_type && h->res_kind == rec->res_kind &&
	       le64_get(h->addr) == rec->addr && le64_get(h->res_id) == rec->res_id && !memcmp(h->fs_id8, fs_id8, 8);
}

uint64_t fs_replay_last(const struct fs_replay *r, const struct fs_replay_block *b)
{
	return r->recs[b->last - 1].rec.version;
}

int fs_replay_apply(const struct fs_replay *r, const struct fs_replay_block *b, const uint8_t fs_id8[8], uint64_t incarnation,
		    uint8_t *data, bool *changed)
{
	/* A block that fails its checks is a torn home write, or was never written: version 0. */
	uint64_t version = fs_mdhdr_wrong(data, fs_id8, 0, b->addr) ? 0 : fs_mdhdr_version(data), gap = 0;
	const struct fs_rec *last = NULL;

	*changed = false;
	for (uint32_t i = b->first; i; i = r->recs[i - 1].next) {
		const struct fs_rec *rec = &r->recs[i - 1].rec;

		if (rec->version <= version)
			continue;
		if (rec->type == FS_REC_DELTA && rec->prev_version != version) {
			gap = rec->version; /* from before the last home write: an image must follow */
			continue;
		}
		if (rec->type == FS_REC_IMAGE)
			memset(data, 0, FS_SUB);
		if (!fs_runs_apply(data, rec->payload, rec->len) || !identity_ok(data, rec, fs_id8))
			return -EUCLEAN;
		version = rec->version;
		last = rec;
	}
	if (gap > version)
		return -ENODATA;
	if (!last)
		return 0;
	fs_mdhdr_seal(data, incarnation, version);
	*changed = true;
	return 0;
}

int fs_gaps_add(struct fs_gaps *g, fs_addr addr, uint64_t version, uint32_t slot)
{
	if (g->n == g->room) {
		size_t room = g->room ? g->room * 2 : 64;
		struct fs_gap *v = ts_alloc(room * sizeof(*v));

		if (!v)
			return -ENOMEM;
		if (g->n)
			memcpy(v, g->v, g->n * sizeof(*v));
		ts_free(g->v);
		g->v = v;
		g->room = room;
	}
	g->v[g->n++] = (struct fs_gap){.addr = addr, .version = version, .slot = slot};
	return 0;
}
