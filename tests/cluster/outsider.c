/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a machine that is no node of the cluster writes one sector of a LUN: outsider PORTAL IQN LUN LBA. Says "written", "refused"
 * (reservation conflict) or what else happened; status 0 for the first two. */
#include <inttypes.h>
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int say(struct iscsi_context *c, const char *what)
{
	printf("%s: %s\n", what, iscsi_get_error(c));
	return 1;
}

int main(int argc, char **argv)
{
	unsigned char sector[512];
	struct iscsi_context *c;
	struct scsi_task *t;

	if (argc != 5)
		return 2;
	memset(sector, 0xee, sizeof(sector));
	c = iscsi_create_context("iqn.2026-11.io.tessera:outsider");
	if (!c || iscsi_set_targetname(c, argv[2]) || iscsi_set_session_type(c, ISCSI_SESSION_NORMAL))
		return 1;
	iscsi_set_noautoreconnect(c, 1);
	if (iscsi_full_connect_sync(c, argv[1], atoi(argv[3])))
		return say(c, "no session");
	t = iscsi_write16_sync(c, atoi(argv[3]), strtoull(argv[4], NULL, 0), sector, sizeof(sector), sizeof(sector), 0, 0, 0, 0, 0);
	if (!t)
		return say(c, "no answer");
	if (t->status == SCSI_STATUS_GOOD || t->status == SCSI_STATUS_RESERVATION_CONFLICT) {
		printf("%s\n", t->status == SCSI_STATUS_GOOD ? "written" : "refused");
		return 0;
	}
	return say(c, "refused otherwise");
}
