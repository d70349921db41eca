/* SPDX-License-Identifier: Apache-2.0 */
/* Job: PDUs and queue pairs of NVMe/TCP without a socket: digests and layouts by known values, a whole exchange byte by byte, what a
 * target must not send (each named), and a great many streams with bytes changed at random: nothing is written outside of a read's
 * buffers, no command is answered twice, and every one is done when the queue is given up. */
#include "nsd/nvme_queue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>

#define GUARD 64
#define LEN   8192u

struct io {
	struct nvme_slot slot;
	struct iovec iov[3];
	uint8_t *mem; /* GUARD, LEN, GUARD */
	unsigned done;
	int rc;
	uint16_t status;
	uint32_t result;
};

static void io_done(struct nvme_slot *s, int rc, uint16_t status, uint32_t result)
{
	struct io *k = ts_list_entry(s, struct io, slot);

	k->done++;
	k->rc = rc;
	k->status = status;
	k->result = result;
}

static void io_init(struct io *k, bool out, uint32_t len)
{
	memset(k, 0, sizeof(*k));
	k->mem = malloc(LEN + 2 * GUARD);
	memset(k->mem, 0xa5, LEN + 2 * GUARD);
	k->iov[0] = (struct iovec){k->mem + GUARD, 700};
	k->iov[1] = (struct iovec){NULL, 0};
	k->iov[2] = (struct iovec){k->mem + GUARD + 700, len > 700 ? len - 700 : 0};
	k->iov[0].iov_len = TS_MIN(700u, len);
	k->slot.iov = k->iov;
	k->slot.iovcnt = 3;
	k->slot.len = len;
	k->slot.out = out;
	k->slot.done = io_done;
}

static void guards_stand(const struct io *k)
{
	for (unsigned i = 0; i < GUARD; i++)
		if (k->mem[i] != 0xa5 || k->mem[GUARD + LEN + i] != 0xa5)
			fail_msg("a byte outside of the buffer was written");
}

static void submit(struct nvme_queue *q, struct io *k, uint8_t opcode)
{
	struct nvme_cmd_msg m = {.opcode = opcode, .nsid = le32_make(1)};

	nvme_queue_submit(q, &k->slot, &m);
}

/* All that the queue has to send, at most `room` bytes a time. */
static size_t take(struct nvme_queue *q, uint8_t *to, size_t room, size_t step)
{
	size_t total = 0;

	while (nvme_queue_has_out(q)) {
		struct iovec iov[4];
		int n = nvme_queue_out(q, iov, 4);
		size_t got = 0;

		assert_true(n > 0);
		for (int i = 0; i < n && got < step; i++) {
			size_t k = TS_MIN(iov[i].iov_len, step - got);

			assert_true(total + got + k <= room);
			memcpy(to + total + got, iov[i].iov_base, k);
			got += k;
		}
		nvme_queue_sent(q, got);
		total += got;
	}
	return total;
}

static size_t put_icresp(uint8_t *p, unsigned dgst, uint32_t max)
{
	struct nvme_ic_msg m = {.hdr = {.type = NVME_PDU_ICRESP, .hlen = 128, .plen = le32_make(128)}, .dgst = (uint8_t)dgst,
				.max = le32_make(max)};

	memcpy(p, &m, sizeof(m));
	return sizeof(m);
}

static size_t put_rsp(uint8_t *p, unsigned dgst, uint16_t cid, uint16_t status, uint32_t dw0)
{
	struct nvme_cpl_pdu_msg m = {.hdr = {.type = NVME_PDU_RSP, .hlen = 24},
				     .cpl = {.dw0 = le32_make(dw0), .cid = le16_make(cid), .status = le16_make((uint16_t)(status << 1))}};

	memcpy(p, &m, sizeof(m));
	return nvme_pdu_seal(p, dgst, 0);
}

static size_t put_data(uint8_t *p, unsigned dgst, uint16_t cid, uint32_t off, const uint8_t *data, uint32_t len, uint8_t flags)
{
	struct nvme_data_msg m = {.hdr = {.type = NVME_PDU_C2H_DATA, .hlen = 24, .flags = flags}, .cid = le16_make(cid),
				  .off = le32_make(off), .len = le32_make(len)};
	le32 crc = le32_make(nvme_crc32c(0, data, len));
	size_t n;

	memcpy(p, &m, sizeof(m));
	n = nvme_pdu_seal(p, dgst, len);
	memcpy(p + n, data, len);
	n += len;
	if (dgst & NVME_DGST_DATA) {
		memcpy(p + n, &crc, 4);
		n += 4;
	}
	return n;
}

