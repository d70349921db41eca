/* SPDX-License-Identifier: Apache-2.0 */
/* far: system calls made on another machine. The tests of tests/posix work on several mounts from one process; where each mount
 * is on a machine of its own, far_calls.c (LD_PRELOAD) sends their calls to far_serve there. What must never happen: a call that is
 * answered by the wrong machine, or whose time is not within that of the caller's. */
#ifndef TESSERA_TESTS_VM_FAR_H
#define TESSERA_TESTS_VM_FAR_H

#include <stdint.h>

#define FAR_PREFIX "/far/" /* /far/HOST:PORT/PATH is PATH there */
#define FAR_ARGS   6
#define FAR_MAX	   (16u << 20) /* bytes of one argument */

enum far_kind { FAR_VALUE, FAR_IN = 1, FAR_OUT = 2, FAR_INOUT = FAR_IN | FAR_OUT }; /* of an argument: a number, or bytes that go or come */
enum far_nr { FAR_LOAD = -1, FAR_STORE = -2 }; /* beside the system calls: bytes of a map, EFAULT where that gives SIGBUS */

/* Both machines are of one kind: structures go as they are. IN bytes follow a call, OUT bytes an answer, in order. */
struct far_call_msg {
	int64_t nr;
	uint64_t v[FAR_ARGS]; /* numbers, or lengths */
	uint8_t kind[FAR_ARGS];
	uint8_t pad[2];
};
struct far_answer_msg {
	int64_t rc;
	int64_t err;
};

#endif
