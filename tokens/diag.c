/* SPDX-License-Identifier: Apache-2.0 */
/* Names, and every token seen from here, for `tessera diag`. Must never happen: looking changes anything. */
#include "tokens/tokens_int.h"

static const char *const kinds[TOK_KINDS] = {
	[TOK_NONE] = "none",	   [TOK_FS] = "fs",	    [TOK_RENAME] = "rename", [TOK_SLOT] = "slot",
	[TOK_OPEN] = "open",	   [TOK_DIR] = "dir",	    [TOK_DATA] = "data",     [TOK_INODE] = "inode",
	[TOK_SEGMENT] = "segment", [TOK_SEGTAB] = "segtab", [TOK_REGION] = "region",
};
#define WAIT(k, n) [k] = {"token " n " NL", "token " n " SH", "token " n " SW", "token " n " EX"}
static const char *const waits[TOK_KINDS][4] = {
	WAIT(TOK_NONE, "none"),	    WAIT(TOK_FS, "fs"),		WAIT(TOK_RENAME, "rename"),
	WAIT(TOK_SLOT, "slot"),	    WAIT(TOK_OPEN, "open"),	WAIT(TOK_DIR, "dir"),
	WAIT(TOK_DATA, "data"),	    WAIT(TOK_INODE, "inode"),	WAIT(TOK_SEGMENT, "segment"),
	WAIT(TOK_SEGTAB, "segtab"), WAIT(TOK_REGION, "region"),
};

const char *tok_kind_name(enum tok_kind k)
{
	return (unsigned)k < TOK_KINDS ? kinds[k] : "?";
}
const char *tok_mode_name(enum tok_mode m)
{
	return dlm_mode_name((enum dlm_mode)m);
}
const char *tok_wait_name(enum tok_kind k, enum tok_mode m)
{
	return (unsigned)k < TOK_KINDS && (unsigned)m < 4 ? waits[k][m] : "token";
}

struct each {
	struct tok_mgr *m;
	void (*fn)(void *arg, const struct tok_info *i);
	void *arg;
};
static void one(void *arg, const struct dlm_info *d)
{
	struct each *e = arg;
	struct tok_info i = {.mastered = d->mastered,
			     .kind = (enum tok_kind)d->key.kind,
			     .id = d->key.id,
			     .start = d->piece.start,
			     .end = d->piece.end,
			     .node = d->piece.node,
			     .mode = (enum tok_mode)d->piece.mode,
			     .waiting = d->waiting,
			     .revoking = d->revoking,
			     .since_ns = d->since_ns};
	const struct tok *t = d->mastered ? NULL : tok_find(e->m, i.kind, i.id);
	if (t) {
		i.pins = t->nsh + t->nex;
		i.since_ns = t->granted_ns;
		i.revoking = t->revoke_begun;
	}
	e->fn(e->arg, &i);
}
void tok_each(struct tok_mgr *m, void (*fn)(void *arg, const struct tok_info *i), void *arg)
{
	struct each e = {.m = m, .fn = fn, .arg = arg};
	dlm_each(m->dlm, one, &e);
}
