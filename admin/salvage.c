/* SPDX-License-Identifier: Apache-2.0 */
/* Salvage: what is left of a file system that cannot be mounted any more (disks lost, structures damaged), made readable on this node. Every disk
 * gets an overlay in memory (nsd/overlay.c), a lost one has nothing below; the checker repairs these, logs included, and what it has made whole is
 * mounted, for reading, under a group of its own. Then all names are walked, and the files that miss something are told.
 * What must never happen: a byte written to a disk; a file told as whole whose bytes lie on a lost disk or were cut by the repair. */
#include "admin/daemon.h"
#include "admin/salvage.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>

#define LISTED_MAX 10000 /* damaged files and findings told one by one; the others are counted */
#define MEMORY_DEFAULT (512ull << 20)
#define READ_BYTES (1u << 20)

struct salvage {
	struct disk *top;    /* what the mount takes for its disks, by number */
	struct disk **below; /* NULL: lost, or no disk has the number */
	bool *lost;
	unsigned n;
};

struct want {
	struct daemon *d;
	struct client *c;
	struct answer *a;
	const char *name;
	const struct nsd_label_disk *label; /* of any of its disks */
	struct fs_disk_info *info;
	bool *given_up; /* --lost */
	struct salvage *s;
	json_t *findings;
	uint64_t nfindings;
	uint64_t *marked; /* inodes that findings name, ascending when all are there */
	size_t nmarked, room;
};

/* ---- disks ------------------------------------------------------------------------------------------------------------ */

void salvage_free(struct salvage *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < s->n; i++) {
		if (s->top && s->top[i].dev)
			nsd_close(s->top[i].dev);
		if (s->top)
			free(s->top[i].url);
		if (s->below && s->below[i])
			s->below[i]->mount = NULL;
	}
	ts_free(s->top);
	ts_free(s->below);
	ts_free(s->lost);
	ts_free(s);
}

static bool one_of(const struct disk *k, const struct want *w)
{
	return k->state == DISK_OPEN && k->label_state == NSD_LABEL_OK && !memcmp(k->label.fs_id, w->label->fs_id, 16);
}

/* Any disk of that name; two file systems of one name are not told apart by it. */
static int label_find(struct want *w)
{
	ts_list_for(l, &w->d->disks) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		if (k->state != DISK_OPEN || k->label_state != NSD_LABEL_OK || strncmp(k->label.fs_name, w->name, sizeof(k->label.fs_name)))
			continue;
		if (w->label && memcmp(w->label->fs_id, k->label.fs_id, 16))
			return answer_refuse(w->a, -EEXIST, "salvage %s: disk %s belongs to another file system of that name; leave the disks of one of them out of the configuration",
					     w->name, k->url);
		if (k->mount)
			return answer_refuse(w->a, -EBUSY, "salvage %s: it is mounted on this node at %s; unmount it first", w->name, k->mount->dir);
		w->label = &k->label;
	}
	return w->label ? 0 : answer_refuse(w->a, -ENOENT, "salvage %s: no disk of it is open on this node; see `tessera disk list`", w->name);
}

/* The table of the lowest disk that has a good one: disk 0's, if it is there. */
static int table_find(struct want *w, unsigned *n)
{
	for (unsigned no = 0; no <= UINT16_MAX; no++) {
		bool more = false;
		ts_list_for(l, &w->d->disks) {
			struct disk *k = ts_list_entry(l, struct disk, link);
			if (!one_of(k, w) || le16_get(k->label.disk_no) < no)
				continue;
			more = true;
			if (le16_get(k->label.disk_no) == no && fs_disks_list(k->dev, &w->info, n) == 0)
				return 0;
		}
		if (!more)
			break;
	}
	return answer_refuse(w->a, -EUCLEAN, "salvage %s: none of its disks that are open here has a good superblock and disk table; nothing can be told from the rest", w->name);
}

