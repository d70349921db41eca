/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of fuse/ share: the connection, requests, the node table, notifier jobs. */
#ifndef TESSERA_FUSE_FUSE_INT_H
#define TESSERA_FUSE_FUSE_INT_H

#include "fuse/fuse.h"
#include <linux/fuse.h>
#include <stdatomic.h>
#include <sys/uio.h>

#define TF_MAX_WRITE   (1u << 20)
#define TF_BUF_BYTES   (TF_MAX_WRITE + 8192)
#define TF_POOL_BUFS   32
#define TF_SMALL_BYTES 1024
#define TF_BACKGROUND  8192 /* READs that wait for tokens must not keep back the WRITEs that revokes wait for */
#define TF_NOREPLY     4201 /* handler: already replied, or no reply wanted */
#define TF_FOREVER_S   (365u * 86400u)
#define TF_NAME_MAX    255
#define TF_APPLY_NS    (2 * TS_NS_PER_S) /* a reply written longer ago has been applied by its caller */

/* What kernels can since; the protocol's minor number is all that they tell. */
#define TF_MINOR_PRUNE	 45 /* 6.18: names and inodes that nobody uses can be dropped without a lock; the entry epoch is older */
#define TF_MINOR_SETATTR 44 /* 6.16: a SETATTR reply is compared with what was invalidated meanwhile, as a GETATTR reply always was */

/* Of the kernel's protocol, and not in every <linux/fuse.h> that this builds with. */
#define TF_DIRECT_IO_ALLOW_MMAP (1ULL << 36) /* INIT flag, 7.39 */
#define TF_STATX		52	     /* opcode, 7.39 */
struct tf_sx_time_msg {
	int64_t tv_sec;
	uint32_t tv_nsec;
	int32_t reserved;
};
struct tf_statx_msg {
	uint32_t mask, blksize;
	uint64_t attributes;
	uint32_t nlink, uid, gid;
	uint16_t mode, spare0;
	uint64_t ino, size, blocks, attributes_mask;
	struct tf_sx_time_msg atime, btime, ctime, mtime;
	uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
	uint64_t spare2[14];
};
struct tf_statx_out_msg {
	uint64_t attr_valid;
	uint32_t attr_valid_nsec, flags;
	uint64_t spare[2];
	struct tf_statx_msg stat;
};
_Static_assert(sizeof(struct tf_statx_msg) == 256 && sizeof(struct tf_statx_out_msg) == 288, "answer to STATX");

/* The kernel's name of an inode: number and low bits of the generation, so that a number used again is another inode for it. */
#define TF_INO_BITS 48
/* fs/format.h: FS_MAX_INO = 2^48 */

struct tf_node { /* an inode the kernel may know */
	struct ts_map_node node;
	uint64_t ino;
	uint32_t gen;
	bool old;		  /* the number was used again since: found by its node id only */
	bool awaited;		  /* fs/ waits for its FORGET to free it */
	struct fs_attr *last;	  /* directories: as last told, for when it was removed and freed elsewhere */
	uint64_t nlookup;	  /* mirrored for notifier threads in `known` */
	atomic_bool known;	  /* nlookup > 0 */
	atomic_uint_least64_t replied_ns; /* when an entry reply for it last went out */
	unsigned refs;		  /* jobs and requests using the struct */
	bool attr_cached;	  /* a reply with an attribute timeout went out since the last invalidation */
	bool pages_cached;	  /* opened with page cache since the last invalidation of all data */
	uint64_t fills;		  /* counts what may have brought pages */
	struct tf_name *name;	  /* by which the kernel keeps it */
	/* as a directory: names.c, names_drop.c */
	struct tfuse *tf;
	struct ts_list names;	  /* tf_name.link */
	unsigned nnames, nnegative, rests;
	unsigned unanswered;	  /* requests that made up an answer about its names */
	unsigned parked;	  /* requests that have it locked and may wait for another node */
	bool dropping, prune_all;
	struct tf_job *expiring;
	uint64_t changed_ns;	  /* a name that was kept was removed: it is applied later; 0: long ago */
	uint64_t rest_until;	  /* no name is handed out */
	uint64_t stirred_ns;	  /* this node changed it, or gave its token back */
	uint64_t epoch;		  /* in which void names were looked for */
	struct ts_cond names_cond;
	unsigned writers;	  /* handles open for reading and writing: pages may be mapped and dirtied without a word */
	uint64_t late_writes;	  /* WRITEs of dirty mapped pages received */
	unsigned late_pending;	  /* of these: answered, not yet applied */
	int late_error;		  /* one of them failed: told at the next flush or fsync */
	struct ts_cond late_cond;
	unsigned clearing;	  /* calls done but unanswered that make the kernel clear parts of pages once they are answered */
	uint64_t cleared_ns;	  /* when the last one was answered */
	struct ts_cond clear_cond;
	struct ts_list writes;	  /* WRITEs not yet answered (tf_req.node_link) */
	struct ts_list reads;	  /* READs into the page cache not yet answered */
	uint64_t arrivals;	  /* of both, counted */
	uint64_t read_ns;	  /* when a READ was answered last */
	unsigned opens;		  /* handles */
	bool size_moved;	  /* the kernel may have another size than the file: moved elsewhere since it was seen to be the same */
	unsigned asking;	  /* threads that make the kernel ask for the size */
	uint64_t asked_size;	  /* the least that they were told to ask for */
	bool torn;		  /* pages filled meanwhile reach farther: the kernel may cut them there */
	atomic_uint_least64_t invals; /* calls to drop something of it: begun and ended, counted by their threads */
	atomic_uint_least64_t inval_ns; /* when the last one began */
	atomic_uint inval_running;
};
static inline void tf_pages_filled(struct tf_node *n)
{
	n->pages_cached = true;
	n->fills++;
}

