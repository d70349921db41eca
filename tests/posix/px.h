/* SPDX-License-Identifier: Apache-2.0 */
/* px: the small framework of posixtest. A test is a function in a table; it runs in a process of its own, in a new empty
 * directory that it sees through two paths: A and B, two mounts of the same file system (or the same path twice).
 * A failed check prints its object, what was expected and what was got, and the test goes on; NEED ends the test. */
#ifndef TESSERA_TESTS_POSIX_PX_H
#define TESSERA_TESTS_POSIX_PX_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define PX_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define PX_KIB 1024LL
#define PX_MIB (1024LL * 1024)
#define PX_USER 54321u /* an unprivileged user and group, of nobody */
#define PX_USER2 54322u

enum px_kind { PX_TESSERA_FS, PX_EXT4, PX_XFS, PX_TMPFS, PX_OTHER };

struct px {
	const char *a, *b;  /* this test's directory through either mount */
	bool two;	    /* A and B are different mounts */
	bool local;	    /* an ordinary local file system: the oracle of the tests themselves */
	bool longrun;
	enum px_kind kind;
	uint64_t seed;
};
extern struct px px;

enum px_when {
	PX_TWO = 1,	/* says nothing on one mount */
	PX_DIFF = 2,	/* pins a documented difference: not for local file systems */
	PX_LONG = 4,	/* only with --long */
	PX_LOCAL = 8,	/* the oracle's side of a documented difference */
};
struct px_test {
	const char *name;
	void (*fn)(void);
	unsigned when;
	unsigned seconds; /* time limit; 0 = the common one */
};
/* Tables of tests by topic; the last has no name. */
extern const struct px_test px_open_tests[], px_data_tests[], px_space_tests[], px_mmap_tests[], px_name_tests[],
	px_rename_tests[], px_dir_tests[], px_path_tests[], px_perm_tests[], px_time_tests[], px_xattr_tests[], px_life_tests[],
	px_race_tests[], px_acl_tests[], px_lock_tests[], px_shared_tests[], px_diff_tests[];

/* ---- paths: of this test's directory through mount A or B; valid for the next 16 calls ---- */
const char *pa(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
const char *pb(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
const char *px_path(bool b, const char *name);

/* ---- checks ---- */
#define PX_HERE __FILE__, __LINE__
/* The call succeeds; its value is returned. */
#define OK(call) px_ok(PX_HERE, #call, (errno = 0, (long)(call)))
#define NEED(call) px_need(PX_HERE, #call, (errno = 0, (long)(call)))
/* The call fails with this error. */
#define FAILS(err, call) px_fails(PX_HERE, #call, err, (errno = 0, (long)(call)))
/* Numbers are equal; the rest names the object as printf does. */
#define EQ(want, got, ...) px_eq(PX_HERE, (long long)(want), (long long)(got), __VA_ARGS__)
#define TRUE(cond, ...) px_true(PX_HERE, #cond, (cond), __VA_ARGS__)
#define SAME_STR(want, got, ...) px_str(PX_HERE, want, got, __VA_ARGS__)
#define SAME_BYTES(want, got, len, ...) px_bytes(PX_HERE, want, got, len, __VA_ARGS__)
long px_ok(const char *file, int line, const char *call, long got);
long px_need(const char *file, int line, const char *call, long got);
bool px_fails(const char *file, int line, const char *call, int err, long got);
bool px_eq(const char *file, int line, long long want, long long got, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
bool px_true(const char *file, int line, const char *cond, bool is, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
bool px_str(const char *file, int line, const char *want, const char *got, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));
bool px_bytes(const char *file, int line, const void *want, const void *got, size_t len, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));
void px_skip(const char *why) __attribute__((noreturn));
void px_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
unsigned px_failed(void); /* checks of this test that failed so far */

/* ---- looking at an object through both mounts ---- */
struct stat px_stat(const char *path);			      /* lstat; a failure is a failed check and gives zeros */
struct stat px_same_stat(const char *name);		      /* A and B agree on everything but atime and blocks */
void px_gone(const char *name);				      /* ENOENT through both */
void px_nlink(const char *name, unsigned want);		      /* through both */
void px_size(const char *name, long long want);
void px_content(const char *name, const void *want, size_t len); /* size and bytes through both */
void px_listing(const char *name, const char *const *want, size_t n); /* exactly these entries, through both */

/* ---- making ---- */
void px_fill(void *buf, size_t len, unsigned salt);	      /* a pattern that shows where a byte came from */
void px_make(const char *path, const void *data, size_t len);  /* a new file 0644 with this content */
void px_mkfile(const char *path);			      /* a new empty file 0644 */
int px_open(const char *path, int flags);		      /* NEED(open) with mode 0644 */
bool px_kernel(int major, int minor);			      /* Tessera's mount is not served by a kernel older than that */
void px_tick(void);					      /* long enough for every clock to show another time */
int64_t px_ns(struct timespec t);
uint64_t px_rnd(void);

/* Runs fn(arg) in a process of this user and group without capabilities; its checks count for this test. */
void px_as(uid_t uid, gid_t gid, void (*fn)(void *), void *arg);
/* Runs fn(arg, i) in n processes at once and waits for them. */
void px_parallel(unsigned n, void (*fn)(void *, unsigned), void *arg);

#endif
