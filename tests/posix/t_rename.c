/* SPDX-License-Identifier: Apache-2.0 */
/* Topic: rename in all combinations of what is moved and what is there, within and across directories, with each flag. */
#include "px.h"

#include <dirent.h>

enum kind { FILE_, DIR_, FULL, LINK, FIFO, SAME, ABSENT, KINDS };
static const char *const kind_name[] = {"file", "directory", "full directory", "symlink", "fifo", "same inode", "absent"};

static void make(const char *name, enum kind k, const char *other)
{
	switch (k) {
	case FILE_:
		px_make(pa("%s", name), name, strlen(name));
		return;
	case FULL:
		NEED(mkdir(pa("%s", name), 0755));
		px_mkfile(pa("%s/in", name));
		return;
	case DIR_:
		NEED(mkdir(pa("%s", name), 0755));
		return;
	case LINK:
		NEED(symlink("nowhere", pa("%s", name)));
		return;
	case FIFO:
		NEED(mkfifo(pa("%s", name), 0600));
		return;
	case SAME:
		NEED(link(pa("%s", other), pa("%s", name)));
		return;
	default:
		return;
	}
}

static bool is_dir(enum kind k)
{
	return k == DIR_ || k == FULL;
}

static int expected(enum kind src, enum kind dst, unsigned flags)
{
	if (src == ABSENT)
		return ENOENT;
	if (flags & RENAME_EXCHANGE)
		return dst == ABSENT ? ENOENT : 0;
	if (dst == ABSENT)
		return 0;
	if (flags & RENAME_NOREPLACE)
		return EEXIST;
	if (is_dir(src) && !is_dir(dst))
		return ENOTDIR;
	if (!is_dir(src) && is_dir(dst))
		return EISDIR;
	return dst == FULL ? ENOTEMPTY : 0;
}

static ino_t ino_of(const char *name, bool b)
{
	struct stat st;
	return lstat(px_path(b, name), &st) ? 0 : st.st_ino;
}

struct move {
	enum kind src, dst;
	unsigned flags;
	bool cross;
};

/* What each of the two names must be afterwards; 0: gone. */
static void after(const struct move *m, const char *s, const char *d, ino_t si, ino_t di, bool done, const char *what)
{
	ino_t want_s = si, want_d = di;

	if (done && (m->flags & RENAME_EXCHANGE)) {
		want_s = di;
		want_d = si;
	} else if (done && m->dst != SAME) {
		want_s = 0;
		want_d = si;
	}
	for (int b = 0; b <= px.two; b++) {
		EQ(want_s, ino_of(s, b), "%s: old name, mount %c", what, 'A' + b);
		EQ(want_d, ino_of(d, b), "%s: new name, mount %c", what, 'A' + b);
	}
}

static void counts(const char *dir)
{
	unsigned subs = 2;
	DIR *d = opendir(pb("%s", dir));

	NEED(d ? 0 : -1);
	for (struct dirent *e; (e = readdir(d));)
		subs += e->d_type == DT_DIR && strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
	closedir(d);
	px_nlink(dir, subs);
}

static void one(const struct move *m, unsigned no)
{
	const char *dir[2] = {"p", m->cross ? "q" : "p"};
	char s[32], d[32], what[160];
	ino_t si, di;

	snprintf(s, sizeof(s), "%s/s%u", dir[0], no);
	snprintf(d, sizeof(d), "%s/d%u", dir[1], no);
	snprintf(what, sizeof(what), "rename of %s to %s%s%s", kind_name[m->src], kind_name[m->dst],
		 m->cross ? " across directories" : "",
		 m->flags == RENAME_EXCHANGE ? ", EXCHANGE" : m->flags == RENAME_NOREPLACE ? ", NOREPLACE" : "");
	make(s, m->src, NULL);
	make(d, m->dst, s);
	si = ino_of(s, false);
	di = ino_of(d, no % 2);
	bool b = no % 3 == 0;
	int want = expected(m->src, m->dst, m->flags);
	int rc = renameat2(AT_FDCWD, px_path(b, s), AT_FDCWD, px_path(b, d), m->flags), e = errno;
	if (want == ENOTEMPTY && rc && e == EEXIST) /* POSIX allows either */
		e = px.local ? ENOTEMPTY : e;
	EQ(want, rc ? e : 0, "%s: error (0: done)", what);
	after(m, s, d, si, di, !want, what);
	if (want == 0 && is_dir(m->src))
		for (int k = 0; k <= px.two; k++) {
			char up[40];
			snprintf(up, sizeof(up), "%s/..", d);
			EQ(ino_of(dir[1], k), ino_of(up, k), "%s: parent of the moved directory", what);
		}
	if (m->src == FULL && want == 0)
		EQ(0, access(pb("%s/in", d), F_OK), "%s: what was in it", what);
}