#define TF_UNLOCKED 4
struct tf_unlocked { /* a LOOKUP of a name that the kernel may have had already is applied without the directory's lock */
	uint32_t tid;
	uint64_t ns;
};
struct tf_name { /* of which the kernel was told that it may keep it */
	struct ts_map_node node;  /* tfuse.names */
	struct ts_list link;	  /* its directory's */
	struct tf_node *dir, *child; /* child NULL: there is nothing of that name */
	uint64_t armed_ns, stamp;
	struct tf_unlocked unlocked[TF_UNLOCKED];
	uint8_t len;
	char name[];
};

struct tf_req {
	struct tfuse *tf;
	const struct fuse_in_header *in;
	uint8_t *buf;
	size_t len;
	bool big;		/* buf is a pool buffer */
	const uint8_t *arg;	/* behind the header */
	size_t arg_len;
	struct fs_cred cred;
	struct ts_list link;	/* tfuse.requests */
	struct ts_fiber *fiber; /* NULL: it has none, or has not begun */
	uint64_t begun_ns;
	bool interrupted;	/* a signal came for whoever waits for the answer */
	uint64_t nodeid;	/* the kernel's; in->nodeid is the inode's number */
	struct { /* what the request means: node ids of what the kernel knows */
		uint64_t ino;
		uint32_t gen;
	} means[2];
	struct tf_node *node;	/* READ, WRITE: set while in one of its lists */
	struct ts_list node_link;
	uint64_t first, last;	/* READ, WRITE: bytes covered */
	uint64_t invals;	/* READ: of its node, when it came */
	struct tf_node *telling[2], *parked[3]; /* counted in their unanswered and parked */
	bool met;		/* WRITE: pages of it may have been read anew since the kernel filled them */
	bool doubtful;		/* READ: its word about the end may not count */
	bool unsaid;		/* READ: the kernel has a later end and could not be made to ask */
	uint8_t small[TF_SMALL_BYTES] __attribute__((aligned(8)));
};

#define TF_RETRIES 16
struct tf_retry { /* a thread that was answered ESTALE walks its path again */
	uint32_t pid;
	uint64_t until; /* 0: free */
	struct fs_hold hold;
};

/* Names that a RENAME answered a moment ago has moved. Its caller may not have applied the answer yet, and does so to whatever
 * entries there are then, whenever they were looked up. */
#define TF_RENAMED 256
struct tf_renamed {
	uint64_t dir, hash, until;
};

#define TF_MISSED  1024
#define TF_BOUNCED 64
struct tf_bounced { /* a thread that was answered ESTALE so that its directory's lock got free */
	uint32_t pid;
	uint64_t until;
};

