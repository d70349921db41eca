/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what the unit tests of fs/ stand on: an executor with a virtual clock, disks in memory that can lose what was not
 * flushed, a token manager that grants everything (fs_tok_stub.c), a membership that a test drives, and helpers that format
 * and mount. Must never happen: a test that passes because the disk kept un-flushed writes, or because the buffer of a
 * write in flight was changed unnoticed (both are checked here).
 *
 * Shape of a test:
 *	struct fsh *h = fsh_new(1, 64 << 20);
 *	fsh_format(h, 64 << 10);              a file system of 64 KiB blocks
 *	struct fs *fs = fsh_core(h);          io, buffers and log of slot 0, no tokens (or fsh_mount: everything)
 *	fsh_run(h, fn, arg);                  fn(arg) on a fiber; the clock jumps to the next timer when all wait
 *	fsh_free(h);
 */
#ifndef TESSERA_TESTS_FS_HARNESS_H
#define TESSERA_TESTS_FS_HARNESS_H

#include "fs/fs_int.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define FSH_DISKS 8

struct fsh;
struct fsh_disk {
	struct fsh *h;
	unsigned no;
	uint64_t bytes;
	uint8_t *now;	 /* what a read sees */
	uint8_t *stable; /* what survives a power failure for certain */
	struct ts_list unstable; /* writes since, in completion order */
	uint64_t unstable_seq;
	struct ts_list jobs; /* in flight */
	uint64_t read_ns, write_ns, flush_ns; /* virtual time of each; 0 = at once */
	/* The n-th request of this op from now fails with rc (1 = next). */
	enum nsd_op fail_op;
	bool fail_on; /* and every one behind it */
	uint64_t fail_nth;
	int fail_rc;
	uint64_t reads, writes, flushes;
	struct nsd_dev *dev;
};
struct fsh {
	struct ts_exec *x;
	struct ts_env env;
	uint64_t now_ns, rng;
	unsigned ndisks;
	struct fsh_disk *disk[FSH_DISKS];
	struct nsd_dev *devs[FSH_DISKS];
	uint8_t fs_id[16];
	struct net *net;
	struct quorum *quorum;
	struct fs *fs;
	uint64_t incarnation; /* the next fsh_core or fsh_mount lives under this + 1 */
	unsigned replayed;    /* logs, by the last fsh_core */
	bool may_write;	      /* the write gate of the disks */
	void (*kill)(struct fs *fs); /* frees a node's memory */
	/* Every completed write and flush, in order; a flush's off = how many writes had completed when it was submitted. */
	void (*record)(void *arg, unsigned disk, enum nsd_op op, uint64_t off, const void *data, uint64_t len);
	void *record_arg;
};

struct fsh *fsh_new(unsigned ndisks, uint64_t bytes_each); /* filled with a pattern, not with zeros */
void fsh_free(struct fsh *h);				   /* with whatever is still open */
uint64_t fsh_random(struct fsh *h);
void fsh_disk_settle(struct fsh_disk *d); /* all of it is stable now */
/* Runs fn(arg) on a fiber to its end; time jumps. Fails the test when everything waits and no timer is armed. */
void fsh_run(struct fsh *h, ts_fn fn, void *arg);
void fsh_settle(struct fsh *h, uint64_t ns); /* lets ns of virtual time pass */

void fsh_format(struct fsh *h, uint32_t block_size);
void fsh_format_args(struct fsh *h, struct fs_format_args *a); /* disks and env are filled in */
/* A file system object with io, buffers and the log of `slot`, as a fresh incarnation; no tokens, no modules above. */
struct fs *fsh_core(struct fsh *h);
void fsh_core_close(struct fsh *h); /* clean: log CLEAN */
/* Power failure: the node's memory is gone, un-flushed writes are kept or lost (each by the toss of a coin; seed 0: all lost). */
void fsh_crash(struct fsh *h, uint64_t seed);

/* In fs_harness_mount.c: needs the whole of fs/. */
struct fs *fsh_mount(struct fsh *h);
struct fs *fsh_mount_by(struct fsh *h, ts_fn mount, void *arg); /* mount: calls fs_mount for h->fs, on a fiber, with h's net and quorum */
void fsh_unmount(struct fsh *h);

/* fs_tok_stub.c: how many pins are out now (all managers), and a revoke from elsewhere (from a fiber). */
unsigned fs_tok_stub_pins(void);
int fs_tok_stub_revoke(struct tok_mgr *m, enum tok_kind kind, uint64_t id, enum tok_mode to);

/* fs_world_stub.c: one group, driven by joins. */
struct quorum *fsw_quorum_new(struct ts_exec *x, unsigned node, uint64_t incarnation);
void fsw_quorum_views(struct quorum *q, void (*fn)(void *arg, const struct quorum_group_view *v), void *arg);
void fsw_quorum_free(struct quorum *q);
void fsw_quorum_die(struct quorum *q); /* becomes pending in the group */
void fsw_quorum_gate(struct quorum *q, bool may_write);
void fsw_reset(void);
struct net *fsw_net_new(struct ts_exec *x, unsigned node, uint64_t incarnation);
void fsw_net_cut(struct net *n); /* nothing comes or goes any more */

#endif
