/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the names of a directory over blocks in memory: inode, tree, splits, shrinking, listing, damaged bytes.
 * The layer below is faked here, and stricter than the real one: a change outside a transaction, a pin left behind, a block freed
 * twice or never is an error at once. */
#include "fs/dir_int.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>

#define BLOCKS 65536u
#define DIR_INO 77u

struct block {
	struct fs_buf b;
	uint8_t *data, before[FS_SUB]; /* data on the heap, so that a step outside is seen */
	uint64_t birth;
	bool live, intx;
};
static struct block *block[BLOCKS];
static unsigned nblocks, npins, nlive, alloc_fail, commits;
static bool hostile; /* bytes were damaged: what the code does may be odd, but not wild */
static struct fs fs;
static struct fs_inode dir;
static struct block inode_block;
static uint64_t rng = 88172645463325252ULL;

static uint64_t rnd(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	return rng ^= rng << 17;
}

/* ---- the layer below ----------------------------------------------------------------------------------------------- */
static struct block *of(struct fs_buf *b)
{
	return TS_CONTAINER(b, struct block, b);
}

static void block_free(struct block *k)
{
	if (k)
		free(k->data);
	free(k);
}

static void unchanged(struct block *k)
{
	if (!k->intx)
		assert_memory_equal(k->data, k->before, FS_SUB);
}

int fs_buf_get(struct fs *f, fs_addr a, enum fs_block_type type, enum tok_kind kind, uint64_t id, struct fs_buf **out)
{
	struct block *k = a < nblocks ? block[a] : NULL;

	if (!k || !k->live || ((struct fs_mhdr_disk *)k->data)->type != type || kind != TOK_DIR || id != DIR_INO)
		return -EUCLEAN;
	k->b.pins++;
	npins++;
	*out = &k->b;
	return 0;
}

int fs_buf_new(struct fs *f, fs_addr a, enum fs_block_type type, enum tok_kind kind, uint64_t id, uint32_t gen, struct fs_buf **out)
{
	struct block *k = block[a];
	struct fs_mhdr_disk *h = (struct fs_mhdr_disk *)k->data;

	assert_false(k->live);
	memset(k->data, 0, FS_SUB);
	h->type = (uint8_t)type;
	h->res_gen = le32_make(gen);
	memcpy(k->before, k->data, FS_SUB);
	k->live = true;
	k->b.pins++;
	npins++;
	*out = &k->b;
	return 0;
}

void fs_buf_put(struct fs *f, struct fs_buf *b)
{
	assert_true(b->pins > 0);
	unchanged(of(b));
	b->pins--;
	npins--;
}

void fs_buf_forget(struct fs *f, fs_addr a)
{
	if (hostile && (a >= nblocks || !block[a] || block[a]->b.pins))
		return;
	assert_int_equal(block[a]->b.pins, 0);
	block[a]->live = false;
}

int fs_log_reserve(struct fs *f, size_t bytes)
{
	return 0;
}

void fs_tx_begin(struct fs *f, struct fs_tx *tx)
{
	*tx = (struct fs_tx){.fs = f, .open = true};
	ts_list_init(&tx->bufs);
}

void fs_tx_buf(struct fs_tx *tx, struct fs_buf *b)
{
	assert_true(tx->open && b->pins);
	if (of(b)->intx)
		return;
	unchanged(of(b));
	of(b)->intx = true;
	ts_list_push_back(&tx->bufs, &b->tx_link);
}

uint64_t fs_tx_commit(struct fs_tx *tx)
{
	struct ts_list *l;

	while ((l = ts_list_pop_front(&tx->bufs))) {
		struct block *k = of(ts_list_entry(l, struct fs_buf, tx_link));

		memcpy(k->before, k->data, FS_SUB);
		k->intx = false;
	}
	tx->open = false;
	return ++commits;
}

int fs_alloc_take(struct fs *f, bool meta, uint32_t subs, fs_addr goal, uint64_t stripe, struct fs_ext *out)
{
	assert_true(meta && subs == 1);
	if (alloc_fail && !--alloc_fail)
		return -FS_NEED_META;
	assert_true(nblocks < BLOCKS);
	block[nblocks] = calloc(1, sizeof(struct block));
	block[nblocks]->data = calloc(1, FS_SUB);
	block[nblocks]->b = (struct fs_buf){.addr = nblocks, .data = block[nblocks]->data};
	*out = (struct fs_ext){nblocks++, 1};
	return 0;
}

