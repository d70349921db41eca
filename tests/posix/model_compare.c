/* SPDX-License-Identifier: Apache-2.0 */
/* Job: is the answer what the model wants? Inode numbers and times are not known beforehand: the first answer
 * is learned, and every later one, through whichever mount, must say the same until something changes them.
 * What must never happen: a part of an answer that nobody compares. */
#include "model.h"

#include <stdlib.h>
#include <string.h>

void model_answer_reset(struct model_answer *a)
{
	char *bytes = a->bytes;
	size_t cap = a->cap;

	*a = (struct model_answer){.bytes = bytes, .cap = cap};
}

void model_answer_free(struct model_answer *a)
{
	free(a->bytes);
	*a = (struct model_answer){0};
}

char *model_answer_bytes(struct model_answer *a, size_t len)
{
	if (len + 1 > a->cap) {
		char *p = realloc(a->bytes, len * 2 + 64);
		if (!p)
			abort();
		a->bytes = p;
		a->cap = len * 2 + 64;
	}
	a->len = len;
	return a->bytes;
}

static const char *error_name(int err)
{
	if (err == MODEL_SIGBUS)
		return "SIGBUS";
	if (err == MODEL_SHORT)
		return "a short transfer";
	return err ? strerrorname_np(err) : "success";
}

static const char *text_differs(const struct model_answer *want, const struct model_answer *got, char *text,
				size_t len)
{
	snprintf(text, len, "expected \"%.*s\", got \"%.*s\"", (int)want->len, want->bytes, (int)got->len,
		 got->bytes);
	for (char *c = text; *c; c++)
		if (*c == '\n')
			*c = ';';
	return "text";
}

static const char *bytes_differ(const struct model_answer *want, const struct model_answer *got, char *text,
				size_t len)
{
	size_t at = 0, n = 0;

	if (want->len != got->len) {
		snprintf(text, len, "expected %zu bytes, got %zu", want->len, got->len);
		return "length";
	}
	while (want->bytes[at] == got->bytes[at])
		at++;
	for (size_t k = at; k < want->len; k++)
		n += want->bytes[k] != got->bytes[k];
	snprintf(text, len, "byte %zu of the answer: expected %#x, got %#x; %zu of %zu differ", at,
		 (uint8_t)want->bytes[at], (uint8_t)got->bytes[at], n, want->len);
	return "content";
}

/* slack: nodes may say a time that is so much older, where something changed it. */
static const char *times(struct model_inode *i, int64_t slack, const struct model_answer *got, char *text, size_t len)
{
	if (got->mtime + slack < i->mtime || got->ctime + slack < i->ctime) {
		snprintf(text, len, "times went back: mtime by %lld ns, ctime by %lld ns",
			 (long long)(i->mtime - got->mtime), (long long)(i->ctime - got->ctime));
		return "time";
	}
	if (!i->touched && (got->mtime != i->mtime || got->ctime != i->ctime)) {
		snprintf(text, len,
			 "nothing changed it, but its times moved: mtime by %lld ns, ctime by %lld ns",
			 (long long)(got->mtime - i->mtime), (long long)(got->ctime - i->ctime));
		return "time";
	}
	i->mtime = got->mtime;
	i->ctime = got->ctime;
	i->touched = false;
	return NULL;
}

static const char *stat_differs(struct model *m, int subject, const struct model_answer *want,
				const struct model_answer *got, char *text, size_t len)
{
	struct model_inode *i = &m->i[subject];

	snprintf(text, len, "expected mode %o nlink %u size %llu, got mode %o nlink %u size %llu", want->mode,
		 want->nlink, (unsigned long long)want->size, got->mode, got->nlink,
		 (unsigned long long)got->size);
	if (want->mode != got->mode)
		return "mode";
	if (want->nlink != got->nlink)
		return "nlink";
	if (want->size != got->size && !S_ISDIR(want->mode))
		return "size";
	if (!i->ino)
		i->ino = got->ino;
	snprintf(text, len, "expected inode %llu, got %llu", (unsigned long long)i->ino,
		 (unsigned long long)got->ino);
	if (i->ino != got->ino)
		return "inode";
	return times(i, m->clocks_ns, got, text, len);
}

const char *model_compare(struct model *m, const struct model_op *op, int subject,
			  const struct model_answer *want, const struct model_answer *got, char *text,
			  size_t len)
{
	if (want->err != got->err) {
		snprintf(text, len, "expected %s, got %s", error_name(want->err), error_name(got->err));
		return "error";
	}
	if (want->has_stat)
		return stat_differs(m, subject, want, got, text, len);
	if (want->len == got->len && (!want->len || !memcmp(want->bytes, got->bytes, want->len)))
		return NULL;
	bool is_text = op->kind == MODEL_LIST || op->kind == MODEL_HLIST || op->kind == MODEL_READLINK ||
		       op->kind == MODEL_LISTX;
	return is_text ? text_differs(want, got, text, len) : bytes_differ(want, got, text, len);
}
