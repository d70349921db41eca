/* SPDX-License-Identifier: Apache-2.0 */
/* Reservation keys: one per (node, incarnation), the same arithmetic on every node, so that any survivor can name the key
 * of the dead. Type: write exclusive, all registrants: the death of one holder does not drop the reservation.
 * Must never happen: two incarnations with one key; a disk mounted with keys on some of its file system's disks only. */
#include "admin/daemon.h"
#include <stdio.h>

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

/* Keys of lives that ended before this view: their owners must not write any more. */
static int sweep(struct daemon *d, struct disk *k, uint64_t mine)
{
	struct nsd_pr_state *s = ts_alloc(sizeof(*s));
	if (!s)
		return -ENOMEM;
	int rc = nsd_pr_read(k->dev, s);
	for (unsigned i = 0; rc == 0 && i < s->nkeys; i++) {
		if (s->keys[i] == mine || key_is_member(d, s->keys[i]))
			continue;
		ts_notice("disk %s: fencing key %llx of a node that is no member", k->url, (unsigned long long)s->keys[i]);
		rc = nsd_pr_fence(k->dev, mine, s->keys[i]);
		if (rc == -ENOENT)
			rc = 0;
	}
	ts_free(s);
	return rc;
}

static int register_one(struct daemon *d, struct disk *k, uint64_t key)
{
	int rc = nsd_pr_register(k->dev, key);
	if (rc == 0)
		rc = nsd_pr_reserve(k->dev, key);
	return rc ? rc : sweep(d, k, key);
}

int keys_register(struct daemon *d, struct disk **disks, unsigned n, bool *have, char *errmsg, size_t errlen)
{
	uint64_t key = key_of(d, d->conf.node_id, d->incarnation);
	unsigned with = 0;
	for (unsigned i = 0; i < n; i++)
		with += nsd_info(disks[i]->dev)->has_reservations;
	*have = with == n;
	if (with && with < n)
		ts_warn("only %u of %u disks have persistent reservations: fencing waits for leases", with, n);
	for (unsigned i = 0; i < n; i++) {
		if (!nsd_info(disks[i]->dev)->has_reservations)
			continue;
		int rc = register_one(d, disks[i], key);
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
		if (!nsd_info(disks[i]->dev)->has_reservations)
			continue;
		int rc = nsd_pr_unregister(disks[i]->dev, key);
		if (rc && rc != -TS_ERR_FENCED)
			ts_warn("disk %s: reservation key not taken back: %s", disks[i]->url, strerror(-rc));
	}
}
