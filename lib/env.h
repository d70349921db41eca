/* SPDX-License-Identifier: Apache-2.0 */
/* The world a node lives in: clock, wall clock, random. The daemon has the real one, the simulator gives every
 * simulated node its own. Disks come in through nsd/nsd.h, the network through net/net.h, membership through
 * quorum/quorum.h; each has a real and a simulated implementation behind the same calls.
 *
 * No code of Tessera above lib/ calls clock_gettime, time, random, getrandom, sleep or pthread_create itself. */
#ifndef TESSERA_LIB_ENV_H
#define TESSERA_LIB_ENV_H

#include "lib/base.h"

#define TS_NS_PER_MS 1000000ULL
#define TS_NS_PER_S  1000000000ULL

struct ts_env_ops {
	uint64_t (*now_ns)(void *arg);  /* CLOCK_BOOTTIME: leases, timers. Counts suspend. */
	uint64_t (*wall_ns)(void *arg); /* CLOCK_REALTIME: file times only */
	uint64_t (*random)(void *arg);
};
struct ts_env {
	const struct ts_env_ops *ops;
	void *arg;
};

extern const struct ts_env ts_env_real; /* thread-safe */

static inline uint64_t ts_now_ns(const struct ts_env *e) { return e->ops->now_ns(e->arg); }
static inline uint64_t ts_wall_ns(const struct ts_env *e) { return e->ops->wall_ns(e->arg); }
static inline uint64_t ts_random(const struct ts_env *e) { return e->ops->random(e->arg); }

#endif
