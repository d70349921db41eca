/* SPDX-License-Identifier: Apache-2.0 */
/* Job: power switches by programs of the test's own: what they are told and how, whose word counts, programs that hang, lie, fail or do
 * not exist, and files that others may read. */
#include "admin/daemon.h"
#include "tests/unit/nsd_util.h"

#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/tessera-agent-XXXXXX", program[64], file[64];

static void put(const char *path, const char *text, mode_t mode)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	chmod(path, mode);
}

/* The program: its body sees $action and the directory $D; everything it was given is in $D/args, $D/env and $D/in. */
static struct conf_agent agent(const char *body)
{
	struct conf_agent a = {.node = 2};
	char text[2048];

	snprintf(text, sizeof(text), "#!/bin/sh\nD=%s\nprintf '%%s ' \"$@\" >>$D/args\nenv >>$D/env\nwhile read -r l; do echo \"$l\" >>$D/in; "
		 "case $l in action=*) action=${l#action=};; esac; done\n%s\n", dir, body);
	put(program, text, 0755);
	put(file, "ip=10.0.0.9\npassword=canary", 0600); /* its last line does not end */
	snprintf(a.program, sizeof(a.program), "%s", program);
	snprintf(a.file, sizeof(a.file), "%s", file);
	return a;
}

static int run_one(const struct conf_agent *a, const char *action)
{
	return agent_run(ts_exec_self(), a, action, ts_exec_now(ts_exec_self()) + 20 * TS_NS_PER_S);
}

static bool has(const char *name, const char *text)
{
	char path[96], buf[4096] = "";
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "r");
	if (!f)
		return false;
	buf[fread(buf, 1, sizeof(buf) - 1, f)] = 0;
	fclose(f);
	return strstr(buf, text) != NULL;
}

static void told_on_stdin_only(void *arg)
{
	struct conf_agent a = agent("exit 7");

	assert_int_equal(run_one(&a, "status"), 7);
	assert_true(has("in", "ip=10.0.0.9\npassword=canary\naction=status\n"));
	assert_false(has("args", "canary"));
	assert_false(has("env", "canary"));
	assert_false(has("args", "status"));
}

static void off_is_what_the_status_says(void *arg)
{
	uint64_t limit = 3 * TS_NS_PER_S;
	struct conf_agent a = agent("case $action in off) touch $D/off;; status) [ -e $D/off ] && exit 2; exit 0;; esac");
	char off[96];

	snprintf(off, sizeof(off), "%s/off", dir);
	unlink(off);
	assert_int_equal(run_one(&a, "status"), 0);
	assert_int_equal(agent_power_off(ts_exec_self(), &a, limit), 0);
	assert_int_equal(run_one(&a, "status"), AGENT_OFF);
	/* It failed, or so it says; but the machine is off. */
	a = agent("case $action in off) exit 1;; status) exit 2;; esac");
	assert_int_equal(agent_power_off(ts_exec_self(), &a, limit), 0);
	/* It says that it is done, and the machine runs on. */
	a = agent("case $action in off) exit 0;; status) exit 0;; esac");
	assert_int_equal(agent_power_off(ts_exec_self(), &a, limit), -EIO);
	/* Its status is neither on nor off. */
	a = agent("case $action in off) exit 0;; status) exit 1;; esac");
	assert_int_equal(agent_power_off(ts_exec_self(), &a, limit), -EIO);
	/* It takes its time. */
	unlink(off);
	a = agent("case $action in off) (sleep 1; touch $D/off) & ;; status) [ -e $D/off ] && exit 2; exit 0;; esac");
	assert_int_equal(agent_power_off(ts_exec_self(), &a, 20 * TS_NS_PER_S), 0);
}

static void ticker(void *arg)
{
	unsigned *n = arg;

	for (; *n < UINT32_MAX / 2; ++*n)
		ts_sleep_until(ts_exec_now(ts_exec_self()) + 10 * TS_NS_PER_MS);
}

/* A program that hangs is killed with what it started, and holds up nobody meanwhile. */
static void hanging(void *arg)
{
	struct conf_agent a = agent("sleep 1000 & echo $! >$D/pid; sleep 1000");
	unsigned ticks = 0;
	char cmd[160];

	assert_int_equal(ts_fiber_spawn(ts_exec_self(), "ticker", ticker, &ticks), 0);
	assert_int_equal(agent_run(ts_exec_self(), &a, "off", ts_exec_now(ts_exec_self()) + TS_NS_PER_S), -ETIMEDOUT);
	assert_true(ticks > 5);
	ticks = UINT32_MAX / 2;
	ts_sleep_until(ts_exec_now(ts_exec_self()) + 100 * TS_NS_PER_MS);
	snprintf(cmd, sizeof(cmd), "p=$(cat %s/pid) && ! grep -qs '^State:.[RSD]' /proc/$p/status", dir);
	assert_int_equal(system(cmd), 0);
}

static void refused(void *arg)
{
	struct conf_agent a = agent("exit 0");

	chmod(file, 0640);
	assert_int_equal(run_one(&a, "off"), -EPERM);
	chmod(file, 0600);
	assert_int_equal(run_one(&a, "off"), 0);
	strcpy(a.file, "/nonexistent/file");
	assert_int_equal(run_one(&a, "off"), -ENOENT);
	strcpy(a.file, dir);
	assert_int_equal(run_one(&a, "off"), -EPERM); /* no regular file */
	a = agent("exit 0");
	strcpy(a.program, "/nonexistent/program");
	assert_int_equal(run_one(&a, "off"), -ENOENT);
	assert_int_equal(agent_power_off(ts_exec_self(), &a, TS_NS_PER_S), -ENOENT); /* at once */
	a = agent("kill -9 $$");
	assert_int_equal(run_one(&a, "off"), -EIO);
	a = agent("exit 0");
	truncate(file, 5000) ? fail() : (void)0;
	assert_int_equal(run_one(&a, "off"), -EFBIG);
}

#define T(fn) {#fn, in_fiber, NULL, NULL, fn}

int main(void)
{
	const struct CMUnitTest tests[] = {T(told_on_stdin_only), T(off_is_what_the_status_says), T(hanging), T(refused)};
	char cmd[96];
	int rc;

	if (!mkdtemp(dir))
		return 1;
	snprintf(program, sizeof(program), "%s/agent", dir);
	snprintf(file, sizeof(file), "%s/file", dir);
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	return system(cmd) || rc;
}
