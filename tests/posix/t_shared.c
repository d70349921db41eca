/* SPDX-License-Identifier: Apache-2.0 */
/* Topic: one file that both mounts write at once: blocks, records, halves of pages, appends, cuts; through the page cache, past
 * it and through maps. Every writer has bytes of its own, so in the end every byte is known. */
#include "px.h"

#include <sched.h>
#include <sys/mman.h>

#define WRITERS 4u
#define RECORD	47008u /* neither pages nor blocks */
#define BLOCK	65536u

static unsigned rounds(unsigned n)
{
	return px.longrun ? 10 * n : n;
}

static const char *mine(unsigned w)
{
	return px_path(w % 2, "f");
}

static uint8_t *buffer(size_t len)
{
	void *p = NULL;

	NEED(posix_memalign(&p, 4096, len) ? -1 : 0);
	return p;
}

/* Byte at an offset, written by a worker: shows both. */
static void pattern(uint8_t *p, size_t len, off_t at, unsigned w)
{
	for (size_t i = 0; i < len; i++) {
		uint64_t o = (uint64_t)at + i;
		p[i] = (uint8_t)(1 + (o * 31 + (o >> 9) * 7 + (o >> 17) + w * 61) % 255);
	}
}

/* All of the file through both mounts: piece i of `piece` bytes is that of writer i % WRITERS. */
static void all_there(size_t piece, unsigned pieces)
{
	size_t len = piece * pieces;
	uint8_t *want = buffer(len);

	for (unsigned i = 0; i < pieces; i++)
		pattern(want + i * piece, piece, (off_t)(i * piece), i % WRITERS);
	px_content("f", want, len);
	px_same_stat("f");
	free(want);
}

/* ---- blocks and records --------------------------------------------------------------------------------------------- */

enum how { CACHED, DIRECT, MAPPED, SYNCED };
struct stripes {
	size_t piece;
	unsigned pieces;
	enum how how[WRITERS];
	bool reads; /* each looks at its neighbour's last piece, too */
};

/* What another has written there, or nothing yet; never half of it in a page. */
static void look_left(const struct stripes *s, int fd, uint8_t *got, unsigned i)
{
	unsigned from = (i + WRITERS - 1) % WRITERS;
	off_t at = (off_t)((i - 1) * s->piece);
	uint8_t *want = buffer(s->piece);
	ssize_t n = OK(pread(fd, got, s->piece, at));
	size_t bad = 0;

	pattern(want, s->piece, at, from);
	for (ssize_t k = 0; k < n; k++)
		bad += got[k] && got[k] != want[k];
	EQ(0, bad, "bytes at %lld that writer %u never wrote", (long long)at, from);
	free(want);
}

static void stripe_writer(void *arg, unsigned w)
{
	const struct stripes *s = arg;
	size_t len = s->piece * s->pieces;
	int more = (s->how[w] == DIRECT ? O_DIRECT : 0) | (s->how[w] == SYNCED ? O_DSYNC : 0);
	int fd = px_open(mine(w), (s->how[w] == MAPPED ? O_RDWR : O_WRONLY) | more); /* one that could be mapped moves the token as a whole */
	int in = px_open(mine(w), O_RDONLY | (more & O_DIRECT));
	uint8_t *buf = buffer(s->piece), *got = buffer(s->piece), *map = NULL;

	if (s->how[w] == MAPPED) {
		map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		NEED(map == MAP_FAILED ? -1 : 0);
	}
	for (unsigned i = w; i < s->pieces; i += WRITERS) {
		off_t at = (off_t)(i * s->piece);
		pattern(buf, s->piece, at, w);
		if (map)
			memcpy(map + at, buf, s->piece);
		else
			EQ(s->piece, pwrite(fd, buf, s->piece, at), "write at %lld through %s", (long long)at, mine(w));
		EQ(s->piece, pread(in, got, s->piece, at), "read at %lld through %s", (long long)at, mine(w));
		SAME_BYTES(buf, got, s->piece, "own bytes at %lld through %s", (long long)at, mine(w));
		if (s->reads && i && s->how[w] != DIRECT)
			look_left(s, in, got, i);
	}
	if (map)
		OK(munmap(map, len));
	OK(close(fd));
	OK(close(in));
}

