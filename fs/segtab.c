/* SPDX-License-Identifier: Apache-2.0 */
/* Job: where the 512 inodes of a segment lie. A segment, once made, stays where it is for ever: an address that was seen
 * once is true, also when it was read without a token. Only "not made yet" needs the token, and is never cached.
 * What must never happen: an address from disk believed without bounds; a cached absence. */
#include "fs/alloc_int.h"

#define CACHE_MAX 16384u /* table blocks: 126 segments, 64,512 inodes each */

struct tab {
	struct ts_map_node node;
	struct ts_list lru;
	uint64_t blk;
	fs_addr addr[FS_SEGS_PER_BLOCK];
};
struct fs_segtab {
	struct ts_map map;
	struct ts_list lru;
	unsigned n;
};

uint64_t fs_segtab_blocks(const struct fs *fs)
{
	uint64_t n = le64_get(fs->super.nsegments);

	return n / FS_SEGS_PER_BLOCK + !!(n % FS_SEGS_PER_BLOCK);
}

int fs_segtab_block_addr(struct fs *fs, uint64_t blk, fs_addr *out)
{
	unsigned n = TS_MIN(le32_get(fs->super.nsegtab_ext), (uint32_t)FS_SEGTAB_EXTENTS);

	for (unsigned i = 0; i < n; i++) {
		const struct fs_segtab_ext_disk *e = &fs->super.segtab[i];
		uint64_t first = le64_get(e->first_block);

		if (blk < first || blk - first >= le64_get(e->nblocks))
			continue;
		*out = le64_get(e->addr[0]) + (blk - first);
		return fs_io_check_addr(fs, *out, 1);
	}
	return -EUCLEAN;
}

static struct tab *tab_find(struct fs_segtab *s, uint64_t blk)
{
	for (struct ts_map_node *n = ts_map_first(&s->map, ts_hash_u64(blk)); n; n = ts_map_next(n)) {
		struct tab *t = TS_CONTAINER(n, struct tab, node);

		if (t->blk == blk)
			return t;
	}
	return NULL;
}

static void tab_drop(struct fs_segtab *s, struct tab *t)
{
	ts_map_remove(&s->map, &t->node);
	ts_list_del(&t->lru);
	s->n--;
	ts_free(t);
}

static struct tab *tab_get(struct fs_segtab *s, uint64_t blk)
{
	struct tab *t = tab_find(s, blk);

	if (t)
		return t;
	if (s->n >= CACHE_MAX)
		tab_drop(s, ts_list_entry(s->lru.prev, struct tab, lru));
	t = ts_alloc(sizeof(*t));
	if (!t)
		return NULL;
	t->blk = blk;
	if (ts_map_insert(&s->map, &t->node, ts_hash_u64(blk))) {
		ts_free(t);
		return NULL;
	}
	ts_list_push_front(&s->lru, &t->lru);
	s->n++;
	return t;
}

void fs_segtab_note(struct fs *fs, uint64_t seg, fs_addr a)
{
	struct tab *t = tab_get(fs->segtab, seg / FS_SEGS_PER_BLOCK);

	if (t) /* without memory it is read again */
		t->addr[seg % FS_SEGS_PER_BLOCK] = a;
}

static fs_addr entry_addr(struct fs *fs, uint64_t seg, const struct fs_segtab_disk *d)
{
	fs_addr a = le64_get(d->s[seg % FS_SEGS_PER_BLOCK].addr[0]);

	if (a && fs_io_check_addr(fs, a, FS_SEG_INODES)) {
		ts_err("fs %s: segment %llu: address %#llx is on no disk; its inodes cannot be used, run fsck", fs->super.name,
		       (unsigned long long)seg, (unsigned long long)a);
		return 0;
	}
	return a;
}

int fs_segtab_glance(struct fs *fs, uint64_t blk, struct fs_segtab_disk *copy)
{
	struct fs_buf *b;
	void *raw;
	fs_addr a;
	int rc = fs_segtab_block_addr(fs, blk, &a);

	if (rc)
		return rc;
	b = fs_buf_peek(fs, a);
	if (b) {
		memcpy(copy, b->data, FS_SUB);
		fs_buf_put(fs, b);
		return 0;
	}
	raw = ts_alloc_aligned(FS_SUB, FS_SUB);
	if (!raw)
		return -ENOMEM;
	rc = fs_io_read(fs, a, raw, FS_SUB);
	if (!rc && fs_mdhdr_wrong(raw, fs->super.fs_id, FS_BT_SEGTAB, a))
		rc = -EAGAIN; /* perhaps caught half written */
	if (!rc)
		memcpy(copy, raw, FS_SUB);
	ts_free(raw);
	return rc;
}

