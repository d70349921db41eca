/* SPDX-License-Identifier: Apache-2.0 */
/* Job: reservations of NVMe, and the question after each new association: are we still registered? A registration belongs to the host
 * identity, whatever its controllers. Must never happen: an excluded node that registers itself again and writes. */
#include "nsd/nvme_int.h"

#include <stdio.h>

#define PR_DEADLINE  NSD_DEFAULT_DEADLINE
#define MOVING_NS    (200 * TS_NS_PER_MS)
#define REPORT_BYTES (64u << 10)

static int command(struct nvme_dev *d, uint8_t opcode, uint32_t cdw10, uint32_t cdw11, void *data, uint32_t len, bool out,
		   uint64_t deadline)
{
	struct nvme_answer a;
	int rc = -EAGAIN;

	for (int i = 0; rc == -EAGAIN && i < NVME_MAX_TRIES; i++) {
		struct nvme_cmd_msg m = {.opcode = opcode, .nsid = le32_make(d->nsid), .cdw10 = le32_make(cdw10), .cdw11 = le32_make(cdw11)};

		if (d->nconn < 2)
			return -ENOTCONN;
		rc = nvme_ctl(&d->conn[1], &m, data, len, out, &a, deadline);
		if (!rc)
			rc = nvme_meaning(a.status);
		if (rc == -EAGAIN)
			ts_sleep_until(ts_exec_now(d->exec) + 5 * TS_NS_PER_MS);
	}
	return rc == -EAGAIN ? -EIO : rc;
}

static int with_keys(struct nvme_dev *d, uint8_t opcode, uint32_t cdw10, uint64_t current, uint64_t other, uint64_t deadline)
{
	struct nvme_resv_keys_msg k = {le64_make(current), le64_make(other)};

	return command(d, opcode, cdw10, 0, &k, opcode == NVME_OP_RESV_RELEASE ? 8 : sizeof(k), true, deadline);
}

static int pr_register(struct nvme_dev *d, uint32_t action, uint64_t current, uint64_t key, uint64_t deadline)
{
	uint32_t persist = d->rescap & NVME_RESCAP_PERSIST ? NVME_RESV_PERSIST : 0;

	return with_keys(d, NVME_OP_RESV_REGISTER, action | persist, current, key, deadline);
}

static int acquire(struct nvme_dev *d, uint32_t action, uint64_t key, uint64_t victim, uint64_t deadline)
{
	return with_keys(d, NVME_OP_RESV_ACQUIRE, action | NVME_RESV_WE_ALL << 8, key, victim, deadline);
}

/* Whatever this host had before. */
static int register_anew(struct nvme_dev *d, uint64_t key, uint64_t deadline)
{
	int rc = pr_register(d, NVME_REGISTER, 0, key, deadline);

	if (rc == -TS_ERR_FENCED) /* registered, with another key */
		rc = pr_register(d, NVME_REPLACE | NVME_RESV_IGNORE_KEY, 0, key, deadline);
	return rc;
}

/* ---- reading --------------------------------------------------------------------------------------------------------- */

static bool seen_before(const struct nvme_report_entry_msg *e, unsigned i)
{
	for (unsigned k = 0; k < i; k++)
		if (!memcmp(&e[k].key, &e[i].key, sizeof(e->key)) && !memcmp(e[k].hostid, e[i].hostid, sizeof(e->hostid)))
			return true;
	return false;
}

