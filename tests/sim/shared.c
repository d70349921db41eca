/* SPDX-License-Identifier: Apache-2.0 */
/* Clients on all nodes that write the same few files at once: strided and interleaved records, segments, records that overlap,
 * appends, truncates, holes; and look: at bytes, size, times. shared_model.c judges every answer.
 *
 * An unlinked file is written and judged on while somebody has it open; its successor has another name, which is stable before
 * anybody uses it, so names are no question here (work.c asks those). Plants (--plant): shared-lost, shared-torn, shared-size,
 * shared-time: what a file system would answer that had lost a write, torn one, forgotten an extension or a time. */
#include "tests/sim/shared.h"
#include <fcntl.h>
#include <stdio.h>

#define SLOTS	2
#define FILES	64
#define WRITERS 6u

struct sim_shared {
	struct sim *s;
	struct sh_file *slot[SLOTS], *file[FILES];
	struct {
		uint32_t stride, small; /* cells of a record */
		unsigned style;
		struct sim_life *making;
	} of[SLOTS];
	unsigned nfiles, planted;
	bool verified;
};
struct client {
	struct sim_shared *w;
	struct sim_life *l;
	unsigned who;
	uint32_t turn;
	struct {
		struct sh_file *f;
		struct fs_file *h;
	} open[SLOTS];
};

static const struct fs_cred cred;

static bool wrong(struct client *c, const struct sh_file *f, const char *what, int64_t got)
{
	if (!sim_life_over(c->l))
		sim_fail(c->w->s, "n%u shared file %u (inode %llu): %s: %lld", c->l->node->id, f ? f->id : 0, f ? (unsigned long long)f->ino : 0,
			 what, (long long)got);
	return false;
}

/* Every so often, of a plant that is asked for. */
static bool plant(struct sim_shared *w, const char *name)
{
	return w->s->plant && !strcmp(w->s->plant, name) && ++w->planted % 8 == 0;
}

/* ---- open files ----------------------------------------------------------------------------------------------------- */

static struct sh_file *make(struct client *c, unsigned slot)
{
	struct sim_shared *w = c->w;
	struct sh_file *f;
	struct fs_file *h;
	struct fs_attr at;
	if (w->of[slot].making || w->nfiles == FILES)
		return NULL;
	w->of[slot].making = c->l;
	f = w->file[w->nfiles] = sh_file_new(w->s, w->nfiles + 1);
	w->nfiles++;
	snprintf(f->name, sizeof(f->name), "DS%u", f->id); /* D: names of the test itself */
	int rc = AGAIN(c->l, fs_create(c->l->fs, &cred, 1, f->name, strlen(f->name), 0644, O_RDWR | O_EXCL, &h, &at));
	if (!rc && !sim_life_over(c->l)) {
		rc = AGAIN(c->l, fs_fsync(c->l->fs, h, false));
		if (!sim_life_over(c->l))
			fs_release(c->l->fs, h);
	}
	if (sim_life_over(c->l))
		return NULL;
	w->of[slot].making = NULL;
	if (rc) {
		wrong(c, f, "create and fsync", rc);
		return NULL;
	}
	f->ino = at.ino;
	f->gen = at.gen;
	return f;
}

static bool open_current(struct client *c, unsigned slot)
{
	struct sh_file *f = c->w->slot[slot];
	struct fs_attr at;
	struct fs_file *h;
	if (!f) {
		f = make(c, slot);
		if (f)
			c->w->slot[slot] = f;
	}
	if (!f || sim_life_over(c->l))
		return false;
	int rc = AGAIN(c->l, fs_lookup(c->l->fs, &cred, 1, f->name, strlen(f->name), &at));
	if (!rc && !sim_life_over(c->l) && (at.ino != f->ino || at.gen != f->gen))
		return wrong(c, f, "lookup: inode", (int64_t)at.ino);
	if (!rc && !sim_life_over(c->l))
		rc = AGAIN(c->l, fs_open(c->l->fs, &cred, f->ino, O_RDWR, &h));
	if (sim_life_over(c->l))
		return false;
	if (rc)
		return f->unlinked ? false : wrong(c, f, "open", rc);
	c->open[slot].f = f;
	c->open[slot].h = h;
	return true;
}

