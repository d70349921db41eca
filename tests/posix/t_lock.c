/* SPDX-License-Identifier: Apache-2.0 */
/* Topic: locks of applications: fcntl locks of processes and of open files, flock; between the nodes of the two mounts. Who
 * locks are agents: processes of their own that do one call after the other as they are told, so that one may block. */
#include "px.h"

#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* ---- agents ---- */
enum what { AG_OPEN, AG_CLOSE, AG_DUP, AG_SETLK, AG_SETLKW, AG_GETLK, AG_OFD, AG_OFDW, AG_OFD_GET, AG_FLOCK, AG_FORK_CLOSE, AG_RESTART };
struct order {
	enum what what;
	int fd; /* number of an open file: 0..3 */
	int arg;
	struct flock l;
	char path[PATH_MAX];
};
struct answer {
	long rc;
	int err;
	struct flock l;
};
struct agent {
	pid_t pid;
	int to, from;
};

static void on_signal(int sig)
{
	(void)sig;
}
static void catch(int flags)
{
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = flags};
	sigaction(SIGUSR1, &sa, NULL);
}

/* A child that has the same descriptors and closes one. */
static long fork_close(int fd)
{
	int st;
	pid_t pid = fork();
	if (pid == 0) {
		struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
		int locked = fcntl(fd, F_SETLK, &l); /* a child has not got its parent's locks */
		close(fd);
		_exit(locked == -1 && (errno == EAGAIN || errno == EACCES) ? 0 : 1);
	}
	waitpid(pid, &st, 0);
	return WEXITSTATUS(st);
}

static void obey(const struct order *o, struct answer *a)
{
	static int fds[4];
	static const int cmd[] = {[AG_SETLK] = F_SETLK, [AG_SETLKW] = F_SETLKW, [AG_GETLK] = F_GETLK,
				  [AG_OFD] = F_OFD_SETLK, [AG_OFDW] = F_OFD_SETLKW, [AG_OFD_GET] = F_OFD_GETLK};
	a->l = o->l;
	errno = 0;
	switch (o->what) {
	case AG_OPEN:
		a->rc = fds[o->fd] = open(o->path, o->arg);
		break;
	case AG_CLOSE:
		a->rc = close(fds[o->fd]);
		break;
	case AG_DUP:
		a->rc = fds[o->arg] = dup(fds[o->fd]);
		break;
	case AG_FLOCK:
		a->rc = flock(fds[o->fd], o->arg);
		break;
	case AG_FORK_CLOSE:
		a->rc = fork_close(fds[o->fd]);
		break;
	case AG_RESTART:
		catch(o->arg ? SA_RESTART : 0);
		break;
	default:
		a->rc = fcntl(fds[o->fd], cmd[o->what], &a->l);
	}
	a->err = a->rc == -1 ? errno : 0;
}

static struct agent agent(void)
{
	int to[2], from[2];
	struct agent g = {0};
	NEED(pipe2(to, O_CLOEXEC));
	NEED(pipe2(from, O_CLOEXEC));
	g.pid = (pid_t)NEED(fork());
	if (g.pid == 0) {
		struct order o;
		close(to[1]);
		close(from[0]);
		catch(0);
		while (TEMP_FAILURE_RETRY(read(to[0], &o, sizeof(o))) == sizeof(o)) { /* a signal may be late for its call */
			struct answer a = {0};
			obey(&o, &a);
			if (TEMP_FAILURE_RETRY(write(from[1], &a, sizeof(a))) != sizeof(a))
				break;
		}
		_exit(0);
	}
	close(to[0]);
	close(from[1]);
	g.to = to[1];
	g.from = from[0];
	return g;
}

