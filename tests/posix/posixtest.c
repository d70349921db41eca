/* SPDX-License-Identifier: Apache-2.0 */
/* posixtest: checks every operation of a mount and its effect through another mount of the same file system. As root.
 *
 * Each test gets a process, a time limit and a new directory, which is removed again when the test has ended; that it can be
 * removed is a check, too. What must never happen: a test that hangs holds up the rest, or a failed check is not counted. */
#include "px.h"
#include "px_run.h"

#include <fnmatch.h>
#include <ftw.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>

#define XFS_MAGIC 0x58465342

static const struct px_test *const tables[] = {
	px_open_tests, px_data_tests, px_space_tests, px_mmap_tests, px_name_tests, px_rename_tests, px_dir_tests,
	px_path_tests, px_perm_tests, px_time_tests,  px_xattr_tests, px_life_tests, px_race_tests,  px_acl_tests, px_lock_tests, px_shared_tests,
	px_diff_tests,
};
static const char *const topics[] = {"open", "data", "space", "mmap", "name", "rename", "dir",
				     "path", "perm", "time",  "xattr", "life", "race",  "acl", "lock", "shared", "diff"};
struct px_shared *px_shared;
static unsigned passed, failed, skipped, limit_s = 60;
static unsigned long long all_checks;
static char top_a[PATH_MAX], top_b[PATH_MAX];
static bool verbose;

static void usage(FILE *f)
{
	fputs("Usage: posixtest [OPTION...] DIR_A DIR_B [PATTERN...]\n"
	      "Tests the file system that is mounted at DIR_A and DIR_B (give the same directory twice for one mount).\n"
	      "PATTERN is like 'rename.*', or '!rename.*' to leave out. Needs root.\n"
	      "  --fs tessera|local  what is tested; local: an ordinary file system, the oracle of the tests (tessera)\n"
	      "  --long              more entries and rounds\n"
	      "  --seed N            of what is random (1)\n"
	      "  --limit SECONDS     for one test (60)\n"
	      "  --list              names of the tests\n"
	      "  --self-test         checks that fail on purpose must be counted as failed\n"
	      "  -v                  a line for each test that passed\n",
	      f);
}

/* ---- the directory of a test ---- */
static int remove_one(const char *p, const struct stat *st, int type, struct FTW *f)
{
	(void)st, (void)type, (void)f;
	return remove(p) ? errno : 0;
}

static int remove_tree(const char *p)
{
	return nftw(p, remove_one, 64, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static void limit_ns(int64_t left, struct timespec *t)
{
	t->tv_sec = (time_t)(left / 1000000000);
	t->tv_nsec = (long)(left % 1000000000);
}

static int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return px_ns(t);
}

/* Waits for the child at most this long. Its status, or -1: it is still there. */
static int wait_limited(pid_t pid, unsigned seconds)
{
	int64_t end = now_ns() + (int64_t)seconds * 1000000000;
	sigset_t chld;
	int st;

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	while (waitpid(pid, &st, WNOHANG) == 0) {
		struct timespec t;
		int64_t left = end - now_ns();
		if (left <= 0)
			return -1;
		limit_ns(left < 1000000000 ? left : 1000000000, &t);
		sigtimedwait(&chld, NULL, &t);
	}
	return st;
}

static void where_it_hangs(pid_t pid)
{
	char cmd[200];

	snprintf(cmd, sizeof(cmd), "for t in /proc/%d/task/*; do cat $t/wchan; echo; head -n 6 $t/stack; done 2>/dev/null | head -n 12",
		 (int)pid);
	fflush(stdout);
	(void)!system(cmd);
}

/* ---- one test ---- */
static void child(const struct px_test *t)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setpgid(0, 0);
	if (chdir("/"))
		_exit(1);
	umask(0);
	t->fn();
	_exit(0);
}

static const char *verdict(const struct px_test *t, int st)
{
	static char why[100];

	if (st < 0)
		snprintf(why, sizeof(why), "hangs: not finished in time, and cannot be ended");
	else if (WIFSIGNALED(st) && WTERMSIG(st) == SIGKILL)
		snprintf(why, sizeof(why), "not finished after %u s", t->seconds ? t->seconds : limit_s);
	else if (WIFSIGNALED(st))
		snprintf(why, sizeof(why), "ended by signal %d (%s)", WTERMSIG(st), strsignal(WTERMSIG(st)));
	else if (px_shared->failed)
		snprintf(why, sizeof(why), "%u of %u checks", px_shared->failed, px_shared->checks);
	else if (WEXITSTATUS(st) && WEXITSTATUS(st) != PX_SKIPPED)
		snprintf(why, sizeof(why), "ended with status %d", WEXITSTATUS(st));
	else
		return NULL;
	return why;
}

