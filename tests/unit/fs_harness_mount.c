/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a whole node for the unit tests: mounts with the token stub and a membership of one. */
#include "fs_harness.h"

#include <stdio.h>

static void view(void *arg, const struct quorum_group_view *v)
{
	struct fsh *h = arg;

	if (h->fs)
		fs_group_view(h->fs, v);
}

static void mount_fiber(void *arg)
{
	struct fsh *h = arg;
	struct fs_mount_args a = {.exec = h->x, .disks = h->devs, .ndisks = h->ndisks, .net = h->net, .quorum = h->quorum,
				  .times = {2000, 400, 500, 150}, .page_pool_bytes = 32u << 20, .meta_pool_bytes = 16u << 20};
	char err[256] = "";
	int rc = fs_mount(&a, &h->fs, err, sizeof(err));

	if (rc)
		TS_PANIC("mount: %d %s", rc, err);
}

struct fs *fsh_mount_by(struct fsh *h, ts_fn mount, void *arg)
{
	h->incarnation++;
	h->net = fsw_net_new(h->x, 1, h->incarnation);
	h->quorum = fsw_quorum_new(h->x, 1, h->incarnation);
	fsw_quorum_views(h->quorum, view, h);
	h->kill = fs_kill;
	fsh_run(h, mount, arg);
	return h->fs;
}

struct fs *fsh_mount(struct fsh *h)
{
	return fsh_mount_by(h, mount_fiber, h);
}

static void unmount_fiber(void *arg)
{
	struct fsh *h = arg;
	int rc = fs_unmount(h->fs, false);

	if (rc)
		TS_PANIC("unmount: %d", rc);
	h->fs = NULL;
}

void fsh_unmount(struct fsh *h)
{
	fsh_run(h, unmount_fiber, h);
	fsw_quorum_free(h->quorum);
	net_close(h->net);
	h->quorum = NULL;
	h->net = NULL;
}
