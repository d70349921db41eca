/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what the daemon tells the service manager (sd_notify): started, how it is, stopping, and that it still works.
 *
 *   (started) --READY--> up: STATUS at every change, WATCHDOG from a fiber --STOPPING--> the same, until the process ends
 *
 * Must never happen: a watchdog fed by anything but a fiber of the daemon's executor: what it vouches for is that timers fire and
 * fibers run. Without a service manager nothing here does anything. */
#include "admin/daemon.h"
#include <stdio.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define FEEDS_PER_LIMIT 4 /* one that comes late does no harm */

static void status_line(struct daemon *d, char *text, size_t size)
{
	unsigned mounts = 0;
	ts_list_for(l, &d->mounts)
		mounts += ts_list_entry(l, struct mount, link)->state == MOUNT_LIVE;
	const struct quorum_view *v = d->quorum ? quorum_view_get(d->quorum) : NULL;
	snprintf(text, size, "STATUS=node %u: %s, %u nodes in view, %u mounted", d->conf.node_id, daemon_state(d), v ? v->nmembers : 0, mounts);
}

static void status_fiber(void *arg)
{
	struct daemon *d = arg;
	char told[160] = "", text[160];
	for (;;) {
		status_line(d, text, sizeof(text));
		if (strcmp(text, told)) {
			sd_notify(0, text);
			strcpy(told, text);
		}
		ts_cond_wait(&d->changed, "news for the service manager", 0, 0);
	}
}

static void watchdog_fiber(void *arg)
{
	struct daemon *d = arg;
	uint64_t limit_us = 0;
	if (sd_watchdog_enabled(0, &limit_us) <= 0 || !limit_us)
		return;
	for (;;) {
		sd_notify(0, "WATCHDOG=1");
		ts_sleep_until(ts_exec_now(d->exec) + limit_us * 1000 / FEEDS_PER_LIMIT);
	}
}

void service_ready(struct daemon *d)
{
	if (!getenv("NOTIFY_SOCKET"))
		return;
	if (ts_fiber_spawn(d->exec, "service status", status_fiber, d) || ts_fiber_spawn(d->exec, "service watchdog", watchdog_fiber, d))
		TS_PANIC("no memory for the fibers that speak to the service manager"); /* it would end this process soon, and not say why */
	sd_notify(0, "READY=1");
}

void service_stopping(void)
{
	sd_notify(0, "STOPPING=1");
}

/* Then a line on stderr would be there twice. */
bool service_has_journal(void)
{
	const char *s = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;
	return s && sscanf(s, "%llu:%llu", &dev, &ino) == 2 && fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}
