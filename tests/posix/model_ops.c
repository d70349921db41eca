/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what each operation on handles, content, attributes and locks must answer, and what it does to the
 * model; names are in model_names.c. What must never happen: the model says something where POSIX and Linux
 * leave it open (such operations are not asked). */
#include "model_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/xattr.h>

#define MIN(a, b) ((a) < (b) ? (a) : (b))

/* No byte is zero: a hole is told from what was written. */
void model_fill(uint8_t *p, size_t len, uint32_t salt)
{
	uint32_t v = (uint32_t)model_hash(salt);

	for (size_t k = 0; k < len; k++)
		p[k] = (uint8_t)(1 + (v + k * 7 + (k >> 8) * 31) % 255);
}

/* ---- content ---- */
static void resize(struct model_inode *i, size_t size)
{
	if (size > i->cap) {
		size_t cap = size + size / 2;
		uint8_t *p = realloc(i->data, cap);
		if (!p)
			abort();
		memset(p + i->cap, 0, cap - i->cap);
		i->data = p;
		i->cap = cap;
	}
	if (size < i->size)
		memset(i->data + size, 0, i->size - size);
	i->size = size;
	i->touched = true;
}

static void put(struct model_inode *i, const struct model_op *op, size_t at)
{
	if (at + op->b > i->size)
		resize(i, at + op->b);
	model_fill(i->data + at, op->b, op->salt);
	i->touched = true;
}

static struct model_handle *handle(struct model *m, const struct model_op *op)
{
	struct model_handle *h = &m->h[op->mount][op->slot];

	return h->ino >= 0 ? h : NULL;
}

static struct model_handle *file_handle(struct model *m, const struct model_op *op)
{
	struct model_handle *h = handle(m, op);

	return h && S_ISREG(m->i[h->ino].mode) ? h : NULL;
}

static void drop_locks(struct model *m, unsigned mount, unsigned slot)
{
	for (unsigned k = 0; k < MODEL_LOCKS; k++)
		if (m->lock[k].used && m->lock[k].mount == (int)mount && m->lock[k].slot == (int)slot)
			m->lock[k].used = false;
	m->flocked[mount][slot] = 0;
}

void model_close_handle(struct model *m, unsigned mount, unsigned slot)
{
	struct model_handle *h = &m->h[mount][slot];
	int ino = h->ino;

	if (ino < 0)
		return;
	drop_locks(m, mount, slot);
	h->ino = -1;
	m->i[ino].refs--;
	model_unref(m, ino);
}

static bool op_open(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_found f;
	bool create = op->flags & O_CREAT, excl = create && (op->flags & O_EXCL),
	     writes = (op->flags & O_ACCMODE) != O_RDONLY;
	int rc = model_walk(m, op->p, !excl, &f);

	if (!rc && f.ino < 0 && create) {
		int ino = model_room(m, f.dir) ? model_new(m, S_IFREG | 0644) : -1;
		if (ino < 0)
			return false;
		m->i[ino].nlink = 1;
		model_enter(m, f.dir, f.name, ino);
		f.ino = ino;
	} else if (!rc && f.ino < 0) {
		rc = -ENOENT;
	} else if (!rc && excl) {
		rc = -EEXIST;
	} else if (!rc && S_ISDIR(m->i[f.ino].mode)) {
		rc = writes || create ? -EISDIR : 0;
	} else if (!rc && op->flags & O_DIRECTORY) {
		rc = -ENOTDIR;
	} else if (!rc && op->flags & O_TRUNC) {
		resize(&m->i[f.ino], 0);
	}
	want->err = -rc;
	if (!rc)
		m->i[f.ino].refs++; /* before the close: it may be the last of the same inode */
	model_close_handle(m, op->mount, op->slot);
	if (rc)
		return true;
	m->h[op->mount][op->slot] = (struct model_handle){.ino = f.ino,
							  .r = (op->flags & O_ACCMODE) != O_WRONLY,
							  .w = writes,
							  .append = op->flags & O_APPEND};
	return true;
}

static bool op_close(struct model *m, const struct model_op *op, struct model_answer *want)
{
	(void)want;
	if (!handle(m, op))
		return false;
	model_close_handle(m, op->mount, op->slot);
	return true;
}

static bool op_pwrite(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_handle *h = file_handle(m, op);

	if (!h || h->append || op->a + op->b > MODEL_MAX_SIZE)
		return false;
	if (h->w)
		put(&m->i[h->ino], op, op->a);
	else
		want->err = EBADF;
	return true;
}

