/* SPDX-License-Identifier: Apache-2.0 */
/* Job: persistent reservations over iSCSI, and the question after each new session: are we still registered? Must
 * never happen: an excluded node that registers itself again and writes, because it looked first and was excluded
 * between the look and the registration. */
#include "nsd/iscsi_int.h"

#include <stdio.h>

#define PR_DEADLINE NSD_DEFAULT_DEADLINE
#define MOVING_NS   (200 * TS_NS_PER_MS) /* much more than another node needs between RELEASE and RESERVE */
#define TYPE_WEAR   SCSI_PERSISTENT_RESERVE_TYPE_WRITE_EXCLUSIVE_ALL_REGISTRANTS

static uint64_t be(const uint8_t *p, int n)
{
	uint64_t x = 0;

	while (n--)
		x = x << 8 | *p++;
	return x;
}

/* 0, -TS_ERR_FENCED (conflict), -EOPNOTSUPP, -EAGAIN (unit attention), -EIO; -ENOTCONN from below. */
int nsd_iscsi_meaning(const struct iscsi_answer *a)
{
	if (a->status == SCSI_STATUS_GOOD)
		return 0;
	if (a->status == SCSI_STATUS_RESERVATION_CONFLICT)
		return -TS_ERR_FENCED;
	if (a->status == SCSI_STATUS_BUSY || a->status == SCSI_STATUS_TASK_SET_FULL ||
	    a->status == SCSI_STATUS_TASK_ABORTED)
		return -EAGAIN;
	if (a->status != SCSI_STATUS_CHECK_CONDITION)
		return -EIO;
	if (a->sense_key == SCSI_SENSE_UNIT_ATTENTION || a->sense_key == SCSI_SENSE_COMMAND_ABORTED)
		return -EAGAIN;
	/* invalid opcode, invalid field in CDB or in parameters */
	if (a->sense_key == SCSI_SENSE_ILLEGAL_REQUEST &&
	    (a->ascq == 0x2000 || a->ascq == 0x2400 || a->ascq == 0x2600))
		return -EOPNOTSUPP;
	return -EIO;
}

static int pr_out(struct iscsi_dev *d, struct iscsi_answer *a, int action, uint64_t key, uint64_t sakey, bool aptpl,
		  uint64_t deadline)
{
	struct scsi_persistent_reserve_out_basic p = {
		.reservation_key = key, .service_action_reservation_key = sakey, .aptpl = aptpl};
	bool registering = action == SCSI_PERSISTENT_RESERVE_REGISTER ||
			   action == SCSI_PERSISTENT_RESERVE_REGISTER_AND_IGNORE_EXISTING_KEY;
	int rc = -EAGAIN;

	for (int i = 0; rc == -EAGAIN && i < ISCSI_MAX_TRIES; i++) {
		rc = nsd_iscsi_ctl(d,
				   scsi_cdb_persistent_reserve_out((enum scsi_persistent_out_sa)action,
								   SCSI_PERSISTENT_RESERVE_SCOPE_LU,
								   registering ? 0 : TYPE_WEAR, &p),
				   a, deadline);
		if (!rc)
			rc = nsd_iscsi_meaning(a);
		if (rc == -EAGAIN)
			ts_sleep_until(ts_exec_now(d->exec) + 5 * TS_NS_PER_MS);
	}
	return rc == -EAGAIN ? -EIO : rc;
}

/* Registers; with the persist bit where the unit says it can, without where it then refuses it. */
static int pr_register(struct iscsi_dev *d, struct iscsi_answer *a, int action, uint64_t key, uint64_t sakey,
		       uint64_t deadline)
{
	int rc = pr_out(d, a, action, key, sakey, d->aptpl, deadline);

	if (rc == -EOPNOTSUPP && d->aptpl) {
		d->aptpl = false;
		rc = pr_out(d, a, action, key, sakey, false, deadline);
	}
	return rc;
}

