/* SPDX-License-Identifier: Apache-2.0 */
/* Topic: mmap: shared and private, through the file's end, and against write, truncate and the other mount. */
#include "px.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

static char *map(int fd, size_t len, int prot, int flags)
{
	char *p;

	NEED((p = mmap(NULL, len, prot, flags, fd, 0)) == MAP_FAILED ? -1 : 0);
	return p;
}

static void shared_write(void)
{
	size_t len = 2 * PX_MIB;
	char *want = malloc(len), *p;
	int fd = px_open(pa("f"), O_RDWR | O_CREAT);

	px_fill(want, len, 1);
	OK(ftruncate(fd, (off_t)len));
	p = map(fd, len, PROT_READ | PROT_WRITE, MAP_SHARED);
	EQ(0, p[5], "byte of a hole");
	memcpy(p, want, len);
	OK(msync(p, len, MS_SYNC));
	px_content("f", want, len);
	memcpy(p + PX_MIB - 10, "hello at a border", 17);
	memcpy(want + PX_MIB - 10, "hello at a border", 17);
	OK(msync(p, len, MS_SYNC));
	px_content("f", want, len);
	memcpy(p, "closed", 6);
	memcpy(want, "closed", 6);
	OK(close(fd));
	OK(munmap(p, len));
	px_content("f", want, len);
	free(want);
}

/* A store is seen by read(2) on the same mount at once, and through the other behind msync. */
static void store_then_read(void)
{
	int fd = px_open(pa("f"), O_RDWR | O_CREAT), b;
	char *p, got[100];

	OK(ftruncate(fd, 20000));
	b = px_open(pb("f"), O_RDWR);
	p = map(fd, 20000, PROT_READ | PROT_WRITE, MAP_SHARED);
	for (int i = 0; i < 30; i++) {
		snprintf(p + 4090, 90, "round %d through the map", i);
		EQ(90, pread(fd, got, 90, 4090), "read through A");
		SAME_STR(p + 4090, got, "round %d: read through A", i);
		OK(msync(p, 20000, MS_SYNC));
		EQ(90, pread(b, got, 90, 4090), "read through B");
		SAME_STR(p + 4090, got, "round %d: read through B", i);
		snprintf(got, 90, "round %d through write", i);
		EQ(90, pwrite(i % 2 ? fd : b, got, 90, 4090), "write");
		SAME_STR(got, p + 4090, "round %d: map after write through %s", i, i % 2 ? "A" : "B");
	}
}

static void two_maps(void)
{
	int a = px_open(pa("f"), O_RDWR | O_CREAT), b;
	char *p, *q;

	OK(ftruncate(a, 8192));
	b = px_open(pb("f"), O_RDWR);
	p = map(a, 8192, PROT_READ | PROT_WRITE, MAP_SHARED);
	q = map(b, 8192, PROT_READ | PROT_WRITE, MAP_SHARED);
	for (int i = 0; i < 40; i++) {
		char *w = i % 2 ? q : p;
		volatile char *r = i % 2 ? p : q;
		w[100 + i] = (char)(i + 1);
		w[5000] = (char)i;
		OK(msync(w, 8192, MS_SYNC));
		EQ(i + 1, r[100 + i], "round %d: store through one map, load through the other", i);
		EQ(i, r[5000], "round %d: the same byte of the second page", i);
	}
	for (int i = 0; i < 40; i++)
		EQ(i + 1, p[100 + i], "byte %d at the end", i);
}

/* Both have stored, into different pages, and write back at the same time: neither waits for the other for ever. */
static void dirty_worker(void *arg, unsigned w)
{
	int fd = px_open(px_path(w % 2, "f"), O_RDWR);
	char *p = map(fd, 40 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED);

	(void)arg;
	for (unsigned i = 0; i < 20; i++) {
		for (unsigned page = w; page < 40; page += 2)
			p[page * 4096 + i] = (char)('a' + page % 26);
		if (i % 4 == 3)
			OK(msync(p, 40 * 4096, MS_SYNC));
	}
	OK(munmap(p, 40 * 4096));
	OK(close(fd));
}

static void both_dirty(void)
{
	char *want = calloc(40, 4096);

	px_make(pa("f"), want, 40 * 4096);
	px_parallel(2, dirty_worker, NULL);
	for (unsigned page = 0; page < 40; page++)
		memset(want + page * 4096, 'a' + (int)(page % 26), 20);
	px_content("f", want, 40 * 4096);
	free(want);
}

