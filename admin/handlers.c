/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon does for each verb. Bad input is refused before anything is changed, in one line with object, cause, remedy. */
#include "admin/daemon.h"
#include "admin/salvage.h"
#include <stdarg.h>
#include <stdio.h>

struct call {
	struct daemon *d;
	struct client *c;
	json_t *pos, *opt;
	struct answer *a;
};

static const char *pos_str(struct call *k, size_t i)
{
	return json_string_value(json_array_get(k->pos, i));
}

static const char *opt_str(struct call *k, const char *name)
{
	return json_string_value(json_object_get(k->opt, name));
}

static bool opt_set(struct call *k, const char *name)
{
	return json_object_get(k->opt, name) != NULL;
}

static void progress(void *arg, const char *step, unsigned permille)
{
	client_progress(arg, step, permille);
}

static void h_status(struct call *k) { k->a->data = status_json(k->d); }
static void h_disk_list(struct call *k)
{
	if (pos_str(k, 0)) {
		disk_verb_list(k->d, pos_str(k, 0), k->a);
		return;
	}
	(void)disks_label_refresh(k->d); /* what cannot be read is shown as failed */
	k->a->data = status_disks(k->d);
}
static void h_disk_show(struct call *k) { disk_verb_show(k->d, pos_str(k, 0), pos_str(k, 1), k->a); }
static void h_disk_places(struct call *k) { disk_verb_places(k->d, pos_str(k, 0), pos_str(k, 1), k->a); }
static void h_disk_add(struct call *k) { disk_verb_add(k->d, pos_str(k, 0), pos_str(k, 1), k->opt, k->a); }
static void h_pool_list(struct call *k) { pool_verb_list(k->d, pos_str(k, 0), k->a); }
static void h_pool_show(struct call *k) { pool_verb_show(k->d, pos_str(k, 0), pos_str(k, 1), k->a); }
static void h_layout_get(struct call *k) { layout_verb_get(k->d, pos_str(k, 0), k->a); }
static void h_layout_set(struct call *k) { layout_verb_set(k->d, pos_str(k, 0), k->opt, k->a); }
static void h_layout_migrate(struct call *k) { layout_verb_migrate(k->d, k->c, pos_str(k, 0), k->opt, k->a); }
static void h_disk_drain(struct call *k) { disk_verb_drain(k->d, k->c, pos_str(k, 0), pos_str(k, 1), k->opt, k->a); }
static void h_disk_grow(struct call *k) { disk_verb_grow(k->d, pos_str(k, 0), pos_str(k, 1), k->a); }
static void h_disk_remove(struct call *k) { disk_verb_remove(k->d, pos_str(k, 0), pos_str(k, 1), k->a); }
static void h_disk_rebalance(struct call *k) { disk_verb_rebalance(k->d, k->c, pos_str(k, 0), k->opt, k->a); }
static void h_fs_list(struct call *k)
{
	(void)disks_label_refresh(k->d);
	k->a->data = status_fs_list(k->d);
}
static void h_waiters(struct call *k) { k->a->data = diag_waiters(k->d, opt_set(k, "plain")); }
static void h_recovery(struct call *k) { k->a->data = diag_recovery(k->d, pos_str(k, 0)); }
static void h_node_list(struct call *k) { k->a->data = node_list(k->d); }
static void h_node_show(struct call *k) { node_show(k->d, pos_str(k, 0), opt_set(k, "keys"), k->a); }
static void h_node_fence(struct call *k) { node_fence(k->d, pos_str(k, 0), opt_set(k, "power"), opt_set(k, VERB_SURE), k->a); }
static void h_confirm_dead(struct call *k) { node_confirm_dead(k->d, k->c, pos_str(k, 0), opt_set(k, VERB_SURE), k->a); }
static void h_tie_show(struct call *k) { quorum_tie_show(k->d, k->a); }
static void h_tie_set(struct call *k) { quorum_tie_change(k->d, pos_str(k, 0), opt_set(k, "force"), k->a); }
static void h_tie_none(struct call *k) { quorum_tie_change(k->d, NULL, false, k->a); }
static void h_quorum_force(struct call *k) { quorum_force_verb(k->d, k->c, k->pos, opt_set(k, VERB_SURE), k->a); }
static void h_log(struct call *k) { k->a->data = diag_log(k->d, pos_str(k, 0)); }

