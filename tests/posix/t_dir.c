/* SPDX-License-Identifier: Apache-2.0 */
/* Topic: listing directories: complete, once each, from any position, under changes; large ones. */
#include "px.h"

#include <dirent.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

static unsigned entries(void)
{
	return px.longrun ? 100000 : 5000;
}

static void make_many(const char *dir, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		const char *p = i / 50 % 2 ? pb("%s/entry-%06u", dir, i) : pa("%s/entry-%06u", dir, i);
		int fd = open(p, O_CREAT | O_EXCL | O_WRONLY, 0644);
		NEED(fd);
		close(fd);
	}
}

/* Which of entry-000000.. are listed, how often; also "." and "..". Returns the number of all entries. */
static unsigned list_counts(const char *dir, uint8_t *seen, unsigned n, unsigned *dots)
{
	unsigned all = 0;
	DIR *d = opendir(dir);

	NEED(d ? 0 : -1);
	memset(seen, 0, n);
	*dots = 0;
	errno = 0;
	for (struct dirent *e; (e = readdir(d)); all++) {
		unsigned k = n;
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			(*dots)++;
		else if (sscanf(e->d_name, "entry-%u", &k) == 1 && k < n)
			seen[k]++;
	}
	EQ(0, errno, "readdir of %s to its end", dir);
	closedir(d);
	return all;
}

static void many(void)
{
	unsigned n = entries(), dots, bad = 0, left = 0;
	uint8_t *seen = malloc(n);

	NEED(mkdir(pa("d"), 0755));
	make_many("d", n);
	for (int b = 0; b <= px.two; b++) {
		EQ(n + 2, list_counts(px_path(b, "d"), seen, n, &dots), "entries of a directory of %u", n);
		EQ(2, dots, ". and ..");
		for (unsigned i = 0; i < n; i++)
			bad += seen[i] != 1;
		EQ(0, bad, "entries not listed once, of %u, mount %c", n, 'A' + b);
	}
	for (unsigned i = 0; i < n; i += 97) {
		char name[40];
		snprintf(name, sizeof(name), "d/entry-%06u", i);
		px_same_stat(name);
	}
	px_gone("d/entry-");
	for (unsigned i = 0; i < n; i++)
		if (i % 10)
			NEED(unlink(i / 50 % 3 ? pa("d/entry-%06u", i) : pb("d/entry-%06u", i)));
		else
			left++;
	for (int b = 0; b <= px.two; b++) {
		EQ(left + 2, list_counts(px_path(b, "d"), seen, n, &dots), "entries left of %u", n);
		for (unsigned i = 0; i < n; i++)
			bad += seen[i] != !(i % 10);
		EQ(0, bad, "entries wrongly listed after removals, mount %c", 'A' + b);
	}
	FAILS(ENOTEMPTY, rmdir(pb("d")));
	for (unsigned i = 0; i < n; i += 10)
		NEED(unlink(pb("d/entry-%06u", i)));
	OK(rmdir(pa("d")));
	free(seen);
}

/* What readdir says of each entry agrees with lstat. */
static void types(void)
{
	DIR *d;

	px_mkfile(pa("reg"));
	NEED(mkdir(pa("dir"), 0755));
	NEED(symlink("x", pa("lnk")));
	NEED(mkfifo(pa("fifo"), 0600));
	NEED(mknod(pa("chr"), S_IFCHR | 0600, 0x103));
	NEED(mknod(pa("sock"), S_IFSOCK | 0600, 0));
	for (int b = 0; b <= px.two; b++) {
		NEED((d = opendir(px_path(b, "."))) ? 0 : -1);
		unsigned n = 0;
		for (struct dirent *e; (e = readdir(d)); n++) {
			if (!strcmp(e->d_name, ".."))
				continue;
			struct stat st = px_stat(px_path(b, e->d_name));
			EQ(IFTODT(st.st_mode), e->d_type, "type of %s", e->d_name);
			EQ(st.st_ino, e->d_ino, "inode number of %s", e->d_name);
		}
		EQ(8, n, "entries");
		closedir(d);
	}
}

