/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the tiebreaker's bytes, its machine in single cases, and its area on a disk: what is damaged, foreign or made anew is never
 * believed. All orders of events are in tests/model/tiebreaker.c. */
#include "nsd/nsd.h"
#include "quorum/quorum_int.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const uint8_t uuid[16] = {1, 2, 3}, other_uuid[16] = {9}, cluster[16] = {4}, other_cluster[16] = {5};

static void t_numbers(void **state)
{
	for (uint64_t above = 0; above < 1000; above += 7)
		for (unsigned a = 1; a <= TIE_SLOTS; a++) {
			uint64_t n = tie_number_next(above, a);

			assert_true(n > above && n <= above + TIE_SLOTS + 1);
			assert_int_equal(n % (TIE_SLOTS + 1), a); /* so two nodes' never meet */
		}
}

static void t_bytes(void **state)
{
	struct tie_slot s = {.incarnation = 7, .promised = 900, .accepted = 800, .accepted_incarnation = 6, .base = 12, .writes = 3, .wall_ns = 1}, r;
	struct tie_slot_disk d, bad;
	struct tie_head_disk h, hb;
	uint8_t got[16];

	tie_slot_encode(&d, 5, uuid, &s);
	assert_true(tie_slot_decode(&d, 5, uuid, &r));
	assert_memory_equal(&s, &r, sizeof(s));
	assert_false(tie_slot_decode(&d, 6, uuid, &r));
	assert_false(tie_slot_decode(&d, 5, other_uuid, &r));
	for (size_t i = 0; i < sizeof(d); i++) { /* each byte counts */
		bad = d;
		((uint8_t *)&bad)[i] ^= 0x10;
		assert_false(tie_slot_decode(&bad, 5, uuid, &r));
	}
	s.accepted = 901; /* sound, but not sane */
	tie_slot_encode(&d, 5, uuid, &s);
	assert_false(tie_slot_decode(&d, 5, uuid, &r));
	tie_head_encode(&h, cluster, uuid);
	assert_int_equal(tie_head_decode(&h, cluster, got), 0);
	assert_memory_equal(got, uuid, 16);
	assert_int_equal(tie_head_decode(&h, other_cluster, got), -EPERM);
	for (size_t i = 0; i < sizeof(h); i++) {
		hb = h;
		((uint8_t *)&hb)[i] ^= 1;
		assert_int_equal(tie_head_decode(&hb, cluster, got), i < 8 ? -ENOENT : -EBADMSG);
	}
}

/* ---- one case a row: what the other slot shows at each step, and what comes of it -------------------------------------------------- */

struct row {
	const char *name;
	struct tie_slot other[3]; /* when we look, promise, accept */
	unsigned bad; /* step at which its slot is damaged, 1..3 */
	bool present; /* node 2 is on our side, as incarnation 20 */
	enum tie_result result;
	unsigned steps;
};
#define NUMBER (64 + 1)
#define BASE   10
static const struct row rows[] = {
	{"nobody else", {{0}}, 0, false, TIE_WON, 3},
	{"it has gone on", {{20, 66, 66, 20, 10, 1, 0}}, 0, false, TIE_LOST, 1},
	{"it has gone on while we promised", {{0}, {20, 66, 66, 20, 10, 1, 0}}, 0, false, TIE_LOST, 2},
	{"it went on behind a view that we have left", {{20, 8, 8, 20, 3, 1, 0}, {20, 8, 8, 20, 3, 1, 0}, {20, 8, 8, 20, 3, 1, 0}}, 0, false, TIE_WON, 3},
	{"a member of our side never accepted it", {{20, 60, 60, 20, 10, 1, 0}, {20, 60, 60, 20, 10, 1, 0}, {20, 60, 60, 20, 10, 1, 0}}, 0, true, TIE_WON, 3},
	{"but an earlier life of it may have", {{19, 60, 60, 19, 10, 1, 0}}, 0, true, TIE_LOST, 1},
	{"it bids with more", {{20, 130, 0, 0, 0, 1, 0}}, 0, false, TIE_HIGHER, 1},
	{"it bids with more than we promise", {{0}, {20, 130, 0, 0, 0, 1, 0}}, 0, false, TIE_HIGHER, 2},
	{"it bids with more than we accept", {{0}, {0}, {20, 130, 0, 0, 0, 1, 0}}, 0, false, TIE_HIGHER, 3},
	{"it bids with less", {{20, 2, 0, 0, 0, 1, 0}, {20, 2, 0, 0, 0, 1, 0}, {20, 2, 0, 0, 0, 1, 0}}, 0, false, TIE_WON, 3},
	{"it accepted less while we accepted: it will find us", {{0}, {0}, {20, 62, 62, 20, 10, 2, 0}}, 0, false, TIE_WON, 3},
	{"damaged when we look", {{0}}, 1, false, TIE_FAILED, 1},
	{"damaged when we promise", {{0}}, 2, false, TIE_FAILED, 2},
	{"damaged when we accept", {{0}}, 3, false, TIE_FAILED, 3},
};

static struct tie_slot_disk image[TIE_SLOTS];

static void image_make(void)
{
	for (unsigned n = 1; n <= TIE_SLOTS; n++)
		tie_slot_encode(&image[n - 1], n, uuid, &(struct tie_slot){0});
}

