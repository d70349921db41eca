/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the log's bytes: runs, records, frames, written and read. Must never happen: a read or write outside the bytes that
 * are there, whatever a log says about itself. */
#include "fs/log_int.h"

#define WORDS	   (FS_SUB / 8)
#define SPAN	   16 /* words: most of a block is as it was, and memcmp sees that much faster than a look at each word */
#define SKIP_FIRST (offsetof(struct fs_mhdr_disk, incarnation) / 8) /* these words are made anew by whoever writes the block */
#define SKIP_END   (sizeof(struct fs_mhdr_disk) / 8)

static inline uint64_t word(const uint8_t *p, unsigned i)
{
	uint64_t w;

	memcpy(&w, p + (size_t)i * 8, 8);
	return w;
}

static inline uint64_t differs(const uint8_t *before, const uint8_t *now, unsigned i)
{
	return word(now, i) ^ (before ? word(before, i) : 0);
}

static size_t put_run(uint8_t *out, const uint8_t *before, const uint8_t *now, unsigned from, unsigned to)
{
	static const uint8_t zero[8];
	size_t off = (size_t)from * 8, end = (size_t)to * 8;
	le16 v;

	while (now[off] == (before ? before[off] : 0)) /* stops inside the first word: it differs */
		off++;
	while (now[end - 1] == (before ? before[end - 1] : zero[0]))
		end--;
	v = le16_make((uint16_t)off);
	memcpy(out, &v, 2);
	v = le16_make((uint16_t)(end - off));
	memcpy(out + 2, &v, 2);
	memcpy(out + 4, now + off, end - off);
	return 4 + end - off;
}

static size_t encode_range(uint8_t *out, const uint8_t *before, const uint8_t *now, unsigned i, unsigned end)
{
	size_t n = 0;

	while (i < end) {
		unsigned from;

		while (before && i + SPAN <= end && !memcmp(now + (size_t)i * 8, before + (size_t)i * 8, (size_t)SPAN * 8))
			i += SPAN;
		while (i + 4 <= end && !(differs(before, now, i) | differs(before, now, i + 1) | differs(before, now, i + 2) |
					 differs(before, now, i + 3)))
			i += 4;
		while (i < end && !differs(before, now, i))
			i++;
		if (i == end)
			break;
		for (from = i; i < end && differs(before, now, i); i++)
			;
		n += put_run(out + n, before, now, from, i);
	}
	return n;
}

size_t fs_runs_encode(uint8_t *out, const uint8_t *before, const uint8_t *now)
{
	size_t n = encode_range(out, before, now, 0, SKIP_FIRST);

	return n + encode_range(out + n, before, now, SKIP_END, WORDS);
}

bool fs_runs_apply(uint8_t *block, const uint8_t *runs, size_t len)
{
	struct ts_rd rd = {.p = runs, .left = len};

	while (rd.left) {
		unsigned off = ts_rd_u16(&rd), n = ts_rd_u16(&rd);
		const void *p = ts_rd_bytes(&rd, n);

		if (!p || !n || off >= FS_SUB || n > FS_SUB - off)
			return false;
		memcpy(block + off, p, n);
	}
	return !rd.bad;
}

/* ---- records ------------------------------------------------------------------------------------------------------ */

size_t fs_rec_encode_head(uint8_t *out, const struct fs_rec *r)
{
	struct fs_rec_disk d = {.type = (uint8_t)r->type, .res_kind = (uint8_t)r->res_kind, .block_type = (uint8_t)r->block_type,
				.len = le32_make(r->len), .res_id = le64_make(r->res_id), .addr = le64_make(r->addr),
				.prev_version = le64_make(r->prev_version), .version = le64_make(r->version)};

	memcpy(out, &d, sizeof(d));
	return sizeof(d);
}

int fs_rec_next(struct ts_rd *rd, struct fs_rec *out)
{
	struct fs_rec_disk d;
	const void *p;

	if (!rd->left && !rd->bad)
		return 0;
	p = ts_rd_bytes(rd, sizeof(d));
	if (!p)
		return -EUCLEAN;
	memcpy(&d, p, sizeof(d));
	*out = (struct fs_rec){.type = d.type, .res_kind = d.res_kind, .block_type = d.block_type, .len = le32_get(d.len),
			       .res_id = le64_get(d.res_id), .addr = le64_get(d.addr),
			       .prev_version = le64_get(d.prev_version), .version = le64_get(d.version)};
	out->payload = ts_rd_bytes(rd, out->len);
	if (!out->payload)
		return -EUCLEAN;
	switch (out->type) {
	case FS_REC_IMAGE:
	case FS_REC_DELTA:
		return out->len <= FS_REC_BUF_MAX && out->block_type && out->block_type < FS_BT_COUNT && out->version ? 1 : -EUCLEAN;
	case FS_REC_INTENT:
		return out->len == sizeof(struct fs_intent_disk) ? 1 : -EUCLEAN;
	case FS_REC_INTENT_DONE:
	case FS_REC_ADOPTED:
		return out->len == 0 ? 1 : -EUCLEAN;
	case FS_REC_RESULT:
		return 1;
	}
	return -EUCLEAN;
}

/* ---- frames ------------------------------------------------------------------------------------------------------- */

void fs_frame_seal(uint8_t *frame, const struct fs_frame_id *id, uint64_t lsn, uint32_t frame_len, uint32_t payload_len, uint64_t tail)
{
	struct fs_frame_disk *f = (struct fs_frame_disk *)frame;

	*f = (struct fs_frame_disk){.magic = le32_make(FS_FRAME_MAGIC), .slot = le32_make(id->slot),
				    .incarnation = le64_make(id->incarnation), .lsn = le64_make(lsn),
				    .frame_len = le32_make(frame_len), .payload_len = le32_make(payload_len),
				    .tail_lsn = le64_make(tail)};
	memcpy(f->fs_id8, id->fs_id8, sizeof(f->fs_id8));
	f->csum = le64_make(ts_csum64_skip(frame, sizeof(*f) + payload_len, offsetof(struct fs_frame_disk, csum), 0));
}

uint32_t fs_frame_len(const uint8_t *head, const struct fs_frame_id *id, uint64_t lsn, uint64_t room)
{
	const struct fs_frame_disk *f = (const struct fs_frame_disk *)head;
	uint32_t len = le32_get(f->frame_len), payload = le32_get(f->payload_len);

	if (le32_get(f->magic) != FS_FRAME_MAGIC || le32_get(f->slot) != id->slot || le64_get(f->incarnation) != id->incarnation ||
	    le64_get(f->lsn) != lsn || memcmp(f->fs_id8, id->fs_id8, sizeof(f->fs_id8)))
		return 0;
	if (!len || len % FS_SUB || len > FS_FRAME_MAX || len > room || payload > len - sizeof(*f))
		return 0;
	return len;
}

bool fs_frame_csum_ok(const uint8_t *frame)
{
	const struct fs_frame_disk *f = (const struct fs_frame_disk *)frame;

	return le64_get(f->csum) == ts_csum64_skip(frame, sizeof(*f) + le32_get(f->payload_len), offsetof(struct fs_frame_disk, csum), 0);
}
