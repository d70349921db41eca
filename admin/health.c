/* SPDX-License-Identifier: Apache-2.0 */
/* Looks for what is wrong, every second and whenever somebody asks. What may wait (other nodes, space of a file system) is asked for by
 * fibers of its own and looked at here as it last was. Must never happen: a look that waits or takes a token. */
#include "admin/daemon.h"
#include <stdio.h>

#define LOOK_NS	      TS_NS_PER_S
#define PEERS_NS      (5 * TS_NS_PER_S)
#define PEERS_WAIT_NS TS_NS_PER_S
#define SPACE_NS      (10 * TS_NS_PER_S)
#define WINDOW_NS     (10 * TS_NS_PER_S) /* disks: what is slow within that time */
#define RECENT_NS     (60 * TS_NS_PER_S)
#define STUCK_STEP_NS (30 * TS_NS_PER_S)
#define TOKENS_SCAN   20000 /* more tokens are not looked through every second */

static void found_node(struct daemon *d, enum condition_id id, unsigned node, const char *text)
{
	char object[24];
	snprintf(object, sizeof(object), "node %u", node);
	health_found(&d->health, d, id, object, "%s", text);
}

/* ---- membership ------------------------------------------------------------------------------------------------------------- */

static void look_quorum(struct daemon *d)
{
	struct health *h = &d->health;
	const struct quorum_view *v = quorum_view_get(d->quorum);
	uint64_t now = ts_exec_now(d->exec), lease = (uint64_t)d->conf.lease_ms * TS_NS_PER_MS;
	struct quorum_look l;
	quorum_look_get(d->quorum, &l);
	if (!v->quorate || !v->nmembers)
		health_found(h, d, HC_NO_QUORUM, d->conf.cluster_name, "%u of %u daemons that are needed; %s", l.daemons, l.needed, l.phase);
	else if (!quorum_may_write(d->quorum))
		health_found(h, d, HC_NO_LEASE, "this node", "no renewal has come back for %llu ms",
			     (unsigned long long)(l.renewal_sent_ns ? (now - l.renewal_sent_ns) / TS_NS_PER_MS : 0));
	else if (l.renewal_sent_ns && now - l.renewal_sent_ns > lease / 2)
		health_found(h, d, HC_LEASE_LATE, "this node", "the newest renewal was sent %llu ms ago, a lease is %u ms",
			     (unsigned long long)((now - l.renewal_sent_ns) / TS_NS_PER_MS), d->conf.lease_ms);
	for (unsigned i = 0; i < v->nmembers; i++) {
		const struct quorum_member *m = &v->members[i];
		uint64_t heard = quorum_heard_ns(d->quorum, m->node, m->incarnation);
		char text[96];
		if (m->node < TS_ARRAY_LEN(d->ever))
			d->ever[m->node] = true;
		if (m->node == d->conf.node_id || !heard || now < heard + lease / 2)
			continue;
		snprintf(text, sizeof(text), "its last renewal was %llu ms ago", (unsigned long long)((now - heard) / TS_NS_PER_MS));
		found_node(d, HC_NODE_SILENT, m->node, text);
	}
}

static void look_nodes(struct daemon *d)
{
	for (unsigned n = 1; n < TS_ARRAY_LEN(d->ever); n++) {
		bool up = quorum_machine_up(d->quorum, n);
		if (n == d->conf.node_id || (!d->ever[n] && !up) || node_member(d, n))
			continue;
		found_node(d, up ? HC_NODE_NO_DAEMON : HC_NODE_DOWN, n, up ? "corosync sees its machine" : "corosync does not see its machine");
	}
}

