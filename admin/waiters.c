/* SPDX-License-Identifier: Apache-2.0 */
/* `diag waiters`: who waits for what, since when, because of whom, and what happens next. Requests of the kernel come first, the longest
 * wait on top; for those that wait for a token the master is asked who holds it, and the holder whether it lives: a second at most,
 * for the first few. Must never happen: a row left out because somebody does not answer. */
#include "admin/daemon.h"
#include <stdio.h>

#define ASK_NS	   (150 * TS_NS_PER_MS)
#define EXPLAIN_NS (150 * TS_NS_PER_MS) /* no further wait is explained then */
#define EXPLAINED  6	  /* waits that others are asked about */
#define OLD_MS	   100	  /* younger waits are over before they are explained */
#define HOLDERS	   8

struct waiter {
	json_t *row;
	struct mount *m; /* of a request: good until something waits */
	char fs[64];
	enum tok_kind kind;
	uint64_t id, ms;
	unsigned master;
};
struct waiters {
	struct daemon *d;
	struct waiter v[512];
	unsigned n, left_out;
	uint64_t now;
	struct mount *m;
};

/* "token inode EX": which kind, or TOK_NONE. */
static enum tok_kind kind_of(const char *what)
{
	if (!what || strncmp(what, "token ", 6))
		return TOK_NONE;
	for (unsigned k = 1; k < TOK_KINDS; k++) {
		const char *n = tok_kind_name((enum tok_kind)k);
		size_t len = strlen(n);
		if (!strncmp(what + 6, n, len) && what[6 + len] == ' ')
			return (enum tok_kind)k;
	}
	return TOK_NONE;
}

static struct waiter *add(struct waiters *w, json_t *row, uint64_t ms)
{
	if (w->n == TS_ARRAY_LEN(w->v)) {
		w->left_out++;
		json_decref(row);
		return NULL;
	}
	struct waiter *x = &w->v[w->n++];
	*x = (struct waiter){.row = row, .ms = ms, .m = w->m};
	if (w->m)
		memcpy(x->fs, w->m->name, sizeof(x->fs));
	return x;
}

static uint64_t age(const struct waiters *w, uint64_t since)
{
	return since && w->now > since ? (w->now - since) / TS_NS_PER_MS : 0;
}

static void one_request(void *arg, const struct tfuse_request *r)
{
	struct waiters *w = arg;
	if (!r->waits_for)
		return;
	struct waiter *x = add(w, json_pack("{s:s,s:s,s:I,s:I,s:I,s:s,s:I,s:I,s:I,s:I}", "who", r->op ? r->op : "?", "waits_for", r->waits_for, "object",
					    (json_int_t)r->a, "detail", (json_int_t)r->b, "since_ms", (json_int_t)age(w, r->begun_ns), "fs", w->m->name, "pid",
					    (json_int_t)r->pid, "uid", (json_int_t)r->uid, "ino", (json_int_t)r->ino, "this_wait_ms", (json_int_t)age(w, r->since_ns)),
			       age(w, r->begun_ns));
	if (!x)
		return;
	x->kind = kind_of(r->waits_for);
	x->id = r->a;
	x->master = (unsigned)r->b;
}

/* Fibers that are always there and have nothing to do. */
static bool idle(const char *what)
{
	static const char *const words[] = {"events for hooks", "admin client", "events", "answers of other nodes", "recovery: nobody died", "log: nothing to do",
					     "dirty data to grow old", "sleep",
					     "iSCSI session is up", "dirty data (write-behind)", "inodes to be made ready", "freed space and orphans", "lazy inodes",
					     "shared files to be written down"};
	for (size_t i = 0; i < TS_ARRAY_LEN(words); i++)
		if (!strcmp(words[i], what))
			return true;
	return false;
}

static void one_fiber(void *arg, const char *name, const char *what, uint64_t a, uint64_t b, uint64_t since)
{
	struct waiters *w = arg;
	for (unsigned i = 0; i < w->n && !ts_list_empty(&w->d->mounts); i++) { /* a request that is there already */
		json_t *r = w->v[i].row;
		if (json_object_get(r, "pid") && (uint64_t)json_integer_value(json_object_get(r, "object")) == a &&
		    !strcmp(json_string_value(json_object_get(r, "who")), name) && !strcmp(json_string_value(json_object_get(r, "waits_for")), what) &&
		    (uint64_t)json_integer_value(json_object_get(r, "this_wait_ms")) == age(w, since))
			return;
	}
	if (!idle(what) && strcmp(name, "ask a node")) /* for answers like this one */
		(void)add(w, json_pack("{s:s,s:s,s:I,s:I,s:I}", "who", name, "waits_for", what, "object", (json_int_t)a, "detail", (json_int_t)b, "since_ms",
				       (json_int_t)age(w, since)),
			  age(w, since));
}