static bool holds(const struct fs_disk_info *i)
{
	const char *state = fs_disk_state_name(i->state);
	return !strcmp(state, "ready") || !strcmp(state, "draining");
}

static int disk_choose(struct want *w, unsigned no)
{
	struct salvage *s = w->s;
	ts_list_for(l, &w->d->disks) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		if (!one_of(k, w) || le16_get(k->label.disk_no) != no)
			continue;
		if (s->below[no])
			return answer_refuse(w->a, -EEXIST, "salvage %s: disks %s and %s claim the same place; remove the copy", w->name, k->url, s->below[no]->url);
		if (holds(&w->info[no]) && !w->given_up[no])
			s->below[no] = k;
	}
	return 0;
}

/* The checker writes a label where there is none; one that cannot be read could be that of somebody else. */
static int label_blank(struct nsd_dev *dev)
{
	uint8_t *zeros = ts_alloc_aligned(NSD_LABEL_BYTES, 2 * NSD_LABEL_BYTES);
	if (!zeros)
		return -ENOMEM;
	memset(zeros, 0, 2 * NSD_LABEL_BYTES);
	int rc = nsd_write(dev, zeros, 2 * NSD_LABEL_BYTES, 0);
	ts_free(zeros);
	return rc;
}

static int overlays_make(struct want *w, uint64_t memory)
{
	struct salvage *s = w->s;
	for (unsigned i = 0; i < s->n; i++) {
		int rc = disk_choose(w, i);
		if (rc)
			return rc;
		if (!holds(&w->info[i]))
			continue;
		struct disk *t = &s->top[i], *b = s->below[i];
		s->lost[i] = !b;
		t->dev = nsd_overlay_new(w->d->exec, b ? b->dev : NULL, w->info[i].size_bytes, memory);
		t->url = strdup(b ? b->url : "lost");
		if (!t->dev || !t->url)
			return answer_refuse(w->a, -ENOMEM, "salvage %s: out of memory", w->name);
		if (!b && (rc = label_blank(t->dev)))
			return answer_refuse(w->a, rc, "salvage %s: no memory for disk %u", w->name, i);
		t->state = DISK_OPEN;
		t->label_state = NSD_LABEL_OK;
		t->label = *w->label;
	}
	return 0;
}

static int disks_take(struct want *w, const char *lost, uint64_t memory)
{
	unsigned n;
	int rc = label_find(w);
	if (rc == 0)
		rc = table_find(w, &n);
	if (rc)
		return rc;
	w->s = ts_alloc(sizeof(*w->s));
	w->given_up = ts_alloc(n * sizeof(*w->given_up));
	if (!w->s || !w->given_up)
		return answer_refuse(w->a, -ENOMEM, "salvage %s: out of memory", w->name);
	w->s->n = n;
	w->s->top = ts_alloc(n * sizeof(*w->s->top));
	w->s->below = ts_alloc(n * sizeof(struct disk *));
	w->s->lost = ts_alloc(n * sizeof(*w->s->lost));
	if (!w->s->top || !w->s->below || !w->s->lost)
		return answer_refuse(w->a, -ENOMEM, "salvage %s: out of memory", w->name);
	for (const char *p = lost; p && *p;) {
		char *end;
		unsigned long no = strtoul(p, &end, 10);
		if (end == p || (*end && *end != ',') || no >= n)
			return answer_refuse(w->a, -EINVAL, "salvage %s: --lost %s: not a list of disk numbers below %u, as `tessera disk list %s` shows them", w->name, lost, n, w->name);
		w->given_up[no] = true;
		p = *end ? end + 1 : end;
	}
	return overlays_make(w, memory ? memory : MEMORY_DEFAULT);
}

/* ---- repair in memory -------------------------------------------------------------------------------------------------- */

