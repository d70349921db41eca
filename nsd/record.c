/* SPDX-License-Identifier: Apache-2.0 */
/* Job: tell a listener every write and flush that succeeded, in completion order, for crash-state replay. Must never
 * happen: a write told before a flush that did not cover it. A flush covers what had completed when it was submitted,
 * so writes that complete while a flush is in flight are held back (with a copy) and told after it. */
#include "nsd/nsd_int.h"

struct record {
	struct nsd_dev *below;
	nsd_record_fn fn;
	void *arg;
	uint64_t flush_seq;	/* of the flush submitted last */
	struct ts_list flushes; /* in flight, in order of submission: struct shadow */
	struct ts_list held;	/* struct event */
};
struct event {
	struct ts_list link;
	uint64_t after; /* told when no flush up to this one is in flight */
	enum nsd_op op;
	uint64_t off, len;
	uint8_t data[];
};
struct shadow {
	struct ts_list link;
	uint64_t seq;
	struct nsd_req req;
	struct nsd_req *above;
	struct record *rec;
	struct event *event; /* room to hold a write back, allocated before it is sent */
};

static uint64_t oldest_flush(const struct record *rec)
{
	return ts_list_empty(&rec->flushes) ? UINT64_MAX : ts_list_entry(rec->flushes.next, struct shadow, link)->seq;
}

static void tell_held(struct record *rec)
{
	while (!ts_list_empty(&rec->held)) {
		struct event *e = ts_list_entry(rec->held.next, struct event, link);

		if (e->after >= oldest_flush(rec))
			return;
		ts_list_del(&e->link);
		rec->fn(rec->arg, e->op, e->off, e->op == NSD_WRITE ? e->data : NULL, e->len);
		ts_free(e);
	}
}

static void tell_write(struct shadow *s)
{
	const struct nsd_req *r = &s->req;
	struct event *e = s->event;

	*e = (struct event){.op = r->op, .off = r->off, .len = r->len, .after = s->rec->flush_seq};
	if (r->op == NSD_WRITE)
		nsd_gather(e->data, r);
	ts_list_push_back(&s->rec->held, &e->link);
	s->event = NULL;
	tell_held(s->rec);
}

static void below_done(struct nsd_req *r, int rc)
{
	struct shadow *s = r->arg;
	struct nsd_req *above = s->above;
	struct record *rec = s->rec;

	if (r->op == NSD_FLUSH) {
		ts_list_del(&s->link);
		if (!rc)
			rec->fn(rec->arg, NSD_FLUSH, 0, NULL, 0);
		tell_held(rec);
	} else if (!rc && nsd_is_write(r->op)) {
		tell_write(s);
	}
	above->session_gen = r->session_gen;
	ts_free(s->event);
	ts_free(s);
	nsd_complete(above, rc);
}

static void record_submit(struct nsd_dev *d, struct nsd_req *r)
{
	struct record *rec = d->priv;
	struct shadow *s = ts_alloc(sizeof(*s));

	if (s && nsd_is_write(r->op)) {
		s->event = ts_alloc(sizeof(*s->event) + (r->op == NSD_WRITE ? r->len : 0));
		if (!s->event) {
			ts_free(s);
			s = NULL;
		}
	}
	if (!s) {
		nsd_complete(r, -ENOMEM);
		return;
	}
	s->above = r;
	s->rec = rec;
	s->req = (struct nsd_req){.op = r->op, .ungated = r->ungated, .off = r->off, .len = r->len, .iov = r->iov, .iovcnt = r->iovcnt,
				  .deadline_ns = r->due_ns, .done = below_done, .arg = s};
	ts_list_init(&s->link);
	if (r->op == NSD_FLUSH) {
		s->seq = ++rec->flush_seq;
		ts_list_push_back(&rec->flushes, &s->link);
	}
	nsd_submit(rec->below, &s->req);
}

static void record_close(struct nsd_dev *d)
{
	struct record *rec = d->priv;

	nsd_close(rec->below);
	ts_free(rec);
}

static int record_pr(struct nsd_dev *d, int verb, uint64_t key, uint64_t other, struct nsd_pr_state *out)
{
	struct record *rec = d->priv;

	return rec->below->ops->pr ? rec->below->ops->pr(rec->below, verb, key, other, out) : -EOPNOTSUPP;
}

static const struct nsd_ops record_ops = {.submit = record_submit, .close = record_close, .pr = record_pr};

struct nsd_dev *nsd_record_new(struct nsd_dev *below, nsd_record_fn fn, void *arg)
{
	struct record *rec = ts_alloc(sizeof(*rec));
	struct nsd_dev *d;

	if (!rec)
		return NULL;
	*rec = (struct record){.below = below, .fn = fn, .arg = arg};
	ts_list_init(&rec->held);
	ts_list_init(&rec->flushes);
	d = nsd_dev_new(below->exec, &record_ops, rec, &below->info, &below->gate, below->url);
	if (!d)
		ts_free(rec);
	else
		d->read_only = below->read_only;
	return d;
}