/* The slot's file, or for a while still its unlinked predecessor. */
static bool have(struct client *c, unsigned slot)
{
	struct sh_file *f = c->open[slot].f;
	if (f && f->unlinked && sim_chance(c->w->s, 30)) {
		fs_release(c->l->fs, c->open[slot].h);
		if (sim_life_over(c->l))
			return false;
		c->open[slot].f = f = NULL;
	}
	return f || open_current(c, slot);
}

static void do_replace(struct client *c, unsigned slot)
{
	struct sh_file *old = c->w->slot[slot], *f = make(c, slot);
	if (!f)
		return;
	c->w->slot[slot] = f;
	old->unlinked = true;
	int rc = AGAIN(c->l, fs_unlink(c->l->fs, &cred, 1, old->name, strlen(old->name)));
	if (rc && !sim_life_over(c->l))
		wrong(c, old, "unlink", rc);
}

/* ---- changes -------------------------------------------------------------------------------------------------------- */

static void random_range(struct sim *s, uint32_t most, uint32_t *first, uint32_t *count)
{
	unsigned z = sim_chance(s, 60) ? 0 : (unsigned)sim_below(s, SH_ZONES);
	uint32_t from = sh_zone_first(z), end = sh_zone_end(from);
	if (sim_chance(s, 50))
		most = 40;
	*count = 1 + (uint32_t)sim_below(s, TS_MIN(most, end - from));
	*first = from + (uint32_t)sim_below(s, end - from - *count + 1);
}

/* Record `who` of each turn in a zone that is taken as a ring of records. */
static void interleaved(struct client *c, uint32_t record, uint32_t *first, uint32_t *count)
{
	uint32_t zone = sh_zone_first((unsigned)sim_below(c->w->s, 4) % SH_ZONES), n = (sh_zone_end(zone) - zone) / record;
	*first = zone + ((c->turn++ * WRITERS + c->who) % n) * record;
	*count = record;
}

static void segment(struct client *c, uint32_t *first, uint32_t *count)
{
	uint32_t zone = sh_zone_first((unsigned)sim_below(c->w->s, 4) % SH_ZONES), own = (sh_zone_end(zone) - zone) / WRITERS;
	*count = 1 + (uint32_t)sim_below(c->w->s, 120);
	*first = zone + c->who * own + c->turn++ * 60 % (own - *count + 1);
}

static void write_range(struct client *c, unsigned slot, uint32_t *first, uint32_t *count)
{
	unsigned style = c->w->of[slot].style;
	if (sim_chance(c->w->s, 30))
		style = (unsigned)sim_below(c->w->s, 4);
	if (style == 0)
		random_range(c->w->s, SH_RUN_MAX, first, count);
	else if (style == 1)
		interleaved(c, c->w->of[slot].stride, first, count);
	else if (style == 2)
		interleaved(c, c->w->of[slot].small, first, count);
	else
		segment(c, first, count);
}

static ssize_t torn_write(struct client *c, struct fs_file *h, const uint8_t *buf, size_t len, uint64_t off)
{
	size_t half = len / 2 / SH_CELL * SH_CELL;
	ssize_t n = AGAIN(c->l, fs_write(c->l->fs, h, buf, half, off, false, false, NULL));
	ts_sleep_until(ts_exec_now(c->l->x) + 3 * TS_NS_PER_MS);
	if (n < 0 || sim_life_over(c->l))
		return n;
	n = AGAIN(c->l, fs_write(c->l->fs, h, buf + half, len - half, off + half, false, false, NULL));
	return n < 0 ? n : (ssize_t)half + n;
}