static bool op_append(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_handle *h = file_handle(m, op);

	(void)want;
	if (!h || !h->append || !h->w || m->i[h->ino].size + op->b > MODEL_MAX_SIZE)
		return false;
	put(&m->i[h->ino], op, m->i[h->ino].size);
	return true;
}

static void content(const struct model_inode *i, uint64_t at, uint64_t len, struct model_answer *want)
{
	len = at < i->size ? MIN(len, i->size - at) : 0;
	char *p = model_answer_bytes(want, len);
	if (len)
		memcpy(p, i->data + at, len);
}

static bool op_read(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_handle *h = file_handle(m, op);

	if (!h)
		return false;
	if (h->r)
		content(&m->i[h->ino], op->a, op->b, want);
	else
		want->err = EBADF;
	return true;
}

static bool op_ftrunc(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_handle *h = file_handle(m, op);

	if (!h || op->a > MODEL_MAX_SIZE)
		return false;
	if (h->w)
		resize(&m->i[h->ino], op->a);
	else
		want->err = EINVAL;
	return true;
}

static bool op_trunc(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_found f;
	int rc = model_walk(m, op->p, true, &f);

	if (op->a > MODEL_MAX_SIZE)
		return false;
	if (!rc && f.ino < 0)
		rc = -ENOENT;
	else if (!rc && S_ISDIR(m->i[f.ino].mode))
		rc = -EISDIR;
	else if (!rc)
		resize(&m->i[f.ino], op->a);
	want->err = -rc;
	return true;
}

static bool op_fsync(struct model *m, const struct model_op *op, struct model_answer *want)
{
	(void)want;
	return file_handle(m, op);
}

/* ---- maps ---- */
static void unmap(struct model *m, unsigned mount, unsigned slot)
{
	int ino = m->map[mount][slot];

	if (ino < 0)
		return;
	m->map[mount][slot] = -1;
	m->i[ino].refs--;
	model_unref(m, ino);
}

static bool op_map(struct model *m, const struct model_op *op, struct model_answer *want)
{
	(void)want;
	if (op->slot >= MODEL_MAPS || op->b >= MODEL_SLOTS)
		return false;
	struct model_handle *h = &m->h[op->mount][op->b];
	if (h->ino < 0 || !S_ISREG(m->i[h->ino].mode) || !h->r || !h->w ||
	    h->append) /* maps of these are looked at by mmap.append */
		return false;
	m->i[h->ino].refs++;
	unmap(m, op->mount, op->slot);
	m->map[op->mount][op->slot] = h->ino;
	return true;
}

static bool op_unmap(struct model *m, const struct model_op *op, struct model_answer *want)
{
	(void)want;
	if (op->slot >= MODEL_MAPS || m->map[op->mount][op->slot] < 0)
		return false;
	unmap(m, op->mount, op->slot);
	return true;
}

/* Only within the file: behind its end is SIGBUS by pages, and no node need know of another's growth at once.
 */
static bool clip(struct model *m, struct model_op *op)
{
	if (op->slot >= MODEL_MAPS || m->map[op->mount][op->slot] < 0)
		return false;
	size_t end = MIN(m->i[m->map[op->mount][op->slot]].size, (size_t)MODEL_MAP_LEN);
	if (op->a >= end)
		return false;
	op->b = MIN(op->b, end - op->a);
	return op->b > 0;
}

static bool op_store(struct model *m, struct model_op *op, struct model_answer *want)
{
	(void)want;
	if (!clip(m, op))
		return false;
	put(&m->i[m->map[op->mount][op->slot]], op, op->a);
	return true;
}

static bool op_load(struct model *m, struct model_op *op, struct model_answer *want)
{
	if (!clip(m, op))
		return false;
	content(&m->i[m->map[op->mount][op->slot]], op->a, op->b, want);
	return true;
}

/* ---- attributes ---- */
static void fill_stat(struct model *m, int ino, struct model_answer *want)
{
	struct model_inode *i = &m->i[ino];

	want->has_stat = true;
	want->mode = i->mode;
	want->nlink = i->nlink;
	want->size = S_ISLNK(i->mode) ? strlen(i->target) : i->size;
	if (S_ISDIR(i->mode))
		for (unsigned k = 0; k < MODEL_ENTRIES; k++)
			want->nlink += i->e[k].ino >= 0 && S_ISDIR(m->i[i->e[k].ino].mode);
}