/* One entry per controller of a host: each key counts once per host. */
static int take_report(const uint8_t *p, struct nsd_pr_state *out)
{
	const struct nvme_report_hdr_msg *h = (const void *)p;
	const struct nvme_report_entry_msg *e = (const void *)(h + 1);
	unsigned n = le16_get(h->count);

	if (n > (REPORT_BYTES - sizeof(*h)) / sizeof(*e))
		return -EOVERFLOW; /* a list that is not whole is no list */
	out->generation = le32_get(h->generation);
	out->nkeys = 0;
	out->holder_key = 0;
	out->type = h->type == NVME_RESV_NONE ? NSD_PR_NONE
		    : h->type == NVME_RESV_WE_ALL ? NSD_PR_WRITE_EXCL_ALL_REGISTRANTS
		    : h->type == NVME_RESV_WE_REGISTRANTS ? NSD_PR_WRITE_EXCL_REGISTRANTS : NSD_PR_OTHER;
	for (unsigned i = 0; i < n; i++) {
		if (seen_before(e, i))
			continue;
		if (out->nkeys == NSD_PR_MAX_KEYS)
			return -EOVERFLOW;
		out->keys[out->nkeys++] = le64_get(e[i].key);
		if (e[i].status & 1 && h->type != NVME_RESV_WE_ALL && h->type != NVME_RESV_EA_ALL)
			out->holder_key = le64_get(e[i].key);
	}
	return 0;
}

static int read_state(struct nvme_dev *d, uint64_t deadline, struct nsd_pr_state *out)
{
	uint8_t *p = ts_alloc_aligned(4096, REPORT_BYTES);
	int rc = p ? command(d, NVME_OP_RESV_REPORT, REPORT_BYTES / 4 - 1, 1, p, REPORT_BYTES, false, deadline) : -ENOMEM;

	if (!rc)
		rc = take_report(p, out);
	ts_free(p);
	return rc;
}

/* ---- after a new association ------------------------------------------------------------------------------------------ */

/* Registered, then the reservation stands, too, or is made again. */
static int keep_reservation(struct nvme_dev *d, struct nsd_pr_state *s, uint64_t deadline)
{
	int rc = read_state(d, deadline, s);

	if (!rc && s->type == NSD_PR_NONE) {
		ts_sleep_until(ts_exec_now(d->exec) + MOVING_NS); /* another node may just be moving it (nsd_pr_fence) */
		rc = read_state(d, deadline, s);
	}
	if (!rc && s->type == NSD_PR_NONE) {
		rc = acquire(d, NVME_ACQUIRE, d->pr_key, 0, deadline);
		if (!rc || rc == -TS_ERR_FENCED) /* granted, or somebody was faster: what stands counts */
			rc = read_state(d, deadline, s);
	}
	if (rc || s->type == NSD_PR_WRITE_EXCL_ALL_REGISTRANTS)
		return rc;
	nvme_set_error(d, "the reservation does not stand");
	return -EIO;
}

static int look(struct nvme_dev *d, struct nsd_pr_state *s)
{
	uint64_t deadline = ts_exec_now(d->exec) + NVME_SETUP_NS;
	/* "Change my key from K to K": done if and only if this host is registered with K. */
	int rc = pr_register(d, NVME_REPLACE, d->pr_key, d->pr_key, deadline);

	return rc || !d->pr_reserved ? rc : keep_reservation(d, s, deadline);
}

/* Nothing of ours is there. Whether we were excluded or the unit forgot everything is not for the unit to say. */
static int ask_the_cluster(struct nvme_dev *d, struct nsd_pr_state *s)
{
	const struct nsd_gate *g = d->dev ? &d->dev->gate : NULL;
	int rc;

	if (!g || !g->registration_lost)
		return -TS_ERR_FENCED;
	d->pr_lost = true;
	d->reinstating = true;
	rc = g->registration_lost(g->arg, d->dev);
	d->reinstating = false;
	if (!rc)
		rc = look(d, s); /* as after any new association: believed when seen */
	if (!rc) {
		d->pr_lost = false;
		d->dev->losses++;
	} else if (rc == -TS_ERR_FENCED) { /* what the gate registered before it knew is taken back */
		(void)!pr_register(d, NVME_UNREGISTER, d->pr_key, 0, ts_exec_now(d->exec) + NVME_SETUP_NS);
	} else {
		nvme_set_error(d, "our registration is gone, and the cluster does not say yet whether we are");
	}
	return rc;
}