static void h_umount(struct call *k)
{
	k->a->rc = mount_stop(k->d, pos_str(k, 0), opt_set(k, "lazy"), k->a->error, sizeof(k->a->error));
}

/* Of an option that verb_check() has passed; 0 when not given. */
static uint64_t opt_number(struct call *k, const char *name)
{
	const char *s = opt_str(k, name);
	uint64_t n = 0;
	return s && verb_size_parse(s, &n) == 0 ? n : 0;
}

/* What a node that has just started is waited for; what does not come is told by the mount itself. */
static void wait_ready(struct call *k, unsigned seconds)
{
	uint64_t until = ts_exec_now(k->d->exec) + seconds * TS_NS_PER_S;
	while (!k->d->stopping && !k->d->excluded && strcmp(daemon_state(k->d), "ready")) {
		client_progress(k->c, daemon_state(k->d), 0);
		if (ts_cond_wait_until(&k->d->changed, until, "node to be ready", 0, 0))
			return;
	}
}

static void h_mount(struct call *k)
{
	const char *o = opt_str(k, "options"), *name = pos_str(k, 0), *dir = pos_str(k, 1);
	uint64_t seconds = opt_number(k, "wait");
	if (seconds)
		wait_ready(k, (unsigned)seconds);
	const struct mount *m = opt_set(k, "again") ? mount_find(k->d, name) : NULL;
	if (m && m->state == MOUNT_LIVE && !strcmp(m->name, name) && !strcmp(m->dir, dir))
		return;
	if (k->d->stopping || k->d->excluded) {
		answer_refuse(k->a, -ESHUTDOWN, "mount: this node is %s; start tesserad again", daemon_state(k->d));
		return;
	}
	k->a->rc = mount_start(k->d, name, dir, o ? o : "", k->a->error, sizeof(k->a->error));
	if (k->a->rc)
		event_post(k->d, EV_MOUNT_FAILED, name, "%s", k->a->error);
}

static unsigned rows_max(struct call *k)
{
	uint64_t n = opt_number(k, "limit");
	return n ? (unsigned)n : 200;
}
static void h_tokens(struct call *k)
{
	struct token_filter f = {.name = pos_str(k, 0), .kind = opt_str(k, "kind"), .by_id = opt_set(k, "id"), .id = strtoull(opt_set(k, "id") ? opt_str(k, "id") : "0", NULL, 10),
				 .waiting = opt_set(k, "waiting"), .limit = rows_max(k)};
	k->a->data = diag_tokens(k->d, &f);
}
static void h_locks(struct call *k) { k->a->data = diag_locks(k->d, pos_str(k, 0), rows_max(k)); }

static bool group_in_use(struct call *k, const struct nsd_label_disk *l)
{
	const struct quorum_group_view *g = quorum_group_get(k->d->quorum, fs_group_of(l->fs_id));
	return g && g->nmembers;
}

static int disk_free_for_use(struct call *k, struct disk *dk, bool force)
{
	int rc = disk_label_refresh(dk);
	if (rc == 0 && tie_is(k->d, dk->url))
		return answer_refuse(k->a, -EBUSY, "disk %s: the cluster's tiebreaker is on it; first: tessera quorum tiebreaker none", dk->url);
	if (rc)
		return answer_refuse(k->a, rc, "disk %s: %s", dk->url, dk->error);
	switch (dk->label_state) {
	case NSD_LABEL_NONE:
		return 0;
	case NSD_LABEL_OK:
		if (group_in_use(k, &dk->label) || dk->mount)
			return answer_refuse(k->a, -EBUSY, "disk %s: carries the mounted file system %s; unmount it everywhere first", dk->url, dk->label.fs_name);
		if (!force)
			return answer_refuse(k->a, -EEXIST, "disk %s: carries the file system %s; --force destroys it", dk->url, dk->label.fs_name);
		return 0;
	default:
		if (!force)
			return answer_refuse(k->a, -EEXIST, "disk %s: carries %s; --force destroys it", dk->url, dk->label_what);
		return 0;
	}
}

