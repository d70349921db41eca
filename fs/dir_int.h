/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of a directory's names: records in a packed area (dir_ents.c), the tree of leaves (dir_tree.c), names
 * (dir.c), listing (dir_iter.c). See fs/format.h, "directories". */
#ifndef TESSERA_FS_DIR_INT_H
#define TESSERA_FS_DIR_INT_H

#include "fs/fs_int.h"

/* ---- dir_ents.c: a packed run of records, in a leaf or in the inode ------------------------------------------------ */
struct dir_ents {
	uint8_t *p;
	unsigned used, cap; /* used: bytes of records, free ones included */
};
#define DIR_REC_HEAD	  ((unsigned)sizeof(struct fs_dirent_disk))
#define DIR_REC_LEN(name) TS_ALIGN_UP(DIR_REC_HEAD + (unsigned)(name), 4u)
#define DIR_ENTS_MAX	  (FS_SUB / 32) /* more records than fit anywhere */

static inline struct fs_dirent_disk *dir_rec(const struct dir_ents *e, unsigned off)
{
	return (struct fs_dirent_disk *)(e->p + off);
}
static inline const char *dir_rec_name(const struct fs_dirent_disk *d)
{
	return (const char *)(d + 1);
}
static inline bool dir_rec_live(const struct fs_dirent_disk *d)
{
	return le64_get(d->ino) != 0;
}
/* 1: a sound record lies at off; 0: the end; -EUCLEAN. */
int dir_ents_at(const struct dir_ents *e, unsigned off, struct fs_dirent_disk **out) TS_MUST_CHECK;
/* Offset of the name, -ENOENT or -EUCLEAN. */
int dir_ents_find(const struct dir_ents *e, uint64_t hash, const char *name, size_t len) TS_MUST_CHECK;
struct dir_scan {
	unsigned count, live_bytes;
	int coll; /* a free one beside the hash, -1: all 256 are used */
};
/* Checks every record; 0 or -EUCLEAN. */
int dir_ents_scan(const struct dir_ents *e, uint64_t hash, struct dir_scan *out) TS_MUST_CHECK;
/* The following change areas that were scanned before. */
int dir_ents_find_coll(const struct dir_ents *e, uint64_t hash, uint8_t coll);
void dir_ents_insert(struct dir_ents *e, const struct fs_dirent_disk *head, const char *name);
void dir_ents_remove(struct dir_ents *e, unsigned off);
/* Copies live records whose bit `bit` of the hash (63 = highest; -1: any) is `value`, packed, to the end of `to`. Returns how many. */
unsigned dir_ents_copy(const struct dir_ents *from, int bit, unsigned value, struct dir_ents *to);
void dir_ent_out(const struct fs_dirent_disk *d, struct fs_dirent *out);
static inline uint64_t dir_cookie(uint64_t hash, uint8_t coll)
{
	return ((hash >> 9) << 8 | coll) + 256;
}

/* ---- dir_tree.c ---------------------------------------------------------------------------------------------------- */
static inline struct fs_dirleaf_disk *dir_leaf(const struct fs_buf *b)
{
	return (struct fs_dirleaf_disk *)b->data;
}
static inline struct fs_dirindex_disk *dir_index(const struct fs_buf *b)
{
	return (struct fs_dirindex_disk *)b->data;
}
/* The records where op leads to: of the inode or of op->leaf. -EUCLEAN when their length is impossible. */
int dir_op_ents(struct fs_inode *dir, const struct fs_dirop *op, struct dir_ents *out) TS_MUST_CHECK;
/* Path to where a hash belongs: op->inline_dir, or op->bufs and op->leaf (NULL: no entries there, no leaf). */
int dir_tree_find(struct fs *fs, struct fs_inode *dir, uint64_t hash, struct fs_dirop *op) TS_MUST_CHECK;
void dir_path_put(struct fs *fs, struct fs_dirop *op);
/* Hash bits above the lowest node of the path. */
static inline unsigned dir_path_bits(const struct fs_dirop *op)
{
	return op->nbufs * 6;
}
/* Slots of the lowest node of the path. */
struct fs_bptr_disk *dir_path_slots(struct fs_inode *dir, const struct fs_dirop *op);
static inline unsigned dir_slot(uint64_t hash, unsigned bits)
{
	return (unsigned)(hash >> (58 - bits)) & 63;
}
/* One step that makes room where op leads to, in a transaction of its own; op's path must be looked up again. */
int dir_grow(struct fs *fs, struct fs_inode *dir, const struct fs_dirop *op) TS_MUST_CHECK;
/* op->leaf holds no entry any more: frees it and the nodes above that become empty. */
void dir_shrink_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *dir, struct fs_dirop *op);
/* The directory's blocks are wrong: says so, returns -EUCLEAN. */
int dir_bad(struct fs *fs, struct fs_inode *dir, fs_addr a, const char *what) TS_MUST_CHECK;

#endif
