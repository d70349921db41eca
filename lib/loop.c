/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the epoll driver of an executor. Must never happen: a callback for a descriptor that was deleted (its number
 * may already be someone else's): events carry the registration, which dies with it and is freed after the batch. */
#include "lib/fiber_int.h"
#include "lib/spin.h"

#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define TURN_STEPS  256
#define BATCH	    64
#define SLEEP_MAX   TS_NS_PER_S /* epoll's clock stands still during suspend, the executor's does not */

struct watch {
	struct ts_list link; /* dead ones only */
	int fd;
	bool dead;
	ts_fd_fn fn;
	void *arg;
};
struct hook {
	ts_fn fn;
	void *arg;
};
struct ts_loop {
	struct ts_exec *exec;
	int epfd, evfd;
	struct watch **watch; /* by descriptor */
	size_t nwatch;
	struct ts_list dead;
	struct hook *hook;
	size_t nhooks, hook_room;
	atomic_bool stop;
	struct ts_spin spin;
};

static void wake(struct ts_loop *l)
{
	uint64_t one = 1;

	if (write(l->evfd, &one, sizeof(one)) < 0)
		TS_ASSERT(errno == EAGAIN); /* counter full: it is awake anyway */
}

static void on_wake(void *arg, uint32_t events)
{
	struct ts_loop *l = arg;
	uint64_t n;

	if (read(l->evfd, &n, sizeof(n)) < 0)
		TS_ASSERT(errno == EAGAIN);
}

static bool alone(void)
{
	cpu_set_t set;

	return !sched_getaffinity(0, sizeof(set), &set) && CPU_COUNT(&set) == 1;
}

struct ts_loop *ts_loop_new(struct ts_exec *x)
{
	struct ts_loop *l = ts_alloc(sizeof(*l));

	TS_ASSERT(!x->loop);
	if (!l)
		return NULL;
	l->exec = x;
	l->spin.never = alone();
	ts_list_init(&l->dead);
	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	l->evfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->epfd < 0 || l->evfd < 0 || ts_loop_fd_add(l, l->evfd, EPOLLIN, on_wake, l)) {
		ts_loop_free(l);
		return NULL;
	}
	x->loop = l;
	x->wake = wake;
	return l;
}

static void bury(struct ts_loop *l)
{
	struct ts_list *n;

	while ((n = ts_list_pop_front(&l->dead)))
		ts_free(ts_list_entry(n, struct watch, link));
}

void ts_loop_free(struct ts_loop *l)
{
	if (!l)
		return;
	pthread_mutex_lock(&l->exec->post_mutex);
	l->exec->sleeping = false;
	if (l->exec->loop == l)
		l->exec->loop = NULL;
	pthread_mutex_unlock(&l->exec->post_mutex);
	bury(l);
	for (size_t i = 0; i < l->nwatch; i++)
		ts_free(l->watch[i]);
	ts_free(l->watch);
	ts_free(l->hook);
	if (l->evfd >= 0)
		close(l->evfd);
	if (l->epfd >= 0)
		close(l->epfd);
	ts_free(l);
}

static bool grow(struct ts_loop *l, size_t want)
{
	size_t n = TS_MAX(want, l->nwatch * 2);
	struct watch **v;

	if (want <= l->nwatch)
		return true;
	v = ts_alloc(n * sizeof(struct watch *));
	if (!v)
		return false;
	if (l->nwatch)
		memcpy(v, l->watch, l->nwatch * sizeof(struct watch *));
	ts_free(l->watch);
	l->watch = v;
	l->nwatch = n;
	return true;
}

int ts_loop_fd_add(struct ts_loop *l, int fd, uint32_t epoll_events, ts_fd_fn fn, void *arg)
{
	struct epoll_event ev = {.events = epoll_events};
	struct watch *w;

	TS_ASSERT(fd >= 0);
	if (!grow(l, (size_t)fd + 1))
		return -ENOMEM;
	if (l->watch[fd])
		return -EEXIST;
	w = ts_alloc(sizeof(*w));
	if (!w)
		return -ENOMEM;
	*w = (struct watch){.fd = fd, .fn = fn, .arg = arg};
	ts_list_init(&w->link);
	ev.data.ptr = w;
	if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev)) {
		int rc = -errno;

		ts_free(w);
		return rc;
	}
	l->watch[fd] = w;
	return 0;
}

