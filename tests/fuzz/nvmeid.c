/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what an NVMe controller says of itself: properties, Identify, lists, reservation reports, the discovery log. The calls that a
 * fiber waits with are our own here: each command gets the next answer of the input. Checked beside memory: a namespace that was taken
 * has a size that can be, a list of keys is whole or refused, a discovered name fits and is plain. */
#include "nsd/nvme_int.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>

static struct ts_rd in;
static struct ts_exec *x;

static int next_answer(void *data, uint32_t len, struct nvme_answer *a)
{
	unsigned how = ts_rd_u8(&in);
	size_t n;
	const uint8_t *run;

	*a = (struct nvme_answer){.status = how & 8 ? ts_rd_u16(&in) & NVME_SC_MASK : 0, .result = how & 4 ? ts_rd_u32(&in) : 0x00070007};
	if (data && len) {
		run = fuzz_run(&in, &n);
		memset(data, how & 1 ? 0xff : 0, len);
		memcpy(data, run, TS_MIN(n, (size_t)len));
	}
	if (!(how & 16) && in.left)
		return 0;
	fuzz_now_ns += 10 * TS_NS_PER_S; /* a new association takes its time */
	return -ENOTCONN;
}

int __wrap_nvme_ctl(struct nvme_conn *c, struct nvme_cmd_msg *cmd, void *data, uint32_t len, bool out, struct nvme_answer *a, uint64_t deadline);
int __wrap_nvme_ctl(struct nvme_conn *c, struct nvme_cmd_msg *cmd, void *data, uint32_t len, bool out, struct nvme_answer *a, uint64_t deadline)
{
	return next_answer(out ? NULL : data, out ? 0 : len, a);
}
int __wrap_nvme_admin(struct nvme_dev *d, uint8_t opcode, uint32_t nsid, uint32_t cdw10, uint32_t cdw11, void *data, uint32_t len,
		      struct nvme_answer *a, uint64_t deadline);
int __wrap_nvme_admin(struct nvme_dev *d, uint8_t opcode, uint32_t nsid, uint32_t cdw10, uint32_t cdw11, void *data, uint32_t len,
		      struct nvme_answer *a, uint64_t deadline)
{
	return next_answer(data, len, a);
}
int __wrap_nvme_property_get(struct nvme_dev *d, uint32_t off, bool wide, uint64_t *value, uint64_t deadline);
int __wrap_nvme_property_get(struct nvme_dev *d, uint32_t off, bool wide, uint64_t *value, uint64_t deadline)
{
	*value = off == NVME_PROP_CAP ? ts_rd_u32(&in) : NVME_CSTS_RDY;
	return 0;
}
int __wrap_nvme_property_set(struct nvme_dev *d, uint32_t off, uint32_t value, uint64_t deadline);
int __wrap_nvme_property_set(struct nvme_dev *d, uint32_t off, uint32_t value, uint64_t deadline)
{
	return 0;
}
int __wrap_nvme_connect(struct nvme_conn *c, uint64_t deadline);
int __wrap_nvme_connect(struct nvme_conn *c, uint64_t deadline)
{
	return 0;
}
int __wrap_nvme_conn_open(struct nvme_conn *c, struct nvme_dev *d, uint16_t qid, unsigned depth, uint64_t deadline);
int __wrap_nvme_conn_open(struct nvme_conn *c, struct nvme_dev *d, uint16_t qid, unsigned depth, uint64_t deadline)
{
	TS_ASSERT(qid <= d->target.queues && depth && depth <= NVME_DEPTH_MAX);
	c->d = d;
	return 0;
}
void __wrap_nvme_conn_close(struct nvme_conn *c);
void __wrap_nvme_conn_close(struct nvme_conn *c)
{
}

static void try_ctrl(struct nvme_dev *d)
{
	struct nsd_pr_state *s = calloc(1, sizeof(*s));

	TS_ASSERT(s);
	if (nvme_ctrl_up(d, ts_exec_now(x) + TS_NS_PER_S) == 0) {
		TS_ASSERT(d->info.size_bytes && d->info.size_bytes % d->info.sector_bytes == 0 && d->info.size_bytes < 1ULL << 63);
		TS_ASSERT(d->info.max_io_bytes >= d->info.sector_bytes && d->info.max_io_bytes <= NSD_MAX_IO_DEFAULT);
		TS_ASSERT(memchr(d->info.serial, 0, sizeof(d->info.serial)) && d->nsid && d->nio && d->nio <= d->target.queues);
		d->opened = ts_rd_u8(&in) & 1;
		if (d->opened) /* the next association: the same, or refused */
			(void)!nvme_ctrl_up(d, ts_exec_now(x) + TS_NS_PER_S);
	}
	d->nconn = 2;
	d->state = NVME_UP;
	d->info.has_reservations = true;
	d->dev = nsd_dev_new(x, &(struct nsd_ops){.pr = nvme_pr}, d, &d->info, NULL, "nvme-tcp://fuzz");
	for (unsigned i = 0; i < 8 && in.left && !in.bad; i++) {
		int verb = ts_rd_u8(&in) % (NSD_PRV_RELEASE + 1), rc = nvme_pr(d->dev, verb, 77, 78, s);

		TS_ASSERT(rc || verb != NSD_PRV_READ || s->nkeys <= NSD_PR_MAX_KEYS);
		d->state = NVME_UP; /* as after a look */
	}
	ts_free(d->dev->url);
	ts_free(d->dev);
	free(s);
}

