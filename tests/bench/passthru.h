/* SPDX-License-Identifier: Apache-2.0 */
/* What the two servers of passthru share. */
#ifndef TESSERA_BENCH_PASSTHRU_H
#define TESSERA_BENCH_PASSTHRU_H

#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION 314
#endif
#include <dirent.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

extern const double pt_forever; /* seconds that the kernel may keep what it is told */

struct pt_node { /* an inode that the kernel knows */
	struct pt_node *next;
	int fd;
	dev_t dev;
	ino_t ino;
	uint64_t nlookup;
};

/* passthru_memory.c: names and attributes of empty files, in memory */
extern struct fuse_lowlevel_ops pt_memory_ops;
void pt_memory_init(bool bare);

#endif
