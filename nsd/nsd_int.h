/* SPDX-License-Identifier: Apache-2.0 */
/* Private to nsd/: the device as its back ends see it. */
#ifndef TESSERA_NSD_NSD_INT_H
#define TESSERA_NSD_NSD_INT_H

#include "nsd/nsd.h"

#define NSD_IOV_MAX	     256		     /* segments of one request at a back end; longer ones are split */
#define NSD_MAX_IO_DEFAULT   (1u << 20)
#define NSD_DEFAULT_DEADLINE (30 * TS_NS_PER_S)

struct nsd_dev {
	struct ts_exec *exec;
	const struct nsd_ops *ops;
	void *priv;
	struct nsd_info info;
	struct nsd_gate gate;
	char *url; /* never with a password */
	bool read_only;
	bool reported_reservations; /* as the back end said at open */
	bool zero_by_write; /* the back end cannot zero, or not fenced: zeros are written */
	bool may_discard;   /* for back ends that ask: it is fenced */
	bool able_zero, able_discard; /* the unit has commands of its own for these; used where nsd_able_apply() knows them fenced */
	uint64_t session_gen, losses;
	struct nsd_stats stats;
	struct ts_cond idle; /* in_flight became 0 */
};

static inline bool nsd_is_write(enum nsd_op op)
{
	return op == NSD_WRITE || op == NSD_ZERO || op == NSD_DISCARD;
}
static inline bool nsd_may_write(const struct nsd_dev *d)
{
	return !d->gate.may_write || d->gate.may_write(d->gate.arg);
}
static inline bool nsd_may_send(const struct nsd_dev *d, const struct nsd_req *r)
{
	return !nsd_is_write(r->op) || r->ungated || nsd_may_write(d);
}

/* Between the segments of a request and one buffer of r->len bytes. Empty segments may have no address. */
static inline void nsd_gather(void *to, const struct nsd_req *r)
{
	uint8_t *p = to;

	for (int i = 0; i < r->iovcnt; p += r->iov[i++].iov_len)
		if (r->iov[i].iov_len)
			memcpy(p, r->iov[i].iov_base, r->iov[i].iov_len);
}
static inline void nsd_scatter(const struct nsd_req *r, const void *from)
{
	const uint8_t *p = from;

	for (int i = 0; i < r->iovcnt; p += r->iov[i++].iov_len)
		if (r->iov[i].iov_len)
			memcpy(r->iov[i].iov_base, p, r->iov[i].iov_len);
}

/* split.c: does the request need it; does it, and completes r when all parts are done. */
bool nsd_split_needed(const struct nsd_dev *d, const struct nsd_req *r);
void nsd_split_submit(struct nsd_dev *d, struct nsd_req *r);
bool nsd_split_is_part(const struct nsd_req *r);

/* Back ends: open from a fiber. On failure errmsg names the part that is wrong. */
int nsd_uring_open(const struct nsd_open_args *args, const char *path, struct nsd_dev **out, char *errmsg,
		   size_t errlen);
int nsd_nvme_open(const struct nsd_open_args *args, struct nsd_dev **out, char *errmsg, size_t errlen);
int nsd_iscsi_open(const struct nsd_open_args *args, struct nsd_dev **out, char *errmsg, size_t errlen);

/* probe.c: looks at a disk without our label. found: true and what = "ext4 file system"... or false: blank. */
int nsd_probe_foreign(struct nsd_dev *d, bool *found, char *what, size_t whatlen);

/* url.c: pieces of URLs. false: empty, or longer than room - 1. */
bool nsd_url_copy(char *to, size_t room, const char *from, size_t n) TS_MUST_CHECK;
/* host[:port] or [v6][:port] of n bytes at p. *port: what stands behind the colon, up to p + n; NULL: nothing. NULL, or what is wrong. */
const char *nsd_url_host(const char *p, size_t n, char *host, size_t room, const char **port) TS_MUST_CHECK;

#endif