static void start(struct agent *g, struct order o)
{
	EQ(sizeof(o), write(g->to, &o, sizeof(o)), "order to an agent");
}
static bool ended(struct agent *g, int ms)
{
	struct pollfd p = {.fd = g->from, .events = POLLIN};
	return poll(&p, 1, ms) == 1;
}
static struct answer answer(struct agent *g)
{
	struct answer a = {.rc = -1, .err = ETIMEDOUT};
	if (ended(g, 15000))
		EQ(sizeof(a), read(g->from, &a, sizeof(a)), "answer of an agent");
	return a;
}
/* 0 or the error. */
static int tell(struct agent *g, struct order o)
{
	start(g, o);
	return answer(g).err;
}
static void end(struct agent *g)
{
	close(g->to);
	close(g->from);
	kill(g->pid, SIGKILL);
	waitpid(g->pid, NULL, 0);
}

static struct order lock_order(enum what what, int fd, short type, off_t at, off_t len)
{
	return (struct order){.what = what, .fd = fd, .l = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = len}};
}
#define LOCK(g, what, fd, type, at, len) tell(g, lock_order(what, fd, type, at, len))
static int opens(struct agent *g, int fd, const char *path, int flags)
{
	struct order o = {.what = AG_OPEN, .fd = fd, .arg = flags};
	snprintf(o.path, sizeof(o.path), "%s", path);
	return tell(g, o);
}
static int order(struct agent *g, enum what what, int fd, int arg)
{
	return tell(g, (struct order){.what = what, .fd = fd, .arg = arg});
}
/* Two agents with the file open through A and B. */
static void pair(struct agent *a, struct agent *b)
{
	(void)unlink(pa("f"));
	px_make(pa("f"), "abc", 3);
	*a = agent();
	*b = agent();
	EQ(0, opens(a, 0, pa("f"), O_RDWR), "open through A");
	EQ(0, opens(b, 0, pb("f"), O_RDWR), "open through B");
}
/* Asleep in a system call for a lock, or ended: on a busy machine an agent may not have begun long after it was told to. */
static void begun(struct agent *g)
{
	char path[64];
	for (int i = 0; i < 1500 && !ended(g, 10); i++) {
		long nr = -1; /* "running" is no number */
		snprintf(path, sizeof(path), "/proc/%d/syscall", (int)g->pid);
		FILE *f = fopen(path, "re");
		if (!f)
			return; /* a kernel without it */
		if (fscanf(f, "%ld", &nr) != 1)
			nr = -1;
		fclose(f);
		if (nr == SYS_fcntl || nr == SYS_flock)
			return;
	}
}
static void blocked(struct agent *g, const char *what)
{
	begun(g);
	TRUE(!ended(g, 250), "%s waits", what);
}
static void woken(struct agent *g, const char *what)
{
	EQ(0, answer(g).err, "%s is woken", what);
}

/* ---- record locks ---- */
static void conflict(void)
{
	struct agent a, b;
	pair(&a, &b);
	EQ(0, LOCK(&a, AG_SETLK, 0, F_WRLCK, 0, 50), "write lock of A");
	EQ(EAGAIN, LOCK(&b, AG_SETLK, 0, F_WRLCK, 40, 20), "write lock over it");
	EQ(EAGAIN, LOCK(&b, AG_SETLK, 0, F_RDLCK, 49, 1), "read lock of its last byte");
	EQ(0, LOCK(&b, AG_SETLK, 0, F_WRLCK, 50, 0), "write lock behind it");
	EQ(EAGAIN, LOCK(&a, AG_SETLK, 0, F_RDLCK, 1000000, 1), "read lock of A far in it");
	EQ(0, LOCK(&b, AG_SETLK, 0, F_UNLCK, 0, 0), "unlock of everything");
	EQ(0, LOCK(&a, AG_SETLK, 0, F_UNLCK, 10, 10), "unlock in the middle");
	EQ(0, LOCK(&b, AG_SETLK, 0, F_WRLCK, 10, 10), "lock of what became free");
	EQ(EAGAIN, LOCK(&b, AG_SETLK, 0, F_WRLCK, 9, 1), "lock of what did not, before");
	EQ(EAGAIN, LOCK(&b, AG_SETLK, 0, F_WRLCK, 20, 1), "lock of what did not, behind");
	EQ(0, LOCK(&a, AG_SETLK, 0, F_RDLCK, 20, 30), "downgrade");
	EQ(0, LOCK(&b, AG_SETLK, 0, F_RDLCK, 20, 30), "read lock beside a read lock");
	EQ(EAGAIN, LOCK(&a, AG_SETLK, 0, F_WRLCK, 20, 1), "upgrade beside a reader");
	EQ(EAGAIN, LOCK(&b, AG_SETLK, 0, F_WRLCK, 49, 1), "upgrade of the other");
	end(&a);
	end(&b);
}

