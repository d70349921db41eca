/* SPDX-License-Identifier: Apache-2.0 */
/* Who uses a mount: processes with an open file, a working or root directory or their program there, and mounts below it. Only names that
 * the kernel keeps are read (links of /proc): nothing is looked up in the mount, and no lock is taken that a process may hold while
 * it waits for this daemon (so no /proc/PID/maps: a file that is only mapped is not found). */
#include "admin/daemon.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define BUSY_NAMED 8
#define BUSY_FDS   4096 /* looked at, of one process */

static bool below(const char *dir, size_t len, const char *path)
{
	return !strncmp(path, dir, len) && (path[len] == 0 || path[len] == '/');
}

static bool link_below(int at, const char *name, const char *dir, size_t len)
{
	char path[1024];
	ssize_t n = readlinkat(at, name, path, sizeof(path) - 1);
	if (n <= 0)
		return false;
	path[n] = 0;
	return below(dir, len, path);
}

static bool files_below(int proc, const char *dir, size_t len)
{
	int fd = openat(proc, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dp = fd < 0 ? NULL : fdopendir(fd);
	bool found = false;
	if (!dp) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	for (unsigned i = 0; !found && i < BUSY_FDS; i++) {
		struct dirent *e = readdir(dp);
		if (!e)
			break;
		found = e->d_name[0] != '.' && link_below(fd, e->d_name, dir, len);
	}
	closedir(dp);
	return found;
}

static const char *how(int proc, const char *dir, size_t len)
{
	static const char *const links[][2] = {{"cwd", "works in it"}, {"root", "has its root in it"}, {"exe", "runs from it"}};
	for (size_t i = 0; i < TS_ARRAY_LEN(links); i++)
		if (link_below(proc, links[i][0], dir, len))
			return links[i][1];
	return files_below(proc, dir, len) ? "has files open" : NULL;
}

static void comm_of(int proc, char *buf, size_t n)
{
	int fd = openat(proc, "comm", O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, buf, n - 1);
	if (fd >= 0)
		close(fd);
	buf[got > 0 ? got : 0] = 0;
	buf[strcspn(buf, "\n")] = 0;
	for (char *p = buf; *p; p++)
		if ((unsigned char)*p < 0x20 || (unsigned char)*p > 0x7e)
			*p = '?';
}

static unsigned mounts_below(const char *dir, char *buf, size_t n)
{
	char line[1024], where[512];
	size_t len = strlen(dir);
	unsigned count = 0;
	FILE *f = fopen("/proc/self/mountinfo", "re");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*s %*s %*s %*s %511s", where) == 1 && strcmp(where, dir) && below(dir, len, where) && !count++)
			snprintf(buf, n, "%s", where);
	}
	if (f)
		fclose(f);
	return count;
}

void busy_text(struct daemon *d, const char *dir, char *buf, size_t n)
{
	size_t len = strlen(dir), used = 0;
	unsigned count = 0, named = 0;
	char where[512], comm[32];
	DIR *dp = opendir("/proc");
	buf[0] = 0;
	if (mounts_below(dir, where, sizeof(where)))
		used += (size_t)snprintf(buf, n, "another file system is mounted at %.200s", where);
	for (struct dirent *e; dp && (e = readdir(dp));) {
		int proc = e->d_name[0] >= '1' && e->d_name[0] <= '9' ? openat(dirfd(dp), e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
		if (proc < 0)
			continue;
		const char *what = how(proc, dir, len);
		if (what && count++ < BUSY_NAMED && used < n) {
			comm_of(proc, comm, sizeof(comm));
			used += (size_t)snprintf(buf + used, n - used, "%sprocess %s (%s) %s", used ? ", " : "", e->d_name, comm, what);
			named++;
		}
		close(proc);
		ts_fiber_yield(); /* there may be many */
	}
	if (dp)
		closedir(dp);
	if (count > named && used < n)
		snprintf(buf + used, n - used, " and %u more", count - named);
}