static void write_cells(struct client *c, unsigned slot, uint32_t first, uint32_t count, bool append)
{
	struct sh_file *f = c->open[slot].f;
	size_t len = (size_t)count * SH_CELL;
	uint8_t *buf = malloc(len);
	uint64_t off = append ? 0 : sh_offset(first), at = 0;
	ssize_t n;
	TS_ASSERT(buf);
	uint32_t op = sh_begin(f, c->l, &(struct sh_op){.first = first, .count = count, .append = append, .size = append ? 0 : off + len});
	sh_fill(f, op, count, buf);
	if (count > 1 && !append && plant(c->w, "shared-torn"))
		n = torn_write(c, c->open[slot].h, buf, len, off);
	else if (!append && plant(c->w, "shared-lost"))
		n = (ssize_t)len;
	else
		n = AGAIN(c->l, fs_write(c->l->fs, c->open[slot].h, buf, len, off, append, false, &at));
	free(buf);
	if (sim_life_over(c->l))
		return;
	if (n > 0 && n < (ssize_t)len && c->w->s->starved) /* cut short for want of memory: as one that somebody died in */
		return;
	if (n != (ssize_t)len) {
		wrong(c, f, append ? "append" : "write", n);
		return;
	}
	if (append)
		sh_placed(f, op, at);
	sh_done(f, op);
	if (append)
		sh_appended(f, c->l, op, at);
}

static void do_write(struct client *c, unsigned slot)
{
	uint32_t first, count;
	write_range(c, slot, &first, &count);
	write_cells(c, slot, first, count, false);
}

/* Not where the end may lie in front of a zone that the record would run into. */
static void do_append(struct client *c, unsigned slot)
{
	uint32_t count = 1 + (uint32_t)sim_below(c->w->s, sim_chance(c->w->s, 50) ? 12 : 700);
	uint64_t most = sh_size_most(c->open[slot].f);
	uint32_t next = sh_cell_at(most);
	if (next == SH_CELLS || sh_offset(next) != most || next + count > sh_zone_end(next))
		return;
	write_cells(c, slot, 0, count, true);
}

static void do_truncate(struct client *c, unsigned slot)
{
	struct sh_file *f = c->open[slot].f;
	uint32_t first, count;
	struct fs_attr at;
	random_range(c->w->s, 100, &first, &count);
	struct fs_setattr sa = {.valid = FS_SET_SIZE, .size = sh_offset(first)};
	uint32_t op = sh_begin(f, c->l, &(struct sh_op){.first = first, .count = SH_CELLS - first, .zero = true, .cuts = true, .size = sa.size});
	int rc = AGAIN(c->l, fs_setattr(c->l->fs, &cred, f->ino, &sa, &at));
	if (sim_life_over(c->l))
		return;
	if (rc)
		wrong(c, f, "truncate", rc);
	else
		sh_done(f, op);
}

static void do_allocate(struct client *c, unsigned slot)
{
	static const int modes[] = {FS_FALLOC_PUNCH | FS_FALLOC_KEEP_SIZE, FS_FALLOC_PUNCH | FS_FALLOC_KEEP_SIZE, FS_FALLOC_ZERO,
				    FS_FALLOC_ZERO | FS_FALLOC_KEEP_SIZE, 0, FS_FALLOC_KEEP_SIZE};
	int mode = modes[sim_below(c->w->s, TS_ARRAY_LEN(modes))];
	bool zero = mode & (FS_FALLOC_PUNCH | FS_FALLOC_ZERO);
	struct sh_file *f = c->open[slot].f;
	uint32_t first, count;
	random_range(c->w->s, SH_RUN_MAX, &first, &count);
	uint64_t off = sh_offset(first), len = (uint64_t)count * SH_CELL;
	uint32_t op = sh_begin(f, c->l, &(struct sh_op){.first = first, .count = zero ? count : 0, .zero = zero,
							.size = mode & FS_FALLOC_KEEP_SIZE ? 0 : off + len});
	int rc = AGAIN(c->l, fs_fallocate(c->l->fs, c->open[slot].h, mode, off, len, false));
	if (sim_life_over(c->l))
		return;
	if (rc)
		wrong(c, f, "fallocate", rc);
	else
		sh_done(f, op);
}

