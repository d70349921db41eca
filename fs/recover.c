/* SPDX-License-Identifier: Apache-2.0 */
/* Job: one dead slot's log brought home: sealed, replayed, read back, its live intents adopted, closed. Each step may be
 * begun again by another node at any time: what was done is found on disk, what was not is done. Must never happen: a log
 * read before its owner was fenced (recover_all.c does that) or past its seal; intents adopted twice; a slot closed before what it
 * said is stable at home. */
#include "fs/logread.h"
#include "fs/recover_int.h"

#define WORKERS	    16
#define VERIFY_MAX  4
#define TORN_TRIES  5 /* a block that fails its checksum may be on its way from a live node: look again */
#define TORN_NS	    (20 * TS_NS_PER_MS)

/* ---- blocks ------------------------------------------------------------------------------------------------------- */

struct work {
	struct fs *fs;
	struct fs_replay *replay;
	struct fs_replay_block **block;
	size_t n, next;
	unsigned node;
	uint64_t incarnation;
	bool maps;   /* this pass: bitmaps and tables; else everything else */
	bool verify; /* read back only: counts what is not as it should be */
	size_t wrong, written;
	struct fs_gaps *gaps;
	uint32_t slot;
	struct ts_group group;
};

static int read_settled(struct fs *fs, fs_addr a, uint8_t *data)
{
	for (unsigned i = 0;; i++) {
		const char *wrong;
		int rc = fs_io_read(fs, a, data, FS_SUB);

		if (rc)
			return rc;
		wrong = fs_mdhdr_wrong(data, fs->super.fs_id, 0, a);
		if (!wrong || strcmp(wrong, "checksum") || i == TORN_TRIES)
			return 0;
		ts_sleep_until(ts_exec_now(fs->exec) + TORN_NS);
	}
}

int fs_gaps_closed(struct fs *fs, const struct fs_gaps *g)
{
	uint8_t *data = g->n ? ts_alloc_aligned(FS_SUB, FS_SUB) : NULL;
	int rc = g->n && !data ? -ENOMEM : 0;

	for (size_t i = 0; i < g->n && !rc; i++) {
		rc = read_settled(fs, g->v[i].addr, data);
		if (rc || (!fs_mdhdr_wrong(data, fs->super.fs_id, 0, g->v[i].addr) && fs_mdhdr_version(data) >= g->v[i].version))
			continue;
		ts_err("%s: disk %u block %llu can be rebuilt neither from log slot %u nor from another", fs->super.name,
		       FS_ADDR_DISK(g->v[i].addr), (unsigned long long)FS_ADDR_SUB(g->v[i].addr), g->v[i].slot);
		rc = -EUCLEAN;
	}
	ts_free(data);
	return rc;
}

static int replay_block(struct work *w, struct fs_replay_block *b, uint8_t *data)
{
	struct fs *fs = w->fs;
	const struct fs_rec *last = &w->replay->recs[b->last - 1].rec;
	bool skip = false, changed;
	int rc;

	if (fs_disk_state(fs, FS_ADDR_DISK(b->addr)) == FS_DISK_GONE) /* it was empty when it was removed */
		return 0;
	rc = fs_io_check_addr(fs, b->addr, 1);
	if (!rc && !w->maps)
		rc = fs->record_void(fs, b->addr, last->version, &skip);
	if (rc || skip)
		return rc;
	rc = read_settled(fs, b->addr, data);
	if (!rc)
		rc = fs_replay_apply(w->replay, b, fs->super.fs_id, w->incarnation, data, &changed);
	if (rc == -ENODATA)
		return fs_gaps_add(w->gaps, b->addr, last->version, w->slot);
	if (rc == -EUCLEAN)
		ts_err("%s: disk %u block %llu cannot be rebuilt from the log", fs->super.name, FS_ADDR_DISK(b->addr),
		       (unsigned long long)FS_ADDR_SUB(b->addr));
	if (rc || !changed)
		return rc;
	w->written++;
	b->done_version = fs_mdhdr_version(data);
	return fs_io_write_meta(fs, b->addr, data, FS_SUB);
}

static int verify_block(struct work *w, struct fs_replay_block *b, uint8_t *data)
{
	int rc;

	if (!b->done_version)
		return 0;
	rc = read_settled(w->fs, b->addr, data);
	if (!rc && (fs_mdhdr_wrong(data, w->fs->super.fs_id, 0, b->addr) || fs_mdhdr_version(data) < b->done_version))
		w->wrong++;
	return rc;
}

static bool is_map(const struct work *w, const struct fs_replay_block *b)
{
	enum fs_block_type t = w->replay->recs[b->last - 1].rec.block_type;

	return t == FS_BT_BITMAP || t == FS_BT_CHUNKAUX || t == FS_BT_SEGTAB;
}

