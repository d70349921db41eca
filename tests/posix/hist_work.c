/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a worker process on one mount: operations on the objects, drawn from seed, epoch, round and worker,
 * each with the times of its call and its return. Handles and maps stay open over an epoch, so that what is
 * cached is asked for. What must never happen: a time of a call that is taken behind the call, or of a return
 * before it. */
#include "hist_run.h"
#include "model.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define BLOCK	   4096
#define MAX_SIZE   100000
#define LOG_MAX	   8192 /* records of an epoch */
#define FIRST_SIZE 7

static const char *const files[HIST_FILES] = {"words", "block", "whole", "mode", "xattr",
					      "size",  "log",	"map",	 "lock"};
/* Neighbours in a page, borders of pages and of larger blocks. */
static const off_t word_at[HIST_WORDS] = {0, 8, 4088, 4096, 65536};

struct worker {
	struct hist_shared *s;
	unsigned me;
	const char *dir;
	int fd[HIST_FILES], append;
	uint8_t *map;
	uint64_t rng, made;
	uint64_t old[HIST_OBJECTS + HIST_NAMES]; /* planted: what was seen before, + 1 */
};

static uint64_t rnd(struct worker *w, uint64_t below)
{
	w->rng += 0x9e3779b97f4a7c15ULL;
	return model_hash(w->rng) % below;
}

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void failed(struct worker *w, const struct hist_op *op, const char *what)
{
	char *text = w->s->w[w->me].failed;

	if (!*text)
		snprintf(text, sizeof(w->s->w[0].failed), "worker %u: %s of %s: %s", w->me,
			 hist_kind_name(op->kind), hist_object_name(op->object), what);
}

/* ---- objects ---- */
const char *hist_object_name(unsigned object)
{
	static const char *const names[] = {"word 0",
					    "word 1",
					    "word 2",
					    "word 3",
					    "word 4",
					    "block's first word",
					    "block's last word",
					    "whole file",
					    "mode",
					    "xattr",
					    "names",
					    "size",
					    "log",
					    "map word 0",
					    "map word 1",
					    "lock"};
	_Static_assert(sizeof(names) / sizeof(names[0]) == HIST_OBJECTS, "a name for each");
	return object < HIST_OBJECTS ? names[object] : "nothing";
}

const struct hist_spec *hist_object_spec(unsigned object)
{
	return object == HIST_O_NAMES  ? &hist_names
	       : object == HIST_O_LOG  ? &hist_log
	       : object == HIST_O_LOCK ? &hist_lock
				       : &hist_register;
}

uint64_t hist_object_first(unsigned object)
{
	return object == HIST_O_MODE ? 0600 : object == HIST_O_SIZE ? FIRST_SIZE : 0;
}

int hist_objects_make(const char *dir)
{
	static const off_t sizes[HIST_FILES] = {[HIST_F_WORDS] = 65536 + 4096,
						[HIST_F_BLOCK] = BLOCK,
						[HIST_F_WHOLE] = 8,
						[HIST_F_SIZE] = FIRST_SIZE,
						[HIST_F_MAP] = HIST_MAP_WORDS * 4096};
	static const uint8_t zeros[65536 + 4096];
	char path[4300];
	uint64_t zero = 0;

	for (unsigned k = 0; k < HIST_FILES; k++) {
		snprintf(path, sizeof(path), "%s/%s", dir, files[k]);
		int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
		if (fd < 0 || write(fd, zeros, (size_t)sizes[k]) != sizes[k])
			return -errno;
		if (k == HIST_F_XATTR && fsetxattr(fd, "user.h", &zero, sizeof(zero), 0))
			return -errno;
		close(fd);
	}
	snprintf(path, sizeof(path), "%s/names", dir);
	return mkdir(path, 0700) ? -errno : 0;
}

uint64_t hist_log_sum(const uint64_t *records, size_t n)
{
	uint64_t sum = 0;

	for (size_t k = 0; k < n; k++)
		sum = model_hash(sum ^ records[k]);
	return sum;
}

