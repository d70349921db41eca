/* SPDX-License-Identifier: Apache-2.0 */
/* Job: free inodes, ready at once. A node allocates from segments whose TOK_SEGMENT it holds.
 *
 * A slot is READY when its inode's block is known to be free: either this node holds INODE EX of it (and learns when
 * that leaves: fs_ialloc_inode_lost), or the segment was made by this node and the inode was never used. Everything else
 * that looked free is a candidate until its block was read under INODE EX.
 * What must never happen: an inode in use given out (a scan without its token proves nothing: the former owner of the
 * segment may have it in use, not yet at home), or inode 0. */
#include "fs/alloc_int.h"

#define READY_LOW  64u
#define READY_GOAL 256u
#define TAKE_TRIES 16u
#define FREED_MIN  128u /* so many inodes freed in another's segment make its hint worth a change */
#define FULL_NS	   (500 * TS_NS_PER_MS)
#define OWNED_MAX  8u /* segments that turned out to be owned by others, per look */

static uint64_t slot_ino(const struct fs_seg *s, unsigned i)
{
	return (s->id << FS_SEG_SHIFT) + i;
}

struct fs_seg *fs_seg_find(struct fs *fs, uint64_t id)
{
	for (struct ts_map_node *n = ts_map_first(&fs->ialloc->map, ts_hash_u64(id)); n; n = ts_map_next(n)) {
		struct fs_seg *s = TS_CONTAINER(n, struct fs_seg, node);

		if (s->id == id)
			return s;
	}
	return NULL;
}

void fs_slot_set(struct fs *fs, struct fs_seg *s, unsigned i, enum fs_slot_state to, bool front)
{
	struct fs_ialloc *ia = fs->ialloc;
	struct fs_ino_slot *p = &s->slot[i];
	struct ts_list *head = to == FS_SLOT_READY ? &ia->ready : &ia->pending;

	ia->nready -= p->state == FS_SLOT_READY;
	ia->npending -= p->state == FS_SLOT_PENDING;
	s->count[p->state]--;
	if (p->state == FS_SLOT_READY || p->state == FS_SLOT_PENDING)
		ts_list_del(&p->link);
	p->state = (uint8_t)to;
	s->count[to]++;
	ia->nready += to == FS_SLOT_READY;
	ia->npending += to == FS_SLOT_PENDING;
	if (to != FS_SLOT_READY && to != FS_SLOT_PENDING)
		return;
	if (front)
		ts_list_push_front(head, &p->link);
	else
		ts_list_push_back(head, &p->link);
}

static struct fs_seg *slot_seg(struct fs *fs, uint64_t ino, unsigned *i)
{
	*i = (unsigned)(ino & (FS_SEG_INODES - 1));
	return fs_seg_find(fs, ino >> FS_SEG_SHIFT);
}

/* The segment and index of a slot found in a list. */
static struct fs_seg *slot_owner(struct fs *fs, struct fs_ino_slot *p, unsigned *i)
{
	ts_list_for(l, &fs->ialloc->segs)
	{
		struct fs_seg *s = ts_list_entry(l, struct fs_seg, link);

		if (p >= s->slot && p < s->slot + FS_SEG_INODES) {
			*i = (unsigned)(p - s->slot);
			return s;
		}
	}
	TS_PANIC("a free inode belongs to no segment");
}

struct fs_seg *fs_seg_add(struct fs *fs, uint64_t id, fs_addr a)
{
	struct fs_ialloc *ia = fs->ialloc;
	struct fs_seg *s;

	if (ia->nsegs >= FS_SEG_MAX_OWNED) { /* one with nothing to give goes; its token stays cached */
		struct fs_seg *victim = NULL;

		ts_list_for(l, &ia->segs)
		{
			struct fs_seg *v = ts_list_entry(l, struct fs_seg, link);

			if (!v->busy && v->count[FS_SLOT_NONE] == FS_SEG_INODES)
				victim = v;
		}
		if (!victim)
			return NULL;
		fs_seg_drop(fs, victim);
	}
	s = ts_alloc(sizeof(*s));
	if (!s)
		return NULL;
	s->id = id;
	s->addr = a;
	s->count[FS_SLOT_NONE] = FS_SEG_INODES;
	if (ts_map_insert(&ia->map, &s->node, ts_hash_u64(id))) {
		ts_free(s);
		return NULL;
	}
	ts_list_push_front(&ia->segs, &s->link);
	ia->nsegs++;
	return s;
}

void fs_seg_drop(struct fs *fs, struct fs_seg *s)
{
	for (unsigned i = 0; i < FS_SEG_INODES; i++)
		fs_slot_set(fs, s, i, FS_SLOT_NONE, false);
	ts_map_remove(&fs->ialloc->map, &s->node);
	ts_list_del(&s->link);
	fs->ialloc->nsegs--;
	s->dead = true;
	if (!s->busy)
		ts_free(s);
}