static void run_stripes(struct stripes s, bool sized)
{
	bool direct = false;

	px_mkfile(pa("f"));
	if (sized)
		OK(truncate(pb("f"), (off_t)(s.piece * s.pieces)));
	for (unsigned w = 0; w < WRITERS; w++)
		direct |= s.how[w] == DIRECT;
	if (direct) {
		int fd = open(pa("f"), O_RDWR | O_DIRECT);
		if (fd < 0)
			px_skip("no O_DIRECT here");
		close(fd);
	}
	px_parallel(WRITERS, stripe_writer, &s);
	all_there(s.piece, s.pieces);
}

static void strided(void)
{
	run_stripes((struct stripes){BLOCK, rounds(120), {CACHED, CACHED, CACHED, SYNCED}, true}, false);
}

static void interleaved(void)
{
	run_stripes((struct stripes){RECORD, rounds(120), {CACHED, CACHED, SYNCED, CACHED}, true}, false);
}

static void mixed_blocks(void)
{
	run_stripes((struct stripes){BLOCK, rounds(100), {CACHED, DIRECT, DIRECT, MAPPED}, true}, true);
}

static void mixed_records(void)
{
	run_stripes((struct stripes){RECORD, rounds(80), {MAPPED, CACHED, CACHED, MAPPED}, true}, true);
}

/* Pages that all four write: 100 bytes each. */
static void neighbours(void)
{
	run_stripes((struct stripes){100, rounds(400), {CACHED, CACHED, CACHED, CACHED}, true}, false);
}

static void neighbours_mapped(void)
{
	run_stripes((struct stripes){100, rounds(300), {MAPPED, CACHED, CACHED, MAPPED}, true}, true);
}

/* Each its own contiguous part, far apart, every write longer than the file: the gaps are filled by others. */
static void segment_writer(void *arg, unsigned w)
{
	size_t part = *(size_t *)arg;
	uint8_t *buf = buffer(RECORD);
	int fd = px_open(mine(w), O_RDWR);

	for (size_t at = w * part; at < (w + 1) * part; at += RECORD) {
		size_t n = (w + 1) * part - at < RECORD ? (w + 1) * part - at : RECORD;
		struct stat st;
		pattern(buf, n, (off_t)at, w);
		EQ(n, pwrite(fd, buf, n, (off_t)at), "write at %zu through %s", at, mine(w));
		st = px_stat(px_path(w % 2 == 0, "f"));
		TRUE((size_t)st.st_size >= at + n, "size %lld through the other mount, %zu were written before", (long long)st.st_size, at + n);
		TRUE((size_t)st.st_size <= WRITERS * part, "size %lld, nobody writes behind %zu", (long long)st.st_size, WRITERS * part);
	}
	OK(fsync(fd));
	OK(close(fd));
}

static void segments(void)
{
	size_t part = rounds(20) * (size_t)RECORD + 1234;

	px_mkfile(pa("f"));
	px_parallel(WRITERS, segment_writer, &part);
	all_there(part, WRITERS);
}

/* ---- by turns: everything is known at every step ----------------------------------------------------------------------- */

struct turns {
	uint8_t *want;
	long long size;
	int fd[2];
	struct stat last;
};

static void turn(struct turns *t, unsigned i, size_t room)
{
	unsigned w = (unsigned)(px_rnd() % 2), what = (unsigned)(px_rnd() % 8);
	size_t len = 1 + px_rnd() % (px_rnd() % 2 ? 300 : 100000), at = px_rnd() % (room - len);

	if (what == 0) {
		OK(ftruncate(t->fd[w], (off_t)at));
		if ((long long)at < t->size)
			memset(t->want + at, 0, (size_t)t->size - at);
		t->size = (long long)at;
	} else if (what == 1 && t->size + (long long)len < (long long)room) {
		int fd = px_open(mine(w), O_WRONLY | O_APPEND);
		pattern(t->want + t->size, len, t->size, i);
		EQ(len, write(fd, t->want + t->size, len), "append through %s", mine(w));
		t->size += (long long)len;
		OK(close(fd));
	} else {
		pattern(t->want + at, len, (off_t)at, i);
		EQ(len, pwrite(t->fd[w], t->want + at, len, (off_t)at), "write through %s", mine(w));
		if ((long long)(at + len) > t->size)
			t->size = (long long)(at + len);
	}
	for (int b = 0; b <= px.two; b++) { /* the other mount first */
		struct stat st = px_stat(px_path((w + 1 + (unsigned)b) % 2, "f"));
		EQ(t->size, st.st_size, "turn %u: size through %c", i, 'A' + (int)(w + 1 + (unsigned)b) % 2);
		TRUE(px_ns(st.st_mtim) >= px_ns(t->last.st_mtim), "turn %u: mtime does not go back", i);
		TRUE(px_ns(st.st_ctim) >= px_ns(t->last.st_ctim), "turn %u: ctime does not go back", i);
		t->last = st;
	}
}

