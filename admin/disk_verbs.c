/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon does for the verbs about disks of a mounted file system. All of it is fs/'s; here are arguments, devices and how far it is.
 * Must never happen: a disk overwritten that somebody uses or that nobody said may be; a command that outlives its mount. */
#include "admin/daemon.h"
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>

#define LOOK_NS (500 * TS_NS_PER_MS)

static int no(struct answer *a, int rc, const char *fmt, ...) TS_PRINTF(3, 4);
static int no(struct answer *a, int rc, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(a->error, sizeof(a->error), fmt, ap);
	va_end(ap);
	return a->rc = rc;
}

struct mount *mount_live(struct daemon *d, const char *name, struct answer *a)
{
	struct mount *m = mount_find(d, name);
	if (m && m->state == MOUNT_LIVE && m->fs)
		return m;
	no(a, -ENOENT, "file system %s: not mounted on this node; say it on a node where it is, see `tessera fs list`", name);
	return NULL;
}

bool mount_still(const struct mount *m)
{
	return m->state == MOUNT_LIVE && m->fs;
}

/* The mount's struct stays while we wait; its file system need not. */
void mount_begin(struct mount *m) { m->users++; }
void mount_end(struct mount *m)
{
	m->users--;
	ts_cond_broadcast(&m->d->changed);
}

static const char *place(const struct mount *m, unsigned i, const struct fs_disk_info *v)
{
	return i < m->ndisks && m->disks[i] ? m->disks[i]->url : v->url;
}

static int number_of(struct mount *m, const struct fs_disks_status *s, const char *disk, unsigned *out, struct answer *a)
{
	char *end_of;
	unsigned long n = strtoul(disk, &end_of, 10);
	if (isdigit((unsigned char)disk[0]) && !*end_of && n < 4096) {
		*out = (unsigned)n;
		return 0;
	}
	for (unsigned i = 0; i < s->ndisks; i++)
		if (!strcmp(place(m, i, &s->disk[i]), disk) && strcmp(fs_disk_state_name(s->disk[i].state), "gone")) {
			*out = i;
			return 0;
		}
	return no(a, -ENOENT, "file system %s: no disk of it is %s; see `tessera disk list %s`", m->name, disk, m->name);
}

static int status(struct mount *m, struct fs_disks_status *s, struct answer *a)
{
	int rc = fs_disks_status(m->fs, s);
	return rc ? no(a, rc, "file system %s: its disks cannot be looked at: %s", m->name, strerror(-rc)) : 0;
}

json_t *disk_row(const struct mount *m, unsigned i, const struct fs_disk_info *v)
{
	char uuid[33];
	for (unsigned k = 0; k < 16; k++)
		snprintf(uuid + 2 * k, 3, "%02x", v->uuid[k]);
	return json_pack("{s:i,s:s,s:s,s:s,s:s,s:s,s:i,s:I,s:I,s:I,s:I,s:i}", "number", (int)i, "url", place(m, i, v), "uuid", uuid, "state",
			 fs_disk_state_name(v->state), "usage", fs_disk_usage_name(v->usage), "pool", v->pool_name, "failure_group", (int)v->failure_group,
			 "size_bytes", (json_int_t)v->size_bytes, "used_bytes", (json_int_t)v->used_bytes, "room_bytes", (json_int_t)v->room_bytes,
			 "metadata_bytes", (json_int_t)v->meta_bytes, "used_permille",
			 v->room_bytes ? (int)(v->used_bytes * 1000 / v->room_bytes) : 0);
}

void disk_verb_list(struct daemon *d, const char *name, struct answer *a)
{
	struct mount *m = mount_live(d, name, a);
	struct fs_disks_status s;
	if (!m || (mount_begin(m), status(m, &s, a))) {
		if (m)
			mount_end(m);
		return;
	}
	a->data = json_array();
	for (unsigned i = 0; i < s.ndisks; i++)
		if (strcmp(fs_disk_state_name(s.disk[i].state), "gone"))
			json_array_append_new(a->data, disk_row(m, i, &s.disk[i]));
	ts_free(s.disk);
	mount_end(m);
}

