/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the hash trie of a large directory: finding a leaf, making room (inode to tree, hole to leaf, leaf to two, one more
 * level), giving back what became empty.
 * Must never happen: an entry in a leaf that its hash does not lead to; a half-made split on disk (each step is one
 * transaction, and none changes what names there are); a walk that trusts a pointer, depth or prefix unchecked. */
#include "fs/dir_int.h"

int dir_bad(struct fs *fs, struct fs_inode *dir, fs_addr a, const char *what)
{
	ts_err("fs %s: directory %llu: %s (disk %u sub %llu); run fsck", fs->super.name, (unsigned long long)dir->ino, what,
	       FS_ADDR_DISK(a), (unsigned long long)FS_ADDR_SUB(a));
	return -EUCLEAN;
}

int dir_op_ents(struct fs_inode *dir, const struct fs_dirop *op, struct dir_ents *out)
{
	struct fs_inode_disk *d = fs_idisk(dir);
	struct fs_dirleaf_disk *l;
	unsigned xattrs = le16_get(d->xattr_len), behind = le32_get(d->flags) & FS_IF_XATTR_BLOCK ? 48 : 0;

	if (!op->inline_dir) {
		l = dir_leaf(op->leaf);
		*out = (struct dir_ents){.p = l->ents, .used = le16_get(l->used), .cap = sizeof(l->ents)};
		return out->used > out->cap ? -EUCLEAN : 0;
	}
	*out = (struct dir_ents){.p = d->payload, .used = le16_get(d->inline_len)};
	if (xattrs + behind > FS_INODE_PAYLOAD || out->used > FS_INODE_PAYLOAD - xattrs - behind)
		return -EUCLEAN;
	/* An xattr block can always be added: its pointer's place is kept. */
	out->cap = xattrs + 48 < FS_INODE_PAYLOAD ? FS_INODE_PAYLOAD - xattrs - 48 : 0;
	return 0;
}

static struct fs_bptr_disk *node_slots(struct fs_inode *dir, const struct fs_dirop *op, unsigned level)
{
	return level ? dir_index(op->bufs[level - 1])->p : (struct fs_bptr_disk *)fs_idisk(dir)->payload;
}

struct fs_bptr_disk *dir_path_slots(struct fs_inode *dir, const struct fs_dirop *op)
{
	return node_slots(dir, op, op->nbufs);
}

/* Are depth and prefix those of a block that `hash` leads to? */
static bool prefix_fits(uint64_t prefix, unsigned depth, uint64_t hash)
{
	return depth == 0 ? prefix == 0 : !((prefix ^ hash) >> (64 - depth)) && !(prefix << depth);
}

static int find_index(struct fs *fs, struct fs_inode *dir, struct fs_dirop *op, fs_addr a)
{
	unsigned bits = dir_path_bits(op) + 6;
	struct fs_buf *b;
	int rc;

	if (bits + 6 > FS_DIR_MAX_DEPTH)
		return dir_bad(fs, dir, a, "index deeper than can be");
	rc = fs_buf_get(fs, a, FS_BT_DIRINDEX, TOK_DIR, dir->ino, &b);
	if (rc)
		return rc;
	op->bufs[op->nbufs++] = b;
	if (dir_index(b)->depth_bits != bits || !prefix_fits(le64_get(dir_index(b)->prefix), bits, op->hash) ||
	    le32_get(dir_index(b)->h.res_gen) != dir->gen)
		return dir_bad(fs, dir, a, "index block in a wrong place");
	return 0;
}

static int find_leaf(struct fs *fs, struct fs_inode *dir, struct fs_dirop *op, fs_addr a)
{
	unsigned bits = dir_path_bits(op), depth;
	struct fs_dirleaf_disk *l;
	int rc = fs_buf_get(fs, a, FS_BT_DIRLEAF, TOK_DIR, dir->ino, &op->leaf);

	if (rc) {
		op->leaf = NULL;
		return rc;
	}
	l = dir_leaf(op->leaf);
	depth = l->depth_bits;
	if (depth < bits || depth > bits + 6 || !prefix_fits(le64_get(l->prefix), depth, op->hash) ||
	    le32_get(l->h.res_gen) != dir->gen)
		return dir_bad(fs, dir, a, "leaf in a wrong place");
	return 0;
}

