/* SPDX-License-Identifier: Apache-2.0 */
/* Job: commands on namespaces: read, write, flush, write zeroes, deallocate. The reservation is looked at when a command goes to the
 * backing, after all its data has come. */
#include "tests/nvmet/nvmet.h"

static void io_done(struct cmd *k, int rc)
{
	struct ns *n = k->ns;
	struct ctrl *t = k->ctrl;

	if (rc)
		fprintf(stderr, "nvmet: namespace %u: opcode %02x: %s\n", n->id, k->sqe.opcode, strerror(-rc));
	if (rc)
		k->status = k->sqe.opcode == NVME_OP_READ ? NVME_SC_READ_FAULT : NVME_SC_WRITE_FAULT;
	ts_list_del(&k->link);
	k->ns = NULL;
	t->executing--;
	cmd_answer(k);
	resv_io_ended(n);
	ctrl_drained(t);
}

static void part_done(struct cmd *k, int rc)
{
	if (rc && !k->status)
		k->status = NVME_SC_WRITE_FAULT;
	if (--k->ranges == 0)
		io_done(k, 0);
}

static bool range_ok(const struct ns *n, uint64_t lba, uint64_t blocks)
{
	uint64_t all = n->bytes >> n->shift;

	return blocks <= all && lba <= all - blocks;
}

static void deallocate(struct cmd *k)
{
	const struct nvme_dsm_range_msg *r = (const void *)k->buf;
	unsigned n = (le32_get(k->sqe.cdw10) & 0xff) + 1;

	k->ranges = 1; /* ours, so that it does not end while we still hand out */
	for (unsigned i = 0; i < n; i++) {
		uint64_t off = le64_get(r[i].lba) << k->ns->shift, len = (uint64_t)le32_get(r[i].blocks) << k->ns->shift;

		if (!len || !(le32_get(k->sqe.cdw11) & NVME_DSM_DEALLOCATE))
			continue;
		k->ranges++;
		backing_io(k, NVME_OP_DSM, off, len, part_done);
	}
	part_done(k, 0);
}

static void start(void *arg)
{
	struct cmd *k = arg;
	uint64_t lba = le32_get(k->sqe.cdw10) | (uint64_t)le32_get(k->sqe.cdw11) << 32;
	uint64_t blocks = (le32_get(k->sqe.cdw12) & 0xffff) + 1ull;

	if (k->sqe.opcode == NVME_OP_DSM)
		deallocate(k);
	else if (k->sqe.opcode == NVME_OP_FLUSH)
		backing_io(k, NVME_OP_FLUSH, 0, 0, io_done);
	else
		backing_io(k, k->sqe.opcode, lba << k->ns->shift, blocks << k->ns->shift, io_done);
}

static uint16_t check(struct cmd *k, const struct ns *n)
{
	uint64_t lba = le32_get(k->sqe.cdw10) | (uint64_t)le32_get(k->sqe.cdw11) << 32;
	uint64_t blocks = (le32_get(k->sqe.cdw12) & 0xffff) + 1ull;
	const struct nvme_dsm_range_msg *r = (const void *)k->buf;
	unsigned ranges = (le32_get(k->sqe.cdw10) & 0xff) + 1;

	switch (k->sqe.opcode) {
	case NVME_OP_READ:
	case NVME_OP_WRITE:
		if (!range_ok(n, lba, blocks))
			return NVME_SC_LBA_RANGE;
		return k->len == blocks << n->shift ? 0 : NVME_SC_SGL_LENGTH;
	case NVME_OP_WRITE_ZEROES:
		return range_ok(n, lba, blocks) ? 0 : NVME_SC_LBA_RANGE;
	case NVME_OP_DSM:
		if (k->len < ranges * sizeof(*r))
			return NVME_SC_SGL_LENGTH;
		for (unsigned i = 0; i < ranges; i++)
			if (!range_ok(n, le64_get(r[i].lba), le32_get(r[i].blocks)))
				return NVME_SC_LBA_RANGE;
		return 0;
	case NVME_OP_FLUSH:
		return 0;
	default:
		return NVME_SC_INVALID_OPCODE;
	}
}

static void data_io(struct cmd *k, struct ns *n)
{
	bool write = k->sqe.opcode != NVME_OP_READ;

	k->status = check(k, n);
	if (!k->status && !T.opt.no_fence && resv_conflict(&n->resv, k->ctrl->hostid, write))
		k->status = NVME_SC_RESV_CONFLICT;
	if (k->status) {
		k->in = true; /* no data goes out */
		cmd_answer(k);
		return;
	}
	if (!write)
		k->buf = buf_new(k->len);
	k->ns = n;
	k->ctrl->executing++;
	ts_list_push_back(&n->executing, &k->link);
	if (k->sqe.opcode == NVME_OP_WRITE && ++T.writes == T.opt.slow_nth)
		ts_timer_arm(T.exec, &k->slow, ts_exec_now(T.exec) + T.opt.slow_ms * TS_NS_PER_MS, start, k);
	else
		start(k);
}

void io_execute(struct cmd *k)
{
	struct ns *n = ns_find(le32_get(k->sqe.nsid));

	if (!n || k->ctrl->discovery) {
		k->status = NVME_SC_INVALID_NS;
		k->in = true;
		cmd_answer(k);
		return;
	}
	switch (k->sqe.opcode) {
	case NVME_OP_RESV_REGISTER:
	case NVME_OP_RESV_ACQUIRE:
	case NVME_OP_RESV_RELEASE:
	case NVME_OP_RESV_REPORT:
		k->ns = n;
		resv_execute(k);
		return;
	default:
		data_io(k, n);
	}
}