static void worker(void *arg)
{
	struct work *w = arg;
	uint8_t *data = ts_alloc_aligned(FS_SUB, FS_SUB);
	int rc = data ? 0 : -ENOMEM;

	while (!rc && !w->group.rc && w->next < w->n) {
		struct fs_replay_block *b = w->block[w->next++];

		w->fs->recovery.now.blocks_done++;
		if (!b->last || is_map(w, b) != w->maps)
			continue;
		rc = w->verify ? verify_block(w, b, data) : replay_block(w, b, data);
	}
	ts_free(data);
	ts_group_done(&w->group, rc);
}

static int run_pass(struct work *w, bool maps, bool verify)
{
	if (maps) { /* both passes walk all blocks */
		fs_rec_step(w->fs, verify ? FS_REC_VERIFY : FS_REC_REPLAY, w->node, w->incarnation);
		w->fs->recovery.now.blocks = 2 * w->n;
	}
	w->maps = maps;
	w->verify = verify;
	w->next = 0;
	ts_group_init(&w->group);
	for (unsigned i = 0; i < WORKERS; i++) {
		int rc;

		ts_group_add(&w->group);
		rc = ts_fiber_spawn(w->fs->exec, "replay", worker, w);
		if (rc)
			ts_group_done(&w->group, rc);
	}
	return ts_group_wait(&w->group, "replay");
}

static int collect(struct ts_map_node *n, void *arg)
{
	struct work *w = arg;

	w->block[w->n++] = TS_CONTAINER(n, struct fs_replay_block, node);
	return 0;
}

static int by_addr(const void *x, const void *y)
{
	const struct fs_replay_block *a = *(struct fs_replay_block *const *)x, *b = *(struct fs_replay_block *const *)y;

	return a->addr < b->addr ? -1 : a->addr > b->addr;
}

/* Maps first: whether a record is void is asked of the bitmap on disk. */
static int replay_home(struct fs *fs, struct fs_replay *r, const struct fs_loghead_disk *head, struct fs_gaps *gaps, size_t *written)
{
	struct work w = {.fs = fs, .replay = r, .node = le32_get(head->node), .incarnation = le64_get(head->incarnation), .gaps = gaps, .slot = le32_get(head->slot)};
	int rc = 0;

	w.block = ts_alloc(r->blocks.count * sizeof(struct fs_replay_block *));
	if (!w.block)
		return -ENOMEM;
	ts_map_each(&r->blocks, collect, &w);
	if (w.n)
		qsort(w.block, w.n, sizeof(struct fs_replay_block *), by_addr);
	for (unsigned i = 0; i < VERIFY_MAX && !rc; i++) {
		w.wrong = 0;
		rc = run_pass(&w, true, false);
		if (!rc)
			rc = run_pass(&w, false, false);
		if (!rc)
			rc = fs_io_flush_all(fs);
		if (rc || !fs_recover_settles(fs))
			break; /* offline: nobody can write late */
		fs_recover_settle(fs);
		rc = run_pass(&w, true, true);
		if (!rc)
			rc = run_pass(&w, false, true);
		if (rc || !w.wrong)
			break;
		if (i == VERIFY_MAX - 1)
			rc = -EIO;
		ts_warn("%s: %zu replayed blocks were overwritten by late writes of a fenced node: replaying again", fs->super.name, w.wrong);
	}
	*written = w.written;
	ts_free(w.block);
	return rc;
}

/* ---- intents ------------------------------------------------------------------------------------------------------ */

/* Did the node that sealed this log before us already adopt its intents? Its own log says so, and stays until this slot is
 * closed: whoever recovers takes this slot first (recover_all.c). */
static int find_marker(struct fs *fs, const struct fs_loghead_disk *dead, bool *found)
{
	uint64_t sealer = le64_get(dead->sealed_by);

	*found = fs->adopted_slot == le32_get(dead->slot) && fs->adopted_incarnation == le64_get(dead->incarnation) &&
		 fs->adopted_incarnation;
	for (uint32_t i = 0; i < le32_get(fs->super.nslots) && !*found && sealer != fs->incarnation; i++) {
		struct fs_loghead_disk h;
		struct fs_logread *l;
		int rc = fs_loghead_read(fs, i, &h);

		if (rc)
			return rc;
		if (le64_get(h.incarnation) != sealer || (le32_get(h.state) != FS_LOG_ACTIVE && le32_get(h.state) != FS_LOG_SEALED))
			continue;
		rc = fs_logread_open(fs, &h, le32_get(h.state) == FS_LOG_SEALED ? le64_get(h.seal_lsn) : 0, &l);
		if (rc)
			return rc;
		*found = fs_replay_has_adopted(l->replay, le32_get(dead->slot), le64_get(dead->incarnation));
		fs_logread_close(l);
	}
	return 0;
}

struct adopt {
	struct fs_tx tx;
};
static int adopt_one(struct ts_map_node *n, void *arg)
{
	const struct fs_replay_intent *it = TS_CONTAINER(n, struct fs_replay_intent, node);
	struct adopt *a = arg;

	fs_tx_intent(&a->tx, it->type, it->subs, it->a, it->b);
	return 0;
}