void fs_alloc_untake(struct fs *f, const struct fs_ext *e)
{
	assert_false(block[e->addr]->live);
	block_free(block[e->addr]);
	block[e->addr] = NULL;
}

void fs_alloc_commit(struct fs *f, struct fs_tx *tx, const struct fs_ext *e)
{
	nlive++;
}

void fs_alloc_free(struct fs *f, struct fs_tx *tx, fs_addr a, uint32_t subs, uint64_t birth)
{
	if (hostile)
		return;
	assert_true(block[a]->live && subs == 1 && birth);
	nlive--;
}

uint64_t fs_version_next(struct fs *f)
{
	return ++commits;
}

int64_t fs_now_ns(struct fs *f)
{
	return (int64_t)++commits;
}

void fs_inode_update_tx(struct fs *f, struct fs_tx *tx, struct fs_inode *ip)
{
	fs_tx_buf(tx, ip->buf);
	fs_idisk(ip)->size = le64_make(ip->size);
	fs_idisk(ip)->mtime_ns = le64_make((uint64_t)ip->mtime_ns);
}

int fs_xattr_make_room(struct fs *f, struct fs_inode *ip, unsigned front)
{
	return 0;
}

static int setup(void **state)
{
	memset(&fs, 0, sizeof(fs));
	memset(&inode_block, 0, sizeof(inode_block));
	memset(&dir, 0, sizeof(dir));
	strcpy(fs.super.name, "test");
	for (int i = 0; i < 16; i++)
		fs.super.hash_key[i] = (uint8_t)(i * 7 + 1);
	inode_block.data = calloc(1, FS_SUB);
	inode_block.b = (struct fs_buf){.data = inode_block.data, .pins = 1, .addr = 12345};
	dir = (struct fs_inode){.ino = DIR_INO, .gen = 5, .buf = &inode_block.b};
	nblocks = 1;
	nlive = npins = alloc_fail = 0;
	hostile = false;
	return 0;
}

static int teardown(void **state)
{
	for (unsigned i = 1; i < nblocks; i++)
		block_free(block[i]);
	free(inode_block.data);
	inode_block.data = NULL;
	memset(block, 0, sizeof(block));
	return 0;
}

/* ---- helpers ------------------------------------------------------------------------------------------------------- */
static int put(const char *name, uint64_t ino)
{
	struct fs_dirop op;
	struct fs_tx tx;
	int rc = fs_dir_insert_prepare(&fs, &dir, name, strlen(name), &op);

	if (!rc) {
		fs_tx_begin(&fs, &tx);
		fs_dir_insert_tx(&fs, &tx, &dir, &op, name, strlen(name), ino, 9, 8);
		fs_tx_commit(&tx);
	}
	fs_dirop_done(&fs, &op);
	assert_int_equal(npins, 0);
	return rc;
}

static int del(const char *name)
{
	struct fs_dirop op;
	struct fs_tx tx;
	int rc = fs_dir_remove_prepare(&fs, &dir, name, strlen(name), &op);

	if (!rc) {
		fs_tx_begin(&fs, &tx);
		fs_dir_remove_tx(&fs, &tx, &dir, &op);
		fs_tx_commit(&tx);
	}
	fs_dirop_done(&fs, &op);
	assert_int_equal(npins, 0);
	return rc;
}

static uint64_t get(const char *name)
{
	struct fs_dirent e;
	int rc = fs_dir_lookup(&fs, &dir, name, strlen(name), &e);

	assert_int_equal(npins, 0);
	assert_true(rc == 0 || rc == -ENOENT);
	if (rc)
		return 0;
	assert_int_equal(e.hash, fs_dir_hash(&fs, name, strlen(name)));
	return e.ino;
}

static void is_inline(void)
{
	assert_int_equal(fs_idisk(&dir)->payload_type, FS_PL_DIRINLINE);
	assert_int_equal(nlive, 0);
	assert_int_equal(le64_get(fs_idisk(&dir)->subs), 0);
}

