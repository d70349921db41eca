/* SPDX-License-Identifier: Apache-2.0 */
/* Job: transactions: the changes of some buffers, and intents, put into one frame as one record each. Must never happen:
 * a wait between begin and commit (law 1); a change of a buffer that is in no transaction; half of a transaction in one frame and
 * half in the next. */
#include "fs/buf_int.h"
#include "fs/log_int.h"

void fs_tx_begin(struct fs *fs, struct fs_tx *tx)
{
	struct fs_logstate *g = fs->log;

	TS_ASSERT(g && !g->tx);
	*tx = (struct fs_tx){.fs = fs, .recs = g->scratch, .recs_cap = g->frame_max / 2, .open = true};
	ts_list_init(&tx->bufs);
	g->tx = tx;
}

void fs_tx_buf(struct fs_tx *tx, struct fs_buf *b)
{
	TS_ASSERT(tx->open && tx->fs->log->tx == tx);
	if (b->tx == tx)
		return;
	TS_ASSERT(!b->tx && b->pins && b->uptodate && !b->detached && !b->forgotten);
	b->tx = tx;
	ts_list_push_back(&tx->bufs, &b->tx_link);
	/* The first change since home is logged whole: a torn home write is repaired by it. Without a page for the copy, too. */
	if (!b->fresh && b->dirty && (!b->writing || b->redirtied))
		b->before = fs_page_get(tx->fs->bufs);
	if (b->before)
		memcpy(b->before, b->data, FS_SUB);
}

static uint8_t *rec_room(struct fs_tx *tx, size_t n)
{
	uint8_t *p = tx->recs + tx->recs_len;

	TS_ASSERT(tx->open && tx->fs->log->tx == tx && n <= tx->recs_cap - tx->recs_len);
	tx->recs_len += n;
	return p;
}

uint64_t fs_tx_intent(struct fs_tx *tx, enum fs_intent_type type, uint32_t subs, uint64_t a, uint64_t b)
{
	struct fs_logstate *g = tx->fs->log;
	struct fs_intent *it = ts_list_entry(ts_list_pop_front(&g->spare), struct fs_intent, link);

	TS_ASSERT(g->nspare);
	g->nspare--;
	*it = (struct fs_intent){.number = g->next_number++, .type = type, .subs = subs, .a = a, .b = b};
	ts_list_push_back(&g->staged, &it->link);
	fs_intent_encode(rec_room(tx, FS_REC_INTENT_BYTES), it);
	tx->nintents++;
	return it->number;
}

void fs_tx_intent_done(struct fs_tx *tx, uint64_t number)
{
	struct fs_rec r = {.type = FS_REC_INTENT_DONE, .res_id = number};
	struct fs_intent *it = fs_intent_find(tx->fs, number);

	TS_ASSERT(it);
	ts_list_del(&it->link);
	ts_list_push_back(&tx->fs->log->ending, &it->link);
	fs_rec_encode_head(rec_room(tx, sizeof(struct fs_rec_disk)), &r);
}

void fs_tx_adopted(struct fs_tx *tx, uint32_t slot, uint64_t incarnation)
{
	struct fs_rec r = {.type = FS_REC_ADOPTED, .res_id = slot, .version = incarnation};

	fs_rec_encode_head(rec_room(tx, sizeof(struct fs_rec_disk)), &r);
}

/* Bytes of the record; 0 when nothing changed. */
static size_t encode_buf(uint8_t *out, struct fs_buf *b, uint64_t version)
{
	struct fs_mhdr_disk *h = (struct fs_mhdr_disk *)b->data;
	struct fs_rec r = {.type = b->before ? FS_REC_DELTA : FS_REC_IMAGE, .res_kind = b->res_kind, .block_type = h->type,
			   .res_id = b->res_id, .addr = b->addr, .prev_version = b->version, .version = version};
	size_t n = fs_runs_encode(out + sizeof(struct fs_rec_disk), b->before, b->data);

	if (b->before && !n)
		return 0;
	r.len = (uint32_t)n;
	b->version = version;
	h->version = le64_make(version);
	return fs_rec_encode_head(out, &r) + n;
}

static void put_bufs(struct fs *fs, struct fs_tx *tx, struct fs_frame *f, uint64_t version)
{
	struct ts_list changed, *l;

	ts_list_init(&changed);
	while ((l = ts_list_pop_front(&tx->bufs))) {
		struct fs_buf *b = ts_list_entry(l, struct fs_buf, tx_link);
		size_t n = encode_buf(f->buf + f->used, b, version);

		f->used += n;
		if (n)
			ts_list_push_back(&changed, l);
		fs_page_put(fs->bufs, b->before);
		b->before = NULL;
		b->tx = NULL;
	}
	while ((l = ts_list_pop_front(&changed))) /* the LSN is that of the transaction's end */
		fs_home_dirty(fs, ts_list_entry(l, struct fs_buf, tx_link), f->lsn, f->lsn + f->used + tx->recs_len);
}

static size_t worst_case(const struct fs_tx *tx)
{
	size_t n = tx->recs_len;

	ts_list_for(i, &tx->bufs)
		n += FS_REC_BUF_MAX;
	return n;
}

uint64_t fs_tx_commit(struct fs_tx *tx)
{
	struct fs *fs = tx->fs;
	struct fs_logstate *g = fs->log;
	struct fs_frame *f;
	uint32_t before;

	TS_ASSERT(tx->open && g->tx == tx);
	tx->open = false;
	g->tx = NULL;
	f = fs_log_frame(fs, worst_case(tx));
	before = f->used;
	put_bufs(fs, tx, f, fs_version_next(fs));
	memcpy(f->buf + f->used, tx->recs, tx->recs_len);
	f->used += (uint32_t)tx->recs_len;
	tx->lsn = g->last_lsn;
	if (f->used == before)
		return tx->lsn; /* nothing changed */
	tx->lsn = f->lsn + f->used;
	fs->stats.tx_commits++;
	fs_log_committed(fs, tx->lsn);
	fs_intents_committed(fs, f->lsn, tx->lsn);
	return tx->lsn;
}
