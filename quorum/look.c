/* SPDX-License-Identifier: Apache-2.0 */
/* What people may want to know of the membership and the leases, beside what the layers above need. Must never happen: looking changes
 * anything, or a decision is made from what is told here. */
#include "quorum/quorum_int.h"

void quorum_look_get(const struct quorum *q, struct quorum_look *out)
{
	static const char *const phases[] = {[Q_GATHER] = "gathering", [Q_PROMISE] = "agreeing on a view", [Q_IN_VIEW] = "in a view", [Q_DEAD] = "out"};
	*out = (struct quorum_look){
		.phase = phases[q->phase], .phase_since_ns = q->phase_ns, .daemons = q->nprocs, .needed = q->phase == Q_IN_VIEW ? q->view_needed : q->needed,
		.suspended = q->suspended, .renewal_sent_ns = q->lease_base, .leader = q->cur.leader,
	};
}

uint64_t quorum_heard_ns(const struct quorum *q, unsigned node, uint64_t incarnation)
{
	if (incarnation == q->a.incarnation)
		return q->lease_base;
	return node < Q_NODE_IDS && q->heard[node].inc == incarnation ? q->heard[node].ns : 0;
}
