/* SPDX-License-Identifier: Apache-2.0 */
/* fs: the whole file system as a library. The mount, the simulator, the tests and later gateways use this and nothing
 * beside it. All calls are made from fibers of the file system's executor and may wait; between two waits a call is
 * atomic for all others. Names are bytes, not terminated, 1..255, no '/' and no NUL.
 *
 * Errors: -errno as POSIX names them; -ESTALE when the inode number's generation is another one now; -EIO after this
 * node was excluded or a disk failed; -TS_ERR_WOULD_WAIT only with FS_NOWAIT. */
#ifndef TESSERA_FS_FS_H
#define TESSERA_FS_FS_H

#include "lib/lib.h"
#include "nsd/nsd.h"
#include "net/net.h"
#include "quorum/quorum.h"
#include "tokens/tokens.h"
#include <sys/stat.h>
#include <sys/statvfs.h>

struct fs;

/* ---- making, looking, checking (offline: no tokens, no membership) ----------------------------------------------- */
struct fs_format_args {
	const char *name;	   /* 1..63 of [A-Za-z0-9_.-] */
	uint8_t cluster_id[16];
	uint32_t block_size;	   /* 0 = 1 MiB */
	uint32_t log_slots;	   /* 0 = 8 */
	uint64_t log_bytes;	   /* per slot; 0 = by size: 4 MiB .. 64 MiB */
	struct nsd_dev **disks;	   /* 1..4096, opened, foreign contents already refused by the caller */
	unsigned ndisks;
	unsigned meta_disks;	   /* so many, the first, hold logs and metadata; the others file data only. 0 = all */
	const char **pools;	   /* name of each disk's pool; NULL: all are in "system" */
	const uint32_t *able;	   /* NSD_ABLE_* of each disk, for its label; NULL: nothing is known */
	const struct ts_env *env;
	void (*progress)(void *arg, const char *step, unsigned permille);
	void *arg;
};
int fs_format(const struct fs_format_args *a, uint8_t fs_id_out[16], char *errmsg, size_t errlen) TS_MUST_CHECK;

/* ---- disks (docs/disks.md) ---- */
#define FS_DISK_URL_BYTES 576
#define FS_POOL_NAME_BYTES 32
struct fs_disk_info {
	uint8_t uuid[16];
	uint64_t size_bytes;
	uint64_t used_bytes, room_bytes, meta_bytes; /* of a mounted file system: file data and what could be; metadata */
	unsigned failure_group, usage, state;	     /* fs_disk_usage, fs_disk_state of the format: see the names */
	unsigned pool;
	char pool_name[FS_POOL_NAME_BYTES];
	char url[FS_DISK_URL_BYTES];		     /* how whoever added it reached it; "": not told */
};
const char *fs_disk_state_name(unsigned state); /* "ready", "joining", "draining", "empty", "gone": no disk has the number */
const char *fs_disk_usage_name(unsigned usage);
/* The disks of the file system that this disk belongs to, by number, as that disk says: what counts is what disk 0 says, another may be a change
 * behind and does not know the places. To be freed by ts_free. From a fiber. */
int fs_disks_list(struct nsd_dev *dev, struct fs_disk_info **out, unsigned *n) TS_MUST_CHECK;

struct fs_check_args {
	struct nsd_dev **disks; /* in disk_no order; NULL where no disk has the number */
	unsigned ndisks;
	const bool *lost;	/* NULL; or by number: its disk is a blank one in the place of one that is gone, and nothing on it speaks for anything */
	bool repair;
	uint64_t memory_bound;	/* bytes, 0 = 256 MiB */
	unsigned threads;	/* I/O fibers, 0 = 16 */
	const struct ts_env *env;
	/* One call per finding: object, what is wrong, what was or would be done. */
	void (*finding)(void *arg, const char *text, bool repaired);
	void (*progress)(void *arg, const char *step, unsigned permille);
	void *arg;
};
struct fs_check_result {
	uint64_t findings, repaired, inodes, dirs, files, blocks_used;
	bool replayed_logs;
};
/* Replays logs first (in repair mode; read-only mode replays in memory or reports), then checks everything.
 * Refuses (-EBUSY) while a slot is active unless `force_offline` says that the cluster is known to be down. */
