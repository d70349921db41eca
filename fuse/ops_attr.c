/* SPDX-License-Identifier: Apache-2.0 */
/* Attributes, extended attributes, statfs, forgets. An attribute timeout is handed out only while the inode's token is
 * held and no revoke has begun; between fs_getattr's answer and the reply there is no wait. */
#include "fuse/fuse_int.h"
#include <linux/fs.h>
#include <sys/sysmacros.h>

/* Seconds and nanoseconds of a signed time: nanoseconds are never negative, also before 1970. */
static uint64_t time_s(int64_t ns)
{
	int64_t s = ns / (int64_t)TS_NS_PER_S;
	return (uint64_t)(ns % (int64_t)TS_NS_PER_S < 0 ? s - 1 : s);
}

static uint32_t time_ns(int64_t ns)
{
	int64_t r = ns % (int64_t)TS_NS_PER_S;
	return (uint32_t)(r < 0 ? r + (int64_t)TS_NS_PER_S : r);
}

/* What lies outside of what 64 bits of nanoseconds can say (1677 to 2262) becomes the end of that. */
static int64_t time_in(uint64_t s, uint32_t ns)
{
	int64_t t;
	if (__builtin_mul_overflow((int64_t)s, (int64_t)TS_NS_PER_S, &t) || __builtin_add_overflow(t, (int64_t)ns, &t))
		return (int64_t)s < 0 ? INT64_MIN : INT64_MAX;
	return t;
}

void tf_attr_fill(struct fuse_attr *out, const struct fs_attr *a)
{
	*out = (struct fuse_attr){
		.ino = a->ino,
		.size = a->size,
		.blocks = a->blocks512,
		.atime = time_s(a->atime_ns),
		.mtime = time_s(a->mtime_ns),
		.ctime = time_s(a->ctime_ns),
		.atimensec = time_ns(a->atime_ns),
		.mtimensec = time_ns(a->mtime_ns),
		.ctimensec = time_ns(a->ctime_ns),
		.mode = a->mode,
		.nlink = a->nlink,
		.uid = a->uid,
		.gid = a->gid,
		.rdev = (uint32_t)a->rdev,
		.blksize = a->blksize,
	};
}

void tf_attr_timeout(struct tfuse *tf, struct tf_node *n, const struct fs_attr *a, uint64_t *valid)
{
	*valid = 0;
	if (!n || !a->cacheable)
		return;
	*valid = TF_FOREVER_S;
	n->attr_cached = true;
}

static int attr_reply(struct tf_req *q, const struct fs_attr *a, bool timeout)
{
	struct fuse_attr_out out = {0};
	struct tf_node *n = tf_node_find(q->tf, q->in->nodeid);
	tf_attr_fill(&out.attr, a);
	if (n)
		tf_node_saw(n, a);
	if (a->ino == FUSE_ROOT_ID)
		q->tf->root = *a;
	tf_attr_timeout(q->tf, n, a, &out.attr_valid);
	if (!timeout)
		out.attr_valid = 0;
	return tf_reply(q, &out, sizeof(out)) ? -TF_NOREPLY : 0;
}

/* A thread of ours asks: of the mount point, on its way there, and of a file that is read; it must not wait for anybody's token. */
static int reply_to_teller(struct tf_req *q, const struct fs_attr *a)
{
	struct fuse_attr_out out = {0};
	tf_attr_fill(&out.attr, a);
	return tf_reply(q, &out, sizeof(out)) ? -TF_NOREPLY : 0;
}

static int getattr_settled(struct tf_req *q, struct fs_attr *a)
{
	struct tf_size_seen seen = {0};
	int rc;
	do
		rc = fs_getattr(q->tf->fs, &q->cred, q->in->nodeid, a);
	while (rc == 0 && !tf_size_settled(q, &seen, a));
	return rc;
}

int tf_op_getattr(struct tf_req *q)
{
	struct fs_attr a;
	struct tf_job *teller = tf_size_teller(q);
	if (teller && q->in->nodeid == FUSE_ROOT_ID && teller->node->ino != FUSE_ROOT_ID)
		return reply_to_teller(q, &q->tf->root);
	if (teller)
		tf_size_answered(teller);
	if (teller && teller->attr)
		return reply_to_teller(q, teller->attr);
	(void)tf_bounced_wait(q, q->in->nodeid);
	int rc = getattr_settled(q, &a);
	const struct tf_node *n = tf_node_find(q->tf, q->in->nodeid);
	return rc ? rc : attr_reply(q, &a, !n || !n->dropping); /* dropping: whoever comes back asks again, and waits here */
}