static long log_fetch(int fd, uint64_t *records, size_t max)
{
	static uint64_t raw[LOG_MAX * 2];
	ssize_t n = pread(fd, raw, (max < LOG_MAX ? max : LOG_MAX) * HIST_RECORD, 0);

	if (n < 0)
		return -errno;
	if (n % HIST_RECORD)
		return -EBADMSG;
	for (ssize_t k = 0; k < n / HIST_RECORD; k++) {
		if (raw[2 * k] != ~raw[2 * k + 1])
			return -EBADMSG; /* a record in pieces, or a hole */
		records[k] = raw[2 * k];
	}
	return n / HIST_RECORD;
}

long hist_log_read(const char *dir, uint64_t *records, size_t max)
{
	char path[4300];

	snprintf(path, sizeof(path), "%s/%s", dir, files[HIST_F_LOG]);
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		return -errno;
	long n = log_fetch(fd, records, max);
	close(fd);
	return n;
}

/* ---- calls: each fills op between its times; -1 with errno as usual ---- */
static int call_word(struct worker *w, struct hist_op *op, int fd, off_t at)
{
	ssize_t n = op->kind == HIST_WRITE ? pwrite(fd, &op->arg, 8, at) : pread(fd, &op->got, 8, at);

	(void)w;
	if (n >= 0 && n != 8)
		errno = EBADMSG;
	return n == 8 ? 0 : -1;
}

static int call_mode(struct worker *w, struct hist_op *op)
{
	char path[4300];
	struct stat st = {0};
	int rc;

	snprintf(path, sizeof(path), "%s/%s", w->dir, files[HIST_F_MODE]);
	if (op->kind == HIST_WRITE)
		return op->a ? chmod(path, (mode_t)op->arg) : fchmod(w->fd[HIST_F_MODE], (mode_t)op->arg);
	rc = op->a ? stat(path, &st) : fstat(w->fd[HIST_F_MODE], &st);
	op->got = st.st_mode & 0777;
	return rc;
}

static int call_xattr(struct worker *w, struct hist_op *op)
{
	int fd = w->fd[HIST_F_XATTR];

	if (op->kind == HIST_WRITE)
		return fsetxattr(fd, "user.h", &op->arg, 8, 0);
	return fgetxattr(fd, "user.h", &op->got, 8) == 8 ? 0 : -1;
}

static int call_size(struct worker *w, struct hist_op *op)
{
	struct stat st = {0};

	if (op->kind == HIST_WRITE)
		return ftruncate(w->fd[HIST_F_SIZE], (off_t)op->arg);
	int rc = fstat(w->fd[HIST_F_SIZE], &st);
	op->got = (uint64_t)st.st_size;
	return rc;
}

static int call_map(struct worker *w, struct hist_op *op)
{
	off_t at = (off_t)(op->object - HIST_O_MAP) * 4096;
	volatile uint64_t *p = (volatile uint64_t *)(w->map + at);

	if (!op->a) /* by read and write, beside the others' maps */
		return call_word(w, op, w->fd[HIST_F_MAP], at);
	if (op->kind == HIST_READ) {
		op->got = *p;
		return 0;
	}
	*p = op->arg;
	return msync(w->map + at, 4096, MS_SYNC);
}

static int call_log(struct worker *w, struct hist_op *op)
{
	static uint64_t records[LOG_MAX];
	struct stat st = {0};

	if (op->kind == HIST_APPEND) {
		uint64_t r[2] = {op->arg, ~op->arg};
		ssize_t n = write(w->append, r, HIST_RECORD);
		if (n >= 0 && n != HIST_RECORD)
			errno = EBADMSG;
		return n == HIST_RECORD ? 0 : -1;
	}
	if (op->a) {
		int rc = fstat(w->fd[HIST_F_LOG], &st);
		op->got = (uint64_t)st.st_size / HIST_RECORD;
		return rc;
	}
	long n = log_fetch(w->fd[HIST_F_LOG], records, LOG_MAX);
	if (n < 0) {
		errno = (int)-n;
		return -1;
	}
	op->got = (uint64_t)n;
	op->more = hist_log_sum(records, (size_t)n);
	return 0;
}

