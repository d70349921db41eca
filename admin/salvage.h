/* SPDX-License-Identifier: Apache-2.0 */
/* salvage.c: reading what is left of a damaged file system, and what it shares with mounts.c. From fibers. */
#ifndef TESSERA_ADMIN_SALVAGE_H
#define TESSERA_ADMIN_SALVAGE_H

#include "lib/lib.h"

struct daemon;
struct client;
struct answer;
struct disk;
struct mount;
struct salvage;

struct salvage_args {
	const char *name, *dir;
	const char *lost; /* NULL, or numbers of disks that count as lost though they answer */
	uint64_t memory_bytes; /* what each disk's overlay may take; 0: 512 MiB */
	bool verify;	       /* read every byte */
};
void salvage_verb(struct daemon *d, struct client *c, const struct salvage_args *s, struct answer *a);

void salvage_free(struct salvage *s); /* with its overlays; NULL is fine */

/* mounts.c. Mounts for reading what lies on these disks (dev NULL where there is none), under that group. It owns s behind success, until it is
 * unmounted. mount_lock is held. */
int mount_salvaged(struct daemon *d, const char *name, const char *dir, struct salvage *s, struct disk *disks, unsigned n, uint64_t group,
		   struct mount **out, char *errmsg, size_t errlen) TS_MUST_CHECK;
/* Whether something of that name may be mounted there now. mount_lock is held. */
int mount_may(struct daemon *d, const char *name, const char *dir, char *errmsg, size_t errlen) TS_MUST_CHECK;

#endif