static void do_fsync(struct client *c, unsigned slot)
{
	struct sh_file *f = c->open[slot].f;
	bool datasync = sim_chance(c->w->s, 40);
	uint32_t since = sh_tick(f);
	int rc = AGAIN(c->l, fs_fsync(c->l->fs, c->open[slot].h, datasync));
	if (sim_life_over(c->l))
		return;
	if (rc)
		wrong(c, f, "fsync", rc);
	else
		sh_fsynced(f, c->l, since, !datasync);
}

/* ---- looks ------------------------------------------------------------------------------------------------------------ */

static void read_cells(struct client *c, struct sh_file *f, struct fs_file *h, uint32_t first, uint32_t count)
{
	struct sh_look *k = malloc(sizeof(*k));
	uint8_t *buf = calloc(count, SH_CELL);
	TS_ASSERT(k && buf);
	sh_look(f, first, count, k);
	ssize_t n = AGAIN(c->l, fs_read_cached(c->l->fs, h, false, buf, (size_t)count * SH_CELL, sh_offset(first), NULL)); /* short at the end only */
	if (n < 0)
		wrong(c, f, "read", n);
	else if (!sim_life_over(c->l))
		sh_read(f, c->l, k, buf);
	free(buf);
	free(k);
}

/* Half of all reads look at what was changed last. */
static void do_read(struct client *c, unsigned slot)
{
	struct sh_file *f = c->open[slot].f;
	uint32_t first, count;
	random_range(c->w->s, SH_RUN_MAX, &first, &count);
	for (uint32_t op = f->nops - 1; op && sim_chance(c->w->s, 80); op--) {
		const struct sh_op *o = &f->op[op];
		if (!o->count || o->zero || (o->append && !o->placed))
			continue;
		first = o->first - (uint32_t)sim_below(c->w->s, TS_MIN(o->first, 20u) + 1);
		count = TS_MIN(sh_zone_end(first) - first, TS_MIN(o->count + 30, SH_RUN_MAX));
		break;
	}
	read_cells(c, f, c->open[slot].h, first, count);
}

static void stat_file(struct client *c, struct sh_file *f)
{
	bool quiet = sh_quiet(f);
	uint32_t since = sh_tick(f), nops = f->nops;
	struct fs_attr at;
	int rc = AGAIN(c->l, fs_getattr(c->l->fs, &cred, f->ino, &at));
	if (sim_life_over(c->l))
		return;
	if (rc) {
		wrong(c, f, "stat", rc);
		return;
	}
	if (at.size && plant(c->w, "shared-size"))
		at.size -= SH_CELL;
	if (plant(c->w, "shared-time"))
		at.mtime_ns -= (int64_t)TS_NS_PER_S;
	sh_stat(f, c->l, since, quiet && f->nops == nops, at.size, at.mtime_ns, at.ctime_ns);
}

static void do_stat(struct client *c, unsigned slot)
{
	stat_file(c, c->open[slot].f);
}

static void do_seek(struct client *c, unsigned slot)
{
	struct sh_file *f = c->open[slot].f;
	struct sh_look *k = malloc(sizeof(*k));
	bool hole = sim_chance(c->w->s, 50);
	uint32_t first, count;
	TS_ASSERT(k);
	random_range(c->w->s, 100, &first, &count);
	sh_look(f, first, TS_MIN(sh_zone_end(first) - first, SH_RUN_MAX), k);
	uint64_t off = sh_offset(first);
	int64_t at = AGAIN(c->l, fs_seek(c->l->fs, c->open[slot].h, off, hole));
	if (sim_life_over(c->l)) {
		free(k);
		return;
	}
	if (at < 0 && at != -ENXIO)
		wrong(c, f, "seek", at);
	else if (at < 0)
		sh_holes(f, c->l, k, off, UINT64_MAX);
	else if (hole)
		sh_holes(f, c->l, k, (uint64_t)at, TS_ALIGN_DOWN((uint64_t)at, 4096) + 4096);
	else
		sh_holes(f, c->l, k, off, (uint64_t)at);
	free(k);
}

