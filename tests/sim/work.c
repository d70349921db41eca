/* SPDX-License-Identifier: Apache-2.0 */
/* The load and the reference model: names, sizes and contents, exactly.
 *
 * Clients on all nodes work on slots (a name in a directory) and files. A client locks the model's slots and files of its
 * operation, so each object has one history, while different objects of one directory are worked on from all nodes at once.
 * Every answer must equal the model's. When a node dies, what it had changed and nobody else had seen or forced may have
 * reverted to any state since the last durable one; the next look settles it, and must find one of those. What another
 * node has seen, what was fsynced, and what a living node has acknowledged is certain: its loss is a failure.
 *
 * A node is dead here from the moment any other one sees it pending in the group, although a node that is cut off or
 * frozen learns it later: what it says from then on is no longer looked at. An operation of another node that was under way on an
 * object when its last writer died was disturbed: it met the state before or after, so its answer settles nothing. */
#include "tests/sim/sim.h"
#include <fcntl.h>
#include <stdio.h>

#define DIRS	 3
#define SLOTS	 6
#define FILES	 4096
#define FILLERS	 20
#define HIST	 10
#define SLOT_HIST 48
#define MAX_SIZE (200u << 10)

struct content {
	uint32_t size;
	uint8_t *data; /* MAX_SIZE, only size bytes matter */
};
struct mfile {
	int fid;
	bool used, isdir, locked, uncertain;
	bool wild; /* an append met another size than we knew */
	uint64_t ino;
	uint32_t gen;
	unsigned dirty;	   /* bit per node: whose death may take some of hist back */
	unsigned crashes;  /* times it became uncertain */
	struct content cur, hist[HIST], pending;
	unsigned nhist;
	bool has_pending;
};
struct mslot {
	unsigned dir;
	char name[16];
	bool locked, uncertain;
	int cur, hist[SLOT_HIST], pending; /* fid or -1 */
	unsigned nhist, dirty_node, crashes;
	bool has_pending;
};
struct mop {
	struct ts_list link;
	struct sim_life *life;
	struct mslot *slots[SLOTS];
	unsigned nslots;
	struct mfile *files[4];
	unsigned nfiles;
	const char *what;
};
struct sim_work {
	struct sim *s;
	unsigned ops_left;
	bool ready, stop, verified, setup_done, setup_running;
	uint64_t dir_ino[DIRS];
	struct mslot slot[DIRS][SLOTS];
	struct mfile *file;
	int nfiles;
	struct ts_list ops;
	uint8_t stamp;
};

static const struct fs_cred cred;

/* ---- locks of the model --------------------------------------------------------------------------------------------- */

static void op_begin(struct sim_work *w, struct mop *op, struct sim_life *l, const char *what)
{
	*op = (struct mop){.life = l, .what = what};
	ts_list_push_back(&w->ops, &op->link);
}

static bool lock_slot(struct mop *op, struct mslot *m)
{
	if (m->locked)
		return false;
	m->locked = true;
	op->slots[op->nslots++] = m;
	return true;
}

static bool lock_file(struct mop *op, struct mfile *f)
{
	for (unsigned i = 0; i < op->nfiles; i++)
		if (op->files[i] == f)
			return true;
	if (f->locked)
		return false;
	f->locked = true;
	op->files[op->nfiles++] = f;
	return true;
}

static void op_end(struct mop *op)
{
	for (unsigned i = 0; i < op->nslots; i++)
		op->slots[i]->locked = op->slots[i]->has_pending = false;
	for (unsigned i = 0; i < op->nfiles; i++)
		op->files[i]->locked = op->files[i]->has_pending = false;
	ts_list_del(&op->link);
}

/* ---- histories ------------------------------------------------------------------------------------------------------ */

static struct mfile *file_new(struct sim_work *w, bool isdir)
{
	TS_ASSERT(w->nfiles < FILES);
	struct mfile *f = &w->file[w->nfiles];
	f->fid = w->nfiles++;
	f->used = true;
	f->isdir = isdir;
	return f;
}

static void content_copy(struct content *to, const struct content *from)
{
	if (!to->data) {
		to->data = calloc(1, MAX_SIZE);
		TS_ASSERT(to->data);
	}
	to->size = from->size;
	if (from->data)
		memcpy(to->data, from->data, from->size);
}

static void content_free(struct content *c)
{
	free(c->data);
	c->data = NULL;
}

static void slot_could_be(struct mslot *m, int fid)
{
	for (unsigned i = 0; i < m->nhist; i++)
		if (m->hist[i] == fid)
			return;
	if (m->nhist < SLOT_HIST)
		m->hist[m->nhist++] = fid;
}

static void slot_durable(struct mslot *m)
{
	m->dirty_node = 0;
	if (!m->uncertain)
		m->nhist = 0;
}

