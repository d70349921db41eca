/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what spin.h promises.
 *
 *   sleeping --need short sleeps in a row--> looking (hit: need / 2) --miss: need * 2--> sleeping
 *
 * Must never happen: processor time spent on looking without bound: of TS_SPIN_NS wasted, at least `need` sleeps lie before the next. */
#include "lib/spin.h"

static uint32_t need_of(const struct ts_spin *s)
{
	return TS_MAX(s->need, TS_SPIN_NEED_MIN);
}

bool ts_spin_worth(const struct ts_spin *s)
{
	return !s->never && s->shorts >= need_of(s);
}

void ts_spin_hit(struct ts_spin *s)
{
	s->need = need_of(s) / 2;
}

void ts_spin_miss(struct ts_spin *s)
{
	s->need = TS_MIN(need_of(s) * 2, TS_SPIN_NEED_MAX);
	s->shorts = 0;
}

void ts_spin_slept(struct ts_spin *s, uint64_t ns)
{
	if (ns > TS_SPIN_SHORT_NS)
		s->shorts = 0;
	else if (s->shorts < TS_SPIN_NEED_MAX)
		s->shorts++;
}