static void look_peers(struct daemon *d)
{
	struct health *h = &d->health;
	for (unsigned n = 1; n < TS_ARRAY_LEN(d->peers); n++) {
		const struct peer_info *p = &d->peers[n];
		char object[24], text[128];
		const struct quorum_member *m = node_member(d, n);
		if (!m || p->incarnation != m->incarnation || n == d->conf.node_id)
			continue;
		snprintf(object, sizeof(object), "node %u", n);
		if (p->misses > 1)
			health_found(h, d, HC_NODE_UNREACHABLE, object, "%u questions in a row had no answer within 1 s", p->misses);
		if (!p->known)
			continue;
		int64_t ms = p->clock_ns / (int64_t)TS_NS_PER_MS;
		if ((uint64_t)llabs(ms) > d->conf.warn_clock_ms)
			health_found(h, d, HC_CLOCKS_DIFFER, object, "its clock is %lld ms %s that of this node", (long long)llabs(ms), ms > 0 ? "before" : "behind");
		if (strcmp(p->version, TESSERA_VERSION))
			health_found(h, d, HC_VERSION_MISMATCH, object, "it runs %s, this node %s", p->version, TESSERA_VERSION);
		if (!strcmp(p->initiator, d->conf.initiator))
			health_found(h, d, HC_INITIATOR_TWICE, object, "it and this node are both %.180s", p->initiator);
		for (unsigned o = n + 1; o < TS_ARRAY_LEN(d->peers); o++)
			if (d->peers[o].known && node_member(d, o) && o != d->conf.node_id && !strcmp(d->peers[o].initiator, p->initiator)) {
				snprintf(text, sizeof(text), "it and node %u are both %.80s", o, p->initiator);
				found_node(d, HC_INITIATOR_TWICE, n, text);
			}
	}
}

/* ---- disks ------------------------------------------------------------------------------------------------------------------ */

/* It took longer than that: the lower bound of its bucket. */
static uint64_t slowest_us(const struct nsd_stats *now, const struct nsd_stats *old)
{
	struct ts_hist r = ts_hist_since(&now->read_time, &old->read_time), w = ts_hist_since(&now->write_time, &old->write_time),
		       f = ts_hist_since(&now->flush_time, &old->flush_time);
	return TS_MAX(TS_MAX(ts_hist_us(&r, 1000), ts_hist_us(&w, 1000)), ts_hist_us(&f, 1000)) / 2;
}

static void look_disk(struct daemon *d, struct disk *k, uint64_t now)
{
	struct health *h = &d->health;
	struct disk_watch *w = &k->watch;
	struct nsd_stats s;
	if (k->configured && k->state == DISK_FAILED)
		health_found(h, d, HC_DISK_CLOSED, disk_shown(k), "%s", k->error);
	if (k->state != DISK_OPEN)
		return;
	nsd_stats_get(k->dev, &s);
	uint64_t gen = nsd_session_gen(k->dev);
	if (!w->begun_ns || w->dev != k->dev)
		*w = (struct disk_watch){.dev = k->dev, .begun_ns = now, .then = s, .gen = gen, .errors = s.errors - s.fenced, .resends = s.resends};
	if (s.errors - s.fenced > w->errors) {
		w->errors = s.errors - s.fenced;
		w->error_ns = now;
	}
	if (gen != w->gen || s.resends > w->resends) {
		w->gen = gen;
		w->resends = s.resends;
		w->session_ns = now;
	}
	if (now > w->begun_ns + WINDOW_NS) {
		w->slow_us = slowest_us(&s, &w->then);
		w->then = s;
		w->begun_ns = now;
	}
	uint64_t slow = TS_MAX(w->slow_us, slowest_us(&s, &w->then));
	if (!nsd_info(k->dev)->has_reservations)
		health_found(h, d, HC_DISK_NO_RESERVATIONS, disk_shown(k), "fencing waits for leases");
	if (slow > (uint64_t)d->conf.warn_disk_ms * 1000)
		health_found(h, d, HC_DISK_SLOW, disk_shown(k), "the slowest answer took more than %llu ms", (unsigned long long)slow / 1000);
	if (w->error_ns && now < w->error_ns + RECENT_NS)
		health_found(h, d, HC_DISK_ERRORS, disk_shown(k), "%llu errors since it was opened, the last %llu s ago", (unsigned long long)w->errors,
			     (unsigned long long)((now - w->error_ns) / TS_NS_PER_S));
	if (w->session_ns && now < w->session_ns + RECENT_NS)
		health_found(h, d, HC_DISK_SESSION, disk_shown(k), "session %llu, %llu requests were sent again", (unsigned long long)gen, (unsigned long long)s.resends);
}

/* ---- file systems ----------------------------------------------------------------------------------------------------------- */

static unsigned percent(uint64_t used, uint64_t all)
{
	return all ? (unsigned)((used * 100 + all - 1) / all) : 0;
}

