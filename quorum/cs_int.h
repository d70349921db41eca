/* SPDX-License-Identifier: Apache-2.0 */
/* The corosync carrier's own header: what its two files share. */
#ifndef TESSERA_QUORUM_CS_INT_H
#define TESSERA_QUORUM_CS_INT_H

#include "quorum/quorum_int.h"

#include <corosync/corotypes.h>

/* From corosync's configuration: who we are there and where we listen. Blocks; called before the executor runs. */
struct cs_local {
	unsigned node;
	char addr[48]; /* numeric */
};
int cs_local_get(struct cs_local *out, char *errmsg, size_t errlen) TS_MUST_CHECK;
/* Initialisation calls answer "try again" while corosync starts: tries for a few seconds. */
#define CS_TRY(rc, call)                                                                                   \
	do {                                                                                               \
		for (unsigned try_ = 0; ((rc) = (call)) == CS_ERR_TRY_AGAIN && try_ < 50; try_++)          \
			usleep(100000);                                                                    \
	} while (0)

#endif
