/* SPDX-License-Identifier: Apache-2.0 */
/* Topic: POSIX ACLs: kept, enforced through both mounts at once, one with the permission bits, inherited. */
#include "px.h"

#include <sys/xattr.h>

#define ACCESS "system.posix_acl_access"
#define DEFAULT "system.posix_acl_default"
#define NOBODY 0xffffffffu

enum { USER_OBJ = 1, USER = 2, GROUP_OBJ = 4, GROUP = 8, MASK = 16, OTHER = 32 };

struct entry {
	uint16_t tag, perm;
	uint32_t id;
};
struct acl {
	uint32_t version;
	struct entry e[8];
};

static size_t acl_bytes(size_t n)
{
	return sizeof(uint32_t) + n * sizeof(struct entry);
}

/* The usual six: owner, PX_USER, owning group, PX_USER2's group, mask, others. */
static size_t acl_make(struct acl *a, unsigned owner, unsigned user, unsigned group, unsigned group2, unsigned mask, unsigned other)
{
	*a = (struct acl){2, {{USER_OBJ, (uint16_t)owner, NOBODY}, {USER, (uint16_t)user, PX_USER}, {GROUP_OBJ, (uint16_t)group, NOBODY},
			      {GROUP, (uint16_t)group2, PX_USER2}, {MASK, (uint16_t)mask, NOBODY}, {OTHER, (uint16_t)other, NOBODY}}};
	return acl_bytes(6);
}

static unsigned acl_perm(const char *path, const char *name, uint16_t tag)
{
	struct acl a;
	ssize_t n = OK(getxattr(path, name, &a, sizeof(a)));

	for (size_t i = 0; n > 0 && acl_bytes(i) < (size_t)n; i++)
		if (a.e[i].tag == tag)
			return a.e[i].perm;
	return 99;
}

struct want {
	const char *path;
	int flags, err;
};

static void opens(void *arg)
{
	const struct want *w = arg;
	int fd = open(w->path, w->flags), e = errno;

	EQ(w->err, fd >= 0 ? 0 : e, "open of %s with flags %d as user %u", w->path, w->flags, geteuid());
}

/* As PX_USER, and as somebody of PX_USER2's group, through both mounts. */
static void user_opens(const char *name, int flags, int err)
{
	for (int b = 0; b <= px.two; b++)
		px_as(PX_USER, PX_USER, opens, &(struct want){px_path(b, name), flags, err});
}
static void group_opens(const char *name, int flags, int err)
{
	for (int b = 0; b <= px.two; b++)
		px_as(PX_USER + 7, PX_USER2, opens, &(struct want){px_path(b, name), flags, err});
}

/* What is set or changed through one mount counts on the other at once, though both have looked before. */
static void enforced(void)
{
	struct acl a;

	px_make(pa("f"), "x", 1);
	OK(chmod(pa("f"), 0600));
	for (int i = 0; i < 10; i++) {
		bool b = i % 2;
		user_opens("f", O_RDONLY, EACCES);
		OK(setxattr(px_path(b, "f"), ACCESS, &a, acl_make(&a, 6, 4, 0, 6, 6, 0), 0));
		user_opens("f", O_RDONLY, 0);
		user_opens("f", O_RDWR, EACCES);
		group_opens("f", O_RDWR, 0);
		EQ(0660, px_same_stat("f").st_mode & 0777, "group bits show the mask");
		OK(chmod(px_path(!b, "f"), 0640));
		EQ(4, acl_perm(pa("f"), ACCESS, MASK), "mask behind chmod 0640, mount A");
		EQ(4, acl_perm(pb("f"), ACCESS, MASK), "mask behind chmod 0640, mount B");
		group_opens("f", O_RDWR, EACCES);
		group_opens("f", O_RDONLY, 0);
		OK(removexattr(px_path(!b, "f"), ACCESS));
		OK(chmod(px_path(b, "f"), 0600));
		group_opens("f", O_RDONLY, EACCES);
	}
}

/* A directory's search permission by ACL, on the way to a file. */
static void on_the_way(void)
{
	struct acl a;

	NEED(mkdir(pa("d"), 0700));
	px_make(pa("d/f"), "x", 1);
	user_opens("d/f", O_RDONLY, EACCES);
	OK(setxattr(pb("d"), ACCESS, &a, acl_make(&a, 7, 1, 0, 0, 1, 0), 0));
	user_opens("d/f", O_RDONLY, 0);
	user_opens("d", O_RDONLY | O_DIRECTORY, EACCES);
	group_opens("d/f", O_RDONLY, EACCES);
	OK(removexattr(pa("d"), ACCESS));
	OK(chmod(pa("d"), 0700));
	user_opens("d/f", O_RDONLY, EACCES);
}

