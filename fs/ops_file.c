/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the entry points for bytes of open files: they pin DATA, then INODE, in whole blocks, call data.c, and on missing space drop
 * the pins, get more and go on (law 2). Plain writes pin INODE in SW: alone that is EX, with others it is what share.c tells.
 *
 * What must never happen: a pin held while space is looked for; an O_APPEND offset from anything but the size under INODE EX
 * (H32); a write-behind error that a handle never hears of, or hears of twice (H33); two files pinned against the order. */
#include "fs/data_int.h"

#include <fcntl.h>

struct file_pins {
	struct tok_pin data, inode;
};

static int pin_error(int rc)
{
	return rc == -TS_ERR_FENCED ? -EIO : rc;
}

static void pins_drop(struct fs *fs, struct fs_inode *ip, struct file_pins *p)
{
	if (p->inode.mode == TOK_SW)
		ip->sw_fiber = NULL;
	tok_unpin(fs->tok, &p->inode);
	tok_unpin(fs->tok, &p->data);
}

/* The inode's block is there again if the token had left. INODE is pinned. */
static int inode_load(struct fs *fs, struct fs_inode *ip)
{
	struct fs_inode *again;
	int rc;

	if (ip->buf) {
		fs_inode_values(fs, ip);
		return 0;
	}
	rc = fs_inode_get(fs, ip->ino, &again);
	if (rc)
		return rc;
	if (again != ip)
		rc = -ESTALE;
	fs_inode_put(fs, again);
	return rc;
}

/* Bytes [off, end) in whole blocks: a block's mapping belongs to who has the token for any of its bytes. */
static int pins_take_as(struct fs *fs, struct fs_inode *ip, enum tok_mode data, unsigned flags, enum tok_mode inode, uint64_t off,
			uint64_t end, struct file_pins *p)
{
	uint64_t bs = fs->block_size, last = end > TOK_END - bs ? TOK_END : TS_ALIGN_UP(end, bs) - 1;
	int rc;

	memset(p, 0, sizeof(*p));
	/* A change of size must find all of it here: dirty pages wait for it in the kernel, and revokes for them. These pages themselves
	 * came under the token of their block at least. */
	if (ip->maps && !(flags & TOK_LATE)) {
		off = 0;
		last = TOK_END;
	}
	rc = tok_pin(fs->tok, TOK_DATA, ip->ino, data, TS_ALIGN_DOWN(off, bs), TS_MAX(last, off), flags, &p->data);
	if (rc)
		return pin_error(rc);
	rc = pin_error(tok_pin(fs->tok, TOK_INODE, ip->ino, inode, 0, TOK_END, 0, &p->inode));
	if (!rc)
		rc = inode_load(fs, ip);
	if (!rc && inode == TOK_SW && !data_ex_held(fs, ip))
		ip->sw_fiber = ts_fiber_self();
	if (rc)
		pins_drop(fs, ip, p);
	return rc;
}

static int pins_take(struct fs *fs, struct fs_inode *ip, enum tok_mode mode, uint64_t off, uint64_t end, struct file_pins *p)
{
	return pins_take_as(fs, ip, mode, 0, mode, off, end, p);
}

static bool needs_space(int64_t rc)
{
	return fs_needs_space(rc) || rc == -FS_NEED_META;
}

/* More space, no pins held. Who comes back again and again without having got anywhere has no space. */
struct refills {
	uint64_t mark; /* progress of the caller */
	unsigned n;
};
#define REFILLS_MAX 16
static int refill(struct fs *fs, struct refills *r, uint64_t mark, int need)
{
	r->n = mark == r->mark ? r->n + 1 : 0;
	r->mark = mark;
	return r->n > REFILLS_MAX ? -ENOSPC : fs_alloc_refill(fs, need);
}

static int may_write(struct fs *fs, struct fs_file *f, bool append)
{
	uint32_t flags = le32_get(fs_idisk(f->ip)->flags);

	if ((f->flags & O_ACCMODE) == O_RDONLY)
		return -EBADF;
	if (fs->args.read_only)
		return -EROFS;
	if ((flags & FS_IF_IMMUTABLE) || ((flags & FS_IF_APPEND) && !append))
		return -EPERM;
	return 0;
}

/* Write-behind errors reach each handle once. */
static int take_wb_error(struct fs_file *f)
{
	if (f->wb_error_seen == f->ip->wb_error_seq)
		return 0;
	f->wb_error_seen = f->ip->wb_error_seq;
	return f->ip->wb_error;
}

/* ---- read ----------------------------------------------------------------------------------------------------------- */

