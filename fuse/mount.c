/* SPDX-License-Identifier: Apache-2.0 */
/* Life of a mount: new -> mounted (INIT answered) -> gone -> freed. The mount and umount system calls run on a notifier
 * thread, because both may need answers from this very daemon.
 * Must never happen: a path look-up through one's own mount on the executor. */
#include "fuse/fuse_int.h"
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define TF_READ_AHEAD_KB 4096

struct tfuse *tfuse_new(const struct tfuse_args *a)
{
	struct tfuse *tf = ts_alloc(sizeof(*tf));
	if (!tf)
		return NULL;
	tf->exec = a->exec;
	tf->ms_flags = a->ms_flags;
	tf->local_locks = a->local_locks;
	tf->keep_names = a->names;
	tf->strict_atime = a->strict_atime;
	tf->gone = a->gone;
	tf->stopped = a->stopped;
	tf->arg = a->arg;
	tf->fd = -1;
	tf->epoch = 1;
	tf->source = strdup(a->source);
	tf->mountpoint = strdup(a->mountpoint);
	tf->rbuf = ts_alloc_aligned(4096, TF_BUF_BYTES);
	ts_map_init(&tf->nodes);
	ts_map_init(&tf->names);
	ts_cond_init(&tf->idle);
	ts_cond_init(&tf->told);
	ts_list_init(&tf->telling);
	ts_list_init(&tf->requests);
	if (!tf->source || !tf->mountpoint || !tf->rbuf || tf_notify_open(tf)) {
		tfuse_free(tf);
		return NULL;
	}
	return tf;
}

void tfuse_upcalls(struct tfuse *tf, struct fs_upcalls *out)
{
	*out = (struct fs_upcalls){
		.inval_attr = tf_inval_attr,
		.inval_data = tf_inval_data,
		.inval_names = tf_inval_names,
		.before_wait = tf_names_before_wait,
		.stopped = tf_stopped,
		.interrupted = tf_interrupted,
		.stale = tf_stale,
		.known = tf_known,
		.arg = tf,
	};
}

/* Finds the mount's device in mountinfo (no look-up through the mount), keeps it, and raises its read-ahead. */
static void read_ahead_raise(struct tfuse *tf)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char line[1024], mp[512], path[64];
	unsigned maj, min, fmaj = 0, fmin = 0;
	if (!f)
		return;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%*d %*d %u:%u %*s %511s", &maj, &min, mp) == 3 && !strcmp(mp, tf->mountpoint)) {
			fmaj = maj;
			fmin = min;
		}
	fclose(f);
	tf->dev = makedev(fmaj, fmin);
	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", fmaj, fmin);
	f = fopen(path, "we");
	if (!f) {
		ts_debug("mount %s: read-ahead stays at the kernel's default (%s)", tf->mountpoint, strerror(errno));
		return;
	}
	fprintf(f, "%u\n", TF_READ_AHEAD_KB);
	fclose(f);
}

/* The directory itself, without a symbolic link on the way: whoever may write somewhere above must not be able to send us
 * elsewhere between the look and the call. */
static int open_dir(const char *path)
{
	struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
	int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
	return fd < 0 ? -errno : fd;
}

static int job_mount(struct tf_job *j)
{
	struct tfuse *tf = j->tf;
	char opts[256], target[64];
	int dir = open_dir(tf->mountpoint);
	if (dir < 0)
		return dir;
	snprintf(target, sizeof(target), "/proc/self/fd/%d", dir);
	snprintf(opts, sizeof(opts), "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read=%u",
		 tf->fd, TF_MAX_WRITE);
	int rc = mount(tf->source, target, "fuse.tessera", tf->ms_flags, opts) ? -errno : 0;
	close(dir);
	if (rc == 0)
		read_ahead_raise(tf);
	return rc;
}

