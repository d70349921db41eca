/* SPDX-License-Identifier: Apache-2.0 */
/* Job: live intents of this node's log: made and ended by transactions, listed for the reaper, logged again before the
 * tail passes them. Must never happen: an intent that the tail passed while it was live (its block or inode would leak), or one
 * seen by the reaper before the transaction that made it was committed. */
#include "fs/log_int.h"

#define RELOG_BATCH 512

int fs_intent_spare(struct fs *fs, unsigned n)
{
	struct fs_logstate *g = fs->log;

	while (g->nspare < n) {
		struct fs_intent *it = ts_alloc(sizeof(*it));

		if (!it)
			return -ENOMEM;
		ts_list_push_back(&g->spare, &it->link);
		g->nspare++;
	}
	return 0;
}

struct fs_intent *fs_intent_find(struct fs *fs, uint64_t number)
{
	struct ts_map_node *n;

	for (n = ts_map_first(&fs->log->by_number, ts_hash_u64(number)); n; n = ts_map_next(n))
		if (TS_CONTAINER(n, struct fs_intent, node)->number == number)
			return TS_CONTAINER(n, struct fs_intent, node);
	return NULL;
}

struct ts_list *fs_log_intents(struct fs *fs)
{
	return &fs->log->intents;
}

void fs_intent_encode(uint8_t *out, const struct fs_intent *it)
{
	struct fs_rec r = {.type = FS_REC_INTENT, .res_id = it->number, .len = sizeof(struct fs_intent_disk)};
	struct fs_intent_disk d = {.number = le64_make(it->number), .type = le32_make(it->type), .subs = le32_make(it->subs),
				   .a = le64_make(it->a), .b = le64_make(it->b)};

	memcpy(out + fs_rec_encode_head(out, &r), &d, sizeof(d));
}

static void add_live(struct fs *fs, struct fs_intent *it)
{
	struct fs_logstate *g = fs->log;
	int rc = ts_map_insert(&g->by_number, &it->node, ts_hash_u64(it->number));

	TS_ASSERT(rc == 0); /* its bucket array is there since fs_log_init */
	ts_list_push_back(&g->intents, &it->link);
	g->nintents++;
	fs->stats.intents = g->nintents;
}

void fs_intents_committed(struct fs *fs, uint64_t frame_lsn, uint64_t lsn)
{
	struct fs_logstate *g = fs->log;
	struct ts_list *l;

	while ((l = ts_list_pop_front(&g->staged))) {
		struct fs_intent *it = ts_list_entry(l, struct fs_intent, link);

		it->lsn = lsn;
		it->hold_lsn = frame_lsn;
		add_live(fs, it);
	}
	while ((l = ts_list_pop_front(&g->ending))) {
		struct fs_intent *it = ts_list_entry(l, struct fs_intent, link);

		ts_map_remove(&g->by_number, &it->node);
		ts_list_push_back(&g->spare, &it->link);
		g->nspare++;
		g->nintents--;
		fs->stats.intents = g->nintents;
	}
}

/* One more live intent that another incarnation of this slot left: logged by the relog that follows. */
int fs_intent_inherit(struct fs *fs, enum fs_intent_type type, uint32_t subs, uint64_t a, uint64_t b)
{
	struct fs_logstate *g = fs->log;
	struct fs_intent *it = ts_alloc(sizeof(*it));

	if (!it)
		return -ENOMEM;
	*it = (struct fs_intent){.number = g->next_number++, .type = type, .subs = subs, .a = a, .b = b};
	add_live(fs, it);
	return 0;
}

int fs_intents_relog(struct fs *fs, uint64_t below)
{
	struct fs_logstate *g = fs->log;
	const uint64_t begin = fs_log_begin_of_next(g);
	const size_t batch = TS_MIN((size_t)RELOG_BATCH, (g->frame_max - sizeof(struct fs_frame_disk)) / FS_REC_INTENT_BYTES);

	below = TS_MIN(below, begin); /* what is logged from here on is new enough */
	for (;;) {
		struct fs_frame *f;
		int rc = fs_log_wait_frames(fs);

		if (rc)
			return rc;
		if (ts_list_empty(&g->intents) || ts_list_entry(g->intents.next, struct fs_intent, link)->hold_lsn >= below)
			return 0;
		if (!fs_log_fits(g, batch * FS_REC_INTENT_BYTES, 0))
			return -ENOSPC;
		f = fs_log_frame(fs, batch * FS_REC_INTENT_BYTES);
		for (size_t i = 0; i < batch; i++) {
			struct fs_intent *it = ts_list_entry(g->intents.next, struct fs_intent, link);

			if (it->hold_lsn >= below)
				break;
			ts_list_del(&it->link);
			ts_list_push_back(&g->intents, &it->link);
			fs_intent_encode(f->buf + f->used, it);
			f->used += FS_REC_INTENT_BYTES;
			it->hold_lsn = f->lsn;
		}
		fs_log_committed(fs, f->lsn + f->used);
	}
}

static void free_list(struct ts_list *l)
{
	struct ts_list *n;

	while ((n = ts_list_pop_front(l)))
		ts_free(ts_list_entry(n, struct fs_intent, link));
}

void fs_intents_free(struct fs *fs)
{
	free_list(&fs->log->intents);
	free_list(&fs->log->staged);
	free_list(&fs->log->ending);
	free_list(&fs->log->spare);
	ts_map_fini(&fs->log->by_number);
}
