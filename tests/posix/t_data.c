/* SPDX-License-Identifier: Apache-2.0 */
/* Topic: bytes: read and write at the borders where a file's form changes (inline, page, block), truncation, append. */
#include "px.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/xattr.h>

/* Inline data ends at 3,901 bytes; pages are 4 KiB, blocks 64 KiB to 1 MiB and more. */
static const long long borders[] = {1, 512, 3901, 4096, 8192, 65536, 131072, PX_MIB, 2 * PX_MIB};

static char *pattern(size_t len, unsigned salt)
{
	char *p = malloc(len ? len : 1);

	if (!p)
		_exit(1);
	px_fill(p, len, salt);
	return p;
}

/* Whole files of each size around a border, written at once and in pieces. */
static void sizes(void)
{
	for (size_t i = 0; i < PX_LEN(borders); i++)
		for (int d = -1; d <= 1; d++) {
			size_t len = (size_t)(borders[i] + d);
			char *want = pattern(len, (unsigned)i), name[32], c;
			int fd;

			snprintf(name, sizeof(name), "s%zu", len);
			px_make(pa("%s", name), want, len);
			px_content(name, want, len);
			fd = px_open(pb("%s", name), O_RDONLY);
			EQ(0, pread(fd, &c, 1, (off_t)len), "read at the end of %s", name);
			EQ(0, pread(fd, &c, 1, (off_t)len + 5000), "read behind the end of %s", name);
			EQ(len ? 1 : 0, pread(fd, &c, 1, len ? (off_t)len - 1 : 0), "read of the last byte of %s", name);
			close(fd);
			free(want);
		}
}

/* Two bytes across each border of a file with a hole before them; everything else is zero. */
static void across(void)
{
	for (size_t i = 1; i < PX_LEN(borders); i++) {
		size_t len = (size_t)borders[i] + 1;
		char *want = calloc(1, len), name[32];

		snprintf(name, sizeof(name), "x%lld", borders[i]);
		int fd = px_open(pa("%s", name), O_RDWR | O_CREAT);
		EQ(2, pwrite(fd, "ab", 2, borders[i] - 1), "two bytes at %lld", borders[i] - 1);
		memcpy(want + borders[i] - 1, "ab", 2);
		px_content(name, want, len);
		fd = px_open(pb("%s", name), O_RDWR);
		EQ(2, pwrite(fd, "cd", 2, borders[i] - 1), "overwrite through B at %lld", borders[i] - 1);
		memcpy(want + borders[i] - 1, "cd", 2);
		px_content(name, want, len);
		close(fd);
		free(want);
	}
}

/* A file that grows by turns through A and B, in odd steps, over all borders. */
static void grow_by_turns(void)
{
	static const size_t steps[] = {1, 777, 3901, 4095, 4097, 10000, 65535, 65537, 300001, 1048577};
	size_t most = 4 * PX_MIB, at = 0;
	char *want = pattern(most, 9);
	int fd[2] = {px_open(pa("f"), O_RDWR | O_CREAT), px_open(pb("f"), O_RDWR)};

	for (size_t i = 0; i < 2 * PX_LEN(steps); i++) {
		size_t n = steps[i % PX_LEN(steps)];
		if (at + n > most)
			break;
		EQ(n, pwrite(fd[i % 2], want + at, n, (off_t)at), "write of %zu at %zu", n, at);
		at += n;
		px_size("f", (long long)at);
		char *got = malloc(at);
		EQ(at, pread(fd[1 - i % 2], got, at, 0), "read of %zu through the other", at);
		SAME_BYTES(want, got, at, "f of %zu bytes through the other", at);
		free(got);
	}
	px_content("f", want, at);
}