void fs_seg_done(struct fs *fs, struct fs_seg *s)
{
	if (--s->busy == 0 && s->dead)
		ts_free(s);
}

/* ---- taking --------------------------------------------------------------------------------------------------------- */
static void promote_pending(struct fs *fs)
{
	struct fs_ialloc *ia = fs->ialloc;

	while (!ts_list_empty(&ia->pending)) {
		struct fs_ino_slot *p = ts_list_entry(ia->pending.next, struct fs_ino_slot, link);
		struct fs_seg *s;
		unsigned i;

		if (p->lsn > fs_log_stable(fs))
			return;
		s = slot_owner(fs, p, &i);
		fs_slot_set(fs, s, i, FS_SLOT_READY, true); /* its block is in memory: used again first */
	}
}

static void wake_filler(struct fs *fs)
{
	fs->ialloc->kicked = true;
	ts_cond_signal(&fs->ialloc->wake);
}

/* The block of a ready slot, pinned, without reading. -ESTALE: it is not free after all. */
static int slot_buf(struct fs *fs, struct fs_seg *s, unsigned i, struct fs_buf **out)
{
	fs_addr a = s->addr + i;
	struct fs_buf *b = fs_buf_peek(fs, a);

	if (b) {
		const struct fs_inode_disk *d = (const struct fs_inode_disk *)b->data;

		if (b->res_kind == TOK_INODE && b->res_id == slot_ino(s, i) && d->h.type == FS_BT_INODE && !le16_get(d->mode) &&
		    le32_get(d->h.res_gen) == s->slot[i].gen) {
			*out = b;
			return 0;
		}
		fs_buf_put(fs, b);
		return -ESTALE;
	}
	return fs_buf_new(fs, a, FS_BT_INODE, TOK_INODE, slot_ino(s, i), s->slot[i].gen, out);
}

int fs_ialloc_take(struct fs *fs, uint64_t *ino, struct tok_pin *pin, struct fs_buf **buf, uint32_t *next_gen)
{
	struct fs_ialloc *ia = fs->ialloc;

	promote_pending(fs);
	if (ia->nready < READY_LOW)
		wake_filler(fs);
	for (unsigned tries = 0; tries < TAKE_TRIES && ia->nready; tries++) {
		struct fs_ino_slot *p = ts_list_entry(ia->ready.next, struct fs_ino_slot, link);
		unsigned i;
		struct fs_seg *s = slot_owner(fs, p, &i);
		int rc = tok_pin(fs->tok, TOK_INODE, slot_ino(s, i), TOK_EX, 0, TOK_END, TOK_TRY, pin);

		if (rc == -TS_ERR_WOULD_WAIT || rc == -EAGAIN) { /* somebody looks at it just now */
			ts_list_del(&p->link);
			ts_list_push_back(&ia->ready, &p->link);
			continue;
		}
		if (rc)
			return rc;
		rc = slot_buf(fs, s, i, buf);
		if (rc) {
			tok_unpin(fs->tok, pin);
			if (rc != -ESTALE)
				return rc;
			fs_slot_set(fs, s, i, FS_SLOT_NONE, false);
			continue;
		}
		*ino = slot_ino(s, i);
		*next_gen = p->gen == UINT32_MAX ? 1 : p->gen + 1;
		fs_slot_set(fs, s, i, FS_SLOT_NONE, false);
		return 0;
	}
	return -FS_NEED_INODE;
}

void fs_ialloc_untake(struct fs *fs, uint64_t ino, struct tok_pin *pin, struct fs_buf *buf)
{
	unsigned i;
	struct fs_seg *s = slot_seg(fs, ino, &i);

	if (s && s->slot[i].state == FS_SLOT_NONE)
		fs_slot_set(fs, s, i, FS_SLOT_READY, true);
	fs_buf_put(fs, buf);
	tok_unpin(fs->tok, pin);
}

/* ---- freed inodes ------------------------------------------------------------------------------------------------- */
static void count_foreign(struct fs *fs, uint64_t seg)
{
	unsigned at = (unsigned)(ts_hash_u64(seg) % FS_FREED_SLOTS);
	struct fs_ialloc *ia = fs->ialloc;

	if (ia->freed[at].seg != seg || !ia->freed[at].count) {
		ia->freed[at].seg = seg; /* who was here before is found when all segments are searched */
		ia->freed[at].count = 0;
	}
	if (++ia->freed[at].count == FREED_MIN)
		wake_filler(fs);
}

