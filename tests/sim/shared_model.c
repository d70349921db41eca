/* SPDX-License-Identifier: Apache-2.0 */
/* What any look at a shared file may find.
 *
 * Cells: a value is stale when its writer ended before the beginning of another write that ended before the read began;
 * or when an earlier read found another value although the writer had ended before that read began. A record is torn when a read
 * that shows it somewhere shows something older beside it, or two records each in front of the other.
 * Deaths: what a node had acknowledged and neither forced nor shown to another node no longer counts as written, but may be
 * there. What a living node has acknowledged stays, whoever else dies; so does what was fsynced or seen.
 * Size: at least what every acknowledged extension reached that no truncate may have cut, at most what was begun. */
#include "tests/sim/shared.h"

#define SH_BLOCK (64u << 10) /* main.c formats so */

static const struct {
	uint64_t base; /* 64 pointers are in the inode */
	uint32_t cells;
} zones[SH_ZONES] = {{0, 2048}, {63 * SH_BLOCK, 1536}, {400ull << 20, 1024}};

/* ---- places --------------------------------------------------------------------------------------------------------- */

uint32_t sh_zone_first(unsigned zone)
{
	uint32_t c = 0;
	for (unsigned z = 0; z < zone; z++)
		c += zones[z].cells;
	return c;
}

uint32_t sh_zone_end(uint32_t cell)
{
	uint32_t end = 0;
	for (unsigned z = 0; z < SH_ZONES && end <= cell; z++)
		end += zones[z].cells;
	return end;
}

uint64_t sh_offset(uint32_t cell)
{
	unsigned z = 0;
	while (z < SH_ZONES - 1 && cell >= zones[z].cells)
		cell -= zones[z++].cells;
	return zones[z].base + (uint64_t)cell * SH_CELL;
}

uint32_t sh_cell_at(uint64_t off)
{
	uint32_t c = 0;
	for (unsigned z = 0; z < SH_ZONES; c += zones[z++].cells) {
		if (off <= zones[z].base)
			return c;
		if (off - zones[z].base <= (uint64_t)(zones[z].cells - 1) * SH_CELL)
			return c + (uint32_t)((off - zones[z].base + SH_CELL - 1) / SH_CELL);
	}
	return SH_CELLS;
}

/* ---- changes -------------------------------------------------------------------------------------------------------- */

struct sh_file *sh_file_new(struct sim *s, unsigned id)
{
	struct sh_file *f = calloc(1, sizeof(*f));
	TS_ASSERT(f);
	f->s = s;
	f->id = id;
	f->cell = calloc(SH_CELLS, sizeof(*f->cell));
	TS_ASSERT(f->cell);
	uint32_t op = sh_begin(f, NULL, &(struct sh_op){.cuts = true, .stable_data = true, .stable_size = true, .stable_times = true});
	f->op[op].end = f->op[op].begin;
	return f;
}

void sh_file_free(struct sh_file *f)
{
	free(f->op);
	free(f->cell);
	free(f);
}

/* Ticks order everything in all files: events of one instant have an order too. */
uint32_t sh_tick(struct sh_file *f)
{
	TS_ASSERT(f->s->shared_ticks < SH_OPEN - 1);
	return ++f->s->shared_ticks;
}

static uint64_t wall(const struct sh_file *f)
{
	return sim_env_ops->wall_ns(&f->s->nodes[1]);
}

uint32_t sh_begin(struct sh_file *f, struct sim_life *l, const struct sh_op *what)
{
	if (f->nops == f->cap) {
		f->cap = f->cap ? 2 * f->cap : 128;
		f->op = realloc(f->op, f->cap * sizeof(*f->op));
		TS_ASSERT(f->op);
	}
	struct sh_op *o = &f->op[f->nops];
	*o = *what;
	o->life = l;
	o->begin = sh_tick(f);
	o->end = SH_OPEN;
	o->wall = wall(f);
	sim_say(f->s, "shared file %u: n%u op %u tick %u%s%s%s cells %u+%u size %llu", f->id, l ? l->node->id : 0, f->nops, o->begin,
		o->zero ? " zero" : "", o->cuts ? " cuts" : "", o->append ? " append" : "", o->first, o->count, (unsigned long long)o->size);
	return f->nops++;
}

