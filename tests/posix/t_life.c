/* SPDX-License-Identifier: Apache-2.0 */
/* Topic: the life of objects: open files without a name, statfs, locks, programs run from the mount,
 * directories in use as working directory or mount point. */
#include "px.h"

#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <sys/wait.h>

/* Open through A, removed through B (or A): data, size and attributes go on until the last close. */
static void unlinked_open(void)
{
	char want[5000], got[5000];
	struct stat st;

	px_fill(want, sizeof(want), 1);
	for (int by = 0; by <= px.two; by++) {
		px_make(pa("f"), want, sizeof(want));
		int a = px_open(pa("f"), O_RDWR), b = px_open(pb("f"), O_RDWR);
		OK(unlink(px_path(by, "f")));
		px_gone("f");
		OK(fstat(a, &st));
		EQ(0, st.st_nlink, "links through A after unlink");
		OK(fstat(b, &st));
		EQ(0, st.st_nlink, "links through B after unlink");
		EQ(5000, pread(a, got, 5000, 0), "read through A");
		SAME_BYTES(want, got, 5000, "unlinked file through A");
		EQ(100, pwrite(b, want + 7, 100, 6000), "write through B");
		EQ(100, pread(a, got, 200, 6000), "read through A of what B wrote");
		SAME_BYTES(want + 7, got, 100, "unlinked file, written through B, through A");
		OK(ftruncate(a, 10));
		OK(fstat(b, &st));
		EQ(10, st.st_size, "size through B");
		OK(fchmod(a, 0600));
		OK(fsync(b));
		px_mkfile(pa("f"));
		EQ(10, pread(b, got, 100, 0), "read through B with another file of the name there");
		OK(close(a));
		EQ(10, pread(b, got, 100, 0), "read through B after A's close");
		SAME_BYTES(want, got, 10, "unlinked file through B");
		OK(close(b));
		px_size("f", 0);
		OK(unlink(pb("f")));
	}
}

static unsigned long long free_now(void)
{
	struct statvfs s;

	memset(&s, 0, sizeof(s));
	OK(statvfs(pa("."), &s));
	return (unsigned long long)s.f_bfree * s.f_frsize;
}

/* The space of an unlinked open file comes back after the last close, wherever that is. */
static void unlinked_freed(void)
{
	size_t len = 32 * PX_MIB;
	char *buf = calloc(1, PX_MIB);
	int a = px_open(pa("f"), O_RDWR | O_CREAT), b = px_open(pb("f"), O_RDONLY);
	unsigned long long before, after = 0;
	char c;

	memset(buf, 3, PX_MIB);
	for (size_t at = 0; at < len; at += PX_MIB)
		NEED(pwrite(a, buf, PX_MIB, (off_t)at));
	OK(fsync(a));
	OK(unlink(pa("f")));
	OK(close(a));
	before = free_now();
	EQ(1, pread(b, &c, 1, (off_t)len - 1), "read through B after A's close");
	EQ(3, c, "its last byte");
	OK(close(b));
	int d = px_open(pa("."), O_RDONLY);
	for (int i = 0; i < 300 && after < before + len / 2; i++) {
		usleep(100000);
		syncfs(d);
		after = free_now();
	}
	TRUE(after >= before + len / 2, "free space after the last close: before %llu, after %llu", before, after);
	free(buf);
}

/* A descriptor goes with the object, not the name. */
static void renamed_open(void)
{
	struct stat st;
	char got[10];
	int fd, d;

	px_make(pa("f"), "abc", 3);
	NEED(mkdir(pa("d"), 0755));
	fd = px_open(pa("f"), O_RDWR);
	d = px_open(pa("d"), O_RDONLY | O_DIRECTORY);
	OK(rename(pb("f"), pb("d/g")));
	OK(rename(pb("d"), pb("e")));
	EQ(2, pwrite(fd, "XY", 2, 0), "write after the rename");
	px_content("e/g", "XYc", 3);
	EQ(3, pread(fd, got, 10, 0), "read after the rename");
	OK(fstat(fd, &st));
	EQ(1, st.st_nlink, "links after the rename");
	OK(fstatat(d, "g", &st, 0));
	OK(close((int)NEED(openat(d, "h", O_CREAT | O_RDWR, 0644))));
	px_same_stat("e/h");
	OK(unlink(pb("e/g")));
	px_make(pb("e/g"), "new", 3);
	EQ(3, pread(fd, got, 10, 0), "read of the old file");
	SAME_BYTES("XYc", got, 3, "the old file");
	px_content("e/g", "new", 3);
}