/* ---- clients ------------------------------------------------------------------------------------------------------------ */

static const struct {
	void (*fn)(struct client *c, unsigned slot);
	unsigned percent;
} acts[] = {{do_write, 44}, {do_read, 19}, {do_stat, 10},  {do_fsync, 8}, {do_append, 7},
	    {do_truncate, 4}, {do_seek, 4}, {do_allocate, 3}, {do_replace, 1}};

static void one(struct client *c)
{
	unsigned slot = sim_chance(c->w->s, 85) ? 0 : 1, k = 0, dice = (unsigned)sim_below(c->w->s, 100);
	while (dice >= acts[k].percent)
		dice -= acts[k++].percent;
	if (!have(c, slot) || sim_life_over(c->l))
		return;
	acts[k].fn(c, slot);
	sim_work_count(c->w->s);
}

void sim_shared_client(void *arg)
{
	struct sim_life *l = arg;
	struct sim *s = l->node->sim;
	struct client c = {.w = s->shared, .l = l, .who = (2 * l->node->id + l->sharers++ % 2) % WRITERS};
	while (!s->failed && !l->unmount && !sim_life_over(l) && !sim_work_finished(s)) {
		if (sim_work_ready(s))
			one(&c);
		ts_sleep_until(ts_exec_now(l->x) + sim_below(s, 4 * TS_NS_PER_MS));
	}
	for (unsigned i = 0; i < SLOTS && !sim_life_over(l); i++)
		if (c.open[i].f)
			fs_release(l->fs, c.open[i].h);
	l->clients--;
	ts_cond_broadcast(&l->changed);
}

/* On one node, at the end: every byte that was ever written or may not have been. */
bool sim_shared_verify(struct sim_life *l)
{
	struct client c = {.w = l->node->sim->shared, .l = l};
	for (unsigned i = 0; i < SLOTS; i++) {
		struct sh_file *f = c.w->slot[i];
		if (!f || !open_current(&c, i))
			continue;
		stat_file(&c, f);
		for (uint32_t at = 0; at < SH_CELLS && !sim_life_over(l) && !c.w->s->failed;) {
			uint32_t n = TS_MIN(sh_zone_end(at) - at, SH_RUN_MAX);
			read_cells(&c, f, c.open[i].h, at, n);
			at += n;
		}
		if (!sim_life_over(l))
			stat_file(&c, f);
		if (sim_life_over(l))
			return false;
		fs_release(l->fs, c.open[i].h);
	}
	return !sim_life_over(l);
}

void sim_shared_life_dead(struct sim_life *l)
{
	struct sim_shared *w = l->node->sim->shared;
	for (unsigned i = 0; i < SLOTS; i++)
		if (w->of[i].making == l)
			w->of[i].making = NULL;
	for (unsigned i = 0; i < w->nfiles; i++)
		sh_life_dead(w->file[i], l);
}

void sim_shared_new(struct sim *s)
{
	static const uint32_t strides[] = {64, 128, 512, 1024}, smalls[] = {1, 3, 11, 47, 100};
	struct sim_shared *w = calloc(1, sizeof(*w));
	TS_ASSERT(w);
	w->s = s;
	for (unsigned i = 0; i < SLOTS && s->shared_load; i++) {
		w->of[i].stride = strides[sim_below(s, TS_ARRAY_LEN(strides))];
		w->of[i].small = smalls[sim_below(s, TS_ARRAY_LEN(smalls))];
		w->of[i].style = (unsigned)sim_below(s, 5);
	}
	s->shared = w;
}

void sim_shared_free(struct sim *s)
{
	for (unsigned i = 0; i < s->shared->nfiles; i++)
		sh_file_free(s->shared->file[i]);
	free(s->shared);
}