struct tfuse {
	struct ts_exec *exec;
	char *source, *mountpoint;
	unsigned long ms_flags;
	void (*gone)(void *arg);
	void (*stopped)(void *arg, const char *why);
	void *arg;
	struct fs *fs;
	int fd;
	dev_t dev;		/* the mount's */
	struct fs_attr root;	/* of the root directory, as told last: for our own threads (size.c) */
	bool aborted, have_prune, setattr_versioned, keep_names, polling, setxattr_ext, local_locks, strict_atime;
	atomic_bool is_gone;	/* read by notifier threads too */
	uint32_t proto_minor;	/* the kernel's */
	struct ts_map nodes;
	struct ts_map names;	/* of which the kernel was told that it may keep them */
	uint64_t name_stamp, epoch, epoch_ns;
	uint64_t missed[TF_MISSED]; /* hashes of names that were not there */
	struct tf_bounced bounced[TF_BOUNCED];
	unsigned droppers;	/* fibers that take names back */
	uint8_t *pool[TF_POOL_BUFS];
	unsigned npool;
	uint8_t *rbuf;		/* where the next request is read to */
	unsigned in_flight;
	unsigned njobs;		/* of notifier threads, not yet reported to the executor */
	struct ts_list requests; /* that are on fibers */
	struct tf_renamed renamed[TF_RENAMED]; /* a ring */
	unsigned nrenamed;	/* ever */
	unsigned late_total;	/* bound of answered, not yet applied WRITEs */
	struct tf_retry retries[TF_RETRIES];
	unsigned nretries;	/* in use */
	struct ts_cond idle;
	uint64_t drained_ns;	/* no request was waiting to be read */
	unsigned tellers;	/* threads that make the kernel ask for a size */
	struct ts_list telling; /* their jobs */
	struct ts_cond told;
	struct tf_notify *notify;
	struct tfuse_stats st;
	struct tfuse_user users[TFUSE_USERS];
	atomic_uint_least64_t enoent; /* counted by notifier threads */
	unsigned faults_armed;
	struct tf_faults *faults; /* NULL until the first is armed */
};

/* Waits if a test wants it; true: leave out what comes. */
static inline bool tf_fault(struct tfuse *tf, unsigned point, uint64_t ino)
{
	return __builtin_expect(tf->faults_armed != 0, 0) && tf_fault_hit(tf, point, ino);
}

/* Direct I/O is a property of the handle: its number tells. */
#define TF_FH_DIRECT 1ULL
static inline struct fs_file *tf_handle(uint64_t fh)
{
	return (struct fs_file *)(uintptr_t)(fh & ~TF_FH_DIRECT);
}

/* watch.c */
void tf_watch_end(struct tf_req *q); /* it is answered: counted */
/* dispatch.c */
void tf_readable(void *arg, uint32_t events);
void tf_nobody_waits(struct tfuse *tf); /* the connection is gone: requests that wait for others end */
uint8_t *tf_buf_get(struct tfuse *tf);
void tf_buf_put(struct tfuse *tf, uint8_t *b);
int tf_reply(struct tf_req *q, const void *data, size_t len);	/* 0, or -errno if the kernel did not take it */
int tf_reply_iov(struct tf_req *q, struct iovec *iov, int n);	/* iov[0] is left free for the header */
void tf_reply_err(struct tf_req *q, int err);
void tf_fault_at(struct tf_req *q, enum tf_fault_stage stage);
/* The argument struct of a request, or NULL when it is too short. */
const void *tf_arg(const struct tf_req *q, size_t size);
/* A string behind `off` argument bytes; NULL if not terminated or longer than max. *next = offset behind its NUL. */
const char *tf_str(const struct tf_req *q, size_t off, size_t max, size_t *len, size_t *next);