static void getlk(void)
{
	struct agent a, b;
	struct answer r;
	bool remote = px.two && !px.local;
	pair(&a, &b);
	EQ(0, LOCK(&a, AG_SETLK, 0, F_WRLCK, 10, 10), "write lock");
	EQ(0, LOCK(&a, AG_SETLK, 0, F_WRLCK, 20, 10), "and behind it");
	start(&b, lock_order(AG_GETLK, 0, F_RDLCK, 0, 0));
	r = answer(&b);
	EQ(0, r.err, "F_GETLK");
	EQ(F_WRLCK, r.l.l_type, "its type");
	EQ(10, r.l.l_start, "its start");
	EQ(20, r.l.l_len, "its length: two that touch are one");
	EQ(remote ? 0 : a.pid, r.l.l_pid, "its process: 0 on another node");
	start(&b, lock_order(AG_GETLK, 0, F_WRLCK, 0, 10));
	EQ(F_UNLCK, answer(&b).l.l_type, "nobody before it");
	start(&a, lock_order(AG_GETLK, 0, F_WRLCK, 0, 0));
	EQ(F_UNLCK, answer(&a).l.l_type, "one's own is in nobody's way");
	EQ(0, LOCK(&a, AG_SETLK, 0, F_RDLCK, 0, 0), "read lock over all");
	start(&b, lock_order(AG_GETLK, 0, F_RDLCK, 0, 0));
	EQ(F_UNLCK, answer(&b).l.l_type, "a read lock is in no reader's way");
	start(&b, lock_order(AG_GETLK, 0, F_WRLCK, 5, 1));
	r = answer(&b);
	EQ(F_RDLCK, r.l.l_type, "but in a writer's");
	EQ(0, r.l.l_len, "to the end of the file");
	end(&a);
	end(&b);
}

/* Woken by an unlock, by a close, by the end of the process; each way. */
static void wait_woken(void)
{
	for (int turn = 0; turn < 2; turn++) {
		struct agent x[2], *a = &x[turn], *b = &x[!turn];
		pair(&x[0], &x[1]);
		EQ(0, LOCK(a, AG_SETLKW, 0, F_WRLCK, 0, 10), "lock");
		start(b, lock_order(AG_SETLKW, 0, F_RDLCK, 5, 1));
		blocked(b, "reader of a locked byte");
		EQ(0, LOCK(a, AG_SETLK, 0, F_UNLCK, 0, 5), "unlock of other bytes");
		blocked(b, "reader of a byte still locked");
		EQ(0, LOCK(a, AG_SETLK, 0, F_UNLCK, 5, 5), "unlock");
		woken(b, "reader");
		start(a, lock_order(AG_SETLKW, 0, F_WRLCK, 0, 0));
		blocked(a, "writer behind a reader");
		EQ(0, order(b, AG_CLOSE, 0, 0), "close");
		woken(a, "writer");
		EQ(0, opens(b, 0, px_path(turn == 0, "f"), O_RDWR), "open again");
		start(b, lock_order(AG_SETLKW, 0, F_WRLCK, 3, 1));
		blocked(b, "writer behind a writer");
		end(a);
		woken(b, "writer behind a process that died");
		end(b);
	}
}

