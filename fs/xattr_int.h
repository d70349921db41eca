/* SPDX-License-Identifier: Apache-2.0 */
/* What xattr.c, acl.c and ops_xattr.c share. A set is the packed list of fs_xattr_ent_disk of one inode, in memory. */
#ifndef TESSERA_FS_XATTR_INT_H
#define TESSERA_FS_XATTR_INT_H

#include "fs/fs_int.h"

#define FS_XATTR_BLOCK_MAX (sizeof(((struct fs_xattr_disk *)0)->ents)) /* all xattrs of an inode fit one block */
#define FS_XATTR_SET_MAX   8192u
#define FS_ACL_ACCESS	   "system.posix_acl_access"
#define FS_ACL_DEFAULT	   "system.posix_acl_default"

struct fs_xattr_set {
	struct fs_buf *blk; /* pinned xattr block, or NULL */
	size_t len;
	uint8_t list[FS_XATTR_SET_MAX];
};
/* INODE pinned. Reads all xattrs; fs_xattr_unload is due afterwards, also after an error. */
int fs_xattr_load(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s) TS_MUST_CHECK;
void fs_xattr_unload(struct fs *fs, struct fs_xattr_set *s);
/* The value in the list, or NULL. */
uint8_t *fs_xattr_find(uint8_t *list, size_t list_len, const char *name, size_t *len);
void fs_xattr_set_remove(struct fs_xattr_set *s, const char *name);
int fs_xattr_set_add(struct fs_xattr_set *s, const char *name, const void *value, size_t len) TS_MUST_CHECK; /* -ENOSPC */
/* Writes the set and, if mode is not NULL, the permission bits; ctime; one transaction. INODE EX pinned. -TS_ERR_MOVED: inline
 * file data is in the way: fs_data_uninline first. */
int fs_xattr_store(struct fs *fs, struct fs_inode *ip, struct fs_xattr_set *s, const uint32_t *mode) TS_MUST_CHECK;
fs_addr fs_xattr_block(struct fs_inode *ip); /* 0: none */
bool fs_xattr_next(struct ts_rd *r, const char **name, size_t *name_len, const uint8_t **value, size_t *len);

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
