/* SPDX-License-Identifier: Apache-2.0 */
/* Power switches: programs in the manner of the fence agents of other clusters. One is started without arguments, reads key=value
 * lines from stdin (those of the operator's file, then ours: action=off or action=status) and answers by its exit status: 0 done,
 * or "on"; 2 "off"; anything else is a failure. Must never happen: a machine called off on anybody's word but that of
 * action=status; a secret in an argument, in the environment or in a log; the executor waiting for the program. */
#include "admin/daemon.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define AGENT_FILE_MAX 4096 /* with the action it fits a pipe: writing it never waits */
#define AGENT_POLL_NS  (500 * TS_NS_PER_MS)

/* The operator's lines. Root's or ours, and nobody else's to read: there are passwords in it. */
static int file_read(const struct conf_agent *a, char *buf, size_t *n)
{
	struct stat st;
	int fd = open(a->file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), rc = 0;
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st))
		rc = -errno;
	else if (!S_ISREG(st.st_mode) || (st.st_uid && st.st_uid != geteuid()) || st.st_mode & 077)
		rc = -EPERM;
	else if (st.st_size >= AGENT_FILE_MAX)
		rc = -EFBIG;
	ssize_t got = rc ? 0 : read(fd, buf, AGENT_FILE_MAX - 1);
	if (got < 0)
		rc = -errno;
	close(fd);
	*n = rc ? 0 : (size_t)got;
	if (*n && buf[*n - 1] != '\n')
		buf[(*n)++] = '\n';
	return rc;
}

int agent_run(struct ts_exec *x, const struct conf_agent *a, const char *action, uint64_t deadline)
{
	char buf[AGENT_FILE_MAX + 32];
	size_t n = 0;
	int p[2];
	pid_t pid;
	int rc = file_read(a, buf, &n);
	if (rc)
		return rc;
	n += (size_t)snprintf(buf + n, sizeof(buf) - n, "action=%s\n", action);
	if (pipe2(p, O_CLOEXEC | O_NONBLOCK))
		return -errno;
	ssize_t put = write(p[1], buf, n);
	explicit_bzero(buf, sizeof(buf));
	close(p[1]);
	fcntl(p[0], F_SETFL, 0); /* the program may read as it likes */
	char *argv[] = {(char *)(uintptr_t)a->program, NULL}, *env[] = {(char *)(uintptr_t)"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
	rc = put == (ssize_t)n ? child_start(a->program, argv, env, p[0], &pid) : -EIO;
	close(p[0]);
	return rc ? rc : child_wait(x, pid, deadline, "a power switch");
}

const struct conf_agent *agent_of(const struct conf *c, unsigned node)
{
	for (unsigned i = 0; i < c->nagents; i++)
		if (c->agents[i].node == node)
			return &c->agents[i];
	return NULL;
}

int agent_power_off(struct ts_exec *x, const struct conf_agent *a, uint64_t timeout_ns)
{
	uint64_t deadline = ts_exec_now(x) + timeout_ns;
	int rc = agent_run(x, a, "off", deadline), st;
	if (rc)
		ts_warn("node %u: %s: action=off: %s; asking for its status all the same", a->node, a->program,
			rc < 0 ? strerror(-rc) : "it says that it failed");
	if (rc == -ENOENT || rc == -EPERM || rc == -EACCES || rc == -EFBIG)
		return rc;
	do {
		st = agent_run(x, a, "status", TS_MAX(deadline, ts_exec_now(x) + TS_NS_PER_S));
		if (st == AGENT_OFF)
			return 0;
		ts_sleep_until(ts_exec_now(x) + AGENT_POLL_NS);
	} while (ts_exec_now(x) < deadline);
	return st < 0 ? st : -EIO;
}