static void turn_reads(struct turns *t, unsigned i, size_t room)
{
	size_t len = 1 + px_rnd() % 50000, at = px_rnd() % (room - len);
	long long have = t->size - (long long)at;
	uint8_t *got = buffer(len);

	have = have < 0 ? 0 : have > (long long)len ? (long long)len : have;
	for (int b = 0; b <= px.two; b++) {
		EQ(have, pread(t->fd[b], got, len, (off_t)at), "turn %u: bytes read at %zu through %c", i, at, 'A' + b);
		SAME_BYTES(t->want + at, got, (size_t)have, "turn %u: at %zu through %c", i, at, 'A' + b);
	}
	free(got);
}

static void turns(void)
{
	size_t room = 3 * PX_MIB + 777;
	struct turns t = {.want = calloc(1, room)};

	px_mkfile(pa("f"));
	t.fd[0] = px_open(pa("f"), O_RDWR);
	t.fd[1] = px_open(pb("f"), O_RDWR);
	for (unsigned i = 0; i < rounds(120); i++) {
		turn(&t, i, room);
		turn_reads(&t, i, room);
	}
	px_content("f", t.want, (size_t)t.size);
	free(t.want);
}

/* A writes blocks past the cache; B has the file mapped and stores beside them: each sees the other's at once. */
static void direct_and_map(void)
{
	size_t len = 64 * 4096;
	uint8_t *buf = buffer(4096), *got = buffer(4096), *map;
	int a, b = px_open(pb("f"), O_RDWR | O_CREAT);

	OK(ftruncate(b, (off_t)len));
	a = open(pa("f"), O_RDWR | O_DIRECT);
	if (a < 0)
		px_skip("no O_DIRECT here");
	map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, b, 0);
	NEED(map == MAP_FAILED ? -1 : 0);
	for (unsigned i = 0; i < rounds(40); i++) {
		size_t at = i % 63 * 4096;
		pattern(buf, 4096, (off_t)at, i);
		EQ(4096, pwrite(a, buf, 4096, (off_t)at), "direct write at %zu", at);
		SAME_BYTES(buf, map + at, 4096, "round %u: direct write, seen in the map", i);
		pattern(map + at + 4096 + i, 100, (off_t)at, i);
		EQ(4096, pread(a, got, 4096, (off_t)(at + 4096)), "direct read behind %zu", at);
		SAME_BYTES(map + at + 4096, got, 4096, "round %u: store, seen by a direct read", i);
	}
	OK(munmap(map, len));
}

/* ---- appends --------------------------------------------------------------------------------------------------------- */

#define APPENDERS 6u
struct head {
	uint32_t len, who, nth, sum;
};

static uint32_t record_make(uint8_t *p, unsigned w, unsigned i)
{
	struct head h = {.len = (uint32_t)(sizeof(h) + (i * 977 + w * 131) % 9000), .who = w, .nth = i};

	pattern(p + sizeof(h), h.len - sizeof(h), i, w);
	h.sum = h.len * 31 + w * 7 + i;
	memcpy(p, &h, sizeof(h));
	return h.len;
}

