/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the end of every call in a mount whose daemon goes, with the mount left where it is: what lies below
 * it must not be taken for the file system. Must never happen: a daemon that is out of the cluster and cannot
 * end, for one of its threads sleeps in an invalidation, on a page of a call that waits for the daemon. */
#include "fuse/fuse_int.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define FORCE_NS (2 * TS_NS_PER_S)

/* Neither the open nor the look at the device asks the mount; being open, it is busy and stays. */
static void *force(void *arg)
{
	const struct tfuse *tf = arg;
	struct statx sx;
	int fd = open(tf->mountpoint, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return NULL;
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &sx) == 0 &&
	    makedev(sx.stx_dev_major, sx.stx_dev_minor) == tf->dev)
		(void)!umount2(tf->mountpoint, MNT_FORCE); /* busy, but aborted */
	close(fd);
	return NULL;
}

/* On a thread of its own: the way to the mount point may lead through another mount of this daemon. */
static void abort_by_force(struct tfuse *tf)
{
	struct timespec until;
	pthread_t t;

	if (pthread_create(&t, NULL, force, tf))
		return;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += FORCE_NS / TS_NS_PER_S;
	if (pthread_clockjoin_np(t, NULL, CLOCK_MONOTONIC, &until)) {
		ts_warn("mount %s: not aborted within 2 s: calls in it may hang until `umount -f`",
			tf->mountpoint);
		pthread_detach(t);
	}
}

void tfuse_abort(struct tfuse *tf)
{
	if (tf->fd < 0 || tf->aborted)
		return;
	tf->aborted = true;
	if (tf->polling)
		ts_loop_fd_del(ts_exec_loop(tf->exec), tf->fd);
	tf->polling = false;
	tf->is_gone = true;
	close(tf->fd); /* the last reference, and the kernel aborts the connection; not while a thread is in a
			  write to it */
	tf->fd = -1;
	abort_by_force(tf);
	tf_nobody_waits(tf);
}
