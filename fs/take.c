/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the pins of one operation, taken in ascending (kind, id), and the loop that starts it again.
 * Must never happen: a wait for a token below one that is held; a pin left behind; a retry without end. */
#include "fs/take.h"

/* Somebody else changed the names at each of so many looks: then the caller hears -EBUSY. */
#define TAKE_TRIES   200
#define TAKE_REFILLS 50

void fs_take_init(struct fs_take *t, struct fs *fs, bool nowait)
{
	t->fs = fs;
	t->flags = nowait ? TOK_NOWAIT : 0;
	t->n = t->held = 0;
}

/* Place of (kind, id), or where it would go. */
static unsigned take_find(const struct fs_take *t, enum tok_kind kind, uint64_t id, bool *there)
{
	unsigned i = 0;

	while (i < t->n && (t->want[i].kind < kind || (t->want[i].kind == kind && t->want[i].id < id)))
		i++;
	*there = i < t->n && t->want[i].kind == kind && t->want[i].id == id;
	return i;
}

static void take_put(struct fs_take *t, unsigned i, enum tok_kind kind, uint64_t id, enum tok_mode mode)
{
	TS_ASSERT(t->n < FS_TAKE_MAX);
	memmove(&t->want[i + 1], &t->want[i], (t->n - i) * sizeof(t->want[0]));
	t->want[i] = (struct fs_want){.kind = kind, .id = id, .mode = mode};
	t->n++;
}

void fs_take_add(struct fs_take *t, enum tok_kind kind, uint64_t id, enum tok_mode mode)
{
	bool there;
	unsigned i = take_find(t, kind, id, &there);

	TS_ASSERT(i >= t->held);
	if (!there)
		take_put(t, i, kind, id, mode);
	else if (mode > t->want[i].mode)
		t->want[i].mode = mode;
}

int fs_take_upto(struct fs_take *t, enum tok_kind upto)
{
	while (t->held < t->n && t->want[t->held].kind <= upto) {
		struct fs_want *w = &t->want[t->held];
		/* A change of size keeps the kernel from sending dirty mapped pages, which a revoke may wait for: it goes first. */
		unsigned late = w->kind == TOK_DATA && w->mode == TOK_EX ? TOK_LATE : 0;
		int rc = tok_pin(t->fs->tok, w->kind, w->id, w->mode, 0, TOK_END, t->flags | late, &w->pin);

		if (rc) {
			fs_take_drop(t);
			return rc;
		}
		t->held++;
	}
	return 0;
}

int fs_take_all(struct fs_take *t)
{
	return fs_take_upto(t, TOK_KINDS);
}

int fs_take_more(struct fs_take *t, enum tok_kind kind, uint64_t id, enum tok_mode mode)
{
	bool there;
	unsigned i = take_find(t, kind, id, &there);
	int rc;

	TS_ASSERT(t->held == t->n);
	if (there && t->want[i].mode >= mode)
		return 0;
	if (there) { /* SH cannot become EX while others may want the same */
		fs_take_drop(t);
		t->want[i].mode = mode;
		return -TS_ERR_RETRY;
	}
	if (t->n == FS_TAKE_MAX) { /* things learnt in earlier rounds fill the set: start anew */
		fs_take_drop(t);
		t->n = 0;
		return -TS_ERR_RETRY;
	}
	take_put(t, i, kind, id, mode);
	/* Behind all others it may be waited for; before one of them only what is free at once is taken. */
	rc = tok_pin(t->fs->tok, kind, id, mode, 0, TOK_END, i == t->n - 1 ? t->flags : t->flags | TOK_TRY, &t->want[i].pin);
	if (!rc) {
		t->held++;
		return 0;
	}
	t->want[i].pin = (struct tok_pin){0};
	t->held = t->n; /* the empty pin among them is harmless */
	fs_take_drop(t);
	return rc == -TS_ERR_WOULD_WAIT && i < t->n - 1 ? -TS_ERR_RETRY : rc;
}

struct tok_pin fs_take_keep(struct fs_take *t, enum tok_kind kind, uint64_t id)
{
	struct tok_pin pin;
	bool there;
	unsigned i = take_find(t, kind, id, &there);

	TS_ASSERT(there && i < t->held);
	pin = t->want[i].pin;
	t->n--;
	t->held--;
	memmove(&t->want[i], &t->want[i + 1], (t->n - i) * sizeof(t->want[0]));
	return pin;
}

void fs_take_drop(struct fs_take *t)
{
	while (t->held)
		tok_unpin(t->fs->tok, &t->want[--t->held].pin);
}

int fs_take_run(struct fs *fs, bool nowait, fs_take_fn once, void *arg)
{
	unsigned tries = 0, refills = 0;
	struct fs_take t;
	int rc;

	fs_take_init(&t, fs, nowait);
	for (;;) {
		rc = once(&t, arg);
		fs_take_drop(&t);
		if (rc == -TS_ERR_RETRY) {
			if (++tries == TAKE_TRIES)
				return -EBUSY;
			if (t.n > FS_TAKE_MAX / 2)
				t.n = 0; /* mostly what was learnt and is no more */
			continue;
		}
		if (!fs_needs_space(rc) && rc != -FS_NEED_INODE && rc != -FS_NEED_META)
			return rc;
		if (nowait)
			return -TS_ERR_WOULD_WAIT; /* asking others for room takes time */
		if (++refills == TAKE_REFILLS)
			return -ENOSPC;
		rc = fs_alloc_refill(fs, -rc);
		if (rc)
			return rc;
	}
}
