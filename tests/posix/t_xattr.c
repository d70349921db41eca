/* SPDX-License-Identifier: Apache-2.0 */
/* Topic: extended attributes: set, get, list, remove, flags, limits, name spaces, and on every kind of object. */
#include "px.h"

#include <sys/mman.h>
#include <sys/xattr.h>

/* Through both mounts: the attribute has this value. */
static void has(const char *file, const char *name, const void *want, size_t len)
{
	char *got = malloc(len + 100);

	for (int b = 0; b <= px.two; b++) {
		EQ(len, lgetxattr(px_path(b, file), name, NULL, 0), "length of %s of %s, mount %c", name, file, 'A' + b);
		ssize_t n = lgetxattr(px_path(b, file), name, got, len + 100);
		if (EQ(len, n, "value of %s of %s, mount %c", name, file, 'A' + b))
			SAME_BYTES(want, got, len, "value of %s of %s", name, file);
	}
	free(got);
}

static void hasnt(const char *file, const char *name)
{
	char c;

	for (int b = 0; b <= px.two; b++) {
		FAILS(ENODATA, lgetxattr(px_path(b, file), name, &c, 1));
		FAILS(ENODATA, lgetxattr(px_path(b, file), name, NULL, 0));
	}
}

/* Number of listed names that begin like this, through either mount. */
static unsigned listed(bool b, const char *file, const char *begin)
{
	char list[65536];
	ssize_t n = OK(llistxattr(px_path(b, file), list, sizeof(list)));
	unsigned k = 0;

	for (char *p = list; n > 0 && p < list + n; p += strlen(p) + 1)
		k += !strncmp(p, begin, strlen(begin));
	return k;
}

static void basic(void)
{
	px_make(pa("f"), "data", 4);
	hasnt("f", "user.a");
	EQ(0, listed(true, "f", "user."), "attributes of a new file");
	OK(setxattr(pa("f"), "user.a", "one", 3, 0));
	has("f", "user.a", "one", 3);
	OK(setxattr(pb("f"), "user.a", "another", 7, 0));
	has("f", "user.a", "another", 7);
	OK(setxattr(pb("f"), "user.b", "", 0, 0));
	has("f", "user.b", "", 0);
	OK(setxattr(pa("f"), "user.bin", "\0\xff\0", 3, 0));
	has("f", "user.bin", "\0\xff\0", 3);
	for (int b = 0; b <= px.two; b++)
		EQ(3, listed(b, "f", "user."), "listed attributes, mount %c", 'A' + b);
	OK(removexattr(pb("f"), "user.a"));
	hasnt("f", "user.a");
	FAILS(ENODATA, removexattr(pa("f"), "user.a"));
	has("f", "user.b", "", 0);
	OK(rename(pb("f"), pb("g")));
	has("g", "user.bin", "\0\xff\0", 3);
	px_content("g", "data", 4);
	int fd = px_open(pb("g"), O_RDONLY);
	char got[10];
	OK(fsetxattr(fd, "user.fd", "x", 1, 0));
	EQ(1, fgetxattr(fd, "user.fd", got, 10), "fgetxattr");
	OK(fremovexattr(fd, "user.fd"));
	TRUE(flistxattr(fd, NULL, 0) > 0, "flistxattr");
}

static void flags(void)
{
	px_mkfile(pa("f"));
	FAILS(ENODATA, setxattr(pa("f"), "user.a", "x", 1, XATTR_REPLACE));
	hasnt("f", "user.a");
	OK(setxattr(pa("f"), "user.a", "x", 1, XATTR_CREATE));
	FAILS(EEXIST, setxattr(pb("f"), "user.a", "y", 1, XATTR_CREATE));
	has("f", "user.a", "x", 1);
	OK(setxattr(pb("f"), "user.a", "zz", 2, XATTR_REPLACE));
	has("f", "user.a", "zz", 2);
	FAILS(EINVAL, setxattr(pa("f"), "user.a", "x", 1, 0x40));
	FAILS(ENOENT, setxattr(pa("absent"), "user.a", "x", 1, 0));
	FAILS(ENOENT, getxattr(pa("absent"), "user.a", NULL, 0));
}