static int run_child(const struct px_test *t, void (*fn)(const struct px_test *), unsigned seconds)
{
	fflush(stdout);
	pid_t pid = fork();

	if (pid == 0) {
		fn(t);
		_exit(1);
	}
	int st = wait_limited(pid, seconds);
	if (st < 0) {
		where_it_hangs(pid);
		kill(-pid, SIGKILL);
		kill(pid, SIGKILL);
		st = wait_limited(pid, 5);
	}
	kill(-pid, SIGKILL); /* what the test left behind */
	return st;
}

static void child_remove(const struct px_test *t)
{
	int e = remove_tree(px.a);

	if (e) {
		printf("FAIL %s: %s: expected that the tree can be removed, got %s\n", t->name, px.a,
		       e > 0 ? strerror(e) : "nftw error");
		fflush(stdout);
		_exit(1);
	}
	struct stat seen;
	if (px.two && (!lstat(px.b, &seen) || errno != ENOENT)) {
		printf("FAIL %s: %s: expected it gone after its removal through A, got it\n", t->name, px.b);
		fflush(stdout);
		_exit(1);
	}
	_exit(0);
}

static void run_test(const struct px_test *t)
{
	char a[PATH_MAX + 100], b[PATH_MAX + 100];
	int64_t start = now_ns();
	const char *why;

	memset(px_shared, 0, sizeof(*px_shared));
	snprintf(px_shared->test, sizeof(px_shared->test), "%s", t->name);
	snprintf(a, sizeof(a), "%s/%s", top_a, t->name);
	snprintf(b, sizeof(b), "%s/%s", top_b, t->name);
	px.a = a;
	px.b = b;
	if (mkdir(a, 0755) || chmod(a, 0777)) {
		printf("FAIL %s: %s: cannot be made: %s\n", t->name, a, strerror(errno));
		failed++;
		return;
	}
	unsigned seconds = t->seconds ? t->seconds : limit_s;
	int st = run_child(t, child, px.longrun ? seconds * 10 : seconds);
	why = verdict(t, st);
	if (!why && WEXITSTATUS(st) == PX_SKIPPED) {
		printf("SKIP %s: %s\n", t->name, px_shared->why);
		skipped++;
	} else if (why) {
		printf("FAILED %s: %s\n", t->name, why);
		failed++;
	} else {
		passed++;
	}
	all_checks += px_shared->checks;
	if (st >= 0 && run_child(t, child_remove, 60) && !why) {
		printf("FAILED %s: its tree cannot be removed\n", t->name);
		failed++;
	}
	if (verbose && !why)
		printf("ok   %-32s %6u checks %6lld ms\n", t->name, px_shared->checks, (long long)(now_ns() - start) / 1000000);
	fflush(stdout);
}

/* ---- choosing ---- */
static bool wanted(const struct px_test *t, char **patterns)
{
	bool named = false, in = false, out = false;

	for (; *patterns; patterns++) {
		bool not = **patterns == '!';
		bool hit = fnmatch(*patterns + not, t->name, 0) == 0;

		named |= !not;
		(*(not ? &out : &in)) |= hit;
	}
	bool match = (in || !named) && !out;
	if ((t->when & PX_TWO) && !px.two)
		match = false; /* nothing to see there */
	else if ((t->when & PX_DIFF) && px.local)
		match = false;
	else if ((t->when & PX_LOCAL) && !px.local)
		match = false;
	else if ((t->when & PX_LONG) && !px.longrun)
		match = false;
	return match;
}

static void list(void)
{
	for (size_t i = 0; i < PX_LEN(tables); i++)
		for (const struct px_test *t = tables[i]; t->name; t++)
			printf("%-8s %s%s%s\n", topics[i], t->name, t->when & PX_TWO ? " (two mounts)" : "",
			       t->when & PX_DIFF ? " (known difference)" : "");
}

static enum px_kind kind_of(const char *dir)
{
	struct statfs s;

	if (statfs(dir, &s))
		return PX_OTHER;
	switch ((unsigned long)s.f_type) {
	case EXT4_SUPER_MAGIC:
		return PX_EXT4;
	case XFS_MAGIC:
		return PX_XFS;
	case TMPFS_MAGIC:
		return PX_TMPFS;
	case FUSE_SUPER_MAGIC:
		return PX_TESSERA_FS;
	}
	return PX_OTHER;
}

