/* SPDX-License-Identifier: Apache-2.0 */
/* Topic: making and removing names: link, symlink, mknod, mkdir, unlink, rmdir, and the counts that follow. */
#include "px.h"

#include <dirent.h>
#include <sys/sysmacros.h>

static void links(void)
{
	px_make(pa("f"), "abc", 3);
	OK(link(pa("f"), pa("g")));
	px_nlink("f", 2);
	px_nlink("g", 2);
	NEED(mkdir(pb("d"), 0755));
	OK(link(pb("g"), pb("d/h")));
	px_nlink("d/h", 3);
	EQ(px_stat(pa("f")).st_ino, px_stat(pb("d/h")).st_ino, "inode number of both names");
	EQ(3, pwrite(px_open(pb("d/h"), O_WRONLY), "xyz", 3, 0), "write through a second name");
	px_content("f", "xyz", 3);
	OK(unlink(pa("f")));
	px_gone("f");
	px_nlink("g", 2);
	OK(unlink(pb("g")));
	px_nlink("d/h", 1);
	px_content("d/h", "xyz", 3);
	OK(link(pa("d/h"), pa("f")));
	px_nlink("f", 2);
}

static void link_errors(void)
{
	char name[300];

	memset(name, 'n', 256);
	name[256] = 0;
	px_mkfile(pa("f"));
	px_mkfile(pa("g"));
	NEED(mkdir(pa("d"), 0755));
	FAILS(EEXIST, link(pa("f"), pa("g")));
	FAILS(EEXIST, link(pa("f"), pa("f")));
	FAILS(EEXIST, link(pa("f"), pa("d")));
	FAILS(EPERM, link(pa("d"), pa("d2")));
	FAILS(ENOENT, link(pa("absent"), pa("x")));
	FAILS(ENOENT, link(pa("f"), pa("absent/x")));
	FAILS(ENOTDIR, link(pa("f"), pa("g/x")));
	FAILS(ENOENT, link(pa("f"), pa("x/")));
	FAILS(ENAMETOOLONG, link(pa("f"), pa("%s", name)));
	if (px.two)
		FAILS(EXDEV, link(pa("f"), pb("x")));
	px_nlink("f", 1);
	px_listing(".", (const char *const[]){"f", "g", "d"}, 3);
}

static void link_many(void)
{
	char name[32];
	unsigned n = px.longrun ? 20000 : 500;

	px_make(pa("f"), "abc", 3);
	for (unsigned i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "l%u", i);
		OK(link(px_path(i % 2, "f"), px_path(i % 2, name)));
	}
	px_nlink("f", n + 1);
	OK(unlink(pa("f")));
	px_nlink("l7", n);
	for (unsigned i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "l%u", i);
		if (i != 7)
			OK(unlink(px_path(i % 3 == 0, name)));
	}
	px_nlink("l7", 1);
	px_content("l7", "abc", 3);
}

/* More than 16 bits of links, of one file. */
static void links_beyond(void)
{
	unsigned n = px.two && !px.longrun ? 3000 : 66000, made = 1;

	if (px.kind == PX_EXT4)
		px_skip("ext4 ends at 65,000 links");
	px_make(pa("f"), "abc", 3);
	NEED(mkdir(pa("d"), 0755));
	while (made < n && !NEED(link(pa("f"), pa("d/%u", made))))
		made++;
	px_nlink("f", n);
	OK(link(pb("f"), pb("g")));
	px_nlink("d/2999", n + 1);
	OK(unlink(pa("f")));
	for (unsigned i = 1; i < n; i++)
		NEED(unlink(pa("d/%u", i)));
	px_nlink("g", 1);
	px_content("g", "abc", 3);
}

