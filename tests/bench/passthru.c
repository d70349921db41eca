/* SPDX-License-Identifier: Apache-2.0 */
/* P: the smallest pass-through that keeps what a POSIX mount promises, over a local directory; what Tessera is measured against.
 * libfuse's low-level interface, one O_PATH descriptor a known inode, names, attributes and pages kept by the kernel for ever, no
 * writeback_cache. With --memory instead: names and attributes in memory and no file system below, the most a FUSE server can do.
 *
 *   passthru [--memory] [--bare] [--threads N] SOURCE MOUNTPOINT      (stays in the foreground; ends when unmounted)
 *
 * --bare: without default_permissions and without FLUSH: fewer messages than any file system with permissions and locks can have.
 * What must never happen: an answer that the local file system did not give (but for --memory, which says so by its name). */
#define FUSE_USE_VERSION 314
#include "passthru.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

const double pt_forever = 86400.0 * 365;
static struct pt_node root = {.fd = -1, .nlookup = 1};
static struct pt_node **table; /* chained by (dev, ino) */
static size_t table_size, table_used;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static bool bare;

static struct pt_node *node_of(fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? &root : (struct pt_node *)(uintptr_t)ino;
}

static size_t slot_of(dev_t dev, ino_t ino, size_t size)
{
	return (size_t)((ino ^ dev * 31) * 0x9e3779b97f4a7c15ull >> 20) & (size - 1);
}

static void table_grow(void)
{
	size_t size = table_size ? table_size * 2 : 65536;
	struct pt_node **bigger = calloc(size, sizeof(*bigger));

	if (!bigger) {
		if (!table)
			exit(1);
		return; /* longer chains */
	}
	for (size_t i = 0; i < table_size; i++)
		while (table[i]) {
			struct pt_node *n = table[i];
			size_t s = slot_of(n->dev, n->ino, size);

			table[i] = n->next;
			n->next = bigger[s];
			bigger[s] = n;
		}
	free(table);
	table = bigger;
	table_size = size;
}

/* Takes over fd. NULL without memory. */
static struct pt_node *node_get(int fd, const struct stat *st)
{
	struct pt_node *n;

	pthread_mutex_lock(&mutex);
	if (table_used >= table_size)
		table_grow();
	for (n = table[slot_of(st->st_dev, st->st_ino, table_size)]; n; n = n->next)
		if (n->ino == st->st_ino && n->dev == st->st_dev)
			break;
	if (n) {
		close(fd);
	} else if ((n = calloc(1, sizeof(*n)))) {
		size_t s = slot_of(st->st_dev, st->st_ino, table_size);

		*n = (struct pt_node){.fd = fd, .ino = st->st_ino, .dev = st->st_dev, .next = table[s]};
		table[s] = n;
		table_used++;
	} else {
		close(fd);
	}
	if (n)
		n->nlookup++;
	pthread_mutex_unlock(&mutex);
	return n;
}

static void node_forget(fuse_ino_t ino, uint64_t nlookup)
{
	struct pt_node *n = node_of(ino), **p;

	if (n == &root)
		return;
	pthread_mutex_lock(&mutex);
	n->nlookup -= nlookup;
	if (!n->nlookup) {
		for (p = &table[slot_of(n->dev, n->ino, table_size)]; *p != n; p = &(*p)->next)
			;
		*p = n->next;
		table_used--;
		close(n->fd);
		free(n);
	}
	pthread_mutex_unlock(&mutex);
}