int ts_loop_fd_mod(struct ts_loop *l, int fd, uint32_t epoll_events)
{
	struct epoll_event ev = {.events = epoll_events};

	if (fd < 0 || (size_t)fd >= l->nwatch || !l->watch[fd])
		return -ENOENT;
	ev.data.ptr = l->watch[fd];
	return epoll_ctl(l->epfd, EPOLL_CTL_MOD, fd, &ev) ? -errno : 0;
}

void ts_loop_fd_del(struct ts_loop *l, int fd)
{
	struct watch *w;

	if (fd < 0 || (size_t)fd >= l->nwatch || !l->watch[fd])
		return;
	w = l->watch[fd];
	l->watch[fd] = NULL;
	epoll_ctl(l->epfd, EPOLL_CTL_DEL, fd, NULL); /* fails if the caller closed it first: gone all the same */
	w->dead = true;
	ts_list_push_back(&l->dead, &w->link);
}

void ts_loop_before_wait(struct ts_loop *l, ts_fn fn, void *arg)
{
	if (l->nhooks == l->hook_room) {
		size_t room = l->hook_room ? l->hook_room * 2 : 8;
		void *v = realloc(l->hook, room * sizeof(*l->hook)); /* not ts_alloc: this cannot fail */

		if (!v)
			TS_PANIC("out of memory for %zu loop hooks", room);
		l->hook = v;
		l->hook_room = room;
	}
	l->hook[l->nhooks++] = (struct hook){fn, arg};
}

void ts_loop_before_wait_del(struct ts_loop *l, ts_fn fn, void *arg)
{
	for (size_t i = 0; i < l->nhooks; i++) {
		if (l->hook[i].fn == fn && l->hook[i].arg == arg) {
			l->hook[i] = l->hook[--l->nhooks];
			return;
		}
	}
}

/* Events without a wait; false: none came for as long as it is worth while to look. */
static bool look_for_events(struct ts_loop *l, struct epoll_event *ev, int *n)
{
	static const struct timespec none;
	uint64_t until = ts_exec_now(l->exec) + TS_SPIN_NS;

	do {
		*n = epoll_pwait2(l->epfd, ev, BATCH, &none, NULL);
		if (*n || ts_exec_ready(l->exec) || atomic_load(&l->stop)) {
			ts_spin_hit(&l->spin);
			return true;
		}
	} while (ts_exec_now(l->exec) < until);
	ts_spin_miss(&l->spin);
	return false;
}

static int wait_events(struct ts_loop *l, struct epoll_event *ev, bool busy)
{
	struct timespec ts = {0};
	uint64_t slept = 0, now = 0;
	int n = 0;

	if (!busy && ts_spin_worth(&l->spin) && look_for_events(l, ev, &n)) {
		TS_ASSERT(n >= 0 || errno == EINTR);
		return n;
	}
	if (!busy && !atomic_load(&l->stop) && ts_exec_sleep_begin(l->exec)) {
		uint64_t when = ts_exec_next_timer(l->exec);
		uint64_t left;

		now = ts_exec_now(l->exec);
		left = when > now ? TS_MIN(when - now, SLEEP_MAX) : 0;
		/* A stop that came between our look and sleep_begin has written the eventfd: no sleep is lost. */
		ts = (struct timespec){.tv_sec = (time_t)(left / TS_NS_PER_S), .tv_nsec = (long)(left % TS_NS_PER_S)};
		slept = left;
	}
	n = epoll_pwait2(l->epfd, ev, BATCH, &ts, NULL);
	TS_ASSERT(n >= 0 || errno == EINTR);
	ts_exec_sleep_end(l->exec);
	if (slept)
		ts_spin_slept(&l->spin, ts_exec_now(l->exec) - now);
	return n;
}

void ts_loop_run(struct ts_loop *l)
{
	struct epoll_event ev[BATCH];

	while (!atomic_load(&l->stop)) {
		struct ts_exec *before;
		int n;

		ts_exec_run(l->exec, TURN_STEPS);
		before = ts_exec_enter(l->exec);
		for (size_t i = 0; i < l->nhooks; i++)
			l->hook[i].fn(l->hook[i].arg);
		n = wait_events(l, ev, ts_exec_ready(l->exec));
		for (int i = 0; i < n; i++) {
			struct watch *w = ev[i].data.ptr;

			if (!w->dead)
				w->fn(w->arg, ev[i].events);
		}
		bury(l);
		ts_exec_enter(before);
	}
	atomic_store(&l->stop, false);
}

void ts_loop_stop(struct ts_loop *l)
{
	atomic_store(&l->stop, true);
	wake(l);
}