static void symlinks(void)
{
	static const size_t lens[] = {1, 59, 60, 61, 255, 1000, 1023, 1024, 3000, 3800, 3900, 3901, 3902, 4000, 4094, 4095};
	char target[4200], got[4200], name[32];

	memset(target, 't', sizeof(target));
	for (size_t i = 0; i < PX_LEN(lens) && !(px.kind == PX_XFS && lens[i] > 1000); i++) {
		target[lens[i]] = 0;
		snprintf(name, sizeof(name), "l%zu", lens[i]);
		if (OK(symlink(target, pa("%s", name))) < 0)
			break;
		EQ(lens[i], px_stat(pb("%s", name)).st_size, "size of a symlink with %zu bytes", lens[i]);
		EQ(S_IFLNK | 0777, px_stat(pb("%s", name)).st_mode, "mode of a symlink");
		for (int b = 0; b <= px.two; b++) {
			ssize_t n = OK(readlink(px_path(b, name), got, sizeof(got)));
			EQ(lens[i], n, "readlink of %zu bytes", lens[i]);
			if (n >= 0)
				SAME_BYTES(target, got, (size_t)n, "target of %zu bytes", lens[i]);
		}
		target[lens[i]] = 't';
	}
	EQ(10, readlink(pa("l255"), got, 10), "readlink into 10 bytes");
	target[4096] = 0;
	FAILS(ENAMETOOLONG, symlink(target, pa("x")));
	FAILS(ENOENT, symlink("", pa("x")));
	FAILS(EEXIST, symlink("y", pa("l1")));
	FAILS(ENOENT, symlink("y", pa("absent/x")));
	px_mkfile(pa("f"));
	FAILS(EINVAL, readlink(pa("f"), got, 10));
	FAILS(EINVAL, readlink(pa("."), got, 10));
	FAILS(ENOENT, readlink(pa("absent"), got, 10));
	FAILS(EINVAL, readlink(pa("l1"), got, 0));
}

/* A symlink that is replaced through B leads elsewhere at once through A. */
static void symlink_turns(void)
{
	char got[16] = "";

	px_make(pa("one"), "1", 1);
	px_make(pa("two"), "2", 1);
	NEED(mkdir(pa("d"), 0755));
	px_make(pa("d/x"), "x", 1);
	for (int i = 0; i < 20; i++) {
		OK(symlink(i % 2 ? "two" : "one", px_path(i % 2, "l")));
		int fd = px_open(px_path(!(i % 2), "l"), O_RDONLY);
		EQ(1, read(fd, got, 1), "read through the link");
		EQ(i % 2 ? '2' : '1', got[0], "round %d: where the link leads", i);
		close(fd);
		OK(unlink(px_path(i % 3 == 0, "l")));
	}
	OK(symlink("d", pa("l")));
	px_same_stat("l/x");
	OK(unlink(pb("l/x")));
	px_gone("d/x");
	OK(close((int)NEED(open(pb("l/new"), O_CREAT | O_EXCL | O_WRONLY, 0600))));
	px_same_stat("d/new");
}

static void nodes(void)
{
	static const struct {
		const char *name;
		mode_t type;
		unsigned maj, min;
	} kinds[] = {{"fifo", S_IFIFO, 0, 0},	 {"sock", S_IFSOCK, 0, 0}, {"chr", S_IFCHR, 1, 3},   {"blk", S_IFBLK, 7, 200},
		     {"big", S_IFCHR, 400, 200000}, {"most", S_IFCHR, 4095, 1048575}, {"reg", S_IFREG, 0, 0},   {"zero", S_IFCHR, 0, 0}};
	for (size_t i = 0; i < PX_LEN(kinds); i++) {
		if (px.kind == PX_XFS && kinds[i].maj > 500)
			continue;
		OK(mknod(pa("%s", kinds[i].name), kinds[i].type | 0640, makedev(kinds[i].maj, kinds[i].min)));
		struct stat st = px_same_stat(kinds[i].name);
		EQ(kinds[i].type | 0640, st.st_mode, "mode of %s", kinds[i].name);
		EQ(1, st.st_nlink, "links of %s", kinds[i].name);
		EQ(0, st.st_size, "size of %s", kinds[i].name);
		if (S_ISCHR(kinds[i].type) || S_ISBLK(kinds[i].type)) {
			EQ(kinds[i].maj, major(st.st_rdev), "major number of %s", kinds[i].name);
			EQ(kinds[i].min, minor(st.st_rdev), "minor number of %s", kinds[i].name);
		}
		FAILS(EEXIST, mknod(pb("%s", kinds[i].name), kinds[i].type | 0600, 0));
		OK(chmod(pb("%s", kinds[i].name), 0600));
		EQ(kinds[i].type | 0600, px_same_stat(kinds[i].name).st_mode, "mode of %s after chmod", kinds[i].name);
		OK(link(pa("%s", kinds[i].name), pa("x")));
		px_nlink("x", 2);
		OK(unlink(pb("x")));
	}
	FAILS(EPERM, mknod(pa("d"), S_IFDIR | 0755, 0));
	FAILS(EINVAL, mknod(pa("l"), S_IFLNK | 0755, 0));
	FAILS(ENOENT, mknod(pa("absent/x"), S_IFIFO | 0600, 0));
	for (size_t i = 0; i < PX_LEN(kinds); i++)
		if (unlink(px_path(i % 2, kinds[i].name)))
			TRUE(px.kind == PX_XFS, "unlink of %s (%s)", kinds[i].name, strerrorname_np(errno));
	px_listing(".", NULL, 0);
}

