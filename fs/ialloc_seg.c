/* SPDX-License-Identifier: Apache-2.0 */
/* Job: segments of inodes: make a new one, claim one that nobody owns, turn candidates into ready inodes.
 * What must never happen: the table points to blocks that were not written as free inodes before (an inode of an
 * earlier life would come back), or two nodes allocate from one segment. */
#include "fs/alloc_int.h"

#define PIECE 64u /* inodes read or written at once: 256 KiB */

/* ---- candidates ------------------------------------------------------------------------------------------------- */
/* 1: free, and this node holds INODE EX (cached after the pin goes); 0: not; or -errno. */
static int probe_pinned(struct fs *fs, struct fs_seg *s, unsigned i)
{
	struct fs_buf *b;
	uint64_t ino = (s->id << FS_SEG_SHIFT) + i;
	int rc = fs_buf_get(fs, s->addr + i, FS_BT_INODE, TOK_INODE, ino, &b);

	if (rc == -EUCLEAN)
		return 0;
	if (rc)
		return rc;
	if (!s->dead && s->slot[i].state == FS_SLOT_CAND && !le16_get(((struct fs_inode_disk *)b->data)->mode)) {
		s->slot[i].gen = le32_get(((struct fs_mhdr_disk *)b->data)->res_gen);
		fs_slot_set(fs, s, i, FS_SLOT_READY, false);
		rc = 1;
	}
	fs_buf_put(fs, b);
	return rc;
}

static int probe(struct fs *fs, struct fs_seg *s, unsigned i)
{
	struct tok_pin pin = {0};
	uint64_t ino = (s->id << FS_SEG_SHIFT) + i;
	int rc = tok_pin(fs->tok, TOK_INODE, ino, TOK_EX, 0, TOK_END, TOK_QUICK, &pin);

	if (!rc) {
		rc = probe_pinned(fs, s, i);
		tok_unpin(fs->tok, &pin);
	}
	if (rc == 0 || rc == -EAGAIN) { /* in use: found again when the segment is scanned again */
		if (!s->dead && s->slot[i].state == FS_SLOT_CAND)
			fs_slot_set(fs, s, i, FS_SLOT_NONE, false);
		rc = 0;
	}
	return rc;
}

static int prefill_seg(struct fs *fs, struct fs_seg *s, unsigned want)
{
	int got = 0, rc = 0;

	s->busy++;
	for (unsigned i = 0; i < FS_SEG_INODES && !s->dead && s->count[FS_SLOT_CAND] && fs->ialloc->nready < want; i++) {
		if (s->slot[i].state != FS_SLOT_CAND)
			continue;
		rc = probe(fs, s, i);
		if (rc < 0)
			break;
		got += rc;
	}
	fs_seg_done(fs, s);
	return rc < 0 ? rc : got;
}

int fs_seg_prefill(struct fs *fs, unsigned want)
{
	struct fs_ialloc *ia = fs->ialloc;
	int got = 0;

	while (ia->nready < want) {
		struct fs_seg *s = NULL;
		int rc;

		ts_list_for(l, &ia->segs)
		{
			struct fs_seg *c = ts_list_entry(l, struct fs_seg, link);

			if (c->count[FS_SLOT_CAND]) {
				s = c;
				break;
			}
		}
		if (!s)
			break;
		rc = prefill_seg(fs, s, want);
		if (rc < 0)
			return rc;
		got += rc;
	}
	return got;
}

/* ---- claiming --------------------------------------------------------------------------------------------------- */
static unsigned scan_piece(struct fs *fs, struct fs_seg *s, unsigned first, const uint8_t *p)
{
	unsigned found = 0;

	for (unsigned i = first; i < first + PIECE; i++, p += FS_SUB) {
		const struct fs_inode_disk *d = (const struct fs_inode_disk *)p;

		if (s->id == 0 && i <= FS_ROOT_INO)
			continue; /* 0 is no inode, 1 is the root */
		if (fs_mdhdr_wrong(p, fs->super.fs_id, FS_BT_INODE, s->addr + i) || le16_get(d->mode))
			continue;
		if (s->slot[i].state == FS_SLOT_NONE) {
			fs_slot_set(fs, s, i, FS_SLOT_CAND, false);
			found++;
		}
	}
	return found;
}

