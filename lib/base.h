/* SPDX-License-Identifier: Apache-2.0 */
/* Small words of the house: error results, assertions that stay on, array and pointer helpers. */
#ifndef TESSERA_LIB_BASE_H
#define TESSERA_LIB_BASE_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define TS_MUST_CHECK __attribute__((warn_unused_result))
#define TS_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define TS_NORETURN __attribute__((noreturn))
#define TS_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define TS_CONTAINER(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define TS_MIN(a, b) ((a) < (b) ? (a) : (b))
#define TS_MAX(a, b) ((a) > (b) ? (a) : (b))
#define TS_ALIGN_UP(x, a) (((x) + (a) - 1) / (a) * (a))
#define TS_ALIGN_DOWN(x, a) ((x) / (a) * (a))

/* Errors that never reach a user: they ask the caller to do something else. Beyond errno's range. */
enum ts_internal_error {
	TS_ERR_RETRY = 4001, /* the state looked at is gone: learn, drop, take again */
	TS_ERR_MOVED = 4002, /* another node decides this: ask there */
	TS_ERR_WOULD_WAIT = 4003, /* the caller asked not to wait for a remote node */
	TS_ERR_FENCED = 4004, /* this incarnation is excluded: stop all I/O */
	TS_ERR_BOUNCED = 4005, /* whoever asked begins anew, and must let go first what he has locked */
};

/* Prints the condition, object and place, calls the crash hook (stops I/O), then aborts. Never compiled out. */
void ts_panic(const char *file, int line, const char *fmt, ...) TS_PRINTF(3, 4) TS_NORETURN;
#define TS_ASSERT(cond)                                                                                    \
	do {                                                                                               \
		if (__builtin_expect(!(cond), 0))                                                          \
			ts_panic(__FILE__, __LINE__, "assertion failed: %s", #cond);                       \
	} while (0)
#define TS_PANIC(...) ts_panic(__FILE__, __LINE__, __VA_ARGS__)
/* Called once by ts_panic before abort(), from whatever thread; must be async-signal-safe in spirit. */
void ts_panic_hook_set(void (*hook)(void));

/* Allocation that cannot fail politely: used only at start-up and in tests. */
void *ts_xalloc(size_t n);
/* Where going on without would break a promise to other nodes: zeroed; panics, naming what, if there is none. Not failed by the hook below. */
void *ts_alloc_must(size_t n, const char *what);
/* Zeroed allocation that may fail (returns NULL); the fail-the-n-th test hook sits in front of it. */
void *ts_alloc(size_t n) TS_MUST_CHECK;
void *ts_alloc_aligned(size_t align, size_t n) TS_MUST_CHECK; /* not zeroed; freed by ts_free */
void ts_free(void *p);
/* Tests: the n-th ts_alloc from now (1 = next) returns NULL once; 0 switches it off. */
void ts_alloc_fail_nth(uint64_t n);

#endif