int fs_check(const struct fs_check_args *a, bool force_offline, struct fs_check_result *out, char *errmsg, size_t errlen) TS_MUST_CHECK;

/* ---- mounting ------------------------------------------------------------------------------------------------- */
enum { FS_INVAL_LAST = 1 /* nothing is read under the old token any more: pages must not be there behind this */,
       FS_INVAL_SHARED = 2, /* the token stays shared: clean pages may stay, dirty ones and the right to make some may not */
       FS_INVAL_HURRY = 4 /* there is no quorum: what is kept may be another node's already */ };
struct fs_upcalls { /* into fuse/ (or the simulator's kernel); may be NULL members. Called on fibers; may wait. */
	void (*inval_attr)(void *arg, uint64_t ino);			       /* attributes, ACLs */
	/* Pages; dirty mapped pages come as fs_write_mapped meanwhile. how: FS_INVAL_*. */
	void (*inval_data)(void *arg, uint64_t ino, uint64_t start, uint64_t end, unsigned how);
	void (*inval_names)(void *arg, uint64_t dir_ino, unsigned how);	       /* every entry and readdir cache of this directory */
	/* The operation on this fiber is about to wait for the right to change names in this directory. An error is its result. */
	int (*before_wait)(void *arg, uint64_t dir_ino);
	void (*stopped)(void *arg, const char *why);			       /* no more I/O: the mount answers EIO from now on */
	/* Does the operation on this fiber mean another generation of this inode number? Then it gets -ESTALE. Never waits. */
	bool (*stale)(void *arg, uint64_t ino, uint32_t gen);
	/* May somebody here still come with this inode, though it has no name and is not open? It is not freed then, until
	 * fs_forgotten, which is due when the answer was yes. Never waits. */
	bool (*known)(void *arg, uint64_t ino, uint32_t gen);
	bool (*interrupted)(void *arg); /* does whoever asked for the operation on this fiber want it no more? Never waits. */
	void *arg;
};
struct fs_mount_args {
	struct ts_exec *exec;
	struct nsd_dev **disks; /* in disk_no order, NULL where no disk has the number; stay open until fs_unmount returns */
	unsigned ndisks;
	struct net *net;
	struct quorum *quorum;
	uint64_t pr_key;	/* this node's reservation key on the disks, 0 = none */
	/* Reservation key of another incarnation (for fencing it); NULL = disks have none and the lease is waited for. */
	uint64_t (*key_of)(void *arg, unsigned node, uint64_t incarnation);
	/* The fence failed on that disk (rc). Is it known in another way that this incarnation writes no more: was its machine switched off?
	 * On a fiber; may take as long as a power switch does. 0: yes; its lease is waited for all the same. NULL: nobody knows. */
	int (*fence_otherwise)(void *arg, unsigned node, uint64_t incarnation, unsigned disk, int rc);
	void *key_arg; /* of both */
	/* A disk joined: the open device of the one with this uuid, found where url says if not before; ready to be written to. May wait. It stays
	 * open until disk_close, which comes when nothing uses it any more, or until fs_unmount returns. NULL: disks never change. */
	int (*disk_open)(void *arg, unsigned no, const uint8_t uuid[16], const char *url, struct nsd_dev **out);
	void (*disk_close)(void *arg, unsigned no, struct nsd_dev *dev);
	void *disk_arg;
	struct quorum_times times;
	struct fs_upcalls up;
	bool read_only, noatime, nodiratime, strictatime;
	size_t page_pool_bytes; /* 0 = 256 MiB */
	size_t meta_pool_bytes; /* 0 = 128 MiB */
	uint32_t net_group;
	uint64_t group; /* of the cluster, for whoever has it mounted; 0: the file system's own. Another: a copy that nobody shares */
	size_t max_tokens;
};
/* Claims a log slot, recovers what crashed before (waiting for pending incarnations), joins the group.
 * *out is set before the group is joined, so that the caller can route fs_group_view() to it while this still waits;
 * it is NULL again when an error is returned. */
