/* SPDX-License-Identifier: Apache-2.0 */
/* Topic: times: which call moves which of a file's and its directory's times; utimensat; the time of birth. */
#include "px.h"

#include <sys/mman.h>
#include <sys/xattr.h>
#include <time.h>

enum { M = 1, C = 2 };

/* ---- one row per call ---- */
static void t_create(void)
{
	px_mkfile(pa("d/new"));
}

static void t_mkdir(void)
{
	OK(mkdir(pa("d/newdir"), 0755));
}

static void t_symlink(void)
{
	OK(symlink("x", pa("d/newlink")));
}

static void t_mknod(void)
{
	OK(mkfifo(pa("d/newfifo"), 0600));
}

static void t_link(void)
{
	OK(link(pa("d/f"), pa("d/second")));
}

static void t_unlink_other(void)
{
	OK(unlink(pa("d/second")));
}

static void t_rename_in(void)
{
	OK(rename(pa("d/f"), pa("d/g")));
	OK(rename(pa("d/g"), pa("d/f")));
}

static void t_rmdir(void)
{
	OK(rmdir(pa("d/newdir")));
}

static void t_write(void)
{
	EQ(1, pwrite(px_open(pa("d/f"), O_WRONLY), "x", 1, 0), "write");
}

static void t_append(void)
{
	EQ(1, write(px_open(pa("d/f"), O_WRONLY | O_APPEND), "x", 1), "append");
}

static void t_write_nothing(void)
{
	EQ(0, pwrite(px_open(pa("d/f"), O_WRONLY), "x", 0, 0), "write of nothing");
}

static void t_truncate(void)
{
	OK(truncate(pa("d/f"), 2));
}

static void t_truncate_same(void)
{
	OK(ftruncate(px_open(pa("d/f"), O_WRONLY), 2));
}

static void t_o_trunc(void)
{
	px_open(pa("d/f"), O_WRONLY | O_TRUNC);
}

static void t_fallocate(void)
{
	OK(fallocate(px_open(pa("d/f"), O_WRONLY), 0, 0, 5000));
}

static void t_punch(void)
{
	OK(fallocate(px_open(pa("d/f"), O_WRONLY), 3, 0, 5000));
}

static void t_chmod(void)
{
	OK(chmod(pa("d/f"), 0640));
}

static void t_chown(void)
{
	OK(chown(pa("d/f"), 3, 4));
}

static void t_setxattr(void)
{
	OK(setxattr(pa("d/f"), "user.a", "b", 1, 0));
}

static void t_removexattr(void)
{
	OK(removexattr(pa("d/f"), "user.a"));
}

static void t_utimes(void)
{
	OK(utimensat(AT_FDCWD, pa("d/f"), (struct timespec[2]){{5, 5}, {0, UTIME_OMIT}}, 0));
}

static void t_read(void)
{
	char c;
	EQ(1, read(px_open(pa("d/f"), O_RDONLY), &c, 1), "read");
}

static void t_open_close(void)
{
	OK(close(px_open(pa("d/f"), O_RDWR)));
}

static void t_stat(void)
{
	px_stat(pa("d/f"));
	OK(access(pa("d/f"), R_OK));
}

static void t_fsync(void)
{
	OK(fsync(px_open(pa("d/f"), O_RDWR)));
}

static void t_copy(void)
{
	EQ(1, copy_file_range(px_open(pa("d/f"), O_RDONLY), NULL, px_open(pa("d/f"), O_WRONLY), &(off_t){6000}, 1, 0), "copy_file_range");
}

static void t_mmap(void)
{
	char *p;
	NEED((p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, px_open(pa("d/f"), O_RDWR), 0)) == MAP_FAILED ? -1 : 0);
	p[0] = 'm';
	OK(msync(p, 4096, MS_SYNC));
	OK(munmap(p, 4096));
}