/* All of them and the marker in one transaction of our own log. 1: too many for that, they stay where they are. */
static int adopt(struct fs *fs, const struct fs_loghead_disk *dead, struct fs_replay *r)
{
	struct adopt a;
	size_t bytes = (r->intents.count + 1) * FS_REC_INTENT_BYTES;
	int rc;

	if (!r->intents.count)
		return 0;
	if (bytes > fs->log->frame_max / 2)
		return 1;
	rc = fs_log_reserve_reaper(fs, bytes);
	if (rc)
		return rc;
	fs->log->hold_lsn = TS_MIN(fs->log->hold_lsn, fs_log_begin_of_next(fs->log)); /* the marker outlives this recovery */
	fs_tx_begin(fs, &a.tx);
	ts_map_each(&r->intents, adopt_one, &a);
	fs_tx_adopted(&a.tx, le32_get(dead->slot), le64_get(dead->incarnation));
	fs_tx_commit(&a.tx);
	fs->adopted_slot = le32_get(dead->slot);
	fs->adopted_incarnation = le64_get(dead->incarnation);
	return fs_log_force(fs, a.tx.lsn);
}

/* ---- one slot ----------------------------------------------------------------------------------------------------- */

static int seal(struct fs *fs, struct fs_loghead_disk *head, uint64_t end)
{
	head->state = le32_make(FS_LOG_SEALED);
	head->seal_lsn = le64_make(end);
	head->sealed_by = le64_make(fs->incarnation);
	return fs_loghead_write(fs, le32_get(head->slot), head);
}

static int recover_open(struct fs *fs, struct fs_loghead_disk *head, struct fs_logread *l, struct fs_gaps *gaps)
{
	bool sealed = le32_get(head->state) == FS_LOG_SEALED, adopted = false;
	size_t written = 0;
	int rc = 0, keep = 0;

	fs_version_raise(fs, TS_MAX(le64_get(head->lamport), l->replay->max_version));
	if (sealed)
		rc = find_marker(fs, head, &adopted);
	if (!rc && !adopted && (!sealed || le64_get(head->sealed_by) != fs->incarnation))
		rc = seal(fs, head, l->replay->end);
	if (!rc)
		rc = replay_home(fs, l->replay, head, gaps, &written);
	fs_rec_step(fs, FS_REC_ADOPT, le32_get(head->node), le64_get(head->incarnation));
	if (!rc && !adopted)
		rc = keep = fs->log ? adopt(fs, head, l->replay) : 1;
	if (rc < 0)
		return rc;
	ts_notice("%s: log slot %u of node %u: %zu records, %zu blocks written home, %zu intents %s", fs->super.name,
		  le32_get(head->slot), le32_get(head->node), l->replay->nrecs, written, l->replay->intents.count,
		  adopted ? "adopted before" : keep ? "kept in it" : "adopted");
	fs_rec_step(fs, FS_REC_CLOSE, le32_get(head->node), le64_get(head->incarnation));
	fs_rec_logged(fs, le32_get(head->slot), le32_get(head->node), le64_get(head->incarnation), l->replay->nrecs, written,
		      l->replay->intents.count);
	head->state = le32_make(FS_LOG_CLEAN);
	if (!keep || !l->replay->intents.count)
		head->tail_lsn = head->seal_lsn;
	rc = fs_loghead_write(fs, le32_get(head->slot), head);
	if (!rc && fs->log)
		fs->log->hold_lsn = UINT64_MAX;
	return rc;
}

int fs_recover_slot(struct fs *fs, uint32_t slot, unsigned node, uint64_t incarnation, struct fs_gaps *gaps)
{
	struct fs_loghead_disk head;
	struct fs_logread *l;
	uint32_t state;
	int rc;

	if (slot >= le32_get(fs->super.nslots))
		return 0; /* it never had one */
	rc = fs_loghead_read(fs, slot, &head);
	if (rc)
		return rc;
	state = le32_get(head.state);
	if ((state != FS_LOG_ACTIVE && state != FS_LOG_SEALED) || le64_get(head.incarnation) != incarnation ||
	    le32_get(head.node) != node)
		return 0; /* nothing was logged, or all of it is home */
	TS_ASSERT(!fs->log || slot != fs->slot);
	fs_rec_step(fs, FS_REC_SEAL, node, incarnation);
	rc = fs_logread_open(fs, &head, state == FS_LOG_SEALED ? le64_get(head.seal_lsn) : 0, &l);
	if (rc) {
		ts_err("%s: log slot %u cannot be read (error %d)", fs->super.name, slot, rc);
		return rc;
	}
	rc = recover_open(fs, &head, l, gaps);
	fs_logread_close(l);
	return rc;
}

int fs_slot_state(struct fs *fs, uint32_t slot, enum fs_log_state *state, unsigned *node, uint64_t *incarnation)
{
	struct fs_loghead_disk h;
	int rc = fs_loghead_read(fs, slot, &h);

	if (rc)
		return rc;
	*state = (enum fs_log_state)le32_get(h.state);
	*node = le32_get(h.node);
	*incarnation = le64_get(h.incarnation);
	return 0;
}
