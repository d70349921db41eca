/* SPDX-License-Identifier: Apache-2.0 */
/* Job: operations on names on one mounted node: what they return, what they leave behind, many at once, after a remount and
 * after a power failure. A walk over the whole tree compares link counts, sizes and parents with what is there. */
#include "fs_harness.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>

#define ROOT FS_ROOT_INO
static const struct fs_cred me = {.uid = 1000, .gid = 100, .umask = 022};
static struct fsh *h;
static struct fs *fs;

/* ---- short words --------------------------------------------------------------------------------------------------- */
static struct fs_attr at;
static int mk(uint64_t dir, const char *name, uint32_t mode)
{
	return fs_mknod(fs, &me, dir, name, strlen(name), mode, 0, "target", &at);
}
static uint64_t mkdir_(uint64_t dir, const char *name)
{
	assert_int_equal(mk(dir, name, S_IFDIR | 0777), 0);
	return at.ino;
}
static uint64_t mkfile(uint64_t dir, const char *name)
{
	assert_int_equal(mk(dir, name, S_IFREG | 0666), 0);
	return at.ino;
}
static int look(uint64_t dir, const char *name)
{
	return fs_lookup(fs, &me, dir, name, strlen(name), &at);
}
static uint64_t ino_of(uint64_t dir, const char *name)
{
	struct fs_attr a; /* its own: fibers share at */

	return fs_lookup(fs, &me, dir, name, strlen(name), &a) ? 0 : a.ino;
}
static int rm(uint64_t dir, const char *name)
{
	return fs_unlink(fs, &me, dir, name, strlen(name));
}
static int rmdir_(uint64_t dir, const char *name)
{
	return fs_rmdir(fs, &me, dir, name, strlen(name));
}
static int mv(uint64_t dir, const char *name, uint64_t to, const char *newname, unsigned flags)
{
	return fs_rename(fs, &me, dir, name, strlen(name), to, newname, strlen(newname), flags);
}
static struct fs_attr *stat_(uint64_t ino)
{
	assert_int_equal(fs_getattr(fs, &me, ino, &at), 0);
	return &at;
}

/* ---- the walk ------------------------------------------------------------------------------------------------------ */
#define MAX_INO 65536
static uint32_t names_of[MAX_INO], links_of[MAX_INO];
static unsigned walked;
struct one_dir {
	uint64_t ino[4096], cookie, parent;
	unsigned type[4096], n, dots;
	char name[4096][32];
};
static bool walk_emit(void *arg, const char *name, size_t len, uint64_t ino, unsigned type, uint64_t off, const struct fs_attr *a)
{
	struct one_dir *d = arg;

	if (d->n == 4096)
		return false;
	assert_true(off > d->cookie);
	d->cookie = off;
	if (len <= 2 && name[0] == '.') {
		d->dots++;
		d->parent = ino;
		return true;
	}
	if (a)
		assert_true(a->ino == ino);
	memcpy(d->name[d->n], name, TS_MIN(len, 31u));
	d->type[d->n] = type;
	d->ino[d->n++] = ino;
	return true;
}

static void walk(uint64_t dir, uint64_t parent)
{
	struct one_dir *d = ts_xalloc(sizeof(*d));
	unsigned subdirs = 0;
	struct fs_attr a;

	walked++;
	assert_int_equal(fs_readdir(fs, &me, dir, 0, true, walk_emit, d), 0);
	assert_int_equal(d->dots, 2);
	assert_int_equal(d->parent, parent);
	for (unsigned i = 0; i < d->n; i++) {
		assert_int_equal(fs_lookup(fs, &me, dir, d->name[i], strlen(d->name[i]), &a), 0);
		assert_int_equal(a.ino, d->ino[i]);
		assert_int_equal(IFTODT(a.mode), d->type[i]);
		assert_true(a.ino < MAX_INO);
		if (S_ISDIR(a.mode)) {
			assert_int_equal(names_of[a.ino]++, 0); /* one name only, so no loop */
			walk(a.ino, dir);
			subdirs++;
		} else {
			names_of[a.ino]++;
			links_of[a.ino] = a.nlink;
		}
	}
	assert_int_equal(fs_getattr(fs, &me, dir, &a), 0);
	assert_int_equal(a.size, d->n);
	assert_int_equal(a.nlink, 2 + subdirs);
	ts_free(d);
}

static void walk_all(void)
{
	memset(names_of, 0, sizeof(names_of));
	memset(links_of, 0, sizeof(links_of));
	walked = 0;
	walk(ROOT, ROOT);
	for (unsigned i = 0; i < MAX_INO; i++)
		if (links_of[i])
			assert_int_equal(links_of[i], names_of[i]);
}

