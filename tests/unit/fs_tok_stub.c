/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a token manager for unit tests: this node is alone, so every token is granted; pins still exclude each other among
 * fibers as the real ones do. Must never happen: a pin lost (fsh_new looks at the count), or a conflict let through. */
#include "fs_harness.h"

struct tok {
	struct ts_map_node node;
	enum tok_kind kind;
	uint64_t id;
	enum tok_mode cached;
	bool revoking;
	struct ts_list pins;
	struct ts_cond cond;
};
struct pin {
	struct ts_list link;
	enum tok_mode mode;
	uint64_t start, end;
};
struct tok_mgr {
	struct tok_args args;
	struct ts_map toks;
	unsigned npins;
	bool failed;
};
static unsigned total_pins;

unsigned fs_tok_stub_pins(void)
{
	return total_pins;
}

struct tok_mgr *tok_mgr_new(const struct tok_args *a)
{
	struct tok_mgr *m = ts_xalloc(sizeof(*m));

	m->args = *a;
	ts_map_init(&m->toks);
	return m;
}

static struct tok *find(struct tok_mgr *m, enum tok_kind kind, uint64_t id)
{
	for (struct ts_map_node *n = ts_map_first(&m->toks, ts_hash_2(kind, id)); n; n = ts_map_next(n)) {
		struct tok *t = TS_CONTAINER(n, struct tok, node);

		if (t->kind == kind && t->id == id)
			return t;
	}
	return NULL;
}

static struct tok *get(struct tok_mgr *m, enum tok_kind kind, uint64_t id)
{
	struct tok *t = find(m, kind, id);

	if (t)
		return t;
	t = ts_xalloc(sizeof(*t));
	t->kind = kind;
	t->id = id;
	ts_list_init(&t->pins);
	ts_cond_init(&t->cond);
	TS_ASSERT(ts_map_insert(&m->toks, &t->node, ts_hash_2(kind, id)) == 0);
	return t;
}

static bool conflict(const struct tok *t, enum tok_mode mode, uint64_t start, uint64_t end)
{
	ts_list_for(i, &t->pins) {
		struct pin *p = ts_list_entry(i, struct pin, link);

		if ((mode == TOK_EX || p->mode == TOK_EX) && p->start <= end && start <= p->end)
			return true;
	}
	return false;
}

int tok_pin(struct tok_mgr *m, enum tok_kind kind, uint64_t id, enum tok_mode mode, uint64_t start, uint64_t end, unsigned flags,
	    struct tok_pin *out)
{
	struct tok *t = get(m, kind, id);
	struct pin *p;

	mode = mode == TOK_SW ? TOK_EX : mode; /* alone */

	while (!m->failed && (t->revoking || conflict(t, mode, start, end))) {
		if (flags & (TOK_TRY | TOK_NOWAIT))
			return -TS_ERR_WOULD_WAIT;
		ts_cond_wait(&t->cond, "token", kind, id);
	}
	if (m->failed)
		return -TS_ERR_FENCED;
	p = ts_xalloc(sizeof(*p));
	*p = (struct pin){.mode = mode, .start = start, .end = end};
	ts_list_push_back(&t->pins, &p->link);
	t->cached = TS_MAX(t->cached, mode);
	m->npins++;
	total_pins++;
	*out = (struct tok_pin){.tok = t, .mode = mode, .start = start, .end = end};
	return 0;
}

void tok_unpin(struct tok_mgr *m, struct tok_pin *pin)
{
	struct tok *t = pin->tok;

	if (!t)
		return;
	ts_list_for(i, &t->pins) {
		struct pin *p = ts_list_entry(i, struct pin, link);

		if (p->mode != pin->mode || p->start != pin->start || p->end != pin->end)
			continue;
		ts_list_del(&p->link);
		ts_free(p);
		m->npins--;
		total_pins--;
		*pin = (struct tok_pin){0};
		ts_cond_broadcast(&t->cond);
		return;
	}
	TS_PANIC("unpin of what is not pinned: kind %d id %lu", t->kind, t->id);
}

static int revoke(struct tok_mgr *m, struct tok *t, enum tok_mode to)
{
	int rc = 0;

	if (m->args.events.pre_revoke)
		m->args.events.pre_revoke(m->args.events.arg, t->kind, t->id, to, 0, TOK_END);
	t->revoking = true;
	while (conflict(t, to == TOK_NL ? TOK_EX : TOK_SH, 0, TOK_END))
		ts_cond_wait(&t->cond, "revoke", t->kind, t->id);
	if (t->cached > to)
		rc = m->args.events.revoke(m->args.events.arg, t->kind, t->id, to, 0, TOK_END);
	t->revoking = false;
	if (!rc)
		t->cached = TS_MIN(t->cached, to);
	ts_cond_broadcast(&t->cond);
	return rc;
}

int fs_tok_stub_revoke(struct tok_mgr *m, enum tok_kind kind, uint64_t id, enum tok_mode to)
{
	return revoke(m, get(m, kind, id), to);
}

struct drain {
	struct tok *next;
};
static int pick_cached(struct ts_map_node *n, void *arg)
{
	struct tok *t = TS_CONTAINER(n, struct tok, node);

	if (t->cached == TOK_NL)
		return 0;
	((struct drain *)arg)->next = t;
	return 1;
}
int tok_mgr_drain(struct tok_mgr *m)
{
	struct drain d;

	TS_ASSERT(m->npins == 0);
	while (ts_map_each(&m->toks, pick_cached, &d)) {
		int rc = revoke(m, d.next, TOK_NL);

		if (rc)
			return rc;
	}
	return 0;
}

