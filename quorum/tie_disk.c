/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the tiebreaker's area on a disk: made, opened, and the steps of a bid carried out: own slot written, flushed, all slots read.
 *
 *   idle --io--> write --> flush --> read --> idle      (a step without a write begins at read)
 *
 * A write has no deadline: one that was given up could still land, over what was written after it. While it waits, small reads with a
 * deadline see to it that a session that hangs is noticed and made anew; a read in doubt does no harm.
 * Must never happen: a second write under way; a read counted that began before the write was stable. */
#include "nsd/nsd.h"
#include "quorum/quorum_int.h"

#define FOREVER_NS (24 * 3600 * TS_NS_PER_S)
#define READ_NS	   (3 * TS_NS_PER_S)
#define PROBE_NS   (2 * TS_NS_PER_S)

_Static_assert(NSD_TIE_OFF + TIE_BYTES == NSD_DATA_START, "the area ends where the data begin");
_Static_assert(QUORUM_TIE_NODES == TIE_SLOTS, "one number of slots");

enum tie_io { IO_IDLE, IO_WRITE, IO_FLUSH, IO_READ };

struct quorum_tie_disk {
	struct nsd_dev *dev;
	struct ts_exec *exec;
	struct quorum *q; /* NULL: used by nobody */
	uint8_t uuid[16];
	enum tie_io state;
	uint64_t ticket;
	struct nsd_req req, probe;
	struct iovec iov, probe_iov;
	uint8_t *area, *own, *probe_buf; /* the whole area; one block each */
	bool probing;
	struct ts_timer timer;
	struct ts_cond idle;
	struct tie_slot_disk slots[TIE_SLOTS];
};

/* ---- one step -------------------------------------------------------------------------------------------------------------- */

static void ended(struct nsd_req *r, int rc);

static void submit(struct quorum_tie_disk *t, enum tie_io state)
{
	uint64_t now = ts_exec_now(t->exec);

	t->state = state;
	t->req = (struct nsd_req){.op = state == IO_WRITE ? NSD_WRITE : state == IO_FLUSH ? NSD_FLUSH : NSD_READ,
				  .deadline_ns = now + (state == IO_READ ? READ_NS : FOREVER_NS),
				  .done = ended,
				  .arg = t,
				  .ungated = true};
	if (state == IO_WRITE) {
		t->iov = (struct iovec){t->own, TIE_BLOCK};
		t->req.off = NSD_TIE_OFF + (uint64_t)quorum_self(t->q) * TIE_BLOCK;
	} else if (state == IO_READ) {
		t->iov = (struct iovec){t->area, TIE_BYTES};
		t->req.off = NSD_TIE_OFF;
	}
	if (state != IO_FLUSH) {
		t->req.iov = &t->iov;
		t->req.iovcnt = 1;
		t->req.len = t->iov.iov_len;
	}
	nsd_submit(t->dev, &t->req);
}

static void probe_due(void *arg);

static void probe_arm(struct quorum_tie_disk *t)
{
	ts_timer_arm(t->exec, &t->timer, ts_exec_now(t->exec) + PROBE_NS, probe_due, t);
}

static void probed(struct nsd_req *r, int rc)
{
	struct quorum_tie_disk *t = r->arg;

	t->probing = false;
	if (t->state != IO_IDLE)
		probe_arm(t);
	ts_cond_broadcast(&t->idle);
}

static void probe_due(void *arg)
{
	struct quorum_tie_disk *t = arg;

	if (t->state == IO_IDLE || t->probing)
		return;
	t->probing = true;
	t->probe_iov = (struct iovec){t->probe_buf, TIE_BLOCK};
	t->probe = (struct nsd_req){.op = NSD_READ, .off = NSD_TIE_OFF, .len = TIE_BLOCK, .iov = &t->probe_iov, .iovcnt = 1,
				    .deadline_ns = ts_exec_now(t->exec) + READ_NS, .done = probed, .arg = t};
	nsd_submit(t->dev, &t->probe);
}

static void slots_out(struct quorum_tie_disk *t)
{
	for (unsigned n = 1; n <= TIE_SLOTS; n++)
		memcpy(&t->slots[n - 1], t->area + n * TIE_BLOCK, sizeof(t->slots[0]));
}

static bool head_ours(const struct quorum_tie_disk *t)
{
	const struct tie_head_disk *h = (const struct tie_head_disk *)t->area;
	uint8_t uuid[16];

	return !tie_head_decode(h, h->cluster_id, uuid) && !memcmp(uuid, t->uuid, sizeof(uuid));
}

static void ended(struct nsd_req *r, int rc)
{
	struct quorum_tie_disk *t = r->arg;

	if (!rc && t->state != IO_READ) {
		submit(t, t->state == IO_WRITE ? IO_FLUSH : IO_READ);
		return;
	}
	if (!rc) {
		slots_out(t);
		rc = head_ours(t) ? 0 : -ESTALE;
	}
	t->state = IO_IDLE;
	ts_timer_cancel(&t->timer);
	ts_cond_broadcast(&t->idle);
	if (t->q)
		quorum_core_tie_done(t->q, t->ticket, rc, t->slots);
}

