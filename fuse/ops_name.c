/* SPDX-License-Identifier: Apache-2.0 */
/* Names: look-up, making, removing, renaming, listing.
 * New objects carry attribute timeout 0 (the kernel applies a CREATE or LINK reply without looking at its version);
 * entries carry a timeout only while this node holds the directory's token, and what carries one is remembered (names.c). */
#include "fuse/fuse_int.h"
#include <dirent.h>

#define APPLY_NS TS_NS_PER_S

static void renamed_note(struct tfuse *tf, uint64_t dir, const char *name, size_t len)
{
	tf->renamed[tf->nrenamed++ % TF_RENAMED] =
		(struct tf_renamed){dir, ts_csum64(name, len, 0), ts_exec_now(tf->exec) + APPLY_NS};
}

static bool renamed_now(const struct tfuse *tf, uint64_t dir, const char *name, size_t len)
{
	if (!tf->nrenamed || tf->renamed[(tf->nrenamed - 1) % TF_RENAMED].until < ts_exec_now(tf->exec))
		return false;
	uint64_t h = ts_csum64(name, len, 0);
	for (unsigned i = 0; i < TF_RENAMED; i++)
		if (tf->renamed[i].dir == dir && tf->renamed[i].hash == h)
			return true;
	return false;
}

/* Answers are applied with the directory locked, but for that to a LOOKUP of an entry which the kernel has already. It has none of an
 * inode that it does not know. */
struct tf_node *tf_entry_fill(struct tf_req *q, const char *name, size_t len, struct fuse_entry_out *e, const struct fs_attr *a, bool attrs)
{
	struct tfuse *tf = q->tf;
	const struct tf_node *known = tf_node_by_id(tf, tf_nodeid(a->ino, a->gen));
	bool unlocked = q->in->opcode == FUSE_LOOKUP && known && known->nlookup;
	struct tf_node *n = tf_node_get(tf, a->ino, a->gen);
	if (!n)
		return NULL;
	*e = (struct fuse_entry_out){.nodeid = tf_nodeid(a->ino, a->gen), .generation = a->gen};
	tf_attr_fill(&e->attr, a);
	tf_node_saw(n, a);
	if (attrs || tf_fault(tf, TF_OMIT_ZERO_ATTR, q->in->nodeid))
		tf_attr_timeout(tf, n, a, &e->attr_valid);
	if (name && (!unlocked || q->in->pid) && tf_name_arm(q, name, len, a, n, unlocked ? q->in->pid : 0))
		e->entry_valid = TF_FOREVER_S;
	return n;
}

int tf_entry_reply(struct tf_req *q, const char *name, size_t len, const struct fs_attr *a, bool attrs)
{
	struct fuse_entry_out e;
	if (!tf_entry_fill(q, name, len, &e, a, attrs))
		return -ENOMEM;
	if (tf_reply(q, &e, sizeof(e))) {
		tf_node_forget(q->tf, e.nodeid, 1); /* the entry did not reach the kernel */
		return -TF_NOREPLY;
	}
	return 0;
}

static bool is_dots(const char *name, size_t len)
{
	return name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.'));
}

/* There is no such name, and the kernel may keep that; it never applies it to an entry that it has. */
static int absent_reply(struct tf_req *q, const char *name, size_t len, const struct fs_attr *a)
{
	struct fuse_entry_out e = {.entry_valid = TF_FOREVER_S};
	if (!tf_name_arm(q, name, len, a, NULL, 0))
		return -ENOENT;
	return tf_reply(q, &e, sizeof(e)) ? -TF_NOREPLY : 0;
}

int tf_op_lookup(struct tf_req *q)
{
	size_t len;
	const char *name = tf_str(q, 0, 4096, &len, NULL);
	struct fs_attr a = {0};
	if (!name)
		return -EINVAL;
	if (len > TF_NAME_MAX)
		return -ENAMETOOLONG;
	struct tf_size_seen seen = {0};
	int rc = tf_retry_lookup(q, name, len, &a);
	if (rc == 0 && S_ISDIR(a.mode) && tf_bounced_wait(q, a.ino))
		rc = tf_retry_lookup(q, name, len, &a);
	while (rc == 0 && !tf_size_settled(q, &seen, &a))
		rc = tf_retry_lookup(q, name, len, &a);
	bool keep = !is_dots(name, len) && !renamed_now(q->tf, q->in->nodeid, name, len);
	if (rc == -ENOENT && keep)
		return absent_reply(q, name, len, &a);
	return rc ? rc : tf_entry_reply(q, keep ? name : NULL, len, &a, true);
}