/* ---- bodies, run on a fiber of a mounted node ---------------------------------------------------------------------- */
static void make_and_look_up(void *arg)
{
	char name[300];
	uint64_t d = mkdir_(ROOT, "dir"), f;

	assert_true(at.nlink == 2 && at.mode == (S_IFDIR | 0755) && at.uid == 1000 && at.gid == 100 && at.size == 0);
	assert_int_equal(stat_(ROOT)->nlink, 3);
	assert_int_equal(stat_(ROOT)->size, 1);
	f = mkfile(d, "file");
	assert_true(at.nlink == 1 && at.mode == (S_IFREG | 0644) && at.entry_cacheable);
	assert_int_equal(mk(d, "file", S_IFREG | 0600), -EEXIST);
	assert_int_equal(mk(d, "link", S_IFLNK | 0600), 0);
	assert_true(at.mode == (S_IFLNK | 0777) && at.size == 6);
	assert_int_equal(fs_readlink(fs, &me, at.ino, name, sizeof(name)), 6);
	assert_memory_equal(name, "target", 6);
	assert_int_equal(fs_mknod(fs, &me, d, "dev", 3, S_IFCHR | 0600, 0x1234, NULL, &at), 0);
	assert_int_equal(ino_of(d, "dev"), at.ino);
	assert_int_equal(look(d, "dev"), 0);
	assert_int_equal(at.rdev, 0x1234);
	assert_int_equal(mk(d, "fifo", S_IFIFO | 0600), 0);
	assert_int_equal(look(d, "file"), 0);
	assert_true(at.ino == f && at.cacheable && at.entry_cacheable);
	assert_int_equal(ino_of(d, "."), d);
	assert_int_equal(ino_of(d, ".."), ROOT);
	assert_int_equal(ino_of(ROOT, ".."), ROOT);
	assert_int_equal(look(d, "none"), -ENOENT);
	assert_int_equal(look(f, "x"), -ENOTDIR);
	assert_int_equal(mk(f, "x", S_IFREG), -ENOTDIR);
	assert_int_equal(look(f + 100, "x"), -ESTALE);
	memset(name, 'n', sizeof(name));
	assert_int_equal(fs_lookup(fs, &me, d, name, 256, &at), -ENAMETOOLONG);
	assert_int_equal(fs_lookup(fs, &me, d, name, 255, &at), -ENOENT);
	assert_int_equal(fs_lookup(fs, &me, d, "a/b", 3, &at), -EINVAL);
	assert_int_equal(mk(d, ".", S_IFDIR), -EEXIST);
	assert_int_equal(mk(d, "x", 0), -EINVAL);
	walk_all();
	assert_int_equal(walked, 2);
}

static void long_target(void *arg)
{
	static const size_t lens[] = {3852, 3853, 3854, 3901, 4094, 4095};
	const struct fs_cred root = {0};
	char target[5000], back[5000], name[8];

	for (size_t i = 0; i < sizeof(target); i++)
		target[i] = (char)('a' + i % 23);
	target[4096] = 0;
	assert_int_equal(fs_mknod(fs, &me, ROOT, "l", 1, S_IFLNK, 0, target, &at), -ENAMETOOLONG);
	for (size_t i = 0; i < TS_ARRAY_LEN(lens); i++) {
		char was = target[lens[i]];

		target[lens[i]] = 0;
		snprintf(name, sizeof(name), "l%zu", i);
		assert_int_equal(fs_mknod(fs, &me, ROOT, name, strlen(name), S_IFLNK, 0, target, &at), 0);
		assert_int_equal(at.size, lens[i]);
		assert_int_equal(fs_setxattr(fs, &root, at.ino, "trusted.x", "value", 5, 0), 0);
		assert_int_equal(fs_readlink(fs, &me, at.ino, back, sizeof(back)), lens[i]);
		assert_memory_equal(back, target, lens[i]);
		assert_int_equal(fs_readlink(fs, &me, at.ino, back, 3860), TS_MIN(lens[i], (size_t)3860));
		assert_int_equal(fs_listxattr(fs, &root, at.ino, back, sizeof(back)), 10);
		assert_int_equal(fs_getxattr(fs, &root, at.ino, FS_XATTR_TARGET, back, sizeof(back)), -EOPNOTSUPP);
		assert_int_equal(fs_removexattr(fs, &root, at.ino, FS_XATTR_TARGET), -EOPNOTSUPP);
		assert_int_equal(fs_removexattr(fs, &root, at.ino, "trusted.x"), 0);
		assert_int_equal(fs_readlink(fs, &me, at.ino, back, sizeof(back)), lens[i]);
		assert_memory_equal(back, target, lens[i]);
		assert_int_equal(at.blocks512, lens[i] > FS_TARGET_INLINE ? 8 : 0);
		assert_int_equal(fs_unlink(fs, &me, ROOT, name, strlen(name)), 0);
		target[lens[i]] = was;
	}
	assert_int_equal(fs_mknod(fs, &me, ROOT, "m", 1, S_IFLNK, 0, "", &at), -ENOENT);
}

