/* SPDX-License-Identifier: Apache-2.0 */
/* disks: which disks a file system has, on disk and in memory; what disks.c, disks_tab.c, disks_change.c and mover*.c share.
 *
 *           add                    all have it open                 drain                  nothing is on it
 *   (none) -----> JOINING ---------------------------> READY ----------------> DRAINING -------------------> EMPTY
 *     ^              |                                   ^---------------------------------------------------- |
 *     |--------------+ a node cannot open it                              drain --cancel                       | remove
 *                                                                                                              v
 *                                                                                                             GONE
 * Laws:
 *  K1 A node puts nothing on a disk before every node that has the file system mounted has it open: JOINING is answered by all first, and who
 *     mounts later reads the table when his tokens are ready, which they are not before every member knows of him.
 *  K2 What disk 0 says counts. A block of the table, and the superblock, lie there twice and are written one after the other: a change is
 *     there or not. The other disks' copies come after it.
 *  K3 DRAINING becomes EMPTY when all nodes have answered that they put nothing on it and every bitmap on it, under its token, is
 *     empty, and this node's log is stable. Frees that wait in a log keep their bits, so none of them is left then.
 *  K4 One change at a time: TOK_FS, id 1. */
#ifndef TESSERA_FS_DISKS_H
#define TESSERA_FS_DISKS_H

#include "fs/fs_int.h"

#define FS_DISKS_TOKEN 1 /* id of TOK_FS */

/* ---- disks_tab.c: raw; dev is disk 0; from fibers ---- */
/* The copy that counts: of two good ones the later; -EUCLEAN: none is good. */
int fs_supertab_read(struct nsd_dev *dev, const uint8_t fs_id[16], struct fs_super_disk *out) TS_MUST_CHECK;
int fs_disktab_read(struct nsd_dev *dev, const uint8_t fs_id[16], unsigned block, struct fs_disktab_disk *out) TS_MUST_CHECK;
/* "": none is told. */
int fs_diskurl_read(struct nsd_dev *dev, const uint8_t fs_id[16], unsigned no, char out[FS_DISKURL_BYTES]) TS_MUST_CHECK;
const char *fs_pools_wrong(const struct fs_super_disk *s); /* NULL, or what is wrong with them */
int fs_pool_by_name(const struct fs_super_disk *s, const char *name, unsigned *pool) TS_MUST_CHECK; /* -ENOENT */
/* The same, and a new name gets a number in *s. -EINVAL: no name; -ENOSPC: all numbers are taken. */
int fs_pool_number(struct fs_super_disk *s, const char *name, unsigned *pool) TS_MUST_CHECK;
bool fs_disk_ent_none(const struct fs_disk_ent_disk *e); /* no disk has the number */
/* NULL, or what is wrong with it. size_subs 0: the disk is not looked at. */
const char *fs_disk_ent_wrong(const struct fs_super_disk *s, const struct fs_disk_ent_disk *e, uint64_t size_subs);

/* ---- disks.c ---- */
#define FS_MSG_DISKS 0x204 /* answered when the disks here are as disk 0 says */
struct fs_word_msg {
	le64 group, epoch;
};
_Static_assert(sizeof(struct fs_word_msg) == 16, "word size");
/* Reads superblock and table from disk 0 and takes over what changed: opens what is new, closes what is gone, settles what was taken
 * from disks that take nothing any more. -errno of the first disk that could not be opened; the others are taken over all the same. */
int fs_disks_refresh(struct fs *fs) TS_MUST_CHECK;
/* Only what needs no token: what is new is opened. For recovery, which tokens wait for. */
int fs_disks_learn(struct fs *fs) TS_MUST_CHECK;
/* A call from outside that waits: the unmount waits for it, until ts_group_done(&fs->background, 0). false: too late. */
bool fs_disks_enter(struct fs *fs);
/* All other nodes that have it mounted do the same, now. *who: the node that answered with the error. No pins but of TOK_FS held. */
int fs_disks_tell(struct fs *fs, unsigned *who) TS_MUST_CHECK;
void fs_disks_asked(struct fs *fs, struct net *n, const struct net_msg *m); /* from the handler of messages */
/* Used sub-blocks of data on a disk (and of all that could be), as the bitmaps at home say. */
struct fs_disk_use {
	uint64_t used, room; /* of regions that are not metadata */
	uint64_t meta;	     /* used by metadata */
};
int fs_disk_use_read(struct fs *fs, unsigned disk, struct fs_disk_use *out) TS_MUST_CHECK;

/* ---- disks_change.c ---- */
/* With the token. The change is on disk 0, stable, when this returns 0; here and elsewhere it is not known yet. */
struct fs_disk_edit {
	unsigned no;			   /* UINT32_MAX: only the superblock */
	struct fs_disk_ent_disk ent;
	uint32_t ndisks;		   /* 0: as it is */
	bool set_move;
	uint8_t move;
	uint32_t move_mib_s;
	uint32_t nregions;		   /* 0: as it is */
	const struct fs_super_disk *pools; /* NULL, or: its pools become those of the file system */
};
int fs_disks_write(struct fs *fs, const struct fs_disk_edit *e) TS_MUST_CHECK;
int fs_disks_lock(struct fs *fs, struct tok_pin *pin) TS_MUST_CHECK; /* the token, and what is on disk is known */

/* ---- mover.c ---- */
int fs_mover_start(struct fs *fs) TS_MUST_CHECK; /* its fiber, in fs->background */
void fs_mover_wake(struct fs *fs);
/* No pins held: waits as long as the rate wants it. moved: as in the plan of the pass under way. */
void fs_mover_pace(struct fs *fs, uint64_t moved);
void fs_mover_stats(const struct fs *fs, uint64_t *bytes, uint64_t *passes);
void fs_mover_fini(struct fs *fs);

/* ---- move.c ---- */
struct fs_move_plan {
	int64_t from[FS_DISKS_ONLINE]; /* sub-blocks that are to leave; INT64_MAX: all */
	int64_t room[FS_DISKS_ONLINE]; /* that may come: where most may is taken first */
	unsigned ndisks;
	uint64_t moved, missed;	       /* out: sub-blocks moved; blocks that were to go and could not */
	bool unpaced;		       /* somebody waits for it */
	void (*step)(void *arg, uint64_t bytes); /* NULL, or: so much was moved, now and then */
	void *arg;
	bool all;		       /* some disk is to be empty: attributes, too */
};
/* Moves what the plan wants of one inode's data. No pins held. -ESTALE: it is no file any more. */
int fs_move_inode(struct fs *fs, uint64_t ino, struct fs_move_plan *p) TS_MUST_CHECK;

#endif