static int make(struct tf_req *q, size_t name_off, uint32_t mode, uint32_t umask, uint64_t rdev, const char *target)
{
	size_t len;
	const char *name = tf_str(q, name_off, 4096, &len, NULL);
	struct fs_attr a;
	if (!name)
		return -EINVAL;
	if (len > TF_NAME_MAX)
		return -ENAMETOOLONG;
	q->cred.umask = umask;
	int rc = fs_mknod(q->tf->fs, &q->cred, q->in->nodeid, name, len, mode, rdev, target, &a);
	tf_name_made(q);
	return rc ? rc : tf_entry_reply(q, name, len, &a, false);
}

int tf_op_mknod(struct tf_req *q)
{
	const struct fuse_mknod_in *in = tf_arg(q, sizeof(*in));
	return in ? make(q, sizeof(*in), in->mode, in->umask, in->rdev, NULL) : -EINVAL;
}

int tf_op_mkdir(struct tf_req *q)
{
	const struct fuse_mkdir_in *in = tf_arg(q, sizeof(*in));
	return in ? make(q, sizeof(*in), (in->mode & 07777) | S_IFDIR, in->umask, 0, NULL) : -EINVAL;
}

int tf_op_symlink(struct tf_req *q)
{
	size_t len, next, tlen;
	const char *name = tf_str(q, 0, 4096, &len, &next);
	const char *target = name ? tf_str(q, next, 4095, &tlen, NULL) : NULL;
	if (!target)
		return -ENAMETOOLONG;
	return make(q, 0, S_IFLNK | 0777, 0, 0, target);
}

int tf_op_link(struct tf_req *q)
{
	const struct fuse_link_in *in = tf_arg(q, sizeof(*in));
	size_t len;
	const char *name = in ? tf_str(q, sizeof(*in), 4096, &len, NULL) : NULL;
	struct fs_attr a;
	if (!name)
		return -EINVAL;
	if (len > TF_NAME_MAX)
		return -ENAMETOOLONG;
	int rc = fs_link(q->tf->fs, &q->cred, tf_second(q, in->oldnodeid), q->in->nodeid, name, len, &a);
	tf_name_made(q);
	return rc ? rc : tf_entry_reply(q, name, len, &a, false);
}

static int remove_name(struct tf_req *q, int (*fn)(struct fs *, const struct fs_cred *, uint64_t, const char *, size_t))
{
	size_t len;
	const char *name = tf_str(q, 0, 4096, &len, NULL);
	if (!name)
		return -EINVAL;
	if (len > TF_NAME_MAX)
		return -ENAMETOOLONG;
	int rc = fn(q->tf->fs, &q->cred, q->in->nodeid, name, len);
	if (rc)
		return rc;
	tf_name_removed(q, name, len);
	return tf_reply(q, NULL, 0) ? -TF_NOREPLY : 0;
}

int tf_op_unlink(struct tf_req *q)
{
	return remove_name(q, fs_unlink);
}

int tf_op_rmdir(struct tf_req *q)
{
	return remove_name(q, fs_rmdir);
}

static int rename_any(struct tf_req *q, size_t off, uint64_t newdir, uint32_t flags)
{
	size_t len, next, nlen;
	const char *name = tf_str(q, off, 4096, &len, &next);
	const char *newname = name ? tf_str(q, next, 4096, &nlen, NULL) : NULL;
	if (!newname)
		return -EINVAL;
	if (len > TF_NAME_MAX || nlen > TF_NAME_MAX)
		return -ENAMETOOLONG;
	if (flags & ~3u) /* RENAME_WHITEOUT: overlay's business */
		return -EINVAL;
	int rc = fs_rename(q->tf->fs, &q->cred, q->in->nodeid, name, len, tf_second(q, newdir), newname, nlen, flags);
	if (rc)
		return rc;
	tf_name_renamed(q, q->in->nodeid, name, len, q->means[1].ino, newname, nlen, flags & FS_RENAME_EXCHANGE);
	renamed_note(q->tf, q->in->nodeid, name, len);
	renamed_note(q->tf, tf_second(q, newdir), newname, nlen);
	return tf_reply(q, NULL, 0) ? -TF_NOREPLY : 0;
}

