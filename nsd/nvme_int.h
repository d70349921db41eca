/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the NVMe/TCP back end.
 *
 * One device = one association at a time (an admin queue and some I/O queues, each a TCP connection), made and watched by one fiber.
 * Requests live in exactly one list: waiting, running (with a queue), doubtful (writes that were sent on an association which is gone,
 * and which its controller may still execute). Invariants: running <= queues * depth; waiting + doubtful <= NVME_QUEUE_MAX; commands go
 * out only in state UP; doubtful goes back to waiting when the old controller is known to be dead, or doubt_until has passed. */
#ifndef TESSERA_NSD_NVME_INT_H
#define TESSERA_NSD_NVME_INT_H

#include "nsd/nsd_int.h"
#include "nsd/nvme_queue.h"

#define NVME_QUEUES_MAX	   16
#define NVME_QUEUES_USUAL  4
#define NVME_DEPTH	   32 /* of an I/O queue */
#define NVME_ADMIN_DEPTH   16
#define NVME_QUEUE_MAX	   4096
#define NVME_MAX_TRIES	   8
#define NVME_SETUP_NS	   (5 * TS_NS_PER_S)
#define NVME_CONTROL_NS	   (2 * TS_NS_PER_S) /* an answer that takes longer has been lost */
#define NVME_END_NS	   (300 * TS_NS_PER_MS)
#define NVME_CLOSING_NS	   (50 * TS_NS_PER_MS)
#define NVME_BACKOFF_MIN   (50 * TS_NS_PER_MS)
#define NVME_BACKOFF_MAX   (1 * TS_NS_PER_S)
#define NVME_KATO_MS	   2000u
#define NVME_QUIESCE_MS	   500u /* for a controller that does not say how long its commands outlive their connection */
#define NVME_RX_BYTES	   (64u << 10)
#define NVME_CONTROL_ROOM  4 /* places of the first I/O queue that requests leave free */

struct nvme_target {
	char host[256], port[8];     /* as in the URL, or as the discovery controller says */
	char nqn[NVME_NQN_MAX + 1];  /* "": to be discovered */
	uint32_t nsid;		     /* 0: by uuid, or the only one */
	bool by_uuid;
	uint8_t uuid[16];
	unsigned dgst;
	unsigned queues;
	uint8_t addr[128]; /* struct sockaddr: host resolved once at open, so that reconnecting never waits for a name server */
	unsigned addrlen;
	char where[300]; /* "host:port" for people */
};

enum nvme_state {
	NVME_DOWN,    /* no association, or one being set up */
	NVME_UP,      /* commands flow */
	NVME_RECHECK, /* it stands; the registration is looked at before more is sent */
	NVME_FENCED,  /* for ever */
};

struct nvme_dev;
struct nvme_conn {
	struct nvme_queue q;
	struct nvme_dev *d;
	int fd;
	uint32_t events;
	bool watched, connected, broken;
	bool peer_ended; /* the target closed it: it takes nothing more from it */
	int error;	 /* errno of the socket */
	uint8_t *rbuf;
};

struct nvme_cmd {
	struct nvme_slot slot;
	struct ts_list link; /* free or running */
	struct nvme_dev *d;
	struct nsd_req *req;
	struct iovec iov;
	uint8_t payload[64]; /* ranges of a deallocation */
};

struct nvme_dev {
	struct nsd_dev *dev; /* NULL until open has finished */
	struct ts_exec *exec;
	struct ts_loop *loop;
	struct nvme_target target;
	char hostnqn[NVME_NQN_MAX + 1];
	uint8_t hostid[16];
	char name[600]; /* for logs */

	struct nvme_conn *conn; /* [0] admin, then I/O queues */
	unsigned nconn, nio, turn;
	struct ts_fiber *fiber; /* the session's; it alone ends an association */
	enum nvme_state state;
	bool lost, recheck, closing, ended, opened;
	int open_rc;
	char error[256];
	uint64_t gen;

	/* what the controller says */
	uint16_t cntlid;
	uint64_t cap;
	uint32_t kato_ms, dead_ms; /* dead_ms: after so long without us it has ended all that came on its connections */
	uint32_t quiesce_ms;
	uint16_t oncs;
	uint32_t capsule_data, max_io;
	uint8_t rescap;
	struct nsd_info info;
	uint32_t nsid;

	uint64_t pr_key;
	bool pr_reserved, pr_lost, reinstating;

