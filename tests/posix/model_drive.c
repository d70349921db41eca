/* SPDX-License-Identifier: Apache-2.0 */
/* Job: one operation as system calls through one mount, and its answer in the model's words.
 * What must never happen: a short transfer or an odd answer that is taken for a good one (it becomes an error
 * of its own). */
#include "model.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/xattr.h>
#include <unistd.h>

#define MIN(a, b) ((a) < (b) ? (a) : (b))

static sigjmp_buf on_fault;
static volatile sig_atomic_t may_fault;

static void on_bus(int sig)
{
	if (may_fault)
		siglongjmp(on_fault, 1);
	signal(sig, SIG_DFL);
	raise(sig);
}

int model_drive_open(struct model_drive *d, unsigned nmounts, char *const *dirs, uint64_t seed, unsigned turn)
{
	struct sigaction sa = {.sa_handler = on_bus};

	memset(d, 0, sizeof(*d));
	sigaction(SIGBUS, &sa, NULL);
	umask(0);
	d->nmounts = nmounts;
	for (unsigned k = 0; k < MODEL_MOUNTS; k++) {
		for (unsigned s = 0; s < MODEL_SLOTS; s++)
			d->fd[k][s] = -1;
		for (unsigned s = 0; s < MODEL_MAPS; s++)
			d->map_fd[k][s] = -1;
		if (k < nmounts)
			snprintf(d->base[k], sizeof(d->base[k]), "%.4000s/model.%d.%llu.%u", dirs[k],
				 (int)getpid(), (unsigned long long)seed, turn);
	}
	return mkdir(d->base[0], 0755) ? -errno : 0;
}

static void close_slot(struct model_drive *d, unsigned mount, unsigned slot)
{
	struct flock l = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
	int fd = d->fd[mount][slot];

	if (d->dir[mount][slot]) {
		closedir(d->dir[mount][slot]);
	} else if (fd >= 0) {
		/* The last close of a FUSE file lets go of locks behind the return of close(). */
		fcntl(fd, F_OFD_SETLK, &l);
		flock(fd, LOCK_UN);
		close(fd);
	}
	d->dir[mount][slot] = NULL;
	d->fd[mount][slot] = -1;
}

static void unmap_slot(struct model_drive *d, unsigned mount, unsigned slot)
{
	if (d->map[mount][slot])
		munmap(d->map[mount][slot], MODEL_MAP_LEN);
	if (d->map_fd[mount][slot] >= 0)
		close(d->map_fd[mount][slot]);
	d->map[mount][slot] = NULL;
	d->map_fd[mount][slot] = -1;
}

void model_drive_close(struct model_drive *d)
{
	for (unsigned k = 0; k < d->nmounts; k++) {
		for (unsigned s = 0; s < MODEL_SLOTS; s++)
			close_slot(d, k, s);
		for (unsigned s = 0; s < MODEL_MAPS; s++)
			unmap_slot(d, k, s);
	}
}

/* ---- the call at hand ---- */
struct call {
	struct model_drive *d;
	const struct model_op *op;
	struct model_answer *got;
	int fd;
	const char *p, *q;
};

static void result(struct call *c, long rc)
{
	c->got->err = rc < 0 ? errno : 0;
}

/* A transfer of all bytes or an error; what is short is EIO's neighbour. */
static void transferred(struct call *c, ssize_t n)
{
	result(c, n);
	if (n >= 0 && (uint64_t)n != c->op->b)
		c->got->err = MODEL_SHORT;
}

static void do_open(struct call *c)
{
	const struct model_op *op = c->op;
	int fd = open(c->p, (int)op->flags | O_CLOEXEC, 0644);
	struct stat st;

	result(c, fd);
	close_slot(c->d, op->mount, op->slot);
	c->d->fd[op->mount][op->slot] = fd;
	if (fd >= 0 && !fstat(fd, &st) && S_ISDIR(st.st_mode))
		c->d->dir[op->mount][op->slot] = fdopendir(fd);
}

static void do_close(struct call *c)
{
	close_slot(c->d, c->op->mount, c->op->slot);
}

static void do_pwrite(struct call *c)
{
	uint8_t *p = malloc(c->op->b + 1);

	model_fill(p, c->op->b, c->op->salt);
	transferred(c, c->op->kind == MODEL_APPEND ? write(c->fd, p, c->op->b)
						   : pwrite(c->fd, p, c->op->b, (off_t)c->op->a));
	free(p);
}

static void do_read(struct call *c)
{
	char *p = model_answer_bytes(c->got, c->op->b);
	ssize_t n = pread(c->fd, p, c->op->b, (off_t)c->op->a);

	result(c, n);
	c->got->len = n > 0 ? (size_t)n : 0;
}

static void do_ftrunc(struct call *c)
{
	result(c, ftruncate(c->fd, (off_t)c->op->a));
}

