/* SPDX-License-Identifier: Apache-2.0 */
/* Job: messages to bytes and back. Must never happen: a read past what arrived, or a count believed that does not fit
 * the arrays it fills. */
#include "quorum/quorum_int.h"

bool q_msg_read(struct q_msg *m, const void *buf, size_t len)
{
	struct ts_rd rd = {.p = buf, .left = len};
	const struct quorum_hdr_msg *h = ts_rd_bytes(&rd, sizeof(*h));

	if (!h || le32_get(h->magic) != Q_MAGIC || le16_get(h->version) != Q_VERSION)
		return false;
	*m = (struct q_msg){.type = le16_get(h->type),
			    .inc = le64_get(h->incarnation),
			    .ring = le64_get(h->ring),
			    .digest = le64_get(h->digest),
			    .number = le64_get(h->number),
			    .rd = rd};
	return m->inc != 0;
}

void q_hdr_write(struct quorum *q, struct ts_wr *w, enum q_type type, uint64_t number)
{
	struct quorum_hdr_msg h = {.magic = le32_make(Q_MAGIC),
				   .version = le16_make(Q_VERSION),
				   .type = le16_make((uint16_t)type),
				   .incarnation = le64_make(q->a.incarnation),
				   .ring = le64_make(q->ring),
				   .digest = le64_make(q->digest),
				   .number = le64_make(number)};

	ts_wr_bytes(w, &h, sizeof(h));
}

struct quorum_tie_msg q_tie_make(const struct quorum_tie *t)
{
	struct quorum_tie_msg m = {.version = le64_make(t->version)};

	memcpy(m.uuid, t->uuid, sizeof(m.uuid));
	memcpy(m.url, t->url, sizeof(m.url));
	return m;
}

struct quorum_tie q_tie_get(const struct quorum_tie_msg *m)
{
	struct quorum_tie t = {.version = le64_get(m->version)};

	memcpy(t.uuid, m->uuid, sizeof(t.uuid));
	memcpy(t.url, m->url, sizeof(t.url) - 1);
	memset(t.url + strlen(t.url), 0, sizeof(t.url) - strlen(t.url)); /* equal ones are equal byte by byte */
	return t;
}

void q_op_write(struct ts_wr *w, const struct q_op *op, uint64_t idx)
{
	struct quorum_op_msg m = {.idx = le64_make(idx),
				  .reqid = le64_make(op->reqid),
				  .req_inc = le64_make(op->req_inc),
				  .group = le64_make(op->group),
				  .inc = le64_make(op->inc),
				  .req_node = le32_make(op->req_node),
				  .kind = le32_make(op->kind),
				  .slot = le32_make(op->slot),
				  .node = le32_make(op->node)};

	ts_wr_bytes(w, &m, sizeof(m));
	if (op->kind == Q_TIE) {
		struct quorum_tie_msg t = q_tie_make(&op->tie);

		ts_wr_bytes(w, &t, sizeof(t));
	}
}

bool q_op_read(struct ts_rd *r, struct q_op *op, uint64_t *idx)
{
	const struct quorum_op_msg *m = ts_rd_bytes(r, sizeof(*m));

	if (!m)
		return false;
	*idx = le64_get(m->idx);
	*op = (struct q_op){.reqid = le64_get(m->reqid),
			    .req_node = le32_get(m->req_node),
			    .req_inc = le64_get(m->req_inc),
			    .kind = le32_get(m->kind),
			    .group = le64_get(m->group),
			    .slot = le32_get(m->slot),
			    .node = le32_get(m->node),
			    .inc = le64_get(m->inc)};
	if (op->kind == Q_TIE) {
		const struct quorum_tie_msg *t = ts_rd_bytes(r, sizeof(*t));

		if (!t)
			return false;
		op->tie = q_tie_get(t);
	}
	return op->req_node && op->req_node < Q_NODE_IDS && op->node < Q_NODE_IDS && op->kind >= Q_JOIN &&
	       op->kind <= Q_TIE && (op->group || op->kind == Q_TIE);
}

static void put_member(struct ts_wr *w, const struct quorum_member *m)
{
	ts_wr_u32(w, m->node);
	ts_wr_u32(w, m->slot);
	ts_wr_u64(w, m->incarnation);
}

static bool get_member(struct ts_rd *r, struct quorum_member *m)
{
	memset(m, 0, sizeof(*m));
	m->node = ts_rd_u32(r);
	m->slot = ts_rd_u32(r);
	m->incarnation = ts_rd_u64(r);
	return !r->bad && m->node && m->node < Q_NODE_IDS && m->incarnation;
}

