/* SPDX-License-Identifier: Apache-2.0 */
/* Job: reservations of a namespace (NVMe base 2.0, 8.19): who is registered, what is reserved, whom it shuts out; kept in a file beside
 * the namespace's if the target was started so and a host asks for it. A preemption is answered when no write of its victims is at the
 * backing any more. */
#include "tests/nvmet/nvmet.h"

#include <fcntl.h>
#include <unistd.h>

static struct registrant *find(struct resv *r, const uint8_t hostid[16])
{
	for (unsigned i = 0; i < r->n; i++)
		if (!memcmp(r->reg[i].hostid, hostid, 16))
			return &r->reg[i];
	return NULL;
}

static bool all_type(enum nvme_resv_type t)
{
	return t == NVME_RESV_WE_ALL || t == NVME_RESV_EA_ALL;
}

static bool holds(struct resv *r, const uint8_t hostid[16])
{
	if (r->type == NVME_RESV_NONE || !find(r, hostid))
		return false;
	return all_type(r->type) || !memcmp(r->holder, hostid, 16);
}

bool resv_conflict(const struct resv *r, const uint8_t hostid[16], bool write)
{
	static const struct {
		bool reads, registrants; /* shuts out reads too; lets registrants in */
	} rows[] = {[NVME_RESV_WE] = {false, false}, [NVME_RESV_EA] = {true, false}, [NVME_RESV_WE_REGISTRANTS] = {false, true},
		    [NVME_RESV_EA_REGISTRANTS] = {true, true}, [NVME_RESV_WE_ALL] = {false, true}, [NVME_RESV_EA_ALL] = {true, true}};
	struct resv *m = (struct resv *)(uintptr_t)r;

	if (r->type == NVME_RESV_NONE || (!write && !rows[r->type].reads))
		return false;
	return rows[r->type].registrants ? !find(m, hostid) : !holds(m, hostid);
}

/* ---- kept ------------------------------------------------------------------------------------------------------------- */

static void hex(FILE *f, const uint8_t *p)
{
	for (int i = 0; i < 16; i++)
		fprintf(f, "%02x", p[i]);
}

static void store(struct ns *n)
{
	char name[1040], fresh[1050];
	FILE *f;

	if (!T.opt.ptpl)
		return;
	snprintf(name, sizeof(name), "%s.pr", n->path);
	snprintf(fresh, sizeof(fresh), "%s.new", name);
	if (!n->resv.persist) {
		unlink(name);
		return;
	}
	f = fopen(fresh, "w");
	TS_ASSERT(f);
	fprintf(f, "%u %d ", n->resv.generation, n->resv.type);
	hex(f, n->resv.holder);
	fprintf(f, "\n");
	for (unsigned i = 0; i < n->resv.n; i++) {
		fprintf(f, "%llx ", (unsigned long long)n->resv.reg[i].key);
		hex(f, n->resv.reg[i].hostid);
		fprintf(f, "\n");
	}
	TS_ASSERT(fflush(f) == 0 && fsync(fileno(f)) == 0 && fclose(f) == 0 && rename(fresh, name) == 0);
}

static void unhex(const char *s, uint8_t *p)
{
	for (int i = 0; i < 16; i++)
		TS_ASSERT(sscanf(s + 2 * i, "%2hhx", p + i) == 1);
}

void resv_load(struct ns *n)
{
	char name[1040], id[33];
	unsigned long long key;
	int type;
	FILE *f;

	snprintf(name, sizeof(name), "%s.pr", n->path);
	f = T.opt.ptpl ? fopen(name, "r") : NULL;
	if (!f)
		return;
	TS_ASSERT(fscanf(f, "%u %d %32s", &n->resv.generation, &type, id) == 3 && type >= 0 && type <= NVME_RESV_EA_ALL);
	n->resv.type = (enum nvme_resv_type)type;
	unhex(id, n->resv.holder);
	while (n->resv.n < MAX_HOSTS && fscanf(f, "%llx %32s", &key, id) == 2) {
		n->resv.reg[n->resv.n].key = key;
		unhex(id, n->resv.reg[n->resv.n++].hostid);
	}
	n->resv.persist = true;
	fclose(f);
}