static void mark(struct want *w, uint64_t ino)
{
	if (w->nmarked == w->room) {
		size_t room = w->room ? w->room * 2 : 256;
		uint64_t *v = ts_alloc(room * sizeof(*v));
		if (!v)
			return; /* the finding itself is told */
		if (w->nmarked)
			memcpy(v, w->marked, w->nmarked * sizeof(*v));
		ts_free(w->marked);
		w->marked = v;
		w->room = room;
	}
	w->marked[w->nmarked++] = ino;
}

static void found(void *arg, const char *text, bool repaired)
{
	static const char *const words[] = {"inode ", "directory "};
	struct want *w = arg;
	(void)repaired;
	w->nfindings++;
	if (json_array_size(w->findings) < LISTED_MAX)
		json_array_append_new(w->findings, json_string(text));
	for (size_t i = 0; i < TS_ARRAY_LEN(words); i++) {
		const char *p = strstr(text, words[i]);
		char *end;
		uint64_t ino = p ? strtoull(p + strlen(words[i]), &end, 10) : 0;
		if (ino)
			mark(w, ino);
	}
}

static void checking(void *arg, const char *step, unsigned permille)
{
	client_progress(((struct want *)arg)->c, step, permille);
}

static int by_number(const void *x, const void *y)
{
	uint64_t a = *(const uint64_t *)x, b = *(const uint64_t *)y;
	return a < b ? -1 : a > b;
}

static bool is_marked(const struct want *w, uint64_t ino)
{
	return w->nmarked && bsearch(&ino, w->marked, w->nmarked, sizeof(ino), by_number);
}

static int repair(struct want *w, struct nsd_dev **devs)
{
	struct fs_check_args c = {.disks = devs, .ndisks = w->s->n, .lost = w->s->lost, .repair = true, .env = ts_exec_env(w->d->exec), .finding = found, .progress = checking, .arg = w};
	struct fs_check_result r;
	char why[256];
	for (unsigned i = 0; i < w->s->n; i++)
		devs[i] = w->s->top[i].dev;
	int rc = fs_check(&c, true, &r, why, sizeof(why));
	if (rc == -ENOSPC || rc == -ENOMEM)
		return answer_refuse(w->a, rc, "salvage %s: %s; give it more with --memory", w->name, why);
	if (rc)
		return answer_refuse(w->a, rc, "salvage %s: cannot be put together: %s", w->name, why);
	if (w->nmarked)
		qsort(w->marked, w->nmarked, sizeof(*w->marked), by_number);
	return 0;
}

/* ---- what is missing --------------------------------------------------------------------------------------------------- */

struct dir {
	struct ts_list link;
	uint64_t ino;
	char path[]; /* "" is the root */
};
struct walk {
	struct want *w;
	struct mount *m;
	struct fs *fs;
	struct ts_list dirs;
	const char *path; /* of the directory being listed */
	uint64_t cookie;
	json_t *list;
	uint64_t files, ndirs, damaged, lost_bytes;
	bool verify, no_memory;
	void *buf;
	struct ent {
		uint64_t ino;
		unsigned dtype;
		char name[256];
	} ents[64];
	unsigned n;
};

static bool take_entry(void *arg, const char *name, size_t len, uint64_t ino, unsigned dtype, uint64_t off, const struct fs_attr *attr)
{
	struct walk *k = arg;
	(void)attr;
	if (k->n == TS_ARRAY_LEN(k->ents))
		return false;
	k->cookie = off;
	if ((len == 1 && name[0] == '.') || (len == 2 && !memcmp(name, "..", 2)))
		return true;
	struct ent *e = &k->ents[k->n++];
	e->ino = ino;
	e->dtype = dtype;
	memcpy(e->name, name, len);
	e->name[len] = 0;
	return true;
}

static void tell(struct walk *k, const char *path, uint64_t ino, uint64_t bytes, const char *why)
{
	char text[4200];
	k->damaged++;
	k->lost_bytes += bytes;
	if (json_array_size(k->list) >= LISTED_MAX)
		return;
	snprintf(text, sizeof(text), "%s", path[0] ? path : "/");
	text_make_utf8(text);
	json_array_append_new(k->list, json_pack("{s:s,s:I,s:I,s:s}", "path", text, "inode", (json_int_t)ino, "lost_bytes", (json_int_t)bytes, "why", why));
}

