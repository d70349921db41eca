/* SPDX-License-Identifier: Apache-2.0 */
/* The disks this node can open, with what their labels say. A disk that fails is retried in the background; it never keeps
 * the daemon from starting. Must never happen: a disk closed while a mount uses it. */
#include "admin/daemon.h"
#include <stdio.h>

#define DISK_RETRY_NS (2 * TS_NS_PER_S)

static bool may_write(void *arg)
{
	struct daemon *d = arg;
	return d->quorum && !d->excluded && quorum_may_write(d->quorum);
}

struct disk *disk_find(struct daemon *d, const char *url)
{
	ts_list_for(l, &d->disks) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		if (!strcmp(k->url, url))
			return k;
	}
	return NULL;
}

/* A URL's password stands between % and @. */
char *url_masked(const char *url)
{
	const char *at = strchr(url, '@'), *pc = strchr(url, '%');
	char *s = NULL;
	if (!at || !pc || pc > at)
		return strdup(url);
	return asprintf(&s, "%.*s%%(masked)%s", (int)(pc - url), url, at) < 0 ? NULL : s;
}

const char *disk_shown(const struct disk *k)
{
	return k->shown ? k->shown : k->url;
}

static struct disk *disk_add(struct daemon *d, const char *url, bool configured)
{
	struct disk *k = ts_alloc(sizeof(*k));
	if (!k)
		return NULL;
	k->url = strdup(url);
	k->shown = k->url ? url_masked(url) : NULL;
	if (!k->shown) {
		free(k->url);
		ts_free(k);
		return NULL;
	}
	k->configured = configured;
	ts_list_push_back(&d->disks, &k->link);
	return k;
}

int disk_label_refresh(struct disk *k)
{
	int rc = nsd_label_read(k->dev, &k->label, &k->label_state, k->label_what, sizeof(k->label_what));
	if (rc)
		snprintf(k->error, sizeof(k->error), "label: %s", strerror(-rc));
	else
		nsd_able_apply(k->dev, k->label_state == NSD_LABEL_OK ? le32_get(k->label.flags) : 0);
	return rc;
}

static int disk_try(struct daemon *d, struct disk *k)
{
	struct nsd_open_args a = {
		.exec = d->exec,
		.url = k->url,
		.initiator_name = d->conf.initiator,
		.isid = 0x7420,
		.incarnation = d->incarnation,
		.gate = {.may_write = may_write, .registration_lost = keys_lost, .arg = d},
	};
	k->state = DISK_OPENING;
	int rc = nsd_open(&a, &k->dev, k->error, sizeof(k->error));
	if (rc == 0) {
		rc = disk_label_refresh(k);
		if (rc) {
			nsd_close(k->dev);
			k->dev = NULL;
		}
	}
	k->state = rc ? DISK_FAILED : DISK_OPEN;
	if (rc == 0)
		k->error[0] = 0;
	ts_cond_broadcast(&d->changed);
	return rc;
}

struct opener {
	struct daemon *d;
	struct disk *k;
};

static void open_fiber(void *arg)
{
	struct opener o = *(struct opener *)arg;
	ts_free(arg);
	bool told = false;
	while (!o.d->stopping && disk_try(o.d, o.k)) {
		if (!told) {
			ts_warn("disk %s: not open yet: %s; trying again every 2 s", disk_shown(o.k), o.k->error);
			event_post(o.d, EV_DISK_FAILED, disk_shown(o.k), "%s", o.k->error);
		}
		told = true;
		ts_sleep_until(ts_exec_now(o.d->exec) + DISK_RETRY_NS);
	}
	if (told && o.k->state == DISK_OPEN)
		ts_notice("disk %s: open now", disk_shown(o.k));
	if (o.k->state == DISK_OPEN)
		event_post(o.d, EV_DISK_OPEN, disk_shown(o.k), "%llu bytes", (unsigned long long)nsd_info(o.k->dev)->size_bytes);
}

int disks_open_all(struct daemon *d)
{
	for (unsigned i = 0; i < d->conf.ndisks; i++) {
		if (disk_find(d, d->conf.disks[i]))
			continue;
		struct opener *o = ts_alloc(sizeof(*o));
		if (o)
			*o = (struct opener){d, disk_add(d, d->conf.disks[i], true)};
		if (!o || !o->k || ts_fiber_spawn(d->exec, "open disk", open_fiber, o)) {
			ts_free(o);
			return -ENOMEM;
		}
	}
	return 0;
}