static int entry_get(fuse_ino_t parent, const char *name, struct fuse_entry_param *e)
{
	struct pt_node *n;
	int fd = openat(node_of(parent)->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	*e = (struct fuse_entry_param){.attr_timeout = pt_forever, .entry_timeout = pt_forever};
	if (fd < 0)
		return errno;
	if (fstatat(fd, "", &e->attr, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)) {
		int err = errno;

		close(fd);
		return err;
	}
	n = node_get(fd, &e->attr);
	e->ino = (uintptr_t)n;
	return n ? 0 : ENOMEM;
}

static void reply_entry(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e;
	int err = entry_get(parent, name, &e);

	if (err)
		fuse_reply_err(req, err);
	else
		fuse_reply_entry(req, &e);
}

static void op_init(void *arg, struct fuse_conn_info *c)
{
	c->want &= ~(unsigned)(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
	c->want |= c->capable & FUSE_CAP_EXPLICIT_INVAL_DATA;
	c->max_write = 1 << 20;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e;
	int err = entry_get(parent, name, &e);

	if (err == ENOENT) /* the kernel may keep that there is none */
		fuse_reply_entry(req, &e);
	else if (err)
		fuse_reply_err(req, err);
	else
		fuse_reply_entry(req, &e);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	node_forget(ino, nlookup);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *f)
{
	for (size_t i = 0; i < count; i++)
		node_forget(f[i].ino, f[i].nlookup);
	fuse_reply_none(req);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;

	if (fstatat(node_of(ino)->fd, "", &st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW))
		fuse_reply_err(req, errno);
	else
		fuse_reply_attr(req, &st, pt_forever);
}

static void path_of(const struct pt_node *n, char *path, size_t size)
{
	snprintf(path, size, "/proc/self/fd/%d", n->fd);
}

static int times_set(const char *path, const struct stat *a, int set)
{
	struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};

	if (set & FUSE_SET_ATTR_ATIME)
		t[0] = set & FUSE_SET_ATTR_ATIME_NOW ? (struct timespec){.tv_nsec = UTIME_NOW} : a->st_atim;
	if (set & FUSE_SET_ATTR_MTIME)
		t[1] = set & FUSE_SET_ATTR_MTIME_NOW ? (struct timespec){.tv_nsec = UTIME_NOW} : a->st_mtim;
	return utimensat(AT_FDCWD, path, t, 0);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *a, int set, struct fuse_file_info *fi)
{
	char path[64];

	path_of(node_of(ino), path, sizeof(path));
	if (((set & FUSE_SET_ATTR_MODE) && chmod(path, a->st_mode)) ||
	    ((set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) &&
	     fchownat(node_of(ino)->fd, "", set & FUSE_SET_ATTR_UID ? a->st_uid : (uid_t)-1, set & FUSE_SET_ATTR_GID ? a->st_gid : (gid_t)-1,
		      AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)) ||
	    ((set & FUSE_SET_ATTR_SIZE) && (fi ? ftruncate((int)fi->fh, a->st_size) : truncate(path, a->st_size))) ||
	    ((set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME)) && times_set(path, a, set)))
		fuse_reply_err(req, errno);
	else
		op_getattr(req, ino, fi);
}