/* ops_*.c: 0 = replied, -errno, or -TF_NOREPLY */
typedef int (*tf_op)(struct tf_req *q);
struct tf_op_ent {
	const char *name;
	tf_op fn;
	bool inline_ok; /* never waits: run without a fiber */
};
extern const struct tf_op_ent tf_ops[64];
int tf_op_init(struct tf_req *q);
int tf_op_destroy(struct tf_req *q);
int tf_op_lookup(struct tf_req *q);
int tf_op_forget(struct tf_req *q);
int tf_op_batch_forget(struct tf_req *q);
int tf_op_interrupt(struct tf_req *q);
int tf_op_getattr(struct tf_req *q);
int tf_op_statx(struct tf_req *q);
int tf_op_setattr(struct tf_req *q);
int tf_op_readlink(struct tf_req *q);
int tf_op_symlink(struct tf_req *q);
int tf_op_mknod(struct tf_req *q);
int tf_op_mkdir(struct tf_req *q);
int tf_op_unlink(struct tf_req *q);
int tf_op_rmdir(struct tf_req *q);
int tf_op_rename(struct tf_req *q);
int tf_op_rename2(struct tf_req *q);
int tf_op_link(struct tf_req *q);
int tf_op_open(struct tf_req *q);
int tf_op_read(struct tf_req *q);
int tf_op_write(struct tf_req *q);
int tf_op_ioctl(struct tf_req *q);
int tf_op_statfs(struct tf_req *q);
int tf_op_release(struct tf_req *q);
int tf_op_fsync(struct tf_req *q);
int tf_op_setxattr(struct tf_req *q);
int tf_op_getxattr(struct tf_req *q);
int tf_op_listxattr(struct tf_req *q);
int tf_op_removexattr(struct tf_req *q);
int tf_op_flush(struct tf_req *q);
int tf_op_opendir(struct tf_req *q);
int tf_op_readdir(struct tf_req *q);
int tf_op_readdirplus(struct tf_req *q);
int tf_op_releasedir(struct tf_req *q);
int tf_op_fsyncdir(struct tf_req *q);
int tf_op_create(struct tf_req *q);
int tf_op_tmpfile(struct tf_req *q);
int tf_op_fallocate(struct tf_req *q);
int tf_op_lseek(struct tf_req *q);
int tf_op_copy_file_range(struct tf_req *q);
int tf_op_getlk(struct tf_req *q);
int tf_op_setlk(struct tf_req *q);
int tf_op_setlkw(struct tf_req *q);

void tf_attr_fill(struct fuse_attr *out, const struct fs_attr *a);
/* Fills an entry reply, counts the look-up. attrs: hand out the attribute timeout if allowed (never for new objects). name: of the
 * entry, whose timeout is handed out if allowed; NULL: never. */
struct tf_node *tf_entry_fill(struct tf_req *q, const char *name, size_t len, struct fuse_entry_out *e, const struct fs_attr *a, bool attrs);
int tf_entry_reply(struct tf_req *q, const char *name, size_t len, const struct fs_attr *a, bool attrs);
void tf_attr_timeout(struct tfuse *tf, struct tf_node *n, const struct fs_attr *a, uint64_t *valid);

bool tf_interrupted(void *arg);
bool tf_stale(void *arg, uint64_t ino, uint32_t gen);
uint64_t tf_second(struct tf_req *q, uint64_t nodeid); /* inode number of the other inode of a request */
/* ops_attr.c: the request met a removed directory that is no more: an answer as if it were still there, without names. */
int tf_removed_dir(struct tf_req *q);

/* nodes.c */
uint64_t tf_nodeid(uint64_t ino, uint32_t gen);
struct tf_node *tf_node_find(struct tfuse *tf, uint64_t ino); /* its latest generation */
struct tf_node *tf_node_by_id(struct tfuse *tf, uint64_t nodeid);
uint64_t tf_node_ino(uint64_t nodeid);
bool tf_known(void *arg, uint64_t ino, uint32_t gen);
void tf_node_saw(struct tf_node *n, const struct fs_attr *a);
struct tf_node *tf_node_get(struct tfuse *tf, uint64_t ino, uint32_t gen); /* makes it; nlookup + 1; NULL without memory */
void tf_node_forget(struct tfuse *tf, uint64_t nodeid, uint64_t n);
void tf_node_ref(struct tf_node *n);
void tf_node_unref(struct tfuse *tf, struct tf_node *n);
void tf_nodes_clear(struct tfuse *tf);

/* names.c: what follows is told before the answer goes out, with no wait behind the operation */
/* May the kernel keep this name? Then it is remembered. child NULL: that there is none. unlocked: the thread, if the answer may be applied
 * without the directory's lock. */
bool tf_name_arm(struct tf_req *q, const char *name, size_t len, const struct fs_attr *a, struct tf_node *child, uint32_t unlocked);
void tf_name_made(const struct tf_req *q);
void tf_name_removed(struct tf_req *q, const char *name, size_t len);
void tf_name_renamed(struct tf_req *q, uint64_t from, const char *name, size_t len, uint64_t to, const char *newname, size_t nlen, bool exchange);
void tf_names_unanswered(struct tf_req *q, struct tf_node *dir);
void tf_names_park(struct tf_req *q, struct tf_node *dir); /* it may wait, and has the directory locked */
void tf_names_answered(struct tf_req *q); /* it is over */
void tf_name_free(struct tfuse *tf, struct tf_name *e);
void tf_names_forget(struct tfuse *tf, struct tf_node *n); /* the kernel has no inode, hence no name of it or in it */
void tf_names_rest(struct tfuse *tf, struct tf_node *dir);

