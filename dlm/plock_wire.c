/* SPDX-License-Identifier: Apache-2.0 */
/* Job: messages of locks to and from bytes. Must never happen: something is read past what arrived, or a
 * value gets in that no engine could have sent. */
#include "dlm/plock_int.h"

static const struct {
	enum net_lane lane;
	enum { NO_ENTRIES, LOCKS, WAITERS } entries;
} types[] = {
	[PLOCK_OP - PLOCK_OP] = {NET_REQUEST, NO_ENTRIES},
	[PLOCK_CANCEL - PLOCK_OP] = {NET_REQUEST, NO_ENTRIES},
	[PLOCK_STATE - PLOCK_OP] = {NET_REQUEST, LOCKS},
	[PLOCK_PROBE - PLOCK_OP] = {NET_REQUEST, WAITERS},
	[PLOCK_CONFIRM - PLOCK_OP] = {NET_REQUEST, WAITERS},
	[PLOCK_DONE - PLOCK_OP] = {NET_GRANT, NO_ENTRIES},
	[PLOCK_DELEGATE - PLOCK_OP] = {NET_GRANT, NO_ENTRIES},
	[PLOCK_RECALL - PLOCK_OP] = {NET_GRANT, NO_ENTRIES},
	[PLOCK_REPORT - PLOCK_OP] = {NET_RECOVERY, LOCKS},
	[PLOCK_REPORTED - PLOCK_OP] = {NET_RECOVERY, NO_ENTRIES},
};

enum net_lane plock_lane(uint16_t type)
{
	return types[type - PLOCK_OP].lane;
}

uint32_t plock_encode(const struct plock_m *m, void *out, uint32_t room)
{
	uint32_t len = (uint32_t)(sizeof(struct plock_head_msg) + m->count * sizeof *m->ents);
	struct plock_head_msg h = {
		.version = le16_make(PLOCK_WIRE_VERSION),
		.kind = m->kind,
		.type = m->p.type,
		.space = m->p.space,
		.flags = m->flags,
		.node = le16_make(m->p.node),
		.ino = le64_make(m->ino),
		.start = le64_make(m->p.start),
		.end = le64_make(m->p.end),
		.owner = le64_make(m->p.owner),
		.op = le64_make(m->op),
		.since = le64_make(m->since_ns),
		.pid = le32_make(m->p.pid),
		.result = le32_make((uint32_t)-m->result),
		.pos = le32_make(m->pos),
		.count = le32_make(m->count),
		.round = le64_make(m->round),
	};
	TS_ASSERT(len <= room);
	memcpy(out, &h, sizeof h);
	if (m->count)
		memcpy((uint8_t *)out + sizeof h, m->ents, m->count * sizeof *m->ents);
	return len;
}

static bool node_ok(unsigned node)
{
	return node > 0 && node < NET_MAX_NODES;
}

static bool waiters_ok(const struct plock_m *m)
{
	if (m->count > PLOCK_CYCLE_MAX ||
	    (m->type == PLOCK_CONFIRM && (m->count < 2 || m->pos >= m->count || m->op >= m->count)))
		return false;
	for (uint32_t i = 0; i < m->count; i++)
		if (!node_ok(le16_get(m->ents[i].node)))
			return false;
	return true;
}

static bool locks_ok(const struct plock_m *m)
{
	struct plock_piece piece;
	uint64_t ino;
	for (uint32_t i = 0; i < m->count; i++)
		if (!plock_decode_lock(&m->ents[i], &ino, &piece))
			return false;
	return true;
}

bool plock_decode(struct plock_m *m, const void *b, uint32_t len)
{
	struct plock_head_msg h;
	if (m->type < PLOCK_OP || m->type >= PLOCK_TYPE_END || len < sizeof h)
		return false;
	memcpy(&h, b, sizeof h);
	m->kind = h.kind;
	m->flags = h.flags;
	m->ino = le64_get(h.ino);
	m->op = le64_get(h.op);
	m->since_ns = le64_get(h.since);
	m->round = le64_get(h.round);
	m->result = -(int)(le32_get(h.result) & 0xfff);
	m->pos = le32_get(h.pos);
	m->count = le32_get(h.count);
	m->ents = m->count ? (const struct plock_entry_msg *)((const uint8_t *)b + sizeof h) : NULL;
	m->p = (struct plock_piece){.start = le64_get(h.start),
				    .end = le64_get(h.end),
				    .owner = le64_get(h.owner),
				    .pid = le32_get(h.pid),
				    .node = le16_get(h.node),
				    .type = h.type,
				    .space = h.space};
	if (le16_get(h.version) != PLOCK_WIRE_VERSION || m->count > PLOCK_BATCH ||
	    len != sizeof h + m->count * sizeof *m->ents || m->kind >= PLOCK_KINDS || m->p.type > PLOCK_WR ||
	    m->p.space >= PLOCK_SPACES || m->p.start > m->p.end)
		return false;
	if (m->type == PLOCK_PROBE && !node_ok(m->p.node))
		return false;
	switch (types[m->type - PLOCK_OP].entries) {
	case WAITERS:
		return waiters_ok(m);
	case LOCKS:
		return locks_ok(m);
	default:
		return m->count == 0;
	}
}

void plock_encode_lock(struct plock_entry_msg *e, uint64_t ino, const struct plock_piece *p)
{
	*e = (struct plock_entry_msg){.ino = le64_make(ino),
				      .owner = le64_make(p->owner),
				      .a = le64_make(p->start),
				      .b = le64_make(p->end),
				      .pid = le32_make(p->pid),
				      .node = le16_make(p->node),
				      .type = p->type,
				      .space = p->space};
}

bool plock_decode_lock(const struct plock_entry_msg *e, uint64_t *ino, struct plock_piece *p)
{
	*ino = le64_get(e->ino);
	*p = (struct plock_piece){.start = le64_get(e->a),
				  .end = le64_get(e->b),
				  .owner = le64_get(e->owner),
				  .pid = le32_get(e->pid),
				  .node = le16_get(e->node),
				  .type = e->type,
				  .space = e->space};
	return p->start <= p->end && p->space < PLOCK_SPACES && (p->type == PLOCK_RD || p->type == PLOCK_WR);
}
