/* SPDX-License-Identifier: Apache-2.0 */
/* Job: SCSI commands that a fiber waits for (probe at open, unit attentions, reservations). Must never happen: an
 * answer parsed beyond the bytes that arrived. Buffers belong to the answer, so an abandoned command leaves nothing. */
#include "nsd/iscsi_int.h"

#include <stdio.h>

struct iscsi_ctl {
	struct ts_list link;
	struct iscsi_dev *d;
	struct scsi_task *task;
	struct iscsi_answer *answer;
	struct ts_done done;
};

static void ctl_cb(struct iscsi_context *ctx, int status, void *command_data, void *private_data)
{
	struct iscsi_ctl *c = private_data;
	struct iscsi_answer *a = c->answer;
	struct scsi_task *t = c->task;

	if (status == SCSI_STATUS_CANCELLED || status == SCSI_STATUS_ERROR || status == SCSI_STATUS_TIMEOUT) {
		nsd_iscsi_lost(c->d, "session ended under a control command");
		return; /* answered by nsd_iscsi_ctl_abandon */
	}
	a->status = status;
	a->len = 0;
	if (status == SCSI_STATUS_CHECK_CONDITION) {
		a->sense_key = (int)t->sense.key;
		a->ascq = t->sense.ascq;
	} else if (status == SCSI_STATUS_GOOD && t->datain.size > 0 && t->datain.data) {
		a->len = TS_MIN((size_t)t->datain.size, sizeof(a->data));
		memcpy(a->data, t->datain.data, a->len);
	}
	ts_list_del(&c->link);
	scsi_free_scsi_task(t);
	c->task = NULL;
	ts_done_set(&c->done, 0);
	ts_cond_broadcast(&c->d->wake);
}

void nsd_iscsi_ctl_abandon(struct iscsi_dev *d)
{
	struct ts_list *n;

	while ((n = ts_list_pop_front(&d->controls))) {
		struct iscsi_ctl *c = ts_list_entry(n, struct iscsi_ctl, link);

		scsi_free_scsi_task(c->task);
		ts_done_set(&c->done, -ENOTCONN);
	}
}

static void ctl_late(void *arg)
{
	struct iscsi_ctl *c = arg;

	nsd_iscsi_lost(c->d, "a control command was not answered in time");
}

/* The session's own fiber waits for the loss of the session, too: there is nobody else to end it and give the command up. */
static int wait_for_end(struct iscsi_dev *d, struct iscsi_ctl *c, const char *what, uint64_t opcode)
{
	if (ts_fiber_self() != d->fiber)
		return ts_done_wait(&c->done, what, opcode, (uint64_t)d->target.lun);
	while (!c->done.done && !d->lost)
		ts_cond_wait(&d->wake, what, opcode, (uint64_t)d->target.lun);
	if (!c->done.done)
		nsd_iscsi_drop(d);
	return c->done.rc;
}

/* Takes the task. The deadline drops the session: then, and only then, the command is given up. */
int nsd_iscsi_ctl(struct iscsi_dev *d, struct scsi_task *task, struct iscsi_answer *a, uint64_t deadline_ns)
{
	struct iscsi_ctl c = {.d = d, .task = task, .answer = a};
	struct ts_timer late = {0};
	int rc;

	if (!task)
		return -ENOMEM;
	if (!d->ctx || d->lost ||
	    iscsi_scsi_command_async(d->ctx, d->target.lun, task, ctl_cb, NULL, &c)) {
		scsi_free_scsi_task(task);
		return d->ctx && !d->lost ? -EIO : -ENOTCONN;
	}
	ts_done_init(&c.done);
	ts_list_push_back(&d->controls, &c.link);
	ts_timer_arm(d->exec, &late, deadline_ns, ctl_late, &c);
	nsd_iscsi_watch(d);
	rc = wait_for_end(d, &c, "iSCSI control command", (uint64_t)task->cdb[0]);
	ts_timer_cancel(&late);
	return rc;
}

