/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the operations of fsx: each does one thing to the file through one mount, and the same to the model.
 * What must never happen: an operation that fails and is taken for done (only what the file system says it does not
 * support is left out, and only with --lenient). */
#include "fsx.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIN(a, b) ((a) < (b) ? (a) : (b))

uint64_t fsx_rnd(struct fsx *x, uint64_t below)
{
	x->rng += 0x9e3779b97f4a7c15ULL;
	uint64_t z = x->rng;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	z ^= z >> 31;
	return below ? z % below : z;
}

/* ---- where and how much ---- */
static size_t some_offset(struct fsx *x)
{
	static const size_t borders[] = {0, 3901, 4096, 8192, 65536, 131072, 1048576, 2097152};
	size_t at;

	switch (fsx_rnd(x, 4)) {
	case 0:
		at = borders[fsx_rnd(x, sizeof(borders) / sizeof(borders[0]))] + fsx_rnd(x, 9);
		at = at > 4 ? at - 4 : 0;
		break;
	case 1:
		at = x->size + fsx_rnd(x, 9);
		at = at > 4 ? at - 4 : 0;
		break;
	case 2:
		at = fsx_rnd(x, x->max) & ~(size_t)4095;
		break;
	default:
		at = fsx_rnd(x, x->max);
	}
	return at < x->max ? at : fsx_rnd(x, x->max);
}

static size_t some_len(struct fsx *x, size_t at)
{
	static const size_t scale[] = {8, 200, 5000, 70000, 1200000};
	size_t len = 1 + fsx_rnd(x, scale[fsx_rnd(x, 5)]);

	return MIN(len, x->max - at);
}

/* The model's bytes, freshly made so that each write can be told from all others. */
static void new_bytes(struct fsx *x, size_t at, size_t len)
{
	uint64_t v = fsx_rnd(x, 0);

	for (size_t i = 0; i < len; i++)
		x->model[at + i] = (uint8_t)(1 + (v + i * 7 + (i >> 8) * 31) % 255);
}

static void grow_model(struct fsx *x, size_t to)
{
	if (to > x->size) /* what is behind the end is kept zero */
		x->size = to;
}

static void log_op(struct fsx *x, const char *op, struct fsx_mount *m, uint64_t off, uint64_t len)
{
	x->log[x->nlog++ % FSX_LOG] = (struct fsx_done){x->op_no, op, (unsigned)(m - x->m), off, len, x->size};
}

static bool same(struct fsx *x, struct fsx_mount *m, const char *how, size_t at, const uint8_t *got, size_t len)
{
	size_t i = 0, n = 0;

	if (!memcmp(x->model + at, got, len))
		return true;
	while (x->model[at + i] == got[i])
		i++;
	for (size_t k = i; k < len; k++)
		n += x->model[at + k] != got[k];
	return fsx_bad(x, "%s by %s: byte %zu (%#zx): expected %#x, got %#x; %zu of %zu bytes from %zu differ", m->path, how, at + i,
		       at + i, x->model[at + i], got[i], n, len, at);
}

/* ---- operations; 1 done, 0 wrong (printed), -1 not supported ---- */
static int op_read(struct fsx *x, struct fsx_mount *m)
{
	size_t at = some_offset(x), len = some_len(x, at), want = at >= x->size ? 0 : MIN(len, x->size - at);

	log_op(x, "read", m, at, len);
	ssize_t n = pread(m->fd, x->buf, len, (off_t)at);
	if (n != (ssize_t)want)
		return fsx_bad(x, "%s: pread(%zu, %zu): expected %zu bytes, got %zd (%s)", m->path, at, len, want, n, strerror(errno));
	return same(x, m, "read", at, x->buf, want);
}