static bool op_fstat(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_handle *h = handle(m, op);

	if (!h || (S_ISDIR(m->i[h->ino].mode) && !m->i[h->ino].nlink))
		return false;
	fill_stat(m, h->ino, want);
	return true;
}

static bool op_stat(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_found f;
	int rc = model_walk(m, op->p, op->flags & 1, &f);

	want->err = rc ? -rc : f.ino < 0 ? ENOENT : 0;
	if (!want->err)
		fill_stat(m, f.ino, want);
	return true;
}

/* The object of a path that is followed; -1 with the error in want. */
static int object(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_found f;
	int rc = model_walk(m, op->p, true, &f);

	want->err = rc ? -rc : f.ino < 0 ? ENOENT : 0;
	return want->err ? -1 : f.ino;
}

static void set_mode(struct model *m, int ino, uint32_t mode)
{
	m->i[ino].mode = (m->i[ino].mode & S_IFMT) | (mode & 07777);
	model_touch(m, ino);
}

static bool op_chmod(struct model *m, const struct model_op *op, struct model_answer *want)
{
	int ino = object(m, op, want);

	if (ino >= 0)
		set_mode(m, ino, op->flags);
	return true;
}

static bool op_fchmod(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_handle *h = file_handle(m, op);

	(void)want;
	if (!h)
		return false;
	set_mode(m, h->ino, op->flags);
	return true;
}

static bool op_setx(struct model *m, const struct model_op *op, struct model_answer *want)
{
	int ino = object(m, op, want);

	if (op->a >= MODEL_XATTRS)
		return false;
	if (ino < 0)
		return true;
	bool set = m->i[ino].x[op->a].set;
	if (set && op->flags == XATTR_CREATE)
		want->err = EEXIST;
	else if (!set && op->flags == XATTR_REPLACE)
		want->err = ENODATA;
	if (want->err)
		return true;
	m->i[ino].x[op->a].set = true;
	m->i[ino].x[op->a].salt = op->salt;
	m->i[ino].x[op->a].len = (uint32_t)op->b;
	model_touch(m, ino);
	return true;
}

static bool op_getx(struct model *m, const struct model_op *op, struct model_answer *want)
{
	int ino = object(m, op, want);

	if (op->a >= MODEL_XATTRS)
		return false;
	if (ino >= 0 && !m->i[ino].x[op->a].set)
		want->err = ENODATA;
	else if (ino >= 0)
		model_fill((uint8_t *)model_answer_bytes(want, m->i[ino].x[op->a].len),
			   m->i[ino].x[op->a].len, m->i[ino].x[op->a].salt);
	return true;
}

static bool op_rmx(struct model *m, const struct model_op *op, struct model_answer *want)
{
	int ino = object(m, op, want);

	if (op->a >= MODEL_XATTRS)
		return false;
	if (ino < 0)
		return true;
	if (!m->i[ino].x[op->a].set)
		want->err = ENODATA;
	m->i[ino].x[op->a].set = false;
	model_touch(m, ino);
	return true;
}

static bool op_listx(struct model *m, const struct model_op *op, struct model_answer *want)
{
	int ino = object(m, op, want);

	for (unsigned k = 0; ino >= 0 && k < MODEL_XATTRS; k++)
		if (m->i[ino].x[k].set) {
			size_t at = want->len;
			snprintf(model_answer_bytes(want, at + 8) + at, 9, "user.m%u\n", k);
		}
	return true;
}