static void stay(struct sh_cell *c, const struct sh_op *o)
{
	c->hard = TS_MAX(c->hard, o->begin);
}

/* Another node has the token now for what lies here: what had been acknowledged before it asked is stable. */
static void handed_over(struct sh_file *f, struct sh_cell *c, const struct sim_life *l, uint32_t since)
{
	for (unsigned n = 1; n <= SIM_NODES; n++)
		if (n != l->node->id && c->own[n] && f->op[c->own[n]].end < since)
			stay(c, &f->op[c->own[n]]);
}

/* Behind the end of a zone nobody looks. */
void sh_placed(struct sh_file *f, uint32_t op, uint64_t at)
{
	struct sh_op *o = &f->op[op];
	uint32_t first = sh_cell_at(at);
	bool in_zone = first < SH_CELLS && sh_offset(first) == at;
	o->size = at + (uint64_t)o->count * SH_CELL;
	if (!f->wild && o->placed && (!in_zone || first != o->first))
		sim_fail(f->s, "n%u shared file %u: record %u was read at cell %u, its writer is told offset %llu", o->life->node->id, f->id, op,
			 o->first, (unsigned long long)at);
	o->placed = true;
	o->first = first;
	o->count = in_zone ? TS_MIN(o->count, sh_zone_end(first) - first) : 0;
}

void sh_done(struct sh_file *f, uint32_t op)
{
	struct sh_op *o = &f->op[op];
	unsigned n = o->life->node->id;
	o->end = sh_tick(f);
	sim_say(f->s, "shared file %u: n%u op %u done, tick %u", f->id, n, op, o->end);
	for (uint32_t i = o->first; i < o->first + o->count; i++) {
		struct sh_cell *c = &f->cell[i];
		handed_over(f, c, o->life, o->begin);
		if (!c->own[n] || f->op[c->own[n]].begin < o->begin)
			c->own[n] = op;
	}
}

void sh_fsynced(struct sh_file *f, struct sim_life *l, uint32_t since, bool times)
{
	for (uint32_t k = 1; k < f->nops; k++) {
		struct sh_op *o = &f->op[k];
		if (o->life != l || o->end >= since)
			continue;
		o->stable_times |= times;
		o->stable_size = true;
		if (o->stable_data)
			continue;
		o->stable_data = true;
		for (uint32_t i = o->first; i < o->first + o->count; i++)
			stay(&f->cell[i], o);
	}
}

void sh_life_dead(struct sh_file *f, struct sim_life *l)
{
	unsigned n = l->node->id;
	uint32_t now = sh_tick(f);
	f->deaths[n]++;
	for (uint32_t i = 0; i < SH_CELLS; i++) {
		struct sh_cell *c = &f->cell[i];
		const struct sh_op *o = c->seen && c->seen != SH_ZERO ? &f->op[c->seen] : NULL;
		if (c->seen == SH_ZERO || (o && o->life == l))
			c->seen = c->seen_at = 0; /* perhaps only in its memory */
		c->own[n] = 0;
	}
	for (uint32_t k = 1; k < f->nops; k++) {
		struct sh_op *o = &f->op[k];
		if (o->life != l)
			continue;
		o->end = TS_MIN(o->end, now);
		o->lost_data = !o->stable_data;
		o->lost_size = !o->stable_size;
		o->lost_times = !o->stable_times;
		f->fuzzy |= o->lost_size;
	}
}

static uint64_t word(const struct sh_file *f, uint32_t op, uint32_t k, unsigned i)
{
	return ((uint64_t)op << 40) | ((uint64_t)f->id << 32) | (k << 8) | (0xc0 + i);
}

void sh_fill(const struct sh_file *f, uint32_t op, uint32_t count, uint8_t *buf)
{
	for (uint32_t k = 0; k < count; k++)
		for (unsigned i = 0; i < SH_CELL / 8; i++) {
			uint64_t w = word(f, op, k, i);
			memcpy(buf + (size_t)k * SH_CELL + 8 * i, &w, 8);
		}
}

