/* SPDX-License-Identifier: Apache-2.0 */
/* fsx: one file, changed at random through one or two mounts, and what it must contain kept in memory. */
#ifndef TESSERA_TESTS_POSIX_FSX_H
#define TESSERA_TESTS_POSIX_FSX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define FSX_LOG 256
#define FSX_MOUNTS 3
#define FSX_ALIGN 4096 /* of direct I/O */

struct fsx_mount {
	char path[4200];
	int fd, append, direct;
	uint8_t *map; /* of fsx.max bytes, shared */
};

struct fsx_done {
	uint64_t no;
	const char *op;
	unsigned mount;
	uint64_t off, len, size; /* size behind it */
};

struct fsx {
	uint64_t seed, first_seed, rng, op_no, ops, plant;
	size_t max, size;
	uint8_t *model, *buf; /* buf: max bytes and a bit, aligned */
	struct fsx_mount m[FSX_MOUNTS];
	unsigned nmounts;
	bool lenient, no_direct, no_map, wild_map;
	uint64_t off_ops; /* bit set: operation that is not supported here */
	struct fsx_done log[FSX_LOG];
	unsigned nlog;
	const char *save; /* directory for what the file should be */
};

uint64_t fsx_rnd(struct fsx *x, uint64_t below);
/* One operation. False: the file is not what it must be, and that was printed. */
bool fsx_step(struct fsx *x);
/* Everything through every mount. */
bool fsx_check_all(struct fsx *x);
bool fsx_open(struct fsx *x, struct fsx_mount *m, bool create);
void fsx_close(struct fsx *x, struct fsx_mount *m);
/* Prints what is wrong, the seed and the log; returns false. */
bool fsx_bad(struct fsx *x, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
