/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what a target sends on a queue pair: taken apart, checked, and put where it belongs. Must never happen: a byte written outside
 * of a read's buffers, or a command answered that the target has not answered. */
#include "nsd/nvme_queue_int.h"

static int broken(struct nvme_queue *q, int fes, const char *what)
{
	nvme_queue_break(q, fes, "queue %u: %s", q->qid, what);
	return -EPROTO;
}

static void next_pdu(struct nvme_queue *q)
{
	q->rx = NVME_RX_HEAD;
	q->have = 0;
	q->need = sizeof(struct nvme_pdu_hdr_msg);
	q->into = NULL;
}

static int on_icresp(struct nvme_queue *q)
{
	const struct nvme_ic_msg *m = (const struct nvme_ic_msg *)q->head;
	uint32_t max = le32_get(m->max);

	if (q->state != NVME_Q_IC)
		return broken(q, NVME_FES_SEQUENCE, "a second ICResp");
	if (le16_get(m->pfv) != 0 || m->pda > 31)
		return broken(q, NVME_FES_PARAMETER, "a PDU format we do not know");
	if (m->pda)
		return broken(q, NVME_FES_PARAMETER, "the target wants aligned data, which was not offered");
	if ((m->dgst & (NVME_DGST_HDR | NVME_DGST_DATA)) != q->dgst)
		return broken(q, NVME_FES_PARAMETER, "the target does not take the digests that were asked for");
	if (max < 4096)
		return broken(q, NVME_FES_PARAMETER, "the target takes less than 4096 bytes at a time");
	q->max_h2c = TS_MIN(max, NVME_TRANSFER_MAX) & ~3u;
	q->state = NVME_Q_READY;
	next_pdu(q);
	return 0;
}

static int on_response(struct nvme_queue *q)
{
	const struct nvme_cpl_msg *c = &((const struct nvme_cpl_pdu_msg *)q->head)->cpl;
	struct nvme_slot *s = nvme_queue_find(q, le16_get(c->cid));
	uint16_t status = le16_get(c->status) >> 1;

	if (!s || s->answered || (s->capsule && !ts_list_empty(&s->tx)))
		return broken(q, NVME_FES_SEQUENCE, "an answer to a command that was not sent");
	if (!(status & NVME_SC_MASK) && (s->moved != s->len || !ts_list_empty(&s->tx)))
		return broken(q, NVME_FES_SEQUENCE, "success before all data was moved");
	next_pdu(q);
	nvme_queue_answered(q, s, status, le32_get(c->dw0));
	return 0;
}

static int on_data(struct nvme_queue *q)
{
	const struct nvme_data_msg *m = (const struct nvme_data_msg *)q->head;
	struct nvme_slot *s = nvme_queue_find(q, le16_get(m->cid));

	if (!s || s->answered || s->out || !ts_list_empty(&s->tx))
		return broken(q, NVME_FES_SEQUENCE, "data for a command that wants none");
	if (le32_get(m->len) != q->pdu.data || le32_get(m->off) != s->moved || q->pdu.data > s->len - s->moved)
		return broken(q, NVME_FES_RANGE, "data that does not follow what came before");
	if ((q->pdu.flags & (NVME_PDU_F_LAST | NVME_PDU_F_SUCCESS)) == NVME_PDU_F_SUCCESS ||
	    (q->pdu.flags & NVME_PDU_F_SUCCESS && s->moved + q->pdu.data != s->len))
		return broken(q, NVME_FES_HEADER, "success with data that is not the last");
	q->into = s;
	q->crc = 0;
	q->have = 0;
	q->need = q->pdu.pad ? q->pdu.pad : q->pdu.data;
	q->rx = q->pdu.pad ? NVME_RX_PAD : NVME_RX_DATA;
	return 0;
}

static int on_r2t(struct nvme_queue *q)
{
	const struct nvme_data_msg *m = (const struct nvme_data_msg *)q->head;
	struct nvme_slot *s = nvme_queue_find(q, le16_get(m->cid));
	uint32_t len = le32_get(m->len);

	if (!s || s->answered || !s->out || !ts_list_empty(&s->tx))
		return broken(q, NVME_FES_SEQUENCE, "data asked of a command that has none to give");
	if (!len || le32_get(m->off) != s->moved || len > s->len - s->moved)
		return broken(q, NVME_FES_RANGE, "data asked for that does not follow what was sent");
	next_pdu(q);
	nvme_queue_asked(q, s, le16_get(m->ttag), len);
	return 0;
}

static int on_term(struct nvme_queue *q)
{
	const struct nvme_term_msg *m = (const struct nvme_term_msg *)q->head;
	static const char *const why[] = {"no reason", "a header it did not like", "a PDU out of sequence", "a header digest that was wrong",
					  "data out of range", "more data than allowed", "a parameter it does not have"};
	unsigned fes = le16_get(m->fes);

	nvme_queue_break(q, NVME_FES_NONE, "queue %u: the target ended it because of %s", q->qid,
			 why[fes < TS_ARRAY_LEN(why) ? fes : 0]);
	return -EPROTO;
}

