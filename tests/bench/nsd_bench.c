/* SPDX-License-Identifier: Apache-2.0 */
/* Job: one figure of one disk: nsd_bench URL read|write BLOCK DEPTH MS. Random blocks from DEPTH fibers, as the daemon does its I/O.
 * Prints IOPS, MB/s and this process's CPU time per operation in us. What it writes is lost: never a disk with a label. */
#include "nsd/nsd.h"

#include <stdio.h>
#include <sys/resource.h>

static struct {
	const char *url;
	enum nsd_op op;
	unsigned block, depth, ms;
	struct nsd_dev *dev;
	struct ts_loop *loop;
	struct ts_group group;
	uint64_t end_ns, ops;
	int rc;
} b;

static void worker(void *arg)
{
	uint8_t *buf = ts_alloc_aligned(4096, b.block);
	uint64_t blocks = nsd_info(b.dev)->size_bytes / b.block;
	int rc = 0;

	TS_ASSERT(buf);
	memset(buf, 0x5a, b.block);
	while (!rc && ts_exec_now(ts_exec_self()) < b.end_ns) {
		uint64_t off = ts_random(&ts_env_real) % blocks * b.block;

		rc = b.op == NSD_READ ? nsd_read(b.dev, buf, b.block, off) : nsd_write(b.dev, buf, b.block, off);
		b.ops++;
	}
	ts_free(buf);
	ts_group_done(&b.group, rc);
}

static double cpu_us(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return 1e6 * (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static int measure(void)
{
	enum nsd_label_state state;
	struct nsd_label_disk *l = ts_alloc_aligned(4096, sizeof(*l));
	uint64_t begin;
	double cpu, s;
	char what[200];
	int rc = l ? nsd_label_read(b.dev, l, &state, what, sizeof(what)) : -ENOMEM;

	if (!rc && (state == NSD_LABEL_OK || state == NSD_LABEL_NEWER || state == NSD_LABEL_BROKEN)) {
		fprintf(stderr, "nsd_bench: %s: belongs to a file system\n", b.url);
		rc = -EBUSY;
	}
	ts_free(l);
	if (rc)
		return rc;
	begin = ts_exec_now(ts_exec_self());
	cpu = cpu_us();
	b.end_ns = begin + b.ms * TS_NS_PER_MS;
	ts_group_init(&b.group);
	for (unsigned i = 0; i < b.depth; i++) {
		ts_group_add(&b.group);
		TS_ASSERT(ts_fiber_spawn(ts_exec_self(), "bench", worker, NULL) == 0);
	}
	rc = ts_group_wait(&b.group, "bench");
	s = (double)(ts_exec_now(ts_exec_self()) - begin) / 1e9;
	if (!rc)
		printf("%.0f %.1f %.2f\n", (double)b.ops / s, (double)b.ops * b.block / s / 1e6, (cpu_us() - cpu) / (double)b.ops);
	return rc;
}

static void work(void *arg)
{
	struct nsd_open_args a = {.exec = ts_exec_self(), .url = b.url, .initiator_name = "iqn.2026-11.io.tessera:bench", .isid = 7};
	char err[400] = "";

	b.rc = nsd_open(&a, &b.dev, err, sizeof(err));
	if (!b.rc) {
		b.rc = measure();
		nsd_close(b.dev);
	}
	if (b.rc)
		fprintf(stderr, "nsd_bench: %s: %s\n", b.url, err[0] ? err : strerror(-b.rc));
	ts_loop_stop(b.loop);
}

int main(int argc, char **argv)
{
	struct ts_exec *x = ts_exec_new(&ts_env_real);

	if (argc != 6 || (strcmp(argv[2], "read") && strcmp(argv[2], "write"))) {
		fprintf(stderr, "usage: nsd_bench URL read|write BLOCK DEPTH MS\n");
		return 2;
	}
	b.url = argv[1];
	b.op = strcmp(argv[2], "read") ? NSD_WRITE : NSD_READ;
	b.block = (unsigned)strtoul(argv[3], NULL, 0);
	b.depth = (unsigned)strtoul(argv[4], NULL, 0);
	b.ms = (unsigned)strtoul(argv[5], NULL, 0);
	if (!b.block || b.block % 4096 || !b.depth || !b.ms)
		return 2;
	b.loop = ts_loop_new(x);
	if (ts_fiber_spawn(x, "bench", work, NULL))
		return 1;
	ts_loop_run(b.loop);
	return b.rc != 0;
}