/* The tree below a node, by its own rules: every leaf fills exactly its slots, every entry is where its hash leads. */
static unsigned max_bits;
static uint64_t check_node(const struct fs_bptr_disk *p, unsigned bits, uint64_t prefix, unsigned *blocks)
{
	uint64_t entries = 0;

	max_bits = TS_MAX(max_bits, bits);
	for (unsigned i = 0; i < 64;) {
		uint64_t here = prefix | (uint64_t)i << (58 - bits);
		fs_addr a = le64_get(p[i].addr[0]);
		struct fs_dirleaf_disk *l;
		struct fs_dirindex_disk *x;
		struct fs_dirent_disk *d;
		unsigned n, off = 0, count = 0;
		struct dir_ents e;

		if (!a) {
			i++;
			continue;
		}
		assert_true(block[a]->live);
		++*blocks;
		if (p[i].flags & FS_BP_INDEX) {
			x = (struct fs_dirindex_disk *)block[a]->data;
			assert_int_equal(x->depth_bits, bits + 6);
			assert_int_equal(le64_get(x->prefix), here);
			entries += check_node(x->p, bits + 6, here, blocks);
			i++;
			continue;
		}
		l = (struct fs_dirleaf_disk *)block[a]->data;
		assert_true(l->depth_bits >= bits && l->depth_bits <= bits + 6);
		assert_int_equal(le64_get(l->prefix), here);
		n = 1u << (bits + 6 - l->depth_bits);
		assert_int_equal(i % n, 0);
		for (unsigned j = 0; j < n; j++)
			assert_int_equal(le64_get(p[i + j].addr[0]), a);
		e = (struct dir_ents){.p = l->ents, .used = le16_get(l->used), .cap = sizeof(l->ents)};
		for (; dir_ents_at(&e, off, &d) > 0; off += le16_get(d->rec_len)) {
			if (!dir_rec_live(d))
				continue;
			count++;
			assert_int_equal(le64_get(d->hash), fs_dir_hash(&fs, dir_rec_name(d), d->name_len));
			if (l->depth_bits)
				assert_int_equal((le64_get(d->hash) ^ here) >> (64 - l->depth_bits), 0);
		}
		assert_int_equal(off, e.used);
		assert_int_equal(count, le16_get(l->count));
		entries += count;
		i += n;
	}
	return entries;
}

struct listing {
	uint64_t last, n, room, sum;
	unsigned *seen; /* by inode number */
};
static bool list_one(void *arg, const struct fs_dirent *e, const char *name, size_t len)
{
	struct listing *l = arg;

	if (!l->room)
		return false;
	l->room--;
	assert_true(e->cookie > l->last && e->cookie > 2 && e->cookie <= INT64_MAX);
	l->last = e->cookie;
	l->n++;
	l->sum += e->ino;
	if (l->seen)
		l->seen[e->ino]++;
	return true;
}

static void check_dir(void)
{
	struct listing l = {.room = UINT64_MAX};
	unsigned blocks = 0;

	max_bits = 0;
	if (fs_idisk(&dir)->payload_type == FS_PL_DIRTREE)
		assert_int_equal(check_node((struct fs_bptr_disk *)fs_idisk(&dir)->payload, 0, 0, &blocks), dir.size);
	assert_int_equal(fs_dir_iterate(&fs, &dir, 0, list_one, &l), 0);
	assert_int_equal(l.n, dir.size);
	assert_int_equal(blocks, nlive);
	assert_int_equal(blocks, le64_get(fs_idisk(&dir)->subs));
}