static int name_free(struct call *k, const char *name, struct disk **use, unsigned n)
{
	ts_list_for(l, &k->d->disks) {
		struct disk *dk = ts_list_entry(l, struct disk, link);
		bool ours = false;
		for (unsigned i = 0; i < n; i++)
			ours |= use[i] == dk;
		if (!ours && dk->state == DISK_OPEN && dk->label_state == NSD_LABEL_OK && !strcmp(dk->label.fs_name, name))
			return answer_refuse(k->a, -EEXIST, "file system %s: the name is taken (disk %s); choose another", name, dk->url);
	}
	return 0;
}

/* "POOL=URL": the URL, and the pool's name if there is one. An URL has a slash before any '='. */
static const char *create_pool(const char *arg, char *pool, size_t n)
{
	size_t len = strcspn(arg, "=/:");
	if (arg[len] != '=')
		return arg;
	if (pool)
		snprintf(pool, n, "%.*s", (int)TS_MIN(len, n - 1), arg);
	return arg + len + 1;
}

/* The pool of each disk: as its argument says, else system for those that hold metadata and --pool for the others. */
static int create_pools(struct call *k, const struct fs_format_args *f, unsigned n, const char **pools, char (*names)[64])
{
	const char *rest = opt_str(k, "pool");
	if (rest && !f->meta_disks)
		return answer_refuse(k->a, -EINVAL, "fs create: --pool %s is for the disks behind those with metadata; use it with --metadata-disks, or write %s=URL", rest, rest);
	for (unsigned i = 0; i < n; i++) {
		names[i][0] = 0;
		(void)create_pool(pos_str(k, i + 1), names[i], sizeof(names[i]));
		pools[i] = names[i][0] ? names[i] : rest && i >= f->meta_disks ? rest : "system";
	}
	return 0;
}

static int create_disks(struct call *k, const char *name, struct disk **use, struct nsd_dev **devs, unsigned n, bool force)
{
	for (unsigned i = 0; i < n; i++) {
		const char *url = create_pool(pos_str(k, i + 1), NULL, 0);
		for (unsigned m = 0; m < i; m++)
			if (!strcmp(url, use[m]->url))
				return answer_refuse(k->a, -EINVAL, "disk %s: named twice", url);
		int rc = disk_open(k->d, url, &use[i], k->a->error, sizeof(k->a->error));
		if (rc)
			return k->a->rc = rc;
		devs[i] = use[i]->dev;
	}
	(void)disks_label_refresh(k->d); /* names on disks that cannot be read cannot be compared */
	int rc = name_free(k, name, use, n);
	for (unsigned i = 0; rc == 0 && i < n; i++)
		rc = disk_free_for_use(k, use[i], force);
	return rc;
}

static json_t *created_json(const char *name, struct disk **use, unsigned n)
{
	json_t *fencing = json_array();
	for (unsigned i = 0; i < n; i++) {
		json_t *o = json_pack("{s:s}", "disk", use[i]->url);
		able_json(use[i], o);
		json_array_append_new(fencing, o);
	}
	return json_pack("{s:s,s:i,s:o}", "name", name, "disks", (int)n, "fencing", fencing);
}

static int create_locked(struct call *k, const char *name, struct fs_format_args *f, bool force)
{
	unsigned n = (unsigned)json_array_size(k->pos) - 1;
	struct disk **use = ts_alloc(n * sizeof(*use));
	f->disks = ts_alloc(n * sizeof(*f->disks));
	f->ndisks = n;
	uint32_t *able = ts_alloc(n * sizeof(*able));
	uint8_t id[16];
	const char **pools = ts_alloc(n * sizeof(*pools));
	char (*names)[64] = ts_alloc(n * sizeof(*names));
	int rc = use && f->disks && able && pools && names ? create_pools(k, f, n, pools, names) : -ENOMEM;
	if (rc == 0)
		rc = create_disks(k, name, use, f->disks, n, force);
	f->pools = pools;
	bool have;
	f->able = able;
	if (rc == 0)
		rc = able_probe(k->d, use, n, able, k->a->error, sizeof(k->a->error));
	if (rc == 0) {
		rc = keys_register(k->d, use, n, &have, k->a->error, sizeof(k->a->error));
		if (rc == 0) {
			rc = fs_format(f, id, k->a->error, sizeof(k->a->error));
			keys_unregister(k->d, use, n);
		}
	}
	for (unsigned i = 0; rc == 0 && i < n; i++)
		rc = disk_label_refresh(use[i]);
	if (rc == 0)
		k->a->data = created_json(name, use, n);
	ts_free(use);
	ts_free(able);
	ts_free(pools);
	ts_free(names);
	ts_free(f->disks);
	return k->a->rc = rc;
}

