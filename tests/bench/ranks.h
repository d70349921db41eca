/* SPDX-License-Identifier: Apache-2.0 */
/* What the two generators share: processes that begin together ("ranks", as in IO500's), and how long they took together. */
#ifndef TESSERA_BENCH_RANKS_H
#define TESSERA_BENCH_RANKS_H

#include <stdbool.h>
#include <stdint.h>

struct rank_result {
	uint64_t begin_ns, end_ns, ops, bytes; /* CLOCK_MONOTONIC */
};
struct ranks {
	unsigned n;
	struct rank_result *result; /* shared with the processes */
};

/* Runs work(rank, arg) in n processes; each calls ranks_begin() when it is ready and ranks_end() when it is done. 0, or 1 when one
 * of them failed: it has said why on stderr. */
int ranks_run(struct ranks *r, unsigned n, int (*work)(unsigned rank, void *arg), void *arg);
void ranks_begin(struct ranks *r, unsigned rank); /* waits for all */
void ranks_end(struct ranks *r, unsigned rank, uint64_t ops, uint64_t bytes);
/* One JSON line: from the first begin to the last end. */
void ranks_print(const struct ranks *r, const char *what);

/* strtoull or exit(2) with a message that names the option. */
uint64_t number_of(const char *option, const char *text);

#endif
