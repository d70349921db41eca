/* SPDX-License-Identifier: Apache-2.0 */
/* nsd: shared disks. One interface for every transport: asynchronous vectored I/O, persistent reservations, labels.
 *
 * Rules: writes to one range are ordered by their callers; a completed flush means that every write completed before
 * the flush was submitted is stable; every write is checked against the write gate (lease and quorum) at submission
 * and every resend again; a completion is proof, a time-out is doubt: a write that timed out may still land. */
#ifndef TESSERA_NSD_NSD_H
#define TESSERA_NSD_NSD_H

#include "lib/lib.h"
#include <sys/uio.h>

enum nsd_op { NSD_READ, NSD_WRITE, NSD_FLUSH, NSD_DISCARD, NSD_ZERO };

struct nsd_dev;
struct nsd_req {
	enum nsd_op op;
	uint64_t off, len;	/* bytes; multiples of the sector size; 0,0 for flush */
	const struct iovec *iov; /* stays valid, with its buffers, until done is called; buffers 4096-aligned preferred */
	int iovcnt;		/* beyond 256 segments each must be a multiple of the sector */
	uint64_t deadline_ns;	/* absolute; 0 = the device's default (now + 30 s) */
	uint64_t session_gen;	/* out: session generation it was last submitted under */
	void (*done)(struct nsd_req *r, int rc); /* on the executor, never from inside nsd_submit; rc 0 or -errno:
						    -EIO, -ETIMEDOUT, -TS_ERR_FENCED (reservation conflict or gate shut) */
	void *arg;
	bool ungated;		/* the gate is not asked: only for what decides who may write (the tiebreaker) */
	struct ts_list link;	/* private to the back end from here on */
	struct nsd_dev *dev;
	void *priv;
	uint64_t submitted_ns, due_ns; /* due: deadline_ns or the default */
	unsigned tries;
	struct ts_task task;
	int rc;
};

struct nsd_info {
	uint64_t size_bytes;
	uint32_t sector_bytes;	    /* 512 or 4096 */
	uint32_t max_io_bytes;	    /* larger requests are split by nsd */
	bool has_reservations;	    /* persistent reservations that were probed and work */
	bool has_preempt_abort;
	bool keeps_reservations;    /* over power loss, as the unit says */
	char transport[16];	    /* "iscsi", "nvme-tcp", "file", "block", "sim" */
	bool buffered;		    /* a file whose file system refuses O_DIRECT: goes through the page cache */
	char serial[64];	    /* unit identity as the target gives it, "" if none */
};

/* Asked before a write, zero, discard or resend is sent. false = do not send (fails with -TS_ERR_FENCED).
 * Reads and flushes pass. May be NULL (tools working offline). */
struct nsd_gate {
	bool (*may_write)(void *arg);
	void *arg;
	/* A new session finds our registration gone: the unit has lost its memory, or we were excluded; only the cluster can
	 * tell. On the session's fiber, while nothing else reaches the unit; nsd_pr_* work on d. 0: registered and reserved
	 * again. -TS_ERR_FENCED: this incarnation is out, for ever. Else: asked again with the next session.
	 * NULL: out. Never called when the registration vanishes within a session. */
	int (*registration_lost)(void *arg, struct nsd_dev *d);
};

struct nsd_open_args {
	struct ts_exec *exec;
	const char *url;	    /* iscsi://[user%pass@]host:port/iqn/lun, nvme-tcp://host:port/nqn?ns=1, file:///path */
	const char *initiator_name; /* iscsi, nvme-tcp (as its host's NQN); unique per node */
	uint64_t isid;		    /* fixed per (node, path) */
	uint64_t incarnation;	    /* nvme-tcp: of the node's life, part of its host id; 0 in tools */
	struct nsd_gate gate;
	bool read_only;
};

/* Opens from a fiber; waits for login. -ENOENT, -EACCES, -ETIMEDOUT, -EINVAL (bad URL; errmsg names the part). */
int nsd_open(const struct nsd_open_args *args, struct nsd_dev **out, char *errmsg, size_t errlen) TS_MUST_CHECK;
void nsd_close(struct nsd_dev *d); /* from a fiber; waits for what is in flight */
const struct nsd_info *nsd_info(const struct nsd_dev *d);
const char *nsd_url(const struct nsd_dev *d);
/* Asks the unit how large it is: nsd_info tells it from then on, if it is larger; it never shrinks. From a fiber. 0 also where nobody can be asked. */
int nsd_resize(struct nsd_dev *d) TS_MUST_CHECK;
uint64_t nsd_session_gen(const struct nsd_dev *d);
/* How often the unit has lost its memory, as far as is known: what was not flushed before may be lost with it. */
uint64_t nsd_losses(const struct nsd_dev *d);
void nsd_submit(struct nsd_dev *d, struct nsd_req *r);

