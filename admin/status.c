/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon tells about itself, as JSON. Looks, never waits, never takes a token: an answer comes in any state. */
#include "admin/daemon.h"
#include <stdio.h>

const char *daemon_state(struct daemon *d)
{
	if (d->excluded)
		return "excluded";
	if (d->stopping)
		return "stopping";
	if (!d->quorum)
		return "connecting to corosync";
	if (!quorum_view_get(d->quorum)->quorate)
		return "waiting for quorum";
	if (!quorum_may_write(d->quorum))
		return "waiting for the lease";
	ts_list_for(l, &d->disks) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		if (k->configured && k->state != DISK_OPEN)
			return k->state == DISK_OPENING ? "opening disks" : "a disk failed";
	}
	return "ready";
}

json_t *status_disks(struct daemon *d)
{
	json_t *a = json_array();
	ts_list_for(l, &d->disks) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		json_t *o = json_pack("{s:s,s:s}", "url", disk_shown(k), "state",
				      k->state == DISK_OPEN ? "open" : k->state == DISK_FAILED ? "failed" : "opening");
		if (k->state == DISK_FAILED)
			json_object_set_new(o, "error", json_string(k->error));
		if (k->state == DISK_OPEN) {
			const struct nsd_info *i = nsd_info(k->dev);
			struct nsd_stats s;
			nsd_stats_get(k->dev, &s);
			json_object_update_new(o, json_pack("{s:I,s:s,s:b,s:s,s:s}", "size_bytes", (json_int_t)i->size_bytes, "transport", i->transport,
							    "reservations", i->has_reservations, "label", disk_label_word(k->label_state), "contents",
							    k->label_state == NSD_LABEL_OK ? k->label.fs_name : k->label_what));
			json_object_update_new(o, json_pack("{s:{s:I,s:I,s:I,s:I,s:I,s:I,s:I}}", "io", "reads", (json_int_t)s.reads, "writes",
							    (json_int_t)s.writes, "flushes", (json_int_t)s.flushes, "read_bytes", (json_int_t)s.read_bytes,
							    "write_bytes", (json_int_t)s.write_bytes, "errors", (json_int_t)s.errors, "resends", (json_int_t)s.resends));
			able_json(k, o);
			if (k->label_state == NSD_LABEL_OK)
				json_object_set_new(o, "disk_no", json_integer(le16_get(k->label.disk_no)));
		}
		json_array_append_new(a, o);
	}
	return a;
}

static json_t *group_nodes(struct daemon *d, uint64_t group)
{
	json_t *a = json_array();
	const struct quorum_group_view *g = quorum_group_get(d->quorum, group);
	for (unsigned i = 0; g && i < g->nmembers; i++)
		json_array_append_new(a, json_integer(g->members[i].node));
	return a;
}

static json_t *group_pending(struct daemon *d, uint64_t group)
{
	json_t *a = json_array();
	const struct quorum_group_view *g = quorum_group_get(d->quorum, group);
	for (unsigned i = 0; g && i < g->npending; i++)
		json_array_append_new(a, json_pack("{s:i,s:I,s:I}", "node", (int)g->pending[i].node, "incarnation",
						   (json_int_t)g->pending[i].incarnation, "slot", (json_int_t)g->pending[i].slot));
	return a;
}

json_t *status_fs_list(struct daemon *d)
{
	json_t *a = json_array();
	ts_list_for(l, &d->disks) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		if (k->state != DISK_OPEN || k->label_state != NSD_LABEL_OK || le16_get(k->label.disk_no) != 0)
			continue;
		unsigned found = 0;
		uint64_t bytes = 0;
		ts_list_for(m, &d->disks) {
			struct disk *o = ts_list_entry(m, struct disk, link);
			if (o->state == DISK_OPEN && o->label_state == NSD_LABEL_OK && !memcmp(o->label.fs_id, k->label.fs_id, 16)) {
				found++;
				bytes += nsd_info(o->dev)->size_bytes;
			}
		}
		uint64_t group = fs_group_of(k->label.fs_id);
		json_array_append_new(a, json_pack("{s:s,s:i,s:i,s:I,s:o,s:o,s:b}", "name", k->label.fs_name, "disks",
						   (int)le16_get(k->label.disk_count), "disks_found", (int)found, "size_bytes", (json_int_t)bytes,
						   "mounted_on", group_nodes(d, group), "pending_recovery", group_pending(d, group), "own_cluster",
						   !memcmp(k->label.cluster_id, d->cluster_id, 16)));
	}
	return a;
}

static json_t *view_json(struct daemon *d)
{
	const struct quorum_view *v = quorum_view_get(d->quorum);
	json_t *m = json_array();
	for (unsigned i = 0; i < v->nmembers; i++)
		json_array_append_new(m, json_pack("{s:i,s:I,s:s}", "node", (int)v->members[i].node, "incarnation",
						   (json_int_t)v->members[i].incarnation, "addr", v->members[i].addr));
	return json_pack("{s:I,s:b,s:o}", "number", (json_int_t)v->number, "quorate", v->quorate, "members", m);
}

