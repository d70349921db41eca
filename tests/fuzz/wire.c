/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the decoders of messages between nodes: tokens, locks of applications, membership. The first byte says which, the second
 * the type. Checked beside memory: what is let in is within its bounds, and encoded again it says the same. */
#include "dlm/dlm_int.h"
#include "dlm/plock_int.h"
#include "quorum/quorum_int.h"
#include "tests/fuzz/fuzz.h"

enum { W_DLM, W_PLOCK, W_QUORUM, W_OP, W_STATE, W_KINDS };

static void try_dlm(uint16_t type, const uint8_t *p, uint32_t n)
{
	struct dlm_msg m = {.src = 2, .type = type}, again = m;
	struct dlm_lock_msg w;

	if (!dlm_decode(&m, p, n))
		return;
	(void)dlm_lane(type);
	TS_ASSERT(m.count <= DLM_BATCH);
	for (uint32_t i = 0; i < m.count; i++) {
		struct dlm_key k;
		struct dlm_piece piece;
		struct dlm_value v;

		dlm_decode_entry(&m.ents[i], &k, &piece);
		TS_ASSERT(type == DLM_OWN || dlm_decode_value(&m.ents[i], &k, &v) || (piece.start <= piece.end && piece.mode < DLM_MODES));
	}
	if (m.ents)
		return;
	TS_ASSERT(m.start <= m.end && m.mode < DLM_MODES && m.node < NET_MAX_NODES && m.key.kind < 32);
	TS_ASSERT(dlm_decode(&again, &w, dlm_encode(&m, &w)));
	TS_ASSERT(again.key.id == m.key.id && again.start == m.start && again.dend == m.dend && again.flags == m.flags &&
		  again.hops == m.hops && again.value.high == m.value.high);
}

/* What calls itself sound can be taken to pieces, each of which is. */
static void try_many(const uint8_t *p, uint32_t n)
{
	uint32_t count;

	if (!dlm_many_sound(p, n, &count))
		return;
	TS_ASSERT(count >= 2 && count <= DLM_MANY_MAX);
	for (uint32_t i = 0; i < count; i++) {
		struct dlm_one_msg one;
		struct dlm_msg m;

		memcpy(&one, p + sizeof(struct dlm_many_msg) + i * sizeof(one), sizeof(one));
		m = (struct dlm_msg){.src = 2, .type = le16_get(one.type)};
		TS_ASSERT(dlm_decode(&m, &one.m, sizeof(one.m)) && !m.ents);
	}
}

static void try_plock(uint16_t type, const uint8_t *p, uint32_t n)
{
	struct plock_m m = {.src = 2, .type = type}, again = m;
	uint8_t *buf;
	uint64_t ino;

	if (!plock_decode(&m, p, n))
		return;
	(void)plock_lane(type);
	TS_ASSERT(m.count <= PLOCK_BATCH && m.p.start <= m.p.end);
	for (uint32_t i = 0; i < m.count; i++) {
		struct plock_piece piece;

		TS_ASSERT(plock_decode_lock(&m.ents[i], &ino, &piece) || type == PLOCK_PROBE || type == PLOCK_CONFIRM);
	}
	buf = malloc(PLOCK_MSG_MAX);
	TS_ASSERT(buf && plock_decode(&again, buf, plock_encode(&m, buf, PLOCK_MSG_MAX)));
	TS_ASSERT(again.ino == m.ino && again.count == m.count && again.result == m.result && again.p.owner == m.p.owner);
	free(buf);
}

static void try_state(const uint8_t *p, size_t n)
{
	static struct q_state s, again;
	static uint8_t buf[Q_MSG_MAX];
	struct ts_rd rd = {.p = p, .left = n};
	struct ts_wr w = {.p = buf, .left = sizeof(buf)};
	uint32_t needed, same;

	if (!q_state_read(&rd, &s, &needed))
		return;
	TS_ASSERT(s.nmembers <= QUORUM_MAX_NODES && s.ngroups <= QUORUM_MAX_GROUPS);
	q_state_write(&w, &s, needed);
	rd = (struct ts_rd){.p = buf, .left = w.used};
	TS_ASSERT(!w.bad && q_state_read(&rd, &again, &same) && same == needed && again.epochs == s.epochs);
	TS_ASSERT(again.nmembers == s.nmembers && again.ngroups == s.ngroups);
}

static void try_op(const uint8_t *p, size_t n)
{
	struct ts_rd rd = {.p = p, .left = n};
	static struct q_state s;
	struct q_op op;
	uint64_t idx;

	memset(&s, 0, sizeof(s));
	s.exists = true;
	while (q_op_read(&rd, &op, &idx))
		(void)q_state_apply(&s, &op);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct ts_rd rd = fuzz_in(p, n);
	unsigned kind = ts_rd_u8(&rd) % W_KINDS, type = ts_rd_u8(&rd);
	uint8_t *copy = fuzz_copy(rd.p, rd.left);
	struct q_msg qm;

	switch (kind) {
	case W_DLM:
		try_many(copy, (uint32_t)rd.left);
		try_dlm((uint16_t)(DLM_TYPE_CLASS + type % 16), copy, (uint32_t)rd.left);
		break;
	case W_PLOCK: try_plock((uint16_t)(PLOCK_TYPE_CLASS + type % 16), copy, (uint32_t)rd.left); break;
	case W_QUORUM: (void)q_msg_read(&qm, copy, rd.left); break;
	case W_OP: try_op(copy, rd.left); break;
	case W_STATE: try_state(copy, rd.left); break;
	}
	free(copy);
	return 0;
}