int nsd_iscsi_ready(struct iscsi_dev *d, uint64_t deadline_ns)
{
	struct iscsi_answer *a = ts_alloc(sizeof(*a));
	int rc = a ? 0 : -ENOMEM;

	for (int i = 0; !rc && i < 32; i++) {
		rc = nsd_iscsi_ctl(d, scsi_cdb_testunitready(), a, deadline_ns);
		if (rc || a->status == SCSI_STATUS_GOOD || a->status == SCSI_STATUS_RESERVATION_CONFLICT)
			goto out;
		if (a->status == SCSI_STATUS_CHECK_CONDITION && a->sense_key == SCSI_SENSE_UNIT_ATTENTION)
			continue;
		if (a->status == SCSI_STATUS_CHECK_CONDITION && a->sense_key == SCSI_SENSE_ILLEGAL_REQUEST) {
			snprintf(d->error, sizeof(d->error), "no such LUN");
			rc = -ENOENT;
			goto out;
		}
		ts_sleep_until(ts_exec_now(d->exec) + 20 * TS_NS_PER_MS); /* busy or becoming ready */
	}
	if (!rc)
		snprintf(d->error, sizeof(d->error), "LUN is not ready (status %d, sense %d/%04x)", a->status,
			 a->sense_key, (unsigned)a->ascq);
	rc = rc ? rc : -EIO;
out:
	ts_free(a);
	return rc;
}

/* ---- what the LUN is ------------------------------------------------------------------------------------------- */

static uint64_t be(const uint8_t *p, int n)
{
	uint64_t x = 0;

	while (n--)
		x = x << 8 | *p++;
	return x;
}

int nsd_iscsi_size(struct nsd_dev *dev, uint64_t *bytes)
{
	struct iscsi_dev *d = nsd_dev_priv(dev);
	uint64_t deadline = ts_exec_now(d->exec) + ISCSI_SETUP_NS;
	struct iscsi_answer *a = ts_alloc(sizeof(*a));
	int rc = -EAGAIN;

	if (!a)
		return -ENOMEM;
	for (int i = 0; rc == -EAGAIN && i < ISCSI_MAX_TRIES; i++) { /* the first answer may be that the capacity has changed */
		rc = nsd_iscsi_wait_up(d, deadline);
		if (!rc)
			rc = nsd_iscsi_ctl(d, scsi_cdb_serviceactionin16(SCSI_READCAPACITY16, 32), a, deadline);
		if (!rc)
			rc = nsd_iscsi_meaning(a);
	}
	if (!rc && (a->len < 12 || be(a->data + 8, 4) != d->info.sector_bytes || be(a->data, 8) >= (1ULL << 63) / d->info.sector_bytes - 1))
		rc = -EIO;
	if (!rc) {
		*bytes = (be(a->data, 8) + 1) * d->info.sector_bytes;
		d->info.size_bytes = TS_MAX(d->info.size_bytes, *bytes);
	}
	ts_free(a);
	return rc == -EAGAIN ? -EIO : rc;
}

static int probe_capacity(struct iscsi_dev *d, struct iscsi_answer *a, uint64_t deadline)
{
	uint64_t last, sector;
	int rc = nsd_iscsi_ctl(d, scsi_cdb_serviceactionin16(SCSI_READCAPACITY16, 32), a, deadline);

	if (rc)
		return rc;
	if (a->status != SCSI_STATUS_GOOD || a->len < 12) {
		snprintf(d->error, sizeof(d->error), "READ CAPACITY(16) failed (status %d)", a->status);
		return -EIO;
	}
	last = be(a->data, 8);
	sector = be(a->data + 8, 4);
	if ((sector != 512 && sector != 4096) || last >= (1ULL << 63) / sector - 1) {
		snprintf(d->error, sizeof(d->error), "sector size %llu is not 512 or 4096",
			 (unsigned long long)sector);
		return -EINVAL;
	}
	d->info.sector_bytes = (uint32_t)sector;
	d->info.size_bytes = (last + 1) * sector;
	return 0;
}

static void append_text(char *to, size_t room, const uint8_t *p, size_t n, bool ascii)
{
	size_t o = strlen(to);

	while (n && ascii && *p == ' ')
		p++, n--;
	while (n && ascii && p[n - 1] == ' ')
		n--;
	for (size_t i = 0; i < n && o + 3 < room; i++)
		o += (size_t)snprintf(to + o, room - o, ascii ? "%c" : "%02x",
				      ascii && (p[i] < 33 || p[i] > 126) ? '_' : p[i]);
}

/* The unit's name (NAA before EUI before T10), so that two paths to one unit can be recognised. */
static void parse_identity(struct iscsi_dev *d, const struct iscsi_answer *a)
{
	size_t end = a->len >= 4 ? TS_MIN(a->len, 4 + (size_t)be(a->data + 2, 2)) : 0;
	int best = -1;

	for (size_t p = 4; p + 4 <= end; p += 4 + (size_t)a->data[p + 3]) {
		size_t n = a->data[p + 3];
		int assoc = a->data[p + 1] >> 4 & 3, type = a->data[p + 1] & 15;

		if (p + 4 + n > end || assoc != 0 || type < 1 || type > 3 || type <= best)
			continue;
		best = type;
		d->info.serial[0] = 0;
		append_text(d->info.serial, sizeof(d->info.serial), a->data + p + 4, n, (a->data[p] & 15) >= 2);
	}
}