static void give_away(fuse_req_t req, int dirfd, const char *name)
{
	const struct fuse_ctx *c = fuse_req_ctx(req);

	if ((c->uid || c->gid) && fchownat(dirfd, name, c->uid, c->gid, AT_SYMLINK_NOFOLLOW))
		fprintf(stderr, "passthru: chown %s: %s\n", name, strerror(errno));
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fuse_entry_param e;
	int err, fd = openat(node_of(parent)->fd, name, (fi->flags | O_CREAT | O_CLOEXEC) & ~O_NOFOLLOW, mode);

	if (fd < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	give_away(req, node_of(parent)->fd, name);
	err = entry_get(parent, name, &e);
	if (err) {
		close(fd);
		fuse_reply_err(req, err);
		return;
	}
	fi->fh = (uint64_t)fd;
	fi->keep_cache = 1;
	fuse_reply_create(req, &e, fi);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	if (mkdirat(node_of(parent)->fd, name, mode)) {
		fuse_reply_err(req, errno);
		return;
	}
	give_away(req, node_of(parent)->fd, name);
	reply_entry(req, parent, name);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	if (symlinkat(target, node_of(parent)->fd, name)) {
		fuse_reply_err(req, errno);
		return;
	}
	give_away(req, node_of(parent)->fd, name);
	reply_entry(req, parent, name);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	char buf[4097];
	ssize_t n = readlinkat(node_of(ino)->fd, "", buf, sizeof(buf) - 1);

	if (n < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	buf[n] = 0;
	fuse_reply_readlink(req, buf);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	char path[64];

	path_of(node_of(ino), path, sizeof(path));
	if (linkat(AT_FDCWD, path, node_of(parent)->fd, name, AT_SYMLINK_FOLLOW))
		fuse_reply_err(req, errno);
	else
		reply_entry(req, parent, name);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fuse_reply_err(req, unlinkat(node_of(parent)->fd, name, 0) ? errno : 0);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fuse_reply_err(req, unlinkat(node_of(parent)->fd, name, AT_REMOVEDIR) ? errno : 0);
}

static void op_rename(fuse_req_t req, fuse_ino_t from, const char *name, fuse_ino_t to, const char *newname, unsigned flags)
{
	fuse_reply_err(req, renameat2(node_of(from)->fd, name, node_of(to)->fd, newname, flags) ? errno : 0);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	char path[64];
	int fd;

	path_of(node_of(ino), path, sizeof(path));
	fd = open(path, (fi->flags & ~O_NOFOLLOW) | O_CLOEXEC);
	if (fd < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	fi->fh = (uint64_t)fd;
	fi->keep_cache = 1;
	fuse_reply_open(req, fi);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	close((int)fi->fh);
	fuse_reply_err(req, 0);
}

static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fuse_reply_err(req, close(dup((int)fi->fh)) ? errno : 0);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	fuse_reply_err(req, (datasync ? fdatasync((int)fi->fh) : fsync((int)fi->fh)) ? errno : 0);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	static _Thread_local char *buf; /* for the life of the thread */
	ssize_t n;

	if (!buf && !(buf = aligned_alloc(4096, 1 << 20))) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	n = pread((int)fi->fh, buf, size < 1 << 20 ? size : 1 << 20, off);
	if (n < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_buf(req, buf, (size_t)n);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	ssize_t n = pwrite((int)fi->fh, buf, size, off);

	if (n < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_write(req, (size_t)n);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs v;

	if (fstatvfs(root.fd, &v))
		fuse_reply_err(req, errno);
	else
		fuse_reply_statfs(req, &v);
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	int fd = openat(node_of(ino)->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (!d) {
		fuse_reply_err(req, errno);
		return;
	}
	fi->fh = (uintptr_t)d;
	fuse_reply_open(req, fi);
}

/* One reading at a time by a handle: its callers have their own. */
static void readdir_some(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi, bool plus)
{
	DIR *d = (DIR *)(uintptr_t)fi->fh;
	char *buf = malloc(size);
	struct dirent *de;
	size_t used = 0;

	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	if (telldir(d) != off)
		seekdir(d, off);
	while ((de = readdir(d))) {
		struct fuse_entry_param e = {.attr = {.st_ino = de->d_ino, .st_mode = (mode_t)de->d_type << 12}};
		bool dots = !strcmp(de->d_name, ".") || !strcmp(de->d_name, "..");
		size_t n;

		if (plus && !dots && entry_get(ino, de->d_name, &e))
			continue; /* removed meanwhile */
		n = plus ? fuse_add_direntry_plus(req, buf + used, size - used, de->d_name, &e, telldir(d)) :
			   fuse_add_direntry(req, buf + used, size - used, de->d_name, &e.attr, telldir(d));
		if (n > size - used) {
			if (plus && !dots)
				node_forget(e.ino, 1);
			break;
		}
		used += n;
	}
	fuse_reply_buf(req, buf, used);
	free(buf);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	readdir_some(req, ino, size, off, fi, false);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	readdir_some(req, ino, size, off, fi, true);
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	closedir((DIR *)(uintptr_t)fi->fh);
	fuse_reply_err(req, 0);
}

static struct fuse_lowlevel_ops ops = {
	.init = op_init, .lookup = op_lookup, .forget = op_forget, .forget_multi = op_forget_multi, .getattr = op_getattr,
	.setattr = op_setattr, .create = op_create, .mkdir = op_mkdir, .symlink = op_symlink, .readlink = op_readlink,
	.link = op_link, .unlink = op_unlink, .rmdir = op_rmdir, .rename = op_rename, .open = op_open, .release = op_release,
	.flush = op_flush, .fsync = op_fsync, .read = op_read, .write = op_write, .statfs = op_statfs, .opendir = op_opendir,
	.readdir = op_readdir, .readdirplus = op_readdirplus, .releasedir = op_releasedir,
};

static int serve(const char *mountpoint, unsigned threads, bool memory)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct fuse_loop_config *cfg = fuse_loop_cfg_create();
	struct fuse_session *se;
	int rc;

	if (fuse_opt_add_arg(&args, "passthru") || fuse_opt_add_arg(&args, bare ? "-oallow_other,fsname=P" : "-oallow_other,default_permissions,fsname=P"))
		return 1;
	se = fuse_session_new(&args, memory ? &pt_memory_ops : &ops, memory ? sizeof(pt_memory_ops) : sizeof(ops), NULL);
	if (!se || !cfg || fuse_set_signal_handlers(se) || fuse_session_mount(se, mountpoint))
		return 1;
	if (threads > 1) {
		fuse_loop_cfg_set_max_threads(cfg, threads);
		rc = fuse_session_loop_mt(se, cfg);
	} else {
		rc = fuse_session_loop(se);
	}
	fuse_session_unmount(se);
	fuse_session_destroy(se);
	fuse_loop_cfg_destroy(cfg);
	fuse_opt_free_args(&args);
	return rc != 0;
}

int main(int argc, char **argv)
{
	struct rlimit files = {1 << 20, 1 << 20};
	unsigned threads = 2; /* more are slower on few processors */
	bool memory = false;

	for (; argc > 1 && argv[1][0] == '-'; argv++, argc--) {
		if (!strcmp(argv[1], "--memory"))
			memory = true;
		else if (!strcmp(argv[1], "--bare"))
			bare = true;
		else if (!strcmp(argv[1], "--threads") && argc > 2)
			threads = (unsigned)atoi(argv[2]), argv++, argc--;
		else
			break;
	}
	if (argc != 3 || !threads) {
		fprintf(stderr, "usage: passthru [--memory] [--bare] [--threads N] SOURCE MOUNTPOINT\n");
		return 2;
	}
	if (setrlimit(RLIMIT_NOFILE, &files))
		perror("passthru: limit of open files");
	umask(0); /* the caller's counts, in the kernel */
	root.fd = open(argv[1], O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root.fd < 0) {
		perror(argv[1]);
		return 1;
	}
	if (bare)
		ops.flush = NULL;
	pt_memory_init(bare);
	table_grow();
	return serve(argv[2], threads, memory);
}
