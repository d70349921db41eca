/* SPDX-License-Identifier: Apache-2.0 */
/* Extended attributes of the files of the crash test: of all sizes, inline, in a block, behind an index, in extents. What they are
 * follows from the file's content number and from how many there are. */
#ifndef TESSERA_TESTS_CRASH_ATTRS_H
#define TESSERA_TESTS_CRASH_ATTRS_H

#include "fs/fs.h"

/* The n-th (from 1): one more attribute, and one that is replaced each time. */
int attrs_add(struct fs *fs, const struct fs_cred *c, uint64_t ino, unsigned content, unsigned n) TS_MUST_CHECK;
/* NULL, or what is wrong: at least n of them must be there, and whatever is there is right. */
const char *attrs_wrong(struct fs *fs, const struct fs_cred *c, uint64_t ino, unsigned content, unsigned n);

#endif