static void slot_seen(struct mslot *m, unsigned node)
{
	if (m->dirty_node && m->dirty_node != node) /* the token came over: forced and at home */
		slot_durable(m);
}

/* What a living node acknowledged is so, whatever was uncertain before. */
static void slot_change(struct mslot *m, unsigned node, int fid)
{
	slot_seen(m, node);
	slot_could_be(m, m->cur);
	m->cur = fid;
	m->dirty_node = node;
	m->has_pending = m->uncertain = false;
}

static void slot_pending(struct mslot *m, int fid)
{
	m->pending = fid;
	m->has_pending = true;
}

static void file_durable(struct mfile *f)
{
	f->dirty = 0;
	if (!f->uncertain)
		f->nhist = 0;
}

static void file_seen(struct mfile *f, unsigned node)
{
	if (f->dirty & ~(1u << node))
		file_durable(f);
}

/* Before the call: a death in the middle may leave either, and until it is acknowledged an earlier writer's death counts. */
static void file_change(struct mfile *f, unsigned node)
{
	TS_ASSERT(f->nhist < HIST);
	content_copy(&f->hist[f->nhist++], &f->cur);
	if (!f->cur.data)
		content_copy(&f->cur, &(struct content){0});
	f->dirty |= 1u << node;
}

/* Acknowledged: the tokens came over, so what others had done before is durable. */
static void file_changed(struct mfile *f, unsigned node)
{
	if (f->uncertain || !(f->dirty & ~(1u << node)))
		return;
	struct content last = f->hist[f->nhist - 1];
	f->hist[f->nhist - 1] = f->hist[0];
	f->hist[0] = last;
	f->nhist = 1;
	f->dirty = 1u << node;
}

/* ---- failing ---------------------------------------------------------------------------------------------------------- */

/* Its last writer died while this operation was under way (it was settled when it began). */
static bool disturbed(const struct mslot *m, const struct mfile *f)
{
	return m->uncertain || (f && f->uncertain);
}

/* The object may be gone then, or be there again. */
static bool excused(const struct mslot *m, const struct mfile *f, long rc)
{
	return disturbed(m, f) && (rc == -ENOENT || rc == -EEXIST || rc == -ESTALE || rc == -ENOTDIR || rc == -EISDIR);
}

/* A wrong answer. A node that is out may answer EIO to anything. */
static void wrong(struct sim_life *l, struct mslot *m, const char *what, long got, long want)
{
	struct sim *s = l->node->sim;
	if (sim_life_over(l) || got == -TS_ERR_FENCED)
		return;
	sim_fail(s, "n%u %s %u/%s: got %ld, the model says %ld", l->node->id, what, m ? m->dir : 0, m ? m->name : "-", got, want);
}

/* ---- looking ---------------------------------------------------------------------------------------------------------- */

static bool read_all(struct sim_life *l, struct mfile *f, struct mslot *m, struct content *out)
{
	struct fs_file *h;
	int rc = AGAIN(l, fs_open(l->fs, &cred, f->ino, O_RDONLY, &h));
	if (rc) {
		if (!excused(m, f, rc))
			wrong(l, m, "open", rc, 0);
		return false;
	}
	out->size = 0;
	for (;;) {
		uint32_t want = TS_MIN(MAX_SIZE - out->size, 1u + (uint32_t)sim_below(l->node->sim, 90000));
		ssize_t n = want ? AGAIN(l, fs_read_cached(l->fs, h, false, out->data + out->size, want, out->size, NULL)) : 0;
		if (n < 0) {
			wrong(l, m, "read", n, 0);
			fs_release(l->fs, h);
			return false;
		}
		if (n == 0)
			break;
		out->size += (uint32_t)n;
	}
	fs_release(l->fs, h);
	return true;
}

static bool byte_possible(const struct content *c, uint32_t off, uint8_t b)
{
	return off < c->size ? c->data[off] == b : b == 0;
}

static void settle_check(struct sim_life *l, struct mfile *f, struct mslot *m, const struct content *got)
{
	uint32_t min = f->cur.size, max = f->cur.size;
	for (unsigned i = 0; i < f->nhist; i++) {
		min = TS_MIN(min, f->hist[i].size);
		max = TS_MAX(max, f->hist[i].size);
	}
	if (got->size < min || got->size > max)
		wrong(l, m, "size after a crash", got->size, min == max ? min : max);
	for (uint32_t o = 0; o < got->size; o++) {
		bool ok = byte_possible(&f->cur, o, got->data[o]);
		for (unsigned i = 0; !ok && i < f->nhist; i++)
			ok = byte_possible(&f->hist[i], o, got->data[o]);
		if (!ok) {
			sim_fail(l->node->sim, "n%u file %d (inode %llu) byte %u is %#x after a crash: in no state it ever had", l->node->id, f->fid,
				 (unsigned long long)f->ino, o, got->data[o]);
			break;
		}
	}
}

