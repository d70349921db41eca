/* SPDX-License-Identifier: Apache-2.0 */
/* Job: say what is on a disk that does not carry our label. Must never happen: a disk called blank because something
 * could not be read or asked. libblkid looks at a sparse copy of the disk's head and tail, whatever the transport. */
#include "nsd/nsd_int.h"

#include <blkid/blkid.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define HEAD_BYTES (2u << 20)
#define TAIL_BYTES (1u << 20)
#define CHUNK	   (256u << 10)

static int copy_range(struct nsd_dev *d, int fd, uint8_t *buf, uint64_t from, uint64_t to)
{
	while (from < to) {
		size_t n = TS_MIN(CHUNK, to - from);
		int rc = nsd_read(d, buf, n, from);

		if (rc)
			return rc;
		if (pwrite(fd, buf, n, (off_t)from) != (ssize_t)n)
			return -EIO;
		from += n;
	}
	return 0;
}

/* Our data starts behind NSD_DATA_START: anything but zeros before it belongs to somebody. */
static int head_is_zero(int fd, uint8_t *buf, uint64_t size, bool *zero)
{
	*zero = true;
	for (uint64_t off = 0; off < TS_MIN(size, NSD_DATA_START); off += CHUNK) {
		ssize_t n = pread(fd, buf, CHUNK, (off_t)off);

		if (n <= 0)
			return -EIO;
		if (buf[0] || memcmp(buf, buf + 1, (size_t)n - 1))
			*zero = false;
	}
	return 0;
}

static const char *value(blkid_probe pr, const char *name)
{
	const char *v;

	return blkid_probe_lookup_value(pr, name, &v, NULL) == 0 ? v : NULL;
}

/* What somebody else wrote on a disk is shown to people and put into JSON: only what cannot do harm there. */
static void make_plain(char *s)
{
	for (; *s; s++)
		if (*s < ' ' || *s > '~') /* char may be signed: beyond ASCII is below */
			*s = '?';
}

static int ask_blkid(int fd, bool *found, char *what, size_t whatlen)
{
	blkid_probe pr = blkid_new_probe();
	const char *type, *pt, *label;
	int rc;

	if (!pr)
		return -ENOMEM;
	if (blkid_probe_set_device(pr, fd, 0, 0)) {
		blkid_free_probe(pr);
		return -EIO;
	}
	blkid_probe_enable_superblocks(pr, 1);
	blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_LABEL | BLKID_SUBLKS_USAGE);
	blkid_probe_enable_partitions(pr, 1);
	rc = blkid_do_safeprobe(pr); /* 0 found, 1 nothing, -2 several things, -1 error */
	type = value(pr, "TYPE");
	pt = value(pr, "PTTYPE");
	label = value(pr, "LABEL");
	*found = rc == 0 || rc == -2;
	if (rc == -2)
		snprintf(what, whatlen, "signatures of several file systems or volumes");
	else if (type)
		snprintf(what, whatlen, "%s%s%s%s", type, label ? " labelled \"" : "", label ? label : "", label ? "\"" : "");
	else if (pt)
		snprintf(what, whatlen, "%s partition table", pt);
	else if (rc == 0)
		snprintf(what, whatlen, "a known signature");
	if (*found && whatlen)
		make_plain(what);
	blkid_free_probe(pr);
	return rc == -1 ? -EIO : 0;
}

static int probe_copy(struct nsd_dev *d, int fd, uint8_t *buf, bool *found, char *what, size_t whatlen)
{
	uint64_t size = d->info.size_bytes, head = TS_MIN(size, HEAD_BYTES);
	uint64_t tail = TS_ALIGN_DOWN(size > TAIL_BYTES ? size - TAIL_BYTES : 0, d->info.sector_bytes);
	bool zero;
	int rc;

	if (ftruncate(fd, (off_t)size))
		return -errno;
	rc = copy_range(d, fd, buf, 0, head);
	if (!rc)
		rc = copy_range(d, fd, buf, TS_MAX(head, tail), size);
	if (!rc)
		rc = ask_blkid(fd, found, what, whatlen);
	if (rc || *found)
		return rc;
	rc = head_is_zero(fd, buf, size, &zero);
	if (!rc && !zero) {
		*found = true;
		bool tie = pread(fd, buf, 8, NSD_TIE_OFF) == 8 && !memcmp(buf, NSD_TIE_MAGIC, 8);

		snprintf(what, whatlen, "%s", tie ? NSD_TIE_WHAT : "data without a known signature");
	}
	return rc;
}

int nsd_probe_foreign(struct nsd_dev *d, bool *found, char *what, size_t whatlen)
{
	uint8_t *buf = ts_alloc_aligned(4096, CHUNK);
	int fd = memfd_create("tessera-probe", MFD_CLOEXEC), rc;

	*found = false;
	if (!buf)
		rc = -ENOMEM;
	else if (fd < 0)
		rc = -errno;
	else
		rc = probe_copy(d, fd, buf, found, what, whatlen);
	if (fd >= 0)
		close(fd);
	ts_free(buf);
	return rc;
}
