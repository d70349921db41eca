/* SPDX-License-Identifier: Apache-2.0 */
/* `tessera fs set`: what of a file system can be changed after it was made. Its default mount options are in the label of its first disk, where
 * every node looks before it mounts; the rest is laid out on disk for good, and refused with the reason. Must never happen: an option
 * stored that `mount` would refuse; a label written by a node that is not registered on the disk. */
#include "admin/daemon.h"
#include <stdio.h>

#define NONE "none"

static const struct {
	const char *key, *why;
} fixed[] = {
	{"name", "it is in the superblock of every disk; make another file system and copy"},
	{"block_size", "every address on disk depends on it; make another file system and copy"},
	{"log_slots", "logs lie between the tables and the data, where there is no more room; choose --log-slots large enough when it is made"},
	{"log_size", "logs lie between the tables and the data, where there is no more room; choose --log-size when it is made"},
};

/* Bytes of a disk: ended, and of what options are made of; else there are none. */
const char *fs_default_options(const struct disk *first)
{
	const char *s = first->label.mount_options;
	if (!memchr(s, 0, sizeof(first->label.mount_options)))
		return "";
	for (const char *p = s; *p; p++)
		if (!((*p >= 'a' && *p <= 'z') || *p == ',' || *p == '-'))
			return "";
	return s;
}

/* As another node may have set them, of a disk that is in use here: nothing else of the label is looked at again. */
static int label_news(struct disk *k)
{
	struct nsd_label_disk *l = ts_alloc(sizeof(*l));
	enum nsd_label_state state;
	char what[64];
	int rc = l ? nsd_label_read(k->dev, l, &state, what, sizeof(what)) : -ENOMEM;
	if (rc == 0 && (state != NSD_LABEL_OK || memcmp(l->disk_uuid, k->label.disk_uuid, sizeof(l->disk_uuid))))
		rc = -EUCLEAN;
	if (rc == 0) {
		k->label.sequence = l->sequence;
		memcpy(k->label.mount_options, l->mount_options, sizeof(l->mount_options));
	}
	ts_free(l);
	return rc;
}

json_t *fs_default_options_json(struct daemon *d, const char *name)
{
	ts_list_for(l, &d->disks) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		if (k->state == DISK_OPEN && k->label_state == NSD_LABEL_OK && !le16_get(k->label.disk_no) && !strcmp(k->label.fs_name, name))
			return k->mount && label_news(k) ? NULL : json_string(fs_default_options(k));
	}
	return NULL;
}

static int label_write(struct daemon *d, struct disk **disks, const char *value, char *errmsg, size_t errlen)
{
	struct disk *k = disks[0];
	struct nsd_label_disk *l = ts_alloc(sizeof(*l));
	bool have, mounted = k->mount != NULL;
	int rc = l ? 0 : -ENOMEM;
	if (rc == 0 && !mounted) /* a mount is registered */
		rc = keys_register(d, disks, 1, &have, errmsg, errlen);
	if (rc == 0) {
		*l = k->label;
		memset(l->mount_options, 0, sizeof(l->mount_options));
		memcpy(l->mount_options, value, strlen(value));
		l->sequence = le64_make(le64_get(l->sequence) + 1);
		rc = nsd_label_write(k->dev, l);
		if (rc)
			snprintf(errmsg, errlen, "disk %s: its label cannot be written: %s; one of its two copies stands as it was, set it again", disk_shown(k),
				 rc == -TS_ERR_FENCED ? "reservation conflict" : strerror(-rc));
		else
			k->label = *l;
		if (!mounted)
			keys_unregister(d, disks, 1);
	}
	ts_free(l);
	return rc;
}

static int set_options(struct daemon *d, const char *name, const char *value, struct answer *a)
{
	struct disk **disks = NULL;
	unsigned n;
	char why[256];
	bool none = !strcmp(value, NONE);
	if (!none && strlen(value) >= sizeof(((struct nsd_label_disk *)0)->mount_options))
		return answer_refuse(a, -EINVAL, "fs set: mount_options: longer than %zu bytes; use fewer", sizeof(((struct nsd_label_disk *)0)->mount_options) - 1);
	if (!none && mount_options_check(value, why, sizeof(why)))
		return answer_refuse(a, -EINVAL, "fs set: %s", why);
	ts_mutex_lock(&d->mount_lock, "another mount or format");
	(void)disks_label_refresh(d); /* a disk that cannot be read is named below */
	int rc = disks_of_fs(d, name, &disks, &n, a->error, sizeof(a->error));
	if (rc == 0 && disks[0]->mount) /* not refreshed above; another node may have set it */
		rc = label_news(disks[0]);
	if (rc == 0 && !quorum_may_write(d->quorum))
		rc = answer_refuse(a, -EAGAIN, "file system %s: this node has no quorum; start more nodes, see `tessera status`", name);
	if (rc == 0)
		rc = label_write(d, disks, none ? "" : value, a->error, sizeof(a->error));
	if (rc == 0) {
		event_post(d, EV_CONFIG_CHANGED, name, "default mount options: %s", value);
		a->data = json_pack("{s:s,s:s,s:s,s:s}", "name", name, "key", "mount_options", "value", none ? "" : value, "in_force", "from the next mount on, on every node");
	}
	ts_free(disks);
	ts_mutex_unlock(&d->mount_lock);
	return a->rc = rc;
}

void fs_set(struct daemon *d, const char *name, const char *key, const char *value, struct answer *a)
{
	if (!strcmp(key, "mount_options")) {
		(void)set_options(d, name, value, a); /* a->rc has it */
		return;
	}
	for (size_t i = 0; i < TS_ARRAY_LEN(fixed); i++)
		if (!strcmp(fixed[i].key, key)) {
			answer_refuse(a, -EOPNOTSUPP, "fs set: %s of %s cannot be changed: %s", key, name, fixed[i].why);
			return;
		}
	answer_refuse(a, -EINVAL, "fs set: '%.80s': there is no such setting of a file system; see `tessera help fs set`", key);
}
