/* SPDX-License-Identifier: Apache-2.0 */
/* Many messages in one frame: how many frames, in which order, and that a frame which no engine could have sent changes nothing. */
#include "dlm_sim.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define KEYS 130

static struct world {
	struct dlm *d[3];
	struct ts_list q[3];
	bool flush[3];
	unsigned frames, granted, denied;
	struct dlm_res res[KEYS];
	struct dlm_req req[KEYS];
	uint64_t last; /* granted */
	struct sim_msg *kept; /* the newest MANY */
} W;

static int send(void *arg, unsigned node, enum net_lane lane, uint16_t type, uint64_t epoch, const void *p, uint32_t len)
{
	struct sim_msg *m = ts_xalloc(sizeof *m + len);
	m->type = type;
	m->epoch = epoch;
	m->len = len;
	memcpy(m->bytes, p, len);
	ts_list_push_back(&W.q[node], &m->link);
	W.frames++;
	return 0;
}
static void granted(void *arg, struct dlm_req *q)
{
	assert_true(q->res->key.id > W.last); /* in the order they were asked for */
	W.last = q->res->key.id;
	W.granted++;
}
static void denied(void *arg, struct dlm_req *q, int err)
{
	W.denied++;
}
static void revoke(void *arg, struct dlm_res *r)
{
}
static void changed(void *arg)
{
}
static bool older; /* the peer takes one message a frame */
static bool many_ok(void *arg, unsigned node)
{
	return !older;
}
static void flush_wanted(void *arg)
{
	W.flush[(uintptr_t)arg] = true;
}

static void run(void)
{
	for (bool more = true; more;) {
		more = false;
		for (uintptr_t i = 1; i <= 2; i++) {
			struct ts_list *n;
			if (W.flush[i]) {
				W.flush[i] = false;
				dlm_flush(W.d[i]);
				more = true;
			}
			while ((n = ts_list_pop_front(&W.q[i]))) {
				struct sim_msg *m = ts_list_entry(n, struct sim_msg, link);
				dlm_message(W.d[i], 3 - (unsigned)i, m->type, m->epoch, m->bytes, m->len);
				if (m->type == DLM_MANY) {
					ts_free(W.kept);
					W.kept = m;
				} else {
					ts_free(m);
				}
				more = true;
			}
		}
	}
}

static int setup(void **state)
{
	struct quorum_group_view v = {.group = 1, .epoch = 1, .view = 1, .quorate = true, .nmembers = 2};
	memset(&W, 0, sizeof W);
	for (uintptr_t i = 1; i <= 2; i++) {
		struct dlm_args a = {.self = (unsigned)i,
				     .unit_kinds = 1u << KIND_INODE,
				     .owner_kind = KIND_SEGMENT,
				     .unit_shift = 9,
				     .ops = {.send = send, .granted = granted, .denied = denied, .revoke = revoke, .changed = changed,
					     .flush_wanted = flush_wanted, .many_ok = many_ok, .arg = (void *)i}};
		ts_list_init(&W.q[i]);
		W.d[i] = dlm_new(&a);
		assert_non_null(W.d[i]);
		v.members[i - 1].node = (unsigned)i;
	}
	dlm_view(W.d[1], &v);
	dlm_view(W.d[2], &v);
	run();
	assert_true(dlm_ready(W.d[1]) && dlm_ready(W.d[2]));
	W.frames = 0;
	return 0;
}
static int teardown(void **state)
{
	dlm_free(W.d[1]);
	dlm_free(W.d[2]);
	for (unsigned i = 1; i <= 2; i++) {
		struct ts_list *n;
		while ((n = ts_list_pop_front(&W.q[i])))
			ts_free(ts_list_entry(n, struct sim_msg, link));
	}
	ts_free(W.kept);
	return 0;
}

/* Node 1 asks node 2, which masters them, for n inodes of one unit. */
static void ask(unsigned n)
{
	uint64_t unit = 0;
	while (dlm_hash_master(W.d[1], (struct dlm_key){.kind = KIND_SEGMENT, .id = unit}) != 2)
		unit++;
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(dlm_res_init(W.d[1], &W.res[i], (struct dlm_key){.kind = KIND_INODE, .id = unit << 9 | (i + 1)}), 0);
		W.req[i] = (struct dlm_req){.end = DLM_END, .dend = DLM_END, .mode = DLM_SH, .flags = DLM_F_AHEAD};
		assert_int_equal(dlm_request(W.d[1], &W.res[i], &W.req[i]), 0);
	}
}