static int op_read_direct(struct fsx *x, struct fsx_mount *m)
{
	size_t at = some_offset(x) / FSX_ALIGN * FSX_ALIGN, len = (some_len(x, at) + FSX_ALIGN - 1) / FSX_ALIGN * FSX_ALIGN;
	size_t want = at >= x->size ? 0 : MIN(len, x->size - at);

	if (m->direct < 0)
		return -1;
	log_op(x, "read direct", m, at, len);
	ssize_t n = pread(m->direct, x->buf, len, (off_t)at);
	if (n < 0 && errno == EIO && x->lenient) /* xfs: "Direct I/O collision with buffered writes" at a delayed extent */
		return 1;
	if (n != (ssize_t)want)
		return fsx_bad(x, "%s: direct pread(%zu, %zu): expected %zu bytes, got %zd (%s)", m->path, at, len, want, n,
			       strerror(errno));
	return same(x, m, "direct read", at, x->buf, want);
}

/* Between mounts, maps and copy_file_range promise less than read and write do (docs/posix.md): a node has to
 * look at the size before it touches what another has added. --wild-map leaves that out. */
static bool size_known(struct fsx *x, struct fsx_mount *m)
{
	struct stat st;

	if (x->nmounts == 1 || x->wild_map || fstat(m->fd, &st) == 0)
		return true;
	return fsx_bad(x, "%s: fstat: expected success, got %s", m->path, strerror(errno));
}

static int op_read_map(struct fsx *x, struct fsx_mount *m)
{
	size_t at = some_offset(x), len = some_len(x, at);

	if (!m->map || at >= x->size)
		return 1;
	len = MIN(len, x->size - at);
	log_op(x, "read map", m, at, len);
	if (!size_known(x, m))
		return 0;
	memcpy(x->buf, m->map + at, len);
	return same(x, m, "map", at, x->buf, len);
}

static int put(struct fsx *x, struct fsx_mount *m, const char *what, int fd, size_t at, size_t len)
{
	new_bytes(x, at, len);
	grow_model(x, at + len);
	log_op(x, what, m, at, len);
	memcpy(x->buf, x->model + at, len);
	ssize_t n = pwrite(fd, x->buf, len, (off_t)at);
	if (n != (ssize_t)len)
		return fsx_bad(x, "%s: %s(%zu, %zu): expected %zu bytes, got %zd (%s)", m->path, what, at, len, len, n, strerror(errno));
	if (x->op_no >= x->plant)
		x->model[at] ^= 0x55;
	return 1;
}

static int op_write(struct fsx *x, struct fsx_mount *m)
{
	size_t at = some_offset(x);
	return put(x, m, "write", m->fd, at, some_len(x, at));
}

static int op_write_direct(struct fsx *x, struct fsx_mount *m)
{
	size_t at = some_offset(x) / FSX_ALIGN * FSX_ALIGN, len = (some_len(x, at) + FSX_ALIGN - 1) / FSX_ALIGN * FSX_ALIGN;

	if (m->direct < 0)
		return -1;
	return at + len > x->max ? 1 : put(x, m, "write direct", m->direct, at, len);
}

static int op_append(struct fsx *x, struct fsx_mount *m)
{
	size_t at = x->size;

	if (at >= x->max)
		return 1;
	return put(x, m, "append", m->append, at, some_len(x, at));
}

static int op_write_map(struct fsx *x, struct fsx_mount *m)
{
	size_t at = some_offset(x), len = some_len(x, at);
	bool sync = fsx_rnd(x, 2);

	if (!m->map || at >= x->size)
		return 1;
	len = MIN(len, x->size - at);
	new_bytes(x, at, len);
	log_op(x, sync ? "write map, msync" : "write map", m, at, len);
	if (!size_known(x, m))
		return 0;
	memcpy(m->map + at, x->model + at, len);
	if (sync && msync(m->map + (at & ~(size_t)4095), len + (at & 4095), MS_SYNC))
		return fsx_bad(x, "%s: msync(%zu, %zu): expected success, got %s", m->path, at, len, strerror(errno));
	return 1;
}

static int op_truncate(struct fsx *x, struct fsx_mount *m)
{
	size_t to = fsx_rnd(x, 6) ? some_offset(x) : 0;
	bool by_path = fsx_rnd(x, 2);

	if (to < x->size)
		memset(x->model + to, 0, x->size - to);
	x->size = to;
	log_op(x, by_path ? "truncate" : "ftruncate", m, to, 0);
	if (by_path ? truncate(m->path, (off_t)to) : ftruncate(m->fd, (off_t)to))
		return fsx_bad(x, "%s: truncate(%zu): expected success, got %s", m->path, to, strerror(errno));
	return 1;
}

