/* SPDX-License-Identifier: Apache-2.0 */
/* Between far_calls.c and far_map.c. */
#ifndef TESSERA_TESTS_VM_FAR_INT_H
#define TESSERA_TESTS_VM_FAR_INT_H

#include "far.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct far_link { /* to one machine */
	char name[64];
	pid_t pid; /* whose it is: a child makes its own */
	int sock;
};
struct far_arg {
	uint64_t v;
	void *p;
	uint8_t kind;
};
/* The descriptor's number there, and who it belongs to; NULL: to this machine, and the number is the same. */
struct far_link *far_of(int fd, int *there);
long far_do(struct far_link *l, long nr, const struct far_arg a[FAR_ARGS]);
/* What was stored in maps goes to its machine, and is loaded from there at the next access. */
void far_maps_flush(void);

#endif