/* Names before the listing began and not removed are listed exactly once, whatever else comes and goes meanwhile. */
static void changes_meanwhile(void)
{
	unsigned n = 2000, step = 0, dup = 0, missing = 0;
	uint8_t *seen = calloc(1, n);
	DIR *d;

	NEED(mkdir(pa("d"), 0755));
	make_many("d", n);
	NEED((d = opendir(pa("d"))) ? 0 : -1);
	for (struct dirent *e; (e = readdir(d)); step++) {
		unsigned k;
		if (sscanf(e->d_name, "entry-%u", &k) == 1)
			dup += seen[k]++ != 0;
		if (step % 10 == 0) { /* odd ones go, new ones come, through B */
			unsigned gone = 2 * (step / 10 * 7 % (n / 2)) + 1;
			unlink(pb("d/entry-%06u", gone));
			px_mkfile(pb("d/new-%u", step));
			OK(rename(pb("d/new-%u", step), pb("d/other-%u", step)));
		}
	}
	closedir(d);
	for (unsigned i = 0; i < n; i += 2)
		missing += !seen[i];
	EQ(0, dup, "entries listed twice");
	EQ(0, missing, "entries not listed although they were there all the time");
	free(seen);
}

struct place {
	char name[32];
	long pos; /* behind it */
	bool gone;
};

static unsigned record(DIR *d, struct place *p, unsigned most)
{
	unsigned n = 0;

	for (struct dirent *e; n < most && (e = readdir(d)); n++) {
		snprintf(p[n].name, sizeof(p[n].name), "%.31s", e->d_name);
		p[n].pos = telldir(d);
		p[n].gone = false;
	}
	return n;
}

/* Goes to random positions; the next old entry must be the next that is still there. Returns how often it was not. */
static unsigned wrong_seeks(DIR *d, const struct place *p, unsigned n)
{
	unsigned wrong = 0;

	for (unsigned i = 0; i < 200; i++) {
		unsigned at = (unsigned)(px_rnd() % n), next = at + 1;
		struct dirent *e;
		seekdir(d, p[at].pos);
		while ((e = readdir(d)) && !strncmp(e->d_name, "late-", 5))
			;
		while (next < n && p[next].gone)
			next++;
		wrong += next < n ? !e || strcmp(e->d_name, p[next].name) != 0 : e != NULL;
	}
	return wrong;
}

/* seekdir to what telldir gave continues with the next entry that is still there, also behind one that is gone. */
static void positions(void)
{
	unsigned n = 1500, got, removed = 0, most = 3000;
	struct place *p = calloc(most, sizeof(*p));
	DIR *d;

	NEED(mkdir(pa("d"), 0755));
	make_many("d", n);
	NEED((d = opendir(pa("d"))) ? 0 : -1);
	got = record(d, p, most);
	EQ(n + 2, got, "entries");
	EQ(0, wrong_seeks(d, p, got), "of 200 seekdir that went wrong, unchanged directory");
	for (unsigned i = 0; i < got; i += 3)
		if (p[i].name[0] == 'e') {
			NEED(unlink(pb("d/%s", p[i].name)));
			p[i].gone = true;
			removed++;
		}
	EQ(0, wrong_seeks(d, p, got), "of 200 seekdir that went wrong, after removals through B");
	for (unsigned i = 0; i < 500; i++)
		px_mkfile(pb("d/late-%u", i));
	EQ(0, wrong_seeks(d, p, got), "of 200 seekdir that went wrong, after creations through B");
	rewinddir(d);
	EQ(got - removed + 500, record(d, p, most), "entries after rewinddir");
	closedir(d);
	free(p);
}