/* The same from fibers, waiting. buf 4096-aligned. */
int nsd_read(struct nsd_dev *d, void *buf, size_t len, uint64_t off) TS_MUST_CHECK;
int nsd_write(struct nsd_dev *d, const void *buf, size_t len, uint64_t off) TS_MUST_CHECK;
int nsd_flush(struct nsd_dev *d) TS_MUST_CHECK;

struct nsd_stats {
	uint64_t reads, writes, flushes, read_bytes, write_bytes, errors, resends, fenced;
	uint32_t in_flight;
	struct ts_hist read_time, write_time, flush_time; /* of what ended well */
};
void nsd_stats_get(const struct nsd_dev *d, struct nsd_stats *out);

/* ---- persistent reservations (SPC-4 5.7; type named, never numbered) -------------------------------------------- */
enum nsd_pr_type { NSD_PR_NONE, NSD_PR_WRITE_EXCL_ALL_REGISTRANTS, NSD_PR_WRITE_EXCL_REGISTRANTS, NSD_PR_OTHER };
#define NSD_PR_MAX_KEYS 512
struct nsd_pr_state {
	uint32_t generation;
	unsigned nkeys;
	uint64_t keys[NSD_PR_MAX_KEYS];
	enum nsd_pr_type type;
	uint64_t holder_key; /* 0 for all-registrants types */
};
/* All from fibers. -EOPNOTSUPP where the disk has none; -TS_ERR_FENCED when our registration is gone. */
int nsd_pr_register(struct nsd_dev *d, uint64_t key) TS_MUST_CHECK;	/* replaces an older key of this nexus */
int nsd_pr_unregister(struct nsd_dev *d, uint64_t key) TS_MUST_CHECK;
int nsd_pr_reserve(struct nsd_dev *d, uint64_t key) TS_MUST_CHECK;	/* write exclusive, all registrants; fine if already so */
int nsd_pr_read(struct nsd_dev *d, struct nsd_pr_state *out) TS_MUST_CHECK;
/* Removes the victim's key (preempt and abort where it works, else preempt), then reads keys AND reservation back:
 * 0 only if the victim is gone, we are registered and the reservation still stands. -ENOENT = was not registered (also fine). */
int nsd_pr_fence(struct nsd_dev *d, uint64_t my_key, uint64_t victim_key) TS_MUST_CHECK;

/* ---- what the reservations of a disk are worth: found out once, kept in its label ---------------------------------- */
enum {
	NSD_ABLE_PROBED = 1,		/* without this bit nothing is known, and what the unit says is believed */
	NSD_ABLE_ENFORCES = 2,		/* a preempted node's write was refused, and the holder's own death left the reservation */
	NSD_ABLE_PREEMPT_ABORT = 4,
	NSD_ABLE_KEEPS = 8,
	NSD_ABLE_UNMAP_FENCED = 16,	/* so were its UNMAP, */
	NSD_ABLE_WRITE_SAME_FENCED = 32, /* WRITE SAME, */
	NSD_ABLE_FLUSH_FENCED = 64,	/* and flush. What is not fenced is never sent (but a flush, which changes nothing) */
	NSD_ABLE_ALL = 127,
};
/* From a fiber, on a disk that nobody uses. second is the same unit under another initiator name. The 4 KiB at off are written with
 * what is there, and may be lost. *able = 0: no reservations to try. */
int nsd_able_probe(struct nsd_dev *mine, uint64_t my_key, struct nsd_dev *second, uint64_t second_key, uint64_t off, uint32_t *able,
		   char *errmsg, size_t errlen) TS_MUST_CHECK;
/* Known from the label: a unit that does not enforce counts as one without reservations. 0: as it says itself. */
void nsd_able_apply(struct nsd_dev *d, uint32_t able);
const char *nsd_able_name(unsigned i, uint32_t *bit); /* the i-th bit and its name; NULL at the end */

