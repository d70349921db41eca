/* SPDX-License-Identifier: Apache-2.0 */
/* The conditions, and the list of those that are true. A condition is raised once however often it is seen, and cleared when a look
 * does not see it. Must never happen: a condition without an answer to "what now?". */
#include "admin/daemon.h"
#include <stdarg.h>
#include <stdio.h>

const struct condition conditions[HC_COUNT] = {
	[HC_NO_QUORUM] = {"no_quorum", SEV_CRITICAL, "the daemons that hear each other are fewer than a quorate view needs: every operation waits",
			  "start tesserad on more nodes, or mend the network between them; see `tessera quorum status`"},
	[HC_NO_LEASE] = {"no_lease", SEV_ERROR, "this node's renewals do not come back: its operations wait, and it may be put out",
			 "look at the load and the network of this node and at corosync; see `tessera diag leases`"},
	[HC_LEASE_LATE] = {"lease_late", SEV_WARNING, "the newest renewal that counts is older than half a lease",
			   "if it stays: look at the load of this node and at corosync's ring; see `tessera diag leases`"},
	[HC_NODE_DOWN] = {"node_down", SEV_WARNING, "a node that was here is gone, with its machine",
			  "start it; if it will not come back, nothing more needs doing: what it held is recovered by itself"},
	[HC_NODE_NO_DAEMON] = {"node_no_daemon", SEV_WARNING, "a node's machine is up, its daemon is not in the cluster: stopped, crashed or put out",
			       "look at its log, and start tesserad there"},
	[HC_NODE_SILENT] = {"node_silent", SEV_WARNING, "a member has not renewed its lease for half of it: if it goes on it is put out and recovered",
			    "look whether that machine hangs; see `tessera diag leases`"},
	[HC_NODE_UNREACHABLE] = {"node_unreachable", SEV_ERROR, "a member does not answer over the port of tesserad: whoever needs a token of it waits",
				 "look for a firewall, a wrong cluster key, or a daemon that hangs there; see `tessera diag net`"},
	[HC_CLOCKS_DIFFER] = {"clocks_differ", SEV_WARNING, "the wall clocks of two nodes differ: file times made on one look wrong on the other",
			      "let chrony or ntpd run on every node"},
	[HC_VERSION_MISMATCH] = {"version_mismatch", SEV_WARNING, "nodes run different versions", "finish the upgrade: restart tesserad node by node"},
	[HC_INITIATOR_TWICE] = {"initiator_twice", SEV_CRITICAL, "two nodes have one iSCSI initiator name: no target can fence one without the other",
				"give each its own initiator_name, and restart tesserad there"},
	[HC_DISK_CLOSED] = {"disk_closed", SEV_ERROR, "a configured disk is not open on this node; it is tried again every 2 s",
			    "look at the target and the path to it; see `tessera disk list`"},
	[HC_DISK_NO_RESERVATIONS] = {"disk_no_reservations", SEV_INFO, "a disk cannot keep a dead node off: recovery waits until the node's lease is over",
				     "nothing, if some seconds more are no matter; else use LUNs with persistent reservations"},
	[HC_DISK_SLOW] = {"disk_slow", SEV_WARNING, "the slowest answers of a disk within 10 s took longer than warn_disk_ms",
			  "look at the target's load and the network; see `tessera diag iohist`"},
	[HC_DISK_ERRORS] = {"disk_errors", SEV_ERROR, "a disk has answered with errors within the last minute",
			    "look at the target's log; the file system stops before it works with wrong data"},
	[HC_DISK_SESSION] = {"disk_session", SEV_WARNING, "the session with a disk broke within the last minute: what was under way was sent again",
			     "look at the target and the network, if it goes on"},
	[HC_SPACE_LOW] = {"space_low", SEV_WARNING, "a file system is nearly full", "remove files, or make it larger; see `tessera fs df`"},
	[HC_INODES_LOW] = {"inodes_low", SEV_WARNING, "a file system has few inodes left", "remove files; see `tessera fs df`"},
	[HC_LOG_FULL] = {"log_full", SEV_WARNING, "this node's log is nearly full: changes wait for home writes",
			 "look whether a disk is slow; a larger log is chosen at `fs create --log-size`"},
	[HC_RECOVERY_RUNNING] = {"recovery_running", SEV_WARNING, "what a dead node held is blocked until its log is replayed",
				 "wait; see `tessera diag recovery`"},
	[HC_RECOVERY_STUCK] = {"recovery_stuck", SEV_ERROR, "attempts of a recovery fail, or a step takes longer than 30 s",
			       "see what failed last in `tessera diag recovery`"},
	[HC_FENCING_FAILED] = {"fencing_failed", SEV_CRITICAL, "a dead node cannot be kept off a disk: what it held stays blocked",
			       "make sure that its machine is switched off, then `tessera node confirm-dead NODE`"},
	[HC_OPERATION_STUCK] = {"operation_stuck", SEV_WARNING, "an operation on a file has waited longer than warn_wait_ms",
				"see who waits for whom in `tessera diag waiters`"},
	[HC_REVOKE_BLOCKED] = {"revoke_blocked", SEV_WARNING, "a node was asked for a token longer than warn_wait_ms ago and still has it",
			       "look whether that node hangs or its disks are slow: `tessera --node N diag waiters`"},
	[HC_MOUNT_LOST] = {"mount_lost", SEV_ERROR, "the kernel still has a mount that this daemon serves no more: it was aborted",
			   "`umount -l` it, and `tessera mount` again"},
	[HC_NO_NAME_CACHE] = {"no_name_cache", SEV_INFO, "the kernel is older than 6.18: names are not kept in it, and each path is looked up here",
			      "nothing; a newer kernel makes paths faster"},
	[HC_HOOKS_FAILING] = {"hooks_failing", SEV_WARNING, "programs in hooks_dir cannot be run, end with an error, or events for them were dropped",
			      "see `tessera events --hooks` for the last error"},
	[HC_KEY_OLD] = {"key_old", SEV_ERROR, "a node has the cluster key that was replaced while it was away: no member talks to it",
			"copy the file `cluster_key_file` of a member there (mode 0600), and restart tesserad there"},
	[HC_KEY_CHANGING] = {"key_changing", SEV_WARNING, "a change of the cluster key is not finished: two keys are accepted", "`tessera cluster key rotate` on any member finishes it"},
};