static void signals(void)
{
	struct agent a, b;
	pair(&a, &b);
	EQ(0, LOCK(&a, AG_SETLK, 0, F_WRLCK, 0, 0), "lock");
	start(&b, lock_order(AG_SETLKW, 0, F_WRLCK, 0, 10));
	blocked(&b, "writer");
	kill(b.pid, SIGUSR1);
	EQ(EINTR, answer(&b).err, "a signal ends the wait");
	EQ(0, order(&b, AG_RESTART, 0, 1), "SA_RESTART");
	start(&b, lock_order(AG_SETLKW, 0, F_WRLCK, 0, 10));
	blocked(&b, "writer");
	kill(b.pid, SIGUSR1);
	blocked(&b, "writer that waits on after a signal");
	EQ(0, LOCK(&a, AG_SETLK, 0, F_UNLCK, 0, 0), "unlock");
	woken(&b, "writer");
	EQ(EAGAIN, LOCK(&a, AG_SETLK, 0, F_WRLCK, 9, 1), "it has the lock");
	EQ(0, LOCK(&a, AG_SETLK, 0, F_WRLCK, 10, 1), "and not more than that");
	start(&a, lock_order(AG_SETLKW, 0, F_WRLCK, 0, 1));
	blocked(&a, "writer");
	end(&a); /* killed while it waits */
	EQ(0, LOCK(&b, AG_SETLK, 0, F_WRLCK, 0, 0), "what the killed one had and wanted is free");
	end(&b);
}

static void closes(void)
{
	struct agent a, b;
	pair(&a, &b);
	EQ(0, opens(&a, 1, pa("f"), O_RDONLY), "second open");
	EQ(0, order(&a, AG_DUP, 0, 2), "dup");
	EQ(0, LOCK(&a, AG_SETLK, 0, F_WRLCK, 0, 1), "lock");
	EQ(EAGAIN, LOCK(&b, AG_SETLK, 0, F_WRLCK, 0, 1), "it counts");
	EQ(0, order(&a, AG_CLOSE, 1, 0), "close of another descriptor, for reading only");
	EQ(0, LOCK(&b, AG_SETLK, 0, F_WRLCK, 0, 1), "takes the process's locks away");
	EQ(0, LOCK(&b, AG_SETLK, 0, F_UNLCK, 0, 1), "unlock");
	EQ(0, LOCK(&a, AG_SETLK, 0, F_WRLCK, 0, 1), "lock again");
	EQ(0, order(&a, AG_CLOSE, 2, 0), "close of the dup");
	EQ(0, LOCK(&b, AG_SETLK, 0, F_RDLCK, 0, 1), "takes them away, too");
	EQ(0, LOCK(&b, AG_SETLK, 0, F_WRLCK, 0, 1), "upgrade alone");
	start(&b, (struct order){.what = AG_FORK_CLOSE});
	EQ(0, answer(&b).rc, "a child has no locks of its parent");
	EQ(EAGAIN, LOCK(&a, AG_SETLK, 0, F_WRLCK, 0, 1), "and takes none away by closing");
	end(&a);
	end(&b);
}

static void upgrades(void)
{
	struct agent a, b;
	pair(&a, &b);
	EQ(0, LOCK(&a, AG_SETLK, 0, F_RDLCK, 0, 10), "reader A");
	EQ(0, LOCK(&b, AG_SETLK, 0, F_RDLCK, 0, 10), "reader B");
	start(&a, lock_order(AG_SETLKW, 0, F_WRLCK, 0, 5));
	blocked(&a, "upgrade");
	EQ(0, LOCK(&b, AG_SETLK, 0, F_UNLCK, 0, 5), "unlock of what is upgraded");
	woken(&a, "upgrade");
	EQ(EAGAIN, LOCK(&b, AG_SETLK, 0, F_RDLCK, 4, 1), "read lock of what was upgraded");
	EQ(EAGAIN, LOCK(&b, AG_SETLK, 0, F_WRLCK, 5, 1), "upgrade of what A only reads");
	start(&b, lock_order(AG_SETLKW, 0, F_RDLCK, 0, 10));
	blocked(&b, "reader");
	EQ(0, LOCK(&a, AG_SETLKW, 0, F_RDLCK, 0, 10), "downgrade");
	woken(&b, "reader");
	EQ(EAGAIN, LOCK(&b, AG_SETLK, 0, F_WRLCK, 0, 1), "write lock beside a reader");
	end(&a);
	end(&b);
}