static int allocate(struct fsx *x, struct fsx_mount *m, const char *what, int mode, bool zero)
{
	size_t at = some_offset(x), len = some_len(x, at), end = at + len;

	if (!(mode & FALLOC_FL_KEEP_SIZE))
		grow_model(x, end);
	if (zero && at < x->size)
		memset(x->model + at, 0, MIN(end, x->size) - at);
	log_op(x, what, m, at, len);
	if (fallocate(m->fd, mode, (off_t)at, (off_t)len) == 0)
		return 1;
	if (errno == EOPNOTSUPP && x->lenient)
		return -1;
	return fsx_bad(x, "%s: %s(%zu, %zu): expected success, got %s", m->path, what, at, len, strerror(errno));
}

static int op_falloc(struct fsx *x, struct fsx_mount *m)
{
	return allocate(x, m, "fallocate", 0, false);
}

static int op_falloc_keep(struct fsx *x, struct fsx_mount *m)
{
	return allocate(x, m, "fallocate keep", FALLOC_FL_KEEP_SIZE, false);
}

static int op_punch(struct fsx *x, struct fsx_mount *m)
{
	return allocate(x, m, "punch", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, true);
}

static int op_zero(struct fsx *x, struct fsx_mount *m)
{
	return allocate(x, m, "zero", FALLOC_FL_ZERO_RANGE, true);
}

static int op_zero_keep(struct fsx *x, struct fsx_mount *m)
{
	return allocate(x, m, "zero keep", FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, true);
}

static int op_copy(struct fsx *x, struct fsx_mount *m)
{
	size_t from = some_offset(x), to = some_offset(x), len = some_len(x, from > to ? from : to), n = 0;

	if (from >= x->size)
		return 1;
	len = MIN(len, x->size - from);
	if ((from <= to && from + len > to) || (to <= from && to + len > from))
		return 1;
	memcpy(x->model + to, x->model + from, len);
	grow_model(x, to + len);
	if (!size_known(x, m))
		return 0;
	log_op(x, "copy from", m, from, len);
	log_op(x, "copy to", m, to, len);
	while (n < len) {
		off_t i = (off_t)(from + n), o = (off_t)(to + n);
		ssize_t r = copy_file_range(m->fd, &i, m->fd, &o, len - n, 0);
		if (r <= 0)
			return fsx_bad(x, "%s: copy_file_range(%zu to %zu, %zu): expected bytes at %zu, got %zd (%s)", m->path, from, to,
				       len, n, r, strerror(errno));
		n += (size_t)r;
	}
	return 1;
}

static bool zeros(const struct fsx *x, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		if (x->model[i])
			return false;
	return true;
}

/* What SEEK_DATA skips must be zeros; what follows a hole's start must be where it says. */
static int op_seek(struct fsx *x, struct fsx_mount *m)
{
	size_t at = some_offset(x);

	if (at >= x->size)
		return 1;
	log_op(x, "seek", m, at, 0);
	if (m->map && !x->wild_map) /* a store that was not written back is no data yet (docs/posix.md) */
		msync(m->map, x->max, MS_SYNC);
	off_t d = lseek(m->fd, (off_t)at, SEEK_DATA);
	int e = errno;
	off_t h = lseek(m->fd, (off_t)at, SEEK_HOLE);
	if (d < 0 && e != ENXIO)
		return fsx_bad(x, "%s: SEEK_DATA(%zu): got %s", m->path, at, strerror(e));
	if (d >= 0 && ((size_t)d < at || (size_t)d >= x->size))
		return fsx_bad(x, "%s: SEEK_DATA(%zu): expected an offset below the size %zu, got %lld", m->path, at, x->size, (long long)d);
	if (!zeros(x, at, d < 0 ? x->size : (size_t)d))
		return fsx_bad(x, "%s: SEEK_DATA(%zu): gives %lld, but there is data before it", m->path, at, (long long)d);
	if (h < (off_t)at || h > (off_t)x->size)
		return fsx_bad(x, "%s: SEEK_HOLE(%zu): expected an offset up to the size %zu, got %lld", m->path, at, x->size, (long long)h);
	if (d > (off_t)at && h != (off_t)at)
		return fsx_bad(x, "%s: offset %zu is neither data nor hole: data at %lld, hole at %lld", m->path, at, (long long)d, (long long)h);
	return 1;
}

