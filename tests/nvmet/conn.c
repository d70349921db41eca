/* SPDX-License-Identifier: Apache-2.0 */
/* Job: one connection: PDUs in and out, data asked for and taken, answers. What a host sends is hostile: a wrong PDU ends the
 * connection with a C2HTermReq, and its controller with it. */
#include "tests/nvmet/nvmet.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define RBUF	     (128u << 10)
#define OUT_SEGMENTS 128

static void on_socket(void *arg, uint32_t events);

/* ---- out ------------------------------------------------------------------------------------------------------------- */

static void out_push(struct conn *c, struct out *o, const uint8_t *data, uint32_t len)
{
	unsigned dgst = c->state == CONN_OPEN && o != &c->control ? c->dgst : 0;
	le32 crc;

	o->head_len = (uint32_t)nvme_pdu_seal(o->head, dgst, len);
	o->data = data;
	o->data_len = len;
	o->tail_len = 0;
	o->sent = 0;
	if (len && dgst & NVME_DGST_DATA) {
		crc = le32_make(nvme_crc32c(0, data, len));
		memcpy(o->tail, &crc, 4);
		o->tail_len = 4;
	}
	ts_list_push_back(&c->out, &o->link);
	conn_flush_soon(c);
}

static int out_iov(const struct conn *c, struct iovec *iov, int max)
{
	int n = 0;

	ts_list_for(l, &c->out) {
		const struct out *o = ts_list_entry(l, struct out, link);
		const struct iovec part[3] = {{(void *)(uintptr_t)o->head, o->head_len}, {(void *)(uintptr_t)o->data, o->data_len},
					      {(void *)(uintptr_t)o->tail, o->tail_len}};
		size_t skip = o->sent;

		if (n + 3 > max)
			break;
		for (int i = 0; i < 3; skip -= TS_MIN(skip, part[i].iov_len), i++)
			if (part[i].iov_len > skip)
				iov[n++] = (struct iovec){(uint8_t *)part[i].iov_base + skip, part[i].iov_len - skip};
	}
	return n;
}

static void out_sent(struct conn *c, size_t n)
{
	while (n) {
		struct out *o = ts_list_entry(c->out.next, struct out, link);
		uint32_t all = o->head_len + o->data_len + o->tail_len;
		size_t k = TS_MIN(n, (size_t)(all - o->sent));

		o->sent += (uint32_t)k;
		n -= k;
		if (o->sent < all)
			return;
		ts_list_del(&o->link);
		if (o->done)
			o->done(o);
	}
}

static void conn_flush(struct conn *c)
{
	uint32_t want;

	c->flush_due = false;
	while (!c->closed && !ts_list_empty(&c->out)) {
		struct iovec iov[OUT_SEGMENTS];
		struct msghdr m = {.msg_iov = iov};
		ssize_t n;

		m.msg_iovlen = (size_t)out_iov(c, iov, OUT_SEGMENTS);
		n = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN) {
			conn_close(c);
			return;
		}
		if (n < 0)
			break;
		out_sent(c, (size_t)n);
	}
	want = ts_list_empty(&c->out) ? EPOLLIN : EPOLLIN | EPOLLOUT;
	if (!c->closed && want != c->events && ts_loop_fd_mod(T.loop, c->fd, want) == 0)
		c->events = want;
}

void conn_flush_soon(struct conn *c)
{
	c->flush_due = true; /* main.c looks before the loop sleeps */
}

void conn_flush_all(void)
{
	for (struct ts_list *l = T.conns.next; l != &T.conns;) {
		struct conn *c = ts_list_entry(l, struct conn, link);
		bool due = c->flush_due;

		if (due)
			conn_flush(c);
		l = due ? T.conns.next : l->next; /* it may have closed any of them */
	}
}

/* ---- life ------------------------------------------------------------------------------------------------------------ */

static void handshake_late(void *arg)
{
	conn_close(arg);
}

