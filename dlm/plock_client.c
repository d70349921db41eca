/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the locks of this node's own processes: what they hold, what they ask for, and the decision itself
 * while an inode is delegated to this node.
 *
 * Cover: what is in a table here is never more than what the master has. A RAISE counts here when its answer
 * arrives; a LOWER counts from the moment it is submitted, and once more behind the answer of a RAISE that
 * the master may have decided before it. Must never happen: an operation without an end; a lock here that the
 * master does not know. */
#include "dlm/plock_int.h"

/* ---- inodes ---- */

static void pid_counted(void *arg, const struct plock_piece *piece, int by)
{
	struct plock *p = arg;
	uint64_t h = ts_hash_u64(piece->pid);
	struct ts_map_node *n = ts_map_first(&p->pids, h);
	while (n && TS_CONTAINER(n, struct plock_pid, node)->pid != piece->pid)
		n = ts_map_next(n);
	struct plock_pid *x = n ? TS_CONTAINER(n, struct plock_pid, node) : NULL;
	if (by > 0) {
		p->nlocks++;
		if (!x) {
			x = plock_xalloc(sizeof *x, "a process that holds locks");
			x->pid = piece->pid;
			plock_must(ts_map_insert(&p->pids, &x->node, h), "a process that holds locks");
		}
		x->n++;
		return;
	}
	p->nlocks--;
	TS_ASSERT(x && x->n);
	if (--x->n == 0) {
		ts_map_remove(&p->pids, &x->node);
		ts_free(x);
	}
}

static bool pid_holds(const struct plock *p, uint32_t pid)
{
	for (struct ts_map_node *n = ts_map_first(&p->pids, ts_hash_u64(pid)); n; n = ts_map_next(n))
		if (TS_CONTAINER(n, struct plock_pid, node)->pid == pid)
			return true;
	return false;
}

struct plock_res *plock_res_find(const struct plock *p, uint64_t ino)
{
	return (struct plock_res *)plock_auth_find(&p->res, ino);
}

static struct plock_res *res_get(struct plock *p, uint64_t ino)
{
	struct plock_res *r = plock_res_find(p, ino);
	if (r)
		return r;
	r = (struct plock_res *)plock_auth_new(&p->res, ino, sizeof *r);
	if (!r)
		return NULL;
	r->a.t.counted = pid_counted;
	r->a.t.arg = p;
	ts_list_init(&r->ops);
	ts_list_init(&r->idle);
	return r;
}

static void idle_del(struct plock *p, struct plock_res *r)
{
	if (ts_list_empty(&r->idle))
		return;
	ts_list_del(&r->idle);
	p->nidle--;
}

int plock_res_free(struct ts_map_node *n, void *arg)
{
	struct plock *p = arg;
	struct plock_res *r = TS_CONTAINER(n, struct plock_res, a.node);
	idle_del(p, r);
	plock_table_fini(&r->a.t);
	ts_map_remove(&p->res, n);
	ts_free(r);
	return 0;
}

static void send_state(struct plock *p, struct plock_res *r, const struct plock_entry_msg *e, uint32_t n,
		       bool last)
{
	struct plock_m m = {
		.type = PLOCK_STATE, .ino = r->a.ino, .flags = last ? PLOCK_MF_LAST : 0, .count = n, .ents = e};
	plock_send(p, plock_master(p, r->a.ino), &m);
}

/* After a change: kept while it says something; a delegation without locks is kept as long as there is room.
 */
static void settle(struct plock *p, struct plock_res *r)
{
	idle_del(p, r);
	if (r->a.t.n || !ts_list_empty(&r->ops))
		return;
	if (!r->delegated) {
		plock_res_free(&r->a.node, p);
		return;
	}
	ts_list_push_back(&p->idle, &r->idle);
	if (++p->nidle <= p->a.max_idle)
		return;
	r = ts_list_entry(p->idle.next, struct plock_res, idle);
	send_state(p, r, NULL, 0, true);
	plock_res_free(&r->a.node, p);
}

/* ---- operations ---- */

struct plock_op *plock_op_find(const struct plock_res *r, uint64_t op)
{
	ts_list_for(n, &r->ops)
	{
		struct plock_op *o = ts_list_entry(n, struct plock_op, link);
		if (o->w.op == op)
			return o;
	}
	return NULL;
}

static void end(struct plock *p, struct plock_op *op, int rc)
{
	op->rc = rc;
	op->res = NULL;
	ts_list_del(&op->w.link);
	ts_list_del(&op->all);
	ts_list_del(&op->link);
	ts_list_push_back(&p->finished, &op->link);
}

static void lower(struct plock_res *r, const struct plock_op *op)
{
	plock_must(plock_table_set(&r->a.t, &op->w.p, false), "an unlock");
}

