/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the header at the start of every metadata block: filled when a block is made, sealed when it is written, looked
 * at when it is read. Must never happen: a block taken for one that it is not (another address, file system or type). */
#include "fs/fs_int.h"

void fs_mdhdr_fill(void *block, const uint8_t fs_id8[8], enum fs_block_type type, enum tok_kind kind, fs_addr a, uint64_t res_id,
		   uint32_t res_gen)
{
	struct fs_mhdr_disk *h = block;

	*h = (struct fs_mhdr_disk){.magic = le32_make(FS_MAGIC), .type = (uint8_t)type, .res_kind = (uint8_t)kind,
				   .addr = le64_make(a), .res_id = le64_make(res_id), .res_gen = le32_make(res_gen)};
	memcpy(h->fs_id8, fs_id8, sizeof(h->fs_id8));
}

void fs_mdhdr_seal(void *block, uint64_t incarnation, uint64_t version)
{
	struct fs_mhdr_disk *h = block;

	h->incarnation = le64_make(incarnation);
	h->version = le64_make(version);
	h->csum = le64_make(ts_csum64_skip(block, FS_SUB, FS_MHDR_CSUM_OFF, 0));
}

const char *fs_mdhdr_wrong(const void *block, const uint8_t fs_id8[8], enum fs_block_type type, fs_addr a)
{
	const struct fs_mhdr_disk *h = block;

	if (le32_get(h->magic) != FS_MAGIC)
		return "magic";
	if (memcmp(h->fs_id8, fs_id8, sizeof(h->fs_id8)))
		return "file system";
	if (le64_get(h->addr) != a)
		return "address";
	if (type ? h->type != type : (h->type == 0 || h->type >= FS_BT_COUNT))
		return "type";
	if (le64_get(h->csum) != ts_csum64_skip(block, FS_SUB, FS_MHDR_CSUM_OFF, 0))
		return "checksum";
	return NULL;
}