static size_t put_r2t(uint8_t *p, unsigned dgst, uint16_t cid, uint16_t ttag, uint32_t off, uint32_t len)
{
	struct nvme_data_msg m = {.hdr = {.type = NVME_PDU_R2T, .hlen = 24}, .cid = le16_make(cid), .ttag = le16_make(ttag),
				  .off = le32_make(off), .len = le32_make(len)};

	memcpy(p, &m, sizeof(m));
	return nvme_pdu_seal(p, dgst, 0);
}

static void open_queue(struct nvme_queue *q, unsigned dgst, uint32_t max_h2c)
{
	uint8_t buf[256];

	nvme_queue_init(q, 1, 8, dgst);
	assert_int_equal(take(q, buf, sizeof(buf), 1000), 128);
	assert_int_equal(buf[0], NVME_PDU_ICREQ);
	assert_int_equal(buf[11], dgst);
	assert_false(nvme_queue_room(q));
	assert_int_equal(nvme_queue_in(q, buf, put_icresp(buf, dgst, max_h2c)), 0);
	assert_true(nvme_queue_room(q));
}

/* ---- known values ------------------------------------------------------------------------------------------------------ */

static void crc32c_by_rfc3720(void **state)
{
	uint8_t b[48];

	memset(b, 0, 32);
	assert_int_equal(nvme_crc32c(0, b, 32), 0x8a9136aa);
	memset(b, 0xff, 32);
	assert_int_equal(nvme_crc32c(0, b, 32), 0x62a8ab43);
	for (int i = 0; i < 32; i++)
		b[i] = (uint8_t)i;
	assert_int_equal(nvme_crc32c(0, b, 32), 0x46dd794e);
	assert_int_equal(nvme_crc32c(nvme_crc32c(0, b, 5), b + 5, 27), 0x46dd794e);
}

static void layouts(void **state)
{
	static const struct {
		uint8_t hdr[8]; /* type, flags, hlen, pdo, plen */
		unsigned dgst;
		bool to_host;
		int fes;
		uint32_t head, pad, data;
	} rows[] = {
		{{1, 0, 128, 0, 128}, 3, true, 0, 128, 0, 0},
		{{1, 0, 128, 0, 128}, 0, false, NVME_FES_HEADER, 0, 0, 0}, /* not this way */
		{{1, 0, 128, 0, 129}, 0, true, NVME_FES_HEADER, 0, 0, 0},
		{{5, 0, 24, 0, 24}, 0, true, 0, 24, 0, 0},
		{{5, 1, 24, 0, 28}, 1, true, 0, 28, 0, 0},
		{{5, 0, 24, 0, 28}, 1, true, NVME_FES_HEADER, 0, 0, 0}, /* the digest is agreed on and not there */
		{{5, 0, 24, 0, 32}, 0, true, NVME_FES_HEADER, 0, 0, 0}, /* data where none can be */
		{{5, 0, 23, 0, 24}, 0, true, NVME_FES_HEADER, 0, 0, 0},
		{{7, 0, 24, 24, 24, 2}, 0, true, 0, 24, 0, 512},
		{{7, 0, 24, 32, 32, 2}, 0, true, 0, 24, 8, 512},
		{{7, 3, 24, 28, 32, 2}, 3, true, 0, 28, 0, 512},
		{{7, 1, 24, 28, 32, 2}, 3, true, NVME_FES_HEADER, 0, 0, 0},
		{{7, 0, 24, 20, 24, 2}, 0, true, NVME_FES_HEADER, 0, 0, 0}, /* data inside of the header */
		{{7, 0, 24, 255, 40}, 0, true, NVME_FES_HEADER, 0, 0, 0},   /* and behind the end */
		{{7, 0, 24, 0, 24}, 0, true, NVME_FES_HEADER, 0, 0, 0},	    /* data without data */
		{{7, 2, 24, 24, 28}, 2, true, NVME_FES_HEADER, 0, 0, 0},    /* nothing but a digest */
		{{7, 0, 24, 24, 0, 0, 0, 2}, 0, true, NVME_FES_HEADER, 0, 0, 0},
		{{4, 0, 72, 0, 72}, 0, false, 0, 72, 0, 0},
		{{4, 0, 72, 72, 72, 16}, 0, false, 0, 72, 0, 4096},
		{{9, 0, 24, 0, 24}, 0, true, 0, 24, 0, 0},
		{{9, 0, 24, 0, 24}, 0, false, NVME_FES_HEADER, 0, 0, 0},
		{{3, 0, 24, 0, 152}, 3, true, 0, 24, 0, 128},
		{{3, 0, 24, 0, 153}, 3, true, NVME_FES_HEADER, 0, 0, 0},
		{{8, 0, 24, 0, 24}, 0, true, NVME_FES_HEADER, 0, 0, 0},
		{{255, 0, 24, 0, 24}, 0, true, NVME_FES_HEADER, 0, 0, 0},
	};

	for (size_t i = 0; i < TS_ARRAY_LEN(rows); i++) {
		struct nvme_pdu p = {0};
		int fes = nvme_pdu_parse(rows[i].hdr, rows[i].dgst, rows[i].to_host, &p);

		if (fes != rows[i].fes || (!fes && (p.head != rows[i].head || p.pad != rows[i].pad || p.data != rows[i].data)))
			fail_msg("row %zu: %d, head %u, pad %u, data %u", i, fes, p.head, p.pad, p.data);
	}
}

