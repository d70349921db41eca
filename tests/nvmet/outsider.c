/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a machine that is no node of the cluster writes one sector of a disk: outsider URL LBA. Says "written", "refused" (reservation
 * conflict) or what else happened; status 0 for the first two. */
#include "nsd/nsd.h"

#include <stdio.h>

static struct {
	const char *url;
	uint64_t lba;
	struct ts_loop *loop;
	int status;
} me;

static void work(void *arg)
{
	struct nsd_open_args a = {.exec = ts_exec_self(), .url = me.url, .initiator_name = "iqn.2026-11.io.tessera:outsider"};
	uint8_t *b = ts_alloc_aligned(4096, 4096);
	struct nsd_dev *d;
	char err[400];
	int rc = nsd_open(&a, &d, err, sizeof(err));

	TS_ASSERT(b);
	memset(b, 0xee, 4096);
	if (!rc) {
		rc = nsd_write(d, b, nsd_info(d)->sector_bytes, me.lba * nsd_info(d)->sector_bytes);
		snprintf(err, sizeof(err), "%s", strerror(-rc));
		nsd_close(d);
	}
	printf("%s\n", !rc ? "written" : rc == -TS_ERR_FENCED ? "refused" : err);
	me.status = rc && rc != -TS_ERR_FENCED;
	ts_free(b);
	ts_loop_stop(me.loop);
}

int main(int argc, char **argv)
{
	struct ts_exec *x = ts_exec_new(&ts_env_real);

	if (argc != 3)
		return 2;
	me.url = argv[1];
	me.lba = strtoull(argv[2], NULL, 0);
	me.loop = ts_loop_new(x);
	if (ts_fiber_spawn(x, "outsider", work, NULL))
		return 1;
	ts_loop_run(me.loop);
	return me.status;
}
