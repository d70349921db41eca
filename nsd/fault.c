/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the device below, with planned faults: fail the n-th, delay, tear. Must never happen: a failed request that was
 * done below after all (except the torn half), or a fault that the plan did not ask for. */
#include "nsd/nsd_int.h"

struct fault {
	struct nsd_dev *below;
	struct nsd_fault_plan *plan;
};
struct shadow {
	struct nsd_req req; /* below */
	struct nsd_req *above;
	struct nsd_dev *below;
	struct ts_timer timer;
	struct iovec *iov; /* torn write only */
	int tear_rc;
};

static void shadow_end(struct shadow *s, int rc)
{
	struct nsd_req *above = s->above;

	above->session_gen = s->req.session_gen;
	ts_free(s->iov);
	ts_free(s);
	nsd_complete(above, rc);
}

static void below_done(struct nsd_req *r, int rc)
{
	struct shadow *s = r->arg;

	shadow_end(s, s->tear_rc ? s->tear_rc : rc);
}

static void go(void *arg)
{
	struct shadow *s = arg;

	if (s->tear_rc && !s->req.len)
		shadow_end(s, s->tear_rc); /* half of one sector: nothing arrives */
	else
		nsd_submit(s->below, &s->req);
}

/* Keeps the first half of the write, rounded down to sectors. */
static int tear(struct shadow *s, uint32_t sector)
{
	struct nsd_req *r = &s->req;
	uint64_t left = TS_ALIGN_DOWN(r->len / 2, sector);
	int n = 0;

	s->tear_rc = -EIO;
	r->len = left;
	if (r->op != NSD_WRITE)
		return 0;
	s->iov = ts_alloc((size_t)TS_MAX(r->iovcnt, 1) * sizeof(*s->iov));
	if (!s->iov)
		return -ENOMEM;
	for (; left; n++) {
		s->iov[n] = r->iov[n];
		s->iov[n].iov_len = TS_MIN(left, s->iov[n].iov_len);
		left -= s->iov[n].iov_len;
	}
	r->iov = s->iov;
	r->iovcnt = n;
	return 0;
}

static void fault_submit(struct nsd_dev *d, struct nsd_req *r)
{
	struct fault *f = d->priv;
	struct nsd_fault_plan *p = f->plan;
	struct shadow *s;

	if (p->fail_nth && r->op == p->fail_op && --p->fail_nth == 0) {
		nsd_complete(r, p->rc);
		return;
	}
	s = ts_alloc(sizeof(*s));
	if (!s) {
		nsd_complete(r, -ENOMEM);
		return;
	}
	*s = (struct shadow){.above = r, .below = f->below};
	s->req = (struct nsd_req){.op = r->op, .ungated = r->ungated, .off = r->off, .len = r->len, .iov = r->iov, .iovcnt = r->iovcnt,
				  .deadline_ns = r->due_ns, .done = below_done, .arg = s};
	if (p->tear_nth_write && nsd_is_write(r->op) && --p->tear_nth_write == 0 && tear(s, d->info.sector_bytes)) {
		shadow_end(s, -ENOMEM);
		return;
	}
	if (p->delay_ns)
		ts_timer_arm(d->exec, &s->timer, ts_exec_now(d->exec) + p->delay_ns, go, s);
	else
		go(s);
}

static void fault_close(struct nsd_dev *d)
{
	struct fault *f = d->priv;

	nsd_close(f->below);
	ts_free(f);
}

static int fault_pr(struct nsd_dev *d, int verb, uint64_t key, uint64_t other, struct nsd_pr_state *out)
{
	struct fault *f = d->priv;

	return f->below->ops->pr ? f->below->ops->pr(f->below, verb, key, other, out) : -EOPNOTSUPP;
}

static const struct nsd_ops fault_ops = {.submit = fault_submit, .close = fault_close, .pr = fault_pr};

struct nsd_dev *nsd_fault_new(struct nsd_dev *below, struct nsd_fault_plan *plan)
{
	struct fault *f = ts_alloc(sizeof(*f));
	struct nsd_dev *d;

	if (!f)
		return NULL;
	*f = (struct fault){.below = below, .plan = plan};
	d = nsd_dev_new(below->exec, &fault_ops, f, &below->info, &below->gate, below->url);
	if (!d)
		ts_free(f);
	else
		d->read_only = below->read_only;
	return d;
}
