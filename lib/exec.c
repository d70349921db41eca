/* SPDX-License-Identifier: Apache-2.0 */
/* Job: one thread's run queue: posts, timers, fibers, deferred tasks, in that order, turn by turn. Must never happen:
 * a kind of work that starves the others (each turn takes only what was there when it began), or a lost wake-up (the
 * driver's sleep and a poster's look at it are under one mutex). */
#include "lib/fiber_int.h"

static _Thread_local struct ts_exec *self_exec;

struct ts_exec *ts_exec_self(void)
{
	return self_exec;
}

struct ts_exec *ts_exec_enter(struct ts_exec *x)
{
	struct ts_exec *before = self_exec;

	self_exec = x;
	return before;
}

struct ts_exec *ts_exec_new(const struct ts_env *env)
{
	struct ts_exec *x = ts_alloc(sizeof(*x));

	if (!x)
		return NULL;
	x->env = *env;
	ts_list_init(&x->ready);
	ts_list_init(&x->deferred);
	ts_list_init(&x->fibers);
	pthread_mutex_init(&x->post_mutex, NULL);
	return x;
}

static void drop_pending(struct ts_exec *x)
{
	while (x->heap_count)
		ts_timer_cancel(x->heap[x->heap_count - 1]);
	while (ts_list_pop_front(&x->deferred))
		;
	pthread_mutex_lock(&x->post_mutex);
	x->posts.count = 0;
	atomic_store(&x->have_posts, false);
	pthread_mutex_unlock(&x->post_mutex);
}

void ts_exec_kill(struct ts_exec *x)
{
	TS_ASSERT(!x->running);
	drop_pending(x);
	while (!ts_list_empty(&x->fibers))
		ts_fiber_forget(ts_list_entry(x->fibers.next, struct ts_fiber, all));
}

void ts_exec_free(struct ts_exec *x)
{
	if (!x)
		return;
	TS_ASSERT(!x->running && !x->nfibers && !x->loop);
	drop_pending(x);
	pthread_mutex_destroy(&x->post_mutex);
	ts_free(x->posts.v);
	ts_free(x->posts_taken.v);
	ts_free(x->heap);
	ts_free(x);
}

const struct ts_env *ts_exec_env(const struct ts_exec *x)
{
	return &x->env;
}

struct ts_loop *ts_exec_loop(struct ts_exec *x)
{
	return x->loop;
}

/* ---- timers: a binary heap ordered by time, then by order of arming ------------------------------------------- */

static bool earlier(const struct ts_timer *a, const struct ts_timer *b)
{
	return a->when_ns != b->when_ns ? a->when_ns < b->when_ns : a->seq < b->seq;
}

static void heap_place(struct ts_exec *x, struct ts_timer *t, size_t i)
{
	x->heap[i] = t;
	t->heap_index = i;
}

static void heap_up(struct ts_exec *x, struct ts_timer *t, size_t i)
{
	while (i && earlier(t, x->heap[(i - 1) / 2])) {
		heap_place(x, x->heap[(i - 1) / 2], i);
		i = (i - 1) / 2;
	}
	heap_place(x, t, i);
}

static void heap_down(struct ts_exec *x, struct ts_timer *t, size_t i)
{
	for (;;) {
		size_t child = 2 * i + 1;

		if (child >= x->heap_count)
			break;
		if (child + 1 < x->heap_count && earlier(x->heap[child + 1], x->heap[child]))
			child++;
		if (!earlier(x->heap[child], t))
			break;
		heap_place(x, x->heap[child], i);
		i = child;
	}
	heap_place(x, t, i);
}

void ts_timer_arm(struct ts_exec *x, struct ts_timer *t, uint64_t when_ns, ts_fn fn, void *arg)
{
	ts_timer_cancel(t);
	if (x->heap_count == x->heap_room) {
		size_t room = x->heap_room ? x->heap_room * 2 : 64;
		void *v = realloc(x->heap, room * sizeof(*x->heap)); /* not ts_alloc: arming cannot fail */

		if (!v)
			TS_PANIC("out of memory for %zu timers", room);
		x->heap = v;
		x->heap_room = room;
	}
	t->exec = x;
	t->when_ns = when_ns;
	t->seq = x->timer_seq++;
	t->fn = fn;
	t->arg = arg;
	heap_up(x, t, x->heap_count++);
}

void ts_timer_cancel(struct ts_timer *t)
{
	struct ts_exec *x = t->exec;
	struct ts_timer *last;
	size_t i = t->heap_index;

	if (!x)
		return;
	TS_ASSERT(i < x->heap_count && x->heap[i] == t);
	t->exec = NULL;
	last = x->heap[--x->heap_count];
	if (last == t)
		return;
	if (i && earlier(last, x->heap[(i - 1) / 2]))
		heap_up(x, last, i);
	else
		heap_down(x, last, i);
}

uint64_t ts_exec_next_timer(struct ts_exec *x)
{
	return x->heap_count ? x->heap[0]->when_ns : UINT64_MAX;
}

