/* SPDX-License-Identifier: Apache-2.0 */
/* Job: pages come from disk into the pool: on demand, and ahead of a sequential reader so that the disks always have several
 * requests of it. Requests are asynchronous; whoever needs a page waits for its chunk, however many they are.
 *
 * What must never happen: bytes behind the end of the file become visible (D3); a page that was written meanwhile is
 * overwritten by a late read (a page that is being read is not written to); prefetch waits for memory or a slot. */
#include "fs/data_int.h"

#define RA_MIN	 (256u << 10)
#define RA_MAX	 (8u << 20)
#define RA_SLACK (1u << 20) /* requests of one stream may overtake each other so far */

enum data_src data_page_source(struct fs *fs, struct data_blk *b, unsigned page)
{
	struct fs_inode *ip = b->df->ip;

	if (data_blk_off(fs, b) + (uint64_t)page * DATA_PAGE >= ip->size)
		return SRC_ZERO;
	if (ip->buf && !fs_map_is_tree(ip)) {
		bool here = fs_idisk(ip)->payload_type == FS_PL_INLINE && le16_get(fs_idisk(ip)->inline_len) && !b->idx && !page;

		return here ? SRC_INLINE : SRC_ZERO;
	}
	return b->map.addr && !b->map.unwritten && page < b->map.subs ? SRC_DISK : SRC_ZERO;
}

/* Zero behind the end of the file (D3). */
static void page_clip(uint8_t *mem, uint64_t off, uint64_t size)
{
	if (off + DATA_PAGE > size) {
		size_t keep = off < size ? (size_t)(size - off) : 0;

		memset(mem + keep, 0, DATA_PAGE - keep);
	}
}

static void page_inline(struct fs *fs, struct data_blk *b, struct data_chunk *c)
{
	struct fs_inode *ip = b->df->ip;
	size_t n = TS_MIN(le16_get(fs_idisk(ip)->inline_len), fs_map_room(ip));

	memset(c->mem, 0, DATA_PAGE);
	memcpy(c->mem, fs_idisk(ip)->payload, TS_MIN(n, DATA_PAGE));
	page_clip(c->mem, 0, ip->size);
}

static void read_done(struct nsd_req *r, int rc)
{
	struct data_io *io = r->arg;
	struct fs *fs = io->fs;
	unsigned first = io->page / DATA_CHUNK_PAGES;

	for (unsigned p = io->page; p < io->page + io->npages; p++) {
		struct data_chunk *c = io->chunk[p / DATA_CHUNK_PAGES - first];

		c->reading &= (uint16_t)~data_bit(p);
		if (rc) {
			c->rc = rc;
		} else {
			c->valid |= data_bit(p);
			page_clip(data_page(c, p), io->blk_off + (uint64_t)p * DATA_PAGE, io->size);
		}
	}
	for (unsigned i = 0; i < TS_ARRAY_LEN(io->chunk) && io->chunk[i]; i++) {
		io->chunk[i]->pins--;
		data_chunk_settle(fs, io->chunk[i]);
		ts_cond_broadcast(&io->chunk[i]->cond);
	}
	data_io_put(fs, io);
}

static void read_send(struct fs *fs, struct data_blk *b, struct data_io **iop)
{
	struct data_io *io = *iop;

	*iop = NULL;
	if (!io)
		return;
	fs->stats.data_read_bytes += (uint64_t)io->npages * DATA_PAGE;
	fs_io_submit(fs, &io->req, NSD_READ, b->map.addr + io->page, io->iov, (int)io->niov, read_done, io);
}

static void read_add(struct fs *fs, struct data_blk *b, struct data_io *io, struct data_chunk *c, unsigned page)
{
	struct iovec *v = io->niov ? &io->iov[io->niov - 1] : NULL;
	unsigned k;

	if (!io->npages) {
		io->page = page;
		io->size = b->df->ip->size;
		io->blk_off = data_blk_off(fs, b);
	}
	k = page / DATA_CHUNK_PAGES - io->page / DATA_CHUNK_PAGES;
	if (!io->chunk[k]) {
		io->chunk[k] = c;
		c->pins++;
		data_chunk_settle(fs, c);
	}
	c->reading |= data_bit(page);
	io->npages++;
	if (v && (uint8_t *)v->iov_base + v->iov_len == data_page(c, page)) {
		v->iov_len += DATA_PAGE;
		return;
	}
	io->iov[io->niov++] = (struct iovec){.iov_base = data_page(c, page), .iov_len = DATA_PAGE};
}

static bool io_full(const struct data_io *io, unsigned page)
{
	return io->npages && (page != io->page + io->npages || io->npages == DATA_IO_BYTES / DATA_PAGE || io->niov == DATA_IO_IOVS);
}