/* ---- locks: each handle is an owner of its own ---- */
static bool op_lock(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_handle *h = file_handle(m, op);
	uint64_t from = op->a, to = op->b ? op->a + op->b : UINT64_MAX;
	int room[3], n = 0;

	if (!h)
		return false;
	if ((op->flags == F_WRLCK && !h->w) || (op->flags == F_RDLCK && !h->r)) {
		want->err = EBADF;
		return true;
	}
	for (int k = 0; k < MODEL_LOCKS; k++) {
		struct model_lock *l = &m->lock[k];
		if (!l->used && n < 3)
			room[n++] = k;
		if (!l->used || l->ino != h->ino || l->to <= from || l->from >= to ||
		    (l->mount == op->mount && l->slot == op->slot))
			continue;
		if (op->flags == F_WRLCK || (op->flags == F_RDLCK && !l->shared))
			want->err = EAGAIN;
	}
	if (n < 3)
		return false;
	if (want->err)
		return true;
	for (int k = 0; k < MODEL_LOCKS; k++) {
		struct model_lock *l = &m->lock[k], was = *l;
		if (!l->used || l->mount != op->mount || l->slot != op->slot || l->to <= from ||
		    l->from >= to)
			continue;
		l->used = was.from < from;
		l->to = from;
		if (was.to > to) {
			struct model_lock *rest = l->used ? &m->lock[room[--n]] : l;
			*rest = was;
			rest->from = to;
		}
	}
	if (op->flags != F_UNLCK)
		m->lock[room[--n]] = (struct model_lock){
			true, op->flags == F_RDLCK, op->mount, op->slot, h->ino, from, to};
	return true;
}

static bool op_flock(struct model *m, const struct model_op *op, struct model_answer *want)
{
	struct model_handle *h = file_handle(m, op);
	int8_t mine = m->flocked[op->mount][op->slot], wants = op->flags == LOCK_UN   ? 0
							       : op->flags == LOCK_SH ? 1
										      : 2;

	if (!h || (mine && wants && mine != wants)) /* a change of type may lose the lock */
		return false;
	for (unsigned k = 0; wants && k < m->nmounts; k++)
		for (unsigned s = 0; s < MODEL_SLOTS; s++)
			if ((k != op->mount || s != op->slot) && m->h[k][s].ino == h->ino &&
			    m->flocked[k][s] && m->flocked[k][s] + wants > 2)
				want->err = EAGAIN;
	if (!want->err)
		m->flocked[op->mount][op->slot] = wants;
	return true;
}

/* ---- all ---- */
bool model_apply(struct model *m, struct model_op *op, struct model_answer *want)
{
	static bool (*const by_kind[MODEL_KINDS])(struct model *, const struct model_op *,
						  struct model_answer *) = {
		[MODEL_OPEN] = op_open,
		[MODEL_CLOSE] = op_close,
		[MODEL_PWRITE] = op_pwrite,
		[MODEL_APPEND] = op_append,
		[MODEL_READ] = op_read,
		[MODEL_FTRUNC] = op_ftrunc,
		[MODEL_TRUNC] = op_trunc,
		[MODEL_MAP] = op_map,
		[MODEL_UNMAP] = op_unmap,
		[MODEL_FSTAT] = op_fstat,
		[MODEL_STAT] = op_stat,
		[MODEL_LIST] = model_op_list,
		[MODEL_HLIST] = model_op_hlist,
		[MODEL_RENAME] = model_op_rename,
		[MODEL_LINK] = model_op_link,
		[MODEL_UNLINK] = model_op_unlink,
		[MODEL_MKDIR] = model_op_mkdir,
		[MODEL_RMDIR] = model_op_rmdir,
		[MODEL_SYMLINK] = model_op_symlink,
		[MODEL_READLINK] = model_op_readlink,
		[MODEL_CHMOD] = op_chmod,
		[MODEL_FCHMOD] = op_fchmod,
		[MODEL_SETX] = op_setx,
		[MODEL_GETX] = op_getx,
		[MODEL_RMX] = op_rmx,
		[MODEL_LISTX] = op_listx,
		[MODEL_FSYNC] = op_fsync,
		[MODEL_LOCK] = op_lock,
		[MODEL_FLOCK] = op_flock,
	};

	model_answer_reset(want);
	if (op->mount >= m->nmounts)
		return false;
	if (op->kind == MODEL_STORE)
		return op_store(m, op, want);
	if (op->kind == MODEL_LOAD)
		return op_load(m, op, want);
	return by_kind[op->kind](m, op, want);
}

int model_subject(struct model *m, const struct model_op *op)
{
	struct model_found f;

	switch (op->kind) {
	case MODEL_READ:
	case MODEL_FSTAT:
	case MODEL_HLIST:
		return m->h[op->mount][op->slot].ino;
	case MODEL_LOAD:
		return op->slot < MODEL_MAPS ? m->map[op->mount][op->slot] : -1;
	case MODEL_STAT:
	case MODEL_LIST:
		return model_walk(m, op->p, op->flags & 1 || op->kind == MODEL_LIST, &f) ? -1 : f.ino;
	default:
		return -1;
	}
}
