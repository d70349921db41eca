/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a mount of damaged disks (image.h), as a node makes it, that is: with whatever log there is replayed. It refuses, or it works;
 * what it meets later may end a call with an error or stop the mount, never the process. */
#include "tests/fuzz/image.h"

#include <stdio.h>

struct run {
	struct fsh *h;
	unsigned how;
	int rc;
	char err[256];
};

static void view(void *arg, const struct quorum_group_view *v)
{
	struct fsh *h = arg;

	if (h->fs)
		fs_group_view(h->fs, v);
}

static void mount_fiber(void *arg)
{
	struct run *r = arg;
	struct fsh *h = r->h;
	struct fs_mount_args a = {.exec = h->x, .disks = h->devs, .ndisks = h->ndisks, .net = h->net, .quorum = h->quorum,
				  .times = {2000, 400, 500, 150}, .page_pool_bytes = 8u << 20, .meta_pool_bytes = 8u << 20};

	r->rc = fs_mount(&a, &h->fs, r->err, sizeof(r->err));
	if (r->rc) {
		TS_ASSERT(!h->fs && r->err[0]);
		return;
	}
	image_walk(h->fs, r->how & 2, false);
	if (fs_unmount(h->fs, true) == 0)
		h->fs = NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct ts_rd rd = fuzz_in(p, n);
	struct run r = {.how = ts_rd_u8(&rd)};
	struct fsh *h = r.h = image_open(r.how & IMAGE_CRASHED, &rd);

	h->net = fsw_net_new(h->x, 1, h->incarnation);
	h->quorum = fsw_quorum_new(h->x, 1, h->incarnation);
	fsw_quorum_views(h->quorum, view, h);
	h->kill = fs_kill;
	fsh_run(h, mount_fiber, &r);
	fsh_free(h);
	return 0;
}

void fuzz_seeds(void)
{
	for (uint8_t how = 0; how < 4; how++)
		image_seeds(&how, 1);
}