#define ATIME_DAY (86400LL * 1000000000LL)

/* relatime: only if it costs nobody anything, the token is here and free. strictatime: always, whatever it costs. No pins are held. */
void fs_atime(struct fs *fs, struct fs_inode *ip)
{
	const struct fs_mount_args *a = &fs->args;
	int64_t now = fs_now_ns(fs);
	struct tok_pin pin = {0};
	struct fs_inode *same;

	if (a->noatime || a->read_only || (ip->buf && le32_get(fs_idisk(ip)->flags) & FS_IF_NOATIME))
		return;
	if (!a->strictatime && (!ip->buf || (ip->atime_ns > ip->mtime_ns && ip->atime_ns > ip->ctime_ns && now - ip->atime_ns < ATIME_DAY) ||
				!tok_cached(fs->tok, TOK_INODE, ip->ino, TOK_EX)))
		return;
	if (tok_pin(fs->tok, TOK_INODE, ip->ino, TOK_EX, 0, TOK_END, a->strictatime ? 0 : TOK_TRY, &pin))
		return;
	if (!fs_inode_get(fs, ip->ino, &same)) { /* the token may have been away: what is in memory may not be there any more */
		if (!(le32_get(fs_idisk(same)->flags) & FS_IF_NOATIME)) {
			same->atime_ns = TS_MAX(now, same->atime_ns);
			fs_inode_lazy(fs, same);
		}
		fs_inode_put(fs, same);
	}
	tok_unpin(fs->tok, &pin);
}

static ssize_t read_under(struct fs *fs, struct fs_file *f, enum tok_mode data, void *buf, size_t len, uint64_t off, bool whole, const struct fs_at_end *end)
{
	struct file_pins p;
	bool shared;
	ssize_t n;
	int rc = fs_enter(fs, FS_OP_READ);

	if (rc)
		return rc;
	if ((f->flags & O_ACCMODE) == O_WRONLY)
		return -EBADF;
	if (off > FS_MAX_SIZE || !len)
		return 0;
	len = TS_MIN(len, FS_MAX_SIZE - off);
	/* One of several writers knows a size that is at most the true one: below it, that is enough. */
	shared = !tok_holds(fs->tok, TOK_INODE, f->ip->ino, TOK_SH, 0, TOK_END) && tok_holds(fs->tok, TOK_INODE, f->ip->ino, TOK_SW, 0, TOK_END);
	rc = pins_take_as(fs, f->ip, data, 0, shared ? TOK_SW : TOK_SH, off, off + len, &p);
	if (!rc && data_sharing(f->ip) && off + len > f->ip->size) {
		pins_drop(fs, f->ip, &p);
		rc = pins_take_as(fs, f->ip, data, 0, TOK_SH, off, off + len, &p);
	}
	if (rc)
		return rc;
	n = fs_data_read(fs, f->ip, f, buf, len, off, whole);
	if (end && n >= 0 && (size_t)n < len) {
		struct fs_attr a;
		fs_inode_attr(fs, f->ip, &a);
		end->fn(end->arg, &a);
	}
	pins_drop(fs, f->ip, &p);
	if (n > 0 && !(f->flags & O_NOATIME))
		fs_atime(fs, f->ip);
	return n;
}

ssize_t fs_read(struct fs *fs, struct fs_file *f, void *buf, size_t len, uint64_t off)
{
	return read_under(fs, f, TOK_SH, buf, len, off, false, NULL);
}

ssize_t fs_read_cached(struct fs *fs, struct fs_file *f, bool mapped, void *buf, size_t len, uint64_t off, const struct fs_at_end *end)
{
	return read_under(fs, f, mapped && !fs->args.read_only ? TOK_EX : TOK_SH, buf, len, off, true, end);
}

/* ---- write ---------------------------------------------------------------------------------------------------------- */

#define APPEND_TRIES 8u
struct writer {
	const uint8_t *buf;
	size_t len, done;
	uint64_t off;	/* of buf[0] once known */
	uint64_t start; /* DATA is pinned from here at least */
	bool append, kill_suid, placed;
	bool alone; /* INODE EX is needed */
	unsigned tries; /* rounds that ended for want of space */
};

/* With the pins of a round: what SW does not allow. 0, or -EAGAIN: pin otherwise; -FS_NEED_EX: settle; share_gap is due. */
static int write_shared(struct fs *fs, struct fs_inode *ip, struct writer *w, uint64_t at, bool *gap)
{
	unsigned mode = le16_get(fs_idisk(ip)->mode);

	*gap = false;
	if (!data_sharing(ip))
		return 0;
	if (!fs_map_is_tree(ip) || (w->kill_suid && mode & (S_ISUID | S_ISGID))) {
		w->alone = true;
		return -EAGAIN;
	}
	if (fs->datas->nshared >= fs->datas->shared_limit)
		return -FS_NEED_EX;
	*gap = at > ip->size && ip->size % fs->block_size && ip->gap_clean != ip->size;
	return *gap ? -EAGAIN : 0;
}