/* ---- tests --------------------------------------------------------------------------------------------------------- */
static void a_few_names(void **state)
{
	struct listing l = {.room = UINT64_MAX};

	assert_int_equal(get("a"), 0);
	assert_int_equal(del("a"), -ENOENT);
	assert_int_equal(put("a", 10), 0);
	assert_int_equal(put("a", 11), -EEXIST);
	assert_int_equal(put("bb", 12), 0);
	assert_int_equal(put("ccc", 13), 0);
	assert_int_equal(dir.size, 3);
	assert_int_equal(del("bb"), 0);
	assert_int_equal(get("bb"), 0);
	assert_int_equal(put("bx", 14), 0); /* into the room it left */
	assert_int_equal(le16_get(fs_idisk(&dir)->inline_len), 3 * 32);
	assert_int_equal(get("a"), 10);
	assert_int_equal(get("ccc"), 13);
	assert_int_equal(get("bx"), 14);
	assert_int_equal(fs_dir_iterate(&fs, &dir, 0, list_one, &l), 0);
	assert_int_equal(l.n, 3);
	assert_int_equal(l.sum, 37);
	assert_int_equal(fs_dir_iterate(&fs, &dir, (uint64_t)INT64_MAX + 1, list_one, &l), -EINVAL);
	assert_int_equal(del("a"), 0);
	assert_int_equal(del("ccc"), 0);
	assert_int_equal(del("bx"), 0);
	assert_int_equal(dir.size, 0);
	assert_int_equal(le16_get(fs_idisk(&dir)->inline_len), 0);
	is_inline();
}

static void longest_names_fill_a_leaf(void **state)
{
	char name[300];

	for (int i = 0; i < 40; i++) {
		memset(name, 'x', 255);
		sprintf(name + 251, "%04d", i);
		assert_int_equal(put(name, 100 + (uint64_t)i), 0);
		check_dir();
	}
	for (int i = 0; i < 40; i++) {
		sprintf(name + 251, "%04d", i);
		assert_int_equal(get(name), 100 + i);
		assert_int_equal(del(name), 0);
		check_dir();
	}
	is_inline();
}

static void xattrs_keep_their_room(void **state)
{
	char name[32];

	fs_idisk(&dir)->xattr_len = le16_make(700);
	memset(fs_idisk(&dir)->payload + FS_INODE_PAYLOAD - 748, 0xee, 748);
	memcpy(inode_block.before, inode_block.data, FS_SUB);
	for (int i = 0; i < 300; i++) {
		sprintf(name, "name-%d", i);
		assert_int_equal(put(name, 1 + (uint64_t)i), 0);
	}
	assert_int_equal(fs_idisk(&dir)->payload_type, FS_PL_DIRTREE);
	for (int i = 1; i <= 748; i++)
		assert_int_equal(fs_idisk(&dir)->payload[FS_INODE_PAYLOAD - i], 0xee);
	check_dir();
}

static void many_names(void **state)
{
	const unsigned n = 200000;
	struct listing l = {.room = UINT64_MAX};
	char name[32];

	for (unsigned i = 1; i <= n; i++) {
		sprintf(name, "file.%u", i);
		assert_int_equal(put(name, i), 0);
	}
	check_dir();
	for (unsigned i = 1; i <= n; i++) {
		sprintf(name, "file.%u", i);
		assert_int_equal(get(name), i);
	}
	assert_int_equal(fs_dir_iterate(&fs, &dir, 0, list_one, &l), 0);
	assert_int_equal(l.n, n);
	assert_int_equal(l.sum, (uint64_t)n * (n + 1) / 2);
	for (unsigned i = 1; i <= n; i++) {
		sprintf(name, "file.%u", (unsigned)((uint64_t)i * 77773 % n) + 1);
		assert_int_equal(del(name), 0);
		if (i % 50000 == 0)
			check_dir();
	}
	assert_int_equal(dir.size, 0);
	is_inline();
}

/* Random changes against an array that says what should be there. */
static void random_changes(void **state)
{
	enum { N = 3000 };
	static uint64_t model[N];
	char name[300];

	memset(model, 0, sizeof(model));
	for (unsigned step = 0; step < 60000; step++) {
		unsigned i = (unsigned)(rnd() % N), grow = step / 10000 % 2 ? 30 : 70;

		memset(name, 'n', sizeof(name));
		sprintf(name + i % 190, ".%u", i);
		assert_int_equal(get(name), model[i]);
		if (rnd() % 100 < grow) {
			int rc = put(name, step + 1);

			assert_int_equal(rc, model[i] ? -EEXIST : 0);
			model[i] = rc ? model[i] : step + 1;
		} else {
			assert_int_equal(del(name), model[i] ? 0 : -ENOENT);
			model[i] = 0;
		}
		if (step % 5000 == 0)
			check_dir();
	}
	check_dir();
}