static int by_age(const void *a, const void *b)
{
	const struct waiter *x = a, *y = b;
	bool rx = json_object_get(x->row, "pid") != NULL, ry = json_object_get(y->row, "pid") != NULL;
	if (rx != ry)
		return rx ? -1 : 1;
	return x->ms < y->ms ? 1 : x->ms > y->ms ? -1 : 0;
}

/* ---- why -------------------------------------------------------------------------------------------------------------------- */

struct holder {
	unsigned node;
	uint64_t revoking_ms;
	char mode[4];
};
struct why {
	struct holder v[HOLDERS];
	unsigned n;
	bool master_silent;
};

static void because(struct waiter *x, const char *text, const char *next)
{
	json_object_set_new(x->row, "because", json_string(text));
	json_object_set_new(x->row, "next", json_string(next));
}

/* Asks one node one question; NULL: no answer. */
static json_t *ask(struct daemon *d, unsigned node, const char *verb, json_t *pos, json_t *opt)
{
	json_t *list = route_ask(d, verb_by_name(verb), pos, opt, &node, 1, ASK_NS), *x = json_array_get(list, 0);
	json_t *data = json_is_true(json_object_get(x, "ok")) ? json_incref(json_object_get(x, "data")) : NULL;
	json_decref(list);
	return data;
}

static void holders(struct daemon *d, const struct waiter *x, struct why *y)
{
	json_t *pos = json_pack("[s]", x->fs), *opt = json_pack("{s:s,s:o,s:s}", "kind", tok_kind_name(x->kind), "id", json_sprintf("%llu", (unsigned long long)x->id), "limit", "64");
	json_t *data = ask(d, x->master, "diag tokens", pos, opt), *r;
	size_t i;
	y->master_silent = !data;
	json_array_foreach(data, i, r) {
		if (strcmp(json_string_value(json_object_get(r, "role")), "master") || json_is_true(json_object_get(r, "waiting")) || y->n == HOLDERS)
			continue;
		struct holder *h = &y->v[y->n++];
		h->node = (unsigned)json_integer_value(json_object_get(r, "node"));
		h->revoking_ms = json_is_true(json_object_get(r, "revoking")) ? (uint64_t)json_integer_value(json_object_get(r, "since_ms")) : 0;
		snprintf(h->mode, sizeof(h->mode), "%s", json_string_value(json_object_get(r, "mode")));
	}
	json_decref(data);
	json_decref(pos);
	json_decref(opt);
}

/* What a node that does not answer is in for. */
static void silent(struct daemon *d, unsigned node, char *next, size_t n)
{
	const struct quorum_member *m = node_member(d, node);
	uint64_t heard = m ? quorum_heard_ns(d->quorum, node, m->incarnation) : 0, now = ts_exec_now(d->exec);
	uint64_t limit = ((uint64_t)d->conf.lease_ms + conf_times(&d->conf).margin_ms), old = heard && now > heard ? (now - heard) / TS_NS_PER_MS : 0;
	if (!m)
		snprintf(next, n, "node %u is a member no more: its log is replayed, then this goes on; see `tessera diag recovery`", node);
	else if (old < d->conf.lease_ms / 2)
		snprintf(next, n, "node %u renews its lease (%llu ms ago) and yet does not answer: if that lasts, `tessera node fence %u`", node,
			 (unsigned long long)old, node);
	else
		snprintf(next, n, "node %u has not renewed its lease for %llu ms: in %llu ms it is put out and fenced, its log is replayed, then this goes on", node,
			 (unsigned long long)old, (unsigned long long)(old < limit ? limit - old : 0));
}

/* What the holder itself is waiting for on behalf of the token. */
static void busy_holder(struct daemon *d, unsigned node, const struct waiter *x, char *next, size_t n)
{
	json_t *pos = json_array(), *opt = json_pack("{s:b}", "plain", 1), *data = node == d->conf.node_id ? NULL : ask(d, node, "diag waiters", pos, opt), *r;
	size_t i;
	bool told = false;
	if (!data && node != d->conf.node_id)
		silent(d, node, next, n);
	else
		snprintf(next, n, "node %u gives it back when what was changed under it is on disk", node);
	json_array_foreach(data, i, r) {
		const char *who = json_string_value(json_object_get(r, "who")), *what = json_string_value(json_object_get(r, "waits_for"));
		if (told || !who || strcmp(who, "revoke") || !what)
			continue;
		snprintf(next, n, "node %u gives it back; it waits for %s (%lld ms): see `tessera --node %u diag waiters`", node, what,
			 (long long)json_integer_value(json_object_get(r, "since_ms")), node);
		told = true;
	}
	json_decref(data);
	json_decref(pos);
	json_decref(opt);
}