void fs_ialloc_freed(struct fs *fs, uint64_t ino)
{
	uint64_t seg = ino >> FS_SEG_SHIFT;
	struct fs_buf *b;
	fs_addr a;
	unsigned i;
	struct fs_seg *s = slot_seg(fs, ino, &i);

	if (!s && !tok_cached(fs->tok, TOK_SEGMENT, seg, TOK_EX)) {
		count_foreign(fs, seg);
		return;
	}
	if (fs_ino_addr(fs, ino, &a)) /* cached: the inode was just used */
		return;
	if (!s)
		s = fs_seg_add(fs, seg, a - i);
	b = s ? fs_buf_peek(fs, a) : NULL;
	if (!b) {
		count_foreign(fs, seg);
		return;
	}
	if (s->slot[i].state == FS_SLOT_NONE || s->slot[i].state == FS_SLOT_CAND) {
		s->slot[i].gen = le32_get(((const struct fs_mhdr_disk *)b->data)->res_gen);
		s->slot[i].lsn = fs_log_head(fs);
		s->told_full = false;
		fs_slot_set(fs, s, i, FS_SLOT_PENDING, false);
	}
	fs_buf_put(fs, b);
}

void fs_ialloc_inode_lost(struct fs *fs, uint64_t ino)
{
	unsigned i;
	struct fs_seg *s = fs->ialloc ? slot_seg(fs, ino, &i) : NULL;

	/* A fresh one, too: whoever has the token now cannot use it, but its block is read again to be sure. */
	if (s && (s->slot[i].state == FS_SLOT_READY || s->slot[i].state == FS_SLOT_PENDING))
		fs_slot_set(fs, s, i, FS_SLOT_CAND, false);
}

int fs_ialloc_revoke_segment(struct fs *fs, uint64_t seg)
{
	struct fs_seg *s = fs_seg_find(fs, seg);

	if (s)
		fs_seg_drop(fs, s);
	return 0;
}

/* ---- refill --------------------------------------------------------------------------------------------------------- */
/* Looks through one block of the segment table for segments that nobody owns and that have room. */
static int claim_from_block(struct fs *fs, uint64_t blk, uint32_t used_below, unsigned flags)
{
	struct fs_segtab_disk *t = ts_alloc(sizeof(*t));
	int rc = t ? fs_segtab_glance(fs, blk, t) : -ENOMEM;
	unsigned owned = 0;

	for (unsigned k = 0; k < FS_SEGS_PER_BLOCK && !rc && owned < OWNED_MAX; k++) {
		uint64_t seg = blk * FS_SEGS_PER_BLOCK + k;
		uint32_t used = le32_get(t->s[k].used_hint);

		if (seg >= le64_get(fs->super.nsegments) || !le64_get(t->s[k].addr[0]) || used >= used_below ||
		    fs_seg_find(fs, seg))
			continue;
		rc = fs_seg_claim(fs, seg, used, flags);
		if (rc == -EAGAIN) { /* owned */
			owned += used_below <= FS_SEG_INODES; /* all are tried when there is no other way */
			rc = 0;
		} else if (rc > 0) {
			rc = fs_seg_prefill(fs, READY_GOAL);
		}
	}
	ts_free(t);
	return rc == -EAGAIN ? 0 : rc;
}

static int claim_any(struct fs *fs, uint64_t nblocks, uint32_t used_below, unsigned flags)
{
	uint64_t all = fs_segtab_blocks(fs);

	for (uint64_t k = 0; k < TS_MIN(nblocks, all); k++) {
		int rc = claim_from_block(fs, (fs->ialloc->tab_cursor + k) % all, used_below, flags);

		if (rc)
			return rc;
	}
	return 0;
}

static int refill_locked(struct fs *fs)
{
	struct fs_ialloc *ia = fs->ialloc;
	int rc = fs_seg_prefill(fs, READY_GOAL);

	if (rc == 0)
		rc = claim_any(fs, 2, FS_SEG_INODES - 64, TOK_QUICK);
	if (rc == 0 && ts_exec_now(fs->exec) >= ia->full_until) {
		rc = fs_seg_make(fs);
		if (rc == 0)
			return 0;
		if (rc != -ENOSPC)
			return rc;
		ia->full_until = ts_exec_now(fs->exec) + FULL_NS;
		/* No room for new ones: whatever is free anywhere, hints or not; then what other nodes keep for themselves. */
		rc = claim_any(fs, UINT64_MAX, UINT32_MAX, TOK_QUICK);
		if (rc == 0)
			rc = claim_any(fs, UINT64_MAX, FS_SEG_INODES - 64, 0);
	}
	if (rc < 0)
		return rc;
	return rc > 0 ? 0 : -ENOSPC;
}