static void limits(void)
{
	char name[300], value[70000], got[10];

	px_mkfile(pa("f"));
	memset(name, 'n', sizeof(name));
	memcpy(name, "user.", 5);
	name[255] = 0;
	OK(setxattr(pa("f"), name, "x", 1, 0));
	has("f", name, "x", 1);
	FAILS(ERANGE, getxattr(pa("f"), "", got, 1));
	name[255] = 'n';
	name[256] = 0;
	FAILS(ERANGE, setxattr(pa("f"), name, "x", 1, 0));
	FAILS(ERANGE, getxattr(pa("f"), name, got, 1));
	FAILS(ERANGE, removexattr(pa("f"), name));
	px_fill(value, sizeof(value), 1);
	FAILS(E2BIG, setxattr(pa("f"), "user.big", value, 65537, 0));
	OK(setxattr(pa("f"), "user.ten", value, 10, 0));
	FAILS(ERANGE, getxattr(pb("f"), "user.ten", got, 9));
	EQ(10, getxattr(pb("f"), "user.ten", got, 10), "value of exactly the buffer's size");
	FAILS(ERANGE, listxattr(pb("f"), got, 5));
	/* A value that does not fit leaves the one before. */
	if (px.kind == PX_EXT4 || px.kind == PX_TMPFS || px.kind == PX_OTHER) {
		if (setxattr(pa("f"), "user.ten", value, 65536, 0))
			TRUE(errno == ENOSPC || errno == E2BIG, "error of a value of 64 KiB (got %s)", strerrorname_np(errno));
		else
			OK(setxattr(pa("f"), "user.ten", value, 10, 0));
		has("f", "user.ten", value, 10);
		return;
	}
	OK(setxattr(pa("f"), "user.ten", value, 65536, 0));
	has("f", "user.ten", value, 65536);
	FAILS(E2BIG, setxattr(pb("f"), "user.ten", value, 65537, 0));
	has("f", "user.ten", value, 65536);
}

/* Values of growing size beside inline data: the data must survive the move of either. */
static void sizes(void)
{
	static const size_t lens[] = {1, 100, 255, 256, 1000, 2000, 3000, 3500};
	char data[4096], value[4096], name[16];

	px_fill(data, sizeof(data), 1);
	for (size_t i = 0; i < PX_LEN(lens); i++)
		for (size_t k = 0; k < PX_LEN(lens); k++) {
			snprintf(name, sizeof(name), "f%zu-%zu", i, k);
			px_fill(value, lens[k], (unsigned)k);
			px_make(pa("%s", name), data, lens[i]);
			OK(setxattr(px_path(k % 2, name), "user.v", value, lens[k], 0));
			px_content(name, data, lens[i]);
			has(name, "user.v", value, lens[k]);
			EQ(4096, pwrite(px_open(pb("%s", name), O_WRONLY), data, 4096, 0), "write behind setxattr");
			px_content(name, data, 4096);
			has(name, "user.v", value, lens[k]);
			OK(truncate(pa("%s", name), 10));
			OK(setxattr(pb("%s", name), "user.v", "s", 1, XATTR_REPLACE));
			px_content(name, data, 10);
			has(name, "user.v", "s", 1);
			OK(removexattr(pa("%s", name), "user.v"));
			px_content(name, data, 10);
		}
}

/* As many as fit: ENOSPC, then none of them is damaged, and removal makes room. */
static void many(void)
{
	unsigned n = 0, most = 200;
	char name[32], value[64];

	px_mkfile(pa("f"));
	for (; n < most; n++) {
		snprintf(name, sizeof(name), "user.attr%u", n);
		px_fill(value, sizeof(value), n);
		if (setxattr(px_path(n % 2, "f"), name, value, 1 + n % sizeof(value), 0)) {
			TRUE(errno == ENOSPC || errno == E2BIG, "error of one too many (got %s)", strerrorname_np(errno));
			break;
		}
	}
	TRUE(n >= 40, "attributes that fit beside each other: %u", n);
	for (int b = 0; b <= px.two; b++)
		EQ(n, listed(b, "f", "user.attr"), "listed attributes, mount %c", 'A' + b);
	for (unsigned i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "user.attr%u", i);
		px_fill(value, sizeof(value), i);
		has("f", name, value, 1 + i % sizeof(value));
	}
	for (unsigned i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "user.attr%u", i);
		OK(removexattr(px_path(i % 2, "f"), name));
	}
	for (int b = 0; b <= px.two; b++)
		EQ(0, listed(b, "f", "user."), "attributes left, mount %c", 'A' + b);
}

static const char *name_of(const char *fmt, size_t n) __attribute__((format(printf, 1, 0)));
static const char *name_of(const char *fmt, size_t n)
{
	static char name[256];

	snprintf(name, sizeof(name), fmt, n);
	return name;
}

/* Ext4 without ea_inode and tmpfs have no room for these. */
static bool big_ones(void)
{
	if (px.kind == PX_EXT4 || px.kind == PX_TMPFS || px.kind == PX_OTHER)
		px_skip("attributes of more than a block are not for this file system");
	return true;
}

/* Values up to the largest, many of them beside each other, replaced by each mount in turn by shorter and longer ones; what else
 * the file is stays as it was. */
