/* SPDX-License-Identifier: Apache-2.0 */
/* Topic: known differences: what Tessera does otherwise than a local file system, pinned as documented in docs/posix.md.
 * A test that fails here because the difference is gone is moved to its topic, and its row there is deleted. */
#include "px.h"

#include <linux/fiemap.h>
#include <signal.h>
#include <sys/wait.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/sysmacros.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>

/* The kernel does not pass flock of a directory to a FUSE file system: it counts on its node only. */
static void dir_flock(void)
{
	NEED(mkdir(pa("d"), 0755));
	int a = px_open(pa("d"), O_RDONLY | O_DIRECTORY), b = px_open(pb("d"), O_RDONLY | O_DIRECTORY);
	int same = px_open(pa("d"), O_RDONLY | O_DIRECTORY);

	OK(flock(a, LOCK_EX | LOCK_NB));
	OK(flock(b, LOCK_EX | LOCK_NB));
	FAILS(EWOULDBLOCK, flock(same, LOCK_EX | LOCK_NB));
}

/* A read that the kernel's cache answers does not move atime; it never goes back, and what was set is not lost. */
static void lazy_atime(void)
{
	char c;
	int64_t was, now;

	px_make(pa("f"), "abc", 3);
	was = px_ns(px_stat(pa("f")).st_atim);
	px_tick();
	for (int i = 0; i < 10; i++) {
		EQ(1, read(px_open(px_path(i % 2, "f"), O_RDONLY), &c, 1), "read");
		now = px_ns(px_stat(px_path(i % 3 == 0, "f")).st_atim);
		TRUE(now >= was, "atime does not go back (%lld, then %lld)", (long long)was, (long long)now);
		was = now;
	}
}

/* A program that runs through A can be written through B: the kernel of each node counts its own runners. */
static void text_busy(void)
{
	char buf[65536];
	int in = px_open("/bin/sleep", O_RDONLY), out = px_open(pa("prog"), O_WRONLY | O_CREAT), fd, ready[2];
	pid_t pid;

	for (ssize_t n; (n = NEED(read(in, buf, sizeof(buf)))) > 0;)
		EQ(n, write(out, buf, (size_t)n), "write of the program");
	OK(fchmod(out, 0755));
	OK(close(out));
	NEED(pipe2(ready, O_CLOEXEC));
	pid = NEED(fork());
	if (!pid) {
		execl(pa("prog"), "sleep", "20", (char *)NULL);
		_exit(127);
	}
	close(ready[1]);
	EQ(0, read(ready[0], buf, 1), "end of the pipe, when the program runs");
	FAILS(ETXTBSY, open(pa("prog"), O_WRONLY));
	OK(fd = open(pb("prog"), O_WRONLY));
	if (fd >= 0)
		close(fd);
	kill(pid, SIGKILL);
	OK(waitpid(pid, NULL, 0));
}

/* The kernel does not pass these to a FUSE file system, or Tessera has not got them. */
static void not_offered(void)
{
	int fd = px_open(pa("f"), O_RDWR | O_CREAT);

	EQ(10, write(fd, "0123456789", 10), "write");
	FAILS(EOPNOTSUPP, fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096));
	FAILS(EOPNOTSUPP, fallocate(fd, FALLOC_FL_INSERT_RANGE, 0, 4096));
	FAILS(EOPNOTSUPP, ioctl(fd, FICLONE, px_open(pa("g"), O_RDWR | O_CREAT)));
	FAILS(EINVAL, renameat2(AT_FDCWD, pa("f"), AT_FDCWD, pa("h"), RENAME_WHITEOUT));
	FAILS(EOPNOTSUPP, ioctl(fd, FS_IOC_FIEMAP, &(struct fiemap){.fm_length = 10})); /* FUSE has no such request */
	px_content("f", "0123456789", 10);
}

/* The kernel's FUSE does not hand on what statx says of an inode's flags; the ioctl does (perm.append_only, perm.immutable). */
static void statx_flags(void)
{
	int flags = FS_APPEND_FL, fd = px_open(pa("f"), O_RDWR | O_CREAT);
	struct statx x;

	OK(ioctl(fd, FS_IOC_SETFLAGS, &flags));
	OK(statx(AT_FDCWD, pa("f"), AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &x));
	EQ(0, x.stx_attributes & STATX_ATTR_APPEND, "append-only according to statx");
	EQ(0, x.stx_attributes_mask & STATX_ATTR_APPEND, "statx says that it knows");
	flags = 0;
	OK(ioctl(fd, FS_IOC_SETFLAGS, &flags));
}

/* The kernel passes locks on and keeps no list of its own of them: /proc/locks, and so lslocks, has none; tessera diag locks has. */
static void proc_locks(void)
{
	int fd = px_open(pa("f"), O_RDWR | O_CREAT), listed = 0;
	struct flock l = {.l_type = F_WRLCK};
	struct stat st;
	char want[64], line[256];
	FILE *f;

	OK(fstat(fd, &st));
	snprintf(want, sizeof(want), " %02x:%02x:%llu ", major(st.st_dev), minor(st.st_dev), (unsigned long long)st.st_ino);
	OK(flock(fd, LOCK_EX));
	OK(fcntl(fd, F_SETLK, &l));
	if (!TRUE((f = fopen("/proc/locks", "re")) != NULL, "/proc/locks"))
		return;
	while (fgets(line, sizeof(line), f))
		listed += strstr(line, want) != NULL;
	fclose(f);
	EQ(0, listed, "locks of f in /proc/locks");
}

static void owner_chmods(void *arg)
{
	int want = ((int *)arg)[0], rc = fchmod(((int *)arg)[1], 0600);
	EQ(want, rc ? errno : 0, "fchmod through B by the owner (errno)");
}