int fs_mount(const struct fs_mount_args *a, struct fs **out, char *errmsg, size_t errlen) TS_MUST_CHECK;
/* Clean: everything written, tokens handed over, slot left clean. -EBUSY while files are open unless force. */
int fs_unmount(struct fs *fs, bool force) TS_MUST_CHECK;
/* From the daemon: group views of this file system (after net_peer_set/drop was done for them), suspension, exclusion. */
void fs_group_view(struct fs *fs, const struct quorum_group_view *g);
void fs_suspend(struct fs *fs, bool suspended); /* lease or quorum lost: block operations, invalidate kernel caches / go on */
void fs_excluded(struct fs *fs, const char *why);
/* Operations that wait for lease, quorum or a lock, and have done nothing yet, look at upcalls.interrupted and end with -EINTR. */
void fs_interrupt(struct fs *fs);
void fs_forgotten(struct fs *fs, uint64_t ino); /* upcalls.known says no from now on */
void fs_kill(struct fs *fs); /* simulator: memory gone, nothing written (executor was killed) */

/* ---- recovery, looked at from outside (recprog.c); none of these waits but fs_slot_sum ---- */
enum fs_recovery_step { FS_REC_IDLE, FS_REC_ASK, FS_REC_LIST, FS_REC_FENCE, FS_REC_LEASE, FS_REC_SETTLE, FS_REC_SEAL, FS_REC_REPLAY,
			FS_REC_VERIFY, FS_REC_ADOPT, FS_REC_CLOSE, FS_REC_REPORT, FS_REC_STEPS };
struct fs_recovery_info {
	unsigned coordinator; /* node; only there the rest says something; 0: nobody */
	enum fs_recovery_step step;
	uint64_t since_ns, begun_ns, step_ns[FS_REC_STEPS]; /* of this attempt */
	unsigned node; /* the dead that the step is about, 0: all */
	uint64_t incarnation;
	size_t blocks, blocks_done; /* of replay and verify */
	unsigned attempts; /* since the last that ended well */
	int rc;		   /* of the last that did not */
	char error[256];
	uint64_t done; /* incarnations recovered here since the mount */
};
struct fs_recovered {
	unsigned node;
	uint64_t incarnation, begun_ns, end_ns;
	uint32_t slot;
	size_t records, blocks, intents;
};
const char *fs_recovery_step_name(enum fs_recovery_step s);
void fs_recovery_get(const struct fs *fs, struct fs_recovery_info *out);
unsigned fs_recovery_past(const struct fs *fs, struct fs_recovered *out, unsigned n); /* the newest first */
/* A sum over all of a slot's log: another one later means that somebody writes it. From a fiber. */
int fs_slot_sum(struct fs *fs, uint32_t slot, uint64_t *sum) TS_MUST_CHECK;
void fs_fault_fence(struct fs *fs, unsigned times); /* for tests: so many of the next fences fail */

