/* SPDX-License-Identifier: Apache-2.0 */
/* Job: single commands for nsd/abilities.c, sent as they are: no gate, no queue, no second thoughts about their answer. Must never
 * happen: one of these on the way of a request. */
#include "nsd/nvme_int.h"

#define BYTES 4096u

static int send_raw(struct nvme_dev *d, enum nsd_raw what, uint64_t off, void *data, struct nvme_answer *a, uint64_t deadline)
{
	uint64_t lba = off / d->info.sector_bytes;
	uint32_t blocks = BYTES / d->info.sector_bytes, len = 0;
	struct nvme_dsm_range_msg range = {.blocks = le32_make(blocks), .lba = le64_make(lba)};
	struct nvme_cmd_msg m = {.nsid = le32_make(d->nsid), .cdw10 = le32_make((uint32_t)lba), .cdw11 = le32_make((uint32_t)(lba >> 32)),
				 .cdw12 = le32_make(blocks - 1)};

	switch (what) {
	case NSD_RAW_WRITE:
		m.opcode = NVME_OP_WRITE;
		len = BYTES;
		break;
	case NSD_RAW_WRITE_SAME: /* the command of this house for one and the same in many blocks */
		m.opcode = NVME_OP_WRITE_ZEROES;
		break;
	case NSD_RAW_UNMAP:
		m.opcode = NVME_OP_DSM;
		m.cdw10 = m.cdw12 = le32_make(0);
		m.cdw11 = le32_make(NVME_DSM_DEALLOCATE);
		data = &range;
		len = sizeof(range);
		break;
	case NSD_RAW_FLUSH:
		m.opcode = NVME_OP_FLUSH;
		m.cdw10 = m.cdw11 = m.cdw12 = le32_make(0);
		break;
	}
	return d->nconn < 2 ? -ENOTCONN : nvme_ctl(&d->conn[1], &m, data, len, len != 0, a, deadline);
}

int nvme_raw(struct nsd_dev *dev, enum nsd_raw what, uint64_t off, const void *sector)
{
	struct nvme_dev *d = nsd_dev_priv(dev);
	uint64_t deadline = ts_exec_now(d->exec) + NVME_SETUP_NS;
	struct nvme_answer a;
	int rc = -EAGAIN;

	for (int i = 0; rc == -EAGAIN && i < NVME_MAX_TRIES; i++) {
		rc = nvme_wait_up(d, deadline);
		if (!rc)
			rc = send_raw(d, what, off, (void *)(uintptr_t)sector, &a, deadline);
		if (!rc)
			rc = nvme_meaning(a.status);
	}
	return rc == -EAGAIN ? -EIO : rc;
}
