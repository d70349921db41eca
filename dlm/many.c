/* SPDX-License-Identifier: Apache-2.0 */
/* Many messages in one frame. Messages to other nodes are collected per (node, lane) until the engine's user calls dlm_flush()
 * (soon after ops.flush_wanted), a frame is full, or a batch must go on the same lane. A single one is sent as itself.
 *
 * Must never happen: the order within a (node, lane) changes; a message collected in one epoch is sent in another (recover.c drops
 * them, as it does those of full lanes); one of a frame takes effect when another of it is malformed. */
#include "dlm/dlm_int.h"

static struct dlm_collected *find(const struct dlm *d, unsigned node, enum net_lane lane)
{
	ts_list_for(n, &d->collected)
	{
		struct dlm_collected *c = ts_list_entry(n, struct dlm_collected, link);
		if (c->node == node && c->lane == lane)
			return c;
	}
	return NULL;
}

static void send(struct dlm *d, struct dlm_collected *c)
{
	if (c->n == 1) {
		dlm_send_now(d, c->node, le16_get(c->one[0].type), &c->one[0].m, sizeof c->one[0].m);
	} else {
		c->head = (struct dlm_many_msg){.version = le16_make(DLM_WIRE_VERSION), .count = le16_make((uint16_t)c->n)};
		dlm_send_now(d, c->node, DLM_MANY, &c->head, (uint32_t)(sizeof c->head + c->n * sizeof c->one[0]));
	}
	c->n = 0;
}

static void end(struct dlm_collected *c)
{
	ts_list_del(&c->link);
	ts_free(c);
}

bool dlm_collect(struct dlm *d, unsigned node, uint16_t type, const struct dlm_lock_msg *w)
{
	enum net_lane lane = dlm_lane(type);
	if (!d->a.ops.flush_wanted)
		return false;
	struct dlm_collected *c = find(d, node, lane);
	if (!c && d->a.ops.many_ok && !d->a.ops.many_ok(d->a.ops.arg, node))
		return false;
	if (!c) {
		c = ts_alloc(sizeof *c);
		if (!c)
			return false; /* nothing is in front of it: it goes alone */
		c->node = node;
		c->lane = lane;
		bool first = ts_list_empty(&d->collected);
		ts_list_push_back(&d->collected, &c->link);
		if (first)
			d->a.ops.flush_wanted(d->a.ops.arg);
	}
	c->one[c->n++] = (struct dlm_one_msg){.type = le16_make(type), .m = *w};
	if (c->n == DLM_MANY_MAX)
		send(d, c); /* it stays, empty, for those that follow */
	return true;
}

void dlm_flush_lane(struct dlm *d, unsigned node, enum net_lane lane)
{
	struct dlm_collected *c = find(d, node, lane);
	if (c && c->n)
		send(d, c);
}

void dlm_flush(struct dlm *d)
{
	struct ts_list *n;
	while ((n = ts_list_pop_front(&d->collected))) {
		struct dlm_collected *c = ts_list_entry(n, struct dlm_collected, link);
		if (c->n)
			send(d, c);
		end(c);
	}
}

void dlm_collected_drop(struct dlm *d)
{
	while (!ts_list_empty(&d->collected))
		end(ts_list_entry(d->collected.next, struct dlm_collected, link));
}

void dlm_on_many(struct dlm *d, unsigned src, uint64_t epoch, const void *p, uint32_t count)
{
	const uint8_t *at = (const uint8_t *)p + sizeof(struct dlm_many_msg);
	for (uint32_t i = 0; i < count; i++, at += sizeof(struct dlm_one_msg)) {
		struct dlm_one_msg one;
		memcpy(&one, at, sizeof one);
		struct dlm_msg m = {.src = src, .type = le16_get(one.type), .epoch = epoch};
		TS_ASSERT(dlm_decode(&m, &one.m, sizeof one.m)); /* dlm_many_sound() has looked */
		dlm_dispatch(d, &m);
	}
}
