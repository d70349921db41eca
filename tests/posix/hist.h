/* SPDX-License-Identifier: Apache-2.0 */
/* Concurrent histories: what several processes asked of one object at the same time and what they were told,
 * and the search for an order of these operations that explains the answers (Wing and Gong's, with memory as
 * Lowe's). An object is a register, a few names of one directory, a file that is appended to, or a lock; its
 * state is one number. */
#ifndef TESSERA_TESTS_POSIX_HIST_H
#define TESSERA_TESTS_POSIX_HIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define HIST_MAX_OPS	128 /* of one object between two quiescent points */
#define HIST_MAX_STATES 512 /* that are possible at a quiescent point */
#define HIST_MAX_ORDERS 200000

enum hist_kind {
	HIST_READ,   /* got */
	HIST_WRITE,  /* arg */
	HIST_CREATE, /* name a, arg = id */
	HIST_UNLINK,
	HIST_RENAME, /* name a to b */
	HIST_NOREPLACE,
	HIST_EXCHANGE,
	HIST_LOOK,   /* name a: got = id */
	HIST_APPEND, /* arg = record */
	HIST_COUNT,  /* got = number of records */
	HIST_LOCK_SH,
	HIST_LOCK_EX,
	HIST_UNLOCK,
	HIST_KINDS
};

struct hist_op {
	uint8_t kind, worker, object, a, b;
	bool planted;
	bool mixed;		 /* a rename whose two names may have been looked up at two times */
	int err;		 /* 0 or the error; only errors that the object explains are allowed */
	uint64_t arg, got, more; /* more: a sum over the records that a count has seen */
	int64_t from, to;	 /* monotonic ns: before the call, behind its return */
};

/* What an object may do. True: in this state the operation may have had this answer, and then the state is
 * *next. Called with way 0 and 1, for one answer may leave two states. */
struct hist_spec {
	const char *name;
	bool (*step)(const void *arg, uint64_t state, const struct hist_op *op, unsigned way, uint64_t *next);
};
extern const struct hist_spec hist_register, hist_names, hist_log, hist_lock;

/* The argument of hist_log: the records as they are in the end. */
struct hist_records {
	const uint64_t *r;
	size_t n;
};

struct hist_states {
	uint64_t s[HIST_MAX_STATES];
	size_t n;
};

enum hist_verdict { HIST_GOOD, HIST_BAD, HIST_TOO_BIG };
/* The operations between two quiescent points, in any order. states: what the object may be before; behind it
 * (if good) what it may be then. done: how many operations the best order explains. */
enum hist_verdict hist_check(const struct hist_spec *spec, const void *arg, const struct hist_op *ops,
			     size_t n, struct hist_states *states, size_t *done);
/* Leaves out operations that change nothing as long as no order is found; the number left. */
size_t hist_shorten(const struct hist_spec *spec, const void *arg, struct hist_op *ops, size_t n,
		    const struct hist_states *before);

/* Marks the renames that Linux may have judged by two look-ups, between which another mount changed
 * something. */
void hist_mark_mixed(struct hist_op *ops, size_t n);

const char *hist_kind_name(unsigned kind);
void hist_print(FILE *f, const struct hist_op *op, int64_t origin);

#define HIST_NAMES 4 /* of a directory: 16 bits of the state each: 0, or the id of its file */
uint64_t hist_name_id(uint64_t state, unsigned name);

#endif
