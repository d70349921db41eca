/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the locks of one inode: pieces of owners, split and merged as POSIX says (a range locked twice is one
 * lock, an unlock in the middle leaves two). Must never happen: pieces of one owner that overlap; a set that
 * is half changed. */
#include "dlm/plock_int.h"

static int order(const struct plock_piece *a, const struct plock_piece *b)
{
	if (a->space != b->space)
		return a->space < b->space ? -1 : 1;
	if (a->node != b->node)
		return a->node < b->node ? -1 : 1;
	if (a->owner != b->owner)
		return a->owner < b->owner ? -1 : 1;
	return 0;
}

/* First piece that is not before (owner of key, start). */
static uint32_t lower_bound(const struct plock_table *t, const struct plock_piece *key, uint64_t start)
{
	uint32_t lo = 0, hi = t->n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		int c = order(&t->v[mid], key);
		if (c < 0 || (c == 0 && t->v[mid].start < start))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* First piece of key's owner that ends at or behind `start`. */
static uint32_t first_from(const struct plock_table *t, const struct plock_piece *key, uint64_t start)
{
	uint32_t i = lower_bound(t, key, start);
	return i && !order(&t->v[i - 1], key) && t->v[i - 1].end >= start ? i - 1 : i;
}

void plock_table_fini(struct plock_table *t)
{
	plock_table_clear(t);
	ts_free(t->v);
	t->v = NULL;
	t->cap = 0;
}

static void count(struct plock_table *t, const struct plock_piece *p, int by)
{
	if (t->counted)
		t->counted(t->arg, p, by);
}

void plock_table_clear(struct plock_table *t)
{
	for (uint32_t i = 0; i < t->n; i++)
		count(t, &t->v[i], -1);
	t->n = 0;
}

struct out {
	struct plock_piece *v;
	uint32_t n;
};

/* A piece of the new set: like q, with this range and type. */
static void emit(struct out *o, const struct plock_piece *q, uint64_t start, uint64_t end,
		 enum plock_type type)
{
	struct plock_piece *l = o->n ? &o->v[o->n - 1] : NULL;
	if (type == PLOCK_UN)
		return;
	if (l && l->end + 1 == start && l->type == type && l->handle == q->handle) {
		l->end = end;
		return;
	}
	o->v[o->n] = *q;
	o->v[o->n].start = start;
	o->v[o->n].end = end;
	o->v[o->n++].type = (uint8_t)type;
}

/* What becomes of [start, end] of q, which lies inside p. */
static void emit_inside(struct out *o, const struct plock_piece *q, const struct plock_piece *p, bool raise,
			uint64_t start, uint64_t end)
{
	struct plock_piece x = *q;
	if (raise && q->type <= p->type)
		x = *p;
	else if (!raise && p->handle)
		x.handle = p->handle;
	emit(o, &x, start, end, raise ? TS_MAX(q->type, p->type) : TS_MIN(q->type, p->type));
}

/* The pieces [lo, hi) touch p or lie beside it. */
static void rebuild(const struct plock_table *t, uint32_t lo, uint32_t hi, const struct plock_piece *p,
		    bool raise, struct out *o)
{
	uint64_t pos = p->start; /* up to here p is dealt with */
	bool full = false;
	for (uint32_t i = lo; i < hi; i++) {
		const struct plock_piece *q = &t->v[i];
		if (q->start > pos && q->end >= p->start && !full && raise)
			emit(o, p, pos, TS_MIN(q->start - 1, p->end), p->type);
		if (!plock_overlap(q, p)) {
			full |= q->start > p->end;
			emit(o, q, q->start, q->end, q->type);
			continue;
		}
		if (q->start < p->start)
			emit(o, q, q->start, p->start - 1, q->type);
		emit_inside(o, q, p, raise, TS_MAX(q->start, p->start), TS_MIN(q->end, p->end));
		if (q->end > p->end)
			emit(o, q, p->end + 1, q->end, q->type);
		full |= q->end >= p->end;
		pos = full ? pos : q->end + 1;
	}
	if (!full && raise)
		emit(o, p, pos, p->end, p->type);
}

static int reserve(struct plock_table *t, uint32_t n)
{
	uint32_t cap = t->cap ? t->cap : 4;
	if (n <= t->cap)
		return 0;
	while (cap < n)
		cap *= 2;
	struct plock_piece *v = ts_alloc(cap * sizeof *v);
	if (!v)
		return -ENOMEM;
	if (t->n)
		memcpy(v, t->v, t->n * sizeof *v);
	ts_free(t->v);
	t->v = v;
	t->cap = cap;
	return 0;
}

int plock_table_set(struct plock_table *t, const struct plock_piece *p, bool raise)
{
	struct plock_piece few[16];
	struct out o = {few, 0};
	uint32_t lo = first_from(t, p, p->start ? p->start - 1 : 0), hi = lo;
	while (hi < t->n && !order(&t->v[hi], p) && (p->end == PLOCK_END || t->v[hi].start <= p->end + 1))
		hi++;
	uint32_t room = 2 * (hi - lo) + 3;
	if (room > TS_ARRAY_LEN(few))
		o.v = ts_alloc(room * sizeof *o.v);
	if (!o.v || reserve(t, t->n + room)) {
		if (o.v != few)
			ts_free(o.v);
		return -ENOMEM;
	}
	rebuild(t, lo, hi, p, raise, &o);
	for (uint32_t i = lo; i < hi; i++)
		count(t, &t->v[i], -1);
	memmove(&t->v[lo + o.n], &t->v[hi], (t->n - hi) * sizeof *t->v);
	memcpy(&t->v[lo], o.v, o.n * sizeof *t->v);
	t->n = t->n - (hi - lo) + o.n;
	for (uint32_t i = 0; i < o.n; i++)
		count(t, &o.v[i], 1);
	if (o.v != few)
		ts_free(o.v);
	return 0;
}

uint32_t plock_table_clash(const struct plock_table *t, const struct plock_piece *p, uint32_t i)
{
	while (i < t->n && !plock_clash(&t->v[i], p))
		i++;
	return i;
}

bool plock_table_first_clash(const struct plock_table *t, const struct plock_piece *p,
			     struct plock_piece *out)
{
	uint32_t best = t->n;
	for (uint32_t i = plock_table_clash(t, p, 0); i < t->n; i = plock_table_clash(t, p, i + 1))
		if (best == t->n || t->v[i].start < t->v[best].start)
			best = i;
	if (best == t->n)
		return false;
	*out = t->v[best];
	for (uint32_t i = best;
	     i-- > 0 && !order(&t->v[i], out) && t->v[i].end + 1 == out->start && t->v[i].type == out->type;)
		out->start = t->v[i].start;
	for (uint32_t i = best + 1;
	     i < t->n && !order(&t->v[i], out) && out->end + 1 == t->v[i].start && t->v[i].type == out->type;
	     i++)
		out->end = t->v[i].end;
	return true;
}

enum plock_type plock_table_held(const struct plock_table *t, const struct plock_piece *p)
{
	enum plock_type best = PLOCK_UN;
	for (uint32_t i = first_from(t, p, p->start);
	     i < t->n && !order(&t->v[i], p) && t->v[i].start <= p->end; i++)
		best = TS_MAX(best, (enum plock_type)t->v[i].type);
	return best;
}

bool plock_table_has_owner(const struct plock_table *t, const struct plock_piece *p)
{
	uint32_t i = lower_bound(t, p, 0);
	return i < t->n && !order(&t->v[i], p);
}
