/* SPDX-License-Identifier: Apache-2.0 */
/* Job: how inputs of image.h change: a head of one byte, then damages, which stay whole. */
#include "tests/fuzz/image.h"

/* Whole damages come, go and change; bytes of one are libFuzzer's to change. */
size_t LLVMFuzzerMutate(uint8_t *p, size_t n, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed);
size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
	uint64_t r = ts_hash_2(seed, 1), r2 = ts_hash_2(seed, 2);
	size_t have = n > 1 ? (n - 1) / sizeof(struct image_damage) : 0;
	struct image_damage d[IMAGE_DAMAGES + 1];
	unsigned i;

	if (max < 1 + (IMAGE_DAMAGES + 1) * sizeof(*d) || have > IMAGE_DAMAGES)
		return LLVMFuzzerMutate(p, n, max);
	if (!n)
		*p = 0;
	if (r % 16 == 0)
		*p = (uint8_t)(r >> 8);
	memcpy(d, p + 1, have * sizeof(*d));
	i = have ? (unsigned)(r >> 16) % (unsigned)have : 0;
	if (!have || (r % 4 == 0 && have < IMAGE_DAMAGES)) {
		i = (unsigned)have++;
		d[i] = (struct image_damage){.how = (uint8_t)(r2 & 23), .where = (uint8_t)(r2 >> 8), .at = le16_make((uint16_t)(r2 >> 16)),
				       .from = le16_make((uint16_t)(r2 >> 32)), .off = le16_make((uint16_t)(r2 >> 48)), .v = le64_make(ts_hash_2(seed, 3))};
	} else if (r % 4 == 1 && have > 1) {
		d[i] = d[--have];
	} else {
		uint8_t room[sizeof(*d)];

		memcpy(room, &d[i], sizeof(room));
		(void)LLVMFuzzerMutate(room, sizeof(room), sizeof(room));
		memcpy(&d[i], room, sizeof(room));
	}
	memcpy(p + 1, d, have * sizeof(*d));
	return 1 + have * sizeof(*d);
}
