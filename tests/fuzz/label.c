/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the label of a disk: two copies from the input, sealed or not. Checked beside memory: what is called good has terminated
 * names, and survives being written and read again. */
#include "nsd/nsd_int.h"
#include "tests/fuzz/fuzz.h"

static uint8_t *disk;

static void disk_submit(struct nsd_dev *d, struct nsd_req *r)
{
	uint64_t off = r->off;

	for (int i = 0; i < r->iovcnt; off += r->iov[i++].iov_len) {
		if (r->op == NSD_READ)
			memcpy(r->iov[i].iov_base, disk + off, r->iov[i].iov_len);
		else if (r->op == NSD_WRITE)
			memcpy(disk + off, r->iov[i].iov_base, r->iov[i].iov_len);
	}
	nsd_complete(r, 0);
}
static void disk_close(struct nsd_dev *d)
{
}
static const struct nsd_ops ops = {.submit = disk_submit, .close = disk_close};

static void body(void *arg)
{
	struct nsd_dev *d = arg;
	struct nsd_label_disk *l = malloc(sizeof(*l)), *again = malloc(sizeof(*l));
	enum nsd_label_state state;
	char what[64];

	TS_ASSERT(l && again);
	TS_ASSERT(nsd_label_read(d, l, &state, what, sizeof(what)) == 0 && memchr(what, 0, sizeof(what)));
	if (state == NSD_LABEL_OK) {
		TS_ASSERT(memchr(l->fs_name, 0, sizeof(l->fs_name)) && memchr(l->pool, 0, sizeof(l->pool)) && l->usage <= 3);
		l->sequence = le64_make(le64_get(l->sequence) + 1);
		TS_ASSERT(nsd_label_write(d, l) == 0);
		TS_ASSERT(nsd_label_read(d, again, &state, what, sizeof(what)) == 0 && state == NSD_LABEL_OK);
		TS_ASSERT(!memcmp(l->fs_id, again->fs_id, 16) && l->sequence.v == again->sequence.v);
	}
	free(l);
	free(again);
	nsd_close(d);
}

static void run(void)
{
	struct nsd_info info = {.size_bytes = NSD_DATA_START, .sector_bytes = 512, .max_io_bytes = 1u << 20, .transport = "sim"};
	struct ts_exec *x;

	fuzz_env_reset();
	x = ts_exec_new(&fuzz_env);
	TS_ASSERT(ts_fiber_spawn(x, "fuzz", body, nsd_dev_new(x, &ops, NULL, &info, NULL, "sim://0")) == 0);
	while (ts_exec_run(x, 1000) || ts_fiber_count(x))
		;
	ts_exec_free(x);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct ts_rd rd = fuzz_in(p, n);
	unsigned how = ts_rd_u8(&rd);

	disk = calloc(1, NSD_DATA_START);
	TS_ASSERT(disk);
	for (unsigned i = 0; i < 2; i++) {
		struct nsd_label_disk *l = (struct nsd_label_disk *)(disk + i * sizeof(*l));
		size_t len;
		const uint8_t *run_p = fuzz_run(&rd, &len);

		memcpy(l, run_p, TS_MIN(len, sizeof(*l)));
		if (!(how >> i & 1))
			l->csum = le64_make(ts_csum64_skip(l, sizeof(*l), offsetof(struct nsd_label_disk, csum), 0));
	}
	if (!memcmp(disk, "TSSRNSD", 7) || !memcmp(disk + sizeof(struct nsd_label_disk), "TSSRNSD", 7) || how == 255)
		run(); /* else blkid looks at the disk, which takes long */
	free(disk);
	return 0;
}

void fuzz_seeds(void)
{
	static uint8_t buf[16384];
	struct nsd_label_disk l = {.magic = {'T', 'S', 'S', 'R', 'N', 'S', 'D', '\n'}, .version = le32_make(NSD_LABEL_VERSION), .disk_count = le16_make(2),
				   .size_bytes = le64_make(1 << 30), .sequence = le64_make(3), .fs_name = "fuzz", .nsd_name = "d0", .pool = "system"};

	for (unsigned i = 0; i < 4; i++) {
		struct ts_wr w = {.p = buf, .left = sizeof(buf)};

		ts_wr_u8(&w, (uint8_t)i);
		l.version = le32_make(i == 3 ? 2 : NSD_LABEL_VERSION);
		fuzz_run_put(&w, &l, i ? sizeof(l) : offsetof(struct nsd_label_disk, reserved));
		l.sequence = le64_make(4);
		fuzz_run_put(&w, &l, offsetof(struct nsd_label_disk, reserved));
		fuzz_seed(buf, w.used);
	}
}