static void dirs(void)
{
	px_nlink(".", 2);
	OK(mkdir(pa("d"), 0750));
	EQ(S_IFDIR | 0750, px_same_stat("d").st_mode, "mode of a new directory");
	px_nlink("d", 2);
	px_nlink(".", 3);
	OK(mkdir(pb("e"), 0755));
	OK(mkdir(pb("d/sub"), 0755));
	px_nlink(".", 4);
	px_nlink("d", 3);
	EQ(px_stat(pa(".")).st_ino, px_stat(pb("d/..")).st_ino, "inode number of d/..");
	EQ(px_stat(pa("d")).st_ino, px_stat(pb("d/sub/..")).st_ino, "inode number of d/sub/..");
	EQ(px_stat(pa("d")).st_ino, px_stat(pb("d/.")).st_ino, "inode number of d/.");
	px_mkfile(pa("d/f"));
	px_nlink("d", 3);
	OK(rmdir(pa("d/sub")));
	px_nlink("d", 2);
	px_gone("d/sub");
	FAILS(ENOTEMPTY, rmdir(pb("d")));
	OK(unlink(pb("d/f")));
	OK(rmdir(pb("d")));
	OK(rmdir(pa("e")));
	px_nlink(".", 2);
	px_listing(".", NULL, 0);
	OK(mkdir(pa("slash/"), 0755));
	OK(rmdir(pb("slash/")));
	px_gone("slash");
}

static void dir_errors(void)
{
	px_mkfile(pa("f"));
	NEED(mkdir(pa("d"), 0755));
	NEED(mkdir(pa("d/e"), 0755));
	NEED(symlink("d", pa("l")));
	NEED(symlink("absent", pa("dangling")));
	for (int b = 0; b <= px.two; b++) {
		FAILS(EEXIST, mkdir(px_path(b, "d"), 0755));
		FAILS(EEXIST, mkdir(px_path(b, "f"), 0755));
		FAILS(EEXIST, mkdir(px_path(b, "dangling"), 0755));
		FAILS(EEXIST, mkdir(px_path(b, "."), 0755));
		FAILS(ENOENT, mkdir(px_path(b, "absent/x"), 0755));
		FAILS(ENOTDIR, mkdir(px_path(b, "f/x"), 0755));
		FAILS(ENOTEMPTY, rmdir(px_path(b, "d")));
		FAILS(ENOTDIR, rmdir(px_path(b, "f")));
		FAILS(ENOTDIR, rmdir(px_path(b, "l")));
		FAILS(ENOENT, rmdir(px_path(b, "absent")));
		FAILS(EINVAL, rmdir(px_path(b, "d/e/.")));
		FAILS(ENOTEMPTY, rmdir(px_path(b, "d/e/..")));
		FAILS(EISDIR, unlink(px_path(b, "d")));
		FAILS(ENOENT, unlink(px_path(b, "absent")));
		FAILS(ENOTDIR, unlink(px_path(b, "f/")));
		FAILS(ENOTDIR, unlink(px_path(b, "f/x")));
	}
	OK(unlink(pb("l")));
	px_listing(".", (const char *const[]){"f", "d", "dangling"}, 3);
}

