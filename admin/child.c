/* SPDX-License-Identifier: Apache-2.0 */
/* Programs that the daemon runs: power switches and hooks. In a process group of their own, without its descriptors, signals and output,
 * and killed with all they started at their deadline. Must never happen: the executor waits for one. */
#include "admin/daemon.h"
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILD_REAP    100
#define CHILD_REAP_NS (20 * TS_NS_PER_MS)

int child_start(const char *program, char **argv, char **env, int in, pid_t *pid)
{
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t at;
	sigset_t none, all;
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&fa);
	posix_spawnattr_init(&at);
	posix_spawn_file_actions_adddup2(&fa, in, 0);
	posix_spawn_file_actions_addopen(&fa, 1, "/dev/null", O_WRONLY, 0); /* what it prints may name secrets */
	posix_spawn_file_actions_addopen(&fa, 2, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addclosefrom_np(&fa, 3);
	posix_spawnattr_setsigmask(&at, &none);
	posix_spawnattr_setsigdefault(&at, &all);
	posix_spawnattr_setpgroup(&at, 0);
	posix_spawnattr_setflags(&at, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
	int rc = -posix_spawn(pid, program, &fa, &at, argv, env);
	posix_spawn_file_actions_destroy(&fa);
	posix_spawnattr_destroy(&at);
	return rc;
}

static void ended(void *arg, uint32_t events)
{
	ts_cond_broadcast(arg);
}

/* Its exit status, or -errno. At the deadline it is killed, with what it started. */
int child_wait(struct ts_exec *x, pid_t pid, uint64_t deadline, const char *what)
{
	struct ts_cond c;
	int st = 0, fd = (int)syscall(SYS_pidfd_open, pid, 0), rc = fd < 0 ? -errno : 0;
	ts_cond_init(&c);
	if (rc == 0)
		rc = ts_loop_fd_add(ts_exec_loop(x), fd, EPOLLIN | EPOLLONESHOT, ended, &c);
	if (rc == 0) {
		rc = ts_cond_wait_until(&c, deadline, what, (uint64_t)pid, 0);
		ts_loop_fd_del(ts_exec_loop(x), fd);
	}
	if (fd >= 0)
		close(fd);
	if (rc)
		kill(-pid, SIGKILL);
	pid_t got = waitpid(pid, &st, WNOHANG);
	for (unsigned i = 0; got == 0 && i < CHILD_REAP; i++) { /* killed a moment ago, or asleep in the kernel */
		ts_sleep_until(ts_exec_now(x) + CHILD_REAP_NS);
		got = waitpid(pid, &st, WNOHANG);
	}
	if (rc || got != pid)
		return rc ? rc : -ECHILD;
	return WIFEXITED(st) ? WEXITSTATUS(st) : -EIO;
}
