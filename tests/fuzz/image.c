/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the disks of image.h: made, remembered, copied, damaged, sealed again. */
#include "tests/fuzz/image.h"
#include "fs/log_int.h"

#include <fcntl.h>
#include <stdio.h>

#define SUBS (IMAGE_BYTES / FS_SUB)
#define VARIANTS 2u

enum { C_LABEL, C_FRAME, C_BLOCK, CLASSES = C_BLOCK + FS_BT_COUNT };
struct base {
	uint8_t *bytes[IMAGE_DISKS];
	uint32_t used[IMAGE_DISKS * SUBS]; /* what is not as a new disk of the harness, disk * SUBS + sub */
	unsigned nused;
	struct class { /* of these: labels, frames of logs, and blocks with our header by type; those that there are, one behind the other */
		uint32_t *at;
		unsigned n;
	} class[CLASSES];
	unsigned nclass;
	uint8_t kind[IMAGE_DISKS * SUBS]; /* by what seals it */
	uint32_t frame[IMAGE_DISKS * SUBS]; /* K_FRAME: first sub of the frame */
};
enum { K_NONE, K_LABEL, K_BLOCK, K_FRAME };
static struct base *base[VARIANTS];
static const struct fs_cred me = {.uid = 0, .umask = 022};

/* ---- populated ---------------------------------------------------------------------------------------------------------- */

static void must(int rc, const char *what)
{
	if (rc < 0)
		TS_PANIC("making the image: %s: %d", what, rc);
}

static uint64_t mk(struct fs *fs, uint64_t dir, const char *name, uint32_t mode, const char *target)
{
	struct fs_attr at;

	must(fs_mknod(fs, &me, dir, name, strlen(name), mode, 0x1234, target, &at), name);
	return at.ino;
}

static void put(struct fs *fs, uint64_t ino, uint64_t off, size_t len, uint8_t fill)
{
	uint8_t *buf = ts_xalloc(len);
	struct fs_file *f;

	memset(buf, fill, len);
	must(fs_open(fs, &me, ino, O_RDWR, &f), "open");
	must((int)fs_write(fs, f, buf, len, off, false, false, NULL), "write");
	must(fs_fsync(fs, f, false), "fsync");
	fs_release(fs, f);
	ts_free(buf);
}

static void attr(struct fs *fs, uint64_t ino, const char *name, size_t len)
{
	static char value[65536];

	memset(value, 'v', sizeof(value));
	must(fs_setxattr(fs, &me, ino, name, value, len, 0), name);
}

static void populate_tree(struct fs *fs, uint64_t file)
{
	uint64_t dir = mk(fs, FS_ROOT_INO, "tree", S_IFDIR | 0755, NULL);
	char name[256];
	struct fs_attr at;

	for (unsigned i = 0; i < 90; i++) { /* several leaves under an index */
		snprintf(name, sizeof(name), "%0120u", i);
		must(fs_link(fs, &me, file, dir, name, strlen(name), &at), name);
	}
	for (unsigned i = 0; i < 10; i++) {
		snprintf(name, sizeof(name), "%0120u", 7 * i);
		must(fs_unlink(fs, &me, dir, name, strlen(name)), name);
	}
}

static void populate(void *arg)
{
	struct fs *fs = ((struct fsh *)arg)->fs;
	uint64_t dir = mk(fs, FS_ROOT_INO, "dir", S_IFDIR | 0755, NULL), tiny, flat, sparse, vals;
	char target[4001] = "", name[32];

	tiny = mk(fs, dir, "tiny", S_IFREG | 0644, NULL);
	flat = mk(fs, dir, "flat", S_IFREG | 0644, NULL);
	sparse = mk(fs, dir, "sparse", S_IFREG | 0644, NULL);
	vals = mk(fs, dir, "vals", S_IFDIR | 0700, NULL);
	mk(fs, dir, "link", S_IFLNK | 0777, "tiny");
	memset(target, 't', sizeof(target) - 1);
	mk(fs, dir, "longlink", S_IFLNK | 0777, target);
	mk(fs, dir, "dev", S_IFCHR | 0600, NULL);
	put(fs, tiny, 0, 1000, 1);
	put(fs, flat, 0, 3 * IMAGE_BLOCK + 5000, 2);
	put(fs, sparse, 6000ull * IMAGE_BLOCK, 100, 5); /* two levels of pointers */
	put(fs, sparse, 20ull * IMAGE_BLOCK, 10000, 6);
	attr(fs, tiny, "user.a", 20);
	attr(fs, flat, "user.large", 2500);
	attr(fs, flat, "user.long", 5000); /* an extent of its own */
	for (unsigned i = 0; i < 30; i++) { /* more than a block of them */
		snprintf(name, sizeof(name), "user.number.%u", i);
		attr(fs, vals, name, 150 + i);
	}
	populate_tree(fs, tiny);
	must(fs_sync(fs), "sync");
}

