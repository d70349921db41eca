/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what is found out about reservations, on disks in memory that keep the rules, and on some that break one each: every lie
 * must be seen. */
#include "nsd/nsd_int.h"
#include "tests/unit/nsd_util.h"

#define MINE   0xaaa
#define SECOND 0xbbb

enum lie {
	HONEST,
	WRITES_ANYWAY,	   /* a preempted node's write is executed */
	KEEPS_THE_KEY,	   /* PREEMPT says good, the key stays */
	DROPS_WITH_HOLDER, /* the reservation goes with the first holder */
	UNMAPS,		   /* UNMAP, */
	WRITES_SAME,	   /* WRITE SAME, */
	FLUSHES,	   /* flush are executed for anybody */
	NO_ABORT,	   /* PREEMPT AND ABORT is not known */
	REFUSES_ALL,	   /* also who is registered */
	LIES,
};

/* One unit, two devices on it. */
struct unit {
	enum lie lie;
	uint64_t key[2], holder;
	bool reserved;
	unsigned executed[4];
};
struct dev {
	struct unit *u;
	unsigned i;
};

static int pr(struct nsd_dev *nd, int verb, uint64_t key, uint64_t other, struct nsd_pr_state *out)
{
	struct dev *d = nsd_dev_priv(nd);
	struct unit *u = d->u;
	bool have = u->key[d->i] != 0;

	if (verb == NSD_PRV_REGISTER) {
		u->key[d->i] = key;
		return 0;
	}
	if (verb == NSD_PRV_READ) {
		*out = (struct nsd_pr_state){.type = u->reserved ? NSD_PR_WRITE_EXCL_ALL_REGISTRANTS : NSD_PR_NONE};
		for (unsigned i = 0; i < 2; i++)
			if (u->key[i])
				out->keys[out->nkeys++] = u->key[i];
		return 0;
	}
	if (!have)
		return -TS_ERR_FENCED;
	switch (verb) {
	case NSD_PRV_UNREGISTER:
		u->key[d->i] = 0;
		u->reserved &= u->key[0] || u->key[1];
		return 0;
	case NSD_PRV_RESERVE:
		u->holder = u->reserved ? u->holder : key;
		u->reserved = true;
		return 0;
	case NSD_PRV_RELEASE:
		u->reserved = false;
		return 0;
	case NSD_PRV_PREEMPT_ABORT:
		if (u->lie == NO_ABORT)
			return -EOPNOTSUPP;
		/* fall through */
	default:
		if (u->lie == KEEPS_THE_KEY)
			return 0;
		if (u->lie == DROPS_WITH_HOLDER && u->holder == other)
			u->reserved = false;
		for (unsigned i = 0; i < 2; i++)
			if (u->key[i] == other)
				u->key[i] = 0;
		return 0;
	}
}

static int raw(struct nsd_dev *nd, enum nsd_raw what, uint64_t off, const void *data)
{
	static const enum lie lets[] = {[NSD_RAW_WRITE] = WRITES_ANYWAY, [NSD_RAW_WRITE_SAME] = WRITES_SAME, [NSD_RAW_UNMAP] = UNMAPS,
					[NSD_RAW_FLUSH] = FLUSHES};
	struct dev *d = nsd_dev_priv(nd);

	if (d->u->reserved && (!d->u->key[d->i] || d->u->lie == REFUSES_ALL) && d->u->lie != lets[what])
		return -TS_ERR_FENCED;
	d->u->executed[what]++;
	return 0;
}

static void submit(struct nsd_dev *d, struct nsd_req *r)
{
	nsd_complete(r, 0);
}

static void close_dev(struct nsd_dev *d)
{
}

static const struct nsd_ops ops = {.submit = submit, .close = close_dev, .pr = pr, .raw = raw};

