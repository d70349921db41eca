/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the logs. What a crash left in them is replayed: into the overlay, and from there to the disks when repairing, so
 * that a crashed file system is judged as its next mount would see it. Live intents are collected: space they free may be in use
 * without an owner, inodes they name have no links.
 * Must never happen: a log closed before its blocks are home; a record applied to a block that is a user's data now. */
#include "fs/check.h"
#include "fs/replay.h"

struct adopted {
	uint32_t slot;
	uint64_t incarnation;
};
struct logs {
	struct adopted *a;
	size_t n;
	struct fs_gaps gaps;
};

static uint64_t ring_bytes(const struct chk *c)
{
	return (uint64_t)(c->log_subs - 2) * FS_SUB;
}

/* ---- headers ------------------------------------------------------------------------------------------------------------ */
/* As the mount judges it (loghead.c), and a Lamport time that can be. */
static bool head_good(struct chk *c, const struct fs_loghead_disk *h, uint32_t slot, fs_addr a)
{
	uint64_t tail = le64_get(h->tail_lsn), seal = le64_get(h->seal_lsn);
	uint32_t state = le32_get(h->state);

	if (fs_mdhdr_wrong(h, c->super.fs_id, FS_BT_LOGHEAD, a) || le32_get(h->slot) != slot || state > FS_LOG_CLEAN)
		return false;
	if (tail % FS_SUB || seal % FS_SUB || tail > INT64_MAX || seal > INT64_MAX || le64_get(h->sequence) > INT64_MAX)
		return false;
	if (le64_get(h->lamport) > CHK_VERSION_MAX || fs_mdhdr_version(h) > CHK_VERSION_MAX)
		return false;
	return state == FS_LOG_ACTIVE || (seal >= tail && seal - tail <= ring_bytes(c));
}

/* Fields that cannot be so in this state; they are set right in memory. */
static const char *head_odd(struct fs_loghead_disk *h, uint32_t slot)
{
	uint32_t state = le32_get(h->state);
	const char *odd = NULL;

	if (h->h.res_kind != TOK_SLOT || le64_get(h->h.res_id) != slot || le32_get(h->h.res_gen) || le16_get(h->h.flags) ||
	    le32_get(h->h.reserved))
		odd = "resource";
	if (le32_get(h->reserved0) || !chk_zero(h->reserved, sizeof(h->reserved)))
		odd = "reserved fields";
	if (state == FS_LOG_FREE && (le64_get(h->incarnation) || le64_get(h->tail_lsn) || le64_get(h->seal_lsn) || le32_get(h->node) ||
				     le64_get(h->sealed_by)))
		odd = "an owner though it was never used";
	if (state == FS_LOG_ACTIVE && (le64_get(h->seal_lsn) || le64_get(h->sealed_by)))
		odd = "a seal though it is active";
	if (state != FS_LOG_FREE && !le64_get(h->incarnation))
		odd = "no owner";
	if (odd) {
		h->reserved0 = le32_make(0);
		memset(h->reserved, 0, sizeof(h->reserved));
		if (state == FS_LOG_FREE) {
			h->incarnation = h->tail_lsn = h->seal_lsn = h->sealed_by = le64_make(0);
			h->node = le32_make(0);
		} else if (state == FS_LOG_ACTIVE) {
			h->seal_lsn = h->sealed_by = le64_make(0);
		}
		if (state != FS_LOG_FREE && !le64_get(h->incarnation))
			h->incarnation = le64_make(1);
	}
	return odd;
}

static int head_write(struct chk *c, uint32_t slot, bool both)
{
	struct chk_slot *s = &c->slot[slot];
	struct fs_loghead_disk *h = chk_page();
	int rc = h ? 0 : -ENOMEM;

	for (int i = 0; i < (both ? 2 : 1) && !rc; i++) {
		uint64_t seq = le64_get(s->head.sequence) + 1;
		fs_addr a = s->addr + seq % 2;

		s->head.sequence = le64_make(seq);
		c->clock = TS_MAX(c->clock, c->seen) + 1;
		s->head.lamport = le64_make(c->clock);
		fs_mdhdr_fill(&s->head, c->super.fs_id, FS_BT_LOGHEAD, TOK_SLOT, a, slot, 0);
		*h = s->head;
		rc = chk_write(c, a, h);
	}
	ts_free(h);
	return rc;
}

