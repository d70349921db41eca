/* SPDX-License-Identifier: Apache-2.0 */
/* The list of conditions and the ring of events: each condition says what it means and what to do; raised once, since its first time,
 * cleared when it is not seen; both are bounded; what is told is UTF-8. Histograms of times. */
#include "admin/daemon.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

static struct {
	struct daemon d;
	uint64_t now;
	unsigned hooked;
} w;

static uint64_t now_ns(void *arg) { return w.now; }
static uint64_t wall_ns(void *arg) { return w.now + 1000 * TS_NS_PER_S; }
static uint64_t rnd(void *arg) { return 4; }
static const struct ts_env_ops ops = {now_ns, wall_ns, rnd};

static int up(void **state)
{
	const struct ts_env env = {.ops = &ops};
	memset(&w, 0, sizeof(w));
	w.now = 5 * TS_NS_PER_S;
	w.d.exec = ts_exec_new(&env);
	w.d.events = ts_alloc(sizeof(*w.d.events));
	ts_cond_init(&w.d.events->more);
	return !w.d.exec || !w.d.events;
}

static int down(void **state)
{
	ts_exec_free(w.d.exec);
	ts_free(w.d.events);
	return 0;
}

static void table(void **state)
{
	for (unsigned i = 0; i < HC_COUNT; i++) {
		assert_non_null(conditions[i].name);
		assert_true(strlen(conditions[i].meaning) > 10 && strlen(conditions[i].todo) > 6);
		assert_true(conditions[i].severity < SEV_COUNT);
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(conditions[i].name, conditions[k].name);
	}
	for (unsigned i = 0; i < EV_COUNT; i++) {
		assert_non_null(event_kinds[i].name);
		assert_true(strlen(event_kinds[i].meaning) > 10);
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(event_kinds[i].name, event_kinds[k].name);
	}
}

/* Every condition goes through its life. */
static void raised_and_cleared(void **state)
{
	struct health *h = &w.d.health;
	bool any;
	for (unsigned i = 0; i < HC_COUNT; i++) {
		uint64_t begun = w.now, last = w.d.events->last;
		for (unsigned k = 0; k < 3; k++) {
			health_begin(h);
			health_found(h, &w.d, (enum condition_id)i, "an object", "look %u", k);
			health_end(h, &w.d);
			w.now += TS_NS_PER_S;
		}
		assert_int_equal(h->nrows, 1);
		assert_int_equal(h->rows[0].id, i);
		assert_true(h->rows[0].since_ns == begun);
		assert_string_equal(h->rows[0].detail, "look 2");
		assert_int_equal(w.d.events->last, last + 1); /* raised once */
		const struct event *e = &w.d.events->ring[last % EVENTS_MAX];
		assert_int_equal(e->id, EV_HEALTH_RAISED);
		assert_int_equal(e->severity, conditions[i].severity);
		assert_int_equal(health_worst(h, &any), conditions[i].severity);
		assert_int_equal(any, conditions[i].severity > SEV_INFO);
		health_begin(h);
		health_end(h, &w.d);
		assert_int_equal(h->nrows, 0);
		assert_int_equal(w.d.events->ring[(last + 1) % EVENTS_MAX].id, EV_HEALTH_CLEARED);
		assert_int_equal(health_worst(h, &any), SEV_INFO);
		assert_false(any);
	}
}

