/* SPDX-License-Identifier: Apache-2.0 */
/* Mounts of this node: starting -> live -> stopping -> gone. One at a time is started or formatted (mount_lock).
 * Order of start: labels, keys on every disk, fs (log slot, recovery, group), kernel mount. The end runs backwards.
 * Must never happen: the file system torn down while the kernel still sends requests to it. */
#include "admin/daemon.h"
#include "admin/salvage.h"
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define OPT_LOCAL_LOCKS (1ul << 40) /* beside the kernel's MS_* */
#define OPT_NO_NAMES	(1ul << 41)

static const struct {
	const char *name;
	unsigned long set, clear;
} option_table[] = {
	{"rw", 0, MS_RDONLY},	  {"ro", MS_RDONLY, 0},	    {"nosuid", MS_NOSUID, 0}, {"suid", 0, MS_NOSUID},
	{"nodev", MS_NODEV, 0},	  {"dev", 0, MS_NODEV},	    {"noexec", MS_NOEXEC, 0}, {"exec", 0, MS_NOEXEC},
	{"noatime", MS_NOATIME, MS_STRICTATIME}, {"relatime", 0, MS_NOATIME | MS_STRICTATIME}, {"strictatime", MS_STRICTATIME, MS_NOATIME},
	{"nodiratime", MS_NODIRATIME, 0}, {"diratime", 0, MS_NODIRATIME},
	{"lazytime", 0, 0}, {"nolazytime", 0, 0}, /* times that reads set are written lazily anyway, others are not */
	{"locallocks", OPT_LOCAL_LOCKS, 0}, {"nolocallocks", 0, OPT_LOCAL_LOCKS}, {"namecache", 0, OPT_NO_NAMES}, {"nonamecache", OPT_NO_NAMES, 0},
	{"defaults", 0, 0},	  {"_netdev", 0, 0},	    {"auto", 0, 0},	      {"noauto", 0, 0}, {"nofail", 0, 0},
};

static int options_parse(const char *opts, unsigned long *flags, char *errmsg, size_t errlen)
{
	*flags = 0;
	for (const char *p = opts; *p;) {
		size_t len = strcspn(p, ","), i;
		for (i = 0; i < TS_ARRAY_LEN(option_table); i++)
			if (strlen(option_table[i].name) == len && !strncmp(option_table[i].name, p, len))
				break;
		if (len && i == TS_ARRAY_LEN(option_table) && strncmp(p, "x-", 2)) {
			bool re = len == 7 && !strncmp(p, "remount", 7);
			snprintf(errmsg, errlen, re ? "mount option '%.*s': a mount is changed by mount(8): `mount -o remount,ro DIRECTORY`" :
				 "mount option '%.*s': unknown; leave it out, or see `tessera help mount` for those there are", (int)len, p);
			return -EINVAL;
		}
		if (len && i < TS_ARRAY_LEN(option_table))
			*flags = (*flags & ~option_table[i].clear) | option_table[i].set;
		p += len;
		p += *p == ',';
	}
	return 0;
}

int mount_options_check(const char *opts, char *errmsg, size_t errlen)
{
	unsigned long flags;
	return options_parse(opts, &flags, errmsg, errlen);
}

/* The file system's own come first, so that those of this mount win. */
static int options_all(struct mount *m, const char *given, unsigned long *flags, char *errmsg, size_t errlen)
{
	const char *own = fs_default_options(m->disks[0]);
	char why[256];
	snprintf(m->opts, sizeof(m->opts), "%s%s%s", own, *own && *given ? "," : "", given);
	int rc = strlen(own) + strlen(given) + 2 > sizeof(m->opts) ? -E2BIG : options_parse(m->opts, flags, why, sizeof(why));
	if (rc)
		snprintf(errmsg, errlen, "file system %s: its default options are '%s': %s; set them anew: tessera fs set %s mount_options LIST", m->name, own,
			 rc == -E2BIG ? "too long together with those given" : why, m->name);
	return rc;
}

struct mount *mount_find(struct daemon *d, const char *s)
{
	ts_list_for(l, &d->mounts) {
		struct mount *m = ts_list_entry(l, struct mount, link);
		if (!strcmp(m->name, s) || !strcmp(m->dir, s))
			return m;
	}
	return NULL;
}

struct mount *mount_by_group(struct daemon *d, uint64_t group)
{
	ts_list_for(l, &d->mounts) {
		struct mount *m = ts_list_entry(l, struct mount, link);
		if (m->group == group)
			return m;
	}
	return NULL;
}

