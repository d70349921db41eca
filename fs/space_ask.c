/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the question "what did you change since I asked you last?" about free space, and its answer: regions that this node
 * holds with what is free in them, regions it changed and gave away (the asker looks at the disk), what is freed and not yet in
 * a bitmap, free inodes of its segments. Must never happen: an answer without bound, or one that waits for a token. */
#include "fs/alloc_int.h"

#define WAIT_NS (400 * TS_NS_PER_MS)
#define MUTE_NS TS_NS_PER_S

/* Follow the head: nregions of the first, nsegs of the second kind. */
struct answer_msg {
	le64 now; /* since, for the next question */
	le64 coming[3];
	le32 nregions, nsegs;
	uint8_t all; /* more than could be told: look at everything */
	uint8_t reserved[7];
};
struct region_msg {
	le32 region, free, whole;
	uint8_t type, held;
	uint8_t pool, reserved; /* one of these for each pool of a region, that of pool 0 first */
};
struct seg_msg {
	le64 seg;
	le32 free, reserved;
};
/* Rows in an answer: the pools of a region stand together. */
#define ANSWER_MAX (sizeof(struct answer_msg) + FS_SPACE_REGIONS * sizeof(struct region_msg) + FS_SEG_MAX_OWNED * sizeof(struct seg_msg))
struct ask_msg {
	le64 group, since;
};

/* ---- answering ------------------------------------------------------------------------------------------------------- */
struct question {
	struct fs *fs;
	struct net *net;
	struct net_msg m;
	uint64_t since;
	uint32_t n;
	unsigned pools;
	bool all;
	struct {
		uint32_t region;
		struct fs_seen seen;
		bool held;
	} r[FS_SPACE_REGIONS];
};

/* Numbers up to the last that has a name. */
static unsigned pools(const struct fs *fs)
{
	unsigned n = FS_POOLS;

	while (n > 1 && !fs_pool_name_of(&fs->super, n - 1))
		n--;
	return n;
}

static void collect(struct question *q)
{
	struct fs_alloc *a = q->fs->alloc;

	ts_list_for(l, &a->changed)
	{
		const struct fs_region_hint *h = ts_list_entry(l, struct fs_region_hint, changed_link);

		if (h->changed <= q->since)
			break;
		q->all = q->n == FS_SPACE_REGIONS / q->pools;
		if (q->all)
			break;
		q->r[q->n++].region = (uint32_t)(h - a->hints);
	}
}

/* The token is cached and the region is not in use here: its blocks are in memory or at home. */
static int fill(struct question *q)
{
	struct fs *fs = q->fs;
	int rc = 0;

	for (uint32_t i = 0; i < q->n && !rc; i++) {
		uint32_t id = q->r[i].region;

		q->r[i].held = fs->alloc->hints[id].reg || tok_cached(fs->tok, TOK_REGION, id, TOK_EX);
		if (q->r[i].held && !fs->alloc->hints[id].reg)
			rc = fs_space_region(fs, id, &q->r[i].seen);
	}
	for (uint32_t i = 0; i < q->n && !rc; i++) { /* those in use last, without a wait: they and the intents are of one moment */
		const struct fs_region *r = fs->alloc->hints[q->r[i].region].reg;

		if (r)
			q->r[i].seen = fs_space_owned(fs, r);
		q->r[i].held &= q->r[i].seen.known;
	}
	return rc;
}

static void tell(struct question *q, uint64_t now, uint8_t *buf)
{
	struct fs_seg_free segs[FS_SEG_MAX_OWNED];
	unsigned nsegs = fs_space_segs(q->fs, segs);
	uint64_t coming[3];
	struct answer_msg a = {.now = le64_make(now), .nregions = le32_make(q->n * q->pools), .nsegs = le32_make(nsegs), .all = q->all};
	struct ts_wr w = {.p = buf, .left = ANSWER_MAX};

	fs_space_coming(q->fs, coming);
	for (unsigned t = 0; t < 3; t++)
		a.coming[t] = le64_make(coming[t]);
	ts_wr_bytes(&w, &a, sizeof(a));
	for (uint32_t k = 0; k < q->n * q->pools; k++) {
		uint32_t i = k / q->pools;
		unsigned p = k % q->pools;
		struct region_msg r = {.region = le32_make(q->r[i].region), .free = le32_make(q->r[i].seen.pfree[p]),
				       .whole = le32_make(q->r[i].seen.pwhole[p]), .type = q->r[i].seen.type, .held = q->r[i].held, .pool = (uint8_t)p};

		ts_wr_bytes(&w, &r, sizeof(r));
	}
	for (unsigned i = 0; i < nsegs; i++) {
		struct seg_msg s = {.seg = le64_make(segs[i].seg), .free = le32_make(segs[i].free)};

		ts_wr_bytes(&w, &s, sizeof(s));
	}
	net_reply(q->net, &q->m, w.bad ? EMSGSIZE : 0, buf, (uint32_t)w.used);
}