static void several_objects(void **state)
{
	struct health *h = &w.d.health;
	char object[160];
	bool any;
	health_begin(h);
	for (unsigned i = 0; i < HEALTH_MAX + 10; i++) {
		snprintf(object, sizeof(object), "disk %u", i);
		health_found(h, &w.d, HC_DISK_SLOW, object, "x");
	}
	health_found(h, &w.d, HC_DISK_SLOW, "disk 3", "again"); /* there already: not one more */
	health_end(h, &w.d);
	assert_int_equal(h->nrows, HEALTH_MAX);
	assert_int_equal(h->left_out, 10);
	health_begin(h);
	health_found(h, &w.d, HC_DISK_SLOW, "disk 7", "x");
	health_found(h, &w.d, HC_DISK_ERRORS, "disk 7", "x");
	health_end(h, &w.d);
	assert_int_equal(h->nrows, 2);
	assert_string_equal(h->rows[0].object, "disk 7");
	assert_int_equal(health_worst(h, &any), SEV_ERROR);
	memset(object, 'y', sizeof(object) - 1); /* longer than there is room: still one row */
	object[sizeof(object) - 1] = 0;
	for (unsigned i = 0; i < 2; i++) {
		health_begin(h);
		health_found(h, &w.d, HC_DISK_SLOW, object, "x");
		health_end(h, &w.d);
	}
	assert_int_equal(h->nrows, 1);
}

static void hook(void *arg, const struct event *e)
{
	w.hooked++;
	assert_int_equal(e->seq, w.hooked);
}

static void ring(void **state)
{
	w.d.events->hook = hook;
	for (unsigned i = 0; i < EVENTS_MAX + 100; i++)
		event_post(&w.d, EV_NODE_JOINED, "x\xff", "number %u \xc3", i + 1);
	assert_int_equal(w.hooked, EVENTS_MAX + 100);
	json_t *o = events_json(&w.d, 0, 5, 0), *list = json_object_get(o, "events");
	assert_int_equal(json_array_size(list), 5);
	assert_string_equal(json_string_value(json_object_get(json_array_get(list, 4), "text")), "number 1124 ?");
	assert_string_equal(json_string_value(json_object_get(json_array_get(list, 4), "object")), "x?");
	assert_int_equal(json_integer_value(json_object_get(o, "last")), EVENTS_MAX + 100);
	json_decref(o);
	o = events_json(&w.d, 50, 10000, 0); /* 50 were overwritten since */
	assert_int_equal(json_integer_value(json_object_get(o, "lost")), 50);
	assert_int_equal(json_array_size(json_object_get(o, "events")), EVENTS_MAX);
	json_decref(o);
	o = events_json(&w.d, EVENTS_MAX + 100, 10, 0);
	assert_int_equal(json_array_size(json_object_get(o, "events")), 0);
	json_decref(o);
	o = events_json(&w.d, UINT64_MAX, 10, 0); /* from the future */
	assert_int_equal(json_array_size(json_object_get(o, "events")), 0);
	json_decref(o);
	struct daemon none = {.exec = w.d.exec};
	event_post(&none, EV_STARTED, "x", "nobody listens");
}

static void histogram(void **state)
{
	struct ts_hist h = {0}, old;
	static const struct {
		uint64_t ns;
		unsigned bucket;
	} rows[] = {{0, 0}, {1, 0}, {1000, 0}, {1001, 1}, {2000, 1}, {2001, 2}, {4000, 2}, {1000000, 10}, {16777216000, 24}, {16777216001, 25}, {UINT64_MAX / 2, 25}};
	for (size_t i = 0; i < TS_ARRAY_LEN(rows); i++)
		assert_int_equal(ts_hist_index(rows[i].ns), rows[i].bucket);
	assert_int_equal(ts_hist_us(&h, 500), 0);
	for (unsigned i = 0; i < 99; i++)
		ts_hist_add(&h, 3000);
	old = h;
	ts_hist_add(&h, 900 * TS_NS_PER_MS);
	assert_int_equal(ts_hist_us(&h, 500), 4);
	assert_int_equal(ts_hist_us(&h, 990), 4);
	assert_int_equal(ts_hist_us(&h, 1000), 1 << 20);
	struct ts_hist d = ts_hist_since(&h, &old);
	assert_int_equal(d.count, 1);
	assert_int_equal(ts_hist_us(&d, 1), 1 << 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(table),
		cmocka_unit_test_setup_teardown(raised_and_cleared, up, down),
		cmocka_unit_test_setup_teardown(several_objects, up, down),
		cmocka_unit_test_setup_teardown(ring, up, down),
		cmocka_unit_test(histogram),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
