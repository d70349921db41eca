/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a queue pair's commands and what is sent for them: capsules, and data that the target asked for (R2T). Must never happen: a slot
 * given back while bytes of its buffers are still to be sent. */
#include "nsd/nvme_queue_int.h"

#include <stdarg.h>
#include <stdio.h>

void nvme_queue_init(struct nvme_queue *q, uint16_t qid, unsigned depth, unsigned dgst)
{
	struct nvme_ic_msg *m = (struct nvme_ic_msg *)q->raw;

	TS_ASSERT(depth && depth <= NVME_DEPTH_MAX);
	memset(q, 0, sizeof(*q));
	q->qid = qid;
	q->depth = depth;
	q->dgst = dgst;
	q->capsule_data = NVME_CAPSULE_DATA;
	for (unsigned i = 0; i < depth; i++)
		q->unused[i] = (uint8_t)i;
	ts_list_init(&q->tx);
	m->hdr = (struct nvme_pdu_hdr_msg){.type = NVME_PDU_ICREQ, .hlen = sizeof(*m), .plen = le32_make(sizeof(*m))};
	m->dgst = (uint8_t)dgst;
	q->raw_len = sizeof(*m);
	q->need = sizeof(struct nvme_pdu_hdr_msg);
}

/* The target may like to know; what it was is in front of it. */
static void say_why(struct nvme_queue *q)
{
	struct nvme_term_msg *m = (struct nvme_term_msg *)q->raw;

	if (q->fes == NVME_FES_NONE || q->raw_sent < q->raw_len)
		return;
	*m = (struct nvme_term_msg){
		.hdr = {.type = NVME_PDU_H2C_TERM, .hlen = sizeof(*m), .plen = le32_make(sizeof(*m))}, .fes = le16_make((uint16_t)q->fes)};
	q->raw_len = sizeof(*m);
	q->raw_sent = 0;
}

void nvme_queue_break(struct nvme_queue *q, int fes, const char *fmt, ...)
{
	bool between = ts_list_empty(&q->tx) || !ts_list_entry(q->tx.next, struct nvme_slot, tx)->sent;
	va_list ap;

	if (q->state == NVME_Q_BROKEN)
		return;
	q->state = NVME_Q_BROKEN;
	q->fes = fes;
	va_start(ap, fmt);
	vsnprintf(q->error, sizeof(q->error), fmt, ap);
	va_end(ap);
	if (between)
		say_why(q);
}

/* ---- slots -------------------------------------------------------------------------------------------------------- */

struct nvme_slot *nvme_queue_find(struct nvme_queue *q, uint16_t cid)
{
	unsigned i = cid & 0xff;

	return i < q->depth && q->slot[i] && q->slot[i]->cid == cid ? q->slot[i] : NULL;
}

static void slot_end(struct nvme_queue *q, struct nvme_slot *s, int rc)
{
	unsigned i = s->cid & 0xff;

	ts_list_del(&s->tx);
	q->slot[i] = NULL;
	q->busy--;
	q->unused[q->depth - q->busy - 1] = (uint8_t)i;
	s->done(s, rc, s->status, s->result);
}

void nvme_queue_answered(struct nvme_queue *q, struct nvme_slot *s, uint16_t status, uint32_t result)
{
	s->answered = true;
	s->status = status & NVME_SC_MASK;
	s->result = result;
	s->r2t_left = 0;
	if (ts_list_empty(&s->tx) || (!s->sent && !s->capsule))
		slot_end(q, s, 0);
	/* Else the target answered early: the PDU that has begun must go out whole. */
}

void nvme_queue_abandon(struct nvme_queue *q)
{
	if (q->state != NVME_Q_BROKEN)
		nvme_queue_break(q, NVME_FES_NONE, "given up");
	for (unsigned i = 0; i < q->depth; i++)
		if (q->slot[i])
			slot_end(q, q->slot[i], q->slot[i]->answered ? 0 : -ENOTCONN);
	TS_ASSERT(!q->busy);
}

static uint32_t data_crc(const struct nvme_slot *s, uint32_t off, uint32_t len)
{
	uint32_t crc = 0;

	for (int i = 0; len && i < s->iovcnt; i++) {
		size_t n = s->iov[i].iov_len, k;

		if (off >= n) {
			off -= (uint32_t)n;
			continue;
		}
		k = TS_MIN(n - off, len);
		crc = nvme_crc32c(crc, (uint8_t *)s->iov[i].iov_base + off, k);
		len -= (uint32_t)k;
		off = 0;
	}
	return crc;
}

/* The header is whole but for digests and length: this PDU is the next of the slot. */
static void slot_send(struct nvme_queue *q, struct nvme_slot *s, uint32_t off, uint32_t len)
{
	le32 crc;

	s->head_len = (uint32_t)nvme_pdu_seal(s->head, q->dgst, len);
	s->data_off = off;
	s->data_len = len;
	s->tail_len = 0;
	s->sent = 0;
	if (len && q->dgst & NVME_DGST_DATA) {
		crc = le32_make(data_crc(s, off, len));
		memcpy(s->tail, &crc, 4);
		s->tail_len = 4;
	}
	ts_list_push_back(&q->tx, &s->tx);
}