static void rewind_sees(void)
{
	DIR *d;
	unsigned n = 0;

	NEED(mkdir(pa("d"), 0755));
	NEED((d = opendir(pa("d"))) ? 0 : -1);
	while (readdir(d))
		n++;
	EQ(2, n, "entries of an empty directory");
	px_mkfile(pb("d/x"));
	rewinddir(d);
	for (n = 0; readdir(d);)
		n++;
	EQ(3, n, "entries after rewinddir, with one made through B");
	OK(unlink(pb("d/x")));
	OK(rmdir(pb("d")));
	rewinddir(d);
	for (struct dirent *e; (e = readdir(d));)
		TRUE(e->d_name[0] == '.', "entry '%s' of a removed directory", e->d_name);
	closedir(d);
	FAILS(ENOENT, opendir(pa("d")) ? 0 : -1);
	px_mkfile(pa("f"));
	FAILS(ENOTDIR, opendir(pa("f")) ? 0 : -1);
}

/* From inline to tree and back, and again: nothing is lost on the way. */
static void grow_and_shrink(void)
{
	static const unsigned sizes[] = {1, 10, 60, 70, 80, 100, 300, 1000};
	char name[300];

	NEED(mkdir(pa("d"), 0755));
	for (size_t s = 0; s < PX_LEN(sizes); s++) {
		for (unsigned i = 0; i < sizes[s]; i++) {
			snprintf(name, sizeof(name), "d/%0*u", 1 + (int)(i * 37 % 200), i);
			OK(close((int)NEED(open(px_path(s % 2, name), O_CREAT | O_WRONLY, 0644))));
		}
		unsigned n = 0;
		for (unsigned i = 0; i < sizes[s]; i++) {
			snprintf(name, sizeof(name), "d/%0*u", 1 + (int)(i * 37 % 200), i);
			n += access(px_path(!(s % 2), name), F_OK) == 0;
		}
		EQ(sizes[s], n, "names found through the other mount, of %u", sizes[s]);
		for (unsigned i = 0; i < sizes[s]; i++) {
			snprintf(name, sizeof(name), "d/%0*u", 1 + (int)(i * 37 % 200), i);
			if (unlink(px_path(i % 2, name)) && errno != ENOENT)
				OK(-1);
		}
		px_listing("d", NULL, 0);
	}
	OK(rmdir(pb("d")));
}

static unsigned entry_number(const char *name)
{
	unsigned k;

	return sscanf(name, "entry-%u", &k) == 1 ? k : UINT_MAX;
}

#define FAR_PARTS 4

struct far_dir {
	unsigned n, changes; /* changes: shared with the process that makes them */
};

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void far_make(void *arg, unsigned part)
{
	const struct far_dir *f = arg;

	for (unsigned i = part; i < f->n; i += FAR_PARTS)
		px_mkfile(pa("d/entry-%06u", i));
}

static void far_remove(void *arg, unsigned part)
{
	const struct far_dir *f = arg;

	for (unsigned i = part; i < f->n; i += FAR_PARTS)
		if (unlink(pa("d/entry-%06u", i)) && !(errno == ENOENT && i % 2))
			OK(-1);
}

/* Through B, until the reader has closed its end of `stop`; says once that it has begun. */
static void far_change(struct far_dir *f, int stop, int begun)
{
	char c = 0;

	for (unsigned i = 0; read(stop, &c, 1) != 0; i++) {
		px_mkfile(pb("d/new-%u", i));
		unlink(pb("d/entry-%06u", 1 + i * 2 % f->n)); /* odd ones go, and come again */
		if (i > 100)
			OK(unlink(pb("d/new-%u", i - 100)));
		if (i > 1000)
			px_mkfile(pb("d/entry-%06u", 1 + (i - 1000) * 2 % f->n));
		f->changes++;
		if (i == 0)
			NEED(write(begun, &c, 1));
	}
}

/* Another handle goes to where this one is. Returns whether the next even entry there was met before. */
static bool far_reopen(DIR **d, const uint8_t *seen, unsigned n)
{
	long pos = telldir(*d);
	struct dirent *e;

	closedir(*d);
	NEED((*d = opendir(pa("d"))) ? 0 : -1);
	seekdir(*d, pos);
	while ((e = readdir(*d)) && (entry_number(e->d_name) >= n || entry_number(e->d_name) % 2))
		;
	seekdir(*d, pos);
	return e && seen[entry_number(e->d_name)];
}

