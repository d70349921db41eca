/* SPDX-License-Identifier: Apache-2.0 */
/* modeltest: random operations through randomly chosen mounts, one at a time, every answer compared with a
 * file system in memory. A run is given by its seed; a failure is shrunk to a short script, which --replay
 * repeats. What must never happen: a wrong answer that is not noticed (--plant makes some on purpose). */
#include "model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_OPS 100000

static const struct {
	const char *name;
	uint32_t class;
} classes[] = {{"data", MODEL_C_DATA},	     {"append", MODEL_C_APPEND}, {"truncate", MODEL_C_TRUNCATE},
	       {"map", MODEL_C_MAP},	     {"name", MODEL_C_NAME},	 {"link", MODEL_C_LINK},
	       {"symlink", MODEL_C_SYMLINK}, {"mode", MODEL_C_MODE},	 {"xattr", MODEL_C_XATTR},
	       {"lock", MODEL_C_LOCK}};

struct args {
	uint64_t total, per_seed, seconds;
	uint32_t classes;
	const char *replay, *save;
};

static void usage(FILE *f)
{
	fputs("Usage: modeltest [OPTION...] DIR...\n"
	      "Random operations in DIR against a model; several DIRs are mounts of the same file system (at "
	      "most 3).\n"
	      "  --seed N        first seed (1)              --ops N        operations of all seeds together "
	      "(10000)\n"
	      "  --per-seed N    operations of a seed (1000)  --seconds N    no new seed after this time\n"
	      "  --locks         with OFD locks and flock\n"
	      "  --no-CLASS      without data, append, truncate, map, name, link, symlink, mode or xattr\n"
	      "  --clocks MS     the mounts are on machines whose clocks may differ by so much\n"
	      "  --save DIR      put there the script of a failure, whole and shrunk\n"
	      "  --replay FILE   this script instead of random operations\n"
	      "  --counter CMD   prints how many requests reached the daemons; asked before and behind\n"
	      "  --plant N       about one look in N is answered from an old cache: the run must fail\n"
	      "  -v              every operation\n",
	      f);
}

static bool number(const char *name, const char *arg, const char *value, uint64_t *out)
{
	if (strcmp(name, arg) || !value)
		return false;
	*out = strtoull(value, NULL, 0);
	return true;
}

static bool word(const char *name, const char *arg, const char *value, const char **out)
{
	if (strcmp(name, arg) || !value)
		return false;
	*out = value;
	return true;
}

static bool without_class(const char *arg, struct args *a)
{
	for (unsigned k = 0; k < sizeof(classes) / sizeof(classes[0]); k++)
		if (!strncmp(arg, "--no-", 5) && !strcmp(arg + 5, classes[k].name)) {
			a->classes &= ~classes[k].class;
			return true;
		}
	return false;
}

/* Returns the first argument that is no option, or 0. */
static int parse(int argc, char **argv, struct model_run *r, struct args *a)
{
	int i = 1;

	for (; i < argc && argv[i][0] == '-'; i++) {
		const char *o = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
		if (number("--seed", o, v, &r->seed) || number("--ops", o, v, &a->total) ||
		    number("--per-seed", o, v, &a->per_seed) || number("--seconds", o, v, &a->seconds) ||
		    number("--plant", o, v, &r->plant) || word("--save", o, v, &a->save) ||
		    number("--clocks", o, v, &r->clocks_ms) ||
		    word("--replay", o, v, &a->replay) || word("--counter", o, v, &r->counter)) {
			i++;
		} else if (!strcmp(o, "--locks")) {
			a->classes |= MODEL_C_LOCK;
		} else if (!strcmp(o, "-v")) {
			r->verbose = true;
		} else if (!without_class(o, a)) {
			usage(!strcmp(o, "--help") ? stdout : stderr);
			exit(strcmp(o, "--help") ? 2 : 0);
		}
	}
	bool good = a->per_seed > 0 && a->per_seed <= MAX_OPS && a->classes & MODEL_C_NAME;
	return good && i < argc && argc - i <= MODEL_MOUNTS ? i : 0;
}

/* ---- scripts in files ---- */
static void save(const struct args *a, const struct model_run *r, const struct model_op *ops, size_t n,
		 const char *what)
{
	char path[4200];

	if (!a->save)
		return;
	snprintf(path, sizeof(path), "%.4000s/model-%llu.%s", a->save, (unsigned long long)r->seed, what);
	FILE *f = fopen(path, "w");
	if (!f) {
		printf("%s: %s\n", path, strerror(errno));
		return;
	}
	model_script_head(f);
	for (size_t k = 0; k < n; k++)
		model_script_print(f, &ops[k]);
	fclose(f);
	printf("script: %s\n", path);
}