static int free_one(struct ts_map_node *n, void *arg)
{
	struct tok *t = TS_CONTAINER(n, struct tok, node);
	struct ts_list *i;

	while ((i = ts_list_pop_front(&t->pins))) {
		ts_free(ts_list_entry(i, struct pin, link));
		total_pins--;
	}
	ts_map_remove(arg, n);
	ts_free(t);
	return 0;
}
void tok_mgr_free(struct tok_mgr *m)
{
	if (!m)
		return;
	ts_map_each(&m->toks, free_one, &m->toks);
	ts_map_fini(&m->toks);
	ts_free(m);
}

static int wake(struct ts_map_node *n, void *arg)
{
	ts_cond_broadcast(&TS_CONTAINER(n, struct tok, node)->cond);
	return 0;
}
void tok_mgr_fail(struct tok_mgr *m)
{
	if (m->failed)
		return;
	m->failed = true;
	ts_map_each(&m->toks, wake, NULL);
	if (m->args.events.lost)
		m->args.events.lost(m->args.events.arg);
}

void tok_mgr_view(struct tok_mgr *m, const struct quorum_group_view *v)
{
}
int tok_mgr_wait_ready(struct tok_mgr *m)
{
	return m->failed ? -TS_ERR_FENCED : 0;
}
bool tok_cached(struct tok_mgr *m, enum tok_kind kind, uint64_t id, enum tok_mode mode)
{
	struct tok *t = find(m, kind, id);

	return t && t->cached >= mode && !t->revoking;
}
void tok_drop_hint(struct tok_mgr *m, enum tok_kind kind, uint64_t id)
{
}
bool tok_wanted(struct tok_mgr *m, enum tok_kind kind, uint64_t id)
{
	return false;
}

bool tok_holds(struct tok_mgr *m, enum tok_kind kind, uint64_t id, enum tok_mode mode, uint64_t start, uint64_t end)
{
	struct tok *t = find(m, kind, id);

	return t && t->cached >= mode;
}
void tok_value_give(struct tok_mgr *m, enum tok_kind kind, uint64_t id, const struct tok_value *v)
{
}
bool tok_value_came(struct tok_mgr *m, enum tok_kind kind, uint64_t id)
{
	return false;
}
bool tok_value_take(struct tok_mgr *m, enum tok_kind kind, uint64_t id, struct tok_value *out)
{
	return false;
}
bool tok_value_kept(struct tok_mgr *m, enum tok_kind kind, uint64_t id, struct tok_value *out)
{
	return false;
}
bool tok_is_master(struct tok_mgr *m, enum tok_kind kind, uint64_t id)
{
	return true;
}
bool tok_revoke_pending(struct tok_mgr *m, enum tok_kind kind, uint64_t id)
{
	struct tok *t = find(m, kind, id);

	return t && t->revoking;
}
void tok_stats_get(struct tok_mgr *m, struct tok_stats *out)
{
	*out = (struct tok_stats){.held = m->toks.count, .pins = m->npins};
}

struct each {
	void (*fn)(void *arg, const struct tok_info *i);
	void *arg;
};
static int each_one(struct ts_map_node *n, void *arg)
{
	struct tok *t = TS_CONTAINER(n, struct tok, node);
	struct each *e = arg;
	struct tok_info i = {.kind = t->kind, .id = t->id, .end = TOK_END, .mode = t->cached};

	if (t->cached != TOK_NL)
		e->fn(e->arg, &i);
	return 0;
}
void tok_each(struct tok_mgr *m, void (*fn)(void *arg, const struct tok_info *i), void *arg)
{
	struct each e = {fn, arg};

	ts_map_each(&m->toks, each_one, &e);
}
/* Locks have tests of their own: here nobody is ever in the way. */
int tok_lock_set(struct tok_mgr *m, const struct tok_lock *l, const struct tok_lock_waiter *w)
{
	return 0;
}
int tok_lock_get(struct tok_mgr *m, struct tok_lock *l, const struct tok_lock_waiter *w)
{
	l->type = TOK_LOCK_NONE;
	return 0;
}
int tok_lock_close(struct tok_mgr *m, uint64_t ino, uint64_t owner)
{
	return 0;
}
void tok_lock_release(struct tok_mgr *m, uint64_t ino, uint64_t handle)
{
}
void tok_lock_interrupt(struct tok_mgr *m)
{
}

const char *tok_kind_name(enum tok_kind k)
{
	static const char *const names[TOK_KINDS] = {"none", "fs",	"rename",  "slot",   "open", "dir",
						     "data", "inode", "segment", "segtab", "region"};

	return k < TOK_KINDS ? names[k] : "?";
}
const char *tok_mode_name(enum tok_mode mode)
{
	static const char *const names[] = {"NL", "SH", "SW", "EX"};

	return mode <= TOK_EX ? names[mode] : "?";
}

unsigned tok_ahead(struct tok_mgr *m, enum tok_kind kind, enum tok_mode mode, const uint64_t *ids, unsigned n)
{
	return 0;
}