static int head_lost(struct chk *c, uint32_t slot)
{
	struct chk_slot *s = &c->slot[slot];

	chk_found(c, true, "log of slot %u (disk %u sub %llu): no good header, what was not at home yet is lost -> made empty", slot,
		  FS_ADDR_DISK(s->addr), (unsigned long long)FS_ADDR_SUB(s->addr));
	memset(&s->head, 0, sizeof(s->head));
	s->head.slot = le32_make(slot);
	return head_write(c, slot, true);
}

static int head_read(struct chk *c, uint32_t slot)
{
	struct chk_slot *s = &c->slot[slot];
	struct fs_loghead_disk *h = ts_alloc_aligned(FS_SUB, 2 * sizeof(*h));
	int rc = h ? chk_read(c, s->addr, h, 2) : -ENOMEM, best = -1;
	bool good[2] = {false, false};
	const char *odd;
	uint32_t state;

	for (int i = 0; i < 2 && !rc; i++) {
		good[i] = head_good(c, &h[i], slot, s->addr + (unsigned)i);
		if (good[i] && (best < 0 || le64_get(h[i].sequence) > le64_get(h[best].sequence)))
			best = i;
	}
	if (rc)
		goto out;
	if (best < 0) {
		rc = head_lost(c, slot);
		goto out;
	}
	s->head = h[best];
	c->clock = TS_MAX(c->clock, TS_MAX(le64_get(s->head.lamport), fs_mdhdr_version(&s->head)));
	state = le32_get(s->head.state);
	odd = head_odd(&s->head, slot);
	/* A copy cut short is what a crash leaves; beside a log that was closed it is damage. */
	if (odd || (!good[!best] && (state == FS_LOG_FREE || state == FS_LOG_CLEAN))) {
		chk_found(c, true, "log of slot %u: header has %s -> written again", slot, odd ? odd : "a damaged copy");
		rc = head_write(c, slot, true);
	}
out:
	ts_free(h);
	return rc;
}

/* ---- frames ------------------------------------------------------------------------------------------------------------- */
struct ring {
	struct chk *c;
	fs_addr at;
	uint8_t *mem;
	uint8_t *have; /* one byte per sub-block */
};

static int ring_load(void *arg, uint64_t off, uint64_t len)
{
	struct ring *r = arg;
	uint64_t first = off / FS_SUB, end = (off + len + FS_SUB - 1) / FS_SUB, i = first;

	while (i < end) {
		uint64_t n = 1;
		int rc;

		if (r->have[i]) {
			i++;
			continue;
		}
		while (i + n < end && !r->have[i + n])
			n++;
		rc = chk_read(r->c, r->at + i, r->mem + i * FS_SUB, n);
		if (rc)
			return rc;
		memset(r->have + i, 1, n);
		i += n;
	}
	return 0;
}

/* The block's region got another type after the record was made: it may hold a user's data. */
static int record_void(struct chk *c, fs_addr a, uint64_t version, bool *skip)
{
	uint32_t region, off;
	struct fs_bitmap_disk *b;
	fs_addr at;
	int rc;

	*skip = false;
	if (!chk_in_region(c, a, 1, &region, &off) || off < FS_CHUNK_HEAD)
		return 0;
	at = a - off;
	b = chk_page();
	rc = b ? chk_read(c, at, b, 1) : -ENOMEM;
	if (!rc && !fs_mdhdr_wrong(b, c->super.fs_id, FS_BT_BITMAP, at))
		*skip = le64_get(b->retyped_version) > version || b->type == FS_REGION_DATA;
	ts_free(b);
	return rc;
}

