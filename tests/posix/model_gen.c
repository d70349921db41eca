/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the next operation, at random, but such that most of them meet something: paths that exist, handles
 * that are open, offsets near borders. Half of all are looks, so that caches fill between the changes. What
 * must never happen: it depends on anything but the seed and the model (a run could not be repeated). */
#include "model.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/file.h>
#include <sys/xattr.h>

#define STAYS	  8 /* operations on a mount before another is drawn */
#define MIN(a, b) ((a) < (b) ? (a) : (b))

static uint64_t rnd(uint64_t *rng, uint64_t below)
{
	*rng += 0x9e3779b97f4a7c15ULL;
	return model_hash(*rng) % below;
}

/* ---- paths ---- */
struct paths {
	char p[128][MODEL_PATH];
	unsigned n, dirs; /* directories are found by their inodes */
	int ino[128];
};

static void collect(struct model *m, int dir, const char *at, struct paths *all)
{
	for (unsigned k = 0; k < MODEL_ENTRIES; k++) {
		int ino = m->i[dir].e[k].ino;
		if (ino < 0 || all->n == 128 || strlen(at) + 4 > MODEL_PATH)
			continue;
		char *p = all->p[all->n];
		snprintf(p, MODEL_PATH, "%.80s%s%.10s", at, *at ? "/" : "", m->i[dir].e[k].name);
		all->ino[all->n++] = ino;
		if (S_ISDIR(m->i[ino].mode))
			collect(m, ino, p, all);
	}
}

static void new_path(struct model *m, const struct paths *all, uint64_t *rng, char *out)
{
	const char *dir = "";
	char name = (char)('a' + rnd(rng, 7));

	for (unsigned tries = 0; all->n && tries < 4; tries++) {
		unsigned k = (unsigned)rnd(rng, all->n);
		bool can = S_ISDIR(m->i[all->ino[k]].mode) || rnd(rng, 12) == 0;
		if (can && strlen(all->p[k]) < 6 && rnd(rng, 3)) {
			dir = all->p[k];
			break;
		}
	}
	snprintf(out, MODEL_PATH, "%.80s%s%c", dir, *dir ? "/" : "", name);
}

static void old_path(struct model *m, const struct paths *all, uint64_t *rng, char *out)
{
	if (all->n && rnd(rng, 10))
		memcpy(out, all->p[rnd(rng, all->n)], MODEL_PATH);
	else
		new_path(m, all, rng, out);
}

static void dir_path(struct model *m, const struct paths *all, uint64_t *rng, char *out)
{
	strcpy(out, ".");
	for (unsigned tries = 0; all->n && tries < 6 && rnd(rng, 4); tries++) {
		unsigned k = (unsigned)rnd(rng, all->n);
		if (S_ISDIR(m->i[all->ino[k]].mode) || rnd(rng, 30) == 0) {
			memcpy(out, all->p[k], MODEL_PATH);
			return;
		}
	}
}

/* ---- handles, offsets ---- */
static bool has_handle(struct model *m, const struct model_op *op)
{
	const struct model_handle *h = &m->h[op->mount][op->slot];
	bool dir = h->ino >= 0 && S_ISDIR(m->i[h->ino].mode);

	switch (op->kind) {
	case MODEL_FSTAT:
		return h->ino >= 0;
	case MODEL_HLIST:
		return h->ino >= 0 && dir;
	case MODEL_APPEND:
		return h->ino >= 0 && !dir && h->append;
	case MODEL_PWRITE:
		return h->ino >= 0 && !dir && !h->append;
	default:
		return h->ino >= 0 && !dir;
	}
}

static void pick_slot(struct model *m, uint64_t *rng, struct model_op *op)
{
	unsigned first = (unsigned)rnd(rng, MODEL_SLOTS);

	for (unsigned k = 0; k < MODEL_SLOTS; k++) {
		op->slot = (uint8_t)((first + k) % MODEL_SLOTS);
		if (has_handle(m, op))
			return;
	}
}

static uint64_t some_offset(struct model *m, uint64_t *rng, const struct model_op *op)
{
	static const uint64_t borders[] = {0, 8, 3901, 4096, 8192, 65536, 131072, 1048576};
	int ino = op->kind == MODEL_LOAD || op->kind == MODEL_STORE ? m->map[op->mount][op->slot % MODEL_MAPS]
								    : m->h[op->mount][op->slot].ino;
	uint64_t size = ino >= 0 ? m->i[ino].size : 0, at;

	switch (rnd(rng, 4)) {
	case 0:
		at = borders[rnd(rng, rnd(rng, 10) ? 5 : 8)] + rnd(rng, 9);
		return at > 4 ? at - 4 : 0;
	case 1:
		at = size + rnd(rng, 9);
		return at > 4 ? at - 4 : 0;
	case 2:
		return size ? rnd(rng, size) : 0;
	default:
		return rnd(rng, 10000);
	}
}

