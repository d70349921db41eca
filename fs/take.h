/* SPDX-License-Identifier: Apache-2.0 */
/* Taking several tokens in the one order that cannot deadlock: learn, drop, sort, take, revalidate.
 *
 * An operation is a function `once` that says what it wants (fs_take_add), takes it (fs_take_all), looks what it finds, and asks
 * for what it learnt to need (fs_take_more). When that cannot be had without breaking the order, fs_take_more has dropped
 * everything and returns -TS_ERR_RETRY: `once` unwinds, fs_take_run calls it again, and this time fs_take_all takes all of it in
 * order. So `once` must look again at everything on each call. It returns -FS_NEED_* after unwinding and fs_take_run refills
 * (law 2) and calls it again. Pins are dropped by fs_take_run after `once` returned. */
#ifndef TESSERA_FS_TAKE_H
#define TESSERA_FS_TAKE_H

#include "fs/fs_int.h"

#define FS_TAKE_MAX 16
struct fs_want {
	enum tok_kind kind;
	uint64_t id;
	enum tok_mode mode;
	struct tok_pin pin;
};
struct fs_take {
	struct fs *fs;
	unsigned flags;	  /* FS_NOWAIT as TOK_NOWAIT */
	unsigned n, held; /* want[0 .. held) are pinned; sorted by (kind, id), no two equal */
	struct fs_want want[FS_TAKE_MAX];
};

/* nowait: fs_cred.flags & FS_NOWAIT */
void fs_take_init(struct fs_take *t, struct fs *fs, bool nowait);
/* Wanted: EX wins over SH. Nothing of this kind and above may be pinned yet. Whole resources only. */
void fs_take_add(struct fs_take *t, enum tok_kind kind, uint64_t id, enum tok_mode mode);
/* Pins what is wanted and not yet pinned: of kinds up to `upto`, or all. On an error nothing stays pinned. */
int fs_take_upto(struct fs_take *t, enum tok_kind upto) TS_MUST_CHECK;
int fs_take_all(struct fs_take *t) TS_MUST_CHECK;
/* One more, with all the others pinned: 0, or -TS_ERR_RETRY or another error with nothing pinned any more. */
int fs_take_more(struct fs_take *t, enum tok_kind kind, uint64_t id, enum tok_mode mode) TS_MUST_CHECK;
/* The pin leaves the set and belongs to the caller, who unpins it. It must be there. */
struct tok_pin fs_take_keep(struct fs_take *t, enum tok_kind kind, uint64_t id);
void fs_take_drop(struct fs_take *t); /* unpins all; what is wanted stays wanted */

/* The loop around `once`: bounded retries, refills, drops. -TS_ERR_RETRY from `once` means: again. */
typedef int (*fs_take_fn)(struct fs_take *t, void *arg);
int fs_take_run(struct fs *fs, bool nowait, fs_take_fn once, void *arg) TS_MUST_CHECK;

#endif
