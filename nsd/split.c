/* SPDX-License-Identifier: Apache-2.0 */
/* Job: cut a request that is too long, or has too many segments, into parts the back end takes; zeroes by writing where
 * the disk has no fenced way of its own. Must never happen: the request completed before its last part. */
#include "nsd/nsd_int.h"

#define ZERO_BYTES (64u * 1024)
static const uint8_t zeros[ZERO_BYTES] __attribute__((aligned(4096)));

struct split {
	struct nsd_req *whole;
	unsigned pending;
	int rc;
	struct nsd_req *part;
	struct iovec *iov;
};

/* A walk over the segments of the whole request. */
struct cursor {
	const struct iovec *iov;
	int left;
	size_t used; /* of *iov */
};

bool nsd_split_needed(const struct nsd_dev *d, const struct nsd_req *r)
{
	if (r->op == NSD_ZERO)
		return d->zero_by_write || r->len > d->info.max_io_bytes;
	if (r->op == NSD_READ || r->op == NSD_WRITE)
		return r->len > d->info.max_io_bytes || r->iovcnt > NSD_IOV_MAX;
	return false;
}

static void part_done(struct nsd_req *p, int rc)
{
	struct split *s = p->arg;
	struct nsd_req *whole = s->whole;

	if (rc && !s->rc)
		s->rc = rc;
	whole->session_gen = TS_MAX(whole->session_gen, p->session_gen);
	if (--s->pending)
		return;
	rc = s->rc;
	ts_free(s->part);
	ts_free(s->iov);
	ts_free(s);
	nsd_complete(whole, rc);
}

bool nsd_split_is_part(const struct nsd_req *r)
{
	return r->done == part_done;
}

/* Takes want bytes as segments from the cursor, fewer when there are too many segments (then all are whole sectors). */
static uint64_t take(struct cursor *c, struct iovec *out, int *nout, uint64_t want)
{
	uint64_t sum = 0;

	*nout = 0;
	while (c->left && sum < want && *nout < NSD_IOV_MAX) {
		size_t n = TS_MIN(c->iov->iov_len - c->used, want - sum);

		if (n)
			out[(*nout)++] = (struct iovec){(char *)c->iov->iov_base + c->used, n};
		sum += n;
		c->used += n;
		if (c->used == c->iov->iov_len) {
			c->iov++;
			c->left--;
			c->used = 0;
		}
	}
	return sum;
}

static uint64_t take_zeros(struct iovec *out, int *nout, uint64_t want)
{
	uint64_t sum = 0;

	*nout = 0;
	while (sum < want && *nout < NSD_IOV_MAX) {
		size_t n = TS_MIN(want - sum, ZERO_BYTES);

		out[(*nout)++] = (struct iovec){(void *)(uintptr_t)zeros, n};
		sum += n;
	}
	return sum;
}

static struct split *split_new(struct nsd_req *r, uint64_t nparts, uint64_t niov)
{
	struct split *s = ts_alloc(sizeof(*s));

	if (!s)
		return NULL;
	s->whole = r;
	s->part = ts_alloc(nparts * sizeof(*s->part));
	s->iov = ts_alloc(niov * sizeof(*s->iov));
	if (s->part && s->iov)
		return s;
	ts_free(s->part);
	ts_free(s->iov);
	ts_free(s);
	return NULL;
}

/* Upper bounds: a part ends at max_io or at NSD_IOV_MAX segments; each cut adds a segment. */
static void bounds(const struct nsd_dev *d, const struct nsd_req *r, uint64_t *nparts, uint64_t *niov)
{
	uint64_t segments = r->op == NSD_ZERO ? r->len / ZERO_BYTES + 1 : (uint64_t)r->iovcnt;
	uint64_t cuts = r->len / d->info.max_io_bytes + 1;

	if (r->op == NSD_ZERO)
		segments += cuts;
	*nparts = cuts + segments / NSD_IOV_MAX + 1;
	*niov = segments + *nparts;
}

/* Many segments are cut anywhere between two of them, and a part must be whole sectors. */
static bool cuttable(const struct nsd_dev *d, const struct nsd_req *r)
{
	for (int i = 0; r->iovcnt > NSD_IOV_MAX && i < r->iovcnt; i++)
		if (r->iov[i].iov_len % d->info.sector_bytes)
			return false;
	return true;
}

void nsd_split_submit(struct nsd_dev *d, struct nsd_req *r)
{
	struct cursor c = {.iov = r->iov, .left = r->iovcnt};
	bool zero = r->op == NSD_ZERO, native = zero && !d->zero_by_write;
	uint64_t nparts, niov, done = 0, i = 0;
	struct iovec *iov;
	struct split *s;

	bounds(d, r, &nparts, &niov);
	s = cuttable(d, r) ? split_new(r, nparts, niov) : NULL;
	if (!s) {
		nsd_complete(r, cuttable(d, r) ? -ENOMEM : -EINVAL);
		return;
	}
	s->pending = 1; /* ours, dropped below: no part ends the whole while we still cut */
	for (iov = s->iov; done < r->len; i++) {
		struct nsd_req *p = &s->part[i];
		uint64_t want = TS_MIN(r->len - done, d->info.max_io_bytes);

		TS_ASSERT(i < nparts);
		*p = (struct nsd_req){.op = zero && !native ? NSD_WRITE : r->op, .off = r->off + done, .iov = iov,
				      .deadline_ns = r->due_ns, .due_ns = r->due_ns, .done = part_done, .arg = s,
				      .dev = d, .submitted_ns = r->submitted_ns};
		ts_list_init(&p->link);
		if (native)
			p->len = want;
		else if (zero)
			p->len = take_zeros(iov, &p->iovcnt, want);
		else
			p->len = take(&c, iov, &p->iovcnt, want);
		TS_ASSERT(p->len && (uint64_t)(iov - s->iov) + (uint64_t)p->iovcnt <= niov);
		iov += p->iovcnt;
		done += p->len;
		s->pending++;
	}
	s->pending--;
	for (uint64_t k = 0; k < i; k++)
		d->ops->submit(d, &s->part[k]); /* completions are deferred: s lives until this loop is over */
}
