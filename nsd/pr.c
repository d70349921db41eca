/* SPDX-License-Identifier: Apache-2.0 */
/* Job: persistent reservations in the house's words, on the verbs of a back end. Must never happen: a fence reported
 * done that was not read back: keys AND reservation, whatever the target answered. */
#include "nsd/nsd_int.h"

static int verb(struct nsd_dev *d, enum nsd_pr_verb v, uint64_t key, uint64_t other, struct nsd_pr_state *out)
{
	if (!d->ops->pr)
		return -EOPNOTSUPP;
	return d->ops->pr(d, (int)v, key, other, out);
}

static bool has_key(const struct nsd_pr_state *s, uint64_t key)
{
	for (unsigned i = 0; i < s->nkeys; i++)
		if (s->keys[i] == key)
			return true;
	return false;
}

int nsd_pr_register(struct nsd_dev *d, uint64_t key)
{
	return key ? verb(d, NSD_PRV_REGISTER, key, 0, NULL) : -EINVAL;
}

int nsd_pr_unregister(struct nsd_dev *d, uint64_t key)
{
	return key ? verb(d, NSD_PRV_UNREGISTER, key, 0, NULL) : -EINVAL;
}

int nsd_pr_read(struct nsd_dev *d, struct nsd_pr_state *out)
{
	return verb(d, NSD_PRV_READ, 0, 0, out);
}

static int state_new(struct nsd_dev *d, struct nsd_pr_state **out)
{
	int rc;

	*out = ts_alloc(sizeof(**out));
	if (!*out)
		return -ENOMEM;
	rc = nsd_pr_read(d, *out);
	if (rc) {
		ts_free(*out);
		*out = NULL;
	}
	return rc;
}

int nsd_pr_reserve(struct nsd_dev *d, uint64_t key)
{
	struct nsd_pr_state *s;
	int rc = verb(d, NSD_PRV_RESERVE, key, 0, NULL);

	if (rc && rc != -TS_ERR_FENCED)
		return rc;
	/* Granted or in conflict: what counts is what stands now. */
	rc = state_new(d, &s);
	if (rc)
		return rc;
	if (!has_key(s, key))
		rc = -TS_ERR_FENCED;
	else if (s->type != NSD_PR_WRITE_EXCL_ALL_REGISTRANTS)
		rc = -EBUSY;
	ts_free(s);
	return rc;
}

/* 0: the victim is gone and we stand. -EAGAIN: still there. */
static int verify_fence(struct nsd_dev *d, uint64_t mine, uint64_t victim)
{
	struct nsd_pr_state *s;
	int rc = state_new(d, &s);

	if (rc)
		return rc;
	if (!has_key(s, mine))
		rc = -TS_ERR_FENCED;
	else if (has_key(s, victim))
		rc = -EAGAIN;
	else if (s->type != NSD_PR_WRITE_EXCL_ALL_REGISTRANTS)
		rc = -EIO;
	ts_free(s);
	return rc;
}

/* For units without PREEMPT AND ABORT. Stock tgt keeps one registration as "the holder" also of an all-registrants
 * reservation and, when that one is preempted, goes on with freed memory: sooner or later the reservation is gone and
 * the victim writes. So we make ourselves that holder first. Between the two commands the unit is open to nodes that
 * are not registered (fenced before, their leases long over); the victim itself is still registered and gains nothing. */
static int take_holdership(struct nsd_dev *d, uint64_t my_key)
{
	int rc = verb(d, NSD_PRV_RELEASE, my_key, 0, NULL);

	return rc ? rc : verb(d, NSD_PRV_RESERVE, my_key, 0, NULL);
}

int nsd_pr_fence(struct nsd_dev *d, uint64_t my_key, uint64_t victim_key)
{
	int rc;

	if (!my_key || !victim_key || my_key == victim_key)
		return -EINVAL;
	rc = verify_fence(d, my_key, victim_key);
	if (rc != -EAGAIN)
		return rc ? rc : -ENOENT;
	rc = -EOPNOTSUPP;
	if (d->info.has_preempt_abort) {
		rc = verb(d, NSD_PRV_PREEMPT_ABORT, my_key, victim_key, NULL);
		if (rc == -EOPNOTSUPP)
			d->info.has_preempt_abort = false;
	}
	if (rc == -EOPNOTSUPP) {
		rc = take_holdership(d, my_key);
		if (!rc)
			rc = verb(d, NSD_PRV_PREEMPT, my_key, victim_key, NULL);
	}
	/* A conflict can be our own exclusion or another node's fence that was faster: the keys say which. */
	if (rc && rc != -TS_ERR_FENCED)
		return rc;
	rc = verify_fence(d, my_key, victim_key);
	return rc == -EAGAIN ? -EIO : rc;
}