/* Neighbouring bytes of one page by turns: whoever writes must not undo the other. */
static void interleave(void)
{
	size_t len = 20000;
	char *want = pattern(len, 3);
	int fd[2];

	px_make(pa("f"), want, len);
	fd[0] = px_open(pa("f"), O_RDWR);
	fd[1] = px_open(pb("f"), O_RDWR);
	for (int i = 0; i < 400; i++) {
		size_t at = (size_t)(px_rnd() % (len - 100)), n = 1 + (size_t)(px_rnd() % 100);
		px_fill(want + at, n, (unsigned)i + 50);
		EQ(n, pwrite(fd[i % 2], want + at, n, (off_t)at), "write %d of %zu at %zu", i, n, at);
		char got[300];
		EQ(n, pread(fd[1 - i % 2], got, n, (off_t)at), "read of write %d through the other", i);
		SAME_BYTES(want + at, got, n, "write %d of %zu at %zu, read through the other", i, n, at);
	}
	px_content("f", want, len);
}

/* Whole pages and blocks written by turns, with no read in between that could make up for a cache that was not dropped. */
static void writes_by_turns(void)
{
	static const size_t lens[] = {10, 4096, 65536, PX_MIB};
	char *buf = malloc(PX_MIB), *got = malloc(PX_MIB), name[16];

	for (size_t i = 0; i < PX_LEN(lens); i++)
		for (int turns = 2; turns < 8; turns++) {
			snprintf(name, sizeof(name), "f%zu-%d", i, turns);
			int fd[2] = {px_open(pa("%s", name), O_RDWR | O_CREAT), px_open(pb("%s", name), O_RDWR)};
			for (int t = 0; t < turns; t++) {
				memset(buf, 'a' + t, lens[i]);
				EQ(lens[i], pwrite(fd[t % 2], buf, lens[i], 0), "write of turn %d", t);
			}
			for (int b = 0; b < 2; b++) {
				EQ(lens[i], pread(fd[b], got, lens[i], 0), "read after %d turns, mount %c", turns, 'A' + b);
				SAME_BYTES(buf, got, lens[i], "%zu bytes after %d turns of writes, mount %c", lens[i], turns, 'A' + b);
			}
			close(fd[0]);
			close(fd[1]);
		}
	free(buf);
	free(got);
}

static void cut(const char *name, bool b, long long to)
{
	static unsigned turn;

	if (turn++ % 2) {
		OK(truncate(px_path(b, name), to));
	} else {
		int fd = px_open(px_path(b, name), O_RDWR);
		OK(ftruncate(fd, to));
		close(fd);
	}
}

/* Down and up again: what was cut off reads as zeros, also within a page, block or inode. */
static void truncate_zeros(void)
{
	for (size_t i = 0; i < PX_LEN(borders); i++)
		for (int d = -1; d <= 1; d++) {
			size_t to = (size_t)(borders[i] + d), len = to + 5000;
			char *want = pattern(len, 4), name[32];

			snprintf(name, sizeof(name), "t%zu", to);
			px_make(pa("%s", name), want, len);
			cut(name, true, (long long)to);
			px_content(name, want, to);
			cut(name, false, (long long)len);
			memset(want + to, 0, len - to);
			px_content(name, want, len);
			free(want);
		}
}

/* Reads across the end that B has just moved down: they stop there, although A's kernel believed in a later one. */
static void end_moved(void)
{
	size_t size = 400000, to = 294452, from = 131075;
	char *buf = calloc(1, size);

	for (int i = 0; i < 12; i++) {
		int a = px_open(pa("f%d", i), O_RDWR | O_CREAT), b;
		EQ(225280, pwrite(a, buf, 225280, 0), "write through A");
		b = px_open(pb("f%d", i), O_RDWR);
		EQ(14865, pread(a, buf, 14865, 200704), "read through A");
		EQ(size - from, pwrite(b, buf, size - from, (off_t)from), "write through B");
		EQ(46075, pread(a, buf, 46075, 340235), "read of it through A");
		OK(ftruncate(b, (off_t)to));
		EQ(to - from, pread(a, buf, 191028, (off_t)from), "round %d: bytes read through A across the end that B moved", i);
		close(a);
		close(b);
	}
	free(buf);
}

