/* SPDX-License-Identifier: Apache-2.0 */
/* The master's side: per resource the granted pieces, a fair queue, the revokes out.
 *
 *   waiter: queued --no conflict with holders nor with an older waiter--> granted
 *                  --conflict with holders--> REVOKE to each (once) --RELEASE answers--> looked at again
 *
 * A node's own pieces never conflict with its request, so two SH holders that both want EX cannot deadlock:
 * the later one's SH is revoked like anybody's, its request stays queued. Must never happen: the granted list
 * says less than what a node holds or has in flight (it may say more: an answer to a revoke puts that right).
 */
#include "dlm/dlm_int.h"

struct dlm_mres *dlm_mres_find(const struct dlm *d, struct dlm_key key)
{
	for (struct ts_map_node *n = ts_map_first(&d->mres, dlm_key_hash(key)); n; n = ts_map_next(n)) {
		struct dlm_mres *r = TS_CONTAINER(n, struct dlm_mres, node);
		if (r->key.id == key.id && r->key.kind == key.kind)
			return r;
	}
	return NULL;
}

struct dlm_mres *dlm_mres_get(struct dlm *d, struct dlm_key key)
{
	struct dlm_mres *r = dlm_mres_find(d, key);
	if (r)
		return r;
	if (d->mres.count >= d->a.max_mastered)
		return NULL;
	struct dlm_unit *u = NULL;
	if (dlm_in_unit(d, key.kind) && !(u = dlm_unit_get(d, dlm_unit_of(d, key))))
		return NULL;
	r = ts_alloc(sizeof *r);
	if (r && ts_map_insert(&d->mres, &r->node, dlm_key_hash(key))) {
		ts_free(r);
		r = NULL;
	}
	if (!r) {
		if (u)
			dlm_unit_put(d, u);
		return NULL;
	}
	r->key = key;
	r->unit = u;
	dlm_rset_init(&r->granted);
	ts_list_init(&r->waiters);
	ts_list_init(&r->revokes);
	ts_list_init(&r->unit_link);
	if (u)
		ts_list_push_back(&u->resources, &r->unit_link);
	return r;
}

void dlm_mres_free(struct dlm *d, struct dlm_mres *r)
{
	struct ts_list *n;
	while ((n = ts_list_pop_front(&r->waiters)))
		ts_free(ts_list_entry(n, struct dlm_waiter, link));
	while ((n = ts_list_pop_front(&r->revokes)))
		ts_free(ts_list_entry(n, struct dlm_rout, link));
	ts_list_del(&r->unit_link);
	ts_map_remove(&d->mres, &r->node);
	dlm_rset_fini(&r->granted);
	ts_free(r);
}

static void free_if_empty(struct dlm *d, struct dlm_mres *r)
{
	struct dlm_unit *u = r->unit;
	if (r->granted.n || r->value.set || !ts_list_empty(&r->waiters) || !ts_list_empty(&r->revokes))
		return;
	dlm_mres_free(d, r);
	if (u)
		dlm_unit_put(d, u);
}

/* ---- conflicts
 * ------------------------------------------------------------------------------------------------------*/

static bool clash(const struct dlm_waiter *w, unsigned node, enum dlm_mode mode, uint64_t start, uint64_t end)
{
	return node != w->node && !dlm_compatible(mode, w->mode) && dlm_overlap(w->start, w->end, start, end);
}

static bool clash_holders(const struct dlm_mres *r, const struct dlm_waiter *w)
{
	for (uint32_t i = 0; i < r->granted.n; i++) {
		const struct dlm_piece *p = &r->granted.v[i];
		if (clash(w, p->node, p->mode, p->start, p->end))
			return true;
	}
	return false;
}

static bool clash_older(const struct dlm_mres *r, const struct dlm_waiter *w)
{
	ts_list_for(n, &r->waiters)
	{
		const struct dlm_waiter *o = ts_list_entry(n, const struct dlm_waiter, link);
		if (o == w)
			return false;
		if (!o->ahead && clash(w, o->node, o->mode, o->start, o->end))
			return true;
	}
	return false;
}

/* Somebody needs it: older or newer than who asked ahead. */
static bool clash_needed(const struct dlm_mres *r, const struct dlm_waiter *w)
{
	ts_list_for(n, &r->waiters)
	{
		const struct dlm_waiter *o = ts_list_entry(n, const struct dlm_waiter, link);
		if (!o->ahead && clash(w, o->node, o->mode, o->start, o->end))
			return true;
	}
	return false;
}

/* Shrinks the desired range so that it stays clear of [start, end], which does not overlap the required one.
 */
static void clip(const struct dlm_waiter *w, struct dlm_piece *out, uint64_t start, uint64_t end)
{
	if (end < w->start && end >= out->start)
		out->start = end + 1;
	if (start > w->end && start <= out->end)
		out->end = start - 1;
}

