/* SPDX-License-Identifier: Apache-2.0 */
/* Job: random operations on a few files against a model in memory, through clean remounts, revokes and power failures.
 * After a power failure every byte must be one it had since the last fsync (zero where the file was shorter at some time
 * since), the size one it had; a file that was synced last is exactly as it was. Never a byte of the pattern on the disks.
 * FSX_SEED and FSX_ROUNDS choose other runs. */
#include "fs_data_util.h"

#include <stdio.h>

#define FILES 3
#define MAXLEN (1u << 20)
#define HISTORY 24

struct snap {
	uint8_t *b;
	uint64_t size;
};
struct model {
	struct snap s[HISTORY]; /* s[0]: at the last fsync; s[n-1]: now */
	unsigned n;
	char name[8];
};
struct fsx {
	struct fsh *h;
	struct fs *fs;
	struct model m[FILES];
	struct fs_file *f[FILES];
	uint64_t rng, seed;
	unsigned ops, step;
	bool verbose;
	uint8_t *buf;
};

static uint64_t rnd(struct fsx *x, uint64_t n)
{
	x->rng = ts_hash_u64(x->rng + 0x9e3779b97f4a7c15ULL);
	return x->rng % n;
}

static void say(struct fsx *x, const char *what, unsigned i, uint64_t a, uint64_t b)
{
	x->step++;
	if (x->verbose)
		fprintf(stderr, "%u: file %u %s %lu %lu (size %lu)\n", x->step, i, what, a, b, x->m[i].s[x->m[i].n - 1].size);
}

static void snap_free(struct snap *s)
{
	ts_free(s->b);
	s->b = NULL;
}
static struct snap *now(struct model *m)
{
	return &m->s[m->n - 1];
}
/* A new state, at first a copy of the old one. */
static struct snap *push(struct model *m)
{
	struct snap *was = now(m), *s = &m->s[m->n++];

	TS_ASSERT(m->n <= HISTORY);
	s->b = ts_xalloc(MAXLEN);
	memcpy(s->b, was->b, MAXLEN);
	s->size = was->size;
	return s;
}
static void settle(struct model *m)
{
	for (unsigned i = 0; i + 1 < m->n; i++)
		snap_free(&m->s[i]);
	m->s[0] = m->s[m->n - 1];
	m->n = 1;
}

static void read_all(struct fsx *x, unsigned i, uint64_t *size)
{
	uint64_t at = 0;

	for (;;) {
		size_t want = 1 + rnd(x, 200000);
		ssize_t n = fs_read(x->fs, x->f[i], x->buf + at, TS_MIN(want, 2u * MAXLEN - at), at);

		assert_true(n >= 0);
		if (!n)
			break;
		at += (uint64_t)n;
	}
	*size = at;
}

static void compare(struct fsx *x, unsigned i)
{
	struct snap *s = now(&x->m[i]);
	uint64_t size;

	read_all(x, i, &size);
	if (size != s->size)
		TS_PANIC("seed %lu step %u file %u: size %lu, should be %lu", x->seed, x->step, i, size, s->size);
	for (uint64_t o = 0; o < size; o++)
		if (x->buf[o] != s->b[o])
			TS_PANIC("seed %lu step %u file %u: byte %lu is %#x, should be %#x", x->seed, x->step, i, o, x->buf[o], s->b[o]);
}

/* After a power failure: what is there was there. It becomes the model's truth. */
static void compare_history(struct fsx *x, unsigned i)
{
	struct model *m = &x->m[i];
	uint64_t size, lo = UINT64_MAX, hi = 0;

	read_all(x, i, &size);
	for (unsigned k = 0; k < m->n; k++) {
		lo = TS_MIN(lo, m->s[k].size);
		hi = TS_MAX(hi, m->s[k].size);
	}
	if (size < lo || size > hi)
		TS_PANIC("seed %lu step %u file %u after power failure: size %lu, was %lu..%lu", x->seed, x->step, i, size, lo, hi);
	for (uint64_t o = 0; o < size; o++) {
		bool ok = false;

		for (unsigned k = 0; k < m->n && !ok; k++)
			ok = o < m->s[k].size ? m->s[k].b[o] == x->buf[o] : !x->buf[o];
		if (!ok)
			TS_PANIC("seed %lu step %u file %u after power failure: byte %lu is %#x (now %#x, synced %#x of %lu, %u states)", x->seed,
				 x->step, i, o, x->buf[o], now(m)->b[o], m->s[0].b[o], m->s[0].size, m->n);
	}
	settle(m);
	memcpy(now(m)->b, x->buf, size);
	memset(now(m)->b + size, 0, MAXLEN - size);
	now(m)->size = size;
}