/* A listing in small pieces while names come and go: what lives throughout is seen once. */
static void listing_is_stable(void **state)
{
	enum { N = 6000 };
	static unsigned seen[4 * N];
	char name[32];

	for (unsigned room = 1; room < 300; room = room * 3 + 1) {
		struct listing l = {.seen = seen};
		unsigned extra = 2 * N;
		uint64_t before;

		memset(seen, 0, sizeof(seen));
		for (unsigned i = 1; i < N; i++) {
			sprintf(name, "%s%u", i % 2 ? "stays" : "goes", i);
			assert_int_equal(put(name, i), 0);
		}
		do {
			before = l.n;
			l.room = room;
			assert_int_equal(fs_dir_iterate(&fs, &dir, l.last, list_one, &l), 0);
			for (int k = 0; k < 3 && extra < 4 * N; k++) {
				sprintf(name, "new%u", extra);
				assert_int_equal(put(name, extra++), 0);
				sprintf(name, "goes%u", (unsigned)(rnd() % (N / 2)) * 2);
				(void)!del(name);
			}
		} while (l.n != before);
		for (unsigned i = 1; i < 4 * N; i++)
			assert_true(i % 2 && i < N ? seen[i] == 1 : seen[i] <= 1);
		teardown(NULL);
		setup(NULL);
	}
}

/* Insert and remove in one transaction, as rename does; the last entry of a leaf and of the tree included. */
static void rename_within(void **state)
{
	char a[64], b[64];

	for (unsigned n = 1; n < 400; n = n * 2 + 1) {
		for (unsigned i = 0; i < n; i++) {
			sprintf(a, "x%u-and-some-more-letters-to-make-it-long", i);
			assert_int_equal(put(a, i + 1), 0);
		}
		for (unsigned i = 0; i < n * 4; i++) {
			struct fs_dirop from, to;
			struct fs_tx tx;

			sprintf(a, "x%u-and-some-more-letters-to-make-it-long", i);
			sprintf(b, "x%u-and-some-more-letters-to-make-it-long", i + n);
			assert_int_equal(fs_dir_insert_prepare(&fs, &dir, b, strlen(b), &to), 0);
			assert_int_equal(fs_dir_remove_prepare(&fs, &dir, a, strlen(a), &from), 0);
			fs_tx_begin(&fs, &tx);
			fs_dir_insert_tx(&fs, &tx, &dir, &to, b, strlen(b), from.ent.ino, 9, 8);
			fs_dir_remove_tx(&fs, &tx, &dir, &from);
			fs_tx_commit(&tx);
			fs_dirop_done(&fs, &to);
			fs_dirop_done(&fs, &from);
			assert_int_equal(npins, 0);
			assert_int_equal(get(a), 0);
			assert_int_equal(get(b), i % n + 1);
			check_dir();
		}
		assert_int_equal(dir.size, n);
		for (unsigned i = n * 4; i < n * 5; i++) {
			sprintf(a, "x%u-and-some-more-letters-to-make-it-long", i);
			assert_int_equal(del(a), 0);
		}
		is_inline();
	}
}

static void replace_keeps_the_cookie(void **state)
{
	struct fs_dirent before, after;
	struct fs_dirop op;
	struct fs_tx tx;

	assert_int_equal(put("name", 10), 0);
	assert_int_equal(fs_dir_lookup(&fs, &dir, "name", 4, &before), 0);
	assert_int_equal(fs_dir_insert_prepare(&fs, &dir, "name", 4, &op), -EEXIST);
	assert_true(op.found && op.ent.ino == 10);
	fs_tx_begin(&fs, &tx);
	fs_dir_replace_tx(&fs, &tx, &dir, &op, 20, 3, 4);
	fs_tx_commit(&tx);
	fs_dirop_done(&fs, &op);
	assert_int_equal(fs_dir_lookup(&fs, &dir, "name", 4, &after), 0);
	assert_true(after.ino == 20 && after.gen == 3 && after.type == 4 && after.cookie == before.cookie);
	assert_int_equal(dir.size, 1);
}