static void append_writer(void *arg, unsigned w)
{
	unsigned n = *(unsigned *)arg;
	long long own = 0;
	uint8_t *p = buffer(10000);
	int fd = px_open(mine(w), O_WRONLY | O_APPEND | (w == 5 ? O_DSYNC : 0));

	for (unsigned i = 0; i < n; i++) {
		uint32_t len = record_make(p, w, i);
		EQ(len, write(fd, p, len), "append %u of writer %u", i, w);
		own += len;
		TRUE(px_stat(px_path(w % 2 == 0, "f")).st_size >= own, "size through the other mount behind append %u of writer %u", i, w);
	}
	OK(close(fd));
}

static void records_whole(int fd, unsigned n, char mount)
{
	unsigned next[APPENDERS] = {0}, bad = 0;
	uint8_t *p = buffer(10000), *want = buffer(10000);
	struct head h;
	off_t at = 0;

	for (; pread(fd, &h, sizeof(h), at) == sizeof(h) && !bad; at += h.len) {
		bad = h.who >= APPENDERS || h.nth != next[h.who] || h.len > 10000;
		if (bad || record_make(want, h.who, h.nth) != h.len || pread(fd, p, h.len, at) != (ssize_t)h.len || memcmp(p, want, h.len))
			bad = 1;
		else
			next[h.who]++;
	}
	EQ(0, bad, "record torn, lost or out of order before %lld, mount %c", (long long)at, mount);
	for (unsigned w = 0; w < APPENDERS; w++)
		EQ(n, next[w], "records of writer %u, mount %c", w, mount);
}

static long long append_all(unsigned n)
{
	long long sum = 0;
	uint8_t *p = buffer(10000);

	px_mkfile(pa("f"));
	px_parallel(APPENDERS, append_writer, &n);
	for (unsigned w = 0; w < APPENDERS; w++)
		for (unsigned i = 0; i < n; i++)
			sum += record_make(p, w, i);
	px_size("f", sum);
	for (int b = 0; b <= px.two; b++)
		records_whole(px_open(px_path(b, "f"), O_RDONLY), n, (char)('A' + b));
	OK(unlink(pb("f")));
	free(p);
	return sum;
}

static void appends(void)
{
	for (unsigned i = 0; i < rounds(1); i++)
		TRUE(append_all(34) < PX_MIB, "the file stays within a block");
}

static void appends_long(void)
{
	append_all(rounds(150));
}

/* ---- cuts ------------------------------------------------------------------------------------------------------------ */

#define CELLS 600u
#define CELL  1000u

/* Three write their cells over and over; the fourth cuts and lengthens. A cell is its owner's bytes or zeros. */
static void cut_worker(void *arg, unsigned w)
{
	uint8_t *buf = buffer(CELL), *got = buffer(CELL);
	int fd = px_open(mine(w), O_RDWR);

	(void)arg;
	for (unsigned i = 0; i < rounds(80); i++) {
		unsigned c = (unsigned)(px_rnd() % (CELLS / 3)) * 3 + w % 3;
		off_t at = (off_t)c * CELL;
		size_t bad = 0;
		if (w == 3) {
			OK(ftruncate(fd, (off_t)(px_rnd() % (CELLS * CELL))));
			TRUE(px_stat(pb("f")).st_size <= CELLS * CELL, "size behind a cut");
			sched_yield();
			continue;
		}
		pattern(buf, CELL, at, w);
		EQ(CELL, pwrite(fd, buf, CELL, at), "write of cell %u through %s", c, mine(w));
		c = (c + 1) % CELLS; /* the next one's */
		ssize_t n = OK(pread(fd, got, CELL, (off_t)c * CELL));
		pattern(buf, CELL, (off_t)c * CELL, c % 3);
		for (ssize_t k = 0; k < n; k++)
			bad += got[k] && got[k] != buf[k];
		EQ(0, bad, "bytes in cell %u that nobody wrote there, through %s", c, mine(w));
	}
}