static void mount_free(struct mount *m)
{
	struct daemon *d = m->d;
	ts_list_del(&m->link);
	for (unsigned i = 0; i < m->ndisks; i++)
		if (m->disks[i])
			m->disks[i]->mount = NULL;
	while (m->users)
		ts_cond_wait(&d->changed, "commands on a gone mount", 0, 0);
	salvage_free(m->salvage);
	ts_free(m->disks);
	ts_free(m->devs);
	ts_free(m);
	ts_cond_broadcast(&d->changed);
}

/* The kernel side is gone: umount(8) by anybody, our own umount verb, or the end of the daemon. */
static void mount_gone(void *arg)
{
	struct mount *m = arg;
	if (m->state == MOUNT_STARTING)
		return; /* mount_start sees it and unwinds */
	m->state = MOUNT_STOPPING;
	tfuse_drain(m->tf);
	while (m->asking || m->inside)
		ts_cond_wait(&m->d->changed, "commands in the file system", 0, 0);
	int rc = fs_unmount(m->fs, true);
	m->fs = NULL;
	tfuse_free(m->tf);
	m->tf = NULL;
	if (rc) {
		ts_err("mount %s: not left clean: %s; its log will be replayed", m->dir, strerror(-rc));
		m->d->out(m->d, "a file system could not be left clean");
	}
	if (!m->d->excluded)
		keys_unregister(m->d, m->disks, m->ndisks);
	ts_notice("file system %s: unmounted from %s", m->name, m->dir);
	unsigned at = m->d->npast++ % TS_ARRAY_LEN(m->d->past);
	memcpy(m->d->past[at].name, m->name, sizeof(m->name));
	memcpy(m->d->past[at].dir, m->dir, sizeof(m->dir));
	event_post(m->d, EV_UNMOUNTED, m->name, "from %s%s", m->dir, rc ? ", not clean" : "");
	ts_done_set(&m->ended, rc);
	mount_free(m);
}

static bool inside_own_mount(struct daemon *d, const char *dir)
{
	ts_list_for(l, &d->mounts) {
		const char *m = ts_list_entry(l, struct mount, link)->dir;
		size_t n = strlen(m);
		if (!strncmp(dir, m, n) && dir[n] == '/')
			return true;
	}
	return false;
}

/* A mount whose daemon died answers ENOTCONN, and so keeps programs from the directory below it: it stays until the new one is
 * about to be there. */