static size_t load(const char *path, struct model_op *ops)
{
	char line[400];
	size_t n = 0;
	FILE *f = fopen(path, "r");

	if (!f) {
		fprintf(stderr, "modeltest: %s: %s\n", path, strerror(errno));
		exit(2);
	}
	while (n < MAX_OPS && fgets(line, sizeof(line), f))
		n += model_script_parse(line, &ops[n]);
	fclose(f);
	return n;
}

/* ---- failing ---- */
static void report(struct model_run *r, const struct args *a, struct model_op *ops, size_t n,
		   struct model_failure *f)
{
	static struct model_op whole[MAX_OPS];
	struct model_failure first = *f;
	bool at_end = f->kind == MODEL_KINDS;

	printf("FAIL model seed %llu operation %zu of %zu, %s: %s: %s\n", (unsigned long long)r->seed, f->at,
	       n, at_end ? "the look at everything behind it" : model_kind_name(f->kind), f->part, f->text);
	if (strcmp(f->part, "setup") == 0)
		return;
	n = f->at;
	printf("  ");
	model_script_print(stdout, &ops[n - 1]);
	memcpy(whole, ops, n * sizeof(*ops));
	save(a, r, whole, n, "script");
	fflush(stdout);
	r->verbose = false;
	size_t left = model_shrink(r, ops, n, f, 90);
	if (!left) {
		printf("it did not fail in this way when it was repeated\n");
	} else {
		printf("shrunk to %zu operations, then %s: %s\n", left, f->part, f->text);
		model_script_head(stdout);
		for (size_t k = 0; k < left && k < 100; k++)
			model_script_print(stdout, &ops[k]);
		save(a, r, ops, left, "short");
	}
	printf("again: --seed %llu --per-seed %llu%s\n", (unsigned long long)r->seed,
	       (unsigned long long)a->per_seed, a->save ? ", or --replay with the script" : "");
	*f = first;
}

static void print_hits(const struct model_run *r, long long before, long long after)
{
	if (before < 0 || after < before)
		return;
	long long requests = after - before, changes = (long long)(r->done - r->looks);
	printf("caches: %llu looks (stat, read, list) and %lld other operations; %lld requests reached the "
	       "daemons\n",
	       (unsigned long long)r->looks, changes, requests);
	printf("caches: of %llu looks at what nobody changes, %lld reached a daemon\n",
	       (unsigned long long)r->warm_looks, r->warm_requests);
}

int main(int argc, char **argv)
{
	static struct model_op ops[MAX_OPS];
	struct args a = {.total = 10000,
			 .per_seed = 1000,
			 .seconds = UINT64_MAX,
			 .classes = MODEL_C_ALL & ~MODEL_C_LOCK};
	struct model_run r = {.seed = 1};
	struct model_failure f = {0};
	int first = parse(argc, argv, &r, &a);
	time_t start = time(NULL);
	uint64_t seeds = 0;

	if (!first)
		return usage(stderr), 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	r.dirs = argv + first;
	r.nmounts = (unsigned)(argc - first);
	model_watch_start(60, model_run_say);
	long long before = model_requests(r.counter);
	if (a.replay) {
		size_t n = load(a.replay, ops);
		model_run_script(&r, ops, n, 0, &f);
		if (f.part)
			printf("FAIL model script %s operation %zu of %zu: %s: %s\n", a.replay, f.at, n,
			       f.part, f.text);
		else
			printf("model: %llu operations of %s: no difference\n", (unsigned long long)r.done,
			       a.replay);
		return f.part != NULL;
	}
	for (; r.done < a.total && (uint64_t)(time(NULL) - start) < a.seconds; r.seed++, seeds++) {
		model_run_script(&r, ops, a.per_seed, a.classes, &f);
		if (f.part) {
			report(&r, &a, ops, a.per_seed, &f);
			return 1;
		}
	}
	print_hits(&r, before, model_requests(r.counter));
	printf("model: %llu seeds, %llu operations, %u mounts: no difference\n", (unsigned long long)seeds,
	       (unsigned long long)r.done, r.nmounts);
	return 0;
}