static void answer_fiber(void *arg)
{
	struct question *q = arg;
	struct fs *fs = q->fs;
	uint8_t *buf = ts_alloc(ANSWER_MAX);
	uint64_t now = fs->alloc->changes;
	int rc = buf ? 0 : -ENOMEM;

	collect(q);
	if (!rc)
		rc = fill(q);
	if (rc)
		net_reply(q->net, &q->m, -rc, NULL, 0);
	else
		tell(q, now, buf);
	ts_free(buf);
	ts_free(q);
	ts_group_done(&fs->background, 0);
}

void fs_space_asked(struct fs *fs, struct net *n, const struct net_msg *m, uint64_t since)
{
	struct question *q = ts_alloc(sizeof(*q));

	if (!q) {
		net_reply(n, m, ENOMEM, NULL, 0);
		return;
	}
	q->fs = fs;
	q->net = n;
	q->m = *m;
	q->m.payload = NULL;
	q->since = since;
	q->pools = pools(fs);
	ts_group_add(&fs->background);
	if (ts_fiber_spawn(fs->exec, "free space told", answer_fiber, q)) {
		ts_group_done(&fs->background, 0);
		ts_free(q);
		net_reply(n, m, EAGAIN, NULL, 0);
	}
}

/* ---- asking ---------------------------------------------------------------------------------------------------------- */
struct ask {
	struct fs *fs;
	struct fs_space *s;
	struct {
		unsigned node;
		uint8_t *buf;
		uint32_t len;
		bool answered;
	} to[QUORUM_MAX_NODES];
};

static int ask_one(void *arg, unsigned i)
{
	struct ask *a = arg;
	struct fs *fs = a->fs;
	struct fs_space_peer *p = a->s->peer[i];
	struct ask_msg q = {.group = le64_make(fs->group), .since = le64_make(p->since)};
	struct net_out o = {.dst_node = a->to[i].node, .lane = NET_REQUEST, .type = FS_MSG_SPACE, .group = fs->args.net_group,
			    .payload = &q, .len = sizeof(q)};
	uint64_t now = ts_exec_now(fs->exec);
	int result = 0, rc;

	if (now < p->mute_until)
		return 0;
	a->to[i].buf = ts_alloc(ANSWER_MAX);
	if (!a->to[i].buf)
		return -ENOMEM;
	a->to[i].len = ANSWER_MAX;
	rc = net_call(fs->args.net, &o, now + WAIT_NS, &result, a->to[i].buf, &a->to[i].len);
	a->to[i].answered = !rc && !result;
	if (!a->to[i].answered)
		p->mute_until = ts_exec_now(fs->exec) + MUTE_NS; /* hung, or leaving: what it said last counts */
	return 0;
}

static bool head_of(const struct ask *a, unsigned i, struct ts_rd *rd, struct answer_msg *out)
{
	*rd = (struct ts_rd){.p = a->to[i].buf, .left = a->to[i].len};
	const void *h = a->to[i].answered ? ts_rd_bytes(rd, sizeof(*out)) : NULL;

	if (!h)
		return false;
	memcpy(out, h, sizeof(*out));
	return le32_get(out->nregions) <= FS_SPACE_REGIONS && le32_get(out->nsegs) <= FS_SEG_MAX_OWNED &&
	       rd->left == le32_get(out->nregions) * sizeof(struct region_msg) + le32_get(out->nsegs) * sizeof(struct seg_msg);
}

