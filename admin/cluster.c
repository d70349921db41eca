/* SPDX-License-Identifier: Apache-2.0 */
/* The cluster as seen from this node: membership, leases, and what every member says about itself. Must never happen: an answer that
 * waits longer than CLUSTER_WAIT_NS for a node that does not answer. */
#include "admin/daemon.h"
#include <stdio.h>
#include <sys/utsname.h>

#define CLUSTER_WAIT_NS (300 * TS_NS_PER_MS)

static uint64_t ms_since(uint64_t now, uint64_t then)
{
	return then && now > then ? (now - then) / TS_NS_PER_MS : 0;
}

/* ---- what a node says about itself ------------------------------------------------------------------------------------------ */

json_t *node_info(struct daemon *d)
{
	struct utsname u;
	json_t *mounts = json_array();
	uint64_t now = ts_exec_now(d->exec), until = quorum_lease_until_ns(d->quorum);
	unsigned count[SEV_COUNT] = {0};
	if (uname(&u))
		u.release[0] = 0;
	ts_list_for(l, &d->mounts) {
		struct mount *m = ts_list_entry(l, struct mount, link);
		if (m->state == MOUNT_LIVE)
			json_array_append_new(mounts, json_string(m->name));
	}
	for (unsigned i = 0; i < d->health.nrows; i++)
		count[conditions[d->health.rows[i].id].severity]++;
	return json_pack("{s:i,s:s,s:s,s:I,s:I,s:I,s:I,s:s,s:s,s:o,s:i,s:i,s:i}", "node", (int)d->conf.node_id, "state", daemon_state(d), "version",
			 TESSERA_VERSION, "incarnation", (json_int_t)d->incarnation, "uptime_ms", (json_int_t)((now - d->started_ns) / TS_NS_PER_MS),
			 "lease_left_ms", (json_int_t)(until > now ? (until - now) / TS_NS_PER_MS : 0), "time_ms",
			 (json_int_t)(ts_wall_ns(ts_exec_env(d->exec)) / TS_NS_PER_MS), "initiator", d->conf.initiator, "kernel", u.release, "mounts", mounts,
			 "critical", (int)count[SEV_CRITICAL], "errors", (int)count[SEV_ERROR], "warnings", (int)count[SEV_WARNING]);
}

json_t *cluster_status(struct daemon *d)
{
	unsigned nodes[QUORUM_MAX_NODES], n = route_members(d, nodes);
	json_t *pos = json_array(), *opt = json_object(), *rows = json_array(), *x;
	int64_t wall = (int64_t)(ts_wall_ns(ts_exec_env(d->exec)) / TS_NS_PER_MS);
	json_t *list = route_ask(d, verb_by_name("node info"), pos, opt, nodes, n, CLUSTER_WAIT_NS);
	size_t i;
	json_array_foreach(list, i, x) {
		json_t *data = json_object_get(x, "data"), *o;
		json_int_t took = json_integer_value(json_object_get(x, "took_ms"));
		if (json_is_true(json_object_get(x, "ok")) && json_is_object(data)) {
			o = json_deep_copy(data);
			json_object_set_new(o, "clock_ms", json_integer(json_integer_value(json_object_get(data, "time_ms")) - wall - took / 2));
		} else
			o = json_pack("{s:i,s:s,s:o}", "node", (int)nodes[i], "state", "does not answer", "mounts", json_array());
		json_object_set_new(o, "took_ms", json_integer(took));
		json_array_append_new(rows, o);
	}
	json_t *known = node_list(d);
	json_array_foreach(known, i, x) /* machines without a daemon in the view */
		if (strcmp(json_string_value(json_object_get(x, "state")), "member"))
			json_array_append_new(rows, json_pack("{s:O,s:O,s:o}", "node", json_object_get(x, "node"), "state", json_object_get(x, "state"), "mounts",
							      json_array()));
	json_decref(known);
	json_decref(list);
	json_decref(pos);
	json_decref(opt);
	return rows;
}

/* ---- membership and leases -------------------------------------------------------------------------------------------------- */

