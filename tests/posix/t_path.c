/* SPDX-License-Identifier: Apache-2.0 */
/* Topic: names and paths: all bytes, all lengths, limits, loops, depth. */
#include "px.h"

#include <dirent.h>

static void long_names(void)
{
	char name[400];

	for (size_t len = 1; len <= 255; len += 2) {
		memset(name, 'x', len);
		name[len] = 0;
		px_mkfile(px_path(len % 4 == 1, name));
		px_same_stat(name);
	}
	memset(name, 'y', 256);
	name[256] = 0;
	for (int b = 0; b <= px.two; b++) {
		const char *p = px_path(b, name);
		FAILS(ENAMETOOLONG, open(p, O_CREAT | O_RDWR, 0644));
		FAILS(ENAMETOOLONG, mkdir(p, 0755));
		FAILS(ENAMETOOLONG, mknod(p, S_IFIFO | 0600, 0));
		FAILS(ENAMETOOLONG, symlink("x", p));
		FAILS(ENAMETOOLONG, access(p, F_OK));
		FAILS(ENAMETOOLONG, unlink(p));
		FAILS(ENAMETOOLONG, rmdir(p));
	}
}

/* Every byte but '/' and NUL is a letter like any other; names are not folded, cut or normalised. */
static void odd_bytes(void)
{
	static const char *const odd[] = {" ", "  ", "a b", "-rf", "...", "..x", ".x", "a\nb", "a\tb", "\\", "*", "?", "\"", "'", "\x7f",
					  "\xff", "\xff\xfe", "\xc3\xa4", "a\xcc\x88", "\xf0\x9f\x98\x80", "A", "a", "a.", "con", "%s%n", "\x01"};
	char one[] = "?!";
	unsigned n = 0;
	DIR *d;

	for (size_t i = 0; i < PX_LEN(odd); i++) {
		px_make(px_path(i % 2, odd[i]), odd[i], strlen(odd[i]));
		n++;
	}
	for (int c = 1; c < 256; c++)
		if (c != '/') {
			one[0] = (char)c;
			px_make(px_path(c % 2, one), &one[0], 1);
			n++;
		}
	for (unsigned k = 0; k < 200; k++, n++) { /* and of full length */
		char name[256];
		for (unsigned i = 0; i < 255; i++)
			do
				name[i] = (char)px_rnd();
			while (!name[i] || name[i] == '/');
		name[255] = 0;
		px_make(px_path(k % 2, name), name, 255);
		px_content(name, name, 255);
	}
	for (size_t i = 0; i < PX_LEN(odd); i++)
		px_content(odd[i], odd[i], strlen(odd[i]));
	for (int b = 0; b <= px.two; b++) {
		unsigned seen = 0;
		NEED((d = opendir(px_path(b, "."))) ? 0 : -1);
		for (struct dirent *e; (e = readdir(d));)
			seen += access(px_path(b, e->d_name), F_OK) == 0;
		EQ(n + 2, seen, "names of odd bytes listed and found, mount %c", 'A' + b);
		closedir(d);
	}
}

/* "A/B/C..." up to the longest path the kernel takes (4095 bytes), and one more. */
static void path_max(void)
{
	size_t base = strlen(px.a) + 1, len = 0;
	char rel[PATH_MAX + 300] = "";
	struct stat st;

	while (base + len + 202 < PATH_MAX - 1) {
		memset(rel + len, 'd', 200);
		rel[len + 200] = 0;
		NEED(mkdir(pa("%s", rel), 0755));
		strcat(rel, "/");
		len += 201;
	}
	size_t left = PATH_MAX - 1 - base - len;
	memset(rel + len, 'f', left);
	rel[len + left] = 0;
	EQ(PATH_MAX - 1, strlen(pa("%s", rel)), "length of the longest path");
	px_mkfile(pa("%s", rel));
	OK(stat(pa("%s", rel), &st));
	if (strlen(px.a) == strlen(px.b))
		OK(stat(pb("%s", rel), &st));
	rel[len + left] = 'f';
	rel[len + left + 1] = 0;
	FAILS(ENAMETOOLONG, open(pa("%s", rel), O_CREAT | O_RDWR, 0644));
	FAILS(ENAMETOOLONG, stat(pa("%s", rel), &st));
}