static void look_space(struct daemon *d, struct mount *m)
{
	struct health *h = &d->health;
	const struct statvfs *v = &m->vfs;
	struct fs_stats s;
	if (m->vfs_ns && v->f_blocks && percent(v->f_blocks - v->f_bavail, v->f_blocks) >= d->conf.warn_space)
		health_found(h, d, HC_SPACE_LOW, m->name, "%u %% used, %llu MiB left for data", percent(v->f_blocks - v->f_bavail, v->f_blocks),
			     (unsigned long long)(v->f_bavail * v->f_frsize >> 20));
	for (unsigned p = 0; m->vfs_ns && p < FS_POOLS_MAX && m->pools[1].name[0]; p++) { /* one pool of several: the others do not help it */
		const struct fs_pool_info *i = &m->pools[p];
		char object[128];
		snprintf(object, sizeof(object), "%s, pool %s", m->name, i->name);
		if (i->name[0] && i->size_bytes && percent(i->size_bytes - i->free_bytes, i->size_bytes) >= d->conf.warn_space)
			health_found(h, d, HC_SPACE_LOW, object, "%u %% used, %llu MiB left for data: files of this pool get ENOSPC when it is full",
				     percent(i->size_bytes - i->free_bytes, i->size_bytes), (unsigned long long)(i->free_bytes >> 20));
	}
	if (m->vfs_ns && v->f_files && percent(v->f_files - v->f_favail, v->f_files) >= d->conf.warn_space)
		health_found(h, d, HC_INODES_LOW, m->name, "%u %% used, %llu left", percent(v->f_files - v->f_favail, v->f_files), (unsigned long long)v->f_favail);
	fs_stats_get(m->fs, &s);
	if (s.log_size_bytes && percent(s.log_used_bytes, s.log_size_bytes) >= d->conf.warn_log)
		health_found(h, d, HC_LOG_FULL, m->name, "%u %% of %llu MiB used", percent(s.log_used_bytes, s.log_size_bytes),
			     (unsigned long long)s.log_size_bytes >> 20);
}

static void look_recovery(struct daemon *d, struct mount *m)
{
	struct health *h = &d->health;
	const struct quorum_group_view *g = quorum_group_get(d->quorum, m->group);
	struct fs_recovery_info i;
	uint64_t now = ts_exec_now(d->exec);
	fs_recovery_get(m->fs, &i);
	if ((g && g->npending) || i.step != FS_REC_IDLE)
		health_found(h, d, HC_RECOVERY_RUNNING, m->name, "node %u recovers node %u: step %s, attempt %u", i.coordinator,
			     i.node ? i.node : g && g->npending ? g->pending[0].node : 0, fs_recovery_step_name(i.step), i.attempts + 1);
	if (i.attempts && !strncmp(i.error, "fence", 5))
		health_found(h, d, HC_FENCING_FAILED, m->name, "%s", i.error);
	if ((i.attempts > 1 && i.error[0]) || (i.step != FS_REC_IDLE && now > i.since_ns + STUCK_STEP_NS))
		health_found(h, d, HC_RECOVERY_STUCK, m->name, "step %s, %u attempts failed%s%.200s", fs_recovery_step_name(i.step), i.attempts,
			     i.error[0] ? ", the last: " : "", i.error);
	if (m->rec_step == FS_REC_IDLE && i.step != FS_REC_IDLE)
		event_post(d, EV_RECOVERY_BEGUN, m->name, "of node %u", i.node ? i.node : g && g->npending ? g->pending[0].node : 0);
	if (m->rec_attempts < i.attempts && i.error[0]) /* without: the members changed meanwhile, and it begins anew */
		event_post(d, EV_RECOVERY_FAILED, m->name, "attempt %u: %.200s", i.attempts, i.error);
	struct fs_recovered past;
	if (fs_recovery_past(m->fs, &past, 1) && past.end_ns != m->rec_end_ns) {
		if (m->rec_known)
			event_post(d, EV_RECOVERY_DONE, m->name, "node %u: %zu records, %zu blocks in %llu ms", past.node, past.records, past.blocks,
				   (unsigned long long)((past.end_ns - past.begun_ns) / TS_NS_PER_MS));
		m->rec_end_ns = past.end_ns;
	}
	m->rec_known = true;
	m->rec_step = i.step;
	m->rec_attempts = i.attempts;
}

/* The longest wait of an operation of the mount; locks of applications may last. */
struct longest {
	uint64_t now, ms, count, limit_ms;
	struct tfuse_request r;
};
static void longest_wait(void *arg, const struct tfuse_request *r)
{
	struct longest *l = arg;
	uint64_t ms = r->waits_for && l->now > r->begun_ns ? (l->now - r->begun_ns) / TS_NS_PER_MS : 0;
	if (ms < l->limit_ms || (r->op && !strcmp(r->op, "setlkw")))
		return;
	l->count++;
	if (ms > l->ms) {
		l->ms = ms;
		l->r = *r;
	}
}