static void clip_all(const struct dlm_mres *r, const struct dlm_waiter *w, struct dlm_piece *out)
{
	for (uint32_t i = 0; i < r->granted.n; i++) {
		const struct dlm_piece *p = &r->granted.v[i];
		if (p->node != w->node && !dlm_compatible(p->mode, w->mode))
			clip(w, out, p->start, p->end);
	}
	ts_list_for(n, &r->waiters)
	{
		const struct dlm_waiter *o = ts_list_entry(n, const struct dlm_waiter, link);
		if (o->node != w->node && !dlm_compatible(o->mode, w->mode))
			clip(w, out, o->start, o->end);
	}
}

/* ---- granting
 * -------------------------------------------------------------------------------------------------------*/

/* Nobody else holds anything of it. */
static bool alone(const struct dlm_mres *r, const struct dlm_waiter *w)
{
	for (uint32_t i = 0; i < r->granted.n; i++)
		if (r->granted.v[i].node != w->node)
			return false;
	return true;
}

static bool others_wait(const struct dlm_mres *r, const struct dlm_waiter *w)
{
	ts_list_for(n, &r->waiters)
		if (ts_list_entry(n, const struct dlm_waiter, link)->node != w->node)
			return true;
	return false;
}

static bool takes_value(const struct dlm_mres *r, const struct dlm_waiter *w)
{
	return r->value.set && w->start == 0 && w->end == DLM_END && alone(r, w);
}

/* Who gets a value must be able to write it down, whatever he asked for. Who has SW and asks for SH gets both, and is told so. */
static enum dlm_mode mode_for(const struct dlm_mres *r, const struct dlm_waiter *w)
{
	if (w->start != 0 || w->end != DLM_END)
		return w->mode;
	if (w->mode != DLM_EX && dlm_rset_covers(&r->granted, w->node, w->mode == DLM_SH ? DLM_SW : DLM_SH, w->start, w->end))
		return DLM_EX;
	return takes_value(r, w) || (w->best && alone(r, w) && !others_wait(r, w)) ? DLM_EX : (enum dlm_mode)w->mode;
}

/* w has no conflict: enters it into the table. out = what it gets. */
static int enter(struct dlm *d, struct dlm_mres *r, const struct dlm_waiter *w, struct dlm_piece *out,
		 bool *mastery, struct dlm_value *v)
{
	bool takes = takes_value(r, w);
	*out = (struct dlm_piece){.start = TS_MIN(w->dstart, w->start),
				  .end = TS_MAX(w->dend, w->end),
				  .mode = mode_for(r, w),
				  .node = w->node,
				  .granter = d->self,
				  .stamp = d->stamp + 1};
	clip_all(r, w, out);
	if (dlm_rset_raise(&r->granted, out))
		return -ENOMEM;
	d->stamp++;
	d->st.grants++;
	*v = takes ? r->value : (struct dlm_value){0};
	if (takes)
		r->value = (struct dlm_value){0};
	*mastery = dlm_unit_give(d, r->key, out);
	return 0;
}

static void deny(struct dlm *d, struct dlm_key key, unsigned node, uint64_t req, int err)
{
	struct dlm_msg m = {.type = DLM_DENIED, .key = key, .req = req, .result = (uint16_t)err};
	dlm_send(d, node, &m);
}

static void grant(struct dlm *d, struct dlm_mres *r, struct dlm_waiter *w)
{
	struct dlm_piece p;
	struct dlm_value v;
	bool mastery;
	if (enter(d, r, w, &p, &mastery, &v)) {
		deny(d, r->key, w->node, w->req, ENOMEM);
	} else {
		struct dlm_msg m = {.type = DLM_GRANT,
				    .key = r->key,
				    .req = w->req,
				    .start = p.start,
				    .end = p.end,
				    .mode = p.mode,
				    .value = v,
				    .stamp = p.stamp,
				    .granter = d->self,
				    .flags = mastery ? DLM_MF_MASTER : 0};
		dlm_send(d, w->node, &m);
	}
	ts_list_del(&w->link);
	ts_free(w);
}

static bool revoke_is_out(const struct dlm_mres *r, const struct dlm_rout *want)
{
	ts_list_for(n, &r->revokes)
	{
		const struct dlm_rout *o = ts_list_entry(n, const struct dlm_rout, link);
		if (o->node == want->node && o->start <= want->start && o->end >= want->end &&
		    dlm_covers(want->to, o->to))
			return true;
	}
	return false;
}

