/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what a disk's reservations are worth, found out and not believed: a second identity is registered and preempted, and then
 * sends one of each command that changes something. Must never happen: a disk called safe on which a preempted node still
 * writes, or a command that the unit lets a preempted node execute called fenced. */
#include "nsd/nsd_int.h"

#include <stdio.h>

static const struct {
	uint32_t bit;
	const char *name;
} names[] = {
	{NSD_ABLE_PROBED, "probed"},		       {NSD_ABLE_ENFORCES, "enforces"},
	{NSD_ABLE_PREEMPT_ABORT, "preempt_abort"},     {NSD_ABLE_KEEPS, "keeps_over_power_loss"},
	{NSD_ABLE_UNMAP_FENCED, "unmap_fenced"},       {NSD_ABLE_WRITE_SAME_FENCED, "write_same_fenced"},
	{NSD_ABLE_FLUSH_FENCED, "flush_fenced"},
};

const char *nsd_able_name(unsigned i, uint32_t *bit)
{
	if (i >= TS_ARRAY_LEN(names))
		return NULL;
	*bit = names[i].bit;
	return names[i].name;
}

/* The unit may say less than was found out (a fall-back that fencing learnt), never more. */
void nsd_able_apply(struct nsd_dev *d, uint32_t able)
{
	bool probed = able & NSD_ABLE_PROBED;

	d->info.has_reservations = d->reported_reservations && (!probed || able & NSD_ABLE_ENFORCES);
	if (d->able_zero)
		d->zero_by_write = !(probed && able & NSD_ABLE_WRITE_SAME_FENCED);
	d->may_discard = d->able_discard && probed && able & NSD_ABLE_UNMAP_FENCED;
	if (probed && !(able & NSD_ABLE_PREEMPT_ABORT))
		d->info.has_preempt_abort = false;
}

struct probe {
	struct nsd_dev *mine, *second;
	uint64_t my_key, second_key, off;
	uint8_t *sector;
	char *errmsg;
	size_t errlen;
};

static int fail(struct probe *p, int rc, const char *what)
{
	if (rc)
		snprintf(p->errmsg, p->errlen, "reservations could not be tried: %s (%s)", what,
			 rc == -EBUSY ? "somebody else's reservation is on it" : strerror(-rc));
	return rc;
}

/* The second identity is the first on the unit and makes the reservation: what goes with it must not be the reservation. */
static int set_up(struct probe *p)
{
	int rc = fail(p, nsd_pr_register(p->second, p->second_key), "a second registration");

	if (!rc)
		rc = fail(p, nsd_pr_reserve(p->second, p->second_key), "reserve");
	if (!rc)
		rc = fail(p, nsd_pr_register(p->mine, p->my_key), "registration");
	if (!rc)
		rc = fail(p, p->second->ops->raw(p->second, NSD_RAW_WRITE, p->off, p->sector), "a registered node's write");
	return rc;
}

static bool refused(struct probe *p, enum nsd_raw what)
{
	return p->second->ops->raw(p->second, what, p->off, p->sector) == -TS_ERR_FENCED;
}

static uint32_t find_out(struct probe *p)
{
	static const struct {
		enum nsd_raw what;
		uint32_t bit;
	} rows[] = {{NSD_RAW_UNMAP, NSD_ABLE_UNMAP_FENCED},
		    {NSD_RAW_WRITE_SAME, NSD_ABLE_WRITE_SAME_FENCED},
		    {NSD_RAW_FLUSH, NSD_ABLE_FLUSH_FENCED}};
	uint32_t able = 0;

	/* nsd_pr_fence reads keys and reservation back; the write is the proof. */
	if (nsd_pr_fence(p->mine, p->my_key, p->second_key) || !refused(p, NSD_RAW_WRITE))
		return 0;
	able = NSD_ABLE_ENFORCES;
	if (p->mine->info.has_preempt_abort)
		able |= NSD_ABLE_PREEMPT_ABORT;
	if (p->mine->info.keeps_reservations)
		able |= NSD_ABLE_KEEPS;
	for (size_t i = 0; i < TS_ARRAY_LEN(rows); i++)
		if (refused(p, rows[i].what))
			able |= rows[i].bit;
	return able;
}

static void take_back(struct nsd_dev *d, uint64_t key)
{
	int rc = nsd_pr_unregister(d, key);

	if (rc && rc != -TS_ERR_FENCED)
		ts_warn("%s: the key %llx of a trial is left on it (%s)", d->url, (unsigned long long)key, strerror(-rc));
}

int nsd_able_probe(struct nsd_dev *mine, uint64_t my_key, struct nsd_dev *second, uint64_t second_key, uint64_t off, uint32_t *able,
		   char *errmsg, size_t errlen)
{
	struct probe p = {.mine = mine, .second = second, .my_key = my_key, .second_key = second_key, .off = off, .errmsg = errmsg,
			  .errlen = errlen};
	int rc;

	*able = 0;
	if (!mine->reported_reservations || !second->ops->raw)
		return 0;
	nsd_able_apply(mine, 0);
	nsd_able_apply(second, 0);
	p.sector = ts_alloc_aligned(4096, 4096);
	if (!p.sector)
		return -ENOMEM;
	rc = nsd_read(mine, p.sector, 4096, off);
	if (!rc)
		rc = set_up(&p);
	if (!rc)
		*able = NSD_ABLE_PROBED | find_out(&p);
	/* Whatever came of it: neither stays. */
	if (!(*able & NSD_ABLE_ENFORCES))
		take_back(second, second_key);
	take_back(mine, my_key);
	ts_free(p.sector);
	return rc;
}
