/* SPDX-License-Identifier: Apache-2.0 */
/* The model checker of mounts, one operation at a time: operations as lines of a script, a file system in
 * memory that says what each must answer, and a driver that asks the mounts. Who changes one of the three
 * tells the other two. */
#ifndef TESSERA_TESTS_POSIX_MODEL_H
#define TESSERA_TESTS_POSIX_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>

#define MODEL_MOUNTS   3
#define MODEL_SLOTS    6 /* open handles of a mount */
#define MODEL_MAPS     3 /* of a mount */
#define MODEL_INODES   64
#define MODEL_ENTRIES  8
#define MODEL_PATH     96
#define MODEL_MAX_SIZE (1200 * 1024)
#define MODEL_MAP_LEN  (256 * 1024)
#define MODEL_XATTRS   4
#define MODEL_LOCKS    64
#define MODEL_SIGBUS   1000 /* "errno": the access gave SIGBUS */
#define MODEL_SHORT    1001 /* fewer bytes went than were given */

enum model_kind {
	MODEL_OPEN, /* slot, flags, p */
	MODEL_CLOSE,
	MODEL_PWRITE, /* slot, a = offset, b = length, salt */
	MODEL_APPEND, /* slot, b = length, salt */
	MODEL_READ,   /* slot, a = offset, b = length */
	MODEL_FTRUNC, /* slot, a = size */
	MODEL_TRUNC,  /* p, a = size */
	MODEL_MAP,    /* slot = map, b = handle */
	MODEL_UNMAP,
	MODEL_STORE, /* slot = map, a = offset, b = length, salt; with msync */
	MODEL_LOAD,
	MODEL_FSTAT,
	MODEL_STAT,  /* p: not followed */
	MODEL_LIST,  /* p */
	MODEL_HLIST, /* slot: an open directory, from its start */
	MODEL_RENAME,
	MODEL_LINK,
	MODEL_UNLINK,
	MODEL_MKDIR, /* p, flags = mode */
	MODEL_RMDIR,
	MODEL_SYMLINK, /* p, q = target */
	MODEL_READLINK,
	MODEL_CHMOD,
	MODEL_FCHMOD,
	MODEL_SETX, /* p, a = which name, b = length, salt, flags */
	MODEL_GETX,
	MODEL_RMX,
	MODEL_LISTX,
	MODEL_FSYNC,
	MODEL_LOCK,  /* slot, flags = F_RDLCK.., a = offset, b = length: an OFD lock */
	MODEL_FLOCK, /* slot, flags = LOCK_.. */
	MODEL_KINDS
};

/* Classes of operations that can be switched off. */
enum model_class {
	MODEL_C_DATA = 1,
	MODEL_C_APPEND = 2,
	MODEL_C_TRUNCATE = 4,
	MODEL_C_MAP = 8,
	MODEL_C_NAME = 16,
	MODEL_C_LINK = 32,
	MODEL_C_SYMLINK = 64,
	MODEL_C_MODE = 128,
	MODEL_C_XATTR = 256,
	MODEL_C_LOCK = 512,
	MODEL_C_ALL = 1023
};

struct model_op {
	uint64_t no; /* its number in the run that made it; decides what is planted */
	uint8_t kind, mount, slot;
	uint32_t flags, salt;
	uint64_t a, b;
	char p[MODEL_PATH], q[MODEL_PATH];
};

/* What an operation answered, or must answer. */
struct model_answer {
	int err;
	bool has_stat;
	uint32_t mode, nlink;
	uint64_t size, ino;
	int64_t mtime, ctime;
	char *bytes; /* content, names, target or value; of the answer's owner */
	size_t len, cap;
};
void model_answer_reset(struct model_answer *a);
void model_answer_free(struct model_answer *a);
/* Room for len bytes, which become the content. */
char *model_answer_bytes(struct model_answer *a, size_t len);

/* ---- the file system in memory (model_tree.c, model_ops.c) ---- */
struct model_inode {
	bool used;
	uint32_t mode, nlink, refs; /* mode with type; refs: handles and maps */
	uint8_t *data;		    /* cap bytes, zero from size on */
	size_t size, cap;
	char target[MODEL_PATH];
	struct {
		char name[16];
		int ino; /* -1: none */
	} e[MODEL_ENTRIES];
	struct {
		bool set;
		uint32_t salt, len;
	} x[MODEL_XATTRS];
	/* learned from answers: */
	uint64_t ino; /* 0: not yet */
	int64_t mtime, ctime;
	bool touched; /* since the times were learned */
};

struct model_lock {
	bool used, shared;
	int mount, slot, ino;
	uint64_t from, to; /* to: first byte behind */
};