static json_t *member_json(struct daemon *d, const struct quorum_member *m, uint64_t now)
{
	uint64_t heard = quorum_heard_ns(d->quorum, m->node, m->incarnation), limit = ((uint64_t)d->conf.lease_ms + conf_times(&d->conf).margin_ms);
	uint64_t age = ms_since(now, heard);
	return json_pack("{s:i,s:I,s:s,s:b,s:I,s:I,s:s}", "node", (int)m->node, "incarnation", (json_int_t)m->incarnation, "addr", m->addr, "self",
			 m->node == d->conf.node_id, "renewal_age_ms", heard ? (json_int_t)age : (json_int_t)-1, "put_out_in_ms",
			 (json_int_t)(heard && age < limit ? limit - age : 0), "lease",
			 !heard ? "not heard yet" : age > d->conf.lease_ms ? "over" : age > d->conf.lease_ms / 2 ? "late" : "held");
}

static json_t *dead_json(struct daemon *d, uint64_t now)
{
	json_t *a = json_array();
	ts_list_for(l, &d->mounts) {
		struct mount *m = ts_list_entry(l, struct mount, link);
		const struct quorum_group_view *g = quorum_group_get(d->quorum, m->group);
		for (unsigned i = 0; g && i < g->npending; i++) {
			uint64_t end = quorum_dead_lease_end_ns(d->quorum, g->pending[i].node, g->pending[i].incarnation);
			json_array_append_new(a, json_pack("{s:i,s:I,s:s,s:I}", "node", (int)g->pending[i].node, "incarnation",
							   (json_int_t)g->pending[i].incarnation, "fs", m->name, "lease_left_ms",
							   (json_int_t)(end > now ? (end - now) / TS_NS_PER_MS : 0)));
		}
	}
	return a;
}

json_t *diag_leases(struct daemon *d)
{
	const struct quorum_view *v = quorum_view_get(d->quorum);
	struct quorum_times t = conf_times(&d->conf);
	struct quorum_look l;
	uint64_t now = ts_exec_now(d->exec), until = quorum_lease_until_ns(d->quorum);
	json_t *members = json_array();
	quorum_look_get(d->quorum, &l);
	for (unsigned i = 0; i < v->nmembers; i++)
		json_array_append_new(members, member_json(d, &v->members[i], now));
	return json_pack("{s:b,s:b,s:I,s:I,s:i,s:i,s:i,s:o,s:o}", "may_write", quorum_may_write(d->quorum), "suspended", l.suspended, "left_ms",
			 (json_int_t)(until > now ? (until - now) / TS_NS_PER_MS : 0), "renewal_age_ms", (json_int_t)ms_since(now, l.renewal_sent_ns), "lease_ms",
			 (int)t.lease_ms, "renew_ms", (int)t.renew_ms, "margin_ms", (int)t.margin_ms, "members", members, "dead", dead_json(d, now));
}

json_t *quorum_status(struct daemon *d) /* of the view: quorum_json() says whether and by what it stands */
{
	const struct quorum_view *v = quorum_view_get(d->quorum);
	struct quorum_look l;
	uint64_t now = ts_exec_now(d->exec);
	json_t *members = json_array(), *groups = json_array();
	quorum_look_get(d->quorum, &l);
	for (unsigned i = 0; i < v->nmembers; i++)
		json_array_append_new(members, member_json(d, &v->members[i], now));
	ts_list_for(p, &d->mounts) {
		struct mount *m = ts_list_entry(p, struct mount, link);
		const struct quorum_group_view *g = quorum_group_get(d->quorum, m->group);
		json_t *in = json_array();
		for (unsigned i = 0; g && i < g->nmembers; i++)
			json_array_append_new(in, json_integer(g->members[i].node));
		json_array_append_new(groups, json_pack("{s:s,s:I,s:o,s:i}", "fs", m->name, "epoch", g ? (json_int_t)g->epoch : 0, "members", in, "to_recover",
							g ? (int)g->npending : 0));
	}
	bool quorate = v->quorate && v->nmembers;
	return json_pack("{s:s,s:I,s:i,s:i,s:i,s:o,s:o}", "phase", l.phase, "phase_ms", (json_int_t)ms_since(now, l.phase_since_ns), "may_lose",
			 (int)(quorate && l.daemons > l.needed ? l.daemons - l.needed : 0), "leader", (int)l.leader, "node", (int)d->conf.node_id, "members", members,
			 "groups", groups);
}