bool sh_quiet(const struct sh_file *f)
{
	for (uint32_t k = 0; k < f->nops; k++)
		if (f->op[k].end == SH_OPEN)
			return false;
	return true;
}

/* ---- cells ------------------------------------------------------------------------------------------------------------ */

void sh_look(struct sh_file *f, uint32_t first, uint32_t count, struct sh_look *k)
{
	TS_ASSERT(count <= SH_RUN_MAX && first + count <= SH_CELLS);
	k->first = first;
	k->count = count;
	memcpy(k->deaths, f->deaths, sizeof(k->deaths));
	for (uint32_t i = 0; i < count; i++) {
		const struct sh_cell *c = &f->cell[first + i];
		k->at[i].hard = c->hard;
		for (unsigned n = 1; n <= SIM_NODES; n++)
			k->at[i].own[n] = c->own[n] ? f->op[c->own[n]].begin : 0;
		k->at[i].seen = c->seen;
		k->at[i].seen_at = c->seen_at;
	}
	k->begin = sh_tick(f);
}

/* What ended before this was overwritten when the read began. What a node had only in memory that died meanwhile does not count. */
static uint32_t floor_of(const struct sh_file *f, const struct sh_look *k, uint32_t i)
{
	uint32_t at = k->at[i].hard;
	for (unsigned n = 1; n <= SIM_NODES; n++)
		if (k->deaths[n] == f->deaths[n])
			at = TS_MAX(at, k->at[i].own[n]);
	return at;
}

/* What an earlier read found, and when; its finder may have died meanwhile. */
static uint32_t seen_at(const struct sh_file *f, const struct sh_look *k, uint32_t i)
{
	return memcmp(k->deaths, f->deaths, sizeof(k->deaths)) ? 0 : k->at[i].seen_at;
}

static bool covers(const struct sh_op *o, uint32_t cell)
{
	return cell >= o->first && cell - o->first < o->count;
}

/* Latest end of what may have made the cell zero. */
static uint32_t zero_end(const struct sh_file *f, uint32_t cell)
{
	uint32_t end = 0;
	for (uint32_t k = 1; k < f->nops; k++)
		if (f->op[k].zero && covers(&f->op[k], cell))
			end = TS_MAX(end, f->op[k].end);
	return end;
}

static bool zero_possible(const struct sh_file *f, const struct sh_look *k, uint32_t i)
{
	uint32_t floor = floor_of(f, k, i);
	uint32_t seen = k->at[i].seen == SH_ZERO ? 0 : seen_at(f, k, i);
	if (!floor && !seen)
		return true;
	uint32_t end = zero_end(f, k->first + i);
	return end && end >= floor && end >= seen;
}

/* Number of the operation, SH_ZERO, or 0: bytes that nobody wrote here. */
static uint32_t decode(struct sh_file *f, uint32_t cell, const uint8_t *p)
{
	static const uint8_t zeros[SH_CELL];
	uint64_t w;
	if (!memcmp(p, zeros, SH_CELL))
		return SH_ZERO;
	memcpy(&w, p, 8);
	uint32_t op = (uint32_t)(w >> 40), k = (uint32_t)(w >> 8) & 0xffffff;
	if (!op || op >= f->nops || ((w >> 32) & 0xff) != f->id || f->op[op].zero)
		return 0;
	for (unsigned i = 0; i < SH_CELL / 8; i++) {
		memcpy(&w, p + 8 * i, 8);
		if (w != word(f, op, k, i))
			return 0;
	}
	struct sh_op *o = &f->op[op];
	if (o->append && !o->placed && k < o->count && cell >= k) { /* seen before its writer was told where */
		o->first = cell - k;
		o->placed = true;
	}
	if (covers(o, cell) && cell - o->first == k)
		return op;
	f->wild |= o->append && o->end == SH_OPEN && k;
	return 0;
}