/* Both store into the same page, without a word to anybody: each store is there at the other's next access, none is lost, and
 * the last one to a byte wins whoever writes back first. */
static void same_page_dirty(void)
{
	int a = px_open(pa("f"), O_RDWR | O_CREAT), b;
	volatile char *p, *q;
	char got[4096];

	OK(ftruncate(a, 8192));
	b = px_open(pb("f"), O_RDWR);
	p = map(a, 8192, PROT_READ | PROT_WRITE, MAP_SHARED);
	q = map(b, 8192, PROT_READ | PROT_WRITE, MAP_SHARED);
	for (int i = 0; i < 30; i++) {
		p[0] = (char)(100 + i);
		q[0] = (char)(50 + i);
		p[10 + i] = 'p';
		q[1000 + i] = 'q';
		EQ(50 + i, p[0], "round %d: the byte that both stored, A's map", i);
		EQ('q', p[1000 + i], "round %d: B's byte, A's map", i);
		EQ('p', q[10 + i], "round %d: A's byte, B's map", i);
		if (i % 3 == 0)
			OK(i % 2 ? msync((char *)p, 8192, MS_SYNC) : msync((char *)q, 8192, MS_SYNC));
		EQ(2000, pread(i % 2 ? a : b, got, 2000, 0), "read");
		EQ(50 + i, got[0], "round %d: the byte that both stored, read", i);
		EQ('p', got[10 + i], "round %d: A's byte, read", i);
		EQ('q', got[1000 + i], "round %d: B's byte, read", i);
	}
	OK(munmap((char *)q, 8192));
	OK(munmap((char *)p, 8192));
}

/* A store is seen by others at once, without msync: by a reader that has the file open, and by one that opens it now. */
static void stores_seen(void)
{
	int a = px_open(pa("f"), O_RDWR | O_CREAT), b;
	char *p, c = 0;

	OK(ftruncate(a, 3 * 4096));
	b = px_open(pb("f"), O_RDONLY);
	p = map(a, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED);
	for (int i = 1; i < 60; i++) {
		p[4096 * (i % 3) + i] = (char)i;
		EQ(1, pread(b, &c, 1, 4096 * (i % 3) + i), "round %d: read through B", i);
		EQ(i, c, "round %d: the stored byte, a descriptor of B", i);
		int fresh = px_open(pb("f"), O_RDONLY);
		EQ(1, pread(fresh, &c, 1, 4096 * (i % 3) + i), "round %d: read of a fresh descriptor", i);
		EQ(i, c, "round %d: the stored byte, a fresh descriptor of B", i);
		OK(close(fresh));
	}
	OK(munmap(p, 3 * 4096));
}

static void private_map(void)
{
	char *p, want[5000];
	int fd;

	px_fill(want, 5000, 1);
	px_make(pa("f"), want, 5000);
	fd = px_open(pb("f"), O_RDONLY);
	p = map(fd, 5000, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	SAME_BYTES(want, p, 5000, "private map");
	memcpy(p, "mine", 4);
	px_content("f", want, 5000);
	EQ(0, p[5001], "byte behind the end, in the last page");
	OK(close(fd));
	SAME_STR("mine", (p[4] = 0, p), "private change");
	FAILS(EACCES, mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, px_open(pa("f"), O_RDONLY), 0) == MAP_FAILED ? -1 : 0);
	FAILS(EACCES, mmap(NULL, 4096, PROT_READ, MAP_SHARED, px_open(pa("f"), O_WRONLY), 0) == MAP_FAILED ? -1 : 0);
	FAILS(ENODEV, mmap(NULL, 4096, PROT_READ, MAP_SHARED, px_open(pa("."), O_RDONLY), 0) == MAP_FAILED ? -1 : 0);
}

static sigjmp_buf back;

static void on_bus(int sig)
{
	(void)sig;
	siglongjmp(back, 1);
}

static int load_faults(const volatile char *p)
{
	if (sigsetjmp(back, 1))
		return 1;
	(void)*p;
	return 0;
}

static int load(const volatile char *p)
{
	return load_faults(p) ? -1 : *p;
}