/* Who may fchmod, fchown, futimens or set an ACL of an open file the kernel decides by the owner that it knows: another node's chown
 * counts on this one once it has looked (stat, open). By path it looks first. */
static void owner_as_known(void)
{
	px_mkfile(pa("f"));
	EQ(0, px_stat(pb("f")).st_uid, "owner through B");
	int fd = px_open(pb("f"), O_RDONLY);
	OK(chown(pa("f"), PX_USER, PX_USER));
	px_as(PX_USER, PX_USER, owner_chmods, (int[]){EPERM, fd});
	EQ(PX_USER, px_stat(pb("f")).st_uid, "owner through B behind chown through A");
	px_as(PX_USER, PX_USER, owner_chmods, (int[]){0, fd});
	EQ(0600, px_same_stat("f").st_mode & 0777, "mode");
}

/* RWF_APPEND of a descriptor without O_APPEND: the kernel computes the end from the size it knows, which may be old. */
static void rwf_append(void)
{
	struct iovec v = {"++", 2};
	int a = px_open(pa("f"), O_RDWR | O_CREAT), b = px_open(pb("f"), O_RDWR);

	EQ(1, pwrite(a, "a", 1, 0), "first byte through A");
	EQ(3, pwrite(b, "bbb", 3, 1), "three bytes behind it through B");
	EQ(2, pwritev2(a, &v, 1, 0, RWF_APPEND), "append by RWF_APPEND through A");
	px_content("f", "a++b", 4);
}

/* copy_file_range ends at the end of the source that this node knows; another node's may be further until this one looks. */
static void copy_old_end(void)
{
	int a = px_open(pa("f"), O_RDWR | O_CREAT), g = px_open(pa("g"), O_RDWR | O_CREAT);
	off_t from = 10;

	EQ(10, pwrite(a, "0123456789", 10, 0), "ten bytes through A");
	EQ(10, pwrite(px_open(pb("f"), O_WRONLY), "0123456789", 10, 10), "ten more through B");
	EQ(0, copy_file_range(a, &from, g, NULL, 10, 0), "copy of them through A");
	EQ(20, px_stat(pa("f")).st_size, "size through A");
	EQ(10, copy_file_range(a, &from, g, NULL, 10, 0), "copy of them behind the look");
}

/* A directory that another node has moved, and that the kernel of this one still has under its old name because it is in use, is not
 * renamed into a third directory before somebody has looked at it. */
static void moved_directory(void)
{
	NEED(mkdir(pa("a"), 0755));
	NEED(mkdir(pa("b"), 0755));
	NEED(mkdir(pa("a/s"), 0755));
	px_open(pa("a/s"), O_PATH | O_DIRECTORY);
	NEED(rename(pb("a/s"), pb("b/s")));
	FAILS(ESTALE, rename(pa("b/s"), pa("s")));
	EQ(2, px_stat(pa("b/s")).st_nlink, "links of the directory, looked at");
	OK(rename(pa("b/s"), pa("s")));
	px_gone("b/s");
}

static volatile sig_atomic_t faults;

static void on_bus(int sig)
{
	(void)sig;
	_exit(faults == 1 ? 0 : 1);
}

/* A map of a file that grew through B gives SIGBUS in the new part until this node looks at the file's size. */
static void map_growth(void)
{
	int a = px_open(pa("f"), O_RDWR | O_CREAT), st;
	volatile char *p;

	OK(ftruncate(a, 4096));
	p = mmap(NULL, 8192, PROT_READ, MAP_SHARED, a, 0);
	NEED(p == MAP_FAILED ? -1 : 0);
	OK(truncate(pb("f"), 8192));
	pid_t pid = fork();
	if (pid == 0) {
		signal(SIGBUS, on_bus);
		faults = 1;
		(void)p[5000];
		_exit(2); /* the difference is gone */
	}
	waitpid(pid, &st, 0);
	EQ(0, WEXITSTATUS(st), "SIGBUS before the look (2: none, move this test to mmap.truncated)");
	EQ(8192, px_stat(pa("f")).st_size, "size through A");
	EQ(0, p[5000], "byte of the new part behind the look");
}

/* Only an open file keeps a file that another node removes. */
static void removed_path(void)
{
	struct stat st;

	px_mkfile(pa("f"));
	int fd = (int)NEED(open(pa("f"), O_PATH));
	OK(unlink(pb("f")));
	for (int i = 0; i < 200 && fstat(fd, &st) == 0; i++) {
		EQ(0, st.st_nlink, "links of a removed file");
		usleep(100000);
	}
	FAILS(ESTALE, fstat(fd, &st));
}

const struct px_test px_diff_tests[] = {
	{"diff.dir_flock", dir_flock, PX_DIFF | PX_TWO, 0},
	{"diff.lazy_atime", lazy_atime, PX_DIFF, 0}, {"diff.text_busy", text_busy, PX_DIFF | PX_TWO, 0},
	{"diff.not_offered", not_offered, PX_DIFF, 0}, {"diff.rwf_append", rwf_append, PX_DIFF | PX_TWO, 0},
	{"diff.map_growth", map_growth, PX_DIFF | PX_TWO, 0},
	{"diff.copy_old_end", copy_old_end, PX_DIFF | PX_TWO, 0}, {"diff.owner_as_known", owner_as_known, PX_DIFF | PX_TWO, 0},
	{"diff.statx_flags", statx_flags, PX_DIFF, 0}, {"diff.proc_locks", proc_locks, PX_DIFF, 0},
	{"diff.removed_path", removed_path, PX_DIFF | PX_TWO, 0}, {"diff.moved_directory", moved_directory, PX_DIFF | PX_TWO, 0},
	{NULL, NULL, 0, 0},
};
