/* SPDX-License-Identifier: Apache-2.0 */
/* Maps of files on another machine: the map is there, here is memory that nobody may touch. A touch fetches the page; before the
 * next call of any kind, a look at the clock and a touch of another map, changed words go there and the pages here are closed again.
 * So each access is one there, between the calls around it. What must never happen: a load that answers from a page fetched before
 * an earlier call. Known: a store of the bytes that are there already stores nothing. */
#include "far_int.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAPS 16
#define PAGE 4096u

static struct map {
	uint8_t *here, *was; /* was: the pages as they were fetched */
	uint64_t there;
	size_t len;
	struct far_link *l;
	bool *open;
	size_t nopen;
} maps[MAPS];

static struct map *map_of(const void *p)
{
	for (unsigned i = 0; i < MAPS; i++)
		if (maps[i].here && (const uint8_t *)p >= maps[i].here && (const uint8_t *)p < maps[i].here + maps[i].len)
			return &maps[i];
	return NULL;
}

static long bytes(struct map *m, enum far_nr nr, size_t at, void *p, size_t n)
{
	const struct far_arg a[FAR_ARGS] = {{.v = m->there + at}, {.p = p, .v = n, .kind = nr == FAR_LOAD ? FAR_OUT : FAR_IN}};

	return far_do(m->l, nr, a);
}

static void send_changes(struct map *m, size_t page)
{
	uint64_t *now = (uint64_t *)(m->here + page * PAGE), *was = (uint64_t *)(m->was + page * PAGE);

	for (unsigned i = 0, n; i < PAGE / 8; i += n) {
		for (n = 0; i + n < PAGE / 8 && now[i + n] != was[i + n]; n++)
			;
		if (n && bytes(m, FAR_STORE, page * PAGE + i * 8, &now[i], n * 8)) {
			fprintf(stderr, "far: a store into a map could not be made: %s\n", strerror(errno));
			_exit(2);
		}
		n += n == 0;
	}
}

static void map_close(struct map *m)
{
	for (size_t page = 0; m->nopen && page < m->len / PAGE; page++) {
		if (!m->open[page])
			continue;
		m->open[page] = false;
		m->nopen--;
		send_changes(m, page);
		mprotect(m->here + page * PAGE, PAGE, PROT_NONE);
	}
}

void far_maps_flush(void)
{
	int e = errno;

	for (unsigned i = 0; i < MAPS; i++)
		if (maps[i].here)
			map_close(&maps[i]);
	errno = e;
}

static void on_touch(int sig, siginfo_t *info, void *context)
{
	struct map *m = map_of(info->si_addr);
	size_t page = m ? (size_t)((uint8_t *)info->si_addr - m->here) / PAGE : 0;
	int e = errno;

	(void)context;
	if (!m || m->open[page]) {
		signal(sig, SIG_DFL);
		return; /* again, and for good */
	}
	for (unsigned i = 0; i < MAPS; i++)
		if (maps[i].here && &maps[i] != m)
			map_close(&maps[i]);
	if (bytes(m, FAR_LOAD, page * PAGE, m->was + page * PAGE, PAGE)) {
		raise(SIGBUS);
		return;
	}
	mprotect(m->here + page * PAGE, PAGE, PROT_READ | PROT_WRITE);
	memcpy(m->here + page * PAGE, m->was + page * PAGE, PAGE);
	m->open[page] = true;
	m->nopen++;
	errno = e;
}

static void *here_new(struct map *m, size_t len)
{
	struct sigaction sa = {.sa_sigaction = on_touch, .sa_flags = SA_SIGINFO | SA_NODEFER};

	sigaction(SIGSEGV, &sa, NULL);
	m->len = (len + PAGE - 1) / PAGE * PAGE;
	m->here = (uint8_t *)syscall(SYS_mmap, NULL, m->len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L);
	m->was = malloc(m->len);
	m->open = calloc(m->len / PAGE, sizeof(*m->open));
	m->nopen = 0;
	return m->here == MAP_FAILED || !m->was || !m->open ? NULL : m->here;
}

void *mmap(void *at, size_t len, int prot, int flags, int fd, off_t off)
{
	int there;
	struct far_link *l = far_of(fd, &there);
	const struct far_arg a[FAR_ARGS] = {{0}, {.v = len}, {.v = (uint64_t)prot}, {.v = (uint64_t)flags}, {.v = (uint64_t)there}, {.v = (uint64_t)off}};
	unsigned i = 0;
	long rc;

	if (!l)
		return (void *)syscall(SYS_mmap, at, len, prot, flags, fd, off);
	far_maps_flush();
	while (i < MAPS && maps[i].here)
		i++;
	rc = i < MAPS ? far_do(l, SYS_mmap, a) : -1;
	if (rc == -1)
		return MAP_FAILED;
	maps[i].l = l;
	maps[i].there = (uint64_t)rc;
	return here_new(&maps[i], len) ? maps[i].here : MAP_FAILED;
}

int munmap(void *p, size_t len)
{
	struct map *m = map_of(p);
	struct far_arg a[FAR_ARGS] = {{0}, {.v = len}};

	if (!m)
		return (int)syscall(SYS_munmap, p, len);
	far_maps_flush();
	a[0].v = m->there;
	syscall(SYS_munmap, m->here, m->len);
	free(m->was);
	free(m->open);
	m->here = NULL;
	return (int)far_do(m->l, SYS_munmap, a);
}

int msync(void *p, size_t len, int flags)
{
	struct map *m = map_of(p);
	struct far_arg a[FAR_ARGS] = {{0}, {.v = len}, {.v = (uint64_t)flags}};

	if (!m)
		return (int)syscall(SYS_msync, p, len, flags);
	far_maps_flush();
	a[0].v = m->there + (uint64_t)((uint8_t *)p - m->here);
	return (int)far_do(m->l, SYS_msync, a);
}

int clock_gettime(clockid_t which, struct timespec *t)
{
	far_maps_flush();
	return (int)syscall(SYS_clock_gettime, which, t);
}