void conn_new(int fd)
{
	struct conn *c = calloc(1, sizeof(*c));
	int one = 1;

	TS_ASSERT(c);
	c->rbuf = buf_new(RBUF);
	c->fd = fd;
	c->events = EPOLLIN;
	c->need = sizeof(struct nvme_pdu_hdr_msg);
	ts_list_init(&c->out);
	ts_list_push_back(&T.conns, &c->link);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	TS_ASSERT(ts_loop_fd_add(T.loop, fd, EPOLLIN, on_socket, c) == 0);
	ts_timer_arm(T.exec, &c->timer, ts_exec_now(T.exec) + 10 * TS_NS_PER_S, handshake_late, c);
}

static void conn_free(struct conn *c)
{
	buf_free(c->rbuf, RBUF);
	free(c);
}

void conn_close(struct conn *c)
{
	struct ctrl *t = c->ctrl;

	if (c->closed)
		return;
	c->closed = true;
	ts_timer_cancel(&c->timer);
	ts_loop_fd_del(T.loop, c->fd);
	close(c->fd);
	ts_list_del(&c->link);
	for (unsigned i = 0; i < MAX_DEPTH; i++) {
		struct cmd *k = c->cmd[i];

		if (!k)
			continue;
		c->cmd[i] = NULL;
		k->conn = NULL;
		if (!k->ns) /* else the backing has it, and it ends there */
			cmd_free(k);
	}
	c->into = NULL;
	if (t) {
		t->queue[c->qid] = NULL;
		c->ctrl = NULL;
		ctrl_end(t, "connection lost");
	}
	if (!c->busy)
		conn_free(c);
}

/* ---- commands -------------------------------------------------------------------------------------------------------- */

void cmd_free(struct cmd *k)
{
	ts_timer_cancel(&k->slow);
	ts_list_del(&k->link);
	if (k->conn) {
		k->conn->cmd[k->tag] = NULL;
		k->conn->ncmds--;
	}
	buf_free(k->buf, k->len);
	free(k);
}

static void cmd_sent(struct out *o);

static void send_response(struct cmd *k)
{
	struct nvme_cpl_pdu_msg *m = (struct nvme_cpl_pdu_msg *)k->out.head;
	struct conn *c = k->conn;

	c->sqhd = (uint16_t)((c->sqhd + 1) % (c->depth + 1));
	*m = (struct nvme_cpl_pdu_msg){
		.hdr = {.type = NVME_PDU_RSP, .hlen = sizeof(*m)},
		.cpl = {.dw0 = le32_make(k->dw0), .dw1 = le32_make(k->dw1), .sqhd = le16_make(c->sqhd), .sqid = le16_make(c->qid),
			.cid = k->sqe.cid, .status = le16_make((uint16_t)(k->status << 1))}};
	k->sending_data = k->response_due = false;
	k->out.done = cmd_sent;
	out_push(c, &k->out, NULL, 0);
}

static void send_data(struct cmd *k)
{
	struct nvme_data_msg *m = (struct nvme_data_msg *)k->out.head;
	uint32_t n = TS_MIN(k->len - k->moved, T.opt.c2h);
	bool last = k->moved + n == k->len;

	*m = (struct nvme_data_msg){.hdr = {.type = NVME_PDU_C2H_DATA, .hlen = sizeof(*m)}, .cid = k->sqe.cid,
				    .off = le32_make(k->moved), .len = le32_make(n)};
	k->response_due = last && (T.opt.no_success || k->conn->qid == 0);
	if (last)
		m->hdr.flags = k->response_due ? NVME_PDU_F_LAST : NVME_PDU_F_LAST | NVME_PDU_F_SUCCESS;
	k->sending_data = true;
	k->out.done = cmd_sent;
	out_push(k->conn, &k->out, k->buf + k->moved, n);
	k->moved += n;
}

static void cmd_sent(struct out *o)
{
	struct cmd *k = ts_list_entry(o, struct cmd, out);

	if (k->sending_data && k->moved < k->len)
		send_data(k);
	else if (k->response_due)
		send_response(k);
	else
		cmd_free(k);
}

void cmd_answer(struct cmd *k)
{
	if (!k->conn) {
		cmd_free(k);
		return;
	}
	if (k->status == NVME_SC_OK && !k->in && k->len && k->buf) {
		k->moved = 0;
		send_data(k);
	} else {
		send_response(k);
	}
}

