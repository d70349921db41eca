/* SPDX-License-Identifier: Apache-2.0 */
/* Job: bit arithmetic of allocation: where in a chunk the next extent goes. Whole units (a data block, a segment) are
 * aligned; smaller extents fill partly used units first, then break the last free unit, so that whole ones stay whole.
 * What must never happen: a bit outside [0, nsubs) or a bit that is set is given out. */
#include "fs/alloc_int.h"

static uint64_t mask(uint32_t from, uint32_t n) /* within one word: from + n <= 64, n > 0 */
{
	return (n == 64 ? ~0ULL : (1ULL << n) - 1) << from;
}

/* Visits the words of a range; stops when fn returns true. */
#define FOR_WORDS(i, m, from, n)                                                                                       \
	for (uint32_t i = (from) / 64, _p = (from), _e = (from) + (n), _k; _p < _e; _p += _k, i++)                     \
		for (uint64_t m = (_k = TS_MIN(64 - _p % 64, _e - _p), mask(_p % 64, _k)); m; m = 0)

bool fs_bits_any(const uint64_t *w, uint32_t from, uint32_t n)
{
	FOR_WORDS(i, m, from, n)
	{
		if (w[i] & m)
			return true;
	}
	return false;
}

bool fs_bits_all(const uint64_t *w, uint32_t from, uint32_t n)
{
	FOR_WORDS(i, m, from, n)
	{
		if ((w[i] & m) != m)
			return false;
	}
	return true;
}

void fs_bits_set(uint64_t *w, uint32_t from, uint32_t n)
{
	FOR_WORDS(i, m, from, n)
	w[i] |= m;
}

void fs_bits_clear(uint64_t *w, uint32_t from, uint32_t n)
{
	FOR_WORDS(i, m, from, n)
	w[i] &= ~m;
}

uint32_t fs_bits_count(const uint64_t *w, uint32_t from, uint32_t n)
{
	uint32_t c = 0;

	FOR_WORDS(i, m, from, n)
	c += (uint32_t)__builtin_popcountll(w[i] & m);
	return c;
}

/* First bit of value v in [from, end), else end. */
static uint32_t next_bit(const uint64_t *w, uint32_t from, uint32_t end, bool v)
{
	while (from < end) {
		uint64_t x = (v ? w[from / 64] : ~w[from / 64]) >> (from % 64);

		if (x) {
			from += (uint32_t)__builtin_ctzll(x);
			return TS_MIN(from, end);
		}
		from = (from / 64 + 1) * 64;
	}
	return end;
}

uint32_t fs_bits_run(const uint64_t *w, uint32_t from, uint32_t end, uint32_t need)
{
	while (from < end && end - from >= need) {
		uint32_t stop;

		from = next_bit(w, from, end, false);
		if (end - from < need)
			break;
		stop = next_bit(w, from, from + need, true);
		if (stop == from + need)
			return from;
		from = stop + 1;
	}
	return FS_NO_SUB;
}

bool fs_dbits_all(const uint8_t *bits, uint32_t from, uint32_t n)
{
	for (uint32_t i = from; i < from + n; i++) {
		if (!(bits[i / 8] >> (i % 8) & 1))
			return false;
	}
	return true;
}

void fs_dbits_set(uint8_t *bits, uint32_t from, uint32_t n, bool to)
{
	for (uint32_t i = from; i < from + n;) {
		if (i % 8 == 0 && from + n - i >= 8) {
			bits[i / 8] = to ? 0xff : 0;
			i += 8;
			continue;
		}
		if (to)
			bits[i / 8] |= (uint8_t)(1u << (i % 8));
		else
			bits[i / 8] &= (uint8_t)~(1u << (i % 8));
		i++;
	}
}

void fs_chunk_reset(struct fs_chunk *c, uint32_t unit)
{
	c->no_unit = false;
	c->run_max = unit;
}

static uint32_t unit_end(const struct fs_chunk *c, uint32_t unit, uint32_t u)
{
	return TS_MIN((u + 1) * unit, c->nsubs);
}

static bool unit_free(const struct fs_chunk *c, uint32_t unit, uint32_t u)
{
	return !fs_bits_any(c->shadow, u * unit, unit_end(c, unit, u) - u * unit);
}

static uint32_t find_whole(struct fs_chunk *c, uint32_t unit, uint32_t near)
{
	uint32_t n = c->nsubs / unit;

	if (c->no_unit || !n)
		return FS_NO_SUB;
	if (near != FS_NO_SUB && near / unit + 1 < n && unit_free(c, unit, near / unit + 1))
		return (near / unit + 1) * unit;
	for (uint32_t k = 0; k < n; k++) {
		uint32_t u = (c->cursor + k) % n;

		if (unit_free(c, unit, u)) {
			c->cursor = u;
			return u * unit;
		}
	}
	c->no_unit = true;
	return FS_NO_SUB;
}

/* In a unit that is partly used. */
static uint32_t find_in(const struct fs_chunk *c, uint32_t unit, uint32_t u, uint32_t subs)
{
	if (unit_free(c, unit, u))
		return FS_NO_SUB;
	return fs_bits_run(c->shadow, u * unit, unit_end(c, unit, u), subs);
}

static uint32_t find_partial(struct fs_chunk *c, uint32_t unit, uint32_t subs, uint32_t near)
{
	uint32_t n = (c->nsubs + unit - 1) / unit, off;

	if (subs <= c->run_max) {
		if (near != FS_NO_SUB && (off = find_in(c, unit, near / unit, subs)) != FS_NO_SUB)
			return off;
		if (c->partial < n && (off = find_in(c, unit, c->partial, subs)) != FS_NO_SUB)
			return off;
		for (uint32_t u = n; u-- > 0;) {
			off = find_in(c, unit, u, subs);
			if (off != FS_NO_SUB) {
				c->partial = u;
				return off;
			}
		}
		c->run_max = subs - 1;
	}
	for (uint32_t u = n; u-- > 0;) {
		if (unit_end(c, unit, u) - u * unit >= subs && unit_free(c, unit, u)) {
			c->partial = u;
			c->run_max = unit;
			return u * unit;
		}
	}
	return FS_NO_SUB;
}

uint32_t fs_chunk_find(struct fs_chunk *c, uint32_t unit, uint32_t subs, uint32_t near)
{
	TS_ASSERT(subs && subs <= unit);
	if (c->free < subs)
		return FS_NO_SUB;
	if (near != FS_NO_SUB && near >= c->nsubs)
		near = FS_NO_SUB;
	return subs == unit ? find_whole(c, unit, near) : find_partial(c, unit, subs, near);
}