/* ---- operations -------------------------------------------------------------------------------------------------- */

static uint64_t some_off(struct fsx *x, unsigned i, uint64_t len)
{
	uint64_t size = now(&x->m[i])->size, off;

	switch (rnd(x, 4)) {
	case 0:
		off = size;
		break;
	case 1:
		off = rnd(x, MAXLEN - len);
		break;
	case 2:
		off = rnd(x, TS_MIN(size + 1, MAXLEN - len)) / 4096 * 4096;
		break;
	default:
		off = rnd(x, TS_MIN(size + 5000, MAXLEN - len));
	}
	return TS_MIN(off, MAXLEN - len);
}
static uint64_t some_len(struct fsx *x)
{
	static const uint64_t max[] = {10, 500, 4000, 4096, 20000, 66000, 300000};

	return 1 + rnd(x, max[rnd(x, TS_ARRAY_LEN(max))]);
}

static void op_write(struct fsx *x, unsigned i)
{
	uint64_t len = some_len(x), off = some_off(x, i, len), got;
	bool append = !rnd(x, 6) && now(&x->m[i])->size + len < MAXLEN;
	struct snap *s = push(&x->m[i]);

	if (append)
		off = s->size;
	say(x, append ? "append" : "write", i, off, len);
	for (uint64_t k = 0; k < len; k++) {
		uint8_t v = (uint8_t)rnd(x, 255);

		s->b[off + k] = v == 0xa5 ? 0xa6 : v;
	}
	assert_int_equal(fs_write(x->fs, x->f[i], s->b + off, len, append ? 1 : off, append, false, &got), (int64_t)len);
	assert_int_equal(got, off);
	s->size = TS_MAX(s->size, off + len);
}

static void op_truncate(struct fsx *x, unsigned i)
{
	struct snap *s = push(&x->m[i]);
	uint64_t size = rnd(x, 3) ? rnd(x, MAXLEN) : rnd(x, 3) ? rnd(x, 5000) : 0;
	struct fs_setattr a = {.valid = FS_SET_SIZE, .size = size};
	struct fs_cred c = {0};
	struct fs_attr out;

	say(x, "truncate", i, size, 0);
	assert_int_equal(fs_setattr(x->fs, &c, fs_file_ino(x->f[i]), &a, &out), 0);
	assert_int_equal(out.size, size);
	if (size < s->size)
		memset(s->b + size, 0, s->size - size);
	s->size = size;
}

static void op_fallocate(struct fsx *x, unsigned i)
{
	static const int modes[] = {0, FS_FALLOC_KEEP_SIZE, FS_FALLOC_PUNCH | FS_FALLOC_KEEP_SIZE, FS_FALLOC_ZERO,
				    FS_FALLOC_ZERO | FS_FALLOC_KEEP_SIZE};
	int mode = modes[rnd(x, TS_ARRAY_LEN(modes))];
	uint64_t len = some_len(x), off = some_off(x, i, len);
	struct snap *s = push(&x->m[i]);

	say(x, mode & FS_FALLOC_PUNCH ? "punch" : mode & FS_FALLOC_ZERO ? "zero" : "allocate", i, off, len);
	assert_int_equal(fs_fallocate(x->fs, x->f[i], mode, off, len, false), 0);
	if (mode & (FS_FALLOC_PUNCH | FS_FALLOC_ZERO))
		memset(s->b + off, 0, len);
	if (!(mode & FS_FALLOC_KEEP_SIZE))
		s->size = TS_MAX(s->size, off + len);
}

