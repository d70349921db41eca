/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what a target answers: sizes, names, reservation keys. libiscsi's calls are our own here: each command gets the next answer of
 * the input. Checked beside memory: a unit that was taken has a size that can be, a list of keys is whole or refused. */
#include "nsd/iscsi_int.h"
#include "tests/fuzz/fuzz.h"

static struct ts_rd in;
static struct ts_exec *x;
struct pending {
	struct ts_task task;
	iscsi_command_cb cb;
	struct scsi_task *t;
	void *arg;
};

static void answer(void *arg)
{
	static const int statuses[] = {SCSI_STATUS_GOOD, SCSI_STATUS_GOOD, SCSI_STATUS_GOOD, SCSI_STATUS_CHECK_CONDITION,
				       SCSI_STATUS_RESERVATION_CONFLICT, SCSI_STATUS_BUSY, SCSI_STATUS_TASK_ABORTED, SCSI_STATUS_ERROR};
	static const int ascqs[] = {0x2000, 0x2400, 0x2600, 0};
	struct pending *p = arg;
	unsigned how = ts_rd_u8(&in);
	size_t n;
	const uint8_t *run = fuzz_run(&in, &n);

	p->t->status = statuses[how % TS_ARRAY_LEN(statuses)];
	p->t->sense.key = how >> 3 & 15;
	p->t->sense.ascq = ascqs[how >> 6];
	p->t->datain.size = (int)n;
	p->t->datain.data = n ? fuzz_copy(run, n) : NULL; /* the task frees it */
	p->cb((struct iscsi_context *)x, p->t->status, p->t, p->arg);
	free(p);
}

int iscsi_scsi_command_async(struct iscsi_context *ctx, int lun, struct scsi_task *task, iscsi_command_cb cb, struct iscsi_data *d, void *arg)
{
	struct pending *p = calloc(1, sizeof(*p));

	TS_ASSERT(p);
	*p = (struct pending){.cb = cb, .t = task, .arg = arg};
	ts_exec_defer(x, &p->task, answer, p);
	return 0;
}
int iscsi_is_logged_in(struct iscsi_context *ctx)
{
	return 0; /* there is no socket */
}
const char *iscsi_get_error(struct iscsi_context *ctx)
{
	return "fuzz";
}

static struct iscsi_dev *dev_new(void)
{
	struct iscsi_dev *d = calloc(1, sizeof(*d));

	TS_ASSERT(d);
	d->exec = x;
	d->ctx = (struct iscsi_context *)x; /* nobody looks into it */
	d->fd = -1;
	d->state = ISCSI_UP;
	d->opened = true;
	ts_cond_init(&d->wake);
	ts_cond_init(&d->changed);
	ts_mutex_init(&d->pr_mutex);
	ts_list_init(&d->controls);
	return d;
}

/* As the session fiber does when a session is lost. */
static void again(struct iscsi_dev *d)
{
	nsd_iscsi_ctl_abandon(d);
	d->lost = d->recheck = false;
	d->state = ISCSI_UP;
}
static void keeper(void *arg)
{
	struct iscsi_dev *d = arg;

	while (!d->closing) {
		if (d->lost)
			again(d);
		else if (d->recheck)
			d->recheck = false, d->state = ISCSI_UP;
		else
			ts_cond_wait(&d->wake, "fuzz", 0, 0);
	}
}

static void body(void *arg)
{
	struct iscsi_dev *d = arg;
	uint64_t deadline = ts_exec_now(x) + 5 * TS_NS_PER_S;
	struct nsd_pr_state *s = calloc(1, sizeof(*s));

	TS_ASSERT(s);
	if (nsd_iscsi_ready(d, deadline) == 0 && nsd_iscsi_probe(d, deadline) == 0) {
		TS_ASSERT(d->info.size_bytes && d->info.size_bytes % d->info.sector_bytes == 0 && d->info.size_bytes < 1ULL << 63);
		TS_ASSERT(d->info.max_io_bytes >= d->info.sector_bytes && d->info.max_io_bytes <= NSD_MAX_IO_DEFAULT);
		TS_ASSERT(memchr(d->info.serial, 0, sizeof(d->info.serial)));
	}
	d->info.has_reservations = true;
	d->dev = nsd_dev_new(x, &(struct nsd_ops){.pr = nsd_iscsi_pr}, d, &d->info, NULL, "iscsi://fuzz");
	for (unsigned i = 0; i < 8 && in.left && !in.bad; i++) {
		int verb = ts_rd_u8(&in) % (NSD_PRV_RELEASE + 1);
		int rc = nsd_iscsi_pr(d->dev, verb, 77, 78, s);

		TS_ASSERT(rc || verb != NSD_PRV_READ || s->nkeys <= NSD_PR_MAX_KEYS);
		d->gen = ts_rd_u8(&in) & 1 ? 2 : 1;
		if (d->pr_key)
			(void)nsd_iscsi_pr_check(d, ts_exec_now(x) + TS_NS_PER_S);
	}
	d->closing = true;
	ts_cond_broadcast(&d->wake);
	ts_free(d->dev->url);
	ts_free(d->dev);
	free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct iscsi_dev *d;

	fuzz_env_reset();
	in = fuzz_in(p, n);
	x = ts_exec_new(&fuzz_env);
	d = dev_new();
	TS_ASSERT(ts_fiber_spawn(x, "keeper", keeper, d) == 0 && ts_fiber_spawn(x, "fuzz", body, d) == 0);
	while (ts_exec_run(x, 1000) || ts_fiber_count(x))
		if (ts_exec_next_timer(x) != UINT64_MAX)
			fuzz_now_ns = TS_MAX(fuzz_now_ns, ts_exec_next_timer(x));
	free(d);
	ts_exec_free(x);
	return 0;
}

static void good(struct ts_wr *w, const void *p, size_t n)
{
	ts_wr_u8(w, 0);
	fuzz_run_put(w, p, n);
}

void fuzz_seeds(void)
{
	static uint8_t buf[4096];
	struct ts_wr w = {.p = buf, .left = sizeof(buf)};
	const uint8_t capacity[32] = {0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0}, limits[64] = {[1] = 0xb0, [3] = 60, [11] = 64};
	const uint8_t identity[] = {0, 0x83, 0, 12, 1, 3, 0, 8, 6, 1, 2, 3, 4, 5, 6, 7}, serial[] = {0, 0x80, 0, 4, 'a', 'b', 'c', ' '};
	const uint8_t abilities[8] = {0, 8, 1, 0x80, 0x80}, keys[24] = {[3] = 1, [7] = 16, [15] = 77, [23] = 78};
	const uint8_t opcode[16] = {0, 3}, reservation[24] = {[3] = 1, [7] = 16, [21] = 7};

	good(&w, NULL, 0);
	good(&w, capacity, sizeof(capacity));
	good(&w, identity, sizeof(identity));
	good(&w, serial, sizeof(serial));
	good(&w, limits, sizeof(limits));
	good(&w, abilities, sizeof(abilities));
	good(&w, keys, sizeof(keys));
	good(&w, opcode, sizeof(opcode));
	for (int v = NSD_PRV_REGISTER; v <= NSD_PRV_RELEASE; v++) {
		ts_wr_u8(&w, (uint8_t)v);
		if (v == NSD_PRV_READ) {
			good(&w, keys, sizeof(keys));
			good(&w, reservation, sizeof(reservation));
		} else {
			good(&w, NULL, 0);
		}
		ts_wr_u8(&w, 0);
	}
	fuzz_seed(buf, w.used);
}
