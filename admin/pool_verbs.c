/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon does for the verbs about pools of a mounted file system, and about layouts of its files. A file is named NAME:INODE: the command
 * has looked it up. Must never happen: a path looked up here, through a mount of ours. */
#include "admin/daemon.h"
#include <ctype.h>
#include <stdio.h>

static json_t *pool_row(const struct mount *m, const struct fs_pool_info *p)
{
	uint64_t used = p->size_bytes - TS_MIN(p->free_bytes, p->size_bytes);
	return json_pack("{s:s,s:s,s:i,s:I,s:I,s:I,s:i}", "name", m->name, "pool", p->name, "disks", (int)p->disks, "size_bytes", (json_int_t)p->size_bytes,
			 "used_bytes", (json_int_t)used, "free_bytes", (json_int_t)p->free_bytes, "used_percent",
			 p->size_bytes ? (int)((used * 100 + p->size_bytes - 1) / p->size_bytes) : 0);
}

static int pools_of(struct mount *m, struct fs_pool_info p[FS_POOLS_MAX], struct answer *a)
{
	int rc = fs_pools_get(m->fs, p);
	return rc ? answer_refuse(a, rc, "file system %s: the space of its pools cannot be looked at: %s", m->name, strerror(-rc)) : 0;
}

void pool_verb_list(struct daemon *d, const char *name, struct answer *a)
{
	char names[16][64];
	unsigned n = 0;
	ts_list_for(l, &d->mounts) { /* names first: a mount may go while another is asked */
		struct mount *m = ts_list_entry(l, struct mount, link);
		if (m->state == MOUNT_LIVE && m->fs && n < TS_ARRAY_LEN(names) && (!name || !strcmp(name, m->name)))
			memcpy(names[n++], m->name, sizeof(m->name));
	}
	if (name && !n) {
		(void)mount_live(d, name, a);
		return;
	}
	a->data = json_array();
	for (unsigned i = 0; i < n && !a->rc; i++) {
		struct fs_pool_info p[FS_POOLS_MAX];
		struct mount *m = mount_find(d, names[i]);
		if (!m || !mount_still(m))
			continue;
		mount_begin(m);
		for (unsigned k = 0; pools_of(m, p, a) == 0 && k < FS_POOLS_MAX; k++)
			if (p[k].name[0])
				json_array_append_new(a->data, pool_row(m, &p[k]));
		mount_end(m);
	}
	if (a->rc) {
		json_decref(a->data);
		a->data = NULL;
	}
}

static void show(struct mount *m, const char *pool, struct answer *a)
{
	struct fs_pool_info p[FS_POOLS_MAX];
	struct fs_disks_status s;
	unsigned k = 0;
	if (pools_of(m, p, a))
		return;
	while (k < FS_POOLS_MAX && strcmp(p[k].name, pool))
		k++;
	if (k == FS_POOLS_MAX || !pool[0]) {
		answer_refuse(a, -ENOENT, "file system %s: no pool of it is named %s; see `tessera pool list %s`", m->name, pool, m->name);
		return;
	}
	int rc = mount_still(m) ? fs_disks_status(m->fs, &s) : -ESHUTDOWN;
	if (rc) {
		answer_refuse(a, rc, "file system %s: its disks cannot be looked at: %s", m->name, strerror(-rc));
		return;
	}
	json_t *disks = json_array();
	for (unsigned i = 0; i < s.ndisks; i++)
		if (s.disk[i].pool == k && strcmp(fs_disk_state_name(s.disk[i].state), "gone"))
			json_array_append_new(disks, disk_row(m, i, &s.disk[i]));
	ts_free(s.disk);
	a->data = pool_row(m, &p[k]);
	json_object_set_new(a->data, "disk_list", disks);
}

void pool_verb_show(struct daemon *d, const char *name, const char *pool, struct answer *a)
{
	struct mount *m = mount_live(d, name, a);
	if (!m)
		return;
	mount_begin(m);
	show(m, pool, a);
	mount_end(m);
}

/* ---- layouts ---------------------------------------------------------------------------------------------------------------- */