/* Behind the sync, so that a log has something to replay: creates, links, frees, an orphan. */
static void late(void *arg)
{
	struct fs *fs = ((struct fsh *)arg)->fs;
	uint64_t dir = mk(fs, FS_ROOT_INO, "late", S_IFDIR | 0755, NULL), a = mk(fs, dir, "a", S_IFREG | 0644, NULL);
	struct fs_attr at;
	struct fs_file *f;

	put(fs, a, 0, 2 * IMAGE_BLOCK, 9);
	must(fs_link(fs, &me, a, dir, "b", 1, &at), "link");
	mk(fs, dir, "gone", S_IFREG | 0644, NULL);
	must(fs_lookup(fs, &me, dir, "gone", 4, &at), "lookup");
	must(fs_open(fs, &me, at.ino, O_RDWR, &f), "open");
	must(fs_unlink(fs, &me, dir, "gone", 4), "unlink");
	must(fs_rename(fs, &me, dir, "a", 1, FS_ROOT_INO, "moved", 5, 0), "rename");
	must(fs_fsync_ino(fs, dir), "fsync");
}

/* ---- remembered ---------------------------------------------------------------------------------------------------------- */

static bool fresh_sub(const uint8_t *p, uint32_t sub)
{
	for (unsigned i = 0; i < FS_SUB; i++)
		if (p[i] != (sub && sub % 16 == 0 && i < 64 ? 0xa5 : 0))
			return false;
	return true;
}

static void classify(struct base *b, unsigned class, uint32_t at)
{
	struct class *c = &b->class[class];

	if (!c->at)
		c->at = ts_xalloc(IMAGE_DISKS * SUBS * sizeof(*c->at));
	c->at[c->n++] = at;
}

static void remember_sub(struct base *b, uint32_t disk, uint32_t sub)
{
	const uint8_t *p = b->bytes[disk] + (size_t)sub * FS_SUB;
	const struct fs_frame_disk *f = (const struct fs_frame_disk *)p;
	uint32_t at = disk * SUBS + sub;

	if (fresh_sub(p, sub))
		return;
	b->used[b->nused++] = at;
	if (sub < 2)
		b->kind[at] = K_LABEL;
	else if (le32_get(f->magic) == FS_MAGIC)
		b->kind[at] = K_BLOCK;
	else if (le32_get(f->magic) == FS_FRAME_MAGIC && le32_get(f->payload_len))
		for (uint32_t i = 0; i < le32_get(f->frame_len) / FS_SUB; i++) {
			b->kind[at + i] = K_FRAME;
			b->frame[at + i] = at;
		}
	if (b->kind[at] == K_BLOCK) {
		unsigned type = ((const struct fs_mhdr_disk *)p)->type;

		/* Free inodes are many and all alike. */
		if (type != FS_BT_INODE || le16_get(((const struct fs_inode_disk *)p)->mode) || sub % 64 == 0)
			classify(b, C_BLOCK + type, at);
	} else if (b->kind[at]) {
		classify(b, b->kind[at] == K_LABEL ? C_LABEL : C_FRAME, at);
	}
}

static struct base *make(unsigned how)
{
	struct fsh *h = fsh_new(IMAGE_DISKS, IMAGE_BYTES);
	struct fs_format_args a = {.block_size = IMAGE_BLOCK, .log_slots = 2, .log_bytes = 1 << 20, .name = "fuzz"};
	struct base *b = ts_xalloc(sizeof(*b));