/* The end of the file as this node knows it lies in the middle of a block, and the write behind it. */
static int gap_round(struct fs *fs, struct fs_inode *ip)
{
	uint64_t size = ip->size;
	struct file_pins p;
	int rc = pins_take_as(fs, ip, TOK_EX, 0, TOK_SW, size, size + 1, &p);

	if (rc)
		return rc;
	if (ip->size == size && size % fs->block_size)
		rc = share_gap(fs, ip);
	pins_drop(fs, ip, &p);
	return rc;
}

/* One round under pins: 0, -FS_NEED_*, -EAGAIN (pin from w->start), or an error. */
static int write_round(struct fs *fs, struct fs_file *f, struct writer *w)
{
	struct fs_inode *ip = f->ip;
	uint64_t at = w->off + w->done;
	bool gap = false;
	struct file_pins p;
	ssize_t n;
	int rc = pins_take_as(fs, ip, TOK_EX, 0, w->append || w->alone ? TOK_EX : TOK_SW, w->append ? w->start : TS_MIN(w->start, at),
			      w->append ? TOK_END : at + (w->len - w->done), &p);

	if (rc)
		return rc;
	rc = may_write(fs, f, w->append);
	if (!rc)
		rc = write_shared(fs, ip, w, at, &gap);
	if (!rc && w->append) {
		at = ip->size;
		if (at < TS_ALIGN_DOWN(w->start, (uint64_t)fs->block_size)) { /* cut meanwhile */
			w->start = at;
			rc = -EAGAIN;
		}
	}
	if (!rc && w->start && !fs_map_is_tree(ip)) { /* bytes in the inode become a block */
		w->start = 0;
		rc = -EAGAIN;
	}
	if (!rc && !data_sharing(ip) && !w->append && at > ip->size && w->start > ip->size) { /* the gap's block is written to, too */
		w->start = ip->size;
		rc = -EAGAIN;
	}
	if (!rc && at > FS_MAX_SIZE - (w->len - w->done))
		rc = -EFBIG;
	if (!rc && w->kill_suid)
		rc = fs_suid_drop(fs, ip);
	/* An append goes to the end in one piece, or another node comes between its halves; when space is scarce, short writes are all there is. */
	n = rc ? 0 : fs_data_write(fs, ip, w->buf + w->done, w->len - w->done, at, w->append && w->tries < APPEND_TRIES);
	pins_drop(fs, ip, &p);
	if (gap)
		rc = gap_round(fs, ip);
	if (rc || n < 0)
		return rc ? rc : (int)n;
	if (gap)
		return -EAGAIN;
	if (!w->placed)
		w->off = at - w->done;
	w->placed = true;
	w->done += (size_t)n;
	return 0;
}

ssize_t fs_write(struct fs *fs, struct fs_file *f, const void *buf, size_t len, uint64_t off, bool append, bool kill_suid, uint64_t *off_out)
{
	struct writer w = {.buf = buf, .len = len, .off = off, .start = append ? f->ip->size : off, .append = append, .kill_suid = kill_suid};
	struct refills r = {0};
	int rc = fs_enter(fs, FS_OP_WRITE);

	if (!rc && !append && (off > FS_MAX_SIZE || len > FS_MAX_SIZE - off))
		rc = -EFBIG;
	while (!rc && w.done < len) {
		rc = write_round(fs, f, &w);
		w.tries += needs_space(rc);
		if (needs_space(rc))
			rc = refill(fs, &r, w.done, rc);
		else if (rc == -FS_NEED_EX)
			rc = share_settle(fs, f->ip);
		else if (rc == -EAGAIN)
			rc = 0;
	}
	if (w.done && off_out)
		*off_out = w.off;
	if (w.done && (f->flags & (O_SYNC | O_DSYNC))) {
		int src = data_sync(fs, f->ip, (f->flags & O_SYNC) != O_SYNC);

		if (src)
			return src;
	}
	return w.done ? (ssize_t)w.done : rc;
}