void disk_verb_show(struct daemon *d, const char *name, const char *disk, struct answer *a)
{
	struct mount *m = mount_live(d, name, a);
	struct fs_disks_status s;
	unsigned n;
	if (!m)
		return;
	mount_begin(m);
	if (status(m, &s, a) == 0) {
		if (number_of(m, &s, disk, &n, a) == 0) {
			if (n >= s.ndisks || !strcmp(fs_disk_state_name(s.disk[n].state), "gone"))
				no(a, -ENOENT, "file system %s: it has no disk of number %u; see `tessera disk list %s`", name, n, name);
			else
				a->data = disk_row(m, n, &s.disk[n]);
		}
		if (a->data) {
			json_object_update_new(a->data, json_pack("{s:b,s:i,s:I,s:I}", "rebalancing", s.rebalancing, "rate_mib_s", (int)s.mib_s, "moved_bytes_here",
								  (json_int_t)s.moved_bytes, "passes_here", (json_int_t)s.passes));
			if (n < m->ndisks && m->disks[n])
				able_json(m->disks[n], a->data);
		}
		ts_free(s.disk);
	}
	mount_end(m);
}

void disk_verb_places(struct daemon *d, const char *name, const char *ino, struct answer *a)
{
	struct mount *m = mount_live(d, name, a);
	char *end_of;
	uint64_t n = strtoull(ino, &end_of, 10), *bytes;
	unsigned ndisks;
	if (!m)
		return;
	if (!isdigit((unsigned char)ino[0]) || *end_of || !n) {
		no(a, -EINVAL, "inode %s: not a number; `stat -c %%i FILE` tells it", ino);
		return;
	}
	mount_begin(m);
	int rc = fs_file_places(m->fs, n, &bytes, &ndisks);
	if (rc)
		no(a, rc, "inode %s of file system %s: %s", ino, name, strerror(-rc));
	else {
		json_t *o = json_object();
		char key[16];
		for (unsigned i = 0; i < ndisks; i++) {
			snprintf(key, sizeof(key), "%u", i);
			if (bytes[i])
				json_object_set_new(o, key, json_integer((json_int_t)bytes[i]));
		}
		a->data = json_pack("{s:I,s:o}", "inode", (json_int_t)n, "bytes_on_disk", o);
		ts_free(bytes);
	}
	mount_end(m);
}

/* ---- adding ----------------------------------------------------------------------------------------------------------- */

static int may_take(struct daemon *d, struct mount *m, struct disk *k, bool force, struct answer *a)
{
	int rc = k->mount ? 0 : disk_label_refresh(k);
	if (k->mount)
		return no(a, -EBUSY, "disk %s: it is in use by file system %s already", k->url, k->mount->name);
	if (rc)
		return no(a, rc, "disk %s: %s", k->url, k->error);
	if (k->label_state == NSD_LABEL_NONE)
		return 0;
	if (k->label_state != NSD_LABEL_OK)
		return force ? 0 : no(a, -EEXIST, "disk %s: carries %s; --force destroys it", k->url, k->label_what);
	if (!memcmp(k->label.fs_id, m->disks[0]->label.fs_id, 16)) /* begun before, or removed once: fs/ knows */
		return 0;
	const struct quorum_group_view *g = quorum_group_get(d->quorum, fs_group_of(k->label.fs_id));
	if (g && g->nmembers)
		return no(a, -EBUSY, "disk %s: carries the mounted file system %s; unmount it everywhere first", k->url, k->label.fs_name);
	return force ? 0 : no(a, -EEXIST, "disk %s: carries the file system %s; --force destroys it", k->url, k->label.fs_name);
}

static bool has_password(const char *url)
{
	const char *host = strstr(url, "://"), *at = host ? strchr(host + 3, '@') : NULL, *slash = host ? strchr(host + 3, '/') : NULL;
	return at && (!slash || at < slash);
}