static int look_pinned(struct fs *fs, uint64_t seg, fs_addr *out)
{
	struct tok_pin pin = {0};
	struct fs_buf *b;
	uint64_t blk = seg / FS_SEGS_PER_BLOCK;
	fs_addr at;
	int rc = fs_segtab_block_addr(fs, blk, &at);

	if (!rc)
		rc = tok_pin(fs->tok, TOK_SEGTAB, blk, TOK_SH, 0, TOK_END, 0, &pin);
	if (rc)
		return rc;
	rc = fs_buf_get(fs, at, FS_BT_SEGTAB, TOK_SEGTAB, blk, &b);
	if (!rc) {
		*out = entry_addr(fs, seg, (const struct fs_segtab_disk *)b->data);
		fs_buf_put(fs, b);
	}
	tok_unpin(fs->tok, &pin);
	return rc;
}

static int look(struct fs *fs, uint64_t seg, fs_addr *out)
{
	struct fs_segtab_disk *copy = ts_alloc(sizeof(*copy));
	int rc;

	*out = 0;
	if (!copy)
		return -ENOMEM;
	rc = fs_segtab_glance(fs, seg / FS_SEGS_PER_BLOCK, copy);
	if (!rc)
		*out = entry_addr(fs, seg, copy);
	ts_free(copy);
	if (rc && rc != -EAGAIN)
		return rc;
	/* Waiting for this token under others is harmless: whoever holds it EX waits for disks and his own log only. */
	return *out ? 0 : look_pinned(fs, seg, out);
}

int fs_ino_addr(struct fs *fs, uint64_t ino, fs_addr *out)
{
	uint64_t seg = ino >> FS_SEG_SHIFT;
	struct tab *t;
	fs_addr a = 0;
	int rc;

	if (!ino || ino >= FS_MAX_INO || seg >= le64_get(fs->super.nsegments))
		return -ESTALE;
	t = tab_find(fs->segtab, seg / FS_SEGS_PER_BLOCK);
	if (t && t->addr[seg % FS_SEGS_PER_BLOCK]) {
		a = t->addr[seg % FS_SEGS_PER_BLOCK];
	} else {
		rc = look(fs, seg, &a);
		if (rc)
			return rc;
		if (!a)
			return -ESTALE;
		fs_segtab_note(fs, seg, a);
	}
	*out = a + (ino & (FS_SEG_INODES - 1));
	return 0;
}

int fs_segtab_hint_set(struct fs *fs, uint64_t seg, uint32_t used, bool relative)
{
	struct tok_pin pin = {0};
	struct fs_seg_ent_disk *e;
	struct fs_tx tx;
	struct fs_buf *b = NULL;
	fs_addr at;
	uint64_t blk = seg / FS_SEGS_PER_BLOCK;
	int rc = fs_segtab_block_addr(fs, blk, &at);

	if (!rc)
		rc = tok_pin(fs->tok, TOK_SEGTAB, blk, TOK_EX, 0, TOK_END, 0, &pin);
	if (rc)
		return rc;
	rc = fs_buf_get(fs, at, FS_BT_SEGTAB, TOK_SEGTAB, blk, &b);
	if (!rc)
		rc = fs_log_reserve(fs, 2 * FS_SUB);
	if (!rc) {
		uint32_t old;

		e = &((struct fs_segtab_disk *)b->data)->s[seg % FS_SEGS_PER_BLOCK];
		old = TS_MIN(le32_get(e->used_hint), FS_SEG_INODES);
		if (relative)
			used = old - TS_MIN(used, old);
		if (used != old) {
			fs_tx_begin(fs, &tx);
			fs_tx_buf(&tx, b);
			e->used_hint = le32_make(used);
			fs_tx_commit(&tx);
		}
	}
	if (b)
		fs_buf_put(fs, b);
	tok_unpin(fs->tok, &pin);
	return rc;
}

int fs_segtab_refresh(struct fs *fs, uint64_t blk)
{
	fs_addr a;

	return look_pinned(fs, blk * FS_SEGS_PER_BLOCK, &a);
}

int fs_segtab_revoke(struct fs *fs, uint64_t block, bool drop)
{
	return fs_buf_clean_resource(fs, TOK_SEGTAB, block, drop);
}

int fs_segtab_init(struct fs *fs)
{
	struct fs_segtab *s = ts_alloc(sizeof(*s));

	if (!s)
		return -ENOMEM;
	if (!le64_get(fs->super.nsegments) || le64_get(fs->super.nsegments) > FS_MAX_INO >> FS_SEG_SHIFT) {
		ts_free(s);
		return -EUCLEAN;
	}
	ts_map_init(&s->map);
	ts_list_init(&s->lru);
	fs->segtab = s;
	return 0;
}

void fs_segtab_fini(struct fs *fs)
{
	struct fs_segtab *s = fs->segtab;

	if (!s)
		return;
	while (!ts_list_empty(&s->lru))
		tab_drop(s, ts_list_entry(s->lru.next, struct tab, lru));
	ts_map_fini(&s->map);
	ts_free(s);
	fs->segtab = NULL;
}