static void body(void *arg)
{
	struct nvme_dev *d = arg;
	char err[200] = "";

	if (ts_rd_u8(&in) & 1) {
		snprintf(d->target.host, sizeof(d->target.host), "127.0.0.1"); /* no name server is asked */
		if (nvme_discover(d, err, sizeof(err)) == 0)
			TS_ASSERT(d->target.nqn[0] && strlen(d->target.nqn) <= NVME_NQN_MAX);
		TS_ASSERT(memchr(err, 0, sizeof(err)) && memchr(d->error, 0, sizeof(d->error)));
	} else {
		d->target.nsid = ts_rd_u8(&in) & 1;
		d->target.by_uuid = !d->target.nsid && ts_rd_u8(&in) & 1;
		try_ctrl(d);
	}
}

int __wrap_nvme_resolve(struct nvme_target *t, char *errmsg, size_t errlen);
int __wrap_nvme_resolve(struct nvme_target *t, char *errmsg, size_t errlen)
{
	for (const char *p = t->host; *p; p++)
		TS_ASSERT(*p > ' ' && *p <= '~');
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct nvme_dev *d = calloc(1, sizeof(*d));

	TS_ASSERT(d);
	fuzz_env_reset();
	in = fuzz_in(p, n);
	x = ts_exec_new(&fuzz_env);
	d->exec = x;
	d->target.queues = 4;
	ts_cond_init(&d->wake);
	ts_cond_init(&d->changed);
	ts_mutex_init(&d->pr_mutex);
	TS_ASSERT(nvme_io_init(d) == 0);
	TS_ASSERT(ts_fiber_spawn(x, "fuzz", body, d) == 0);
	while (ts_exec_run(x, 1000) || ts_fiber_count(x))
		if (ts_exec_next_timer(x) != UINT64_MAX)
			fuzz_now_ns = TS_MAX(fuzz_now_ns, ts_exec_next_timer(x));
	nvme_io_free(d);
	free(d);
	ts_exec_free(x);
	return 0;
}

static void good(struct ts_wr *w, const void *p, size_t n)
{
	ts_wr_u8(w, 0);
	fuzz_run_put(w, p, n);
}

static void seed_ctrl(void)
{
	static uint8_t buf[16384], ctrl[2048], ns[400], ids[24] = {NVME_NIDT_UUID, 16, 0, 0, 1, 2, 3}, report[192];
	struct ts_wr w = {.p = buf, .left = sizeof(buf)};
	struct nvme_report_hdr_msg h = {.type = NVME_RESV_WE_ALL, .count = le16_make(2)};

	ctrl[NVME_IDC_MDTS] = 8;
	ctrl[NVME_IDC_KAS] = 1;
	ctrl[NVME_IDC_ONCS] = 0x2c;
	ctrl[NVME_IDC_IOCCSZ + 1] = 4;
	ctrl[NVME_IDC_IORCSZ] = 1;
	ns[1] = 0x10;
	ns[NVME_IDN_RESCAP] = 0xfe;
	ns[NVME_IDN_LBAF + 2] = 9;
	memcpy(report, &h, sizeof(h));
	report[64 + 8] = 77;
	report[128 + 8] = 78;
	ts_wr_u8(&w, 0);
	ts_wr_u8(&w, 1);
	ts_wr_u32(&w, 127);
	good(&w, ctrl, sizeof(ctrl));
	ts_wr_u8(&w, 0); /* number of queues */
	good(&w, ns, sizeof(ns));
	good(&w, ids, sizeof(ids));
	ts_wr_u8(&w, 0);
	ts_wr_u8(&w, NSD_PRV_REGISTER);
	ts_wr_u8(&w, 0);
	ts_wr_u8(&w, NSD_PRV_READ);
	good(&w, report, sizeof(report));
	ts_wr_u8(&w, NSD_PRV_PREEMPT_ABORT);
	ts_wr_u8(&w, 0);
	fuzz_seed(buf, w.used);
}

void fuzz_seeds(void)
{
	static uint8_t buf[16384], log[2048];
	struct ts_wr w = {.p = buf, .left = sizeof(buf)};
	struct nvme_disc_hdr_msg h = {.count = le64_make(1)};
	struct nvme_disc_entry_msg e = {.trtype = NVME_TRTYPE_TCP, .adrfam = NVME_ADRFAM_IPV4, .subtype = NVME_SUBTYPE_NVM, .trsvcid = "4420",
					.subnqn = "nqn.x", .traddr = "10.0.0.1"};

	seed_ctrl();
	memcpy(log, &h, sizeof(h));
	memcpy(log + sizeof(h), &e, sizeof(e));
	ts_wr_u8(&w, 1);
	ts_wr_u32(&w, 127);
	good(&w, log, 1024);
	good(&w, log, sizeof(log));
	ts_wr_u8(&w, 0);
	fuzz_seed(buf, w.used);
}