int tfuse_mount(struct tfuse *tf, struct fs *fs, char *errmsg, size_t errlen)
{
	struct fs_cred cred = {0};
	struct fs_attr root;
	tf->fs = fs;
	int rc = fs_getattr(fs, &cred, FUSE_ROOT_ID, &root);
	tf->root = root;
	if (rc == 0 && !tf_node_get(tf, FUSE_ROOT_ID, root.gen)) /* the kernel knows the root without a look-up */
		rc = -ENOMEM;
	if (rc) {
		snprintf(errmsg, errlen, "mount %s: root directory: %s", tf->mountpoint, strerror(-rc));
		return rc;
	}
	tf->fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (tf->fd < 0) {
		snprintf(errmsg, errlen, "/dev/fuse: %s; load the fuse module", strerror(errno));
		return -errno;
	}
	struct tf_job *j = tf_job_new(tf, job_mount);
	rc = j ? tf_job_run(j, "mount", 0) : -ENOMEM;
	if (rc == 0) { /* not before: an unmounted descriptor polls as broken */
		rc = ts_loop_fd_add(ts_exec_loop(tf->exec), tf->fd, EPOLLIN, tf_readable, tf);
		if (rc)
			(void)!tfuse_unmount(tf, true);
	}
	tf->polling = rc == 0;
	if (rc == 0)
		return 0;
	snprintf(errmsg, errlen, "mount %s: %s", tf->mountpoint, rc == -ELOOP ? "a symbolic link is on the way; name the directory itself" : strerror(-rc));
	close(tf->fd);
	tf->fd = -1;
	return rc;
}

/* By its name in the directory above, which this thread is in for as long as it takes: a descriptor of the mount would keep it busy. */
static int job_umount(struct tf_job *j)
{
	char *above = strdup(j->tf->mountpoint), *slash = above ? strrchr(above, '/') : NULL;
	int rc = slash && slash[1] ? 0 : -EINVAL, dir = -1;
	if (rc == 0) {
		*slash = 0;
		dir = open_dir(slash == above ? "/" : above);
		rc = dir < 0 ? dir : unshare(CLONE_FS) || fchdir(dir) ? -errno : 0;
	}
	if (rc == 0)
		rc = umount2(slash + 1, (int)j->start | UMOUNT_NOFOLLOW) ? -errno : 0;
	if (dir >= 0) {
		close(dir);
		if (chdir("/"))
			TS_PANIC("a thread cannot leave the directory above %s", j->tf->mountpoint);
	}
	free(above);
	return rc;
}

int tfuse_unmount(struct tfuse *tf, bool lazy)
{
	struct tf_job *j = tf_job_new(tf, job_umount);
	if (!j)
		return -ENOMEM;
	j->start = lazy ? MNT_DETACH : 0;
	return tf_job_run(j, "umount", 0);
}

void tfuse_drain(struct tfuse *tf)
{
	tf_faults_clear(tf);
	while (tf->in_flight || tf->droppers || tf->njobs) /* jobs that nobody waits for hold nodes, too */
		ts_cond_wait(&tf->idle, "requests of a gone mount to end", tf->in_flight, tf->droppers + tf->njobs);
	tf_retry_clear(tf);
}

void tfuse_free(struct tfuse *tf)
{
	if (!tf)
		return;
	tf->is_gone = true;
	tfuse_drain(tf);
	tf_notify_close(tf);
	if (tf->polling)
		ts_loop_fd_del(ts_exec_loop(tf->exec), tf->fd);
	if (tf->fd >= 0)
		close(tf->fd);
	tf_nodes_clear(tf);
	tf_faults_free(tf);
	ts_map_fini(&tf->nodes);
	ts_map_fini(&tf->names);
	while (tf->npool)
		ts_free(tf->pool[--tf->npool]);
	ts_free(tf->rbuf);
	free(tf->source);
	free(tf->mountpoint);
	ts_free(tf);
}