static int add_to(struct daemon *d, struct mount *m, struct disk *k, const char *url, json_t *opt, struct answer *a)
{
	struct fs_disk_add add = {.dev = k->dev, .url = has_password(url) ? "" : url, .metadata = json_object_get(opt, "metadata") != NULL,
				  .pool = json_string_value(json_object_get(opt, "pool"))};
	const char *group = json_string_value(json_object_get(opt, "failure-group"));
	unsigned number = 0;
	char why[400] = "";
	bool have, ours = k->label_state == NSD_LABEL_OK && !memcmp(k->label.fs_id, m->disks[0]->label.fs_id, 16);
	uint64_t g = m->ndisks;
	if (group && strcmp(group, "0") && (verb_size_parse(group, &g) || g > 65535))
		return no(a, -EINVAL, "--failure-group %s: must be a number up to 65535", group);
	add.failure_group = group && !strcmp(group, "0") ? 0 : (unsigned)g;
	int rc = 0;
	if (ours) /* other nodes may have it open already: what was tried then stands in its label */
		add.able = le32_get(k->label.flags);
	else
		rc = able_probe(d, &k, 1, &add.able, a->error, sizeof(a->error));
	if (rc == 0)
		rc = keys_register(d, &k, 1, &have, a->error, sizeof(a->error));
	if (rc)
		return a->rc = rc;
	rc = fs_disk_add(m->fs, &add, &number, why, sizeof(why));
	if (rc && !k->mount)
		keys_unregister(d, &k, 1);
	if (rc)
		return no(a, rc, "disk %s: %s", url, why);
	a->data = json_pack("{s:s,s:s,s:i}", "name", m->name, "disk", url, "number", (int)number);
	if (disk_label_refresh(k) == 0)
		able_json(k, a->data);
	return 0;
}

void disk_verb_add(struct daemon *d, const char *name, const char *url, json_t *opt, struct answer *a)
{
	struct mount *m = mount_live(d, name, a);
	struct disk *k;
	if (!m)
		return;
	if (!quorum_may_write(d->quorum)) {
		no(a, -EAGAIN, "file system %s: this node has no quorum; start more nodes, see `tessera status`", name);
		return;
	}
	mount_begin(m);
	ts_mutex_lock(&d->mount_lock, "another mount or format");
	a->rc = disk_open(d, url, &k, a->error, sizeof(a->error));
	if (a->rc == 0) {
		if (!mount_still(m))
			no(a, -ENOENT, "file system %s: it was unmounted meanwhile", name);
		else if (may_take(d, m, k, json_object_get(opt, "force") != NULL, a) == 0)
			(void)add_to(d, m, k, url, opt, a); /* a->rc */
		if (!k->mount)
			disk_forget(d, k);
	}
	ts_mutex_unlock(&d->mount_lock);
	mount_end(m);
}

/* ---- moving ----------------------------------------------------------------------------------------------------------- */

static int rate_of(json_t *opt, uint32_t *mib_s, struct answer *a)
{
	const char *s = json_string_value(json_object_get(opt, "rate"));
	uint64_t bytes;
	*mib_s = 0;
	if (!s)
		return 0;
	if (verb_size_parse(s, &bytes) || bytes < 1 << 20 || bytes >> 20 > 1u << 20)
		return no(a, -EINVAL, "--rate %s: must be a size from 1M to 1T", s);
	*mib_s = (uint32_t)(bytes >> 20);
	return 0;
}

/* Largest distance from the mean, of what is used of the room, in permille. */
static unsigned spread(const struct fs_disks_status *s)
{
	double used = 0, room = 0, most = 0;
	for (unsigned i = 0; i < s->ndisks; i++)
		if (!strcmp(fs_disk_state_name(s->disk[i].state), "ready") && s->disk[i].room_bytes) {
			used += (double)s->disk[i].used_bytes;
			room += (double)s->disk[i].room_bytes;
		}
	for (unsigned i = 0; room > 0 && i < s->ndisks; i++)
		if (!strcmp(fs_disk_state_name(s->disk[i].state), "ready") && s->disk[i].room_bytes) {
			double off = (double)s->disk[i].used_bytes / (double)s->disk[i].room_bytes - used / room;
			most = TS_MAX(most, off < 0 ? -off : off);
		}
	return (unsigned)(most * 1000);
}

/* Until it is done or nobody looks any more; disk UINT32_MAX: the rebalance. */
static int follow(struct mount *m, struct client *c, unsigned disk, struct answer *a)
{
	uint64_t first = 0;
	char step[96];
	for (;;) {
		struct fs_disks_status s;
		if (!mount_still(m))
			return no(a, -ENOENT, "file system %s: unmounted here; the other nodes go on", m->name);
		if (status(m, &s, a))
			return a->rc;
		bool drain = disk != UINT32_MAX && disk < s.ndisks;
		uint64_t left = drain ? s.disk[disk].used_bytes + s.disk[disk].meta_bytes : spread(&s);
		const char *state = drain ? fs_disk_state_name(s.disk[disk].state) : s.rebalancing ? "draining" : "done";
		first = TS_MAX(first, left);
		a->data = json_pack("{s:s,s:s,s:I}", "name", m->name, "state", state, drain ? "left_bytes" : "from_mean_permille", (json_int_t)left);
		ts_free(s.disk);
		if (strcmp(state, "draining") || client_gone(c))
			return 0;
		json_decref(a->data);
		a->data = NULL;
		if (drain)
			snprintf(step, sizeof(step), "disk %u: %llu MiB to move", disk, (unsigned long long)(left >> 20));
		else
			snprintf(step, sizeof(step), "within %llu.%llu %% of the mean", (unsigned long long)left / 10, (unsigned long long)left % 10);
		client_progress(c, step, first ? (unsigned)((first - left) * 1000 / first) : 0);
		ts_sleep_until(ts_exec_now(m->d->exec) + LOOK_NS);
	}
}

