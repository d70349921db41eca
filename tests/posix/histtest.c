/* SPDX-License-Identifier: Apache-2.0 */
/* histtest: several processes, each on one of the mounts, work on few objects at the same time; each object's
 * history must have an order that explains every answer. Histories are cut at barriers, where nothing is
 * under way; what an object may be there is carried on to the next round. What must never happen: an answer
 * of the past that is not noticed (--plant makes some on purpose). */
#include "hist_run.h"
#include "model.h"

#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOG_MAX 8192

static struct hist_shared *shared;
static struct hist_states states[HIST_OBJECTS];
static uint64_t log_records[LOG_MAX];
static size_t log_before; /* records when the round began */

struct totals {
	uint64_t ops, looks, rounds, planted;
};

struct args {
	uint64_t total, seconds, repeat, workers;
	uint64_t from_epoch;
	const char *counter;
};

static void usage(FILE *f)
{
	fputs("Usage: histtest [OPTION...] DIR...\n"
	      "Concurrent operations on few objects in DIR; several DIRs are mounts of the same file system "
	      "(at most 3).\n"
	      "  --seed N      (1)                          --ops N      operations of all workers together "
	      "(10000)\n"
	      "  --workers N   processes (6, at most 8)     --seconds N  no new epoch after this time\n"
	      "  --epoch N     begin with this epoch (0)    --repeat N   each epoch N times (1)\n"
	      "  --locks       with POSIX locks\n"
	      "  --no-CLASS    without truncate, append, map, name or content\n"
	      "  --no-neighbours  of each mount only one worker reads and writes content\n"
	      "  --no-middle   words within a block may be another's: so it is where readers share a kernel with the writer\n"
	      "  --counter CMD prints how many requests reached the daemons; asked before and behind\n"
	      "  --plant N     about one look in N is answered with an old value: the run must fail\n",
	      f);
}

static bool number(const char *name, const char *arg, const char *value, uint64_t *out)
{
	if (strcmp(name, arg) || !value)
		return false;
	*out = strtoull(value, NULL, 0);
	return true;
}

static bool without_class(const char *o)
{
	static const struct {
		const char *option;
		uint32_t class;
	} all[] = {{"--no-truncate", HIST_C_TRUNCATE},
		   {"--no-append", HIST_C_APPEND},
		   {"--no-map", HIST_C_MAP},
		   {"--no-name", HIST_C_NAME},
		   {"--no-neighbours", HIST_C_NEIGHBOUR},
		   {"--no-middle", HIST_C_MIDDLE},
		   {"--no-content", HIST_C_CONTENT}};

	for (unsigned k = 0; k < sizeof(all) / sizeof(all[0]); k++)
		if (!strcmp(all[k].option, o)) {
			shared->classes &= ~all[k].class;
			return true;
		}
	return false;
}

static int parse(int argc, char **argv, struct args *a)
{
	int i = 1;

	for (; i < argc && argv[i][0] == '-'; i++) {
		const char *o = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
		if (number("--seed", o, v, &shared->seed) || number("--ops", o, v, &a->total) ||
		    number("--seconds", o, v, &a->seconds) || number("--workers", o, v, &a->workers) ||
		    number("--plant", o, v, &shared->plant) || number("--epoch", o, v, &a->from_epoch) ||
		    number("--repeat", o, v, &a->repeat)) {
			i++;
		} else if (!strcmp(o, "--counter") && v) {
			a->counter = argv[++i];
		} else if (!strcmp(o, "--locks")) {
			shared->classes |= HIST_C_LOCK;
		} else if (!without_class(o)) {
			usage(!strcmp(o, "--help") ? stdout : stderr);
			exit(strcmp(o, "--help") ? 2 : 0);
		}
	}
	bool good = a->workers > 0 && a->workers <= HIST_WORKERS;
	return good && i < argc && argc - i <= HIST_MOUNTS ? i : 0;
}

/* ---- judging a round ---- */
static int by_start(const void *a, const void *b)
{
	const struct hist_op *x = a, *y = b;

	return x->from < y->from ? -1 : x->from > y->from;
}

