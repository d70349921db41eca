/* SPDX-License-Identifier: Apache-2.0 */
/* `fs df` and `fs show`: the space of a mounted file system, asked for by a fiber of its own, because it may wait for quorum, and told as
 * it last was if that takes long. Must never happen: a file system torn down while it is asked (mount.asking). */
#include "admin/daemon.h"
#include <stdio.h>

#define SPACE_WAIT_NS (200 * TS_NS_PER_MS)

static void ask_fiber(void *arg)
{
	struct mount *m = arg;
	struct fs_pool_info pools[FS_POOLS_MAX];
	struct statvfs v;
	if (fs_statfs(m->fs, &v) == 0) {
		if (fs_pools_get(m->fs, pools) == 0)
			memcpy(m->pools, pools, sizeof(pools));
		m->vfs = v;
		m->vfs_ns = ts_exec_now(m->d->exec);
	}
	m->asking = false;
	ts_cond_broadcast(&m->d->changed);
}

void space_ask(struct mount *m)
{
	if (m->asking || m->state != MOUNT_LIVE || !m->fs)
		return;
	m->asking = true;
	if (ts_fiber_spawn(m->d->exec, "space", ask_fiber, m))
		m->asking = false;
}

static void space_fresh(struct daemon *d, struct mount *m)
{
	uint64_t deadline = ts_exec_now(d->exec) + SPACE_WAIT_NS;
	m->users++;
	space_ask(m);
	while (m->asking)
		if (ts_cond_wait_until(&d->changed, deadline, "space of a file system", 0, 0))
			break;
	m->users--;
	ts_cond_broadcast(&d->changed);
}

static json_t *space_json(struct daemon *d, const struct mount *m)
{
	const struct statvfs *v = &m->vfs;
	uint64_t used = v->f_blocks - v->f_bavail;
	if (!m->vfs_ns)
		return NULL;
	return json_pack("{s:I,s:I,s:I,s:i,s:I,s:I,s:i,s:I}", "size_bytes", (json_int_t)(v->f_blocks * v->f_frsize), "used_bytes", (json_int_t)(used * v->f_frsize),
			 "free_bytes", (json_int_t)(v->f_bavail * v->f_frsize), "used_percent", v->f_blocks ? (int)((used * 100 + v->f_blocks - 1) / v->f_blocks) : 0,
			 "inodes", (json_int_t)v->f_files, "inodes_free", (json_int_t)v->f_favail, "inodes_used_percent",
			 v->f_files ? (int)(((v->f_files - v->f_favail) * 100 + v->f_files - 1) / v->f_files) : 0, "age_ms",
			 (json_int_t)((ts_exec_now(d->exec) - m->vfs_ns) / TS_NS_PER_MS));
}

void fs_df(struct daemon *d, const char *name, struct answer *a)
{
	char names[16][64];
	unsigned n = 0;
	ts_list_for(l, &d->mounts) { /* names first: a mount may go while another is asked */
		struct mount *m = ts_list_entry(l, struct mount, link);
		if (m->state == MOUNT_LIVE && n < TS_ARRAY_LEN(names) && (!name || !strcmp(name, m->name)))
			memcpy(names[n++], m->name, sizeof(m->name));
	}
	if (name && !n) {
		a->rc = -ENOENT;
		snprintf(a->error, sizeof(a->error), "file system %s: not mounted on this node, and its space is known only where it is; see `tessera fs list`", name);
		return;
	}
	a->data = json_array();
	for (unsigned i = 0; i < n; i++) {
		struct mount *m = mount_find(d, names[i]);
		if (!m)
			continue;
		space_fresh(d, m);
		m = mount_find(d, names[i]);
		json_t *o = m ? space_json(d, m) : NULL;
		if (o) {
			json_object_set_new(o, "name", json_string(m->name));
			json_object_set_new(o, "dir", json_string(m->dir));
			json_array_append_new(a->data, o);
		}
	}
}

void fs_show(struct daemon *d, const char *name, struct answer *a)
{
	json_t *list = status_fs_list(d), *x, *disks = json_array();
	size_t i;
	json_array_foreach(list, i, x)
		if (!strcmp(json_string_value(json_object_get(x, "name")), name))
			a->data = json_deep_copy(x);
	json_decref(list);
	if (!a->data) {
		json_decref(disks);
		a->rc = -ENOENT;
		snprintf(a->error, sizeof(a->error), "file system %s: no such file system on the disks of this node; see `tessera fs list`", name);
		return;
	}
	json_t *all = status_disks(d);
	json_array_foreach(all, i, x) {
		const char *what = json_string_value(json_object_get(x, "contents"));
		if (what && !strcmp(what, name))
			json_array_append(disks, x);
	}
	json_decref(all);
	json_object_set_new(a->data, "disk_list", disks);
	json_t *options = fs_default_options_json(d, name);
	if (options)
		json_object_set_new(a->data, "default_options", options);
	struct mount *m = mount_find(d, name);
	if (m && m->state == MOUNT_LIVE) {
		space_fresh(d, m);
		m = mount_find(d, name);
	}
	json_t *space = m ? space_json(d, m) : NULL;
	if (m)
		json_object_update_new(a->data, json_pack("{s:s,s:s,s:i}", "mounted_at", m->dir, "options", m->opts, "block_size", (int)m->vfs.f_bsize));
	if (space)
		json_object_set_new(a->data, "space", space);
}
