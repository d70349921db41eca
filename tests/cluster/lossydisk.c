/* SPDX-License-Identifier: Apache-2.0 */
/* Job: disk images that lose at a power failure what was not flushed. Serves the regular files of BACKING, by
 *name, at MOUNTPOINT; a write or a punched hole stays in memory until FSYNC of its file, and only then
 *reaches the file below. Nothing is cached in the kernel, so every request of the one who has the image open
 *(the iSCSI target) comes here.
 *
 *	lossydisk BACKING MOUNTPOINT	in the foreground until unmounted, or until its parent is dead
 *	MOUNTPOINT/control		write "power-cut SEED": seed 0 drops every un-flushed write, any other
 *lets each survive, be torn (some of its sectors) or be dropped by the toss of a coin; "lying-flush" (planted
 *fault): from now on FSYNC does nothing; "honest-flush": undo; read: what the last cut did, and counters
 *
 * Must never happen: a flushed write is lost, a write is lost without a cut (at the bounds of the memory the
 *oldest reach the file early, as in any disk), or an un-flushed write is in the file below otherwise. */
#define FUSE_USE_VERSION 34
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR	    512u
#define FILES	    64u
#define BYTES_MAX   (256u << 20) /* of un-flushed data, all files together */
#define ENTRIES_MAX 16384u	 /* un-flushed writes of one file */
#define INO_CONTROL 2u
#define INO_FILES   3u

struct entry {
	uint64_t off, len;
	char *data; /* NULL: a hole */
};
struct file {
	char name[64];
	int fd;
	uint64_t size;
	struct entry ring[ENTRIES_MAX]; /* oldest first, from head */
	unsigned head, n;
};
static struct file *file[FILES];
static unsigned nfiles;
static uint64_t bytes; /* un-flushed, all files */
static bool lying;
static struct {
	uint64_t unflushed, dropped, torn, kept;    /* by the last cut */
	uint64_t writes, flushes, ignored, spilled; /* since the start */
} count;

