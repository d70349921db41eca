/* SPDX-License-Identifier: Apache-2.0 */
/* Topic: the same at the same time through both mounts: exactly one wins, nothing is lost. */
#include "px.h"

#include <dirent.h>
#include <sys/mman.h>

#define WORKERS 4

static unsigned rounds(void)
{
	return px.longrun ? 2000 : 100;
}

struct tally {
	unsigned won[4096];
	unsigned other;
	unsigned start;
};
static struct tally *tally;

static void tally_new(void)
{
	tally = mmap(NULL, sizeof(*tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	NEED(tally == MAP_FAILED ? -1 : 0);
}

static void count(unsigned i, int rc, int expected_errno)
{
	if (rc >= 0)
		__atomic_add_fetch(&tally->won[i], 1, __ATOMIC_SEQ_CST);
	else if (errno != expected_errno)
		EQ(expected_errno, errno, "errno of the one that lost, round %u", i);
}

static void wins(const char *what)
{
	unsigned none = 0, more = 0;

	for (unsigned i = 0; i < rounds(); i++) {
		none += tally->won[i] == 0;
		more += tally->won[i] > 1;
	}
	EQ(0, none, "%s: rounds that nobody won, of %u", what, rounds());
	EQ(0, more, "%s: rounds that several won, of %u", what, rounds());
}

/* Every worker takes the rounds in order; odd ones through B. */
static void excl_worker(void *arg, unsigned w)
{
	(void)arg;
	for (unsigned i = 0; i < rounds(); i++) {
		const char *p = w % 2 ? pb("n%u", i) : pa("n%u", i);
		int fd = open(p, O_CREAT | O_EXCL | O_WRONLY, 0644);
		count(i, fd, EEXIST);
		if (fd >= 0)
			close(fd);
	}
}

static void excl(void)
{
	tally_new();
	px_parallel(WORKERS, excl_worker, NULL);
	wins("O_EXCL");
}

static void mkdir_worker(void *arg, unsigned w)
{
	(void)arg;
	for (unsigned i = 0; i < rounds(); i++)
		count(i, mkdir(w % 2 ? pb("n%u", i) : pa("n%u", i), 0755), EEXIST);
}

static void rmdir_worker(void *arg, unsigned w)
{
	(void)arg;
	for (unsigned i = 0; i < rounds(); i++)
		count(i, rmdir(w % 2 ? pb("n%u", i) : pa("n%u", i)), ENOENT);
}

static void mkdirs(void)
{
	tally_new();
	px_parallel(WORKERS, mkdir_worker, NULL);
	wins("mkdir");
	px_nlink(".", rounds() + 2);
	memset(tally, 0, sizeof(*tally));
	px_parallel(WORKERS, rmdir_worker, NULL);
	wins("rmdir");
	px_nlink(".", 2);
}

static void unlink_worker(void *arg, unsigned w)
{
	(void)arg;
	for (unsigned i = 0; i < rounds(); i++)
		count(i, unlink(w % 2 ? pb("n%u", i) : pa("n%u", i)), ENOENT);
}

static void unlinks(void)
{
	tally_new();
	for (unsigned i = 0; i < rounds(); i++)
		px_mkfile(pa("n%u", i));
	px_parallel(WORKERS, unlink_worker, NULL);
	wins("unlink");
	px_listing(".", NULL, 0);
}

/* All move the same file, each to a name of its own: it is at exactly one place. */
static void rename_worker(void *arg, unsigned w)
{
	(void)arg;
	for (unsigned i = 0; i < rounds(); i++) {
		char from[64], to[64];
		snprintf(from, sizeof(from), "n%u", i);
		snprintf(to, sizeof(to), "%s/n%u-%u", w % 2 ? "p" : "q", i, w);
		count(i, rename(px_path(w % 2, from), px_path(w % 2, to)), ENOENT);
	}
}

static void renames(void)
{
	unsigned found = 0;

	tally_new();
	NEED(mkdir(pa("p"), 0755));
	NEED(mkdir(pa("q"), 0755));
	for (unsigned i = 0; i < rounds(); i++)
		px_mkfile(pa("n%u", i));
	px_parallel(WORKERS, rename_worker, NULL);
	wins("rename");
	for (unsigned i = 0; i < rounds(); i++)
		for (unsigned w = 0; w < WORKERS; w++)
			found += access(w % 2 ? pb("p/n%u-%u", i, w) : pb("q/n%u-%u", i, w), F_OK) == 0;
	EQ(rounds(), found, "moved files found");
}

/* Renames of directories into each other's trees from both sides must never make a ring. */
static void ring_worker(void *arg, unsigned w)
{
	(void)arg;
	for (unsigned i = 0; i < rounds(); i++) {
		const char *from = w % 2 ? pb("a") : pa("b"), *to = w % 2 ? pb("b/x/a") : pa("a/y/b");
		if (rename(from, to) == 0)
			OK(rename(to, from));
		else
			TRUE(errno == EINVAL || errno == ENOENT || errno == ENOTEMPTY, "errno of a refused rename (%s)",
			     strerrorname_np(errno));
	}
}

static void rings(void)
{
	NEED(mkdir(pa("a"), 0755));
	NEED(mkdir(pa("b"), 0755));
	NEED(mkdir(pa("a/y"), 0755));
	NEED(mkdir(pa("b/x"), 0755));
	px_parallel(2, ring_worker, NULL);
	px_listing(".", (const char *const[]){"a", "b"}, 2);
	px_listing("a", (const char *const[]){"y"}, 1);
	px_listing("b/x", NULL, 0);
	px_nlink(".", 4);
	px_nlink("a", 3);
	px_nlink("a/y", 2);
}

#define RECORD 64

/* Records appended by all: each is whole, and there once. */
static void append_worker(void *arg, unsigned w)
{
	int fd = px_open(w % 2 ? pb("log") : pa("log"), O_WRONLY | O_APPEND);
	char rec[RECORD + 1];

	(void)arg;
	for (unsigned i = 0; i < rounds() * 2; i++) {
		snprintf(rec, sizeof(rec), "%02u %08u %051u\n", w, i, i * 7);
		if (!EQ(RECORD, write(fd, rec, RECORD), "append %u", i))
			break;
	}
	OK(close(fd));
}

static void appends(void)
{
	unsigned next[WORKERS] = {0}, n = rounds() * 2, bad = 0;
	char rec[RECORD + 1] = "";

	px_mkfile(pa("log"));
	px_parallel(WORKERS, append_worker, NULL);
	px_size("log", (long long)n * WORKERS * RECORD);
	for (int b = 0; b <= px.two; b++) {
		int fd = px_open(px_path(b, "log"), O_RDONLY);
		memset(next, 0, sizeof(next));
		while (read(fd, rec, RECORD) == RECORD) {
			unsigned w = WORKERS, i = 0, check = 0;
			int k = sscanf(rec, "%u %u %u", &w, &i, &check);
			bad += k != 3 || w >= WORKERS || i != next[w] || check != i * 7;
			if (w < WORKERS)
				next[w] = i + 1;
		}
		EQ(0, bad, "records torn, lost or out of order, mount %c", 'A' + b);
		for (unsigned w = 0; w < WORKERS; w++)
			EQ(n, next[w], "records of worker %u, mount %c", w, 'A' + b);
		close(fd);
	}
}

/* Each worker has its own bytes of the same pages. */
static void stripe_worker(void *arg, unsigned w)
{
	int fd = px_open(w % 2 ? pb("f") : pa("f"), O_RDWR);

	(void)arg;
	for (unsigned i = 0; i < rounds(); i++) {
		char buf[100], got[100];
		memset(buf, 'a' + (int)w, sizeof(buf));
		off_t at = (off_t)(i * WORKERS + w) * 100;
		EQ(100, pwrite(fd, buf, 100, at), "write of worker %u at %lld", w, (long long)at);
		EQ(100, pread(fd, got, 100, at), "read of worker %u at %lld", w, (long long)at);
		SAME_BYTES(buf, got, 100, "own bytes of worker %u at %lld", w, (long long)at);
	}
}

static void stripes(void)
{
	size_t len = (size_t)rounds() * WORKERS * 100;
	char *want = malloc(len);

	px_mkfile(pa("f"));
	px_parallel(WORKERS, stripe_worker, NULL);
	for (size_t i = 0; i < len; i++)
		want[i] = (char)('a' + i / 100 % WORKERS);
	px_content("f", want, len);
	free(want);
}

/* A file replaced by rename all the time: who opens the name gets one whole version. */
static void replace_worker(void *arg, unsigned w)
{
	char name[32], buf[5001], got[5001];

	(void)arg;
	for (unsigned i = 0; i < rounds(); i++) {
		if (w < 2) {
			snprintf(name, sizeof(name), "new%u", w);
			memset(buf, 'a' + (int)((i + w) % 26), 5000);
			px_make(px_path(w % 2, name), buf, 5000);
			OK(rename(px_path(w % 2, name), px_path(w % 2, "f")));
			continue;
		}
		int fd = (int)OK(open(px_path(w % 2, "f"), O_RDONLY));
		EQ(5000, read(fd, got, 5001), "bytes of a version");
		memset(buf, got[0], 5000);
		SAME_BYTES(buf, got, 5000, "one whole version");
		close(fd);
	}
}

static void replaces(void)
{
	char buf[5000];

	memset(buf, 'z', 5000);
	px_make(pa("f"), buf, 5000);
	px_parallel(WORKERS, replace_worker, NULL);
	px_listing(".", (const char *const[]){"f"}, 1);
	px_nlink("f", 1);
}

/* The same, and the others make calls by the name: there is always a file. */
static void replace_caller(void *arg, unsigned w)
{
	static const struct timespec now[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
	char name[32];
	struct stat st;

	(void)arg;
	for (unsigned i = 0; i < rounds(); i++) {
		const char *p = px_path(w % 2, "f");
		if (w < 2) {
			snprintf(name, sizeof(name), "new%u", w);
			px_make(px_path(w % 2, name), "abc", 3);
			OK(rename(px_path(w % 2, name), p));
			continue;
		}
		OK(stat(p, &st));
		OK(chmod(p, 0640));
		OK(utimensat(AT_FDCWD, p, now, 0));
		OK(access(p, R_OK));
		int fd = (int)OK(open(p, O_RDWR | O_CREAT, 0644));
		close(fd);
		OK(truncate(p, 2));
	}
}

static void replace_calls(void)
{
	px_make(pa("f"), "xyz", 3);
	px_parallel(WORKERS, replace_caller, NULL);
	px_listing(".", (const char *const[]){"f"}, 1);
	px_nlink("f", 1);
}

/* Many makers and removers in one directory, with a lister: nothing odd at the end. */
static void busy_worker(void *arg, unsigned w)
{
	(void)arg;
	for (unsigned i = 0; i < rounds() * 3; i++) {
		unsigned k = (unsigned)(px_rnd() % 40);
		char name[32];
		snprintf(name, sizeof(name), "k%u", k);
		const char *p = px_path(w % 2, name);
		int rc, fd;
		switch (px_rnd() % 5) {
		case 0:
			if ((fd = open(p, O_CREAT | O_WRONLY, 0644)) >= 0)
				close(fd);
			break;
		case 1:
			rc = unlink(p);
			TRUE(rc == 0 || errno == ENOENT, "unlink (%s)", strerrorname_np(errno));
			break;
		case 2:
			rc = rename(p, px_path(w % 2, "k0"));
			TRUE(rc == 0 || errno == ENOENT, "rename (%s)", strerrorname_np(errno));
			break;
		case 3:
			rc = link(p, px_path(w % 2, "k1"));
			TRUE(rc == 0 || errno == ENOENT || errno == EEXIST, "link (%s)", strerrorname_np(errno));
			break;
		default:
			rc = access(p, F_OK);
			TRUE(rc == 0 || errno == ENOENT, "access (%s)", strerrorname_np(errno));
		}
	}
}

static void busy(void)
{
	unsigned n[2] = {0, 0};

	px_parallel(WORKERS, busy_worker, NULL);
	for (int b = 0; b <= px.two; b++) {
		DIR *d = opendir(px_path(b, "."));
		NEED(d ? 0 : -1);
		for (struct dirent *e; (e = readdir(d)); n[b]++)
			if (e->d_name[0] != '.')
				px_same_stat(e->d_name);
		closedir(d);
	}
	EQ(n[0], n[px.two], "entries through A and B");
}

const struct px_test px_race_tests[] = {
	{"race.excl", excl, 0, 0},	 {"race.mkdir_rmdir", mkdirs, 0, 0}, {"race.unlink", unlinks, 0, 0},
	{"race.rename", renames, 0, 0}, {"race.rings", rings, 0, 0},	      {"race.append", appends, 0, 0},
	{"race.stripes", stripes, 0, 0}, {"race.replace", replaces, 0, 0},	 {"race.replace_calls", replace_calls, 0, 0},
	{"race.busy", busy, 0, 0},
	{NULL, NULL, 0, 0},
};