/* All logs are applied: what one of them lacked came from another. */
static int gaps_check(struct chk *c, const struct logs *l)
{
	uint8_t *data = l->gaps.n ? chk_page() : NULL;
	int rc = l->gaps.n && !data ? -ENOMEM : 0;

	for (size_t i = 0; i < l->gaps.n && !rc; i++) {
		const struct fs_gap *g = &l->gaps.v[i];

		rc = chk_read(c, g->addr, data, 1);
		if (!rc && (fs_mdhdr_wrong(data, c->super.fs_id, 0, g->addr) || fs_mdhdr_version(data) < g->version))
			chk_found(c, true, "log of slot %u: disk %u sub %llu cannot be rebuilt from it -> taken as it is on disk", g->slot,
				  FS_ADDR_DISK(g->addr), (unsigned long long)FS_ADDR_SUB(g->addr));
	}
	ts_free(data);
	return rc;
}

static int apply_block(struct chk *c, const struct fs_replay *r, const struct fs_replay_block *b, uint32_t slot, struct logs *l)
{
	const struct fs_rec *last = &r->recs[b->last - 1].rec;
	uint8_t *data;
	bool changed = false, skip;
	int rc;

	if (!(b->addr >> 52) && FS_ADDR_DISK(b->addr) < c->ndisks && c->ents[FS_ADDR_DISK(b->addr)].state > FS_DISK_DRAINING)
		return 0; /* the disk was empty before it was called so: nothing of it counts */
	if (!chk_addr_ok(c, b->addr, 1) || FS_ADDR_SUB(b->addr) < FS_SYSTEM_SUB) {
		chk_found(c, true, "log of slot %u: a record names address %#llx, which is no block -> not applied", slot,
			  (unsigned long long)b->addr);
		return 0;
	}
	rc = record_void(c, b->addr, last->version, &skip);
	if (rc || skip)
		return rc;
	data = chk_page();
	rc = data ? chk_read(c, b->addr, data, 1) : -ENOMEM;
	if (!rc) {
		rc = fs_replay_apply(r, b, c->super.fs_id, le64_get(c->slot[slot].head.incarnation), data, &changed);
		if (rc == -ENODATA) {
			changed = false;
			rc = fs_gaps_add(&l->gaps, b->addr, last->version, slot);
		}
		if (rc == -EUCLEAN) {
			chk_found(c, true, "log of slot %u: disk %u sub %llu cannot be rebuilt from it -> taken as it is on disk", slot,
				  FS_ADDR_DISK(b->addr), (unsigned long long)FS_ADDR_SUB(b->addr));
			changed = false;
			rc = 0;
		}
	}
	if (!rc && changed)
		rc = chk_put(c, b->addr, data);
	ts_free(data);
	return rc;
}

struct gather {
	struct chk *c;
	uint32_t slot;
	const struct fs_replay *r;
	const struct fs_replay_block **v;
	size_t n;
	struct logs *logs;
	int rc;
};
static int gather_block(struct ts_map_node *n, void *arg)
{
	struct gather *g = arg;
	const struct fs_replay_block *b = TS_CONTAINER(n, struct fs_replay_block, node);

	if (b->last)
		g->v[g->n++] = b;
	return 0;
}
static int apply_nth(struct chk *c, void *arg, uint64_t i)
{
	struct gather *g = arg;

	return apply_block(c, g->r, g->v[i], g->slot, g->logs);
}

static int apply_all(struct chk *c, const struct fs_replay *r, uint32_t slot, struct logs *l)
{
	struct gather g = {.c = c, .slot = slot, .r = r, .logs = l};
	struct ts_map *blocks = (struct ts_map *)(uintptr_t)&r->blocks;
	int rc;

	if (!blocks->count)
		return 0;
	g.v = ts_alloc(blocks->count * sizeof(*g.v));
	if (!g.v)
		return -ENOMEM;
	(void)ts_map_each(blocks, gather_block, &g);
	rc = chk_par(c, g.n, apply_nth, &g);
	ts_free(g.v);
	if (!rc && c->overlay_full)
		rc = chk_fail(c, -ENOMEM, "the log of slot %u changes more blocks than %llu MiB of memory can hold: repair, or allow more",
			      slot, (unsigned long long)(c->mem_bound >> 20));
	return rc;
}

