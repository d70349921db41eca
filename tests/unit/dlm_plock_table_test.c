/* SPDX-License-Identifier: Apache-2.0 */
/* The table of an inode's locks against a model that keeps one number for every (owner, byte): splits,
 * merges, upgrades, downgrades, unlocks in the middle, conflicts; no memory at any allocation leaves it as it
 * was. Argument: [seed]. */
#include "dlm/plock_int.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#define BYTES	24
#define OWNERS	4
#define HANDLES 3

static uint64_t rng_state = 1;
static uint64_t rnd(uint64_t n)
{
	rng_state = rng_state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (ts_hash_u64(rng_state) >> 11) % n;
}

struct model {
	struct {
		uint8_t type, handle;
	} b[OWNERS][PLOCK_SPACES][BYTES];
};
/* The last byte of the model is all the rest of the file. */
static struct plock_piece piece_of(unsigned owner, unsigned space, unsigned start, unsigned end)
{
	return (struct plock_piece){.owner = owner / 2,
				    .node = (uint16_t)(owner % 2 + 1),
				    .space = (uint8_t)space,
				    .pid = owner + 100,
				    .start = start,
				    .end = end == BYTES - 1 ? PLOCK_END : end};
}
static unsigned last_byte(uint64_t end)
{
	return end >= BYTES - 1 ? BYTES - 1 : (unsigned)end;
}
static unsigned owner_of(const struct plock_piece *p)
{
	return (unsigned)p->owner * 2 + p->node - 1;
}

static int64_t pieces_counted;
static void counted(void *arg, const struct plock_piece *p, int by)
{
	pieces_counted += by;
}

static void check_same(const struct plock_table *t, const struct model *m)
{
	struct model got = {0};
	for (uint32_t i = 0; i < t->n; i++) {
		const struct plock_piece *p = &t->v[i];
		for (unsigned b = (unsigned)p->start; b <= last_byte(p->end); b++) {
			assert_int_equal(got.b[owner_of(p)][p->space][b].type, 0); /* no overlap */
			got.b[owner_of(p)][p->space][b].type = p->type;
			got.b[owner_of(p)][p->space][b].handle = (uint8_t)p->handle;
		}
		if (i && plock_same_owner(&p[-1], p)) {
			assert_true(p[-1].end < p->start);
			assert_false(p[-1].end + 1 == p->start && p[-1].type == p->type &&
				     p[-1].handle == p->handle);
		}
	}
	assert_memory_equal(&got, m, sizeof got);
	assert_int_equal(pieces_counted, t->n);
}

static void model_set(struct model *m, const struct plock_piece *p, bool raise)
{
	for (unsigned b = (unsigned)p->start; b <= last_byte(p->end); b++) {
		uint8_t *type = &m->b[owner_of(p)][p->space][b].type,
			*handle = &m->b[owner_of(p)][p->space][b].handle;
		if (raise ? *type <= p->type : *type && p->handle)
			*handle = (uint8_t)p->handle;
		*type = raise ? TS_MAX(*type, p->type) : TS_MIN(*type, p->type);
		if (!*type)
			*handle = 0;
	}
}

static void check_looks(const struct plock_table *t, const struct model *m, const struct plock_piece *p)
{
	struct plock_piece first;
	unsigned best = PLOCK_UN, at = BYTES, who = 0;
	for (unsigned b = 0; b <= last_byte(p->end); b++)
		if (b >= p->start)
			best = TS_MAX(best, m->b[owner_of(p)][p->space][b].type);
	assert_int_equal(plock_table_held(t, p), best);
	for (unsigned b = (unsigned)p->start; b <= last_byte(p->end) && at == BYTES; b++)
		for (unsigned o = 0; o < OWNERS; o++) {
			unsigned type = m->b[o][p->space][b].type;
			if (o != owner_of(p) && type && (type == PLOCK_WR || p->type == PLOCK_WR))
				at = b, who++;
		}
	assert_int_equal(plock_table_clash(t, p, 0) < t->n, at < BYTES);
	assert_int_equal(plock_table_first_clash(t, p, &first), at < BYTES);
	if (at == BYTES)
		return;
	assert_true(first.start <= TS_MAX(at, p->start) && first.end >= p->start && first.end >= at);
	/* as long as it can be: the bytes beside it are of another type */
	if (first.start)
		assert_int_not_equal(m->b[owner_of(&first)][p->space][first.start - 1].type, first.type);
	if (first.end < BYTES - 1)
		assert_int_not_equal(m->b[owner_of(&first)][p->space][first.end + 1].type, first.type);
}

