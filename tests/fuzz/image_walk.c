/* SPDX-License-Identifier: Apache-2.0 */
/* Job: everything that a mounted file system can be asked for, on what damage has left of it: each inode's attributes, data, names
 * and extended attributes, then changes of all kinds. Bounded: a directory that contains itself is not walked for ever. */
#include "tests/fuzz/image.h"

#include <dirent.h>
#include <fcntl.h>

#define INODES	200u
#define ENTRIES 2000u

struct ent {
	uint64_t dir, ino;
	unsigned type;
	uint8_t len;
	char name[FS_NAME_MAX];
};
struct walk {
	struct fs *fs;
	struct fs_cred c;
	bool strict;
	uint64_t dir;
	unsigned n, nents;
	struct ent e[INODES];
	uint8_t buf[IMAGE_BLOCK];
};

static void ok(const struct walk *w, int64_t rc, const char *what, uint64_t ino)
{
	if (w->strict && (rc == -EUCLEAN || rc == -EIO))
		TS_PANIC("%s of inode %lu: error %ld after a repair", what, ino, (long)rc);
}

static bool on_entry(void *arg, const char *name, size_t len, uint64_t ino, unsigned dtype, uint64_t off, const struct fs_attr *attr)
{
	struct walk *w = arg;

	TS_ASSERT(len > 0 && len <= FS_NAME_MAX);
	fuzz_touch(name, len);
	if (w->n < INODES && !(len <= 2 && name[0] == '.')) {
		struct ent *e = &w->e[w->n++];

		*e = (struct ent){.dir = w->dir, .ino = ino, .type = dtype, .len = (uint8_t)len};
		memcpy(e->name, name, len);
	}
	return ++w->nents < ENTRIES;
}

static void read_file(struct walk *w, uint64_t ino, uint64_t size)
{
	const uint64_t at[] = {0, IMAGE_BLOCK, 20ull * IMAGE_BLOCK, 6000ull * IMAGE_BLOCK, size > 100 ? size - 100 : 0};
	struct fs_file *f;
	int rc = fs_open(w->fs, &w->c, ino, O_RDWR, &f);

	ok(w, rc, "open", ino);
	if (rc)
		return;
	for (unsigned i = 0; i < TS_ARRAY_LEN(at); i++) {
		ssize_t n = fs_read(w->fs, f, w->buf, sizeof(w->buf), at[i]);

		ok(w, n, "read", ino);
		TS_ASSERT(n <= (ssize_t)sizeof(w->buf));
		ok(w, fs_seek(w->fs, f, at[i], i & 1), "seek", ino);
	}
	fs_release(w->fs, f);
}

static void read_attrs(struct walk *w, uint64_t ino)
{
	char list[8192];
	ssize_t n = fs_listxattr(w->fs, &w->c, ino, list, sizeof(list));

	ok(w, n, "listxattr", ino);
	for (ssize_t i = 0; i < n && n <= (ssize_t)sizeof(list);) {
		const char *z = memchr(list + i, 0, (size_t)(n - i));

		TS_ASSERT(z);
		ok(w, fs_getxattr(w->fs, &w->c, ino, list + i, w->buf, sizeof(w->buf)), "getxattr", ino);
		i = z - list + 1;
	}
}

static void look(struct walk *w, uint64_t ino)
{
	struct fs_attr at;
	char target[FS_TARGET_MAX + 1];
	int rc = fs_getattr(w->fs, &w->c, ino, &at);

	ok(w, rc, "getattr", ino);
	if (rc)
		return;
	read_attrs(w, ino);
	if (S_ISREG(at.mode))
		read_file(w, ino, at.size);
	else if (S_ISLNK(at.mode))
		ok(w, fs_readlink(w->fs, &w->c, ino, target, sizeof(target)), "readlink", ino);
	if (!S_ISDIR(at.mode))
		return;
	w->dir = ino;
	ok(w, fs_readdir(w->fs, &w->c, ino, 0, true, on_entry, w), "readdir", ino);
}

static void change_file(struct walk *w, uint64_t ino)
{
	struct fs_setattr s = {.valid = FS_SET_SIZE | FS_SET_MODE, .size = 5000, .mode = 0640};
	struct fs_attr at;
	struct fs_file *f;

	if (fs_open(w->fs, &w->c, ino, O_RDWR, &f))
		return;
	(void)!fs_write(w->fs, f, w->buf, 3000, 60000, false, true, NULL);
	(void)!fs_write(w->fs, f, w->buf, 10, 0, true, false, NULL);
	(void)!fs_fallocate(w->fs, f, FS_FALLOC_KEEP_SIZE | FS_FALLOC_PUNCH, 0, 2 * IMAGE_BLOCK, false);
	(void)!fs_fallocate(w->fs, f, 0, 0, 3 * IMAGE_BLOCK, false);
	(void)!fs_fsync(w->fs, f, false);
	(void)!fs_setattr(w->fs, &w->c, ino, &s, &at);
	fs_release(w->fs, f);
}

static void change(struct walk *w, const struct ent *e, unsigned i)
{
	struct fs_attr at;

	(void)!fs_setxattr(w->fs, &w->c, e->ino, "user.new", w->buf, 10 + 400 * (i % 10), 0);
	(void)!fs_removexattr(w->fs, &w->c, e->ino, "user.a");
	if (e->type == DT_DIR) {
		(void)!fs_mknod(w->fs, &w->c, e->ino, "new", 3, S_IFREG | 0600, 0, NULL, &at);
		(void)!fs_mknod(w->fs, &w->c, e->ino, "newdir", 6, S_IFDIR | 0700, 0, NULL, &at);
		(void)!fs_rmdir(w->fs, &w->c, e->ino, "newdir", 6);
	} else {
		change_file(w, e->ino);
		(void)!fs_link(w->fs, &w->c, e->ino, FS_ROOT_INO, "another", 7, &at);
		(void)!fs_rename(w->fs, &w->c, e->dir, e->name, e->len, FS_ROOT_INO, "another", 7, i & 1 ? FS_RENAME_EXCHANGE : 0);
	}
	if (i & 1)
		(void)!(e->type == DT_DIR ? fs_rmdir(w->fs, &w->c, e->dir, e->name, e->len) : fs_unlink(w->fs, &w->c, e->dir, e->name, e->len));
}

void image_walk(struct fs *fs, bool changes, bool strict)
{
	struct walk *w = ts_xalloc(sizeof(*w));
	struct statvfs st;

	memset(w, 0, sizeof(*w));
	w->fs = fs;
	w->strict = strict;
	ok(w, fs_statfs(fs, &st), "statfs", 0);
	look(w, FS_ROOT_INO);
	for (unsigned i = 0; i < w->n; i++)
		if (i < 20 || w->e[i].type != DT_REG || i % 16 == 0) /* many are names of one */
			look(w, w->e[i].ino);
	for (unsigned i = 0; changes && i < TS_MIN(w->n, 24u); i++)
		change(w, &w->e[i], i);
	(void)!fs_sync(fs);
	ts_free(w);
}
