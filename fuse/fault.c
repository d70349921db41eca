/* SPDX-License-Identifier: Apache-2.0 */
/* Fault points of a mount (see fault.h): the table of names, what is armed, who waits there.
 * A slot is used again only when nobody waits in it, so a hold that was cleared lets everybody go first.
 * Must never happen: a hold that lasts longer than TF_FAULT_MAX_MS. */
#include "fuse/fuse_int.h"
#include <stdio.h>

struct slot {
	struct tfuse_fault f;
	bool armed;
	uint64_t releases; /* counted: who waits goes when it changes */
	struct ts_cond cond;
};

struct tf_faults {
	struct slot slots[TF_FAULTS];
};

static const char *const stages[TF_FAULT_STAGES] = {
	[TF_BEFORE_PIN] = "before_pin", [TF_BEFORE_REPLY] = "before_reply", [TF_AFTER_REPLY] = "after_reply"};
static const struct {
	unsigned point;
	const char *name;
	bool only_skip; /* no place to wait at */
} others[] = {
	{TF_AT_INVAL_ATTR, "inval.attr", false},
	{TF_AT_INVAL_DATA, "inval.data", false},
	{TF_AT_INVAL_LAST, "inval.data_last", false},
	{TF_AT_INVAL_ROUND, "inval.round", false},
	{TF_AT_INVAL_NAMES, "inval.names", false},
	{TF_AT_INVAL_NAMES_LAST, "inval.names_last", false},
	{TF_OMIT_AGAIN, "omit.again_on_enoent", true},
	{TF_OMIT_END, "omit.append_at_end", true},
	{TF_OMIT_ZERO_ATTR, "omit.no_timeout_for_new", true},
	{TF_OMIT_APPLIED, "omit.look_up_applied_first", true},
	{TF_OMIT_BEFORE_WAIT, "omit.names_before_wait", true},
	{TF_OMIT_SIZE, "omit.size_first", true},
	{TF_OMIT_SETTLE, "omit.size_settled", true},
	{TF_OMIT_TORN, "omit.drop_torn", true},
	{TF_OMIT_CLEAR, "omit.wait_for_hole", true},
	{TF_OMIT_LATER, "omit.drop_misplaced", true},
	{TF_OMIT_MET, "omit.drop_read_meanwhile", true},
};

static int point_parse(const char *name, unsigned *point, bool *only_skip)
{
	const char *dot = strchr(name, '.');
	*only_skip = false;
	for (size_t i = 0; i < TS_ARRAY_LEN(others); i++)
		if (!strcmp(others[i].name, name)) {
			*point = others[i].point;
			*only_skip = others[i].only_skip;
			return 0;
		}
	for (unsigned op = 0; dot && op < TF_FAULT_OPS; op++) {
		const struct tf_op_ent *e = &tf_ops[op];
		if (!e->name || e->inline_ok || strlen(e->name) != (size_t)(dot - name) || strncmp(e->name, name, (size_t)(dot - name)))
			continue;
		for (unsigned s = 0; s < TF_FAULT_STAGES; s++)
			if (!strcmp(stages[s], dot + 1)) {
				*point = TF_AT_OPS + op * TF_FAULT_STAGES + s;
				return 0;
			}
	}
	return -ENOENT;
}

void tfuse_fault_name(unsigned point, char *buf, size_t n)
{
	snprintf(buf, n, "?");
	for (size_t i = 0; i < TS_ARRAY_LEN(others); i++)
		if (others[i].point == point)
			snprintf(buf, n, "%s", others[i].name);
	if (point < TF_AT_INVAL_ATTR)
		snprintf(buf, n, "%s.%s", tf_ops[point / TF_FAULT_STAGES].name, stages[point % TF_FAULT_STAGES]);
}

static void slot_let_go(struct slot *s)
{
	s->releases++;
	ts_cond_broadcast(&s->cond);
}

static void slot_wait(struct tfuse *tf, struct slot *s, uint64_t ino)
{
	uint64_t releases = s->releases, until = ts_exec_now(tf->exec) + s->f.ms * TS_NS_PER_MS;
	int rc = 0;
	s->f.waiting++;
	while (s->releases == releases && rc == 0 && !tf->is_gone)
		rc = ts_cond_wait_until(&s->cond, until, "a fault point, for a test", ino, s->f.point);
	s->f.waiting--;
	if (s->f.action == TF_FAULT_HOLD && rc)
		s->f.timed_out++;
}

bool tf_fault_hit(struct tfuse *tf, unsigned point, uint64_t ino)
{
	for (unsigned i = 0; i < TF_FAULTS; i++) {
		struct slot *s = &tf->faults->slots[i];
		struct tfuse_fault *f = &s->f;
		if (!s->armed || f->point != point || (f->ino && f->ino != ino))
			continue;
		f->passed++;
		if (f->passed < f->nth || (f->times && f->caught >= f->times))
			continue;
		f->caught++;
		if (f->action == TF_FAULT_SKIP)
			return true;
		if (ts_fiber_self())
			slot_wait(tf, s, ino);
		return false;
	}
	return false;
}

/* ---- what the daemon's verb does ---------------------------------------------------------------------------------------- */

int tfuse_fault_arm(struct tfuse *tf, const char *name, const struct tfuse_fault *f)
{
	bool only_skip;
	struct tfuse_fault n = *f;
	int rc = point_parse(name, &n.point, &only_skip);
	if (rc)
		return rc;
	if (n.ms > TF_FAULT_MAX_MS || (only_skip && n.action != TF_FAULT_SKIP))
		return -EINVAL;
	if (n.action == TF_FAULT_HOLD && !n.ms)
		n.ms = TF_FAULT_MAX_MS;
	if (!tf->faults) {
		tf->faults = ts_alloc(sizeof(*tf->faults));
		if (!tf->faults)
			return -ENOMEM;
		for (unsigned i = 0; i < TF_FAULTS; i++)
			ts_cond_init(&tf->faults->slots[i].cond);
	}
	for (unsigned i = 0; i < TF_FAULTS; i++) {
		struct slot *s = &tf->faults->slots[i];
		if (s->armed || s->f.waiting)
			continue;
		n.passed = n.caught = n.timed_out = n.waiting = 0;
		s->f = n;
		s->armed = true;
		tf->faults_armed++;
		return 0;
	}
	return -EBUSY;
}

unsigned tfuse_fault_release(struct tfuse *tf, const char *name)
{
	unsigned point, n = 0;
	bool only_skip;
	if (!tf->faults || point_parse(name, &point, &only_skip))
		return 0;
	for (unsigned i = 0; i < TF_FAULTS; i++) {
		struct slot *s = &tf->faults->slots[i];
		if (s->f.point != point || !s->f.waiting)
			continue;
		n += s->f.waiting;
		slot_let_go(s);
	}
	return n;
}

void tfuse_fault_clear(struct tfuse *tf)
{
	tf_faults_clear(tf);
}

void tf_faults_clear(struct tfuse *tf)
{
	for (unsigned i = 0; tf->faults && i < TF_FAULTS; i++) {
		tf->faults->slots[i].armed = false;
		slot_let_go(&tf->faults->slots[i]);
	}
	tf->faults_armed = 0;
}

void tfuse_fault_each(const struct tfuse *tf, void (*fn)(void *arg, const struct tfuse_fault *f), void *arg)
{
	for (unsigned i = 0; tf->faults && i < TF_FAULTS; i++)
		if (tf->faults->slots[i].armed)
			fn(arg, &tf->faults->slots[i].f);
}

void tf_faults_free(struct tfuse *tf)
{
	ts_free(tf->faults);
	tf->faults = NULL;
}