/* ---- an exchange, whatever the pieces it comes in ---------------------------------------------------------------------- */

static void in_pieces(struct nvme_queue *q, const uint8_t *p, size_t n, size_t step)
{
	for (size_t k; n; p += k, n -= k) {
		k = TS_MIN(n, step);
		assert_int_equal(nvme_queue_in(q, p, k), 0);
	}
}

static void exchange(unsigned dgst, size_t step)
{
	static uint8_t buf[64 << 10], data[LEN];
	struct nvme_queue *q = calloc(1, sizeof(*q));
	struct io rd, wr, small;
	const struct nvme_data_msg *m;
	size_t n, tail = dgst & NVME_DGST_DATA ? 4 : 0, head = dgst & NVME_DGST_HDR ? 4 : 0;

	open_queue(q, dgst, 4096);
	q->capsule_data = 1024;
	for (unsigned i = 0; i < LEN; i++)
		data[i] = (uint8_t)(i * 7 + i / 256);
	io_init(&rd, false, LEN);
	io_init(&wr, true, LEN);
	io_init(&small, true, 512);
	memcpy(wr.mem + GUARD, data, LEN);
	memcpy(small.mem + GUARD, data, 512);
	submit(q, &rd, NVME_OP_READ);
	submit(q, &wr, NVME_OP_WRITE);
	submit(q, &small, NVME_OP_WRITE);
	n = take(q, buf, sizeof(buf), step);
	assert_int_equal(n, 3 * (72 + head) + 512 + tail);
	assert_memory_equal(buf + n - 512 - tail, data, 512);
	/* The read, in two pieces, the second of which is the answer too; between them the write's data is asked for, and small's answer. */
	n = put_data(buf, dgst, rd.slot.cid, 0, data, 3000, 0);
	n += put_r2t(buf + n, dgst, wr.slot.cid, 99, 0, LEN);
	n += put_rsp(buf + n, dgst, small.slot.cid, 0, 17);
	n += put_data(buf + n, dgst, rd.slot.cid, 3000, data + 3000, LEN - 3000, NVME_PDU_F_LAST | NVME_PDU_F_SUCCESS);
	in_pieces(q, buf, n, step);
	assert_int_equal(rd.done, 1);
	assert_int_equal(rd.status, 0);
	assert_memory_equal(rd.mem + GUARD, data, LEN);
	assert_int_equal(small.done, 1);
	assert_int_equal(small.result, 17);
	assert_int_equal(wr.done, 0);
	/* Two PDUs, as the target takes 4096 bytes at a time; the second is marked as the last. */
	n = take(q, buf, sizeof(buf), step);
	assert_int_equal(n, 2 * (24 + head + 4096 + tail));
	m = (const void *)(buf + n / 2);
	assert_int_equal(m->hdr.flags & NVME_PDU_F_LAST, NVME_PDU_F_LAST);
	assert_int_equal(le32_get(m->off), 4096);
	assert_int_equal(le16_get(m->ttag), 99);
	assert_memory_equal(buf + n / 2 + 24 + head, data + 4096, 4096);
	n = put_rsp(buf, dgst, wr.slot.cid, NVME_SC_RESV_CONFLICT | 0x4000 >> 0, 0);
	in_pieces(q, buf, n, step);
	assert_int_equal(wr.done, 1);
	assert_int_equal(wr.status, NVME_SC_RESV_CONFLICT);
	guards_stand(&rd);
	assert_int_equal(q->busy, 0);
	free(rd.mem);
	free(wr.mem);
	free(small.mem);
	free(q);
}