static void revoke(struct dlm *d, struct dlm_mres *r, const struct dlm_waiter *w, const struct dlm_piece *p)
{
	struct dlm_rout want = {.node = p->node,
				.start = TS_MAX(w->start, p->start),
				.end = TS_MIN(w->end, p->end),
				.to = dlm_meet(p->mode, dlm_beside(w->mode)),
				.since_ns = d->now_ns};
	if (revoke_is_out(r, &want))
		return;
	struct dlm_rout *o = dlm_xalloc(sizeof *o, "a revoke");
	*o = want;
	o->id = (uint64_t)d->self << 48 | (++d->last_revoke & 0xffffffffffff);
	ts_list_push_back(&r->revokes, &o->link);
	d->st.revokes_sent++;
	struct dlm_msg m = {.type = DLM_REVOKE,
			    .key = r->key,
			    .start = o->start,
			    .end = o->end,
			    .dstart = TS_MIN(o->start, TS_MAX(w->dstart, p->start)),
			    .dend = TS_MAX(o->end, TS_MIN(w->dend, p->end)),
			    .mode = o->to,
			    .flags = w->ahead ? DLM_MF_AHEAD : 0,
			    .revoke = o->id,
			    .granter = p->granter,
			    .stamp = p->stamp};
	dlm_send(d, p->node, &m);
}

static void revoke_holders(struct dlm *d, struct dlm_mres *r, const struct dlm_waiter *w)
{
	for (uint32_t i = 0; i < r->granted.n; i++) {
		const struct dlm_piece *p = &r->granted.v[i];
		if (clash(w, p->node, p->mode, p->start, p->end))
			revoke(d, r, w, p);
	}
}

static void refuse(struct dlm *d, struct dlm_mres *r, struct dlm_waiter *w)
{
	deny(d, r->key, w->node, w->req, EAGAIN);
	ts_list_del(&w->link);
	ts_free(w);
}

/* Who asked ahead stands in nobody's way: he gets what is free, or what its holders have no use for, or is refused. */
static void pump_ahead(struct dlm *d, struct dlm_mres *r, struct dlm_waiter *w)
{
	if (clash_needed(r, w)) {
		refuse(d, r, w);
	} else if (!clash_holders(r, w)) {
		grant(d, r, w);
	} else if (!w->asked) {
		w->asked = true;
		revoke_holders(d, r, w);
	} else if (ts_list_empty(&r->revokes)) {
		refuse(d, r, w); /* all have answered, and one of them keeps it */
	}
}

/* Looks at every waiter, oldest first. May free r. */
void dlm_master_pump(struct dlm *d, struct dlm_mres *r)
{
	if (dlm_granting(d) && !(r->unit && r->unit->closing)) {
		ts_list_for_safe(n, tmp, &r->waiters)
		{
			struct dlm_waiter *w = ts_list_entry(n, struct dlm_waiter, link);
			if (w->ahead) {
				pump_ahead(d, r, w);
				continue;
			}
			bool older = clash_older(r, w);
			if (!older && !clash_holders(r, w)) {
				grant(d, r, w);
			} else if (w->quick) {
				refuse(d, r, w);
			} else if (!older) {
				revoke_holders(d, r, w);
			}
		}
	}
	free_if_empty(d, r);
}

/* This node asks itself: granted on the spot when nothing is in the way. 0; -EAGAIN something is; -ENOMEM. */
int dlm_master_try(struct dlm *d, struct dlm_req *q, struct dlm_piece *out, bool *mastery, struct dlm_value *v)
{
	if (!dlm_granting(d) || !ts_list_empty(&d->local))
		return -EAGAIN;
	struct dlm_mres *r = dlm_mres_get(d, q->res->key);
	if (!r)
		return -ENOMEM;
	struct dlm_waiter w = {.node = d->self,
			       .mode = q->mode,
			       .start = q->start,
			       .end = q->end,
			       .dstart = q->dstart,
			       .dend = q->dend,
			       .best = q->flags & DLM_F_BEST};
	int rc = -EAGAIN;
	if (!(r->unit && r->unit->closing) && !clash_older(r, &w) && !clash_holders(r, &w))
		rc = enter(d, r, &w, out, mastery, v);
	if (rc)
		free_if_empty(d, r);
	return rc;
}

/* ---- messages
 * -------------------------------------------------------------------------------------------------------*/