static void big_values(void)
{
	static const size_t lens[] = {65536, 1, 4096, 40000, 1024, 4025, 65535, 0, 10000, 1025, 60000, 200};
	static char value[65536];
	char data[3000], name[32];

	big_ones();
	px_fill(data, sizeof(data), 3);
	px_make(pa("f"), data, sizeof(data));
	for (unsigned round = 0; round < 4; round++) {
		for (size_t i = 0; i < PX_LEN(lens); i++) {
			size_t len = lens[(i + round * 5) % PX_LEN(lens)];

			snprintf(name, sizeof(name), "user.big%zu", i);
			px_fill(value, len, (unsigned)(i + round));
			OK(setxattr(px_path((i + round) % 2, "f"), name, value, len, round ? XATTR_REPLACE : XATTR_CREATE));
			has("f", name, value, len);
		}
		for (size_t i = 0; i < PX_LEN(lens); i++) {
			size_t len = lens[(i + round * 5) % PX_LEN(lens)];

			snprintf(name, sizeof(name), "user.big%zu", i);
			px_fill(value, len, (unsigned)(i + round));
			has("f", name, value, len);
		}
	}
	px_content("f", data, sizeof(data));
	EQ(0, chmod(pb("f"), 0640), "chmod");
	EQ(0640, px_stat(pa("f")).st_mode & 07777, "mode beside long attributes");
	OK(rename(pb("f"), pb("g")));
	for (size_t i = 0; i < PX_LEN(lens); i++)
		OK(removexattr(px_path(i % 2, "g"), name_of("user.big%zu", i)));
	EQ(0, listed(true, "g", "user."), "attributes left");
	px_content("g", data, sizeof(data));
}

/* A list as long as there can be one, on a file and on a directory with an ACL of its own. */
static void long_list(void)
{
	char name[256], *list = malloc(65536);
	unsigned n = 0;
	size_t all = 0;

	big_ones();
	NEED(mkdir(pa("d"), 0755));
	px_mkfile(pa("d/f"));
	for (; all + 250 <= 60000; n++) { /* what is listed besides (security.*) must fit, too */
		snprintf(name, sizeof(name), "user.%0*u", n % 3 ? 20 : 240, n);
		OK(setxattr(px_path(n % 2, n % 5 ? "d" : "d/f"), name, &n, sizeof(n), XATTR_CREATE));
		all += n % 5 ? strlen(name) + 1 : 0;
	}
	for (int b = 0; b <= px.two; b++)
		EQ(n - (n + 4) / 5, listed(b, "d", "user."), "attributes of d, mount %c", 'A' + b);
	EQ((n + 4) / 5, listed(px.two, "d/f", "user."), "attributes of d/f");
	for (unsigned i = 0; i < n; i += 7) {
		snprintf(name, sizeof(name), "user.%0*u", i % 3 ? 20 : 240, i);
		has(i % 5 ? "d" : "d/f", name, &i, sizeof(i));
	}
	if (px.kind == PX_TESSERA_FS) { /* more than can be listed is refused, and what was there can be */
		unsigned more = 0;

		while (more < 100 && !setxattr(pa("d"), name_of("user.%0240zu", 100000 + (size_t)more), "x", 1, 0))
			more++;
		EQ(ENOSPC, errno, "error of one too many (errno)");
		TRUE(llistxattr(pb("d"), list, 65536) > 60000, "length of the longest list");
	}
	px_mkfile(pb("d/g"));
	OK(unlink(pa("d/g")));
	for (unsigned i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "user.%0*u", i % 3 ? 20 : 240, i);
		OK(removexattr(px_path(i % 2, i % 5 ? "d" : "d/f"), name));
	}
	EQ(0, listed(px.two, "d/f", "user."), "attributes left of d/f");
	OK(unlink(pb("d/f")));
	OK(rmdir(pa("d")));
	free(list);
}

/* Not where a security module of the kernel answers for all (bpf, before 6.2): then a file in memory can be given one, too. */
static bool security_guarded(void)
{
	int fd = memfd_create("guarded", MFD_CLOEXEC);
	bool is = fd < 0 || fsetxattr(fd, "security.x", "y", 1, 0) < 0;

	if (fd >= 0)
		close(fd);
	return is;
}

static void as_user(void *arg)
{
	char got[8];

	(void)arg;
	FAILS(EPERM, setxattr(pa("f"), "trusted.x", "y", 1, 0));
	FAILS(ENODATA, getxattr(pa("f"), "trusted.t", got, 8));
	if (security_guarded())
		FAILS(EPERM, setxattr(pa("f"), "security.x", "y", 1, 0));
	EQ(0, listed(false, "f", "trusted."), "trusted attributes listed to a user");
	EQ(0, listed(px.two, "f", "trusted."), "trusted attributes listed to a user");
	FAILS(EACCES, setxattr(pa("f"), "user.x", "y", 1, 0));
	EQ(1, getxattr(pa("f"), "user.u", got, 8), "user attribute of a readable file");
	FAILS(EACCES, getxattr(pa("secret"), "user.u", got, 8));
	OK(setxattr(pb("mine"), "user.x", "y", 1, 0));
	FAILS(EPERM, setxattr(pb("sticky"), "user.x", "y", 1, 0));
}

