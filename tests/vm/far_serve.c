/* SPDX-License-Identifier: Apache-2.0 */
/* far_serve PORT: makes the system calls that far_calls.c sends, each connection in a process of its own (it is what locks of
 * processes belong to). Whoever reaches the port is root here: only for the private network of emulated machines, and loopback
 * (PORT with a leading ":"). What must never happen: a process that outlives its connection. */
#include "far.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static sigjmp_buf on_fault;
static volatile sig_atomic_t may_fault;

static void on_bus(int sig)
{
	if (may_fault)
		siglongjmp(on_fault, 1);
	signal(sig, SIG_DFL);
	raise(sig);
}

static bool all(int fd, void *p, size_t n, bool out)
{
	for (size_t done = 0; done < n;) {
		ssize_t r = out ? write(fd, (char *)p + done, n - done) : read(fd, (char *)p + done, n - done);
		if (r <= 0 && !(r < 0 && errno == EINTR))
			return false;
		done += r > 0 ? (size_t)r : 0;
	}
	return true;
}

/* Whole words: another process may look at them meanwhile. */
static void copy_words(volatile uint8_t *to, const volatile uint8_t *from, size_t n)
{
	size_t i = 0;

	for (; i + 8 <= n; i += 8)
		*(volatile uint64_t *)(to + i) = *(const volatile uint64_t *)(from + i);
	for (; i < n; i++)
		to[i] = from[i];
}

static struct {
	uint8_t *to, *from;
	size_t n;
} job; /* of mapped(): not on the stack that a fault jumps back to */

static long mapped(void)
{
	if (sigsetjmp(on_fault, 1)) {
		may_fault = 0;
		errno = EFAULT;
		return -1;
	}
	may_fault = 1;
	copy_words(job.to, job.from, job.n);
	may_fault = 0;
	return 0;
}

/* Bytes of a map, which begin at what mmap answered. */
static long load_store(const struct far_call_msg *c, uint8_t *bytes)
{
	uint8_t *at = (uint8_t *)(uintptr_t)c->v[0];

	job.to = c->nr == FAR_LOAD ? bytes : at;
	job.from = c->nr == FAR_LOAD ? at : bytes;
	job.n = c->v[1];
	return bytes ? mapped() : -1;
}

static bool serve_one(int conn)
{
	struct far_call_msg c;
	struct far_answer_msg a = {0};
	uint8_t *bytes[FAR_ARGS] = {NULL};
	long v[FAR_ARGS];
	bool ok = all(conn, &c, sizeof(c), false);

	for (unsigned i = 0; i < FAR_ARGS && ok; i++) {
		v[i] = (long)c.v[i];
		if (c.kind[i] == FAR_VALUE)
			continue;
		ok = c.kind[i] <= FAR_INOUT && c.v[i] <= FAR_MAX && !posix_memalign((void **)&bytes[i], 4096, c.v[i] + 1);
		v[i] = (long)(uintptr_t)bytes[i];
		ok = ok && (!(c.kind[i] & FAR_IN) || all(conn, bytes[i], c.v[i], false));
	}
	if (ok && c.nr < 0)
		a.rc = load_store(&c, bytes[1]);
	else if (ok)
		a.rc = syscall(c.nr, v[0], v[1], v[2], v[3], v[4], v[5]);
	a.err = a.rc < 0 ? errno : 0;
	ok = ok && all(conn, &a, sizeof(a), true);
	for (unsigned i = 0; i < FAR_ARGS; i++) {
		if (c.kind[i] & FAR_OUT)
			ok = ok && all(conn, bytes[i], c.v[i], true);
		free(bytes[i]);
	}
	return ok;
}

int main(int argc, char **argv)
{
	bool near = argc == 2 && argv[1][0] == ':';
	struct sockaddr_in at = {.sin_family = AF_INET};
	struct sigaction bus = {.sa_handler = on_bus};
	int one = 1, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), conn;
	socklen_t len = sizeof(at);

	if (argc != 2)
		return fputs("Usage: far_serve PORT | :PORT (loopback only; :0: a free one, which is printed)\n", stderr), 2;
	at.sin_addr.s_addr = htonl(near ? INADDR_LOOPBACK : INADDR_ANY);
	at.sin_port = htons((uint16_t)atoi(argv[1] + near));
	umask(0);
	signal(SIGCHLD, SIG_IGN); /* no zombies */
	sigaction(SIGBUS, &bus, NULL);
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(s, (struct sockaddr *)&at, sizeof(at)) || listen(s, 64) || getsockname(s, (struct sockaddr *)&at, &len))
		return perror("far_serve"), 1;
	printf("%u\n", ntohs(at.sin_port));
	fflush(stdout);
	while ((conn = accept(s, NULL, NULL)) >= 0 || errno == EINTR || errno == ECONNABORTED) {
		if (conn >= 0 && fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			close(s);
			setsockopt(conn, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
			while (serve_one(conn))
				;
			_exit(0);
		}
		if (conn >= 0)
			close(conn);
	}
	return perror("far_serve"), 1;
}