/* Behind the last page SIGBUS; a truncate through B takes pages away, growth gives them back as zeros. */
static void truncated_map(void)
{
	int fd = px_open(pa("f"), O_RDWR | O_CREAT);
	char *p;

	signal(SIGBUS, on_bus);
	OK(ftruncate(fd, 3 * 4096));
	p = map(fd, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED);
	memset(p, 'x', 3 * 4096);
	EQ(1, load_faults(p + 3 * 4096), "SIGBUS behind the last page");
	OK(truncate(pb("f"), 5000));
	EQ(1, load_faults(p + 2 * 4096), "SIGBUS in a page cut off through B");
	EQ(0, load_faults(p + 4096), "no SIGBUS in the page of the end");
	EQ('x', load(p + 4999), "last byte (-1: SIGBUS)");
	EQ(0, load(p + 5000), "first byte behind the end after truncate through B");
	OK(truncate(pb("f"), 4 * 4096));
	px_size("f", 4 * 4096); /* see diff.map_growth for what this look is good for */
	EQ(0, load_faults(p + 3 * 4096), "no SIGBUS after growth through B");
	EQ(0, load(p + 6000), "byte that was cut off and came back");
	EQ(0, load(p + 2 * 4096), "byte of a page that was cut off and came back");
	EQ('x', load(p + 10), "byte that stayed");
}

/* Stores behind the end, in its page, never become the file's. */
static void tail_of_page(void)
{
	int fd = px_open(pa("f"), O_RDWR | O_CREAT);
	char *p, want[4096] = "0123456789";

	if (px.kind == PX_TMPFS)
		px_skip("tmpfs keeps what was stored behind the end");
	EQ(10, write(fd, want, 10), "ten bytes");
	p = map(fd, 4096, PROT_READ | PROT_WRITE, MAP_SHARED);
	memset(p + 10, 'y', 100);
	OK(msync(p, 4096, MS_SYNC));
	px_content("f", want, 10);
	OK(munmap(p, 4096));
	OK(ftruncate(px_open(pb("f"), O_RDWR), 4096));
	px_content("f", want, 4096);
}

static void append_descriptor(void)
{
	int fd = (int)NEED(open(pa("f"), O_RDWR | O_APPEND | O_CREAT, 0644));
	char *p;

	EQ(5, write(fd, "hello", 5), "append");
	p = map(fd, 5, PROT_READ, MAP_PRIVATE);
	EQ('h', load(p), "private map of an O_APPEND descriptor");
	if (!px_kernel(6, 6)) { /* docs/posix.md */
		FAILS(ENODEV, mmap(NULL, 5, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
		return;
	}
	p = map(fd, 5, PROT_READ | PROT_WRITE, MAP_SHARED);
	p[0] = 'H';
	OK(msync(p, 5, MS_SYNC));
	EQ(6, write(fd, " world", 6), "append behind a store");
	px_content("f", "Hello world", 11);
}

static void unlinked_map(void)
{
	int fd = px_open(pa("f"), O_RDWR | O_CREAT);
	char *p, got[4];

	OK(ftruncate(fd, 100000));
	p = map(fd, 100000, PROT_READ | PROT_WRITE, MAP_SHARED);
	memcpy(p + 50000, "abc", 4);
	OK(unlink(pb("f")));
	SAME_STR("abc", p + 50000, "map of a file removed through B");
	memcpy(p + 70000, "def", 4);
	OK(msync(p, 100000, MS_SYNC));
	EQ(4, pread(fd, got, 4, 70000), "read of it");
	SAME_STR("def", got, "store after the removal");
	OK(close(fd));
	EQ('a', p[50000], "the map outlives the descriptor");
}

const struct px_test px_mmap_tests[] = {
	{"mmap.shared", shared_write, 0, 0},	 {"mmap.store_then_read", store_then_read, 0, 0}, {"mmap.two_maps", two_maps, 0, 0},
	{"mmap.both_dirty", both_dirty, 0, 0},	 {"mmap.same_page_dirty", same_page_dirty, 0, 0},
	{"mmap.stores_seen", stores_seen, 0, 0},
	{"mmap.private", private_map, 0, 0},	 {"mmap.truncated", truncated_map, 0, 0},	  {"mmap.tail", tail_of_page, 0, 0},
	{"mmap.append", append_descriptor, 0, 0}, {"mmap.unlinked", unlinked_map, 0, 0},	  {NULL, NULL, 0, 0},
};