/* The same when A then writes a part of a page behind the new end: the kernel asks for that page last. */
static void end_moved_then_written(void)
{
	char *buf = calloc(1, 70000);

	memset(buf, 'z', 70000);
	for (int i = 0; i < 12; i++) {
		int a = px_open(pa("f%d", i), O_RDWR | O_CREAT), b;
		EQ(70000, pwrite(a, buf, 70000, 0), "write through A");
		b = px_open(pb("f%d", i), O_RDWR);
		EQ(70000, pread(b, buf, 70000, 0), "read through B");
		EQ(70000, pread(a, buf, 70000, 0), "read through A");
		OK(ftruncate(b, 3));
		EQ(298, pwrite(a, buf, 298, 45056), "write through A behind the end");
		EQ(28970, pread(a, buf, 53616, 16384), "round %d: bytes read through A to the end", i);
		close(a);
		close(b);
	}
	free(buf);
}

static void truncate_errors(void)
{
	px_make(pa("f"), "abc", 3);
	NEED(mkdir(pa("d"), 0755));
	NEED(mkfifo(pa("p"), 0644));
	FAILS(EISDIR, truncate(pa("d"), 0));
	FAILS(EINVAL, truncate(pa("p"), 0));
	FAILS(ENOENT, truncate(pa("absent"), 0));
	FAILS(EINVAL, truncate(pa("f"), -1));
	FAILS(ENOTDIR, truncate(pa("f/x"), 0));
	OK(truncate(pb("f"), 3));
	px_content("f", "abc", 3);
	FAILS(EINVAL, pwrite(px_open(pa("f"), O_RDWR), "x", 1, -1));
}

/* Writing far behind the end, then filling the hole from its other side. */
static void holes_filled(void)
{
	size_t len = 3 * PX_MIB + 100;
	char *want = calloc(1, len);
	int a = px_open(pa("f"), O_RDWR | O_CREAT), b = px_open(pb("f"), O_RDWR);

	px_fill(want + len - 100, 100, 1);
	EQ(100, pwrite(a, want + len - 100, 100, (off_t)len - 100), "write behind a hole");
	px_content("f", want, len);
	px_fill(want + PX_MIB - 50, 100, 2);
	EQ(100, pwrite(b, want + PX_MIB - 50, 100, PX_MIB - 50), "write into the hole through B");
	px_content("f", want, len);
	px_fill(want, 5000, 3);
	EQ(5000, pwrite(a, want, 5000, 0), "write at its start through A");
	px_content("f", want, len);
}

/* Offsets far out: the file system says EFBIG only where the manual says it may. */
static void far_offsets(void)
{
	static const int shift[] = {31, 32, 40, 43, 44, 50, 56, 62};
	int fd = px_open(pa("f"), O_RDWR | O_CREAT), other = px_open(pb("f"), O_RDWR);
	char c;

	EQ(1, pwrite(fd, "0", 1, 0), "first byte");
	for (size_t i = 0; i < PX_LEN(shift); i++) {
		off_t at = ((off_t)1 << shift[i]) + 17;
		ssize_t n = pwrite(fd, "x", 1, at);
		if (px.local && n < 0 && errno == EFBIG)
			break;
		EQ(1, n, "write of a byte at 2^%d + 17", shift[i]);
		px_size("f", (long long)at + 1);
		EQ(1, pread(other, &c, 1, at), "read at 2^%d + 17 through B", shift[i]);
		EQ('x', c, "byte at 2^%d + 17 through B", shift[i]);
		EQ(1, pread(other, &c, 1, at - 1), "read before it");
		EQ(0, c, "byte before 2^%d + 17", shift[i]);
		EQ(0, pread(other, &c, 1, at + 1), "read behind it");
	}
	TRUE(px_stat(pa("f")).st_blocks < 100000, "blocks of a file with few bytes far apart (%lld)",
	     (long long)px_stat(pa("f")).st_blocks);
	OK(ftruncate(other, 1));
	px_content("f", "0", 1);
}