int data_read_submit(struct fs *fs, struct data_blk *b, unsigned page, unsigned n, bool wait)
{
	struct data_io *io = NULL;
	int rc = 0;

	for (unsigned p = page; p < page + n; p++) {
		struct data_chunk *c;
		enum data_src src;

		if (io && io_full(io, p))
			read_send(fs, b, &io);
		c = data_chunk_get(fs, b, p, false);
		if (!c && wait) {
			read_send(fs, b, &io); /* nothing unsent while this waits */
			c = data_chunk_get(fs, b, p, true);
		}
		if (!c) {
			rc = -TS_ERR_WOULD_WAIT;
			break;
		}
		if ((c->valid | c->reading) & data_bit(p))
			continue;
		src = data_page_source(fs, b, p);
		if (src == SRC_DISK && !io) {
			io = !wait && fs->datas->io_nfree < DATA_IOS / 4 ? NULL : data_io_get(fs, wait);
			if (!io) {
				rc = -TS_ERR_WOULD_WAIT;
				break;
			}
			p--; /* look again: the slot may have cost a wait */
			continue;
		}
		if (src == SRC_DISK) {
			read_add(fs, b, io, c, p);
			continue;
		}
		if (src == SRC_INLINE)
			page_inline(fs, b, c);
		else
			memset(data_page(c, p), 0, DATA_PAGE);
		c->valid |= data_bit(p);
	}
	if (io && !io->npages) {
		data_io_put(fs, io);
		io = NULL;
	}
	read_send(fs, b, &io);
	return rc;
}

int data_page_fill(struct fs *fs, struct data_blk *b, unsigned page, struct data_chunk **out)
{
	for (;;) {
		struct data_chunk *c = data_chunk_get(fs, b, page, true);
		int rc;

		if ((c->reading | c->writing) & data_bit(page)) {
			ts_cond_wait(&c->cond, "a page of inode, block", b->df->ip->ino, b->idx);
			continue;
		}
		if (c->valid & data_bit(page)) {
			c->pins++;
			data_chunk_settle(fs, c);
			*out = c;
			return 0;
		}
		if (c->rc) {
			rc = c->rc;
			c->rc = 0;
			return rc;
		}
		rc = data_read_submit(fs, b, page, 1, true);
		if (rc)
			return rc;
	}
}

void data_chunk_unpin(struct fs *fs, struct data_chunk *c)
{
	TS_ASSERT(c->pins);
	c->pins--;
	data_chunk_settle(fs, c);
}

/* Submits what is missing in [from, to); never waits for memory. Indirect blocks may be read on the way. */
void data_prefetch(struct fs *fs, struct data_file *df, uint64_t from, uint64_t to)
{
	uint32_t bs = fs->block_size;

	to = TS_MIN(to, df->ip->size);
	while (from < to) {
		struct data_blk *b = data_blk_get(fs, df, from / bs);
		uint64_t end = TS_MIN(to, (from / bs + 1) * bs);
		unsigned first = (unsigned)(from % bs / DATA_PAGE), last;
		uint64_t base = from / bs * bs;
		int rc = !b ? -ENOMEM :
			 !tok_holds(fs->tok, TOK_DATA, df->ip->ino, TOK_SH, base, base + bs - 1) ? -TS_ERR_WOULD_WAIT : data_blk_known(fs, b);

		last = (unsigned)((end - 1) % bs / DATA_PAGE);
		if (!rc && b->map.addr && !b->map.unwritten && first < b->map.subs)
			rc = data_read_submit(fs, b, first, TS_MIN(last + 1, b->map.subs) - first, false);
		if (b)
			data_blk_put(fs, b);
		if (rc)
			return;
		from = end;
	}
}

/* After a read of [off, off + len). */
void data_read_ahead(struct fs *fs, struct data_file *df, struct fs_file *f, uint64_t off, size_t len)
{
	uint64_t end = off + len, max = TS_MIN(RA_MAX, (uint64_t)fs->datas->nchunks * DATA_CHUNK / 8), from, to;

	if (off > f->ra_next + RA_MIN || off + RA_SLACK < f->ra_next) {
		f->ra_window = 0;
		f->ra_end = 0;
		f->ra_next = end;
		return;
	}
	f->ra_next = TS_MAX(f->ra_next, end);
	if (f->ra_end > end && f->ra_end - end > f->ra_window / 2)
		return;
	f->ra_window = TS_MIN(TS_MAX(f->ra_window * 2, RA_MIN), max);
	from = TS_MAX(f->ra_end, end);
	to = TS_MIN(end + f->ra_window, df->ip->size);
	if (from >= to)
		return;
	f->ra_end = to;
	fs->stats.prefetch_bytes += to - from;
	data_prefetch(fs, df, from, to);
}
