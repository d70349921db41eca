/* SPDX-License-Identifier: Apache-2.0 */
/* Topic: who may: permission bits as an ordinary user, chmod, chown, set-id bits, sticky and setgid directories, access(2). */
#include "px.h"

#include <linux/fs.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <sys/xattr.h>

static void *const none = NULL;

/* ---- every class of user against every bit ---- */
static const struct {
	uid_t owner;
	gid_t group;
	unsigned shift;
} classes[] = {{PX_USER, PX_USER2, 6}, {PX_USER2, PX_USER, 3}, {PX_USER2, PX_USER2, 0}};

static void check_bits(void *arg)
{
	(void)arg;
	for (unsigned k = 0; k < PX_LEN(classes); k++)
		for (unsigned bits = 0; bits < 8; bits++)
			for (int b = 0; b <= px.two; b++) {
				char name[32], what[80];
				snprintf(name, sizeof(name), "f%u-%u", k, bits);
				snprintf(what, sizeof(what), "%s, mount %c, mode bits %u of class %u", name, 'A' + b, bits, k);
				int r = open(px_path(b, name), O_RDONLY), w = open(px_path(b, name), O_WRONLY);
				EQ(!!(bits & 4), r >= 0, "open for read: %s", what);
				EQ(!!(bits & 2), w >= 0, "open for write: %s", what);
				EQ(!!(bits & 4), access(px_path(b, name), R_OK) == 0, "access R_OK: %s", what);
				EQ(!!(bits & 2), access(px_path(b, name), W_OK) == 0, "access W_OK: %s", what);
				EQ(!!(bits & 1), access(px_path(b, name), X_OK) == 0, "access X_OK: %s", what);
				EQ(!!(bits & 2), truncate(px_path(b, name), 0) == 0, "truncate: %s", what);
				close(r);
				close(w);
			}
}

static void bits_of_files(void)
{
	for (unsigned k = 0; k < PX_LEN(classes); k++)
		for (unsigned bits = 0; bits < 8; bits++) {
			char name[32];
			snprintf(name, sizeof(name), "f%u-%u", k, bits);
			px_mkfile(pa("%s", name));
			OK(chown(pa("%s", name), classes[k].owner, classes[k].group));
			/* All other classes have all bits: only the right class may count. */
			OK(chmod(pa("%s", name), (0777 & ~(7u << classes[k].shift)) | (bits << classes[k].shift)));
		}
	px_as(PX_USER, PX_USER, check_bits, none);
}

static void check_dirs(void *arg)
{
	struct stat st;

	(void)arg;
	for (unsigned k = 0; k < PX_LEN(classes); k++)
		for (unsigned bits = 0; bits < 8; bits++)
			for (int b = 0; b <= px.two; b++) {
				char name[32], in[40], made[40];
				snprintf(name, sizeof(name), "d%u-%u", k, bits);
				snprintf(in, sizeof(in), "%s/in", name);
				snprintf(made, sizeof(made), "%s/made", name);
				int r = open(px_path(b, name), O_RDONLY | O_DIRECTORY);
				EQ(!!(bits & 4), r >= 0, "open of directory %s, mount %c", name, 'A' + b);
				close(r);
				EQ(!!(bits & 1), stat(px_path(b, in), &st) == 0, "stat in directory %s, mount %c", name, 'A' + b);
				bool may = (bits & 3) == 3;
				EQ(may, mkdir(px_path(b, made), 0755) == 0, "mkdir in directory %s, mount %c", name, 'A' + b);
				EQ(may, rename(px_path(b, in), px_path(b, made)) == 0 || errno == ENOTDIR || errno == EISDIR,
				   "rename in directory %s, mount %c (refused for another reason)", name, 'A' + b);
				EQ(may, rmdir(px_path(b, made)) == 0, "rmdir in directory %s, mount %c", name, 'A' + b);
				EQ(may, link(px_path(b, in), px_path(b, made)) == 0, "link in directory %s, mount %c", name, 'A' + b);
				EQ(may, unlink(px_path(b, made)) == 0, "unlink in directory %s, mount %c", name, 'A' + b);
			}
}

