/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a controller brought up (enabled, asked what it is, I/O queues, the namespace found) and taken down. Must never happen: another
 * namespace taken for ours after a new association, or a controller called dead that has not said so. */
#include "nsd/nvme_int.h"

#include <stdio.h>

static uint16_t get16(const uint8_t *p, unsigned off)
{
	return (uint16_t)(p[off] | p[off + 1] << 8);
}
static uint32_t get32(const uint8_t *p, unsigned off)
{
	return get16(p, off) | (uint32_t)get16(p, off + 2) << 16;
}
static uint64_t get64(const uint8_t *p, unsigned off)
{
	return get32(p, off) | (uint64_t)get32(p, off + 4) << 32;
}

/* Waits until CSTS is (CSTS & mask) == want. */
static int wait_status(struct nvme_dev *d, uint64_t mask, uint64_t want, uint64_t deadline)
{
	uint64_t csts, pause = TS_NS_PER_MS;
	int rc;

	for (;;) {
		rc = nvme_property_get(d, NVME_PROP_CSTS, false, &csts, deadline);
		if (rc)
			return rc;
		if (csts & NVME_CSTS_CFS) {
			nvme_set_error(d, "the controller reports a fatal error");
			return -EIO;
		}
		if ((csts & mask) == want)
			return 0;
		if (ts_exec_now(d->exec) + pause > deadline) {
			nvme_set_error(d, "the controller does not get ready");
			return -ETIMEDOUT;
		}
		ts_sleep_until(ts_exec_now(d->exec) + pause);
		pause = TS_MIN(pause * 2, 50 * TS_NS_PER_MS);
	}
}

int nvme_ctrl_enable(struct nvme_dev *d, uint64_t deadline)
{
	int rc = nvme_property_get(d, NVME_PROP_CAP, true, &d->cap, deadline);

	if (!rc)
		rc = nvme_property_set(d, NVME_PROP_CC, NVME_CC_NORMAL | NVME_CC_EN, deadline);
	return rc ? rc : wait_status(d, NVME_CSTS_RDY, NVME_CSTS_RDY, deadline);
}

/* A controller reset: when it is no longer ready, no command of any of its queues goes on. */
bool nvme_ctrl_disable(struct nvme_dev *d, uint64_t deadline)
{
	if (!d->nconn || d->conn[0].broken || d->conn[0].q.state != NVME_Q_READY)
		return false;
	return nvme_property_set(d, NVME_PROP_CC, NVME_CC_NORMAL, deadline) == 0 && wait_status(d, NVME_CSTS_RDY, 0, deadline) == 0;
}

void nvme_ctrl_shut_down(struct nvme_dev *d)
{
	uint64_t deadline = ts_exec_now(d->exec) + TS_NS_PER_S;

	if (d->nconn && !d->conn[0].broken && d->conn[0].q.state == NVME_Q_READY &&
	    nvme_property_set(d, NVME_PROP_CC, NVME_CC_NORMAL | NVME_CC_EN | NVME_CC_SHN, deadline) == 0)
		(void)wait_status(d, 3u << 2, 2u << 2, deadline);
}

/* ---- what the controller is ------------------------------------------------------------------------------------------ */

static int identify(struct nvme_dev *d, uint32_t cns, uint32_t nsid, uint8_t *p, uint64_t deadline, const char *what)
{
	struct nvme_answer a;
	int rc = nvme_admin(d, NVME_ADM_IDENTIFY, nsid, cns, 0, p, NVME_IDENTIFY_BYTES, &a, deadline);

	if (!rc && a.status) {
		nvme_set_error(d, "Identify %s failed (status %03x)", what, a.status);
		rc = a.status == NVME_SC_INVALID_NS ? -ENOENT : -EIO;
	}
	return rc;
}

static void take_times(struct nvme_dev *d, const uint8_t *p)
{
	uint32_t step = get16(p, NVME_IDC_KAS) * 100u, kato = d->kato_ms;

	if (step)
		kato = (kato + step - 1) / step * step;
	/* A timer that looks at traffic once per period may need two of them. */
	d->dead_ms = get32(p, NVME_IDC_CTRATT) & NVME_CTRATT_TBKAS ? 2 * kato : kato;
	d->quiesce_ms = get16(p, NVME_IDC_CQT) ? get16(p, NVME_IDC_CQT) : NVME_QUIESCE_MS;
}