static void fs_numbers(void)
{
	struct statvfs v, w;
	struct statfs s;
	int fd;

	OK(statvfs(pa("."), &v));
	OK(statfs(pa("."), &s));
	TRUE(v.f_bsize >= 512 && v.f_frsize >= 512 && v.f_frsize <= v.f_bsize, "block sizes %lu, %lu", v.f_bsize, v.f_frsize);
	TRUE(v.f_blocks > 0 && v.f_bfree <= v.f_blocks && v.f_bavail <= v.f_bfree, "blocks %lu, free %lu, available %lu",
	     (unsigned long)v.f_blocks, (unsigned long)v.f_bfree, (unsigned long)v.f_bavail);
	TRUE(v.f_files > 0 && v.f_ffree <= v.f_files, "inodes %lu, free %lu", (unsigned long)v.f_files, (unsigned long)v.f_ffree);
	EQ(255, v.f_namemax, "longest name");
	fd = px_open(pa("f"), O_RDWR | O_CREAT);
	OK(fstatvfs(fd, &w));
	EQ(v.f_blocks, w.f_blocks, "blocks by fstatvfs");
	OK(statvfs(pb("."), &w));
	EQ(v.f_blocks, w.f_blocks, "blocks through B");
	EQ(v.f_bsize, w.f_bsize, "block size through B");
	TRUE(px_stat(pa("f")).st_blksize >= 512, "st_blksize %ld", (long)px_stat(pa("f")).st_blksize);
	EQ(px_stat(pa("f")).st_dev, px_stat(pa(".")).st_dev, "device number within a mount");
}

/* ---- locks: the usual; t_lock.c has the rest ---- */
static int try_fcntl(int fd, short type, off_t start, off_t len)
{
	struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
	return fcntl(fd, F_SETLK, &l);
}

static int other_process(int (*fn)(const char *), const char *path)
{
	int st;
	pid_t pid = fork();

	if (pid == 0)
		_exit(fn(path));
	waitpid(pid, &st, 0);
	return WEXITSTATUS(st);
}

static int flock_ex(const char *path)
{
	int fd = open(path, O_RDWR);
	return flock(fd, LOCK_EX | LOCK_NB) ? errno : 0;
}

static int fcntl_ex(const char *path)
{
	int fd = open(path, O_RDWR);
	return try_fcntl(fd, F_WRLCK, 0, 10) ? errno : 0;
}

static int fcntl_beside(const char *path)
{
	int fd = open(path, O_RDWR);
	return try_fcntl(fd, F_WRLCK, 100, 10) ? errno : 0;
}

static void locks(void)
{
	px_make(pa("f"), "abc", 3);
	int fd = px_open(pa("f"), O_RDWR), two = px_open(pa("f"), O_RDWR);

	OK(flock(fd, LOCK_EX | LOCK_NB));
	FAILS(EWOULDBLOCK, flock(two, LOCK_SH | LOCK_NB));
	EQ(EWOULDBLOCK, other_process(flock_ex, pa("f")), "flock of another process");
	OK(flock(fd, LOCK_UN));
	OK(flock(fd, LOCK_SH));
	OK(flock(two, LOCK_SH | LOCK_NB));
	FAILS(EWOULDBLOCK, flock(two, LOCK_EX | LOCK_NB));
	OK(close(fd));
	OK(flock(two, LOCK_EX | LOCK_NB));
	OK(close(two));
	EQ(0, other_process(flock_ex, pa("f")), "flock after close");
	fd = px_open(pa("f"), O_RDWR);
	OK(try_fcntl(fd, F_WRLCK, 0, 50));
	EQ(EAGAIN, other_process(fcntl_ex, pa("f")), "fcntl lock of another process");
	EQ(0, other_process(fcntl_beside, pa("f")), "fcntl lock of another range");
	OK(try_fcntl(fd, F_UNLCK, 0, 20));
	EQ(0, other_process(fcntl_ex, pa("f")), "fcntl lock after unlocking");
	struct flock q = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 30, .l_len = 1};
	OK(try_fcntl(fd, F_WRLCK, 0, 0));
	OK(fcntl(fd, F_OFD_GETLK, &q));
	EQ(F_WRLCK, q.l_type, "F_OFD_GETLK sees the process's lock");
	OK(close(px_open(pa("f"), O_RDONLY)));
	EQ(0, other_process(fcntl_ex, pa("f")), "fcntl locks go with any close of the file");
}

/* ---- programs ---- */
static int copy_to(const char *from, const char *to)
{
	int in = (int)NEED(open(from, O_RDONLY)), out = (int)NEED(open(to, O_WRONLY | O_CREAT | O_EXCL, 0755));
	char buf[65536];

	for (ssize_t n; (n = read(in, buf, sizeof(buf))) > 0;)
		if (!EQ(n, write(out, buf, (size_t)n), "copy of %s", from))
			return -1;
	close(in);
	return close(out);
}

static int run_program(const char *path)
{
	int st;
	pid_t pid = fork();

	if (pid == 0) {
		execl(path, path, (char *)NULL);
		_exit(errno);
	}
	waitpid(pid, &st, 0);
	return WIFEXITED(st) ? WEXITSTATUS(st) : -WTERMSIG(st);
}