static void bits_of_dirs(void)
{
	for (unsigned k = 0; k < PX_LEN(classes); k++)
		for (unsigned bits = 0; bits < 8; bits++) {
			char name[32];
			snprintf(name, sizeof(name), "d%u-%u", k, bits);
			NEED(mkdir(pa("%s", name), 0777));
			px_mkfile(pa("%s/in", name));
			OK(chown(pa("%s/in", name), PX_USER, PX_USER));
			OK(chown(pa("%s", name), classes[k].owner, classes[k].group));
			OK(chmod(pa("%s", name), (0777 & ~(7u << classes[k].shift)) | (bits << classes[k].shift)));
		}
	px_as(PX_USER, PX_USER, check_dirs, none);
}

/* A change of mode or owner through B counts at once for what A decides. */
static void as_other_opens(void *arg)
{
	int want = *(int *)arg, fd = open(pa("f"), O_RDONLY), e = errno;
	EQ(want, fd >= 0 ? 0 : e, "open through A right after a change through B (errno)");
}

static void change_counts_at_once(void)
{
	int yes = 0, no = EACCES;

	px_mkfile(pa("f"));
	px_as(PX_USER, PX_USER, as_other_opens, &yes);
	OK(chmod(pb("f"), 0600));
	px_as(PX_USER, PX_USER, as_other_opens, &no);
	OK(chown(pb("f"), PX_USER, 0));
	px_as(PX_USER, PX_USER, as_other_opens, &yes);
	OK(chown(pb("f"), 0, PX_USER));
	px_as(PX_USER, PX_USER, as_other_opens, &no);
	OK(chmod(pb("f"), 0640));
	px_as(PX_USER, PX_USER, as_other_opens, &yes);
	OK(chmod(pb("."), 0700));
	px_as(PX_USER, PX_USER, as_other_opens, &no);
	OK(chmod(pb("."), 0777));
	px_as(PX_USER, PX_USER, as_other_opens, &yes);
}

/* ---- chmod and chown ---- */
static void user_changes(void *arg)
{
	(void)arg;
	FAILS(EPERM, chmod(pa("root"), 0777));
	FAILS(EPERM, chown(pa("root"), PX_USER, (gid_t)-1));
	FAILS(EPERM, chown(pa("mine"), PX_USER2, (gid_t)-1));
	FAILS(EPERM, chown(pa("mine"), (uid_t)-1, PX_USER2));
	OK(chown(pa("mine"), PX_USER, PX_USER));
	OK(chown(pa("mine"), (uid_t)-1, PX_USER));
	OK(chmod(pb("mine"), 0604));
	EQ(0604, px_same_stat("mine").st_mode & 07777, "mode after chmod by its owner");
	OK(chmod(pa("mine"), 06755));
	EQ(06755, px_same_stat("mine").st_mode & 07777, "set-id bits set by the owner, a member of the group");
	OK(chmod(pa("theirs"), 02755));
	EQ(0755, px_same_stat("theirs").st_mode & 07777, "S_ISGID by an owner who is no member of the group");
	FAILS(EPERM, utimensat(AT_FDCWD, pa("root"), (struct timespec[2]){{1, 0}, {1, 0}}, 0));
	FAILS(EACCES, utimensat(AT_FDCWD, pa("root"), NULL, 0));
	OK(utimensat(AT_FDCWD, pa("writable"), NULL, 0));
	FAILS(EPERM, utimensat(AT_FDCWD, pa("writable"), (struct timespec[2]){{1, 0}, {1, 0}}, 0));
	FAILS(EPERM, mknod(pa("dev"), S_IFCHR | 0600, 0x103));
	OK(mkfifo(pa("fifo"), 0600));
	OK(close((int)NEED(open(pa("new"), O_CREAT | O_RDWR, 0644))));
	EQ(PX_USER, px_same_stat("new").st_uid, "owner of a new file");
	EQ(PX_USER, px_same_stat("new").st_gid, "group of a new file");
	OK(symlink("x", pa("newlink")));
	EQ(PX_USER, px_same_stat("newlink").st_uid, "owner of a new symlink");
	int fd = (int)NEED(open(pa("ro"), O_CREAT | O_RDWR, 0400));
	EQ(1, write(fd, "x", 1), "write to a file made read-only by its mode");
	FAILS(EACCES, open(pa("ro"), O_RDWR));
}