static void bad(struct sh_file *f, const struct sim_life *l, uint32_t cell, const char *what, uint32_t v, uint32_t than)
{
	if (v == SH_ZERO)
		sim_fail(f->s, "n%u shared file %u (inode %llu) offset %llu: zeros, %s (tick %u)", l->node->id, f->id, (unsigned long long)f->ino,
			 (unsigned long long)sh_offset(cell), what, than);
	else
		sim_fail(f->s, "n%u shared file %u (inode %llu) offset %llu: record %u of n%u (ticks %u to %u), %s (tick %u)", l->node->id, f->id,
			 (unsigned long long)f->ino, (unsigned long long)sh_offset(cell), v, f->op[v].life->node->id, f->op[v].begin,
			 f->op[v].end, what, than);
}

static bool cell_check(struct sh_file *f, struct sim_life *l, struct sh_look *k, uint32_t i, uint32_t v)
{
	uint32_t floor = floor_of(f, k, i);
	if (v == SH_ZERO) {
		if (zero_possible(f, k, i))
			return true;
		bad(f, l, k->first + i, "which were overwritten", v, floor);
		return false;
	}
	if (f->op[v].end < floor) {
		bad(f, l, k->first + i, "which was overwritten", v, floor);
		return false;
	}
	if (k->at[i].seen != v && f->op[v].end < seen_at(f, k, i)) {
		bad(f, l, k->first + i, "although another value was read before", v, k->at[i].seen_at);
		return false;
	}
	return true;
}

/* A record that is seen is seen whole: beside it lies nothing that is certainly older. A death may tear. */
static bool record_whole(struct sh_file *f, struct sim_life *l, const struct sh_look *k, const uint32_t *v, uint32_t a)
{
	const struct sh_op *o = &f->op[a];
	uint32_t from = TS_MAX(o->first, k->first), to = TS_MIN(o->first + o->count, k->first + k->count);
	for (uint32_t c = from; !o->lost_data && c < to; c++) {
		uint32_t x = v[c - k->first], end;
		if (x == a)
			continue;
		end = x == SH_ZERO ? zero_end(f, c) : f->op[x].end;
		if (end >= o->begin)
			continue;
		bad(f, l, c, "beside a later record, which is torn", x, o->begin);
		return false;
	}
	return true;
}

/* Two records that overlap: one lies on the other, everywhere. */
static bool records_ordered(struct sh_file *f, struct sim_life *l, const struct sh_look *k, const uint32_t *v, uint32_t a, uint32_t b)
{
	const struct sh_op *x = &f->op[a], *y = &f->op[b];
	uint32_t from = TS_MAX(k->first, TS_MAX(x->first, y->first));
	uint32_t to = TS_MIN(k->first + k->count, TS_MIN(x->first + x->count, y->first + y->count));
	bool has_a = false, has_b = false;
	for (uint32_t c = from; !x->lost_data && !y->lost_data && c < to; c++) {
		has_a |= v[c - k->first] == a;
		has_b |= v[c - k->first] == b;
		if (!has_a || !has_b)
			continue;
		bad(f, l, c, "and a record beside it that overlaps it: both are torn", v[c - k->first], v[c - k->first] == a ? y->begin : x->begin);
		return false;
	}
	return true;
}

#define DISTINCT 48
static bool records_check(struct sh_file *f, struct sim_life *l, const struct sh_look *k, const uint32_t *v)
{
	uint32_t seen[DISTINCT];
	unsigned n = 0;
	for (uint32_t i = 0; i < k->count && n < DISTINCT; i++) {
		bool known = v[i] == SH_ZERO || (i && v[i] == v[i - 1]);
		for (unsigned j = 0; !known && j < n; j++)
			known = seen[j] == v[i];
		if (!known)
			seen[n++] = v[i];
	}
	for (unsigned i = 0; i < n; i++) {
		if (!record_whole(f, l, k, v, seen[i]))
			return false;
		for (unsigned j = 0; j < i; j++)
			if (!records_ordered(f, l, k, v, seen[i], seen[j]))
				return false;
	}
	return true;
}

/* Within a block. A write of several may be seen half done: it lets go where it has to ask for space. */
static void blocks_check(struct sh_file *f, struct sim_life *l, const struct sh_look *k, const uint32_t *v)
{
	struct sh_look part = {.begin = k->begin, .first = k->first};
	for (uint32_t i = 1; i <= k->count; i++) {
		if (i < k->count && sh_offset(k->first + i) / SH_BLOCK == sh_offset(part.first) / SH_BLOCK)
			continue;
		part.count = k->first + i - part.first;
		if (!records_check(f, l, &part, v + (part.first - k->first)))
			return;
		part.first = k->first + i;
	}
}

