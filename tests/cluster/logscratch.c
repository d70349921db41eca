/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a node that is called dead and still writes its log: logscratch FILE SLOT changes the last block of that slot's ring, on the
 * first disk of a file system, 20 times a second for ever. The log of a short test never comes there. */
#include "fs/format.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static unsigned char block[FS_SUB];

static int get(int fd, uint64_t sub)
{
	return pread(fd, block, FS_SUB, (off_t)(sub * FS_SUB)) == FS_SUB ? 0 : 1;
}

int main(int argc, char **argv)
{
	int fd = argc == 3 ? open(argv[1], O_RDWR) : -1;
	uint64_t at, subs;

	if (fd < 0 || get(fd, FS_SUPER_SUB))
		return 1;
	subs = le32_get(((struct fs_super_disk *)block)->log_subs);
	if (get(fd, FS_SLOTTAB_SUB))
		return 1;
	at = le64_get(((struct fs_slottab_disk *)block)->s[atoi(argv[2])].addr[0]);
	if (!at || FS_ADDR_DISK(at))
		return 1;
	at = FS_ADDR_SUB(at) + subs - 1;
	for (;; usleep(50000)) {
		if (get(fd, at))
			return 1;
		block[99]++;
		if (pwrite(fd, block, FS_SUB, (off_t)(at * FS_SUB)) != FS_SUB)
			return 1;
	}
}