/* ---- labels ---------------------------------------------------------------------------------------------------- */
#define NSD_LABEL_BYTES	    4096
#define NSD_LABEL_COPY2_OFF 4096   /* the second copy lies right behind the first */
#define NSD_DATA_START	    (1u << 20)
#define NSD_TIE_OFF	    (768u << 10) /* the 256 KiB before the data are the tiebreaker's (quorum/tie_int.h) */
#define NSD_TIE_MAGIC	    "TSSRTIEH"
#define NSD_TIE_WHAT	    "a Tessera tiebreaker" /* what nsd_label_read calls a disk that has nothing else */
#define NSD_LABEL_VERSION   1
struct nsd_label_disk {
	char magic[8]; /* "TSSRNSD\n" */
	le32 version;
	le32 flags;	     /* NSD_ABLE_* */
	uint8_t cluster_id[16];
	uint8_t fs_id[16];
	uint8_t disk_uuid[16];
	le16 disk_no;	     /* number within the file system */
	le16 disk_count;     /* disks of the file system when written */
	le16 failure_group;
	uint8_t usage;	     /* 0 data and metadata, 1 metadata, 2 data, 3 descriptor only */
	uint8_t reserved0;
	le64 size_bytes;
	le64 write_time_ns;
	le64 sequence;	     /* the higher valid copy wins */
	char fs_name[64];
	char nsd_name[64];
	char pool[32];
	char mount_options[128]; /* disk 0: what every mount begins with; zeros: nothing */
	uint8_t reserved[3832 - 128];
	le64 csum; /* ts_csum64_skip over the whole struct, seed 0 */
};
_Static_assert(sizeof(struct nsd_label_disk) == NSD_LABEL_BYTES, "label size");
enum nsd_label_state {
	NSD_LABEL_OK,
	NSD_LABEL_NONE,	   /* blank disk */
	NSD_LABEL_FOREIGN, /* something else is on it: what says what (partition table, LVM, xfs, another cluster) */
	NSD_LABEL_NEWER,   /* written by a newer version */
	NSD_LABEL_BROKEN,  /* our magic, bad checksum in both copies */
};
/* what: text for the user ("ext4 file system", "format version 7"). -errno only for I/O errors. */
int nsd_label_read(struct nsd_dev *d, struct nsd_label_disk *out, enum nsd_label_state *state, char *what, size_t whatlen) TS_MUST_CHECK;
int nsd_label_write(struct nsd_dev *d, const struct nsd_label_disk *l) TS_MUST_CHECK; /* both copies, flushed in between and after; fills csum */
int nsd_label_erase(struct nsd_dev *d) TS_MUST_CHECK;
/* Of a name read from a disk: terminated within room, and of letters, digits, '_', '.', '-' only (they are shown to people). */
bool nsd_name_ok(const char *s, size_t room);

/* ---- back ends of the house's own tests, and the way a new back end plugs in ------------------------------------- */
enum nsd_raw { NSD_RAW_WRITE, NSD_RAW_WRITE_SAME, NSD_RAW_UNMAP, NSD_RAW_FLUSH };
struct nsd_ops {
	void (*submit)(struct nsd_dev *d, struct nsd_req *r); /* must end in nsd_complete(), later, exactly once */
	void (*close)(struct nsd_dev *d);
	int (*pr)(struct nsd_dev *d, int verb, uint64_t key, uint64_t other, struct nsd_pr_state *out);
	/* For nsd_able_probe: 4 KiB at off, at once. 0 executed, -TS_ERR_FENCED refused. May be NULL. */
	int (*raw)(struct nsd_dev *d, enum nsd_raw what, uint64_t off, const void *data);
	int (*size)(struct nsd_dev *d, uint64_t *bytes); /* for nsd_resize; may be NULL */
};
enum nsd_pr_verb { NSD_PRV_REGISTER, NSD_PRV_UNREGISTER, NSD_PRV_RESERVE, NSD_PRV_READ, NSD_PRV_PREEMPT, NSD_PRV_PREEMPT_ABORT,
		   NSD_PRV_RELEASE };
/* Makes a device from a foreign back end (simulator, fault, record). priv is the back end's. */
struct nsd_dev *nsd_dev_new(struct ts_exec *x, const struct nsd_ops *ops, void *priv, const struct nsd_info *info,
			    const struct nsd_gate *gate, const char *url) TS_MUST_CHECK;
void *nsd_dev_priv(const struct nsd_dev *d);
struct ts_exec *nsd_dev_exec(const struct nsd_dev *d);
void nsd_complete(struct nsd_req *r, int rc); /* back end to nsd; done is deferred to the executor */

/* Fault wrapper: fails, delays or tears requests of the device below it. */
struct nsd_fault_plan {
	uint64_t fail_nth;	/* 1 = next request fails with rc */
	enum nsd_op fail_op;
	int rc;
	uint64_t delay_ns;	/* every request waits so long */
	uint64_t tear_nth_write; /* only the first half (sector-rounded) of that write is done, then -EIO */
};
struct nsd_dev *nsd_fault_new(struct nsd_dev *below, struct nsd_fault_plan *plan) TS_MUST_CHECK; /* owns below */
/* Written to without changing the disk below, which it does not own and only reads: what is written stays in memory, up to memory_bytes
 * (then -ENOSPC). below NULL: the disk is lost, only what was written here can be read. Whole sub-blocks of 4 KiB. */
struct nsd_dev *nsd_overlay_new(struct ts_exec *x, struct nsd_dev *below, uint64_t size_bytes, uint64_t memory_bytes) TS_MUST_CHECK;
/* Record wrapper: every write and flush in completion order, appended to a stream, for crash-state replay. */
typedef void (*nsd_record_fn)(void *arg, enum nsd_op op, uint64_t off, const void *data, uint64_t len);
struct nsd_dev *nsd_record_new(struct nsd_dev *below, nsd_record_fn fn, void *arg) TS_MUST_CHECK; /* owns below */

#endif