/* ---- seeds ------------------------------------------------------------------------------------------------------------ */

static void seed(unsigned kind, unsigned type, const void *p, size_t n)
{
	uint8_t buf[8192];
	struct ts_wr w = {.p = buf, .left = sizeof(buf)};

	ts_wr_u8(&w, (uint8_t)kind);
	ts_wr_u8(&w, (uint8_t)type);
	ts_wr_bytes(&w, p, n);
	TS_ASSERT(!w.bad);
	fuzz_seed(buf, w.used);
}

static void seeds_dlm(void)
{
	struct dlm_msg m = {.key = {.kind = 7, .id = 42}, .start = 10, .end = 20, .dend = DLM_END, .req = 3, .stamp = 4, .node = 2, .granter = 1,
			    .mode = DLM_EX, .flags = DLM_MF_BEST, .value = {.era = 1, .high = 2, .time = 3, .set = true}};
	struct dlm_piece piece = {.end = 5, .stamp = 9, .node = 3, .granter = 1, .mode = DLM_SH};
	struct {
		struct dlm_batch_msg h;
		struct dlm_entry_msg e[3];
	} b = {.h = {.version = le16_make(DLM_WIRE_VERSION), .flags = DLM_MF_LAST, .count = le32_make(3)}};
	struct dlm_lock_msg w;

	for (unsigned i = 0; i < 3; i++)
		dlm_encode_entry(&b.e[i], (struct dlm_key){.kind = 6, .id = i}, &piece);
	dlm_encode_value(&b.e[1], (struct dlm_key){.kind = 7, .id = 1}, &m.value);
	for (unsigned t = DLM_REQUEST; t < DLM_MANY; t++) {
		m.type = (uint16_t)t;
		seed(W_DLM, t & 255, &w, dlm_encode(&m, &w));
		if (t == DLM_HANDOVER || t == DLM_OWN || t == DLM_REPORT)
			seed(W_DLM, t & 255, &b, sizeof(b));
	}
	struct {
		struct dlm_many_msg h;
		struct dlm_one_msg one[3];
	} many = {.h = {.version = le16_make(DLM_WIRE_VERSION), .count = le16_make(3)}};

	m.type = DLM_REQUEST;
	for (unsigned i = 0; i < 3; i++) {
		many.one[i].type = le16_make(DLM_REQUEST);
		(void)dlm_encode(&m, &many.one[i].m);
	}
	seed(W_DLM, DLM_MANY & 255, &many, sizeof(many));
}

static void seeds_plock(void)
{
	struct plock_piece piece = {.start = 1, .end = 9, .owner = 5, .pid = 77, .node = 2, .type = PLOCK_WR};
	struct plock_m m = {.ino = 42, .op = 1, .p = piece, .kind = PLOCK_RAISE, .flags = PLOCK_F_WAIT};
	struct plock_entry_msg e[2];
	uint8_t buf[1024];

	plock_encode_lock(&e[0], 42, &piece);
	plock_encode_lock(&e[1], 43, &piece);
	for (unsigned t = PLOCK_OP; t < PLOCK_TYPE_END; t++) {
		bool many = t == PLOCK_STATE || t == PLOCK_REPORT || t == PLOCK_PROBE || t == PLOCK_CONFIRM;

		m.type = (uint16_t)t;
		m.count = many ? 2 : 0;
		m.ents = many ? e : NULL;
		seed(W_PLOCK, t & 255, buf, plock_encode(&m, buf, sizeof(buf)));
	}
}

static void seeds_quorum(void)
{
	static struct q_state s;
	static struct quorum q;
	uint8_t buf[4096];
	struct ts_wr w = {.p = buf, .left = sizeof(buf)};
	struct q_op op = {.reqid = 1, .req_node = 2, .req_inc = 200, .kind = Q_JOIN, .group = 77, .slot = 1, .node = 2, .inc = 200};

	q.a.incarnation = 300;
	q_hdr_write(&q, &w, Q_M_SYNC, 1);
	seed(W_QUORUM, 0, buf, w.used);
	w = (struct ts_wr){.p = buf, .left = sizeof(buf)};
	for (enum q_kind k = Q_JOIN; k <= Q_RECOVERED; k++) {
		op.kind = k;
		q_op_write(&w, &op, k);
	}
	seed(W_OP, 0, buf, w.used);
	s.exists = true;
	for (unsigned i = 0; i < 3; i++)
		s.members[s.nmembers++].pub = (struct quorum_member){.node = i + 1, .incarnation = 100 * (i + 1), .slot = i, .addr = "10.0.0.1"};
	op.kind = Q_JOIN;
	(void)q_state_apply(&s, &op);
	s.excluded[9] = 5;
	w = (struct ts_wr){.p = buf, .left = sizeof(buf)};
	q_state_write(&w, &s, 2);
	seed(W_STATE, 0, buf, w.used);
}

void fuzz_seeds(void)
{
	seeds_dlm();
	seeds_plock();
	seeds_quorum();
}