/* "NAME:INODE", live here; NULL: refused. */
static struct mount *file_of(struct daemon *d, const char *file, uint64_t *ino, struct answer *a)
{
	const char *colon = strrchr(file, ':');
	char name[64], *end;
	*ino = colon && isdigit((unsigned char)colon[1]) ? strtoull(colon + 1, &end, 10) : 0;
	if (!*ino || *end || (size_t)(colon - file) >= sizeof(name)) {
		answer_refuse(a, -ENOENT, "%.300s: no file or directory of a Tessera file system that is mounted on this node; see `tessera fs list`", file);
		return NULL;
	}
	snprintf(name, sizeof(name), "%.*s", (int)(colon - file), file);
	return mount_live(d, name, a);
}

static int refuse_file(const struct mount *m, uint64_t ino, int rc, const char *pool, struct answer *a)
{
	char what[96];
	snprintf(what, sizeof(what), "file system %s, inode %llu", m->name, (unsigned long long)ino);
	switch (rc) {
	case -ESTALE:
		return answer_refuse(a, -ENOENT, "%s: there is no such inode; see `ls -i`", what);
	case -ENOENT:
		return answer_refuse(a, rc, "%s: no pool of the file system is named %s; see `tessera pool list %s`", what, pool ? pool : "?", m->name);
	case -EBUSY:
		return answer_refuse(a, rc, "%s: the file has blocks and keeps its pool; use `tessera layout migrate --pool %s`", what, pool ? pool : "POOL");
	case -EOPNOTSUPP:
		return answer_refuse(a, rc, "%s: only files and directories have a layout, only files can be migrated, and only if the file system knows of pools (one made by "
				     "an older version does from its first `disk add --pool` on)", what);
	case -ENOSPC:
		return answer_refuse(a, rc, "%s: pool %s is full: some blocks stay where they were; see `tessera pool list %s`, make room, and say it again", what,
				     pool ? pool : "of the file", m->name);
	case -EPERM:
		return answer_refuse(a, rc, "%s: it is immutable or append-only; see chattr(1)", what);
	case -EROFS:
		return answer_refuse(a, rc, "%s: mounted read-only on this node; do it on one where it is not", what);
	default:
		return answer_refuse(a, rc, "%s: %s", what, strerror(abs(rc)));
	}
}

static json_t *layout_json(const struct mount *m, uint64_t ino, const struct fs_layout *l)
{
	return json_pack("{s:s,s:I,s:s,s:s,s:i,s:i,s:b}", "name", m->name, "inode", (json_int_t)ino, "type", l->dir ? "directory" : "file", "pool", l->pool,
			 "stripe", (int)l->stripe, "block_size", (int)l->block_size, "elsewhere", l->elsewhere);
}

static int get(struct mount *m, uint64_t ino, struct answer *a)
{
	struct fs_layout l;
	int rc = fs_layout_get(m->fs, ino, &l);
	if (rc)
		return refuse_file(m, ino, rc, NULL, a);
	a->data = layout_json(m, ino, &l);
	return 0;
}

static void places(struct mount *m, uint64_t ino, struct answer *a)
{
	struct fs_disks_status s = {.ndisks = 0};
	uint64_t *bytes = NULL;
	unsigned n = 0;
	int rc = mount_still(m) ? fs_file_places(m->fs, ino, &bytes, &n) : -ESHUTDOWN;
	if (rc == 0)
		rc = mount_still(m) ? fs_disks_status(m->fs, &s) : -ESHUTDOWN;
	json_t *v = json_array();
	for (unsigned i = 0; rc == 0 && i < TS_MIN(n, s.ndisks); i++)
		if (bytes[i]) {
			json_t *row = disk_row(m, i, &s.disk[i]);
			json_array_append_new(v, json_pack("{s:i,s:O,s:s,s:I}", "number", (int)i, "url", json_object_get(row, "url"), "pool", s.disk[i].pool_name,
							   "bytes", (json_int_t)bytes[i]));
			json_decref(row);
		}
	json_object_set_new(a->data, "disks", v);
	if (rc)
		refuse_file(m, ino, rc, NULL, a);
	if (rc == 0)
		ts_free(s.disk);
	ts_free(bytes);
}

