/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the authentication of frames on a proven connection: keyed BLAKE2b over (counter, header, payload), where a long
 * payload is first hashed by Poly1305 under a key used once; and their secrecy, where it is wanted: ChaCha20 over the payload, the frame's counter
 * as nonce, before the authentication. Must never happen: a frame that was changed, replayed, reordered or taken from another connection or
 * direction passes net_seal_check(); two payloads under one key and counter; anything of a secret payload outside of it (its checksum is left out). */
#include "net/net_int.h"

#define SHORT_PAYLOAD 1024 /* longer ones go through Poly1305, several times faster than BLAKE2b */

void net_seal_init(struct net_seal *s, const uint8_t key[NET_KEY_BYTES])
{
	crypto_generichash_blake2b_init(&s->keyed, key, NET_KEY_BYTES, sizeof(((struct net_hdr_msg *)0)->mac));
	s->counter = 0;
	s->secret = false; /* until net_seal_secret() */
}

void net_seal_secret(struct net_seal *s, const uint8_t key[NET_KEY_BYTES])
{
	_Static_assert(sizeof(s->cipher) == NET_KEY_BYTES, "cipher key size");
	memcpy(s->cipher, key, sizeof(s->cipher));
	s->secret = true;
}

static void cipher(const struct net_seal *s, uint8_t *payload, size_t len)
{
	uint8_t nonce[crypto_stream_chacha20_ietf_NONCEBYTES] = {0};
	le64 c = le64_make(s->counter);

	memcpy(nonce, &c, sizeof(c));
	if (s->secret && len)
		crypto_stream_chacha20_ietf_xor(payload, payload, len, nonce, s->cipher);
}

/* The key of one frame's Poly1305: never used twice, because the counter is part of it. */
static void once_key(const struct net_seal *s, uint64_t counter, uint8_t out[crypto_onetimeauth_KEYBYTES])
{
	static const char label[16] = "tessera bulk key";
	crypto_generichash_blake2b_state st = s->keyed;
	le64 c = le64_make(counter);
	uint8_t half[2][16];

	for (unsigned i = 0; i < 2; i++) {
		uint8_t which = (uint8_t)i;

		st = s->keyed;
		crypto_generichash_blake2b_update(&st, (const uint8_t *)label, sizeof(label));
		crypto_generichash_blake2b_update(&st, (const uint8_t *)&c, sizeof(c));
		crypto_generichash_blake2b_update(&st, &which, 1);
		crypto_generichash_blake2b_final(&st, half[i], sizeof(half[i]));
	}
	memcpy(out, half, sizeof(half));
	_Static_assert(sizeof(half) == crypto_onetimeauth_KEYBYTES, "one-time key size");
}

static void mac_of(const struct net_seal *s, uint64_t counter, const struct net_hdr_msg *h, const void *payload,
		   size_t len, uint8_t mac[16])
{
	crypto_generichash_blake2b_state st = s->keyed;
	struct {
		le64 zero; /* frames: eight zero bytes where once_key() has its label */
		le64 counter;
		struct net_hdr_msg h;
	} in = {le64_make(0), le64_make(counter), *h};
	uint8_t key[crypto_onetimeauth_KEYBYTES], tag[crypto_onetimeauth_BYTES];

	memset(in.h.mac, 0, sizeof(in.h.mac));
	crypto_generichash_blake2b_update(&st, (const uint8_t *)&in, sizeof(in));
	if (len > SHORT_PAYLOAD) {
		once_key(s, counter, key);
		crypto_onetimeauth(tag, payload, len, key);
		crypto_generichash_blake2b_update(&st, tag, sizeof(tag));
	} else if (len) {
		crypto_generichash_blake2b_update(&st, payload, len);
	}
	crypto_generichash_blake2b_final(&st, mac, 16);
}

void net_seal_mac(struct net_seal *s, struct net_hdr_msg *h, void *payload, size_t len)
{
	if (s->secret)
		h->payload_csum = le64_make(0);
	cipher(s, payload, len);
	mac_of(s, s->counter++, h, payload, len, h->mac);
}

bool net_seal_check(struct net_seal *s, const struct net_hdr_msg *h, void *payload, size_t len)
{
	uint8_t mac[16];

	mac_of(s, s->counter, h, payload, len, mac);
	if (crypto_verify_16(mac, h->mac))
		return false;
	cipher(s, payload, len);
	s->counter++;
	return true;
}
