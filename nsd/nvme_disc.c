/* SPDX-License-Identifier: Apache-2.0 */
/* Job: asks a discovery controller what there is, for a URL without a subsystem's name. Must never happen: one of several taken by
 * chance, or an entry used that is longer than its field. */
#include "nsd/nvme_int.h"

#include <stdio.h>

#define ENTRIES_MAX 64u

static bool field(char *to, size_t room, const char *from, size_t n)
{
	size_t len = strnlen(from, n);

	while (len && from[len - 1] == ' ')
		len--;
	if (!len || len >= room)
		return false;
	for (size_t i = 0; i < len; i++)
		if (from[i] <= ' ' || from[i] > '~')
			return false;
	memcpy(to, from, len);
	to[len] = 0;
	return true;
}

static int get_log(struct nvme_dev *d, uint8_t *p, uint32_t len, uint64_t deadline)
{
	struct nvme_answer a;
	uint32_t dwords = len / 4 - 1;
	int rc = nvme_admin(d, NVME_ADM_GET_LOG, 0, NVME_LOG_DISCOVERY | dwords << 16, dwords >> 16, p, len, &a, deadline);

	if (!rc && a.status) {
		nvme_set_error(d, "the discovery log cannot be read (status %03x)", a.status);
		rc = -EIO;
	}
	return rc;
}

/* Takes the only one; several names are listed in the error. */
static int choose(struct nvme_dev *d, const uint8_t *log, size_t n)
{
	const struct nvme_disc_hdr_msg *h = (const void *)log;
	size_t count = TS_MIN(le64_get(h->count), (n - sizeof(*h)) / sizeof(struct nvme_disc_entry_msg));
	struct nvme_target *t = &d->target;
	char nqn[NVME_NQN_MAX + 1], host[256], port[8], list[200] = "";
	unsigned found = 0;

	for (size_t i = 0; i < count; i++) {
		const struct nvme_disc_entry_msg *e = (const struct nvme_disc_entry_msg *)(h + 1) + i;

		if (e->trtype != NVME_TRTYPE_TCP || e->subtype != NVME_SUBTYPE_NVM || !field(nqn, sizeof(nqn), e->subnqn, sizeof(e->subnqn)) ||
		    !field(host, sizeof(host), e->traddr, sizeof(e->traddr)) || !field(port, sizeof(port), e->trsvcid, sizeof(e->trsvcid)))
			continue;
		if (found && !strcmp(nqn, t->nqn))
			continue; /* another port of the same */
		if (!found++) {
			memcpy(t->nqn, nqn, sizeof(nqn));
			memcpy(t->host, host, sizeof(host));
			memcpy(t->port, port, sizeof(port));
		}
		snprintf(list + strlen(list), sizeof(list) - strlen(list), " %.100s", nqn);
	}
	if (found == 1)
		return 0;
	t->nqn[0] = 0;
	nvme_set_error(d, found ? "several subsystems there, say which:%s" : "no NVMe/TCP subsystem for this host there", list);
	return found ? -EINVAL : -ENOENT;
}

static int ask(struct nvme_dev *d)
{
	uint64_t deadline = ts_exec_now(d->exec) + NVME_SETUP_NS;
	uint32_t len = (1 + ENTRIES_MAX) * 1024;
	uint8_t *p = ts_alloc_aligned(4096, len);
	struct nvme_conn *c = &d->conn[0];
	int rc;

	if (!p)
		return -ENOMEM;
	d->nconn = 1;
	rc = nvme_conn_open(c, d, 0, NVME_ADMIN_DEPTH, deadline);
	if (!rc)
		rc = nvme_connect(c, deadline);
	if (!rc)
		rc = nvme_ctrl_enable(d, deadline);
	if (!rc)
		rc = get_log(d, p, 1024, deadline);
	if (!rc) {
		const struct nvme_disc_hdr_msg *h = (const void *)p;

		len = (uint32_t)(1 + TS_MIN(le64_get(h->count), ENTRIES_MAX)) * 1024;
		rc = get_log(d, p, len, deadline);
	}
	nvme_conn_close(c);
	d->nconn = 0;
	if (!rc)
		rc = choose(d, p, len);
	ts_free(p);
	return rc;
}

struct asking {
	struct nvme_dev *d;
	struct ts_done done;
};

static void ask_main(void *arg)
{
	struct asking *k = arg;

	k->d->fiber = ts_fiber_self();
	k->d->kato_ms = 0; /* it does not live long enough to need one */
	ts_done_set(&k->done, ask(k->d));
}

int nvme_discover(struct nvme_dev *d, char *errmsg, size_t errlen)
{
	struct asking k = {.d = d};
	int rc;

	ts_done_init(&k.done);
	rc = ts_fiber_spawn(d->exec, "nvme discovery", ask_main, &k);
	if (!rc)
		rc = ts_done_wait(&k.done, "NVMe discovery", 0, 0);
	if (rc) {
		snprintf(errmsg, errlen, "nvme-tcp://%s: %s", d->target.where, d->error[0] ? d->error : strerror(-rc));
		return rc;
	}
	d->kato_ms = NVME_KATO_MS;
	d->lost = false;
	d->error[0] = 0;
	return nvme_resolve(&d->target, errmsg, errlen);
}