static void h_fs_create(struct call *k)
{
	const char *name = pos_str(k, 0);
	if (!quorum_may_write(k->d->quorum)) {
		answer_refuse(k->a, -EAGAIN, "file system %s: this node has no quorum; start more nodes, see `tessera status`", name);
		return;
	}
	struct fs_format_args f = {
		.name = name, .meta_disks = (unsigned)opt_number(k, "metadata-disks"), .block_size = (uint32_t)opt_number(k, "block-size"), .log_slots = (uint32_t)opt_number(k, "log-slots"),
		.log_bytes = opt_number(k, "log-size"),
		.env = ts_exec_env(k->d->exec), .progress = progress, .arg = k->c,
	};
	memcpy(f.cluster_id, k->d->cluster_id, 16);
	ts_mutex_lock(&k->d->mount_lock, "another mount or format");
	if (create_locked(k, name, &f, opt_set(k, "force")) == 0) {
		ts_notice("file system %s: made on %u disks", name, f.ndisks);
		event_post(k->d, EV_FS_CREATED, name, "on %u disks", f.ndisks);
	}
	ts_mutex_unlock(&k->d->mount_lock);
}

static void fault_row(void *arg, const struct tfuse_fault *f)
{
	static const char *const actions[] = {[TF_FAULT_DELAY] = "delay", [TF_FAULT_HOLD] = "hold", [TF_FAULT_SKIP] = "skip"};
	char name[64];
	tfuse_fault_name(f->point, name, sizeof(name));
	json_array_append_new(arg, json_pack("{s:s,s:s,s:I,s:i,s:I,s:I,s:i,s:I}", "point", name, "action", actions[f->action], "ino", (json_int_t)f->ino,
					     "ms", (int)f->ms, "passed", (json_int_t)f->passed, "caught", (json_int_t)f->caught, "waiting",
					     (int)f->waiting, "timed_out", (json_int_t)f->timed_out));
}

static int fault_arm(struct call *k, struct tfuse *tf, const char *point)
{
	struct tfuse_fault f = {.action = opt_set(k, "skip") ? TF_FAULT_SKIP : opt_set(k, "delay") ? TF_FAULT_DELAY : TF_FAULT_HOLD};
	const char *ms = f.action == TF_FAULT_DELAY ? "delay" : "hold";
	f.ino = opt_number(k, "ino");
	f.nth = (unsigned)opt_number(k, "nth");
	f.times = (unsigned)opt_number(k, "times");
	f.ms = (unsigned)opt_number(k, ms);
	int rc = tfuse_fault_arm(tf, point, &f);
	if (rc == -ENOENT)
		return answer_refuse(k->a, rc, "fault point %s: there is none of that name; see `tessera help diag fault`", point);
	return rc == -EINVAL ? answer_refuse(k->a, rc, "fault point %s: it can only be skipped (--skip)", point) : rc;
}

static void h_fault(struct call *k)
{
	const char *name = pos_str(k, 0), *what = pos_str(k, 1), *point = pos_str(k, 2);
	struct mount *m = mount_find(k->d, name);
	if (!k->d->conf.fault_points) {
		answer_refuse(k->a, -EPERM, "diag fault: switched off; it is for tests, and needs `fault_points = yes` in the configuration of tesserad");
		return;
	}
	if (!m || m->state != MOUNT_LIVE) {
		answer_refuse(k->a, -ENOENT, "%s: not mounted on this node; see `tessera status`", name);
		return;
	}
	if (point && !strcmp(point, "recovery.fence")) {
		uint64_t times = opt_number(k, "times");
		fs_fault_fence(m->fs, strcmp(what, "arm") ? 0 : times ? (unsigned)times : UINT32_MAX);
	} else if (!strcmp(what, "list") && !point) {
		k->a->data = json_array();
		tfuse_fault_each(m->tf, fault_row, k->a->data);
	} else if (!strcmp(what, "clear") && !point)
		tfuse_fault_clear(m->tf);
	else if (!strcmp(what, "release") && point)
		k->a->data = json_pack("{s:i}", "released", (int)tfuse_fault_release(m->tf, point));
	else if (!strcmp(what, "arm") && point)
		k->a->rc = fault_arm(k, m->tf, point);
	else
		answer_refuse(k->a, -EINVAL, "diag fault %s %s: use list, clear, arm POINT or release POINT", name, what);
}