static json_t *ops_json(const struct tfuse_stats *s)
{
	json_t *o = json_object();
	for (unsigned i = 0; i < TS_ARRAY_LEN(s->op_count); i++)
		if (s->op_count[i] && tfuse_op_name(i))
			json_object_set_new(o, tfuse_op_name(i), json_integer((json_int_t)s->op_count[i]));
	return o;
}

static json_t *log_json(struct mount *m)
{
	struct fs_stats s;
	fs_stats_get(m->fs, &s);
	return json_pack("{s:s,s:i,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "name", m->name, "slot", (int)s.slot,
			 "tail_lsn", (json_int_t)s.tail_lsn, "head_lsn", (json_int_t)s.head_lsn, "stable_lsn", (json_int_t)s.stable_lsn, "used_bytes",
			 (json_int_t)s.log_used_bytes, "size_bytes", (json_int_t)s.log_size_bytes, "forces", (json_int_t)s.log_forces, "frames",
			 (json_int_t)s.log_frames, "bytes", (json_int_t)s.log_bytes, "transactions", (json_int_t)s.tx_commits, "home_writes",
			 (json_int_t)s.home_writes, "checkpoints", (json_int_t)s.checkpoints, "intents", (json_int_t)s.intents, "dirty_bytes",
			 (json_int_t)s.dirty_bytes, "page_hits", (json_int_t)s.page_hits, "page_misses", (json_int_t)s.page_misses, "buffer_hits",
			 (json_int_t)s.buf_hits, "buffer_misses", (json_int_t)s.buf_misses);
}

static json_t *mount_json(struct mount *m)
{
	json_t *o = json_pack("{s:s,s:s,s:s,s:s}", "name", m->name, "dir", m->dir, "options", m->opts, "state",
			      m->state == MOUNT_LIVE ? "mounted" : m->state == MOUNT_STARTING ? "mounting" : "unmounting");
	if (m->tf) {
		struct tfuse_stats s;
		tfuse_stats_get(m->tf, &s);
		json_object_set_new(o, "fuse", json_pack("{s:i,s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:o}", "protocol_minor", (int)s.proto_minor,
							 "names_cached", s.keeps_names, "requests", (json_int_t)s.requests, "in_flight",
							 (json_int_t)s.in_flight, "nodes", (json_int_t)s.nodes, "inval_attr", (json_int_t)s.inval_attr,
							 "inval_data", (json_int_t)s.inval_data, "inval_names", (json_int_t)s.inval_names, "inval_retries",
							 (json_int_t)s.inval_retries, "inval_enoent", (json_int_t)s.inval_enoent, "sizes_told", (json_int_t)s.sizes_told, "sizes_settled", (json_int_t)s.sizes_settled, "names", (json_int_t)s.names,
							 "names_pruned", (json_int_t)s.names_pruned, "names_expired", (json_int_t)s.names_expired, "bounced",
							 (json_int_t)s.bounced, "epoch_bumps", (json_int_t)s.epoch_bumps, "ops", ops_json(&s)));
	}
	if (m->fs && m->state == MOUNT_LIVE) {
		struct tok_stats t;
		tok_stats_get(fs_tokens(m->fs), &t);
		json_object_set_new(o, "tokens", json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "held", (json_int_t)t.held, "mastered",
							   (json_int_t)t.mastered, "pins", (json_int_t)t.pins, "pin_hits", (json_int_t)t.pin_hits, "requests_sent",
							   (json_int_t)t.requests_sent, "revokes_received", (json_int_t)t.revokes_received, "revokes_sent",
							   (json_int_t)t.revokes_sent, "view_changes", (json_int_t)t.view_changes, "ahead_asked", (json_int_t)t.ahead_asked,
							   "ahead_came", (json_int_t)t.ahead_came, "ahead_used", (json_int_t)t.ahead_used, "ahead_refused",
							   (json_int_t)t.ahead_refused, "ahead_lost", (json_int_t)t.ahead_lost));
		struct tok_lock_stats k;
		tok_lock_stats_get(fs_tokens(m->fs), &k);
		json_object_set_new(o, "locks", json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "held", (json_int_t)k.locks, "inodes",
							  (json_int_t)k.inodes, "mastered", (json_int_t)k.mastered, "ops", (json_int_t)k.ops,
							  "local_ops", (json_int_t)k.local_ops, "messages_sent", (json_int_t)k.sent, "delegations",
							  (json_int_t)k.delegations, "recalls", (json_int_t)k.recalls, "deadlocks",
							  (json_int_t)k.deadlocks));
		json_object_set_new(o, "log", log_json(m));
	}
	json_object_set_new(o, "mounted_on", group_nodes(m->d, m->group));
	json_object_set_new(o, "pending_recovery", group_pending(m->d, m->group));
	return o;
}

json_t *status_mounts(struct daemon *d)
{
	json_t *a = json_array();
	ts_list_for(l, &d->mounts)
		json_array_append_new(a, mount_json(ts_list_entry(l, struct mount, link)));
	return a;
}

