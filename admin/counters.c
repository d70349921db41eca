/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers that only grow, and distributions of times: for `top`, `diag iohist`, `diag net`. Looks, never waits. */
#include "admin/daemon.h"
#include <stdio.h>

static json_t *hist_json(const struct ts_hist *h)
{
	return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "count", (json_int_t)h->count, "mean_us", (json_int_t)(h->count ? h->sum_ns / h->count / 1000 : 0),
			 "p50_us", (json_int_t)ts_hist_us(h, 500), "p99_us", (json_int_t)ts_hist_us(h, 990), "max_us", (json_int_t)ts_hist_us(h, 1000), "sum_us",
			 (json_int_t)(h->sum_ns / 1000));
}

static void hist_row(json_t *a, const char *object, const char *what, const struct ts_hist *h)
{
	if (!h->count)
		return;
	json_t *o = hist_json(h);
	json_object_set_new(o, "object", json_string(object));
	json_object_set_new(o, "what", json_string(what));
	json_array_append_new(a, o);
}

json_t *diag_iohist(struct daemon *d)
{
	json_t *a = json_array();
	struct tfuse_stats *f = ts_alloc(sizeof(*f));
	ts_list_for(l, &d->disks) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		struct nsd_stats s;
		if (k->state != DISK_OPEN)
			continue;
		nsd_stats_get(k->dev, &s);
		hist_row(a, disk_shown(k), "disk read", &s.read_time);
		hist_row(a, disk_shown(k), "disk write", &s.write_time);
		hist_row(a, disk_shown(k), "disk flush", &s.flush_time);
	}
	ts_list_for(l, &d->mounts) {
		struct mount *m = ts_list_entry(l, struct mount, link);
		struct fs_stats s;
		struct tok_stats t;
		char what[40];
		if (m->state != MOUNT_LIVE || !m->fs || !m->tf || !f)
			continue;
		fs_stats_get(m->fs, &s);
		tok_stats_get(fs_tokens(m->fs), &t);
		tfuse_stats_get(m->tf, f);
		hist_row(a, m->name, "log force", &s.force_time);
		hist_row(a, m->name, "token wait", &t.wait_time);
		for (unsigned i = 0; i < TS_ARRAY_LEN(f->time); i++) {
			if (!tfuse_op_name(i))
				continue;
			snprintf(what, sizeof(what), "op %s", tfuse_op_name(i));
			hist_row(a, m->name, what, &f->time[i]);
		}
	}
	ts_free(f);
	return a;
}

struct peers {
	json_t *a;
	struct daemon *d;
};

static void one_peer(void *arg, const struct net_peer_info *i)
{
	struct peers *p = arg;
	const struct peer_info *k = i->node < TS_ARRAY_LEN(p->d->peers) ? &p->d->peers[i->node] : NULL;
	uint64_t now = ts_exec_now(p->d->exec);
	json_array_append_new(p->a, json_pack("{s:i,s:s,s:i,s:b,s:i,s:I,s:I,s:I,s:i}", "node", (int)i->node, "addr", i->addr, "port", (int)i->port, "connected",
					      i->connected, "attempts", (int)i->attempts, "unacknowledged", (json_int_t)i->unacked, "queued", (json_int_t)i->queued,
					      "connected_ms", (json_int_t)(i->connected && i->connected_ns ? (now - i->connected_ns) / TS_NS_PER_MS : 0), "misses",
					      k && k->incarnation == i->incarnation ? (int)k->misses : 0));
}

json_t *diag_net(struct daemon *d)
{
	struct peers p = {json_array(), d};
	net_tcp_each_peer(d->net, one_peer, &p);
	return p.a;
}

/* ---- for top ---------------------------------------------------------------------------------------------------------------- */

static void one_user(void *arg, const struct tfuse_user *u)
{
	json_array_append_new(arg, json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "pid", (json_int_t)u->pid, "uid", (json_int_t)u->uid, "ops", (json_int_t)u->ops,
					     "read_bytes", (json_int_t)u->read_bytes, "write_bytes", (json_int_t)u->write_bytes, "busy_us",
					     (json_int_t)(u->busy_ns / 1000)));
}

static json_t *fs_counters(struct mount *m, struct tfuse_stats *f)
{
	struct fs_stats s;
	struct tok_stats t;
	json_t *ops = json_object(), *users = json_array();
	fs_stats_get(m->fs, &s);
	tok_stats_get(fs_tokens(m->fs), &t);
	tfuse_stats_get(m->tf, f);
	tfuse_each_user(m->tf, one_user, users);
	for (unsigned i = 0; i < TS_ARRAY_LEN(f->op_count); i++)
		if (f->op_count[i] && tfuse_op_name(i))
			json_object_set_new(ops, tfuse_op_name(i), json_pack("{s:I,s:I}", "count", (json_int_t)f->time[i].count, "us",
									     (json_int_t)(f->time[i].sum_ns / 1000)));
	return json_pack("{s:s,s:I,s:I,s:o,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:o}", "name", m->name, "requests", (json_int_t)f->requests, "in_flight",
			 (json_int_t)f->in_flight, "ops", ops, "read_bytes", (json_int_t)s.data_read_bytes, "write_bytes", (json_int_t)s.data_write_bytes, "log_bytes",
			 (json_int_t)s.log_bytes, "log_forces", (json_int_t)s.log_forces, "transactions", (json_int_t)s.tx_commits, "token_requests",
			 (json_int_t)t.requests_sent, "revokes", (json_int_t)t.revokes_received, "token_waits", (json_int_t)t.wait_time.count, "token_wait_us",
			 (json_int_t)(t.wait_time.sum_ns / 1000), "dirty_bytes", (json_int_t)s.dirty_bytes, "users", users);
}

json_t *counters_json(struct daemon *d)
{
	json_t *mounts = json_array(), *disks = json_array();
	struct net_stats n = {0};
	struct tfuse_stats *f = ts_alloc(sizeof(*f));
	ts_list_for(l, &d->mounts) {
		struct mount *m = ts_list_entry(l, struct mount, link);
		if (f && m->state == MOUNT_LIVE && m->fs && m->tf)
			json_array_append_new(mounts, fs_counters(m, f));
	}
	ts_free(f);
	ts_list_for(l, &d->disks) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		struct nsd_stats s;
		if (k->state != DISK_OPEN)
			continue;
		nsd_stats_get(k->dev, &s);
		json_array_append_new(disks, json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:i}", "url", disk_shown(k), "reads", (json_int_t)s.reads, "writes", (json_int_t)s.writes,
						       "flushes", (json_int_t)s.flushes, "read_bytes", (json_int_t)s.read_bytes, "write_bytes", (json_int_t)s.write_bytes,
						       "busy_us", (json_int_t)((s.read_time.sum_ns + s.write_time.sum_ns + s.flush_time.sum_ns) / 1000), "in_flight",
						       (int)s.in_flight));
	}
	if (d->net)
		net_stats_get(d->net, &n);
	return json_pack("{s:i,s:I,s:o,s:o,s:{s:I,s:I,s:I,s:I}}", "node", (int)d->conf.node_id, "time_us", (json_int_t)(ts_exec_now(d->exec) / 1000), "mounts", mounts,
			 "disks", disks, "net", "frames_sent", (json_int_t)n.frames_sent, "frames_received", (json_int_t)n.frames_received, "bytes_sent",
			 (json_int_t)n.bytes_sent, "bytes_received", (json_int_t)n.bytes_received);
}