/* Delegated: who waits here and need not wait any more. */
static void pump(struct plock *p, struct plock_res *r)
{
	struct plock_want *w;
	int rc;
	while ((w = plock_auth_next(&r->a, &rc))) {
		struct plock_piece owner = w->p;
		end(p, TS_CONTAINER(w, struct plock_op, w), rc);
		if (!rc)
			plock_detect_owner(p, &owner);
	}
}

/* Delegated: the decision, of an operation that does not wait yet. Locks are given up by the caller. */
static void decide(struct plock *p, struct plock_res *r, struct plock_op *op)
{
	int rc = 0;
	if (op->w.kind == PLOCK_TEST) {
		if (!plock_table_first_clash(&r->a.t, &op->w.p, &op->found))
			op->found.type = PLOCK_UN;
	} else if (op->w.kind == PLOCK_RAISE && op->cancelled) {
		rc = -EINTR;
	} else if (op->w.kind == PLOCK_RAISE) {
		struct plock_piece owner = op->w.p;
		rc = plock_auth_try(&r->a, &op->w);
		if (rc == -EAGAIN && (op->w.flags & PLOCK_F_WAIT)) {
			ts_list_push_back(&r->a.waiters, &op->w.link);
			plock_detect_start(p, r->a.ino, &r->a, &op->w);
			return;
		}
		end(p, op, rc);
		if (!rc)
			plock_detect_owner(p, &owner);
		return;
	}
	end(p, op, rc);
}

static void send_op(struct plock *p, const struct plock_op *op, uint8_t more)
{
	struct plock_m m = {.type = PLOCK_OP,
			    .ino = op->ino,
			    .op = op->w.op,
			    .since_ns = op->w.since_ns,
			    .kind = op->w.kind,
			    .flags = op->w.flags | more,
			    .p = op->w.p};
	m.p.handle = 0;
	plock_send(p, plock_master(p, op->ino), &m);
}

/* Without an inode it ends at once: nothing to give up, or no room. */
static bool ends_early(struct plock *p, struct plock_op *op)
{
	struct plock_res *r = plock_res_find(p, op->ino);
	op->rc = 0;
	if (op->w.kind == PLOCK_LOWER) {
		if (r && plock_table_held(&r->a.t, &op->w.p) > op->w.p.type)
			return false;
	} else if (op->w.kind == PLOCK_RAISE && p->nlocks >= p->a.max_locks) {
		op->rc = -ENOLCK;
	} else if (!r && !(r = res_get(p, op->ino))) {
		op->rc = -ENOLCK;
	} else {
		op->res = r;
		return false;
	}
	ts_list_push_back(&p->finished, &op->link);
	return true;
}

void plock_submit(struct plock *p, struct plock_op *op)
{
	plock_enter(p);
	p->st.ops++;
	op->w.p.node = (uint16_t)p->self;
	op->w.op = ++p->last_op;
	op->cancelled = false;
	op->found = (struct plock_piece){0};
	ts_list_init(&op->w.link);
	ts_list_init(&op->all);
	ts_list_init(&op->link);
	if (!(op->w.flags & PLOCK_F_WAIT) || pid_holds(p, op->w.p.pid))
		op->w.flags |= PLOCK_F_BARGE;
	if (!ends_early(p, op)) {
		struct plock_res *r = op->res = plock_res_find(p, op->ino);
		ts_list_push_back(&r->ops, &op->link);
		ts_list_push_back(&p->all, &op->all);
		if (op->w.kind == PLOCK_LOWER)
			lower(r, op);
		if (r->delegated) {
			p->st.local_ops++;
			decide(p, r, op);
			if (op->w.kind == PLOCK_LOWER)
				pump(p, r);
			settle(p, r);
		} else if (p->phase != PLOCK_OUT) {
			send_op(p, op, 0);
		}
	}
	plock_leave(p);
}

void plock_local_end(struct plock *p, struct plock_op *op, int rc)
{
	struct plock_res *r = op->res;
	end(p, op, rc);
	pump(p, r);
	settle(p, r);
}

void plock_cancel(struct plock *p, struct plock_op *op)
{
	struct plock_res *r = op->res;
	if (!r || op->cancelled || op->w.kind == PLOCK_LOWER)
		return;
	plock_enter(p);
	op->cancelled = true;
	if (r->delegated || op->w.kind == PLOCK_TEST || p->phase == PLOCK_OUT) {
		plock_local_end(p, op, -EINTR);
	} else {
		struct plock_m m = {.type = PLOCK_CANCEL, .ino = op->ino, .op = op->w.op};
		plock_send(p, plock_master(p, op->ino), &m);
	}
	plock_leave(p);
}

/* ---- what masters say ---- */