static struct tf_sx_time_msg sx_time(int64_t ns)
{
	return (struct tf_sx_time_msg){.tv_sec = (int64_t)time_s(ns), .tv_nsec = time_ns(ns)};
}

/* Asked only for the time of birth, which GETATTR has no room for; the kernel takes the other fields from it, too. */
static int statx_reply(struct tf_req *q, const struct fs_attr *a)
{
	struct tf_statx_out_msg out = {0};
	out.stat = (struct tf_statx_msg){
		.mask = STATX_BASIC_STATS | STATX_BTIME,
		.blksize = a->blksize,
		.nlink = a->nlink,
		.uid = a->uid,
		.gid = a->gid,
		.mode = (uint16_t)a->mode,
		.ino = a->ino,
		.size = a->size,
		.blocks = a->blocks512,
		.atime = sx_time(a->atime_ns),
		.btime = sx_time(a->btime_ns),
		.ctime = sx_time(a->ctime_ns),
		.mtime = sx_time(a->mtime_ns),
		.rdev_major = major((uint32_t)a->rdev),
		.rdev_minor = minor((uint32_t)a->rdev),
	};
	tf_attr_timeout(q->tf, tf_node_find(q->tf, q->in->nodeid), a, &out.attr_valid);
	return tf_reply(q, &out, sizeof(out)) ? -TF_NOREPLY : 0;
}

int tf_op_statx(struct tf_req *q)
{
	struct fs_attr a;
	int rc = getattr_settled(q, &a);
	return rc ? rc : statx_reply(q, &a);
}

int tf_removed_dir(struct tf_req *q)
{
	const struct tf_node *n = tf_node_by_id(q->tf, q->nodeid);
	struct fs_attr a;
	if (!n || !n->last)
		return -ESTALE;
	a = *n->last;
	a.nlink = 0;
	a.size = a.blocks512 = 0;
	a.cacheable = false; /* attr_reply keeps it as last seen, which it is */
	switch (q->in->opcode) {
	case FUSE_GETATTR:
		return attr_reply(q, &a, true);
	case TF_STATX:
		return statx_reply(q, &a);
	default:
		return -ENOENT;
	}
}

static const struct {
	uint32_t fattr;
	unsigned set;
} setattr_bits[] = {
	{FATTR_MODE, FS_SET_MODE},	   {FATTR_UID, FS_SET_UID},		  {FATTR_GID, FS_SET_GID},
	{FATTR_SIZE, FS_SET_SIZE},	   {FATTR_ATIME, FS_SET_ATIME},		  {FATTR_MTIME, FS_SET_MTIME},
	{FATTR_ATIME_NOW, FS_SET_ATIME_NOW}, {FATTR_MTIME_NOW, FS_SET_MTIME_NOW}, {FATTR_CTIME, FS_SET_CTIME},
	{FATTR_KILL_SUIDGID, FS_SET_KILL_SUID},
};

int tf_op_setattr(struct tf_req *q)
{
	const struct fuse_setattr_in *in = tf_arg(q, sizeof(*in));
	struct fs_attr a;
	if (!in)
		return -EINVAL;
	struct fs_setattr s = {
		.mode = in->mode,
		.uid = in->uid,
		.gid = in->gid,
		.size = in->size,
		.atime_ns = time_in(in->atime, in->atimensec),
		.mtime_ns = time_in(in->mtime, in->mtimensec),
		.ctime_ns = time_in(in->ctime, in->ctimensec),
	};
	for (size_t i = 0; i < TS_ARRAY_LEN(setattr_bits); i++)
		if (in->valid & setattr_bits[i].fattr)
			s.valid |= setattr_bits[i].set;
	int rc = fs_setattr(q->tf->fs, &q->cred, q->in->nodeid, &s, &a);
	struct tf_size_seen seen = {0};
	while (rc == 0 && !(s.valid & FS_SET_SIZE) && !tf_size_settled(q, &seen, &a)) /* a size that it sets the kernel does not take from elsewhere */
		rc = fs_getattr(q->tf->fs, &q->cred, q->in->nodeid, &a);
	bool timeout = q->tf->setattr_versioned || tf_fault(q->tf, TF_OMIT_ZERO_ATTR, q->in->nodeid);
	return rc ? rc : attr_reply(q, &a, timeout);
}

int tf_op_statfs(struct tf_req *q)
{
	struct statvfs s;
	int rc = fs_statfs(q->tf->fs, &s);
	if (rc)
		return rc;
	struct fuse_statfs_out out = {.st = {
					      .blocks = s.f_blocks,
					      .bfree = s.f_bfree,
					      .bavail = s.f_bavail,
					      .files = s.f_files,
					      .ffree = s.f_ffree,
					      .bsize = (uint32_t)s.f_bsize,
					      .frsize = (uint32_t)s.f_frsize,
					      .namelen = TF_NAME_MAX,
				      }};
	return tf_reply(q, &out, sizeof(out)) ? -TF_NOREPLY : 0;
}