static int pr_in(struct iscsi_dev *d, struct iscsi_answer *a, int action, uint64_t deadline)
{
	int rc = -EAGAIN;

	for (int i = 0; rc == -EAGAIN && i < ISCSI_MAX_TRIES; i++) {
		rc = nsd_iscsi_ctl(d,
				   scsi_cdb_persistent_reserve_in((enum scsi_persistent_in_sa)action,
								  ISCSI_KEYS_BYTES),
				   a, deadline);
		if (!rc)
			rc = nsd_iscsi_meaning(a);
	}
	if (!rc && a->len < 8)
		rc = -EIO;
	return rc == -EAGAIN ? -EIO : rc;
}

static int read_keys(struct iscsi_dev *d, struct iscsi_answer *a, uint64_t deadline, struct nsd_pr_state *out)
{
	int rc = pr_in(d, a, SCSI_PERSISTENT_RESERVE_READ_KEYS, deadline);
	uint64_t bytes;

	if (rc)
		return rc;
	bytes = be(a->data + 4, 4);
	if (bytes > 8 * NSD_PR_MAX_KEYS || bytes > a->len - 8)
		return -EOVERFLOW; /* a list that is not whole is no list */
	out->generation = (uint32_t)be(a->data, 4);
	out->nkeys = (unsigned)(bytes / 8);
	for (unsigned i = 0; i < out->nkeys; i++)
		out->keys[i] = be(a->data + 8 + 8 * i, 8);
	return 0;
}

static int read_state(struct iscsi_dev *d, struct iscsi_answer *a, uint64_t deadline, struct nsd_pr_state *out)
{
	int rc = read_keys(d, a, deadline, out);

	if (!rc)
		rc = pr_in(d, a, SCSI_PERSISTENT_RESERVE_READ_RESERVATION, deadline);
	if (rc)
		return rc;
	out->type = NSD_PR_NONE;
	out->holder_key = 0;
	if (be(a->data + 4, 4) < 16)
		return 0;
	if (a->len < 24)
		return -EIO;
	out->holder_key = be(a->data + 8, 8);
	switch (a->data[21] & 15) {
	case TYPE_WEAR:
		out->type = NSD_PR_WRITE_EXCL_ALL_REGISTRANTS;
		out->holder_key = 0;
		break;
	case SCSI_PERSISTENT_RESERVE_TYPE_WRITE_EXCLUSIVE_REGISTRANTS_ONLY:
		out->type = NSD_PR_WRITE_EXCL_REGISTRANTS;
		break;
	default:
		out->type = NSD_PR_OTHER;
	}
	return 0;
}

/* ---- after a new session ----------------------------------------------------------------------------------------- */

static unsigned count_key(struct iscsi_dev *d, struct iscsi_answer *a, uint64_t deadline, struct nsd_pr_state *s,
			  int *rc)
{
	unsigned n = 0;

	*rc = read_keys(d, a, deadline, s);
	for (unsigned i = 0; !*rc && i < s->nkeys; i++)
		n += s->keys[i] == d->pr_key;
	return n;
}

/* The unit took the new session for a new nexus: our key stands there for the old one only. It is registered again for
 * the new one; if the old entry vanished meanwhile somebody excluded us, and the new entry is taken back. No write was
 * sent in between: state is not UP. */
static int register_again(struct iscsi_dev *d, struct iscsi_answer *a, struct nsd_pr_state *s, uint64_t deadline)
{
	unsigned before, after;
	int rc;

	before = count_key(d, a, deadline, s, &rc);
	if (rc)
		return rc;
	if (!before)
		return -TS_ERR_FENCED;
	rc = pr_register(d, a, SCSI_PERSISTENT_RESERVE_REGISTER, 0, d->pr_key, deadline);
	if (rc)
		return rc;
	after = count_key(d, a, deadline, s, &rc);
	if (rc || after > before)
		return rc;
	rc = pr_out(d, a, SCSI_PERSISTENT_RESERVE_REGISTER, d->pr_key, 0, false, deadline);
	return rc == -ENOTCONN ? rc : -TS_ERR_FENCED;
}

