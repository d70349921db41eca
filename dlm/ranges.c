/* SPDX-License-Identifier: Apache-2.0 */
/* Modes as tables, and sets of (node, range, mode). Job: point-wise raise and lower of a node's mode, with as
 * few pieces as possible. Must never happen: pieces of one node overlap, are unsorted, or have start > end or
 * mode NL. */
#include "dlm/dlm_int.h"

/* clang-format off */
static const bool compatible[DLM_MODES][DLM_MODES] = {
	/*         NL    SH     SW     EX */
	[DLM_NL] = {true, true,  true,  true},
	[DLM_SH] = {true, true,  false, false},
	[DLM_SW] = {true, false, true,  false},
	[DLM_EX] = {true, false, false, false},
};
static const bool covers[DLM_MODES][DLM_MODES] = { /* [have][want] */
	[DLM_NL] = {true, false, false, false},
	[DLM_SH] = {true, true,  false, false},
	[DLM_SW] = {true, false, true,  false},
	[DLM_EX] = {true, true,  true,  true},
};
static const uint8_t join[DLM_MODES][DLM_MODES] = {
	[DLM_NL] = {DLM_NL, DLM_SH, DLM_SW, DLM_EX},
	[DLM_SH] = {DLM_SH, DLM_SH, DLM_EX, DLM_EX},
	[DLM_SW] = {DLM_SW, DLM_EX, DLM_SW, DLM_EX},
	[DLM_EX] = {DLM_EX, DLM_EX, DLM_EX, DLM_EX},
};
static const uint8_t meet[DLM_MODES][DLM_MODES] = {
	[DLM_NL] = {DLM_NL, DLM_NL, DLM_NL, DLM_NL},
	[DLM_SH] = {DLM_NL, DLM_SH, DLM_NL, DLM_SH},
	[DLM_SW] = {DLM_NL, DLM_NL, DLM_SW, DLM_SW},
	[DLM_EX] = {DLM_NL, DLM_SH, DLM_SW, DLM_EX},
};
static const uint8_t beside[DLM_MODES] = {[DLM_NL] = DLM_EX, [DLM_SH] = DLM_SH, [DLM_SW] = DLM_SW, [DLM_EX] = DLM_NL};
static const char *const names[DLM_MODES] = {"NL", "SH", "SW", "EX"};
/* clang-format on */

bool dlm_compatible(enum dlm_mode a, enum dlm_mode b)
{
	return compatible[a][b];
}
bool dlm_covers(enum dlm_mode have, enum dlm_mode want)
{
	return covers[have][want];
}
enum dlm_mode dlm_join(enum dlm_mode a, enum dlm_mode b)
{
	return join[a][b];
}
enum dlm_mode dlm_meet(enum dlm_mode a, enum dlm_mode b)
{
	return meet[a][b];
}
enum dlm_mode dlm_beside(enum dlm_mode wanted)
{
	return beside[wanted];
}
const char *dlm_mode_name(enum dlm_mode m)
{
	return m < DLM_MODES ? names[m] : "?";
}

void dlm_rset_init(struct dlm_rset *s)
{
	s->v = &s->one;
	s->n = 0;
	s->cap = 1;
}

void dlm_rset_fini(struct dlm_rset *s)
{
	if (s->v != &s->one)
		ts_free(s->v);
	dlm_rset_init(s);
}

int dlm_rset_reserve(struct dlm_rset *s, uint32_t extra)
{
	if (s->n + extra <= s->cap)
		return 0;
	uint32_t cap = TS_MAX(s->cap * 2, s->n + extra);
	struct dlm_piece *v = ts_alloc(cap * sizeof *v);
	if (!v)
		return -ENOMEM;
	memcpy(v, s->v, s->n * sizeof *v);
	if (s->v != &s->one)
		ts_free(s->v);
	s->v = v;
	s->cap = cap;
	return 0;
}

