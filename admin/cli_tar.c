/* SPDX-License-Identifier: Apache-2.0 */
/* tar files (POSIX ustar) of plain files, as `tessera snap` and `cluster backup` write them, read back by `cluster restore`. Must never happen: a
 * length or a name of a file that is read believed before it is judged. */
#include "admin/cli.h"
#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

struct ustar {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], chksum[8], typeflag, linkname[100], magic[6], version[2], uname[32], gname[32],
		devmajor[8], devminor[8], prefix[155], pad[12];
};
_Static_assert(sizeof(struct ustar) == 512, "a tar header is one block");

FILE *cli_tar_new(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
	if (!f && fd >= 0) {
		int err = errno;
		close(fd);
		errno = err;
	}
	return f;
}

bool cli_tar_member(FILE *f, const char *name, const char *text, size_t len, time_t when)
{
	static const char zeros[512];
	struct ustar h = {.typeflag = '0', .magic = "ustar", .version = {'0', '0'}};
	unsigned sum = 0;
	snprintf(h.name, sizeof(h.name), "%s", name);
	snprintf(h.mode, sizeof(h.mode), "%07o", 0600u);
	snprintf(h.uid, sizeof(h.uid), "%07o", 0u);
	snprintf(h.gid, sizeof(h.gid), "%07o", 0u);
	snprintf(h.size, sizeof(h.size), "%011llo", (unsigned long long)len);
	snprintf(h.mtime, sizeof(h.mtime), "%011llo", (unsigned long long)when);
	memset(h.chksum, ' ', sizeof(h.chksum));
	for (size_t i = 0; i < sizeof(h); i++)
		sum += ((const unsigned char *)&h)[i];
	snprintf(h.chksum, sizeof(h.chksum), "%06o", sum);
	size_t pad = (512 - len % 512) % 512;
	return fwrite(&h, sizeof(h), 1, f) == 1 && (!len || fwrite(text, len, 1, f) == 1) && (!pad || fwrite(zeros, pad, 1, f) == 1);
}


static bool octal(const char *s, size_t n, uint64_t *out)
{
	*out = 0;
	for (size_t i = 0; i < n && s[i]; i++) {
		if (s[i] == ' ')
			continue;
		if (s[i] < '0' || s[i] > '7')
			return false;
		*out = *out << 3 | (uint64_t)(s[i] - '0');
	}
	return true;
}

int cli_tar_next(FILE *f, char name[101], char **text, size_t *len, size_t max)
{
	struct ustar h, zero = {0};
	uint64_t size, want;
	unsigned sum = 0;
	char pad[512];
	*text = NULL;
	if (fread(&h, sizeof(h), 1, f) != 1)
		return -EINVAL; /* the end is two blocks of zeros */
	if (!memcmp(&h, &zero, sizeof(h)))
		return 0;
	if (!octal(h.chksum, sizeof(h.chksum), &want) || !octal(h.size, sizeof(h.size), &size) || size > max)
		return -EINVAL;
	memset(h.chksum, ' ', sizeof(h.chksum));
	for (size_t i = 0; i < sizeof(h); i++)
		sum += ((const unsigned char *)&h)[i];
	if (sum != want || memcmp(h.magic, "ustar", 5) || (h.typeflag != '0' && h.typeflag) || h.prefix[0])
		return -EINVAL;
	snprintf(name, 101, "%.100s", h.name);
	*len = (size_t)size;
	*text = calloc(1, *len + 1);
	if (!*text || (*len && fread(*text, *len, 1, f) != 1) || (*len % 512 && fread(pad, 512 - *len % 512, 1, f) != 1)) {
		free(*text);
		*text = NULL;
		return -EINVAL;
	}
	return 1;
}
