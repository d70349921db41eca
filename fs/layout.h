/* SPDX-License-Identifier: Apache-2.0 */
/* layout: the text of a layout, for layout.c and the calls on attributes. */
#ifndef TESSERA_FS_LAYOUT_H
#define TESSERA_FS_LAYOUT_H

#include "fs/fs_int.h"

#define FS_STRIPE_MAX	 255u
#define FS_XATTR_LAYOUT	 "tessera.layout" /* kept in fields of the inode; not listed, so that copies of attributes leave it out */
#define FS_LAYOUT_TEXT	 64u		  /* bytes a text takes at most */

int fs_layout_text(struct fs *fs, const struct fs_inode_disk *d, char *buf, size_t n); /* its length */
int fs_layout_parse(const char *text, size_t len, struct fs_layout_set *out) TS_MUST_CHECK; /* -EINVAL */

#endif