static uint64_t some_length(uint64_t *rng)
{
	static const uint64_t scale[] = {8, 8, 200, 200, 200, 5000, 5000, 70000};

	return 1 + rnd(rng, scale[rnd(rng, 8)]);
}

static uint32_t open_flags(uint64_t *rng, uint32_t classes)
{
	static const struct {
		uint32_t flags, needs;
	} by[] = {
		{O_RDWR, 0},
		{O_RDWR, 0},
		{O_RDWR, 0},
		{O_RDWR | O_CREAT, 0},
		{O_RDWR | O_CREAT, 0},
		{O_RDWR | O_CREAT, 0},
		{O_RDWR | O_CREAT | O_EXCL, 0},
		{O_RDONLY, 0},
		{O_RDONLY, 0},
		{O_WRONLY, 0},
		{O_RDONLY | O_DIRECTORY, 0},
		{O_RDONLY | O_DIRECTORY, 0},
		{O_RDWR | O_APPEND, MODEL_C_APPEND},
		{O_RDWR | O_APPEND | O_CREAT, MODEL_C_APPEND},
		{O_RDWR | O_TRUNC, MODEL_C_TRUNCATE},
		{O_RDWR | O_TRUNC | O_CREAT, MODEL_C_TRUNCATE},
	};
	for (;;) {
		unsigned k = (unsigned)rnd(rng, sizeof(by) / sizeof(by[0]));
		if ((by[k].needs & classes) == by[k].needs)
			return by[k].flags;
	}
}

/* ---- the table ---- */
static const struct {
	uint8_t kind, weight;
	uint16_t class;
	const char *draws; /* n new path, o old path, d directory, h handle, q second new, Q second old, m
			      map, a offset, l length */
} table[] = {
	{MODEL_OPEN, 14, MODEL_C_DATA, "o"},	   {MODEL_OPEN, 6, MODEL_C_DATA, "n"},
	{MODEL_CLOSE, 2, MODEL_C_DATA, "h"},	   {MODEL_PWRITE, 16, MODEL_C_DATA, "hal"},
	{MODEL_APPEND, 8, MODEL_C_APPEND, "hl"},   {MODEL_READ, 90, MODEL_C_DATA, "hal"},
	{MODEL_FTRUNC, 3, MODEL_C_TRUNCATE, "ha"}, {MODEL_TRUNC, 3, MODEL_C_TRUNCATE, "oa"},
	{MODEL_MAP, 3, MODEL_C_MAP, "m"},	   {MODEL_UNMAP, 1, MODEL_C_MAP, "m"},
	{MODEL_STORE, 8, MODEL_C_MAP, "mal"},	   {MODEL_LOAD, 42, MODEL_C_MAP, "mal"},
	{MODEL_FSTAT, 100, MODEL_C_DATA, "h"},	   {MODEL_STAT, 110, MODEL_C_NAME, "o"},
	{MODEL_LIST, 16, MODEL_C_NAME, "d"},	   {MODEL_HLIST, 20, MODEL_C_NAME, "h"},
	{MODEL_RENAME, 5, MODEL_C_NAME, "oq"},	   {MODEL_RENAME, 4, MODEL_C_NAME, "oQ"},
	{MODEL_LINK, 5, MODEL_C_LINK, "oq"},	   {MODEL_UNLINK, 9, MODEL_C_NAME, "o"},
	{MODEL_MKDIR, 5, MODEL_C_NAME, "n"},	   {MODEL_RMDIR, 5, MODEL_C_NAME, "o"},
	{MODEL_SYMLINK, 3, MODEL_C_SYMLINK, "nQ"}, {MODEL_READLINK, 3, MODEL_C_SYMLINK, "o"},
	{MODEL_CHMOD, 5, MODEL_C_MODE, "o"},	   {MODEL_FCHMOD, 3, MODEL_C_MODE, "h"},
	{MODEL_SETX, 5, MODEL_C_XATTR, "o"},	   {MODEL_GETX, 6, MODEL_C_XATTR, "o"},
	{MODEL_RMX, 2, MODEL_C_XATTR, "o"},	   {MODEL_LISTX, 3, MODEL_C_XATTR, "o"},
	{MODEL_FSYNC, 2, MODEL_C_DATA, "h"},	   {MODEL_LOCK, 16, MODEL_C_LOCK, "h"},
	{MODEL_FLOCK, 10, MODEL_C_LOCK, "h"},
};