/* Timers armed by a callback of this turn wait for the next turn, even if they are due already. */
static void run_timers(struct ts_exec *x)
{
	uint64_t now, seq = x->timer_seq;

	if (!x->heap_count)
		return;
	now = ts_exec_now(x);
	while (x->heap_count && x->heap[0]->when_ns <= now && x->heap[0]->seq < seq) {
		struct ts_timer *t = x->heap[0];

		ts_timer_cancel(t);
		t->fn(t->arg);
	}
}

/* ---- posted calls --------------------------------------------------------------------------------------------- */

static bool post_room(struct post_queue *q)
{
	size_t room = q->room ? q->room * 2 : 64;
	struct post *v;

	if (q->count < q->room)
		return true;
	if (q->count >= TS_POST_MAX)
		return false;
	v = realloc(q->v, room * sizeof(*v));
	if (!v)
		return false;
	q->v = v;
	q->room = room;
	return true;
}

int ts_exec_post(struct ts_exec *x, ts_fn fn, void *arg)
{
	int rc = -ENOMEM;

	pthread_mutex_lock(&x->post_mutex);
	if (post_room(&x->posts)) {
		x->posts.v[x->posts.count++] = (struct post){fn, arg};
		atomic_store(&x->have_posts, true);
		rc = 0;
		/* Under the mutex, so that the loop cannot be freed between the look and the call. */
		if (x->sleeping) {
			x->sleeping = false;
			x->wake(x->loop);
		}
	}
	pthread_mutex_unlock(&x->post_mutex);
	return rc;
}

static void run_posts(struct ts_exec *x)
{
	struct post_queue q;

	if (!atomic_load_explicit(&x->have_posts, memory_order_acquire))
		return;
	pthread_mutex_lock(&x->post_mutex);
	q = x->posts;
	x->posts = x->posts_taken;
	x->posts.count = 0;
	x->posts_taken = q;
	atomic_store(&x->have_posts, false);
	pthread_mutex_unlock(&x->post_mutex);
	for (size_t i = 0; i < q.count; i++)
		q.v[i].fn(q.v[i].arg);
}

bool ts_exec_sleep_begin(struct ts_exec *x)
{
	bool may;

	pthread_mutex_lock(&x->post_mutex);
	may = x->sleeping = x->posts.count == 0;
	pthread_mutex_unlock(&x->post_mutex);
	return may;
}

void ts_exec_sleep_end(struct ts_exec *x)
{
	pthread_mutex_lock(&x->post_mutex);
	x->sleeping = false;
	pthread_mutex_unlock(&x->post_mutex);
}

/* ---- the turn -------------------------------------------------------------------------------------------------- */

void ts_exec_defer(struct ts_exec *x, struct ts_task *t, ts_fn fn, void *arg)
{
	t->fn = fn;
	t->arg = arg;
	ts_list_push_back(&x->deferred, &t->link);
}

/* Moves everything of from behind a fresh head, so that what is added meanwhile waits for the next turn. */
static void take_all(struct ts_list *to, struct ts_list *from)
{
	ts_list_init(to);
	if (ts_list_empty(from))
		return;
	*to = *from;
	to->next->prev = to;
	to->prev->next = to;
	ts_list_init(from);
}

static void give_back(struct ts_list *to, struct ts_list *rest)
{
	while (!ts_list_empty(rest)) {
		struct ts_list *n = rest->prev;

		ts_list_del(n);
		ts_list_push_front(to, n);
	}
}

static unsigned run_fibers(struct ts_exec *x, unsigned budget)
{
	struct ts_list batch, *n;
	unsigned steps = 0;

	take_all(&batch, &x->ready);
	while (steps < budget && (n = ts_list_pop_front(&batch))) {
		ts_fiber_resume(ts_list_entry(n, struct ts_fiber, link));
		steps++;
	}
	give_back(&x->ready, &batch);
	return steps;
}

static unsigned run_deferred(struct ts_exec *x, unsigned budget)
{
	struct ts_list batch, *n;
	unsigned steps = 0;

	take_all(&batch, &x->deferred);
	while (steps < budget && (n = ts_list_pop_front(&batch))) {
		struct ts_task *t = ts_list_entry(n, struct ts_task, link);

		t->fn(t->arg);
		steps++;
	}
	give_back(&x->deferred, &batch);
	return steps;
}

bool ts_exec_ready(struct ts_exec *x)
{
	return !ts_list_empty(&x->ready) || !ts_list_empty(&x->deferred) ||
	       atomic_load_explicit(&x->have_posts, memory_order_acquire) ||
	       (x->heap_count && x->heap[0]->when_ns <= ts_exec_now(x));
}

bool ts_exec_run(struct ts_exec *x, unsigned max_steps)
{
	struct ts_exec *before = ts_exec_enter(x);
	unsigned left = max_steps;
	bool more;

	TS_ASSERT(!x->running && !before);
	x->running = true;
	for (;;) {
		run_posts(x);
		run_timers(x);
		left -= run_fibers(x, left);
		left -= run_deferred(x, left);
		more = ts_exec_ready(x);
		if (!more || !left)
			break;
	}
	x->running = false;
	ts_exec_enter(before);
	return more;
}