static void exchanges(void **state)
{
	static const size_t steps[] = {1, 3, 8, 100, 4096, 1u << 20};

	for (unsigned dgst = 0; dgst < 4; dgst++)
		for (size_t i = 0; i < TS_ARRAY_LEN(steps); i++)
			exchange(dgst, steps[i]);
}

/* A read straight to where it belongs, as nvme_conn.c does it. */
static void placed_directly(void **state)
{
	static uint8_t buf[LEN + 100], data[LEN];
	struct nvme_queue *q = calloc(1, sizeof(*q));
	struct io rd;
	struct iovec iov[4];
	size_t n, o;
	int k;

	open_queue(q, NVME_DGST_DATA, 4096);
	memset(data, 0x77, LEN);
	io_init(&rd, false, LEN);
	submit(q, &rd, NVME_OP_READ);
	(void)!take(q, buf, sizeof(buf), 1000);
	n = put_data(buf, NVME_DGST_DATA, rd.slot.cid, 0, data, LEN, NVME_PDU_F_LAST | NVME_PDU_F_SUCCESS);
	assert_int_equal(nvme_queue_in_place(q, iov, 4), 0);
	assert_int_equal(nvme_queue_in(q, buf, 24 + 10), 0);
	for (o = 34; (k = nvme_queue_in_place(q, iov, 1)); o += TS_MIN(iov[0].iov_len, 500u)) {
		memcpy(iov[0].iov_base, buf + o, TS_MIN(iov[0].iov_len, 500u));
		assert_int_equal(nvme_queue_in_placed(q, TS_MIN(iov[0].iov_len, 500u)), 0);
	}
	assert_int_equal(n - o, 4);
	assert_int_equal(rd.done, 0);
	assert_int_equal(nvme_queue_in(q, buf + o, 4), 0);
	assert_int_equal(rd.done, 1);
	assert_memory_equal(rd.mem + GUARD, data, LEN);
	guards_stand(&rd);
	free(rd.mem);
	free(q);
}

/* An error before all data went out: done only when the PDU that has begun is out whole. */
static void early_answer(void **state)
{
	static uint8_t buf[LEN + 1000];
	struct nvme_queue *q = calloc(1, sizeof(*q));
	struct iovec iov[4];
	struct io wr;

	open_queue(q, 0, 4096);
	q->capsule_data = 0;
	io_init(&wr, true, LEN);
	submit(q, &wr, NVME_OP_WRITE);
	(void)!take(q, buf, sizeof(buf), 1000);
	assert_int_equal(nvme_queue_in(q, buf, put_r2t(buf, 0, wr.slot.cid, 1, 0, LEN)), 0);
	assert_true(nvme_queue_out(q, iov, 4) > 1);
	nvme_queue_sent(q, 100);
	assert_int_equal(nvme_queue_in(q, buf, put_rsp(buf, 0, wr.slot.cid, NVME_SC_RESV_CONFLICT, 0)), 0);
	assert_int_equal(wr.done, 0);
	assert_int_equal(take(q, buf, sizeof(buf), 999), 24 + 4096 - 100); /* and not the second one */
	assert_int_equal(wr.done, 1);
	assert_int_equal(wr.status, NVME_SC_RESV_CONFLICT);
	/* And no second answer meanwhile. */
	wr.done = 0;
	submit(q, &wr, NVME_OP_WRITE);
	(void)!take(q, buf, sizeof(buf), 1000);
	assert_int_equal(nvme_queue_in(q, buf, put_r2t(buf, 0, wr.slot.cid, 1, 0, LEN)), 0);
	nvme_queue_sent(q, 100);
	assert_int_equal(nvme_queue_in(q, buf, put_rsp(buf, 0, wr.slot.cid, NVME_SC_RESV_CONFLICT, 0)), 0);
	assert_int_equal(nvme_queue_in(q, buf, put_rsp(buf, 0, wr.slot.cid, 6, 0)), -EPROTO);
	nvme_queue_abandon(q);
	assert_int_equal(wr.done, 1);
	assert_int_equal(wr.status, NVME_SC_RESV_CONFLICT);
	free(wr.mem);
	free(q);
}

/* ---- what a target must not send --------------------------------------------------------------------------------------- */