static void spaces(void)
{
	char got[8];

	px_mkfile(pa("f"));
	px_mkfile(pa("secret"));
	px_mkfile(pa("mine"));
	NEED(mkdir(pa("sticky"), 0777));
	OK(chmod(pa("sticky"), 01777));
	OK(chmod(pa("secret"), 0600));
	OK(chown(pa("mine"), PX_USER, PX_USER));
	OK(setxattr(pa("f"), "trusted.t", "1", 1, 0));
	OK(setxattr(pa("f"), "user.u", "2", 1, 0));
	OK(setxattr(pa("secret"), "user.u", "2", 1, 0));
	OK(setxattr(pa("f"), "security.s", "3", 1, 0));
	has("f", "trusted.t", "1", 1);
	has("f", "security.s", "3", 1);
	FAILS(EOPNOTSUPP, setxattr(pa("f"), "foo.x", "y", 1, 0));
	FAILS(EOPNOTSUPP, getxattr(pa("f"), "foo.x", got, 8));
	FAILS(EOPNOTSUPP, setxattr(pa("f"), "noprefix", "y", 1, 0));
	TRUE(setxattr(pa("f"), "user.", "y", 1, 0) < 0, "a prefix alone is refused");
	px_as(PX_USER, PX_USER, as_user, NULL);
}

static void on_kinds(void)
{
	static const char *const others[] = {"l", "p", "c"};
	char got[8];

	NEED(mkdir(pa("d"), 0755));
	NEED(symlink("nowhere", pa("l")));
	NEED(mkfifo(pa("p"), 0644));
	NEED(mknod(pa("c"), S_IFCHR | 0644, 0x103));
	OK(setxattr(pa("d"), "user.a", "dir", 3, 0));
	has("d", "user.a", "dir", 3);
	px_mkfile(pa("d/x"));
	OK(unlink(pb("d/x")));
	has("d", "user.a", "dir", 3);
	for (size_t i = 0; i < PX_LEN(others); i++) {
		FAILS(EPERM, lsetxattr(pa("%s", others[i]), "user.a", "x", 1, 0));
		FAILS(ENODATA, lgetxattr(pa("%s", others[i]), "user.a", got, 8));
		OK(lsetxattr(pa("%s", others[i]), "trusted.a", "x", 1, 0));
		has(others[i], "trusted.a", "x", 1);
		OK(lremovexattr(pb("%s", others[i]), "trusted.a"));
		hasnt(others[i], "trusted.a");
	}
	EQ(7, readlink(pb("l"), got, 8), "symlink after attributes");
}

/* File capabilities are an attribute that a write or chown takes away. */
static void capability(void)
{
	static const unsigned char cap[20] = {1, 0, 0, 2, 0, 4};
	char got[64];

	px_make(pa("f"), "abc", 3);
	if (setxattr(pa("f"), "security.capability", cap, sizeof(cap), 0) && px.local)
		px_skip("no file capabilities here");
	EQ(20, getxattr(pb("f"), "security.capability", got, sizeof(got)), "length of the capability");
	EQ(1, pwrite(px_open(pa("f"), O_WRONLY), "x", 1, 0), "write");
	FAILS(ENODATA, getxattr(pb("f"), "security.capability", got, sizeof(got)));
	OK(setxattr(pb("f"), "security.capability", cap, sizeof(cap), 0));
	OK(chown(pa("f"), 5, 5));
	FAILS(ENODATA, getxattr(pb("f"), "security.capability", got, sizeof(got)));
	OK(setxattr(pb("f"), "security.capability", cap, sizeof(cap), 0));
	OK(truncate(pa("f"), 1));
	FAILS(ENODATA, getxattr(pb("f"), "security.capability", got, sizeof(got)));
}

const struct px_test px_xattr_tests[] = {
	{"xattr.basic", basic, 0, 0},	{"xattr.flags", flags, 0, 0},	  {"xattr.limits", limits, 0, 0},
	{"xattr.sizes", sizes, 0, 0},	{"xattr.many", many, 0, 0}, {"xattr.big_values", big_values, 0, 0}, {"xattr.long_list", long_list, 0, 0},	  {"xattr.spaces", spaces, 0, 0},
	{"xattr.kinds", on_kinds, 0, 0}, {"xattr.capability", capability, 0, 0}, {NULL, NULL, 0, 0},
};
