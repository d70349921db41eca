/* SPDX-License-Identifier: Apache-2.0 */
/* The client's side: what this node holds, asks for, and was asked to give back.
 *
 *   request: new --own master, free--> held          revoke: parked (its grant is still on the way) ->
 * pending -> answered new -> sent -> granted | denied | moved (sent elsewhere) | unsent again at a new epoch
 *
 * Must never happen: a revoke without its one answer; a release that takes away a grant which it does not
 * know of (every RELEASE names the newest grant seen of one granter, and touches nothing newer). */
#include "dlm/dlm_int.h"

int dlm_res_init(struct dlm *d, struct dlm_res *r, struct dlm_key key)
{
	r->key = key;
	dlm_rset_init(&r->held);
	ts_list_init(&r->reqs);
	ts_list_init(&r->revokes);
	return ts_map_insert(&d->res, &r->node, dlm_key_hash(key));
}

bool dlm_res_idle(const struct dlm *d, const struct dlm_res *r)
{
	const struct dlm_unit *u = dlm_owned_unit(d, r->key);
	return !r->held.n && !r->keep.set && !r->got.set && ts_list_empty(&r->reqs) && ts_list_empty(&r->revokes) && !(u && u->closing);
}

void dlm_res_fini(struct dlm *d, struct dlm_res *r)
{
	TS_ASSERT(dlm_res_idle(d, r));
	ts_map_remove(&d->res, &r->node);
	dlm_rset_fini(&r->held);
}

struct dlm_res *dlm_find(const struct dlm *d, struct dlm_key key)
{
	for (struct ts_map_node *n = ts_map_first(&d->res, dlm_key_hash(key)); n; n = ts_map_next(n)) {
		struct dlm_res *r = TS_CONTAINER(n, struct dlm_res, node);
		if (r->key.id == key.id && r->key.kind == key.kind)
			return r;
	}
	return NULL;
}

bool dlm_holds(const struct dlm_res *r, enum dlm_mode mode, uint64_t start, uint64_t end)
{
	if (r->held.n == 1) { /* the usual case */
		const struct dlm_piece *p = &r->held.v[0];
		return p->start <= start && p->end >= end && dlm_covers(p->mode, mode);
	}
	return dlm_rset_covers(&r->held, 0, mode, start, end);
}

/* ---- values
 * -------------------------------------------------------------------------------------------------------*/

void dlm_value_merge(struct dlm_value *into, const struct dlm_value *v)
{
	if (!v->set || (into->set && v->era < into->era))
		return;
	if (!into->set || v->era > into->era) {
		*into = *v;
		return;
	}
	into->high = TS_MAX(into->high, v->high);
	into->time = TS_MAX(into->time, v->time);
}

void dlm_value_give(struct dlm_res *r, const struct dlm_value *v)
{
	dlm_value_merge(&r->keep, v);
}

bool dlm_value_take(struct dlm_res *r, struct dlm_value *out)
{
	*out = r->got;
	r->got = (struct dlm_value){0};
	return out->set;
}

/* A grant of EX may have crossed our release: what we kept is ours again. One of SH did not (the master joins it with what
 * its table has of us): whoever had it alone meanwhile has what we gave. With SW others may still be ahead of him. */
static void value_granted(struct dlm_res *r, enum dlm_mode mode, const struct dlm_value *v)
{
	dlm_value_merge(&r->got, v);
	if (mode == DLM_EX)
		dlm_value_merge(&r->got, &r->keep);
	if (mode != DLM_SW)
		r->keep = (struct dlm_value){0};
}

/* ---- requests
 * -------------------------------------------------------------------------------------------------------*/

static void hold(struct dlm *d, struct dlm_res *r, struct dlm_piece p, bool mastery)
{
	p.node = 0;
	if (dlm_rset_raise(&r->held, &p))
		TS_PANIC("dlm: no memory for a granted token (%u,%llu)", r->key.kind,
			 (unsigned long long)r->key.id);
	if (!mastery)
		return;
	struct dlm_unit *u = dlm_unit_get(d, r->key.id);
	if (!u)
		TS_PANIC("dlm: no memory for unit %llu", (unsigned long long)r->key.id);
	u->mine = true;
	u->hint = 0;
	u->own_stamp = p.stamp;
	d->st.owned_units++;
}