static const struct {
	const char *call;
	void (*fn)(void);
	unsigned file, dir; /* what moves */
} rules[] = {
	{"creat of another", t_create, 0, M | C},
	{"mkdir beside it", t_mkdir, 0, M | C},
	{"symlink beside it", t_symlink, 0, M | C},
	{"mkfifo beside it", t_mknod, 0, M | C},
	{"rmdir beside it", t_rmdir, 0, M | C},
	{"link", t_link, C, M | C},
	{"unlink of another name", t_unlink_other, C, M | C},
	{"rename", t_rename_in, C, M | C},
	{"write", t_write, M | C, 0},
	{"append", t_append, M | C, 0},
	{"write of nothing", t_write_nothing, 0, 0},
	{"truncate", t_truncate, M | C, 0},
	{"truncate to the same size", t_truncate_same, M | C, 0},
	{"open with O_TRUNC", t_o_trunc, M | C, 0},
	{"fallocate", t_fallocate, M | C, 0},
	{"copy_file_range", t_copy, M | C, 0},
	{"mmap and msync", t_mmap, M | C, 0},
	{"punch", t_punch, M | C, 0},
	{"chmod", t_chmod, C, 0},
	{"chown", t_chown, C, 0},
	{"setxattr", t_setxattr, C, 0},
	{"removexattr", t_removexattr, C, 0},
	{"utimensat of atime", t_utimes, C, 0},
	{"write again", t_write, M | C, 0},
	{"read", t_read, 0, 0},
	{"open and close", t_open_close, 0, 0},
	{"stat and access", t_stat, 0, 0},
	{"fsync", t_fsync, 0, 0},
};

static unsigned moved(struct stat before, struct stat after)
{
	return (px_ns(after.st_mtim) > px_ns(before.st_mtim) ? M : 0) | (px_ns(after.st_ctim) > px_ns(before.st_ctim) ? C : 0);
}

static const char *times_name(unsigned t)
{
	static const char *const n[] = {"none", "mtime", "ctime", "mtime and ctime"};
	return n[t & 3];
}

static void which_call_moves_what(void)
{
	NEED(mkdir(pa("d"), 0755));
	px_make(pa("d/f"), "hello", 5);
	for (size_t i = 0; i < PX_LEN(rules); i++) {
		struct stat f = px_stat(pb("d/f")), d = px_stat(pb("d"));
		px_tick();
		rules[i].fn();
		struct stat f2 = px_same_stat("d/f"), d2 = px_same_stat("d");
		SAME_STR(times_name(rules[i].file), times_name(moved(f, f2)), "times of the file that %s moves", rules[i].call);
		SAME_STR(times_name(rules[i].dir), times_name(moved(d, d2)), "times of the directory that %s moves", rules[i].call);
		struct stat late = px_stat(pb("d/f"));
		px_tick();
		SAME_STR("none", times_name(moved(late, px_stat(pa("d/f")))), "times that move later, after %s", rules[i].call);
	}
}

/* New objects have three equal times, those of the present. */
static void new_times(void)
{
	static const char *const names[] = {"f", "d", "l", "p"};
	struct timespec before, after;

	clock_gettime(CLOCK_REALTIME, &before);
	px_tick();
	px_mkfile(pa("f"));
	NEED(mkdir(pa("d"), 0755));
	NEED(symlink("x", pa("l")));
	NEED(mkfifo(pa("p"), 0600));
	px_tick();
	clock_gettime(CLOCK_REALTIME, &after);
	for (size_t i = 0; i < PX_LEN(names); i++) {
		struct stat st = px_same_stat(names[i]);
		EQ(px_ns(st.st_ctim), px_ns(st.st_mtim), "mtime of new %s as its ctime", names[i]);
		EQ(px_ns(st.st_ctim), px_ns(st.st_atim), "atime of new %s as its ctime", names[i]);
		TRUE(px_ns(st.st_ctim) > px_ns(before) && px_ns(st.st_ctim) < px_ns(after), "ctime of new %s is now", names[i]);
	}
}

