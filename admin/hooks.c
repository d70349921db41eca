/* SPDX-License-Identifier: Apache-2.0 */
/* Programs run on events: each regular file in hooks_dir that its owner may execute, in the order of names, for each event, one at a time.
 * They get the event as arguments and environment, no capability, no descriptor of the daemon, no more than HOOK_RUN_NS.
 * Must never happen: a hook that holds up the daemon or another event for longer, a queue without bound, or a program that others
 * than root can write. */
#include "admin/daemon.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HOOK_RUN_NS   (10 * TS_NS_PER_S)
#define HOOK_QUEUE    64
#define HOOK_PROGRAMS 32

struct hooks {
	struct daemon *d;
	struct event queue[HOOK_QUEUE];
	unsigned first, count;
	struct ts_cond more;
	uint64_t run, failed, dropped;
	char last_error[300];
};

static void hook_post(void *arg, const struct event *e)
{
	struct hooks *h = arg;
	if (!h->d->conf.hooks_dir[0])
		return;
	if (h->count == HOOK_QUEUE) {
		h->dropped++;
		return;
	}
	h->queue[(h->first + h->count++) % HOOK_QUEUE] = *e;
	ts_cond_signal(&h->more);
}

/* Whoever can write it, or the directory, would be root with the next event. */
static bool owned(int at, const char *name, bool dir, char *why, size_t n)
{
	struct stat st;
	const char *bad = NULL;
	if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW))
		bad = strerror(errno);
	else if (dir ? !S_ISDIR(st.st_mode) : !S_ISREG(st.st_mode))
		bad = dir ? "not a directory" : "not a regular file";
	else if (st.st_uid != 0 && st.st_uid != geteuid())
		bad = "not root's";
	else if (st.st_mode & 022)
		bad = "others may write it: chmod go-w";
	else if (!dir && !(st.st_mode & 0100))
		bad = "not executable";
	if (bad)
		snprintf(why, n, "hook %.200s: %s", name, bad);
	return !bad;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static unsigned programs(struct hooks *h, const char *dir, char *names[HOOK_PROGRAMS])
{
	unsigned n = 0;
	if (!owned(AT_FDCWD, dir, true, h->last_error, sizeof(h->last_error))) {
		h->failed++;
		return 0;
	}
	DIR *dp = opendir(dir);
	for (struct dirent *e; dp && n < HOOK_PROGRAMS && (e = readdir(dp));) {
		if (e->d_name[0] == '.' || e->d_name[strlen(e->d_name) - 1] == '~')
			continue;
		if (!owned(dirfd(dp), e->d_name, false, h->last_error, sizeof(h->last_error)))
			h->failed++;
		else if ((names[n] = strdup(e->d_name)))
			n++;
	}
	if (dp)
		closedir(dp);
	qsort(names, n, sizeof(names[0]), by_name);
	return n;
}

static void run_one(struct hooks *h, const char *dir, const char *name, const struct event *e)
{
	struct daemon *d = h->d;
	char program[600], seq[24], ms[24], env[8][400];
	snprintf(program, sizeof(program), "%s/%s", dir, name);
	snprintf(seq, sizeof(seq), "%llu", (unsigned long long)e->seq);
	snprintf(ms, sizeof(ms), "%llu", (unsigned long long)(e->wall_ns / TS_NS_PER_MS));
	const struct {
		const char *key, *value;
	} vars[] = {{"EVENT", event_kinds[e->id].name}, {"SEVERITY", severity_name(e->severity)}, {"OBJECT", e->object}, {"TEXT", e->text},
		    {"SEQ", seq}, {"TIME_MS", ms}, {"CLUSTER", d->conf.cluster_name}};
	char *envp[TS_ARRAY_LEN(vars) + 2] = {(char *)(uintptr_t)"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
	for (size_t i = 0; i < TS_ARRAY_LEN(vars); i++) {
		snprintf(env[i], sizeof(env[i]), "TESSERA_%s=%s", vars[i].key, vars[i].value);
		envp[i + 1] = env[i];
	}
	char *argv[] = {(char *)(uintptr_t)"tesserad", (char *)(uintptr_t)HOOK_ARG, program, (char *)(uintptr_t)event_kinds[e->id].name,
			(char *)(uintptr_t)severity_name(e->severity), (char *)(uintptr_t)e->object, NULL};
	pid_t pid;
	int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int rc = in < 0 ? -errno : child_start("/proc/self/exe", argv, envp, in, &pid);
	if (in >= 0)
		close(in);
	if (rc == 0)
		rc = child_wait(d->exec, pid, ts_exec_now(d->exec) + HOOK_RUN_NS, "a hook");
	h->run++;
	if (rc) {
		h->failed++;
		snprintf(h->last_error, sizeof(h->last_error), "hook %.100s on %s: %s%.0d", name, event_kinds[e->id].name,
			 rc == -ETIMEDOUT ? "killed after 10 s" : rc < 0 ? strerror(-rc) : "ended with a status that is not 0", 0);
		ts_warn("%s", h->last_error);
	}
}

static void hooks_fiber(void *arg)
{
	struct hooks *h = arg;
	while (!h->d->stopping && !h->d->excluded) {
		if (!h->count) {
			ts_cond_wait(&h->more, "events for hooks", 0, 0);
			continue;
		}
		struct event e = h->queue[h->first];
		char *names[HOOK_PROGRAMS], dir[sizeof(h->d->conf.hooks_dir)];
		snprintf(dir, sizeof(dir), "%s", h->d->conf.hooks_dir); /* it may be changed meanwhile */
		h->first = (h->first + 1) % HOOK_QUEUE;
		h->count--;
		unsigned n = dir[0] ? programs(h, dir, names) : 0;
		for (unsigned i = 0; i < n; i++) {
			run_one(h, dir, names[i], &e);
			free(names[i]);
		}
	}
}

int hooks_open(struct daemon *d)
{
	struct hooks *h = ts_alloc(sizeof(*h));
	if (!h)
		return -ENOMEM;
	h->d = d;
	ts_cond_init(&h->more);
	d->hooks = h;
	d->events->hook = hook_post;
	d->events->hook_arg = h;
	return ts_fiber_spawn(d->exec, "hooks", hooks_fiber, h);
}

json_t *hooks_json(struct daemon *d)
{
	const struct hooks *h = d->hooks;
	return json_pack("{s:s,s:I,s:I,s:I,s:i,s:s}", "directory", d->conf.hooks_dir, "run", h ? (json_int_t)h->run : 0, "failed",
			 h ? (json_int_t)h->failed : 0, "dropped", h ? (json_int_t)h->dropped : 0, "queued", h ? (int)h->count : 0, "last_error",
			 h ? h->last_error : "");
}

/* In the new process: no_new_privs is inherited from the daemon, so with no capability left the program gets none, though it is root's. */
int hooks_child(int argc, char **argv)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}};
	const struct rlimit files = {256, 256}, core = {0, 0};
	if (argc < 1 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_capset, &head, none) || setrlimit(RLIMIT_NOFILE, &files) ||
	    setrlimit(RLIMIT_CORE, &core) || setpriority(PRIO_PROCESS, 0, 10))
		return 126;
	umask(077);
	if (chdir("/"))
		return 126;
	execv(argv[0], argv);
	return 127;
}
