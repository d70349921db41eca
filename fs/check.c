/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the checker's entry: the steps in order, what was found, its memory. Offline: works straight on the disks, takes no
 * token, knows no mount. After a repair it looks again, until a round finds nothing.
 * Must never happen: a repair that reports success and leaves something a second run finds; a check that changes a disk
 * without being asked to repair. */
#include "fs/check.h"

#include <stdarg.h>
#include <stdio.h>

#define DEFAULT_BOUND (256u << 20)
#define MAX_ROUNDS    6

void chk_found(struct chk *c, bool fixed, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	c->round_findings++;
	c->out->findings++;
	if (fixed && c->repair)
		c->out->repaired++;
	if (c->a->finding)
		c->a->finding(c->a->arg, text, fixed && c->repair);
}

int chk_fail(struct chk *c, int rc, const char *fmt, ...)
{
	va_list ap;

	if (c->errlen && !c->err[0]) {
		va_start(ap, fmt);
		vsnprintf(c->err, c->errlen, fmt, ap);
		va_end(ap);
	}
	return rc;
}

void chk_step(struct chk *c, const char *step, uint64_t done, uint64_t all)
{
	c->step = step;
	if (c->a->progress)
		c->a->progress(c->a->arg, step, all ? (unsigned)(done * 1000 / all) : 0);
}

void *chk_alloc(struct chk *c, size_t n)
{
	void *p = NULL;

	if (c->mem_used + n <= c->mem_bound)
		p = ts_alloc(n ? n : 1);
	if (!p) {
		(void)chk_fail(c, -ENOMEM, "%s: needs %llu MiB of memory, %llu MiB are allowed", c->step,
			       (unsigned long long)((c->mem_used + n) >> 20) + 1, (unsigned long long)(c->mem_bound >> 20));
		return NULL;
	}
	c->mem_used += n;
	return p;
}

void chk_free(struct chk *c, void *p, size_t n)
{
	if (p)
		c->mem_used -= n;
	ts_free(p);
}

/* ---- parallel loops ------------------------------------------------------------------------------------------------ */
struct par {
	struct chk *c;
	uint64_t n, next;
	int rc;
	int (*fn)(struct chk *c, void *arg, uint64_t i);
	void *arg;
	struct ts_group group;
};

static void par_work(struct par *p)
{
	const char *step = p->c->step;

	while (p->next < p->n && !p->rc) {
		int rc = p->fn(p->c, p->arg, p->next++);

		if (rc && !p->rc)
			p->rc = rc;
		if (p->next % 64 == 0)
			chk_step(p->c, step, p->next, p->n);
	}
}

static void par_fiber(void *arg)
{
	struct par *p = arg;

	par_work(p);
	ts_group_done(&p->group, 0);
}

int chk_par(struct chk *c, uint64_t n, int (*fn)(struct chk *c, void *arg, uint64_t i), void *arg)
{
	struct par p = {.c = c, .n = n, .fn = fn, .arg = arg};

	ts_group_init(&p.group);
	for (unsigned i = 1; i < TS_MIN(n, (uint64_t)c->fibers); i++) {
		ts_group_add(&p.group);
		if (ts_fiber_spawn(c->exec, "check", par_fiber, &p)) {
			ts_group_done(&p.group, 0);
			break; /* fewer helpers, same work */
		}
	}
	par_work(&p);
	(void)ts_group_wait(&p.group, "fibers of the check");
	return p.rc;
}

/* ---- one round ------------------------------------------------------------------------------------------------------- */
/* Segments that the table has lost are searched for once, before anything is given up for their absence. */
static int find_segments(struct chk *c, bool *again)
{
	bool found = false;
	int rc = 0;

	*again = false;
	if (c->want_search && !c->searched) {
		c->searched = true;
		rc = chk_segment_search(c, &found);
		*again = found;
	}
	c->want_search = false;
	return rc;
}

static int read_segments(struct chk *c)
{
	bool again;
	int rc;

	do {
		chk_segments_free(c);
		chk_step(c, "segment table", 0, 1);
		rc = chk_segments(c);
		if (!rc)
			rc = find_segments(c, &again);
	} while (!rc && again);
	return rc;
}

