/* SPDX-License-Identifier: Apache-2.0 */
/* Job: one line per event to stderr and, when opened, through libqb to syslog/journal. Must never happen: a caller
 * that waits for the journal (libqb's own thread writes there and drops lines, counted, when it falls behind). */
#include "lib/log.h"

#include <pthread.h>
#include <qb/qblog.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

static _Atomic int level_max = TS_LOG_NOTICE;
static atomic_bool use_stderr = true;
static atomic_bool use_qb;
static pthread_mutex_t qb_mutex = PTHREAD_MUTEX_INITIALIZER;

static struct {
	enum ts_log_level level;
	uint64_t wall_ns;
	char text[TS_LOG_KEPT_BYTES];
} kept[TS_LOG_KEPT];
static uint64_t nkept;
static pthread_mutex_t kept_mutex = PTHREAD_MUTEX_INITIALIZER;

static void keep(enum ts_log_level level, const char *text)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	pthread_mutex_lock(&kept_mutex);
	unsigned at = nkept++ % TS_LOG_KEPT;
	kept[at].level = level;
	kept[at].wall_ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
	snprintf(kept[at].text, sizeof(kept[at].text), "%.*s", TS_LOG_KEPT_BYTES - 1, text);
	pthread_mutex_unlock(&kept_mutex);
}

void ts_log_each(unsigned n, void (*fn)(void *arg, enum ts_log_level level, uint64_t wall_ns, const char *text), void *arg)
{
	pthread_mutex_lock(&kept_mutex); /* fn must not log */
	uint64_t have = TS_MIN(nkept, (uint64_t)TS_LOG_KEPT), from = nkept - TS_MIN(have, (uint64_t)n);
	for (uint64_t i = from; i < nkept; i++)
		fn(arg, kept[i % TS_LOG_KEPT].level, kept[i % TS_LOG_KEPT].wall_ns, kept[i % TS_LOG_KEPT].text);
	pthread_mutex_unlock(&kept_mutex);
}

static const char *level_name(enum ts_log_level level)
{
	switch (level) {
	case TS_LOG_ERR:
		return "ERROR";
	case TS_LOG_WARN:
		return "WARN";
	case TS_LOG_NOTICE:
		return "NOTICE";
	case TS_LOG_INFO:
		return "INFO";
	case TS_LOG_DEBUG:
		return "DEBUG";
	}
	return "?";
}

void ts_log_open(const char *ident, enum ts_log_level level, bool to_stderr)
{
	pthread_mutex_lock(&qb_mutex);
	if (!atomic_load(&use_qb)) {
		qb_log_init(ident, LOG_DAEMON, LOG_WARNING); /* of libqb itself: its debugging is no news of ours */
		qb_log_filter_ctl(QB_LOG_SYSLOG, QB_LOG_FILTER_ADD, QB_LOG_FILTER_FILE, __FILE__, LOG_DEBUG);
		qb_log_format_set(QB_LOG_SYSLOG, "%b");
		qb_log_ctl(QB_LOG_SYSLOG, QB_LOG_CONF_ENABLED, QB_TRUE);
		qb_log_ctl(QB_LOG_SYSLOG, QB_LOG_CONF_THREADED, QB_TRUE); /* no ctl between this and the start: crashes */
		if (qb_log_thread_start() == 0)
			atomic_store(&use_qb, true);
		else
			qb_log_fini();
	}
	pthread_mutex_unlock(&qb_mutex);
	atomic_store(&use_stderr, to_stderr || !atomic_load(&use_qb));
	ts_log_level_set(level);
}

void ts_log_level_set(enum ts_log_level level)
{
	atomic_store(&level_max, (int)level);
}

bool ts_log_enabled(enum ts_log_level level)
{
	return (int)level <= atomic_load_explicit(&level_max, memory_order_relaxed);
}

static void to_stderr_line(enum ts_log_level level, const char *text)
{
	char line[1200];
	struct timespec t;
	struct tm tm;
	int n;

	clock_gettime(CLOCK_REALTIME, &t);
	localtime_r(&t.tv_sec, &tm);
	n = snprintf(line, sizeof(line), "%02d:%02d:%02d.%06ld %s %s\n", tm.tm_hour, tm.tm_min, tm.tm_sec,
		     t.tv_nsec / 1000, level_name(level), text);
	n = TS_MIN(n, (int)sizeof(line) - 1);
	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		return; /* stderr is gone: the journal has the line, or nobody listens */
}

void ts_log_write(enum ts_log_level level, const char *fmt, ...)
{
	char text[1100];
	int saved = errno;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (char *c = text; *c; c++)
		if (*c == '\n' || *c == '\r')
			*c = ' '; /* one event, one line: nobody forges a second one */
	keep(level, text);
	if (atomic_load(&use_qb)) {
		pthread_mutex_lock(&qb_mutex);
		qb_log_from_external_source(__func__, __FILE__, "%s", (uint8_t)level, __LINE__, 0, text);
		pthread_mutex_unlock(&qb_mutex);
	}
	if (atomic_load(&use_stderr))
		to_stderr_line(level, text);
	errno = saved;
}