static size_t of_object(unsigned object, struct hist_op *ops)
{
	size_t n = 0;

	for (unsigned w = 0; w < shared->workers; w++)
		for (unsigned k = 0; k < shared->w[w].n; k++)
			if (shared->w[w].op[k].object == object)
				ops[n++] = shared->w[w].op[k];
	qsort(ops, n, sizeof(*ops), by_start);
	return n;
}

static void print_bad(unsigned object, const void *arg, struct hist_op *ops, size_t n,
		      const struct hist_states *before)
{
	n = hist_shorten(hist_object_spec(object), arg, ops, n, before);
	printf("no order explains these operations (of %zu ways it could be before:", before->n);
	for (size_t k = 0; k < before->n && k < 4; k++)
		printf(" %#llx", (unsigned long long)before->s[k]);
	printf("); mount = worker %% %u:\n", shared->nmounts);
	for (size_t k = 0; k < n; k++)
		hist_print(stdout, &ops[k], ops[0].from);
}

/* Everything that was going on: an object's trouble may come from its neighbour in a page. */
static void print_round(void)
{
	static struct hist_op ops[HIST_WORKERS * (HIST_ROUND_OPS + 2)];
	size_t n = 0;

	for (unsigned w = 0; w < shared->workers; w++)
		for (unsigned k = 0; k < shared->w[w].n && shared->w[w].n <= HIST_ROUND_OPS + 2; k++)
			ops[n++] = shared->w[w].op[k];
	qsort(ops, n, sizeof(*ops), by_start);
	printf("the whole round:\n");
	for (size_t k = 0; k < n; k++) {
		printf("%-20s", hist_object_name(ops[k].object));
		hist_print(stdout, &ops[k], ops[0].from);
	}
}

static bool bad(const char *object, const char *what)
{
	print_round();
	printf("FAIL hist seed %llu epoch %u round %u: %s: %s\n", (unsigned long long)shared->seed,
	       shared->epoch, shared->round, object, what);
	printf("again: --seed %llu --epoch %u --repeat 100\n", (unsigned long long)shared->seed,
	       shared->epoch);
	return false;
}

static bool judge(unsigned object)
{
	static struct hist_op ops[HIST_WORKERS * (HIST_ROUND_OPS + 2)];
	struct hist_records records = {log_records, object == HIST_O_LOG ? (size_t)log_before : 0};
	struct hist_states before = states[object];
	size_t n = of_object(object, ops), done;

	if (object == HIST_O_LOG) {
		long now = hist_log_read(shared->dir[shared->round % shared->nmounts], log_records, LOG_MAX);
		if (now < 0)
			return bad("log",
				   now == -EBADMSG ? "a record in pieces" : strerrorname_np((int)-now));
		for (size_t k = 0; k < n; k++)
			if (!ops[k].err && ops[k].kind == HIST_COUNT && !ops[k].a &&
			    (ops[k].got > (uint64_t)now ||
			     ops[k].more != hist_log_sum(log_records, ops[k].got)))
				return bad("log",
					   "a reader saw records that are not its beginning in the end");
		records.n = log_before = (size_t)now;
	}
	if (object == HIST_O_NAMES && shared->nmounts > 1)
		hist_mark_mixed(ops, n);
	enum hist_verdict v = hist_check(hist_object_spec(object), &records, ops, n, &states[object], &done);
	if (v == HIST_BAD)
		print_bad(object, &records, ops, n, &before);
	if (v != HIST_GOOD)
		return bad(hist_object_name(object),
			   v == HIST_BAD ? "not linearizable" : "too many orders to say");
	if (object == HIST_O_LOG && states[object].s[0] != log_before)
		return bad("log", "more or fewer records than were appended");
	return true;
}

static bool judge_round(struct totals *t)
{
	for (unsigned w = 0; w < shared->workers; w++) {
		if (*shared->w[w].failed)
			return bad("call", shared->w[w].failed);
		for (unsigned k = 0; k < shared->w[w].n; k++) {
			const struct hist_op *op = &shared->w[w].op[k];
			t->looks +=
				op->object != HIST_O_BLOCK_TAIL &&
				(op->kind == HIST_READ || op->kind == HIST_LOOK || op->kind == HIST_COUNT);
			t->planted += op->planted;
			t->ops += op->object != HIST_O_BLOCK_TAIL; /* one call with its head */
		}
	}
	t->rounds++;
	for (unsigned o = 0; o < HIST_OBJECTS; o++)
		if (!judge(o))
			return false;
	return true;
}

