/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the recorded stream of a disk, and the crash states that it allows: what was flushed, and all, none, or any part of what
 * was not. Must never happen: a state that a real disk could not be in, or one that lacks a flushed write. */
#ifndef TESSERA_TESTS_CRASH_STREAM_H
#define TESSERA_TESTS_CRASH_STREAM_H

#include "fs_harness.h"

struct entry {
	bool flush;
	uint64_t off, len;
	size_t covers; /* flush: entries before this index had completed when it was submitted */
	uint8_t *data;
};
struct stream {
	struct entry *e;
	size_t n, room;
	uint64_t first_write; /* number of the first write recorded, as the harness counts */
	size_t *index;	      /* of the i-th write */
	size_t nwrites, index_room;
};
void stream_record(void *arg, unsigned disk, enum nsd_op op, uint64_t off, const void *data, uint64_t len); /* fsh.record */
void stream_free(struct stream *s);

enum walker_fault { /* planted */
	WALKER_HONEST,
	WALKER_LOSES, /* some writes that were flushed */
	WALKER_LIES,  /* nothing is ever stable */
};
/* Walks along a stream; its disk can be put into the crash states of each point. */
struct walker {
	const struct stream *s;
	struct fsh *h;	  /* whose disk 0 is the crashed one */
	uint8_t *stable;  /* what is on it for certain at `at` */
	size_t at;	  /* entries before this one have completed */
	size_t flushed;	  /* and before this one are stable */
	enum walker_fault fault;
	struct { uint64_t off, len; } *touched; /* where the disk differs from stable, or may */
	size_t ntouched, touched_room;
};
struct walker *walker_new(const struct stream *s, const uint8_t *base, uint64_t bytes);
void walker_free(struct walker *w);
void walker_step(struct walker *w);
bool walker_unflushed(const struct walker *w); /* is anything? */
void walker_state(struct walker *w, uint64_t seed); /* 0: everything that completed */

#endif