static bool recovering(struct daemon *d, struct waiter *x)
{
	struct mount *m = mount_find(d, x->fs);
	const struct quorum_group_view *g = m ? quorum_group_get(d->quorum, m->group) : NULL;
	struct fs_recovery_info i;
	char text[256], next[256];
	if (!m || !m->fs || !g || !g->npending)
		return false;
	fs_recovery_get(m->fs, &i);
	snprintf(text, sizeof(text), "node %u is dead, and what it held is not given out before its log is replayed", g->pending[0].node);
	snprintf(next, sizeof(next), "node %u recovers it (step %s, attempt %u), then this goes on; see `tessera diag recovery`", i.coordinator,
		 i.coordinator == d->conf.node_id ? fs_recovery_step_name(i.step) : "known there", i.attempts + 1);
	because(x, text, next);
	return true;
}

static void explain_token(struct daemon *d, struct waiter *x)
{
	struct why y = {.n = 0};
	char text[256], next[288];
	json_t *list = json_array();
	if (!x->master)
		because(x, "no node decides about it: there is no quorate view", "when there is one again, this goes on; see `tessera quorum status`");
	if (!x->master || recovering(d, x)) {
		json_decref(list);
		return;
	}
	holders(d, x, &y);
	struct holder *worst = y.n ? &y.v[0] : NULL;
	for (unsigned i = 0; i < y.n; i++) {
		json_array_append_new(list, json_pack("{s:i,s:s,s:I}", "node", (int)y.v[i].node, "mode", y.v[i].mode, "asked_ms", (json_int_t)y.v[i].revoking_ms));
		if (y.v[i].revoking_ms > worst->revoking_ms)
			worst = &y.v[i];
	}
	json_object_set_new(x->row, "holders", list);
	if (y.master_silent) {
		snprintf(text, sizeof(text), "node %u, which decides about it, does not answer", x->master);
		silent(d, x->master, next, sizeof(next));
	} else if (!worst) {
		snprintf(text, sizeof(text), "node %u, which decides about it, is granting it", x->master);
		snprintf(next, sizeof(next), "the answer is on its way");
	} else {
		snprintf(text, sizeof(text), "node %u holds %s", worst->node, worst->mode);
		if (worst->revoking_ms)
			snprintf(text + strlen(text), sizeof(text) - strlen(text), " and was asked for it %llu ms ago", (unsigned long long)worst->revoking_ms);
		busy_holder(d, worst->node, x, next, sizeof(next));
	}
	because(x, text, next);
}

/* Waits that explain themselves. */
static void explain_plain(struct daemon *d, struct waiter *x)
{
	static const struct {
		const char *begins, *because, *next;
	} rows[] = {
		{"suspended", "this node has no quorum or no lease", "when it has, this goes on; see `tessera quorum status` and `tessera diag leases`"},
		{"disk ", "the disk has not answered", "it answers, or the request fails 30 s after it was sent; see `tessera diag iohist`"},
		{"log ", "the node's log is being written", "when the disk answers, this goes on"},
		{"tokens of the group ready", "the members of the file system have changed", "when what the dead held is recovered, this goes on; see `tessera diag recovery`"},
		{"plock", "a lock of another program", "when it lets go; see `tessera diag locks`"},
		{"lock", "a lock of another program", "when it lets go; see `tessera diag locks`"},
		{"room in the page pool", "more was written than is on disk yet", "when the disks have taken some of it, this goes on; see `tessera diag iohist`"},
		{"data to be written", "the disk has not taken what was written", "when it has, this goes on; see `tessera diag iohist`"},
		{"home writes", "the disk has not taken what the log holds", "when it has, this goes on; see `tessera diag iohist`"},
	};
	const char *what = json_string_value(json_object_get(x->row, "waits_for"));
	for (size_t i = 0; i < TS_ARRAY_LEN(rows); i++)
		if (!strncmp(what, rows[i].begins, strlen(rows[i].begins))) {
			because(x, rows[i].because, rows[i].next);
			return;
		}
}

json_t *diag_waiters(struct daemon *d, bool plain)
{
	struct waiters *w = ts_alloc(sizeof(*w));
	json_t *a = json_array();
	unsigned explained = 0;
	uint64_t enough = ts_exec_now(d->exec) + EXPLAIN_NS;
	if (!w)
		return a;
	w->d = d;
	w->now = ts_exec_now(d->exec);
	ts_list_for(l, &d->mounts) {
		w->m = ts_list_entry(l, struct mount, link);
		if (w->m->tf)
			tfuse_each_request(w->m->tf, one_request, w);
	}
	w->m = NULL;
	ts_fiber_each_waiting(d->exec, one_fiber, w);
	qsort(w->v, w->n, sizeof(w->v[0]), by_age);
	for (unsigned i = 0; i < w->n; i++) { /* from here on mounts may go: only names are used */
		struct waiter *x = &w->v[i];
		x->m = NULL;
		if (plain || !x->fs[0])
			;
		else if (x->kind == TOK_NONE)
			explain_plain(d, x);
		else if (x->ms >= OLD_MS && explained++ < EXPLAINED && ts_exec_now(d->exec) < enough)
			explain_token(d, x);
		json_array_append_new(a, x->row);
	}
	ts_free(w);
	return a;
}