static int call_lock(struct worker *w, struct hist_op *op)
{
	struct flock l = {.l_whence = SEEK_SET, .l_len = 1};

	l.l_type = op->kind == HIST_UNLOCK ? F_UNLCK : op->kind == HIST_LOCK_SH ? F_RDLCK : F_WRLCK;
	return fcntl(w->fd[HIST_F_LOCK], F_SETLK, &l);
}

static int call_create(const char *a, uint64_t id)
{
	int fd = open(a, O_RDWR | O_CREAT | O_EXCL, (mode_t)id);

	if (fd < 0)
		return -1;
	close(fd);
	return 0;
}

static int call_names(struct worker *w, struct hist_op *op)
{
	static const unsigned flags[HIST_KINDS] = {
		[HIST_NOREPLACE] = RENAME_NOREPLACE, [HIST_EXCHANGE] = RENAME_EXCHANGE};
	char a[4300], b[4300];
	struct stat st = {0};
	int rc;

	snprintf(a, sizeof(a), "%s/names/%c", w->dir, 'a' + op->a);
	snprintf(b, sizeof(b), "%s/names/%c", w->dir, 'a' + op->b);
	switch (op->kind) {
	case HIST_CREATE:
		return call_create(a, op->arg);
	case HIST_UNLINK:
		return unlink(a);
	case HIST_LOOK:
		rc = lstat(a, &st);
		op->got = st.st_mode & 0777;
		return rc;
	default:
		return renameat2(AT_FDCWD, a, AT_FDCWD, b, flags[op->kind]);
	}
}

/* Both words of a block written at once, as two operations of the same time. */
static void call_block(struct worker *w, struct hist_op *op)
{
	static uint64_t block[BLOCK / 8];
	struct hist_op *tail = op + 1;
	ssize_t n;

	if (op->kind == HIST_WRITE)
		for (unsigned k = 0; k < BLOCK / 8; k++)
			block[k] = op->arg;
	op->from = now();
	if (op->kind == HIST_WRITE)
		n = pwrite(w->fd[HIST_F_BLOCK], block, BLOCK, 0);
	else
		n = pread(w->fd[HIST_F_BLOCK], block, BLOCK, 0);
	op->err = n == BLOCK ? 0 : n < 0 ? errno : EBADMSG;
	op->to = now();
	op->got = block[0];
	*tail = *op;
	tail->object = HIST_O_BLOCK_TAIL;
	tail->got = block[BLOCK / 8 - 1];
	for (unsigned k = 1; !op->err && k < BLOCK / 8 - 1 && w->s->classes & HIST_C_MIDDLE; k++)
		if (block[k] != op->got && block[k] != tail->got && op->got == tail->got)
			failed(w, op, "a word between two equal ones is another's");
}

static int call(struct worker *w, struct hist_op *op)
{
	switch (op->object) {
	case HIST_O_WHOLE:
		return call_word(w, op, w->fd[HIST_F_WHOLE], 0);
	case HIST_O_MODE:
		return call_mode(w, op);
	case HIST_O_XATTR:
		return call_xattr(w, op);
	case HIST_O_NAMES:
		return call_names(w, op);
	case HIST_O_SIZE:
		return call_size(w, op);
	case HIST_O_LOG:
		return call_log(w, op);
	case HIST_O_LOCK:
		return call_lock(w, op);
	default:
		return op->object >= HIST_O_MAP ? call_map(w, op)
						: call_word(w, op, w->fd[HIST_F_WORDS], word_at[op->object]);
	}
}

