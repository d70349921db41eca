/* SPDX-License-Identifier: Apache-2.0 */
/* Topic: space in files: fallocate, SEEK_HOLE and SEEK_DATA, copy_file_range, and space that comes back. */
#include "px.h"

#include <linux/falloc.h>
#include <sys/statvfs.h>
#include <time.h>

#define LEN (3 * PX_MIB + 777)

static char *filled(const char *name, size_t len)
{
	char *want = malloc(len);

	px_fill(want, len, 2);
	px_make(pa("%s", name), want, len);
	return want;
}

static void fallocate_plain(void)
{
	char *want = calloc(1, LEN);
	int a = px_open(pa("f"), O_RDWR | O_CREAT), b = px_open(pb("f"), O_RDWR);

	OK(fallocate(a, 0, 0, 100));
	px_content("f", want, 100);
	OK(fallocate(b, 0, 5000, 200000));
	px_content("f", want, 205000);
	TRUE(px_stat(pa("f")).st_blocks * 512 >= 200000, "space of a file of 205000 bytes after fallocate (%lld blocks)",
	     (long long)px_stat(pa("f")).st_blocks);
	EQ(3, pwrite(a, "abc", 3, 100000), "write into unwritten space");
	memcpy(want + 100000, "abc", 3);
	px_content("f", want, 205000);
	OK(fallocate(b, 0, 0, LEN));
	px_content("f", want, LEN);
	OK(fallocate(a, 0, 10, 100));
	px_content("f", want, LEN);
	EQ(2, pwrite(b, "zz", 2, LEN - 2), "write at its end through B");
	memcpy(want + LEN - 2, "zz", 2);
	px_content("f", want, LEN);
	free(want);
}

/* tar and others take a file with bytes and without blocks for one hole: they copy nothing. */
static void blocks_at_once(void)
{
	static const long lens[] = {600, 3000, 3902, 5000, 70000, 500 * 1024, 2 * PX_MIB + 1};

	for (unsigned i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		long len = lens[i], blocks;
		char *want = filled("f", (size_t)len);
		int fd = px_open(pa("f"), O_RDWR);

		blocks = px_stat(pa("f")).st_blocks;
		TRUE(blocks * 512 >= len, "%ld bytes just written have %ld blocks", len, blocks);
		EQ(1, pwrite(fd, "x", 1, len / 2), "write in the middle");
		want[len / 2] = 'x';
		OK(fsync(fd));
		blocks = px_stat(pa("f")).st_blocks;
		TRUE(blocks * 512 >= len && blocks * 512 <= len + 2 * PX_MIB, "%ld bytes on disk have %ld blocks", len, blocks);
		EQ(blocks, (long)px_stat(pb("f")).st_blocks, "blocks through B");
		EQ(blocks, (long)px_stat(pa("f")).st_blocks, "blocks through A after that");
		px_content("f", want, (size_t)len);
		OK(ftruncate(fd, 0));
		OK(ftruncate(fd, len));
		blocks = px_stat(pb("f")).st_blocks;
		TRUE(blocks * 512 < 4096 + (len < 4096 ? 4096 : 0), "a hole of %ld bytes has %ld blocks", len, blocks);
		OK(close(fd));
		OK(unlink(pa("f")));
		free(want);
	}
}

/* Blocks that are told before there are any are not remembered: what is on disk in the end counts. */
static void blocks_of_big_steps(void)
{
	int fd = px_open(pa("f"), O_RDWR | O_CREAT);
	long was, is;

	for (unsigned i = 0; i < 8; i++) {
		EQ(1, pwrite(fd, "x", 1, (off_t)i * 3 * PX_MIB + 70000), "a byte far from the others");
		was = px_stat(pa("f")).st_blocks;
		TRUE(was >= (long)(i + 1) * 8, "%u bytes in as many blocks have %ld", i + 1, was);
		OK(fsync(fd));
		is = px_stat(pa("f")).st_blocks;
		TRUE(is >= (long)(i + 1) * 8, "%u bytes in as many blocks, on disk: %ld", i + 1, is);
		EQ(is, (long)px_stat(pb("f")).st_blocks, "blocks through B");
	}
}

static void fallocate_keep(void)
{
	char want[9000] = "abc";
	int a = px_open(pa("f"), O_RDWR | O_CREAT);

	EQ(3, write(a, "abc", 3), "three bytes");
	OK(fallocate(a, FALLOC_FL_KEEP_SIZE, 0, 2 * PX_MIB));
	px_content("f", "abc", 3);
	TRUE(px_stat(pa("f")).st_blocks * 512 >= 2 * PX_MIB, "space kept behind the end (%lld blocks)",
	     (long long)px_stat(pa("f")).st_blocks);
	OK(truncate(pb("f"), 9000));
	px_content("f", want, 9000);
	EQ(1, pwrite(a, "x", 1, 8000), "write into it");
	want[8000] = 'x';
	px_content("f", want, 9000);
}