int chk_intent_add(struct chk *c, const struct chk_intent *it)
{
	if (c->nintent == c->intent_room) {
		size_t room = c->intent_room ? c->intent_room * 2 : 256;
		struct chk_intent *v = ts_alloc(room * sizeof(*v));

		if (!v)
			return -ENOMEM;
		if (c->nintent)
			memcpy(v, c->intent, c->nintent * sizeof(*v));
		ts_free(c->intent);
		c->intent = v;
		c->intent_room = room;
	}
	c->intent[c->nintent++] = *it;
	return 0;
}

static int gather_intent(struct ts_map_node *n, void *arg)
{
	struct gather *g = arg;
	const struct fs_replay_intent *r = TS_CONTAINER(n, struct fs_replay_intent, node);
	struct chk_intent it = {.slot = g->slot, .number = r->number, .type = r->type, .subs = r->subs, .a = r->a, .b = r->b};

	g->rc = chk_intent_add(g->c, &it);
	return g->rc;
}

static int remember(struct chk *c, const struct fs_replay *r, uint32_t slot, struct logs *l)
{
	struct gather g = {.c = c, .slot = slot};
	struct adopted *v = ts_alloc((l->n + r->nadopted + 1) * sizeof(*v));

	if (!v)
		return -ENOMEM;
	if (l->n)
		memcpy(v, l->a, l->n * sizeof(*v));
	ts_free(l->a);
	l->a = v;
	for (unsigned i = 0; i < r->nadopted; i++)
		v[l->n++] = (struct adopted){.slot = r->adopted[i].slot, .incarnation = r->adopted[i].incarnation};
	(void)ts_map_each((struct ts_map *)(uintptr_t)&r->intents, gather_intent, &g);
	return g.rc;
}

static int scan_ring(struct chk *c, uint32_t slot, struct ring *ring, struct logs *l)
{
	struct chk_slot *s = &c->slot[slot];
	uint32_t state = le32_get(s->head.state);
	struct fs_logimage img = {.id = {.slot = slot, .incarnation = le64_get(s->head.incarnation)}, .ring = ring->mem,
				  .ring_bytes = ring_bytes(c), .tail = le64_get(s->head.tail_lsn),
				  .seal = state == FS_LOG_ACTIVE ? 0 : le64_get(s->head.seal_lsn), .load = ring_load, .arg = ring};
	struct fs_replay *r;
	int rc;

	memcpy(img.id.fs_id8, c->super.fs_id, sizeof(img.id.fs_id8));
	rc = fs_replay_scan(&img, &r);
	if (rc == -EUCLEAN) {
		chk_found(c, true, "log of slot %u: frames between %llu and its seal %llu are missing or damaged -> the rest is used", slot,
			  (unsigned long long)img.tail, (unsigned long long)img.seal);
		img.seal = 0;
		s->live = true; /* is closed even if it said CLEAN */
		rc = fs_replay_scan(&img, &r);
		if (rc == -EUCLEAN)
			return 0;
	}
	if (rc)
		return rc;
	s->end = r->end;
	c->clock = TS_MAX(c->clock, r->max_version <= CHK_VERSION_MAX ? r->max_version : 0);
	if (state != FS_LOG_CLEAN)
		rc = apply_all(c, r, slot, l);
	if (!rc)
		rc = remember(c, r, slot, l);
	fs_replay_free(r);
	return rc;
}

