/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the way of every request: checked, gated, handed to the back end, completed on the executor. Must never happen:
 * a write handed down with the gate shut, done called from inside nsd_submit, or a device freed under a request. */
#include "nsd/nsd_int.h"

#include <stdio.h>

struct nsd_dev *nsd_dev_new(struct ts_exec *x, const struct nsd_ops *ops, void *priv, const struct nsd_info *info,
			    const struct nsd_gate *gate, const char *url)
{
	struct nsd_dev *d = ts_alloc(sizeof(*d));
	size_t n = strlen(url) + 1;

	if (!d)
		return NULL;
	d->url = ts_alloc(n);
	if (!d->url) {
		ts_free(d);
		return NULL;
	}
	memcpy(d->url, url, n);
	d->exec = x;
	d->ops = ops;
	d->priv = priv;
	d->info = *info;
	d->reported_reservations = info->has_reservations;
	if (!d->info.max_io_bytes)
		d->info.max_io_bytes = NSD_MAX_IO_DEFAULT;
	if (gate)
		d->gate = *gate;
	ts_cond_init(&d->idle);
	return d;
}

int nsd_open(const struct nsd_open_args *args, struct nsd_dev **out, char *errmsg, size_t errlen)
{
	*out = NULL;
	if (errlen)
		errmsg[0] = 0;
	if (!ts_exec_loop(args->exec)) {
		snprintf(errmsg, errlen, "a real disk needs an executor with an epoll loop");
		return -EINVAL;
	}
	if (strncmp(args->url, "file://", 7) == 0) {
		if (args->url[7] != '/') {
			snprintf(errmsg, errlen, "file URL must name an absolute path: file:///path");
			return -EINVAL;
		}
		return nsd_uring_open(args, args->url + 7, out, errmsg, errlen);
	}
	if (strncmp(args->url, "iscsi://", 8) == 0)
		return nsd_iscsi_open(args, out, errmsg, errlen);
	if (strncmp(args->url, "nvme-tcp://", 11) == 0)
		return nsd_nvme_open(args, out, errmsg, errlen);
	snprintf(errmsg, errlen, "unknown URL scheme (iscsi://, nvme-tcp:// or file:// expected)");
	return -EINVAL;
}

void nsd_close(struct nsd_dev *d)
{
	if (!d)
		return;
	while (d->stats.in_flight)
		ts_cond_wait(&d->idle, "disk close: requests in flight", d->stats.in_flight, 0);
	d->ops->close(d);
	ts_free(d->url);
	ts_free(d);
}

const struct nsd_info *nsd_info(const struct nsd_dev *d)
{
	return &d->info;
}

const char *nsd_url(const struct nsd_dev *d)
{
	return d->url;
}

int nsd_resize(struct nsd_dev *d)
{
	uint64_t bytes = 0;
	int rc = d->ops->size ? d->ops->size(d, &bytes) : 0;

	if (!rc && bytes > d->info.size_bytes)
		d->info.size_bytes = bytes;
	return rc;
}

uint64_t nsd_session_gen(const struct nsd_dev *d)
{
	return d->session_gen;
}

uint64_t nsd_losses(const struct nsd_dev *d)
{
	return d->losses;
}

void *nsd_dev_priv(const struct nsd_dev *d)
{
	return d->priv;
}

struct ts_exec *nsd_dev_exec(const struct nsd_dev *d)
{
	return d->exec;
}

void nsd_stats_get(const struct nsd_dev *d, struct nsd_stats *out)
{
	*out = d->stats;
}

/* ---- submit and complete --------------------------------------------------------------------------------------- */

static bool iov_fits(const struct nsd_req *r)
{
	uint64_t sum = 0;

	for (int i = 0; i < r->iovcnt; i++) {
		if (r->iov[i].iov_len > r->len - sum)
			return false;
		sum += r->iov[i].iov_len;
	}
	return sum == r->len;
}