void sh_read(struct sh_file *f, struct sim_life *l, struct sh_look *k, const uint8_t *got)
{
	static uint32_t v[SH_RUN_MAX];
	sim_say(f->s, "shared file %u: n%u read from tick %u cells %u+%u", f->id, l->node->id, k->begin, k->first, k->count);
	for (uint32_t i = 0; i < k->count; i++) {
		v[i] = decode(f, k->first + i, got + (size_t)i * SH_CELL);
		if (f->wild)
			return;
		if (!v[i]) {
			sim_fail(f->s, "n%u shared file %u (inode %llu) offset %llu: bytes that nobody wrote there: %02x %02x %02x .. %02x", l->node->id,
				 f->id, (unsigned long long)f->ino, (unsigned long long)sh_offset(k->first + i), got[i * SH_CELL],
				 got[i * SH_CELL + 1], got[i * SH_CELL + 2], got[i * SH_CELL + SH_CELL - 1]);
			return;
		}
		if (!cell_check(f, l, k, i, v[i]))
			return;
	}
	blocks_check(f, l, k, v);
	for (uint32_t i = 0; i < k->count; i++) {
		struct sh_cell *c = &f->cell[k->first + i];
		if (k->begin > c->seen_at) {
			c->seen = v[i];
			c->seen_at = k->begin;
		}
		if (v[i] != SH_ZERO && f->op[v[i]].life != l)
			stay(c, &f->op[v[i]]);
		handed_over(f, c, l, k->begin);
	}
}

void sh_holes(struct sh_file *f, struct sim_life *l, struct sh_look *k, uint64_t from, uint64_t to)
{
	for (uint32_t i = 0; i < k->count && !f->wild; i++) {
		uint64_t at = sh_offset(k->first + i);
		if (at < from || at + SH_CELL > to || zero_possible(f, k, i))
			continue;
		sim_fail(f->s, "n%u shared file %u (inode %llu): offset %llu is told to be a hole, data was written there", l->node->id, f->id,
			 (unsigned long long)f->ino, (unsigned long long)at);
		return;
	}
}

/* ---- size and times ----------------------------------------------------------------------------------------------------- */

/* May a truncate that ran at the same time or later have cut what the operation reached? sure: it has, before `since`. */
static bool cut(const struct sh_file *f, const struct sh_op *o, bool sure, uint32_t since)
{
	for (uint32_t k = 0; k < f->nops; k++) {
		const struct sh_op *t = &f->op[k];
		if (!t->cuts || t == o || t->size >= o->size)
			continue;
		if (sure ? !t->lost_size && t->begin > o->end && t->end < since : t->end > o->begin)
			return true;
	}
	return false;
}

static void size_bounds(const struct sh_file *f, uint32_t since, const struct sh_op *but, uint64_t *least, uint64_t *most, uint64_t *unplaced)
{
	*least = *most = *unplaced = 0;
	for (uint32_t k = 0; k < f->nops; k++) {
		const struct sh_op *o = &f->op[k];
		if (o == but)
			continue;
		if (o->append && !o->size) { /* where is not known, or never will be */
			if (!cut(f, &(struct sh_op){.size = UINT64_MAX, .end = o->end}, true, since))
				*unplaced += (uint64_t)o->count * SH_CELL;
			continue;
		}
		if (o->end < since && !o->lost_size && o->size > *least && !cut(f, o, false, 0))
			*least = o->size;
		if (o->size > *most && !cut(f, o, true, since))
			*most = o->size;
	}
	*most += *unplaced;
}