static void combinations(unsigned flags, bool cross)
{
	unsigned no = 0;

	NEED(mkdir(pa("p"), 0755));
	NEED(mkdir(pa("q"), 0755));
	for (enum kind s = 0; s < KINDS; s++)
		for (enum kind d = 0; d < KINDS; d++) {
			if (s == SAME || (d == SAME && (is_dir(s) || s == ABSENT)))
				continue;
			one(&(struct move){s, d, flags, cross}, no++);
		}
	counts("p");
	counts("q");
}

static void plain(void)
{
	combinations(0, false);
}

static void plain_cross(void)
{
	combinations(0, true);
}

static void noreplace(void)
{
	combinations(RENAME_NOREPLACE, false);
}

static void noreplace_cross(void)
{
	combinations(RENAME_NOREPLACE, true);
}

static void exchange(void)
{
	combinations(RENAME_EXCHANGE, false);
}

static void exchange_cross(void)
{
	combinations(RENAME_EXCHANGE, true);
}

static void subtree(void)
{
	NEED(mkdir(pa("a"), 0755));
	NEED(mkdir(pa("a/b"), 0755));
	NEED(mkdir(pa("a/b/c"), 0755));
	NEED(mkdir(pa("z"), 0755));
	for (int b = 0; b <= px.two; b++) {
		FAILS(EINVAL, rename(px_path(b, "a"), px_path(b, "a/x")));
		FAILS(EINVAL, rename(px_path(b, "a"), px_path(b, "a/b")));
		FAILS(EINVAL, rename(px_path(b, "a"), px_path(b, "a/b/c/x")));
		FAILS(ENOTEMPTY, rename(px_path(b, "a/b/c"), px_path(b, "a")));
		FAILS(ENOTEMPTY, rename(px_path(b, "a/b"), px_path(b, "a")));
		FAILS(EINVAL, renameat2(AT_FDCWD, px_path(b, "a"), AT_FDCWD, px_path(b, "a/b/c"), RENAME_EXCHANGE));
		FAILS(EINVAL, renameat2(AT_FDCWD, px_path(b, "a/b/c"), AT_FDCWD, px_path(b, "a"), RENAME_EXCHANGE));
		OK(rename(px_path(b, "a"), px_path(b, "a")));
	}
	/* Each is legal when the other was not done: a and z end up in a line, never in a ring. */
	OK(rename(pa("z"), pa("a/b/z")));
	FAILS(EINVAL, rename(pb("a"), pb("a/b/z/a")));
	px_nlink("a/b", 4);
	px_nlink(".", 3);
}

static void odd_arguments(void)
{
	char name[300];

	memset(name, 'n', 256);
	name[256] = 0;
	px_mkfile(pa("f"));
	NEED(mkdir(pa("d"), 0755));
	FAILS(EINVAL, renameat2(AT_FDCWD, pa("f"), AT_FDCWD, pa("g"), RENAME_EXCHANGE | RENAME_NOREPLACE));
	FAILS(EINVAL, renameat2(AT_FDCWD, pa("f"), AT_FDCWD, pa("g"), 0x100));
	FAILS(ENAMETOOLONG, rename(pa("f"), pa("%s", name)));
	FAILS(ENAMETOOLONG, rename(pa("%s", name), pa("f")));
	FAILS(EBUSY, rename(pa("d/."), pa("e")));
	FAILS(EBUSY, rename(pa("d/.."), pa("e")));
	FAILS(EBUSY, rename(pa("f"), pa("d/.")));
	FAILS(ENOTDIR, rename(pa("f/"), pa("g")));
	FAILS(ENOTDIR, rename(pa("f"), pa("g/")));
	FAILS(ENOTDIR, rename(pa("f/x"), pa("g")));
	FAILS(ENOTDIR, rename(pa("d"), pa("f/x")));
	FAILS(ENOENT, rename(pa("f"), pa("absent/g")));
	OK(rename(pa("d/"), pa("e/")));
	if (px.two)
		FAILS(EXDEV, rename(pa("f"), pb("g")));
	px_listing(".", (const char *const[]){"f", "e"}, 2);
}

