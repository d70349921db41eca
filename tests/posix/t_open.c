/* SPDX-License-Identifier: Apache-2.0 */
/* Topic: open(2) and creat(2): every flag, seen through the other mount. */
#include "px.h"

#include <sys/socket.h>
#include <sys/un.h>

static void creat_basic(void)
{
	int fd = (int)NEED(open(pa("f"), O_RDWR | O_CREAT, 0640));
	struct stat st;

	px_same_stat("f");
	EQ(0640 | S_IFREG, px_stat(pb("f")).st_mode, "mode of a new file through B");
	EQ(0, px_stat(pb("f")).st_size, "size of a new file");
	EQ(1, px_stat(pb("f")).st_nlink, "links of a new file");
	OK(fstat(fd, &st));
	EQ(st.st_ino, px_stat(pb("f")).st_ino, "inode number, fstat and lstat");
	OK(close(fd));
	FAILS(ENOENT, open(pa("absent"), O_RDONLY));
	FAILS(ENOENT, open(pa("absent/f"), O_RDWR | O_CREAT, 0644));
	/* A name looked up in vain through A, then made through B. */
	FAILS(ENOENT, open(pa("later"), O_RDONLY));
	px_mkfile(pb("later"));
	fd = (int)OK(open(pa("later"), O_RDONLY));
	close(fd);
}

static void creat_umask(void)
{
	umask(027);
	NEED(creat(pa("a"), 0666));
	NEED(mkdir(pa("d"), 0777));
	NEED(mknod(pa("n"), S_IFREG | 0777, 0));
	umask(0);
	NEED(creat(pa("b"), 07777));
	EQ(0640, px_stat(pb("a")).st_mode & 07777, "mode of a file made 0666 under umask 027");
	EQ(0750, px_stat(pb("d")).st_mode & 07777, "mode of a directory made 0777 under umask 027");
	EQ(0750, px_stat(pb("n")).st_mode & 07777, "mode of a node made 0777 under umask 027");
	EQ(07777, px_stat(pb("b")).st_mode & 07777, "mode of a file made 07777 under umask 0");
}

static void excl(void)
{
	px_mkfile(pa("f"));
	NEED(mkdir(pa("d"), 0755));
	NEED(symlink("nowhere", pa("dangling")));
	NEED(symlink("f", pa("l")));
	for (int b = 0; b <= px.two; b++) {
		FAILS(EEXIST, open(px_path(b, "f"), O_CREAT | O_EXCL | O_RDWR, 0644));
		FAILS(EEXIST, open(px_path(b, "d"), O_CREAT | O_EXCL | O_RDWR, 0644));
		FAILS(EEXIST, open(px_path(b, "dangling"), O_CREAT | O_EXCL | O_RDWR, 0644));
		FAILS(EEXIST, open(px_path(b, "l"), O_CREAT | O_EXCL | O_RDWR, 0644));
		FAILS(EEXIST, mknod(px_path(b, "f"), S_IFREG | 0644, 0));
	}
	px_gone("nowhere");
	/* Without O_EXCL the link's target is made. */
	OK(close((int)NEED(open(pb("dangling"), O_CREAT | O_RDWR, 0644))));
	px_same_stat("nowhere");
	OK(unlink(pa("f")));
	OK(close((int)NEED(open(pb("f"), O_CREAT | O_EXCL | O_RDWR, 0644))));
}

static void truncate_on_open(void)
{
	char data[6000];
	int fd, keep;

	px_fill(data, sizeof(data), 1);
	px_make(pa("f"), data, sizeof(data));
	keep = px_open(pb("f"), O_RDONLY);
	fd = (int)NEED(open(pa("f"), O_WRONLY | O_TRUNC));
	px_size("f", 0);
	EQ(0, read(keep, data, 10), "bytes read through B after O_TRUNC through A");
	EQ(3, write(fd, "abc", 3), "bytes written after O_TRUNC");
	close(fd);
	px_content("f", "abc", 3);
	OK(close((int)NEED(open(pb("f"), O_RDWR | O_CREAT | O_TRUNC, 0644))));
	px_content("f", "", 0);
	NEED(pwrite(px_open(pa("f"), O_WRONLY), "xy", 2, 0));
	OK(close((int)NEED(creat(pb("f"), 0600))));
	px_content("f", "", 0);
	EQ(0644, px_stat(pa("f")).st_mode & 0777, "mode of an existing file after creat(0600)");
	/* O_TRUNC with O_RDONLY truncates on Linux. */
	NEED(pwrite(px_open(pa("f"), O_WRONLY), "xy", 2, 0));
	close((int)NEED(open(pa("f"), O_RDONLY | O_TRUNC)));
	px_size("f", 0);
	close(keep);
}

