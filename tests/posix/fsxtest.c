/* SPDX-License-Identifier: Apache-2.0 */
/* fsxtest: random operations on one file, through one mount or several by turns, against a model in memory.
 *
 * A run is given by its seed; on failure the seed and the last operations are printed, and --seed SEED repeats it.
 * What must never happen: a difference that is not noticed (--plant makes one on purpose). */
#include "fsx.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static struct fsx *current;

static void usage(FILE *f)
{
	fputs("Usage: fsxtest [OPTION...] DIR...\n"
	      "Random operations on a file in DIR; several DIRs are mounts of the same file system (at most 3).\n"
	      "  --seed N       first seed (1)             --seeds N    this many seeds, one after the other (1)\n"
	      "  --ops N        operations of a seed (2000) --seconds N  no new seed after this time\n"
	      "  --size N       largest size of the file (by seed: 6000 to 3500000)\n"
	      "  --lenient      leave out what the file system does not support\n"
	      "  --no-direct    without O_DIRECT           --no-map     without mmap\n"
	      "  --wild-map     maps without the fstat that the known differences ask for\n"
	      "  --save DIR     on failure put there what the file should be\n"
	      "  --plant N      wrong bytes from operation N on: the run must fail\n",
	      f);
}

/* ---- failure ---- */
static void print_log(const struct fsx *x)
{
	unsigned n = x->nlog < FSX_LOG ? x->nlog : FSX_LOG;

	printf("the last %u operations (number, mount, operation, offset, length, size behind it):\n", n);
	for (unsigned i = x->nlog - n; i != x->nlog; i++) {
		const struct fsx_done *d = &x->log[i % FSX_LOG];
		printf("  %6llu %u %-18s %10llu %8llu %10llu\n", (unsigned long long)d->no, d->mount, d->op, (unsigned long long)d->off,
		       (unsigned long long)d->len, (unsigned long long)d->size);
	}
}

