/* SPDX-License-Identifier: Apache-2.0 */
/* What xattr.c, acl.c and ops_xattr.c share. A set is the packed list of fs_xattr_ent_disk of one inode, in memory. */
#ifndef TESSERA_FS_XATTR_INT_H
#define TESSERA_FS_XATTR_INT_H

#include "fs/fs_int.h"

#define FS_XATTR_BLOCK_MAX (sizeof(((struct fs_xattr_disk *)0)->ents)) /* of list, in one block */
#define FS_XATTR_ENT_MAX   (sizeof(struct fs_xattr_ent_disk) + FS_NAME_MAX + FS_XATTR_BLOCK_MAX)
#define FS_XATTR_SET_MAX   8192u
#define FS_ACL_ACCESS	   "system.posix_acl_access"
#define FS_ACL_DEFAULT	   "system.posix_acl_default"

struct fs_xattr_set {
	struct fs_buf *blk;   /* pinned xattr block, or NULL */
	struct fs_buf *index; /* or this, pinned, and what it names; the list is empty then */
	unsigned nleaves;
	struct fs_buf *leaf[FS_XATTR_LEAVES];
	size_t len;
	uint8_t list[FS_XATTR_SET_MAX];
};
struct fs_xattr_at { /* an entry of a list */
	const struct fs_xattr_ent_disk *ent;
	const char *name;
	const uint8_t *value; /* in the list: with FS_XE_EXT an fs_xattr_ext_disk */
	size_t name_len, len, ent_len;
	uint8_t flags;
	int leaf; /* -1: in the list of the set */
};
struct fs_xattr_settle { /* what a transaction on attributes settles beside them */
	struct fs_ext taken; /* space of an external value; subs 0: none */
	struct fs_bptr_disk freed; /* of an external value that goes; address 0: none */
};
/* INODE pinned. Reads all xattrs; fs_xattr_unload is due afterwards, also after an error. */
int fs_xattr_load(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s) TS_MUST_CHECK;
void fs_xattr_unload(struct fs *fs, struct fs_xattr_set *s);
/* The value in the list, or NULL. */
uint8_t *fs_xattr_find(uint8_t *list, size_t list_len, const char *name, size_t *len);
bool fs_xattr_lookup(const struct fs_xattr_set *s, const char *name, struct fs_xattr_at *at);
/* Part i of a set: list, then leaves; false behind the last. */
bool fs_xattr_part(const struct fs_xattr_set *s, unsigned i, struct ts_rd *out);
bool fs_xattr_next(struct ts_rd *r, struct fs_xattr_at *at);
size_t fs_xattr_len(const struct fs_xattr_at *at); /* of the value */
int fs_xattr_value(struct fs *fs, struct fs_inode *ip, const struct fs_xattr_at *at, void *out) TS_MUST_CHECK; /* all of it; waits for the disk */
/* Sets an attribute (value NULL: removes it) and, if mode is not NULL, the permission bits; ctime; one transaction. INODE EX pinned.
 * -TS_ERR_MOVED: inline file data is in the way: fs_data_uninline first. -ENOSPC, -FS_NEED_*. */
int fs_xattr_change(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s, const char *name, const void *value, size_t len,
		    const uint32_t *mode) TS_MUST_CHECK;
/* An inode without links loses all of them, in transactions of its own. INODE EX pinned. */
int fs_xattr_free_all(struct fs *fs, struct fs_inode *ip) TS_MUST_CHECK;

/* xattr.c for xattr_big.c */
int fs_xattr_store(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s, const uint32_t *mode, const struct fs_xattr_settle *x) TS_MUST_CHECK;
void fs_xattr_list_remove(uint8_t *list, size_t *len, const struct fs_xattr_at *at);
size_t fs_xattr_list_add(uint8_t *list, size_t used, size_t room, const char *name, const void *value, size_t len, uint8_t flags); /* new length, 0: no room */
void fs_xattr_settle_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode_disk *d, const struct fs_xattr_settle *x);
void fs_xattr_touch_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode *ip, const uint32_t *mode);
void fs_xattr_point_tx(struct fs *fs, struct fs_inode_disk *d, fs_addr a, uint8_t flags); /* the inode's pointer and its flag; 0: none */
unsigned fs_xattr_front(const struct fs_inode_disk *d);
struct fs_bptr_disk fs_xattr_pointer(struct fs_inode *ip); /* zero: none */
int fs_xattr_block_get(struct fs *fs, struct fs_inode *ip, fs_addr a, struct fs_buf **out) TS_MUST_CHECK;
int fs_xattr_block_new(struct fs *fs, uint64_t ino, uint32_t gen, enum fs_block_type type, struct fs_ext *e, struct fs_buf **b) TS_MUST_CHECK;
/* xattr_big.c for xattr.c */
int fs_xattr_index_load(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s, fs_addr a) TS_MUST_CHECK;
fs_addr fs_xattr_ext_addr(const struct fs_xattr_at *at); /* of an external value */
bool fs_xattr_ext_sane(struct fs *fs, const struct fs_xattr_at *at);

/* The end of a symlink target that does not fit its inode (FS_PL_TARGET). New: space and buffer before the transaction. */
int fs_xattr_target_prepare(struct fs *fs, uint64_t ino, uint32_t gen, struct fs_ext *e, struct fs_buf **b) TS_MUST_CHECK;
void fs_xattr_target_tx(struct fs *fs, struct fs_tx *tx, struct fs_inode_disk *d, struct fs_buf *b, const struct fs_ext *e,
			const char *rest, size_t len);
int fs_xattr_target_rest(struct fs *fs, struct fs_inode *ip, char *rest, size_t size) TS_MUST_CHECK; /* bytes copied, or -errno */

/* acl.c */
int fs_acl_check(const void *value, size_t len) TS_MUST_CHECK; /* -EINVAL */
/* Permission bits that the ACL says; *only_mode: it says nothing else. */
uint32_t fs_acl_mode(const void *value, size_t len, uint32_t mode, bool *only_mode);
/* Opposite direction, in place. */
void fs_acl_set_mode(void *value, size_t len, uint32_t mode);
/* A default ACL becomes the access ACL of a new inode, in place; *mode is masked; true: it must be stored. */
bool fs_acl_create(void *value, size_t len, uint32_t *mode);
#define FS_ACL_DEFAULT_MAX ((FS_XATTR_INLINE_MAX - 2 * (sizeof(struct fs_xattr_ent_disk) + sizeof(FS_ACL_DEFAULT))) / 2)

/* chmod: the access ACL follows. prepare may wait (reads the xattr block), tx changes in place; blk is unpinned by the caller. */
int fs_acl_chmod_prepare(struct fs *fs, struct fs_inode *ip, struct fs_buf **blk) TS_MUST_CHECK;
void fs_acl_chmod_tx(struct fs_tx *tx, struct fs_inode *ip, struct fs_buf *blk, uint32_t mode);

#endif
