/* SPDX-License-Identifier: Apache-2.0 */
/* Notifier threads: calls that may block in the kernel (invalidations, mount, umount) never run on the executor, which
 * must go on serving the very requests they wait for. Threads are started on demand up to TF_THREADS, so that one blocked
 * call does not hold up the others; the queue is bounded by the revokes in flight.
 * Must never happen: a notifier thread that takes a lock a request handler needs. The queue's lock is held for list work only. */
#include "fuse/fuse_int.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#define TF_THREADS     256 /* as many revokes may run, and each may leave a call behind that waits for a request */
#define TF_STACK_BYTES (64u << 10)

struct tf_notify {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct ts_list queue;
	unsigned nthreads, idle;
	bool stop;
	pthread_t threads[TF_THREADS];
	struct ts_exec *exec;
};

static void job_finished(void *arg)
{
	struct tf_job *j = arg;
	struct tfuse *tf = j->tf;
	if (--tf->njobs == 0)
		ts_cond_broadcast(&tf->idle);
	if (j->node && tf->polling)
		tf_readable(tf, 0); /* what the kernel sent before the call ended is seen to be from before (drained_ns) */
	if (j->detached) {
		if (j->tells)
			tf_size_over(j);
		if (j->node)
			tf_node_unref(j->tf, j->node);
		tf_job_free(j);
		return;
	}
	ts_done_set(&j->done, j->rc);
}

static void *notify_thread(void *arg)
{
	struct tf_notify *t = arg;
	pthread_mutex_lock(&t->lock);
	for (;;) {
		struct ts_list *l = ts_list_pop_front(&t->queue);
		if (!l) {
			if (t->stop)
				break;
			t->idle++;
			pthread_cond_wait(&t->cond, &t->lock);
			t->idle--;
			continue;
		}
		pthread_mutex_unlock(&t->lock);
		struct tf_job *j = ts_list_entry(l, struct tf_job, link);
		atomic_store(&j->tid, gettid());
		j->rc = j->fn(j);
		if (ts_exec_post(t->exec, job_finished, j))
			TS_PANIC("notifier: the executor's mailbox is full, a finished job cannot be reported");
		pthread_mutex_lock(&t->lock);
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

static int thread_add(struct tf_notify *t)
{
	pthread_attr_t attr;
	int rc = pthread_attr_init(&attr);
	if (rc)
		return -rc;
	(void)pthread_attr_setstacksize(&attr, TF_STACK_BYTES); /* else the default, which is larger */
	rc = pthread_create(&t->threads[t->nthreads], &attr, notify_thread, t);
	pthread_attr_destroy(&attr);
	if (rc == 0)
		t->nthreads++;
	return -rc;
}

int tf_notify_open(struct tfuse *tf)
{
	struct tf_notify *t = ts_alloc(sizeof(*t));
	if (!t)
		return -ENOMEM;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->cond, NULL);
	ts_list_init(&t->queue);
	t->exec = tf->exec;
	int rc = thread_add(t);
	if (rc) {
		ts_free(t);
		return rc;
	}
	tf->notify = t;
	return 0;
}

void tf_notify_close(struct tfuse *tf)
{
	struct tf_notify *t = tf->notify;
	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	t->stop = true;
	pthread_cond_broadcast(&t->cond);
	pthread_mutex_unlock(&t->lock);
	for (unsigned i = 0; i < t->nthreads; i++)
		pthread_join(t->threads[i], NULL);
	pthread_mutex_destroy(&t->lock);
	pthread_cond_destroy(&t->cond);
	ts_free(t);
	tf->notify = NULL;
}

struct tf_job *tf_job_new(struct tfuse *tf, int (*fn)(struct tf_job *))
{
	struct tf_job *j = ts_alloc(sizeof(*j));
	if (!j)
		return NULL;
	j->tf = tf;
	j->fn = fn;
	ts_done_init(&j->done);
	return j;
}

void tf_job_free(struct tf_job *j)
{
	ts_free(j->data);
	ts_free(j);
}

int tf_notify_write(struct tfuse *tf, int code, const void *data, size_t len, const void *more, size_t more_len)
{
	struct fuse_out_header h = {.len = (uint32_t)(sizeof(h) + len + more_len), .error = code, .unique = 0};
	struct iovec iov[3] = {{&h, sizeof(h)}, {(void *)data, len}, {(void *)more, more_len}};
	ssize_t n = writev(tf->fd, iov, more_len ? 3 : len ? 2 : 1);
	return n < 0 ? -errno : 0;
}

void tf_job_submit(struct tf_job *j)
{
	struct tf_notify *t = j->tf->notify;
	j->tf->njobs++;
	pthread_mutex_lock(&t->lock);
	ts_list_push_back(&t->queue, &j->link);
	bool more = t->idle == 0 && t->nthreads < TF_THREADS;
	pthread_cond_signal(&t->cond);
	pthread_mutex_unlock(&t->lock);
	if (more && thread_add(t))
		ts_warn("notifier: no further thread can be started, %u serve on", t->nthreads);
}

bool tf_proc_read(uint32_t tid, const char *what, char *buf, size_t size)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%u/%s", tid, what);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);
	if (fd >= 0)
		close(fd);
	buf[n > 0 ? n : 0] = 0;
	return n > 0;
}

char tf_thread_state(uint32_t tid)
{
	char buf[256];
	const char *state = tf_proc_read(tid, "stat", buf, sizeof(buf)) ? strrchr(buf, ')') : NULL; /* "tid (name) D ..." */
	return state && state[1] == ' ' ? state[2] : 0;
}

bool tf_job_asleep(const struct tf_job *j)
{
	int tid = atomic_load(&j->tid);
	return tid && tf_thread_state((uint32_t)tid) == 'D';
}

int tf_job_run(struct tf_job *j, const char *what, uint64_t id)
{
	tf_job_submit(j);
	int rc = ts_done_wait(&j->done, what, id, 0);
	if (j->node)
		tf_node_unref(j->tf, j->node);
	tf_job_free(j);
	return rc;
}