int tf_op_rename(struct tf_req *q)
{
	const struct fuse_rename_in *in = tf_arg(q, sizeof(*in));
	return in ? rename_any(q, sizeof(*in), in->newdir, 0) : -EINVAL;
}

int tf_op_rename2(struct tf_req *q)
{
	const struct fuse_rename2_in *in = tf_arg(q, sizeof(*in));
	return in ? rename_any(q, sizeof(*in), in->newdir, in->flags) : -EINVAL;
}

int tf_op_readlink(struct tf_req *q)
{
	char buf[4096];
	int n = fs_readlink(q->tf->fs, &q->cred, q->in->nodeid, buf, sizeof(buf));
	if (n < 0)
		return n;
	return tf_reply(q, buf, (size_t)n) ? -TF_NOREPLY : 0;
}

int tf_op_opendir(struct tf_req *q)
{
	struct fuse_open_out out = {0};
	return tf_reply(q, &out, sizeof(out)) ? -TF_NOREPLY : 0;
}

int tf_op_releasedir(struct tf_req *q)
{
	return tf_reply(q, NULL, 0) ? -TF_NOREPLY : 0;
}

int tf_op_fsyncdir(struct tf_req *q)
{
	int rc = fs_fsync_ino(q->tf->fs, q->in->nodeid);
	if (rc)
		return rc;
	return tf_reply(q, NULL, 0) ? -TF_NOREPLY : 0;
}

struct listing {
	struct tf_req *q;
	uint8_t *buf;
	size_t used, size;
	bool plus;
};

static bool emit(void *arg, const char *name, size_t len, uint64_t ino, unsigned dtype, uint64_t off, const struct fs_attr *attr)
{
	struct listing *l = arg;
	size_t head = l->plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
	size_t need = FUSE_DIRENT_ALIGN(head + len);
	if (l->used + need > l->size)
		return false;
	uint8_t *p = l->buf + l->used;
	memset(p, 0, need);
	struct fuse_dirent *d = (struct fuse_dirent *)p;
	if (l->plus) {
		struct fuse_direntplus *dp = (struct fuse_direntplus *)p;
		d = &dp->dirent;
		if (attr && !is_dots(name, len) && !tf_size_moved(l->q->tf, attr) && !tf_entry_fill(l->q, name, len, &dp->entry_out, attr, true))
			return false;
	}
	d->ino = ino;
	d->off = off;
	d->namelen = (uint32_t)len;
	d->type = dtype;
	memcpy(p + head, name, len);
	l->used += need;
	return true;
}

static void listing_undo(struct listing *l)
{
	for (size_t off = 0; off + FUSE_NAME_OFFSET_DIRENTPLUS <= l->used;) {
		struct fuse_direntplus *dp = (struct fuse_direntplus *)(l->buf + off);
		if (dp->entry_out.nodeid)
			tf_node_forget(l->q->tf, dp->entry_out.nodeid, 1);
		off += FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + dp->dirent.namelen);
	}
}

static int list(struct tf_req *q, bool plus)
{
	const struct fuse_read_in *in = tf_arg(q, sizeof(*in));
	if (!in)
		return -EINVAL;
	struct listing l = {.q = q, .size = TS_MIN(in->size, 65536u), .plus = plus};
	l.buf = ts_alloc(l.size);
	if (!l.buf)
		return -ENOMEM;
	int rc = fs_readdir(q->tf->fs, &q->cred, q->in->nodeid, in->offset, plus, emit, &l);
	if (rc == 0 && tf_reply(q, l.buf, l.used))
		rc = -TF_NOREPLY;
	if (rc && plus)
		listing_undo(&l);
	ts_free(l.buf);
	return rc;
}

int tf_op_readdir(struct tf_req *q)
{
	return list(q, false);
}

int tf_op_readdirplus(struct tf_req *q)
{
	return list(q, true);
}