enum wrong {
	ANSWER_UNKNOWN, ANSWER_TWICE, ANSWER_UNSENT, SUCCESS_WITHOUT_DATA, SUCCESS_BEFORE_R2T, DATA_FOR_WRITE, DATA_GAP, DATA_BEYOND, DATA_LEN_LIES,
	SUCCESS_NOT_LAST, SUCCESS_EARLY, R2T_FOR_READ, R2T_BEYOND, R2T_NOTHING, R2T_AGAIN, R2T_GAP, SECOND_IC, BAD_HDGST, BAD_DDGST, TERM, OLD_CID,
	WRONGS
};

static size_t make_wrong(enum wrong w, uint8_t *p, unsigned dgst, uint16_t rd, uint16_t wr)
{
	static uint8_t data[2 * LEN];
	struct nvme_term_msg t = {.hdr = {.type = NVME_PDU_C2H_TERM, .hlen = 24, .plen = le32_make(24)}, .fes = le16_make(2)};
	const uint8_t both = NVME_PDU_F_LAST | NVME_PDU_F_SUCCESS;
	size_t n;

	switch (w) {
	case ANSWER_UNKNOWN: return put_rsp(p, dgst, 0x3333, 0, 0);
	case ANSWER_TWICE: n = put_rsp(p, dgst, wr, 6, 0); return n + put_rsp(p + n, dgst, wr, 6, 0);
	case ANSWER_UNSENT: return put_rsp(p, dgst, wr, 6, 0);
	case SUCCESS_WITHOUT_DATA: return put_rsp(p, dgst, rd, 0, 0);
	case SUCCESS_BEFORE_R2T: return put_rsp(p, dgst, wr, 0, 0);
	case DATA_FOR_WRITE: return put_data(p, dgst, wr, 0, data, 512, 0);
	case DATA_GAP: return put_data(p, dgst, rd, 512, data, 512, 0);
	case DATA_BEYOND: return put_data(p, dgst, rd, 0, data, LEN + 4, 0);
	case DATA_LEN_LIES: n = put_data(p, 0, rd, 0, data, 512, 0); ((struct nvme_data_msg *)p)->len = le32_make(LEN); return n;
	case SUCCESS_NOT_LAST: return put_data(p, dgst, rd, 0, data, LEN, NVME_PDU_F_SUCCESS);
	case SUCCESS_EARLY: return put_data(p, dgst, rd, 0, data, 512, both);
	case R2T_FOR_READ: return put_r2t(p, dgst, rd, 1, 0, 512);
	case R2T_BEYOND: return put_r2t(p, dgst, wr, 1, 0, LEN + 1);
	case R2T_NOTHING: return put_r2t(p, dgst, wr, 1, 0, 0);
	case R2T_AGAIN: n = put_r2t(p, dgst, wr, 1, 0, 512); return n + put_r2t(p + n, dgst, wr, 1, 512, 512);
	case R2T_GAP: return put_r2t(p, dgst, wr, 1, 512, 512);
	case SECOND_IC: return put_icresp(p, dgst, 4096);
	case BAD_HDGST: n = put_rsp(p, dgst, wr, 6, 0); p[9] ^= 1; return n;
	case BAD_DDGST: n = put_data(p, dgst, rd, 0, data, 512, 0); p[n - 10] ^= 1; return n;
	case TERM: memcpy(p, &t, sizeof(t)); return sizeof(t);
	case OLD_CID: return put_rsp(p, dgst, (uint16_t)(wr - 0x100), 6, 0);
	default: return 0;
	}
}

static void what_must_not_be_sent(void **state)
{
	static uint8_t buf[64 << 10];

	for (int w = 0; w < WRONGS; w++) {
		unsigned dgst = w == DATA_LEN_LIES ? 0 : 3;
		struct nvme_queue *q = calloc(1, sizeof(*q));
		struct io rd, wr;
		size_t n;

		open_queue(q, dgst, 4096);
		q->capsule_data = 0;
		io_init(&rd, false, LEN);
		io_init(&wr, true, LEN);
		submit(q, &rd, NVME_OP_READ);
		submit(q, &wr, NVME_OP_WRITE);
		if (w != ANSWER_UNSENT)
			(void)!take(q, buf, sizeof(buf), 1000);
		n = make_wrong((enum wrong)w, buf, dgst, rd.slot.cid, wr.slot.cid);
		if (nvme_queue_in(q, buf, n) != -EPROTO)
			fail_msg("wrong PDU %d was taken", w);
		assert_int_equal(q->state, NVME_Q_BROKEN);
		assert_int_not_equal(strlen(q->error), 0);
		assert_int_equal(nvme_queue_in(q, buf, 1), -EPROTO);
		/* Why is told, where the target is to blame and nothing has begun to be sent. */
		if (w != ANSWER_UNSENT && w != BAD_DDGST && w != TERM) {
			n = take(q, buf, sizeof(buf), 1000);
			assert_int_equal(n, 24);
			assert_int_equal(buf[0], NVME_PDU_H2C_TERM);
		}
		nvme_queue_abandon(q);
		assert_int_equal(rd.done, 1);
		assert_int_equal(wr.done, 1);
		guards_stand(&rd);
		free(rd.mem);
		free(wr.mem);
		free(q);
	}
}

