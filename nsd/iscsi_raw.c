/* SPDX-License-Identifier: Apache-2.0 */
/* Job: single commands for nsd/abilities.c, sent as they are: no gate, no queue, no second thoughts about their answer. Must never
 * happen: one of these on the way of a request. */
#include "nsd/iscsi_int.h"

static struct scsi_task *make(struct iscsi_dev *d, enum nsd_raw what, uint64_t off, uint8_t *param, struct scsi_iovec *iov)
{
	uint32_t sector = d->info.sector_bytes, n = 4096 / sector;
	uint64_t lba = off / sector;
	struct scsi_task *t = NULL;

	switch (what) {
	case NSD_RAW_WRITE:
		t = scsi_cdb_write16(lba, 4096, (int)sector, 0, 0, 0, 0, 0);
		iov->iov_len = 4096;
		break;
	case NSD_RAW_WRITE_SAME:
		t = scsi_cdb_writesame16(0, 0, 0, lba, 0, n, sector);
		iov->iov_len = sector;
		break;
	case NSD_RAW_UNMAP: /* a list of one range (SBC-3 5.28) */
		memset(param, 0, 24);
		param[1] = 22;
		param[3] = 16;
		for (int i = 0; i < 8; i++)
			param[8 + i] = (uint8_t)(lba >> (56 - 8 * i));
		param[19] = (uint8_t)n;
		t = scsi_cdb_unmap(0, 0, 24);
		iov->iov_base = param;
		iov->iov_len = 24;
		break;
	case NSD_RAW_FLUSH:
		return scsi_cdb_synchronizecache16(0, 0, 0, 0);
	}
	if (t) {
		t->xfer_dir = SCSI_XFER_WRITE;
		t->expxferlen = (int)iov->iov_len;
		scsi_task_set_iov_out(t, iov, 1);
	}
	return t;
}

int nsd_iscsi_raw(struct nsd_dev *dev, enum nsd_raw what, uint64_t off, const void *sector)
{
	struct iscsi_dev *d = nsd_dev_priv(dev);
	uint64_t deadline = ts_exec_now(d->exec) + ISCSI_SETUP_NS;
	struct iscsi_answer *a = ts_alloc(sizeof(*a));
	uint8_t param[24];
	int rc = -EAGAIN;

	if (!a)
		return -ENOMEM;
	for (int i = 0; rc == -EAGAIN && i < ISCSI_MAX_TRIES; i++) {
		struct scsi_iovec iov = {.iov_base = (void *)(uintptr_t)sector};

		rc = nsd_iscsi_wait_up(d, deadline);
		if (!rc)
			rc = nsd_iscsi_ctl(d, make(d, what, off, param, &iov), a, deadline);
		if (!rc)
			rc = nsd_iscsi_meaning(a);
	}
	ts_free(a);
	return rc == -EAGAIN ? -EIO : rc;
}