/* First what was given away, then what is held: a region may be in the answers of two nodes. */
static void take_regions(struct ask *a, unsigned i, bool held)
{
	struct fs_alloc *al = a->fs->alloc;
	struct answer_msg h;
	struct ts_rd rd;

	if (!head_of(a, i, &rd, &h))
		return;
	for (uint32_t k = 0; k < al->nregions && h.all && !held; k++)
		a->s->seen[k].known = false;
	for (uint32_t k = 0; k < le32_get(h.nregions); k++) {
		const struct region_msg *r = ts_rd_bytes(&rd, sizeof(*r));

		struct fs_seen *s;

		if (!r || le32_get(r->region) >= al->nregions || r->type > FS_REGION_DATA || !!r->held != held || r->pool >= FS_POOLS)
			continue;
		s = &a->s->seen[le32_get(r->region)];
		if (!r->pool)
			*s = (struct fs_seen){.type = r->type, .known = held};
		s->pfree[r->pool] = TS_MIN(le32_get(r->free), FS_BITMAP_BITS * FS_MAX_DISKS);
		s->pwhole[r->pool] = TS_MIN(le32_get(r->whole), FS_BITMAP_BITS * FS_MAX_DISKS);
		s->free = s->whole = 0;
		for (unsigned p = 0; p < FS_POOLS; p++) {
			s->free += s->pfree[p];
			s->whole += s->pwhole[p];
		}
	}
}

static void take_rest(struct ask *a, unsigned i)
{
	struct fs_space_peer *p = a->s->peer[i];
	struct answer_msg h;
	struct ts_rd rd;

	if (!head_of(a, i, &rd, &h))
		return;
	p->since = le64_get(h.now);
	for (unsigned t = 0; t < 3; t++)
		p->coming[t] = TS_MIN(le64_get(h.coming[t]), a->fs->alloc->total_subs);
	(void)ts_rd_bytes(&rd, le32_get(h.nregions) * sizeof(struct region_msg));
	p->nsegs = 0;
	for (uint32_t k = 0; k < le32_get(h.nsegs); k++) {
		const struct seg_msg *s = ts_rd_bytes(&rd, sizeof(*s));

		if (s)
			p->segs[p->nsegs++] = (struct fs_seg_free){.seg = le64_get(s->seg), .free = TS_MIN(le32_get(s->free), FS_SEG_INODES)};
	}
}

/* The others of the view, in its order. After a change of it everything is asked and looked at anew: who left, or died and was
 * recovered, may have changed what it told nobody. */
static int peers_of_view(struct ask *a)
{
	const struct quorum_group_view *g = &a->fs->gview;
	struct fs_space *s = a->s;
	bool same = s->epoch == g->epoch;
	unsigned n = 0;

	for (unsigned i = 0; i < g->nmembers; i++) {
		if (g->members[i].node == a->fs->self || g->members[i].slot == UINT32_MAX)
			continue;
		if (n == s->npeers) {
			s->peer[n] = ts_alloc(sizeof(*s->peer[n]));
			if (!s->peer[n])
				return -ENOMEM;
			s->npeers++;
		}
		if (!same)
			*s->peer[n] = (struct fs_space_peer){.since = 0};
		a->to[n++].node = g->members[i].node;
	}
	while (s->npeers > n)
		ts_free(s->peer[--s->npeers]);
	for (uint32_t k = 0; k < a->fs->alloc->nregions && !same; k++)
		s->seen[k].known = false;
	s->epoch = g->epoch;
	return 0;
}

int fs_space_ask_all(struct fs *fs, struct fs_space *s)
{
	struct ask *a;
	int rc;

	if (!fs->args.net)
		return 0;
	a = ts_alloc(sizeof(*a));
	if (!a)
		return -ENOMEM;
	a->fs = fs;
	a->s = s;
	rc = peers_of_view(a);
	if (!rc && s->npeers)
		rc = fs_par_run(fs, "free space of others", s->npeers, ask_one, a);
	for (int held = 0; !rc && held < 2; held++) {
		for (unsigned i = 0; i < s->npeers; i++)
			take_regions(a, i, held);
	}
	for (unsigned i = 0; !rc && i < s->npeers; i++)
		take_rest(a, i);
	for (unsigned i = 0; i < s->npeers; i++)
		ts_free(a->to[i].buf);
	ts_free(a);
	return rc;
}