/* Index of the first piece of node that ends at or after start, or where it would be. */
static uint32_t first_at(const struct dlm_rset *s, unsigned node, uint64_t start)
{
	uint32_t lo = 0, hi = s->n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		const struct dlm_piece *p = &s->v[mid];
		if (p->node < node || (p->node == node && p->end < start))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void insert_at(struct dlm_rset *s, uint32_t i, const struct dlm_piece *p)
{
	TS_ASSERT(s->n < s->cap && i <= s->n);
	memmove(&s->v[i + 1], &s->v[i], (s->n - i) * sizeof *p);
	s->v[i] = *p;
	s->n++;
}

static void remove_at(struct dlm_rset *s, uint32_t i)
{
	memmove(&s->v[i], &s->v[i + 1], (s->n - i - 1) * sizeof s->v[0]);
	s->n--;
}

bool dlm_rset_covers(const struct dlm_rset *s, unsigned node, enum dlm_mode mode, uint64_t start,
		     uint64_t end)
{
	for (uint32_t i = first_at(s, node, start); i < s->n; i++) {
		const struct dlm_piece *p = &s->v[i];
		if (p->node != node || p->start > start || !covers[p->mode][mode])
			return false;
		if (p->end >= end)
			return true;
		start = p->end + 1;
	}
	return false;
}

/* Makes [start, end] begin and end at piece borders of node. */
static void split(struct dlm_rset *s, unsigned node, uint64_t start, uint64_t end)
{
	uint32_t i = first_at(s, node, start);
	if (i < s->n && s->v[i].node == node && s->v[i].start < start) {
		struct dlm_piece left = s->v[i];
		left.end = start - 1;
		s->v[i].start = start;
		insert_at(s, i, &left);
	}
	i = first_at(s, node, end);
	if (i < s->n && s->v[i].node == node && s->v[i].start <= end && s->v[i].end > end) {
		struct dlm_piece left = s->v[i];
		left.end = end;
		s->v[i].start = end + 1;
		insert_at(s, i, &left);
	}
}

/* Joins neighbours of node with one mode and granter; the newer stamp stands for both (see README, cover). */
static void merge(struct dlm_rset *s, unsigned node)
{
	uint32_t i = first_at(s, node, 0);
	while (i + 1 < s->n && s->v[i + 1].node == node) {
		struct dlm_piece *a = &s->v[i], *b = &s->v[i + 1];
		if (a->mode == b->mode && a->granter == b->granter && a->end + 1 == b->start) {
			b->start = a->start;
			b->stamp = TS_MAX(a->stamp, b->stamp);
			remove_at(s, i);
		} else {
			i++;
		}
	}
}

static uint32_t count_inside(const struct dlm_rset *s, const struct dlm_piece *p)
{
	uint32_t n = 0;
	for (uint32_t i = first_at(s, p->node, p->start); i < s->n; i++, n++)
		if (s->v[i].node != p->node || s->v[i].start > p->end)
			break;
	return n;
}

int dlm_rset_raise(struct dlm_rset *s, const struct dlm_piece *p)
{
	TS_ASSERT(p->start <= p->end && p->mode > DLM_NL && p->mode < DLM_MODES);
	if (s->n == 0) {
		insert_at(s, 0, p);
		return 0;
	}
	if (s->n == 1 && s->v[0].node == p->node && s->v[0].start == p->start && s->v[0].end == p->end) {
		uint8_t m = join[s->v[0].mode][p->mode];
		s->v[0] = *p;
		s->v[0].mode = m;
		return 0;
	}
	int rc = dlm_rset_reserve(s, count_inside(s, p) + 3);
	if (rc)
		return rc;
	split(s, p->node, p->start, p->end);
	uint64_t at = p->start;
	for (uint32_t i = first_at(s, p->node, p->start);; i++) {
		bool inside = i < s->n && s->v[i].node == p->node && s->v[i].start <= p->end;
		uint64_t gap_end = inside ? s->v[i].start - 1 : p->end;
		if (!inside || s->v[i].start > at) {
			struct dlm_piece fill = *p;
			fill.start = at;
			fill.end = gap_end;
			insert_at(s, i++, &fill);
		}
		if (!inside)
			break;
		s->v[i].mode = join[s->v[i].mode][p->mode];
		s->v[i].granter = p->granter;
		s->v[i].stamp = p->stamp;
		if (s->v[i].end >= p->end)
			break;
		at = s->v[i].end + 1;
	}
	merge(s, p->node);
	return 0;
}

int dlm_rset_lower(struct dlm_rset *s, const struct dlm_piece *p, bool any_tag)
{
	bool changed = false;
	uint32_t i = first_at(s, p->node, p->start);
	if (i >= s->n || s->v[i].node != p->node || s->v[i].start > p->end)
		return 0;
	if (s->n == 1 && s->v[0].start >= p->start && s->v[0].end <= p->end) {
		; /* the usual case: nothing to split */
	} else {
		int rc = dlm_rset_reserve(s, 2);
		if (rc)
			return rc;
		split(s, p->node, p->start, p->end);
		i = first_at(s, p->node, p->start);
	}
	while (i < s->n && s->v[i].node == p->node && s->v[i].start <= p->end) {
		struct dlm_piece *q = &s->v[i];
		uint8_t m = meet[q->mode][p->mode];
		if (m != q->mode && (any_tag || (q->granter == p->granter && q->stamp <= p->stamp))) {
			changed = true;
			q->mode = m;
			if (m == DLM_NL) {
				remove_at(s, i);
				continue;
			}
		}
		i++;
	}
	merge(s, p->node);
	return changed;
}