static void op_copy(struct fsx *x, unsigned i)
{
	unsigned j = (i + 1) % FILES;
	uint64_t len = some_len(x), to = some_off(x, i, len), from = rnd(x, now(&x->m[j])->size + 1);
	struct snap *s, *src = now(&x->m[j]);

	len = TS_MIN(len, src->size - from);
	if (!len)
		return;
	s = push(&x->m[i]);
	say(x, "copy", i, to, len);
	assert_int_equal(fs_copy_range(x->fs, x->f[j], from, x->f[i], to, len, false), (int64_t)len);
	memcpy(s->b + to, src->b + from, len);
	s->size = TS_MAX(s->size, to + len);
}

/* Holes read as zeros, and everything that is not zero is in data. */
static void op_seek(struct fsx *x, unsigned i)
{
	struct snap *s = now(&x->m[i]);
	uint64_t pos = 0;

	while (pos < s->size) {
		int64_t data = fs_seek(x->fs, x->f[i], pos, false), hole;

		for (uint64_t o = pos; o < (data < 0 ? s->size : (uint64_t)data); o++)
			if (s->b[o])
				TS_PANIC("seed %lu step %u file %u: byte %lu in a hole", x->seed, x->step, i, o);
		if (data < 0) {
			assert_int_equal(data, -ENXIO);
			break;
		}
		hole = fs_seek(x->fs, x->f[i], (uint64_t)data, true);
		assert_true(hole > data);
		pos = (uint64_t)hole;
	}
}

static void op_fsync(struct fsx *x, unsigned i)
{
	say(x, "fsync", i, 0, 0);
	assert_int_equal(fs_fsync(x->fs, x->f[i], rnd(x, 2)), 0);
	settle(&x->m[i]);
}

static void op_revoke(struct fsx *x, unsigned i)
{
	uint64_t ino = fs_file_ino(x->f[i]);

	say(x, "revoke", i, 0, 0);
	if (rnd(x, 3))
		assert_int_equal(fs_tok_stub_revoke(x->fs->tok, TOK_DATA, ino, rnd(x, 2) ? TOK_NL : TOK_SH), 0);
	if (rnd(x, 3)) {
		assert_int_equal(fs_tok_stub_revoke(x->fs->tok, TOK_INODE, ino, TOK_NL), 0);
		settle(&x->m[i]);
	}
}

static void one_op(struct fsx *x)
{
	unsigned i = (unsigned)rnd(x, FILES);

	if (x->m[i].n >= HISTORY - 1)
		op_fsync(x, i);
	switch (rnd(x, 20)) {
	case 0: case 1: case 2: case 3: case 4: case 5: case 6:
		op_write(x, i);
		break;
	case 7: case 8: case 9:
		op_truncate(x, i);
		break;
	case 10: case 11: case 12:
		op_fallocate(x, i);
		break;
	case 13:
		op_copy(x, i);
		break;
	case 14:
		op_seek(x, i);
		break;
	case 15: case 16:
		op_fsync(x, i);
		break;
	case 17:
		op_revoke(x, i);
		break;
	case 18:
		ts_sleep_until(ts_exec_now(x->fs->exec) + rnd(x, 7000) * TS_NS_PER_MS);
		break;
	default:
		compare(x, i);
	}
}

static void open_all(struct fsx *x, bool create)
{
	struct fs_cred c = {0};
	struct fs_attr a;

	for (unsigned i = 0; i < FILES; i++) {
		const char *name = x->m[i].name;

		if (create) {
			assert_int_equal(fs_create(x->fs, &c, FS_ROOT_INO, name, strlen(name), S_IFREG | 0644, O_RDWR, &x->f[i], &a), 0);
			assert_int_equal(fs_fsync(x->fs, x->f[i], false), 0);
		} else {
			assert_int_equal(fs_lookup(x->fs, &c, FS_ROOT_INO, name, strlen(name), &a), 0);
			assert_int_equal(fs_open(x->fs, &c, a.ino, O_RDWR, &x->f[i]), 0);
		}
	}
}