static int probe(enum lie lie, uint32_t *able, struct unit *u, bool *counts)
{
	static const struct nsd_info info = {.size_bytes = 8u << 20, .sector_bytes = 512, .transport = "sim", .has_reservations = true,
					     .has_preempt_abort = true, .keeps_reservations = true};
	struct dev a = {u, 0}, b = {u, 1};
	struct nsd_dev *da = nsd_dev_new(ts_exec_self(), &ops, &a, &info, NULL, "a");
	struct nsd_dev *db = nsd_dev_new(ts_exec_self(), &ops, &b, &info, NULL, "b");
	char err[200] = "";
	int rc;

	*u = (struct unit){.lie = lie};
	rc = nsd_able_probe(da, MINE, db, SECOND, 4096, able, err, sizeof(err));
	assert_true(!rc == !err[0]);
	nsd_able_apply(da, *able);
	*counts = nsd_info(da)->has_reservations;
	nsd_able_apply(da, 0); /* another label: as the unit says */
	assert_true(nsd_info(da)->has_reservations);
	nsd_close(da);
	nsd_close(db);
	return rc;
}

static void every_lie_is_seen(void *arg)
{
	static const uint32_t lost[LIES] = {
		[WRITES_ANYWAY] = NSD_ABLE_ALL & ~NSD_ABLE_PROBED, [KEEPS_THE_KEY] = NSD_ABLE_ALL & ~NSD_ABLE_PROBED,
		[DROPS_WITH_HOLDER] = NSD_ABLE_ALL & ~NSD_ABLE_PROBED, [UNMAPS] = NSD_ABLE_UNMAP_FENCED,
		[WRITES_SAME] = NSD_ABLE_WRITE_SAME_FENCED, [FLUSHES] = NSD_ABLE_FLUSH_FENCED, [NO_ABORT] = NSD_ABLE_PREEMPT_ABORT};

	for (enum lie lie = HONEST; lie < LIES; lie++) {
		struct unit u;
		uint32_t able;
		bool counts;
		int rc = probe(lie, &able, &u, &counts);

		if (lie == REFUSES_ALL) {
			assert_int_equal(rc, -TS_ERR_FENCED);
			assert_int_equal(able, 0);
		} else {
			assert_int_equal(rc, 0);
			assert_int_equal(able, NSD_ABLE_ALL & ~lost[lie]);
			assert_int_equal(counts, !(lost[lie] & NSD_ABLE_ENFORCES));
		}
		assert_int_equal(u.key[0], 0); /* nothing is left behind */
		assert_int_equal(u.executed[NSD_RAW_UNMAP], lie == UNMAPS); /* never before the fence */
		if (lie != KEEPS_THE_KEY)
			assert_int_equal(u.key[1], 0);
	}
}

static void names_tell_each_bit_once(void *arg)
{
	uint32_t bit, all = 0;

	for (unsigned i = 0; nsd_able_name(i, &bit); i++) {
		assert_int_equal(all & bit, 0);
		all |= bit;
	}
	assert_int_equal(all, NSD_ABLE_ALL);
}

static void without_reservations(void *arg)
{
	static const struct nsd_info info = {.size_bytes = 8u << 20, .sector_bytes = 512, .transport = "sim"};
	struct unit u = {0};
	struct dev a = {&u, 0};
	struct nsd_dev *d = nsd_dev_new(ts_exec_self(), &ops, &a, &info, NULL, "a");
	uint32_t able = 1;
	char err[200];

	assert_int_equal(nsd_able_probe(d, MINE, d, SECOND, 4096, &able, err, sizeof(err)), 0);
	assert_int_equal(able, 0);
	nsd_able_apply(d, NSD_ABLE_PROBED | NSD_ABLE_ENFORCES); /* a label from elsewhere makes nothing out of nothing */
	assert_false(nsd_info(d)->has_reservations);
	nsd_close(d);
}

#define T(fn) {#fn, in_fiber, NULL, NULL, fn}

int main(void)
{
	const struct CMUnitTest tests[] = {T(every_lie_is_seen), T(names_tell_each_bit_once), T(without_reservations)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
