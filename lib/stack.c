/* SPDX-License-Identifier: Apache-2.0 */
/* Job: fiber stacks, mapped once and reused. Must never happen: a stack without its guard page, or one that comes
 * back with another life's ASan poison on it. */
#include "lib/fiber_int.h"

#include <sys/mman.h>
#ifdef TS_ASAN
#include <sanitizer/asan_interface.h>
#endif

#define GUARD_BYTES 65536u /* one page whatever the page size */

struct free_stack {
	struct free_stack *next;
};
static pthread_mutex_t cache_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct free_stack *cache;
static unsigned cached;

/* The link of a cached stack lies in its highest words: that page is touched anyway. */
static struct free_stack *link_of(void *stack)
{
	return (struct free_stack *)((char *)stack + TS_STACK_BYTES - sizeof(struct free_stack));
}

static void *pop_cached(void)
{
	struct free_stack *f;

	pthread_mutex_lock(&cache_mutex);
	f = cache;
	if (f) {
		cache = f->next;
		cached--;
	}
	pthread_mutex_unlock(&cache_mutex);
	return f ? (char *)f + sizeof(*f) - TS_STACK_BYTES : NULL;
}

void *ts_stack_get(void)
{
	void *stack = pop_cached();
	char *map;

	if (stack)
		return stack;
	map = mmap(NULL, GUARD_BYTES + TS_STACK_BYTES, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	if (map == MAP_FAILED)
		return NULL;
	if (mprotect(map, GUARD_BYTES, PROT_NONE)) {
		munmap(map, GUARD_BYTES + TS_STACK_BYTES);
		return NULL;
	}
	return map + GUARD_BYTES;
}

void ts_stack_put(void *stack)
{
	bool keep;

#ifdef TS_ASAN
	ASAN_UNPOISON_MEMORY_REGION(stack, TS_STACK_BYTES);
#endif
	pthread_mutex_lock(&cache_mutex);
	keep = cached < TS_STACK_CACHE;
	if (keep) {
		link_of(stack)->next = cache;
		cache = link_of(stack);
		cached++;
	}
	pthread_mutex_unlock(&cache_mutex);
	if (!keep)
		munmap((char *)stack - GUARD_BYTES, GUARD_BYTES + TS_STACK_BYTES);
}
