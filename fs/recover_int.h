/* SPDX-License-Identifier: Apache-2.0 */
/* Private to recover.c (one slot) and recover_all.c (who, in which order, after which fences). */
#ifndef TESSERA_FS_RECOVER_INT_H
#define TESSERA_FS_RECOVER_INT_H

#include "fs/log_int.h"
#include "fs/replay.h"

int fs_gaps_closed(struct fs *fs, const struct fs_gaps *g) TS_MUST_CHECK; /* -EUCLEAN: one is open still */

bool fs_recover_settles(const struct fs *fs); /* may a fenced node's writes still land? not offline */
void fs_recover_settle(struct fs *fs);
/* Recovers what is dead: pending incarnations of the group, and (on_disk) owners that the disks name and that are no
 * members. Then the pending ones are reported as recovered. */
int fs_recover_all(struct fs *fs, bool on_disk) TS_MUST_CHECK;
/* Is there a slot on disk whose owner is neither member nor pending? */
int fs_recover_wanted(struct fs *fs, bool *wanted) TS_MUST_CHECK;

/* recprog.c */
void fs_rec_step(struct fs *fs, enum fs_recovery_step step, unsigned node, uint64_t incarnation);
void fs_rec_failed(struct fs *fs, int rc, const char *what, unsigned disk); /* disk UINT32_MAX: none */
void fs_rec_logged(struct fs *fs, uint32_t slot, unsigned node, uint64_t incarnation, size_t records, size_t blocks, size_t intents);
void fs_rec_ended(struct fs *fs, int rc);

/* peers.c */
void fs_peers_open(struct fs *fs);
void fs_peers_close(struct fs *fs);
int fs_peers_yield(struct fs *fs) TS_MUST_CHECK; /* every other member has ended its recovery */
void fs_peers_ended(struct fs *fs);
void fs_peers_please(struct fs *fs, unsigned node); /* the coordinator should look at the disks */

/* view.c */
int fs_view_join(struct fs *fs) TS_MUST_CHECK;
int fs_view_start(struct fs *fs) TS_MUST_CHECK;
int fs_view_wait_no_dead(struct fs *fs) TS_MUST_CHECK;
void fs_recover_request(struct fs *fs);
const struct quorum_member *fs_coordinator(const struct fs *fs);

#endif