static void first_fiber(void *arg)
{
	open_all(arg, true);
}
static void again_fiber(void *arg)
{
	struct fsx *x = arg;

	open_all(x, false);
	for (unsigned i = 0; i < FILES; i++)
		compare_history(x, i);
}
static void ops_fiber(void *arg)
{
	struct fsx *x = arg;

	for (unsigned n = 0; n < x->ops; n++)
		one_op(x);
}
static void close_fiber(void *arg)
{
	struct fsx *x = arg;

	for (unsigned i = 0; i < FILES; i++) {
		compare(x, i);
		fs_release(x->fs, x->f[i]);
		settle(&x->m[i]);
	}
}

static void finding(void *arg, const char *text, bool repaired)
{
	struct fsx *x = arg;

	TS_PANIC("seed %lu step %u: fs check: %s", x->seed, x->step, text);
}
static void check_fiber(void *arg)
{
	struct fsx *x = arg;
	struct fs_check_args a = {.disks = x->h->devs, .ndisks = x->h->ndisks, .env = &x->h->env, .finding = finding, .arg = x};
	struct fs_check_result r;
	char err[256] = "";
	int rc = fs_check(&a, true, &r, err, sizeof(err));

	if (rc || r.findings)
		TS_PANIC("seed %lu step %u: fs check: %d, %lu findings, %s", x->seed, x->step, rc, r.findings, err);
}

static void run_seed(uint64_t seed, unsigned rounds, uint32_t block, unsigned ndisks)
{
	struct fsx *x = ts_xalloc(sizeof(*x));

	memset(x, 0, sizeof(*x));
	x->seed = x->rng = seed;
	x->verbose = getenv("FSX_VERBOSE") != NULL;
	x->buf = ts_xalloc(2 * MAXLEN);
	x->h = du_new(ndisks, 64 << 20, block);
	for (unsigned i = 0; i < FILES; i++) {
		x->m[i].n = 1;
		x->m[i].s[0].b = ts_xalloc(MAXLEN);
		memset(x->m[i].s[0].b, 0, MAXLEN);
		snprintf(x->m[i].name, sizeof(x->m[i].name), "f%u", i);
	}
	for (unsigned r = 0; r < rounds; r++) {
		x->fs = fsh_mount(x->h);
		fsh_run(x->h, r ? again_fiber : first_fiber, x);
		for (unsigned d = 0; d < ndisks; d++) {
			x->h->disk[d]->write_ns = rnd(x, 3) * TS_NS_PER_MS;
			x->h->disk[d]->read_ns = rnd(x, 2) * TS_NS_PER_MS / 2;
		}
		x->ops = (unsigned)rnd(x, 120);
		fsh_run(x->h, ops_fiber, x);
		if (rnd(x, 3)) {
			uint64_t s = rnd(x, 4) ? rnd(x, 1000) : 0;

			if (x->verbose)
				fprintf(stderr, "power failure %lu\n", s);
			fsh_crash(x->h, s);
		} else {
			if (x->verbose)
				fprintf(stderr, "unmount\n");
			fsh_run(x->h, close_fiber, x);
			fsh_unmount(x->h);
		}
		fsh_run(x->h, check_fiber, x); /* after a power failure as replay will leave it */
	}
	for (unsigned i = 0; i < FILES; i++) {
		settle(&x->m[i]);
		snap_free(&x->m[i].s[0]);
	}
	fsh_free(x->h);
	ts_free(x->buf);
	ts_free(x);
}

static uint64_t env_number(const char *name, uint64_t other)
{
	const char *v = getenv(name);

	return v ? strtoull(v, NULL, 0) : other;
}

static void random_files(void **state)
{
	uint64_t seed = env_number("FSX_SEED", 1), n = env_number("FSX_SEEDS", 6);

	for (uint64_t s = seed; s < seed + n; s++)
		run_seed(s, (unsigned)env_number("FSX_ROUNDS", 6), s % 3 == 0 ? 256 << 10 : 64 << 10, 1 + s % 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(random_files)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
