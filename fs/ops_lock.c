/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the entry points for locks of applications. What protects a file's bytes are tokens; locks only tell programs from each
 * other, and are not on disk. Must never happen: a lock given while this node is suspended; a lock that outlives its file. */
#include "fs/fs_int.h"

_Static_assert((int)FS_LOCK_READ == TOK_LOCK_READ && (int)FS_LOCK_WRITE == TOK_LOCK_WRITE, "one set of types");

static int lock_error(int rc)
{
	return rc == -TS_ERR_FENCED ? -EIO : rc;
}

static struct tok_lock to_tok(const struct fs_file *f, const struct fs_lock *l)
{
	return (struct tok_lock){.ino = f->ip->ino,
				 .start = l->start,
				 .end = l->end,
				 .owner = l->owner,
				 .handle = (uintptr_t)f,
				 .pid = l->pid,
				 .type = (enum tok_lock_type)l->type,
				 .flock = l->flock};
}

int fs_lock_set(struct fs *fs, struct fs_file *f, const struct fs_lock *l, bool wait, bool (*of_process)(void *arg))
{
	struct tok_lock t = to_tok(f, l);
	struct tok_lock_waiter w = {fs->args.up.interrupted, of_process, fs->args.up.arg};
	int rc = fs_enter(fs, FS_OP_LOCK);

	if (rc)
		return rc;
	return lock_error(tok_lock_set(fs->tok, &t, wait && l->type != FS_LOCK_NONE ? &w : NULL));
}

int fs_lock_get(struct fs *fs, struct fs_file *f, struct fs_lock *l)
{
	struct tok_lock t = to_tok(f, l);
	struct tok_lock_waiter w = {fs->args.up.interrupted, NULL, fs->args.up.arg};
	int rc = fs_enter(fs, FS_OP_LOCK);

	if (!rc)
		rc = lock_error(tok_lock_get(fs->tok, &t, &w));
	if (rc)
		return rc;
	l->type = (enum fs_lock_type)t.type;
	if (l->type == FS_LOCK_NONE)
		return 0;
	l->start = t.start;
	l->end = t.end;
	l->pid = t.node == fs->self ? t.pid : 0;
	l->node = t.node;
	return 0;
}

int fs_lock_close(struct fs *fs, struct fs_file *f, uint64_t owner)
{
	return lock_error(tok_lock_close(fs->tok, f->ip->ino, owner));
}