/* The replaced file stays readable for who has it open; the name shows the new one at once through both. */
static void replace_open(void)
{
	char got[4] = "";
	struct stat st;
	int fd;

	for (int i = 0; i < 10; i++) {
		char text[8];
		snprintf(text, sizeof(text), "v%02d", i);
		px_make(pa("f"), "old", 3);
		fd = px_open(pb("f"), O_RDONLY);
		px_make(px_path(i % 2, "new"), text, 3);
		OK(rename(px_path(i % 2, "new"), px_path(i % 2, "f")));
		px_content("f", text, 3);
		EQ(3, pread(fd, got, 3, 0), "read of the replaced file");
		SAME_STR("old", got, "content of the replaced file");
		OK(fstat(fd, &st));
		EQ(0, st.st_nlink, "links of the replaced file");
		close(fd);
		px_listing(".", (const char *const[]){"f"}, 1);
		OK(unlink(pa("f")));
	}
}

/* Hard links keep their count when one of them is replaced or moved. */
static void link_counts(void)
{
	px_mkfile(pa("f"));
	NEED(mkdir(pa("d"), 0755));
	OK(link(pa("f"), pa("d/g")));
	OK(link(pa("f"), pa("h")));
	px_mkfile(pa("x"));
	OK(rename(pb("x"), pb("h")));
	px_nlink("f", 2);
	OK(rename(pb("f"), pb("d/g")));
	px_nlink("f", 2);
	OK(rename(pa("f"), pa("d/k")));
	px_nlink("d/k", 2);
	px_gone("f");
	NEED(mkdir(pa("e"), 0755));
	NEED(mkdir(pa("e/s"), 0755));
	NEED(mkdir(pa("d/s"), 0755));
	OK(rename(pb("e/s"), pb("d/s")));
	px_nlink("e", 2);
	px_nlink("d", 3);
	px_nlink("d/s", 2); /* else: diff.moved_directory */
	OK(renameat2(AT_FDCWD, pa("d/s"), AT_FDCWD, pa("h"), RENAME_EXCHANGE));
	px_nlink("d", 2);
	px_nlink(".", 5);
}

static void long_names(void)
{
	char a[256], b[256];

	memset(a, 'a', 255);
	memset(b, 'b', 255);
	a[255] = b[255] = 0;
	px_make(pa("%s", a), "x", 1);
	OK(rename(pb("%s", a), pb("%s", b)));
	px_gone(a);
	px_content(b, "x", 1);
	px_make(pa("%s", a), "y", 1);
	OK(renameat2(AT_FDCWD, pa("%s", a), AT_FDCWD, pa("%s", b), RENAME_EXCHANGE));
	px_content(b, "y", 1);
	px_content(a, "x", 1);
}

const struct px_test px_rename_tests[] = {
	{"rename.plain", plain, 0, 0},
	{"rename.plain_cross", plain_cross, 0, 0},
	{"rename.noreplace", noreplace, 0, 0},
	{"rename.noreplace_cross", noreplace_cross, 0, 0},
	{"rename.exchange", exchange, 0, 0},
	{"rename.exchange_cross", exchange_cross, 0, 0},
	{"rename.subtree", subtree, 0, 0},
	{"rename.odd_arguments", odd_arguments, 0, 0},
	{"rename.replace_open", replace_open, 0, 0},
	{"rename.link_counts", link_counts, 0, 0},
	{"rename.long_names", long_names, 0, 0},
	{NULL, NULL, 0, 0},
};