bool cmd_data_out(struct cmd *k, uint32_t want)
{
	if (k->in || k->len != want || k->sqe.sgl.type != NVME_SGL_TRANSPORT) {
		k->status = NVME_SC_SGL_LENGTH;
		cmd_answer(k);
		return false;
	}
	k->buf = buf_new(k->len);
	memset(k->buf, 0, k->len);
	return true;
}

static void execute(struct cmd *k)
{
	struct conn *c = k->conn;

	if (k->sqe.opcode == NVME_OP_FABRICS)
		ctrl_fabrics(k);
	else if (!c->ctrl || !(c->ctrl->csts & NVME_CSTS_RDY))
		k->status = NVME_SC_SEQUENCE, cmd_answer(k);
	else if (c->qid == 0)
		admin_execute(k);
	else
		io_execute(k);
}

static void asked_sent(struct out *o)
{
}

static void ask(struct cmd *k)
{
	struct nvme_data_msg *m = (struct nvme_data_msg *)k->out.head;
	uint32_t n = TS_MIN(k->len - k->moved, T.opt.r2t);

	*m = (struct nvme_data_msg){.hdr = {.type = NVME_PDU_R2T, .hlen = sizeof(*m)}, .cid = k->sqe.cid,
				    .ttag = le16_make((uint16_t)k->tag), .off = le32_make(k->moved), .len = le32_make(n)};
	k->asked = n;
	k->out.done = asked_sent;
	out_push(k->conn, &k->out, NULL, 0);
}

/* ---- in -------------------------------------------------------------------------------------------------------------- */

static int wrong(struct conn *c, enum nvme_fes fes, const char *what)
{
	struct nvme_term_msg m = {.hdr = {.type = NVME_PDU_C2H_TERM, .hlen = sizeof(m), .plen = le32_make(sizeof(m))},
				  .fes = le16_make((uint16_t)fes)};

	fprintf(stderr, "nvmet: queue %u: %s\n", c->qid, what);
	if (ts_list_empty(&c->out) || !ts_list_entry(c->out.next, struct out, link)->sent)
		(void)!send(c->fd, &m, sizeof(m), MSG_NOSIGNAL | MSG_DONTWAIT);
	shutdown(c->fd, SHUT_WR);
	return -1;
}

static void next_pdu(struct conn *c)
{
	c->rx = NVME_RX_HEAD;
	c->have = 0;
	c->need = sizeof(struct nvme_pdu_hdr_msg);
	c->into = NULL;
}

static int on_icreq(struct conn *c)
{
	const struct nvme_ic_msg *m = (const struct nvme_ic_msg *)c->head;
	struct nvme_ic_msg *r = (struct nvme_ic_msg *)c->control.head;

	if (c->state != CONN_IC)
		return wrong(c, NVME_FES_SEQUENCE, "a second ICReq");
	if (le16_get(m->pfv) || m->pda)
		return wrong(c, NVME_FES_PARAMETER, "a PDU format or alignment that is not spoken here");
	*r = (struct nvme_ic_msg){.hdr = {.type = NVME_PDU_ICRESP, .hlen = sizeof(*r)}, .dgst = m->dgst & 3,
				  .max = le32_make(T.opt.max_h2c)};
	c->dgst = m->dgst & 3;
	out_push(c, &c->control, NULL, 0);
	c->state = CONN_OPEN;
	next_pdu(c);
	return 0;
}

static struct cmd *cmd_new(struct conn *c)
{
	unsigned tag = 0;
	struct cmd *k;

	while (tag < MAX_DEPTH && c->cmd[tag])
		tag++;
	if (tag == MAX_DEPTH || c->ncmds >= c->depth)
		return NULL;
	k = calloc(1, sizeof(*k));
	TS_ASSERT(k);
	k->conn = c;
	k->ctrl = c->ctrl;
	k->tag = tag;
	ts_list_init(&k->link);
	ts_list_init(&k->out.link);
	c->cmd[tag] = k;
	c->ncmds++;
	return k;
}

