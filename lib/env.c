/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the real clock and the real randomness. Must never happen: a lease clock that stands still during suspend
 * (hence CLOCK_BOOTTIME), or two threads sharing one generator's state. */
#include "lib/env.h"

#include <sys/random.h>
#include <time.h>

static uint64_t clock_ns(clockid_t id)
{
	struct timespec t;

	TS_ASSERT(clock_gettime(id, &t) == 0);
	return (uint64_t)t.tv_sec * TS_NS_PER_S + (uint64_t)t.tv_nsec;
}

static uint64_t real_now(void *arg)
{
	return clock_ns(CLOCK_BOOTTIME);
}

static uint64_t real_wall(void *arg)
{
	return clock_ns(CLOCK_REALTIME);
}

static void seed_state(uint64_t s[4])
{
	uint8_t *p = (uint8_t *)s;
	size_t left = 32;

	while (left) {
		ssize_t n = getrandom(p, left, 0);

		if (n < 0 && errno == EINTR)
			continue;
		TS_ASSERT(n > 0);
		p += n;
		left -= (size_t)n;
	}
	s[0] |= 1; /* never all zero */
}

static uint64_t rotl(uint64_t x, unsigned b)
{
	return x << b | x >> (64 - b);
}

/* xoshiro256**, one state per thread. Not for keys: those come from libsodium. */
static uint64_t real_random(void *arg)
{
	static _Thread_local uint64_t s[4];
	uint64_t result, t;

	if (!(s[0] | s[1] | s[2] | s[3]))
		seed_state(s);
	result = rotl(s[1] * 5, 7) * 9;
	t = s[1] << 17;
	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotl(s[3], 45);
	return result;
}

static const struct ts_env_ops real_ops = {.now_ns = real_now, .wall_ns = real_wall, .random = real_random};
const struct ts_env ts_env_real = {.ops = &real_ops};