/* ---- commands --------------------------------------------------------------------------------------------------------- */

static void release(struct resv *r)
{
	r->type = NVME_RESV_NONE;
	memset(r->holder, 0, 16);
}

static void drop(struct resv *r, struct registrant *g)
{
	bool held = r->type && !all_type(r->type) && !memcmp(r->holder, g->hostid, 16);

	*g = r->reg[--r->n];
	if (held || !r->n)
		release(r);
}

static uint16_t do_register(struct resv *r, const uint8_t *host, uint32_t w, uint64_t current, uint64_t key)
{
	struct registrant *g = find(r, host);
	bool ignore = w & NVME_RESV_IGNORE_KEY;
	unsigned action = w & 7;

	if (w >> 30 == 3 && !T.opt.ptpl)
		return NVME_SC_INVALID_FIELD;
	if (action == NVME_REGISTER) {
		if (!key || (!g && r->n == MAX_HOSTS))
			return NVME_SC_INVALID_FIELD;
		if (g && g->key != key)
			return NVME_SC_RESV_CONFLICT;
		if (!g) {
			memcpy(r->reg[r->n].hostid, host, 16);
			r->reg[r->n++].key = key;
		}
	} else if (action == NVME_UNREGISTER || action == NVME_REPLACE) {
		if (!g || (!ignore && g->key != current))
			return NVME_SC_RESV_CONFLICT;
		if (action == NVME_UNREGISTER)
			drop(r, g);
		else
			g->key = key;
	} else {
		return NVME_SC_INVALID_FIELD;
	}
	r->generation++;
	if (w >> 30 == 3)
		r->persist = true;
	if (w >> 30 == 2)
		r->persist = false;
	return 0;
}

static unsigned unregister_key(struct resv *r, const uint8_t *but, uint64_t key, bool all)
{
	unsigned n = 0;

	for (unsigned i = 0; i < r->n;) {
		struct registrant *g = &r->reg[i];

		if (memcmp(g->hostid, but, 16) && (all || g->key == key)) {
			n++;
			if (!T.opt.keep_victim) {
				*g = r->reg[--r->n];
				continue;
			}
		}
		i++;
	}
	return n;
}

static uint16_t do_preempt(struct resv *r, const uint8_t *host, unsigned type, uint64_t victim)
{
	bool all = all_type(r->type);
	struct registrant *holder = r->type && !all ? find(r, r->holder) : NULL;
	bool holders = holder && holder->key == victim;

	if (!victim && !all)
		return NVME_SC_INVALID_FIELD;
	if (!unregister_key(r, host, victim, all && !victim) && !holders)
		return NVME_SC_RESV_CONFLICT;
	r->generation++;
	if (holders || (all && !victim)) {
		r->type = (enum nvme_resv_type)type;
		memcpy(r->holder, host, 16);
	}
	return 0;
}

static uint16_t do_acquire(struct resv *r, const uint8_t *host, uint32_t w, uint64_t current, uint64_t victim)
{
	struct registrant *g = find(r, host);
	unsigned type = w >> 8 & 0xff;

	if (!type || type > NVME_RESV_EA_ALL || (w & 7) > NVME_PREEMPT_ABORT || w & NVME_RESV_IGNORE_KEY)
		return NVME_SC_INVALID_FIELD;
	if (!g || g->key != current)
		return NVME_SC_RESV_CONFLICT;
	if ((w & 7) != NVME_ACQUIRE)
		return do_preempt(r, host, type, victim);
	if (r->type)
		return holds(r, host) && r->type == type ? 0 : NVME_SC_RESV_CONFLICT;
	r->type = (enum nvme_resv_type)type;
	memcpy(r->holder, host, 16);
	return 0;
}

