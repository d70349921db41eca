/* SPDX-License-Identifier: Apache-2.0 */
/* Job: one inode without links: when nobody has it open its data, names, xattrs and the inode itself are freed, and its
 * intent ends in the transaction that says so. Cut short by a crash it begins again: every step finds what is left.
 * What must never happen: freeing an inode of another generation, one that was linked again, or one that is open. */
#include "fs/alloc_int.h"
#include "fs/xattr_int.h"

/* OPEN EX if nobody holds it now. */
static int pin_unopened(struct fs *fs, uint64_t ino, struct tok_pin *pin)
{
	struct fs_inode *ip = fs_inode_find(fs, ino);
	bool open_here = ip && ip->opens;
	int rc;

	if (ip)
		fs_inode_put(fs, ip);
	if (open_here)
		return -EAGAIN;
	rc = tok_pin(fs->tok, TOK_OPEN, ino, TOK_EX, 0, TOK_END, TOK_TRY, pin);
	if (rc == -TS_ERR_WOULD_WAIT)
		rc = tok_pin(fs->tok, TOK_OPEN, ino, TOK_EX, 0, TOK_END, TOK_QUICK, pin);
	return rc == -TS_ERR_WOULD_WAIT ? -EAGAIN : rc;
}

static int end_intent(struct fs *fs, uint64_t number)
{
	struct fs_tx tx;
	int rc = fs_log_reserve(fs, FS_SUB);

	if (rc)
		return rc;
	fs_tx_begin(fs, &tx);
	fs_tx_intent_done(&tx, number);
	fs_tx_commit(&tx);
	return 0;
}

static int free_contents(struct fs *fs, struct fs_inode *ip)
{
	unsigned type = le16_get(fs_idisk(ip)->mode) & S_IFMT;

	if (type == S_IFDIR)
		return fs_dir_free_tree(fs, ip);
	if (type == S_IFREG || type == S_IFLNK)
		return fs_data_free_all(fs, ip);
	return 0;
}

static int free_inode(struct fs *fs, struct fs_inode *ip, uint64_t number)
{
	struct fs_inode_disk *d;
	struct fs_tx tx;
	int rc = fs_log_reserve(fs, 4 * FS_SUB);

	if (rc)
		return rc;
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, ip->buf);
	d = fs_idisk(ip);
	d->mode = le16_make(0);
	d->flags = d->nlink = le32_make(0);
	d->size = d->subs = le64_make(0);
	d->payload_type = FS_PL_NONE;
	d->map_height = 0;
	d->inline_len = d->xattr_len = le16_make(0);
	fs_tx_intent_done(&tx, number);
	fs_tx_commit(&tx);
	fs_inode_forget_freed(fs, ip);
	fs_ialloc_freed(fs, ip->ino);
	return 0;
}

static int run_pinned(struct fs *fs, uint64_t number, uint64_t ino, uint32_t gen)
{
	struct fs_inode *ip;
	int rc = fs_inode_get(fs, ino, &ip);

	if (rc == -ESTALE)
		return end_intent(fs, number);
	if (rc)
		return rc;
	if (ip->gen != gen || le32_get(fs_idisk(ip)->nlink)) {
		rc = end_intent(fs, number);
	} else {
		struct fs_freeing f = {.ip = ip};

		ts_list_push_back(&fs->alloc->freeing, &f.link);
		rc = free_contents(fs, ip);
		if (!rc)
			rc = fs_xattr_free_all(fs, ip);
		ts_list_del(&f.link);
		if (!rc)
			rc = free_inode(fs, ip, number);
	}
	fs_inode_put(fs, ip);
	return rc;
}

/* Kinds of tokens its contents need: known when the inode is in memory, else all. */
static void contents_kinds(struct fs *fs, uint64_t ino, bool *dir, bool *data)
{
	struct fs_inode *ip = fs_inode_find(fs, ino);

	*dir = *data = true;
	if (!ip)
		return;
	if (ip->buf) {
		*dir = S_ISDIR(le16_get(fs_idisk(ip)->mode));
		*data = !*dir;
	}
	fs_inode_put(fs, ip);
}

int fs_orphan_run(struct fs *fs, uint64_t number, uint64_t ino, uint32_t gen)
{
	struct tok_pin open_pin = {0}, dir_pin = {0}, data_pin = {0}, ino_pin = {0};
	bool dir, data;
	fs_addr a;
	int rc = fs_ino_addr(fs, ino, &a);

	if (rc == -ESTALE)
		return end_intent(fs, number);
	if (rc)
		return rc;
	rc = pin_unopened(fs, ino, &open_pin);
	if (rc)
		return rc;
	contents_kinds(fs, ino, &dir, &data);
	if (dir)
		rc = tok_pin(fs->tok, TOK_DIR, ino, TOK_EX, 0, TOK_END, 0, &dir_pin);
	if (!rc && data)
		rc = tok_pin(fs->tok, TOK_DATA, ino, TOK_EX, 0, TOK_END, 0, &data_pin);
	if (!rc)
		rc = tok_pin(fs->tok, TOK_INODE, ino, TOK_EX, 0, TOK_END, 0, &ino_pin);
	if (!rc)
		rc = run_pinned(fs, number, ino, gen);
	tok_unpin(fs->tok, &ino_pin);
	tok_unpin(fs->tok, &data_pin);
	tok_unpin(fs->tok, &dir_pin);
	tok_unpin(fs->tok, &open_pin);
	if (fs_needs_space(rc) || rc == -FS_NEED_META) { /* freeing may have to rewrite a block: no pins are held now */
		rc = fs_alloc_refill(fs, rc);
		if (!rc)
			rc = -EAGAIN;
	}
	return rc;
}
