/* SPDX-License-Identifier: Apache-2.0 */
/* Job: one script (given, or made while it runs) in a new directory, operation by operation, until an answer
 * is wrong. At the end of one without fault everything is looked at through every mount, and removed through
 * the mounts by turns. What must never happen: the directory is left behind, or what was wrong is overwritten
 * by what goes wrong after it. */
#include "model.h"

#include <errno.h>
#include <ftw.h>
#include <string.h>
#include <unistd.h>

#define WARM_SEEDS 5 /* behind which hits are counted: asking takes time */

static const struct model_op *at_work;
static unsigned turns;

void model_run_say(void)
{
	printf("hang: no answer to: ");
	if (at_work)
		model_script_print(stdout, at_work);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	model_watch_tick();
	remove(path);
	return 0;
}

struct state {
	struct model_run *r;
	struct model m;
	struct model_drive d;
	struct model_plant *plant;
	struct model_answer want, got;
};

/* False: the model has nothing to say, and nothing was asked. */
static bool step(struct state *s, struct model_op *op, struct model_failure *f)
{
	int subject = model_subject(&s->m, op);

	if (!model_apply(&s->m, op, &s->want))
		return false;
	at_work = op;
	model_watch_tick();
	model_drive_op(&s->d, op, &s->got);
	at_work = NULL;
	model_plant_answer(s->plant, op, subject, &s->got);
	s->r->done++;
	s->r->by_kind[op->kind]++;
	s->r->looks += op->kind == MODEL_READ || op->kind == MODEL_LOAD || op->kind == MODEL_STAT ||
		       op->kind == MODEL_FSTAT || op->kind == MODEL_LIST || op->kind == MODEL_HLIST;
	f->part = model_compare(&s->m, op, subject, &s->want, &s->got, f->text, sizeof(f->text));
	f->kind = op->kind;
	return true;
}

/* The directory dir of the model, seen through one mount, and all below. False: a fault. */
static bool look(struct state *s, unsigned mount, int dir, const char *at, struct model_failure *f)
{
	struct model_op op = {.no = UINT64_MAX, .kind = MODEL_LIST, .mount = (uint8_t)mount};

	snprintf(op.p, sizeof(op.p), "%.90s", *at ? at : ".");
	if (strlen(at) > 80)
		return true; /* deeper than a path of a script goes */
	step(s, &op, f);
	for (unsigned k = 0; !f->part && k < MODEL_ENTRIES; k++) {
		int ino = s->m.i[dir].e[k].ino;
		if (ino < 0)
			continue;
		snprintf(op.p, sizeof(op.p), "%.80s%s%.10s", at, *at ? "/" : "", s->m.i[dir].e[k].name);
		op.kind = MODEL_STAT;
		step(s, &op, f);
		if (f->part || (S_ISDIR(s->m.i[ino].mode) && !look(s, mount, ino, op.p, f)))
			return false;
		if (!S_ISREG(s->m.i[ino].mode))
			continue;
		struct model_op open = op, read = op;
		open.kind = MODEL_OPEN;
		read.kind = MODEL_READ;
		read.b = MODEL_MAX_SIZE;
		step(s, &open, f);
		if (!f->part)
			step(s, &read, f);
	}
	return !f->part;
}

static bool look_everywhere(struct state *s, struct model_failure *f)
{
	for (unsigned k = 0; k < s->r->nmounts; k++)
		if (!look(s, k, 0, "", f))
			return false;
	return true;
}

