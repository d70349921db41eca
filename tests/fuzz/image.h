/* SPDX-License-Identifier: Apache-2.0 */
/* Damaged disks for fsck and mount: two small disks made once by mkfs and a mount with all kinds of files, left clean or with a log
 * to be replayed; each input is a list of damages to copies of them. Sums are made right again behind a damage unless it says
 * otherwise, because else nothing would get past them.
 * Must never happen: a damage that reaches the next input. */
#ifndef TESSERA_TESTS_FUZZ_IMAGE_H
#define TESSERA_TESTS_FUZZ_IMAGE_H

#include "fs_harness.h"
#include "tests/fuzz/fuzz.h"

#define IMAGE_DISKS 2u
#define IMAGE_BYTES (20ull << 20)
#define IMAGE_BLOCK 65536u

/* Makes the image on a harness of its own, damages it as the input says (until it ends). Bits of how: IMAGE_*. */
enum { IMAGE_CRASHED = 1 };
struct fsh *image_open(unsigned how, struct ts_rd *rd);
void image_seeds(const uint8_t *head, size_t n); /* inputs that begin with head */

/* One damage of an input. */
struct image_damage {
	uint8_t how;	/* 0..2: what is done, 8: leave the sum wrong, 16: the twin, too */
	uint8_t where;	/* 0, 1: place, 2..4: what value, 64: added, or the block says that it belongs here */
	le16 at, from, off;
	le64 v;
};
_Static_assert(sizeof(struct image_damage) == 16, "one damage");
#define IMAGE_DAMAGES 12u

/* image_walk.c, from a fiber: looks at everything, then changes something everywhere. Errors are fine, strict: they are not. */
void image_walk(struct fs *fs, bool change, bool strict);

#endif