static uint64_t free_inodes(uint64_t *blocks)
{
	struct fs_room room;

	assert_int_equal(fs_alloc_statfs(fs, &room), 0);
	*blocks = room.free;
	return room.free_inodes;
}

static void remove_names(void *arg)
{
	uint64_t d = mkdir_(ROOT, "dir"), e = mkdir_(d, "sub"), f = mkfile(e, "file");

	assert_int_equal(rm(ROOT, "dir"), -EISDIR);
	assert_int_equal(rmdir_(e, "file"), -ENOTDIR);
	assert_int_equal(rmdir_(ROOT, "dir"), -ENOTEMPTY);
	assert_int_equal(rmdir_(d, "sub"), -ENOTEMPTY);
	assert_int_equal(rm(e, "none"), -ENOENT);
	assert_int_equal(rmdir_(e, "."), -EINVAL);
	assert_int_equal(rmdir_(e, ".."), -ENOTEMPTY);
	assert_int_equal(fs_link(fs, &me, f, d, "second", 6, &at), 0);
	assert_true(at.nlink == 2 && at.ino == f);
	assert_int_equal(fs_link(fs, &me, f, d, "second", 6, &at), -EEXIST);
	assert_int_equal(fs_link(fs, &me, e, d, "third", 5, &at), -EPERM);
	walk_all();
	assert_int_equal(rm(e, "file"), 0);
	assert_int_equal(stat_(f)->nlink, 1);
	assert_int_equal(stat_(d)->nlink, 3);
	assert_int_equal(rmdir_(d, "sub"), 0);
	assert_int_equal(stat_(d)->nlink, 2);
	/* Dead, but perhaps not yet freed: nothing can be put into it. */
	assert_true(mk(e, "late", S_IFREG) == -ENOENT || mk(e, "late", S_IFREG) == -ESTALE);
	assert_int_equal(rm(d, "second"), 0);
	assert_int_equal(rmdir_(ROOT, "dir"), 0);
	walk_all();
	assert_int_equal(walked, 1);
}

/* Everything made and removed: the space comes back. */
static void space_comes_back(void *arg)
{
	uint64_t subs, after, inodes, d = mkdir_(ROOT, "keep");
	char name[32];

	ts_sleep_until(ts_exec_now(h->x) + 30 * TS_NS_PER_S);
	inodes = free_inodes(&subs);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 3000; i++) {
			sprintf(name, "a-name-of-a-file-%d", i);
			mkfile(d, name);
		}
		assert_true(stat_(d)->blocks512 > 8);
		for (int i = 0; i < 3000; i++) {
			sprintf(name, "a-name-of-a-file-%d", i * 7 % 3000);
			assert_int_equal(rm(d, name), 0);
		}
		assert_int_equal(stat_(d)->blocks512, 0);
		ts_sleep_until(ts_exec_now(h->x) + 60 * TS_NS_PER_S);
	}
	assert_true(free_inodes(&after) >= inodes);
	/* Segments of inodes stay. */
	assert_true(after + 8 * FS_SEG_INODES >= subs);
	walk_all();
}

/* What the mount still knows is not freed, and a request that means another generation of a number does not get this one. */
static uint64_t known_ino, meant_ino;
static uint32_t meant_gen;

static bool is_known(void *arg, uint64_t ino, uint32_t gen)
{
	return ino == known_ino;
}

static bool is_stale(void *arg, uint64_t ino, uint32_t gen)
{
	return ino == meant_ino && gen != meant_gen;
}

static void known_elsewhere(void *arg)
{
	uint64_t d = mkdir_(ROOT, "dir"), f = mkfile(ROOT, "file");
	uint32_t gen = at.gen;

	fs->args.up.known = is_known;
	fs->args.up.stale = is_stale;
	known_ino = f;
	assert_int_equal(rm(ROOT, "file"), 0);
	ts_sleep_until(ts_exec_now(h->x) + 60 * TS_NS_PER_S);
	assert_int_equal(fs_getattr(fs, &me, f, &at), 0);
	assert_int_equal(at.nlink, 0);
	assert_int_equal(at.gen, gen);
	known_ino = 0;
	fs_forgotten(fs, f);
	ts_sleep_until(ts_exec_now(h->x) + TS_NS_PER_S / 2);
	assert_int_equal(fs_getattr(fs, &me, f, &at), -ESTALE);
	known_ino = d; /* forgotten without a word: found out all the same */
	assert_int_equal(rmdir_(ROOT, "dir"), 0);
	ts_sleep_until(ts_exec_now(h->x) + 60 * TS_NS_PER_S);
	assert_int_equal(look(d, "x"), -ENOENT);
	known_ino = 0;
	ts_sleep_until(ts_exec_now(h->x) + 60 * TS_NS_PER_S);
	assert_int_equal(look(d, "x"), -ESTALE);

	d = mkdir_(ROOT, "again");
	meant_ino = d;
	meant_gen = at.gen;
	mkfile(d, "x");
	meant_gen++;
	assert_int_equal(look(d, "x"), -ESTALE);
	assert_int_equal(mk(d, "y", S_IFREG), -ESTALE);
	assert_int_equal(rm(d, "x"), -ESTALE);
	assert_int_equal(fs_getattr(fs, &me, d, &at), -ESTALE);
	meant_ino = 0;
	assert_int_equal(look(d, "x"), 0);
	assert_int_equal(rm(d, "x"), 0);
	assert_int_equal(rmdir_(ROOT, "again"), 0);
	fs->args.up.known = NULL;
	fs->args.up.stale = NULL;
	walk_all();
}

