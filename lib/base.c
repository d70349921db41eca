/* SPDX-License-Identifier: Apache-2.0 */
/* Job: panic and the house's allocator. Must never happen: a panic that returns, or one that lets this node
 * issue more I/O (the hook stops it before abort). */
#include "lib/base.h"
#include "lib/fiber_int.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

static _Atomic(void (*)(void)) panic_hook;
static _Atomic uint64_t fail_countdown;

void ts_panic_hook_set(void (*hook)(void))
{
	atomic_store(&panic_hook, hook);
}

void ts_panic(const char *file, int line, const char *fmt, ...)
{
	char text[1024];
	const char *fiber = ts_fiber_name();
	size_t n, room = sizeof(text) - 1; /* keeps one byte for the newline */
	void (*hook)(void);
	va_list ap;

	n = (size_t)snprintf(text, room, "PANIC %s:%d [%s] ", file, line, fiber ? fiber : "no fiber");
	n = TS_MIN(n, room - 1);
	va_start(ap, fmt);
	n += (size_t)vsnprintf(text + n, room - n, fmt, ap);
	va_end(ap);
	n = TS_MIN(n, room - 1);
	text[n++] = '\n';
	if (write(STDERR_FILENO, text, n) < 0)
		n = 0; /* nobody left to tell */
	hook = atomic_exchange(&panic_hook, NULL);
	if (hook)
		hook();
	abort();
}

void ts_alloc_fail_nth(uint64_t n)
{
	atomic_store(&fail_countdown, n);
}

static bool must_fail(void)
{
	uint64_t n = atomic_load_explicit(&fail_countdown, memory_order_relaxed);

	while (n)
		if (atomic_compare_exchange_weak(&fail_countdown, &n, n - 1))
			return n == 1;
	return false;
}

void *ts_alloc(size_t n)
{
	return must_fail() ? NULL : calloc(1, n ? n : 1);
}

void *ts_alloc_aligned(size_t align, size_t n)
{
	void *p;

	if (must_fail() || posix_memalign(&p, TS_MAX(align, sizeof(void *)), n ? n : 1))
		return NULL;
	return p;
}

void *ts_xalloc(size_t n)
{
	void *p = calloc(1, n ? n : 1);

	if (!p)
		TS_PANIC("out of memory allocating %zu bytes", n);
	return p;
}

void *ts_alloc_must(size_t n, const char *what)
{
	void *p = calloc(1, n ? n : 1);

	if (!p)
		TS_PANIC("no memory for %s (%zu bytes): it cannot be dropped without breaking a promise to other nodes", what, n);
	return p;
}

void ts_free(void *p)
{
	free(p);
}
