/* SPDX-License-Identifier: Apache-2.0 */
/* Answers as tables for people. Columns come from a table per verb; what is not listed is printed as name: value lines. */
#include "admin/verbs.h"
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

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
	{"pool list", {{"name", "NAME", 16}, {"pool", "POOL", 16}, {"disks", "DISKS", 5}, {"size_bytes", "BYTES", 15}, {"used_bytes", "USED", 15}, {"free_bytes", "FREE", 15}, {"used_percent", "%", 3}}},
	{"node list", {{"node", "NODE", 5}, {"state", "STATE", 17}, {"machine_up", "MACHINE", 7}, {"addr", "ADDRESS", 16}, {"incarnation", "INCARNATION", 20}, {"mounted", "MOUNTED", 20}, {"to_recover", "TO RECOVER", 14}, {"power_switch", "SWITCH", 6}}},
	{"fs df", {{"name", "NAME", 16}, {"size_bytes", "BYTES", 15}, {"used_bytes", "USED", 15}, {"free_bytes", "FREE", 15}, {"used_percent", "%", 3}, {"inodes", "INODES", 11}, {"inodes_free", "FREE", 11}, {"inodes_used_percent", "%", 3}, {"age_ms", "AGE MS", 6}, {"dir", "MOUNTED AT", 0}}},
	{"cluster status", {{"node", "NODE", 4}, {"state", "STATE", 18}, {"version", "VERSION", 8}, {"uptime_ms", "UP MS", 10}, {"lease_left_ms", "LEASE", 5}, {"critical", "CRIT", 4}, {"errors", "ERR", 4}, {"warnings", "WARN", 4}, {"clock_ms", "CLOCK", 6}, {"took_ms", "MS", 4}, {"mounts", "MOUNTS", 0}}},
	{"config list", {{"key", "KEY", 17}, {"value", "VALUE", 44}, {"live", "LIVE", 4}, {"default", "DEFAULT", 16}, {"unit", "UNIT", 0}}},
	{"diag iohist", {{"object", "OBJECT", 44}, {"what", "WHAT", 16}, {"count", "COUNT", 10}, {"mean_us", "MEAN US", 8}, {"p50_us", "50 %", 8}, {"p99_us", "99 %", 8}, {"max_us", "MAX", 9}}},
	{"diag net", {{"node", "NODE", 4}, {"addr", "ADDRESS", 16}, {"port", "PORT", 5}, {"connected", "CONNECTED", 9}, {"connected_ms", "SINCE MS", 10}, {"attempts", "TRIES", 5}, {"unacknowledged", "UNACKED", 7}, {"queued", "QUEUED", 7}, {"misses", "MISSES", 6}}},
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

/* ---- colours: on a terminal only, and not where NO_COLOR is set ------------------------------------------------------------- */

static const char *colour(const char *code)
{
	static int on = -1;
	if (on < 0)
		on = isatty(1) && !getenv("NO_COLOR");
	return on ? code : "";
}
#define BOLD  colour("\033[1m")
#define PLAIN colour("\033[0m")

static const char *colour_of(const char *word)
{
	static const char *const words[][2] = {
		{"warn", "\033[33m"}, {"fail", "\033[31m"}, {"critical", "\033[1;31m"}, {"error", "\033[31m"}, {"warning", "\033[33m"}, {"ok", "\033[32m"}, {"ready", "\033[32m"}, {"member", "\033[32m"},
		{"does not answer", "\033[31m"}, {"failed", "\033[31m"}, {"dead, to recover", "\033[31m"}, {"no daemon", "\033[33m"}, {"excluded", "\033[1;31m"},
	};
	for (size_t i = 0; word && i < TS_ARRAY_LEN(words); i++)
		if (!strcmp(words[i][0], word))
			return colour(words[i][1]);
	return "";
}

void cli_heading(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	printf("%s", BOLD);
	vprintf(fmt, ap);
	printf("%s\n", PLAIN);
	va_end(ap);
}