/* A hold is an open file for the reaper. */
static void holds(void *arg)
{
	struct fs_hold hold = {0}, none = {0};
	uint64_t d = mkdir_(ROOT, "dir"), f = mkfile(d, "file");

	assert_int_equal(fs_lookup_hold(fs, &me, ROOT, "dir", 3, &at, &none), 0);
	assert_int_equal(fs_lookup_hold(fs, &me, d, "none", 4, &at, &none), -ENOENT);
	assert_int_equal(fs_hold_ino(&none), 0);
	fs_hold_drop(fs, &none);
	assert_int_equal(fs_lookup_hold(fs, &me, d, "file", 4, &at, &hold), 0);
	assert_true(at.ino == f && fs_hold_ino(&hold) == f);
	assert_int_equal(rm(d, "file"), 0);
	ts_sleep_until(ts_exec_now(h->x) + 60 * TS_NS_PER_S);
	assert_int_equal(stat_(f)->nlink, 0);
	fs_hold_drop(fs, &hold);
	ts_sleep_until(ts_exec_now(h->x) + 60 * TS_NS_PER_S);
	assert_int_equal(fs_getattr(fs, &me, f, &at), -ESTALE);
	walk_all();
}

static void rename_rules(void *arg)
{
	uint64_t a = mkdir_(ROOT, "a"), b = mkdir_(ROOT, "b"), c = mkdir_(a, "c"), d = mkdir_(c, "d"), f = mkfile(a, "f"), g = mkfile(b, "g");

	assert_int_equal(mv(a, "none", b, "x", 0), -ENOENT);
	assert_int_equal(mv(ROOT, "a", d, "x", 0), -EINVAL);
	assert_int_equal(mv(ROOT, "a", a, "x", 0), -EINVAL);
	assert_int_equal(mv(ROOT, "a", c, "d", 0), -EINVAL);
	assert_int_equal(mv(c, "d", ROOT, "a", 0), -ENOTEMPTY); /* onto its own ancestor */
	assert_int_equal(mv(a, "f", ROOT, "b", 0), -EISDIR);
	assert_int_equal(mv(a, "c", b, "g", 0), -ENOTDIR);
	assert_int_equal(mv(a, "f", b, "g", FS_RENAME_NOREPLACE), -EEXIST);
	assert_int_equal(mv(a, "f", b, "h", FS_RENAME_EXCHANGE), -ENOENT);
	assert_int_equal(mv(a, "f", b, "h", FS_RENAME_EXCHANGE | FS_RENAME_NOREPLACE), -EINVAL);
	assert_int_equal(mv(a, ".", b, "h", 0), -EBUSY);
	assert_int_equal(mv(a, "f", a, "f", 0), 0);
	walk_all();
	assert_int_equal(mv(a, "f", a, "f2", 0), 0); /* within */
	assert_int_equal(ino_of(a, "f2"), f);
	assert_int_equal(mv(a, "f2", b, "g", 0), 0); /* over another */
	assert_int_equal(ino_of(b, "g"), f);
	assert_int_equal(look(a, "f2"), -ENOENT);
	assert_true(fs_getattr(fs, &me, g, &at) == -ESTALE || at.nlink == 0);
	assert_int_equal(mv(a, "c", b, "c", 0), 0); /* a directory to another */
	assert_int_equal(ino_of(c, ".."), b);
	assert_int_equal(stat_(a)->nlink, 2);
	assert_int_equal(stat_(b)->nlink, 3);
	walk_all();
	assert_int_equal(mv(b, "c", ROOT, "a", 0), 0); /* over an empty one */
	assert_int_equal(ino_of(ROOT, "a"), c);
	assert_true(fs_getattr(fs, &me, a, &at) == -ESTALE || at.nlink == 0);
	walk_all();
	assert_int_equal(mv(b, "g", c, "d", FS_RENAME_EXCHANGE), 0); /* file and directory, parents differ */
	assert_int_equal(ino_of(c, "d"), f);
	assert_int_equal(ino_of(b, "g"), d);
	assert_int_equal(ino_of(d, ".."), b);
	walk_all();
	assert_int_equal(mv(ROOT, "b", b, "g", FS_RENAME_EXCHANGE), -EINVAL);
	assert_int_equal(mv(b, "g", ROOT, "b", FS_RENAME_EXCHANGE), -EINVAL);
	assert_int_equal(fs_link(fs, &me, f, b, "same", 4, &at), 0);
	assert_int_equal(mv(b, "same", c, "d", 0), 0); /* two names of one: nothing happens */
	assert_int_equal(ino_of(b, "same"), f);
	assert_int_equal(ino_of(c, "d"), f);
	walk_all();
}

