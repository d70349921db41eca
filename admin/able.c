/* SPDX-License-Identifier: Apache-2.0 */
/* What the disks of a new file system can do about nodes that must not write: tried when it is made, kept in the labels, shown.
 * Must never happen: a disk tried that somebody uses. */
#include "admin/daemon.h"
#include <stdio.h>

#define PROBE_NODE 0xffffu /* no node has this number: its key is swept away if we die over it */
#define PROBE_ISID 0x7421
#define PROBE_OFF  (800u << 10) /* before NSD_DATA_START, and nothing of a file system lies there */

static int one(struct daemon *d, struct disk *k, uint32_t *able, char *errmsg, size_t errlen)
{
	char initiator[sizeof(d->conf.initiator) + 8], why[256] = "";
	struct nsd_dev *second;
	snprintf(initiator, sizeof(initiator), "%s:probe", d->conf.initiator);
	struct nsd_open_args a = {.exec = d->exec, .url = k->url, .initiator_name = initiator, .isid = PROBE_ISID,
				  .incarnation = d->incarnation};
	int rc = nsd_open(&a, &second, why, sizeof(why));
	if (rc == 0) {
		rc = nsd_able_probe(k->dev, key_of(d, d->conf.node_id, d->incarnation), second, key_of(d, PROBE_NODE, d->incarnation),
				    PROBE_OFF, able, why, sizeof(why));
		nsd_close(second);
	}
	if (rc)
		snprintf(errmsg, errlen, "disk %s: %s", k->url, why[0] ? why : strerror(-rc));
	return rc;
}

int able_probe(struct daemon *d, struct disk **disks, unsigned n, uint32_t *able, char *errmsg, size_t errlen)
{
	int rc = 0;
	for (unsigned i = 0; rc == 0 && i < n; i++) {
		nsd_able_apply(disks[i]->dev, 0); /* what an old label says is over */
		able[i] = 0;
		if (!nsd_info(disks[i]->dev)->has_reservations)
			continue;
		rc = one(d, disks[i], &able[i], errmsg, errlen);
		if (rc == 0 && !(able[i] & NSD_ABLE_ENFORCES))
			ts_warn("disk %s: its reservations do not keep a preempted node out: fencing will wait for leases", disks[i]->url);
		nsd_able_apply(disks[i]->dev, able[i]);
	}
	return rc;
}

/* How a node is kept off the disk: in one word. */
static const char *word(const struct disk *k)
{
	const struct nsd_info *i = nsd_info(k->dev);
	return !i->has_reservations ? "lease" : i->has_preempt_abort ? "preempt-abort" : "preempt";
}

void able_json(const struct disk *k, json_t *to)
{
	uint32_t able = k->label_state == NSD_LABEL_OK ? le32_get(k->label.flags) : 0, bit;
	json_t *o = json_object();
	const char *name;
	for (unsigned i = 0; (name = nsd_able_name(i, &bit)); i++)
		json_object_set_new(o, name, json_boolean(able & bit));
	json_object_set_new(to, "fencing", json_string(word(k)));
	json_object_set_new(to, "abilities", o);
}
