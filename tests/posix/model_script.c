/* SPDX-License-Identifier: Apache-2.0 */
/* Job: operations as lines of text, and back. A line is complete in itself, so that any part of a script is a
 * script. What must never happen: a line that is read as another operation than the one that was printed. */
#include "model.h"

#include <string.h>

static const char *const names[MODEL_KINDS] = {
	[MODEL_OPEN] = "open",	       [MODEL_CLOSE] = "close",	  [MODEL_PWRITE] = "pwrite",
	[MODEL_APPEND] = "append",     [MODEL_READ] = "read",	  [MODEL_FTRUNC] = "ftruncate",
	[MODEL_TRUNC] = "truncate",    [MODEL_MAP] = "map",	  [MODEL_UNMAP] = "unmap",
	[MODEL_STORE] = "store",       [MODEL_LOAD] = "load",	  [MODEL_FSTAT] = "fstat",
	[MODEL_STAT] = "stat",	       [MODEL_LIST] = "list",	  [MODEL_HLIST] = "hlist",
	[MODEL_RENAME] = "rename",     [MODEL_LINK] = "link",	  [MODEL_UNLINK] = "unlink",
	[MODEL_MKDIR] = "mkdir",       [MODEL_RMDIR] = "rmdir",	  [MODEL_SYMLINK] = "symlink",
	[MODEL_READLINK] = "readlink", [MODEL_CHMOD] = "chmod",	  [MODEL_FCHMOD] = "fchmod",
	[MODEL_SETX] = "setxattr",     [MODEL_GETX] = "getxattr", [MODEL_RMX] = "removexattr",
	[MODEL_LISTX] = "listxattr",   [MODEL_FSYNC] = "fsync",	  [MODEL_LOCK] = "lock",
	[MODEL_FLOCK] = "flock",
};

const char *model_kind_name(unsigned kind)
{
	return kind < MODEL_KINDS ? names[kind] : "?";
}

void model_script_head(FILE *f)
{
	fputs("# number operation mount slot flags(octal) a b salt path second\n", f);
}

void model_script_print(FILE *f, const struct model_op *op)
{
	fprintf(f, "%llu %s %u %u %o %llu %llu %u %s %s\n", (unsigned long long)op->no,
		model_kind_name(op->kind), op->mount, op->slot, op->flags, (unsigned long long)op->a,
		(unsigned long long)op->b, op->salt, op->p[0] ? op->p : "-", op->q[0] ? op->q : "-");
}

bool model_script_parse(const char *line, struct model_op *op)
{
	char kind[16], p[MODEL_PATH], q[MODEL_PATH];
	unsigned mount, slot, flags, salt;
	unsigned long long no, a, b;

	_Static_assert(MODEL_PATH == 96, "widths below");
	memset(op, 0, sizeof(*op));
	if (sscanf(line, "%llu %15s %u %u %o %llu %llu %u %95s %95s", &no, kind, &mount, &slot, &flags, &a,
		   &b, &salt, p, q) != 10)
		return false;
	while (op->kind < MODEL_KINDS && strcmp(kind, names[op->kind]) != 0)
		op->kind++;
	if (op->kind == MODEL_KINDS || mount >= MODEL_MOUNTS || slot >= MODEL_SLOTS)
		return false;
	op->no = no;
	op->mount = (uint8_t)mount;
	op->slot = (uint8_t)slot;
	op->flags = flags;
	op->a = a;
	op->b = b;
	op->salt = salt;
	if (strcmp(p, "-") != 0)
		memcpy(op->p, p, sizeof(p));
	if (strcmp(q, "-") != 0)
		memcpy(op->q, q, sizeof(q));
	return true;
}