/* ---- disks that come and go; from fibers, on one node at a time, the others wait their turn ---- */
struct fs_disk_add {
	struct nsd_dev *dev;	  /* open, its contents may be destroyed; disk_open will be asked for it */
	const char *url;	  /* for the other nodes; kept on disk, so without a password; "" = they must know it */
	unsigned failure_group;
	const char *pool;	  /* NULL: "system" */
	bool metadata;		  /* logs stay where they are, but new metadata may come here, and the disk can never be drained */
	uint32_t able;		  /* NSD_ABLE_* */
	/* Before each step. Not 0: end here and now, as if this node died (tests). */
	int (*step)(void *arg, const char *what);
	void *arg;
};
/* A disk that an earlier call did not finish with is taken up where that ended. *no: its number. */
int fs_disk_add(struct fs *fs, const struct fs_disk_add *a, unsigned *no, char *errmsg, size_t errlen) TS_MUST_CHECK;
int fs_disk_drain(struct fs *fs, unsigned no, bool cancel, uint32_t mib_s, char *errmsg, size_t errlen) TS_MUST_CHECK; /* begins; every node works on it */
int fs_disk_remove(struct fs *fs, unsigned no, char *errmsg, size_t errlen) TS_MUST_CHECK;	 /* one that is empty, or never joined */
struct fs_disk_grow {
	unsigned no;
	int (*step)(void *arg, const char *what); /* as of fs_disk_add */
	void *arg;
};
/* The LUN has become larger: its new part is used from now on. One that an earlier call did not finish with is finished. -EALREADY: it has not. */
int fs_disk_grow(struct fs *fs, const struct fs_disk_grow *g, char *errmsg, size_t errlen) TS_MUST_CHECK;
int fs_disk_rebalance(struct fs *fs, bool stop, uint32_t mib_s, char *errmsg, size_t errlen) TS_MUST_CHECK; /* begins */
struct fs_disks_status {
	struct fs_disk_info *disk; /* ts_free */
	unsigned ndisks;
	bool rebalancing;
	uint32_t mib_s;
	uint64_t moved_bytes, passes; /* by this node since the mount */
};
int fs_disks_status(struct fs *fs, struct fs_disks_status *out) TS_MUST_CHECK;
#define FS_POOLS_MAX 8
struct fs_pool_info {
	char name[FS_POOL_NAME_BYTES]; /* "": no pool has the number */
	unsigned disks;		       /* that take data now */
	uint64_t size_bytes, free_bytes;
};
int fs_pools_get(struct fs *fs, struct fs_pool_info out[FS_POOLS_MAX]) TS_MUST_CHECK; /* as fs_statfs, by pool; asks and waits as that */
/* Layouts (docs/disks.md): where the blocks of a file are to be; of a directory: of what will be made in it. From fibers. */
struct fs_layout {
	char pool[FS_POOL_NAME_BYTES];
	unsigned stripe; /* disks a file is spread over; 0: all of the pool */
	bool dir, elsewhere; /* elsewhere: some blocks may lie outside of the pool, see fs_layout_migrate */
	uint32_t block_size;
};
struct fs_layout_set {
	char pool[FS_POOL_NAME_BYTES]; /* "": as it is */
	int stripe;		       /* up to 255; -1: as it is */
};
int fs_layout_get(struct fs *fs, uint64_t ino, struct fs_layout *out) TS_MUST_CHECK; /* -EOPNOTSUPP: neither file nor directory */
/* -EBUSY: a file that has blocks does not change its pool so; -ENOENT: no such pool; -EOPNOTSUPP. A stripe counts for new blocks. */
int fs_layout_set(struct fs *fs, uint64_t ino, const struct fs_layout_set *s) TS_MUST_CHECK;
/* A file to another pool (NULL: to its own, what lies elsewhere). Broken off, it is half there and half here, and sound: say it again.
 * -ENOSPC: the pool is full. *moved: bytes; step (or NULL): so many by now. */
int fs_layout_migrate(struct fs *fs, uint64_t ino, const char *pool, void (*step)(void *arg, uint64_t bytes), void *arg, uint64_t *moved) TS_MUST_CHECK;
int fs_file_places(struct fs *fs, uint64_t ino, uint64_t **bytes, unsigned *ndisks) TS_MUST_CHECK; /* bytes of its data on each disk; ts_free */

uint64_t fs_group_id(const struct fs *fs);
const char *fs_name(const struct fs *fs);
struct tok_mgr *fs_tokens(struct fs *fs);

/* ---- operations ------------------------------------------------------------------------------------------------- */
struct fs_cred {
	uint32_t uid, gid;
	uint32_t pid;
	uint32_t umask;	   /* applied by the caller to mode unless default ACLs say otherwise */
	unsigned flags;
};
enum { FS_NOWAIT = 1, FS_KILL_SUID = 2 /* open: set-id bits go when O_TRUNC cuts the file */ };