void tfuse_stats_get(const struct tfuse *tf, struct tfuse_stats *out)
{
	*out = tf->st;
	out->in_flight = tf->in_flight;
	out->proto_minor = tf->proto_minor;
	out->keeps_names = tf->have_prune;
	out->inval_enoent = atomic_load(&tf->enoent);
}

/* What we ask of the kernel, and why, one line each. */
static const struct {
	uint64_t flag;
	const char *why;
} wanted[] = {
	{FUSE_ASYNC_READ, "several reads of a file in flight"},
	{FUSE_ATOMIC_O_TRUNC, "open and truncate are one operation under one token"},
	{FUSE_EXPORT_SUPPORT, "open by handle: look-ups of . and .."},
	{FUSE_BIG_WRITES, "writes above a page"},
	{FUSE_PARALLEL_DIROPS, "look-ups in one directory do not wait for each other"},
	{FUSE_DO_READDIRPLUS, "names and attributes in one message"},
	{FUSE_READDIRPLUS_AUTO, "only where somebody stats"},
	{FUSE_MAX_PAGES, "1 MiB writes"},
	{FUSE_EXPLICIT_INVAL_DATA, "pages go when the token goes, never by a guess from mtime"},
	{FUSE_POSIX_ACL, "ACLs are checked by the kernel and kept by us"},
	{FUSE_DONT_MASK, "umask does not count where a default ACL does: only we know"},
	{FUSE_SETXATTR_EXT, "an ACL set by somebody outside of the group takes set-group-id away"},
	{FUSE_INIT_EXT, "flags beyond 32 bits"},
	{TF_DIRECT_IO_ALLOW_MMAP, "files opened with O_APPEND, hence with direct I/O, can be mapped shared"},
	{FUSE_POSIX_LOCKS, "fcntl locks count on every node"},
	{FUSE_FLOCK_LOCKS, "flock locks, too"},
	{FUSE_HANDLE_KILLPRIV_V2, "no security.capability query before every write"},
};

int tf_op_init(struct tf_req *q)
{
	struct tfuse *tf = q->tf;
	const struct fuse_init_in *in = tf_arg(q, 16);
	if (!in || in->major != FUSE_KERNEL_VERSION)
		return -EPROTO;
	uint64_t offered = in->flags, want = 0;
	if (in->flags & FUSE_INIT_EXT && tf_arg(q, offsetof(struct fuse_init_in, unused)))
		offered |= (uint64_t)in->flags2 << 32;
	for (size_t i = 0; i < TS_ARRAY_LEN(wanted); i++)
		want |= wanted[i].flag & offered;
	if (tf->local_locks)
		want &= ~(uint64_t)(FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS);
	tf->proto_minor = in->minor;
	tf->setxattr_ext = want & FUSE_SETXATTR_EXT;
	tf->have_prune = tf->keep_names && in->minor >= TF_MINOR_PRUNE;
	tf->setattr_versioned = in->minor >= TF_MINOR_SETATTR;
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = TS_MIN(in->minor, (uint32_t)FUSE_KERNEL_MINOR_VERSION),
		.max_readahead = in->max_readahead,
		.flags = (uint32_t)want,
		.flags2 = (uint32_t)(want >> 32),
		.max_background = TF_BACKGROUND,
		.congestion_threshold = TF_BACKGROUND / 4 * 3,
		.max_write = TF_MAX_WRITE,
		.time_gran = 1,
		.max_pages = TF_MAX_WRITE / 4096,
	};
	if (tf->keep_names && !tf->have_prune)
		ts_notice("mount %s: kernel protocol 7.%u is older than 7.%u: names are not kept by the kernel, each is asked for when used",
			  tf->mountpoint, in->minor, TF_MINOR_PRUNE);
	return tf_reply(q, &out, sizeof(out)) ? -TF_NOREPLY : 0;
}

int tf_op_destroy(struct tf_req *q)
{
	return tf_reply(q, NULL, 0) ? -TF_NOREPLY : 0;
}