static int take_controller(struct nvme_dev *d, const uint8_t *p)
{
	uint32_t capsule = get32(p, NVME_IDC_IOCCSZ) * 16;
	unsigned mdts = p[NVME_IDC_MDTS], page = 12;

	take_times(d, p);
	d->oncs = get16(p, NVME_IDC_ONCS);
	if (capsule < sizeof(struct nvme_cmd_msg) || get32(p, NVME_IDC_IORCSZ) != 1 || get16(p, NVME_IDC_ICDOFF)) {
		nvme_set_error(d, "the controller's capsules are not of NVMe/TCP (%u bytes)", capsule);
		return -EINVAL;
	}
	d->capsule_data = TS_MIN(capsule - (uint32_t)sizeof(struct nvme_cmd_msg), NVME_TRANSFER_MAX);
	d->max_io = NSD_MAX_IO_DEFAULT;
	if (mdts && mdts + page < 20)
		d->max_io = 1u << (mdts + page);
	return 0;
}

static int number_of_queues(struct nvme_dev *d, uint64_t deadline)
{
	uint32_t want = d->target.queues - 1;
	struct nvme_answer a;
	int rc = nvme_admin(d, NVME_ADM_SET_FEATURES, 0, NVME_FEAT_QUEUES, want | want << 16, NULL, 0, &a, deadline);

	if (rc)
		return rc;
	if (a.status) {
		nvme_set_error(d, "the controller gives no I/O queues (status %03x)", a.status);
		return -EIO;
	}
	d->nio = TS_MIN(d->target.queues, TS_MIN((a.result & 0xffff) + 1, (a.result >> 16) + 1));
	return 0;
}

static int io_queues(struct nvme_dev *d, uint64_t deadline)
{
	unsigned depth = (unsigned)TS_MIN(d->cap & 0xffff, (uint64_t)NVME_DEPTH);
	int rc = number_of_queues(d, deadline);

	if (!rc && !depth) {
		nvme_set_error(d, "the controller's queues have one entry");
		return -EINVAL;
	}
	for (unsigned i = 1; !rc && i <= d->nio; i++) {
		struct nvme_conn *c = &d->conn[i];

		d->nconn = i + 1;
		rc = nvme_conn_open(c, d, (uint16_t)i, depth, deadline);
		if (!rc)
			rc = nvme_connect(c, deadline);
		c->q.capsule_data = d->capsule_data;
	}
	return rc;
}

/* ---- the namespace ---------------------------------------------------------------------------------------------------- */

static bool ids_have_uuid(const uint8_t *p, const uint8_t uuid[16])
{
	for (unsigned at = 0; at + 4 <= NVME_IDENTIFY_BYTES && p[at] && p[at + 1] && at + 4 + p[at + 1] <= NVME_IDENTIFY_BYTES;
	     at += 4u + p[at + 1])
		if ((p[at] == NVME_NIDT_UUID || p[at] == NVME_NIDT_NGUID) && p[at + 1] == 16 && !memcmp(p + at + 4, uuid, 16))
			return true;
	return false;
}

/* The list is taken whole before the first namespace is asked, as one buffer serves both. */
static int find_namespace(struct nvme_dev *d, uint8_t *p, uint64_t deadline)
{
	enum { MOST = 1024 };
	uint32_t *ids = ts_alloc(MOST * sizeof(*ids));
	unsigned n = 0;
	int rc = ids ? identify(d, NVME_CNS_NS_LIST, 0, p, deadline, "namespaces") : -ENOMEM;

	for (; !rc && n < MOST && get32(p, 4 * n); n++)
		ids[n] = get32(p, 4 * n);
	if (!rc && !d->target.by_uuid) {
		d->nsid = n ? ids[0] : 0;
		if (n != 1) {
			nvme_set_error(d, "the subsystem has %u namespaces: say which by ?ns= or ?uuid=", n);
			rc = -EINVAL;
		}
		n = 0;
	}
	for (unsigned i = 0; !rc && d->target.by_uuid && i < n; i++) {
		rc = identify(d, NVME_CNS_NS_IDS, ids[i], p, deadline, "namespace names");
		if (!rc && ids_have_uuid(p, d->target.uuid)) {
			d->nsid = ids[i];
			ts_free(ids);
			return 0;
		}
	}
	ts_free(ids);
	if (!rc && d->target.by_uuid) {
		nvme_set_error(d, "no namespace with that UUID");
		rc = -ENOENT;
	}
	return rc;
}

static int take_size(struct nvme_dev *d, const uint8_t *p)
{
	unsigned format = (p[NVME_IDN_FLBAS] & 15) | (p[NVME_IDN_FLBAS] >> 1 & 0x30);
	const uint8_t *f = p + NVME_IDN_LBAF + 4 * format;
	uint64_t blocks = get64(p, NVME_IDN_NSZE);
	unsigned shift = f[2];

	if (!blocks) {
		nvme_set_error(d, "no such namespace");
		return -ENOENT;
	}
	if ((shift != 9 && shift != 12) || get16(f, 0) || blocks >= (1ULL << 63) >> shift) {
		nvme_set_error(d, "the namespace has blocks of 2^%u bytes and %u of metadata; 512 or 4096 without are known", shift, get16(f, 0));
		return -EINVAL;
	}
	d->info.sector_bytes = 1u << shift;
	d->info.size_bytes = blocks << shift;
	d->info.max_io_bytes = TS_MAX(TS_MIN(d->max_io, 65536u << shift), 1u << shift);
	d->rescap = p[NVME_IDN_RESCAP];
	d->info.has_reservations = d->oncs & NVME_ONCS_RESERVATIONS && d->rescap & NVME_RESCAP_WEAR;
	d->info.has_preempt_abort = d->info.has_reservations;
	d->info.keeps_reservations = d->rescap & NVME_RESCAP_PERSIST;
	return 0;
}