static void put_excluded(struct ts_wr *w, const struct q_state *s)
{
	for (unsigned i = 1; i < Q_NODE_IDS; i++) {
		if (!s->excluded[i])
			continue;
		ts_wr_u32(w, i);
		ts_wr_u64(w, s->excluded[i]);
	}
}

void q_state_write(struct ts_wr *w, const struct q_state *s, uint32_t needed)
{
	struct quorum_state_msg m = {.epochs = le64_make(s->epochs),
				     .nmembers = le32_make(s->nmembers),
				     .ngroups = le32_make(s->ngroups),
				     .needed = le32_make(needed),
				     .by = le32_make(s->by),
				     .tie = q_tie_make(&s->tie)};
	unsigned nexcluded = 0;

	for (unsigned i = 1; i < Q_NODE_IDS; i++)
		nexcluded += s->excluded[i] != 0;
	m.nexcluded = le32_make(nexcluded);
	ts_wr_bytes(w, &m, sizeof(m));
	for (unsigned i = 0; i < s->nmembers; i++) {
		put_member(w, &s->members[i].pub);
		ts_wr_bytes(w, s->members[i].pub.addr, sizeof(s->members[i].pub.addr));
		ts_wr_u16(w, s->members[i].pub.port);
		ts_wr_u32(w, s->members[i].lease_ms);
		ts_wr_u64(w, s->members[i].last_reqid);
	}
	put_excluded(w, s);
	for (unsigned i = 0; i < s->ngroups; i++) {
		const struct quorum_group_view *g = &s->groups[i];

		ts_wr_u64(w, g->group);
		ts_wr_u64(w, g->epoch);
		ts_wr_u16(w, (uint16_t)g->nmembers);
		ts_wr_u16(w, (uint16_t)g->npending);
		for (unsigned j = 0; j < g->nmembers; j++)
			put_member(w, &g->members[j]);
		for (unsigned j = 0; j < g->npending; j++)
			put_member(w, &g->pending[j]);
	}
}

static bool get_group(struct ts_rd *r, struct quorum_group_view *g)
{
	memset(g, 0, sizeof(*g));
	g->group = ts_rd_u64(r);
	g->epoch = ts_rd_u64(r);
	g->nmembers = ts_rd_u16(r);
	g->npending = ts_rd_u16(r);
	if (r->bad || !g->group || g->nmembers + g->npending > QUORUM_MAX_NODES)
		return false;
	for (unsigned j = 0; j < g->nmembers; j++)
		if (!get_member(r, &g->members[j]))
			return false;
	for (unsigned j = 0; j < g->npending; j++)
		if (!get_member(r, &g->pending[j]))
			return false;
	return true;
}

static bool get_members(struct ts_rd *r, struct q_state *s)
{
	for (unsigned i = 0; i < s->nmembers; i++) {
		struct q_member *m = &s->members[i];
		const char *addr;

		if (!get_member(r, &m->pub) || !(addr = ts_rd_bytes(r, sizeof(m->pub.addr))))
			return false;
		memcpy(m->pub.addr, addr, sizeof(m->pub.addr));
		m->pub.addr[sizeof(m->pub.addr) - 1] = 0;
		m->pub.port = ts_rd_u16(r);
		m->lease_ms = ts_rd_u32(r);
		m->last_reqid = ts_rd_u64(r);
	}
	return !r->bad;
}

bool q_state_read(struct ts_rd *r, struct q_state *s, uint32_t *needed)
{
	const struct quorum_state_msg *m = ts_rd_bytes(r, sizeof(*m));
	unsigned nexcluded;

	if (!m)
		return false;
	memset(s, 0, offsetof(struct q_state, groups));
	s->exists = true;
	s->epochs = le64_get(m->epochs);
	s->nmembers = le32_get(m->nmembers);
	s->ngroups = le32_get(m->ngroups);
	nexcluded = le32_get(m->nexcluded);
	*needed = le32_get(m->needed);
	s->by = le32_get(m->by);
	s->tie = q_tie_get(&m->tie);
	if (s->by > QUORUM_BY_FORCE || s->nmembers > QUORUM_MAX_NODES || s->ngroups > QUORUM_MAX_GROUPS || nexcluded >= Q_NODE_IDS ||
	    !get_members(r, s))
		return false;
	for (unsigned i = 0; i < nexcluded; i++) {
		unsigned node = ts_rd_u32(r);
		uint64_t inc = ts_rd_u64(r);

		if (r->bad || !node || node >= Q_NODE_IDS)
			return false;
		s->excluded[node] = inc;
	}
	for (unsigned i = 0; i < s->ngroups; i++)
		if (!get_group(r, &s->groups[i]))
			return false;
	return !r->bad && !r->left;
}