static void refused_connections(void **state)
{
	static const struct {
		unsigned want, have;
		uint32_t max;
		uint8_t at, value; /* a byte put in by force */
	} rows[] = {{1, 0, 4096, 0, 1}, {0, 2, 4096, 0, 1}, {0, 0, 4095, 0, 1}, {0, 0, 4096, 8, 1}, {0, 0, 4096, 10, 1}, {0, 0, 4096, 0, 5}};
	struct nvme_queue *q = calloc(1, sizeof(*q));
	uint8_t buf[256];

	for (size_t i = 0; i < TS_ARRAY_LEN(rows); i++) {
		nvme_queue_init(q, 0, 4, rows[i].want);
		(void)!take(q, buf, sizeof(buf), 1000);
		put_icresp(buf, rows[i].have, rows[i].max);
		buf[rows[i].at] = rows[i].value;
		if (nvme_queue_in(q, buf, 128) != -EPROTO)
			fail_msg("ICResp %zu was taken", i);
	}
	free(q);
}

/* ---- streams with wrong bytes ------------------------------------------------------------------------------------------ */

static void hostile_streams(void **state)
{
	static uint8_t buf[64 << 10], sent[64 << 10], data[LEN];
	unsigned broken = 0, whole = 0;

	for (uint64_t seed = 0; seed < 20000; seed++) {
		unsigned dgst = seed & 3;
		struct nvme_queue *q = calloc(1, sizeof(*q));
		struct io k[4];
		size_t n = 0, o = 0;
		uint64_t rnd = ts_hash_u64(seed + 1);
		int rc = 0;

		open_queue(q, dgst, 4096);
		q->capsule_data = 0;
		for (int i = 0; i < 4; i++) {
			io_init(&k[i], i & 1, LEN);
			submit(q, &k[i], i & 1 ? NVME_OP_WRITE : NVME_OP_READ);
		}
		(void)!take(q, sent, sizeof(sent), 1000);
		n += put_data(buf, dgst, k[0].slot.cid, 0, data, 1000, 0);
		n += put_r2t(buf + n, dgst, k[1].slot.cid, 1, 0, LEN);
		n += put_data(buf + n, dgst, k[0].slot.cid, 1000, data, LEN - 1000, NVME_PDU_F_LAST);
		n += put_rsp(buf + n, dgst, k[0].slot.cid, 0, 0);
		n += put_rsp(buf + n, dgst, k[3].slot.cid, 0x83, 0);
		n += put_data(buf + n, dgst, k[2].slot.cid, 0, data, LEN, NVME_PDU_F_LAST | NVME_PDU_F_SUCCESS);
		for (unsigned i = 0; i < 1 + seed % 3; i++, rnd = ts_hash_u64(rnd))
			buf[rnd % (i ? n : 200)] ^= (uint8_t)(1u << (rnd >> 32 & 7));
		while (!rc && o < n) {
			size_t step = TS_MIN(1 + (rnd = ts_hash_u64(rnd)) % 3000, n - o);

			rc = nvme_queue_in(q, buf + o, step);
			o += step;
			(void)!take(q, sent, sizeof(sent), 1000);
		}
		broken += rc != 0;
		whole += rc == 0;
		nvme_queue_abandon(q);
		for (int i = 0; i < 4; i++) {
			assert_int_equal(k[i].done, 1);
			guards_stand(&k[i]);
			free(k[i].mem);
		}
		free(q);
	}
	printf("%u streams refused, %u taken (a bit of data, or of a status)\n", broken, whole);
	assert_true(broken > 5000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crc32c_by_rfc3720), cmocka_unit_test(layouts), cmocka_unit_test(exchanges), cmocka_unit_test(placed_directly),
		cmocka_unit_test(early_answer), cmocka_unit_test(what_must_not_be_sent), cmocka_unit_test(refused_connections),
		cmocka_unit_test(hostile_streams),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