static int round_inodes(struct chk *c)
{
	bool again = false;
	int rc;

	do {
		c->out->inodes = c->out->dirs = c->out->files = 0;
		rc = read_segments(c);
		chk_step(c, "inodes", 0, 1);
		if (!rc)
			rc = chk_inodes(c);
		if (!rc)
			rc = chk_root(c);
		chk_step(c, "directories", 0, 1);
		if (!rc)
			rc = chk_dirs(c);
		if (!rc)
			rc = find_segments(c, &again);
	} while (!rc && again);
	return rc;
}

static int round_run(struct chk *c)
{
	int rc = chk_region_types(c);

	if (!rc)
		rc = round_inodes(c);
	if (!rc)
		rc = chk_dirs_decide(c);
	chk_step(c, "connectivity", 0, 1);
	if (!rc)
		rc = chk_connect(c);
	if (!rc)
		rc = chk_flush(c); /* references before space */
	chk_step(c, "space", 0, 1);
	if (!rc)
		rc = chk_space(c);
	if (!rc)
		rc = chk_flush(c);
	if (!rc)
		rc = chk_lost_found(c);
	chk_step(c, "link counts", 0, 1);
	if (!rc)
		rc = chk_links(c);
	if (!rc)
		rc = chk_pool_return(c);
	return rc ? rc : chk_flush(c);
}

static int rounds(struct chk *c)
{
	int rc = 0;

	for (c->round = 0; c->round < MAX_ROUNDS; c->round++) {
		uint64_t used_before = c->mem_used;

		c->round_findings = 0;
		c->searched = false;
		rc = round_run(c);
		chk_segments_free(c);
		chk_free(c, c->rtype, c->nregions);
		c->rtype = NULL;
		TS_ASSERT(rc || c->mem_used <= used_before);
		if (rc || !c->repair || !c->round_findings)
			return rc;
		c->nintent = 0; /* done */
	}
	chk_found(c, false, "file system: still findings after %u rounds of repair -> run the check again", MAX_ROUNDS);
	return 0;
}

static int check_all(struct chk *c, bool force_offline)
{
	int rc;

	chk_step(c, "superblocks", 0, 1);
	rc = chk_super(c);
	if (!rc)
		rc = chk_disks(c);
	if (!rc)
		rc = chk_slots(c);
	if (!rc)
		rc = chk_flush(c);
	chk_step(c, "logs", 0, 1);
	if (!rc)
		rc = chk_logs(c, force_offline);
	if (!rc)
		rc = rounds(c);
	if (!rc && c->wrote) { /* what was written here must not look newer than the clock */
		rc = chk_logs_close(c);
		if (!rc)
			rc = chk_flush(c);
	}
	return rc;
}

static void chk_fini(struct chk *c)
{
	chk_overlay_free(c);
	chk_segments_free(c);
	ts_free(c->rtype);
	ts_free(c->ents);
	ts_free(c->disk);
	ts_free(c->slot);
	ts_free(c->intent);
	ts_free(c->pool);
}

int fs_check(const struct fs_check_args *a, bool force_offline, struct fs_check_result *out, char *errmsg, size_t errlen)
{
	struct chk c = {.a = a, .out = out, .err = errmsg, .errlen = errlen, .repair = a->repair, .ndisks = a->ndisks, .step = "start"};
	int rc;

	memset(out, 0, sizeof(*out));
	if (errlen)
		errmsg[0] = 0;
	if (!a->ndisks || a->ndisks > FS_MAX_DISKS)
		return chk_fail(&c, -EINVAL, "%u disks", a->ndisks);
	c.exec = nsd_dev_exec(a->disks[0]);
	c.fibers = a->threads ? a->threads : CHK_FIBERS;
	c.mem_bound = a->memory_bound ? a->memory_bound : DEFAULT_BOUND;
	c.overlay_max = c.mem_bound / 2 / (FS_SUB + 64);
	ts_map_init(&c.overlay);
	c.disk = ts_alloc(sizeof(*c.disk) * a->ndisks);
	if (!c.disk)
		return chk_fail(&c, -ENOMEM, "no memory");
	for (unsigned i = 0; i < a->ndisks; i++) {
		c.disk[i].dev = a->disks[i];
		c.disk[i].lost = a->lost && a->lost[i];
		c.disk[i].size_subs = a->disks[i] ? nsd_info(a->disks[i])->size_bytes / FS_SUB : 0;
	}
	rc = check_all(&c, force_offline);
	if (rc && rc != -EBUSY)
		(void)chk_fail(&c, rc, "%s: error %d", c.step, rc);
	chk_fini(&c);
	return rc;
}
