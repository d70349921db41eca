/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what an NVMe/TCP target sends on a queue pair: raw bytes, or PDUs with good headers and digests over fields that the input
 * chooses, so that it gets behind them. Checked beside memory: nothing is written outside of a read's buffer (each is as long as its
 * command), every command is done once, and what is sent is no more than there is. */
#include "nsd/nvme_queue.h"
#include "tests/fuzz/fuzz.h"

#define COMMANDS 6

struct io {
	struct nvme_slot slot;
	struct iovec iov[2];
	uint8_t *a, *b;
	unsigned done;
	bool used;
};
static struct io io[COMMANDS];
static struct nvme_queue q;

static void io_done(struct nvme_slot *s, int rc, uint16_t status, uint32_t result)
{
	struct io *k = ts_list_entry(s, struct io, slot);

	TS_ASSERT(k->done++ == 0 && (rc == 0 || rc == -ENOTCONN));
	/* Not before nothing of its data is to be sent any more. */
	TS_ASSERT(ts_list_empty(&s->tx));
	TS_ASSERT(rc || status || s->moved == s->len);
}

static void begin(struct ts_rd *in, struct io *k)
{
	struct nvme_cmd_msg m = {.nsid = le32_make(1)};
	uint32_t len = (1 + ts_rd_u8(in)) * 16u, cut = ts_rd_u8(in) % (len + 1);

	*k = (struct io){.a = malloc(cut ? cut : 1), .b = malloc(len - cut ? len - cut : 1), .used = true};
	memset(k->a, 1, cut);
	memset(k->b, 2, len - cut);
	k->iov[0] = (struct iovec){k->a, cut};
	k->iov[1] = (struct iovec){k->b, len - cut};
	k->slot = (struct nvme_slot){.iov = k->iov, .iovcnt = 2, .len = len, .out = ts_rd_u8(in) & 1, .done = io_done};
	m.opcode = k->slot.out ? NVME_OP_WRITE : NVME_OP_READ;
	nvme_queue_submit(&q, &k->slot, &m);
}

static void send_out(size_t most)
{
	while (most && nvme_queue_has_out(&q)) {
		struct iovec iov[3];
		int n = nvme_queue_out(&q, iov, 3);
		size_t got = 0;

		TS_ASSERT(n > 0 && n <= 3);
		for (int i = 0; i < n; i++) {
			fuzz_touch(iov[i].iov_base, iov[i].iov_len);
			got += iov[i].iov_len;
		}
		got = TS_MIN(got, most);
		nvme_queue_sent(&q, got);
		most -= got;
	}
}

static bool give(const void *p, size_t n)
{
	uint8_t *copy = fuzz_copy(p, n);
	int rc = nvme_queue_in(&q, copy, n);

	free(copy);
	return rc == 0;
}

/* A PDU that is right but for what the input says. */
static bool crafted(struct ts_rd *in)
{
	static const uint8_t types[] = {NVME_PDU_RSP, NVME_PDU_C2H_DATA, NVME_PDU_R2T, NVME_PDU_C2H_DATA};
	uint8_t type = types[ts_rd_u8(in) & 3], how = ts_rd_u8(in), buf[NVME_HDR_MAX + 4 + 4096 + 4];
	const struct io *k = &io[ts_rd_u8(in) % COMMANDS];
	uint16_t cid = k->used ? k->slot.cid : 0x7777;
	uint32_t len = type == NVME_PDU_RSP ? 0 : ts_rd_u16(in) & 0xfff, off = how & 1 ? ts_rd_u16(in) : k->slot.moved;
	size_t n = 24;
	le32 crc;

	if (type == NVME_PDU_RSP)
		memcpy(buf, &(struct nvme_cpl_pdu_msg){.hdr = {.type = type, .hlen = 24}, .cpl = {.cid = le16_make(cid),
				.status = le16_make(how & 2 ? 0x83 << 1 : 0)}}, n);
	else
		memcpy(buf, &(struct nvme_data_msg){.hdr = {.type = type, .hlen = 24, .flags = how & (NVME_PDU_F_LAST | NVME_PDU_F_SUCCESS)},
				.cid = le16_make(cid), .off = le32_make(off), .len = le32_make(len)}, n);
	n = nvme_pdu_seal(buf, q.dgst, type == NVME_PDU_C2H_DATA ? len : 0);
	if (type == NVME_PDU_C2H_DATA) {
		memset(buf + n, 7, len);
		crc = le32_make(nvme_crc32c(0, buf + n, len));
		n += len;
		if (q.dgst & NVME_DGST_DATA && len) {
			memcpy(buf + n, &crc, 4);
			n += 4;
		}
	}
	return give(buf, n);
}

