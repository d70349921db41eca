/* SPDX-License-Identifier: Apache-2.0 */
/* far_calls.so, for LD_PRELOAD: calls on paths below /far/HOST:PORT and on their descriptors are made by far_serve there; all
 * others here. A process has a connection of its own to each machine. What must never happen: a descriptor of there taken for one
 * of here: each has a number here, too. far_map.c has maps and the clock. */
#include "far_int.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#define LINKS 4
#define FDS   1024

static struct far_link links[LINKS];
static struct {
	struct far_link *l;
	int fd;
	pid_t pid;
} fds[FDS];

__attribute__((constructor)) static void begin(void)
{
	unsetenv("LD_PRELOAD"); /* not for programs that this one starts */
}

static void lost(const char *what)
{
	fprintf(stderr, "far: %s: %s\n", what, strerror(errno));
	_exit(2);
}

static void move(int fd, void *p, size_t n, bool out)
{
	for (size_t done = 0; done < n;) {
		long r = syscall(out ? SYS_write : SYS_read, fd, (char *)p + done, n - done);
		if (r == 0)
			errno = ECONNRESET;
		if (r <= 0 && errno != EINTR)
			lost("connection to the other machine");
		done += r > 0 ? (size_t)r : 0;
	}
}

static void dial(struct far_link *l)
{
	struct sockaddr_in at = {.sin_family = AF_INET};
	char host[sizeof(l->name)], *port;
	int one = 1;

	snprintf(host, sizeof(host), "%s", l->name);
	port = strchr(host, ':');
	if (!port)
		lost("HOST:PORT is expected behind " FAR_PREFIX);
	*port++ = 0;
	at.sin_port = htons((uint16_t)atoi(port));
	l->sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (inet_pton(AF_INET, host, &at.sin_addr) != 1 || connect(l->sock, (struct sockaddr *)&at, sizeof(at)))
		lost(l->name);
	setsockopt(l->sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	l->pid = getpid();
}

/* The path as it is there, and who makes the call: NULL is this machine. */
static const char *where(const char *path, struct far_link **l)
{
	const char *name = path + strlen(FAR_PREFIX), *rest;
	size_t len, i = 0;

	*l = NULL;
	if (strncmp(path, FAR_PREFIX, strlen(FAR_PREFIX)) != 0)
		return path;
	rest = strchrnul(name, '/');
	len = (size_t)(rest - name);
	while (i < LINKS && links[i].name[0] && (strncmp(links[i].name, name, len) != 0 || links[i].name[len]))
		i++;
	if (i == LINKS || len >= sizeof(links[i].name))
		lost("too many machines");
	*l = &links[i];
	memcpy((*l)->name, name, len);
	if ((*l)->pid != getpid())
		dial(*l);
	return *rest ? rest : "/";
}

struct far_link *far_of(int fd, int *there)
{
	bool far = fd >= 0 && fd < FDS && fds[fd].l && fds[fd].pid == getpid();

	*there = far ? fds[fd].fd : fd;
	return far ? fds[fd].l : NULL;
}

long far_do(struct far_link *l, long nr, const struct far_arg a[FAR_ARGS])
{
	struct far_call_msg c = {.nr = nr};
	struct far_answer_msg r;
	long v[FAR_ARGS];

	for (unsigned i = 0; i < FAR_ARGS; i++) {
		v[i] = (long)(a[i].kind == FAR_VALUE ? a[i].v : (uint64_t)(uintptr_t)a[i].p);
		c.v[i] = a[i].v;
		c.kind[i] = a[i].kind;
	}
	if (!l)
		return syscall(nr, v[0], v[1], v[2], v[3], v[4], v[5]);
	move(l->sock, &c, sizeof(c), true);
	for (unsigned i = 0; i < FAR_ARGS; i++)
		if (a[i].kind & FAR_IN)
			move(l->sock, a[i].p, a[i].v, true);
	move(l->sock, &r, sizeof(r), false);
	for (unsigned i = 0; i < FAR_ARGS; i++)
		if (a[i].kind & FAR_OUT)
			move(l->sock, a[i].p, a[i].v, false);
	if (r.rc < 0)
		errno = (int)r.err;
	return (long)r.rc;
}

#define CALL(l, nr, ...) (far_maps_flush(), far_do(l, nr, (const struct far_arg[FAR_ARGS]){__VA_ARGS__}))
#define V(x)		 {.v = (uint64_t)(x)}
#define IN(q, n)	 {.p = (void *)(uintptr_t)(q), .v = (n), .kind = FAR_IN}
#define OUT(q, n)	 {.p = (q), .v = (n), .kind = FAR_OUT}
#define INOUT(q, n)	 {.p = (q), .v = (n), .kind = FAR_INOUT}
#define STR(s)		 IN(s, strlen(s) + 1)

/* ---- descriptors ---- */

/* One of there gets a number here: that of a copy of the connection. */
static int fd_new(struct far_link *l, long there)
{
	int fd = (int)there;

	if (!l || there < 0)
		return fd;
	fd = (int)syscall(SYS_fcntl, l->sock, F_DUPFD_CLOEXEC, 0);
	if (fd < 0 || fd >= FDS)
		lost("descriptors");
	fds[fd].l = l;
	fds[fd].fd = (int)there;
	fds[fd].pid = getpid();
	return fd;
}

int open(const char *path, int flags, ...)
{
	struct far_link *l;
	mode_t mode = 0;
	va_list ap;

	if (flags & (O_CREAT | __O_TMPFILE)) {
		va_start(ap, flags);
		mode = va_arg(ap, mode_t);
		va_end(ap);
	}
	path = where(path, &l);
	return fd_new(l, CALL(l, SYS_openat, V(AT_FDCWD), STR(path), V(flags), V(mode)));
}

int close(int fd)
{
	int there;
	struct far_link *l = far_of(fd, &there);
	long rc = CALL(l, SYS_close, V(there));

	if (l) {
		fds[fd].l = NULL;
		syscall(SYS_close, fd);
	}
	return (int)rc;
}

int fcntl(int fd, int cmd, ...)
{
	int there;
	struct far_link *l = far_of(fd, &there);
	struct flock *lock;
	va_list ap;
	long arg;

	va_start(ap, cmd);
	arg = va_arg(ap, long);
	va_end(ap);
	lock = (struct flock *)arg;
	switch (cmd) {
	case F_DUPFD:
	case F_DUPFD_CLOEXEC:
		return fd_new(l, CALL(l, SYS_fcntl, V(there), V(cmd), V(arg)));
	case F_GETLK:
	case F_SETLK:
	case F_SETLKW:
	case F_OFD_GETLK:
	case F_OFD_SETLK:
	case F_OFD_SETLKW:
		return (int)CALL(l, SYS_fcntl, V(there), V(cmd), INOUT(lock, sizeof(*lock)));
	default:
		return (int)CALL(l, SYS_fcntl, V(there), V(cmd), V(arg));
	}
}

/* Calls that take a descriptor and are nothing but their arguments. */
#define BY_FD(type, name, params, nr, ...)                                \
	type name params                                                  \
	{                                                                 \
		int there;                                                \
		struct far_link *l = far_of(fd, &there);                  \
		return (type)CALL(l, nr, V(there), ##__VA_ARGS__);        \
	}
/* The same for a path. */
#define BY_PATH(type, name, params, nr, ...)                              \
	type name params                                                  \
	{                                                                 \
		struct far_link *l;                                       \
		path = where(path, &l);                                   \
		return (type)CALL(l, nr, ##__VA_ARGS__);                  \
	}

BY_FD(ssize_t, pread, (int fd, void *p, size_t n, off_t at), SYS_pread64, OUT(p, n), V(n), V(at))
BY_FD(ssize_t, pwrite, (int fd, const void *p, size_t n, off_t at), SYS_pwrite64, IN(p, n), V(n), V(at))
BY_FD(ssize_t, read, (int fd, void *p, size_t n), SYS_read, OUT(p, n), V(n))
BY_FD(ssize_t, write, (int fd, const void *p, size_t n), SYS_write, IN(p, n), V(n))
BY_FD(off_t, lseek, (int fd, off_t at, int whence), SYS_lseek, V(at), V(whence))
BY_FD(int, fstat, (int fd, struct stat *st), SYS_fstat, OUT(st, sizeof(*st)))
BY_FD(int, ftruncate, (int fd, off_t to), SYS_ftruncate, V(to))
BY_FD(int, fallocate, (int fd, int mode, off_t at, off_t len), SYS_fallocate, V(mode), V(at), V(len))
BY_FD(int, fsync, (int fd), SYS_fsync)
BY_FD(int, fdatasync, (int fd), SYS_fdatasync)
BY_FD(int, fchmod, (int fd, mode_t mode), SYS_fchmod, V(mode))
BY_FD(int, flock, (int fd, int how), SYS_flock, V(how))
BY_FD(ssize_t, fgetxattr, (int fd, const char *name, void *p, size_t n), SYS_fgetxattr, STR(name), OUT(p, n), V(n))
BY_FD(int, fsetxattr, (int fd, const char *name, const void *p, size_t n, int flags), SYS_fsetxattr, STR(name), IN(p, n), V(n), V(flags))
BY_PATH(int, stat, (const char *path, struct stat *st), SYS_newfstatat, V(AT_FDCWD), STR(path), OUT(st, sizeof(*st)), V(0))
BY_PATH(int, lstat, (const char *path, struct stat *st), SYS_newfstatat, V(AT_FDCWD), STR(path), OUT(st, sizeof(*st)),
	V(AT_SYMLINK_NOFOLLOW))
BY_PATH(int, access, (const char *path, int how), SYS_access, STR(path), V(how))
BY_PATH(int, truncate, (const char *path, off_t to), SYS_truncate, STR(path), V(to))
BY_PATH(int, unlink, (const char *path), SYS_unlink, STR(path))
BY_PATH(int, rmdir, (const char *path), SYS_rmdir, STR(path))
BY_PATH(int, mkdir, (const char *path, mode_t mode), SYS_mkdir, STR(path), V(mode))
BY_PATH(int, chmod, (const char *path, mode_t mode), SYS_chmod, STR(path), V(mode))
BY_PATH(int, symlink, (const char *target, const char *path), SYS_symlink, STR(target), STR(path))
BY_PATH(ssize_t, readlink, (const char *path, char *p, size_t n), SYS_readlink, STR(path), OUT(p, n), V(n))
BY_PATH(ssize_t, getxattr, (const char *path, const char *name, void *p, size_t n), SYS_getxattr, STR(path), STR(name), OUT(p, n), V(n))
BY_PATH(int, setxattr, (const char *path, const char *name, const void *p, size_t n, int flags), SYS_setxattr, STR(path), STR(name),
	IN(p, n), V(n), V(flags))
BY_PATH(ssize_t, listxattr, (const char *path, char *p, size_t n), SYS_listxattr, STR(path), OUT(p, n), V(n))
BY_PATH(int, removexattr, (const char *path, const char *name), SYS_removexattr, STR(path), STR(name))

int posix_fadvise(int fd, off_t at, off_t len, int advice)
{
	int there;
	struct far_link *l = far_of(fd, &there);

	return CALL(l, SYS_fadvise64, V(there), V(at), V(len), V(advice)) ? errno : 0;
}

static bool one_machine(const struct far_link *a, const struct far_link *b)
{
	if (a != b)
		errno = EXDEV;
	return a == b;
}

ssize_t copy_file_range(int from, off_t *i, int to, off_t *o, size_t n, unsigned flags)
{
	int there, other;
	struct far_link *l = far_of(from, &there);

	if (!one_machine(l, far_of(to, &other)))
		return -1;
	return CALL(l, SYS_copy_file_range, V(there), INOUT(i, sizeof(*i)), V(other), INOUT(o, sizeof(*o)), V(n), V(flags));
}

int link(const char *path, const char *name)
{
	struct far_link *l, *k;

	path = where(path, &l);
	name = where(name, &k);
	return one_machine(l, k) ? (int)CALL(l, SYS_link, STR(path), STR(name)) : -1;
}

int renameat2(int from, const char *path, int to, const char *name, unsigned flags)
{
	struct far_link *l, *k;

	path = where(path, &l);
	name = where(name, &k);
	return one_machine(l, k) ? (int)CALL(l, SYS_renameat2, V(from), STR(path), V(to), STR(name), V(flags)) : -1;
}

int remove(const char *path)
{
	return unlink(path) && (errno != EISDIR || rmdir(path)) ? -1 : 0;
}

/* ---- directories ---- */
struct __dirstream {
	int fd;
	size_t at, len;
	char ents[32768];
};

DIR *fdopendir(int fd)
{
	DIR *d = calloc(1, sizeof(*d));

	if (d)
		d->fd = fd;
	return d;
}

DIR *opendir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? NULL : fdopendir(fd);
}

int closedir(DIR *d)
{
	int rc = close(d->fd);

	free(d);
	return rc;
}

struct dirent *readdir(DIR *d)
{
	struct dirent *e;
	int there;
	struct far_link *l = far_of(d->fd, &there);

	if (d->at == d->len) {
		long n = CALL(l, SYS_getdents64, V(there), OUT(d->ents, sizeof(d->ents)), V(sizeof(d->ents)));
		if (n <= 0)
			return NULL;
		d->len = (size_t)n;
		d->at = 0;
	}
	e = (struct dirent *)(d->ents + d->at);
	d->at += e->d_reclen;
	return e;
}

void rewinddir(DIR *d)
{
	d->at = d->len = 0;
	lseek(d->fd, 0, SEEK_SET);
}

/* As FTW_DEPTH | FTW_PHYS, which is all that is asked for. */
int nftw(const char *path, int (*fn)(const char *, const struct stat *, int, struct FTW *), int nopen, int flags)
{
	struct FTW ftw = {0};
	struct stat st;
	char below[5000];
	DIR *d;
	int rc = 0;

	if (lstat(path, &st))
		return -1;
	if (!S_ISDIR(st.st_mode))
		return fn(path, &st, FTW_F, &ftw);
	d = opendir(path);
	for (struct dirent *e; !rc && d && (e = readdir(d));) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		snprintf(below, sizeof(below), "%.4500s/%.255s", path, e->d_name);
		rc = nftw(below, fn, nopen, flags);
	}
	if (d)
		closedir(d);
	return rc ? rc : fn(path, &st, FTW_DP, &ftw);
}
