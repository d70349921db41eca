/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the part that all targets have in common: making seeds, inputs as rows of values, a clock. See fuzz.h. */
#include "tests/fuzz/fuzz.h"

#include <stdio.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);

static const char *seed_dir;
static unsigned nseeds;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	ts_log_level_set(getenv("FUZZ_LOUD") ? TS_LOG_DEBUG : (enum ts_log_level)0);
	fuzz_env_reset();
	if (*argc == 3 && !strcmp((*argv)[1], "--seeds")) {
		seed_dir = (*argv)[2];
		fuzz_seeds();
		printf("%u seeds\n", nseeds);
		exit(nseeds ? 0 : 1);
	}
	return 0;
}

void fuzz_seed(const void *p, size_t n)
{
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/seed-%03u", seed_dir, nseeds++);
	f = fopen(path, "we");
	TS_ASSERT(f && fwrite(p, 1, n, f) == n && !fclose(f));
}

const uint8_t *fuzz_run(struct ts_rd *r, size_t *n)
{
	size_t want = ts_rd_u16(r);

	*n = TS_MIN(want, r->left);
	return r->bad ? (*n = 0, (const uint8_t *)"") : ts_rd_bytes(r, *n);
}

void fuzz_run_put(struct ts_wr *w, const void *p, size_t n)
{
	ts_wr_u16(w, (uint16_t)n);
	ts_wr_bytes(w, p, n);
	TS_ASSERT(!w->bad);
}

uint8_t *fuzz_copy(const void *p, size_t n)
{
	uint8_t *c = malloc(n ? n : 1);

	TS_ASSERT(c);
	if (n)
		memcpy(c, p, n);
	return c;
}

static volatile uint8_t sink;

void fuzz_touch(const void *p, size_t n)
{
	uint8_t x = 0;

	for (size_t i = 0; i < n; i++)
		x ^= ((const uint8_t *)p)[i];
	sink = x;
}

uint64_t fuzz_now_ns;
static uint64_t chance;

static uint64_t env_now(void *arg)
{
	return fuzz_now_ns;
}
static uint64_t env_wall(void *arg)
{
	return fuzz_now_ns + 1700000000 * TS_NS_PER_S;
}
static uint64_t env_random(void *arg)
{
	chance += 0x9e3779b97f4a7c15ULL;
	return ts_hash_u64(chance);
}
static const struct ts_env_ops env_ops = {.now_ns = env_now, .wall_ns = env_wall, .random = env_random};
const struct ts_env fuzz_env = {.ops = &env_ops};

void fuzz_env_reset(void)
{
	fuzz_now_ns = TS_NS_PER_S;
	chance = 1;
}
