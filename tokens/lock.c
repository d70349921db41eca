/* SPDX-License-Identifier: Apache-2.0 */
/* Job: locks of applications, for fibers: each call is one or two operations of the engine (dlm/plock.h), and
 * waits for their end. Must never happen: a fiber that nobody wakes (its lock came, it was interrupted, the
 * node is out); a lock of a closed file that stays. */
#include "tokens/tokens_int.h"

struct call {
	struct ts_list link; /* in mgr.lock_calls */
	struct plock_op op;
	struct ts_cond cond;
	bool done;
};
struct closing {	     /* a lock given up without waiting */
	struct ts_list link; /* in mgr.lock_closings */
	struct plock_op op;
};

void tok_lock_done(void *arg, struct plock_op *op)
{
	if (!op->w.since_ns) { /* only calls have a time */
		struct closing *x = TS_CONTAINER(op, struct closing, op);
		ts_list_del(&x->link);
		ts_free(x);
		return;
	}
	struct call *c = TS_CONTAINER(op, struct call, op);
	c->done = true;
	ts_cond_broadcast(&c->cond);
}

static struct plock_piece piece(const struct tok_lock *l, enum plock_type type)
{
	return (struct plock_piece){.start = l->start,
				    .end = l->end,
				    .owner = l->owner,
				    .handle = l->handle,
				    .pid = l->pid,
				    .type = (uint8_t)type,
				    .space = l->flock ? PLOCK_FLOCK : PLOCK_RECORD};
}

static int run(struct tok_mgr *m, struct call *c, const struct tok_lock *l, enum plock_kind kind,
	       enum plock_type type, unsigned flags, const struct tok_lock_waiter *w)
{
	if (m->failed)
		return -TS_ERR_FENCED;
	*c = (struct call){.op = {.ino = l->ino, .w = {.kind = (uint8_t)kind, .flags = (uint8_t)flags}}};
	c->op.w.p = piece(l, type);
	c->op.w.since_ns = TS_MAX(ts_wall_ns(ts_exec_env(m->a.exec)), (uint64_t)1);
	ts_cond_init(&c->cond);
	ts_list_push_back(&m->lock_calls, &c->link);
	plock_submit(m->locks, &c->op);
	while (!c->done && !m->failed) {
		if (w && w->interrupted && w->interrupted(w->arg))
			plock_cancel(m->locks, &c->op);
		if (!c->done)
			ts_cond_wait(&c->cond,
				     flags & PLOCK_F_WAIT ? "lock of another process" : "answer about a lock",
				     l->ino, l->pid);
	}
	ts_list_del(&c->link);
	return c->done ? c->op.rc : -TS_ERR_FENCED;
}

static enum plock_type held(struct tok_mgr *m, const struct tok_lock *l)
{
	struct plock_piece key = piece(l, PLOCK_UN);
	return plock_held(m->locks, l->ino, &key);
}

/* What the last answer needs to be known for is asked only where somebody may have to wait. */
static int raise(struct tok_mgr *m, struct call *c, const struct tok_lock *l, enum plock_type type,
		 const struct tok_lock_waiter *w)
{
	unsigned flags = 0;
	if (!w)
		return run(m, c, l, PLOCK_RAISE, type, 0, NULL);
	if (plock_delegated(m->locks, l->ino)) {
		int rc = run(m, c, l, PLOCK_RAISE, type, 0, NULL);
		if (rc != -EAGAIN)
			return rc;
	}
	if (!l->flock && (!w->of_process || w->of_process(w->arg)))
		flags = PLOCK_F_DETECT;
	return run(m, c, l, PLOCK_RAISE, type, PLOCK_F_WAIT | flags, w);
}