int nvme_pr_check(struct nvme_dev *d, bool new_session)
{
	struct nsd_pr_state *s;
	int rc;

	if (!d->pr_key)
		return 0;
	s = ts_alloc(sizeof(*s));
	rc = s ? look(d, s) : -ENOMEM;
	if (new_session && s && (rc == -TS_ERR_FENCED || (!rc && d->pr_lost)))
		rc = ask_the_cluster(d, s);
	ts_free(s);
	return rc;
}

/* ---- verbs ------------------------------------------------------------------------------------------------------------ */

static int unregister(struct nvme_dev *d, uint64_t key, uint64_t deadline)
{
	int rc = pr_register(d, NVME_UNREGISTER, key, 0, deadline);

	if (!rc && d->pr_key == key)
		d->pr_key = 0;
	d->pr_reserved &= d->pr_key != 0;
	return rc;
}

static int once(struct nvme_dev *d, int verb, uint64_t key, uint64_t other, struct nsd_pr_state *out, uint64_t deadline)
{
	int rc;

	switch (verb) {
	case NSD_PRV_REGISTER:
		rc = register_anew(d, key, deadline);
		if (!rc)
			d->pr_key = key;
		return rc;
	case NSD_PRV_UNREGISTER:
		return unregister(d, key, deadline);
	case NSD_PRV_RESERVE:
		d->pr_reserved = d->pr_key == key; /* in conflict, too: then another's stands */
		return acquire(d, NVME_ACQUIRE, key, 0, deadline);
	case NSD_PRV_RELEASE:
		return with_keys(d, NVME_OP_RESV_RELEASE, NVME_RELEASE | NVME_RESV_WE_ALL << 8, key, 0, deadline);
	case NSD_PRV_PREEMPT:
		return acquire(d, NVME_PREEMPT, key, other, deadline);
	case NSD_PRV_PREEMPT_ABORT:
		return acquire(d, NVME_PREEMPT_ABORT, key, other, deadline);
	case NSD_PRV_READ:
		return read_state(d, deadline, out);
	}
	return -EINVAL;
}

int nvme_wait_up(struct nvme_dev *d, uint64_t deadline)
{
	while (d->state != NVME_UP) {
		if (d->state == NVME_FENCED)
			return -TS_ERR_FENCED;
		if (ts_cond_wait_until(&d->changed, deadline, "NVMe association for a reservation", d->gen, 0))
			return -ETIMEDOUT;
	}
	return 0;
}

int nvme_pr(struct nsd_dev *dev, int verb, uint64_t key, uint64_t other, struct nsd_pr_state *out)
{
	struct nvme_dev *d = nsd_dev_priv(dev);
	uint64_t deadline = ts_exec_now(d->exec) + PR_DEADLINE;
	int rc;

	if (!d->info.has_reservations)
		return -EOPNOTSUPP;
	if (d->reinstating && ts_fiber_self() == d->fiber) /* all others wait for the association to be up */
		return once(d, verb, key, other, out, ts_exec_now(d->exec) + NVME_SETUP_NS);
	ts_mutex_lock(&d->pr_mutex, "reservation command");
	/* Every verb may be repeated when an association is lost under it: the end state is the same. */
	do {
		rc = nvme_wait_up(d, deadline);
		if (!rc)
			rc = once(d, verb, key, other, out, TS_MIN(deadline, ts_exec_now(d->exec) + NVME_SETUP_NS));
	} while (rc == -ENOTCONN && ts_exec_now(d->exec) < deadline);
	/* A conflict, or the unregistration of a key that is gone: if it was ours this device is done for. */
	if (rc == -TS_ERR_FENCED && d->pr_key)
		nvme_recheck(d);
	ts_mutex_unlock(&d->pr_mutex);
	return rc == -ENOTCONN ? -ETIMEDOUT : rc;
}