struct findings {
	json_t *list;
	struct client *c;
};

static void finding(void *arg, const char *text, bool repaired)
{
	struct findings *f = arg;
	if (json_array_size(f->list) < 1000)
		json_array_append_new(f->list, json_pack("{s:s,s:b}", "text", text, "repaired", repaired));
}

static void fsck_progress(void *arg, const char *step, unsigned permille)
{
	client_progress(((struct findings *)arg)->c, step, permille);
}

static int fsck_run(struct call *k, const char *name, struct disk **disks, unsigned n, struct fs_check_result *r, struct findings *f)
{
	struct nsd_dev **devs = ts_alloc(n * sizeof(*devs));
	bool have;
	if (!devs)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++)
		devs[i] = disks[i] ? disks[i]->dev : NULL;
	struct fs_check_args a = {.disks = devs, .ndisks = n, .repair = opt_set(k, "yes"), .env = ts_exec_env(k->d->exec),
				  .finding = finding, .progress = fsck_progress, .arg = f};
	int rc = keys_register(k->d, disks, n, &have, k->a->error, sizeof(k->a->error));
	if (rc == 0) {
		rc = fs_check(&a, true, r, k->a->error, sizeof(k->a->error));
		keys_unregister(k->d, disks, n);
	}
	ts_free(devs);
	return rc;
}

/* A disk may be named instead of the file system on it. */
static int fsck_name(struct call *k, const char *arg, const char **name)
{
	struct disk *dk;
	*name = arg;
	if (!strstr(arg, "://"))
		return 0;
	int rc = disk_open(k->d, arg, &dk, k->a->error, sizeof(k->a->error));
	if (rc)
		return rc;
	if (dk->label_state != NSD_LABEL_OK)
		return answer_refuse(k->a, -ENODEV, "disk %s: carries no file system of Tessera (%s%s%s); see `tessera disk list`", arg,
			      dk->label_state == NSD_LABEL_NONE ? "no label" : disk_label_word(dk->label_state), dk->label_what[0] ? ": " : "",
			      dk->label_what);
	*name = dk->label.fs_name;
	return 0;
}

static void h_fsck(struct call *k)
{
	const char *name = pos_str(k, 0);
	struct disk **disks = NULL;
	unsigned n;
	if (opt_set(k, "yes") && opt_set(k, "no-repair")) {
		answer_refuse(k->a, -EINVAL, "fsck %s: --yes and --no-repair exclude each other", name);
		return;
	}
	ts_mutex_lock(&k->d->mount_lock, "another mount or format");
	(void)disks_label_refresh(k->d); /* a disk that cannot be read is named below */
	int rc = fsck_name(k, name, &name);
	if (rc == 0)
		rc = disks_of_fs(k->d, name, &disks, &n, k->a->error, sizeof(k->a->error));
	if (rc == 0 && (group_in_use(k, &disks[0]->label) || disks[0]->mount))
		rc = answer_refuse(k->a, -EBUSY, "file system %s: mounted (see `tessera fs list`); unmount it on every node first", name);
	if (rc == 0 && !quorum_may_write(k->d->quorum))
		rc = answer_refuse(k->a, -EAGAIN, "file system %s: this node has no quorum; start more nodes, see `tessera status`", name);
	if (rc == 0) {
		struct findings f = {json_array(), k->c};
		struct fs_check_result r = {0};
		rc = fsck_run(k, name, disks, n, &r, &f);
		k->a->data = json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:b,s:o}", "name", name, "findings", (json_int_t)r.findings, "repaired",
				       (json_int_t)r.repaired, "inodes", (json_int_t)r.inodes, "dirs", (json_int_t)r.dirs, "files",
				       (json_int_t)r.files, "subs_used", (json_int_t)r.blocks_used, "replayed_logs", r.replayed_logs, "list", f.list);
		if (rc == 0 && r.findings > r.repaired)
			rc = answer_refuse(k->a, -EUCLEAN, "file system %s: %llu findings, %llu repaired; run `tessera fsck --yes %s`", name,
				    (unsigned long long)r.findings, (unsigned long long)r.repaired, name);
	}
	ts_free(disks);
	ts_mutex_unlock(&k->d->mount_lock);
	k->a->rc = rc;
}