int disk_open(struct daemon *d, const char *url, struct disk **out, char *errmsg, size_t errlen)
{
	struct disk *k = disk_find(d, url);
	if (!k) {
		k = disk_add(d, url, false);
		if (!k)
			return -ENOMEM;
	}
	while (k->state == DISK_OPENING && k->configured && !k->dev && !d->stopping)
		ts_cond_wait(&d->changed, "disk to open", 0, 0);
	int rc = 0;
	if (k->state != DISK_OPEN && !k->dev)
		rc = disk_try(d, k);
	if (rc) {
		bool named = !strncmp(k->error, url, strlen(url)); /* nsd names the disk itself */
		snprintf(errmsg, errlen, "disk %s%s%s", named ? "" : url, named ? "" : ": ", k->error[0] ? k->error : strerror(-rc));
		if (!k->configured) {
			ts_list_del(&k->link);
			free(k->url);
			free(k->shown);
			ts_free(k);
		}
		return rc;
	}
	*out = k;
	return 0;
}

int disks_label_refresh(struct daemon *d)
{
	int first = 0;
	ts_list_for(l, &d->disks) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		if (k->state != DISK_OPEN || k->mount)
			continue;
		int rc = disk_label_refresh(k);
		if (rc && !first)
			first = rc;
	}
	return first;
}

const char *disk_label_word(enum nsd_label_state s)
{
	static const char *const words[] = {
		[NSD_LABEL_OK] = "tessera",   [NSD_LABEL_NONE] = "blank",    [NSD_LABEL_FOREIGN] = "foreign",
		[NSD_LABEL_NEWER] = "newer",  [NSD_LABEL_BROKEN] = "broken",
	};
	return (size_t)s < TS_ARRAY_LEN(words) ? words[s] : "?";
}

void disks_close_all(struct daemon *d)
{
	ts_list_for_safe(l, tmp, &d->disks) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		if (k->dev && !k->mount)
			nsd_close(k->dev);
		k->dev = NULL;
	}
}

uint64_t fs_group_of(const uint8_t fs_id[16])
{
	le64 g;
	memcpy(&g, fs_id, 8);
	return le64_get(g) ? le64_get(g) : 1;
}

/* A disk whose label cannot be believed may be one of the file system's: say so instead of "no such file system". */
static void nothing_found(struct daemon *d, const char *name, char *errmsg, size_t errlen)
{
	ts_list_for(l, &d->disks) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		if (k->state == DISK_OPEN && (k->label_state == NSD_LABEL_NEWER || k->label_state == NSD_LABEL_BROKEN)) {
			snprintf(errmsg, errlen, "file system %s: not found; disk %s has a %s label (%s); %s", name, k->url,
				 disk_label_word(k->label_state), k->label_what,
				 k->label_state == NSD_LABEL_NEWER ? "upgrade this node" : "run `tessera disk list` and restore the label");
			return;
		}
	}
	snprintf(errmsg, errlen, "file system %s: no such file system on the disks of this node; see `tessera fs list` and `tessera disk list`", name);
}

/* By the labels alone: for fsck, when disk 0 has no table any more. */
static int disks_by_label(struct daemon *d, const struct nsd_label_disk *first, struct disk ***out, unsigned *n, char *errmsg, size_t errlen)
{
	unsigned count = le16_get(first->disk_count);
	struct disk **v = count ? ts_alloc(count * sizeof(*v)) : NULL;
	if (!v)
		return -ENOMEM;
	ts_list_for(l, &d->disks) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		if (k->state == DISK_OPEN && k->label_state == NSD_LABEL_OK && !memcmp(first->fs_id, k->label.fs_id, 16) &&
		    le16_get(k->label.disk_no) < count)
			v[le16_get(k->label.disk_no)] = k;
	}
	for (unsigned i = 0; i < count; i++)
		if (!v[i]) {
			snprintf(errmsg, errlen, "file system %s: disk number %u of %u is not open on this node; see `tessera disk list`", first->fs_name, i, count);
			ts_free(v);
			return -ENODEV;
		}
	*out = v;
	*n = count;
	return 0;
}

struct disk *disk_by_uuid(struct daemon *d, const uint8_t fs_id[16], unsigned no, const uint8_t uuid[16])
{
	ts_list_for(l, &d->disks) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		if (k->state == DISK_OPEN && k->label_state == NSD_LABEL_OK && !memcmp(k->label.fs_id, fs_id, 16) &&
		    le16_get(k->label.disk_no) == no && !memcmp(k->label.disk_uuid, uuid, 16))
			return k;
	}
	return NULL;
}

