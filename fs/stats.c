/* SPDX-License-Identifier: Apache-2.0 */
/* Job: numbers for metrics and diag, and the names of operations. Must never happen: a number read from a log that is gone. */
#include "fs/buf_int.h"
#include "fs/data_int.h"
#include "fs/log_int.h"

void fs_stats_get(struct fs *fs, struct fs_stats *out)
{
	const struct fs_logstate *g = fs->log;

	*out = fs->stats;
	out->slot = fs->slot;
	out->dirty_bytes = (fs->bufs ? fs->bufs->ndirty * FS_SUB : 0) + (fs->datas ? fs->datas->ndirty * DATA_PAGE : 0);
	if (!g)
		return;
	out->intents = g->nintents;
	out->log_size_bytes = g->ring;
	out->tail_lsn = g->tail;
	out->head_lsn = g->last_lsn;
	out->stable_lsn = g->stable;
	out->log_used_bytes = TS_MAX(g->last_lsn, g->next_lsn) - g->tail;
}

const char *fs_op_name(unsigned op)
{
	static const char *const names[FS_OPS] = {
		[FS_OP_LOOKUP] = "lookup",	   [FS_OP_GETATTR] = "getattr",	    [FS_OP_SETATTR] = "setattr",
		[FS_OP_MKNOD] = "mknod",	   [FS_OP_MKDIR] = "mkdir",	    [FS_OP_SYMLINK] = "symlink",
		[FS_OP_LINK] = "link",		   [FS_OP_UNLINK] = "unlink",	    [FS_OP_RMDIR] = "rmdir",
		[FS_OP_RENAME] = "rename",	   [FS_OP_READLINK] = "readlink",   [FS_OP_READDIR] = "readdir",
		[FS_OP_OPEN] = "open",		   [FS_OP_CREATE] = "create",	    [FS_OP_TMPFILE] = "tmpfile",
		[FS_OP_RELEASE] = "release",	   [FS_OP_READ] = "read",	    [FS_OP_WRITE] = "write",
		[FS_OP_FLUSH] = "flush",	   [FS_OP_FSYNC] = "fsync",	    [FS_OP_SYNC] = "sync",
		[FS_OP_FALLOCATE] = "fallocate",   [FS_OP_SEEK] = "seek",	    [FS_OP_COPY] = "copy",
		[FS_OP_STATFS] = "statfs",	   [FS_OP_SETXATTR] = "setxattr",   [FS_OP_GETXATTR] = "getxattr",
		[FS_OP_LISTXATTR] = "listxattr",   [FS_OP_REMOVEXATTR] = "removexattr", [FS_OP_LOCK] = "lock",
	};

	return op < FS_OPS && names[op] ? names[op] : NULL;
}