static void against_bytes(void **state)
{
	for (unsigned walk = 0; walk < 300; walk++) {
		struct plock_table t = {.counted = counted};
		struct model m = {0};
		pieces_counted = 0;
		for (unsigned i = 0; i < 300; i++) {
			unsigned a = (unsigned)rnd(BYTES), b = (unsigned)rnd(BYTES);
			struct plock_piece p = piece_of((unsigned)rnd(OWNERS), (unsigned)rnd(PLOCK_SPACES),
							TS_MIN(a, b), TS_MAX(a, b));
			bool raise = rnd(2);
			p.type = (uint8_t)(raise ? 1 + rnd(2) : rnd(2));
			p.handle = raise ? 1 + rnd(HANDLES) : rnd(2) ? 0 : 1 + rnd(HANDLES);
			if (rnd(10) == 0) {
				ts_alloc_fail_nth(1);
				int rc = plock_table_set(&t, &p, raise);
				ts_alloc_fail_nth(0);
				if (!rc)
					model_set(&m, &p, raise);
			} else {
				assert_int_equal(plock_table_set(&t, &p, raise), 0);
				model_set(&m, &p, raise);
			}
			check_same(&t, &m);
			p.type = (uint8_t)(1 + rnd(2));
			check_looks(&t, &m, &p);
		}
		plock_table_fini(&t);
		assert_int_equal(pieces_counted, 0);
	}
}

/* The end of the file is no special place, and neither is its beginning. */
static void edges(void **state)
{
	struct plock_table t = {0};
	struct plock_piece p = {.owner = 1, .node = 1, .type = PLOCK_WR, .start = 0, .end = PLOCK_END};
	assert_int_equal(plock_table_set(&t, &p, true), 0);
	assert_int_equal(plock_table_set(&t, &p, true), 0);
	assert_int_equal(t.n, 1);
	p.type = PLOCK_UN;
	p.start = p.end = 7;
	assert_int_equal(plock_table_set(&t, &p, false), 0);
	assert_int_equal(t.n, 2);
	p.type = PLOCK_WR;
	assert_int_equal(plock_table_set(&t, &p, true), 0);
	assert_int_equal(t.n, 1);
	p.type = PLOCK_RD;
	p.start = p.end = PLOCK_END;
	assert_int_equal(plock_table_set(&t, &p, false), 0);
	assert_int_equal(t.n, 2);
	assert_int_equal(t.v[0].end, PLOCK_END - 1);
	plock_table_fini(&t);
}

/* A waiter that holds nothing keeps its place; who holds something may pass it. */
static void queue_is_fair(void **state)
{
	struct plock_auth a;
	plock_auth_init(&a);
	struct plock_want reader = {.p = {.owner = 1, .node = 1, .type = PLOCK_RD, .end = 9}};
	struct plock_want writer = {.p = {.owner = 2, .node = 1, .type = PLOCK_WR, .end = 9}};
	struct plock_want late = {.p = {.owner = 3, .node = 2, .type = PLOCK_RD, .end = 9}};
	int rc;
	assert_int_equal(plock_auth_try(&a, &reader), 0);
	assert_int_equal(plock_auth_try(&a, &writer), -EAGAIN);
	ts_list_push_back(&a.waiters, &writer.link);
	assert_int_equal(plock_auth_try(&a, &late), -EAGAIN);
	ts_list_push_back(&a.waiters, &late.link);
	assert_null(plock_auth_next(&a, &rc));
	reader.p.type = PLOCK_UN;
	assert_int_equal(plock_table_set(&a.t, &reader.p, false), 0);
	assert_ptr_equal(plock_auth_next(&a, &rc), &writer);
	assert_null(plock_auth_next(&a, &rc));
	writer.p.type = PLOCK_RD;
	assert_int_equal(plock_table_set(&a.t, &writer.p, false), 0);
	assert_ptr_equal(plock_auth_next(&a, &rc), &late);
	struct plock_want more = {.p = {.owner = 2, .node = 1, .type = PLOCK_WR, .end = 9}};
	struct plock_want again = {.p = {.owner = 3, .node = 2, .type = PLOCK_RD, .start = 5, .end = 20}};
	ts_list_push_back(&a.waiters, &more.link);
	assert_int_equal(plock_auth_try(&a, &again), 0); /* else they waited for each other */
	plock_table_fini(&a.t);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(against_bytes), cmocka_unit_test(edges),
					   cmocka_unit_test(queue_is_fair)};
	rng_state = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