static uint16_t do_release(struct resv *r, const uint8_t *host, uint32_t w, uint64_t current)
{
	struct registrant *g = find(r, host);

	if ((w & 7) > NVME_CLEAR)
		return NVME_SC_INVALID_FIELD;
	if (!g || g->key != current)
		return NVME_SC_RESV_CONFLICT;
	if ((w & 7) == NVME_CLEAR) {
		r->n = 0;
		r->generation++;
		release(r);
		return 0;
	}
	if (!holds(r, host))
		return 0;
	if ((w >> 8 & 0xff) != r->type)
		return NVME_SC_INVALID_FIELD;
	release(r);
	return 0;
}

static void report(struct cmd *k)
{
	struct resv *r = &k->ns->resv;
	uint32_t len = (le32_get(k->sqe.cdw10) + 1) * 4, room;
	struct nvme_report_hdr_msg *h;
	struct nvme_report_entry_msg *e;

	k->ns = NULL;
	if (!(le32_get(k->sqe.cdw11) & 1) || len < sizeof(*h) || len > MAX_IO) {
		k->status = 0x18; /* host identifiers are long ones here */
		cmd_answer(k);
		return;
	}
	if (!cmd_data_out(k, len))
		return;
	h = (void *)k->buf;
	e = (void *)(h + 1);
	h->generation = le32_make(r->generation);
	h->type = (uint8_t)r->type;
	h->count = le16_make((uint16_t)r->n);
	h->persist = r->persist;
	room = (len - (uint32_t)sizeof(*h)) / (uint32_t)sizeof(*e);
	for (unsigned i = 0; i < r->n && i < room; i++) {
		e[i].cntlid = le16_make(0xffff);
		e[i].status = holds(r, r->reg[i].hostid);
		e[i].key = le64_make(r->reg[i].key);
		memcpy(e[i].hostid, r->reg[i].hostid, 16);
	}
	cmd_answer(k);
}

static bool excluded_at_work(struct ns *n)
{
	ts_list_for(l, &n->executing) {
		struct cmd *k = ts_list_entry(l, struct cmd, link);

		if (k->sqe.opcode != NVME_OP_READ && resv_conflict(&n->resv, k->ctrl->hostid, true))
			return true;
	}
	return false;
}

/* A preemption is through when nobody whom it shut out is at work. */
void resv_io_ended(struct ns *n)
{
	struct ts_list *l;

	while (!ts_list_empty(&n->fences) && !excluded_at_work(n)) {
		struct cmd *k;

		l = ts_list_pop_front(&n->fences);
		k = ts_list_entry(l, struct cmd, link);
		k->ns = NULL;
		cmd_answer(k);
	}
}

void resv_execute(struct cmd *k)
{
	const struct nvme_resv_keys_msg *m = (const void *)k->buf;
	struct ns *n = k->ns;
	uint32_t w = le32_get(k->sqe.cdw10);
	bool fence = k->sqe.opcode == NVME_OP_RESV_ACQUIRE && (w & 7) != NVME_ACQUIRE;

	if (k->sqe.opcode == NVME_OP_RESV_REPORT) {
		report(k);
		return;
	}
	k->ns = NULL;
	if (!k->in || k->len < (k->sqe.opcode == NVME_OP_RESV_RELEASE ? 8 : sizeof(*m)))
		k->status = NVME_SC_SGL_LENGTH;
	else if (k->sqe.opcode == NVME_OP_RESV_REGISTER)
		k->status = do_register(&n->resv, k->ctrl->hostid, w, le64_get(m->current), le64_get(m->other));
	else if (k->sqe.opcode == NVME_OP_RESV_ACQUIRE)
		k->status = do_acquire(&n->resv, k->ctrl->hostid, w, le64_get(m->current), le64_get(m->other));
	else
		k->status = do_release(&n->resv, k->ctrl->hostid, w, le64_get(m->current));
	k->in = true;
	if (!k->status)
		store(n);
	if (k->status || !fence) {
		cmd_answer(k);
		return;
	}
	k->ns = n; /* it outlives its connection, like one at the backing */
	ts_list_push_back(&n->fences, &k->link);
	resv_io_ended(n);
}
