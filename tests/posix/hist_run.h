/* SPDX-License-Identifier: Apache-2.0 */
/* What the workers of histtest and their leader share: memory, and the objects of an epoch. An epoch is a new
 * directory with new objects, which the workers hold open over its rounds; a round is some operations of
 * every worker between two barriers. */
#ifndef TESSERA_TESTS_POSIX_HIST_RUN_H
#define TESSERA_TESTS_POSIX_HIST_RUN_H

#include "hist.h"

#include <pthread.h>
#include <stdatomic.h>

#define HIST_WORKERS	  8
#define HIST_MOUNTS	  3
#define HIST_ROUND_OPS	  12 /* of a worker */
#define HIST_EPOCH_ROUNDS 24
#define HIST_WORDS	  5 /* single words of a file */
#define HIST_MAP_WORDS	  2 /* each in a page of its own */
#define HIST_RECORD	  16

/* The objects. A block written at once is two registers: its first and its last word. */
enum hist_object {
	HIST_O_WORD,
	HIST_O_BLOCK_HEAD = HIST_O_WORD + HIST_WORDS,
	HIST_O_BLOCK_TAIL,
	HIST_O_WHOLE, /* a file of eight bytes */
	HIST_O_MODE,
	HIST_O_XATTR,
	HIST_O_NAMES,
	HIST_O_SIZE,
	HIST_O_LOG,
	HIST_O_MAP,
	HIST_O_LOCK = HIST_O_MAP + HIST_MAP_WORDS,
	HIST_OBJECTS
};

enum hist_files {
	HIST_F_WORDS,
	HIST_F_BLOCK,
	HIST_F_WHOLE,
	HIST_F_MODE,
	HIST_F_XATTR,
	HIST_F_SIZE,
	HIST_F_LOG,
	HIST_F_MAP,
	HIST_F_LOCK,
	HIST_FILES
};

enum hist_class {
	HIST_C_TRUNCATE = 1,
	HIST_C_APPEND = 2,
	HIST_C_MAP = 4,
	HIST_C_NAME = 8,
	HIST_C_LOCK = 16,
	HIST_C_NEIGHBOUR = 32, /* several workers of one mount write and read one file */
	HIST_C_CONTENT = 64,   /* single words, a block, a whole file */
	HIST_C_MIDDLE = 128,   /* the words of a block between its first and last: a local file system lets a reader meet a writer half way */
	HIST_C_ALL = 255
};

struct hist_shared {
	pthread_barrier_t begin, end;
	atomic_bool stop;
	uint64_t seed, plant;
	unsigned epoch, round, workers, nmounts;
	uint32_t classes;
	char dir[HIST_MOUNTS][4200]; /* of the epoch, through each mount */
	struct {
		unsigned n;
		struct hist_op op[HIST_ROUND_OPS + 2]; /* a block makes two */
		_Atomic uint8_t kind, object;	       /* at work: for who asks why it hangs */
		char failed[300];		       /* what no object may answer */
	} w[HIST_WORKERS];
};

/* The life of a worker: rounds until stop. */
void hist_worker(struct hist_shared *s, unsigned me);
/* Makes the objects of an epoch through one mount. 0 or -errno. */
int hist_objects_make(const char *dir);
const char *hist_object_name(unsigned object);
const struct hist_spec *hist_object_spec(unsigned object);
uint64_t hist_object_first(unsigned object); /* its state when it was made */
/* The records of the log as they are, through one mount: their number, or -errno. */
long hist_log_read(const char *dir, uint64_t *records, size_t max);
uint64_t hist_log_sum(const uint64_t *records, size_t n);

#endif