/* What can be asked again without opening anything: names, and handles that are open. */
static bool look_warm(struct state *s, int dir, const char *at, struct model_failure *f)
{
	struct model_op op = {.no = UINT64_MAX};

	for (unsigned mount = 0; mount < s->r->nmounts; mount++)
		for (unsigned k = 0; k < MODEL_ENTRIES; k++) {
			if (s->m.i[dir].e[k].ino < 0 || strlen(at) > 80)
				continue;
			op.kind = MODEL_STAT;
			op.mount = (uint8_t)mount;
			snprintf(op.p, sizeof(op.p), "%.80s%s%.10s", at, *at ? "/" : "",
				 s->m.i[dir].e[k].name);
			step(s, &op, f);
			if (f->part)
				return false;
			if (mount == 0 && S_ISDIR(s->m.i[s->m.i[dir].e[k].ino].mode) &&
			    !look_warm(s, s->m.i[dir].e[k].ino, op.p, f))
				return false;
		}
	for (unsigned k = 0; dir == 0 && k < s->r->nmounts * MODEL_SLOTS; k++) {
		op = (struct model_op){.no = UINT64_MAX,
				       .kind = MODEL_FSTAT,
				       .mount = (uint8_t)(k / MODEL_SLOTS),
				       .slot = k % MODEL_SLOTS};
		step(s, &op, f);
		op.kind = MODEL_READ;
		op.b = MODEL_MAX_SIZE;
		if (!f->part && s->m.h[op.mount][op.slot].r)
			step(s, &op, f);
		if (f->part)
			return false;
	}
	return true;
}

/* The same looks twice: the second time everything is in the caches of all mounts, if they are any good. */
static bool count_hits(struct state *s, struct model_failure *f)
{
	if (!s->r->counter || s->r->warmed++ >= WARM_SEEDS)
		return true;
	if (!look_warm(s, 0, "", f))
		return false;
	uint64_t looks = s->r->looks;
	long long before = model_requests(s->r->counter);
	if (!look_warm(s, 0, "", f))
		return false;
	long long after = model_requests(s->r->counter);
	if (before >= 0 && after >= before) {
		s->r->warm_looks += s->r->looks - looks;
		s->r->warm_requests += after - before;
	}
	return true;
}

static uint64_t number_of(const struct model_op *ops, size_t k, uint32_t classes)
{
	return classes ? k : ops[k].no;
}

void model_run_script(struct model_run *r, struct model_op *ops, size_t n, uint32_t classes,
		      struct model_failure *f)
{
	static struct state s;
	uint64_t rng = model_hash(r->seed);
	struct model_op op = {0};
	int rc = model_drive_open(&s.d, r->nmounts, r->dirs, r->seed, turns++);

	*f = (struct model_failure){0};
	if (rc) {
		snprintf(f->text, sizeof(f->text), "mkdir of %.400s: expected success, got %s", s.d.base[0],
			 strerrorname_np(-rc));
		f->part = "setup";
		f->at = 1;
		return;
	}
	s.r = r;
	model_init(&s.m, r->nmounts);
	s.m.clocks_ns = (int64_t)r->clocks_ms * 1000000;
	s.plant = model_plant_new(r->plant);
	for (size_t k = 0; k < n && !f->part;) {
		if (classes)
			model_generate(&s.m, &rng, classes, &op);
		else
			op = ops[k];
		op.no = number_of(ops, k, classes);
		bool said = step(&s, &op, f);
		if (said && r->verbose)
			model_script_print(stdout, &op);
		if (said && classes)
			ops[k] = op;
		k += said || !classes;
		f->at = k;
	}
	/* What is seen at the end belongs to the last operation: a shorter script may show it just so. */
	if (!f->part && (!count_hits(&s, f) || !look_everywhere(&s, f)))
		f->kind = MODEL_KINDS;
	if (!f->part)
		f->at = 0;
	r->planted += model_plant_count(s.plant);
	model_plant_free(s.plant);
	model_drive_close(&s.d);
	model_free(&s.m);
	model_answer_free(&s.want);
	model_answer_free(&s.got);
	nftw(s.d.base[turns % r->nmounts], remove_one, 16, FTW_DEPTH | FTW_PHYS);
	if (!f->part && access(s.d.base[0], F_OK) == 0) {
		snprintf(f->text, sizeof(f->text), "%.400s: still there after everything below was removed",
			 s.d.base[0]);
		f->part = "removal";
		f->at = n;
		f->kind = MODEL_KINDS;
	}
}