/* names_drop.c */
void tf_inval_names(void *arg, uint64_t dir, unsigned how);
int tf_names_before_wait(void *arg, uint64_t dir) TS_MUST_CHECK;
bool tf_bounced_wait(const struct tf_req *q, uint64_t ino);
void tf_bounce_over(const struct tf_req *q, int rc); /* every request, behind its handler */

/* notify.c: threads for calls that may block in the kernel */
struct tf_job {
	struct ts_list link;
	int (*fn)(struct tf_job *j); /* on a notifier thread */
	struct tfuse *tf;
	struct tf_node *node;
	uint64_t start, end;
	void *data;	    /* freed with it */
	int rc;
	struct ts_done done;
	atomic_int tid;	    /* of the thread that runs it */
	bool detached;	    /* nobody waits: freed when done */
	struct ts_list tell_link;
	bool answered;	    /* the GETATTR of its thread */
	bool tells;	    /* the kernel a size: size.c */
	bool cut;	    /* only if the kernel's is larger */
	uint64_t size;	    /* in: the file's; out: the kernel's */
	const struct fs_attr *attr; /* what its thread is answered, if not what the file has by then */
	bool once;	    /* a planted fault: ENOENT is believed */
};
int tf_notify_open(struct tfuse *tf) TS_MUST_CHECK;
void tf_notify_close(struct tfuse *tf);
struct tf_job *tf_job_new(struct tfuse *tf, int (*fn)(struct tf_job *));
void tf_job_submit(struct tf_job *j);
void tf_job_free(struct tf_job *j); /* which is not submitted, or done */
int tf_notify_write(struct tfuse *tf, int code, const void *data, size_t len, const void *more, size_t more_len); /* may block in the kernel */
/* What the kernel tells of a thread: a file of its directory in /proc, false: gone, or not ours to look at; its state as in `ps`, 0: gone. */
bool tf_proc_read(uint32_t tid, const char *what, char *buf, size_t size);
char tf_thread_state(uint32_t tid);
bool tf_job_asleep(const struct tf_job *j); /* its thread has begun and sleeps in the kernel now */
/* Submits, waits, frees; returns fn's result. */
int tf_job_run(struct tf_job *j, const char *what, uint64_t id);

/* retry.c */
void tf_retry_done(struct tf_req *q, int rc); /* every request, behind its handler */
int tf_retry_lookup(struct tf_req *q, const char *name, size_t len, struct fs_attr *a) TS_MUST_CHECK;
void tf_retry_clear(struct tfuse *tf);

/* size.c */
void tf_size_arrived(struct tf_req *q);			/* a READ came into its list */
void tf_size_at_end(void *req, const struct fs_attr *a); /* fs_at_end: it meets the end; the kernel's size is not behind that then, or unsaid */
void tf_size_filled(struct tfuse *tf, struct tf_node *n, uint64_t end); /* pages up to there are about to be the kernel's */
struct tf_job *tf_size_teller(const struct tf_req *q);	/* one of our own threads asks; NULL: somebody else */
void tf_size_answered(struct tf_job *j);		/* its GETATTR is being answered */
void tf_size_over(struct tf_job *j);			/* nobody waited for it */
/* An answer with attributes is made up: false: the kernel has, or may have, another size, was made to ask, which waited; make the answer up anew. */
struct tf_size_seen {
	unsigned tries;
	bool seen;
	uint64_t size;
};
bool tf_size_settled(struct tf_req *q, struct tf_size_seen *s, const struct fs_attr *a);
bool tf_size_moved(struct tfuse *tf, const struct fs_attr *a); /* such an answer must be settled first */

/* upcalls.c */
void tf_inval_attr(void *arg, uint64_t ino);
void tf_inval_data(void *arg, uint64_t ino, uint64_t start, uint64_t end, unsigned how);
void tf_stopped(void *arg, const char *why);
void tf_inval_later(struct tfuse *tf, uint64_t ino, uint64_t start, uint64_t end); /* after the reply, nobody waits */
void tf_inval_written(struct tf_req *q, uint64_t start, uint64_t end); /* by a WRITE that may hold a folio, before its answer */
void tf_inval_now(struct tfuse *tf, uint64_t ino, uint64_t start, uint64_t end);   /* by a request that holds no folio */

#endif