/* And its serial number: some targets give all their units the same names. */
static void parse_serial(struct iscsi_dev *d, const struct iscsi_answer *a)
{
	size_t n = a->len >= 4 ? TS_MIN(a->len - 4, (size_t)a->data[3]) : 0;

	if (n && d->info.serial[0])
		append_text(d->info.serial, sizeof(d->info.serial), (const uint8_t *)"/", 1, true);
	append_text(d->info.serial, sizeof(d->info.serial), a->data + 4, n, true);
}

static int probe_vpd(struct iscsi_dev *d, struct iscsi_answer *a, uint64_t deadline)
{
	uint64_t blocks = 0;
	int rc;

	d->info.serial[0] = 0;
	rc = nsd_iscsi_ctl(d, scsi_cdb_inquiry(1, 0x83, 255), a, deadline);

	if (!rc && a->status == SCSI_STATUS_GOOD)
		parse_identity(d, a);
	if (!rc)
		rc = nsd_iscsi_ctl(d, scsi_cdb_inquiry(1, 0x80, 255), a, deadline);
	if (!rc && a->status == SCSI_STATUS_GOOD)
		parse_serial(d, a);
	if (!rc)
		rc = nsd_iscsi_ctl(d, scsi_cdb_inquiry(1, 0xb0, 64), a, deadline);
	if (!rc && a->status == SCSI_STATUS_GOOD && a->len >= 12)
		blocks = be(a->data + 8, 4);
	d->info.max_io_bytes = NSD_MAX_IO_DEFAULT;
	if (blocks && blocks * d->info.sector_bytes < NSD_MAX_IO_DEFAULT)
		d->info.max_io_bytes = TS_MAX((uint32_t)blocks * d->info.sector_bytes, d->info.sector_bytes);
	return rc;
}

/* Reservations count only if the unit offers "write exclusive, all registrants" and lists its keys. */
static int probe_reservations(struct iscsi_dev *d, struct iscsi_answer *a, uint64_t deadline)
{
	int rc = nsd_iscsi_ctl(d, scsi_cdb_persistent_reserve_in(SCSI_PERSISTENT_RESERVE_REPORT_CAPABILITIES, 8), a,
			       deadline);
	bool wear = false;

	if (rc)
		return rc;
	if (a->status == SCSI_STATUS_GOOD && a->len >= 8) {
		d->aptpl = a->data[2] & 1;
		d->info.keeps_reservations = d->aptpl;
		/* type mask valid? then it must offer ours; else reserving will tell */
		wear = !(a->data[3] & 0x80) || (a->data[4] & 0x80);
	}
	rc = nsd_iscsi_ctl(d, scsi_cdb_persistent_reserve_in(SCSI_PERSISTENT_RESERVE_READ_KEYS, ISCSI_KEYS_BYTES), a,
			   deadline);
	d->info.has_reservations = !rc && wear && a->status == SCSI_STATUS_GOOD && a->len >= 8;
	if (rc || !d->info.has_reservations)
		return rc;
	rc = nsd_iscsi_ctl(d, scsi_cdb_report_supported_opcodes(0, 2, SCSI_OPCODE_PERSISTENT_RESERVE_OUT,
								SCSI_PERSISTENT_RESERVE_PREEMPT_AND_ABORT, 64),
			   a, deadline);
	/* Not asked successfully: assume it works, nsd_pr_fence finds out and falls back. */
	d->info.has_preempt_abort = !rc && (a->status != SCSI_STATUS_GOOD || a->len < 2 || (a->data[1] & 7) == 3 ||
					    (a->data[1] & 7) == 5 || (a->data[1] & 7) == 0);
	return rc;
}

int nsd_iscsi_probe(struct iscsi_dev *d, uint64_t deadline_ns)
{
	struct iscsi_answer *a = ts_alloc(sizeof(*a));
	int rc = a ? 0 : -ENOMEM;

	snprintf(d->info.transport, sizeof(d->info.transport), "iscsi");
	if (!rc)
		rc = probe_capacity(d, a, deadline_ns);
	if (!rc)
		rc = probe_vpd(d, a, deadline_ns);
	if (!rc)
		rc = probe_reservations(d, a, deadline_ns);
	ts_free(a);
	return rc;
}