static void far_read(const struct far_dir *f)
{
	unsigned n = f->n, dup = 0, missing = 0, moved = 0, step = 0;
	uint8_t *seen = calloc(1, n);
	DIR *d;

	NEED((d = opendir(pa("d"))) ? 0 : -1);
	errno = 0;
	for (struct dirent *e; (e = readdir(d)); step++) {
		unsigned k = entry_number(e->d_name);

		if (k < n && k % 2 == 0)
			dup += seen[k]++ != 0;
		if (step % 997 == 0)
			moved += far_reopen(&d, seen, n);
		errno = 0;
	}
	EQ(0, errno, "readdir to the end");
	closedir(d);
	for (unsigned i = 0; i < n; i += 2)
		missing += !seen[i];
	EQ(0, dup, "entries met twice, of %u", n);
	EQ(0, missing, "entries not met although they were there all the time, of %u", n);
	EQ(0, moved, "positions that led back to what was met before");
	free(seen);
}

/* A large directory is read by pieces from saved positions while the other mount makes and removes names: what is there all the
 * time is met exactly once, and a position leads to the same place again. */
static void positions_far(void)
{
	struct far_dir *f = mmap(NULL, sizeof(*f), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	double t[4] = {seconds()};
	int stop[2], begun[2];
	char c;
	pid_t pid;

	f->n = px.longrun ? 1000000 : 20000;
	NEED(mkdir(pa("d"), 0755));
	px_parallel(FAR_PARTS, far_make, f);
	t[1] = seconds();
	NEED(pipe2(stop, O_NONBLOCK));
	NEED(pipe(begun));
	pid = NEED(fork());
	if (!pid) {
		close(stop[1]);
		far_change(f, stop[0], begun[1]);
		_exit(0);
	}
	close(stop[0]);
	close(begun[1]);
	EQ(1, read(begun[0], &c, 1), "first change through B");
	far_read(f);
	close(stop[1]);
	OK(waitpid(pid, NULL, 0));
	t[2] = seconds();
	px_parallel(FAR_PARTS, far_remove, f);
	t[3] = seconds();
	px_note("%u names made in %.1f s, read in %.1f s (%u rounds of changes through B meanwhile), removed in %.1f s", f->n,
		t[1] - t[0], t[2] - t[1], f->changes, t[3] - t[2]);
}

/* More than 16 bits of subdirectories. */
static void subdirs_beyond(void)
{
	unsigned n = 66000;

	if (px.kind == PX_EXT4)
		px_skip("ext4 counts no more than 65,000");
	NEED(mkdir(pa("d"), 0755));
	for (unsigned i = 0; i < n; i++)
		NEED(mkdir(pa("d/%u", i), 0755));
	px_nlink("d", n + 2);
	for (unsigned i = 0; i < n; i++)
		NEED(rmdir(pa("d/%u", i)));
	px_nlink("d", 2);
}

static void many_dirs(void)
{
	unsigned n = px.longrun ? 20000 : 600;

	for (unsigned i = 0; i < n; i++)
		NEED(mkdir(i % 2 ? pa("d%u", i) : pb("d%u", i), 0755));
	px_nlink(".", n + 2);
	for (unsigned i = 0; i < n; i++)
		NEED(rmdir(i % 3 ? pa("d%u", i) : pb("d%u", i)));
	px_nlink(".", 2);
}

const struct px_test px_dir_tests[] = {
	{"dir.many", many, 0, 120},
	{"dir.types", types, 0, 0},
	{"dir.changes_meanwhile", changes_meanwhile, 0, 0},
	{"dir.positions", positions, 0, 0},
	{"dir.rewind", rewind_sees, 0, 0},
	{"dir.grow_and_shrink", grow_and_shrink, 0, 0},
	{"dir.many_dirs", many_dirs, 0, 0},
	{"dir.positions_far", positions_far, 0, 300},
	{"dir.subdirs_beyond", subdirs_beyond, PX_LONG, 600},
	{NULL, NULL, 0, 0},
};