static void table(const struct layout *l, json_t *rows)
{
	char buf[512];
	printf("%s", BOLD);
	for (const struct column *c = l->cols; c->key; c++)
		printf("%-*s ", c->width, c->title);
	printf("%s\n", PLAIN);
	for (size_t i = 0; i < json_array_size(rows); i++) {
		for (const struct column *c = l->cols; c->key; c++) {
			value_text(json_object_get(json_array_get(rows, i), c->key), buf, sizeof(buf));
			const char *paint = colour_of(buf);
			printf("%s%-*s%s ", paint, c->width, buf, *paint ? PLAIN : "");
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

/* ---- verbs that are no table ------------------------------------------------------------------------------------------------ */

static const char *str(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}
static long long num(json_t *o, const char *key)
{
	return (long long)json_integer_value(json_object_get(o, key));
}

static const char *when(long long ms, char buf[32])
{
	time_t t = ms / 1000;
	struct tm tm;
	strftime(buf, 32, "%F %T", localtime_r(&t, &tm));
	return buf;
}

static const char *age(long long ms, char buf[32])
{
	if (ms < 10000)
		snprintf(buf, 32, "%.1f s", (double)ms / 1000);
	else if (ms < 600000)
		snprintf(buf, 32, "%lld s", ms / 1000);
	else if (ms < 36000000)
		snprintf(buf, 32, "%lld min", ms / 60000);
	else
		snprintf(buf, 32, "%lld h", ms / 3600000);
	return buf;
}

static void print_health(json_t *d)
{
	json_t *x;
	size_t i;
	char buf[32];
	printf("node %lld: %s, %s%s%s\n", num(d, "node"), str(d, "state"), colour_of(str(d, "worst")), str(d, "worst"), PLAIN);
	json_array_foreach(json_object_get(d, "conditions"), i, x) {
		printf("%s%-8s%s %s%s%s: %s, since %s\n", colour_of(str(x, "severity")), str(x, "severity"), PLAIN, BOLD, str(x, "condition"), PLAIN, str(x, "object"),
		       age(num(x, "age_ms"), buf));
		printf("         %s\n         means: %s\n         do: %s\n", str(x, "detail"), str(x, "meaning"), str(x, "todo"));
	}
}

int cli_health_status(json_t *data, bool of_nodes)
{
	static const struct {
		const char *word;
		int status;
	} rows[] = {{"warning", VERB_WARNING}, {"error", VERB_ERROR}, {"critical", VERB_CRITICAL}};
	json_t *x;
	size_t i;
	int worst = 0;
	json_array_foreach(of_nodes ? data : NULL, i, x)
		worst = TS_MAX(worst, cli_health_status(json_object_get(x, "data"), false));
	for (i = 0; i < TS_ARRAY_LEN(rows) && !of_nodes; i++)
		if (!strcmp(rows[i].word, str(data, "worst")))
			worst = rows[i].status;
	return worst;
}

void cli_event(json_t *e)
{
	char buf[32];
	printf("%s %s%-8s%s %-20s %-24s %s\n", when(num(e, "time_ms"), buf), colour_of(str(e, "severity")), str(e, "severity"), PLAIN, str(e, "event"), str(e, "object"),
	       str(e, "text"));
}

static void tree(json_t *v, int indent);
static void print_events(json_t *d)
{
	json_t *x;
	size_t i;
	if (num(d, "lost"))
		printf("(%lld older ones are gone)\n", num(d, "lost"));
	json_array_foreach(json_object_get(d, "events"), i, x)
		cli_event(x);
	if (json_object_get(d, "directory"))
		tree(d, 0);
}

static void print_waiters(json_t *rows)
{
	json_t *x;
	size_t i;
	char a[32];
	unsigned programs = 0, inside = 0;
	if (!json_array_size(rows))
		printf("nobody waits\n");
	json_array_foreach(rows, i, x) {
		if (json_object_get(x, "pid"))
			printf("%s%s by process %lld (user %lld) on inode %lld of %s%s: %s\n", BOLD, str(x, "who"), num(x, "pid"), num(x, "uid"), num(x, "ino"), str(x, "fs"), PLAIN,
			       age(num(x, "since_ms"), a));
		else
			continue;
		printf("    waits for %s (%lld, %lld)\n", str(x, "waits_for"), num(x, "object"), num(x, "detail"));
		if (*str(x, "because"))
			printf("    because   %s\n    next      %s\n", str(x, "because"), str(x, "next"));
		programs++;
	}
	if (!programs && json_array_size(rows))
		printf("no operation of a program waits\n");
	for (i = 0; i < json_array_size(rows); i++) {
		x = json_array_get(rows, i);
		if (!json_object_get(x, "pid"))
			printf("%s%s: %s (%s)", inside++ ? ", " : "inside: ", str(x, "who"), str(x, "waits_for"), age(num(x, "since_ms"), a));
	}
	printf("%s", inside ? "\n" : "");
}

static void print_leases(json_t *d)
{
	json_t *x;
	size_t i;
	if (json_object_get(d, "phase"))
		printf("%s%s%s: view %lld, %s; %lld daemons, %lld are needed, %lld may go\n", BOLD, json_is_true(json_object_get(d, "quorate")) ? "quorate" : "NOT QUORATE", PLAIN,
		       num(d, "view"), str(d, "phase"), num(d, "daemons"), num(d, "needed"), num(d, "may_lose"));
	else
		printf("this node %s; %lld ms of its lease are left, the newest renewal is %lld ms old\n",
		       json_is_true(json_object_get(d, "may_write")) ? "may write" : "MAY NOT WRITE", num(d, "left_ms"), num(d, "renewal_age_ms"));
	json_t *tie = json_object_get(d, "tiebreaker");
	if (tie && (*str(tie, "url") || json_is_true(json_object_get(d, "half"))))
		printf("  %s by %s; tiebreaker %s: %s%s%s\n", str(d, "state"), str(d, "by"), *str(tie, "url") ? str(tie, "url") : "none",
		       json_is_true(json_object_get(tie, "usable")) ? "usable" : "not usable", *str(tie, "last_bid") ? ", last bid: " : "", str(tie, "last_bid"));
	json_array_foreach(json_object_get(d, "missing"), i, x)
		printf("  node %-4lld is missing\n", (long long)json_integer_value(x));
	json_array_foreach(json_object_get(d, "members"), i, x)
		printf("  node %-4lld %-16s renewed %6lld ms ago, lease %s%s\n", num(x, "node"), str(x, "addr"), num(x, "renewal_age_ms"), str(x, "lease"),
		       json_is_true(json_object_get(x, "self")) ? " (this node)" : "");
	json_array_foreach(json_object_get(d, "dead"), i, x)
		printf("  dead: node %lld in %s, its lease may last %lld ms more\n", num(x, "node"), str(x, "fs"), num(x, "lease_left_ms"));
	json_array_foreach(json_object_get(d, "groups"), i, x) {
		char buf[512];
		value_text(json_object_get(x, "members"), buf, sizeof(buf));
		printf("  fs %s on nodes %s, %lld to recover\n", str(x, "fs"), buf, num(x, "to_recover"));
	}
}

static void print_messages(json_t *rows)
{
	static const char *const levels[] = {"", "", "", "ERROR", "WARN", "NOTICE", "INFO", "DEBUG"};
	json_t *x;
	size_t i;
	char buf[32];
	json_array_foreach(rows, i, x) {
		long long l = num(x, "level");
		printf("%s %s %s\n", when(num(x, "time_ms"), buf), l >= 0 && l < 8 ? levels[l] : "?", str(x, "text"));
	}
}

static void print_names(json_t *rows)
{
	json_t *x;
	size_t i;
	json_array_foreach(rows, i, x)
		printf("%s\n", json_string_value(x));
}

static void print_preflight(json_t *rows)
{
	json_t *x;
	size_t i;
	json_array_foreach(rows, i, x)
		printf("%s%-4s%s %-9s %s: %s%s%s\n", colour_of(str(x, "result")), str(x, "result"), PLAIN, str(x, "check"), str(x, "object"), str(x, "detail"),
		       *str(x, "remedy") ? "; " : "", str(x, "remedy"));
}

static void print_set(json_t *d)
{
	printf("%s = %s in %s; %s\n", str(d, "key"), str(d, "value"), str(d, "file"),
	       json_is_true(json_object_get(d, "restart_needed")) ? "in force after a restart of tesserad" : "in force now");
}

void cli_print(const struct verb *v, json_t *data)
{
	static const struct {
		const char *verb;
		void (*fn)(json_t *data);
	} own[] = {
		{"health", print_health},    {"events", print_events},	    {"diag waiters", print_waiters}, {"diag leases", print_leases},
		{"quorum status", print_leases}, {"diag messages", print_messages}, {"names", print_names},	     {"config set", print_set},
		{"preflight", print_preflight},
	};
	for (size_t i = 0; i < TS_ARRAY_LEN(own); i++)
		if (!strcmp(own[i].verb, v->name)) {
			own[i].fn(data);
			return;
		}
	const char *name = json_object_get(json_array_get(data, 0), "number") ? "disks of" : v->name; /* disk list NAME */
	for (size_t i = 0; i < TS_ARRAY_LEN(layouts); i++)
		if (!strcmp(layouts[i].verb, name) && json_is_array(data)) {
			table(&layouts[i], data);
			return;
		}
	tree(data, 0);
}
