/* SPDX-License-Identifier: Apache-2.0 */
/* Job: admin commands: Identify, features, logs, events, keep-alive. */
#include "tests/nvmet/nvmet.h"

#include <arpa/inet.h>
#include <sys/socket.h>

static void put16(uint8_t *p, unsigned off, uint32_t x)
{
	p[off] = (uint8_t)x;
	p[off + 1] = (uint8_t)(x >> 8);
}
static void put32(uint8_t *p, unsigned off, uint32_t x)
{
	put16(p, off, x);
	put16(p, off + 2, x >> 16);
}
static void put64(uint8_t *p, unsigned off, uint64_t x)
{
	put32(p, off, (uint32_t)x);
	put32(p, off + 4, (uint32_t)(x >> 32));
}

struct ns *ns_find(uint32_t id)
{
	return id && id <= T.nns ? &T.ns[id - 1] : NULL;
}

static void text(uint8_t *p, unsigned off, size_t n, const char *s)
{
	memset(p + off, ' ', n);
	memcpy(p + off, s, TS_MIN(n, strlen(s)));
}

static void identify_ctrl(const struct ctrl *t, uint8_t *p)
{
	text(p, NVME_IDC_SERIAL, 20, "tessera-test");
	text(p, NVME_IDC_MODEL, 40, "Tessera test target");
	text(p, 64, 8, TESSERA_VERSION);
	p[NVME_IDC_CMIC] = 2; /* several controllers */
	p[NVME_IDC_MDTS] = 8; /* 1 MiB */
	put16(p, NVME_IDC_CNTLID, t->cntlid);
	put32(p, NVME_IDC_VERSION, 0x10400);
	put32(p, NVME_IDC_CTRATT, 1); /* host identifiers of 128 bits */
	p[NVME_IDC_TYPE] = t->discovery ? 2 : 1;
	p[258] = p[259] = 3; /* aborts, events */
	put16(p, NVME_IDC_KAS, 1);
	put16(p, NVME_IDC_CQT, T.opt.cqt_ms);
	p[NVME_IDC_SQES] = 0x66;
	p[NVME_IDC_CQES] = 0x44;
	put16(p, NVME_IDC_MAXCMD, T.opt.depth);
	put32(p, NVME_IDC_NN, t->discovery ? 0 : T.nns);
	put16(p, NVME_IDC_ONCS, NVME_ONCS_DSM | NVME_ONCS_WRITE_ZEROES | NVME_ONCS_RESERVATIONS);
	p[NVME_IDC_VWC] = 1;
	put32(p, NVME_IDC_SGLS, 1u | 1u << 20);
	snprintf((char *)p + NVME_IDC_SUBNQN, 256, "%s", t->discovery ? NVME_DISCOVERY_NQN : T.opt.nqn);
	put32(p, NVME_IDC_IOCCSZ, ((uint32_t)sizeof(struct nvme_cmd_msg) + T.opt.capsule) / 16);
	put32(p, NVME_IDC_IORCSZ, 1);
	p[NVME_IDC_MSDBD] = 1;
}

static void identify_ns(const struct ns *n, uint8_t *p)
{
	put64(p, NVME_IDN_NSZE, n->bytes >> n->shift);
	put64(p, NVME_IDN_NCAP, n->bytes >> n->shift);
	put64(p, NVME_IDN_NUSE, n->bytes >> n->shift);
	p[NVME_IDN_NMIC] = 1;
	p[NVME_IDN_RESCAP] = (uint8_t)(0xfe | (T.opt.ptpl ? NVME_RESCAP_PERSIST : 0));
	p[NVME_IDN_DLFEAT] = 1;
	memcpy(p + NVME_IDN_NGUID, n->uuid, 16);
	p[NVME_IDN_LBAF + 2] = (uint8_t)n->shift;
}

static void identify(struct cmd *k)
{
	uint32_t cns = le32_get(k->sqe.cdw10) & 0xff, id = le32_get(k->sqe.nsid);
	struct ns *n = k->ctrl->discovery ? NULL : ns_find(id);

	if (cns != NVME_CNS_CTRL && cns != NVME_CNS_NS_LIST && !n)
		k->status = NVME_SC_INVALID_NS;
	else if (cns > NVME_CNS_NS_IDS)
		k->status = NVME_SC_INVALID_FIELD;
	else if (!cmd_data_out(k, NVME_IDENTIFY_BYTES))
		return;
	else if (cns == NVME_CNS_CTRL)
		identify_ctrl(k->ctrl, k->buf);
	else if (cns == NVME_CNS_NS)
		identify_ns(n, k->buf);
	else if (cns == NVME_CNS_NS_LIST)
		for (unsigned i = 0, o = 0; i < T.nns && !k->ctrl->discovery; i++) {
			if (i + 1 > id)
				put32(k->buf, 4 * o++, i + 1);
		}
	else {
		k->buf[0] = NVME_NIDT_UUID;
		k->buf[1] = 16;
		memcpy(k->buf + 4, n->uuid, 16);
	}
	cmd_answer(k);
}

