/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a failing script made shorter: pieces are left out, halves first, single operations last, as long as
 * what is left fails in the same way (same kind of operation, same part of the answer). What must never
 * happen: it ends with a script that does not fail. */
#include "model.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static bool same_failure(const struct model_failure *a, const struct model_failure *b)
{
	return b->part && !strcmp(a->part, b->part) && a->kind == b->kind;
}

/* Leaves out [from, from + len) and tries; true: taken over, *n is the new length. */
static bool without(struct model_run *r, struct model_op *ops, size_t *n, size_t from, size_t len,
		    struct model_op *scratch, struct model_failure *f)
{
	struct model_failure now;
	size_t left = *n - len;

	memcpy(scratch, ops, from * sizeof(*ops));
	memcpy(scratch + from, ops + from + len, (*n - from - len) * sizeof(*ops));
	model_run_script(r, scratch, left, 0, &now);
	if (!same_failure(f, &now))
		return false;
	memcpy(ops, scratch, left * sizeof(*ops));
	*n = now.at && now.at < left ? now.at : left;
	*f = now;
	return true;
}

size_t model_shrink(struct model_run *r, struct model_op *ops, size_t n, struct model_failure *f,
		    unsigned seconds)
{
	struct model_op *scratch = malloc(n * sizeof(*ops));
	time_t end = time(NULL) + seconds;
	struct model_failure now;

	if (!scratch)
		abort();
	model_run_script(r, ops, n, 0, &now);
	if (!same_failure(f, &now)) {
		free(scratch);
		return 0;
	}
	for (size_t piece = (n + 1) / 2;; piece = (piece + 1) / 2) {
		bool shorter = false;
		for (size_t from = 0; from < n && time(NULL) < end;) {
			size_t len = piece < n - from ? piece : n - from;
			if (len < n && without(r, ops, &n, from, len, scratch, f))
				shorter = true;
			else
				from += len;
		}
		if (time(NULL) >= end || (piece == 1 && !shorter))
			break;
	}
	free(scratch);
	return n;
}
