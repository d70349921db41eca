/* SPDX-License-Identifier: Apache-2.0 */
/* fs/ alone, on disks in memory and with tokens that are granted at once: N operations of one kind behind the same preparations. Counted by
 * tests/bench/instructions: the difference between two runs, divided by the difference of N, is what one operation costs, whatever else
 * the machine does.
 *
 *   core create|lookup|getattr|open|unlink|write4k|write1m|read4k N
 *
 * What must never happen: an operation that fails and is counted. */
#include "../unit/fs_harness.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#define MIB (1u << 20)

static const struct fs_cred cred = {.uid = 0, .gid = 0};
static unsigned count;
static const char *what;
static struct fs *fs;
static uint8_t *data;

static void must(bool good, const char *call)
{
	if (!good) {
		fprintf(stderr, "core: %s failed\n", call);
		exit(1);
	}
}

static size_t name_of(unsigned i, char *name)
{
	return (size_t)snprintf(name, 32, "file.mdtest.0.%u", i);
}

static uint64_t make(unsigned i)
{
	struct fs_file *f;
	struct fs_attr a;
	char name[32];
	size_t len = name_of(i, name);

	must(fs_create(fs, &cred, 1, name, len, S_IFREG | 0644, O_WRONLY | O_CREAT | O_EXCL, &f, &a) == 0, "create");
	must(fs_flush(fs, f) == 0, "flush");
	fs_release(fs, f);
	return a.ino;
}

static void lookup(unsigned i, struct fs_attr *a)
{
	char name[32];
	size_t len = name_of(i, name);

	must(fs_lookup(fs, &cred, 1, name, len, a) == 0, "lookup");
}

static void do_unlink(unsigned i)
{
	char name[32];
	size_t len = name_of(i, name);

	must(fs_unlink(fs, &cred, 1, name, len) == 0, "unlink");
}

static void do_open(uint64_t ino)
{
	struct fs_file *f;

	must(fs_open(fs, &cred, ino, O_RDONLY, &f) == 0, "open");
	must(fs_flush(fs, f) == 0, "flush");
	fs_release(fs, f);
}

static void io(uint64_t ino, size_t size, bool write)
{
	struct fs_file *f;
	uint64_t at;

	must(fs_open(fs, &cred, ino, O_RDWR, &f) == 0, "open");
	for (unsigned i = 0; i < count; i++) {
		uint64_t off = (uint64_t)(i % (16 * MIB / size)) * size;

		if (write)
			must(fs_write(fs, f, data, size, off, false, false, &at) == (ssize_t)size, "write");
		else
			must(fs_read(fs, f, data, size, off) == (ssize_t)size, "read");
	}
	fs_release(fs, f);
}

/* The same for every N but for the files that the operations themselves need. */
static void work(void *arg)
{
	struct fs_attr a;
	uint64_t ino = make(1000000);
	unsigned n = count;

	what = arg;
	count = 16;
	io(ino, MIB, true);
	count = n;
	if (!strcmp(what, "write4k") || !strcmp(what, "read4k") || !strcmp(what, "write1m")) {
		io(ino, what[5] == '1' ? MIB : 4096, what[0] == 'w');
		return;
	}
	for (unsigned i = 0; !strcmp(what, "unlink") && i < 2000; i++)
		make(i);
	must(strcmp(what, "unlink") != 0 || n <= 2000, "unlink of more than 2000");
	for (unsigned i = 0; i < n; i++) {
		if (!strcmp(what, "create"))
			make(i);
		else if (!strcmp(what, "lookup"))
			lookup(1000000, &a);
		else if (!strcmp(what, "getattr"))
			must(fs_getattr(fs, &cred, ino, &a) == 0, "getattr");
		else if (!strcmp(what, "open"))
			do_open(ino);
		else if (!strcmp(what, "unlink"))
			do_unlink(i);
		else
			must(false, what);
	}
}

int main(int argc, char **argv)
{
	struct fsh *h;

	if (argc != 3 || (count = (unsigned)strtoul(argv[2], NULL, 10)) == 0) {
		fprintf(stderr, "usage: core create|lookup|getattr|open|unlink|write4k|write1m|read4k N\n");
		return 2;
	}
	data = calloc(1, MIB);
	h = fsh_new(1, 256u << 20);
	fsh_format(h, 1u << 20);
	fs = fsh_mount(h);
	must(data && fs, "mount");
	fsh_run(h, work, argv[1]);
	return 0; /* without the unmount, which would write all of it home */
}