/* ---- a planted fault: some looks are answered by what this worker saw before ---- */
static void plant(struct worker *w, struct hist_op *op)
{
	bool looks = op->kind == HIST_READ || op->kind == HIST_COUNT || op->kind == HIST_LOOK;
	uint64_t *old = &w->old[op->kind == HIST_LOOK ? HIST_OBJECTS + op->a : op->object];

	if (!w->s->plant || !looks || op->err || op->object == HIST_O_LOG)
		return;
	if (*old && *old - 1 != op->got && rnd(w, w->s->plant) == 0) {
		op->got = *old - 1;
		op->planted = true;
	} else if (!*old || rnd(w, 16) == 0) {
		*old = op->got + 1;
	}
}

/* ---- drawing ---- */
static bool switched_on(const struct worker *w, unsigned object)
{
	uint32_t classes = w->s->classes;
	bool content = object <= HIST_O_WHOLE || object == HIST_O_LOG ||
		       (object >= HIST_O_MAP && object < HIST_O_LOCK);

	if (content && w->me >= w->s->nmounts && !(classes & HIST_C_NEIGHBOUR))
		return false;
	if (object <= HIST_O_WHOLE && !(classes & HIST_C_CONTENT))
		return false;
	switch (object) {
	case HIST_O_SIZE:
		return classes & HIST_C_TRUNCATE;
	case HIST_O_LOG:
		return classes & HIST_C_APPEND;
	case HIST_O_NAMES:
		return classes & HIST_C_NAME;
	case HIST_O_LOCK:
		return classes & HIST_C_LOCK;
	case HIST_O_MAP:
	case HIST_O_MAP + 1:
		return classes & HIST_C_MAP;
	default:
		return object != HIST_O_BLOCK_TAIL;
	}
}

static uint8_t some_object(struct worker *w, uint64_t theme)
{
	uint8_t o = theme % 2 && rnd(w, 4) ? HIST_O_NAMES : (uint8_t)(theme / 2 % HIST_OBJECTS);

	if (!switched_on(w, o) || rnd(w, 3) == 0)
		do
			o = (uint8_t)rnd(w, HIST_OBJECTS);
		while (!switched_on(w, o));
	return o;
}

static uint8_t some_kind(struct worker *w, uint8_t object)
{
	/* No link(): Linux looks the old name up before it makes the new one, in two steps. */
	static const uint8_t names[] = {HIST_CREATE, HIST_CREATE, HIST_CREATE,	  HIST_UNLINK,	 HIST_UNLINK,
					HIST_RENAME, HIST_RENAME, HIST_NOREPLACE, HIST_EXCHANGE, HIST_LOOK,
					HIST_LOOK,   HIST_LOOK,	  HIST_LOOK,	  HIST_LOOK,	 HIST_LOOK,
					HIST_LOOK,   HIST_LOOK,	  HIST_LOOK};
	static const uint8_t locks[] = {HIST_LOCK_SH, HIST_LOCK_EX, HIST_UNLOCK, HIST_UNLOCK};

	switch (object) {
	case HIST_O_NAMES:
		return names[rnd(w, sizeof(names))];
	case HIST_O_LOCK:
		return locks[rnd(w, sizeof(locks))];
	case HIST_O_LOG:
		return rnd(w, 3) ? HIST_COUNT : HIST_APPEND;
	default:
		return rnd(w, 4) ? HIST_READ : HIST_WRITE;
	}
}

static uint64_t some_value(struct worker *w, const struct hist_op *op)
{
	if (op->object == HIST_O_MODE)
		return rnd(w, 512);
	if (op->object == HIST_O_NAMES)
		return 1 + w->me * 63 + w->made++ % 63; /* no two files that live at once have the same */
	if (op->object == HIST_O_SIZE)
		return rnd(w, MAX_SIZE);
	return (uint64_t)w->s->epoch << 40 | (uint64_t)w->me << 32 | ++w->made;
}