/* Which way the data goes is in the lowest two bits of an opcode; of Fabrics commands only Connect has any. */
static bool comes_in(const struct nvme_cmd_msg *m)
{
	if (m->opcode == NVME_OP_FABRICS)
		return (le32_get(m->nsid) & 0xff) == NVME_FAB_CONNECT;
	return (m->opcode & 3) == 1;
}

static int on_command(struct conn *c)
{
	const struct nvme_cmd_msg *m = &((const struct nvme_cmd_pdu_msg *)c->head)->cmd;
	uint32_t len = le32_get(m->sgl.len), room = c->qid ? T.opt.capsule : NVME_CAPSULE_DATA;
	bool fabrics = m->opcode == NVME_OP_FABRICS, data = !fabrics || comes_in(m);
	struct cmd *k;

	if (!c->depth)
		c->depth = 32; /* until Connect says */
	k = cmd_new(c);
	if (!k)
		return wrong(c, NVME_FES_LIMIT, "more commands than the queue has room for");
	k->sqe = *m;
	if (c->ctrl && c->qid == 0)
		ctrl_alive(c->ctrl);
	k->len = data ? len : 0;
	k->in = comes_in(m) && k->len;
	if ((c->pdu.data != 0) != (k->in && m->sgl.type == NVME_SGL_CAPSULE) || (c->pdu.data && (c->pdu.data != k->len || k->len > TS_MAX(room, 1024u))))
		return wrong(c, NVME_FES_RANGE, "a capsule whose data is not what its command says");
	if (k->len > MAX_IO || (k->len && m->sgl.type != NVME_SGL_CAPSULE && m->sgl.type != NVME_SGL_TRANSPORT)) {
		k->in = false;
		k->len = 0;
		k->status = NVME_SC_INVALID_FIELD;
		next_pdu(c);
		cmd_answer(k);
		return 0;
	}
	if (k->in)
		k->buf = buf_new(k->len);
	next_pdu(c);
	if (c->pdu.data) {
		c->into = k;
		c->crc = 0;
		c->need = c->pdu.pad ? c->pdu.pad : c->pdu.data;
		c->rx = c->pdu.pad ? NVME_RX_PAD : NVME_RX_DATA;
	} else if (k->in) {
		ask(k);
	} else {
		execute(k);
	}
	return 0;
}

static int on_data(struct conn *c)
{
	const struct nvme_data_msg *m = (const struct nvme_data_msg *)c->head;
	unsigned tag = le16_get(m->ttag);
	struct cmd *k = tag < MAX_DEPTH ? c->cmd[tag] : NULL;

	if (!k || !k->in || !k->asked || k->sqe.cid.v != m->cid.v)
		return wrong(c, NVME_FES_SEQUENCE, "data that was not asked for");
	if (le32_get(m->len) != c->pdu.data || c->pdu.data > T.opt.max_h2c || le32_get(m->off) != k->moved || c->pdu.data > k->asked)
		return wrong(c, NVME_FES_RANGE, "data beyond what was asked for");
	if (!!(c->pdu.flags & NVME_PDU_F_LAST) != (c->pdu.data == k->asked))
		return wrong(c, NVME_FES_HEADER, "the last data is not marked so, or other is");
	c->into = k;
	c->crc = 0;
	c->have = 0;
	c->need = c->pdu.pad ? c->pdu.pad : c->pdu.data;
	c->rx = c->pdu.pad ? NVME_RX_PAD : NVME_RX_DATA;
	return 0;
}

