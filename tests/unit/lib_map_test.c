/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the map against a plain array, with colliding hashes and failing allocations; the list's few words. */
#include "lib/lib.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define N 2000
struct item {
	struct ts_map_node node;
	uint64_t key;
	bool in;
};
static struct item items[N];

static uint64_t hash_of(uint64_t key)
{
	return ts_hash_u64(key / 3); /* three keys share each hash */
}

static struct item *find(struct ts_map *m, uint64_t key)
{
	for (struct ts_map_node *n = ts_map_first(m, hash_of(key)); n; n = ts_map_next(n)) {
		struct item *it = TS_CONTAINER(n, struct item, node);

		if (it->key == key)
			return it;
	}
	return NULL;
}

static int remove_odd(struct ts_map_node *n, void *arg)
{
	struct item *it = TS_CONTAINER(n, struct item, node);

	if (it->key & 1) {
		ts_map_remove(arg, n);
		it->in = false;
	}
	return 0;
}
static int stop_at_first(struct ts_map_node *n, void *arg)
{
	++*(int *)arg;
	return 17;
}

static void random_operations(void **state)
{
	struct ts_map m;
	uint64_t seed = 1;
	size_t count = 0;
	int visits = 0;

	ts_map_init(&m);
	assert_null(ts_map_first(&m, 5));
	for (uint64_t i = 0; i < N; i++)
		items[i] = (struct item){.key = i};
	for (int step = 0; step < 100000; step++) {
		struct item *it;

		seed = ts_hash_u64(seed + 1);
		it = &items[seed % N];
		if (step % 7 == 0)
			ts_alloc_fail_nth(1); /* growing fails: must not be noticed */
		assert_ptr_equal(find(&m, it->key), it->in ? it : NULL);
		if (it->in)
			ts_map_remove(&m, &it->node);
		else if (ts_map_insert(&m, &it->node, hash_of(it->key)) == -ENOMEM) {
			assert_int_equal(m.nbuckets, 0);
			continue;
		}
		count += it->in ? (size_t)-1 : 1;
		it->in = !it->in;
		assert_int_equal(m.count, count);
	}
	ts_alloc_fail_nth(0);
	assert_int_equal(ts_map_each(&m, stop_at_first, &visits), 17);
	assert_int_equal(visits, 1);
	ts_map_each(&m, remove_odd, &m);
	for (uint64_t i = 0; i < N; i++)
		assert_ptr_equal(find(&m, i), items[i].in ? &items[i] : NULL);
	for (uint64_t i = 1; i < N; i += 2)
		assert_false(items[i].in);
	ts_map_fini(&m);
}

static void first_insert_may_fail(void **state)
{
	struct ts_map m;
	struct item it = {0};

	ts_map_init(&m);
	ts_alloc_fail_nth(1);
	assert_int_equal(ts_map_insert(&m, &it.node, 1), -ENOMEM);
	assert_int_equal(ts_map_insert(&m, &it.node, 1), 0);
	ts_map_fini(&m);
}

static void list_words(void **state)
{
	struct ts_list head = TS_LIST_INIT(head), a, b, c;
	int n = 0;

	assert_null(ts_list_pop_front(&head));
	ts_list_push_back(&head, &b);
	ts_list_push_front(&head, &a);
	ts_list_push_back(&head, &c);
	ts_list_for_safe(pos, tmp, &head) {
		n++;
		if (pos == &b)
			ts_list_del(pos);
	}
	assert_int_equal(n, 3);
	ts_list_del(&b); /* unlinked already: harmless */
	assert_ptr_equal(ts_list_pop_front(&head), &a);
	assert_ptr_equal(ts_list_pop_front(&head), &c);
	assert_true(ts_list_empty(&head));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_operations),
		cmocka_unit_test(first_insert_may_fail),
		cmocka_unit_test(list_words),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