static void h_salvage(struct call *k)
{
	struct salvage_args s = {.name = pos_str(k, 0), .dir = pos_str(k, 1), .lost = opt_str(k, "lost"), .memory_bytes = opt_number(k, "memory"), .verify = opt_set(k, "verify")};
	if (k->d->stopping || k->d->excluded)
		answer_refuse(k->a, -ESHUTDOWN, "salvage: this node is %s; start tesserad again", daemon_state(k->d));
	else
		salvage_verb(k->d, k->c, &s, k->a);
}

static void h_health(struct call *k) { k->a->data = health_json(k->d); }
static void h_config_list(struct call *k) { k->a->data = config_list(k->d); }
static void h_config_get(struct call *k) { config_get(k->d, pos_str(k, 0), k->a); }
static void h_config_set(struct call *k) { config_set(k->d, pos_str(k, 0), pos_str(k, 1), k->a); }
static void h_node_info(struct call *k) { k->a->data = node_info(k->d); }
static void h_cluster_status(struct call *k) { k->a->data = cluster_status(k->d); }
static void h_web(struct call *k) { k->a->data = web_json(k->d); }
static void h_key_status(struct call *k) { k->a->data = key_status(k->d); }
static void h_key_rotate(struct call *k) { key_rotate(k->d, opt_set(k, "without-away"), opt_str(k, "stop-after"), k->a); }
static void h_quorum_status(struct call *k)
{
	json_t *view = quorum_status(k->d);
	k->a->data = quorum_json(k->d);
	json_object_update(k->a->data, view);
	json_decref(view);
}
static void h_leases(struct call *k) { k->a->data = diag_leases(k->d); }
static void h_iohist(struct call *k) { k->a->data = diag_iohist(k->d); }
static void h_net(struct call *k) { k->a->data = diag_net(k->d); }
static void h_counters(struct call *k) { k->a->data = counters_json(k->d); }
static void h_fs_df(struct call *k) { fs_df(k->d, pos_str(k, 0), k->a); }
static void h_fs_show(struct call *k)
{
	(void)disks_label_refresh(k->d);
	fs_show(k->d, pos_str(k, 0), k->a);
}

static void h_fs_set(struct call *k) { fs_set(k->d, pos_str(k, 0), pos_str(k, 1), pos_str(k, 2), k->a); }

static void h_events(struct call *k)
{
	if (opt_set(k, "hooks")) {
		k->a->data = hooks_json(k->d);
		return;
	}
	uint64_t since = opt_set(k, "since") ? strtoull(opt_str(k, "since"), NULL, 10) : 0;
	k->a->data = events_json(k->d, since, rows_max(k), (unsigned)opt_number(k, "wait"));
}

static void one_line(void *arg, enum ts_log_level level, uint64_t wall_ns, const char *text)
{
	char line[TS_LOG_KEPT_BYTES];
	snprintf(line, sizeof(line), "%s", text);
	text_make_utf8(line);
	json_array_append_new(arg, json_pack("{s:I,s:i,s:s}", "time_ms", (json_int_t)(wall_ns / TS_NS_PER_MS), "level", (int)level, "text", line));
}

static void h_messages(struct call *k)
{
	k->a->data = json_array();
	ts_log_each(rows_max(k), one_line, k->a->data);
}

/* What a completion offers: names of file systems, mounts, nodes, disks. */
static void h_names(struct call *k)
{
	static const struct {
		const char *kind;
		json_t *(*list)(struct daemon *d);
		const char *key;
	} rows[] = {{"fs", status_fs_list, "name"}, {"mount", status_mounts, "name"}, {"node", node_list, "node"}, {"disk", status_disks, "url"}};
	k->a->data = json_array();
	for (size_t i = 0; i < TS_ARRAY_LEN(rows); i++) {
		if (strcmp(rows[i].kind, pos_str(k, 0)))
			continue;
		json_t *list = rows[i].list(k->d), *x;
		size_t n;
		json_array_foreach(list, n, x) {
			json_t *v = json_object_get(x, rows[i].key);
			json_array_append_new(k->a->data, json_is_integer(v) ? json_sprintf("%lld", (long long)json_integer_value(v)) : json_incref(v));
		}
		json_decref(list);
	}
}

