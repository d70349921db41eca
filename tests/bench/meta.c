/* SPDX-License-Identifier: Apache-2.0 */
/* Metadata in the shapes of IO500's mdtest: ranks that make, look at, read and remove files, each in a directory of its own ("easy",
 * empty files) or all in one ("hard", 3,901 bytes each). One rank a DIR: the same directory through several mounts, or several.
 *
 *   meta setup|create|stat|read|unlink|clean [--files N] [--size BYTES] [--shared] [--shift N] DIR...
 *
 * --shift 1: each rank works on the files of the next one, which another node made. setup makes the directories, clean removes them (empty).
 * Prints one JSON line. What must never happen: a figure when a call failed or a file held other bytes than were written. */
#include "ranks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_SIZE 65536

struct meta {
	struct ranks ranks;
	char **dir;
	unsigned n, files, shift;
	size_t size;
	bool shared;
	int (*one)(const struct meta *m, const char *path);
};
static char data[MAX_SIZE], got[MAX_SIZE + 1];

static int complain(const char *call, const char *path)
{
	fprintf(stderr, "meta: %s %s: %s\n", call, path, strerror(errno));
	return 1;
}

static void path_of(const struct meta *m, unsigned rank, unsigned owner, char *path, size_t room)
{
	if (m->shared)
		snprintf(path, room, "%s/shared", m->dir[rank]);
	else
		snprintf(path, room, "%s/rank.%u", m->dir[rank], owner);
}

static int one_create(const struct meta *m, const char *path)
{
	int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);

	if (fd < 0)
		return complain("create", path);
	if (m->size && write(fd, data, m->size) != (ssize_t)m->size)
		return complain("write", path);
	return close(fd) ? complain("close", path) : 0;
}

static int one_stat(const struct meta *m, const char *path)
{
	struct stat st;

	if (stat(path, &st))
		return complain("stat", path);
	if ((size_t)st.st_size != m->size) {
		fprintf(stderr, "meta: %s has %lld bytes, not %zu\n", path, (long long)st.st_size, m->size);
		return 1;
	}
	return 0;
}

static int one_read(const struct meta *m, const char *path)
{
	int fd = open(path, O_RDONLY);
	ssize_t n;

	if (fd < 0)
		return complain("open", path);
	n = read(fd, got, m->size + 1);
	if (n < 0)
		return complain("read", path);
	if ((size_t)n != m->size || memcmp(got, data, m->size)) {
		fprintf(stderr, "meta: %s holds other bytes than were written (%zd)\n", path, n);
		return 1;
	}
	return close(fd) ? complain("close", path) : 0;
}

static int one_unlink(const struct meta *m, const char *path)
{
	return unlink(path) ? complain("unlink", path) : 0;
}

static int work(unsigned rank, void *arg)
{
	struct meta *m = arg;
	unsigned owner = (rank + m->shift) % m->n;
	char path[4096];
	size_t len;

	path_of(m, rank, owner, path, sizeof(path) - 64);
	len = strlen(path);
	ranks_begin(&m->ranks, rank);
	for (unsigned i = 0; i < m->files; i++) {
		snprintf(path + len, 64, "/file.mdtest.%u.%u", owner, i);
		if (m->one(m, path))
			return 1;
	}
	ranks_end(&m->ranks, rank, m->files, m->files * m->size);
	return 0;
}

/* By whoever will use them: rank r through its own mount. */
static int dirs(const struct meta *m, bool make)
{
	char path[4096];

	for (unsigned i = 0; i < (m->shared ? 1 : m->n); i++) {
		path_of(m, i, i, path, sizeof(path));
		if (make ? mkdir(path, 0755) : rmdir(path))
			return complain(make ? "mkdir" : "rmdir", path);
	}
	return 0;
}

static const struct {
	const char *name;
	int (*one)(const struct meta *m, const char *path);
} phases[] = {{"create", one_create}, {"stat", one_stat}, {"read", one_read}, {"unlink", one_unlink}};

int main(int argc, char **argv)
{
	struct meta m = {.files = 1000};
	const char *phase = argc > 1 ? argv[1] : "";
	int i;

	for (i = 2; i < argc && argv[i][0] == '-'; i++) {
		if (!strcmp(argv[i], "--files"))
			m.files = (unsigned)number_of(argv[i], argv[i + 1]), i++;
		else if (!strcmp(argv[i], "--size"))
			m.size = number_of(argv[i], argv[i + 1]), i++;
		else if (!strcmp(argv[i], "--shift"))
			m.shift = (unsigned)number_of(argv[i], argv[i + 1]), i++;
		else if (!strcmp(argv[i], "--shared"))
			m.shared = true;
		else
			break;
	}
	m.dir = argv + i;
	m.n = i < argc ? (unsigned)(argc - i) : 0;
	for (size_t b = 0; b < sizeof(data); b++)
		data[b] = (char)(b * 31 + b / 251);
	for (size_t p = 0; p < sizeof(phases) / sizeof(*phases); p++)
		if (!strcmp(phase, phases[p].name))
			m.one = phases[p].one;
	if (!m.n || m.size > MAX_SIZE || argv[i][0] == '-' || (!m.one && strcmp(phase, "setup") && strcmp(phase, "clean"))) {
		fprintf(stderr, "usage: meta setup|create|stat|read|unlink|clean [--files N] [--size BYTES] [--shared] [--shift N] DIR...\n");
		return 2;
	}
	if (!m.one)
		return dirs(&m, phase[0] == 's');
	if (ranks_run(&m.ranks, m.n, work, &m))
		return 1;
	ranks_print(&m.ranks, phase);
	return 0;
}
