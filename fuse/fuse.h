/* SPDX-License-Identifier: Apache-2.0 */
/* fuse: the kernel mount of one file system, on the kernel's FUSE protocol itself (docs/fuse.md says why not through
 * libfuse 3.14). Kernel caches are caches under tokens: fs/ tells through fs_upcalls when they must go.
 * All calls are made on the executor; those that wait, from fibers. */
#ifndef TESSERA_FUSE_FUSE_H
#define TESSERA_FUSE_FUSE_H

#include "fs/fs.h"
#include "fuse/fault.h"

struct tfuse;
struct tfuse_args {
	struct ts_exec *exec;
	const char *source;	/* shown in /proc/mounts */
	const char *mountpoint; /* absolute, an existing directory */
	unsigned long ms_flags; /* MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME */
	bool strict_atime;	/* every read reaches the daemon: files are opened past the page cache */
	bool local_locks;	/* locks of applications count on this node only; closing a file sends no message to the daemon */
	bool names;		/* the kernel may keep names, if it is young enough (6.18) */
	/* The kernel side is gone (umount): called once, on a fiber. */
	void (*gone)(void *arg);
	/* The file system stopped itself (I/O error, impossible state): this incarnation must end, so that others recover it. */
	void (*stopped)(void *arg, const char *why);
	void *arg;
};
struct tfuse *tfuse_new(const struct tfuse_args *a) TS_MUST_CHECK; /* NULL: no memory or no threads */
/* To be given to fs_mount() before tfuse_mount(). */
void tfuse_upcalls(struct tfuse *tf, struct fs_upcalls *out);
/* Mounts and serves. From a fiber. */
int tfuse_mount(struct tfuse *tf, struct fs *fs, char *errmsg, size_t errlen) TS_MUST_CHECK;
/* From a fiber: umount(2); lazy detaches at once. -EBUSY while in use. gone() follows. */
int tfuse_unmount(struct tfuse *tf, bool lazy) TS_MUST_CHECK;
/* Aborts the connection: every request in the kernel ends with an error; used when this node is out. */
void tfuse_abort(struct tfuse *tf);
/* After gone(): waits until no handler runs any more; then fs_unmount() may be called, whose upcalls still come here. */
void tfuse_drain(struct tfuse *tf);
/* After fs_unmount() (or before tfuse_mount); from a fiber; waits for handlers and threads. */
void tfuse_free(struct tfuse *tf);

struct tfuse_stats {
	uint64_t requests, op_count[64], inval_attr, inval_data, inval_names, inval_retries, epoch_bumps;
	uint64_t names;	       /* that the kernel keeps, at most */
	uint64_t names_pruned, names_expired, bounced;
	uint64_t sizes_told;   /* before the answer to a READ that met the end */
	uint64_t sizes_settled; /* before an answer with attributes */
	uint64_t inval_enoent; /* the kernel did not have the inode yet: asked again */
	uint64_t nodes, in_flight;
	uint32_t proto_minor;  /* the kernel's; 0: it has not spoken yet */
	bool keeps_names;
	struct ts_hist time[64]; /* by opcode, from its arrival to its end */
};
/* Who uses the mount: one row a process, of those that came last. */
struct tfuse_user {
	uint32_t pid, uid;
	uint64_t ops, read_bytes, write_bytes, busy_ns, last_ns;
};
#define TFUSE_USERS 128
void tfuse_each_user(const struct tfuse *tf, void (*fn)(void *arg, const struct tfuse_user *u), void *arg);
/* Requests of the kernel that are not answered yet, and what each waits for (NULL: it runs). */
struct tfuse_request {
	const char *op, *waits_for;
	uint64_t ino, a, b, since_ns, begun_ns; /* since: of the wait */
	uint32_t pid, uid;
};
void tfuse_each_request(const struct tfuse *tf, void (*fn)(void *arg, const struct tfuse_request *r), void *arg);
void tfuse_stats_get(const struct tfuse *tf, struct tfuse_stats *out);
const char *tfuse_op_name(unsigned opcode); /* NULL if unknown */

/* Fault points, for tests (fault.h). name: of the point; f->point is filled in. -ENOENT no such point, -EINVAL no such action there. */
int tfuse_fault_arm(struct tfuse *tf, const char *name, const struct tfuse_fault *f) TS_MUST_CHECK;
unsigned tfuse_fault_release(struct tfuse *tf, const char *name); /* lets go who waits there now; the point stays armed */
void tfuse_fault_clear(struct tfuse *tf);			  /* disarms all, lets everybody go */
void tfuse_fault_each(const struct tfuse *tf, void (*fn)(void *arg, const struct tfuse_fault *f), void *arg);
void tfuse_fault_name(unsigned point, char *buf, size_t n);

#endif