static void chmod_chown(void)
{
	px_mkfile(pa("root"));
	px_mkfile(pa("mine"));
	px_mkfile(pa("theirs"));
	px_mkfile(pa("writable"));
	OK(chmod(pa("writable"), 0666));
	OK(chown(pa("mine"), PX_USER, PX_USER));
	OK(chown(pa("theirs"), PX_USER, PX_USER2));
	for (mode_t m = 0; m <= 07777; m += 0111) {
		OK(chmod(px_path(m % 2, "root"), m));
		EQ(S_IFREG | m, px_same_stat("root").st_mode, "mode");
	}
	OK(chmod(pa("root"), 0644));
	OK(chown(pa("root"), 4000000000u, 3000000000u));
	EQ(4000000000u, px_same_stat("root").st_uid, "a large user id");
	EQ(3000000000u, px_same_stat("root").st_gid, "a large group id");
	OK(chown(pb("root"), 0, 0));
	NEED(symlink("mine", pa("l")));
	OK(lchown(pb("l"), 7, 8));
	EQ(7, px_same_stat("l").st_uid, "owner of the symlink");
	EQ(PX_USER, px_same_stat("mine").st_uid, "owner of its target");
	OK(chmod(pb("l"), 0640));
	EQ(0640, px_same_stat("mine").st_mode & 07777, "mode through the symlink");
	px_as(PX_USER, PX_USER, user_changes, none);
}

/* ---- set-id bits go when what they stand for changes ---- */
static void write_one(void *arg)
{
	(void)!pwrite(px_open(px_path(false, arg), O_WRONLY), "x", 1, 0);
}

static void truncate_one(void *arg)
{
	OK(truncate(pa("%s", (char *)arg), 5));
}

static void allocate_one(void *arg)
{
	OK(fallocate(px_open(px_path(false, arg), O_WRONLY), 0, 0, 100));
}

static void copy_one(void *arg)
{
	int from = px_open(pa("from"), O_RDONLY);

	EQ(3, copy_file_range(from, NULL, px_open(px_path(false, arg), O_WRONLY), NULL, 3, 0), "copy_file_range");
}

static void append_one(void *arg)
{
	EQ(1, write(px_open(px_path(false, arg), O_WRONLY | O_APPEND), "x", 1), "append");
}

static void direct_one(void *arg)
{
	void *buf;
	int fd = px_open(px_path(false, arg), O_WRONLY | O_DIRECT);
	if (posix_memalign(&buf, 4096, 4096) == 0)
		EQ(4096, pwrite(fd, memset(buf, 1, 4096), 4096, 0), "direct write");
}

static void open_trunc_one(void *arg)
{
	px_open(px_path(false, arg), O_WRONLY | O_TRUNC);
}

static void create_trunc_one(void *arg)
{
	px_open(px_path(false, arg), O_RDWR | O_CREAT | O_TRUNC);
}

static void chown_one(void *arg)
{
	OK(chown(pa("%s", (char *)arg), PX_USER, PX_USER));
}

static const struct {
	const char *what;
	void (*fn)(void *);
} killers[] = {{"write", write_one},	   {"truncate", truncate_one}, {"fallocate", allocate_one}, {"copy_file_range", copy_one},
	       {"append", append_one}, {"direct write", direct_one}, {"open with O_TRUNC", open_trunc_one},
	       {"open with O_CREAT and O_TRUNC", create_trunc_one}, {"chown", chown_one}};

/* Asks for nothing else: size and times of a file just written are fetched anew, and the mode with them. */
static unsigned mode_alone(const char *path)
{
	struct statx st;

	OK(statx(AT_FDCWD, path, 0, STATX_MODE, &st));
	return st.stx_mode & 07777;
}