static void die(const char *what)
{
	fprintf(stderr, "lossydisk: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t coin(uint64_t seed, uint64_t i) /* splitmix64 */
{
	uint64_t x = seed * 0x9e3779b97f4a7c15u + (i + 1) * 0xbf58476d1ce4e5b9u;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

/* ---- un-flushed writes
 * --------------------------------------------------------------------------------------------- */

static struct entry *entry_at(struct file *f, unsigned i)
{
	return &f->ring[(f->head + i) % ENTRIES_MAX];
}

static void entry_pop(struct file *f)
{
	struct entry *e = entry_at(f, 0);

	if (e->data)
		bytes -= e->len;
	free(e->data);
	f->head = (f->head + 1) % ENTRIES_MAX;
	f->n--;
}

static void file_put(struct file *f, const struct entry *e, uint64_t at,
		     uint64_t len) /* this part of it, for good */
{
	if (!e->data) {
		if (fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(e->off + at),
			      (off_t)len))
			die("punching a hole in the file below");
		return;
	}
	for (uint64_t done = 0; done < len;) {
		ssize_t n = pwrite(f->fd, e->data + at + done, len - done, (off_t)(e->off + at + done));

		if (n <= 0)
			die("writing to the file below");
		done += (uint64_t)n;
	}
}

static void file_spill(struct file *f)
{
	struct entry *e = entry_at(f, 0);

	file_put(f, e, 0, e->len);
	entry_pop(f);
}

static void file_flush(struct file *f)
{
	while (f->n)
		file_spill(f);
}

static int file_add(struct file *f, uint64_t off, uint64_t len, const char *data)
{
	char *copy = NULL;

	if (off > f->size || len > f->size - off)
		return ENOSPC;
	if (data) {
		copy = malloc(len);
		if (!copy)
			return ENOMEM;
		memcpy(copy, data, len);
	}
	for (; f->n == ENTRIES_MAX; count.spilled++)
		file_spill(f);
	for (unsigned i = 0; data && bytes + len > BYTES_MAX && i < nfiles; i++)
		for (; file[i]->n && bytes + len > BYTES_MAX; count.spilled++)
			file_spill(file[i]);
	*entry_at(f, f->n) = (struct entry){off, len, copy};
	f->n++;
	if (data)
		bytes += len;
	count.writes++;
	return 0;
}

static void file_cut(struct file *f, uint64_t seed)
{
	for (; f->n; entry_pop(f)) {
		struct entry *e = entry_at(f, 0);
		uint64_t c = seed ? coin(seed, count.unflushed) : 0;

		count.unflushed++;
		if (c & 1) {
			file_put(f, e, 0, e->len);
			count.kept++;
		} else if (c & 2) {
			for (uint64_t s = 0; s < e->len; s += SECTOR)
				if (coin(c, s) & 1)
					file_put(f, e, s, e->len - s < SECTOR ? e->len - s : SECTOR);
			count.torn++;
		} else {
			count.dropped++;
		}
	}
}

static void power_cut(uint64_t seed)
{
	count.unflushed = count.dropped = count.torn = count.kept = 0;
	for (unsigned i = 0; i < nfiles; i++)
		file_cut(file[i], seed);
}

/* ---- requests
 * ------------------------------------------------------------------------------------------------------ */

static struct file *file_of(fuse_ino_t ino)
{
	return ino >= INO_FILES && ino - INO_FILES < nfiles ? file[ino - INO_FILES] : NULL;
}

static bool attr_of(fuse_ino_t ino, struct stat *st)
{
	struct file *f = file_of(ino);

	*st = (struct stat){.st_ino = ino, .st_nlink = 1, .st_mode = S_IFREG | 0600, .st_blksize = 4096};
	if (ino == FUSE_ROOT_ID)
		st->st_mode = S_IFDIR | 0700;
	else if (f)
		st->st_size = (off_t)f->size;
	return ino == FUSE_ROOT_ID || ino == INO_CONTROL || f;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e = {.ino = strcmp(name, "control") ? 0 : INO_CONTROL};

	for (unsigned i = 0; !e.ino && i < nfiles; i++)
		if (!strcmp(name, file[i]->name))
			e.ino = INO_FILES + i;
	if (parent == FUSE_ROOT_ID && attr_of(e.ino, &e.attr))
		fuse_reply_entry(req, &e);
	else
		fuse_reply_err(req, ENOENT);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;

	(void)fi;
	if (attr_of(ino, &st))
		fuse_reply_attr(req, &st, 0);
	else
		fuse_reply_err(req, ENOENT);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int which,
		       struct fuse_file_info *fi)
{
	struct file *f = file_of(ino);

	if (f && (which & FUSE_SET_ATTR_SIZE) && (uint64_t)attr->st_size != f->size)
		fuse_reply_err(req, EPERM); /* a disk does not change its size */
	else
		op_getattr(req, ino, fi);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	fi->direct_io = 1;
	fuse_reply_open(req, fi);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	char *buf = calloc(1, size);
	size_t used = 0;

	(void)fi;
	if (!buf || ino != FUSE_ROOT_ID) {
		fuse_reply_err(req, buf ? ENOTDIR : ENOMEM);
		free(buf);
		return;
	}
	for (uint64_t i = (uint64_t)off; i <= nfiles; i++) {
		struct stat st = {.st_ino = INO_CONTROL + i, .st_mode = S_IFREG};
		const char *name = i ? file[i - 1]->name : "control";
		size_t need = fuse_add_direntry(req, buf + used, size - used, name, &st, (off_t)i + 1);

		if (need > size - used)
			break;
		used += need;
	}
	fuse_reply_buf(req, buf, used);
	free(buf);
}

static void control_read(fuse_req_t req, size_t size, off_t off)
{
	char text[512];
	size_t n;

	n = (size_t)snprintf(text, sizeof(text),
			     "unflushed %" PRIu64 "\ndropped %" PRIu64 "\ntorn %" PRIu64 "\nkept %" PRIu64
			     "\nwrites %" PRIu64 "\nflushes %" PRIu64 "\nignored %" PRIu64
			     "\nspilled %" PRIu64 "\nlying %d\n",
			     count.unflushed, count.dropped, count.torn, count.kept, count.writes,
			     count.flushes, count.ignored, count.spilled, lying);
	if ((uint64_t)off >= n)
		fuse_reply_buf(req, NULL, 0);
	else
		fuse_reply_buf(req, text + off, size < n - (size_t)off ? size : n - (size_t)off);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t at, struct fuse_file_info *fi)
{
	struct file *f = file_of(ino);
	uint64_t off = (uint64_t)at;
	ssize_t n;
	char *buf;

	(void)fi;
	if (!f) {
		control_read(req, size, at);
		return;
	}
	buf = malloc(size);
	n = buf ? pread(f->fd, buf, size, at) : -1;
	if (n < 0) {
		fuse_reply_err(req, buf ? errno : ENOMEM);
		free(buf);
		return;
	}
	for (unsigned i = 0; i < f->n; i++) { /* in their order: the newest covers */
		const struct entry *e = entry_at(f, i);
		uint64_t from = e->off > off ? e->off : off, to = off + (uint64_t)n;

		to = e->off + e->len < to ? e->off + e->len : to;
		if (from >= to)
			continue;
		if (e->data)
			memcpy(buf + (from - off), e->data + (from - e->off), to - from);
		else
			memset(buf + (from - off), 0, to - from);
	}
	fuse_reply_buf(req, buf, (size_t)n);
	free(buf);
}

static int control_write(const char *buf, size_t size)
{
	char text[64] = "";
	uint64_t seed;

	if (size >= sizeof(text))
		return EINVAL;
	memcpy(text, buf, size);
	text[strcspn(text, "\n")] = 0;
	if (sscanf(text, "power-cut %" SCNu64, &seed) == 1)
		power_cut(seed);
	else if (!strcmp(text, "lying-flush"))
		lying = true;
	else if (!strcmp(text, "honest-flush"))
		lying = false;
	else
		return EINVAL;
	return 0;
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
		     struct fuse_file_info *fi)
{
	struct file *f = file_of(ino);
	int rc = f ? file_add(f, (uint64_t)off, size, buf) : control_write(buf, size);

	if (!rc && f && (fi->flags & (O_SYNC | O_DSYNC)))
		file_flush(f);
	if (rc)
		fuse_reply_err(req, rc);
	else
		fuse_reply_write(req, size);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
			 struct fuse_file_info *fi)
{
	struct file *f = file_of(ino);

	(void)fi;
	if (f && mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
		fuse_reply_err(req, file_add(f, (uint64_t)off, (uint64_t)len, NULL));
	else
		fuse_reply_err(req, EOPNOTSUPP);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct file *f = file_of(ino);

	(void)datasync, (void)fi;
	count.flushes++;
	if (lying)
		count.ignored++;
	else if (f)
		file_flush(f);
	fuse_reply_err(req, 0);
}

static const struct fuse_lowlevel_ops ops = {
	.lookup = op_lookup,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.open = op_open,
	.readdir = op_readdir,
	.read = op_read,
	.write = op_write,
	.fallocate = op_fallocate,
	.fsync = op_fsync,
};

/* ---- start
 * ---------------------------------------------------------------------------------------------------------
 */

static void open_files(const char *backing)
{
	DIR *d = opendir(backing);
	struct dirent *de;
	struct stat st;

	if (!d)
		die(backing);
	while ((de = readdir(d))) {
		struct file *f;
		int fd;

		if (de->d_type != DT_REG || strlen(de->d_name) >= sizeof(f->name) || nfiles == FILES)
			continue;
		fd = openat(dirfd(d), de->d_name, O_RDWR | O_CLOEXEC);
		f = calloc(1, sizeof(*f));
		if (fd < 0 || !f || fstat(fd, &st))
			die(de->d_name);
		strcpy(f->name, de->d_name);
		f->fd = fd;
		f->size = (uint64_t)st.st_size;
		file[nfiles++] = f;
	}
	closedir(d);
}

int main(int argc, char **argv)
{
	char *args[] = {argv[0], "-o", "fsname=lossydisk,subtype=lossydisk", NULL};
	struct fuse_args fa = FUSE_ARGS_INIT(3, args);
	struct fuse_session *se;
	int rc;

	if (argc != 3) {
		fprintf(stderr, "usage: lossydisk BACKING MOUNTPOINT\n");
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	open_files(argv[1]);
	se = fuse_session_new(&fa, &ops, sizeof(ops), NULL);
	if (!se || fuse_set_signal_handlers(se) || fuse_session_mount(se, argv[2]))
		return 1;
	rc = fuse_session_loop(se); /* one thread: requests are in one order, and a cut is one moment in it */
	fuse_session_unmount(se);
	fuse_remove_signal_handlers(se);
	fuse_session_destroy(se);
	fuse_opt_free_args(&fa);
	return rc ? 1 : 0;
}