/* ---- deadlocks: whoever closes the cycle is told; the others go on ---- */
static void deadlock(void)
{
	struct agent a, b;
	for (int round = 0; round < 3; round++) {
		pair(&a, &b);
		px_make(pa("g"), "abc", 3);
		EQ(0, opens(&a, 1, pa("g"), O_RDWR), "open of the second");
		EQ(0, opens(&b, 1, pb("g"), O_RDWR), "open of the second");
		EQ(0, LOCK(&a, AG_SETLK, 0, F_WRLCK, 0, 1), "A locks f");
		EQ(0, LOCK(&b, AG_SETLK, 1, F_WRLCK, 0, 1), "B locks g");
		start(&a, lock_order(AG_SETLKW, 1, F_WRLCK, 0, 1));
		blocked(&a, "A for g");
		EQ(EDEADLK, LOCK(&b, AG_SETLKW, 0, F_RDLCK, 0, 1), "B for f closes the cycle");
		blocked(&a, "A still for g");
		EQ(0, LOCK(&b, AG_SETLK, 1, F_UNLCK, 0, 0), "B gives g up");
		woken(&a, "A");
		end(&a);
		end(&b);
		OK(unlink(pa("g")));
	}
	/* within one file: two readers that both upgrade */
	pair(&a, &b);
	EQ(0, LOCK(&a, AG_SETLK, 0, F_RDLCK, 0, 1), "A reads");
	EQ(0, LOCK(&b, AG_SETLK, 0, F_RDLCK, 0, 1), "B reads");
	start(&b, lock_order(AG_SETLKW, 0, F_WRLCK, 0, 1));
	blocked(&b, "upgrade of B");
	EQ(EDEADLK, LOCK(&a, AG_SETLKW, 0, F_WRLCK, 0, 1), "upgrade of A");
	EQ(0, LOCK(&a, AG_SETLK, 0, F_UNLCK, 0, 1), "A gives up");
	woken(&b, "upgrade of B");
	end(&a);
	end(&b);
}

/* Five in a ring, on both nodes. */
static void deadlock_ring(void)
{
	struct agent g[5];
	px_make(pa("f"), "abc", 3);
	for (int i = 0; i < 5; i++) {
		g[i] = agent();
		EQ(0, opens(&g[i], 0, px_path(i % 2, "f"), O_RDWR), "open");
		EQ(0, LOCK(&g[i], AG_SETLK, 0, F_WRLCK, i, 1), "byte %d", i);
	}
	for (int i = 0; i < 4; i++) {
		start(&g[i], lock_order(AG_SETLKW, 0, F_WRLCK, i + 1, 1));
		begun(&g[i]);
		TRUE(!ended(&g[i], 100), "number %d waits", i);
	}
	EQ(EDEADLK, LOCK(&g[4], AG_SETLKW, 0, F_WRLCK, 0, 1), "the last closes the ring");
	for (int i = 4; i > 0; i--) {
		EQ(0, LOCK(&g[i], AG_SETLK, 0, F_UNLCK, 0, 0), "number %d unlocks", i);
		woken(&g[i - 1], "the one before");
	}
	for (int i = 0; i < 5; i++)
		end(&g[i]);
}