static int op_sync(struct fsx *x, struct fsx_mount *m)
{
	bool data = fsx_rnd(x, 2);

	log_op(x, data ? "fdatasync" : "fsync", m, 0, 0);
	if (data ? fdatasync(m->fd) : fsync(m->fd))
		return fsx_bad(x, "%s: fsync: expected success, got %s", m->path, strerror(errno));
	return 1;
}

static int op_reopen(struct fsx *x, struct fsx_mount *m)
{
	log_op(x, "reopen", m, 0, 0);
	fsx_close(x, m);
	return fsx_open(x, m, false);
}

static int op_size(struct fsx *x, struct fsx_mount *m)
{
	struct stat st;

	if (fsx_rnd(x, 2) ? stat(m->path, &st) : fstat(m->fd, &st))
		return fsx_bad(x, "%s: stat: expected success, got %s", m->path, strerror(errno));
	if ((size_t)st.st_size != x->size)
		return fsx_bad(x, "%s: size: expected %zu, got %lld", m->path, x->size, (long long)st.st_size);
	return 1;
}

static int op_forget(struct fsx *x, struct fsx_mount *m)
{
	log_op(x, "drop pages", m, 0, 0);
	posix_fadvise(m->fd, 0, 0, POSIX_FADV_DONTNEED);
	return 1;
}

static int op_all(struct fsx *x, struct fsx_mount *m)
{
	log_op(x, "check all", m, 0, 0);
	return fsx_check_all(x);
}

static const struct {
	int (*fn)(struct fsx *, struct fsx_mount *);
	unsigned weight;
} table[] = {
	{op_read, 20},	     {op_read_direct, 5}, {op_read_map, 8}, {op_write, 20}, {op_write_direct, 5}, {op_append, 5},
	{op_write_map, 8},   {op_truncate, 8},	   {op_falloc, 2},   {op_falloc_keep, 2}, {op_punch, 6},    {op_zero, 3},
	{op_zero_keep, 3},   {op_copy, 4},	   {op_seek, 4},     {op_sync, 2},	  {op_reopen, 2},   {op_size, 10},
	{op_forget, 2},	     {op_all, 2},
};

bool fsx_check_all(struct fsx *x)
{
	for (unsigned i = 0; i < x->nmounts; i++) {
		struct fsx_mount *m = &x->m[i];
		ssize_t n = pread(m->fd, x->buf, x->max, 0);
		if (n != (ssize_t)x->size)
			return fsx_bad(x, "%s: read of all: expected %zu bytes, got %zd (%s)", m->path, x->size, n, strerror(errno));
		if (!same(x, m, "read of all", 0, x->buf, x->size) || !op_size(x, m))
			return false;
	}
	return true;
}

bool fsx_step(struct fsx *x)
{
	unsigned total = 0, i = 0;

	for (unsigned k = 0; k < sizeof(table) / sizeof(table[0]); k++)
		total += table[k].weight;
	unsigned pick = (unsigned)fsx_rnd(x, total);
	struct fsx_mount *m = &x->m[fsx_rnd(x, x->nmounts)];
	while (pick >= table[i].weight)
		pick -= table[i++].weight;
	x->op_no++;
	if (x->off_ops >> i & 1)
		return true;
	int rc = table[i].fn(x, m);
	if (rc < 0) {
		x->off_ops |= 1ULL << i;
		return fsx_open(x, m, true); /* the model may be ahead: both start again */
	}
	return rc;
}