static int scan_slot(struct chk *c, uint32_t slot, struct logs *l)
{
	struct chk_slot *s = &c->slot[slot];
	struct ring ring = {.c = c, .at = s->addr + 2};
	uint32_t state = le32_get(s->head.state), subs = c->log_subs - 2;
	int rc;

	s->end = le64_get(s->head.seal_lsn);
	s->live = state == FS_LOG_ACTIVE || state == FS_LOG_SEALED;
	if (!s->live && (state == FS_LOG_FREE || le64_get(s->head.tail_lsn) == le64_get(s->head.seal_lsn)))
		return 0;
	ring.mem = ts_alloc_aligned(FS_SUB, ring_bytes(c));
	ring.have = ts_alloc(subs);
	rc = ring.mem && ring.have ? scan_ring(c, slot, &ring, l) : -ENOMEM;
	if (!rc && !c->repair && s->live)
		chk_step(c, "a log is not replayed: checked as if it were", slot, c->nslots);
	ts_free(ring.mem);
	ts_free(ring.have);
	return rc;
}

/* ---- all ---------------------------------------------------------------------------------------------------------------- */
static void drop_adopted(struct chk *c, const struct logs *l)
{
	size_t n = 0;

	for (size_t i = 0; i < c->nintent; i++) {
		bool gone = false;

		for (size_t k = 0; k < l->n; k++)
			gone = gone || (l->a[k].slot == c->intent[i].slot &&
					l->a[k].incarnation == le64_get(c->slot[c->intent[i].slot].head.incarnation));
		if (!gone)
			c->intent[n++] = c->intent[i];
	}
	c->nintent = n;
}

static int by_place(const void *x, const void *y)
{
	const struct chk_intent *a = x, *b = y;

	return a->a < b->a ? -1 : a->a > b->a;
}

void chk_intent_sort(struct chk *c)
{
	if (c->nintent)
		qsort(c->intent, c->nintent, sizeof(*c->intent), by_place);
}

static bool slot_open(const struct chk_slot *s)
{
	uint32_t state = le32_get(s->head.state);

	return s->live || (state == FS_LOG_CLEAN && le64_get(s->head.tail_lsn) != le64_get(s->head.seal_lsn));
}

/* Everything is home, its intents are remembered here and done by the repair. */
static int close_slot(struct chk *c, uint32_t slot)
{
	struct chk_slot *s = &c->slot[slot];
	uint64_t end = TS_MAX(TS_ALIGN_UP(s->end, FS_SUB), le64_get(s->head.tail_lsn));

	if (!slot_open(s))
		return 0;
	c->out->replayed_logs = c->out->replayed_logs || s->live;
	s->live = false;
	s->head.state = le32_make(FS_LOG_CLEAN);
	s->head.tail_lsn = s->head.seal_lsn = le64_make(TS_MAX(end, le64_get(s->head.seal_lsn)));
	return head_write(c, slot, false);
}

int chk_logs(struct chk *c, bool force_offline)
{
	struct logs l = {0};
	int rc = 0;

	for (uint32_t i = 0; i < c->nslots && !rc; i++)
		rc = head_read(c, i);
	for (uint32_t i = 0; i < c->nslots && !rc && !force_offline; i++) {
		uint32_t state = le32_get(c->slot[i].head.state);

		if (state == FS_LOG_ACTIVE || state == FS_LOG_SEALED)
			rc = chk_fail(c, -EBUSY, "log slot %u is in use by node %u: the file system is mounted, or was not unmounted. "
				      "When no node is running, check with --force-offline", i, le32_get(c->slot[i].head.node));
	}
	for (uint32_t i = 0; i < c->nslots && !rc; i++)
		rc = scan_slot(c, i, &l);
	if (!rc)
		rc = gaps_check(c, &l);
	drop_adopted(c, &l);
	ts_free(l.a);
	ts_free(l.gaps.v);
	chk_intent_sort(c);
	if (rc || !c->repair)
		return rc;
	rc = chk_overlay_home(c);
	if (!rc)
		rc = chk_flush(c);
	for (uint32_t i = 0; i < c->nslots && !rc; i++)
		rc = close_slot(c, i);
	return rc ? rc : chk_flush(c);
}

/* Versions given here: every log's clock is set behind them. */
int chk_logs_close(struct chk *c)
{
	int rc = 0;

	for (uint32_t i = 0; i < c->nslots && !rc && c->repair; i++)
		rc = head_write(c, i, false);
	return rc;
}