/* After a crash: size within what it may have been, and every byte from one of the states. Then that is the state. */
static bool file_settle(struct sim_life *l, struct mfile *f, struct mslot *m)
{
	struct content got = {0, calloc(1, MAX_SIZE)};
	unsigned crashes = f->crashes;
	TS_ASSERT(got.data);
	if (!read_all(l, f, m, &got) || sim_life_over(l) || f->crashes != crashes) {
		content_free(&got);
		return false;
	}
	if (!f->wild)
		settle_check(l, f, m, &got);
	content_copy(&f->cur, &got);
	content_free(&got);
	f->uncertain = f->wild = false;
	if (f->dirty & (1u << l->node->id)) /* another's operation was cut off on what is only in our memory */
		f->dirty = 1u << l->node->id;
	else
		file_durable(f);
	return true;
}

/* One of those the name may mean; one whose creation was cut off has no number yet. An inode may have been several of them. */
static struct mfile *file_by_ino(struct sim_work *w, struct mslot *m, const struct fs_attr *a)
{
	struct mfile *unborn = NULL;
	for (unsigned i = 0; i <= m->nhist; i++) {
		int fid = i < m->nhist ? m->hist[i] : m->cur;
		struct mfile *f = fid >= 0 ? &w->file[fid] : NULL;
		if (f && f->ino == a->ino && f->gen == a->gen)
			return f;
		if (f && !f->ino)
			unborn = f;
	}
	return unborn;
}

/* What the name is now; settles it if a crash left it open. False: stop this operation. */
static bool slot_settle(struct sim_work *w, struct sim_life *l, struct mslot *m)
{
	struct fs_attr a;
	unsigned crashes = m->crashes;
	if (!m->uncertain)
		return true;
	int rc = AGAIN(l, fs_lookup(l->fs, &cred, w->dir_ino[m->dir], m->name, strlen(m->name), &a));
	if (sim_life_over(l) || m->crashes != crashes)
		return false;
	if (rc && rc != -ENOENT) {
		wrong(l, m, "lookup after a crash", rc, 0);
		return false;
	}
	int now = -1;
	if (rc == 0) {
		struct mfile *f = file_by_ino(w, m, &a);
		if (!f) {
			sim_fail(w->s, "n%u name %u/%s is inode %llu after a crash: it never was", l->node->id, m->dir, m->name, (unsigned long long)a.ino);
			return false;
		}
		f->ino = a.ino;
		f->gen = a.gen;
		now = f->fid;
	} else {
		bool may = m->cur == -1;
		for (unsigned i = 0; i < m->nhist; i++)
			may |= m->hist[i] == -1;
		if (!may) {
			sim_fail(w->s, "n%u name %u/%s vanished in a crash although it was durable", l->node->id, m->dir, m->name);
			return false;
		}
	}
	if (m->dirty_node == l->node->id) /* another's operation was cut off on what is only in our memory */
		slot_could_be(m, m->cur);
	m->cur = now;
	m->uncertain = false;
	if (m->dirty_node != l->node->id)
		slot_durable(m);
	return true;
}

/* Slots of an operation locked, settled; their files locked and settled. NULL-safe. */
static bool prepare(struct sim_work *w, struct mop *op, struct sim_life *l, struct mslot *a, struct mslot *b)
{
	struct mslot *v[2] = {a, b == a ? NULL : b};
	for (unsigned i = 0; i < 2; i++)
		if (v[i] && !lock_slot(op, v[i]))
			return false;
	for (unsigned i = 0; i < 2; i++) {
		if (!v[i])
			continue;
		if (!slot_settle(w, l, v[i]))
			return false;
		if (v[i]->cur < 0)
			continue;
		struct mfile *f = &w->file[v[i]->cur];
		if (!lock_file(op, f))
			return false;
		if (f->uncertain && !f->isdir && !file_settle(l, f, v[i]))
			return false;
	}
	return !sim_life_over(l);
}

/* ---- operations --------------------------------------------------------------------------------------------------------- */

static void do_create(struct sim_work *w, struct mop *op, struct sim_life *l, struct mslot *m, bool isdir)
{
	struct fs_attr at;
	struct fs_file *h = NULL;
	bool had = m->cur >= 0;
	struct mfile *f = had ? NULL : file_new(w, isdir);
	if (f) {
		lock_file(op, f);
		slot_pending(m, f->fid);
	}
	int rc = isdir ? AGAIN(l, fs_mknod(l->fs, &cred, w->dir_ino[m->dir], m->name, strlen(m->name), S_IFDIR | 0755, 0, NULL, &at))
		       : AGAIN(l, fs_create(l->fs, &cred, w->dir_ino[m->dir], m->name, strlen(m->name), S_IFREG | 0644, O_RDWR | O_CREAT | O_EXCL, &h, &at));
	if (sim_life_over(l))
		return;
	if (rc != (had ? -EEXIST : 0) && !(disturbed(m, NULL) && (rc == 0 || rc == -EEXIST))) {
		wrong(l, m, "create", rc, had ? -EEXIST : 0);
		return;
	}
	if (rc) {
		slot_seen(m, l->node->id);
		return;
	}
	if (!f)
		f = file_new(w, isdir);
	f->ino = at.ino;
	f->gen = at.gen;
	slot_change(m, l->node->id, f->fid);
	if (h)
		fs_release(l->fs, h);
}