static void one(struct worker *w, struct hist_op *op, uint64_t theme, unsigned *n)
{
	static const char *const odd = "an error that nothing explains: ";
	char text[100];

	memset(op, 0, sizeof(*op));
	op->worker = (uint8_t)w->me;
	op->object = some_object(w, theme);
	op->kind = some_kind(w, op->object);
	if (op->object == HIST_O_NAMES) {
		op->a = (uint8_t)rnd(w, HIST_NAMES);
		op->b = (uint8_t)((op->a + 1 + rnd(w, HIST_NAMES - 1)) % HIST_NAMES);
	} else {
		op->a = rnd(w, 2); /* by which of two ways */
	}
	if (op->kind == HIST_WRITE || op->kind == HIST_CREATE || op->kind == HIST_APPEND)
		op->arg = some_value(w, op);
	atomic_store(&w->s->w[w->me].kind, op->kind);
	atomic_store(&w->s->w[w->me].object, op->object);
	if (op->object == HIST_O_BLOCK_HEAD) {
		call_block(w, op);
		plant(w, op);
		*n += 1;
	} else {
		op->from = now();
		op->err = call(w, op) ? errno : 0;
		op->to = now();
		plant(w, op);
	}
	atomic_store(&w->s->w[w->me].object, HIST_OBJECTS);
	bool may = op->err == ENOENT || op->err == EEXIST ||
		   (op->object == HIST_O_LOCK && (op->err == EAGAIN || op->err == EACCES));
	if (op->err && !(may && op->object >= HIST_O_NAMES)) {
		snprintf(text, sizeof(text), "%s%s", odd, strerrorname_np(op->err));
		failed(w, op, text);
	}
	*n += 1;
}

/* ---- epochs ---- */
static void let_go(struct worker *w)
{
	for (unsigned k = 0; k < HIST_FILES; k++)
		if (w->fd[k] >= 0)
			close(w->fd[k]);
	if (w->append >= 0)
		close(w->append);
	if (w->map)
		munmap(w->map, HIST_MAP_WORDS * 4096);
	for (unsigned k = 0; k < HIST_FILES; k++)
		w->fd[k] = -1;
	w->append = -1;
	w->map = NULL;
}

static void take_up(struct worker *w)
{
	struct hist_op nothing = {.object = HIST_OBJECTS};
	char path[4300];
	bool bad = false;

	let_go(w);
	w->dir = w->s->dir[w->me % w->s->nmounts];
	memset(w->old, 0, sizeof(w->old));
	w->made = 0;
	for (unsigned k = 0; k < HIST_FILES; k++) {
		snprintf(path, sizeof(path), "%s/%s", w->dir, files[k]);
		w->fd[k] = open(path, O_RDWR);
		bad = bad || w->fd[k] < 0;
	}
	snprintf(path, sizeof(path), "%s/%s", w->dir, files[HIST_F_LOG]);
	w->append = open(path, O_WRONLY | O_APPEND);
	bad = bad || w->append < 0;
	if (w->s->classes & HIST_C_MAP) {
		void *p = mmap(NULL, HIST_MAP_WORDS * 4096, PROT_READ | PROT_WRITE, MAP_SHARED,
			       w->fd[HIST_F_MAP], 0);
		w->map = p == MAP_FAILED ? NULL : p;
		bad = bad || !w->map;
	}
	if (bad)
		failed(w, &nothing, strerror(errno));
}

void hist_worker(struct hist_shared *s, unsigned me)
{
	struct worker w = {.s = s, .me = me, .append = -1};

	umask(0);
	for (unsigned k = 0; k < HIST_FILES; k++)
		w.fd[k] = -1;
	for (;;) {
		pthread_barrier_wait(&s->begin);
		if (atomic_load(&s->stop))
			return;
		if (s->round == 0)
			take_up(&w);
		uint64_t theme = model_hash(s->seed * 1000003 + s->epoch * 1009ULL + s->round);
		w.rng = model_hash(theme + me);
		/* The first operations of all at the same time, once everybody's files are open. */
		pthread_barrier_wait(&s->begin);
		unsigned n = 0;
		while (n < HIST_ROUND_OPS && !*s->w[me].failed)
			one(&w, &s->w[me].op[n], theme >> 8, &n);
		s->w[me].n = n;
		pthread_barrier_wait(&s->end);
	}
}