static void open_files(void *arg)
{
	struct fs_file *f, *g;
	uint64_t ino;

	assert_int_equal(fs_create(fs, &me, ROOT, "f", 1, 0666, O_RDWR | O_EXCL, &f, &at), 0);
	assert_int_equal(at.mode, S_IFREG | 0644);
	ino = fs_file_ino(f);
	assert_int_equal(at.ino, ino);
	assert_int_equal(fs_create(fs, &me, ROOT, "f", 1, 0666, O_RDWR | O_EXCL, &g, &at), -EEXIST);
	assert_int_equal(fs_create(fs, &me, ROOT, "f", 1, 0666, O_RDWR, &g, &at), 0);
	assert_int_equal(fs_file_ino(g), ino);
	fs_release(fs, g);
	assert_int_equal(fs_open(fs, &me, ROOT, O_RDONLY, &g), -EISDIR);
	assert_int_equal(rm(ROOT, "f"), 0);
	/* Without a name, but open: still there after the reaper had all the time. */
	ts_sleep_until(ts_exec_now(h->x) + 30 * TS_NS_PER_S);
	assert_int_equal(stat_(ino)->nlink, 0);
	assert_int_equal(fs_link(fs, &me, ino, ROOT, "again", 5, &at), -ENOENT);
	assert_int_equal(fs_open(fs, &me, ino, O_RDONLY, &g), 0);
	fs_release(fs, g);
	fs_release(fs, f);
	ts_sleep_until(ts_exec_now(h->x) + 60 * TS_NS_PER_S);
	assert_int_equal(fs_getattr(fs, &me, ino, &at), -ESTALE);
	assert_int_equal(fs_open(fs, &me, ino, O_RDONLY, &g), -ESTALE);
}

static void tmpfiles(void *arg)
{
	struct fs_file *f;
	uint64_t ino, size = stat_(ROOT)->size;

	assert_int_equal(fs_tmpfile(fs, &me, ROOT, 0600, O_RDWR, &f, &at), 0);
	assert_int_equal(at.nlink, 0);
	ino = at.ino;
	ts_sleep_until(ts_exec_now(h->x) + 30 * TS_NS_PER_S);
	assert_int_equal(fs_link(fs, &me, ino, ROOT, "named", 5, &at), 0);
	assert_int_equal(at.nlink, 1);
	fs_release(fs, f);
	ts_sleep_until(ts_exec_now(h->x) + 60 * TS_NS_PER_S);
	assert_int_equal(ino_of(ROOT, "named"), ino);
	assert_int_equal(rm(ROOT, "named"), 0);
	ts_sleep_until(ts_exec_now(h->x) + 60 * TS_NS_PER_S);
	assert_int_equal(fs_getattr(fs, &me, ino, &at), -ESTALE);
	assert_int_equal(fs_tmpfile(fs, &me, ROOT, 0600, O_RDWR | O_EXCL, &f, &at), 0);
	ino = at.ino;
	assert_int_equal(fs_link(fs, &me, ino, ROOT, "named", 5, &at), -ENOENT);
	fs_release(fs, f);
	ts_sleep_until(ts_exec_now(h->x) + 60 * TS_NS_PER_S);
	assert_int_equal(fs_getattr(fs, &me, ino, &at), -ESTALE);
	assert_int_equal(stat_(ROOT)->size, size);
	walk_all();
}

static void inheritance(void *arg)
{
	struct fs_setattr s = {.valid = FS_SET_MODE | FS_SET_GID | FS_SET_PROJECT, .mode = S_ISGID | 0775, .gid = 555, .project = 77};
	uint64_t d = mkdir_(ROOT, "team");

	assert_int_equal(fs_setattr(fs, &me, d, &s, &at), 0);
	mkfile(d, "f");
	assert_true(at.gid == 555 && !(at.mode & S_ISGID));
	mkdir_(d, "sub");
	assert_true(at.gid == 555 && at.mode & S_ISGID);
	mkfile(ROOT, "g");
	assert_true(at.gid == 100);
}