static void programs(void)
{
	static const char script[] = "#!/bin/sh\nexit 7\n", other[] = "#!/bin/sh\nexit 9\n";
	int fd;

	OK(copy_to("/bin/true", pa("true")));
	OK(copy_to("/bin/false", pa("false")));
	for (int b = 0; b <= px.two; b++) {
		EQ(0, run_program(px_path(b, "true")), "a copy of true, run");
		EQ(1, run_program(px_path(b, "false")), "a copy of false, run");
	}
	OK(rename(pb("false"), pb("true")));
	EQ(1, run_program(pa("true")), "a program replaced through B, run");
	px_make(pa("s"), script, strlen(script));
	EQ(EACCES, run_program(pa("s")), "a script that is not executable");
	OK(chmod(pb("s"), 0755));
	EQ(7, run_program(pa("s")), "a script made executable through B");
	fd = px_open(pb("s"), O_WRONLY | O_TRUNC);
	EQ(strlen(other), write(fd, other, strlen(other)), "script written through B");
	OK(close(fd));
	EQ(9, run_program(pa("s")), "a script rewritten through B");
	OK(copy_to("/bin/sleep", pa("sleep")));
	pid_t pid = fork();
	if (pid == 0) {
		execl(pa("sleep"), "sleep", "20", (char *)NULL);
		_exit(1);
	}
	usleep(200000);
	FAILS(ETXTBSY, open(pa("sleep"), O_WRONLY));
	OK(unlink(pb("sleep")));
	EQ(0, waitpid(pid, NULL, WNOHANG), "the program goes on after unlink through B");
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* A program with S_ISUID runs as its owner. */
static void suid_program(void)
{
	struct statvfs v;
	int st, p[2];
	char out[32] = "";

	OK(statvfs(pa("."), &v));
	if (v.f_flag & (ST_NOSUID | ST_NOEXEC))
		px_skip("mounted nosuid or noexec");
	OK(copy_to("/usr/bin/id", pa("id")));
	OK(chown(pa("id"), 54000, 54000));
	OK(chmod(pb("id"), 04755));
	NEED(pipe(p));
	pid_t pid = fork();
	if (pid == 0) {
		dup2(p[1], 1);
		NEED(setresgid(PX_USER, PX_USER, PX_USER));
		NEED(setresuid(PX_USER, PX_USER, PX_USER));
		execl(pa("id"), "id", "-u", (char *)NULL);
		_exit(1);
	}
	waitpid(pid, &st, 0);
	EQ(6, read(p[0], out, sizeof(out) - 1), "output of id -u");
	SAME_STR("54000\n", out, "effective user of a set-user-id program");
}

/* ---- directories in use, whose parents change through B: they stay where they are ---- */
#define CWD_CHANGES 200

static void cwd_worker(void *arg, unsigned i)
{
	volatile bool *over = arg;
	char cwd[PATH_MAX];

	if (i == 0) { /* what brings other mounts to forget the names on the way */
		for (unsigned n = 0; n < CWD_CHANGES; n++) {
			const char *f = n % 3 == 0 ? pb("f") : n % 3 == 1 ? pb("a/f") : pb("a/b/f");
			close((int)NEED(open(f, O_CREAT | O_EXCL | O_WRONLY, 0644)));
			NEED(unlink(f));
		}
		*over = true;
	} else if (i == 1) { /* walks it again and again */
		while (!*over)
			(void)px_stat(pa("a/b/c"));
	} else {
		NEED(chdir(pa("a/b/c")));
		for (unsigned bad = 0; !*over && !bad;)
			bad = !TRUE(getcwd(cwd, sizeof(cwd)) && strstr(cwd, "/a/b/c"), "getcwd: %s", strerror(errno));
	}
}

static void cwd_stays(void)
{
	bool *over = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	NEED(over == MAP_FAILED ? -1 : 0);
	NEED(mkdir(pa("a"), 0755));
	NEED(mkdir(pa("a/b"), 0755));
	NEED(mkdir(pa("a/b/c"), 0755));
	px_parallel(3, cwd_worker, over);
}

/* A mount upon a directory, as of a container: it is there until somebody unmounts it. */
static void mount_stays(void)
{
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		px_skip("no mount name space of its own");
	NEED(mkdir(pa("a"), 0755));
	NEED(mkdir(pa("a/m"), 0755));
	NEED(mount("px", pa("a/m"), "tmpfs", 0, NULL));
	px_mkfile(pa("a/m/inside"));
	for (int i = 0; i < 20; i++) {
		px_mkfile(pb("f%d", i));
		px_mkfile(pb("a/f%d", i));
		OK(access(pa("a/m/inside"), F_OK));
	}
	if (px.two)
		FAILS(ENOENT, access(pb("a/m/inside"), F_OK));
	OK(umount(pa("a/m")));
}

const struct px_test px_life_tests[] = {
	{"life.unlinked_open", unlinked_open, 0, 0}, {"life.unlinked_freed", unlinked_freed, 0, 0}, {"life.renamed_open", renamed_open, 0, 0},
	{"life.statfs", fs_numbers, 0, 0},	     {"life.locks", locks, 0, 0},		    {"life.programs", programs, 0, 0},
	{"life.suid_program", suid_program, 0, 0},   {"life.cwd_stays", cwd_stays, 0, 0},	    {"life.mount_stays", mount_stays, 0, 0},
	{NULL, NULL, 0, 0},
};
