/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what the tests call: paths, checks, looks through both mounts, helpers in other processes.
 * What must never happen: a check that failed in a child process and is not counted (the counter is shared memory). */
#include "px.h"
#include "px_run.h"

#include <dirent.h>
#include <grp.h>
#include <stdarg.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>

#define SHOWN_MOST 25 /* failed checks of one test that are printed */

struct px px;

/* ---- paths ---- */
static const char *path(const char *dir, const char *fmt, va_list ap)
{
	static char ring[16][2 * PATH_MAX];
	static unsigned at;
	char *p = ring[at++ % PX_LEN(ring)];
	int n = snprintf(p, sizeof(ring[0]), "%s/", dir);

	vsnprintf(p + n, sizeof(ring[0]) - (size_t)n, fmt, ap);
	return p;
}

const char *pa(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	const char *p = path(px.a, fmt, ap);
	va_end(ap);
	return p;
}

const char *pb(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	const char *p = path(px.b, fmt, ap);
	va_end(ap);
	return p;
}

const char *px_path(bool b, const char *name)
{
	return b ? pb("%s", name) : pa("%s", name);
}

/* ---- failures ---- */
static const char *err_name(int e)
{
	const char *n = strerrorname_np(e);
	return n ? n : "no errno";
}

/* One line, one write: several processes print. */
static void say(const char *file, int line, const char *object, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
static void say(const char *file, int line, const char *object, const char *fmt, ...)
{
	char buf[1200], what[600];
	unsigned n = __atomic_add_fetch(&px_shared->failed, 1, __ATOMIC_SEQ_CST);
	va_list ap;

	if (n > SHOWN_MOST)
		return;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	const char *base = strrchr(file, '/');
	int len = snprintf(buf, sizeof(buf), "FAIL %s: %.400s: %s (%s:%d)%s\n", px_shared->test, object, what, base ? base + 1 : file,
			   line, n == SHOWN_MOST ? " ... no more shown" : "");
	(void)!write(1, buf, (size_t)len);
}

static void counted(void)
{
	__atomic_add_fetch(&px_shared->checks, 1, __ATOMIC_SEQ_CST);
}

unsigned px_failed(void)
{
	return __atomic_load_n(&px_shared->failed, __ATOMIC_SEQ_CST);
}

void px_note(const char *fmt, ...)
{
	char text[500];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	dprintf(1, "note %s: %s\n", px_shared->test, text);
}

void px_skip(const char *why)
{
	snprintf(px_shared->why, sizeof(px_shared->why), "%s", why);
	_exit(PX_SKIPPED);
}

/* ---- checks ---- */
long px_ok(const char *file, int line, const char *call, long got)
{
	int e = errno;
	counted();
	if (got < 0)
		say(file, line, call, "expected success, got %s", err_name(e));
	errno = e;
	return got;
}

long px_need(const char *file, int line, const char *call, long got)
{
	int e = errno;
	counted();
	if (got >= 0)
		return got;
	say(file, line, call, "expected success (the rest of the test needs it), got %s", err_name(e));
	_exit(1);
}

bool px_fails(const char *file, int line, const char *call, int err, long got)
{
	int e = errno;
	counted();
	if (got >= 0)
		say(file, line, call, "expected %s, got success (%ld)", err_name(err), got);
	else if (e != err)
		say(file, line, call, "expected %s, got %s", err_name(err), err_name(e));
	return got < 0 && e == err;
}

#define OBJECT(buf)                                    \
	char buf[600];                                 \
	va_list ap;                                    \
	va_start(ap, fmt);                             \
	vsnprintf(buf, sizeof(buf), fmt, ap);          \
	va_end(ap)

bool px_eq(const char *file, int line, long long want, long long got, const char *fmt, ...)
{
	OBJECT(what);
	counted();
	if (want != got)
		say(file, line, what, "expected %lld (%#llx), got %lld (%#llx)", want, want, got, got);
	return want == got;
}

bool px_true(const char *file, int line, const char *cond, bool is, const char *fmt, ...)
{
	OBJECT(what);
	counted();
	if (!is)
		say(file, line, what, "expected '%.300s', got the contrary", cond);
	return is;
}

bool px_str(const char *file, int line, const char *want, const char *got, const char *fmt, ...)
{
	OBJECT(what);
	counted();
	if (strcmp(want, got))
		say(file, line, what, "expected '%.200s', got '%.200s'", want, got);
	return !strcmp(want, got);
}

bool px_bytes(const char *file, int line, const void *want, const void *got, size_t len, const char *fmt, ...)
{
	const uint8_t *w = want, *g = got;
	size_t i = 0, bad = 0, last = 0;
	OBJECT(what);

	counted();
	if (!memcmp(w, g, len))
		return true;
	while (w[i] == g[i])
		i++;
	for (size_t k = i; k < len; k++)
		if (w[k] != g[k]) {
			bad++;
			last = k;
		}
	say(file, line, what, "expected byte %#x at %zu (%#zx), got %#x; %zu bytes differ, the last at %zu (%#zx), of %zu", w[i], i, i,
	    g[i], bad, last, last, len);
	return false;
}

/* ---- looks ---- */
struct stat px_stat(const char *p)
{
	struct stat st;

	errno = 0;
	if (lstat(p, &st)) {
		say(PX_HERE, p, "expected lstat to succeed, got %s", err_name(errno));
		memset(&st, 0, sizeof(st));
	}
	counted();
	return st;
}

struct stat px_same_stat(const char *name)
{
	struct stat a = px_stat(pa("%s", name)), b;

	if (!px.two)
		return a;
	b = px_stat(pb("%s", name));
	EQ(a.st_ino, b.st_ino, "inode number of %s through B as through A", name);
	EQ(a.st_mode, b.st_mode, "mode of %s through B as through A", name);
	EQ(a.st_nlink, b.st_nlink, "links of %s through B as through A", name);
	EQ(a.st_uid, b.st_uid, "owner of %s through B as through A", name);
	EQ(a.st_gid, b.st_gid, "group of %s through B as through A", name);
	EQ(a.st_rdev, b.st_rdev, "device of %s through B as through A", name);
	EQ(a.st_size, b.st_size, "size of %s through B as through A", name);
	EQ(px_ns(a.st_mtim), px_ns(b.st_mtim), "mtime of %s through B as through A", name);
	EQ(px_ns(a.st_ctim), px_ns(b.st_ctim), "ctime of %s through B as through A", name);
	return a;
}

void px_gone(const char *name)
{
	struct stat st;

	for (int b = 0; b <= px.two; b++) {
		const char *p = px_path(b, name);
		counted();
		errno = 0;
		if (!lstat(p, &st) || errno != ENOENT)
			say(PX_HERE, p, "expected lstat to give ENOENT, got %s", errno ? err_name(errno) : "an object");
	}
}

void px_nlink(const char *name, unsigned want)
{
	for (int b = 0; b <= px.two; b++)
		EQ(want, px_stat(px_path(b, name)).st_nlink, "links of %s", px_path(b, name));
}

void px_size(const char *name, long long want)
{
	for (int b = 0; b <= px.two; b++)
		EQ(want, px_stat(px_path(b, name)).st_size, "size of %s", px_path(b, name));
}

static void content(const char *p, const void *want, size_t len)
{
	uint8_t *got = malloc(len + 4096);
	size_t n = 0;
	ssize_t r;
	int fd = (int)OK(open(p, O_RDONLY | O_NOFOLLOW));

	if (fd < 0 || !got) {
		say(PX_HERE, p, "expected to read it, got no descriptor");
		free(got);
		return;
	}
	while ((r = read(fd, got + n, len + 4096 - n)) > 0)
		n += (size_t)r;
	counted();
	if (r < 0)
		say(PX_HERE, p, "expected to read %zu bytes, got %s at %zu", len, err_name(errno), n);
	else if (EQ(len, n, "bytes read to the end of %s", p))
		SAME_BYTES(want, got, len, "content of %s", p);
	close(fd);
	free(got);
}

void px_content(const char *name, const void *want, size_t len)
{
	for (int b = 0; b <= px.two; b++)
		content(px_path(b, name), want, len);
	px_size(name, (long long)len);
}

void px_listing(const char *name, const char *const *want, size_t n)
{
	for (int b = 0; b <= px.two; b++) {
		const char *p = px_path(b, name);
		DIR *d = opendir(p);
		size_t seen = 0;

		if (!TRUE(d != NULL, "opendir %s", p))
			continue;
		for (struct dirent *e; (e = readdir(d));) {
			bool known = false;
			if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
				continue;
			for (size_t i = 0; i < n; i++)
				known |= !strcmp(want[i], e->d_name);
			TRUE(known, "entry '%s' listed in %s", e->d_name, p);
			seen++;
		}
		EQ(n, seen, "entries listed in %s", p);
		closedir(d);
	}
}

/* ---- making ---- */
void px_fill(void *buf, size_t len, unsigned salt)
{
	uint8_t *p = buf;

	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)(1 + (i * 7 + (i >> 8) * 13 + (i >> 16) * 29 + salt * 101) % 255); /* never zero */
}

