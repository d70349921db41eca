/* SPDX-License-Identifier: Apache-2.0 */
/* Job: sub-blocks that two pointers lead to, and data blocks among metadata: all owners are named, one keeps the space, the others
 * lose the block. Metadata blocks say whose they are and win; of data blocks the younger pointer wins (its allocation
 * came later: the older was freed in between, or damaged).
 * Must never happen: two owners after a repair; the wrong one chosen without both being named. */
#include "fs/check.h"

#define OWNERS_MAX (1u << 18)

struct owner {
	fs_addr addr;
	uint32_t subs;
	bool meta, loses;
	uint64_t ino, idx, birth;
	uint64_t against; /* inode that keeps it; 0: the metadata area */
};
struct doubles {
	struct owner *v;
	size_t n, room;
	uint64_t ino; /* of the pointers that were cleared last: for its count of sub-blocks */
};

static int by_num(const void *x, const void *y)
{
	fs_addr a = *(const fs_addr *)x, b = *(const fs_addr *)y;

	return a < b ? -1 : a > b;
}

/* Any address met twice in [a, a + subs)? */
static bool touches(const struct chk_space *s, fs_addr a, uint32_t subs)
{
	size_t lo = 0, hi = s->ntwice;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (s->twice[mid] < a)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < s->ntwice && s->twice[lo] < a + subs;
}

static bool in_mixed(struct chk *c, fs_addr a)
{
	struct chk_space *s = c->space;
	uint32_t region, off;

	return chk_in_region(c, a, 1, &region, &off) && region >= s->first && region < s->end && s->nmeta[region - s->first];
}

static int add(struct doubles *d, const struct owner *o)
{
	if (d->n == OWNERS_MAX)
		return 0;
	if (d->n == d->room) {
		size_t room = d->room ? d->room * 2 : 256;
		struct owner *v = ts_alloc(room * sizeof(*v));

		if (!v)
			return -ENOMEM;
		if (d->n)
			memcpy(v, d->v, d->n * sizeof(*v));
		ts_free(d->v);
		d->v = v;
		d->room = room;
	}
	d->v[d->n++] = *o;
	return 0;
}

static int gather(struct chk *c, void *arg, uint64_t ino, struct fs_bptr_disk *p, bool meta, uint64_t idx, bool *changed)
{
	struct owner o = {.addr = le64_get(p->addr[0]), .subs = meta ? 1 : le16_get(p->subs), .meta = meta, .ino = ino, .idx = idx,
			  .birth = le64_get(p->birth)};

	o.loses = !meta && in_mixed(c, o.addr);
	if (!o.loses && !touches(c->space, o.addr, o.subs))
		return 0;
	return add(arg, &o);
}

static int by_addr(const void *x, const void *y)
{
	const struct owner *a = x, *b = y;

	if (a->addr != b->addr)
		return a->addr < b->addr ? -1 : 1;
	if (a->ino != b->ino)
		return a->ino < b->ino ? -1 : 1;
	return a->idx < b->idx ? -1 : a->idx > b->idx;
}

static bool stronger(const struct owner *a, const struct owner *b)
{
	if (a->meta != b->meta)
		return a->meta;
	if (a->birth != b->birth)
		return a->birth > b->birth;
	if (a->ino != b->ino)
		return a->ino < b->ino;
	return a->idx < b->idx;
}

/* Every pair that overlaps: sorted by address, a window as long as the largest block. */
static void judge(struct chk *c, struct doubles *d)
{
	qsort(d->v, d->n, sizeof(*d->v), by_addr);
	for (size_t i = 0; i < d->n; i++) {
		struct owner *a = &d->v[i];

		for (size_t k = i + 1; k < d->n && d->v[k].addr < a->addr + a->subs; k++) {
			struct owner *b = &d->v[k], *loser = stronger(a, b) ? b : a;

			loser->loses = true;
			loser->against = loser == a ? b->ino : a->ino;
		}
	}
}

static const struct owner *find(const struct doubles *d, fs_addr a, uint64_t ino, uint64_t idx, bool meta)
{
	size_t lo = 0, hi = d->n;
	struct owner key = {.addr = a, .ino = ino, .idx = idx};

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (by_addr(&d->v[mid], &key) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < d->n && !by_addr(&d->v[lo], &key); lo++)
		if (d->v[lo].meta == meta)
			return &d->v[lo];
	return NULL;
}

static int clear(struct chk *c, void *arg, uint64_t ino, struct fs_bptr_disk *p, bool meta, uint64_t idx, bool *changed)
{
	struct doubles *d = arg;
	fs_addr a = le64_get(p->addr[0]);
	const struct owner *o = find(d, a, ino, idx, meta);

	if (!o || !o->loses)
		return 0;
	if (o->against)
		chk_found(c, true, "inode %llu, %s %llu: uses disk %u sub %llu, which inode %llu uses, too -> removed here, that range reads zeros",
			  (unsigned long long)ino, meta ? "indirect block at" : "block", (unsigned long long)idx, FS_ADDR_DISK(a),
			  (unsigned long long)FS_ADDR_SUB(a), (unsigned long long)o->against);
	else
		chk_found(c, true, "inode %llu, block %llu: data at disk %u sub %llu, among metadata -> removed, that range reads zeros",
			  (unsigned long long)ino, (unsigned long long)idx, FS_ADDR_DISK(a), (unsigned long long)FS_ADDR_SUB(a));
	memset(p, 0, sizeof(*p));
	*changed = true;
	return 0;
}

/* The inode's count of sub-blocks follows. */
struct count {
	uint64_t subs;
};
static int count_block(struct chk *c, void *arg, uint64_t ino, struct fs_bptr_disk *p, bool meta, uint64_t idx, bool *changed)
{
	((struct count *)arg)->subs += meta ? 1 : le16_get(p->subs);
	return 0;
}

static int recount(struct chk *c, uint64_t ino)
{
	struct count n = {0};
	struct chk_visit v = {.block = count_block, .arg = &n};
	struct fs_inode_disk *d = chk_page();
	bool changed = false;
	int rc = d ? chk_ino_read(c, ino, d) : -ENOMEM;

	if (!rc)
		rc = chk_walk(c, ino, d, &v, &changed);
	if (!rc && le64_get(d->subs) != n.subs) {
		d->subs = le64_make(n.subs);
		rc = chk_ino_write(c, ino, d);
	}
	ts_free(d);
	return rc;
}

int chk_doubles(struct chk *c)
{
	struct doubles d = {0};
	struct chk_visit v = {.block = gather, .arg = &d};
	struct chk_space *s = c->space;
	uint64_t last = 0;
	int rc;

	if (s->ntwice)
		qsort(s->twice, s->ntwice, sizeof(*s->twice), by_num);
	rc = chk_walk_all(c, &v);
	if (!rc && d.n) {
		judge(c, &d);
		v.block = clear;
		rc = chk_walk_all(c, &v);
	}
	for (size_t i = 0; i < d.n && !rc; i++) { /* neighbours are often of one inode */
		if (d.v[i].loses && d.v[i].ino != last)
			rc = recount(c, last = d.v[i].ino);
	}
	ts_free(d.v);
	return rc;
}