/* Names whose hashes begin alike: several levels of index, splits with all on one side, holes. */
static void names_that_hash_alike(void **state)
{
	enum { N = 24 };
	static char names[N][256];
	unsigned found = 0;
	uint64_t want = 0x2ab5;

	for (uint64_t i = 0; found < N; i++) {
		int len = sprintf(names[found], "%0200lu", i);

		if (fs_dir_hash(&fs, names[found], (size_t)len) >> 50 == want)
			found++;
	}
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(put(names[i], i + 1), 0);
		check_dir();
	}
	assert_true(max_bits >= 12);
	assert_int_equal(put("somewhere else", 99), 0);
	assert_int_equal(put("and elsewhere", 98), 0);
	check_dir();
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(get(names[i]), i + 1);
		assert_int_equal(del(names[i]), 0);
		check_dir();
	}
	assert_int_equal(del("somewhere else"), 0);
	assert_int_equal(del("and elsewhere"), 0);
	is_inline();
}

static void no_space_at_the_nth(void **state)
{
	char name[64];

	for (unsigned i = 0; i < 3000; i++) {
		int rc, fails = 0;

		sprintf(name, "%u is a name", i);
		do {
			alloc_fail = fails < 2;
			rc = put(name, i + 1);
			if (rc) {
				assert_int_equal(rc, -FS_NEED_META);
				assert_int_equal(get(name), 0);
				assert_int_equal(dir.size, i);
			}
			fails++;
		} while (rc);
		alloc_fail = 0;
	}
	check_dir();
	for (unsigned i = 0; i < 3000; i++) {
		sprintf(name, "%u is a name", i);
		assert_int_equal(get(name), i + 1);
	}
}

static void dead_tree_is_freed(void **state)
{
	char name[32];

	for (unsigned i = 0; i < 30000; i++) {
		sprintf(name, "%u", i);
		assert_int_equal(put(name, i + 1), 0);
	}
	assert_true(nlive > 300);
	assert_int_equal(fs_dir_free_tree(&fs, &dir), 0);
	assert_int_equal(npins, 0);
	is_inline();
	assert_int_equal(fs_dir_free_tree(&fs, &dir), 0);
}

static void damage(unsigned n)
{
	while (n--) {
		unsigned i = (unsigned)(rnd() % nblocks);
		struct block *k = i && block[i] ? block[i] : &inode_block;
		unsigned off = (unsigned)(rnd() % (rnd() % 3 ? 256 : FS_SUB));

		if (k == &inode_block)
			off = 64 + off % (FS_SUB - 64);
		switch (rnd() % 3) {
		case 0:
			k->data[off] = (uint8_t)rnd();
			break;
		case 1:
			k->data[off] ^= (uint8_t)(1u << rnd() % 8);
			break;
		case 2: /* a piece of another block */
			memmove(k->data + off, inode_block.data + off, TS_MIN(64u, FS_SUB - off));
			break;
		}
		memcpy(k->before, k->data, FS_SUB);
	}
}

static void is_refused(const char *name)
{
	struct listing l = {.room = UINT64_MAX};
	struct fs_dirent e;

	assert_int_equal(fs_dir_lookup(&fs, &dir, name, strlen(name), &e), -EUCLEAN);
	assert_int_equal(put(name, 1), -EUCLEAN);
	assert_int_equal(del(name), -EUCLEAN);
	assert_int_equal(fs_dir_iterate(&fs, &dir, 0, list_one, &l), -EUCLEAN);
}