static void set_id(void)
{
	static const struct {
		mode_t before, after;
	} modes[] = {{06777, 0777}, {04777, 0777}, {02777, 0777}, {02767, 02767}, {01777, 01777}};
	char name[32];

	px_make(pa("from"), "xyz", 3);
	for (size_t k = 0; k < PX_LEN(killers); k++)
		for (size_t i = 0; i < PX_LEN(modes); i++) {
			snprintf(name, sizeof(name), "f%zu-%zu", k, i);
			px_make(pa("%s", name), "abc", 3);
			OK(chown(pa("%s", name), PX_USER, PX_USER));
			OK(chmod(pa("%s", name), modes[i].before));
			EQ(modes[i].before, px_same_stat(name).st_mode & 07777, "mode set");
			px_as(PX_USER, PX_USER, killers[k].fn, name);
			unsigned alone = mode_alone(pa("%s", name));
			mode_t got = px_same_stat(name).st_mode & 07777;
			EQ(got, alone, "mode by itself and with the rest after %s", killers[k].what);
			/* fallocate: local file systems differ; S_ISGID without group execute is theirs, too. */
			if (px.local && (killers[k].fn == allocate_one || modes[i].before == 02767))
				continue;
			EQ(modes[i].after, got, "mode %#o after %s by its owner", modes[i].before, killers[k].what);
		}
	/* Root's writes leave the bits, root's chown does not. */
	px_make(pa("r"), "abc", 3);
	OK(chmod(pa("r"), 06755));
	write_one("r");
	EQ(06755, px_same_stat("r").st_mode & 07777, "mode after a write by root");
	OK(chown(pb("r"), PX_USER, PX_USER));
	EQ(0755, px_same_stat("r").st_mode & 07777, "mode after chown by root");
	NEED(mkdir(pa("d"), 0755));
	OK(chmod(pa("d"), 06755));
	OK(chown(pb("d"), PX_USER, PX_USER));
	EQ(06755, px_same_stat("d").st_mode & 07777, "mode of a directory after chown by root");
}

/* Bits set through B are cleared by a write through A that has the file cached. */
static void set_id_between(void)
{
	int fd;

	px_make(pa("f"), "abc", 3);
	OK(chown(pa("f"), PX_USER, PX_USER));
	fd = px_open(pa("f"), O_RDWR);
	EQ(1, pwrite(fd, "x", 1, 0), "write through A");
	OK(chmod(pb("f"), 06777));
	px_as(PX_USER, PX_USER, write_one, "f");
	EQ(0777, px_same_stat("f").st_mode & 07777, "mode after chmod 06777 through B and a write through A");
}

/* ---- directories that hand down their group, sticky ones ---- */
static void make_in_setgid(void *arg)
{
	(void)arg;
	px_mkfile(pa("g/f"));
	NEED(mkdir(pb("g/d"), 0755));
	NEED(symlink("x", pa("g/l")));
	NEED(mkfifo(pb("g/p"), 0644));
	int fd = (int)NEED(open(pa("g/x"), O_CREAT | O_RDWR, 02775)); /* not a member: the bit must not stay */
	EQ(1, write(fd, "x", 1), "write");
}

static void setgid_dirs(void)
{
	static const char *const names[] = {"g/f", "g/d", "g/l", "g/p", "g/x"};

	NEED(mkdir(pa("g"), 0777));
	OK(chown(pa("g"), 0, PX_USER2));
	OK(chmod(pb("g"), 02777));
	px_as(PX_USER, PX_USER, make_in_setgid, none);
	for (size_t i = 0; i < PX_LEN(names); i++) {
		EQ(PX_USER2, px_same_stat(names[i]).st_gid, "group of %s in a setgid directory", names[i]);
		EQ(PX_USER, px_same_stat(names[i]).st_uid, "owner of %s", names[i]);
	}
	EQ(02755, px_same_stat("g/d").st_mode & 07777, "mode of a directory made in a setgid directory");
	EQ(0, px_same_stat("g/x").st_mode & 02000, "S_ISGID of a file whose maker is no member of the group");
	NEED(mkdir(pa("g/d/deep"), 0700));
	EQ(02700, px_same_stat("g/d/deep").st_mode & 07777, "mode of a directory two levels down");
	EQ(PX_USER2, px_same_stat("g/d/deep").st_gid, "its group");
}

static void in_sticky(void *arg)
{
	(void)arg;
	FAILS(EPERM, unlink(pa("s/theirs")));
	FAILS(EPERM, rename(pa("s/theirs"), pa("s/x")));
	FAILS(EPERM, rename(pa("s/mine"), pa("s/theirs")));
	FAILS(EPERM, rmdir(pa("s/dir")));
	FAILS(EPERM, renameat2(AT_FDCWD, pa("s/mine"), AT_FDCWD, pa("s/theirs"), RENAME_EXCHANGE));
	OK(rename(pb("s/mine"), pb("s/own")));
	OK(unlink(pa("s/own")));
	OK(unlink(pa("mysticky/theirs")));
}

