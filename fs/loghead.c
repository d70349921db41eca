/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the header of a log slot: two blocks written in turn, the higher good sequence counts. Must never happen: the
 * newest good copy overwritten (a torn write would leave none). */
#include "fs/log_int.h"

#define HEAD_BLOCKS 2

fs_addr fs_loghead_addr(const struct fs *fs, uint32_t slot)
{
	TS_ASSERT(slot < FS_MAX_SLOTS);
	return le64_get(fs->slots[slot].addr[0]);
}

uint64_t fs_log_ring_bytes(const struct fs *fs)
{
	return (uint64_t)(le32_get(fs->super.log_subs) - HEAD_BLOCKS) * FS_SUB;
}

static bool good(const struct fs *fs, const struct fs_loghead_disk *h, uint32_t slot, fs_addr a)
{
	uint64_t tail = le64_get(h->tail_lsn), seal = le64_get(h->seal_lsn);
	uint32_t state = le32_get(h->state);

	if (fs_mdhdr_wrong(h, fs->super.fs_id, FS_BT_LOGHEAD, a) || le32_get(h->slot) != slot || state > FS_LOG_CLEAN)
		return false;
	if (tail % FS_SUB || seal % FS_SUB)
		return false;
	return state == FS_LOG_ACTIVE || (seal >= tail && seal - tail <= fs_log_ring_bytes(fs));
}

int fs_loghead_read(struct fs *fs, uint32_t slot, struct fs_loghead_disk *out)
{
	fs_addr a = fs_loghead_addr(fs, slot);
	struct fs_loghead_disk *h = ts_alloc_aligned(FS_SUB, HEAD_BLOCKS * sizeof(*h));
	int rc, best = -1;

	if (!h)
		return -ENOMEM;
	rc = fs_io_read(fs, a, h, HEAD_BLOCKS * sizeof(*h));
	for (int i = 0; i < HEAD_BLOCKS && !rc; i++)
		if (good(fs, &h[i], slot, a + (unsigned)i) &&
		    (best < 0 || le64_get(h[i].sequence) > le64_get(h[best].sequence)))
			best = i;
	if (!rc && best < 0) {
		ts_err("%s: log slot %u has no good header: run tessera fsck", fs->super.name, slot);
		rc = -EUCLEAN;
	}
	if (!rc)
		*out = h[best];
	ts_free(h);
	return rc;
}

int fs_loghead_write(struct fs *fs, uint32_t slot, struct fs_loghead_disk *head)
{
	uint64_t sequence = le64_get(head->sequence) + 1;
	fs_addr a = fs_loghead_addr(fs, slot) + sequence % HEAD_BLOCKS;
	struct fs_loghead_disk *h = ts_alloc_aligned(FS_SUB, sizeof(*h));
	int rc;

	if (!h)
		return -ENOMEM;
	head->sequence = le64_make(sequence);
	fs_mdhdr_fill(head, fs->super.fs_id, FS_BT_LOGHEAD, TOK_SLOT, a, slot, 0);
	fs_mdhdr_seal(head, fs->incarnation, fs_version_next(fs));
	*h = *head;
	rc = fs_io_write_meta(fs, a, h, sizeof(*h));
	if (!rc)
		rc = fs_io_flush_addr(fs, a);
	ts_free(h);
	return rc;
}