struct fs_attr {
	uint64_t ino;
	uint32_t gen;
	uint32_t mode, nlink, uid, gid, project, flags; /* flags: FS_FLAG_* */
	uint64_t rdev;
	uint64_t size, blocks512;
	int64_t atime_ns, mtime_ns, ctime_ns, btime_ns;
	uint32_t blksize;
	bool cacheable;	      /* the inode token is held and no revoke has begun: attributes may be cached until inval_attr */
	/* look-up: the directory token is held (shared suffices): the entry may be cached until inval_names; it is held exclusively */
	bool entry_cacheable, entry_private;
};

struct fs_hold { /* keeps an inode that is no directory from being freed, as an open file does; all zero = empty */
	struct tok_pin pin;
	struct fs_inode *ip;
};
int fs_lookup(struct fs *fs, const struct fs_cred *c, uint64_t dir, const char *name, size_t len, struct fs_attr *out) TS_MUST_CHECK;
/* hold: NULL, or empty, and filled if something other than a directory is found. */
int fs_lookup_hold(struct fs *fs, const struct fs_cred *c, uint64_t dir, const char *name, size_t len, struct fs_attr *out,
		   struct fs_hold *hold) TS_MUST_CHECK;
void fs_hold_drop(struct fs *fs, struct fs_hold *hold); /* harmless on an empty one */
uint64_t fs_hold_ino(const struct fs_hold *hold);
int fs_getattr(struct fs *fs, const struct fs_cred *c, uint64_t ino, struct fs_attr *out) TS_MUST_CHECK;
enum { FS_SET_MODE = 1, FS_SET_UID = 2, FS_SET_GID = 4, FS_SET_SIZE = 8, FS_SET_ATIME = 16, FS_SET_MTIME = 32, FS_SET_ATIME_NOW = 64,
       FS_SET_MTIME_NOW = 128, FS_SET_CTIME = 256, FS_SET_KILL_SUID = 512, FS_SET_PROJECT = 1024, FS_SET_FLAGS = 2048 };
/* What chattr sets: not to be changed, only to be appended to, not for dump, without atime, project of what is made in it. As on disk. */
enum { FS_FLAG_IMMUTABLE = 4, FS_FLAG_APPEND = 8, FS_FLAG_NODUMP = 16, FS_FLAG_PROJINHERIT = 64, FS_FLAG_NOATIME = 256, FS_FLAGS_USER = 4 | 8 | 16 | 64 | 256 };
struct fs_setattr {
	unsigned valid;
	uint32_t mode, uid, gid, project, flags;
	uint64_t size;
	int64_t atime_ns, mtime_ns, ctime_ns;
};
int fs_setattr(struct fs *fs, const struct fs_cred *c, uint64_t ino, const struct fs_setattr *s, struct fs_attr *out) TS_MUST_CHECK;

/* mknod for every kind: mode has the type; S_IFREG create with excl: -EEXIST if there. target for symlinks. */
int fs_mknod(struct fs *fs, const struct fs_cred *c, uint64_t dir, const char *name, size_t len, uint32_t mode, uint64_t rdev,
	     const char *symlink_target, struct fs_attr *out) TS_MUST_CHECK;
int fs_link(struct fs *fs, const struct fs_cred *c, uint64_t ino, uint64_t dir, const char *name, size_t len, struct fs_attr *out) TS_MUST_CHECK;
int fs_unlink(struct fs *fs, const struct fs_cred *c, uint64_t dir, const char *name, size_t len) TS_MUST_CHECK;
int fs_rmdir(struct fs *fs, const struct fs_cred *c, uint64_t dir, const char *name, size_t len) TS_MUST_CHECK;
enum { FS_RENAME_NOREPLACE = 1, FS_RENAME_EXCHANGE = 2 };
int fs_rename(struct fs *fs, const struct fs_cred *c, uint64_t dir, const char *name, size_t len, uint64_t newdir,
	      const char *newname, size_t newlen, unsigned flags) TS_MUST_CHECK;