static void do_trunc(struct call *c)
{
	result(c, truncate(c->p, (off_t)c->op->a));
}

static void do_map(struct call *c)
{
	const struct model_op *op = c->op;
	int fd = fcntl(c->d->fd[op->mount][op->b], F_DUPFD_CLOEXEC, 0);
	void *p = mmap(NULL, MODEL_MAP_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	result(c, p == MAP_FAILED ? -1 : 0);
	unmap_slot(c->d, op->mount, op->slot);
	c->d->map[op->mount][op->slot] = p == MAP_FAILED ? NULL : p;
	c->d->map_fd[op->mount][op->slot] = fd;
}

static void do_unmap(struct call *c)
{
	unmap_slot(c->d, c->op->mount, c->op->slot);
}

/* Between nodes a map promises less than a read (docs/posix.md): the size is looked at before
 * the access, and stores count behind msync. */
static void do_access(struct call *c)
{
	const struct model_op *op = c->op;
	uint8_t *map = c->d->map[op->mount][op->slot], *from = map + op->a / 4096 * 4096;
	char *p = op->kind == MODEL_LOAD ? model_answer_bytes(c->got, op->b) : NULL;
	struct stat st;

	if (c->d->nmounts > 1 && fstat(c->d->map_fd[op->mount][op->slot], &st)) {
		result(c, -1);
		return;
	}
	if (sigsetjmp(on_fault, 1)) {
		may_fault = 0;
		c->got->err = MODEL_SIGBUS;
		return;
	}
	may_fault = 1;
	if (p)
		memcpy(p, map + op->a, op->b);
	else
		model_fill(map + op->a, op->b, op->salt);
	may_fault = 0;
	if (!p)
		result(c, msync(from, (size_t)(map + op->a + op->b - from), MS_SYNC));
}

static void take_stat(struct call *c, int rc, const struct stat *st)
{
	result(c, rc);
	if (rc)
		return;
	c->got->has_stat = true;
	c->got->mode = st->st_mode;
	c->got->nlink = (uint32_t)st->st_nlink;
	c->got->size = (uint64_t)st->st_size;
	c->got->ino = st->st_ino;
	c->got->mtime = st->st_mtim.tv_sec * 1000000000LL + st->st_mtim.tv_nsec;
	c->got->ctime = st->st_ctim.tv_sec * 1000000000LL + st->st_ctim.tv_nsec;
}

static void do_fstat(struct call *c)
{
	struct stat st;
	int rc = fstat(c->fd, &st);

	take_stat(c, rc, &st);
}

static void do_stat(struct call *c)
{
	struct stat st;
	int rc = c->op->flags & 1 ? stat(c->p, &st) : lstat(c->p, &st);

	take_stat(c, rc, &st);
}

/* ---- names ---- */
static int by_text(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* The lines, each of 300 bytes, in order. */
static void lines(struct call *c, char (*name)[300], size_t n)
{
	qsort(name, n, sizeof(*name), by_text);
	for (size_t k = 0; k < n; k++) {
		size_t at = c->got->len, len = strlen(name[k]);
		memcpy(model_answer_bytes(c->got, at + len) + at, name[k], len);
	}
}

static void list(struct call *c, DIR *dir)
{
	static char names[64][300];
	const struct dirent *e;
	size_t n = 0;

	for (errno = 0; n < 64 && (e = readdir(dir)); errno = 0)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			snprintf(names[n++], sizeof(names[0]), "%s %c\n", e->d_name,
				 e->d_type == DT_DIR   ? 'd'
				 : e->d_type == DT_LNK ? 'l'
				 : e->d_type == DT_REG ? 'f'
						       : '?');
	c->got->err = errno;
	if (!errno)
		lines(c, names, n);
}

static void do_list(struct call *c)
{
	DIR *dir = opendir(c->p);

	result(c, dir ? 0 : -1);
	if (!dir)
		return;
	list(c, dir);
	closedir(dir);
}

static void do_hlist(struct call *c)
{
	DIR *dir = c->d->dir[c->op->mount][c->op->slot];

	rewinddir(dir);
	list(c, dir);
}

/* Looks at both, whatever the first is. */
static bool any_dir(const char *p, const char *q)
{
	struct stat a, b;
	bool first = !lstat(p, &a) && S_ISDIR(a.st_mode), second = !lstat(q, &b) && S_ISDIR(b.st_mode);

	return first || second;
}

static void do_rename(struct call *c)
{
	int rc = renameat2(AT_FDCWD, c->p, AT_FDCWD, c->q, c->op->flags);

	/* docs/posix.md: a directory that another node moved here, before this node looked at
	 * it. */
	if (rc && errno == ESTALE && c->d->nmounts > 1 && any_dir(c->p, c->q))
		rc = renameat2(AT_FDCWD, c->p, AT_FDCWD, c->q, c->op->flags);
	result(c, rc);
}

static void do_link(struct call *c)
{
	result(c, link(c->p, c->q));
}

static void do_unlink(struct call *c)
{
	result(c, unlink(c->p));
}

static void do_mkdir(struct call *c)
{
	result(c, mkdir(c->p, c->op->flags));
}

static void do_rmdir(struct call *c)
{
	result(c, rmdir(c->p));
}

static void do_symlink(struct call *c)
{
	result(c, symlink(c->op->q, c->p));
}

static void do_readlink(struct call *c)
{
	ssize_t n = readlink(c->p, model_answer_bytes(c->got, 4096), 4096);

	result(c, n);
	c->got->len = n > 0 ? (size_t)n : 0;
}

/* ---- attributes ---- */
static void do_chmod(struct call *c)
{
	result(c, chmod(c->p, c->op->flags));
}

static void do_fchmod(struct call *c)
{
	result(c, fchmod(c->fd, c->op->flags));
}

static const char *attr(struct call *c)
{
	static const char *const names[MODEL_XATTRS] = {"user.m0", "user.m1", "user.m2", "user.m3"};
	return names[c->op->a];
}

static void do_setx(struct call *c)
{
	uint8_t v[4096];
	size_t len = MIN(c->op->b, sizeof(v));

	model_fill(v, len, c->op->salt);
	result(c, setxattr(c->p, attr(c), v, len, (int)c->op->flags));
}

static void do_getx(struct call *c)
{
	ssize_t n = getxattr(c->p, attr(c), model_answer_bytes(c->got, 4096), 4096);

	result(c, n);
	c->got->len = n > 0 ? (size_t)n : 0;
}

static void do_rmx(struct call *c)
{
	result(c, removexattr(c->p, attr(c)));
}

static void do_listx(struct call *c)
{
	static char names[64][300];
	char all[4096];
	ssize_t n = listxattr(c->p, all, sizeof(all));
	size_t found = 0;

	result(c, n);
	for (ssize_t at = 0; at < n && found < 64; at += (ssize_t)strlen(all + at) + 1)
		if (!strncmp(all + at, "user.", 5)) /* others are the system's */
			snprintf(names[found++], sizeof(names[0]), "%.290s\n", all + at);
	lines(c, names, found);
}

static void do_fsync(struct call *c)
{
	result(c, fsync(c->fd));
}

static void do_lock(struct call *c)
{
	struct flock l = {.l_type = (short)c->op->flags,
			  .l_whence = SEEK_SET,
			  .l_start = (off_t)c->op->a,
			  .l_len = (off_t)c->op->b};

	result(c, fcntl(c->fd, F_OFD_SETLK, &l));
}

static void do_flock(struct call *c)
{
	result(c, flock(c->fd, (int)c->op->flags | LOCK_NB));
}

void model_drive_op(struct model_drive *d, const struct model_op *op, struct model_answer *got)
{
	static void (*const by_kind[MODEL_KINDS])(struct call *) = {
		[MODEL_OPEN] = do_open,		[MODEL_CLOSE] = do_close, [MODEL_PWRITE] = do_pwrite,
		[MODEL_APPEND] = do_pwrite,	[MODEL_READ] = do_read,	  [MODEL_FTRUNC] = do_ftrunc,
		[MODEL_TRUNC] = do_trunc,	[MODEL_MAP] = do_map,	  [MODEL_UNMAP] = do_unmap,
		[MODEL_STORE] = do_access,	[MODEL_LOAD] = do_access, [MODEL_FSTAT] = do_fstat,
		[MODEL_STAT] = do_stat,		[MODEL_LIST] = do_list,	  [MODEL_HLIST] = do_hlist,
		[MODEL_RENAME] = do_rename,	[MODEL_LINK] = do_link,	  [MODEL_UNLINK] = do_unlink,
		[MODEL_MKDIR] = do_mkdir,	[MODEL_RMDIR] = do_rmdir, [MODEL_SYMLINK] = do_symlink,
		[MODEL_READLINK] = do_readlink, [MODEL_CHMOD] = do_chmod, [MODEL_FCHMOD] = do_fchmod,
		[MODEL_SETX] = do_setx,		[MODEL_GETX] = do_getx,	  [MODEL_RMX] = do_rmx,
		[MODEL_LISTX] = do_listx,	[MODEL_FSYNC] = do_fsync, [MODEL_LOCK] = do_lock,
		[MODEL_FLOCK] = do_flock,
	};
	char p[4400], q[4400];
	struct call c = {d, op, got, d->fd[op->mount][op->slot], p, q};

	snprintf(p, sizeof(p), "%s/%s", d->base[op->mount], op->p);
	snprintf(q, sizeof(q), "%s/%s", d->base[op->mount], op->q);
	model_answer_reset(got);
	by_kind[op->kind](&c);
	if (got->err)
		got->len = 0;
}