/* Waiting for each other's locks of open files is no deadlock that the kernel tells. */
static void ofd(void)
{
	struct agent a, b;
	pair(&a, &b);
	EQ(0, opens(&a, 1, pa("f"), O_RDWR), "second open of A");
	EQ(0, LOCK(&a, AG_OFD, 0, F_WRLCK, 0, 10), "lock of an open file");
	EQ(EAGAIN, LOCK(&a, AG_OFD, 1, F_WRLCK, 5, 1), "another open file of the process");
	EQ(EAGAIN, LOCK(&a, AG_SETLK, 0, F_WRLCK, 5, 1), "the process itself");
	EQ(EAGAIN, LOCK(&b, AG_OFD, 0, F_RDLCK, 5, 1), "an open file of B");
	EQ(EAGAIN, LOCK(&b, AG_SETLK, 0, F_RDLCK, 5, 1), "a process of B");
	EQ(0, order(&a, AG_CLOSE, 1, 0), "close of the other descriptor");
	EQ(EAGAIN, LOCK(&b, AG_SETLK, 0, F_RDLCK, 5, 1), "takes nothing away");
	EQ(0, order(&a, AG_DUP, 0, 1), "dup");
	EQ(0, LOCK(&a, AG_OFD, 1, F_WRLCK, 10, 5), "lock through the dup");
	EQ(0, order(&a, AG_CLOSE, 0, 0), "close of the first");
	EQ(EAGAIN, LOCK(&b, AG_OFD, 0, F_WRLCK, 0, 1), "the dup keeps the locks");
	start(&b, lock_order(AG_OFDW, 0, F_WRLCK, 0, 1));
	blocked(&b, "open file of B");
	EQ(0, order(&a, AG_CLOSE, 1, 0), "last close");
	woken(&b, "open file of B");
	EQ(0, opens(&a, 0, pa("f"), O_RDWR), "open again");
	EQ(EAGAIN, LOCK(&a, AG_OFD, 0, F_WRLCK, 0, 1), "it has the lock");
	EQ(0, LOCK(&a, AG_OFD, 0, F_WRLCK, 1, 1), "lock of A");
	start(&a, lock_order(AG_OFDW, 0, F_WRLCK, 0, 1));
	blocked(&a, "A for B's");
	start(&b, lock_order(AG_OFDW, 0, F_WRLCK, 1, 1));
	blocked(&b, "B for A's");
	kill(b.pid, SIGUSR1);
	EQ(EINTR, answer(&b).err, "a signal ends it");
	EQ(0, LOCK(&b, AG_OFD, 0, F_UNLCK, 0, 0), "B unlocks");
	woken(&a, "A");
	end(&a);
	end(&b);
}

/* The same often: who waits must be seen asleep before it is known what it waits for. */
static void ofd_cycles(void)
{
	struct agent a, b;
	pair(&a, &b);
	for (int i = 0; i < (px.longrun ? 1000 : 100) && !px_failed(); i++) {
		EQ(0, LOCK(&a, AG_OFD, 0, F_WRLCK, 0, 1), "lock of A");
		EQ(0, LOCK(&b, AG_OFD, 0, F_WRLCK, 1, 1), "lock of B");
		start(&a, lock_order(AG_OFDW, 0, F_WRLCK, 1, 1));
		start(&b, lock_order(AG_OFDW, 0, F_WRLCK, 0, 1));
		TRUE(!ended(&b, 10) && !ended(&a, 10), "both wait, round %d", i);
		for (int k = 0; k < 100 && !ended(&b, 50); k++)
			kill(b.pid, SIGUSR1); /* again: B may not have begun yet */
		EQ(EINTR, answer(&b).err, "a signal ends it");
		EQ(0, LOCK(&b, AG_OFD, 0, F_UNLCK, 0, 0), "B unlocks");
		woken(&a, "A");
		EQ(0, LOCK(&a, AG_OFD, 0, F_UNLCK, 0, 0), "A unlocks");
	}
	end(&a);
	end(&b);
}

