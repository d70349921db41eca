/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a planted fault: some answers are replaced by an earlier answer to the same question, as a cache does
 * that nobody told to forget. Which ones depends only on the operation's number, so a shrunk script still has
 * them. What must never happen: without --plant, an answer that is not the mount's. */
#include "model.h"

#include <stdlib.h>
#include <string.h>

#define REMEMBERED 512

struct model_plant {
	uint64_t one_in, count;
	struct {
		char question[MODEL_PATH + 64];
		struct model_answer a;
	} r[REMEMBERED];
};

struct model_plant *model_plant_new(uint64_t one_in)
{
	struct model_plant *p = one_in ? calloc(1, sizeof(*p)) : NULL;

	if (p)
		p->one_in = one_in;
	return p;
}

void model_plant_free(struct model_plant *p)
{
	for (unsigned k = 0; p && k < REMEMBERED; k++)
		model_answer_free(&p->r[k].a);
	free(p);
}

uint64_t model_plant_count(const struct model_plant *p)
{
	return p ? p->count : 0;
}

static void keep(struct model_answer *to, const struct model_answer *from)
{
	model_answer_bytes(to, from->len);
	char *bytes = to->bytes;
	size_t cap = to->cap;

	*to = *from;
	to->bytes = bytes;
	to->cap = cap;
	if (from->len)
		memcpy(bytes, from->bytes, from->len);
}

static bool same(const struct model_answer *a, const struct model_answer *b)
{
	return a->err == b->err && a->mode == b->mode && a->nlink == b->nlink && a->size == b->size &&
	       a->ino == b->ino && a->mtime == b->mtime && a->len == b->len &&
	       (!a->len || !memcmp(a->bytes, b->bytes, a->len));
}

/* The question without its number; by inode where the question is about a handle, for slots are used again.
 */
static bool question(const struct model_op *op, int subject, char *text, size_t len)
{
	switch (op->kind) {
	case MODEL_STAT:
	case MODEL_LIST:
		snprintf(text, len, "%u %u %s", op->kind, op->flags, op->p);
		return true;
	case MODEL_FSTAT:
	case MODEL_HLIST:
		snprintf(text, len, "%u inode %d", op->kind, subject);
		return true;
	case MODEL_READ:
		snprintf(text, len, "%u inode %d %llu %llu", op->kind, subject, (unsigned long long)op->a,
			 (unsigned long long)op->b);
		return true;
	default:
		return false;
	}
}

void model_plant_answer(struct model_plant *p, const struct model_op *op, int subject,
			struct model_answer *got)
{
	char text[MODEL_PATH + 64];

	if (!p || !question(op, subject, text, sizeof(text)))
		return;
	uint64_t h = 0, dice = model_hash(op->no);
	for (const char *c = text; *c; c++)
		h = model_hash(h + (uint8_t)*c);
	unsigned k = (unsigned)(h % REMEMBERED);
	bool known = !strcmp(p->r[k].question, text);
	if (known && dice % p->one_in == 0 && !same(&p->r[k].a, got)) {
		keep(got, &p->r[k].a);
		p->count++;
	} else if (!known || (dice >> 32) % 4 == 0) {
		snprintf(p->r[k].question, sizeof(p->r[k].question), "%s", text);
		keep(&p->r[k].a, got);
	}
}
