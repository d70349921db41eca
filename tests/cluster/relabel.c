/* SPDX-License-Identifier: Apache-2.0 */
/* relabel FILE VERSION: gives both labels of a disk another version, with right checksums. For the test that a disk
 * of a newer version is refused. What must never happen: a file without our label is touched. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <unistd.h>
#include "nsd/nsd.h"
#define XXH_INLINE_ALL
#include <xxhash.h>

int main(int argc, char **argv)
{
	static union {
		struct nsd_label_disk l;
		unsigned char b[NSD_LABEL_BYTES];
	} u;
	int fd = argc == 3 ? open(argv[1], O_RDWR) : -1;

	if (fd < 0)
		return 2;
	for (int copy = 0; copy < 2; copy++) {
		off_t at = (off_t)copy * NSD_LABEL_COPY2_OFF;
		unsigned long version = strtoul(argv[2], NULL, 10), sum;

		if (pread(fd, u.b, sizeof(u.b), at) != sizeof(u.b) || memcmp(u.l.magic, "TSSRNSD\n", 8) != 0)
			return 1;
		for (size_t i = 0; i < 4; i++)
			u.b[offsetof(struct nsd_label_disk, version) + i] = (unsigned char)(version >> 8 * i);
		memset(u.b + sizeof(u.b) - 8, 0, 8);
		sum = XXH3_64bits(u.b, sizeof(u.b));
		for (size_t i = 0; i < 8; i++)
			u.b[sizeof(u.b) - 8 + i] = (unsigned char)(sum >> 8 * i);
		if (pwrite(fd, u.b, sizeof(u.b), at) != sizeof(u.b))
			return 1;
	}
	return fsync(fd) != 0;
}