int dir_tree_find(struct fs *fs, struct fs_inode *dir, uint64_t hash, struct fs_dirop *op)
{
	uint8_t type = fs_idisk(dir)->payload_type;
	int rc = 0;

	op->hash = hash;
	op->inline_dir = type == FS_PL_DIRINLINE || type == FS_PL_NONE;
	if (op->inline_dir)
		return 0;
	if (type != FS_PL_DIRTREE)
		return dir_bad(fs, dir, dir->buf->addr, "payload is none of a directory");
	while (!rc) {
		const struct fs_bptr_disk *p = &dir_path_slots(dir, op)[dir_slot(hash, dir_path_bits(op))];
		fs_addr a = le64_get(p->addr[0]);

		if (!a)
			return 0;
		if (!(p->flags & FS_BP_INDEX)) {
			rc = find_leaf(fs, dir, op, a);
			break;
		}
		rc = find_index(fs, dir, op, a);
	}
	if (rc)
		dir_path_put(fs, op);
	return rc;
}

void dir_path_put(struct fs *fs, struct fs_dirop *op)
{
	if (op->leaf)
		fs_buf_put(fs, op->leaf);
	op->leaf = NULL;
	while (op->nbufs)
		fs_buf_put(fs, op->bufs[--op->nbufs]);
}

/* ---- blocks -------------------------------------------------------------------------------------------------------- */
struct new_block {
	struct fs_ext ext;
	struct fs_buf *buf;
};

static int new_take(struct fs *fs, struct fs_inode *dir, enum fs_block_type type, uint64_t hash, struct new_block *n)
{
	int rc = fs_alloc_take(fs, true, 1, 0, dir->ino + (hash >> 58), &n->ext);

	if (rc)
		return rc;
	rc = fs_buf_new(fs, n->ext.addr, type, TOK_DIR, dir->ino, dir->gen, &n->buf);
	if (rc)
		fs_alloc_untake(fs, &n->ext);
	return rc;
}

static void new_undo(struct fs *fs, struct new_block *n)
{
	fs_buf_put(fs, n->buf);
	fs_buf_forget(fs, n->ext.addr);
	fs_alloc_untake(fs, &n->ext);
}

/* The inode is in tx already. Returns the pointer to the block. */
static struct fs_bptr_disk new_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *dir, const struct new_block *n)
{
	struct fs_inode_disk *d = fs_idisk(dir);

	fs_alloc_commit(fs, tx, &n->ext);
	fs_tx_buf(tx, n->buf);
	d->subs = le64_make(le64_get(d->subs) + 1);
	return (struct fs_bptr_disk){.addr = {le64_make(n->ext.addr)}, .birth = le64_make(fs_version_next(fs)), .subs = le16_make(1)};
}

static void leaf_head(struct fs_buf *b, uint64_t prefix, unsigned depth)
{
	dir_leaf(b)->prefix = le64_make(prefix);
	dir_leaf(b)->depth_bits = (uint8_t)depth;
}

static void leaf_counts(struct fs_buf *b, unsigned used, unsigned count)
{
	dir_leaf(b)->used = le16_make((uint16_t)used);
	dir_leaf(b)->count = le16_make((uint16_t)count);
}

static void slots_fill(struct fs_bptr_disk *slots, unsigned first, unsigned n, struct fs_bptr_disk p)
{
	for (unsigned i = 0; i < n; i++)
		slots[first + i] = p;
}

/* The lowest node of the path enters tx (the inode is always in it). */
static void node_tx(struct fs_tx *tx, const struct fs_dirop *op, unsigned level)
{
	if (level)
		fs_tx_buf(tx, op->bufs[level - 1]);
}

/* Starts a step's transaction with the inode in it. */
static int step_begin(struct fs *fs, struct fs_tx *tx, struct fs_inode *dir)
{
	int rc = fs_log_reserve(fs, 0);

	if (rc)
		return rc;
	fs_tx_begin(fs, tx);
	fs_inode_update_tx(fs, tx, dir);
	return 0;
}

/* ---- steps that make room ------------------------------------------------------------------------------------------ */
static int grow_to_tree(struct fs *fs, struct fs_inode *dir, const struct fs_dirop *op)
{
	struct fs_inode_disk *d;
	struct new_block n;
	struct dir_ents from, to;
	struct fs_tx tx;
	unsigned count;
	int rc = fs_xattr_make_room(fs, dir, FS_INODE_PTRS * 48);

	if (rc)
		return rc;
	rc = new_take(fs, dir, FS_BT_DIRLEAF, 0, &n);
	if (rc)
		return rc;
	rc = step_begin(fs, &tx, dir);
	if (rc) {
		new_undo(fs, &n);
		return rc;
	}
	d = fs_idisk(dir);
	TS_ASSERT(!dir_op_ents(dir, op, &from));
	to = (struct dir_ents){.p = dir_leaf(n.buf)->ents, .cap = sizeof(dir_leaf(n.buf)->ents)};
	struct fs_bptr_disk p = new_tx(fs, &tx, dir, &n);
	count = dir_ents_copy(&from, -1, 0, &to);
	leaf_head(n.buf, 0, 0);
	leaf_counts(n.buf, to.used, count);
	memset(d->payload, 0, from.used);
	d->payload_type = FS_PL_DIRTREE;
	d->inline_len = le16_make(0);
	slots_fill((struct fs_bptr_disk *)d->payload, 0, 64, p);
	fs_tx_commit(&tx);
	fs_buf_put(fs, n.buf);
	return 0;
}