static void features(struct cmd *k, bool set)
{
	uint32_t id = le32_get(k->sqe.cdw10) & 0xff, value = le32_get(k->sqe.cdw11);
	struct ns *n = ns_find(le32_get(k->sqe.nsid));

	switch (id) {
	case NVME_FEAT_QUEUES: {
		uint32_t most = T.opt.queues - 1;

		k->dw0 = set ? TS_MIN(value & 0xffff, most) | TS_MIN(value >> 16, most) << 16 : most | most << 16;
		break;
	}
	case NVME_FEAT_KATO:
		if (set) {
			k->ctrl->kato_ms = value;
			ts_timer_cancel(&k->ctrl->kato);
			ctrl_alive(k->ctrl);
		}
		k->dw0 = k->ctrl->kato_ms;
		break;
	case NVME_FEAT_CACHE:
		k->dw0 = 1;
		k->status = set && !(value & 1) ? NVME_SC_INVALID_FIELD : 0;
		break;
	case NVME_FEAT_EVENTS:
		break;
	case NVME_FEAT_RESV_PERSIST:
		if (!n)
			k->status = NVME_SC_INVALID_NS;
		else if (!set)
			k->dw0 = n->resv.persist;
		else
			k->status = NVME_SC_INVALID_FIELD;
		break;
	default:
		k->status = NVME_SC_INVALID_FIELD;
	}
	cmd_answer(k);
}

static void discovery_log(struct cmd *k, uint8_t *p)
{
	struct nvme_disc_hdr_msg *h = (void *)p;
	struct nvme_disc_entry_msg *e = (void *)(h + 1);
	struct sockaddr_storage sa = {0};
	socklen_t len = sizeof(sa);
	const void *addr = &((struct sockaddr_in *)&sa)->sin_addr;

	h->generation = le64_make(1);
	h->count = le64_make(1);
	(void)!getsockname(k->conn->fd, (struct sockaddr *)&sa, &len);
	if (sa.ss_family == AF_INET6)
		addr = &((struct sockaddr_in6 *)&sa)->sin6_addr;
	e->trtype = NVME_TRTYPE_TCP;
	e->adrfam = sa.ss_family == AF_INET6 ? NVME_ADRFAM_IPV6 : NVME_ADRFAM_IPV4;
	e->subtype = NVME_SUBTYPE_NVM;
	e->treq = 2; /* no secure channel */
	e->portid = le16_make(1);
	e->cntlid = le16_make(0xffff);
	e->asqsz = le16_make(32);
	snprintf(e->trsvcid, sizeof(e->trsvcid), "%u", T.opt.port);
	snprintf(e->subnqn, sizeof(e->subnqn), "%s", T.opt.nqn);
	inet_ntop(sa.ss_family, addr, e->traddr, sizeof(e->traddr));
}

static void get_log(struct cmd *k)
{
	uint32_t w = le32_get(k->sqe.cdw10), dwords = (w >> 16 | (le32_get(k->sqe.cdw11) & 0xffff) << 16) + 1;
	uint64_t off = le32_get(k->sqe.cdw12) | (uint64_t)le32_get(k->sqe.cdw13) << 32;
	uint8_t page[2048] = {0};

	if (dwords > MAX_IO / 4 || ((w & 0xff) == NVME_LOG_DISCOVERY) != k->ctrl->discovery || (!k->ctrl->discovery && (w & 0xff) > 3)) {
		k->status = 0x109; /* no such log */
		cmd_answer(k);
		return;
	}
	if (!cmd_data_out(k, dwords * 4))
		return;
	if (k->ctrl->discovery)
		discovery_log(k, page);
	if (off < sizeof(page))
		memcpy(k->buf, page + off, TS_MIN((size_t)k->len, sizeof(page) - off));
	cmd_answer(k);
}

void admin_execute(struct cmd *k)
{
	switch (k->sqe.opcode) {
	case NVME_ADM_IDENTIFY:
		identify(k);
		return;
	case NVME_ADM_SET_FEATURES:
	case NVME_ADM_GET_FEATURES:
		features(k, k->sqe.opcode == NVME_ADM_SET_FEATURES);
		return;
	case NVME_ADM_GET_LOG:
		get_log(k);
		return;
	case NVME_ADM_ASYNC_EVENT:
		if (k->ctrl->nevents == 4) {
			k->status = 0x105; /* too many */
			break;
		}
		k->ctrl->nevents++;
		ts_list_push_back(&k->ctrl->events, &k->link);
		return;
	case NVME_ADM_ABORT:
		k->dw0 = 1; /* not aborted */
		break;
	case NVME_ADM_KEEP_ALIVE:
		break;
	default:
		k->status = NVME_SC_INVALID_OPCODE;
	}
	cmd_answer(k);
}
