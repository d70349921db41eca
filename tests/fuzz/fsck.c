/* SPDX-License-Identifier: Apache-2.0 */
/* Job: fsck on damaged disks (image.h). It must end, whatever it meets; after a repair a second look finds nothing, and the file
 * system mounts and can be read without an error (every second input, for it takes as long). */
#include "tests/fuzz/image.h"

#include <stdio.h>

struct run {
	struct fsh *h;
	bool repair;
	struct fs_check_result res;
	int rc;
	char err[256], first[256];
};

static void on_finding(void *arg, const char *text, bool repaired)
{
	struct run *r = arg;

	if (!r->first[0])
		snprintf(r->first, sizeof(r->first), "%s", text);
	if (getenv("FUZZ_LOUD"))
		fprintf(stderr, "    %s%s\n", repaired ? "[repaired] " : "", text);
}

static void check_fiber(void *arg)
{
	struct run *r = arg;
	struct fs_check_args a = {.disks = r->h->devs, .ndisks = r->h->ndisks, .repair = r->repair, .env = &r->h->env, .finding = on_finding,
				  .arg = r, .memory_bound = 64u << 20};

	r->rc = fs_check(&a, true, &r->res, r->err, sizeof(r->err));
}

static struct run check(struct fsh *h, bool repair)
{
	struct run r = {.h = h, .repair = repair};

	fsh_run(h, check_fiber, &r);
	return r;
}

static void mount_fiber(void *arg)
{
	image_walk(((struct fsh *)arg)->fs, false, true);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct ts_rd rd = fuzz_in(p, n);
	unsigned how = ts_rd_u8(&rd);
	struct fsh *h = image_open(how & IMAGE_CRASHED, &rd);
	struct run r, again;

	if (how & 2) /* else a look that changes nothing comes first */
		(void)check(h, false);
	r = check(h, true);
	if (r.rc == 0) {
		again = check(h, false);
		if (again.rc || again.res.findings)
			TS_PANIC("after a repair of %lu findings: rc %d (%s), %lu findings, the first: %s", r.res.findings, again.rc, again.err,
				 again.res.findings, again.first);
		if (how & 4) {
			fsh_mount(h);
			fsh_run(h, mount_fiber, h);
			fsh_unmount(h);
		}
	}
	fsh_free(h);
	return 0;
}

void fuzz_seeds(void)
{
	for (uint8_t how = 0; how < 8; how += 1 + (how == 1) * 3) /* 0, 1, 5, 6, 7 */
		image_seeds(&how, 1);
}
