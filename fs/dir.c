/* SPDX-License-Identifier: Apache-2.0 */
/* Job: names of one directory: look one up, put one in, take one out, point one elsewhere. Small directories live in the
 * inode, large ones in a tree (dir_tree.c). A change is prepared (reads, makes room; may wait) and then applied inside the
 * caller's transaction without waiting.
 * Must never happen: two entries with one name; an entry whose cookie changes while it lives; a directory whose size is not
 * the number of its entries. */
#include "fs/dir_int.h"

uint64_t fs_dir_hash(const struct fs *fs, const char *name, size_t len)
{
	uint64_t h = ts_siphash(name, len, fs->super.hash_key);

	return h >> 9 == UINT64_MAX >> 9 ? h - 512 : h;
}

int fs_dir_lookup(struct fs *fs, struct fs_inode *dir, const char *name, size_t len, struct fs_dirent *out)
{
	struct fs_dirop op = {0};
	struct dir_ents e;
	int rc = dir_tree_find(fs, dir, fs_dir_hash(fs, name, len), &op);

	if (rc)
		return rc;
	if (!op.inline_dir && !op.leaf)
		return -ENOENT;
	rc = dir_op_ents(dir, &op, &e);
	if (!rc)
		rc = dir_ents_find(&e, op.hash, name, len);
	if (rc >= 0) {
		dir_ent_out(dir_rec(&e, (unsigned)rc), out);
		rc = 0;
	} else if (rc == -EUCLEAN) {
		rc = dir_bad(fs, dir, op.leaf ? op.leaf->addr : dir->buf->addr, "entries are damaged");
	}
	dir_path_put(fs, &op);
	return rc;
}

/* Finds the name where op leads to: 0 and op->found, or 0 without; all records there are sound. */
static int op_search(struct fs *fs, struct fs_inode *dir, struct fs_dirop *op, const char *name, size_t len, struct dir_ents *e,
		     struct dir_scan *scan)
{
	int rc = dir_op_ents(dir, op, e);

	if (!rc)
		rc = dir_ents_scan(e, op->hash, scan);
	if (!rc && op->leaf && scan->count != le16_get(dir_leaf(op->leaf)->count))
		rc = -EUCLEAN;
	if (rc)
		return dir_bad(fs, dir, op->leaf ? op->leaf->addr : dir->buf->addr, "entries are damaged");
	rc = dir_ents_find(e, op->hash, name, len);
	op->found = rc >= 0;
	if (op->found) {
		dir_ent_out(dir_rec(e, (unsigned)rc), &op->ent);
		op->coll = dir_rec(e, (unsigned)rc)->coll;
	}
	return 0;
}

int fs_dir_insert_prepare(struct fs *fs, struct fs_inode *dir, const char *name, size_t len, struct fs_dirop *op)
{
	uint64_t hash = fs_dir_hash(fs, name, len);
	struct dir_scan scan;
	struct dir_ents e;
	int rc;

	TS_ASSERT(len >= 1 && len <= FS_NAME_MAX);
	memset(op, 0, sizeof(*op));
	for (;;) {
		rc = dir_tree_find(fs, dir, hash, op);
		if (rc)
			return rc;
		if (op->inline_dir || op->leaf) {
			rc = op_search(fs, dir, op, name, len, &e, &scan);
			if (!rc && op->found)
				return -EEXIST;
			if (!rc && scan.coll < 0)
				rc = -ENOSPC;
			if (!rc && scan.live_bytes + DIR_REC_LEN(len) <= e.cap) {
				op->coll = (uint8_t)scan.coll;
				return 0;
			}
		}
		if (!rc)
			rc = dir_grow(fs, dir, op);
		dir_path_put(fs, op);
		if (rc)
			return rc;
	}
}