static int scan_seg(struct fs *fs, struct fs_seg *s)
{
	uint8_t *buf = ts_alloc_aligned(FS_SUB, (size_t)PIECE * FS_SUB);
	int rc = buf ? 0 : -ENOMEM, found = 0;

	for (unsigned i = 0; i < FS_SEG_INODES && !rc && !s->dead; i += PIECE) {
		rc = fs_io_read(fs, s->addr + i, buf, (size_t)PIECE * FS_SUB);
		if (!rc && !s->dead)
			found += (int)scan_piece(fs, s, i, buf);
	}
	ts_free(buf);
	return rc ? rc : found;
}

int fs_seg_claim(struct fs *fs, uint64_t id, uint32_t hint, unsigned tok_flags)
{
	struct tok_pin pin = {0};
	struct fs_seg *s;
	fs_addr a;
	int rc = fs_ino_addr(fs, (id << FS_SEG_SHIFT) + (id ? 0 : FS_ROOT_INO), &a);

	if (rc)
		return rc == -ESTALE ? 0 : rc;
	a -= id ? 0 : FS_ROOT_INO;
	rc = tok_pin(fs->tok, TOK_SEGMENT, id, TOK_EX, 0, TOK_END, tok_flags, &pin);
	if (rc)
		return rc;
	s = fs_seg_find(fs, id);
	if (!s)
		s = fs_seg_add(fs, id, a);
	if (!s) {
		tok_unpin(fs->tok, &pin);
		return 0;
	}
	s->busy++;
	rc = scan_seg(fs, s); /* the segment's pin keeps the revoke away */
	tok_unpin(fs->tok, &pin);
	fs_seg_done(fs, s);
	if (rc >= 0) {
		uint32_t used = FS_SEG_INODES - (uint32_t)rc;

		int hrc = 0;

		if (used > hint + 64 || hint > used + 64)
			hrc = fs_segtab_hint_set(fs, id, used, false);
		if (hrc)
			return hrc;
	}
	return rc;
}

/* ---- making ----------------------------------------------------------------------------------------------------- */
static int write_free_inodes(struct fs *fs, uint64_t seg, fs_addr a)
{
	uint8_t *buf = ts_alloc_aligned(FS_SUB, (size_t)PIECE * FS_SUB);
	int rc = buf ? 0 : -ENOMEM;

	for (unsigned i = 0; i < FS_SEG_INODES && !rc; i += PIECE) {
		memset(buf, 0, (size_t)PIECE * FS_SUB);
		for (unsigned k = 0; k < PIECE; k++) {
			fs_mdhdr_fill(buf + (size_t)k * FS_SUB, fs->super.fs_id, FS_BT_INODE, TOK_INODE, a + i + k,
				      (seg << FS_SEG_SHIFT) + i + k, 0);
			/* Newer than whatever a log or the disk says of these blocks from an earlier life. */
			fs_mdhdr_seal(buf + (size_t)k * FS_SUB, fs->incarnation, fs_version_next(fs));
		}
		rc = fs_io_write(fs, a + i, buf, (size_t)PIECE * FS_SUB);
	}
	ts_free(buf);
	return rc;
}

/* The first entry, after `skip` others, that looks empty. */
static int empty_entry(struct fs *fs, uint64_t blk, unsigned skip, uint64_t *seg)
{
	struct fs_segtab_disk *t = ts_alloc(sizeof(*t));
	int rc = t ? fs_segtab_glance(fs, blk, t) : -ENOMEM;
	unsigned k = 0;

	while (!rc && k < FS_SEGS_PER_BLOCK && (le64_get(t->s[k].addr[0]) || skip-- > 0))
		k++;
	*seg = blk * FS_SEGS_PER_BLOCK + k;
	if (!rc && (k == FS_SEGS_PER_BLOCK || *seg >= le64_get(fs->super.nsegments)))
		rc = -ENOENT;
	ts_free(t);
	return rc;
}