static void set_times(void)
{
	static const struct timespec at[] = {{0, 0}, {1, 1}, {1000000000, 999999999}, {1700000000, 123456789}, {4000000000, 1}, {2147483647, 5}};
	struct timespec now;

	px_mkfile(pa("f"));
	NEED(symlink("f", pa("l")));
	for (size_t i = 0; i < PX_LEN(at); i++) {
		struct timespec t[2] = {at[i], at[(i + 1) % PX_LEN(at)]};
		OK(utimensat(AT_FDCWD, px_path(i % 2, "f"), t, 0));
		for (int b = 0; b <= px.two; b++) {
			struct stat st = px_stat(px_path(b, "f"));
			EQ(px_ns(t[0]), px_ns(st.st_atim), "atime set, mount %c", 'A' + b);
			EQ(px_ns(t[1]), px_ns(st.st_mtim), "mtime set, mount %c", 'A' + b);
		}
	}
	OK(utimensat(AT_FDCWD, pa("f"), (struct timespec[2]){{7, 7}, {8, 8}}, 0));
	OK(utimensat(AT_FDCWD, pb("f"), (struct timespec[2]){{0, UTIME_OMIT}, {9, 9}}, 0));
	EQ(7000000007, px_ns(px_stat(pa("f")).st_atim), "atime after UTIME_OMIT");
	EQ(9000000009, px_ns(px_same_stat("f").st_mtim), "mtime set alone");
	clock_gettime(CLOCK_REALTIME, &now);
	px_tick();
	OK(utimensat(AT_FDCWD, pa("f"), (struct timespec[2]){{0, UTIME_NOW}, {0, UTIME_OMIT}}, 0));
	TRUE(px_ns(px_stat(pb("f")).st_atim) > px_ns(now), "atime after UTIME_NOW is now");
	EQ(9000000009, px_ns(px_same_stat("f").st_mtim), "mtime after UTIME_OMIT");
	OK(utimensat(AT_FDCWD, pa("f"), NULL, 0));
	TRUE(px_ns(px_same_stat("f").st_mtim) > px_ns(now), "mtime after a null argument is now");
	OK(utimensat(AT_FDCWD, pa("l"), (struct timespec[2]){{5, 5}, {6, 6}}, AT_SYMLINK_NOFOLLOW));
	EQ(6000000006, px_ns(px_same_stat("l").st_mtim), "mtime of the symlink itself");
	FAILS(EINVAL, utimensat(AT_FDCWD, pa("f"), (struct timespec[2]){{1, 1000000000}, {1, 0}}, 0));
	FAILS(ENOENT, utimensat(AT_FDCWD, pa("absent"), NULL, 0));
	OK(futimens(px_open(pb("f"), O_RDONLY), (struct timespec[2]){{3, 3}, {4, 4}}));
	EQ(4000000004, px_ns(px_same_stat("f").st_mtim), "mtime by futimens");
}

static void before_1970(void)
{
	px_mkfile(pa("f"));
	OK(utimensat(AT_FDCWD, pa("f"), (struct timespec[2]){{-1, 999999999}, {-100000, 5}}, 0));
	EQ(-1, px_ns(px_stat(pb("f")).st_atim), "atime one nanosecond before 1970");
	EQ(-99999999999995, px_ns(px_same_stat("f").st_mtim), "mtime before 1970");
}