/* ---- epochs ---- */
static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	remove(path);
	return 0;
}

static bool epoch(char *const *dirs, struct totals *t, unsigned turn)
{
	bool good = true;

	for (unsigned k = 0; k < shared->nmounts; k++)
		snprintf(shared->dir[k], sizeof(shared->dir[k]), "%.4000s/hist.%d.%llu.%u.%u", dirs[k],
			 (int)getpid(), (unsigned long long)shared->seed, shared->epoch, turn);
	shared->round = 0;
	int rc = mkdir(shared->dir[0], 0700) ? -errno : hist_objects_make(shared->dir[0]);
	if (rc)
		return bad(shared->dir[0], strerrorname_np(-rc));
	log_before = 0;
	for (unsigned o = 0; o < HIST_OBJECTS; o++)
		states[o] = (struct hist_states){{hist_object_first(o)}, 1};
	for (; good && shared->round < HIST_EPOCH_ROUNDS; shared->round++) {
		pthread_barrier_wait(&shared->begin);
		pthread_barrier_wait(&shared->begin);
		pthread_barrier_wait(&shared->end);
		model_watch_tick();
		good = judge_round(t);
	}
	nftw(shared->dir[turn % shared->nmounts], remove_one, 16, FTW_DEPTH | FTW_PHYS);
	return good;
}

static void say_hang(void)
{
	printf("hang: seed %llu epoch %u round %u: no answer to:", (unsigned long long)shared->seed,
	       shared->epoch, shared->round);
	for (unsigned w = 0; w < shared->workers; w++)
		if (atomic_load(&shared->w[w].object) != HIST_OBJECTS)
			printf(" worker %u (mount %u): %s of %s;", w, w % shared->nmounts,
			       hist_kind_name(atomic_load(&shared->w[w].kind)),
			       hist_object_name(atomic_load(&shared->w[w].object)));
	printf("\n");
}

static void start_workers(void)
{
	pthread_barrierattr_t a;

	pthread_barrierattr_init(&a);
	pthread_barrierattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(&shared->begin, &a, shared->workers + 1);
	pthread_barrier_init(&shared->end, &a, shared->workers + 1);
	for (unsigned w = 0; w < shared->workers; w++) {
		atomic_store(&shared->w[w].object, HIST_OBJECTS);
		pid_t pid = fork();
		if (pid < 0)
			exit(2);
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL); /* a leader that gives up leaves nobody behind */
			hist_worker(shared, w);
			_exit(0);
		}
	}
}

int main(int argc, char **argv)
{
	struct args a = {.total = 10000, .seconds = UINT64_MAX, .repeat = 1, .workers = 6};
	struct totals t = {0};
	time_t start = time(NULL);
	bool good = true;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 2;
	shared->seed = 1;
	shared->classes = HIST_C_ALL & ~HIST_C_LOCK;
	int first = parse(argc, argv, &a);
	if (!first)
		return usage(stderr), 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	shared->nmounts = (unsigned)(argc - first);
	shared->workers = (unsigned)a.workers;
	shared->epoch = (unsigned)a.from_epoch;
	long long before = model_requests(a.counter);
	start_workers();
	model_watch_start(60, say_hang);
	for (unsigned turn = 0; good && t.ops < a.total && (uint64_t)(time(NULL) - start) < a.seconds;
	     turn++) {
		good = epoch(argv + first, &t, turn);
		shared->epoch += (turn + 1) % a.repeat == 0;
	}
	atomic_store(&shared->stop, true);
	pthread_barrier_wait(&shared->begin);
	while (wait(NULL) > 0)
		;
	long long after = model_requests(a.counter);
	if (before >= 0 && after >= before)
		printf("caches: %llu looks (read, stat) and %llu other operations; %lld requests reached the "
		       "daemons\n",
		       (unsigned long long)t.looks, (unsigned long long)(t.ops - t.looks), after - before);
	if (!good)
		return 1;
	printf("hist: %llu operations of %u workers on %u mounts in %llu rounds: each history has an order\n",
	       (unsigned long long)t.ops, shared->workers, shared->nmounts, (unsigned long long)t.rounds);
	return 0;
}