void disk_verb_drain(struct daemon *d, struct client *c, const char *name, const char *disk, json_t *opt, struct answer *a)
{
	struct mount *m = mount_live(d, name, a);
	bool cancel = json_object_get(opt, "cancel") != NULL, no_wait = json_object_get(opt, "no-wait") != NULL;
	struct fs_disks_status s;
	uint32_t mib_s;
	unsigned n = 0;
	char why[400] = "";
	if (!m || rate_of(opt, &mib_s, a))
		return;
	mount_begin(m);
	if (status(m, &s, a) == 0) {
		int rc = number_of(m, &s, disk, &n, a);
		ts_free(s.disk);
		if (rc == 0)
			rc = mount_still(m) ? fs_disk_drain(m->fs, n, cancel, mib_s, why, sizeof(why)) : -ENOENT;
		if (rc)
			no(a, rc, "%s", a->error[0] ? a->error : why);
		else if (!cancel && !no_wait)
			(void)follow(m, c, n, a); /* a->rc */
	}
	mount_end(m);
}

void disk_verb_remove(struct daemon *d, const char *name, const char *disk, struct answer *a)
{
	struct mount *m = mount_live(d, name, a);
	struct fs_disks_status s;
	unsigned n = 0;
	char why[400] = "";
	if (!m)
		return;
	mount_begin(m);
	if (status(m, &s, a) == 0) {
		int rc = number_of(m, &s, disk, &n, a);
		ts_free(s.disk);
		if (rc == 0)
			rc = mount_still(m) ? fs_disk_remove(m->fs, n, why, sizeof(why)) : -ENOENT;
		if (rc)
			no(a, rc, "%s", a->error[0] ? a->error : why);
	}
	mount_end(m);
}

void disk_verb_grow(struct daemon *d, const char *name, const char *disk, struct answer *a)
{
	struct mount *m = mount_live(d, name, a);
	struct fs_disks_status s;
	unsigned n = 0;
	char why[400] = "";
	if (!m)
		return;
	mount_begin(m);
	if (status(m, &s, a) == 0) {
		int rc = number_of(m, &s, disk, &n, a);
		uint64_t before = rc == 0 && n < s.ndisks ? s.disk[n].size_bytes : 0;
		ts_free(s.disk);
		if (rc == 0)
			rc = mount_still(m) ? fs_disk_grow(m->fs, &(struct fs_disk_grow){.no = n}, why, sizeof(why)) : -ENOENT;
		if (rc)
			no(a, rc, "%s", a->error[0] ? a->error : why);
		else if (mount_still(m) && status(m, &s, a) == 0) {
			a->data = json_pack("{s:s,s:i,s:I,s:I}", "name", m->name, "number", (int)n, "size_bytes", (json_int_t)s.disk[n].size_bytes, "before_bytes",
					    (json_int_t)before);
			ts_free(s.disk);
		}
	}
	mount_end(m);
}

void disk_verb_rebalance(struct daemon *d, struct client *c, const char *name, json_t *opt, struct answer *a)
{
	struct mount *m = mount_live(d, name, a);
	bool stop = json_object_get(opt, "stop") != NULL, no_wait = json_object_get(opt, "no-wait") != NULL;
	uint32_t mib_s;
	char why[400] = "";
	if (!m || rate_of(opt, &mib_s, a))
		return;
	mount_begin(m);
	int rc = fs_disk_rebalance(m->fs, stop, mib_s, why, sizeof(why));
	if (rc)
		no(a, rc, "%s", why);
	else if (!stop && !no_wait)
		(void)follow(m, c, UINT32_MAX, a); /* a->rc */
	mount_end(m);
}
