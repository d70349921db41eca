/* SPDX-License-Identifier: Apache-2.0 */
/* Logging: one line per event, naming the object, the cause and the next action. To stderr, and through
 * libqb's log to the journal when the daemon switches it on. Callable from any thread; never blocks on disk. */
#ifndef TESSERA_LIB_LOG_H
#define TESSERA_LIB_LOG_H

#include "lib/base.h"

enum ts_log_level { TS_LOG_ERR = 3, TS_LOG_WARN = 4, TS_LOG_NOTICE = 5, TS_LOG_INFO = 6, TS_LOG_DEBUG = 7 };
void ts_log_open(const char *ident, enum ts_log_level level, bool to_stderr);
void ts_log_level_set(enum ts_log_level level);
bool ts_log_enabled(enum ts_log_level level);
void ts_log_write(enum ts_log_level level, const char *fmt, ...) TS_PRINTF(2, 3);
/* The newest `n` lines that were logged, oldest first, however far the level was turned down since. Any thread. */
#define TS_LOG_KEPT	  1024
#define TS_LOG_KEPT_BYTES 320
void ts_log_each(unsigned n, void (*fn)(void *arg, enum ts_log_level level, uint64_t wall_ns, const char *text), void *arg);
#define ts_log(level, ...)                                                                                 \
	do {                                                                                               \
		if (ts_log_enabled(level))                                                                 \
			ts_log_write(level, __VA_ARGS__);                                                  \
	} while (0)
#define ts_err(...) ts_log(TS_LOG_ERR, __VA_ARGS__)
#define ts_warn(...) ts_log(TS_LOG_WARN, __VA_ARGS__)
#define ts_notice(...) ts_log(TS_LOG_NOTICE, __VA_ARGS__)
#define ts_info(...) ts_log(TS_LOG_INFO, __VA_ARGS__)
#define ts_debug(...) ts_log(TS_LOG_DEBUG, __VA_ARGS__)

#endif
