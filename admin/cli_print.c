/* SPDX-License-Identifier: Apache-2.0 */
/* Answers as tables for people. Columns come from a table per verb; what is not listed is printed as name: value lines. */
#include "admin/verbs.h"
#include <stdio.h>

struct column {
	const char *key, *title;
	int width;
};
struct layout {
	const char *verb;
	struct column cols[13]; /* ended by a column without a key */
};

static const struct layout layouts[] = {
	{"fs list", {{"name", "NAME", 20}, {"disks_found", "FOUND", 5}, {"disks", "DISKS", 5}, {"size_bytes", "BYTES", 16}, {"mounted_on", "MOUNTED ON", 16}, {"pending_recovery", "TO RECOVER", 10}}},
	{"disk list", {{"url", "DISK", 56}, {"state", "STATE", 8}, {"label", "LABEL", 8}, {"contents", "CONTENTS", 20}, {"size_bytes", "BYTES", 16}, {"fencing", "FENCING", 13}, {"error", "ERROR", 0}}},
	{"disks of", {{"number", "DISK", 4}, {"url", "PLACE", 56}, {"state", "STATE", 8}, {"usage", "USAGE", 13}, {"pool", "POOL", 8}, {"failure_group", "GROUP", 5}, {"size_bytes", "BYTES", 16}, {"used_bytes", "DATA", 16}, {"metadata_bytes", "METADATA", 14}, {"used_permille", "PERMILLE", 8}}},
	{"node list", {{"node", "NODE", 5}, {"state", "STATE", 17}, {"machine_up", "MACHINE", 7}, {"addr", "ADDRESS", 16}, {"incarnation", "INCARNATION", 20}, {"mounted", "MOUNTED", 20}, {"to_recover", "TO RECOVER", 14}, {"power_switch", "SWITCH", 6}}},
	{"diag waiters", {{"who", "WHO", 16}, {"waits_for", "WAITS FOR", 36}, {"object", "OBJECT", 16}, {"detail", "DETAIL", 12}, {"since_ms", "MS", 8}}},
	{"diag fault", {{"point", "POINT", 28}, {"action", "ACTION", 6}, {"ino", "INODE", 14}, {"ms", "MS", 5}, {"passed", "PASSED", 7}, {"caught", "CAUGHT", 7}, {"waiting", "WAITING", 7}, {"timed_out", "TIMED OUT", 9}}},
	{"diag locks", {{"fs", "FS", 12}, {"role", "ROLE", 7}, {"id", "INODE", 14}, {"node", "NODE", 4}, {"pid", "PID", 8}, {"kind", "KIND", 6}, {"type", "TYPE", 5}, {"start", "FROM", 12}, {"end", "TO", 20}, {"waiting", "WAITS", 5}, {"master", "MASTER", 6}, {"since_ms", "MS", 8}}},
	{"diag tokens", {{"fs", "FS", 12}, {"role", "ROLE", 7}, {"kind", "KIND", 8}, {"id", "ID", 14}, {"node", "NODE", 4}, {"mode", "MODE", 4}, {"pins", "PINS", 4}, {"waiting", "WAITS", 5}, {"since_ms", "MS", 8}}},
};

static void value_text(json_t *v, char *buf, size_t n)
{
	buf[0] = 0;
	if (json_is_string(v))
		snprintf(buf, n, "%s", json_string_value(v));
	else if (json_is_integer(v))
		snprintf(buf, n, "%lld", (long long)json_integer_value(v));
	else if (json_is_boolean(v))
		snprintf(buf, n, "%s", json_is_true(v) ? "yes" : "no");
	else if (json_is_array(v) && json_array_size(v) == 0)
		snprintf(buf, n, "-");
	else if (json_is_array(v) || json_is_object(v)) {
		char *s = json_dumps(v, JSON_COMPACT);
		snprintf(buf, n, "%s", s ? s : "");
		free(s);
	}
}

static void table(const struct layout *l, json_t *rows)
{
	char buf[512];
	for (const struct column *c = l->cols; c->key; c++)
		printf("%-*s ", c->width, c->title);
	putchar('\n');
	for (size_t i = 0; i < json_array_size(rows); i++) {
		for (const struct column *c = l->cols; c->key; c++) {
			value_text(json_object_get(json_array_get(rows, i), c->key), buf, sizeof(buf));
			printf("%-*s ", c->width, buf);
		}
		putchar('\n');
	}
}

static void tree(json_t *v, int indent)
{
	const char *key;
	json_t *x;
	size_t i;
	char buf[512];
	if (json_is_array(v)) {
		json_array_foreach(v, i, x) {
			printf("%*s-\n", indent, "");
			tree(x, indent + 2);
		}
		return;
	}
	if (!json_is_object(v)) {
		value_text(v, buf, sizeof(buf));
		printf("%*s%s\n", indent, "", buf);
		return;
	}
	json_object_foreach(v, key, x) {
		if ((json_is_object(x) || json_is_array(x)) && (json_is_object(x) ? json_object_size(x) : json_array_size(x))) {
			printf("%*s%s:\n", indent, "", key);
			tree(x, indent + 2);
			continue;
		}
		value_text(x, buf, sizeof(buf));
		printf("%*s%-18s %s\n", indent, "", key, buf);
	}
}

void cli_print(const struct verb *v, json_t *data)
{
	const char *name = json_object_get(json_array_get(data, 0), "number") ? "disks of" : v->name; /* disk list NAME */
	for (size_t i = 0; i < TS_ARRAY_LEN(layouts); i++)
		if (!strcmp(layouts[i].verb, name) && json_is_array(data)) {
			table(&layouts[i], data);
			return;
		}
	tree(data, 0);
}
