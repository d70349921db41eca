/* SPDX-License-Identifier: Apache-2.0 */
/* The keys of this node: the cluster's, and while it is changed the one to come or the one that was. */
#ifndef TESSERA_ADMIN_KEY_ROTATE_H
#define TESSERA_ADMIN_KEY_ROTATE_H

#include "lib/lib.h"
#include "net/net.h"
#include <sodium.h>

#define KEY_ID 16 /* what a key is called: a hash of it */
enum key_slot { KEY_CURRENT, KEY_NEXT, KEY_OLD, KEY_RETIRED, KEY_SLOTS };
struct keyring {
	bool have[KEY_SLOTS];
	uint8_t key[KEY_SLOTS][32];
	uint8_t box_secret[crypto_box_SECRETKEYBYTES]; /* of the public key that was told last */
	bool box_open;
	bool driving; /* a `cluster key rotate` runs here */
};

/* On the wire: what one member asks of another (message 0x305), and its answer. */
enum key_op { KEY_ASK, KEY_ADD, KEY_SWITCH, KEY_DROP, KEY_CANCEL };
struct peer_key_msg {
	le32 op, version; /* 1 */
	uint8_t id[KEY_ID];			    /* of the key it is about */
	uint8_t pub[crypto_box_PUBLICKEYBYTES];	    /* of who asks, for this one message */
	uint8_t nonce[crypto_box_NONCEBYTES];
	uint8_t box[32 + crypto_box_MACBYTES];	    /* the key, for the public key that was told */
};
_Static_assert(sizeof(struct peer_key_msg) == 128, "wire size");
struct peer_key_reply_msg {
	uint8_t id[KEY_SLOTS][KEY_ID]; /* zeros: none */
	uint8_t pub[crypto_box_PUBLICKEYBYTES];
};
_Static_assert(sizeof(struct peer_key_reply_msg) == 96, "wire size");

#endif