static void append(void)
{
	int a = (int)NEED(open(pa("f"), O_WRONLY | O_APPEND | O_CREAT, 0644)), b = px_open(pb("f"), O_RDWR | O_APPEND), plain;
	char buf[8];

	EQ(3, write(a, "aaa", 3), "append through A");
	EQ(2, write(b, "bb", 2), "append through B");
	EQ(3, write(a, "AAA", 3), "append through A behind B's");
	EQ(1, pwrite(b, "B", 1, 0), "pwrite at 0 of an O_APPEND descriptor");
	px_content("f", "aaabbAAAB", 9);
	EQ(9, lseek(b, 0, SEEK_END), "SEEK_END through B");
	OK(lseek(b, 0, SEEK_SET));
	EQ(3, read(b, buf, 3), "read of an O_APPEND descriptor");
	EQ(1, write(b, "C", 1), "append behind a read");
	EQ(10, lseek(b, 0, SEEK_CUR), "position after an append");
	/* The flag can come later. */
	plain = px_open(pa("f"), O_WRONLY);
	EQ(1, write(plain, "0", 1), "write at 0");
	OK(fcntl(plain, F_SETFL, O_APPEND));
	EQ(2, write(plain, "zz", 2), "append after F_SETFL");
	OK(fcntl(plain, F_SETFL, 0));
	EQ(1, pwrite(plain, "1", 1, 1), "write at 1 after F_SETFL 0");
	px_content("f", "01abbAAABCzz", 12);
	OK(ftruncate(b, 4));
	EQ(1, write(a, "!", 1), "append through A after truncate through B");
	px_content("f", "01ab!", 5);
}

static void tmpfile_link(void)
{
	int fd = open(pa("."), O_TMPFILE | O_RDWR, 0640);
	char proc[64];
	struct stat st;

	NEED(fd);
	px_listing(".", NULL, 0);
	OK(fstat(fd, &st));
	EQ(0, st.st_nlink, "links of an O_TMPFILE");
	EQ(0640, st.st_mode & 07777, "mode of an O_TMPFILE");
	EQ(5, write(fd, "hello", 5), "write to an O_TMPFILE");
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	OK(linkat(AT_FDCWD, proc, AT_FDCWD, pa("named"), AT_SYMLINK_FOLLOW));
	px_nlink("named", 1);
	px_content("named", "hello", 5);
	FAILS(EEXIST, linkat(AT_FDCWD, proc, AT_FDCWD, pa("named"), AT_SYMLINK_FOLLOW));
	OK(close(fd));
	px_content("named", "hello", 5);
	fd = (int)NEED(open(pa("."), O_TMPFILE | O_RDWR | O_EXCL, 0600));
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	FAILS(ENOENT, linkat(AT_FDCWD, proc, AT_FDCWD, pa("second"), AT_SYMLINK_FOLLOW));
	OK(close(fd));
	FAILS(ENOTDIR, open(pa("named"), O_TMPFILE | O_RDWR, 0600));
	FAILS(EINVAL, open(pa("."), O_TMPFILE | O_RDONLY, 0600));
	px_listing(".", (const char *const[]){"named"}, 1);
}