/* Deeper than any path can name: step by step. */
static void deep(void)
{
	unsigned depth = px.longrun ? 2000 : 80, made = 0;
	char name[256], up[2 * PATH_MAX];

	memset(name, 'd', 255);
	name[255] = 0;
	NEED(chdir(px.a));
	for (; made < depth && OK(mkdir(name, 0755)) == 0 && OK(chdir(name)) == 0; made++)
		;
	EQ(depth, made, "depth reached");
	OK(close((int)OK(open("bottom", O_CREAT | O_EXCL | O_RDWR, 0644))));
	OK(access("../../../.", F_OK));
	FAILS(ERANGE, getcwd(up, 10) ? 0 : -1);
	OK(unlink("bottom"));
	while (made--)
		if (OK(chdir("..")) || OK(rmdir(name)))
			break;
	px_listing(".", NULL, 0);
}

static void loops(void)
{
	char name[16], to[16];
	struct stat st;

	OK(symlink("self", pa("self")));
	OK(symlink("two", pa("one")));
	OK(symlink("one", pa("two")));
	px_mkfile(pa("c0"));
	for (int i = 1; i <= 41; i++) {
		snprintf(name, sizeof(name), "c%d", i);
		snprintf(to, sizeof(to), "c%d", i - 1);
		OK(symlink(to, px_path(i % 2, name)));
	}
	for (int b = 0; b <= px.two; b++) {
		FAILS(ELOOP, stat(px_path(b, "self"), &st));
		FAILS(ELOOP, open(px_path(b, "one"), O_RDONLY));
		FAILS(ELOOP, open(px_path(b, "self/x"), O_RDONLY | O_CREAT, 0644));
		OK(lstat(px_path(b, "self"), &st));
		OK(stat(px_path(b, "c40"), &st));
		FAILS(ELOOP, stat(px_path(b, "c41"), &st));
	}
	OK(unlink(pb("self")));
	OK(rename(pb("c0"), pb("self")));
	FAILS(ENOENT, stat(pa("c1"), &st));
}

static void dots(void)
{
	struct stat st, up;

	NEED(mkdir(pa("d"), 0755));
	NEED(mkdir(pa("d/e"), 0755));
	px_mkfile(pa("f"));
	for (int b = 0; b <= px.two; b++) {
		OK(stat(px_path(b, "d/e/../../d/./e/.."), &st));
		OK(stat(px_path(b, "d"), &up));
		EQ(up.st_ino, st.st_ino, "d by a way round");
		OK(stat(px_path(b, "d//e///"), &st));
		FAILS(ENOTDIR, stat(px_path(b, "f/."), &st));
		FAILS(ENOTDIR, stat(px_path(b, "f/.."), &st));
		FAILS(ENOENT, stat(px_path(b, "absent/.."), &st));
		FAILS(EEXIST, mkdir(px_path(b, "d/.."), 0755));
	}
	FAILS(ENOENT, stat("", &st));
	OK(rename(pb("d/e"), pb("e")));
	OK(stat(pa("e/.."), &st));
	OK(stat(pa("."), &up));
	EQ(up.st_ino, st.st_ino, ".. of a directory that was moved through B");
}

/* A working directory that is renamed through B: calls by relative path go on, and getcwd knows once the new name was seen. */
static void cwd_renamed(void)
{
	char got[2 * PATH_MAX], want[2 * PATH_MAX];
	struct stat st;

	NEED(mkdir(pa("d"), 0755));
	NEED(mkdir(pa("x"), 0755));
	NEED(chdir(pa("d")));
	OK(rename(pb("d"), pb("x/moved")));
	px_mkfile("here");
	px_same_stat("x/moved/here");
	OK(stat("..", &st));
	EQ(px_stat(pb("x")).st_ino, st.st_ino, ".. of the renamed working directory");
	OK(stat(pa("x/moved"), &st));
	TRUE(getcwd(got, sizeof(got)) != NULL, "getcwd");
	TRUE(realpath(pa("x/moved"), want) != NULL, "realpath of the new name");
	SAME_STR(want, got, "getcwd after rename through B");
	FAILS(ENOENT, stat(pa("d/here"), &st));
	NEED(mkdir(pb("d"), 0755));
	FAILS(ENOENT, stat(pa("d/here"), &st));
	OK(stat("here", &st));
}

const struct px_test px_path_tests[] = {
	{"path.long_names", long_names, 0, 0}, {"path.odd_bytes", odd_bytes, 0, 0}, {"path.path_max", path_max, 0, 0},
	{"path.deep", deep, 0, 0},	       {"path.loops", loops, 0, 0},	     {"path.dots", dots, 0, 0},
	{"path.cwd_renamed", cwd_renamed, 0, 0}, {NULL, NULL, 0, 0},
};