static int head_end(struct conn *c)
{
	int fes;

	if (c->need == sizeof(struct nvme_pdu_hdr_msg)) {
		fes = nvme_pdu_parse(c->head, c->dgst, false, &c->pdu);
		if (fes)
			return wrong(c, (enum nvme_fes)fes, "a PDU header that cannot be");
		c->need = c->pdu.head;
		return 0;
	}
	if (!nvme_pdu_head_ok(c->head, &c->pdu))
		return wrong(c, NVME_FES_DIGEST, "a header digest is wrong");
	if (c->state == CONN_IC && c->pdu.type != NVME_PDU_ICREQ)
		return wrong(c, NVME_FES_SEQUENCE, "something before the ICReq");
	switch (c->pdu.type) {
	case NVME_PDU_ICREQ:
		return on_icreq(c);
	case NVME_PDU_CMD:
		return on_command(c);
	case NVME_PDU_H2C_DATA:
		return on_data(c);
	default:
		fprintf(stderr, "nvmet: queue %u: the host ended it, reason %u\n", c->qid, le16_get(((struct nvme_term_msg *)c->head)->fes));
		return -1;
	}
}

static int data_end(struct conn *c)
{
	struct cmd *k = c->into;
	le32 crc;

	memcpy(&crc, c->tail, 4);
	if (c->pdu.ddgst && le32_get(crc) != c->crc)
		k->status = NVME_SC_TRANSPORT; /* the rest of it still comes */
	if (c->pdu.type == NVME_PDU_H2C_DATA)
		k->asked -= c->pdu.data;
	next_pdu(c);
	if (k->moved < k->len) {
		if (!k->asked)
			ask(k);
	} else if (k->status) {
		cmd_answer(k);
	} else {
		execute(k);
	}
	return 0;
}

static int stage_end(struct conn *c)
{
	switch (c->rx) {
	case NVME_RX_HEAD:
		return head_end(c);
	case NVME_RX_PAD:
		c->rx = NVME_RX_DATA;
		c->have = 0;
		c->need = c->pdu.data;
		return 0;
	case NVME_RX_DATA:
		if (!c->pdu.ddgst)
			return data_end(c);
		c->rx = NVME_RX_DDGST;
		c->have = 0;
		c->need = 4;
		return 0;
	default:
		return data_end(c);
	}
}

static void took(struct conn *c, const uint8_t *p, uint32_t n)
{
	if (c->pdu.ddgst)
		c->crc = nvme_crc32c(c->crc, p, n);
	c->into->moved += n;
	c->have += n;
}

static int feed(struct conn *c, const uint8_t *p, size_t n)
{
	while (n && !c->closed) {
		uint32_t k = (uint32_t)TS_MIN(n, (size_t)(c->need - c->have));

		if (c->rx == NVME_RX_DATA) {
			memcpy(c->into->buf + c->into->moved, p, k);
			took(c, p, k);
		} else {
			if (c->rx != NVME_RX_PAD)
				memcpy((c->rx == NVME_RX_HEAD ? c->head : c->tail) + c->have, p, k);
			c->have += k;
		}
		p += k;
		n -= k;
		if (c->have == c->need && stage_end(c))
			return -1;
	}
	return 0;
}

/* Long data goes to where it belongs at once. */
static ssize_t read_some(struct conn *c)
{
	struct iovec iov[2] = {{NULL, 0}, {c->rbuf, RBUF}};
	size_t place = 0;
	ssize_t n;

	if (c->rx == NVME_RX_DATA && c->need - c->have >= 16384) {
		place = c->need - c->have;
		iov[0] = (struct iovec){c->into->buf + c->into->moved, place};
	}
	n = readv(c->fd, iov, 2);
	if (n <= 0)
		return n ? -errno : 0;
	if (place) {
		took(c, iov[0].iov_base, (uint32_t)TS_MIN(place, (size_t)n));
		if (c->have == c->need && stage_end(c))
			return -EPROTO;
	}
	return (size_t)n > place && feed(c, c->rbuf, (size_t)n - place) ? -EPROTO : n;
}

static void on_socket(void *arg, uint32_t events)
{
	struct conn *c = arg;

	c->busy = true;
	for (int i = 0; i < 8 && !c->closed; i++) {
		ssize_t n = read_some(c);

		if (n == -EINTR)
			continue;
		if (n == -EAGAIN)
			break;
		if (n <= 0)
			conn_close(c);
		else if (n < (ssize_t)RBUF)
			break;
	}
	if (!c->closed)
		conn_flush(c);
	c->busy = false;
	if (c->closed)
		conn_free(c);
}
