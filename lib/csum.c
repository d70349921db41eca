/* SPDX-License-Identifier: Apache-2.0 */
/* Job: checksums and the keyed name hash. Must never happen: a result that depends on the machine (both are
 * on disk): XXH3 is defined over bytes, SipHash-2-4 reads little-endian. */
#include "lib/csum.h"
#include "lib/bytes.h"

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

uint64_t ts_csum64(const void *p, size_t n, uint64_t seed)
{
	return XXH3_64bits_withSeed(p, n, seed);
}

uint64_t ts_csum64_skip(const void *p, size_t n, size_t off, uint64_t seed)
{
	static const uint8_t zero[8];
	const uint8_t *b = p;
	XXH3_state_t st;

	TS_ASSERT(off <= n && n - off >= sizeof(zero));
	XXH3_INITSTATE(&st);
	XXH3_64bits_reset_withSeed(&st, seed);
	XXH3_64bits_update(&st, b, off);
	XXH3_64bits_update(&st, zero, sizeof(zero));
	XXH3_64bits_update(&st, b + off + sizeof(zero), n - off - sizeof(zero));
	return XXH3_64bits_digest(&st);
}

static uint64_t rotl(uint64_t x, unsigned b)
{
	return x << b | x >> (64 - b);
}

static void sip_rounds(uint64_t v[4], unsigned rounds)
{
	while (rounds--) {
		v[0] += v[1];
		v[1] = rotl(v[1], 13) ^ v[0];
		v[0] = rotl(v[0], 32);
		v[2] += v[3];
		v[3] = rotl(v[3], 16) ^ v[2];
		v[0] += v[3];
		v[3] = rotl(v[3], 21) ^ v[0];
		v[2] += v[1];
		v[1] = rotl(v[1], 17) ^ v[2];
		v[2] = rotl(v[2], 32);
	}
}

static uint64_t load64(const uint8_t *p)
{
	le64 v;

	memcpy(&v, p, sizeof(v));
	return le64_get(v);
}

uint64_t ts_siphash(const void *p, size_t n, const uint8_t key[16])
{
	uint64_t k0 = load64(key), k1 = load64(key + 8), m = (uint64_t)n << 56;
	uint64_t v[4] = {k0 ^ 0x736f6d6570736575ULL, k1 ^ 0x646f72616e646f6dULL, k0 ^ 0x6c7967656e657261ULL,
			 k1 ^ 0x7465646279746573ULL};
	const uint8_t *b = p;
	size_t left = n;

	for (; left >= 8; left -= 8, b += 8) {
		uint64_t w = load64(b);

		v[3] ^= w;
		sip_rounds(v, 2);
		v[0] ^= w;
	}
	while (left--)
		m |= (uint64_t)b[left] << (8 * left);
	v[3] ^= m;
	sip_rounds(v, 2);
	v[0] ^= m;
	v[2] ^= 0xff;
	sip_rounds(v, 4);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}
