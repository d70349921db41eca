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
	if (setxattr(pa("f"), "user.ten", value, 65536, 0))
		TRUE(errno == ENOSPC || errno == E2BIG, "error of a value of 64 KiB (got %s)", strerrorname_np(errno));
	else
		OK(setxattr(pa("f"), "user.ten", value, 10, 0));
	has("f", "user.ten", value, 10);
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
	{"xattr.sizes", sizes, 0, 0},	{"xattr.many", many, 0, 0},	  {"xattr.spaces", spaces, 0, 0},
	{"xattr.kinds", on_kinds, 0, 0}, {"xattr.capability", capability, 0, 0}, {NULL, NULL, 0, 0},
};