static void punch(void)
{
	static const struct {
		long long off, len;
	} cuts[] = {{100, 50},		    {4000, 200},	     {4096, 4096},	     {65000, 70000},	   {PX_MIB - 1, 2},
		    {PX_MIB, PX_MIB},	    {PX_MIB + 4097, 100000}, {2 * PX_MIB - 5, 10}, {LEN - 100, 50},	   {LEN - 10, 100000},
		    {LEN + 5000, 10000}, {0, 1},		     {0, 3 * PX_MIB}};
	char *want = filled("f", LEN);
	int fd[2] = {px_open(pa("f"), O_RDWR), px_open(pb("f"), O_RDWR)};

	for (size_t i = 0; i < PX_LEN(cuts); i++) {
		long long end = cuts[i].off + cuts[i].len;
		OK(fallocate(fd[i % 2], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, cuts[i].off, cuts[i].len));
		if (end > LEN)
			end = LEN;
		if (cuts[i].off < LEN)
			memset(want + cuts[i].off, 0, (size_t)(end - cuts[i].off));
		px_content("f", want, LEN);
	}
	free(want);
}

static void punch_small(void)
{
	for (size_t len = 10; len <= 4000; len += 1995) {
		char name[20], *want;
		snprintf(name, sizeof(name), "s%zu", len);
		want = filled(name, len);
		OK(fallocate(px_open(pb("%s", name), O_RDWR), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 3, 5));
		memset(want + 3, 0, 5);
		px_content(name, want, len);
		OK(fallocate(px_open(pa("%s", name), O_RDWR), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 100000));
		memset(want, 0, len);
		px_content(name, want, len);
		free(want);
	}
}

static void zero_range(void)
{
	static const struct {
		long long off, len;
		int keep;
	} cuts[] = {{100, 50, 0},	  {4000, 200, 1},	       {65000, 70000, 0},	  {PX_MIB - 1, 2, 1},
		    {PX_MIB, PX_MIB, 0}, {2 * PX_MIB - 5, 100, 0}, {LEN - 10, 100000, 1}, {LEN - 10, 5000, 0}};
	char *want = filled("f", LEN);
	size_t size = LEN;
	int fd[2] = {px_open(pa("f"), O_RDWR), px_open(pb("f"), O_RDWR)};

	if (fallocate(fd[0], FALLOC_FL_ZERO_RANGE, 0, 1) && errno == EOPNOTSUPP && px.local)
		px_skip("no FALLOC_FL_ZERO_RANGE here");
	want = realloc(want, LEN + 10000);
	want[0] = 0;
	for (size_t i = 0; i < PX_LEN(cuts); i++) {
		long long end = cuts[i].off + cuts[i].len;
		OK(fallocate(fd[i % 2], FALLOC_FL_ZERO_RANGE | (cuts[i].keep ? FALLOC_FL_KEEP_SIZE : 0), cuts[i].off, cuts[i].len));
		if (end > (long long)size && cuts[i].keep)
			end = (long long)size;
		memset(want + cuts[i].off, 0, (size_t)(end - cuts[i].off));
		if (end > (long long)size)
			size = (size_t)end;
		px_content("f", want, size);
	}
	free(want);
}

static void fallocate_errors(void)
{
	int fd = px_open(pa("f"), O_RDWR | O_CREAT), d = px_open(pa("."), O_RDONLY | O_DIRECTORY), p[2];

	FAILS(EINVAL, fallocate(fd, 0, 0, 0));
	FAILS(EINVAL, fallocate(fd, 0, -1, 10));
	FAILS(EFBIG, fallocate(fd, 0, INT64_MAX - 5, 10));
	FAILS(EOPNOTSUPP, fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 10));
	FAILS(EBADF, fallocate(d, 0, 0, 10));
	NEED(pipe(p));
	FAILS(ESPIPE, fallocate(p[1], 0, 0, 10));
	px_size("f", 0);
	FAILS(ENOSPC, fallocate(fd, 0, 0, 1LL << (px.kind == PX_TMPFS ? 42 : 43)));
	if (px.local) /* some keep a part */
		OK(ftruncate(fd, 0));
	px_size("f", 0);
	EQ(3, write(fd, "abc", 3), "write after ENOSPC");
	px_content("f", "abc", 3);
}