static int check(const struct nsd_dev *d, const struct nsd_req *r)
{
	uint64_t sector = d->info.sector_bytes;

	switch (r->op) {
	case NSD_FLUSH:
		return r->off || r->len ? -EINVAL : 0;
	case NSD_READ:
	case NSD_WRITE:
		if (!iov_fits(r))
			return -EINVAL;
		break;
	case NSD_ZERO:
	case NSD_DISCARD:
		break;
	default:
		return -EINVAL;
	}
	if (!r->len || r->off % sector || r->len % sector)
		return -EINVAL;
	if (r->off > d->info.size_bytes || r->len > d->info.size_bytes - r->off)
		return -EINVAL; /* past the end of the disk */
	if (nsd_is_write(r->op)) {
		if (d->read_only)
			return -EROFS;
		if (!nsd_may_send(d, r))
			return -TS_ERR_FENCED;
	}
	return r->due_ns <= r->submitted_ns ? -ETIMEDOUT : 0;
}

void nsd_submit(struct nsd_dev *d, struct nsd_req *r)
{
	int rc;

	r->dev = d;
	r->priv = NULL;
	r->tries = 0;
	r->session_gen = 0;
	ts_list_init(&r->link);
	r->submitted_ns = ts_exec_now(d->exec);
	r->due_ns = r->deadline_ns ? r->deadline_ns : r->submitted_ns + NSD_DEFAULT_DEADLINE;
	d->stats.in_flight++;
	rc = check(d, r);
	if (rc)
		nsd_complete(r, rc);
	else if (nsd_split_needed(d, r))
		nsd_split_submit(d, r);
	else
		d->ops->submit(d, r);
}

static void count(struct nsd_dev *d, const struct nsd_req *r, int rc)
{
	struct nsd_stats *s = &d->stats;
	uint64_t ns = ts_exec_now(d->exec) - r->submitted_ns;

	if (rc) {
		s->errors++;
		s->fenced += rc == -TS_ERR_FENCED;
	} else if (r->op == NSD_READ) {
		s->reads++;
		s->read_bytes += r->len;
		ts_hist_add(&s->read_time, ns);
	} else if (r->op == NSD_FLUSH) {
		s->flushes++;
		ts_hist_add(&s->flush_time, ns);
	} else {
		s->writes++;
		s->write_bytes += r->len;
		ts_hist_add(&s->write_time, ns);
	}
}

static void finish(void *arg)
{
	struct nsd_req *r = arg;
	struct nsd_dev *d = r->dev;

	if (!nsd_split_is_part(r)) {
		count(d, r, r->rc);
		if (--d->stats.in_flight == 0)
			ts_cond_broadcast(&d->idle); /* the closer runs later: done below still has its device */
	}
	r->done(r, r->rc);
}

void nsd_complete(struct nsd_req *r, int rc)
{
	r->rc = rc;
	ts_exec_defer(r->dev->exec, &r->task, finish, r);
}

/* ---- the same from fibers -------------------------------------------------------------------------------------- */

static void wake(struct nsd_req *r, int rc)
{
	ts_done_set(r->arg, rc);
}

static int run(struct nsd_dev *d, enum nsd_op op, void *buf, size_t len, uint64_t off, const char *what)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	struct ts_done done;
	struct nsd_req r = {.op = op, .off = off, .len = len, .iov = &iov, .iovcnt = len ? 1 : 0,
			    .done = wake, .arg = &done};

	ts_done_init(&done);
	nsd_submit(d, &r);
	return ts_done_wait(&done, what, off, len);
}

int nsd_read(struct nsd_dev *d, void *buf, size_t len, uint64_t off)
{
	return run(d, NSD_READ, buf, len, off, "disk read");
}

int nsd_write(struct nsd_dev *d, const void *buf, size_t len, uint64_t off)
{
	return run(d, NSD_WRITE, (void *)(uintptr_t)buf, len, off, "disk write");
}

int nsd_flush(struct nsd_dev *d)
{
	return run(d, NSD_FLUSH, NULL, 0, 0, "disk flush");
}
