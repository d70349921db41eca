/* SPDX-License-Identifier: Apache-2.0 */
/* What the fuzz targets share. A target is one file: LLVMFuzzerTestOneInput() for libFuzzer, and fuzz_seeds(), which makes
 * its first corpus with the product's own encoders (`TARGET --seeds DIR`): no blob lies in the tree but regressions.
 * Must never happen: a target that keeps state from one input to the next (a failure would not come again). */
#ifndef TESSERA_TESTS_FUZZ_H
#define TESSERA_TESTS_FUZZ_H

#include "lib/lib.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
void fuzz_seeds(void);
void fuzz_seed(const void *p, size_t n); /* from fuzz_seeds(): one file of the corpus */

/* The input as a row of numbers and runs of bytes; behind its end come zeros. */
static inline struct ts_rd fuzz_in(const uint8_t *p, size_t n)
{
	return (struct ts_rd){.p = p, .left = n};
}
/* A run of bytes with its length (16 bits) in front, cut to what is there. */
const uint8_t *fuzz_run(struct ts_rd *r, size_t *n);
void fuzz_run_put(struct ts_wr *w, const void *p, size_t n);
/* A copy on the heap, exactly as long: a read behind its end is seen. */
uint8_t *fuzz_copy(const void *p, size_t n);
/* Uses every byte, so that one that is not there is seen. */
void fuzz_touch(const void *p, size_t n);

/* A clock and chance that begin anew for each input. */
extern uint64_t fuzz_now_ns;
extern const struct ts_env fuzz_env;
void fuzz_env_reset(void);

#endif