static void one_is_sent_as_itself(void **state)
{
	ask(1);
	assert_int_equal(W.frames, 0);
	run();
	assert_int_equal(W.frames, 2);
	assert_int_equal(W.granted, 1);
	assert_null(W.kept);
}

static void many_share_frames(void **state)
{
	ask(KEYS);
	run();
	assert_int_equal(W.granted, KEYS);
	assert_int_equal(W.frames, 6); /* 64 and 64 and 2, there and back */
}

static void older_peers_get_them_one_by_one(void **state)
{
	older = true;
	ask(KEYS);
	run();
	older = false;
	assert_int_equal(W.granted, KEYS);
	assert_int_equal(W.frames, 2 * KEYS);
	assert_null(W.kept);
}

static void forgotten_with_the_epoch(void **state)
{
	struct quorum_group_view v = {.group = 1, .epoch = 2, .view = 2, .quorate = true, .nmembers = 2, .members = {{.node = 1}, {.node = 2}}};
	ask(5);
	dlm_view(W.d[1], &v); /* before they were sent */
	dlm_view(W.d[2], &v);
	run();
	struct dlm_stats st;
	dlm_stats_get(W.d[2], &st);
	assert_int_equal(st.dropped_old, 0);
	assert_int_equal(W.granted, 5); /* asked again, once */
	assert_int_equal(st.grants, 5);
}

/* A frame with `count` said and `n` there, changed by f, is refused as a whole. */
static struct {
	struct dlm_many_msg head;
	struct dlm_one_msg one[DLM_MANY_MAX + 1];
} H;
static bool sound(unsigned said, unsigned n)
{
	uint32_t count;
	H.head.count = le16_make((uint16_t)said);
	return dlm_many_sound(&H, (uint32_t)(sizeof H.head + n * sizeof H.one[0]), &count);
}
static void fill(void)
{
	struct dlm_msg m = {.type = DLM_REQUEST, .key = {.kind = KIND_HASH, .id = 9}, .end = DLM_END, .dend = DLM_END, .mode = DLM_EX};
	H.head = (struct dlm_many_msg){.version = le16_make(DLM_WIRE_VERSION)};
	for (unsigned i = 0; i <= DLM_MANY_MAX; i++) {
		H.one[i].type = le16_make(DLM_REQUEST);
		(void)dlm_encode(&m, &H.one[i].m);
	}
}

static void hostile_frames(void **state)
{
	struct dlm_stats before, after;
	uint32_t count;
	fill();
	assert_true(sound(2, 2));
	assert_true(sound(DLM_MANY_MAX, DLM_MANY_MAX));
	assert_false(sound(0, 0));
	assert_false(sound(1, 1));
	assert_false(sound(DLM_MANY_MAX + 1, DLM_MANY_MAX + 1));
	assert_false(sound(65535, 3));
	assert_false(sound(3, 2));
	assert_false(sound(2, 3));
	assert_false(dlm_many_sound(&H, 4, &count));
	static const uint16_t types[] = {0, DLM_REQUEST - 1, DLM_HANDOVER, DLM_OWN, DLM_REPORT, DLM_MANY, DLM_TYPE_END, 65535, DLM_GRANT /* another lane */};
	for (unsigned i = 0; i < TS_ARRAY_LEN(types); i++) {
		fill();
		H.one[1].type = le16_make(types[i]);
		assert_false(sound(2, 2));
	}
	fill();
	H.one[1].m.mode = DLM_MODES;
	assert_false(sound(2, 2));
	fill();
	H.one[1].m.kind = le32_make(32);
	assert_false(sound(2, 2));
	fill();
	H.one[0].m.version = le16_make(DLM_WIRE_VERSION + 1);
	assert_false(sound(2, 2));
	fill();
	H.head.version = le16_make(DLM_WIRE_VERSION + 1);
	assert_false(sound(2, 2));
	/* The first is sound, the second is not: neither takes effect. */
	fill();
	H.one[1].m.mode = DLM_MODES;
	H.head.count = le16_make(2);
	dlm_stats_get(W.d[2], &before);
	dlm_message(W.d[2], 1, DLM_MANY, 1, &H, sizeof H.head + 2 * sizeof H.one[0]);
	dlm_message(W.d[2], NET_MAX_NODES, DLM_MANY, 1, &H, sizeof H.head + 2 * sizeof H.one[0]);
	dlm_stats_get(W.d[2], &after);
	assert_int_equal(after.grants, before.grants);
	assert_int_equal(after.mastered, before.mastered);
	run();
	assert_int_equal(W.frames, 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {T(one_is_sent_as_itself), T(many_share_frames), T(older_peers_get_them_one_by_one), T(forgotten_with_the_epoch), T(hostile_frames)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