/* A UUID before an NGUID before an EUI64: the same on every path. */
static void take_name(struct nvme_dev *d, const uint8_t *p)
{
	static const char *const prefix[] = {"", "eui.", "nguid.", "uuid."};
	int best = 0;
	size_t o;

	d->info.serial[0] = 0;
	for (unsigned at = 0; at + 4 <= NVME_IDENTIFY_BYTES && p[at] && p[at + 1] && at + 4 + p[at + 1] <= NVME_IDENTIFY_BYTES;
	     at += 4u + p[at + 1]) {
		if (p[at] <= best || p[at] > NVME_NIDT_UUID || p[at + 1] > 16)
			continue;
		best = p[at];
		o = (size_t)snprintf(d->info.serial, sizeof(d->info.serial), "%s", prefix[best]);
		for (unsigned i = 0; i < p[at + 1]; i++)
			o += (size_t)snprintf(d->info.serial + o, sizeof(d->info.serial) - o, "%02x", p[at + 4 + i]);
	}
}

static int take_namespace(struct nvme_dev *d, uint8_t *p, uint64_t deadline)
{
	struct nsd_info before = d->info;
	int rc = 0;

	d->nsid = d->target.nsid;
	if (!d->nsid)
		rc = find_namespace(d, p, deadline);
	if (!rc)
		rc = identify(d, NVME_CNS_NS, d->nsid, p, deadline, "namespace");
	if (!rc)
		rc = take_size(d, p);
	if (!rc)
		rc = identify(d, NVME_CNS_NS_IDS, d->nsid, p, deadline, "namespace names");
	if (!rc)
		take_name(d, p);
	snprintf(d->info.transport, sizeof(d->info.transport), "nvme-tcp");
	if (!d->opened)
		return rc;
	/* The same as before? A target set up anew may show another disk under the old address. */
	if (!rc && (strcmp(before.serial, d->info.serial) || before.sector_bytes != d->info.sector_bytes ||
		    before.size_bytes > d->info.size_bytes || before.max_io_bytes > d->info.max_io_bytes)) {
		nvme_set_error(d, "another namespace answers here (\"%s\", was \"%s\")", d->info.serial, before.serial);
		rc = -EIO;
	}
	d->info = before;
	return rc;
}

int nvme_ctrl_up(struct nvme_dev *d, uint64_t deadline)
{
	uint8_t *p = ts_alloc_aligned(4096, NVME_IDENTIFY_BYTES);
	int rc;

	if (!p)
		return -ENOMEM;
	d->nconn = 1;
	rc = nvme_conn_open(&d->conn[0], d, 0, NVME_ADMIN_DEPTH, deadline);
	if (!rc)
		rc = nvme_connect(&d->conn[0], deadline);
	if (!rc)
		rc = nvme_ctrl_enable(d, deadline);
	if (!rc)
		rc = identify(d, NVME_CNS_CTRL, 0, p, deadline, "controller");
	if (!rc)
		rc = take_controller(d, p);
	if (!rc)
		rc = io_queues(d, deadline);
	if (!rc)
		rc = take_namespace(d, p, deadline);
	ts_free(p);
	return rc;
}

int nvme_size(struct nsd_dev *dev, uint64_t *bytes)
{
	struct nvme_dev *d = nsd_dev_priv(dev);
	uint64_t deadline = ts_exec_now(d->exec) + NVME_SETUP_NS, blocks;
	uint8_t *p = ts_alloc_aligned(4096, NVME_IDENTIFY_BYTES);
	int rc = p ? nvme_wait_up(d, deadline) : -ENOMEM;

	if (!rc)
		rc = identify(d, NVME_CNS_NS, d->nsid, p, deadline, "namespace");
	if (!rc) {
		blocks = get64(p, NVME_IDN_NSZE);
		if (blocks >= (1ULL << 63) / d->info.sector_bytes) {
			rc = -EIO;
		} else {
			*bytes = blocks * d->info.sector_bytes;
			d->info.size_bytes = TS_MAX(d->info.size_bytes, *bytes);
		}
	}
	ts_free(p);
	return rc == -ENOTCONN ? -ETIMEDOUT : rc;
}