static void read_only(void *arg)
{
	struct fs_file *f;

	mkfile(ROOT, "f");
	fs->args.read_only = true;
	assert_int_equal(mk(ROOT, "x", S_IFREG), -EROFS);
	assert_int_equal(rm(ROOT, "f"), -EROFS);
	assert_int_equal(mv(ROOT, "f", ROOT, "g", 0), -EROFS);
	assert_int_equal(fs_open(fs, &me, ino_of(ROOT, "f"), O_RDWR, &f), -EROFS);
	assert_int_equal(fs_open(fs, &me, ino_of(ROOT, "f"), O_RDONLY, &f), 0);
	fs_release(fs, f);
	fs->args.read_only = false;
}

/* ---- listing ------------------------------------------------------------------------------------------------------- */
struct few {
	unsigned room, n, with_attr;
	uint64_t last;
};
static bool few_emit(void *arg, const char *name, size_t len, uint64_t ino, unsigned type, uint64_t off, const struct fs_attr *a)
{
	struct few *f = arg;

	if (!f->room)
		return false;
	f->room--;
	f->n++;
	f->with_attr += a != NULL;
	f->last = off;
	return true;
}

/* rm -r with a small buffer: everything goes, nothing is missed. */
static void list_and_remove(void *arg)
{
	uint64_t d = mkdir_(ROOT, "d");
	struct few f = {.room = 1};
	char name[32];

	for (int i = 0; i < 2000; i++) {
		sprintf(name, "f%d", i);
		mkfile(d, name);
	}
	assert_int_equal(fs_readdir(fs, &me, d, 0, false, few_emit, &f), 0);
	assert_true(f.last == 1 && f.n == 1);
	f.room = 1;
	assert_int_equal(fs_readdir(fs, &me, d, f.last, false, few_emit, &f), 0);
	assert_true(f.last == 2 && f.n == 2);
	f.room = 5000;
	assert_int_equal(fs_readdir(fs, &me, d, f.last, true, few_emit, &f), 0);
	assert_int_equal(f.n, 2002);
	assert_int_equal(f.with_attr, 2000); /* all in memory here */
	for (uint64_t last = 0;;) {
		struct one_dir *o = ts_xalloc(sizeof(*o));
		struct few piece = {.room = 7};
		unsigned n;

		o->cookie = last;
		o->n = 4096 - 7;
		assert_int_equal(fs_readdir(fs, &me, d, last, false, walk_emit, o), 0);
		n = o->n - (4096 - 7);
		last = o->cookie;
		for (unsigned i = 4096 - 7; i < o->n; i++)
			assert_int_equal(rm(d, o->name[i]), 0);
		ts_free(o);
		(void)piece;
		if (!n)
			break;
	}
	assert_int_equal(rmdir_(ROOT, "d"), 0);
}

/* ---- many at once -------------------------------------------------------------------------------------------------- */
enum { STORMERS = 12, STORM_DIRS = 6, STORM_NAMES = 24 };
static uint64_t storm_dir[STORM_DIRS];
static struct ts_group storm;
static unsigned storm_ops, storm_errs;

static void legal(int rc)
{
	static const int ok[] = {0, -ENOENT, -EEXIST, -EISDIR, -ENOTDIR, -ENOTEMPTY, -EINVAL, -ESTALE, -EPERM};

	storm_ops++;
	storm_errs += rc != 0;
	for (unsigned i = 0; i < TS_ARRAY_LEN(ok); i++)
		if (rc == ok[i])
			return;
	TS_PANIC("an operation of the storm returned %d", rc);
}

static uint64_t any_dir(uint64_t r)
{
	struct fs_attr a;
	uint64_t d = storm_dir[r % STORM_DIRS];
	char name[16];

	sprintf(name, "n%u", (unsigned)(r >> 20) % STORM_NAMES);
	if (r >> 40 & 1 && !fs_lookup(fs, &me, d, name, strlen(name), &a) && S_ISDIR(a.mode))
		return a.ino;
	return d;
}