void dlm_on_request(struct dlm *d, const struct dlm_msg *m)
{
	if (d->phase != DLM_RUN) {
		dlm_park(d, m);
		return;
	}
	if (dlm_request_elsewhere(d, m))
		return;
	if (m->flags & DLM_MF_AHEAD && d->a.ops.ahead_ok && !d->a.ops.ahead_ok(d->a.ops.arg, m->key, false)) {
		deny(d, m->key, m->src, m->req, EAGAIN);
		return;
	}
	struct dlm_mres *r = dlm_mres_get(d, m->key);
	struct dlm_waiter *w = r ? ts_alloc(sizeof *w) : NULL;
	if (!w) {
		deny(d, m->key, m->src, m->req, ENOMEM);
		if (r)
			free_if_empty(d, r);
		return;
	}
	*w = (struct dlm_waiter){.node = (uint16_t)m->src,
				 .req = m->req,
				 .mode = m->mode,
				 .start = m->start,
				 .end = m->end,
				 .dstart = TS_MIN(m->start, m->dstart),
				 .dend = TS_MAX(m->end, m->dend),
				 .quick = m->flags & DLM_MF_QUICK,
				 .best = m->flags & DLM_MF_BEST,
				 .ahead = m->flags & DLM_MF_AHEAD,
				 .since_ns = d->now_ns};
	ts_list_push_back(&r->waiters, &w->link);
	dlm_master_pump(d, r);
}

/* Not the master of it any more: a release follows the table, also one that answers a revoke of ours, which went with the
 * unit. Dropped after some hops: the table then says more than is held, which the next revoke puts right. */
static void forward(struct dlm *d, const struct dlm_msg *m)
{
	unsigned to = dlm_master(d, m->key);
	if (dlm_hash_master(d, m->key) != d->self)
		to = dlm_hash_master(d, m->key);
	if (m->hops >= 3 || to == d->self)
		return;
	struct dlm_msg f = *m;
	f.hops++;
	f.revoke = 0;
	dlm_send(d, to, &f);
}

void dlm_on_release(struct dlm *d, const struct dlm_msg *m)
{
	if (d->phase != DLM_RUN) {
		dlm_park(d, m);
		return;
	}
	if (dlm_master(d, m->key) != d->self) {
		forward(d, m);
		return;
	}
	if (m->value.set)
		dlm_master_value(d, m->key, &m->value);
	struct dlm_mres *r = dlm_mres_find(d, m->key);
	if (!r)
		return;
	struct dlm_piece p = {.node = m->node,
			      .start = m->start,
			      .end = m->end,
			      .mode = m->mode,
			      .granter = m->granter,
			      .stamp = m->stamp};
	if (dlm_rset_lower(&r->granted, &p, false) < 0)
		ts_warn("dlm: no memory to split a piece of (%u,%llu) of node %u: revoked again later",
			r->key.kind, (unsigned long long)r->key.id, m->node);
	ts_list_for_safe(n, tmp, &r->revokes)
	{
		struct dlm_rout *o = ts_list_entry(n, struct dlm_rout, link);
		if (!m->revoke || o->id != m->revoke)
			continue;
		ts_list_del(&o->link);
		ts_free(o);
	}
	dlm_master_pump(d, r);
}

static struct dlm_mres *reported(struct dlm *d, struct dlm_key key)
{
	size_t cap = d->a.max_mastered;
	d->a.max_mastered = SIZE_MAX; /* the bound is for new requests */
	struct dlm_mres *r = dlm_mres_get(d, key);
	d->a.max_mastered = cap;
	if (!r)
		TS_PANIC("dlm: no memory for a reported token (%u,%llu)", key.kind,
			 (unsigned long long)key.id);
	return r;
}

void dlm_master_value(struct dlm *d, struct dlm_key key, const struct dlm_value *v)
{
	dlm_value_merge(&reported(d, key)->value, v);
}

void dlm_master_entries(struct dlm *d, const struct dlm_msg *m, bool report)
{
	for (uint32_t i = 0; i < m->count; i++) {
		struct dlm_key key;
		struct dlm_piece p;
		struct dlm_value v;
		if (dlm_decode_value(&m->ents[i], &key, &v)) {
			dlm_master_value(d, key, &v);
			continue;
		}
		dlm_decode_entry(&m->ents[i], &key, &p);
		if (report) {
			p.node = (uint16_t)m->src;
			p.granter = 0;
			p.stamp = 0;
		}
		dlm_master_insert(d, key, &p);
	}
}

/* A report of a holder, or a line of a table handed over. Conflicting lines mean that the law is already
 * broken. */
void dlm_master_insert(struct dlm *d, struct dlm_key key, const struct dlm_piece *p)
{
	struct dlm_mres *r = reported(d, key);
	for (uint32_t i = 0; i < r->granted.n; i++) {
		const struct dlm_piece *o = &r->granted.v[i];
		if (o->node != p->node && dlm_overlap(o->start, o->end, p->start, p->end) &&
		    !dlm_compatible(o->mode, p->mode))
			TS_PANIC("dlm: impossible state: node %u holds (%u,%llu) %s and node %u holds it %s",
				 o->node, key.kind, (unsigned long long)key.id, dlm_mode_name(o->mode),
				 p->node, dlm_mode_name(p->mode));
	}
	if (dlm_rset_raise(&r->granted, p))
		TS_PANIC("dlm: no memory for a reported token (%u,%llu)", key.kind,
			 (unsigned long long)key.id);
}
