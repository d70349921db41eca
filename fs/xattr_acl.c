/* SPDX-License-Identifier: Apache-2.0 */
/* Job: ACLs among the attributes: what a new inode inherits, and the access ACL that follows a chmod. They are never external
 * values. What must never happen: an ACL and permission bits that say different things. */
#include "fs/xattr_int.h"

/* ---- inheritance ------------------------------------------------------------------------------------------------------ */
static int inherit_acl(uint8_t *acl, size_t acl_len, uint32_t *mode, uint8_t *list, uint16_t *len)
{
	size_t n = 0;
	uint8_t *copy;

	if (S_ISDIR(*mode)) {
		n = fs_xattr_list_add(list, 0, FS_XATTR_INLINE_MAX, FS_ACL_DEFAULT, acl, acl_len, 0);
		if (!n)
			return -ENOSPC;
	}
	copy = acl; /* the set is the caller's own copy: changed in place */
	if (fs_acl_create(copy, acl_len, mode)) {
		n = fs_xattr_list_add(list, n, FS_XATTR_INLINE_MAX, FS_ACL_ACCESS, copy, acl_len, 0);
		if (!n)
			return -ENOSPC;
	}
	*len = (uint16_t)n;
	return 0;
}

int fs_xattr_inherit(struct fs *fs, struct fs_inode *dir, uint32_t umask, uint32_t *mode, uint8_t *list, uint16_t *len)
{
	const struct fs_inode_disk *d = fs_idisk(dir);
	struct fs_xattr_set *s;
	struct fs_xattr_at at;
	uint8_t acl[FS_ACL_DEFAULT_MAX];
	bool has = false;
	int rc = 0;

	*len = 0;
	if (S_ISLNK(*mode))
		return 0;
	if (!le16_get(d->xattr_len) && !(le32_get(d->flags) & FS_IF_XATTR_BLOCK)) { /* the common case allocates nothing */
		*mode &= ~(umask & 0777);
		return 0;
	}
	s = ts_alloc(sizeof(*s));
	if (!s)
		return -ENOMEM;
	rc = fs_xattr_load(fs, dir, s);
	if (!rc)
		has = fs_xattr_lookup(s, FS_ACL_DEFAULT, &at);
	if (has && (at.flags || at.len > sizeof(acl) || fs_acl_check(at.value, at.len)))
		rc = -EUCLEAN;
	if (has && !rc) {
		memcpy(acl, at.value, at.len); /* changed in place */
		rc = inherit_acl(acl, at.len, mode, list, len);
	}
	if (!has && !rc)
		*mode &= ~(umask & 0777);
	fs_xattr_unload(fs, s);
	ts_free(s);
	return rc;
}

/* ---- chmod ------------------------------------------------------------------------------------------------------------- */
int fs_acl_chmod_prepare(struct fs *fs, struct fs_inode *ip, struct fs_buf **blk)
{
	struct fs_xattr_set *s;
	struct fs_xattr_at at;
	int rc;

	*blk = NULL;
	if (!(le32_get(fs_idisk(ip)->flags) & FS_IF_XATTR_BLOCK))
		return 0;
	s = ts_alloc(sizeof(*s));
	if (!s)
		return -ENOMEM;
	rc = fs_xattr_load(fs, ip, s);
	if (!rc && s->blk) {
		*blk = s->blk;
		s->blk = NULL;
	} else if (!rc && fs_xattr_lookup(s, FS_ACL_ACCESS, &at) && at.leaf >= 0) {
		*blk = s->leaf[at.leaf];
		s->leaf[at.leaf] = s->leaf[--s->nleaves];
	}
	fs_xattr_unload(fs, s);
	ts_free(s);
	return rc;
}

void fs_acl_chmod_tx(struct fs_tx *tx, struct fs_inode *ip, struct fs_buf *blk, uint32_t mode)
{
	struct fs_inode_disk *d = fs_idisk(ip);
	unsigned behind = le16_get(d->xattr_len) + (le32_get(d->flags) & FS_IF_XATTR_BLOCK ? (unsigned)sizeof(struct fs_bptr_disk) : 0);
	size_t len;
	uint8_t *v = fs_xattr_find(d->payload + FS_INODE_PAYLOAD - behind, le16_get(d->xattr_len), FS_ACL_ACCESS, &len);

	if (!v && blk) {
		struct fs_xattr_disk *x = (struct fs_xattr_disk *)blk->data;

		v = fs_xattr_find(x->ents, le16_get(x->used), FS_ACL_ACCESS, &len);
		if (v)
			fs_tx_buf(tx, blk);
	}
	if (v && !fs_acl_check(v, len))
		fs_acl_set_mode(v, len, mode); /* the inode's own buffer is in tx already */
}