static int head_done(struct nvme_queue *q)
{
	if (!nvme_pdu_head_ok(q->head, &q->pdu))
		return broken(q, NVME_FES_DIGEST, "a header digest is wrong");
	if (q->state == NVME_Q_IC && q->pdu.type != NVME_PDU_ICRESP && q->pdu.type != NVME_PDU_C2H_TERM)
		return broken(q, NVME_FES_SEQUENCE, "something before the ICResp");
	switch (q->pdu.type) {
	case NVME_PDU_ICRESP:
		return on_icresp(q);
	case NVME_PDU_RSP:
		return on_response(q);
	case NVME_PDU_C2H_DATA:
		return on_data(q);
	case NVME_PDU_R2T:
		return on_r2t(q);
	default:
		return on_term(q);
	}
}

static int head_more(struct nvme_queue *q)
{
	int fes;

	if (q->need > sizeof(struct nvme_pdu_hdr_msg))
		return head_done(q);
	fes = nvme_pdu_parse(q->head, q->dgst, true, &q->pdu);
	if (fes)
		return broken(q, fes, "a PDU header that cannot be");
	q->need = q->pdu.head;
	return 0;
}

static int pdu_end(struct nvme_queue *q)
{
	struct nvme_slot *s = q->into;
	bool success = q->pdu.flags & NVME_PDU_F_SUCCESS;
	le32 crc;

	memcpy(&crc, q->tail, 4);
	if (q->pdu.ddgst && le32_get(crc) != q->crc)
		return broken(q, NVME_FES_NONE, "a data digest is wrong");
	next_pdu(q);
	if (success)
		nvme_queue_answered(q, s, NVME_SC_OK, 0);
	return 0;
}

/* What rx says has come whole. */
static int stage_end(struct nvme_queue *q)
{
	switch (q->rx) {
	case NVME_RX_HEAD:
		return head_more(q);
	case NVME_RX_PAD:
		q->rx = NVME_RX_DATA;
		q->have = 0;
		q->need = q->pdu.data;
		return 0;
	case NVME_RX_DATA:
		if (!q->pdu.ddgst)
			return pdu_end(q);
		q->rx = NVME_RX_DDGST;
		q->have = 0;
		q->need = 4;
		return 0;
	default:
		return pdu_end(q);
	}
}

static void place(struct nvme_queue *q, const uint8_t *p, uint32_t n)
{
	struct iovec iov[16];

	while (n) {
		int k = nvme_slot_segments(q->into, q->into->moved, n, iov, TS_ARRAY_LEN(iov));

		TS_ASSERT(k > 0);
		for (int i = 0; i < k; i++) {
			memcpy(iov[i].iov_base, p, iov[i].iov_len);
			p += iov[i].iov_len;
			n -= (uint32_t)iov[i].iov_len;
			q->into->moved += (uint32_t)iov[i].iov_len;
		}
	}
}

int nvme_queue_in(struct nvme_queue *q, const void *bytes, size_t n)
{
	const uint8_t *p = bytes;

	if (q->state == NVME_Q_BROKEN)
		return -EPROTO;
	while (n) {
		uint32_t k = (uint32_t)TS_MIN(n, (size_t)(q->need - q->have));
		int rc;

		if (q->rx == NVME_RX_HEAD) {
			memcpy(q->head + q->have, p, k);
		} else if (q->rx == NVME_RX_DDGST) {
			memcpy(q->tail + q->have, p, k);
		} else if (q->rx == NVME_RX_DATA) {
			if (q->pdu.ddgst)
				q->crc = nvme_crc32c(q->crc, p, k);
			place(q, p, k);
		}
		q->have += k;
		p += k;
		n -= k;
		if (q->have < q->need)
			return 0;
		rc = stage_end(q);
		if (rc)
			return rc;
	}
	return 0;
}

int nvme_queue_in_place(struct nvme_queue *q, struct iovec *iov, int max)
{
	if (q->state != NVME_Q_READY || q->rx != NVME_RX_DATA)
		return 0;
	return nvme_slot_segments(q->into, q->into->moved, q->need - q->have, iov, max);
}

int nvme_queue_in_placed(struct nvme_queue *q, size_t n)
{
	struct nvme_slot *s = q->into;
	struct iovec iov[16];

	TS_ASSERT(q->rx == NVME_RX_DATA && n <= q->need - q->have);
	q->have += (uint32_t)n;
	while (n) {
		int k = nvme_slot_segments(s, s->moved, (uint32_t)n, iov, TS_ARRAY_LEN(iov));

		for (int i = 0; i < k; i++) {
			if (q->pdu.ddgst)
				q->crc = nvme_crc32c(q->crc, iov[i].iov_base, iov[i].iov_len);
			s->moved += (uint32_t)iov[i].iov_len;
			n -= iov[i].iov_len;
		}
	}
	return q->have < q->need ? 0 : stage_end(q);
}