static int io(void *arg, uint64_t ticket, const struct tie_slot_disk *own)
{
	struct quorum_tie_disk *t = arg;

	if (t->state != IO_IDLE)
		return -EBUSY; /* somebody looks at the slots just now */
	t->ticket = ticket;
	if (own) {
		memset(t->own, 0, TIE_BLOCK);
		memcpy(t->own, own, sizeof(*own));
	}
	submit(t, own ? IO_WRITE : IO_READ);
	probe_arm(t);
	return 0;
}

/* ---- for the daemon ---------------------------------------------------------------------------------------------------------- */

int quorum_tie_disk_make(struct nsd_dev *d, const uint8_t cluster_id[16], const uint8_t uuid[16])
{
	uint8_t *area;
	int rc;

	if (nsd_info(d)->size_bytes < NSD_DATA_START)
		return -ENOSPC;
	area = ts_alloc_aligned(4096, TIE_BYTES);
	if (!area)
		return -ENOMEM;
	memset(area, 0, TIE_BYTES);
	for (unsigned n = 1; n <= TIE_SLOTS; n++)
		tie_slot_encode((struct tie_slot_disk *)(area + n * TIE_BLOCK), n, uuid, &(struct tie_slot){0});
	/* The head last: what breaks off before is no area. */
	rc = nsd_write(d, area, TIE_BYTES, NSD_TIE_OFF);
	if (!rc)
		rc = nsd_flush(d);
	tie_head_encode((struct tie_head_disk *)area, cluster_id, uuid);
	if (!rc)
		rc = nsd_write(d, area, TIE_BLOCK, NSD_TIE_OFF);
	if (!rc)
		rc = nsd_flush(d);
	ts_free(area);
	return rc;
}

static struct quorum_tie_disk *disk_new(struct nsd_dev *d, const uint8_t uuid[16])
{
	struct quorum_tie_disk *t = ts_alloc(sizeof(*t));

	if (!t)
		return NULL;
	t->dev = d;
	t->exec = nsd_dev_exec(d);
	memcpy(t->uuid, uuid, sizeof(t->uuid));
	ts_cond_init(&t->idle);
	t->area = ts_alloc_aligned(4096, TIE_BYTES + 2 * TIE_BLOCK);
	if (!t->area) {
		ts_free(t);
		return NULL;
	}
	t->own = t->area + TIE_BYTES;
	t->probe_buf = t->own + TIE_BLOCK;
	return t;
}

static void disk_free(struct quorum_tie_disk *t)
{
	ts_free(t->area);
	ts_free(t);
}

int quorum_tie_disk_open(struct nsd_dev *d, const uint8_t cluster_id[16], const uint8_t uuid[16], struct quorum_tie_disk **out)
{
	struct quorum_tie_disk *t;
	uint8_t found[16];
	int rc;

	if (nsd_info(d)->size_bytes < NSD_DATA_START)
		return -ENOSPC;
	t = disk_new(d, uuid);
	if (!t)
		return -ENOMEM;
	rc = nsd_read(d, t->area, TIE_BYTES, NSD_TIE_OFF);
	if (!rc)
		rc = tie_head_decode((const struct tie_head_disk *)t->area, cluster_id, found);
	if (!rc && memcmp(found, uuid, sizeof(found)))
		rc = -ESTALE;
	if (rc) {
		disk_free(t);
		return rc;
	}
	*out = t;
	return 0;
}

int quorum_tie_disk_slots(struct quorum_tie_disk *t, struct quorum_tie_slot_info out[QUORUM_TIE_NODES])
{
	uint8_t *area = ts_alloc_aligned(4096, TIE_BYTES);
	int rc = area ? nsd_read(t->dev, area, TIE_BYTES, NSD_TIE_OFF) : -ENOMEM;

	for (unsigned n = 1; !rc && n <= TIE_SLOTS; n++) {
		struct tie_slot s;
		bool ok = tie_slot_decode((const struct tie_slot_disk *)(area + n * TIE_BLOCK), n, t->uuid, &s);

		out[n - 1] = (struct quorum_tie_slot_info){ok, s.incarnation, s.promised, s.accepted, s.base, s.writes, s.wall_ns};
	}
	ts_free(area);
	return rc;
}

void quorum_tie_disk_use(struct quorum *q, struct quorum_tie_disk *t)
{
	const struct quorum_tie_ops ops = {io, t};

	quorum_core_tie(q, t ? &ops : NULL, t ? t->uuid : NULL);
	if (t)
		t->q = q;
}

void quorum_tie_disk_close(struct quorum_tie_disk *t)
{
	if (!t)
		return;
	t->q = NULL;
	while (t->state != IO_IDLE || t->probing)
		ts_cond_wait(&t->idle, "tiebreaker's I/O to end", t->ticket, 0);
	disk_free(t);
}
