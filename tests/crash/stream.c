/* SPDX-License-Identifier: Apache-2.0 */
/* Job: see stream.h. */
#include "stream.h"

#define SECTOR 512u
#define LOST   60u /* of so many flushed writes one, by the planted fault */

static void *grow(void *old, size_t n, size_t *room, size_t each)
{
	void *v;

	if (n < *room)
		return old;
	*room = *room ? *room * 2 : 1024;
	v = realloc(old, *room * each);
	TS_ASSERT(v);
	return v;
}

void stream_record(void *arg, unsigned disk, enum nsd_op op, uint64_t off, const void *data, uint64_t len)
{
	struct stream *s = arg;
	struct entry *e;

	TS_ASSERT(disk == 0);
	s->e = grow(s->e, s->n, &s->room, sizeof(*s->e));
	e = &s->e[s->n];
	*e = (struct entry){.flush = op == NSD_FLUSH, .off = off, .len = len};
	if (e->flush) { /* off: how many writes had completed at its submission */
		size_t writes = off >= s->first_write ? (size_t)(off - s->first_write) : 0;

		e->covers = writes ? s->index[writes - 1] + 1 : 0;
	} else {
		e->data = ts_xalloc(len);
		if (data)
			memcpy(e->data, data, len);
		s->index = grow(s->index, s->nwrites, &s->index_room, sizeof(*s->index));
		s->index[s->nwrites++] = s->n;
	}
	s->n++;
}

void stream_free(struct stream *s)
{
	for (size_t i = 0; i < s->n; i++)
		ts_free(s->e[i].data);
	free(s->e);
	free(s->index);
}

/* ---- walking ------------------------------------------------------------------------------------------------------- */

static void touch(struct walker *w, uint64_t off, uint64_t len)
{
	w->touched = grow(w->touched, w->ntouched, &w->touched_room, sizeof(*w->touched));
	w->touched[w->ntouched].off = off;
	w->touched[w->ntouched++].len = len;
}

static void touched_by_repair(void *arg, unsigned disk, enum nsd_op op, uint64_t off, const void *data, uint64_t len)
{
	if (op != NSD_FLUSH)
		touch(arg, off, len);
}

struct walker *walker_new(const struct stream *s, const uint8_t *base, uint64_t bytes)
{
	struct walker *w = ts_xalloc(sizeof(*w));

	w->s = s;
	w->h = fsh_new(1, bytes);
	w->h->record = touched_by_repair;
	w->h->record_arg = w;
	w->stable = ts_xalloc(bytes);
	memcpy(w->stable, base, bytes);
	memcpy(w->h->disk[0]->now, base, bytes);
	return w;
}

void walker_free(struct walker *w)
{
	fsh_free(w->h);
	ts_free(w->stable);
	free(w->touched);
	ts_free(w);
}

void walker_step(struct walker *w)
{
	const struct entry *e = &w->s->e[w->at++];

	if (!e->flush || w->fault == WALKER_LIES)
		return;
	for (; w->flushed < e->covers; w->flushed++) {
		const struct entry *o = &w->s->e[w->flushed];

		if (o->flush || (w->fault == WALKER_LOSES && w->flushed % LOST == LOST - 1))
			continue;
		memcpy(w->stable + o->off, o->data, o->len);
		touch(w, o->off, o->len); /* the disk follows at the next state */
	}
}

bool walker_unflushed(const struct walker *w)
{
	for (size_t i = w->flushed; i < w->at; i++)
		if (!w->s->e[i].flush)
			return true;
	return false;
}

void walker_state(struct walker *w, uint64_t seed)
{
	uint8_t *now = w->h->disk[0]->now;

	fsh_disk_settle(w->h->disk[0]);
	for (size_t i = 0; i < w->ntouched; i++)
		memcpy(now + w->touched[i].off, w->stable + w->touched[i].off, w->touched[i].len);
	w->ntouched = 0;
	for (size_t i = w->flushed; i < w->at; i++) {
		const struct entry *e = &w->s->e[i];
		uint64_t coin = seed ? ts_hash_2(seed, i) : 1;

		if (e->flush)
			continue;
		touch(w, e->off, e->len);
		if (coin & 1)
			memcpy(now + e->off, e->data, e->len);
		else if (coin & 2) /* torn */
			for (uint64_t k = 0; k < e->len; k += SECTOR)
				if (ts_hash_2(coin, k) & 1)
					memcpy(now + e->off + k, e->data + k, SECTOR);
	}
}