/* A directory that is removed while it is somebody's working directory: nothing can be made in it. */
static void removed_cwd(void)
{
	struct stat st;
	char buf[64];

	NEED(mkdir(pa("d"), 0755));
	NEED(chdir(pa("d")));
	OK(rmdir(pb("d")));
	FAILS(ENOENT, open("x", O_CREAT | O_RDWR, 0644));
	FAILS(ENOENT, mkdir("x", 0755));
	FAILS(ENOENT, symlink("x", "y"));
	FAILS(ENOENT, open("x", O_RDONLY));
	OK(stat(".", &st));
	EQ(0, st.st_nlink, "links of a removed directory");
	NEED(mkdir(pa("d"), 0755));
	px_mkfile(pa("d/inside"));
	FAILS(ENOENT, open("inside", O_RDONLY)); /* it is another one */
	FAILS(ENOENT, rename(pa("d/inside"), "x"));
	FAILS(ENOENT, link(pa("d/inside"), "x"));
	TRUE(getcwd(buf, sizeof(buf)) == NULL, "getcwd in a removed directory");
}

/* A removed directory that is still open can be looked at and has no names; its number used again is another one. */
static void removed_open(void)
{
	unsigned n = px.longrun ? 5000 : 300, names = 0;
	struct stat was, st;

	NEED(mkdir(pa("d"), 0750));
	int d = (int)NEED(open(pa("d"), O_RDONLY | O_DIRECTORY)), path = (int)NEED(open(pa("d"), O_PATH));
	OK(fstat(d, &was));
	OK(rmdir(pb("d")));
	for (unsigned i = 0; i < n; i++) {
		NEED(mkdir(px_path(i % 2, "d"), 0755));
		px_mkfile(px_path(i % 2, "d/x"));
		FAILS(ENOENT, openat(d, "x", O_RDONLY));
		FAILS(ENOENT, mkdirat(d, "y", 0755));
		OK(unlink(px_path(i % 2, "d/x")));
		OK(rmdir(px_path(i % 2, "d")));
	}
	OK(fstat(d, &st));
	EQ(0, st.st_nlink, "links of a removed directory");
	EQ(was.st_mode, st.st_mode, "its mode");
	EQ(was.st_ino, st.st_ino, "its number");
	OK(fstatat(path, "", &st, AT_EMPTY_PATH));
	EQ(0, st.st_nlink, "links of a removed directory by its path descriptor");
	FAILS(ENOENT, unlinkat(d, "x", 0));
	FAILS(ENOENT, symlinkat("t", path, "l"));
	FAILS(ENOENT, fstatat(path, "x", &st, 0));
	DIR *dir = fdopendir(d);
	NEED(dir ? 0 : -1);
	errno = 0;
	for (struct dirent *e; (e = readdir(dir));)
		names += e->d_name[0] != '.';
	EQ(0, errno, "end of the listing of a removed directory");
	EQ(0, names, "names in it");
	closedir(dir);
	close(path);
}

/* The same name by turns through A and B: each sees at once what the other did. */
static void turns(void)
{
	unsigned n = px.longrun ? 1000 : 60;

	for (unsigned i = 0; i < n; i++) {
		bool b = i % 2;
		OK(close((int)OK(open(px_path(b, "n"), O_CREAT | O_EXCL | O_WRONLY, 0644))));
		FAILS(EEXIST, mkdir(px_path(!b, "n"), 0755));
		OK(unlink(px_path(!b, "n")));
		FAILS(ENOENT, access(px_path(b, "n"), F_OK));
		OK(mkdir(px_path(b, "n"), 0755));
		px_same_stat("n");
		OK(close((int)OK(open(px_path(!b, "n/x"), O_CREAT | O_EXCL | O_WRONLY, 0644))));
		FAILS(ENOTEMPTY, rmdir(px_path(b, "n")));
		OK(unlink(px_path(b, "n/x")));
		OK(rmdir(px_path(!b, "n")));
		FAILS(ENOENT, unlink(px_path(b, "n")));
	}
}

const struct px_test px_name_tests[] = {
	{"name.links", links, 0, 0},		{"name.link_errors", link_errors, 0, 0}, {"name.link_many", link_many, 0, 0}, {"name.links_beyond", links_beyond, 0, 200},
	{"name.symlinks", symlinks, 0, 0},	{"name.symlink_turns", symlink_turns, 0, 0}, {"name.nodes", nodes, 0, 0},
	{"name.dirs", dirs, 0, 0},		{"name.dir_errors", dir_errors, 0, 0},	 {"name.removed_cwd", removed_cwd, 0, 0},
	{"name.removed_open", removed_open, 0, 0},
	{"name.turns", turns, 0, 0},		{NULL, NULL, 0, 0},
};
