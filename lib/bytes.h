/* SPDX-License-Identifier: Apache-2.0 */
/* Fixed-endian integers for on-disk (_disk) and on-wire (_msg) structs, and a bounds-checked reader/writer.
 * All bytes from disk or network are hostile: nothing is read past the length that arrived. */
#ifndef TESSERA_LIB_BYTES_H
#define TESSERA_LIB_BYTES_H

#include "lib/base.h"
#include <endian.h>

typedef struct { uint16_t v; } __attribute__((packed)) le16;
typedef struct { uint32_t v; } __attribute__((packed)) le32;
typedef struct { uint64_t v; } __attribute__((packed)) le64;

static inline uint16_t le16_get(le16 x) { return le16toh(x.v); }
static inline uint32_t le32_get(le32 x) { return le32toh(x.v); }
static inline uint64_t le64_get(le64 x) { return le64toh(x.v); }
static inline le16 le16_make(uint16_t x) { return (le16){htole16(x)}; }
static inline le32 le32_make(uint32_t x) { return (le32){htole32(x)}; }
static inline le64 le64_make(uint64_t x) { return (le64){htole64(x)}; }

/* A cursor over bytes. Reading past the end yields zeros and sets bad, which the caller checks once at the end. */
struct ts_rd {
	const uint8_t *p;
	size_t left;
	bool bad;
};
static inline const void *ts_rd_bytes(struct ts_rd *r, size_t n)
{
	const void *p = r->p;
	if (r->bad || n > r->left) {
		r->bad = true;
		return NULL;
	}
	r->p += n;
	r->left -= n;
	return p;
}
static inline uint8_t ts_rd_u8(struct ts_rd *r)
{
	const uint8_t *p = ts_rd_bytes(r, 1);
	return p ? *p : 0;
}
static inline uint16_t ts_rd_u16(struct ts_rd *r)
{
	const le16 *p = ts_rd_bytes(r, 2);
	return p ? le16_get(*p) : 0;
}
static inline uint32_t ts_rd_u32(struct ts_rd *r)
{
	const le32 *p = ts_rd_bytes(r, 4);
	return p ? le32_get(*p) : 0;
}
static inline uint64_t ts_rd_u64(struct ts_rd *r)
{
	const le64 *p = ts_rd_bytes(r, 8);
	return p ? le64_get(*p) : 0;
}

/* A bounded writer: writing past the end sets bad and writes nothing. */
struct ts_wr {
	uint8_t *p;
	size_t left;
	size_t used;
	bool bad;
};
static inline void *ts_wr_bytes(struct ts_wr *w, const void *src, size_t n)
{
	void *p = w->p;
	if (w->bad || n > w->left) {
		w->bad = true;
		return NULL;
	}
	if (src && n)
		memcpy(w->p, src, n);
	w->p += n;
	w->left -= n;
	w->used += n;
	return p;
}
static inline void ts_wr_u8(struct ts_wr *w, uint8_t x) { ts_wr_bytes(w, &x, 1); }
static inline void ts_wr_u16(struct ts_wr *w, uint16_t x) { le16 v = le16_make(x); ts_wr_bytes(w, &v, 2); }
static inline void ts_wr_u32(struct ts_wr *w, uint32_t x) { le32 v = le32_make(x); ts_wr_bytes(w, &v, 4); }
static inline void ts_wr_u64(struct ts_wr *w, uint64_t x) { le64 v = le64_make(x); ts_wr_bytes(w, &v, 8); }

#endif