/* Two records at one place: a truncate lay between them, or may have. */
static void append_apart(struct sh_file *f, struct sim_life *l, uint32_t a, uint32_t b)
{
	const struct sh_op *x = &f->op[a], *y = &f->op[b];
	if (!y->append || a == b || y->end == SH_OPEN || y->lost_size || !x->count || !y->count)
		return;
	if (x->first >= y->first + y->count || y->first >= x->first + x->count)
		return;
	for (uint32_t k = 0; k < f->nops; k++)
		if (f->op[k].cuts && f->op[k].begin < TS_MAX(x->end, y->end) && f->op[k].end > TS_MIN(x->begin, y->begin))
			return;
	sim_fail(f->s, "n%u shared file %u (inode %llu): appended record %u lies on appended record %u of n%u, cell %u", l->node->id, f->id,
		 (unsigned long long)f->ino, a, b, y->life->node->id, x->first);
}

void sh_appended(struct sh_file *f, struct sim_life *l, uint32_t op, uint64_t at)
{
	uint64_t least, most, unplaced;
	if (f->wild)
		return;
	size_bounds(f, f->op[op].begin, &f->op[op], &least, &most, &unplaced);
	if (at < least || at > most)
		sim_fail(f->s, "n%u shared file %u (inode %llu): appended at %llu, between %llu and %llu were possible", l->node->id, f->id,
			 (unsigned long long)f->ino, (unsigned long long)at, (unsigned long long)least, (unsigned long long)most);
	for (uint32_t k = 1; k < f->nops; k++)
		append_apart(f, l, op, k);
}

uint64_t sh_size_most(struct sh_file *f)
{
	uint64_t least, most, unplaced;
	size_bounds(f, f->s->shared_ticks, NULL, &least, &most, &unplaced);
	return most;
}

static bool size_ever(const struct sh_file *f, uint64_t size)
{
	for (uint32_t k = 0; k < f->nops; k++)
		if (f->op[k].size == size)
			return true;
	return false;
}

static void times_check(struct sh_file *f, struct sim_life *l, uint32_t since, int64_t t, const char *what)
{
	int64_t least = 0;
	for (uint32_t k = 1; k < f->nops; k++)
		if (f->op[k].end < since && !f->op[k].lost_times)
			least = TS_MAX(least, (int64_t)f->op[k].wall);
	if (t < least || t > (int64_t)wall(f))
		sim_fail(f->s, "n%u shared file %u (inode %llu): %s is %.3f ms after that of the last completed change, now is %.3f ms after it",
			 l->node->id, f->id, (unsigned long long)f->ino, what, (double)(t - least) / 1e6, (double)((int64_t)wall(f) - least) / 1e6);
}

/* Nothing was under way: from here on the size is this one, whatever was open before. */
static void size_settle(struct sh_file *f, struct sim_life *l, uint64_t size)
{
	for (uint32_t k = 0; k < f->nops; k++)
		if (!f->op[k].lost_size && !f->op[k].stable_size)
			return; /* a living node has it in memory only */
	uint32_t op = sh_begin(f, l, &(struct sh_op){.cuts = true, .size = size, .stable_data = true, .stable_size = true, .stable_times = true});
	f->op[op].wall = 0;
	f->op[op].end = sh_tick(f);
	f->fuzzy = false;
}

void sh_stat(struct sh_file *f, struct sim_life *l, uint32_t since, bool quiet, uint64_t size, int64_t mtime, int64_t ctime)
{
	uint64_t least, most, unplaced;
	if (f->wild)
		return;
	size_bounds(f, since, NULL, &least, &most, &unplaced);
	if (size < least || size > most || (quiet && !f->fuzzy && !unplaced && !size_ever(f, size)))
		sim_fail(f->s, "n%u shared file %u (inode %llu): size %llu, between %llu and %llu are possible", l->node->id, f->id,
			 (unsigned long long)f->ino, (unsigned long long)size, (unsigned long long)least, (unsigned long long)most);
	times_check(f, l, since, mtime, "mtime");
	times_check(f, l, since, ctime, "ctime");
	for (uint32_t k = 1; SH_SEEN_SIZE_IS_CERTAIN && k < f->nops; k++)
		if (f->op[k].life != l && f->op[k].end < since && !f->op[k].lost_size)
			f->op[k].stable_size = f->op[k].stable_times = true;
	if (quiet && f->fuzzy && !f->s->failed)
		size_settle(f, l, size);
}