/* A disturbed operation that would make the slot fid: it did or it did not. */
static void slot_disturbed(struct mslot *m, unsigned node, int rc, int fid)
{
	slot_could_be(m, fid);
	if (rc == 0)
		m->dirty_node = node;
	m->uncertain = true;
}

static void do_unlink(struct sim_work *w, struct mop *op, struct sim_life *l, struct mslot *m)
{
	bool had = m->cur >= 0, isdir = had && w->file[m->cur].isdir;
	if (had)
		slot_pending(m, -1);
	int rc = isdir ? AGAIN(l, fs_rmdir(l->fs, &cred, w->dir_ino[m->dir], m->name, strlen(m->name)))
		       : AGAIN(l, fs_unlink(l->fs, &cred, w->dir_ino[m->dir], m->name, strlen(m->name)));
	if (sim_life_over(l))
		return;
	if (disturbed(m, NULL) && (rc == 0 || excused(m, NULL, rc)))
		slot_disturbed(m, l->node->id, rc, -1);
	else if (rc != (had ? 0 : -ENOENT))
		wrong(l, m, isdir ? "rmdir" : "unlink", rc, had ? 0 : -ENOENT);
	else if (had)
		slot_change(m, l->node->id, -1);
	else
		slot_seen(m, l->node->id);
}

static void rename_disturbed(struct mslot *a, struct mslot *b, unsigned node, int rc)
{
	slot_disturbed(b, node, rc, a->cur);
	for (unsigned i = 0; i < a->nhist; i++)
		slot_could_be(b, a->hist[i]);
	slot_disturbed(a, node, rc, -1);
	a->has_pending = b->has_pending = false;
}

static void do_rename(struct sim_work *w, struct mop *op, struct sim_life *l, struct mslot *a, struct mslot *b)
{
	int want = 0;
	struct mfile *fa = a->cur >= 0 ? &w->file[a->cur] : NULL, *fb = b->cur >= 0 ? &w->file[b->cur] : NULL;
	if (!fa)
		want = -ENOENT;
	else if (a == b)
		want = 0;
	else if (fb && fa->isdir && !fb->isdir)
		want = -ENOTDIR;
	else if (fb && !fa->isdir && fb->isdir)
		want = -EISDIR;
	bool changes = want == 0 && fa && fa != fb && a != b;
	if (changes) {
		slot_pending(a, -1);
		slot_pending(b, a->cur);
	}
	int rc = AGAIN(l, fs_rename(l->fs, &cred, w->dir_ino[a->dir], a->name, strlen(a->name), w->dir_ino[b->dir], b->name, strlen(b->name), 0));
	if (sim_life_over(l))
		return;
	if ((disturbed(a, NULL) || disturbed(b, NULL)) && (rc == 0 || excused(a, NULL, rc) || excused(b, NULL, rc))) {
		rename_disturbed(a, b, l->node->id, rc);
		return;
	}
	if (rc != want) {
		wrong(l, a, "rename", rc, want);
		return;
	}
	if (changes) {
		slot_change(b, l->node->id, a->cur);
		slot_change(a, l->node->id, -1);
	} else {
		slot_seen(a, l->node->id);
	}
}

static void do_link(struct sim_work *w, struct mop *op, struct sim_life *l, struct mslot *a, struct mslot *b)
{
	struct fs_attr at;
	if (a->cur < 0 || w->file[a->cur].isdir)
		return;
	int want = b->cur >= 0 ? -EEXIST : 0;
	if (!want)
		slot_pending(b, a->cur);
	int rc = AGAIN(l, fs_link(l->fs, &cred, w->file[a->cur].ino, w->dir_ino[b->dir], b->name, strlen(b->name), &at));
	if (sim_life_over(l))
		return;
	if (rc == 0 && (want == 0 || disturbed(b, NULL)))
		slot_change(b, l->node->id, a->cur);
	else if (rc && (excused(a, NULL, rc) || excused(b, NULL, rc)))
		return;
	else if (rc != want)
		wrong(l, b, "link", rc, want);
	else
		slot_seen(b, l->node->id);
}

static bool flush_file(struct sim_work *w, struct sim_life *l, struct mfile *f, struct mslot *m, struct fs_file *h)
{
	int rc = AGAIN(l, fs_fsync(l->fs, h, false));
	if (sim_life_over(l))
		return false;
	if (rc) {
		if (!excused(m, f, rc))
			wrong(l, m, "fsync", rc, 0);
		return false;
	}
	file_durable(f);
	if (m->dirty_node == l->node->id) /* its name was committed to the same log before */
		slot_durable(m);
	return true;
}

