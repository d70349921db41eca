/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what each kind of object may answer in which state.
 * What must never happen: an answer is allowed that no single file system on one machine would give. */
#include "hist.h"

#include <errno.h>

/* ---- register: the state is its value ---- */
static bool register_step(const void *arg, uint64_t state, const struct hist_op *op, unsigned way,
			  uint64_t *next)
{
	(void)arg;
	*next = op->kind == HIST_WRITE ? op->arg : state;
	return !way && !op->err && (op->kind == HIST_WRITE || op->got == state);
}

/* ---- names: ids of files, 0 for none ---- */
uint64_t hist_name_id(uint64_t state, unsigned name)
{
	return state >> (16 * name) & 0xffff;
}

static uint64_t with(uint64_t state, unsigned name, uint64_t id)
{
	return (state & ~(0xffffULL << (16 * name))) | id << (16 * name);
}

/* The error that a rename of this kind gives in this state, and what it makes of it. */
static int rename_step(uint64_t state, const struct hist_op *op, uint64_t *next)
{
	uint64_t a = hist_name_id(state, op->a), b = hist_name_id(state, op->b);

	if (op->mixed && op->kind == HIST_NOREPLACE && op->err == EEXIST)
		return b ? EEXIST : 0;
	if (!a || (op->kind == HIST_EXCHANGE && !b))
		return ENOENT;
	if (op->kind == HIST_NOREPLACE && b)
		return EEXIST;
	*next = with(with(state, op->a, op->kind == HIST_EXCHANGE ? b : 0), op->b, a);
	return 0;
}

static bool changes_name(const struct hist_op *op, unsigned name)
{
	bool two = op->kind == HIST_RENAME || op->kind == HIST_NOREPLACE || op->kind == HIST_EXCHANGE;

	if (op->err || op->kind == HIST_LOOK)
		return false;
	return op->a == name || (two && op->b == name);
}

/* Linux looks up the old name, then the new one, and only then asks the file system, which a change through
 * another mount may fall between: NOREPLACE then says EEXIST for a target that came when the source had gone,
 * and a file that was seen under both names is "already there": success, and nothing is done. */
void hist_mark_mixed(struct hist_op *ops, size_t n)
{
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < n; k++)
			if (ops[k].worker != ops[i].worker && ops[k].from <= ops[i].to &&
			    ops[i].from <= ops[k].to && changes_name(&ops[k], ops[i].b))
				ops[i].mixed = true;
}

static bool names_step(const void *arg, uint64_t state, const struct hist_op *op, unsigned way,
		       uint64_t *next)
{
	uint64_t a = hist_name_id(state, op->a);

	(void)arg;
	*next = state;
	if (way) /* nothing was done, and it was said to be done */
		return op->mixed && !op->err && hist_name_id(state, op->b) &&
		       (op->kind == HIST_RENAME || op->kind == HIST_EXCHANGE);
	switch (op->kind) {
	case HIST_CREATE:
		if (!a && !op->err)
			*next = with(state, op->a, op->arg);
		return op->err == (a ? EEXIST : 0);
	case HIST_UNLINK:
		*next = with(state, op->a, 0);
		return op->err == (a ? 0 : ENOENT);
	case HIST_LOOK:
		return op->err == (a ? 0 : ENOENT) && (op->err || op->got == a);
	default:
		return op->err == rename_step(state, op, next);
	}
}

/* ---- log: the state is the number of records; which ones is known from the end ---- */
static bool log_step(const void *arg, uint64_t state, const struct hist_op *op, unsigned way, uint64_t *next)
{
	const struct hist_records *all = arg;

	*next = state;
	if (way || op->err)
		return false;
	if (op->kind == HIST_COUNT)
		return op->got == state;
	*next = state + 1;
	return state < all->n && all->r[state] == op->arg;
}

/* ---- lock: low byte the exclusive holder + 1, above it a bit for each shared one ---- */
static bool lock_step(const void *arg, uint64_t state, const struct hist_op *op, unsigned way, uint64_t *next)
{
	uint64_t me = 0x100ULL << op->worker, ex = state & 0xff, mine = op->worker + 1ULL;
	uint64_t others = state & ~me & ~0xffULL;

	(void)arg;
	*next = state;
	if (way)
		return false;
	if (op->kind == HIST_UNLOCK) {
		*next = ex == mine ? others : state & ~me;
		return !op->err;
	}
	bool conflict = (ex && ex != mine) || (op->kind == HIST_LOCK_EX && others);
	if (conflict || op->err)
		return op->err == EAGAIN && conflict;
	*next = op->kind == HIST_LOCK_EX ? mine : me;
	if (op->kind == HIST_LOCK_SH)
		*next |= others;
	return true;
}

const struct hist_spec hist_register = {"register", register_step}, hist_names = {"names", names_step},
		       hist_log = {"log", log_step}, hist_lock = {"lock", lock_step};

/* ---- text ---- */
const char *hist_kind_name(unsigned kind)
{
	static const char *const names[HIST_KINDS] = {
		[HIST_READ] = "read",		[HIST_WRITE] = "write",
		[HIST_CREATE] = "create",	[HIST_UNLINK] = "unlink",
		[HIST_RENAME] = "rename",	[HIST_NOREPLACE] = "rename-noreplace",
		[HIST_EXCHANGE] = "exchange",	[HIST_LOOK] = "stat",
		[HIST_APPEND] = "append",	[HIST_COUNT] = "count",
		[HIST_LOCK_SH] = "lock-shared", [HIST_LOCK_EX] = "lock-exclusive",
		[HIST_UNLOCK] = "unlock",
	};
	return kind < HIST_KINDS ? names[kind] : "?";
}

void hist_print(FILE *f, const struct hist_op *op, int64_t origin)
{
	fprintf(f, "  %9.1f .. %9.1f us  worker %u  %s", (double)(op->from - origin) / 1e3,
		(double)(op->to - origin) / 1e3, op->worker, hist_kind_name(op->kind));
	if (op->kind >= HIST_CREATE && op->kind <= HIST_LOOK)
		fprintf(f, " %c", 'a' + op->a);
	if (op->kind >= HIST_RENAME && op->kind <= HIST_EXCHANGE)
		fprintf(f, " %c", 'a' + op->b);
	if (op->kind == HIST_WRITE || op->kind == HIST_CREATE || op->kind == HIST_APPEND)
		fprintf(f, " %llu", (unsigned long long)op->arg);
	if (op->err)
		fprintf(f, " -> error %d", op->err);
	else if (op->kind == HIST_READ || op->kind == HIST_LOOK || op->kind == HIST_COUNT)
		fprintf(f, " -> %llu", (unsigned long long)op->got);
	fprintf(f, "%s\n", op->planted ? "  (planted)" : "");
}
