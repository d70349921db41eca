/* SPDX-License-Identifier: Apache-2.0 */
/* Reservation keys: one per (node, incarnation), the same arithmetic on every node, so that any survivor can name the key
 * of the dead. Type: write exclusive, all registrants: the death of one holder does not drop the reservation.
 * Must never happen: two incarnations with one key; a disk mounted with keys on some of its file system's disks only. */
#include "admin/daemon.h"
#include <stdio.h>

#define BARRIER_POLL_NS (20 * TS_NS_PER_MS)
#define BARRIER_MAX_NS	(5 * TS_NS_PER_S)

uint64_t key_of(void *arg, unsigned node, uint64_t incarnation)
{
	(void)arg;
	return ((uint64_t)node << 48) | (quorum_incarnation_counter(incarnation) & ((1ULL << 48) - 1));
}

static bool key_is_member(struct daemon *d, uint64_t key)
{
	const struct quorum_view *v = quorum_view_get(d->quorum);
	for (unsigned i = 0; i < v->nmembers; i++)
		if (key_of(d, v->members[i].node, v->members[i].incarnation) == key)
			return true;
	return false;
}

/* Until a renewal of our lease that was sent after now has come back. Then this life was a member until now, at least, and whatever
 * the cluster had agreed before now is known here. */
static int barrier(struct daemon *d)
{
	uint64_t begin = ts_exec_now(d->exec), lease = (uint64_t)conf_times(&d->conf).lease_ms * TS_NS_PER_MS;
	while (!d->excluded && quorum_lease_until_ns(d->quorum) <= begin + lease) {
		if (d->stopping || ts_exec_now(d->exec) > begin + BARRIER_MAX_NS)
			return -EAGAIN;
		ts_sleep_until(ts_exec_now(d->exec) + BARRIER_POLL_NS);
	}
	return d->excluded ? -TS_ERR_FENCED : 0;
}

/* Keys of lives that ended before this view: their owners must not write any more. Not those of nodes whose joining is still
 * on its way to us. */
static int sweep(struct daemon *d, struct nsd_dev *dev, uint64_t mine)
{
	struct nsd_pr_state *s = ts_alloc(sizeof(*s));
	bool asked = false;
	if (!s)
		return -ENOMEM;
	int rc = nsd_pr_read(dev, s);
	for (unsigned i = 0; rc == 0 && i < s->nkeys; i++) {
		if (s->keys[i] == mine || key_is_member(d, s->keys[i]))
			continue;
		if (!asked) {
			asked = true;
			rc = barrier(d);
			if (rc || key_is_member(d, s->keys[i]))
				continue;
		}
		ts_notice("disk %s: fencing key %llx of a node that is no member", nsd_url(dev), (unsigned long long)s->keys[i]);
		rc = nsd_pr_fence(dev, mine, s->keys[i]);
		if (rc == -ENOENT)
			rc = 0;
	}
	ts_free(s);
	return rc;
}

static int register_one(struct daemon *d, struct nsd_dev *dev, uint64_t key)
{
	int rc = nsd_pr_register(dev, key);
	if (rc == 0)
		rc = nsd_pr_reserve(dev, key);
	return rc ? rc : sweep(d, dev, key);
}

/* A disk has forgotten our key (a target that restarts may), or we are out: nobody is fenced that the cluster has not excluded before. So
 * a life that is a member still registers again, for all that the disk knows of the others is gone, too; then it makes sure that it was
 * a member when its key was there. Before this is through, nothing of this node reaches the disk. */
int keys_lost(void *arg, struct nsd_dev *dev)
{
	struct daemon *d = arg;
	uint64_t key = key_of(d, d->conf.node_id, d->incarnation);
	event_post(d, EV_DISK_KEY_LOST, nsd_url(dev), "asking the cluster whether this node is still a member");
	ts_warn("disk %s: our reservation key is gone; asking the cluster whether this node is still a member", nsd_url(dev));
	int rc = barrier(d);
	if (rc == 0)
		rc = register_one(d, dev, key);
	if (rc == 0)
		rc = barrier(d);
	if (rc == 0)
		ts_warn("disk %s: its target had lost all reservations; ours stands again, and nothing was written before", nsd_url(dev));
	return rc;
}

int keys_register(struct daemon *d, struct disk **disks, unsigned n, bool *have, char *errmsg, size_t errlen)
{
	uint64_t key = key_of(d, d->conf.node_id, d->incarnation);
	unsigned with = 0, there = 0;
	for (unsigned i = 0; i < n; i++) {
		there += disks[i] != NULL;
		with += disks[i] && nsd_info(disks[i]->dev)->has_reservations;
	}
	*have = with == there;
	if (with && with < there)
		ts_warn("only %u of %u disks have persistent reservations: fencing waits for leases", with, there);
	for (unsigned i = 0; i < n; i++) {
		if (!disks[i] || !nsd_info(disks[i]->dev)->has_reservations)
			continue;
		int rc = register_one(d, disks[i]->dev, key);
		if (rc) {
			snprintf(errmsg, errlen, "disk %s: reservation key could not be registered: %s", disks[i]->url,
				 rc == -TS_ERR_FENCED ? "this node was fenced; restart tesserad" : strerror(-rc));
			keys_unregister(d, disks, i);
			return rc;
		}
	}
	return 0;
}

void keys_unregister(struct daemon *d, struct disk **disks, unsigned n)
{
	uint64_t key = key_of(d, d->conf.node_id, d->incarnation);
	for (unsigned i = 0; i < n; i++) {
		if (!disks[i] || !nsd_info(disks[i]->dev)->has_reservations)
			continue;
		int rc = nsd_pr_unregister(disks[i]->dev, key);
		if (rc && rc != -TS_ERR_FENCED)
			ts_warn("disk %s: reservation key not taken back: %s", disks[i]->url, strerror(-rc));
	}
}