	memset(b, 0, sizeof(*b));
	fsh_format_args(h, &a);
	fsh_mount(h);
	fsh_run(h, populate, h);
	if (how & IMAGE_CRASHED) {
		fsh_run(h, late, h);
		fsh_crash(h, 0);
	} else {
		fsh_unmount(h);
	}
	for (uint32_t d = 0; d < IMAGE_DISKS; d++) {
		b->bytes[d] = ts_xalloc(IMAGE_BYTES);
		memcpy(b->bytes[d], h->disk[d]->now, IMAGE_BYTES);
		for (uint32_t s = 0; s < SUBS; s++)
			remember_sub(b, d, s);
	}
	fsh_free(h);
	for (unsigned i = 0; i < CLASSES; i++)
		if (b->class[i].n)
			b->class[b->nclass++] = b->class[i];
	return b;
}

/* ---- damaged ------------------------------------------------------------------------------------------------------------ */

static uint8_t *sub_of(struct fsh *h, uint32_t at)
{
	return h->disk[at / SUBS]->now + (size_t)(at % SUBS) * FS_SUB;
}

static void seal(const struct base *b, struct fsh *h, uint32_t at)
{
	struct nsd_label_disk *l = (struct nsd_label_disk *)sub_of(h, at);
	struct fs_mhdr_disk *m = (struct fs_mhdr_disk *)l;
	struct fs_frame_disk *f;
	uint32_t len;

	switch (b->kind[at]) {
	case K_LABEL:
		l->csum = le64_make(ts_csum64_skip(l, sizeof(*l), offsetof(struct nsd_label_disk, csum), 0));
		break;
	case K_BLOCK:
		m->csum = le64_make(ts_csum64_skip(m, FS_SUB, FS_MHDR_CSUM_OFF, 0));
		break;
	case K_FRAME:
		f = (struct fs_frame_disk *)sub_of(h, b->frame[at]);
		len = le32_get(f->payload_len);
		if (len <= FS_FRAME_MAX - sizeof(*f) && (b->frame[at] % SUBS) * FS_SUB + sizeof(*f) + len <= IMAGE_BYTES)
			f->csum = le64_make(ts_csum64_skip(f, sizeof(*f) + len, offsetof(struct fs_frame_disk, csum), 0));
		break;
	}
}

/* Where in a block: near its head, at its n-th byte that is not zero (where structs are), or anywhere. */
static unsigned place(const uint8_t *p, unsigned how, unsigned n)
{
	unsigned seen = 0, last = 0;

	if (how == 0)
		return n % 256;
	if (how == 1)
		return n % FS_SUB;
	for (unsigned i = 64; i < FS_SUB; i++) {
		if (!p[i])
			continue;
		last = i;
		if (seen++ == n % 1024)
			return i;
	}
	return last;
}

static const uint64_t special[] = {0, 1, 2, 63, 64, 255, 256, 511, 512, 4095, 4096, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000,
				   0xffffffff, 1ULL << 40, 1ULL << 48, 1ULL << 62, INT64_MAX, 1ULL << 63, UINT64_MAX, UINT64_MAX - 4095};

static uint64_t value(const struct base *b, const struct image_damage *d)
{
	uint64_t v = le64_get(d->v);
	uint32_t at;

	switch (d->where >> 2 & 3) {
	case 0:
		return special[v % TS_ARRAY_LEN(special)];
	case 1:
		return v & 255;
	case 2: /* an address of something */
		at = b->used[v % b->nused];
		return FS_ADDR(at / SUBS, at % SUBS);
	default:
		return v;
	}
}

static void write_value(uint8_t *p, unsigned off, unsigned size, uint64_t v, bool add)
{
	le64 x;

	off = TS_MIN(off, FS_SUB - 8);
	memcpy(&x, p + off, 8);
	x = le64_make(add ? le64_get(x) + v : v);
	memcpy(p + off, &x, size);
}

/* Superblocks, labels and log headers lie twice: a damage to one alone is mended from the other. */
static uint32_t twin(struct fsh *h, uint32_t at)
{
	const struct fs_mhdr_disk *m = (const struct fs_mhdr_disk *)sub_of(h, at);
	uint32_t sub = at % SUBS;

	if (sub < 2 || sub / 2 == FS_SUPER_SUB / 2 || (le32_get(m->magic) == FS_MAGIC && m->type == FS_BT_LOGHEAD))
		return at ^ 1;
	return (at + SUBS) % (IMAGE_DISKS * SUBS);
}