/* Segment and table block pinned EX. -EEXIST: the glance was stale, look again (the buffer is cached now). */
static int make_pinned(struct fs *fs, uint64_t seg, struct fs_buf *b, fs_addr *at)
{
	struct fs_seg_ent_disk *t = &((struct fs_segtab_disk *)b->data)->s[seg % FS_SEGS_PER_BLOCK];
	struct fs_ext e;
	struct fs_tx tx;
	int rc;

	if (le64_get(t->addr[0]))
		return -EEXIST;
	rc = fs_alloc_take(fs, true, FS_SEG_INODES, 0, fs->self + seg, &e);
	if (rc)
		return rc;
	rc = write_free_inodes(fs, seg, e.addr);
	if (!rc)
		rc = fs_log_reserve(fs, 4 * FS_SUB);
	if (rc) {
		fs_alloc_untake(fs, &e);
		return rc;
	}
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, b);
	t->addr[0] = le64_make(e.addr);
	t->used_hint = le32_make(0);
	fs_alloc_commit(fs, &tx, &e);
	fs_tx_commit(&tx);
	*at = e.addr;
	return 0;
}

static int make_table_pinned(struct fs *fs, uint64_t seg, unsigned flags, fs_addr *at)
{
	struct tok_pin pin = {0};
	struct fs_buf *b;
	fs_addr a;
	uint64_t blk = seg / FS_SEGS_PER_BLOCK;
	int rc = fs_segtab_block_addr(fs, blk, &a);

	if (!rc)
		rc = tok_pin(fs->tok, TOK_SEGTAB, blk, TOK_EX, 0, TOK_END, flags, &pin);
	if (rc)
		return rc;
	rc = fs_buf_get(fs, a, FS_BT_SEGTAB, TOK_SEGTAB, blk, &b);
	if (!rc) {
		rc = make_pinned(fs, seg, b, at);
		fs_buf_put(fs, b);
	}
	tok_unpin(fs->tok, &pin);
	return rc;
}

/* All its inodes are ready: nobody else can have used them, the segment was ours before it was in the table. */
static int seg_ready(struct fs *fs, uint64_t id, fs_addr a)
{
	struct fs_seg *s = fs_seg_find(fs, id);

	fs_segtab_note(fs, id, a);
	if (!s)
		s = fs_seg_add(fs, id, a);
	for (unsigned i = id ? 0 : FS_ROOT_INO + 1; s && i < FS_SEG_INODES; i++) {
		if (s->slot[i].state == FS_SLOT_NONE) {
			s->slot[i].gen = 0;
			fs_slot_set(fs, s, i, FS_SLOT_READY, false);
		}
	}
	return s ? 0 : -ENOMEM;
}

/* The segment's pin never waits for a holder: whoever has it is making or using it. */
static int make_in_block(struct fs *fs, uint64_t blk, unsigned flags)
{
	struct tok_pin pin = {0};
	unsigned skip = 0;
	bool fresh_look = false;
	uint64_t seg;
	fs_addr a = 0;
	int rc;

	for (;;) {
		rc = empty_entry(fs, blk, skip, &seg);
		if (!rc)
			rc = tok_pin(fs->tok, TOK_SEGMENT, seg, TOK_EX, 0, TOK_END, TOK_QUICK, &pin);
		if (rc == -EAGAIN && !fresh_look && !flags) {
			fresh_look = true;
			rc = fs_segtab_refresh(fs, blk); /* made by another node, not at home yet */
		} else if (rc == -EAGAIN && !flags) {
			skip++;
			rc = 0;
		} else if (!rc) {
			rc = make_table_pinned(fs, seg, flags, &a);
			if (!rc)
				rc = seg_ready(fs, seg, a);
			tok_unpin(fs->tok, &pin);
			if (rc != -EEXIST)
				return rc;
			rc = 0;
		}
		if (rc)
			return rc;
	}
}

int fs_seg_make(struct fs *fs)
{
	struct fs_ialloc *ia = fs->ialloc;
	uint64_t all = fs_segtab_blocks(fs);

	for (unsigned flags = TOK_QUICK;; flags = 0) { /* first where no other node works, then anywhere */
		for (uint64_t n = 0; n < all;) {
			uint64_t blk = (ia->tab_cursor + n) % all;
			int rc = make_in_block(fs, blk, flags);

			if (rc == -FS_NEED_META) {
				rc = fs_alloc_refill(fs, rc);
				if (rc)
					return rc;
				continue;
			}
			if (rc == 0)
				ia->tab_cursor = blk;
			if (rc != -ENOENT && rc != -EAGAIN)
				return rc;
			n++;
		}
		if (!flags)
			return -ENOSPC;
	}
}