static void sticky(void)
{
	NEED(mkdir(pa("s"), 0777));
	NEED(mkdir(pa("mysticky"), 0777));
	px_mkfile(pa("s/theirs"));
	px_mkfile(pa("s/mine"));
	px_mkfile(pa("mysticky/theirs"));
	NEED(mkdir(pa("s/dir"), 0777));
	OK(chown(pa("s/theirs"), PX_USER2, PX_USER2));
	OK(chown(pa("s/mine"), PX_USER, PX_USER));
	OK(chown(pa("mysticky/theirs"), PX_USER2, PX_USER2));
	OK(chown(pa("mysticky"), PX_USER, PX_USER));
	OK(chmod(pb("s"), 01777));
	OK(chmod(pb("mysticky"), 01777));
	EQ(S_IFDIR | 01777, px_same_stat("s").st_mode, "mode of a sticky directory");
	px_as(PX_USER, PX_USER, in_sticky, none);
	px_listing("s", (const char *const[]){"theirs", "dir"}, 2);
}

/* access(2) asks for the real user, faccessat with AT_EACCESS for the effective one; root may all but execute. */
static void access_users(void)
{
	px_mkfile(pa("f"));
	OK(chmod(pa("f"), 0));
	OK(access(pa("f"), R_OK | W_OK));
	FAILS(EACCES, access(pa("f"), X_OK));
	OK(chmod(pb("f"), 0010));
	OK(access(pa("f"), X_OK));
	FAILS(ENOENT, access(pa("absent"), F_OK));
	OK(chmod(pa("f"), 0600));
	if (fork() == 0) {
		NEED(setresuid(PX_USER, 0, 0));
		FAILS(EACCES, access(pa("f"), R_OK));
		FAILS(EACCES, access(pb("f"), W_OK));
		OK(faccessat(AT_FDCWD, pa("f"), R_OK, AT_EACCESS));
		OK(close((int)NEED(open(pb("f"), O_RDWR))));
		_exit(0);
	}
	wait(NULL);
	/* The file-system user alone decides. */
	setfsuid(PX_USER);
	FAILS(EACCES, open(pa("f"), O_RDONLY));
	px_mkfile(pa("by_fsuid"));
	setfsuid(0);
	EQ(PX_USER, px_same_stat("by_fsuid").st_uid, "owner of a file made with another fsuid");
}

/* Rights are those of the open: a descriptor goes on when the mode has changed. */
static void at_open(void *arg)
{
	int fd = px_open(pa("f"), O_RDWR);

	(void)arg;
	OK(chmod(pb("f"), 0));
	FAILS(EACCES, open(pa("f"), O_RDONLY));
	EQ(3, pwrite(fd, "abc", 3, 0), "write through a descriptor after chmod 0");
	char got[3];
	EQ(3, pread(fd, got, 3, 0), "read through it");
	OK(ftruncate(fd, 2));
	OK(fchmod(fd, 0644));
	EQ(2, px_same_stat("f").st_size, "size");
}

static void descriptor_rights(void)
{
	px_mkfile(pa("f"));
	OK(chown(pa("f"), PX_USER, PX_USER));
	px_as(PX_USER, PX_USER, at_open, none);
}

/* ---- flags: chattr ---- */
static int flags_set(const char *path, unsigned long on, unsigned long off)
{
	int fd = open(path, O_RDONLY), flags = 0, rc = fd < 0 ? -1 : ioctl(fd, FS_IOC_GETFLAGS, &flags);

	flags = (flags | (int)on) & ~(int)off;
	if (!rc)
		rc = ioctl(fd, FS_IOC_SETFLAGS, &flags);
	if (fd >= 0)
		close(fd);
	return rc;
}

static unsigned long flags_of(const char *path)
{
	int fd = px_open(path, O_RDONLY), flags = 0;

	OK(ioctl(fd, FS_IOC_GETFLAGS, &flags));
	close(fd);
	return (unsigned long)flags & (FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NODUMP_FL | FS_NOATIME_FL);
}

