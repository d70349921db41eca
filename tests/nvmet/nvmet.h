/* SPDX-License-Identifier: Apache-2.0 */
/* The tests' own NVMe/TCP target: one process, one thread, an executor with an epoll loop.
 *
 * Objects: a namespace is a file (backing.c) with its reservations (resv.c). A controller is made by Connect on an admin queue and ends
 * with the loss of any of its connections, its keep-alive time, or a reset. A connection is one queue. A command belongs to a connection,
 * but while its I/O is under way its memory outlives it: a dead controller counts such commands, and is disabled when there are none.
 *
 * Must never happen: a write executed for a host that the reservation shuts out at that moment, a preemption answered while a write of
 * its victim is under way, or a flush answered before what it covers is stable. */
#ifndef TESSERA_TESTS_NVMET_H
#define TESSERA_TESTS_NVMET_H

#include "lib/lib.h"
#include "nsd/nvme_proto.h"
#include "nsd/nvme_queue.h" /* layout of PDUs, CRC32C */

#include <stdio.h>
#include <sys/uio.h>

#define MAX_NS	   16
#define MAX_HOSTS  128
#define MAX_QUEUES 16
#define MAX_DEPTH  128
#define MAX_IO	   (1u << 20)

struct cmd;
struct ctrl;
struct conn;

struct registrant {
	uint8_t hostid[16];
	uint64_t key;
};
struct resv {
	uint32_t generation;
	enum nvme_resv_type type;
	uint8_t holder[16]; /* not for the types of all registrants */
	unsigned n;
	struct registrant reg[MAX_HOSTS];
	bool persist; /* asked for by a host */
};
struct ns {
	unsigned id;
	char path[1024];
	struct backing *backing;
	uint64_t bytes;
	unsigned shift;
	uint8_t uuid[16];
	struct resv resv;
	struct ts_list executing; /* commands at the backing */
	struct ts_list fences;	  /* preemptions that wait for writes of their victims */
};

struct options {
	const char *addr, *nqn;
	unsigned port, queues, depth;
	uint32_t capsule, max_h2c, c2h, r2t; /* bytes: data with a command; of one PDU; asked for at once */
	bool cached;			     /* files through the page cache, else past it */
	bool ptpl;			     /* registrations outlive the process, if a host wants it */
	bool no_success;		     /* a response after all data, always */
	unsigned slow_nth, slow_ms;	     /* that write is executed so much later */
	bool keep_victim, no_fence;	     /* planted: PREEMPT forgets to unregister; conflicts are not enforced */
	unsigned cqt_ms;
};
struct target {
	struct ts_exec *exec;
	struct ts_loop *loop;
	struct options opt;
	struct ns ns[MAX_NS];
	unsigned nns;
	struct ts_list conns, ctrls;
	uint16_t next_cntlid;
	uint64_t writes;
	int listen_fd;
};
extern struct target T;

struct ctrl {
	struct ts_list link;
	uint16_t cntlid;
	bool discovery;
	uint8_t hostid[16];
	char hostnqn[256];
	uint32_t cc, csts, kato_ms;
	struct ts_timer kato;
	struct conn *queue[MAX_QUEUES + 1];
	unsigned executing; /* commands with the backing, also of connections that are gone */
	bool ended;
	bool disabling;
	struct ts_list events; /* AERs that wait for ever */
	unsigned nevents;
};

struct out { /* a PDU on its way */
	struct ts_list link;
	uint8_t head[NVME_HDR_MAX + 4], tail[4];
	const uint8_t *data;
	uint32_t head_len, data_len, tail_len, sent;
	void (*done)(struct out *o);
};

enum conn_state { CONN_IC, CONN_OPEN };
struct conn {
	struct ts_list link;
	int fd;
	uint32_t events;
	enum conn_state state;
	bool closed, busy, flush_due;
	unsigned dgst;
	struct ctrl *ctrl;
	uint16_t qid, depth, sqhd;
	unsigned ncmds;
	struct cmd *cmd[MAX_DEPTH]; /* by transfer tag */
	struct ts_list out;
	struct out control; /* ICResp, C2HTermReq */
	struct ts_timer timer;
	/* in */
	uint8_t *rbuf;
	uint8_t head[NVME_HDR_MAX + 4];
	uint32_t have, need;
	enum nvme_rx rx;
	struct nvme_pdu pdu;
	struct cmd *into;
	uint32_t crc;
	uint8_t tail[4];
};

struct cmd {
	struct conn *conn; /* NULL: gone meanwhile */
	struct ctrl *ctrl;
	unsigned tag;
	struct nvme_cmd_msg sqe;
	uint8_t *buf;
	uint32_t len;	/* of buf's data */
	uint32_t moved; /* of it, in or out */
	uint32_t asked; /* by R2T */
	bool in;	/* data comes from the host */
	uint16_t status;
	uint32_t dw0, dw1;
	struct out out;
	bool sending_data, response_due;
	/* at the backing */
	struct ns *ns;
	struct ts_list link; /* ns->executing or ns->fences or ctrl->events */
	struct ts_timer slow;
	unsigned ranges;
};

/* main.c */
void buf_free(void *p, uint32_t len);
void *buf_new(uint32_t len);

/* conn.c */
void conn_new(int fd);
void conn_close(struct conn *c);
void conn_flush_soon(struct conn *c);
void conn_flush_all(void);
void cmd_answer(struct cmd *k); /* with status, dw0 and what is in buf if it is a read */
void cmd_free(struct cmd *k);
/* Data of the command: -1 and an answer already given if it is not as long as the command says. */
bool cmd_data_out(struct cmd *k, uint32_t want); /* to the host: buf is made, zeroed */

/* ctrl.c */
void ctrl_fabrics(struct cmd *k);
void ctrl_end(struct ctrl *t, const char *why);
void ctrl_drained(struct ctrl *t);
void ctrl_alive(struct ctrl *t);
struct ctrl *ctrl_find(uint16_t cntlid);

/* admin.c, io.c */
void admin_execute(struct cmd *k);
void io_execute(struct cmd *k);
struct ns *ns_find(uint32_t id);

/* resv.c */
bool resv_conflict(const struct resv *r, const uint8_t hostid[16], bool write);
void resv_execute(struct cmd *k);
void resv_io_ended(struct ns *n);
void resv_load(struct ns *n);

/* backing.c */
typedef void (*backing_done)(struct cmd *k, int rc);
int backing_open(struct ns *n);
void backing_io(struct cmd *k, uint8_t opcode, uint64_t off, uint64_t len, backing_done done);

#endif