static void seek(void)
{
	int a = px_open(pa("f"), O_RDWR | O_CREAT), b = px_open(pb("f"), O_RDWR);
	char *buf = malloc(PX_MIB);
	long long h;

	px_fill(buf, PX_MIB, 1);
	FAILS(ENXIO, lseek(a, 0, SEEK_DATA));
	FAILS(ENXIO, lseek(a, 0, SEEK_HOLE));
	EQ(PX_MIB, pwrite(a, buf, PX_MIB, 0), "first MiB");
	EQ(PX_MIB, pwrite(a, buf, PX_MIB, 8 * PX_MIB), "ninth MiB");
	OK(ftruncate(a, 20 * PX_MIB));
	EQ(0, lseek(b, 0, SEEK_DATA), "data from 0 through B");
	EQ(500, lseek(b, 500, SEEK_DATA), "data from 500");
	EQ(PX_MIB, lseek(b, 0, SEEK_HOLE), "hole from 0");
	h = lseek(b, PX_MIB, SEEK_HOLE);
	EQ(PX_MIB, h, "hole from 1 MiB");
	EQ(8 * PX_MIB, lseek(b, PX_MIB, SEEK_DATA), "data from 1 MiB");
	EQ(9 * PX_MIB, lseek(b, 8 * PX_MIB, SEEK_HOLE), "hole from 8 MiB");
	FAILS(ENXIO, lseek(b, 9 * PX_MIB, SEEK_DATA));
	EQ(19 * PX_MIB, lseek(b, 19 * PX_MIB, SEEK_HOLE), "hole from 19 MiB");
	FAILS(ENXIO, lseek(b, 20 * PX_MIB, SEEK_HOLE));
	FAILS(ENXIO, lseek(b, 30 * PX_MIB, SEEK_DATA));
	OK(fsync(a));
	EQ(8 * PX_MIB, lseek(a, 3 * PX_MIB, SEEK_DATA), "data from 3 MiB after fsync");
	OK(fallocate(b, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PX_MIB)); /* a whole block: less is zeroed */
	EQ(8 * PX_MIB, lseek(a, 0, SEEK_DATA), "data from 0 after a hole was punched through B");
	EQ(0, lseek(a, 0, SEEK_HOLE), "hole from 0 after a hole was punched through B");
	EQ(1, pwrite(b, "x", 1, 20 * PX_MIB), "write at the end through B");
	TRUE(lseek(a, 10 * PX_MIB, SEEK_DATA) > 19 * PX_MIB, "data from 10 MiB is near the end");
	free(buf);
}

/* A small file is data from its start to its end, whatever form it has on disk. */
/* The way to the end of a large file leads over nothing. */
static void seek_far(void)
{
	off_t far = (off_t)15 << 40;
	int fd = px_open(pa("f"), O_RDWR | O_CREAT), fb = px_open(pb("f"), O_RDWR);

	OK(ftruncate(fd, far));
	FAILS(ENXIO, lseek(fd, 0, SEEK_DATA));
	FAILS(ENXIO, lseek(fb, far / 2, SEEK_DATA));
	EQ(far / 2, lseek(fd, far / 2, SEEK_HOLE), "hole in a hole");
	EQ(100, pwrite(fd, "x", 1, 0) * 100, "a byte in front");
	FAILS(ENXIO, lseek(fd, PX_MIB, SEEK_DATA));
	OK(fsync(fd));
	FAILS(ENXIO, lseek(fd, PX_MIB, SEEK_DATA));
	FAILS(ENXIO, lseek(fb, PX_MIB, SEEK_DATA));
	EQ(1, pwrite(fd, "x", 1, far - PX_MIB), "a byte near the end");
	off_t at = lseek(fd, 4 * PX_MIB, SEEK_DATA);
	TRUE(at > far - 3 * PX_MIB && at <= far - PX_MIB, "data near the end: found at %lld", (long long)at);
	at = lseek(fb, 4 * PX_MIB, SEEK_DATA);
	TRUE(at > far - 3 * PX_MIB && at <= far - PX_MIB, "data near the end, through B: found at %lld", (long long)at);
	OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PX_MIB, far - PX_MIB));
	FAILS(ENXIO, lseek(fb, 4 * PX_MIB, SEEK_DATA));
}

