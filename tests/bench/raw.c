/* SPDX-License-Identifier: Apache-2.0 */
/* What the disks give through their transport with no file system: 1 MiB reads or writes, in order, striped over LUNs by libiscsi (the library
 * that Tessera uses, too), some in flight on each, SYNCHRONIZE CACHE at the end of a write. fio of Debian 12 has no engine for it.
 *
 *   raw write|read [--mib N] [--depth N] iscsi://...      (what is on the LUNs is lost)
 *
 * Prints one JSON line. What must never happen: a figure for commands that failed or fell short. */
#include "ranks.h"

#include <errno.h>
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MIB	  (1u << 20)
#define LUNS_MAX  8
#define DEPTH_MAX 64

struct lun {
	struct iscsi_context *ctx;
	struct iscsi_url *url;
	unsigned next, left, in_flight; /* MiB */
	unsigned char *buf;
};
static struct lun lun[LUNS_MAX];
static unsigned nluns, depth = 8;
static bool writing;

static int fail(const struct lun *l, const char *what)
{
	fprintf(stderr, "raw: %s: %s\n", what, iscsi_get_error(l->ctx));
	exit(1);
}

static void login(struct lun *l, const char *url)
{
	char name[64];

	snprintf(name, sizeof(name), "iqn.2026-11.io.tessera:raw%d", (int)(l - lun));
	l->ctx = iscsi_create_context(name);
	l->url = l->ctx ? iscsi_parse_full_url(l->ctx, url) : NULL;
	l->buf = aligned_alloc(4096, MIB);
	if (!l->url || !l->buf) {
		fprintf(stderr, "raw: %s: not an iSCSI URL\n", url);
		exit(2);
	}
	memset(l->buf, 0xa5, MIB);
	iscsi_set_targetname(l->ctx, l->url->target);
	iscsi_set_session_type(l->ctx, ISCSI_SESSION_NORMAL);
	iscsi_set_header_digest(l->ctx, ISCSI_HEADER_DIGEST_NONE);
	if (iscsi_full_connect_sync(l->ctx, l->url->portal, l->url->lun))
		fail(l, "connect");
}

static void submit(struct lun *l);

static void answered(struct iscsi_context *ctx, int status, void *data, void *arg)
{
	struct scsi_task *t = data;
	struct lun *l = arg;

	if (status != SCSI_STATUS_GOOD || t->residual)
		fail(l, writing ? "write" : "read");
	scsi_free_scsi_task(t);
	l->in_flight--;
	submit(l);
}

static void submit(struct lun *l)
{
	for (; l->left && l->in_flight < depth; l->left--, l->in_flight++, l->next++) {
		uint64_t lba = (uint64_t)l->next * (MIB / 512);
		struct scsi_task *t = writing ? iscsi_write16_task(l->ctx, l->url->lun, lba, l->buf, MIB, 512, 0, 0, 0, 0, 0, answered, l) :
						iscsi_read16_task(l->ctx, l->url->lun, lba, MIB, 512, 0, 0, 0, 0, 0, answered, l);

		if (!t || (!writing && scsi_task_add_data_in_buffer(t, MIB, l->buf)))
			fail(l, "command");
	}
}

static void work(void)
{
	for (bool busy = true; busy;) {
		struct pollfd p[LUNS_MAX];

		busy = false;
		for (unsigned i = 0; i < nluns; i++) {
			p[i] = (struct pollfd){.fd = iscsi_get_fd(lun[i].ctx), .events = (short)iscsi_which_events(lun[i].ctx)};
			busy |= lun[i].in_flight > 0;
		}
		if (busy && poll(p, nluns, 10000) <= 0)
			fail(&lun[0], "no answer");
		for (unsigned i = 0; busy && i < nluns; i++)
			if (p[i].revents && iscsi_service(lun[i].ctx, p[i].revents))
				fail(&lun[i], "connection");
	}
	for (unsigned i = 0; writing && i < nluns; i++) {
		struct scsi_task *t = iscsi_synchronizecache16_sync(lun[i].ctx, lun[i].url->lun, 0, 0, 0, 0);

		if (!t || t->status != SCSI_STATUS_GOOD)
			fail(&lun[i], "flush");
		scsi_free_scsi_task(t);
	}
}

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	unsigned mib = 256;
	double begin;
	int i;

	writing = argc > 1 && !strcmp(argv[1], "write");
	for (i = 2; i < argc - 1 && argv[i][0] == '-'; i += 2)
		if (!strcmp(argv[i], "--mib"))
			mib = (unsigned)number_of(argv[i], argv[i + 1]);
		else if (!strcmp(argv[i], "--depth"))
			depth = (unsigned)number_of(argv[i], argv[i + 1]);
		else
			break;
	if (i >= argc || argv[i][0] == '-' || argc - i > LUNS_MAX || !depth || depth > DEPTH_MAX || !mib || (!writing && strcmp(argv[1], "read"))) {
		fprintf(stderr, "usage: raw write|read [--mib N] [--depth N] iscsi://... (up to %d; what is on them is lost)\n", LUNS_MAX);
		return 2;
	}
	for (nluns = 0; i < argc; i++)
		login(&lun[nluns++], argv[i]);
	begin = now_s();
	for (unsigned k = 0; k < nluns; k++)
		lun[k].left = (mib + nluns - 1 - k) / nluns;
	for (unsigned k = 0; k < nluns; k++)
		submit(&lun[k]);
	work();
	printf("{\"what\": \"%s\", \"ranks\": 1, \"ops\": %u, \"bytes\": %llu, \"seconds\": %.6f}\n", argv[1], mib, (unsigned long long)mib * MIB, now_s() - begin);
	for (unsigned k = 0; k < nluns; k++)
		iscsi_logout_sync(lun[k].ctx);
	return 0;
}