static unsigned pick(uint64_t *rng, uint32_t classes)
{
	unsigned total = 0, k = 0;

	for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		total += table[i].class & classes ? table[i].weight : 0;
	for (uint64_t at = rnd(rng, total);; k++) {
		unsigned w = table[k].class & classes ? table[k].weight : 0;
		if (at < w)
			return k;
		at -= w;
	}
}

/* What is particular to one kind. */
static void finish(struct model *m, uint64_t *rng, uint32_t classes, struct model_op *op)
{
	static const uint32_t rename_flags[] = {0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE};
	static const uint32_t lock_types[] = {F_RDLCK, F_WRLCK, F_UNLCK},
			      flock_types[] = {LOCK_SH, LOCK_EX, LOCK_UN};
	const struct model_handle *h = &m->h[op->mount][op->slot];

	switch (op->kind) {
	case MODEL_OPEN:
		op->flags = open_flags(rng, classes);
		op->slot = (uint8_t)rnd(rng, MODEL_SLOTS);
		break;
	case MODEL_MAP:
		op->b = rnd(rng, MODEL_SLOTS);
		break;
	case MODEL_READ: /* all of it, or a part */
		if (h->ino >= 0 && m->i[h->ino].size < 100000 && rnd(rng, 2)) {
			op->a = 0;
			op->b = MODEL_MAX_SIZE;
		}
		break;
	case MODEL_STAT:
		op->flags = rnd(rng, 3) == 0;
		break;
	case MODEL_RENAME:
		op->flags = rename_flags[rnd(rng, 5)];
		break;
	case MODEL_MKDIR:
		op->flags = 0700 | (uint32_t)rnd(rng, 64);
		break;
	case MODEL_CHMOD:
	case MODEL_FCHMOD:
		op->flags = 0700 | (uint32_t)rnd(rng, 64); /* the owner may: not only root runs this */
		break;
	case MODEL_SETX:
		op->flags = (uint32_t)rnd(rng, 6);
		op->flags = op->flags == XATTR_CREATE || op->flags == XATTR_REPLACE ? op->flags : 0;
		op->b = 1 + rnd(rng, rnd(rng, 4) ? 20 : 200);
		op->a = rnd(rng, MODEL_XATTRS);
		break;
	case MODEL_GETX:
	case MODEL_RMX:
		op->a = rnd(rng, MODEL_XATTRS);
		break;
	case MODEL_LOCK:
		op->flags = lock_types[rnd(rng, 3)];
		op->a = rnd(rng, 20);
		op->b = rnd(rng, 12);
		break;
	case MODEL_FLOCK:
		op->flags = flock_types[rnd(rng, 3)];
		break;
	default:
		break;
	}
}

void model_generate(struct model *m, uint64_t *rng, uint32_t classes, struct model_op *op)
{
	static struct paths all;
	unsigned k = pick(rng, classes);

	/* Mostly the mount of before: what it has in its caches is to be asked for. */
	uint8_t mount = rnd(rng, STAYS) ? op->mount : (uint8_t)rnd(rng, m->nmounts);

	all.n = 0;
	collect(m, 0, "", &all);
	memset(op, 0, sizeof(*op));
	op->kind = table[k].kind;
	op->mount = mount;
	op->salt = (uint32_t)rnd(rng, 1u << 31);
	for (const char *d = table[k].draws; *d; d++) {
		switch (*d) {
		case 'n':
			new_path(m, &all, rng, op->p);
			break;
		case 'o':
			old_path(m, &all, rng, op->p);
			break;
		case 'd':
			dir_path(m, &all, rng, op->p);
			break;
		case 'q':
			new_path(m, &all, rng, op->q);
			break;
		case 'Q':
			old_path(m, &all, rng, op->q);
			break;
		case 'h':
			pick_slot(m, rng, op);
			break;
		case 'm':
			op->slot = (uint8_t)rnd(rng, MODEL_MAPS);
			break;
		case 'a':
			op->a = some_offset(m, rng, op);
			break;
		case 'l':
			op->b = some_length(rng);
			break;
		default:
			break;
		}
	}
	finish(m, rng, classes, op);
}
