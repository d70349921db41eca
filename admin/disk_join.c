/* SPDX-License-Identifier: Apache-2.0 */
/* A disk joins a mounted file system, or leaves it, on this node: found by its label's uuid, or where whoever added it reached it.
 * Must never happen: a disk given to the file system that is not the one its table names, or without this node's key on it. */
#include "admin/daemon.h"
#include <stdio.h>

/* The labels of disks that nothing uses may be older than what is on them now. */
static struct disk *look(struct mount *m, unsigned no, const uint8_t uuid[16])
{
	(void)disks_label_refresh(m->d); /* one that cannot be read is not the one */
	return disk_by_uuid(m->d, m->disks[0]->label.fs_id, no, uuid);
}

static int room_for(struct mount *m, unsigned no)
{
	unsigned n = TS_MAX(no + 1, m->ndisks);
	struct disk **v = n > m->ndisks ? ts_alloc(n * sizeof(*v)) : m->disks;
	if (!v)
		return -ENOMEM;
	if (v != m->disks) {
		memcpy(v, m->disks, m->ndisks * sizeof(*v));
		ts_free(m->disks);
		m->disks = v;
		m->ndisks = n;
	}
	return 0;
}

int disk_joins(void *arg, unsigned no, const uint8_t uuid[16], const char *url, struct nsd_dev **out)
{
	struct mount *m = arg;
	char why[512] = "";
	struct disk *k = look(m, no, uuid), *at_url;
	bool have;
	if (!k && url[0] && disk_open(m->d, url, &at_url, why, sizeof(why)) == 0)
		k = look(m, no, uuid);
	if (!k) {
		ts_err("file system %s: disk number %u, %s, is not open on this node (%s); name it in tesserad.conf, or see that it can be reached",
		       m->name, no, url[0] ? url : "whose place is not told", why[0] ? why : "no disk here has its label");
		return -ENODEV;
	}
	int rc = room_for(m, no);
	if (rc == 0)
		rc = keys_register(m->d, &k, 1, &have, why, sizeof(why));
	if (rc) {
		ts_err("file system %s: disk number %u: %s", m->name, no, why[0] ? why : strerror(-rc));
		return rc;
	}
	m->disks[no] = k;
	k->mount = m;
	*out = k->dev;
	ts_notice("file system %s: disk number %u is %s", m->name, no, k->url);
	return 0;
}

void disk_forget(struct daemon *d, struct disk *k)
{
	if (k->configured || k->mount)
		return;
	ts_list_del(&k->link);
	if (k->dev)
		nsd_close(k->dev);
	free(k->url);
	ts_free(k);
}

void disk_leaves(void *arg, unsigned no, struct nsd_dev *dev)
{
	struct mount *m = arg;
	struct disk *k = no < m->ndisks ? m->disks[no] : NULL;
	if (!k || k->dev != dev)
		return;
	keys_unregister(m->d, &k, 1);
	m->disks[no] = NULL;
	k->mount = NULL;
	ts_notice("file system %s: disk number %u, %s, is used no more", m->name, no, k->url);
	disk_forget(m->d, k);
}