/* Any class is as likely as another, however many blocks it has. */
static uint32_t pick(const struct base *b, unsigned v)
{
	const struct class *c = &b->class[v % b->nclass];

	return c->at[v / b->nclass % c->n];
}

static void damage(const struct base *b, struct fsh *h, const struct image_damage *d)
{
	uint8_t how = d->how, where = d->where;
	uint32_t at = pick(b, le16_get(d->at)), from = b->used[le16_get(d->from) % b->nused];
	uint8_t *p = sub_of(h, at);
	unsigned off = place(p, where & 3, le16_get(d->off)), n = 1 + (le64_get(d->v) & 255);

	switch (how & 7) {
	case 0: /* a byte, two, four or eight */
	case 1:
	case 2:
	case 3:
		write_value(p, off, 1u << (how & 3), value(b, d), where & 64);
		break;
	case 4: /* bytes of another block */
		memcpy(p + off, sub_of(h, from) + off, TS_MIN(n, FS_SUB - off));
		break;
	case 5: /* bytes of the same block */
		off = TS_MIN(off, FS_SUB - n);
		memmove(p + off, p + (off + 8u * n) % (FS_SUB - n), n);
		break;
	case 6: /* a whole block, and it says that it belongs here */
		memcpy(p, sub_of(h, from), FS_SUB);
		if (where & 64 && le32_get(((struct fs_mhdr_disk *)p)->magic) == FS_MAGIC)
			((struct fs_mhdr_disk *)p)->addr = le64_make(FS_ADDR(at / SUBS, at % SUBS));
		break;
	case 7: /* zeros */
		memset(p + off, 0, TS_MIN(8u * n, FS_SUB - off));
		break;
	}
	if (!(how & 8)) {
		seal(b, h, at);
		if (how & 16 && b->kind[twin(h, at)] == b->kind[at]) {
			fs_addr own = le64_get(((struct fs_mhdr_disk *)p)->addr);
			uint32_t other = twin(h, at);

			memcpy(sub_of(h, other), p, FS_SUB);
			if (b->kind[at] == K_BLOCK)
				((struct fs_mhdr_disk *)sub_of(h, other))->addr = le64_make(own + FS_ADDR(other / SUBS, other % SUBS) - FS_ADDR(at / SUBS, at % SUBS));
			seal(b, h, other);
		}
	}
}

struct fsh *image_open(unsigned how, struct ts_rd *rd)
{
	struct base *b = base[how % VARIANTS];
	struct fsh *h;

	if (!b)
		b = base[how % VARIANTS] = make(how % VARIANTS);
	h = fsh_new(IMAGE_DISKS, IMAGE_BYTES);
	h->incarnation = 1000;
	h->now_ns = 1000 * TS_NS_PER_S;
	for (unsigned i = 0; i < b->nused; i++)
		memcpy(sub_of(h, b->used[i]), b->bytes[b->used[i] / SUBS] + (size_t)(b->used[i] % SUBS) * FS_SUB, FS_SUB);
	for (unsigned i = 0; i < IMAGE_DAMAGES; i++) {
		const struct image_damage *d = ts_rd_bytes(rd, sizeof(*d));

		if (!d)
			break;
		damage(b, h, d);
	}
	return h;
}

void image_seeds(const uint8_t *head, size_t n)
{
	uint8_t buf[64];

	fuzz_seed(head, n);
	for (unsigned i = 0; i < 48; i++) { /* one block after the other */
		struct image_damage d = {.how = (uint8_t)((i & 7) | (i & 1 ? 16 : 0)), .where = (uint8_t)(i % 3), .at = le16_make((uint16_t)(3 * i)),
				   .from = le16_make((uint16_t)(7 * i)), .off = le16_make((uint16_t)(64 + i)), .v = le64_make(i)};

		memcpy(buf, head, n);
		memcpy(buf + n, &d, sizeof(d));
		fuzz_seed(buf, n + sizeof(d));
	}
}
