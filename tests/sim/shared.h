/* SPDX-License-Identifier: Apache-2.0 */
/* Between shared.c (clients that write one file from every node) and shared_model.c (what any answer may be).
 *
 * A file is looked at in cells of SH_CELL bytes, in a few zones of it: at the start, where the map gets its first level,
 * and far behind. A written cell says who wrote it: file, operation, place in the record. Operations on one file overlap;
 * each is an interval of ticks, and an answer is right if some order of what overlapped explains it. */
#ifndef TESSERA_TESTS_SIM_SHARED_H
#define TESSERA_TESTS_SIM_SHARED_H

#include "tests/sim/sim.h"

#define SH_CELL	 64u
#define SH_ZONES 3
#define SH_CELLS 4608u /* of all zones */
#define SH_RUN_MAX 1600u
#define SH_OPEN	 UINT32_MAX /* end of what is still under way */

/* Is a size that another node's stat has shown certain, although the writer had not forced it? No: it came with the token, and is
 * lost if both die (fs/README.md, several writers of one file). */
#define SH_SEEN_SIZE_IS_CERTAIN false

struct sh_op { /* one change of a file; number 0 is its creation */
	struct sim_life *life;
	uint32_t begin, end;
	uint64_t wall;	       /* when it began */
	uint32_t first, count; /* cells that it writes, or makes zero */
	uint64_t size;	       /* the file is at least so long behind it; cuts: exactly */
	bool zero, cuts, append;
	bool placed;	       /* append: first is known */
	bool stable_data, stable_size, stable_times;
	bool lost_data, lost_size, lost_times; /* its node died before that: it may count, and need not */
};
struct sh_cell {
	uint32_t hard;		     /* begin of the latest operation on it that no death takes back */
	uint32_t own[SIM_NODES + 1]; /* and of the latest acknowledged one of each node's life: which operation */
	uint32_t seen, seen_at;	     /* what a read found (SH_ZERO: zeros), and when that read began; 0 = nothing yet */
};
#define SH_ZERO UINT32_MAX
struct sh_file {
	struct sim *s;
	unsigned id;
	char name[24];
	uint64_t ino;
	uint32_t gen;
	bool unlinked;
	bool fuzzy; /* an operation was cut off, the size may be in between */
	bool wild;  /* an append across a block was not alone: it may go on elsewhere. Nothing is judged any more. */
	struct sh_op *op;
	uint32_t nops, cap;
	unsigned deaths[SIM_NODES + 1];
	struct sh_cell *cell;
};
struct sh_look { /* what was known when a read began */
	uint32_t begin, first, count;
	unsigned deaths[SIM_NODES + 1];
	struct {
		uint32_t hard, own[SIM_NODES + 1], seen, seen_at;
	} at[SH_RUN_MAX];
};

/* ---- places ---- */
uint64_t sh_offset(uint32_t cell);
uint32_t sh_zone_end(uint32_t cell); /* first cell of the next zone */
uint32_t sh_zone_first(unsigned zone);
/* First cell at or behind this offset; SH_CELLS if none. */
uint32_t sh_cell_at(uint64_t off);

/* ---- changes ---- */
struct sh_file *sh_file_new(struct sim *s, unsigned id);
void sh_file_free(struct sh_file *f);
uint32_t sh_begin(struct sh_file *f, struct sim_life *l, const struct sh_op *what); /* number of the operation */
void sh_placed(struct sh_file *f, uint32_t op, uint64_t at);	 /* an append was told where it lies */
void sh_done(struct sh_file *f, uint32_t op);
/* Where it lies is judged, when it is done: at an end that the file can have had, on nobody else's record. */
void sh_appended(struct sh_file *f, struct sim_life *l, uint32_t op, uint64_t at);
void sh_fsynced(struct sh_file *f, struct sim_life *l, uint32_t since, bool times); /* an fsync that began then */
void sh_life_dead(struct sh_file *f, struct sim_life *l);
void sh_fill(const struct sh_file *f, uint32_t op, uint32_t count, uint8_t *buf);
uint32_t sh_tick(struct sh_file *f);

/* ---- answers ---- */
void sh_look(struct sh_file *f, uint32_t first, uint32_t count, struct sh_look *k);
/* The cells of the look are these bytes; what lies behind the end of the file is zeros here. */
void sh_read(struct sh_file *f, struct sim_life *l, struct sh_look *k, const uint8_t *got);
void sh_stat(struct sh_file *f, struct sim_life *l, uint32_t since, bool quiet, uint64_t size, int64_t mtime, int64_t ctime);
void sh_holes(struct sh_file *f, struct sim_life *l, struct sh_look *k, uint64_t from, uint64_t to); /* were told to be holes */
uint64_t sh_size_most(struct sh_file *f); /* no longer than this */
bool sh_quiet(const struct sh_file *f);	  /* nothing under way */

#endif