static void largest(void)
{
	int fd = px_open(pa("f"), O_RDWR | O_CREAT);
	char c;

	if (px.local)
		px_skip("each local file system has its own largest size");
	OK(ftruncate(fd, INT64_MAX));
	px_size("f", INT64_MAX);
	EQ(1, pwrite(fd, "z", 1, INT64_MAX - 1), "write of the last byte there can be");
	EQ(1, pread(px_open(pb("f"), O_RDONLY), &c, 1, INT64_MAX - 1), "read of it through B");
	EQ('z', c, "the last byte there can be");
	FAILS(EINVAL, pwrite(fd, "z", 1, INT64_MAX)); /* the kernel: the end would be negative */
	OK(ftruncate(fd, 0));
	px_content("f", "", 0);
}

static void file_limit(void)
{
	struct rlimit r = {10000, 10000};
	int fd = px_open(pa("f"), O_RDWR | O_CREAT);

	signal(SIGXFSZ, SIG_IGN);
	NEED(setrlimit(RLIMIT_FSIZE, &r));
	EQ(10, pwrite(fd, "0123456789abcdef", 16, 9990), "write across RLIMIT_FSIZE is cut");
	FAILS(EFBIG, pwrite(fd, "x", 1, 10000));
	FAILS(EFBIG, ftruncate(fd, 10001));
	px_size("f", 10000);
}

static void vectors(void)
{
	char x[5000], y[3], z[70000], *want = malloc(75003), got[75003];
	struct iovec w[] = {{x, sizeof(x)}, {y, sizeof(y)}, {NULL, 0}, {z, sizeof(z)}}, r[] = {{got, 1}, {got + 1, 60000}, {got + 60001, 15002}};
	int a = px_open(pa("f"), O_RDWR | O_CREAT), b = px_open(pb("f"), O_RDWR);

	px_fill(x, sizeof(x), 1);
	px_fill(y, sizeof(y), 2);
	px_fill(z, sizeof(z), 3);
	memcpy(want, x, 5000);
	memcpy(want + 5000, y, 3);
	memcpy(want + 5003, z, 70000);
	EQ(75003, writev(a, w, 4), "writev of three pieces");
	px_content("f", want, 75003);
	EQ(75003, readv(b, r, 3), "readv of three pieces through B");
	SAME_BYTES(want, got, 75003, "readv through B");
	EQ(75003, lseek(b, 0, SEEK_CUR), "position after readv");
	EQ(3, pwritev(b, w + 1, 1, 70001), "pwritev through B");
	memcpy(want + 70001, y, 3);
	EQ(60001, preadv(a, r, 2, 15000), "preadv");
	SAME_BYTES(want + 15000, got, 60001, "preadv");
	EQ(3, pwritev2(a, w + 1, 1, 0, RWF_APPEND | RWF_DSYNC), "pwritev2 with RWF_APPEND");
	px_size("f", 75006);
	free(want);
}

static void rwf_append(void)
{
	struct iovec v = {"++", 2};
	int a = px_open(pa("f"), O_RDWR | O_CREAT), b = px_open(pb("f"), O_RDWR);

	EQ(1, pwrite(a, "a", 1, 0), "first byte through A");
	EQ(3, pwrite(b, "bbb", 3, 1), "three bytes behind it through B");
	px_size("f", 4); /* see diff.rwf_append for what this look is good for */
	EQ(2, pwritev2(a, &v, 1, 0, RWF_APPEND), "append by RWF_APPEND through A");
	px_content("f", "abbb++", 6);
}

static void splice_bytes(void)
{
	char *want = pattern(300000, 6);
	int p[2], a, out, n = 0;
	off_t off = 1000;

	px_make(pa("f"), want, 300000);
	a = px_open(pb("f"), O_RDONLY);
	out = px_open(pa("g"), O_RDWR | O_CREAT);
	while (n < 100000) {
		ssize_t r = sendfile(out, a, &off, (size_t)(100000 - n));
		if (!TRUE(r > 0, "sendfile at %d", n))
			break;
		n += (int)r;
	}
	px_content("g", want + 1000, 100000);
	NEED(pipe(p));
	EQ(4096, splice(a, NULL, p[1], NULL, 4096, 0), "splice from a file");
	EQ(4096, splice(p[0], NULL, out, NULL, 4096, 0), "splice to a file");
	px_size("g", 104096);
	char got[4096];
	EQ(4096, pread(px_open(pb("g"), O_RDONLY), got, 4096, 100000), "read of what was spliced");
	SAME_BYTES(want, got, 4096, "what was spliced");
	free(want);
}

