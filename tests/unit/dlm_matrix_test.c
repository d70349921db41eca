/* SPDX-License-Identifier: Apache-2.0 */
/* Every cell of the mode tables, and what the engine does for every pair (held elsewhere, wanted here) and
 * every pair (held here, wanted here). Malformed messages are refused. */
#include "dlm_sim.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* What a mode lets its holder do: read alone-proof, change by commuting, change anything. */
enum { READ = 1, COMMUTE = 2, CHANGE = 4 };
static const unsigned rights[DLM_MODES] = {
	[DLM_SH] = READ, [DLM_SW] = COMMUTE, [DLM_EX] = READ | COMMUTE | CHANGE};
/* Reading clashes with any change; a commuting change with reading and with anything but its like. */
static bool may_coexist(unsigned a, unsigned b)
{
	if ((a | b) & CHANGE)
		return !a || !b;
	return !((a & READ && b & COMMUTE) || (a & COMMUTE && b & READ));
}

static void every_cell(void **state)
{
	for (unsigned a = 0; a < DLM_MODES; a++)
		for (unsigned b = 0; b < DLM_MODES; b++) {
			assert_int_equal(dlm_compatible(a, b), may_coexist(rights[a], rights[b]));
			assert_int_equal(dlm_covers(a, b), (rights[a] & rights[b]) == rights[b]);
			unsigned both = rights[dlm_join(a, b)];
			assert_int_equal(both & (rights[a] | rights[b]), rights[a] | rights[b]);
			assert_int_equal(rights[dlm_meet(a, b)], rights[a] & rights[b]);
			for (unsigned c = 0; c < DLM_MODES; c++) /* least and greatest */
				if (dlm_covers(c, a) && dlm_covers(c, b))
					assert_true(dlm_covers(c, dlm_join(a, b)));
			assert_true(dlm_compatible(dlm_beside(a), a));
			if (dlm_compatible(b, a))
				assert_true(dlm_covers(dlm_beside(a), b));
		}
}

static void deliver_all(struct sim *s)
{
	for (bool more = true; more;) {
		more = false;
		for (unsigned a = 1; a <= s->n; a++) {
			if (sim_can_view(&s->node[a]))
				sim_do_view(&s->node[a]), more = true;
			if (sim_can_revoke(&s->node[a], 0))
				sim_do_revoke(&s->node[a], 0), more = true;
			for (unsigned b = 1; b <= s->n; b++)
				for (unsigned l = 0; l < NET_LANES; l++)
					while (!ts_list_empty(&s->q[a][b][l]))
						sim_deliver(s, a, b, l), more = true;
		}
		assert_true(sim_lawful(s, 0));
	}
}

static enum dlm_mode mode_of(struct sim *s, unsigned node)
{
	struct sim_key *k = &s->node[node].keys[0];
	return k->known && k->res.held.n ? k->res.held.v[0].mode : DLM_NL;
}

static void engine_pairs(void **state)
{
	for (unsigned id = 1; id < 4; id++) /* another master */
		for (unsigned a = 1; a < DLM_MODES; a++)
			for (unsigned b = 1; b < DLM_MODES; b++)
				for (unsigned same = 0; same < 2; same++) {
					struct sim *s = ts_xalloc(sizeof *s);
					const struct dlm_key key = {id, KIND_HASH};
					unsigned second = same ? 1 : 2;
					sim_init(s, 3, &key, 1);
					deliver_all(s);
					assert_true(sim_request(&s->node[1], 0, a, 0, DLM_END, true, 0) >= 0);
					deliver_all(s);
					assert_true(sim_request(&s->node[second], 0, b, 0, DLM_END, true,
								0) >= 0);
					deliver_all(s);
					if (same) {
						assert_int_equal(mode_of(s, 1), dlm_join(a, b));
					} else {
						assert_int_equal(mode_of(s, 2), b);
						assert_int_equal(mode_of(s, 1), dlm_meet(a, dlm_beside(b)));
					}
					sim_fini(s);
					ts_free(s);
				}
}

static void malformed_is_refused(void **state)
{
	struct sim *s = ts_xalloc(sizeof *s);
	const struct dlm_key key = {1, KIND_HASH};
	uint8_t bytes[512];
	uint64_t r = 99;
	sim_init(s, 2, &key, 1);
	deliver_all(s);
	ts_log_level_set(0);
	for (unsigned i = 0; i < 20000; i++) {
		for (unsigned j = 0; j < sizeof bytes; j++)
			bytes[j] = (uint8_t)((r = ts_hash_u64(r + j)) & (i & 1 ? 0xff : 0x03));
		bytes[0] = i % 7 ? 1 : 2; /* mostly the right version */
		bytes[1] = 0;
		uint16_t type = (uint16_t)(0xfe + r % 14);
		if (type == DLM_DONE || type == DLM_REPORT || type == DLM_OWN)
			continue; /* authenticated peers that lie there stop the node by design */
		dlm_message(s->node[1].d, 2, type, dlm_epoch(s->node[1].d), bytes,
			    (uint32_t)(r % sizeof bytes));
	}
	sim_fini(s);
	ts_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_cell),
		cmocka_unit_test(engine_pairs),
		cmocka_unit_test(malformed_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