static int setup(const char *dir_a, const char *dir_b)
{
	char a[PATH_MAX], b[PATH_MAX];
	struct stat sa, sb;

	if (getuid()) {
		fputs("posixtest: not root; run it with sudo\n", stderr);
		return PX_SKIPPED;
	}
	if (!realpath(dir_a, a) || !realpath(dir_b, b)) { /* the tests change their working directory */
		fprintf(stderr, "posixtest: %s, %s: %s\n", dir_a, dir_b, strerror(errno));
		return 1;
	}
	px.two = strcmp(a, b) != 0;
	px.kind = kind_of(a);
	snprintf(top_a, sizeof(top_a), "%.4000s/px.%d", a, (int)getpid());
	snprintf(top_b, sizeof(top_b), "%.4000s/px.%d", b, (int)getpid());
	if (mkdir(top_a, 0755)) {
		fprintf(stderr, "posixtest: %s: %s\n", top_a, strerror(errno));
		return 1;
	}
	if (lstat(top_a, &sa) || lstat(top_b, &sb) || sa.st_ino != sb.st_ino) {
		fprintf(stderr, "posixtest: %s and %s do not show the same directory; are both mounts of one file system?\n", top_a, top_b);
		rmdir(top_a);
		return 1;
	}
	px_shared = mmap(NULL, sizeof(*px_shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return px_shared == MAP_FAILED;
}

/* ---- self-test: the framework sees what fails ---- */
static void planted_checks(void)
{
	OK(open(pa("absent"), O_RDONLY));
	FAILS(ENOENT, open(pa("absent"), O_RDONLY | O_CREAT, 0644));
	FAILS(EEXIST, open(pa("none"), O_RDONLY));
	EQ(1, 2, "planted numbers");
	TRUE(false, "planted condition");
	SAME_STR("a", "b", "planted strings");
	SAME_BYTES("ab", "ac", 2, "planted bytes");
	px_content("absent", "x", 1);
	px_gone("absent");
	px_nlink("absent", 2);
	px_listing(".", (const char *const[]){"x"}, 1);
}

static void planted_child_fails(void *arg)
{
	EQ(1, 2, "planted in a child");
	(void)arg;
}

static void planted_child(void)
{
	px_as(PX_USER, PX_USER, planted_child_fails, NULL);
}

static void planted_hang(void)
{
	pause();
}

static void planted_crash(void)
{
	signal(SIGABRT, SIG_DFL);
	abort();
}

static void planted_need(void)
{
	NEED(open(pa("absent"), O_RDONLY));
	_exit(0);
}

static int self_test(void)
{
	static const struct px_test planted[] = {{"planted.checks", planted_checks, 0, 0}, {"planted.child", planted_child, 0, 0},
						 {"planted.hang", planted_hang, 0, 1},	     {"planted.crash", planted_crash, 0, 0},
						 {"planted.need", planted_need, 0, 0}};
	unsigned right = 0, most = 0;

	for (size_t i = 0; i < PX_LEN(planted); i++) {
		unsigned before = failed;
		run_test(&planted[i]);
		if (i == 0)
			most = px_shared->failed;
		right += failed == before + 1;
	}
	/* 7 plain checks, content: size of bytes and of stat, gone, links, the listing's entry: each at least once. */
	bool ok = right == PX_LEN(planted) && most >= 11;
	printf("self-test: %u of %zu planted failures seen, %u of 11 planted checks\n", right, PX_LEN(planted), most);
	return ok ? 0 : 1;
}

int main(int argc, char **argv)
{
	bool self = false;
	sigset_t chld;
	int i = 1;

	px.seed = 1;
	for (; i < argc && argv[i][0] == '-'; i++) {
		if (!strcmp(argv[i], "--long"))
			px.longrun = true;
		else if (!strcmp(argv[i], "--self-test"))
			self = true;
		else if (!strcmp(argv[i], "-v"))
			verbose = true;
		else if (!strcmp(argv[i], "--list"))
			return list(), 0;
		else if (!strcmp(argv[i], "--help"))
			return usage(stdout), 0;
		else if (!strcmp(argv[i], "--fs") && i + 1 < argc)
			px.local = !strcmp(argv[++i], "local");
		else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
			px.seed = strtoull(argv[++i], NULL, 0) | 1;
		else if (!strcmp(argv[i], "--limit") && i + 1 < argc)
			limit_s = (unsigned)atoi(argv[++i]);
		else
			return usage(stderr), 2;
	}
	if (argc - i < 2)
		return usage(stderr), 2;
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	int rc = setup(argv[i], argv[i + 1]);
	if (rc)
		return rc;
	if (self)
		rc = self_test();
	for (size_t k = 0; !self && k < PX_LEN(tables); k++)
		for (const struct px_test *t = tables[k]; t->name; t++)
			if (wanted(t, argv + i + 2))
				run_test(t);
	rmdir(top_a);
	if (!self) {
		printf("%llu checks\n%u passed, %u failed, %u skipped\n", all_checks, passed, failed, skipped);
		rc = failed != 0;
	}
	return rc;
}
