/* SPDX-License-Identifier: Apache-2.0 */
/* One queue pair of NVMe/TCP without a socket: bytes go in, bytes come out, commands are answered. Whoever owns it moves the bytes
 * (nvme_conn.c, tests, the fuzz target). Bytes from the target are hostile: a wrong one ends the queue (error, fes), never a process.
 *
 *	IC (our ICReq is to be sent, its answer awaited) -> READY -> BROKEN (for ever)
 *
 * Invariants: a slot is with the queue from nvme_queue_submit() until its done() is called, once; busy <= depth; done() comes only when
 * nothing of the slot's data is left to be sent; a read's bytes land at [0, len) of its segments, in order, and nowhere else. */
#ifndef TESSERA_NSD_NVME_QUEUE_H
#define TESSERA_NSD_NVME_QUEUE_H

#include "nsd/nvme_proto.h"
#include <sys/uio.h>

#define NVME_DEPTH_MAX	      128
#define NVME_CAPSULE_DATA     8192 /* what every target takes with a command on the admin queue, and with Connect */
#define NVME_TRANSFER_MAX     (1u << 20)
#define NVME_ERROR_TEXT_BYTES 160

/* ---- PDUs (nvme_pdu.c) -------------------------------------------------------------------------------------------- */

struct nvme_pdu { /* how a PDU that begins with these 8 bytes is laid out */
	uint8_t type, flags;
	uint8_t hlen;
	bool hdgst, ddgst;
	uint32_t head; /* header and its digest */
	uint32_t pad;  /* between them and the data */
	uint32_t data;
};
/* 0, or the enum nvme_fes of what is wrong. dgst: what was agreed on; to_host: which types are expected. */
int nvme_pdu_parse(const void *hdr8, unsigned dgst, bool to_host, struct nvme_pdu *out) TS_MUST_CHECK;
/* CRC32C. Begin with 0; parts may be joined. */
uint32_t nvme_crc32c(uint32_t crc, const void *p, size_t n);
/* Puts flags and digest behind a header of hlen bytes that says how long its PDU is without digests; returns its length then. */
size_t nvme_pdu_seal(void *hdr, unsigned dgst, uint32_t data_len);
bool nvme_pdu_head_ok(const void *hdr, const struct nvme_pdu *p);

/* ---- queues ------------------------------------------------------------------------------------------------------- */

struct nvme_slot {
	const struct iovec *iov; /* stays valid, with its buffers, until done */
	int iovcnt;
	uint32_t len;
	bool out; /* to the target */
	/* rc: 0 answered with status and result; -ENOTCONN: given up. status without DNR and more. */
	void (*done)(struct nvme_slot *s, int rc, uint16_t status, uint32_t result);
	/* the queue's own from here on */
	struct ts_list tx; /* in the queue's list while something is to be sent */
	uint16_t cid;
	uint16_t ttag;
	uint32_t moved;	   /* bytes of data that have come, or were handed to the way out */
	uint32_t r2t_left; /* asked for and not yet made into PDUs */
	uint8_t head[NVME_HDR_MAX];
	uint32_t head_len, data_off, data_len, sent;
	uint8_t tail[4];
	uint32_t tail_len;
	bool capsule; /* what is being sent is the command itself */
	bool answered;
	uint16_t status;
	uint32_t result;
};

enum nvme_queue_state { NVME_Q_IC, NVME_Q_READY, NVME_Q_BROKEN };
enum nvme_rx { NVME_RX_HEAD, NVME_RX_PAD, NVME_RX_DATA, NVME_RX_DDGST };

struct nvme_queue {
	enum nvme_queue_state state;
	uint16_t qid;
	unsigned depth, busy;
	unsigned dgst;	    /* wanted, and then agreed on */
	uint32_t capsule_data; /* bytes of data that may go with a command */
	uint32_t max_h2c;
	struct nvme_slot *slot[NVME_DEPTH_MAX];
	uint8_t life[NVME_DEPTH_MAX]; /* of the slot's place: the upper byte of its command ids */
	uint8_t unused[NVME_DEPTH_MAX];
	struct ts_list tx;
	uint8_t raw[NVME_HDR_MAX];
	uint32_t raw_len, raw_sent;

	enum nvme_rx rx;
	uint8_t head[NVME_HDR_MAX + 4];
	uint32_t have, need; /* of the header, or of what rx says */
	struct nvme_pdu pdu;
	struct nvme_slot *into;
	uint32_t crc;
	uint8_t tail[4];
	int fes; /* BROKEN: what we would tell the target; NONE if it ended it */
	char error[NVME_ERROR_TEXT_BYTES];
};

/* dgst: NVME_DGST_*, all of them needed: a target that refuses one breaks the queue. depth <= NVME_DEPTH_MAX. */
void nvme_queue_init(struct nvme_queue *q, uint16_t qid, unsigned depth, unsigned dgst);
static inline bool nvme_queue_room(const struct nvme_queue *q)
{
	return q->state == NVME_Q_READY && q->busy < q->depth;
}
/* With room only. Fills id and data pointer of the command. */
void nvme_queue_submit(struct nvme_queue *q, struct nvme_slot *s, struct nvme_cmd_msg *cmd);

/* What is to be sent: at most max segments; returns how many. They are good until the next call into the queue. */
int nvme_queue_out(struct nvme_queue *q, struct iovec *iov, int max);
void nvme_queue_sent(struct nvme_queue *q, size_t n);
static inline bool nvme_queue_has_out(const struct nvme_queue *q)
{
	return q->raw_sent < q->raw_len || (q->state == NVME_Q_READY && !ts_list_empty(&q->tx));
}
/* What came. -EPROTO: broken. */
int nvme_queue_in(struct nvme_queue *q, const void *p, size_t n) TS_MUST_CHECK;
/* Where the next bytes belong, if they are data; 0: not now. At most max segments. Then how many of them came. */
int nvme_queue_in_place(struct nvme_queue *q, struct iovec *iov, int max);
int nvme_queue_in_placed(struct nvme_queue *q, size_t n) TS_MUST_CHECK;
/* Breaks the queue; slots stay until nvme_queue_abandon(). */
void nvme_queue_break(struct nvme_queue *q, int fes, const char *fmt, ...) TS_PRINTF(3, 4);
/* The socket is gone: every slot is done with -ENOTCONN. */
void nvme_queue_abandon(struct nvme_queue *q);

#endif