/* ---- flock ---- */
static void flocks(void)
{
	for (int turn = 0; turn < 2; turn++) {
		struct agent x[2], *a = &x[turn], *b = &x[!turn];
		pair(&x[0], &x[1]);
		EQ(0, order(a, AG_FLOCK, 0, LOCK_EX), "exclusive");
		EQ(EWOULDBLOCK, order(b, AG_FLOCK, 0, LOCK_EX | LOCK_NB), "exclusive of the other");
		EQ(EWOULDBLOCK, order(b, AG_FLOCK, 0, LOCK_SH | LOCK_NB), "shared of the other");
		EQ(0, LOCK(b, AG_SETLK, 0, F_WRLCK, 0, 0), "fcntl locks are another matter");
		start(b, (struct order){.what = AG_FLOCK, .arg = LOCK_SH});
		blocked(b, "shared");
		EQ(0, order(a, AG_FLOCK, 0, LOCK_SH), "downgrade");
		woken(b, "shared");
		EQ(EWOULDBLOCK, order(a, AG_FLOCK, 0, LOCK_EX | LOCK_NB), "upgrade beside another");
		EQ(0, order(b, AG_FLOCK, 0, LOCK_EX | LOCK_NB), "which has lost the old lock, as flock(2) says");
		EQ(EWOULDBLOCK, order(a, AG_FLOCK, 0, LOCK_SH | LOCK_NB), "so the other is alone");
		start(a, (struct order){.what = AG_FLOCK, .arg = LOCK_EX});
		blocked(a, "exclusive");
		kill(a->pid, SIGUSR1);
		EQ(EINTR, answer(a).err, "a signal ends it");
		start(a, (struct order){.what = AG_FLOCK, .arg = LOCK_EX});
		blocked(a, "exclusive");
		EQ(0, order(b, AG_DUP, 0, 1), "dup");
		EQ(0, order(b, AG_CLOSE, 0, 0), "close of one of two");
		blocked(a, "exclusive, while the dup is open");
		EQ(0, order(b, AG_CLOSE, 1, 0), "last close");
		woken(a, "exclusive");
		EQ(0, opens(b, 0, px_path(turn == 0, "f"), O_RDONLY), "open for reading");
		start(b, (struct order){.what = AG_FLOCK, .arg = LOCK_EX});
		blocked(b, "exclusive on a descriptor for reading");
		end(a);
		woken(b, "exclusive behind a process that died");
		end(b);
	}
}

/* Two who share and both upgrade: neither waits for ever. */
static void flock_upgrades(void)
{
	struct agent a, b;
	pair(&a, &b);
	EQ(0, order(&a, AG_FLOCK, 0, LOCK_SH), "A shares");
	EQ(0, order(&b, AG_FLOCK, 0, LOCK_SH), "B shares");
	start(&a, (struct order){.what = AG_FLOCK, .arg = LOCK_EX});
	blocked(&a, "A");
	EQ(0, order(&b, AG_FLOCK, 0, LOCK_UN), "B unlocks");
	woken(&a, "A");
	EQ(0, order(&a, AG_FLOCK, 0, LOCK_SH), "A shares");
	EQ(0, order(&b, AG_FLOCK, 0, LOCK_SH), "B shares");
	start(&a, (struct order){.what = AG_FLOCK, .arg = LOCK_EX});
	blocked(&a, "A");
	start(&b, (struct order){.what = AG_FLOCK, .arg = LOCK_EX});
	TRUE(ended(&a, 5000) || ended(&b, 5000), "one of two who upgrade goes on");
	struct agent *first = ended(&a, 0) ? &a : &b, *second = first == &a ? &b : &a;
	woken(first, "the first");
	EQ(0, order(first, AG_FLOCK, 0, LOCK_UN), "it unlocks");
	woken(second, "the second");
	end(&a);
	end(&b);
}