static void storm_step(void)
{
	uint64_t r = fsh_random(h), d = any_dir(fsh_random(h)), e = any_dir(fsh_random(h));
	char n[16], m[16];
	struct fs_file *f;
	struct fs_attr a;
	int rc;

	sprintf(n, "n%u", (unsigned)(r >> 8) % STORM_NAMES);
	sprintf(m, "n%u", (unsigned)(r >> 24) % STORM_NAMES);
	switch (r >> 40 & 15) {
	case 0:
	case 1:
	case 2:
		legal(fs_mknod(fs, &me, d, n, strlen(n), S_IFREG | 0644, 0, NULL, &a));
		break;
	case 3:
	case 4:
		legal(fs_mknod(fs, &me, d, n, strlen(n), S_IFDIR | 0755, 0, NULL, &a));
		break;
	case 5:
		legal(fs_rmdir(fs, &me, d, n, strlen(n)));
		break;
	case 6:
	case 7:
		legal(fs_unlink(fs, &me, d, n, strlen(n)));
		break;
	case 8:
		rc = fs_lookup(fs, &me, d, n, strlen(n), &a);
		legal(rc);
		if (!rc)
			legal(fs_link(fs, &me, a.ino, e, m, strlen(m), &a));
		break;
	case 9:
		rc = fs_create(fs, &me, d, n, strlen(n), 0644, O_RDWR, &f, &a);
		legal(rc);
		if (!rc) {
			ts_sleep_until(ts_exec_now(h->x) + fsh_random(h) % TS_NS_PER_S);
			fs_release(fs, f);
		}
		break;
	case 10:
		legal(fs_rename(fs, &me, d, n, strlen(n), e, m, strlen(m), FS_RENAME_EXCHANGE));
		break;
	case 11:
		legal(fs_rename(fs, &me, d, n, strlen(n), e, m, strlen(m), FS_RENAME_NOREPLACE));
		break;
	default:
		legal(fs_rename(fs, &me, d, n, strlen(n), e, m, strlen(m), 0));
	}
	if (r & 3)
		ts_fiber_yield();
	else
		ts_sleep_until(ts_exec_now(h->x) + fsh_random(h) % TS_NS_PER_MS);
}

static void stormer(void *arg)
{
	for (int i = 0; i < 600; i++)
		storm_step();
	ts_group_done(&storm, 0);
}

static void storm_begin(void)
{
	char name[16];

	for (int i = 0; i < STORM_DIRS; i++) {
		sprintf(name, "storm%d", i);
		storm_dir[i] = mkdir_(i > 2 ? storm_dir[i - 3] : ROOT, name);
	}
	ts_group_init(&storm);
	for (int i = 0; i < STORMERS; i++) {
		ts_group_add(&storm);
		assert_int_equal(ts_fiber_spawn(h->x, "storm", stormer, NULL), 0);
	}
}

static void storm_of_names(void *arg)
{
	storm_begin();
	assert_int_equal(ts_group_wait(&storm, "storm"), 0);
	assert_true(storm_ops > 5000 && storm_errs < storm_ops * 9 / 10);
	walk_all();
}

/* Two renames, each legal, that together would make a loop: a below b/1/2 and b below a/1/2. */
static uint64_t deep[2][3]; /* a, a/1, a/1/2; b, ... */
static void looper(void *arg)
{
	static const char *const name[] = {"a", "b"};
	int me_ = *(int *)arg, other = !me_;

	for (int i = 0; i < 400; i++) {
		legal(mv(ROOT, name[me_], deep[other][2], "in", 0));
		for (uint64_t up = deep[me_][2], steps = 0; up != ROOT; up = ino_of(up, ".."))
			assert_true(steps++ < 10);
		ts_sleep_until(ts_exec_now(h->x) + fsh_random(h) % TS_NS_PER_MS);
		legal(mv(deep[other][2], "in", ROOT, name[me_], 0));
		ts_sleep_until(ts_exec_now(h->x) + fsh_random(h) % TS_NS_PER_MS);
	}
	ts_group_done(&storm, 0);
}

/* Makes the renames wait in and behind the walk over the ancestors. */
static void in_the_way(void *arg)
{
	struct tok_pin pin = {0};

	for (int i = 0; i < 400; i++) {
		uint64_t r = fsh_random(h);

		assert_int_equal(tok_pin(fs->tok, TOK_INODE, deep[r & 1][r >> 1 & 1], TOK_EX, 0, TOK_END, 0, &pin), 0);
		ts_sleep_until(ts_exec_now(h->x) + TS_NS_PER_MS);
		tok_unpin(fs->tok, &pin);
		ts_sleep_until(ts_exec_now(h->x) + fsh_random(h) % TS_NS_PER_MS);
	}
	ts_group_done(&storm, 0);
}

static void no_loops(void *arg)
{
	static int which[2] = {0, 1};

	for (int i = 0; i < 2; i++) {
		deep[i][0] = mkdir_(ROOT, i ? "b" : "a");
		deep[i][1] = mkdir_(deep[i][0], "1");
		deep[i][2] = mkdir_(deep[i][1], "2");
	}
	ts_group_init(&storm);
	for (int i = 0; i < 7; i++) {
		ts_group_add(&storm);
		assert_int_equal(ts_fiber_spawn(h->x, "loop", i < 4 ? looper : in_the_way, &which[i % 2]), 0);
	}
	assert_int_equal(ts_group_wait(&storm, "loop"), 0);
	walk_all();
	assert_int_equal(walked, 7); /* both still hang on the root, somewhere */
}