/* One round: what is left of the page below the end. */
static int mapped_round(struct fs *fs, struct fs_file *f, struct writer *w, unsigned flags)
{
	uint64_t at = w->off + w->done, size;
	struct file_pins p;
	ssize_t n = 0;
	int rc = pins_take_as(fs, f->ip, TOK_EX, flags, TOK_EX, TS_MIN(w->start, at), w->off + w->len, &p);

	if (rc)
		return rc;
	rc = may_write(fs, f, true);
	if (!rc && w->start && !fs_map_is_tree(f->ip)) { /* as in write_round */
		w->start = 0;
		rc = -EAGAIN;
	}
	size = f->ip->size;
	w->len = size <= w->off ? 0 : TS_MIN(w->len, size - w->off);
	if (!rc && w->done < w->len)
		n = fs_data_write(fs, f->ip, w->buf + w->done, w->len - w->done, at, false);
	pins_drop(fs, f->ip, &p);
	if (rc || n < 0)
		return rc ? rc : (int)n;
	w->done += (size_t)n;
	return 0;
}

int fs_write_mapped(struct fs *fs, struct fs_file *f, const void *buf, size_t len, uint64_t off, bool wait)
{
	struct writer w = {.buf = buf, .len = len, .off = off, .start = off};
	struct refills r = {0};
	int rc;

	if (!wait && fs->suspended)
		return -TS_ERR_WOULD_WAIT;
	rc = fs_enter(fs, FS_OP_WRITE);
	do {
		if (!rc)
			rc = mapped_round(fs, f, &w, wait ? TOK_LATE : TOK_LATE | TOK_TRY);
		if (rc == -EAGAIN)
			rc = mapped_round(fs, f, &w, wait ? TOK_LATE : TOK_LATE | TOK_TRY);
		if (needs_space(rc)) {
			rc = refill(fs, &r, w.done, rc);
			wait = true; /* it has begun */
		}
	} while (!rc && w.done < w.len);
	return rc;
}

/* ---- stable --------------------------------------------------------------------------------------------------------- */

int fs_flush(struct fs *fs, struct fs_file *f)
{
	int rc;

	if (!fs_file_writes(f))
		return 0;
	rc = fs_enter(fs, FS_OP_FLUSH);
	return rc ? rc : take_wb_error(f);
}

int fs_fsync(struct fs *fs, struct fs_file *f, bool datasync)
{
	int rc = fs_enter(fs, FS_OP_FSYNC), wrc;

	if (!rc)
		rc = data_sync(fs, f->ip, datasync);
	wrc = take_wb_error(f);
	if (rc && rc == f->ip->wb_error) /* told as this handle's own, once */
		return wrc;
	return rc ? rc : wrc;
}

/* Directories: what was done in them is in the log. */
int fs_fsync_ino(struct fs *fs, uint64_t ino)
{
	struct fs_inode *ip;
	int rc = fs_enter(fs, FS_OP_FSYNC);

	if (rc)
		return rc;
	ip = fs_inode_find(fs, ino);
	if (ip) {
		rc = fs_data_fsync(fs, ip);
		fs_inode_put(fs, ip);
	}
	return rc ? rc : fs_log_force(fs, fs_log_head(fs));
}

int fs_sync(struct fs *fs)
{
	int rc = fs_enter(fs, FS_OP_SYNC), rc2;

	if (rc)
		return rc;
	rc = fs_inode_writeback_all(fs);
	rc2 = fs_log_force(fs, fs_log_head(fs));
	if (!rc2)
		rc2 = fs_io_flush_data(fs);
	return rc2 ? rc2 : rc;
}

/* ---- fallocate, seek -------------------------------------------------------------------------------------------------- */

int fs_fallocate(struct fs *fs, struct fs_file *f, int mode, uint64_t off, uint64_t len, bool kill_suid)
{
	int rc = fs_enter(fs, FS_OP_FALLOCATE);
	struct refills r = {0};
	uint64_t mark = 0;

	if (!rc && (off > FS_MAX_SIZE || len > FS_MAX_SIZE - off))
		rc = -EFBIG;
	while (!rc) {
		struct file_pins p;

		rc = pins_take(fs, f->ip, TOK_EX, 0, TOK_END, &p);
		if (rc)
			break;
		rc = may_write(fs, f, !(mode & (FS_FALLOC_PUNCH | FS_FALLOC_ZERO)));
		if (!rc)
			rc = fs_data_fallocate(fs, f->ip, mode, off, len);
		if (!rc && kill_suid)
			rc = fs_suid_drop(fs, f->ip);
		mark = le64_get(fs_idisk(f->ip)->subs);
		pins_drop(fs, f->ip, &p);
		if (!needs_space(rc))
			break;
		rc = refill(fs, &r, mark, rc);
	}
	return rc;
}

