/* SPDX-License-Identifier: Apache-2.0 */
/* Job: how PDUs of NVMe/TCP are laid out, and their digests. Must never happen: a length believed that does not fit its type. */
#include "nsd/nvme_queue.h"

#include <isa-l/crc.h>

#define PDU_MAX	  (16u << 20)
#define CRC_CHUNK (1u << 30)

uint32_t nvme_crc32c(uint32_t crc, const void *p, size_t n)
{
	const uint8_t *b = p;

	crc = ~crc;
	for (size_t k; n; b += k, n -= k) {
		k = TS_MIN(n, CRC_CHUNK);
		crc = crc32_iscsi((unsigned char *)(uintptr_t)b, (int)k, crc);
	}
	return ~crc;
}

static const struct row {
	uint8_t hlen;
	bool to_host, to_target;
	bool data;   /* may carry some */
	bool digest; /* may carry digests */
} rows[] = {
	[NVME_PDU_ICREQ] = {.hlen = 128, .to_target = true},
	[NVME_PDU_ICRESP] = {.hlen = 128, .to_host = true},
	[NVME_PDU_H2C_TERM] = {.hlen = 24, .to_target = true, .data = true},
	[NVME_PDU_C2H_TERM] = {.hlen = 24, .to_host = true, .data = true},
	[NVME_PDU_CMD] = {.hlen = 72, .to_target = true, .data = true, .digest = true},
	[NVME_PDU_RSP] = {.hlen = 24, .to_host = true, .digest = true},
	[NVME_PDU_H2C_DATA] = {.hlen = 24, .to_target = true, .data = true, .digest = true},
	[NVME_PDU_C2H_DATA] = {.hlen = 24, .to_host = true, .data = true, .digest = true},
	[NVME_PDU_R2T] = {.hlen = 24, .to_host = true, .digest = true},
};

int nvme_pdu_parse(const void *hdr8, unsigned dgst, bool to_host, struct nvme_pdu *out)
{
	const struct nvme_pdu_hdr_msg *h = hdr8;
	uint32_t plen = le32_get(h->plen), tail;
	const struct row *r;

	if (h->type >= TS_ARRAY_LEN(rows))
		return NVME_FES_HEADER;
	r = &rows[h->type];
	if (!(to_host ? r->to_host : r->to_target) || h->hlen != r->hlen || plen < h->hlen || plen > PDU_MAX)
		return NVME_FES_HEADER;
	*out = (struct nvme_pdu){.type = h->type, .flags = h->flags, .hlen = h->hlen, .head = h->hlen};
	if (r->digest && dgst & NVME_DGST_HDR) {
		if (!(h->flags & NVME_PDU_F_HDGST))
			return NVME_FES_HEADER;
		out->hdgst = true;
		out->head += 4;
	}
	if (plen == out->head)
		return h->type == NVME_PDU_H2C_DATA || h->type == NVME_PDU_C2H_DATA ? NVME_FES_HEADER : 0;
	if (!r->data)
		return NVME_FES_HEADER;
	if (!r->digest) { /* what was wrong, as the other side got it */
		out->data = plen - out->head;
		return out->data > NVME_HDR_MAX ? NVME_FES_HEADER : 0;
	}
	out->ddgst = dgst & NVME_DGST_DATA;
	tail = out->ddgst ? 4 : 0;
	if (out->ddgst && !(h->flags & NVME_PDU_F_DDGST))
		return NVME_FES_HEADER;
	if (h->pdo < out->head || plen < h->pdo + tail + 1)
		return NVME_FES_HEADER;
	out->pad = h->pdo - out->head;
	out->data = plen - h->pdo - tail;
	return 0;
}

size_t nvme_pdu_seal(void *hdr, unsigned dgst, uint32_t data_len)
{
	struct nvme_pdu_hdr_msg *h = hdr;
	size_t n = h->hlen;
	uint32_t plen;
	le32 crc;

	if (dgst & NVME_DGST_HDR) {
		h->flags |= NVME_PDU_F_HDGST;
		n += 4;
	}
	plen = (uint32_t)n + data_len;
	if (data_len) {
		h->pdo = (uint8_t)n;
		if (dgst & NVME_DGST_DATA) {
			h->flags |= NVME_PDU_F_DDGST;
			plen += 4;
		}
	}
	h->plen = le32_make(plen);
	if (dgst & NVME_DGST_HDR) {
		crc = le32_make(nvme_crc32c(0, h, h->hlen));
		memcpy((uint8_t *)hdr + h->hlen, &crc, 4);
	}
	return n;
}

bool nvme_pdu_head_ok(const void *hdr, const struct nvme_pdu *p)
{
	le32 crc;

	if (!p->hdgst)
		return true;
	memcpy(&crc, (const uint8_t *)hdr + p->hlen, 4);
	return le32_get(crc) == nvme_crc32c(0, hdr, p->hlen);
}