struct blocked {
	struct daemon *d;
	struct mount *m;
	uint64_t now;
	unsigned told;
};
static void blocked_revoke(void *arg, const struct tok_info *i)
{
	struct blocked *b = arg;
	uint64_t ms = i->since_ns && b->now > i->since_ns ? (b->now - i->since_ns) / TS_NS_PER_MS : 0;
	char object[128];
	if (!i->mastered || !i->revoking || i->waiting || ms < b->d->conf.warn_wait_ms || b->told++ >= 8)
		return;
	snprintf(object, sizeof(object), "%s, %s %llu, node %u", b->m->name, tok_kind_name(i->kind), (unsigned long long)i->id, i->node);
	health_found(&b->d->health, b->d, HC_REVOKE_BLOCKED, object, "node %u was asked %llu ms ago to give %s back", i->node, (unsigned long long)ms,
		     tok_mode_name(i->mode));
}

static void look_waits(struct daemon *d, struct mount *m)
{
	struct longest l = {.now = ts_exec_now(d->exec), .limit_ms = d->conf.warn_wait_ms};
	struct blocked b = {.d = d, .m = m, .now = l.now};
	struct tok_stats t;
	tfuse_each_request(m->tf, longest_wait, &l);
	if (l.count)
		health_found(&d->health, d, HC_OPERATION_STUCK, m->name, "%llu wait; longest: %s by process %u on inode %llu waits for %s, %llu ms",
			     (unsigned long long)l.count, l.r.op ? l.r.op : "?", l.r.pid, (unsigned long long)l.r.ino, l.r.waits_for, (unsigned long long)l.ms);
	tok_stats_get(fs_tokens(m->fs), &t);
	if (t.mastered + t.held < TOKENS_SCAN || l.count)
		tok_each(fs_tokens(m->fs), blocked_revoke, &b);
}

static void look_mount(struct daemon *d, struct mount *m)
{
	struct tfuse_stats *s = ts_alloc(sizeof(*s)); /* large for a stack */
	if (s)
		tfuse_stats_get(m->tf, s);
	if (s && s->proto_minor && !s->keeps_names && !strstr(m->opts, "nonamecache"))
		health_found(&d->health, d, HC_NO_NAME_CACHE, m->name, "the kernel speaks FUSE 7.%u, names need 7.45", s->proto_minor);
	ts_free(s);
	look_space(d, m);
	look_recovery(d, m);
	look_waits(d, m);
}

/* Mount points that were ours, and that the kernel still has though they are not. */
static void look_lost(struct daemon *d)
{
	char line[1024], dir[512];
	FILE *f = d->npast ? fopen("/proc/self/mountinfo", "re") : NULL;
	while (f && fgets(line, sizeof(line), f)) {
		if (!strstr(line, " - fuse.tessera ") || sscanf(line, "%*s %*s %*s %*s %511s", dir) != 1 || mount_find(d, dir))
			continue;
		for (unsigned i = 0; i < TS_MIN(d->npast, (unsigned)TS_ARRAY_LEN(d->past)); i++)
			if (!strcmp(d->past[i].dir, dir)) {
				health_found(&d->health, d, HC_MOUNT_LOST, d->past[i].name, "%.250s", dir);
				break;
			}
	}
	if (f)
		fclose(f);
}

static void look_hooks(struct daemon *d)
{
	json_t *o = hooks_json(d);
	json_int_t failed = json_integer_value(json_object_get(o, "failed")), dropped = json_integer_value(json_object_get(o, "dropped"));
	if (d->conf.hooks_dir[0] && (failed > d->hooks_told || dropped))
		health_found(&d->health, d, HC_HOOKS_FAILING, d->conf.hooks_dir, "%lld failed, %lld events dropped; last: %.150s", (long long)failed,
			     (long long)dropped, json_string_value(json_object_get(o, "last_error")));
	json_decref(o);
}

void health_look(struct daemon *d)
{
	uint64_t now = ts_exec_now(d->exec);
	health_begin(&d->health);
	look_quorum(d);
	look_nodes(d);
	look_peers(d);
	ts_list_for(l, &d->disks)
		look_disk(d, ts_list_entry(l, struct disk, link), now);
	ts_list_for(l, &d->mounts) {
		struct mount *m = ts_list_entry(l, struct mount, link);
		if (m->state == MOUNT_LIVE && m->fs && m->tf)
			look_mount(d, m);
	}
	look_lost(d);
	look_hooks(d);
	key_look(d);
	health_end(&d->health, d);
}