	struct nvme_cmd *cmds;
	struct ts_list free, running;
	struct ts_list waiting, doubtful; /* requests by link */
	unsigned nwaiting;
	uint64_t doubt_until;
	struct ts_timer deadline, doubt;
	struct ts_list controls; /* struct nvme_ctl */
	struct ts_timer alive;
	bool alive_due;
	struct ts_cond wake, changed; /* the session fiber; everybody else */
	struct ts_mutex pr_mutex;
};

/* nvme_url.c */
int nvme_url_parse(const char *url, struct nvme_target *t, char *errmsg, size_t errlen);
int nvme_resolve(struct nvme_target *t, char *errmsg, size_t errlen);
/* Both may be given one host identity only if they are the same life of the same node on the same path. */
int nvme_identity(const struct nsd_open_args *args, char nqn[NVME_NQN_MAX + 1], uint8_t hostid[16]);

/* nvme_conn.c: one connection. From the session's fiber but for flush. */
int nvme_conn_open(struct nvme_conn *c, struct nvme_dev *d, uint16_t qid, unsigned depth, uint64_t deadline);
void nvme_conn_close(struct nvme_conn *c); /* with a reset; afterwards nobody uses buffers of its commands */
void nvme_conn_flush(struct nvme_conn *c);
bool nvme_conn_peer_ended(struct nvme_conn *c); /* asks the kernel, too */

/* nvme.c: the association */
void nvme_lost(struct nvme_dev *d, const char *why);
void nvme_recheck(struct nvme_dev *d);
void nvme_set_error(struct nvme_dev *d, const char *fmt, ...) TS_PRINTF(2, 3);

/* nvme_ctl.c: commands that a fiber waits for. -ENOTCONN: the connection is gone, outcome unknown. status is 0 or NVME_SC_*. */
struct nvme_answer {
	uint16_t status;
	uint32_t result;
};
int nvme_ctl(struct nvme_conn *c, struct nvme_cmd_msg *cmd, void *data, uint32_t len, bool out, struct nvme_answer *a,
	     uint64_t deadline) TS_MUST_CHECK;
int nvme_admin(struct nvme_dev *d, uint8_t opcode, uint32_t nsid, uint32_t cdw10, uint32_t cdw11, void *data, uint32_t len,
	       struct nvme_answer *a, uint64_t deadline) TS_MUST_CHECK;
int nvme_property_get(struct nvme_dev *d, uint32_t off, bool wide, uint64_t *value, uint64_t deadline) TS_MUST_CHECK;
int nvme_property_set(struct nvme_dev *d, uint32_t off, uint32_t value, uint64_t deadline) TS_MUST_CHECK;
int nvme_connect(struct nvme_conn *c, uint64_t deadline) TS_MUST_CHECK;
/* 0, -TS_ERR_FENCED (conflict), -EOPNOTSUPP, -EAGAIN (again after a look), -EROFS, -EINVAL, -EIO */
int nvme_meaning(uint16_t status);

/* nvme_ctrl.c: brings a controller up and takes it down */
int nvme_ctrl_up(struct nvme_dev *d, uint64_t deadline) TS_MUST_CHECK;
bool nvme_ctrl_disable(struct nvme_dev *d, uint64_t deadline); /* true: it has ended every command, as it says itself */
void nvme_ctrl_shut_down(struct nvme_dev *d);
int nvme_ctrl_enable(struct nvme_dev *d, uint64_t deadline) TS_MUST_CHECK;

/* nvme_disc.c: the target's only subsystem, if it has one only */
int nvme_discover(struct nvme_dev *d, char *errmsg, size_t errlen) TS_MUST_CHECK;

/* nvme_io.c */
int nvme_io_init(struct nvme_dev *d);
void nvme_io_free(struct nvme_dev *d);
void nvme_submit(struct nsd_dev *dev, struct nsd_req *r);
void nvme_pump(struct nvme_dev *d);
bool nvme_writes_running(const struct nvme_dev *d);
void nvme_fail_all(struct nvme_dev *d, int rc);
/* All connections are closed: what was running waits again, writes at least until doubt_until. */
void nvme_requeue_running(struct nvme_dev *d, uint64_t doubt_until);
void nvme_flush(struct nvme_dev *d);

/* nvme_pr.c */
int nvme_pr(struct nsd_dev *dev, int verb, uint64_t key, uint64_t other, struct nsd_pr_state *out);
int nvme_pr_check(struct nvme_dev *d, bool new_session);
int nvme_wait_up(struct nvme_dev *d, uint64_t deadline);

/* nvme_raw.c */
int nvme_raw(struct nsd_dev *dev, enum nsd_raw what, uint64_t off, const void *data);
int nvme_size(struct nsd_dev *dev, uint64_t *bytes); /* nvme_ctrl.c */

#endif