static void flags_as_user(void *arg)
{
	(void)arg;
	FAILS(EPERM, flags_set(pa("mine"), FS_IMMUTABLE_FL, 0));
	FAILS(EPERM, flags_set(pb("f"), FS_NODUMP_FL, 0));
	OK(flags_set(pb("mine"), FS_NODUMP_FL, 0));
}

static void flags_kept(void)
{
	struct fsxattr x = {0};
	struct timespec was, now;
	int fd;

	px_mkfile(pa("f"));
	px_mkfile(pa("mine"));
	NEED(mkdir(pa("d"), 0755));
	OK(chown(pa("mine"), PX_USER, PX_USER));
	if (flags_set(pa("f"), 0, 0) && px.local)
		px_skip("no flags of inodes here");
	for (int b = 0; b <= px.two; b++) {
		const char *names[] = {"f", "d"};
		for (size_t i = 0; i < 2; i++) {
			EQ(0, flags_of(px_path(b, names[i])), "flags of a new %s", names[i]);
			OK(flags_set(px_path(b, names[i]), FS_NODUMP_FL | FS_NOATIME_FL, 0));
			EQ(FS_NODUMP_FL | FS_NOATIME_FL, flags_of(px_path(!b, names[i])), "flags of %s through the other mount", names[i]);
			OK(flags_set(px_path(!b, names[i]), 0, FS_NODUMP_FL | FS_NOATIME_FL));
			EQ(0, flags_of(px_path(b, names[i])), "flags taken away of %s", names[i]);
		}
		was = px_same_stat("f").st_ctim;
		usleep(20000);
		OK(flags_set(px_path(b, "f"), FS_NODUMP_FL, 0));
		now = px_same_stat("f").st_ctim;
		TRUE(now.tv_sec > was.tv_sec || (now.tv_sec == was.tv_sec && now.tv_nsec > was.tv_nsec), "a flag set through %c moves the ctime that was seen before",
		     'A' + b);
		OK(flags_set(px_path(b, "f"), 0, FS_NODUMP_FL));
	}
	px_as(PX_USER, PX_USER, flags_as_user, none);
	EQ(FS_NODUMP_FL, flags_of(pa("mine")), "flag that the owner set");
	if (px.kind == PX_TESSERA_FS || px.kind == PX_XFS) {
		fd = px_open(pb("d"), O_RDONLY);
		OK(ioctl(fd, FS_IOC_FSGETXATTR, &x));
		x.fsx_projid = 4711;
		x.fsx_xflags |= FS_XFLAG_PROJINHERIT;
		OK(ioctl(fd, FS_IOC_FSSETXATTR, &x));
		px_mkfile(pa("d/child"));
		memset(&x, 0, sizeof(x));
		OK(ioctl(px_open(pb("d/child"), O_RDONLY), FS_IOC_FSGETXATTR, &x));
		EQ(4711, x.fsx_projid, "project of what was made in d");
	}
	if (px.kind == PX_TESSERA_FS) /* what is not kept is not taken */
		FAILS(EOPNOTSUPP, flags_set(pa("f"), FS_COMPR_FL, 0));
}

