/* SPDX-License-Identifier: Apache-2.0 */
/* Private to logread.c and recover.c: one slot's log in memory, scanned. */
#ifndef TESSERA_FS_LOGREAD_H
#define TESSERA_FS_LOGREAD_H

#include "fs/replay.h"

#define FS_LOGREAD_PIECE (1u << 20)

struct fs_logread {
	struct fs *fs;
	fs_addr ring_addr;
	uint8_t *ring;
	bool *loaded; /* per piece */
	struct fs_logimage img;
	struct fs_replay *replay;
};
/* seal 0: to the first bad frame. -EUCLEAN as fs_replay_scan. From a fiber. */
int fs_logread_open(struct fs *fs, const struct fs_loghead_disk *head, uint64_t seal, struct fs_logread **out) TS_MUST_CHECK;
void fs_logread_close(struct fs_logread *l);

#endif