/* The file's pool may have no disk with room (any more): what was written of it counts, and no more. */
static bool full(const struct content *before, struct mfile *f, const uint8_t *buf, ssize_t n, uint32_t off, uint32_t len)
{
	if (!before || !(n == -ENOSPC || (n > 0 && n < (ssize_t)len)))
		return true;
	memcpy(f->cur.data, before->data, before->size);
	f->cur.size = before->size;
	if (n <= 0)
		return false;
	if (off > f->cur.size)
		memset(f->cur.data + f->cur.size, 0, off - f->cur.size);
	memcpy(f->cur.data + off, buf, (size_t)n);
	f->cur.size = TS_MAX(f->cur.size, off + (uint32_t)n);
	return false;
}

/* False: the answer was wrong, or says nothing. */
static bool write_once(struct sim_work *w, struct sim_life *l, struct mslot *m, struct mfile *f, struct fs_file *h)
{
	struct sim *s = w->s;
	uint32_t len = 1 + (uint32_t)sim_below(s, sim_chance(s, 50) ? 3000 : 60000);
	uint32_t off = (uint32_t)sim_below(s, sim_chance(s, 60) ? f->cur.size + 1 : MAX_SIZE - len);
	bool append = sim_chance(s, 20);
	if (append)
		off = f->cur.size;
	if (off + len > MAX_SIZE)
		return false;
	uint8_t *buf = malloc(len), mark = ++w->stamp ? w->stamp : ++w->stamp;
	TS_ASSERT(buf);
	for (uint32_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(mark + (off + i) / 509);
	struct content *before = s->pools_load ? malloc(sizeof(*before) + f->cur.size) : NULL;
	if (before) {
		*before = (struct content){f->cur.size, (uint8_t *)(before + 1)};
		memcpy(before->data, f->cur.data, before->size);
	}
	file_change(f, l->node->id);
	if (off > f->cur.size)
		memset(f->cur.data + f->cur.size, 0, off - f->cur.size);
	memcpy(f->cur.data + off, buf, len);
	f->cur.size = TS_MAX(f->cur.size, off + len);
	uint64_t at = 0;
	ssize_t n = AGAIN(l, fs_write(l->fs, h, buf, len, append ? 0 : off, append, false, &at));
	while (s->starved && n > 0 && n < (ssize_t)len && !sim_life_over(l)) { /* cut short for want of memory */
		uint64_t rest_at;
		ssize_t rest = AGAIN(l, fs_write(l->fs, h, buf + n, len - (size_t)n, append ? 0 : off + (uint64_t)n, append, false, &rest_at));
		if (rest <= 0)
			break;
		n += rest;
	}
	if (sim_life_over(l) || !full(before, f, buf, n, off, len)) {
		free(buf);
		free(before);
		return false;
	}
	free(buf);
	free(before);
	if (n < 0 && excused(m, f, n)) {
		f->uncertain = true;
		return false;
	}
	if (n == (ssize_t)len && f->uncertain && append && at != off) {
		f->wild = true;
		return false;
	}
	if (n != (ssize_t)len || (append && at != off)) {
		wrong(l, m, append ? "append" : "write", n, len);
		return false;
	}
	file_changed(f, l->node->id);
	return true;
}

static void do_write(struct sim_work *w, struct mop *op, struct sim_life *l, struct mslot *m)
{
	struct mfile *f = m->cur >= 0 ? &w->file[m->cur] : NULL;
	struct fs_file *h;
	if (!f || f->isdir)
		return;
	int rc = AGAIN(l, fs_open(l->fs, &cred, f->ino, O_RDWR, &h));
	if (rc || sim_life_over(l)) {
		if (rc && !excused(m, f, rc))
			wrong(l, m, "open", rc, 0);
		return;
	}
	if ((f->nhist < HIST - 2 || flush_file(w, l, f, m, h)) && f->nhist < HIST - 2 && write_once(w, l, m, f, h) && sim_chance(w->s, 25))
		(void)flush_file(w, l, f, m, h);
	if (!sim_life_over(l))
		fs_release(l->fs, h);
}

static void do_truncate(struct sim_work *w, struct mop *op, struct sim_life *l, struct mslot *m)
{
	struct mfile *f = m->cur >= 0 ? &w->file[m->cur] : NULL;
	struct fs_attr at;
	if (!f || f->isdir || f->nhist >= HIST - 1)
		return;
	struct fs_setattr sa = {.valid = FS_SET_SIZE, .size = sim_below(w->s, sim_chance(w->s, 50) ? f->cur.size + 1 : MAX_SIZE)};
	file_change(f, l->node->id);
	if (sa.size > f->cur.size)
		memset(f->cur.data + f->cur.size, 0, sa.size - f->cur.size);
	f->cur.size = (uint32_t)sa.size;
	int rc = AGAIN(l, fs_setattr(l->fs, &cred, f->ino, &sa, &at));
	if (sim_life_over(l))
		return;
	if (excused(m, f, rc))
		f->uncertain = true;
	else if (rc || at.size != sa.size)
		wrong(l, m, "truncate", rc ? rc : (long)at.size, (long)sa.size);
	else
		file_changed(f, l->node->id);
}

static void do_check(struct sim_work *w, struct mop *op, struct sim_life *l, struct mslot *m)
{
	struct fs_attr at;
	int rc = AGAIN(l, fs_lookup(l->fs, &cred, w->dir_ino[m->dir], m->name, strlen(m->name), &at));
	if (sim_life_over(l) || ((rc == 0 || rc == -ENOENT) && disturbed(m, NULL)))
		return;
	if (rc != (m->cur >= 0 ? 0 : -ENOENT)) {
		wrong(l, m, "lookup", rc, m->cur >= 0 ? 0 : -ENOENT);
		return;
	}
	slot_seen(m, l->node->id);
	if (rc)
		return;
	struct mfile *f = &w->file[m->cur];
	if (at.ino != f->ino || at.gen != f->gen) {
		wrong(l, m, at.ino == f->ino ? "lookup: generation" : "lookup: inode", (long)at.ino, (long)f->ino);
		return;
	}
	if (f->isdir || disturbed(m, f))
		return;
	if (at.size != f->cur.size) {
		wrong(l, m, "lookup: size", (long)at.size, f->cur.size);
		return;
	}
	struct content got = {0, calloc(1, MAX_SIZE)};
	TS_ASSERT(got.data);
	bool ok = read_all(l, f, m, &got) && !sim_life_over(l) && !disturbed(m, f);
	if (ok && got.size != f->cur.size)
		wrong(l, m, "read: size", got.size, f->cur.size);
	else if (ok && got.size && memcmp(got.data, f->cur.data, got.size)) {
		uint32_t o = 0;
		while (got.data[o] == f->cur.data[o])
			o++;
		sim_fail(w->s, "n%u read %u/%s (inode %llu): byte %u is %#x, the model says %#x", l->node->id, m->dir, m->name,
			 (unsigned long long)f->ino, o, got.data[o], f->cur.data[o]);
	}
	if (ok)
		file_seen(f, l->node->id);
	content_free(&got);
}

struct listed {
	struct sim_work *w;
	unsigned dir, seen[SLOTS], extra, left;
	uint64_t ino[SLOTS], cookie;
};

static bool list_one(void *arg, const char *name, size_t len, uint64_t ino, unsigned dtype, uint64_t off, const struct fs_attr *at)
{
	struct listed *t = arg;
	if (t->left-- == 0)
		return false;
	t->cookie = off;
	if (name[0] == '.')
		return true;
	for (unsigned i = 0; i < SLOTS; i++)
		if (strlen(t->w->slot[t->dir][i].name) == len && !memcmp(t->w->slot[t->dir][i].name, name, len)) {
			t->seen[i]++;
			t->ino[i] = ino;
			return true;
		}
	t->extra += name[0] != 'D'; /* the directories of the test itself live in the root */
	return true;
}

static void do_list(struct sim_work *w, struct mop *op, struct sim_life *l, unsigned dir)
{
	struct listed t = {.w = w, .dir = dir};
	for (unsigned i = 0; i < SLOTS; i++)
		if (!lock_slot(op, &w->slot[dir][i]))
			return;
	for (unsigned i = 0; i < SLOTS; i++)
		if (!slot_settle(w, l, &w->slot[dir][i]))
			return;
	uint64_t before;
	do {
		before = t.cookie;
		t.left = 1 + (unsigned)sim_below(w->s, 5);
		int rc = AGAIN(l, fs_readdir(l->fs, &cred, w->dir_ino[dir], t.cookie, sim_chance(w->s, 50), list_one, &t));
		if (sim_life_over(l))
			return;
		if (rc) {
			wrong(l, &w->slot[dir][0], "readdir", rc, 0);
			return;
		}
	} while (t.cookie != before);
	for (unsigned i = 0; i < SLOTS; i++) {
		struct mslot *m = &w->slot[dir][i];
		if (disturbed(m, NULL) && t.seen[i] <= 1)
			continue;
		if (t.seen[i] != (m->cur >= 0)) {
			wrong(l, m, "readdir: times listed", t.seen[i], m->cur >= 0);
			return;
		}
		if (m->cur >= 0 && t.ino[i] != w->file[m->cur].ino)
			wrong(l, m, "readdir: inode", (long)t.ino[i], (long)w->file[m->cur].ino);
		slot_seen(m, l->node->id);
	}
	if (t.extra)
		wrong(l, &w->slot[dir][0], "readdir: names nobody made", t.extra, 0);
}

static void do_fsync(struct sim_work *w, struct mop *op, struct sim_life *l, struct mslot *m)
{
	struct mfile *f = m->cur >= 0 ? &w->file[m->cur] : NULL;
	struct fs_file *h;
	if (!f || f->isdir)
		return;
	int rc = AGAIN(l, fs_open(l->fs, &cred, f->ino, O_RDWR, &h));
	if (sim_life_over(l))
		return;
	if (rc) {
		if (!excused(m, f, rc))
			wrong(l, m, "open", rc, 0);
		return;
	}
	(void)flush_file(w, l, f, m, h);
	if (!sim_life_over(l))
		fs_release(l->fs, h);
}

/* The model's history of a slot is bounded: force the log before it overflows. */
static bool room(struct sim_life *l, struct mop *op)
{
	for (unsigned i = 0; i < op->nslots; i++) {
		struct mslot *m = op->slots[i];
		if (m->nhist < HIST - 2)
			continue;
		int rc = AGAIN(l, fs_sync(l->fs));
		if (rc || sim_life_over(l)) {
			if (rc)
				wrong(l, m, "sync", rc, 0);
			return false;
		}
		if (m->dirty_node == l->node->id)
			slot_durable(m);
		if (m->nhist >= HIST - 2)
			return false; /* another node's: its next operation forces it */
	}
	return true;
}

static struct mslot *pick(struct sim_work *w)
{
	return &w->slot[sim_below(w->s, DIRS)][sim_below(w->s, SLOTS)];
}

static void one_op(struct sim_work *w, struct sim_life *l)
{
	struct mop op;
	struct mslot *a = pick(w), *b = pick(w);
	unsigned k = (unsigned)sim_below(w->s, 100);
	op_begin(w, &op, l, "op");
	if (k >= 93) {
		op.what = "list";
		do_list(w, &op, l, a->dir);
	} else {
		bool two = k >= 60 && k < 75;
		if (prepare(w, &op, l, a, two ? b : NULL) && room(l, &op)) {
			op.what = k < 18 ? "create" : k < 22 ? "mkdir" : k < 34 ? "unlink" : k < 60 ? "write" : k < 70 ? "rename" : k < 75 ? "link" :
				  k < 80 ? "truncate" : k < 83 ? "fsync" : "check";
			if (k < 22)
				do_create(w, &op, l, a, k >= 18);
			else if (k < 34)
				do_unlink(w, &op, l, a);
			else if (k < 60)
				do_write(w, &op, l, a);
			else if (k < 70)
				do_rename(w, &op, l, a, b);
			else if (k < 75) {
				if (a != b)
					do_link(w, &op, l, a, b);
			} else if (k < 80)
				do_truncate(w, &op, l, a);
			else if (k < 83)
				do_fsync(w, &op, l, a);
			else
				do_check(w, &op, l, a);
			sim_work_count(w->s);
		}
	}
	if (sim_life_over(l)) {
		/* The answer came (or not) while this node was thrown out: treat the operation as cut off. */
		ts_sleep_until(UINT64_MAX - 1);
	}
	op_end(&op);
}

/* Long names that nobody touches: the last directory is a tree of several blocks, the others stay in their inodes. */
static int fill(struct sim_work *w, struct sim_life *l)
{
	char name[250];
	int rc = 0;
	memset(name, 'D', sizeof(name)); /* as the names of the test's own directories: not looked at */
	for (unsigned i = 0; i < FILLERS && !rc && !sim_life_over(l); i++) {
		struct fs_attr at;
		name[1] = (char)('a' + i);
		rc = AGAIN(l, fs_mknod(l->fs, &cred, w->dir_ino[DIRS - 1], name, sizeof(name), S_IFREG | 0644, 0, NULL, &at));
		rc = rc == -EEXIST ? 0 : rc;
	}
	return rc;
}

static bool setup(struct sim_work *w, struct sim_life *l)
{
	w->dir_ino[0] = 1;
	for (unsigned d = 1; d < DIRS; d++) {
		struct fs_attr at;
		char name[8];
		snprintf(name, sizeof(name), "D%u", d);
		int rc = AGAIN(l, fs_mknod(l->fs, &cred, 1, name, strlen(name), S_IFDIR | 0755, 0, NULL, &at));
		if (rc == -EEXIST)
			rc = AGAIN(l, fs_lookup(l->fs, &cred, 1, name, strlen(name), &at));
		if (rc || sim_life_over(l)) {
			wrong(l, NULL, "setup mkdir", rc, 0);
			return false;
		}
		w->dir_ino[d] = at.ino;
	}
	int rc = fill(w, l);
	if (!rc)
		rc = AGAIN(l, fs_sync(l->fs));
	if (rc)
		wrong(l, NULL, "setup", rc, 0);
	return rc == 0 && !sim_life_over(l);
}

void sim_work_client(void *arg)
{
	struct sim_life *l = arg;
	struct sim_work *w = l->node->sim->work;
	while (!w->setup_done && !w->stop && !sim_life_over(l)) {
		if (!w->setup_running) {
			w->setup_running = true;
			w->setup_done = setup(w, l);
			w->setup_running = false;
		} else
			ts_sleep_until(ts_exec_now(l->x) + 5 * TS_NS_PER_MS);
	}
	while (!w->stop && !l->unmount && !sim_life_over(l) && w->ops_left) {
		one_op(w, l);
		ts_sleep_until(ts_exec_now(l->x) + sim_below(w->s, 4 * TS_NS_PER_MS));
	}
	l->clients--;
	ts_cond_broadcast(&l->changed);
}

void sim_work_verify(void *arg)
{
	struct sim_life *l = arg;
	struct sim_work *w = l->node->sim->work;
	l->clients++;
	for (unsigned d = 0; d < DIRS && !w->s->failed && !sim_life_over(l); d++) {
		for (unsigned i = 0; i < SLOTS && !w->s->failed && !sim_life_over(l); i++) {
			struct mop op;
			op_begin(w, &op, l, "verify");
			if (prepare(w, &op, l, &w->slot[d][i], NULL))
				do_check(w, &op, l, &w->slot[d][i]);
			if (!sim_life_over(l)) /* else it was ended with its life */
				op_end(&op);
		}
	}
	if (!w->s->failed && !sim_life_over(l) && sim_shared_verify(l))
		w->verified = true;
	l->clients--;
	ts_cond_broadcast(&l->changed);
}

/* ---- death ------------------------------------------------------------------------------------------------------------------ */

static void slot_crashed(struct mslot *m)
{
	if (m->has_pending)
		slot_could_be(m, m->pending);
	m->has_pending = false;
	m->uncertain = true;
	m->crashes++;
}

static void file_crashed(struct mfile *f, unsigned node)
{
	f->dirty &= ~(1u << node);
	f->uncertain = true;
	f->crashes++;
}

/* Harmless twice: evicted by the others first, taken down later. */
void sim_work_life_dead(struct sim_life *l)
{
	struct sim_work *w = l->node->sim->work;
	sim_locks_life_dead(l);
	if (l->evicted)
		return;
	l->evicted = true;
	sim_shared_life_dead(l);
	w->setup_running = false;
	for (unsigned d = 0; d < DIRS; d++)
		for (unsigned i = 0; i < SLOTS; i++)
			if (w->slot[d][i].dirty_node == l->node->id) {
				slot_crashed(&w->slot[d][i]);
				w->slot[d][i].dirty_node = 0;
			}
	for (int i = 0; i < w->nfiles; i++)
		if (w->file[i].dirty & (1u << l->node->id))
			file_crashed(&w->file[i], l->node->id);
	ts_list_for_safe(e, tmp, &w->ops) {
		struct mop *op = ts_list_entry(e, struct mop, link);
		if (op->life != l)
			continue;
		for (unsigned i = 0; i < op->nslots; i++)
			if (op->slots[i]->has_pending)
				slot_crashed(op->slots[i]);
		op_end(op); /* its memory is the dead fiber's stack: still there until the executor is killed */
	}
}

void sim_work_count(struct sim *s)
{
	s->ops_done++;
	if (s->work->ops_left)
		s->work->ops_left--;
}

bool sim_work_ready(struct sim *s)
{
	return s->work->setup_done;
}

bool sim_work_finished(struct sim *s)
{
	return s->work->ops_left == 0;
}

bool sim_work_verified(struct sim *s)
{
	return s->work->verified;
}

void sim_work_stop(struct sim *s)
{
	s->work->stop = true;
}

void sim_work_new(struct sim *s, unsigned nops)
{
	struct sim_work *w = calloc(1, sizeof(*w));
	TS_ASSERT(w);
	w->s = s;
	w->ops_left = nops;
	w->file = calloc(FILES, sizeof(*w->file));
	TS_ASSERT(w->file);
	ts_list_init(&w->ops);
	for (unsigned d = 0; d < DIRS; d++)
		for (unsigned i = 0; i < SLOTS; i++) {
			w->slot[d][i] = (struct mslot){.dir = d, .cur = -1};
			snprintf(w->slot[d][i].name, sizeof(w->slot[d][i].name), "f%u", i);
		}
	s->work = w;
	sim_locks_new(s);
	sim_shared_new(s);
}

void sim_work_free(struct sim *s)
{
	for (int i = 0; i < s->work->nfiles; i++) {
		content_free(&s->work->file[i].cur);
		for (unsigned k = 0; k < HIST; k++)
			content_free(&s->work->file[i].hist[k]);
	}
	free(s->work->file);
	free(s->work);
	sim_locks_free(s);
	sim_shared_free(s);
}