void layout_verb_get(struct daemon *d, const char *file, struct answer *a)
{
	uint64_t ino;
	struct mount *m = file_of(d, file, &ino, a);
	if (!m)
		return;
	mount_begin(m);
	if (get(m, ino, a) == 0)
		places(m, ino, a);
	mount_end(m);
}

/* The name of --pool; false: refused. */
static bool pool_opt(json_t *opt, const char **pool, struct answer *a)
{
	*pool = json_string_value(json_object_get(opt, "pool"));
	if (!*pool || ((*pool)[0] && strlen(*pool) < FS_POOL_NAME_BYTES && verb_name_ok(*pool)))
		return true;
	answer_refuse(a, -EINVAL, "--pool '%.40s': not the name of a pool; use 1 to 31 letters, digits, '_', '.', '-'", *pool);
	return false;
}

void layout_verb_set(struct daemon *d, const char *file, json_t *opt, struct answer *a)
{
	const char *stripe = json_string_value(json_object_get(opt, "stripe")), *pool;
	struct fs_layout_set s = {.stripe = stripe ? atoi(stripe) : -1};
	uint64_t ino;
	if (!pool_opt(opt, &pool, a))
		return;
	if (!pool && !stripe) {
		answer_refuse(a, -EINVAL, "layout set: neither --pool nor --stripe is said; see `tessera help layout set`");
		return;
	}
	struct mount *m = file_of(d, file, &ino, a);
	if (!m)
		return;
	if (pool)
		strcpy(s.pool, pool);
	mount_begin(m);
	int rc = fs_layout_set(m->fs, ino, &s);
	if (rc)
		refuse_file(m, ino, rc, pool, a);
	else if (mount_still(m))
		(void)get(m, ino, a); /* a->rc */
	mount_end(m);
}

#define SHOW_NS (500 * TS_NS_PER_MS)
struct migration {
	struct mount *m;
	struct client *c;
	uint64_t shown_ns, total;
};
static void migrated(void *arg, uint64_t bytes)
{
	struct migration *g = arg;
	uint64_t now = ts_exec_now(g->m->d->exec);
	char step[64];
	if (now < g->shown_ns + SHOW_NS)
		return;
	g->shown_ns = now;
	snprintf(step, sizeof(step), "%llu MiB moved", (unsigned long long)(bytes >> 20));
	client_progress(g->c, step, g->total ? (unsigned)(TS_MIN(bytes, g->total) * 1000 / g->total) : 0);
}

/* All of it, as if none were there already. */
static uint64_t bytes_of(struct mount *m, uint64_t ino)
{
	uint64_t *bytes, sum = 0;
	unsigned n;
	if (fs_file_places(m->fs, ino, &bytes, &n))
		return 0;
	for (unsigned i = 0; i < n; i++)
		sum += bytes[i];
	ts_free(bytes);
	return sum;
}

void layout_verb_migrate(struct daemon *d, struct client *c, const char *file, json_t *opt, struct answer *a)
{
	const char *pool;
	uint64_t ino, moved = 0;
	struct fs_layout l;
	struct mount *m = pool_opt(opt, &pool, a) ? file_of(d, file, &ino, a) : NULL;
	if (!m)
		return;
	mount_begin(m);
	struct migration g = {m, c, ts_exec_now(d->exec), bytes_of(m, ino)};
	int rc = mount_still(m) ? fs_layout_migrate(m->fs, ino, pool, migrated, &g, &moved) : -ESHUTDOWN;
	if (rc == 0)
		rc = mount_still(m) ? fs_layout_get(m->fs, ino, &l) : -ESHUTDOWN;
	if (rc)
		refuse_file(m, ino, rc, pool, a);
	else
		a->data = json_pack("{s:s,s:I,s:s,s:I}", "name", m->name, "inode", (json_int_t)ino, "pool", l.pool, "moved_bytes", (json_int_t)moved);
	mount_end(m);
}