json_t *status_json(struct daemon *d)
{
	struct net_stats n = {0};
	uint64_t requests = 0;
	ts_list_for(l, &d->mounts) {
		struct mount *m = ts_list_entry(l, struct mount, link);
		struct tfuse_stats f = {0};
		if (m->tf)
			tfuse_stats_get(m->tf, &f);
		requests += f.requests;
	}
	if (d->net)
		net_stats_get(d->net, &n);
	uint64_t now = ts_exec_now(d->exec), until = quorum_lease_until_ns(d->quorum);
	return json_pack("{s:s,s:s,s:i,s:I,s:I,s:o,s:I,s:{s:I,s:I,s:I,s:I,s:I,s:I},s:{s:I},s:o,s:o,s:s}", "state", daemon_state(d), "cluster",
			 d->conf.cluster_name, "node", (int)d->conf.node_id, "incarnation", (json_int_t)d->incarnation, "uptime_ms",
			 (json_int_t)((now - d->started_ns) / TS_NS_PER_MS), "view", view_json(d), "lease_ms",
			 (json_int_t)(until > now ? (until - now) / TS_NS_PER_MS : 0), "net", "frames_sent", (json_int_t)n.frames_sent, "frames_received",
			 (json_int_t)n.frames_received, "bytes_sent", (json_int_t)n.bytes_sent, "bytes_received", (json_int_t)n.bytes_received, "resent",
			 (json_int_t)n.resent, "reconnects", (json_int_t)n.reconnects, "fuse", "requests", (json_int_t)requests, "disks", status_disks(d), "mounts", status_mounts(d),
			 "version", TESSERA_VERSION);
}

struct tokens {
	json_t *a;
	unsigned left;
	uint64_t now;
	const char *fs;
	const struct token_filter *f;
};

static bool wanted(const struct token_filter *f, const struct tok_info *i)
{
	return (!f->kind || !strcmp(f->kind, tok_kind_name(i->kind))) && (!f->by_id || f->id == i->id) && (!f->waiting || i->waiting || i->revoking);
}

static void one_token(void *arg, const struct tok_info *i)
{
	struct tokens *t = arg;
	if (!t->left || !wanted(t->f, i))
		return;
	t->left--;
	json_array_append_new(t->a, json_pack("{s:s,s:s,s:s,s:I,s:i,s:s,s:b,s:b,s:i,s:I}", "fs", t->fs, "role", i->mastered ? "master" : "holder",
					      "kind", tok_kind_name(i->kind), "id", (json_int_t)i->id, "node", (int)i->node, "mode",
					      tok_mode_name(i->mode), "waiting", i->waiting, "revoking", i->revoking, "pins", (int)i->pins, "since_ms",
					      (json_int_t)(t->now > i->since_ns ? (t->now - i->since_ns) / TS_NS_PER_MS : 0)));
}

json_t *diag_tokens(struct daemon *d, const struct token_filter *f)
{
	struct tokens t = {json_array(), f->limit, ts_exec_now(d->exec), NULL, f};
	ts_list_for(l, &d->mounts) {
		struct mount *m = ts_list_entry(l, struct mount, link);
		t.fs = m->name;
		if (m->fs && m->state == MOUNT_LIVE && (!f->name || !strcmp(f->name, m->name)))
			tok_each(fs_tokens(m->fs), one_token, &t);
	}
	return t.a;
}

static void one_lock(void *arg, const struct tok_lock_info *i)
{
	static const char *const types[] = {"none", "read", "write"};
	struct tokens *t = arg;
	if (!t->left)
		return;
	t->left--;
	json_array_append_new(t->a, json_pack("{s:s,s:s,s:I,s:i,s:I,s:s,s:s,s:I,s:I,s:b,s:b,s:i,s:I}", "fs", t->fs, "role",
					      i->mastered ? "master" : "holder", "id", (json_int_t)i->lock.ino, "node", (int)i->lock.node, "pid",
					      (json_int_t)i->lock.pid, "kind", i->lock.flock ? "flock" : "fcntl", "type", types[i->lock.type], "start",
					      (json_int_t)i->lock.start, "end", (json_int_t)i->lock.end, "waiting", i->waiting, "delegated",
					      i->delegated, "master", (int)i->master, "since_ms",
					      (json_int_t)(i->waiting && t->now > i->since_wall_ns ? (t->now - i->since_wall_ns) / TS_NS_PER_MS : 0)));
}

json_t *diag_locks(struct daemon *d, const char *name, unsigned limit)
{
	struct tokens t = {json_array(), limit, ts_wall_ns(ts_exec_env(d->exec)), NULL, NULL};
	ts_list_for(l, &d->mounts) {
		struct mount *m = ts_list_entry(l, struct mount, link);
		t.fs = m->name;
		if (m->fs && m->state == MOUNT_LIVE && (!name || !strcmp(name, m->name)))
			tok_lock_each(fs_tokens(m->fs), one_lock, &t);
	}
	return t.a;
}

json_t *diag_log(struct daemon *d, const char *name)
{
	json_t *a = json_array();
	ts_list_for(l, &d->mounts) {
		struct mount *m = ts_list_entry(l, struct mount, link);
		if (m->fs && m->state == MOUNT_LIVE && (!name || !strcmp(name, m->name)))
			json_array_append_new(a, log_json(m));
	}
	return a;
}