/* The lock is ours, but for what was given up meanwhile: the master may have decided that behind it. */
static void raised(struct plock *p, struct plock_res *r, const struct plock_op *op)
{
	plock_must(plock_table_set(&r->a.t, &op->w.p, true), "a lock that was granted");
	ts_list_for(n, &r->ops)
	{
		const struct plock_op *o = ts_list_entry(n, const struct plock_op, link);
		if (o->w.kind == PLOCK_LOWER && plock_same_owner(&o->w.p, &op->w.p))
			lower(r, o);
	}
}

void plock_on_done(struct plock *p, const struct plock_m *m)
{
	struct plock_res *r = plock_res_find(p, m->ino);
	struct plock_op *op = r ? plock_op_find(r, m->op) : NULL;
	if (!op)
		return; /* a test that was cancelled */
	if (op->w.kind == PLOCK_TEST)
		op->found = m->p;
	if (op->w.kind == PLOCK_RAISE && !m->result)
		raised(p, r, op);
	bool got = op->w.kind == PLOCK_RAISE && !m->result;
	struct plock_piece owner = op->w.p;
	end(p, op, m->result);
	if (got)
		plock_detect_owner(p, &owner);
	settle(p, r);
}

/* Everything without an answer was dropped by the master, or will be: it is decided here, in its order. */
void plock_on_delegate(struct plock *p, const struct plock_m *m)
{
	if (m->src != plock_master(p, m->ino) || plock_delegated(p, m->ino))
		return; /* not its to give; and what waits here already must not be queued again */
	struct plock_res *r = res_get(p, m->ino);
	if (!r)
		TS_PANIC("locks: no memory for a delegated inode");
	r->delegated = true;
	p->st.delegations++;
	ts_list_for_safe(n, tmp, &r->ops)
	{
		struct plock_op *op = ts_list_entry(n, struct plock_op, link);
		p->st.local_ops++;
		decide(p, r, op);
	}
	settle(p, r);
}

void plock_on_recall(struct plock *p, const struct plock_m *m)
{
	struct plock_res *r = plock_res_find(p, m->ino);
	if (!r || !r->delegated)
		return; /* it crossed our giving it back */
	struct plock_entry_msg *e = plock_xalloc(PLOCK_BATCH * sizeof *e, "a recall");
	uint32_t n = 0;
	for (uint32_t i = 0; i < r->a.t.n; i++) {
		plock_encode_lock(&e[n++], r->a.ino, &r->a.t.v[i]);
		if (n == PLOCK_BATCH) {
			send_state(p, r, e, n, false);
			n = 0;
		}
	}
	send_state(p, r, e, n, false);
	ts_free(e);
	r->delegated = false;
	ts_list_for(l, &r->ops)
	{
		struct plock_op *op = ts_list_entry(l, struct plock_op, link);
		ts_list_del(&op->w.link);
		send_op(p, op, PLOCK_MF_MOVED);
	}
	send_state(p, r, NULL, 0, true);
	settle(p, r);
}

/* ---- epochs ---- */

static int forget_epoch(struct ts_map_node *n, void *arg)
{
	struct plock *p = arg;
	struct plock_res *r = TS_CONTAINER(n, struct plock_res, a.node);
	r->delegated = false;
	ts_list_for(l, &r->ops) ts_list_del(&ts_list_entry(l, struct plock_op, link)->w.link);
	settle(p, r);
	return 0;
}
void plock_res_forget_epoch(struct plock *p)
{
	ts_map_each(&p->res, forget_epoch, p);
}

/* Asked again, oldest first. Who does not want it any more gets his answer here: no master of this epoch
 * knows it. */
void plock_res_resend(struct plock *p)
{
	ts_list_for_safe(n, tmp, &p->all)
	{
		struct plock_op *op = ts_list_entry(n, struct plock_op, all);
		struct plock_res *r = op->res;
		if (op->cancelled) {
			end(p, op, -EINTR);
			settle(p, r);
		} else {
			op->w.probe_node = 0;
			send_op(p, op, 0);
		}
	}
}

/* ---- looking ---- */

enum plock_type plock_held(const struct plock *p, uint64_t ino, const struct plock_piece *key)
{
	const struct plock_res *r = plock_res_find(p, ino);
	struct plock_piece k = *key;
	k.node = (uint16_t)p->self;
	return r ? plock_table_held(&r->a.t, &k) : PLOCK_UN;
}

const struct plock_piece *plock_of_handle(const struct plock *p, uint64_t ino, uint64_t handle)
{
	const struct plock_res *r = plock_res_find(p, ino);
	for (uint32_t i = 0; r && i < r->a.t.n; i++)
		if (r->a.t.v[i].handle == handle)
			return &r->a.t.v[i];
	return NULL;
}

bool plock_delegated(const struct plock *p, uint64_t ino)
{
	const struct plock_res *r = plock_res_find(p, ino);
	return r && r->delegated;
}