/* The directory changes now: size and times, and the block that holds the entry, enter tx. */
static void op_begin_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *dir, const struct fs_dirop *op, int64_t entries, bool leaf)
{
	dir->size = (uint64_t)((int64_t)dir->size + entries);
	dir->mtime_ns = dir->ctime_ns = fs_now_ns(fs);
	fs_inode_update_tx(fs, tx, dir);
	if (leaf && op->leaf)
		fs_tx_buf(tx, op->leaf);
}

static void op_ents(struct fs_inode *dir, const struct fs_dirop *op, struct dir_ents *e)
{
	int rc = dir_op_ents(dir, op, e);

	TS_ASSERT(!rc); /* checked by prepare, and ours since */
}

static unsigned op_offset(const struct fs_dirop *op, const struct dir_ents *e)
{
	int off = dir_ents_find_coll(e, op->hash, op->coll);

	TS_ASSERT(off >= 0);
	return (unsigned)off;
}

static void op_store(struct fs_inode *dir, const struct fs_dirop *op, const struct dir_ents *e, int entries)
{
	if (op->inline_dir) {
		fs_idisk(dir)->payload_type = FS_PL_DIRINLINE;
		fs_idisk(dir)->inline_len = le16_make((uint16_t)e->used);
		return;
	}
	dir_leaf(op->leaf)->used = le16_make((uint16_t)e->used);
	dir_leaf(op->leaf)->count = le16_make((uint16_t)(le16_get(dir_leaf(op->leaf)->count) + entries));
}

void fs_dir_insert_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *dir, struct fs_dirop *op, const char *name, size_t len,
		      uint64_t ino, uint32_t gen, unsigned dtype)
{
	struct fs_dirent_disk head = {.hash = le64_make(op->hash), .ino = le64_make(ino), .gen = le32_make(gen), .coll = op->coll,
				      .type = (uint8_t)dtype, .name_len = (uint8_t)len};
	struct dir_ents e;

	TS_ASSERT(!op->found && ino);
	op_begin_tx(fs, tx, dir, op, 1, true);
	op_ents(dir, op, &e);
	dir_ents_insert(&e, &head, name);
	op_store(dir, op, &e, 1);
}

int fs_dir_remove_prepare(struct fs *fs, struct fs_inode *dir, const char *name, size_t len, struct fs_dirop *op)
{
	struct dir_scan scan;
	struct dir_ents e;
	int rc;

	memset(op, 0, sizeof(*op));
	rc = dir_tree_find(fs, dir, fs_dir_hash(fs, name, len), op);
	if (rc)
		return rc;
	if (!op->inline_dir && !op->leaf)
		return -ENOENT;
	rc = op_search(fs, dir, op, name, len, &e, &scan);
	if (rc)
		return rc;
	return op->found ? 0 : -ENOENT;
}

void fs_dir_remove_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *dir, struct fs_dirop *op)
{
	bool last = op->leaf && le16_get(dir_leaf(op->leaf)->count) == 1;
	struct dir_ents e;

	TS_ASSERT(op->found);
	op_begin_tx(fs, tx, dir, op, dir->size ? -1 : 0, !last);
	if (last) {
		dir_shrink_tx(fs, tx, dir, op);
		return;
	}
	op_ents(dir, op, &e);
	dir_ents_remove(&e, op_offset(op, &e));
	op_store(dir, op, &e, -1);
}

void fs_dir_replace_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *dir, struct fs_dirop *op, uint64_t ino, uint32_t gen, unsigned dtype)
{
	struct fs_dirent_disk *d;
	struct dir_ents e;

	TS_ASSERT(op->found && ino);
	op_begin_tx(fs, tx, dir, op, 0, true);
	op_ents(dir, op, &e);
	d = dir_rec(&e, op_offset(op, &e));
	d->ino = le64_make(ino);
	d->gen = le32_make(gen);
	d->type = (uint8_t)dtype;
}

void fs_dirop_done(struct fs *fs, struct fs_dirop *op)
{
	dir_path_put(fs, op);
	while (op->nfreed)
		fs_buf_forget(fs, op->freed[--op->nfreed]);
}