static void kinds(void)
{
	px_mkfile(pa("f"));
	NEED(mkdir(pa("d"), 0755));
	NEED(symlink("f", pa("l")));
	NEED(symlink("d", pa("ld")));
	for (int b = 0; b <= px.two; b++) {
		FAILS(ENOTDIR, open(px_path(b, "f"), O_RDONLY | O_DIRECTORY));
		FAILS(ENOTDIR, open(px_path(b, "f/x"), O_RDONLY));
		FAILS(ENOTDIR, open(px_path(b, "f/"), O_RDONLY));
		FAILS(ENOTDIR, open(px_path(b, "f/x"), O_RDWR | O_CREAT, 0644));
		FAILS(EISDIR, open(px_path(b, "d"), O_WRONLY));
		FAILS(EISDIR, open(px_path(b, "d"), O_RDWR | O_CREAT, 0644));
		FAILS(EISDIR, open(px_path(b, "d"), O_RDONLY | O_TRUNC));
		FAILS(EISDIR, open(px_path(b, "new/"), O_RDWR | O_CREAT, 0644));
		FAILS(ELOOP, open(px_path(b, "l"), O_RDONLY | O_NOFOLLOW));
		FAILS(ENOTDIR, open(px_path(b, "ld"), O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
		int fd = (int)NEED(open(px_path(b, "d"), O_RDONLY | O_DIRECTORY));
		char c;
		FAILS(EISDIR, read(fd, &c, 1));
		FAILS(EBADF, write(fd, &c, 1));
		OK(fsync(fd));
		OK(close(fd));
		OK(close((int)NEED(open(px_path(b, "l"), O_RDONLY))));
		OK(close((int)NEED(open(px_path(b, "ld"), O_RDONLY | O_DIRECTORY))));
	}
}

static void o_path(void)
{
	char buf[64];
	struct stat st;
	int fd, dfd;

	px_make(pa("f"), "data", 4);
	NEED(symlink("f", pa("l")));
	NEED(mkdir(pa("d"), 0755));
	fd = (int)NEED(open(pa("f"), O_PATH));
	OK(fstat(fd, &st));
	EQ(4, st.st_size, "fstat of an O_PATH descriptor");
	FAILS(EBADF, read(fd, buf, 1));
	FAILS(EBADF, fsync(fd));
	FAILS(EBADF, fchmod(fd, 0600));
	snprintf(buf, sizeof(buf), "/proc/self/fd/%d", fd);
	int re = (int)NEED(open(buf, O_RDONLY));
	EQ(4, read(re, buf, 10), "read after reopening an O_PATH descriptor");
	OK(rename(pb("f"), pb("g")));
	OK(fstat(fd, &st));
	EQ(1, st.st_nlink, "links of an O_PATH descriptor after rename through B");
	close(re);
	close(fd);
	fd = (int)NEED(open(pb("l"), O_PATH | O_NOFOLLOW));
	EQ(1, readlinkat(fd, "", buf, sizeof(buf)), "readlinkat of an O_PATH descriptor of a symlink");
	close(fd);
	dfd = (int)NEED(open(pb("d"), O_PATH | O_DIRECTORY));
	fd = (int)NEED(openat(dfd, "x", O_CREAT | O_RDWR, 0644));
	px_same_stat("d/x");
	OK(faccessat(dfd, "x", R_OK, 0));
	OK(unlinkat(dfd, "x", 0));
	px_gone("d/x");
	close(fd);
	close(dfd);
}

static void at_calls(void)
{
	int d = (int)NEED(open(pa("."), O_RDONLY | O_DIRECTORY)), e;
	struct stat st;

	OK(mkdirat(d, "sub", 0755));
	e = (int)NEED(openat(d, "sub", O_RDONLY | O_DIRECTORY));
	OK(close((int)NEED(openat(e, "f", O_CREAT | O_EXCL | O_RDWR, 0644))));
	OK(symlinkat("f", e, "l"));
	OK(linkat(e, "f", d, "g", 0));
	OK(mknodat(e, "p", S_IFIFO | 0600, 0));
	OK(fchmodat(e, "f", 0600, 0));
	OK(fchownat(e, "l", 5, 6, AT_SYMLINK_NOFOLLOW));
	OK(fstatat(e, "../g", &st, 0));
	EQ(2, st.st_nlink, "links of g by fstatat");
	OK(renameat(e, "p", d, "q"));
	px_listing("sub", (const char *const[]){"f", "l"}, 2);
	px_listing(".", (const char *const[]){"sub", "g", "q"}, 3);
	EQ(5, px_same_stat("sub/l").st_uid, "owner of the symlink");
	EQ(0600, px_same_stat("g").st_mode & 0777, "mode of g");
	EQ(2, linkat(e, "l", d, "l2", 0) == 0 ? px_stat(pb("l2")).st_nlink : 0, "links of a symlink with two names");
	OK(unlinkat(e, "f", 0));
	FAILS(EISDIR, unlinkat(d, "sub", 0));
	OK(unlinkat(e, "l", 0));
	OK(unlinkat(d, "sub", AT_REMOVEDIR));
	FAILS(ENOENT, openat(e, "new", O_CREAT | O_RDWR, 0644));
	FAILS(ENOENT, mkdirat(e, "new", 0755));
	px_gone("sub");
	close(e);
	close(d);
}

static void special(void)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int s = (int)NEED(socket(AF_UNIX, SOCK_STREAM, 0)), c;
	char buf[4];

	NEED(mkfifo(pa("p"), 0644));
	FAILS(ENXIO, open(pa("p"), O_WRONLY | O_NONBLOCK));
	int r = (int)NEED(open(pa("p"), O_RDONLY | O_NONBLOCK)), w = (int)NEED(open(pa("p"), O_WRONLY | O_NONBLOCK));
	EQ(3, write(w, "abc", 3), "write to a fifo");
	EQ(3, read(r, buf, 3), "read from a fifo");
	NEED(chdir(px.a));
	snprintf(sa.sun_path, sizeof(sa.sun_path), "s");
	OK(bind(s, (void *)&sa, sizeof(sa)));
	OK(listen(s, 1));
	EQ(S_IFSOCK, px_same_stat("s").st_mode & S_IFMT, "type of a bound socket");
	FAILS(ENXIO, open(pa("s"), O_RDWR));
	FAILS(EADDRINUSE, bind((int)NEED(socket(AF_UNIX, SOCK_STREAM, 0)), (void *)&sa, sizeof(sa)));
	c = (int)NEED(socket(AF_UNIX, SOCK_STREAM, 0));
	OK(connect(c, (void *)&sa, sizeof(sa)));
	NEED(mknod(pa("null"), S_IFCHR | 0666, 0x103));
	int n = open(pa("null"), O_RDWR);
	if (n >= 0 || errno != EACCES) /* EACCES: mounted nodev */
		EQ(4, write((int)NEED(n), "abcd", 4), "write to a device node of /dev/null");
}

static void sync_flags(void)
{
	static const int flags[] = {O_SYNC, O_DSYNC, O_NOATIME, O_NONBLOCK, O_CLOEXEC, O_NOCTTY, O_ASYNC};
	char name[16], got[4];

	for (size_t i = 0; i < PX_LEN(flags); i++) {
		snprintf(name, sizeof(name), "f%zu", i);
		int fd = (int)OK(open(pa("%s", name), O_RDWR | O_CREAT | flags[i], 0644));
		EQ(3, write(fd, "abc", 3), "write with flag %#x", flags[i]);
		EQ(3, pread(fd, got, 3, 0), "read with flag %#x", flags[i]);
		OK(close(fd));
		px_content(name, "abc", 3);
	}
}

static void access_mode(void)
{
	char c = 'x';
	int r, w;

	px_make(pa("f"), "y", 1);
	r = px_open(pa("f"), O_RDONLY);
	w = px_open(pb("f"), O_WRONLY);
	FAILS(EBADF, write(r, &c, 1));
	FAILS(EBADF, read(w, &c, 1));
	FAILS(EINVAL, ftruncate(r, 0));
	FAILS(EBADF, fallocate(r, 0, 0, 10));
	OK(fsync(r));
	OK(fchmod(r, 0600));
	EQ(0600, px_same_stat("f").st_mode & 0777, "mode after fchmod of a read-only descriptor");
	OK(close(r));
	FAILS(EBADF, close(r));
}

static void by_handle(void)
{
	struct {
		struct file_handle h;
		char bytes[128];
	} h = {.h.handle_bytes = 128}, dh = {.h.handle_bytes = 128};
	int mount_id, m = (int)NEED(open(pa("."), O_RDONLY | O_DIRECTORY)), mb = (int)NEED(open(pb("."), O_RDONLY | O_DIRECTORY)), fd;
	char got[4];

	px_make(pa("f"), "abc", 3);
	NEED(mkdir(pa("d"), 0755));
	NEED(name_to_handle_at(AT_FDCWD, pa("f"), &h.h, &mount_id, 0));
	NEED(name_to_handle_at(AT_FDCWD, pa("d"), &dh.h, &mount_id, 0));
	/* Through a mount that has seen neither: it knows nothing but the handle. */
	fd = (int)NEED(open_by_handle_at(mb, &h.h, O_RDONLY));
	EQ(3, read(fd, got, 3), "read after open by a handle of the other mount");
	close(fd);
	close((int)NEED(open_by_handle_at(mb, &dh.h, O_RDONLY | O_DIRECTORY)));
	OK(rename(pb("f"), pb("d/g")));
	fd = (int)NEED(open_by_handle_at(m, &h.h, O_RDONLY));
	EQ(3, read(fd, got, 3), "read after open by handle");
	close(fd);
	fd = (int)NEED(open_by_handle_at(m, &dh.h, O_RDONLY | O_DIRECTORY));
	OK(faccessat(fd, "g", R_OK, 0));
	close(fd);
	OK(unlink(pb("d/g")));
	px_mkfile(pb("new"));
	for (unsigned i = 0; i < 100 && (fd = open_by_handle_at(m, &h.h, O_RDONLY)) >= 0; i++) { /* it is freed by others than who removed it */
		close(fd);
		usleep(50000);
	}
	FAILS(ESTALE, open_by_handle_at(m, &h.h, O_RDONLY));
	FAILS(ESTALE, open_by_handle_at(mb, &h.h, O_RDONLY));
	close(mb);
}

const struct px_test px_open_tests[] = {
	{"open.creat", creat_basic, 0, 0},     {"open.umask", creat_umask, 0, 0},   {"open.excl", excl, 0, 0},
	{"open.trunc", truncate_on_open, 0, 0},	       {"open.append", append, 0, 0},	    {"open.tmpfile", tmpfile_link, 0, 0},
	{"open.kinds", kinds, 0, 0},	       {"open.o_path", o_path, 0, 0},	    {"open.at", at_calls, 0, 0},
	{"open.special", special, 0, 0},       {"open.flags", sync_flags, 0, 0},    {"open.access_mode", access_mode, 0, 0},
	{"open.by_handle", by_handle, 0, 0},   {NULL, NULL, 0, 0},
};