/* Records that reach exactly to a length that is more than the block has. */
static void lengths_beyond_the_block(void **state)
{
	struct fs_inode_disk *d = fs_idisk(&dir);
	struct fs_dirleaf_disk *l;
	char name[300];

	assert_int_equal(put("a", 10), 0);
	((struct fs_dirent_disk *)d->payload)->rec_len = le16_make(FS_INODE_PAYLOAD + 3);
	d->inline_len = le16_make(FS_INODE_PAYLOAD + 3);
	memcpy(inode_block.before, inode_block.data, FS_SUB);
	is_refused("b");
	d->inline_len = le16_make(3000);
	d->xattr_len = le16_make(4000);
	memcpy(inode_block.before, inode_block.data, FS_SUB);
	is_refused("b");
	teardown(NULL);
	setup(NULL);
	memset(name, 'x', sizeof(name));
	for (int i = 0; i < 14; i++) {
		sprintf(name + 200, "%04d", i);
		assert_int_equal(put(name, 100 + (uint64_t)i), 0);
	}
	for (int i = 14; i < 18; i++) {
		sprintf(name + 200, "%04d", i);
		assert_int_equal(put(name, 100 + (uint64_t)i), 0);
	}
	l = (struct fs_dirleaf_disk *)block[1]->data;
	for (unsigned off = 0; off < le16_get(l->used);) {
		struct fs_dirent_disk *r = (struct fs_dirent_disk *)(l->ents + off);

		off += le16_get(r->rec_len);
		if (off == le16_get(l->used))
			r->rec_len = le16_make((uint16_t)(le16_get(r->rec_len) + 4004 - off));
	}
	l->used = le16_make(4004);
	memcpy(block[1]->before, block[1]->data, FS_SUB);
	for (unsigned i = 0;; i++) { /* a name that belongs there */
		sprintf(name, "%u", i);
		if (!l->depth_bits || !((fs_dir_hash(&fs, name, strlen(name)) ^ le64_get(l->prefix)) >> (64 - l->depth_bits)))
			break;
	}
	is_refused(name);
}

static bool list_any(void *arg, const struct fs_dirent *e, const char *name, size_t len)
{
	assert_true(len >= 1 && len <= 255);
	return true;
}

/* Whatever the bytes say: an errno or an answer, never a step outside a block (the sanitizers look), never an assertion. */
static void damaged_bytes(void **state)
{
	char name[64];

	for (unsigned round = 0; round < 300; round++) {
		unsigned n = round % 3 ? 1500 : 60;

		for (unsigned i = 0; i < n; i++) {
			sprintf(name, "%u%.*s", i, (int)(i % 40), "0123456789012345678901234567890123456789");
			assert_int_equal(put(name, i + 1), 0);
		}
		hostile = true;
		damage(1 + round % 40);
		for (unsigned i = 0; i < 300; i++) {
			unsigned k = (unsigned)(rnd() % (n * 2));
			struct fs_dirent e;

			sprintf(name, "%u%.*s", k, (int)(k % 40), "0123456789012345678901234567890123456789");
			(void)!fs_dir_lookup(&fs, &dir, name, strlen(name), &e);
			if (rnd() % 2)
				(void)!put(name, k + 1);
			else
				(void)!del(name);
		}
		(void)!fs_dir_iterate(&fs, &dir, rnd() % 2 ? 0 : rnd() >> 1, list_any, NULL);
		(void)!fs_dir_free_tree(&fs, &dir);
		assert_int_equal(npins, 0);
		teardown(NULL);
		setup(NULL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_few_names, setup, teardown),
		cmocka_unit_test_setup_teardown(longest_names_fill_a_leaf, setup, teardown),
		cmocka_unit_test_setup_teardown(xattrs_keep_their_room, setup, teardown),
		cmocka_unit_test_setup_teardown(many_names, setup, teardown),
		cmocka_unit_test_setup_teardown(random_changes, setup, teardown),
		cmocka_unit_test_setup_teardown(listing_is_stable, setup, teardown),
		cmocka_unit_test_setup_teardown(rename_within, setup, teardown),
		cmocka_unit_test_setup_teardown(replace_keeps_the_cookie, setup, teardown),
		cmocka_unit_test_setup_teardown(names_that_hash_alike, setup, teardown),
		cmocka_unit_test_setup_teardown(no_space_at_the_nth, setup, teardown),
		cmocka_unit_test_setup_teardown(dead_tree_is_freed, setup, teardown),
		cmocka_unit_test_setup_teardown(lengths_beyond_the_block, setup, teardown),
		cmocka_unit_test_setup_teardown(damaged_bytes, setup, teardown),
	};

	ts_log_level_set((enum ts_log_level)0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