/* ---- what may wait ---------------------------------------------------------------------------------------------------------- */

static void peer_heard(struct daemon *d, unsigned node, const json_t *x, uint64_t begun, uint64_t wall)
{
	struct peer_info *p = &d->peers[node];
	const struct quorum_member *m = node_member(d, node);
	const json_t *data = json_object_get(x, "data");
	if (!m)
		return;
	if (p->incarnation != m->incarnation)
		*p = (struct peer_info){.incarnation = m->incarnation};
	if (!json_is_true(json_object_get(x, "ok")) || !data) {
		p->misses++;
		return;
	}
	const char *version = json_string_value(json_object_get(data, "version")), *initiator = json_string_value(json_object_get(data, "initiator"));
	uint64_t took = (uint64_t)json_integer_value(json_object_get(x, "took_ms")) * TS_NS_PER_MS;
	p->misses = 0;
	p->known = true;
	p->clock_ns = json_integer_value(json_object_get(data, "time_ms")) * (int64_t)TS_NS_PER_MS - (int64_t)(wall + took / 2);
	p->asked_ns = begun;
	snprintf(p->version, sizeof(p->version), "%s", version ? version : "?");
	snprintf(p->initiator, sizeof(p->initiator), "%s", initiator ? initiator : "?");
}

static void peers_fiber(void *arg)
{
	struct daemon *d = arg;
	unsigned all[QUORUM_MAX_NODES], nodes[QUORUM_MAX_NODES];
	while (!d->stopping && !d->excluded) {
		unsigned n = route_members(d, all), k = 0;
		for (unsigned i = 0; i < n; i++)
			if (all[i] != d->conf.node_id && all[i] < TS_ARRAY_LEN(d->peers))
				nodes[k++] = all[i];
		json_t *pos = json_array(), *opt = json_object(), *x;
		uint64_t begun = ts_exec_now(d->exec), wall = ts_wall_ns(ts_exec_env(d->exec));
		json_t *list = route_ask(d, verb_by_name("node info"), pos, opt, nodes, k, PEERS_WAIT_NS);
		size_t i;
		json_array_foreach(list, i, x)
			peer_heard(d, nodes[i], x, begun, wall);
		json_decref(list);
		json_decref(pos);
		json_decref(opt);
		ts_sleep_until(begun + PEERS_NS);
	}
}

static void health_fiber(void *arg)
{
	struct daemon *d = arg;
	uint64_t space_ns = 0;
	while (!d->stopping && !d->excluded) {
		uint64_t now = ts_exec_now(d->exec);
		if (now > space_ns) {
			space_ns = now + SPACE_NS;
			ts_list_for(l, &d->mounts)
				space_ask(ts_list_entry(l, struct mount, link));
		}
		health_look(d);
		ts_sleep_until(now + LOOK_NS);
	}
}

int health_open(struct daemon *d)
{
	int rc = ts_fiber_spawn(d->exec, "health", health_fiber, d);
	return rc ? rc : ts_fiber_spawn(d->exec, "health of others", peers_fiber, d);
}

json_t *health_json(struct daemon *d)
{
	static const enum severity order[] = {SEV_CRITICAL, SEV_ERROR, SEV_WARNING, SEV_INFO};
	json_t *a = json_array();
	uint64_t now = ts_exec_now(d->exec);
	bool any;
	health_look(d);
	for (size_t s = 0; s < TS_ARRAY_LEN(order); s++)
		for (unsigned i = 0; i < d->health.nrows; i++) {
			const struct health_row *r = &d->health.rows[i];
			const struct condition *c = &conditions[r->id];
			if (c->severity == order[s])
				json_array_append_new(a, json_pack("{s:s,s:s,s:s,s:s,s:I,s:I,s:s,s:s}", "condition", c->name, "severity", severity_name(c->severity),
								   "object", r->object, "detail", r->detail, "since_ms",
								   (json_int_t)(r->since_wall_ns / TS_NS_PER_MS), "age_ms", (json_int_t)((now - r->since_ns) / TS_NS_PER_MS),
								   "meaning", c->meaning, "todo", c->todo));
		}
	enum severity worst = health_worst(&d->health, &any);
	return json_pack("{s:i,s:s,s:s,s:o}", "node", (int)d->conf.node_id, "state", daemon_state(d), "worst", any ? severity_name(worst) : "ok", "conditions", a);
}