/* Registered, then the reservation stands, too, or is made again: another node may just be moving it (nsd_pr_fence). */
static int keep_reservation(struct iscsi_dev *d, struct iscsi_answer *a, struct nsd_pr_state *s, uint64_t deadline)
{
	int rc = read_state(d, a, deadline, s);

	if (!rc && s->type == NSD_PR_NONE) {
		ts_sleep_until(ts_exec_now(d->exec) + MOVING_NS);
		rc = read_state(d, a, deadline, s);
	}
	if (!rc && s->type == NSD_PR_NONE) {
		rc = pr_out(d, a, SCSI_PERSISTENT_RESERVE_RESERVE, d->pr_key, 0, false, deadline);
		if (!rc || rc == -TS_ERR_FENCED) /* granted, or somebody was faster: what stands counts */
			rc = read_state(d, a, deadline, s);
	}
	if (rc || s->type == NSD_PR_WRITE_EXCL_ALL_REGISTRANTS)
		return rc;
	snprintf(d->error, sizeof(d->error), "the reservation does not stand");
	return -EIO;
}

static int look(struct iscsi_dev *d, struct iscsi_answer *a, struct nsd_pr_state *s)
{
	uint64_t deadline = ts_exec_now(d->exec) + ISCSI_SETUP_NS;
	/* "Change my key from K to K": done if and only if this nexus is registered with K. */
	int rc = pr_register(d, a, SCSI_PERSISTENT_RESERVE_REGISTER, d->pr_key, d->pr_key, deadline);

	if (rc == -TS_ERR_FENCED)
		rc = register_again(d, a, s, deadline);
	return rc || !d->pr_reserved ? rc : keep_reservation(d, a, s, deadline);
}

/* Nothing of ours is there. Whether we were excluded or the unit forgot everything is not for the unit to say. */
static int ask_the_cluster(struct iscsi_dev *d, struct iscsi_answer *a, struct nsd_pr_state *s)
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
		rc = look(d, a, s); /* as after any new session: believed when seen */
	if (!rc) {
		d->pr_lost = false;
		d->dev->losses++;
	} else if (rc == -TS_ERR_FENCED) { /* what the gate registered before it knew is taken back */
		(void)pr_out(d, a, SCSI_PERSISTENT_RESERVE_REGISTER, d->pr_key, 0, false, ts_exec_now(d->exec) + ISCSI_SETUP_NS);
	} else {
		snprintf(d->error, sizeof(d->error), "our registration is gone, and the cluster does not say yet whether we are");
	}
	return rc;
}

int nsd_iscsi_pr_check(struct iscsi_dev *d, bool new_session)
{
	struct iscsi_answer *a;
	struct nsd_pr_state *s;
	int rc = -ENOMEM;

	if (!d->pr_key)
		return 0;
	a = ts_alloc(sizeof(*a));
	s = ts_alloc(sizeof(*s));
	if (a && s)
		rc = look(d, a, s);
	if (new_session && (rc == -TS_ERR_FENCED || (!rc && d->pr_lost)))
		rc = ask_the_cluster(d, a, s);
	ts_free(a);
	ts_free(s);
	return rc;
}

/* Units that take each session for a new nexus keep entries of our key from sessions long gone; leaving, we take them
 * along, or the reservation would stand for nobody. First the holder is moved off them, see nsd_pr_fence. */
static int remove_stale(struct iscsi_dev *d, struct iscsi_answer *a, uint64_t key, uint64_t deadline)
{
	struct nsd_pr_state *s = ts_alloc(sizeof(*s));
	enum nsd_pr_type type;
	unsigned n = 0;
	int rc = s ? read_state(d, a, deadline, s) : -ENOMEM;

	for (unsigned i = 0; !rc && i < s->nkeys; i++)
		n += s->keys[i] == key;
	type = rc ? NSD_PR_NONE : s->type;
	ts_free(s);
	if (rc || n < 2)
		return rc;
	if (type == NSD_PR_WRITE_EXCL_ALL_REGISTRANTS) {
		rc = pr_out(d, a, SCSI_PERSISTENT_RESERVE_RELEASE, key, 0, false, deadline);
		if (!rc)
			rc = pr_out(d, a, SCSI_PERSISTENT_RESERVE_RESERVE, key, 0, false, deadline);
	}
	return rc ? rc : pr_out(d, a, SCSI_PERSISTENT_RESERVE_PREEMPT, key, key, false, deadline);
}

