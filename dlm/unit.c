/* SPDX-License-Identifier: Apache-2.0 */
/* Who masters what. A unit is a run of ids (an inode segment); its hash master H is chosen by rendezvous over
 * the members. Who holds the owner token of a unit EX, granted with mastership, masters it; H knows and says
 * so.
 *
 *   H masters --grant, table empty--> owner masters --shrink--> closing (nothing granted, revokes out are
 * awaited)
 *        ^-------------------- HANDOVER (whole table, same lane before the RELEASE) -----------------'
 *
 * Nothing is waited for: who answers a revoke may need a grant of the same unit first. The hash master revokes again what is
 * still in the way, and answers to revokes of the former owner follow the table as releases.
 *
 * Must never happen: two nodes master one unit; an entry of the lock table is in no master's table while
 * somebody holds it; a request goes round in circles (every MOVED says what its sender had seen: see README,
 * moved). */
#include "dlm/dlm_int.h"

static unsigned rendezvous(const struct dlm *d, uint64_t h)
{
	unsigned best = 0;
	uint64_t score = 0;
	for (unsigned i = 0; i < d->nmembers; i++) {
		uint64_t s = ts_hash_2(h, d->members[i]);
		if (!best || s > score) {
			best = d->members[i];
			score = s;
		}
	}
	return best;
}

static unsigned unit_hash(const struct dlm *d, uint64_t unit)
{
	return rendezvous(d, ts_hash_2(unit, 0x756e6974));
}
/* The owner token of a unit has the unit's hash master: one node decides about both. */
unsigned dlm_hash_master(const struct dlm *d, struct dlm_key key)
{
	if (key.kind == d->a.owner_kind)
		return unit_hash(d, key.id);
	if (dlm_in_unit(d, key.kind))
		return unit_hash(d, dlm_unit_of(d, key));
	return rendezvous(d, dlm_key_hash(key));
}

struct dlm_unit *dlm_unit_find(const struct dlm *d, uint64_t id)
{
	for (struct ts_map_node *n = ts_map_first(&d->units, ts_hash_u64(id)); n; n = ts_map_next(n))
		if (TS_CONTAINER(n, struct dlm_unit, node)->id == id)
			return TS_CONTAINER(n, struct dlm_unit, node);
	return NULL;
}

struct dlm_unit *dlm_unit_get(struct dlm *d, uint64_t id)
{
	struct dlm_unit *u = dlm_unit_find(d, id);
	if (u)
		return u;
	u = ts_alloc(sizeof *u);
	if (!u)
		return NULL;
	u->id = id;
	u->hash = unit_hash(d, id);
	ts_list_init(&u->resources);
	if (ts_map_insert(&d->units, &u->node, ts_hash_u64(id))) {
		ts_free(u);
		return NULL;
	}
	return u;
}

void dlm_unit_put(struct dlm *d, struct dlm_unit *u)
{
	if (u->mine || u->owner || u->hint || u->pumping || !ts_list_empty(&u->resources))
		return;
	ts_map_remove(&d->units, &u->node);
	ts_free(u);
}

struct dlm_unit *dlm_owned_unit(const struct dlm *d, struct dlm_key key)
{
	struct dlm_unit *u = key.kind == d->a.owner_kind ? dlm_unit_find(d, key.id) : NULL;
	return u && u->mine ? u : NULL;
}

unsigned dlm_master(const struct dlm *d, struct dlm_key key)
{
	if (!dlm_in_unit(d, key.kind))
		return dlm_hash_master(d, key);
	const struct dlm_unit *u = dlm_unit_find(d, dlm_unit_of(d, key));
	if (u && u->mine)
		return d->self;
	unsigned h = u ? u->hash : dlm_hash_master(d, key);
	if (h == d->self)
		return u && u->owner ? u->owner : h;
	return u && u->hint ? u->hint : h;
}

/* At the hash master: this EX grant of an owner token carries the mastership if the unit has no lock entries
 * here. */
bool dlm_unit_give(struct dlm *d, struct dlm_key key, const struct dlm_piece *grant)
{
	if (key.kind != d->a.owner_kind || grant->mode != DLM_EX || grant->start != 0 ||
	    grant->end != DLM_END)
		return false;
	struct dlm_unit *u = dlm_unit_get(d, key.id);
	if (!u)
		return false;
	TS_ASSERT(u->hash == d->self);
	if (u->owner || u->mine || !ts_list_empty(&u->resources)) {
		dlm_unit_put(d, u);
		return false;
	}
	u->owner = grant->node;
	u->own_stamp = grant->stamp;
	return true;
}

void dlm_unit_hint(struct dlm *d, struct dlm_key key, unsigned node, uint64_t stamp)
{
	if (!dlm_in_unit(d, key.kind))
		return;
	struct dlm_unit *u = dlm_unit_find(d, dlm_unit_of(d, key));
	unsigned h = dlm_hash_master(d, key);
	if (h == d->self || (u && u->mine))
		return; /* it knows better */
	if (!u && node != h)
		u = dlm_unit_get(d, dlm_unit_of(d, key));
	if (!u)
		return;
	u->hint = node == h || node == d->self ? 0 : node;
	u->own_stamp = stamp;
	dlm_unit_put(d, u);
}