/* ---- many ---- */
static void many(void)
{
	struct agent a, b;
	int n = px.longrun ? 5000 : 500;
	pair(&a, &b);
	for (int i = 0; i < n; i++)
		if (!EQ(0, LOCK(&a, AG_SETLK, 0, i % 3 ? F_WRLCK : F_RDLCK, 2 * i, 1), "byte %d of A", 2 * i))
			break;
	for (int i = 0; i < n; i += 7)
		if (!EQ(0, LOCK(&b, AG_SETLK, 0, F_WRLCK, 2 * i + 1, 1), "byte %d of B between them", 2 * i + 1) ||
		    !EQ(EAGAIN, LOCK(&b, AG_SETLK, 0, F_WRLCK, 2 * i, 1), "byte %d of B on one", 2 * i))
			break;
	start(&b, lock_order(AG_SETLKW, 0, F_WRLCK, 0, 0));
	blocked(&b, "B for the whole file");
	EQ(0, LOCK(&a, AG_SETLK, 0, F_UNLCK, 0, 2 * (n - 1)), "unlock of all but one");
	blocked(&b, "B for the whole file");
	EQ(0, LOCK(&a, AG_SETLK, 0, F_UNLCK, 0, 0), "unlock of the last");
	woken(&b, "B");
	end(&a);
	end(&b);
}

/* ---- what locks are for: nobody else is inside, and what the one before wrote is there ---- */
#define TURNS 60
struct inside {
	enum what what;
	int file;
};
static void count_inside(void *arg, unsigned i)
{
	const struct inside *k = arg;
	int fd = px_open(px_path(i % 2, "f"), O_RDWR);
	for (int n = 0; n < TURNS; n++) {
		struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
		long v = 0;
		OK(k->what == AG_FLOCK ? flock(fd, LOCK_EX) : fcntl(fd, k->what == AG_OFDW ? F_OFD_SETLKW : F_SETLKW, &l));
		EQ(sizeof(v), pread(fd, &v, sizeof(v), 0), "read inside");
		v++;
		EQ(sizeof(v), pwrite(fd, &v, sizeof(v), 0), "write inside");
		l.l_type = F_UNLCK;
		OK(k->what == AG_FLOCK ? flock(fd, LOCK_UN) : fcntl(fd, k->what == AG_OFDW ? F_OFD_SETLK : F_SETLK, &l));
	}
	close(fd);
}
static void exclusion(void)
{
	static const enum what kinds[] = {AG_SETLKW, AG_OFDW, AG_FLOCK};
	for (size_t i = 0; i < PX_LEN(kinds); i++) {
		struct inside k = {.what = kinds[i]};
		long v = 0;
		px_make(pa("f"), &v, sizeof(v));
		px_parallel(4, count_inside, &k);
		EQ(sizeof(v), pread(px_open(pb("f"), O_RDONLY), &v, sizeof(v), 0), "read of the count");
		EQ(4 * TURNS, v, "all counted, kind %zu", i);
		OK(unlink(pa("f")));
	}
}

const struct px_test px_lock_tests[] = {
	{"lock.conflict", conflict, 0, 0},   {"lock.getlk", getlk, 0, 0},
	{"lock.wait", wait_woken, 0, 0},     {"lock.signals", signals, 0, 0},
	{"lock.closes", closes, 0, 0},	     {"lock.upgrades", upgrades, 0, 0},
	{"lock.deadlock", deadlock, 0, 0},   {"lock.deadlock_ring", deadlock_ring, 0, 0},
	{"lock.ofd", ofd, 0, 0},	     {"lock.ofd_cycles", ofd_cycles, 0, 0},
	{"lock.flock", flocks, 0, 0},
	{"lock.flock_upgrades", flock_upgrades, 0, 0},
	{"lock.many", many, 0, 0},	     {"lock.exclusion", exclusion, 0, 0},
	{NULL, NULL, 0, 0},
};