int tok_lock_set(struct tok_mgr *m, const struct tok_lock *l, const struct tok_lock_waiter *w)
{
	struct call c;
	int rc;
	switch (l->type) {
	case TOK_LOCK_NONE:
		return run(m, &c, l, PLOCK_LOWER, PLOCK_UN, 0, NULL);
	case TOK_LOCK_READ: /* what it has stays until the rest is there, then all of it is for reading */
		rc = l->flock && held(m, l) == PLOCK_WR ? 0 : raise(m, &c, l, PLOCK_RD, w);
		return !rc && held(m, l) == PLOCK_WR ? run(m, &c, l, PLOCK_LOWER, PLOCK_RD, 0, NULL) : rc;
	default:
		rc = 0;
		if (l->flock && held(m, l) == PLOCK_RD) /* as the kernel's own: given up first, or two who
							   upgrade wait for ever */
			rc = run(m, &c, l, PLOCK_LOWER, PLOCK_UN, 0, NULL);
		return rc ? rc : raise(m, &c, l, PLOCK_WR, w);
	}
}

int tok_lock_get(struct tok_mgr *m, struct tok_lock *l, const struct tok_lock_waiter *w)
{
	struct call c;
	int rc = run(m, &c, l, PLOCK_TEST, l->type == TOK_LOCK_WRITE ? PLOCK_WR : PLOCK_RD, 0, w);
	if (rc)
		return rc;
	l->type = (enum tok_lock_type)c.op.found.type;
	if (l->type == TOK_LOCK_NONE)
		return 0;
	l->start = c.op.found.start;
	l->end = c.op.found.end;
	l->owner = c.op.found.owner;
	l->node = c.op.found.node;
	l->pid = c.op.found.pid;
	return 0;
}

int tok_lock_close(struct tok_mgr *m, uint64_t ino, uint64_t owner)
{
	struct tok_lock l = {.ino = ino, .owner = owner, .end = PLOCK_END};
	return held(m, &l) ? tok_lock_set(m, &l, NULL) : 0;
}

void tok_lock_release(struct tok_mgr *m, uint64_t ino, uint64_t handle)
{
	const struct plock_piece *q;
	while (!m->failed && (q = plock_of_handle(m->locks, ino, handle))) {
		struct closing *c = ts_alloc(sizeof *c);
		if (!c)
			TS_PANIC("locks: no memory to give up the locks of a closed file (inode %llu)",
				 (unsigned long long)ino);
		c->op = (struct plock_op){.ino = ino, .w = {.p = *q, .kind = PLOCK_LOWER}};
		c->op.w.p.type = PLOCK_UN;
		ts_list_push_back(&m->lock_closings, &c->link);
		plock_submit(m->locks, &c->op);
	}
}

void tok_lock_interrupt(struct tok_mgr *m)
{
	ts_list_for(n, &m->lock_calls) ts_cond_broadcast(&ts_list_entry(n, struct call, link)->cond);
}

void tok_lock_fini(struct tok_mgr *m)
{
	struct ts_list *n;
	while ((n = ts_list_pop_front(&m->lock_closings)))
		ts_free(ts_list_entry(n, struct closing, link));
	plock_free(m->locks);
}

struct each {
	void (*fn)(void *arg, const struct tok_lock_info *i);
	void *arg;
};
static void one(void *arg, const struct plock_info *p)
{
	struct each *e = arg;
	struct tok_lock_info i = {.lock = {.ino = p->ino,
					   .start = p->p.start,
					   .end = p->p.end,
					   .owner = p->p.owner,
					   .pid = p->p.pid,
					   .node = p->p.node,
					   .type = (enum tok_lock_type)p->p.type,
					   .flock = p->p.space == PLOCK_FLOCK},
				  .mastered = p->mastered,
				  .waiting = p->waiting,
				  .delegated = p->delegated,
				  .master = p->master,
				  .since_wall_ns = p->since_ns};
	e->fn(e->arg, &i);
}
void tok_lock_each(struct tok_mgr *m, void (*fn)(void *arg, const struct tok_lock_info *i), void *arg)
{
	struct each e = {fn, arg};
	plock_each(m->locks, one, &e);
}
void tok_lock_stats_get(struct tok_mgr *m, struct tok_lock_stats *out)
{
	struct plock_stats s;
	plock_stats_get(m->locks, &s);
	*out = (struct tok_lock_stats){.locks = s.locks,
				       .inodes = s.inodes,
				       .mastered = s.mastered,
				       .ops = s.ops,
				       .local_ops = s.local_ops,
				       .sent = s.sent,
				       .delegations = s.delegations,
				       .recalls = s.recalls,
				       .deadlocks = s.deadlocks};
}