static void seek_small(void)
{
	int fd = px_open(pa("f"), O_RDWR | O_CREAT), b = px_open(pb("f"), O_RDONLY);

	EQ(100, pwrite(fd, filled("x", 100), 100, 0), "100 bytes");
	EQ(0, lseek(b, 0, SEEK_DATA), "data from 0");
	EQ(99, lseek(b, 99, SEEK_DATA), "data from 99");
	EQ(100, lseek(b, 0, SEEK_HOLE), "hole from 0: the end");
	EQ(100, lseek(b, 50, SEEK_HOLE), "hole from 50: the end");
	FAILS(ENXIO, lseek(b, 100, SEEK_HOLE));
	FAILS(ENXIO, lseek(b, 100, SEEK_DATA));
	FAILS(ENXIO, lseek(b, -1, SEEK_DATA));
}

static ssize_t copy_all(int in, off_t ioff, int out, off_t ooff, size_t len)
{
	size_t n = 0;

	while (n < len) {
		ssize_t r = copy_file_range(in, &ioff, out, &ooff, len - n, 0);
		if (r < 0)
			return n ? (ssize_t)n : r;
		if (r == 0)
			break;
		n += (size_t)r;
	}
	return (ssize_t)n;
}

static void copy_range(void)
{
	char *want = filled("f", LEN), *dst = calloc(1, 4 * PX_MIB);
	int in = px_open(pa("f"), O_RDONLY), out = px_open(pa("g"), O_RDWR | O_CREAT), self;

	EQ(LEN, copy_all(in, 0, out, 0, LEN), "whole file");
	px_content("g", want, LEN);
	EQ(100000, copy_all(in, 5, out, PX_MIB - 7, 100000), "odd offsets");
	memcpy(dst, want, LEN);
	memcpy(dst + PX_MIB - 7, want + 5, 100000);
	px_content("g", dst, LEN);
	EQ(10, copy_all(in, LEN - 10, out, 3, 5000), "cut by the end of the source");
	memcpy(dst + 3, want + LEN - 10, 10);
	EQ(0, copy_all(in, LEN, out, 0, 10), "at the end of the source");
	EQ(0, copy_all(in, LEN + 100, out, 0, 10), "behind the end of the source");
	px_content("g", dst, LEN);
	EQ(4096, copy_all(in, 0, out, LEN + 5000, 4096), "behind the end of the target");
	memset(dst + LEN, 0, 5000);
	memcpy(dst + LEN + 5000, want, 4096);
	px_content("g", dst, LEN + 9096);
	self = px_open(pb("f"), O_RDWR);
	EQ(50000, copy_all(self, 0, self, 100000, 50000), "within a file through B");
	memcpy(want + 100000, want, 50000);
	px_content("f", want, LEN);
	FAILS(EINVAL, copy_all(self, 0, self, 10, 100));
	FAILS(EBADF, copy_all(in, 0, in, PX_MIB, 10));
	FAILS(EISDIR, copy_all(px_open(pa("."), O_RDONLY), 0, out, 0, 10));
	free(want);
	free(dst);
}

/* From one mount to the other: the kernel may refuse it, but never copy the wrong bytes. */
static void copy_between(void)
{
	char *want = filled("f", 100000);
	int in = px_open(pa("f"), O_RDONLY), out = px_open(pb("g"), O_RDWR | O_CREAT);
	ssize_t n = copy_all(in, 0, out, 0, 100000);

	if (n < 0 && errno == EXDEV)
		px_skip("the kernel refuses EXDEV");
	EQ(100000, n, "copy from A to B");
	px_content("g", want, 100000);
	free(want);
}

struct room {
	unsigned long long free, avail, inodes;
};

static struct room room_of(bool b)
{
	struct statvfs s;

	memset(&s, 0, sizeof(s));
	OK(statvfs(px_path(b, "."), &s));
	return (struct room){(unsigned long long)s.f_bfree * s.f_frsize, (unsigned long long)s.f_bavail * s.f_frsize, s.f_files - s.f_ffree};
}

static double since(const struct timespec *t)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - t->tv_sec) + (double)(now.tv_nsec - t->tv_nsec) / 1e9;
}

/* Free space when nothing is freed in the background any more: what tests before this one removed is given back by and by. */
static struct room settled(int dir)
{
	struct room was, now = room_of(false);

	for (int i = 0, same = 0; i < 200 && same < 20; i++) { /* an inode may be tried again after 5 s only */
		was = now;
		syncfs(dir);
		usleep(300000);
		now = room_of(false);
		same = was.free == now.free ? same + 1 : 0;
	}
	return now;
}

#define SLACK (6 * PX_MIB)
static bool near(unsigned long long a, unsigned long long b)
{
	return (a > b ? a - b : b - a) <= SLACK;
}