int64_t fs_seek(struct fs *fs, struct fs_file *f, uint64_t off, bool hole)
{
	struct file_pins p;
	int64_t at = fs_enter(fs, FS_OP_SEEK);

	if (!at)
		at = pins_take(fs, f->ip, TOK_SH, 0, TOK_END, &p);
	if (at)
		return at;
	at = fs_data_seek(fs, f->ip, off, hole);
	pins_drop(fs, f->ip, &p);
	return at;
}

/* ---- copy ------------------------------------------------------------------------------------------------------------- */

#define COPY_SLICE (256u << 10)

struct copy {
	struct fs_file *in, *out;
	uint64_t in_off, out_off;
	size_t len, done;
	bool kill_suid;
	uint8_t *slice;
	struct tok_pin data[2], inode[2]; /* [0]: the lower inode number */
};

static void copy_unpin(struct fs *fs, struct copy *c)
{
	for (int i = 1; i >= 0; i--)
		tok_unpin(fs->tok, &c->inode[i]);
	for (int i = 1; i >= 0; i--)
		tok_unpin(fs->tok, &c->data[i]);
}

/* DATA of both by number, then INODE of both by number. */
static int copy_pin(struct fs *fs, struct copy *c)
{
	struct fs_inode *ip[2] = {c->in->ip, c->out->ip};
	enum tok_mode mode[2] = {TOK_SH, TOK_EX};
	int n = ip[0] == ip[1] ? 1 : 2, rc = 0;

	if (n == 1) {
		mode[0] = TOK_EX;
	} else if (ip[0]->ino > ip[1]->ino) {
		ip[0] = c->out->ip;
		ip[1] = c->in->ip;
		mode[0] = TOK_EX;
		mode[1] = TOK_SH;
	}
	for (int i = 0; !rc && i < n; i++)
		rc = tok_pin(fs->tok, TOK_DATA, ip[i]->ino, mode[i], 0, TOK_END, 0, &c->data[i]);
	for (int i = 0; !rc && i < n; i++)
		rc = tok_pin(fs->tok, TOK_INODE, ip[i]->ino, mode[i], 0, TOK_END, 0, &c->inode[i]);
	for (int i = 0; !rc && i < n; i++)
		rc = inode_load(fs, ip[i]);
	if (rc)
		copy_unpin(fs, c);
	return pin_error(rc);
}

static int copy_slices(struct fs *fs, struct copy *c)
{
	int rc = may_write(fs, c->out, false);

	if (!rc && c->kill_suid)
		rc = fs_suid_drop(fs, c->out->ip);
	while (!rc && c->done < c->len) {
		ssize_t n = fs_data_read(fs, c->in->ip, NULL, c->slice, TS_MIN(c->len - c->done, COPY_SLICE), c->in_off + c->done, false), w = 0;

		if (n <= 0) /* 0: the end of the source */
			return n < 0 ? (int)n : 1;
		w = fs_data_write(fs, c->out->ip, c->slice, (size_t)n, c->out_off + c->done, false);
		if (w < 0)
			return (int)w;
		c->done += (size_t)w;
	}
	return rc;
}

ssize_t fs_copy_range(struct fs *fs, struct fs_file *in, uint64_t in_off, struct fs_file *out, uint64_t out_off, size_t len,
		      bool kill_suid)
{
	struct copy c = {.in = in, .out = out, .in_off = in_off, .out_off = out_off, .len = len, .kill_suid = kill_suid};
	struct refills r = {0};
	int rc = fs_enter(fs, FS_OP_COPY);

	if (rc)
		return rc;
	if ((in->flags & O_ACCMODE) == O_WRONLY)
		return -EBADF;
	if (in_off > FS_MAX_SIZE || out_off > FS_MAX_SIZE)
		return -EFBIG;
	c.len = TS_MIN(len, TS_MIN(FS_MAX_SIZE - in_off, FS_MAX_SIZE - out_off));
	if (in->ip == out->ip && in_off < out_off + c.len && out_off < in_off + c.len)
		return -EINVAL;
	c.slice = ts_alloc_aligned(DATA_PAGE, COPY_SLICE);
	if (!c.slice)
		return -ENOMEM;
	while (!rc && c.done < c.len) {
		rc = copy_pin(fs, &c);
		if (rc)
			break;
		rc = copy_slices(fs, &c);
		copy_unpin(fs, &c);
		if (needs_space(rc))
			rc = refill(fs, &r, c.done, rc);
	}
	ts_free(c.slice);
	return c.done ? (ssize_t)c.done : TS_MIN(rc, 0);
}