int fs_ialloc_refill(struct fs *fs)
{
	int rc = 0;

	ts_mutex_lock(&fs->ialloc->lock, "inode refill");
	promote_pending(fs);
	if (!fs->ialloc->nready && fs->ialloc->npending) { /* they only wait for the log */
		rc = fs_log_force(fs, fs_log_head(fs));
		if (!rc)
			promote_pending(fs);
	}
	if (!rc && fs->ialloc->nready < READY_LOW)
		rc = refill_locked(fs);
	if (rc == -ENOSPC && fs->ialloc->nready)
		rc = 0;
	ts_mutex_unlock(&fs->ialloc->lock);
	return rc;
}

/* A take found inodes ready but none of their tokens free at once (no grants while a node's recovery is pending, or another
 * node looks at them): waits for one. No pins may be held. */
int fs_ialloc_await(struct fs *fs)
{
	struct tok_pin pin = {0};
	struct fs_seg *s;
	unsigned i;
	int rc;

	if (!fs->ialloc->nready)
		return 0;
	s = slot_owner(fs, ts_list_entry(fs->ialloc->ready.next, struct fs_ino_slot, link), &i);
	rc = tok_pin(fs->tok, TOK_INODE, slot_ino(s, i), TOK_EX, 0, TOK_END, 0, &pin);
	tok_unpin(fs->tok, &pin); /* stays cached */
	return rc;
}

/* Owned segments without a free inode say so in the table; claims by others skip them then. */
static bool settle_full(struct fs *fs)
{
	ts_list_for(l, &fs->ialloc->segs)
	{
		struct fs_seg *s = ts_list_entry(l, struct fs_seg, link);
		int rc;

		if (s->told_full || s->busy || s->count[FS_SLOT_NONE] < FS_SEG_INODES)
			continue;
		s->told_full = true;
		s->busy++;
		rc = fs_segtab_hint_set(fs, s->id, FS_SEG_INODES, false);
		fs_seg_done(fs, s);
		return rc == 0; /* the list may have changed: again */
	}
	return false;
}

static void settle_hints(struct fs *fs)
{
	while (settle_full(fs))
		;
	for (unsigned i = 0; i < FS_FREED_SLOTS; i++) {
		uint32_t n = fs->ialloc->freed[i].count;

		if (n < FREED_MIN)
			continue;
		fs->ialloc->freed[i].count = 0;
		if (fs_segtab_hint_set(fs, fs->ialloc->freed[i].seg, n, true))
			return; /* only a hint */
	}
}

void fs_ialloc_fiber(void *arg)
{
	struct fs *fs = arg;
	struct fs_ialloc *ia = fs->ialloc;

	while (!fs->stopping_threads && fs->run != FS_RUN_STOPPED) {
		if (!ia->kicked)
			(void)ts_cond_wait_until(&ia->wake, ts_exec_now(fs->exec) + 10 * TS_NS_PER_S, "inodes to be made ready", 0, 0);
		if (!ia->kicked || fs->stopping_threads || fs->run == FS_RUN_STOPPED)
			continue;
		ia->kicked = false;
		if (ia->nready < READY_LOW && ts_exec_now(fs->exec) >= ia->full_until && fs_ialloc_refill(fs))
			continue; /* met again, and reported, by whoever needs an inode */
		settle_hints(fs);
	}
	ts_group_done(&fs->background, 0);
}

int fs_ialloc_init(struct fs *fs)
{
	struct fs_ialloc *ia;
	int rc = fs_segtab_init(fs);

	if (rc)
		return rc;
	ia = ts_alloc(sizeof(*ia));
	if (!ia) {
		fs_segtab_fini(fs);
		return -ENOMEM;
	}
	ts_map_init(&ia->map);
	ts_list_init(&ia->segs);
	ts_list_init(&ia->ready);
	ts_list_init(&ia->pending);
	ts_mutex_init(&ia->lock);
	ts_cond_init(&ia->wake);
	/* Nodes begin in different table blocks: making segments needs no token of another node then. */
	ia->tab_cursor = (uint64_t)fs->self * 7919 % fs_segtab_blocks(fs);
	fs->ialloc = ia;
	return 0;
}

void fs_ialloc_fini(struct fs *fs)
{
	struct fs_ialloc *ia = fs->ialloc;

	if (ia) {
		ts_list_for_safe(l, tmp, &ia->segs)
		{
			struct fs_seg *s = ts_list_entry(l, struct fs_seg, link);

			s->busy = 0; /* the executor was killed under them */
			fs_seg_drop(fs, s);
		}
		ts_map_fini(&ia->map);
		ts_free(ia);
		fs->ialloc = NULL;
	}
	fs_segtab_fini(fs);
}