static const struct {
	const char *verb;
	void (*fn)(struct call *k);
	bool needs_quorum_state;
} handlers[] = {
	{"status", h_status, false},	 {"fs create", h_fs_create, true}, {"fs list", h_fs_list, false},
	{"disk list", h_disk_list, false}, {"mount", h_mount, true},	   {"umount", h_umount, false},
	{"fsck", h_fsck, true},		 {"salvage", h_salvage, true},		 {"diag waiters", h_waiters, false}, {"diag tokens", h_tokens, false},
	{"node list", h_node_list, false}, {"node show", h_node_show, false}, {"node fence", h_node_fence, true},
	{"node confirm-dead", h_confirm_dead, true}, {"diag recovery", h_recovery, false},
	{"quorum tiebreaker show", h_tie_show, false},
	{"quorum tiebreaker set", h_tie_set, true}, {"quorum tiebreaker none", h_tie_none, true},
	{"quorum force", h_quorum_force, true},
	{"names", h_names, false},	 {"health", h_health, false},	     {"events", h_events, false},
	{"config list", h_config_list, false}, {"config get", h_config_get, false}, {"config set", h_config_set, true},
	{"node info", h_node_info, false}, {"cluster status", h_cluster_status, false}, {"quorum status", h_quorum_status, false},
	{"web", h_web, false}, {"cluster key status", h_key_status, false}, {"cluster key rotate", h_key_rotate, true},
	{"diag leases", h_leases, false}, {"diag iohist", h_iohist, false},    {"diag net", h_net, false},
	{"diag counters", h_counters, false}, {"diag messages", h_messages, false}, {"fs df", h_fs_df, false},
	{"fs show", h_fs_show, false},   {"fs set", h_fs_set, true},
	{"disk show", h_disk_show, false}, {"disk places", h_disk_places, false}, {"disk add", h_disk_add, true},
	{"pool list", h_pool_list, false}, {"pool show", h_pool_show, false}, {"layout get", h_layout_get, false},
	{"layout set", h_layout_set, true}, {"layout migrate", h_layout_migrate, true},
	{"disk drain", h_disk_drain, true}, {"disk grow", h_disk_grow, true}, {"disk remove", h_disk_remove, true}, {"disk rebalance", h_disk_rebalance, true},
	{"diag log", h_log, false},	 {"diag locks", h_locks, false}, {"diag fault", h_fault, false},
};

/* A message of ours holds what the asker or a target wrote, and may be cut within a character: JSON takes neither. */
void text_make_utf8(char *s)
{
	json_t *o = json_string(s);
	for (; !o && *s; s++)
		if ((unsigned char)*s >= 0x80)
			*s = '?';
	json_decref(o);
}

int answer_refuse(struct answer *a, int rc, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(a->error, sizeof(a->error), fmt, ap);
	va_end(ap);
	return a->rc = rc;
}

json_t *answer_json(struct answer *a, const char *name)
{
	if (a->rc && !a->error[0])
		snprintf(a->error, sizeof(a->error), "%s: %s", name, strerror(-a->rc));
	text_make_utf8(a->error);
	if (a->rc)
		return json_pack("{s:b,s:s,s:i,s:o*}", "ok", 0, "error", a->error, "errno", -a->rc, "data", a->data);
	return json_pack("{s:b,s:o}", "ok", 1, "data", a->data ? a->data : json_object());
}

void handle_verb(struct daemon *d, struct client *c, const struct verb *v, json_t *pos, json_t *opt, struct answer *a)
{
	struct call k = {d, c, pos, opt, a};
	a->rc = verb_check(v, pos, opt, a->error, sizeof(a->error));
	if (a->rc)
		return;
	for (size_t i = 0; i < TS_ARRAY_LEN(handlers); i++)
		if (!strcmp(handlers[i].verb, v->name)) {
			if (handlers[i].needs_quorum_state && (d->stopping || d->excluded))
				answer_refuse(a, -ESHUTDOWN, "%s: this node is %s; start tesserad again", v->name, daemon_state(d));
			else
				handlers[i].fn(&k);
			return;
		}
	answer_refuse(a, -ENOSYS, "%s: no handler", v->name);
}