/* ---- around -------------------------------------------------------------------------------------------------------- */
static void open_world(void)
{
	h = fsh_new(2, 96u << 20);
	fsh_format(h, 64u << 10);
	fs = fsh_mount(h);
}

static void close_world(void)
{
	fsh_unmount(h);
	fsh_free(h);
	assert_int_equal(fs_tok_stub_pins(), 0);
}

static void walk_fiber(void *arg)
{
	walk_all();
}

/* The checker finds nothing on what was unmounted. */
static void found(void *arg, const char *text, bool repaired)
{
	fprintf(stderr, "    check: %s\n", text);
}
static void check_fiber(void *arg)
{
	struct fs_check_args a = {.disks = h->devs, .ndisks = h->ndisks, .env = &h->env, .finding = found};
	struct fs_check_result r;
	char err[256] = "";
	int rc = fs_check(&a, false, &r, err, sizeof(err));

	if (rc)
		TS_PANIC("check: %d %s", rc, err);
	assert_int_equal(r.findings, 0);
	assert_int_equal(r.dirs, walked);
}

/* Then unmounted, mounted, and walked again. */
static void whole(void (*body)(void *))
{
	unsigned before;

	open_world();
	for (unsigned i = 0; i < h->ndisks; i++)
		h->disk[i]->read_ns = h->disk[i]->write_ns = 100000;
	fsh_run(h, body, NULL);
	fsh_run(h, walk_fiber, NULL);
	before = walked;
	fsh_unmount(h);
	fsh_run(h, check_fiber, NULL);
	fs = fsh_mount(h);
	fsh_run(h, walk_fiber, NULL);
	assert_int_equal(walked, before);
	close_world();
}

#define WHOLE(body)                                                                                        \
	static void test_##body(void **state)                                                              \
	{                                                                                                  \
		whole(body);                                                                               \
	}
WHOLE(make_and_look_up)
WHOLE(long_target)
WHOLE(remove_names)
WHOLE(space_comes_back)
WHOLE(known_elsewhere)
WHOLE(holds)
WHOLE(rename_rules)
WHOLE(open_files)
WHOLE(tmpfiles)
WHOLE(inheritance)
WHOLE(read_only)
WHOLE(list_and_remove)
WHOLE(storm_of_names)
WHOLE(no_loops)

/* Power fails in the middle of a storm: what is there after the replay is whole, and what was synced is there. */
static void some_storm(void *arg)
{
	uint64_t d = mkdir_(ROOT, "synced");

	for (int i = 0; i < 300; i++) {
		char name[16];

		sprintf(name, "s%d", i);
		mkfile(d, name);
	}
	assert_int_equal(fs_sync(fs), 0);
	storm_begin();
}

static void synced_is_there(void *arg)
{
	uint64_t d = ino_of(ROOT, "synced");

	assert_true(d != 0);
	for (int i = 0; i < 300; i++) {
		char name[16];

		sprintf(name, "s%d", i);
		assert_int_equal(look(d, name), 0);
	}
	walk_all();
}

static void test_power_fails(void **state)
{
	for (uint64_t seed = 0; seed < 8; seed++) {
		open_world();
		h->rng += seed;
		for (unsigned i = 0; i < h->ndisks; i++)
			h->disk[i]->read_ns = h->disk[i]->write_ns = h->disk[i]->flush_ns = 50000;
		fsh_run(h, some_storm, NULL);
		fsh_settle(h, seed * seed * TS_NS_PER_S / 4 + fsh_random(h) % TS_NS_PER_S);
		fsh_crash(h, seed);
		fs = fsh_mount(h);
		fsh_run(h, synced_is_there, NULL);
		fsh_settle(h, 60 * TS_NS_PER_S);
		fsh_run(h, walk_fiber, NULL);
		fsh_unmount(h);
		fsh_run(h, check_fiber, NULL);
		fsh_free(h);
		assert_int_equal(fs_tok_stub_pins(), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_make_and_look_up),
		cmocka_unit_test(test_long_target),
		cmocka_unit_test(test_remove_names),
		cmocka_unit_test(test_space_comes_back),
		cmocka_unit_test(test_known_elsewhere),
		cmocka_unit_test(test_holds),
		cmocka_unit_test(test_rename_rules),
		cmocka_unit_test(test_open_files),
		cmocka_unit_test(test_tmpfiles),
		cmocka_unit_test(test_inheritance),
		cmocka_unit_test(test_read_only),
		cmocka_unit_test(test_list_and_remove),
		cmocka_unit_test(test_storm_of_names),
		cmocka_unit_test(test_no_loops),
		cmocka_unit_test(test_power_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
