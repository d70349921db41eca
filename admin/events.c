/* SPDX-License-Identifier: Apache-2.0 */
/* The ring of events. Must never happen: an event that waits, or a ring that grows. */
#include "admin/daemon.h"
#include <stdarg.h>
#include <stdio.h>

const struct event_kind event_kinds[EV_COUNT] = {
	[EV_STARTED] = {"node.started", SEV_INFO, "this node's daemon began a life"},
	[EV_STOPPING] = {"node.stopping", SEV_INFO, "this node's daemon was told to end"},
	[EV_EXCLUDED] = {"node.excluded", SEV_CRITICAL, "this life is out of the cluster: all its I/O stops"},
	[EV_NODE_JOINED] = {"node.joined", SEV_INFO, "another node's daemon is in the view now"},
	[EV_NODE_LEFT] = {"node.left", SEV_WARNING, "another node's daemon is in the view no more"},
	[EV_NODE_PUT_OUT] = {"node.put_out", SEV_WARNING, "an operator put a node out of the cluster"},
	[EV_NODE_CONFIRMED_DEAD] = {"node.confirmed_dead", SEV_WARNING, "an operator or a power switch says that a node is off"},
	[EV_QUORUM_LOST] = {"quorum.lost", SEV_CRITICAL, "the view is not quorate: all operations wait"},
	[EV_QUORUM_BACK] = {"quorum.back", SEV_INFO, "the view is quorate"},
	[EV_LEASE_LOST] = {"lease.lost", SEV_ERROR, "this node has no lease: its operations wait"},
	[EV_LEASE_BACK] = {"lease.back", SEV_INFO, "this node holds its lease: operations go on"},
	[EV_MOUNTED] = {"fs.mounted", SEV_INFO, "a file system was mounted on this node"},
	[EV_UNMOUNTED] = {"fs.unmounted", SEV_INFO, "a file system was unmounted from this node"},
	[EV_MOUNT_FAILED] = {"fs.mount_failed", SEV_WARNING, "a mount was refused or failed"},
	[EV_FS_CREATED] = {"fs.created", SEV_INFO, "a file system was made"},
	[EV_DISK_OPEN] = {"disk.open", SEV_INFO, "a disk was opened"},
	[EV_DISK_FAILED] = {"disk.failed", SEV_ERROR, "a disk cannot be opened; it is tried again"},
	[EV_DISK_KEY_LOST] = {"disk.key_lost", SEV_ERROR, "a disk has forgotten this node's reservation key"},
	[EV_RECOVERY_BEGUN] = {"recovery.begun", SEV_WARNING, "this node recovers what dead nodes held"},
	[EV_RECOVERY_DONE] = {"recovery.done", SEV_INFO, "a recovery is complete"},
	[EV_RECOVERY_FAILED] = {"recovery.failed", SEV_ERROR, "an attempt of a recovery failed; it is tried again"},
	[EV_CONFIG_CHANGED] = {"config.changed", SEV_INFO, "a key of the configuration was set"},
	[EV_KEY_CHANGED] = {"key.changed", SEV_INFO, "the cluster key is being changed, or has been"},
	[EV_HEALTH_RAISED] = {"health.raised", SEV_WARNING, "a condition of `tessera health` has become true; the event has its severity"},
	[EV_HEALTH_CLEARED] = {"health.cleared", SEV_INFO, "a condition of `tessera health` is over"},
};

const char *severity_name(enum severity s)
{
	static const char *const names[] = {"info", "warning", "error", "critical"};
	return (size_t)s < TS_ARRAY_LEN(names) ? names[s] : "?";
}

static void post(struct daemon *d, enum event_id id, enum severity s, const char *object, const char *fmt, va_list ap) TS_PRINTF(5, 0);
static void post(struct daemon *d, enum event_id id, enum severity s, const char *object, const char *fmt, va_list ap)
{
	struct events *v = d->events;
	if (!v)
		return;
	struct event *e = &v->ring[v->last % EVENTS_MAX];
	*e = (struct event){.seq = ++v->last, .wall_ns = ts_wall_ns(ts_exec_env(d->exec)), .id = id, .severity = s};
	snprintf(e->object, sizeof(e->object), "%s", object);
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	v->count[id]++;
	text_make_utf8(e->object);
	text_make_utf8(e->text);
	ts_cond_broadcast(&v->more);
	if (v->hook)
		v->hook(v->hook_arg, e);
}

void event_post(struct daemon *d, enum event_id id, const char *object, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	post(d, id, event_kinds[id].severity, object, fmt, ap);
	va_end(ap);
}

void event_post_as(struct daemon *d, enum event_id id, enum severity s, const char *object, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	post(d, id, s, object, fmt, ap);
	va_end(ap);
}

json_t *events_json(struct daemon *d, uint64_t since, unsigned limit, unsigned wait_ms)
{
	struct events *v = d->events;
	json_t *a = json_array();
	uint64_t deadline = ts_exec_now(d->exec) + wait_ms * TS_NS_PER_MS;
	while (v && v->last <= since && wait_ms && !d->stopping)
		if (ts_cond_wait_until(&v->more, deadline, "events", 0, 0))
			break;
	uint64_t last = v ? v->last : 0, oldest = last > EVENTS_MAX ? last - EVENTS_MAX : 0;
	since = TS_MIN(since, last);
	uint64_t from = TS_MAX(since, oldest), lost = from - since;
	if (last > from + limit)
		from = last - limit;
	for (uint64_t s = from; s < last; s++) {
		const struct event *e = &v->ring[s % EVENTS_MAX];
		json_array_append_new(a, json_pack("{s:I,s:I,s:s,s:s,s:s,s:s}", "seq", (json_int_t)e->seq, "time_ms", (json_int_t)(e->wall_ns / TS_NS_PER_MS),
						   "event", event_kinds[e->id].name, "severity", severity_name(e->severity), "object", e->object, "text",
						   e->text));
	}
	return json_pack("{s:I,s:I,s:o}", "last", (json_int_t)last, "lost", (json_int_t)(since ? lost : 0), "events", a);
}