static void *volatile nowhere_p = (void *)1;

static void zero_and_bad(void)
{
	int fd = px_open(pa("f"), O_RDWR | O_CREAT);
	void *nowhere = nowhere_p;
	char c[10];

	EQ(0, write(fd, "", 0), "write of nothing");
	EQ(0, pwrite(fd, "", 0, 100), "write of nothing at 100");
	px_size("f", 0);
	EQ(0, read(fd, c, 10), "read of an empty file");
	FAILS(EFAULT, write(fd, nowhere, 10));
	px_size("f", 0);
	EQ(10, write(fd, "0123456789", 10), "ten bytes");
	FAILS(EFAULT, pread(fd, nowhere, 10, 0));
	FAILS(EINVAL, pread(fd, c, 1, -1));
	EQ(4, pread(fd, c, 10, 6), "read cut by the end");
	FAILS(EINVAL, lseek(fd, -1, SEEK_SET));
	EQ(9, lseek(fd, -1, SEEK_END), "SEEK_END - 1");
	EQ(1, read(fd, c, 10), "read of the last byte");
	EQ(100, lseek(fd, 100, SEEK_SET), "seek behind the end");
	EQ(0, read(fd, c, 10), "read there");
	EQ(1, write(fd, "x", 1), "write there");
	px_size("f", 101);
}

/* Data is where it belongs after sync calls and a look through fresh descriptors. */
static void syncs(void)
{
	char *want = pattern(200000, 8);
	int fd = px_open(pa("f"), O_RDWR | O_CREAT), d = px_open(pa("."), O_RDONLY | O_DIRECTORY);

	EQ(200000, write(fd, want, 200000), "write");
	OK(fdatasync(fd));
	px_content("f", want, 200000);
	px_fill(want + 5, 100, 9);
	EQ(100, pwrite(fd, want + 5, 100, 5), "write");
	OK(fsync(fd));
	px_content("f", want, 200000);
	OK(ftruncate(fd, 199999));
	OK(syncfs(fd));
	OK(fsync(d));
	OK(fdatasync(d));
	OK(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE));
	OK(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
	OK(readahead(fd, 0, 100000));
	px_content("f", want, 199999);
	free(want);
}

static void direct_io(void)
{
	size_t len = 2 * PX_MIB;
	char *buf, *want;
	int a = open(pa("f"), O_RDWR | O_CREAT | O_DIRECT, 0644), b, plain;

	NEED(a);
	if (posix_memalign((void **)&buf, 4096, len) || posix_memalign((void **)&want, 4096, len))
		_exit(1);
	px_fill(want, len, 5);
	EQ(len, pwrite(a, want, len, 0), "direct write of 2 MiB");
	px_content("f", want, len);
	b = px_open(pb("f"), O_RDWR | O_DIRECT);
	EQ(len, pread(b, buf, len, 0), "direct read through B");
	SAME_BYTES(want, buf, len, "direct read through B");
	/* Direct and cached by turns on the same bytes. */
	plain = px_open(pa("f"), O_RDWR);
	EQ(100, pread(plain, buf, 100, 4096), "cached read");
	px_fill(want + 4096, 8192, 7);
	EQ(8192, pwrite(b, want + 4096, 8192, 4096), "direct write through B");
	EQ(8192, pread(plain, buf, 8192, 4096), "cached read through A behind it");
	SAME_BYTES(want + 4096, buf, 8192, "cached read through A behind a direct write through B");
	px_fill(want + 5000, 100, 8);
	EQ(100, pwrite(plain, want + 5000, 100, 5000), "cached write");
	EQ(8192, pread(a, buf, 8192, 4096), "direct read behind it");
	SAME_BYTES(want + 4096, buf, 8192, "direct read behind a cached write");
	EQ(4096, pwrite(a, want, 4096, (off_t)len), "direct append");
	EQ(4096, pread(b, buf, 65536, (off_t)len), "direct read cut by the end");
	EQ(0, pread(b, buf, 4096, (off_t)len + 4096), "direct read at the end");
	px_size("f", (long long)len + 4096);
}