static void t_rows(void **state)
{
	for (size_t i = 0; i < TS_ARRAY_LEN(rows); i++) {
		const struct row *r = &rows[i];
		uint64_t present[TIE_SLOTS + 1] = {[1] = 30, [2] = r->present ? 20 : 0};
		struct tie_machine m;
		struct tie_step s;
		unsigned step = 0;

		image_make();
		tie_begin(&m, 1, 30, uuid, NUMBER, BASE, present, &s);
		while (s.result == TIE_RUNNING) {
			if (s.write)
				image[0] = s.slot;
			tie_slot_encode(&image[1], 2, uuid, &r->other[step]);
			step++;
			if (r->bad == step)
				image[1].base.v ^= 1;
			tie_done(&m, 0, image, 0, &s);
		}
		if (s.result != r->result || step != r->steps)
			fail_msg("%s: expected %d after %u steps, got %d after %u", r->name, r->result, r->steps, s.result, step);
	}
}

static void t_disk_faults(void **state)
{
	const uint64_t present[TIE_SLOTS + 1] = {[1] = 30};
	struct tie_machine m;
	struct tie_step s;

	for (unsigned at = 1; at <= 3; at++) { /* an error at each step */
		image_make();
		tie_begin(&m, 1, 30, uuid, NUMBER, BASE, present, &s);
		for (unsigned k = 1; k < at; k++) {
			if (s.write)
				image[0] = s.slot;
			tie_done(&m, 0, image, 0, &s);
		}
		tie_done(&m, -EIO, NULL, 0, &s);
		assert_int_equal(s.result, TIE_FAILED);
		assert_int_equal(m.rc, -EIO);
	}
	image_make(); /* a write that the disk takes and does not show: another machine's slot, or a cache that lies */
	tie_begin(&m, 1, 30, uuid, NUMBER, BASE, present, &s);
	tie_done(&m, 0, image, 0, &s);
	assert_true(s.write);
	tie_done(&m, 0, image, 0, &s);
	assert_int_equal(s.result, TIE_FAILED);
	assert_int_equal(m.rc, -ESTALE);
}

/* ---- the area ------------------------------------------------------------------------------------------------------------------- */

static uint8_t bytes[2u << 20];
static int fail_writes;

static void mem_submit(struct nsd_dev *d, struct nsd_req *r)
{
	uint64_t off = r->off;

	for (int i = 0; i < r->iovcnt; i++) {
		if (r->op == NSD_READ)
			memcpy(r->iov[i].iov_base, bytes + off, r->iov[i].iov_len);
		else if (!fail_writes)
			memcpy(bytes + off, r->iov[i].iov_base, r->iov[i].iov_len);
		off += r->iov[i].iov_len;
	}
	nsd_complete(r, r->op == NSD_WRITE && fail_writes ? -EIO : 0);
}

static void mem_close(struct nsd_dev *d)
{
}

static const struct nsd_ops mem_ops = {.submit = mem_submit, .close = mem_close};
static struct nsd_dev *dev;

static void area_fiber(void *arg)
{
	static struct quorum_tie_slot_info slots[QUORUM_TIE_NODES];
	struct tie_slot_disk *first = (struct tie_slot_disk *)(bytes + NSD_TIE_OFF + TIE_BLOCK);
	struct tie_head_disk *head = (struct tie_head_disk *)(bytes + NSD_TIE_OFF);
	struct quorum_tie_disk *t = NULL;

	assert_int_equal(quorum_tie_disk_open(dev, cluster, uuid, &t), -ENOENT);
	fail_writes = 1;
	assert_int_equal(quorum_tie_disk_make(dev, cluster, uuid), -EIO);
	fail_writes = 0;
	assert_int_equal(quorum_tie_disk_open(dev, cluster, uuid, &t), -ENOENT);
	memset(bytes, 0x5a, sizeof(bytes));
	assert_int_equal(quorum_tie_disk_make(dev, cluster, uuid), 0);
	for (size_t i = 0; i < sizeof(bytes); i++) /* nothing beside the area is touched */
		if (i < NSD_TIE_OFF || i >= NSD_DATA_START)
			assert_int_equal(bytes[i], 0x5a);
	assert_int_equal(quorum_tie_disk_open(dev, other_cluster, uuid, &t), -EPERM);
	assert_int_equal(quorum_tie_disk_open(dev, cluster, other_uuid, &t), -ESTALE);
	assert_int_equal(quorum_tie_disk_open(dev, cluster, uuid, &t), 0);
	tie_slot_encode(first, 1, uuid, &(struct tie_slot){.incarnation = 3, .promised = 65, .writes = 1});
	first[TIE_BLOCK / sizeof(*first)].csum.v ^= 1; /* node 2's */
	assert_int_equal(quorum_tie_disk_slots(t, slots), 0);
	assert_true(slots[0].readable && slots[0].promised == 65 && slots[0].writes == 1);
	assert_false(slots[1].readable);
	assert_true(slots[2].readable && !slots[2].writes);
	quorum_tie_disk_close(t);
	head->csum.v ^= 1;
	assert_int_equal(quorum_tie_disk_open(dev, cluster, uuid, &t), -EBADMSG);
	*(bool *)arg = true;
}

static void t_area(void **state)
{
	const struct nsd_info info = {.size_bytes = sizeof(bytes), .sector_bytes = 512, .transport = "mem"};
	struct ts_exec *x = ts_exec_new(&ts_env_real);
	bool done = false;

	dev = nsd_dev_new(x, &mem_ops, NULL, &info, NULL, "mem://");
	assert_non_null(dev);
	assert_int_equal(ts_fiber_spawn(x, "area", area_fiber, &done), 0);
	while (ts_exec_run(x, 1000))
		;
	assert_true(done);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(t_numbers), cmocka_unit_test(t_bytes), cmocka_unit_test(t_rows),
					   cmocka_unit_test(t_disk_faults), cmocka_unit_test(t_area)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