static bool must_stay_home(const struct dlm *d, const struct dlm_res *r)
{
	const struct dlm_unit *u = dlm_owned_unit(d, r->key);
	return d->phase < DLM_REPORTING || (u && u->closing);
}

static void send_request(struct dlm *d, struct dlm_req *q, unsigned to)
{
	struct dlm_msg m = {.type = DLM_REQUEST,
			    .key = q->res->key,
			    .req = q->id,
			    .start = q->start,
			    .end = q->end,
			    .dstart = q->dstart,
			    .dend = q->dend,
			    .mode = q->mode,
			    .flags = (uint8_t)((q->flags & DLM_F_QUICK ? DLM_MF_QUICK : 0) |
					       (q->flags & DLM_F_BEST ? DLM_MF_BEST : 0) |
					       (q->flags & DLM_F_AHEAD ? DLM_MF_AHEAD : 0)),
			    .granter = q->moved_by,
			    .stamp = q->moved_stamp,
			    .seen = q->moved_seen};
	q->sent = true;
	if (to != d->self)
		d->st.requests_sent++;
	dlm_send(d, to, &m);
}

static void route(struct dlm *d, struct dlm_req *q)
{
	const struct dlm_unit *u =
		dlm_in_unit(d, q->res->key.kind) ? dlm_unit_find(d, dlm_unit_of(d, q->res->key)) : NULL;
	q->moved_by = 0;
	q->moved_seen = 0;
	q->moved_stamp = u && u->hint ? u->own_stamp : 0;
	send_request(d, q, dlm_master(d, q->res->key));
}

void dlm_client_resend(struct dlm *d)
{
	ts_list_for(n, &d->reqs)
	{
		struct dlm_req *q = ts_list_entry(n, struct dlm_req, all);
		if (!q->sent && !must_stay_home(d, q->res))
			route(d, q);
	}
}

static int request(struct dlm *d, struct dlm_res *r, struct dlm_req *q)
{
	struct dlm_piece p;
	struct dlm_value v = {0};
	bool home = must_stay_home(d, r), mastery = false;
	if (!home && dlm_master(d, r->key) == d->self) {
		int rc = dlm_master_try(d, q, &p, &mastery, &v);
		if (rc == 0) {
			d->seen[d->self] = p.stamp;
			hold(d, r, p, mastery);
			value_granted(r, p.mode, &v);
			return 1;
		}
		if (rc == -ENOMEM)
			return rc;
		if (q->flags & DLM_F_QUICK && dlm_granting(d) && ts_list_empty(&d->local))
			return -EAGAIN;
	}
	if (q->flags & DLM_F_LOCAL)
		return -TS_ERR_WOULD_WAIT;
	q->id = ++d->last_req;
	q->sent = false;
	ts_list_push_back(&r->reqs, &q->link);
	ts_list_push_back(&d->reqs, &q->all);
	if (!home)
		route(d, q);
	return 0;
}

int dlm_request(struct dlm *d, struct dlm_res *r, struct dlm_req *q)
{
	TS_ASSERT(q->mode > DLM_NL && q->mode < DLM_MODES && q->start <= q->end);
	q->res = r;
	q->dstart = TS_MIN(q->dstart, q->start);
	q->dend = TS_MAX(q->dend, q->end);
	if (dlm_holds(r, q->mode, q->start, q->end))
		return 1;
	dlm_enter(d);
	int rc = request(d, r, q);
	dlm_leave(d);
	return rc;
}

static struct dlm_req *req_find(struct dlm_res *r, uint64_t id)
{
	ts_list_for(n, &r->reqs)
	{
		struct dlm_req *q = ts_list_entry(n, struct dlm_req, link);
		if (q->id == id)
			return q;
	}
	return NULL;
}

static void req_end(struct dlm_req *q)
{
	ts_list_del(&q->link);
	ts_list_del(&q->all);
}

void dlm_on_grant(struct dlm *d, const struct dlm_msg *m)
{
	struct dlm_res *r = dlm_find(d, m->key);
	struct dlm_req *q = r ? req_find(r, m->req) : NULL;
	d->seen[m->src] = TS_MAX(d->seen[m->src], m->stamp);
	if (!q) { /* nobody asked: not held; the master hears so when it revokes */
		ts_warn("dlm: grant of (%u,%llu) from node %u that nobody waits for", m->key.kind,
			(unsigned long long)m->key.id, m->src);
		return;
	}
	struct dlm_piece p = {.start = m->start,
			      .end = m->end,
			      .mode = m->mode,
			      .granter = (uint16_t)m->src,
			      .stamp = m->stamp};
	hold(d, r, p, m->flags & DLM_MF_MASTER);
	value_granted(r, m->mode, &m->value);
	req_end(q);
	d->a.ops.granted(d->a.ops.arg, q);
	dlm_unpark(d);
}