static void save_model(const struct fsx *x)
{
	char p[4200];

	if (!x->save)
		return;
	snprintf(p, sizeof(p), "%s/fsx-%llu.good", x->save, (unsigned long long)x->seed);
	int fd = open(p, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (fd < 0 || write(fd, x->model, x->size) != (ssize_t)x->size)
		printf("%s: %s\n", p, strerror(errno));
	else
		printf("what %s should be: %s\n", x->m[0].path, p);
	if (fd >= 0)
		close(fd);
}

bool fsx_bad(struct fsx *x, const char *fmt, ...)
{
	va_list ap;

	print_log(x);
	printf("FAIL fsx seed %llu operation %llu: ", (unsigned long long)x->seed, (unsigned long long)x->op_no);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	save_model(x);
	printf("again: --seed %llu --ops %llu --size %zu%s%s, %u mounts\n", (unsigned long long)x->seed,
	       (unsigned long long)x->ops, x->max, x->no_direct ? " --no-direct" : "", x->no_map ? " --no-map" : "", x->nmounts);
	fflush(stdout);
	return false;
}

static void on_bus(int sig)
{
	if (current)
		fsx_bad(current, "%s: load or store within the file: got signal %d", current->m[0].path, sig);
	_exit(1);
}

/* ---- the file ---- */
void fsx_close(struct fsx *x, struct fsx_mount *m)
{
	if (m->map)
		munmap(m->map, x->max);
	if (m->fd >= 0)
		close(m->fd);
	if (m->append >= 0)
		close(m->append);
	if (m->direct >= 0)
		close(m->direct);
	m->map = NULL;
	m->fd = m->append = m->direct = -1;
}

static bool open_one(struct fsx *x, struct fsx_mount *m, int flags)
{
	m->fd = open(m->path, O_RDWR | flags, 0644);
	m->append = open(m->path, O_RDWR | O_APPEND);
	if (m->fd < 0 || m->append < 0)
		return fsx_bad(x, "%s: open: expected success, got %s", m->path, strerror(errno));
	if (!x->no_direct) {
		m->direct = open(m->path, O_RDWR | O_DIRECT);
		if (m->direct < 0 && !x->lenient)
			return fsx_bad(x, "%s: open with O_DIRECT: expected success, got %s", m->path, strerror(errno));
	}
	if (x->no_map)
		return true;
	m->map = mmap(NULL, x->max, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	if (m->map == MAP_FAILED) {
		m->map = NULL;
		return fsx_bad(x, "%s: mmap: expected success, got %s", m->path, strerror(errno));
	}
	return true;
}

/* create: the file begins anew, through this mount, and every other opens it. */
bool fsx_open(struct fsx *x, struct fsx_mount *m, bool create)
{
	if (!create)
		return open_one(x, m, 0);
	memset(x->model, 0, x->max);
	x->size = 0;
	for (unsigned i = 0; i < x->nmounts; i++)
		fsx_close(x, &x->m[i]);
	if (!open_one(x, m, O_CREAT | O_TRUNC))
		return false;
	for (unsigned i = 0; i < x->nmounts; i++)
		if (&x->m[i] != m && !open_one(x, &x->m[i], 0))
			return false;
	return true;
}

/* ---- one seed ---- */
static bool run_seed(struct fsx *x, size_t max)
{
	static const size_t by_seed[] = {6000, 70000, 400000, 3500000};
	bool ok;

	x->max = max ? max : by_seed[x->seed % 4];
	x->rng = x->seed * 0x2545f4914f6cdd1dULL;
	x->op_no = x->nlog = x->size = 0;
	x->off_ops = 0;
	x->model = calloc(1, x->max + FSX_ALIGN);
	if (!x->model || posix_memalign((void **)&x->buf, FSX_ALIGN, x->max + 2 * FSX_ALIGN))
		return fsx_bad(x, "no memory");
	ok = fsx_open(x, &x->m[0], true);
	while (ok && x->op_no < x->ops)
		ok = fsx_step(x);
	ok = ok && fsx_check_all(x);
	for (unsigned i = 0; i < x->nmounts; i++)
		fsx_close(x, &x->m[i]);
	if (ok && unlink(x->m[x->seed % x->nmounts].path))
		ok = fsx_bad(x, "%s: unlink: expected success, got %s", x->m[x->seed % x->nmounts].path, strerror(errno));
	free(x->model);
	free(x->buf);
	return ok;
}

struct args {
	uint64_t seeds, seconds;
	size_t max;
};

static bool number(const char *name, const char *arg, const char *value, uint64_t *out)
{
	if (strcmp(name, arg) || !value)
		return false;
	*out = strtoull(value, NULL, 0);
	return true;
}

/* Returns the first argument that is no option, or 0. */
static int parse(int argc, char **argv, struct fsx *x, struct args *a)
{
	int i = 1;

	for (; i < argc && argv[i][0] == '-'; i++) {
		const char *o = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
		uint64_t max = a->max;
		if (number("--seed", o, v, &x->seed) || number("--seeds", o, v, &a->seeds) || number("--ops", o, v, &x->ops) ||
		    number("--seconds", o, v, &a->seconds) || number("--size", o, v, &max) || number("--plant", o, v, &x->plant)) {
			a->max = max;
			i++;
		} else if (!strcmp(o, "--save") && v) {
			x->save = argv[++i];
		} else if (!strcmp(o, "--lenient")) {
			x->lenient = true;
		} else if (!strcmp(o, "--no-direct")) {
			x->no_direct = true;
		} else if (!strcmp(o, "--wild-map")) {
			x->wild_map = true;
		} else if (!strcmp(o, "--no-map")) {
			x->no_map = true;
		} else {
			usage(!strcmp(o, "--help") ? stdout : stderr);
			exit(strcmp(o, "--help") ? 2 : 0);
		}
	}
	return i < argc && argc - i <= FSX_MOUNTS ? i : 0;
}

int main(int argc, char **argv)
{
	static struct fsx fsx = {.seed = 1, .ops = 2000, .plant = UINT64_MAX};
	struct args a = {.seeds = 1, .seconds = UINT64_MAX};
	int first = parse(argc, argv, &fsx, &a);
	uint64_t done = 0, ops = 0;
	time_t start = time(NULL);

	if (!first)
		return usage(stderr), 2;
	current = &fsx;
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	signal(SIGBUS, on_bus);
	fsx.nmounts = (unsigned)(argc - first);
	for (; done < a.seeds && (uint64_t)(time(NULL) - start) < a.seconds; done++, fsx.seed++) {
		for (unsigned i = 0; i < fsx.nmounts; i++) {
			struct fsx_mount *m = &fsx.m[i];
			snprintf(m->path, sizeof(m->path), "%.4000s/fsx.%d.%llu", argv[first + (int)i], (int)getpid(),
				 (unsigned long long)fsx.seed);
			m->fd = m->append = m->direct = -1;
			m->map = NULL;
		}
		if (!run_seed(&fsx, a.max))
			return 1;
		ops += fsx.op_no;
	}
	printf("fsx: %llu seeds, %llu operations, %u mounts: no difference\n", (unsigned long long)done, (unsigned long long)ops, fsx.nmounts);
	return 0;
}