int px_open(const char *p, int flags)
{
	int fd = open(p, flags, 0644);

	counted();
	if (fd >= 0)
		return fd;
	say(PX_HERE, p, "expected open(%#x) to succeed (the rest of the test needs it), got %s", flags, err_name(errno));
	_exit(1);
}

void px_make(const char *p, const void *data, size_t len)
{
	int fd = px_open(p, O_WRONLY | O_CREAT | O_EXCL);
	size_t n = 0;

	while (n < len) {
		ssize_t w = write(fd, (const char *)data + n, len - n);
		if (w <= 0) {
			say(PX_HERE, p, "expected to write %zu bytes, got %s at %zu", len, err_name(errno), n);
			_exit(1);
		}
		n += (size_t)w;
	}
	OK(close(fd));
}

void px_mkfile(const char *p)
{
	px_make(p, "", 0);
}

void px_tick(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 12000000}, NULL);
}

int64_t px_ns(struct timespec t)
{
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

bool px_kernel(int major, int minor)
{
	struct utsname u;
	int a = 0, b = 0;

	if (px.local || uname(&u) || sscanf(u.release, "%d.%d", &a, &b) != 2)
		return true;
	return a > major || (a == major && b >= minor);
}

uint64_t px_rnd(void)
{
	px.seed ^= px.seed << 13;
	px.seed ^= px.seed >> 7;
	return px.seed ^= px.seed << 17;
}

/* ---- processes ---- */
static void reap(pid_t pid, const char *what)
{
	int st = 0;

	while (waitpid(pid, &st, 0) < 0 && errno == EINTR)
		;
	counted();
	if (WIFSIGNALED(st))
		say(PX_HERE, what, "expected an ordinary end, got signal %d", WTERMSIG(st));
	else if (WEXITSTATUS(st) == PX_SKIPPED)
		_exit(PX_SKIPPED);
}

void px_as(uid_t uid, gid_t gid, void (*fn)(void *), void *arg)
{
	pid_t pid = fork();

	if (pid == 0) {
		if (setgroups(0, NULL) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid)) {
			say(PX_HERE, "process of another user", "expected success, got %s", err_name(errno));
			_exit(1);
		}
		fn(arg);
		_exit(0);
	}
	reap((pid_t)NEED(pid), "process of another user");
}

void px_parallel(unsigned n, void (*fn)(void *, unsigned), void *arg)
{
	pid_t pid[16];

	for (unsigned i = 0; i < n && i < PX_LEN(pid); i++) {
		pid[i] = (pid_t)NEED(fork());
		if (pid[i] == 0) {
			px.seed += 1000003 * (i + 1);
			fn(arg, i);
			_exit(0);
		}
	}
	for (unsigned i = 0; i < n && i < PX_LEN(pid); i++)
		reap(pid[i], "parallel process");
}