void dlm_on_denied(struct dlm *d, const struct dlm_msg *m)
{
	struct dlm_res *r = dlm_find(d, m->key);
	struct dlm_req *q = r ? req_find(r, m->req) : NULL;
	if (!q)
		return;
	req_end(q);
	d->a.ops.denied(d->a.ops.arg, q, -(int)m->result);
}

void dlm_on_moved(struct dlm *d, const struct dlm_msg *m)
{
	struct dlm_res *r = dlm_find(d, m->key);
	struct dlm_req *q = r ? req_find(r, m->req) : NULL;
	dlm_unit_hint(d, m->key, m->node, m->stamp);
	if (!q || !dlm_is_member(d, m->node))
		return;
	q->moved_by = (uint16_t)m->src;
	q->moved_seen = m->seen;
	q->moved_stamp = m->stamp;
	send_request(d, q, m->node);
}

/* ---- giving back
 * ----------------------------------------------------------------------------------------------------*/

static bool satisfied(const struct dlm_res *r, uint64_t start, uint64_t end, enum dlm_mode to)
{
	for (uint32_t i = 0; i < r->held.n; i++) {
		const struct dlm_piece *p = &r->held.v[i];
		if (dlm_overlap(p->start, p->end, start, end) && !dlm_covers(to, p->mode))
			return false;
	}
	return true;
}

/* The one answer: of the grants of `granter` seen so far, nothing above `to` is left on the range. */
static void answer(struct dlm *d, struct dlm_key key, const struct dlm_res *r, const struct dlm_rin *v)
{
	struct dlm_msg m = {.type = DLM_RELEASE,
			    .key = key,
			    .start = v->start,
			    .end = v->end,
			    .mode = v->to,
			    .node = d->self,
			    .granter = v->granter,
			    .stamp = d->seen[v->granter],
			    .revoke = v->id};
	if (r)
		m.value = r->keep;
	dlm_send(d, v->src, &m);
}

static void answer_satisfied(struct dlm *d, struct dlm_res *r)
{
	ts_list_for_safe(n, tmp, &r->revokes)
	{
		struct dlm_rin *v = ts_list_entry(n, struct dlm_rin, link);
		if (!satisfied(r, v->start, v->end, v->to))
			continue;
		ts_list_del(&v->link);
		answer(d, r->key, r, v);
		ts_free(v);
	}
}

static void tell_master(struct dlm *d, struct dlm_res *r, struct dlm_msg *m)
{
	m->value = r->keep;
	unsigned to = m->granter && dlm_is_member(d, m->granter) ? m->granter : dlm_master(d, r->key);
	if (d->phase < DLM_REPORTING)
		return; /* the report will say it */
	d->st.releases_sent += to != d->self;
	dlm_send(d, to, m);
}

/* Does a revoke pending on [start, end] say it all? Then its answer is the only message. */
static bool answer_says_it(const struct dlm_res *r, const struct dlm_msg *m)
{
	ts_list_for(n, &r->revokes)
	{
		const struct dlm_rin *v = ts_list_entry(n, const struct dlm_rin, link);
		if (v->granter == m->granter && v->start <= m->start && v->end >= m->end && v->to == m->mode)
			return true;
	}
	return false;
}

