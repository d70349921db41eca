/* SPDX-License-Identifier: Apache-2.0 */
/* Named conditions of this node: what is wrong, since when, what it means, what to do. */
#ifndef TESSERA_ADMIN_HEALTH_H
#define TESSERA_ADMIN_HEALTH_H

#include "admin/events.h"

enum condition_id {
	HC_NO_QUORUM,
	HC_NO_LEASE,
	HC_LEASE_LATE,
	HC_NODE_DOWN,
	HC_NODE_NO_DAEMON,
	HC_NODE_SILENT,
	HC_NODE_UNREACHABLE,
	HC_CLOCKS_DIFFER,
	HC_VERSION_MISMATCH,
	HC_INITIATOR_TWICE,
	HC_DISK_CLOSED,
	HC_DISK_NO_RESERVATIONS,
	HC_DISK_SLOW,
	HC_DISK_ERRORS,
	HC_DISK_SESSION,
	HC_SPACE_LOW,
	HC_INODES_LOW,
	HC_LOG_FULL,
	HC_RECOVERY_RUNNING,
	HC_RECOVERY_STUCK,
	HC_FENCING_FAILED,
	HC_OPERATION_STUCK,
	HC_REVOKE_BLOCKED,
	HC_MOUNT_LOST,
	HC_NO_NAME_CACHE,
	HC_HOOKS_FAILING,
	HC_KEY_OLD,
	HC_KEY_CHANGING,
	HC_COUNT
};
struct condition {
	const char *name;
	enum severity severity;
	const char *meaning, *todo;
};
extern const struct condition conditions[HC_COUNT];

#define HEALTH_MAX 256 /* true at once; more are counted */
struct health_row {
	enum condition_id id;
	char object[96], detail[288];
	uint64_t since_ns, since_wall_ns;
	bool seen;
};
struct health {
	struct health_row rows[HEALTH_MAX];
	unsigned nrows;
	uint64_t left_out;
};
/* One look: begin, any number of found, end. end posts what has become true and what is over. The parts of a look are in health.c;
 * these three know nothing of the daemon but its events and clock. */
void health_begin(struct health *h);
void health_found(struct health *h, struct daemon *d, enum condition_id id, const char *object, const char *fmt, ...) TS_PRINTF(5, 6);
void health_end(struct health *h, struct daemon *d);
enum severity health_worst(const struct health *h, bool *any);

#endif