void health_begin(struct health *h)
{
	for (unsigned i = 0; i < h->nrows; i++)
		h->rows[i].seen = false;
}

/* A place in the list; when it is full, that of something less severe, of what this look has not seen if possible. */
static struct health_row *room_for(struct health *h, enum severity s)
{
	struct health_row *worse = NULL;
	if (h->nrows < HEALTH_MAX)
		return &h->rows[h->nrows++];
	for (unsigned i = 0; i < h->nrows; i++)
		if (conditions[h->rows[i].id].severity < s && (!worse || (worse->seen && !h->rows[i].seen)))
			worse = &h->rows[i];
	return worse;
}

void health_found(struct health *h, struct daemon *d, enum condition_id id, const char *object, const char *fmt, ...)
{
	struct health_row *r = NULL;
	for (unsigned i = 0; i < h->nrows && !r; i++)
		if (h->rows[i].id == id && !strncmp(h->rows[i].object, object, sizeof(h->rows[i].object) - 1))
			r = &h->rows[i];
	bool fresh = !r;
	if (fresh)
		r = room_for(h, conditions[id].severity);
	if (!r) {
		h->left_out++;
		return;
	}
	if (fresh) {
		*r = (struct health_row){.id = id, .since_ns = ts_exec_now(d->exec), .since_wall_ns = ts_wall_ns(ts_exec_env(d->exec))};
		snprintf(r->object, sizeof(r->object), "%s", object);
		text_make_utf8(r->object);
	}
	r->seen = true;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(r->detail, sizeof(r->detail), fmt, ap);
	va_end(ap);
	text_make_utf8(r->detail);
	if (fresh)
		event_post_as(d, EV_HEALTH_RAISED, conditions[id].severity, r->object, "%s: %s", conditions[id].name, r->detail);
}

void health_end(struct health *h, struct daemon *d)
{
	unsigned n = 0;
	for (unsigned i = 0; i < h->nrows; i++) {
		struct health_row *r = &h->rows[i];
		if (!r->seen) {
			event_post(d, EV_HEALTH_CLEARED, r->object, "%s: over after %llu s", conditions[r->id].name,
				   (unsigned long long)((ts_exec_now(d->exec) - r->since_ns) / TS_NS_PER_S));
			continue;
		}
		if (n != i)
			h->rows[n] = *r;
		n++;
	}
	h->nrows = n;
}

enum severity health_worst(const struct health *h, bool *any)
{
	enum severity s = SEV_INFO;
	*any = false;
	for (unsigned i = 0; i < h->nrows; i++) {
		*any |= conditions[h->rows[i].id].severity > SEV_INFO;
		s = TS_MAX(s, conditions[h->rows[i].id].severity);
	}
	return s;
}