static void shrink(struct dlm *d, struct dlm_res *r, uint64_t start, uint64_t end, enum dlm_mode to)
{
	struct dlm_msg said[4];
	unsigned nsaid = 0;
	for (uint32_t i = 0; i < r->held.n;
	     i++) { /* one message per granter, over all its pieces in the range */
		const struct dlm_piece *p = &r->held.v[i];
		if (!dlm_overlap(p->start, p->end, start, end) || dlm_covers(to, p->mode))
			continue;
		unsigned k = 0;
		while (k < nsaid && said[k].granter != p->granter)
			k++;
		TS_ASSERT(k < TS_ARRAY_LEN(said)); /* 0, the hash master and the owner of one epoch */
		if (k == nsaid)
			said[nsaid++] = (struct dlm_msg){.type = DLM_RELEASE,
							 .key = r->key,
							 .start = DLM_END,
							 .mode = to,
							 .node = d->self,
							 .granter = p->granter,
							 .stamp = d->seen[p->granter]};
		said[k].start = TS_MIN(said[k].start, TS_MAX(p->start, start));
		said[k].end = TS_MAX(said[k].end, TS_MIN(p->end, end));
	}
	struct dlm_piece down = {.start = start, .end = end, .mode = to};
	if (dlm_rset_lower(&r->held, &down, true) < 0)
		TS_PANIC("dlm: no memory to give back a part of (%u,%llu)", r->key.kind,
			 (unsigned long long)r->key.id);
	struct dlm_unit *u = dlm_owned_unit(d, r->key);
	if (u && !u->closing && !dlm_holds(r, DLM_EX, 0, DLM_END)) {
		u->closing = true;
		u->granter = said[0].granter;
		dlm_unit_closed_check(d, u);
		return;
	}
	if (u && u->closing)
		return; /* master and revokers hear of it behind the handover */
	for (unsigned k = 0; k < nsaid; k++)
		if (!answer_says_it(r, &said[k]))
			tell_master(d, r, &said[k]);
	answer_satisfied(d, r);
}

/* The owner token after its unit was handed over: what is left of it, range by range. */
void dlm_client_tell_rest(struct dlm *d, struct dlm_res *r, unsigned granter)
{
	uint64_t at = 0;
	for (uint32_t i = 0; i <= r->held.n; i++) {
		const struct dlm_piece *p = i < r->held.n ? &r->held.v[i] : NULL;
		struct dlm_msg m = {.type = DLM_RELEASE,
				    .key = r->key,
				    .start = at,
				    .end = p ? p->start - 1 : DLM_END,
				    .mode = DLM_NL,
				    .node = d->self,
				    .granter = (uint16_t)granter,
				    .stamp = d->seen[granter]};
		if (!p || p->start > at)
			tell_master(d, r, &m);
		if (!p)
			break;
		m.start = p->start;
		m.end = p->end;
		m.mode = p->mode;
		if (p->mode != DLM_EX)
			tell_master(d, r, &m);
		if (p->end == DLM_END)
			break;
		at = p->end + 1;
	}
	answer_satisfied(d, r);
}

void dlm_shrink(struct dlm *d, struct dlm_res *r, uint64_t start, uint64_t end, enum dlm_mode to)
{
	TS_ASSERT(start <= end);
	dlm_enter(d);
	shrink(d, r, start, end, to);
	dlm_leave(d);
}

/* Not those that are given up already and whose answer waits for a unit to close. */
bool dlm_revoke_first(const struct dlm_res *r, struct dlm_want *out)
{
	ts_list_for(n, &r->revokes)
	{
		const struct dlm_rin *v = ts_list_entry(n, const struct dlm_rin, link);
		if (satisfied(r, v->start, v->end, v->to))
			continue;
		*out = (struct dlm_want){
			.start = v->start, .end = v->end, .dstart = v->dstart, .dend = v->dend, .to = v->to};
		return true;
	}
	return false;
}

void dlm_on_revoke(struct dlm *d, const struct dlm_msg *m)
{
	const struct dlm_unit *u = dlm_owned_unit(d, m->key);
	if (m->stamp > d->seen[m->granter] || (u && u->closing)) {
		dlm_park(d, m); /* the grant is on its way / the table goes home first */
		return;
	}
	struct dlm_rin v = {.id = m->revoke,
			    .start = m->start,
			    .end = m->end,
			    .dstart = m->dstart,
			    .dend = m->dend,
			    .src = (uint16_t)m->src,
			    .granter = m->granter,
			    .to = m->mode};
	struct dlm_res *r = dlm_find(d, m->key);
	d->st.revokes_received += m->src != d->self;
	/* Asked for ahead, and this node has use for it: an answer that takes nothing away. */
	if (m->flags & DLM_MF_AHEAD && d->a.ops.ahead_ok && !d->a.ops.ahead_ok(d->a.ops.arg, m->key, true))
		v.to = DLM_EX;
	if (!r || satisfied(r, v.start, v.end, v.to)) {
		answer(d, m->key, r, &v);
		return;
	}
	struct dlm_rin *keep = dlm_xalloc(sizeof *keep, "a revoke");
	*keep = v;
	ts_list_push_back(&r->revokes, &keep->link);
	d->a.ops.revoke(d->a.ops.arg, r);
}