static void birth(void)
{
	struct statx x, y;
	struct timespec before, after;

	clock_gettime(CLOCK_REALTIME, &before);
	px_tick();
	px_mkfile(pa("f"));
	px_tick();
	clock_gettime(CLOCK_REALTIME, &after);
	OK(statx(AT_FDCWD, pb("f"), AT_SYMLINK_NOFOLLOW, STATX_ALL, &x));
	EQ(STATX_BASIC_STATS, x.stx_mask & STATX_BASIC_STATS, "basic fields of statx");
	if (!px_kernel(6, 6)) { /* docs/posix.md */
		EQ(0, x.stx_mask & STATX_BTIME, "time of birth on a kernel that does not ask for it");
		return;
	}
	if (!TRUE(x.stx_mask & STATX_BTIME, "statx gives the time of birth"))
		return;
	int64_t b = (int64_t)x.stx_btime.tv_sec * 1000000000 + x.stx_btime.tv_nsec;
	TRUE(b > px_ns(before) && b < px_ns(after), "time of birth is that of the creation");
	OK(chmod(pa("f"), 0600));
	OK(rename(pa("f"), pa("g")));
	OK(utimensat(AT_FDCWD, pa("g"), (struct timespec[2]){{5, 5}, {5, 5}}, 0));
	OK(statx(AT_FDCWD, pb("g"), AT_STATX_FORCE_SYNC, STATX_BTIME, &y));
	EQ(b, (int64_t)y.stx_btime.tv_sec * 1000000000 + y.stx_btime.tv_nsec, "time of birth after changes");
}

static void rename_times(void)
{
	struct stat from, to, f;

	NEED(mkdir(pa("p"), 0755));
	NEED(mkdir(pa("q"), 0755));
	px_mkfile(pa("p/f"));
	px_mkfile(pa("q/old"));
	OK(link(pa("q/old"), pa("keep")));
	from = px_stat(pa("p"));
	to = px_stat(pa("q"));
	f = px_stat(pa("keep"));
	px_tick();
	OK(rename(pb("p/f"), pb("q/old")));
	SAME_STR("mtime and ctime", times_name(moved(from, px_same_stat("p"))), "times of the directory left");
	SAME_STR("mtime and ctime", times_name(moved(to, px_same_stat("q"))), "times of the directory entered");
	SAME_STR("ctime", times_name(moved(f, px_same_stat("keep"))), "times of the file that was replaced");
}

/* relatime: the first read after a change moves atime, on an ordinary file system. */
static void relatime(void)
{
	struct stat st;
	char c;
	int fd;

	px_make(pa("f"), "abc", 3);
	px_tick();
	fd = px_open(pa("f"), O_RDONLY);
	st = px_stat(pa("f"));
	EQ(1, read(fd, &c, 1), "read");
	TRUE(px_ns(px_stat(pa("f")).st_atim) > px_ns(st.st_atim), "atime moves with the first read");
}

/* O_NOATIME leaves atime alone, and what was set stays. */
static void noatime(void)
{
	char c;

	px_make(pa("f"), "abc", 3);
	OK(utimensat(AT_FDCWD, pa("f"), (struct timespec[2]){{5, 5}, {6, 6}}, 0));
	EQ(1, read(px_open(pb("f"), O_RDONLY | O_NOATIME), &c, 1), "read");
	EQ(5000000005, px_ns(px_stat(pa("f")).st_atim), "atime after a read with O_NOATIME");
	EQ(5000000005, px_ns(px_stat(pb("f")).st_atim), "atime after a read with O_NOATIME");
}

/* Writes by turns: mtime never goes back, and both show the same at every step. */
static void monotonic(void)
{
	int64_t last = 0;

	px_mkfile(pa("f"));
	for (int i = 0; i < 50; i++) {
		EQ(1, pwrite(px_open(px_path(i % 2, "f"), O_WRONLY), "x", 1, i), "write");
		int64_t now = px_ns(px_same_stat("f").st_mtim);
		TRUE(now >= last, "mtime does not go back in round %d (%lld, then %lld)", i, (long long)last, (long long)now);
		last = now;
	}
}

const struct px_test px_time_tests[] = {
	{"time.rules", which_call_moves_what, 0, 0}, {"time.new", new_times, 0, 0},	    {"time.set", set_times, 0, 0},
	{"time.before_1970", before_1970, 0, 0},     {"time.birth", birth, 0, 0},	    {"time.rename", rename_times, 0, 0},
	{"time.relatime", relatime, PX_LOCAL, 0},    {"time.noatime", noatime, 0, 0},	    {"time.monotonic", monotonic, 0, 0},
	{NULL, NULL, 0, 0},
};