/* One that the table names: open already, or where whoever added it found it. NULL, errmsg filled: it is needed and not there. */
static int disk_of_table(struct daemon *d, const struct nsd_label_disk *first, unsigned no, const struct fs_disk_info *i, struct disk **out,
			 char *errmsg, size_t errlen)
{
	const char *state = fs_disk_state_name(i->state);
	bool needed = strcmp(state, "joining") && strcmp(state, "empty");
	char why[300] = "";
	*out = NULL;
	if (!strcmp(state, "gone"))
		return 0;
	*out = disk_by_uuid(d, first->fs_id, no, i->uuid);
	if (!*out && i->url[0]) {
		struct disk *k;
		int rc = disk_open(d, i->url, &k, why, sizeof(why));
		if (rc == 0)
			*out = disk_by_uuid(d, first->fs_id, no, i->uuid);
	}
	if (*out || !needed)
		return 0;
	snprintf(errmsg, errlen, "file system %s: disk number %u%s%s is not open on this node%s%s; see `tessera disk list`", first->fs_name, no,
		 i->url[0] ? ", " : "", i->url, why[0] ? ": " : "", why);
	return -ENODEV;
}

/* Disk 0 by name. */
static int disk_zero(struct daemon *d, const char *name, struct disk **out, const struct nsd_label_disk **any, char *errmsg, size_t errlen)
{
	*out = NULL;
	*any = NULL;
	ts_list_for(l, &d->disks) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		if (k->state != DISK_OPEN || k->label_state != NSD_LABEL_OK || strncmp(k->label.fs_name, name, sizeof(k->label.fs_name)))
			continue;
		if (memcmp(k->label.cluster_id, d->cluster_id, 16)) {
			snprintf(errmsg, errlen, "file system %s: disk %s belongs to another cluster", name, k->url);
			return -EPERM;
		}
		if ((*any && memcmp((*any)->fs_id, k->label.fs_id, 16)) || (*out && !le16_get(k->label.disk_no))) {
			snprintf(errmsg, errlen, "file system %s: disks %s and another claim the same place; remove the copy", name, k->url);
			return -EEXIST;
		}
		*any = &k->label;
		if (!le16_get(k->label.disk_no))
			*out = k;
	}
	if (!*any) {
		nothing_found(d, name, errmsg, errlen);
		return -ENOENT;
	}
	return 0;
}

/* Two disks with the same label: one is a copy, and nobody knows which. */
static int no_twins(struct daemon *d, struct disk **v, unsigned n, const char *name, char *errmsg, size_t errlen)
{
	ts_list_for(l, &d->disks) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		for (unsigned i = 0; i < n; i++)
			if (v[i] && v[i] != k && k->state == DISK_OPEN && k->label_state == NSD_LABEL_OK &&
			    !memcmp(k->label.disk_uuid, v[i]->label.disk_uuid, 16)) {
				snprintf(errmsg, errlen, "file system %s: disks %s and another claim the same place; remove the copy", name, k->url);
				return -EEXIST;
			}
	}
	return 0;
}

int disks_of_fs(struct daemon *d, const char *name, struct disk ***out, unsigned *n, char *errmsg, size_t errlen)
{
	const struct nsd_label_disk *any;
	struct fs_disk_info *info;
	struct disk *zero, **v;
	unsigned count;
	*n = 0;
	int rc = disk_zero(d, name, &zero, &any, errmsg, errlen);
	if (rc)
		return rc;
	if (!zero) {
		snprintf(errmsg, errlen, "file system %s: disk number 0 of %u is not open on this node; see `tessera disk list`", name, le16_get(any->disk_count));
		return -ENODEV;
	}
	rc = fs_disks_list(zero->dev, &info, &count);
	if (rc == -EUCLEAN)
		return disks_by_label(d, &zero->label, out, n, errmsg, errlen);
	if (rc) {
		snprintf(errmsg, errlen, "file system %s: its disk table cannot be read on disk %s: %s", name, zero->url, strerror(-rc));
		return rc;
	}
	v = ts_alloc(count * sizeof(*v));
	rc = v ? 0 : -ENOMEM;
	for (unsigned i = 0; rc == 0 && i < count; i++)
		rc = disk_of_table(d, &zero->label, i, &info[i], &v[i], errmsg, errlen);
	ts_free(info);
	if (rc == 0)
		rc = no_twins(d, v, count, name, errmsg, errlen);
	if (rc) {
		ts_free(v);
		return rc;
	}
	*out = v;
	*n = count;
	return 0;
}