/* Reads all of it. Bytes that could not be read, in steps of the reads. */
static uint64_t unreadable(struct walk *k, uint64_t ino)
{
	static const struct fs_cred root;
	struct fs_file *f;
	struct fs_attr a;
	uint64_t bad = 0;
	if (fs_getattr(k->fs, &root, ino, &a) || fs_open(k->fs, &root, ino, O_RDONLY, &f))
		return 1;
	for (uint64_t off = 0; off < a.size; off += READ_BYTES) {
		ssize_t n = fs_read(k->fs, f, k->buf, READ_BYTES, off);
		if (n < 0)
			bad += TS_MIN((uint64_t)READ_BYTES, a.size - off);
	}
	fs_release(k->fs, f);
	return bad;
}

static void file_look(struct walk *k, const char *path, uint64_t ino)
{
	uint64_t *bytes, gone = 0;
	unsigned n;
	k->files++;
	if (fs_file_places(k->fs, ino, &bytes, &n) == 0) {
		for (unsigned i = 0; i < n && i < k->w->s->n; i++)
			gone += k->w->s->lost[i] ? bytes[i] : 0;
		ts_free(bytes);
	} else
		gone = 1;
	if (gone)
		tell(k, path, ino, gone, "lies on a lost disk");
	else if (is_marked(k->w, ino))
		tell(k, path, ino, 0, "was repaired: see the findings");
	else if (k->verify && (gone = unreadable(k, ino)))
		tell(k, path, ino, gone, "cannot be read");
}

static void dir_push(struct walk *k, const char *path, uint64_t ino)
{
	size_t n = strlen(path) + 1;
	struct dir *d = ts_alloc(sizeof(*d) + n);
	if (!d) {
		k->no_memory = true;
		return;
	}
	d->ino = ino;
	memcpy(d->path, path, n);
	ts_list_push_front(&k->dirs, &d->link);
}

static void entry_look(struct walk *k, const struct ent *e)
{
	char path[4096 + 256];
	snprintf(path, sizeof(path), "%.4000s/%s", k->path, e->name);
	if (e->dtype == DT_DIR) {
		k->ndirs++;
		if (is_marked(k->w, e->ino))
			tell(k, path, e->ino, 0, "was repaired: names in it may be missing");
		dir_push(k, path, e->ino);
	} else if (e->dtype == DT_REG)
		file_look(k, path, e->ino);
	else if (is_marked(k->w, e->ino))
		tell(k, path, e->ino, 0, "was repaired: see the findings");
	if ((k->files + k->ndirs) % 256 == 0)
		client_progress(k->w->c, "files", 0);
}

static void walk_all(struct walk *k)
{
	static const struct fs_cred root;
	dir_push(k, "", 1);
	while (!ts_list_empty(&k->dirs)) {
		struct dir *d = ts_list_entry(k->dirs.next, struct dir, link);
		int rc;
		ts_list_del(&d->link);
		if (k->m->state != MOUNT_LIVE) { /* unmounted meanwhile */
			ts_free(d);
			continue;
		}
		k->path = d->path;
		k->cookie = 0;
		do {
			k->n = 0;
			rc = fs_readdir(k->fs, &root, d->ino, k->cookie, false, take_entry, k);
			for (unsigned i = 0; i < k->n; i++)
				entry_look(k, &k->ents[i]);
		} while (!rc && k->n);
		if (rc)
			tell(k, d->path, d->ino, 0, "cannot be listed to its end");
		ts_free(d);
	}
}

/* ---- the verb ---------------------------------------------------------------------------------------------------------- */