/* ---- requests that are not ours
 * -------------------------------------------------------------------------------------*/

static void say_moved(struct dlm *d, const struct dlm_msg *m, unsigned to, uint64_t stamp, uint64_t seen)
{
	struct dlm_msg r = {
		.type = DLM_MOVED, .key = m->key, .req = m->req, .node = to, .stamp = stamp, .seen = seen};
	d->st.moved++;
	dlm_send(d, m->src, &r);
}

bool dlm_request_elsewhere(struct dlm *d, const struct dlm_msg *m)
{
	unsigned to = dlm_master(d, m->key), h = dlm_hash_master(d, m->key);
	if (to == d->self)
		return false;
	if (h != d->self) {
		if (m->stamp > d->seen[h]) /* we shall own it: that grant is on its way */
			dlm_park(d, m);
		else
			say_moved(d, m, h, 0, d->seen[h]);
		return true;
	}
	const struct dlm_unit *u = dlm_unit_find(d, dlm_unit_of(d, m->key));
	if (m->granter == to &&
	    m->seen >= u->own_stamp) /* the owner says it is no more: its table is on its way */
		dlm_park(d, m);
	else
		say_moved(d, m, to, u->own_stamp, 0);
	return true;
}

/* ---- giving a unit back
 * ---------------------------------------------------------------------------------------------*/

struct batch {
	struct dlm_batch_msg head;
	struct dlm_entry_msg ents[DLM_BATCH];
};

static void batch_flush(struct dlm *d, struct dlm_unit *u, struct batch *b, uint32_t *n, bool last)
{
	b->head = (struct dlm_batch_msg){.version = le16_make(DLM_WIRE_VERSION),
					 .flags = last ? DLM_MF_LAST : 0,
					 .count = le32_make(*n),
					 .unit = le64_make(u->id),
					 .stamp = le64_make(u->own_stamp)};
	dlm_send_raw(d, u->hash, DLM_HANDOVER, b, sizeof b->head + *n * sizeof b->ents[0]);
	*n = 0;
}

static void hand_over(struct dlm *d, struct dlm_unit *u)
{
	struct batch *b = dlm_xalloc(sizeof *b, "a handover");
	uint32_t n = 0;
	struct ts_list *l;
	while ((l = u->resources.next) != &u->resources) {
		struct dlm_mres *r = ts_list_entry(l, struct dlm_mres, unit_link);
		for (uint32_t i = 0; i < r->granted.n; i++) {
			if (n == DLM_BATCH)
				batch_flush(d, u, b, &n, false);
			dlm_encode_entry(&b->ents[n++], r->key, &r->granted.v[i]);
		}
		if (r->value.set) {
			if (n == DLM_BATCH)
				batch_flush(d, u, b, &n, false);
			dlm_encode_value(&b->ents[n++], r->key, &r->value);
		}
		ts_list_for(w, &r->waiters)
		{
			const struct dlm_waiter *q = ts_list_entry(w, const struct dlm_waiter, link);
			struct dlm_msg m = {.key = r->key, .src = q->node, .req = q->req};
			say_moved(d, &m, u->hash, 0, d->seen[u->hash]);
		}
		dlm_mres_free(d, r);
	}
	batch_flush(d, u, b, &n, true);
	ts_free(b);
}

static void repump(struct dlm *d, struct dlm_unit *u)
{
	u->pumping = true; /* keeps it while its last resource may go */
	ts_list_for_safe(l, t, &u->resources)
		dlm_master_pump(d, ts_list_entry(l, struct dlm_mres, unit_link));
	u->pumping = false;
}

/* Closing ends at once while the engine runs, else as soon as it does. The owner token's RELEASE goes last, behind the
 * table on the same lane. */
void dlm_unit_closed_check(struct dlm *d, struct dlm_unit *u)
{
	if (!u->closing || d->phase != DLM_RUN)
		return;
	struct dlm_key key = {.kind = d->a.owner_kind, .id = u->id};
	struct dlm_res *r = dlm_find(d, key);
	bool here = u->hash == d->self;
	u->closing = u->mine = false;
	if (here) {
		u->owner = 0;
		repump(d, u);
	} else {
		hand_over(d, u);
	}
	TS_ASSERT(r); /* not idle while closing */
	dlm_client_tell_rest(d, r, u->granter);
	dlm_unit_put(d, u);
	dlm_client_resend(d);
	dlm_unpark(d);
	d->a.ops.changed(d->a.ops.arg); /* the owner token's struct may be idle now */
}

void dlm_on_handover(struct dlm *d, const struct dlm_msg *m)
{
	struct dlm_unit *u = dlm_unit_find(d, m->key.id);
	if (d->phase != DLM_RUN) { /* its sender may have been faster than some other's report */
		dlm_park(d, m);
		return;
	}
	if (!u || u->owner != m->src || u->own_stamp != m->stamp) {
		ts_err("dlm: handover of unit %llu from node %u, which does not own it, ignored",
		       (unsigned long long)m->key.id, m->src);
		return;
	}
	dlm_master_entries(d, m, false);
	if (!(m->flags & DLM_MF_LAST))
		return;
	u->owner = 0;
	dlm_unit_put(d, u);
	dlm_unpark(d);
}