int fs_readlink(struct fs *fs, const struct fs_cred *c, uint64_t ino, char *buf, size_t size) TS_MUST_CHECK; /* length or -errno */

/* Directory listing from a cookie (0 = start; "." and ".." come first with cookies 1 and 2). emit returns false when full;
 * off is the cookie to continue behind that entry. attr is NULL unless want_attr and the child's token could be had at once. */
typedef bool (*fs_dirent_fn)(void *arg, const char *name, size_t len, uint64_t ino, unsigned dtype, uint64_t off, const struct fs_attr *attr);
int fs_readdir(struct fs *fs, const struct fs_cred *c, uint64_t dir, uint64_t cookie, bool want_attr, fs_dirent_fn emit, void *arg) TS_MUST_CHECK;

struct fs_file; /* an open file; holds the inode alive cluster-wide */
int fs_open(struct fs *fs, const struct fs_cred *c, uint64_t ino, int flags, struct fs_file **out) TS_MUST_CHECK; /* O_TRUNC honoured */
int fs_create(struct fs *fs, const struct fs_cred *c, uint64_t dir, const char *name, size_t len, uint32_t mode, int flags,
	      struct fs_file **out, struct fs_attr *attr) TS_MUST_CHECK; /* O_EXCL, O_TRUNC honoured */
int fs_tmpfile(struct fs *fs, const struct fs_cred *c, uint64_t dir, uint32_t mode, int flags, struct fs_file **out, struct fs_attr *attr) TS_MUST_CHECK;
void fs_file_maps(struct fs_file *f); /* its pages may be mapped and dirtied without a word, until it is released */
void fs_release(struct fs *fs, struct fs_file *f);
uint64_t fs_file_ino(const struct fs_file *f);
bool fs_file_writes(const struct fs_file *f); /* opened for writing */
/* Bytes read, 0 at the end; fewer than len also where an error lies behind them. */
ssize_t fs_read(struct fs *fs, struct fs_file *f, void *buf, size_t len, uint64_t off) TS_MUST_CHECK;
/* append: off is ignored, data goes to the true end. Returns bytes written; *off_out (may be NULL) where. Clears suid bits per kill_suid. */
ssize_t fs_write(struct fs *fs, struct fs_file *f, const void *buf, size_t len, uint64_t off, bool append, bool kill_suid, uint64_t *off_out) TS_MUST_CHECK;
/* As fs_read, for pages that somebody keeps: who gets fewer bytes than he asked for believes that the file ends there, so an error behind the first
 * of them is the result. mapped: they may be dirtied without a word (shared writable maps): under the exclusive token.
 * end->fn (or NULL) is called where the read meets the end of the file, which cannot move until it returns. It may wait a little: nobody else
 * gets the file's tokens meanwhile; it must wait for nothing that needs one. */
struct fs_at_end {
	void (*fn)(void *arg, const struct fs_attr *a);
	void *arg;
};
ssize_t fs_read_cached(struct fs *fs, struct fs_file *f, bool mapped, void *buf, size_t len, uint64_t off, const struct fs_at_end *end) TS_MUST_CHECK;
/* A page dirtied through a map comes back. It never makes the file longer: what lies behind the end by now is dropped. Goes on while
 * the token is being given back. wait false: -TS_ERR_WOULD_WAIT, nothing done, if the token is not here or operations are
 * suspended. 0 or -errno. */