/* New objects take the default ACL instead of umask, whoever makes them and through whichever mount. */
static void inherited(void)
{
	struct acl a;

	NEED(mkdir(pa("d"), 0755));
	OK(setxattr(pa("d"), DEFAULT, &a, acl_make(&a, 7, 6, 5, 0, 7, 0), 0));
	umask(077);
	for (int b = 0; b <= 1; b++) {
		char name[16];
		snprintf(name, sizeof(name), "d/f%d", b);
		OK(close((int)NEED(open(px_path(b, name), O_CREAT | O_WRONLY, 0666))));
		EQ(0660, px_same_stat(name).st_mode & 0777, "%s: mode of a file made with 0666 under umask 077", name);
		user_opens(name, O_RDWR, 0);
		EQ(6, acl_perm(pa("%s", name), ACCESS, USER), "%s: what the user got", name);
		FAILS(ENODATA, getxattr(pa("%s", name), DEFAULT, NULL, 0));
		snprintf(name, sizeof(name), "d/d%d", b);
		OK(mkdir(px_path(b, name), 0777));
		EQ(0770, px_same_stat(name).st_mode & 0777, "%s: mode of a directory made with 0777", name);
		EQ(6, acl_perm(px_path(!b, name), DEFAULT, USER), "%s: the default goes on", name);
		snprintf(name, sizeof(name), "d/p%d", b);
		OK(mkfifo(px_path(b, name), 0666));
		EQ(0660, px_same_stat(name).st_mode & 0777, "%s: mode of a fifo", name);
		snprintf(name, sizeof(name), "g%d", b);
		OK(close((int)NEED(open(px_path(b, name), O_CREAT | O_WRONLY, 0666))));
		EQ(0600, px_same_stat(name).st_mode & 0777, "%s: mode without a default ACL", name);
	}
	umask(022);
	OK(removexattr(pb("d"), DEFAULT));
	OK(close((int)NEED(open(pa("d/last"), O_CREAT | O_WRONLY, 0666))));
	EQ(0644, px_same_stat("d/last").st_mode & 0777, "mode behind the removal of the default ACL");
}

/* An ACL that says no more than the bits becomes the bits. */
static void minimal(void)
{
	struct acl a = {2, {{USER_OBJ, 6, NOBODY}, {GROUP_OBJ, 4, NOBODY}, {OTHER, 1, NOBODY}}};

	px_mkfile(pa("f"));
	OK(setxattr(pa("f"), ACCESS, &a, acl_bytes(3), 0));
	EQ(0641, px_same_stat("f").st_mode & 0777, "mode");
	FAILS(ENODATA, getxattr(pb("f"), ACCESS, NULL, 0));
}

static void refused(void)
{
	struct acl a, bad = {2, {{USER_OBJ, 6, NOBODY}, {USER, 4, PX_USER}, {GROUP_OBJ, 4, NOBODY}, {OTHER, 0, NOBODY}}};
	size_t len = acl_make(&a, 6, 4, 4, 4, 4, 0);

	px_mkfile(pa("f"));
	OK(symlink("f", pa("l")));
	FAILS(EINVAL, setxattr(pa("f"), ACCESS, &bad, acl_bytes(4), 0)); /* no mask */
	a.version = 3;
	FAILS(EOPNOTSUPP, setxattr(pa("f"), ACCESS, &a, len, 0));
	a.version = 2;
	FAILS(EINVAL, setxattr(pa("f"), ACCESS, &a, len - 1, 0));
	FAILS(EACCES, setxattr(pa("f"), DEFAULT, &a, len, 0));
	FAILS(EOPNOTSUPP, lsetxattr(pa("l"), ACCESS, &a, len, 0));
	EQ(0644, px_same_stat("f").st_mode & 0777, "mode behind refusals");
	FAILS(ENODATA, getxattr(pb("f"), ACCESS, NULL, 0));
}

static void sets(void *arg)
{
	struct acl a;

	OK(setxattr(arg, ACCESS, &a, acl_make(&a, 7, 5, 5, 5, 5, 5), 0));
}
static void is_refused(void *arg)
{
	struct acl a;

	FAILS(EPERM, setxattr(arg, ACCESS, &a, acl_make(&a, 7, 5, 5, 5, 5, 5), 0));
}

/* Only the owner may; one who is not of the file's group loses set-group-id by it. */
static void whose(void)
{
	px_mkfile(pa("f"));
	px_as(PX_USER, PX_USER, is_refused, (void *)pb("f"));
	OK(chown(pa("f"), PX_USER, PX_USER2));
	OK(chmod(pa("f"), 02755));
	px_same_stat("f"); /* see diff.owner_as_known */
	px_as(PX_USER, PX_USER, sets, (void *)pb("f"));
	EQ(0755, px_same_stat("f").st_mode & 07777, "mode of a set-group-id file of another group");
	OK(chown(pa("f"), PX_USER, PX_USER));
	OK(chmod(pa("f"), 02755));
	px_same_stat("f");
	px_as(PX_USER, PX_USER, sets, (void *)pb("f"));
	EQ(02755, px_same_stat("f").st_mode & 07777, "mode of a set-group-id file of the own group");
}

const struct px_test px_acl_tests[] = {
	{"acl.enforced", enforced, 0, 0}, {"acl.on_the_way", on_the_way, 0, 0}, {"acl.inherited", inherited, 0, 0},
	{"acl.minimal", minimal, 0, 0},	  {"acl.refused", refused, 0, 0},	{"acl.whose", whose, 0, 0},
	{NULL, NULL, 0, 0},
};