static int mount_point_stat(const char *dir)
{
	struct stat st;
	if (stat(dir, &st))
		return errno == ENOTCONN ? 0 : -errno;
	return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

static int mount_point_clear(const char *dir)
{
	struct stat st;
	int rc = stat(dir, &st);
	for (unsigned i = 0; rc && errno == ENOTCONN && i < 8; i++) {
		if (umount2(dir, MNT_DETACH | UMOUNT_NOFOLLOW))
			return -errno;
		ts_notice("mount point %s: a dead mount was cleared", dir);
		rc = stat(dir, &st);
	}
	if (rc)
		return -errno;
	return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

/* fs/ keeps its tokens and its place in the group: only the end of this incarnation lets others recover. */
static void mount_stopped(void *arg, const char *why)
{
	struct mount *m = arg;
	m->d->out(m->d, why);
}

int mount_may(struct daemon *d, const char *name, const char *dir, char *errmsg, size_t errlen)
{
	struct mount *m = mount_find(d, name);
	if (!m)
		m = mount_find(d, dir);
	if (m) {
		snprintf(errmsg, errlen, "file system %s: already mounted on this node at %s; one mount per node, use a bind mount for another place", m->name, m->dir);
		return -EBUSY;
	}
	if (inside_own_mount(d, dir)) { /* looking it up would wait for this very thread */
		snprintf(errmsg, errlen, "mount point %s: lies inside a mount of this daemon; choose a directory outside, or bind-mount", dir);
		return -EINVAL;
	}
	if (mount_point_stat(dir)) {
		snprintf(errmsg, errlen, "mount point %s: no such directory; make it first", dir);
		return -ENOTDIR;
	}
	if (!quorum_view_get(d->quorum)->quorate || !quorum_may_write(d->quorum)) {
		snprintf(errmsg, errlen, "file system %s: this node has no quorum; start more nodes, see `tessera status`", name);
		return -EAGAIN;
	}
	return 0;
}

static struct mount *mount_alloc(struct daemon *d, const char *name, const char *dir, const char *opts)
{
	struct mount *m = ts_alloc(sizeof(*m));
	if (!m)
		return NULL;
	m->d = d;
	snprintf(m->name, sizeof(m->name), "%s", name);
	snprintf(m->dir, sizeof(m->dir), "%s", dir);
	snprintf(m->opts, sizeof(m->opts), "%s", opts);
	ts_done_init(&m->ended);
	return m;
}

static int mount_new(struct daemon *d, const char *name, const char *dir, const char *opts, struct mount **out, char *errmsg, size_t errlen)
{
	struct mount *m = mount_alloc(d, name, dir, opts);
	if (!m)
		return -ENOMEM;
	int rc = disks_of_fs(d, name, &m->disks, &m->ndisks, errmsg, errlen);
	if (rc == 0) {
		m->devs = ts_alloc(m->ndisks * sizeof(*m->devs));
		rc = m->devs ? 0 : -ENOMEM;
	}
	if (rc) {
		ts_free(m->disks);
		ts_free(m);
		return rc;
	}
	m->group = fs_group_of(m->disks[0]->label.fs_id);
	for (unsigned i = 0; i < m->ndisks; i++) {
		if (!m->disks[i]) /* no disk has the number */
			continue;
		m->devs[i] = m->disks[i]->dev;
		m->disks[i]->mount = m;
	}
	ts_list_push_back(&d->mounts, &m->link);
	*out = m;
	return 0;
}

static int mount_bring_up(struct mount *m, unsigned long flags, char *errmsg, size_t errlen)
{
	struct daemon *d = m->d;
	bool have_keys = false;
	char source[80]; /* as in fstab, for `mount -a` to know it again */
	snprintf(source, sizeof(source), MOUNT_SOURCE "%s", m->name);
	int rc = keys_register(d, m->disks, m->ndisks, &have_keys, errmsg, errlen);
	if (rc)
		return rc;
	struct tfuse_args ta = {.exec = d->exec, .source = source, .mountpoint = m->dir,
				.ms_flags = flags & ~(unsigned long)(MS_STRICTATIME | OPT_LOCAL_LOCKS | OPT_NO_NAMES),
				.strict_atime = flags & MS_STRICTATIME, .local_locks = flags & OPT_LOCAL_LOCKS, .names = !(flags & OPT_NO_NAMES), .gone = mount_gone, .stopped = mount_stopped, .arg = m};
	m->tf = tfuse_new(&ta);
	if (!m->tf) {
		snprintf(errmsg, errlen, "mount %s: out of memory", m->dir);
		rc = -ENOMEM;
		goto no_tf;
	}
	struct fs_mount_args a = {
		.exec = d->exec, .disks = m->devs, .ndisks = m->ndisks, .net = d->net, .quorum = d->quorum,
		.pr_key = have_keys ? key_of(d, d->conf.node_id, d->incarnation) : 0,
		.key_of = have_keys ? key_of : NULL, .fence_otherwise = fence_otherwise, .key_arg = d, .disk_open = disk_joins, .disk_close = disk_leaves, .disk_arg = m, .times = conf_times(&d->conf),
		.read_only = flags & MS_RDONLY, .noatime = flags & MS_NOATIME, .nodiratime = flags & MS_NODIRATIME, .strictatime = flags & MS_STRICTATIME,
		.page_pool_bytes = d->conf.page_pool_bytes, .meta_pool_bytes = d->conf.meta_pool_bytes,
		.net_group = (uint32_t)m->group ? (uint32_t)m->group : 1, .group = m->salvage ? m->group : 0,
	};
	tfuse_upcalls(m->tf, &a.up);
	rc = fs_mount(&a, &m->fs, errmsg, errlen);
	if (rc)
		goto no_fs;
	rc = mount_point_clear(m->dir);
	if (rc)
		snprintf(errmsg, errlen, "mount point %s: %s; make it a directory", m->dir, strerror(-rc));
	else
		rc = tfuse_mount(m->tf, m->fs, errmsg, errlen);
	if (rc == 0)
		return 0;
	if (fs_unmount(m->fs, true)) {
		ts_err("mount %s: not left clean after a failed mount; its log will be replayed", m->dir);
		d->out(d, "a file system could not be left clean");
	}
	m->fs = NULL;
no_fs:
	tfuse_free(m->tf);
	m->tf = NULL;
no_tf:
	keys_unregister(d, m->disks, m->ndisks);
	return rc;
}

int mount_start(struct daemon *d, const char *name, const char *path, const char *opts, char *errmsg, size_t errlen)
{
	unsigned long flags;
	struct mount *m = NULL;
	char dir[sizeof(m->dir)];
	size_t len = strlen(path);
	errmsg[0] = 0;
	int rc = options_parse(opts, &flags, errmsg, errlen);
	if (rc)
		return rc;
	while (len > 1 && path[len - 1] == '/')
		len--;
	if (len >= sizeof(dir) || len < 2 || path[0] != '/') {
		snprintf(errmsg, errlen, "mount point %.300s: not an absolute path of less than %zu bytes, or the root directory", path, sizeof(dir));
		return -EINVAL;
	}
	memcpy(dir, path, len);
	dir[len] = 0;
	ts_mutex_lock(&d->mount_lock, "another mount or format");
	rc = mount_may(d, name, dir, errmsg, errlen);
	if (rc == 0)
		rc = peers_reachable(d, errmsg, errlen);
	if (rc == 0) {
		(void)disks_label_refresh(d); /* a disk that cannot be read is named by mount_new */
		rc = mount_new(d, name, dir, opts, &m, errmsg, errlen);
	}
	if (rc == 0) {
		rc = options_all(m, opts, &flags, errmsg, errlen);
		if (rc == 0)
			rc = mount_bring_up(m, flags, errmsg, errlen);
		if (rc)
			mount_free(m);
		else
			m->state = MOUNT_LIVE;
		ts_cond_broadcast(&d->changed);
	}
	ts_mutex_unlock(&d->mount_lock);
	if (rc && !errmsg[0])
		snprintf(errmsg, errlen, "file system %s: %s", name, strerror(-rc));
	if (rc == 0) {
		ts_notice("file system %s: mounted at %s", name, dir);
		event_post(d, EV_MOUNTED, name, "at %s", dir);
	}
	return rc;
}

int mount_salvaged(struct daemon *d, const char *name, const char *dir, struct salvage *s, struct disk *disks, unsigned n, uint64_t group,
		   struct mount **out, char *errmsg, size_t errlen)
{
	struct mount *m = mount_alloc(d, name, dir, "ro");
	int rc = -ENOMEM;
	if (!m)
		return rc;
	m->disks = ts_alloc(n * sizeof(*m->disks));
	m->devs = ts_alloc(n * sizeof(*m->devs));
	m->ndisks = m->disks && m->devs ? n : 0;
	m->salvage = s;
	m->group = group;
	ts_list_push_back(&d->mounts, &m->link);
	for (unsigned i = 0; i < m->ndisks; i++) {
		if (!disks[i].dev)
			continue;
		m->disks[i] = &disks[i];
		m->devs[i] = disks[i].dev;
	}
	if (m->ndisks)
		rc = mount_bring_up(m, MS_RDONLY | MS_NOATIME, errmsg, errlen);
	if (rc) {
		m->salvage = NULL; /* stays the caller's */
		mount_free(m);
		return rc;
	}
	m->state = MOUNT_LIVE;
	ts_cond_broadcast(&d->changed);
	ts_notice("file system %s: what is left of it is mounted at %s", name, dir);
	event_post(d, EV_MOUNTED, name, "at %s, for salvage", dir);
	*out = m;
	return 0;
}

int mount_stop(struct daemon *d, const char *which, bool lazy, char *errmsg, size_t errlen)
{
	struct mount *m = mount_find(d, which);
	if (!m || m->state != MOUNT_LIVE) {
		snprintf(errmsg, errlen, "%s: %s on this node; see `tessera status`", which, m ? "is being mounted or unmounted" : "not mounted");
		return m ? -EBUSY : -ENOENT;
	}
	m->users++;
	int rc = tfuse_unmount(m->tf, lazy);
	if (rc == -EBUSY) {
		char who[320];
		busy_text(d, m->dir, who, sizeof(who));
		snprintf(errmsg, errlen, "%.100s: busy: %s; end that, or --lazy", m->dir, who[0] ? who : "a file of it is mapped, or used in another mount namespace");
	} else if (rc)
		snprintf(errmsg, errlen, "%s: %s", m->dir, strerror(-rc));
	else if (!lazy) {
		rc = ts_done_wait(&m->ended, "unmount", 0, 0);
		if (rc)
			snprintf(errmsg, errlen, "%s: unmounted, but not left clean: %s", which, strerror(-rc));
	}
	m->users--;
	ts_cond_broadcast(&d->changed);
	return rc;
}

void mounts_stop_all(struct daemon *d)
{
	while (!ts_list_empty(&d->mounts)) {
		struct mount *m = ts_list_entry(d->mounts.next, struct mount, link);
		if (m->state == MOUNT_LIVE && m->tf) {
			m->state = MOUNT_STOPPING;
			if (tfuse_unmount(m->tf, false) && tfuse_unmount(m->tf, true))
				ts_err("mount %s: cannot be unmounted", m->dir);
		}
		if (ts_cond_wait_until(&d->changed, ts_exec_now(d->exec) + 20 * TS_NS_PER_S, "mounts to end", 0, 0))
			return;
	}
}
