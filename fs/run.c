/* SPDX-License-Identifier: Apache-2.0 */
/* Job: whether this node may work on the file system: entering an operation, stopping for ever, suspension. Must never happen:
 * a node that stopped gives up its tokens or leaves the group as if it were clean: its log must be replayed by another. */
#include "fs/log_int.h"

#include <stdarg.h>
#include <stdio.h>

int fs_enter(struct fs *fs, unsigned op)
{
	while (fs->run == FS_RUN_MOUNTING || (fs->run == FS_RUN_LIVE && fs->suspended)) {
		if (fs->args.up.interrupted && fs->args.up.interrupted(fs->args.up.arg))
			return -EINTR;
		ts_cond_wait(&fs->run_cond, fs->suspended ? "suspended: no quorum or lease" : "mount", op, 0);
	}
	if (fs->run != FS_RUN_LIVE)
		return -EIO;
	if (op < TS_ARRAY_LEN(fs->stats.ops))
		fs->stats.ops[op]++;
	return 0;
}

void fs_interrupt(struct fs *fs)
{
	ts_cond_broadcast(&fs->run_cond);
	if (fs->tok)
		tok_lock_interrupt(fs->tok);
}

static void tell_stopped(void *arg)
{
	struct fs *fs = arg;

	if (fs->args.up.stopped)
		fs->args.up.stopped(fs->args.up.arg, fs->stop_why);
	ts_group_done(&fs->background, 0);
}

void fs_stop(struct fs *fs, const char *fmt, ...)
{
	va_list ap;

	if (fs->run == FS_RUN_STOPPED)
		return;
	va_start(ap, fmt);
	vsnprintf(fs->stop_why, sizeof(fs->stop_why), fmt, ap);
	va_end(ap);
	fs->run = FS_RUN_STOPPED;
	ts_err("%s: stopped on this node: %s; every operation fails until the node mounts again", fs->super.name, fs->stop_why);
	ts_cond_broadcast(&fs->run_cond);
	ts_cond_broadcast(&fs->gview_cond);
	fs_io_resume(fs);
	fs_log_wake_all(fs);
	ts_group_add(&fs->background);
	if (ts_fiber_spawn(fs->exec, "fs stopped", tell_stopped, fs))
		tell_stopped(fs);
}

bool fs_memory_wait(struct fs *fs, int rc, unsigned *tries)
{
	if (rc != -ENOMEM || *tries == FS_MEMORY_TRIES || fs->run == FS_RUN_STOPPED)
		return false;
	++*tries;
	ts_sleep_until(ts_exec_now(fs->exec) + FS_MEMORY_WAIT_NS);
	return true;
}