static bool slots_zero(const struct fs_bptr_disk *slots, unsigned first, unsigned n)
{
	for (unsigned i = first; i < first + n; i++)
		if (le64_get(slots[i].addr[0]))
			return false;
	return true;
}

/* No leaf there: an empty one for as many neighbouring slots as have none. */
static int grow_hole(struct fs *fs, struct fs_inode *dir, const struct fs_dirop *op)
{
	unsigned bits = dir_path_bits(op), slot = dir_slot(op->hash, bits), log = 0, depth;
	struct fs_bptr_disk *slots = dir_path_slots(dir, op);
	struct new_block n;
	struct fs_tx tx;
	int rc = new_take(fs, dir, FS_BT_DIRLEAF, op->hash, &n);

	if (rc)
		return rc;
	rc = step_begin(fs, &tx, dir);
	if (rc) {
		new_undo(fs, &n);
		return rc;
	}
	while (log < 6 && slots_zero(slots, slot >> (log + 1) << (log + 1), 2u << log))
		log++;
	depth = bits + 6 - log;
	node_tx(&tx, op, op->nbufs);
	struct fs_bptr_disk p = new_tx(fs, &tx, dir, &n);
	leaf_head(n.buf, depth ? op->hash >> (64 - depth) << (64 - depth) : 0, depth);
	slots_fill(slots, slot >> log << log, 1u << log, p);
	fs_tx_commit(&tx);
	fs_buf_put(fs, n.buf);
	return 0;
}

/* The leaf has its slot alone: one more level, where it has 64. */
static int grow_level(struct fs *fs, struct fs_inode *dir, const struct fs_dirop *op)
{
	unsigned bits = dir_path_bits(op);
	struct fs_bptr_disk *slot = &dir_path_slots(dir, op)[dir_slot(op->hash, bits)];
	struct new_block n;
	struct fs_tx tx;
	int rc;

	if (bits + 12 > FS_DIR_MAX_DEPTH)
		return -ENOSPC; /* a leaf full of names whose hashes have 54 bits in common */
	rc = new_take(fs, dir, FS_BT_DIRINDEX, op->hash, &n);
	if (rc)
		return rc;
	rc = step_begin(fs, &tx, dir);
	if (rc) {
		new_undo(fs, &n);
		return rc;
	}
	node_tx(&tx, op, op->nbufs);
	struct fs_bptr_disk p = new_tx(fs, &tx, dir, &n);
	dir_index(n.buf)->depth_bits = (uint8_t)(bits + 6);
	dir_index(n.buf)->prefix = le64_make(op->hash >> (58 - bits) << (58 - bits));
	slots_fill(dir_index(n.buf)->p, 0, 64, *slot);
	p.flags = FS_BP_INDEX;
	*slot = p;
	fs_tx_commit(&tx);
	fs_buf_put(fs, n.buf);
	return 0;
}

/* Moves the records with the next hash bit set to a new leaf; a half without records gets none. */
static void split_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *dir, const struct fs_dirop *op, struct new_block *n)
{
	struct fs_dirleaf_disk *l = dir_leaf(op->leaf);
	unsigned depth = l->depth_bits, half = 1u << (dir_path_bits(op) + 5 - depth), count[2];
	unsigned first = dir_slot(le64_get(l->prefix), dir_path_bits(op));
	uint64_t prefix = le64_get(l->prefix), bit = 1ULL << (63 - depth);
	struct fs_bptr_disk *slots = dir_path_slots(dir, op), p[2] = {slots[first]};
	struct dir_ents from = {.p = l->ents, .used = le16_get(l->used), .cap = sizeof(l->ents)}, to[2];
	uint8_t room[2][FS_SUB];

	node_tx(tx, op, op->nbufs);
	fs_tx_buf(tx, op->leaf);
	for (int i = 0; i < 2; i++) {
		to[i] = (struct dir_ents){.p = room[i], .cap = sizeof(l->ents)};
		count[i] = dir_ents_copy(&from, 63 - (int)depth, (unsigned)i, &to[i]);
	}
	if (!count[0] || !count[1]) { /* all on one side: the other slots become a hole */
		leaf_head(op->leaf, count[1] ? prefix | bit : prefix, depth + 1);
		slots_fill(slots, count[1] ? first : first + half, half, (struct fs_bptr_disk){0});
		return;
	}
	p[1] = new_tx(fs, tx, dir, n);
	memcpy(l->ents, room[0], to[0].used);
	leaf_head(op->leaf, prefix, depth + 1);
	leaf_counts(op->leaf, to[0].used, count[0]);
	memcpy(dir_leaf(n->buf)->ents, room[1], to[1].used);
	leaf_head(n->buf, prefix | bit, depth + 1);
	leaf_counts(n->buf, to[1].used, count[1]);
	slots_fill(slots, first + half, half, p[1]);
}