void nvme_queue_submit(struct nvme_queue *q, struct nvme_slot *s, struct nvme_cmd_msg *cmd)
{
	struct nvme_cmd_pdu_msg *m = (struct nvme_cmd_pdu_msg *)s->head;
	uint32_t with = s->out && s->len <= q->capsule_data ? s->len : 0;
	uint8_t i;

	TS_ASSERT(nvme_queue_room(q));
	i = q->unused[q->depth - q->busy - 1];
	q->busy++;
	q->slot[i] = s;
	s->cid = (uint16_t)(i | ++q->life[i] << 8);
	s->moved = with;
	s->answered = false;
	s->r2t_left = 0;
	s->capsule = true;
	ts_list_init(&s->tx);
	cmd->cid = le16_make(s->cid);
	cmd->flags = NVME_CMD_SGL;
	if (s->len)
		cmd->sgl = (struct nvme_sgl_msg){.len = le32_make(s->len), .type = with ? NVME_SGL_CAPSULE : NVME_SGL_TRANSPORT};
	else if (cmd->opcode != NVME_OP_FABRICS)
		cmd->sgl = (struct nvme_sgl_msg){.type = NVME_SGL_TRANSPORT};
	m->hdr = (struct nvme_pdu_hdr_msg){.type = NVME_PDU_CMD, .hlen = sizeof(*m)};
	m->cmd = *cmd;
	slot_send(q, s, 0, with);
}

/* The next piece of what an R2T asked for. */
static void data_next(struct nvme_queue *q, struct nvme_slot *s)
{
	struct nvme_data_msg *m = (struct nvme_data_msg *)s->head;
	uint32_t n = TS_MIN(s->r2t_left, q->max_h2c);

	s->r2t_left -= n;
	s->capsule = false;
	*m = (struct nvme_data_msg){.hdr = {.type = NVME_PDU_H2C_DATA, .hlen = sizeof(*m),
					    .flags = s->r2t_left ? 0 : NVME_PDU_F_LAST},
				    .cid = le16_make(s->cid), .ttag = le16_make(s->ttag), .off = le32_make(s->moved),
				    .len = le32_make(n)};
	slot_send(q, s, s->moved, n);
	s->moved += n;
}

void nvme_queue_asked(struct nvme_queue *q, struct nvme_slot *s, uint16_t ttag, uint32_t len)
{
	s->ttag = ttag;
	s->r2t_left = len;
	data_next(q, s);
}

/* ---- out ---------------------------------------------------------------------------------------------------------- */

/* Bytes [skip, ...) of what the slot sends; false: there was no room for all. */
static bool slot_out(const struct nvme_slot *s, uint32_t skip, struct iovec *iov, int *n, int max)
{
	uint32_t left;

	if (skip < s->head_len) {
		if (*n == max)
			return false;
		iov[(*n)++] = (struct iovec){(uint8_t *)(uintptr_t)s->head + skip, s->head_len - skip};
		skip = s->head_len;
	}
	skip -= s->head_len;
	left = skip < s->data_len ? s->data_len - skip : 0;
	if (left) {
		int k = nvme_slot_segments(s, s->data_off + skip, left, iov + *n, max - *n);

		for (int i = 0; i < k; i++)
			left -= (uint32_t)iov[*n + i].iov_len;
		*n += k;
		if (left)
			return false;
		skip = s->data_len;
	}
	skip -= s->data_len;
	if (skip < s->tail_len) {
		if (*n == max)
			return false;
		iov[(*n)++] = (struct iovec){(uint8_t *)(uintptr_t)s->tail + skip, s->tail_len - skip};
	}
	return true;
}

int nvme_slot_segments(const struct nvme_slot *s, uint32_t off, uint32_t len, struct iovec *iov, int max)
{
	int n = 0;

	for (int i = 0; len && n < max && i < s->iovcnt; i++) {
		size_t have = s->iov[i].iov_len, k;

		if (off >= have) {
			off -= (uint32_t)have;
			continue;
		}
		k = TS_MIN(have - off, len);
		iov[n++] = (struct iovec){(uint8_t *)s->iov[i].iov_base + off, k};
		len -= (uint32_t)k;
		off = 0;
	}
	return n;
}

int nvme_queue_out(struct nvme_queue *q, struct iovec *iov, int max)
{
	int n = 0;

	if (q->raw_sent < q->raw_len)
		iov[n++] = (struct iovec){q->raw + q->raw_sent, q->raw_len - q->raw_sent};
	if (q->state != NVME_Q_READY)
		return n;
	ts_list_for(l, &q->tx) {
		const struct nvme_slot *s = ts_list_entry(l, struct nvme_slot, tx);

		if (!slot_out(s, s->sent, iov, &n, max))
			break;
	}
	return n;
}

void nvme_queue_sent(struct nvme_queue *q, size_t n)
{
	size_t k = TS_MIN(n, q->raw_len - q->raw_sent);

	q->raw_sent += (uint32_t)k;
	n -= k;
	while (n) {
		struct nvme_slot *s = ts_list_entry(q->tx.next, struct nvme_slot, tx);
		uint32_t all = s->head_len + s->data_len + s->tail_len;

		TS_ASSERT(!ts_list_empty(&q->tx));
		k = TS_MIN(n, all - s->sent);
		s->sent += (uint32_t)k;
		n -= k;
		if (s->sent < all)
			return;
		ts_list_del(&s->tx);
		if (s->answered)
			slot_end(q, s, 0);
		else if (s->r2t_left)
			data_next(q, s);
	}
}
