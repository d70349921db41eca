/* SPDX-License-Identifier: Apache-2.0 */
/* Job: listing a directory in the order of its cookies, and freeing the blocks of a dead one.
 * Must never happen: an entry that lives throughout a listing (in however many calls) given twice or not at all, whatever
 * is inserted, removed or split meanwhile: the position is a (hash, collision) pair, never a place. */
#include "fs/dir_int.h"

struct iter_ent {
	uint64_t cookie;
	unsigned off;
};

static int iter_cmp(const void *pa, const void *pb)
{
	const struct iter_ent *a = pa, *b = pb;

	return a->cookie < b->cookie ? -1 : a->cookie > b->cookie;
}

static bool name_sane(const struct fs_dirent_disk *d)
{
	return !memchr(dir_rec_name(d), '/', d->name_len) && !memchr(dir_rec_name(d), 0, d->name_len);
}

/* The entries where op leads to that come behind *cookie, in order; *cookie follows. 1: go on, 0: fn has enough. */
static int iter_here(struct fs_inode *dir, const struct fs_dirop *op, uint64_t *cookie, fs_dir_iter_fn fn, void *arg)
{
	unsigned depth = op->leaf ? dir_leaf(op->leaf)->depth_bits : 0, n = 0, off = 0;
	struct iter_ent list[DIR_ENTS_MAX];
	struct fs_dirent_disk *d;
	struct fs_dirent ent;
	struct dir_ents e;
	int rc = dir_op_ents(dir, op, &e);

	if (rc)
		return rc;
	for (; (rc = dir_ents_at(&e, off, &d)) > 0; off += le16_get(d->rec_len)) {
		uint64_t hash = le64_get(d->hash), at = dir_cookie(hash, d->coll);

		if (!dir_rec_live(d))
			continue;
		if (!name_sane(d) || hash >> 9 == UINT64_MAX >> 9 || (depth && (hash ^ op->hash) >> (64 - depth)))
			return -EUCLEAN;
		if (at > *cookie && n < DIR_ENTS_MAX)
			list[n++] = (struct iter_ent){at, off};
	}
	if (rc)
		return rc;
	qsort(list, n, sizeof(list[0]), iter_cmp);
	for (unsigned i = 0; i < n; i++) {
		d = dir_rec(&e, list[i].off);
		dir_ent_out(d, &ent);
		if (!fn(arg, &ent, dir_rec_name(d), d->name_len))
			return 0;
		*cookie = ent.cookie;
	}
	return 1;
}

/* First hash behind the leaf, or behind the hole, that op leads to; 0 at the end. */
static uint64_t iter_next(const struct fs_dirop *op)
{
	unsigned depth = op->inline_dir ? 0 : op->leaf ? dir_leaf(op->leaf)->depth_bits : dir_path_bits(op) + 6;

	return depth ? ((op->hash >> (64 - depth)) + 1) << (64 - depth) : 0;
}

int fs_dir_iterate(struct fs *fs, struct fs_inode *dir, uint64_t cookie, fs_dir_iter_fn fn, void *arg)
{
	uint64_t hash = cookie < 256 ? 0 : (cookie - 256) >> 8 << 9;
	int rc;

	if (cookie > INT64_MAX)
		return -EINVAL;
	do {
		struct fs_dirop op = {0};

		rc = dir_tree_find(fs, dir, hash, &op);
		if (rc)
			return rc;
		rc = op.inline_dir || op.leaf ? iter_here(dir, &op, &cookie, fn, arg) : 1;
		if (rc == -EUCLEAN)
			rc = dir_bad(fs, dir, op.leaf ? op.leaf->addr : dir->buf->addr, "entries are damaged");
		hash = iter_next(&op);
		dir_path_put(fs, &op);
	} while (rc > 0 && hash);
	return rc < 0 ? rc : 0;
}

/* ---- freeing ------------------------------------------------------------------------------------------------------- */

/* Follows index nodes, always the first, down to one that has only leaves below. */
static int free_find(struct fs *fs, struct fs_inode *dir, struct fs_dirop *op)
{
	int rc = 0;

	while (!rc) {
		const struct fs_bptr_disk *slots = dir_path_slots(dir, op);
		unsigned i = 0;

		while (i < 64 && !(le64_get(slots[i].addr[0]) && slots[i].flags & FS_BP_INDEX))
			i++;
		if (i == 64)
			return 0;
		if (op->nbufs == FS_DIR_MAX_DEPTH / 6)
			return dir_bad(fs, dir, le64_get(slots[i].addr[0]), "index deeper than can be");
		rc = fs_buf_get(fs, le64_get(slots[i].addr[0]), FS_BT_DIRINDEX, TOK_DIR, dir->ino, &op->bufs[op->nbufs]);
		if (!rc && dir_index(op->bufs[op->nbufs++])->depth_bits != dir_path_bits(op))
			rc = dir_bad(fs, dir, op->bufs[op->nbufs - 1]->addr, "index block in a wrong place");
	}
	return rc;
}

static void free_one_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *dir, struct fs_bptr_disk *p)
{
	struct fs_inode_disk *d = fs_idisk(dir);
	uint64_t subs = le64_get(d->subs);

	fs_alloc_free(fs, tx, le64_get(p->addr[0]), 1, le64_get(p->birth));
	d->subs = le64_make(subs ? subs - 1 : 0);
}

/* Frees the leaves of the lowest node of the path, and its pointer in the node above. */
static int free_node(struct fs *fs, struct fs_inode *dir, struct fs_dirop *op)
{
	struct fs_bptr_disk *slots = dir_path_slots(dir, op);
	fs_addr freed[65];
	unsigned n = 0, j;
	struct fs_tx tx;
	int rc = fs_log_reserve(fs, 0);

	if (rc)
		return rc;
	fs_tx_begin(fs, &tx);
	fs_inode_update_tx(fs, &tx, dir);
	for (int i = 0; i < 64; i++) {
		fs_addr a = le64_get(slots[i].addr[0]);

		for (j = 0; j < n && freed[j] != a; j++)
			;
		if (a && j == n) {
			free_one_tx(fs, &tx, dir, &slots[i]);
			freed[n++] = a;
		}
	}
	if (op->nbufs) {
		struct fs_buf *node = op->bufs[--op->nbufs];
		struct fs_bptr_disk *up = dir_path_slots(dir, op);

		for (int i = 0; i < 64; i++) {
			if (le64_get(up[i].addr[0]) != node->addr)
				continue;
			if (op->nbufs)
				fs_tx_buf(&tx, op->bufs[op->nbufs - 1]);
			free_one_tx(fs, &tx, dir, &up[i]);
			freed[n++] = node->addr;
			memset(&up[i], 0, sizeof(up[i]));
			break;
		}
		fs_buf_put(fs, node);
	} else {
		memset(fs_idisk(dir)->payload, 0, 64 * sizeof(struct fs_bptr_disk));
		fs_idisk(dir)->payload_type = FS_PL_DIRINLINE;
		fs_idisk(dir)->inline_len = le16_make(0);
	}
	fs_tx_commit(&tx);
	while (n)
		fs_buf_forget(fs, freed[--n]);
	return 0;
}

int fs_dir_free_tree(struct fs *fs, struct fs_inode *dir)
{
	int rc = 0;

	while (!rc && fs_idisk(dir)->payload_type == FS_PL_DIRTREE) {
		struct fs_dirop op = {0};

		rc = free_find(fs, dir, &op);
		if (!rc)
			rc = free_node(fs, dir, &op);
		dir_path_put(fs, &op);
	}
	return rc;
}