/* At rest: both agree, cells are whole up to where a cut went through, and what was cut off does not come back. */
static void cuts_at_rest(void)
{
	struct stat st = px_same_stat("f");
	size_t size = (size_t)st.st_size, keep = size / 2;
	uint8_t *want = calloc(1, CELLS * CELL), *cell = buffer(CELL);
	int fd = px_open(pa("f"), O_RDONLY);

	EQ(size, pread(fd, want, size, 0), "bytes read");
	for (size_t at = 0; at < size; at += CELL) {
		size_t bad = 0;
		pattern(cell, CELL, (off_t)at, (unsigned)(at / CELL % 3));
		for (size_t k = 0; k < CELL && at + k < size; k++)
			bad += want[at + k] && want[at + k] != cell[k];
		EQ(0, bad, "bytes in the cell at %zu that nobody wrote there", at);
	}
	px_content("f", want, size);
	OK(truncate(pb("f"), (off_t)keep));
	px_content("f", want, keep);
	OK(truncate(pa("f"), CELLS * CELL));
	memset(want + keep, 0, CELLS * CELL - keep);
	px_content("f", want, CELLS * CELL);
	free(want);
	OK(close(fd));
}

static void cuts(void)
{
	px_mkfile(pa("f"));
	for (unsigned i = 0; i < rounds(3); i++) {
		px_parallel(WRITERS, cut_worker, NULL);
		cuts_at_rest();
	}
}

/* ---- holes, and a file without a name --------------------------------------------------------------------------------- */

static void punches(void)
{
	size_t len = 4 * PX_MIB;
	uint8_t *want = buffer(len);
	int a = px_open(pa("f"), O_RDWR | O_CREAT), b = px_open(pb("f"), O_RDWR);

	for (unsigned i = 0; i < rounds(8); i++) {
		size_t n = 1 + px_rnd() % PX_MIB, at = px_rnd() % (len - n);
		pattern(want, len, 0, i);
		EQ(len, pwrite(i % 2 ? a : b, want, len, 0), "write of all");
		if (fallocate(i % 2 ? b : a, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)n)) {
			if (errno == EOPNOTSUPP)
				px_skip("no punched holes here");
			OK(-1);
		}
		memset(want + at, 0, n);
		pattern(want + at / 2, 10, 5, i);
		EQ(10, pwrite(a, want + at / 2, 10, (off_t)(at / 2)), "write beside the hole");
		px_content("f", want, len);
		TRUE(lseek(i % 2 ? a : b, 0, SEEK_DATA) == 0, "data at the start");
	}
	free(want);
}

static void unlinked(void)
{
	int a = px_open(pa("f"), O_RDWR | O_CREAT), b = px_open(pb("f"), O_RDWR), fd[2] = {a, b};
	uint8_t *want = calloc(1, PX_MIB), *got = buffer(PX_MIB);

	OK(unlink(pb("f")));
	px_gone("f");
	for (unsigned i = 0; i < rounds(40); i++) {
		size_t n = 1 + px_rnd() % 20000, at = px_rnd() % ((size_t)PX_MIB - n);
		struct stat st[2];
		pattern(want + at, n, (off_t)at, i);
		EQ(n, pwrite(fd[i % 2], want + at, n, (off_t)at), "write %u of a file without a name", i);
		OK(fstat(a, &st[0]));
		OK(fstat(b, &st[1]));
		EQ(st[i % 2].st_size, st[1 - i % 2].st_size, "size, round %u", i);
		EQ(st[0].st_size, pread(fd[1 - i % 2], got, PX_MIB, 0), "bytes through the other, round %u", i);
		SAME_BYTES(want, got, (size_t)st[0].st_size, "content through the other, round %u", i);
	}
	free(want);
}

const struct px_test px_shared_tests[] = {
	{"shared.strided", strided, 0, 0},
	{"shared.interleaved", interleaved, 0, 0},
	{"shared.mixed_blocks", mixed_blocks, 0, 0},
	{"shared.mixed_records", mixed_records, 0, 0},
	{"shared.neighbours", neighbours, 0, 0},
	{"shared.neighbours_mapped", neighbours_mapped, 0, 0},
	{"shared.segments", segments, 0, 0},
	{"shared.turns", turns, 0, 0},
	{"shared.direct_and_map", direct_and_map, 0, 0},
	{"shared.appends", appends, 0, 0},
	{"shared.appends_long", appends_long, 0, 0},
	{"shared.cuts", cuts, 0, 0},
	{"shared.punches", punches, 0, 0},
	{"shared.unlinked", unlinked, 0, 0},
	{NULL, NULL, 0, 0},
};
