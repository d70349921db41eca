/* SPDX-License-Identifier: Apache-2.0 */
/* Data in the shapes of IO500's IOR: ranks that write and read, each a file of its own ("easy": sequential blocks) or all one file
 * ("hard": records of 47,008 bytes, interleaved). One rank a FILE; the same file through several mounts is one file.
 *
 *   io write|read [--block BYTES] [--count N] [--layout own|halves|strided] [--shift N] [--random] [--fsync] [--sync-each]
 *      [--direct] [--keep] FILE...
 *
 * own: the rank's i-th call goes to i blocks; halves: to its part of the file; strided: to every n-th block. --count is of a rank.
 * --random: the same places in another order. --fsync: one at the end, within the time. --sync-each: fdatasync behind every write.
 * --keep: the file is there already and is not cut. --shift N: reads what the N-th rank after this one wrote.
 * Prints one JSON line. What must never happen: a figure for other bytes than were written. */
#include "ranks.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum layout { OWN, HALVES, STRIDED };

struct io {
	struct ranks ranks;
	char **file;
	unsigned n, shift;
	uint64_t block, count;
	enum layout layout;
	bool write, random, fsync, sync_each, direct, keep;
};

static uint64_t place_of(const struct io *io, unsigned rank, uint64_t i)
{
	switch (io->layout) {
	case HALVES:
		return rank * io->count + i;
	case STRIDED:
		return i * io->n + rank;
	default:
		return i;
	}
}

/* The same for every run: a walk over all numbers below count, in an order of its own. */
static uint64_t *order_of(const struct io *io)
{
	uint64_t *v = malloc(io->count * sizeof(*v)), x = 88172645463325252ull;

	for (uint64_t i = 0; v && i < io->count; i++)
		v[i] = i;
	for (uint64_t i = io->count; v && io->random && i > 1; i--) {
		uint64_t j, t;

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		j = x % i;
		t = v[i - 1];
		v[i - 1] = v[j];
		v[j] = t;
	}
	return v;
}

/* Every block of a rank differs from every other in its first bytes; what follows is the rank's. */
static void stamp(char *buf, uint64_t block, unsigned owner, uint64_t place)
{
	char head[24];
	size_t n = (size_t)snprintf(head, sizeof(head), "%02u:%016" PRIx64, owner % 100, place);

	memcpy(buf, head, n < block ? n : block);
}

static void fill(char *buf, uint64_t block, unsigned owner)
{
	for (uint64_t i = 0; i < block; i++)
		buf[i] = (char)(i * 7 + i / 251 + owner * 31);
}

static int complain(const struct io *io, unsigned rank, const char *call, uint64_t place)
{
	fprintf(stderr, "io: %s %s, block %" PRIu64 ": %s\n", call, io->file[rank], place, strerror(errno));
	return 1;
}

static int one(const struct io *io, unsigned rank, unsigned owner, int fd, char *buf, char *want, uint64_t place)
{
	off_t at = (off_t)(place * io->block);
	ssize_t n;

	if (io->write) {
		stamp(buf, io->block, owner, place);
		n = pwrite(fd, buf, io->block, at);
		if (n != (ssize_t)io->block)
			return complain(io, rank, "write", place);
		return io->sync_each && fdatasync(fd) ? complain(io, rank, "fdatasync", place) : 0;
	}
	n = pread(fd, buf, io->block, at);
	if (n != (ssize_t)io->block)
		return complain(io, rank, n < 0 ? "read" : "short read", place);
	stamp(want, io->block, owner, place);
	if (memcmp(buf, want, io->block)) {
		fprintf(stderr, "io: %s, block %" PRIu64 ": other bytes than were written\n", io->file[rank], place);
		return 1;
	}
	return 0;
}

static int work(unsigned rank, void *arg)
{
	struct io *io = arg;
	unsigned owner = (rank + io->shift) % io->n;
	uint64_t *order = order_of(io);
	char *buf = aligned_alloc(4096, (io->block + 4095) / 4096 * 4096), *want = malloc(io->block);
	int cut = io->keep || io->layout != OWN ? 0 : O_TRUNC;
	int fd = open(io->file[rank], (io->write ? O_RDWR | O_CREAT | cut : O_RDONLY) | (io->direct ? O_DIRECT : 0), 0644);

	if (!order || !buf || !want || fd < 0)
		return complain(io, rank, "open", 0);
	fill(buf, io->block, owner);
	fill(want, io->block, owner);
	ranks_begin(&io->ranks, rank);
	for (uint64_t i = 0; i < io->count; i++)
		if (one(io, rank, owner, fd, buf, want, place_of(io, owner, order[i])))
			return 1;
	if (io->fsync && fsync(fd))
		return complain(io, rank, "fsync", 0);
	ranks_end(&io->ranks, rank, io->count, io->count * io->block);
	free(order);
	free(buf);
	free(want);
	return close(fd) ? complain(io, rank, "close", 0) : 0;
}

static int option(struct io *io, const char *o, const char *value)
{
	static const char *const layouts[] = {"own", "halves", "strided"};

	if (!strcmp(o, "--block"))
		io->block = number_of(o, value);
	else if (!strcmp(o, "--count"))
		io->count = number_of(o, value);
	else if (!strcmp(o, "--shift"))
		io->shift = (unsigned)number_of(o, value);
	else if (!strcmp(o, "--layout")) {
		for (unsigned i = 0; value && i < 3; i++)
			if (!strcmp(value, layouts[i])) {
				io->layout = (enum layout)i;
				return 1;
			}
		return -1;
	} else {
		bool *flag = !strcmp(o, "--random") ? &io->random : !strcmp(o, "--fsync") ? &io->fsync : !strcmp(o, "--sync-each") ? &io->sync_each :
			     !strcmp(o, "--direct") ? &io->direct : !strcmp(o, "--keep") ? &io->keep : NULL;

		if (!flag)
			return -1;
		*flag = true;
		return 0;
	}
	return 1;
}

int main(int argc, char **argv)
{
	struct io io = {.block = 1 << 20, .count = 1};
	bool good = argc > 1 && (!strcmp(argv[1], "write") || !strcmp(argv[1], "read"));
	int i;

	for (i = 2; good && i < argc && argv[i][0] == '-'; i++) {
		int used = option(&io, argv[i], argv[i + 1]);

		good = used >= 0;
		i += used > 0;
	}
	if (!good || i >= argc || !io.block || !io.count) {
		fprintf(stderr, "usage: io write|read [--block BYTES] [--count N] [--layout own|halves|strided] [--shift N] [--random] [--fsync]\n"
				"          [--sync-each] [--direct] [--keep] FILE...\n");
		return 2;
	}
	io.write = argv[1][0] == 'w';
	io.file = argv + i;
	io.n = (unsigned)(argc - i);
	if (ranks_run(&io.ranks, io.n, work, &io))
		return 1;
	ranks_print(&io.ranks, argv[1]);
	return 0;
}