int fs_write_mapped(struct fs *fs, struct fs_file *f, const void *buf, size_t len, uint64_t off, bool wait) TS_MUST_CHECK;
int fs_flush(struct fs *fs, struct fs_file *f) TS_MUST_CHECK; /* close(2): reports write-behind errors once per handle */
int fs_fsync(struct fs *fs, struct fs_file *f, bool datasync) TS_MUST_CHECK;
int fs_fsync_ino(struct fs *fs, uint64_t ino) TS_MUST_CHECK; /* fsyncdir */
int fs_sync(struct fs *fs) TS_MUST_CHECK;
enum { FS_FALLOC_KEEP_SIZE = 1, FS_FALLOC_PUNCH = 2, FS_FALLOC_ZERO = 16 }; /* Linux values */
int fs_fallocate(struct fs *fs, struct fs_file *f, int mode, uint64_t off, uint64_t len, bool kill_suid) TS_MUST_CHECK;
int64_t fs_seek(struct fs *fs, struct fs_file *f, uint64_t off, bool hole) TS_MUST_CHECK; /* SEEK_HOLE / SEEK_DATA; -ENXIO */
ssize_t fs_copy_range(struct fs *fs, struct fs_file *in, uint64_t in_off, struct fs_file *out, uint64_t out_off, size_t len,
		      bool kill_suid) TS_MUST_CHECK;
/* Locks of applications, cluster-wide (docs/locks.md). They are advice among programs, not kept on disk. */
enum fs_lock_type { FS_LOCK_NONE, FS_LOCK_READ, FS_LOCK_WRITE };
struct fs_lock {
	uint64_t start, end; /* inclusive */
	uint64_t owner;	     /* process or open file, unique on this node */
	uint32_t pid;	     /* told by get: 0 for a process of another node */
	unsigned node;	     /* told by get */
	enum fs_lock_type type;
	bool flock; /* else a record lock; the two never conflict */
};
/* -EAGAIN without wait. With it: upcalls.interrupted ends it with -EINTR (see fs_interrupt), a cycle of processes with -EDEADLK;
 * of_process (NULL: yes) is asked with upcalls.arg, on the caller's fiber, before it waits for a record lock. -ENOLCK: no room. */
int fs_lock_set(struct fs *fs, struct fs_file *f, const struct fs_lock *l, bool wait, bool (*of_process)(void *arg)) TS_MUST_CHECK;
int fs_lock_get(struct fs *fs, struct fs_file *f, struct fs_lock *l) TS_MUST_CHECK; /* who is in the way; type NONE: nobody */
int fs_lock_close(struct fs *fs, struct fs_file *f, uint64_t owner) TS_MUST_CHECK; /* close(2): its record locks on the file go.
								* fs_release drops all that were taken through the open file. */
int fs_statfs(struct fs *fs, struct statvfs *out) TS_MUST_CHECK;
enum { FS_XATTR_CREATE = 1, FS_XATTR_REPLACE = 2, FS_XATTR_KILL_SGID = 4 /* with an access ACL: its setter is not of the group */ };
int fs_setxattr(struct fs *fs, const struct fs_cred *c, uint64_t ino, const char *name, const void *value, size_t len, int flags) TS_MUST_CHECK;
ssize_t fs_getxattr(struct fs *fs, const struct fs_cred *c, uint64_t ino, const char *name, void *value, size_t size) TS_MUST_CHECK; /* size 0: length */
ssize_t fs_listxattr(struct fs *fs, const struct fs_cred *c, uint64_t ino, char *list, size_t size) TS_MUST_CHECK;
int fs_removexattr(struct fs *fs, const struct fs_cred *c, uint64_t ino, const char *name) TS_MUST_CHECK;

struct fs_stats {
	uint64_t ops[32];	 /* per operation, names by fs_op_name */
	uint64_t log_forces, log_bytes, log_frames, tx_commits, home_writes, checkpoints;
	uint64_t page_hits, page_misses, data_read_bytes, data_write_bytes, prefetch_bytes;
	uint64_t buf_hits, buf_misses, dirty_bytes, intents;
	uint64_t log_used_bytes, log_size_bytes, tail_lsn, head_lsn, stable_lsn;
	uint32_t slot;
	struct ts_hist force_time;
};
void fs_stats_get(struct fs *fs, struct fs_stats *out);
const char *fs_op_name(unsigned op);

#endif