static void report(struct want *w, struct mount *m, bool verify)
{
	struct walk *k = ts_alloc(sizeof(*k));
	json_t *lost = json_array();
	for (unsigned i = 0; i < w->s->n; i++)
		if (w->s->lost[i])
			json_array_append_new(lost, json_integer(i));
	w->a->data = json_pack("{s:s,s:s,s:o,s:I,s:O}", "name", m->name, "directory", m->dir, "lost_disks", lost, "findings", (json_int_t)w->nfindings, "list", w->findings);
	if (k)
		*k = (struct walk){.w = w, .m = m, .fs = m->fs, .list = json_array(), .verify = verify};
	if (k && verify)
		k->buf = ts_alloc_aligned(4096, READ_BYTES);
	if (!k || (verify && !k->buf)) {
		answer_refuse(w->a, -ENOMEM, "salvage %s: mounted at %s; out of memory while its files were looked at", w->name, m->dir);
	} else {
		ts_list_init(&k->dirs);
		walk_all(k);
		json_object_update_new(w->a->data, json_pack("{s:I,s:I,s:I,s:I,s:O}", "files", (json_int_t)k->files, "dirs", (json_int_t)k->ndirs, "damaged", (json_int_t)k->damaged,
							     "lost_bytes", (json_int_t)k->lost_bytes, "damaged_list", k->list));
		if (m->state != MOUNT_LIVE)
			answer_refuse(w->a, -ENODEV, "salvage %s: unmounted before all of its files were looked at", w->name);
		else if (k->no_memory)
			answer_refuse(w->a, -ENOMEM, "salvage %s: mounted at %s; out of memory before all of its files were looked at", w->name, m->dir);
	}
	if (k) {
		json_decref(k->list);
		ts_free(k->buf);
	}
	ts_free(k);
}

static int may_begin(struct want *w)
{
	const struct quorum_group_view *g = quorum_group_get(w->d->quorum, fs_group_of(w->label->fs_id));
	if (g && g->nmembers)
		return answer_refuse(w->a, -EBUSY, "salvage %s: mounted (see `tessera fs list`); unmount it on every node first", w->name);
	return 0;
}

void salvage_verb(struct daemon *d, struct client *c, const struct salvage_args *s, struct answer *a)
{
	struct want w = {.d = d, .c = c, .a = a, .name = s->name, .findings = json_array()};
	struct nsd_dev **devs = NULL;
	struct mount *m = NULL;
	ts_mutex_lock(&d->mount_lock, "another mount or format");
	(void)disks_label_refresh(d); /* what cannot be read counts as lost */
	int rc = mount_may(d, s->name, s->dir, a->error, sizeof(a->error));
	if (rc)
		a->rc = rc;
	else
		rc = disks_take(&w, s->lost, s->memory_bytes);
	if (rc == 0)
		rc = may_begin(&w);
	if (rc == 0) {
		devs = ts_alloc(w.s->n * sizeof(struct nsd_dev *));
		rc = devs ? repair(&w, devs) : answer_refuse(a, -ENOMEM, "salvage %s: out of memory", s->name);
	}
	if (rc == 0) {
		char name[64];
		uint64_t group = ts_random(ts_exec_env(d->exec)) | 1;
		snprintf(name, sizeof(name), "%.54s.salvage", s->name);
		rc = mount_salvaged(d, name, s->dir, w.s, w.s->top, w.s->n, group, &m, a->error, sizeof(a->error));
		a->rc = rc;
		if (rc == 0) {
			for (unsigned i = 0; i < w.s->n; i++)
				if (w.s->below[i])
					w.s->below[i]->mount = m; /* nobody mounts or formats them meanwhile */
			m->users++;
			m->inside++;
		}
	}
	ts_mutex_unlock(&d->mount_lock);
	if (rc == 0) {
		report(&w, m, s->verify);
		m->inside--;
		m->users--;
		ts_cond_broadcast(&d->changed);
	} else
		salvage_free(w.s);
	json_decref(w.findings);
	ts_free(w.info);
	ts_free(w.given_up);
	ts_free(w.marked);
	ts_free(devs);
}