/* Within one second of a call that made it true, each mount says so: for df and for what a file can get. */
static void soon(const char *what, unsigned long long free, unsigned long long avail)
{
	struct timespec start;

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (int b = 0; b < 2; b++) {
		struct room r = room_of(b);

		while (!(near(r.free, free) && near(r.avail, avail)) && since(&start) < 1.0) {
			usleep(20000);
			r = room_of(b);
		}
		TRUE(near(r.free, free) && near(r.avail, avail), "%s, through %c after %.2f s: free %llu, available %llu, expected %llu and %llu",
		     what, b ? 'B' : 'A', since(&start), r.free, r.avail, free, avail);
	}
}

/* Space of a file that is written, punched, cut and removed is seen to go and to come back by both. */
static void space_back(void)
{
	struct room start;
	size_t len = 48 * PX_MIB;
	char *buf = calloc(1, PX_MIB);
	int fd = px_open(pa("f"), O_RDWR | O_CREAT), d = px_open(pa("."), O_RDONLY), other = px_open(pb("."), O_RDONLY), fd_b;

	/* B has looked for space: on a fresh file system it believes that the blocks which A takes below lie in a region without a type. */
	fd_b = px_open(pb("b"), O_RDWR | O_CREAT);
	NEED(pwrite(fd_b, buf, PX_MIB, 0));
	OK(fsync(fd_b));
	OK(close(fd_b));
	start = settled(d);
	soon("at rest", start.free, start.avail);
	memset(buf, 7, PX_MIB);
	for (size_t at = 0; at < len; at += PX_MIB)
		NEED(pwrite(fd, buf, PX_MIB, (off_t)at));
	OK(fsync(fd));
	soon("48 MiB written", start.free - len, start.avail - len);
	OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)len / 2));
	OK(fsync(fd));
	soon("half of it punched", start.free - len / 2, start.avail - len / 2);
	OK(truncate(pb("f"), (off_t)len / 2));
	OK(syncfs(other));
	soon("the other half cut through B", start.free, start.avail);
	EQ(len / 2, px_stat(pa("f")).st_size, "size of f");
	TRUE(px_stat(pa("f")).st_blocks < 2 * PX_MIB / 512, "blocks of a file that is all hole: %lld",
	     (long long)px_stat(pa("f")).st_blocks);
	for (size_t at = 0; at < len; at += PX_MIB)
		NEED(pwrite(fd, buf, PX_MIB, (off_t)at));
	OK(fsync(fd));
	soon("written again", start.free - len, start.avail - len);
	OK(close(fd));
	OK(unlink(pb("f")));
	OK(syncfs(other));
	soon("removed through B", start.free, start.avail);
	free(buf);
}

/* df -i: what is used is what there is, about; the other node's, too. */
static void inodes_used(void)
{
	enum { N = 3000 };
	struct room before[2] = {room_of(false), room_of(true)}, now[2];
	struct timespec start;

	OK(mkdir(pa("d0"), 0755));
	OK(mkdir(pb("d1"), 0755));
	for (int i = 0; i < N; i++)
		close(px_open(i % 2 ? pb("d1/%d", i) : pa("d0/%d", i), O_RDWR | O_CREAT));
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (int b = 0; b < 2; b++) {
		do {
			now[b] = room_of(b);
		} while (now[b].inodes < before[b].inodes + N * 9 / 10 && since(&start) < 2.0 && !usleep(50000));
		TRUE(now[b].inodes >= before[b].inodes + N * 9 / 10 && now[b].inodes <= before[b].inodes + N * 2,
		     "inodes used through %c: before %llu, now %llu, %d made", b ? 'B' : 'A', before[b].inodes, now[b].inodes, N);
	}
	for (int i = 0; i < N; i++)
		OK(unlink(i % 2 ? pb("d1/%d", i) : pa("d0/%d", i)));
}

const struct px_test px_space_tests[] = {
	{"space.fallocate", fallocate_plain, 0, 0},  {"space.keep_size", fallocate_keep, 0, 0}, {"space.punch", punch, 0, 0},
	{"space.punch_small", punch_small, 0, 0},    {"space.zero_range", zero_range, 0, 0},	  {"space.errors", fallocate_errors, 0, 0},
	{"space.seek", seek, 0, 0},		     {"space.seek_small", seek_small, 0, 0},	  {"space.copy", copy_range, 0, 0},
	{"space.copy_between", copy_between, PX_TWO, 0}, {"space.back", space_back, 0, 180}, {"space.inodes", inodes_used, 0, 0},
	{"space.seek_far", seek_far, 0, 0},	     {"space.blocks_at_once", blocks_at_once, 0, 0}, {"space.blocks_of_big_steps", blocks_of_big_steps, 0, 0},
	{NULL, NULL, 0, 0},
};