/* ---- flags and project: chattr, lsattr, the kernel's fileattr_get and fileattr_set, which judges who may --------------- */
static const struct {
	uint32_t fs, fl, xfl; /* ours, of FS_IOC_SETFLAGS, of FS_IOC_FSSETXATTR */
} tf_flags[] = {
	{FS_FLAG_IMMUTABLE, FS_IMMUTABLE_FL, FS_XFLAG_IMMUTABLE},	    {FS_FLAG_APPEND, FS_APPEND_FL, FS_XFLAG_APPEND},
	{FS_FLAG_NODUMP, FS_NODUMP_FL, FS_XFLAG_NODUMP},		    {FS_FLAG_NOATIME, FS_NOATIME_FL, FS_XFLAG_NOATIME},
	{FS_FLAG_PROJINHERIT, FS_PROJINHERIT_FL, FS_XFLAG_PROJINHERIT},
};

static uint32_t flags_out(uint32_t fs, bool x)
{
	uint32_t out = 0;
	for (size_t i = 0; i < TS_ARRAY_LEN(tf_flags); i++)
		out |= fs & tf_flags[i].fs ? (x ? tf_flags[i].xfl : tf_flags[i].fl) : 0;
	return out;
}

/* -EOPNOTSUPP: one that is not kept. */
static int flags_in(uint32_t in, bool x, uint32_t *fs)
{
	*fs = 0;
	for (size_t i = 0; i < TS_ARRAY_LEN(tf_flags); i++) {
		uint32_t bit = x ? tf_flags[i].xfl : tf_flags[i].fl;
		*fs |= in & bit ? tf_flags[i].fs : 0;
		in &= ~bit;
	}
	return in & ~(x ? (uint32_t)FS_XFLAG_HASATTR : 0) ? -EOPNOTSUPP : 0;
}

static int flags_get(struct tf_req *q, bool x)
{
	struct {
		struct fuse_ioctl_out o;
		union {
			uint32_t flags;
			struct fsxattr x;
		};
	} out = {.flags = 0};
	struct fs_attr a;
	int rc = fs_getattr(q->tf->fs, &q->cred, q->in->nodeid, &a);
	if (rc)
		return rc;
	if (x)
		out.x = (struct fsxattr){.fsx_xflags = flags_out(a.flags, true), .fsx_projid = a.project};
	else
		out.flags = flags_out(a.flags, false);
	return tf_reply(q, &out, sizeof(out.o) + (x ? sizeof(out.x) : sizeof(out.flags))) ? -TF_NOREPLY : 0;
}

static int flags_set(struct tf_req *q, bool x, const void *data)
{
	struct fs_setattr s = {.valid = FS_SET_FLAGS | (x ? FS_SET_PROJECT : 0)};
	struct fuse_ioctl_out out = {0};
	struct fsxattr fx = {0};
	uint32_t flags;
	int rc;
	if (x)
		memcpy(&fx, data, sizeof(fx));
	else
		memcpy(&flags, data, sizeof(flags));
	rc = flags_in(x ? fx.fsx_xflags : flags, x, &s.flags);
	if (!rc && (fx.fsx_extsize || fx.fsx_cowextsize))
		rc = -EOPNOTSUPP;
	s.project = fx.fsx_projid;
	if (!rc)
		rc = fs_setattr(q->tf->fs, &q->cred, q->in->nodeid, &s, NULL);
	if (!rc)
		tf_inval_attr(q->tf, q->in->nodeid); /* the kernel does not know that an ioctl changes the ctime */
	return rc ? rc : tf_reply(q, &out, sizeof(out)) ? -TF_NOREPLY : 0;
}

int tf_op_ioctl(struct tf_req *q)
{
	const struct fuse_ioctl_in *in = tf_arg(q, sizeof(*in));
	if (!in)
		return -EINVAL;
	bool x = in->cmd == FS_IOC_FSGETXATTR || in->cmd == FS_IOC_FSSETXATTR;
	size_t size = x ? sizeof(struct fsxattr) : sizeof(uint32_t);
	switch (in->cmd) {
	case FS_IOC_GETFLAGS:
	case FS_IOC_FSGETXATTR:
		return in->out_size < size ? -EINVAL : flags_get(q, x);
	case FS_IOC_SETFLAGS:
	case FS_IOC_FSSETXATTR:
		return in->in_size < size || q->arg_len - sizeof(*in) < size ? -EINVAL : flags_set(q, x, in + 1);
	default:
		return -ENOTTY;
	}
}

