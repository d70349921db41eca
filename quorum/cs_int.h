/* SPDX-License-Identifier: Apache-2.0 */
/* The corosync carrier's own header: what its two files share. */
#ifndef TESSERA_QUORUM_CS_INT_H
#define TESSERA_QUORUM_CS_INT_H

#include "quorum/quorum_int.h"

#include <corosync/corotypes.h>
#include <pthread.h>

/* From corosync's configuration: who we are there and where we listen. Blocks; called before the executor runs. */
struct cs_local {
	unsigned node;
	char addr[48]; /* numeric */
};
/* Node ids of corosync's nodelist, one bit each. Blocks; zeros when it cannot be read. */
void cs_nodelist_get(uint64_t bits[4]);
int cs_local_get(struct cs_local *out, char *errmsg, size_t errlen) TS_MUST_CHECK;
/* Initialisation calls answer "try again" while corosync starts: tries for a few seconds. */
#define CS_TRY(rc, call)                                                                                   \
	do {                                                                                               \
		for (unsigned try_ = 0; ((rc) = (call)) == CS_ERR_TRY_AGAIN && try_ < 50; try_++)          \
			usleep(100000);                                                                    \
	} while (0)

enum ev_kind { EV_MSG, EV_CONF, EV_QUORATE, EV_LOST };
struct ev { /* to the core */
	struct ts_list link;
	enum ev_kind kind;
	uint64_t ring;
	uint32_t node, pid, needed, expected;
	bool quorate, exited;
	size_t nm, nl, nj, len;
	struct quorum_ring_member *m, *l, *j;
	char why[128];
	uint8_t data[]; /* a message, or the three lists */
};
/* Shared by thread and executor; outlives both as long as a posted call or the thread needs it. */
struct chan {
	pthread_mutex_t mutex;
	struct ts_list to_core, to_cpg;
	unsigned nto_core, nto_cpg, refs;
	bool posted, closed, leave, overflow;
	struct ts_exec *exec;
	struct quorum *q; /* executor only */
	int evfd;
};
struct chan *chan_new(struct ts_exec *x);
void chan_unref(struct chan *c); /* mutex held; released */
void chan_post(struct chan *c);	 /* mutex held: see to it that the executor drains */
void chan_wake(struct chan *c);	 /* the thread */
struct ev *ev_new(enum ev_kind kind, size_t len);
void ev_put(struct chan *c, struct ev *e); /* e NULL: out of memory */
/* The core's carrier operations; arg is the channel. */
int chan_mcast(void *arg, const void *msg, size_t len);
void chan_leave(void *arg);

#endif