struct model {
	struct model_inode i[MODEL_INODES]; /* 0: the directory of the run */
	struct model_handle {
		int ino; /* -1: none */
		bool r, w, append;
	} h[MODEL_MOUNTS][MODEL_SLOTS];
	int map[MODEL_MOUNTS][MODEL_MAPS];
	struct model_lock lock[MODEL_LOCKS];
	int64_t clocks_ns; /* by so much the clocks of the mounts' nodes may differ */
	int8_t flocked[MODEL_MOUNTS][MODEL_SLOTS]; /* 0, 1 shared, 2 exclusive */
	unsigned nmounts;
};
void model_init(struct model *m, unsigned nmounts);
void model_free(struct model *m);

struct model_found {
	int dir, ino; /* ino -1: the directory is there, the name is not */
	char name[16];
};
/* Walks a path as Linux does. 0 or -errno; 0 with ino -1 where only the last name is missing. */
int model_walk(struct model *m, const char *path, bool follow, struct model_found *f);
int model_entry(struct model *m, int dir, const char *name);
int model_new(struct model *m, uint32_t mode); /* -1: none left */
bool model_room(const struct model *m, int dir);
void model_enter(struct model *m, int dir, const char *name, int ino);
void model_remove(struct model *m, int dir, const char *name);
void model_unref(struct model *m, int ino); /* frees it when nothing holds it any more */
unsigned model_count(const struct model *m, int dir);
bool model_below(struct model *m, int dir, int ino); /* ino is dir or lies under it */
void model_touch(struct model *m, int ino);

/* What the operation must answer; the model then is as behind it. Lengths beyond a map are cut in op. False:
 * it says nothing here, it must not be asked. */
bool model_apply(struct model *m, struct model_op *op, struct model_answer *want);
/* The inode that an operation which looks at one looks at, before it is applied; -1: none. */
int model_subject(struct model *m, const struct model_op *op);
/* The bytes that a salt stands for. */
void model_fill(uint8_t *p, size_t len, uint32_t salt);
static inline uint64_t model_hash(uint64_t z)
{
	z += 0x9e3779b97f4a7c15ULL;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

/* ---- the mounts (model_drive.c) ---- */
struct model_drive {
	char base[MODEL_MOUNTS][4200];
	int fd[MODEL_MOUNTS][MODEL_SLOTS];
	void *dir[MODEL_MOUNTS][MODEL_SLOTS];
	int map_fd[MODEL_MOUNTS][MODEL_MAPS];
	uint8_t *map[MODEL_MOUNTS][MODEL_MAPS];
	unsigned nmounts;
};
int model_drive_open(struct model_drive *d, unsigned nmounts, char *const *dirs, uint64_t seed,
		     unsigned turn);
void model_drive_close(struct model_drive *d);
void model_drive_op(struct model_drive *d, const struct model_op *op, struct model_answer *got);

/* ---- between the two ---- */
/* model_plant.c: what an old cache would answer. */
struct model_plant;
struct model_plant *model_plant_new(uint64_t one_in);
void model_plant_free(struct model_plant *p);
/* May put an older answer in the place of this one. */
void model_plant_answer(struct model_plant *p, const struct model_op *op, int subject,
			struct model_answer *got);
uint64_t model_plant_count(const struct model_plant *p);

/* model_compare.c: NULL if got is what was wanted, else which part differs, and in text how. Learns inode
 * numbers and times. */
const char *model_compare(struct model *m, const struct model_op *op, int subject,
			  const struct model_answer *want, const struct model_answer *got, char *text,
			  size_t len);

/* model_gen.c: the next operation. */
void model_generate(struct model *m, uint64_t *rng, uint32_t classes, struct model_op *op);

/* model_script.c */
const char *model_kind_name(unsigned kind);
void model_script_print(FILE *f, const struct model_op *op);
void model_script_head(FILE *f);
bool model_script_parse(const char *line, struct model_op *op); /* false: not an operation */

/* model_run.c: one script in a new directory. */
struct model_run {
	char *const *dirs;
	unsigned nmounts;
	uint64_t seed, plant;
	uint64_t clocks_ms;
	uint64_t done, looks, planted; /* added up over all runs */
	uint64_t by_kind[MODEL_KINDS];
	bool verbose;
	const char *counter; /* prints how many requests reached the daemons; NULL: not asked */
	unsigned warmed;
	uint64_t warm_looks;
	long long warm_requests;
};
struct model_failure {
	size_t at; /* number of operations up to and with the one that failed; 0: none */
	unsigned kind;
	const char *part;
	char text[600];
};
/* Applies the n operations. With a generator (classes != 0) ops is filled instead. */
void model_run_script(struct model_run *r, struct model_op *ops, size_t n, uint32_t classes,
		      struct model_failure *f);
/* model_shrink.c: makes ops shorter as long as it fails in the same way; the number left. 0: it did not fail
 * again. */
void model_run_say(void); /* the operation that has not returned */
size_t model_shrink(struct model_run *r, struct model_op *ops, size_t n, struct model_failure *f,
		    unsigned seconds);

/* model_count.c: -1 where nobody was asked, or there was no answer. */
long long model_requests(const char *command);

/* model_watch.c: a call that never returns ends the program, and says which. */
void model_watch_start(unsigned seconds, void (*say)(void));
void model_watch_tick(void);

#endif
