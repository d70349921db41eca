/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the iSCSI back end.
 *
 * One device = one session at a time, made and watched by one fiber. Requests live in exactly one list:
 * waiting (not with libiscsi), running (with libiscsi), zombies (answered, but parts of their data may still be queued
 * in libiscsi). Invariants: running + zombies <= ISCSI_DEPTH; waiting <= ISCSI_QUEUE; commands go out only in state UP;
 * no request is completed while ctx may touch its task or buffers. */
#ifndef TESSERA_NSD_ISCSI_INT_H
#define TESSERA_NSD_ISCSI_INT_H

#include "nsd/nsd_int.h"

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#define ISCSI_DEPTH	   64
#define ISCSI_QUEUE	   4096
#define ISCSI_MAX_TRIES	   8 /* answers that ask for a repetition: unit attention, busy */
#define ISCSI_SETUP_NS	   (5 * TS_NS_PER_S)
#define ISCSI_BACKOFF_MIN  (50 * TS_NS_PER_MS)
#define ISCSI_BACKOFF_MAX  (1 * TS_NS_PER_S)
#define ISCSI_KEYS_BYTES   (8 + 8 * NSD_PR_MAX_KEYS)

struct iscsi_target {
	char host[256], port[8]; /* as in the URL */
	char numeric[80];	 /* host resolved once at open, with port: reconnecting never waits for a name server */
	char iqn[256], user[256], password[256];
	int lun;
};

enum iscsi_state {
	ISCSI_DOWN,	/* no session, or one being set up */
	ISCSI_UP,	/* commands flow */
	ISCSI_RECHECK,	/* session stands; registration is looked at before more is sent */
	ISCSI_FENCED,	/* for ever */
};

struct iscsi_cmd {
	struct ts_list link; /* free, running or zombies */
	struct iscsi_dev *d;
	struct nsd_req *req;
	struct scsi_task *task;
	int rc; /* zombies: to complete with */
	struct scsi_iovec iov[NSD_IOV_MAX];
};

struct iscsi_dev {
	struct nsd_dev *dev; /* NULL until open has finished */
	struct ts_exec *exec;
	struct ts_loop *loop;
	struct iscsi_target target;
	char initiator[256];
	char name[600]; /* for logs: host:port/iqn/lun */
	uint64_t isid;

	struct iscsi_context *ctx;
	struct ts_fiber *fiber; /* the session's; it alone ends a session */
	int fd;
	uint32_t fd_events;
	enum iscsi_state state;
	bool lost, recheck, closing, ended;
	bool step_done; /* connect, login, logout */
	int step_status;
	bool opened; /* first session was good: reconnect for ever */
	int open_rc;
	char error[256];
	uint64_t gen;	     /* sessions so far */
	uint64_t pr_key;     /* our registration, 0 = none */
	bool pr_reserved;    /* and we asked for the reservation, which must stand from then on */
	bool pr_lost;	     /* it vanished with a session, and the gate has not said yet that it may stand again */
	bool reinstating;    /* gate.registration_lost is at work on the session's fiber */
	bool aptpl;	     /* target keeps reservations over power loss */
	struct nsd_info info;

	struct iscsi_cmd *cmds;
	struct ts_list free, running, zombies;
	struct ts_list waiting; /* requests by link; in order of first submission */
	unsigned nwaiting;
	struct ts_timer deadline;
	struct ts_task lost_task;
	struct ts_cond wake;	/* the session fiber: lost, recheck, closing */
	struct ts_cond changed; /* everybody else: state changed */
	struct ts_list controls; /* struct iscsi_ctl: commands of fibers */
	struct ts_mutex pr_mutex;
};

/* A control command of a fiber (login probe, reservations): one answer, or the loss of the session. */
struct iscsi_answer {
	int status; /* SCSI status */
	int sense_key, ascq;
	uint8_t data[ISCSI_KEYS_BYTES];
	size_t len;
};

/* iscsi_url.c */
int nsd_iscsi_url_parse(const char *url, struct iscsi_target *t, char *errmsg, size_t errlen);
int nsd_iscsi_resolve(struct iscsi_target *t, char *errmsg, size_t errlen);

/* iscsi.c: the session */
void nsd_iscsi_lost(struct iscsi_dev *d, const char *why);
void nsd_iscsi_recheck(struct iscsi_dev *d);
void nsd_iscsi_drop(struct iscsi_dev *d); /* on the session's fiber only */
void nsd_iscsi_watch(struct iscsi_dev *d); /* sends what is queued and watches the socket as libiscsi wants */

/* iscsi_io.c: requests */
int nsd_iscsi_io_init(struct iscsi_dev *d);
void nsd_iscsi_io_free(struct iscsi_dev *d);
void nsd_iscsi_submit(struct nsd_dev *dev, struct nsd_req *r);
void nsd_iscsi_pump(struct iscsi_dev *d);
void nsd_iscsi_reap_zombies(struct iscsi_dev *d);
void nsd_iscsi_requeue_running(struct iscsi_dev *d); /* after ctx is gone */
void nsd_iscsi_fail_all(struct iscsi_dev *d, int rc);

/* iscsi_scsi.c: control commands, from fibers. -ENOTCONN: session lost, outcome unknown. */
int nsd_iscsi_ctl(struct iscsi_dev *d, struct scsi_task *task, struct iscsi_answer *a, uint64_t deadline_ns);
void nsd_iscsi_ctl_abandon(struct iscsi_dev *d); /* after ctx is gone: all fail with -ENOTCONN */
int nsd_iscsi_ready(struct iscsi_dev *d, uint64_t deadline_ns); /* TEST UNIT READY until no unit attention is left */
int nsd_iscsi_probe(struct iscsi_dev *d, uint64_t deadline_ns); /* fills info */

/* iscsi_pr.c */
int nsd_iscsi_pr(struct nsd_dev *dev, int verb, uint64_t key, uint64_t other, struct nsd_pr_state *out);
/* Are we still registered, and does the reservation stand? -TS_ERR_FENCED: no. On a new session the gate is asked first. */
int nsd_iscsi_pr_check(struct iscsi_dev *d, bool new_session);
int nsd_iscsi_meaning(const struct iscsi_answer *a); /* 0, -TS_ERR_FENCED (conflict), -EOPNOTSUPP, -EAGAIN, -EIO */
int nsd_iscsi_wait_up(struct iscsi_dev *d, uint64_t deadline);

/* iscsi_raw.c */
int nsd_iscsi_raw(struct nsd_dev *dev, enum nsd_raw what, uint64_t off, const void *sector);
int nsd_iscsi_size(struct nsd_dev *dev, uint64_t *bytes);

#endif
