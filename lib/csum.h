/* SPDX-License-Identifier: Apache-2.0 */
/* Checksums of blocks and frames (xxHash XXH3-64) and the keyed hash of directory names (SipHash-2-4). */
#ifndef TESSERA_LIB_CSUM_H
#define TESSERA_LIB_CSUM_H

#include "lib/base.h"

uint64_t ts_csum64(const void *p, size_t n, uint64_t seed);
/* Checksum of a block whose own 8-byte checksum field lies at offset off: computed as if the field were zero. */
uint64_t ts_csum64_skip(const void *p, size_t n, size_t off, uint64_t seed);
uint64_t ts_siphash(const void *p, size_t n, const uint8_t key[16]);

#endif