int tf_op_forget(struct tf_req *q)
{
	const struct fuse_forget_in *in = tf_arg(q, sizeof(*in));
	if (in)
		tf_node_forget(q->tf, q->nodeid, in->nlookup);
	return -TF_NOREPLY;
}

int tf_op_batch_forget(struct tf_req *q)
{
	const struct fuse_batch_forget_in *in = tf_arg(q, sizeof(*in));
	if (!in)
		return -TF_NOREPLY;
	const struct fuse_forget_one *f = (const struct fuse_forget_one *)(in + 1);
	size_t max = (q->arg_len - sizeof(*in)) / sizeof(*f);
	for (size_t i = 0; i < TS_MIN(max, (size_t)in->count); i++)
		tf_node_forget(q->tf, f[i].nodeid, f[i].nlookup);
	return -TF_NOREPLY;
}

int tf_op_setxattr(struct tf_req *q)
{
	/* Without FUSE_SETXATTR_EXT the kernel sends the short form. */
	size_t head = q->tf->setxattr_ext ? sizeof(struct fuse_setxattr_in) : FUSE_COMPAT_SETXATTR_IN_SIZE;
	const struct fuse_setxattr_in *in = tf_arg(q, head);
	size_t len, next;
	const char *name = in ? tf_str(q, head, 255, &len, &next) : NULL;
	if (!name || !len || q->arg_len - next < in->size)
		return in ? -ERANGE : -EINVAL;
	int flags = (int)in->flags & (FS_XATTR_CREATE | FS_XATTR_REPLACE);
	if (q->tf->setxattr_ext && in->setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID)
		flags |= FS_XATTR_KILL_SGID;
	int rc = fs_setxattr(q->tf->fs, &q->cred, q->in->nodeid, name, q->arg + next, in->size, flags);
	if (rc)
		return rc;
	return tf_reply(q, NULL, 0) ? -TF_NOREPLY : 0;
}

/* The kernel keeps an ACL, or that there is none, until it is told to drop the attributes. It does not keep what it is told on top of
 * that, so where the token is on its way out it is told so before the answer. */
static void acl_cached(struct tf_req *q)
{
	struct tf_node *n = tf_node_find(q->tf, q->in->nodeid);
	if (!n)
		return;
	n->attr_cached = true;
	if (!tok_cached(fs_tokens(q->tf->fs), TOK_INODE, n->ino, TOK_SH))
		tf_inval_attr(q->tf, n->ino);
}

static int xattr_reply(struct tf_req *q, ssize_t n, uint32_t size, const void *buf)
{
	struct fuse_getxattr_out out = {0};
	if (n < 0)
		return (int)n;
	if (size == 0) {
		out.size = (uint32_t)n;
		return tf_reply(q, &out, sizeof(out)) ? -TF_NOREPLY : 0;
	}
	return tf_reply(q, buf, (size_t)n) ? -TF_NOREPLY : 0;
}

int tf_op_getxattr(struct tf_req *q)
{
	const struct fuse_getxattr_in *in = tf_arg(q, sizeof(*in));
	size_t len;
	const char *name = in ? tf_str(q, sizeof(*in), 255, &len, NULL) : NULL;
	if (!name || in->size > 65536)
		return -EINVAL;
	uint8_t *buf = in->size ? ts_alloc(in->size) : NULL;
	if (in->size && !buf)
		return -ENOMEM;
	ssize_t n = fs_getxattr(q->tf->fs, &q->cred, q->in->nodeid, name, buf, in->size);
	if (strncmp(name, "system.posix_acl_", 17) == 0)
		acl_cached(q);
	int rc = xattr_reply(q, n, in->size, buf);
	ts_free(buf);
	return rc;
}

int tf_op_listxattr(struct tf_req *q)
{
	const struct fuse_getxattr_in *in = tf_arg(q, sizeof(*in));
	if (!in)
		return -EINVAL;
	size_t size = TS_MIN(in->size, 65536u);
	char *buf = size ? ts_alloc(size) : NULL;
	if (size && !buf)
		return -ENOMEM;
	int rc = xattr_reply(q, fs_listxattr(q->tf->fs, &q->cred, q->in->nodeid, buf, size), (uint32_t)size, buf);
	ts_free(buf);
	return rc;
}

int tf_op_removexattr(struct tf_req *q)
{
	size_t len;
	const char *name = tf_str(q, 0, 255, &len, NULL);
	if (!name)
		return -EINVAL;
	int rc = fs_removexattr(q->tf->fs, &q->cred, q->in->nodeid, name);
	if (rc)
		return rc;
	return tf_reply(q, NULL, 0) ? -TF_NOREPLY : 0;
}