/* As nvme_conn.c puts long data in place. */
static bool in_place(const uint8_t *p, size_t n)
{
	struct iovec iov[2];
	int k = nvme_queue_in_place(&q, iov, 2);
	size_t room = 0;

	for (int i = 0; i < k; i++) {
		size_t part = TS_MIN(iov[i].iov_len, n - room);

		memcpy(iov[i].iov_base, p + room, part);
		room += part;
	}
	return !room || nvme_queue_in_placed(&q, room) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct ts_rd in = fuzz_in(p, n);
	unsigned dgst = ts_rd_u8(&in) & 3;
	struct nvme_ic_msg ic = {.hdr = {.type = NVME_PDU_ICRESP, .hlen = 128, .plen = le32_make(128)}, .dgst = (uint8_t)dgst,
				 .max = le32_make(4096)};
	bool ok;

	memset(io, 0, sizeof(io));
	nvme_queue_init(&q, 1, COMMANDS, dgst);
	q.capsule_data = ts_rd_u8(&in) * 16u;
	send_out(SIZE_MAX);
	ok = ts_rd_u8(&in) == 7 || give(&ic, sizeof(ic)); /* 7: without the opening that is due */
	for (unsigned i = 0; ok && q.state == NVME_Q_READY && i < COMMANDS; i++)
		begin(&in, &io[i]);
	while (ok && in.left && !in.bad) {
		unsigned what = ts_rd_u8(&in);
		size_t len;
		const uint8_t *run;

		switch (what & 3) {
		case 0:
			ok = crafted(&in);
			break;
		case 1:
			run = fuzz_run(&in, &len);
			ok = give(run, len);
			break;
		case 2:
			run = fuzz_run(&in, &len);
			ok = in_place(run, len);
			break;
		default:
			send_out(what * 50u);
		}
	}
	TS_ASSERT(ok || (q.state == NVME_Q_BROKEN && q.error[0]));
	send_out(SIZE_MAX);
	nvme_queue_abandon(&q);
	for (unsigned i = 0; i < COMMANDS; i++) {
		TS_ASSERT(!io[i].used || io[i].done == 1);
		free(io[i].a);
		free(io[i].b);
	}
	return 0;
}

static void start(struct ts_wr *w, uint8_t dgst)
{
	ts_wr_u8(w, dgst);
	ts_wr_u8(w, 0);
	ts_wr_u8(w, 0);
	for (unsigned i = 0; i < COMMANDS; i++) {
		ts_wr_u8(w, 63);
		ts_wr_u8(w, 100);
		ts_wr_u8(w, (uint8_t)i);
	}
	ts_wr_u8(w, 0xff); /* all commands out */
}

static void pdu(struct ts_wr *w, uint8_t type, uint8_t how, uint8_t which, uint16_t len)
{
	ts_wr_u8(w, 0);
	ts_wr_u8(w, type);
	ts_wr_u8(w, how);
	ts_wr_u8(w, which);
	if (type)
		ts_wr_u16(w, len);
}

void fuzz_seeds(void)
{
	static uint8_t buf[4096], data[1024], head[64];
	struct ts_wr w;

	for (uint8_t dgst = 0; dgst < 4; dgst++) {
		w = (struct ts_wr){.p = buf, .left = sizeof(buf)};
		start(&w, dgst);
		pdu(&w, 1, NVME_PDU_F_LAST | NVME_PDU_F_SUCCESS, 0, 1024);
		pdu(&w, 1, 0, 2, 512);
		pdu(&w, 1, NVME_PDU_F_LAST, 2, 512);
		pdu(&w, 0, 0, 2, 0);
		pdu(&w, 2, 0, 1, 1024);
		ts_wr_u8(&w, 0xff);
		pdu(&w, 0, 0, 1, 0);
		pdu(&w, 0, 2, 3, 0);
		fuzz_seed(buf, w.used);
	}
	/* A header alone, its data in place. */
	w = (struct ts_wr){.p = buf, .left = sizeof(buf)};
	start(&w, 0);
	memcpy(head, &(struct nvme_data_msg){.hdr = {.type = NVME_PDU_C2H_DATA, .hlen = 24, .flags = NVME_PDU_F_LAST | NVME_PDU_F_SUCCESS},
					     .cid = le16_make(0x0105), .len = le32_make(1024)}, 24);
	(void)nvme_pdu_seal(head, 0, 1024);
	ts_wr_u8(&w, 1);
	fuzz_run_put(&w, head, 24);
	ts_wr_u8(&w, 2);
	fuzz_run_put(&w, data, sizeof(data));
	fuzz_seed(buf, w.used);
}