static bool split_is_even(const struct fs_dirop *op)
{
	struct fs_dirleaf_disk *l = dir_leaf(op->leaf);
	struct dir_ents from = {.p = l->ents, .used = le16_get(l->used), .cap = sizeof(l->ents)};
	struct fs_dirent_disk *d;
	unsigned seen = 0;

	for (unsigned off = 0; dir_ents_at(&from, off, &d) > 0; off += le16_get(d->rec_len))
		if (dir_rec_live(d))
			seen |= 1u << (le64_get(d->hash) >> (63 - l->depth_bits) & 1);
	return seen == 3;
}

/* Do all slots that a leaf of this depth fills point to it? */
static bool leaf_has_its_slots(struct fs_inode *dir, const struct fs_dirop *op)
{
	unsigned bits = dir_path_bits(op), n = 1u << (bits + 6 - dir_leaf(op->leaf)->depth_bits);
	const struct fs_bptr_disk *slots = dir_path_slots(dir, op) + dir_slot(le64_get(dir_leaf(op->leaf)->prefix), bits);

	for (unsigned i = 0; i < n; i++)
		if (le64_get(slots[i].addr[0]) != op->leaf->addr || slots[i].flags & FS_BP_INDEX)
			return false;
	return true;
}

static int grow_split(struct fs *fs, struct fs_inode *dir, const struct fs_dirop *op)
{
	bool even = split_is_even(op);
	struct new_block n = {0};
	struct fs_tx tx;
	int rc;

	if (!leaf_has_its_slots(dir, op))
		return dir_bad(fs, dir, op->leaf->addr, "leaf and its pointers disagree");
	rc = even ? new_take(fs, dir, FS_BT_DIRLEAF, op->hash, &n) : 0;
	if (rc)
		return rc;
	rc = step_begin(fs, &tx, dir);
	if (rc) {
		if (even)
			new_undo(fs, &n);
		return rc;
	}
	split_tx(fs, &tx, dir, op, &n);
	fs_tx_commit(&tx);
	if (even)
		fs_buf_put(fs, n.buf);
	return 0;
}

int dir_grow(struct fs *fs, struct fs_inode *dir, const struct fs_dirop *op)
{
	if (op->inline_dir)
		return grow_to_tree(fs, dir, op);
	if (!op->leaf)
		return grow_hole(fs, dir, op);
	if (dir_leaf(op->leaf)->depth_bits == dir_path_bits(op) + 6)
		return grow_level(fs, dir, op);
	return grow_split(fs, dir, op);
}

/* ---- giving back --------------------------------------------------------------------------------------------------- */
static bool slots_only(const struct fs_bptr_disk *slots, fs_addr a)
{
	for (int i = 0; i < 64; i++)
		if (le64_get(slots[i].addr[0]) && le64_get(slots[i].addr[0]) != a)
			return false;
	return true;
}

static void free_block_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *dir, struct fs_dirop *op, fs_addr a,
			  const struct fs_bptr_disk *slots)
{
	struct fs_inode_disk *d = fs_idisk(dir);
	uint64_t birth = 0, subs = le64_get(d->subs);

	for (int i = 0; i < 64; i++)
		if (le64_get(slots[i].addr[0]) == a)
			birth = le64_get(slots[i].birth);
	fs_alloc_free(fs, tx, a, 1, birth);
	d->subs = le64_make(subs ? subs - 1 : 0);
	op->freed[op->nfreed++] = a;
}

void dir_shrink_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *dir, struct fs_dirop *op)
{
	struct fs_inode_disk *d = fs_idisk(dir);
	fs_addr a = op->leaf->addr;
	unsigned level = op->nbufs;
	struct fs_bptr_disk *slots;

	for (;; level--) {
		slots = node_slots(dir, op, level);
		free_block_tx(fs, tx, dir, op, a, slots);
		if (!level || !slots_only(slots, a))
			break;
		a = op->bufs[level - 1]->addr;
	}
	node_tx(tx, op, level);
	for (int i = 0; i < 64; i++)
		if (le64_get(slots[i].addr[0]) == a)
			memset(&slots[i], 0, sizeof(slots[i]));
	if (!level && slots_zero(slots, 0, 64)) {
		d->payload_type = FS_PL_DIRINLINE;
		d->inline_len = le16_make(0);
	}
}
