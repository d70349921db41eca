/* SPDX-License-Identifier: Apache-2.0 */
/* Named events of this node, kept in a ring, and programs that are run on them. */
#ifndef TESSERA_ADMIN_EVENTS_H
#define TESSERA_ADMIN_EVENTS_H

#include "lib/lib.h"
#include <jansson.h>

enum severity { SEV_INFO, SEV_WARNING, SEV_ERROR, SEV_CRITICAL, SEV_COUNT };
const char *severity_name(enum severity s);

enum event_id {
	EV_STARTED,
	EV_STOPPING,
	EV_EXCLUDED,
	EV_NODE_JOINED,
	EV_NODE_LEFT,
	EV_NODE_PUT_OUT,
	EV_NODE_CONFIRMED_DEAD,
	EV_QUORUM_LOST,
	EV_QUORUM_BACK,
	EV_LEASE_LOST,
	EV_LEASE_BACK,
	EV_MOUNTED,
	EV_UNMOUNTED,
	EV_MOUNT_FAILED,
	EV_FS_CREATED,
	EV_DISK_OPEN,
	EV_DISK_FAILED,
	EV_DISK_KEY_LOST,
	EV_RECOVERY_BEGUN,
	EV_RECOVERY_DONE,
	EV_RECOVERY_FAILED,
	EV_CONFIG_CHANGED,
	EV_KEY_CHANGED,
	EV_HEALTH_RAISED,
	EV_HEALTH_CLEARED,
	EV_COUNT
};
struct event_kind {
	const char *name;
	enum severity severity;
	const char *meaning;
};
extern const struct event_kind event_kinds[EV_COUNT];

#define EVENTS_MAX 1024
struct event {
	uint64_t seq, wall_ns; /* seq from 1, without gaps */
	enum event_id id;
	enum severity severity;
	char object[96], text[256];
};
struct events {
	struct event ring[EVENTS_MAX];
	uint64_t count[EV_COUNT];
	uint64_t last; /* seq of the newest, 0: none yet */
	struct ts_cond more;
	void (*hook)(void *arg, const struct event *e);
	void *hook_arg;
};

struct daemon;
/* On the executor; never waits. Harmless before events are there (tests). */
void event_post(struct daemon *d, enum event_id id, const char *object, const char *fmt, ...) TS_PRINTF(4, 5);
void event_post_as(struct daemon *d, enum event_id id, enum severity s, const char *object, const char *fmt, ...) TS_PRINTF(5, 6);
/* Those after `since`, the newest `limit` of them; waits up to wait_ms for the first. lost: so many were overwritten. */
json_t *events_json(struct daemon *d, uint64_t since, unsigned limit, unsigned wait_ms);

/* hooks.c: every program in hooks_dir, one after the other, for each event. */
int hooks_open(struct daemon *d) TS_MUST_CHECK;
int hooks_child(int argc, char **argv); /* tesserad --run-hook PROGRAM ...: gives up what it can, then becomes the program */
json_t *hooks_json(struct daemon *d);
#define HOOK_ARG "--run-hook"

#endif