/* Blocks 50 to 76 of a file, at once: its map gets another level in between, and each block is found by the other. */
static void map_grows(void)
{
	char *buf = malloc(PX_MIB), *got = malloc(PX_MIB);
	unsigned wrong = 0;

	for (int i = 0; i < 6; i++) {
		int a = px_open(pa("f%d", i), O_RDWR | O_CREAT), b;
		OK(setxattr(pa("f%d", i), "user.x", "stays", 5, 0));
		for (int k = 50; k < 77; k++)
			EQ(PX_MIB, pwrite(a, memset(buf, k, PX_MIB), PX_MIB, k * PX_MIB), "write of MiB %d", k);
		OK(fsync(a));
		b = px_open(pb("f%d", i), O_RDONLY);
		for (int k = 50; k < 77; k++) {
			EQ(PX_MIB, pread(b, got, PX_MIB, k * PX_MIB), "read of MiB %d through B", k);
			wrong += memcmp(memset(buf, k, PX_MIB), got, PX_MIB) != 0;
		}
		EQ(5, getxattr(pb("f%d", i), "user.x", got, 10), "attribute beside the map");
		SAME_BYTES("stays", got, 5, "attribute beside the map");
		close(a);
		close(b);
		OK(unlink(pa("f%d", i)));
	}
	EQ(0, wrong, "MiB that are wrong through B, of 6 * 27");
	free(buf);
	free(got);
}

static void big(void)
{
	size_t len = 16 * PX_MIB, step = PX_MIB + 4099, total = (px.longrun ? 2048 : 96) * (size_t)PX_MIB;
	char *buf = pattern(len, 1), *got = malloc(len);
	int a = px_open(pa("f"), O_WRONLY | O_CREAT), b = px_open(pb("f"), O_RDONLY);
	size_t at, n;

	for (at = 0; at < total; at += step)
		if (!EQ(step, pwrite(a, buf + at % 251, step, (off_t)at), "write at %zu", at))
			break;
	px_size("f", (long long)at);
	for (size_t i = 0; i < at; i += step) {
		n = (size_t)NEED(pread(b, got, step, (off_t)i));
		if (!EQ(step, n, "read through B at %zu", i) || !SAME_BYTES(buf + i % 251, got, step, "f at %zu through B", i))
			break;
	}
	free(buf);
	free(got);
}

const struct px_test px_data_tests[] = {
	{"data.sizes", sizes, 0, 0},
	{"data.across", across, 0, 0},
	{"data.grow_by_turns", grow_by_turns, 0, 0},
	{"data.interleave", interleave, 0, 0},
	{"data.writes_by_turns", writes_by_turns, 0, 0},
	{"data.truncate_zeros", truncate_zeros, 0, 0},
	{"data.end_moved", end_moved, 0, 0}, {"data.end_moved_then_written", end_moved_then_written, 0, 0},
	{"data.truncate_errors", truncate_errors, 0, 0},
	{"data.holes_filled", holes_filled, 0, 0},
	{"data.far_offsets", far_offsets, 0, 0},
	{"data.largest", largest, PX_DIFF, 0},
	{"data.file_limit", file_limit, 0, 0},
	{"data.vectors", vectors, 0, 0},
	{"data.rwf_append", rwf_append, 0, 0},
	{"data.splice", splice_bytes, 0, 0},
	{"data.zero_and_bad", zero_and_bad, 0, 0},
	{"data.syncs", syncs, 0, 0},
	{"data.direct", direct_io, 0, 0},
	{"data.map_grows", map_grows, 0, 0},
	{"data.big", big, 0, 0},
	{NULL, NULL, 0, 0},
};