/* Nothing about it can be changed, through neither mount, by nobody; also by who had it open before. */
static void immutable(void)
{
	struct stat st, now;
	int fd[2];

	px_make(pa("f"), "abc", 3);
	NEED(mkdir(pa("d"), 0755));
	px_mkfile(pa("d/x"));
	fd[0] = px_open(pa("f"), O_RDWR);
	fd[1] = px_open(pb("f"), O_RDWR);
	if (flags_set(pa("f"), FS_IMMUTABLE_FL, 0) && px.local)
		px_skip("no flags of inodes here");
	OK(flags_set(pa("d"), FS_IMMUTABLE_FL, 0));
	st = px_stat(pa("f"));
	for (int b = 0; b < 2; b++) {
		const char *f = px_path(b, "f");

		EQ(FS_IMMUTABLE_FL, flags_of(f), "flags, mount %c", 'A' + b);
		FAILS(EPERM, open(f, O_WRONLY));
		FAILS(EPERM, open(f, O_RDWR | O_TRUNC));
		FAILS(EPERM, truncate(f, 0));
		FAILS(EPERM, chmod(f, 0600));
		FAILS(EPERM, chown(f, 1, 1));
		FAILS(EPERM, utimensat(AT_FDCWD, f, (const struct timespec[2]){{1, 0}, {1, 0}}, 0));
		FAILS(EPERM, unlink(f));
		FAILS(EPERM, rename(f, px_path(b, "g")));
		FAILS(EPERM, link(f, px_path(b, "g")));
		FAILS(EPERM, setxattr(f, "user.a", "x", 1, 0));
		FAILS(EPERM, pwrite(fd[b], "x", 1, 0));
		FAILS(EPERM, fallocate(fd[b], 0, 0, 100));
		TRUE(mkdir(px_path(b, "d/new"), 0755) && (errno == EPERM || errno == EACCES), "a name in an immutable directory is refused");
		FAILS(EPERM, unlink(px_path(b, "d/x")));
		FAILS(EPERM, rmdir(px_path(b, "d")));
	}
	px_content("f", "abc", 3);
	now = px_stat(pb("f"));
	EQ(st.st_ctime, now.st_ctime, "ctime");
	OK(flags_set(pb("f"), 0, FS_IMMUTABLE_FL));
	OK(flags_set(pb("d"), 0, FS_IMMUTABLE_FL));
	EQ(1, pwrite(fd[0], "x", 1, 0), "write when the flag is gone");
	OK(unlink(pb("f")));
	OK(unlink(pa("d/x")));
	OK(rmdir(pb("d")));
}

/* May grow and nothing else; a directory so may get names and lose none. */
static void append_only(void)
{
	const struct timespec one_now[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}}, given[2] = {{.tv_sec = 1}, {.tv_sec = 2}};

	px_make(pa("f"), "abc", 3);
	NEED(mkdir(pa("d"), 0755));
	if (flags_set(pb("f"), FS_APPEND_FL, 0) && px.local)
		px_skip("no flags of inodes here");
	OK(flags_set(pb("d"), FS_APPEND_FL, 0));
	for (int b = 0; b < 2; b++) {
		const char *f = px_path(b, "f");
		int fd;

		FAILS(EPERM, open(f, O_WRONLY));
		FAILS(EPERM, open(f, O_WRONLY | O_APPEND | O_TRUNC));
		FAILS(EPERM, truncate(f, 1));
		FAILS(EPERM, unlink(f));
		FAILS(EPERM, chmod(f, 0600));
		NEED(fd = open(f, O_WRONLY | O_APPEND));
		EQ(1, write(fd, "+", 1), "append, mount %c", 'A' + b);
		close(fd);
		OK(utimensat(AT_FDCWD, f, NULL, 0));
		OK(utimensat(AT_FDCWD, px_path(b, "d"), NULL, 0));
		FAILS(EPERM, utimensat(AT_FDCWD, f, one_now, 0));
		FAILS(EPERM, utimensat(AT_FDCWD, f, given, 0));
		px_mkfile(px_path(b, b ? "d/b" : "d/a"));
		FAILS(EPERM, unlink(px_path(!b, b ? "d/b" : "d/a")));
	}
	px_content("f", "abc++", 5);
	OK(flags_set(pa("f"), 0, FS_APPEND_FL));
	OK(flags_set(pa("d"), 0, FS_APPEND_FL));
	OK(unlink(pb("d/a")));
	OK(unlink(pa("d/b")));
	OK(rmdir(pb("d")));
}

const struct px_test px_perm_tests[] = {
	{"perm.flags", flags_kept, 0, 0},	   {"perm.immutable", immutable, 0, 0}, {"perm.append_only", append_only, 0, 0},
	{"perm.files", bits_of_files, 0, 0},	   {"perm.dirs", bits_of_dirs, 0, 0}, {"perm.at_once", change_counts_at_once, 0, 0},
	{"perm.chmod_chown", chmod_chown, 0, 0},   {"perm.set_id", set_id, 0, 0},	    {"perm.set_id_between", set_id_between, 0, 0},
	{"perm.setgid_dirs", setgid_dirs, 0, 0},   {"perm.sticky", sticky, 0, 0},	    {"perm.access", access_users, 0, 0},
	{"perm.descriptor", descriptor_rights, 0, 0}, {NULL, NULL, 0, 0},
};