static int unregister(struct iscsi_dev *d, struct iscsi_answer *a, uint64_t key, uint64_t deadline)
{
	bool ours = d->pr_key == key;
	int rc;

	if (ours && d->gen > 1 && remove_stale(d, a, key, deadline)) /* may remove this nexus' entry too */
		ts_warn("%s: entries of key %llx from older sessions may be left behind", d->name,
			(unsigned long long)key);
	rc = pr_out(d, a, SCSI_PERSISTENT_RESERVE_REGISTER, key, 0, false, deadline);
	if (rc == -TS_ERR_FENCED && ours && d->gen > 1)
		rc = 0; /* nothing of us is left, which is what was asked for */
	if (!rc)
		d->pr_key = 0;
	d->pr_reserved &= d->pr_key != 0;
	return rc;
}

/* ---- verbs -------------------------------------------------------------------------------------------------------- */

static int once(struct iscsi_dev *d, struct iscsi_answer *a, int verb, uint64_t key, uint64_t other,
		struct nsd_pr_state *out, uint64_t deadline)
{
	int rc;

	switch (verb) {
	case NSD_PRV_REGISTER:
		rc = pr_register(d, a, SCSI_PERSISTENT_RESERVE_REGISTER_AND_IGNORE_EXISTING_KEY, 0, key, deadline);
		if (!rc)
			d->pr_key = key;
		return rc;
	case NSD_PRV_UNREGISTER:
		return unregister(d, a, key, deadline);
	case NSD_PRV_RESERVE:
		d->pr_reserved = d->pr_key == key; /* in conflict, too: then another's stands */
		return pr_out(d, a, SCSI_PERSISTENT_RESERVE_RESERVE, key, 0, false, deadline);
	case NSD_PRV_RELEASE:
		return pr_out(d, a, SCSI_PERSISTENT_RESERVE_RELEASE, key, 0, false, deadline);
	case NSD_PRV_PREEMPT:
		return pr_out(d, a, SCSI_PERSISTENT_RESERVE_PREEMPT, key, other, false, deadline);
	case NSD_PRV_PREEMPT_ABORT:
		return pr_out(d, a, SCSI_PERSISTENT_RESERVE_PREEMPT_AND_ABORT, key, other, false, deadline);
	case NSD_PRV_READ:
		return read_state(d, a, deadline, out);
	}
	return -EINVAL;
}

int nsd_iscsi_wait_up(struct iscsi_dev *d, uint64_t deadline)
{
	while (d->state != ISCSI_UP) {
		if (d->state == ISCSI_FENCED)
			return -TS_ERR_FENCED;
		if (ts_cond_wait_until(&d->changed, deadline, "iSCSI session for a reservation", d->gen, 0))
			return -ETIMEDOUT;
	}
	return 0;
}

int nsd_iscsi_pr(struct nsd_dev *dev, int verb, uint64_t key, uint64_t other, struct nsd_pr_state *out)
{
	struct iscsi_dev *d = nsd_dev_priv(dev);
	uint64_t deadline = ts_exec_now(d->exec) + PR_DEADLINE;
	struct iscsi_answer *a;
	int rc;

	if (!d->info.has_reservations)
		return -EOPNOTSUPP;
	a = ts_alloc(sizeof(*a));
	if (!a)
		return -ENOMEM;
	if (d->reinstating && ts_fiber_self() == d->fiber) { /* all others wait for the session to be up */
		rc = once(d, a, verb, key, other, out, ts_exec_now(d->exec) + ISCSI_SETUP_NS);
		ts_free(a);
		return rc;
	}
	ts_mutex_lock(&d->pr_mutex, "reservation command");
	/* Every verb may be repeated when a session is lost under it: the end state is the same. */
	do {
		rc = nsd_iscsi_wait_up(d, deadline);
		if (!rc)
			rc = once(d, a, verb, key, other, out, TS_MIN(deadline, ts_exec_now(d->exec) + ISCSI_SETUP_NS));
	} while (rc == -ENOTCONN && ts_exec_now(d->exec) < deadline);
	/* A conflict, or the unregistration of a key that is gone: if it was ours this device is done for. */
	if (rc == -TS_ERR_FENCED && d->pr_key)
		nsd_iscsi_recheck(d);
	ts_mutex_unlock(&d->pr_mutex);
	ts_free(a);
	return rc == -ENOTCONN ? -ETIMEDOUT : rc;
}
