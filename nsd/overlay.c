/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a disk that may be written to without changing the one below: what is written stays in memory, by sub-blocks of 4 KiB, and is read
 * from there. Where nothing is below (the disk is lost), or what is below cannot be read, only what was written here can be read; the rest is
 * -EIO. For looking at what is left of a damaged file system.
 * What must never happen: a write that reaches the disk below; bytes told that are neither there nor were written here. */
#include "nsd/nsd_int.h"

#include <stdio.h>

#define SUB 4096u

struct over_sub {
	struct ts_map_node node;
	uint64_t sub;
	uint8_t data[SUB];
};
struct overlay {
	struct nsd_dev *below; /* NULL: lost */
	struct ts_map subs;
	uint64_t n, max;
};
struct over_read { /* one read under way below */
	struct nsd_req req;
	struct nsd_req *above;
	struct overlay *o;
};

static struct over_sub *sub_find(struct overlay *o, uint64_t sub)
{
	for (struct ts_map_node *n = ts_map_first(&o->subs, ts_hash_u64(sub)); n; n = ts_map_next(n)) {
		struct over_sub *s = TS_CONTAINER(n, struct over_sub, node);

		if (s->sub == sub)
			return s;
	}
	return NULL;
}

/* The bytes at off of the request's segments, from or to p. */
static void segments_copy(const struct nsd_req *r, uint64_t off, uint8_t *p, size_t len, bool to_segments)
{
	for (int i = 0; i < r->iovcnt && len; i++) {
		size_t n = r->iov[i].iov_len;

		if (off >= n) {
			off -= n;
			continue;
		}
		n = TS_MIN(n - off, len);
		if (to_segments)
			memcpy((uint8_t *)r->iov[i].iov_base + off, p, n);
		else
			memcpy(p, (uint8_t *)r->iov[i].iov_base + off, n);
		p += n;
		len -= n;
		off = 0;
	}
}

/* Lays what was written here over the request's segments. false: some of it was not. */
static bool read_over(struct overlay *o, const struct nsd_req *r)
{
	bool all = true;

	for (uint64_t at = 0; at < r->len; at += SUB) {
		struct over_sub *s = o->n ? sub_find(o, (r->off + at) / SUB) : NULL;

		if (s)
			segments_copy(r, at, s->data, SUB, true);
		else
			all = false;
	}
	return all;
}

static void read_done(struct nsd_req *below, int rc)
{
	struct over_read *t = below->arg;
	struct nsd_req *r = t->above;
	bool all = read_over(t->o, r);

	ts_free(t);
	nsd_complete(r, all ? 0 : rc);
}

static void over_read(struct overlay *o, struct nsd_req *r)
{
	struct over_read *t;

	if (!o->below) {
		nsd_complete(r, read_over(o, r) ? 0 : -EIO);
		return;
	}
	t = ts_alloc(sizeof(*t));
	if (!t) {
		nsd_complete(r, -ENOMEM);
		return;
	}
	*t = (struct over_read){.above = r, .o = o};
	t->req = (struct nsd_req){.op = NSD_READ, .off = r->off, .len = r->len, .iov = r->iov, .iovcnt = r->iovcnt, .deadline_ns = r->due_ns,
				  .done = read_done, .arg = t};
	nsd_submit(o->below, &t->req);
}

static int sub_write(struct overlay *o, uint64_t sub, const struct nsd_req *r, uint64_t at)
{
	struct over_sub *s = sub_find(o, sub);

	if (!s) {
		if (o->n == o->max)
			return -ENOSPC;
		s = ts_alloc(sizeof(*s));
		if (!s)
			return -ENOMEM;
		s->sub = sub;
		if (ts_map_insert(&o->subs, &s->node, ts_hash_u64(sub))) {
			ts_free(s);
			return -ENOMEM;
		}
		o->n++;
	}
	if (r->op == NSD_ZERO)
		memset(s->data, 0, SUB);
	else
		segments_copy(r, at, s->data, SUB, false);
	return 0;
}

static void over_submit(struct nsd_dev *d, struct nsd_req *r)
{
	struct overlay *o = d->priv;
	int rc = 0;

	if (r->op == NSD_READ) {
		over_read(o, r);
		return;
	}
	if (r->op == NSD_WRITE || r->op == NSD_ZERO)
		for (uint64_t at = 0; at < r->len && !rc; at += SUB)
			rc = sub_write(o, (r->off + at) / SUB, r, at);
	nsd_complete(r, rc); /* a flush has nothing to make stable; what is discarded may stay */
}

static int free_one(struct ts_map_node *n, void *arg)
{
	struct overlay *o = arg;

	ts_map_remove(&o->subs, n);
	ts_free(TS_CONTAINER(n, struct over_sub, node));
	return 0;
}

static void over_close(struct nsd_dev *d)
{
	struct overlay *o = d->priv;

	(void)ts_map_each(&o->subs, free_one, o);
	ts_map_fini(&o->subs);
	ts_free(o);
}

static const struct nsd_ops overlay_ops = {.submit = over_submit, .close = over_close};

struct nsd_dev *nsd_overlay_new(struct ts_exec *x, struct nsd_dev *below, uint64_t size_bytes, uint64_t memory_bytes)
{
	struct overlay *o = ts_alloc(sizeof(*o));
	struct nsd_info info = {.size_bytes = TS_ALIGN_DOWN(below ? below->info.size_bytes : size_bytes, SUB), .sector_bytes = SUB};
	char url[600];
	struct nsd_dev *d;

	if (!o)
		return NULL;
	o->below = below;
	o->max = memory_bytes / sizeof(struct over_sub);
	ts_map_init(&o->subs);
	snprintf(info.transport, sizeof(info.transport), "overlay");
	snprintf(url, sizeof(url), "overlay:%s", below ? below->url : "lost");
	d = nsd_dev_new(x, &overlay_ops, o, &info, NULL, url);
	if (!d) {
		ts_map_fini(&o->subs);
		ts_free(o);
	}
	return d;
}
